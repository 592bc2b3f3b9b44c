"""Where kernels run: what the simulated place gives and refuses, and that a factory gives one function for one set of options."""
import numpy as np
import pytest
from gpu_problems import drawn, expected

from minattn.core.errors import BackendError, DependencyError, KernelError
from minattn.gpu import device
from minattn.gpu.kernels import backward, block, decode, naive, recurrence, registers, rows, tensor
from minattn.gpu.problem import Launch, cuda
from minattn.gpu.simulated import Simulated
from minattn.gpu.where import sent

OPTIONS = {"D": 16, "block_q": 16, "block_k": 16, "biased": False, "capped": True}


def test_a_problem_sent_to_the_simulated_place_is_solved_there():
    place = Simulated(order=3)
    problem, x = drawn("causal", block_q=16, block_k=16)
    problem = problem._replace(given=sent(problem.given, place), place=place)
    problem = problem._replace(given=problem.given._replace(out=place.empty(problem.given.out.size, np.float32)))
    assert np.isnan(problem.given.out).all()
    for launch in registers.launches(problem):
        place.run(launch)
    out, _ = expected(x)
    np.testing.assert_allclose(place.get(problem.given.out).reshape(out.shape), out, rtol=0, atol=1e-5)
    assert len(place.reports) == 1


def test_what_a_gpu_leaves_undefined_is_an_error_in_the_simulated_place():
    def all_write_one(a):
        a[0] = cuda.threadIdx.x

    with pytest.raises(KernelError, match=r"all_write_one: race on a"):
        Simulated().run(Launch(all_write_one, (1, 1, 1), (2, 1, 1), (np.zeros(1, np.int32),)))


@pytest.mark.parametrize(("factory", "more"), [
    (naive.make_naive, {}), (rows.make_rows, {}), (block.make_block, {}), (registers.make_registers, {}),
    (tensor.make_tensor, {"kind": "f16"}), (backward.make_backward, {}), (decode.make_decode, {"rows": 2}),
])  # fmt: skip
def test_the_same_options_give_the_same_kernel(factory, more):
    assert factory(**OPTIONS, **more) is factory(**OPTIONS, **more)
    assert factory(**OPTIONS, **more) is not factory(**{**OPTIONS, "capped": False}, **more)


def test_a_recurrence_is_made_once():
    make = recurrence.make_recurrence
    assert make(16, 8, 4, by_channel=True, erases=False) is make(16, 8, 4, by_channel=True, erases=False)


def test_a_missing_package_and_a_missing_gpu_are_named(monkeypatch):
    class Cuda:
        gpus = ()
        is_available = staticmethod(lambda: False)
        cuda_error = staticmethod(lambda: "CUDA driver library\ncannot be found.")

    monkeypatch.setattr(device, "numba_cuda", lambda: Cuda)
    with pytest.raises(BackendError, match=r"no GPU can be used here: CUDA driver library cannot be found\. backend='cpu'"):
        device.Gpu()
    Cuda.is_available = staticmethod(lambda: True)
    with pytest.raises(BackendError, match=r"device 1 is not here: this machine has 0"):
        device.Gpu(device=1)
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "numba_cuda", None)
    with pytest.raises(DependencyError, match=r"pip install 'minattn\[cuda\]'"):
        device.Gpu()
