"""A GPU on any machine: the threads of a kernel take turns in this process, and whatever they do wrong is named.

A kernel is a plain Python function over a global name `cuda`, as it would be given to `cuda.jit`. Each CUDA thread is a
greenlet that runs until it waits for others, at a barrier or a warp-wide operation; the order of the turns is chosen, so a
run is the same each time. What a real GPU leaves undefined is reported with thread, line and array: races, memory read
before it is written, barriers that not all threads reach, indices outside of an array. The ledger counts what is moved.

    block   threads that share memory and barriers        warp   32 of them, its lanes
"""
import contextvars
import math
import traceback
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.errors import DependencyError, KernelError, OptionError
from .ledger import WARP, Ledger
from .report import Problem, Report
from .toolkit import Cuda, bind
from .watch import OWN, Access, Local, Watched, named, plain

try:
    import greenlet
except ImportError as error:
    raise DependencyError("the GPU simulator needs greenlet: pip install 'minattn[lessons]'") from error


def simulate(kernel, grid, block, *arguments, order="ascending"):
    """Run a CUDA kernel in this process, and report what it does wrong and what it moves.

    Parameters
    ----------
    kernel : function
        As it would be given to `cuda.jit`: a plain function whose global or closure variable `cuda` is replaced.
    grid, block : int or tuple of up to three ints
        Blocks in the launch, and threads in a block, at most 1024.
    *arguments : arrays, numbers, and named tuples of them
        Arrays are global memory and are written in place.
    order : {"ascending", "descending"} or int
        In which order blocks run and their threads take turns; an int is the seed of a random order, drawn anew each time.

    Returns
    -------
    Report(problems, ledger)
        A block with a divergent barrier stops there; the others run. No problems means that none was seen on these inputs.

    Raises
    ------
    OptionError
        If grid, block, order or the number of arguments is none that a launch can have.
    KernelError
        If the kernel itself raises; the text names thread and line.

    Examples
    --------
    >>> import numpy as np
    >>> from minattn.gpu.simulator import simulate
    >>> cuda = None                                                   # the simulator puts its own in its place
    >>> def reverse(x):
    ...     t = cuda.threadIdx.x
    ...     y = cuda.shared.array(8, np.float32)
    ...     y[t] = x[t]                                               # cuda.syncthreads() is missing after this line
    ...     x[t] = y[7 - t]
    >>> simulate(reverse, 1, 8, np.arange(8, dtype=np.float32)).kinds
    ('read before any write', 'race')
    """
    launch = Launch(kernel, extent("grid", grid), extent("block", block), arguments, order)
    with np.errstate(all="ignore"):                                   # a GPU does not warn of an overflow
        launch.run()
    return Report(tuple(launch.problems.values()), launch.ledger)


def extent(name, given):
    """(x, y, z) from an int or a tuple."""
    sizes = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    if not 1 <= len(sizes) <= 3 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in sizes):
        raise OptionError(f"{name} is {given!r}; it must be one to three positive integers")
    if name == "block" and math.prod(map(int, sizes)) > 1024:
        raise OptionError(f"block is {given!r}, {math.prod(map(int, sizes))} threads; a block has at most 1024")
    return (*map(int, sizes), 1, 1)[:3]


class Block:
    """Threads with a barrier and shared memory in common."""

    def __init__(self, index):
        self.index, self.epoch = index, 0
        self.threads: list = []
        self.warps: list = []
        self.shared: dict = {}                                        # n: the n-th shared array that its threads ask for


class Warp:
    """Up to 32 threads of a block."""

    def __init__(self, block):
        self.block, self.epoch = block, 0
        self.threads: list = []


