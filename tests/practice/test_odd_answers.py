"""Odd answers: unusual containers and types of what is right, objects that raise when looked at; a check takes them all."""
import numpy as np
import pytest

import minattn as ma
from minattn.practice import check
from minattn.practice.compare import as_numbers


class Unreadable:
    """Raises for whoever wants an array or a text of it."""

    def __array__(self, *args, **named):
        raise RuntimeError("no array")

    def __repr__(self):
        raise RuntimeError("no text")

    __hash__ = None

    def __eq__(self, other):
        raise RuntimeError("no comparison")


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def shown(exercise, answer):
    result = exercise(answer)
    assert not result
    assert result._repr_html_()
    return repr(result)


def test_words_and_numbers_in_arrays_of_objects_are_read():
    words = check.reads(lambda weights, tokens, context: np.array(context, object)[weights.argmax(axis=1)])
    assert words, repr(words)
    assert check.softmax(lambda scores: ma.softmax(scores.astype(float)).astype(object))
    assert as_numbers(10**30) == 1e30
    assert as_numbers([10**30, 2]).tolist() == [1e30, 2]
    assert [as_numbers(value) for value in (np.array([None, 1.5]), object(), [[1], [1, 2]], 1j)] == [None] * 4


def test_an_integer_beyond_64_bits_is_a_number_that_differs():
    assert check.kv_bytes(lambda *sizes: 10**30).stages[0].verdict == "different"


def test_the_type_of_an_array_is_said_and_not_that_it_is_one():
    assert "yours complex128, expected numbers" in shown(check.softmax, lambda scores: scores + 0j)
    assert "yours generator, expected numbers" in shown(check.softmax, lambda scores: (row for row in scores))


@pytest.mark.parametrize("name", ["softmax", "merge", "reads", "users_that_fit", "kv_cache", "model_attention"])
def test_what_raises_when_looked_at_is_no_crash_of_the_check(name):
    exercise = check.all()[name]
    shown(exercise, lambda *args, **named: Unreadable())
    assert "given a Unreadable" in shown(exercise, Unreadable())

    def raises(*args, **named):
        raise Speechless

    assert shown(exercise, raises).splitlines()[1].startswith("Speechless")


def test_nan_in_place_of_minus_infinity_is_no_row_that_sees_nothing():
    """ALiBi's future is -inf, beside numbers in the same row."""
    right = check.alibi.reference
    result = check.alibi(lambda *sizes: np.where(np.isneginf(right(*sizes)), np.nan, right(*sizes)))
    assert (result.status, result.mistake) == ("fail", None)


def test_a_map_with_a_column_that_sums_to_1_is_turned_too():
    result = check.queries_down(lambda w: w if np.isclose(w.sum(axis=1).max(), 1) else w.T)
    assert result.mistake == "the largest sum looked at"


@pytest.mark.parametrize("seed", range(8))
def test_a_drawn_order_is_as_good_as_any(seed):
    def compared(layer, x):
        order = np.random.default_rng(seed).permutation(len(x))
        return not np.allclose(layer(x[order]), layer(x)[order])

    assert check.sees_order(compared)
