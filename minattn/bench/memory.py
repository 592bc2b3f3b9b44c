"""The most memory that this process has held, in bytes, as the operating system counts it.

NumPy, Numba and PyTorch each allocate in their own way; only the system sees all of it. Linux keeps the largest
resident size (VmHWM) and sets it back when asked. Elsewhere getrusage keeps one that is never set back, so that a
process can be measured once, and only if nothing before was larger.
"""
import sys
from pathlib import Path

from .rivals import Absent

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset():
    """Forget the largest size so far; returns what is held now."""
    try:
        CLEAR.write_text("5")
        return status("VmRSS")
    except OSError:
        return peak()


def peak():
    """The largest size since `reset`, where it could be set back, else since the process began."""
    if STATUS.exists():
        return status("VmHWM")
    try:
        import resource
    except ImportError as error:
        raise Absent("peak memory cannot be read on this system") from error
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def status(name):
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
