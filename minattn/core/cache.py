"""KV caches: keep the keys and values of earlier tokens, so that a new token costs O(N) instead of O(N^2).

    B batch   G KV heads   D head dim   N new tokens   S keys handed back

Both caches hand back k, v, q_pos, k_pos, ready for `attention(q, k, v, causal=True, q_pos=q_pos, k_pos=k_pos)`. Because
positions are data, rows of unequal length, prefill in chunks and a rolling window need nothing else: an empty slot has
k_pos -1, a padding token q_pos -1. Bytes per token: 2 * layers * G * D * bytes of a number. Shazeer 2019,
arXiv:1911.02150, section 2.4, has the bandwidth argument; the rolling cache with first tokens is Xiao et al. 2023,
"StreamingLLM", arXiv:2309.17453, section 3.2.
"""
import numpy as np

from .errors import CacheError, ShapeError
from .shapes import as_array, count, float_type, floats, spell


class _Cache:
    """What both caches share: the arrays, how many tokens each row has seen, and the checks."""

    def __init__(self, batch, kv_heads, slots, head_dim, dtype, value_dim):
        batch, kv_heads, head_dim = count("batch", batch, 1), count("kv_heads", kv_heads, 1), count("head_dim", head_dim, 1)
        value_dim = head_dim if value_dim is None else count("value_dim", value_dim, 1)
        dtype = float_type(dtype, "cache")
        self.k = np.zeros((batch, kv_heads, slots, head_dim), dtype)
        self.v = np.zeros((batch, kv_heads, slots, value_dim), dtype)
        self._lengths = np.zeros(batch, dtype=np.int64)
        self._before: dict | None = None                              # what `undo` brings back

    @property
    def lengths(self):
        """Tokens that each row has been given so far, (B,)."""
        return self._lengths.copy()

    @property
    def nbytes(self):
        """Bytes of the key and value arrays."""
        return self.k.nbytes + self.v.nbytes

    def undo(self):
        """Take back the last `append`, as if it had not been: for a step that failed after it.

        Raises
        ------
        CacheError
            If there is none, or it has been taken back.
        """
        if self._before is None:
            raise CacheError("there is no append to take back")
        vars(self).update(self._before)
        self._before = None

    def next_positions(self, N, lengths=None):
        """The positions (B, N) that the next `append` gives its tokens; -1 for padding."""
        new = np.arange(N)
        return np.where(new < self._real(N, lengths)[:, None], self._lengths[:, None] + new, -1)

    def _rows(self, row):
        """The index of what `reset` forgets: one row, or all of them."""
        if row is None:
            return slice(None)
        row, batch = count("row", row, 0), len(self._lengths)
        if row >= batch:
            raise CacheError(f"row = {row}, but the cache has B = {batch} rows, counted from 0")
        return row

    def _real(self, N, lengths):
        """How many of N new tokens are real, a row, (B,)."""
        batch = len(self._lengths)
        if lengths is None:
            return np.full(batch, N)
        lengths = as_array("lengths", lengths)
        if lengths.shape != (batch,) or lengths.dtype.kind not in "iu":
            raise ShapeError(f"lengths are {lengths.dtype} of shape {lengths.shape}; they must be integers (B,) with B = {batch}")
        if lengths.size and not 0 <= lengths.min() <= lengths.max() <= N:
            raise ShapeError(f"lengths reach from {lengths.min()} to {lengths.max()}, but there are N = {N} new tokens a row")
        return lengths.astype(np.int64, copy=False)

    def _check(self, k_new, v_new):
        k_new, v_new = floats("k_new", k_new), floats("v_new", v_new)
        for name, new, held in (("k_new", k_new, self.k), ("v_new", v_new, self.v)):
            if new.ndim != 4 or new.shape[:2] != held.shape[:2] or new.shape[3] != held.shape[3]:
                B, G, _, D = held.shape
                raise ShapeError(f"{spell(name, new.shape, 'GND')}; this cache takes (B={B}, G={G}, N, D={D})")
        if k_new.shape[2] != v_new.shape[2]:
            raise ShapeError(f"k_new has N = {k_new.shape[2]} but v_new has N = {v_new.shape[2]}; each new token has one of both")
        return k_new, v_new


