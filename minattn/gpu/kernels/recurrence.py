"""The recurrence of the linear family: a tile of tokens at a time, a block of threads for some value columns of one state.

    S_t = diag(exp g_t) S_{t-1} + a_t u_t^T + k_t v_t^T,    u_t = b_t^T S_{t-1},    o_t = q_t S_t        linear/recurrence.py

    P   states          R  query heads that read one state     D  rows of a state       W  its columns in this block
    T   tokens a tile   j  token that writes                   i  token that reads

    state   (D, W)   stays in shared memory from the first token to the last
    row     (T, D)   what reads: first b, if there is erase, then each of the R queries; `faded` is row A(i, 0)
    scores  (T, T)   row_i . k_j A(i, j); of a_j in scores_a. For b, which reads before its own token, A(i-1, j)
    value   (T, W)   v_j;  erased (T, W): u_j

    u = faded state + scores value,   then one row after the other u_i += sum_{j < i} scores_a[i, j] u_j
    o = faded state + scores value + scores_a u
    state = A(T, 0) state + k^T value + a^T u                          k_j and a_j have meanwhile become k_j A(T, j)

A(i, j) is multiplied up step by step as a thread walks from token j to the end of the tile: never a quotient, exactly 1 at
age 0, exactly 0 behind a closed gate. Four threads share a j, each with a quarter of D. A(T, 0) comes from the sum of the log
decays, as two numbers: near 1 as 1 + expm1, since the state is multiplied by it again and again. A sum over j ends at i, so a
NaN in a value reaches no token before its own.

A thread has T / 4 x 4 results of a product and reads 16 bytes at a time. The normaliser, where there is one, is a column of
v; the caller divides by it. Yang et al. 2024, arXiv:2312.06635, section 4, and arXiv:2406.06484, section 3.
"""
import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ..problem import Launch, cuda
from .parts import LOW

f32, u32, u64 = np.float32, np.uint32, np.uint64
VECTOR = 4                                                            # numbers a load
TILES = {32: (16, 64), 64: (16, 64), 128: (8, 32)}                    # tokens and columns of a tile on a GPU, for every D
SHARE = 4                                                             # threads that share a dot product, or a column of results


class Tokens(NamedTuple):
    """What the kernel gets as its argument `x`, flat: k, a, b (P, N, D), q and out (P, R, N, ...), g (P, N, D or 1)."""

    q: Any
    k: Any
    v: Any                            # (P, N, Dv)
    g: Any                            # log decay, at most 0
    a: Any
    b: Any
    state: Any                        # (P, D, Dv), the first
    out: Any                          # (P, R, N, Dv)
    last: Any                         # (P, D, Dv), the last
    R: int
    N: int
    Dv: int


