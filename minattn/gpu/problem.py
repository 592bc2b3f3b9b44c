"""An attention problem as GPU kernels take it: flat arrays, lengths and strides.

    q (B, H, N, D)   k (B, G, S, D)   v (B, G, S, D)   out (B, H, N, D)   lse (B, H, N)        each laid out in one piece
    kind, stored (B or 1, H or 1, tiles of queries, tiles of keys), partial (P, block_q, block_k)    core/blocks.py
    bias (B or 1, H or 1, N or 1, S or 1), its steps along the four axes 0 where it is 1

D is one of DIMS: shorter heads are filled up with zeros, which add nothing to a score and give zeros in out.
"""
from typing import Any, NamedTuple

import numpy as np

from ..core.blocks import BlockMap
from ..core.errors import BackendError
from .where import Host

DIMS = 32, 64, 128
cuda: Any = None                                                      # for kernels: whoever runs one puts its own in its place


class Launch(NamedTuple):
    """One kernel over a grid of blocks of threads; the simulator and a GPU both run it."""

    kernel: Any
    grid: tuple
    block: tuple
    arguments: tuple
    resident: int = 1                 # blocks that a processor is to hold at once: the more, the fewer registers a thread has


class Given(NamedTuple):
    """What every kernel of attention gets, as its one argument `x`."""

    q: Any
    k: Any
    v: Any
    bias: Any
    kind: Any
    stored: Any
    partial: Any
    out: Any
    lse: Any
    H: int
    G: int
    N: int
    S: int
    kind_b: int                       # how far apart the tiles of two rows are, and of two heads; 0 where they share them
    kind_h: int
    bias_b: int                       # and how far apart two numbers of the bias, along each axis
    bias_h: int
    bias_n: int
    bias_s: int
    scale: np.float32
    softcap: np.float32


class Problem(NamedTuple):
    """What kernels are called with, and what they are made for."""

    given: Given
    B: int
    D: int
    block_q: int
    block_k: int
    kind: str = "f32"                 # of q, k, v and out: "f32", or 16 bits as uint16: "f16", "bf16"
    place: Any = Host()               # where the arrays are (where.py), and those that a launch needs besides

    @property
    def options(self):
        """Every factory has these parameters: compiled in, so that what is not asked for costs nothing."""
        return {"D": self.D, "block_q": self.block_q, "block_k": self.block_k, "biased": self.given.bias.size > 0,
                "capped": bool(self.given.softcap > 0)}  # fmt: skip

    @property
    def row_tiles(self):
        return -(-self.given.N // self.block_q)


def problem(q, k, v, blocks: BlockMap, *, scale, softcap=None, bias=None, dims=DIMS, kind="f32"):
    """The `Problem` of NumPy arrays of four axes, as core.inputs.Inputs holds them; for a kind of 16 bits, as uint16.

    Raises
    ------
    BackendError
        If D or Dv is longer than the longest of `dims`.
    """
    (B, H, N, D), (_, G, S, Dv) = q.shape, v.shape
    dim = filled_up(D, Dv, dims)
    bias = np.zeros((1, 1, 1, 0), np.float32) if bias is None else bias
    dtype = np.float32 if kind == "f32" else np.uint16
    tiles = map_arrays(blocks)
    given = Given(
        q=flat(q, B, dim, dtype), k=flat(k, B, dim, dtype), v=flat(v, B, dim, dtype),
        bias=np.ascontiguousarray(bias, np.float32).ravel(),
        kind=tiles[0], stored=tiles[1], partial=tiles[2],
        out=np.zeros(B * H * N * dim, dtype), lse=np.zeros(B * H * N, np.float32), H=H, G=G, N=N, S=S,
        **map_steps(blocks), **bias_steps(bias.shape),
        scale=np.float32(scale), softcap=np.float32(softcap or 0),
    )  # fmt: skip
    return Problem(given, B=B, D=dim, block_q=blocks.block_q, block_k=blocks.block_k, kind=kind)


def filled_up(D, Dv, dims):
    """The D of the kernels that take heads of these dims."""
    if max(D, Dv) > max(dims):
        raise BackendError(f"D = {D} and Dv = {Dv}; the GPU kernels take at most {max(dims)}, and backend='cpu' any")
    return min(d for d in dims if d >= max(D, Dv))


def map_arrays(blocks):
    """kind, stored and partial of a block map, flat."""
    return blocks.kind.ravel(), blocks.stored.ravel(), np.ascontiguousarray(blocks.partial).view(np.uint8).ravel()


def map_steps(blocks):
    """How far apart the tiles of two rows are, and of two heads."""
    B, H, rows, columns = blocks.kind.shape
    return {"kind_b": rows * columns * H * (B > 1), "kind_h": rows * columns * (H > 1)}


def flat(a, B, dim, dtype):
    """(B or 1, heads, length, D) in one piece, with D filled up by zeros."""
    full = np.zeros((B, *a.shape[1:3], dim), dtype)
    full[..., : a.shape[3]] = a
    return full.ravel()


def bias_steps(shape):
    """How far apart the neighbours along each axis are in the flat bias; 0 along an axis of 1."""
    steps, step = {}, 1
    for name, size in zip(("bias_s", "bias_n", "bias_h", "bias_b"), shape[::-1], strict=True):
        steps[name] = step * (size > 1)
        step *= size
    return steps
