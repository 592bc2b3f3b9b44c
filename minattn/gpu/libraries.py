"""Arrays of other libraries that live on a GPU: read where they are, and results made as the same library makes them.

PyTorch and CuPy are known by name, without being imported; every other array with a `__cuda_array_interface__`, and
numba.cuda's own, gets numba.cuda's arrays back. What that interface does not say is asked of the library: PyTorch's current
stream, the type bfloat16, for which NumPy has no name, and on which GPU an array is.
"""
import math
import operator
import sys

import numpy as np

from ..core.errors import BackendError, DtypeError
from .kernels.arrange import DTYPES, Strided

KINDS = {"<f4": "f32", "<f8": "f64", "<f2": "f16", "<V2": "bf16"}
# what stands for an array while its shapes are checked: float16 for bfloat16, which NumPy alone does not have
SHOWN: dict[str, np.dtype] = {"f32": np.dtype("f4"), "f64": np.dtype("f8"), "f16": np.dtype("f2"), "bf16": np.dtype("f2")}


class Flat:
    """Numbers in a row on a GPU, as kernels take them: an address, how many, and of which type. It keeps its owner alive."""

    def __init__(self, address, size, dtype, owner):
        self.address, self.size, self.dtype, self.owner = address if size else 0, size, np.dtype(dtype), owner

    @property
    def __cuda_array_interface__(self):
        return {"shape": (self.size,), "typestr": self.dtype.str, "data": (self.address, False), "strides": None, "version": 2}


def library_of(array):
    """What knows the library of an array."""
    name = type(array).__module__.partition(".")[0]
    return {"torch": Torch, "cupy": CuPy}.get(name, Numba)()


class Numba:
    """numba.cuda's arrays, and whatever has the interface and no class of its own here."""

    def described(self, name, array):
        """(address, shape, steps in bytes, type by NumPy's name, stream or None)"""
        told = array.__cuda_array_interface__
        try:
            address, shape = operator.index(told["data"][0]), tuple(map(operator.index, told["shape"]))
            typestr, steps, stream, mask = str(told["typestr"]), told.get("strides"), told.get("stream"), told.get("mask")
            steps = None if steps is None else tuple(map(operator.index, steps))
            stream = None if stream is None else operator.index(stream)
            np.dtype(typestr)                                         # that there is such a type
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BackendError(f"{name} has a __cuda_array_interface__ that cannot be read: {error!r}") from error
        if mask is not None:
            raise DtypeError(f"{name} has a mask on the GPU, which would be ignored; fill it first")
        if steps is not None and len(steps) != len(shape):
            raise BackendError(f"{name} has strides {steps} on the GPU, but shape {shape}: there is one stride for each axis")
        if stream is not None and stream < 0:
            raise BackendError(f"{name} is computed on stream {stream} of the GPU; a stream's handle is not negative")
        return address, shape, steps, typestr, stream

    def device(self, array):
        """Which GPU, None for the current one."""
        context = getattr(getattr(array, "gpu_data", None), "context", None)
        return None if context is None else context.device.id

    def fetch(self, name, array, place):
        """As NumPy's."""
        address, shape, steps, typestr, _ = self.described(name, array)
        kind = np.dtype(typestr)
        if steps is not None and steps != tuple(kind.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape))):
            raise DtypeError(f"{name} is not in one piece on the GPU, from where it cannot be fetched; fetch it yourself")
        return place.get(Flat(address, math.prod(shape), kind, array)).reshape(shape)

    def empty(self, size, dtype, like, place):
        """(a flat array of the library, its address)"""
        made = place.empty(size, dtype)
        return made, made.__cuda_array_interface__["data"][0]

    def finished(self, made, shape, kind, like):
        """A flat array that `empty` gave, as the caller is to see it; of bfloat16 only where `like` is."""
        return made.view(like.dtype if kind == "bf16" else SHOWN[kind]).reshape(shape)


class CuPy(Numba):
    def device(self, array):
        return array.device.id

    def fetch(self, name, array, place):
        return array.get()

    def empty(self, size, dtype, like, place):
        cupy = sys.modules["cupy"]
        with like.device:
            made = cupy.empty(size, dtype)
        return made, made.data.ptr


class Torch(Numba):
    def described(self, name, array):                                 # its own interface refuses what requires a gradient
        kind = str(array.dtype).removeprefix("torch.")
        if array.is_neg():
            raise DtypeError(f"{name} is a view that PyTorch negates when it reads it; give {name}.resolve_neg()")
        try:
            typestr = "<V2" if kind == "bfloat16" else np.dtype(kind).str
        except TypeError:                                             # PyTorch has types that NumPy has not,
            typestr = "|V1"                                           # or has, as bytes, where ml_dtypes is loaded
        if typestr[1] == "V" and kind != "bfloat16":
            raise DtypeError(f"{name} is {kind}; attention on a GPU needs float16, bfloat16 or float32")
        steps = tuple(step * array.element_size() for step in array.stride())
        return array.data_ptr(), tuple(array.shape), steps, typestr, self.stream(array)

    def stream(self, array):
        """The handle of PyTorch's current stream; its 0 is the legacy stream, which others call 1."""
        return sys.modules["torch"].cuda.current_stream(array.device).cuda_stream or 1

    def device(self, array):
        return array.device.index

    def fetch(self, name, array, place):
        return array.detach().cpu().numpy()

    def empty(self, size, dtype, like, place):
        torch = sys.modules["torch"]
        made = torch.empty(size, dtype={2: torch.int16, 4: torch.float32, 8: torch.float64}[np.dtype(dtype).itemsize],
                           device=like.device)  # fmt: skip
        return made, made.data_ptr()

    def finished(self, made, shape, kind, like):
        torch = sys.modules["torch"]
        dtype = {"f32": torch.float32, "f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16}[kind]
        return made.view(dtype).reshape(shape)


def strided(name, told, array, kind):
    """The `Strided` of an array that is `described` so: one flat view from its lowest number to its highest."""
    address, shape, steps, _, _ = told
    dtype = DTYPES[kind]
    if steps is None:
        steps = tuple(dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    if any(step % dtype.itemsize for step, size in zip(steps, shape, strict=True) if size > 1):
        raise DtypeError(f"{name} has strides of {steps} bytes, and {kind} numbers of {dtype.itemsize}, which do not fit: copy")
    steps = tuple(step // dtype.itemsize for step in steps)
    ends = [step * (size - 1) for step, size in zip(steps, shape, strict=True)] if math.prod(shape) else []
    below, above = sum(end for end in ends if end < 0), sum(end for end in ends if end > 0)
    size = above - below + 1 if math.prod(shape) else 0
    return Strided(Flat(address + below * dtype.itemsize, size, dtype, array), -below, shape, steps, kind)
