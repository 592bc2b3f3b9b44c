"""The map of the lessons, and which of their exercises have passed: `minattn learn` prints it, `--map` with every name.

    01  Queries, keys, values                                         20 min   1 of 3
        [x] softmax   [ ] attention   [ ] long_query
"""
import re

from ..core.errors import LessonError, OptionError
from ..practice import notebook, progress

LESSON = re.compile(r"(\d\d)_\w+\.ipynb")                             # one dot: a notebook kept aside is no lesson
INDENT = " " * 6


def lessons(folder):
    """{"03": path} of the lessons in a folder."""
    paths = sorted(folder.glob("*.ipynb")) if folder.is_dir() else []
    return {found[1]: path for path in paths if (found := LESSON.fullmatch(path.name))}


def pick(folder, wanted):
    """(number, path) of the lesson that `wanted` names, "03" or "3"; OptionError says which there are."""
    number, there = wanted and wanted.zfill(2), lessons(folder)
    if number not in there:
        raise OptionError(f"no lesson {wanted!r} in {folder}; there are {', '.join(there) or 'none'}")
    return number, there[number]


def overview(folder, *, names=False):
    """Number, title, minutes and how many exercises have passed, a line a lesson; with `names` a box for each."""
    try:
        note, passed = "", progress.load()
    except LessonError as error:                                      # the lessons can be shown all the same
        note, passed = f"\n\nYour progress cannot be read: {error}", {}
    lines, done, total = [], 0, 0
    for number, path in lessons(folder).items():
        try:
            cells = notebook.read(path)
        except LessonError as error:                                  # in a clone a learner works on them in place
            lines.append(f"  {number}  {error}")
            continue
        head = cells[0].source if cells else ""
        title = head.partition("\n")[0].lstrip("# ").removeprefix(number).lstrip(" .:")
        minutes = re.search(r"(\d+) minutes", head)
        boxes = {name: name in passed.get(number, ()) for name in notebook.answers(cells)}
        done, total = done + sum(boxes.values()), total + len(boxes)
        count = f"{sum(boxes.values())} of {len(boxes)}" if boxes else ""
        lines.append(f"  {number}  {title:<60} {minutes[1] + ' min' if minutes else '':>7}  {count:>7}".rstrip())
        if names:
            lines += _wrapped([f"[{'x' if has else ' '}] {name}" for name, has in boxes.items()])
    if total:
        lines.append(f"\n  {done} of {total} exercises have passed here{f': {progress.file()}' if done else ''}")
    return "\n".join(lines) + note


def _wrapped(boxes, width=100):
    """The boxes, as many to a line as fit."""
    lines: list = []
    for box in boxes:
        if lines and len(lines[-1]) + 3 + len(box) <= width:
            lines[-1] += f"   {box}"
        else:
            lines.append(f"{INDENT}{box}")
    return lines
