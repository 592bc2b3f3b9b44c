"""The exercises of fast kernels: answers as people write them, by their names."""
import heapq

import numpy as np
import pytest

from minattn.flash import simd
from minattn.practice import check


def test_intensity_needs_neither_keys_nor_channels():
    assert check.intensity(lambda block_q, block_k, D, itemsize: 2 * block_q / itemsize)
    assert check.intensity(lambda block_q, block_k, D, itemsize: block_q / itemsize).mistake == "half of the operations"


@pytest.mark.parametrize(("rounding", "name"), [
    (np.rint, None), (np.round, None), (lambda x: np.floor(x + 0.5), None),
    (lambda x: x.astype(int), "truncated instead of rounded"), (np.floor, "rounded down instead of to the nearest"),
])  # fmt: skip
def test_exp2_by_any_rounding_to_the_nearest(rounding, name):
    def answer(x, coefficients):
        n, value = np.asarray(rounding(x)), np.zeros_like(x)
        for coefficient in coefficients:
            value = value * (x - n) + coefficient
        return np.ldexp(value, n.astype(int))

    assert check.exp2(answer).mistake == name
    assert bool(check.exp2(answer)) is (name is None)


def test_the_reference_with_the_kernels_own_polynomial_is_the_power():
    x = np.linspace(-126, 0, 10_001)
    np.testing.assert_allclose(check.exp2.reference(x, simd.POLYNOMIAL), 2.0**x, rtol=2e-7)


@pytest.mark.parametrize(("sign", "stop", "name"), [
    ("+=", "a.shape[1]", None), ("=", "a.shape[1]", "overwrites instead of adding"),
    ("+=", "a.shape[1] // size * size", "lost last tile of the depth"),
])  # fmt: skip
def test_tile_product_names_what_was_changed(sign, stop, name):
    text = f"""
def answer(a, b, size):
    c = np.zeros((len(a), b.shape[1]))
    for d in range(0, {stop}, size):
        for i in range(0, len(a), size):
            c[i:i + size] {sign} np.einsum("md,dp->mp", a[i:i + size, d:d + size], b[d:d + size])
    return c
"""
    scope = {"np": np}
    exec(text, scope)
    assert check.tile_product(scope["answer"]).mistake == name


def test_tasks_dealt_with_a_heap():
    def answer(costs, threads, grab):
        free = [(0.0, thread) for thread in range(threads)]
        for first in range(0, len(costs), grab):
            now, thread = heapq.heappop(free)
            heapq.heappush(free, (now + sum(costs[first : first + grab]), thread))
        return [now for now, _ in sorted(free, key=lambda each: each[1])]

    assert check.deal_tasks(answer)
    assert check.deal_tasks(lambda costs, threads, grab: answer(costs, threads, 1)).mistake == "one task at a time"
