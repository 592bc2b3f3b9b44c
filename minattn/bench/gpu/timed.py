"""The rows: every case in turn, its rivals in rounds, all in the one process that holds the GPU.

`python -m minattn.bench.gpu.timed N [--quick] [--seconds S]` measures the ceilings, then the cases from number N on, and writes a
line of JSON for each; it ends after a case in which a kernel failed, since nothing can be expected of its GPU any more.
"""
import argparse
import json
import sys
from dataclasses import replace
from time import perf_counter

from ...gpu.device import Gpu
from ..measure import Bench
from ..worker import Rival, answered
from .answers import EXACT, HALF
from .cases import OWN, GpuCase, table
from .clock import Clock
from .rivals import RIVALS, Numbers

BUDGET = 0.6                                                          # seconds for the rounds of a case
LOOSE = {"f32": 5e-3, "f16": 5e-2, "bf16": 5e-2}                      # for PyTorch, which may round more often


class Resident(Rival):
    """A rival that lives in this process; asked like one that does not."""

    def __init__(self, name, numbers, clock):
        super().__init__(name)
        self.numbers, self.clock = numbers, clock

    def ask(self, question, *details):
        return answered(self, question, details)

    def close(self):
        self.rest()

    def rest(self):
        """Let go of all cases, and of the memory that PyTorch keeps for later: the kernels cannot use it."""
        answer = super().rest()
        if "torch" in sys.modules:
            sys.modules["torch"].cuda.empty_cache()
        return answer

    def case(self, case):
        start = perf_counter()
        work = RIVALS[self.name](case, self.numbers)
        work.call()
        got = [array for b, h in case.ends for array in work.head(b, h)]          # waits until it is computed
        self.calls[case], self.first[case] = work.call, perf_counter() - start
        return {"state": "ready", "first": self.first[case], "quiet": True, "sample": got}

    def turn(self, case, seconds=None):
        return {"state": "timed", **self.clock.turn(self.calls[case], cold=case.reads)._asdict()}


class GpuBench(Bench):
    """The rivals of a GPU, all in this process."""

    def __init__(self, numbers, clock):
        super().__init__(1)
        self.numbers, self.clock = numbers, clock

    def fresh(self, rival, threads=None, **environment):
        return Resident(rival, self.numbers, self.clock)

    def limit(self, case, rival):
        if rival not in OWN:
            return LOOSE[case.kind]
        return EXACT if case.kind == "f32" else HALF


def ceilings(bench):
    """What this GPU does at most, {name: {rate, quiet, why}}: the best of some turns."""
    square = GpuCase("ceiling", 8192, 8192, 64, 64, 64, rivals=("matmul",), goals=())               # 2 x 8192^3 FLOPs
    asked = {"float32 product": square, "bfloat16 product": replace(square, kind="bf16"),
             "copy": GpuCase("ceiling", 1, 2**21, 64, H=1, G=1, rivals=("copy",), goals=())}  # fmt: skip
    found = {}
    for name, case in asked.items():
        entry, = bench.row(case, BUDGET)["rivals"].values()
        quiet = bool(entry["seconds"] and entry["seconds"]["quiet"])
        found[name] = {"rate": entry["best"] and case.work / entry["best"], "quiet": quiet, "why": entry["why"]}
    return found


def measure(start, quick, seconds):
    """Write a line for each case from number `start` on; before the first, one for the ceilings, {"ceilings": ...}."""
    began, place = perf_counter(), Gpu()
    bench = GpuBench(Numbers(place), Clock(place))
    if start == 0:
        say({"ceilings": ceilings(bench)})
    for case in table(quick)[start:]:
        if perf_counter() - began > seconds:
            say(unmeasured(case, "not measured: the time was up"))
            continue
        row = {**bench.row(case, BUDGET), "kernel": case.rivals[0], "D": case.D, "kind": case.kind}
        broken = any(row["rivals"][name]["state"] == "failed" for name in case.rivals if name in OWN)
        say({**row, "state": "failed" if broken else "measured"})
        if broken:
            return


def unmeasured(case, why, state="absent"):
    """The row of a case of which there are no numbers."""
    entry = {"state": state, "why": why, "ratios": {}, **dict.fromkeys(("error", "first", "seconds", "rate", "best"))}
    return {"group": case.group, "case": case.name, "unit": "bytes" if case.reads else "flops", "kernel": case.rivals[0],
            "D": case.D, "kind": case.kind, "rivals": dict.fromkeys(case.rivals, entry), "state": state}  # fmt: skip


def say(line):
    print(json.dumps(line, allow_nan=False), flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("start", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=300)
    options = parser.parse_args(argv)
    measure(options.start, options.quick, options.seconds)


if __name__ == "__main__":
    main()
