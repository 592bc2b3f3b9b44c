"""What fast kernels are made of: arithmetic intensity, an exponential by hand, a tiled product, tasks for threads."""
import math

import numpy as np

from .exercise import Exercise, Wrong


def _intensity(operations=4, arrays=2, extra=lambda block_q, block_k, D: 0, size=lambda itemsize: itemsize):
    """FLOPs over bytes, with another count of something."""
    def fn(block_q, block_k, D, itemsize):
        moved = arrays * block_k * D + extra(block_q, block_k, D)
        return operations * block_q * block_k * D / (moved * size(itemsize))

    return fn


intensity = Exercise(
    name="intensity", signature="intensity(block_q, block_k, D, itemsize)", lesson="11", reference=_intensity(),
    inputs=lambda rng: [(64, 32, 16, 4), (7, 5, 24, 2), (240, 64, 128, 4), (33, 9, 40, 8)], outputs=["flops_per_byte"],
    wrong=[
        Wrong("half of the operations", _intensity(operations=2),
              "How many products does a tile do, and how many operations is one multiply-add?"),
        Wrong("values not counted", _intensity(arrays=1), "What does the second product of a tile read?"),
        Wrong("numbers counted, not bytes", _intensity(size=lambda itemsize: 1), "How many bytes has one number?"),
        Wrong("scores counted as moved", _intensity(extra=lambda block_q, block_k, D: block_q * block_k),
              "Do the scores of a tile ever reach slow memory?"),
        Wrong("queries counted as moved", _intensity(extra=lambda block_q, block_k, D: block_q * D),
              "Which of the arrays is already in fast memory when the tile comes?"),
        Wrong("bytes for each operation", lambda *sizes: 1 / _intensity()(*sizes), "Which of the two is divided by which?"),
    ],
)  # fmt: skip


def _exp2(n=np.rint, base=2.0):
    """2^x with another n, or the power of another number."""
    return lambda x, coefficients: np.polyval(coefficients, x - n(x)) * base ** n(x)


def _powers(rng):
    """Short polynomials, so that an exact power is another answer: 2^r to second and to third order."""
    ln2 = math.log(2)
    series = np.array([ln2**3 / 6, ln2**2 / 2, ln2, 1.0])
    return [(rng.uniform(-3, 2, 11), series[1:]), (rng.uniform(-2, 3, 7), series), (rng.uniform(-9, 1, 23), series[1:])]


exp2 = Exercise(
    name="exp2", signature="exp2(x, coefficients)", lesson="11", inputs=_powers, reference=_exp2(), outputs=["powers (N)"],
    wrong=[
        Wrong("truncated instead of rounded", _exp2(n=np.trunc), "How large can r be for x = -0.9?"),
        Wrong("rounded down instead of to the nearest", _exp2(n=np.floor), "How large can r be for x = 0.9?"),
        Wrong("no range reduction", lambda x, coefficients: np.polyval(coefficients, x),
              "On which range is the polynomial close to 2^r?"),
        Wrong("the power of two left out", lambda x, coefficients: np.polyval(coefficients, x - np.rint(x)),
              "2^x = 2^n * 2^r: which factor did the polynomial give?"),
        Wrong("natural exponential", _exp2(base=math.e), "Which number is raised to the n?"),
        Wrong("coefficients from the wrong end", lambda x, coefficients: _exp2()(x, coefficients[::-1]),
              "Which power of r does the last coefficient belong to?"),
        Wrong("without the polynomial", lambda x, coefficients: 2.0**x,
              "A fast kernel has no exact power to call. What is given?"),
    ],
)  # fmt: skip


def _tiled(a, b, size, *, lose_depth=False, lose_rows=False, add=True, follow=True):
    """a @ b in blocks of `size` rows and `size` steps of the depth, with a mistake of choice."""
    M, K = a.shape
    out = np.zeros((M, b.shape[1]), np.result_type(a, b))
    for i in range(0, M // size * size if lose_rows else M, size):
        for k in range(0, K // size * size if lose_depth else K, size):
            left = a[i:i + size, k:k + size]
            right = b[k:k + size] if follow else b[:left.shape[1]]
            out[i:i + size] = left @ right + (out[i:i + size] if add else 0)
    return out


def _products(rng):
    return [(rng.standard_normal((M, K)), rng.standard_normal((K, P)), size)
            for M, K, P, size in [(7, 10, 5, 4), (6, 9, 4, 3), (10, 13, 3, 5)]]


tile_product = Exercise(
    name="tile_product", signature="tile_product(a, b, size)", lesson="11", inputs=_products, reference=_tiled,
    outputs=["c (M, P)"],
    wrong=[
        Wrong("lost last tile of the depth", lambda a, b, size: _tiled(a, b, size, lose_depth=True),
              "Ten steps in tiles of four: which steps does the last tile hold?"),
        Wrong("lost last rows", lambda a, b, size: _tiled(a, b, size, lose_rows=True),
              "Seven rows in tiles of four: who writes the last three?"),
        Wrong("lost last rows and last tile of the depth",
              lambda a, b, size: _tiled(a, b, size, lose_rows=True, lose_depth=True),
              "Seven rows in tiles of four: how many tiles are that?"),
        Wrong("overwrites instead of adding", lambda a, b, size: _tiled(a, b, size, add=False),
              "When the second tile of the depth is done, what has become of the first one's products?"),
        Wrong("the same rows of b every time", lambda a, b, size: _tiled(a, b, size, follow=False),
              "Columns k to k + size of a: which rows of b do they meet?"),
    ],
)  # fmt: skip


def _deal(costs, threads, grab, *, whole=False):
    """When each thread is done, if whoever is free first takes the next `grab` tasks."""
    done = np.zeros(threads)
    for first in range(0, len(costs) // grab * grab if whole else len(costs), grab):
        done[done.argmin()] += np.sum(costs[first:first + grab])
    return done


def _neighbours(costs, threads, grab):
    return np.array([np.sum(part) for part in np.array_split(costs, threads)])


def _in_turns(costs, threads, grab):
    grabs = [np.sum(costs[first:first + grab]) for first in range(0, len(costs), grab)]
    return np.array([np.sum(grabs[thread::threads]) for thread in range(threads)])


deal_tasks = Exercise(
    name="deal_tasks", signature="deal_tasks(costs, threads, grab)", lesson="11", reference=_deal, outputs=["done (threads)"],
    inputs=lambda rng: [(rng.uniform(1, 9, count), *rest) for count, *rest in [(17, 3, 2), (29, 2, 3), (23, 4, 2)]],
    wrong=[
        Wrong("one run of neighbours each", _neighbours, "Who decides which thread takes the third grab, and when?"),
        Wrong("in turns", _in_turns, "A thread with long tasks: does it take the next ones just because it is its turn?"),
        Wrong("one task at a time", lambda costs, threads, grab: _deal(costs, threads, 1),
              "How many tasks go with one look at the counter?"),
        Wrong("lost last tasks", lambda costs, threads, grab: _deal(costs, threads, grab, whole=True),
              "Seventeen tasks in twos: who does the last one?"),
        Wrong("longest first", lambda costs, threads, grab: _deal(np.sort(costs)[::-1], threads, grab),
              "In which order does the counter give tasks?"),
        Wrong("evenly, as if tasks could be cut", lambda costs, threads, grab: np.full(threads, np.sum(costs) / threads),
              "Can two threads share one task?"),
    ],
)  # fmt: skip
