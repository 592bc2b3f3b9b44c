"""Transformer-XL: a segment attends to itself and to what the segments before it left, with positions counted as distances.

Dai et al. 2019, "Transformer-XL", arXiv:1901.02860, sections 3.2 and 3.3 and appendix B.

    x  tokens of a segment, (..., N, E)       memory  rows of the same layer's input from before, (..., M, E)
    S  keys, M + N                            R       sinusoids of the distances 0 .. S-1, (S, E)
    u, v   what a head asks of every key, and of every distance, (H, D)

    rows   = [memory, without gradient; x]
    q      = x w_q        k, w = rows w_k, rows w_v        r = R w_r        each split into H heads of D
    A_ij   = q_i . k_j + q_i . r_(i-j) + u . k_j + v . r_(i-j)              section 3.3
    out    = softmax(A / sqrt(D), over j <= i) w, heads merged, times w_o

The scale stands in the authors' code, not in the equation. Two of the four terms are attention with the query q + u; the
other two do not depend on what the key says, so they are a bias of attention: (q + v) . r_(i-j) / sqrt(D). The bias of row
i is a product of N x S with r read from distance i on backwards, so each row of (q + v) r^T has to be moved by one place
more than the next. `direct` looks up r for each pair; `shifted` moves the rows of the product by a pad and a reshape, and
is right where j <= i; the rest is other rows' numbers, which the causal mask hides.

A memory of M rows lets a token see M tokens back in one layer and L M in L layers. Evaluation is where it pays: a window
that slides by one token is computed anew for each, all M + 1 rows of it; here one row is.
"""
from typing import NamedTuple

import numpy as np

from ..attention import attention, attention_backward
from ..core.errors import OptionError, ShapeError
from ..core.positions import sinusoidal
from ..core.projection import merge_heads, split_heads, weight_gradient
from ..core.shapes import choice, common_type, count, float_type, floats, working_type


