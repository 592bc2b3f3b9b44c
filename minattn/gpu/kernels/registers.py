"""Kernel 4, a tile of 4 x 4 results in the registers of each thread: what is read from shared memory serves four times.

FlashAttention-2 (Dao 2023, arXiv:2307.08691, Algorithm 1) on tiles of 64 queries and 64 keys, 256 threads as 16 x 16.

    thread (tx, ty)   scores of the queries 4 ty .. 4 ty + 3 before the keys tx, tx + 16, tx + 32, tx + 48
                      out of the same queries, dims 4 tx .. 4 tx + 3 of every 64 (2 tx, 2 tx + 1 of 32)

Both inner products read four numbers at a time, 16 bytes: 4 loads for the queries (or weights) and 4 for the keys (or values)
feed 64 multiplications, eight to a load, where kernel 3 had one to a load. A row's 16 threads are half of a warp, so its
maximum and sum go by 4 shuffles and no barrier.

48 KB of shared memory hold `left` (queries), `right` (keys, then values) and `weights`, 16 KB each. With D = 128 queries and
keys come in two chunks of 64 dims, and the values take `left` and `right` together.

Keys are *swizzled*: 16 bytes at dims 4 c of key s stand at c ^ (s & 7). Eight threads that read at once read eight keys, whose
rows all begin in the same bank; so they read from eight different places instead.
"""
import math

import numpy as np

from ...core.blocks import EMPTY, FULL
from ..problem import Launch, cuda
from .parts import LOW

f32, u32 = np.float32, np.uint32
ROWS, COLUMNS, VECTOR, CHUNK = 4, 4, 4, 64                            # of a thread's tile; numbers a load; dims a pass


def launches(problem):
    """One launch: 256 threads for every tile of 64 queries of every head."""
    grid, across = (problem.row_tiles, problem.given.H, problem.B), problem.block_k // COLUMNS
    threads = across * problem.block_q // ROWS
    return [Launch(make_registers(**problem.options), grid, (threads,), (problem.given,))]


