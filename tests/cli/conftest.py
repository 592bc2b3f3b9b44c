"""A lesson with two exercises, for the tests of `minattn learn`."""
import json
from types import SimpleNamespace

import pytest

from minattn.cli import learn
from minattn.practice import progress

ANSWERS = {
    "softmax": "import numpy as np\n\n\ndef softmax(scores):\n    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))\n"
               "    return shifted / shifted.sum(axis=-1, keepdims=True)",
    "merge": "import minattn as ma\n\n\ndef merge(out_a, lse_a, out_b, lse_b):\n    return ma.merge(out_a, lse_a, out_b, lse_b)",
}
SIGNATURES = {"softmax": "softmax(scores)", "merge": "merge(out_a, lse_a, out_b, lse_b)"}


def posed(number, name):
    folds = "\n\n".join(f"<details><summary>{title}</summary>\n\n{text}\n\n</details>" for title, text in [
        ("Hint", "Look."), ("Second hint", "Look again."), ("Answer", f"```python\n{ANSWERS[name]}\n```")])
    return f"**{number} (easy).** Write `{SIGNATURES[name]}`.\n\n{folds}"


def blank(name):
    return f"def {SIGNATURES[name]}:\n    return None\n\n\ncheck.{name}({name})"


def filled(name):
    return f"{ANSWERS[name]}\n\n\ncheck.{name}({name})"


def lesson(**code):
    """The JSON of a lesson with two exercises; `softmax=...` replaces a code cell, None leaves it out."""
    cells = [("markdown", "# 01 One query\n\n23 minutes"), ("code", "from minattn.practice import check")]
    for number, name in enumerate(SIGNATURES, start=1):
        cells.append(("markdown", posed(number, name)))
        if (source := code.get(name, blank(name))) is not None:
            cells.append(("code", source))
    cells += [("code", extra) for extra in code.get("more", [])]
    ran = {"outputs": [{"name": "stdout", "output_type": "stream", "text": ["shipped"]}], "execution_count": 1}
    cells = [{"cell_type": kind, "id": f"{n}", "metadata": {}, "source": source.splitlines(True),
              **(ran if kind == "code" else {})} for n, (kind, source) in enumerate(cells)]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


@pytest.fixture
def two():
    """`two.lesson(...)`, `two.blank(name)`, `two.filled(name)` for the names "softmax" and "merge"."""
    return SimpleNamespace(lesson=lesson, blank=blank, filled=filled, answers=ANSWERS)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working folder; an installed package carries one lesson; progress goes to a file of its own."""
    lessons = tmp_path / "site-packages" / "minattn" / "_lessons"
    lessons.mkdir(parents=True)
    (lessons / "01_one.ipynb").write_text(lesson())
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(learn, "PACKAGE", lessons.parent)
    monkeypatch.setattr(learn, "serve", lambda folder, **how: None)
    monkeypatch.setenv("MINATTN_PROGRESS", str(tmp_path / "progress.json"))
    progress._recorded.clear()
    return folder


@pytest.fixture
def mine(work):
    """`mine(**code)` writes the learner's notebook and returns its path."""
    def write(**code):
        path = work / "mine" / "01_one.ipynb"
        path.parent.mkdir(exist_ok=True)
        path.write_text(lesson(**code))
        return path

    return write
