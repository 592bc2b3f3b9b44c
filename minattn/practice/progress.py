"""Which exercises have passed in a lesson: one small file on the learner's own machine, sent nowhere.

    {"passed": {"01": ["attention", "softmax"], "03": ["causal_mask"]}}

A check that passes in a notebook's kernel adds its name, once; a script, a test or `minattn learn --check` adds nothing.
The file is `progress.json` in the folder of this system for a user's data, or the file that MINATTN_PROGRESS names;
MINATTN_PROGRESS=off keeps none. `minattn learn --map` shows it, `minattn learn --forget` erases it.
"""
import contextlib
import json
import os
import sys
import time
from pathlib import Path

from ..core.errors import LessonError
from ..core.kernel import in_a_kernel
from ..core.whole import write_whole

PATIENCE = 2                                                          # seconds
_recorded: set = set()                                                # by this process: a second pass reads no file


def file():
    """Where progress is kept, or None where MINATTN_PROGRESS=off, and where there is no home to keep it in."""
    if chosen := os.environ.get("MINATTN_PROGRESS"):
        return None if chosen == "off" else Path(os.path.expanduser(chosen))
    if sys.platform == "darwin":
        folder = "~/Library/Application Support"
    elif sys.platform == "win32":
        folder = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        folder = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    place = Path(os.path.expanduser(folder))
    return place / "minattn" / "progress.json" if place.is_absolute() else None       # ~ stays ~ for a user without a home


def load():
    """{lesson: set of the names that passed}; LessonError for a file that holds something else."""
    path = file()
    if path is None:
        return {}
    try:
        passed = json.loads(path.read_text(encoding="utf-8"))["passed"]
        if any(not isinstance(names, list) for names in passed.values()):
            raise TypeError("the names of a lesson are a list")
        return {lesson: {str(name) for name in names} for lesson, names in passed.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = f"{path} does not hold the progress of a course ({type(error).__name__}: {error})"
        raise LessonError(f"{what}; erase it: minattn learn --forget") from error


def record(result, lesson):
    """`result`, after a pass in a notebook's kernel has been noted. Never raises: a full disk is no mistake of an answer."""
    try:
        key = str(file()), lesson, result.exercise
        if result and key not in _recorded and in_a_kernel() and file() is not None:
            if result.exercise not in load().get(lesson, ()):
                _add(lesson, result.exercise)
            _recorded.add(key)
    except Exception:
        pass
    return result


def forget():
    """Erase the file; returns its path, or None where there was none."""
    path = file()
    _recorded.clear()
    if path is None:
        return None
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LessonError(f"{path} cannot be erased: {error.strerror or error}") from error
    return path


def _add(lesson, name):
    path = file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        passed = load()                                               # again: another kernel may have written meanwhile
        passed.setdefault(lesson, set()).add(name)
        _save(passed)


def _save(passed):
    path = file()
    path.parent.mkdir(parents=True, exist_ok=True)
    lessons = {lesson: sorted(passed[lesson]) for lesson in sorted(passed)}
    write_whole(path, (json.dumps({"passed": lessons}, indent=1) + "\n").encode())


@contextlib.contextmanager
def _alone(path):
    """Meanwhile no other process adds to the file: a second one beside it says so, and is waited for.

    One that is there for longer than PATIENCE was left behind by a process that was ended.
    """
    mark, end = path.with_name(f"{path.name}.lock"), time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(FileExistsError):
            mark.open("x").close()
            break
        time.sleep(0.005)
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
