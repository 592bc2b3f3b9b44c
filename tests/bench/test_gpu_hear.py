"""Processes that are heard line by line: what becomes of those that fail, end without a word, or never end."""
import os
import queue
import sys
import textwrap
import time

import pytest

from minattn.bench.gpu import ask, bounds, hear, sanitizer
from minattn.bench.gpu.checks import SIMULATED, checks
from minattn.bench.gpu.hear import AGAIN, Heard, all_of
from minattn.core.errors import DependencyError, KernelError


@pytest.fixture
def module(tmp_path, monkeypatch):
    """`module(code)`: the name of a module that runs the code, with sys.argv[1:] as `given`."""
    def make(code):
        (tmp_path / "spoken.py").write_text("import os, sys, json, time\ngiven = sys.argv[1:]\n" + textwrap.dedent(code))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "spoken"

    return make


def test_lines_are_heard_and_other_words_are_not(module):
    told = []
    heard = hear.hear(module("""
        print("a warning", flush=True)
        print(json.dumps({"given": given}), flush=True)
        print("{half a line", end="")
    """), "one", 2, seconds=60, line=told.append)
    assert heard.lines == told == [{"given": ["one", "2"]}]
    assert (heard.code, heard.late) == (0, False)


def test_how_a_process_ended_is_told(module):
    heard = hear.hear(module("sys.exit('CUDA is\\ngone')"), seconds=60)
    assert heard == Heard([], 1, "its process ended (1): gone")


def test_a_process_that_never_ends_is_ended(module):
    heard = hear.hear(module("print('{}', flush=True); time.sleep(600)"), seconds=1)
    assert (heard.lines, heard.late, heard.ended) == ([{}], True, "still at work after 1 s")


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="processes have no groups here")
def test_what_a_process_started_ends_with_it(module, tmp_path):
    """And all of it where the whole run is interrupted."""
    name = module("""
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(json.dumps({"pid": child.pid}), flush=True)
        time.sleep(600)
    """)
    pids, futures = queue.Queue(), []

    def interrupted():
        with hear.side_by_side(1) as pool:
            futures.append(pool.submit(hear.hear, name, seconds=300, line=pids.put))
            pids.put(pids.get(timeout=60))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    pid = pids.get()["pid"]
    assert futures[0].result().late
    for _ in range(500):                                              # its end is reported a moment after it was asked for
        try:
            state = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] if os.path.isdir("/proc") else os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            break
        if state == "Z":
            break
        time.sleep(0.01)
    else:
        pytest.fail("the child is still at work")
    assert not hear.LIVE


def items(*processes):
    """What `all_of` makes of processes that answer so; and where each of them was told to begin."""
    starts, left = [], iter(processes)

    def process(start):
        starts.append(start)
        return next(left)

    return all_of(list("abcd"), lambda name, why: {"name": name, "state": "failed", "why": why}, process), starts


def right(*names):
    return [{"name": name, "state": "right"} for name in names]


def test_a_process_goes_through_all():
    found, starts = items(Heard(right("a", "b", "c", "d"), 0, ""))
    assert (found, starts) == (right("a", "b", "c", "d"), [0])


def test_after_a_failure_another_process_begins_at_the_next():
    failed = {"name": "b", "state": "failed", "why": "illegal address"}
    found, starts = items(Heard([*right("a"), failed], 0, ""), Heard(right("c", "d"), 0, ""))
    assert found == [*right("a"), failed, *right("c", "d")]
    assert starts == [0, 2]


def test_who_ends_a_process_without_a_word_is_told_so():
    found, starts = items(Heard(right("a"), -11, "its process ended (-11): "), Heard(right("c", "d"), 0, ""))
    assert [one["state"] for one in found] == ["right", "failed", "right", "right"]
    assert found[1] == {"name": "b", "state": "failed", "why": "its process ended (-11): "}
    assert starts == [0, 2]


def test_a_process_that_cannot_even_begin_is_tried_a_few_times():
    found, starts = items(*[Heard([], 1, "no GPU")] * 9)
    assert [one["why"] for one in found] == ["no GPU"] * AGAIN + [f"not asked: {AGAIN} processes ended before it"]
    assert starts == [0, 1, 2]


def test_when_the_time_is_up_nothing_more_is_asked():
    found, starts = items(Heard(right("a"), -9, "still at work after 3 s", late=True))
    assert [one.get("why") for one in found] == [None, "still at work after 3 s", *["not asked: the time was up"] * 2]
    assert starts == [0]


