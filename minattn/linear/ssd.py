"""Mamba-2's state space model, and that it is attention: a matrix of decays times the scores of c and b.

Dao and Gu 2024, "Transformers are SSMs", arXiv:2405.21060, sections 3, 5 and 6.

    x   (H, N, Dv)  input          delta   (H, N)  time that passes, >= 0        a   (H,)  rate of fading, <= 0
    b, c   (G, N, D)  where a token writes and reads; head h uses those of group h // (H // G)        S   state, (D, Dv)
    L   decays, (N, N)             d   (H,)  skip

    recurrent   S_t = exp(delta_t a) S_{t-1} + b_t (delta_t x_t)^T,   o_t = c_t S_t + d x_t            eq (1)
    quadratic   M = L * (c b^T),   o = M (delta x) + d x,   L_ij = exp(segment_sum(delta a)_ij)        eq (7)

A Mamba whose a is one number for all of a head's state is the `recurrence` with q = c, k = b, v = delta x and the log decay
delta a: attention whose softmax is a decay. So nothing is computed here but the quadratic form. The paper's chunk algorithm
(Listing 1) is `chunked` in recurrence.py; its four steps there, for each chunk in turn:

    1  outputs of a chunk from its own tokens        read += pairs(q, k) @ v              the diagonal blocks of M
    2  what a chunk's tokens leave behind            (key * left)^T @ value
    3  states from chunk to chunk                    state = after[-1] * state + step 2
    4  outputs from the state before the chunk       read = (q * after) @ state           M's blocks off the diagonal
"""
from typing import NamedTuple

import numpy as np

from ..core.errors import ShapeError
from ..core.projection import repeat_kv
from ..core.reference import product
from ..core.shapes import broadcast_lead, common_type, floats, sum_to, working_type
from .backward import recurrence_backward
from .inputs import Inputs, prepare
from .mamba import check_times, fit, log_decays
from .recurrence import FORMS, run


def segment_sum(log_decay):
    """Sums of log decays over every segment: how much of token j is left at token i, as a logarithm.

    Each is summed over its own segment, by a cumulative sum in which what comes before the segment is masked. As a difference
    of two cumulative sums it would lose its digits, and be NaN once a gate has closed.

    Parameters
    ----------
    log_decay : array, (..., N)

    Returns
    -------
    array, (..., N, N)
        log_decay[j + 1] + ... + log_decay[i] at i, j; 0 on the diagonal, -inf above it.

    References
    ----------
    Dao and Gu 2024, arXiv:2405.21060, section 6 and Listing 1.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> np.exp(ma.segment_sum(np.log([0.5, 0.5, 0.1])))                           # L: the third token keeps a tenth
    array([[1.  , 0.  , 0.  ],
           [0.5 , 1.  , 0.  ],
           [0.05, 0.1 , 1.  ]])
    """
    log_decay = floats("log_decay", log_decay)
    if not log_decay.ndim:
        raise ShapeError("log_decay is one number; it must be (..., N)")
    N = log_decay.shape[-1]
    sums = np.where(np.tri(N, k=-1, dtype=bool), log_decay[..., :, None], 0).cumsum(axis=-2)
    return np.where(np.tri(N, dtype=bool), sums, -np.inf)


def quadratic(x: Inputs):
    """Every pair of tokens at once, in O(N^2): what the queries read, (P, R, N, Dv), and the last state."""
    g, state, seen = x.g[..., 0], x.state[:, None], np.tri(x.g.shape[1], dtype=bool)
    L, since = np.exp(segment_sum(g)), np.exp(g.cumsum(axis=-1))[:, None, :, None]             # since the state was taken
    M = np.where(seen, L[:, None] * (x.q @ x.k[:, None].swapaxes(-1, -2)), 0)
    out = product(M, seen, x.v[:, None]) + since * (x.q @ state)
    if len(seen):                                                                  # the last row of L: until the last token
        state = since[:, :, -1:] * state + ((x.k * L[:, -1, :, None]).swapaxes(-1, -2) @ x.v)[:, None]
    return out, state[:, 0]


