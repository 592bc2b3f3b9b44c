"""Transformer-XL: the shift against the lookup, segments against one pass, the stop in the gradient, and what it saves."""
import itertools

import numpy as np
import pytest

import minattn as ma
from minattn.memory import transformer_xl as xl

E, H, D = 10, 3, 4
WEIGHTS = ma.XLWeights.random(E, heads=H, head_dim=D, seed=5)


def tokens(N, seed=0, lead=(2,)):
    return np.random.default_rng(seed).standard_normal((*lead, N, E))


@pytest.mark.parametrize(("N", "S"), [(1, 1), (1, 7), (7, 7), (5, 12), (64, 129)])
def test_the_shift_is_the_lookup_wherever_a_query_may_look(N, S, close):
    rng = np.random.default_rng(N)
    q, r = rng.standard_normal((2, H, N, D)), rng.standard_normal((H, S, D))
    visible = np.arange(S) <= np.arange(S - N, S)[:, None]
    shifted, direct = xl.shifted(q, r), xl.direct(q, r)
    close(np.where(visible, shifted, 0), direct, 1e-14)
    if N > 1:
        assert np.abs(shifted[..., ~visible]).max() > 0               # the rest has to be masked
    dscores = rng.standard_normal(shifted.shape)                      # the way back is the transpose of the way there
    assert (dscores * shifted).sum() == pytest.approx((xl.shifted_back(dscores) * (q @ r[:, ::-1].swapaxes(-1, -2))).sum())


def test_against_the_four_terms_by_hand(close):
    x, memory, w = tokens(5), tokens(3, 1), WEIGHTS
    rows, R = np.concatenate([memory, x], axis=1), ma.positions.sinusoidal(np.arange(8), E)
    want = np.zeros((2, 5, H * D))
    for b, h, i in np.ndindex(2, H, 5):
        own, at = np.s_[h * D:(h + 1) * D], i + 3
        q = x[b, i] @ w.w_q[:, own]
        k, v, r = (a @ m[:, own] for a, m in ((rows[b], w.w_k), (rows[b], w.w_v), (R, w.w_r)))
        scores = np.array([q @ k[j] + q @ r[at - j] + w.u[h] @ k[j] + w.v[h] @ r[at - j] for j in range(at + 1)]) / D**0.5
        want[b, i, own] = np.exp(scores) / np.exp(scores).sum() @ v[:at + 1]
    for form in ("shift", "direct"):
        close(ma.transformer_xl_attention(x, w, memory=memory, form=form), want @ w.w_o, 1e-12)


@pytest.mark.parametrize("length", [1, 7, 64, 129])
@pytest.mark.parametrize("segment", [1, 5, 64])
def test_segments_with_memory_enough_are_one_pass(length, segment, close):
    x = tokens(length)
    whole = ma.transformer_xl_attention(x, WEIGHTS)
    close(ma.transformer_xl_attention(x, WEIGHTS, segment=segment, memory_length=length), whole, 1e-12)


def test_a_memory_that_is_handed_on_is_one_run(close):
    x, options = tokens(30), {"segment": 4, "memory_length": 6}
    whole, last = ma.transformer_xl_attention(x, WEIGHTS, **options, return_memory=True)
    memory, outs = None, []
    for a, b in itertools.pairwise((0, 4, 12, 12, 20, 30)):           # where segments end
        out, memory = ma.transformer_xl_attention(x[:, a:b], WEIGHTS, **options, memory=memory, return_memory=True)
        outs.append(out)
    close(np.concatenate(outs, axis=1), whole, 1e-12)
    np.testing.assert_array_equal(memory, last)
    np.testing.assert_array_equal(last, x[:, -6:])


def test_nothing_is_read_before_the_memory():
    x = tokens(20)
    poisoned = x.copy()
    poisoned[:, :7] = np.nan                                          # segments of 5 with 3 rows: the third begins at row 10
    clean, other = (ma.transformer_xl_attention(a, WEIGHTS, segment=5, memory_length=3) for a in (x, poisoned))
    np.testing.assert_array_equal(other[:, 10:], clean[:, 10:])
    alone = ma.transformer_xl_attention(x[:, 5:10], WEIGHTS)
    np.testing.assert_allclose(ma.transformer_xl_attention(x, WEIGHTS, segment=5, memory_length=0)[:, 5:10], alone, atol=1e-12)


def test_a_distance_counts_and_not_a_place(close):
    """The same rows further on in the text give the same: positions are differences."""
    x = tokens(40)
    late = ma.transformer_xl_attention(x, WEIGHTS, segment=5, memory_length=10)[:, 30:35]
    close(late, ma.transformer_xl_attention(x[:, 30:35], WEIGHTS, memory=x[:, 20:30]), 1e-12)


def test_gradients_of_x_and_of_every_weight(slopes, close):
    x, memory = tokens(4, 2), tokens(3, 3)
    dout = np.random.default_rng(4).standard_normal(x.shape)
    grads = ma.transformer_xl_attention_backward(dout, x, WEIGHTS, memory=memory)
    close(grads.dx, slopes(lambda a: (ma.transformer_xl_attention(a, WEIGHTS, memory=memory) * dout).sum(), x), 1e-7)
    for name in WEIGHTS._fields:
        def loss(a, name=name):
            return (ma.transformer_xl_attention(x, WEIGHTS._replace(**{name: a}), memory=memory) * dout).sum()

        close(getattr(grads.dweights, name), slopes(loss, getattr(WEIGHTS, name)), 1e-7)


