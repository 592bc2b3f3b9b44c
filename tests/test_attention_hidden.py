"""What a row may not see: empty rows, empty axes, and poison in what is hidden."""

import numpy as np
import pytest

import minattn as ma
from minattn import masks


def test_a_row_that_sees_nothing(drawn):
    q, k, v = drawn(4)
    mask = np.random.default_rng(0).random((5, 7)) < 0.7
    mask[[1, 3]] = False
    out, weights, lse = ma.attention(q, k, v, mask=mask, return_weights=True, return_lse=True)
    for n in (1, 3):
        assert (out[:, :, n] == 0).all()
        assert (weights[:, :, n] == 0).all()
        assert (lse[:, :, n] == -np.inf).all()
    assert np.isfinite(lse[:, :, [0, 2, 4]]).all()
    sink = np.linspace(-3, 3, 6)
    out, lse = ma.attention(q, k, v, mask=mask, sink_logits=sink, return_lse=True)
    assert (out[:, :, [1, 3]] == 0).all()
    assert (lse[:, :, [1, 3]] == sink[:, None]).all()


def test_more_queries_than_keys_under_causal(drawn):
    """The last query stands at the last key, so the first N - S queries stand before every key."""
    q, k, v = drawn(5, N=7, S=3)
    out, weights = ma.attention(q, k, v, causal=True, return_weights=True)
    assert not out[:, :, :4].any()
    assert ((weights > 0) == np.tri(7, 3, -4, dtype=bool)).all()


@pytest.mark.parametrize("sizes", [{"S": 0}, {"N": 0}, {"B": 0}, {"N": 0, "S": 0}, {"B": 0, "N": 0, "S": 0}])
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"mask": masks.last(2)}, {"softcap": 2.0}, {"lengths": 3}], ids=str)
def test_empty_axes(drawn, sizes, options):
    q, k, v = drawn(0, **sizes)
    if "lengths" in options:
        options = {"mask": masks.padding(np.full(len(q), options["lengths"]))}
    (B, H, N, _), S = q.shape, k.shape[2]
    out, weights, lse = ma.attention(q, k, v, return_weights=True, return_lse=True, **options)
    assert (out.shape, weights.shape, lse.shape) == ((B, H, N, 3), (B, H, N, S), (B, H, N))
    assert not out.any()
    assert (lse == -np.inf).all()
    grads = ma.attention_backward(out, q, k, v, **options)
    assert [g.shape for g in grads[:3]] == [a.shape for a in (q, k, v)]
    assert not any(g.any() for g in grads[:3])
    assert ma.attention_weights(q, k, top=3, **options)[0].shape == (B, H, N, 3)
    assert ma.steps(q, k, v, **options).out.shape == out.shape


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "options",
    [{}, {"softcap": 1.5}, {"score_mod": lambda s, b, h, i, j: s - 0.1 * (i - j)}, {"sink_logits": np.ones(6)}],
    ids=str,
)
def test_poison_in_what_is_hidden(drawn, poison, options):
    q, k, v = drawn(6)
    mask = np.random.default_rng(1).random((2, 1, 5, 7)) < 0.6
    mask[:, :, :, [2, 5]] = False  # keys that nobody sees
    mask[0, :, :, 6], mask[1, :, :, 6] = False, True  # a key that one row of the batch sees
    mask[:, :, 3] = False  # a query that sees nothing
    want = ma.attention(q, k, v, mask=mask, return_weights=True, return_lse=True, **options)
    for a in (k, v):
        a[:, :, [2, 5]] = poison
        a[0, :, 6] = poison
    q[:, :, 3] = poison
    got = ma.attention(q, k, v, mask=mask, return_weights=True, return_lse=True, **options)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    steps = ma.steps(q, k, v, mask=mask, **options)
    np.testing.assert_array_equal(steps.out, want[0])
    np.testing.assert_array_equal(ma.attention_weights(q, k, mask=mask, **options), want[1])


@pytest.mark.parametrize("where", ["q", "k", "v"])
def test_poison_that_is_seen_shows(drawn, where):
    """Nothing is swept under the carpet: who sees a NaN gets a NaN, and nobody else does."""
    q, k, v = drawn(7)
    dict(zip("qkv", (q, k, v), strict=True))[where][1, 2 if where == "q" else 1, 4, 0] = np.nan
    out, weights = ma.attention(q, k, v, causal=True, q_pos=np.arange(5), k_pos=np.arange(7), return_weights=True)
    sick = np.zeros((2, 6, 5), bool)
    if where == "q":
        sick[1, 2, 4] = True
    else:
        sick[1, 2:4, 4] = True  # the two query heads of KV head 1, from position 4 on
    np.testing.assert_array_equal(np.isnan(out).any(axis=-1), sick)
    np.testing.assert_array_equal(np.isnan(weights).any(axis=-1), sick & (where != "v"))
    assert not weights[..., ~np.tri(5, 7, dtype=bool)].any()  # hidden keys get 0 even in a row of NaN


def test_infinite_value_that_is_seen_shows(drawn):
    q, k, v = drawn(8)
    v[0, 0, 6, 1] = np.inf
    out = ma.attention(q, k, v, causal=True)
    assert (out[0, :2, 4, 1] == np.inf).all()
    assert np.isfinite(out[:, :, :4]).all()
