"""Every exercise: the reference passes in any style, the blank is blank, and each known mistake is named as itself alone."""
import copy

import numpy as np
import pytest

from minattn.practice import check
from minattn.practice.arguments import arrays
from minattn.practice.compare import as_numbers, equal
from minattn.practice.exercise import unpack

EXERCISES = check.all()
every_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
PLAIN = {name: exercise for name, exercise in EXERCISES.items() if exercise.drive is None}
every_plain_exercise = pytest.mark.parametrize("exercise", PLAIN.values(), ids=PLAIN)


def changed(exercise, change):
    """The reference, with each output array changed."""

    def answer(*args, **named):
        outputs = unpack(exercise, exercise.reference(*args, **named))
        outputs = tuple(change(outputs[name]) for name in exercise.names())
        return outputs if len(outputs) > 1 else outputs[0]

    return answer


def reals(value, dtype):
    """The same with every float array (also in tuples and lists) of another type."""
    if isinstance(value, tuple | list):
        return type(value)(reals(each, dtype) for each in value)
    if isinstance(value, dict):
        return {key: reals(each, dtype) for key, each in value.items()}
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    return np.asarray(value, dtype) if kind == "f" and np.ndim(value) else value


@every_exercise
def test_the_declaration_is_whole(exercise):
    assert exercise.signature.startswith((f"{exercise.name}(", f"class {exercise.name}")) or exercise.drive
    assert len(exercise.lesson) == 2
    assert exercise.lesson.isdigit()
    assert len(exercise.cases()) >= 2
    names = [wrong.name for wrong in exercise.wrong]
    assert len(set(names)) == len(names)
    assert all(wrong.look for wrong in exercise.wrong)


@every_exercise
def test_the_inputs_are_the_same_every_time_and_no_two_of_a_kind(exercise):
    for one, two in zip(exercise.cases(), exercise.cases(), strict=True):
        for (_, a), (_, b) in zip(arrays(exercise, one), arrays(exercise, two), strict=True):
            np.testing.assert_array_equal(a, b)


@every_exercise
def test_the_reference_passes(exercise):
    result = exercise(exercise.reference)
    assert result, repr(result)
    assert result.status == "pass"
    assert result.mistake is None


@every_plain_exercise
def test_the_blank_is_blank(exercise):
    result = exercise(lambda *_, **__: None)
    assert (result.status, bool(result), result.mistake) == ("blank", False, None)


@every_exercise
def test_every_wrong_answer_is_named_as_itself(exercise):
    for wrong in exercise.wrong:
        result = exercise(wrong.fn)
        assert (result.status, result.mistake) == ("fail", wrong.name), repr(result)
        assert result.look == wrong.look


@every_exercise
def test_wrong_answers_differ_from_each_other_on_the_inputs(exercise):
    outputs = []
    for wrong in exercise.wrong:
        outputs.append([unpack(exercise, exercise.call(wrong.fn, copy.deepcopy(case))) for case in exercise.cases()])
    for a, one in enumerate(outputs):
        for b, two in enumerate(outputs[:a]):
            same = all(equal(x[name], y[name], 1e-4) for x, y in zip(one, two, strict=True) for name in exercise.names())
            assert not same, f"{exercise.wrong[a].name!r} equals {exercise.wrong[b].name!r}"


@every_plain_exercise
@pytest.mark.parametrize("style", ["float32", "lists", "0-d and copies", "named", "in float32 throughout"])
def test_a_right_answer_in_another_style_passes(exercise, style):
    def narrow(value):
        array = np.asarray(value)
        return array.astype(np.float32) if array.dtype.kind == "f" else value

    def by_name(*args, **named):
        return {name: value for name, value in unpack(exercise, exercise.reference(*args, **named)).items()}

    def throughout(*args, **named):
        return changed(exercise, narrow)(*reals(args, np.float32), **reals(named, np.float32))

    answers = {"float32": changed(exercise, narrow), "lists": changed(exercise, lambda value: np.asarray(value).tolist()),
               "0-d and copies": changed(exercise, lambda value: np.array(value)), "named": by_name,
               "in float32 throughout": throughout}
    result = exercise(answers[style])
    assert result, repr(result)


@every_plain_exercise
def test_writing_into_an_argument_is_named(exercise):
    def answer(*args, **named):
        found = exercise.reference(*copy.deepcopy(args), **copy.deepcopy(named))
        for _, array in arrays(exercise, named or args):
            array[...] = ~array if array.dtype.kind == "b" else array + 1
        return found

    if not arrays(exercise, exercise.cases()[0]):
        assert exercise(answer)
        return
    result = exercise(answer)
    assert (result.status, result.mistake) == ("fail", "changes its input")


@every_plain_exercise
def test_one_array_for_all_calls_is_named(exercise):
    shelf = {}

    def answer(*args, **named):
        found = unpack(exercise, exercise.reference(*args, **named))
        for name, value in found.items():
            value = as_numbers(value)
            largest = shelf.setdefault(name, np.zeros(100_000, value.dtype))
            here = largest[: value.size].reshape(value.shape)
            here[...] = value
            found[name] = here
        return tuple(found[name] for name in exercise.names()) if len(found) > 1 else found[exercise.outputs[0].split()[0]]

    result = exercise(answer)
    assert (result.status, result.mistake) == ("fail", "an earlier answer changes"), repr(result)


@every_exercise
def test_results_show_no_solution_and_no_raw_html(exercise):
    for wrong in exercise.wrong[:3]:
        result = exercise(wrong.fn)
        assert "np.float64" not in repr(result)
        assert "lambda" not in repr(result)
        assert result._repr_html_().count("<div") == result._repr_html_().count("</div>")
