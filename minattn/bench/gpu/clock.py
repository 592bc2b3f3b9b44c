"""How long a GPU takes for a call, by events on its stream, without the time that Python takes to ask for it.

    event    a mark in the stream; what stands between two of them took the time between them
    hold     a kernel that only waits, put before the calls of a turn: while it holds the GPU up, Python asks for all of them,
             and so they begin one right after the other. Where it did not hold for long enough, the turn is marked
    flush    writes more than the L2 cache holds, before each call: what is bound by memory then finds nothing of its own there
    turn     the median of some calls, after one that is not timed

Turns of several rivals are taken in rounds, as everywhere in minattn bench (measure.py); "quiet" means here that the hold held.
"""
from time import perf_counter

import numpy as np

from ...gpu.problem import Launch, cuda
from ..measure import Turn

NAP = np.uint32(100_000)                                              # nanoseconds, about which a thread sleeps
SHORTEST, LONGEST = 8, 512                                            # naps of a hold
CALLS = 3, 15                                                         # of a turn, at least and at most
TURN = 0.05                                                           # seconds that a turn is to take
FLUSHED = 4                                                           # times the L2 cache


def hold(naps):
    """One thread that sleeps."""
    for _ in range(naps):
        cuda.nanosleep(NAP)


class Clock:
    """Takes turns on the stream of a `device.Gpu`.

    Parameters
    ----------
    gpu : Gpu
        Whatever is timed has to work on its stream.
    """

    def __init__(self, gpu):
        self.gpu, self.naps = gpu, SHORTEST
        self.spare = gpu.empty(FLUSHED * max(l2_bytes(gpu), 2**20) // 4, np.float32)
        self.hold()                                                   # compiled now, and not while a turn waits for it
        gpu.wait()

    def hold(self):
        self.gpu.run(Launch(hold, (1, 1, 1), (1, 1, 1), (self.naps,)))

    def mark(self):
        event = self.gpu.cuda.event()
        event.record(self.gpu.stream)
        return event

    def seconds(self, call, calls, cold):
        """(seconds of each call, whether the GPU was held up until all of them were asked for)."""
        began, before = perf_counter(), self.mark()
        self.hold()
        held, marks = self.mark(), []
        for _ in range(calls + 1):                                    # the first only warms up
            if cold:
                self.gpu.clear(self.spare)
            marks.append((self.mark(), call(), self.mark()))
        asked = perf_counter() - began
        self.gpu.wait()
        took = [start.elapsed_time(stop) / 1e3 for start, _, stop in marks[1:]]
        return took, before.elapsed_time(held) / 1e3 >= asked

    def turn(self, call, cold=False):
        """The median of some calls. A hold that was too short is made longer, and the turn taken again."""
        estimate = self.seconds(call, 1, cold)[0][0]
        calls = int(np.clip(TURN / max(estimate, 1e-6), *CALLS))
        while True:
            took, held = self.seconds(call, calls, cold)
            if held or self.naps >= LONGEST:
                return Turn(float(np.median(took)), held)
            self.naps *= 2


def l2_bytes(gpu):
    return gpu.cuda.get_current_device().L2_CACHE_SIZE
