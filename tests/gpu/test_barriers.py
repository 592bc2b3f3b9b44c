"""Every barrier of every kernel is needed, and the simulator knows: each one removed, with nothing else changed, is caught."""
import re
import types
from pathlib import Path

import numpy as np
import pytest
from gpu_problems import drawn, run

from minattn.gpu import kernels

HERE = Path(kernels.__file__).parent
BARRIER = re.compile(r"cuda\.syncthreads\(\)")


def barriers(file):
    """Lines, counted from 0."""
    lines = (HERE / f"{file}.py").read_text().splitlines()
    return [n for n, line in enumerate(lines) if BARRIER.search(line)]


def module(file, without=None, **names):
    """The module of kernels as it is, or with `pass` for the barrier at a line; `names` take the place of what it imports."""
    path = HERE / f"{file}.py"
    lines = path.read_text().splitlines()
    if without is not None:
        lines[without] = BARRIER.sub("pass", lines[without])
    made = types.ModuleType(f"{kernels.__name__}.{file}")
    made.__package__ = kernels.__name__
    exec(compile("\n".join(lines), str(path), "exec"), made.__dict__)
    made.__dict__.update(names)
    return made



def forward(case="full, ragged", **sizes):
    return lambda made: made.launches(drawn(case, **sizes)[0])


def of_decode(made):
    """One split with tiles to spare, and one that nobody wants."""
    return made.launches(drawn("full, ragged", N=2)[0], 1)[:1] + made.launches(drawn("nothing", N=2)[0], 1)[:1]


def of_backward(made):
    """Two tiles to each that a block owns; dims in one chunk, and in two."""
    problem, _ = drawn("full, ragged", D=16, block_q=16, block_k=16)
    (_, keys, queries), _ = made.launches(problem, problem.given.q)
    (_, chunked, _), _ = made.launches(problem, problem.given.q, chunk=8)
    return [launch._replace(grid=(1, 1, 1)) for launch in (keys, queries, chunked)]


def of_recurrence(made):
    rng = np.random.default_rng(0)
    q, k, v, g, state = (rng.uniform(-1, 0, shape) for shape in [(1, 2, 11, 16), (1, 11, 16), (1, 11, 8), (1, 11, 1), (1, 16, 8)])
    return made.launches(q, k, v, g, state, (k, k), columns=8, tokens=8)[0]


def of_tile(made):
    return of_backward(module("backward", make_tile=made.make_tile))


KERNELS = {
    "rows": forward(), "block": forward(), "registers": forward(D=16, block_q=16, block_k=16),
    "tensor": forward("one query", S=40, D=16, block_q=32, block_k=16, kind="f16", dims=(16,)),
    "decode": of_decode, "backward": of_backward, "tile": of_tile, "recurrence": of_recurrence,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("file", "line"), [(file, line) for file in KERNELS for line in barriers(file)])
def test_each_barrier_that_is_removed_is_missed(file, line):
    reports = run(KERNELS[file](module(file, without=line)))
    assert {kind for report in reports for kind in report.kinds} & {"race", "read before any write"}


@pytest.mark.parametrize("file", KERNELS)
def test_with_all_of_them_there_is_silence(file):
    assert not [str(problem) for report in run(KERNELS[file](module(file))) for problem in report.problems]
