"""Llama, whole: token ids in, a score for every possible next token out.

Touvron et al. 2023, arXiv:2302.13971; Llama 3: arXiv:2407.21783. RMSNorm: Zhang and Sennrich 2019, arXiv:1910.07467.
SwiGLU: Shazeer 2020, arXiv:2002.05202. RoPE: core/rope.py. Grouped heads: Ainslie et al. 2023, arXiv:2305.13245.

    ids (B, N)   x (B, N, E)   q (B, H, N, D)   k, v (B, G, S, D)   logits (B, N, V)

    x      = embedding[ids]
    y      = x + Attention(norm(x))        in each of L layers; a query sees the keys at its own position and before
    x      = y + FeedForward(norm(y))
    logits = norm(x) head

No biases anywhere, and a position enters only where queries and keys are rotated to it. Methods of `Llama` are the lines
above, each of which can be called alone.
"""
import copy

import numpy as np

from ..attention import attention
from ..core.errors import CacheError, DtypeError, OptionError, ShapeError, TokenError
from ..core.pointwise import rms_norm, silu
from ..core.projection import merge_heads, project_qkv, split_heads
from ..core.rope import rope
from ..core.shapes import as_array
from . import generation
from .llama_cache import LlamaCache, in_pieces


def swiglu(x, w_gate, w_up, w_down):
    """(..., E) -> (..., E) through F channels, each let through as far as its gate says."""
    return (silu(x @ w_gate) * (x @ w_up)) @ w_down


