"""Where shapes are checked and spoken of, always in the project's letters.

    B batch   H query heads   G KV heads   N query length   S key length   D head dim   Dv value dim   E model dim
"""
import math
import operator
import sys

import numpy as np

from .errors import BackendError, DtypeError, OptionError, PositionError, ShapeError


def spell(name, shape, letters):
    """`k is (B=2, G=8, S=12, D=32)`: every size with its letter; axes beyond the letters are batch."""
    extra = len(shape) - len(letters)
    lead = ["B"] if extra == 1 else ["..."] * max(extra, 0)
    named = [f"{letter}={size}" for letter, size in zip([*lead, *letters[max(-extra, 0):]], shape, strict=True)]
    return f"{name} is ({', '.join(named)})"


def lives_on_a_gpu(value):
    """Whether an array lives in the memory of a GPU, where NumPy cannot read it. PyTorch's live here or there."""
    return hasattr(type(value), "__cuda_array_interface__") and getattr(value, "is_cuda", True)


def as_array(name, value):
    """`value` as an array; what cannot be one, or would lose the mask that it carries, is refused."""
    if type(value) is np.ndarray:                                 # nearly always
        return value
    if lives_on_a_gpu(value):
        what = f"{name} lives on a GPU ({type(value).__name__}) and is wanted as NumPy's here"
        raise BackendError(f"{what}; attention, its gradient and its weights take q, k and v together from there")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise DtypeError(f"{name} is a masked array, and its mask would be ignored; fill it first, as in {name}.filled(0)")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ShapeError(f"{name}: rows of unequal length; pad them, and mask the padding") from error


def is_float(dtype):
    """Whether attention is defined for numbers of this type."""
    return (dtype.kind == "f" and 2 <= dtype.itemsize <= 8) or dtype.name == "bfloat16"


def floats(name, array):
    """`array` as an array of a float type that attention is defined for: 16, 32 or 64 bits."""
    array = as_array(name, array)
    if is_float(array.dtype):
        return array
    raise DtypeError(
        f"{name} is {array.dtype}; attention needs float16, bfloat16, float32 or float64 (convert with {name}.astype(np.float32))"
    )


def float_type(dtype, holder):
    """The float type that something is to hold: a dtype, or what NumPy makes one of."""
    wanted = f"a {holder} holds float16, bfloat16, float32 or float64"
    try:
        dtype = np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise DtypeError(f"dtype is {dtype!r}, which is no type of numbers; {wanted}") from error
    if not is_float(dtype):
        raise DtypeError(f"dtype is {dtype}; {wanted}")
    return dtype


def common_type(**arrays):
    """The type that holds them all, such as float64 for float32 with float64."""
    try:
        return np.result_type(*arrays.values())
    except TypeError as error:
        given = ", ".join(f"{name} {array.dtype}" for name, array in arrays.items())
        raise DtypeError(f"no type holds them all: {given}; convert them to one") from error


def working_type(dtype):
    """The type to compute in: 16-bit floats are accumulated in float32, the others as they are."""
    return np.dtype(np.float64 if dtype.itemsize == 8 else np.float32)             # in this machine's byte order


def count(name, value, least):
    """An option that counts something: an integer that is at least `least`."""
    try:
        value = operator.index(value)
    except TypeError as error:
        raise OptionError(f"{name} is {value!r}; it must be an integer") from error
    if value < least:
        raise OptionError(f"{name} = {value}; it must be at least {least}")
    if value > sys.maxsize:
        raise OptionError(f"{name} = {value}; nothing has so many")
    return value


def choice(name, value, known):
    """An option that is one of a few names."""
    if not isinstance(value, str) or value not in known:
        raise OptionError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, known))}")
    return value


def number(name, value, least=-math.inf):
    """An option that is one finite number, as a Python float, which leaves the type of what it multiplies alone."""
    try:
        value = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"{name} is {value!r}; it must be one number") from error
    if not np.isfinite(value):
        raise OptionError(f"{name} = {value}; it must be finite")
    if value < least:
        raise OptionError(f"{name} = {value}; it must be at least {least}")
    return value


def integers(name, pos):
    """Positions as int64: a distance i - j may be negative, also between unsigned ones."""
    pos = as_array(name, pos)
    if pos.dtype.kind not in "iu":
        raise PositionError(f"{name} is {pos.dtype}; positions are integers")
    return pos.astype(np.int64, copy=False)


def positions(name, pos, letter, default, lead):
    """Positions as (B or 1, length), signed."""
    if pos is None:
        return default[None]
    pos = integers(name, pos)
    if pos.ndim < 1 or pos.shape[-1] != len(default) or not (pos.ndim == 1 or _fits(pos.shape[:-1], lead)):
        fits = f"({letter},) or (..., {letter}) with {letter} = {len(default)} and the axes before the heads {lead}"
        raise ShapeError(f"{name} is {pos.shape}; it must be {fits}")
    if pos.ndim == 1 or len(lead) == 1:
        return pos if pos.ndim == 2 else pos[None]
    return np.broadcast_to(pos, (*lead, len(default))).reshape(math.prod(lead), len(default))


def _fits(shape, lead):
    return len(shape) == len(lead) and all(size in (1, full) for size, full in zip(shape, lead, strict=True))


def broadcast_lead(**leads):
    """The shape that the leading axes share, or a ShapeError."""
    if len(set(leads.values())) == 1:
        return next(iter(leads.values()))
    try:
        return np.broadcast_shapes(*leads.values())
    except ValueError as error:
        given = ", ".join(f"{name} {lead}" for name, lead in leads.items())
        raise ShapeError(f"the axes before the heads (B) do not fit each other: {given}; each must be equal or 1") from error


def sum_to(array, shape):
    """The gradient of broadcasting: sum `array` over every axis along which `shape` was stretched to it."""
    if array.shape == shape:                                      # NumPy takes long over a sum along no axis at all
        return array
    with np.errstate(invalid="ignore", over="ignore"):            # NaN and inf that are given go through
        array = array.sum(axis=tuple(range(array.ndim - len(shape))))
        stretched = tuple(axis for axis, size in enumerate(shape) if size == 1 and array.shape[axis] != 1)
        return array.sum(axis=stretched, keepdims=True)
