import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minattn as ma
from minattn.core.errors import CacheError, DtypeError, OptionError, ShapeError, TokenError, WeightsError
from minattn.models import Llama, LlamaCache, LlamaConfig
from minattn.models.llama import rms_norm, silu

CONFIG = LlamaConfig(2, 30, 44, 6, 2, 8, 61, 96)
MODEL = Llama.random(CONFIG, 1, np.float64)


def drawn_ids(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 61, shape)


def close(found, want):
    assert np.abs(found - want).max() <= 1e-10 * np.abs(want).max()


def test_the_parts_are_the_whole():
    ids = drawn_ids(13)
    x, positions = MODEL.embed(ids), np.arange(13)
    for layer in range(CONFIG.layers):
        q, k, v = MODEL.attention_inputs(layer, x, positions)
        assert (q.shape, k.shape, v.shape) == ((6, 13, 8), (2, 13, 8), (2, 13, 8))
        mixed, weights = ma.attention(q, k, v, causal=True, return_weights=True)
        y = x + ma.merge_heads(mixed) @ MODEL.layers[layer]["w_o"]
        z = y + MODEL.feed_forward(layer, y)
        found, seen = MODEL.block(layer, x, positions, return_weights=True)
        close(found, z)
        close(seen, weights)
        x = z
    close(MODEL.forward(ids), MODEL.logits(x))


def test_norm_and_gate():
    x = np.random.default_rng(2).standard_normal((3, 5, 7)).astype(np.float32)
    normed = rms_norm(x, np.ones(7, np.float32), 0.0)
    np.testing.assert_allclose((normed**2).mean(-1), 1, rtol=1e-5)
    assert normed.dtype == silu(x).dtype == np.float32
    wide = np.array([-1e4, -100.0, -3.0, 0.0, 2.0, 1e4])
    np.testing.assert_allclose(silu(wide), wide / (1 + np.exp(-wide.clip(-700))), atol=1e-30, rtol=1e-12)


def test_several_rows_are_each_row_alone():
    ids = drawn_ids(3, 11)
    logits, weights = MODEL.forward(ids, return_weights=True)
    assert logits.shape == (3, 11, 61)
    assert weights.shape == (2, 3, 6, 11, 11)
    for b in range(3):
        alone, seen = MODEL.forward(ids[b], return_weights=True)
        close(logits[b], alone)
        close(weights[:, b], seen)


def test_asking_for_weights_changes_nothing():
    ids = drawn_ids(9)
    logits, weights = MODEL.forward(ids, return_weights=True)
    np.testing.assert_array_equal(logits, MODEL.forward(ids))
    np.testing.assert_allclose(weights.sum(-1), 1)
    assert not weights[..., np.triu(np.ones((9, 9), bool), 1)].any()


def test_float32_stays_float32():
    m = Llama.random(CONFIG, 1)
    logits, weights = m.forward(drawn_ids(5), return_weights=True)
    assert logits.dtype == weights.dtype == m.new_cache(capacity=1)[0].k.dtype == np.float32


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_split_of_the_prefill_is_the_whole(data):
    N = data.draw(st.integers(1, 40))
    cuts = sorted(data.draw(st.sets(st.integers(1, N - 1)))) if N > 1 else []
    ids = drawn_ids(N, seed=N)
    want, maps = MODEL.forward(ids, return_weights=True)
    cache = MODEL.new_cache(capacity=N)
    for start, stop in zip([0, *cuts], [*cuts, N], strict=True):
        found, seen = MODEL.forward(ids[start:stop], cache=cache, return_weights=True)
        close(found, want[start:stop])
        close(seen, maps[:, :, start:stop, :stop])
    assert cache.lengths.tolist() == [N]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rows_of_unequal_length_are_each_row_alone(data):
    """Rows that arrive in chunks of their own sizes, padded with whatever ids, some of them with nothing at times."""
    B = data.draw(st.integers(1, 4))
    chunks = data.draw(st.lists(st.lists(st.integers(0, 9), min_size=B, max_size=B), min_size=1, max_size=5))
    chunks = np.array([*chunks, [1] * B])
    total = chunks.sum(0)
    rows = [drawn_ids(n, seed=100 + b) for b, n in enumerate(total)]
    want = [MODEL.forward(row) for row in rows]
    cache, done = MODEL.new_cache(B, capacity=int(total.max())), np.zeros(B, int)
    for lengths in chunks:
        ids = drawn_ids(B, max(lengths.max(), 1), seed=int(lengths.sum()))                # the padding is any token
        for b in range(B):
            ids[b, : lengths[b]] = rows[b][done[b] : done[b] + lengths[b]]
        logits = MODEL.forward(ids, lengths=lengths, cache=cache)
        assert np.isfinite(logits).all()
        for b in range(B):
            if lengths[b]:
                close(logits[b, : lengths[b]], want[b][done[b] : done[b] + lengths[b]])
        done += lengths
    np.testing.assert_array_equal(cache.lengths, total)
    padded = np.zeros((B, total.max()), int)
    for b in range(B):
        padded[b, : total[b]] = rows[b]
    whole, seen = MODEL.forward(padded, lengths=total, return_weights=True)               # and without a cache
    for b in range(B):
        close(whole[b, : total[b]], want[b])
        assert not seen[:, b, :, total[b] :].any()                                        # padding sees nothing
        assert not seen[:, b, :, :, total[b] :].any()                                     # and is not seen


