"""Two arrays side by side: exact, close or different, by how much, and where first.

Close is judged beside the largest number wanted, by the coarsest type in play: an answer worked out in float32 is as
right as one in float64. Infinities and NaN must stand where they are wanted.
"""
import numpy as np

from .result import Stage

TOLERANCE = {"float64": 1e-6, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


def tolerance(*values):
    """Of the coarsest float type among arrays and numbers."""
    names = {getattr(getattr(value, "dtype", None), "name", "") for value in values}
    return max([TOLERANCE[name] for name in names if name in TOLERANCE], default=TOLERANCE["float64"])


def as_numbers(value):
    """`value` as an array of booleans, numbers or text; None where it is neither (a ragged list, complex numbers)."""
    try:
        array = np.asarray(value)
        if array.dtype == object and array.size:    # words or numbers in an array of objects; integers beyond 64 bits
            array = np.asarray(array.tolist())
            array = array.astype(np.float64) if all(isinstance(entry, int) for entry in array.flat) else array
    except (ValueError, TypeError, OverflowError):
        return None
    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    return array if array.dtype.kind in "biufU" else None


def differs(got, want, rtol):
    """Entry by entry, of two arrays of one shape, whether they are further apart than `rtol` of the largest in `want`."""
    if "U" in (got.dtype.kind, want.dtype.kind) or want.dtype.kind == "b":
        return got != want
    if want.dtype.kind in "iu":                     # a count is right or wrong; only a quotient may be a rounding off
        rtol = 1e-12 if got.dtype.kind == "f" else 0
    got, want = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(got) & np.isfinite(want)
    size = np.abs(want[np.isfinite(want)]).max(initial=0) or 1.0
    with np.errstate(invalid="ignore"):
        return np.where(finite, np.abs(got - want) > rtol * size, (got != want) & ~(np.isnan(got) & np.isnan(want)))


def equal(got, want, rtol):
    """Whether two answers are one and the same: shape, kind of type, and every number."""
    got, want = as_numbers(got), as_numbers(want)
    if got is None or want is None or got.shape != want.shape or kind(got) != kind(want):
        return False
    return not differs(got, want, rtol).any()


def kind(array):
    return {"b": "True and False", "U": "text"}.get(array.dtype.kind, "numbers")


def compare(name, letters, got, want, rtol):
    """The Stage of one output: `got` is whatever came, `want` an array or a number."""
    array, want = as_numbers(got), np.asarray(want)
    if array is None:
        found = "a ragged list" if isinstance(got, list | tuple) else str(getattr(got, "dtype", type(got).__name__))
        return Stage(name, "dtype", yours=found, expected=kind(want))
    if kind(array) != kind(want):
        return Stage(name, "dtype", yours=f"{kind(array)} ({array.dtype})", expected=kind(want))
    if array.shape != want.shape:
        return Stage(name, "shape", yours=array.shape, expected=want.shape)
    wrong, largest = differs(array, want, rtol), None
    if kind(want) == "numbers":
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.abs(array.astype(np.float64) - want.astype(np.float64))
        apart = apart[np.isfinite(apart)]
        largest = float(apart.max()) if apart.size else None
    if not wrong.any():
        return Stage(name, "exact" if not largest else "close", largest=largest)
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    return Stage(name, "different", largest, index, spell(index, letters), show(array[index]), show(want[index]))


def spell(index, letters):
    """(1, 4) with letters ("N", "S") is 'n=1, s=4'; axes before the first letter, and without letters, are named by number."""
    named = [f"axis{axis}" for axis in range(len(index) - len(letters))] + [letter.lower() for letter in letters]
    return ", ".join(f"{name}={i}" for name, i in zip(named[-len(index):], index, strict=True)) if index else ""


def show(entry):
    """One entry as it is printed: four digits, and never 'np.float64(...)'."""
    return f"{entry:.4g}" if isinstance(entry, np.floating) else repr(entry.item())


def same_numbers(got, want, rtol):
    """How an answer of the wrong shape holds the right numbers: "reshaped", "transposed", or ""."""
    got, want = as_numbers(got), np.asarray(want)
    if got is None or got.size != want.size or got.shape == want.shape or not want.size:
        return ""
    if want.ndim >= 2 and got.shape == want.swapaxes(-1, -2).shape and equal(got.swapaxes(-1, -2), want, rtol):
        return "transposed"
    return "reshaped" if equal(got.reshape(want.shape), want, rtol) else ""
