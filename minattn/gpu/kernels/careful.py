"""What kernel 5 may not leave behind: rows that a NaN reached through a value which they do not see are computed again.

Tensor cores multiply the weight 0 of a hidden key with its value, and 0 times NaN (or infinity) is NaN. So a warp looks at
each row of the output: almost always all of it is finite, and that is all. A row that is not is computed once more in
float32, key after key, without those that it does not see; if it sees the NaN, it has it afterwards as well.

Whether a number is finite is read off its exponent: under fast arithmetic comparing a number with itself is compiled away.
"""
import functools
import math

import numpy as np

from ..problem import Launch, cuda
from .arrange import make_reader, make_writer
from .parts import FLOOR, LOW, make_finish

f32, u32 = np.float32, np.uint32
WARPS = 4                                                             # of a block, a row each
EXPONENT = {"f16": 0x7C00, "bf16": 0x7F80}


def launches(problem):
    """One launch, after kernel 5: a warp a row of its output."""
    grid = -(-problem.given.N // WARPS), problem.given.H, problem.B
    return [Launch(make_careful(**problem.options, kind=problem.kind), grid, (32, WARPS, 1), (problem.given,))]


@functools.cache
def make_careful(D, block_q, block_k, biased, capped, kind):
    """The kernel, for kind "f16" or "bf16"."""
    finish, read, write = make_finish(block_q, block_k, biased, capped), make_reader(kind), make_writer(kind)
    dims, exponent = -(-D // 32), EXPONENT[kind]

    def careful(x):
        lane, h, b = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
        n = cuda.blockIdx.x * WARPS + cuda.threadIdx.y
        if n >= x.N:
            return
        row = ((b * x.H + h) * x.N + n) * D
        wild = False
        for i in range(dims):
            if lane + 32 * i < D and u32(x.out[row + lane + 32 * i]) & u32(exponent) == u32(exponent):
                wild = True
        if not cuda.any_sync(0xFFFFFFFF, wild):
            return
        acc = cuda.local.array(dims, f32)
        for i in range(dims):
            acc[i] = f32(0)
        top, total = FLOOR, f32(0)
        first = (b * x.G + h // (x.H // x.G)) * x.S
        for s in range(x.S):
            score = f32(0)
            for i in range(dims):
                if lane + 32 * i < D:
                    score += read(x.q, row + lane + 32 * i) * read(x.k, (first + s) * D + lane + 32 * i)
            for i in range(5):
                score += cuda.shfl_xor_sync(0xFFFFFFFF, score, 16 >> i)
            score = finish(x, score, b, h, n, s)
            if score != LOW:
                best = max(top, score)
                fade, p = math.exp(top - best), math.exp(score - best)
                top, total = best, total * fade + p
                for i in range(dims):
                    if lane + 32 * i < D:
                        acc[i] = acc[i] * fade + p * read(x.v, (first + s) * D + lane + 32 * i)
        share = f32(1) / total if total != f32(0) else f32(0)
        for i in range(dims):
            if lane + 32 * i < D:
                write(x.out, row + lane + 32 * i, acc[i] * share)

    return careful
