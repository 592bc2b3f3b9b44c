"""Mamba-2's block, whole: everything the state needs is made from the token at once, heads share what is written and read.

Dao and Gu 2024, "Transformers are SSMs", arXiv:2405.21060, section 7, Figure 6.

    x   tokens, (N, E)         F   channels inside, 2 E in the paper         H   heads of F / H channels
    G   groups of heads        D   numbers of a group's b and of its c       K   taps of the convolution, 4 in the paper

    z, (u, b, c), r = x w_in                          (N, F), (N, F + 2 G D), (N, H)
    u, b, c = silu(causal convolution of (u, b, c))   each channel over its last K tokens
    delta   = softplus(r + b_delta)                   (N, H), the time that passes in each head
    y       = ssd(u, delta, a, b, c, d)               a = -exp(a_log); u split into H heads, b and c into G
    out     = (rms_norm(y silu(z)) norm_weight) w_out         the norm over each group's F / G channels

Beside Mamba's block: one number of time a head in place of one a channel, b and c are convolved too, and a norm follows the gate.
"""
from typing import NamedTuple

import numpy as np

from ..core.errors import OptionError, ShapeError
from ..core.pointwise import rms_norm, silu, softplus
from ..core.projection import merge_heads, split_heads
from ..core.shapes import count, floats, number, working_type
from .convolution import causal_convolution
from .mamba import fit
from .ssd import ssd


class Mamba2Weights(NamedTuple):
    """What one block has learned."""

    w_in: np.ndarray                  # (E, 2 F + 2 G D + H)
    w_conv: np.ndarray                # (K, F + 2 G D)
    b_conv: np.ndarray                # (F + 2 G D,)
    b_delta: np.ndarray               # (H,)
    a_log: np.ndarray                 # (H,)
    d: np.ndarray                     # (H,)
    norm_weight: np.ndarray           # (F,)
    w_out: np.ndarray                 # (F, E)

    @classmethod
    def random(cls, width, *, heads, groups=1, size=4, inner=None, taps=4, seed=0, dtype=np.float64):
        """Weights as at the start of training: rates between -1 and -16, times between 0.001 and 0.1, the rest drawn."""
        rng, F = np.random.default_rng(seed), 2 * width if inner is None else inner
        times, convolved = np.exp(rng.uniform(np.log(0.001), np.log(0.1), heads)), F + 2 * groups * size

        def normal(*shape):
            return rng.standard_normal(shape) / shape[0] ** 0.5

        return cls(*(w.astype(dtype) for w in (
            normal(width, F + convolved + heads), normal(taps, convolved), normal(1, convolved)[0], np.log(np.expm1(times)),
            np.log(rng.uniform(1, 16, heads)), np.ones(heads), rng.uniform(0.5, 1.5, F), normal(F, width),
        )))  # fmt: skip


class Mamba2State(NamedTuple):
    """All that a later call needs: its size does not depend on how many tokens there were."""

    last: np.ndarray                  # (..., K - 1, F + 2 G D), what the convolution looks back to
    memory: np.ndarray                # (..., H, D, F / H)


