"""Steps on tiles that the kernels share: products of any size out of register tiles, packing, and what becomes of a score.

    W   queries of a tile, across the lanes           scores (keys, W): a key a row, a query a lane

Scores are kept transposed. Then a query's maximum and sum run over rows, not over lanes, keys and values are read as they
lie in memory, one number at a time, and only queries have to be packed.
"""
import math

import numpy as np
from numba import njit, prange

from .compile import kernel
from .simd import (
    LANES,
    PANEL,
    ROWS,
    above,
    add,
    after,
    at,
    choose,
    div,
    exp2,
    fma,
    hsum,
    load,
    maximum,
    mul,
    splat,
    store,
    sub,
    tile_fresh,
    tile_more,
)  # fmt: skip

BLOCK_Q = 64                                            # W: two panels with AVX-512, four with AVX2
BLOCK_K = 64
LOG2E = np.float32(math.log2(math.e))
LN2 = np.float32(math.log(2))
INF = np.float32(np.inf)
SLACK = np.float32(8)                                   # weights reach 2^8, sums of 2^20 keys 2^28: far from overflow
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)


@njit
def times(c, c_row, a, a_row, a_step, a_group, b, b_step, depth, groups, width, fresh):
    """C (groups * ROWS, width) (+)= A B, from pointers and strides; a group of ROWS rows of A begins every `a_group` numbers."""
    for r in range(groups):                             # a few rows of A stay near while all panels of B pass
        rows, here = after(c, r * ROWS * c_row), after(a, r * a_group)
        for p in range(0, width, PANEL):
            if fresh:
                tile_fresh(after(rows, p), c_row, here, a_row, a_step, after(b, p), b_step, depth)
            else:
                tile_more(after(rows, p), c_row, here, a_row, a_step, after(b, p), b_step, depth)


@kernel(parallel=True)
def pack_keys(k):
    """k (B, G, S, D) as (B, G, S / ROWS, D, ROWS): what one step of a product takes of a group of keys lies together."""
    B, G, S, D = k.shape
    groups = (S + ROWS - 1) // ROWS
    packed = np.zeros((B, G, groups, D, ROWS), np.float32)
    for task in prange(B * G * groups):
        b, g, group = task // (G * groups), task // groups % G, task % groups
        for r in range(min(ROWS, S - group * ROWS)):
            for d in range(D):
                packed[b, g, group, d, r] = k[b, g, group * ROWS + r, d]
    return packed


@kernel(parallel=True)
def pack_values(v):
    """v (B, G, S, Dv) as (B, G, S / BLOCK_K, Dv / ROWS, BLOCK_K, ROWS): the same for a product over keys."""
    B, G, S, Dv = v.shape
    tiles, groups = (S + BLOCK_K - 1) // BLOCK_K, (Dv + ROWS - 1) // ROWS
    packed = np.zeros((B, G, tiles, groups, BLOCK_K, ROWS), np.float32)
    for task in prange(B * G * tiles):
        b, g, tile = task // (G * tiles), task // tiles % G, task % tiles
        for s in range(min(BLOCK_K, S - tile * BLOCK_K)):
            for d in range(Dv):
                packed[b, g, tile, d // ROWS, s, d % ROWS] = v[b, g, tile * BLOCK_K + s, d]
    return packed


@njit
def pack(x, b, h, start, factor, packed):
    """Rows `start` .. of x (B, H, N, D) into packed (D, W), times `factor`; beyond N, zeros."""
    width = min(x.shape[2] - start, packed.shape[1])
    for d in range(x.shape[3]):
        for w in range(width):
            packed[d, w] = x[b, h, start + w, d] * factor
        for w in range(width, packed.shape[1]):
            packed[d, w] = ZERO


@njit
def cap(scores, size, softcap):
    """c tanh(s / c) of `size` rows, with tanh y = 1 - 2 / (1 + e^2y)."""
    one, two, out, into = splat(ONE), splat(TWO), splat(softcap), splat(TWO * LOG2E / softcap)
    for i in range(0, size * scores.shape[1], LANES):
        place = at(scores, i)
        store(place, mul(out, sub(one, div(two, add(one, exp2(mul(into, load(place))))))))


@njit
def times_all(scores, size, factor):
    """Multiply `size` rows by one number."""
    each = splat(factor)
    for i in range(0, size * scores.shape[1], LANES):
        store(at(scores, i), mul(each, load(at(scores, i))))


@njit
def add_bias(scores, size, bias, b, h, n_start, s_start):
    """Add the bias (B, H, N, S), in the base-2 scale of the scores."""
    width = min(bias.shape[2] - n_start, scores.shape[1])
    for s in range(size):
        for w in range(width):
            scores[s, w] += bias[b, h, n_start + w, s_start + s] * LOG2E


@njit
def hide(scores, size, seen):
    """-inf where a partial tile (block_k, block_q) is False."""
    for s in range(size):
        for w in range(scores.shape[1]):
            scores[s, w] = scores[s, w] if seen[s, w] else -INF


@njit
def soften(scores, size, top, total, fade):
    """One step of the online softmax: scores become weights under `top`, `fade` is what the sums so far shrink by.

    The top is raised only where a score exceeds it by more than SLACK: weights up to 2^SLACK are as good as weights up
    to 1, and most tiles then leave the sums alone. Returns whether any has to shrink.
    """
    width = scores.shape[1]
    slack, raised = splat(SLACK), splat(ZERO)
    for w in range(0, width, LANES):
        old = load(at(top, w))
        new = old
        for s in range(size):
            new = maximum(load(at(scores, s * width + w)), new)
        raise_ = above(new, add(old, slack))
        raised = add(raised, raise_)
        new = choose(raise_, new, old)
        store(at(top, w), new)
        for lane in range(w, w + LANES):                # a query that has seen nothing yet: exp2(-inf - 0) is 0
            fade[lane] = ZERO if top[lane] == -INF else top[lane]
        base = load(at(fade, w))
        sum_ = splat(ZERO)
        for s in range(size):
            p = exp2(sub(load(at(scores, s * width + w)), base))
            store(at(scores, s * width + w), p)
            sum_ = add(sum_, p)
        shrink = exp2(sub(old, base))
        store(at(fade, w), shrink)
        store(at(total, w), fma(load(at(total, w)), shrink, sum_))
    return hsum(raised) > 0


@njit
def shrink(acc, fade):
    """Each row of acc (Dv, W) times fade (W,)."""
    width = acc.shape[1]
    for w in range(0, width, LANES):
        factor = load(at(fade, w))
        for d in range(acc.shape[0]):
            store(at(acc, d * width + w), mul(load(at(acc, d * width + w)), factor))
