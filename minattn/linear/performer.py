"""Performer: softmax attention in the mean, as linear attention over random features.

Choromanski et al. 2021, "Rethinking Attention with Performers", arXiv:2009.14794, section 2.

    D   head dim       Dv  value dim       N  queries       S  keys       m  random directions, `features`
    phi   random features (features.py) of q and k times D^(-1/4), so that E[phi(q) . phi(k)] = exp(q . k / sqrt(D))

    softmax      o_i = sum_j exp(q_i . k_j / sqrt(D)) v_j / sum_j exp(q_i . k_j / sqrt(D))
    Performer    o_i = phi(q_i)^T sum_j phi(k_j) v_j^T / phi(q_i)^T sum_j phi(k_j)               eqs (3) to (5)
    causal       the sums over j <= i: the `recurrence`, whose state does not grow

exp must not overflow, so a maximum is taken off the exponents of the features, in a way that cancels exactly:
    of a query    its own largest: a factor of all its weights, which the normaliser divides out again;
    of the keys   a factor of one key alone would not cancel. Taken off is `top`, for each feature the largest of all keys
                  seen so far, and the query's exponents get it back: each product phi(q)_r phi(k)_r stays what it was.
A key that raises top shrinks what the state holds by exp(top before - top now), and such a factor is a decay. So no
output depends on later tokens, and the largest product of a positive row is 1 / m: it never underflows to 0 / 0.
"""
from typing import NamedTuple

import numpy as np

from ..core import inputs as pairwise
from ..core.errors import OptionError, ShapeError
from ..core.projection import repeat_kv
from ..core.shapes import as_array, common_type, floats, sum_to, working_type
from .backward import recurrence_backward
from .features import directions, exponents, random_projection, through_features
from .inputs import prepare
from .linear_attention import NO_STATE, Grads, linear_attention, linear_attention_backward
from .recurrence import recurrence


def performer_attention(q, k, v, *, features, kind="positive", orthogonal=True, seed=None, causal=False, form="chunked",
                        chunk=64, state=None, return_state=False, backend="auto"):  # fmt: skip
    """Softmax attention estimated by random features, in time that grows with the length and not with its square.

    Parameters
    ----------
    q : array, (..., H, N, D)
    k : array, (..., G, S, D), where S = N if causal
    v : array, (..., G, S, Dv)
    features : int, or array (m, D)
        m, how many random directions; or the directions themselves. All heads share them.
    kind : {"positive", "trigonometric", "hyperbolic"}
        "trigonometric" and "hyperbolic" make two features of each direction. Trigonometric weights may be negative.
    orthogonal : bool
        Directions at right angles, for a smaller error; only where `features` is a number.
    seed : int
        Which draw; needed where `features` is a number. Later tokens and the backward pass need the same.
    causal : bool
        Each query sees the keys up to its own position.
    form, chunk, return_state
        As for `recurrence`; a state needs causal=True.
    state : array, (..., G, width of phi, Dv + 2), optional
        What an earlier call returned: sums of values, the normaliser, and `top`, by which both are lowered.
    backend : {"auto", "numpy", "cpu"}
        As for `linear_attention`.

    Returns
    -------
    out : array, (..., H, N, Dv)
    state : array, (..., G, width of phi, Dv + 2), only with return_state=True

    Raises
    ------
    ShapeError
        If an axis disagrees; the message names it by its letter.
    OptionError
        If kind or form is none that exists, a seed is missing or too much, or a state is asked for without causal=True.

    References
    ----------
    Choromanski et al. 2021, arXiv:2009.14794, eqs (3) to (5) and Lemma 1.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 100, 8)) / 2    # two heads, 100 tokens, D = 8
    >>> exact = ma.attention(q, k, v, causal=True)
    >>> few, many = (ma.performer_attention(q, k, v, features=m, seed=0, causal=True) for m in (16, 1024))
    >>> [float(abs(out - exact).mean().round(3)) for out in (few, many)]
    [0.017, 0.003]
    >>> w = ma.random_projection(16, 8, seed=0)
    >>> out, state = ma.performer_attention(q[:, :99], k[:, :99], v[:, :99], features=w, causal=True, return_state=True)
    >>> last = ma.performer_attention(q[:, 99:], k[:, 99:], v[:, 99:], features=w, causal=True, state=state)
    >>> np.allclose(last, few[:, 99:]), state.shape
    (True, (2, 16, 10))
    """
    x = _lift(q, k, v, features, kind, orthogonal, seed, causal, state)
    if causal:
        out, held = recurrence(x.phi_q, x.phi_k, v, log_decay=x.log_decay, normalize=True, form=form, chunk=chunk,
                               state=x.held, return_state=True, backend=backend)  # fmt: skip
        out = out.astype(x.dtype, copy=False)
        if not return_state:
            return out
        top = x.top.swapaxes(-1, -2)                                               # (..., G, width or 1, 1)
        return out, np.concatenate([held, np.broadcast_to(top, (*held.shape[:-1], 1))], axis=-1)
    if return_state:
        raise OptionError(NO_STATE)
    out = linear_attention(x.phi_q, x.phi_k, v, feature_map=_as_it_is, causal=False, form=form, backend=backend)
    return out.astype(x.dtype, copy=False)