class Thread:
    """One CUDA thread: who it is, what it waits for, and the answer that it will get."""

    def __init__(self, index, rank, warp, run, context):
        self.index, self.lane, self.rank, self.warp, self.block = index, rank % WARP, rank, warp, warp.block
        self.accesses: dict = {}
        self.spots: dict = {}                                         # what watch.py remembers of it until the next barrier
        self.arrays, self.turn = 0, greenlet.greenlet(run)
        self.turn.gr_context = context
        self.copies: list = []                                        # asynchronous ones, not yet waited for
        self.waits: Any = None
        self.answer: Any = None

    def access(self, where, atomic):
        """This thread at a line now: one Access between two times that memory is ordered, however much it touches."""
        if (where, atomic) not in self.accesses:
            self.accesses[where, atomic] = Access(self, where, atomic)
        return self.accesses[where, atomic]

    def forget(self):
        """Memory is ordered here: what it touches from now on is touched at another time."""
        self.accesses.clear()
        self.spots.clear()

    def __str__(self):
        return f"thread {self.index} of block {self.block.index}"

    @property
    def ended(self):
        return self.turn.dead


class Stop(Exception):
    """The block cannot go on; why is on record."""


class Launch:
    """One launch: blocks one after the other, the threads of a block in turns."""

    def __init__(self, kernel, grid, block, arguments, order):
        if order not in ("ascending", "descending") and not isinstance(order, (int, np.integer)):
            raise OptionError(f"order is {order!r}; it must be 'ascending', 'descending' or the seed of a random one")
        names = kernel.__code__.co_varnames[: kernel.__code__.co_argcount]
        if len(names) != len(arguments):
            raise OptionError(f"{kernel.__name__} takes {len(names)} arguments ({', '.join(names)}); {len(arguments)} are given")
        self.grid, self.size, self.order = grid, block, order
        self.rng = np.random.default_rng(None if isinstance(order, str) else order)
        self.problems: dict = {}
        self.thread: Any = None                                       # whose turn it is, or was last
        self.ledger, self.main = Ledger(), greenlet.getcurrent()
        self.kernel = bind(kernel, Cuda(self))
        self.arguments = [self.watched(a, name) for name, a in zip(names, arguments, strict=True)]

    def watched(self, argument: Any, name):
        """An array as global memory; a named tuple with its arrays so."""
        if isinstance(argument, np.ndarray):
            return Watched(argument, name, "global", self)
        if hasattr(argument, "_fields"):
            return type(argument)(*map(self.watched, argument, argument._fields))
        return argument

    def run(self):
        context = contextvars.copy_context()                          # NumPy's settings among it: a GPU does not warn
        for index in self.in_order(list(np.ndindex(self.grid[::-1]))):
            block = Block(index[::-1])
            for rank, place in enumerate(np.ndindex(self.size[::-1])):
                if rank % WARP == 0:
                    block.warps.append(Warp(block))
                thread = Thread(place[::-1], rank, block.warps[-1], lambda: self.kernel(*self.arguments), context)
                block.threads.append(thread)
                block.warps[-1].threads.append(thread)
            try:
                while not all(thread.ended for thread in block.threads):
                    self.round(block)
            except Stop:
                pass
            finally:
                for thread in block.threads:                          # where the block stopped, none of them runs on
                    thread.turn.throw(greenlet.GreenletExit)
            self.ledger.close(block)

    def round(self, block):
        """A turn for everyone who can run, then an answer for those who have all come."""
        ready = [thread for thread in block.threads if not thread.ended and thread.waits is None]
        for thread in self.in_order(ready):
            self.resume(thread)
        met = [self.meet(warp.threads) for warp in block.warps]
        if not any(met) and not self.barrier(block) and any(not thread.ended for thread in block.threads):
            self.stuck(block)

    def in_order(self, those):
        """Blocks or threads in the order asked for."""
        if self.order == "ascending":
            return those
        return those[::-1] if self.order == "descending" else [those[i] for i in self.rng.permutation(len(those))]

    def resume(self, thread):
        """Let a thread run until it waits or ends."""
        self.thread, answer, thread.answer = thread, thread.answer, None
        try:
            thread.turn.switch(answer) if thread.turn else thread.turn.switch()
        except Exception as error:
            last = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in OWN][-1]
            where = f"line {last.lineno} of {last.name}"
            raise KernelError(f"{thread} raised {type(error).__name__}: {error} ({where})") from error

    def wait(self, request):
        """A thread waits: the others go on until its request is answered."""
        self.thread.waits = request
        return self.main.switch()

    def meet(self, lanes):
        """Answer a warp-wide operation whose lanes have all come; whether there was one."""
        for thread in lanes:
            wanted = thread.waits
            if wanted is None or wanted.mask is None:
                continue
            if not wanted.mask >> thread.lane & 1:
                self.stop("lane outside of its own mask", thread, f"calls {wanted.kind} with mask {wanted.mask:#x}")
            called = [other for other in lanes if wanted.mask >> other.lane & 1 and not other.ended]     # CUDA waits for no other
            if all(wanted.meets(other.waits) for other in called):
                if wanted.kind == "syncwarp" and len(called) == len(lanes):
                    thread.warp.epoch += 1                            # the one of them that orders memory
                    for lane in lanes:
                        lane.forget()
                self.release(called, "lane")
                return True
        return False

    def barrier(self, block):
        """Open the barrier if all threads stand at it; whether they do."""
        alive = [thread for thread in block.threads if not thread.ended]
        if not alive or not all(thread.waits and thread.waits.mask is None for thread in alive):
            return False
        first = alive[0]
        if apart := [thread for thread in alive if not first.waits.meets(thread.waits)]:
            self.stop("divergent barrier", apart[0], f"waits here, and {first} at line {first.waits.site.line}")
        if gone := [thread for thread in block.threads if thread.ended]:
            self.stop("early return past a barrier", first, f"waits for {gone[0]}, which has ended; older GPUs hang here")
        block.epoch += 1
        for thread in alive:
            thread.forget()
        self.ledger.close(block)
        self.release(alive, "rank")
        return True

    def release(self, threads, key):
        results = threads[0].waits.answer({getattr(thread, key): thread.waits.value for thread in threads})
        for thread in threads:
            thread.waits, thread.answer = None, results[getattr(thread, key)]

    def stuck(self, block):
        """Everybody waits, and not for the same."""
        waiting = {thread.waits.site: thread for thread in block.threads if thread.waits is not None and not thread.ended}
        (_, one), *others = waiting.items()
        told = "; ".join(f"{thread} at line {where.line} ({thread.waits.kind})" for where, thread in others)
        self.stop("divergent barrier", one, f"waits for {one.waits.kind} here, and {told}")

    def stop(self, kind, thread, detail):
        self.thread = thread
        self.report(kind, thread.waits.site, detail=detail)
        raise Stop

    def report(self, kind, where, array=None, place=None, other=None, detail=""):
        """Put a problem on record; the same one at the same lines is counted."""
        name = None if array is None else array.name
        key = kind, name, where, other and other.site
        if key in self.problems:
            self.problems[key] = replace(self.problems[key], count=self.problems[key].count + 1)
            return
        if place is not None:
            element = ", ".join(str(int(n)) for n in np.unravel_index(place, array.shape))
            detail = f"{detail or 'reads'} [{element}]"
        if other is not None:
            detail += f" (line {other.site.line}), and nothing orders the two"
        self.problems[key] = Problem(kind, name, where, str(self.thread), detail)

    # the memory that a kernel asks for

    def shared(self, shape, dtype, alignment=None):
        """The block's array: the n-th call of each of its threads gives the same one."""
        thread, n = self.thread, self.thread.arrays
        thread.arrays += 1
        if n not in thread.block.shared:
            name, dtype = named("shared"), plain(dtype)
            blank = np.full(shape, np.nan if dtype.kind == "f" else 0, dtype)
            thread.block.shared[n] = Watched(blank, name, "shared", self, filled=False)
        return thread.block.shared[n]

    def local(self, shape, dtype, alignment=None):
        return Local(shape if isinstance(shape, tuple) else (shape,), plain(dtype), named("local"), self)
