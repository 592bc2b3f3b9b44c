"""MultiHeadAttention: MHA, GQA, MQA and cross-attention against PyTorch, against loops, and its gradients."""

import numpy as np
import pytest

import minattn as ma
from minattn import MultiHeadAttention, masks
from minattn.core.errors import MaskError

E, E_CONTEXT, E_OUT, D, DV = 7, 5, 9, 4, 3
ROPE = {"layout": "interleaved", "theta": 50.0, "rotary_dim": 2}


def layer(seed=0, H=6, G=2, biases=False, cross=False, **options):
    """A layer in which no two sizes are equal, and the same arrays as a dict."""
    rng, E_k = np.random.default_rng(seed), E_CONTEXT if cross else E
    w = {"w_q": (E, H * D), "w_k": (E_k, G * D), "w_v": (E_k, G * DV), "w_o": (H * DV, E_OUT)}
    b = {"b_q": (H * D,), "b_k": (G * D,), "b_v": (G * DV,), "b_o": (E_OUT,)} if biases else {}
    arrays = {name: rng.standard_normal(shape) / 2 for name, shape in {**w, **b}.items()}
    return MultiHeadAttention(**arrays, heads=H, kv_heads=G, **options), arrays


def widened(arrays, G):
    """The arrays of a layer of G KV heads for one of 6: each KV head's columns stand there once for every head of its group."""

    def widen(w):
        return w.reshape(*w.shape[:-1], G, -1).repeat(6 // G, axis=-2).reshape(*w.shape[:-1], -1)

    return {name: widen(w) if name[-1] in "kv" else w for name, w in arrays.items()}


def inputs(seed=1, B=2, N=5, S=6):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((B, N, E)), rng.standard_normal((B, S, E_CONTEXT))


@pytest.mark.parametrize(("H", "G"), [(6, 6), (6, 2), (6, 1), (1, 1)])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("cross", [True, False])
def test_equals_loops(by_hand, close, H, G, biases, cross):
    """Head by head: columns of each weight, attention in loops, and the heads side by side times w_o."""
    module, a = layer(0, H, G, biases, cross)
    x, context = inputs()
    y = context if cross else x

    def part(z, name, at, n):
        columns = np.s_[..., at * n : (at + 1) * n]
        return z @ a[f"w_{name}"][columns] + (a[f"b_{name}"][columns] if biases else 0)

    q = np.stack([part(x, "q", h, D) for h in range(H)], axis=1)
    k, v = np.stack([part(y, "k", g, D) for g in range(G)], axis=1), np.stack([part(y, "v", g, DV) for g in range(G)], axis=1)
    seen = np.ones((5, 6), bool) if cross else np.tri(5, dtype=bool)
    heads, weights, _ = by_hand(q, k, v, seen=seen)
    want = sum(heads[:, h] @ a["w_o"][h * DV : (h + 1) * DV] for h in range(H)) + (a["b_o"] if biases else 0)
    out, got = module(x, context if cross else None, mask=None if cross else masks.causal(), return_weights=True)
    close(out, want)
    close(got, weights)


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_pytorch(need, close, cross, bias):
    torch = need("torch")
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(
        12, 3, bias=bias, batch_first=True, dtype=torch.float64, kdim=10 if cross else None, vdim=10 if cross else None
    )
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.from_numpy(rng.standard_normal(p.shape)))
    whole = theirs.in_proj_weight
    weights = (theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight) if whole is None else whole.chunk(3)
    array = lambda t: t.detach().numpy()  # noqa: E731
    b = (
        dict(zip(("b_q", "b_k", "b_v"), map(array, theirs.in_proj_bias.chunk(3)), strict=True))
        | {"b_o": array(theirs.out_proj.bias)}
        if bias
        else {}
    )
    mine = MultiHeadAttention(*(array(w).T for w in weights), array(theirs.out_proj.weight).T, heads=3, **b)
    x, context = rng.standard_normal((2, 5, 12)), rng.standard_normal((2, 7, 10))
    mask = rng.random((5, 7 if cross else 5)) < 0.6
    mask[:, 0] = True
    tx = torch.tensor(x, requires_grad=True)
    ty = torch.tensor(context) if cross else tx
    out, w = theirs(tx, ty, ty, attn_mask=torch.from_numpy(~mask), average_attn_weights=False)
    got, got_w = mine(x, context if cross else None, mask, return_weights=True)
    close(got, array(out))
    close(got_w, array(w))
    dout = rng.standard_normal(got.shape)
    out.backward(torch.from_numpy(dout))
    grads = mine.backward(dout, x, context if cross else None, mask)
    close(grads.dx, tx.grad.numpy())
    close(grads.dw_o, theirs.out_proj.weight.grad.numpy().T)
    if bias:
        for name, want in zip(
            ("db_q", "db_v"), (theirs.in_proj_bias.grad.numpy()[:12], theirs.in_proj_bias.grad.numpy()[24:]), strict=True
        ):
            close(getattr(grads, name), want)


