"""The process of a rival: answers, threads, memory, and what becomes of one that dies."""
import subprocess
import sys

import numpy as np
import pytest

from minattn.bench import check, report, scaling
from minattn.bench.cases import Case
from minattn.bench.measure import Bench
from minattn.bench.worker import Worker

CASE = Case("forward", 65, 65, 8, H=2, G=2, causal=True)


@pytest.fixture(scope="module")
def naive():
    with Worker("numpy", 1) as worker:
        yield worker


def test_it_answers_and_takes_turns(naive):
    answer = naive.ask("case", CASE)
    assert answer["state"] == "ready"
    assert 0 < answer["first"] < 60
    assert check.relative_error(answer["sample"], check.expected(CASE)) < check.LIMIT
    turn = naive.ask("turn", CASE)
    assert turn["state"] == "timed"
    assert 0 < turn["seconds"] < 60
    assert isinstance(turn["quiet"], bool)
    assert naive.ask("rest")["state"] == "resting"


def test_what_it_cannot_do_is_said(naive):
    answer = naive.ask("case", Case("window", 16384, 16384, 64, window=256))
    assert answer["state"] == "absent"
    assert "GB of scores" in answer["why"]
    answer = naive.ask("turn", Case("forward", 3, 3, 3))
    assert answer["state"] == "failed"
    assert "KeyError" in answer["why"]
    assert naive.ask("case", CASE)["state"] == "ready"


def test_a_rival_that_is_not_installed_says_so():
    code = """
import sys
sys.modules["torch"] = None
from minattn.bench.cases import Case
from minattn.bench.rivals import Absent
from minattn.bench.worker import Rival
try:
    Rival("torch").case(Case("forward", 3, 3, 3))
except Absent as why:
    print(why)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "PyTorch is not installed (pip install 'minattn[dev]')\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_threads_are_set_before_anything_is_imported():
    with Worker("numpy", 3, MINATTN_TEST="mark") as worker:
        assert worker.ask("rest")["state"] == "resting"               # it runs
        with open(f"/proc/{worker.process.pid}/environ", "rb") as file:
            environment = dict(line.split(b"=", 1) for line in file.read().split(b"\0") if b"=" in line)
    assert environment[b"OMP_NUM_THREADS"] == environment[b"OPENBLAS_NUM_THREADS"] == environment[b"NUMBA_NUM_THREADS"] == b"3"
    assert environment[b"MINATTN_TEST"] == b"mark"


def test_a_process_that_dies_fails_with_its_last_words():
    with Worker("numpy", 1, PYTHONPATH="", PYTHONHOME="/nowhere") as worker:
        answer = worker.ask("case", CASE)
        assert answer["state"] == "failed"
        assert "its process ended" in answer["why"]
        assert worker.ask("rest")["state"] == "failed"                # and again: nothing waits for it


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the largest size cannot be set back")
def test_peak_memory_is_that_of_the_scores():
    with Bench(1) as bench:
        found, = scaling.peaks(bench, {"numpy": [512, 1024]})
    small, large = (point["bytes"] for point in found["points"])
    for N, held in ((512, small), (1024, large)):
        assert 2 * 4 * N**2 < held < 8 * 4 * N**2                     # a few arrays N x S in float32
    assert scaling.slope([512, 1024], [small, large]) == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("exponent", [1.0, 2.0, 1.37])
def test_slope_of_a_power_law(exponent):
    N = np.array([100, 250, 700, 5000])
    assert scaling.slope(N, 3e-9 * N**exponent) == pytest.approx(exponent)
    ragged = 3e-9 * N**exponent * [1.1, 0.9, 1.1, 0.9]
    assert abs(scaling.slope(N, ragged) - exponent) < 0.1


def test_slope_at_the_large_end_stands_apart():
    sizes = [1024, 2048, 4096]
    seconds = [1e-3 + 1e-9 * N**2 for N in sizes]                          # the same millisecond in every call
    spread = {"low": 0, "high": 0, "n": 3, "quiet": True}
    points = [{"N": N, "median": took, **spread} for N, took in zip(sizes, seconds, strict=True)]
    one = {"series": "full", "rival": "cpu", "points": points, "slope": {"median": scaling.slope(sizes, seconds), **spread}}
    last = np.log2(seconds[2] / seconds[1])
    assert last > one["slope"]["median"] + 0.1
    assert f"from N 2048 on {last:.2f}" in report.slopes([one], "one head")
