"""Retention: attention without softmax, with a fixed decay per head.

Sun et al. 2023, "Retentive Network", arXiv:2307.08621, section 2.1.

    D   head dim of q and k        Dv  head dim of v       N  length
    S   state, (D, Dv)             g   log decay per head, g <= 0

    parallel    o_n = sum_{m <= n} exp(g (n - m)) (q_n . k_m) v_m          eq (5)
    recurrent   S_n = exp(g) S_{n-1} + k_n v_n^T,   o_n = q_n S_n          eq (6)
    chunked     parallel inside a chunk, recurrent from chunk to chunk     eq (7)

The three are one function: `test_forms_agree` holds them together. This is the raw retention, without rotation, gate and
group norm; the last two forms are those of `recurrence` with a decay that never changes.
"""
import numpy as np

from ..core.errors import DecayError, ShapeError
from ..core.reference import product
from ..core.shapes import floats
from .backward import gradients
from .gated import Grads
from .inputs import Inputs, prepare
from .recurrence import FORMS, run


def parallel(x: Inputs):
    """Every pair of query and key at once, in O(N^2): what the queries read, (P, R, N, Dv), and the last state."""
    g = x.g.min(axis=1, keepdims=True, initial=0)[..., None]                       # (P, 1, 1, 1), also of no tokens
    n, state = np.arange(x.k.shape[1], dtype=g.dtype), x.state[:, None]
    k, v = x.k[:, None], x.v[:, None]
    age = n[:, None] - n                                                           # (N, N), how long ago key m was
    scores = np.where(age >= 0, (x.q @ k.swapaxes(-1, -2)) * np.exp(g * age.clip(0)), 0)
    out = product(scores, age >= 0, v) + np.exp(g * (n[:, None] + 1)) * (x.q @ state)
    left = np.exp(g * (len(n) - 1 - n[:, None]))                                   # decay until the last token
    return out, (np.exp(g * len(n)) * state + (k * left).swapaxes(-1, -2) @ v)[:, 0]


def retention(q, k, v, *, log_decay, form="chunked", chunk=64, state=None, return_state=False, backend="auto"):
    """Retention of every query over the keys up to its own position.

    Parameters
    ----------
    q : array, (..., H, N, D)
    k : array, (..., G, N, D)
    v : array, (..., G, N, Dv)
    log_decay : array, (G,), where G = H unless heads are grouped
        Natural log of the decay per step, finite; 0 keeps everything.
    form : {"parallel", "recurrent", "chunked"}
        Three routes to the same output: O(N^2) time; O(N) time, token by token; O(N) time, a chunk at a time.
    chunk : int
        Tokens per chunk; only for form="chunked".
    state : array, (..., G, D, Dv), optional
        What an earlier call returned; None starts empty.
    return_state : bool
        Also return the state after the last token.
    backend : {"auto", "numpy", "cpu"}
        As for `recurrence`; the parallel form is NumPy's alone.

    Returns
    -------
    out : array, (..., H, N, Dv)
    state : array, (..., G, D, Dv), only with return_state=True

    Raises
    ------
    ShapeError
        If an axis disagrees; the message names it by its letter.
    DecayError
        If a log decay is positive or not finite.

    References
    ----------
    Sun et al. 2023, arXiv:2307.08621, eqs (5) to (7).

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q = k = v = np.ones((1, 3, 1))                       # one head, three tokens, D = 1
    >>> ma.retention(q, k, v, log_decay=np.log([0.5])).ravel()
    array([1.  , 1.5 , 1.75])
    """
    x = _inputs(q, k, v, log_decay, state)
    return run(x, form, chunk, return_state, {"parallel": lambda x, chunk: parallel(x)} | FORMS, backend=backend)


def retention_backward(dout, q, k, v, *, log_decay, chunk=64, state=None, dstate=None, backend="auto"):
    """The gradient of `retention`, token by token in O(N) time, keeping one state for each `chunk` tokens.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
    q, k, v, log_decay, chunk, state, backend
        As for `retention`.
    dstate : array, (..., G, D, Dv), optional
        The gradient with respect to the state that the forward returned.

    Returns
    -------
    Grads(dq, dk, dv, dlog_decay, dstate)

    Raises
    ------
    ShapeError
        If dout or dstate do not have the forward's shape; and whatever `retention` raises.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> ones = np.ones((1, 3, 1))
    >>> ma.retention_backward(ones, ones, ones, ones, log_decay=np.log([0.5])).dv.ravel()     # 1 + 1/2 + 1/4, 1 + 1/2, 1
    array([1.75, 1.5 , 1.  ])
    """
    x = _inputs(q, k, v, log_decay, state)
    d = gradients(x, dout, dstate, chunk, backend=backend)
    dlog_decay = x.restore_key(d.g.sum(axis=(1, 2))).reshape(-1, *np.shape(log_decay)).sum(axis=0)
    return Grads(x.gradient(d.q, q), x.gradient(d.k, k), x.gradient(d.v, v), dlog_decay.astype(np.asarray(log_decay).dtype),
                 x.gradient(d.state, state))  # fmt: skip


def _inputs(q, k, v, log_decay, state):
    k, log_decay = floats("k", k), floats("log_decay", log_decay)
    if log_decay.shape != k.shape[-3:-2]:
        needed = "one number, ()" if k.ndim == 2 else f"(G,) = {k.shape[-3:-2]}"
        raise ShapeError(f"log_decay is {log_decay.shape}; it must be {needed}: one decay for each head of k, at all tokens")
    if np.isneginf(log_decay).any():
        raise DecayError("log_decay is -inf; retention decays by powers of one finite number (a closed gate is `recurrence`'s)")
    steady = log_decay.reshape((1,) * (k.ndim - log_decay.ndim - 2) + (*log_decay.shape, 1))       # (..., G, N), each 1 but G
    return prepare(q, k, v, log_decay=steady, state=state)
