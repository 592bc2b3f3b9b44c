"""The report of a GPU as text. All numbers here are made up: no machine gave them."""
import json

import pytest

from minattn.bench.gpu import cases, report

DEVICE = {
    "name": "MADE-UP GPU", "arch": "sm_90", "processors": 132, "clock": 1.98e9, "memory": 80 * 2**30, "l2": 50 * 2**20,
    "driver": None, "system": "Linux", "processor": "made-up", "packages": {"numba": "1", "torch": None}, "smi": [None],
}  # fmt: skip


def spread(seconds):
    return {"median": seconds, "low": 0.9 * seconds, "high": 1.1 * seconds, "n": 5, "quiet": True}


def entry(seconds, work, ratio=None):
    ratios = {"flash": {**spread(1), "median": ratio}} if ratio else {}
    return {"state": "timed", "why": None, "error": 1e-6, "first": 1.0, "seconds": spread(seconds), "rate": work / seconds,
            "best": seconds, "ratios": ratios}  # fmt: skip


def absent(why):
    return {"state": "absent", "why": why, "ratios": {}, **dict.fromkeys(("error", "first", "seconds", "rate", "best"))}


@pytest.fixture
def made_up():
    """A result that no machine gave."""
    def row(group, kernel, D, kind, **entries):
        return {"group": group, "case": f"causal N 9 D {D} {kind}", "unit": "flops", "kernel": kernel, "D": D, "kind": kind,
                "state": "measured", "rivals": entries}  # fmt: skip

    rows = [
        row("float32", "registers", 64, "f32", registers=entry(1e-3, 30e9, 0.5), flash=absent("refused: it wants | 16 bits")),
        row("float32", "registers", 128, "f32", registers=entry(1e-3, 24e9), flash=absent("refused")),
        row("bfloat16", "tensor", 64, "bf16", tensor=entry(1e-3, 200e9, 0.5), flash=entry(0.5e-3, 200e9)),
        row("bfloat16", "tensor", 64, "bf16", tensor=entry(1e-3, 200e9, 0.8), flash=entry(0.8e-3, 200e9)),
        row("bfloat16", "tensor", 128, "bf16", tensor=absent("not measured: the time was up"), flash=absent("the same")),
    ]
    counted = {"instructions": 10, "flops": 100, "why": None, "rate": 40e12}
    bounds = [{"kernel": "registers", "D": D, "kind": "f32", **counted} for D in (64, 128)]
    bounds.append({"kernel": "tensor", "D": 64, "kind": "bf16", **dict.fromkeys(counted), "why": "no ptxas"})
    ceilings = {name: {"rate": rate, "quiet": rate is not None, "why": None if rate else "no torch"}
                for name, rate in (("float32 product", 60e12), ("bfloat16 product", None), ("copy", 2e12))}  # fmt: skip
    checks = [{"group": "rows", "name": name, "state": state, "why": why, "errors": [["out", error, 1e-5]], "seconds": 1.0}
              for name, state, why, error in (("causal", "right", None, 3e-7), ("nothing", "wrong", "out: error inf", None))]
    sanitizer = [{"tool": "memcheck", "state": "wrong", "why": "it found something", "said": ["========= Invalid read"]},
                 {"tool": "racecheck", "state": "right", "why": "nothing found", "said": []}]  # fmt: skip
    return {"minattn": "0", "quick": False, "device": DEVICE, "checks": checks, "sanitizer": sanitizer, "bounds": bounds,
            "ceilings": ceilings, "rows": rows, "seconds": 100.0}  # fmt: skip


def test_what_a_run_settles_stands_first(made_up):
    said = report.verdicts(made_up)
    assert "Checks, 2 in all: 1 right, 1 wrong." in said
    assert "memcheck wrong, racecheck right" in said
    assert "reached, 0.75 at causal N 9 D 64 f32; of all rows 0.60 to 0.75" in said
    assert "D 64: 0.63 times as fast (geometric mean of 2 rows)" in said
    assert "D 128: not known" in said
    made_up["bounds"][0]["rate"] = made_up["bounds"][1]["rate"] = 100e12
    assert "not reached, 0.30" in report.verdicts(made_up)
    made_up["bounds"] = []
    assert "not known, no row has both" in report.verdicts(made_up)


def test_every_row_stands_in_the_report_with_its_number_or_its_reason(made_up):
    said = report.document(made_up)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines() if line.startswith("|")]
    kernel = next(line for line in lines if line[1] == "4 registers")
    assert kernel[2:] == ["1.000", "0.900 1.100, 5", "30.0", "0.75", "0.50", "1e-06"]
    assert [line[-1] for line in lines if line[1] == "5 tensor"] == ["0.50", "0.80", ""]    # times flash, where it was timed
    assert any("absent: refused: it wants / 16 bits" in line for line in lines)
    assert "absent: not measured: the time was up" in said
    assert any(line[:3] == ["issue bound of 5 tensor, D 64, bf16", "unknown", "no ptxas"] for line in lines)
    assert any(line[:3] == ["bfloat16 product", "unknown~", "no torch"] for line in lines)
    assert any(line == ["rows", "nothing", "wrong", "out: error inf; out inf of 1e-05"] for line in lines)
    assert "    ========= Invalid read" in said
    assert "torch not installed" in said
    for line, before in zip(lines[1:], lines, strict=False):
        assert len(line) == len(before) or "---" not in "".join(line)


def test_the_json_is_inside_the_report(made_up):
    said = report.document(made_up)
    assert json.loads(said.split("```json\n")[1].split("\n```")[0]) == made_up


def test_a_turn_that_was_not_ahead_is_marked(made_up):
    assert "The host was not ahead" not in report.text(made_up)
    made_up["rows"][0]["rivals"]["registers"]["seconds"]["quiet"] = False
    said = report.text(made_up)
    assert "1.100, 5 ~" in said
    assert "The host was not ahead" in said


def test_every_group_has_a_title():
    assert {case.group for case in cases.table()} == set(report.TITLES)
