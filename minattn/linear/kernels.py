"""The recurrence on the CPU: a tile of tokens at a time, value columns in the lanes.

    P   states          R  query heads that read one state     W  pairs that a token writes: 1, with erase 2
    T   tokens in a tile, at most TOKENS                            (k_j v_j^T, and a_j u_j^T with u_j = b_j^T S_{j-1})

    writes   (W T, D)       k_j and a_j, which decay by one step whenever a token goes by: at token i they are k_j A(i, j)
    values   (W T, Dv)      v_j and u_j
    scores   (R T, W T)     q_i . k_j A(i, j) and q_i . a_j A(i, j), for j <= i: what a query reads of its own tile
    erased   (T, W T)       b_i . k_j A(i-1, j) and b_i . a_j A(i-1, j), for j < i

    u = b A(i-1, 0) S + erased values          row after row: u_i needs those before it
    o = q A(i, 0) S + scores values
    S = A(T, 0) S + writes^T values            the writes have meanwhile become k_j A(T, j)

That is the chunked form of recurrence.py with chunks so short that A(i, j) is simply multiplied up, step by step: never a
quotient, exactly 1 at age 0 and exactly 0 behind a closed gate. A product of up to TOKENS factors is as exact as float32
needs. A(T, 0) is not, since the state is multiplied by it again and again: it comes from the sum of the log decays, in two
numbers, the second of which is what the first lost by rounding.

One task owns some columns of one state, for all tokens. Columns never meet, so the bits of a result depend neither on how
they are dealt out nor on the number of threads. 0 times NaN is NaN, so a tile whose values are not all finite is computed
token by token: then no score stands for a token that has not come yet. (An inf in the state may turn into NaN.)
"""
import numpy as np
from numba import carray, njit, prange

from ..flash.options import LOG2E
from ..flash.simd import LANES, add, at, exp2, fma, lanes_sum, load, mul, plus, splat, store
from ..flash.threads import take
from ..flash.tiles import PANEL, ROWS, product, product_more, product_tile

TOKENS = 16
SMALLEST = 1e-30                      # of a normaliser whose inverse is taken
narrow, narrow_more = product_tile("zero", columns=1), product_tile("C", columns=1)


def workspace(R, D, width, W):
    """Numbers that one thread needs; see the addresses in `tile`. They begin at 0: a score of a later token stays so."""
    return TOKENS * ((R + W + 2) * D + (R + W) * width + (R + 1) * W * TOKENS) + 3 * D


@njit
def dot(x, y, D):
    total = mul(load(x, 0), load(y, 0))
    for d in range(LANES, D, LANES):
        total = fma(load(x, d), load(y, d), total)
    return lanes_sum(total)


@njit
def scaled(target, source, factor, D):
    """target = source * factor, channel by channel."""
    for d in range(0, D, LANES):
        store(target, d, mul(load(source, d), load(factor, d)))


@njit
def steps(p_steps, g, p, n, count, D):
    """exp g_i of each token, (T, D)."""
    for i in range(count):
        p_i = plus(p_steps, i * D)
        if g.shape[3] == 1:
            for d in range(0, D, LANES):
                store(p_i, d, splat(np.float32(np.exp(g[p, 0, n + i, 0]))))
        else:
            for d in range(0, D, LANES):
                store(p_i, d, exp2(mul(load(at(g, p, 0, n + i), d), splat(LOG2E))))


@njit
def whole_decay(p_whole, p_lost, g, p, n, count, D):
    """A(T, 0), the decay over all tokens of the tile, (D,), and what its rounding lost."""
    whole, lost, single = carray(p_whole, D), carray(p_lost, D), g.shape[3] == 1
    whole[:] = 0
    for i in range(count):
        if single:
            whole[0] += g[p, 0, n + i, 0]
        else:
            for d in range(0, D, LANES):
                store(p_whole, d, add(load(p_whole, d), load(at(g, p, 0, n + i), d)))
    for d in range(1 if single else D):
        exact = np.exp(np.float64(whole[d]))
        whole[d] = np.float32(exact)
        lost[d] = np.float32(exact - np.float64(whole[d]))
    if single:
        whole[:], lost[:] = whole[0], lost[0]


