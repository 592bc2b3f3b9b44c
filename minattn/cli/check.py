"""`minattn learn --check 03`: the exercises of a lesson from the shell, one line each, for a class or for oneself.

Each exercise runs in a process of its own (practice/worker.py), so that one which never ends, or ends its process, is
reported like any other mistake.
"""
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from ..practice import notebook

PACKAGE = Path(__file__).resolve().parents[1]
SECONDS = 30                                                          # for one exercise, the imports included
ONE_LINE = 100                                                        # letters of a message in the table; --json has all


def check(shipped, mine, seconds=SECONDS):
    """[{"exercise", "check", "difficulty", "status", "mistake", "message"}] for each exercise of a lesson.

    `shipped` are the cells of the lesson, `mine` the path of the learner's notebook. `status` is "pass", "blank", "fail",
    "error" (an exception, too long, or the end of the process) or "missing".
    """
    notebook.read(mine)                                               # refused here, not in each process
    return [{"exercise": task.number, "check": task.check, "difficulty": task.difficulty, **verdict(task, mine, seconds)}
            for task in notebook.tasks(shipped)]


def verdict(task, mine, seconds):
    """{"status", "mistake", "message"} of one exercise."""
    command = [sys.executable, "-m", "minattn.practice.worker", str(mine)]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))    # a clone not installed
    environment = {**one_thread, **os.environ, "MPLBACKEND": "agg", "PYTHONPATH": path}
    with subprocess.Popen(command, cwd=mine.parent, env=environment, start_new_session=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            said, error = process.communicate(json.dumps(task).encode(), timeout=seconds)
            return json.loads(said)
        except subprocess.TimeoutExpired:
            why = f"still running after {seconds:g} s"
        except ValueError:                                            # it ended before it could say anything
            last = error.decode(errors="replace").strip().rpartition("\n")[2]
            why = f"it ended its process, with status {process.returncode}{': ' if last else ''}{last}"
        finally:
            end(process)
    return {"status": "error", "mistake": None, "message": why}


def end(process):
    """End a process, and whatever it has started and left running."""
    if not hasattr(os, "killpg"):
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):    # nobody is left; what is left is a zombie (macOS)
        os.killpg(process.pid, signal.SIGKILL)


def table(verdicts):
    """One line an exercise: its number, its check, and pass, blank, the mistake, or what else there is to say."""
    lines = []
    for one in verdicts:
        message = " ".join(one["message"].split())
        if len(message) > ONE_LINE:
            message = f"{message[:ONE_LINE]} ..."
        said = {"pass": "pass", "blank": "blank"}.get(one["status"]) or f"{one['status']}: {one['mistake'] or message}"
        lines.append(f"{one['exercise']:>3}  {one['check']:<24} {said}")
    passed = sum(one["status"] == "pass" for one in verdicts)
    return "\n".join([*lines, f"{passed} of {len(verdicts)} pass"])