def ssd(x, delta, a, b, c, *, d=None, form="chunked", chunk=64, state=None, return_state=False,
        backend="auto"):  # fmt: skip
    """Mamba-2's state space model: a state that fades over the time each token says passes, at one rate a head.

    Parameters
    ----------
    x : array, (..., H, N, Dv)
    delta : array, (..., H, N)
        Time that passes, at least 0; a layer makes it by softplus.
    a : array, (H,)
        At most 0; a state fades by exp(delta a).
    b, c : array, (..., G, N, D)
        Where the token writes and what it reads; head h uses group h // (H // G).
    d : array, (H,), optional
        Adds d x.
    form : {"chunked", "recurrent", "quadratic"}
        A chunk at a time or token by token, in O(N) time, or as the matrix M, in O(N^2): the same result.
    chunk : int
        Tokens per chunk; only for form="chunked".
    state : array, (..., H, D, Dv), optional
        What an earlier call returned; None starts empty.
    return_state : bool
        Also return the state after the last token, float32 or better.
    backend : {"auto", "numpy", "cpu"}
        As for `recurrence`; the quadratic form is NumPy's alone.

    Returns
    -------
    out : array, (..., H, N, Dv)
    state : array, (..., H, D, Dv), only with return_state=True

    Raises
    ------
    ShapeError
        If an axis disagrees; the message names it by its letter.
    DecayError
        If a is positive, or delta negative or infinite, or either is NaN.
    OptionError
        If form or chunk is none that exists.

    References
    ----------
    Dao and Gu 2024, arXiv:2405.21060, sections 5 and 6, Listing 1.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> x, b, c = np.random.default_rng(0).standard_normal((3, 2, 5, 3))          # H = G = 2, N = 5, D = Dv = 3
    >>> delta, a = np.full((2, 5), 0.1), np.array([-1.0, -2.0])
    >>> M = np.exp(ma.segment_sum(delta * a[:, None])) * (c @ b.swapaxes(-1, -2))
    >>> np.allclose(ma.ssd(x, delta, a, b, c), M @ (delta[..., None] * x))
    True
    """
    s = _inputs(x, delta, a, b, c, d, state)
    inputs = prepare(s.q, s.k, s.v, log_decay=s.g, state=state)
    result = run(inputs, form, chunk, return_state, FORMS | {"quadratic": lambda x, chunk: quadratic(x)}, backend=backend)
    out, *end = result if return_state else (result,)
    with np.errstate(invalid="ignore", over="ignore"):                             # NaN and inf that are given go through
        out = (out if d is None else out + s.d * s.x).astype(s.dtype, copy=False)
    return (out, *end) if return_state else out


class Grads(NamedTuple):
    """Gradients with respect to what was given, each of its shape and type; None for what was not."""

    dx: np.ndarray
    ddelta: np.ndarray
    da: np.ndarray
    db: np.ndarray
    dc: np.ndarray
    dd: np.ndarray | None
    dstate: np.ndarray | None


def ssd_backward(dout, x, delta, a, b, c, *, d=None, chunk=64, state=None, dstate=None, backend="auto"):
    """The gradient of `ssd`, token by token in O(N) time, keeping one state for each `chunk` tokens.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
    x, delta, a, b, c, d, chunk, state, backend
        As for `ssd`.
    dstate : array, (..., H, D, Dv), optional
        The gradient with respect to the state that the forward returned.

    Returns
    -------
    Grads(dx, ddelta, da, db, dc, dd, dstate)

    Raises
    ------
    ShapeError
        If dout or dstate do not have the forward's shape; and whatever `ssd` raises.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> one = np.ones((1, 3, 1)); x = np.array([[[1.0], [2.0], [4.0]]])           # one head, three tokens, D = Dv = 1
    >>> last = np.array([[[0.0], [0.0], [1.0]]])                                  # only the last output is asked about
    >>> ma.ssd_backward(last, x, one[..., 0], np.log([0.5]), one, one).dx.ravel()
    array([0.25, 0.5 , 1.  ])
    """
    s = _inputs(x, delta, a, b, c, d, state)
    grads = recurrence_backward(dout, s.q, s.k, s.v, log_decay=s.g, chunk=chunk, state=state, dstate=dstate,
                                backend=backend)  # fmt: skip
    dout, dv, dg = np.asarray(dout, s.x.dtype), grads.dv, grads.dlog_decay
    rate = np.where(np.isinf(s.a), 0, s.a)                                         # exp(-inf) has no slope
    with np.errstate(invalid="ignore", over="ignore"):                             # NaN and inf that are given go through
        dx = sum_to(s.delta[..., None] * dv, s.x.shape) + sum_to(s.d * dout, s.x.shape)
        ddelta = sum_to((dv * s.x).sum(axis=-1) + dg * rate, s.delta.shape)
        da, dd = sum_to(s.delta * dg, s.a.shape), sum_to(dout * s.x, s.d.shape)
        db, dc = (a.reshape(*a.shape[:-3], -1, s.share, *a.shape[-2:]).sum(axis=-3) for a in (grads.dk, grads.dq))
    found = (dx, x), (ddelta, delta), (da, a), (db, b), (dc, c), (dd, d), (grads.dstate, state)
    return Grads(*(_as_given(grad, argument) for grad, argument in found))


