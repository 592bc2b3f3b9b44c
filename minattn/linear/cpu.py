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
from . import kernels, kernels_backward
from .inputs import Inputs

__all__ = ["FORMS", "can_start", "gradients"]


def forward(x: Inputs, chunk):
    """The result, (P, R, N, Dv), and the last state, (P, D, Dv)."""
    (P, R, N, D), Dv = x.q.shape, x.values.shape[-1]
    if N == 0 or P == 0:
        return np.zeros((P, R, N, Dv), np.float32), x.state
    q, k, v, g, a, b = arrays(x)
    out, erase, threads = aligned(P, R, N, Dv), x.a is not None, numba.get_num_threads()
    columns = out.shape[3]
    width = width_of(P, columns, threads)
    starts, more = range(0, columns, width), LANES * x.normalize
    state = zeros(P, len(starts), k.shape[3], width + more)
    for share, start in enumerate(starts):
        part = x.state[..., start:min(start + width, Dv)]
        state[:, share, :D, :part.shape[-1]] = part
        if x.normalize:
            state[:, share, :D, min(width, columns - start)] = x.state[..., Dv]
    work = zeros(threads, 1, 1, kernels.workspace(R, k.shape[3], width + more, 1 + erase))
    run(kernel(), threads, np.zeros(1, np.int64), work, q, k, v, g, a, b, state, out, width,
        min(chunk, kernels.TOKENS), np.float32(x.scale), erase, x.normalize)  # fmt: skip
    last = np.empty_like(x.state)
    for share, start in enumerate(starts):
        part = last[..., start:min(start + width, Dv)]
        part[...] = state[:, share, :D, :part.shape[-1]]
    if x.normalize:
        last[..., Dv] = state[:, 0, :D, min(width, columns)]
    return out[..., :Dv], last


def arrays(x: Inputs):
    """q, k, v, g, a, b as the kernels read them, with four axes; k stands in for an erase that there is not."""
    q, k, *_ = ready(x.q, x.k[:, None])
    a, b, *_ = (k, k) if x.a is None or x.b is None else ready(x.a[:, None], x.b[:, None])
    g = ready(x.g[:, None])[0] if x.g.shape[-1] > 1 else x.g[:, None]
    v = x.values if x.values.strides[-1] == x.values.itemsize else np.ascontiguousarray(x.values)
    return q, k, v[:, None], g, a, b


def gradients(x: Inputs, dout, dstate, chunk):
    """Gradients of q, k, v, g, a, b and the state, as those of `Flat`, of which v may have the normaliser's column."""
    (P, R, N, D), Dv = x.q.shape, x.values.shape[-1]
    q, k, v, g, a, b = arrays(x)
    dout, chunk = ready(dout)[0], max(1, min(chunk, N))
    columns, erase = dout.shape[3], x.a is not None
    width, wide_D = columns + LANES * x.normalize, q.shape[3]
    kept, dS = aligned(P, max(1, -(-N // chunk)), wide_D, width), zeros(P, 1, wide_D, width)
    for made, given in ((kept[:, 0], x.state), (dS[:, 0], dstate)):
        made[...] = 0
        made[:, :D, :Dv] = given[..., :Dv]
        made[:, :D, columns:columns + x.normalize] = given[..., Dv:]
    dq, dk, dg, dv = aligned(P, R, N, wide_D), aligned(P, 1, N, wide_D), aligned(P, 1, N, wide_D), aligned(P, 1, N, columns)
    da, db = (zeros(P, 1, N, wide_D) for _ in range(2)) if erase else (dk, dk)
    threads = numba.get_num_threads()
    work = zeros(threads, 1, 1, kernels_backward.workspace(wide_D, width, chunk))
    run(kernel_backward(), threads, np.zeros(1, np.int64), work, q, k, v, g, a, b, dout, kept, dS, dq, dk, dv, dg, da, db,
        chunk, columns, np.float32(x.scale), erase)  # fmt: skip
    dg = dg[:, 0, :, :D] if x.g.shape[-1] > 1 else dg[:, 0, :, :D].sum(axis=-1, keepdims=True)
    last = np.concatenate([dS[:, 0, :D, :Dv], dS[:, 0, :D, columns:columns + x.normalize]], axis=-1)
    da, db = (da[:, 0, :, :D], db[:, 0, :, :D]) if erase else (np.zeros_like(x.k), np.zeros_like(x.k))
    return dq[..., :D], dk[:, 0, :, :D], dv[:, 0, :, :Dv], dg, da, db, last


# a chunk is a tile of the kernel, as far as it goes; token by token is one token a chunk
FORMS = {"recurrent": lambda x, chunk: forward(x, 1), "chunked": forward}


def width_of(P, columns, threads):
    """Columns of a task: all of a state where there are states enough for all threads, else a share in whole panels."""
    shares = -(-threads // P)
    return min(columns, -(-columns // (shares * PANEL)) * PANEL)


@functools.cache
def kernel_backward():
    given, made, _, counter = array_types(np.dtype(np.float32))
    n, given7, made8 = types.intp, [given] * 7, [made] * 8
    signature = types.void(n, counter, made, *given7, *made8, n, n, types.float32, types.boolean)
    return compiled(kernels_backward.gradients, signature, parallel=True)


@functools.cache
def kernel():
    given, made, _, counter = array_types(np.dtype(np.float32))
    n, given6, flag = types.intp, [given] * 6, types.boolean
    signature = types.void(n, counter, made, *given6, made, made, n, n, types.float32, flag, flag)
    return compiled(kernels.recurrence, signature, parallel=True)
