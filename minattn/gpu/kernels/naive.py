"""Kernel 1, the definition: three launches, and the N x S scores in global memory between them.

    scores   one thread a score      q_n . k_s, D pairs of numbers read for each
    softmax  one thread a row        three walks over its S scores
    values   one thread an output    sum over s of p_ns v_s

Vaswani et al. 2017, arXiv:1706.03762, eq (1). Nothing is reused: of the 2 D numbers that a score needs, every one comes
from global memory for that score alone.
"""
import functools
import math

import numpy as np

from ..problem import DIMS, Launch, cuda
from .parts import LOW, make_finish

f32 = np.float32
TILES = dict.fromkeys(DIMS, (64, 64))                                 # of the block map: what the kernels compute has no tiles


def launches(problem):
    """The three launches; the scores stand in an array of their own."""
    x, heads = problem.given, problem.B * problem.given.H
    scores, softmax, values = make_naive(**problem.options)
    held = problem.place.empty(heads * x.N * x.S, np.float32)
    columns, rows, dims = -(-x.S // 16), -(-x.N // 16), -(-problem.D // 16)
    return [
        Launch(scores, (columns, rows, heads), (16, 16), (x, held)),
        Launch(softmax, (-(-x.N // 64), heads), (64,), (x, held)),
        Launch(values, (dims, rows, heads), (16, 16), (x, held)),
    ]


@functools.cache
def make_naive(D, block_q, block_k, biased, capped):
    """The three kernels; block_q and block_k are the tiles of the block map, which is all they mean here."""
    finish = make_finish(block_q, block_k, biased, capped)

    def scores(x, held):
        s, n = cuda.grid(2)
        bh = cuda.blockIdx.z
        if n < x.N and s < x.S:
            b, h = bh // x.H, bh % x.H
            query, key = (bh * x.N + n) * D, ((b * x.G + h // (x.H // x.G)) * x.S + s) * D
            score = f32(0)
            for d in range(D):
                score += x.q[query + d] * x.k[key + d]
            held[(bh * x.N + n) * x.S + s] = finish(x, score, b, h, n, s)

    def softmax(x, held):
        n = cuda.grid(1)
        bh = cuda.blockIdx.y
        if n < x.N:
            row = (bh * x.N + n) * x.S
            top = LOW
            for s in range(x.S):
                top = max(top, held[row + s])
            total = f32(0)
            for s in range(x.S):
                if held[row + s] > LOW:
                    total += math.exp(held[row + s] - top)
            for s in range(x.S):
                hidden = held[row + s] <= LOW
                held[row + s] = f32(-1) if hidden else math.exp(held[row + s] - top) / total
            x.lse[bh * x.N + n] = top + math.log(total) if total > 0 else f32(-math.inf)

    def values(x, held):
        d, n = cuda.grid(2)
        bh = cuda.blockIdx.z
        if n < x.N and d < D:
            first = (bh // x.H * x.G + bh % x.H // (x.H // x.G)) * x.S
            total = f32(0)
            for s in range(x.S):
                weight = held[(bh * x.N + n) * x.S + s]
                if weight >= 0:                                       # -1: hidden, whatever stands in v
                    total += weight * x.v[(first + s) * D + d]
            x.out[(bh * x.N + n) * D + d] = total

    return scores, softmax, values
