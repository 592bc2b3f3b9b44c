"""Scaled dot-product attention as it is defined, with every step in sight: the oracle that all faster forms are held to.

Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, eq (1).

    q (B, H, N, D)   queries        scores   q k^T                      (B, H, N, S)
    k (B, G, S, D)   keys           scaled   scores * scale,            scale = 1 / sqrt(D)
    v (B, G, S, Dv)  values         capped   c tanh(scaled / c), or score_mod(scaled, b, h, i, j)
                                    biased   capped + bias
                                    masked   biased, -inf where a query may not look
                                    weights  softmax over the keys
                                    out      weights v                  (B, H, N, Dv)

Backward, with dX for the gradient with respect to X (the same equation, differentiated):

    dV = P^T dO     dP = dO V^T     delta = rowsum(dO * O)     dS = P * (dP - delta)
    dQ = scale * dS K               dK = scale * dS^T Q        and dS times the slope of softcap or score_mod before these

Two things are decided from the mask and not from numbers: a row that sees nothing gives zeros, and a NaN or inf in a key
or value that a row may not see cannot reach it (`product`).
"""
from typing import NamedTuple

import numpy as np

from .errors import DtypeError, ShapeError
from .softmax import softmax_lse


class Steps(NamedTuple):
    """Every stage of one attention, in the order of computing; stages that an option leaves out repeat the one before."""

    scores: np.ndarray
    scaled: np.ndarray
    capped: np.ndarray
    biased: np.ndarray
    masked: np.ndarray
    weights: np.ndarray
    out: np.ndarray


def stages(x):
    """The stages before the softmax, one after the other, as (name, array): whoever needs only the last keeps no other."""
    q, k = x.q.astype(x.work, copy=False), x.k.astype(x.work, copy=False)
    s = ungroup(group(q, k.shape[1]) @ k.swapaxes(-1, -2), q.shape[1])            # (B, H, N, S)
    yield "scores", s
    s = s * x.scale
    yield "scaled", s
    if x.softcap is not None:
        s = x.softcap * np.tanh(s / x.softcap)
    elif x.score_mod is not None:
        s = modify(x.score_mod, s, x)
    yield "capped", s
    if x.bias is not None:
        s = s + x.bias.astype(x.work, copy=False)
    yield "biased", s
    visible = x.visible()
    if visible is not None:
        s = np.where(visible, s, -np.inf)
    yield "masked", s


def last_stage(x):
    """The masked scores; each earlier stage is let go as the next one stands."""
    for _, scores in stages(x):
        masked = scores
    return masked


