"""The one module that speaks to numba.cuda: kernels compiled for a GPU, to be launched there (`Gpu`), or only to be read.

Everything here is imported when it is first needed: loading numba.cuda takes a second, and most machines have no use for it.
"""
import functools
import math
from typing import NamedTuple

import numpy as np

from ..core.errors import BackendError, DependencyError
from .toolkit import bind

COMPILED: dict = {}                   # what numba.cuda launches, by kernel, types, bounds and compute capability
LEGACY = 1                            # handle of the stream that all of a GPU has in common


def numba_cuda():
    """The module numba.cuda."""
    try:
        import numba_cuda  # noqa: F401  without it, numba has an older target of the same name
        from numba import cuda
    except ImportError as error:
        raise DependencyError("kernels for a GPU need numba-cuda: pip install 'minattn[cuda]'") from error
    return cuda


class Gpu:
    """A GPU as a place where kernels run (where.py).

    Parameters
    ----------
    stream : int, optional
        Handle of a CUDA stream, such as `torch.cuda.current_stream().cuda_stream`; by default the legacy one.
    device : int, optional
        Which GPU, counted from 0; by default the one that is current.

    Raises
    ------
    DependencyError
        If numba-cuda is not installed.
    BackendError
        If there is no driver or no GPU, or none of that number.
    """

    def __init__(self, stream=None, device=None):
        self.cuda = numba_cuda()
        if not self.cuda.is_available():
            reason = " ".join((self.cuda.cuda_error() or "the compiler library NVVM did not load").split())
            raise BackendError(f"no GPU can be used here: {reason} backend='cpu' needs none")
        count = len(self.cuda.gpus)
        if device is not None and not 0 <= device < count:
            raise BackendError(f"device {device} is not here: this machine has {count}, counted from 0")
        self.device = self.cuda.get_current_device().id if device is None else device
        with self.cuda.gpus[self.device]:
            self.stream = self.cuda.external_stream(int(stream or LEGACY))

    def put(self, array):
        with self.cuda.gpus[self.device]:
            made = self.cuda.to_device(np.ascontiguousarray(array), stream=self.stream)
            self.stream.synchronize()                                 # so that other streams may read it as well
            return made

    def get(self, array):
        with self.cuda.gpus[self.device]:
            made = self.here(array).copy_to_host(stream=self.stream)
            self.stream.synchronize()
            return made

    def empty(self, size, dtype):
        with self.cuda.gpus[self.device]:
            return self.cuda.device_array(size, dtype, stream=self.stream)

    def zeros(self, size, dtype):
        made = self.empty(size, dtype)
        self.clear(made)
        return made

    def clear(self, array):
        """Zeros into an array."""
        with self.cuda.gpus[self.device]:
            array = self.here(array)
            if array.size:
                self.cuda.cudadrv.driver.device_memset(array, 0, array.alloc_size, stream=self.stream)

    def wait(self):
        with self.cuda.gpus[self.device]:
            self.stream.synchronize()

    def run(self, launch):
        """Begin a launch; the first of its kind compiles. It ends some time later, before what this stream does next."""
        with self.cuda.gpus[self.device]:
            arguments = tuple(map(self.here, launch.arguments))
            self.compiled(launch, arguments)[launch.grid, launch.block, self.stream](*arguments)

    def here(self, argument):
        """An argument as numba.cuda takes it: an array of another library as a view of the same numbers."""
        if hasattr(argument, "_fields"):
            return type(argument)(*map(self.here, argument))
        if isinstance(argument, np.ndarray):
            raise BackendError("an argument of a launch is NumPy's; put it to the GPU first")
        if hasattr(argument, "__cuda_array_interface__") and not self.cuda.devicearray.is_cuda_ndarray(argument):
            # what came before stands on this stream, so there is nothing to wait for
            return self.cuda.from_cuda_array_interface(argument.__cuda_array_interface__, owner=argument, sync=False)
        return argument

    def compiled(self, launch, arguments):
        """The kernel for these types on this kind of GPU; asked for again, the same one. Factories return the same function
        for the same options, so it stands for them."""
        bounds = math.prod(launch.block), launch.resident
        key = launch.kernel, tuple(map(plainly, arguments)), bounds, self.cuda.get_current_device().compute_capability
        if key not in COMPILED:
            types = tuple(map(type_of, arguments))
            COMPILED[key] = self.cuda.jit(types, fastmath=True, launch_bounds=bounds, lto=False)(bound(launch.kernel))
        return COMPILED[key]


