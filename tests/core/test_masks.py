"""The named masks, each against a double loop over drawn positions that says the same in words of its own."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import minattn as ma
from minattn import masks
from minattn.core.errors import MaskError, OptionError, ShapeError

SMALL = st.integers(0, 6)
NAMED = {
    "causal": st.just((masks.causal(), lambda i, j: not j > i)),
    "window": st.tuples(SMALL, SMALL).map(lambda t: (masks.window(*t), lambda i, j: j in range(i - t[0], i + t[1] + 1))),
    "left": SMALL.map(lambda n: (masks.window(n), lambda i, j: j in range(i - n, i + 1))),
    "unbounded left": SMALL.map(lambda n: (masks.window(None, n), lambda i, j: j - n <= i)),
    "unbounded right": SMALL.map(lambda n: (masks.window(n, None), lambda i, j: j + n >= i)),
    "unbounded": st.just((masks.window(None, None), lambda i, j: True)),
    "last": st.integers(1, 7).map(lambda n: (masks.last(n), lambda i, j: j in [i - back for back in range(n)])),
    "first": SMALL.map(lambda n: (masks.first(n), lambda i, j: j in range(n))),
    "prefix": SMALL.map(lambda n: (masks.prefix(n), lambda i, j: j in range(i + 1) or j in range(n))),
}
POSITIONS = st.lists(st.integers(0, 12), min_size=1, max_size=8)


@pytest.mark.parametrize("name", NAMED)
def test_named_masks(name):
    @hypothesis.given(NAMED[name], POSITIONS, POSITIONS)
    def check(pair, q_pos, k_pos):
        mask, sees = pair
        got = mask.dense(len(q_pos), len(k_pos), q_pos=q_pos, k_pos=k_pos)
        assert got.tolist() == [[sees(i, j) for j in k_pos] for i in q_pos]

    check()


@pytest.mark.parametrize(("left", "right"), [(0, 0), (2, 0), (0, 3), (2, 1)])
def test_windows_count_inclusive_distances(left, right):
    seen = masks.window(left, right).dense(20, 20).sum(axis=1)
    assert (seen[left : 20 - right] == left + 1 + right).all()
    assert seen[0] == 1 + right
    assert seen[-1] == left + 1


def test_last_counts_keys():
    assert (masks.last(3).dense(9, 9).sum(axis=1) == [1, 2, 3, 3, 3, 3, 3, 3, 3]).all()
    np.testing.assert_array_equal(masks.last(3).dense(9, 9), masks.window(2).dense(9, 9))


def test_first_is_for_queries_before_and_after():
    assert masks.first(2).dense(4, 4).sum(axis=1).tolist() == [2, 2, 2, 2]
    assert (masks.first(2) & masks.causal()).dense(4, 4).sum(axis=1).tolist() == [1, 2, 2, 2]


def test_prefix_of_all_is_bidirectional():
    assert masks.prefix(5).dense(5, 5).all()
    np.testing.assert_array_equal(masks.prefix(0).dense(5, 5), masks.causal().dense(5, 5))


@hypothesis.given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 7))
def test_padding(lengths, S):
    got = masks.padding(lengths).dense(3, S)
    assert got.shape == (len(lengths), 1, 3, S)
    for b, n, s in np.ndindex(len(lengths), 3, S):
        assert got[b, 0, n, s] == (s < lengths[b])


def test_padded_rows_are_each_row_alone(drawn, close):
    """Three rows of 7, 3 and 0 real keys in one batch: each equals itself without the padding."""
    q, k, v = drawn(0, B=3, N=7)
    lengths = [7, 3, 0]
    out = ma.attention(q, k, v, mask=masks.padding(lengths), causal=True)
    for b, n in enumerate(lengths):
        close(out[b, :, :n], ma.attention(q[b, :, :n], k[b, :, :n], v[b, :, :n], causal=True))
    assert not out[2].any()


def test_a_mask_stays_what_it_was():
    """Whoever keeps counting in the array that a mask was made of does not change the mask."""
    lengths, ids = np.array([1, 2]), np.array([0, 0, 1])
    padding, segments = masks.padding(lengths), masks.segments(ids)
    lengths += 1
    ids[:] = 0
    assert padding.dense(1, 3)[:, 0, 0].tolist() == [[True, False, False], [True, True, False]]
    assert segments.dense(3, 3).sum() == 5


@hypothesis.given(
    st.lists(st.integers(0, 3), min_size=1, max_size=7), st.lists(st.integers(0, 3), min_size=1, max_size=7), st.booleans()
)
def test_segments_go_by_index(q_ids, k_ids, move):
    N, S = len(q_ids), len(k_ids)
    positions = {"q_pos": np.arange(N)[::-1] + 5, "k_pos": np.arange(S)[::-1]} if move else {}
    assert masks.segments(q_ids, k_ids).dense(N, S, **positions).tolist() == [[a == b for b in k_ids] for a in q_ids]
    assert masks.segments(q_ids).dense(N, N).tolist() == [[a == b for b in q_ids] for a in q_ids]


def test_segments_of_rows():
    q_ids, k_ids = np.array([[0, 1], [2, 2]]), np.array([[1, 1, 0], [2, 0, 2]])
    for ids in ((q_ids, k_ids), (q_ids[0], k_ids), (q_ids, k_ids[0])):
        got = masks.segments(*ids).dense(2, 3)
        wide = [np.broadcast_to(a, (2, a.shape[-1])) for a in ids]
        np.testing.assert_array_equal(got[:, 0], wide[0][:, :, None] == wide[1][:, None, :])


def test_packed_documents_are_separate_runs(drawn, close):
    """Documents in one row, masked apart and counted from 0 each, equal each document alone."""
    q, k, v = drawn(1, N=9, S=9)
    ends, ids = [0, 4, 5, 9], np.repeat([0, 1, 2], [4, 1, 4])
    positions = np.concatenate([np.arange(n) for n in (4, 1, 4)])
    packed = ma.attention(q, k, v, mask=masks.segments(ids), causal=True, q_pos=positions, k_pos=positions)
    for a, b in itertools.pairwise(ends):
        close(packed[:, :, a:b], ma.attention(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], causal=True))


@pytest.mark.parametrize(("make", "kind", "words"), [
    (lambda: masks.window(-1), OptionError, "window's distance = -1; it must be at least 0"),
    (lambda: masks.window(2, -3), OptionError, "window's distance = -3"),
    (lambda: masks.window(2.5), OptionError, "window's distance is 2.5; it must be an integer"),
    (lambda: masks.last(0), OptionError, "n = 0; it must be at least 1"),
    (lambda: masks.last("3"), OptionError, "n is '3'; it must be an integer"),
    (lambda: masks.first(-1), OptionError, "n = -1; it must be at least 0"),
    (lambda: masks.prefix(1.0), OptionError, "n is 1.0; it must be an integer"),
    (lambda: masks.padding(3), MaskError, r"lengths are int64 of shape \(\); padding needs integers \(B,\)"),
    (lambda: masks.padding([[1, 2]]), MaskError, r"shape \(1, 2\)"),
    (lambda: masks.padding([1.0]), MaskError, "lengths are float64"),
    (lambda: masks.padding([1, -1]), MaskError, "none below 0"),
    (lambda: masks.padding(np.ones((2, 5), bool)), MaskError, "lengths are bool"),
    (lambda: masks.padding([[1], [1, 2]]), ShapeError, "lengths: rows of unequal length"),
    (lambda: masks.segments(["a", "b"]), MaskError, "q_ids are <U1; they must be integers"),
    (lambda: masks.segments([0, 1], [0.0, np.nan]), MaskError, "k_ids are float64"),
    (lambda: masks.segments(3), ShapeError, r"q_ids is \(\)"),
    (lambda: masks.segments([1], [[[1]]]), ShapeError, r"k_ids is \(1, 1, 1\)"),
    (lambda: masks.segments([[1], [2]], [[1], [2], [3]]), ShapeError, "q_ids has B = 2 but k_ids has B = 3"),
])  # fmt: skip
def test_refused(make, kind, words):
    with pytest.raises(kind, match=words):
        make()
