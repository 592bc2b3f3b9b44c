"""What a check is, and what it gets.

    check    one question: a function of a place that gives answers
    answer   an array beside what it should be, and a limit of how far off it may be: 0, and the bits have to be the same
    error    the largest difference over the largest number wanted (1 at least); of a limit of 0, how many numbers differ
    group    the checks that share a process, so that a kernel which breaks the GPU's context takes no other group with it
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

EXACT, HALF = 1e-5, 5e-3                                              # limits for float32, and for numbers of 16 bits
LESS = 3                                                              # dims that a head is shorter than the kernel's D
TENSOR_CORES = (8, 0)                                                 # the compute capability that kernel 5 needs
NEW = "tensor", "careful", "instructions", "front door"               # what needs it


class Answer(NamedTuple):
    what: str
    got: np.ndarray
    wanted: np.ndarray
    limit: float

    @property
    def error(self):
        if self.limit == 0:
            return float((self.got != self.wanted).sum())
        got, wanted = np.asarray(self.got, np.float64), np.asarray(self.wanted, np.float64)
        finite = np.isfinite(wanted)
        if (np.isfinite(got) != finite).any() or (got[~finite] != wanted[~finite]).any():
            return math.inf
        return float(np.abs(got[finite] - wanted[finite]).max(initial=0) / max(1, np.abs(wanted[finite]).max(initial=0)))


class Check(NamedTuple):
    group: str
    name: str
    ask: Callable                                                     # of a place: a list of answers


def lacks(what, place):
    """Why this GPU cannot be asked for a group of checks, or for a kernel; nothing if it can."""
    if not what.startswith(NEW) or not hasattr(place, "cuda"):
        return ""
    has = tuple(place.cuda.get_current_device().compute_capability)
    return "" if has >= TENSOR_CORES else f"needs compute capability {TENSOR_CORES}, and this GPU has {has}"
