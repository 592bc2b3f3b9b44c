"""Mamba's selective scan: each channel keeps n numbers, which fade and are written to as far as the token decides.

Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752, section 3, Algorithm 2.

    E   channels        n   size of a channel's state        N   length        h   state, (E, n)
    x (N, E)  input     delta (N, E)  time that passes, >= 0        a (E, n)  rate of fading, <= 0        d (E,)  skip
    z (N, E)  gate      b, c (N, n)   where a token writes and reads, the same for all channels

    h_t = exp(delta_t a) h_{t-1} + bbar_t x_t                                            eqs (2) to (4)
    y_t = h_t c_t + d x_t,    times silu(z_t)
    bbar = delta b                                           "euler", what the published models are trained with
    bbar = (delta a)^-1 (exp(delta a) - 1) delta b           "zoh", as the paper prints it: x is held for the time delta

Delta, b and c are made from the token: that is the selection. A large delta lets the past fade and writes the token, delta = 0
skips it. Each channel is the `recurrence` with one value a token: q = c, k = b, v = delta x, a log decay delta a of its own.

    sequential     one token after the other; only one state is held
    associative    (a1, b1) o (a2, b2) = (a1 a2, a2 b1 + b2) joins two steps into one; neighbours are joined in pairs, the
                   row of half the length is scanned, and fills the gaps: O(N) work, but only about 2 log2(N) steps in turn

The gradient that reaches h_t is c_t dy_t + exp(delta_{t+1} a) dh_{t+1}: the same scan, from the other end (mamba_backward.py).
"""
import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends import choose
from ..core.errors import DecayError, OptionError, ShapeError
from ..core.pointwise import silu
from ..core.shapes import broadcast_lead, common_type, floats, spell, sum_to, working_type


@dataclass(frozen=True)
class Scan:
    """What the forms get: P rows, each with its own state; made by `prepare`."""

    x: np.ndarray                     # (P, N, E)
    delta: np.ndarray                 # (P, N, E)
    a: np.ndarray                     # (E, n)
    b: np.ndarray                     # (P, N, n)
    c: np.ndarray                     # (P, N, n)
    d: np.ndarray | None              # (E,)
    z: np.ndarray | None              # (P, N, E)
    state: np.ndarray                 # (P, E, n)
    hold: bool                        # zero-order hold
    lead: tuple                       # the caller's axes before N
    dtype: np.dtype                   # of the output

    def tokens(self, here):
        """What keeps and what is written at some tokens, (P, [C,] E, n) each; `here` indexes the axis N."""
        x, delta, b = self.x[:, here], self.delta[:, here], self.b[:, here]
        g = log_decays(delta[..., None], self.a)
        write = (delta * x)[..., None] * b[..., None, :]
        return np.exp(g), write * held(g) if self.hold else write

    def states(self, here, state):
        """What keeps, and h after each of some tokens, (P, C, E, n) each, from the state before them, all at once."""
        keep, write = self.tokens(here)
        write[:, :1] += keep[:, :1] * state[:, None]
        return keep, scan(keep, write)

    def finish(self, read):
        """The output from what was read, h_t c_t."""
        out = read if self.d is None else read + self.d * self.x
        return out if self.z is None else out * silu(self.z)

    def restore(self, array):
        """(P, ...) with the caller's axes."""
        return array.reshape(*self.lead, *array.shape[1:])

    def gradient(self, flat, argument):
        """The gradient of a token's array or of the state, of its shape and type."""
        argument = np.asarray(argument)
        return sum_to(self.restore(flat), argument.shape).astype(argument.dtype, copy=False)


def sequential(s: Scan):
    """One token after the other: what is read, (P, N, E), and the last state."""
    state, read = s.state, np.empty_like(s.x)
    for t in range(s.x.shape[1]):
        keep, write = s.tokens(t)
        state = keep * state + write
        read[:, t] = (state @ s.c[:, t, :, None])[..., 0]
    return read, state


def associative(s: Scan):
    """All states at once, (P, N, E, n), by joining steps."""
    _, h = s.states(slice(None), s.state)
    return (h @ s.c[..., None])[..., 0], h[:, -1] if h.shape[1] else s.state