def launches(q, k, v, g, state, erase=None, columns=None, tokens=None):
    """(one launch, the `Tokens` that it fills) of arrays (P, R, N, D), (P, N, D), (P, N, Dv), (P, N, D or 1), (P, D, Dv).

    D is 32, 64 or 128 on a GPU. What shared memory holds limits the sizes of TILES.
    """
    P, R, N, D = q.shape
    tokens, columns = tokens or TILES[D][0], columns or TILES[D][1]
    none = np.zeros(0, np.float32)
    a, b = (none, none) if erase is None else erase
    given = [np.ascontiguousarray(array, np.float32).ravel() for array in (q, k, v, g, a, b, state)]
    Dv = v.shape[2]
    x = Tokens(*given, np.zeros(P * R * N * Dv, np.float32), np.zeros(state.size, np.float32), R, N, Dv)
    kernel = make_recurrence(D, columns, tokens, by_channel=g.shape[2] > 1, erases=erase is not None)
    return [Launch(kernel, (-(-Dv // columns), P, 1), (columns,), (x,))], x


@functools.cache
def make_recurrence(D, columns, tokens, by_channel, erases):
    """The kernel for blocks of `columns` threads, one a column, and tiles of `tokens` tokens. All are powers of two: D at least
    16, columns 8 at least and 4 * tokens at most."""
    threads, across, rows = columns, columns // VECTOR, tokens // SHARE
    part, width = D // SHARE, min(VECTOR, D // SHARE)                 # dims of a thread in a dot product; beside each other
    state_size, rows_size, values_size, scores_size = D * columns, tokens * D, tokens * columns, tokens * tokens
    a_size, erased_size, scores_a_size = (rows_size, values_size, scores_size) if erases else (1, 1, 1)
    acc_size = max(rows, VECTOR) * VECTOR

    def fetch_rows(source, box, t, first, left):
        """Tokens from `first`, of which `left` are real, to box (T, D); zeros, which neither read nor write, after the last."""
        for n in range(rows_size // threads):
            place, value = t + u32(n * threads), f32(0)
            if place < left * u32(D):
                value = source[u64(first) * u64(D) + u64(place)]
            box[place] = value

    def fetch_values(source, box, t, first, left, start, Dv):
        for n in range(tokens):                                       # a thread a column
            value = f32(0)
            if u32(n) < left and start + t < Dv:
                value = source[u64(first + u32(n)) * u64(Dv) + u64(start + t)]
            box[u32(n * columns) + t] = value

    def log_decay(x, first, n, d):
        return max(x.g[u64(first + n) * u64(D) + u64(d)] if by_channel else x.g[first + n], LOW)

    def fetch_steps(x, steps, keep, more, t, first, left):
        """exp g of each token, (T, D), and A(T, 0) = keep + more."""
        d = t
        while d < u32(D):
            total = f32(0)
            for n in range(tokens):
                step = f32(1)
                if u32(n) < left:
                    g = log_decay(x, first, u32(n), d)
                    total += g
                    step = math.exp(g)
                steps[u32(n * D) + d] = step
            near = total > f32(-0.5)
            keep[d] = f32(1) if near else math.exp(total)
            more[d] = math.expm1(total) if near else f32(0)
            d += u32(threads)

    def walk(row, write, steps, scores, mine, t, before, carry):
        """scores (T, T) = row_i . write_j A(i, j), or A(i-1, j) for `before`; with `carry`, write_j becomes write_j A(T, j)."""
        for n in range(tokens * SHARE // threads):
            item = t + u32(n * threads)
            j, share = item // u32(SHARE), item % u32(SHARE) * u32(width)
            for c in range(part):
                mine[c] = f32(0)
            for i in range(tokens):
                total = f32(0)
                for c in range(part):
                    place = u32(i * D) + u32(c // width * width * SHARE + c % width) + share
                    if before:
                        total += row[place] * mine[c]
                    mine[c] *= steps[place]
                    if u32(i) == j:
                        mine[c] = write[place]
                    if not before:
                        total += row[place] * mine[c]
                total += cuda.shfl_xor_sync(0xFFFFFFFF, total, 1)
                total += cuda.shfl_xor_sync(0xFFFFFFFF, total, 2)
                if share == u32(0):
                    scores[u32(i * tokens) + j] = total
            if carry:                                                 # each number is read and written by one thread
                for c in range(part):
                    write[j * u32(D) + u32(c // width * width * SHARE + c % width) + share] = mine[c]

    def fade(row, faded, steps, t, before):
        """faded = row A(i, 0), or A(i-1, 0): a thread a channel."""
        d = t
        while d < u32(D):
            since = f32(1)
            for i in range(tokens):
                place = u32(i * D) + d
                if before:
                    faded[place] = row[place] * since
                since *= steps[place]
                if not before:
                    faded[place] = row[place] * since
            d += u32(threads)

    def from_state(acc, a, faded, state, i, column):
        """acc (T / 4, 4) = faded state"""
        for n in range(acc_size):
            acc[n] = f32(0)
        for d in range(0, D, VECTOR):
            for r in range(rows):
                for e in range(VECTOR):
                    a[r * VECTOR + e] = faded[(i + u32(r)) * u32(D) + u32(d) + u32(e)]
            for e in range(VECTOR):
                for c in range(VECTOR):
                    value = state[(u32(d) + u32(e)) * u32(columns) + column + u32(c)]
                    for r in range(rows):
                        acc[r * VECTOR + c] += a[r * VECTOR + e] * value

    def from_tile(acc, a, scores, value, i, column, inclusive):
        """acc += scores value, over the j < i, or j <= i"""
        j = u32(0)
        while j < i + u32(rows):
            for c in range(VECTOR):
                a[c] = value[j * u32(columns) + column + u32(c)]
            for r in range(rows):
                if j < i + u32(r) + u32(inclusive):
                    score = scores[(i + u32(r)) * u32(tokens) + j]
                    for c in range(VECTOR):
                        acc[r * VECTOR + c] += score * a[c]
            j += u32(1)

    def solve(erased, scores_a, t):
        """u_i += sum over j < i of scores_a[i, j] u_j, a thread a column."""
        for i in range(1, tokens):
            total = erased[u32(i * columns) + t]
            for j in range(i):
                total += scores_a[i * tokens + j] * erased[u32(j * columns) + t]
            erased[u32(i * columns) + t] = total

    def to_state(acc, write, value, d, column, left):
        """acc (4, 4) += write^T value"""
        j = u32(0)
        while j < left:
            for r in range(VECTOR):
                weight = write[j * u32(D) + d + u32(r)]
                for c in range(VECTOR):
                    acc[r * VECTOR + c] += weight * value[j * u32(columns) + column + u32(c)]
            j += u32(1)

    def recurrence(x):
        t, start, p = u32(cuda.threadIdx.x), u32(cuda.blockIdx.x) * u32(columns), u32(cuda.blockIdx.y)
        column, ty = t % u32(across) * u32(VECTOR), t // u32(across)
        i = ty * u32(rows)                                            # this thread's first token, and its first column
        state = cuda.shared.array(state_size, f32, alignment=16)
        k = cuda.shared.array(rows_size, f32, alignment=16)
        a = cuda.shared.array(a_size, f32, alignment=16)
        row = cuda.shared.array(rows_size, f32, alignment=16)
        faded = cuda.shared.array(rows_size, f32, alignment=16)
        steps = cuda.shared.array(rows_size, f32, alignment=16)
        value = cuda.shared.array(values_size, f32, alignment=16)
        erased = cuda.shared.array(erased_size, f32, alignment=16)
        scores = cuda.shared.array(scores_size, f32, alignment=16)
        scores_a = cuda.shared.array(scores_a_size, f32, alignment=16)
        keep = cuda.shared.array(D, f32, alignment=16)
        more = cuda.shared.array(D, f32, alignment=16)
        acc = cuda.local.array(acc_size, f32)
        some = cuda.local.array(acc_size, f32)
        mine = cuda.local.array(part, f32)
        N, Dv, R = u32(x.N), u32(x.Dv), u32(x.R)
        for d in range(D):
            number = f32(0)
            if start + t < Dv:
                number = x.state[u64(p * u32(D) + u32(d)) * u64(Dv) + u64(start + t)]
            state[u32(d * columns) + t] = number
        n = u32(0)
        while n < N:
            first, left = p * N + n, min(u32(tokens), N - n)
            cuda.syncthreads()                                        # everyone is done with the tile before
            fetch_rows(x.k, k, t, first, left)
            fetch_steps(x, steps, keep, more, t, first, left)
            fetch_values(x.v, value, t, first, left, start, Dv)
            if erases:
                fetch_rows(x.a, a, t, first, left)
                fetch_rows(x.b, row, t, first, left)
                cuda.syncthreads()
                walk(row, k, steps, scores, mine, t, True, False)
                walk(row, a, steps, scores_a, mine, t, True, False)
                fade(row, faded, steps, t, True)
                cuda.syncthreads()
                from_state(acc, some, faded, state, i, column)
                from_tile(acc, some, scores, value, i, column, 0)
                for r in range(rows):
                    for c in range(VECTOR):
                        erased[(i + u32(r)) * u32(columns) + column + u32(c)] = acc[r * VECTOR + c]
                cuda.syncthreads()
                solve(erased, scores_a, t)
            head = u32(0)
            while head < R:
                reader = (p * R + head) * N + n
                fetch_rows(x.q, row, t, reader, left)                 # the one before was read before the last barrier
                cuda.syncthreads()
                walk(row, k, steps, scores, mine, t, False, head == R - u32(1))
                if erases:
                    walk(row, a, steps, scores_a, mine, t, False, head == R - u32(1))
                fade(row, faded, steps, t, False)
                cuda.syncthreads()
                from_state(acc, some, faded, state, i, column)
                from_tile(acc, some, scores, value, i, column, 1)
                if erases:
                    from_tile(acc, some, scores_a, erased, i, column, 1)
                for r in range(rows):
                    for c in range(VECTOR):
                        if i + u32(r) < left and start + column + u32(c) < Dv:
                            x.out[u64(reader + i + u32(r)) * u64(Dv) + u64(start + column + u32(c))] = acc[r * VECTOR + c]
                head += u32(1)
            cuda.syncthreads()                                        # everyone has read the state
            for m in range(D // (SHARE * VECTOR)):
                d = (u32(m * SHARE) + ty) * u32(VECTOR)
                for c in range(VECTOR * VECTOR):
                    acc[c] = f32(0)
                to_state(acc, k, value, d, column, left)
                if erases:
                    to_state(acc, a, erased, d, column, left)
                for r in range(VECTOR):
                    for c in range(VECTOR):
                        place = (d + u32(r)) * u32(columns) + column + u32(c)
                        old = state[place]
                        state[place] = keep[d + u32(r)] * old + (more[d + u32(r)] * old + acc[r * VECTOR + c])
            n += u32(tokens)
        cuda.syncthreads()
        for d in range(D):
            if start + t < Dv:
                x.last[u64(p * u32(D) + u32(d)) * u64(Dv) + u64(start + t)] = state[u32(d * columns) + t]

    return recurrence
