"""What this machine is: the words that stand beside every number."""
import os
import platform
from importlib import metadata

import numpy as np

PACKAGES = ("numpy", "numba", "torch")


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor():
    """The processor's own name, as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe():
    """Processor, cores, vector extensions that NumPy found, system, versions (None: not installed), load at the start."""
    simd = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    return {
        "processor": processor(), "architecture": platform.machine(), "cores": cores(), "simd": list(simd)[-3:],
        "system": platform.system(), "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