class Llama:
    """A Llama with its weights.

    Parameters
    ----------
    config : LlamaConfig
    weights : dict
        Arrays under the names and of the shapes of `config.shapes()`, all of one float type, which is computed in.
    tokenizer : optional
        `encode`, `decode`, `eos_id`; only `generate` from text needs it.

    Raises
    ------
    WeightsError
        If a weight is missing, of another shape, or unknown.

    Examples
    --------
    >>> from minattn.models import Llama, LlamaConfig
    >>> config = LlamaConfig(layers=2, dim=12, hidden=20, heads=6, kv_heads=2, head_dim=4, vocab=50, context=64)
    >>> m = Llama.random(config)
    >>> logits, weights = m.forward([3, 1, 4, 1, 5], return_weights=True)
    >>> logits.shape, weights.shape
    ((5, 50), (2, 6, 5, 5))
    >>> cache = m.new_cache(capacity=8)                       # the same in two steps
    >>> first = m.forward([3, 1, 4], cache=cache)
    >>> second = m.forward([1, 5], cache=cache)
    >>> bool(abs(second - logits[3:]).max() < 1e-5)
    True
    """

    def __init__(self, config, weights, tokenizer=None):
        config.check({name: np.shape(w) for name, w in weights.items()})
        dtypes = {w.dtype for w in weights.values()}
        if dtypes not in ({np.dtype(np.float32)}, {np.dtype(np.float64)}):
            found = ", ".join(sorted(str(dtype) for dtype in dtypes))
            raise DtypeError(f"weights are {found}; they must be float32 throughout, or float64 throughout")
        self.config, self.tokenizer, self.dtype = config, tokenizer, dtypes.pop()
        self.embedding, self.norm = weights["embedding"], weights["norm"]
        self.head = self.embedding.T if config.tied else weights["head"]                  # (E, V)
        self.layers = [
            {part.removeprefix(start): w for part, w in weights.items() if part.startswith(start)}
            for start in (f"layers.{layer}." for layer in range(config.layers))
        ]
        self._attention = [attention] * config.layers

    @classmethod
    def random(cls, config, seed=0, dtype=np.float32):
        """A Llama with drawn weights, for tests and for experiments that need no trained model."""
        rng = np.random.default_rng(seed)
        weights = {}
        for name, shape in config.shapes().items():
            drawn = rng.standard_normal(shape, dtype)
            if len(shape) == 1:
                weights[name] = 1 + drawn / 8                                             # a norm's weight
            else:
                weights[name] = drawn / np.sqrt(config.dim if name == "embedding" else shape[0], dtype=dtype)
        return cls(config, weights)

    def __repr__(self):
        c = self.config
        sizes = f"L={c.layers}, E={c.dim}, F={c.hidden}, H={c.heads}, G={c.kv_heads}, D={c.head_dim}, V={c.vocab}"
        return f"Llama({sizes}, {c.n_parameters:,} parameters)"

    def forward(self, ids, *, lengths=None, cache=None, return_weights=False):
        """Logits for the token after each of `ids`.

        Parameters
        ----------
        ids : integers, (N,) or (B, N)
        lengths : integers, (B,), optional
            Real tokens of each row, where rows were padded on the right to one N. What comes out for padding means nothing.
        cache : LlamaCache, optional
            From `new_cache`. The ids then continue what it holds, and are added to it; once a rolling one is full, one by one.
        return_weights : bool

        Returns
        -------
        logits : array, (..., N, V)
        weights : array, (L, ..., H, N, S), only with return_weights=True
            S counts the cached tokens too.

        Raises
        ------
        TokenError
            If an id is not in the vocabulary.
        ShapeError
            If ids have another rank or are empty, or lengths or the cache do not fit them.
        CacheError
            If the cache is too small, or weights are asked for where tokens go through it one by one; then it stays as it was.
        """
        x, weights = self.hidden(ids, lengths=lengths, cache=cache, return_weights=return_weights)
        return (self.logits(x), weights) if return_weights else self.logits(x)

    def hidden(self, ids, *, lengths=None, cache=None, return_weights=False):
        """(x, weights): what the last layer leaves, (..., N, E), before the final norm; weights None unless asked for."""
        ids = self._ids(ids)
        rows = np.atleast_2d(ids)
        if cache is not None and not (isinstance(cache, LlamaCache) and cache):
            raise CacheError(f"cache is {type(cache).__name__} of no layers; it must be a LlamaCache, as new_cache makes it")
        if cache is not None and (len(cache) != len(self.layers) or len(cache.lengths) != len(rows)):
            raise ShapeError(
                f"the cache has L = {len(cache)} layers of B = {len(cache.lengths)} rows, "
                f"but the model has L = {len(self.layers)} and ids have B = {len(rows)}"
            )
        positions = _positions(rows.shape, lengths) if cache is None else cache[0].next_positions(rows.shape[1], lengths)
        if cache is not None and cache.rolling and rows.shape[1] > cache.room():
            return in_pieces(self, ids, lengths, cache, return_weights)
        before = None if cache is None else cache.lengths
        x, maps = self.embed(rows), []
        try:
            for layer in range(len(self.layers)):
                held = None if cache is None else cache[layer]
                x = self.block(layer, x, positions, cache=held, lengths=lengths, return_weights=return_weights)
                if return_weights:
                    x, seen = x
                    maps.append(seen)
        except BaseException:
            for held in cache or ():                                                      # all layers hold the same tokens
                if (held.lengths != before).any():
                    held.undo()
            raise
        weights = np.stack(maps) if return_weights else None                              # (L, B, H, N, S)
        if ids.ndim == 1:
            return x[0], None if weights is None else weights[:, 0]
        return x, weights

    def embed(self, ids):
        """Each id's row of the embedding: (..., N) -> (..., N, E)."""
        return self.embedding[self._ids(ids)]

    @property
    def rope(self):
        """Keyword arguments of `rope`, as the model rotates with them."""
        return {"layout": self.config.rope_layout, "theta": self.config.rope_theta, "scaling": self.config.rope_scaling}

    def attention_inputs(self, layer, x, positions):
        """q (..., H, N, D), k and v (..., G, N, D) of one layer for its input x; q and k rotated to their positions, if any."""
        w, c = self.layers[layer], self.config
        q, k, v = project_qkv(rms_norm(x, w["norm_attention"], c.norm_eps), w["w_q"], w["w_k"], w["w_v"])
        q, k, v = split_heads(q, c.heads), split_heads(k, c.kv_heads), split_heads(v, c.kv_heads)
        return (q, k, v) if positions is None else (rope(q, positions, **self.rope), rope(k, positions, **self.rope), v)

    def block(self, layer, x, positions, *, cache=None, lengths=None, return_weights=False):
        """One layer: x (..., N, E) to the next layer's x, and with return_weights its map (..., H, N, S) too."""
        rolling = cache is not None and not cache.stores_rotated
        q, k, v = self.attention_inputs(layer, x, None if rolling else positions)
        q_pos = k_pos = positions
        if cache is not None:
            k, v, q_pos, k_pos = cache.append(k, v, lengths)
        if rolling:                                                                       # all that it holds is to be seen
            q, k = (rope(a, inside, **self.rope) for a, inside in zip((q, k), cache.rope_positions(), strict=True))
        options = {"return_weights": True} if return_weights else {}
        results = self._attention[layer](q, k, v, causal=True, q_pos=q_pos, k_pos=k_pos, **options)
        results = results if isinstance(results, tuple) else (results,)
        found, wanted = [np.shape(a) for a in results], [q.shape, (*q.shape[:-1], k.shape[-2])][: 1 + bool(return_weights)]
        if found != wanted:
            given, needed = (" and ".join(map(str, shapes)) for shapes in (found, wanted))
            raise ShapeError(f"the attention of layer {layer} returned {given}; it must return {needed}")
        mixed, weights = results if return_weights else (*results, None)
        y = x + merge_heads(mixed) @ self.layers[layer]["w_o"]
        out = y + self.feed_forward(layer, y)
        return (out, weights) if return_weights else out

    def feed_forward(self, layer, x):
        """What one layer's feed-forward part adds to x, (..., N, E)."""
        w = self.layers[layer]
        return swiglu(rms_norm(x, w["norm_ffn"], self.config.norm_eps), w["w_gate"], w["w_up"], w["w_down"])

    def logits(self, x):
        """The last layer's x (..., N, E) to a score for each token, (..., N, V)."""
        return rms_norm(x, self.norm, self.config.norm_eps) @ self.head

    def new_cache(self, batch=1, capacity=None, *, window=None, first=4):
        """An empty cache for `batch` rows of up to `capacity` tokens; by default as many as the model was made for.

        With `window` it takes any number of tokens and holds the latest `window` of them and the `first` ones, with
        positions counted inside it: StreamingLLM, arXiv:2309.17453. Keep window + first within the model's context.

        Examples
        --------
        >>> import numpy as np
        >>> from minattn.models import Llama, LlamaConfig
        >>> m = Llama.random(LlamaConfig(2, 12, 20, 6, 2, 4, 50, 64))
        >>> cache = m.new_cache(window=16)
        >>> for n in range(10):                                   # 200 tokens, though the model was made for 64
        ...     logits = m.forward(np.arange(20) + n, cache=cache)
        >>> int(cache.lengths[0]), cache.nbytes == m.new_cache(capacity=4 + 16 - 1).nbytes
        (200, True)
        """
        return LlamaCache.of(self.config, batch, capacity, window, first, self.dtype)

    def with_attention(self, fn):
        """The same weights with another attention.

        Parameters
        ----------
        fn : function, or {layer: function}
            Of `attention`'s signature: fn(q, k, v, *, causal, q_pos, k_pos[, return_weights]). A dict changes those
            layers alone.

        Returns
        -------
        Llama
            A new one that shares the weights; this one stays as it is.

        Examples
        --------
        >>> import minattn as ma
        >>> from minattn.models import Llama, LlamaConfig
        >>> m = Llama.random(LlamaConfig(2, 12, 20, 6, 2, 4, 50, 64))
        >>> def near(q, k, v, **options):
        ...     return ma.attention(q, k, v, mask=ma.masks.last(2), **options)
        >>> _, weights = m.with_attention({1: near}).forward([3, 1, 4], return_weights=True)
        >>> (weights[:, 0, 2] > 0).tolist()                   # what the last token sees, in layer 0 and in layer 1
        [[True, True, True], [False, True, True]]
        """
        changed = fn if isinstance(fn, dict) else dict.fromkeys(range(len(self.layers)), fn)
        new = copy.copy(self)
        new._attention = list(self._attention)
        for layer, each in changed.items():
            if layer not in range(len(self.layers)):
                raise OptionError(f"there is no layer {layer!r}; the model has layers 0 to {len(self.layers) - 1}")
            if not callable(each):
                raise OptionError(f"the attention for layer {layer} is {type(each).__name__}; it must be a function")
            new._attention[layer] = each
        return new

    generate = generation.generate  # m.generate(prompt, ...): the loop has a file of its own

    def _ids(self, ids):
        try:
            ids = np.asarray(ids)
        except ValueError as error:
            raise ShapeError("ids are rows of unequal length; pad them on the right and give lengths=") from error
        if ids.ndim not in (1, 2) or ids.size == 0:
            raise ShapeError(f"ids are {ids.shape}; they must be (N,) or (B, N) with at least one token")
        if ids.dtype.kind not in "iu":
            raise TokenError(f"ids are {ids.dtype}; token ids are integers")
        if ids.min() < 0 or ids.max() >= self.config.vocab:
            wrong = ids[(ids < 0) | (ids >= self.config.vocab)][0]
            raise TokenError(f"token {wrong} is not in the vocabulary, which has ids 0 to {self.config.vocab - 1}")
        return ids


def _positions(shape, lengths):
    """0 .. N-1, (N,), or with lengths (B, N) where padding stands at -1."""
    B, N = shape
    if lengths is None:
        return np.arange(N)
    lengths = as_array("lengths", lengths)
    if lengths.shape != (B,) or lengths.dtype.kind not in "iu" or lengths.min() < 0 or lengths.max() > N:
        raise ShapeError(f"lengths are {lengths.tolist()}; they must be B = {B} integers between 0 and N = {N}")
    return np.where(np.arange(N) < lengths[:, None], np.arange(N), -1)
