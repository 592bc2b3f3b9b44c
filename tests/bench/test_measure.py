"""Rounds, ratios and rows, with turns that say how long they took."""
import numpy as np
import pytest

from minattn.bench import check, measure
from minattn.bench.cases import Case, inputs
from minattn.bench.measure import Bench, Turn, ratios, rounds, spread
from minattn.bench.rivals import RIVALS


class Clock:
    """Time that passes only while somebody takes a turn."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def __call__(self):
        return self.now

    def turn(self, name, seconds, quiet=True):
        def take():
            self.order.append(name)
            self.now += seconds
            return Turn(seconds, quiet)

        return take


def test_the_order_is_turned_around_in_every_second_round():
    clock = Clock()
    rounds({name: clock.turn(name, 1.0) for name in "abc"}, 9.0, always="abc", clock=clock)
    assert "".join(clock.order) == "abccbaabc"


@pytest.mark.parametrize(("seconds", "count"), [(0.001, measure.MOST), (1.0, 5), (100.0, measure.LEAST)])
def test_rounds_keep_to_the_budget(seconds, count):
    clock = Clock()
    assert len(rounds({"a": clock.turn("a", seconds)}, 5.0, always="a", clock=clock)) == count


def test_a_slow_rival_leaves_the_time_to_the_others():
    clock = Clock()
    done = rounds({"fast": clock.turn("fast", 0.5), "slow": clock.turn("slow", 2.0)}, 6.0, always=("fast",), clock=clock)
    assert ["slow" in times for times in done] == [True] + [False] * (len(done) - 1)
    assert len(done) > measure.LEAST


def test_a_rival_that_fails_drops_out():
    clock = Clock()
    left = iter([Turn(1.0), None])
    done = rounds({"a": clock.turn("a", 1.0), "b": lambda: next(left)}, 4.0, always="ab", clock=clock)
    assert ["b" in times for times in done] == [True, False, False, False]


def test_unrest_is_waited_out_for_as_long_again():
    """Twice the budget where a round was quiet, so that there is hope; not where none was."""
    for first, count in ((True, 10), (False, 5)):
        clock = Clock()
        turns = iter([clock.turn("a", 1.0, first)] + [clock.turn("a", 1.0, False)] * 20)
        assert len(rounds({"a": lambda turns=turns: next(turns)()}, 5.0, always="a", clock=clock)) == count


def test_a_ratio_is_taken_within_a_round():
    done = [{"a": Turn(1.0), "b": Turn(2.0)}, {"a": Turn(10.0), "b": Turn(30.0)}, {"b": Turn(7.0)},
            {"a": Turn(4.0), "b": Turn(2.0, quiet=False)}]
    assert ratios(done, "a", "b") == [(2.0, True), (3.0, True), (0.5, False)]
    assert ratios(done, "b", "a") == [(0.5, True), (1 / 3, True), (2.0, False)]


def test_spread_prefers_quiet_rounds_if_there_are_enough():
    calm = [(value, True) for value in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert spread([*calm, (100.0, False)]) == (3.0, 2.0, 4.0, 5, True)
    assert spread([(1.0, True), (2.0, False), (9.0, False)]) == (2.0, 1.5, 5.5, 3, False)
    assert spread([(7.0, True)]) == (7.0, 7.0, 7.0, 1, True)
    assert spread([]) is None


class Fake:
    """A worker without a process, whose every call takes `seconds` and whose answers `spoil` may alter."""

    def __init__(self, seconds, spoil=lambda sample: sample, lasts=99):
        self.seconds, self.spoil, self.left = seconds, spoil, lasts

    def ask(self, question, case=None):
        if question == "case":
            sample = check.sample(case, RIVALS["numpy"](case, inputs(case))())
            return {"state": "ready", "first": 9.0, "quiet": True, "sample": self.spoil(sample)}
        self.left -= 1
        if self.left < 0:
            return {"state": "failed", "why": "it fell over"}
        return {"state": "timed", "seconds": self.seconds, "quiet": True}

    def close(self):
        pass


def row(**workers):
    bench = Bench(2)
    bench.workers = {(name, 2): worker for name, worker in workers.items()}
    case = Case("forward", 9, 9, 4, H=2, G=2, rivals=tuple(workers), goals=(("torch", 1.5),), left_out=(("flex", "spared"),))
    return case, bench.row(case, 0.0)


def test_a_row_counts_rates_and_ratios():
    case, found = row(cpu=Fake(0.25), torch=Fake(0.5))
    kernel, torch = found["rivals"]["cpu"], found["rivals"]["torch"]
    assert kernel["rate"] == case.flops / 0.25
    assert kernel["ratios"]["torch"] == {"median": 2.0, "low": 2.0, "high": 2.0, "n": measure.LEAST, "quiet": True}
    assert torch["ratios"] == {}
    assert (kernel["state"], kernel["first"], kernel["best"]) == ("timed", 9.0, 0.25)
    assert 0 < kernel["error"] < check.LIMIT
    assert found["goals"] == {"torch": 1.5}


def test_who_is_too_slow_for_another_call_is_timed_by_the_first():
    found = row(numpy=Fake(None, lasts=0), torch=Fake(4.5))[1]["rivals"]["numpy"]
    assert (found["state"], found["seconds"]["median"], found["seconds"]["n"]) == ("timed", 9.0, 1)                # once
    assert found["ratios"]["torch"]["median"] == 0.5


@pytest.mark.parametrize("spoil", [lambda sample: [a * 1.001 for a in sample], lambda sample: [a * np.nan for a in sample]])
def test_a_fast_wrong_answer_gets_no_time(spoil):
    wrong = row(cpu=Fake(1e-9, spoil), torch=Fake(0.5))[1]["rivals"]["cpu"]
    assert (wrong["state"], wrong["seconds"], wrong["rate"], wrong["ratios"]) == ("wrong", None, None, {})
    assert "relative error" in wrong["why"]


def test_who_is_left_out_or_fails_keeps_a_place():
    found = row(cpu=Fake(0.25), torch=Fake(0.5, lasts=1), flex=Fake(0.1))[1]["rivals"]
    assert list(found) == ["cpu", "torch", "flex"]
    assert (found["flex"]["state"], found["flex"]["why"]) == ("absent", "spared")
    assert (found["torch"]["state"], found["torch"]["why"], found["torch"]["seconds"]) == ("failed", "it fell over", None)
    assert found["cpu"]["seconds"]["n"] == measure.LEAST
