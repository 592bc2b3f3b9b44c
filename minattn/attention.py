"""The front door: attention, its weights, its gradient and its steps, over whatever backend computes them.

    softmax(scale * q k^T + bias, over the keys that a query may see) v        Vaswani et al. 2017, arXiv:1706.03762, eq (1)

    B batch   H query heads   G KV heads   N queries   S keys   D head dim   Dv value dim

The arithmetic stands in core/reference.py, to be read; here are the checks and the options. backends.py chooses who computes.
"""
from typing import NamedTuple

import numpy as np

from . import backends
from .core import reference
from .core.errors import BackendError, OptionError
from .core.inputs import prepare
from .core.reference import Steps
from .core.shapes import count
from .core.softmax import merge

__all__ = ["Grads", "Steps", "attention", "attention_backward", "attention_weights", "merge", "steps"]

class Grads(NamedTuple):
    """Gradients with respect to what was given, each of its shape and type; None for what was not."""

    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    dbias: np.ndarray | None
    dsink_logits: np.ndarray | None


def attention(q, k, v, *, mask=None, bias=None, causal=False, q_pos=None, k_pos=None, scale=None, softcap=None,
              sink_logits=None, score_mod=None, backend="auto", return_weights=False, return_lse=False):  # fmt: skip
    """For every query, the average of the values, weighted by how well their keys match it.

    Parameters
    ----------
    q : array, (..., H, N, D), or (N, D) for one head
    k : array, (..., G, S, D)
        H is a multiple of G; query head h reads KV head h // (H // G).
    v : array, (..., G, S, Dv)
        Leading axes of the three broadcast. Floats of 16 bits are accumulated in float32; the result has the type of the inputs.
    mask : Mask or bool array, optional
        True = may attend. An array is (N, S) or has the rank of the scores (..., H, N, S), 1 where it broadcasts.
    bias : array that broadcasts to (..., H, N, S), optional
        Added to the scaled (and capped) scores.
    causal : bool
        No key after the query's own position: `mask & masks.causal()`.
    q_pos, k_pos : integer arrays, (..., N) and (..., S), optional
        Where queries and keys stand; no head axis. By default keys are at 0 .. S-1 and the last query is at the last key.
        A key at -1 is an empty slot that nobody sees; a query at -1 is padding whose output is to be ignored.
    scale : float, optional
        1 / sqrt(D) by default.
    softcap : float, optional
        c: scores become c tanh(score / c), before bias and mask.
    sink_logits : array, (H,), optional
        One learned logit a head that joins the denominator and has no value: a way to attend to nothing.
    score_mod : callable, optional
        `score_mod(score, b, h, i, j)` in place of softcap: an entry of the scaled scores, the flat index over the axes before
        the heads, the head, and the positions; written entry by entry, as NumPy evaluates it on arrays.
    backend : {"auto", "numpy", "cpu", "cuda"}
        "numpy" is the reference, which forms the N x S scores; "cpu" goes tile by tile in O(N) memory, in float32 (and 16
        bits) by Numba kernels that are compiled when first used, in float64 by NumPy; "cuda" does so on a GPU, in float32 and
        16 bits, for D and Dv up to 128 and without score_mod. "auto" is "cuda" where the arrays live on a GPU; else "numpy" for
        up to 128 * 128 scores (B * H * N * S), where it is as fast and nothing need be compiled, and where Numba is absent;
        else "cpu".
    return_weights, return_lse : bool
        Also return the weights (..., H, N, S), and the log-sum-exp of the scores (..., H, N) in float32 or better.

    Returns
    -------
    out : array, (..., H, N, Dv)
        Or a tuple (out, weights, lse) of those asked for, in this order. A row that may attend to nothing gets out 0,
        weights 0 and lse -inf (the sink logit where there is one).

    Raises
    ------
    ShapeError, DtypeError, MaskError, PositionError, OptionError, BackendError
        All of them `MinattnError`; the text names argument, axis and both sizes.

    Notes
    -----
    Arrays on a GPU (PyTorch's, CuPy's, whatever has `__cuda_array_interface__`) stay there, as long as all of q, k and v do:
    kernels run after what is on the caller's stream, and results are arrays of the same library; others than PyTorch's and
    CuPy's get those of numba.cuda. Nothing is copied where an array is in one piece and D and Dv are equal and 32, 64 or 128;
    else it is, on the GPU. A mask or positions that live there are fetched. `attention_backward` gives gradients, autograd none.

    References
    ----------
    Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, eq (1).

    Examples
    --------
    Two queries before three keys; the second query matches the last key.

    >>> import numpy as np, minattn as ma
    >>> q, k = np.array([[0.0, 0.0], [0.0, 9.0]]), np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    >>> v = np.array([[1.0], [2.0], [9.0]])
    >>> ma.attention(q, k, v).round(2)
    array([[4.],
           [9.]])
    >>> ma.attention(q, k, v, causal=True, return_weights=True)[1].round(2)       # query 0 stands at key 1, query 1 at key 2
    array([[0.5, 0.5, 0. ],
           [0. , 0. , 1. ]])

    Ten things that people write:

    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 8, 6, 16))      # B = 2, H = 8, N = S = 6, D = 16
    >>> out = ma.attention(q, k, v, causal=True)                                  # 1 a decoder
    >>> out = ma.attention(q[..., :4, :], k, v)                                   # 2 cross-attention, N = 4 and S = 6
    >>> mask = ma.masks.causal() & ma.masks.padding([6, 3])                       # 3 rows of unequal length
    >>> out = ma.attention(q, k, v, mask=mask)
    >>> cache = ma.KVCache(2, 8, capacity=32, head_dim=16, dtype=q.dtype)         # 4 decoding with a cache
    >>> k_all, v_all, q_pos, k_pos = cache.append(k, v)
    >>> out = ma.attention(q, k_all, v_all, causal=True, q_pos=q_pos, k_pos=k_pos)
    >>> out = ma.attention(q[0], k[0, :2], v[0, :2])                              # 5 grouped heads: q (8, N, D), k (2, S, D)
    >>> mask = ma.masks.last(256) | ma.masks.first(4)                             # 6 a window that keeps the first tokens
    >>> out = ma.attention(q, k, v, mask=mask, causal=True)
    >>> w = ma.attention_weights(q, k, heads=3, causal=True)                      # 7 the map of one head
    >>> w.shape
    (2, 6, 6)
    >>> left = ma.attention(q, k[..., :3, :], v[..., :3, :], return_lse=True)     # 8 halves joined
    >>> right = ma.attention(q, k[..., 3:, :], v[..., 3:, :], return_lse=True)
    >>> np.allclose(ma.merge(*left, *right)[0], ma.attention(q, k, v))
    True
    >>> slopes = ma.positions.alibi_slopes(8)                                     # 9 ALiBi in one line
    >>> out = ma.attention(q, k, v, causal=True, score_mod=lambda s, b, h, i, j: s - slopes[h] * (i - j))
    >>> m = ma.models.Llama.random(ma.models.LlamaConfig(2, 12, 20, 6, 2, 4, 50, 64))     # 10 a map of a model, here untrained;
    >>> logits, w = m.forward([3, 1, 4, 1], return_weights=True)                  # ma.models.load("smollm2") is a real one
    >>> axes = ma.plot.heatmap(w[1, 5], ["the", "cat", "sat", "down"])
    """
    x = prepare(q, k, v, mask=mask, bias=bias, causal=causal, q_pos=q_pos, k_pos=k_pos, scale=scale, softcap=softcap,
                sink_logits=sink_logits, score_mod=score_mod, home=backends.home(backend, q=q, k=k, v=v))  # fmt: skip
    engine = backends.engine(backend, x)
    with np.errstate(invalid="ignore", over="ignore"):            # NaN in what nobody sees is fine, and what is seen shows
        out, weights, lse = engine.forward(x)
        if return_weights and weights is None:                    # a backend that never holds them makes them from the lse
            weights, = engine.weights(x, lse)
    results = [x.restore(out)]
    if return_weights:
        results.append(x.restore(weights))
    if return_lse:
        results.append(x.restore(lse, x.work))
    return results[0] if len(results) == 1 else tuple(results)


