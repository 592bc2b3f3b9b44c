"""The simulator as a place where kernels run (where.py): what a GPU leaves undefined is an error here."""
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

    def __init__(self, order="ascending"):
        self.order, self.reports = order, []                          # a Report of every launch so far

    def empty(self, size, dtype):
        """Filled with what shows where it is taken for a result: NaN, or all bits set."""
        dtype = np.dtype(dtype)
        return np.full(size, np.nan if dtype.kind == "f" else np.iinfo(dtype).max, dtype)

    def run(self, launch):
        report = simulate(launch.kernel, launch.grid, launch.block, *launch.arguments, order=self.order)
        self.reports.append(report)
        if report.problems:
            raise KernelError(f"{launch.kernel.__name__}: {report.problems[0]}")