def test_no_gradient_flows_into_the_memory(close):
    """Over segments it is the sum of each segment's own, with its memory a constant; one pass has more."""
    x = tokens(12, 6)
    dout = np.random.default_rng(7).standard_normal(x.shape)
    got = ma.transformer_xl_attention_backward(dout, x, WEIGHTS, segment=5, memory_length=20)
    parts = [ma.transformer_xl_attention_backward(dout[:, a:b], x[:, a:b], WEIGHTS, memory=x[:, :a])
             for a, b in itertools.pairwise((0, 5, 10, 12))]
    close(got.dx, np.concatenate([part.dx for part in parts], axis=1), 1e-12)
    for n, total in enumerate(got.dweights):
        close(total, sum(part.dweights[n] for part in parts), 1e-12)
    whole = ma.transformer_xl_attention_backward(dout, x, WEIGHTS)
    close(whole.dx[:, 10:], got.dx[:, 10:], 1e-12)                    # nobody remembers the last segment
    assert np.abs(whole.dx[:, :10] - got.dx[:, :10]).max() > 1e-3


def test_evaluation_saves_a_factor_that_grows_with_the_context(monkeypatch, close):
    """Each token with `context` tokens before it: by sliding windows, all computed anew, and by one row and a memory."""
    scores = []

    def counting(q, k, v, **options):
        scores.append(q.shape[-2] * k.shape[-2])
        return ma.attention(q, k, v, **options)

    monkeypatch.setattr(xl, "attention", counting)
    x, ratios = tokens(100, lead=()), []
    for context in (4, 8, 16, 32):
        memory = x[60 - context:60]
        scores.clear()
        kept = ma.transformer_xl_attention(x[60:], WEIGHTS, segment=1, memory_length=context, memory=memory)
        cheap = sum(scores)
        scores.clear()
        anew = [ma.transformer_xl_attention(x[n - context:n + 1], WEIGHTS)[-1:] for n in range(60, 100)]
        ratios.append(sum(scores) / cheap)
        close(kept, np.concatenate(anew), 1e-12)
    assert ratios == [5, 9, 17, 33]                                   # context + 1 rows, of which one is new


def test_types_are_kept_and_16_bits_computed_in_32(close):
    x = tokens(9)
    w = ma.XLWeights(*(a.astype(np.float16) for a in WEIGHTS))
    out, memory = ma.transformer_xl_attention(x.astype(np.float16), w, segment=4, return_memory=True)
    assert (out.dtype, memory.dtype) == (np.float16, np.float16)
    wide = ma.XLWeights(*(a.astype(np.float64) for a in w))
    close(out, ma.transformer_xl_attention(x.astype(np.float16).astype(np.float64), wide, segment=4), 2e-3)
    grads = ma.transformer_xl_attention_backward(out, x.astype(np.float16), w)
    assert {grads.dx.dtype, *(a.dtype for a in grads.dweights)} == {np.dtype(np.float16)}
    assert ma.transformer_xl_attention(x[:, :0], WEIGHTS).shape == (2, 0, E)


@pytest.mark.parametrize(("changed", "says"), [
    ({"form": "slide"}, "form is 'slide'"), ({"form": []}, r"form is \[\]"), ({"weights": tuple(WEIGHTS)}, "weights is tuple"),
    ({"segment": 0}, "segment = 0"), ({"memory_length": -1}, "memory_length = -1"),
    ({"memory": np.ones((2, 3, E + 1))}, r"memory is \(2, 3, 11\) but x is \(2, 6, 10\)"),
    ({"memory": np.ones((3, E))}, "length alone"), ({"x": np.ones(E)}, r"x is \(10,\)"), ({"x": np.ones((6, E), int)}, "int64"),
    ({"weights": WEIGHTS._replace(u=np.ones(D))}, r"u is \(4,\); it must be \(H, D\)"),
    ({"weights": WEIGHTS._replace(w_r=np.ones((E, D)))}, r"w_r is \(10, 4\).*it must be \(E, H D\) = \(10, 12\)"),
    ({"x": np.ones((6, 5)), "weights": ma.XLWeights.random(5, heads=1)}, "E must be even"),
], ids=str)  # fmt: skip
def test_what_is_refused(changed, says):
    with pytest.raises(ma.MinattnError, match=says):
        ma.transformer_xl_attention(**{"x": tokens(6), "weights": WEIGHTS} | changed)


@pytest.mark.parametrize(("given", "says"), [
    ({"heads": 0}, "heads = 0"), ({"heads": 2, "seed": "a"}, "seed is 'a'"), ({"heads": 11}, "head_dim = 0"),
    ({"heads": 2, "dtype": int}, "a layer holds float16"),
])  # fmt: skip
def test_weights_that_cannot_be_drawn(given, says):
    with pytest.raises(ma.MinattnError, match=says):
        ma.XLWeights.random(E, **given)


def test_the_gradient_refuses_another_shape():
    with pytest.raises(ma.errors.ShapeError, match=r"dout is \(2, 6, 9\) but x is \(2, 6, 10\)"):
        ma.transformer_xl_attention_backward(np.ones((2, 6, 9)), tokens(6), WEIGHTS)
