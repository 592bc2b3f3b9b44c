"""The vocabulary says what NumPy says; exp2 to the error that is stated."""
import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="numba is not installed: there is no backend cpu")

from minattn.flash import simd  # noqa: E402
from minattn.flash.simd import LANES, PANEL, ROWS, at, exp2, hmax, hsum, load, splat, store  # noqa: E402


@numba.njit
def exp2_of(x, out):
    for i in range(0, x.size, LANES):
        store(at(out, i), exp2(load(at(x, i))))


def test_exp2():
    x = np.linspace(-126, 126, 1 << 16).astype(np.float32)
    out = np.empty_like(x)
    exp2_of(x, out)
    assert np.abs(out / np.exp2(x.astype(np.float64)) - 1).max() < 2.5e-7
    edge = np.resize(np.float32([-np.inf, -127, 0, 3, np.nan, -1e30]), LANES)
    out = np.empty_like(edge)
    exp2_of(edge, out)
    np.testing.assert_array_equal(out, np.resize(np.float32([0, 0, 1, 8, np.nan, 0]), LANES))


@numba.njit
def across(x):
    return hsum(load(at(x, 0))), hmax(load(at(x, 0))), hsum(splat(x[1]))


def test_across_the_lanes():
    x = np.random.default_rng(0).standard_normal(LANES).astype(np.float32)
    np.testing.assert_allclose(across(x), (x.sum(), x.max(), LANES * x[1]), rtol=1e-6)


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("depth", [1, 7, 64])
def test_product(fresh, depth):
    tile = simd.tile_fresh if fresh else simd.tile_more

    @numba.njit
    def run(c, a, b, depth):
        tile(at(c, 0), PANEL, at(a, 0), depth, 1, at(b, 0), PANEL, depth)

    rng = np.random.default_rng(depth)
    a, b, c = (rng.standard_normal(shape).astype(np.float32) for shape in ((ROWS, depth), (depth, PANEL), (ROWS, PANEL)))
    want = a.astype(np.float64) @ b + (0 if fresh else c)
    run(c, a, b, depth)
    np.testing.assert_allclose(c, want, rtol=0, atol=1e-5 * np.abs(want).max())
