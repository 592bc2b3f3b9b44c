"""The ring on real processes: equal to attention on 1 to 4 ranks, and over with a message when one of them fails."""
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def ranks(need):
    """Run a module, or code, on so many ranks: (exit status, what was printed, seconds)."""
    need("mpi4py")
    mpiexec = shutil.which("mpiexec", path=str(SCRIPTS)) or shutil.which("mpiexec")
    if mpiexec is None:
        pytest.skip("mpi4py is here, but no mpiexec")

    def start(count, *arguments, limit=60):
        begun = time.monotonic()
        command = [mpiexec, "-n", str(count), sys.executable, "-m", "mpi4py", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        return done.returncode, done.stdout + done.stderr, time.monotonic() - begun

    return start


@pytest.mark.parametrize("schedule", ["contiguous", "striped", "zigzag"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_equals_attention_forward_and_backward(ranks, count, schedule):
    causal = ["--causal"] if schedule != "striped" else []
    status, said, _ = ranks(count, "-m", "minattn.ring", "--tokens", "101", "--heads", "2", "--dim", "16", "--dtype", "float64",
                            "--schedule", schedule, "--backward", "--verify", *causal)  # fmt: skip
    assert status == 0, said
    assert said.count("largest difference") == 4
    assert said.count("rank ") == 2 * count


@pytest.mark.slow
def test_float32_runs_the_kernel(ranks, need):
    need("numba")
    status, said, _ = ranks(2, "-m", "minattn.ring", "--tokens", "301", "--causal", "--backward", "--verify", limit=300)
    assert status == 0, said


def test_inputs_from_files(ranks, tmp_path):
    rng = np.random.default_rng(0)
    for name in "qkv":
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((2, 57, 8)))
    status, said, _ = ranks(3, "-m", "minattn.ring", "--input", str(tmp_path), "--dtype", "float64", "--verify", "--causal")
    assert status == 0, said


def test_more_ranks_than_tokens_is_one_clear_error(ranks):
    status, said, _ = ranks(4, "-m", "minattn.ring", "--tokens", "5")
    assert status != 0
    assert said.count("4 ranks for 5 tokens under 'zigzag'") == 1
    assert "Traceback" not in said


FAILS = """
import os, signal, sys, time
from mpi4py import MPI
comm = MPI.COMM_WORLD
comm.Barrier()
if comm.rank == 1:
    print("it happens at", time.time(), flush=True)
    {}
comm.Barrier()
"""


@pytest.mark.parametrize("end", ["raise RuntimeError('rank 1 has had it')", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_rank_that_fails_or_is_killed_ends_all(ranks, tmp_path, end):
    code = tmp_path / "fails.py"
    code.write_text(FAILS.format(end))
    status, said, _ = ranks(3, str(code))
    over = time.time()
    assert status != 0
    assert over - float(said.split("it happens at")[1].split()[0]) < 5
    assert "rank 1 has had it" in said or "kill" in said.lower()
    if shutil.which("pgrep"):
        left = subprocess.run(["pgrep", "-f", str(code)], capture_output=True, text=True, check=False).stdout
        assert left.split() == []                                     # no orphans


def test_tree_decoding_joins_the_parts_of_a_cache(ranks, tmp_path):
    code = tmp_path / "tree.py"
    code.write_text(
        "import numpy as np, minattn as ma\n"
        "from mpi4py import MPI\n"
        "from minattn.ring.mpi import tree_decode\n"
        "comm, rng = MPI.COMM_WORLD, np.random.default_rng(0)\n"
        "q, k, v = (rng.standard_normal((2, n, 8)) for n in (1, 50, 50))\n"
        "ends = [0, 20, 20, 33, 50, 50][: comm.size] + [50]\n"               # some ranks have nothing
        "mine = slice(ends[comm.rank], ends[comm.rank + 1])\n"
        "out, lse = tree_decode(comm, q, k[:, mine], v[:, mine])\n"
        "right = ma.attention(q, k, v, return_lse=True)\n"
        "assert np.allclose(out, right[0], atol=1e-12) and np.allclose(lse, right[1], atol=1e-12)\n"
        "print('joined', flush=True)\n"
    )
    for count in (1, 2, 3, 5):
        status, said, _ = ranks(count, str(code))
        assert status == 0, said
        assert said.count("joined") == count
