"""The delta rule: a token first takes away part of what its key already holds, then writes, and so corrects the state.

Schlag et al. 2021, "Linear Transformers Are Secretly Fast Weight Programmers", arXiv:2102.11174, section 4.2;
in chunks: Yang et al. 2024, arXiv:2406.06484; with a gate: Yang et al. 2025, "Gated Delta Networks", arXiv:2412.06464.

    D   head dim of q and k        Dv  value dim        N  length
    beta   writing strength, (N,), usually in (0, 1)    S  state, (D, Dv)      g  log decay, g <= 0

    S' = diag(exp g_n) S_{n-1}                                  the gate; g = 0 in the plain delta rule
    S_n = S' + beta_n k_n (v_n - S'^T k_n)^T                    the step of gradient descent on |S'^T k_n - v_n|^2 / 2
        = S' - beta_n k_n (k_n^T S') + beta_n k_n v_n^T         an erase and a write of the `recurrence`
    o_n = scale * q_n S_n

Keys are meant to have length 1: with beta = 1 the token then replaces what its key held, with beta = 0 it does nothing.
beta in (1, 2) makes that eigenvalue, 1 - beta, negative, which lets a state change its sign with a token (parity).
"""
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .backward import decay_gradient, gradients, to_width
from .inputs import prepare
from .recurrence import run


def delta_rule(q, k, v, *, beta, log_decay=None, scale=1.0, form="chunked", chunk=64, state=None, return_state=False,
               backend="auto"):  # fmt: skip
    """Linear attention that corrects what it holds: each write is of the difference between the value and what k reads.

    Parameters
    ----------
    q : array, (..., H, N, D)
    k : array, (..., G, N, D)
        Taken as they are; divide by their length before.
    v : array, (..., G, N, Dv)
    beta : array, (..., G, N)
        How much of the difference is written.
    log_decay : array, (..., G, N) or (..., G, N, D), optional
        With it this is the gated delta rule: the state decays before it is read, erased and written.
    scale, form, chunk, state, return_state, backend
        As for `recurrence`.

    Returns
    -------
    out : array, (..., H, N, Dv)
    state : array, (..., G, D, Dv), only with return_state=True

    Raises
    ------
    ShapeError, DecayError, OptionError, BackendError
        As for `recurrence`; beta must have the axes of k without D.

    References
    ----------
    Schlag et al. 2021, arXiv:2102.11174; Yang et al. 2024, arXiv:2406.06484; Yang et al. 2025, arXiv:2412.06464.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> k = np.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])                      # the third token has the first one's key
    >>> v = np.array([[[10.0], [20.0], [30.0]]])
    >>> ma.delta_rule(k, k, v, beta=np.ones((1, 3))).ravel(), ma.recurrence(k, k, v).ravel()      # replaced; summed
    (array([10., 20., 30.]), array([10., 20., 40.]))
    """
    return run(_inputs(q, k, v, beta, log_decay, scale, state), form, chunk, return_state, backend=backend)


class Grads(NamedTuple):
    """Gradients with respect to what was given, each of its shape and type; None for what was not."""

    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    dbeta: np.ndarray
    dlog_decay: np.ndarray | None
    dstate: np.ndarray | None


def delta_rule_backward(dout, q, k, v, *, beta, log_decay=None, scale=1.0, chunk=64, state=None, dstate=None,
                        backend="auto"):  # fmt: skip
    """The gradient of `delta_rule`, token by token in O(N) time, keeping one state for each `chunk` tokens.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
    q, k, v, beta, log_decay, scale, chunk, state, backend
        As for `delta_rule`.
    dstate : array, (..., G, D, Dv), optional
        The gradient with respect to the state that the forward returned.

    Returns
    -------
    Grads(dq, dk, dv, dbeta, dlog_decay, dstate)

    Raises
    ------
    ShapeError
        If dout or dstate do not have the forward's shape; and whatever `delta_rule` raises.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> k = np.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]); v = np.array([[[10.0], [20.0], [30.0]]])
    >>> last = np.array([[[0.0], [0.0], [1.0]]])                                  # only the last output is asked about
    >>> ma.delta_rule_backward(last, k, k, v, beta=np.full((1, 3), 0.5)).dv.ravel()           # half of the first was erased
    array([0.25, 0.  , 0.5 ])
    """
    x = _inputs(q, k, v, beta, log_decay, scale, state)
    d, key, strength, keep = gradients(x, dout, dstate, chunk, backend=backend), x.rows["k"], x.rows["beta"], np.exp(x.g)
    with np.errstate(invalid="ignore", over="ignore"):                             # NaN and inf that are given go through
        dwrite = d.k - d.a                                                             # k = strength * key, a = -strength * key
        dbeta, dkey = (dwrite * key).sum(axis=-1), strength * dwrite + keep * d.b      # and b = keep * key
        dg = d.g + to_width(keep * key * d.b, x.g)
    return Grads(
        x.gradient(d.q, q), x.gradient(dkey, k), x.gradient(d.v, v), x.gradient(dbeta, beta),
        decay_gradient(x, dg, log_decay), x.gradient(d.state, state),
    )  # fmt: skip


def _inputs(q, k, v, beta, log_decay, scale, state):
    """The delta rule as a setting of the recurrence: write beta k, erase (-beta k, exp(g) k)."""
    x = prepare(q, k, v, log_decay=log_decay, scale=scale, state=state, tokens={"beta": beta})
    strength = x.rows["beta"]
    return replace(x, k=strength * x.k, a=-strength * x.k, b=np.exp(x.g) * x.k, rows={"k": x.k, "beta": strength})
