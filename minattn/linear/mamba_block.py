"""Mamba's block, whole: what a token lets fade, writes and reads is made from its last few tokens, then a gate.

Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752, section 3.4, Figure 3.

    x   tokens, (N, E)         F   channels inside, 2 E in the paper         n   size of a channel's state
    R   numbers that a token's times are made of, E / 16 in the paper        K   taps of the convolution, 4 in the paper

    u, z    = x w_in                                        (N, F) each: what is scanned, and its gate
    u       = silu(causal convolution of u)                 each channel over its last K tokens
    r, b, c = u w_x                                         (N, R), (N, n), (N, n)
    delta   = softplus(r w_delta + b_delta)                 (N, F), the time that passes in each channel
    y       = selective_scan(u, delta, a, b, c, d, z)       a = -exp(a_log), -1 .. -n in each channel at the start
    out     = y w_out

This one block stands where a transformer has attention and a feed-forward layer. What a later call needs is the last K - 1
tokens of the convolution and the state of the scan.
"""
from typing import NamedTuple

import numpy as np

from ..core.errors import OptionError, ShapeError
from ..core.pointwise import silu, softplus
from ..core.shapes import floats, working_type
from .convolution import causal_convolution
from .mamba import fit, selective_scan


class MambaWeights(NamedTuple):
    """What one block has learned."""

    w_in: np.ndarray                  # (E, 2 F)
    w_conv: np.ndarray                # (K, F)
    b_conv: np.ndarray                # (F,)
    w_x: np.ndarray                   # (F, R + 2 n)
    w_delta: np.ndarray               # (R, F)
    b_delta: np.ndarray               # (F,)
    a_log: np.ndarray                 # (F, n)
    d: np.ndarray                     # (F,)
    w_out: np.ndarray                 # (F, E)

    @classmethod
    def random(cls, width, *, inner=None, size=4, rank=2, taps=4, seed=0, dtype=np.float64):
        """Weights as at the start of training: rates -1 .. -n, times between 0.001 and 0.1, the rest drawn."""
        rng, F = np.random.default_rng(seed), 2 * width if inner is None else inner
        times = np.exp(rng.uniform(np.log(0.001), np.log(0.1), F))

        def normal(*shape):
            return rng.standard_normal(shape) / shape[0] ** 0.5

        return cls(*(w.astype(dtype) for w in (
            normal(width, 2 * F), normal(taps, F), normal(1, F)[0], normal(F, rank + 2 * size), normal(rank, F),
            np.log(np.expm1(times)), np.log(np.tile(np.arange(1.0, size + 1), (F, 1))), np.ones(F), normal(F, width),
        )))  # fmt: skip


class MambaState(NamedTuple):
    """All that a later call needs: its size does not depend on how many tokens there were."""

    last: np.ndarray                  # (..., K - 1, F), what the convolution looks back to
    memory: np.ndarray                # (..., F, n)


def mamba_block(x, weights, *, form="sequential", discretization="euler", state=None, return_state=False, backend="auto"):
    """Mamba's layer from tokens to tokens.

    Parameters
    ----------
    x : array, (..., N, E)
    weights : MambaWeights
        Taken to the type of x.
    form, discretization, backend
        As for `selective_scan`.
    state : MambaState, optional
        What an earlier call returned; None starts empty, and the tokens before the first are zeros.
    return_state : bool
        Also return the state after the last token.

    Returns
    -------
    out : array, (..., N, E)
    state : MambaState, only with return_state=True

    Raises
    ------
    ShapeError
        If x, the state and the weights do not fit each other.
    OptionError
        If weights or state are of another kind; and whatever `selective_scan` raises.

    References
    ----------
    Gu and Dao 2023, arXiv:2312.00752, section 3.4.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> weights = ma.MambaWeights.random(6, size=3)                               # E = 6, F = 12, n = 3, K = 4
    >>> x = np.random.default_rng(0).standard_normal((9, 6))
    >>> whole = ma.mamba_block(x, weights)
    >>> part, state = ma.mamba_block(x[:8], weights, return_state=True)
    >>> last = ma.mamba_block(x[8:], weights, state=state)                        # one more token, from the state alone
    >>> np.allclose(last, whole[8:]), state.last.shape, state.memory.shape
    (True, (3, 12), (12, 3))
    """
    x, w, dtype = _check(x, weights, state)
    rank, size = w.w_delta.shape[0], w.a_log.shape[1]
    last, memory = (None, None) if state is None else state

    with np.errstate(invalid="ignore", over="ignore"):                             # NaN and inf that are given go through
        u, z = np.split(x @ w.w_in, 2, axis=-1)
        u, last = causal_convolution(u, w.w_conv, w.b_conv, last)
        u = silu(u)
        r, b, c = np.split(u @ w.w_x, [rank, rank + size], axis=-1)
        delta = softplus(r @ w.w_delta + w.b_delta)
        y, memory = selective_scan(u, delta, -np.exp(w.a_log), b, c, d=w.d, z=z, form=form, discretization=discretization,
                                   state=memory, return_state=True, backend=backend)  # fmt: skip
        out = (y @ w.w_out).astype(dtype, copy=False)
    return (out, MambaState(last, memory)) if return_state else out


def _check(x, weights, state):
    """Everything that must fit, said in the block's own letters; x and the weights in the type to compute in."""
    x = floats("x", x)
    if not isinstance(weights, MambaWeights):
        raise OptionError(f"weights is {type(weights).__name__}; it must be MambaWeights")
    if state is not None and not isinstance(state, MambaState):
        raise OptionError(f"state is {type(state).__name__}; it must be the MambaState that an earlier call returned")
    given = {name: floats(name, w) for name, w in weights._asdict().items()}
    for name, axes in (("a_log", "(F, n)"), ("w_delta", "(R, F)"), ("w_conv", "(K, F)")):
        if given[name].ndim != 2 or 0 in given[name].shape:
            raise ShapeError(f"{name} is {given[name].shape}; it must be {axes}")
    if x.ndim < 2:
        raise ShapeError(f"x is {x.shape}; it must be (..., N, E)")
    (F, n), R, K, E = given["a_log"].shape, len(given["w_delta"]), len(given["w_conv"]), x.shape[-1]
    sizes = {"E": E, "F": F, "2 F": 2 * F, "R": R, "R + 2 n": R + 2 * n, "K": K, "n": n}
    letters = {"w_in": ["E", "2 F"], "w_conv": "KF", "b_conv": "F", "w_x": ["F", "R + 2 n"], "w_delta": "RF", "b_delta": "F",
               "a_log": "Fn", "d": "F", "w_out": "FE"}  # fmt: skip
    for name, w in given.items():
        fit(name, w, letters[name], sizes, weight=True)
    work = working_type(x.dtype)
    return x.astype(work, copy=False), MambaWeights(**{name: w.astype(work, copy=False) for name, w in given.items()}), x.dtype
