"""The ring on real processes: equal to attention on 1 to 4 ranks, and over with a message when one of them fails."""
import re
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
    sent = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) bytes sent", said)]
    whole = 2 * 2 * 101 * 16 * 8 if count > 1 else 0                  # keys and values of all ranks
    assert sum(sent[::2]) == (count - 1) * whole                      # forward: to all but oneself
    assert sum(sent[1::2]) == (2 * count - 1) * whole                 # backward: and the gradients once round
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


def write(folder, **changed):
    rng = np.random.default_rng(0)
    for name in "qkv":
        np.save(folder / f"{name}.npy", changed.get(name, rng.standard_normal((2, 57, 8))))


@pytest.mark.parametrize(("options", "text"), [
    (["--tokens", "5"], "4 ranks for 5 tokens under 'zigzag'"), (["--tokens", "0"], "tokens = 0"),
    (["--heads", "-1"], "heads = -1"),
    (["--tokens", "100000000000000"], "Unable to allocate"), (["--schedule", "round"], "invalid choice: 'round'"),
])  # fmt: skip
def test_options_that_do_not_fit_are_one_clear_error(ranks, options, text):
    status, said, _ = ranks(4, "-m", "minattn.ring", *options)
    assert status == 2
    assert said.count(text) == 1
    assert "Traceback" not in said


@pytest.mark.parametrize(("changed", "text"), [
    ({"q": np.ones((57, 8))}, "q (57, 8)"), ({"k": np.ones((2, 50, 8))}, "k (2, 50, 8)"),
    ({"v": np.ones((2, 57, 8), int)}, "int64"),
    ({"q": np.ones((3, 57, 8))}, "q has H = 3 heads and k has G = 2"), ({"k": np.array(["a", None])}, "no whole .npy file"),
    ("lost", "No such file"), ("cut short", "no whole .npy file"), ("empty", "no whole .npy file"),
])  # fmt: skip
def test_files_that_do_not_fit_are_one_clear_error(ranks, tmp_path, changed, text):
    write(tmp_path, **(changed if isinstance(changed, dict) else {}))
    file = tmp_path / "k.npy"
    if changed == "lost":
        file.unlink()
    elif isinstance(changed, str):
        file.write_bytes(file.read_bytes()[: 900 if changed == "cut short" else 0])
    status, said, _ = ranks(2, "-m", "minattn.ring", "--input", str(tmp_path))
    assert status == 2
    assert said.count(text) == 1, said
    assert "Traceback" not in said


def test_one_rank_without_its_file_ends_all_with_its_message(ranks, tmp_path):
    write(tmp_path)
    code = tmp_path / "alone.py"
    code.write_text("import pathlib, sys\nfrom mpi4py import MPI\nfrom minattn.ring.__main__ import main\n"
                    f"sys.exit(main(['--input', {str(tmp_path)!r} + '/lost' * (MPI.COMM_WORLD.rank == 1)]))\n")  # fmt: skip
    status, said, _ = ranks(3, str(code))
    assert status == 2
    assert said.count("q.npy' (on rank 1)") == 1, said


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_finite_is_verified_too(ranks, tmp_path, poison):
    k = np.random.default_rng(1).standard_normal((2, 57, 8))
    k[0, 30, 2] = poison
    write(tmp_path, k=k)
    status, said, _ = ranks(2, "-m", "minattn.ring", "--input", str(tmp_path), "--causal", "--backward", "--verify")
    assert status == 0, said
    assert "nan" not in said


def test_a_difference_that_is_no_number_is_infinite():
    from minattn.ring.__main__ import difference

    a = np.array([1.0, 2.0, np.nan])
    assert difference(a, a.copy()) == 0
    assert difference(a, np.array([1.0, np.nan, np.nan])) == np.inf
    assert difference(a, np.array([1.0, 2.0, 3.0])) == np.inf
    assert difference(np.zeros(2), np.zeros(2)) == 0
    assert difference(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25


@pytest.mark.parametrize("count", [1, 3])
def test_overlap_is_measured_and_its_figures_fit(ranks, tmp_path, count):
    code = tmp_path / "overlap.py"
    code.write_text(
        "import numpy as np\n"
        "from mpi4py import MPI\n"
        "import minattn as ma\n"
        "from minattn.ring import shares\n"
        "from minattn.ring.mpi import ring_attention\n"
        "from minattn.ring.overlap import measure\n"
        "comm = MPI.COMM_WORLD\n"
        "mine = shares(301, comm.size)[comm.rank][0]\n"
        "whole = np.random.default_rng(0).standard_normal((3, 8, 301, 16))\n"
        "q, k, v = whole[:, :, mine]\n"
        "out, spent = ring_attention(comm, q, k, v, length=301, overlap=False, causal=True)\n"
        "assert np.abs(out - ma.attention(*whole, causal=True)[:, mine]).max() < 1e-12\n"
        "assert spent.sent == [2 * k.nbytes if comm.size > 1 else 0] + spent.sent[1:]\n"
        "found = measure(comm, q, k, v, length=301, repeats=3, causal=True)\n"
        "assert 0 < found.work <= found.apart\n"
        "assert found.together > 0 and (found.transfer > 0) == (comm.size > 1)\n"
        "assert found.hidden == ((found.apart - found.together) / found.transfer if found.transfer else 0)\n"
        "print(f'measured {found}', flush=True)\n"
    )
    status, said, _ = ranks(count, str(code))
    assert status == 0, said
    assert said.count("measured work") == count
    status, said, _ = ranks(count, "-m", "minattn.ring", "--tokens", "60", "--dtype", "float64", "--overlap")
    assert status == 0, said
    assert said.count("overlap: work") == count


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
