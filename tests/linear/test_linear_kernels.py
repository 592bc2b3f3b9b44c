"""The compiled recurrence: held to the float64 recurrent form over every setting, the same bits however it is dealt out."""
import functools
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed: there is no backend cpu")

import minattn as ma
from minattn import backends
from minattn.flash import threads

SETTINGS = [*itertools.product([None, "constant", "token", "channel"], [False, True], [False]), ("token", False, True),
            ("channel", False, True)]  # fmt: skip
compiled = functools.partial(ma.recurrence, backend="cpu")


def wide(x):
    """The same numbers in float64."""
    def widen(a):
        return tuple(map(widen, a)) if isinstance(a, tuple) else a.astype(np.float64) if isinstance(a, np.ndarray) else a

    return {name: widen(a) for name, a in x.items()}


def plain(**x):
    """The oracle: token by token in float64."""
    return ma.recurrence(**wide(x), form="recurrent", return_state=True)


@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (7, 5), (64, 16), (129, 7), (129, 64), (300, 13), (300, 64)])
@pytest.mark.parametrize(("decay", "erase", "normalize"), SETTINGS)
def test_equals_the_recurrent_form_in_float64(tokens, close, decay, erase, normalize, length, chunk):
    given, options = tokens(length, length, decay, erase, normalize, dtype=np.float32)
    want, end = plain(**given, **options, scale=0.3)
    got, state = compiled(**given, **options, scale=0.3, chunk=chunk, return_state=True)
    assert got.dtype == state.dtype == np.float32
    close(got, want, 1e-5)
    close(state, end, 1e-5)


@pytest.mark.parametrize("decay", ["token", "channel"])
@pytest.mark.parametrize("erase", [False, True])
def test_closed_gates(tokens, close, decay, erase):
    """Log decays of 0, -50 and -inf among others; what comes before a gate that closes for all changes no bit after it."""
    given, options = tokens(3, 129, decay, erase, dtype=np.float32)
    rng, g = np.random.default_rng(0), options["log_decay"]
    g[...] = np.where(rng.random(g.shape) < 0.5, rng.choice([0, -50, -np.inf], g.shape), g)
    want, end = plain(**given, **options)
    got, state = compiled(**given, **options, return_state=True)
    close(got, want, 1e-5)
    close(state, end, 1e-5)
    if not erase:
        g[:, :, 77] = -np.inf
        got = compiled(**given, **options)
        for name in "kv":
            given[name][:, :, :77] = rng.standard_normal(given[name][:, :, :77].shape)
        np.testing.assert_array_equal(compiled(**given, **options)[:, :, 77:], got[:, :, 77:])


@pytest.mark.parametrize("g", [-50.0, -1e-3, -2e-5])
@pytest.mark.parametrize("decay", ["token", "channel"])
def test_long_steady_decay(tokens, close, g, decay):
    """One rounding of exp g, the same in every step, would grow to 1e-7 / g; here it does not add up."""
    given, options = tokens(4, 5000, state=False, B=1, H=2, G=1, dtype=np.float32)
    options |= {"log_decay": np.full((1, 1, 1, 5) if decay == "channel" else (1, 1, 1), g, np.float32), "normalize": True}
    given["q"], given["k"] = abs(given["q"]), abs(given["k"])
    got, state = compiled(**given, **options, return_state=True)
    want, end = plain(**given, **options)
    close(got, want, 1e-5)
    close(state, end, 1e-5)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@pytest.mark.parametrize(("decay", "erase", "normalize"), SETTINGS)
def test_split_runs_and_streaming_equal_the_whole(tokens, close, decay, erase, normalize, form):
    given, options = tokens(5, 65, decay, erase, normalize, dtype=np.float32)
    want, end = compiled(**given, **options, return_state=True)
    state, outs = options.pop("state"), []
    for here in itertools.starmap(slice, itertools.pairwise([0, 1, 18, 60, *range(61, 66)])):
        part, now = {name: a[..., here, :] for name, a in given.items()}, dict(options)
        if decay in ("token", "channel"):
            now["log_decay"] = options["log_decay"][:, :, here]
        if erase:
            now["erase"] = [a[..., here, :] for a in options["erase"]]
        out, state = compiled(**part, **now, form=form, state=state, return_state=True)
        outs.append(out)
    close(np.concatenate(outs, axis=-2), want, 1e-5)
    close(state, end, 1e-5)


@pytest.mark.parametrize("D", [1, 16, 40])
@pytest.mark.parametrize("Dv", [1, 16, 33, 64])
@pytest.mark.parametrize("erase", [False, True])
def test_every_width(tokens, close, D, Dv, erase):
    """Whole vectors, and what is left of one; panels, and what is left of those."""
    given, options = tokens(D + Dv, 20, "channel", erase, D=D, Dv=Dv, dtype=np.float32)
    want, end = plain(**given, **options)
    got, state = compiled(**given, **options, return_state=True)
    close(got, want, 1e-5)
    close(state, end, 1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("name", "erase"), [*itertools.product("qkv", [False, True]), ("a", True), ("b", True), ("state", True)])