def _as_given(grad, argument):
    """A gradient in the shape and type of its argument; None for what was not given."""
    return None if argument is None else grad.reshape(np.shape(argument)).astype(np.asarray(argument).dtype, copy=False)


class Arguments(NamedTuple):
    """The arguments in the working type, and q, k, v and log decay of the recurrence that they are."""

    x: np.ndarray
    delta: np.ndarray
    a: np.ndarray                     # (H, 1)
    d: np.ndarray                     # (H, 1, 1), zeros without a skip
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    g: np.ndarray
    share: int                        # heads that share one b and c, H // G
    dtype: np.dtype                   # of the output


@np.errstate(invalid="ignore", over="ignore")                                      # NaN and inf that are given go through
def _inputs(x, delta, a, b, c, d, state):
    """Check what `ssd` is given, in its own letters, and make of it what `recurrence` takes."""
    given = {"x": x, "delta": delta, "a": a, "b": b, "c": c, "d": d, "state": state}
    arrays = {name: floats(name, array) for name, array in given.items() if array is not None or name not in ("d", "state")}
    head, group = ([], []) if arrays["x"].ndim == 2 else (["H"], ["G"])
    letters = {"x": [*head, "N", "Dv"], "delta": [*head, "N"], "a": head, "b": [*group, "N", "D"], "c": [*group, "N", "D"],
               "d": head, "state": [*head, "D", "Dv"]}  # fmt: skip
    sizes: dict[str, int] = {}
    for name in ("x", "b"):
        axes, shape = letters[name], arrays[name].shape
        if len(shape) < len(axes) or 0 in shape[-1:]:
            raise ShapeError(f"{name} is {shape}; it must be (..., {', '.join(axes)}), or without heads in all of x, b and c")
        sizes = dict(zip(axes, shape[-len(axes):], strict=True)) | sizes           # N is that of x
    for name, array in arrays.items():
        fit(name, array, letters[name], sizes, weight=name in ("a", "d"))
        if name in ("delta", "b", "c") and array.ndim - len(letters[name]) != arrays["x"].ndim - len(letters["x"]):
            raise ShapeError(f"{name} is {array.shape} but x is {arrays['x'].shape}; they need as many axes before the heads")
    H, G = sizes.get("H", 1), sizes.get("G", 1)
    if not H or not G or H % G:
        raise ShapeError(f"x has H = {H} heads and b has G = {G}; H must be a multiple of G")
    check_times(arrays["delta"], arrays["a"])
    broadcast_lead(**{name: arrays[name].shape[: arrays[name].ndim - len(letters[name])] for name in ("x", "delta", "b", "c")})

    dtype = common_type(**{name: arrays[name] for name in ("x", "delta", "b", "c")})
    x, delta, a, b, c = (arrays[name].astype(working_type(dtype), copy=False) for name in ("x", "delta", "a", "b", "c"))
    d = np.zeros_like(a) if d is None else arrays["d"].astype(a.dtype)
    q, k = (c, b) if not head else (repeat_kv(c, H // G), repeat_kv(b, H // G))
    rate = a[..., None]
    return Arguments(x, delta, rate, d[..., None, None], q, k, delta[..., None] * x, log_decays(delta, rate), H // G, dtype)
