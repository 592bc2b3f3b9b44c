"""The sparse patterns, each against a double loop over drawn positions, its block map, and the count of its keys."""
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import minattn as ma
from minattn import masks
from minattn.core import leaves
from minattn.core.blocks import EMPTY, PARTIAL
from minattn.core.errors import MaskError, OptionError, ShapeError

FEW = st.integers(1, 5)


def strided(length, stride):
    return masks.strided(stride), lambda i, j: j in range(i - stride, i + 1) or j in range(i, -1, -stride)


def fixed(length, stride, summary, subblock):
    summary = min(summary, stride)
    subblock = min(subblock, stride // summary - 1)
    stop = stride - subblock * summary

    def sees(i, j):
        return j <= i and (i // stride == j // stride or j % stride in range(stop - summary, stop))

    return masks.fixed(stride, summary, subblock=subblock), sees


def dilated(length, window, gap):
    reach = [(gap + 1) * m for m in range(-(window // 2), window // 2 + 1)]
    return masks.dilated(window, gap), lambda i, j: i - j in reach


def longformer(length, window, chosen):
    return masks.longformer(window, chosen), lambda i, j: abs(i - j) <= window // 2 or i in chosen or j in chosen


def block_local(length, size):
    return masks.block_local(size), lambda i, j: i // size == j // size


def parts(length, stride):
    """Heads that split strided between them."""
    return masks.strided(stride, part=1) | masks.strided(stride, part=2), strided(length, stride)[1]


KINDS = {
    "strided": (strided, FEW), "parts": (parts, FEW), "fixed": (fixed, st.integers(1, 7), FEW, st.integers(0, 3)),
    "dilated": (dilated, st.integers(1, 7), st.integers(0, 3)), "block_local": (block_local, FEW),
    "longformer": (longformer, FEW, st.lists(st.integers(0, 12), max_size=3)),
}  # fmt: skip
POSITIONS = st.lists(st.integers(0, 12), min_size=1, max_size=8)


@pytest.mark.parametrize("kind", KINDS)
def test_against_a_double_loop(kind):
    make, *options = KINDS[kind]

    @hypothesis.given(st.tuples(*options), POSITIONS, POSITIONS)
    def check(options, q_pos, k_pos):
        mask, sees = make(13, *options)
        got = mask.dense(len(q_pos), len(k_pos), q_pos=q_pos, k_pos=k_pos)
        assert got.tolist() == [[sees(i, j) for j in k_pos] for i in q_pos]

    check()


PATTERNS = {
    "strided": masks.strided(4), "window of strided": masks.strided(4, part=1), "column of strided": masks.strided(4, part=2),
    "strided 1": masks.strided(1), "fixed": masks.fixed(5, 2), "fixed, another subblock": masks.fixed(5, 2, subblock=1),
    "all is summary": masks.fixed(3, 3), "summaries": masks.fixed(6, 2, part=2), "not fixed": ~masks.fixed(5),
    "dilated": masks.dilated(7, 2), "longformer": masks.longformer(4, [0, 7, 8, 9, 21]), "no global": masks.longformer(3, []),
    "bigbird": masks.bigbird(23, block=3, window=3, first=1, random=2, seed=1),
    "short bigbird": masks.bigbird(14, block=2, seed=0),
    "bigbird of tokens": masks.bigbird(30, block=1, window=2, first=2, random=3, seed=5) & masks.causal(),
    "not bigbird": ~masks.bigbird(23, block=4, window=1, first=0, random=4, seed=2), "block_local": masks.block_local(6),
    "split": masks.per_head(masks.strided(3, part=1), masks.strided(3, part=2), masks.bigbird(23, block=2, seed=3)),
}  # fmt: skip


@pytest.mark.parametrize("mask", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("where", ["default", "in order", "drawn", "rows"])
@hypothesis.settings(max_examples=10)
@hypothesis.given(block_q=st.integers(1, 21), block_k=st.integers(1, 25), seed=st.integers(0, 99))
def test_what_arithmetic_says_of_tiles_is_true(mask, block_q, block_k, where, seed):
    """The block map put together is the dense mask, and no tile that was settled by `known` was settled wrongly."""
    N, S, rng = 19, 23, np.random.default_rng(seed)
    q_pos, k_pos = {
        "default": (None, None), "in order": (np.arange(3, 3 + N), np.arange(S)),
        "drawn": (rng.integers(-1, 25, (2, N)), rng.integers(-1, 25, S)),
        "rows": (rng.integers(0, 25, N), rng.integers(-1, 25, (2, S))),
    }[where]  # fmt: skip
    options = {"batch": 2, "heads": 5, "q_pos": q_pos, "k_pos": k_pos}
    blocks = mask.blocks(N, S, block_q=block_q, block_k=block_k, **options)
    want = np.broadcast_to(mask.dense(N, S, **options), (2, 5, N, S))
    kind, stored = (np.broadcast_to(a, (2, 5, *a.shape[2:])) for a in (blocks.kind, blocks.stored))
    for b, h, row, column in np.ndindex(kind.shape):
        n, s = row * block_q, column * block_k
        tile = want[b, h, n : n + block_q, s : s + block_k]
        if kind[b, h, row, column] == PARTIAL:
            np.testing.assert_array_equal(blocks.partial[stored[b, h, row, column]][: tile.shape[0], : tile.shape[1]], tile)
            assert tile.any()
            assert not tile.all()
        else:
            assert (tile == (kind[b, h, row, column] != EMPTY)).all()


@pytest.mark.parametrize("name", PATTERNS)
def test_a_decoding_step_is_the_last_row_of_the_whole(name):
    for N in range(1, 24):
        step, whole = (PATTERNS[name].dense(n, N, heads=3) for n in (1, N))
        np.testing.assert_array_equal(step[..., 0, :], whole[..., -1, :])


@pytest.mark.parametrize("name", PATTERNS)
def test_attention_skips_what_the_pattern_hides(name, drawn, close):
    q, k, v = drawn(3, N=70, S=131)
    options = {"mask": PATTERNS[name], "q_pos": np.arange(70) % 25, "k_pos": np.arange(131) % 23}
    close(ma.attention(q, k, v, backend="cpu", **options), ma.attention(q, k, v, backend="numpy", **options))


def strided_keys(i, stride):
    """How many keys the query at i sees."""
    return np.minimum(i, stride) + 1 + np.maximum(i // stride - 1, 0)


@pytest.mark.parametrize("N", [1, 7, 64, 129])
@pytest.mark.parametrize("stride", [1, 3, 8, 200])
def test_keys_attended(N, stride):
    i = np.arange(N)
    np.testing.assert_array_equal(masks.strided(stride).dense(N, N).sum(axis=1), strided_keys(i, stride))
    for summary in {1, stride // 2 + 1, stride}:
        seen = masks.fixed(stride, summary).dense(N, N).sum(axis=1)
        np.testing.assert_array_equal(seen, i % stride + 1 + i // stride * summary)


def test_strided_attends_to_one_and_a_half_times_n_to_the_one_and_a_half():
    assert masks.strided(32).dense(1024, 1024).sum() == strided_keys(np.arange(1024), 32).sum()
    share = [strided_keys(np.arange(N), round(N**0.5)).sum() / N**1.5 for N in (1024, 4096, 16384)]
    assert np.round(share, 2).tolist() == [1.47, 1.48, 1.49]


def test_dilated_counts():
    seen = masks.dilated(5, 2).dense(40, 40).sum(axis=1)
    assert (seen[6:34] == 5).all()
    np.testing.assert_array_equal(masks.dilated(5, 0).dense(9, 9), masks.window(2, 2).dense(9, 9))


@pytest.mark.parametrize(("block", "window", "first", "random"), [(1, 3, 2, 3), (4, 3, 1, 2), (3, 5, 0, 1), (2, 1, 2, 0)])
def test_bigbird_counts(block, window, first, random):
    """A block well inside sees window + first + random blocks; the first ones see all, and all see them."""
    blocks = 20
    mask = masks.bigbird(blocks * block, block=block, window=window, first=first, random=random, seed=7)
    seen = mask.dense(blocks * block, blocks * block)
    inside = slice((first + window // 2) * block, -(window // 2) * block or None)
    assert (seen[inside].sum(axis=1) == (window + first + random) * block).all()
    assert seen[: first * block].all()
    assert seen[:, : first * block].all()
    by_block = seen.reshape(blocks, block, blocks, block)
    assert (by_block == by_block[:, :1, :, :1]).all()
    for n in range(blocks):
        assert by_block[n, 0, max(n - window // 2, 0) : n + window // 2 + 1, 0].all()


def test_bigbird_is_drawn_by_its_seed_alone():
    a, b, c = (masks.bigbird(40, block=2, seed=seed).dense(40, 40) for seed in (4, 4, 5))
    assert (a == b).all()
    assert (a != c).any()
    assert masks.bigbird(6, block=1, first=0, window=1, random=9, seed=0).dense(6, 6).all()       # no more than there are
    beyond = masks.bigbird(6, block=1, first=1, window=1, random=2, seed=0).dense(9, 9)
    assert beyond[1:6].sum(axis=1).tolist() == [4] * 5                # itself, the first, and two drawn
    assert beyond[6:].sum(axis=1).tolist() == [2] * 3                 # itself and the first
    assert beyond[1:, 6:].sum(axis=0).tolist() == [1] * 3


def test_head_by_head():
    three = masks.last(2), masks.first(1), masks.padding([3, 5])
    seen = masks.per_head(*three).dense(4, 5, heads=7)
    assert seen.shape == (2, 7, 4, 5)
    for h in range(7):
        alone = three[h % 3].dense(4, 5)                              # (4, 5), or (2, 1, 4, 5)
        np.testing.assert_array_equal(seen[:, h], np.broadcast_to(alone, (2, 1, 4, 5))[:, 0])


def test_columns_of_a_long_text_are_settled_in_tiles():
    """Equal tiles stand once; what lies between summaries is empty without a look, and summaries alone are full."""
    blocks = masks.fixed(64, 2).blocks(4096, 4096, block_q=64, block_k=64)
    assert len(blocks.partial) == 2                                   # the diagonal, and the summaries
    assert masks.block_local(128).blocks(4096, 4096).active == 2 / 64
    where = leaves.columns(64, 60, 4).blocks(128, 4096, block_k=4)
    assert (where.kind == EMPTY).mean() == 15 / 16
    assert len(where.partial) == 0


@pytest.mark.parametrize(("make", "kind", "words"), [
    (lambda: masks.strided(0), OptionError, "stride = 0; it must be at least 1"),
    (lambda: masks.strided(2.0), OptionError, "stride is 2.0; it must be an integer"),
    (lambda: masks.strided(2, part=3), OptionError, "part is 3; it must be 1, 2, or None for both"),
    (lambda: masks.fixed(4, 0), OptionError, "summary = 0; it must be at least 1"),
    (lambda: masks.fixed(4, 5), OptionError, "summary = 5 at subblock = 0; a block of stride = 4 keys does not hold it"),
    (lambda: masks.fixed(4, 2, subblock=2), OptionError, "summary = 2 at subblock = 2; a block of stride = 4"),
    (lambda: masks.fixed(4, subblock=-1), OptionError, "subblock = -1"),
    (lambda: masks.dilated(0, 1), OptionError, "window = 0; it must be at least 1"),
    (lambda: masks.dilated(3, -1), OptionError, "gap = -1"),
    (lambda: masks.longformer(0, [1]), OptionError, "window = 0"),
    (lambda: masks.longformer(3, 1), MaskError, r"global_positions are int64 of shape \(\); longformer needs a line of integers"),
    (lambda: masks.longformer(3, [0.5]), MaskError, "global_positions are float64"),
    (lambda: masks.longformer(3, [2, -1]), MaskError, "none below 0"),
    (lambda: masks.bigbird(0, seed=0), OptionError, "length = 0; it must be at least 1"),
    (lambda: masks.bigbird(9, block=0, seed=0), OptionError, "block = 0"),
    (lambda: masks.bigbird(9, random=-1, seed=0), OptionError, "random = -1"),
    (lambda: masks.bigbird(9, first=-1, seed=0), OptionError, "first = -1"),
    (lambda: masks.bigbird(9, seed="a"), OptionError, "seed is 'a'; it must be an integer"),
    (lambda: masks.block_local(0), OptionError, "size = 0"),
    (lambda: masks.per_head(), MaskError, "per_head is given nothing; it needs one Mask or more"),
    (lambda: masks.per_head(masks.causal(), np.ones((2, 2), bool)), MaskError, "per_head is given Mask, ndarray"),
    (lambda: masks.per_head(masks.padding([1]), masks.padding([1, 2])), ShapeError, "B = 1 but mask padding for B = 2"),
])  # fmt: skip
def test_refused(make, kind, words):
    with pytest.raises(kind, match=words):
        make()
