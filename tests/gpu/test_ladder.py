"""Every kernel of the ladder on a simulated GPU: the reference's numbers, and not one problem seen."""
import numpy as np
import pytest
from gpu_problems import CASES, as_numbers, drawn, expected, run

from minattn.gpu.kernels import block, naive, registers, rows, tensor

LADDER = {"naive": (naive, {}), "rows": (rows, {}), "block": (block, {}),
          "registers": (registers, {"block_q": 16, "block_k": 16})}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rung", LADDER)
def test_equals_the_reference_and_is_silent(rung, case):
    kernel, tiles = LADDER[rung]
    problem, x = drawn(case, **tiles)
    for report in run(kernel.launches(problem)):
        assert not report.problems, str(report)
    out, lse = expected(x)
    np.testing.assert_allclose(problem.given.out.reshape(out.shape), out, rtol=0, atol=1e-5 * max(1, np.abs(out).max()))
    np.testing.assert_allclose(problem.given.lse.reshape(lse.shape), lse, rtol=1e-5, atol=1e-5)
    assert (problem.given.out.reshape(out.shape)[np.isneginf(lse)] == 0).all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_tensor_cores_equal_the_reference_of_what_they_are_given(kind, case):
    problem, x = drawn(case, D=16, block_q=32, block_k=16, kind=kind, dims=(16,))
    for report in run(tensor.launches(problem)):
        assert not report.problems, str(report)
    out, lse = expected(x)
    made = as_numbers(problem.given.out, kind).reshape(out.shape)
    np.testing.assert_allclose(made, out, rtol=0, atol=5e-3 * max(1, np.abs(out).max()))
    np.testing.assert_allclose(problem.given.lse.reshape(lse.shape), lse, rtol=1e-5, atol=1e-5)
    assert (made[np.isneginf(lse)] == 0).all()
