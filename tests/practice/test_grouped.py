"""The exercises of grouped heads: right answers in other styles, wrong ones by their names, and the library's own numbers."""
from dataclasses import replace

import numpy as np
import pytest

import minattn as ma
from minattn.models import LlamaConfig
from minattn.practice import check


def by_rows(q, k, v, may):
    """A group's heads become rows, and nothing is copied."""
    (H, N, D), G = q.shape, len(k)
    scores = (q.reshape(G, H // G * N, D) @ k.swapaxes(1, 2)).reshape(H, N, -1) / np.sqrt(D)
    weights = ma.softmax(np.where(may, scores, -np.inf))
    return (weights.reshape(G, H // G * N, -1) @ v).reshape(H, N, -1)


def by_einsum(q, k, v, may):
    G, (H, N, D) = len(k), q.shape
    scores = np.einsum("grnd,gsd->grns", q.reshape(G, H // G, N, D), k) / D**0.5
    out = np.einsum("grns,gsd->grnd", ma.softmax(np.where(may, scores, -np.inf)), v)
    return out.reshape(H, N, -1)


def head_by_head(q, k, v, may):
    group = len(q) // len(k)
    return [ma.attention(head, k[h // group], v[h // group], mask=may) for h, head in enumerate(q)]


@pytest.mark.parametrize("answer", [by_rows, by_einsum, head_by_head])
def test_grouped_heads_in_any_style(answer):
    result = check.grouped_heads(answer)
    assert result, repr(result)


def groups_first(q, k, v, may):
    """The reshape that looks right: (H // G, G) where (G, H // G) is meant."""
    (H, N, D), G = q.shape, len(k)
    scores = q.reshape(H // G, G, N, D) @ k.swapaxes(1, 2) / np.sqrt(D)
    return (ma.softmax(np.where(may, scores, -np.inf)) @ v).reshape(H, N, -1)


@pytest.mark.parametrize(("answer", "name"), [
    (groups_first, "tile instead of repeat"),
    (lambda q, k, v, may: head_by_head(q, k[[0]], v[[0]], may), "first KV head for all"),
    (lambda q, k, v, may: head_by_head(q, k.mean(axis=0)[None], v.mean(axis=0)[None], may), "KV heads averaged"),
    (lambda q, k, v, may: [ma.attention(q[h], k[h % len(k)], v[h % len(k)], mask=may) for h in range(len(q))],
     "tile instead of repeat"),
])  # fmt: skip
def test_grouped_heads_names_the_mistake(answer, name):
    result = check.grouped_heads(answer)
    assert (result.status, result.mistake) == ("fail", name), repr(result)


def test_the_rule_is_the_one_that_attention_follows():
    rng = np.random.default_rng(0)
    for H, G in check.kv_head_of.cases():
        q, k, v = rng.standard_normal((H, 1, 3)), rng.standard_normal((G, 4, 3)), np.zeros((G, 4, 2))
        v[:, :, 0] = np.arange(G)[:, None]                            # each KV head gives its own number
        np.testing.assert_allclose(ma.attention(q, k, v)[:, 0, 0], check.kv_head_of.reference(H, G))


def test_bytes_are_those_that_a_model_counts():
    c = LlamaConfig.llama_3_1_8b()
    for G in (32, 8, 1):
        found = check.kv_bytes.reference(c.layers, c.heads, G, c.head_dim, 1_000, 2)
        assert found == replace(c, kv_heads=G).kv_bytes(1_000, "bfloat16")


def test_pooled_weights_are_those_of_from_mha():
    layer = ma.MultiHeadAttention.random(24, heads=6)
    pooled = ma.MultiHeadAttention.from_mha(layer, kv_heads=2)
    np.testing.assert_allclose(check.pool_heads.reference(layer.w_k, 6, 2), pooled.w_k)
    np.testing.assert_allclose(check.pool_heads.reference(layer.w_v, 6, 2), pooled.w_v)
