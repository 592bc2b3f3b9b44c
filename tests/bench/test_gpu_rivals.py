"""Every rival of a GPU computes what the case says: kernels on a simulated GPU, PyTorch's backends on a CPU."""
from dataclasses import replace

import numpy as np
import pytest

from minattn.bench.check import relative_error
from minattn.bench.gpu import rivals, sdpa, timed
from minattn.bench.gpu.cases import GpuCase, expected
from minattn.bench.gpu.rivals import RIVALS, Numbers
from minattn.bench.gpu.timed import GpuBench
from minattn.bench.measure import Turn
from minattn.bench.rivals import Absent
from minattn.gpu.kernels import decode
from minattn.gpu.simulated import Simulated

SMALL = {"naive": {8: (8, 4)}, "rows": {8: (8, 4)}, "block": {8: (8, 4)}, "registers": {16: (16, 16)}, "tensor": {16: (32, 16)},
         "decode": {8: (8, 4)}}  # fmt: skip
CAUSAL = GpuCase("x", 20, 20, 16, 2, 2, causal=True, B=2)
CASES = {
    "naive": replace(CAUSAL, D=8), "rows": replace(CAUSAL, D=8), "block": replace(CAUSAL, D=8), "registers": CAUSAL,
    "tensor": replace(CAUSAL, kind="bf16"), "careful": replace(CAUSAL, kind="f16"), "backward": replace(CAUSAL, backward=True),
    "decode": GpuCase("x", 1, 30, 8, 4, 2, B=2), "recurrence": GpuCase("recurrence", 20, 20, 32, 2, 2, B=2),
}  # fmt: skip
SLOW = "backward", "recurrence"


@pytest.fixture
def numbers(monkeypatch):
    """With small tiles: a simulated GPU is slow."""
    for name, module in {**rivals.LADDER, "decode": decode}.items():
        monkeypatch.setattr(module, "TILES", SMALL[name])
    return Numbers(Simulated(), "cpu")


def answer(rival, case, numbers):
    work = RIVALS[rival](case, numbers)
    work.call()
    return [array for b, h in case.ends for array in work.head(b, h)]


@pytest.mark.parametrize("kernel", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
def test_kernels_are_asked_for_the_case(kernel, numbers):
    case = CASES[kernel]
    assert relative_error(answer(kernel, case, numbers), expected(case)) < GpuBench(None, None).limit(case, kernel)


@pytest.mark.parametrize("case", [CASES[name] for name in ("registers", "tensor", "backward", "decode")]
                         + [replace(CAUSAL, kind="f16"), replace(CAUSAL, causal=False)], ids=lambda case: case.name)  # fmt: skip
@pytest.mark.parametrize("backend", ["math", "flash"])
def test_backends_of_pytorch_are_asked_for_the_case(backend, case, need):
    need("torch")
    assert relative_error(answer(backend, case, Numbers(None, "cpu")), expected(case)) < timed.LOOSE[case.kind]


def test_a_backend_that_refuses_says_why(need):
    need("torch")
    for backend in ("efficient", "cudnn"):                            # neither is for a CPU
        with pytest.raises(Absent, match=r"refused: .*scaled_dot_product_attention"):
            answer(backend, CAUSAL, Numbers(None, "cpu"))


def test_reasons_are_what_pytorch_warned_of(need):
    need("torch")

    def refusing():
        import warnings

        warnings.warn("Flash attention wants 16 bits. (Triggered internally at a.cpp:1.)", stacklevel=1)
        raise RuntimeError("No available kernel.")

    with pytest.raises(Absent, match=r"^refused: Flash attention wants 16 bits\.; No available kernel\.$"):
        sdpa.accepted(refusing)


def test_without_a_gpu_or_without_pytorch_there_is_a_reason(need, monkeypatch):
    torch = need("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Absent, match="finds no GPU"):
        sdpa.load_torch()
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(Absent, match="not installed"):
        sdpa.load_torch()


def test_scores_that_do_not_fit_are_not_formed(need):
    need("torch")
    with pytest.raises(Absent, match="103 GB of scores"):
        answer("math", GpuCase("x", 16384, 16384, 64, 32, 32), Numbers(None, "cpu"))


def test_a_product_has_the_flops_of_its_case(need):
    need("torch")
    case = GpuCase("ceiling", 64, 64, 16, 2, 2)
    made = RIVALS["matmul"](case, Numbers(None, "cpu")).call()
    assert 2 * made.shape[0] ** 3 == pytest.approx(case.flops, rel=0.1)


class Constant:
    """A clock for which all calls take as long."""

    def __init__(self):
        self.cold = []

    def turn(self, call, cold):
        self.cold.append(cold)
        return Turn(0.25)


def test_a_row_checks_answers_and_holds_all_against_each_other(numbers, need):
    need("torch")
    clock = Constant()
    case = replace(CASES["rows"], rivals=("rows", "math", "cudnn"), goals=(("rows", None), ("math", None), ("cudnn", None)))
    row = GpuBench(numbers, clock).row(case, 0.0)
    kernel, math, cudnn = row["rivals"].values()
    assert kernel["rate"] == case.flops / 0.25
    assert kernel["ratios"]["math"]["median"] == math["ratios"]["rows"]["median"] == 1
    assert 0 < kernel["error"] < 1e-5
    assert (cudnn["state"], cudnn["seconds"]) == ("absent", None)
    assert "refused" in cudnn["why"]
    assert not any(clock.cold)


def test_a_wrong_kernel_gets_no_time(numbers, monkeypatch):
    right = RIVALS["rows"]

    def off(case, numbers):
        work = right(case, numbers)
        return work._replace(head=lambda b, h: [array * np.float32(1.0001) for array in work.head(b, h)])

    monkeypatch.setitem(RIVALS, "rows", off)
    case = replace(CASES["rows"], rivals=("rows",), goals=(("rows", None),))
    entry, = GpuBench(numbers, Constant()).row(case, 0.0)["rivals"].values()
    assert (entry["state"], entry["rate"]) == ("wrong", None)
    assert "above 1e-05" in entry["why"]


def test_what_is_bound_by_memory_is_timed_with_a_cold_cache(numbers):
    clock = Constant()
    case = replace(CASES["decode"], rivals=("decode",), goals=(("decode", None),))
    row = GpuBench(numbers, clock).row(case, 0.0)
    assert row["unit"] == "bytes"
    assert all(clock.cold)