def attention_backward(dout, q, k, v, *, out=None, lse=None, score_mod_grad=None, mask=None, bias=None, causal=False,
                       q_pos=None, k_pos=None, scale=None, softcap=None, sink_logits=None, score_mod=None,
                       backend="auto"):  # fmt: skip
    """Gradients of `attention` with respect to q, k, v, and where given bias and sink_logits.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
        Gradient of a loss with respect to `out`.
    q, k, v and the options
        As they were given to `attention`.
    out, lse : arrays, (..., H, N, Dv) and (..., H, N), optional
        What the forward returned; they spare computing it again. Both or neither. Given those of attention over more keys
        than `k` holds, the result is the share of these keys, and the shares add up.
    score_mod_grad : callable, optional
        d score_mod / d score, with the same arguments. Without it, central differences in float64.

    Returns
    -------
    Grads(dq, dk, dv, dbias, dsink_logits)
        Each of the shape and type of its argument (what was broadcast is summed); None for what was not given.

    Raises
    ------
    ShapeError
        If dout, out or lse do not have the forward's shape; and whatever `attention` raises.

    References
    ----------
    Dao et al. 2022, "FlashAttention", arXiv:2205.14135, appendix B.2.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v, dout = np.random.default_rng(0).standard_normal((4, 3, 5, 8))    # H = 3, N = S = 5, D = 8
    >>> grads = ma.attention_backward(dout, q, k, v, causal=True)
    >>> step = np.zeros_like(q); step[1, 2, 3] = 1e-6                             # the slope along one number of q
    >>> up, down = (ma.attention(q + sign * step, k, v, causal=True) for sign in (1, -1))
    >>> bool(np.isclose(((up - down) * dout).sum() / 2e-6, grads.dq[1, 2, 3]))
    True
    """
    x = prepare(q, k, v, mask=mask, bias=bias, causal=causal, q_pos=q_pos, k_pos=k_pos, scale=scale, softcap=softcap,
                sink_logits=sink_logits, score_mod=score_mod, home=backends.home(backend, q=q, k=k, v=v))  # fmt: skip
    engine = backends.engine(backend, x)
    if (out is None) != (lse is None):
        raise OptionError("out and lse go together: give both, as attention(..., return_lse=True) returned them, or neither")
    if score_mod_grad is not None and score_mod is None:
        raise OptionError("score_mod_grad without score_mod")
    dout = x.accept("dout", dout, x.v.shape[-1:])
    if out is not None:
        out, lse = x.accept("out", out, x.v.shape[-1:]), x.accept("lse", lse)
    with np.errstate(invalid="ignore", over="ignore"):
        dq, dk, dv, dbias, dsink = engine.backward(x, dout, out, lse, score_mod_grad)
    return Grads(
        x.gradient(dq, q), x.gradient(dk, k), x.gradient(dv, v), None if bias is None else x.gradient(dbias, bias),
        dsink if sink_logits is None or x.home is not None else dsink.astype(np.asarray(sink_logits).dtype, copy=False),
    )  # fmt: skip


