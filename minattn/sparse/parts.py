"""Attention as a union of parts: each some queries before some keys, computed by the one kernel, joined by `merge`.

    lse   log-sum-exp of a row, by which parts over different keys are one softmax again
    X     width of a row: D, Dv, or 1 for the lse

Dao et al. 2022, arXiv:2205.14135, section 3.1. A pattern is a function `parts_of(N, S, ...)` that yields a `Part` for each
disjoint share of the visible pairs, the first with all queries. The gradients of a part need the out and the lse of the
whole; then the shares add up.
"""
from typing import NamedTuple

import numpy as np

from ..attention import attention, attention_backward
from ..backends import engine
from ..core.errors import OptionError
from ..core.inputs import prepare
from ..core.softmax import merge


class SparseGrads(NamedTuple):
    """Gradients with respect to q, k and v, each of its shape and type."""

    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray


class Part(NamedTuple):
    """Some of the queries and some of the keys: one problem for the kernel, or `stride` of them, one for each residue."""

    queries: slice
    keys: slice | np.ndarray
    options: dict
    stride: int = 1
    pad: tuple = (0, 0)                # rows of zeros before and after the queries, so that every residue has as many

    def of_queries(self, a):
        """(..., N, X) -> (stride, ..., rows, X)."""
        a = a[..., self.queries, :]
        if any(self.pad):
            a = np.pad(a, [(0, 0)] * (a.ndim - 2) + [self.pad, (0, 0)])
        return _apart(a, self.stride)

    def of_keys(self, a):
        """(..., S, X) -> (stride, ..., keys, X); a view wherever `keys` is a slice."""
        return _apart(a[..., self.keys, :], self.stride)

    def unpad(self, a):
        """What belongs to this part's queries, from what the kernel returned for them."""
        a = _together(a)
        return a[..., self.pad[0] : a.shape[-2] - self.pad[1], :]


def _apart(a, stride):
    """(..., rows * stride, X) -> (stride, ..., rows, X): each residue a sequence of its own, and nothing copied."""
    *lead, length, width = a.shape
    return np.moveaxis(a.reshape(*lead, length // stride, stride, width), -2, 0)


def _together(a):
    """The way back: (stride, ..., rows, X) -> (..., rows * stride, X)."""
    stride, *lead, rows, width = a.shape
    return np.moveaxis(a, 0, -2).reshape(*lead, rows * stride, width)


def forward(parts_of, pattern, arrays, options, backend, return_lse):
    """Attention over the union of the parts: (out, lse) of each, merged."""
    x = prepare(*arrays, **options)
    q, k, v = (np.asarray(a).astype(x.work, copy=False) for a in arrays)          # 16 bits stay float32 until the end
    first, *others = parts_of(q.shape[-2], k.shape[-2], *pattern)

    def attend(part):
        mine, keys, values = part.of_queries(q), part.of_keys(k), part.of_keys(v)
        return attention(mine, keys, values, **part.options, **options, backend=backend, return_lse=True)

    kernel = engine(backend, x).__name__.endswith("flash.cpu")
    (out,), (lse,) = attend(first)                                # a stride of 1: one residue, in the order of the queries
    for part in others:
        more, more_lse = attend(part)
        _join(out[..., part.queries, :], lse[..., part.queries], more, more_lse, part, kernel)
    out = out.astype(x.dtype, copy=False)
    return (out, lse) if return_lse else out


def _join(out, lse, more, more_lse, part, kernel):
    """Join what a part gave to what stands in `out` and `lse`, views that are changed in place."""
    if kernel:
        from ..flash.join import join

        join(out, lse, more, more_lse, part.pad[0])
        return
    with np.errstate(invalid="ignore", over="ignore"):            # NaN and inf in what is seen show, as in attention
        out[:], lse[:] = merge(out, lse, part.unpad(more), part.unpad(more_lse[..., None])[..., 0])


def backward(parts_of, pattern, dout, arrays, out, lse, options, backend):
    """The gradients of the parts, each made with the out and lse of the whole, added up."""
    x = prepare(*arrays, **options)
    if (out is None) != (lse is None):
        raise OptionError("out and lse go together: give both, as the forward returned them, or neither")
    if out is None:
        out, lse = forward(parts_of, pattern, arrays, options, backend, True)
    Dv = x.v.shape[-1:]
    for name, array, dim in (("dout", dout, Dv), ("out", out, Dv), ("lse", lse, ())):
        x.accept(name, array, dim)
    q, k, v, dout, out, lse = (np.asarray(a).astype(x.work, copy=False) for a in (*arrays, dout, out, lse))
    dq, dk, dv = (np.zeros(a.shape, x.work) for a in (q, k, v))
    for part in parts_of(q.shape[-2], k.shape[-2], *pattern):
        share = attention_backward(
            part.of_queries(dout), part.of_queries(q), part.of_keys(k), part.of_keys(v), out=part.of_queries(out),
            lse=part.of_queries(lse[..., None])[..., 0], **part.options, **options, backend=backend,
        )  # fmt: skip
        dq[..., part.queries, :] += part.unpad(share.dq)
        dk[..., part.keys, :] += _together(share.dk)
        dv[..., part.keys, :] += _together(share.dv)
    return SparseGrads(*(d.astype(np.asarray(a).dtype, copy=False) for d, a in zip((dq, dk, dv), arrays, strict=True)))