EVERYTHING = {
    "plain": {},
    "rope and causal": {"rope": ROPE, "causal": True},
    "softcap and sinks": {"softcap": 0.8, "sink_logits": np.linspace(-1, 1, 6), "scale": 0.9},
    "all": {
        "rope": ROPE,
        "softcap": 1.2,
        "sink_logits": np.linspace(-1, 1, 6),
        "causal": True,
        "bias": np.random.default_rng(5).standard_normal((6, 1, 1)),
    },
}


@pytest.mark.parametrize("options", EVERYTHING.values(), ids=EVERYTHING)
@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("lead", [(2,), ()])
def test_gradients(slopes, close, options, cross, lead):
    module, arrays = layer(2, biases=True, cross=cross, **options)
    rng = np.random.default_rng(3)
    x, context = rng.standard_normal((*lead, 3, E)), rng.standard_normal((*lead, 4, E_CONTEXT)) if cross else None
    positions, dout = np.array([2, 0, 3]), rng.standard_normal((*lead, 3, E_OUT))
    mask = ma.Mask(lambda i, j: (i + j) % 4 != 3)
    grads = module.backward(dout, x, context, mask, positions)
    learned = {name: options[name] for name in ("sink_logits", "bias") if name in options}
    given = {"x": x, **({"context": context} if cross else {}), **arrays, **learned}
    for name in grads._fields:
        if name[1:] not in given:
            assert getattr(grads, name) is None
            continue

        def loss(value, name=name[1:]):
            new = {**given, name: value}
            chosen = {n: new[n] for n in (*arrays, *learned)}
            same = MultiHeadAttention(**{**options, **chosen}, heads=6, kv_heads=2)
            return (same(new["x"], new.get("context"), mask, positions=positions) * dout).sum()

        want = slopes(loss, given[name[1:]])
        if name == "db_k" and not options:  # the same for every key: a constant on each row
            assert np.abs(getattr(grads, name)).max() < 1e-12
        else:
            close(getattr(grads, name), want, 1e-8)


def test_gradient_where_context_alone_has_rows(slopes, close):
    module, _ = layer(4, cross=True)
    rng = np.random.default_rng(4)
    x, context, dout = rng.standard_normal((3, E)), rng.standard_normal((2, 4, E_CONTEXT)), rng.standard_normal((2, 3, E_OUT))
    grads = module.backward(dout, x, context)
    close(grads.dx, slopes(lambda a: (module(a, context) * dout).sum(), x), 1e-8)
    close(grads.dcontext, slopes(lambda a: (module(x, a) * dout).sum(), context), 1e-8)


def test_multi_query_and_grouped_are_multi_head_with_repeated_weights(close):
    x, _ = inputs()
    for G in (1, 2, 3):
        few, a = layer(5, 6, G, biases=True, rope=ROPE)
        many = widened(a, G)
        close(few(x, mask=masks.causal()), MultiHeadAttention(**many, heads=6, rope=ROPE)(x, mask=masks.causal()))


@pytest.mark.parametrize("G", [1, 2, 3, 6])
def test_from_mha_of_equal_heads_loses_nothing(close, G):
    few, a = layer(6, 6, G, biases=True, rope=ROPE, softcap=3.0)
    many = widened(a, G)
    back = MultiHeadAttention.from_mha(MultiHeadAttention(**many, heads=6, rope=ROPE, softcap=3.0), kv_heads=G)
    assert (back.heads, back.kv_heads, back.rope, back.options) == (6, G, ROPE, {"softcap": 3.0})
    for name, w in a.items():
        close(getattr(back, name), w)
    x, _ = inputs()
    close(back(x), few(x))


def test_from_mha_is_the_mean_of_each_group(close):
    module, a = layer(7, 6, 6, biases=True)
    got = MultiHeadAttention.from_mha(module, kv_heads=2)
    for g, members in enumerate([(0, 1, 2), (3, 4, 5)]):  # neighbours, as query heads read them
        for name, n in (("w_k", D), ("w_v", DV), ("b_k", D), ("b_v", DV)):
            want = sum(a[name][..., h * n : (h + 1) * n] for h in members) / 3
            close(getattr(got, name)[..., g * n : (g + 1) * n], want)
    again = MultiHeadAttention.from_mha(got, kv_heads=1)
    close(again.w_k, sum(a["w_k"][:, h * D : (h + 1) * D] for h in range(6)) / 6)


@pytest.mark.parametrize(
    "options", [{}, {"rope": ROPE}, {"rope": {"layout": "half"}, "softcap": 2.0, "sink_logits": np.ones(6)}], ids=str
)
@pytest.mark.parametrize("chunks", [[7], [1] * 7, [3, 1, 0, 3]], ids=str)
def test_cache_is_no_cache(close, options, chunks):
    module, _ = layer(8, biases=True, **options)
    x, _ = inputs(N=7)
    cache, outs, start = module.new_cache(2, 7, np.float64), [], 0
    for n in chunks:
        outs.append(module(x[:, start : start + n], mask=masks.causal(), cache=cache))
        start += n
    close(np.concatenate(outs, axis=1), module(x, mask=masks.causal()))


