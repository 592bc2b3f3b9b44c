"""The simulator as a place where kernels run (where.py): what a GPU leaves undefined is an error here."""
from types import SimpleNamespace

import numpy as np

from ..core.errors import KernelError
from .simulator import simulate
from .where import Host


class Simulated(Host):
    """NumPy's arrays, and kernels simulated on them.

    Parameters
    ----------
    order : {"ascending", "descending"} or int
        Of the threads, as `simulate` takes it.
    """

    device = "simulated"

    def __init__(self, order="ascending"):
        self.order, self.reports = order, []                          # a Report of every launch so far

    def empty(self, size, dtype):
        """Filled with what shows where it is taken for a result: NaN, or all bits set."""
        dtype = np.dtype(dtype)
        return np.full(size, np.nan if dtype.kind == "f" else np.iinfo(dtype).max, dtype)

    def run(self, launch):
        report = simulate(launch.kernel, launch.grid, launch.block, *map(here, launch.arguments), order=self.order)
        self.reports.append(report)
        if report.problems:
            raise KernelError(f"{launch.kernel.__name__}: {report.problems[0]}")

    def get(self, array):
        return here(array)

    def clear(self, array):
        here(array)[:] = 0

    def wait(self):
        """What was begun has ended."""


def here(argument):
    """What stands for an array of a GPU, with an address of this machine's memory, as NumPy's array of the same numbers."""
    if hasattr(argument, "_fields"):
        return type(argument)(*map(here, argument))
    if isinstance(argument, np.ndarray) or not hasattr(argument, "__cuda_array_interface__"):
        return argument
    told = {**argument.__cuda_array_interface__, "version": 3}
    if not told["data"][0]:                                           # nothing has no address
        return np.empty(told["shape"], told["typestr"])
    return np.asarray(SimpleNamespace(__array_interface__=told))
