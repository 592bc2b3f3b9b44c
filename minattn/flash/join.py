"""`merge` on the CPU, in place: what a part of the keys gave is joined to what the others gave, one pass, on all threads.

    out (heads, N, Dv)           lse (heads, N)             of the keys so far; they become those of all keys
    more (R * heads, rows, Dv)   more_lse (R * heads, rows)   of other keys, for each of R residues: query n stands at row
                                                            (n + pad) // R of residue (n + pad) % R

NumPy would walk over `more` once to bring its queries back into their order, and three times more to weigh and add.
"""
import functools

import numpy as np
from numba import carray, njit, prange, types

from .compile import compiled
from .simd import at
from .threads import run

CHUNK = 1024                          # queries, a task: their rows of `out` stay in the cache


def join(out, lse, more, more_lse, pad):
    """Change `out` (..., N, Dv) and `lse` (..., N), views along N; more is (R, ..., rows, Dv). All of them float32."""
    if out.size:
        heads = [a.reshape(-1, *a.shape[-2:]) for a in (out, lse[..., None], more, more_lse[..., None])]
        run(join_compiled(), *heads, len(more), pad)


def join_queries(out, lse, more, more_lse, R, pad):
    heads, N, Dv = out.shape
    chunks = -(-N // CHUNK)
    for task in prange(heads * chunks):
        h, first = task // chunks, task % chunks * CHUNK
        stop = min(first + CHUNK, N)
        for start in range(first, min(first + R, stop)):
            r, row = (start + pad) % R * heads + h, (start + pad) // R
            for n in range(start, stop, R):                           # one residue's rows stand one after the other
                here, there = lse[h, n, 0], more_lse[r, row, 0]
                top = here if here > there else there                 # NaN where one is
                if top != -np.inf:                                    # both empty: 0 stays 0
                    share, other = np.exp(here - top), np.exp(there - top)
                    total = share + other
                    lse[h, n, 0] = top + np.log(total)
                    weigh(at(out, h, n, 0), at(more, r, row, 0), Dv, share / total, other / total)
                row += 1


@njit
def weigh(p_out, p_more, Dv, share, other):
    out, more = carray(p_out, Dv), carray(p_more, Dv)
    for d in range(Dv):
        out[d] = share * out[d] + other * more[d]


@functools.cache
def join_compiled():
    array = types.Array(types.float32, 3, "A")
    return compiled(join_queries, types.void(array, array, array, array, types.intp, types.intp), parallel=True)