def test_a_row_is_reset_alone():
    ids = drawn_ids(2, 7)
    cache = MODEL.new_cache(2, capacity=9)
    MODEL.forward(ids, cache=cache)
    cache.reset(1)
    assert cache.lengths.tolist() == [7, 0]
    again = MODEL.forward(ids, lengths=[0, 7], cache=cache)
    close(again[1], MODEL.forward(ids[1]))
    cache.reset()
    assert cache.lengths.tolist() == [0, 0]
    assert cache.capacity == 9


def test_a_full_cache_is_left_as_it_was():
    ids = drawn_ids(2, 8)
    cache = MODEL.new_cache(2, capacity=8)
    MODEL.forward(ids[:, :6], cache=cache)
    kept = [layer.k.copy() for layer in cache]
    with pytest.raises(CacheError, match="capacity = 8"):
        MODEL.forward(ids[:, :3], lengths=[1, 3], cache=cache)
    for layer, k in zip(cache, kept, strict=True):
        assert layer.lengths.tolist() == [6, 6]
        np.testing.assert_array_equal(layer.k, k)
    close(MODEL.forward(ids[:, 6:], cache=cache), MODEL.forward(ids)[:, 6:])


@pytest.mark.parametrize("failing", [0, 1])
def test_a_step_that_fails_midway_leaves_no_trace(failing):
    def broken(q, k, v, **options):
        raise KeyboardInterrupt

    ids = drawn_ids(8)
    cache = MODEL.new_cache(capacity=8)
    MODEL.forward(ids[:5], cache=cache)
    with pytest.raises(KeyboardInterrupt):
        MODEL.with_attention({failing: broken}).forward(ids[5:], cache=cache)
    assert [layer.lengths.tolist() for layer in cache] == [[5], [5]]
    close(MODEL.forward(ids[5:], cache=cache), MODEL.forward(ids)[5:])


def test_with_attention():
    def near(q, k, v, **options):
        return ma.attention(q, k, v, mask=ma.masks.last(3), **options)

    ids = drawn_ids(12)
    want, maps = MODEL.forward(ids, return_weights=True)
    all_near = MODEL.with_attention(near)
    _, seen = all_near.forward(ids, return_weights=True)
    assert ((seen > 0).sum(-1).max(axis=(0, 1)) == np.minimum(np.arange(12) + 1, 3)).all()
    one_near, seen = MODEL.with_attention({1: near}).forward(ids, return_weights=True)
    np.testing.assert_array_equal(seen[0], maps[0])
    assert (seen[1] > 0).sum(-1).max() == 3
    assert np.abs(one_near - want).max() > 1e-3
    chained = MODEL.with_attention({0: near}).with_attention({1: near})
    np.testing.assert_array_equal(chained.forward(ids), all_near.forward(ids))
    np.testing.assert_array_equal(MODEL.forward(ids), want)                               # itself unchanged
    assert all_near.layers is MODEL.layers
    cache = all_near.new_cache(capacity=12)
    steps = np.concatenate([all_near.forward(ids[n : n + 1], cache=cache) for n in range(12)])
    close(steps, all_near.forward(ids))


