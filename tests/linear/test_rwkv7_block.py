"""RWKV-7's time mixing: by the paper one token and head at a time, its stream, and the authors' own code."""
import sys

import numpy as np
import pytest

import minattn as ma
from minattn.linear.rwkv7_block import LowRank, RWKV7State

E, H, D = 12, 3, 4


def drawn(seed, N, dtype=np.float64, first=False, B=2):
    weights = ma.RWKV7Weights.random(E, heads=H, first=first, seed=seed, dtype=dtype)
    x, value = np.random.default_rng(seed).standard_normal((2, B, N, E)).astype(dtype)
    return x, weights, None if first else value


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_the_paper(x, weights, value):
    """Section 4.1, for one row of tokens: everything that a token makes, then one matrix a head, transition by transition."""
    S, before, outs = np.zeros((H, D, D)), np.zeros(E), []
    for t, token in enumerate(x):
        r_in, w_in, k_in, v_in, a_in, g_in = (token + mu * (before - token) for mu in weights.shift)
        r, k, v = r_in @ weights.w_r, k_in @ weights.w_k, v_in @ weights.w_v
        down, up, bias = weights.decay
        w = np.exp(-np.exp(-0.5) * sigmoid(bias + np.tanh(w_in @ down) @ up))
        a = sigmoid(weights.rate.bias + a_in @ weights.rate.down @ weights.rate.up)
        g = sigmoid(g_in @ weights.gate.down) @ weights.gate.up
        if weights.residual is not None:
            nu = sigmoid(weights.residual.bias + v_in @ weights.residual.down @ weights.residual.up)
            v = (1 - nu) * v + nu * value[t]
        assert ((0.545 < w) & (w < 1)).all()
        mixed = np.zeros(E)
        for h in range(H):
            one = slice(h * D, (h + 1) * D)
            kappa = k[one] * weights.xi[one]
            kappa = kappa / np.sqrt(kappa @ kappa)
            ktilde = k[one] * ((1 - weights.alpha[one]) + weights.alpha[one] * a[one])
            S[h] = (np.diag(w[one]) - np.outer(a[one] * kappa, kappa)) @ S[h] + np.outer(ktilde, v[one])
            o = r[one] @ S[h]
            o = (o - o.mean()) / np.sqrt(o.var() + 64e-5) * weights.norm_weight[one] + weights.norm_bias[one]
            mixed[one] = o + (r[one] * weights.rho[h]) @ ktilde * v[one]
        outs.append((g * mixed) @ weights.w_o)
        before = token
    return np.array(outs)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@pytest.mark.parametrize("first", [True, False])
def test_equals_the_paper_token_by_token(close, first, form):
    x, weights, value = drawn(1, 11, first=first)
    got, passed_on = ma.rwkv7_block(x, weights, value=value, form=form, chunk=4)
    for b in range(2):
        close(got[b], by_the_paper(x[b], weights, None if first else value[b]))
    if first:
        before = np.concatenate([np.zeros((2, 1, E)), x[:, :-1]], axis=1)
        close(passed_on, (x + weights.shift.v * (before - x)) @ weights.w_v)
    else:
        np.testing.assert_array_equal(passed_on, value)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (7, 5), (64, 24), (129, 64)])
def test_forms_agree(close, length, chunk, dtype, tolerance):
    x, weights, value = drawn(length, length, dtype)
    rng = np.random.default_rng(0)
    start = RWKV7State(rng.standard_normal((2, E)).astype(dtype), rng.standard_normal((2, H, D, D)).astype(dtype))
    options = {"value": value, "state": start, "return_state": True}
    want, _, end = ma.rwkv7_block(x, weights, form="recurrent", **options)
    for backend in ("numpy", "auto"):
        got, _, after = ma.rwkv7_block(x, weights, chunk=chunk, backend=backend, **options)
        assert got.dtype == after.memory.dtype == dtype
        close(got, want, tolerance)
        close(after.memory, end.memory, tolerance)
    np.testing.assert_array_equal(end.last, x[:, -1])


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_streaming_equals_the_whole(close, form):
    x, weights, value = drawn(2, 30)
    want, _, end = ma.rwkv7_block(x, weights, value=value, return_state=True)
    state, outs = None, []
    for here in [slice(0, 0), slice(0, 26), slice(26, 26), *(slice(n, n + 1) for n in range(26, 30))]:
        out, _, state = ma.rwkv7_block(x[:, here], weights, value=value[:, here], form=form, state=state, return_state=True)
        assert (state.last.shape, state.memory.shape) == ((2, E), (2, H, D, D))
        outs.append(out)
    close(np.concatenate(outs, axis=1), want)
    close(state.memory, end.memory)


