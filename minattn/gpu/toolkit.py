"""What a kernel calls `cuda`, as the simulator has it, and how a function is set over another `cuda`.

Numba's names and meanings, for what kernels here and in the lessons use: indices, barriers, shared and local arrays,
shuffles, votes, atomics. An `Instruction`, for which Numba has no name, is replaced by its twin.
"""
import math
import types
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .instructions import Instruction
from .ledger import WARP
from .watch import Site, site

EVERY_LANE = 2**WARP - 1


@dataclass
class Request:
    """What a thread waits for: all of its block (mask None), or the lanes of its warp that `mask` names."""

    kind: str
    site: Site
    mask: int | None
    value: Any                                                        # what this thread brings
    answer: Any                                                       # {rank or lane: value} -> {rank or lane: result}

    def meets(self, other):
        return other is not None and (self.kind, self.site, self.mask) == (other.kind, other.site, other.mask)


class Index:
    """x, y, z."""

    def __init__(self, xyz):
        self.x, self.y, self.z = xyz


class Cuda:
    """Stands in for numba.cuda inside of a kernel, for the thread whose turn it is."""

    warpsize = WARP

    def __init__(self, launch):
        self._launch = launch
        self.blockDim, self.gridDim = Index(launch.size), Index(launch.grid)
        self.shared = types.SimpleNamespace(array=launch.shared)
        self.local = types.SimpleNamespace(array=launch.local)
        self.atomic = Atomic()

    @property
    def threadIdx(self):
        return Index(self._launch.thread.index)

    @property
    def blockIdx(self):
        return Index(self._launch.thread.block.index)

    @property
    def thread(self):
        return self._launch.thread

    @property
    def laneid(self):
        return self._launch.thread.lane

    def grid(self, ndim):
        """The thread's place in the whole launch."""
        thread, size = self._launch.thread, self._launch.size
        places = [thread.block.index[axis] * size[axis] + thread.index[axis] for axis in range(ndim)]
        return places[0] if ndim == 1 else tuple(places)

    def gridsize(self, ndim):
        sizes = [g * b for g, b in zip(self._launch.grid, self._launch.size, strict=True)]
        return sizes[0] if ndim == 1 else tuple(sizes[:ndim])

    # the whole block

    def syncthreads(self):
        self._ask("syncthreads", None, None, to_all(lambda values: None))

    def syncthreads_count(self, predicate):
        return self._ask("syncthreads_count", None, bool(predicate), to_all(sum))

    def syncthreads_and(self, predicate):
        return self._ask("syncthreads_and", None, bool(predicate), to_all(all))

    def syncthreads_or(self, predicate):
        return self._ask("syncthreads_or", None, bool(predicate), to_all(any))

    # the lanes of a warp

    def syncwarp(self, mask=EVERY_LANE):
        self._ask("syncwarp", mask, None, to_all(lambda values: None))

    def all_sync(self, mask, predicate):
        return self._ask("all_sync", mask, bool(predicate), to_all(all))

    def any_sync(self, mask, predicate):
        return self._ask("any_sync", mask, bool(predicate), to_all(any))

    def ballot_sync(self, mask, predicate):
        def ballot(votes):
            return dict.fromkeys(votes, sum(1 << lane for lane, vote in votes.items() if vote))

        return self._ask("ballot_sync", mask, bool(predicate), ballot)

    def shfl_sync(self, mask, value, source):
        return self._ask("shfl_sync", mask, (value, int(source) % WARP), exchange)

    def shfl_xor_sync(self, mask, value, other):
        return self._ask("shfl_xor_sync", mask, (value, self.laneid ^ int(other)), exchange)

    def shfl_up_sync(self, mask, value, delta):
        source = self.laneid - int(delta)
        return self._ask("shfl_up_sync", mask, (value, source if source >= 0 else self.laneid), exchange)

    def shfl_down_sync(self, mask, value, delta):
        source = self.laneid + int(delta)
        return self._ask("shfl_down_sync", mask, (value, source if source < WARP else self.laneid), exchange)

    def together(self, kind, value, answer):
        """For a twin: all lanes of the warp bring a value, and `answer({lane: value})` is {lane: result}."""
        return self._ask(kind, EVERY_LANE, value, answer)

    def _ask(self, kind, mask, value, answer):
        return self._launch.wait(Request(kind, site(), None if mask is None else int(mask), value, answer))