def test_with_attention_refuses():
    with pytest.raises(OptionError, match=r"no layer 2.*0 to 1"):
        MODEL.with_attention({2: ma.attention})
    with pytest.raises(OptionError, match="layer 1 is str"):
        MODEL.with_attention({1: "window"})
    with pytest.raises(ShapeError, match=r"layer 1 returned \(1, 2, 4, 8\)"):
        MODEL.with_attention({1: lambda q, k, v, **options: v}).forward(drawn_ids(4))


@pytest.mark.parametrize(
    ("fn", "weights", "text"),
    [
        (lambda q, k, v, **options: q, True, r"layer 0 returned \(1, 6, 4, 8\); it must return .* and \(1, 6, 4, 4\)"),
        (lambda q, k, v, **options: (q, q), True, r"returned \(1, 6, 4, 8\) and \(1, 6, 4, 8\)"),
        (lambda q, k, v, **options: (q, None), False, r"returned \(1, 6, 4, 8\) and \(\); it must return \(1, 6, 4, 8\)"),
        (lambda q, k, v, **options: None, False, r"returned \(\)"),
    ],
)
def test_an_attention_that_returns_something_else(fn, weights, text):
    cache = MODEL.new_cache(capacity=4)
    with pytest.raises(ShapeError, match=text):
        MODEL.with_attention(fn).forward(drawn_ids(4), return_weights=weights, cache=cache)
    assert [layer.lengths.tolist() for layer in cache] == [[0], [0]]


@pytest.mark.parametrize(
    ("ids", "error", "text"),
    [
        ([3, 61], TokenError, "token 61 .*0 to 60"),
        ([[3, -1]], TokenError, "token -1"),
        ([1.0, 2.0], TokenError, "float64"),
        ([], ShapeError, "at least one"),
        (5, ShapeError, r"ids are \(\)"),
        (np.zeros((1, 1, 1), int), ShapeError, r"\(1, 1, 1\)"),
        ([[1, 2], [3]], ShapeError, "lengths="),
    ],
)
def test_ids_that_are_none(ids, error, text):
    cache = MODEL.new_cache(capacity=4)
    with pytest.raises(error, match=text):
        MODEL.forward(ids, cache=cache)
    assert cache.lengths.tolist() == [0]


@pytest.mark.parametrize("lengths", [[1], [1, 7], [-1, 2], [1.0, 2.0], 2])
@pytest.mark.parametrize("cached", [True, False])
def test_lengths_that_do_not_fit(lengths, cached):
    with pytest.raises(ShapeError, match="lengths"):
        MODEL.forward(drawn_ids(2, 6), lengths=lengths, cache=MODEL.new_cache(2, capacity=9) if cached else None)


def test_a_cache_that_does_not_fit(config):
    with pytest.raises(ShapeError, match=r"B = 2 .*B = 3"):
        MODEL.forward(drawn_ids(3, 4), cache=MODEL.new_cache(2, capacity=9))
    other = Llama.random(config(layers=4))
    with pytest.raises(ShapeError, match=r"L = 4 .*L = 2"):
        MODEL.forward(drawn_ids(4), cache=other.new_cache(capacity=9))
    for wrong in (ma.KVCache(1, 2, 9, 8), list(MODEL.new_cache(1, 9)), LlamaCache(), "cache"):
        with pytest.raises(CacheError, match="must be a LlamaCache, as new_cache makes it"):
            MODEL.forward(drawn_ids(4), cache=wrong)


def test_weights_that_do_not_fit(weights_of):
    weights = weights_of(MODEL)
    close(Llama(CONFIG, weights).forward(drawn_ids(4)), MODEL.forward(drawn_ids(4)))
    with pytest.raises(WeightsError, match=r"layers\.1\.w_up"):
        Llama(CONFIG, {name: w for name, w in weights.items() if name != "layers.1.w_up"})
    with pytest.raises(WeightsError, match=r"w_up.*\(44, 30\).*\(30, 44\)"):
        Llama(CONFIG, {**weights, "layers.1.w_up": weights["layers.1.w_up"].T})
    with pytest.raises(DtypeError, match="float16, float64"):
        Llama(CONFIG, {**weights, "norm": weights["norm"].astype(np.float16)})
