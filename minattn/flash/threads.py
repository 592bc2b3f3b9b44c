"""How threads share work: whoever is free takes the next task, so uneven tasks (causal ones) even out by themselves.

Which thread runs a task changes nothing in its result: tasks write to different places and add nothing up between them.
"""
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def take(context, counter):
    """The next task number, from a counter that all threads count up: counter[0]++, as one indivisible step."""

    def code(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), code
