"""The recurrence in the time mixing of RWKV-7: a decay for each channel, and an erase along a direction of its own.

Peng et al. 2025, "RWKV-7 Goose with Expressive Dynamic State Evolution", arXiv:2503.14456, section 4.

    r   receptance, the query, (N, D)         k   the paper's k-tilde, the key that is written, (N, D)
    w   decay of each channel, (N, D)         v   value, (N, Dv)
    kappa   direction of removal, (N, D), of length 1        a   in-context learning rate of each channel, (N, D), in (0, 1)

    S_n = diag(w_n) S_{n-1} - (a_n * kappa_n) (kappa_n^T S_{n-1}) + k_n v_n^T,      o_n = r_n S_n

It is given log w, which a layer computes as -exp(-1/2) sigmoid(.), so that w lies in (0.545, 1). There is no 1 / sqrt(D).
With a = 0 this is gated linear attention; with w = 1, kappa = k / |k|, a one number and k = a kappa it is the delta rule.
The low-rank maps, token shift, group norm, bonus and gate of the layer around it are not part of it.
"""
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .backward import decay_gradient, gradients
from .inputs import prepare
from .recurrence import run


def rwkv7(r, log_w, k, v, kappa, a, *, form="chunked", chunk=64, state=None, return_state=False, backend="auto"):
    """The state of RWKV-7's time mixing, and what r reads from it.

    Parameters
    ----------
    r : array, (..., H, N, D)
    log_w : array, (..., G, N, D)
        Natural log of the decay, at most 0.
    k : array, (..., G, N, D)
    v : array, (..., G, N, Dv)
    kappa : array, (..., G, N, D)
        Taken as it is; of length 1 in the paper.
    a : array, (..., G, N, D)
    form, chunk, state, return_state, backend
        As for `recurrence`.

    Returns
    -------
    out : array, (..., H, N, Dv)
    state : array, (..., G, D, Dv), only with return_state=True

    Raises
    ------
    ShapeError, DecayError, OptionError, BackendError
        As for `recurrence`, in the names used here.

    References
    ----------
    Peng et al. 2025, arXiv:2503.14456.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> r, k, v, x = np.random.default_rng(0).standard_normal((4, 2, 9, 4))       # two heads, nine tokens, D = 4
    >>> kappa, keep = x / np.linalg.norm(x, axis=-1, keepdims=True), np.full((2, 9, 4), -0.1)
    >>> no_erase = ma.rwkv7(r, keep, k, v, kappa, np.zeros_like(k))
    >>> np.allclose(no_erase, ma.gated_linear_attention(r, k, v, log_decay=keep))
    True
    """
    return run(_inputs(r, log_w, k, v, kappa, a, state), form, chunk, return_state, backend=backend)


class Grads(NamedTuple):
    """Gradients with respect to what was given, each of its shape and type; None for what was not."""

    dr: np.ndarray
    dlog_w: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    dkappa: np.ndarray
    da: np.ndarray
    dstate: np.ndarray | None


def rwkv7_backward(dout, r, log_w, k, v, kappa, a, *, chunk=64, state=None, dstate=None, backend="auto"):
    """The gradient of `rwkv7`, token by token in O(N) time, keeping one state for each `chunk` tokens.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
    r, log_w, k, v, kappa, a, chunk, state, backend
        As for `rwkv7`.
    dstate : array, (..., G, D, Dv), optional
        The gradient with respect to the state that the forward returned.

    Returns
    -------
    Grads(dr, dlog_w, dk, dv, dkappa, da, dstate)

    Raises
    ------
    ShapeError
        If dout or dstate do not have the forward's shape; and whatever `rwkv7` raises.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> r, k, v, kappa = np.random.default_rng(0).standard_normal((4, 2, 9, 4))
    >>> grads = ma.rwkv7_backward(np.ones_like(v), r, -abs(k), k, v, kappa, abs(v))
    >>> [bool(grads.dkappa[:, n].any()) for n in (0, 1)]                          # the first token finds nothing to erase
    [False, True]
    """
    x = _inputs(r, log_w, k, v, kappa, a, state)
    d, direction, rate = gradients(x, dout, dstate, chunk, backend=backend), x.rows["kappa"], x.rows["a"]
    with np.errstate(invalid="ignore", over="ignore"):                             # NaN and inf that are given go through
        dkappa, drate = d.b - rate * d.a, -direction * d.a                             # a = -rate * direction, b = direction
    return Grads(
        x.gradient(d.q, r), decay_gradient(x, d.g, log_w), x.gradient(d.k, k), x.gradient(d.v, v),
        x.gradient(dkappa, kappa), x.gradient(drate, a), x.gradient(d.state, state),
    )  # fmt: skip


def _inputs(r, log_w, k, v, kappa, a, state):
    """RWKV-7 as a setting of the recurrence: decay w, erase (-(a * kappa), kappa)."""
    names, rows = {"q": "r", "log_decay": "log_w"}, {"kappa": kappa, "a": a}
    x = prepare(r, k, v, log_decay=log_w, state=state, names=names, rows=rows)
    return replace(x, a=-(x.rows["a"] * x.rows["kappa"]), b=x.rows["kappa"])
