"""The decoding kernels on a simulated GPU: splits of the keys join to what all keys give."""
import numpy as np
import pytest
from gpu_problems import CASES, drawn, expected, run

from minattn.gpu.kernels import decode

FEW = [name for name, options in CASES.items() if options.get("N", 1) == 1 and name != "bias of rows"]


@pytest.mark.parametrize("splits", [1, 2, 5])
@pytest.mark.parametrize("case", FEW)
def test_equals_the_reference_and_is_silent(case, splits):
    problem, x = drawn(case, N=2)
    for report in run(decode.launches(problem, splits)):
        assert not report.problems, str(report)
    out, lse = expected(x)
    np.testing.assert_allclose(problem.given.out.reshape(out.shape), out, rtol=0, atol=1e-5 * max(1, np.abs(out).max()))
    np.testing.assert_allclose(problem.given.lse.reshape(lse.shape), lse, rtol=1e-5, atol=1e-5)
    assert (problem.given.out.reshape(out.shape)[np.isneginf(lse)] == 0).all()


def test_each_key_is_read_once_for_its_whole_group():
    problem, x = drawn("full, ragged", N=1)
    report, _ = run(decode.launches(problem, 3))
    assert report.ledger.arrays["k", "read"] == x.k.size
    assert report.ledger.arrays["v", "read"] == x.v.size
