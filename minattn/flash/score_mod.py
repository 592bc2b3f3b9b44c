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

KEPT: dict = {}                       # fingerprint: (address of the function, of its slope, what must stay alive)
STEP = float(np.cbrt(np.finfo(np.float64).eps))
n, positions = types.intp, types.CPointer(types.int64)
OVER_TILE = types.void(float_p, float_p, n, n, n, positions, positions, n, n)


def addresses(score_mod, score_mod_grad=None, *, slope=False):
    """(address, address of the slope or 0); None, with a warning, where Numba cannot compile the function."""
    key = fingerprint(score_mod), fingerprint(score_mod_grad) if slope else False
    if key not in KEPT:
        if len(KEPT) >= 64:
            KEPT.clear()
        try:
            made = [over_tile(scalar(score_mod))]
            if slope:
                made.append(slope_over_tile(scalar(score_mod), None if score_mod_grad is None else scalar(score_mod_grad)))
        except (NumbaError, TypeError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[-1]
            warnings.warn(f"score_mod does not compile, so NumPy runs it tile by tile, slower ({reason})", stacklevel=4)
            made = []
        KEPT[key] = made
    made = KEPT[key]
    return (made[0].address, made[1].address if slope else 0) if made else None


def scalar(function):
    return function if hasattr(function, "py_func") else numba.njit(error_model="numpy")(function)


def over_tile(function):
    """S^T of a tile becomes score_mod of it, in place; `out` and `st` are the same address."""

    @numba.cfunc(OVER_TILE)
    def modify(out, st, row, b, h, q_pos, k_pos, queries, keys):
        s, i, j = carray(st, (KEYS, row)), carray(q_pos, queries), carray(k_pos, keys)
        for key in range(keys):
            for lane in range(queries):
                s[key, lane] = LOG2E * function(LN2 * s[key, lane], b, h, i[lane], j[key])

    return modify


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

    @numba.cfunc(OVER_TILE)
    def slopes(out, st, row, b, h, q_pos, k_pos, queries, keys):
        s, slope, i, j = carray(st, (KEYS, row)), carray(out, (KEYS, row)), carray(q_pos, queries), carray(k_pos, keys)
        for key in range(keys):
            for lane in range(queries):
                x = gradient(LN2 * s[key, lane], b, h, i[lane], j[key])
                slope[key, lane] = x if x == x else 0        # NaN: a hidden pair, or one whose weight is NaN anyway

    return slopes


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
