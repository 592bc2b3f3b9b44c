"""Is every kernel right on this GPU? Each instruction, each kernel of the ladder, backward, decoding and the recurrence.

What is wanted is the reference in float64. The same checks run on a simulated GPU, with smaller tiles; that is how they are
known to ask the right thing where there is no GPU. ask.py runs them and says what came of it.
"""
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...gpu.kernels import backward, decode, recurrence
from ...gpu.where import sent
from . import front, warp
from .answers import EXACT, HALF, LESS, Answer, Check
from .problems import (
    CASES,
    LADDER,
    RECURRENCES,
    as_numbers,
    before_backward,
    drawn,
    drawn_recurrence,
    expected,
    expected_recurrence,
)  # fmt: skip


class Sizes(NamedTuple):
    """How large the problems are, and which of them are asked."""

    tiles: Callable                                                   # (name of the kernel, D) -> (block_q, block_k)
    dims: tuple                                                       # that kernels are made for; the first for most checks
    long: tuple                                                       # N and S of the longer problems
    recurrence: tuple                                                 # (columns, tokens); None: as a GPU gets them
    cases: tuple                                                      # of attention, for the first of dims
    recurrences: tuple                                                # of the recurrence


def shipped(name, D):
    return (64, 64) if name == "backward" else {**LADDER, "decode": decode}[name].TILES[D]


def small(name, D):
    return {"registers": (16, 16), "tensor": (32, 16), "backward": (16, 16)}.get(name, (8, 4))


TWO = "causal", "softcap and bias of heads"                           # one without and one with all that is compiled in
ERASES = "erase and decay of channels"
GPU = Sizes(shipped, (64, 32, 128), (200, 190), (None, None), tuple(CASES), tuple(RECURRENCES))
SHORT = Sizes(shipped, (64,), (70, 75), (None, None), TWO[1:], (ERASES,))    # for compute-sanitizer, under which all takes longer
SIMULATED = Sizes(small, (16,), (10, 9), (8, 8), (*TWO, "rows of unequal length"), ("no decay", ERASES))


def checks(sizes=GPU):
    """{group: its checks}."""
    found = {"instructions": [Check("instructions", name, functools.partial(instruction, make))
                              for name, make in warp.probes().items()]}  # fmt: skip
    for name in LADDER:
        for kind in ("bf16", "f16") if name == "tensor" else ("f32",):
            group = f"{name} {kind}" if name == "tensor" else name
            found[group] = with_repeat(group, [(case, D, functools.partial(forward, name, kind, case, D, sizes, N, S))
                                               for case, D, N, S in problems(sizes)])  # fmt: skip
    found["backward"] = with_repeat("backward", [(case, D, functools.partial(gradients, case, D, sizes, N, S))
                                                 for case, D, N, S in problems(sizes)])  # fmt: skip
    found["decode"] = with_repeat("decode", [
        (f"{case}, {splits} splits", D, functools.partial(decoded, case, D, sizes, S, splits))
        for case, D, _, S in problems(sizes) if CASES[case].get("N", 1) == 1 for splits in (1, 3)])  # fmt: skip
    found["recurrence"] = with_repeat("recurrence", [
        (case, D, functools.partial(recurrences, case, D, sizes))
        for D in sizes.dims for case in sizes.recurrences if D == sizes.dims[0] or case == ERASES])  # fmt: skip
    if sizes.tiles is shipped:                                        # it speaks to a GPU by itself
        found[front.GROUP] = front.checks(sizes, with_torch=sizes is GPU)
    return found


def problems(sizes):
    """(case, D, N, S); cases may have lengths of their own."""
    for D in sizes.dims:
        for case in sizes.cases:
            if D == sizes.dims[0] or case in TWO:
                yield case, D, *sizes.long


