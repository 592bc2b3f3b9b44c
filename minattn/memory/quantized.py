"""A KV cache in 8 or 4 bits a number: keys by channel, values by token.

Liu et al. 2024, "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", arXiv:2402.02750, section 3.

    x ~ low + step * code,   code = 0 .. 2^bits - 1,   low = min x,   step = (max x - min x) / (2^bits - 1)

    keys    low and step of `group` tokens in a row, for each head and channel: some channels of keys are large in all tokens,
            and would take the steps of all others with them
    values  low and step of each token and head, over `group` channels in a row

So a number is off by half a step at the most. A group of keys is done when its last token has come: until then its tokens,
keys and values, wait as they were given. Two codes of 4 bits share a byte.
"""
import numpy as np

from ..core.cache import _Cache
from ..core.errors import CacheError, OptionError
from ..core.shapes import count


def quantize(x, bits):
    """Codes (one or two to a byte), low and step of each row of x (..., n)."""
    low, high = x.min(axis=-1), x.max(axis=-1)
    step = np.where(high > low, (high - low) / (2**bits - 1), 1).astype(np.float32)
    codes = np.rint((x - low[..., None]) / step[..., None]).clip(0, 2**bits - 1).astype(np.uint8)
    if bits == 4:
        codes = codes[..., ::2] | codes[..., 1::2] << 4
    return codes, low.astype(np.float32), step


def dequantize(codes, low, step, bits):
    """The numbers that codes (..., bytes), low and step (...) stand for, in float32."""
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], 2 * codes.shape[-1])
    return low[..., None] + step[..., None] * codes


