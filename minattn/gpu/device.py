"""The one place that speaks to numba.cuda: kernels compiled for a GPU, to be launched, or only to be read.

Everything here is imported when it is first needed: loading numba.cuda takes a second, and most machines have no use for it.
"""
from typing import NamedTuple

import numpy as np

from ..core.errors import DependencyError
from .toolkit import bind


def numba_cuda():
    """The module numba.cuda."""
    try:
        from numba import cuda
    except ImportError as error:
        raise DependencyError("kernels for a GPU need numba-cuda: pip install 'minattn[cuda]'") from error
    return cuda


class Ptx(NamedTuple):
    """A kernel in NVIDIA's virtual assembly."""

    text: str
    name: str                                                         # of its entry


def compile_ptx(launch, cc=(9, 0), *, fastmath=True, launch_bounds=None):
    """The kernel of a `Launch` as PTX for compute capability `cc`; no GPU and no driver are needed.

    Examples
    --------
    `compile_ptx(rows.launches(problem)[0]).text` is what `ptxas` turns into machine code.
    """
    cuda = numba_cuda()
    kernel = bind(launch.kernel, cuda, wrap=cuda.jit(device=True, inline="always"))
    types = tuple(type_of(argument) for argument in launch.arguments)
    text, _ = cuda.compile_ptx(kernel, types, cc=cc, fastmath=fastmath, launch_bounds=launch_bounds)
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
