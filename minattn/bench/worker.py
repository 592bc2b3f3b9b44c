"""The process of one rival: it prepares a case, takes its turns, and says how much memory a call took.

    Worker     the parent's handle: it starts `python -m minattn.bench.worker RIVAL` with the number of threads in its
               environment, where it has to stand before NumPy, Numba or PyTorch are imported, and asks
    serve      the child's loop: pickled questions on stdin, pickled answers on stdout
"""
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

# BLAS threads that have nothing to do wait busily, by default for 0.1 s: into the next rival's turn. 2^20 cycles end sooner.
SLEEPY = {"OPENBLAS_THREAD_TIMEOUT": "20"}
LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS")
TURN = 0.05                                                           # seconds; a call that is shorter is repeated
RARE = 15                                                             # switches a second on a machine that is left alone
PACKAGE = Path(__file__).resolve().parents[1]


def here(**more):
    """This process's environment for another one, which is to import this very package."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **more}


class Worker:
    """A rival in its own process. `ask` returns its answer, a dictionary; a process that died answers `failed`."""

    def __init__(self, rival, threads, **environment):
        environment = here(**SLEEPY, **dict.fromkeys(LIMITS, str(threads)) | environment)
        self.said = tempfile.TemporaryFile()
        self.process = subprocess.Popen([sys.executable, "-m", __name__, rival], env=environment, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.said)
        self.questions: Any = self.process.stdin
        self.answers: Any = self.process.stdout

    def ask(self, question, *details):
        try:
            pickle.dump((question, details), self.questions)
            self.questions.flush()
            return pickle.load(self.answers)
        except (EOFError, OSError, pickle.UnpicklingError):
            self.process.kill()
            self.said.seek(0)
            last = self.said.read().decode(errors="replace").strip().splitlines()[-1:]
            return {"state": "failed", "why": f"its process ended ({self.process.wait()}): {''.join(last)}"}

    def close(self):
        for pipe in (self.questions, self.answers):
            try:
                pipe.close()
            except OSError:                                           # what was still to be sent to a process that died
                pass
        self.process.wait()
        self.said.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def switches():
    """How often a thread of this process had to leave its core to another's, so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def left_alone(lost, seconds):
    """So few switches in that time that no other program can have been computing."""
    return lost <= 1 + RARE * seconds


class Rival:
    """What the child holds: a call for each case that is ready, and how long its first one took."""

    def __init__(self, name):
        self.name, self.calls, self.first = name, {}, {}

    def case(self, case):
        """Make a case ready and call it once; its answer, to be checked, and how long the first call took."""
        from .cases import inputs
        from .check import sample
        from .rivals import RIVALS, UNCHECKED

        arrays = inputs(case)
        lost, start = switches(), perf_counter()
        call = RIVALS[self.name](case, arrays)
        results = call()
        first = perf_counter() - start
        quiet = left_alone(switches() - lost, first)
        self.calls[case], self.first[case] = call, first
        got = [] if self.name in UNCHECKED else sample(case, results)
        return {"state": "ready", "first": first, "quiet": quiet, "sample": got}

    def turn(self, case, seconds=TURN):
        """The shortest of the calls that fill `seconds`, and whether it was left alone; short ones are called once before."""
        call, start = self.calls[case], perf_counter()
        times: list[tuple[bool, float]] = []
        if self.first[case] < 10 * seconds:
            call()                                                    # threads awake, inputs where they were
        while not times or perf_counter() - start < seconds:
            lost, began = switches(), perf_counter()
            results = call()
            took = perf_counter() - began
            times.append((not left_alone(switches() - lost, took), took))
            del results                                               # freed outside of the time
        disturbed, took = min(times)                                  # those that were left alone come first
        return {"state": "timed", "seconds": took, "quiet": not disturbed}

    def keys(self, case):
        """The pairs that a sparse pattern's kernel attends to."""
        from .rivals import attended

        return {"state": "counted", "keys": attended(case)}

    def rest(self):
        """Let go of all cases."""
        self.calls.clear()
        return {"state": "resting"}

    def peak(self, small, case):
        """Bytes that a call takes beyond its inputs and its results, after `small` has warmed the process."""
        from . import memory
        from .cases import inputs
        from .rivals import RIVALS

        RIVALS[self.name](small, inputs(small))()
        call = RIVALS[self.name](case, inputs(case))
        before = memory.reset()
        results = call()
        held = memory.peak() - before - sum(result.nbytes for result in results)
        return {"state": "measured", "bytes": max(held, 0)}


def serve(name):
    """Answer questions until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)                                                     # what a rival prints is no answer
    rival = Rival(name)
    while True:
        try:
            question, details = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(answered(rival, question, details), answers)
        answers.flush()


def answered(rival, question, details):
    """What a rival answers. Whatever it raises becomes an answer, to stand in its row."""
    from ..core.errors import BackendError, DependencyError
    from .rivals import Absent

    try:
        return getattr(rival, question)(*details)
    except (Absent, BackendError, DependencyError) as why:
        return {"state": "absent", "why": str(why)}
    except Exception as error:
        return {"state": "failed", "why": " ".join(f"{type(error).__name__}: {error}".split())[:200]}


if __name__ == "__main__":
    serve(sys.argv[1])
