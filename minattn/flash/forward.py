"""The forward pass on the CPU: FlashAttention-2 with a query in every lane.

One task is a block of PANELS panels of PANEL queries each, of one head; threads take tasks until none is left.

    for each tile of KEYS keys          loaded once for the task's panels
        for each panel                  that sees any of it
            S^T = K Q^T                 (KEYS, PANEL), scores in units of log 2, so that exp2 serves for exp
            top, fade, total            as in online.py, for LANES queries at once: no sum across lanes anywhere
            O^T = fade O^T + V^T P^T    (Dv, PANEL)

Sizes: D and Dv are multiples of LANES here (cpu.py pads with zeros). Options are looked at once a tile: a tile that the block
map calls full is never masked, one that it calls empty never touched.
"""
import numpy as np
from numba import carray, njit, prange

from .options import EMPTY, LN2, LOG2E, PARTIAL, change_scores, kind_of, shared
from .simd import LANES, add, at, exp2, largest, load, mul, plus, store, sub, unless_empty
from .threads import take
from .tiles import KEYS, PANEL, ROWS, load_rows, product, product_faded, transpose_tile


def workspace(panels, D, Dv):
    """Numbers that one thread needs; see the addresses in `forward_task`."""
    return panels * PANEL * (D + Dv + 2) + PANEL + KEYS * (2 * PANEL + D + Dv) + PANEL * max(D, Dv)


@njit
def scores(st, k, qt, D):
    """S^T (KEYS, PANEL) = K (KEYS, D) Q^T (D, PANEL)."""
    for s in range(0, KEYS, ROWS):
        product(plus(st, s * PANEL), PANEL, plus(k, s * D), D, 1, qt, PANEL, D, qt)


@njit
def softmax_step(st, top, total, fade):
    """S^T becomes exp(S^T - top) under the new top; `fade` brings what was summed before under it too."""
    for lane in range(0, PANEL, LANES):
        old = load(top, lane)
        a, b, c, d = old, old, old, old                      # four at a time: each maximum waits for the one before
        for s in range(0, KEYS * PANEL, 4 * PANEL):
            a = largest(load(st, s + lane), a)
            b = largest(load(st, s + PANEL + lane), b)
            c = largest(load(st, s + 2 * PANEL + lane), c)
            d = largest(load(st, s + 3 * PANEL + lane), d)
        new = largest(largest(a, b), largest(c, d))
        store(top, lane, new)
        base = unless_empty(new)
        factor = exp2(sub(old, base))
        store(fade, lane, factor)
        sum_ = mul(factor, load(total, lane))
        for s in range(lane, KEYS * PANEL, PANEL):
            p = exp2(sub(load(st, s), base))
            sum_ = add(sum_, p)
            store(st, s, p)
        store(total, lane, sum_)


@njit
def values(ot, v, p, Dv, fade):
    """O^T (Dv, PANEL) = fade O^T + V^T P^T, with V (KEYS, Dv) read by columns."""
    for d in range(0, Dv, ROWS):
        product_faded(plus(ot, d * PANEL), PANEL, plus(v, d), 1, Dv, p, PANEL, KEYS, fade)


@njit
def careful_values(ot, v, p, Dv, fade, seen, count):
    """The same where values are NaN or inf and some queries may not see them: 0 times NaN is NaN, so those are left out."""
    out, value, weight = carray(ot, (Dv, PANEL)), carray(v, (KEYS, Dv)), carray(p, (KEYS, PANEL))
    score, fades = carray(seen, (KEYS, PANEL)), carray(fade, PANEL)
    for d in range(Dv):
        for lane in range(PANEL):
            out[d, lane] *= fades[lane]
            for key in range(count):
                if score[key, lane] != -np.inf:
                    out[d, lane] += weight[key, lane] * value[key, d]


@njit
def finish(panel, ot, top, total, rows, out, lse, b, h, first):
    """Divide once, turn the panel's queries into rows again, and keep the log-sum-exp: all that the backward needs of P."""
    Dv, N = out.shape[3], out.shape[2]
    totals, tops = carray(total, PANEL), carray(top, PANEL)
    for lane in range(min(PANEL, N - first)):
        lse[b, h, first + lane] = LN2 * (tops[lane] + np.log2(totals[lane])) if totals[lane] != 0 else -np.inf
    for lane in range(PANEL):
        totals[lane] = 1 / totals[lane] if totals[lane] != 0 else 0
    for n in range(0, Dv * PANEL, PANEL):
        for lane in range(0, PANEL, LANES):
            store(ot, n + lane, mul(load(ot, n + lane), load(total, lane)))
    transpose_tile(rows, ot, Dv, PANEL)
    for n in range(min(PANEL, N - first)):
        p = at(out, b, h, first + n)
        for d in range(0, Dv, LANES):
            store(p, d, load(rows, n * Dv + d))


