"""Multi-head attention as a layer: projections, heads, attention, and the output projection. MHA, GQA, MQA and cross-attention.

    x (..., N, E)   q = x w_q -> (..., H, N, D)        w_q (E, H * D)       w_k (E, G * D)
    y (..., S, E)   k = y w_k -> (..., G, S, D)        w_o (H * Dv, E)      w_v (E, G * Dv)
                    v = y w_v -> (..., G, S, Dv)

    out = concat over h of attention(q_h, k_g, v_g) times w_o,    g = h // (H // G)

G = H is multi-head attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2), G = 1 multi-query (Shazeer 2019,
arXiv:1911.02150, section 3), anything between grouped-query (Ainslie et al. 2023, arXiv:2305.13245). y is x, or `context`
for cross-attention. Nothing else differs.
"""
from typing import NamedTuple

import numpy as np

from .attention import attention, attention_backward
from .core.cache import KVCache
from .core.errors import OptionError, ShapeError
from .core.projection import merge_heads, project_qkv, project_qkv_backward, split_heads, weight_gradient
from .core.rope import rope, rope_backward
from .core.shapes import count


class MultiHeadGrads(NamedTuple):
    """What `MultiHeadAttention.backward` returns; None for what the layer or the call does not have."""

    dx: np.ndarray
    dcontext: np.ndarray | None
    dw_q: np.ndarray
    dw_k: np.ndarray
    dw_v: np.ndarray
    dw_o: np.ndarray
    db_q: np.ndarray | None
    db_k: np.ndarray | None
    db_v: np.ndarray | None
    db_o: np.ndarray | None
    dbias: np.ndarray | None
    dsink_logits: np.ndarray | None


