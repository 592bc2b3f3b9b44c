"""NVIDIA's compute-sanitizer over every kernel: the machine's own word on what the simulator says of them.

    memcheck     accesses out of bounds, or not aligned        racecheck   shared memory that two threads use in no order
    synccheck    barriers that not all threads reach           initcheck   global memory that is read before it is written

The program is in CUDA's toolkit, and in the package nvidia-cuda-sanitizer-api, which minattn[cuda-check] brings. Each tool runs

    compute-sanitizer --tool TOOL --error-exitcode 9 --report-api-errors no python -m minattn.bench.gpu.ask short all 0

which asks of each kernel one check; it is right where the tool found nothing and the checks were right under it too.
"""
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from ...core.errors import DependencyError
from ...gpu.machine import find
from .ask import __name__ as asking
from .checks import SHORT, checks
from .hear import hear, side_by_side

TOOLS = "memcheck", "racecheck", "synccheck", "initcheck"
FOUND = 9                                                             # exit code where a tool found something
CLEAN = re.compile(r"SUMMARY: 0 (errors|hazards)")                    # how the log of a tool ends that found nothing
SAID = 12                                                             # lines of a log that are shown


def program():
    """Where compute-sanitizer is: on the PATH, or among Python's packages."""
    return shutil.which("compute-sanitizer") or find("compute-sanitizer")


def recipe(tool, log):
    """The program to run the checks under; what it has to say goes to a file."""
    return [program(), "--tool", tool, "--error-exitcode", str(FOUND), "--report-api-errors", "no",
            "--print-limit", "20", "--log-file", str(log)]  # fmt: skip


def examine(tool, seconds):
    """What a tool found: {tool, state, why, said}, `state` as in ask.py and `said` the first lines of its log."""
    with tempfile.TemporaryDirectory(prefix="minattn-sanitizer-") as folder:
        log = Path(folder) / tool
        try:
            heard = hear(asking, "short", "all", 0, before=recipe(tool, log), seconds=seconds)
        except DependencyError as why:
            return {"tool": tool, "state": "absent", "why": str(why), "said": []}
        text = log.read_text(errors="replace") if log.exists() else ""
    states, asked = Counter(found["state"] for found in heard.lines), sum(map(len, checks(SHORT).values()))
    told = f"{states['right']} of {asked} checks right under it"
    if heard.code == FOUND:
        return {"tool": tool, "state": "wrong", "why": f"it found something; {told}", "said": text.splitlines()[:SAID]}
    if heard.code or not CLEAN.search(text) or states["right"] + states["absent"] < asked:
        return {"tool": tool, "state": "failed", "why": f"{told}; {heard.ended}", "said": text.splitlines()[:SAID]}
    return {"tool": tool, "state": "right", "why": f"nothing found; {told}", "said": []}


def examine_all(seconds, progress=lambda text: None):
    """Every tool, side by side."""
    progress("compute-sanitizer")
    with side_by_side(len(TOOLS)) as pool:
        return list(pool.map(lambda tool: examine(tool, seconds), TOOLS))
