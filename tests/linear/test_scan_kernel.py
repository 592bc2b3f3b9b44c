"""The compiled selective scan: held to the plain form in float64, the same bits however it is dealt out."""
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed: there is no backend cpu")

import minattn as ma
from minattn import backends
from minattn.flash import threads

TOKENS = "x", "delta", "b", "c", "z"


def draw(seed, N, B=2, E=37, n=5, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shapes = {"x": (B, N, E), "b": (B, N, n), "c": (B, N, n), "d": (E,), "z": (B, N, E), "state": (B, E, n)}
    named = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    named |= {"delta": rng.exponential(0.3, (B, N, E)), "a": -rng.uniform(0.01, 3, (E, n))}
    return {name: a.astype(dtype) for name, a in named.items()}


def compiled(named, **options):
    return ma.selective_scan(**named, backend="cpu", return_state=True, **options)


def plain(named):
    """The oracle: token by token in float64."""
    return ma.selective_scan(**{name: a.astype(np.float64) for name, a in named.items()}, return_state=True)


@pytest.mark.parametrize("N", [1, 7, 64, 129])
@pytest.mark.parametrize(("E", "n"), [(1, 1), (3, 16), (16, 2), (37, 5), (130, 3)])
def test_equals_the_plain_form_in_float64(close, N, E, n):
    """Whole vectors, and what is left of one; one task, and several."""
    named = draw(N, N, E=E, n=n)
    got, state = compiled(named)
    want, end = plain(named)
    assert got.dtype == state.dtype == np.float32
    close(got, want, 1e-5)
    close(state, end, 1e-5)


def test_closed_states_and_no_time(close):
    """Decays of exp(-50) and 0, also where no time passes; what came before a state that forgets all changes no bit after it."""
    named = draw(1, 129)
    named["delta"][:, [2, 30, 31], :9], named["delta"][:, 5:40:3, 1] = 0, -50 / named["a"][1, 0]
    named["a"][2:30, 1] = -np.inf
    got, state = compiled(named)
    want, end = plain(named)
    close(got, want, 1e-5)
    close(state, end, 1e-5)
    named["a"][:] = -np.inf
    named["delta"][:, 77] += 1
    got, _ = compiled(named)
    named["x"][:, :77] += 1
    np.testing.assert_array_equal(compiled(named)[0][:, 77:], got[:, 77:])


def test_split_runs_and_streaming_equal_the_whole_bit_for_bit():
    named = draw(2, 65)
    want, end = compiled(named)
    state, outs = named.pop("state"), []
    for here in [slice(0, 0), slice(0, 18), slice(18, 61), *(slice(n, n + 1) for n in range(61, 65))]:
        part = {name: a[:, here] if name in TOKENS else a for name, a in named.items()}
        out, state = compiled(part | {"state": state})
        outs.append(out)
    np.testing.assert_array_equal(np.concatenate(outs, axis=1), want)
    np.testing.assert_array_equal(state, end)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["x", "b", "c", "state"])
def test_what_is_not_finite_goes_where_it_goes_in_the_plain_form(name, value):
    named = draw(3, 40)
    clean, _ = compiled(named)
    named[name][(1, 3, 2) if name == "state" else (1, 21, 3)] = value
    want, end = ma.selective_scan(**named, backend="numpy", return_state=True)
    got, state = compiled(named)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    np.testing.assert_array_equal(np.isfinite(state), np.isfinite(end))
    assert not np.isfinite(got).all()
    if name != "state":
        np.testing.assert_array_equal(got[:, :21], clean[:, :21])


