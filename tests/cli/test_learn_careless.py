"""`minattn learn` on notebooks that somebody careless left behind: nothing is lost, nothing crashes, nothing keeps running."""
import json
import sys
import time
from pathlib import Path

import pytest

from minattn.cli import check as cli_check
from minattn.cli import main, reset
from minattn.practice import notebook

CHECK = ["learn", "--check", "01", "--folder", "mine"]
RESET = ["learn", "--reset", "1", "--folder", "mine"]
DEEP = '{"cells": ' + "[" * 100_000


def with_cell(path, source):
    """The notebook with one more code cell, before the exercises."""
    found = json.loads(path.read_text())
    found["cells"].insert(1, {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": source})
    path.write_text(json.dumps(found))


@pytest.mark.parametrize("line", ["print(check.softmax(softmax))", "result = check.softmax(softmax)", "check.softmax(softmax);"])
def test_a_call_that_was_printed_or_kept_is_found_and_brought_along(mine, capsys, two, line):
    path = mine(softmax=f"{two.answers['softmax']}\n\n\n{line}")
    main(CHECK)
    assert capsys.readouterr().out.splitlines()[0] == "  1  softmax                  pass"
    assert main(RESET) == 0
    assert "with your answers to softmax" in capsys.readouterr().out
    assert line in path.read_text()


def test_a_call_as_shipped_counts_before_one_that_was_kept(mine, two):
    path = mine(more=["r = check.softmax(other)", "own, solved = 1, bool(check.merge(merge))"], merge=None)
    cells = notebook.read(path)
    assert {name: cells[at].source for name, at in notebook.answers(cells).items()} == {"softmax": two.blank("softmax")}


@pytest.mark.parametrize("source", ["np.exp?", "?np.exp", "np.exp??;", "%time 1", "!ls"])
def test_the_notebooks_own_lines_are_passed_over(mine, capsys, two, source):
    mine(softmax=f"{source}\n{two.filled('softmax')}")
    main(CHECK)
    assert capsys.readouterr().out.splitlines()[0].endswith("pass")


@pytest.mark.parametrize("source", ["\ud800", "a\0b", "(" * 5000 + ")" * 5000, "x = '\ud800'"])
def test_a_cell_that_no_parser_takes_stops_no_exercise(mine, capsys, two, source):
    with_cell(mine(softmax=two.filled("softmax")), source)
    main(CHECK)
    assert capsys.readouterr().out.splitlines()[0].endswith("pass")


def test_half_a_letter_in_an_answer_survives_a_reset(mine):
    path = mine(softmax="text = '\ud800'\n\n\ncheck.softmax(softmax)")
    assert main(RESET) == 0
    assert any(cell.source.startswith("text = '\ud800'\n") for cell in notebook.read(path))


@pytest.mark.parametrize("text", ["", DEEP, "[1]"])
def test_a_broken_notebook_is_said_to_be_one_and_kept_whole(mine, capsys, text):
    path = mine()
    path.write_text(text)
    assert main(CHECK) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(RESET) == 0
    assert path.with_name("01_one.kept-1.ipynb").read_text() == text


def test_two_resets_at_once_keep_what_each_of_them_found(mine, monkeypatch, two):
    """The other one has finished between our first look and our writing: its kept file stays, and ours holds what we read."""
    path = mine(softmax=two.filled("softmax"))
    before, shipped = path.read_bytes(), two.lesson()

    def meanwhile(cells):
        path.with_name("01_one.kept-1.ipynb").write_text("theirs")
        path.write_text(shipped)
        return answers(cells)

    answers = notebook.answers
    monkeypatch.setattr(notebook, "answers", meanwhile)
    assert main(RESET) == 0
    assert path.with_name("01_one.kept-1.ipynb").read_text() == "theirs"
    assert path.with_name("01_one.kept-2.ipynb").read_bytes() == before


def test_a_full_disk_leaves_the_notebook_and_no_empty_file(mine, monkeypatch, capsys):
    path = mine(softmax="x = 1\n\n\ncheck.softmax(softmax)")
    before = path.read_bytes()

    def full(target, data):
        raise OSError("no space left")

    monkeypatch.setattr(reset, "write_whole", full)
    assert main(RESET) == 2
    assert "no space left" in capsys.readouterr().err
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


@pytest.mark.parametrize("option", ["--check", "--reset"])
def test_no_number_is_no_lesson(work, capsys, option):
    assert main(["learn", option, ""]) == 2
    assert "no lesson ''" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_an_answer_that_forks_is_one_answer(mine, capsys, two):
    body = "def softmax(scores):\n    import os\n    os.fork()\n    return None\n\n\ncheck.softmax(softmax)"
    mine(softmax=body)
    main(CHECK)
    assert capsys.readouterr().out.splitlines()[0].endswith("blank")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks /proc what is running")
@pytest.mark.parametrize("start", ["os.fork() or time.sleep(600)", "subprocess.Popen(['sleep', '600'])"])
def test_what_an_answer_has_started_ends_with_it(mine, two, start):
    told = "open(f'pid-{number}', 'w').close()"
    body = f"import os, subprocess, sys, time\nchild = {start}\nnumber = child if isinstance(child, int) else child.pid\n{told}"
    path = mine(softmax=f"{body}\n{two.filled('softmax')}")
    cli_check.check(notebook.parse(two.lesson()), path, seconds=6)
    numbers = [name.name.partition("-")[2] for name in path.parent.glob("pid-[1-9]*")]
    assert numbers
    for number in numbers:
        status, end = Path(f"/proc/{number}/status"), time.monotonic() + 5
        while status.exists() and "zombie" not in status.read_text() and time.monotonic() < end:
            time.sleep(0.05)
        assert not status.exists() or "zombie" in status.read_text()


def test_a_file_beside_the_notebook_that_hides_a_module_is_named(mine, capsys, two):
    path = mine(softmax=two.filled("softmax"))
    (path.parent / "symtable.py").write_text("raise RuntimeError('mine')\n")
    assert main([*CHECK, "--json"]) == 1
    first, _ = json.loads(capsys.readouterr().out)["exercises"]
    assert first["message"] == "it ended its process, with status 1: RuntimeError: mine"


def test_a_function_of_another_name_is_missed_by_name_and_no_line_is_blamed(mine, capsys, two):
    mine(softmax=f"{two.answers['softmax'].replace('softmax', 'mine')}\n\n\ncheck.softmax(mine)")
    assert main([*CHECK, "--json"]) == 1
    first, _ = json.loads(capsys.readouterr().out)["exercises"]
    assert first["message"] == "NameError: name 'softmax' is not defined"
