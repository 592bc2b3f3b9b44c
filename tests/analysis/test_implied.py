"""Implied weights against maps that are written out pair by pair, applied to values, and of what has none."""
from functools import partial

import numpy as np
import pytest

import minattn as ma
from minattn import masks
from minattn.core.errors import LinearityError, OptionError, ShapeError

B, H, G, D, Dv = 2, 6, 3, 5, 4


def drawn_tokens(seed, N, dtype=np.float64):
    """What the mechanisms take, by name; no two sizes equal."""
    rng = np.random.default_rng(seed)
    shapes = {"q": (B, H, N, D), "k": (B, G, N, D), "v": (B, G, N, Dv), "kappa": (B, G, N, D)}
    given = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    for name in ("k", "kappa"):
        given[name] /= np.linalg.norm(given[name], axis=-1, keepdims=True)
    given |= {
        "beta": rng.uniform(0, 2, (B, G, N)), "a": rng.uniform(0, 1, (B, G, N, D)), "steady": -rng.exponential(0.3, G),
        "g": -rng.exponential(0.3, (B, G, N, D)), "scalar": -rng.exponential(0.3, (B, G, N)),
        "directions": rng.standard_normal((9, D)), "mix": rng.standard_normal((4, N)), "unmix": rng.standard_normal((4, N)),
    }
    return {name: a.astype(dtype) for name, a in given.items()}


def by_transitions(q, k, g=None, erase=None):
    """q_n (the transitions after m, one after the other) k_m: what a recurrence keeps of each write, (B, H, N, N)."""
    N, weights = k.shape[2], np.zeros((B, H, k.shape[2], k.shape[2]))
    g = np.zeros_like(k) if g is None else np.broadcast_to(g, k.shape)
    a, b = (np.zeros_like(k), np.zeros_like(k)) if erase is None else erase
    for p, h in np.ndindex(B, H):
        at = p, h // (H // k.shape[1])
        for m in range(N):
            kept = k[at][m]
            for n in range(m, N):
                if n > m:
                    kept = np.exp(g[at][n]) * kept + a[at][n] * (b[at][n] @ kept)
                weights[p, h, n, m] = q[p, h, n] @ kept
    return weights


def normalised(weights):
    return weights / weights.sum(axis=-1, keepdims=True)


