"""Gradients of the selective scan: the same scan, from the other end.

With dX for the gradient with respect to X, y_t = h_t c_t what is read, and g_t = delta_t a:

    dh_t = c_t dy_t + exp(g_{t+1}) dh_{t+1}                             a scan over reversed tokens
    dc_t = dy_t h_t        dwrite_t = dh_t        dg_t = exp(g_t) h_{t-1} dh_t

and what is written, delta b x, with `held`(g) as one more factor under zero-order hold, hands dh on to delta, b, x and g.
States are not all kept: one for each chunk is, and the others of a chunk are made again when it is their turn.
"""
from typing import NamedTuple

import numpy as np

from ..core.pointwise import sigmoid
from ..core.shapes import count
from .backward import accept
from .mamba import held, log_decays, prepare, scan


class Grads(NamedTuple):
    """Gradients with respect to what was given, each of its shape and type; None for what was not."""

    dx: np.ndarray
    ddelta: np.ndarray
    da: np.ndarray
    db: np.ndarray
    dc: np.ndarray
    dd: np.ndarray | None
    dz: np.ndarray | None
    dstate: np.ndarray | None


@np.errstate(invalid="ignore", over="ignore")                                      # NaN and inf that are given go through
def selective_scan_backward(dout, x, delta, a, b, c, *, d=None, z=None, discretization="euler", chunk=64, state=None,
                            dstate=None):  # fmt: skip
    """The gradient of `selective_scan`, for a gradient `dout` of its output, in O(N) time.

    Parameters
    ----------
    dout : array, (..., N, E)
        The gradient with respect to the output.
    x, delta, a, b, c, d, z, discretization, state
        As for `selective_scan`; both of its forms have this gradient.
    chunk : int
        One state is kept for each `chunk` tokens; the others are made again.
    dstate : array, (..., E, n), optional
        The gradient with respect to the state that the forward returned; None is zeros.

    Returns
    -------
    Grads(dx, ddelta, da, db, dc, dd, dz, dstate)
        Each of the shape and type of its argument; dstate is that of the state that the forward was given.

    Raises
    ------
    ShapeError
        If dout or dstate do not have the forward's shape; and whatever `selective_scan` raises.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> x, one = np.array([[1.0], [2.0], [4.0]]), np.ones((3, 1))                 # three tokens, E = 1, n = 1
    >>> last = np.array([[0.0], [0.0], [1.0]])                                    # only the last output is asked about
    >>> ma.selective_scan_backward(last, x, one, np.log([[0.5]]), one, one).dx.ravel()        # it forgot half of the second
    array([0.25, 0.5 , 1.  ])
    """
    s, given = prepare(x, delta, a, b, c, d, z, discretization, state), (d, z, state)
    chunk, N, work = count("chunk", chunk, 1), s.x.shape[1], s.x.dtype
    dout = accept("dout", dout, (*s.lead, *s.x.shape[1:])).reshape(s.x.shape).astype(work)
    dS = np.zeros_like(s.state)                                                    # the gradient of the state between two chunks
    if dstate is not None:
        dS += accept("dstate", dstate, (*s.lead, *s.state.shape[1:])).reshape(dS.shape)

    chunks = [slice(start, min(start + chunk, N)) for start in range(0, N, chunk)]
    firsts = [s.state]
    for here in chunks[:-1]:
        firsts.append(s.states(here, firsts[-1])[1][:, -1])

    dx, ddelta, db, dc, dz = (np.zeros_like(array) for array in (s.x, s.x, s.b, s.c, s.x))
    skip = np.zeros_like(s.x[0, 0]) if s.d is None else s.d
    da, dd, rate = np.zeros_like(s.a), np.zeros_like(skip), np.where(np.isinf(s.a), 0, s.a)    # exp(-inf) has no slope
    for here, first in zip(reversed(chunks), reversed(firsts), strict=bool(chunks)):
        keep, h = s.states(here, first)                                            # (P, C, E, n)
        x_, delta_, b_, c_, dy = s.x[:, here], s.delta[:, here], s.b[:, here, None], s.c[:, here, None], dout[:, here]
        if s.z is not None:
            gate, z_ = sigmoid(s.z[:, here]), s.z[:, here]
            read = (h @ c_.swapaxes(-1, -2))[..., 0] + skip * x_
            dz[:, here] = dy * read * gate * (1 + z_ * (1 - gate))
            dy = dy * gate * z_
        dc[:, here] = (dy[..., None, :] @ h)[..., 0, :]
        dd += (dy * x_).sum(axis=(0, 1))

        dh = dy[..., None] * c_                                                    # what each output says of its state
        dh[:, -1] += dS                                                            # and what comes after the chunk says
        after = np.concatenate([keep[:, 1:], keep[:, :1]], axis=1)                 # exp(g_{t+1}); the last is not used
        dh = scan(after[:, ::-1], dh[:, ::-1])[:, ::-1]
        dS = keep[:, 0] * dh[:, 0]

        dg = keep * np.concatenate([first[:, None], h[:, :-1]], axis=1) * dh
        dwrite, amount = dh, delta_ * x_
        if s.hold:
            g = log_decays(delta_[..., None], s.a)
            dwrite = dh * held(g)
            dg += dh * amount[..., None] * b_ * held_slope(g)
        damount = (dwrite @ b_.swapaxes(-1, -2))[..., 0]                           # of delta x
        db[:, here] = (amount[..., None, :] @ dwrite)[..., 0, :]
        dx[:, here] = delta_ * damount + skip * dy
        ddelta[:, here] = x_ * damount + (dg * rate).sum(axis=-1)
        da += (delta_[..., None] * dg).sum(axis=(0, 1))

    dd, dz, dS = (None if argument is None else array for argument, array in zip(given, (dd, dz, dS), strict=True))
    return Grads(
        s.gradient(dx, x), s.gradient(ddelta, delta), da.astype(np.asarray(a).dtype), s.gradient(db, b), s.gradient(dc, c),
        None if dd is None else dd.astype(np.asarray(d).dtype), None if dz is None else s.gradient(dz, z),
        None if dS is None else s.gradient(dS, state),
    )  # fmt: skip


def held_slope(g):
    """The derivative of `held`, (exp(g) - held(g)) / g; near 0, where that loses its digits, a series."""
    near = abs(g) < 0.1
    series, power = np.zeros_like(g), np.where(near, g, 0)
    for factor in (8 / 362880, 7 / 40320, 6 / 5040, 5 / 720, 4 / 120, 3 / 24, 2 / 6, 1 / 2):      # k / (k + 1)!
        series = series * power + factor
    far = np.where(near, -1, g)
    return np.where(near, series, (np.exp(far) - held(far)) / far)
