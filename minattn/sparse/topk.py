"""Top-k attention: each query attends to those of the keys that it may see whose scores are the largest, and to no others.

    score (N, S)    scale * q k^T, after softcap or score_mod, bias and mask: as in attention
    keep            so many keys remain for each query
    kept (N, S)     score is among the `keep` largest of its row; of equal ones the earlier key is taken first
    weights         softmax over the kept keys alone, so they sum to 1

Gupta et al. 2021, "Memory-efficient Transformers via Top-k Attention", arXiv:2106.06899, section 2; Zhao et al. 2019,
"Explicit Sparse Transformer", arXiv:1912.11637, eqs (3) to (5).

All N x S scores are computed, a block of queries at a time, so memory is saved and not time. The gradient is that of
attention with `kept` as its mask: it flows through the kept scores alone, and the choice itself has none.
"""
from dataclasses import replace

import numpy as np

from ..attention import Grads
from ..core import reference
from ..core.inputs import prepare
from ..core.shapes import count
from ..flash.online import blocks, collect


def topk_attention(q, k, v, *, keep, mask=None, bias=None, causal=False, q_pos=None, k_pos=None, scale=None, softcap=None,
                   score_mod=None, return_lse=False):  # fmt: skip
    """Attention of every query to the `keep` keys that match it best, among those that it may see.

    Parameters
    ----------
    q : array, (..., H, N, D), or (N, D) for one head
    k : array, (..., G, S, D)
    v : array, (..., G, S, Dv)
    keep : int
        Keys for each query; from S on it is attention. Of equal scores the earlier keys are kept.
    mask, bias, causal, q_pos, k_pos, scale, softcap, score_mod
        As for `attention`.
    return_lse : bool
        Also return the log-sum-exp of the kept scores, (..., H, N).

    Returns
    -------
    out : array, (..., H, N, Dv)
        Or (out, lse). A row that may attend to nothing gets out 0 and lse -inf.

    Raises
    ------
    OptionError
        If keep is below 1 or no integer; and whatever `attention` raises.

    References
    ----------
    Gupta et al. 2021, "Memory-efficient Transformers via Top-k Attention", arXiv:2106.06899, section 2.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k = np.array([[1.0]]), np.log([[1.0], [3.0], [2.0]])                   # the weights are 1/6, 3/6 and 2/6
    >>> v = np.array([[600.0], [10.0], [60.0]])
    >>> ma.topk_attention(q, k, v, keep=2)                                        # of the kept, 3/5 and 2/5
    array([[30.]])
    >>> np.allclose(ma.topk_attention(q, k, v, keep=3), ma.attention(q, k, v))
    True
    """
    keep = count("keep", keep, 1)
    x = prepare(q, k, v, mask=mask, bias=bias, causal=causal, q_pos=q_pos, k_pos=k_pos, scale=scale, softcap=softcap,
                score_mod=score_mod)  # fmt: skip
    (_, H, N, _), Dv = x.q.shape, x.v.shape[-1]
    out, lse = np.empty((x.batch, H, N, Dv), x.work), np.empty((x.batch, H, N), x.work)
    with np.errstate(invalid="ignore", over="ignore"):
        for rows in blocks(N, 64):
            out[:, :, rows], _, lse[:, :, rows] = reference.forward(largest(x.tile(rows, slice(None)), keep))
    return (x.restore(out), x.restore(lse, x.work)) if return_lse else x.restore(out)


def topk_attention_backward(dout, q, k, v, *, keep, score_mod_grad=None, mask=None, bias=None, causal=False, q_pos=None,
                            k_pos=None, scale=None, softcap=None, score_mod=None):  # fmt: skip
    """Gradients of `topk_attention`, through the kept scores.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
    score_mod_grad : callable, optional
        As for `attention_backward`.
    q, k, v, keep and the options
        As they were given to `topk_attention`.

    Returns
    -------
    Grads(dq, dk, dv, dbias, dsink_logits)
        dbias is None without a bias, and dsink_logits always.

    Raises
    ------
    ShapeError
        If dout does not have the output's shape; and whatever `topk_attention` raises.

    References
    ----------
    Gupta et al. 2021, "Memory-efficient Transformers via Top-k Attention", arXiv:2106.06899, section 2.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.array([[1.0]]), np.array([[0.0], [2.0], [1.0]]), np.eye(3)
    >>> ma.topk_attention_backward(np.ones((1, 3)), q, k, v, keep=2).dv[:, 0].round(2)
    array([0.  , 0.73, 0.27])
    """
    keep = count("keep", keep, 1)
    x = prepare(q, k, v, mask=mask, bias=bias, causal=causal, q_pos=q_pos, k_pos=k_pos, scale=scale, softcap=softcap,
                score_mod=score_mod)  # fmt: skip
    dout = x.accept("dout", dout, x.v.shape[-1:])
    dq = np.zeros(x.q.shape, x.work)
    dk, dv = (np.zeros((x.batch, *a.shape[1:]), x.work) for a in (x.k, x.v))
    dbias = None if x.bias is None else np.zeros(x.bias.shape, x.work)
    with np.errstate(invalid="ignore", over="ignore"):
        for rows in blocks(x.q.shape[2], 64):
            part = largest(x.tile(rows, slice(None)), keep)
            parts = reference.backward(part, dout[:, :, rows], score_mod_grad=score_mod_grad)
            dq[:, :, rows] = parts[0]
            dk += parts[1]
            dv += parts[2]
            if dbias is not None:
                collect(dbias, parts[3], rows, slice(None))
    return Grads(
        x.gradient(dq, q), x.gradient(dk, k), x.gradient(dv, v), None if bias is None else x.gradient(dbias, bias), None
    )


def largest(x, keep):
    """The problem `x` in which every query sees only the `keep` keys of its largest scores."""
    S = x.k.shape[2]
    if keep >= S:
        return x
    scores, visible = reference.last_stage(x), x.visible()
    least = np.partition(scores, S - keep, axis=-1)[..., S - keep, None]          # the smallest score that is kept
    above, equal = ~(scores <= least), scores == least                            # NaN counts as above: it is to be seen
    room = keep - above.sum(axis=-1, keepdims=True)
    kept = above | (equal & (equal.cumsum(axis=-1) <= room))
    return replace(x, array=kept if visible is None else kept & visible)