def test_what_is_not_finite_goes_where_it_goes_in_the_plain_form(tokens, name, erase, value):
    given, options = tokens(6, 40, "channel", erase, dtype=np.float32)
    clean = compiled(**given, **options)
    target = options["state"] if name == "state" else options["erase"]["ab".index(name)] if name in "ab" else given[name]
    target[(1, 2, 1, 3) if name == "state" else (1, 2, 21, 3)] = value
    want, end = ma.recurrence(**given, **options, form="recurrent", backend="numpy", return_state=True)
    got, state = compiled(**given, **options, return_state=True)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    np.testing.assert_array_equal(np.isfinite(state), np.isfinite(end))
    assert not np.isfinite(got).all()
    if name != "state":
        np.testing.assert_array_equal(got[:, :, :16], clean[:, :, :16])           # tiles before it
        np.testing.assert_allclose(got[:, :, 16:21], clean[:, :, 16:21], rtol=1e-4, atol=1e-5)


def test_layouts_and_broadcast_axes(tokens):
    """Turned, strided, reversed, broadcast: the same bits as from arrays in one piece."""
    given, options = tokens(7, 40, "channel", erase=True, dtype=np.float32)
    want = compiled(**given, **options)
    turned = {name: np.asfortranarray(a) for name, a in given.items()}
    strided = {name: np.repeat(a, 2, axis=-1)[..., ::2] for name, a in given.items()}
    between = {name: np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2) for name, a in given.items()}
    backward = {name: np.ascontiguousarray(a[:, :, ::-1])[:, :, ::-1] for name, a in given.items()}
    swapped = {name: a.astype(">f4") for name, a in given.items()}
    for x in (turned, strided, between, backward, swapped):
        np.testing.assert_array_equal(compiled(**x, **options), want)
    one = {name: options[name][:1] for name in ("log_decay", "state")} | {"erase": [a[:1, :, :1] for a in options["erase"]]}
    full = {name: np.repeat(one[name], 2, axis=0) for name in ("log_decay", "state")}
    full["erase"] = [np.broadcast_to(a, given["k"].shape) for a in one["erase"]]
    shared = given | {"k": given["k"][:1]}
    repeated = given | {"k": np.repeat(given["k"][:1], 2, axis=0)}
    np.testing.assert_array_equal(compiled(**shared, **one), compiled(**repeated, **full))


def test_inputs_are_not_written_to(tokens):
    given, options = tokens(8, 33, "token", erase=True, dtype=np.float32)
    for a in (*given.values(), *options["erase"], options["log_decay"], options["state"]):
        a.flags.writeable = False
    out, state = compiled(**given, **options, return_state=True)
    out[...], state[...] = 0, 0


def test_16_bit_input(tokens):
    given, options = tokens(9, 40, "token", dtype=np.float16)
    out, state = compiled(**given, **options, return_state=True)
    assert (out.dtype, state.dtype) == (np.float16, np.float32)
    want, end = compiled(**{name: a.astype(np.float32) for name, a in (given | options).items()}, return_state=True)
    np.testing.assert_array_equal(out, want.astype(np.float16))
    np.testing.assert_array_equal(state, end)


def test_no_token(tokens):
    given, options = tokens(10, 0, dtype=np.float32)
    out, state = compiled(**given, **options, return_state=True)
    assert out.shape == (2, 6, 0, 4)
    np.testing.assert_array_equal(state, options["state"])


def test_same_bits_for_any_number_of_threads(tmp_path):
    """Two states, whose columns are shared out among the threads beyond two; also with rows left over."""
    code = """
import sys, numpy as np, minattn as ma
rng = np.random.default_rng(0)
x = [rng.standard_normal((1, heads, 100, D)).astype(np.float32) for heads, D in ((4, 40), (2, 40), (2, 100))]
erase = [rng.standard_normal((1, 2, 100, 40)).astype(np.float32) / 20 for _ in range(2)]
g = -rng.random((1, 2, 100, 40)).astype(np.float32)
out, state = ma.recurrence(*x, log_decay=g, erase=erase, return_state=True, backend="cpu")
normal = ma.recurrence(*(abs(a) for a in x), log_decay=g, normalize=True, backend="cpu")
sys.stdout.buffer.write(out.tobytes() + state.tobytes() + normal.tobytes())
"""
    seen = set()
    for count in "124":
        environment = {**os.environ, "NUMBA_NUM_THREADS": count}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode()
        seen.add(done.stdout)
    assert len(seen) == 1
    assert len(seen.pop()) == 4 * (4 * 100 * 100 * 2 + 2 * 40 * 100)