def group(a, G):
    """(B, H, N, D) -> (B, G, H//G * N, D): query head h reads KV head h // (H//G), so the heads of a group are
    nothing but more rows before the same keys. No KV head is ever copied."""
    B, H, N, D = a.shape
    return a.reshape(B, G, H // G * N, D)


def ungroup(a, H):
    """(B, G, H//G * N, D) -> (B, H, N, D)."""
    B, G, rows, D = a.shape
    return a.reshape(B, H, G * rows // H, D)


def product(weights, visible, values):
    """weights @ values over the keys, in which a pair that is not visible adds exactly nothing.

    Its weight is 0, but 0 * NaN is NaN: so values that are not finite are left out of the product, and then added to
    the rows that do see them.
    """
    wild = ~np.isfinite(values).all(axis=-1, keepdims=True)                       # (B, G, S, 1)
    if visible is None or not wild.any():
        return weights @ values
    out = weights @ np.where(wild, 0, values)
    values = np.where(wild, values, 0)
    for s in np.flatnonzero(wild.any(axis=(0, 1, 3))):
        pair = weights[..., s, None] * values[..., s, None, :]                    # (B, G, rows, D)
        out += np.where(visible[..., s, None], pair, 0)
    return out


def hide(a, visible):
    return a if visible is None else np.where(visible, a, 0)


def modify(function, s, x):
    """score_mod or its gradient at every score; b, h, i, j broadcast to (B, H, N, S)."""
    where = x.grid()
    out = np.asarray(function(s, where.b, where.h, where.i, where.j))
    name = getattr(function, "__name__", "score_mod")
    if out.dtype.kind not in "iuf":
        raise DtypeError(f"{name} returns {'nothing' if out.dtype == object else out.dtype}; it must return the changed scores")
    try:
        return np.broadcast_to(out, s.shape).astype(x.work, copy=False)
    except ValueError as error:
        shapes = f"shape {out.shape} for scores (B, H, N, S) = {s.shape}"
        raise ShapeError(f"{name} returns {shapes}; it must work entry by entry") from error


def visible_pairs(x, scores):
    """`x.visible()` at full size, beside grouped rows: (B, G, H//G * N, S), or None."""
    visible = x.visible()
    return None if visible is None else group(np.broadcast_to(visible, scores.shape), x.k.shape[1])


def forward(x):
    """(out, weights, lse) of the problem `x`: (B, H, N, Dv), (B, H, N, S), (B, H, N)."""
    weights, lse = normalize(x, last_stage(x))
    return weighted_values(x, weights), weights, lse


def weights(x, lse=None, top=None):
    """The weights of `x`, which needs no values, as a tuple of one; with `top`, (indices, values) of the largest of each row."""
    weights, _ = normalize(x, last_stage(x), lse)
    if top is None:
        return (weights,)
    visible = x.visible()
    ranked = weights if visible is None else np.where(visible, weights, -1)       # what is hidden is never among them
    indices = np.argsort(-ranked, axis=-1, kind="stable")[..., :top]
    values = np.take_along_axis(ranked, indices, axis=-1)
    indices, values = np.where(values < 0, -1, indices), np.where(values < 0, 0, values)
    missing = [(0, 0)] * 3 + [(0, top - indices.shape[-1])]
    return np.pad(indices, missing, constant_values=-1), np.pad(values, missing)


def steps(x):
    """Every stage, as `Steps`."""
    named = dict(stages(x))
    weights, _ = normalize(x, named["masked"])
    return Steps(**named, weights=weights, out=weighted_values(x, weights))


def normalize(x, masked, lse=None):
    """Weights and log-sum-exp of masked scores; the weights that belong to a given lse, where there is one."""
    if lse is None:
        sink = None if x.sink_logits is None else x.sink_logits.astype(x.work)[:, None, None]
        weights, lse = softmax_lse(masked, sink=sink)
    else:
        lse = lse.astype(x.work, copy=False)
        weights = np.exp(masked - np.where(np.isneginf(lse), 0, lse)[..., None])
    if np.isnan(lse).any():
        weights[np.isneginf(masked)] = 0                    # a NaN that a row sees does not make it see what is hidden
    return weights, lse


def weighted_values(x, weights):
    v = x.v.astype(x.work, copy=False)
    out = product(group(weights, v.shape[1]), visible_pairs(x, weights), v)
    return ungroup(out, weights.shape[1])


def backward(x, dout, out=None, lse=None, score_mod_grad=None):
    """dq, dk, dv, dbias, dsink of the problem `x`, each of the full size (B, ...), for dout (B, H, N, Dv).

    With `out` and `lse` given (of this problem, or of a larger one of which these keys are a part) nothing is normalised
    again: that is what lets a part of the keys contribute its share of the gradient.
    """
    named = dict(stages(x))
    weights, lse = normalize(x, named["masked"], lse)
    out = weighted_values(x, weights) if out is None else out
    delta = row_delta(x, dout, out)
    return (*pairs_backward(x, named, weights, dout, delta, score_mod_grad), sink_backward(x, lse, delta))


def row_delta(x, dout, out):
    """rowsum(dO * O), which is rowsum(P * dP): (B, H, N); 0 for a row that sees nothing."""
    return np.where(out == 0, 0, dout.astype(x.work, copy=False) * out.astype(x.work, copy=False)).sum(axis=-1)


def sink_backward(x, lse, delta):
    """dsink (H,), or None without sinks. A sink is a key whose value is 0, so its dP is 0 and its dS is -P delta."""
    if x.sink_logits is None:
        return None
    share = np.exp(x.sink_logits.astype(x.work)[:, None] - np.where(np.isneginf(lse), np.inf, lse))
    return -(share * delta).sum(axis=(0, 2))


def pairs_backward(x, named, weights, dout, delta, score_mod_grad=None):
    """dq, dk, dv, dbias of the pairs of `x`, from its stages by name, its weights and each row's delta."""
    q, k, v, dout = (a.astype(x.work, copy=False) for a in (x.q, x.k, x.v, dout))
    H, G = q.shape[1], k.shape[1]
    visible, pairs = x.visible(), visible_pairs(x, weights)
    turned = None if pairs is None else pairs.swapaxes(-1, -2)                    # (B, G, S, rows)

    dv = product(group(weights, G).swapaxes(-1, -2), turned, group(dout, G))      # (B, G, S, Dv), summed over the group
    dweights = ungroup(group(dout, G) @ v.swapaxes(-1, -2), H)                    # (B, H, N, S)
    ds = hide(weights * (dweights - delta[..., None]), visible)
    dbias = ds
    if x.softcap is not None:
        ds = hide(ds * (1 - (named["capped"] / x.softcap) ** 2), visible)
    elif x.score_mod is not None:
        ds = hide(ds * slope(x, named["scaled"], score_mod_grad), visible)
    dq = ungroup(product(group(ds, G), pairs, k), H) * x.scale                    # (B, H, N, D)
    dk = product(group(ds, G).swapaxes(-1, -2), turned, group(q, G)) * x.scale
    return dq, dk, dv, dbias


def slope(x, scaled, score_mod_grad=None):
    """d score_mod / d score at every score: the caller's function, else central differences in float64.

    The step is cbrt(epsilon) max(1, |score|), about 6e-6: for a smooth function the result is good to about 1e-10.
    """
    if score_mod_grad is not None:
        return modify(score_mod_grad, scaled, x)
    scaled = scaled.astype(np.float64)
    step = np.cbrt(np.finfo(np.float64).eps) * np.maximum(1, np.abs(scaled))
    # s + step and s - step as they are after rounding, so that their distance is exact
    above, below = scaled + step, scaled - step
    where = x.grid()
    up, down = (np.asarray(x.score_mod(s, where.b, where.h, where.i, where.j)) for s in (above, below))
    rise = np.where(up == down, 0, up - down)                # 0 as well where score_mod hides a pair: -inf on both sides
    return (rise / (above - below)).astype(x.work)
