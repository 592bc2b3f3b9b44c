"""Tiles: the one product that all kernels are made of, and how numbers get into a tile and out of it.

    C (rows, PANEL)   a panel of the result          PANEL   queries (or channels) side by side, in COLUMNS vectors
    A (rows, depth)   read one number at a time      ROWS    rows of C that are worked on at once
    B (depth, PANEL)  read in vectors                KEYS    keys in a tile

`product` computes ROWS x PANEL numbers of C = A B. All of them stay in registers while the depth goes by: each step loads
COLUMNS vectors of B and ROWS single numbers of A, and does ROWS * COLUMNS fused multiply-adds with them. That is what
brings a matrix product from the speed of memory to the speed of arithmetic.

Because A is read number by number, it may be stored with rows or with columns together, so no operand is ever transposed:
the scores of a tile are kept as S^T (keys, queries), with a query in each lane, and then

    S^T = K Q^T      A = K          by rows          B = Q^T          (D, queries), transposed once for all keys
    O^T = V^T P^T    A = V^T        by columns of V  B = P^T          (keys, queries), where S^T was
"""
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .simd import (
    INT32,
    INT64,
    LANES,
    VECTOR,
    at,
    emit_fma,
    emit_load,
    emit_splat,
    emit_store,
    float_p,
    fma,
    lanes_sum,
    mul,
    plus,
    read,
    same,
    splat,
    store,
    word,
)  # fmt: skip

# the accumulators, the vectors of B and one of A must fit in the registers: 32 with AVX-512, 16 with AVX2
ROWS, COLUMNS = (8, 2) if LANES == 16 else (4, 3)
PANEL = COLUMNS * LANES
KEYS = 64


def product_tile(start, rows=ROWS, columns=COLUMNS):
    """C <- start + A B on a register tile of `rows` x `columns` vectors; `start` is "zero", "C", or "faded": C times a row."""

    @intrinsic
    def product(context, c, c_row, a, a_row, a_step, b, b_row, depth, fade):
        def build(builder, c, c_row, a, a_row, a_step, b, b_row, depth, fade):
            tile = [(row, column) for row in range(rows) for column in range(columns)]
            row_of_c = [builder.gep(c, [builder.mul(c_row, INT64(row))]) for row in range(rows)]
            row_of_a = [builder.mul(a_row, INT64(row)) for row in range(rows)]
            lanes = [INT64(column * LANES) for column in range(columns)]
            if start == "zero":
                first = [same(0.0)] * len(tile)
            else:
                first = [emit_load(builder, row_of_c[row], lanes[column]) for row, column in tile]
            if start == "faded":
                factors = [emit_load(builder, fade, lane) for lane in lanes]
                first = [builder.fmul(value, factors[column]) for value, (_, column) in zip(first, tile, strict=True)]

            before, loop, after = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("end")
            builder.branch(loop)
            builder.position_at_end(loop)
            step, a_now, b_now = builder.phi(INT64), builder.phi(a.type), builder.phi(b.type)
            sums = [builder.phi(VECTOR) for _ in tile]
            b_vectors = [emit_load(builder, b_now, lane) for lane in lanes]
            new = []
            for row in range(rows):                          # each number of A just before its use: fewer registers at a time
                a_vector = emit_splat(builder, builder.load(builder.gep(a_now, [row_of_a[row]])))
                old = sums[row * columns : (row + 1) * columns]
                new += [emit_fma(builder, a_vector, b, c) for b, c in zip(b_vectors, old, strict=True)]
            going = (builder.add(step, INT64(1)), builder.gep(a_now, [a_step]), builder.gep(b_now, [b_row]), *new)
            for phi, entering, staying in zip((step, a_now, b_now, *sums), (INT64(0), a, b, *first), going, strict=True):
                phi.add_incoming(entering, before)
                phi.add_incoming(staying, loop)
            builder.cbranch(builder.icmp_signed("<", going[0], depth), loop, after)

            builder.position_at_end(after)
            for value, (row, column) in zip(new, tile, strict=True):
                emit_store(builder, row_of_c[row], lanes[column], value)

        n = types.intp
        return word(types.void(float_p, n, float_p, n, n, float_p, n, n, float_p), build)

    return product


product, product_more, product_faded = product_tile("zero"), product_tile("C"), product_tile("faded")


@intrinsic
def transpose(context, target, target_row, source, source_row):
    """LANES x LANES numbers: target[j, i] = source[i, j]. Pairs of rows trade halves, then quarters, and so on."""

    def build(builder, target, target_row, source, source_row):
        rows = [emit_load(builder, source, builder.mul(source_row, INT64(i))) for i in range(LANES)]
        half = LANES // 2
        while half:
            for i in (i for i in range(LANES) if not i & half):
                upper, lower = rows[i], rows[i + half]
                # of every 2 * half columns, row i takes the left halves of both and row i + half the right ones
                for row, side in ((i, 0), (i + half, half)):
                    picks = [(j & ~half) + side + (LANES if j & half else 0) for j in range(LANES)]
                    rows[row] = builder.shuffle_vector(upper, lower, ir.Constant(ir.VectorType(INT32, LANES), picks))
            half //= 2
        for j, row in enumerate(rows):
            emit_store(builder, target, builder.mul(target_row, INT64(j)), row)

    return word(types.void(float_p, types.intp, float_p, types.intp), build)


@njit
def load_rows(tile, source, b, h, first, count, rows, scale, brain):
    """source[b, h, first : first + count] as float32, times `scale`, to tile (rows, D); rows beyond `count` are 0.

    True where every number is finite: x * 0 is 0 for those and NaN for the others.
    """
    D = source.shape[3]
    factor, nothing = splat(scale), splat(np.float32(0))
    wild = nothing
    for n in range(count):
        p, row = at(source, b, h, first + n), plus(tile, n * D)
        for d in range(0, D, LANES):
            x = mul(read(p, d, brain), factor)
            wild = fma(x, nothing, wild)
            store(row, d, x)
    for n in range(count * D, rows * D, LANES):
        store(tile, n, nothing)
    return lanes_sum(wild) == 0


@njit
def transpose_tile(target, source, rows, columns):
    """target (columns, rows) = source (rows, columns), both sizes multiples of LANES."""
    for i in range(0, rows, LANES):
        for j in range(0, columns, LANES):
            transpose(plus(target, j * rows + i), rows, plus(source, i * columns + j), columns)