def attention_weights(q, k, *, lse=None, heads=None, rows=None, top=None, mask=None, bias=None, causal=False, q_pos=None,
                      k_pos=None, scale=None, softcap=None, sink_logits=None, score_mod=None, backend="auto"):  # fmt: skip
    """The attention map, or the part of it that is asked for, without the rest and without values.

    Parameters
    ----------
    q, k and the options
        As for `attention`.
    lse : array, (..., H, N), optional
        Of the whole problem, as `attention(..., return_lse=True)` returned it: nothing is normalised again.
    heads, rows : int or sequence of int, optional
        Which query heads and which queries, by index; an int drops the axis. Mask, bias and score_mod see the original head.
    top : int, optional
        Only the `top` largest weights of each row, in falling order (the earlier key first among equals).

    Returns
    -------
    weights : array, (..., H, N, S)
        Or, with `top=t`, a tuple (indices, values) of (..., H, N, t), padded with index -1 and value 0 where a row sees fewer.

    Raises
    ------
    OptionError
        If heads or rows lie outside of q, or top is below 1; and whatever `attention` raises.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k = np.random.default_rng(0).standard_normal((2, 4, 6, 8))             # H = 4, N = S = 6
    >>> ma.attention_weights(q, k, heads=2, rows=[0, 5], causal=True).shape
    (2, 6)
    >>> indices, values = ma.attention_weights(q, k, heads=2, rows=1, top=3, causal=True)
    >>> sorted(indices.tolist()), float(values[2])                                     # row 1 sees two keys
    ([-1, 0, 1], 0.0)
    """
    x = prepare(q, k, mask=mask, bias=bias, causal=causal, q_pos=q_pos, k_pos=k_pos, scale=scale, softcap=softcap,
                sink_logits=sink_logits, score_mod=score_mod, home=backends.home(backend, q=q, k=k))  # fmt: skip
    engine = backends.engine(backend, x)
    lse = None if lse is None else x.accept("lse", lse)
    top = None if top is None else count("top", top, 1)
    if x.home is not None and (heads is not None or rows is not None):
        raise BackendError("heads and rows choose from NumPy's arrays; of arrays on a GPU ask for the whole map, or give a part")
    if heads is not None or rows is not None:
        x, lse = x.select(heads, rows, lse)
    with np.errstate(invalid="ignore", over="ignore"):
        results = engine.weights(x, lse, top)
    results = [x.restore(a, None if a.dtype.kind == "f" else a.dtype) for a in results]
    if rows is not None and np.ndim(rows) == 0:
        results = [a[..., 0, :] for a in results]
    if heads is not None and np.ndim(heads) == 0:
        results = [a.take(0, axis=len(x.lead)) for a in results]
    return results[0] if top is None else tuple(results)


def steps(q, k, v, *, mask=None, bias=None, causal=False, q_pos=None, k_pos=None, scale=None, softcap=None,
          sink_logits=None, score_mod=None):  # fmt: skip
    """Every stage of `attention`, to look at: Steps(scores, scaled, capped, biased, masked, weights, out).

    Parameters
    ----------
    q, k, v and the options
        As for `attention`.

    Returns
    -------
    Steps
        Arrays (..., H, N, S), and out (..., H, N, Dv). A stage that no option asks for equals the one before it;
        `masked` holds -inf where a query may not look.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q = k = np.array([[2.0], [1.0]]); v = np.array([[10.0], [20.0]])          # one head, N = S = 2, D = 1
    >>> s = ma.steps(q, k, v, causal=True)
    >>> s.scores, s.masked[0]
    (array([[4., 2.],
           [2., 1.]]), array([  4., -inf]))
    """
    x = prepare(q, k, v, mask=mask, bias=bias, causal=causal, q_pos=q_pos, k_pos=k_pos, scale=scale, softcap=softcap,
                sink_logits=sink_logits, score_mod=score_mod)  # fmt: skip
    with np.errstate(invalid="ignore", over="ignore"):
        return Steps(*(x.restore(a) for a in reference.steps(x)))
