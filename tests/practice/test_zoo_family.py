"""The engine of the bug zoo: what it says of a test that is right, lazy, wrong, endless or none."""
import re

import numpy as np
import pytest

from minattn.practice import Result, check
from minattn.practice.zoo import FAMILIES, Bug, Family, family


def double(x):
    return 2 * x


def third(x):
    return 3 * x


TWICE = Family("double", "double(x)", "00", double, (
    Bug("three times", third, "<b>Too large.</b>", "How large is double(1)?", "a/b #1"),
    Bug("an exception", lambda x: 1 / 0, "It stops.", "What comes back?", "a/b #2, #3"),
    Bug("too large by 1", lambda x: 2 * x + 1, "Too large.", "What is double(0)?", "a/b #4"),
))  # fmt: skip


def test_plain_values_of_a_test_that_kills_some():
    def test(double):
        assert double(0) == 0

    verdict = TWICE(test)
    assert isinstance(verdict, Result)
    assert (verdict.status, bool(verdict), verdict.mistake) == ("fail", False, None)
    assert verdict.killed == ("an exception", "too large by 1")
    assert verdict.survived == ("three times",)
    assert [(stage.name, stage.verdict, stage.ok) for stage in verdict.stages] == [
        ("three times", "survived", False), ("an exception", "killed", True), ("too large by 1", "killed", True)]
    text = repr(verdict)
    assert re.search(r"too large by 1 +killed +line \d+: assert double\(0\) == 0 \[a/b #4\]", text), text
    assert "Look at: three times: How large is double(1)?" in text
    assert "Kills 2 of 3 bugs of double(x); the right one passes." in text
    html = verdict._repr_html_()
    assert "&lt;b&gt;Too large.&lt;/b&gt;" in html
    assert "<b>Too" not in html


def test_survivors_are_looked_at_a_few_at_a_time():
    many = Family("double", "double(x)", "00", double, tuple(
        Bug(f"bug {n}", third, "Too large.", f"look {n}", "a/b #1") for n in range(5)))
    verdict = many(lambda double: np.testing.assert_equal(double(0), 0))
    assert len(verdict.survived) == 5
    assert verdict.look.splitlines() == ["bug 0: look 0", "bug 1: look 1", "bug 2: look 2", "and 2 more"]


@pytest.mark.parametrize("test", [None, lambda double: None])
def test_a_test_that_calls_nothing_is_blank(test):
    verdict = TWICE(test)
    assert (verdict.status, bool(verdict), verdict.killed, verdict.survived) == ("blank", False, (), ())


def test_a_test_that_the_right_function_fails_is_wrong_and_says_where():
    def test(double):
        assert double(1) == 3, "thrice"

    verdict = TWICE(test)
    assert (verdict.status, verdict.mistake, verdict.killed) == ("fail", "fails on the right function", ())
    assert "AssertionError: thrice" in verdict.message
    assert 'assert double(1) == 3, "thrice"' in verdict.message


def test_an_exception_of_the_test_is_shown_as_its_own():
    def test(double):
        double(1)
        return undefined  # noqa: F821

    verdict = TWICE(test)
    assert (verdict.status, verdict.mistake) == ("error", None)
    assert "NameError" in verdict.message
    assert "return undefined" in verdict.message


def test_a_test_that_draws_its_luck_is_named():
    turns = iter([True, False])

    def test(double):
        double(1)
        assert next(turns)

    assert TWICE(test).mistake == "passes and fails by turns"


def test_a_verdict_returned_is_no_verdict():
    assert TWICE(lambda double: double(1) == 2).mistake == "returns its verdict"


def test_what_test_libraries_raise_counts_and_a_wish_to_stop_passes_through():
    def fails(double):
        if double(1) != 2:
            pytest.fail("by pytest")

    assert set(TWICE(fails).killed) == {"three times", "an exception", "too large by 1"}

    def stops(double):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TWICE(stops)


def test_a_test_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr(family, "SECONDS", 0.05)

    def test(double):
        while True:
            double(1)

    verdict = TWICE(test)
    assert verdict.status == "error"
    assert "stopped after 0.05 seconds" in verdict.message


def test_arguments_are_copies_names_tell_nothing_and_only_the_right_run_prints(capsys):
    names = set()

    def test(keeps):
        x = np.zeros(3)
        keeps(x)
        print("seen")
        names.add((keeps.__name__, keeps.__qualname__))
        assert not x.any()

    def keeps(x):
        x += 1

    writes = Family("keeps", "keeps(x)", "00", keeps, (Bug("same", keeps, "None.", "Nowhere.", "a/b #1"),))
    assert writes(test).survived == ("same",)
    assert names == {("keeps", "keeps")}
    assert capsys.readouterr().out == "seen\n"


@pytest.mark.parametrize("test", [3, "attention", [len]])
def test_what_is_no_test_is_said(test):
    verdict = check.tests(test)
    assert verdict.status == "fail"
    assert "takes the test itself" in verdict.message


def test_a_family_that_is_not_there_is_said():
    verdict = check.tests(lambda attention: None, of="attentoin")
    assert verdict.status == "error"
    assert all(repr("attentoin") in verdict.message and name in verdict.message for name in FAMILIES)


def test_the_call_of_a_lesson_leads_to_what_it_calls():
    assert check.behind("check.softmax(softmax)") is check.softmax
    assert check.behind("check.tests(my_test)") is FAMILIES["attention"]
    assert check.behind('check.tests(my_test, of="rope")') is FAMILIES["rope"]
    with pytest.raises(ValueError, match="calls no check"):
        check.behind("softmax")
