"""A process that writes lines of JSON, heard as it writes them, and not for longer than it may take.

    one line    what became of one item, in order; items are numbered, and a process is told where to begin
    late        a process that is still at work when its time is up is ended, and the rest is not asked
    failed      an item whose line says that it failed: its process ends there, since a kernel that reads where it may not leaves
                the whole process without a GPU. So does one that ends without a word. Another process begins at the next item
"""
import json
import subprocess
import sys
import tempfile
import threading
from typing import NamedTuple

from ..worker import here

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
        process = subprocess.Popen(command, env=here(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
        late = threading.Event()

        def stop():
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            for text in process.stdout:                               # type: ignore[union-attr]
                if text.startswith(b"{") and text.endswith(b"}\n"):   # what else is printed is no answer
                    found.append(json.loads(text))
                    line(found[-1])
        finally:
            timer.cancel()
            if sys.exc_info()[0]:
                process.kill()
            code = process.wait()
            process.stdout.close()                                    # type: ignore[union-attr]
        said.seek(0)
        last = "".join(said.read().decode(errors="replace").strip().splitlines()[-1:])[:300]
    if late.is_set():
        return Heard(found, code, f"still at work after {seconds:.0f} s", late=True)
    return Heard(found, code, f"its process ended ({code}): {last}")


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
