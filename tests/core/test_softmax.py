"""softmax, logsumexp and merge: their identities, at any size of the logits."""

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minattn as ma

LOGITS = st.floats(-1e4, 1e4) | st.just(-np.inf)
ROWS = hnp.arrays(np.float64, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6), elements=LOGITS)


@hypothesis.given(ROWS)
def test_softmax_is_its_definition(scores):
    got, lse = ma.softmax(scores), ma.logsumexp(scores)
    assert got.shape == scores.shape
    assert lse.shape == scores.shape[:-1]
    for at in np.ndindex(scores.shape[:-1]):
        row = [x for x in scores[at] if x > -np.inf]
        if not row:
            assert not got[at].any()
            assert lse[at] == -np.inf
            continue
        total = math.fsum(math.exp(x - max(row)) for x in row)
        np.testing.assert_allclose(lse[at], max(row) + math.log(total), rtol=1e-13)
        np.testing.assert_allclose(got[at], [math.exp(x - max(row)) / total for x in scores[at]], rtol=1e-12)
        assert abs(got[at].sum() - 1) < 1e-14


@hypothesis.given(ROWS, st.floats(-1e3, 1e3))
def test_a_shift_changes_lse_alone(scores, shift):
    np.testing.assert_allclose(ma.softmax(scores + shift), ma.softmax(scores), atol=1e-11)
    np.testing.assert_allclose(ma.logsumexp(scores + shift), ma.logsumexp(scores) + shift, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_any_axis(axis):
    scores = np.random.default_rng(0).standard_normal((3, 4, 5))
    np.testing.assert_allclose(
        ma.softmax(scores, axis), np.moveaxis(ma.softmax(np.moveaxis(scores, axis, -1)), -1, axis), rtol=1e-15
    )
    np.testing.assert_allclose(ma.logsumexp(scores, axis), np.log(np.exp(scores).sum(axis=axis)), rtol=1e-14)


@pytest.mark.parametrize(
    ("given", "weights", "lse"), [("d", "d", "d"), ("f", "f", "f"), ("e", "e", "f"), ("l", "d", "d"), ("b", "f", "f")]
)
def test_types(given, weights, lse):
    scores = np.arange(3).astype(given)
    assert (ma.softmax(scores).dtype.char, ma.logsumexp(scores).dtype.char) == (weights, lse)
    np.testing.assert_allclose(ma.softmax(scores), ma.softmax(scores.astype(float)), rtol=1e-3)


def test_bfloat16(need):
    scores = np.arange(3).astype(need("ml_dtypes").bfloat16)
    assert ma.softmax(scores).dtype == scores.dtype
    assert ma.logsumexp(scores).dtype == np.float32


def test_float16_sums_that_float16_could_not_hold():
    scores = np.zeros(100_000, np.float16)
    np.testing.assert_allclose(ma.logsumexp(scores), np.log(100_000), rtol=1e-6)
    assert (ma.softmax(scores) == np.float16(1e-5)).all()


def test_inputs_are_left_alone():
    scores = np.array([[1.0, -np.inf, 2.0]])
    scores.flags.writeable = False
    ma.softmax(scores)
    ma.logsumexp(scores)
    assert ma.softmax([1, 1]).tolist() == [0.5, 0.5]


# merge ---------------------------------------------------------------------------------------------------------------


def part(q, k, v, keys, **options):
    """Attention over some of the keys: (out, lse)."""
    return ma.attention(q, k[:, keys], v[:, keys], return_lse=True, **options)


def test_commutative_to_the_bit():
    rng = np.random.default_rng(0)
    for scale in (1, 1e4):
        a, b = ((rng.standard_normal((3, 50, 4)), scale * rng.standard_normal((3, 50))) for _ in range(2))
        a[1][0], b[1][1] = -np.inf, -np.inf
        for x, y in zip(ma.merge(*a, *b), ma.merge(*b, *a), strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_associative(scale):
    rng = np.random.default_rng(1)
    a, b, c = ((rng.standard_normal((40, 3)), scale * rng.standard_normal(40)) for _ in range(3))
    for x, y in zip(ma.merge(*ma.merge(*a, *b), *c), ma.merge(*a, *ma.merge(*b, *c)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-11)


def test_the_empty_part_changes_no_bit():
    rng = np.random.default_rng(2)
    out, lse, empty = rng.standard_normal((5, 3)), 1e3 * rng.standard_normal(5), (np.zeros((5, 3)), np.full(5, -np.inf))
    for merged in (ma.merge(out, lse, *empty), ma.merge(*empty, out, lse)):
        np.testing.assert_array_equal(merged[0], out)
        np.testing.assert_array_equal(merged[1], lse)


def test_two_empty_parts_are_empty():
    out, lse = ma.merge(*[np.zeros((2, 3)), np.full(2, -np.inf)] * 2)
    assert not out.any()
    assert (lse == -np.inf).all()


def test_it_is_the_average_weighted_by_the_totals():
    out, lse = ma.merge(np.array([[1.0]]), np.log([3.0]), np.array([[5.0]]), np.log([1.0]))
    np.testing.assert_allclose([out.item(), lse.item()], [2.0, np.log(4)], rtol=1e-15)


@hypothesis.given(st.lists(st.integers(0, 4), min_size=7, max_size=7), st.randoms(), st.sampled_from([1.0, 1e4]), st.booleans())
def test_any_split_in_any_order_is_the_whole(close, owner, random, scale, with_sink):
    rng = np.random.default_rng(random.randrange(2**32))
    q, k, v = (rng.standard_normal((3, length, 4)) for length in (5, 7, 7))
    positions = {"mask": ma.masks.window(3, 1), "q_pos": np.arange(5)}
    sink = {"sink_logits": rng.standard_normal(3)} if with_sink else {}
    want = ma.attention(q, k, v, scale=scale, return_lse=True, k_pos=np.arange(7), **positions, **sink)
    owned = [np.flatnonzero(np.array(owner) == part) for part in range(5)]  # some are empty
    random.shuffle(owned)
    lucky = random.randrange(5)  # the sink goes to one part only
    parts = [
        part(q, k, v, keys, scale=scale, k_pos=keys, **positions, **(sink if at == lucky else {}))
        for at, keys in enumerate(owned)
    ]
    out, lse = parts[0]
    for other in parts[1:]:
        out, lse = ma.merge(out, lse, *other)
    close(out, want[0], 1e-9)
    close(lse, want[1], 1e-12)


def test_a_sink_in_both_parts_counts_twice():
    rng = np.random.default_rng(3)
    q, k, v = (rng.standard_normal((2, 6, 4)) for _ in range(3))
    sink = {"sink_logits": np.array([1.0, 2.0])}
    whole = ma.attention(q, k, v, return_lse=True, **sink)
    once = ma.merge(*part(q, k, v, slice(0, 3), **sink), *part(q, k, v, slice(3, 6)))
    twice = ma.merge(*part(q, k, v, slice(0, 3), **sink), *part(q, k, v, slice(3, 6), **sink))
    np.testing.assert_allclose(once[0], whole[0], rtol=1e-12)
    assert np.abs(twice[0] - whole[0]).max() > 1e-2


def test_types_of_merge():
    out, lse = np.ones((2, 3), np.float16), np.zeros(2, np.float32)
    merged = ma.merge(out, lse, out, lse)
    assert [a.dtype for a in merged] == [np.float16, np.float32]
    assert ma.merge(out, lse, out.astype(np.float64), lse.astype(np.float64))[0].dtype == np.float64


@pytest.mark.parametrize(("shapes", "words"), [
    (((2, 3), (3,), (2, 3), (2,)), r"lse_a is \(3,\) but out_a is \(2, 3\).*\(\.\.\., N\) = \(2,\)"),
    (((2, 3), (2,), (2, 3), (2, 1)), r"lse_b is \(2, 1\) but out_b is \(2, 3\)"),
    (((2, 3), (2,), (4, 3), (4,)), r"out_a is \(2, 3\) but out_b is \(4, 3\)"),
    (((2, 3), (2,), (2, 5), (2,)), r"out_a is \(2, 3\) but out_b is \(2, 5\)"),
], ids=str)  # fmt: skip
def test_bad_shapes(shapes, words):
    with pytest.raises(ma.errors.ShapeError, match=words):
        ma.merge(*(np.zeros(shape) for shape in shapes))


def test_permutations_of_three_parts():
    rng = np.random.default_rng(4)
    parts = [(rng.standard_normal((6, 2)), 10 * rng.standard_normal(6)) for _ in range(3)]
    outs = [ma.merge(*ma.merge(*a, *b), *c)[0] for a, b, c in itertools.permutations(parts)]
    np.testing.assert_allclose(outs, np.broadcast_to(outs[0], (6, 6, 2)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("scores", "kind", "words"), [
    (np.ones(3) * 1j, ma.errors.DtypeError, "scores are complex128; they must be real numbers"),
    (["a"], ma.errors.DtypeError, "scores are <U1"),
    ([None, 1.0], ma.errors.DtypeError, "scores are object"),
    ([[1.0], [1.0, 2.0]], ma.errors.ShapeError, "scores: rows of unequal length"),
    (np.ma.masked_equal([1.0, 2.0], 2.0), ma.errors.DtypeError, "scores is a masked array, and its mask would be ignored"),
])  # fmt: skip
def test_scores_that_are_none(scores, kind, words):
    for function in (ma.softmax, ma.logsumexp):
        with pytest.raises(kind, match=words):
            function(scores)


def test_merge_wants_floats(need):
    out, lse = np.ones((2, 3)), np.zeros(2)
    with pytest.raises(ma.errors.DtypeError, match="out_a is int64"):
        ma.merge(out.astype(int), lse, out.astype(int), lse)
    with pytest.raises(ma.errors.DtypeError, match="lse_b is object"):
        ma.merge(out, lse, out, [None, 1.0])
    with pytest.raises(ma.errors.DtypeError, match="out_a float16, out_b bfloat16"):
        ma.merge(out.astype(np.float16), lse, out.astype(need("ml_dtypes").bfloat16), lse)