class Atomic:
    """Read, change and write an element with nobody in between; each returns what was there."""

    def add(self, array, index, value):
        return array.atomic(index, lambda old: old + value)

    def sub(self, array, index, value):
        return array.atomic(index, lambda old: old - value)

    def max(self, array, index, value):
        return array.atomic(index, lambda old: max(old, value))

    def min(self, array, index, value):
        return array.atomic(index, lambda old: min(old, value))

    def exch(self, array, index, value):
        return array.atomic(index, lambda old: value)


def to_all(reduce):
    """An answer that is the same for everyone."""
    return lambda values: dict.fromkeys(values, reduce(values.values()))


def exchange(values):
    """Every lane gets the value of the lane that it names; of one that takes no part a GPU gives anything, here NaN or 0."""
    nothing = {lane: type(mine)(np.nan if isinstance(mine, (float, np.floating)) else 0) for lane, (mine, _) in values.items()}
    return {lane: values[source][0] if source in values else nothing[lane] for lane, (_, source) in values.items()}


def lenient(function):
    """A function of `math` as a GPU has it: inf and NaN where Python raises."""

    def call(*numbers):
        try:
            return function(*numbers)
        except OverflowError:
            return math.inf
        except ValueError:
            return -math.inf if function is math.log and numbers[0] == 0 else math.nan

    return call


MATH = types.SimpleNamespace(**{name: lenient(value) if callable(value) else value for name, value in vars(math).items()})


def whole(kind):
    """`int` in place of a kind of whole numbers: faster, and an index below 0 shows where it would wrap. An array made of it
    has the kind's own size, by its name."""
    made = partial(int)
    made.name = kind.__name__                                         # type: ignore[attr-defined]
    return made


WHOLE = {kind: whole(kind) for kind in (np.int32, np.uint32, np.uint64)}


def bind(function, cuda, wrap=lambda callee: callee, instruction=None):
    """The same function over another `cuda`, and so the functions that it calls from modules with a global `cuda`.

    Parameters
    ----------
    function : function
        It reads `cuda` from its globals or its closure.
    cuda : object
        Takes its place.
    wrap : callable
        Applied to every function that is called, as `numba.cuda.jit(device=True)` on a GPU.
    instruction : callable
        What a GPU has for an `Instruction`; the simulator takes its twin.
    """
    made: dict = {}

    def swap(name, value):
        if name == "cuda":
            return cuda
        if value is math and isinstance(cuda, Cuda):
            return MATH
        if isinstance(value, Instruction):
            return partial(value.twin, cuda) if isinstance(cuda, Cuda) else instruction(value)
        if isinstance(cuda, Cuda) and isinstance(value, type) and value in WHOLE:
            return WHOLE[value]
        if isinstance(value, types.FunctionType) and ("cuda" in value.__globals__ or "cuda" in value.__code__.co_freevars):
            if value not in made:
                made[value] = wrap(over(value))
            return made[value]
        return value

    def over(f):
        names = f.__globals__
        cells = zip(f.__code__.co_freevars, f.__closure__ or (), strict=True)
        closure = tuple(types.CellType(swap(name, cell.cell_contents)) for name, cell in cells)
        used = {name: swap(name, names[name]) for name in f.__code__.co_names if name in names}
        return types.FunctionType(f.__code__, {**names, **used}, f.__name__, f.__defaults__, closure)

    return over(function)
