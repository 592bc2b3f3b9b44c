"""Kernels as answers: each runs in the GPU's simulator, and what its report names belongs to the answer.

An answer is right if the numbers are, and if the simulator saw nothing wrong: a race may give the right numbers on one
order of the threads. The output `problems` holds the kinds of problem, with the kernel's argument that it is on, or "none".
"""
import math
from typing import Any

import numpy as np

from .exercise import Blank, Exercise, Wrong

cuda: Any = None                                                      # the simulator puts its own in its place
f32 = np.float32


def _launched(shape, grid, block):
    """The drive of an exercise whose answer is a kernel: launch it on a fresh output; all three follow from the inputs."""
    def drive(kernel, *inputs):
        from ..gpu.simulator import simulate

        out = np.full(shape(*inputs), np.nan, f32)
        report = simulate(kernel, grid(*inputs), block(*inputs), *inputs, out)
        if not report.problems and not report.ledger.elements["global", "write"]:
            raise Blank
        return out, ", ".join(sorted({kind_of(problem, kernel) for problem in report.problems})) or "none"

    def kind_of(problem, kernel):
        """Its kind, and which of the kernel's arguments it concerns."""
        arguments = kernel.__code__.co_varnames[:kernel.__code__.co_argcount]
        return f"{problem.kind} on {problem.array}" if problem.array in arguments else problem.kind

    return drive


def _drawn(*shapes, scale=1.0):
    return lambda rng: [tuple((scale * rng.standard_normal(shape)).astype(f32) for shape in case) for case in shapes]


# --- one thread an output -----------------------------------------------------------------------------------------


def _values(place=lambda: cuda.grid(2), inside=lambda n, d, N, Dv: n < N and d < Dv, add=True):
    """The kernel with another place of a thread, or another guard."""
    def kernel(weights, v, out):
        d, n = place()
        if inside(n, d, out.shape[0], out.shape[1]):
            total = f32(0)
            for s in range(v.shape[0]):
                total = weights[n, s] * v[s, d] + (total if add else f32(0))
            out[n, d] = total

    return kernel