def with_repeat(group, asked):
    """The checks of a group, and whether the first of them gives the same bits again, from other places in memory."""
    found = [Check(group, f"{case}, D {D}", ask) for case, D, ask in asked]
    first = found[0].ask

    def again(place):
        return [Answer(one.what, one.got, other.got, 0) for one, other in zip(first(place), first(place), strict=True)]

    return [*found, Check(group, "the same bits again", again)]


# the questions


def instruction(make, place):
    probe = make(place)
    place.run(probe.launch)
    got = place.get(probe.out)
    if probe.limit == 0:
        return [Answer("numbers", got, probe.wanted, 0)]
    size = np.where(probe.wanted == 0, 1, np.abs(probe.wanted.astype(np.float64)))      # each number's own error
    return [Answer("numbers", got / size, probe.wanted / size, probe.limit)]


def forward(name, kind, case, D, sizes, N, S, place):
    there, x = brought(name, kind, case, D, sizes, N, S, place)
    for launch in LADDER[name].launches(there):
        place.run(launch)
    return attention_answers(there, x, place)


def decoded(case, D, sizes, S, splits, place):
    there, x = brought("decode", "f32", case, D, sizes, 2, S, place)
    for launch in decode.launches(there, splits):
        place.run(launch)
    return attention_answers(there, x, place)


def gradients(case, D, sizes, N, S, place):
    block_q, block_k = sizes.tiles("backward", D)
    here, x = drawn(case, D=D - LESS, block_q=block_q, block_k=block_k, dims=(D,), N=N, S=S)
    dout, right = before_backward(here, x)
    there = at(here, place)
    launches, y = backward.launches(there, place.put(dout), wants_dbias=x.bias is not None)
    for launch in launches:
        place.run(launch)
    limit, answers = limits(x, "f32")[0] * max(1, x.scale), []            # dQ and dK are scale times a sum
    for name, wanted in zip(("dq", "dk", "dv", "dbias"), right, strict=True):
        if getattr(y, name).size:
            got = place.get(getattr(y, name)).reshape(*wanted.shape[:3], -1)
            answers.append(Answer(name, got[..., : wanted.shape[3]], wanted, limit))
    return answers


def recurrences(case, D, sizes, place):
    N, (columns, tokens) = sizes.long[0], sizes.recurrence
    x, (out, last) = drawn_recurrence(case, D, N), expected_recurrence(case, D=D, N=N)
    erase = None if x.a is None else (x.a, x.b)
    (launch,), y = recurrence.launches(x.q, x.k, x.v, x.g, x.state, erase, columns=columns, tokens=tokens)
    there = sent(y, place)
    place.run(launch._replace(arguments=(there,)))
    return [Answer("out", place.get(there.out).reshape(out.shape), out, EXACT),
            Answer("state", place.get(there.last).reshape(last.shape), last, EXACT)]


# what they share


def brought(name, kind, case, D, sizes, N, S, place):
    """(problem at a place, its inputs)."""
    block_q, block_k = sizes.tiles(name, D)
    here, x = drawn(case, D=D - LESS, block_q=block_q, block_k=block_k, dims=(D,), kind=kind, N=N, S=S)
    return at(here, place), x


def at(problem, place: Any):
    return problem._replace(given=sent(problem.given, place), place=place)


def attention_answers(there, x, place):
    out, lse = expected(x)
    got = as_numbers(place.get(there.given.out), there.kind).reshape(*out.shape[:3], -1)
    blind = got[np.isneginf(lse)]
    of_out, of_lse = limits(x, there.kind)
    return [Answer("out", got[..., : out.shape[3]], out, of_out),
            Answer("log-sum-exp", place.get(there.given.lse).reshape(lse.shape), lse, of_lse),
            Answer("rows that see nothing", blind, np.zeros_like(blind), 0)]


def limits(x, kind):
    """Of out and of the log-sum-exp. Where scores are huge, a weight exp(score - lse) is off by a rounding of the score."""
    *_, lse = expected(x)
    rounding = 2.0**-23 * np.abs(lse[np.isfinite(lse)]).max(initial=0)
    return max(EXACT if kind == "f32" else HALF, rounding), EXACT
