"""The exercises whose answers are kernels: right in other styles, mistakes as people write them, and blanks."""
import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the simulator needs greenlet")

from minattn.practice import check
from minattn.practice.exercise import unpack

cuda = None                                                           # the simulator puts its own in its place
f32 = np.float32
KERNELS = {
    "values_kernel": lambda weights, v: weights @ v,
    "block_sum": lambda x: np.array([x[first:first + 16].sum() for first in range(0, len(x), 16)]),
    "causal_row": lambda scores: softmax(np.where(np.tri(len(scores), dtype=bool), scores, -np.inf)),
    "warp_sum": lambda x: np.broadcast_to(x.sum(axis=-1, keepdims=True), x.shape),
}


def softmax(scores):
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("name", KERNELS)
def test_the_reference_is_what_numpy_gives(name):
    exercise = check.all()[name]
    for case in exercise.cases():
        found = unpack(exercise, exercise.call(exercise.reference, case))
        out, problems = found.values()
        np.testing.assert_allclose(out, KERNELS[name](*(a.astype(np.float64) for a in case)), rtol=1e-5, atol=1e-6)
        assert problems == "none"


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_that_writes_nothing_is_blank(name):
    exercise = check.all()[name]
    arguments = exercise.signature.partition("(")[2].rstrip(")")
    assert exercise(eval(f"lambda {arguments}: None")).status == "blank"
    assert exercise(None).status == "blank"


def test_a_right_kernel_in_another_style_passes():
    def in_steps_of_the_grid(weights, v, out):
        d = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        n = cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y
        if n >= weights.shape[0] or d >= v.shape[1]:
            return
        out[n, d] = 0
        for s in range(len(v)):
            out[n, d] += weights[n, s] * v[s, d]

    def by_one_thread(x, out):
        part = cuda.shared.array(16, f32)
        t = cuda.threadIdx.x
        if cuda.grid(1) < x.size:
            part[t] = x[cuda.grid(1)]
        cuda.syncthreads()
        if t == 0:
            out[cuda.blockIdx.x] = sum(part[j] for j in range(min(16, x.size - 16 * cuda.blockIdx.x)))

    def warp_through_shared_memory(x, out):
        row = cuda.shared.array(32, f32)
        row[cuda.threadIdx.x] = x[cuda.blockIdx.x, cuda.threadIdx.x]
        cuda.syncwarp()
        out[cuda.blockIdx.x, cuda.threadIdx.x] = sum(row[j] for j in range(32))

    for answer, name in [(in_steps_of_the_grid, "values_kernel"), (by_one_thread, "block_sum"),
                         (warp_through_shared_memory, "warp_sum")]:
        result = check.all()[name](answer)
        assert result, repr(result)


def test_mistakes_as_people_write_them():
    def returns_early(scores, weights):
        n, s = cuda.blockIdx.x, cuda.threadIdx.x
        row = cuda.shared.array(32, f32)
        if s > n:
            weights[n, s] = 0
            return
        row[s] = scores[n, s]
        cuda.syncthreads()
        weights[n, s] = row[s]

    def folds_in_an_if(x, out):
        t, i = cuda.threadIdx.x, cuda.grid(1)
        part = cuda.shared.array(16, f32)
        part[t] = x[i] if i < x.size else 0
        cuda.syncthreads()
        step = 8
        while step:
            if t < step:
                part[t] += part[t + step]
                cuda.syncthreads()
            step //= 2
        if t == 0:
            out[cuda.blockIdx.x] = part[0]

    def changes_v(weights, v, out):
        d, n = cuda.grid(2)
        if n < out.shape[0] and d < out.shape[1]:
            for s in range(len(v)):
                v[s, d] *= weights[n, s]

    def raises(x, out):
        out[cuda.blockIdx.x, cuda.threadIdx.x] = x[cuda.blockIdx.x].nothing

    result = check.causal_row(returns_early)
    assert result.status == "fail"
    assert result.stages[1].yours == "'early return past a barrier'"
    assert check.block_sum(folds_in_an_if).mistake == "barrier inside the if"
    assert "race on v" in check.values_kernel(changes_v).stages[1].yours
    result = check.warp_sum(raises)
    assert result.status == "error"
    assert "raises" in result.message


def test_scores_too_large_for_an_exponential():
    def no_maximum(scores, weights):
        n, s = cuda.blockIdx.x, cuda.threadIdx.x
        row = cuda.shared.array(32, f32)
        row[s] = scores[n, s]
        cuda.syncthreads()
        total = sum(np.exp(row[j]) for j in range(n + 1))
        weights[n, s] = np.exp(row[s]) / total if s <= n else 0

    result = check.causal_row(no_maximum)
    assert result.status == "fail"
    assert "1 of 3 inputs" in result.message
