"""The kernels around the ladder: what arrange, careful and others make. As machine code: test_backend_machine_code.py."""
import numpy as np
import pytest
from gpu_problems import as_numbers, drawn, expected, run

from minattn.bench.gpu.problems import as_bits
from minattn.gpu.kernels import arrange, careful, tensor
from minattn.gpu.kernels.arrange import DTYPES, Strided
from minattn.gpu.simulated import Simulated


def bits_of(a, kind):
    return as_bits(a.astype(np.float32), kind) if kind in ("f16", "bf16") else a.astype(DTYPES[kind])


def numbers_of(a, kind):
    return as_numbers(a, kind) if kind in ("f16", "bf16") else a


@pytest.mark.parametrize("after", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("before", ["f32", "f64", "f16", "bf16"])
def test_any_layout_becomes_one_piece(before, after):
    """Axes swapped, turned around, broadcast and cut, and rows filled up: what NumPy's views do. Numbers pass as float32."""
    rng = np.random.default_rng(3)
    held = bits_of(rng.standard_normal(2 * 3 * 5 * 7), before)
    whole = held.reshape(2, 3, 5, 7)
    view = whole.swapaxes(0, 2)[::-2, 1:, :, ::-1][:, :, :, 1:6]      # (3, 2, 2, 5)
    start = (view.__array_interface__["data"][0] - held.__array_interface__["data"][0]) // held.itemsize
    steps = tuple(step // held.itemsize for step in view.strides)
    made = arrange.arranged(Simulated(), Strided(held, start, view.shape, steps, before), (4, 3, 2, 2, 8), after)
    made = made.reshape(4, 3, 2, 2, 8)
    want = np.broadcast_to(bits_of(numbers_of(np.ascontiguousarray(view), before).astype(np.float32), after), (4, 3, 2, 2, 5))
    np.testing.assert_array_equal(made[..., :5], want)
    assert (made[..., 5:] == 0).all()


@pytest.mark.parametrize("to", [(2, 3, 4, 5), (1, 3, 4, 5), (2, 1, 1, 5), (3, 4, 1), (1, 1, 1, 1), (5,)])
def test_sums_go_over_the_axes_that_were_stretched(to):
    a = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    full = (1,) * (4 - len(to)) + to
    want = a.sum(axis=tuple(axis for axis in range(4) if full[axis] == 1), keepdims=True, dtype=np.float64)
    np.testing.assert_allclose(arrange.summed(Simulated(), a.ravel(), a.shape, to).reshape(full), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("case", "kind", "heads"), [
    ("softcap and bias of heads", "f16", (4, 2, 2)), ("rows of unequal length", "bf16", (2, 1, 1)), ("causal", "f16", (1, 1, 1)),
])  # fmt: skip
def test_a_row_that_is_wild_is_computed_again_and_no_other(case, kind, heads):
    problem, x = drawn(case, D=16, block_q=16, block_k=16, kind=kind, dims=(16,), N=11, S=9, heads=heads)
    run(tensor.launches(problem))
    out, _ = expected(x)
    made = problem.given.out.reshape(-1, 16)
    kept, wild = made.copy(), np.arange(len(made)) % 3 == 1
    made[wild, 5] = 0x7E00 if kind == "f16" else 0xFF80               # a NaN and an infinity
    (report,) = run(careful.launches(problem))
    assert not report.problems, str(report)
    np.testing.assert_array_equal(made[~wild], kept[~wild])
    np.testing.assert_allclose(as_numbers(made, kind), out.reshape(-1, 16), rtol=0, atol=1e-2)