def scores(t):
    return t["q"] @ ma.repeat_kv(t["k"], H // G).swapaxes(-1, -2)


def features(t):
    """q and k as linear attention sees them."""
    return t | {name: np.where(t[name] > 0, t[name] + 1, np.exp(t[name])) for name in "qk"}


def random_scores(t, kind):
    """The products of random features, as Performer sees q and k; kept short, so that no normaliser is near 0."""
    return scores({name: ma.random_features(t[name] / D**0.25 / 3, t["directions"], kind) for name in "qk"})


def performer(kind, **options):
    return lambda t: (ma.performer_attention, [t["q"] / 3, t["k"] / 3, t["v"]],
                      {"features": t["directions"], "kind": kind, **options})  # fmt: skip


# name: (the mechanism of its tokens t, its map from formulas)
CASES = {
    "attention": (lambda t: (ma.attention, [t["q"], t["k"], t["v"]], {"softcap": 2.0}),
                  lambda t: ma.attention_weights(t["q"], t["k"], softcap=2.0)),
    "tiled attention": (lambda t: (ma.attention, [t["q"], t["k"], t["v"]], {"causal": True, "backend": "cpu"}),
                        lambda t: ma.softmax(np.where(np.tri(t["k"].shape[2], dtype=bool), scores(t) / D**0.5, -np.inf))),
    "strided attention": (lambda t: (ma.strided_attention, [t["q"], t["k"], t["v"]], {"stride": 4}),
                          lambda t: ma.attention_weights(t["q"], t["k"], mask=masks.strided(4))),
    "linear attention": (lambda t: (ma.linear_attention, [t["q"], t["k"], t["v"]], {}),
                         lambda t: normalised(np.tril(scores(features(t))))),
    "linear attention over all keys": (lambda t: (ma.linear_attention, [t["q"], t["k"], t["v"]], {"causal": False}),
                                       lambda t: normalised(scores(features(t)))),
    "performer": (performer("positive", causal=True), lambda t: normalised(np.tril(random_scores(t, "positive")))),
    "performer over all keys": (performer("trigonometric"), lambda t: normalised(random_scores(t, "trigonometric"))),
    "linformer": (lambda t: (ma.linformer_attention, [t["q"], t["k"], t["v"], t["mix"], t["unmix"]], {}),
                  lambda t: ma.attention_weights(t["q"], t["mix"] @ t["k"]) @ t["unmix"]),
    "retention": (lambda t: (ma.retention, [t["q"], t["k"], t["v"]], {"log_decay": t["steady"]}),
                  lambda t: by_transitions(t["q"], t["k"], t["steady"][:, None, None])),
    "gates": (lambda t: (ma.gated_linear_attention, [t["q"], t["k"], t["v"]], {"log_decay": t["g"], "scale": 0.3}),
              lambda t: 0.3 * by_transitions(t["q"], t["k"], t["g"])),
    "delta rule": (lambda t: (ma.delta_rule, [t["q"], t["k"], t["v"]], {"beta": t["beta"], "log_decay": t["scalar"]}),
                   lambda t: by_transitions(t["q"], t["beta"][..., None] * t["k"], t["scalar"][..., None], (
                       -t["beta"][..., None] * t["k"], np.exp(t["scalar"])[..., None] * t["k"]))),
    "rwkv7": (lambda t: (ma.rwkv7, [t[name] for name in ("q", "g", "k", "v", "kappa", "a")], {}),
              lambda t: by_transitions(t["q"], t["k"], t["g"], (-t["a"] * t["kappa"], t["kappa"]))),
}  # fmt: skip


@pytest.mark.parametrize("N", [1, 7, 33])
@pytest.mark.parametrize("name", CASES)
def test_is_the_map_that_the_formula_says(name, N, close):
    t = drawn_tokens(N, N)
    opened, formula = CASES[name]
    function, arrays, options = opened(t)
    weights = ma.implied_weights(function, *arrays, **options, check=False)
    assert weights.shape == (B, H, N, N)
    close(weights, formula(t))
    close(weights @ ma.repeat_kv(t["v"], H // G), function(*arrays, **options))


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@pytest.mark.parametrize("name", ["linear attention", "performer", "retention", "gates", "delta rule", "rwkv7"])
def test_every_form_implies_the_same(name, form, close):
    t = drawn_tokens(3, 40)
    function, arrays, options = CASES[name][0](t)
    want = ma.implied_weights(function, *arrays, **options)
    close(ma.implied_weights(function, *arrays, **options, form=form, chunk=7), want)


def test_bfloat16(need, close):
    bfloat16 = need("ml_dtypes").bfloat16
    function, arrays, options = CASES["linear attention"][0](drawn_tokens(6, 20, bfloat16))
    weights = ma.implied_weights(function, *arrays, **options)
    assert weights.dtype == bfloat16
    close(weights, ma.implied_weights(function, *(a.astype(float) for a in arrays), **options), 1e-2)


COMPILED = "attention", "strided attention", "linear attention", "retention", "gates", "delta rule", "rwkv7"


@pytest.mark.parametrize("name", COMPILED)
def test_the_compiled_form_implies_the_same(name, need, close):
    need("numba")
    function, arrays, options = CASES[name][0](drawn_tokens(17, 70, np.float32))
    compiled, plain = (ma.implied_weights(function, *arrays, **options, backend=backend) for backend in ("cpu", "numpy"))
    close(compiled, plain, 1e-5)


@pytest.mark.parametrize("block", [1, 5, 39, 40, 1000])
@pytest.mark.parametrize("name", ["tiled attention", "linear attention", "delta rule"])
def test_block_by_block(name, block, close):
    function, arrays, options = CASES[name][0](drawn_tokens(4, 40))
    close(ma.implied_weights(function, *arrays, **options, block=block), ma.implied_weights(function, *arrays, **options))


def test_flash_attention_gives_its_map_from_the_log_sum_exp_too(close):
    t = drawn_tokens(5, 150)
    options = {"causal": True, "backend": "cpu"}
    _, lse = ma.attention(t["q"], t["k"], t["v"], **options, return_lse=True)
    want = ma.attention_weights(t["q"], t["k"], lse=lse, **options)
    close(ma.implied_weights(ma.attention, t["q"], t["k"], t["v"], **options), want)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 5e-3), (np.float32, 1e-5)])
@pytest.mark.parametrize("name", CASES)
def test_types(name, dtype, tolerance, close):
    function, arrays, options = CASES[name][0](drawn_tokens(6, 20, dtype))
    wide, wide_arrays, wide_options = CASES[name][0]({n: a.astype(float) for n, a in drawn_tokens(6, 20, dtype).items()})
    weights = ma.implied_weights(function, *arrays, **options)
    assert weights.dtype == dtype
    close(weights, ma.implied_weights(wide, *wide_arrays, **wide_options), tolerance)


