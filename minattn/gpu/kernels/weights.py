"""The attention map itself, from queries, keys and the log-sum-exp of each row: w = exp(score - lse), exactly 0 where hidden.

One thread a weight, each reading its 2 D numbers from global memory, as in naive.py: whoever asks for the whole map has asked
for N x S numbers, and writing them is the least of it.
"""
import functools
import math

import numpy as np

from ..problem import Launch, cuda
from .parts import FLOOR, LOW, make_finish

f32 = np.float32


def launches(problem, made):
    """One launch, of 16 x 16 threads for as many weights; made (B, H, N, S) is flat."""
    x = problem.given
    grid = -(-x.S // 16), -(-x.N // 16), problem.B * x.H
    return [Launch(make_weights(**problem.options), grid, (16, 16), (x, made))]


@functools.cache
def make_weights(D, block_q, block_k, biased, capped):
    """The kernel."""
    finish = make_finish(block_q, block_k, biased, capped)

    def weights(x, made):
        s, n = cuda.grid(2)
        bh = cuda.blockIdx.z
        if n < x.N and s < x.S:
            b, h = bh // x.H, bh % x.H
            query, key = (bh * x.N + n) * D, ((b * x.G + h // (x.H // x.G)) * x.S + s) * D
            score = f32(0)
            for d in range(D):
                score += x.q[query + d] * x.k[key + d]
            score = finish(x, score, b, h, n, s)
            lse = max(x.lse[bh * x.N + n], FLOOR)
            made[(bh * x.N + n) * x.S + s] = f32(0) if score == LOW else math.exp(score - lse)

    return weights
