"""The backward kernels on a simulated GPU: the reference's gradients, and not one problem seen."""
import numpy as np
import pytest
from gpu_problems import CASES, before_backward, drawn, expected, run

from minattn.gpu.kernels import backward


def gradients(problem, x, seed=1, chunk=backward.CHUNK, order="ascending"):
    """What the kernels make, by name, and what the reference makes in float64; both with the forward's out and lse."""
    dout, right = before_backward(problem, x, seed)
    launches, y = backward.launches(problem, dout, wants_dbias=x.bias is not None, chunk=chunk)
    for report in run(launches, order):
        assert not report.problems, str(report)
    made = {name: getattr(y, name) for name in ("dq", "dk", "dv", "dbias")}
    return {name: a.reshape(*r.shape[:3], -1)[..., : r.shape[3]] for (name, a), r in zip(made.items(), right, strict=True)
            if a.size}, dict(zip(made, right, strict=True))  # fmt: skip


def assert_close(made, right, x):
    """To 1e-5; and where scores are huge, to what a weight exp(score - lse) can be in float32: off by a rounding of the score."""
    assert len(made) >= 3
    *_, lse = expected(x)
    rounding = 2.0**-23 * np.abs(lse[np.isfinite(lse)]).max(initial=0)
    for name, a in made.items():
        atol = max(1e-5, rounding) * max(1, x.scale, np.abs(right[name]).max())          # dQ and dK are scale times a sum
        np.testing.assert_allclose(a, right[name], rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_equal_the_reference_and_are_silent(case):
    problem, x = drawn(case, block_q=16, block_k=8, heads=(4, 2, 2) if "heads" in case else (2, 1, 1))
    made, right = gradients(problem, x)
    assert_close(made, right, x)
    visible = x.visible()
    seen = np.broadcast_to(True if visible is None else visible, (*x.q.shape[:3], x.k.shape[2]))
    assert (made["dq"][~seen.any(axis=3)] == 0).all()
    unseen = ~seen.reshape(*made["dk"].shape[:2], -1, seen.shape[3]).any(axis=2)
    assert (made["dk"][unseen] == 0).all()
    assert (made["dv"][unseen] == 0).all()


def test_dims_in_chunks_and_any_order_of_threads():
    problem, x = drawn("softcap and bias of heads", D=13, block_q=16, block_k=16)
    made, right = gradients(problem, x, chunk=8)
    assert_close(made, right, x)
    again, _ = gradients(problem, x, chunk=8, order="descending")
    for name, a in made.items():
        np.testing.assert_array_equal(a, again[name])                 # one owner a number: the same bits


def test_sinks_reach_the_gradients_through_the_log_sum_exp():
    problem, x = drawn("causal", block_q=16, block_k=8, heads=(2, 1, 1))
    sinks = type(x)(**{**vars(x), "sink_logits": np.array([0.3, 4.0])})
    made, right = gradients(problem, sinks)
    assert_close(made, right, sinks)
    assert np.abs(right["dq"] - gradients(problem, x)[1]["dq"]).max() > 0.1


@pytest.mark.parametrize("name", ["q", "k", "v", "dout"])
def test_nan_reaches_only_those_who_see_it(name):
    """Two documents side by side: what stands in one, the gradients of the other do not know."""
    made = []
    for poison in (0, np.nan):
        problem, x = drawn("documents", block_q=16, block_k=16, heads=(2, 1, 1))
        array = np.ones(problem.given.q.shape, np.float32) if name == "dout" else getattr(problem.given, name)
        array.reshape(*x.q.shape[:1], -1, 19, problem.D)[:, :, 12, 3] += poison
        if name != "dout":
            problem.given.out[:] = 0.5
            problem.given.lse[:] = np.where(np.arange(problem.given.lse.size) % 19 > 6, 1 + poison, 1)
        launches, y = backward.launches(problem, array if name == "dout" else np.ones_like(problem.given.q))
        run(launches)
        made.append(np.concatenate([a.reshape(-1, 19, problem.D) for a in (y.dq, y.dk, y.dv)]))
    np.testing.assert_array_equal(made[0][:, :7], made[1][:, :7])
    assert np.isnan(made[1][:, 7:]).any()


@pytest.mark.slow
@pytest.mark.parametrize("D", [32, 64, 128])
def test_tiles_of_the_size_that_a_gpu_gets(D):
    problem, x = drawn("causal", D=D - 3, block_q=64, block_k=64, dims=(32, 64, 128), N=70, heads=(1, 1, 1))
    assert_close(*gradients(problem, x), x)