def mamba2_block(x, weights, *, groups=1, eps=1e-5, form="chunked", chunk=64, state=None, return_state=False, backend="auto"):
    """Mamba-2's layer from tokens to tokens.

    Parameters
    ----------
    x : array, (..., N, E)
    weights : Mamba2Weights
        Taken to the type of x.
    groups : int
        G, which divides H: so many b and c, each shared by H / G heads.
    eps : float
        Added to the mean square in the norm.
    form, chunk, backend
        As for `ssd`.
    state : Mamba2State, optional
        What an earlier call returned; None starts empty, and the tokens before the first are zeros.
    return_state : bool
        Also return the state after the last token.

    Returns
    -------
    out : array, (..., N, E)
    state : Mamba2State, only with return_state=True

    Raises
    ------
    ShapeError
        If x, the state and the weights do not fit each other, or `groups` does not fit the weights.
    OptionError
        If weights or state are of another kind; and whatever `ssd` raises.

    References
    ----------
    Dao and Gu 2024, arXiv:2405.21060, section 7.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> weights = ma.Mamba2Weights.random(6, heads=4, groups=2, size=5)           # E = 6, F = 12, H = 4, G = 2, D = 5, K = 4
    >>> x = np.random.default_rng(0).standard_normal((9, 6))
    >>> whole = ma.mamba2_block(x, weights, groups=2)
    >>> part, state = ma.mamba2_block(x[:8], weights, groups=2, return_state=True)
    >>> last = ma.mamba2_block(x[8:], weights, groups=2, state=state)             # one more token, from the state alone
    >>> np.allclose(last, whole[8:]), state.last.shape, state.memory.shape
    (True, (3, 32), (4, 5, 3))
    """
    x, w, dtype = _check(x, weights, groups, state)
    F, H, eps = len(w.norm_weight), len(w.a_log), number("eps", eps, 0)
    last, memory = (None, None) if state is None else state

    with np.errstate(invalid="ignore", over="ignore"):                             # NaN and inf that are given go through
        z, u, r = np.split(x @ w.w_in, [F, w.w_in.shape[1] - H], axis=-1)
        u, last = causal_convolution(u, w.w_conv, w.b_conv, last)
        u, b, c = np.split(silu(u), [F, (F + u.shape[-1]) // 2], axis=-1)
        delta = softplus(r + w.b_delta).swapaxes(-1, -2)                               # (..., H, N)
        u, b, c = split_heads(u, H), split_heads(b, groups), split_heads(c, groups)
        y, memory = ssd(u, delta, -np.exp(w.a_log), b, c, d=w.d, form=form, chunk=chunk, state=memory, return_state=True,
                        backend=backend)  # fmt: skip
        gated = split_heads(merge_heads(y) * silu(z), groups)                          # (..., G, N, F / G)
        normed = merge_heads(rms_norm(gated, 1, eps)) * w.norm_weight
        out = (normed @ w.w_out).astype(dtype, copy=False)
    return (out, Mamba2State(last, memory)) if return_state else out


def _check(x, weights, groups, state):
    """Everything that must fit, said in the block's own letters; x and the weights in the type to compute in."""
    x, G = floats("x", x), count("groups", groups, 1)
    if not isinstance(weights, Mamba2Weights):
        raise OptionError(f"weights is {type(weights).__name__}; it must be Mamba2Weights")
    if state is not None and not isinstance(state, Mamba2State):
        raise OptionError(f"state is {type(state).__name__}; it must be the Mamba2State that an earlier call returned")
    given = {name: floats(name, w) for name, w in weights._asdict().items()}
    for name, ndim, axes in (("a_log", 1, "(H,)"), ("norm_weight", 1, "(F,)"), ("w_conv", 2, "(K, F + 2 G D)")):
        if given[name].ndim != ndim or 0 in given[name].shape:
            raise ShapeError(f"{name} is {given[name].shape}; it must be {axes}")
    if x.ndim < 2:
        raise ShapeError(f"x is {x.shape}; it must be (..., N, E)")
    H, F, (K, convolved) = len(given["a_log"]), len(given["norm_weight"]), given["w_conv"].shape
    if F % H or H % G or F % G:
        raise ShapeError(f"F = {F} channels, H = {H} heads and G = {G} groups; H must divide F, and G both")
    if convolved <= F or (convolved - F) % (2 * G):
        raise ShapeError(f"w_conv is {given['w_conv'].shape}; it must be (K, F + 2 G D) with F = {F} and G = {G}")
    sizes = {"E": x.shape[-1], "F": F, "H": H, "K": K, "F + 2 G D": convolved, "2 F + 2 G D + H": F + convolved + H}
    letters = {"w_in": ["E", "2 F + 2 G D + H"], "w_conv": ["K", "F + 2 G D"], "b_conv": ["F + 2 G D"], "b_delta": "H",
               "a_log": "H", "d": "H", "norm_weight": "F", "w_out": "FE"}  # fmt: skip
    for name, w in given.items():
        fit(name, w, letters[name], sizes, weight=True)
    work = working_type(x.dtype)
    return x.astype(work, copy=False), Mamba2Weights(**{name: w.astype(work, copy=False) for name, w in given.items()}), x.dtype
