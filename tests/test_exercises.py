"""The exercises of the lessons: what the learner is shown is what is tested.

The answer shown in the fold, put in place of the blank and run where the lesson would run it, passes its check; the blank
is blank. (That each check names its known mistakes is in tests/practice/test_checks.py, and that each bug of the zoo can be
killed in tests/practice/test_zoo.py.)
"""
from pathlib import Path

import pytest

from minattn.practice import check, notebook
from minattn.practice.zoo import Family

LESSONS = Path(__file__).resolve().parents[1] / "lessons"
NOTEBOOKS = {path.name[:2]: path for path in sorted(LESSONS.glob("[0-9][0-9]_*.ipynb")) if path.name.count(".") == 1}
TASKS = [(number, task) for number, path in NOTEBOOKS.items() for task in notebook.tasks(notebook.read(path), path.name)]
every_lesson = pytest.mark.parametrize("number", NOTEBOOKS)
every_task = pytest.mark.parametrize(("number", "task"), TASKS, ids=[f"{number}-{task.check}" for number, task in TASKS])


@pytest.fixture
def in_the_lessons(monkeypatch):
    """As in a lesson's kernel, offline: its folder is the working one, and `import course` works."""
    monkeypatch.setenv("MINATTN_STORED_MAPS", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(LESSONS)
    monkeypatch.syspath_prepend(str(LESSONS))


def cells(number, solved):
    """A lesson's cells, with every answer shown in place of its blank or as they are."""
    found = notebook.read(NOTEBOOKS[number])
    for task in notebook.tasks(found) if solved else []:
        found[task.at] = notebook.Cell("code", task.filled)
    return found


@every_lesson
def test_three_exercises_at_least_numbered_in_order(number):
    tasks = notebook.tasks(cells(number, solved=False))
    assert len(tasks) >= 3
    assert [task.number for task in tasks] == list(range(1, len(tasks) + 1))


def test_no_two_exercises_share_a_check_and_each_check_knows_its_lesson():
    """Progress is kept by lesson and check, and an answer is found by its check. (Of the zoo, whose check is always `tests`,
    a lesson has one family.)"""
    names = [(number if task.check == "tests" else "", task.check) for number, task in TASKS]
    assert sorted({name for name in names if names.count(name) > 1}) == []
    for number, task in TASKS:
        behind = check.behind(task.call)
        assert (behind.lesson, task.check) == (number, "tests" if isinstance(behind, Family) else behind.name)


@every_task
def test_the_exercise_is_posed_whole(number, task):
    assert task.text
    assert all(task.hints)
    assert "return None" in task.blank
    assert task.call.startswith(f"check.{task.check}("), "the last line is the call"


@every_task
def test_the_answer_shown_passes(number, task, in_the_lessons):
    result = notebook.attempt(cells(number, solved=True), task.at, task)
    assert result.status == "pass", repr(result)


@every_task
def test_the_blank_is_blank(number, task, in_the_lessons):
    result = notebook.attempt(cells(number, solved=False), task.at, task)
    assert (result.status, result.mistake) == ("blank", None), repr(result)
