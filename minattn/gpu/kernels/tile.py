"""Register tiles for a block that owns the rows of one side and meets those of the other: what both backward kernels are made of.

    thread (tx, ty)   products of the owned rows tx, tx + across, ... with the met rows 4 ty .. 4 ty + 3
    thread (ox, oy)   results of the owned rows 4 oy .. 4 oy + 3, `width` dims next to each other from ox * width

    box   own (owned, chunk), a chunk of their dims, swizzled as in registers.py, since threads next to each other read rows next
          to each other; later, in the same place, `turned` (met, owned): a weight for each pair
          met (met, D), which half a warp reads the same row of; the caller says where it begins

Both inner products, over dims and over met rows, read 16 bytes at a time, and each load serves 8 multiplications. Rows beyond
the last repeat it. That is harmless: an owned one is not written, a met one has weight 0. In `turned` LOW stands for a pair
that is hidden, of which nothing may be added, since 0 times a NaN is NaN.
"""
from typing import Any, NamedTuple

import numpy as np

from ..problem import cuda
from .parts import LOW

f32, u32, u64 = np.float32, np.uint32, np.uint64
ROWS, COLUMNS, VECTOR = 4, 4, 4                                       # of a thread's tile; numbers a load
CHUNK = 64                                                            # dims of the owned rows in `box` at a time


class Tile(NamedTuple):
    """Sizes, and functions of a thread; `t` is its number, and a first row that of its head, before where the tile starts."""

    across: int                                                       # threads beside each other in tx
    chunks: int                                                       # of the dims
    own_size: int                                                     # numbers that own, or turned, take in `box`
    met_size: int
    acc_size: int                                                     # results of a thread
    fetch_met: Any
    products: Any
    write: Any
    collect: Any
    finish: Any


def make_tile(D, owned, met, chunk=CHUNK):
    """The `Tile` of `owned` and `met` rows of D numbers, all powers of two: 64 and 64 rows on a GPU, for a simulated one so
    many that their threads, owned * met / 16, are at least D. A chunk has at least 8 dims."""
    threads, across, aside = owned // ROWS * (met // ROWS), owned // COLUMNS, met // ROWS
    chunk, outs, chunks = min(D, chunk), D // aside, D // min(D, chunk)
    width = min(VECTOR, outs)
    swizzle = min(8, chunk // VECTOR) - 1

    def make_fetch(rows, columns, swizzled):
        down = threads // columns

        def fetch(source, box, at, t, first, start, length, part):
            """Rows from `start`, of which there are `length`, to box[at:]; zeros beyond the last."""
            row, d = t // u32(columns), t % u32(columns)
            there = u64(first + start + row) * u64(D) + u64(u32(part * columns) + d)
            left = u32(max(length - start, row) - row)                # rows that there are from this thread's first one on
            to = u32(at) + row * u32(columns)
            if swizzled:
                d ^= (row & u32(swizzle)) * u32(VECTOR)
            for i in range(rows // down):
                value = f32(0)
                if left > u32(i * down):
                    value = source[there + u64(i * down * D)]
                turned = d ^ u32((i * down & swizzle) * VECTOR) if swizzled else d      # row < down, a power of two
                box[to + u32(i * down * columns) + turned] = value

        return fetch

    fetch_own, fetch_met = make_fetch(owned, chunk, True), make_fetch(met, D, False)

    def products(own, other, box, at, s, a, c, t, own_first, own_start, own_length, first, start, length):
        """s = products of the met rows, which go to box[at:], with the owned ones, a chunk of dims at a time."""
        for i in range(ROWS * COLUMNS):
            s[i] = f32(0)
        for part in range(chunks):
            cuda.syncthreads()                                        # everyone is done with what stands there
            fetch_own(own, box, 0, t, own_first, own_start, own_length, part)
            if part == 0:
                fetch_met(other, box, at, t, first, start, length, 0)
            cuda.syncthreads()
            for d in range(0, chunk, 2 * VECTOR):                     # two at a time, so that the loop itself costs half
                dot(box, at, s, a, c, t, part, u32(d))
                dot(box, at, s, a, c, t, part, u32(d) + u32(VECTOR))

    def dot(box, at, s, a, c, t, part, d):
        """s += met rows . owned rows over the dims d .. d + 3 of a chunk: 8 loads of 16 bytes to 64 multiplications."""
        tx, ty = t % u32(across), t // u32(across)
        for r in range(ROWS):
            for e in range(VECTOR):
                a[r * VECTOR + e] = box[u32(at) + (ty * u32(ROWS) + u32(r)) * u32(D) + u32(part * chunk) + d + u32(e)]
        for j in range(COLUMNS):
            for e in range(VECTOR):
                row = tx + u32(across * j)
                there = row * u32(chunk) + (d // u32(VECTOR) ^ row & u32(swizzle)) * u32(VECTOR)
                c[j * VECTOR + e] = box[there + u32(e)]
        for r in range(ROWS):
            for j in range(COLUMNS):
                for e in range(VECTOR):
                    s[r * COLUMNS + j] += a[r * VECTOR + e] * c[j * VECTOR + e]

    def write(box, values, t):
        """A thread's part of `turned`."""
        tx, ty = t % u32(across), t // u32(across)
        for r in range(ROWS):
            for j in range(COLUMNS):
                box[(ty * u32(ROWS) + u32(r)) * u32(owned) + tx + u32(across * j)] = values[r * COLUMNS + j]

    def collect(box, at, acc, a, t, careful):
        """acc += turned^T met; a careful one leaves out what is hidden."""
        if careful:
            for m in range(met):
                add(box, at, acc, a, t, u32(m), True)
        else:
            for m in range(0, met, VECTOR):                           # four calls: a loop of so much is not always unrolled
                add(box, at, acc, a, t, u32(m), False)
                add(box, at, acc, a, t, u32(m) + u32(1), False)
                add(box, at, acc, a, t, u32(m) + u32(2), False)
                add(box, at, acc, a, t, u32(m) + u32(3), False)

    def add(box, at, acc, a, t, m, careful):
        ox, oy = t % u32(aside), t // u32(aside)
        for r in range(ROWS):
            a[r] = box[m * u32(owned) + oy * u32(ROWS) + u32(r)]
        for i in range(outs):
            value = box[u32(at) + m * u32(D) + u32(i // width * aside * width) + ox * u32(width) + u32(i % width)]
            for r in range(ROWS):
                if not careful or a[r] != LOW:
                    acc[r * outs + i] += a[r] * value

    def finish(target, acc, t, first, start, length, factor):
        """The results of the owned rows, times a factor, to global memory."""
        ox, oy = t % u32(aside), t // u32(aside)
        for r in range(ROWS):
            row = start + oy * u32(ROWS) + u32(r)
            if row < length:
                for i in range(outs):
                    dim = u32(i // width * aside * width) + ox * u32(width) + u32(i % width)
                    target[u64(first + row) * u64(D) + u64(dim)] = acc[r * outs + i] * factor

    return Tile(across, chunks, owned * max(chunk, met), met * D, ROWS * outs, fetch_met, products, write, collect, finish)
