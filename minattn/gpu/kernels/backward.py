"""The gradients in register tiles: dK and dV over the tiles of queries, dQ over the tiles of keys, each with one owner.

FlashAttention-2's backward (Dao 2023, arXiv:2307.08691, Algorithm 2), in three launches and without atomics, so that the same
input gives the same bits:

    delta    rowsum(dO * O), (B, H, N), a warp a row
    dK, dV   a block of threads owns a tile of keys of one KV head, and meets all tiles of queries of all heads of its group
    dQ       a block of threads owns a tile of queries, and meets all tiles of keys

    S = scale Q K^T, then softcap and bias     P = exp(S - lse)     dP = dO V^T     dS = P * (dP - delta), the gradient of bias
    dV = P^T dO                                with softcap, dS times 1 - tanh^2 before    dK = scale dS^T Q,  dQ = scale dS K

Sink logits are in lse already. A block's rows and their products are those of tile.py, and its 48 KB of shared memory hold
the owned rows (first of one factor, then of the other, at last P or dS turned around) and one or two tiles of met rows.

Rows that see nothing have lse = -inf, and rows beyond the last have none: for those FLOOR, before which the exp of a hidden
score is 0, and -FLOOR, before which every exp is 0.
"""
import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ...core.blocks import EMPTY, FULL
from ..problem import Launch, cuda
from .parts import FLOOR, LOW
from .tile import CHUNK, COLUMNS, ROWS, VECTOR, make_tile

f32, u32, u64 = np.float32, np.uint32, np.uint64
WARPS = 4                                                             # of a block that computes delta


class Gradients(NamedTuple):
    """What the backward kernels get as their argument `y`: dO, and where the gradients go, laid out as in `Given`."""

    dout: Any
    delta: Any
    dq: Any
    dk: Any
    dv: Any
    dbias: Any                        # (B, H, N, S) whatever axes the bias has, zeros: hidden tiles are not written; or empty


