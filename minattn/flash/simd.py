"""A vocabulary of vectors for Numba: a dozen words, each one machine instruction or a handful.

    LANES      numbers in a vector: 16 with AVX-512, 8 otherwise (AVX2, or two registers of a smaller machine)
    at         pointer to an entry of an array        load, store    a vector from and to a pointer
    splat      one number in all lanes                add, sub, mul, div, maximum, fma (a b + c)
    exp2       2 to the power of each lane            hsum, hmax     sum and maximum over the lanes
    product    C += A B on a register tile: the one place where the work is done

Numba compiles loops over scalars well, but does not keep a tile of accumulators in registers. So these words are written
as LLVM instructions on `<16 x float>`; LLVM turns them into what the processor has. There is no C and no assembler.
"""
import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16 if llvm.get_host_cpu_features().get("avx512f") else 8
ROWS, COLUMNS = (8, 2) if LANES == 16 else (4, 2)  # the register tile: 16 accumulators of 32 registers, 8 of 16
PANEL = COLUMNS * LANES                            # numbers across a register tile

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR, _INTEGERS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
POINTER = types.CPointer(types.float32)


class VectorType(types.Type):
    """LANES numbers of float32."""

    def __init__(self):
        super().__init__(name=f"float32x{LANES}")


vector = VectorType()


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _VECTOR)


def _llvm(builder, name, *arguments):
    """Call the LLVM intrinsic `name` on vectors."""
    full = f"llvm.{name}.v{LANES}f32"
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(arguments))
    function = builder.module.globals.get(full) or ir.Function(builder.module, kind, full)
    return builder.call(function, arguments)


def _constant(x, kind=_VECTOR):
    return ir.Constant(kind, [x] * LANES)


def _splat(builder, x):
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(nothing, x, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_INTEGERS, [0] * LANES))


def _read(builder, pointer):
    x = builder.load(builder.bitcast(pointer, _VECTOR.as_pointer()))
    x.align = 4  # rows of the caller's arrays begin anywhere
    return x


def _write(builder, x, pointer):
    builder.store(x, builder.bitcast(pointer, _VECTOR.as_pointer())).align = 4


@intrinsic
def at(typing, array, index):
    """Pointer to the entry that lies `index` numbers after the first one of `array`, in memory."""
    if not isinstance(array, types.Array):
        return None

    def build(context, builder, signature, arguments):
        base = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.gep(base, [arguments[1]])

    return POINTER(array, types.intp), build


@intrinsic
def after(typing, pointer, index):
    """The pointer `index` numbers further on."""
    return POINTER(POINTER, types.intp), lambda context, builder, signature, a: builder.gep(a[0], [a[1]])


@intrinsic
def load(typing, pointer):
    """The LANES numbers at a pointer."""
    return vector(POINTER), lambda context, builder, signature, a: _read(builder, a[0])


@intrinsic
def store(typing, pointer, x):
    """Write a vector to a pointer."""

    def build(context, builder, signature, arguments):
        _write(builder, arguments[1], arguments[0])
        return context.get_dummy_value()

    return types.void(POINTER, vector), build


@intrinsic
def splat(typing, x):
    """One number in all lanes."""
    return vector(types.float32), lambda context, builder, signature, a: _splat(builder, a[0])


def _word(build, count, doc):
    """An intrinsic of `count` vectors that gives one."""

    def code(context, builder, signature, arguments):
        return build(builder, *arguments)

    if count == 1:
        def word(typing, a):
            return vector(vector), code
    elif count == 2:
        def word(typing, a, b):
            return vector(vector, vector), code
    else:
        def word(typing, a, b, c):
            return vector(vector, vector, vector), code
    word.__doc__ = doc
    return intrinsic(word)


add = _word(lambda builder, a, b: builder.fadd(a, b), 2, "a + b")
sub = _word(lambda builder, a, b: builder.fsub(a, b), 2, "a - b")
mul = _word(lambda builder, a, b: builder.fmul(a, b), 2, "a b")
div = _word(lambda builder, a, b: builder.fdiv(a, b), 2, "a / b")
fma = _word(lambda builder, a, b, c: _llvm(builder, "fma", a, b, c), 3, "a b + c, rounded once")
above = _word(
    lambda builder, a, b: builder.uitofp(builder.fcmp_ordered(">", a, b), _VECTOR), 2, "1 where a > b, else 0"
)  # fmt: skip
choose = _word(
    lambda builder, yes, a, b: builder.select(builder.fcmp_ordered(">", yes, _constant(0.0)), a, b), 3, "a where yes > 0, else b"
)  # fmt: skip
maximum = _word(
    lambda builder, a, b: builder.select(builder.fcmp_unordered(">", a, b), a, b), 2,
    "The larger of each lane; NaN where a is NaN.",
)  # fmt: skip