class MultiHeadAttention:
    """One attention layer.

    Parameters
    ----------
    w_q : array, (E, H * D)
    w_k : array, (E_context, G * D)
    w_v : array, (E_context, G * Dv)
    w_o : array, (H * Dv, E_out)
    heads : int
        H.
    kv_heads : int, optional
        G, which divides H; H itself without it.
    b_q, b_k, b_v, b_o : arrays, optional
        Biases, each as long as its weight has columns.
    rope : dict, optional
        Keyword arguments of `rope`, such as `{"layout": "half", "theta": 10_000.0}`; queries and keys are then rotated.
    **options
        Further options of `attention`, such as scale, softcap, sink_logits or backend.

    Raises
    ------
    ShapeError
        If H * D, G * D or H * Dv do not match the weights.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2; Ainslie et al. 2023, arXiv:2305.13245.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> layer = ma.MultiHeadAttention.random(12, heads=6, kv_heads=2, seed=0, rope={"layout": "half"})
    >>> x = np.random.default_rng(1).standard_normal((2, 5, 12))                  # B = 2, N = 5, E = 12
    >>> whole = layer(x, mask=ma.masks.causal())
    >>> cache = layer.new_cache(batch=2, capacity=8, dtype=x.dtype)
    >>> parts = [layer(x[:, a:b], mask=ma.masks.causal(), cache=cache) for a, b in [(0, 3), (3, 4), (4, 5)]]
    >>> np.allclose(np.concatenate(parts, axis=1), whole)
    True
    """

    def __init__(self, w_q, w_k, w_v, w_o, *, heads, kv_heads=None, b_q=None, b_k=None, b_v=None, b_o=None, rope=None, **options):
        self.w_q, self.w_k, self.w_v, self.w_o = map(np.asarray, (w_q, w_k, w_v, w_o))
        self.b_q, self.b_k, self.b_v, self.b_o = b_q, b_k, b_v, b_o
        self.heads = count("heads", heads, 1)
        self.kv_heads = self.heads if kv_heads is None else count("kv_heads", kv_heads, 1)
        self.rope, self.options = rope, options
        H, G = self.heads, self.kv_heads
        if H % G:
            raise ShapeError(f"H = {H} query heads and G = {G} KV heads; H must be a multiple of G")
        for name, w, letter, parts in (("w_q", self.w_q, "H", H), ("w_k", self.w_k, "G", G), ("w_v", self.w_v, "G", G)):
            if w.ndim != 2 or w.shape[1] % parts:
                raise ShapeError(f"{name} is {w.shape}; it must be (E, {letter} * D), a multiple of {letter} = {parts} columns")
        self.head_dim, self.value_dim = self.w_q.shape[1] // H, self.w_v.shape[1] // G
        if self.w_k.shape[1] != G * self.head_dim:
            raise ShapeError(f"w_k has D = {self.w_k.shape[1] // G} but w_q has D = {self.head_dim}; they must share D")
        if self.w_o.ndim != 2 or self.w_o.shape[0] != H * self.value_dim:
            raise ShapeError(f"w_o is {self.w_o.shape}; it must be (H * Dv, E_out) with H * Dv = {H * self.value_dim}")
        if b_o is not None and np.shape(b_o) != self.w_o.shape[1:]:
            raise ShapeError(f"b_o is {np.shape(b_o)} but w_o has E_out = {self.w_o.shape[1]}")

    @classmethod
    def random(cls, width, *, heads, kv_heads=None, seed=0, dtype=np.float64, **options):
        """A layer with weights drawn from N(0, 1 / E), E = `width` = H * D: the size at which projections keep their scale."""
        width, heads = count("width", width, 1), count("heads", heads, 1)
        kv_heads = heads if kv_heads is None else count("kv_heads", kv_heads, 1)
        if width % heads:
            raise ShapeError(f"E = {width} does not divide into H = {heads} heads")
        rng, narrow = np.random.default_rng(seed), width // heads * kv_heads
        w_q, w_k, w_v, w_o = (
            (rng.standard_normal((width, out)) / width**0.5).astype(dtype) for out in (width, narrow, narrow, width)
        )
        return cls(w_q, w_k, w_v, w_o, heads=heads, kv_heads=kv_heads, **options)

    @classmethod
    def from_mha(cls, layer, *, kv_heads):
        """The layer with fewer KV heads: each new one is the mean of its group's (Ainslie 2023, section 2.1).

        Where the heads of a group were equal nothing is lost; else it is a start for further training.

        Examples
        --------
        >>> import minattn as ma
        >>> layer = ma.MultiHeadAttention.random(12, heads=6)
        >>> ma.MultiHeadAttention.from_mha(layer, kv_heads=2).w_k.shape
        (12, 4)
        """
        if layer.kv_heads % count("kv_heads", kv_heads, 1):
            raise ShapeError(f"G = {kv_heads} new KV heads do not divide the G = {layer.kv_heads} that there are")

        def pool(w):                                                  # (..., G * D) -> (..., kv_heads * D)
            if w is None:
                return None
            w = np.asarray(w)
            members = w.reshape(*w.shape[:-1], kv_heads, layer.kv_heads // kv_heads, -1, w.shape[-1] // layer.kv_heads)
            return members.mean(axis=-3).reshape(*w.shape[:-1], -1)

        return cls(
            layer.w_q, pool(layer.w_k), pool(layer.w_v), layer.w_o, heads=layer.heads, kv_heads=kv_heads, b_q=layer.b_q,
            b_k=pool(layer.b_k), b_v=pool(layer.b_v), b_o=layer.b_o, rope=layer.rope, **layer.options,
        )  # fmt: skip

    def new_cache(self, batch, capacity, dtype=np.float32):
        """An empty `KVCache` of this layer's shape."""
        return KVCache(batch, self.kv_heads, capacity, self.head_dim, dtype, value_dim=self.value_dim)

    def __call__(self, x, context=None, mask=None, cache=None, positions=None, *, lengths=None, return_weights=False):
        """The layer's output.

        Parameters
        ----------
        x : array, (..., N, E)
        context : array, (..., S, E_context), optional
            What is attended to in cross-attention; its keys stand at 0 .. S-1.
        mask : Mask or bool array, optional
        cache : KVCache or RollingCache, optional
            For x of shape (B, N, E): earlier tokens are attended to as well, and these are stored.
        positions : integer array, (N,) or (..., N), optional
            Where the tokens of x stand, for RoPE and for rules of the mask; 0 .. N-1 by default. A cache counts by itself.
        lengths : integers, (B,), optional
            With a cache: the real tokens of each row.
        return_weights : bool

        Returns
        -------
        out : array, (..., N, E_out)
        weights : array, (..., H, N, S), only with return_weights=True

        Raises
        ------
        ShapeError, OptionError, CacheError
        """
        if cache is None:
            if lengths is not None:
                raise OptionError("lengths go with a cache; without one, use mask=masks.padding(lengths)")
            q, k, v, q_pos, k_pos = self._heads(x, context, positions)
        else:
            if context is not None or positions is not None:
                raise OptionError("a cache holds the keys of x and counts its positions: give it without context and positions")
            q, k, v, q_pos, k_pos = self._cached_heads(x, cache, lengths)
        try:
            results = attention(q, k, v, mask=mask, q_pos=q_pos, k_pos=k_pos, return_weights=return_weights, **self.options)
        except BaseException:
            if cache is not None:                                     # a call that fails, as with a bad mask, stores nothing
                cache.undo()
            raise
        heads, weights = results if return_weights else (results, None)
        out = merge_heads(heads) @ self.w_o
        out = out if self.b_o is None else out + self.b_o
        return (out, weights) if return_weights else out

    def backward(self, dout, x, context=None, mask=None, positions=None, *, score_mod_grad=None):
        """Gradients of the layer's output (without a cache) for `dout` (..., N, E_out).

        Returns
        -------
        MultiHeadGrads(dx, dcontext, dw_q, dw_k, dw_v, dw_o, db_q, db_k, db_v, db_o, dbias, dsink_logits)
            The last two where the layer has these options.

        Examples
        --------
        >>> import numpy as np, minattn as ma
        >>> layer = ma.MultiHeadAttention.random(4, heads=2, b_o=np.zeros(4))
        >>> x = np.random.default_rng(1).standard_normal((3, 4))                  # N = 3, E = 4
        >>> layer.backward(np.ones((3, 4)), x).db_o                               # the output bias is added N times
        array([3., 3., 3., 3.])
        """
        x, dout = np.asarray(x), np.asarray(dout)
        q, k, v, q_pos, k_pos = self._heads(x, context, positions)
        options = {"mask": mask, "q_pos": q_pos, "k_pos": k_pos, **self.options}
        out, lse = attention(q, k, v, return_lse=True, **options)
        shape = (*out.shape[:-3], out.shape[-2], self.w_o.shape[1])
        if dout.shape != shape:
            raise ShapeError(f"dout is {dout.shape}; it must be (..., N, E_out) = {shape}")
        dheads = split_heads(dout @ self.w_o.T, self.heads)                       # (..., H, N, Dv)
        grads = attention_backward(dheads, q, k, v, out=out, lse=lse, score_mod_grad=score_mod_grad, **options)
        dq, dk, dv = grads.dq, grads.dk, grads.dv
        if self.rope is not None:
            dq, dk = rope_backward(dq, q, q_pos, **self.rope).dx, rope_backward(dk, k, k_pos, **self.rope).dx
        into = project_qkv_backward(
            merge_heads(dq), merge_heads(dk), merge_heads(dv), x, self.w_q, self.w_k, self.w_v,
            context=None if context is None else np.asarray(context), b_q=self.b_q, b_k=self.b_k, b_v=self.b_v,
        )  # fmt: skip
        return MultiHeadGrads(
            into.dx, into.dcontext, into.dw_q, into.dw_k, into.dw_v, weight_gradient(merge_heads(out), dout),
            into.db_q, into.db_k, into.db_v, None if self.b_o is None else dout.reshape(-1, dout.shape[-1]).sum(axis=0),
            grads.dbias, grads.dsink_logits,
        )  # fmt: skip

    def _project(self, x, context=None):
        """q (..., H, N, D), k (..., G, S, D), v (..., G, S, Dv), not yet rotated."""
        q, k, v = project_qkv(x, self.w_q, self.w_k, self.w_v, context=context, b_q=self.b_q, b_k=self.b_k, b_v=self.b_v)
        return split_heads(q, self.heads), split_heads(k, self.kv_heads), split_heads(v, self.kv_heads)

    def _rotate(self, x, positions):
        return x if self.rope is None else rope(x, positions, **self.rope)

    def _heads(self, x, context, positions):
        q, k, v = self._project(x, context)
        q_pos = np.arange(q.shape[-2]) if positions is None else np.asarray(positions)
        k_pos = q_pos if context is None else np.arange(k.shape[-2])
        return self._rotate(q, q_pos), self._rotate(k, k_pos), v, q_pos, k_pos

    def _cached_heads(self, x, cache, lengths):
        q, k, v = self._project(x)
        if q.ndim != 4:
            raise ShapeError(f"x is {np.shape(x)}; with a cache it must be (B, N, E)")
        if cache.stores_rotated:
            positions = cache.next_positions(q.shape[-2], lengths)
            k, v, q_pos, k_pos = cache.append(self._rotate(k, positions), v, lengths)
        else:
            k, v, q_pos, k_pos = cache.append(k, v, lengths)
            k = self._rotate(k, k_pos)
        return self._rotate(q, q_pos), k, v, q_pos, k_pos
