"""A GPU that is this machine's memory: arrays of several libraries that only an address gives away, and the simulator."""
from types import SimpleNamespace

import numpy as np

from minattn.gpu import cuda, home
from minattn.gpu.simulated import Simulated

SMALL = cuda.Sizes(                                                   # what the simulator gets through in a moment
    dims=(8, 16), registers={8: (16, 16), 16: (16, 16)}, tensor={16: (16, 16)}, decode={8: (8, 4), 16: (8, 4)},
    backward={8: (16, 8), 16: (16, 16)},
)  # fmt: skip


class Array:
    """As numba.cuda's: NumPy cannot read it, kernels can."""

    stream = None
    __array__ = None

    def __init__(self, array, number=0):
        self._array, self.number = np.asarray(array), number
        self.gpu_data = SimpleNamespace(context=SimpleNamespace(device=SimpleNamespace(id=number)))

    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    size = property(lambda self: self._array.size)

    @property
    def __cuda_array_interface__(self):
        told = self._array.__array_interface__
        return {"shape": self.shape, "typestr": told["typestr"], "data": told["data"], "strides": told["strides"],
                "stream": self.stream, "version": 3}  # fmt: skip

    def __len__(self):
        return len(self._array)

    def view(self, dtype):
        return type(self)(self._array.view(dtype), self.number)

    def reshape(self, *shape):
        made = self._array.reshape(*shape)
        assert made.size == 0 or np.shares_memory(made, self._array)
        return type(self)(made, self.number)

    def read(self):
        """What only a test may do."""
        return self._array


class CuPyArray(Array):
    """As CuPy's."""

    data = property(lambda self: SimpleNamespace(ptr=self._array.ctypes.data))

    @property
    def device(self):
        return CuPyDevice(self.number)

    def get(self):
        return self._array.copy()


CuPyArray.__module__ = "cupy.core"


class CuPyDevice(SimpleNamespace):
    """`with device:` as CuPy has it."""

    def __init__(self, number):
        super().__init__(id=number)

    def __enter__(self):
        CuPyDevice.current = self.id

    def __exit__(self, *error):
        CuPyDevice.current = None


def cupy():
    """What stands for the module."""
    return SimpleNamespace(empty=lambda size, dtype: CuPyArray(np.full(size, 77).astype(dtype), CuPyDevice.current))


class Gpu(Simulated):
    """The simulated place with arrays of its own: NumPy's have to be put to it."""

    def __init__(self, stream=None, number=None):
        super().__init__()
        self.stream, self.device, self.launched, self.waited = stream, number, [], 0

    def put(self, array):
        return Array(super().put(array).copy())

    def get(self, array):
        return super().get(array).copy()

    def empty(self, size, dtype):
        return Array(super().empty(size, dtype))

    def zeros(self, size, dtype):
        return Array(super().zeros(size, dtype))

    def wait(self):
        self.waited += 1

    def run(self, launch):
        self.launched.append(launch)
        for argument in launch.arguments:
            for a in argument if isinstance(argument, tuple) else (argument,):
                assert not isinstance(a, np.ndarray), "an array of NumPy's reached a kernel"
        super().run(launch)

    @property
    def names(self):
        return [launch.kernel.__name__ for launch in self.launched]


def install(monkeypatch):
    """The list of the places that are made from now on."""
    made = []

    def make_place(stream=None, number=None):
        made.append(Gpu(stream, number))
        return made[-1]

    monkeypatch.setattr(home, "make_place", make_place)
    monkeypatch.setattr(cuda, "SIZES", SMALL)
    return made