def test_one_row_without_a_batch_is_that_row(close):
    x, weights, value = drawn(3, 9)
    close(ma.rwkv7_block(x[0], weights, value=value[0])[0], ma.rwkv7_block(x, weights, value=value)[0][0])


def test_a_rate_that_is_0_never_removes(close):
    """Then xi, the removal key, has nothing to say; with a rate it has."""
    x, weights, value = drawn(4, 20)
    none = LowRank(weights.rate.down, 0 * weights.rate.up, np.full(E, -1e3))
    for rate, same in ((none, True), (weights.rate, False)):
        with_rate = weights._replace(rate=rate)
        got, want = (ma.rwkv7_block(x, w, value=value)[0] for w in (with_rate, with_rate._replace(xi=weights.xi[::-1])))
        assert np.allclose(got, want, rtol=1e-12, atol=0) == same


def test_the_given_arrays_stay_as_they_are_and_the_state_is_its_own(close):
    x, weights, value = drawn(5, 6)
    kept = x.copy()
    *_, state = ma.rwkv7_block(x, weights, value=value, return_state=True)
    np.testing.assert_array_equal(x, kept)
    x[:] = np.nan
    assert np.isfinite(state.last).all()


def test_later_tokens_never_reach_back():
    x, weights, value = drawn(6, 12)
    want, _ = ma.rwkv7_block(x, weights, value=value)
    x[:, 7], value[:, 9] = 1e6, np.nan
    got, _ = ma.rwkv7_block(x, weights, value=value)
    np.testing.assert_array_equal(got[:, :7], want[:, :7])
    assert np.isfinite(got[:, :9]).all()
    assert (abs(got[:, 7:9] - want[:, 7:9]) > 1e-3).any(axis=-1).all()
    assert np.isnan(got[:, 9:]).all()


OTHER = ma.RWKV7Weights.random(8, heads=2)


@pytest.mark.parametrize(("options", "change", "error", "says"), [
    ({}, {"rho": np.ones((3, 5))}, ma.errors.ShapeError, r"x is \(2, 5, 12\) and rho \(3, 5\)"),
    ({}, {"w_k": np.ones((12, 8))}, ma.errors.ShapeError, r"w_k is \(12, 8\); it must be \(E, E\) with E = 12"),
    ({}, {"decay": OTHER.decay}, ma.errors.ShapeError, r"decay has down \(8, 4\)"),
    ({}, {"shift": OTHER.shift}, ma.errors.ShapeError, r"shift.r is \(8,\)"),
    ({}, {"xi": np.ones((3, 4))}, ma.errors.ShapeError, r"xi is \(3, 4\)"),
    ({}, {"w_k": np.ones((12, 12), int)}, ma.errors.DtypeError, "weights.w_k is int64"),
    ({}, {"norm_bias": np.ones(12, complex)}, ma.errors.DtypeError, "weights.norm_bias is complex128"),
    ({"eps": -1}, {}, ma.errors.OptionError, "eps = -1.0; it must be at least 0"),
    ({"state": RWKV7State(np.ones((2, E), int), np.ones((2, H, D, D)))}, {}, ma.errors.DtypeError, "state.last is int64"),
    ({"value": None}, {}, ma.errors.OptionError, "no value was given"),
    ({}, {"residual": None}, ma.errors.OptionError, "a value was given"),
    ({"value": np.ones((2, 4, E))}, {}, ma.errors.ShapeError, r"value is \(2, 4, 12\) but x is \(2, 5, 12\)"),
    ({"state": np.ones((2, H, D, D))}, {}, ma.errors.OptionError, "state is ndarray; it must be the RWKV7State"),
    ({"state": RWKV7State(np.ones(E), np.ones((2, H, D, D)))}, {}, ma.errors.ShapeError, r"state.last is \(12,\)"),
    ({"state": RWKV7State(np.ones((2, E)), np.ones((2, H, D, 5)))}, {}, ma.errors.ShapeError, "state is"),
    ({"backend": "gpu"}, {}, ma.errors.BackendError, "gpu"),
    ({"form": "parallel"}, {}, ma.errors.OptionError, "'recurrent', 'chunked'"),
])
def test_what_is_refused(options, change, error, says):
    x, weights, value = drawn(7, 5)
    with pytest.raises(error, match=says):
        ma.rwkv7_block(x, weights._replace(**change), **{"value": value} | options)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 1e-2), (np.float32, 1e-4)])
