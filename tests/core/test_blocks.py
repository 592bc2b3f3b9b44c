"""Block maps: put together again they are the mask; what arithmetic settles is settled rightly; equal tiles stand once."""
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minattn as ma
from minattn import masks
from minattn.core.blocks import EMPTY, FULL, PARTIAL

RNG = np.random.default_rng(3)
MASKS = {
    "causal": masks.causal(),
    "window": masks.window(5, 2),
    "one side": masks.window(None, 3) | ~masks.window(2, None),
    "last and first": masks.causal() & (masks.last(4) | masks.first(3)),
    "prefix": masks.prefix(6),
    "not a window": ~masks.last(7),
    "padding": masks.padding([9, 0, 23]) & masks.causal(),
    "documents": masks.segments(np.sort(RNG.integers(0, 4, 19)), np.sort(RNG.integers(0, 4, 23))),
    "documents by row": masks.segments(RNG.integers(0, 3, (3, 19)), np.sort(RNG.integers(0, 3, (3, 23)))) | masks.first(2),
    "a rule": ma.Mask(lambda i, j: (i - j) % 3 == 0) & masks.causal(),
    "a rule of heads": ma.Mask(lambda b, h, i, j: j <= i - 3 * h),
    "a constant": ma.Mask(lambda i, j: True),
}


def together(blocks, N, S):
    """The dense mask (B, H, N, S) that a block map stands for."""
    B, H, rows, columns = blocks.kind.shape
    seen = np.zeros((B, H, rows * blocks.block_q, columns * blocks.block_k), bool)
    for b, h, row, column in np.ndindex(blocks.kind.shape):
        n, s = row * blocks.block_q, column * blocks.block_k
        at = np.s_[b, h, n : n + blocks.block_q, s : s + blocks.block_k]
        kind, stored = blocks.kind[b, h, row, column], blocks.stored[b, h, row, column]
        assert (stored >= 0) == (kind == PARTIAL)
        seen[at] = blocks.partial[stored] if kind == PARTIAL else kind == FULL
    return seen[:, :, :N, :S]


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@given(block_q=st.integers(1, 21), block_k=st.integers(1, 25), shuffled=st.booleans(), seed=st.integers(0, 99))
def test_put_together_it_is_the_mask(mask, block_q, block_k, shuffled, seed):
    N, S, rng = 19, 23, np.random.default_rng(seed)
    q_pos, k_pos = (rng.integers(-1, 25, (3, N)), rng.integers(-1, 25, (3, S))) if shuffled else (None, None)
    options = {"batch": 3, "heads": 2, "q_pos": q_pos, "k_pos": k_pos}
    blocks = mask.blocks(N, S, block_q=block_q, block_k=block_k, **options)
    want = np.broadcast_to(mask.dense(N, S, **options), (3, 2, N, S))
    np.testing.assert_array_equal(np.broadcast_to(together(blocks, N, S), want.shape), want)
    for tile in blocks.partial:
        assert tile.any()
    assert len({tile.tobytes() for tile in blocks.partial}) == len(blocks.partial)


@pytest.mark.parametrize("name", ["causal", "window", "last and first", "prefix", "a rule"])
def test_one_map_serves_all_rows_and_heads(name):
    assert MASKS[name].blocks(19, 23, block_q=4, block_k=5, batch=3, heads=2).kind.shape == (1, 1, 5, 5)
    assert MASKS["padding"].blocks(19, 23, block_q=4, block_k=5, heads=2).kind.shape == (3, 1, 5, 5)
    assert MASKS["a rule of heads"].blocks(19, 23, block_q=4, block_k=5, batch=3, heads=2).kind.shape == (1, 2, 5, 5)


def test_causal_stores_its_diagonal_once():
    blocks = masks.causal().blocks(640, 640)
    assert [(blocks.kind == kind).sum() for kind in (EMPTY, FULL, PARTIAL)] == [45, 45, 10]
    assert len(blocks.partial) == 1
    assert blocks.active == 0.55


def test_a_window_of_a_long_text_needs_no_square():
    N = 1 << 17
    tracemalloc.start()
    blocks = masks.last(1000).blocks(N, N, block_q=512, block_k=512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6 < N * N
    assert (blocks.kind != EMPTY).sum(axis=-1).max() == 3


@pytest.mark.parametrize(("N", "S"), [(0, 7), (7, 0), (0, 0)])
def test_nothing(N, S):
    blocks = masks.causal().blocks(N, S, block_q=4, block_k=4)
    assert blocks.kind.shape == (1, 1, (N + 3) // 4, (S + 3) // 4)
    assert blocks.active == 0
    assert "tiles of 4 x 4" in repr(blocks)


def test_refuses():
    with pytest.raises(ma.errors.OptionError, match="block_q = 0; it must be at least 1"):
        masks.causal().blocks(4, 4, block_q=0)
    with pytest.raises(ma.errors.ShapeError, match="padding is made for B = 2 but the scores have B = 3"):
        masks.padding([1, 2]).blocks(4, 4, batch=3)
