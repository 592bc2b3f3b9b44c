"""What only a run on a GPU launches, compiled without one; and compute-sanitizer, which takes the options that it is given."""
import shutil
import subprocess

import numpy as np
import pytest

from minattn.bench.gpu import sanitizer, warp
from minattn.bench.gpu.clock import hold
from minattn.gpu.problem import Launch
from minattn.gpu.where import Host

pytestmark = pytest.mark.slow
OPCODES = {"mma bf16": "HMMA", "mma f16": "HMMA", "pack bf16": "F2FP", "pack f16": "F2FP", "ldmatrix": "LDSM",
           "ldmatrix, turned": "LDSM", "cp.async": "LDGSTS", "exp2": "MUFU", "shuffles": "SHFL"}  # fmt: skip


@pytest.fixture(autouse=True)
def _tools(need, need_tool):
    need("numba_cuda")
    need_tool("ptxas")
    need_tool("nvdisasm")


@pytest.mark.parametrize("name", warp.probes())
def test_every_probe_is_its_instruction(name):
    from minattn.gpu.machine import machine

    made = machine(warp.probes()[name](Host()).launch)
    assert made.count(OPCODES[name]) > 0
    assert made.spills == 0


def test_the_hold_sleeps():
    from minattn.gpu.machine import machine

    made = machine(Launch(hold, (1, 1, 1), (1, 1, 1), (np.int32(3),)))
    assert made.count("NANOSLEEP") > 0


@pytest.mark.parametrize("tool", sanitizer.TOOLS)
def test_the_recipe_is_understood(tool, tmp_path, need_tool):
    """Without a GPU the tool says that the program used none; an option that it does not know would end it before that."""
    if shutil.which("compute-sanitizer") is None:
        need_tool("compute-sanitizer")
    recipe = sanitizer.recipe(tool, tmp_path / "log")
    done = subprocess.run([*recipe, "true"], capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout + done.stderr + (tmp_path / "log").read_text()
    assert "before first instrumented API call" in said
    assert "unrecognised" not in said
    wrong = subprocess.run([*recipe, "--no-such-option", "true"], capture_output=True, text=True, timeout=60, check=False)
    assert "unrecognised" in wrong.stdout + wrong.stderr
