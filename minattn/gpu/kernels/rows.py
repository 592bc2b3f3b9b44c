"""Kernel 2, FlashAttention with one thread a query row: the scores never leave the thread that needs them.

Dao et al. 2022, arXiv:2205.14135, Algorithm 1, with queries outside as in Dao 2023, arXiv:2307.08691.

A block of block_q threads takes block_q queries through all keys, a tile of block_k keys at a time. The threads fetch a tile
of K and V into shared memory together, and each then reads all of it: global memory gives a key once for block_q queries,
where kernel 1 fetched it for each of them. A thread keeps its query and its output, 2 D numbers: with D = 128 there are not
as many registers, and they spill.
"""
import functools
import math

import numpy as np

from ...core.blocks import EMPTY, FULL
from ..problem import DIMS, Launch, cuda
from .parts import LOW

f32 = np.float32
TILES = dict.fromkeys(DIMS, (64, 32))                                 # queries and keys of a tile on a GPU, for every D


def launches(problem):
    """One launch: a block of threads for every tile of queries of every head."""
    grid = problem.row_tiles, problem.given.H, problem.B
    return [Launch(make_rows(**problem.options), grid, (problem.block_q,), (problem.given,))]


@functools.cache
def make_rows(D, block_q, block_k, biased, capped):
    """The kernel."""
    tile_size = block_k * D

    def rows(x):
        t, row_tile, h, b = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
        k_tile = cuda.shared.array(tile_size, f32)
        v_tile = cuda.shared.array(tile_size, f32)
        query = cuda.local.array(D, f32)
        acc = cuda.local.array(D, f32)
        n = row_tile * block_q + t
        here = min(n, x.N - 1)                                        # a thread without a row of its own computes the last one
        for d in range(D):
            query[d] = x.q[((b * x.H + h) * x.N + here) * D + d] * x.scale
            acc[d] = f32(0)
        top, total = LOW, f32(0)
        first = (b * x.G + h // (x.H // x.G)) * x.S                       # of this KV head's keys
        columns = (x.S + block_k - 1) // block_k
        for column in range(columns):
            tile = b * x.kind_b + h * x.kind_h + row_tile * columns + column
            if x.kind[tile] == EMPTY:                                 # the same for all threads, so no barrier diverges
                continue
            start = column * block_k
            size = min(block_k, x.S - start)
            cuda.syncthreads()                                        # everyone is done with the tile before
            for i in range(t, size * D, block_q):
                k_tile[i] = x.k[(first + start) * D + i]
                v_tile[i] = x.v[(first + start) * D + i]
            cuda.syncthreads()
            for s in range(size):
                if x.kind[tile] != FULL and not x.partial[(x.stored[tile] * block_q + t) * block_k + s]:
                    continue
                score = f32(0)
                for d in range(D):
                    score += query[d] * k_tile[s * D + d]
                if capped:
                    score = x.softcap * math.tanh(score / x.softcap)
                if biased:
                    score += x.bias[b * x.bias_b + h * x.bias_h + here * x.bias_n + (start + s) * x.bias_s]
                old, top = top, max(top, score)
                fade, p = math.exp(old - top), math.exp(score - top)
                total = total * fade + p
                for d in range(D):
                    acc[d] = acc[d] * fade + p * v_tile[s * D + d]
        if n < x.N:
            share = f32(1) / total if total > 0 else f32(0)
            for d in range(D):
                x.out[((b * x.H + h) * x.N + n) * D + d] = acc[d] * share
            x.lse[(b * x.H + h) * x.N + n] = top + math.log(total) if total > 0 else f32(-math.inf)

    return rows
