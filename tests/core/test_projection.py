"""Projections, heads, and their way back."""

import numpy as np
import pytest

import minattn as ma
from minattn.core.errors import OptionError, ShapeError
from minattn.core.projection import project_qkv_backward


def arrays(seed, lead=(2,)):
    rng = np.random.default_rng(seed)
    x, context = rng.standard_normal((*lead, 4, 6)), rng.standard_normal((*lead, 5, 7))
    w = {"w_q": rng.standard_normal((6, 8)), "w_k": rng.standard_normal((7, 4)), "w_v": rng.standard_normal((7, 10))}
    b = {"b_q": rng.standard_normal(8), "b_k": rng.standard_normal(4), "b_v": rng.standard_normal(10)}
    return x, context, w, b


def test_cross_attention_projects_two_sequences():
    x, context, w, b = arrays(0)
    q, k, v = ma.project_qkv(x, **w, context=context, **b)
    np.testing.assert_allclose(q, np.einsum("bne,ef->bnf", x, w["w_q"]) + b["b_q"], rtol=1e-12)
    np.testing.assert_allclose(k, np.einsum("bse,ef->bsf", context, w["w_k"]) + b["b_k"], rtol=1e-12)
    np.testing.assert_allclose(v, np.einsum("bse,ef->bsf", context, w["w_v"]) + b["b_v"], rtol=1e-12)


def test_without_context_keys_are_of_x():
    x, _, w, _ = arrays(1)
    w |= {"w_k": w["w_q"][:, :4], "w_v": w["w_q"][:, 4:]}
    q, k, v = ma.project_qkv(x, **w)
    np.testing.assert_allclose(np.concatenate([k, v], axis=-1), q, rtol=1e-14)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_gradients(slopes, close, lead, cross, biased):
    x, context, w, b = arrays(2, lead)
    if not cross:
        w |= {"w_k": w["w_k"][:6], "w_v": w["w_v"][:6]}
    given = {"x": x, **w, **({"context": context} if cross else {}), **(b if biased else {})}
    rng = np.random.default_rng(0)
    douts = [rng.standard_normal(a.shape) for a in ma.project_qkv(**given)]
    grads = project_qkv_backward(*douts, **given)
    for name in grads._fields:
        if name[1:] not in given:
            assert getattr(grads, name) is None
            continue

        def loss(a, name=name[1:]):
            return sum((out * dout).sum() for out, dout in zip(ma.project_qkv(**{**given, name: a}), douts, strict=True))

        close(getattr(grads, name), slopes(loss, given[name[1:]]), 1e-8)


def test_split_takes_neighbouring_columns():
    x = np.arange(2 * 3 * 8).reshape(2, 3, 8)
    heads = ma.split_heads(x, 4)
    assert heads.shape == (2, 4, 3, 2)
    for h in range(4):
        np.testing.assert_array_equal(heads[:, h], x[..., 2 * h : 2 * h + 2])
    assert (heads != x.reshape(2, 4, 3, 2)).any()  # the reshape without the swap: right shape, wrong numbers


@pytest.mark.parametrize("shape", [(3, 12), (2, 3, 12), (2, 1, 5, 12), (0, 12), (2, 0, 12)])
@pytest.mark.parametrize("heads", [1, 3, 12])
def test_merge_undoes_split(shape, heads):
    x = np.random.default_rng(0).standard_normal(shape)
    np.testing.assert_array_equal(ma.merge_heads(ma.split_heads(x, heads)), x)


def test_repeat_kv():
    k = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    wide = ma.repeat_kv(k, 4)
    assert wide.shape == (2, 12, 4, 5)
    for h in range(12):
        np.testing.assert_array_equal(wide[:, h], k[:, h // 4])


@pytest.mark.parametrize(("call", "words"), [
    (lambda: ma.split_heads(np.ones((3, 8)), 3), r"x is \(3, 8\) and H = 3.*E a multiple of H"),
    (lambda: ma.split_heads(np.ones((3, 8)), 0), "H = 0"),
    (lambda: ma.split_heads(np.ones((3, 8)), 8 / 4), "heads is 2.0; it must be an integer"),
    (lambda: ma.split_heads(np.ones(8), 2), r"x is \(8,\)"),
    (lambda: ma.merge_heads(np.ones((3, 8))), r"x is \(3, 8\); merge_heads needs \(\.\.\., heads, N, D\)"),
    (lambda: ma.repeat_kv(np.ones((3, 8)), 2), r"k is \(3, 8\) and groups = 2"),
    (lambda: ma.repeat_kv(np.ones((1, 3, 8)), 0), "groups = 0"),
    (lambda: ma.project_qkv(np.ones((3, 8)), np.ones((7, 4)), np.ones((8, 4)), np.ones((8, 4))),
        r"w_q is \(7, 4\) but its input is \(3, 8\)"),
    (lambda: ma.project_qkv(np.ones((3, 8)), *[np.ones((8, 4))] * 3, context=np.ones((5, 9))),
        r"w_k is \(8, 4\) but its input is \(5, 9\)"),
    (lambda: ma.project_qkv([[1.0], [1.0, 2.0]], *[np.ones((8, 4))] * 3), "x: rows of unequal length"),
    (lambda: ma.project_qkv(np.ones(8), *[np.ones((8, 4))] * 3), r"w_q.*input is \(8,\)"),
    (lambda: ma.project_qkv(np.ones((3, 8)), np.ones((8, 4)), np.ones(8), np.ones((8, 4))), r"w_k is \(8,\)"),
    (lambda: ma.project_qkv(np.ones((3, 8)), *[np.ones((8, 4))] * 3, b_v=np.ones(5)), r"b_v is \(5,\) but w_v has E_out = 4"),
], ids=range(13))  # fmt: skip
def test_refused(call, words):
    with pytest.raises((OptionError, ShapeError), match=words):
        call()
