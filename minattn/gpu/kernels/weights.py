"""The attention map itself, from queries, keys and the log-sum-exp of each row: w = exp(score - lse), exactly 0 where hidden.

The scores are kernel 1's (naive.py), one thread each; a second kernel makes them weights where they lie. Whoever asks for the
whole map has asked for N x S numbers, and writing them is the least of it.
"""
import functools
import math

import numpy as np

from ..problem import Launch, cuda
from .naive import make_naive
from .parts import FLOOR, LOW

f32 = np.float32


def launches(problem, made):
    """Two launches, of 16 x 16 threads for as many weights; made (B, H, N, S) is flat."""
    x = problem.given
    grid = -(-x.S // 16), -(-x.N // 16), problem.B * x.H
    scores, _, _ = make_naive(**problem.options)
    return [Launch(kernel, grid, (16, 16), (x, made)) for kernel in (scores, make_weights())]


@functools.cache
def make_weights():
    """The second kernel."""

    def weights(x, made):
        s, n = cuda.grid(2)
        row = cuda.blockIdx.z * x.N + n
        if n < x.N and s < x.S:
            score = made[row * x.S + s]
            made[row * x.S + s] = f32(0) if score == LOW else math.exp(score - max(x.lse[row], FLOOR))

    return weights
