"""`minattn bench` from the command line to its files, on tiny cases; no time is judged."""
import contextlib
import io
import json
import math
import os

import matplotlib as mpl
import pytest

mpl.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

from minattn.bench import cases, figure, linear, report, scaling
from minattn.bench.cases import Case
from minattn.bench.measure import Bench
from minattn.bench.run import PARTS, first_calls
from minattn.cli import main

MEASURED = ["forward", "decode", "scaling", "memory"]
SPREAD = {"median", "low", "high", "n", "quiet"}
ENTRY = {"state", "why", "error", "first", "seconds", "rate", "best", "ratios"}


FEW = {"rivals": ("numpy", "tiled", "nobody"), "goals": (("numpy", 2.0),), "left_out": (("nobody", "on holiday"),)}
ROWS = [Case("forward", 33, 33, 8, **FEW), Case("decode", 1, 65, 8, H=6, G=2, **FEW)]


@pytest.fixture(scope="module")
def tiny():
    """The same run with problems that take no time, and without the rivals that have to be loaded or compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "table", lambda quick: ROWS)
        patch.setattr(cases, "ceilings", lambda quick: [
            Case("ceiling", 32, 32, 8, H=2, G=2, rivals=("sgemm",), goals=()),
            Case("ceiling", 1, 4096, 8, H=1, G=1, rivals=("read", "copy"), goals=())])
        patch.setattr(scaling, "series", lambda quick: [("full", {}, {"numpy": [32, 64]}),
                                                        ("last(256)", {"window": 256}, {"numpy": [64, 128]})])
        patch.setattr(scaling, "memory_lengths", lambda quick: {"numpy": [256, 512]})
        patch.setitem(report.LABELS, "nobody", "nobody")
        yield


@pytest.fixture(scope="module")
def result(tiny, tmp_path_factory):
    """(what the JSON holds, stdout, stderr, the folder of the files)."""
    folder, out, err = tmp_path_factory.mktemp("bench"), io.StringIO(), io.StringIO()
    files = ["--json", str(folder / "b.json"), "--figure", str(folder / "f.png")]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(["bench", "--quick", "--threads", "1", *files, "--only", *MEASURED]) == 0
    written = json.loads((folder / "b.json").read_text(), parse_constant=pytest.fail)        # neither NaN nor Infinity
    return written, out.getvalue(), err.getvalue(), folder


def test_a_run_from_end_to_end(result):
    written, out, err, folder = result
    assert written.keys() == {"minattn", "threads", "quick", "only", "machine", "compile", "rows", "ceilings", "scaling",
                              "sparse", "memory", "linear", "seconds"}
    assert (written["threads"], written["quick"], written["only"]) == (1, True, MEASURED)
    assert written["machine"].keys() == {"processor", "architecture", "cores", "simd", "system", "python", "packages", "load",
                                         "load_after"}
    assert all(ceiling.keys() == {"rate", "quiet"} and ceiling["rate"] > 0 for ceiling in written["ceilings"].values())
    assert written["ceilings"].keys() == {"sgemm", "read", "copy"}
    assert [(row["group"], row["case"]) for row in written["rows"]] == [(case.group, case.name) for case in ROWS]
    for row, case in zip(written["rows"], ROWS, strict=True):
        assert list(row["rivals"]) == list(case.rivals)
        assert row["work"] == case.work
        for entry in row["rivals"].values():
            assert entry.keys() == ENTRY
            assert (entry["state"] == "timed") == (entry["seconds"] is not None) == (entry["why"] is None)
        naive = row["rivals"]["numpy"]
        assert naive["seconds"].keys() == SPREAD
        assert math.isclose(naive["rate"], case.work / naive["seconds"]["median"])
    assert written["compile"] == []
    for one in written["scaling"]:
        assert one["slope"].keys() == SPREAD
        assert all(point.keys() == SPREAD | {"N"} for point in one["points"])
    assert [point["N"] for point in written["memory"][0]["points"]] == [256, 512]

    for row in written["rows"]:
        assert row["case"] in out
    assert out.count("absent: on holiday") == len(ROWS)
    assert out.count("naive NumPy") >= len(ROWS) + 3
    assert "forward: full H 8 N 33 D 8" in err
    for theme in ("light", "dark"):
        with Image.open(folder / f"f_{theme}.png") as picture:
            assert picture.size[0] > 1000
    assert sorted(path.name for path in folder.iterdir()) == ["b.json", "f_dark.png", "f_light.png"]


def test_the_figure_shows_the_numbers(result):
    written = result[0]
    fig = figure.scaling(written, "dark")
    left, right = fig.axes
    assert left.get_xscale() == left.get_yscale() == right.get_yscale() == "log"
    drawn = {line.get_label(): line for line in left.lines if not line.get_label().startswith("_")}
    for one in written["scaling"]:
        dots = drawn[f"naive NumPy, {one['series']}: {one['slope']['median']:.2f}"]
        assert dots.get_xdata().tolist() == [point["N"] for point in one["points"]]
        assert dots.get_ydata().tolist() == [point["median"] * 1e3 for point in one["points"]]
    for line, one in zip(left.lines[::2], written["scaling"], strict=True):              # each fitted line, then its points
        assert scaling.slope(line.get_xdata(), line.get_ydata()) == pytest.approx(one["slope"]["median"])
    held, = right.lines
    assert held.get_ydata().tolist() == [max(point["bytes"] / 1e6, figure.LEAST) for point in written["memory"][0]["points"]]
    plt.close("all")


@pytest.mark.parametrize(("arguments", "words"), [
    (["--threads", "0"], "--threads"), (["--threads", "100000"], "100000"), (["--only", "forwards"], "forwards"),
    (["--only", "forward", "--figure", "f.png"], "scaling"), (["--json", "no/such/folder/b.json"], "folder"),
    (["--json", "~nobody-of-this-name/b.json"], "folder"), (["--json", "."], "is no file"), (["--json", ""], "is no file"),
    (["--json", os.devnull], "is no file"),
])
def test_mistakes_are_named_before_anything_is_measured(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr("minattn.bench.measure.Worker", None)
    assert main(["bench", *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_a_folder_that_takes_nothing_is_told_before_anything_is_measured(capsys, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("minattn.bench.measure.Worker", None)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert main(["bench", "--json", "b.json"]) == 2
    assert "--json b.json: nothing can be written there: [Errno 13] Permission denied" in capsys.readouterr().err


def test_the_linear_family(tiny, monkeypatch, capsys, tmp_path):
    """Rows, slopes and decoding of its own, on tiny problems without a compiler; what each rival computes is checked."""
    few = {"H": 2, "G": 2, "rivals": ("step", "chunks"), "goals": (("step", 1.0),)}
    monkeypatch.setattr(linear, "MECHANISMS", {"gated delta rule": linear.delta_rule})
    rows = [linear.problem(33, "gated delta rule", group="forms", **few)]
    monkeypatch.setattr(linear, "table", lambda quick: rows)
    monkeypatch.setattr(linear, "OWN", "chunks")
    monkeypatch.setattr(linear, "DECODING", "step")
    monkeypatch.setattr(linear, "SIZES", {True: ([16, 32], [8, 24])})
    file = tmp_path / "linear.json"
    assert main(["bench", "--linear", "--quick", "--threads", "1", "--json", str(file)]) == 0
    said, written = capsys.readouterr().out, json.loads(file.read_text(), parse_constant=pytest.fail)
    for row, case in zip(written["rows"], rows, strict=True):
        assert row["work"] == case.flops
        assert row["case"] in said
        for entry in row["rivals"].values():
            assert entry["state"] == "timed"
            assert entry["error"] < 1e-5
    times = [[point["N"] for point in one["points"]] for one in written["linear"]]
    assert times == [[16, 32], [8, 24]]
    assert said.count("  slope ") == 2
    assert main(["bench", "--linear", "--only", "decode"]) == 2


def test_only_measures_what_is_named(tiny, capsys):
    assert main(["bench", "--only", "decode", "--threads", "1", "--quick"]) == 0
    said = capsys.readouterr().out
    assert "H 6 over 2 N 1 S 65 D 8" in said
    assert "N 33" not in said
    assert "slope" not in said


def test_goals_and_means():
    ratio = {"median": 1.3, "low": 1.2, "high": 1.4, "n": 5, "quiet": False}
    row = {"group": "forward", "case": "full N 9", "unit": "flops", "goals": {"torch": 1.2},
           "rivals": {"cpu": {"ratios": {"torch": ratio}}}}
    assert report.versus(row, "cpu", row["rivals"]["cpu"], "torch") == "1.30 [1.20 1.40] 5x~ >= 1.2"
    row["goals"]["torch"] = 1.31
    assert report.versus(row, "cpu", row["rivals"]["cpu"], "torch").endswith("< 1.31")
    other = {**row, "case": "causal N 9", "rivals": {"cpu": {"ratios": {"torch": {**ratio, "median": 5.2}}}}}
    assert report.means([row, other]).endswith("full 1.30, causal 5.20, all 2.60")


@pytest.mark.slow
def test_first_calls_are_timed_without_a_cache_and_from_it(tmp_path):
    with Bench(1, NUMBA_CACHE_DIR=str(tmp_path)) as bench:
        found = first_calls(bench)
    assert [step["step"] for step in found] == ["forward", "backward", "decode", "score_mod"]
    for step in found:
        assert (step["why"] is None) == (step["fresh"] is not None) == (step["cached"] is not None)


def test_help_names_every_part(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    said = capsys.readouterr().out
    assert all(part in said for part in PARTS)
