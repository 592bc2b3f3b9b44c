"""The exercises on what kernels move: held to the simulator's own ledger, right in other styles, and as people get them wrong."""
import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the simulator needs greenlet")

from minattn.core.blocks import FULL
from minattn.gpu.kernels import naive
from minattn.gpu.problem import Given
from minattn.gpu.simulator import simulate
from minattn.practice import check

cuda = None                                                           # the simulator puts its own in its place
f32 = np.float32


def test_score_traffic_is_what_the_ledger_counts():
    exercise = check.score_traffic
    for N, S, D in exercise.cases()[:2]:
        q, k, held = (np.ones(size, f32) for size in (N * D, S * D, N * S))
        tiles = np.full(-(-N // 4) * -(-S // 4), FULL, np.uint8)
        x = Given(q, k, k, held[:0], tiles, tiles, tiles, held, held, 1, 1, N, S, 0, 0, 0, 0, 0, 0, f32(1), f32(0))
        scores = naive.make_naive(D, 4, 4, False, False)[0]
        report = simulate(scores, (-(-S // 8), -(-N // 8), 1), (8, 8), x, held)
        assert not report.problems
        arrays = report.ledger.arrays
        assert exercise.reference(N, S, D) == arrays["q", "read"] + arrays["k", "read"] + arrays["held", "write"]


def test_wavefronts_are_what_the_ledger_counts():
    def reader(words, out):
        box = cuda.shared.array(33 * 32, f32)
        for i in range(33):
            box[i * 32 + cuda.threadIdx.x] = f32(i)
        cuda.syncthreads()
        out[cuda.threadIdx.x] = box[words[cuda.threadIdx.x]]

    for (words,) in check.wavefronts.cases():
        ledger = simulate(reader, 1, 32, words, np.zeros(32, f32)).ledger
        last = max(ledger.wavefronts)
        assert check.wavefronts.reference(words) == ledger.wavefronts[last]


def test_a_swizzle_moves_no_chunk_out_of_its_row_and_loses_none():
    for chunks in (4, 8, 16):
        row, c = (a.ravel() for a in np.indices((24, chunks)))
        places = check.swizzled.reference(row, c, chunks)
        assert sorted(places) == list(range(24 * chunks))
        np.testing.assert_array_equal(places // chunks, row)


def test_right_in_another_style():
    def with_a_swizzle(x, out):
        lane = cuda.threadIdx.x
        tile = cuda.shared.array((32, 32), f32)
        for i in range(32):
            tile[i, lane ^ i] = x[i, lane]
        cuda.syncwarp()
        for i in range(32):
            out[i, lane] = tile[lane, i ^ lane]

    def in_a_loop(words):
        banks = {}
        for word in words:
            banks.setdefault(int(word) % 32, set()).add(int(word))
        return max(len(held) for held in banks.values())

    assert check.transpose_tile(with_a_swizzle)
    assert check.wavefronts(in_a_loop)
    assert check.swizzled(lambda row, c, chunks: row * chunks + (c ^ (row & chunks - 1)))
    assert check.swizzled(lambda row, c, chunks: row * chunks + c ^ row % chunks)
    assert check.score_traffic(lambda N, S, D: 2 * N * S * D + N * S)


def test_mistakes_as_people_write_them():
    def two_axes(x, out):
        lane = cuda.threadIdx.x
        tile = cuda.shared.array((32, 32), f32)
        for i in range(32):
            tile[i, lane] = x[i, lane]
        cuda.syncthreads()
        for i in range(32):
            out[i, lane] = tile[lane, i]

    assert check.transpose_tile(two_axes).mistake == "rows not padded"
    assert check.transpose_tile(lambda x, out: None).status == "blank"
    assert check.wavefronts(lambda words: np.bincount(words % 32).max()).mistake == "lanes counted, not words"
    assert check.score_traffic(lambda N, S, D: N * D + S * D + N * S).mistake == "each number once"
