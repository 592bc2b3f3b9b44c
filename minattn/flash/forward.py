"""The forward kernel: FlashAttention-2 on the CPU, one block of queries after the other, all cores at once.

Dao 2023, arXiv:2307.08691, Algorithm 1. For every block of W queries: pack them; then for every block of keys that the
block map does not call empty

    scores  <- K Q^T                         (keys, W), in base 2: the scale holds log2(e)
    top, total, fade, weights <- soften      online.py says this slowly
    acc     <- fade acc + V^T weights        (Dv, W)

and at the end out = acc / total, lse = top + log total. Softcap, bias and mask are branches per tile. Work is dealt out in
pairs of query blocks, the first with the last, the second with the last but one: under a causal mask all pairs are equal.
"""
import numpy as np
from numba import njit, prange

from ..core.blocks import EMPTY, PARTIAL
from .compile import kernel
from .simd import ROWS, at
from .tiles import BLOCK_K, BLOCK_Q, INF, LN2, LOG2E, ONE, ZERO, add_bias, cap, hide, pack, shrink, soften, times, times_all


@njit
def score(k, b, g, start, size, queries, scores, softcap, bias, bias_b, bias_h, n_start, kind, seen):
    """Scores of one tile in base 2, -inf where hidden: (size, W) rows of `scores`."""
    groups, D = k.shape[2], k.shape[3]
    keys = at(k, (((b * k.shape[1] + g) * groups) * ROWS + start) * D)
    times(at(scores, 0), BLOCK_Q, keys, 1, ROWS, D * ROWS, at(queries, 0), BLOCK_Q, D, (size + ROWS - 1) // ROWS, BLOCK_Q, True)
    if softcap > 0:
        cap(scores, size, softcap)
        times_all(scores, size, LOG2E)
    if bias.size:
        add_bias(scores, size, bias, bias_b, bias_h, n_start, start)
    if kind == PARTIAL:
        hide(scores, size, seen)


@kernel(parallel=True, error_model="numpy")
def forward(q, k, v, S, out, lse, kind, stored, partial, bias, sinks, scale, softcap):
    """Fill out (B, H, N, Dv) and lse (B, H, N), for k and v as `pack_keys` and `pack_values` lay them.

    `bias` (B, H, N, S) and `sinks` (H,) of size 0 mean none, and so does a softcap of 0.
    """
    B, H, N, D = q.shape
    G, Dv = k.shape[1], out.shape[3]
    v_tiles, v_groups = v.shape[2], v.shape[3]
    blocks = (N + BLOCK_Q - 1) // BLOCK_Q
    pairs = (blocks + 1) // 2
    factor = scale if softcap > 0 else scale * LOG2E
    for task in prange(B * H * pairs):
        b, h, pair = task // (H * pairs), task // pairs % H, task % pairs
        g = h // (H // G)
        k_b, v_b = min(b, k.shape[0] - 1), min(b, v.shape[0] - 1)
        map_b, map_h = min(b, kind.shape[0] - 1), min(h, kind.shape[1] - 1)
        queries, scores = np.empty((D, BLOCK_Q), np.float32), np.empty((BLOCK_K, BLOCK_Q), np.float32)
        acc = np.empty((v_groups * ROWS, BLOCK_Q), np.float32)
        top, total, fade = np.empty(BLOCK_Q, np.float32), np.empty(BLOCK_Q, np.float32), np.empty(BLOCK_Q, np.float32)
        for turn in range(2):
            block = blocks - 1 - pair if turn else pair
            if turn and block == pair:                                # the middle one has no partner
                continue
            start = block * BLOCK_Q
            pack(q, b, h, start, factor, queries)
            acc[:] = ZERO
            top[:] = sinks[h] * LOG2E if sinks.size else -INF         # a sink is a key of value 0 that comes first
            total[:] = ONE if sinks.size and sinks[h] > -INF else ZERO
            for column in range(kind.shape[3]):
                what = kind[map_b, map_h, block, column]
                if what == EMPTY:
                    continue
                s, which = column * BLOCK_K, max(stored[map_b, map_h, block, column], 0)
                size = min(BLOCK_K, S - s)
                score(k, k_b, g, s, size, queries, scores, softcap, bias, b, h, start, what, partial[which])
                if soften(scores, size, top, total, fade):
                    shrink(acc, fade)
                step = BLOCK_K * ROWS
                values = at(v, ((v_b * G + g) * v_tiles + column) * v_groups * step)
                times(at(acc, 0), BLOCK_Q, values, 1, ROWS, step, at(scores, 0), BLOCK_Q, size, v_groups, BLOCK_Q, False)
            for w in range(min(BLOCK_Q, N - start)):
                share = ZERO if total[w] == 0 else ONE / total[w]
                lse[b, h, start + w] = top[w] * LN2 + np.log(total[w])
                for d in range(Dv):
                    out[b, h, start + w, d] = acc[d, w] * share
