"""An exercise: inputs, the right answer, the known wrong ones; and the engine that runs somebody's answer beside them.

An answer is called on copies of every input. Its outputs (and whatever stages it shows) are compared with the
reference's, and where they differ, with those of every known mistake. Then its conduct: what it did to its arguments,
whether two calls depend on each other, what 16-bit floats do to it.
"""
import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .arguments import arrays, brief, describe, half, widen
from .compare import as_numbers, compare, differs, equal, same_numbers, tolerance
from .progress import record
from .result import Result
from .trace import explain

# mistakes of conduct: name -> what to look at
CONDUCT = {
    "changes its input": "The caller still needs {argument}. Which line writes into it, with [...] =, +=, /= or out=?",
    "returns a view of its input": "What comes back shares memory with {argument}: writing into one changes the other.",
    "an earlier answer changes": "Two calls write into the same array. Each call must make one of its own.",
    "keeps state between calls": "The same input gives another answer the second time. What survives from one call to the next?",
    "NaN for a row that sees nothing": "Such a row divides 0 by 0, or subtracts -inf from -inf. It has no key to take from: 0.",
    "overflows in float16": "The largest float16 is 65504, and exp(12) is above. Which number in between is too large?",
    "loses digits in float16": "float16 keeps three digits. In which type are the sums taken?",
    "right numbers, wrong shape": "The numbers are right when {how}; the shape belongs to the answer.",
    "numbers where True and False are wanted": "True = may attend. What does a comparison return?",
}


class Blank(Exception):
    """Raised by an exercise's `drive` where the answer has not been filled in."""


class Wrong(NamedTuple):
    """A known wrong answer: its name, what it computes, and what to look at (a question or a fact, not the solution)."""

    name: str
    fn: Callable
    look: str


@dataclass(frozen=True, eq=False)
class Exercise:
    """One exercise, which is called with an answer and returns a Result.

    Parameters
    ----------
    name, signature, lesson
        As in `check.<name>`; how the answer is called, "softmax(scores)"; the lesson's two digits.
    inputs : callable
        `inputs(rng)` gives two or more cases, each a tuple of arguments or a dict of keywords.
    reference : callable
        The right answer. It sees 16-bit floats widened to float64.
    wrong : sequence of Wrong
        Pairwise different on the inputs, each with the answer's own signature.
    outputs : sequence of str
        A name, with letters where there are axes: "weights (N, S)"; several where a tuple or dict is wanted.
    stages : callable, optional
        `stages(*case)` gives {name: array} of intermediates in the order of computing, named as outputs are. An answer that
        returns a dict (or a namedtuple) with some of these names besides its outputs is compared on them first.
    drive : callable, optional
        `drive(answer, *case)` gives the outputs, where the answer is no plain function of the case: a class, a rule.
    views : bool
        Whether an output may be a view of an input, as of a reshape.

    Examples
    --------
    >>> double = Exercise(
    ...     "double", "double(x)", "00", outputs=["twice (N)"], reference=lambda x: 2 * x,
    ...     inputs=lambda rng: [(rng.standard_normal(n),) for n in (3, 5)],
    ...     wrong=[Wrong("squared", lambda x: x * x, "Which sign has every number?")],
    ... )
    >>> bool(double(lambda x: x + x)), double(lambda x: x**2).mistake
    (True, 'squared')
    """

    name: str
    signature: str
    lesson: str
    inputs: Callable[[np.random.Generator], Sequence[Any]]
    reference: Callable
    wrong: Sequence[Wrong] = ()
    outputs: Sequence[str] = ("out",)
    stages: Callable | None = None
    drive: Callable | None = None
    views: bool = False

    def __call__(self, answer):
        return record(run(self, answer), self.lesson)

    def cases(self):
        """The same inputs every time."""
        return list(self.inputs(np.random.default_rng(0)))

    def call(self, answer, case):
        """Whatever `answer` returns for one case."""
        named = case if isinstance(case, dict) else {}
        plain = () if isinstance(case, dict) else case
        with np.errstate(all="ignore"):
            return self.drive(answer, *plain, **named) if self.drive else answer(*plain, **named)

    def names(self):
        """{output: its letters}."""
        return dict(map(spelled, self.outputs))

    def wanted(self, case):
        """({stage or output: array}, {the same: its letters}), in the order of computing."""
        case = widen(copy.deepcopy(case))
        outputs, letters = unpack(self, self.call(self.reference, case)), self.names()
        if self.stages is None:
            return outputs, letters
        shown = self.stages(**case) if isinstance(case, dict) else self.stages(*case)
        stages = {spelled(name)[0]: value for name, value in shown.items() if spelled(name)[0] not in outputs}
        return {**stages, **outputs}, {**dict(map(spelled, shown)), **letters}


