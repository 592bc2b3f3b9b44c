"""The exercises on streaming: held to the library's masks, caches and losses, right in other styles, and as people err."""
import numpy as np
import pytest

import minattn as ma
from minattn.practice import check


@pytest.mark.parametrize("case", check.seen_keys.cases())
def test_seen_keys_are_the_mask(case):
    t, first, window = case
    mask = ma.masks.causal() & (ma.masks.last(window) | ma.masks.first(first))
    np.testing.assert_array_equal(check.seen_keys.reference(*case), np.flatnonzero(mask.dense(t + 1, t + 1)[t]))


@pytest.mark.parametrize("case", check.stretch_perplexity.cases())
def test_stretches_are_those_of_the_library(case):
    np.testing.assert_allclose(check.stretch_perplexity.reference(*case), ma.perplexity_by_position(*case)[1])


@pytest.mark.parametrize("case", check.places_inside.cases())
def test_places_are_those_of_the_rolling_cache(case):
    t, k_pos, first, window = case
    cache = ma.RollingCache(1, 1, window, 2, first=first)
    for _ in range(t + 1):
        held = cache.append(*np.ones((2, 1, 1, 1, 2), np.float32))[3][0]
    (q_place,), k_places = (places[0] for places in cache.rope_positions())
    place = {-1: -1} | dict(zip(held.tolist(), k_places.tolist(), strict=True))
    q, k = check.places_inside.reference(*case)
    assert (q, k.tolist()) == (q_place, [place[pos] for pos in k_pos])


@pytest.mark.parametrize(("first", "window"), [(2, 4), (1, 3), (0, 5)])
def test_steps_make_a_stream(first, window):
    rng, n, turn = np.random.default_rng(0), np.arange(20), {"layout": "interleaved"}
    q, k, v = rng.standard_normal((3, 20, 6))
    K, V, outs = k[:0], v[:0], []
    for t in range(20):
        out, K, V = check.stream_step.reference(q[t:t + 1], k[t:t + 1], v[t:t + 1], K, V, first, window)
        outs.append(out[0])
    wanted = ma.streaming_attention(ma.rope(q, n, **turn), ma.rope(k, n, **turn), v, window=window, first=first, rope=turn)
    np.testing.assert_allclose(outs, wanted, atol=1e-12)


def test_right_in_another_style():
    def a_step(q_new, k_new, v_new, K, V, first, window):
        K, V = np.vstack([K, k_new]), np.vstack([V, v_new])
        stay = [n for n in range(len(K)) if n < first or n >= len(K) - window]
        K, V, n = K[stay], V[stay], len(stay)
        q = ma.rope(np.repeat(q_new, n, axis=0), np.arange(n), layout="interleaved")
        return ma.attention(q, ma.rope(K, np.arange(n), layout="interleaved"), V, causal=True)[-1:], K, V

    assert check.stream_step(a_step)
    assert check.seen_keys(lambda t, first, window: sorted({*range(min(first, t + 1)), *range(max(0, t + 1 - window), t + 1)}))
    assert check.places_inside(lambda t, k_pos, first, window: (
        min(t, first + window - 1), [p if p < first else p - max(0, t - first - window + 1) for p in k_pos.tolist()]))


def test_mistakes_as_people_write_them():
    def turned_and_kept(q_new, k_new, v_new, K, V, first, window):
        here = np.array([min(len(K), first + window - 1)])
        K = np.concatenate([K, ma.rope(k_new, here, layout="interleaved")])[-10**6:]
        V = np.concatenate([V, v_new])
        if len(K) > first + window:
            K, V = np.concatenate([K[:first], K[first + 1:]]), np.concatenate([V[:first], V[first + 1:]])
        return ma.attention(ma.rope(q_new, here, layout="interleaved"), K, V), K, V

    assert check.stream_step(turned_and_kept).mistake == "keys rotated once, when they come"
    assert check.stretch_perplexity(lambda losses, width: [
        np.mean(np.exp(losses[n:n + width])) for n in range(0, len(losses), width)]).mistake == "mean of the exponentials"
    assert check.seen_keys(lambda t, first, window: np.arange(max(0, t - window + 1), t + 1)).mistake == "no first tokens"