def bound(kernel):
    """A kernel over numba.cuda, with what it calls and the instructions for which Numba has no name."""
    cuda = numba_cuda()
    return bind(kernel, cuda, wrap=cuda.jit(device=True, inline="always"), instruction=intrinsic)


class Ptx(NamedTuple):
    """A kernel in NVIDIA's virtual assembly."""

    text: str
    name: str                                                         # of its entry


def compile_ptx(launch, cc=(9, 0), *, fastmath=True):
    """The kernel of a `Launch` as PTX for compute capability `cc`; no GPU and no driver are needed.

    Examples
    --------
    `compile_ptx(rows.launches(problem)[0]).text` is what `ptxas` turns into machine code.
    """
    cuda = numba_cuda()
    types = tuple(type_of(argument) for argument in launch.arguments)
    bounds = math.prod(launch.block), launch.resident
    text, _ = cuda.compile_ptx(bound(launch.kernel), types, cc=cc, fastmath=fastmath, launch_bounds=bounds)
    return Ptx(text, text.split(".entry", 1)[1].split("(", 1)[0].strip())


def type_of(argument):
    """Numba's type of an argument: arrays are flat and in one piece, whole numbers have 32 bits, np.int64 what it says."""
    from numba import from_dtype, types

    if hasattr(argument, "dtype") and hasattr(argument, "shape") and not isinstance(argument, np.generic):
        return types.Array(from_dtype(argument.dtype), argument.ndim, "C")
    if isinstance(argument, tuple):
        inside = [type_of(a) for a in argument]
        return types.NamedTuple(inside, type(argument)) if hasattr(argument, "_fields") else types.BaseTuple.from_types(inside)
    if isinstance(argument, np.int64):
        return types.int64
    if isinstance(argument, (int, np.integer)):
        return types.int32
    return from_dtype(np.asarray(argument).dtype)


def plainly(argument):
    """What decides the type of an argument, faster than the type."""
    if hasattr(argument, "_fields"):
        return tuple(map(plainly, argument))
    return getattr(argument, "dtype", None) or type(argument)


@functools.cache
def intrinsic(instruction):
    """An `Instruction` as a function that Numba compiles to its assembly."""
    from llvmlite import ir
    from numba import types
    from numba.cuda import extending

    scalars = {"f": types.float32, "u": types.uint32}
    llvm = {"f": ir.FloatType(), "u": ir.IntType(32), "s": ir.IntType(32), "g": ir.IntType(64)}
    letters = {"f": "f", "u": "r", "s": "r", "g": "l"}
    results, arguments = ([llvm[kind] for kind in kinds] for kinds in (instruction.results, instruction.arguments))
    constraints = ["=" + letters[kind] for kind in instruction.results] + [letters[kind] for kind in instruction.arguments]
    returned = ir.VoidType() if not results else results[0] if len(results) == 1 else ir.LiteralStructType(results)
    acts = not results or ".sync." in instruction.assembly            # more than a function of its arguments: not to be moved
    assembly = ir.InlineAsm(ir.FunctionType(returned, arguments), instruction.assembly, ",".join(constraints), side_effect=acts)

    def address(context, builder, kind, array_type, array, at):
        data = context.make_array(array_type)(context, builder, array).data
        space = ir.PointerType(data.type.pointee, 3 if kind == "s" else 1)
        return builder.ptrtoint(builder.addrspacecast(builder.gep(data, [at]), space), llvm[kind])

    def codegen(context, builder, signature, given):
        left, brought = list(zip(signature.args, given, strict=True)), []
        for kind in instruction.arguments:
            kind_of, value = left.pop(0)
            if kind in "sg":
                at_type, at = left.pop(0)
                at = context.cast(builder, at, at_type, types.uint64)
                brought.append(address(context, builder, kind, kind_of, value, at))
            else:
                brought.append(context.cast(builder, value, kind_of, scalars[kind]))
        made = builder.call(assembly, brought)
        if len(results) < 2:
            return made if results else context.get_dummy_value()
        return context.make_tuple(builder, signature.return_type, [builder.extract_value(made, i) for i in range(len(results))])

    made = [scalars[kind] for kind in instruction.results]
    result = types.none if not made else made[0] if len(made) == 1 else types.UniTuple(made[0], len(made))
    count = sum(2 if kind in "sg" else 1 for kind in instruction.arguments)
    names = ", ".join(f"x{i}" for i in range(count))              # an intrinsic names each of its arguments
    namespace = {"typed": lambda *given: (result(*given), codegen)}
    exec(f"def instruction(typingctx, {names}): return typed({names})", namespace)
    return extending.intrinsic(namespace["instruction"])