class KVCache(_Cache):
    """All keys and values so far, in arrays allocated once.

    Parameters
    ----------
    batch, kv_heads, capacity, head_dim : int
        B rows of G heads, room for `capacity` tokens of D numbers each.
    dtype : dtype
    value_dim : int, optional
        Dv where it is not D.

    Attributes
    ----------
    lengths : integer array, (B,)
    capacity : int
    nbytes : int

    References
    ----------
    Shazeer 2019, arXiv:1911.02150, section 2.4.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 5, 4))       # B = 1, H = G = 2, five tokens, D = 4
    >>> cache = ma.KVCache(1, 2, capacity=8, head_dim=4, dtype=np.float64)
    >>> for n in range(5):                                                        # one token after the other
    ...     k_all, v_all, q_pos, k_pos = cache.append(k[:, :, n:n + 1], v[:, :, n:n + 1])
    ...     out = ma.attention(q[:, :, n:n + 1], k_all, v_all, causal=True, q_pos=q_pos, k_pos=k_pos)
    >>> np.allclose(out, ma.attention(q, k, v, causal=True)[:, :, 4:])
    True
    >>> cache.lengths, cache.nbytes
    (array([5]), 1024)
    """

    stores_rotated = True  # RoPE is applied before `append`: a key's position never changes

    def __init__(self, batch, kv_heads, capacity, head_dim, dtype=np.float32, *, value_dim=None):
        self.capacity = count("capacity", capacity, 1)
        super().__init__(batch, kv_heads, self.capacity, head_dim, dtype, value_dim)

    def append(self, k_new, v_new, lengths=None):
        """Store N new tokens a row and hand back everything that is there.

        Parameters
        ----------
        k_new : array, (B, G, N, D)
        v_new : array, (B, G, N, Dv)
        lengths : integers, (B,), optional
            Real tokens of each row, the first ones; the others store nothing and get q_pos -1.

        Returns
        -------
        k : array, (B, G, S, D), and v : array, (B, G, S, Dv)
            Views into the cache, S being the longest row's tokens: they hold until `reset` or `undo`.
        q_pos : integer array, (B, N)
        k_pos : integer array, (B, S), -1 where a shorter row has nothing

        Raises
        ------
        CacheError
            If a row would hold more than `capacity` tokens; then nothing is stored in any row.
        ShapeError
            If B, G, D, N or lengths do not fit.
        """
        k_new, v_new = self._check(k_new, v_new)
        N = k_new.shape[2]
        real = self._real(N, lengths)
        after = self._lengths + real
        if (after > self.capacity).any():
            b = int(after.argmax())
            raise CacheError(
                f"the cache is full: row {b} holds {self._lengths[b]} tokens and gets {real[b]} more, "
                f"but capacity = {self.capacity}; make it larger, reset the row, or use a RollingCache"
            )
        q_pos = self.next_positions(N, lengths)
        for b, (start, stop) in enumerate(zip(self._lengths, after, strict=True)):
            self.k[b, :, start:stop] = k_new[b, :, : real[b]]
            self.v[b, :, start:stop] = v_new[b, :, : real[b]]
        self._before, self._lengths = {"_lengths": self._lengths}, after
        slots = np.arange(after.max())
        k_pos = np.where(slots < after[:, None], slots, -1)
        return self.k[:, :, : len(slots)], self.v[:, :, : len(slots)], q_pos, k_pos

    def reset(self, row=None):
        """Forget one row, or all of them."""
        self._lengths[self._rows(row)] = 0
        self._before = None


