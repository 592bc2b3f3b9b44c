"""Decoding on the CPU: few queries before many keys, where reading the keys is all that takes time.

Shazeer 2019, arXiv:1911.02150, section 2.4, says why; splitting over keys as well as heads is Flash-Decoding.

    rows     the H // G * N queries that read one KV head: its keys and values pass once for all of them, FOUR at a time
    span     SPAN keys of one KV head, one task; the spans of a row are joined at the end by their log-sum-exp
    extra    (B, G, S, rows), what is added to a score: the bias in units of log 2; -inf hides, whatever the score is
    table    (B, pages of a row): key n of row b stands in page table[b, n // P] of k (pages, G, P, D), at n % P. A cache in
             one piece is one page a row, with P = S
    run      keys of a tile whose addresses follow each other. A tile of short runs, or of 16-bit numbers, is copied first

With so few queries there is none for every lane. Lanes hold pieces of D while q . k is summed up, then `dots` adds across
them for LANES // FOUR keys and FOUR rows at once, which gives one vector of scores: lane = key * FOUR + row.
"""
import numpy as np
from llvmlite import ir
from numba import carray, njit, prange, types
from numba.extending import intrinsic

from .options import LN2, LOG2E, cap
from .simd import (
    INT64,
    INTS,
    LANES,
    VECTOR,
    add,
    as_floats,
    ask,
    at,
    emit_ask,
    emit_fma,
    emit_load,
    exp2,
    float_p,
    largest,
    load,
    mul,
    plus,
    same,
    splat,
    store,
    sub,
    unless_empty,
    vec,
    word,
)  # fmt: skip
from .threads import take
from .tiles import KEYS, load_rows, product_tile

FOUR = 4
AT_ONCE = LANES // FOUR                                  # keys whose scores make one vector
COLUMNS = 4 if LANES == 16 else 2
SPAN = 512
product_rows, product_narrow = product_tile("C", FOUR, COLUMNS), product_tile("C", FOUR, 1)


