"""The kernel of the recurrence on a simulated GPU: NumPy's numbers, token by token in float64, and not one problem seen."""
from dataclasses import replace

import numpy as np
import pytest
from gpu_problems import run

from minattn.gpu.kernels import recurrence
from minattn.linear.inputs import prepare
from minattn.linear.recurrence import recurrent

CASES = {
    "no decay": {},
    "scalar decay": {"decay": 1},
    "decay of channels": {"decay": 2},
    "erase": {"erase": True},
    "erase and scalar decay": {"erase": True, "decay": 1},
    "erase and decay of channels": {"erase": True, "decay": 2, "heads": 2},
    "two heads a state": {"decay": 2, "heads": 4},
    "normaliser": {"decay": 1, "normalize": True},
    "one token": {"decay": 2, "erase": True, "N": 1},
    "steep": {"decay": 2, "erase": True, "steep": 50},
    "columns that do not fill a block": {"decay": 1, "erase": True, "Dv": 11},
}


def drawn(case, D=16, N=19, seed=0, dtype=np.float32):
    """`Inputs` of a case by its name, with two KV heads."""
    options = {"heads": 2, "Dv": 8, "steep": 1, "normalize": False, "erase": False, "decay": 0, "N": N, **CASES[case]}
    H, N, Dv, decay = options["heads"], options["N"], options["Dv"], options["decay"]
    rng = np.random.default_rng(seed)
    q, k, b = (rng.standard_normal((heads, N, D)).astype(np.float32) for heads in (H, 2, 2))
    b /= np.linalg.norm(b, axis=-1, keepdims=True)
    k = np.abs(k) if options["normalize"] else b
    g = -options["steep"] * rng.exponential(0.3, (2, N, D if decay > 1 else 1)).astype(np.float32)
    if options["steep"] > 1:
        g[:, 7::5, ::3] = -np.inf
    values = rng.standard_normal((2, N, Dv)).astype(np.float32)
    state = rng.standard_normal((2, D, Dv + options["normalize"])).astype(np.float32)
    parts = [np.abs(q) if options["normalize"] else q, k, values]
    rate = rng.uniform(0, 1, (2, N, 1)).astype(np.float32)
    erase = (-rate * b, b) if options["erase"] else None
    wide = [a.astype(dtype) for a in parts]
    return prepare(*wide, log_decay=g.astype(dtype) if decay else None, state=state.astype(dtype),
                   erase=tuple(a.astype(dtype) for a in erase) if erase else None, normalize=options["normalize"])  # fmt: skip


def launches(x, made=recurrence, **sizes):
    erase = None if x.a is None else (x.a, x.b)
    return made.launches(x.q, x.k, x.v, x.g, x.state, erase, **{"columns": 8, "tokens": 8, **sizes})


def compare(case, order="ascending", D=16, N=19, **sizes):
    x, wide = drawn(case, D, N), drawn(case, D, N, dtype=np.float64)
    many, made = launches(x, **sizes)
    for report in run(many, order):
        assert not report.problems, str(report)
    out, last = recurrent(wide)
    for a, right in ((made.out, out), (made.last, last)):
        np.testing.assert_allclose(a.reshape(right.shape), right, rtol=0, atol=1e-5 * max(1, np.abs(right).max()))
    return made


@pytest.mark.parametrize("case", CASES)
def test_equals_numpy_token_by_token_and_is_silent(case):
    compare(case)


def test_any_order_of_threads_gives_the_same_bits():
    one, other = (compare("erase and decay of channels", order) for order in ("descending", 0))
    np.testing.assert_array_equal(one.out, other.out)
    np.testing.assert_array_equal(one.last, other.last)


def test_nan_reaches_no_token_before_its_own():
    x = drawn("erase and decay of channels")
    outs = []
    for number in (0, np.nan):
        values = x.values.copy()
        values[:, 11] += number
        many, made = launches(replace(x, values=values))
        run(many)
        outs.append(made.out.reshape(2, 19, 8))
    np.testing.assert_array_equal(outs[0][:, :11], outs[1][:, :11])
    assert np.isnan(outs[1][:, 11:]).all()


@pytest.mark.slow
@pytest.mark.parametrize("D", [32, 64, 128])
def test_sizes_that_a_gpu_gets(D):
    compare("erase and decay of channels", D=D, columns=None, tokens=None)
