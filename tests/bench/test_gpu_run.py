"""A run on a GPU from the command line to its one file, on a simulated one; no time is judged."""
import json
import os
from types import SimpleNamespace

import pytest

from minattn.bench.gpu import report, rivals, run, timed
from minattn.bench.gpu.cases import GpuCase, against
from minattn.bench.gpu.hear import Heard
from minattn.bench.measure import Turn
from minattn.cli import main
from minattn.core.errors import BackendError
from minattn.gpu.simulated import Simulated

DEVICE = {
    "name": "SIMULATED", "arch": "sm_90", "processors": 132, "clock": 1.98e9, "memory": 2**30, "l2": 2**20, "driver": None,
    "system": "Linux", "processor": "made-up", "packages": {}, "smi": [None],
}  # fmt: skip
RIGHT = {"group": "rows", "name": "causal", "state": "right", "why": None, "errors": [["out", 1e-7, 1e-5]], "seconds": 0.1}


class Fixed:
    """A clock for which all calls take a millisecond."""

    def __init__(self, gpu):
        pass

    def turn(self, call, cold=False):
        return Turn(1e-3)


TINY = [GpuCase("float32", 12, 12, 16, 2, 2, causal=True, B=2, **against("registers", rivals=("flash",))),
        GpuCase("bfloat16", 12, 12, 16, 2, 2, B=2, kind="bf16", **against("tensor", rivals=("flash", "cudnn"))),
        GpuCase("decode", 1, 12, 8, 4, 2, **against("decode", rivals=()))]  # fmt: skip


@pytest.fixture
def simulated(monkeypatch, capsys):
    """The whole run on a simulated GPU: each process is this one, and no time is taken."""
    for name, tiles in {"registers": {16: (16, 16)}, "tensor": {16: (32, 16)}, "decode": {8: (8, 4)}}.items():
        monkeypatch.setattr({**rivals.LADDER, "decode": rivals.decode}[name], "TILES", tiles)
    for module in (timed, run):
        monkeypatch.setattr(module, "table", lambda quick: TINY)
        monkeypatch.setattr(module, "Gpu", Simulated)
    monkeypatch.setattr(timed, "Clock", Fixed)
    monkeypatch.setattr(timed, "Numbers", lambda place: rivals.Numbers(place, "cpu"))
    monkeypatch.setattr(timed, "ceilings", lambda bench: {"copy": {"rate": 1e12, "quiet": True, "why": None}})
    monkeypatch.setattr(run, "describe", lambda gpu: {**DEVICE, "smi": [None]})

    def hear(module, *arguments, seconds, before=(), line=lambda found: None):
        """The lines of the module's own main, which it writes in this process."""
        capsys.readouterr()
        timed.main([str(one) for one in arguments])
        lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
        for one in lines:
            line(one)
        return Heard(lines, 0, "")

    monkeypatch.setattr(run, "hear", hear)
    monkeypatch.setattr(run.bounds, "count_all", lambda device, seconds: [])
    monkeypatch.setattr(run.ask, "ask_all", lambda progress: [RIGHT])
    monkeypatch.setattr(run.sanitizer, "examine_all", lambda seconds, progress: [
        {"tool": "memcheck", "state": "absent", "why": "not installed", "said": []}])


