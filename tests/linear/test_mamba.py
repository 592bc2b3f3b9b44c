"""The selective scan: by hand, as the recurrence with a head a channel, its forms, its gradients, and what it refuses."""
import itertools

import numpy as np
import pytest

import minattn as ma
from minattn.linear.mamba import held, scan
from minattn.linear.mamba_backward import held_slope

KINDS = list(itertools.product(["sequential", "associative"], ["euler", "zoh"]))
TOKENS = "x", "delta", "b", "c", "z"


def draw(seed, N, B=2, E=4, n=3, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = {"x": (B, N, E), "b": (B, N, n), "c": (B, N, n), "d": (E,), "z": (B, N, E), "state": (B, E, n)}
    named = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    named |= {"delta": rng.exponential(0.7, (B, N, E)), "a": -rng.uniform(0.1, 3, (E, n))}
    return {name: a.astype(dtype) for name, a in named.items()}


def part(named, here):
    """The tokens `here` of all that has tokens; the weights as they are, and no state."""
    return {name: a[:, here] if name in TOKENS else a for name, a in named.items() if name != "state"}


def by_hand(x, delta, a, b, c, d, z, state, zoh):
    """One channel and one of its numbers after the other, by the formulas of the paper."""
    (B, N, E), n = x.shape, a.shape[1]
    out, h = np.zeros(x.shape), state.copy()
    for i, t, e in np.ndindex(B, N, E):
        y = d[e] * x[i, t, e]
        for j in range(n):
            step = delta[i, t, e]
            write = (step * a[e, j]) ** -1 * (np.exp(step * a[e, j]) - 1) * step * b[i, t, j] if zoh else step * b[i, t, j]
            h[i, e, j] = np.exp(step * a[e, j]) * h[i, e, j] + write * x[i, t, e]
            y += h[i, e, j] * c[i, t, j]
        out[i, t, e] = y * z[i, t, e] / (1 + np.exp(-z[i, t, e]))
    return out, h


@pytest.mark.parametrize(("form", "kind"), KINDS)
def test_equals_the_formula_by_hand(close, form, kind):
    named = draw(1, 9)
    want, end = by_hand(**named, zoh=kind == "zoh")
    got, state = ma.selective_scan(**named, form=form, discretization=kind, return_state=True)
    close(got, want)
    close(state, end)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("N", [1, 2, 7, 64, 129])
@pytest.mark.parametrize("kind", ["euler", "zoh"])
def test_forms_agree(close, N, kind, dtype, tolerance):
    """Also where a state fades by exp(-50) or at once, and where no time passes."""
    named = draw(N, N, dtype=dtype)
    if N > 7:
        named["delta"][:, [2, 30], 0], named["delta"][:, 5:40:3, 1] = 0, -50 / named["a"][1, 0]
        named["a"][2, 1] = -np.inf
    want, end = ma.selective_scan(**named, discretization=kind, return_state=True)
    got, state = ma.selective_scan(**named, discretization=kind, form="associative", return_state=True)
    assert got.dtype == state.dtype == want.dtype == end.dtype == dtype
    close(got, want, tolerance)
    close(state, end, tolerance)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_is_the_recurrence_with_a_head_a_channel(close, form):
    named = draw(2, 129)
    x, delta, b, c = (named[name] for name in ("x", "delta", "b", "c"))
    q, k = (np.repeat(a[:, None], 4, axis=1) for a in (c, b))                      # (B, E, N, n)
    v, g = (delta * x).swapaxes(1, 2)[..., None], delta.swapaxes(1, 2)[..., None] * named["a"][:, None]
    want, end = ma.recurrence(q, k, v, log_decay=g, state=named["state"][..., None], form=form, chunk=50, return_state=True)
    got, state = ma.selective_scan(x, delta, named["a"], b, c, state=named["state"], return_state=True)
    close(got, want[..., 0].swapaxes(1, 2))
    close(state, end[..., 0])


@pytest.mark.parametrize("form", ["sequential", "associative"])
def test_one_number_a_channel_is_a_gate(close, form):
    """Theorem 1: n = 1, a = -1, b = 1 and delta = softplus(s) make h = (1 - g) h + g x with g = sigmoid(s)."""
    rng = np.random.default_rng(3)
    x, s = rng.standard_normal((2, 33, 5))
    one, g, h, want = np.ones((33, 1)), 1 / (1 + np.exp(-s)), np.zeros(5), []
    for t in range(33):
        h = (1 - g[t]) * h + g[t] * x[t]
        want.append(h)
    delta, a = np.log1p(np.exp(s)), -np.ones((5, 1))
    close(ma.selective_scan(x, delta, a, one, one, discretization="zoh", form=form), np.array(want), 1e-12)
    euler = ma.selective_scan(x, delta, a, one, one, form=form)                    # delta in place of g: no gate
    assert np.abs(euler - want).max() > 0.1


def test_short_steps_make_both_discretizations_one(close):
    named = draw(4, 20)
    named["delta"] *= 1e-7
    close(ma.selective_scan(**named, discretization="zoh"), ma.selective_scan(**named), 1e-6)


@pytest.mark.parametrize(("form", "kind"), KINDS)
def test_no_time_keeps_and_endless_fading_forgets(form, kind):
    named = draw(5, 13)
    del named["state"]
    skips = named | {"delta": np.where(np.arange(13)[:, None] == 4, 0, named["delta"])}
    before, after = (ma.selective_scan(**part(skips, slice(0, end)), form=form, discretization=kind, return_state=True)[1]
                     for end in (4, 5))  # fmt: skip
    np.testing.assert_allclose(after, before, rtol=1e-15)
    named["a"][...] = -np.inf                                                      # each token sees itself alone
    del named["z"], named["d"]
    alone = named["delta"] * named["x"] * (named["b"] * named["c"]).sum(axis=-1, keepdims=True)
    got = ma.selective_scan(**named, form=form, discretization=kind)
    np.testing.assert_allclose(got, 0 * alone if kind == "zoh" else alone, atol=1e-14)


@pytest.mark.parametrize(("form", "kind"), KINDS)
def test_split_runs_and_streaming_equal_the_whole(close, form, kind):
    named = draw(6, 65)
    want, end = ma.selective_scan(**named, return_state=True, discretization=kind)
    state, outs = named["state"], []
    for here in itertools.starmap(slice, itertools.pairwise([0, 1, 18, 60, *range(61, 66)])):
        now = part(named, here)
        out, state = ma.selective_scan(**now, form=form, discretization=kind, state=state, return_state=True)
        outs.append(out)
    close(np.concatenate(outs, axis=1), want)
    close(state, end)


@pytest.mark.parametrize("form", ["sequential", "associative"])
@pytest.mark.parametrize("name", ["x", "b", "c", "z"])
def test_what_comes_later_never_reaches_back(form, name):
    named = draw(7, 21)
    want = ma.selective_scan(**named, form=form)
    named[name][:, 11] = np.nan
    got = ma.selective_scan(**named, form=form)
    np.testing.assert_array_equal(got[:, :11], want[:, :11])
    assert np.isnan(got[:, 11]).all()
    if name in "cz":
        np.testing.assert_array_equal(got[:, 12:], want[:, 12:])


def test_scan_joins_any_number_of_steps(close):
    rng = np.random.default_rng(8)
    for N in (0, 1, 2, 3, 5, 8, 100):
        keep, write = rng.uniform(0, 1, (2, N, 3)), rng.standard_normal((2, N, 3))
        want, h = np.zeros((2, N, 3)), np.zeros((2, 3))
        for t in range(N):
            want[:, t] = h = keep[:, t] * h + write[:, t]
        close(scan(keep, write), want, 1e-14)


@pytest.mark.parametrize("form", ["sequential", "associative"])
def test_axes_types_and_inputs(close, form):
    named = draw(9, 12)
    want, end = ma.selective_scan(**named, form=form, return_state=True)
    strided = {name: np.asfortranarray(a) for name, a in named.items()}
    got, state = ma.selective_scan(**strided, form=form, return_state=True)
    close(got, want)
    one = {name: a if name in "ad" else a[1] for name, a in named.items()}         # no batch axis
    got, state = ma.selective_scan(**one, form=form, return_state=True)
    close(got, want[1])
    close(state, end[1])
    shared = named | {name: named[name][:1] for name in ("b", "delta", "state")}
    full = named | {name: np.repeat(named[name][:1], 2, axis=0) for name in ("b", "delta", "state")}
    close(ma.selective_scan(**shared, form=form), ma.selective_scan(**full, form=form))
    half = {name: a.astype(np.float16) for name, a in named.items()}
    got, state = ma.selective_scan(**half, form=form, return_state=True)
    assert got.dtype == np.float16
    assert state.dtype == np.float32
    close(got, want, 1e-2)
    out, state = ma.selective_scan(**part(named, slice(0, 0)), state=named["state"], form=form, return_state=True)
    assert out.shape == (2, 0, 4)
    np.testing.assert_array_equal(state, named["state"])
    assert not np.shares_memory(state, named["state"])


@pytest.mark.parametrize("kind", ["euler", "zoh"])
@pytest.mark.parametrize("chunk", [2, 64])
@pytest.mark.parametrize("extras", [True, False])
def test_gradients_equal_finite_differences(close, slopes, kind, chunk, extras):
    named = draw(10, 5, B=2, E=3, n=2)
    named["delta"][0, 1, 0] = 0.05                                                 # where the slope of `held` is a series
    rng = np.random.default_rng(0)
    dout, dend = rng.standard_normal((2, 5, 3)), rng.standard_normal((2, 3, 2))
    if not extras:
        named = {name: a for name, a in named.items() if name not in ("d", "z", "state")}
    grads = ma.selective_scan_backward(dout, **named, discretization=kind, chunk=chunk, dstate=dend)
    for name, a in named.items():

        def loss(x, name=name):
            out, end = ma.selective_scan(**named | {name: x}, discretization=kind, return_state=True)
            return (out * dout).sum() + (end * dend).sum()

        close(getattr(grads, f"d{name}"), slopes(loss, a), 1e-7)
    assert {name[1:] for name, g in grads._asdict().items() if g is not None} == set(named)


def test_slope_of_held_between_series_and_formula():
    g = -np.geomspace(1e-6, 20, 200)
    fine = np.array([float(np.mean(np.exp(x * u) * u)) for x in g for u in [(np.arange(20000) + 0.5) / 20000]])
    np.testing.assert_allclose(held_slope(g), fine, rtol=1e-7)                      # the integral of u exp(g u) over 0 .. 1
    np.testing.assert_allclose(held(g), [np.mean(np.exp(x * (np.arange(20000) + 0.5) / 20000)) for x in g], rtol=1e-7)
    ends = np.array([0.0, -np.inf])
    np.testing.assert_array_equal(held(ends), [1, 0])
    np.testing.assert_array_equal(held_slope(ends), [0.5, 0])


def test_closed_states_let_no_gradient_through():
    named = draw(11, 9)
    named["a"][1] = -np.inf
    for kind in ("euler", "zoh"):
        grads = ma.selective_scan_backward(np.ones((2, 9, 4)), **named, discretization=kind, chunk=4)
        assert all(np.isfinite(g).all() for g in grads)
        assert not grads.da[1].any()
        assert not grads.dstate[:, 1].any()
        assert grads.da[0].all()


def test_shares_of_two_parts_equal_the_whole(close):
    named, dout = draw(12, 33), np.random.default_rng(0).standard_normal((2, 33, 4))
    whole = ma.selective_scan_backward(dout, **named, chunk=5)
    early, late = (part(named, here) for here in np.s_[:20, 20:])
    _, between = ma.selective_scan(**early, state=named["state"], return_state=True)
    after = ma.selective_scan_backward(dout[:, 20:], **late, state=between)
    before = ma.selective_scan_backward(dout[:, :20], **early, state=named["state"], dstate=after.dstate)
    close(before.dstate, whole.dstate)
    for name in TOKENS:
        close(np.concatenate([getattr(g, f"d{name}") for g in (before, after)], axis=1), getattr(whole, f"d{name}"))
    for name in "ad":
        close(getattr(before, f"d{name}") + getattr(after, f"d{name}"), getattr(whole, f"d{name}"))


def test_broadcast_axes_are_summed_and_types_kept(close):
    named, dout = draw(13, 6, dtype=np.float32), np.random.default_rng(0).standard_normal((2, 6, 4))
    shared = named | {"b": named["b"][0], "state": named["state"][:1]}
    full = named | {"b": np.repeat(named["b"][:1], 2, axis=0), "state": np.repeat(named["state"][:1], 2, axis=0)}
    got, want = (ma.selective_scan_backward(dout, **x) for x in (shared, full))
    close(got.db, want.db.sum(axis=0), 1e-5)
    close(got.dstate, want.dstate.sum(axis=0, keepdims=True), 1e-5)
    assert {g.dtype for g in got} == {np.dtype(np.float32)}
    none = ma.selective_scan_backward(dout[:, :0], **part(named, slice(0, 0)), state=named["state"], dstate=named["state"])
    np.testing.assert_array_equal(none.dstate, named["state"])


REFUSED = [
    ("delta", lambda a: -a, ma.errors.DecayError, "delta is down to -.*finite and at least 0"),
    ("delta", lambda a: a + np.inf, ma.errors.DecayError, "delta is inf"),
    ("delta", lambda a: a * np.nan, ma.errors.DecayError, "delta is NaN"),
    ("delta", lambda a: a[..., :3], ma.errors.ShapeError, r"delta is \(B=2, N=6, E=3\); it must be \(..., N=6, E=4\)"),
    ("a", lambda a: -a, ma.errors.DecayError, "a is up to .* at most 0"),
    ("a", lambda a: a * np.nan, ma.errors.DecayError, "a is NaN"),
    ("a", lambda a: a.T, ma.errors.ShapeError, r"a is \(E=3, n=4\); it must be \(E=4, n=4\)"),
    ("a", lambda a: a[None], ma.errors.ShapeError, r"a is \(B=1, E=4, n=3\); it must be \(E=4, n=3\)"),
    ("a", lambda a: a[0], ma.errors.ShapeError, r"a is \(3,\); it must be \(E, n\)"),
    ("a", lambda a: a[:, :0], ma.errors.ShapeError, r"a is \(4, 0\)"),
    ("b", lambda a: a[..., :2], ma.errors.ShapeError, r"b is \(B=2, N=6, n=2\); it must be \(..., N=6, n=3\)"),
    ("c", lambda a: a[:, 1:], ma.errors.ShapeError, r"c is \(B=2, N=5, n=3\); it must be \(..., N=6, n=3\)"),
    ("c", lambda a: a[[0, 1, 1]], ma.errors.ShapeError, "the axes before the heads"),
    ("d", lambda a: a[0], ma.errors.ShapeError, r"d is one number; it must be \(E=4\)"),
    ("z", lambda a: a[..., :1], ma.errors.ShapeError, r"z is \(B=2, N=6, E=1\)"),
    ("x", lambda a: a[0, 0], ma.errors.ShapeError, r"x is \(4,\); it must be \(..., N, E\)"),
    ("x", lambda a: a.astype(int), ma.errors.DtypeError, "x is int64"),
    ("state", lambda a: a.swapaxes(1, 2), ma.errors.ShapeError, r"state is \(B=2, E=3, n=4\); it must be \(..., E=4, n=3\)"),
    ("x", lambda a: None, ma.errors.DtypeError, "x is object"),
    ("delta", lambda a: None, ma.errors.DtypeError, "delta is object"),
    ("form", lambda a: {}, ma.errors.OptionError, "form is {}"),
    ("form", lambda a: "chunked", ma.errors.OptionError, "form is 'chunked'; it must be one of 'sequential', 'associative'"),
    ("discretization", lambda a: "bilinear", ma.errors.OptionError, "discretization is 'bilinear'"),
]


@pytest.mark.parametrize(("name", "change", "error", "says"), REFUSED, ids=[says for *_, says in REFUSED])
def test_what_is_refused(name, change, error, says):
    named = draw(14, 6)
    with pytest.raises(error, match=says):
        ma.selective_scan(**named | {name: change(named.get(name))})


def test_what_the_gradient_refuses():
    named = draw(15, 5)
    with pytest.raises(ma.errors.ShapeError, match=r"dout is \(2, 5, 3\); it must be \(2, 5, 4\)"):
        ma.selective_scan_backward(np.ones((2, 5, 3)), **named)
    with pytest.raises(ma.errors.ShapeError, match="dstate is"):
        ma.selective_scan_backward(np.ones((2, 5, 4)), **named, dstate=np.ones((2, 3, 4)))
    with pytest.raises(ma.errors.OptionError, match="chunk = 0"):
        ma.selective_scan_backward(np.ones((2, 5, 4)), **named, chunk=0)
