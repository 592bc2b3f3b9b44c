"""The backward pass on the CPU: five products a tile, P made again from the scores and the log-sum-exp, no atomics.

Dao 2023, arXiv:2307.08691, Algorithm 2. A block is PANELS panels of queries of one head, a tile KEYS keys. With queries in
the lanes, as in forward.py, every product finds both operands as they lie:

    S^T  = K Q^T        (KEYS, queries)       dV += P^T dO          (KEYS, Dv)
    dP^T = V dO^T       (KEYS, queries)       dK += dS^T Q          (KEYS, D)
    P^T  = exp(S^T - lse)                     dQ^T += K^T dS^T      (D, queries)
    dS^T = P^T (dP^T - delta),                delta = rowsum(dO * O)

Every number of the result has one owner, who adds up its shares in one order, so the bits do not depend on threads:
where there are many KV heads, a task owns one of them with all its queries (one pass, five products). Where there are few,
a task owns the dQ of a block, or the dK and dV of a stretch of tiles (two passes, 3 + 4 products). The shapes decide.

Sizes: D and Dv are multiples of PANEL here, and dk and dv have whole tiles of rows.
"""
import numpy as np
from numba import carray, njit, prange

from .options import EMPTY, LN2, LOG2E, change_scores, kind_of, slopes
from .simd import LANES, at, exp2, fma, lanes_sum, load, mul, plus, splat, store, sub, where
from .threads import take
from .tiles import KEYS, PANEL, ROWS, load_rows, product, product_more, transpose_tile

PANELS = 4
BLOCK = PANELS * PANEL
STRETCH = 4                                                  # tiles of keys that a task owns where there are few KV heads


def workspace(D, Dv):
    """Numbers that one thread needs; see the addresses in `backward_block`."""
    return BLOCK * (3 * D + 2 * Dv + 2) + 3 * KEYS * BLOCK + KEYS * (D + Dv)


@njit
def add_product(c, c_row, rows, columns, a, a_row, a_step, b, b_row, depth):
    """C (rows, columns) += A B, a register tile at a time."""
    for column in range(0, columns, PANEL):
        for row in range(0, rows, ROWS):
            here, from_a, from_b = plus(c, row * c_row + column), plus(a, row * a_row), plus(b, column)
            product_more(here, c_row, from_a, a_row, a_step, from_b, b_row, depth, c)


@njit
def across(c, a, b, D):
    """C (KEYS, PANEL), rows BLOCK apart, = A (KEYS, D) B (D, PANEL): scores, or dP."""
    for row in range(0, KEYS, ROWS):
        product(plus(c, row * BLOCK), BLOCK, plus(a, row * D), D, 1, b, PANEL, D, b)


@njit
def gradient_of_scores(st, dp, slope, sloped, lse, delta):
    """S^T becomes P^T, and dP^T becomes dS^T: one panel, rows BLOCK apart."""
    for lane in range(0, PANEL, LANES):
        of_row, d = load(lse, lane), load(delta, lane)
        for n in range(lane, KEYS * BLOCK, BLOCK):
            p = exp2(sub(load(st, n), of_row))
            ds = mul(p, sub(load(dp, n), d))
            store(st, n, p)
            store(dp, n, where(p, mul(ds, load(slope, n))) if sloped else ds)      # a hidden pair's slope may be NaN


@njit
def prepare_block(p_rows, p_turned, source, b, h, first, count, scale, brain):
    """Queries first .. first + count as rows, and turned, panel by panel."""
    D = source.shape[3]
    load_rows(p_rows, source, b, h, first, count, BLOCK, scale, brain)
    for panel in range(PANELS):
        transpose_tile(plus(p_turned, panel * PANEL * D), plus(p_rows, panel * PANEL * D), PANEL, D)


