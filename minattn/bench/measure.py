"""Rounds of turns, ratios within a round, and the row of a case.

    seconds   of one rival in one round             work      FLOPs or bytes of the case (cases.py)
    ratio     seconds of another rival / seconds of this one, in the same round: above 1 is faster than the other
    spread    median, first and third quartile, of how many, and whether they are quiet
    quiet     no other program took a core away meanwhile (worker.py). Threads that wait for each other lose far more to
              that than their share of the time, so rounds that are not quiet count only where there are too few that are
"""
from time import perf_counter, sleep
from typing import NamedTuple

import numpy as np

from .check import LIMIT, expected, relative_error
from .rivals import OWN, PLAIN
from .worker import Worker

LEAST, MOST = 3, 15                                                   # rounds
PAUSE = 0.01                                                          # seconds for the threads of the last turn to fall asleep
SHARE = 0.25                                                          # of a case's time, for a rival that is only shown


class Spread(NamedTuple):
    median: float
    low: float
    high: float
    n: int
    quiet: bool


class Turn(NamedTuple):
    seconds: float
    quiet: bool = True


def spread(values):
    """Median and quartiles of (value, quiet) pairs: of the quiet ones if there are LEAST, else of all; None of nothing."""
    if not values:
        return None
    calm = [value for value, quiet in values if quiet]
    enough = len(calm) >= min(LEAST, len(values))
    used = calm if enough else [value for value, _ in values]
    low, median, high = np.percentile(used, [25, 50, 75])
    return Spread(float(median), float(low), float(high), len(used), enough)


def rounds(turns, budget, *, always=(), clock=perf_counter):
    """Rounds until `budget` seconds are spent, or twice that where some are quiet but too few: a list of {name: Turn}.

    Parameters
    ----------
    turns : dict
        Name to a function that returns a `Turn`, or None when it fails and drops out.
    budget : float
        Seconds; between LEAST and MOST rounds whatever it is.
    always : names
        Take part in every round. Another drops out once its next turn would go beyond its share of the budget.
    """
    turns, spent = dict(turns), dict.fromkeys(turns, 0.0)
    done: list[dict] = []
    start = clock()
    calm = 0
    while turns and len(done) < MOST and (len(done) < LEAST or clock() - start < budget * (2 if 0 < calm < LEAST else 1)):
        times = {}
        for name in list(turns) if len(done) % 2 == 0 else list(turns)[::-1]:
            if done and name not in always and spent[name] * (len(done) + 1) / len(done) > SHARE * budget:
                del turns[name]
                continue
            began = clock()
            turn = turns[name]()
            spent[name] += clock() - began
            if turn is None:
                del turns[name]
            else:
                times[name] = turn
        done.append(times)
        calm += all(turn.quiet for name, turn in times.items() if not always or name in always)
    return done


def ratios(done, name, other):
    """How many times as fast as `other`, and whether it was quiet, for every round that both took part in."""
    pairs = [(times[name], times[other]) for times in done if name in times and other in times]
    return [(theirs.seconds / own.seconds, own.quiet and theirs.quiet) for own, theirs in pairs]


class Bench:
    """The workers of a run, each started when it is first needed, all with the same number of threads."""

    def __init__(self, threads, **environment):
        self.threads, self.environment, self.workers = threads, environment, {}

    def worker(self, rival, threads=None):
        threads = threads or self.threads
        if (rival, threads) not in self.workers:
            self.workers[rival, threads] = self.fresh(rival, threads)
        return self.workers[rival, threads]

    def fresh(self, rival, threads=None, **environment):
        """A process that nobody else uses."""
        return Worker(rival, threads or self.threads, **{**self.environment, **environment})

    def close(self):
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def keys(self, case):
        """Of a sparse pattern the pairs by the closed form, those that the kernel attended to, and N^1.5."""
        if not case.pattern:
            return None
        counted = self.worker("cpu", case.threads).ask("keys", case).get("keys")
        return {"closed form": case.pairs, "counted": counted, "N^1.5": case.N**1.5}

    def limit(self, case, rival):
        """How far off a right answer may be."""
        return LIMIT

    def row(self, case, budget):
        """Check every rival, then take rounds of those that are right; a dictionary, as it stands in the JSON."""
        want, entries, turns, left_out = None, {}, {}, dict(case.left_out)
        for rival in case.rivals:
            if rival in left_out:
                entries[rival] = {"state": "absent", "why": left_out[rival], "error": None, "first": None}
                continue
            worker = self.worker(rival, case.threads)
            answer = worker.ask("case", case)
            entry = entries[rival] = {"state": answer["state"], "why": answer.get("why"), "error": None, "first": None}
            if answer["state"] != "ready":
                continue
            entry["first"] = answer["first"]
            if answer["sample"]:
                want = expected(case) if want is None else want
                entry["error"] = error = relative_error(answer["sample"], want)
                limit = self.limit(case, rival)
                if not error <= limit:                                # also where it is NaN
                    entry.update(state="wrong", why=f"relative error {error:.1e}, above {limit:.0e}",
                                 error=error if np.isfinite(error) else None)
                    continue
            turns[rival] = turn_of(worker, case, entry)
            if rival in PLAIN and answer["first"] > budget:           # too slow for another: the first call is its turn
                turns[rival] = turn_taken(answer, entry)
        held_against = [name for name, _ in case.goals]
        done = rounds(turns, budget, always=(*OWN, *held_against))
        for rival in turns:
            self.worker(rival, case.threads).ask("rest")
        return {
            "group": case.group, "case": case.name, "work": case.work, "unit": "bytes" if case.reads else "flops",
            "threads": case.threads or self.threads, "goals": dict(case.goals), "keys": self.keys(case),
            "rivals": {rival: summary(case, entry, done, rival) for rival, entry in entries.items()},
        }


def turn_of(worker, case, entry):
    """A function that takes a turn, or puts down in the rival's entry why it could not."""
    def turn():
        sleep(PAUSE)
        answer = worker.ask("turn", case)
        entry.update(state=answer["state"], why=answer.get("why"))
        return Turn(answer["seconds"], answer["quiet"]) if "seconds" in answer else None

    return turn


def turn_taken(answer, entry):
    """One turn, and no other, in which the first call counts."""
    entry["state"] = "timed"
    once = iter([Turn(answer["first"], answer["quiet"])])
    return lambda: next(once, None)


def summary(case, entry, done, rival):
    """A rival's part of the row: state, why, error, first; once timed seconds, rate, best and ratios, with their spread."""
    times = [tuple(times[rival]) for times in done if rival in times] if entry["state"] == "timed" else []
    seconds = spread(times)
    against = {other: spread(ratios(done, rival, other)) for other, _ in case.goals if other != rival} if times else {}
    return {
        **entry, "seconds": seconds and seconds._asdict(), "rate": seconds and case.work / seconds.median,
        "best": min((took for took, _ in times), default=None),
        "ratios": {other: ratio._asdict() for other, ratio in against.items() if ratio},
    }
