"""attention_backward: against finite differences, against PyTorch's autograd, and what must hold whatever the numbers are."""

import numpy as np
import pytest

import minattn as ma
from minattn import masks

ALIBI = np.array([0.5, 0.25, 0.125, 0.1, 0.05, 0.02])


def curved(s, b, h, i, j):
    return np.sin(s) * (1 + 0.1 * h) - ALIBI[h] * np.abs(i - j) + 0.2 * b


def curved_slope(s, b, h, i, j):
    return np.cos(s) * (1 + 0.1 * h)


MASK = np.random.default_rng(99).random((2, 1, 5, 7)) < 0.6
MASK[:, :, 2] = False  # a row that sees nothing
OPTIONS = {
    "plain": {},
    "causal": {"causal": True},
    "mask": {"mask": MASK},
    "rule": {"mask": masks.window(2, 1) | masks.first(1)},
    "scale": {"scale": -0.8},
    "softcap": {"softcap": 0.9, "mask": MASK},
    "score_mod": {"score_mod": curved, "causal": True},
    "positions": {"causal": True, "q_pos": np.array([4, 0, -1, 2, 3]), "k_pos": np.array([2, 0, -1, 3, 1, -1, 4])},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("extra", [(), ("bias", "sink_logits")], ids=str)
def test_finite_differences(drawn, slopes, close, options, extra):
    q, k, v = drawn(len(extra), H=4, G=2, D=3, Dv=2)
    rng = np.random.default_rng(1)
    given = {"q": q, "k": k, "v": v}
    given |= {name: rng.standard_normal({"bias": (2, 1, 5, 7), "sink_logits": (4,)}[name]) for name in extra}
    dout = rng.standard_normal((2, 4, 5, 2))
    grads = ma.attention_backward(dout, **given, **options)
    for name in ("q", "k", "v", "bias", "sink_logits"):
        got = getattr(grads, f"d{name}")
        if name not in given:
            assert got is None
            continue

        def loss(x, name=name):
            return (ma.attention(**{**given, name: x}, **options) * dout).sum()

        close(got, slopes(loss, given[name]), 1e-8)


def test_score_mod_grad_spares_the_differences(drawn, close):
    q, k, v = drawn(3)
    dout = np.random.default_rng(0).standard_normal((2, 6, 5, 3))
    exact = ma.attention_backward(dout, q, k, v, score_mod=curved, score_mod_grad=curved_slope)
    differences = ma.attention_backward(dout, q, k, v, score_mod=curved)
    for a, b in zip(differences[:3], exact[:3], strict=True):
        close(a, b, 1e-9)
    calls = []

    def counted(*where):
        return calls.append(where) or curved(*where)

    ma.attention_backward(dout, q, k, v, score_mod=counted, score_mod_grad=curved_slope)
    assert len(calls) == 1
    softcap = {"score_mod": lambda s, *_: 0.9 * np.tanh(s / 0.9), "score_mod_grad": lambda s, *_: 1 - np.tanh(s / 0.9) ** 2}
    for a, b in zip(
        ma.attention_backward(dout, q, k, v, **softcap), ma.attention_backward(dout, q, k, v, softcap=0.9), strict=True
    ):
        assert a is None or close(a, b) is None


def test_score_mod_in_float32_is_differentiated_in_float64(drawn, close):
    q, k, v = drawn(4)
    dout = np.random.default_rng(0).standard_normal((2, 6, 5, 3))
    exact = ma.attention_backward(dout, q, k, v, score_mod=curved, score_mod_grad=curved_slope)
    narrow = ma.attention_backward(*(a.astype(np.float32) for a in (dout, q, k, v)), score_mod=curved)
    for a, b in zip(narrow[:3], exact[:3], strict=True):
        close(a, b, 1e-5)


def test_score_mod_may_hide_pairs(drawn, close):
    """-inf from a score_mod is a mask, and its slope there is 0, not NaN."""
    q, k, v = drawn(5)
    dout = np.random.default_rng(0).standard_normal((2, 6, 5, 3))
    hidden = ma.attention_backward(dout, q, k, v, score_mod=lambda s, b, h, i, j: np.where(i - j < 3, s, -np.inf))
    masked = ma.attention_backward(dout, q, k, v, mask=ma.Mask(lambda i, j: i - j < 3))
    for a, b in zip(hidden[:3], masked[:3], strict=True):
        close(a, b, 1e-9)


BIASES = [(), (7,), (1,), (5, 1), (5, 7), (1, 7), (6, 1, 1), (6, 5, 7), (1, 1, 7), (2, 6, 5, 7), (2, 1, 1, 1), (1, 6, 1, 7)]


@pytest.mark.parametrize("shape", BIASES, ids=str)
def test_bias_gradient_has_the_shape_of_bias(drawn, slopes, shape):
    q, k, v = drawn(6)
    rng = np.random.default_rng(0)
    bias, dout = rng.standard_normal(shape), rng.standard_normal((2, 6, 5, 3))
    got = ma.attention_backward(dout, q, k, v, bias=bias, causal=True).dbias
    full = ma.attention_backward(dout, q, k, v, bias=np.broadcast_to(bias, (2, 6, 5, 7)), causal=True).dbias
    summed = full.sum(axis=tuple(range(4 - len(shape))))
    summed = summed.sum(axis=tuple(a for a, size in enumerate(shape) if size == 1), keepdims=True)
    assert np.shape(got) == summed.shape == shape
    np.testing.assert_allclose(got, summed, rtol=1e-10, atol=1e-12)               # a constant on all rows: 0 but for rounding
    loss = lambda x: (ma.attention(q, k, v, bias=x, causal=True) * dout).sum()  # noqa: E731
    np.testing.assert_allclose(got, slopes(loss, np.array(bias)), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_out_and_lse_spare_the_softmax(drawn, close, options):
    q, k, v = drawn(7)
    dout, sink = np.random.default_rng(0).standard_normal((2, 6, 5, 3)), np.linspace(-1, 1, 6)
    out, lse = ma.attention(q, k, v, sink_logits=sink, return_lse=True, **options)
    want = ma.attention_backward(dout, q, k, v, sink_logits=sink, **options)
    got = ma.attention_backward(dout, q, k, v, sink_logits=sink, out=out, lse=lse, **options)
    for a, b in zip(got, want, strict=True):
        assert (a is None and b is None) or close(a, b) is None


def test_shares_of_parts_of_the_keys_add_up(drawn, close):
    """What a ring or a split cache does: each part knows its keys, and out and lse of the whole."""
    q, k, v = drawn(8)
    dout = np.random.default_rng(0).standard_normal((2, 6, 5, 3))
    q_pos, k_pos = np.arange(2, 7), np.arange(7)
    out, lse = ma.attention(q, k, v, causal=True, return_lse=True)
    want = ma.attention_backward(dout, q, k, v, causal=True)
    parts = [
        ma.attention_backward(dout, q, k[:, :, a:b], v[:, :, a:b], out=out, lse=lse, causal=True, q_pos=q_pos, k_pos=k_pos[a:b])
        for a, b in [(0, 3), (3, 4), (4, 7)]
    ]
    close(sum(p.dq for p in parts), want.dq)
    close(np.concatenate([p.dk for p in parts], axis=2), want.dk)
    close(np.concatenate([p.dv for p in parts], axis=2), want.dv)


@pytest.mark.parametrize("G", [1, 2, 6])
def test_group_gradient_is_the_sum_over_its_heads(drawn, close, G):
    q, k, v = drawn(9, G=G)
    dout = np.random.default_rng(0).standard_normal((2, 6, 5, 3))
    got = ma.attention_backward(dout, q, k, v, causal=True)
    wide = ma.attention_backward(dout, q, ma.repeat_kv(k, 6 // G), ma.repeat_kv(v, 6 // G), causal=True)
    close(got.dq, wide.dq)
    close(got.dk, wide.dk.reshape(2, G, 6 // G, 7, 4).sum(axis=2))
    close(got.dv, wide.dv.reshape(2, G, 6 // G, 7, 3).sum(axis=2))


def test_broadcast_axes_are_summed(close):
    rng = np.random.default_rng(10)
    q, k, v = rng.standard_normal((3, 1, 6, 5, 4)), rng.standard_normal((2, 3, 7, 4)), rng.standard_normal((3, 7, 2))
    dout, bias = rng.standard_normal((3, 2, 6, 5, 2)), rng.standard_normal((3, 1, 1, 5, 7))
    got = ma.attention_backward(dout, q, k, v, bias=bias)
    full = [np.broadcast_to(a, (3, 2, *a.shape[-3:])) for a in (q, k, v)]
    wide = ma.attention_backward(dout, *full, bias=np.broadcast_to(bias, (3, 2, 6, 5, 7)))
    close(got.dq, wide.dq.sum(axis=1, keepdims=True))
    close(got.dk, wide.dk.sum(axis=0))
    close(got.dv, wide.dv.sum(axis=(0, 1)))
    close(got.dbias, wide.dbias.sum(axis=(1, 2), keepdims=True))


def test_one_head_without_an_axis(drawn, close):
    q, k, v = (a[0, :1] for a in drawn(11, H=1, G=1))
    dout, bias = np.random.default_rng(0).standard_normal((5, 3)), np.random.default_rng(1).standard_normal((5, 1))
    flat = ma.attention_backward(dout, q[0], k[0], v[0], bias=bias, sink_logits=np.ones(1), causal=True)
    deep = ma.attention_backward(dout[None], q, k, v, bias=bias, sink_logits=np.ones(1), causal=True)
    for a, b in zip(flat, deep, strict=True):
        close(np.reshape(a, b.shape), b, 1e-9)
    assert flat.dq.shape == (5, 4)
    assert flat.dbias.shape == (5, 1)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"softcap": 1.1}, {"score_mod": curved}, {"sink_logits": np.ones(6)}], ids=str)
def test_poison_in_what_is_hidden(drawn, poison, options):
    q, k, v = drawn(12)
    dout = np.random.default_rng(0).standard_normal((2, 6, 5, 3))
    mask = MASK.copy()
    mask[..., 4] = False  # key 4 is seen by nobody, key 1 by one row of the batch
    mask[0, ..., 1], mask[1, :, [0, 4], 1] = False, True
    bias = np.zeros((2, 6, 5, 7))
    want = ma.attention_backward(dout, q, k, v, mask=mask, bias=bias, **options)
    for a in (k, v):
        a[:, :, 4] = a[0, :, 1] = poison
    q[:, :, 2] = dout[:, :, 2] = poison  # the row that sees nothing
    bias[np.broadcast_to(~mask, bias.shape)] = poison
    out, lse = ma.attention(q, k, v, mask=mask, bias=bias, return_lse=True, **options)
    for saved in ({}, {"out": out, "lse": lse}):
        got = ma.attention_backward(dout, q, k, v, mask=mask, bias=bias, **options, **saved)
        for a, b in zip(got, want, strict=True):
            assert (a is None and b is None) or np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13) is None
        assert not got.dq[:, :, 2].any()
        assert not got.dk[:, :, 4].any()
        assert not got.dv[:, :, 4].any()
        assert not got.dbias[np.broadcast_to(~mask, bias.shape)].any()


def test_poison_reaches_whoever_sees_it_and_nobody_else(drawn):
    q, k, v = drawn(13, N=7)
    dout = np.random.default_rng(0).standard_normal((2, 6, 7, 3))
    q[1, 2, 3, 0] = np.nan  # query 3 of head 2 sees keys 0 to 3 of KV head 1
    got = ma.attention_backward(dout, q, k, v, causal=True)
    sick = np.zeros((2, 3, 7), bool)
    sick[1, 1, :4] = True
    for gradient in (got.dk, got.dv):
        np.testing.assert_array_equal(np.isnan(gradient).any(axis=-1), sick)


def test_rows_that_see_nothing_give_exactly_zero(drawn):
    q, k, v = drawn(14)
    dout = np.random.default_rng(0).standard_normal((2, 6, 5, 3))
    for options in ({}, {"softcap": 1.0}, {"score_mod": curved}, {"sink_logits": np.ones(6)}):
        grads = ma.attention_backward(dout, q, k, v, mask=np.zeros((5, 7), bool), bias=np.zeros((5, 7)), **options)
        assert not any(g.any() for g in grads if g is not None)
        assert not any(np.isnan(g).any() for g in grads if g is not None)


def test_a_sink_of_minus_infinity_is_no_sink(drawn, close):
    q, k, v = drawn(19)
    dout, sink = np.random.default_rng(0).standard_normal((2, 6, 5, 3)), np.full(6, -np.inf)
    got = ma.attention_backward(dout, q, k, v, mask=MASK, sink_logits=sink)       # one row sees nothing, not even a sink
    for a, b in zip(got[:3], ma.attention_backward(dout, q, k, v, mask=MASK)[:3], strict=True):
        close(a, b)
    assert not got.dsink_logits.any()
    assert ma.attention(q, k, v, mask=MASK, sink_logits=sink, return_lse=True)[1][:, :, 2].max() == -np.inf


def test_each_gradient_has_the_type_of_its_argument(drawn):
    q, k, v = (a.astype(t) for a, t in zip(drawn(15), (np.float16, np.float32, np.float64), strict=True))
    bias, sink = np.zeros((5, 7), np.float32), np.zeros(6, np.float16)
    grads = ma.attention_backward(np.ones((2, 6, 5, 3)), q, k, v, bias=bias, sink_logits=sink)
    assert [g.dtype for g in grads] == [np.float16, np.float32, np.float64, np.float32, np.float16]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 4e-3)])
def test_narrow_types(drawn, close, dtype, tolerance):
    q, k, v = (a.astype(dtype).astype(np.float64) for a in drawn(16))
    dout = np.random.default_rng(0).standard_normal((2, 6, 5, 3)).astype(dtype).astype(np.float64)
    want = ma.attention_backward(dout, q, k, v, causal=True)
    got = ma.attention_backward(*(a.astype(dtype) for a in (dout, q, k, v)), causal=True)
    for a, b in zip(got[:3], want[:3], strict=True):
        assert a.dtype == dtype
        close(a, b, tolerance)


@pytest.mark.parametrize("sizes", [{}, {"N": 1, "S": 1}, {"N": 17, "S": 65, "D": 8, "G": 1}, {"N": 11, "S": 4, "G": 6}], ids=str)
@pytest.mark.parametrize("kind", ["plain", "causal", "mask", "bias"])
def test_equals_autograd(need, drawn, close, kind, sizes):
    torch = need("torch")
    q, k, v = drawn(17, **sizes)
    rng = np.random.default_rng(0)
    (B, H, N, _), S = q.shape, k.shape[2]
    dout, mine, theirs, leaves = (
        rng.standard_normal((B, H, N, 3)),
        {},
        {},
        [torch.tensor(a, requires_grad=True) for a in (q, k, v)],
    )
    if kind == "causal":
        mine, theirs = {"causal": True, "q_pos": np.arange(N), "k_pos": np.arange(S)}, {"is_causal": True}
    elif kind == "mask":
        mask = rng.random((B, 1, N, S)) < 0.5
        mask[..., -1] = True
        mine, theirs = {"mask": mask}, {"attn_mask": torch.from_numpy(mask)}
    elif kind == "bias":
        mine = {"bias": rng.standard_normal((1, H, 1, S))}
        leaves.append(torch.tensor(mine["bias"], requires_grad=True))
        theirs = {"attn_mask": leaves[3].expand(B, H, N, S)}
    torch.nn.functional.scaled_dot_product_attention(*leaves[:3], enable_gqa=True, **theirs).backward(torch.from_numpy(dout))
    grads = ma.attention_backward(dout, q, k, v, **mine)
    for got, leaf in zip(grads, leaves, strict=False):
        want = leaf.grad.numpy()
        if np.abs(want).max() < 1e-12:  # one key: q and k change nothing
            assert np.abs(got).max() < 1e-12
        else:
            close(got, want)


@pytest.mark.parametrize("change", ["softcap", "score_mod"])
def test_equals_autograd_of_the_formula(need, drawn, close, change):
    """What PyTorch has no function for, written out with its operations: softcap, score_mod, sinks, rows that see nothing."""
    torch = need("torch")
    q, k, v = drawn(18)
    rng = np.random.default_rng(0)
    bias, sink, dout = rng.standard_normal((6, 1, 7)), rng.standard_normal(6), rng.standard_normal((2, 6, 5, 3))
    tq, tk, tv, tbias, tsink = (torch.tensor(a, requires_grad=True) for a in (q, k, v, bias, sink))
    s = tq @ tk.repeat_interleave(2, dim=1).transpose(-1, -2) / 2
    i, j, h = (torch.arange(*ends, dtype=torch.float64) for ends in ((2, 7), (7,), (6,)))
    s = 0.7 * torch.tanh(s / 0.7) if change == "softcap" else s * s - (h[:, None, None] + 1) * abs(i[:, None] - j) / 10
    s = (s + tbias).masked_fill(~torch.from_numpy(MASK), -torch.inf)
    s = torch.cat([s, tsink[:, None, None].expand(2, 6, 5, 1)], dim=-1)
    (torch.softmax(s, dim=-1)[..., :-1] @ tv.repeat_interleave(2, dim=1)).backward(torch.from_numpy(dout))
    options = {"softcap": {"softcap": 0.7}, "score_mod": {
        "score_mod": lambda s, b, h, i, j: s * s - (h + 1) * np.abs(i - j) / 10, "score_mod_grad": lambda s, b, h, i, j: 2 * s,
    }}[change]  # fmt: skip
    grads = ma.attention_backward(dout, q, k, v, mask=MASK, bias=bias, sink_logits=sink, **options)
    for got, leaf in zip(grads, (tq, tk, tv, tbias, tsink), strict=True):
        close(got, leaf.grad.numpy())
