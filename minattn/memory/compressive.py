"""Compressive memory: what leaves Transformer-XL's memory is not dropped but mixed, c rows to one, into a second memory.

Rae et al. 2019, "Compressive Transformers for Long-Range Sequence Modelling", arXiv:1911.05507, section 3 and algorithm 2.

    c  rate, rows that become one        M  rows of the memory        P  rows of the compressed memory        E  width of a row
    mean            f(x) = (x_1 + .. + x_c) / c
    max             f(x) = the largest of x_1 .. x_c in each channel
    convolution     f(x) = x_1 w_1 + .. + x_c w_c,   kernel w (c, E, E), learned; eye(E) / c in all of its parts is the mean

    a segment sees  [compressed; memory; segment], which reaches c P + M tokens back in one layer, for P + M rows held

Both memories are first in, first out. There is no new attention: `transformer_xl_attention(x, weights, memory=memory.rows)`
takes the rows as they stand, and counts a compressed row as one step of distance. No gradient flows back into either. So a
kernel learns from a loss of its own, algorithm 2's attention reconstruction: what a segment reads from c rows, by content
alone, it should read from the one that they became.
"""
from typing import Any, NamedTuple

import numpy as np

from ..attention import attention, attention_backward
from ..core.errors import OptionError, ShapeError
from ..core.projection import merge_heads, split_heads
from ..core.shapes import choice, count, floats
from .transformer_xl import checked, latest

KINDS = "mean", "max", "convolution"


def compress(x, rate, *, kind="mean", kernel=None):
    """Every c rows as one.

    Parameters
    ----------
    x : array, (..., N, E)
        N is a multiple of c.
    rate : int
        c.
    kind : {"mean", "max", "convolution"}
    kernel : array, (c, E, E)
        For "convolution" alone.

    Returns
    -------
    array, (..., N / c, E)

    Raises
    ------
    ShapeError
        If N does not divide, or the kernel is of another shape.
    OptionError
        If rate is below 1, kind unknown, or a kernel comes without "convolution" or the other way round.

    References
    ----------
    Rae et al. 2019, arXiv:1911.05507, section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from minattn.memory import compress
    >>> x = np.array([[1.0, 8.0], [3.0, 2.0], [5.0, 5.0], [7.0, 1.0]])
    >>> compress(x, 2), compress(x, 2, kind="max")
    (array([[2., 5.], [6., 3.]]), array([[3., 8.], [7., 5.]]))
    """
    groups, kernel = _groups(x, rate, kind, kernel)
    if kind == "mean":
        return groups.mean(axis=-2)
    if kind == "max":
        return groups.max(axis=-2)
    return np.einsum("...nce,cef->...nf", groups, kernel)


class Grads(NamedTuple):
    """Gradients with respect to what was given; None for a kernel where there is none."""

    dx: np.ndarray
    dkernel: np.ndarray | None


def compress_backward(dout, x, rate, *, kind="mean", kernel=None):
    """Gradients of `compress`: dout (..., N / c, E) to Grads(dx, dkernel). A maximum's goes to the first row that has it.

    Raises
    ------
    ShapeError
        If dout does not have the output's shape; and whatever `compress` raises.
    """
    groups, kernel = _groups(x, rate, kind, kernel)
    dout, shape = floats("dout", dout), (*groups.shape[:-2], groups.shape[-1])
    if dout.shape != shape:
        raise ShapeError(f"dout is {dout.shape}; it must be (..., N / c, E) = {shape}")
    each, dkernel = dout[..., None, :], None                                      # (..., N / c, 1, E)
    if kind == "mean":
        dx = np.broadcast_to(each / rate, groups.shape)
    elif kind == "max":
        dx = np.where(np.arange(rate)[:, None] == groups.argmax(axis=-2, keepdims=True), each, 0)
    else:
        dx = np.einsum("...nf,cef->...nce", dout, kernel)
        dkernel = np.einsum("nce,nf->cef", groups.reshape(-1, *groups.shape[-2:]), dout.reshape(-1, dout.shape[-1]))
    return Grads(dx.reshape(np.shape(x)), dkernel)