def spelled(output):
    """("weights", ("N", "S")) of "weights (N, S)"; no letters where there are none."""
    name, _, axes = output.partition(" ")
    return name, tuple(letter for letter in re.findall(r"[\w.]+", axes) if letter != "...")


class Wrapping(Exception):
    """The answer is a tuple where an array is wanted, and so on; the text says what came."""


class Seen(NamedTuple):
    """One case and what came of it."""

    case: Any
    raw: dict                                       # what the answer returned, by name
    found: dict                                     # copies, from before the next call
    wanted: dict
    rtol: float
    stages: tuple

    @property
    def ok(self):
        return all(stage.ok for stage in self.stages)


def run(exercise, answer):
    """The Result of one answer. Exceptions of the answer become part of it; KeyboardInterrupt and its like pass through."""
    if not (answer is None or callable(answer)):
        message = f"The check takes the function itself, and calls it as {exercise.signature}; it was given {brief(answer)}."
        return Result(exercise.name, "fail", message)
    all_seen: list[Seen] = []
    conduct: dict[str, dict] = {}
    cases = exercise.cases()
    try:
        if answer is None:
            raise Blank
        for case in cases:
            all_seen.append(attempt(exercise, answer, case, conduct, first=not all_seen))
        start, case = all_seen[0], cases[0]
        again = attempt(exercise, answer, case, {}, first=False)
    except Blank:
        return Result(exercise.name, "blank", f"Fill in {exercise.signature}, then run the cell again.")
    except Wrapping as error:
        return Result(exercise.name, "fail", str(error))
    except Exception as error:
        return Result(exercise.name, "error", f"{explain(error, exercise.signature)}\nCalled with {describe(exercise, case)}.")
    if any(moved(seen.found, seen.raw, 0) for seen in all_seen):
        conduct["an earlier answer changes"] = {}
    elif moved(start.found, again.found, start.rtol):
        conduct["keeps state between calls"] = {}
    return judge(exercise, all_seen, conduct)


def attempt(exercise, answer, case, conduct, *, first):
    """Call the answer on a copy of the case: Seen; notes in `conduct` what it did to its arguments."""
    given = copy.deepcopy(case)
    came = exercise.call(answer, given)
    if came is None:
        if first:
            raise Blank
        raise Wrapping(f"It returns nothing (None) for {describe(exercise, case)}.")
    raw = unpack(exercise, came)
    if first and all(raw[name] is None for name in exercise.names()):
        raise Blank
    before, after = arrays(exercise, case), arrays(exercise, given)
    for (name, old), (_, new) in zip(before, after, strict=False):
        if not np.array_equal(old, new, equal_nan=old.dtype.kind == "f"):
            conduct.setdefault("changes its input", {"argument": name})
        for value in raw.values():
            if not exercise.views and isinstance(value, np.ndarray) and np.may_share_memory(value, new):
                conduct.setdefault("returns a view of its input", {"argument": name})
    wanted, letters = exercise.wanted(case)
    rtol = tolerance(*(array for _, array in before), *raw.values())
    stages = tuple(compare(name, letters.get(name, ()), raw[name], value, rtol) for name, value in wanted.items() if name in raw)
    found = {name: copy.deepcopy(value) if isinstance(value, np.ndarray | list) else value for name, value in raw.items()}
    return Seen(case, raw, found, wanted, rtol, stages)


def moved(before, after, rtol):
    """Whether an array (or number) of `before` is another one in `after`."""
    return any(as_numbers(value) is not None and not equal(value, after.get(name), rtol) for name, value in before.items())