# 2^f on [-1/2, 1/2] to a relative error of 7.5e-8: the polynomial of degree 5 whose largest relative error is least
_EXP2 = (0.0013264715, 0.009671513, 0.05550734, 0.24022242, 0.693147, 1.0)


def _exp2(builder, x):
    """2^x = 2^n 2^f with n the nearest integer: a polynomial for 2^f, and n added to the exponent bits."""
    low, high = _constant(-126.0), _constant(127.0)
    inside = builder.select(builder.fcmp_ordered("<", x, low), low, x)
    inside = builder.select(builder.fcmp_ordered(">", inside, high), high, inside)
    n = _llvm(builder, "nearbyint", inside)
    f = builder.fsub(inside, n)
    y = _constant(_EXP2[0])
    for c in _EXP2[1:]:
        y = _llvm(builder, "fma", y, f, _constant(c))
    exponent = builder.shl(builder.fptosi(n, _INTEGERS), _constant(23, _INTEGERS))
    y = builder.bitcast(builder.add(builder.bitcast(y, _INTEGERS), exponent), _VECTOR)
    return builder.select(builder.fcmp_ordered("<", x, low), _constant(0.0), y)            # exactly 0, also for -inf


exp2 = _word(_exp2, 1, "2^x in each lane; 0 below -126, 2^127 above 127, NaN for NaN.")


def _across(builder, x, join):
    """Halves joined with each other until one number is left."""
    width = LANES // 2
    while width:
        order = [(lane + width) % LANES for lane in range(LANES)]
        turned = builder.shuffle_vector(x, x, ir.Constant(_INTEGERS, order))
        x = join(builder, x, turned)
        width //= 2
    return builder.extract_element(x, ir.Constant(_I32, 0))


@intrinsic
def hsum(typing, x):
    """The sum of all lanes."""
    return types.float32(vector), lambda context, builder, signature, a: _across(builder, a[0], lambda b, u, v: b.fadd(u, v))


@intrinsic
def hmax(typing, x):
    """The largest of all lanes."""
    larger = lambda b, u, v: b.select(b.fcmp_unordered(">", u, v), u, v)  # noqa: E731
    return types.float32(vector), lambda context, builder, signature, a: _across(builder, a[0], larger)


def _product(rows, columns, fresh):
    """C[r, j] (+)= sum_d A[r, d] B[d, j] for `rows` rows of A and `columns` vectors of B; `fresh` begins at 0.

    All of C is held in registers over the whole depth. Each step loads `columns` vectors of B, takes one number of each
    row of A into all lanes, and does rows x columns fused multiply-adds.
    """

    @intrinsic
    def product(typing, c, c_row, a, a_row, a_step, b, b_step, depth):
        def build(context, builder, signature, arguments):
            c, c_row, a, a_row, a_step, b, b_step, depth = arguments
            number = lambda n: ir.Constant(_I64, n)  # noqa: E731
            tile = [
                builder.gep(c, [builder.add(builder.mul(c_row, number(r)), number(j * LANES))])
                for r in range(rows) for j in range(columns)
            ]  # fmt: skip
            held = [cgutils.alloca_once(builder, _VECTOR) for _ in tile]                   # LLVM keeps these in registers
            for slot, pointer in zip(held, tile, strict=True):
                builder.store(_constant(0.0) if fresh else _read(builder, pointer), slot)
            with cgutils.for_range(builder, depth, intp=_I64) as loop:
                b_here = builder.gep(b, [builder.mul(loop.index, b_step)])
                a_here = builder.gep(a, [builder.mul(loop.index, a_step)])
                across = [_read(builder, builder.gep(b_here, [number(j * LANES)])) for j in range(columns)]
                for r in range(rows):
                    each = _splat(builder, builder.load(builder.gep(a_here, [builder.mul(a_row, number(r))])))
                    for j in range(columns):
                        slot = held[r * columns + j]
                        builder.store(_llvm(builder, "fma", each, across[j], builder.load(slot)), slot)
            for slot, pointer in zip(held, tile, strict=True):
                _write(builder, builder.load(slot), pointer)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(POINTER, integer, POINTER, integer, integer, POINTER, integer, integer), build

    return product


tile_fresh, tile_more = _product(ROWS, COLUMNS, True), _product(ROWS, COLUMNS, False)