def performer_attention_backward(dout, q, k, v, *, features, kind="positive", orthogonal=True, seed=None, causal=False,
                                 chunk=64, state=None, dstate=None, backend="auto"):  # fmt: skip
    """The gradient of `performer_attention`: causally token by token, keeping one state for each `chunk` tokens.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
    q, k, v, features, kind, orthogonal, seed, causal, chunk, state, backend
        As for `performer_attention`.
    dstate : array, (..., G, width of phi, Dv + 2), optional
        The gradient with respect to the state that the forward returned. No output depends on `top`, so it is held fixed:
        its column, the last, is not read, and is 0 in what is returned.

    Returns
    -------
    Grads(dq, dk, dv, dstate)

    Raises
    ------
    ShapeError
        If dout or dstate do not have the forward's shape; and whatever `performer_attention` raises.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v, dout = np.random.default_rng(0).standard_normal((4, 2, 5, 3))    # two heads, five tokens, D = 3
    >>> grads = ma.performer_attention_backward(dout, q, k, v, features=7, seed=0)
    >>> step = np.zeros_like(k); step[1, 2, 0] = 1e-6                             # the slope along one number of k
    >>> up, down = (ma.performer_attention(q, k + sign * step, v, features=7, seed=0) for sign in (1, -1))
    >>> bool(np.isclose(((up - down) * dout).sum() / 2e-6, grads.dk[1, 2, 0]))
    True
    """
    x = _lift(q, k, v, features, kind, orthogonal, seed, causal, state)
    if causal:
        if dstate is not None:
            dstate = _state("dstate", dstate, np.asarray(k), np.asarray(v), x.w, kind)[..., :-1]
        d = recurrence_backward(dout, x.phi_q, x.phi_k, v, log_decay=x.log_decay, normalize=True, chunk=chunk, state=x.held,
                                dstate=dstate, backend=backend)  # fmt: skip
    elif dstate is not None:
        raise OptionError(NO_STATE)
    else:
        d = linear_attention_backward(dout, x.phi_q, x.phi_k, v, feature_map=_as_it_is, feature_map_grad=lambda x, dphi: dphi,
                                      causal=False)  # fmt: skip
    dq = through_features(x.q, x.w, kind, x.phi_q, d.dq)
    dk = through_features(x.k, x.w, kind, x.phi_k, d.dk)
    dq, dk = (sum_to(x.root * dx, a.shape).astype(a.dtype, copy=False) for dx, a in ((dq, np.asarray(q)), (dk, np.asarray(k))))
    dstate = None if state is None else np.concatenate([d.dstate, np.zeros_like(d.dstate[..., :1])], axis=-1)
    return Grads(dq, dk, d.dv, dstate)


