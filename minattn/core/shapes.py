"""Where shapes are checked and spoken of, always in the project's letters.

    B batch   H query heads   G KV heads   N query length   S key length   D head dim   Dv value dim   E model dim
"""
import numpy as np

from .errors import DtypeError, ShapeError


def spell(name, shape, letters):
    """`k is (B=2, G=8, S=12, D=32)`: every size with its letter; axes beyond the letters are batch."""
    extra = len(shape) - len(letters)
    lead = ["B"] if extra == 1 else ["..."] * max(extra, 0)
    named = [f"{letter}={size}" for letter, size in zip([*lead, *letters[max(-extra, 0):]], shape, strict=True)]
    return f"{name} is ({', '.join(named)})"


def floats(name, array):
    """`array` as an array of a float type that attention is defined for: 16, 32 or 64 bits."""
    array = np.asarray(array)
    if (array.dtype.kind == "f" and array.dtype.itemsize <= 8) or array.dtype.name == "bfloat16":
        return array
    raise DtypeError(
        f"{name} is {array.dtype}; attention needs float16, bfloat16, float32 or float64 (convert with {name}.astype(np.float32))"
    )


def common_type(**arrays):
    """The type that holds them all, such as float64 for float32 with float64."""
    try:
        return np.result_type(*arrays.values())
    except TypeError as error:
        given = ", ".join(f"{name} {array.dtype}" for name, array in arrays.items())
        raise DtypeError(f"no type holds them all: {given}; convert them to one") from error


def working_type(dtype):
    """The type to compute in: 16-bit floats are accumulated in float32, the others as they are."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def broadcast_lead(*leads):
    """The shape that the leading axes share, or a ShapeError."""
    try:
        return np.broadcast_shapes(*leads)
    except ValueError as error:
        raise ShapeError(f"the axes before the heads do not fit each other: {', '.join(map(str, leads))}") from error


def sum_to(array, shape):
    """The gradient of broadcasting: sum `array` over every axis along which `shape` was stretched to it."""
    array = array.sum(axis=tuple(range(array.ndim - len(shape))))
    stretched = tuple(axis for axis, size in enumerate(shape) if size == 1 and array.shape[axis] != 1)
    return array.sum(axis=stretched, keepdims=True)