def scan(keep, write):
    """h_t = keep_t h_{t-1} + write_t along axis 1, from h = 0."""
    N = write.shape[1]
    if N < 2:
        return write
    first, second, later = np.s_[:, : N // 2 * 2 : 2], np.s_[:, 1::2], np.s_[:, 2::2]     # of each pair; a pair's next token
    joined = scan(keep[second] * keep[first], keep[second] * write[first] + write[second])
    h = np.empty_like(write)
    h[:, 0], h[second] = write[:, 0], joined
    h[later] = keep[later] * joined[:, : (N - 1) // 2] + write[later]
    return h


def log_decays(delta, a):
    """delta a, where a rate of -inf does nothing in no time."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(delta == 0, 0, delta * a)


def held(g):
    """(exp(g) - 1) / g: the mean of the decay while x is held; 1 at g = 0."""
    return np.divide(np.expm1(g), g, out=np.ones_like(g), where=g != 0)


FORMS = {"sequential": sequential, "associative": associative}


def selective_scan(x, delta, a, b, c, *, d=None, z=None, form="sequential", discretization="euler", state=None,
                   return_state=False, backend="auto"):  # fmt: skip
    """Mamba's state space model: states that fade over the time that each token says passes, read and gated.

    Parameters
    ----------
    x : array, (..., N, E)
    delta : array, (..., N, E)
        Time that passes, at least 0; a layer makes it by softplus.
    a : array, (E, n)
        At most 0; a state fades by exp(delta a). -inf: only the token itself is seen.
    b, c : array, (..., N, n)
        Where the token writes and what it reads.
    d : array, (E,), optional
        Adds d x.
    z : array, (..., N, E), optional
        The result is multiplied by silu(z).
    form : {"sequential", "associative"}
        Token by token, or all at once by joining steps pair by pair, which holds N states: the same result.
    discretization : {"euler", "zoh"}
        What delta writes: delta b x, as published models do, or b x held for that time while it fades, as the paper prints.
    state : array, (..., E, n), optional
        What an earlier call returned; None starts empty.
    return_state : bool
        Also return the state after the last token, float32 or better.
    backend : {"auto", "numpy", "cpu"}
        "numpy" is plain NumPy; "cpu" is, for the sequential form of "euler" in float32 and 16 bits, a Numba kernel that is
        compiled when first used, and in float64 NumPy. "auto" is "cpu" where it has a kernel, unless the problem is tiny.

    Returns
    -------
    out : array, (..., N, E)
    state : array, (..., E, n), only with return_state=True

    Raises
    ------
    ShapeError
        If an axis disagrees; the message names it by its letter.
    DecayError
        If a is positive, or delta negative or infinite, or either is NaN.
    OptionError
        If form or discretization is none that exists, or none that the named backend has.
    BackendError
        If the backend is none that exists, or needs Numba where there is none.

    References
    ----------
    Gu and Dao 2023, arXiv:2312.00752, Algorithm 2.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> x, one = np.array([[1.0], [2.0], [4.0]]), np.ones((3, 1))                 # three tokens, E = 1, n = 1
    >>> ma.selective_scan(x, one, np.log([[0.5]]), one, one).ravel()              # each unit of time halves what is kept
    array([1.  , 2.5 , 5.25])
    >>> skips = np.array([[1.0], [0.0], [1.0]])                                   # for the second token no time passes
    >>> ma.selective_scan(x, skips, np.log([[0.5]]), one, one).ravel()
    array([1. , 1. , 4.5])
    """
    s = prepare(x, delta, a, b, c, d, z, discretization, state)
    if form not in [*FORMS]:
        raise OptionError(f"form is {form!r}; it must be one of {', '.join(map(repr, FORMS))}")
    compute = kernel(s, form, backend) or FORMS[form]
    with np.errstate(invalid="ignore", over="ignore"):                             # NaN and inf that are given go through
        read, end = compute(s)
        out = s.restore(s.finish(read)).astype(s.dtype, copy=False)
    return (out, s.restore(end)) if return_state else out


def kernel(s: Scan, form, backend):
    """The compiled form where the backend is "cpu" and it has one; None where NumPy computes."""
    has = form == "sequential" and not s.hold
    compiled = s.x.dtype == np.float32 and has
    name = choose(backend, s.x.size * s.a.shape[1], compiled=compiled)             # as many numbers as all states hold
    if backend == "cpu" and not has:
        raise OptionError("backend 'cpu' has the sequential form and 'euler' alone; backend='numpy' has the others")
    if name != "cpu" or not compiled:
        return None
    cpu = importlib.import_module("minattn.linear.mamba_cpu")
    return cpu.forward if cpu.can_start() else None


def prepare(x, delta, a, b, c, d, z, discretization, state):
    """Check the arguments of `selective_scan` and bring them into the form of `Scan`."""
    given = {"x": (x, "NE"), "delta": (delta, "NE"), "z": (z, "NE"), "a": (a, "En"), "b": (b, "Nn"), "c": (c, "Nn"),
             "d": (d, "E"), "state": (state, "En")}  # fmt: skip
    optional = "z", "d", "state"
    arrays = {name: floats(name, array) for name, (array, _) in given.items() if array is not None or name not in optional}
    for name in ("x", "a"):
        if arrays[name].ndim < 2 or 0 in arrays[name].shape[-1:]:
            axes = ", ".join(given[name][1])
            raise ShapeError(f"{name} is {arrays[name].shape}; it must be {'(..., ' if name == 'x' else '('}{axes})")
    sizes = {"N": arrays["x"].shape[-2], "E": arrays["x"].shape[-1], "n": arrays["a"].shape[-1]}
    for name, array in arrays.items():
        fit(name, array, given[name][1], sizes, weight=name in ("a", "d"))
    if discretization not in ("euler", "zoh"):
        raise OptionError(f"discretization is {discretization!r}; it must be 'euler' or 'zoh'")
    check_times(arrays["delta"], arrays["a"])

    tokens = {name: array for name, array in arrays.items() if name not in ("a", "d")}
    lead = broadcast_lead(**{name: array.shape[:-2] for name, array in tokens.items()})
    dtype = common_type(**{name: array for name, array in tokens.items() if name != "state"})
    rows, work = math.prod(lead), working_type(dtype)
    flat: dict[str, Any] = {name: np.broadcast_to(array, (*lead, *array.shape[-2:])).reshape(rows, *array.shape[-2:])
                            for name, array in tokens.items()}  # fmt: skip
    flat |= {"a": arrays["a"], "state": flat.get("state", np.zeros((rows, *arrays["a"].shape)))}
    if d is not None:
        flat["d"] = arrays["d"]
    flat = {"d": None, "z": None} | {name: array.astype(work, copy=name == "state") for name, array in flat.items()}
    return Scan(**flat, hold=discretization == "zoh", lead=lead, dtype=dtype)


def fit(name, array, letters, sizes, weight=False):
    """Refuse an array whose last axes are not of the `sizes` that their letters have; a weight has no other axes."""
    wanted = tuple(sizes[letter] for letter in letters)
    if array.ndim < len(letters) or array.shape[array.ndim - len(letters):] != wanted or (weight and array.ndim > len(letters)):
        axes = [*([] if weight else ["..."]), *(f"{letter}={size}" for letter, size in zip(letters, wanted, strict=True))]
        shown = spell(name, array.shape, letters) if array.ndim else f"{name} is one number"
        raise ShapeError(f"{shown}; it must be ({', '.join(axes)})")


def check_times(delta, a):
    """Time does not run backward, and what is kept does not grow."""
    if not ((delta >= 0) & (delta < np.inf)).all():
        worst = "NaN" if np.isnan(delta).any() else f"down to {delta.min():.4g}" if (delta < 0).any() else "inf"
        raise DecayError(f"delta is {worst}; it is the time that passes at a token, finite and at least 0 (softplus makes it so)")
    if not (a <= 0).all():
        worst = "NaN" if np.isnan(a).any() else f"up to {a.max():.4g}"
        raise DecayError(f"a is {worst}; exp(delta a) is what a state keeps, so a is at most 0 (layers make it by -exp(a_log))")
