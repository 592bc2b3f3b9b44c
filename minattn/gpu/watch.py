"""Arrays that know who touched them: every access is counted, held against its bounds, and set against the others' accesses.

Two accesses of one element by two threads, at least one of them a write, are a *race* unless something orders them: a
barrier of their block between the two, or for threads of one warp a warp-wide operation. Atomic operations do not race with
each other. Threads of two blocks are never ordered within a launch.
"""
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = str(Path(__file__).parent)
OWN = {f"{HERE}/{name}.py" for name in ("watch", "toolkit", "instructions", "simulator")}    # no kernel stands in these files
NAN_BITS = 0x7FFF                                                     # NaN, in both formats of 16 bits
SITES: dict = {}                                                      # the Site of an instruction: finding its line takes time
LINES: dict = {}                                                      # each Site, made once


class Site(NamedTuple):
    """A line of the kernel, or of a function that it calls."""

    file: str
    line: int


class Access(NamedTuple):
    """Who touched an element, when and where."""

    thread: object
    epoch: int                                                        # barriers of the block so far
    warp_epoch: int                                                   # warp-wide operations of the thread's warp so far
    site: Site
    atomic: bool


def site():
    """The line of the kernel that is at work."""
    frame: Any = sys._getframe(1)
    while frame.f_code.co_filename in OWN:
        frame = frame.f_back
    key = id(frame.f_code), frame.f_lasti
    found = SITES.get(key)
    if found is None or found[0] is not frame.f_code:
        made = Site(frame.f_code.co_filename, frame.f_lineno)
        found = SITES[key] = frame.f_code, LINES.setdefault(made, made)
    return found[1]


class Watched:
    """An array as a kernel sees it, in global or shared memory.

    Parameters
    ----------
    array : array
        The numbers; a global one is the caller's own and is written in place.
    name, space : str
        What problems call it, and "global" or "shared".
    launch : the launch that it belongs to
        It has `.thread`, who runs now, `.ledger` and `.report`.
    filled : bool
        Whether it holds anything yet; reading an element of one that does not, before a write, is a problem.
    """

    def __init__(self, array, name, space, launch, filled=True):
        self.array, self.name, self.space, self.launch, self.filled = array, name, space, launch, filled
        self.shape, self.size, self.ndim, self.dtype = array.shape, array.size, array.ndim, array.dtype
        self.flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
        self.writers: dict = {}                                       # element: its last Access that wrote
        self.readers: dict = {}                                       # element: the Accesses that read it since

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        where = site()
        place = self.locate(index, "read")
        if place is None:
            return self.dtype.type(np.nan) if self.dtype.kind == "f" else self.dtype.type(0)
        self.reads(place, where)
        return self.flat[place]

    def __setitem__(self, index, value):
        where = site()
        place = self.locate(index, "write")
        if place is not None:
            self.writes(place, where)
            self.flat[place] = value

    def atomic(self, index, update):
        """Replace an element by `update(it)` with nobody in between; returns what was there."""
        where = site()
        place = self.locate(index, "write")
        if place is None:
            return self.dtype.type(0)
        self.writes(place, where, atomic=True)
        old = self.flat[place]
        self.flat[place] = update(old)
        return old

    def begin(self, index):
        """A write that goes on until the element is set: from here on it is nobody else's, and holds NaN."""
        where = site()
        place = self.locate(index, "write")
        if place is not None:
            self.writes(place, where, counted=False)
            self.flat[place] = np.nan if self.dtype.kind == "f" else NAN_BITS

    def locate(self, index, action):
        if self.ndim == 1 and type(index) is int and 0 <= index < self.size:
            return index
        return flat_index(self, index, action)

    def reads(self, place, where):
        thread = self.launch.thread
        last = self.writers.get(place)
        if last is None and not self.filled:
            self.launch.report("read before any write", where, self, place)
        elif last is not None and not ordered(last, thread):
            self.launch.report("race", where, self, place, last, f"reads what {last.thread} wrote")
        access, readers = thread.access(where, False), self.readers.setdefault(place, [])
        if not readers or readers[-1] is not access:
            readers.append(access)
        self.launch.ledger.count(thread, self, "read", place, where)

    def writes(self, place, where, atomic=False, counted=True):
        thread = self.launch.thread
        last = self.writers.get(place)
        if last is not None and not ordered(last, thread) and not (atomic and last.atomic):
            self.launch.report("race", where, self, place, last, f"writes over what {last.thread} wrote")
        for reader in self.readers.pop(place, ()):
            if not ordered(reader, thread):
                self.launch.report("race", where, self, place, reader, f"writes over what {reader.thread} read")
        self.writers[place] = thread.access(where, atomic)
        if counted:
            self.launch.ledger.count(thread, self, "atomic" if atomic else "write", place, where)


class Local:
    """An array of one thread: nobody else reads it, so only its bounds and what was never written are watched."""

    def __init__(self, shape, dtype, name, launch):
        self.shape, self.dtype, self.name, self.launch = shape, dtype, name, launch
        self.kind, self.numbers = dtype.type, [None] * math.prod(shape)
        self.straight = len(self.numbers) if len(shape) == 1 else 0    # below this, an index is a place

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        if type(index) is int and 0 <= index < self.straight:
            place = index
        else:
            place = flat_index(self, index, "read")
        number = None if place is None else self.numbers[place]
        if number is None:
            if place is not None:
                self.launch.report("read before any write", site(), self, place)
            return self.kind(np.nan if self.dtype.kind == "f" else 0)
        return number

    def __setitem__(self, index, value):
        if type(index) is int and 0 <= index < self.straight:
            place = index
        else:
            place = flat_index(self, index, "write")
        if place is not None:
            self.numbers[place] = value if type(value) is self.kind else self.kind(value)


def flat_index(array, index, action):
    """The place of an element, or None, with a problem on record, if there is none."""
    index = index if isinstance(index, tuple) else (index,)
    if len(index) != len(array.shape):
        raise IndexError(f"{array.name} has {len(array.shape)} axes and is indexed with {len(index)}")
    place = 0
    for i, length in zip(map(int, index), array.shape, strict=True):
        if not 0 <= i < length:
            kind = "negative index" if i < 0 else "index out of range"
            asked = ", ".join(str(int(n)) for n in index)
            array.launch.report(kind, site(), array, detail=f"{action}s [{asked}] of shape {array.shape}")
            return None
        place = place * length + i
    return place


def ordered(access, thread):
    """Whether an earlier access is known to have happened before what `thread` does now."""
    if access.thread is thread:
        return True
    if access.thread.block is not thread.block:
        return False
    return access.epoch != thread.block.epoch or (
        access.thread.warp is thread.warp and access.warp_epoch != thread.warp.epoch
    )
