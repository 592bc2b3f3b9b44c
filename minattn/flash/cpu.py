"""Backend "cpu": what `attention` asks for, by the kernels of this room, in O(N) memory.

    few queries                    decode.py     reading the keys is the work
    many queries                   forward.py    multiplying is the work
    float64, score_mod, gradients  online.py     the same tiles in NumPy, slower

16-bit floats are widened to float32, and keys and values packed, once: memory of the size of the inputs, never N x S. With
many queries, values with a NaN or inf among them go to online.py too, which keeps what a row may not see out of it.
"""
import functools

import numpy as np

from ..core.blocks import FULL, BlockMap, block_map
from ..core.grid import grid
from ..core.mask import Mask
from ..core.masks import window
from ..core.reference import group
from . import online

FEW = 8                                                 # up to so many queries, reading the keys costs more than multiplying
NONE = np.zeros((0, 0, 0, 0), np.float32)


def forward(x):
    """(out, None for the weights, lse) of the problem `x`."""
    if x.work != np.float32 or x.score_mod is not None or 0 in x.q.shape or 0 in x.k.shape:
        return online.forward(x)
    if x.q.shape[2] <= FEW:
        return _decode(x)
    return _forward(x) if np.isfinite(x.v).all() else online.forward(x)


backward, weights = online.backward, online.weights


def _forward(x):
    from .forward import forward as kernel
    from .tiles import BLOCK_K, BLOCK_Q, pack_keys, pack_values

    (B, H, N, _), S, Dv = x.q.shape, x.k.shape[2], x.v.shape[3]
    out, lse = np.empty((B, H, N, Dv), np.float32), np.empty((B, H, N), np.float32)
    tiles = blocks(x, BLOCK_Q, BLOCK_K)
    # stored transposed, a key a row, as the scores are; one tile at least, for a kernel that looks at none
    partial = tiles.partial.swapaxes(1, 2) if len(tiles.partial) else np.zeros((1, BLOCK_K, BLOCK_Q), bool)
    kernel(
        _widened(x.q), pack_keys(_widened(x.k)), pack_values(_widened(x.v)), S, out, lse, tiles.kind, tiles.stored,
        np.ascontiguousarray(partial), _bias(x, (B, H, N, S)), _sinks(x), np.float32(x.scale), np.float32(x.softcap or 0),
    )  # fmt: skip
    return out, None, lse


def _decode(x):
    from .decode import decode as kernel
    from .simd import LANES
    from .tiles import LOG2E

    (B, H, N, _), (_, G, S, _), Dv = x.q.shape, x.k.shape, x.v.shape[3]
    scale = np.float32(x.scale) * (1 if x.softcap else LOG2E)
    q = np.ascontiguousarray(group(_to_lanes(_widened(x.q), LANES) * scale, G))
    out, lse = np.empty((*q.shape[:3], -(-Dv // LANES) * LANES), np.float32), np.empty(q.shape[:3], np.float32)
    visible, bias = x.visible(), _bias(x, (B, H, N, S))
    visible = NONE.astype(bool) if visible is None else np.broadcast_to(visible, (B, H, N, S))
    visible, bias = (np.zeros((B, G, 0, 0), a.dtype) if a.size == 0 else group(a, G) for a in (visible, bias))
    sinks = _sinks(x)
    sinks = np.repeat(sinks, N).reshape(G, -1) if sinks.size else np.zeros((0, 0), np.float32)
    kernel(q, _to_lanes(_widened(x.k), LANES), _to_lanes(_widened(x.v), LANES), visible, bias, np.float32(x.softcap or 0), sinks,
           out, lse)  # fmt: skip
    return out[..., :Dv].reshape(B, H, N, Dv), None, lse.reshape(B, H, N)


def _widened(a):
    return a.astype(np.float32, copy=False)


def _to_lanes(a, lanes):
    """The last axis contiguous and filled up with zeros to whole vectors; no copy where it is so already."""
    if missing := -a.shape[-1] % lanes:
        a = np.pad(a, [(0, 0)] * 3 + [(0, missing)])
    aligned = a.strides[-1] == 4 and all(stride % 4 == 0 for stride in a.strides)
    return a if aligned else np.ascontiguousarray(a)


def _bias(x, shape):
    return NONE if x.bias is None else np.broadcast_to(_widened(x.bias), shape)


def _sinks(x):
    return np.zeros(0, np.float32) if x.sink_logits is None else _widened(x.sink_logits)


def blocks(x, block_q, block_k):
    """The block map of the problem `x`; that of a rule is kept for the next call with the same rule and positions."""
    B, N, S = x.sizes
    H = x.q.shape[1]
    rule = x.rule
    if x.array is not None:
        rule = _as_rule(x.array) if rule is None else rule & _as_rule(x.array)
    if rule is None:
        if (x.k_pos >= 0).all():
            shape = 1, 1, -(-N // block_q), -(-S // block_k)
            return BlockMap(np.full(shape, FULL, np.uint8), np.full(shape, -1, np.int32), np.zeros((0, block_q, block_k), bool),
                            block_q, block_k)  # fmt: skip
        rule = window(None, None)
    if x.array is not None:
        return block_map(rule, x.grid(), block_q, block_k)
    return _kept(rule, x.q_pos.tobytes(), x.k_pos.tobytes(), (B, N, S, H), block_q, block_k)


@functools.lru_cache(maxsize=32)
def _kept(rule, q_pos, k_pos, sizes, block_q, block_k):
    B, N, S, H = sizes
    q_pos, k_pos = np.frombuffer(q_pos, np.int64).reshape(-1, N), np.frombuffer(k_pos, np.int64).reshape(-1, S)
    return block_map(rule, grid(q_pos, k_pos, batch=B, heads=H), block_q, block_k)


def _as_rule(array):
    """A mask given as an array (B or 1, H or 1, N or 1, S or 1), as a rule that goes by index."""

    def at(g):
        axes = zip((g.b, g.h, g.n, g.s), array.shape, strict=True)
        return array[tuple(index if size > 1 else 0 * index for index, size in axes)]

    return Mask.node(at, "array", by_row=True)
