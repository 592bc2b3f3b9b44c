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

To Numba the sum of two uint32 is a uint64, two registers: what lives through the loop is made a u32 again.
"""
import functools
import math

import numpy as np

from ...core.blocks import EMPTY, FULL
from ..problem import DIMS, Launch, cuda
from .parts import FLOOR, LOW

f32, u32, u64 = np.float32, np.uint32, np.uint64
ROWS, COLUMNS, VECTOR = 4, 4, 4                                       # of a thread's tile; numbers a load
CHUNK = 64                                                            # dims a pass
TILES = dict.fromkeys(DIMS, (64, 64))                                 # queries and keys of a tile on a GPU, for every D


def launches(problem):
    """One launch: 256 threads for every tile of 64 queries of every head.

    Two blocks on a processor leave 128 registers to a thread; with D = 128, bias and softcap the code for sm_80 wants some more.
    """
    grid, across = (problem.row_tiles, problem.given.H, problem.B), problem.block_k // COLUMNS
    threads, options = across * problem.block_q // ROWS, problem.options
    resident = 1 if problem.D > CHUNK and (options["biased"] or options["capped"]) else 2
    return [Launch(make_registers(**options), grid, (threads,), (problem.given,), resident)]


@functools.cache
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
    a_size = ROWS * VECTOR
    swizzle = min(8, chunk // VECTOR) - 1
    values_at = left_size if chunks == 1 else 0

    def make_fetch(rows, columns, swizzled):
        """Fetch rows x columns numbers: a thread stays in its column and goes down by as many rows as all fetch at once."""
        down, aside = max(1, threads // columns), -(-columns // threads)
        whole = rows % down == 0

        def fetch(source, both, at, t, first, part, start, length, ragged):
            """Rows from `start`, of which there are `length`, to both[at:]; rows beyond the last repeat it."""
            row, column = t // u32(columns), t % u32(columns)
            base = u64(first + start + row) * u64(D) + u64(part * columns + column)
            for i in range(-(-rows // down)):
                for w in range(aside):
                    key, d = row + u32(i * down), column + u32(w * threads)
                    turned = d
                    if swizzled:
                        turned = (d // u32(VECTOR) ^ key & u32(swizzle)) * u32(VECTOR) + d % u32(VECTOR)
                    if whole or key < u32(rows):
                        there = base + u64(i * down * D + w * threads)
                        if ragged:
                            there = u64(first + min(start + key, length - u32(1))) * u64(D) + u64(part * columns + d)
                        both[u32(at) + key * u32(columns) + turned] = source[there]

        return fetch

    fetch_queries, fetch_keys = make_fetch(block_q, chunk, False), make_fetch(block_k, chunk, True)
    fetch_values = make_fetch(block_k, D, False)

    def clear_values(both, t, size):
        """Zeros for the values beyond the last, `size` of which are real: a thread's places are those that it has fetched to."""
        place = t
        while place < u32(block_k * D):
            if place >= size:
                both[u32(values_at) + place] = f32(0)
            place += u32(threads)

    def dot(both, s, a, c, tx, ty, d):
        """s += queries . keys over the dims d .. d + 3: 8 loads of 16 bytes to 64 multiplications."""
        for r in range(ROWS):
            for e in range(VECTOR):
                a[r * VECTOR + e] = both[(ty * u32(ROWS) + u32(r)) * u32(chunk) + d + u32(e)]
        dot_key(both, s, a, c, tx, d, 0)                              # four calls: a loop of so much is not always unrolled,
        dot_key(both, s, a, c, tx, d, 1)                              # and an array with an index that runs is not in registers
        dot_key(both, s, a, c, tx, d, 2)
        dot_key(both, s, a, c, tx, d, 3)

    def dot_key(both, s, a, c, tx, d, j):
        key = tx + u32(across * j)
        there = u32(left_size) + key * u32(chunk) + (d // u32(VECTOR) ^ key & u32(swizzle)) * u32(VECTOR)
        for e in range(VECTOR):
            c[e] = both[there + u32(e)]
        for r in range(ROWS):
            for e in range(VECTOR):
                s[r * COLUMNS + j] += a[r * VECTOR + e] * c[e]

    def add_values(both, weights, acc, a, tx, ty, key, careful):
        """acc += weights @ values over the keys key .. key + 3, the same balance. A careful one leaves out what is hidden."""
        for r in range(ROWS):
            for e in range(VECTOR):
                a[r * VECTOR + e] = weights[(ty * u32(ROWS) + u32(r)) * u32(block_k) + key + u32(e)]
        add_value(both, acc, a, tx, key, 0, careful)
        add_value(both, acc, a, tx, key, 1, careful)
        add_value(both, acc, a, tx, key, 2, careful)
        add_value(both, acc, a, tx, key, 3, careful)

    def add_value(both, acc, a, tx, key, e, careful):
        for i in range(outs):
            dim = u32(i // width * across * width) + tx * u32(width) + u32(i % width)
            value = both[u32(values_at) + (key + u32(e)) * u32(D) + dim]
            for r in range(ROWS):
                if not careful or a[r * VECTOR + e] != f32(-1):
                    acc[r * outs + i] += a[r * VECTOR + e] * value

    def registers(x):
        t, row_tile, h, b = u32(cuda.threadIdx.x), u32(cuda.blockIdx.x), u32(cuda.blockIdx.y), u32(cuda.blockIdx.z)
        tx, ty = u32(t % u32(across)), u32(t // u32(across))
        both = cuda.shared.array(both_size, f32, alignment=16)
        weights = cuda.shared.array(weights_size, f32, alignment=16)
        acc = cuda.local.array(acc_size, f32)
        s = cuda.local.array(s_size, f32)
        a = cuda.local.array(a_size, f32)
        c = cuda.local.array(VECTOR, f32)
        top = cuda.local.array(ROWS, f32)
        total = cuda.local.array(ROWS, f32)
        for i in range(acc_size):
            acc[i] = f32(0)
        for r in range(ROWS):
            top[r] = FLOOR
            total[r] = f32(0)
        queries = u32((b * u32(x.H) + h) * u32(x.N))                  # number of this head's first query, and key
        keys = u32((b * u32(x.G) + h // (u32(x.H) // u32(x.G))) * u32(x.S))
        row = u32(row_tile * u32(block_q))
        mine = u32(row + ty * u32(ROWS))                              # this thread's first query
        columns = u32((u32(x.S) + u32(block_k - 1)) // u32(block_k))
        tile = u32(b * u32(x.kind_b) + h * u32(x.kind_h) + row_tile * columns)
        last_rows = row + u32(block_q) > u32(x.N)
        if chunks == 1:
            fetch_queries(x.q, both, 0, t, queries, 0, row, u32(x.N), True)
        start = u32(0)
        while start < u32(x.S):
            kind = x.kind[tile]
            if kind != EMPTY:
                last = start + u32(block_k) > u32(x.S)                # keys beyond the last are in this tile
                for i in range(s_size):
                    s[i] = f32(0)
                for part in range(chunks):
                    cuda.syncthreads()                                # everyone is done with what stands there
                    if chunks > 1 and last_rows:
                        fetch_queries(x.q, both, 0, t, queries, part, row, u32(x.N), True)
                    elif chunks > 1:
                        fetch_queries(x.q, both, 0, t, queries, part, row, u32(x.N), False)
                    if last:
                        fetch_keys(x.k, both, left_size, t, keys, part, start, u32(x.S), True)
                    else:
                        fetch_keys(x.k, both, left_size, t, keys, part, start, u32(x.S), False)
                    cuda.syncthreads()
                    for d in range(0, chunk, 2 * VECTOR):             # two at a time, so that the loop itself costs half
                        dot(both, s, a, c, tx, ty, u32(d))
                        dot(both, s, a, c, tx, ty, u32(d) + u32(VECTOR))
                for i in range(s_size):
                    s[i] *= x.scale
                    if capped:
                        s[i] = x.softcap * math.tanh(s[i] / x.softcap)
                if biased:
                    head = u32(b * u32(x.bias_b) + h * u32(x.bias_h))
                    for i in range(s_size):
                        n, key = u32(mine + u32(i // COLUMNS)), u32(start + tx + u32(i % COLUMNS * across))
                        if n < u32(x.N) and key < u32(x.S):
                            s[i] += x.bias[u32(head + n * u32(x.bias_n) + key * u32(x.bias_s))]
                if last:
                    for i in range(s_size):
                        if start + tx + u32(i % COLUMNS * across) >= u32(x.S):
                            s[i] = LOW
                if kind != FULL:
                    stored = (u32(x.stored[tile]) * u32(block_q) + ty * u32(ROWS)) * u32(block_k) + tx
                    for i in range(s_size):
                        if x.partial[stored + u32(i // COLUMNS * block_k + i % COLUMNS * across)] == 0:
                            s[i] = LOW
                for r in range(ROWS):
                    best = top[r]
                    for j in range(COLUMNS):
                        best = max(best, s[r * COLUMNS + j])
                    step = across // 2
                    while step > 0:
                        best = max(best, cuda.shfl_xor_sync(0xFFFFFFFF, best, step))
                        step //= 2
                    fade = math.exp(top[r] - best)
                    top[r] = best
                    total[r] *= fade
                    for i in range(outs):
                        acc[r * outs + i] *= fade
                    for j in range(COLUMNS):
                        p = math.exp(s[r * COLUMNS + j] - best)       # 0 for LOW, which is far below any best
                        total[r] += p
                        if kind != FULL and s[r * COLUMNS + j] == LOW:
                            p = f32(-1)                               # the weight is 0, and the value may be NaN
                        weights[(ty * u32(ROWS) + u32(r)) * u32(block_k) + tx + u32(across * j)] = p
                cuda.syncthreads()                                    # the keys have been read, the weights are written
                if last:
                    fetch_values(x.v, both, values_at, t, keys, 0, start, u32(x.S), True)
                    clear_values(both, t, (u32(x.S) - start) * u32(D))
                else:
                    fetch_values(x.v, both, values_at, t, keys, 0, start, u32(x.S), False)
                cuda.syncthreads()
                if kind == FULL:
                    for key in range(0, block_k, 2 * VECTOR):
                        add_values(both, weights, acc, a, tx, ty, u32(key), False)
                        add_values(both, weights, acc, a, tx, ty, u32(key) + u32(VECTOR), False)
                else:
                    for key in range(0, block_k, VECTOR):
                        add_values(both, weights, acc, a, tx, ty, u32(key), True)
            tile = u32(tile + u32(1))
            start = u32(start + u32(block_k))
        for r in range(ROWS):
            step = across // 2
            while step > 0:
                total[r] += cuda.shfl_xor_sync(0xFFFFFFFF, total[r], step)
                step //= 2
            n = mine + u32(r)
            if n < u32(x.N):
                share = f32(1) / total[r] if total[r] != f32(0) else f32(0)
                for i in range(outs):
                    dim = u32(i // width * across * width) + tx * u32(width) + u32(i % width)
                    x.out[(queries + n) * u32(D) + dim] = acc[r * outs + i] * share
                if tx == u32(0):
                    x.lse[queries + n] = top[r] + math.log(total[r]) if total[r] != f32(0) else f32(-math.inf)

    return registers
