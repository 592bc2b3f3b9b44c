"""Mamba-2's state space model: by hand, as a matrix, as other mechanisms, its forms, its gradient, and what it refuses."""
import itertools

import numpy as np
import pytest

import minattn as ma

FORMS = "chunked", "recurrent", "quadratic"


def draw(seed, N, B=2, H=6, G=3, D=5, Dv=4, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = {"x": (B, H, N, Dv), "b": (B, G, N, D), "c": (B, G, N, D), "d": (H,), "state": (B, H, D, Dv)}
    named = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    named |= {"delta": rng.exponential(0.7, (B, H, N)), "a": -rng.uniform(0.1, 3, H)}
    return {name: a.astype(dtype) for name, a in named.items()}


def part(named, here):
    """The tokens `here` of all that has tokens; the weights as they are, and no state."""
    cut = {"x": np.s_[:, :, here], "delta": np.s_[:, :, here], "b": np.s_[:, :, here], "c": np.s_[:, :, here]}
    return {name: a[cut[name]] if name in cut else a for name, a in named.items() if name != "state"}


def by_hand(x, delta, a, b, c, d, state):
    """One head of one row, one token and one number of the state after the other."""
    (B, H, N, Dv), (G, D) = x.shape, (b.shape[1], b.shape[3])
    out, S = np.zeros(x.shape), state.copy()
    for i, h, t, v in np.ndindex(B, H, N, Dv):
        group, y = h // (H // G), d[h] * x[i, h, t, v]
        for j in range(D):
            if t == 0:
                S[i, h, j, v] = state[i, h, j, v]
            S[i, h, j, v] = np.exp(delta[i, h, t] * a[h]) * S[i, h, j, v] + b[i, group, t, j] * delta[i, h, t] * x[i, h, t, v]
            y += c[i, group, t, j] * S[i, h, j, v]
        out[i, h, t, v] = y
    return out, S


@pytest.mark.parametrize("form", FORMS)
def test_equals_the_formula_by_hand(close, form):
    named = draw(1, 9)
    want, end = by_hand(**named)
    got, state = ma.ssd(**named, form=form, chunk=4, return_state=True)
    close(got, want)
    close(state, end)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize(("N", "chunk"), [(1, 64), (7, 5), (64, 24), (129, 64), (129, 200)])
def test_forms_agree(close, N, chunk, dtype, tolerance):
    """Also where a state fades by exp(-50) or at once, and where no time passes."""
    named = draw(N, N, dtype=dtype)
    if N > 7:
        named["delta"][:, 0, [2, 30]], named["delta"][:, 1, 5:40:3] = 0, -50 / named["a"][1]
        named["a"][2] = -np.inf
    want, end = ma.ssd(**named, form="recurrent", return_state=True)
    for form in ("chunked", "quadratic"):
        got, state = ma.ssd(**named, form=form, chunk=chunk, return_state=True)
        assert got.dtype == state.dtype == dtype
        close(got, want, tolerance)
        close(state, end, tolerance)


def test_equals_the_matrix(close):
    """M = L * (c b^T), applied to what is written."""
    named = draw(2, 33)
    x, delta, a, b, c = (named[name] for name in ("x", "delta", "a", "b", "c"))
    scores = np.repeat(c @ b.swapaxes(-1, -2), 2, axis=1)                          # (B, H, N, N), two heads a group
    M = np.exp(ma.segment_sum(delta * a[:, None])) * scores
    assert not np.triu(M, 1).any()
    for form in FORMS:
        close(ma.ssd(x, delta, a, b, c, form=form, chunk=7), M @ (delta[..., None] * x))


def test_segment_sums_are_sums_over_segments(close):
    rng = np.random.default_rng(3)
    for N in (0, 1, 2, 7, 64):
        g = -rng.exponential(1, (2, 3, N))
        got = ma.segment_sum(g)
        assert got.shape == (2, 3, N, N)
        for i, j in np.ndindex(N, N):
            np.testing.assert_allclose(got[..., i, j], g[..., j + 1 : i + 1].sum(axis=-1) if j <= i else -np.inf, rtol=1e-12)


def test_segment_sums_survive_closed_gates_and_long_sums():
    g = np.array([-1.0, -np.inf, -2.0, -3.0])
    np.testing.assert_array_equal(ma.segment_sum(g), [[0, -np.inf, -np.inf, -np.inf], [-np.inf, 0, -np.inf, -np.inf],
                                                      [-np.inf, -2, 0, -np.inf], [-np.inf, -5, -3, 0]])  # fmt: skip
    long = np.full(512, -50, np.float32)                                           # a difference of two sums near -25,000
    long[-1] = -1e-3
    assert ma.segment_sum(long)[-1, -2] == np.float32(-1e-3)
    assert long.cumsum()[-1] - long.cumsum()[-2] != np.float32(-1e-3)


def test_is_other_mechanisms_where_they_meet(close):
    named = draw(4, 40, H=3, G=3)
    x, delta, a, b, c = (named[name] for name in ("x", "delta", "a", "b", "c"))
    v = delta[..., None] * x
    close(ma.ssd(x, delta, a, b, c), ma.gated_linear_attention(c, b, v, log_decay=delta * a[:, None]))
    one = np.ones_like(delta)                                                      # the same time at every token
    close(ma.ssd(x, one, a, b, c), ma.retention(c, b, x, log_decay=a))
    plain = ma.linear_attention(c, b, v, feature_map=lambda x: x, normalize=False)
    close(ma.ssd(x, delta, 0 * a, b, c), plain)                                    # nothing fades
    mamba = ma.selective_scan(x[:, 1], np.repeat(delta[:, 1, :, None], 4, axis=-1), np.full((4, 5), a[1]), b[:, 1], c[:, 1])
    close(ma.ssd(x, delta, a, b, c)[:, 1], mamba)                                  # one rate for all of a head's state


@pytest.mark.parametrize("form", FORMS)
def test_split_runs_and_streaming_equal_the_whole(close, form):
    named = draw(5, 65)
    want, end = ma.ssd(**named, return_state=True)
    state, outs = named["state"], []
    for here in itertools.starmap(slice, itertools.pairwise([0, 1, 18, 60, *range(61, 66)])):
        out, state = ma.ssd(**part(named, here), form=form, chunk=7, state=state, return_state=True)
        outs.append(out)
    close(np.concatenate(outs, axis=2), want)
    close(state, end)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["x", "b", "c"])
