"""Is the answer right? Asked once for every rival and case, before anything is timed.

The judge is the reference in float64, on a part of the problem that stays small: all heads of up to 64 queries, which
positions as data make a problem of their own, and the whole gradient of the first and the last head.
"""
import functools

import numpy as np

from ..attention import attention, attention_backward
from .cases import inputs, options

LIMIT = 1e-5                                                          # largest error / largest entry, in float32
ROWS = 64


def chosen(case):
    """Indices of the queries that are looked at, the first and the last among them, and of the heads."""
    drawn = np.random.default_rng(case.N).permutation(case.N)[: ROWS - 2]
    return np.unique([0, case.N - 1, *drawn]), np.unique([0, case.H - 1])


def sample(case, results):
    """The part of (out,) or (out, dq, dk, dv) that is looked at, as NumPy arrays."""
    rows, heads = chosen(case)
    out, *grads = (np.asarray(result) for result in results)
    return [out[:, :, rows].copy(), *(grad[:, heads].copy() for grad in grads)]


@functools.singledispatch
def expected(case):
    """What `sample` should give."""
    rows, heads = chosen(case)
    a = {name: array.astype(np.float64) for name, array in inputs(case).items()}
    told = {**options(case), "backend": "numpy"}
    here = {"q_pos": case.S - case.N + rows, "k_pos": np.arange(case.S)}
    want = [attention(a["q"][:, :, rows], a["k"], a["v"], **here, **told)]
    if case.backward:                                                 # H = G: each head is a problem of its own
        dout, q, k, v = (a[name][:, heads] for name in ("dout", "q", "k", "v"))
        want += attention_backward(dout, q, k, v, **told)[:3]
    return want


def relative_error(got, want):
    """The largest error over the largest entry, of the worst of the arrays; NaN where there is one."""
    return max((float(np.abs(g - w).max() / np.abs(w).max()) for g, w in zip(got, want, strict=True)),
               key=lambda error: np.inf if np.isnan(error) else error)