@pytest.mark.parametrize("rope", [None, ROPE])
def test_rows_of_unequal_length_in_a_cache(close, rope):
    module, _ = layer(9, rope=rope)
    rng = np.random.default_rng(9)
    rows, cache = [rng.standard_normal((n, E)) for n in (6, 2)], module.new_cache(2, 6, np.float64)
    schedule, start, got = [[3, 1], [2, 0], [1, 1]], np.zeros(2, int), [[], []]
    for lengths in schedule:
        x = np.full((2, 4, E), np.nan)  # padding is never looked at
        for b, n in enumerate(lengths):
            x[b, :n] = rows[b][start[b] : start[b] + n]
        out, weights = module(x, mask=masks.causal(), cache=cache, lengths=lengths, return_weights=True)
        start += lengths
        assert weights.shape == (2, 6, 4, start.max())
        for b, n in enumerate(lengths):
            got[b].append(out[b, :n])
    for row, parts in zip(rows, got, strict=True):
        close(np.concatenate(parts), module(row, mask=masks.causal()))


def test_rolling_cache_is_the_window(close):
    """Keys are stored unrotated and turned to their true positions, so the window with first tokens is the masked whole."""
    module, _ = layer(10, rope=ROPE)
    x, _ = inputs(N=11)
    mask = masks.causal() & (masks.last(3) | masks.first(2))
    cache = ma.RollingCache(2, 2, 3, D, np.float64, first=2, value_dim=DV)
    parts = [module(x[:, a:b], mask=mask, cache=cache) for a, b in [(0, 4), (4, 5), (5, 6), (6, 11)]]
    close(np.concatenate(parts, axis=1), module(x, mask=mask))


@pytest.mark.parametrize("rolling", [False, True])
def test_a_call_that_fails_stores_nothing(close, rolling):
    module, _ = layer(13, rope=ROPE)
    x, _ = inputs()
    cache = ma.RollingCache(2, 2, 9, D, np.float64, value_dim=DV) if rolling else module.new_cache(2, 9, np.float64)
    module(x[:, :2], mask=masks.causal(), cache=cache)
    with pytest.raises(MaskError, match="mask is float64"):
        module(x[:, 2:], mask=np.ones((3, 5)), cache=cache)
    with pytest.raises(ZeroDivisionError):
        module(x[:, 2:], mask=ma.Mask(lambda i, j: j <= 1 // 0), cache=cache)
    assert cache.lengths.tolist() == [2, 2]
    close(module(x[:, 2:], mask=masks.causal(), cache=cache), module(x, mask=masks.causal())[:, 2:])


def test_positions_move_rope_and_rules(close):
    module, _ = layer(11, rope=ROPE)
    x, _ = inputs()
    close(module(x, mask=masks.last(2), positions=np.arange(5) + 100), module(x, mask=masks.last(2)), 1e-9)
    order = np.array([4, 2, 0, 1, 3])
    close(module(x[:, order], mask=masks.last(2), positions=order), module(x, mask=masks.last(2))[:, order])
    each = np.array([[0, 1, 2, 3, 4], [7, 9, 11, 13, 15]])
    got = module(x, mask=masks.causal(), positions=each)
    for b in range(2):
        close(got[b], module(x[b], mask=masks.causal(), positions=each[b]))


def test_context_stands_from_zero_on(close):
    module, _ = layer(12, cross=True, rope=ROPE)
    x, context = inputs()
    seen = module(x, context, mask=masks.causal(), return_weights=True)[1] > 0
    np.testing.assert_array_equal(seen, np.broadcast_to(np.tri(5, 6, dtype=bool), seen.shape))


def test_types_and_inputs_are_kept():
    module = MultiHeadAttention.random(12, heads=6, kv_heads=2, seed=3, dtype=np.float32, rope={"layout": "half"})
    x = np.random.default_rng(0).standard_normal((2, 5, 12)).astype(np.float32)
    before = x.copy()
    x.flags.writeable = False
    assert module(x).dtype == np.float32
    grads = module.backward(module(x), x)
    assert {g.dtype for g in grads if g is not None} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(x, before)
    assert module.new_cache(1, 4).k.dtype == np.float32


def test_random_layers_are_drawn_from_their_seed():
    a, b, c = (MultiHeadAttention.random(16, heads=4, kv_heads=2, seed=seed) for seed in (1, 1, 2))
    assert (a.w_k.shape, a.w_q.shape, a.head_dim, a.kv_heads) == ((16, 8), (16, 16), 4, 2)
    assert (a.w_o == b.w_o).all()
    assert (a.w_o != c.w_o).any()
    wide = MultiHeadAttention.random(400, heads=4)
    assert abs(wide.w_q.std() * 20 - 1) < 0.01  # N(0, 1 / E)
