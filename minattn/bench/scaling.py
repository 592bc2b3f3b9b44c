"""Time and memory against N, on log axes: t = c N^slope, so log t is a line over log N.

    full, causal   slope 2: every query meets every key, or half of them on average
    window         slope 1: every query meets w keys, however many there are
    sqrt N         slope 1.5 for the work of strided and fixed attention; their time has a share of slope 1 besides, since
                   queries and results move through memory and a panel of queries reads the union of its windows
    memory         slope 2 where the N x S scores stand in memory, 1 or less where only tiles of them do

A slope is fitted in each round on its own and reported with its spread, as the ratios are. What a call costs at any N bends
it at the small end, so the slope between the last two N stands beside it.
"""
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .cases import EVERYONE, Case
from .measure import Spread, rounds, spread, turn_of

D = 64


def one_head(N, **options):
    return Case("scaling", N, N, D, H=1, G=1, **options)


def slope(sizes, values):
    """Least squares of log value over log N."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def series(quick=False):
    """What is timed: (name, options of the cases, {rival: lengths N})."""
    if quick:
        full = {rival: [512, 1024, 2048] for rival in EVERYONE}
        return [("full", {}, full), ("last(256)", {"window": 256}, {"cpu": [2048, 4096, 8192]})]
    full = {"numpy": [1024, 2048, 4096], "tiled": [1024, 2048, 4096], "cpu": [1024, 2048, 4096, 8192],
            "torch": [1024, 2048, 4096, 8192]}
    window = {"cpu": [4096, 8192, 16384, 32768], "tiled": [1024, 2048, 4096]}
    return [("full", {}, full), ("last(256)", {"window": 256}, window)]


def sparse(quick=False):
    """The same for the patterns whose stride grows with N."""
    sizes = [1024, 4096, 16384] if quick else [4096, 16384, 65536]
    return [(f"{pattern}(sqrt N)", {"pattern": pattern}, {"cpu": sizes}) for pattern in ("strided", "fixed")]


def memory_lengths(quick=False):
    """{rival: lengths N} for peak memory, causal."""
    if quick:
        return {"numpy": [1024, 2048], "tiled": [1024, 2048], "cpu": [1024, 4096], "torch": [1024, 4096]}
    return {"numpy": [1024, 2048, 4096, 8192], "tiled": [1024, 4096, 8192], "cpu": [1024, 4096, 16384, 65536],
            "torch": [1024, 4096, 16384, 65536]}


def times(bench, rival, sizes, budget, problem):
    """One rival at `problem(N)` for every N, these taking turns: points, the slope with its spread, or why there is none."""
    worker, turns, why = bench.worker(rival), {}, None
    for N in sizes:
        case = problem(N)
        entry = worker.ask("case", case)
        if entry["state"] != "ready":
            why = entry["why"]
            break
        turns[N] = turn_of(worker, case, entry)
    done = [] if why else [one for one in rounds(turns, budget, always=sizes) if len(one) == len(sizes)]
    worker.ask("rest")
    points = [{"N": N, **spread([tuple(one[N]) for one in done])._asdict()} for N in sizes] if done else []
    fitted: Spread | None = spread([(slope(sizes, [one[N].seconds for N in sizes]), all(one[N].quiet for N in sizes))
                                    for one in done])
    return {"rival": rival, "why": why if done or why else "a turn failed", "points": points,
            "slope": fitted and fitted._asdict()}


def peaks(bench, lengths):
    """Peak memory of every rival at every length, each in a process of its own, two of them at a time."""
    small = one_head(256, causal=True)

    def peak(rival, N):
        with bench.fresh(rival) as worker:
            answer = worker.ask("peak", small, one_head(N, causal=True))
        return {"N": N, "bytes": answer.get("bytes"), "why": answer.get("why")}

    with ThreadPoolExecutor(2) as pool:
        asked = {rival: [pool.submit(peak, rival, N) for N in sizes] for rival, sizes in lengths.items()}
        return [{"rival": rival, "points": [point.result() for point in points]} for rival, points in asked.items()]
