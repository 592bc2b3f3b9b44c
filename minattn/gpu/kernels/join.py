"""The splits of decoding joined by their log-sum-exp, as core's `merge` does: a block of threads a row, a thread a dim.

    out = sum over splits of exp(lse_split - lse) out_split,    lse = log sum over splits of exp(lse_split)

`y` is decode.py's `Found`. A split that saw nothing has LOW for its lse, and so no share.
"""
import functools
import math

import numpy as np

from .. import instructions
from ..problem import cuda
from .parts import FLOOR

f32, u16, u32, u64 = np.float32, np.uint16, np.uint32, np.uint64


@functools.cache
def make_join(D, rows, kind):
    """The kernel for `rows` queries in a group; out in float32, or for a kind of 16 bits rounded to it once."""
    wide = kind == "f32"
    pack = None if wide else instructions.pack(kind)

    def join(x, y):
        d, row, g, b = u32(cuda.threadIdx.x), u32(cuda.blockIdx.x), u32(cuda.blockIdx.y), u32(cuda.blockIdx.z)
        first, best = u32((b * u32(x.G) + g) * u32(y.splits) * u32(rows) + row), FLOOR
        split = u32(0)
        while split < u32(y.splits):
            best = max(best, y.held_lse[first + split * u32(rows)])
            split = u32(split + u32(1))
        weight, out, split = f32(0), f32(0), u32(0)
        while split < u32(y.splits):
            at = first + split * u32(rows)
            share = math.exp(y.held_lse[at] - best)                   # 0 for a split that saw nothing
            weight += share
            out += share * y.held[u64(at) * u64(D) + u64(d)]
            split = u32(split + u32(1))
        place = (b * u32(x.H) + g * (u32(x.H) // u32(x.G))) * u32(x.N) + row
        out = out / weight if weight != f32(0) else f32(0)
        if wide:
            x.out[u64(place) * u64(D) + u64(d)] = out
        else:
            x.out[u64(place) * u64(D) + u64(d)] = u16(pack(out, f32(0)) & u32(0xFFFF))
        if d == u32(0):
            x.lse[place] = best + math.log(weight) if weight != f32(0) else f32(-math.inf)

    return join
