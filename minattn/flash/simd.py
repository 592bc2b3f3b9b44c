"""A vocabulary of explicit vectors for Numba: what the CPU kernels are written in.

    LANES   float32 numbers in one vector: 16 with AVX-512, else 8 (one AVX2 register, or two of NEON)
    vec     a Numba type for one such vector; it lives in a register
    p       the address of float32 or 16-bit numbers, from `at(array, ...)`; n counts elements from there

    at(array, i, j, k)   address of array[i, j, k, 0]      splat(x)                x in every lane
    load(p, n)           LANES numbers from p[n] on        add, sub, mul(a, b)     lane by lane
    read(p, n, brain)    the same, widened from 16 bits    largest(a, b)           lane by lane; b where one is NaN
    store(p, n, a)       LANES numbers to p[n] on          fma(a, b, c)            a * b + c, rounded once
    exp2(a), tanh(a)     see there                         unless_empty(a)         0 in lanes that are -inf
    lanes_sum(a)         their sum, as a number            seen(p, n, a)           a, -inf where the byte p[n] is 0
    plus(p, n)           the address n elements on      where(p, a)             a, 0 in lanes where p is 0
    ask(p, n)            p[n] will be read soon

Numba compiles scalar Python well, but whether a loop becomes vector code is LLVM's guess. These words leave nothing to
guess: each is one operation on `<LANES x float>`, which LLVM lowers to what the processor has.
"""
import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8

FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR, INTS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT32, LANES)
SHORTS, BYTES = ir.VectorType(ir.IntType(16), LANES), ir.VectorType(ir.IntType(8), LANES)
BYTE_P = ir.IntType(8).as_pointer()
float_p = types.CPointer(types.float32)


class VecType(types.Type):
    """The Numba type of one vector."""


@register_model(VecType)
class VecModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, VECTOR)


vec = VecType(name=f"vec{LANES}")


def word(signature, build):
    """What an intrinsic returns: its type, and the code for it, written by `build(builder, *values)`."""

    def code(context, builder, signature, values):
        result = build(builder, *values)
        return context.get_dummy_value() if result is None else result

    return signature, code


def same(number, kind=VECTOR):
    """A constant with the same number in every lane."""
    return ir.Constant(kind, [number] * LANES)


def call(builder, name, result, *values):
    """A call of one of LLVM's own functions, such as llvm.fma.v16f32."""
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def emit_load(builder, p, n, kind=VECTOR):
    value = builder.load(builder.bitcast(builder.gep(p, [n]), kind.as_pointer()))
    value.align = {VECTOR: 4, SHORTS: 2, BYTES: 1}[kind]    # nothing is promised beyond the alignment of one element
    return value


def emit_ask(builder, p, n):
    read, near, data = INT32(0), INT32(3), INT32(1)
    call(builder, "llvm.prefetch.p0i8", ir.VoidType(), builder.bitcast(builder.gep(p, [n]), BYTE_P), read, near, data)


def emit_store(builder, p, n, value):
    builder.store(value, builder.bitcast(builder.gep(p, [n]), VECTOR.as_pointer())).align = 4


def emit_splat(builder, number):
    nothing = ir.Constant(VECTOR, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nothing, number, INT32(0)), nothing, same(0, INTS))


def emit_fma(builder, a, b, c):
    return call(builder, f"llvm.fma.v{LANES}f32", VECTOR, a, b, c)


@intrinsic
def at(context, array, i, j, k):
    """The address of array[i, j, k, 0], for four axes with any strides; where there are fewer, the last indices do nothing.

    It keeps nothing alive: Numba frees an array that a kernel made after the last line that names it.
    """
    pointer = types.CPointer(array.dtype)

    def code(context, builder, signature, values):
        view = context.make_array(array)(context, builder, values[0])
        where = builder.ptrtoint(view.data, INT64)
        for index, stride in zip(values[1:], cgutils.unpack_tuple(builder, view.strides), strict=False):
            where = builder.add(where, builder.mul(index, stride))
        return builder.inttoptr(where, context.get_value_type(pointer))

    return pointer(array, types.intp, types.intp, types.intp), code


@intrinsic
def plus(context, p, n):
    """The address n elements further on."""
    return word(p(p, types.intp), lambda builder, p, n: builder.gep(p, [n]))


@intrinsic
def as_floats(context, p):
    """The same address, read as float32."""
    return word(float_p(p), lambda builder, p: builder.bitcast(p, FLOAT.as_pointer()))


@intrinsic
def load(context, p, n):
    """LANES numbers from p[n] on."""
    return word(vec(float_p, types.intp), emit_load)


@intrinsic
def read(context, p, n, brain):
    """LANES numbers from p[n] on, float32 or 16-bit: those are bfloat16 (the upper half of a float32) or else float16."""

    def build(builder, p, n, brain):
        if p.type.pointee == FLOAT:
            return emit_load(builder, p, n)
        bits = emit_load(builder, p, n, SHORTS)
        upper = builder.bitcast(builder.shl(builder.zext(bits, INTS), same(16, INTS)), VECTOR)
        half = builder.fpext(builder.bitcast(bits, ir.VectorType(ir.HalfType(), LANES)), VECTOR)
        return builder.select(brain, upper, half)

    return word(vec(p, types.intp, types.boolean), build)


@intrinsic
def ask(context, p, n):
    """Bid the memory to bring the cache line of p[n], which will be read soon; nothing waits for it."""
    return word(types.void(p, types.intp), emit_ask)


