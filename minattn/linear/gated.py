"""Gated linear attention: each channel of the state has a gate, and the token decides how far it closes.

Yang et al. 2024, "Gated Linear Attention Transformers with Hardware-Efficient Training", arXiv:2312.06635, section 4.

    D   head dim of q and k        Dv  head dim of v       N  length
    S   state, (D, Dv)             g   log of the gates, (N, D) or one for all channels, (N,), g <= 0

    S_n = diag(exp g_n) S_{n-1} + k_n v_n^T,   o_n = scale * q_n S_n

exp g_n = 1 is linear attention without feature map and normaliser, a constant one is retention. In a layer g comes from the
token, as log sigmoid(W x) / 16, so that gates stay near 1 at the start; that part is the caller's.
"""
from typing import NamedTuple

import numpy as np

from .backward import recurrence_backward
from .recurrence import recurrence


def gated_linear_attention(q, k, v, *, log_decay, scale=1.0, form="chunked", chunk=64, state=None, return_state=False,
                           backend="auto"):  # fmt: skip
    """Linear attention whose state is decayed channel by channel, by gates that each token sets.

    Parameters
    ----------
    q : array, (..., H, N, D)
    k : array, (..., G, N, D)
    v : array, (..., G, N, Dv)
    log_decay : array, (..., G, N, D) or (..., G, N)
        Natural log of the gates; 0 keeps, -inf forgets.
    scale, form, chunk, state, return_state, backend
        As for `recurrence`.

    Returns
    -------
    out : array, (..., H, N, Dv)
    state : array, (..., G, D, Dv), only with return_state=True

    Raises
    ------
    ShapeError, DecayError, BackendError
        As for `recurrence`.

    References
    ----------
    Yang et al. 2024, arXiv:2312.06635, section 4.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q = k = np.ones((1, 3, 2)); v = np.array([[[1.0], [2.0], [4.0]]])         # one head, three tokens, two channels
    >>> gates = np.array([[[1.0, 1.0], [1.0, 0.5], [1.0, 0.5]]])                   # the second channel forgets
    >>> ma.gated_linear_attention(q, k, v, log_decay=np.log(gates)).ravel()
    array([ 2.  ,  5.5 , 12.25])
    """
    return recurrence(q, k, v, log_decay=log_decay, scale=scale, form=form, chunk=chunk, state=state, return_state=return_state,
                      backend=backend)  # fmt: skip


class Grads(NamedTuple):
    """Gradients with respect to what was given, each of its shape and type; None for what was not."""

    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    dlog_decay: np.ndarray
    dstate: np.ndarray | None


def gated_linear_attention_backward(dout, q, k, v, *, log_decay, scale=1.0, chunk=64, state=None, dstate=None,
                                    backend="auto"):  # fmt: skip
    """The gradient of `gated_linear_attention`, token by token in O(N) time, keeping one state for each `chunk` tokens.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
    q, k, v, log_decay, scale, chunk, state, backend
        As for `gated_linear_attention`.
    dstate : array, (..., G, D, Dv), optional
        The gradient with respect to the state that the forward returned.

    Returns
    -------
    Grads(dq, dk, dv, dlog_decay, dstate)

    Raises
    ------
    ShapeError
        If dout or dstate do not have the forward's shape; and whatever `gated_linear_attention` raises.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> ones = np.ones((1, 3, 1))                            # each value is read at once, and halved at each later step
    >>> ma.gated_linear_attention_backward(ones, ones, ones, ones, log_decay=np.log([[0.5]])).dv.ravel()
    array([1.75, 1.5 , 1.  ])
    """
    d = recurrence_backward(dout, q, k, v, log_decay=log_decay, scale=scale, chunk=chunk, state=state, dstate=dstate,
                            backend=backend)  # fmt: skip
    return Grads(d.dq, d.dk, d.dv, d.dlog_decay, d.dstate)
