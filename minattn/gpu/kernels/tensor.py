"""Kernel 5, tensor cores: a warp multiplies 16 x 16 by 16 x 8 numbers of 16 bits in one instruction, and sums in float32.

FlashAttention-2 (Dao 2023, arXiv:2307.08691, Algorithm 1). Each warp has 16 queries and keeps all of theirs in registers:
queries, scores and outputs, in the layouts of instructions.py. The scores of a tile come out as C and go on, rounded to
16 bits, as A of the product with the values: the weights never leave their registers either.

    lane 4 g + t of a warp   rows g and g + 8; of each 8 keys (or dims) the two from 2 t on
    s     (keys / 8, 4)      scores: [key tile, 0:2] of row g, [key tile, 2:4] of row g + 8
    acc   (dims / 8, 4)      outputs, the same

Tiles of keys and values are fetched while the tile before is at work: asynchronous copies of 16 bytes into the other one of
two stages. Rows of a tile are swizzled as in kernel 4, in pieces of 16 bytes, so that 8 rows are read without a conflict. A
lane works out once where it reads; 16 dims on flip a few bits of that place, and 16 rows on add to it.

The softmax works with powers of two: 2^(x log2 e) is one instruction on a GPU. A negative scale is a negated query.
A hidden key has weight 0 here too, but 0 times a NaN in its value is NaN: this kernel wants values that are finite.
"""
import functools
import math

import numpy as np

from ...core.blocks import EMPTY, FULL
from .. import instructions
from ..problem import Launch, cuda
from .parts import FLOOR, LOW

f32, u16, u32, u64 = np.float32, np.uint16, np.uint32, np.uint64
PIECE = 8                                                             # numbers of 16 bits in 16 bytes
TILES = {32: (64, 64), 64: (64, 64), 128: (64, 32)}                   # queries and keys of a tile on a GPU, for every D
LOG2E, LN2 = f32(math.log2(math.e)), f32(math.log(2))
ldmatrix, ldmatrix_turned, exp2 = instructions.ldmatrix, instructions.ldmatrix_turned, instructions.exp2
copy, wait_for_copies = instructions.copy_16_bytes, instructions.wait_for_copies


def launches(problem):
    """One launch: a warp for every 16 queries of a tile, for every tile of queries of every head."""
    grid, threads, resident = (problem.row_tiles, problem.given.H, problem.B), 2 * problem.block_q, 3 if problem.D <= 64 else 2
    return [Launch(make_tensor(**problem.options, kind=problem.kind), grid, (threads,), (problem.given,), resident)]


