"""Decoding: few queries before many keys, where reading the keys once is all the work there is.

Flash-Decoding (Dao et al. 2023): the keys are split over blocks of threads, since one query for each head leaves a GPU idle; each
split attends to its own keys, and a second kernel joins the splits by their log-sum-exp, as core's `merge` does.

    rows     R = H // G * N queries: all heads of a group, so that each key and value is read once for the whole group
    splits   parts of the keys, whole tiles of block_k each
    held     (B, G, splits, R, D) and held_lse (B, G, splits, R): what each split found

A block takes its tiles of keys one after the other: a thread a pair of row and key for the scores, a thread some dims of some
rows for the values.
"""
import functools
import math

import numpy as np

from ...core.blocks import EMPTY
from ..problem import DIMS, Launch, cuda
from .parts import FLOOR, LOW, make_finish

f32 = np.float32
THREADS = 128
TILES = dict.fromkeys(DIMS, (64, 32))                                 # queries and keys of a tile on a GPU, for every D


def launches(problem, splits=None):
    """Two launches: the splits, and what joins them."""
    x = problem.given
    rows, tiles = x.H // x.G * x.N, -(-x.S // problem.block_k)
    splits = max(1, min(tiles, -(-2 * 132 // (problem.B * x.G)))) if splits is None else splits        # two blocks a processor
    held = problem.place.empty(problem.B * x.G * splits * rows * problem.D, np.float32)
    held_lse = problem.place.empty(problem.B * x.G * splits * rows, np.float32)
    decode, join = make_decode(**problem.options, rows=rows, splits=splits)
    return [
        Launch(decode, (splits, x.G, problem.B), (THREADS,), (x, held, held_lse)),
        Launch(join, (rows, x.G, problem.B), (problem.D,), (x, held, held_lse)),
    ]


@functools.cache
def make_decode(D, block_q, block_k, biased, capped, rows, splits):
    """Both kernels, for `rows` queries in a group; rows * block_k scores and a tile of keys have to fit into 48 KB."""
    finish = make_finish(block_q, block_k, biased, capped)
    tile_size, q_size, s_size = block_k * (D + 1), rows * D, rows * block_k
    dims = max(1, -(-rows * D // THREADS))                            # numbers of the output that a thread keeps

    def decode(x, held, held_lse):
        t, split, g, b = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
        group = x.H // x.G
        q = cuda.shared.array(q_size, f32)
        tile = cuda.shared.array(tile_size, f32)                      # keys, a row D + 1 long, and then values
        s = cuda.shared.array(s_size, f32)
        top = cuda.shared.array(rows, f32)
        fade = cuda.shared.array(rows, f32)
        total = cuda.shared.array(rows, f32)
        acc = cuda.local.array(dims, f32)
        for i in range(dims):
            acc[i] = f32(0)
        for i in range(t, q_size, THREADS):                           # (H // G, N, D) of this group lie in one piece
            q[i] = x.q[(b * x.H + g * group) * x.N * D + i]
        for i in range(t, rows, THREADS):
            top[i] = FLOOR
            total[i] = f32(0)
        columns = (x.S + block_k - 1) // block_k
        each = (columns + splits - 1) // splits
        for column in range(split * each, min(columns, split * each + each)):
            wanted = False
            for head in range(group):
                for row_tile in range((x.N + block_q - 1) // block_q):
                    place = b * x.kind_b + (g * group + head) * x.kind_h + row_tile * columns + column
                    wanted = wanted or x.kind[place] != EMPTY
            if not wanted:
                continue
            start = column * block_k
            size = min(block_k, x.S - start)
            first = ((b * x.G + g) * x.S + start) * D
            cuda.syncthreads()                                        # everyone is done with the values there
            for i in range(t, size * D, THREADS):
                tile[i // D * (D + 1) + i % D] = x.k[first + i]
            cuda.syncthreads()
            for i in range(t, s_size, THREADS):
                row, key = i // block_k, i % block_k
                score = LOW
                if key < size:
                    score = f32(0)
                    for d in range(D):
                        score += q[row * D + d] * tile[key * (D + 1) + d]
                    score = finish(x, score, b, g * group + row // x.N, row % x.N, start + key)
                s[i] = score
            cuda.syncthreads()                                        # the scores stand, the keys have been read
            for i in range(t, size * D, THREADS):
                tile[i] = x.v[first + i]
            for row in range(t, rows, THREADS):
                best, here = top[row], f32(0)
                for key in range(size):
                    best = max(best, s[row * block_k + key])
                for key in range(size):
                    score = s[row * block_k + key]
                    hidden = score == LOW
                    p = f32(0) if hidden else math.exp(score - best)
                    here += p
                    s[row * block_k + key] = f32(-1) if hidden else p
                fade[row] = math.exp(top[row] - best)
                total[row] = total[row] * fade[row] + here
                top[row] = best
            cuda.syncthreads()
            for i in range(dims):
                place = t + i * THREADS
                if place < q_size:
                    row, d = place // D, place % D
                    more = f32(0)
                    for key in range(size):
                        p = s[row * block_k + key]
                        if p != f32(-1):                               # -1: hidden, whatever stands in v
                            more += p * tile[key * D + d]
                    acc[i] = acc[i] * fade[row] + more
        cuda.syncthreads()
        first_row = ((b * x.G + g) * splits + split) * rows
        for i in range(dims):
            place = t + i * THREADS
            if place < q_size:
                of_row = total[place // D]
                held[first_row * D + place] = acc[i] / of_row if of_row != f32(0) else f32(0)
        for row in range(t, rows, THREADS):
            held_lse[first_row + row] = top[row] + math.log(total[row]) if total[row] != f32(0) else LOW

    def join(x, held, held_lse):
        """A block a row, a thread a dim: out = sum over splits of exp(lse_split - lse) out_split."""
        d, row, g, b = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
        best = FLOOR
        first = (b * x.G + g) * splits * rows + row
        for split in range(splits):
            best = max(best, held_lse[first + split * rows])
        weight, out = f32(0), f32(0)
        for split in range(splits):
            share = math.exp(held_lse[first + split * rows] - best)   # 0 for a split that saw nothing
            weight += share
            out += share * held[(first + split * rows) * D + d]
        place = (b * x.H + g * (x.H // x.G)) * x.N + row
        x.out[place * D + d] = out / weight if weight != f32(0) else f32(0)
        if d == 0:
            x.lse[place] = best + math.log(weight) if weight != f32(0) else f32(-math.inf)

    return decode, join
