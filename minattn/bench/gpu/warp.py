"""One warp on its own: each instruction of gpu/instructions.py on 32 threads, against what NumPy says that it does.

The kernels and the twins of the simulator share one reading of where a lane's numbers belong. So each probe here lays its
operands out lane by lane as the PTX ISA draws them, and compares whole matrices. All numbers are different integers, small
enough that every sum is exact: a number of the wrong lane, or in the wrong half of a register, is seen.
"""
import functools
from typing import Any, NamedTuple

import numpy as np

from ...gpu import instructions
from ...gpu.problem import Launch, cuda
from .problems import as_bits, as_numbers

f32, u16, u32 = np.float32, np.uint16, np.uint32
copy, wait_for_copies, exp2 = instructions.copy_16_bytes, instructions.wait_for_copies, instructions.exp2
WARP, PIECE = 32, 8


class Probe(NamedTuple):
    """A launch of one warp, the array that it fills, and what should stand there; `limit` is of |error| / |wanted|."""

    launch: Launch
    out: Any
    wanted: np.ndarray
    limit: float = 0.0


def probes():
    """{name: function of a place that makes a `Probe`}."""
    made = {f"mma {kind}": functools.partial(multiplied, kind) for kind in ("bf16", "f16")}
    made |= {f"pack {kind}": functools.partial(packed, kind) for kind in ("bf16", "f16")}
    made |= {"ldmatrix": functools.partial(loaded, False), "ldmatrix, turned": functools.partial(loaded, True)}
    return made | {"cp.async": copied, "exp2": powers, "shuffles": shuffled}


def probe(place, kernel, given, wanted, limit=0.0):
    """A `Probe` of kernel(*given, out)."""
    out = place.zeros(wanted.size, wanted.dtype)
    return Probe(Launch(kernel, (1, 1, 1), (WARP,), (*map(place.put, given), out)), out, wanted.ravel(), limit)


def multiplied(kind, place):
    """C + A B, 16 x 16 by 16 x 8; integers up to 256 are exact in 16 bits of either kind."""
    rng = np.random.default_rng(5)
    a, b, c = (rng.permutation(size).astype(f32) for size in (256, 128, 128))
    b -= 64
    wanted = (c.reshape(16, 8) + a.reshape(16, 16) @ b.reshape(16, 8)).astype(f32)
    return probe(place, make_multiply(kind), (as_bits(a, kind), as_bits(b, kind), c), wanted)


@functools.cache
def make_multiply(kind):
    mma = instructions.mma(kind)

    def multiply(a, b, c, out):
        lane = u32(cuda.threadIdx.x)
        g, two_t = lane // u32(4), lane % u32(4) * u32(2)
        upper, lower = g * u32(16) + two_t, (g + u32(8)) * u32(16) + two_t            # rows g and g + 8 of A
        a0 = u32(a[upper]) | u32(a[upper + u32(1)]) << u32(16)
        a1 = u32(a[lower]) | u32(a[lower + u32(1)]) << u32(16)
        a2 = u32(a[upper + u32(8)]) | u32(a[upper + u32(9)]) << u32(16)
        a3 = u32(a[lower + u32(8)]) | u32(a[lower + u32(9)]) << u32(16)
        b0 = u32(b[two_t * u32(8) + g]) | u32(b[(two_t + u32(1)) * u32(8) + g]) << u32(16)            # column g of B
        b1 = u32(b[(two_t + u32(8)) * u32(8) + g]) | u32(b[(two_t + u32(9)) * u32(8) + g]) << u32(16)
        i, j = g * u32(8) + two_t, (g + u32(8)) * u32(8) + two_t
        c0, c1, c2, c3 = mma(a0, a1, a2, a3, b0, b1, c[i], c[i + u32(1)], c[j], c[j + u32(1)])
        out[i] = c0
        out[i + u32(1)] = c1
        out[j] = c2
        out[j + u32(1)] = c3

    return multiply


