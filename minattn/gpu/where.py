"""Where kernels run: what a place must do, and the plainest place there is.

`device.Gpu` is a GPU, `simulated.Simulated` the simulator on NumPy arrays. What brings a problem to kernels speaks to either,
so all of it but the machine itself is tested without a GPU.
"""
from typing import Any, Protocol

import numpy as np


class Place(Protocol):
    """Somewhere that kernels run, on one stream: what is asked for is done in order."""

    def put(self, array: np.ndarray) -> Any:
        """The array there, in one piece."""

    def get(self, array: Any) -> np.ndarray:
        """An array of that place as NumPy's; waits until it is computed."""

    def empty(self, size: int, dtype) -> Any:
        """A flat array there, whose numbers are anything."""

    def zeros(self, size: int, dtype) -> Any:
        """A flat array there, of zeros."""

    def run(self, launch) -> None:
        """Begin a `problem.Launch`, whose arrays are of that place."""

    def wait(self) -> None:
        """Until all of that is done."""


class Host:
    """NumPy's arrays as they are: kernels are described here, but none runs."""

    def put(self, array):
        return np.ascontiguousarray(array)

    def get(self, array):
        return array

    def empty(self, size, dtype):
        return np.zeros(size, dtype)

    def zeros(self, size, dtype):
        return np.zeros(size, dtype)


def sent(arrays, place):
    """A named tuple of arrays and numbers, such as `problem.Given`, with its arrays put to a place."""
    return type(arrays)(*(place.put(a) if isinstance(a, np.ndarray) else a for a in arrays))
