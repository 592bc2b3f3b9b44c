"""The engine: what is said of answers that are right, wrong, blank, badly behaved, or that raise."""
import linecache
import re
from collections import namedtuple

import numpy as np
import pytest

import minattn as ma
from minattn.practice import Result, check
from minattn.practice.exercise import Blank, Exercise, Wrong


def right(scores, v):
    return ma.softmax(scores) @ v


def mean(scores, v):
    return np.broadcast_to(v.mean(axis=0), (len(scores), v.shape[1])) + 0.0


def late(scores, v):
    """Right while N <= S, the mean beyond: equals `mean` on some inputs alone."""
    return right(scores, v) if len(scores) <= len(v) else mean(scores, v)


def inputs(rng):
    empty = rng.standard_normal((3, 4))
    empty[1] = -np.inf
    return [(rng.standard_normal((n, s)), rng.standard_normal((s, 2))) for n, s in [(3, 5), (6, 4)]] + [
        (empty, rng.standard_normal((4, 2))), ((5 + rng.standard_normal((2, 3))).astype(np.float16), rng.standard_normal((3, 2)))]


def make(**changes):
    settings = dict(name="mix", signature="mix(scores, v)", lesson="01", inputs=inputs, reference=right, outputs=["out (N, Dv)"],
                    wrong=[Wrong("the mean", mean, "How many rows of the answer differ?")],
                    stages=lambda scores, v: {"weights (N, S)": ma.softmax(scores)})
    return Exercise(**{**settings, **changes})


MIX = make()


def test_a_right_answer_passes_and_says_how_near():
    result = MIX(right)
    assert isinstance(result, Result)
    assert result
    assert (result.status, result.mistake) == ("pass", None)
    assert [(stage.name, stage.verdict) for stage in result.stages] == [("out", "close")]           # float16 is never exact
    exact, = make(inputs=lambda rng: inputs(rng)[:2])(right).stages
    assert (exact.verdict, exact.largest, exact.words) == ("exact", 0, "")
    assert "Right on all 4 inputs" in result.message
    near = MIX(lambda scores, v: right(scores, v).astype(np.float32))
    assert near
    assert near.stages[0].verdict == "close"
    assert 0 < near.stages[0].largest < 1e-3


def test_bfloat16_passes_within_its_few_digits(need):
    bfloat16 = need("ml_dtypes").bfloat16
    assert MIX(lambda scores, v: right(scores, v).astype(bfloat16))
    assert MIX(lambda scores, v: mean(scores, v).astype(bfloat16)).mistake == "the mean"


def test_a_known_mistake_is_named_with_the_first_entry_that_differs():
    result = MIX(mean)
    assert (result.status, result.mistake, result.look) == ("fail", "the mean", "How many rows of the answer differ?")
    stage, = result.stages
    assert (stage.verdict, stage.index, stage.where) == ("different", (0, 0), "n=0, dv=0")
    scores, v = MIX.cases()[0]
    assert stage.yours == f"{mean(scores, v)[0, 0]:.4g}"
    assert stage.expected == f"{right(scores, v)[0, 0]:.4g}"
    for piece in ("the mean", "n=0, dv=0", stage.yours, stage.expected, "scores (3, 5)", "How many rows"):
        assert piece in repr(result)
        assert piece in result._repr_html_()


def test_the_index_is_the_first_that_differs():
    def answer(scores, v):
        out = right(scores, v)
        out[2, 1] += 0.5
        return out

    stage, = make(inputs=lambda rng: inputs(rng)[:2])(answer).stages
    assert (stage.index, stage.where) == ((2, 1), "n=2, dv=1")
    assert stage.largest == pytest.approx(0.5)


def test_a_mistake_is_named_only_where_it_is_equalled_on_every_input():
    result = MIX(late)
    assert (result.status, result.mistake) == ("fail", None)
    assert "Wrong on 1 of 4 inputs" in result.message
    assert "scores (6, 4), v (4, 2), which is check.mix.cases()[1]." in result.message


