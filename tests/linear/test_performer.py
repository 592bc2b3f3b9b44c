"""Performer: the same weights as all pairs of features give, and nothing that overflows or looks ahead."""
import numpy as np
import pytest

import minattn as ma

KINDS = "positive", "trigonometric", "hyperbolic"


def by_hand(q, k, v, w, kind, causal):
    """All pairs of features, one query after the other."""
    (B, H, N, D), S, group = q.shape, k.shape[2], q.shape[1] // k.shape[1]
    phi_q, phi_k = (ma.random_features(a / D**0.25, w, kind) for a in (q, k))
    out = np.zeros((B, H, N, v.shape[-1]))
    for b, h, n in np.ndindex(B, H, N):
        seen = slice(n + 1 if causal else S)
        weights = phi_k[b, h // group, seen] @ phi_q[b, h, n]
        out[b, h, n] = weights @ v[b, h // group, seen] / weights.sum()
    return out


def small(drawn, seed, N, S, dtype=np.float64):
    """Trigonometric features need short vectors, or their normaliser may come near 0."""
    q, k, v = drawn(seed, N=N, S=S, dtype=dtype)
    return q / 2, k / 2, v


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("length", [1, 7, 64, 129])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_all_pairs_of_features(drawn, close, kind, length, dtype, tolerance):
    w = ma.random_projection(40, 4, seed=0)
    for causal, S, form, chunk in ((True, length, "recurrent", 1), (True, length, "chunked", 5), (True, length, "chunked", 64),
                                   (False, length, "chunked", 64), (False, length + 4, "chunked", 64)):  # fmt: skip
        q, k, v = small(drawn, length, length, S, dtype)
        got = ma.performer_attention(q, k, v, features=w, kind=kind, causal=causal, form=form, chunk=chunk)
        assert got.dtype == dtype
        close(got, by_hand(*(a.astype(np.float64) for a in (q, k, v)), w, kind, causal), tolerance)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_many_features_are_softmax_attention(drawn, kind, causal):
    q, k, v = drawn(0, N=9, S=9)
    q, k = q / 3, k / 3
    exact = ma.attention(q, k, v, causal=causal)
    few, many = (abs(ma.performer_attention(q, k, v, features=m, kind=kind, seed=3, causal=causal) - exact).mean()
                 for m in (16, 4096))  # fmt: skip
    assert many < 0.01
    assert many < few / 8                                             # 16 times less is to be expected


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@pytest.mark.parametrize("kind", KINDS)
def test_streaming_equals_the_full_pass(drawn, close, kind, form):
    q, k, v = small(drawn, 2, 40, 40)
    k[:, :, 36] *= 9                                                               # raises top long after the start
    options = {"features": 9, "kind": kind, "seed": 5, "causal": True, "form": form, "chunk": 8, "return_state": True}
    want, end = ma.performer_attention(q, k, v, **options)
    state, outs = None, []
    for here in [slice(0, 33), slice(33, 33), *(slice(n, n + 1) for n in range(33, 40))]:
        out, state = ma.performer_attention(q[:, :, here], k[:, :, here], v[:, :, here], state=state, **options)
        outs.append(out)
    close(np.concatenate(outs, axis=2), want)
    close(state, end)
    assert state.shape == (2, 3, 9 if kind == "positive" else 18, 3 + 2)


@pytest.mark.parametrize("kind", KINDS)
def test_no_output_depends_on_later_tokens(drawn, kind):
    q, k, v = small(drawn, 3, 30, 30)
    options = {"features": 6, "kind": kind, "seed": 1, "causal": True, "chunk": 8}
    before = ma.performer_attention(q, k, v, **options)
    for poison in (50.0, np.nan):
        q[:, :, 21:], k[:, :, 21:], v[:, :, 21:] = poison, poison, poison
        after = ma.performer_attention(q, k, v, **options)
        np.testing.assert_array_equal(after[:, :, :21], before[:, :, :21])
    assert np.isnan(after[:, :, 21:]).all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["positive", "hyperbolic"])
def test_long_vectors_neither_overflow_nor_vanish(drawn, close, kind, causal):
    """Exponents of several thousand; the weights by hand are taken from their logarithms."""
    q, k, v = drawn(4, N=11, S=11)
    q, k, w = 60 * q, 60 * k, ma.random_projection(8, 4, seed=0)
    got = ma.performer_attention(q, k, v, features=w, kind=kind, causal=causal, chunk=4)
    signed = w if kind == "positive" else np.concatenate([w, -w])
    x, y = (a / 4**0.25 for a in (q, np.repeat(k, 2, axis=1)))
    of_key = y @ signed.T - (y**2).sum(axis=-1, keepdims=True) / 2
    scores = ma.logsumexp((x @ signed.T)[:, :, :, None] + of_key[:, :, None])      # (B, H, N, S)
    weights = ma.softmax(np.where(np.tri(11) > 0, scores, -np.inf) if causal else scores)
    close(got, weights @ np.repeat(v, 2, axis=1))
    short = ma.performer_attention(*(a.astype(np.float32) for a in (q, k, np.ones_like(v))), features=w, kind=kind, causal=causal)
    close(short, np.ones_like(got), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("causal", [True, False])
def test_gradient(drawn, close, slopes, kind, causal):
    q, k, v = drawn(7, B=1, H=4, G=2, N=5, S=5 if causal else 6, D=3, Dv=2)
    named, options = {"q": q / 2, "k": k / 2, "v": v}, {"features": 6, "kind": kind, "seed": 4, "causal": causal}
    dout = np.random.default_rng(0).standard_normal((1, 4, 5, 2))
    grads = ma.performer_attention_backward(dout, **named, **options, chunk=2)
    for name, a in named.items():
        want = slopes(lambda x, name=name: (ma.performer_attention(**named | {name: x}, **options) * dout).sum(), a)
        close(getattr(grads, f"d{name}"), want, 1e-7)
    assert grads.dstate is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_passes_through_the_state(drawn, close, kind):
    q, k, v = small(drawn, 8, 12, 12)
    options = {"features": 7, "kind": kind, "seed": 2, "causal": True}
    dout = np.random.default_rng(0).standard_normal((2, 6, 12, 3))
    want = ma.performer_attention_backward(dout, q, k, v, **options)
    early, late = ([a[:, :, part] for a in (dout, q, k, v)] for part in (slice(0, 5), slice(5, 12)))
    state = ma.performer_attention(*early[1:], return_state=True, **options)[1]
    second = ma.performer_attention_backward(*late, state=state, **options)
    first = ma.performer_attention_backward(*early, dstate=second.dstate, **options)
    assert not second.dstate[..., -1].any()
    for name in ("dq", "dk", "dv"):
        close(np.concatenate([getattr(first, name), getattr(second, name)], axis=2), getattr(want, name))


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_the_state(drawn, close, slopes, kind):
    q, k, v = drawn(9, B=1, H=2, G=2, N=4, S=4, D=3, Dv=2)
    options = {"features": 3, "kind": kind, "seed": 2, "causal": True}
    state = ma.performer_attention(q, k, v, return_state=True, **options)[1]
    state[..., :-1] = abs(state[..., :-1]) + 1
    dout = np.random.default_rng(0).standard_normal((1, 2, 4, 2))
    want = slopes(lambda s: (ma.performer_attention(q / 2, k / 2, v, state=s, **options) * dout).sum(), state)
    got = ma.performer_attention_backward(dout, q / 2, k / 2, v, state=state, **options).dstate
    close(got[..., :-1], want[..., :-1], 1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_one_head_16_bit_and_what_is_shared(drawn, close, causal):
    q, k, v = small(drawn, 5, 20, 20, np.float16)
    options = {"features": 30, "seed": 0, "causal": causal}
    out = ma.performer_attention(q, k, v, **options)
    assert out.dtype == np.float16
    close(out, ma.performer_attention(*(a.astype(np.float64) for a in (q, k, v)), **options), 2e-3)
    close(ma.performer_attention(q[0, 2], k[0, 1], v[0, 1], **options), out[0, 2])
    q, k, v, dout = (a.astype(np.float32) for a in (q, k, v, out))
    shared = ma.performer_attention(q, k[0], v[:1], **options)
    full = ma.performer_attention(q, np.stack([k[0]] * 2), np.stack([v[0]] * 2), **options)
    close(shared, full, 1e-6)
    some = ma.performer_attention_backward(dout, q, k[0], v[:1], **options)
    each = ma.performer_attention_backward(dout, q, np.stack([k[0]] * 2), np.stack([v[0]] * 2), **options)
    close(some.dk, each.dk.sum(axis=0), 1e-5)
    close(some.dv, each.dv.sum(axis=0, keepdims=True), 1e-5)
    assert {a.dtype for a in some[:3]} == {np.dtype(np.float32)}


def test_one_head_streams(drawn, close):
    q, k, v = (a[0, 0] for a in small(drawn, 6, 9, 9))
    options = {"features": 5, "seed": 0, "causal": True}
    want = ma.performer_attention(q, k, v, **options)
    out, state = ma.performer_attention(q[:6], k[:6], v[:6], return_state=True, **options)
    close(np.concatenate([out, ma.performer_attention(q[6:], k[6:], v[6:], state=state, **options)]), want)


def test_a_draw_is_the_directions_that_it_stands_for(drawn):
    q, k, v = drawn(1, N=6, S=6)
    for orthogonal in (True, False):
        w = ma.random_projection(7, 4, orthogonal=orthogonal, seed=3)
        np.testing.assert_array_equal(ma.performer_attention(q, k, v, features=7, orthogonal=orthogonal, seed=3),
                                      ma.performer_attention(q, k, v, features=w))  # fmt: skip


@pytest.mark.parametrize(("options", "error", "says"), [
    ({"features": np.ones((6, 5)), "seed": None}, ma.errors.ShapeError, r"features is \(m=6, D=5\) but q is "),
    ({"features": np.ones((6, 4)), "seed": 1}, ma.errors.OptionError, "a seed is for drawing them"),
    ({"features": 6, "seed": None}, ma.errors.OptionError, "seed is None; it must be an integer"),
    ({"features": [[1.0], [1.0, 2.0]]}, ma.errors.ShapeError, "features: rows of unequal length"),
    ({"features": 0}, ma.errors.OptionError, "features = 0; it must be at least 1"),
    ({"kind": "gauss"}, ma.errors.OptionError, "kind is 'gauss'; it must be one of 'positive', 'trigonometric', 'hyperbolic'"),
    ({"form": "fast"}, ma.errors.OptionError, "form is 'fast'"),
    ({"causal": False, "form": "fast"}, ma.errors.OptionError, "form is 'fast'"),
    ({"chunk": 0}, ma.errors.OptionError, "chunk = 0"),
    ({"causal": False, "return_state": True}, ma.errors.OptionError, "a state without causal=True"),
    ({"causal": False, "state": np.ones((2, 3, 6, 5))}, ma.errors.OptionError, "a state without causal=True"),
    ({"state": np.ones((2, 3, 6, 4))}, ma.errors.ShapeError, r"state is \(2, 3, 6, 4\); it must be .*here \(3, 6, 5\)"),
    ({"state": np.ones((6, 5))}, ma.errors.ShapeError, r"state is \(6, 5\)"),
    ({"kind": "hyperbolic", "state": np.ones((2, 3, 6, 5))}, ma.errors.ShapeError, "the width of 6 hyperbolic features is 12"),
    ({"k": np.ones((2, 3, 4, 4))}, ma.errors.ShapeError, "q has N = 5 but k has N = 4|k has N = 4"),
    ({"k": np.ones((2, 3, 5, 3))}, ma.errors.ShapeError, "k has D = 3 but q has D = 4"),
    ({"q": np.ones((2, 6, 5, 4), int)}, ma.errors.DtypeError, "q is int64"),
], ids=str)  # fmt: skip
def test_what_is_refused(drawn, options, error, says):
    q, k, v = drawn(6, N=5, S=5)
    with pytest.raises(error, match=says):
        ma.performer_attention(**{"q": q, "k": k, "v": v, "features": 6, "seed": 0, "causal": True} | options)


def test_what_the_gradient_refuses(drawn):
    q, k, v = drawn(9, N=5, S=5)
    dout, options = np.ones((2, 6, 5, 3)), {"features": 6, "seed": 0}
    with pytest.raises(ma.errors.OptionError, match="a state without causal=True"):
        ma.performer_attention_backward(dout, q, k, v, dstate=np.ones((2, 3, 6, 5)), **options)
    with pytest.raises(ma.errors.ShapeError, match=r"dstate is \(2, 3, 6, 4\)"):
        ma.performer_attention_backward(dout, q, k, v, causal=True, dstate=np.ones((2, 3, 6, 4)), **options)
    for causal in (True, False):
        with pytest.raises(ma.errors.ShapeError, match=r"dout is \(2, 6, 5, 2\)"):
            ma.performer_attention_backward(dout[..., :2], q, k, v, causal=causal, **options)
