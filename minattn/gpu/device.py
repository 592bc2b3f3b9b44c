"""The one place that speaks to numba.cuda: kernels compiled for a GPU, to be launched, or only to be read.

Everything here is imported when it is first needed: loading numba.cuda takes a second, and most machines have no use for it.
"""
import functools
import math
from typing import NamedTuple

import numpy as np

from ..core.errors import DependencyError
from .toolkit import bind


def numba_cuda():
    """The module numba.cuda."""
    try:
        import numba_cuda  # noqa: F401  without it, numba has an older target of the same name
        from numba import cuda
    except ImportError as error:
        raise DependencyError("kernels for a GPU need numba-cuda: pip install 'minattn[cuda]'") from error
    return cuda


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
    kernel = bind(launch.kernel, cuda, wrap=cuda.jit(device=True, inline="always"), instruction=intrinsic)
    types = tuple(type_of(argument) for argument in launch.arguments)
    bounds = math.prod(launch.block), launch.resident
    text, _ = cuda.compile_ptx(kernel, types, cc=cc, fastmath=fastmath, launch_bounds=bounds)
    return Ptx(text, text.split(".entry", 1)[1].split("(", 1)[0].strip())


def type_of(argument):
    """Numba's type of an argument: arrays are flat and in one piece, whole numbers have 32 bits."""
    from numba import from_dtype, types

    if isinstance(argument, np.ndarray):
        return types.Array(from_dtype(argument.dtype), argument.ndim, "C")
    if isinstance(argument, tuple):
        return types.NamedTuple([type_of(a) for a in argument], type(argument))
    if isinstance(argument, (int, np.integer)):
        return types.int32
    return from_dtype(np.asarray(argument).dtype)


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
