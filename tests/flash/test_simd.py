"""The vocabulary says what NumPy says; exp2 to the error that is stated; the one product for any depth and strides."""
import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="numba is not installed: there is no backend cpu")

from minattn.flash import tiles  # noqa: E402
from minattn.flash.simd import LANES, at, exp2, lanes_sum, largest, load, read, splat, store, tanh, unless_empty  # noqa: E402
from minattn.flash.tiles import PANEL, ROWS  # noqa: E402


def lined(x):
    return np.resize(np.asarray(x, np.float32), LANES)


@numba.njit
def exp2_of(x, out):
    for i in range(0, x.size, LANES):
        store(at(out, 0, 0, 0), i, exp2(load(at(x, 0, 0, 0), i)))


def test_exp2():
    x = np.linspace(-126, 126, 1 << 16).astype(np.float32)
    out = np.empty_like(x)
    exp2_of(x, out)
    assert np.abs(out / np.exp2(x.astype(np.float64)) - 1).max() < 2e-7
    edge, out = lined([-np.inf, -127, 0, 3, np.nan, -1e30, -126.75]), lined(0)
    exp2_of(edge, out)
    np.testing.assert_array_equal(out, lined([0, 0, 1, 8, np.nan, 0, 0]))


@numba.njit
def tanh_of(x, out):
    for i in range(0, x.size, LANES):
        store(at(out, 0, 0, 0), i, tanh(load(at(x, 0, 0, 0), i)))


def test_tanh():
    x = np.concatenate([np.geomspace(1e-30, 40, 1 << 15), -np.geomspace(1e-30, 40, 1 << 15)]).astype(np.float32)
    out = np.empty_like(x)
    tanh_of(x, out)
    assert np.abs(out / np.tanh(x.astype(np.float64)) - 1).max() < 4e-7
    edge, out = lined([-np.inf, np.inf, 0, np.nan, -1e30, 11, -11]), lined(0)
    tanh_of(edge, out)
    np.testing.assert_array_equal(out, lined([-1, 1, 0, np.nan, -1, 1, -1]))


@numba.njit
def words(x, y, out):
    a, b = load(at(x, 0, 0, 0), 0), load(at(y, 0, 0, 0), 0)
    store(at(out, 0, 0, 0), 0, largest(a, b))
    store(at(out, 0, 0, 0), LANES, unless_empty(a))
    store(at(out, 0, 0, 0), 2 * LANES, splat(x[1]))
    return lanes_sum(b)


def test_words():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, LANES)).astype(np.float32)
    x[2], x[3], y[5] = -np.inf, np.nan, 7
    out = np.empty(3 * LANES, np.float32)
    total = words(x, y, out)
    np.testing.assert_allclose(total, y.sum(), rtol=0, atol=1e-6 * np.abs(y).sum())
    want = np.where(x > y, x, y), np.where(x == -np.inf, 0, x), np.full(LANES, x[1])
    np.testing.assert_array_equal(out, np.concatenate(want))


@numba.njit
def widened(x, out, brain):
    for i in range(0, x.size, LANES):
        store(at(out, 0, 0, 0), i, read(at(x, 0, 0, 0), i, brain))


def test_sixteen_bits(need):
    every = np.arange(1 << 16, dtype=np.uint16)                       # every 16-bit number there is
    for kind, brain in ((np.float16, False), (need("ml_dtypes").bfloat16, True)):
        out = np.empty(every.size, np.float32)
        widened(every, out, brain)
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(out, every.view(kind).astype(np.float32))


@pytest.mark.parametrize("start", ["zero", "C", "faded"])
@pytest.mark.parametrize("depth", [1, 7, 64])
@pytest.mark.parametrize("turned", [False, True])
def test_product(start, depth, turned):
    tile = tiles.product_tile(start)

    @numba.njit
    def run(c, a, row, step, b, depth, fade):
        tile(at(c, 0, 0, 0), PANEL, at(a, 0, 0, 0), row, step, at(b, 0, 0, 0), PANEL, depth, at(fade, 0, 0, 0))

    rng = np.random.default_rng(depth)
    shapes = (ROWS, depth), (depth, PANEL), (ROWS, PANEL), (PANEL,)
    a, b, c, fade = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    want = a.astype(np.float64) @ b + {"zero": 0, "C": c, "faded": c * fade}[start]
    stored = np.ascontiguousarray(a.T) if turned else a               # A is read number by number, so either order will do
    run(c, stored, *((1, ROWS) if turned else (depth, 1)), b, depth, fade)
    np.testing.assert_allclose(c, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_transpose():
    @numba.njit
    def run(target, source):
        tiles.transpose_tile(at(target, 0, 0, 0), at(source, 0, 0, 0), source.shape[0], source.shape[1])

    source = np.random.default_rng(1).standard_normal((2 * LANES, 3 * LANES)).astype(np.float32)
    target = np.empty((3 * LANES, 2 * LANES), np.float32)
    run(target, source)
    np.testing.assert_array_equal(target, source.T)
