"""From any layout to the one that kernels read, and back: numbers copied, converted, filled up with zeros, summed.

    source   numbers anywhere: entry (i, j, ..., d) stands at start + i * steps[0] + j * steps[1] + ... + d * step
    target   the same entries in one piece, rows of `dim_to` numbers, zeros from `dim` on

An axis that is broadcast has step 0. With `count` > 1 an entry of the target is the sum of so many numbers of the source,
`apart` from each other: the gradient of broadcasting, one axis at a time, so that each launch has work for all threads and
rounds little. Numbers of 16 bits are read and written as uint16, and summed in float32.
"""
import functools
import math
from typing import Any, NamedTuple

import numpy as np

from .. import instructions
from ..instructions import Instruction
from ..problem import Launch, cuda

f32, u16, u32, u64, i64 = np.float32, np.uint16, np.uint32, np.uint64, np.int64
WARPS = 4                                                             # of a block, a row each
DTYPES: dict[str, np.dtype] = {"f32": np.dtype("f4"), "f64": np.dtype("f8"), "f16": np.dtype("u2"), "bf16": np.dtype("u2")}


class Strided(NamedTuple):
    """Numbers somewhere: a flat array of a place, where in it they begin, and how far apart the entries of each axis are."""

    numbers: Any
    start: int
    shape: tuple
    steps: tuple
    kind: str                                                         # "f32", "f64", or 16 bits as uint16: "f16", "bf16"


class Arranged(NamedTuple):
    """What the kernel gets as its argument `x`."""

    source: Any
    target: Any
    shape: tuple                                                      # of the rows
    steps: tuple
    start: np.int64
    step: np.int64                                                    # between the numbers of a row
    apart: np.int64
    count: int
    rows: np.int64
    dim: int
    dim_to: int


def wide(kind):
    """A number of 16 bits, in the low half of a register, as float32."""
    half = "{.reg .b16 low, high; mov.b32 {low, high}, $1; cvt.f32.f16 $0, low;}"
    text = half if kind == "f16" else "{.reg .b32 bits; shl.b32 bits, $1, 16; mov.b32 $0, bits;}"
    return Instruction(text, "f", "u", lambda cuda, bits: instructions.numbers(int(bits), kind)[0])


def make_reader(kind):
    """source[i] as float32."""
    if kind in ("f32", "f64"):
        def read(source, i):
            return f32(source[i])
    else:
        widened = wide(kind)

        def read(source, i):
            return widened(u32(source[i]))
    return read


def make_writer(kind):
    """target[i] = a float32 number, rounded where it must be."""
    if kind in ("f32", "f64"):
        def write(target, i, number):
            target[i] = number
    else:
        pack = instructions.pack(kind)

        def write(target, i, number):
            target[i] = u16(pack(number, f32(0)) & u32(0xFFFF))
    return write


@functools.cache
def make_arrange(rank, source_kind, target_kind, together):
    """The kernel for rows of `rank` axes: a warp a row. `together`, for rows of one number, its lanes share the sum."""
    read, write = make_reader(source_kind), make_writer(target_kind)

    def arrange(x):
        row = i64(cuda.blockIdx.x) * i64(WARPS) + i64(cuda.threadIdx.y)
        if row < x.rows:
            place, left = x.start, row
            for axis in range(rank):
                size = i64(x.shape[rank - 1 - axis])
                place += left % size * x.steps[rank - 1 - axis]
                left //= size
            d = i64(cuda.threadIdx.x)
            if together:
                total = f32(0)
                for i in range(cuda.threadIdx.x, x.count, 32):
                    total += read(x.source, u64(place + i * x.apart))
                for i in range(5):
                    total += cuda.shfl_xor_sync(0xFFFFFFFF, total, 16 >> i)
                if d == i64(0):
                    write(x.target, u64(row), total)
            else:
                while d < x.dim_to:
                    total = f32(0)
                    if d < x.dim:
                        there = place + d * x.step
                        for i in range(x.count):
                            total += read(x.source, u64(there + i * x.apart))
                    write(x.target, u64(row * x.dim_to + d), total)
                    d += i64(32)

    return arrange


def launch(source, target, axes, kind, dim=None, apart=0, count=1):
    """The launch that brings a `Strided` to a flat array of `axes` in one piece; its last axis is filled up from `dim` on."""
    *shape, dim_to = axes
    shape, steps = tuple(shape) or (1,), source.steps[:-1] or (0,)
    rows = math.prod(shape)
    x = Arranged(source.numbers, target, tuple(map(i64, shape)), tuple(map(i64, steps)), i64(source.start),
                 i64(source.steps[-1]), i64(apart), count, i64(rows), dim_to if dim is None else dim, dim_to)  # fmt: skip
    together = dim_to == 1 and count > 1
    return Launch(make_arrange(len(shape), source.kind, kind, together), (-(-rows // WARPS), 1, 1), (32, WARPS, 1), (x,))


def in_one_piece(numbers, shape, kind):
    """The `Strided` of a flat array."""
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return Strided(numbers, 0, tuple(shape), tuple(steps), kind)


def stretched(source, axes):
    """A `Strided` with the axes of a target that it is broadcast to; along the last it may be shorter."""
    fill = len(axes) - len(source.shape)
    shape, steps = source.shape[max(-fill, 0) :], source.steps[max(-fill, 0) :]
    shape, steps = (1,) * fill + shape, (0,) * fill + steps
    steps = tuple(0 if size == 1 else step for size, step in zip(shape, steps, strict=True))
    return source._replace(shape=(*axes[:-1], shape[-1]), steps=steps)


def arranged(place, source, axes, kind):
    """A flat array of `axes` in one piece, of a `Strided` that broadcasts to it: zeros where its last axis is shorter."""
    target = place.empty(math.prod(axes), DTYPES[kind])
    if math.prod(axes):
        source = stretched(source, axes)
        place.run(launch(source, target, axes, kind, dim=source.shape[-1]))
    return target


def summed(place, numbers, axes, to):
    """A flat float32 array of `axes`, summed over those along which `to` has 1, or no axis at all."""
    to = (1,) * (len(axes) - len(to)) + tuple(to)
    for axis, size in enumerate(to):
        if size != axes[axis]:
            whole = in_one_piece(numbers, axes, "f32")
            axes = (*axes[:axis], 1, *axes[axis + 1 :])
            numbers = place.empty(math.prod(axes), np.float32)
            if math.prod(axes):
                place.run(launch(whole, numbers, axes, "f32", apart=whole.steps[axis], count=whole.shape[axis]))
    return numbers