@njit
def load_values(p_values, v, p, n, count, first, columns, width, W):
    """Columns of v, from `first` on, to every W-th row; then those that v does not have, 0, and the 1 of the normaliser."""
    real = min(columns, v.shape[3] - first)
    full = real // LANES * LANES
    for i in range(count):
        source, row = plus(at(v, p, 0, n + i), first), plus(p_values, i * W * width)
        for column in range(0, full, LANES):
            store(row, column, load(source, column))
        if full < width:
            target, numbers = carray(row, width), carray(source, real)
            target[full:] = 0
            for column in range(full, real):
                target[column] = numbers[column]
            if columns < width:
                target[columns] = 1


@njit
def meet(p_q, p_b, p_writes, p_scores, p_erased, p_steps, p_since, q, k, a, b, p, n, count, W):
    """Every token with those before it in the tile, and the readers as they read the state: q A(i, 0) and b A(i-1, 0)."""
    R, D = q.shape[1], q.shape[3]
    scores, erased = carray(p_scores, (R, TOKENS, W * TOKENS)), carray(p_erased, (TOKENS, W * TOKENS))
    carray(p_since, D)[:] = 1
    for i in range(count):
        step, p_b_i = plus(p_steps, i * D), at(b, p, 0, n + i)
        if W == 2:
            for row in range(W * i):
                erased[i, row] = dot(p_b_i, plus(p_writes, row * D), D)
            scaled(plus(p_b, i * D), p_b_i, p_since, D)
        for row in range(W * i):
            scaled(plus(p_writes, row * D), plus(p_writes, row * D), step, D)
        scaled(p_since, p_since, step, D)
        for d in range(0, D, LANES):
            store(plus(p_writes, W * i * D), d, load(at(k, p, 0, n + i), d))
            if W == 2:
                store(plus(p_writes, (W * i + 1) * D), d, load(at(a, p, 0, n + i), d))
        for r in range(R):
            p_q_i = at(q, p, r, n + i)
            for row in range(W * (i + 1)):
                scores[r, i, row] = dot(p_q_i, plus(p_writes, row * D), D)
            scaled(plus(p_q, (r * TOKENS + i) * D), p_q_i, p_since, D)


@njit
def from_state(c, width, x, state, stride, D):
    """C (ROWS, width) = X (ROWS, D) S"""
    column = 0
    while column + PANEL <= width:
        product(plus(c, column), width, x, D, 1, plus(state, column), stride, D, c)
        column += PANEL
    while column < width:
        narrow(plus(c, column), width, x, D, 1, plus(state, column), stride, D, c)
        column += LANES


@njit
def add_product(c, c_row, width, a, a_row, a_step, values, depth):
    """C (ROWS, width) += A (ROWS, depth) values"""
    column = 0
    while column + PANEL <= width:
        product_more(plus(c, column), c_row, a, a_row, a_step, plus(values, column), width, depth, c)
        column += PANEL
    while column < width:
        narrow_more(plus(c, column), c_row, a, a_row, a_step, plus(values, column), width, depth, c)
        column += LANES


@njit
def solve(p_values, p_u, p_erased, width, count):
    """u of each token, from its share `p_u` of the state and from the values of the tokens before it, its own row of values."""
    erased = carray(p_erased, (TOKENS, 2 * TOKENS))
    for i in range(count):
        target = plus(p_values, (2 * i + 1) * width)
        for column in range(0, width, LANES):
            u = load(p_u, i * width + column)
            for row in range(2 * i):
                u = fma(splat(erased[i, row]), load(p_values, row * width + column), u)
            store(target, column, u)


@njit
def finite(p_values, size):
    """x * 0 is 0 for finite numbers and NaN for the others."""
    nothing = splat(np.float32(0))
    wild = nothing
    for n in range(0, size, LANES):
        wild = fma(load(p_values, n), nothing, wild)
    return lanes_sum(wild) == 0


