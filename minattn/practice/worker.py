"""The process that runs one exercise for `minattn learn --check`: a learner's code runs here alone.

    python -m minattn.practice.worker NOTEBOOK

The exercise, a `Task`, is read from stdin; the notebook holds the answer. One JSON object goes to what was stdout when the
process began; what the learner's code prints goes nowhere.
"""
import json
import os
import sys
import traceback
from pathlib import Path

from . import notebook


def main(path):
    """Check one exercise, print the verdict."""
    task, process = notebook.Task(*json.load(sys.stdin)), os.getpid()
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    sys.path.insert(0, str(Path(path).parent))                        # a lesson's own modules, as in its kernel
    said = json.dumps(verdict(notebook.read(Path(path)), task))
    if os.getpid() == process:                                        # an answer that forks comes by here twice
        answer.write(said)
        answer.flush()
    os._exit(0)                                                       # whatever threads an answer has left running


def verdict(cells, task):
    """{"status", "mistake", "message"} of one exercise; "missing" where the notebook has no cell for it."""
    at = notebook.answers(cells).get(task.check)
    if at is None:
        return {"status": "missing", "mistake": None, "message": f"no cell calls check.{task.check}(...)"}
    place = f"<exercise {task.number}>"
    try:
        result = notebook.attempt(cells, at, task, place)
    except BaseException as error:                                    # SystemExit too: an exit() in an answer is the answer's
        return {"status": "error", "mistake": None, "message": theirs(error, place)}
    return {"status": result.status, "mistake": result.mistake, "message": result.message}


def theirs(error, place):
    """An exception in words, with the learner's own line where it passed through one."""
    said = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError) and error.filename == place:
        return f"{said}, in line {error.lineno}: {(error.text or '').strip()}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in (place, "<lesson>")]
    if not frames:
        return said
    last = frames[-1]
    where = f"in line {last.lineno}: {last.line}" if last.filename == place else "in an earlier cell that it needs"
    return f"{said}, {where}"


if __name__ == "__main__":
    main(*sys.argv[1:])