def make_registers(D, block_q, block_k, biased, capped):
    """The kernel: block_q = block_k = 64 on a GPU; multiples of 16 for a simulated one, D a multiple of block_k / 2."""
    across = block_k // COLUMNS                                       # threads beside each other: they share their rows
    threads = across * block_q // ROWS
    chunk = min(D, CHUNK)
    chunks = D // chunk
    width = min(VECTOR, chunk // across)                              # dims of the output beside each other in a thread
    outs = D // across                                                # dims of the output in a thread
    left_size, right_size, weights_size = block_q * chunk, block_k * chunk, block_q * block_k
    both_size, acc_size, s_size = left_size + right_size, ROWS * outs, ROWS * COLUMNS
    a_size, c_size = ROWS * VECTOR, COLUMNS * VECTOR
    half = across // 2
    swizzle = min(8, chunk // VECTOR) - 1

    def registers(x):
        t, row_tile, h, b = u32(cuda.threadIdx.x), u32(cuda.blockIdx.x), u32(cuda.blockIdx.y), u32(cuda.blockIdx.z)
        H, G, N, S = u32(x.H), u32(x.G), u32(x.N), u32(x.S)
        tx, ty = t % u32(across), t // u32(across)
        both = cuda.shared.array(both_size, f32, alignment=16)
        weights = cuda.shared.array(weights_size, f32, alignment=16)
        acc = cuda.local.array(acc_size, f32)
        s = cuda.local.array(s_size, f32)
        a = cuda.local.array(a_size, f32)
        c = cuda.local.array(c_size, f32)
        top = cuda.local.array(ROWS, f32)
        total = cuda.local.array(ROWS, f32)
        for i in range(ROWS * outs):
            acc[i] = f32(0)
        for r in range(ROWS):
            top[r] = LOW
            total[r] = f32(0)
        queries = (b * H + h) * N                                     # number of this head's first query, and key
        keys = (b * G + h // (H // G)) * S
        row = row_tile * u32(block_q)
        columns = (S + u32(block_k - 1)) // u32(block_k)
        first_tile = b * u32(x.kind_b) + h * u32(x.kind_h) + row_tile * columns
        for column in range(columns):
            tile = first_tile + u32(column)
            kind = x.kind[tile]
            if kind == EMPTY:
                continue
            start = u32(column) * u32(block_k)
            for i in range(ROWS * COLUMNS):
                s[i] = f32(0)
            for part in range(chunks):
                cuda.syncthreads()                                    # everyone is done with what stands there
                for i in range(t, left_size, threads):
                    n, d = row + u32(i) // u32(chunk), u32(i) % u32(chunk)
                    both[u32(i)] = x.q[(queries + n) * u32(D) + u32(part * chunk) + d] * x.scale if n < N else f32(0)
                for i in range(t, right_size, threads):
                    key, d = u32(i) // u32(chunk), u32(i) % u32(chunk)
                    place = key * u32(chunk) + (d // u32(VECTOR) ^ key & u32(swizzle)) * u32(VECTOR) + d % u32(VECTOR)
                    there = (keys + start + key) * u32(D) + u32(part * chunk) + d
                    both[u32(left_size) + place] = x.k[there] if start + key < S else f32(0)
                cuda.syncthreads()
                for d in range(0, chunk, VECTOR):
                    for r in range(ROWS):
                        for e in range(VECTOR):
                            a[r * VECTOR + e] = both[(ty * u32(ROWS) + u32(r)) * u32(chunk) + u32(d) + u32(e)]
                    for j in range(COLUMNS):
                        for e in range(VECTOR):
                            key = tx + u32(across * j)
                            place = key * u32(chunk) + (u32(d) // u32(VECTOR) ^ key & u32(swizzle)) * u32(VECTOR)
                            c[j * VECTOR + e] = both[u32(left_size) + place + u32(e)]
                    for r in range(ROWS):
                        for j in range(COLUMNS):
                            for e in range(VECTOR):
                                s[r * COLUMNS + j] += a[r * VECTOR + e] * c[j * VECTOR + e]
            for r in range(ROWS):
                n = row + ty * u32(ROWS) + u32(r)
                best = LOW
                for j in range(COLUMNS):
                    key = tx + u32(across * j)
                    score = s[r * COLUMNS + j]
                    if capped:
                        score = x.softcap * math.tanh(score / x.softcap)
                    if biased and n < N and start + key < S:
                        score += x.bias[b * u32(x.bias_b) + h * u32(x.bias_h) + n * u32(x.bias_n) + (start + key) * u32(x.bias_s)]
                    hidden = start + key >= S
                    if kind != FULL:
                        at = (u32(x.stored[tile]) * u32(block_q) + ty * u32(ROWS) + u32(r)) * u32(block_k) + key
                        hidden = hidden or x.partial[at] == 0
                    s[r * COLUMNS + j] = LOW if hidden else score
                    best = max(best, s[r * COLUMNS + j])
                step = half
                while step > 0:
                    best = max(best, cuda.shfl_xor_sync(0xFFFFFFFF, best, step))
                    step //= 2
                best = max(best, top[r])
                fade = math.exp(top[r] - best)
                top[r] = best
                here = f32(0)
                for j in range(COLUMNS):
                    p = math.exp(s[r * COLUMNS + j] - best) if s[r * COLUMNS + j] > LOW else f32(0)
                    here += p
                    weights[(ty * u32(ROWS) + u32(r)) * u32(block_k) + tx + u32(across * j)] = p
                total[r] = total[r] * fade + here
                for i in range(outs):
                    acc[r * outs + i] *= fade
            cuda.syncthreads()                                        # the keys have been read, the weights are written
            for i in range(t, block_k * D, threads):
                key = u32(i) // u32(D)
                inside = start + key < S
                both[u32(i)] = x.v[(keys + start) * u32(D) + u32(i)] if inside else f32(0)
            cuda.syncthreads()
            for key in range(0, block_k, VECTOR):
                for r in range(ROWS):
                    for e in range(VECTOR):
                        a[r * VECTOR + e] = weights[(ty * u32(ROWS) + u32(r)) * u32(block_k) + u32(key) + u32(e)]
                for e in range(VECTOR):
                    for i in range(outs):
                        dim = u32(i // width * across * width) + tx * u32(width) + u32(i % width)
                        value = both[(u32(key) + u32(e)) * u32(D) + dim]
                        for r in range(ROWS):
                            acc[r * outs + i] += a[r * VECTOR + e] * value
        for r in range(ROWS):
            step = half
            while step > 0:
                total[r] += cuda.shfl_xor_sync(0xFFFFFFFF, total[r], step)
                step //= 2
            n = row + ty * u32(ROWS) + u32(r)
            if n < N:
                share = f32(1) / total[r] if total[r] > f32(0) else f32(0)
                for i in range(outs):
                    dim = u32(i // width * across * width) + tx * u32(width) + u32(i % width)
                    x.out[(queries + n) * u32(D) + dim] = acc[r * outs + i] * share
                if tx == 0:
                    x.lse[queries + n] = top[r] + math.log(total[r]) if total[r] > f32(0) else f32(-math.inf)

    return registers
