"""`minattn learn --reset 03`: a lesson as it was shipped, with the learner's answers in it.

The answers are the code cells that call a check; each goes into the blank of the fresh notebook that calls the same one.
The notebook as it was stays beside the fresh one, as 03_masks.kept-1.ipynb, so that nothing else is lost either.
"""
import itertools
import json
import os
import subprocess

from ..core.errors import LessonError, OptionError
from ..core.whole import write_whole
from ..practice import notebook


def reset(shipped, target, *, clone):
    """Put a fresh copy of the lesson `shipped` at `target`; returns (the kept file or None, answers put in, left out)."""
    if clone and committed(shipped) is None and os.path.exists(target) and os.path.samefile(shipped, target):
        raise OptionError(f"git has no clean {shipped.name} to go back to; without git work on a copy: "
                          "minattn learn --folder mine")
    fresh = as_shipped(shipped, clone)
    if not os.path.lexists(target):
        _write(target, fresh)
        return None, [], []
    lesson = json.loads(fresh)
    blanks = {task.check: task for task in notebook.tasks(notebook.parse(fresh), shipped.name)}
    try:
        before = target.read_bytes()                                  # once: another reset may be at work
        mine = notebook.parse(before)
    except OSError as error:
        raise OptionError(f"{target} cannot be read: {error.strerror or error}") from error
    except LessonError:                                               # damaged: it is kept, and there are no answers to find
        mine = []
    put, left = [], []
    for name, at in notebook.answers(mine).items():
        if name not in blanks:
            left.append(name)
        elif mine[at].source.strip() != blanks[name].blank.strip():
            cell = lesson["cells"][blanks[name].at]
            cell["source"] = mine[at].source.splitlines(keepends=True)
            cell["outputs"], cell["execution_count"] = [], None       # those shipped belong to the blank
            put.append(name)
    text = json.dumps(lesson, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    kept = keep(target, before)
    _write(target, text.encode(errors="backslashreplace"))            # half a surrogate pair, as JSON spells it
    return kept, put, left


def keep(target, before):
    """Write the notebook as it was beside `target`, under a name that nobody has; returns the path."""
    for n in itertools.count(1):
        kept = target.with_name(f"{target.stem}.kept-{n}.ipynb")
        try:
            kept.open("xb").close()                                   # the name is ours, or taken
        except FileExistsError:
            continue
        except OSError as error:
            raise OptionError(f"{kept} cannot be written: {error}") from error
        try:
            _write(kept, before)
        except OptionError:
            kept.unlink(missing_ok=True)
            raise
        return kept


def as_shipped(shipped, clone):
    """The bytes of the clean notebook: in a clone those of the last commit, since lessons are worked on in place there."""
    clean = committed(shipped) if clone else None
    try:
        return shipped.read_bytes() if clean is None else clean
    except OSError as error:
        raise LessonError(f"{shipped} cannot be read: {error}") from error


def committed(path):
    """What git's last commit holds of a file, or None where there is no git or no such file in it."""
    try:
        command = ["git", "-C", str(path.parent), "show", f"HEAD:./{path.name}"]
        return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def report(target, kept, put, left):
    """What `reset` did, in words."""
    lines = [f"{target} is as it was shipped"]
    if kept:
        lines[0] += f", with your answers to {', '.join(put)}" if put else "; it held no answers"
        lines.append(f"The notebook as it was: {kept}")
    if left:
        lines.append(f"Answers for which this lesson has no exercise are in there alone: {', '.join(left)}")
    return "\n".join(lines)


def _write(path, data):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    except OSError as error:
        raise OptionError(f"{path} cannot be written: {error}") from error