def test_more_stages_than_wanted_are_compared_and_the_first_wrong_one_is_seen():
    def answer(scores, v):
        weights = ma.softmax(scores, axis=0)
        return {"note": "hello", "weights": weights, "out": weights @ v}

    found = [(stage.name, stage.verdict, stage.where) for stage in MIX(answer).stages]
    assert found == [("weights", "different", "n=0, s=0"), ("out", "different", "n=0, dv=0")]

    def right_with_stages(scores, v):
        return {"out": right(scores, v), "weights": ma.softmax(scores)}

    assert MIX(right_with_stages)
    assert not MIX(lambda scores, v: {"out": right(scores, v), "weights": ma.softmax(scores, axis=0)})
    Steps = namedtuple("Steps", "weights out")
    assert MIX(lambda scores, v: Steps(ma.softmax(scores), right(scores, v)))


@pytest.mark.parametrize("blank", [None, lambda scores, v: None, lambda scores, v: ...])
def test_blank(blank):
    status = MIX(blank).status
    assert status == ("blank" if blank is None or blank(0, 0) is None else "fail")


def test_none_after_the_first_input_is_no_blank():
    result = MIX(lambda scores, v: right(scores, v) if len(scores) == 3 else None)
    assert result.status == "fail"
    assert "returns nothing (None) for scores (6, 4)" in result.message


@pytest.mark.parametrize(("answer", "says"), [
    (7, "The check takes the function itself, and calls it as mix(scores, v); it was given 7."),
    (lambda scores, v: (right(scores, v), scores), "It returns a tuple of 2; out alone is wanted."),
    (lambda scores, v: {"weights": scores}, "It returns a dict without 'out'; out is wanted."),
])  # fmt: skip
def test_another_wrapping_is_said(answer, says):
    result = MIX(answer)
    assert (result.status, result.message) == ("fail", says)


def two(wanted):
    pair = lambda scores, v: (scores.max(axis=-1), right(scores, v))  # noqa: E731
    return make(reference=pair, outputs=wanted, wrong=[], stages=None), pair


def test_two_outputs():
    exercise, pair = two(["top (N)", "out (N, Dv)"])
    assert exercise(pair)
    assert exercise(lambda *a: list(pair(*a)))
    assert exercise(lambda *a: dict(zip(("top", "out"), pair(*a), strict=True)))
    assert exercise(lambda *a: (None, None)).status == "blank"
    assert exercise(right).message.startswith("It returns an array (3, 2); a tuple of 2, (top, out), is wanted")
    swapped = exercise(lambda *a: pair(*a)[::-1])
    assert [stage.verdict for stage in swapped.stages] == ["shape", "shape"]
    half = exercise(lambda *a: (pair(*a)[0], None))
    assert [(stage.name, stage.verdict, stage.yours) for stage in half.stages][1] == ("out", "dtype", "NoneType")


