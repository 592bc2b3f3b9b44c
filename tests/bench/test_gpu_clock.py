"""The clock on a timeline of its own: a GPU that works through what it was asked for, and a host that takes time to ask."""
from types import SimpleNamespace

import numpy as np
import pytest

from minattn.bench.gpu import clock as module
from minattn.bench.gpu.clock import FLUSHED, LONGEST, SHORTEST, Clock, hold


class Event:
    def __init__(self, gpu):
        self.gpu, self.at = gpu, None

    def record(self, stream):
        assert stream is self.gpu.stream
        self.at = self.gpu.begin(0)

    def elapsed_time(self, other):
        return (other.at - self.at) * 1e3


class Timeline:
    """Stands in for `device.Gpu`: work begins when it was asked for, and after the work before it."""

    asks, nap = 20e-6, 1e-4                                           # seconds: to ask for anything; that a nap takes

    def __init__(self):
        self.now = self.busy = 0.0                                    # of the host; until when the GPU is at work
        self.log, self.warmed = [], False
        self.stream = "the stream"
        self.cuda = SimpleNamespace(event=lambda: Event(self), get_current_device=lambda: SimpleNamespace(L2_CACHE_SIZE=2**23))

    def empty(self, size, dtype):
        return SimpleNamespace(size=size, alloc_size=size * np.dtype(dtype).itemsize)

    def clear(self, array):
        self.work("flush", array.alloc_size / 1e12)

    def begin(self, seconds):
        """When work of so long ends that is asked for now."""
        self.busy = max(self.busy, self.now) + seconds
        return self.busy

    def work(self, name, seconds):
        self.log.append(name)
        self.now += self.asks
        self.begin(seconds)

    def run(self, launch):
        assert launch.kernel is hold
        if not self.warmed:
            self.now, self.warmed = self.now + 1.0, True              # it is compiled
        self.work("hold", launch.arguments[0] * self.nap)

    def wait(self):
        self.now = max(self.now, self.busy)


@pytest.fixture
def gpu(monkeypatch):
    gpu = Timeline()
    monkeypatch.setattr(module, "perf_counter", lambda: gpu.now)
    return gpu


@pytest.mark.parametrize("took", [1e-6, 5e-5, 3e-3, 0.2])
def test_a_call_takes_what_the_gpu_takes_for_it(took, gpu):
    """Also one that is shorter than it takes to ask for it."""
    turn = Clock(gpu).turn(lambda: gpu.work("call", took))
    assert turn.seconds == pytest.approx(took)
    assert turn.quiet


def test_several_launches_are_timed_as_one_call(gpu):
    turn = Clock(gpu).turn(lambda: [gpu.work("one", 2e-6), gpu.work("other", 3e-6)])
    assert turn.seconds == pytest.approx(5e-6)


def test_the_hold_grows_until_it_holds(gpu):
    gpu.asks = 1e-3
    clock = Clock(gpu)
    assert clock.turn(lambda: gpu.work("call", 1e-6)) == (pytest.approx(1e-6), True)
    assert SHORTEST < clock.naps <= LONGEST


def test_a_call_that_waits_for_the_gpu_is_marked(gpu):
    """No hold helps: the time to ask is in it, and that is said."""
    def call():
        gpu.work("call", 1e-6)
        gpu.wait()

    turn = Clock(gpu).turn(call)
    assert not turn.quiet
    assert turn.seconds > 1e-6


def test_the_hold_counts_from_after_its_compilation(gpu):
    clock = Clock(gpu)
    gpu.asks = 0.9 * SHORTEST * gpu.nap                               # so that one call and one more take longer than a hold
    took, held = clock.seconds(lambda: gpu.work("call", 1e-6), 1, False)
    assert len(took) == 1
    assert not held


def test_a_cold_turn_writes_over_the_cache_before_each_call(gpu):
    clock = Clock(gpu)
    assert clock.spare.alloc_size == FLUSHED * 2**23
    gpu.log.clear()
    clock.turn(lambda: gpu.work("call", 1e-3), cold=True)
    calls = [i for i, name in enumerate(gpu.log) if name == "call"]
    assert len(calls) > 4
    assert all(gpu.log[i - 1] == "flush" for i in calls)


def test_long_calls_are_few_and_short_ones_many(gpu):
    counts = []
    for took in (1e-6, 1e-2, 1.0):
        gpu.log.clear()
        Clock(gpu).turn(lambda took=took: gpu.work("call", took))
        counts.append(gpu.log.count("call"))
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] <= 6
