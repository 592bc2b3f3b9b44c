"""Softmax, its log-sum-exp, and the merge of two partial softmaxes.

    s_j     scores of one row                   lse   log sum_j exp(s_j)
    w_j     exp(s_j - lse), the weights         out   sum_j w_j v_j

The log-sum-exp is the one number that a row must keep: with it the weights can be made again from the scores,
and two rows over different keys can be joined as if they had been one (`merge`). Numerically stable softmax:
Milakov and Gimelshein 2018, arXiv:1805.02867; the merge: Dao et al. 2022, arXiv:2205.14135, section 3.1.
"""
import numpy as np

from .errors import DtypeError, ShapeError
from .shapes import as_array, common_type, floats


def softmax_lse(scores, axis=-1, sink=None):
    """Weights and log-sum-exp of `scores` along one axis; a row of -inf gives weights 0 and lse -inf.

    `sink`, which broadcasts to `scores` with size 1 along `axis`, is one more logit: it joins the denominator and
    takes no weight with it, so the weights of a row then sum to less than 1.
    """
    top = np.max(scores, axis=axis, keepdims=True, initial=-np.inf)
    if sink is not None:
        top = np.maximum(top, sink)
    top = np.where(np.isneginf(top), 0, top)            # nothing to see: exp(-inf - 0) is 0, exp(-inf + inf) is NaN
    weights = np.exp(scores - top)
    total = weights.sum(axis=axis, keepdims=True)
    if sink is not None:
        total = total + np.exp(sink - top)
    with np.errstate(divide="ignore"):                  # log 0 = -inf is the right answer for an empty row
        lse = np.log(total) + top
    weights /= np.where(total == 0, 1, total)
    return weights, np.squeeze(lse, axis=axis)


def _scores(scores):
    """(scores as an array, the same to sum in): 16-bit floats as float32, integers as float64."""
    scores = as_array("scores", scores)
    if scores.dtype.kind not in "biuf" and scores.dtype.name != "bfloat16":
        raise DtypeError(f"scores are {scores.dtype}; they must be real numbers")
    return scores, scores.astype(np.result_type(scores.dtype, np.float32), copy=False)


def softmax(scores, axis=-1):
    """exp(s_j) / sum_j exp(s_j) along one axis, without overflow; a row of -inf gives zeros.

    Parameters
    ----------
    scores : array of floats
    axis : int

    Returns
    -------
    array of the same shape

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> ma.softmax(np.log([1.0, 2.0, 5.0]))
    array([0.125, 0.25 , 0.625])
    >>> ma.softmax(np.array([1e4, 1e4, -np.inf]))
    array([0.5, 0.5, 0. ])
    """
    scores, wide = _scores(scores)
    weights = softmax_lse(wide, axis)[0]
    return weights if scores.dtype.kind in "biu" else weights.astype(scores.dtype, copy=False)


def logsumexp(scores, axis=-1):
    """log sum_j exp(s_j) along one axis, without overflow; -inf for a row of -inf and for an empty one.

    Parameters
    ----------
    scores : array of floats
    axis : int

    Returns
    -------
    array, one axis less

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> ma.logsumexp(np.array([[1000.0, 1000.0], [-np.inf, 0.0]])).round(3)
    array([1000.693,    0.   ])
    """
    return softmax_lse(_scores(scores)[1], axis)[1]


def merge(out_a, lse_a, out_b, lse_b):
    """The attention over the union of two disjoint sets of keys, from the attention over each.

    Each part is a softmax average of its own keys; its total, exp(lse), is the weight that it has in the whole:

        lse = log(exp(lse_a) + exp(lse_b)),   out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b

    Commutative to the last bit, associative up to rounding, and the empty part (out 0, lse -inf) changes nothing.

    Parameters
    ----------
    out_a, out_b : array, (..., N, Dv)
    lse_a, lse_b : array, (..., N)
        Natural log-sum-exp of each part's scores, as `attention(..., return_lse=True)` returns it.

    Returns
    -------
    out : array, (..., N, Dv)
    lse : array, (..., N)

    Raises
    ------
    ShapeError
        If an lse does not have the shape of its out without Dv, or the two outs differ.
    DtypeError
        If one of them is not of floats.

    References
    ----------
    Dao et al. 2022, "FlashAttention", arXiv:2205.14135, section 3.1.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 5, 4))          # one head, five tokens, D = 4
    >>> left = ma.attention(q, k[:, :2], v[:, :2], return_lse=True)
    >>> right = ma.attention(q, k[:, 2:], v[:, 2:], return_lse=True)
    >>> out, lse = ma.merge(*left, *right)
    >>> np.allclose(out, ma.attention(q, k, v))
    True
    """
    out_a, out_b, lse_a, lse_b = map(floats, ("out_a", "out_b", "lse_a", "lse_b"), (out_a, out_b, lse_a, lse_b))
    dtype = common_type(out_a=out_a, out_b=out_b)
    for name, out, lse in (("a", out_a, lse_a), ("b", out_b, lse_b)):
        if out.shape[:-1] != lse.shape:
            raise ShapeError(f"lse_{name} is {lse.shape} but out_{name} is {out.shape}; lse must be (..., N) = {out.shape[:-1]}")
    if out_a.shape != out_b.shape:
        raise ShapeError(f"out_a is {out_a.shape} but out_b is {out_b.shape}; both parts must have the same (..., N, Dv)")
    with np.errstate(invalid="ignore"):                 # NaN that is given goes through
        lse = np.logaddexp(lse_a, lse_b)
    base = np.where(np.isneginf(lse), 0, lse)           # both empty: weights exp(-inf) = 0, not exp(-inf + inf)
    out = np.exp(lse_a - base)[..., None] * out_a + np.exp(lse_b - base)[..., None] * out_b
    return out.astype(dtype, copy=False), lse
