"""All of it in order, as one dictionary: what `minattn bench --cuda --json` writes.

    minattn, quick, seconds      what was run, and how long it took
    device      name, arch, processors, clock (Hz), memory and L2 (bytes), driver, versions of packages, what nvidia-smi says
    checks      what became of each question about each kernel                   (ask.py)       with --report
    bounds      the issue bound of kernels 4 and 5                               (bounds.py)
    ceilings    rates of a large product in float32 and in bfloat16, and of a copy; `rate` None with the reason, `why`
    rows        one for each case: as measure.py has them, and kernel, D, kind   (timed.py)
    sanitizer   what each tool of compute-sanitizer found                        (sanitizer.py) with --report

Whatever fails, the rest is done, and what failed stands in its place with the reason.
"""
import shutil
import subprocess
from time import perf_counter

from ... import __version__
from ...gpu.device import Gpu
from .. import machine
from . import ask, bounds, sanitizer, timed
from .cases import OWN, table
from .hear import all_of, hear, side_by_side

TOTAL, ROWS, LEAST = 570, 240, 60                                     # seconds: of all, of the rows, and at least for the tools
PACKAGES = "numpy", "numba", "numba-cuda", "llvmlite", "nvidia-nvvm", "nvidia-cuda-nvcc", "torch", "nvidia-cudnn-cu13"
SMI = "clocks.sm,clocks.max.sm,power.draw,power.limit,temperature.gpu"


def run(*, quick=False, report=False, progress=lambda text: None):
    """Measure on the GPU, and with `report` check every kernel first and run compute-sanitizer last.

    Raises
    ------
    DependencyError, BackendError
        If numba-cuda is not installed, or there is no driver or no GPU.
    """
    device, start = describe(Gpu()), perf_counter()
    result = {"minattn": __version__, "quick": quick, "device": device, "checks": [], "sanitizer": []}
    with side_by_side(1) as pool:
        counting = pool.submit(bounds.count_all, device, TOTAL / 2)    # on the processor, while the GPU is at work
        if report:
            result["checks"] = ask.ask_all(progress=progress)
        result["ceilings"], result["rows"] = rows(quick, progress)
        device["smi"].append(smi())
        progress("issue bounds")
        result["bounds"] = counting.result()
    if report:
        left = max(LEAST, TOTAL - (perf_counter() - start))
        result["sanitizer"] = sanitizer.examine_all(left, progress)
    return {**result, "seconds": perf_counter() - start}


def went_wrong(result):
    """Whether a check, a tool or a timed kernel of this package found or gave something wrong, or failed."""
    kernels = [entry for row in result["rows"] for name, entry in row["rivals"].items() if name in OWN]
    return any(one["state"] in ("wrong", "failed") for one in [*result["checks"], *result["sanitizer"], *kernels])


def rows(quick, progress):
    """({name of a ceiling: what it is}, [row of each case])."""
    cases, ceilings, start = table(quick), {}, perf_counter()

    def heard(line):
        ceilings.update(line.get("ceilings", {}))
        progress(f"{line['group']}: {line['case']}" if "case" in line else "what this GPU does at most")

    def process(first):
        left = ROWS - (perf_counter() - start)
        options = ["--seconds", max(left, 0), *(["--quick"] if quick else [])]
        found = hear(timed.__name__, first, *options, seconds=max(left, 0) + LEAST, line=heard)
        return found._replace(lines=[line for line in found.lines if "case" in line])

    def lost(case, why):
        return timed.unmeasured(case, why, "absent" if why.startswith("not asked") else "failed")

    progress("what this GPU does at most")
    return ceilings, all_of(cases, lost, process)


def describe(gpu):
    """The GPU and what drives it."""
    device = gpu.cuda.get_current_device()
    major, minor = device.compute_capability
    name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
    return {
        "name": name, "arch": f"sm_{major}{minor}", "processors": int(device.MULTIPROCESSOR_COUNT),
        "clock": 1e3 * device.CLOCK_RATE, "memory": int(gpu.cuda.current_context().get_memory_info().total),
        "l2": int(device.L2_CACHE_SIZE), "driver": driver(), "system": machine.describe()["system"],
        "processor": machine.processor(), "packages": {name: machine.version(name) for name in PACKAGES}, "smi": [smi()],
    }  # fmt: skip


def driver():
    """The driver's version, as nvidia-smi has it."""
    return asked_smi("driver_version")


def smi():
    """{what: how it is now} of clocks, power and temperature."""
    said = asked_smi(SMI)
    return said and dict(zip(SMI.split(","), map(str.strip, said.split(",")), strict=False))


def asked_smi(what):
    """What nvidia-smi says of the first GPU; None where it says nothing."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        said = subprocess.run([tool, f"--query-gpu={what}", "--format=csv,noheader"], capture_output=True, text=True, timeout=20,
                              check=True).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return said.strip().splitlines()[0] if said.strip() else None