class QuantizedCache(_Cache):
    """All keys and values so far, in 8 or 4 bits each, but for the latest few.

    Parameters
    ----------
    batch, kv_heads, capacity, head_dim : int
        As for `KVCache`.
    bits : {8, 4}
    group : int
        Numbers that share a low and a step, tokens for keys and channels for values: even, and a divisor of Dv.
    dtype : dtype
        Of the tokens that wait for their group, and of what `append` hands back.
    value_dim : int, optional

    Attributes
    ----------
    k, v : arrays, (B, G, group, D) and (B, G, group, Dv)
        The tokens that wait.
    lengths : integer array, (B,)
    nbytes : int

    References
    ----------
    Liu et al. 2024, "KIVI", arXiv:2402.02750, section 3.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> k, v = np.random.default_rng(0).standard_normal((2, 1, 2, 70, 64)).astype(np.float32)      # B = 1, G = 2, 70 tokens
    >>> cache = ma.QuantizedCache(1, 2, capacity=1024, head_dim=64, bits=4)
    >>> k_all, v_all, q_pos, k_pos = cache.append(k, v)
    >>> bool(abs(k_all - k).max() < 0.25), bool((k_all[:, :, 64:] == k[:, :, 64:]).all())          # two groups, and six tokens
    (True, True)
    >>> round(ma.KVCache(1, 2, 1024, 64).nbytes / cache.nbytes, 1)
    4.6
    """

    stores_rotated = True

    def __init__(self, batch, kv_heads, capacity, head_dim, bits=8, group=32, dtype=np.float32, *, value_dim=None):
        self.capacity, self.bits, self.group = count("capacity", capacity, 1), count("bits", bits, 1), count("group", group, 2)
        super().__init__(batch, kv_heads, self.group, head_dim, dtype, value_dim)
        B, G, _, D = self.k.shape
        Dv = self.v.shape[3]
        if self.bits not in (4, 8):
            raise OptionError(f"bits = {bits}; there is 8 or 4")
        if group % 2 or Dv % group:
            raise OptionError(f"group = {group}; it must be even, and a divisor of Dv = {Dv}")
        groups = self.capacity // group                               # what is over waits for ever
        width = group * bits // 8
        self._keys = [np.zeros((B, G, groups, D, width), np.uint8), *np.zeros((2, B, G, groups, D), np.float32)]
        at = (B, G, groups, group, Dv // group)
        self._values = [np.zeros((*at, width), np.uint8), *np.zeros((2, *at), np.float32)]

    @property
    def nbytes(self):
        """Bytes of codes, lows, steps, and of the room for tokens that wait."""
        return super().nbytes + sum(a.nbytes for a in (*self._keys, *self._values))

    def append(self, k_new, v_new, lengths=None):
        """Store N new tokens a row and hand back everything that is there, as `KVCache.append` does.

        Returns
        -------
        k : array, (B, G, S, D), and v : array, (B, G, S, Dv)
            Made anew by each call: low + step * code, and the waiting tokens as they are.
        q_pos, k_pos : integer arrays, (B, N) and (B, S)

        Raises
        ------
        CacheError
            If a row would hold more than `capacity` tokens, or a number is not finite; then nothing is stored in any row.
        ShapeError
            If B, G, D, N or lengths do not fit.
        """
        k_new, v_new = self._check(k_new, v_new)
        real = self._real(k_new.shape[2], lengths)
        after = self._lengths + real
        if (after > self.capacity).any():
            b = int(after.argmax())
            raise CacheError(f"the cache is full: row {b} holds {self._lengths[b]} tokens and gets {real[b]} more, but "
                             f"capacity = {self.capacity}")  # fmt: skip
        for name, new in (("k_new", k_new), ("v_new", v_new)):
            if not all(np.isfinite(new[b, :, :n]).all() for b, n in enumerate(real)):
                raise CacheError(f"{name} holds NaN or inf, which has no place between a lowest and a highest number")
        q_pos = self.next_positions(k_new.shape[2], lengths)
        self._before = {"_lengths": self._lengths, "k": self.k, "v": self.v}      # codes beyond the lengths are not read
        self.k, self.v = self.k.copy(), self.v.copy()
        for b, n in enumerate(real):
            self._store(b, k_new[b, :, :n], v_new[b, :, :n])
        self._lengths = after
        slots = np.arange(after.max())
        return *self._all(len(slots)), q_pos, np.where(slots < after[:, None], slots, -1)

    def reset(self, row=None):
        """Forget one row, or all of them."""
        self._lengths[self._rows(row)] = 0
        self._before = None

    def _store(self, b, k, v):
        """The tokens that wait and the new ones: whole groups become codes, the rest waits."""
        done, waiting = divmod(int(self._lengths[b]), self.group)
        k = np.concatenate([self.k[b, :, :waiting], k], axis=1)                   # (G, waiting + N, D)
        v = np.concatenate([self.v[b, :, :waiting], v], axis=1)
        (G, tokens, D), Dv = k.shape, v.shape[2]
        groups = tokens // self.group
        whole = groups * self.group
        if groups:
            by_channel = k[:, :whole].reshape(G, groups, self.group, D).swapaxes(2, 3)
            by_token = v[:, :whole].reshape(G, groups, self.group, Dv // self.group, self.group)
            for held, x in ((self._keys, by_channel), (self._values, by_token)):
                for a, part in zip(held, quantize(x.astype(np.float32), self.bits), strict=True):
                    a[b, :, done : done + groups] = part
        self.k[b, :, : tokens - whole], self.v[b, :, : tokens - whole] = k[:, whole:], v[:, whole:]

    def _all(self, S):
        """Keys and values of every row as floats, (B, G, S, D) and (B, G, S, Dv); zeros where a row has nothing."""
        (B, G, _, D), Dv, groups = self.k.shape, self.v.shape[3], S // self.group
        k, v = (dequantize(codes[:, :, :groups], low[:, :, :groups], step[:, :, :groups], self.bits)
                for codes, low, step in (self._keys, self._values))  # fmt: skip
        k, v = k.swapaxes(3, 4).reshape(B, G, groups * self.group, D), v.reshape(B, G, groups * self.group, Dv)
        made = []
        for a, waiting in ((k, self.k), (v, self.v)):
            out = np.zeros((B, G, S, a.shape[3]), waiting.dtype)
            for b, length in enumerate(self._lengths):
                whole = length - length % self.group
                out[b, :, :whole], out[b, :, whole:length] = a[b, :, :whole], waiting[b, :, : length - whole]
            made.append(out)
        return made
