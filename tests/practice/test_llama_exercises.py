"""The exercises on a Llama's parts: right answers in other styles, wrong ones by their names, and the library's own layer."""
import numpy as np
import pytest

import minattn as ma
from minattn.models import Llama, LlamaConfig
from minattn.models.llama import rms_norm, swiglu
from minattn.practice import check


def norm_in_loops(x, weight, eps):
    rows = np.asarray(x).reshape(-1, np.shape(x)[-1])
    out = [[w * number / (sum(n * n for n in row) / len(row) + eps) ** 0.5 for number, w in zip(row, weight, strict=True)]
           for row in rows]
    return np.reshape(out, np.shape(x))


def swiglu_as_printed(x, w_gate, w_up, w_down):
    gate = x @ w_gate
    return np.einsum("nf,nf,fe->ne", gate / (1 + np.exp(-gate)), x @ w_up, w_down)


def test_parts_in_another_style():
    assert check.rms_norm(norm_in_loops)
    assert check.swiglu(swiglu_as_printed)


def test_layer_norm_is_told_from_rms_norm():
    def layer_norm(x, weight, eps):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight

    assert check.rms_norm(layer_norm).mistake == "mean subtracted"
    assert check.rms_norm(lambda x, weight, eps: x / np.linalg.norm(x, axis=-1, keepdims=True) * weight).status == "fail"


def gpt_2_style(x, w, attend, eps):
    """A norm, but after the addition, as in the first Transformer."""
    y = rms_norm(x + attend(x), w["norm_attention"], eps)
    return rms_norm(y + swiglu(y, w["w_gate"], w["w_up"], w["w_down"]), w["norm_ffn"], eps)


def in_place(x, w, attend, eps):
    x += attend(rms_norm(x, w["norm_attention"], eps))
    x += swiglu(rms_norm(x, w["norm_ffn"], eps), w["w_gate"], w["w_up"], w["w_down"])
    return x


@pytest.mark.parametrize(("answer", "name"), [
    (gpt_2_style, "post-norm"),
    (in_place, "changes its input"),
    (lambda x, *rest: in_place(x.copy(), *rest), None),
])
def test_block_names_the_mistake(answer, name):
    result = check.block(answer)
    assert (bool(result), result.mistake) == (name is None, name), repr(result)


def test_stages_say_where_a_block_goes_wrong():
    def answer(x, w, attend, eps):
        n = rms_norm(x, w["norm_attention"], eps)
        y = attend(n)
        return {"n": n, "y": y, "z": y + swiglu(rms_norm(y, w["norm_ffn"], eps), w["w_gate"], w["w_up"], w["w_down"])}

    result = check.block(answer)
    assert result.mistake == "first residual forgotten"
    assert [(stage.name, stage.ok) for stage in result.stages] == [("n", True), ("y", False), ("z", False)]


def test_the_block_is_a_layer_of_the_model():
    m = Llama.random(LlamaConfig(2, 12, 20, 6, 2, 4, 50, 64), dtype=np.float64)
    x, positions = m.embed([3, 1, 4, 1, 5]), np.arange(5)
    n_given = []

    def attend(n):
        n_given.append(n)
        q, k, v = m.attention_inputs(0, x, positions)
        return ma.merge_heads(ma.attention(q, k, v, causal=True)) @ m.layers[0]["w_o"]

    found = check.block.reference(x, m.layers[0], attend, m.config.norm_eps)
    np.testing.assert_allclose(found, m.block(0, x, positions), rtol=1e-10)
    np.testing.assert_allclose(n_given[0], rms_norm(x, m.layers[0]["norm_attention"], m.config.norm_eps))


def test_parameters_by_a_formula_and_by_a_list():
    def formula(L, E, F, H, G, D, V, tied):
        return V * E * (2 - tied) + L * (2 * E * (H + G) * D + 3 * E * F + 2 * E) + E

    assert check.parameters(formula)
    assert check.parameters(lambda *sizes: formula(*sizes[:7], True)).mistake == "always tied"


@pytest.mark.parametrize("case", check.smaller_hidden.cases())
def test_the_smaller_F_is_the_largest_that_fits(case):
    E, F, D, old, new = case
    found = check.smaller_hidden.reference(*case)

    def count(F, G):
        return check.parameters.reference(7, E, F, new, G, D, 97, False)

    assert count(found, new) <= count(F, old) < count(found + 1, new)
