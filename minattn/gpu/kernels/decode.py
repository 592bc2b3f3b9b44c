"""Decoding: few queries before many keys, where reading the keys once is all the work there is.

Flash-Decoding (Dao et al. 2023): the keys are split over blocks of threads, since one query for each head leaves a GPU idle; each
split attends to its own keys, and a second kernel, join.py, joins what they found.

    rows     H // G * N queries: all heads of a group, so that each key and value is read once for the whole group
    splits   parts of the keys, whole tiles of block_k each
    held     (B, G, splits, rows, D) and held_lse (B, G, splits, rows): what each split found
    pages    key n of row b stands in page table[b, n // P] of k (pages, G, P, D), at n % P (Kwon et al. 2023, arXiv:2309.06180)

    a thread holds 16 bytes of a key: `numbers` of its dims, 4 or, of 16 bits, 8; of each row's query the same dims
    team     the threads that share a key: their parts of q . k are summed by shuffles, and then each of them has the score
    turn     `steps` keys of every team of a warp, all asked for before the first of them is needed

Each team walks through its own keys with its own running maximum, so there is no barrier before all keys are read; teams are
joined at the end. A warp has up to 4 rows; of more, warps beside each other read the same keys at almost the same time.
Addresses are worked out once a turn, in 32 bits but for the last step.
"""
import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ...core.blocks import EMPTY, FULL
from .. import instructions
from ..ledger import WARP
from ..problem import DIMS, Launch, cuda
from .join import make_join
from .parts import FLOOR, LOW

f32, u32, u64 = np.float32, np.uint32, np.uint64
WARPS, MOST_ROWS = 4, 4                                               # of a block; rows of a warp
SIZES = (4, 4), (8, 2)                                                # numbers in 16 bytes, steps of a turn: float32, 16 bits
TILES = dict.fromkeys(DIMS, (64, 32))                                 # queries and keys of a tile on a GPU, for every D


class Found(NamedTuple):
    """What the kernels get as their argument `y`: room for what the splits find, and where keys stand."""

    held: Any
    held_lse: Any
    table: Any                        # (B, pages of a row), int32, and lengths (B,); both empty for a cache in one piece
    lengths: Any
    splits: int
    row_pages: int


def launches(problem, splits=None, warps=WARPS):
    """Two launches: the splits, and what joins them. Fewer warps in a block are for a simulated GPU."""
    nothing = problem.place.empty(0, np.int32)
    return made(problem, splits, nothing, nothing, 0, 0, warps)


def launches_paged(problem, k, v, table, lengths, splits=None):
    """The same for keys and values in pages, which are read where they lie.

    Parameters
    ----------
    problem : Problem
        Of the queries; S is the longest row's keys. Its own k and v are not read.
    k, v : arrays, (pages, G, P, D)
        Of the problem's kind and place, in one piece, with its D.
    table : int32 array, (B, pages of a row)
    lengths : int32 array, (B,)
        Keys of each row; what stands behind them is neither seen nor read.
    """
    given = problem.given._replace(k=k.reshape(-1), v=v.reshape(-1))
    return made(problem._replace(given=given), splits, table.reshape(-1), lengths, k.shape[2], table.shape[1])


