"""Gradients of the recurrence: the same state, walked backward.

With dX for the gradient with respect to X, u_t = b_t^T S_{t-1}, and dS_t all that reaches S_t from later tokens:

    dS_t = scale * q_t^T dO_t + diag(exp g_{t+1}) dS_{t+1} + b_{t+1} (a_{t+1}^T dS_{t+1})
    dq_t = scale * dO_t S_t^T      dk_t = dS_t v_t      dv_t = k_t^T dS_t
    da_t = dS_t u_t^T              db_t = S_{t-1} (a_t^T dS_t)^T
    dg_t = exp(g_t) * rowsum(S_{t-1} * dS_t)            summed over the channels that share one decay

The way back needs every state S_t. They are not all kept: the way forth keeps one for each chunk, and the way back makes
those of one chunk again, token by token. That is O(N) time, twice the steps of the forward, and N / C + C states of memory.
Compiled, it is the same walk (kernels_backward.py).
"""
from typing import NamedTuple

import numpy as np

from ..core.errors import ShapeError
from ..core.shapes import count, floats
from .inputs import Inputs, prepare
from .recurrence import kernels, step


class Grads(NamedTuple):
    """Gradients with respect to what was given, each of its shape and type; None for what was not, a pair for erase."""

    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    dlog_decay: np.ndarray | None
    derase: tuple | None
    dstate: np.ndarray | None


def recurrence_backward(dout, q, k, v, *, log_decay=None, erase=None, normalize=False, scale=1.0, chunk=64, state=None,
                        dstate=None, backend="auto"):  # fmt: skip
    """The gradient of `recurrence` with respect to all that it is given, for a gradient `dout` of its output.

    There is one form, token by token, in O(N) time; both forms of the forward have this gradient.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
        The gradient with respect to the output.
    q, k, v, log_decay, erase, normalize, scale, state
        As for `recurrence`.
    chunk : int
        One state is kept for each `chunk` tokens; the others are made again.
    dstate : array, (..., G, D, Dv), optional
        The gradient with respect to the state that the forward returned; None is zeros.
    backend : {"auto", "numpy", "cpu"}
        As for `recurrence`.

    Returns
    -------
    Grads(dq, dk, dv, dlog_decay, derase, dstate)
        Each of the shape and type of its argument; dstate is that of the state that the forward was given.

    Raises
    ------
    ShapeError
        If dout or dstate do not have the forward's shape; and whatever `recurrence` raises.

    References
    ----------
    Katharopoulos et al. 2020, arXiv:2006.16236, eqs (13) to (15), for the case without decay and erase.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v, dout = np.random.default_rng(0).standard_normal((4, 2, 5, 3))    # H = 2, N = 5, D = 3
    >>> g = np.array([[-0.5], [-0.1]])                                                # one decay a head
    >>> grads = ma.recurrence_backward(dout, q, k, v, log_decay=g)
    >>> up, down = (ma.recurrence(q, k, v, log_decay=g + s * np.array([[1e-6], [0]])) for s in (1, -1))
    >>> bool(np.isclose(((up - down) * dout).sum() / 2e-6, grads.dlog_decay[0, 0]))
    True
    """
    x = prepare(q, k, v, log_decay=log_decay, erase=erase, normalize=normalize, scale=scale, state=state)
    d = gradients(x, dout, dstate, chunk, backend=backend)
    return Grads(
        x.gradient(d.q, q), x.gradient(d.k, k), x.gradient(d.v, v), decay_gradient(x, d.g, log_decay),
        None if erase is None else (x.gradient(d.a, erase[0]), x.gradient(d.b, erase[1])), x.gradient(d.state, state),
    )  # fmt: skip