def test_what_comes_later_never_reaches_back(form, name):
    named = draw(6, 21)
    want = ma.ssd(**named, form=form, chunk=8)
    named[name][:, :, 11] = np.nan
    got = ma.ssd(**named, form=form, chunk=8)
    np.testing.assert_array_equal(got[:, :, :11], want[:, :, :11])
    assert np.isnan(got[:, :, 11]).all()
    if name == "c":
        np.testing.assert_array_equal(got[:, :, 12:], want[:, :, 12:])


@pytest.mark.parametrize("form", FORMS)
def test_axes_types_and_inputs(close, form):
    named = draw(7, 12)
    want, end = ma.ssd(**named, form=form, return_state=True)
    got, state = ma.ssd(**{name: np.asfortranarray(a) for name, a in named.items()}, form=form, return_state=True)
    close(got, want)
    close(state, end)
    one = {name: a[4] if name in "ad" else a[1, 2 if name in "bc" else 4] for name, a in named.items()}      # no head axis
    got, state = ma.ssd(**one, form=form, return_state=True)
    close(got, want[1, 4])
    close(state, end[1, 4])
    shared = named | {name: named[name][:1] for name in ("b", "delta", "state")}
    full = named | {name: np.repeat(named[name][:1], 2, axis=0) for name in ("b", "delta", "state")}
    close(ma.ssd(**shared, form=form), ma.ssd(**full, form=form))
    half = {name: a.astype(np.float16) for name, a in named.items()}
    got, state = ma.ssd(**half, form=form, return_state=True)
    assert got.dtype == np.float16
    assert state.dtype == np.float32
    close(got, want, 1e-2)
    out, state = ma.ssd(**part(named, slice(0, 0)), state=named["state"], form=form, return_state=True)
    assert out.shape == (2, 6, 0, 4)
    np.testing.assert_array_equal(state, named["state"])


@pytest.mark.parametrize("chunk", [2, 64])
@pytest.mark.parametrize("extras", [True, False])
def test_gradients_equal_finite_differences(close, slopes, chunk, extras):
    named = draw(8, 5, B=1, H=4, G=2, D=3, Dv=2)
    rng = np.random.default_rng(0)
    dout, dend = rng.standard_normal((1, 4, 5, 2)), rng.standard_normal((1, 4, 3, 2))
    if not extras:
        named = {name: a for name, a in named.items() if name not in ("d", "state")}
    grads = ma.ssd_backward(dout, **named, chunk=chunk, dstate=dend)
    for name, a in named.items():

        def loss(x, name=name):
            out, end = ma.ssd(**named | {name: x}, chunk=3, return_state=True)
            return (out * dout).sum() + (end * dend).sum()

        close(getattr(grads, f"d{name}"), slopes(loss, a), 1e-7)
    assert {name[1:] for name, g in grads._asdict().items() if g is not None} == set(named)