def made(problem, splits, table, lengths, page, row_pages, warps=WARPS):
    x, B, place = problem.given, problem.B, problem.place
    rows, tiles = x.H // x.G * x.N, -(-x.S // problem.block_k)
    splits = max(1, min(tiles, -(-4 * 132 // (B * x.G)))) if splits is None else splits               # four blocks a processor
    held, held_lse = (place.empty(B * x.G * splits * rows * size, np.float32) for size in (problem.D, 1))
    decode = make_decode(**problem.options, rows=rows, page=page, kind=problem.kind, warps=warps)
    y = Found(held, held_lse, table, lengths, splits, row_pages)
    parts = -(-rows // (MOST_ROWS * warps))
    return [
        Launch(decode, (splits, x.G * parts, B), (WARP * warps,), (x, y), 4),
        Launch(make_join(problem.D, rows, problem.kind), (rows, x.G, B), (problem.D,), (x, y)),
    ]


def products(rows, kind="f32"):
    """How many multiplications a thread makes for either product of a turn."""
    return math.prod(SIZES[kind != "f32"]) * min(MOST_ROWS, rows)


@functools.cache
def make_decode(D, block_q, block_k, biased, capped, rows, page=0, kind="f32", warps=WARPS):
    """The kernel, for `rows` queries in a group, and pages of `page` keys, or 0 for keys in one piece."""
    numbers, steps = SIZES[kind != "f32"]
    team = D // numbers                                               # threads; D is at least 2 * numbers
    teams, halves = WARP // team, int(math.log2(team))
    row_warps = min(warps, 2 ** math.ceil(math.log2(-(-rows // MOST_ROWS))))   # warps that read the same keys
    mine = min(MOST_ROWS, -(-rows // row_warps))                      # rows of a warp
    key_warps, turn = warps // row_warps, steps * teams
    q_size, k_size, s_size, box_size, tops_size = mine * numbers, steps * numbers, steps * mine, warps * mine * D, warps * mine
    load = instructions.load_4_floats if kind == "f32" else instructions.load_16_bytes
    wide = kind == "f32"
    unpack = None if wide else instructions.unpack(kind)

    def fetch(source, there, to, at):
        """16 bytes as float32 to the local array to[at:]."""
        if wide:
            to[at], to[at + 1], to[at + 2], to[at + 3] = load(source, there)
        else:
            a, b, c, d = load(source, there)
            to[at], to[at + 1] = unpack(a)
            to[at + 2], to[at + 3] = unpack(b)
            to[at + 4], to[at + 5] = unpack(c)
            to[at + 6], to[at + 7] = unpack(d)

    def place_of(x, y, b, g, key):
        """Number of a key's row in k and v."""
        if page:
            return (u32(y.table[b * u32(y.row_pages) + key // u32(page)]) * u32(x.G) + g) * u32(page) + key % u32(page)
        return (b * u32(x.G) + g) * u32(x.S) + key

    def head_of(x, g, row):
        return g * (u32(x.H) // u32(x.G)) + row // u32(x.N)

    def kinds(x, b, g, first, column, columns):
        """(whether a row of this warp sees something of a column of tiles, whether all see all of it)."""
        some, all_of = False, True
        alike = x.kind_h == 0 and x.N <= block_q                      # rows that have one tile in common
        for r in range(mine):
            if r == 0 or not alike:
                row = min(first + u32(r), u32(rows - 1))
                at = b * u32(x.kind_b) + head_of(x, g, row) * u32(x.kind_h) + row % u32(x.N) // u32(block_q) * columns + column
                some = some or x.kind[at] != EMPTY
                all_of = all_of and x.kind[at] == FULL
        return some, all_of

    def sees(x, b, g, row, key, columns):
        h, n = head_of(x, g, row), row % u32(x.N)
        at = b * u32(x.kind_b) + h * u32(x.kind_h) + n // u32(block_q) * columns + key // u32(block_k)
        if x.kind[at] == FULL or x.kind[at] == EMPTY:
            return x.kind[at] == FULL
        return x.partial[(u32(x.stored[at]) * u32(block_q) + n % u32(block_q)) * u32(block_k) + key % u32(block_k)] != 0

    def seen(x, b, g, first, key, stop, columns):
        """A bit for each of a turn's scores, in their order: a loop of so much is not unrolled, and what it indexes would leave
        the registers."""
        bits = u32(0)
        for u in range(steps):
            for r in range(mine):
                of = key + u32(u * teams)
                if of < stop and sees(x, b, g, min(first + u32(r), u32(rows - 1)), of, columns):
                    bits = u32(bits | u32(1) << u32(u * mine + r))
        return bits

    def take(x, y, q, k, v, s, acc, top, total, bias, b, g, first, from_key, stop, piece, columns, careful):
        """A turn: the keys from_key, from_key + teams, ... of this team. A careful one asks of each whether it is seen."""
        bits = seen(x, b, g, first, from_key, stop, columns) if careful else u32(0)
        for u in range(steps):
            key = from_key + u32(u * teams)
            if not careful or key < stop:
                there = u64(place_of(x, y, b, g, key)) * u64(D) + u64(piece)
                fetch(x.k, there, k, u * numbers)
                fetch(x.v, there, v, u * numbers)
            else:
                for e in range(numbers):
                    k[u * numbers + e] = f32(0)
                    v[u * numbers + e] = f32(0)
        for u in range(steps):
            for r in range(mine):
                score = f32(0)
                for e in range(numbers):
                    score += q[r * numbers + e] * k[u * numbers + e]
                for i in range(halves):
                    score += cuda.shfl_xor_sync(0xFFFFFFFF, score, team >> (i + 1))
                s[u * mine + r] = score * x.scale
        for r in range(mine):
            best = top[r]
            for u in range(steps):
                key, score = from_key + u32(u * teams), s[u * mine + r]
                if capped:
                    score = x.softcap * math.tanh(score / x.softcap)
                if biased:
                    score += x.bias[bias[r] + min(key, stop - u32(1)) * u32(x.bias_s)]
                if careful and bits >> u32(u * mine + r) & u32(1) == u32(0):
                    score = LOW
                s[u * mine + r] = score
                best = max(best, score)
            fade = math.exp(top[r] - best)
            top[r] = best
            total[r] *= fade
            for e in range(numbers):
                acc[r * numbers + e] *= fade
            for u in range(steps):
                p = math.exp(s[u * mine + r] - best)                  # 0 for LOW, which is far below any best
                total[r] += p
                if not careful or s[u * mine + r] != LOW:             # a hidden value adds nothing, whatever it is
                    for e in range(numbers):
                        acc[r * numbers + e] += p * v[u * numbers + e]

    def decode(x, y):
        t, split, b = u32(cuda.threadIdx.x), u32(cuda.blockIdx.x), u32(cuda.blockIdx.z)
        g, part = u32(u32(cuda.blockIdx.y) % u32(x.G)), u32(u32(cuda.blockIdx.y) // u32(x.G))
        lane, warp = u32(t % u32(WARP)), u32(t // u32(WARP))
        piece, own = u32(lane % u32(team) * u32(numbers)), u32(lane // u32(team))      # this thread's first dim, and its team
        first = u32((part * u32(row_warps) + warp % u32(row_warps)) * u32(mine))       # this warp's first row
        box = cuda.shared.array(box_size, f32, alignment=16)
        tops = cuda.shared.array(tops_size, f32)
        totals = cuda.shared.array(tops_size, f32)
        q = cuda.local.array(q_size, f32)
        k = cuda.local.array(k_size, f32)
        v = cuda.local.array(k_size, f32)
        s = cuda.local.array(s_size, f32)
        acc = cuda.local.array(q_size, f32)
        top = cuda.local.array(mine, f32)
        total = cuda.local.array(mine, f32)
        bias = cuda.local.array(mine, u32)                            # where each row's begins
        queries = (b * u32(x.H) + g * (u32(x.H) // u32(x.G))) * u32(x.N)       # number of the group's first query
        for r in range(mine):
            row = min(first + u32(r), u32(rows - 1))
            fetch(x.q, u64(queries + row) * u64(D) + u64(piece), q, r * numbers)
            bias[r] = u32(b * u32(x.bias_b) + head_of(x, g, row) * u32(x.bias_h) + row % u32(x.N) * u32(x.bias_n))
            top[r] = FLOOR
            total[r] = f32(0)
            for e in range(numbers):
                acc[r * numbers + e] = f32(0)
        length = u32(y.lengths[b]) if page else u32(x.S)
        columns = u32((u32(x.S) + u32(block_k - 1)) // u32(block_k))
        each = u32((columns + u32(y.splits) - u32(1)) // u32(y.splits))
        column = u32(split * each + warp // u32(row_warps))
        last = u32(min(columns, split * each + each))
        while column < last:
            some, all_of = kinds(x, b, g, first, column, columns)
            key = u32(column * u32(block_k))
            stop = u32(min(key + u32(block_k), length)) if some else key
            while key < stop:
                if all_of and key + u32(turn) <= stop:
                    take(x, y, q, k, v, s, acc, top, total, bias, b, g, first, u32(key + own), stop, piece, columns, False)
                else:
                    take(x, y, q, k, v, s, acc, top, total, bias, b, g, first, u32(key + own), stop, piece, columns, True)
                key = u32(key + u32(turn))
            column = u32(column + u32(key_warps))
        for r in range(mine):                                         # the teams of a warp
            best = top[r]
            step = team
            while step < WARP:
                best = max(best, cuda.shfl_xor_sync(0xFFFFFFFF, best, step))
                step *= 2
            fade = math.exp(top[r] - best)
            step = team
            total[r] *= fade
            while step < WARP:
                total[r] += cuda.shfl_xor_sync(0xFFFFFFFF, total[r], step)
                step *= 2
            for e in range(numbers):
                one = acc[r * numbers + e] * fade
                step = team
                while step < WARP:
                    one += cuda.shfl_xor_sync(0xFFFFFFFF, one, step)
                    step *= 2
                if own == u32(0):
                    box[(warp * u32(mine) + u32(r)) * u32(D) + piece + u32(e)] = one
            if lane == u32(0):
                tops[warp * u32(mine) + u32(r)] = best
                totals[warp * u32(mine) + u32(r)] = total[r]
        cuda.syncthreads()
        place = t                                                     # the warps that have the same rows
        while place < u32(row_warps * mine * D):
            row_warp, r, d = place // u32(mine * D), place // u32(D) % u32(mine), place % u32(D)
            row = (part * u32(row_warps) + row_warp) * u32(mine) + r
            best, sum_, out = FLOOR, f32(0), f32(0)
            for n in range(key_warps):
                best = max(best, tops[(u32(n * row_warps) + row_warp) * u32(mine) + r])
            for n in range(key_warps):
                at = (u32(n * row_warps) + row_warp) * u32(mine) + r
                share = math.exp(tops[at] - best)
                sum_ += share * totals[at]
                out += share * box[at * u32(D) + d]
            if row < u32(rows):
                to = ((b * u32(x.G) + g) * u32(y.splits) + split) * u32(rows) + row
                y.held[u64(to) * u64(D) + u64(d)] = out / sum_ if sum_ != f32(0) else f32(0)
                if d == u32(0):
                    y.held_lse[to] = best + math.log(sum_) if sum_ != f32(0) else LOW
            place += u32(WARP * warps)

    return decode