class Flat(NamedTuple):
    """The gradients of what `Inputs` holds, each of its shape; v without the column of the normaliser."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    g: np.ndarray
    a: np.ndarray
    b: np.ndarray
    state: np.ndarray


@np.errstate(invalid="ignore", over="ignore")                                      # NaN and inf that are given go through
def gradients(x: Inputs, dout, dstate, chunk, *, backend):
    """The walk back over the tokens of `x`; dout and dstate have the caller's axes, what is returned those of `Inputs`."""
    chunk, (P, R, N, _), work = count("chunk", chunk, 1), x.q.shape, x.v.dtype
    Dv = x.values.shape[-1]
    dout = accept("dout", dout, (*x.lead, *x.heads[:1], N, Dv)).reshape(P, R, N, Dv).astype(work)
    dS = np.zeros_like(x.state)                                                    # grows into the gradient of S_t, (P, D, Dv)
    if dstate is not None:
        dS += accept("dstate", dstate, (*x.lead, *x.heads[1:], *x.state.shape[1:])).reshape(dS.shape)
    if compiled := kernels(x, "recurrent", backend):
        return Flat(*compiled.gradients(x, dout, dS, chunk))

    starts, kept, current = range(0, N, chunk), [], x.state
    for start in starts:
        kept.append(current)
        for n in range(start, min(start + chunk, N)):
            current = step(x, current, n)

    dq, dk, dv, dg = (np.zeros_like(a) for a in (x.q, x.k, x.v, x.g))
    da, db = np.zeros_like(x.k), np.zeros_like(x.k)                                # stay 0 without erase
    for start, first in zip(reversed(starts), reversed(kept), strict=True):
        states = [first]
        for n in range(start, min(start + chunk, N)):
            states.append(step(x, states[-1], n))
        for n in reversed(range(start, start + len(states) - 1)):
            before, after = states[n - start], states[n - start + 1]
            dread = read_gradient(x.scale * dout[:, :, n], x.q[:, :, n] @ after, x.normalize)      # (P, R, Dv)
            dq[:, :, n] = dread @ after.swapaxes(-1, -2)
            dS = dS + x.q[:, :, n].swapaxes(-1, -2) @ dread
            dk[:, n] = (dS @ x.v[:, n, :, None])[..., 0]
            dv[:, n] = (x.k[:, n, None, :] @ dS)[:, 0]
            keep = np.exp(x.g[:, n])[..., None]                                    # (P, D or 1, 1)
            dg[:, n] = to_width(keep[..., 0] * (before * dS).sum(axis=-1), x.g)
            past = keep * dS
            if x.a is not None and x.b is not None:
                du = x.a[:, n, None, :] @ dS                                       # (P, 1, Dv)
                da[:, n] = (dS @ (x.b[:, n, None, :] @ before).swapaxes(-1, -2))[..., 0]
                db[:, n] = (before @ du.swapaxes(-1, -2))[..., 0]
                past += x.b[:, n, :, None] * du
            dS = past
    return Flat(dq, dk, dv[..., :-1] if x.normalize else dv, dg, da, db, dS)


def to_width(channels, like):
    """(..., D) summed over the channels if `like` has one number for all of them."""
    return channels.sum(axis=-1, keepdims=True) if like.shape[-1] == 1 else channels


def decay_gradient(x: Inputs, dg, log_decay):
    """The gradient of a log decay in its own shape: one number a token or one a channel."""
    return x.gradient(dg if np.ndim(log_decay) == x.rank else dg[..., 0], log_decay)


def read_gradient(dout, read, normalize):
    """The gradient of what the queries read, (..., Dv): before the normaliser in its last column, where there is one."""
    if not normalize:
        return dout
    top, bottom = read[..., :-1], read[..., -1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        dtop = dout / bottom
        dbottom = -(dtop * top / bottom).sum(axis=-1, keepdims=True)
    empty = bottom == 0                                                            # the output is 0 there by decree
    return np.where(empty, 0, np.concatenate([dtop, dbottom], axis=-1))


def accept(name, array, shape):
    """What the caller hands back, of the shape that the forward returned."""
    array = floats(name, array)
    if array.shape != shape:
        raise ShapeError(f"{name} is {array.shape}; it must be {shape}, as the forward returned it")
    return array
