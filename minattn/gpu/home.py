"""Where a caller's arrays live, and how they come to kernels and results back: NumPy's (`Here`), or a GPU's (`There`).

Both have the same face, with flat arrays of a place (where.py) in the middle:

    take(name, array, axes, kind)    the argument `name` in one piece as kernels want it: broadcast to axes, D filled up by zeros
    give(numbers, axes, dim, kind)   a result: `dim` numbers of each row, of that kind
    gradient(name, numbers, ...)     the gradient of an argument, summed over where that was broadcast

An array on a GPU is taken as it is where it lies in one piece, at a multiple of 16 bytes, with D as kernels have it and of the
type that the kernel computes in; else it is copied once, on the GPU (arrange.py). Checking shapes needs no numbers: core's
`prepare` gets stand-ins, arrays of NumPy's with one number that says nothing.
"""
import functools
import math

import numpy as np

from ..core.errors import BackendError, DtypeError
from ..core.shapes import floats, lives_on_a_gpu
from . import device
from .kernels.arrange import DTYPES, arranged, in_one_piece, summed
from .libraries import KINDS, SHOWN, Flat, library_of, strided
from .problem import flat

ALIGNED = 16                          # bytes that one instruction copies


def make_place(stream=None, number=None):
    """Where kernels run: a stream of a GPU; without a number, of the one that is current."""
    return device.Gpu(stream) if number is None else known_place(stream, number)


known_place = functools.lru_cache(maxsize=64)(device.Gpu)


def kind_of(dtype):
    """What kernels call a type of NumPy's."""
    return {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}.get(dtype.name, "f64")


class Here:
    """NumPy's arrays: they are copied to the GPU, and results are copied back."""

    def __init__(self, x):
        self.place, self.x, self.kind, self.lead = make_place(), x, kind_of(x.dtype), (x.batch,)
        self.queries, self.keys, self.where = (x.batch, x.q.shape[1]), (x.batch, x.k.shape[1]), self.place.device

    def take(self, name, array, axes, kind):
        dtype = DTYPES[kind]
        if kind == "f32":
            array = array.astype(np.float32, copy=False)
        else:
            array = np.ascontiguousarray(array.astype(self.x.dtype.newbyteorder("="), copy=False)).view(np.uint16)
        return self.place.put(flat(array, axes[0], axes[-1], dtype) if len(axes) == 4 else array.astype(dtype).ravel())

    def give(self, numbers, axes, dim, kind):
        made = self.place.get(numbers)
        made = made.view(self.x.dtype) if made.dtype == np.uint16 else made
        return made.reshape(axes)[..., :dim]

    def gradient(self, name, numbers, axes, dim):
        """Of the full size, but for the bias; the caller's axes come after (`Inputs.gradient`)."""
        if name == "bias":                                            # of which less need be brought here
            numbers, axes = summed(self.place, numbers, axes, self.x.bias.shape), self.x.bias.shape
            dim = axes[-1]
        return self.give(numbers, axes, dim, "f32")


