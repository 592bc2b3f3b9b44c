"""A KV cache in pages: what a row holds lies wherever there is room, as a process's memory does.

Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention", arXiv:2309.06180,
sections 4.1 to 4.4.

    page    page_size tokens of G heads: k (G, page_size, D), v (G, page_size, Dv)
    table   of a row: the numbers of its pages. Position pos of the row stands in page table[pos // page_size], at
            pos % page_size
    holders how many rows have a page in their table

A row takes a page when it needs one, so at most the last page of each row is not full; a contiguous cache reserves its whole
capacity. `fork` copies a table and no token: both rows then hold the same pages, until one of them writes into a page that
the other still holds, and copies that one page first (copy on write). A page that nobody holds is free.
"""
import numpy as np

from ..attention import attention
from ..core.errors import CacheError, DtypeError, ShapeError
from ..core.shapes import count, floats, is_float, spell


class PagedCache:
    """Keys and values of many rows in pages of one store.

    Parameters
    ----------
    pages, page_size, kv_heads, head_dim : int
        How many pages there are, tokens in each, G, and D.
    dtype : dtype
    value_dim : int, optional
        Dv where it is not D.
    on_full : callable, optional
        `on_full(cache, needed)` is called when an append needs more pages than are free; it may `free` rows.

    Attributes
    ----------
    k, v : arrays, (pages, G, page_size, D) and (pages, G, page_size, Dv)
    free_pages : int
    nbytes : int

    References
    ----------
    Kwon et al. 2023, arXiv:2309.06180, sections 4.1 to 4.4.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 5, 4))          # H = G = 2, five tokens, D = 4
    >>> cache = ma.PagedCache(pages=6, page_size=2, kv_heads=2, head_dim=4, dtype=np.float64)
    >>> row = cache.new()
    >>> cache.append(row, k, v)
    >>> np.allclose(cache.attend(q, row, causal=True), ma.attention(q, k, v, causal=True))
    True
    >>> other = cache.fork(row)                                                   # shares all three pages
    >>> cache.free_pages, cache.table(row) == cache.table(other)
    (3, True)
    >>> cache.append(other, k[:, :1], v[:, :1])                                   # writes: its last page becomes its own
    >>> cache.free_pages, cache.table(row)[:2] == cache.table(other)[:2], cache.length(row), cache.length(other)
    (2, True, 5, 6)
    >>> cache.free(row)                                                           # the two shared pages live on
    >>> cache.free_pages
    3
    """

    def __init__(self, pages, page_size, kv_heads, head_dim, dtype=np.float32, *, value_dim=None, on_full=None):
        pages, self.page_size = count("pages", pages, 1), count("page_size", page_size, 1)
        kv_heads, head_dim = count("kv_heads", kv_heads, 1), count("head_dim", head_dim, 1)
        value_dim = head_dim if value_dim is None else count("value_dim", value_dim, 1)
        if not is_float(np.dtype(dtype)):
            raise DtypeError(f"dtype is {np.dtype(dtype)}; a cache holds float16, bfloat16, float32 or float64")
        self.k = np.zeros((pages, kv_heads, self.page_size, head_dim), dtype)
        self.v = np.zeros((pages, kv_heads, self.page_size, value_dim), dtype)
        self.on_full = on_full
        self._holders = np.zeros(pages, np.int64)
        self._unused = list(range(pages))[::-1]
        self._tables: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}
        self._next = 0

    @property
    def free_pages(self):
        """Pages that nobody holds."""
        return len(self._unused)

    @property
    def nbytes(self):
        """Bytes of all pages."""
        return self.k.nbytes + self.v.nbytes

    @property
    def rows(self):
        """The rows that there are, oldest first."""
        return tuple(self._tables)

    def table(self, row):
        """The pages of a row, in the order of its positions."""
        return tuple(self._tables[self._known(row)])

    def length(self, row):
        """Tokens of a row."""
        return self._lengths[self._known(row)]

    def new(self):
        """A row without tokens: a number that stands for it, used once."""
        row, self._next = self._next, self._next + 1
        self._tables[row], self._lengths[row] = [], 0
        return row

    def fork(self, row):
        """A new row that holds what `row` holds, without a copy."""
        table, length = self._tables[self._known(row)], self._lengths[row]
        other = self.new()
        self._tables[other], self._lengths[other] = list(table), length
        self._holders[table] += 1
        return other

    def free(self, row):
        """Forget a row; its pages that no other row holds are free."""
        table = self._tables.pop(self._known(row))
        del self._lengths[row]
        for page in table:
            self._let_go(page)

    def append(self, rows, k_new, v_new):
        """Store N new tokens of one row, or of each of several.

        Parameters
        ----------
        rows : int, or sequence of R different ints
        k_new : array, (G, N, D) for one row, (R, G, N, D) for several
        v_new : array, (G, N, Dv) or (R, G, N, Dv)

        Raises
        ------
        CacheError
            If there are not pages enough, also after `on_full`: then nothing is stored in any row. Or if there is no such row.
        ShapeError
            If R, G, D or N do not fit, or a row is named twice.
        """
        rows, k_new, v_new = self._given(rows, k_new, v_new)
        N = k_new.shape[2]
        needed = self._needed(rows, N)
        if needed > self.free_pages and self.on_full is not None:
            self.on_full(self, needed)
            for row in rows:
                self._known(row)
            needed = self._needed(rows, N)                            # pages may have lost their other holders
        if needed > self.free_pages:
            raise CacheError(
                f"the cache is full: {N} tokens more for {len(rows)} rows need {needed} pages and {self.free_pages} of "
                f"{len(self.k)} are free; free a row, give more pages, or an on_full that frees some"
            )
        for row, k, v in zip(rows, k_new, v_new, strict=True):
            self._store(row, k, v)

    def gather(self, rows):
        """Keys, values and positions of one row or several, copied out of their pages.

        Returns
        -------
        k : array, (R, G, S, D), and v : array, (R, G, S, Dv)
            S being the longest row's tokens; zeros where a shorter row has nothing.
        k_pos : integer array, (R, S)
            -1 where a shorter row has nothing.
        """
        rows = [self._known(row) for row in np.atleast_1d(rows).tolist()]
        slots = np.arange(max((self._lengths[row] for row in rows), default=0))
        lengths = np.array([self._lengths[row] for row in rows])
        k_pos = np.where(slots < lengths[:, None], slots, -1)
        made = []
        for store in (self.k, self.v):
            out = np.zeros((len(rows), store.shape[1], len(slots), store.shape[3]), store.dtype)
            for n, row in enumerate(rows):
                at = slots[: lengths[n]]
                pages = np.array(self._tables[row], np.int64)[at // self.page_size]
                out[n, :, : lengths[n]] = store[pages, :, at % self.page_size].swapaxes(0, 1)
            made.append(out)
        return *made, k_pos

    def attend(self, q, rows, **options):
        """`attention` of the last N tokens of each row to what the row holds.

        Parameters
        ----------
        q : array, (H, N, D) for one row, (R, H, N, D) for several
        rows : int, or sequence of R ints
        **options
            As for `attention`; where queries and keys stand is known.

        Returns
        -------
        What `attention` returns: out (H, N, Dv) or (R, H, N, Dv), or a tuple.

        Raises
        ------
        ShapeError
            If there is not one q for each row; and whatever `attention` raises.
        """
        q, single = floats("q", q), np.ndim(rows) == 0
        if q.ndim != (3 if single else 4) or (not single and len(q) != len(rows)):
            wanted = "(H, N, D) for one row" if single else f"(R, H, N, D) with R = {len(rows)}, the rows"
            raise ShapeError(f"q is {q.shape}; it must be {wanted}")
        k, v, k_pos = self.gather(rows)
        lengths = np.array([self.length(row) for row in np.atleast_1d(rows).tolist()])
        q_pos = np.maximum(lengths[:, None] - q.shape[-2] + np.arange(q.shape[-2]), -1)
        made = attention(q[None] if single else q, k, v, q_pos=q_pos, k_pos=k_pos, **options)
        if not single:
            return made
        return tuple(a[0] for a in made) if isinstance(made, tuple) else made[0]

    # what append is made of

    def _known(self, row):
        if row not in self._tables:
            raise CacheError(f"there is no row {row!r}; it was freed, or never made with new() or fork()")
        return row

    def _given(self, rows, k_new, v_new):
        single = np.ndim(rows) == 0
        rows = [self._known(row) for row in np.atleast_1d(rows).tolist()]
        if len(set(rows)) < len(rows):
            raise ShapeError(f"rows are {rows}; each may be named once")
        made = []
        for name, a, held in (("k_new", k_new, self.k), ("v_new", v_new, self.v)):
            a = floats(name, a)
            a = a[None] if single else a
            _, G, _, D = held.shape
            if a.ndim != 4 or (len(a), a.shape[1], a.shape[3]) != (len(rows), G, D):
                wanted = f"(G={G}, N, D={D})" if single else f"(R={len(rows)}, G={G}, N, D={D})"
                raise ShapeError(f"{spell(name, a.shape[1:] if single else a.shape, 'GND')}; this cache takes {wanted}")
            made.append(a)
        if made[0].shape[2] != made[1].shape[2]:
            raise ShapeError(f"k_new has N = {made[0].shape[2]} but v_new has N = {made[1].shape[2]}; a token has one of both")
        return rows, *made

    def _needed(self, rows, N):
        """Pages that N tokens more for each row take: new ones, and copies of last pages that others hold, too."""
        if N == 0:
            return 0
        needed = 0
        holders: dict = {}
        for row in rows:
            length = self._lengths[row]
            needed += -(-(length + N) // self.page_size) - len(self._tables[row])
            if length % self.page_size:
                last = self._tables[row][-1]
                held = holders.setdefault(last, self._holders[last])
                if held > 1:                                          # copied, and held by one row less
                    needed, holders[last] = needed + 1, held - 1
        return needed

    def _store(self, row, k, v):
        table, start, N = self._tables[row], self._lengths[row], k.shape[1]
        if N and start % self.page_size and self._holders[table[-1]] > 1:
            page = self._take()
            self.k[page], self.v[page] = self.k[table[-1]], self.v[table[-1]]
            self._let_go(table[-1])
            table[-1] = page
        while len(table) * self.page_size < start + N:
            table.append(self._take())
        at = np.arange(start, start + N)
        pages = np.array(table, np.int64)[at // self.page_size]
        self.k[pages, :, at % self.page_size] = k.swapaxes(0, 1)
        self.v[pages, :, at % self.page_size] = v.swapaxes(0, 1)
        self._lengths[row] = start + N

    def _take(self):
        page = self._unused.pop()
        self._holders[page] = 1
        return page

    def _let_go(self, page):
        self._holders[page] -= 1
        if self._holders[page] == 0:
            self._unused.append(page)