class RollingCache(_Cache):
    """The first few tokens and the latest ones, in O(window) memory however long the text.

    A query at position p is to see the keys p - window + 1 .. p and those before `first`; that is what
    `mask=causal() & (last(window) | first(first))` says, and all of these are here. Keys are stored without RoPE,
    so that the caller can rotate them to their true positions (k_pos) or to their place in the cache (`rope_positions`).

    Parameters
    ----------
    batch, kv_heads, window, head_dim : int
    dtype : dtype
    first : int
        How many of the first tokens are never evicted.
    value_dim : int, optional

    References
    ----------
    Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks", arXiv:2309.17453, section 3.2.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> cache = ma.RollingCache(1, 1, window=3, head_dim=2, first=1)
    >>> one = np.ones((1, 1, 1, 2), dtype=np.float32)
    >>> for n in range(6):
    ...     k, v, q_pos, k_pos = cache.append(one, one)
    >>> q_pos, np.sort(k_pos)                                 # token 5 may see token 0 and the latest three
    (array([[5]]), array([[0, 3, 4, 5]]))
    >>> q_rope, k_rope = cache.rope_positions()               # counted inside the cache: no gap after token 0
    >>> q_rope, np.sort(k_rope)
    (array([[3]]), array([[0, 1, 2, 3]]))
    """

    stores_rotated = False
    _held: np.ndarray  # the position that each slot holds, -1 for none
    _latest: tuple | None = None  # q_pos and k_pos of the last append

    def __init__(self, batch, kv_heads, window, head_dim, dtype=np.float32, first=0, *, value_dim=None):
        self.window, self.first = count("window", window, 1), count("first", first, 0)
        # the newest token of a window is always among the new ones, so one slot less is enough
        super().__init__(batch, kv_heads, self.first + self.window - 1, head_dim, dtype, value_dim)
        self.reset()

    def append(self, k_new, v_new, lengths=None):
        """Hand back every key that the N new queries may see, then evict what no later one can.

        Parameters and results are those of `KVCache.append`, with S = first + window - 1 + N: first the slots of the cache
        in no particular order (k_pos says what they hold, -1 for nothing), then the new tokens. k and v are copies.

        Raises
        ------
        ShapeError
            If B, G, D, N or lengths do not fit.
        """
        k_new, v_new = self._check(k_new, v_new)
        N = k_new.shape[2]
        real = self._real(N, lengths)
        q_pos = self.next_positions(N, lengths)
        k = np.concatenate([self.k, k_new.astype(self.k.dtype, copy=False)], axis=2)
        v = np.concatenate([self.v, v_new.astype(self.v.dtype, copy=False)], axis=2)
        k_pos = np.concatenate([self._held, q_pos], axis=1)
        self._before = {name: getattr(self, name) for name in ("k", "v", "_held", "_lengths", "_latest")}
        self.k, self.v, self._held = self.k.copy(), self.v.copy(), self._held.copy()
        self._lengths = self._lengths + real
        for b, end in enumerate(self._lengths):
            keep = np.flatnonzero((q_pos[b] >= 0) & ((q_pos[b] < self.first) | (q_pos[b] > end - self.window)))
            pos = q_pos[b, keep]
            slot = np.where(pos < self.first, pos, self.first + (pos - self.first) % max(self.window - 1, 1))
            self.k[b][:, slot], self.v[b][:, slot] = k_new[b][:, keep], v_new[b][:, keep]
            self._held[b, slot] = pos
        self._latest = q_pos, k_pos
        return k, v, q_pos, k_pos

    def rope_positions(self):
        """Where the tokens of the last `append` stand inside the cache: q (B, N) and k (B, S), for `rope`.

        Raises
        ------
        CacheError
            If nothing was appended yet, or if several tokens came at once to a row whose cache is full: each then has
            a cache of its own to count in, so give them one at a time.
        """
        if self._latest is None:
            raise CacheError("nothing was appended yet, so there are no positions in the cache")
        q_pos, k_pos = self._latest
        evicted = np.maximum(q_pos.max(axis=1, initial=-1, keepdims=True) - self.window + 1 - self.first, 0)   # (B, 1)
        crowded = (evicted[:, 0] > 0) & ((q_pos >= 0).sum(axis=1) > 1)
        if crowded.any():
            b = int(crowded.argmax())
            raise CacheError(
                f"row {b} got {(q_pos[b] >= 0).sum()} tokens at once with its cache full; a full cache counts one token at a time"
            )
        inside = [np.where(pos < self.first, pos, pos - evicted) for pos in (q_pos, k_pos)]
        return inside[0], inside[1]

    def reset(self, row=None):
        """Forget one row, or all of them."""
        rows = self._rows(row)
        self._lengths[rows] = 0
        if row is None:
            self._held = np.full((len(self._lengths), self.k.shape[2]), -1)
        else:
            self._held[rows] = -1
        self._latest = self._before = None
