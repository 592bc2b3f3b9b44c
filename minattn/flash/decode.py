"""The decode kernel: few queries before many keys, where reading the keys is all that takes time.

Shazeer 2019, arXiv:1911.02150, section 2.4 (why); Flash-Decoding: split over keys as well, and join by log-sum-exp.

    rows    H//G * N   the queries that read one KV head: all of them while its keys pass once

The keys of each KV head are cut into spans of SPAN, by their number alone, so that few heads still fill all cores and the
result does not depend on how many there are. A span gives each row its top, total and acc; `join` merges the spans.
"""
import numpy as np
from numba import njit, prange

from .compile import kernel
from .simd import LANES, add, after, at, exp2, fma, hsum, load, mul, splat, store
from .tiles import INF, LN2, LOG2E, ONE, TWO, ZERO

SPAN = 512
CHUNK = 64                                              # keys whose scores are held at a time


@njit
def dot(a, b, D):
    """a . b of D numbers, in two chains so that one multiply-add need not wait for the other."""
    even, odd = splat(ZERO), splat(ZERO)
    d = 0
    while d + 2 * LANES <= D:
        even = fma(load(after(a, d)), load(after(b, d)), even)
        odd = fma(load(after(a, d + LANES)), load(after(b, d + LANES)), odd)
        d += 2 * LANES
    if d < D:
        even = fma(load(after(a, d)), load(after(b, d)), even)
    return hsum(add(even, odd))


@njit
def span(q, k, v, k_row, v_row, D, Dv, size, seen, bias, softcap, scores, top, total, acc):
    """Rows q (rows, D) before `size` keys and values at pointers: the online softmax, CHUNK keys at a time."""
    rows = q.shape[0]
    for start in range(0, size, CHUNK):
        chunk = min(CHUNK, size - start)
        for s in range(chunk):
            key = after(k, (start + s) * k_row)
            for r in range(rows):
                scores[r, s] = dot(at(q, r * D), key, D)
        for r in range(rows):
            best = top[r]
            for s in range(chunk):
                x = scores[r, s]
                if softcap > 0:
                    x = softcap * np.tanh(x / softcap) * LOG2E
                if bias.size:
                    x += bias[r, start + s] * LOG2E
                if seen.size and not seen[r, start + s]:
                    x = -INF
                scores[r, s] = x
                best = x if x > best or x != x else best
            base = ZERO if best == -INF else best
            for s in range(chunk, CHUNK):
                scores[r, s] = -INF                     # so that whole vectors can be taken
            sum_ = splat(ZERO)
            for s in range(0, CHUNK, LANES):
                p = exp2(add(load(at(scores, r * CHUNK + s)), splat(-base)))
                store(at(scores, r * CHUNK + s), p)
                sum_ = add(sum_, p)
            fade = ZERO if top[r] == -INF else np.exp2(top[r] - base)
            total[r], top[r] = total[r] * fade + hsum(sum_), best
            if fade != ONE:
                for d in range(0, Dv, LANES):
                    store(at(acc, r * Dv + d), mul(splat(fade), load(at(acc, r * Dv + d))))
        for s in range(chunk):
            value = after(v, (start + s) * v_row)
            for r in range(rows):
                if seen.size and not seen[r, start + s]:
                    continue                            # 0 times a NaN that nobody may see
                p = splat(scores[r, s])
                for d in range(0, Dv, LANES):
                    store(at(acc, r * Dv + d), fma(p, load(after(value, d)), load(at(acc, r * Dv + d))))


@kernel(parallel=True, error_model="numpy")
def decode(q, k, v, seen, bias, softcap, sinks, out, lse):
    """Fill out (B, G, rows, Dv) and lse (B, G, rows), for q (B, G, rows, D) with the scale in it.

    D and Dv are multiples of LANES, and the last axis of k and v is contiguous. `seen` and `bias` are (B, G, rows, S), or
    of size 0; `sinks` is (G, rows) or of size 0.
    """
    B, G, rows, D = q.shape
    S, Dv = k.shape[2], v.shape[3]
    spans = max((S + SPAN - 1) // SPAN, 1)
    tops, totals = np.empty((B, G, spans, rows), np.float32), np.empty((B, G, spans, rows), np.float32)
    accs = np.empty((B, G, spans, rows, Dv), np.float32)
    k_row, v_row = k.strides[2] // 4, v.strides[2] // 4
    for task in prange(B * G * spans):
        b, g, part = task // (G * spans), task // spans % G, task % spans
        start = part * SPAN
        k_b, v_b = min(b, k.shape[0] - 1), min(b, v.shape[0] - 1)
        keys = at(k, (k_b * k.strides[0] + g * k.strides[1]) // 4 + start * k_row)
        values = at(v, (v_b * v.strides[0] + g * v.strides[1]) // 4 + start * v_row)
        scores = np.empty((rows, CHUNK), np.float32)
        top, total, acc = tops[b, g, part], totals[b, g, part], accs[b, g, part]
        first = part == 0 and sinks.size > 0            # a sink is a key of value 0 in the first span
        for r in range(rows):
            top[r] = sinks[g, r] * LOG2E if first else -INF
            total[r] = ONE if first and sinks[g, r] > -INF else ZERO
        acc[:] = ZERO
        span(q[b, g], keys, values, k_row, v_row, D, Dv, min(SPAN, S - start), seen[b, g, :, start:], bias[b, g, :, start:],
             softcap, scores, top, total, acc)  # fmt: skip
    for task in prange(B * G * rows):
        b, g, r = task // (G * rows), task // rows % G, task % rows
        join(tops[b, g, :, r], totals[b, g, :, r], accs[b, g, :, r], out[b, g, r], lse, b, g, r)


@njit
def join(tops, totals, accs, out, lse, b, g, r):
    """The spans of one row, brought under their common top and divided once."""
    best = -INF
    for top in tops:
        best = top if top > best or top != top else best
    base, total = (ZERO if best == -INF else best), ZERO
    out[:] = ZERO
    for part in range(len(tops)):
        fade = ZERO if tops[part] == -INF else TWO ** (tops[part] - base)
        total += fade * totals[part]
        for d in range(len(out)):
            out[d] += fade * accs[part, d]
    share = ZERO if total == 0 else ONE / total
    for d in range(len(out)):
        out[d] *= share
    lse[b, g, r] = best * LN2 + np.log(total)