class XLWeights(NamedTuple):
    """What one attention layer of Transformer-XL has learned."""

    w_q: np.ndarray                   # (E, H * D)
    w_k: np.ndarray                   # (E, H * D)
    w_v: np.ndarray                   # (E, H * D)
    w_r: np.ndarray                   # (E, H * D), of the distances
    w_o: np.ndarray                   # (H * D, E)
    u: np.ndarray                     # (H, D)
    v: np.ndarray                     # (H, D)

    @classmethod
    def random(cls, width, *, heads, head_dim=None, seed=0, dtype=np.float64):
        """Drawn weights with E = `width`, and D = E / H unless `head_dim` says otherwise; u and v from N(0, 1)."""
        width, heads, rng = count("width", width, 1), count("heads", heads, 1), np.random.default_rng(count("seed", seed, 0))
        D = count("head_dim", width // heads if head_dim is None else head_dim, 1)
        shapes = [(width, heads * D)] * 4 + [(heads * D, width)]
        drawn = [rng.standard_normal(shape) / shape[0] ** 0.5 for shape in shapes] + list(rng.standard_normal((2, heads, D)))
        return cls(*(a.astype(float_type(dtype, "layer")) for a in drawn))


class Grads(NamedTuple):
    """Gradients with respect to the tokens and to each of the weights; the memory has none."""

    dx: np.ndarray
    dweights: XLWeights


def transformer_xl_attention(x, weights, *, segment=None, memory_length=None, memory=None, form="shift", return_memory=False):
    """Attention of each segment to itself and to the rows that it remembers, by content and distance.

    Parameters
    ----------
    x : array, (..., N, E)
    weights : XLWeights
    segment : int, optional
        Tokens that are computed together; by default all N.
    memory_length : int, optional
        M: rows that a segment finds of those before it; by default as many as a segment has tokens. 0 keeps none.
    memory : array, (..., M, E), optional
        What an earlier call returned, or other rows for the first segment to see; without it there are none.
    form : {"shift", "direct"}
        Two ways to the same position term.
    return_memory : bool
        Also return the rows that the next token is to find.

    Returns
    -------
    out : array, (..., N, E)
    memory : array, (..., at most M, E), only with return_memory=True

    Raises
    ------
    ShapeError
        If the weights or the memory do not fit x or each other.
    OptionError
        If form is unknown, E is odd, segment is below 1 or memory_length below 0.

    References
    ----------
    Dai et al. 2019, arXiv:1901.02860, section 3.3.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> weights, x = ma.XLWeights.random(8, heads=2), np.random.default_rng(0).standard_normal((12, 8))
    >>> whole = ma.transformer_xl_attention(x, weights)
    >>> parts = ma.transformer_xl_attention(x, weights, segment=5, memory_length=12)      # memory enough: one pass
    >>> short = ma.transformer_xl_attention(x, weights, segment=5, memory_length=2)
    >>> np.allclose(parts, whole), np.allclose(short[:5], whole[:5]), np.allclose(short[5:], whole[5:])
    (True, True, False)
    """
    x, w, memory, dtype = prepared(x, weights, memory)
    choice("form", form, FORMS)
    segment, length = _sizes(segment, memory_length, x.shape[-2])
    out = np.empty(x.shape, x.dtype)
    for here, rows in segments(x, memory, segment, length):
        q, k, v, r = heads_of(rows, x[here].shape[-2], w)
        bias = FORMS[form](q + w.v[:, None], r) / q.shape[-1] ** 0.5
        out[here] = merge_heads(attention(q + w.u[:, None], k, v, bias=bias, causal=True)) @ w.w_o
    out = out.astype(dtype, copy=False)
    if not return_memory:
        return out
    return out, latest(np.concatenate([memory, x], axis=-2), length).astype(dtype, copy=False)


def direct(q, r):
    """q_i . r_(i-j), pair by pair: q (..., H, N, D), r (H, S, D) by distance -> (..., H, N, S), 0 where j > i."""
    N, S = q.shape[-2], r.shape[-2]
    distance = np.arange(S - N, S)[:, None] - np.arange(S)                        # (N, S): the last query stands at the last key
    return np.where(distance >= 0, np.einsum("...hnd,hnsd->...hns", q, r[:, distance.clip(0)]), 0)


def shifted(q, r):
    """As `direct` where j <= i, by one product; where j > i stand numbers of the next row.

    With r from the longest distance down to 0, row i of the product has its distance S-1 in column 0, and it should stand
    N-1-i columns further left. One column more in front, read as rows of N instead of S + 1, does that.
    """
    product = q @ r[:, ::-1].swapaxes(-1, -2)                                     # (..., H, N, S)
    *lead, N, S = product.shape
    padded = np.concatenate([np.zeros((*lead, N, 1), product.dtype), product], axis=-1)
    return padded.reshape(*lead, S + 1, N)[..., 1:, :].reshape(*lead, N, S)


def shifted_back(dscores):
    """Gradient of the product in `shifted`, before r is turned round: the same moves from last to first."""
    *lead, N, S = dscores.shape
    padded = np.concatenate([np.zeros((*lead, N), dscores.dtype), dscores.reshape(*lead, N * S)], axis=-1)
    return padded.reshape(*lead, N, S + 1)[..., 1:]


FORMS = {"shift": shifted, "direct": direct}


def transformer_xl_attention_backward(dout, x, weights, *, segment=None, memory_length=None, memory=None):
    """Gradients of `transformer_xl_attention`, each segment's own: nothing flows into the rows that it remembers.

    The weights learn from remembered rows too, since these pass through w_k and w_v; the tokens that they came from do not.

    Parameters
    ----------
    dout : array, (..., N, E)
    x, weights, segment, memory_length, memory
        As for `transformer_xl_attention`.

    Returns
    -------
    Grads(dx, dweights)
        dweights is an XLWeights.

    Raises
    ------
    ShapeError
        If dout is not of x's shape; and whatever `transformer_xl_attention` raises.

    References
    ----------
    Dai et al. 2019, arXiv:1901.02860, section 3.2.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> weights, x = ma.XLWeights.random(8, heads=2), np.random.default_rng(0).standard_normal((6, 8))
    >>> dout = np.zeros((6, 8)); dout[3:] = 1                                     # the second segment's loss alone
    >>> np.abs(ma.transformer_xl_attention_backward(dout, x, weights, segment=3).dx).max(axis=-1) > 0
    array([False, False, False,  True,  True,  True])
    """
    given, (x, w, memory, _) = (x, weights), prepared(x, weights, memory)
    dout = floats("dout", dout)
    if dout.shape != x.shape:
        raise ShapeError(f"dout is {dout.shape} but x is {x.shape}; they must be the same (..., N, E)")
    dout, dx = dout.astype(x.dtype, copy=False), np.empty(x.shape, x.dtype)
    dw = XLWeights(*(np.zeros(a.shape, x.dtype) for a in w))
    for here, rows in segments(x, memory, *_sizes(segment, memory_length, x.shape[-2])):
        N, scale = x[here].shape[-2], w.u.shape[-1] ** -0.5
        q, k, v, r = heads_of(rows, N, w)
        bias = shifted(q + w.v[:, None], r) * scale
        heads = attention(q + w.u[:, None], k, v, bias=bias, causal=True)
        d = attention_backward(split_heads(dout[here] @ w.w_o.T, len(w.u)), q + w.u[:, None], k, v, bias=bias, causal=True)
        dproduct = shifted_back(d.dbias * scale)
        dq_distance = dproduct @ r[:, ::-1]
        dr = (dproduct.swapaxes(-1, -2) @ (q + w.v[:, None]))[..., ::-1, :]
        dr = dr.reshape(-1, *r.shape).sum(axis=0)                                 # shared by all rows of the batch
        dq, dk, dv = merge_heads(d.dq + dq_distance), merge_heads(d.dk), merge_heads(d.dv)
        dx[here] = dq @ w.w_q.T + (dk @ w.w_k.T + dv @ w.w_v.T)[..., rows.shape[-2] - N:, :]
        parts = (weight_gradient(x[here], dq), weight_gradient(rows, dk), weight_gradient(rows, dv),
                 sinusoids(rows).T @ merge_heads(dr), weight_gradient(merge_heads(heads), dout[here]),
                 *(a.sum(axis=-2).reshape(-1, *w.u.shape).sum(axis=0) for a in (d.dq, dq_distance)))  # fmt: skip
        for total, part in zip(dw, parts, strict=True):
            total += part
    dw = XLWeights(*(a.astype(np.asarray(own).dtype, copy=False) for a, own in zip(dw, given[1], strict=True)))
    return Grads(dx.astype(np.asarray(given[0]).dtype, copy=False), dw)


def segments(x, memory, segment, length):
    """(where, rows) of each segment: a slice of x, and its tokens behind the rows that it remembers."""
    for start in range(0, x.shape[-2], segment):
        here = np.s_[..., start:start + segment, :]
        rows = np.concatenate([memory, x[here]], axis=-2)
        yield here, rows
        memory = latest(rows, length)


def latest(rows, length):
    """The last `length` rows, or all where there are fewer."""
    return rows[..., max(rows.shape[-2] - length, 0):, :]


def sinusoids(rows):
    """R, one line for each distance from 0 to that of the first of the rows."""
    return sinusoidal(np.arange(rows.shape[-2]), rows.shape[-1]).astype(rows.dtype)


def heads_of(rows, N, w):
    """q (..., H, N, D) of the last N rows, k and v (..., H, S, D) of all, r (H, S, D) of all distances."""
    H = len(w.u)
    return (split_heads(latest(rows, N) @ w.w_q, H), split_heads(rows @ w.w_k, H), split_heads(rows @ w.w_v, H),
            split_heads(sinusoids(rows) @ w.w_r, H))  # fmt: skip


def _sizes(segment, memory_length, N):
    segment = max(N, 1) if segment is None else count("segment", segment, 1)
    return segment, segment if memory_length is None else count("memory_length", memory_length, 0)


def prepared(x, weights, memory):
    """x, weights and memory in the type to compute in, once they fit each other; and the type of the results."""
    x = floats("x", x)
    if x.ndim < 2:
        raise ShapeError(f"x is {x.shape}; it must be (..., N, E)")
    w, E = checked(weights, x.shape[-1:]), x.shape[-1]
    memory = x[..., :0, :] if memory is None else floats("memory", memory)
    if memory.ndim != x.ndim or (*memory.shape[:-2], memory.shape[-1]) != (*x.shape[:-2], E):
        raise ShapeError(f"memory is {memory.shape} but x is {x.shape}; they may differ in their length alone: (..., M, E)")
    dtype = common_type(x=x, memory=memory, **w._asdict())
    work = working_type(dtype)
    w = XLWeights(*(a.astype(work, copy=False) for a in w))
    return x.astype(work, copy=False), w, memory.astype(work, copy=False), dtype


def checked(weights, width):
    """The weights as arrays of floats, once they fit each other and rows of `width` (E,)."""
    if not isinstance(weights, XLWeights):
        raise OptionError(f"weights is {type(weights).__name__}; it must be an XLWeights")
    w = XLWeights(*(floats(name, a) for name, a in zip(XLWeights._fields, weights, strict=True)))
    if w.u.ndim != 2 or 0 in w.u.shape:
        raise ShapeError(f"u is {w.u.shape}; it must be (H, D), one vector a head")
    (E,), (H, D) = width or (0,), w.u.shape
    for name, a, shape, letters in zip(w._fields, w, [(E, H * D)] * 4 + [(H * D, E)] + [(H, D)] * 2,
                                       ["(E, H D)"] * 4 + ["(H D, E)"] + ["(H, D)"] * 2, strict=True):  # fmt: skip
        if a.shape != shape:
            raise ShapeError(f"{name} is {a.shape}; with x of E = {E} and u of H = {H}, D = {D} it must be {letters} = {shape}")
    return w
