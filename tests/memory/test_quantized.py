"""The cache in few bits: every number within half a step, each group by itself, and what it costs a trained model."""
import pathlib

import numpy as np
import pytest

import minattn as ma
from minattn.memory.quantized import dequantize, quantize
from minattn.models.llama_cache import LlamaCache

G, D, DV, GROUP = 2, 6, 16, 8


def tokens(rng, N, B=1):
    return [rng.standard_normal((B, G, N, dim)).astype(np.float32) for dim in (D, DV)]


def made(bits=8, B=1, **options):
    return ma.QuantizedCache(B, G, 100, D, bits, GROUP, value_dim=DV, **options)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_number_is_off_by_half_a_step(bits):
    x = np.random.default_rng(bits).standard_normal((3, 5, 32)).astype(np.float32) * 7 + 3
    x[0, 0] = 2.5                                                     # all the same: exact
    codes, low, step = quantize(x, bits)
    back = dequantize(codes, low, step, bits)
    assert codes.nbytes == x.size * bits // 8
    assert (abs(back - x) <= step[..., None] * 0.5001 + 1e-6).all()
    np.testing.assert_array_equal(back[0, 0], x[0, 0])
    np.testing.assert_allclose(back.min(axis=-1), x.min(axis=-1))
    np.testing.assert_allclose(back.max(axis=-1), x.max(axis=-1), rtol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_keys_share_a_step_by_channel_and_values_by_token(bits):
    k, v = tokens(np.random.default_rng(0), 2 * GROUP + 3)
    cache = made(bits)
    k_all, v_all, q_pos, k_pos = cache.append(k, v)
    for g, d, n in np.ndindex(G, D, 2):
        part = np.s_[0, g, n * GROUP : (n + 1) * GROUP, d]
        np.testing.assert_array_equal(k_all[part], dequantize(*quantize(k[part], bits), bits))
    for g, n, m in np.ndindex(G, 2 * GROUP, DV // GROUP):
        part = np.s_[0, g, n, m * GROUP : (m + 1) * GROUP]
        np.testing.assert_array_equal(v_all[part], dequantize(*quantize(v[part], bits), bits))
    np.testing.assert_array_equal(k_all[:, :, 2 * GROUP :], k[:, :, 2 * GROUP :])      # waiting for their group
    np.testing.assert_array_equal(v_all[:, :, 2 * GROUP :], v[:, :, 2 * GROUP :])
    np.testing.assert_array_equal(q_pos, k_pos)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("pieces", [[1] * 40, [7, 0, 33], [40], [8, 16, 16]])
def test_any_pieces_make_the_same_cache(bits, pieces):
    rng = np.random.default_rng(1)
    k, v = tokens(rng, 40, B=2)
    whole, cache, start = made(bits, B=2), made(bits, B=2), 0
    wanted = whole.append(k, v, [40, 21])
    for N in pieces:
        short = np.clip(21 - start, 0, N)
        got = cache.append(k[:, :, start : start + N], v[:, :, start : start + N], [N, int(short)])
        start += N
    for a, b in zip((*got[:2], got[3]), (*wanted[:2], wanted[3]), strict=True):
        np.testing.assert_array_equal(a, b)
    cache.reset(0)
    assert cache.lengths.tolist() == [0, 21]


def test_undo_brings_back_the_tokens_that_waited():
    rng, cache = np.random.default_rng(2), made()
    before = cache.append(*tokens(rng, 13))
    cache.append(*tokens(rng, 6))                                     # completes a group
    cache.undo()
    nothing = np.zeros((1, G, 0, D)), np.zeros((1, G, 0, DV))
    for a, b in zip(cache.append(*nothing)[:2], before[:2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_channel_of_large_keys_takes_the_steps_of_no_other():
    k, v = tokens(np.random.default_rng(3), 4 * GROUP)
    k[..., 2] += 100
    k_all = made(4).append(k, v)[0]
    error = abs(k_all - k).max(axis=(0, 1, 2))
    assert error.max() < 0.3                                          # one step for all channels would be 100 / 15


@pytest.mark.parametrize(("given", "text"), [
    (lambda: made(3), "bits = 3"), (lambda: ma.QuantizedCache(1, G, 9, D, 8, 7, value_dim=14), "group = 7"),
    (lambda: ma.QuantizedCache(1, G, 9, D, 8, 6, value_dim=16), "divisor of Dv = 16"),
    (lambda: made().append(*tokens(np.random.default_rng(0), 101)), "capacity = 100"),
    (lambda: made().append(np.full((1, G, 1, D), np.nan), np.zeros((1, G, 1, DV))), "k_new holds NaN"),
    (lambda: made().append(np.zeros((1, G, 1, D + 1)), np.zeros((1, G, 1, DV))), "k_new is"),
    (lambda: made("8"), "bits is '8'"), (lambda: made(dtype=[1]), r"dtype is \[1\]"),
    (lambda: made().reset(1), "row = 1, but .* B = 1"),
])  # fmt: skip
def test_errors(given, text):
    with pytest.raises(ma.MinattnError, match=text):
        given()


@pytest.mark.slow
def test_what_eight_and_four_bits_cost_a_trained_model(need_weights):
    model = need_weights()
    c = model.config
    text = (pathlib.Path(ma.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    ids = np.array(model.tokenizer.encode(text)[:513])
    plain = model.new_cache(capacity=512)
    losses = {0: loss(model.forward(ids[:-1], cache=plain), ids)}
    for bits in (8, 4):
        cache = LlamaCache(ma.QuantizedCache(1, c.kv_heads, 512, c.head_dim, bits) for _ in range(c.layers))
        losses[bits] = loss(model.forward(ids[:-1], cache=cache), ids)
        for name, n, most in (("k", 0, {8: 0.01, 4: 0.12}), ("v", 1, {8: 0.01, 4: 0.12})):
            errors = []
            for layer in plain:                                       # the model's own keys and values, of each layer
                held = ma.QuantizedCache(1, c.kv_heads, 512, c.head_dim, bits).append(layer.k, layer.v)[n]
                real = getattr(layer, name)
                errors.append(np.sqrt(((held - real) ** 2).mean() / (real**2).mean()))
            print(f"{bits} bits, {name}: off by {np.mean(errors):.4f} of their size, {max(errors):.4f} in the worst layer")
            assert 0 < max(errors) < most[bits]
        print(f"{bits} bits: loss {losses[bits]:.4f} beside {losses[0]:.4f}, {plain.nbytes / cache.nbytes:.1f} times smaller")
    assert abs(losses[8] - losses[0]) < 0.01
    assert abs(losses[4] - losses[0]) < 0.2


def loss(logits, ids):
    return float(-np.log(ma.softmax(logits.astype(np.float64)))[np.arange(len(logits)), ids[1:]].mean())
