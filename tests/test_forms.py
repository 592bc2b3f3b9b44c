"""The forms of a lesson for a class: no answer in the students', every check passed in the teacher's, one source for both."""
import sys
from pathlib import Path

import pytest

from minattn.practice import check, notebook

LESSONS = Path(__file__).resolve().parents[1] / "lessons"
sys.path.insert(0, str(LESSONS))

import build  # noqa: E402
import forms  # noqa: E402

SOURCES = [source for source in build.sources() if notebook.answers(notebook.read(source.with_suffix(".ipynb")))]
every_lesson = pytest.mark.parametrize("source", SOURCES, ids=[source.stem for source in SOURCES])

SMALL = '''# %% [markdown]
# # 41 A try
#
# <details><summary>Answer</summary>
#
# of a prediction
#
# </details>

# %%
import numpy as np

from minattn.practice import check

# %% [markdown]
# **1 (easy).** Write `softmax(scores)`.
#
# <details><summary>Hint</summary>
#
# Look.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Look again.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def softmax(scores):
#     powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
#     return powers / powers.sum(axis=-1, keepdims=True)
# ```
#
# </details>
#
# More of the text.

# %%
def softmax(scores):
    return None


check.softmax(softmax)
'''


def committed(source):
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


@every_lesson
def test_students_get_everything_but_the_answers(source):
    lesson = committed(source)
    given, tasks = forms.student(lesson), forms.tasks(lesson)
    assert len(given.cells) == len(lesson.cells)
    posed = {task.at - 1: task for task in tasks}
    for at, (mine, theirs) in enumerate(zip(lesson.cells, given.cells, strict=True)):
        if at not in posed:
            assert theirs == mine                                     # outputs, blanks and all
            continue
        assert "<summary>Answer" not in theirs.source
        assert posed[at].answer not in theirs.source
        assert [hint for hint in (posed[at].text, *posed[at].hints) if hint not in theirs.source] == []
        assert theirs.source.count("<details") == theirs.source.count("</details>") == 2


@every_lesson
def test_the_teachers_notebook_is_the_source_with_every_blank_filled(source):
    pytest.importorskip("jupytext")
    lesson = build.read(source)
    filled, tasks = forms.filled(lesson), forms.tasks(lesson)
    changed = [at for at, (mine, theirs) in enumerate(zip(lesson.cells, filled.cells, strict=True)) if mine != theirs]
    assert changed == [task.at for task in tasks]
    assert [task.answer in filled.cells[task.at].source for task in tasks] == [True] * len(tasks)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """`small(*arguments)` runs build.py on one small lesson; returns its exit code."""
    pytest.importorskip("nbclient")
    lessons = tmp_path / "lessons"
    (lessons / "maps").mkdir(parents=True)
    for name in ("course.py", "recipes.py", "glossary.md", "which_when.md"):
        (lessons / name).write_text(name)
    (lessons / "41_try.py").write_text(SMALL)
    monkeypatch.setattr(build, "HERE", lessons)
    build.write(build.read(lessons / "41_try.py"), lessons / "41_try.ipynb")
    return lambda *arguments: build.main(["41", *map(str, arguments)])


def test_the_students_folder_is_whole(small, tmp_path):
    assert small("--form", "student", "--to", tmp_path / "class") == 0
    names = {path.name for path in (tmp_path / "class").iterdir()}
    assert names == {"41_try.ipynb", "course.py", "recipes.py", "glossary.md", "which_when.md", "maps"}
    [first, _, posed, blank] = notebook.read(tmp_path / "class" / "41_try.ipynb")
    assert "of a prediction" in first.source
    assert posed.source.endswith("Look again.\n\n</details>\n\nMore of the text.")
    assert blank.source.startswith("def softmax(scores):\n    return None")


@pytest.mark.slow
def test_the_teachers_checks_all_pass_and_their_mistakes_are_listed(small, tmp_path):
    assert small("--form", "teacher", "--to", tmp_path / "desk") == 0
    cells = committed(tmp_path / "desk" / "41_try.ipynb").cells
    assert cells[3].outputs[0]["data"]["text/plain"].startswith("softmax: pass")
    assert [wrong.name for wrong in check.softmax.wrong if f"- **{wrong.name}**: {wrong.look}" not in cells[4].source] == []
    assert cells[4].source.startswith("<details>")


@pytest.mark.slow
def test_an_answer_that_does_not_pass_fails_the_build(small, tmp_path, capsys):
    (build.HERE / "41_try.py").write_text(SMALL.replace("axis=-1", "axis=0"))
    assert small("--form", "teacher", "--to", tmp_path / "desk") == 1
    assert "exercise 1: the answer shown does not pass its check" in capsys.readouterr().err
    assert not (tmp_path / "desk" / "41_try.ipynb").exists()


def test_nothing_is_written_over(small, tmp_path, capsys):
    before = {path: path.read_bytes() for path in build.HERE.glob("41*")}
    assert small("--form", "student", "--to", build.HERE) == 1
    assert "there is something already; name a new folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in build.HERE.glob("41*")} == before


def test_a_lesson_that_there_is_not_leaves_no_folder_behind(small, tmp_path, capsys):
    assert small("99", "--form", "student", "--to", tmp_path / "class") == 1
    assert "no lesson '99'" in capsys.readouterr().err
    assert not (tmp_path / "class").exists()


def test_a_folder_that_cannot_be_made_is_one_line(small, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert small("--form", "student", "--to", tmp_path / "file" / "class") == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("text", [None, "", '{"cells": [', "{}", "[]", '{"nbformat": 4, "cells": 3}'])
def test_a_broken_notebook_is_said_to_be_one(small, tmp_path, capsys, text):
    path = build.HERE / "41_try.ipynb"
    path.unlink() if text is None else path.write_text(text)
    assert small("--form", "student", "--to", tmp_path / "class") == 1
    error = capsys.readouterr().err
    assert error.startswith("41_try: its notebook cannot be read: ")
    assert error.count("\n") == 1
    assert small("--check") == 1
    assert not (tmp_path / "class" / "41_try.ipynb").exists()


@pytest.mark.parametrize("arguments", [["--form", "student"], ["--to", "x"], ["--form", "student", "--to", "x", "--check"]])
def test_form_and_folder_go_together(small, tmp_path, monkeypatch, arguments, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        small(*arguments)
    assert "--form and --to go together" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
