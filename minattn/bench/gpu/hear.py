"""A process that writes lines of JSON, heard as it writes them, and not for longer than it may take.

    one line    what became of one item, in order; items are numbered, and a process is told where to begin
    late        a process that is still at work when its time is up is ended, and the rest is not asked
    failed      an item whose line says that it failed: its process ends there, since a kernel that reads where it may not leaves
                the whole process without a GPU. So does one that ends without a word. Another process begins at the next item
"""
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ..worker import here

LIVE: dict = {}                                                       # processes at work: {process: function that ends it}
AGAIN = 3                                                             # processes that may end before their time


class Heard(NamedTuple):
    lines: list
    code: int                                                         # exit status; below 0, the signal that ended it
    ended: str                                                        # the same in words, with what it said last
    late: bool = False


def hear(module, *arguments, seconds, before=(), line=lambda found: None):
    """What `python -m module arguments` writes; `before` is a program to run it under, `line` is told each line."""
    command = [*before, sys.executable, "-m", module, *map(str, arguments)]
    found: list = []
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=here(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said,
                                   start_new_session=True)  # fmt: skip
        late = threading.Event()

        def stop():
            late.set()
            end(process)

        timer = threading.Timer(seconds, stop)
        timer.start()
        LIVE[process] = stop
        try:
            for text in process.stdout:                               # type: ignore[union-attr]
                if text.startswith(b"{") and text.endswith(b"}\n"):   # what else is printed is no answer
                    found.append(json.loads(text))
                    line(found[-1])
        finally:
            timer.cancel()
            del LIVE[process]
            if sys.exc_info()[0]:
                end(process)
            code = process.wait()
            process.stdout.close()                                    # type: ignore[union-attr]
        said.seek(0)
        last = "".join(said.read().decode(errors="replace").strip().splitlines()[-1:])[:300]
    if late.is_set():
        return Heard(found, code, f"still at work after {seconds:.0f} s", late=True)
    return Heard(found, code, f"its process ended ({code}): {last}")


def end(process):
    """End a process, and what it started: compute-sanitizer has a program of its own to watch."""
    if not hasattr(os, "killpg"):
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def side_by_side(workers):
    """Threads that each hear a process. Where this is left by an exception, Ctrl-C say, the processes end as well."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for stop in list(LIVE.values()):
            stop()
        raise
    finally:
        pool.shutdown()


def all_of(names, lost, process):
    """The lines of all items, from as many processes as it takes.

    Parameters
    ----------
    names : list of str
        Of the items.
    lost : callable
        lost(name, why) is the line of one that wrote none.
    process : callable
        process(start) is what is `Heard` from item number `start` on.
    """
    found: list = []
    for _ in range(AGAIN):
        heard = process(len(found))
        found += heard.lines
        if len(found) < len(names) and not (heard.lines and heard.lines[-1].get("state") == "failed"):
            found.append(lost(names[len(found)], heard.ended))        # it did not end by itself
        if len(found) >= len(names):
            return found
        if heard.late:
            return found + [lost(name, "not asked: the time was up") for name in names[len(found) :]]
    return found + [lost(name, f"not asked: {AGAIN} processes ended before it") for name in names[len(found) :]]
