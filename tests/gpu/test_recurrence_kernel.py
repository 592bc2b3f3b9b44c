"""The kernel of the recurrence on a simulated GPU: NumPy's numbers, token by token in float64, and not one problem seen."""
from dataclasses import replace

import numpy as np
import pytest
from gpu_problems import RECURRENCES, drawn_recurrence, expected_recurrence, run

from minattn.gpu.kernels import recurrence


def launches(x, made=recurrence, **sizes):
    erase = None if x.a is None else (x.a, x.b)
    return made.launches(x.q, x.k, x.v, x.g, x.state, erase, **{"columns": 8, "tokens": 8, **sizes})


def compare(case, order="ascending", D=16, N=19, **sizes):
    x = drawn_recurrence(case, D, N)
    many, made = launches(x, **sizes)
    for report in run(many, order):
        assert not report.problems, str(report)
    out, last = expected_recurrence(case, D=D, N=N)
    for a, right in ((made.out, out), (made.last, last)):
        np.testing.assert_allclose(a.reshape(right.shape), right, rtol=0, atol=1e-5 * max(1, np.abs(right).max()))
    return made


@pytest.mark.parametrize("case", RECURRENCES)
def test_equals_numpy_token_by_token_and_is_silent(case):
    compare(case)


def test_any_order_of_threads_gives_the_same_bits():
    one, other = (compare("erase and decay of channels", order) for order in ("descending", 0))
    np.testing.assert_array_equal(one.out, other.out)
    np.testing.assert_array_equal(one.last, other.last)


def test_nan_reaches_no_token_before_its_own():
    x = drawn_recurrence("erase and decay of channels")
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
