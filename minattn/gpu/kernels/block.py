"""Kernel 3, a two-dimensional block: one thread a score, and then one thread for some dims of an output.

A block of block_k x block_q threads takes block_q queries through all keys. Thread (tx, ty) makes the score of query ty before
key tx; the scores of a tile meet in shared memory; then the thread adds to the dims tx, tx + block_k, ... of output ty. So a
thread keeps D / block_k numbers of the output where kernel 2 kept a whole row of it, whatever D is, and nothing spills.

The price: each multiplication reads both of its numbers from shared memory, and most instructions compute where they are.
A row of K in shared memory is D + 1 numbers long: with D, which is a multiple of 32, the keys that the threads of a warp read
at once would all lie in one bank.
"""
import functools
import math

import numpy as np

from ...core.blocks import EMPTY, FULL
from ..problem import DIMS, Launch, cuda
from .parts import LOW

f32 = np.float32
TILES = dict.fromkeys(DIMS, (16, 16))                                 # queries and keys of a tile on a GPU, for every D


def launches(problem):
    """One launch: a block of threads for every tile of queries of every head."""
    grid = problem.row_tiles, problem.given.H, problem.B
    return [Launch(make_block(**problem.options), grid, (problem.block_k, problem.block_q), (problem.given,))]


@functools.cache
def make_block(D, block_q, block_k, biased, capped):
    """The kernel; block_q * block_k threads, D a multiple of block_k."""
    q_size, k_size, v_size, p_size = block_q * D, block_k * (D + 1), block_k * D, block_q * block_k
    outs, threads = D // block_k, block_q * block_k

    def block(x):
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        row_tile, h, b = cuda.blockIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
        t = ty * block_k + tx
        q_tile = cuda.shared.array(q_size, f32)
        k_tile = cuda.shared.array(k_size, f32)
        v_tile = cuda.shared.array(v_size, f32)
        p_tile = cuda.shared.array(p_size, f32)
        acc = cuda.local.array(outs, f32)
        for i in range(outs):
            acc[i] = f32(0)
        first_row = row_tile * block_q
        n = first_row + ty
        for i in range(t, q_size, threads):
            row = min(first_row + i // D, x.N - 1)                    # rows beyond the last repeat it, and are not written
            q_tile[i] = x.q[((b * x.H + h) * x.N + row) * D + i % D] * x.scale
        top, total = LOW, f32(0)
        first = (b * x.G + h // (x.H // x.G)) * x.S
        columns = (x.S + block_k - 1) // block_k
        for column in range(columns):
            tile = b * x.kind_b + h * x.kind_h + row_tile * columns + column
            if x.kind[tile] == EMPTY:
                continue
            start = column * block_k
            cuda.syncthreads()
            for i in range(t, v_size, threads):
                key = min(start + i // D, x.S - 1)
                k_tile[i // D * (D + 1) + i % D] = x.k[(first + key) * D + i % D]
                v_tile[i] = x.v[(first + key) * D + i % D]
            cuda.syncthreads()
            hidden = start + tx >= x.S
            if x.kind[tile] != FULL:
                hidden = hidden or x.partial[(x.stored[tile] * block_q + ty) * block_k + tx] == 0
            score = LOW
            if not hidden:
                score = f32(0)
                for d in range(D):
                    score += q_tile[ty * D + d] * k_tile[tx * (D + 1) + d]
                if capped:
                    score = x.softcap * math.tanh(score / x.softcap)
                if biased and n < x.N:
                    score += x.bias[b * x.bias_b + h * x.bias_h + n * x.bias_n + (start + tx) * x.bias_s]
            p_tile[t] = score
            cuda.syncthreads()
            best = top
            for s in range(block_k):
                best = max(best, p_tile[ty * block_k + s])
            fade = math.exp(top - best)
            top = best
            total *= fade
            for i in range(outs):
                acc[i] *= fade
            for s in range(block_k):
                score = p_tile[ty * block_k + s]
                if score > LOW:                                       # a hidden key adds nothing, whatever stands in v
                    p = math.exp(score - top)
                    total += p
                    for i in range(outs):
                        acc[i] += p * v_tile[s * D + i * block_k + tx]
        if n < x.N:
            share = f32(1) / total if total > 0 else f32(0)
            for i in range(outs):
                x.out[((b * x.H + h) * x.N + n) * D + i * block_k + tx] = acc[i] * share
            if tx == 0:
                x.lse[(b * x.H + h) * x.N + n] = top + math.log(total) if total > 0 else f32(-math.inf)

    return block
