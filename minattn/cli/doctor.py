"""`minattn doctor`: what is on this machine, and what to do about what is missing.

Versions are read from package metadata; only Numba is imported, to ask where its compiled kernels lie.
"""
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from typing import NamedTuple

import numpy as np

from ..core.errors import WeightsError

LESSONS = "pip install 'minattn[lessons]'"


class Finding(NamedTuple):
    """One row: `state` is "ok", "missing" (the lessons need it) or "absent" (they do not)."""

    part: str
    state: str
    found: str
    advice: str = ""


def add(commands):
    """Declare the command."""
    parser = commands.add_parser("doctor", help="say what is installed and what to do about what is missing")
    parser.set_defaults(run=run)


def run(options):
    """Print the table; 1 where something is missing that the lessons need, else 0."""
    findings = examine()
    for part, state, found, advice in findings:
        print(f"{state:<8} {part:<12} {found}{'  ->  ' if advice else ''}{advice}")
    missing = [finding.part for finding in findings if finding.state == "missing"]
    print(f"\nThe lessons need: {', '.join(missing)}." if missing else "\nAll that the lessons need is here.")
    return 1 if missing else 0


def examine():
    """Every finding, in the order of the table."""
    return [
        Finding("Python", "ok", f"{platform.python_version()} ({sys.executable})"),
        Finding("NumPy", "ok", f"{np.__version__}, BLAS {blas()}"),
        threads(),
        package("matplotlib", "pictures", LESSONS),
        package("tokenizers", "the model's tokenizer", LESSONS),
        package("safetensors", "Hugging Face weight files", LESSONS),
        package("jupyterlab", "minattn learn", LESSONS),
        package("pip", "minattn fetch", "python -m ensurepip, or uv pip install pip"),
        weights(),
        kernels(),
        package("torch", "an oracle in the tests", "pip install 'minattn[dev]'"),
        gpu(),
        mpi(),
    ]


def package(name, purpose, advice=""):
    """An installed package by its metadata; the lessons' own are missing without it, others merely absent."""
    try:
        return Finding(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        state = "missing" if advice == LESSONS else "absent"
        return Finding(name, state, f"not installed ({purpose})", advice)


def blas():
    """The library that NumPy multiplies matrices with."""
    found = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    return f"{found.get('name', 'unknown')} {found.get('version', '')}".strip()


def threads():
    """How many threads that library may start."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS")
    limits = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
    return Finding("threads", "ok", f"{cores} cores, {', '.join(limits) or 'no limit set: BLAS uses them all'}")


def weights():
    """SmolLM2's file, and whether it is the one that was published."""
    from ..models import download

    path = download.find("smollm2")
    if path is None:
        return Finding("SmolLM2", "absent", "not fetched; lessons read their stored maps", "minattn fetch smollm2")
    try:
        download.check(path, "smollm2")
    except WeightsError:
        return Finding("SmolLM2", "missing", f"{path} is not the file that was published", "minattn fetch smollm2")
    return Finding("SmolLM2", "ok", f"{path}, sha256 as published")


def kernels():
    """Numba, and which of the kernels need not be compiled any more."""
    numba = package("numba", "kernels for backend='cpu' and minattn bench")
    if numba.state != "ok":
        return numba
    try:
        from ..flash import compile as compiling
    except (ImportError, OSError) as error:
        return Finding("numba", "absent", f"{numba.found} is installed but does not load: {error}", "pip install --upgrade numba")
    names, advice = compiling.kept(), ""
    if not names and not compiling.writable():
        advice = "set NUMBA_CACHE_DIR to a folder that can be written to"
    compiled = f"compiled: {', '.join(names)}" if names else "no kernel compiled yet: the first call of each waits about 10 s"
    return Finding("numba", "ok", f"{numba.found}; {compiled} (cache: {compiling.folder()})", advice)


def gpu():
    """What the NVIDIA driver's own tool says."""
    nothing = Finding("GPU", "absent", "no NVIDIA GPU found; nothing in this version needs one")
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return nothing
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("GPU", "absent", f"nvidia-smi fails: {error}", "look at the driver")
    return Finding("GPU", "ok", "; ".join(said.splitlines())) if said else nothing


def mpi():
    """The launcher, and Python's face to it."""
    launcher, face = shutil.which("mpiexec"), package("mpi4py", "several machines")
    if launcher and face.state == "ok":
        return Finding("MPI", "ok", f"{launcher}, mpi4py {face.found}")
    lacking = " and ".join(name for name, has in (("mpiexec", launcher), ("mpi4py", face.state == "ok")) if not has)
    return Finding("MPI", "absent", f"no {lacking}; nothing in this version needs it")
