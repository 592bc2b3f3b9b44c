"""attention: against loops, against PyTorch, and against what must hold whatever the numbers are."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import minattn as ma
from minattn import masks

# a rule for the library beside the same in plain Python
RULES = {
    "none": (None, lambda b, h, i, j: True),
    "window": (masks.window(2, 1), lambda b, h, i, j: -1 <= i - j <= 2),
    "first or last": (masks.first(2) | masks.last(2), lambda b, h, i, j: j < 2 or 0 <= i - j < 2),
    "by head": (ma.Mask(lambda b, h, i, j: (i - j) % 3 >= h % 3), lambda b, h, i, j: (i - j) % 3 >= h % 3),
    "by row": (ma.Mask(lambda b, h, i, j: j <= b + 1), lambda b, h, i, j: j <= b + 1),
    "nobody": (~ma.Mask(lambda i, j: i == i), lambda b, h, i, j: False),
}
CHANGES = {
    "nothing": ({}, lambda s, b, h, i, j: s),
    "softcap": ({"softcap": 0.7}, lambda s, b, h, i, j: 0.7 * np.tanh(s / 0.7)),
    "score_mod": (
        {"score_mod": lambda s, b, h, i, j: s * (1 + 0.1 * h) - 0.3 * np.abs(i - j) + b},
        lambda s, b, h, i, j: s * (1 + 0.1 * h) - 0.3 * abs(i - j) + b,
    ),
}


@st.composite
def problems(draw):
    """(q, k, v, options of attention, options of by_hand)."""
    B, G, group, D, Dv = (draw(st.integers(1, 3)) for _ in range(5))
    H, N, S = G * group, draw(st.integers(0, 6)), draw(st.integers(0, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    q, k, v = (rng.standard_normal(shape) for shape in ((B, H, N, D), (B, G, S, D), (B, G, S, Dv)))
    some = lambda *sizes: tuple(draw(st.sampled_from([size, 1])) for size in sizes)  # noqa: E731

    q_pos, k_pos, positions = np.arange(S - N, S), np.arange(S), {}
    if draw(st.booleans()):
        q_pos = rng.integers(-1, 12, draw(st.sampled_from([(N,), (1, N), (B, N)])))
        k_pos = rng.integers(-1, 12, draw(st.sampled_from([(S,), (1, S), (B, S)])))
        positions = {"q_pos": q_pos, "k_pos": k_pos}
    i, j = np.broadcast_to(q_pos, (B, N)), np.broadcast_to(k_pos, (B, S))

    causal, rule = draw(st.booleans()), draw(st.sampled_from(sorted(RULES)))
    mask, sees = RULES[rule]
    if rule == "none" and draw(st.booleans()):
        mask = rng.random(draw(st.sampled_from([some(N, S), some(B, H, N, S)]))) < draw(st.floats(0, 1))
    array = np.broadcast_to(mask if isinstance(mask, np.ndarray) else True, (B, H, N, S))
    seen = np.zeros((B, H, N, S), bool)
    for b, h, n, s in np.ndindex(seen.shape):
        here = int(i[b, n]), int(j[b, s])
        seen[b, h, n, s] = here[1] >= 0 and (not causal or here[1] <= here[0]) and array[b, h, n, s] and sees(b, h, *here)

    options, change = CHANGES[draw(st.sampled_from(sorted(CHANGES)))]
    options = {"mask": mask, "causal": causal, **positions, **options}
    hand = {"seen": seen, "change": lambda s, b, h, n, m: change(s, b, h, int(i[b, n]), int(j[b, m]))}
    if draw(st.booleans()):
        options["bias"] = hand["bias"] = rng.standard_normal(draw(st.sampled_from([some(B, H, N, S), some(N, S), (S,), ()])))
    if draw(st.booleans()):
        options["sink_logits"] = hand["sink"] = rng.standard_normal(H)
    if draw(st.booleans()):
        options["scale"] = hand["scale"] = draw(st.floats(-2, 2))
    return q, k, v, options, hand


@hypothesis.settings(max_examples=200)
@hypothesis.given(problems())
def test_equals_loops(by_hand, close, problem):
    q, k, v, options, hand = problem
    out, weights, lse = ma.attention(q, k, v, return_weights=True, return_lse=True, **options)
    for got, want in zip((out, weights, lse), by_hand(q, k, v, **hand), strict=True):
        close(got, want)
    blind = ~hand["seen"].any(axis=-1)
    assert not weights[~hand["seen"]].any()
    assert not out[blind].any()
    sink = np.broadcast_to(hand.get("sink", np.full(q.shape[1], -np.inf))[:, None], lse.shape[1:])
    np.testing.assert_allclose(lse[blind], np.broadcast_to(sink, lse.shape)[blind], rtol=1e-15)


TORCH = {
    "plain": {},
    "more keys": {"N": 3, "S": 11},
    "more queries": {"N": 11, "S": 3},
    "one of each": {"N": 1, "S": 1},
    "65 and 129": {"N": 65, "S": 129, "D": 17},
}


def to_torch(torch, a):
    if a.dtype.name == "bfloat16":
        return torch.from_numpy(a.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(a))


@pytest.mark.parametrize("sizes", TORCH.values(), ids=TORCH)
@pytest.mark.parametrize("kind", ["full", "boolean mask", "mask of each head", "bias", "causal", "scale"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5), ("float16", 3e-3), ("bfloat16", 2e-2)])
def test_equals_pytorch(drawn, need, close, kind, sizes, dtype, tolerance):
    torch = need("torch")
    dtype = need("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    rng = np.random.default_rng(len(kind))
    q, k, v = drawn(rng, **{"Dv": 4, "D": 4, **sizes}, dtype=dtype)
    B, H, N, S = *q.shape[:3], k.shape[2]
    mine, theirs = {}, {}
    if "mask" in kind:
        mask = rng.random((N, S) if kind == "boolean mask" else (B, H, N, S)) < 0.6
        mask[..., 0] = True  # PyTorch's rows that see nothing are another matter
        mine, theirs = {"mask": mask}, {"attn_mask": torch.from_numpy(mask)}
    elif kind == "bias":
        bias = rng.standard_normal((B, 1, N, S)).astype(dtype)
        mine, theirs = {"bias": bias}, {"attn_mask": to_torch(torch, bias)}
    elif kind == "causal":  # PyTorch aligns the first query with the first key
        mine, theirs = {"causal": True, "q_pos": np.arange(N), "k_pos": np.arange(S)}, {"is_causal": True}
    elif kind == "scale":
        mine = theirs = {"scale": 0.3}
    want = torch.nn.functional.scaled_dot_product_attention(*(to_torch(torch, a) for a in (q, k, v)), enable_gqa=True, **theirs)
    got = ma.attention(q, k, v, **mine)
    assert got.dtype == dtype
    close(got.astype(np.float64), want.double().numpy(), tolerance)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_16_bits_are_rounded_once(drawn, need, name):
    """Computed in float32 throughout: the 16-bit result is the float32 one, rounded."""
    dtype = need("ml_dtypes").bfloat16 if name == "bfloat16" else np.float16
    q, k, v = drawn(3, S=700, dtype=dtype)
    out, weights, lse = ma.attention(q, k, v, causal=True, return_weights=True, return_lse=True)
    wide = [a.astype(np.float32) for a in (q, k, v)]
    out32, weights32, lse32 = ma.attention(*wide, causal=True, return_weights=True, return_lse=True)
    assert (out.dtype, weights.dtype, lse.dtype) == (dtype, dtype, np.float32)
    np.testing.assert_array_equal(out, out32.astype(dtype))
    np.testing.assert_array_equal(weights, weights32.astype(dtype))
    np.testing.assert_array_equal(lse, lse32)
    assert ma.attention_weights(q, k, top=2)[1].dtype == dtype
    assert {a.dtype for a in ma.steps(q, k, v)} == {np.dtype(dtype)}


def test_float16_sums_that_float16_could_not_hold():
    """100,000 equal keys: a float16 sum of ones ends at 65,504, and its running average long before."""
    S = 100_000
    v = np.full((1, S, 1), 3.0, np.float16)
    out, lse = ma.attention(np.ones((1, 1, 1), np.float16), np.ones((1, S, 1), np.float16), v, return_lse=True)
    assert out.item() == 3.0
    np.testing.assert_allclose(lse, 1 + np.log(S), rtol=1e-6)


@pytest.mark.parametrize(
    ("types", "result", "lse"),
    [
        ("ddd", "d", "d"), ("fff", "f", "f"), ("eee", "e", "f"), ("fdf", "d", "d"), ("eff", "f", "f"), ("ffe", "f", "f"),
        ("eed", "d", "d"),
    ],
)  # fmt: skip
def test_types(drawn, types, result, lse):
    arrays = [a.astype(t) for a, t in zip(drawn(1), types, strict=True)]
    bias, sink = np.zeros((7,), np.float64), np.zeros(6, np.float64)  # options do not decide the type
    parts = ma.attention(*arrays, bias=bias, sink_logits=sink, scale=np.float64(0.5), softcap=np.float64(3), return_lse=True)
    assert [a.dtype.char for a in parts] == [result, lse]


def test_float64_stays_float64(drawn, close):
    q, k, v = drawn(2)
    exact = ma.attention(q, k, v)
    rounded = ma.attention(*(a.astype(np.float32) for a in (q, k, v)))
    assert 1e-9 < np.abs(exact - rounded).max() < 1e-5


def test_rows_of_weights_sum_to_one(drawn):
    q, k, v = drawn(9)
    w = ma.attention(q, k, v, mask=masks.first(1) | masks.last(3), return_weights=True)[1]
    np.testing.assert_allclose(w.sum(axis=-1), 1, rtol=1e-14)
    sink = ma.attention(q, k, v, sink_logits=np.full(6, 2.0), return_weights=True)[1].sum(axis=-1)
    assert ((sink > 0) & (sink < 1)).all()


def test_a_constant_on_a_row_changes_nothing_but_lse(drawn, close):
    q, k, v = drawn(10)
    shift = np.random.default_rng(0).standard_normal((2, 6, 5, 1)) * 20
    plain, shifted = (ma.attention(q, k, v, bias=b, return_weights=True, return_lse=True) for b in (None, shift))
    close(shifted[0], plain[0])
    close(shifted[1], plain[1])
    close(shifted[2], plain[2] + shift[..., 0])


def test_permuting_keys_with_their_values_changes_nothing(drawn, close):
    q, k, v = drawn(11)
    order = np.random.default_rng(0).permutation(7)
    close(ma.attention(q, k[:, :, order], v[:, :, order]), ma.attention(q, k, v))
    moved = ma.attention(q, k[:, :, order], v[:, :, order], mask=masks.window(2, 1), q_pos=np.arange(2, 7), k_pos=order)
    close(moved, ma.attention(q, k, v, mask=masks.window(2, 1)))


def test_causal_prefix(drawn):
    """What comes later changes nothing before it."""
    q, k, v = drawn(12, N=9, S=9)
    whole = ma.attention(q, k, v, causal=True)
    for n in range(1, 9):
        later = [np.concatenate([a[:, :, :n], 1e3 * a[:, :, n:]], axis=2) for a in (q, k, v)]
        np.testing.assert_array_equal(ma.attention(*later, causal=True)[:, :, :n], whole[:, :, :n])
        np.testing.assert_allclose(ma.attention(q[:, :, :n], k[:, :, :n], v[:, :, :n], causal=True), whole[:, :, :n], rtol=1e-12)


def test_heads_are_separate(drawn, close):
    q, k, v = drawn(13)
    whole = ma.attention(q, k, v, causal=True)
    for b, h in np.ndindex(2, 6):
        close(whole[b, h], ma.attention(q[b, h], k[b, h // 2], v[b, h // 2], causal=True))


@pytest.mark.parametrize("G", [1, 2, 3, 6])
def test_groups_repeat_and_never_tile(drawn, close, G):
    q, k, v = drawn(14, G=G)
    grouped = ma.attention(q, k, v, causal=True)
    close(grouped, ma.attention(q, ma.repeat_kv(k, 6 // G), ma.repeat_kv(v, 6 // G), causal=True))
    if 1 < G < 6:
        tiled = ma.attention(q, np.tile(k, (1, 6 // G, 1, 1)), np.tile(v, (1, 6 // G, 1, 1)), causal=True)
        assert np.abs(grouped - tiled).max() > 0.1


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_logits_of_ten_thousand(drawn, by_hand, close, scale):
    q, k, v = drawn(15)
    q, k = np.sign(q), np.sign(k)  # scores are multiples of 10,000: ties and giants
    close(ma.attention(q, k, v, scale=scale), by_hand(q, k, v, scale=scale)[0])
    q32, k32, v32 = (a.astype(np.float32) for a in (q, k, v))
    close(ma.attention(q32, k32, v32, scale=scale), by_hand(q, k, v, scale=scale)[0], 1e-5)


def test_scale_zero_is_the_mean(drawn, close):
    q, k, v = drawn(16)
    close(ma.attention(q, k, v, scale=0), np.broadcast_to(v.mean(axis=2, keepdims=True).repeat(2, axis=1), (2, 6, 5, 3)))


def test_scale_is_one_over_root_d(drawn, close):
    q, k, v = drawn(17, D=9)
    close(ma.attention(q, k, v), ma.attention(q, k, v, scale=1 / 3))
    close(ma.attention(q, k, v), ma.attention(q / 3, k, v, scale=1))


def test_long_and_narrow(drawn, close):
    q, k, v = drawn(18, B=1, H=1, G=1, N=3, S=50_001, D=1, Dv=1)
    s = q @ k.swapaxes(-1, -2)
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    close(ma.attention(q, k, v), (p @ v) / p.sum(axis=-1, keepdims=True))


def test_causal_is_a_mask_like_any_other(drawn):
    q, k, v = drawn(19)
    want = ma.attention(q, k, v, mask=masks.causal() & masks.last(3))
    np.testing.assert_array_equal(ma.attention(q, k, v, causal=True, mask=masks.last(3)), want)
    dense = (masks.causal() & masks.last(3)).dense(5, 7)
    np.testing.assert_array_equal(ma.attention(q, k, v, mask=dense), want)
    np.testing.assert_array_equal(ma.attention(q, k, v, causal=True, mask=masks.last(3).dense(5, 7)), want)


def test_empty_slots_are_hidden_after_all_algebra(drawn, close):
    q, k, v = drawn(20)
    k_pos = np.array([0, -1, 1, 2, -1, 3, 4])
    got = ma.attention(q, k, v, mask=~masks.last(2), q_pos=np.arange(5), k_pos=k_pos)
    kept = k_pos >= 0
    close(got, ma.attention(q, k[:, :, kept], v[:, :, kept], mask=~masks.last(2)))


def test_softcap_bounds_scores(drawn):
    q, k, v = drawn(21)
    capped = ma.steps(50 * q, k, v, softcap=2.0).capped
    assert np.abs(capped).max() <= 2
    with pytest.raises(AssertionError):  # before bias and mask, not after
        np.testing.assert_allclose(
            ma.attention(q, k, v, softcap=2.0, bias=np.arange(7.0)),
            ma.attention(q, k, v, score_mod=lambda s, b, h, i, j: 2 * np.tanh((s + j) / 2)),
        )


def test_sink_is_a_key_with_the_value_zero(drawn, close):
    q, k, v = drawn(22)
    sink = np.random.default_rng(0).standard_normal(6)
    out, lse = ma.attention(q, k, v, sink_logits=sink, return_lse=True)
    bias = np.concatenate([np.zeros((6, 1, 7)), sink[:, None, None]], axis=-1)
    extended = [np.concatenate([a, np.zeros_like(a[:, :, :1])], axis=2) for a in (k, v)]
    want, want_lse = ma.attention(q, *extended, bias=bias, return_lse=True)
    close(out, want)
    close(lse, want_lse)
