"""score_mod on the CPU: a Python function of one score, compiled into a loop over a tile that the kernels call by its address.

    score_mod(score, b, h, i, j)    a score times scale, the row of the batch, the head, the positions of query and key

One compiled function for each score_mod, none of the kernels compiled again. Its gradient is `score_mod_grad`, compiled the
same way, or central differences in float64 with the step of core/reference.py. What the function takes from around it
(a table of slopes) is compiled in; a function that is made anew with equal values is not compiled anew.
"""
import inspect
import warnings

import numba
import numpy as np
from numba import carray, types
from numba.core.errors import NumbaError

from .options import LN2, LOG2E
from .simd import float_p
from .tiles import KEYS

KEPT: dict = {}                       # fingerprint: the compiled functions
STEP = float(np.cbrt(np.finfo(np.float64).eps))
n, positions = types.intp, types.CPointer(types.int64)
OVER_TILE = types.void(float_p, float_p, n, n, n, positions, positions, n, n)


def over_tiles(score_mod, score_mod_grad=None, *, slope=False):
    """[score_mod over a tile, its slope if asked for]; [], with a warning, where Numba cannot compile the function.

    Their addresses are good for as long as the caller holds them.
    """
    key = fingerprint(score_mod), fingerprint(score_mod_grad) if slope else False
    made = KEPT.get(key)
    if made is None:
        if len(KEPT) >= 64:
            KEPT.clear()
        try:
            made = [over_tile(scalar(score_mod))]
            if slope:
                made.append(slope_over_tile(scalar(score_mod), None if score_mod_grad is None else scalar(score_mod_grad)))
        except (NumbaError, TypeError, NotImplementedError) as error:  # Numba raises each of them for what it cannot compile
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            warnings.warn(f"score_mod does not compile, so NumPy runs it tile by tile, slower ({reason})", stacklevel=5)
            made = []
        KEPT[key] = made
    return made


def scalar(function):
    """Compiled, with indices checked as NumPy checks them; as it is where the caller has compiled it."""
    return function if hasattr(function, "py_func") else numba.njit(error_model="numpy", boundscheck=True)(function)


def over_tile(function):
    """S^T of a tile becomes score_mod of it, in place; `out` and `st` are the same address."""

    @numba.njit(error_model="numpy")
    def modify(out, s, b, h, i, j):
        for key in range(len(j)):
            for lane in range(len(i)):
                s[key, lane] = LOG2E * function(LN2 * s[key, lane], b, h, i[lane], j[key])

    return by_address(modify)


def slope_over_tile(function, gradient):
    """d score_mod / d score of a tile, to `out`."""

    if gradient is None:

        @numba.njit(error_model="numpy")
        def gradient(s, b, h, i, j):
            s = np.float64(s)
            step = STEP * max(1.0, abs(s))
            above, below = s + step, s - step
            up, down = function(above, b, h, i, j), function(below, b, h, i, j)
            return 0.0 if up == down else (up - down) / (above - below)

    @numba.njit(error_model="numpy")
    def slopes(out, s, b, h, i, j):
        for key in range(len(j)):
            for lane in range(len(i)):
                out[key, lane] = gradient(LN2 * s[key, lane], b, h, i[lane], j[key])

    return by_address(slopes)


def by_address(loop):
    """A loop over a tile, to be called by address. Where it fails it leaves NaN: then NumPy takes over, and its error shows."""

    @numba.cfunc(OVER_TILE)
    def call(out, st, row, b, h, q_pos, k_pos, queries, keys):
        target, s = carray(out, (KEYS, row)), carray(st, (KEYS, row))
        try:
            loop(target, s, b, h, carray(q_pos, queries), carray(k_pos, keys))
        except Exception:
            target[:keys, :queries] = np.nan

    return call


def fingerprint(value):
    """Equal for functions of equal code that read equal values; values that cannot be compared stand for themselves."""
    if isinstance(value, np.ndarray):
        return "array", value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None), np.generic)):
        return type(value), value
    if isinstance(value, (tuple, list)):
        return type(value), tuple(map(fingerprint, value))
    if inspect.isfunction(value):
        code, known = value.__code__, value.__globals__
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        outside = [known[name] for name in code.co_names if name in known]
        return code, tuple(map(fingerprint, [*cells, *outside, value.__defaults__]))
    return Same(value)


class Same:
    """Equal to the same object only, which it keeps alive."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self):
        return id(self.value)