def judge(exercise, all_seen, conduct):
    """Right or wrong; and if wrong, which known mistake it is."""
    bad = [seen for seen in all_seen if not seen.ok]
    if not bad and not conduct:
        largest = max((stage.largest or 0 for seen in all_seen for stage in seen.stages), default=0)
        off = f"largest difference {largest:.1g}" if largest else "no difference"
        return Result(exercise.name, "pass", f"Right on all {len(all_seen)} inputs, {off}.", stages=widest(all_seen))
    if not bad:
        mistake = next(name for name in CONDUCT if name in conduct)
        look = CONDUCT[mistake].format(**conduct[mistake])
        return Result(exercise.name, "fail", "The numbers are right.", mistake, look, widest(all_seen))
    inputs = f"{len(bad)} of {len(all_seen)} inputs" if len(bad) < len(all_seen) else f"all {len(all_seen)} inputs"
    number = [seen.ok for seen in all_seen].index(False)
    place = f"check.{exercise.name}.cases()[{number}]"
    message = f"Wrong on {inputs}, first for {describe(exercise, bad[0].case)}, which is {place}."
    for wrong in exercise.wrong:
        if is_this(exercise, wrong.fn, all_seen):
            return Result(exercise.name, "fail", message, wrong.name, wrong.look, bad[0].stages)
    mistake, fields = misconduct(bad, all_seen, conduct)
    look = CONDUCT[mistake].format(**fields) if mistake else ""
    return Result(exercise.name, "fail", message, mistake, look, bad[0].stages)


def is_this(exercise, variant, all_seen):
    """Whether the answer equals this known mistake on every input."""
    for seen in all_seen:
        try:
            theirs = unpack(exercise, exercise.call(variant, copy.deepcopy(seen.case)))
        except Exception:                           # a variant that cannot take this case is not what the answer did
            return False
        if not all(equal(seen.found[name], theirs[name], seen.rtol) for name in exercise.names()):
            return False
    return True


def misconduct(bad, all_seen, conduct):
    """(name, fields of its text) of the mistake of conduct behind wrong numbers; (None, {}) where there is none known."""
    for name in ("keeps state between calls", "an earlier answer changes"):
        if name in conduct:
            return name, {}
    stage = next(stage for stage in bad[0].stages if not stage.ok)
    got, want = bad[0].found[stage.name], np.asarray(bad[0].wanted[stage.name])
    if stage.verdict == "shape" and (how := same_numbers(got, want, bad[0].rtol)):
        return "right numbers, wrong shape", {"how": f"{how} to {want.shape}"}
    got = as_numbers(got)
    if stage.verdict == "dtype" and want.dtype.kind == "b" and got is not None and equal(got != 0, want, 0):
        return "numbers where True and False are wanted", {}
    if stage.verdict != "different" or got.dtype.kind != "f":
        return None, {}
    off = differs(got, want, bad[0].rtol)
    nothing = np.broadcast_to((want == 0).all(axis=-1, keepdims=True), want.shape) if want.ndim > 1 else np.isneginf(want)
    if (np.isnan(got[off]) & nothing[off]).all():
        return "NaN for a row that sees nothing", {}
    if all(half(seen.case) for seen in bad) and not all(half(seen.case) for seen in all_seen):
        return ("loses digits in float16" if np.isfinite(got[off]).all() else "overflows in float16"), {}
    return None, {}


def widest(all_seen):
    """Of each stage the one with the largest difference, of all inputs."""
    named: dict[str, Any] = {}
    for stage in (stage for seen in all_seen for stage in seen.stages):
        if stage.name not in named or (stage.largest or 0) > (named[stage.name].largest or 0):
            named[stage.name] = stage
    return tuple(named.values())


def unpack(exercise, came):
    """{name: value} of what an answer returned, with whatever more it shows; Wrapping where it cannot be that."""
    names = list(exercise.names())
    wanted = names[0] if len(names) == 1 else f"({', '.join(names)})"
    if hasattr(came, "_asdict") and set(names) <= set(came._fields):
        came = came._asdict()
    if isinstance(came, Mapping):
        if missing := [name for name in names if name not in came]:
            raise Wrapping(f"It returns a dict without {missing[0]!r}; {wanted} is wanted.")
        return {key: value for key, value in came.items() if isinstance(key, str)}
    if len(names) == 1:
        if isinstance(came, tuple) and any(np.ndim(part) for part in came if isinstance(part, np.ndarray | list | tuple)):
            raise Wrapping(f"It returns a tuple of {len(came)}; {wanted} alone is wanted.")
        return {names[0]: came}
    if not isinstance(came, tuple | list | np.ndarray) or getattr(came, "ndim", 1) == 0 or len(came) != len(names):
        raise Wrapping(f"It returns {brief(came)}; a tuple of {len(names)}, {wanted}, is wanted.")
    return dict(zip(names, came, strict=True))