def launches(problem, dout, wants_dbias=False, chunk=CHUNK):
    """(three launches, the `Gradients` that they fill) of a problem whose out and lse are there; dout (B, H, N, D) is flat.

    The owner of a number of dbias is one pair of query and key: a bias that is broadcast has its gradient summed by the caller.
    """
    x, B, place = problem.given, problem.B, problem.place
    dbias = place.zeros(B * x.H * x.N * x.S if wants_dbias else 0, np.float32)
    y = Gradients(dout, *(place.empty(a.size, np.float32) for a in (x.lse, x.q, x.k, x.v)), dbias)
    delta, keys, queries = make_backward(**problem.options, wants_dbias=wants_dbias, chunk=chunk)
    threads, columns = problem.block_q // ROWS * (problem.block_k // ROWS), -(-x.S // problem.block_k)
    resident = 2 if problem.D <= 64 else 1                            # longer heads need more registers than half of them
    return [
        Launch(delta, (-(-x.N // WARPS), x.H, B), (32, WARPS), (x, y)),
        Launch(keys, (columns, x.G, B), (threads,), (x, y), resident),
        Launch(queries, (problem.row_tiles, x.H, B), (threads,), (x, y), resident),
    ], y


@functools.cache
def make_backward(D, block_q, block_k, biased, capped, wants_dbias=False, chunk=CHUNK):
    """The three kernels, for tiles as `make_tile` wants them."""

    def delta(x, y):
        lane, n = u32(cuda.threadIdx.x), u32(cuda.blockIdx.x) * u32(WARPS) + u32(cuda.threadIdx.y)
        row = (u32(cuda.blockIdx.z) * u32(x.H) + u32(cuda.blockIdx.y)) * u32(x.N) + n
        if n < u32(x.N):                                              # the same for all lanes of a warp
            total = f32(0)
            for i in range(-(-D // 32)):
                d = lane + u32(32 * i)
                if d < u32(D):
                    out = x.out[u64(row) * u64(D) + u64(d)]
                    if out != f32(0):                                 # a row that sees nothing, whatever is in dO
                        total += out * y.dout[u64(row) * u64(D) + u64(d)]
            for i in range(5):
                total += cuda.shfl_xor_sync(0xFFFFFFFF, total, 16 >> i)
            if lane == u32(0):
                y.delta[row] = total

    def pair(x, s, dp, lse, delta, place, hidden):
        """(P, dS before the softcap, dS after it) of a dot product, whose bias is at `place`."""
        s *= x.scale
        slope = f32(1)
        if capped:
            bent = math.tanh(s / x.softcap)
            slope -= bent * bent
            s = x.softcap * bent
        if biased:
            s += x.bias[place]
        if hidden:
            s = LOW
        p = math.exp(s - lse)
        ds = p * (dp - delta)
        return (LOW, f32(0), LOW) if hidden else (p, ds, ds * slope)

    keys = make_keys(D, block_q, block_k, pair, biased, chunk)
    return delta, keys, make_queries(D, block_q, block_k, pair, biased, wants_dbias, chunk)


def make_keys(D, block_q, block_k, pair, biased, chunk):
    """dK and dV of a tile of keys."""
    tile = make_tile(D, block_k, block_q, chunk)
    across, chunks, acc_size = tile.across, tile.chunks, tile.acc_size
    fetch_met, products, write, collect, finish = tile.fetch_met, tile.products, tile.write, tile.collect, tile.finish
    queries_at, box_size = tile.own_size, tile.own_size + (2 if chunks == 1 else 1) * tile.met_size
    douts_at = queries_at + (tile.met_size if chunks == 1 else 0)     # beside the queries, or in their place
    s_size, a_size = ROWS * COLUMNS, ROWS * VECTOR

    def keys(x, y):
        t, column, g, b = u32(cuda.threadIdx.x), u32(cuda.blockIdx.x), u32(cuda.blockIdx.y), u32(cuda.blockIdx.z)
        tx, ty = t % u32(across), t // u32(across)
        box = cuda.shared.array(box_size, f32, alignment=16)
        dk = cuda.local.array(acc_size, f32)
        dv = cuda.local.array(acc_size, f32)
        s = cuda.local.array(s_size, f32)
        dp = cuda.local.array(s_size, f32)
        a = cuda.local.array(a_size, f32)
        c = cuda.local.array(a_size, f32)
        for i in range(acc_size):
            dk[i] = f32(0)
            dv[i] = f32(0)
        N, S, group = u32(x.N), u32(x.S), u32(x.H) // u32(x.G)
        columns = (S + u32(block_k - 1)) // u32(block_k)
        first_key, start = (b * u32(x.G) + g) * S, column * u32(block_k)
        h, last = u32(g * group), u32(g * group + group)
        while h < last:
            first = (b * u32(x.H) + h) * N
            place = b * u32(x.kind_b) + h * u32(x.kind_h) + column
            row = u32(0)
            while row < N:
                kind = x.kind[place]
                if kind != EMPTY:
                    products(x.k, x.q, box, queries_at, s, a, c, t, first_key, start, S, first, row, N)
                    products(x.v, y.dout, box, douts_at, dp, a, c, t, first_key, start, S, first, row, N)
                    stored = u32(max(x.stored[place], 0)) * u32(block_q * block_k)
                    for r in range(ROWS):
                        n = ty * u32(ROWS) + u32(r)
                        here = min(row + n, N - u32(1))
                        lse = max(x.lse[first + here], FLOOR) if row + n < N else -FLOOR
                        delta = y.delta[first + here]
                        for j in range(COLUMNS):
                            key, i = tx + u32(across * j), r * COLUMNS + j
                            there = u32(0)
                            if biased:
                                bias_key = min(start + key, S - u32(1)) * u32(x.bias_s)
                                there = b * u32(x.bias_b) + h * u32(x.bias_h) + here * u32(x.bias_n) + bias_key
                            hidden = kind != FULL and x.partial[stored + n * u32(block_k) + key] == 0
                            p, _, bent = pair(x, s[i], dp[i], lse, delta, there, hidden)
                            s[i] = p
                            dp[i] = bent
                    cuda.syncthreads()                                # the values have been read
                    write(box, s, t)
                    cuda.syncthreads()
                    collect(box, douts_at, dv, a, t, kind != FULL)
                    cuda.syncthreads()                                # P has been read, and dO
                    write(box, dp, t)
                    if chunks > 1:
                        fetch_met(x.q, box, queries_at, t, first, row, N, 0)
                    cuda.syncthreads()
                    collect(box, queries_at, dk, a, t, kind != FULL)
                place += columns
                row += u32(block_q)
            h += u32(1)
        finish(y.dk, dk, t, first_key, start, S, x.scale)
        finish(y.dv, dv, t, first_key, start, S, f32(1))

    return keys


def make_queries(D, block_q, block_k, pair, biased, wants_dbias, chunk):
    """dQ of a tile of queries, and dbias of its rows. The values come first, so that the keys are still there when dS is."""
    tile = make_tile(D, block_q, block_k, chunk)
    across, acc_size = tile.across, tile.acc_size
    products, write, collect, finish = tile.products, tile.write, tile.collect, tile.finish
    met_at, box_size, s_size, a_size = tile.own_size, tile.own_size + tile.met_size, ROWS * COLUMNS, ROWS * VECTOR

    def queries(x, y):
        t, row_tile, h, b = u32(cuda.threadIdx.x), u32(cuda.blockIdx.x), u32(cuda.blockIdx.y), u32(cuda.blockIdx.z)
        tx, ty = t % u32(across), t // u32(across)
        box = cuda.shared.array(box_size, f32, alignment=16)
        dq = cuda.local.array(acc_size, f32)
        s = cuda.local.array(s_size, f32)
        dp = cuda.local.array(s_size, f32)
        a = cuda.local.array(a_size, f32)
        c = cuda.local.array(a_size, f32)
        lse = cuda.local.array(COLUMNS, f32)
        delta = cuda.local.array(COLUMNS, f32)
        for i in range(acc_size):
            dq[i] = f32(0)
        N, S = u32(x.N), u32(x.S)
        columns = (S + u32(block_k - 1)) // u32(block_k)
        first, row = (b * u32(x.H) + h) * N, row_tile * u32(block_q)
        first_key = (b * u32(x.G) + h // (u32(x.H) // u32(x.G))) * S
        for j in range(COLUMNS):
            here = first + min(row + tx + u32(across * j), N - u32(1))
            lse[j] = max(x.lse[here], FLOOR)
            delta[j] = y.delta[here]
        own = u64(first + row + tx) * u64(S) + u64(ty * u32(ROWS))    # this thread's first number of dbias, before key 0
        place = b * u32(x.kind_b) + h * u32(x.kind_h) + row_tile * columns
        bias, start = u32(b * u32(x.bias_b) + h * u32(x.bias_h)), u32(0)
        while start < S:
            kind = x.kind[place]
            if kind != EMPTY:
                products(y.dout, x.v, box, met_at, dp, a, c, t, first, row, N, first_key, start, S)
                products(x.q, x.k, box, met_at, s, a, c, t, first, row, N, first_key, start, S)
                stored = u32(max(x.stored[place], 0)) * u32(block_q * block_k)
                for i in range(s_size):
                    n, key = tx + u32(i % COLUMNS * across), ty * u32(ROWS) + u32(i // COLUMNS)
                    there = u32(0)
                    if biased:
                        there = bias + min(row + n, N - u32(1)) * u32(x.bias_n) + min(start + key, S - u32(1)) * u32(x.bias_s)
                    hidden = kind != FULL and x.partial[stored + n * u32(block_k) + key] == 0
                    _, flat, s[i] = pair(x, s[i], dp[i], lse[i % COLUMNS], delta[i % COLUMNS], there, hidden)
                    if wants_dbias and row + n < N and start + key < S:
                        y.dbias[own + u64(i % COLUMNS * across) * u64(S) + u64(start + u32(i // COLUMNS))] = flat
                    if start + key >= S and not hidden:
                        s[i] = f32(0)
                cuda.syncthreads()                                    # the queries have been read
                write(box, s, t)
                cuda.syncthreads()
                collect(box, met_at, dq, a, t, kind != FULL)
            place += u32(1)
            start += u32(block_k)
        finish(y.dq, dq, t, first, row, N, x.scale)

    return queries
