"""Backend "cpu": the problem of `Inputs` brought into the form that the kernels take, and their results back.

The kernels want float32 or 16-bit numbers, the last axis in one piece and a multiple of LANES: what is not so is copied
(O(N) memory; the usual layouts are taken as they are). float64 runs the tiled NumPy form, online.py.
"""
import functools
import math

import numba
import numpy as np
from numba import types

from ..core import reference
from ..core.block_maps import blocks_of
from . import backward as backward_kernel
from . import decode as decode_kernel
from . import forward as forward_kernel
from . import online
from .compile import compiled
from .decode import FOUR
from .options import LOG2E, Options
from .simd import LANES
from .threads import can_start, run
from .tiles import KEYS, PANEL

FEW = 8                               # up to so many queries, reading the keys costs more than multiplying
NO_EXTRA = np.zeros((1, 1, 0, 0), np.float32)
OWNERS = 8                            # from this many KV heads on, each has one owner in the backward
BYTES = 64                            # a vector that does not cross a cache line loads fastest


def forward(x, pages=None):
    """(out, None for the weights, lse) of the problem `x`; for `pages` see `reads_pages`."""
    if x.work == np.float64 or not can_start() or (mod := compiled_mod(x)) is None:
        return online.forward(x)
    (B, H, N, _), S, Dv = x.q.shape, x.k.shape[2], x.v.shape[3]
    sinks = np.full(H, -np.inf, np.float32) if x.sink_logits is None else x.sink_logits.astype(np.float32)
    if B * N * S == 0:
        return np.zeros((B, H, N, Dv), np.float32), None, np.broadcast_to(sinks[:, None], (B, H, N)).copy()
    if N <= FEW and x.score_mod is None:
        return decode(x, sinks, *(pages or (x.k, x.v, *in_one_piece(B, S))))
    q, k, v, brain = ready(x.q, x.k, x.v)
    out, lse = aligned(B, H, N, v.shape[3]), np.empty((B, H, N), np.float32)
    panels = panels_of(B * H, N)
    threads = numba.get_num_threads()
    work = aligned(threads, 1, 1, forward_kernel.workspace(panels, q.shape[3], v.shape[3]))
    options = options_of(x, mod)
    run(forward_compiled(q.dtype), threads, np.zeros(1, np.int64), work, panels, q, k, v, out, lse,
        np.float32(x.scale), brain, sinks, options)  # fmt: skip
    if x.score_mod is not None and np.isnan(lse).any():         # where score_mod failed, its error shows in NumPy
        return online.forward(x)
    return out[..., :Dv], None, lse


def reads_pages(x, k, v):
    """Whether `forward(x, (k, v, table, lengths))` takes keys and values from pages; then x.k and x.v only lend their shapes.

    k (pages, G, P, D), v (pages, G, P, Dv), table (B, pages of a row) and lengths (B,) in int64: see decode.py.
    """
    (_, _, N, D), S, Dv = x.q.shape, x.k.shape[2], v.shape[3]
    whole = k.dtype.itemsize <= 4 and D % LANES == Dv % LANES == 0    # no page need be copied to fill a vector
    return x.work == np.float32 and 0 < N <= FEW and x.batch * S > 0 and x.score_mod is None and whole and can_start()


@functools.lru_cache(maxsize=64)
def in_one_piece(batch, S):
    """Table and lengths of a cache in one piece: row b has one page, with all its keys."""
    return np.arange(batch, dtype=np.int64)[:, None], np.full(batch, S, np.int64)


