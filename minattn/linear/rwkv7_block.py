"""RWKV-7's time mixing, whole: every token makes its own decay, rate of removal, key, value and gate, then the state is read.

Peng et al. 2025, "RWKV-7 Goose with Expressive Dynamic State Evolution", arXiv:2503.14456, section 4.1.

    x    tokens, (N, E)            H   heads of D = E / H channels          mu   how far each channel looks back, (E,)
    low-rank map: bias + f(x down) up, from E through a few numbers to E

    x_*   = x_t + mu_* (x_{t-1} - x_t)              token shift, for each of r, w, k, v, a, g
    r, k, v = x_r w_r,  x_k w_k,  x_v w_v
    w     = exp(-exp(-1/2) sigmoid(low-rank tanh))        decay, in (0.545, 1)
    a     = sigmoid(low-rank)                             in-context learning rate, in (0, 1)
    v     = v + nu (v of layer 0 - v)                     nu = sigmoid(low-rank); not in layer 0 itself
    kappa = k xi, each head divided by its length         what is removed
    k     = k (1 + alpha (a - 1))                         what is written, k-tilde
    o     = the recurrence of `rwkv7`, r reading it
    out   = (head_norm(o) weight + bias + (r . rho k) v) g w_o      g = sigmoid(x_g down) up

(r . rho k) v is the bonus: the token reads itself once more, past the state. What a later call needs is the last token, for
the shift, and the state of each head. Of layer 0's v and its own, nu leads from the latter to the former, as in the weights
that the authors released.
"""
from math import exp
from typing import Any, NamedTuple

import numpy as np

from ..core.errors import OptionError, ShapeError
from ..core.pointwise import head_norm, sigmoid
from ..core.projection import merge_heads, split_heads
from ..core.shapes import floats, number, working_type
from .rwkv7 import rwkv7


class LowRank(NamedTuple):
    """A map from E to E that goes through few numbers, R."""

    down: np.ndarray                  # (E, R)
    up: np.ndarray                    # (R, E)
    bias: np.ndarray | float = 0.0    # (E,)

    def __call__(self, x, between=lambda x: x):
        return self.bias + between(x @ self.down) @ self.up


class Shift(NamedTuple):
    """How far each channel looks back to the token before, for each thing that is made of it; (E,) each, usually in (0, 1)."""

    r: np.ndarray
    w: np.ndarray
    k: np.ndarray
    v: np.ndarray
    a: np.ndarray
    g: np.ndarray


