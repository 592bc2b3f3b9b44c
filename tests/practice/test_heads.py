"""The exercises on heads: right answers in other styles, and mistakes as people write them, by their names."""
import numpy as np
import pytest

import minattn as ma
from minattn.practice import check


def split_by_slices(x, heads):
    dim = x.shape[1] // heads
    return [x[:, h * dim : (h + 1) * dim] for h in range(heads)]


@pytest.mark.parametrize("answer", [split_by_slices, lambda x, heads: np.stack(np.split(x, heads, axis=1))])
def test_split_heads_in_any_style(answer):
    assert check.split_heads(answer)


@pytest.mark.parametrize(("answer", "name"), [
    (lambda x, heads: x.reshape(heads, -1, x.shape[1] // heads), "reshape without a transpose"),
    (lambda x, heads: np.stack([x[:, h::heads] for h in range(heads)]), "every H-th column to a head"),
    (lambda x, heads: x.reshape(len(x), heads, -1), "the heads left behind the tokens"),
])  # fmt: skip
def test_split_heads_names_the_mistake(answer, name):
    result = check.split_heads(answer)
    assert (result.status, result.mistake) == ("fail", name), repr(result)


def test_merge_heads_in_another_style():
    assert check.merge_heads(lambda x: np.concatenate(list(x), axis=-1))
    assert check.merge_heads(lambda x: np.einsum("hnd->nhd", x).reshape(x.shape[1], -1))
    assert check.merge_heads(lambda x: x.reshape(x.shape[1], -1).copy()).mistake == "no transpose back"


def test_a_head_silenced_in_place_is_named():
    def answer(w_o, heads, h):
        w_o.reshape(heads, -1, w_o.shape[1])[h] = 0
        return w_o

    assert check.without_head(lambda w_o, heads, h: answer(w_o.copy(), heads, h))
    assert check.without_head(answer).mistake == "changes its input"


def layer_in_einsum(x, w_q, w_k, w_v, w_o, heads):
    cut = lambda w: w.reshape(len(w), heads, -1)  # noqa: E731
    q, k, v = (np.einsum("ne,ehd->nhd", x, cut(w)) for w in (w_q, w_k, w_v))
    weights = ma.softmax(np.einsum("nhd,shd->hns", q, k) / np.sqrt(q.shape[-1]))
    return np.einsum("hns,shd,hde->ne", weights, v, w_o.reshape(heads, -1, w_o.shape[1]))


def layer_as_a_sum_over_heads(x, w_q, w_k, w_v, w_o, heads):
    parts = (np.split(w, heads, axis=axis) for w, axis in [(w_q, 1), (w_k, 1), (w_v, 1), (w_o, 0)])
    return sum(ma.attention(x @ a, x @ b, x @ c) @ d for a, b, c, d in zip(*parts, strict=True))


def layer_of_the_library(x, w_q, w_k, w_v, w_o, heads):
    return ma.MultiHeadAttention(w_q, w_k, w_v, w_o, heads=heads)(x)


@pytest.mark.parametrize("answer", [layer_in_einsum, layer_as_a_sum_over_heads, layer_of_the_library])
def test_multi_head_in_any_style(answer):
    result = check.multi_head(answer)
    assert result, repr(result)


def test_multi_head_shows_the_first_stage_that_differs():
    def answer(x, w_q, w_k, w_v, w_o, heads):
        q, k, v = (ma.split_heads(x @ w, heads) for w in (w_q, w_k, w_v))
        scaled = q @ k.swapaxes(-1, -2) / np.sqrt(x.shape[-1])
        weights = ma.softmax(scaled)
        return {"q": q, "scaled": scaled, "weights": weights, "out": ma.merge_heads(weights @ v) @ w_o}

    result = check.multi_head(answer)
    assert result.mistake == "scaled by the width E"
    assert {stage.name: stage.ok for stage in result.stages} == {"q": True, "scaled": False, "weights": False, "out": False}


# --- inside a model ------------------------------------------------------------------------------------------------


def in_a_model(may="k_pos[..., None, :] <= q_pos[..., :, None]", head="h // share", scale="np.sqrt(q.shape[-1])"):
    """A learner's loop over heads with one place changed."""
    text = f"""
def answer(q, k, v, *, causal, q_pos, k_pos):
    share, outs = q.shape[1] // k.shape[1], []
    for h in range(q.shape[1]):
        scores = q[:, h] @ k[:, {head}].swapaxes(1, 2) / {scale}
        outs.append(ma.softmax(np.where({may}, scores, -np.inf)) @ v[:, {head}])
    return np.stack(outs, axis=1)
"""
    scope = {"np": np, "ma": ma}
    exec(text, scope)
    return scope["answer"]


def test_model_attention_passes_in_a_loop_and_by_the_library():
    assert check.model_attention(in_a_model())
    assert check.model_attention(ma.attention)
    assert check.model_attention(lambda q, k, v, *, causal, q_pos, k_pos: None).status == "blank"


def test_a_mask_from_the_first_key_is_right_on_the_whole_text_and_wrong_in_parts():
    result = check.model_attention(in_a_model(may="np.tri(q.shape[2], k.shape[2], dtype=bool)"))
    assert {stage.name: stage.ok for stage in result.stages} == {"whole": True, "parts": False}


@pytest.mark.parametrize(("change", "name"), [
    ({"may": "np.tri(q.shape[2], k.shape[2], dtype=bool)"}, "the mask counts from the first key"),
    ({"may": "True"}, "no mask"),
    ({"head": "h % k.shape[1]"}, "KV heads in the order 0 1 2 0 1 2"),
    ({"head": "0"}, "KV head 0 for all"),
    ({"scale": "np.sqrt(q.shape[1] * q.shape[-1])"}, "scaled by the width of all heads"),
])  # fmt: skip
def test_model_attention_names_what_was_changed(change, name):
    result = check.model_attention(in_a_model(**change))
    assert (result.status, result.mistake) == ("fail", name), repr(result)


def test_an_answer_of_another_shape_is_told_so():
    result = check.model_attention(lambda q, k, v, **options: ma.attention(q, k, v, **options)[:, :, :1])
    assert result.status == "error"
    assert "it must return" in repr(result)