class Lifted(NamedTuple):
    """Queries and keys as features, and what it takes to go on from them or back."""

    phi_q: np.ndarray                 # (..., H, N, width)
    phi_k: np.ndarray                 # (..., G, S, width)
    q: np.ndarray                     # times root, as are the keys
    k: np.ndarray
    root: float                       # D^(-1/4)
    w: np.ndarray                     # (m, D)
    log_decay: np.ndarray | None      # (..., G, N, width or 1), causal alone
    top: np.ndarray                   # (..., G, 1, width or 1), after the last key
    held: np.ndarray | None           # the caller's state without its last column
    dtype: np.dtype                   # of the results


@np.errstate(invalid="ignore", over="ignore")                                      # NaN and inf that are given go through
def _lift(q, k, v, features, kind, orthogonal, seed, causal, state):
    """Features that cannot overflow, and the decay that keeps the state in their scale."""
    (prepare if causal else pairwise.prepare)(q, k, v)                             # refuses shapes that do not fit
    q, k, v = floats("q", q), floats("k", k), floats("v", v)
    dtype = common_type(q=q, k=k, v=v)
    root, work, lowest = q.shape[-1] ** -0.25, working_type(dtype), np.finfo(working_type(dtype)).min
    w = directions("features", _drawn(features, q.shape[-1], orthogonal, seed), "q", q).astype(work, copy=False)
    x_q, x_k = (root * a.astype(work, copy=False) for a in (q, k))
    (of_q, factor_q), (of_k, factor_k) = exponents(x_q, w, kind), exponents(x_k, w, kind)

    known = np.where(np.isfinite(of_k), of_k, lowest)                              # a key with NaN raises nothing
    if causal:
        start = np.full((*known.shape[:-2], 1, known.shape[-1]), lowest, work)
        if state is not None:
            state = _state("state", state, k, v, w, kind).astype(work, copy=False)
            start = state[..., -1][..., None, : known.shape[-1]]
        lead = np.broadcast_shapes(start.shape[:-2], known.shape[:-2])
        both = [np.broadcast_to(a, (*lead, *a.shape[-2:])) for a in (start, known)]
        tops = np.maximum.accumulate(np.concatenate(both, axis=-2), axis=-2)       # (..., G, N + 1, width or 1)
        top, last, log_decay = tops[..., 1:, :], tops[..., -1:, :], tops[..., :-1, :] - tops[..., 1:, :]
    elif state is not None:
        raise OptionError(NO_STATE)
    else:
        top = last = known.max(axis=-2, keepdims=True, initial=lowest)
        log_decay = None
    raised = of_q + (top if q.ndim == 2 else repeat_kv(top, q.shape[-3] // k.shape[-3]))
    phi_q = factor_q * np.exp(raised - raised.max(axis=-1, keepdims=True))
    phi_k = factor_k * np.exp(of_k - top)
    return Lifted(phi_q, phi_k, x_q, x_k, root, w, log_decay, last, None if state is None else state[..., :-1], dtype)


def _drawn(features, D, orthogonal, seed):
    """The directions: the caller's own, or as many as asked for."""
    if as_array("features", features).ndim == 0:
        return random_projection(features, D, orthogonal=orthogonal, seed=seed)
    if seed is not None:
        raise OptionError(f"seed = {seed} with directions given as features; a seed is for drawing them")
    return features


def _state(name, state, k, v, w, kind):
    """What an earlier call returned, or the gradient of it."""
    state, width = floats(name, state), len(w) if kind == "positive" else 2 * len(w)
    wanted = (*k.shape[-3:-2], width, v.shape[-1] + 2)
    if state.shape[-len(wanted):] != wanted or (state.ndim == 2) != (k.ndim == 2):
        needed = f"{'(width, Dv + 2)' if k.ndim == 2 else '(..., G, width, Dv + 2)'}, here {wanted}"
        raise ShapeError(f"{name} is {state.shape}; it must be {needed}, where the width of {len(w)} {kind} features is {width}")
    return state


def _as_it_is(phi):
    """The feature map of what is features already."""
    return phi