@njit
def finish(p_out, row, columns, width, scale):
    """What a query has read, times scale, and over its normaliser, which comes after the columns; 0 / 0 is 0."""
    bottom = carray(row, width)[columns] if columns < width else np.float32(1)
    if abs(bottom) > SMALLEST:
        factor = splat(np.float32(scale / bottom))
        for column in range(0, columns, LANES):
            store(p_out, column, mul(load(row, column), factor))
    else:                                                    # also where it is NaN
        out, read = carray(p_out, columns), carray(row, columns)
        for column in range(columns):
            if bottom != 0:
                out[column] = scale * (read[column] / bottom)
            else:
                out[column] = read[column] * np.copysign(np.float32(np.inf), bottom) if read[column] != 0 else 0


@njit
def tile(work, q, k, v, g, a, b, state, out, p, share, first, columns, W, scale, normalize, n, count):
    """Tokens n .. n + count of these columns of state p; False, with nothing done, where they must be taken one by one."""
    R, D, stride, width = q.shape[1], q.shape[3], state.shape[3], columns + LANES * normalize
    p_steps = work
    p_since = plus(p_steps, TOKENS * D)
    p_whole = plus(p_since, D)
    p_lost = plus(p_whole, D)
    p_writes = plus(p_lost, D)
    p_q = plus(p_writes, W * TOKENS * D)
    p_b = plus(p_q, R * TOKENS * D)
    p_scores = plus(p_b, TOKENS * D)                        # at a place of their own for all widths: they rely on their 0
    p_erased = plus(p_scores, R * TOKENS * W * TOKENS)
    p_values = plus(p_erased, TOKENS * W * TOKENS)
    p_read = plus(p_values, W * TOKENS * width)
    p_state = at(state, p, share, 0)

    steps(p_steps, g, p, n, count, D)
    whole_decay(p_whole, p_lost, g, p, n, count, D)
    load_values(p_values, v, p, n, count, first, columns, width, W)
    meet(p_q, p_b, p_writes, p_scores, p_erased, p_steps, p_since, q, k, a, b, p, n, count, W)
    if W == 2:
        for i in range(0, count, ROWS):
            from_state(plus(p_read, i * width), width, plus(p_b, i * D), p_state, stride, D)
        solve(p_values, p_read, p_erased, width, count)
    if count > 1 and not finite(p_values, W * count * width):
        return False
    for r in range(R):
        for i in range(r * TOKENS, r * TOKENS + count, ROWS):
            depth = W * min(i - r * TOKENS + ROWS, count)
            from_state(plus(p_read, i * width), width, plus(p_q, i * D), p_state, stride, D)
            add_product(plus(p_read, i * width), width, width, plus(p_scores, i * W * TOKENS), W * TOKENS, 1, p_values, depth)
        for i in range(count):
            finish(plus(at(out, p, r, n + i), first), plus(p_read, (r * TOKENS + i) * width), columns, width, scale)
    whole, lost = carray(p_whole, D), carray(p_lost, D)
    for d in range(D):
        keep, more, row = splat(whole[d]), splat(lost[d]), plus(p_state, d * stride)
        for column in range(0, width, LANES):
            s = load(row, column)
            store(row, column, fma(keep, s, mul(more, s)))
    for d in range(0, D, ROWS):
        add_product(plus(p_state, d * stride), stride, width, plus(p_writes, d), 1, D, p_values, W * count)
    return True


def recurrence(threads, counter, work, q, k, v, g, a, b, state, out, width, size, scale, erase, normalize):
    """The result, out (P, R, N, Dv), and the last state in place of the first, (P, shares, D, columns of a share).

    `width` columns are a share, `size` tokens a tile. D and Dv are multiples of LANES; the last share may have fewer columns.
    With `normalize`, each share is followed by LANES columns, of which the first is the normaliser's.
    """
    for thread in prange(threads):
        P, N, place, W = k.shape[0], k.shape[2], at(work, thread, 0, 0), 2 if erase else 1
        while True:
            task = take(counter)
            if task >= P * state.shape[1]:
                break
            p, share = task % P, task // P
            first = share * width
            some = min(width, out.shape[3] - first)
            for n in range(0, N, size):
                count = min(size, N - n)
                if not tile(place, q, k, v, g, a, b, state, out, p, share, first, some, W, scale, normalize, n, count):
                    for i in range(n, n + count):
                        tile(place, q, k, v, g, a, b, state, out, p, share, first, some, W, scale, normalize, i, 1)
