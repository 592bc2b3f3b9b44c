"""All measurements of a run, in order, as one dictionary: what `minattn bench --json` writes.

    minattn, threads, quick, only, seconds     what was run, and how long it took
    machine     processor, cores, system, versions, the load before and after          (machine.py)
    ceilings    sgemm (FLOP/s), read and copy (bytes/s): the rate of the best turn, before or after the rows, and whether
                it was quiet
    rows        one for each case: group, case, work, unit, threads, goals, rivals       (measure.py)
    compile     for each kernel the seconds of its first call, without a cache and from it
    scaling     seconds against N, with the slope                                        (scaling.py)
    sparse      the same for strided and fixed attention with a stride of sqrt(N)
    memory      bytes beyond inputs and results against N
    linear      as scaling, of the linear family                                         (linear.py)

Numbers are in seconds, bytes, FLOPs and their quotients; a spread is {median, low, high, n, quiet}; what could not be
measured is null, with the reason under "why".
"""
import functools
import os
import tempfile
from time import perf_counter

from .. import __version__
from ..core.errors import OptionError
from ..core.shapes import count
from . import cases, machine, scaling
from . import linear as family
from .measure import Bench

PARTS = ("compile", *cases.GROUPS, "scaling", "memory")


def run(*, threads=None, quick=False, only=None, linear=False, budget=None, progress=lambda text: None):
    """Measure.

    Parameters
    ----------
    threads : int, optional
        For every rival; without it, one for each core.
    quick : bool
        Fewer and smaller cases, less time for each.
    only : sequence of str, optional
        Names out of PARTS; without it, all of them, but with `quick` not "compile", which takes longer than the rest.
    linear : bool
        The linear family instead of attention: rows and slopes of its own, and no other part.
    budget : float, optional
        Seconds for the rounds of one case: 3, or 2 with `linear`, 0.8 with `quick`.
    progress : callable
        Is told in words what is measured next.

    Returns
    -------
    dict
        As the module describes.

    Raises
    ------
    OptionError
        If `threads` is below 1 or more than there are cores, or `only` names something else.
    """
    threads = machine.cores() if threads is None else count("--threads", threads, 1)
    if threads > machine.cores():
        raise OptionError(f"--threads is {threads}, but this process may use {machine.cores()} cores")
    only = () if linear else tuple(only or (part for part in PARTS if not (quick and part == "compile")))
    for part in only:
        if part not in PARTS:
            raise OptionError(f"--only {part}: there is {', '.join(PARTS)}")
    budget = (0.8 if quick else 2.0 if linear else 3.0) if budget is None else budget
    start = perf_counter()
    result = {"minattn": __version__, "threads": threads, "quick": quick, "only": list(only), "machine": machine.describe()}
    with tempfile.TemporaryDirectory(prefix="minattn-bench-") as folder, Bench(threads) as bench:
        result["compile"] = []
        if "compile" in only:
            progress("first calls: nothing is compiled yet")
            bench.environment["NUMBA_CACHE_DIR"] = folder             # empty, and used by all that follows
            result["compile"] = first_calls(bench)
        progress("ceilings")
        before = ceilings(bench, quick, budget)
        result["rows"] = []
        for case in family.table(quick) if linear else [case for case in cases.table(quick) if case.group in only]:
            progress(f"{case.group}: {case.name}")
            result["rows"].append(bench.row(case, budget))
        progress("ceilings again")
        after = ceilings(bench, quick, budget)
        result["ceilings"] = {name: max(before[name], after[name], key=better) for name in before}
        result["linear"] = family.slopes(bench, quick, budget, progress) if linear else []
        for name, series in (("scaling", scaling.series), ("sparse", scaling.sparse)):
            result[name] = timed_series(bench, series(quick), budget, progress) if name in only else []
        bench.close()
        if "memory" in only:
            progress("peak memory")
        result["memory"] = scaling.peaks(bench, scaling.memory_lengths(quick)) if "memory" in only else []
    result["machine"]["load_after"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {**result, "seconds": perf_counter() - start}


def ceilings(bench, quick, budget):
    """What the machine does at most: {rival: {rate, quiet}}; rate None where it could not be measured."""
    found = {}
    for case in cases.ceilings(quick):
        for rival, entry in bench.row(case, budget / 2)["rivals"].items():
            timed = entry["seconds"]
            found[rival] = {"rate": timed and case.work / entry["best"], "quiet": bool(timed and timed["quiet"])}
    return found


def better(ceiling):
    """A quiet one first, then the higher."""
    return ceiling["quiet"], ceiling["rate"] or 0


def first_calls(bench):
    """The first call of each kernel in a process with an empty cache, then in one that finds what the first left."""
    seen = []
    for _ in ("without a cache", "from the cache"):
        with bench.fresh("cpu") as worker:
            seen.append({step: worker.ask("case", case) for step, case in cases.first_calls().items()})
    return [{"step": step, "why": fresh.get("why"), "fresh": fresh.get("first"), "cached": cached.get("first")}
            for (step, fresh), cached in zip(seen[0].items(), seen[1].values(), strict=True)]


def timed_series(bench, series, budget, progress):
    found = []
    for name, told, rivals in series:
        for rival, sizes in rivals.items():
            progress(f"scaling: {name}, {rival}")
            problem = functools.partial(scaling.one_head, **told)
            found.append({"series": name, **scaling.times(bench, rival, sizes, budget, problem)})
    return found
