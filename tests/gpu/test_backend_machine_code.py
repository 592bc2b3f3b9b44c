"""The kernels around the ladder as machine code: nothing spills, nothing is computed in float64."""
import numpy as np
import pytest
from gpu_problems import drawn

from minattn.gpu.kernels import arrange, careful, decode, sinks, weights
from minattn.gpu.kernels.arrange import Strided
from minattn.gpu.machine import machine
from minattn.gpu.table import float64

pytestmark = pytest.mark.slow


def builds():
    problem, _ = drawn("softcap and bias of heads", D=60, dims=(64,), block_q=64, block_k=64, kind="bf16")
    wide, _ = drawn("softcap and bias of heads", D=60, dims=(64,), block_q=64, block_k=64)
    few, _ = drawn("softcap and bias of heads", D=100, dims=(128,), block_q=64, block_k=32, N=8, heads=(4, 1, 1))
    source = Strided(np.zeros(64, np.uint16), 0, (2, 3, 4), (12, 4, 1), "f16")
    yield "arrange", arrange.launch(source, np.zeros(48, np.uint16), (2, 3, 8), "bf16", dim=4)
    source = Strided(np.zeros(64, np.float32), 0, (2, 3, 4), (12, 4, 1), "f32")
    yield "arrange, one sum", arrange.launch(source, np.zeros(6, np.float32), (2, 3, 1), "f32", apart=1, count=4)
    yield "join", sinks.join(problem, np.zeros(4, np.float32))
    yield "careful", careful.launches(problem)[0]
    yield "weights", weights.launches(wide, np.zeros(wide.B * 4 * 21 * 19, np.float32))[-1]
    yield "decode, as many rows as it gets", decode.launches(few)[0]


@pytest.mark.parametrize("build", list(builds()), ids=lambda build: build[0])
def test_machine_code(build, need, need_tool):
    need("numba_cuda")
    need_tool("ptxas")
    need_tool("nvdisasm")
    made = machine(build[1], "sm_90")
    assert made.opcodes["EXIT"], "no machine code was read"
    assert (float64(made), made.spills) == (0, 0)
    assert made.shared <= 48 * 1024
