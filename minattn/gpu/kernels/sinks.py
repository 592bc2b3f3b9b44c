"""Sink logits: one more key for every head, whose value is 0 and whose score is learned. No kernel of attention knows of them.

    lse' = log(exp(lse) + exp(sink))      out' = exp(lse - lse') out      dsink = -sum over queries of exp(sink - lse') delta

A sink is a part of the keys as any other, so it is joined as core's `merge` joins two parts; backward.py needs only lse'.
"""
import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ..problem import Launch, cuda
from .arrange import WARPS, make_reader, make_writer
from .parts import FLOOR, LOW

f32, u32, u64 = np.float32, np.uint32, np.uint64


class Sinks(NamedTuple):
    """What both kernels get as their argument `x`."""

    sinks: Any                        # (H,)
    lse: Any                          # (B, H, N)
    delta: Any                        # (B, H, N), for `shares`
    made: Any                         # (B, H, N): -exp(sink - lse) delta
    out: Any                          # (B, H, N, D), for `join`
    rows: int                         # B * H * N
    H: int
    N: int


def join(problem, sinks):
    """The launch that brings a sink of each head into `out` and `lse`, which then include it."""
    given = problem.given
    x = Sinks(sinks, given.lse, given.lse, given.lse, given.out, problem.B * given.H * given.N, given.H, given.N)
    return Launch(make_join(problem.D, problem.kind), (-(-x.rows // WARPS), 1, 1), (32, WARPS, 1), (x,))


def shares(problem, sinks, delta, made):
    """The launch that makes of every row what it adds to the gradient of its head's sink."""
    given = problem.given
    x = Sinks(sinks, given.lse, delta, made, given.out, problem.B * given.H * given.N, given.H, given.N)
    return Launch(make_shares(), (-(-x.rows // 128), 1, 1), (128, 1, 1), (x,))


@functools.cache
def make_join(D, kind):
    """A warp a row."""
    read, write = make_reader(kind), make_writer(kind)

    def join_sinks(x):
        lane, row = u32(cuda.threadIdx.x), u32(cuda.blockIdx.x) * u32(WARPS) + u32(cuda.threadIdx.y)
        if row < u32(x.rows):
            lse, sink = max(x.lse[row], LOW), max(x.sinks[row // u32(x.N) % u32(x.H)], LOW)
            top = max(lse, sink)
            whole = top + math.log(math.exp(lse - top) + math.exp(sink - top))
            share = math.exp(lse - whole)
            for i in range(-(-D // 32)):
                d = lane + u32(32 * i)
                if d < u32(D):
                    place = u64(row) * u64(D) + u64(d)
                    write(x.out, place, read(x.out, place) * share)
            cuda.syncwarp()                                           # all lanes have read lse
            if lane == u32(0):
                x.lse[row] = whole if whole > FLOOR else f32(-math.inf)

    return join_sinks


@functools.cache
def make_shares():
    """A thread a row."""

    def sink_shares(x):
        row = u32(cuda.blockIdx.x) * u32(128) + u32(cuda.threadIdx.x)
        if row < u32(x.rows):
            lse, sink = max(x.lse[row], FLOOR), max(x.sinks[row // u32(x.N) % u32(x.H)], LOW)
            x.made[row] = -math.exp(sink - lse) * x.delta[row]

    return sink_shares