@intrinsic
def store(context, p, n, a):
    """LANES numbers to p[n] on."""
    return word(types.void(float_p, types.intp, vec), emit_store)


@intrinsic
def splat(context, x):
    """x in every lane."""
    return word(vec(types.float32), emit_splat)


@intrinsic
def add(context, a, b):
    """a + b"""
    return word(vec(vec, vec), lambda builder, a, b: builder.fadd(a, b))


@intrinsic
def sub(context, a, b):
    """a - b"""
    return word(vec(vec, vec), lambda builder, a, b: builder.fsub(a, b))


@intrinsic
def mul(context, a, b):
    """a * b"""
    return word(vec(vec, vec), lambda builder, a, b: builder.fmul(a, b))


@intrinsic
def fma(context, a, b, c):
    """a * b + c, rounded once."""
    return word(vec(vec, vec, vec), emit_fma)


@intrinsic
def largest(context, a, b):
    """The larger of the two in every lane; b where one is NaN."""
    return word(vec(vec, vec), lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


@intrinsic
def unless_empty(context, a):
    """a, with 0 in the lanes that are -inf: the top of a row that has seen nothing, so that -inf - top stays -inf."""
    return word(vec(vec), lambda builder, a: builder.select(builder.fcmp_ordered("==", a, same(-np.inf)), same(0.0), a))


@intrinsic
def seen(context, p, n, a):
    """a, with -inf in the lanes whose boolean, from p[n] on, is False."""

    def build(builder, p, n, a):
        hidden = builder.icmp_unsigned("==", emit_load(builder, p, n, BYTES), same(0, BYTES))
        return builder.select(hidden, same(-np.inf), a)

    return word(vec(p, types.intp, vec), build)


@intrinsic
def where(context, p, a):
    """a, with 0 in the lanes where p is 0: even of NaN, of which 0 times it makes NaN."""
    return word(vec(vec, vec), lambda builder, p, a: builder.select(builder.fcmp_ordered("==", p, same(0.0)), same(0.0), a))


@intrinsic
def lanes_sum(context, a):
    """The sum of the lanes: halves added to halves, so always in the same order."""

    def build(builder, a):
        lanes = LANES
        while lanes > 1:
            lanes //= 2
            halves = [ir.Constant(ir.VectorType(INT32, lanes), list(range(start, start + lanes))) for start in (0, lanes)]
            a = builder.fadd(*(builder.shuffle_vector(a, a, half) for half in halves))
        return builder.extract_element(a, INT32(0))

    return word(types.float32(vec), build)


# 2^r on [-1/2, 1/2] within 1.1e-7 of its size, and exactly 1 at 0: coefficients of r^5, r^4, .. 1
POLYNOMIAL = (1.3264728e-3, 9.671513e-3, 5.5507336e-2, 2.4022242e-1, 6.93147e-1, 1.0)
# tanh(x) / x on [-1/2, 1/2] within 1e-7 of its size, and exactly 1 at 0: coefficients of x^8, x^6, .. 1
TANH_NEAR_0 = (1.7241476e-2, -5.3045487e-2, 1.3325879e-1, -3.3333144e-1, 1.0)


def emit_polynomial(builder, coefficients, x):
    value = same(coefficients[0])
    for c in coefficients[1:]:
        value = emit_fma(builder, value, x, same(c))
    return value


def emit_exp2(builder, a):
    floor, shift = same(-127.0), same(1.5 * 2**23 + 127)
    a = builder.select(builder.fcmp_ordered("<", a, floor), floor, a)           # this way round, NaN stays NaN
    shifted = builder.fadd(a, shift)
    r = builder.fsub(a, builder.fsub(shifted, shift))
    power = builder.bitcast(builder.shl(builder.bitcast(shifted, INTS), same(23, INTS)), VECTOR)
    return builder.fmul(emit_polynomial(builder, POLYNOMIAL, r), power)


@intrinsic
def exp2(context, a):
    """2^a in every lane: relative error below 2e-7, exactly 0 from a = -126.5 down (and at -inf), NaN for NaN.

    a = n + r with n the nearest whole number, so |r| <= 1/2: 2^r by a polynomial, 2^n by writing n + 127 into the
    exponent bits. Adding 1.5 * 2^23 to a number rounds it to a whole one, which then stands in the lowest bits of the sum.
    For a up to 127: larger ones do not come up, since the largest score is subtracted first.
    """
    return word(vec(vec), emit_exp2)


@intrinsic
def tanh(context, a):
    """tanh in every lane: relative error below 4e-7, NaN for NaN.

    tanh |a| = 1 - 2 / (e^(2 |a|) + 1), but near 0 that difference would lose the digits, so there a polynomial. From 10 on
    it is 1 in float32.
    """

    def build(builder, a):
        size = call(builder, f"llvm.fabs.v{LANES}f32", VECTOR, a)
        size = builder.select(builder.fcmp_ordered(">", size, same(10.0)), same(10.0), size)
        power = emit_exp2(builder, builder.fmul(size, same(2 * np.log2(np.e))))
        far = builder.fsub(same(1.0), builder.fdiv(same(2.0), builder.fadd(power, same(1.0))))
        far = call(builder, f"llvm.copysign.v{LANES}f32", VECTOR, far, a)
        near = builder.fmul(a, emit_polynomial(builder, TANH_NEAR_0, builder.fmul(a, a)))
        return builder.select(builder.fcmp_ordered("<", size, same(0.5)), near, far)

    return word(vec(vec), build)
