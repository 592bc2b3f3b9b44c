"""The compiled gradients of the recurrence: held to the float64 walk and to finite differences of the compiled forward."""
import functools
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed: there is no backend cpu")

import minattn as ma

SETTINGS = [*itertools.product([None, "constant", "token", "channel"], [False, True], [False]), ("token", False, True),
            ("channel", False, True)]  # fmt: skip
compiled = functools.partial(ma.recurrence_backward, backend="cpu")


def narrowed(x):
    """Float64 arguments in float32."""
    def narrow(a):
        return tuple(map(narrow, a)) if isinstance(a, tuple) else a.astype(np.float32) if isinstance(a, np.ndarray) else a

    return {name: narrow(a) for name, a in x.items()}


def compare(close, got, want, tolerance=1e-5):
    for name, one, other in zip(want._fields, got, want, strict=True):
        pairs = zip(one, other, strict=True) if name == "derase" and other is not None else [(one, other)]
        for a, b in pairs:
            assert (a is None) == (b is None), name
            if b is not None:
                assert a.dtype == np.float32, name
                close(a, b, tolerance)


@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (7, 3), (64, 64), (129, 50), (300, 64)])
@pytest.mark.parametrize(("decay", "erase", "normalize"), SETTINGS)
def test_equals_the_walk_in_float64(tokens, close, decay, erase, normalize, length, chunk):
    given, options = tokens(length, length, decay, erase, normalize)
    rng = np.random.default_rng(0)
    dout, dstate = rng.standard_normal((2, 6, length, 4)), rng.standard_normal((2, 3, 5, 4 + normalize))
    every = given | options | {"dstate": dstate}
    want = ma.recurrence_backward(dout, **every, scale=0.7)
    got = compiled(dout.astype(np.float32), **narrowed(every), scale=0.7, chunk=chunk)
    compare(close, got, want)


@pytest.mark.parametrize(("decay", "erase", "normalize"), SETTINGS[-4:])
def test_equals_finite_differences(tokens, close, slopes, decay, erase, normalize):
    """The loss in float64, from the plain form: differences of a float32 loss would be mere rounding."""
    given, options = tokens(1, 5, decay, erase, normalize, B=1, H=2, G=1, D=3, Dv=2)
    options["log_decay"] -= 1e-3
    dout = np.random.default_rng(0).standard_normal((1, 2, 5, 2))
    got = compiled(dout.astype(np.float32), **narrowed(given | options))
    for name, a in (given | {"log_decay": options["log_decay"], "state": options["state"]}).items():

        def loss(x, name=name):
            return (ma.recurrence(**(given | options | {name: x})) * dout).sum()

        close(getattr(got, f"d{name}"), slopes(loss, a), 1e-5)


@pytest.mark.parametrize("decay", ["token", "channel"])
def test_closed_gates(tokens, close, decay):
    given, options = tokens(3, 70, decay, erase=True)
    rng, g = np.random.default_rng(0), options["log_decay"]
    g[...] = np.where(rng.random(g.shape) < 0.5, rng.choice([0, -50, -np.inf], g.shape), g)
    dout = rng.standard_normal((2, 6, 70, 4))
    want = ma.recurrence_backward(dout, **given, **options)
    compare(close, compiled(dout.astype(np.float32), **narrowed(given | options)), want)


@pytest.mark.parametrize(("D", "Dv"), [(1, 1), (16, 33), (40, 16)])
def test_every_width_and_layout(tokens, close, D, Dv):
    given, options = tokens(D, 20, "channel", erase=True, D=D, Dv=Dv)
    dout = np.random.default_rng(0).standard_normal((2, 6, 20, Dv))
    want = ma.recurrence_backward(dout, **given, **options)
    narrow = narrowed(given | options)
    compare(close, compiled(dout.astype(np.float32), **narrow), want)
    turned = narrow | {name: np.asfortranarray(narrow[name]) for name in "qkv"}
    got, whole = (compiled(np.asfortranarray(dout.astype(np.float32)), **x) for x in (turned, narrow))
    for one, other in ((got.dq, whole.dq), (got.dk, whole.dk), (got.dv, whole.dv), (got.dlog_decay, whole.dlog_decay)):
        np.testing.assert_array_equal(one, other)


def test_rows_that_nothing_was_written_for_give_no_gradient():
    zero, v = np.zeros((1, 4, 3), np.float32), np.ones((1, 4, 2), np.float32)
    grads = compiled(v, zero, zero, v, normalize=True)
    assert not any(g.any() for g in grads if g is not None)


def test_no_token(tokens):
    given, options = tokens(10, 0, "token", dtype=np.float32)
    dstate = np.ones_like(options["state"])
    grads = compiled(np.zeros((2, 6, 0, 4), np.float32), **given, **options, dstate=dstate)
    assert grads.dq.shape == (2, 6, 0, 5)
    np.testing.assert_array_equal(grads.dstate, dstate)


def test_same_bits_for_any_number_of_threads():
    code = """
import sys, numpy as np, minattn as ma
rng = np.random.default_rng(0)
q, k, v, dout, a, b = rng.standard_normal((6, 5, 100, 20)).astype(np.float32)
grads = ma.recurrence_backward(dout, q, k, v, log_decay=-abs(a), erase=(a / 20, b / 20), backend="cpu")
for g in (grads.dq, grads.dk, grads.dv, grads.dlog_decay, *grads.derase):
    sys.stdout.buffer.write(g.tobytes())
"""
    seen = set()
    for count in "124":
        environment = {**os.environ, "NUMBA_NUM_THREADS": count}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode()
        seen.add(done.stdout)
    assert len(seen) == 1
    assert len(seen.pop()) == 6 * 4 * 5 * 100 * 20