class CompressiveMemory:
    """The latest rows as they were, and behind them older ones, c in one.

    Parameters
    ----------
    length, compressed_length : int
        M and P. Up to c - 1 rows more wait in the memory until c of them can leave together.
    rate : int
        c.
    kind, kernel
        As for `compress`.

    Attributes
    ----------
    memory, compressed : arrays, (..., rows, E), oldest first
        None before the first `append`.

    References
    ----------
    Rae et al. 2019, arXiv:1911.05507, section 3.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> memory, weights = ma.CompressiveMemory(4, 6, rate=3), ma.XLWeights.random(8, heads=2)
    >>> for segment in np.random.default_rng(0).standard_normal((9, 4, 8)):      # nine segments of four tokens
    ...     out = ma.transformer_xl_attention(segment, weights, memory=memory.rows)
    ...     memory.append(segment)
    >>> memory.compressed.shape, memory.memory.shape, memory.reach                # 18 tokens in 6 rows, and two that wait
    ((6, 8), (6, 8), 24)
    """

    def __init__(self, length, compressed_length, *, rate, kind="mean", kernel=None):
        self.length, self.compressed_length = count("length", length, 0), count("compressed_length", compressed_length, 0)
        self.rate, self.kind, self.kernel = count("rate", rate, 1), choice("kind", kind, KINDS), kernel
        self.memory: Any = None
        self.compressed: Any = None
        if kind != "convolution" or kernel is None:                               # a kernel's E is known with the first rows
            _groups(np.zeros((0, 1)), rate, kind, kernel)

    @property
    def rows(self):
        """[compressed; memory], (..., rows, E), for the next segment to see; None before the first `append`."""
        return None if self.memory is None else np.concatenate([self.compressed, self.memory], axis=-2)

    @property
    def reach(self):
        """How many tokens back the oldest row begins."""
        return 0 if self.memory is None else self.rate * self.compressed.shape[-2] + self.memory.shape[-2]

    @property
    def nbytes(self):
        """Bytes of all rows."""
        return 0 if self.memory is None else self.memory.nbytes + self.compressed.nbytes

    def append(self, x):
        """Take the rows of a segment, (..., N, E), and compress what is too old for the memory.

        Raises
        ------
        ShapeError
            If they differ from earlier ones in anything but their number; then nothing is taken.
        """
        x = floats("x", x)
        memory = x[..., :0, :] if self.memory is None else self.memory
        if x.ndim < 2 or x.ndim != memory.ndim or (*x.shape[:-2], x.shape[-1]) != (*memory.shape[:-2], memory.shape[-1]):
            raise ShapeError(f"x is {x.shape} but the memory is {memory.shape}; only N of (..., N, E) may differ")
        rows = np.concatenate([memory, x.astype(memory.dtype, copy=False)], axis=-2)
        leaving = max(rows.shape[-2] - self.length, 0) // self.rate * self.rate
        made = compress(rows[..., :leaving, :], self.rate, kind=self.kind, kernel=self.kernel).astype(memory.dtype, copy=False)
        older = made if self.compressed is None else np.concatenate([self.compressed, made], axis=-2)
        self.memory, self.compressed = rows[..., leaving:, :].copy(), latest(older, self.compressed_length).copy()


class ReconstructionLoss(NamedTuple):
    """How much of what a segment reads is lost by compression, and the slope that a kernel learns from."""

    loss: float
    dkernel: np.ndarray | None


def reconstruction_loss(h, x, weights, rate, *, kind="mean", kernel=None):
    """Mean squared difference between what a segment reads from the rows x and from what they are compressed to.

    Parameters
    ----------
    h : array, (..., N, E)
        The segment that reads.
    x : array, (..., M, E)
        The rows that leave the memory.
    weights : XLWeights
        Their w_q, w_k and w_v; none of them has a gradient here, nor h or x.
    rate, kind, kernel
        As for `compress`.

    Returns
    -------
    ReconstructionLoss(loss, dkernel)

    Raises
    ------
    As `compress` and `attention` do.

    References
    ----------
    Rae et al. 2019, arXiv:1911.05507, algorithm 2.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> from minattn.memory import reconstruction_loss
    >>> h, x = np.random.default_rng(0).standard_normal((2, 12, 8))
    >>> weights = ma.XLWeights.random(8, heads=2)
    >>> float(reconstruction_loss(h, x, weights, 1).loss), reconstruction_loss(h, x, weights, 3).loss > 0
    (0.0, True)
    """
    h, x, weights = floats("h", h), floats("x", x), checked(weights, np.shape(x)[-1:])
    if h.ndim < 2 or h.shape[-1] != x.shape[-1] or h.shape[-2] == 0:
        raise ShapeError(f"h is {h.shape} but x is {x.shape}; it must be (..., N, E) with x's E, and N at least 1")
    H, small = len(weights.u), compress(x, rate, kind=kind, kernel=kernel)
    q = split_heads(h @ weights.w_q, H)
    (k, v), (k_small, v_small) = ([split_heads(rows @ w, H) for w in (weights.w_k, weights.w_v)] for rows in (x, small))
    lost = attention(q, k_small, v_small) - attention(q, k, v)
    loss = float((lost**2).mean(dtype=np.float64))
    if kernel is None:
        return ReconstructionLoss(loss, None)
    d = attention_backward(2 * lost / lost.size, q, k_small, v_small)
    dsmall = sum(merge_heads(a) @ w.T
                 for a, w in ((d.dk, weights.w_k), (d.dv, weights.w_v)))  # fmt: skip
    return ReconstructionLoss(loss, compress_backward(dsmall, x, rate, kind=kind, kernel=kernel).dkernel)


def _groups(x, rate, kind, kernel):
    """x as (..., N / c, c, E), and the kernel, once all fits."""
    x, rate = floats("x", x), count("rate", rate, 1)
    choice("kind", kind, KINDS)
    if (kernel is None) == (kind == "convolution"):
        raise OptionError(f"kind is {kind!r} {'without' if kernel is None else 'with'} a kernel; it belongs to 'convolution'")
    if x.ndim < 2 or x.shape[-2] % rate:
        raise ShapeError(f"x is {x.shape}; it must be (..., N, E) with N a multiple of c = {rate}")
    *lead, N, E = x.shape
    if kernel is not None:
        kernel = floats("kernel", kernel)
        if kernel.shape != (rate, E, E):
            raise ShapeError(f"kernel is {kernel.shape}; with c = {rate} and x of E = {E} it must be (c, E, E) = {(rate, E, E)}")
    return x.reshape(*lead, N // rate, rate, E), kernel