def mechanisms(N, dtype):
    """Every mechanism of the family, as a function of its options."""
    rng = np.random.default_rng(0)
    q, k, v, x = rng.standard_normal((4, 2, 3, N, 8)).astype(dtype)
    k, g, beta = k / 4, -abs(x), 1 / (1 + abs(x[..., 0]))
    return {
        "recurrence": functools.partial(ma.recurrence, q, k, v, log_decay=g),
        "linear_attention": functools.partial(ma.linear_attention, q, k, v),
        "gated_linear_attention": functools.partial(ma.gated_linear_attention, q, k, v, log_decay=g),
        "retention": functools.partial(ma.retention, q, k, v, log_decay=np.array([-0.1, -0.2, 0], dtype)),
        "delta_rule": functools.partial(ma.delta_rule, q, k, v, beta=beta),
        "ssd": functools.partial(ma.ssd, v, beta, np.array([-1, -2, -3], dtype), k, q),
        "performer_attention": functools.partial(ma.performer_attention, q, k, v, features=8, seed=0, causal=True),
        "rwkv7": functools.partial(ma.rwkv7, q, g, k, v, k, beta[..., None] * np.ones_like(k)),
    }


@pytest.mark.parametrize("name", mechanisms(1, np.float32))
def test_auto_goes_by_the_size_of_the_problem_and_its_type(close, name):
    """P = 6 states of 8 x 8 (linear attention: 8 x 9), so more than SMALL numbers from 43 tokens on."""
    for N, dtype, expected in ((30, np.float32, "numpy"), (60, np.float32, "cpu"), (60, np.float64, "numpy")):
        assert (6 * 64 * N > backends.SMALL) == (N == 60)
        run = mechanisms(N, dtype)[name]
        auto, both = run(), {backend: run(backend=backend) for backend in ("numpy", "cpu")}
        np.testing.assert_array_equal(auto, both[expected])
        if dtype == np.float64:
            np.testing.assert_array_equal(both["cpu"], both["numpy"])
        else:
            assert not np.array_equal(both["cpu"], both["numpy"]), "the option reaches the kernel"
            close(both["cpu"], both["numpy"], 1e-5)


@pytest.mark.parametrize("name", mechanisms(1, np.float32))
def test_auto_takes_the_same_backend_for_the_gradient(close, name):
    for N, expected in ((30, "numpy"), (60, "cpu")):
        run = mechanisms(N, np.float32)[name]
        dout = np.ones_like(run())
        backward = functools.partial(getattr(ma, f"{name}_backward"), dout, *run.args, **run.keywords)
        auto, both = backward(), {backend: backward(backend=backend) for backend in ("numpy", "cpu")}
        for got, want in zip(auto, both[expected], strict=True):
            np.testing.assert_array_equal(got, want)
        assert any(not np.array_equal(a, b) for a, b in zip(*both.values(), strict=True)), "the option reaches the kernel"
        for got, want in zip(both["cpu"], both["numpy"], strict=True):
            assert (got is None) == (want is None)
            if want is not None:
                close(got, want, 2e-5)


def test_without_numba(monkeypatch):
    monkeypatch.setattr(backends, "numba_is_here", lambda: False)
    for name, run in mechanisms(60, np.float32).items():
        np.testing.assert_array_equal(run(), run(backend="numpy"), err_msg=name)
        with pytest.raises(ma.errors.BackendError, match="pip install numba"):
            run(backend="cpu")


def test_a_fork_that_lost_its_threads(monkeypatch):
    monkeypatch.setattr(threads, "_lost", True)
    run = mechanisms(60, np.float32)["recurrence"]
    with pytest.warns(UserWarning, match="forked"):
        got = run(backend="cpu")
    np.testing.assert_array_equal(got, run(backend="numpy"))


def test_what_is_refused():
    some = mechanisms(4, np.float32)
    for run in some.values():
        with pytest.raises(ma.errors.BackendError, match="backend is 'gpu'; here there is 'auto', 'numpy', 'cpu'"):
            run(backend="gpu")
        with pytest.raises(ma.errors.BackendError, match="backend is array"):
            run(backend=np.array(["cpu", "numpy"]))
    with pytest.raises(ma.errors.BackendError, match="backend is 'gpu'"):
        some["linear_attention"](causal=False, backend="gpu")
    for name, form in (("retention", "parallel"), ("linear_attention", "parallel"), ("ssd", "quadratic")):
        with pytest.raises(ma.errors.OptionError, match=f"backend 'cpu' has no form '{form}', only 'recurrent', 'chunked'"):
            some[name](form=form, backend="cpu")
