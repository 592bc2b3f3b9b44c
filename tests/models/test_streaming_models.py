"""A model on a text longer than what it keeps: in pieces, in rows, all at once, and after an error."""
from functools import partial

import numpy as np
import pytest

import minattn as ma
from minattn.core.errors import CacheError, OptionError, ShapeError
from minattn.models import Llama, LlamaConfig

CONFIG = LlamaConfig(layers=3, dim=24, hidden=40, heads=6, kv_heads=2, head_dim=4, vocab=61, context=32, tied=False)
MODEL = Llama.random(CONFIG, dtype=np.float64)
IDS = np.random.default_rng(0).integers(0, 61, 70)


@pytest.mark.parametrize(("window", "first"), [(1, 0), (8, 0), (8, 2), (20, 4), (80, 4)])
@pytest.mark.parametrize("chunk", [1, 7, 70])
def test_a_rolling_cache_gives_what_the_whole_text_at_once_gives(window, first, chunk, close):
    at_once = MODEL.with_attention(partial(ma.streaming_attention, window=window, first=first, rope=MODEL.rope))
    cache = MODEL.new_cache(window=window, first=first)
    parts = [MODEL.forward(IDS[start:start + chunk], cache=cache) for start in range(0, 70, chunk)]
    close(np.concatenate(parts), at_once.forward(IDS), 1e-9)
    assert (cache.capacity, cache.lengths.tolist()) == (None, [70])
    assert cache.nbytes == CONFIG.kv_bytes(1, "float64") * (window + first - 1)
    if window + first >= 70:
        close(np.concatenate(parts), MODEL.forward(IDS), 1e-9)


def test_without_first_tokens_it_is_a_window(close):
    window = MODEL.with_attention(partial(ma.attention, mask=ma.masks.last(8)))
    close(MODEL.forward(IDS, cache=MODEL.new_cache(window=8, first=0)), window.forward(IDS), 1e-9)


def test_rows_of_unequal_length_are_each_row_alone(close):
    rows, lengths = np.stack([IDS[:30], IDS[30:60], IDS[40:70]]), np.array([30, 11, 4])
    cache = MODEL.new_cache(3, window=8, first=2)
    made = MODEL.forward(rows, lengths=lengths, cache=cache)
    for b, length in enumerate(lengths):
        close(made[b, :length], MODEL.forward(rows[b, :length], cache=MODEL.new_cache(window=8, first=2)), 1e-9)
    assert cache.lengths.tolist() == lengths.tolist()


def test_generate_goes_on_beyond_its_context_in_bounded_memory():
    """Each token is the best after what the cache held, and the same however the prompt was cut."""
    options = {"max_new_tokens": 50, "window": 8, "first": 2, "progress": False}
    new = MODEL.generate(IDS[:15], **options)
    assert len(new) == 50
    assert new == MODEL.generate(IDS[:15], prefill=4, **options)
    at_once = MODEL.with_attention(partial(ma.streaming_attention, window=8, first=2, rope=MODEL.rope))
    assert at_once.forward([*IDS[:15], *new])[14:-1].argmax(axis=-1).tolist() == new
    with pytest.raises(OptionError, match="cached=False keeps none"):
        MODEL.generate(IDS[:15], cached=False, **options)


def test_maps_of_what_the_cache_holds(close):
    cache = MODEL.new_cache(window=5, first=2)
    logits, weights = MODEL.forward(IDS[:7], cache=cache, return_weights=True)            # it has room for seven
    assert weights.shape == (3, 6, 7, 6 + 7)
    close(weights.sum(axis=-1), np.ones((3, 6, 7)))
    close(logits, MODEL.forward(IDS[:7]), 1e-9)
    with pytest.raises(CacheError, match="2 tokens came where a rolling cache has room for 1 at once"):
        MODEL.forward(IDS[7:9], cache=cache, return_weights=True)


@pytest.mark.parametrize("fails_at", [1, 3, 9])
def test_all_tokens_are_taken_or_none(fails_at, close):
    calls = []

    def failing(*args, **options):
        calls.append(1)
        if len(calls) > fails_at:
            raise KeyboardInterrupt
        return ma.attention(*args, **options)

    cache, other = (MODEL.new_cache(window=8, first=2) for _ in range(2))
    for each in (cache, other):
        MODEL.forward(IDS[:6], cache=each)
    with pytest.raises(KeyboardInterrupt):
        MODEL.with_attention({2: failing}).forward(IDS[6:20], cache=cache)
    assert [layer.lengths.tolist() for layer in cache] == [[6]] * 3
    close(MODEL.forward(IDS[6:40], cache=cache), MODEL.forward(IDS[6:40], cache=other), 1e-12)


def test_bad_input():
    with pytest.raises(OptionError, match="capacity = 9 and window = 4"):
        MODEL.new_cache(capacity=9, window=4)
    with pytest.raises(OptionError, match="window = 0"):
        MODEL.new_cache(window=0)
    cache = MODEL.new_cache(2, window=4)
    with pytest.raises(ShapeError, match="there are N = 20 new tokens"):
        MODEL.forward(np.stack([IDS[:20]] * 2), lengths=[3, 21], cache=cache)
    assert cache.lengths.tolist() == [0, 0]
