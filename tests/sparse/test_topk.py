"""Top-k attention against sorting each row in plain Python, its ties, its gradient, and what it must not read."""
import tracemalloc

import numpy as np
import pytest

import minattn as ma
from minattn import masks

OPTIONS = {
    "plain": {}, "causal": {"causal": True}, "scale and cap": {"scale": 0.7, "softcap": 1.3},
    "window": {"mask": masks.last(3) | masks.first(1), "causal": True},
    "positions": {"q_pos": np.array([4, 0, 9, -1, 2]), "k_pos": np.array([3, -1, 0, 8, 1, 4, 2]), "causal": True},
    "score_mod": {"score_mod": lambda s, b, h, i, j: s - 0.3 * h * (i - j)},
    "array": {"mask": np.random.default_rng(1).random((2, 1, 5, 7)) < 0.6},
}  # fmt: skip


def kept_pairs(q, k, keep, **options):
    """Which scores remain, (B, H, N, S): every row sorted as a list, the larger first and then the earlier key."""
    masked = ma.steps(q, k, k, **options).masked
    kept = np.zeros(masked.shape, bool)
    for row in np.ndindex(masked.shape[:-1]):
        order = sorted((-score, s) for s, score in enumerate(masked[row].tolist()) if score > -np.inf)
        kept[row][[s for _, s in order[:keep]]] = True
    return kept


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("keep", [1, 2, 5, 7, 50])
def test_against_sorting(name, keep, drawn, close):
    q, k, v = drawn(keep)
    options = OPTIONS[name]
    kept = kept_pairs(q, k, keep, **options)
    out, lse = ma.topk_attention(q, k, v, keep=keep, **options, return_lse=True)
    want, want_lse = ma.attention(q, k, v, **options | {"mask": kept}, return_lse=True)
    close(out, want)
    close(lse, want_lse)
    if keep >= 7:
        close(out, ma.attention(q, k, v, **options))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("keep", [1, 3, 7])
def test_gradient_is_that_of_the_kept(name, keep, drawn, close):
    q, k, v = drawn(keep)
    options, bias = OPTIONS[name], np.random.default_rng(4).standard_normal((6, 1, 7))
    dout = np.random.default_rng(5).standard_normal((2, 6, 5, 3))
    got = ma.topk_attention_backward(dout, q, k, v, keep=keep, bias=bias, **options)
    kept = kept_pairs(q, k, keep, bias=bias, **options)
    want = ma.attention_backward(dout, q, k, v, bias=bias, **options | {"mask": kept})
    assert got.dsink_logits is None
    for a, b in zip(got[:4], want[:4], strict=True):
        close(a, b)


@pytest.mark.parametrize("shape", [(6, 130, 70), (1, 70), (2, 1, 1, 70)])
def test_gradient_of_many_blocks(shape, drawn, close):
    q, k, v = drawn(8, N=130, S=70)
    bias, dout = np.random.default_rng(4).standard_normal(shape), np.random.default_rng(5).standard_normal((2, 6, 130, 3))
    got = ma.topk_attention_backward(dout, q, k[:1], v, keep=6, bias=bias)
    kept = kept_pairs(q, k[:1], 6, bias=bias)
    for a, b in zip(got[:4], ma.attention_backward(dout, q, k[:1], v, bias=bias, mask=kept)[:4], strict=True):
        close(a, b)


def test_gradient_against_differences(drawn, slopes, close):
    q, k, v = drawn(2, B=1, H=2, G=1, N=3, S=5, D=2, Dv=2)
    dout = np.random.default_rng(3).standard_normal((1, 2, 3, 2))
    grads = ma.topk_attention_backward(dout, q, k, v, keep=2, causal=True)
    given = {"q": q, "k": k, "v": v}
    for name, got in zip(given, grads, strict=False):

        def loss(x, name=name):
            return (ma.topk_attention(**given | {name: x}, keep=2, causal=True) * dout).sum()

        close(got, slopes(loss, given[name]), 1e-6)


