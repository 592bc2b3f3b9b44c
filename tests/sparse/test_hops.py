"""Reach: walks along visible pairs, counted out one by one, and what papers say of their patterns."""
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import minattn as ma
from minattn import masks


def walk(layers, j, N):
    """The tokens that token j has reached when it has passed through the layers, each a dense mask."""
    reached = {j}
    for seen in layers:
        reached |= {i for i in range(N) if any(seen[i, m] for m in reached)}
    return reached


@hypothesis.given(st.integers(0, 12), st.integers(0, 4), st.integers(1, 3), st.integers(0, 99))
def test_against_walks(N, hops, kinds, seed):
    rng = np.random.default_rng(seed)
    tables = rng.random((kinds, 13, 13)) < 0.15                       # also of tokens that do not see themselves
    rules = [ma.Mask(lambda i, j, table=table: table[i, j]) for table in tables]
    got = ma.reach(rules[0] if kinds == 1 else rules, hops, N)
    layers = [tables[hop % kinds][:N, :N] for hop in range(hops)]
    want = [walk(layers, j, N) for j in range(N)]
    assert got.dtype == bool
    assert got.tolist() == [[i in want[j] for j in range(N)] for i in range(N)]


@pytest.mark.parametrize(("W", "L"), [(1, 5), (2, 3), (4, 1), (4, 6), (7, 0)])
def test_a_window_reaches_one_and_its_length_less_one_a_layer(W, L):
    assert ma.reach(masks.last(W), L, 60)[-1].sum() == 1 + L * (W - 1)


@pytest.mark.parametrize("N", [1, 7, 64, 129])
@pytest.mark.parametrize("stride", [1, 5, 11])
def test_strided_and_fixed_reach_all_of_the_past_in_two_hops(N, stride):
    past = masks.causal().dense(N, N)
    for whole in (masks.strided(stride), masks.fixed(stride), masks.fixed(stride, stride // 2 + 1)):
        np.testing.assert_array_equal(ma.reach(whole, 2, N), past)
    near, far = (masks.strided(stride, part=part) for part in (1, 2))
    for layers in ([near, far], [far, near]):                         # alternated, and as heads that split the pattern
        np.testing.assert_array_equal(ma.reach(layers, 2, N), past)
    np.testing.assert_array_equal(ma.reach(masks.per_head(near, far), 2, N, heads=2), past)
    own, summaries = (masks.fixed(stride, part=part) for part in (1, 2))
    np.testing.assert_array_equal(ma.reach([own, summaries], 2, N), past)


def test_one_global_token_reaches_everything_in_two_hops():
    assert ma.reach(masks.longformer(1, [3]), 2, 20).all()
    assert not ma.reach(masks.longformer(3, []), 2, 20).all()
    assert ma.reach(masks.bigbird(40, block=2, first=1, seed=0), 2, 40).all()


def test_rows_of_a_batch():
    got = ma.reach(masks.padding([3, 1]), 1, 4)
    assert got.shape == (2, 4, 4)
    assert got[1].astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]
    assert not ma.reach(masks.block_local(3), 9, 7)[:3, 3:].any()


@pytest.mark.parametrize(("options", "kind", "words"), [
    ((masks.causal(), -1, 4), ma.errors.OptionError, "hops = -1; it must be at least 0"),
    ((masks.causal(), 1, 4.0), ma.errors.OptionError, "N is 4.0; it must be an integer"),
    (([], 1, 4), ma.errors.MaskError, r"mask is \[\]; reach needs a Mask, or a sequence of Masks"),
    ((np.ones((2, 2), bool), 1, 2), ma.errors.MaskError, "reach needs a Mask"),
    (([masks.causal(), 3], 1, 2), ma.errors.MaskError, "one a layer in turn"),
])  # fmt: skip
def test_refused(options, kind, words):
    with pytest.raises(kind, match=words):
        ma.reach(*options)
