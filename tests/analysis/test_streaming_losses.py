"""Losses beyond the window: where they begin to differ, and what a real model makes of it."""
import sys
from pathlib import Path

import numpy as np
import pytest

import minattn as ma
from minattn.models import Llama, LlamaConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lessons"))

from course import PARAGRAPH

MODEL = Llama.random(LlamaConfig(3, 24, 40, 6, 2, 4, 61, 128), dtype=np.float64)
IDS = np.random.default_rng(0).integers(0, 61, 90)


@pytest.mark.parametrize(("window", "first"), [(1, 0), (5, 1), (16, 4), (200, 4)])
def test_the_three_part_where_the_window_is_full(window, first, close):
    losses = ma.streaming_losses(MODEL, IDS, window=window, first=first, chunk=13)
    close(losses["dense"], ma.token_losses(MODEL, IDS))
    close(losses["first tokens"], ma.token_losses(MODEL, IDS, cache=MODEL.new_cache(window=window - first, first=first)), 1e-9)
    close(losses["window"], ma.token_losses(MODEL, IDS, chunk=7, cache=MODEL.new_cache(window=window, first=0)), 1e-9)
    for name in ("window", "first tokens"):
        same = np.isclose(losses[name], losses["dense"], rtol=1e-9)
        assert same[:window].all()
        assert not same[window:].any()


def test_rows_are_each_row_alone(close):
    rows = np.stack([IDS[:40], IDS[50:]])
    together = ma.streaming_losses(MODEL, rows, window=6, first=2)
    for b, row in enumerate(rows):
        for name, losses in ma.streaming_losses(MODEL, row, window=6, first=2).items():
            close(together[name][b], losses)
    close(ma.token_losses(MODEL, rows, cache=MODEL.new_cache(2, window=4, first=2)), together["first tokens"], 1e-9)


@pytest.mark.parametrize("width", [1, 4, 10, 50])
def test_perplexity_by_position(width):
    losses = np.random.default_rng(1).random((2, 10))
    starts, found = ma.perplexity_by_position(losses, width)
    assert starts.tolist() == list(range(1, 11, width))
    for start, each in zip(starts, found, strict=True):
        assert each == pytest.approx(np.exp(np.mean([x for row in losses for x in row[start - 1:start - 1 + width]])))


def test_bad_input():
    with pytest.raises(ma.errors.OptionError, match="first = 4 but window = 4"):
        ma.streaming_losses(MODEL, IDS, window=4)
    with pytest.raises(ma.errors.OptionError, match="width = 0"):
        ma.perplexity_by_position(np.ones(3), 0)
    with pytest.raises(ma.errors.ShapeError, match="at least one"):
        ma.perplexity_by_position(np.ones(0), 3)
    with pytest.raises(ma.errors.ShapeError, match="at least one"):
        ma.perplexity_by_position(1.5, 3)


@pytest.mark.slow
def test_a_plain_window_fails_when_the_first_tokens_go(need_weights):
    """SmolLM2, a window of 64 keys: as it fills up all three are one; then the plain one loses, and the other hardly."""
    m = need_weights()
    ids = m.tokenizer.encode(PARAGRAPH)
    losses = ma.streaming_losses(m, ids, window=64)
    for name in ("window", "first tokens"):
        np.testing.assert_allclose(losses[name][:64], losses["dense"][:64], atol=2e-3)
    cached = ma.token_losses(m, ids, cache=m.new_cache(window=60, first=4))              # token by token, in 64 rows
    np.testing.assert_allclose(cached, losses["first tokens"], atol=2e-3)
    plain, kept = (losses[name][64:].mean() - losses["dense"][64:].mean() for name in ("window", "first tokens"))
    assert plain > 0.5                                                # nats a token
    assert abs(kept) < plain / 5