def test_one_head_named_arguments_and_views(close):
    t = drawn_tokens(7, 9)
    q, k, v = (t[name][1, 0].T.copy().T for name in "qkv")                # two axes, columns first
    weights = ma.implied_weights(ma.linear_attention, q, v=v, k=k, feature_map="exp")
    close(weights, normalised(np.tril(np.exp(q) @ np.exp(k).T)))
    close(ma.implied_weights(partial(ma.linear_attention, q, feature_map="exp"), k=k, v=v), weights)


def test_values_shared_by_a_batch_and_other_keys_than_queries(close):
    t = drawn_tokens(8, 9)
    q, v = t["q"][:, :, 3:8], t["v"][:1]
    want = ma.attention_weights(q, t["k"], causal=True)
    close(ma.implied_weights(ma.attention, q, t["k"], v, causal=True), want)


def averaged(x, keep):
    """An average of each channel with a memory of its own: (..., N, E), (E,)."""
    out = x.copy()
    for n in range(1, x.shape[-2]):
        out[..., n, :] += keep * out[..., n - 1, :]
    return out


def test_channels_with_weights_of_their_own(close):
    N, keep, x = 6, np.array([0.0, 0.5, -0.9]), np.random.default_rng(9).standard_normal((B, 6, 3))
    age = np.arange(N)[:, None] - np.arange(N)
    want = np.where(age >= 0, keep[:, None, None] ** age.clip(0), 0)
    for block in (1, 4, 128):
        weights = ma.implied_weights(averaged, x, keep, value="x", per_channel=True, block=block)
        close(weights, np.broadcast_to(want, (B, 3, N, N)))
    close(ma.implied_weights(averaged, x[0], keep, value="x", per_channel=True), want)
    square = np.random.default_rng(9).standard_normal((3, 3))             # as many tokens as channels: only the check can tell
    with pytest.raises(LinearityError, match="per_channel=True"):
        ma.implied_weights(averaged, square, keep, value="x")


@pytest.mark.parametrize("form", ["sequential", "associative"])
@pytest.mark.parametrize("discretization", ["euler", "zoh"])
def test_mamba_has_a_map_for_each_channel(form, discretization, close):
    rng, N, E, n = np.random.default_rng(15), 9, 3, 4
    (x, z), delta = rng.standard_normal((2, B, N, E)), rng.exponential(0.5, (B, N, E))
    a, d = -rng.exponential(1, (E, n)), rng.standard_normal(E)
    b, c = rng.standard_normal((2, B, N, n))
    want = np.zeros((B, E, N, N))
    for p, e, m in np.ndindex(B, E, N):
        g = delta[p, :, e, None] * a[e]                                            # (N, n)
        kept = b[p, m] * (delta[p, m, e] if discretization == "euler" else np.expm1(g[m]) / a[e])
        for t in range(m, N):
            kept = np.exp(g[t]) * kept if t > m else kept
            want[p, e, t, m] = (c[p, t] @ kept + d[e] * (t == m)) * z[p, t, e] / (1 + np.exp(-z[p, t, e]))
    options = {"d": d, "z": z, "form": form, "discretization": discretization, "value": "x", "per_channel": True}
    for block in (2, 128):
        close(ma.implied_weights(ma.selective_scan, x, delta, a, b, c, **options, block=block), want)


@pytest.mark.parametrize("form", ["recurrent", "chunked", "quadratic"])
def test_mamba_2_has_a_map_for_each_head(form, close):
    rng, N = np.random.default_rng(16), 21
    x, delta = rng.standard_normal((B, H, N, Dv)), rng.exponential(0.5, (B, H, N))
    a, d = -rng.exponential(1, H), rng.standard_normal(H)
    b, c = rng.standard_normal((2, B, G, N, D))
    g = np.broadcast_to((delta * a[:, None])[..., None], (B, H, N, D))
    want = by_transitions(ma.repeat_kv(c, 2), ma.repeat_kv(b, 2), g) * delta[..., None, :] + d[:, None, None] * np.eye(N)
    options = {"d": d, "value": "x", "form": form, "chunk": 8}
    for block in (4, 128):
        close(ma.implied_weights(ma.ssd, x, delta, a, b, c, **options, block=block), want)


