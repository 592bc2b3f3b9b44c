"""Multi-scale retention, the block that takes attention's place in RetNet: rotate, retain, normalise each head, gate.

Sun et al. 2023, "Retentive Network", arXiv:2307.08621, sections 2.1 and 2.2, eq (8).

    x   tokens, (N, E)         w_q, w_k   (E, H D)       w_v, w_g   (E, H Dv)      w_o   (H Dv, E)
    H   heads                  D   head dim of q and k   Dv  head dim of v         gamma   decay of a head

    q, k    = x w_q, x w_k / sqrt(D), each head rotated to its positions           eq (5), as by `rope`
    y_h     = retention(q_h, k_h, v_h) with gamma_h = 1 - 2^(-5 - h)               h = 0 .. H - 1: memories of 32, 64, .. tokens
    out     = (silu(x w_g) * head_norm(y)) w_o                                     the norm of each head alone

Rotation and decay together are xPos with one rate for each head (see core/xpos.py). The norm takes away the scale of what a
head has read, which grows with the decay's sum, so retention needs no divisor; the paper's other two stabilisers, of the
decay's rows and of the scores' rows, are such scales too, and are left out.
"""
from typing import NamedTuple

import numpy as np

from ..core.errors import OptionError, ShapeError
from ..core.pointwise import head_norm, silu
from ..core.projection import merge_heads, project_qkv, split_heads
from ..core.rope import rope
from ..core.shapes import count, floats, number, working_type
from .retention import retention


class RetNetWeights(NamedTuple):
    """What one block of multi-scale retention has learned."""

    w_q: np.ndarray                   # (E, H * D)
    w_k: np.ndarray                   # (E, H * D)
    w_v: np.ndarray                   # (E, H * Dv)
    w_g: np.ndarray                   # (E, H * Dv)
    w_o: np.ndarray                   # (H * Dv, E)

    @classmethod
    def random(cls, width, *, value_width=None, seed=0, dtype=np.float64):
        """Weights drawn from N(0, 1 / rows): E = H D = `width`, and H Dv = `value_width`, by default 2 E as in the paper."""
        rng, wide = np.random.default_rng(seed), 2 * width if value_width is None else value_width
        shapes = (width, width), (width, width), (width, wide), (width, wide), (wide, width)
        return cls(*((rng.standard_normal(shape) / shape[0] ** 0.5).astype(dtype) for shape in shapes))


class RetNetState(NamedTuple):
    """All that a later call needs: its size does not depend on how many tokens there were."""

    memory: np.ndarray | None         # (..., H, D, Dv); None is empty
    position: int                     # of the next token


def multiscale_decay(heads):
    """Log decay of each head, (H,): gamma_h = 1 - 2^(-5 - h), eq (8).

    Examples
    --------
    >>> import numpy as np
    >>> from minattn.linear.retnet import multiscale_decay
    >>> 1 / (1 - np.exp(multiscale_decay(4)))                 # about so many tokens each head remembers
    array([ 32.,  64., 128., 256.])
    """
    return np.log1p(-(2.0 ** (-5 - np.arange(count("heads", heads, 1)))))


def retnet_block(x, weights, *, heads, log_decay=None, theta=10_000.0, eps=1e-6, form="chunked", chunk=64, state=None,
                 return_state=False, backend="auto"):  # fmt: skip
    """Multi-scale retention: RetNet's layer from tokens to tokens.

    Parameters
    ----------
    x : array, (..., N, E)
    weights : RetNetWeights
        Taken to the type of x.
    heads : int
        H.
    log_decay : array, (H,), optional
        Natural log of the decay of each head; `multiscale_decay(heads)` without it.
    theta : float
        Base of the rotation's frequencies theta^(-2p / D). The authors' code has 10,000^(-p / (D/2 - 1)), which is
        theta = 10,000 ** (D / (D - 2)).
    eps : float
        Added to the variance in the norm of each head.
    form : {"parallel", "recurrent", "chunked"}
        Three routes to the same output, as for `retention`.
    chunk : int
        Tokens per chunk; only for form="chunked".
    state : RetNetState, optional
        What an earlier call returned; None starts empty, at position 0.
    return_state : bool
        Also return the state after the last token.
    backend : {"auto", "numpy", "cpu"}
        As for `retention`.

    Returns
    -------
    out : array, (..., N, E)
    state : RetNetState, only with return_state=True

    Raises
    ------
    ShapeError
        If the weights do not fit x, the heads or each other.
    OptionError
        If D is odd, or weights or state are of another kind; and whatever `retention` raises.

    References
    ----------
    Sun et al. 2023, arXiv:2307.08621, eq (8).

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> weights = ma.RetNetWeights.random(8, seed=0)
    >>> x = np.random.default_rng(1).standard_normal((9, 8))                      # N = 9, E = 8
    >>> whole = ma.retnet_block(x, weights, heads=2, form="parallel")
    >>> first, state = ma.retnet_block(x[:6], weights, heads=2, return_state=True)
    >>> later = ma.retnet_block(x[6:], weights, heads=2, state=state, form="recurrent")
    >>> np.allclose(np.concatenate([first, later]), whole), state.memory.shape, state.position
    (True, (2, 4, 8), 6)
    """
    x, w, state, dtype = _check(x, weights, state)
    heads, eps = count("heads", heads, 1), number("eps", eps, 0)
    at = state.position + np.arange(x.shape[-2])
    decay = multiscale_decay(heads) if log_decay is None else log_decay
    with np.errstate(invalid="ignore", over="ignore"):                             # NaN and inf that are given go through
        q, k, v = (split_heads(a, heads) for a in project_qkv(x, w.w_q, w.w_k, w.w_v))
        q, k = (rope(a, at, layout="interleaved", theta=theta) for a in (q, k / max(q.shape[-1], 1) ** 0.5))
        read, memory = retention(q, k, v, log_decay=decay, form=form, chunk=chunk, state=state.memory, return_state=True,
                                 backend=backend)  # fmt: skip
        out = ((silu(x @ w.w_g) * merge_heads(head_norm(read, eps))) @ w.w_o).astype(dtype, copy=False)
    return (out, RetNetState(memory, state.position + x.shape[-2])) if return_state else out


def _check(x, weights, state):
    """x and the weights in the type to compute in, and the state; project_qkv looks at the weights before retention."""
    x = floats("x", x)
    if not isinstance(weights, RetNetWeights):
        raise OptionError(f"weights is {type(weights).__name__}; it must be RetNetWeights")
    if x.ndim < 2:
        raise ShapeError(f"x is {x.shape}; it must be (..., N, E)")
    if state is not None and not isinstance(state, RetNetState):
        raise OptionError(f"state is {type(state).__name__}; it must be the RetNetState that an earlier call returned")
    w = RetNetWeights(*(floats(name, a).astype(working_type(x.dtype), copy=False) for name, a in weights._asdict().items()))
    state = RetNetState(None, 0) if state is None else state._replace(position=count("state.position", state.position, 0))
    if w.w_g.shape != w.w_v.shape:
        raise ShapeError(f"w_g is {w.w_g.shape} but w_v is {w.w_v.shape}; the gate has one number for each that is read, "
                         "(E, H * Dv)")  # fmt: skip
    if w.w_o.ndim != 2 or w.w_o.shape[:1] != w.w_v.shape[1:]:
        raise ShapeError(f"w_o is {w.w_o.shape} but w_v is {w.w_v.shape}; it must be (H * Dv, E_out), with the H * Dv of w_v")
    return x.astype(working_type(x.dtype), copy=False), w, state, x.dtype
