"""A KV cache in pages: what a row holds lies wherever there is room, as a process's memory does.

Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention", arXiv:2309.06180,
sections 4.1 to 4.4.

    page    page_size tokens of G heads: k (G, page_size, D), v (G, page_size, Dv)
    table   of a row: the numbers of its pages, in the order of its positions

A row takes a page when it needs one, so at most the last page of each row is not full; a contiguous cache reserves its whole
capacity. `fork` copies a table and no token: both rows then hold the same pages, until one of them writes into a page that
the other still holds, and copies that one page first (copy on write). The tables are kept in pages.py.

Attention reads the pages where they lie when it decodes, that is, when few queries stand before keys in float32 or 16 bits
(flash/decode.py); else, as in a prefill, keys and values are gathered first, into arrays that live as long as the call.
"""
import numpy as np

from .. import backends
from ..attention import attention
from ..core.errors import PositionError, ShapeError
from ..core.inputs import prepare
from ..core.shapes import as_array, count, float_type, floats, spell
from .pages import Pages


class PagedCache(Pages):
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
    pages, page_size, free_pages, nbytes : int
    rows : tuple of int

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
        super().__init__(pages, page_size, on_full)
        kv_heads, head_dim = count("kv_heads", kv_heads, 1), count("head_dim", head_dim, 1)
        value_dim = head_dim if value_dim is None else count("value_dim", value_dim, 1)
        dtype = float_type(dtype, "cache")
        self.k = np.zeros((self.pages, kv_heads, self.page_size, head_dim), dtype)
        self.v = np.zeros((self.pages, kv_heads, self.page_size, value_dim), dtype)

    @property
    def nbytes(self):
        """Bytes of all pages."""
        return self.k.nbytes + self.v.nbytes

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
        for page, own in self.grow(rows, N):
            self.k[own], self.v[own] = self.k[page], self.v[page]
        for row, k, v in zip(rows, k_new, v_new, strict=True):
            pages, at = self._slots(row, self._lengths[row] - N, self._lengths[row])
            self.k[pages, :, at], self.v[pages, :, at] = k.swapaxes(0, 1), v.swapaxes(0, 1)

    def gather(self, rows):
        """Keys, values and positions of one row or several, copied out of their pages.

        Returns
        -------
        k : array, (R, G, S, D), and v : array, (R, G, S, Dv)
            S being the longest row's tokens; zeros where a shorter row has nothing.
        k_pos : integer array, (R, S)
            -1 where a shorter row has nothing.
        """
        rows, _ = self._named(rows)
        lengths = self._held(rows)
        slots = np.arange(lengths.max(initial=0))
        k_pos = np.where(slots < lengths[:, None], slots, -1)
        made = []
        for store in (self.k, self.v):
            out = np.zeros((len(rows), store.shape[1], k_pos.shape[1], store.shape[3]), store.dtype)
            for n, row in enumerate(rows):
                pages, at = self._slots(row, 0, lengths[n])
                out[n, :, : lengths[n]] = store[pages, :, at].swapaxes(0, 1)
            made.append(out)
        return *made, k_pos

    def attend(self, q, rows, *, backend="auto", return_weights=False, return_lse=False, **options):
        """`attention` of the last N tokens of each row to what the row holds: the same bits as over a cache in one piece.

        The kernel for few queries (backend "cpu", up to 8 of them, no score_mod and no weights asked for) reads the pages
        where they lie if D and Dv fill its vectors (are multiples of 16, or 8), and copies at most a tile of keys at a time.

        Parameters
        ----------
        q : array, (H, N, D) for one row, (R, H, N, D) for several
        rows : int, or sequence of R ints
        backend, return_weights, return_lse, **options
            As for `attention`; where queries and keys stand is known.

        Returns
        -------
        What `attention` returns: out (H, N, Dv) or (R, H, N, Dv), or a tuple.

        Raises
        ------
        ShapeError
            If there is not one q for each row; and whatever `attention` raises.
        """
        q, (rows, single) = floats("q", q), self._named(rows)
        if q.ndim != (3 if single else 4) or (not single and len(q) != len(rows)):
            wanted = "(H, N, D) for one row" if single else f"(R, H, N, D) with R = {len(rows)}, the rows"
            raise ShapeError(f"q is {q.shape}; it must be {wanted}")
        if "q_pos" in options or "k_pos" in options:
            raise PositionError("q_pos and k_pos are the cache's own: the last N tokens of a row ask, and its first one is at 0")
        lengths = self._held(rows)
        options["q_pos"] = np.maximum(lengths[:, None] - q.shape[-2] + np.arange(q.shape[-2]), -1)
        q = q[None] if single else q
        R, S = len(rows), lengths.max(initial=0)
        if lengths.min(initial=S) < S:
            # what stands behind a shorter row is not read; at its last position it makes no mask of a row that sees all it holds
            options["k_pos"] = np.minimum(np.arange(S), lengths[:, None] - 1)
        x = prepare(q, *(_shaped(store, R, S) for store in (self.k, self.v)), **options)
        engine = backends.engine(backend, x)
        if not return_weights and hasattr(engine, "reads_pages") and engine.reads_pages(x, self.k, self.v):
            tables = np.zeros((R, max(len(self._tables[row]) for row in rows)), np.int64)
            for n, row in enumerate(rows):
                tables[n, : len(self._tables[row])] = self._tables[row]
            with np.errstate(invalid="ignore", over="ignore"):
                out, _, lse = engine.forward(x, (self.k, self.v, tables, lengths))
            made = (x.restore(out), x.restore(lse, x.work)) if return_lse else x.restore(out)
        else:
            k, v, options["k_pos"] = self.gather(rows)
            made = attention(q, k, v, backend=backend, return_weights=return_weights, return_lse=return_lse, **options)
        if not single:
            return made
        return tuple(a[0] for a in made) if isinstance(made, tuple) else made[0]

    def _held(self, rows):
        """Tokens of each row, (R,)."""
        return np.array([self._lengths[row] for row in rows], np.int64)

    def _named(self, rows):
        """The rows as a list, and whether it was one row and no sequence."""
        rows = as_array("rows", rows)
        return [self._known(row) for row in np.atleast_1d(rows).tolist()], rows.ndim == 0

    def _slots(self, row, start, stop):
        """Page, and place within it, of the positions start .. stop of a row."""
        pos, first = np.arange(start, stop), start // self.page_size
        table = np.array(self._tables[row][first : self._pages_of(stop)], np.int64)
        return table[pos // self.page_size - first], pos % self.page_size

    def _given(self, rows, k_new, v_new):
        rows, single = self._named(rows)
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
            made.append(a.astype(held.dtype, copy=False))     # before anything grows: a warning may be an error
        if made[0].shape[2] != made[1].shape[2]:
            raise ShapeError(f"k_new has N = {made[0].shape[2]} but v_new has N = {made[1].shape[2]}; a token has one of both")
        return rows, *made


def _shaped(store, R, S):
    """(R, G, S, D) of nothing but a page's first numbers: what `prepare` checks of keys that are not gathered."""
    _, G, _, D = store.shape
    return np.ndarray((R, G, S, D), store.dtype, store, strides=(0, store.strides[1], 0, store.strides[3]))
