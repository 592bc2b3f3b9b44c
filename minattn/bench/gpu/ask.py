"""Ask the checks, each group in a process of its own, and say what became of each.

    right    every answer is within its limit            wrong    one is not
    failed   it raised, or its process ended             absent   this GPU, or this machine, cannot do what it asks for

`python -m minattn.bench.gpu.ask PLACE GROUP N` asks a group, or all of them, from check number N on, and writes a line of JSON
for each. PLACE is gpu; short, a GPU with one check of each kernel; or simulated.
"""
import json
import math
import sys
from time import perf_counter

from ...core.errors import BackendError, DependencyError
from ...gpu.device import Gpu
from ..machine import cores
from .answers import lacks
from .checks import GPU, SHORT, SIMULATED, checks
from .hear import all_of, hear, side_by_side

SIZES = {"gpu": GPU, "short": SHORT, "simulated": SIMULATED}
SECONDS, PROCESSES = 300, 8                                           # for a process; at a time, as compiling takes a core


def ask_all(where="gpu", *, progress=lambda text: None):
    """What became of every check of all groups, some groups at a time: a list of dictionaries."""
    def one(group):
        progress(f"checks: {group}")
        return ask(group, where)

    with side_by_side(min(PROCESSES, cores())) as pool:
        return [found for group in pool.map(one, checks(SIZES[where])) for found in group]


def ask(group, where="gpu", seconds=SECONDS):
    """What became of the checks of a group."""
    def process(start):
        return hear(__name__, where, group, start, seconds=seconds)

    names = [check.name for check in checks(SIZES[where])[group]]
    return all_of(names, lambda name, why: outcome(group, name, "failed", why), process)


def outcome(group, name, state, why=None, errors=(), seconds=None):
    """`errors` are (what, error or None where it is infinite, limit)."""
    return {"group": group, "name": name, "state": state, "why": why, "errors": [list(one) for one in errors], "seconds": seconds}


def asked(check, place):
    """The outcome of one check."""
    start = perf_counter()
    try:
        answers = check.ask(place)
    except (BackendError, DependencyError) as why:
        return outcome(check.group, check.name, "absent", str(why))
    except Exception as error:
        return outcome(check.group, check.name, "failed", " ".join(f"{type(error).__name__}: {error}".split())[:300])
    errors = [(one.what, one.error, one.limit) for one in answers]
    off = [f"{what}: error {error:.1e}, above {limit:.1e}" for what, error, limit in errors if not error <= limit]
    errors = [(what, error if math.isfinite(error) else None, limit) for what, error, limit in errors]
    return outcome(check.group, check.name, "wrong" if off else "right", "; ".join(off) or None, errors, perf_counter() - start)


def made(where):
    """The place that checks are asked in."""
    if where == "simulated":
        from ...gpu.simulated import Simulated

        return Simulated()
    return Gpu()


def serve(where, group, start):
    """Ask from check number `start` on, and write a line for each, up to the first that raises."""
    place, groups = made(where), checks(SIZES[where])
    for check in [check for name in ([group] if group != "all" else groups) for check in groups[name]][start:]:
        why = lacks(check.group, place)
        found = outcome(check.group, check.name, "absent", why) if why else asked(check, place)
        print(json.dumps(found, allow_nan=False), flush=True)
        if found["state"] == "failed":
            return


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