def test_rows_and_signs():
    """Divided by a normaliser the rows are averages; the delta rule's are not, and take away what was written."""
    t = drawn_tokens(10, 30)
    linear = ma.implied_weights(ma.linear_attention, t["q"], t["k"], t["v"])
    np.testing.assert_allclose(linear.sum(axis=-1), 1)
    assert linear.min() == 0
    same = np.broadcast_to(t["k"][:, :, :1], t["k"].shape)                # one key for all: each token replaces the one before
    delta = ma.implied_weights(ma.delta_rule, same, same, t["v"], beta=np.ones((B, G, 30)))
    np.testing.assert_allclose(delta, np.broadcast_to(np.eye(30), delta.shape), atol=1e-12)
    over = ma.implied_weights(ma.delta_rule, same, same, t["v"], beta=np.full((B, G, 30), 1.5))
    np.testing.assert_allclose(over[0, 0, 29, 26:], [1.5 * -0.125, 1.5 * 0.25, 1.5 * -0.5, 1.5])


def test_nan_stays_where_it_is_seen():
    t = drawn_tokens(11, 8)
    q, k, v, near = t["q"], t["k"], t["v"], {"mask": masks.first(5)}
    v[:, :, 5] = np.nan                                                   # a value that nobody sees
    weights = ma.implied_weights(ma.attention, q, k, v, **near)
    assert np.isfinite(weights).all()
    assert not weights[..., 5:].any()
    q[:, 2, 3] = np.nan                                                   # one row has no weights, the others have theirs
    assert np.isnan(ma.implied_weights(ma.attention, q, k, v, **near)).sum() == B * 8
    for bad in (v, np.nan_to_num(v)):                                     # and in both cases the check sees the rest
        with pytest.raises(LinearityError):
            ma.implied_weights(lambda q, k, v, **options: ma.attention(q, k, v.clip(0), **options), q, k, bad, **near)


@pytest.mark.parametrize("function", [
    lambda q, v: np.tril(q @ q.swapaxes(-1, -2)) @ v.clip(0), lambda q, v: v + 1, lambda q, v: v * (v**2).sum(),
    lambda q, v: np.random.default_rng().random((len(q), len(q))) @ v,
], ids=["clipped", "affine", "cubic", "drawn anew"])  # fmt: skip
def test_what_is_not_linear_has_no_weights(function):
    q, v = np.random.default_rng(12).standard_normal((2, 9, 4))
    with pytest.raises(LinearityError, match="is not linear in v: its implied weights"):
        ma.implied_weights(function, q, v)
    assert ma.implied_weights(function, q, v, check=False).shape == (9, 9)


def test_the_exponential_of_keys_is_not_linear():
    q, k, v = np.random.default_rng(13).standard_normal((3, 5, 5))
    with pytest.raises(LinearityError, match="attention is not linear in k"):
        ma.implied_weights(ma.attention, q, k, v, value="k")


def test_bad_input():
    q, k, v = np.random.default_rng(14).standard_normal((3, 2, 6, 4))
    with pytest.raises(OptionError, match="value = 'x', but linear_attention was given q, k, v, causal"):
        ma.implied_weights(ma.linear_attention, q, k, v, causal=True, value="x")
    with pytest.raises(OptionError, match="a state was given"):
        ma.implied_weights(ma.linear_attention, q, k, v, state=np.zeros((2, 4, 5)))
    with pytest.raises(OptionError, match="returned 2 results; leave out return_state"):
        ma.implied_weights(ma.linear_attention, q, k, v, return_state=True)
    with pytest.raises(OptionError, match="block = 0"):
        ma.implied_weights(ma.linear_attention, q, k, v, block=0)
    with pytest.raises(ShapeError, match=r"v is \(4,\)"):
        ma.implied_weights(ma.linear_attention, q, k, v[0, 0])
    with pytest.raises(ShapeError, match="without keys"):
        ma.implied_weights(ma.attention, q, k[:, :0], v[:, :0])
    with pytest.raises(ShapeError, match=r"returned \(2, 6, 3\) for v with 6 columns"):
        ma.implied_weights(lambda v: v[..., :3], v)
    with pytest.raises(ma.errors.DtypeError, match="v is int64"):
        ma.implied_weights(ma.linear_attention, q, k, np.ones((2, 6, 4), int))


def test_channels_of_grouped_heads(close):
    q, k, v = (np.random.default_rng(0).standard_normal((2, heads, 7, width)) for heads, width in ((4, 3), (2, 3), (2, 5)))
    each = ma.implied_weights(ma.linear_attention, q, k, v, per_channel=True)
    want = ma.implied_weights(ma.linear_attention, q, k, v)
    close(each, np.repeat(want[:, :, None], 5, axis=2), 1e-12)
