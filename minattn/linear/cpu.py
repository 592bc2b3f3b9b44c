"""Backend "cpu" of the recurrence: its `Inputs` brought into the form that the kernel takes, and what it makes back.

The kernel wants float32, the last axis in one piece, D a multiple of LANES: what is not so is copied, in O(N).
"""
import functools

import numba
import numpy as np
from numba import types

from ..flash.compile import compiled
from ..flash.cpu import aligned, array_types, ready, zeros
from ..flash.simd import LANES
from ..flash.threads import can_start, run
from ..flash.tiles import PANEL
from . import kernels
from .inputs import Inputs

__all__ = ["FORMS", "can_start"]


def forward(x: Inputs, chunk):
    """What the queries read, (P, R, N, Dv), and the last state, (P, D, Dv)."""
    (P, R, N, D), Dv = x.q.shape, x.v.shape[-1]
    if N == 0 or P == 0:
        return np.zeros((P, R, N, Dv), np.float32), x.state
    q, k, *_ = ready(x.q, x.k[:, None])
    a, b, *_ = (k, k) if x.a is None or x.b is None else ready(x.a[:, None], x.b[:, None])
    g = ready(x.g[:, None])[0] if x.g.shape[-1] > 1 else x.g[:, None]
    v = x.v[:, None] if x.v.strides[-1] == x.v.itemsize else np.ascontiguousarray(x.v)[:, None]
    columns = -(-Dv // LANES) * LANES
    state, out = zeros(P, k.shape[3], columns), aligned(P, R, N, columns)
    state[:, :D, :Dv] = x.state
    threads = numba.get_num_threads()
    width, erase = width_of(P, columns, threads), x.a is not None
    work = zeros(threads, 1, 1, kernels.workspace(R, k.shape[3], width, 1 + erase))
    run(kernel(), threads, np.zeros(1, np.int64), work, q, k, v, g, a, b, state, out, width, min(chunk, kernels.TOKENS), erase)
    return out[..., :Dv], state[:, :D, :Dv]


# a chunk is a tile of the kernel, as far as it goes; token by token is one token a chunk
FORMS = {"recurrent": lambda x, chunk: forward(x, 1), "chunked": forward}


def width_of(P, columns, threads):
    """Columns of a task: all of a state where there are states enough for all threads, else a share in whole panels."""
    shares = -(-threads // P)
    return min(columns, -(-columns // (shares * PANEL)) * PANEL)


@functools.cache
def kernel():
    given, made, three, counter = array_types(np.dtype(np.float32))
    n, given6 = types.intp, [given] * 6
    signature = types.void(n, counter, made, *given6, three, made, n, n, types.boolean)
    return compiled(kernels.recurrence, signature, parallel=True)
