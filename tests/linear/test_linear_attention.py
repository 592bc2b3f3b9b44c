"""Linear attention: its forms, its feature maps, all keys and the keys so far."""
import sys

import numpy as np
import pytest

import minattn as ma

MAPS = {"elu": lambda x: np.where(x > 0, x + 1, np.exp(x)), "relu": lambda x: x * (x > 0), "exp": np.exp,
        "own": lambda x: np.concatenate([np.exp(x), np.exp(-x)], axis=-1)}  # fmt: skip


def chosen(name):
    return MAPS["own"] if name == "own" else name


def by_hand(q, k, v, phi, causal, normalize):
    """Weights of one query after the other."""
    (B, H, N, _), S, group = q.shape, k.shape[2], q.shape[1] // k.shape[1]
    out = np.zeros((B, H, N, v.shape[-1]))
    for b, h, n in np.ndindex(B, H, N):
        seen = slice(n + 1 if causal else S)
        weights = phi(k[b, h // group, seen]) @ phi(q[b, h, n])
        total = weights.sum() if normalize else 1
        out[b, h, n] = weights @ v[b, h // group, seen] / total if total else 0
    return out


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunked"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("feature_map", MAPS)
def test_equals_the_formula_by_hand(drawn, close, feature_map, normalize, form):
    for causal, S in ((True, 6), (False, 6), (False, 9)):
        q, k, v = drawn(1, N=6, S=S)
        options = {"causal": causal, "normalize": normalize, "form": form, "chunk": 4}
        got = ma.linear_attention(q, k, v, feature_map=chosen(feature_map), **options)
        close(got, by_hand(q, k, v, MAPS[feature_map], causal, normalize))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("length", [1, 7, 64, 129])
@pytest.mark.parametrize("normalize", [True, False])
def test_forms_agree(drawn, close, length, normalize, dtype, tolerance):
    q, k, v = drawn(length, N=length, S=length, dtype=dtype)
    for causal in (True, False):
        want = ma.linear_attention(q, k, v, causal=causal, normalize=normalize, form="parallel")
        for form, chunk in (("recurrent", 1), ("chunked", 5), ("chunked", 64)):
            got = ma.linear_attention(q, k, v, causal=causal, normalize=normalize, form=form, chunk=chunk)
            assert got.dtype == dtype
            close(got, want, tolerance)


@pytest.mark.parametrize(("dtype", "backend", "tolerance"), [(np.float64, "numpy", 1e-10), (np.float32, "cpu", 1e-5)])
@pytest.mark.parametrize(("feature_map", "rows", "chunk"), [("elu", 1, 7), ("elu", 200, 5), ("relu", 300, 16), ("own", 90, 1)])
def test_spans_of_tokens_make_the_whole(drawn, close, monkeypatch, feature_map, rows, chunk, dtype, backend, tolerance):
    q, k, v = drawn(4, N=129, S=129, dtype=dtype)
    options = {"feature_map": chosen(feature_map), "return_state": True}
    _, state = ma.linear_attention(q, k, v, **options)
    want, end = ma.linear_attention(q, k, v, form="parallel", state=state, **options)
    monkeypatch.setattr(sys.modules["minattn.linear.linear_attention"], "ROWS", rows)
    for form in ("recurrent", "chunked"):
        out, last = ma.linear_attention(q, k, v, form=form, chunk=chunk, state=state, backend=backend, **options)
        assert (out.dtype, last.shape) == (dtype, end.shape)
        close(out, want, tolerance)
        close(last, end, tolerance)


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunked"])
@pytest.mark.parametrize("normalize", [True, False])
def test_streaming_carries_the_sums_and_the_normaliser(drawn, close, form, normalize):
    q, k, v = drawn(2, N=40, S=40)
    want, end = ma.linear_attention(q, k, v, normalize=normalize, return_state=True)
    state, outs = None, []
    for here in [slice(0, 33), *(slice(n, n + 1) for n in range(33, 40))]:
        out, state = ma.linear_attention(q[:, :, here], k[:, :, here], v[:, :, here], normalize=normalize, form=form,
                                         state=state, return_state=True)  # fmt: skip
        outs.append(out)
    close(np.concatenate(outs, axis=2), want)
    close(state, end)
    assert state.shape == (2, 3, 4, 3 + normalize)


@pytest.mark.parametrize("causal", [True, False])
def test_normalised_weights_average_the_values(drawn, close, causal):
    q, k, v = drawn(3, N=7, S=7)
    close(ma.linear_attention(q, k, np.ones_like(v), causal=causal), np.ones((2, 6, 7, 3)))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("feature_map", MAPS)
@pytest.mark.parametrize("causal", [True, False])
def test_gradient(drawn, close, slopes, feature_map, normalize, causal):
    q, k, v = drawn(7, B=1, H=4, G=2, N=5, S=5 if causal else 6, D=3, Dv=2)
    named, options = {"q": q, "k": k, "v": v}, {"feature_map": chosen(feature_map), "normalize": normalize, "causal": causal}
    dout, more = np.random.default_rng(0).standard_normal((1, 4, 5, 2)), {}
    if feature_map == "own":
        more["feature_map_grad"] = lambda x, dphi: dphi[..., :3] * np.exp(x) - dphi[..., 3:] * np.exp(-x)
    if feature_map == "relu":                                                      # no empty sum, and no kink within a step
        named = {name: np.where(abs(a) < 0.05, 0.2, a) for name, a in named.items()}
        named["q"], named["k"] = abs(named["q"]), abs(named["k"]) * np.sign(named["k"] + 1.5)
    if causal:
        width = 6 if feature_map == "own" else 3
        named["state"] = np.random.default_rng(1).random((1, 2, width, 2 + normalize)) + 1
    grads = ma.linear_attention_backward(dout, **named, **options, **more, chunk=2)
    for name, a in named.items():
        want = slopes(lambda x, name=name: (ma.linear_attention(**named | {name: x}, **options) * dout).sum(), a)
        close(getattr(grads, f"d{name}"), want, 1e-7)


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_summed_over_what_is_shared_and_keep_their_types(drawn, close, causal):
    q, k, v = drawn(8, N=5, S=5, dtype=np.float32)
    dout = np.random.default_rng(0).standard_normal((2, 6, 5, 3))
    got = ma.linear_attention_backward(dout, q, k[:1], v[0], causal=causal)
    full = ma.linear_attention_backward(dout, q, np.repeat(k[:1], 2, axis=0), np.repeat(v[:1], 2, axis=0), causal=causal)
    close(got.dq, full.dq, 1e-5)
    close(got.dk, full.dk.sum(axis=0, keepdims=True), 1e-5)
    close(got.dv, full.dv.sum(axis=0), 1e-5)
    assert {a.dtype for a in got[:3]} == {np.dtype(np.float32)}


def test_what_the_gradient_refuses(drawn):
    q, k, v = drawn(9, N=5, S=5)
    dout = np.ones((2, 6, 5, 3))
    with pytest.raises(ma.errors.OptionError, match="feature_map is a function without feature_map_grad"):
        ma.linear_attention_backward(dout, q, k, v, feature_map=np.exp)
    with pytest.raises(ma.errors.OptionError, match="a state without causal=True"):
        ma.linear_attention_backward(dout, q, k, v, causal=False, dstate=np.ones((2, 3, 4, 4)))
    for causal in (True, False):
        with pytest.raises(ma.errors.ShapeError, match=r"dout is \(2, 6, 5, 2\)"):
            ma.linear_attention_backward(dout[..., :2], q, k, v, causal=causal)


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunked"])
@pytest.mark.parametrize("causal", [True, False])
def test_features_that_are_all_zero_read_zero(drawn, form, causal):
    q, k, v = drawn(4, N=7, S=7)
    q[:, :, 2] = -1
    out = ma.linear_attention(q, k, v, feature_map="relu", form=form, causal=causal)
    assert not out[:, :, 2].any()
    assert np.isfinite(out).all()


def test_16_bit_and_one_head(drawn, close):
    q, k, v = drawn(5, N=20, S=20, dtype=np.float16)
    for causal in (True, False):
        out = ma.linear_attention(q, k, v, causal=causal)
        assert out.dtype == np.float16
        close(out, ma.linear_attention(*(a.astype(np.float64) for a in (q, k, v)), causal=causal), 1e-3)
        close(ma.linear_attention(q[0, 2], k[0, 1], v[0, 1], causal=causal), out[0, 2])
    assert ma.linear_attention(q, k, v, return_state=True)[1].dtype == np.float32


@pytest.mark.parametrize(("options", "error", "says"), [
    ({"feature_map": "gelu"}, ma.errors.OptionError, "feature_map is 'gelu'; it must be 'elu', 'relu', 'exp' or a function"),
    ({"feature_map": lambda x: x.sum(axis=-2)}, ma.errors.ShapeError, r"feature_map\(q\) is \(2, 6, 4\) for q \(2, 6, 5, 4\)"),
    ({"feature_map": lambda x: x > 0}, ma.errors.DtypeError, r"feature_map\(q\) is bool"),
    ({"feature_map": lambda x: x if x.shape[1] == 6 else x[..., :2]}, ma.errors.ShapeError, "k has D = 2 but q has D = 4"),
    ({"causal": False, "return_state": True}, ma.errors.OptionError, "a state without causal=True"),
    ({"causal": False, "form": "fast"}, ma.errors.OptionError, "form is 'fast'"),
    ({"feature_map": ["elu"]}, ma.errors.OptionError, r"feature_map is \['elu'\]"),
    ({"form": "fast"}, ma.errors.OptionError, "form is 'fast'; it must be one of 'recurrent', 'chunked', 'parallel'"),
    ({"state": np.ones((2, 3, 4, 3))}, ma.errors.ShapeError, "normalize=True adds a column"),
], ids=str)  # fmt: skip
def test_what_is_refused(drawn, options, error, says):
    with pytest.raises(error, match=says):
        ma.linear_attention(*drawn(6, N=5, S=5), **options)