@pytest.mark.parametrize(("keep", "want"), [(1, [1, 1]), (2, [1.5, 2]), (3, [2, 2]), (4, [2.5, 2.5])])
def test_of_equal_scores_the_earlier_keys_are_kept(keep, want):
    """Query 0 scores all keys alike; query 1 prefers keys 0 and 2, and then has to choose."""
    k, v = np.array([[1.0, 1], [1, 0], [1, 1], [1, 0]]), np.array([[1.0], [2], [3], [4]])
    out = ma.topk_attention(np.array([[2.0, 0], [0, 1e-9]]), k, v, keep=keep)
    np.testing.assert_allclose(out[:, 0], want, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("N", [1, 65, 129])
def test_blocks_of_queries_and_types(dtype, N, drawn, close):
    q, k, v = drawn(N, N=N, S=130, D=8, dtype=dtype)
    wide = [a.astype(np.float64) for a in (q, k, v)]                  # scores of 16 bits would tie
    kept = kept_pairs(*wide[:2], 9, causal=True)
    got = ma.topk_attention(q, k, v, keep=9, causal=True)
    assert got.dtype == dtype
    close(got, ma.attention(*wide, mask=kept), {np.float16: 2e-3, np.float32: 1e-5, np.float64: 1e-10}[dtype])


def test_one_head_and_nothing():
    q, k, v = np.random.default_rng(0).standard_normal((3, 6, 4))
    assert ma.topk_attention(q, k, v, keep=2).shape == (6, 4)
    assert not ma.topk_attention(q, k[:0], v[:0], keep=2).any()
    assert ma.topk_attention(q[:0], k, v, keep=2).shape == (0, 4)
    out, lse = ma.topk_attention(q, k, v, keep=2, mask=np.zeros((6, 6), bool), return_lse=True)
    assert not out.any()
    assert np.isneginf(lse).all()


def test_what_is_hidden_is_not_read_and_what_is_seen_shows(drawn):
    q, k, v = drawn(0, N=7)
    want = ma.topk_attention(q, k, v, keep=3, causal=True)
    k[..., 5:, :], v[..., 5:, :] = np.nan, np.inf
    got = ma.topk_attention(q, k, v, keep=3, causal=True)
    np.testing.assert_array_equal(got[..., :5, :], want[..., :5, :])
    assert np.isnan(got[..., 5:, :]).all()


def test_a_long_text_needs_no_square():
    N = 3000
    q, k, v = np.random.default_rng(0).standard_normal((3, N, 4)).astype(np.float32)
    tracemalloc.start()
    ma.topk_attention(q, k, v, keep=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < N * N < 4 * N * N


@pytest.mark.parametrize(("options", "kind", "words"), [
    ({"keep": 0}, ma.errors.OptionError, "keep = 0; it must be at least 1"),
    ({"keep": 2.0}, ma.errors.OptionError, "keep is 2.0; it must be an integer"),
    ({"keep": 2, "mask": np.ones((2, 2), bool)}, ma.errors.ShapeError, r"mask is \(2, 2\) but the scores have"),
    ({"keep": 2, "softcap": -1}, ma.errors.OptionError, "softcap = -1"),
])  # fmt: skip
def test_refused(options, kind, words, drawn):
    q, k, v = drawn(0)
    with pytest.raises(kind, match=words):
        ma.topk_attention(q, k, v, **options)
    with pytest.raises(kind, match=words):
        ma.topk_attention_backward(np.zeros((2, 6, 5, 3)), q, k, v, **options)


def test_backward_refuses_another_shape(drawn):
    q, k, v = drawn(0)
    with pytest.raises(ma.errors.ShapeError, match=r"dout is \(2, 6, 5, 4\); it must be"):
        ma.topk_attention_backward(np.zeros((2, 6, 5, 4)), q, k, v, keep=2)
