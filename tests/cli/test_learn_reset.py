"""`minattn learn --reset`: a lesson as it was shipped, and no answer ever lost."""
import json
import subprocess

import pytest

from minattn.cli import learn, main
from minattn.practice import notebook

CHECK = ["learn", "--check", "01", "--folder", "mine"]
RESET = ["learn", "--reset", "1", "--folder", "mine"]


def code_of(path):
    return [cell.source for cell in notebook.read(path) if cell.kind == "code"]


def test_a_lesson_comes_back_with_the_answers_in_it(mine, capsys, two):
    path = mine(softmax=two.filled("softmax"), more=["my own cell", "check.rope(mine)"])
    found = json.loads(path.read_text())
    found["cells"][0]["source"] = "scribbled over"
    path.write_text(json.dumps(found))
    before = path.read_bytes()
    assert main(RESET) == 0
    assert code_of(path) == ["from minattn.practice import check", two.filled("softmax"), two.blank("merge")]
    cells = json.loads(path.read_text())["cells"]
    assert [cell["outputs"] != [] for cell in cells if cell["cell_type"] == "code"] == [True, False, True]
    assert cells[0]["source"][0] == "# 01 One query\n"
    kept = path.with_name("01_one.kept-1.ipynb")
    assert kept.read_bytes() == before
    shown = capsys.readouterr().out
    assert "with your answers to softmax\n" in shown
    assert str(kept) in shown
    assert "in there alone: rope" in shown
    assert main(CHECK) == 1                                           # merge is blank still
    assert "pass" in capsys.readouterr().out.splitlines()[0]


def test_a_second_reset_keeps_both(mine, two):
    path = mine(softmax=two.filled("softmax"))
    assert main(RESET) == main(RESET) == 0
    assert {file.name for file in path.parent.iterdir()} == {"01_one.ipynb", "01_one.kept-1.ipynb", "01_one.kept-2.ipynb"}
    assert code_of(path)[1] == two.filled("softmax")


def test_without_answers_it_is_the_shipped_file(mine, capsys, two):
    path = mine(softmax=None)
    assert main(RESET) == 0
    assert json.loads(path.read_text()) == json.loads(two.lesson())
    assert "it held no answers" in capsys.readouterr().out


def test_a_lesson_that_is_not_there_is_laid_down(work, capsys, two):
    assert main(RESET) == 0
    assert (work / "mine" / "01_one.ipynb").read_text() == two.lesson()
    assert [path.name for path in (work / "mine").iterdir()] == ["01_one.ipynb"]


def test_a_damaged_notebook_is_kept_as_it_is(mine, two):
    path = mine()
    path.write_text("{")
    assert main(RESET) == 0
    assert json.loads(path.read_text()) == json.loads(two.lesson())
    assert path.with_name("01_one.kept-1.ipynb").read_text() == "{"


def test_a_reset_that_fails_changes_nothing(mine, monkeypatch, capsys, two):
    path = mine(softmax=two.filled("softmax"))

    def full(source, target):
        raise OSError("no space left")

    monkeypatch.setattr("minattn.core.whole.os.replace", full)
    assert main(RESET) == 2
    assert "no space left" in capsys.readouterr().err
    assert [file.name for file in path.parent.iterdir()] == ["01_one.ipynb"]
    assert code_of(path)[1] == two.filled("softmax")


@pytest.fixture
def clone(tmp_path, monkeypatch, two):
    """A clone with one lesson, which is worked on in place; `clone(git=False)` has no history."""
    def make(git=True):
        root = tmp_path / "clone"
        (root / "lessons").mkdir(parents=True)
        (root / "pyproject.toml").touch()
        path = root / "lessons" / "01_one.ipynb"
        path.write_text(two.lesson())
        monkeypatch.setattr(learn, "PACKAGE", root / "minattn")
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
        if git:
            who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
            for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "lessons"]):
                subprocess.run(["git", *command], cwd=root, check=True)
        path.write_text(two.lesson(softmax=two.filled("softmax"), merge=None, more=["mine"]))
        return path

    return make


def test_in_a_clone_the_last_commit_is_the_clean_state(clone, capsys, two):
    path = clone()
    assert main(["learn", "--check", "01"]) == 1
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[:1]] == ["pass"]
    assert main(["learn", "--reset", "01"]) == 0
    assert code_of(path) == ["from minattn.practice import check", two.filled("softmax"), two.blank("merge")]
    assert path.with_name("01_one.kept-1.ipynb").exists()


def test_a_clone_without_git_is_left_as_it_is(clone, capsys):
    path = clone(git=False)
    before = path.read_bytes()
    assert main(["learn", "--reset", "01"]) == 2
    assert "minattn learn --folder mine" in capsys.readouterr().err
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before