def decode(x, sinks, k, v, table, lengths):
    """`forward` for few queries: the rows of a group side by side, so that its keys are read once."""
    (B, H, N, D), G, Dv = x.q.shape, x.k.shape[1], x.v.shape[3]
    k, v, brain = ready(k, v)
    real = H // G * N
    rows = -(-real // FOUR) * FOUR
    q, of_rows = np.zeros((B, G, rows, k.shape[3]), np.float32), np.zeros((G, rows), np.float32)
    np.multiply(reference.group(x.q, G), x.scale * LOG2E, out=q[:, :, :real, :D], dtype=np.float32)
    of_rows[:, :real].reshape(G, -1, N)[:] = sinks.reshape(G, -1, 1)
    out, lse = np.empty((B, G, rows, v.shape[3]), np.float32), np.empty((B, G, rows), np.float32)
    run(decode_compiled(k.dtype), numba.get_num_threads(), np.zeros(1, np.int64), q, k, v, table, lengths, extra_of(x, rows),
        of_rows, out, lse, np.float32(x.softcap or 0), brain, k.dtype != np.float32)  # fmt: skip
    return out[:, :, :real, :Dv].reshape(B, H, N, Dv), None, lse[:, :, :real].reshape(B, H, N)


def extra_of(x, rows):
    """Bias and mask of a decoding step as one array (B or 1, G, S, rows): see decode.py. Of size 0 where there is neither."""
    (_, H, N, _), (_, G, S, _) = x.q.shape, x.k.shape
    visible = x.visible()
    if visible is not None and visible.all():
        visible = None
    if visible is None and x.bias is None:
        return NO_EXTRA
    more: np.ndarray = np.zeros((1, 1, 1, 1), np.float32) if x.bias is None else x.bias.astype(np.float32) * LOG2E
    if visible is not None:
        more = np.where(visible, more, np.float32(-np.inf))
    extra = np.zeros((len(more), G, S, rows), np.float32)
    extra[..., : H // G * N] = np.broadcast_to(more, (len(more), H, N, S)).reshape(len(more), G, -1, S).swapaxes(2, 3)
    return extra


weights = online.weights


def backward(x, dout, out=None, lse=None, score_mod_grad=None):
    """dq, dk, dv, dbias, dsink of the problem `x`."""
    (B, H, N, D), (G, S, Dv) = x.q.shape, x.v.shape[1:]
    if x.work == np.float64 or B * N * S == 0 or not can_start():
        return online.backward(x, dout, out, lse, score_mod_grad)
    if (mod := compiled_mod(x, score_mod_grad, slope=True)) is None:
        return online.backward(x, dout, out, lse, score_mod_grad)
    if out is None:
        out, _, lse = forward(x)
    q, k, v, do, brain = ready(x.q, x.k, x.v, dout, columns=PANEL)
    o, _ = ready(out, columns=PANEL, half=False)
    lse = np.ascontiguousarray(lse, np.float32)
    dq, dk, dv = aligned(B, H, N, q.shape[3]), aligned(B, G, tiled(S), k.shape[3]), aligned(B, G, tiled(S), v.shape[3])
    threads = numba.get_num_threads()
    work = aligned(threads, 1, 1, backward_kernel.workspace(q.shape[3], v.shape[3]))
    options, wild = options_of(x, mod), np.zeros(1, np.int64)
    run(backward_compiled(q.dtype), threads, np.zeros(1, np.int64), work, q, k, v, do, o, lse,
        dq, dk, dv, np.float32(x.scale), brain, B * G >= OWNERS, wild, options)  # fmt: skip
    if wild[0]:                                                 # NaN or inf somewhere: the careful form knows who sees it
        return online.backward(x, dout, out, lse, score_mod_grad)
    dsink = None if x.sink_logits is None else reference.sink_backward(x, lse, reference.row_delta(x, dout, out))
    dbias = None if x.bias is None else online.backward(x, dout, out, lse, score_mod_grad)[3]
    return dq[..., :D], dk[:, :, :S, :D], dv[:, :, :S, :Dv], dbias, dsink


def tiled(S):
    """S rounded up to whole tiles."""
    return -(-S // KEYS) * KEYS


def zeros(*shape):
    made = aligned(*shape)
    made[:] = 0
    return made


def panels_of(heads, N):
    """How many panels a task has: many, so that a tile of keys serves them all, but few enough for sixteen tasks."""
    panels = 8
    while panels > 1 and heads * -(-N // (panels * PANEL)) < 16:
        panels //= 2
    return panels


def ready(*arrays, columns=LANES, half=True):
    """The arrays as kernels read them, and whether 16-bit numbers among them are bfloat16."""
    half = half and len({a.dtype for a in arrays}) == 1 and arrays[0].dtype.itemsize == 2
    made = []
    for a in arrays:
        if not (a.flags.aligned and a.dtype.isnative):        # strides of whole numbers, bytes in this machine's order
            a = a.astype(a.dtype.newbyteorder("="))
        a = a.view(np.uint16) if half else a.astype(np.float32, copy=False)
        short = -a.shape[3] % columns
        if short:
            a = np.pad(a, [(0, 0)] * 3 + [(0, short)])
        if a.strides[3] != a.itemsize:
            a = np.ascontiguousarray(a)
        made.append(a)
    return *made, half and arrays[0].dtype.name == "bfloat16"


def aligned(*shape):
    """An empty float32 array that begins at a multiple of BYTES, and so do its rows where they are as long as vectors."""
    size = math.prod(shape[:-1]) * (last := -(-shape[-1] // LANES) * LANES)
    room = np.empty(size * 4 + BYTES, np.uint8)
    start = -room.ctypes.data % BYTES
    return room[start : start + size * 4].view(np.float32).reshape(*shape[:-1], last)


def compiled_mod(x, score_mod_grad=None, *, slope=False):
    """score_mod and, if asked for, its slope, compiled; () without one, None where Numba cannot compile it."""
    if x.score_mod is None:
        return ()
    from .score_mod import over_tiles

    return over_tiles(x.score_mod, score_mod_grad, slope=slope) or None


def options_of(x, mod):
    blocks = blocks_of(x, PANEL, KEYS)
    score_mod, slope, *_ = *(function.address for function in mod), 0, 0
    return Options(
        kind=blocks.kind, span=blocks.span, stored=blocks.stored, partial=blocks.keys_first,
        bias=plain(NO_EXTRA if x.bias is None else x.bias, np.float32),
        q_pos=plain(x.q_pos, np.int64), k_pos=plain(x.k_pos, np.int64),
        softcap=x.softcap or 0.0, score_mod=score_mod, slope=slope,
    )  # fmt: skip


def plain(a, dtype):
    """Read-only and in one piece: one type for Numba, whatever the caller's array is, so that one compiled kernel serves all."""
    a = np.require(a, dtype, ["C", "A"]).view()
    a.flags.writeable = False
    return a


def table(number, axes, readonly=False):
    return types.Array(number, axes, "C", readonly)


# what `options_of` makes; asking Numba for the type of each value takes 0.1 ms
OPTIONS = types.NamedTuple(
    (table(types.uint8, 4), table(types.int64, 4), table(types.int32, 4), table(types.boolean, 3), table(types.float32, 4, True),
     table(types.int64, 2, True), table(types.int64, 2, True), types.float64, types.int64, types.int64), Options)  # fmt: skip


@functools.cache
def forward_compiled(dtype):
    given, made, lse, counter = array_types(dtype)
    line = types.Array(types.float32, 1, "C")
    given3, number, flag = [given] * 3, types.float32, types.boolean
    signature = types.void(types.intp, counter, made, types.intp, *given3, made, lse, number, flag, line, OPTIONS)
    return compiled(forward_kernel.forward, signature, parallel=True)


@functools.cache
def backward_compiled(dtype):
    given, made, lse, counter = array_types(dtype)
    given4, made3 = [given] * 4, [made] * 3
    out = array_types(np.dtype(np.float32))[0]
    flag = types.boolean
    signature = types.void(types.intp, counter, made, *given4, out, lse, *made3, types.float32, flag, flag, counter, OPTIONS)
    return compiled(backward_kernel.backward, signature, parallel=True)


@functools.cache
def decode_compiled(dtype):
    given, _, lse, counter = array_types(dtype)
    four, two = types.Array(types.float32, 4, "C"), types.Array(types.float32, 2, "C")
    flag, whole = types.boolean, [types.Array(types.int64, n, "C", readonly=True) for n in (2, 1)]
    signature = types.void(types.intp, counter, four, given, given, *whole, four, two, four, lse, types.float32, flag, flag)
    return compiled(decode_kernel.decode, signature, parallel=True)


def array_types(dtype):
    """Numba's types of an input (any strides), of a result, of an lse and of a counter: so nothing is compiled twice."""
    given = types.Array(numba.from_dtype(dtype), 4, "A", readonly=True)
    return given, types.Array(types.float32, 4, "A"), types.Array(types.float32, 3, "C"), types.Array(types.int64, 1, "C")
