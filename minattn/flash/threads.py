"""How threads share work: whoever is free takes the next task, so uneven tasks (causal ones) even out by themselves.

Which thread runs a task changes nothing in its result: tasks write to different places and add nothing up between them.
"""
import os
import threading
import warnings

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_at_a_time = threading.RLock()
_lost = False                         # this process is a fork of one that had threads: GNU OpenMP ends it if it asks for more


def run(kernel, *arguments):
    """One kernel at a time: each takes all threads, and Numba's own work queue would end a process that starts two."""
    with _at_a_time:
        kernel(*arguments)


def can_start():
    """Whether a kernel can run here; False, with a warning, in a forked process that has lost its threads."""
    if _lost:
        warnings.warn("this process was forked after its parent used threads, which do not survive that, so NumPy computes, "
                      "slower; start processes with multiprocessing.get_context('spawn')", stacklevel=5)  # fmt: skip
    return not _lost


def _after_fork():
    global _at_a_time, _lost
    _at_a_time = threading.RLock()    # another thread of the parent may have held it
    try:
        _lost = numba.threading_layer() == "omp"
    except ValueError:                # none was started yet
        pass


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@intrinsic
def take(context, counter):
    """The next task number, from a counter that all threads count up: counter[0]++, as one indivisible step."""

    def code(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), code