@njit
def backward_block(work, q, k, v, dout, out, lse, dq, dk, dv, scale, brain, o, b, h, block, start, stop, for_q, for_kv):
    """The shares of one block of queries and the tiles start .. stop: added to dk and dv, and all of dq."""
    (H, N, D), (G, S, Dv) = q.shape[1:], v.shape[1:]
    g, b_k, b_v = h // (H // G), b % k.shape[0], b % v.shape[0]
    p_q = work
    p_qt = plus(p_q, BLOCK * D)
    p_dqt = plus(p_qt, BLOCK * D)
    p_do = plus(p_dqt, BLOCK * D)
    p_dot = plus(p_do, BLOCK * Dv)
    p_lse = plus(p_dot, BLOCK * Dv)
    p_delta = plus(p_lse, BLOCK)
    p_st = plus(p_delta, BLOCK)
    p_dp = plus(p_st, KEYS * BLOCK)
    p_slope = plus(p_dp, KEYS * BLOCK)
    p_k = plus(p_slope, KEYS * BLOCK)
    p_v = plus(p_k, KEYS * D)

    first = block * BLOCK
    count, panels = min(BLOCK, N - first), min(PANELS, -(-(N - first) // PANEL))
    prepare_block(p_q, p_qt, q, b, h, first, count, scale * LOG2E, brain)
    prepare_block(p_do, p_dot, dout, b, h, first, count, np.float32(1), brain)
    of_row, delta = carray(p_lse, BLOCK), carray(p_delta, BLOCK)
    of_row[:], delta[:] = np.inf, 0                              # P is 0 in lanes without a query, and for one that sees nothing
    for n in range(count):
        if lse[b, h, first + n] != -np.inf:
            of_row[n] = LOG2E * lse[b, h, first + n]
        total, p_out = splat(np.float32(0)), at(out, b, h, first + n)
        for d in range(0, Dv, LANES):
            total = fma(load(p_do, n * Dv + d), load(p_out, d), total)
        delta[n] = LN2 * lanes_sum(total)
    for n in range(0, BLOCK * Dv, LANES):
        store(p_dot, n, mul(load(p_dot, n), splat(LN2)))    # dS comes out times log 2, as Q went in times log2(e)
    carray(p_dqt, BLOCK * D)[:] = 0
    sloped = o.softcap > 0 or o.score_mod != 0
    carray(p_slope, KEYS * BLOCK)[:] = 0                    # where there is no query or no key

    for tile in range(start, stop):
        low, high = panels, 0                               # the panels that see any of the tile
        for panel in range(panels):
            if kind_of(o, b, h, block * PANELS + panel, tile) != EMPTY:
                low, high = min(low, panel), panel + 1
        if low >= high:
            continue
        keys = min(KEYS, S - tile * KEYS)
        load_rows(p_k, k, b_k, g, tile * KEYS, keys, KEYS, np.float32(1), brain)
        load_rows(p_v, v, b_v, g, tile * KEYS, keys, KEYS, np.float32(1), brain)
        for panel in range(low, high):
            st, dp, slope = plus(p_st, panel * PANEL), plus(p_dp, panel * PANEL), plus(p_slope, panel * PANEL)
            across(st, p_k, plus(p_qt, panel * PANEL * D), D)
            across(dp, p_v, plus(p_dot, panel * PANEL * Dv), Dv)
            if sloped:
                slopes(slope, st, BLOCK, o, b, h, block * PANELS + panel, tile)
            change_scores(st, BLOCK, o, b, h, block * PANELS + panel, tile)
            gradient_of_scores(st, dp, slope, sloped, plus(p_lse, panel * PANEL), plus(p_delta, panel * PANEL))
            if for_q:
                add_product(plus(p_dqt, panel * PANEL * D), PANEL, D, PANEL, p_k, 1, D, dp, BLOCK, KEYS)
        if for_kv:
            depth, skip = (high - low) * PANEL, low * PANEL
            add_product(at(dv, b, g, tile * KEYS), Dv, KEYS, Dv, plus(p_st, skip), BLOCK, 1, plus(p_do, skip * Dv), Dv, depth)
            add_product(at(dk, b, g, tile * KEYS), D, KEYS, D, plus(p_dp, skip), BLOCK, 1, plus(p_q, skip * D), D, depth)

    if for_q:
        for panel in range(panels):
            transpose_tile(plus(p_q, panel * PANEL * D), plus(p_dqt, panel * PANEL * D), D, PANEL)
        for n in range(count):
            p_dq = at(dq, b, h, first + n)
            for d in range(0, D, LANES):
                store(p_dq, d, mul(load(p_q, n * D + d), splat(scale * LOG2E)))


@njit
def clear(p, count):
    """0 to `count` numbers from p on. A function of its own: within prange, Numba would make one more parallel loop of it."""
    carray(p, count)[:] = 0


@njit
def finite(p, count):
    """Whether `count` numbers from p on are neither NaN nor inf: x * 0 is 0 for those alone."""
    nothing = splat(np.float32(0))
    total = nothing
    for n in range(0, count, LANES):
        total = fma(load(p, n), nothing, total)
    return lanes_sum(total) == 0


def backward(threads, counter, work, q, k, v, dout, out, lse, dq, dk, dv, scale, brain, owners, wild, o):
    """dq (B, H, N, D), dk (B, G, S, D), dv (B, G, S, Dv) of all tasks; wild[0] becomes 1 where they are not finite."""
    D, Dv = dk.shape[3], dv.shape[3]
    for thread in prange(threads):
        (B, H, N), G, S = lse.shape, k.shape[1], k.shape[2]
        blocks, tiles = -(-N // BLOCK), -(-S // KEYS)
        stretches = -(-tiles // STRETCH)
        while True:
            # what a task owns: a KV head and all its queries, or the dq of one block, or the dk and dv of a stretch of tiles
            task, for_q, for_kv = take(counter), True, True
            start, stop, first, last = 0, tiles, 0, blocks
            if not owners and task < B * H * blocks:
                for_kv, first = False, blocks - 1 - task // (B * H)
                last = first + 1
                b, h_first, h_last = task % (B * H) // H, task % H, task % H + 1
            else:
                task -= 0 if owners else B * H * blocks
                if task >= B * G * (1 if owners else stretches):
                    break
                b, g = task % (B * G) // G, task % G
                h_first, h_last = g * (H // G), (g + 1) * (H // G)
                if not owners:
                    for_q, start = False, task // (B * G) * STRETCH
                    stop = min(start + STRETCH, tiles)
            rows = (stop - start) * KEYS
            if for_kv:
                clear(at(dk, b, g, start * KEYS), rows * D)
                clear(at(dv, b, g, start * KEYS), rows * Dv)
            for h in range(h_first, h_last):
                for block in range(first, last):
                    backward_block(at(work, thread, 0, 0), q, k, v, dout, out, lse, dq, dk, dv, scale, brain, o,
                                   b, h, block, start, stop, for_q, for_kv)  # fmt: skip
                if for_q and not finite(at(dq, b, h, first * BLOCK), (min(last * BLOCK, N) - first * BLOCK) * D):
                    wild[0] = 1
            if for_kv and not (finite(at(dk, b, g, start * KEYS), rows * D) and finite(at(dv, b, g, start * KEYS), rows * Dv)):
                wild[0] = 1