def test_a_group_is_asked_in_a_process_of_its_own():
    found = ask.ask("instructions", "simulated")
    assert [one["name"] for one in found] == [check.name for check in checks(SIMULATED)["instructions"]]
    assert {one["state"] for one in found} == {"right"}
    assert all(one["seconds"] >= 0 and one["errors"] for one in found)


def test_without_a_gpu_every_check_says_why(need_no_gpu):
    found = ask.ask("rows", "gpu")
    assert {one["state"] for one in found} == {"failed"}
    assert "pip install 'minattn[cuda]'" in found[0]["why"] or "no GPU" in found[0]["why"]


@pytest.fixture
def need_no_gpu():
    from minattn.core.errors import BackendError
    from minattn.gpu.device import Gpu

    try:
        Gpu()
    except (DependencyError, BackendError):
        return
    pytest.skip("there is a GPU here")


# compute-sanitizer


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """`tool(log, code)`: a program in its place that runs nothing, writes this log and ends so; `lines` are heard meanwhile."""
    def make(log, code, states=()):
        program = tmp_path / "compute-sanitizer"
        program.write_text(textwrap.dedent(f"""\
            #!{sys.executable}
            import json, sys
            open(sys.argv[sys.argv.index("--log-file") + 1], "w").write({log!r})
            for state in {list(states)!r}:
                print(json.dumps({{"state": state}}))
            sys.exit({code})
        """))
        program.chmod(0o755)
        monkeypatch.setattr(sanitizer, "program", lambda: str(program))

    return make


ALL = sum(map(len, checks(sanitizer.SHORT).values()))
CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands in for the program")
@pytest.mark.parametrize(("log", "code", "states", "state", "words"), [
    (CLEAN, 0, ["right"] * ALL, "right", "nothing found"),
    ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", 0, ["right"] * ALL, "right", "nothing found"),
    (CLEAN, 0, ["right"] * (ALL - 1), "failed", f"{ALL - 1} of {ALL} checks"),
    (CLEAN, 0, ["right"] * (ALL - 1) + ["wrong"], "failed", f"{ALL - 1} of {ALL} checks"),
    ("", 0, ["right"] * ALL, "failed", "process ended (0)"),
    ("========= Invalid __global__ read\n========= ERROR SUMMARY: 1 error\n", sanitizer.FOUND, ["right"] * ALL, "wrong", "found"),
    ("========= Target application terminated\n", 255, [], "failed", "process ended (255)"),
])  # fmt: skip
def test_what_a_tool_found(tool, log, code, states, state, words):
    tool(log, code, states)
    found = sanitizer.examine("memcheck", 60)
    assert (found["tool"], found["state"]) == ("memcheck", state)
    assert words in found["why"]
    assert found["said"] == ([] if state == "right" else log.splitlines())


def test_a_missing_tool_is_named(monkeypatch):
    def find(name):
        raise DependencyError(f"{name} is not installed: pip install 'minattn[cuda-check]'")

    monkeypatch.setattr(sanitizer.shutil, "which", lambda name: None)
    monkeypatch.setattr(sanitizer, "find", find)
    found = sanitizer.examine_all(1)
    assert [one["tool"] for one in found] == list(sanitizer.TOOLS)
    assert {one["state"] for one in found} == {"absent"}
    assert "minattn[cuda-check]" in found[0]["why"]


# issue bounds


def test_a_bound_is_that_of_the_device():
    device = {"arch": "sm_90", "processors": 132, "clock": 1.98e9}
    one = {"instructions": 3014, "flops": 131072}
    assert bounds.on(device, one) == pytest.approx(131072 / 3014 * 132 * 4 * 1.98e9)
    assert bounds.on({**device, "processors": 66}, one) == bounds.on(device, one) / 2
    assert bounds.on(device, {"instructions": None}) is None


def test_a_kernel_that_cannot_be_counted_says_why(monkeypatch):
    for error in (DependencyError("no ptxas"), KernelError("no loop"), RuntimeError("ptxas failed:\nsm_1000 is unknown")):
        def fails(*given, error=error):
            raise error

        monkeypatch.setattr(bounds, "compiled", fails)
        found = bounds.counted("registers", 64, "f32", "sm_90")
        assert found["instructions"] is None
        assert found["why"] == " ".join(str(error).split())
