"""attention_weights: the map of attention, or any part of it."""

import numpy as np
import pytest

import minattn as ma
from minattn import masks

OPTIONS = {
    "plain": {},
    "causal": {"causal": True},
    "rule by head and row": {"mask": ma.Mask(lambda b, h, i, j: (i - j) % 3 >= (h + b) % 3)},
    "by index": {"mask": masks.segments(np.array([0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 2, 2, 2]))},
    "array": {"mask": np.random.default_rng(0).random((2, 6, 5, 7)) < 0.6},
    "bias of heads": {"bias": np.random.default_rng(1).standard_normal((6, 5, 7))},
    "bias of rows": {"bias": np.random.default_rng(1).standard_normal((2, 1, 5, 1))},
    "score_mod": {"score_mod": lambda s, b, h, i, j: s - 0.1 * (h + 1) * np.abs(i - j) + 0.1 * b},
    "softcap and sink": {"softcap": 0.8, "sink_logits": np.linspace(-2, 2, 6)},
    "positions": {
        "causal": True,
        "q_pos": np.array([[4, 0, -1, 2, 3], [1, 2, 3, 4, 5]]),
        "k_pos": np.array([2, 0, -1, 3, 1, -1, 4]),
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("heads", "rows"), [
    (None, None), (0, None), (5, 2), (-1, -2), ([3], None), ([4, 1, 1], [0]), (np.array([2, -6]), np.array([4, 0, 4])), (None, 3),
    (np.int64(4), range(1, 4)), ([0], np.zeros(0, int)),
], ids=str)  # fmt: skip
def test_parts_of_the_map(drawn, options, heads, rows):
    q, k, v = drawn(1)
    _, whole, lse = ma.attention(q, k, v, return_weights=True, return_lse=True, **options)
    index = lambda i: slice(None) if i is None else i if np.ndim(i) == 0 else list(i)  # noqa: E731
    want = whole[:, :, index(rows)]
    want = want[:, index(heads)]
    got = ma.attention_weights(q, k, heads=heads, rows=rows, **options)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        ma.attention_weights(q, k, lse=lse, heads=heads, rows=rows, **options), want, rtol=1e-12, atol=1e-15
    )


def test_asking_for_weights_changes_no_bit_of_out(drawn):
    for options in OPTIONS.values():
        q, k, v = drawn(2)
        np.testing.assert_array_equal(ma.attention(q, k, v, return_weights=True, **options)[0], ma.attention(q, k, v, **options))


def test_lse_of_the_whole_gives_the_share_of_a_part(drawn):
    q, k, v = drawn(3)
    _, whole, lse = ma.attention(q, k, v, return_weights=True, return_lse=True)
    np.testing.assert_allclose(ma.attention_weights(q, k[:, :, 2:5], lse=lse), whole[..., 2:5], rtol=1e-12)


@pytest.mark.parametrize("top", [1, 3, 7, 11])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_top(drawn, top, options):
    q, k, _ = drawn(4)
    whole = ma.attention_weights(q, k, **options)
    seen = whole > 0  # no weight of a visible key is 0 here
    indices, values = ma.attention_weights(q, k, top=top, **options)
    assert indices.shape == values.shape == (2, 6, 5, top)
    assert indices.dtype.kind == "i"
    for at in np.ndindex(2, 6, 5):
        order = sorted(np.flatnonzero(seen[at]), key=lambda s, at=at: (-whole[at][s], s))[:top]
        missing = top - len(order)
        assert indices[at].tolist() == [*order, *[-1] * missing]
        np.testing.assert_array_equal(values[at], [*whole[at][order], *[0] * missing])


def test_ties_go_to_the_earlier_key():
    q, k = np.ones((1, 2, 4)), np.ones((1, 6, 4))
    indices, values = ma.attention_weights(q, k, top=4, mask=np.array([[True] * 6, [False, True, True, False, False, True]]))
    assert indices.tolist() == [[[0, 1, 2, 3], [1, 2, 5, -1]]]
    np.testing.assert_allclose(values, [[[1 / 6] * 4, [1 / 3, 1 / 3, 1 / 3, 0]]])
    many = ma.attention_weights(np.ones((1, 2, 4)), np.ones((1, 500, 4)), top=300, mask=ma.Mask(lambda i, j: j != 7))[0]
    assert many.tolist() == [[[s for s in range(301) if s != 7]] * 2]


def test_a_seen_key_of_weight_zero_comes_before_padding():
    """-1 says that a row sees no more keys, not that they weigh nothing."""
    q, k = np.array([[[1.0]]]), np.array([[[0.0], [-2000.0], [0.0]]])
    indices, values = ma.attention_weights(q, k, scale=1, mask=np.array([[True, True, False]]), top=3)
    assert (indices.tolist(), values.tolist()) == ([[[0, 1, -1]]], [[[1.0, 0.0, 0.0]]])


def test_top_of_one_row_and_head(drawn):
    q, k, _ = drawn(5)
    indices, values = ma.attention_weights(q, k, heads=4, rows=-1, top=2, causal=True)
    assert indices.shape == values.shape == (2, 2)
    whole = ma.attention_weights(q, k, causal=True)[:, 4, -1]
    np.testing.assert_array_equal(indices[:, 0], whole.argmax(axis=-1))
    np.testing.assert_allclose(values[:, 0], whole.max(axis=-1))


def test_one_head_without_an_axis(drawn):
    q, k, _ = (a[0, 0] for a in drawn(6))
    whole = ma.attention_weights(q, k)
    assert whole.shape == (5, 7)
    np.testing.assert_allclose(ma.attention_weights(q, k, rows=2), whole[2], rtol=1e-14)
    with pytest.raises(ma.errors.OptionError, match="heads of arrays without a head axis"):
        ma.attention_weights(q, k, heads=0)


@pytest.mark.parametrize(("options", "words"), [
    ({"heads": 6}, "heads reach from 6 to 6, but q has H = 6"),
    ({"heads": [0, -7]}, "heads reach from -7 to 0, but q has H = 6"),
    ({"rows": 5}, "rows reach from 5 to 5, but q has N = 5"),
    ({"rows": [[0, 1]]}, "rows must be an int or a sequence of ints"),
    ({"heads": 1.0}, "heads must be an int"),
    ({"heads": np.array([True] * 6)}, "heads must be an int"),
    ({"top": 0}, "top = 0; it must be at least 1"),
    ({"top": 2.5}, "top is 2.5; it must be an integer"),
], ids=str)  # fmt: skip
def test_bad_parts(drawn, options, words):
    q, k, _ = drawn(7)
    with pytest.raises(ma.errors.OptionError, match=words):
        ma.attention_weights(q, k, **options)


def test_lse_of_another_shape(drawn):
    q, k, _ = drawn(8)
    with pytest.raises(ma.errors.ShapeError, match=r"lse is \(2, 6, 4\).*\(2, 6, 5\)"):
        ma.attention_weights(q, k, lse=np.zeros((2, 6, 4)))