class RWKV7Weights(NamedTuple):
    """What one layer of time mixing has learned."""

    shift: Shift
    w_r: np.ndarray                   # (E, E), as the other three
    w_k: np.ndarray
    w_v: np.ndarray
    w_o: np.ndarray
    decay: LowRank
    rate: LowRank
    gate: LowRank
    residual: LowRank | None          # of the value; None in layer 0
    xi: np.ndarray                    # (E,), shapes the removal key
    alpha: np.ndarray                 # (E,), how far the rate scales what is written
    rho: np.ndarray                   # (H, D), the bonus; says how many heads there are
    norm_weight: np.ndarray           # (E,)
    norm_bias: np.ndarray             # (E,)

    @classmethod
    def random(cls, width, *, heads, rank=4, first=False, seed=0, dtype=np.float64):
        """Weights drawn so that each part matters; `first` says whether this is layer 0."""
        rng = np.random.default_rng(seed)

        def normal(*shape):
            return (rng.standard_normal(shape) / shape[0] ** 0.5).astype(dtype)

        def low_rank(bias=True):
            return LowRank(normal(width, rank), normal(rank, width), normal(1, width)[0] if bias else 0.0)

        def between(low, high, *shape):
            return rng.uniform(low, high, shape).astype(dtype)

        return cls(
            shift=Shift(*between(0, 1, 6, width)), w_r=normal(width, width), w_k=normal(width, width), w_v=normal(width, width),
            w_o=normal(width, width), decay=low_rank(), rate=low_rank(), gate=low_rank(bias=False),
            residual=None if first else low_rank(), xi=between(0.5, 1, width), alpha=between(0, 1, width),
            rho=between(-1, 1, heads, width // heads), norm_weight=between(0.5, 1.5, width), norm_bias=normal(1, width)[0],
        )  # fmt: skip


class RWKV7State(NamedTuple):
    """All that a later call needs: its size does not depend on how many tokens there were."""

    last: np.ndarray                  # (..., E), the last token
    memory: np.ndarray                # (..., H, D, D)


def rwkv7_block(x, weights, *, value=None, eps=64e-5, form="chunked", chunk=64, state=None, return_state=False,
                backend="auto"):  # fmt: skip
    """Time mixing: RWKV-7's layer from tokens to tokens.

    Parameters
    ----------
    x : array, (..., N, E)
    weights : RWKV7Weights
        Taken to the type of x.
    value : array, (..., N, E), optional
        The values that layer 0 returned for the same tokens; only in later layers, which need it.
    eps : float
        Added to the variance in the norm of each head.
    form, chunk, backend
        As for `rwkv7`.
    state : RWKV7State, optional
        What an earlier call returned; None starts empty, and the token before the first is zeros.
    return_state : bool
        Also return the state after the last token.

    Returns
    -------
    out : array, (..., N, E)
    value : array, (..., N, E)
        The values of layer 0: its own in layer 0, in later layers those that were given.
    state : RWKV7State, only with return_state=True

    Raises
    ------
    ShapeError
        If x, value, the state and the weights do not fit each other.
    OptionError
        If layer 0 is given a value or a later one is not, or the state is no RWKV7State; and whatever `rwkv7` raises.

    References
    ----------
    Peng et al. 2025, arXiv:2503.14456, section 4.1.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> first, second = (ma.RWKV7Weights.random(8, heads=2, first=n == 0, seed=n) for n in range(2))
    >>> x = np.random.default_rng(2).standard_normal((9, 8))                      # N = 9, E = 8
    >>> out, value = ma.rwkv7_block(x, first)
    >>> deep, _ = ma.rwkv7_block(out, second, value=value)
    >>> part, _, state = ma.rwkv7_block(x[:6], first, return_state=True)
    >>> rest, _ = ma.rwkv7_block(x[6:], first, state=state)
    >>> np.allclose(np.concatenate([part, rest]), out), deep.shape, state.memory.shape
    (True, (9, 8), (2, 4, 4))
    """
    x, weights, value, state, dtype = _check(x, weights, value, state)
    eps = number("eps", eps, 0)
    H, (lead, E) = np.shape(weights.rho)[0], (x.shape[:-2], x.shape[-1])
    last = np.zeros((*lead, E), x.dtype) if state is None else state.last
    with np.errstate(invalid="ignore", over="ignore"):                             # NaN and inf that are given go through
        before = np.concatenate([last[..., None, :], x[..., :-1, :]], axis=-2)[..., :x.shape[-2], :]
        at = Shift(*(x + mu * (before - x) for mu in weights.shift))                  # what each part sees of two tokens
        r, k, v = at.r @ weights.w_r, at.k @ weights.w_k, at.v @ weights.w_v
        log_w = -exp(-0.5) * sigmoid(weights.decay(at.w, np.tanh))
        a, g = sigmoid(weights.rate(at.a)), weights.gate(at.g, sigmoid)
        if weights.residual is None:
            value = v
        else:
            v = v + sigmoid(weights.residual(at.v)) * (value - v)
        removed, written = k * weights.xi, k * (1 + weights.alpha * (a - 1))

        r, log_w, written, v, removed, a = (split_heads(part, H) for part in (r, log_w, written, v, removed, a))
        kappa = removed / np.maximum(np.linalg.norm(removed, axis=-1, keepdims=True), 1e-12)
        read, memory = rwkv7(r, log_w, written, v, kappa, a, form=form, chunk=chunk, return_state=True,
                             state=None if state is None else state.memory, backend=backend)  # fmt: skip
        bonus = (r * written * weights.rho[:, None]).sum(axis=-1, keepdims=True) * v
        normed = merge_heads(head_norm(read, eps)) * weights.norm_weight + weights.norm_bias
        out = (((normed + merge_heads(bonus)) * g) @ weights.w_o).astype(dtype, copy=False)
    value, end = value.astype(dtype, copy=False), x[..., -1, :] if x.shape[-2] else last
    return (out, value, RWKV7State(end.copy(), memory)) if return_state else (out, value)


def _check(x, weights, value, state):
    """Everything that must fit, said in the block's own letters before anything is computed."""
    x = floats("x", x)
    if not isinstance(weights, RWKV7Weights):
        raise OptionError(f"weights is {type(weights).__name__}; it must be RWKV7Weights")
    weights = _taken("weights", weights, working_type(x.dtype))
    rho = np.shape(weights.rho)
    if x.ndim < 2 or len(rho) != 2 or x.shape[-1] != rho[0] * rho[1]:
        raise ShapeError(f"x is {x.shape} and rho {rho}; they must be (..., N, E) and (H, D) with E = H D")
    E = x.shape[-1]
    for name in ("w_r", "w_k", "w_v", "w_o"):
        if np.shape(getattr(weights, name)) != (E, E):
            raise ShapeError(f"{name} is {np.shape(getattr(weights, name))}; it must be (E, E) with E = {E}")
    rows = {f"shift.{name}": mu for name, mu in weights.shift._asdict().items()}
    rows |= {name: getattr(weights, name) for name in ("xi", "alpha", "norm_weight", "norm_bias")}
    for name in ("decay", "rate", "gate", "residual"):
        if (low := getattr(weights, name)) is not None:
            down, up = np.shape(low.down), np.shape(low.up)
            if (len(down), len(up)) != (2, 2) or (*down, *up) != (E, up[0], down[1], E):
                raise ShapeError(f"{name} has down {down} and up {up}; they must be (E, R) and (R, E) with E = {E}")
            rows |= {f"{name}.bias": low.bias} if np.ndim(low.bias) else {}
    for name, row in rows.items():
        if np.shape(row) != (E,):
            raise ShapeError(f"{name} is {np.shape(row)}; it must be (E,) = ({E},)")
    if (value is None) != (weights.residual is None):
        given, needs = ("no value", "a later one needs") if value is None else ("a value", "layer 0 makes")
        raise OptionError(f"{given} was given; {needs} the values of layer 0 (weights.residual is None in layer 0 alone)")
    if value is not None and np.shape(value) != x.shape:
        raise ShapeError(f"value is {np.shape(value)} but x is {x.shape}; it must be what layer 0 returned for these tokens")
    if state is not None and not isinstance(state, RWKV7State):
        raise OptionError(f"state is {type(state).__name__}; it must be the RWKV7State that an earlier call returned")
    if state is not None:
        state = state._replace(last=floats("state.last", state.last).astype(weights.rho.dtype, copy=False))
    if state is not None and state.last.shape != (*x.shape[:-2], E):
        raise ShapeError(f"state.last is {np.shape(state.last)} but x is {x.shape}; it must be (..., E), one token of each row")
    return x.astype(weights.rho.dtype, copy=False), weights, None if value is None else floats("value", value), state, x.dtype


def _taken(name, weights: Any, dtype):
    """Weights within weights, all of them arrays of one type; None stays None."""
    if weights is None:
        return None
    if hasattr(weights, "_asdict"):
        return weights._replace(**{field: _taken(f"{name}.{field}", w, dtype) for field, w in weights._asdict().items()})
    return floats(name, weights).astype(dtype, copy=False)