def test_a_run_from_the_command_to_its_one_file(simulated, need, tmp_path, capsys):
    need("torch")
    file = tmp_path / "gpu.md"
    assert main(["bench", "--cuda", "--report", str(file)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.md"]
    said = file.read_text()
    found = json.loads(said.split("```json\n")[1].split("\n```")[0], parse_constant=pytest.fail)
    assert [row["case"] for row in found["rows"]] == [case.name for case in TINY]
    for row, case in zip(found["rows"], TINY, strict=True):
        assert list(row["rivals"]) == list(case.rivals)
        kernel = row["rivals"][case.rivals[0]]
        assert kernel["state"] == "timed"
        assert kernel["rate"] == pytest.approx(case.work / 1e-3)
        assert row["case"] in said
    assert "refused" in found["rows"][1]["rivals"]["cudnn"]["why"]
    assert found["ceilings"]["copy"]["rate"] == 1e12
    assert "compute-sanitizer: memcheck absent." in said


def test_what_went_wrong():
    def result(check="right", tool="right", kernel="timed", rival="timed"):
        return {"checks": [{"state": check}], "sanitizer": [{"state": tool}],
                "rows": [{"rivals": {"registers": {"state": kernel}, "flash": {"state": rival}}}]}  # fmt: skip

    assert not run.went_wrong(result())
    assert not run.went_wrong(result("absent", "absent", "absent", "wrong"))
    for name in ("check", "tool", "kernel"):
        for state in ("wrong", "failed"):
            assert run.went_wrong(result(**{name: state}))


def test_a_failure_is_in_the_report_and_in_the_exit_code(simulated, need, tmp_path, monkeypatch):
    """A kernel that raises ends its process; the next case is measured in another one."""
    need("torch")
    right = rivals.RIVALS["tensor"]
    monkeypatch.setitem(rivals.RIVALS, "tensor", lambda case, numbers: right(None, numbers))
    wrong = [{**RIGHT, "state": "wrong", "why": "out: off"}]
    monkeypatch.setattr(run.ask, "ask_all", lambda progress: wrong)
    file = tmp_path / "gpu.md"
    assert main(["bench", "--cuda", "--report", str(file), "--json", str(tmp_path / "gpu.json")]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["state"] for row in found["rows"]] == ["measured", "failed", "measured"]
    assert found["rows"][1]["rivals"]["tensor"]["state"] == "failed"
    assert "failed: " in file.read_text()
    assert "1 wrong" in file.read_text()


def test_a_process_that_dies_leaves_rows_that_say_so(simulated, monkeypatch):
    """It ends without a word in the second case, as after a crash; in the third its time is up."""
    answers = iter([Heard([{"case": "first", "state": "measured"}], -11, "its process ended (-11): "),
                    Heard([], -9, "still at work after 3 s", late=True)])  # fmt: skip
    monkeypatch.setattr(run, "hear", lambda *given, **told: next(answers))
    _, rows = run.rows(False, print)
    assert [row["state"] for row in rows] == ["measured", "failed", "failed"]
    assert rows[1]["rivals"]["tensor"]["why"] == "its process ended (-11): "
    assert rows[2]["rivals"]["decode"]["why"] == "still at work after 3 s"
    assert run.went_wrong({"checks": [], "sanitizer": [], "rows": rows[1:]})


def test_when_the_time_is_up_the_rest_says_so(simulated, capsys):
    timed.main(["1", "--seconds", "-1"])
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [line["case"] for line in lines] == [case.name for case in TINY[1:]]
    assert {entry["why"] for line in lines for entry in line["rivals"].values()} == {"not measured: the time was up"}
    assert "not measured" in report.group("t", lines[:1], {"ceilings": {}, "bounds": []})


@pytest.mark.parametrize("arguments", [["--cuda"], ["--cuda", "--report", "gpu.md"], ["--cuda", "--json", "gpu.json"]])
def test_without_a_gpu_there_is_one_line_and_no_file(arguments, monkeypatch, capsys, tmp_path):
    def nothing():
        raise BackendError("no GPU can be used here: no driver")

    monkeypatch.setattr(run, "Gpu", nothing)
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "minattn: no GPU can be used here: no driver\n"
    assert os.listdir() == []


@pytest.mark.parametrize(("arguments", "words"), [
    (["--report", "a.md"], "--cuda --report"), (["--cuda", "--linear"], "--linear"), (["--cuda", "--threads", "1"], "--threads"),
    (["--cuda", "--only", "forward"], "--only"), (["--cuda", "--figure", "f.png"], "--figure"),
    (["--cuda", "--report", "no/such/folder/a.md"], "folder"), (["--cuda", "--report", "."], "is no file"),
    (["--cuda", "--threads", "0"], "--threads"), (["--cuda", "--report", "no.md", "--json", "./no.md"], "replace the other"),
])
def test_mistakes_are_named_before_a_gpu_is_asked_for(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr(run, "Gpu", None)
    assert main(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_gpu_is_described(monkeypatch):
    """By what numba.cuda says of it, and nvidia-smi where it is."""
    device = SimpleNamespace(compute_capability=(9, 0), name=b"MADE-UP", MULTIPROCESSOR_COUNT=132, CLOCK_RATE=1_980_000,
                             L2_CACHE_SIZE=5)  # fmt: skip
    context = SimpleNamespace(get_memory_info=lambda: SimpleNamespace(total=7))
    gpu = SimpleNamespace(cuda=SimpleNamespace(get_current_device=lambda: device, current_context=lambda: context))
    monkeypatch.setattr(run.shutil, "which", lambda name: None)
    found = run.describe(gpu)
    assert (found["name"], found["arch"], found["processors"], found["clock"]) == ("MADE-UP", "sm_90", 132, 1.98e9)
    assert (found["memory"], found["driver"], found["smi"]) == (7, None, [None])
    assert found["packages"].keys() == set(run.PACKAGES)
    json.dumps(found, allow_nan=False)


def test_nvidia_smi_is_asked_and_may_be_silent(monkeypatch, tmp_path):
    said = SimpleNamespace(stdout="1980 MHz, 1980 MHz, 300.00 W, 700.00 W, 40\n1 MHz, 1 MHz, 1 W, 1 W, 1\n")
    monkeypatch.setattr(run.shutil, "which", lambda name: "nvidia-smi")
    monkeypatch.setattr(run.subprocess, "run", lambda *given, **told: said)
    values = "1980 MHz", "1980 MHz", "300.00 W", "700.00 W", "40"
    assert run.smi() == dict(zip(run.SMI.split(","), values, strict=True))
    said.stdout = "\n"
    assert run.smi() is None
    monkeypatch.undo()
    monkeypatch.setattr(run.shutil, "which", lambda name: str(tmp_path / "nothing"))
    assert run.driver() is None