@njit
def forward_task(work, panels, q, k, v, out, lse, scale, brain, sinks, o, b, h, block):
    """`panels` panels of head h of row b, from the block-th on."""
    (H, N, D), (G, S, Dv) = q.shape[1:], v.shape[1:]
    g = h // (H // G)
    p_qt = work
    p_ot = plus(p_qt, panels * PANEL * D)
    p_top = plus(p_ot, panels * PANEL * Dv)
    p_total = plus(p_top, panels * PANEL)
    p_fade = plus(p_total, panels * PANEL)
    p_st = plus(p_fade, PANEL)
    p_k = plus(p_st, KEYS * PANEL)
    p_v = plus(p_k, KEYS * D)
    p_rows = plus(p_v, KEYS * Dv)
    p_seen = plus(p_rows, PANEL * max(D, Dv))

    panels = min(panels, -(-N // PANEL) - block)
    start, stop = S, 0
    for panel in range(panels):
        first = (block + panel) * PANEL
        load_rows(p_rows, q, b, h, first, min(PANEL, N - first), PANEL, scale * LOG2E, brain)
        transpose_tile(plus(p_qt, panel * PANEL * D), p_rows, PANEL, D)
        tops, totals = carray(plus(p_top, panel * PANEL), PANEL), carray(plus(p_total, panel * PANEL), PANEL)
        tops[:] = sinks[h] * LOG2E                          # a sink is a first key without a value; -inf without one
        totals[:] = 0 if sinks[h] == -np.inf else 1
        carray(plus(p_ot, panel * PANEL * Dv), PANEL * Dv)[:] = 0
        span = o.span[shared(b, o.span.shape[0]), shared(h, o.span.shape[1]), block + panel]
        start, stop = min(start, span[0]), max(stop, span[1])

    for tile in range(start, stop):
        loaded = finite = False
        for panel in range(panels):
            if kind_of(o, b, h, block + panel, tile) == EMPTY:
                continue
            first, count = tile * KEYS, min(KEYS, S - tile * KEYS)
            if not loaded:
                b_k, b_v = shared(b, k.shape[0]), shared(b, v.shape[0])
                load_rows(p_k, k, b_k, g, first, count, KEYS, np.float32(1), brain)
                finite = load_rows(p_v, v, b_v, g, first, count, KEYS, np.float32(1), brain)
                loaded = True
            scores(p_st, p_k, plus(p_qt, panel * PANEL * D), D)
            change_scores(p_st, PANEL, o, b, h, block + panel, tile)
            wild = not finite and kind_of(o, b, h, block + panel, tile) == PARTIAL
            if wild:
                carray(p_seen, KEYS * PANEL)[:] = carray(p_st, KEYS * PANEL)
            softmax_step(p_st, plus(p_top, panel * PANEL), plus(p_total, panel * PANEL), p_fade)
            if wild:
                careful_values(plus(p_ot, panel * PANEL * Dv), p_v, p_st, Dv, p_fade, p_seen, count)
            else:
                values(plus(p_ot, panel * PANEL * Dv), p_v, p_st, Dv, p_fade)

    for panel in range(panels):
        finish(panel, plus(p_ot, panel * PANEL * Dv), plus(p_top, panel * PANEL), plus(p_total, panel * PANEL), p_rows,
               out, lse, b, h, (block + panel) * PANEL)  # fmt: skip


def forward(threads, counter, work, panels, q, k, v, out, lse, scale, brain, sinks, o):
    """out (B, H, N, Dv) and lse (B, H, N) of all tasks. The last blocks come first: under a causal mask they are the longest."""
    for thread in prange(threads):
        B, H, N = lse.shape
        blocks = -(-N // (panels * PANEL))
        while True:
            task = take(counter)
            if task >= B * H * blocks:
                break
            block = blocks - 1 - task // (B * H)
            head = task % (B * H)
            place = at(work, thread, 0, 0)
            forward_task(place, panels, q, k, v, out, lse, scale, brain, sinks, o, head // H, head % H, block * panels)
