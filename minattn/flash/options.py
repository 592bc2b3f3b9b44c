"""What stands between the product of a tile and its softmax: softcap or score_mod, bias and mask, for all kernels.

    st       S^T of one tile, (KEYS, PANEL) with its rows `row` numbers apart, in units of log 2: score * log2(e)
    block    which PANEL queries        tile   which KEYS keys

Every option is a branch taken once a tile, so one compiled kernel serves them all.
"""
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from ..core.blocks import EMPTY, FULL, PARTIAL  # noqa: F401
from .simd import LANES, at, float_p, fma, load, mul, plus, seen, splat, store, sub, tanh, word
from .tiles import KEYS, PANEL, transpose

LOG2E, LN2 = np.float32(np.log2(np.e)), np.float32(np.log(2.0))


class Options(NamedTuple):
    """Arrays with axes B and H have size 1 there where all rows, or all heads, share them."""

    kind: np.ndarray         # (B, H, blocks, tiles) uint8: EMPTY, FULL or PARTIAL
    span: np.ndarray         # (B, H, blocks, 2) int64: the first tile that is not empty, and one past the last
    stored: np.ndarray       # (B, H, blocks, tiles) int32: where in `partial`
    partial: np.ndarray      # (P, KEYS, PANEL) bool: each different partial tile once, keys down
    bias: np.ndarray         # (B, H, N or 1, S or 1) float32; of size 0 without one
    q_pos: np.ndarray        # (B, N) int64
    k_pos: np.ndarray        # (B, S) int64
    softcap: float           # 0 without one
    score_mod: int           # address of the compiled function over a tile (score_mod.py); 0 without one
    slope: int               # of its gradient


@njit
def shared(index, size):
    """The index along an axis that may be shared: 0 where its size is 1."""
    return 0 if size == 1 else index


@njit
def kind_of(o, b, h, block, tile):
    return o.kind[shared(b, o.kind.shape[0]), shared(h, o.kind.shape[1]), block, tile]


@njit
def change_scores(st, row, o, b, h, block, tile):
    """Scale has been applied with Q; here softcap or score_mod, then bias, then the mask: the order of core/reference.py."""
    if o.softcap > 0:
        cap(st, KEYS, row, PANEL, o.softcap)
    if o.score_mod != 0:
        modify(o.score_mod, st, st, row, o, b, h, block, tile)
    if o.bias.size > 0:
        add_bias(st, row, o.bias, b, h, block, tile)
    if kind_of(o, b, h, block, tile) == PARTIAL:
        hide(st, row, o.partial, o.stored[shared(b, o.kind.shape[0]), shared(h, o.kind.shape[1]), block, tile])
    for key in range(o.k_pos.shape[1] - tile * KEYS, KEYS):       # a short last tile: keys that do not exist
        for lane in range(0, PANEL, LANES):
            store(st, key * row + lane, splat(np.float32(-np.inf)))


@njit
def cap(st, rows, row, width, softcap):
    """Rows of `width` scores, `row` numbers apart, become softcap * tanh(score / softcap)."""
    size, per_size = splat(np.float32(softcap * LOG2E)), splat(np.float32(1 / (softcap * LOG2E)))
    for first in range(0, rows * row, row):
        for n in range(first, first + width, LANES):
            store(st, n, mul(size, tanh(mul(load(st, n), per_size))))


@njit
def slopes(slope, st, row, o, b, h, block, tile):
    """d (capped or modified score) / d score of a tile of plain scores."""
    if o.softcap > 0:
        per_size = splat(np.float32(1 / (o.softcap * LOG2E)))
        for first in range(0, KEYS * row, row):
            for n in range(first, first + PANEL, LANES):
                t = tanh(mul(load(st, n), per_size))
                store(slope, n, sub(splat(np.float32(1)), mul(t, t)))
    if o.score_mod != 0:
        modify(o.slope, slope, st, row, o, b, h, block, tile)


@njit
def add_bias(st, row, bias, b, h, block, tile):
    """S^T += the bias of the tile; it lies with its queries down, so it is turned, LANES x LANES numbers at a time."""
    b, h = shared(b, bias.shape[0]), shared(h, bias.shape[1])
    N, S = bias.shape[2:]
    first, start = block * PANEL, tile * KEYS
    if first + PANEL <= N and start + KEYS <= S:
        room = np.empty((1, LANES, 1, LANES), np.float32)       # named wherever it is used: an address keeps nothing alive
        for lane in range(0, PANEL, LANES):
            for key in range(0, KEYS, LANES):
                transpose(at(room, 0, 0, 0), LANES, plus(at(bias, b, h, first + lane), start + key), S)
                for n in range(LANES):
                    p = (key + n) * row + lane
                    store(st, p, fma(load(at(room, 0, n, 0), 0), splat(LOG2E), load(st, p)))
        return
    s = carray(st, (KEYS, row))                         # a tile at the edge, or a bias that queries or keys share
    for key in range(KEYS if S == 1 else min(KEYS, S - start)):
        for lane in range(PANEL if N == 1 else min(PANEL, N - first)):
            s[key, lane] += LOG2E * bias[b, h, shared(first + lane, N), shared(start + key, S)]


@njit
def hide(st, row, partial, tile):
    """-inf where the tile of the store, (KEYS, PANEL) booleans, says that a query may not look."""
    for key in range(KEYS):
        flags = at(partial, tile, key, 0)
        for lane in range(0, PANEL, LANES):
            store(st, key * row + lane, seen(flags, lane, load(st, key * row + lane)))


@intrinsic
def call_over_tile(context, address, out, st, row, b, h, q_pos, k_pos, queries, keys):
    """Call a function of score_mod.py by its address."""

    def build(builder, address, *values):
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        builder.call(builder.inttoptr(address, kind.as_pointer()), values)

    n = types.intp
    return word(types.void(types.int64, float_p, float_p, n, n, n, q_pos, k_pos, n, n), build)


@njit
def modify(address, out, st, row, o, b, h, block, tile):
    q_pos, k_pos = at(o.q_pos, shared(b, len(o.q_pos)), block * PANEL, 0), at(o.k_pos, shared(b, len(o.k_pos)), tile * KEYS, 0)
    queries, keys = min(PANEL, o.q_pos.shape[1] - block * PANEL), min(KEYS, o.k_pos.shape[1] - tile * KEYS)
    call_over_tile(address, out, st, row, b, h, q_pos, k_pos, queries, keys)
