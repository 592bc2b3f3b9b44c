"""RWKV-7's recurrence: by hand, as other mechanisms where they meet, its eigenvalues and its gradient."""
import numpy as np
import pytest

import minattn as ma


def draw(tokens, seed, N, dtype=np.float64, **sizes):
    given, options = tokens(seed, N, dtype=dtype, **sizes)
    rng, shape = np.random.default_rng(seed), given["k"].shape
    kappa = rng.standard_normal(shape)
    named = {"log_w": -np.exp(-0.5) / (1 + np.exp(-rng.standard_normal(shape))), "a": rng.uniform(0, 1, shape),
             "kappa": kappa / np.linalg.norm(kappa, axis=-1, keepdims=True)}  # fmt: skip
    return {"r": given["q"], "k": given["k"], "v": given["v"], **options, **{n: a.astype(dtype) for n, a in named.items()}}


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_equals_the_transition_matrix_of_the_paper(tokens, close, form):
    x = draw(tokens, 1, 9)
    want = np.zeros((2, 6, 9, 4))
    for b, h in np.ndindex(2, 6):
        S = x["state"][b, h // 2]
        for n in range(9):
            w, a, kappa, k, v = (x[name][b, h // 2, n] for name in ("log_w", "a", "kappa", "k", "v"))
            S = (np.diag(np.exp(w)) - np.outer(a * kappa, kappa)) @ S + np.outer(k, v)
            want[b, h, n] = x["r"][b, h, n] @ S
    close(ma.rwkv7(**x, form=form, chunk=4), want)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (7, 5), (64, 24), (129, 64)])
def test_forms_agree(tokens, close, length, chunk, dtype, tolerance):
    x = draw(tokens, length, length, dtype)
    want, end = ma.rwkv7(**x, form="recurrent", return_state=True)
    got, state = ma.rwkv7(**x, chunk=chunk, return_state=True)
    assert got.dtype == state.dtype == dtype
    close(got, want, tolerance)
    close(state, end, tolerance)


def test_is_its_neighbours_where_they_meet(tokens, close):
    x = draw(tokens, 2, 21)
    plain = {"k": x["k"], "v": x["v"], "state": x["state"]}
    close(ma.rwkv7(**x | {"a": np.zeros_like(x["a"])}), ma.gated_linear_attention(x["r"], **plain, log_decay=x["log_w"]))
    beta, k = x["a"][..., :1], x["kappa"]                                          # one rate for all channels, and no decay
    steady = x | {"a": np.repeat(beta, 5, axis=-1), "log_w": np.zeros_like(k), "k": beta * k}
    close(ma.rwkv7(**steady), ma.delta_rule(x["r"], k, x["v"], beta=beta[..., 0], state=x["state"]))


def test_eigenvalues_of_one_step():
    """For a uniform w: w, D - 1 times, and w - sum(a kappa^2), which may be negative."""
    rng = np.random.default_rng(3)
    kappa, a, w = rng.standard_normal(6), rng.uniform(0.5, 1, 6), 0.6
    kappa /= np.linalg.norm(kappa)
    one, nothing = np.ones((1, 6)), np.zeros((1, 6))                               # the state after one token is its matrix
    _, matrix = ma.rwkv7(one, np.log(w) * one, nothing, nothing, kappa[None], a[None], state=np.eye(6), return_state=True)
    last = w - (a * kappa**2).sum()
    assert last < 0
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(matrix).real), np.sort([last, *[w] * 5]), rtol=1e-9)


def test_streaming_equals_the_whole(tokens, close):
    x = draw(tokens, 4, 30)
    want, end = ma.rwkv7(**x, return_state=True)
    state, outs = x.pop("state"), []
    for here in [slice(0, 26), *(slice(n, n + 1) for n in range(26, 30))]:
        out, state = ma.rwkv7(**{name: a[:, :, here] for name, a in x.items()}, state=state, return_state=True)
        outs.append(out)
    close(np.concatenate(outs, axis=2), want)
    close(state, end)


def test_gradient(tokens, close, slopes):
    x = draw(tokens, 5, 5, B=1, H=2, G=1, D=3, Dv=2)
    dout = np.random.default_rng(0).standard_normal((1, 2, 5, 2))
    grads = ma.rwkv7_backward(dout, **x, chunk=2)
    for name, a in x.items():
        close(getattr(grads, f"d{name}"), slopes(lambda y, name=name: (ma.rwkv7(**x | {name: y}) * dout).sum(), a), 1e-7)


@pytest.mark.parametrize(("name", "change", "error", "says"), [
    ("r", lambda a: a[..., :4], ma.errors.ShapeError, "k has D = 5 but r has D = 4"),
    ("log_w", lambda a: -a, ma.errors.DecayError, "log_w is up to"),
    ("kappa", lambda a: a[..., :4], ma.errors.ShapeError, "kappa is .*D=4.* but k is"),
    ("a", lambda a: a[..., 0], ma.errors.ShapeError, "a is .* but k is"),
    ("v", lambda a: a[:, :, 1:], ma.errors.ShapeError, "v has N = 5 but k has N = 6"),
])
def test_what_is_refused_speaks_of_the_names_given(tokens, name, change, error, says):
    x = draw(tokens, 6, 6)
    with pytest.raises(error, match=says):
        ma.rwkv7(**x | {name: change(x[name])})
