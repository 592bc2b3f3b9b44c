"""Arrays that know who touched them: every access is counted, held against its bounds, and set against the others' accesses.

Two accesses of one element by two threads, at least one of them a write, are a *race* unless something orders them: a
barrier of their block between the two, or for threads of one warp a warp-wide operation. Atomic operations do not race with
each other. Threads of two blocks are never ordered within a launch.
"""
import linecache
import math
import re
from pathlib import Path
from sys import _getframe as getframe
from typing import Any, NamedTuple

import numpy as np

HERE = str(Path(__file__).parent)
OWN = {f"{HERE}/{name}.py" for name in ("watch", "toolkit", "instructions", "simulator")}    # no kernel stands in these files
NAN_BITS = 0x7FFF                                                     # NaN, in both formats of 16 bits
SITES: dict = {}                                                      # the Site of an instruction: finding its line takes time
NOWHERE = None, None, None
LINES: dict = {}                                                      # each Site, made once


class Site(NamedTuple):
    """A line of the kernel, or of a function that it calls."""

    file: str
    line: int


class Access:
    """Who touched elements, when and where: one for all that a thread touches at a line between two barriers."""

    __slots__ = ("atomic", "block", "epoch", "site", "thread", "warp_epoch")

    def __init__(self, thread, site, atomic):
        self.thread, self.block, self.site, self.atomic = thread, thread.block, site, atomic
        self.epoch, self.warp_epoch = thread.block.epoch, thread.warp.epoch   # barriers, and syncwarps of the warp, so far


def site():
    """The line of the kernel that is at work."""
    return site_of(getframe(1))


def site_of(frame: Any):
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
        self.straight = array.size if array.ndim == 1 else 0          # below this, an index is a place
        self.number = id(self)
        self.flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
        self.writers: dict = {}                                       # element: its last Access that wrote
        self.readers: dict = {}                                       # element: the Accesses that read it since

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        place = index if type(index) is int and 0 <= index < self.straight else flat_index(self, index, "read")
        if place is None:
            return self.dtype.type(np.nan) if self.dtype.kind == "f" else self.dtype.type(0)
        frame, thread = getframe(1), self.launch.thread
        access, note, code = thread.spots.get((frame.f_lasti, self.number), NOWHERE)
        if code is not frame.f_code:
            access, note = self.spot(frame, thread, "read")
        last = self.writers.get(place)
        if last is None:
            if not self.filled:
                self.launch.report("read before any write", access.site, self, place)
        elif last.thread is not thread and not ordered(last, access):
            self.launch.report("race", access.site, self, place, last, f"reads what {last.thread} wrote")
        readers = self.readers.get(place)
        if readers is None:
            self.readers[place] = [access]
        elif readers[-1] is not access:
            readers.append(access)
        note(place)
        return self.flat[place]

    def __setitem__(self, index, value):
        place = index if type(index) is int and 0 <= index < self.straight else flat_index(self, index, "write")
        if place is None:
            return
        frame, thread = getframe(1), self.launch.thread
        access, note, code = thread.spots.get((frame.f_lasti, self.number), NOWHERE)
        if code is not frame.f_code:
            access, note = self.spot(frame, thread, "write")
        self.writes(place, access)
        note(place)
        self.flat[place] = value

    def spot(self, frame, thread, kind):
        """(Access, what counts a place) of a thread at an instruction. Remembered until the next barrier, since loops come back;
        a twin's own instructions are not, as many lines of a kernel lead to them."""
        where = site_of(frame)
        found = thread.access(where, kind == "atomic"), self.launch.ledger.visits(thread, where, self, kind).append
        if frame.f_code.co_filename not in OWN:
            thread.spots[frame.f_lasti, self.number] = *found, frame.f_code
        return found

    def atomic(self, index, update):
        """Replace an element by `update(it)` with nobody in between; returns what was there."""
        place = flat_index(self, index, "write")
        if place is None:
            return self.dtype.type(0)
        access, note = self.spot(getframe(1), self.launch.thread, "atomic")
        self.writes(place, access)
        note(place)
        old = self.flat[place]
        self.flat[place] = update(old)
        return old

    def begin(self, index):
        """A write that goes on until the element is set: from here on it is nobody else's, and holds NaN."""
        place = flat_index(self, index, "write")
        if place is not None:
            self.writes(place, self.launch.thread.access(site(), False))
            self.flat[place] = np.nan if self.dtype.kind == "f" else NAN_BITS

    def writes(self, place, access):
        thread, last = access.thread, self.writers.get(place)
        if last is not None and last.thread is not thread and not ordered(last, access) and not (access.atomic and last.atomic):
            self.launch.report("race", access.site, self, place, last, f"writes over what {last.thread} wrote")
        for reader in self.readers.pop(place, ()):
            if reader.thread is not thread and not ordered(reader, access):
                self.launch.report("race", access.site, self, place, reader, f"writes over what {reader.thread} read")
        self.writers[place] = access


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


def ordered(earlier, access):
    """Whether an earlier access is known to have happened before this one."""
    if earlier.thread is access.thread:
        return True
    if earlier.block is not access.block:
        return False
    return earlier.epoch != access.epoch or (
        earlier.thread.warp is access.thread.warp and earlier.warp_epoch != access.warp_epoch
    )


def plain(dtype):
    """NumPy's type; Numba's have the same names."""
    return np.dtype(getattr(dtype, "name", dtype))


def named(space):
    """What the kernel's line calls the array that it makes."""
    found = re.match(r"\s*(\w+)\s*=", linecache.getline(*site()))
    return found[1] if found else f"a {space} array"
