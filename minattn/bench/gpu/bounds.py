"""What the kernels can reach on this GPU: the issue bound of gpu/bound.py, for its machine code, its processors and its clock.

    bound = flops of a pass / instructions of a pass  x  processors  x  4 schedulers  x  clock

`python -m minattn.bench.gpu.bounds sm_90 N` counts from kernel number N on, without a GPU, and writes a line of JSON for each.
The clock is the highest that the GPU is given, which it may not hold: the true bound of a run is this one or less. The backward
is two kernels, whose passes add up; they make seven products of two tiles, of which five count, as two are made a second time.
"""
import json
import sys

from ...core.errors import DependencyError, KernelError
from ...gpu.bound import SCHEDULERS
from ...gpu.table import compiled, issue_bound
from .hear import all_of, hear

RUNGS = {"registers": "4 registers", "tensor": "5 tensor", "backward": "backward"}        # kernels as gpu/table.py calls them
KINDS = ("registers", "f32"), ("tensor", "bf16"), ("tensor", "f16"), ("backward", "f32")
BOUNDED = [(kernel, D, kind) for kernel, kind in KINDS for D in (64, 128)]
COUNTED = {"backward": (5, 7)}                                        # of the products that are made


def counted(kernel, D, kind, arch):
    """{kernel, D, kind, instructions and flops of a pass, why not}."""
    found = {"kernel": kernel, "D": D, "kind": kind, "instructions": None, "flops": None, "why": None}
    try:
        passes = [issue_bound(RUNGS[kernel], D, launch, made) for launch, made in compiled(RUNGS[kernel], D, arch, kind)]
        some, all_made = COUNTED.get(kernel, (1, 1))
        instructions, flops = sum(one.instructions for one in passes), sum(one.flops for one in passes)
        return {**found, "instructions": instructions, "flops": flops * some // all_made}
    except (DependencyError, KernelError, RuntimeError) as why:
        return {**found, "why": " ".join(str(why).split())[:200]}


def count_all(device, seconds):
    """The same for every kernel that has one, with its `rate` on a device as run.py describes it, in FLOP/s."""
    def lost(name, why):
        return {**dict(zip(("kernel", "D", "kind"), name, strict=True)), "instructions": None, "flops": None, "why": why}

    found = all_of(BOUNDED, lost, lambda start: hear(__name__, device["arch"], start, seconds=seconds))
    for one in found:
        one["rate"] = on(device, one)
    return found


def on(device, one):
    """FLOP/s of a device whose schedulers all start an instruction at every tick; None where there is no count."""
    if one["instructions"] is None:
        return None
    return one["flops"] / one["instructions"] * device["processors"] * SCHEDULERS * device["clock"]


if __name__ == "__main__":
    for name in BOUNDED[int(sys.argv[2]) :]:
        print(json.dumps(counted(*name, sys.argv[1])), flush=True)
