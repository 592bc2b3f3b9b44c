"""Exercises are read out of a notebook as they stand there, and a cell runs with what it needs of the lesson and no more."""
import ast
import json

import pytest

from minattn.core.errors import LessonError
from minattn.practice import notebook
from minattn.practice.notebook import Cell

POSED = """**2 (medium).** Write `softmax(scores)`, scores (N, S).

<details><summary>Hint</summary>

What is the largest?

</details>

<details><summary>Second hint</summary>

Subtract it.

</details>

<details><summary>Answer</summary>

```python
def softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
```

A constant cancels.

</details>"""
BLANK = 'def softmax(scores):\n    """scores (N, S) -> weights (N, S)"""\n    return None\n\n\ncheck.softmax(softmax)'
LESSON = [
    Cell("markdown", "# 41 A try"), Cell("code", "import numpy as np\nfrom minattn.practice import check"),
    Cell("code", "%matplotlib inline\nraise SystemExit('the lesson itself does not run')"),
    Cell("markdown", POSED), Cell("code", BLANK), Cell("markdown", "**bold (easy).** is no exercise"),
]


def test_a_task_is_read_as_it_stands():
    [task] = notebook.tasks(LESSON)
    assert (task.number, task.difficulty, task.check, task.at) == (2, "medium", "softmax", 4)
    assert task.text == "Write `softmax(scores)`, scores (N, S)."
    assert task.hints == ("What is the largest?", "Subtract it.")
    assert task.answer.splitlines()[0] == "def softmax(scores):"
    assert task.answer.splitlines()[-1] == "    return powers / powers.sum(axis=-1, keepdims=True)"
    assert task.why == "A constant cancels."
    assert task.blank == BLANK
    assert task.filled == f"{task.answer}\n\n\ncheck.softmax(softmax)"


def test_a_file_is_read_with_sources_as_text_or_as_lines(tmp_path):
    path = tmp_path / "41_try.ipynb"
    cells = [{"cell_type": cell.kind, "source": cell.source.splitlines(True) if n % 2 else cell.source}
             for n, cell in enumerate(LESSON)]
    path.write_text(json.dumps({"cells": cells}))
    assert notebook.read(path) == LESSON


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": 3}', '{"cells": [{"cell_type": "code"}]}', "\xff"])
def test_what_is_no_notebook_is_refused_by_name(tmp_path, text):
    path = tmp_path / "41_try.ipynb"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(LessonError, match=r"41_try\.ipynb is no notebook"):
        notebook.read(path)
    with pytest.raises(LessonError, match="cannot be read"):
        notebook.read(tmp_path / "other.ipynb")


@pytest.mark.parametrize(("posed", "blank", "said"), [
    (POSED.replace("<details><summary>Second hint", "<details><summary>More"), BLANK, "its folds are"),
    (POSED, "x = 1", "found 0"),
    (POSED, f"{BLANK}\ncheck.softmax(softmax)", "found 2"),
    (POSED.replace("```python", "```"), BLANK, "no ```python block"),
])
def test_another_form_is_refused_with_its_number(posed, blank, said):
    with pytest.raises(LessonError, match=f"41_try, exercise 2: .*{said}"):
        notebook.tasks([Cell("markdown", posed), Cell("code", blank)], "41_try")


def test_an_exercise_without_a_code_cell_after_it_is_refused():
    with pytest.raises(LessonError, match="exercise 2"):
        notebook.tasks([Cell("markdown", POSED)])


def test_the_answer_takes_the_place_of_its_own_names_alone():
    blank = "SIZE = 3\n\n\n@decorated\ndef f(x):\n    return None\n\n\n# a word\nrest = None\ncheck.f(f)"
    assert notebook.fill(blank, "import os\n\n\ndef f(x):\n    return 2\n\n\nrest = 4") == (
        "SIZE = 3\n\n\nimport os\n\n\ndef f(x):\n    return 2\n\n\nrest = 4\n\n\n# a word\ncheck.f(f)")
    with pytest.raises(LessonError, match="defines g, and the cell after it nothing of that"):
        notebook.fill(blank, "def g():\n    return 1")


def test_answers_are_found_by_the_check_that_they_call():
    more = [("code", "check.softmax(mine)"), ("markdown", "check.mask(x)"), ("code", "x = bool(check.rope(f))")]
    cells = [*LESSON, *(Cell(*each) for each in more)]
    assert notebook.answers(LESSON) == {"softmax": 4}
    assert notebook.answers(cells) == {"softmax": 6}


# --- running one cell ---------------------------------------------------------------------------------------------


def solved(answer):
    return [*LESSON[:4], Cell("code", f"{answer}\n\n\ncheck.softmax(softmax)")]


def test_the_answer_passes_and_the_blank_is_blank():
    [task] = notebook.tasks(LESSON)
    assert notebook.attempt(LESSON, task.at, task).status == "blank"
    assert notebook.attempt(solved(task.answer), task.at, task).status == "pass"


def test_a_mistake_is_named():
    [task] = notebook.tasks(LESSON)
    result = notebook.attempt(solved("def softmax(s):\n    return np.exp(s) / np.exp(s).sum(axis=0)"), task.at, task)
    assert result.status == "fail"


def test_the_check_is_the_packages_own():
    [task] = notebook.tasks(LESSON)
    fooled = "class check:\n    softmax = staticmethod(lambda fn: 'pass')\n\n\ndef softmax(scores):\n    return None"
    assert notebook.attempt(solved(fooled), task.at, task).status == "blank"
    half = [*LESSON[:4], Cell("code", "def softmax(scores):\n    return scores\n\n\ncheck.softmax(lambda scores: None)")]
    assert notebook.attempt(half, task.at, task).status == "fail"


def test_an_exception_in_the_answer_shows_its_line():
    [task] = notebook.tasks(LESSON)
    result = notebook.attempt(solved("def softmax(scores):\n    return scores / nothing"), task.at, task)
    assert result.status == "error"
    assert "NameError" in repr(result)
    assert "return scores / nothing" in repr(result)


NEEDS = """import numpy as np, os
from math import pi as tau
table = [1]
table.append(2)
other = run_the_model()
def helper(x, other):
    return inner(x) * tau
def inner(x):
    return sum(table) + len([other for other in x])
table[0] = 5
os.environ["X"] = "1"
for n in range(3):
    unused = np.zeros(n)
"""


@pytest.mark.parametrize(("wanted", "kept"), [
    ("np.ones(3)", [0]),
    ("helper(1, 2)", [1, 2, 3, 5, 6, 7]),
    ("lambda np: np", []),
    ("n", [0, 9]),
    ("[table for table in (1, 2)]", []),
])
def test_a_cell_takes_what_its_names_come_from(wanted, kept):
    earlier = ast.parse(NEEDS).body
    found = notebook.sources_of(earlier, ast.parse(wanted).body)
    assert [earlier.index(node) for node in found] == kept


def test_half_a_line_in_an_earlier_cell_is_passed_over():
    [task] = notebook.tasks(LESSON)
    cells = [Cell("code", "x = ("), *LESSON[1:4], Cell("code", task.filled)]
    assert notebook.attempt(cells, task.at, task).status == "pass"