def packed(kind, place):
    """Pairs of float32 numbers to one register: any number, ties, numbers that are too small, and too large."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal(16 * WARP).astype(f32) * f32(10.0) ** rng.integers(-12, 6, 16 * WARP).astype(f32)
    halves = as_bits(rng.standard_normal(8 * WARP).astype(f32), kind)                   # ties: half way to the next number
    x[: len(halves)] = (as_numbers(halves, kind).astype(np.float64) + as_numbers(halves + u16(1), kind)) / 2
    x[-4:] = 0, -0.0, np.inf, -np.inf
    with np.errstate(over="ignore"):
        bits = as_bits(x, kind).astype(u32)
    return probe(place, make_pack(kind), (x,), bits[0::2] | bits[1::2] << 16)


@functools.cache
def make_pack(kind):
    both = instructions.pack(kind)

    def pack(x, out):
        lane = u32(cuda.threadIdx.x)
        for i in range(8):
            pair = lane + u32(32 * i)
            out[pair] = both(x[pair * u32(2)], x[pair * u32(2) + u32(1)])

    return pack


def loaded(turned, place):
    """Four matrices of 8 x 8 numbers of 16 bits from shared memory, their rows in any order there."""
    matrices = np.random.default_rng(7).permutation(2**16)[:256].astype(u16).reshape(4, 8, 8)
    order = np.random.default_rng(8).permutation(WARP).astype(u32)                      # where row r of all 32 stands
    shown = matrices.swapaxes(1, 2) if turned else matrices
    pairs = shown[..., 0::2].astype(u32) | shown[..., 1::2].astype(u32) << u32(16)         # (matrix, g, t)
    wanted = pairs.transpose(1, 2, 0)                                                   # lane 4 g + t has a register each
    return probe(place, make_load(turned), (matrices.ravel(), order), wanted)


@functools.cache
def make_load(turned):
    read = instructions.ldmatrix_turned if turned else instructions.ldmatrix

    def load(rows, order, out):
        lane = u32(cuda.threadIdx.x)
        tile = cuda.shared.array(256, u16, alignment=16)
        for i in range(8):
            tile[order[lane] * u32(8) + u32(i)] = rows[lane * u32(8) + u32(i)]
        cuda.syncthreads()
        place = lane * u32(4)
        out[place], out[place + u32(1)], out[place + u32(2)], out[place + u32(3)] = read(tile, order[lane] * u32(8))

    return load


def copied(place):
    """Sixteen bytes a lane to another lane's place, some of them cut short: zeros after that."""
    source = np.arange(1, 1 + WARP * PIECE).astype(u16)
    sizes = np.array([16, 16, 8, 0], u32)[np.arange(WARP) % 4]
    order = np.random.default_rng(9).permutation(WARP).astype(u32)
    wanted = np.zeros((WARP, PIECE), u16)
    wanted[order] = np.where(2 * np.arange(PIECE) < sizes[:, None], source.reshape(WARP, PIECE), 0)
    return probe(place, fetch, (source, sizes, order), wanted)


def fetch(source, sizes, order, out):
    lane = u32(cuda.threadIdx.x)
    tile = cuda.shared.array(256, u16, alignment=16)
    copy(tile, order[lane] * u32(8), source, lane * u32(8), sizes[lane])
    wait_for_copies()
    cuda.syncthreads()
    for i in range(8):
        out[lane * u32(8) + u32(i)] = tile[lane * u32(8) + u32(i)]


def powers(place):
    """2^x for x from -126 to 126, and far below, where a hidden score stands: exactly 0."""
    x = np.concatenate([np.linspace(-126, 126, 8 * WARP - 4), [0, -1e3, -1e30, -5e29]]).astype(f32)
    return probe(place, power, (x,), np.exp2(x.astype(np.float64)).astype(f32), 2.0**-21)


def power(x, out):
    lane = u32(cuda.threadIdx.x)
    for i in range(8):
        out[lane + u32(32 * i)] = exp2(x[lane + u32(32 * i)])


def shuffled(place):
    """The exchange by which the lanes of a row find their maximum and sum."""
    x = np.random.default_rng(10).permutation(WARP).astype(f32)
    return probe(place, shuffle, (x,), np.stack([x[np.arange(WARP) ^ step] for step in (1, 2, 4, 8, 16)]))


def shuffle(x, out):
    lane = u32(cuda.threadIdx.x)
    for i in range(5):
        out[u32(32 * i) + lane] = cuda.shfl_xor_sync(0xFFFFFFFF, x[lane], 1 << i)