def test_the_results_have_the_type_of_x_and_the_state_at_least_float32(dtype, tolerance):
    x, weights, _ = drawn(9, 6, first=True)
    want, _ = ma.rwkv7_block(x.astype(dtype).astype(float), weights)
    got, value, state = ma.rwkv7_block(x.astype(dtype), weights, return_state=True)
    assert [a.dtype for a in (got, value, *state)] == [dtype, dtype, np.float32, np.float32]
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * abs(want).max())


@pytest.mark.slow
@pytest.mark.parametrize("layer", [0, 1])
def test_equals_the_authors_code(need, close, monkeypatch, layer):
    """Their inference code for whole prompts and for one token, state carried from the one to the other, in float32."""
    torch = need("torch")
    for name, setting in (("RWKV_V7_ON", "1"), ("RWKV_JIT_ON", "0"), ("RWKV_CUDA_ON", "0")):
        monkeypatch.setenv(name, setting)                                          # read once, when it is imported
    monkeypatch.delitem(sys.modules, "rwkv.model", raising=False)
    theirs = need("rwkv.model")
    x, weights, value = drawn(8 + layer, 23, np.float32, first=layer == 0, B=1)
    got, passed_on, state = ma.rwkv7_block(x, weights, value=value, return_state=True)

    t = torch.from_numpy
    residual = weights.residual or LowRank(*(np.zeros(1, np.float32),) * 3)        # not read in layer 0
    low = [a for part in (weights.decay, weights.rate, residual) for a in (part.bias, part.down, part.up)]
    rest = weights.xi, weights.alpha, weights.rho.ravel(), weights.w_r, weights.w_k, weights.w_v, weights.w_o
    their_weights = [*map(t, (*weights.shift, *low, weights.gate.down, weights.gate.up, *rest,
                              weights.norm_weight, weights.norm_bias))]           # fmt: skip
    given, v_first = t(x[0]), None if value is None else t(value[0])
    first = torch.zeros(E), torch.empty(0) if v_first is None else v_first[:20], torch.zeros(H, D, D)
    want, last, memory, v_own = theirs.RWKV_x070_TMix_seq(layer, H, D, given[:20], *first, *their_weights)
    close(got[0, :20], want.numpy(), 1e-5)
    close(passed_on[0, :20], v_own.numpy(), 1e-5)
    for n in range(20, 23):
        v_here = torch.empty(0) if v_first is None else v_first[n]
        want, last, memory, _ = theirs.RWKV_x070_TMix_one(layer, H, D, given[n], last, v_here, memory, *their_weights)
        close(got[0, n], want.numpy(), 1e-5)
    close(state.memory[0], memory.numpy().swapaxes(-1, -2), 1e-5)                  # theirs is (Dv, D)
    np.testing.assert_array_equal(state.last[0], last.numpy())
