"""From tokens to queries, keys and values, and from one wide row to many heads and back.

    x   (..., N, E)   the tokens that ask           w_q  (E, H * D)
    y   (..., S, E)   the tokens that are asked     w_k  (E, G * D),  w_v  (E, G * Dv)

    q = x w_q,   k = y w_k,   v = y w_v       self-attention: y is x; cross-attention: y is `context`

Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.2.2. Grouped heads: Ainslie et al. 2023,
arXiv:2305.13245.
"""
from typing import NamedTuple

import numpy as np

from .errors import ShapeError
from .shapes import as_array, count


class ProjectionGrads(NamedTuple):
    """What `project_qkv_backward` returns; None for what was not given."""

    dx: np.ndarray
    dw_q: np.ndarray
    dw_k: np.ndarray
    dw_v: np.ndarray
    dcontext: np.ndarray | None
    db_q: np.ndarray | None
    db_k: np.ndarray | None
    db_v: np.ndarray | None


def _linear(name, x, w, b):
    if x.ndim < 2 or w.ndim != 2 or x.shape[-1] != w.shape[0]:
        raise ShapeError(f"w_{name} is {w.shape} but its input is {x.shape}; it must be (E, E_out) with the E of (..., N, E)")
    if b is not None and np.shape(b) != (w.shape[1],):
        raise ShapeError(f"b_{name} is {np.shape(b)} but w_{name} has E_out = {w.shape[1]}; b_{name} must be (E_out,)")
    return x @ w if b is None else x @ w + b


def project_qkv(x, w_q, w_k, w_v, *, context=None, b_q=None, b_k=None, b_v=None):
    """Queries of `x`, keys and values of `context` (of `x` itself without one).

    Parameters
    ----------
    x : array, (..., N, E)
    w_q, w_k, w_v : array, (E_in, E_out)
    context : array, (..., S, E), optional
        The tokens that are attended to; None is self-attention.
    b_q, b_k, b_v : array, (E_out,), optional

    Returns
    -------
    q : array, (..., N, E_out)
    k, v : array, (..., S, E_out)

    Raises
    ------
    ShapeError
        If E of an input and E_in of its weight differ.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> x, w = np.eye(2), np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    >>> q, k, v = ma.project_qkv(x, w, 2 * w, -w)
    >>> k[1]
    array([ 8., 10., 12.])
    """
    x, w_q, w_k, w_v = map(as_array, ("x", "w_q", "w_k", "w_v"), (x, w_q, w_k, w_v))
    y = x if context is None else as_array("context", context)
    return _linear("q", x, w_q, b_q), _linear("k", y, w_k, b_k), _linear("v", y, w_v, b_v)


def weight_gradient(x, dout):
    """Gradient of `x @ w` with respect to w, (E_in, E_out), summed over all rows of the batch."""
    return x.reshape(-1, x.shape[-1]).T @ dout.reshape(-1, dout.shape[-1])


def project_qkv_backward(dq, dk, dv, x, w_q, w_k, w_v, *, context=None, b_q=None, b_k=None, b_v=None):
    """Gradients of `project_qkv` for the gradients (..., N, E_out) of its three results."""
    y = x if context is None else context
    dy = dk @ w_k.T + dv @ w_v.T                                      # (..., S, E)
    dx = dq @ w_q.T                                                   # (..., N, E)
    dw_q, dw_k, dw_v = weight_gradient(x, dq), weight_gradient(y, dk), weight_gradient(y, dv)
    db_q, db_k, db_v = (
        None if b is None else da.sum(axis=tuple(range(da.ndim - 1))) for b, da in ((b_q, dq), (b_k, dk), (b_v, dv))
    )
    dx, dcontext = (dx + dy, None) if context is None else (dx, dy)
    return ProjectionGrads(dx, dw_q, dw_k, dw_v, dcontext, db_q, db_k, db_v)


def split_heads(x, heads):
    """(..., N, heads * D) -> (..., heads, N, D): each head takes D neighbouring columns.

    First the last axis is cut in two, then the heads step in front of the length. A reshape alone would give the
    right shape and mix tokens with heads.

    Raises
    ------
    ShapeError
        If the last axis does not divide by `heads`.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> x = np.arange(12.0).reshape(2, 6)                             # two tokens, E = 6
    >>> ma.split_heads(x, 3)[1]                                       # head 1: columns 2 and 3 of both tokens
    array([[2., 3.],
           [8., 9.]])
    """
    x, heads = as_array("x", x), count("heads", heads, 0)
    if x.ndim < 2 or heads < 1 or x.shape[-1] % heads:
        raise ShapeError(f"x is {x.shape} and H = {heads}; to be split it must be (..., N, E) with E a multiple of H")
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).swapaxes(-2, -3)


def merge_heads(x):
    """(..., heads, N, D) -> (..., N, heads * D), the inverse of `split_heads`.

    Raises
    ------
    ShapeError
        If x has fewer than three axes.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> x = np.arange(12.0).reshape(2, 6)
    >>> bool((ma.merge_heads(ma.split_heads(x, 3)) == x).all())
    True
    """
    x = np.asarray(x)
    if x.ndim < 3:
        raise ShapeError(f"x is {x.shape}; merge_heads needs (..., heads, N, D)")
    x = x.swapaxes(-2, -3)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def repeat_kv(k, groups):
    """(..., G, S, D) -> (..., G * groups, S, D): each KV head stands `groups` times in a row, 0 0 1 1, never 0 1 0 1.

    `attention` does this without the copy; here it is for whoever wants to see it, or needs it elsewhere.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> ma.repeat_kv(np.array([[[1.0]], [[2.0]]]), 3).ravel()
    array([1., 1., 1., 2., 2., 2.])
    """
    k, groups = np.asarray(k), count("groups", groups, 0)
    if k.ndim < 3 or groups < 1:
        raise ShapeError(f"k is {k.shape} and groups = {groups}; repeat_kv needs (..., G, S, D) and at least one repeat")
    return np.repeat(k, groups, axis=-3)