def test_gradients_without_heads_over_broadcast_axes_and_in_their_types(close):
    named = draw(9, 6, dtype=np.float32)
    dout = np.random.default_rng(0).standard_normal((2, 6, 6, 4))
    shared = named | {"b": named["b"][:1], "delta": named["delta"][:1], "x": named["x"][:1]}
    full = named | {name: np.repeat(named[name][:1], 2, axis=0) for name in ("b", "delta", "x")}
    got, want = (ma.ssd_backward(dout, **x) for x in (shared, full))
    for name in ("db", "dx", "ddelta"):
        close(getattr(got, name), getattr(want, name).sum(axis=0, keepdims=True), 1e-5)
    for name in ("da", "dc", "dd", "dstate"):
        close(getattr(got, name), getattr(want, name), 1e-5)
    assert {g.dtype for g in got} == {np.dtype(np.float32)}

    named = draw(10, 6, B=1, H=1, G=1)
    want = ma.ssd_backward(dout[:1, :1], **named)
    one = ma.ssd_backward(dout[0, 0], **{name: a[0] if name in "ad" else a[0, 0] for name, a in named.items()})
    for name, g in one._asdict().items():
        close(g, getattr(want, name)[0] if name in ("da", "dd") else getattr(want, name)[0, 0])


def test_closed_states_let_no_gradient_through():
    named = draw(11, 9)
    named["a"][1] = -np.inf
    grads = ma.ssd_backward(np.ones((2, 6, 9, 4)), **named, chunk=4)
    assert all(np.isfinite(g).all() for g in grads)
    assert not grads.da[1]
    assert not grads.dstate[:, 1].any()
    assert grads.da[[0, 2]].all()


REFUSED = [
    ("delta", lambda a: -a, ma.errors.DecayError, "delta is down to -.*finite and at least 0"),
    ("delta", lambda a: a[..., 1:], ma.errors.ShapeError, r"delta is \(B=2, H=6, N=5\); it must be \(..., H=6, N=6\)"),
    ("a", lambda a: -a, ma.errors.DecayError, "a is up to .* at most 0"),
    ("a", lambda a: a[:3], ma.errors.ShapeError, r"a is \(H=3\); it must be \(H=6\)"),
    ("b", lambda a: a[:, :, 1:], ma.errors.ShapeError, r"b is \(B=2, G=3, N=5, D=5\); it must be \(..., G=3, N=6, D=5\)"),
    ("c", lambda a: a[..., :4], ma.errors.ShapeError, r"c is \(B=2, G=3, N=6, D=4\); it must be \(..., G=3, N=6, D=5\)"),
    ("c", lambda a: a[:, :1], ma.errors.ShapeError, r"c is \(B=2, G=1, N=6, D=5\); it must be \(..., G=3, N=6, D=5\)"),
    ("b", lambda a: a[0, 0], ma.errors.ShapeError, r"b is \(6, 5\); it must be \(..., G, N, D\)"),
    ("delta", lambda a: a[0], ma.errors.ShapeError, r"delta is \(6, 6\) but x is \(2, 6, 6, 4\); they need as many axes"),
    ("d", lambda a: a[None], ma.errors.ShapeError, r"d is \(B=1, H=6\); it must be \(H=6\)"),
    ("x", lambda a: a[0, 0, 0], ma.errors.ShapeError, r"x is \(4,\)"),
    ("x", lambda a: a[..., :0], ma.errors.ShapeError, r"x is \(2, 6, 6, 0\)"),
    ("x", lambda a: a.astype(int), ma.errors.DtypeError, "x is int64"),
    ("state", lambda a: a[:, :3], ma.errors.ShapeError, r"state is \(B=2, H=3, D=5, Dv=4\); it must be \(..., H=6, D=5, Dv=4\)"),
    ("form", lambda a: "parallel", ma.errors.OptionError, "form is 'parallel'; it must be one of .*'quadratic'"),
    ("c", lambda a: None, ma.errors.DtypeError, "c is object"),
    ("delta", lambda a: a[[0, 1, 1]], ma.errors.ShapeError, r"the axes before the heads .*x \(2,\), delta \(3,\)"),
    ("chunk", lambda a: 0, ma.errors.OptionError, "chunk = 0; it must be at least 1"),
]


@pytest.mark.parametrize(("name", "change", "error", "says"), REFUSED, ids=[says for *_, says in REFUSED])
def test_what_is_refused(name, change, error, says):
    named = draw(12, 6)
    with pytest.raises(error, match=says):
        ma.ssd(**named | {name: change(named.get(name))})


def test_groups_divide_the_heads_and_sums_need_an_axis():
    named = draw(13, 6, H=4, G=3)
    with pytest.raises(ma.errors.ShapeError, match="x has H = 4 heads and b has G = 3; H must be a multiple of G"):
        ma.ssd(**named)
    with pytest.raises(ma.errors.ShapeError, match="log_decay is one number"):
        ma.segment_sum(np.float64(-1))
    with pytest.raises(ma.errors.ShapeError, match=r"dout is \(2, 6, 6, 3\)"):
        ma.ssd_backward(np.ones((2, 6, 6, 3)), **draw(13, 6))
