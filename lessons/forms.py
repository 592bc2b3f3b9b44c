"""The forms of a lesson for a class, made from the one source by `python lessons/build.py --form FORM --to FOLDER`.

    student   the notebook as committed, with its outputs, without the exercises' answers; hints stay, blanks are blank
    teacher   every blank filled with the answer shown and run, so that each check shows pass; after each exercise a fold
              that lists the mistakes which its check names

The answers to predictions and to the questions at the end stay in both: they are for reading, not for handing in.
"""
import copy
import shutil

from minattn.core.errors import LessonError
from minattn.practice import check, notebook

FORMS = ("student", "teacher")


def tasks(lesson):
    """The exercises of a notebook as nbformat reads it."""
    return notebook.tasks([notebook.Cell(cell.cell_type, cell.source) for cell in lesson.cells])


def student(lesson):
    """The committed notebook without the exercises' answers."""
    lesson = copy.deepcopy(lesson)
    for task in tasks(lesson):
        text = lesson.cells[task.at - 1]
        answer = next(fold for fold in notebook.FOLD.finditer(text.source) if fold[1] == "Answer")
        text.source = (text.source[:answer.start()].rstrip() + "\n\n" + text.source[answer.end():].strip()).strip()
    return lesson


def filled(lesson):
    """The notebook of a source with the answer shown in place of each blank, to be run."""
    lesson = copy.deepcopy(lesson)
    for task in tasks(lesson):
        lesson.cells[task.at].source = task.filled
    return lesson


def teacher(blank, run):
    """`run`, the filled notebook after it ran, with the mistakes of each exercise; LessonError where a check does not pass."""
    import nbformat

    lesson = copy.deepcopy(run)
    for task in reversed(tasks(blank)):                               # from the end: a new cell moves no earlier one
        cell = run.cells[task.at]
        shown = "".join(output.get("data", {}).get("text/plain", "") for output in cell.outputs)
        if not shown.startswith(f"{task.check}: pass"):
            raise LessonError(f"exercise {task.number}: the answer shown does not pass its check\n{shown}")
        lines = "\n".join(f"- **{wrong.name}**: {wrong.look}" for wrong in check.behind(task.call).wrong)
        fold = f"<details><summary>Mistakes that the check names</summary>\n\n{lines}\n\n</details>"
        lesson.cells.insert(task.at + 1, nbformat.v4.new_markdown_cell(fold, id=f"{cell.id}-mistakes"))
    return lesson


def beside(lessons, folder):
    """Copy what the notebooks need to run, and what they link to, from the folder of the lessons."""
    for name in ("course.py", "recipes.py", "glossary.md", "which_when.md"):
        shutil.copy(lessons / name, folder / name)
    shutil.copytree(lessons / "maps", folder / "maps")
