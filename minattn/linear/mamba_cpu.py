"""Backend "cpu" of the selective scan: a `Scan` (mamba.py) in the form that the kernel takes, and what it makes back."""
import functools

import numba
import numpy as np
from numba import types

from ..flash.compile import compiled
from ..flash.cpu import aligned, array_types, ready
from ..flash.options import LOG2E
from ..flash.threads import can_start, run
from . import kernels_scan

__all__ = ["can_start", "forward"]


def forward(s):
    """Of a `Scan`: what is read, (P, N, E), and the last state, (P, E, n)."""
    (P, N, E), n = s.x.shape, s.a.shape[1]
    if N == 0 or P == 0:
        return np.zeros((P, N, E), np.float32), s.state
    x, delta, a, *_ = ready(s.x[:, None], s.delta[:, None], np.ascontiguousarray(s.a.T * LOG2E)[None, None])
    b, c, *_ = ready(s.b[:, None], s.c[:, None], columns=1)
    width = x.shape[3]
    state, out = aligned(P, 1, n, width), aligned(P, 1, N, width)
    state[:, 0, :, :E], state[:, 0, :, E:] = s.state.swapaxes(1, 2), 0
    threads = numba.get_num_threads()
    run(kernel(), threads, np.zeros(1, np.int64), x, delta, a, b, c, state, out)
    return out[:, 0, :, :E], state[:, 0, :, :E].swapaxes(1, 2)


@functools.cache
def kernel():
    given, made, _, counter = array_types(np.dtype(np.float32))
    signature = types.void(types.intp, counter, *[given] * 5, made, made)
    return compiled(kernels_scan.selective_scan, signature, parallel=True)
