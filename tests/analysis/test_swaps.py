"""Losses against logits, swaps that change nothing, one layer and all; and on a real model, what the first tokens are for."""
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import minattn as ma
from minattn import masks
from minattn.core.errors import CacheError, OptionError, ShapeError, TokenError
from minattn.models import Llama, LlamaConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lessons"))

from course import PARAGRAPH

CONFIG = LlamaConfig(layers=3, dim=24, hidden=40, heads=6, kv_heads=2, head_dim=4, vocab=61, context=128, tied=False)
MODEL = Llama.random(CONFIG, dtype=np.float64)
IDS = np.random.default_rng(0).integers(0, 61, 33)


@pytest.mark.parametrize("chunk", [1, 5, 31, 32, 33, 1000])
def test_losses_are_those_of_the_logits(chunk, close):
    log_p = np.log(ma.softmax(MODEL.forward(IDS)))
    want = [-log_p[n - 1, IDS[n]] for n in range(1, 33)]
    close(ma.token_losses(MODEL, IDS, chunk=chunk), want)
    assert ma.perplexity(MODEL, IDS, chunk=chunk) == pytest.approx(np.exp(np.mean(want)), rel=1e-12)


def test_rows_are_each_row_alone(close):
    rows = np.random.default_rng(1).integers(0, 61, (3, 20))
    close(ma.token_losses(MODEL, rows, chunk=7), [ma.token_losses(MODEL, row) for row in rows])


def test_no_more_logits_than_a_chunk(monkeypatch):
    seen = []
    monkeypatch.setattr(Llama, "logits", lambda self, x, whole=Llama.logits: seen.append(x.shape) or whole(self, x))
    ma.perplexity(MODEL, IDS, chunk=7)
    assert seen == [(7, 24)] * 4 + [(4, 24)]                          # the last token's are of no use


def test_who_knows_nothing_guesses_among_all_tokens():
    weights = {"embedding": MODEL.embedding, "norm": MODEL.norm, "head": 0 * MODEL.head}
    weights |= {f"layers.{n}.{part}": w for n, layer in enumerate(MODEL.layers) for part, w in layer.items()}
    assert ma.perplexity(Llama(CONFIG, weights), IDS) == pytest.approx(61, rel=1e-12)


def test_swaps_that_change_nothing_cost_nothing():
    swaps = {"itself": ma.attention, "window": masks.last(33), "top": partial(ma.topk_attention, keep=33)}
    own, *costs = ma.swap_costs(MODEL, IDS, swaps, layers=range(3))
    assert own == ("own", None, own.loss, ma.perplexity(MODEL, IDS))
    assert own.loss == pytest.approx(np.log(own.perplexity))
    assert [cost[:2] for cost in costs] == [(name, None) for name in swaps] + [(name, n) for name in swaps for n in range(3)]
    assert all(cost.loss == own.loss for cost in costs if cost.name == "itself")          # to the last bit
    assert [cost.loss for cost in costs] == pytest.approx([own.loss] * len(costs), rel=1e-12)


def test_one_layer_and_all_are_those_of_with_attention(close):
    near = partial(ma.attention, mask=masks.last(2))
    swaps = {"last 2": masks.last(2), "top 1": partial(ma.topk_attention, keep=1)}
    costs = {cost[:2]: cost.loss for cost in ma.swap_costs(MODEL, IDS, swaps, layers=[2, 0], chunk=9)}
    assert list(costs) == [("own", None), ("last 2", None), ("top 1", None), ("last 2", 2), ("last 2", 0), ("top 1", 2),
                           ("top 1", 0)]  # fmt: skip
    for layer, changed in ((None, near), (0, {0: near}), (2, {2: near})):
        close(costs["last 2", layer], ma.token_losses(MODEL.with_attention(changed), IDS).mean())
    assert len(set(costs.values())) == len(costs)


def test_a_window_changes_nothing_until_it_is_full():
    losses = [ma.token_losses(m, IDS) for m in (MODEL, MODEL.with_attention(partial(ma.attention, mask=masks.last(5))))]
    changed = ~np.isclose(*losses, rtol=1e-9)
    assert not changed[:5].any()                                      # token 5 is predicted by token 4, which sees 0 to 4
    assert changed[5:].all()


def test_a_text_that_fails_halfway_leaves_the_cache_as_it_was():
    cache = MODEL.new_cache(capacity=20)
    before = ma.token_losses(MODEL, IDS[:6], cache=cache)
    for ids, error in (([3, 1, 4, 61], TokenError), (IDS[:1], ShapeError), ([3] * 15, CacheError)):
        with pytest.raises(error):
            ma.token_losses(MODEL, ids, chunk=2, cache=cache)
        assert cache.lengths.tolist() == [6]
    with pytest.raises(CacheError, match="cache is int"):
        ma.token_losses(MODEL, IDS, cache=3)
    cache.reset()
    np.testing.assert_array_equal(ma.token_losses(MODEL, IDS[:6], cache=cache), before)


def test_bad_input():
    for ids in ([3], [[3], [4]]):
        with pytest.raises(ShapeError, match="N of at least 2"):
            ma.perplexity(MODEL, ids)
    with pytest.raises(TokenError, match="token 61 is not"):
        ma.perplexity(MODEL, [3, 61])
    with pytest.raises(OptionError, match="chunk = 0"):
        ma.token_losses(MODEL, IDS, chunk=0)
    with pytest.raises(OptionError, match=r"swaps\['near'\] is int; it must be a Mask or a function"):
        ma.swap_costs(MODEL, IDS, {"near": 3})
    with pytest.raises(OptionError, match="swaps has 'own'"):
        ma.swap_costs(MODEL, IDS, {"own": masks.last(2)})
    for swaps, layers, says in (([], (), "swaps is list"), ({}, 1, "layers is 1"), ({}, [0.5], "layers is 0.5")):
        with pytest.raises(OptionError, match=says):
            ma.swap_costs(MODEL, IDS, swaps, layers=layers)
    for use in (ma.perplexity, partial(ma.swap_costs, swaps={}), partial(ma.streaming_losses, window=5, first=1)):
        with pytest.raises(OptionError, match="model is NoneType; it must be a Llama"):
            use(None, IDS)
    with pytest.raises(OptionError, match="no layer 3; the model has layers 0 to 2"):
        ma.swap_costs(MODEL, IDS, {"near": masks.last(2)}, layers=[0, 3])


@pytest.mark.slow
def test_the_first_tokens_are_what_a_window_lacks(need_weights):
    """As many keys for each query: of them, four that stand far back and say little are worth more than the rest."""
    m = need_weights()
    swaps = {
        "window": masks.last(16), "with first": masks.last(12) | masks.first(4),
        "with others": masks.last(12) | masks.first(5) & ~masks.first(1), "top": partial(ma.topk_attention, keep=16),
    }  # fmt: skip
    loss = {cost.name: cost.loss for cost in ma.swap_costs(m, m.tokenizer.encode(PARAGRAPH), swaps)}
    extra = {name: loss[name] - loss["own"] for name in swaps}
    assert 0 < extra["top"] < extra["with first"] < extra["window"] / 3
    assert extra["with others"] > extra["window"]                     # not any four early tokens: the very first
