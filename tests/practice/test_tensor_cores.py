"""The exercises on tensor cores: held to the instructions' twins, right in other styles, and as people get them wrong."""
import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the simulator needs greenlet")

from minattn.gpu import instructions
from minattn.gpu.simulator import simulate
from minattn.practice import check

cuda = None                                                           # the simulator puts its own in its place
f32 = np.float32
mma, pack = instructions.mma("bf16"), instructions.pack("bf16")


def one_mma(a, b, out):
    lane = cuda.threadIdx.x
    zero = f32(0)
    c = mma(a[lane, 0], a[lane, 1], a[lane, 2], a[lane, 3], b[lane, 0], b[lane, 1], zero, zero, zero, zero)
    for i in range(4):
        out[lane, i] = c[i]


def registers(pairs):
    """(32, i, 2) numbers as (32, i) registers."""
    return np.array([[instructions.register(low, high, "bf16") for low, high in lane] for lane in pairs], np.uint32)


def through_the_twin(pairs, b):
    """What the twin makes of A's pairs and a B (16, 8): c0 .. c3 of every lane."""
    g, t = np.divmod(np.arange(32), 4)
    halves = np.stack([np.stack([b[2 * t + on, g], b[2 * t + on + 1, g]], axis=-1) for on in (0, 8)], axis=1)
    out = np.zeros((32, 4), f32)
    assert not simulate(one_mma, 1, 32, registers(pairs), registers(halves), out).problems
    return out


def test_holder_and_fragment_are_the_twins():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 10, (16, 16)), rng.integers(-9, 10, (16, 8))
    pairs = np.array([check.fragment_a.reference(a, lane) for lane in range(32)]).reshape(32, 4, 2)
    row, col = np.indices((16, 8)).reshape(2, -1)
    np.testing.assert_array_equal(through_the_twin(pairs, b)[check.holder.reference(row, col)], (a @ b)[row, col])


def test_weights_packed_are_those_that_the_next_product_takes():
    rng = np.random.default_rng(1)
    p, v = rng.integers(0, 9, (16, 16)), rng.integers(-9, 10, (16, 8))
    row, col = np.indices((16, 8)).reshape(2, -1)
    held = []
    for keys in (p[:, :8], p[:, 8:]):
        c = np.zeros((32, 4))
        c[check.holder.reference(row, col)] = keys[row, col]
        held.append(c)
    out = through_the_twin(check.pack_weights.reference(*held), v)
    np.testing.assert_array_equal(out[check.holder.reference(row, col)], (p @ v)[row, col])


@pytest.mark.parametrize("case", check.warp_scores.cases())
def test_warp_scores_are_the_product(case):
    q, k = case
    out, problems = check.warp_scores.call(check.warp_scores.reference, case)
    np.testing.assert_array_equal(out, q @ k.T)
    assert problems == "none"


def test_right_in_another_style():
    def in_a_loop(left, right):
        return [[[side[lane][2 * i + half] for half in (0, 1)] for side in (left, right) for i in (0, 1)] for lane in range(32)]

    def through_shared_memory(q, k, out):
        lane = cuda.threadIdx.x
        g, d = lane // 4, lane % 4 * 2
        tile = cuda.shared.array((24, 16), f32)
        for i in range(12):
            row, column = (i * 32 + lane) // 16, lane % 16
            tile[row, column] = q[row, column] if row < 16 else k[row - 16, column]
        cuda.syncthreads()
        a0, a1 = pack(tile[g, d], tile[g, d + 1]), pack(tile[g + 8, d], tile[g + 8, d + 1])
        a2, a3 = pack(tile[g, d + 8], tile[g, d + 9]), pack(tile[g + 8, d + 8], tile[g + 8, d + 9])
        b0, b1 = pack(tile[g + 16, d], tile[g + 16, d + 1]), pack(tile[g + 16, d + 8], tile[g + 16, d + 9])
        c = mma(a0, a1, a2, a3, b0, b1, 0, 0, 0, 0)
        for i in range(4):
            out[g + i // 2 * 8, d + i % 2] = c[i]

    def other_order(q, k, out):
        """Dims in any order, if A and B agree on it: here the halves of every pair exchanged."""
        g, d = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4 * 2
        a0, a1 = pack(q[g, d + 1], q[g, d]), pack(q[g + 8, d + 1], q[g + 8, d])
        a2, a3 = pack(q[g, d + 9], q[g, d + 8]), pack(q[g + 8, d + 9], q[g + 8, d + 8])
        c = mma(a0, a1, a2, a3, pack(k[g, d + 1], k[g, d]), pack(k[g, d + 9], k[g, d + 8]), 0, 0, 0, 0)
        for i in range(4):
            out[g + i // 2 * 8, d + i % 2] = c[i]

    assert check.holder(lambda row, col: (4 * (row & 7) + (col >> 1), 2 * (row > 7) + (col & 1)))
    assert check.fragment_a(lambda a, lane: a.reshape(2, 8, 2, 4, 2)[:, lane // 4, :, lane % 4].swapaxes(0, 1).ravel())
    assert check.pack_weights(in_a_loop)
    assert check.warp_scores(through_shared_memory)
    assert check.warp_scores(other_order)


def test_mistakes_as_people_write_them():
    def k_as_it_is(q, k, out):
        g, d = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4 * 2
        a0, a1 = pack(q[g, d], q[g, d + 1]), pack(q[g, d + 8], q[g, d + 9])
        a2, a3 = pack(q[g + 8, d], q[g + 8, d + 1]), pack(q[g + 8, d + 8], q[g + 8, d + 9])
        c = mma(a0, a1, a2, a3, pack(k[g, d], k[g, d + 1]), pack(k[g, d + 8], k[g, d + 9]), 0, 0, 0, 0)
        for i in range(4):
            out[g + i // 2 * 8, d + i % 2] = c[i]

    assert check.holder(lambda row, col: divmod(row * 8 + col, 4)).mistake == "four numbers of a row"
    assert check.fragment_a(lambda a, lane: a.reshape(2, 8, 2, 4, 2)[:, lane // 4, :, lane % 4].ravel()).mistake == (
        "a1 and a2 exchanged")
    assert check.pack_weights(lambda left, right: np.stack([left, right], -1)).mistake == "a weight of left with one of right"
    assert check.warp_scores(k_as_it_is).mistake == "a1 and a2 exchanged"
    assert check.warp_scores(lambda q, k, out: None).status == "blank"
