"""The gradients of the recurrence on the CPU: the walk of backward.py, token by token, with value columns in the lanes.

    states   (T + 1, D, Dv)   those before and after each of the T tokens of a stretch, made again from the `kept` one
    dS       (D, Dv)          the gradient of the state after the token, grown on the way back
    e        (D,)             exp g of the token            dread  (Dv,)   the gradient of what a query read

Everything that a channel d needs of a token are rows d of S_{n-1}, S_n and dS: products of rows with each other make dq, dk,
dg, da and db, and sums of rows over all channels make dv and u and its gradient. One task owns one state with all its
columns, for the gradient of a key sums over them.
"""
import numpy as np
from numba import carray, njit, prange

from ..flash.simd import LANES, at, fma, load, mul, plus, splat, store
from ..flash.threads import take
from .kernels import dot, load_values, steps


def workspace(D, width, stretch):
    """Numbers that one thread needs; see the addresses in `backward`."""
    return (stretch + 1) * D * width + D + 6 * width


@njit
def gather(target, factors, rows, D, width):
    """target = sum over d of factors[d] * row d."""
    factor = carray(factors, D)
    for column in range(0, width, LANES):
        total = splat(np.float32(0))
        for d in range(D):
            total = fma(splat(factor[d]), load(rows, d * width + column), total)
        store(target, column, total)


@njit
def add_row(target, factor, row, width):
    """target += factor * row"""
    times = splat(factor)
    for column in range(0, width, LANES):
        store(target, column, fma(times, load(row, column), load(target, column)))


@njit
def step(old, new, p_e, p_u, p_v, k, a, b, D, width, erase):
    """S_n from S_{n-1}."""
    if erase:
        gather(p_u, b, old, D, width)
    e, key, erasing = carray(p_e, D), carray(k, D), carray(a, D)
    for d in range(D):
        keep, write, row = splat(e[d]), splat(key[d]), d * width
        for column in range(0, width, LANES):
            store(new, row + column, fma(keep, load(old, row + column), mul(write, load(p_v, column))))
        if erase:
            add_row(plus(new, row), erasing[d], p_u, width)


@njit
def read_gradient(p_dread, p_read, dout, q, after, D, columns, width, scale):
    """The gradient of what a query read: before the normaliser, which comes after the columns, where there is one."""
    dread, given = carray(p_dread, width), carray(dout, columns)
    dread[:] = 0
    if columns == width:
        for column in range(columns):
            dread[column] = scale * given[column]
        return
    gather(p_read, q, after, D, width)
    read = carray(p_read, width)
    bottom = read[columns]
    if bottom != 0:
        total = np.float32(0)
        for column in range(columns):
            dread[column] = scale * given[column] / bottom
            total += dread[column] * read[column] / bottom
        dread[columns] = -total


@njit
def back(p_e, p_u, p_du, p_dv, p_v, p_dread, p_read, before, after, dS, q, k, a, b, dout, dq, dk, dg, da, db, p, n,
         columns, width, scale, erase):  # fmt: skip
    """The gradients of one token, and dS from that of S_n to that of S_{n-1}."""
    R, D = q.shape[1], q.shape[3]
    e, b_n = carray(p_e, D), carray(at(b, p, 0, n), D)
    for r in range(R):
        read_gradient(p_dread, p_read, at(dout, p, r, n), at(q, p, r, n), after, D, columns, width, scale)
        query = carray(at(q, p, r, n), D)
        for d in range(D):
            dq[p, r, n, d] = dot(p_dread, plus(after, d * width), width)
            add_row(plus(dS, d * width), query[d], p_dread, width)
    gather(p_dv, at(k, p, 0, n), dS, D, width)
    if erase:
        gather(p_du, at(a, p, 0, n), dS, D, width)
        gather(p_u, at(b, p, 0, n), before, D, width)
    for d in range(D):
        row, old, keep = plus(dS, d * width), plus(before, d * width), splat(e[d])
        dk[p, 0, n, d] = dot(row, p_v, width)
        dg[p, 0, n, d] = e[d] * dot(old, row, width)
        if erase:
            da[p, 0, n, d] = dot(row, p_u, width)
            db[p, 0, n, d] = dot(old, p_du, width)
        for column in range(0, width, LANES):
            store(row, column, mul(keep, load(row, column)))
        if erase:
            add_row(row, b_n[d], p_du, width)


@njit
def copy(target, source, size):
    for n in range(0, size, LANES):
        store(target, n, load(source, n))


@njit
def walk(states, q, k, v, g, a, b, dout, kept, dS, dq, dk, dv, dg, da, db, stretch, columns, scale, erase, p):
    """State p forth over all stretches, keeping the state before each, and back from the last one."""
    (N, D), width = k.shape[2:], dS.shape[3]
    size, stretches = D * width, -(-N // stretch)
    p_e = plus(states, (stretch + 1) * size)
    p_u = plus(p_e, D)
    p_du = plus(p_u, width)
    p_dv = plus(p_du, width)
    p_v = plus(p_dv, width)
    p_dread = plus(p_v, width)
    p_read = plus(p_dread, width)
    for m in range(2 * stretches - 1):
        part = min(m, 2 * stretches - 2 - m)
        first = part * stretch
        count = min(stretch, N - first)
        copy(states, at(kept, p, part, 0), size)
        for i in range(count):
            n, old = first + i, plus(states, i * size)
            k_n, a_n, b_n = at(k, p, 0, n), at(a, p, 0, n), at(b, p, 0, n)
            steps(p_e, g, p, n, 1, D)
            load_values(p_v, v, p, n, 1, 0, columns, width, 1)
            step(old, plus(old, size), p_e, p_u, p_v, k_n, a_n, b_n, D, width, erase)
        if m < stretches - 1:
            copy(at(kept, p, part + 1, 0), plus(states, count * size), size)
            continue
        for i in range(count - 1, -1, -1):
            n, old = first + i, plus(states, i * size)
            steps(p_e, g, p, n, 1, D)
            load_values(p_v, v, p, n, 1, 0, columns, width, 1)
            back(p_e, p_u, p_du, p_dv, p_v, p_dread, p_read, old, plus(old, size), at(dS, p, 0, 0), q, k, a, b,
                 dout, dq, dk, dg, da, db, p, n, columns, width, scale, erase)  # fmt: skip
            copy(at(dv, p, 0, n), p_dv, columns)


def gradients(threads, counter, work, q, k, v, g, a, b, dout, kept, dS, dq, dk, dv, dg, da, db, stretch, columns, scale, erase):
    """dq (P, R, N, D), dk, dg, da, db (P, 1, N, D), dv (P, 1, N, columns), and dS (P, 1, D, width) in place.

    kept is (P, stretches, D, width), of which the first is the state that was given.
    """
    for thread in prange(threads):
        while True:
            p = take(counter)
            if p >= k.shape[0]:
                break
            walk(at(work, thread, 0, 0), q, k, v, g, a, b, dout, kept, dS, dq, dk, dv, dg, da, db, stretch, columns, scale,
                 erase, p)  # fmt: skip