def test_scalars_and_counts():
    count = make(name="count", reference=lambda scores, v: scores.size // 2, outputs=["n"], wrong=[], stages=None)
    assert count(lambda scores, v: scores.size // 2)
    assert count(lambda scores, v: np.array(scores.size // 2))
    assert not count(lambda scores, v: scores.size / 2 + 1e-6)
    assert not count(lambda scores, v: scores.size // 2 + 1)
    stage, = count(lambda scores, v: 3).stages
    assert (stage.where, stage.yours, stage.expected) == ("", "3", "7")


# --- conduct ------------------------------------------------------------------------------------------------------


def in_place(scores, v):
    scores -= scores.max(axis=-1, keepdims=True).clip(-1e9)
    return right(scores, v)


class Shelf:
    """Answers in one array, or remembers the first answer's values."""

    def __init__(self):
        self.out, self.calls = np.zeros(1000), 0

    def one_array(self, scores, v):
        out = self.out[: len(scores) * 2].reshape(-1, 2)
        out[...] = right(scores, v)
        return out

    def counts(self, scores, v):
        self.calls += 1
        return right(scores, v) * (1 if self.calls < 5 else 2)

    def grows(self, scores, v):
        self.calls += 1
        return right(scores, v) + self.calls


def plain(scores, v):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True) @ v


def large(scores, v):
    top = scores.max(axis=-1, keepdims=True)
    powers = np.exp(scores + (top if scores.dtype == np.float16 else 0))
    return powers / np.where(powers.sum(axis=-1, keepdims=True) == 0, 1, powers.sum(axis=-1, keepdims=True)) @ v


def coarse(scores, v):
    weights = ma.softmax(scores)
    return (weights.round(1) if scores.dtype == np.float16 else weights) @ v


@pytest.mark.parametrize(("answer", "mistake"), [
    (in_place, "changes its input"),
    (Shelf().one_array, "an earlier answer changes"),
    (Shelf().counts, "keeps state between calls"),
    (Shelf().grows, "keeps state between calls"),
    (plain, "NaN for a row that sees nothing"),
    (large, "overflows in float16"),
    (coarse, "loses digits in float16"),
    (lambda scores, v: right(scores, v)[:, None], "right numbers, wrong shape"),
    (lambda scores, v: right(scores, v).T, "right numbers, wrong shape"),
    (lambda scores, v: right(scores, v)[::-1], None),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_conduct(answer, mistake):
    result = MIX(answer)
    assert (result.status, result.mistake) == ("fail", mistake), repr(result)
    assert bool(result.look) == bool(mistake)
    assert "{" not in result.look


def test_the_wrong_shape_is_shown_beside_the_one_wanted():
    flat = make(reference=lambda scores, v: scores.max(axis=-1, keepdims=True), outputs=["top (N, 1)"], wrong=[], stages=None)
    result = flat(lambda scores, v: scores.max(axis=-1))
    stage, = result.stages
    assert (stage.verdict, stage.yours, stage.expected) == ("shape", (3,), (3, 1))
    assert result.mistake == "right numbers, wrong shape"
    assert "(3, 1)" in result.look


def test_views_are_refused_unless_they_are_right():
    settings = dict(reference=lambda scores, v: scores[:, 1:].copy(), outputs=["out (N, S)"], wrong=[], stages=None)
    result = make(**settings)(lambda scores, v: scores[:, 1:])
    assert (result.mistake, "scores" in result.look) == ("returns a view of its input", True)
    assert make(**settings, views=True)(lambda scores, v: scores[:, 1:])


def test_ones_and_zeros_where_booleans_are_wanted():
    settings = dict(reference=lambda scores, v: scores > 0, outputs=["seen (N, S)"], stages=None)
    exercise = make(**settings, wrong=[Wrong("inverted", lambda scores, v: scores <= 0, "True = may attend")])
    assert exercise(lambda scores, v: (scores > 0).tolist())
    assert exercise(lambda scores, v: (scores > 0).astype(int)).mistake == "numbers where True and False are wanted"
    assert exercise(lambda scores, v: np.where(scores > 0, 1.0, 0.0)).mistake == "numbers where True and False are wanted"
    assert exercise(lambda scores, v: ~(scores > 0)).mistake == "inverted"


@pytest.mark.parametrize("value", [object(), [[1.0], [2.0, 3.0]], "text", np.array([1j]), (n for n in "ab"), {1, 2}])
def test_what_is_no_array_of_numbers_fails_plainly(value):
    result = MIX(lambda scores, v: value)
    assert result.status == "fail"
    stage, = result.stages
    assert (stage.verdict, stage.expected) == ("dtype", "numbers")
    assert " at 0x" not in repr(result)


# --- answers driven by the exercise -------------------------------------------------------------------------------


class Sum:
    def __init__(self):
        self.total = 0.0

    def add(self, x):
        self.total += x
        return self.total


class NoSum(Sum):
    def add(self, x):
        return None


class SharedSum(Sum):
    totals = np.zeros(1)

    def add(self, x):
        self.totals += x
        return self.totals[0]


def drive(cls, *numbers):
    made = cls()
    parts = [made.add(x) for x in numbers]
    if parts[0] is None:
        raise Blank
    return parts[0], parts[-1]


def test_a_class_is_driven():
    exercise = Exercise("Sum", "class Sum", "07", lambda rng: [(2.5, 3.5), (0.5, 7.0, 3.25)], Sum, outputs=["first", "last"],
                        drive=drive)
    assert exercise(Sum)
    assert exercise(NoSum).status == "blank"
    assert exercise(None).status == "blank"
    assert exercise(SharedSum).mistake == "keeps state between calls"
    assert exercise(lambda: 1).status == "error"


# --- exceptions ---------------------------------------------------------------------------------------------------

SOURCE = """import numpy as np

def helper(scores):
    return np.linalg.cholesky(scores[:2])      # needs a square array

def mix(scores, v):
    weights = helper(scores)
    return weights @ v
"""


def compiled(file, known):
    scope: dict = {}
    if known:                                       # as ipykernel does for a cell
        linecache.cache[file] = (len(SOURCE), None, SOURCE.splitlines(keepends=True), file)
    exec(compile(SOURCE, file, "exec"), scope)
    return scope["mix"]


@pytest.mark.parametrize(("file", "known"), [("/tmp/ipykernel_1/2.py", True), ("<cell 3>", True), ("<string>", False)])
def test_an_exception_is_shown_with_the_learners_own_line(file, known):
    result = MIX(compiled(file, known))
    assert (result.status, bool(result)) == ("error", False)
    assert result.message.startswith("LinAlgError: ")
    assert "line 4" in result.message                                 # helper's line, not NumPy's
    assert ("np.linalg.cholesky(scores[:2])" in result.message) == known
    assert "minattn" not in result.message
    assert result.message.endswith("Called with scores (3, 5), v (5, 2).")


def test_a_wrong_number_of_arguments_says_how_it_is_called():
    result = MIX(lambda scores: scores)
    assert result.status == "error"
    assert "It is called as mix(scores, v)." in result.message


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_passes_through(error):
    def answer(scores, v):
        raise error

    with pytest.raises(error):
        MIX(answer)


def test_a_refusal_of_the_library_is_the_learners_line_too():
    def answer(scores, v):
        return ma.attention(scores, v, v)

    result = MIX(answer)
    assert result.message.startswith("ShapeError: ")
    assert "return ma.attention(scores, v, v)" in result.message


# --- what is shown ------------------------------------------------------------------------------------------------


def test_html_escapes_what_the_learner_wrote():
    def answer(scores, v):
        raise ValueError("<script>alert(1)</script> & <b>")

    html = MIX(answer)._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<b>" not in html
    html = MIX(lambda scores, v: "<img src=x>")._repr_html_()
    assert "<img" not in html


def luminance(colour):
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("answer", [right, mean, None, lambda: 1])
def test_html_reads_in_light_and_dark(answer):
    """White on the badge's colour has a contrast of 4.5; all other text has the page's own colour."""
    html = MIX(answer)._repr_html_()
    assert "<style" not in html
    background, = set(re.findall(r"background:(#\w{6})", html))
    assert 1.05 / (luminance(background) + 0.05) >= 4.5
    assert set(re.findall(r"(?<![-\w])color:([#\w]+)", html)) == {"inherit", "#ffffff"}


# --- the names ----------------------------------------------------------------------------------------------------


def test_names():
    assert check.all()["softmax"] is check.softmax
    assert set(check.all()) <= set(dir(check))
    assert ma.check is check
    with pytest.raises(AttributeError, match=r"there is no check 'sofmax'; there are .*softmax"):
        _ = check.sofmax


def test_two_exercises_of_one_name_are_refused(monkeypatch):
    from minattn.practice import softmax

    check._found.cache_clear()
    monkeypatch.setattr(softmax, "again", make(name="softmax"), raising=False)
    with pytest.raises(ValueError, match="two exercises are called 'softmax'"):
        check.all()
    monkeypatch.undo()
    check._found.cache_clear()
    assert check.softmax is softmax.softmax
