"""A family of bugs: one function, right and broken in several ways; and the engine that runs somebody's test on them.

A test takes the function under test and raises where it is wrong. It sees the right function first, twice: a test that
fails there is itself wrong. Then every bug: killed where the test raises, whatever it raises, and survived where not.
"""
import contextlib
import copy
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arguments import brief
from ..progress import record
from ..result import Result, Stage
from ..trace import explain, place

SECONDS = 10                                        # for one run of a test
SHOWN = 3                                           # survivors whose 'look at' is shown at once

# mistakes of a test: name -> what to look at
CONDUCT = {
    "fails on the right function": "The function that was given is right. What does your test ask of it that it need not do?",
    "passes and fails by turns": "Two runs on the same function differ: draw from np.random.default_rng(0), made in the test.",
    "returns its verdict": "A test that returns False has passed. It fails by raising: `assert` before the comparison.",
}


class Bug(NamedTuple):
    """One broken function, which takes what the right one takes."""

    name: str
    fn: Callable
    story: str  # the symptom, in one line
    look: str  # where to look; never the test that kills it
    threads: str  # "owner/repo #number", several with commas


@dataclass(frozen=True)
class Outcome(Stage):
    """What a test made of one bug: verdict "killed" or "survived"."""

    said: str = ""

    @property
    def ok(self):
        return self.verdict == "killed"

    @property
    def words(self):
        return self.said


@dataclass(frozen=True, repr=False)
class Verdict(Result):
    """The Result of a test: it passes when it kills every bug.

    Examples
    --------
    >>> from minattn.practice import check
    >>> def lazy(rope):
    ...     import numpy as np
    ...     assert rope(np.ones((3, 4)), np.arange(3), "half").shape == (3, 4)
    >>> verdict = check.tests(lazy, of="rope")
    >>> bool(verdict), verdict.killed, verdict.survived
    (False, (), ('one layout for both names',))
    """

    killed: tuple[str, ...] = ()
    survived: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Family:
    """A right function, the bugs that it might have had, and the lesson (two digits) it belongs to; called with a test."""

    name: str
    signature: str
    lesson: str
    right: Callable
    bugs: tuple[Bug, ...]

    @property
    def wrong(self):
        """The bugs, under the name that an Exercise has for its known mistakes."""
        return self.bugs

    def __call__(self, test):
        return record(judge(self, test), self.lesson)


class TooLong(Exception):
    """A test went on for longer than SECONDS."""


class Run(NamedTuple):
    """What came of one run of a test."""

    error: BaseException | None
    calls: int                                      # of the function under test
    came: Any                                       # what the test returned


def run(family, fn, test, *, quiet=True):
    """Run `test` on `fn`, which gets copies of its arguments. KeyboardInterrupt and SystemExit pass through, nothing else."""
    calls, end = [0], time.monotonic() + SECONDS

    def under_test(*args, **named):
        calls[0] += 1
        if time.monotonic() > end:
            raise TooLong(f"stopped after {SECONDS} seconds and {calls[0]} calls of {family.name}")
        return fn(*copy.deepcopy(args), **copy.deepcopy(named))

    under_test.__name__ = under_test.__qualname__ = family.name       # a test has no name to tell the bugs apart by
    hushed = contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext()
    try:
        with np.errstate(all="ignore"), hushed:
            came = test(under_test)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:                  # pytest.fail raises what is no Exception
        return Run(error, calls[0], None)
    return Run(None, calls[0], came)


def judge(family, test):
    """The Verdict on one test."""
    if test is not None and not callable(test):
        message = f"check.tests takes the test itself, and calls it with {family.name} as argument; it was given {brief(test)}."
        return Verdict("tests", "fail", message)
    right = None if test is None else run(family, family.right, test, quiet=False)
    if right is None or (right.error is None and not right.calls):
        return Verdict("tests", "blank", f"The test has not called {family.signature} yet. Fill it in, then run the cell again.")
    again = run(family, family.right, test)
    if right.error or again.error:
        return on_the_right(family, right.error, again.error)
    runs = [run(family, bug.fn, test) for bug in family.bugs]
    left = [bug for bug, its in zip(family.bugs, runs, strict=True) if its.error is None]
    stages = tuple(outcome(bug, its.error) for bug, its in zip(family.bugs, runs, strict=True))
    names = tuple(bug.name for bug in left)
    killed = tuple(bug.name for bug in family.bugs if bug.name not in names)
    kills = f"Kills {'all' if not left else f'{len(killed)} of'} {len(runs)} bugs of {family.signature}; the right one passes."
    if not left:
        return Verdict("tests", "pass", kills, stages=stages, killed=killed)
    mistake = "returns its verdict" if right.came is not None else None
    looks = [f"{bug.name}: {bug.look}" for bug in left[:SHOWN]] + [f"and {len(left) - SHOWN} more"] * (len(left) > SHOWN)
    look = CONDUCT[mistake] if mistake else "\n".join(looks)
    return Verdict("tests", "fail", kills, mistake, look, stages, killed, names)


def on_the_right(family, first, second):
    """The Verdict on a test that the right function does not pass, with the learner's own line."""
    said = explain(first or second, family.signature)
    if not (first and second):
        return Verdict("tests", "fail", said, "passes and fails by turns", CONDUCT["passes and fails by turns"])
    if isinstance(first, Exception) and not isinstance(first, AssertionError):
        return Verdict("tests", "error", f"{said}\nThis happened on the right function, {family.signature}.")
    mistake = "fails on the right function"
    return Verdict("tests", "fail", said, mistake, CONDUCT[mistake])


def outcome(bug, error):
    """The line of one bug: the learner's line that killed it, or what there is to be seen."""
    if error is None:
        return Outcome(bug.name, "survived", said=f"{bug.story} [{bug.threads}]")
    return Outcome(bug.name, "killed", said=f"{place(error) or type(error).__name__} [{bug.threads}]")