def test_layouts_types_and_broadcast_axes(close):
    """Turned, strided, reversed, in the other order of bytes: the same bits as from arrays in one piece."""
    named = draw(4, 40)
    for a in named.values():
        a.flags.writeable = False
    want, end = compiled(named)
    layouts = (np.asfortranarray, lambda a: np.repeat(a, 2, axis=-1)[..., ::2], lambda a: a.astype(">f4"),
               lambda a: np.ascontiguousarray(a[::-1])[::-1])  # fmt: skip
    for layout in layouts:
        got, state = compiled({name: layout(a) for name, a in named.items()})
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(state, end)
    shared = named | {name: named[name][:1] for name in ("b", "state")}
    full = named | {name: np.repeat(named[name][:1], 2, axis=0) for name in ("b", "state")}
    np.testing.assert_array_equal(compiled(shared)[0], compiled(full)[0])
    half = {name: a.astype(np.float16) for name, a in named.items()}
    out, state = compiled(half)
    assert (out.dtype, state.dtype) == (np.float16, np.float32)
    wide, end = compiled({name: a.astype(np.float32) for name, a in half.items()})
    np.testing.assert_array_equal(out, wide.astype(np.float16))
    np.testing.assert_array_equal(state, end)


def test_same_bits_for_any_number_of_threads():
    code = """
import sys, numpy as np, minattn as ma
rng = np.random.default_rng(0)
x, delta = abs(rng.standard_normal((2, 3, 50, 150))).astype(np.float32)
b, c = rng.standard_normal((2, 3, 50, 4)).astype(np.float32)
out, state = ma.selective_scan(x, delta, -x[0, :4].T, b, c, return_state=True, backend="cpu")
sys.stdout.buffer.write(out.tobytes() + state.tobytes())
"""
    seen = set()
    for count in "13":
        environment = {**os.environ, "NUMBA_NUM_THREADS": count}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode()
        seen.add(done.stdout)
    assert len(seen) == 1
    assert len(seen.pop()) == 4 * 3 * 150 * (50 + 4)


SIZES = [(30, np.float32, "numpy"), (60, np.float32, "cpu"), (60, np.float64, "numpy")]


@pytest.mark.parametrize(("N", "dtype", "expected"), SIZES)
def test_auto_goes_by_the_size_of_the_problem_and_its_type(N, dtype, expected):
    named = draw(5, N, dtype=dtype)
    assert (2 * 37 * 5 * N > backends.SMALL) == (N == 60)
    both = {backend: ma.selective_scan(**named, backend=backend) for backend in ("numpy", "cpu")}
    np.testing.assert_array_equal(ma.selective_scan(**named), both[expected])
    assert np.array_equal(both["cpu"], both["numpy"]) == (dtype == np.float64), "the option reaches the kernel"


@pytest.mark.parametrize("which", ["mamba", "mamba2"])
def test_blocks_pass_the_backend_on(close, which):
    x = np.random.default_rng(6).standard_normal((200, 6)).astype(np.float32)
    if which == "mamba":
        weights, block = ma.MambaWeights.random(6, size=8, dtype=np.float32), ma.mamba_block
    else:
        weights, block = ma.Mamba2Weights.random(6, heads=3, size=8, dtype=np.float32), ma.mamba2_block
    got, want = (block(x, weights, backend=backend) for backend in ("cpu", "numpy"))
    assert not np.array_equal(got, want)
    close(got, want, 1e-5)


def test_no_kernel_no_numba_no_threads_no_such_backend(monkeypatch):
    named = draw(7, 60)
    for options in ({"form": "associative"}, {"discretization": "zoh"}):
        auto, want = (ma.selective_scan(**named, backend=backend, **options) for backend in ("auto", "numpy"))
        np.testing.assert_array_equal(auto, want)
        with pytest.raises(ma.errors.OptionError, match="backend 'cpu' has the sequential form and 'euler' alone"):
            ma.selective_scan(**named, backend="cpu", **options)
    with pytest.raises(ma.errors.BackendError, match="backend is 'gpu'"):
        ma.selective_scan(**named, backend="gpu")
    want = ma.selective_scan(**named, backend="numpy")
    with monkeypatch.context() as patch:
        patch.setattr(threads, "_lost", True)
        with pytest.warns(UserWarning, match="forked"):
            np.testing.assert_array_equal(compiled(named)[0], want)
    monkeypatch.setattr(backends, "numba_is_here", lambda: False)
    np.testing.assert_array_equal(ma.selective_scan(**named), want)
    with pytest.raises(ma.errors.BackendError, match="pip install numba"):
        compiled(named)
