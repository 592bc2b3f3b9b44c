"""The selective scan on the CPU: channels in the lanes, one token after the other.

    P   rows        N   length        E   channels, a multiple of LANES        n   size of a channel's state

    x, delta, out (P, 1, N, E)      b, c (P, 1, N, n)      a (1, 1, n, E), times log2(e)      state (P, 1, n, E)

A token's b and c are the same for all channels: each of their numbers stands in every lane. h stays in the cache, since one
task owns a few channels of one row, for all tokens; they never meet others, so the bits of a result do not depend on who
computes what. The exponential is all but a few of the operations, and it is taken anew for every number of the state.
"""
import numpy as np
from numba import carray, njit, prange

from ..flash.simd import LANES, at, exp2, fma, load, mul, plus, splat, store, where
from ..flash.threads import take

BLOCKS = 4                                                  # vectors of channels in a task


@njit
def channels(x, delta, a, b, c, state, out, p, first, last):
    """Channels first .. last of row p, all tokens."""
    N, n, E = x.shape[2], a.shape[2], x.shape[3]
    for t in range(N):
        b_t, c_t = carray(at(b, p, 0, t), n), carray(at(c, p, 0, t), n)
        p_x, p_delta, p_out = at(x, p, 0, t), at(delta, p, 0, t), at(out, p, 0, t)
        for e in range(first, last, LANES):
            p_a, p_h = plus(at(a, 0, 0, 0), e), plus(at(state, p, 0, 0), e)
            time, read = load(p_delta, e), splat(np.float32(0))
            amount = mul(time, load(p_x, e))
            for j in range(n):
                # no time, no fading: also of a rate of -inf, of which 0 times it is NaN
                keep = exp2(where(time, mul(time, load(p_a, j * E))))
                h = fma(keep, load(p_h, j * E), mul(amount, splat(b_t[j])))
                store(p_h, j * E, h)
                read = fma(h, splat(c_t[j]), read)
            store(p_out, e, read)


def selective_scan(threads, counter, x, delta, a, b, c, state, out):
    """What is read of each channel, in out, and the last state in place of the first."""
    for _ in prange(threads):
        P, E, width = x.shape[0], x.shape[3], BLOCKS * LANES
        while True:
            task = take(counter)
            if task >= P * -(-E // width):
                break
            first = task // P * width
            channels(x, delta, a, b, c, state, out, task % P, first, min(first + width, E))