@intrinsic
def dots(context, q, k, k_row, v, v_row, D):
    """q_row . k_key for FOUR rows q (FOUR, D) and AT_ONCE keys, in lane key * FOUR + row.

    Meanwhile their values are asked for: they arrive while the scores become weights.
    """

    def build(builder, q, k, k_row, v, v_row, D):
        pairs = [(key, row) for key in range(AT_ONCE) for row in range(FOUR)]
        before, loop, after = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("end")
        builder.branch(loop)
        builder.position_at_end(loop)
        d, sums = builder.phi(INT64), [builder.phi(VECTOR) for _ in pairs]
        for key in range(AT_ONCE):
            emit_ask(builder, v, builder.add(builder.mul(v_row, INT64(key)), d))
        keys = [emit_load(builder, k, builder.add(builder.mul(k_row, INT64(key)), d)) for key in range(AT_ONCE)]
        rows = [emit_load(builder, q, builder.add(builder.mul(D, INT64(row)), d)) for row in range(FOUR)]
        new = [emit_fma(builder, keys[key], rows[row], old) for old, (key, row) in zip(sums, pairs, strict=True)]
        further = builder.add(d, INT64(LANES))
        for phi, entering, staying in zip((d, *sums), (INT64(0), *[same(0.0)] * len(pairs)), (further, *new), strict=True):
            phi.add_incoming(entering, before)
            phi.add_incoming(staying, loop)
        builder.cbranch(builder.icmp_signed("<", further, D), loop, after)
        builder.position_at_end(after)
        # two vectors become one: lanes without the bit `half` keep the first, folded in half, the others the second
        half = LANES // 2
        while half:
            a, b = new[: len(new) // 2], new[len(new) // 2 :]
            low = [LANES + j - half if j & half else j for j in range(LANES)]
            high = [LANES + j if j & half else j + half for j in range(LANES)]
            low, high = ir.Constant(INTS, low), ir.Constant(INTS, high)
            new = [
                builder.fadd(builder.shuffle_vector(x, y, low), builder.shuffle_vector(x, y, high))
                for x, y in zip(a, b, strict=True)
            ]
            half //= 2
        return new[0]

    return word(vec(float_p, float_p, types.intp, float_p, types.intp, types.intp), build)


@intrinsic
def over_keys(context, a, largest_or_sum):
    """In every lane the largest, or the sum, of the lanes of its row: AT_ONCE of them, FOUR lanes apart."""

    def build(builder, a, pick_largest):
        step = FOUR
        while step < LANES:
            turned = builder.shuffle_vector(a, a, ir.Constant(INTS, [j ^ step for j in range(LANES)]))
            larger = builder.select(builder.fcmp_ordered(">", turned, a), turned, a)
            a = builder.select(pick_largest, larger, builder.fadd(a, turned))
            step *= 2
        return a

    return word(vec(vec, types.boolean), build)


@njit
def find(k_at, v_at, k, v, table, b, g, first, count):
    """Where each AT_ONCE keys of a tile and their values begin, counted in numbers, and their run; 0 where it is too short.

    The first keys of each page are asked for, since a processor foresees lines that follow each other, but no jump to a page.
    """
    P, n = k.shape[2], 0
    in_one_page = first % P + -(-count // AT_ONCE) * AT_ONCE <= P
    run = KEYS if in_one_page else min(P & -P, KEYS)    # the powers of two that divide both
    if run < AT_ONCE:
        return 0
    while n < count:
        page, slot = table[b, (first + n) // P], (first + n) % P
        k_page, v_page = offset(k, page, g, slot), offset(v, page, g, slot)
        for key in range(AT_ONCE):
            for d in range(0, k.shape[3], LANES):
                ask(at(k, page % len(k), g, slot + key), d)
        stop, begin = min(n + P - slot, count), n
        for n in range(begin, stop, AT_ONCE):
            k_at[n // AT_ONCE] = k_page + (n - begin) * (k.strides[2] // k.itemsize)
            v_at[n // AT_ONCE] = v_page + (n - begin) * (v.strides[2] // v.itemsize)
        n = stop
    return run


@njit
def offset(a, page, g, slot):
    """Where a[page, g, slot] begins, counted in numbers from the start; an array that all rows share has one page."""
    return (page % len(a) * a.strides[0] + g * a.strides[1] + slot * a.strides[2]) // a.itemsize


@njit
def copy(where, tile, a, table, b, g, first, count, brain):
    """The keys of a tile as float32, with zeros up to KEYS, and `where` for them; whether all numbers are finite."""
    (pages, _, P, D), n, finite = a.shape, 0, True
    while n < count:
        page, slot = table[b, (first + n) // P] % pages, (first + n) % P
        some = min(P - slot, count - n)
        rows = some if n + some < count else KEYS - n
        finite &= load_rows(plus(tile, n * D), a, page, g, slot, some, rows, np.float32(1), brain)
        n += some
    for n in range(0, KEYS, AT_ONCE):
        where[n // AT_ONCE] = n * D
    return finite


@njit
def four_rows(st, fade, q, k, k_at, k_row, v, v_at, v_row, run, D, Dv, count, softcap, extra, first, row, top, total, acc,
              finite):  # fmt: skip
    """One tile of `count` keys for FOUR rows: a step of the online softmax."""
    for key in range(0, KEYS, AT_ONCE):
        if key < count:
            store(st, key * FOUR, dots(q, plus(k, k_at[key // AT_ONCE]), k_row, plus(v, v_at[key // AT_ONCE]), v_row, D))
    if softcap > 0:
        cap(st, 1, KEYS * FOUR, KEYS * FOUR, softcap)
    s = carray(st, (KEYS, FOUR))
    if extra.size > 0:
        for key in range(count):
            for r in range(FOUR):
                more = extra[first + key, row + r]
                s[key, r] = more if more == -np.inf else s[key, r] + more
    s[count:] = -np.inf
    old = load(top, 0)
    new = old
    for n in range(0, KEYS * FOUR, LANES):
        new = largest(load(st, n), new)
    new = over_keys(new, True)
    store(top, 0, new)
    base = unless_empty(new)
    factor = exp2(sub(old, base))
    store(fade, 0, factor)
    sum_ = mul(factor, load(total, 0))
    for n in range(0, KEYS * FOUR, LANES):
        p = exp2(sub(load(st, n), base))
        sum_ = add(sum_, p)
        store(st, n, p)
    store(total, 0, sum_)
    factors = carray(fade, FOUR)
    for r in range(FOUR):
        if factors[r] != 1:
            for d in range(0, Dv, LANES):
                store(acc, r * Dv + d, mul(splat(factors[r]), load(acc, r * Dv + d)))
    if finite:
        wide = Dv - Dv % (COLUMNS * LANES)
        for key in range(0, count, run):
            values, p, some = plus(v, v_at[key // AT_ONCE]), plus(st, key * FOUR), min(run, count - key)
            for d in range(0, wide, COLUMNS * LANES):
                product_rows(plus(acc, d), Dv, p, 1, FOUR, plus(values, d), v_row, some, acc)
            for d in range(wide, Dv, LANES):
                product_narrow(plus(acc, d), Dv, p, 1, FOUR, plus(values, d), v_row, some, acc)
        return
    out, tile = carray(acc, (FOUR, Dv)), carray(v, (count, v_row))
    for key in range(count):                            # NaN or inf among the values: 0 times it would be NaN
        for r in range(FOUR):
            if extra.size == 0 or extra[first + key, row + r] != -np.inf:
                for d in range(Dv):
                    out[r, d] += s[key, r] * tile[key, d]


@njit
def decode_span(work, q, k, v, table, extra, b, g, start, stop, top, total, acc, softcap, brain, half):
    """All rows of one KV head before the keys start .. stop; q, top, total and acc are addresses of rows."""
    rows, D, Dv = q.shape[2], q.shape[3], v.shape[3]
    p_k, p_v, p_st = work, plus(work, KEYS * D), plus(work, KEYS * (D + Dv))
    p_fade = plus(p_st, KEYS * FOUR)
    k_at, v_at = np.empty(KEYS // AT_ONCE, np.int64), np.empty(KEYS // AT_ONCE, np.int64)
    hiding = extra[b % extra.shape[0], g % extra.shape[1]]
    for first in range(start, stop, KEYS):
        count, finite = min(KEYS, stop - first), True
        run = 0 if half else find(k_at, v_at, k, v, table, b, g, first, count)
        k_now, k_row = as_floats(at(k, 0, 0, 0)), k.strides[2] // 4
        v_now, v_row = as_floats(at(v, 0, 0, 0)), v.strides[2] // 4
        if run == 0:
            copy(k_at, p_k, k, table, b, g, first, count, brain)
            k_now, k_row = p_k, D
        if run == 0 or hiding.size > 0:
            finite = copy(v_at, p_v, v, table, b, g, first, count, brain) or (not half and hiding.size == 0)
            v_now, v_row, run = p_v, Dv, KEYS
        for row in range(0, rows, FOUR):
            four_rows(p_st, p_fade, at(q, b, g, row), k_now, k_at, k_row, v_now, v_at, v_row, run, D, Dv, count, softcap, hiding,
                      first, row, plus(top, row // FOUR * LANES), plus(total, row // FOUR * LANES), plus(acc, row * Dv),
                      finite)  # fmt: skip


@njit
def join(tops, totals, accs, out, lse, b, g):
    """The spans of every row of a KV head, brought under their common top; one division."""
    spans, rows, Dv = accs.shape
    for row in range(rows):
        lane = row // FOUR * LANES + row % FOUR
        best = -np.inf
        for n in range(spans):
            best = max(best, tops[n, lane])
        base, sum_ = (np.float32(0) if best == -np.inf else np.float32(best)), np.float32(0)
        out[b, g, row] = 0
        for n in range(spans):
            share = np.exp2(tops[n, lane] - base)
            for key in range(AT_ONCE):
                sum_ += share * totals[n, lane + key * FOUR]
            for d in range(Dv):                         # also where the share is 0: a NaN that is seen shows
                out[b, g, row, d] += share * accs[n, row, d]
        if sum_ != 0:
            out[b, g, row] /= sum_
        lse[b, g, row] = LN2 * (base + np.log2(sum_)) if sum_ != 0 else -np.inf


def decode(threads, counter, q, k, v, table, lengths, extra, sinks, out, lse, softcap, brain, half):
    """out (B, G, rows, Dv) and lse (B, G, rows); rows are a multiple of FOUR, scale and log2(e) are in q, lengths (B,)."""
    (B, G, rows, D), Dv = q.shape, v.shape[3]
    longest = 0
    for length in lengths:
        longest = max(longest, length)
    spans = -(-longest // SPAN)
    tops = np.empty((B, G, spans, rows // FOUR * LANES), np.float32)
    totals = np.empty_like(tops)
    accs = np.zeros((B, G, spans, rows, Dv), np.float32)
    for _ in prange(threads):
        work = np.empty(KEYS * (D + Dv + FOUR) + LANES, np.float32)
        while True:
            task = take(counter)
            if task >= B * G * spans:
                break
            b, g, n = task // (G * spans), task // spans % G, task % spans
            for row in range(rows):
                lane = row // FOUR * LANES + row % FOUR
                for key in range(AT_ONCE):              # a sink is a first key without a value, in the first span
                    tops[b, g, n, lane + key * FOUR] = sinks[g, row] * LOG2E if n == 0 else -np.inf
                    totals[b, g, n, lane + key * FOUR] = 1 if n == 0 and key == 0 and sinks[g, row] != -np.inf else 0
            decode_span(at(work, 0, 0, 0), q, k, v, table, extra, b, g, n * SPAN, min((n + 1) * SPAN, lengths[b]),
                        at(tops, b, g, n), at(totals, b, g, n), at(accs, b, g, n), softcap, brain, half)  # fmt: skip
    for b in range(B):
        for g in range(G):
            join(tops[b, g], totals[b, g], accs[b, g], out, lse, b, g)