class There:
    """Arrays of one library on one GPU: what was computed with them before, kernels wait for, and results are of that library.

    Parameters
    ----------
    **arrays : q, k and v
        What decides where this is; every other argument is held against it.

    Raises
    ------
    BackendError
        If some of them are NumPy's, of another library, or on another GPU.
    """

    def __init__(self, **arrays):
        self.given: dict = {}                                         # by name: (array, Strided or None for NumPy's)
        self.told: dict = {}                                          # by id: what the library says of an array
        self.like = next(a for a in arrays.values() if lives_on_a_gpu(a))
        self.library, self.first = library_of(self.like), next(name for name, a in arrays.items() if a is self.like)
        self.device = self.library.device(self.like)
        for name, a in arrays.items():
            self.check(name, a)
        streams = [stream for name, a in arrays.items() if (stream := self.library.described(name, a)[4]) is not None]
        stream = streams[0] if streams else None
        self.inner, self.waited = make_place(stream, self.device), {None, stream}
        self.where = self.inner.device

    def check(self, name, array):
        """That an array is where the others are."""
        kind = type(array).__name__
        if not lives_on_a_gpu(array):
            raise BackendError(f"{self.first} lives on a GPU but {name} does not ({kind}); bring all arrays to one of the two")
        if type(library_of(array)) is not type(self.library):
            raise BackendError(f"{self.first} is {type(self.like).__name__} but {name} is {kind}; give arrays of one library")
        if self.library.device(array) != self.device:
            raise BackendError(f"{self.first} is on GPU {self.device} but {name} is on GPU {self.library.device(array)}")

    def stand_in(self, name, array):
        """What stands for an argument while its shape and type are checked; bias and sinks may be NumPy's."""
        if name in ("bias", "sink_logits") and not lives_on_a_gpu(array):
            array = floats(name, array)
            self.given[name] = array, None
            return array
        self.check(name, array)
        _, shape, _, typestr, _ = told = self.described(name, array)
        if typestr not in KINDS:
            raise DtypeError(f"{name} is {np.dtype(typestr)}; attention on a GPU needs float16, bfloat16 or float32")
        self.given[name] = array, strided(name, told, array, KINDS[typestr])
        return np.broadcast_to(np.zeros((), SHOWN[KINDS[typestr]]), shape)

    def described(self, name, array):
        """What the library says of an array, once what computes it on another stream has ended."""
        told = self.told.get(id(array))
        if told is None:
            told = self.told[id(array)] = self.library.described(name, array)
            if told[4] not in self.waited:
                make_place(told[4], self.device).wait()
                self.waited.add(told[4])
        return told

    def fetch(self, name, array):
        """A mask or positions, which masks are worked out from before any kernel runs: as NumPy's."""
        if not lives_on_a_gpu(array):
            return array
        self.check(name, array)
        if self.described(name, array)[3] == "<V2":                    # which waits for what computes it
            raise DtypeError(f"{name} is bfloat16; a mask is boolean, and positions are integers")
        return self.library.fetch(name, array, self.inner)

    def kinds(self):
        return {name: source.kind for name, (_, source) in self.given.items() if name in "qkv"}

    def of(self, x):
        """This, for the problem of stand-ins `x`."""
        kinds = self.kinds()
        if len({"f16", "bf16"} & set(kinds.values())) == 2:
            raise DtypeError(f"q, k and v mix float16 and bfloat16 ({kinds}); convert them to one")
        self.lead = x.lead
        self.queries, self.keys = (x.lead if x.headless else (*x.lead, a.shape[1]) for a in (x.q, x.k))
        self.kind = kinds["q"] if len(set(kinds.values())) == 1 else "f64" if "f64" in kinds.values() else "f32"
        return self

    def take(self, name, array, axes, kind):
        if name not in self.given:
            self.stand_in(name, array)
        argument, source = self.given[name]
        if source is None:
            return self.inner.put(np.broadcast_to(argument.astype(np.float32), axes).ravel())
        size, shape = math.prod(axes), tuple(n for n in source.shape if n != 1)
        whole = in_one_piece(source.numbers, source.shape, kind)
        straight = all(n == 1 or mine == theirs for n, mine, theirs in zip(source.shape, source.steps, whole.steps, strict=True))
        if source.kind == kind and straight and shape == tuple(n for n in axes if n != 1) and source.start == 0:
            if source.numbers.address % ALIGNED == 0:
                return source.numbers
        if size == 0:
            return self.empty(0, DTYPES[kind])
        while len(source.shape) > len(axes):                          # axes of 1 before the heads
            source = source._replace(shape=source.shape[1:], steps=source.steps[1:])
        return arranged(self, source, axes, kind)

    def give(self, numbers, axes, dim, kind):
        have = self.kind if numbers.dtype == np.uint16 else "f32"
        shape = (*axes[:-1], dim)
        if have != kind or dim != axes[-1]:
            source = in_one_piece(numbers, axes, have)
            numbers = arranged(self, source._replace(shape=shape), shape, kind)
        return self.library.finished(numbers.owner, shape, kind, self.like)

    def gradient(self, name, numbers, axes, dim):
        """Summed over the axes along which the argument was broadcast, of its shape and type."""
        argument, source = self.given[name]
        shape = argument.shape if source is None else source.shape
        to = (1,) * (len(axes) - len(shape)) + tuple(shape[:-1]) + (axes[-1] if shape[-1] == dim else 1,)
        numbers = summed(self, numbers, axes, to)
        if source is None:
            return self.inner.get(numbers).reshape(to)[..., : shape[-1]].reshape(shape).astype(argument.dtype, copy=False)
        made = self.give(numbers, (*to[:-1], to[-1]), shape[-1], source.kind)
        return made.reshape(tuple(shape))

    @property
    def place(self):
        return self

    # the place that kernels see: launches run where the arrays are, and what they need besides is the library's

    def empty(self, size, dtype):
        made, address = self.library.empty(size, dtype, self.like, self.inner)
        return Flat(address, size, dtype, made)

    def zeros(self, size, dtype):
        made = self.empty(size, dtype)
        self.inner.clear(made)
        return made

    def put(self, array):
        return self.inner.put(array)

    def get(self, array):
        return self.inner.get(array)

    def run(self, launch):
        self.inner.run(launch)
