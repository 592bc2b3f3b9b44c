"""`minattn learn --check`: each exercise of a lesson on its own, and what an answer does wrong is said to be the answer's."""
import json
import subprocess
import sys
import time

import pytest

from minattn.cli import check as cli_check
from minattn.cli import main
from minattn.practice import check, notebook, progress

CHECK = ["learn", "--check", "01", "--folder", "mine"]


def test_all_right_is_exit_code_0(mine, capsys, two):
    mine(softmax=two.filled("softmax"), merge=two.filled("merge"))
    assert main(CHECK) == 0
    assert capsys.readouterr().out.splitlines() == [
        "  1  softmax                  pass", "  2  merge                    pass", "2 of 2 pass"]
    assert not progress.file().exists()


def test_a_mistake_is_named_and_a_blank_is_blank(mine, capsys):
    known = next(wrong for wrong in check.softmax.wrong if "axis" in wrong.name)
    wrong = "import numpy as np\n\n\ndef softmax(s):\n    e = np.exp(s - s.max(axis=0))\n    return e / e.sum(axis=0)"
    mine(softmax=f"{wrong}\n\n\ncheck.softmax(softmax)")
    assert main(CHECK) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"  1  softmax                  fail: {known.name}"
    assert shown[1:] == ["  2  merge                    blank", "0 of 2 pass"]


def test_json_says_it_all(mine, capsys, two):
    path = mine(softmax=two.filled("softmax"), merge=None)
    assert main([*CHECK, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["lesson"], said["notebook"]) == ("01", str(path))
    assert [(one["exercise"], one["check"], one["difficulty"], one["status"]) for one in said["exercises"]] == [
        (1, "softmax", "easy", "pass"), (2, "merge", "easy", "missing")]
    assert "no cell calls check.merge" in said["exercises"][1]["message"]


@pytest.mark.parametrize(("code", "said"), [
    ("def softmax(scores):\n    print('x' * 100_000)\n    return scores / nothing", ["NameError", "return scores / nothing"]),
    ("def softmax(scores)\n    return None", ["SyntaxError", "line 1"]),
    ("x = 1", ["NameError: name 'softmax' is not defined"]),
    ("x = [][3]", ["IndexError", "line 1: x = [][3]"]),
    ("import sys\nsys.exit(3)", ["SystemExit", "line 2: sys.exit(3)"]),
    ("import os\nos._exit(3)", ["ended its process, with status 3"]),
    ("import os\nos.abort()", ["ended its process, with status -6"]),
    ("def softmax(scores):\n    raise KeyboardInterrupt", ["KeyboardInterrupt"]),
])
def test_what_goes_wrong_in_an_answer_is_shown_as_theirs_and_stops_nothing(mine, capsys, code, said, two):
    mine(softmax=f"{code}\n\n\ncheck.softmax(softmax)", merge=two.filled("merge"))
    assert main([*CHECK, "--json"]) == 1
    first, second = json.loads(capsys.readouterr().out)["exercises"]
    assert first["status"] == "error"
    assert [words for words in said if words not in first["message"]] == []
    assert second["status"] == "pass"
    assert max(map(len, cli_check.table([first, second]).splitlines())) < 150


def test_an_answer_that_never_ends_is_ended(mine, two):
    path = mine(softmax=f"def softmax(scores):\n    while True:\n        pass\n\n\n{two.blank('softmax').splitlines()[-1]}")
    start = time.monotonic()
    [first, second] = cli_check.check(notebook.parse(two.lesson()), path, seconds=4)
    assert (first["status"], first["message"]) == ("error", "still running after 4 s")
    assert second["status"] == "blank"
    assert time.monotonic() - start < 30


def test_an_earlier_cell_that_fails_is_said_to(mine, capsys, two):
    broken = f"{two.answers['softmax'].replace('np.exp', 'half * np.exp', 1)}\n\n\ncheck.softmax(softmax)"
    path = mine(softmax=broken)
    found = json.loads(path.read_text())
    found["cells"][1]["source"] = "half = 1 / 0"
    path.write_text(json.dumps(found))
    assert main(CHECK) == 1
    assert "ZeroDivisionError: division by zero, in an earlier cell" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "said"), [
    (["--check", "07"], "no lesson '07' in"),
    (["--check", "01", "--folder", "else where"],
     "there are none; to lay the lessons there and open them: minattn learn --folder 'else where'\n"),
    (["--check", "01"], "there are none; to lay the lessons there and open them: minattn learn\n"),
    (["--json"], "--json goes with --check"),
    (["--reset", "07"], "no lesson '07' in"),
])
def test_what_cannot_be_is_one_line(work, capsys, arguments, said):
    assert main(["learn", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(work.iterdir()) == []


def test_the_process_of_an_answer_sees_its_folder_and_prints_nothing_else(mine, two):
    """What the worker writes on stdout is one JSON object, whatever the answer prints."""
    path = mine(softmax=f"import beside, os\nprint(beside.WORD)\nos.system('echo loud')\n{two.filled('softmax')}")
    (path.parent / "beside.py").write_text("WORD = 'hello'\n")
    [task, _] = notebook.tasks(notebook.parse(two.lesson()))
    done = subprocess.run([sys.executable, "-m", "minattn.practice.worker", str(path)], input=json.dumps(task), text=True,
                          capture_output=True, timeout=120, check=True)
    assert json.loads(done.stdout)["status"] == "pass"
    assert done.stderr == ""
