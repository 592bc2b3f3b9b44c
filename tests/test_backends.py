"""Which backend `attention` takes: "auto" by the number of scores and by what is installed, never by what is asked back."""
import importlib
import tracemalloc

import numpy as np
import pytest

import minattn as ma
from minattn import backends


def drawn_problem(N, S, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal((2, length, 16)).astype(dtype) for length in (N, S, S))


def everything(problem, backend):
    out, lse = ma.attention(*problem, causal=True, backend=backend, return_lse=True)
    return out, lse, *ma.attention_backward(np.ones_like(out), *problem, causal=True, backend=backend)[:3]


def assert_same_bits(some, others):
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("N", "S", "expected"), [(64, 128, "numpy"), (65, 128, "cpu"), (129, 131, "cpu")])
def test_auto_goes_by_the_number_of_scores(N, S, expected, dtype, need):
    need("numba")
    problem = drawn_problem(N, S, dtype)
    assert (2 * N * S > backends.SMALL) == (expected == "cpu")
    assert_same_bits(everything(problem, "auto"), everything(problem, expected))


def test_auto_without_numba(monkeypatch):
    monkeypatch.setattr(backends, "numba_is_here", lambda: False)
    problem = drawn_problem(130, 129, np.float32)
    assert_same_bits(everything(problem, "auto"), everything(problem, "numpy"))
    with pytest.raises(ma.MinattnError, match="pip install numba"):
        ma.attention(*problem, backend="cpu")
    wide = drawn_problem(130, 129, np.float64)                        # its tiled form needs no Numba
    assert_same_bits(everything(wide, "auto"), everything(wide, "cpu"))


def test_auto_with_a_numba_that_does_not_load(monkeypatch, need):
    need("numba")
    load = importlib.import_module

    def broken(name):
        if name == "numba":
            raise ImportError("Numba needs another NumPy")
        return load(name)

    problem = drawn_problem(130, 129, np.float32)
    backends.numba_is_here.cache_clear()
    try:
        monkeypatch.setattr(importlib, "import_module", broken)
        with pytest.warns(UserWarning, match="Numba needs another NumPy"):
            out = ma.attention(*problem)
        with pytest.raises(ma.MinattnError, match="does not load"):
            ma.attention(*problem, backend="cpu")
    finally:
        backends.numba_is_here.cache_clear()
    np.testing.assert_array_equal(out, ma.attention(*problem, backend="numpy"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_asking_for_weights_changes_nothing(dtype):
    problem = drawn_problem(150, 140, dtype)
    out, weights = ma.attention(*problem, causal=True, return_weights=True)
    np.testing.assert_array_equal(out, ma.attention(*problem, causal=True))
    np.testing.assert_allclose(weights @ problem[2], out, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auto_never_holds_all_scores(dtype, need):
    need("numba")
    N = 4000
    problem = drawn_problem(N, N, dtype)
    ma.attention(*(a[:, :200] for a in problem))                      # whatever is loaded or compiled once
    tracemalloc.start()
    try:
        ma.attention(*problem, causal=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < N * N * dtype().itemsize / 10                       # of the scores of one of the two heads