@functools.cache
def make_tensor(D, block_q, block_k, biased, capped, kind):
    """The kernel for kind "f16" or "bf16"; block_q, block_k and D are multiples of 16."""
    mma, pack = instructions.mma(kind), instructions.pack(kind)
    threads, pieces = 2 * block_q, D // PIECE
    stage, values_at = 2 * block_k * D, block_k * D                   # numbers of a stage; where its values begin
    tiles_size, q_size, s_size, acc_size = 2 * stage, D // 16 * 4, block_k // 8 * 4, D // 8 * 4
    dim_steps, key_steps, key_tiles, dim_pairs = D // 16, block_k // 16, block_k // 8, D // 16
    swizzle, down = min(8, pieces) - 1, threads // pieces             # down: rows that all threads copy at once
    whole = block_k % down == 0

    def place(row, piece):
        """Where 16 bytes of a row of a tile stand."""
        return u32((row * u32(pieces) + (piece ^ row & u32(swizzle))) * u32(PIECE))

    def fetch(x, tiles, at, t, keys, start):
        """Begin to copy the keys and values from `start` to the stage at tiles[at:]; beyond the last come zeros, read nowhere."""
        row, piece = u32(t // u32(pieces)), u32(t % u32(pieces))
        there = u64(keys + start + row) * u64(D) + u64(piece * u32(PIECE))
        for i in range(-(-block_k // down)):
            if whole or row + u32(i * down) < u32(block_k):
                to = at + place(u32(row + u32(i * down)), piece)
                size = u32(16) if start + row + u32(i * down) < u32(x.S) else u32(0)
                copy(tiles, to, x.k, there + u64(i * down * D), size)
                copy(tiles, to + u32(values_at), x.v, there + u64(i * down * D), size)

    def next_column(x, tile, column, columns):
        """The next column of tiles that is not empty."""
        while column < columns and x.kind[tile + column] == EMPTY:
            column = u32(column + u32(1))
        return column

    def tensor(x):
        t, row_tile, h, b = u32(cuda.threadIdx.x), u32(cuda.blockIdx.x), u32(cuda.blockIdx.y), u32(cuda.blockIdx.z)
        lane, warp = u32(t % u32(32)), u32(t // u32(32))
        g, two_t = u32(lane // u32(4)), u32(lane % u32(4) * u32(2))
        key_place = place(u32(lane % u32(8) + lane // u32(16) * u32(8)), u32(lane // u32(8) % u32(2)))
        value_place = u32(u32(values_at) + place(u32(lane % u32(16)), u32(lane // u32(16))))
        tiles = cuda.shared.array(tiles_size, u16, alignment=16)
        q = cuda.local.array(q_size, u32)
        s = cuda.local.array(s_size, f32)
        acc = cuda.local.array(acc_size, f32)
        queries = u32((b * u32(x.H) + h) * u32(x.N))
        keys = u32((b * u32(x.G) + h // (u32(x.H) // u32(x.G))) * u32(x.S))
        columns = u32((u32(x.S) + u32(block_k - 1)) // u32(block_k))
        tile = u32(b * u32(x.kind_b) + h * u32(x.kind_h) + row_tile * columns)
        n0 = u32(row_tile * u32(block_q) + warp * u32(16) + g)        # this lane's two rows
        n1 = u32(n0 + u32(8))
        flip = u32(0x80008000) if x.scale < f32(0) else u32(0)
        upper, lower = (queries + min(n0, u32(x.N) - u32(1))) * u32(D), (queries + min(n1, u32(x.N) - u32(1))) * u32(D)
        for k in range(dim_steps):
            for i in range(4):
                d = (lower if i % 2 else upper) + u32(k * 16 + i // 2 * 8) + two_t
                q[k * 4 + i] = (u32(x.q[d]) | u32(x.q[d + u32(1)]) << u32(16)) ^ flip
        for i in range(acc_size):
            acc[i] = f32(0)
        factor = LOG2E if capped or biased else abs(x.scale) * LOG2E
        top0, top1, total0, total1 = FLOOR, FLOOR, f32(0), f32(0)
        at = u32(0)
        column = next_column(x, tile, u32(0), columns)
        fetch(x, tiles, at, t, keys, u32(column * u32(block_k)))
        while column < columns:
            start, following = u32(column * u32(block_k)), next_column(x, tile, u32(column + u32(1)), columns)
            wait_for_copies()
            cuda.syncthreads()                                        # everyone's copies are there, and the other stage is free
            fetch(x, tiles, u32(u32(stage) - at), t, keys, u32(following * u32(block_k)))
            for i in range(s_size):
                s[i] = f32(0)
            for pair in range(key_steps):
                for k in range(dim_steps):
                    b0, b1, b2, b3 = ldmatrix(tiles, at + (key_place ^ u32(k * 16)) + u32(pair * 16 * D))
                    i, j = pair * 8, k * 4
                    s[i], s[i + 1], s[i + 2], s[i + 3] = mma(
                        q[j], q[j + 1], q[j + 2], q[j + 3], b0, b1, s[i], s[i + 1], s[i + 2], s[i + 3])
                    s[i + 4], s[i + 5], s[i + 6], s[i + 7] = mma(
                        q[j], q[j + 1], q[j + 2], q[j + 3], b2, b3, s[i + 4], s[i + 5], s[i + 6], s[i + 7])
            if capped or biased:
                for i in range(s_size):
                    score = s[i] * abs(x.scale)
                    if capped:
                        score = x.softcap * math.tanh(score / x.softcap)
                    if biased:
                        n, key = n1 if i % 4 // 2 else n0, start + u32(i // 4 * 8 + i % 2) + two_t
                        if n < u32(x.N) and key < u32(x.S):
                            score += x.bias[b * u32(x.bias_b) + h * u32(x.bias_h) + n * u32(x.bias_n) + key * u32(x.bias_s)]
                    s[i] = score
            if start + u32(block_k) > u32(x.S):
                for i in range(s_size):
                    if start + u32(i // 4 * 8 + i % 2) + two_t >= u32(x.S):
                        s[i] = LOW
            if x.kind[tile + column] != FULL:
                seen = (u32(x.stored[tile + column]) * u32(block_q) + warp * u32(16) + g) * u32(block_k) + two_t
                for i in range(s_size):
                    if x.partial[seen + u32(i % 4 // 2 * 8 * block_k + i // 4 * 8 + i % 2)] == 0:
                        s[i] = LOW
            best0, best1 = top0, top1
            for i in range(key_tiles):
                best0 = max(best0, max(s[i * 4], s[i * 4 + 1]))
                best1 = max(best1, max(s[i * 4 + 2], s[i * 4 + 3]))
            best0 = max(best0, cuda.shfl_xor_sync(0xFFFFFFFF, best0, 1))
            best0 = max(best0, cuda.shfl_xor_sync(0xFFFFFFFF, best0, 2))
            best1 = max(best1, cuda.shfl_xor_sync(0xFFFFFFFF, best1, 1))
            best1 = max(best1, cuda.shfl_xor_sync(0xFFFFFFFF, best1, 2))
            fade0, fade1 = exp2((top0 - best0) * factor), exp2((top1 - best1) * factor)
            top0, top1 = best0, best1
            total0 *= fade0
            total1 *= fade1
            below0, below1 = top0 * factor, top1 * factor
            for i in range(key_tiles):
                s[i * 4] = exp2(s[i * 4] * factor - below0)
                s[i * 4 + 1] = exp2(s[i * 4 + 1] * factor - below0)
                s[i * 4 + 2] = exp2(s[i * 4 + 2] * factor - below1)
                s[i * 4 + 3] = exp2(s[i * 4 + 3] * factor - below1)
                total0 += s[i * 4] + s[i * 4 + 1]
                total1 += s[i * 4 + 2] + s[i * 4 + 3]
            for i in range(dim_pairs * 2):
                acc[i * 4] *= fade0
                acc[i * 4 + 1] *= fade0
                acc[i * 4 + 2] *= fade1
                acc[i * 4 + 3] *= fade1
            for k in range(key_steps):
                a0, a1 = pack(s[k * 8], s[k * 8 + 1]), pack(s[k * 8 + 2], s[k * 8 + 3])
                a2, a3 = pack(s[k * 8 + 4], s[k * 8 + 5]), pack(s[k * 8 + 6], s[k * 8 + 7])
                for pair in range(dim_pairs):
                    b0, b1, b2, b3 = ldmatrix_turned(tiles, at + (value_place ^ u32(pair * 16)) + u32(k * 16 * D))
                    i = pair * 8
                    acc[i], acc[i + 1], acc[i + 2], acc[i + 3] = mma(
                        a0, a1, a2, a3, b0, b1, acc[i], acc[i + 1], acc[i + 2], acc[i + 3])
                    acc[i + 4], acc[i + 5], acc[i + 6], acc[i + 7] = mma(
                        a0, a1, a2, a3, b2, b3, acc[i + 4], acc[i + 5], acc[i + 6], acc[i + 7])
            at = u32(u32(stage) - at)
            column = following
        wait_for_copies()                                                # nothing may arrive after the block has ended
        total0 += cuda.shfl_xor_sync(0xFFFFFFFF, total0, 1)
        total0 += cuda.shfl_xor_sync(0xFFFFFFFF, total0, 2)
        total1 += cuda.shfl_xor_sync(0xFFFFFFFF, total1, 1)
        total1 += cuda.shfl_xor_sync(0xFFFFFFFF, total1, 2)
        share0 = f32(1) / total0 if total0 != f32(0) else f32(0)
        share1 = f32(1) / total1 if total1 != f32(0) else f32(0)
        for i in range(dim_pairs * 2):
            d = u32(i * 8) + two_t
            if n0 < u32(x.N):
                both = pack(acc[i * 4] * share0, acc[i * 4 + 1] * share0)
                x.out[(queries + n0) * u32(D) + d] = u16(both & u32(0xFFFF))
                x.out[(queries + n0) * u32(D) + d + u32(1)] = u16(both >> u32(16))
            if n1 < u32(x.N):
                both = pack(acc[i * 4 + 2] * share1, acc[i * 4 + 3] * share1)
                x.out[(queries + n1) * u32(D) + d] = u16(both & u32(0xFFFF))
                x.out[(queries + n1) * u32(D) + d + u32(1)] = u16(both >> u32(16))
        if two_t == u32(0):
            if n0 < u32(x.N):
                x.lse[queries + n0] = top0 * factor * LN2 + math.log(total0) if total0 != f32(0) else f32(-math.inf)
            if n1 < u32(x.N):
                x.lse[queries + n1] = top1 * factor * LN2 + math.log(total1) if total1 != f32(0) else f32(-math.inf)

    return tensor