values_kernel = Exercise(
    name="values_kernel", signature="values_kernel(weights, v, out)", lesson="17", reference=_values(),
    inputs=_drawn([(5, 3), (3, 6)], [(3, 4), (4, 9)], [(7, 2), (2, 5)]), outputs=["out (N, Dv)", "problems"],
    drive=_launched(lambda p, v: (len(p), v.shape[1]), lambda p, v: (-(-v.shape[1] // 4), -(-len(p) // 2)), lambda p, v: (4, 2)),
    wrong=[
        Wrong("the block's place left out", _values(lambda: (cuda.threadIdx.x, cuda.threadIdx.y)),
              "Two threads with the same threadIdx stand in two blocks. Do they make the same output?"),
        Wrong("no guard, or one that lets too many in", _values(inside=lambda n, d, N, Dv: True),
              "How many threads are launched, and how many outputs are there? Is there a query number N?"),
        Wrong("queries not guarded", _values(inside=lambda n, d, N, Dv: d < Dv),
              "Blocks are two queries high. What do five queries leave over?"),
        Wrong("channels not guarded", _values(inside=lambda n, d, N, Dv: n < N),
              "Blocks are four channels wide. What do six channels leave over?"),
        Wrong("x and y exchanged", _values(lambda: cuda.grid(2)[::-1]), "Which axis of the launch runs along the channels?"),
        Wrong("blocks as far apart as there are blocks",
              _values(lambda: (cuda.blockIdx.x * cuda.gridDim.x + cuda.threadIdx.x,
                               cuda.blockIdx.y * cuda.gridDim.y + cuda.threadIdx.y)),
              "How many channels lie between the first one of a block and that of the next?"),
        Wrong("guard by the width of a block", _values(inside=lambda n, d, N, Dv: n < min(N, 2) and d < min(Dv, 4)),
              "cuda.grid counts over all blocks. What is the largest number that it may give?"),
        Wrong("overwrites instead of adding", _values(add=False), "Which key's value is left after the loop?"),
    ],
)  # fmt: skip


# --- a sum over a block -------------------------------------------------------------------------------------------


def _nothing():
    pass


def _sum(first=lambda x, t, i: x[i] if i < x.shape[0] else f32(0), steps=(8, 4, 2, 1), adds=lambda t, step: t < step,
         after_load=lambda: cuda.syncthreads(), inside=_nothing, after_step=lambda: cuda.syncthreads(),
         writes=lambda t: t == 0):
    """The kernel with another load, other steps, other barriers or other writers."""
    def kernel(x, out):
        t, i = cuda.threadIdx.x, cuda.grid(1)
        part = cuda.shared.array(16, f32)
        part[t] = first(x, t, i)
        after_load()
        for step in steps:
            if adds(t, step):
                part[t] += part[(t + step) % 16]
                inside()
            after_step()
        if writes(t):
            out[cuda.blockIdx.x] = part[t]

    return kernel


block_sum = Exercise(
    name="block_sum", signature="block_sum(x, out)", lesson="17", reference=_sum(), inputs=_drawn([(37,)], [(16,)], [(55,)]),
    outputs=["out (blocks)", "problems"], drive=_launched(lambda x: -(-len(x) // 16), lambda x: -(-len(x) // 16), lambda x: 16),
    wrong=[
        Wrong("no barrier before the first step", _sum(after_load=_nothing),
              "Thread 0 reads what thread 8 has put there. Has thread 8 had its turn?"),
        Wrong("no barrier between the steps", _sum(after_step=_nothing),
              "In the second step thread 0 reads what thread 4 wrote in the first. What orders the two?"),
        Wrong("barrier inside the if", _sum(inside=lambda: cuda.syncthreads(), after_step=_nothing),
              "Which threads come to the barrier, and for whom does it wait?"),
        Wrong("block's offset left out", _sum(lambda x, t, i: x[t] if t < x.shape[0] else f32(0)),
              "Which numbers does block 1 sum up?"),
        Wrong("no guard", _sum(lambda x, t, i: x[i]), "How many threads has the last block, and how many numbers?"),
        Wrong("last step left out", _sum(steps=(8, 4, 2)), "How many parts are left after a step with 2?"),
        Wrong("first step left out", _sum(steps=(4, 2, 1)), "Sixteen parts: how many pairs?"),
        Wrong("steps the other way round", _sum(steps=(1, 2, 4, 8)),
              "After a step with 1, which of the sixteen parts are in part[0]? In which order do the steps fold all of them?"),
        Wrong("threads that are done go on", _sum(adds=lambda t, step: t + step < 16),
              "In the step with 4, who writes part[4], and who reads it?"),
        Wrong("every thread writes", _sum(writes=lambda t: True), "Which part holds the sum, and how many threads write out?"),
        Wrong("last thread writes", _sum(writes=lambda t: t == 15), "Which part holds the sum?"),
        Wrong("no step", _sum(steps=()), "Which threads' numbers are in what you write?"),
    ],
)  # fmt: skip


# --- a causal row -------------------------------------------------------------------------------------------------


def _row(sees=lambda n: n + 1, barrier=lambda: cuda.syncthreads(), skips=False, hidden=True, row_of=lambda n: n):
    """The kernel with other keys in its sum, another barrier, or another thing that threads of hidden keys do."""
    def kernel(scores, weights):
        n, s = cuda.blockIdx.x, cuda.threadIdx.x
        row = cuda.shared.array(32, f32)
        row[s] = scores[row_of(n), s]
        if not skips or s <= n:
            barrier()
        top, total = f32(-1e30), f32(0)
        for j in range(max(sees(n), n + 1)):
            top = max(top, row[j])
        for j in range(sees(n)):
            total += math.exp(row[j] - top)
        if s <= n:
            weights[n, s] = math.exp(row[s] - top) / total if total > 0 else f32(np.nan)
        elif hidden:
            weights[n, s] = f32(0)

    return kernel


def _rows(rng):
    """Square scores; those of the last case are too large for an exponential."""
    return [((scale * rng.standard_normal((n, n))).astype(f32),) for n, scale in [(5, 1), (7, 2), (6, 600)]]


causal_row = Exercise(
    name="causal_row", signature="causal_row(scores, weights)", lesson="17", reference=_row(), inputs=_rows,
    outputs=["weights (N, S)", "problems"], drive=_launched(np.shape, lambda scores: len(scores), lambda scores: len(scores)),
    wrong=[
        Wrong("no barrier", _row(barrier=_nothing), "Who wrote row[j], and has that thread had its turn?"),
        Wrong("not every thread comes to the barrier", _row(skips=True),
              "A thread whose key is hidden has nothing to compute. May it leave, or go around the barrier?"),
        Wrong("hidden weights not written", _row(hidden=False), "What stood in weights before the launch?"),
        Wrong("own key left out of the sum", _row(sees=lambda n: n),
              "How many keys does query 0 see? Do the weights of a row sum to 1?"),
        Wrong("hidden keys counted in the sum", _row(sees=lambda n: cuda.blockDim.x),
              "Do the visible weights of a row sum to 1?"),
        Wrong("every block takes row 0", _row(row_of=lambda n: 0), "Which query is a block's own?"),
    ],
)  # fmt: skip


# --- a sum over a warp --------------------------------------------------------------------------------------------

ALL = 0xFFFFFFFF


def _warp(send=lambda total, mine, step: cuda.shfl_xor_sync(ALL, total, step), steps=(16, 8, 4, 2, 1),
          add=lambda total, came: total + came, writes=lambda lane: True, goes=lambda lane, step: True):
    """The kernel with another shuffle, other steps, or other lanes that shuffle or write."""
    def kernel(x, out):
        n, lane = cuda.blockIdx.x, cuda.threadIdx.x
        total = mine = x[n, lane]
        for step in steps:
            if goes(lane, step):
                total = add(total, send(total, mine, step))
        if writes(lane):
            out[n, lane] = total

    return kernel


warp_sum = Exercise(
    name="warp_sum", signature="warp_sum(x, out)", lesson="17", reference=_warp(), inputs=_drawn([(2, 32)], [(1, 32)]),
    outputs=["out (N, lane)", "problems"], drive=_launched(np.shape, len, lambda x: 32),
    wrong=[
        Wrong("shuffled down", _warp(lambda total, mine, step: cuda.shfl_down_sync(ALL, total, step)),
              "Lane 0 has the sum. What did lane 31 take from above it?"),
        Wrong("shuffled up", _warp(lambda total, mine, step: cuda.shfl_up_sync(ALL, total, step)),
              "Lane 31 has the sum. What did lane 0 take from below it?"),
        Wrong("first step left out", _warp(steps=(8, 4, 2, 1)), "Which numbers does lane 0 never hear of?"),
        Wrong("last step left out", _warp(steps=(16, 8, 4, 2)), "Do lane 0 and lane 1 hold the same?"),
        Wrong("a step of 32", _warp(steps=(32, 16, 8, 4, 2, 1)), "Which lane is lane 0's partner at a distance of 32?"),
        Wrong("the first number is sent each time", _warp(lambda total, mine, step: cuda.shfl_xor_sync(ALL, mine, step)),
              "After the first step a lane knows the sum of two numbers. Which of what it knows does it pass on?"),
        Wrong("replaced, not added", _warp(add=lambda total, came: came), "What becomes of what the lane knew before?"),
        Wrong("only lane 0 writes", _warp(writes=lambda lane: lane == 0), "After a butterfly, which lanes hold the sum?"),
        Wrong("half of the mask", _warp(lambda total, mine, step: cuda.shfl_xor_sync(0xFFFF, total, step)),
              "One bit of the mask for each lane that takes part: how many have to be set?"),
        Wrong("shuffle inside an if", _warp(goes=lambda lane, step: lane < step),
              "Lane 0 waits for its partner. Does the partner call the shuffle?"),
    ],
)  # fmt: skip
