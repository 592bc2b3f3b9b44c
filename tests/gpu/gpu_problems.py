"""The drawn problems of the GPU's own checks, and launches on a simulated GPU."""
from minattn.bench.gpu.problems import (
    CASES,
    RECURRENCES,
    as_numbers,
    before_backward,
    drawn,
    drawn_recurrence,
    expected,
    expected_recurrence,
)
from minattn.gpu.simulator import simulate

__all__ = ["CASES", "RECURRENCES", "as_numbers", "before_backward", "drawn", "drawn_recurrence", "expected",
           "expected_recurrence", "run"]  # fmt: skip


def run(launches, order="ascending"):
    """Simulate launches one after the other; their reports."""
    return [simulate(launch.kernel, launch.grid, launch.block, *launch.arguments, order=order) for launch in launches]
