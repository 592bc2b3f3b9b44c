"""The delta rule: what it replaces and keeps, its forms, its gradient, and another implementation."""
import numpy as np
import pytest

import minattn as ma


def draw(tokens, seed, N, decay=None, dtype=np.float64, **sizes):
    given, options = tokens(seed, N, decay, dtype=dtype, **sizes)
    rng = np.random.default_rng(seed)
    given["k"] /= np.linalg.norm(given["k"], axis=-1, keepdims=True)
    return given | options | {"beta": rng.uniform(0, 2, given["k"].shape[:-1]).astype(dtype)}


def by_hand(q, k, v, beta, state, log_decay=None):
    """Decay, read what the key holds, write the difference: one head of one row, one token after the other."""
    (B, H, N, _), G = q.shape, k.shape[1]
    out = np.zeros((B, H, N, v.shape[-1]))
    for b, h in np.ndindex(B, H):
        S = state[b, h // (H // G)].copy()
        for n in range(N):
            at = b, h // (H // G), n
            if log_decay is not None:
                S = np.exp(log_decay[at])[..., None] * S
            S = S + beta[at] * np.outer(k[at], v[at] - S.T @ k[at])
            out[b, h, n] = q[b, h, n] @ S
    return out


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@pytest.mark.parametrize("decay", [None, "token", "channel"])
def test_equals_the_rule_by_hand(tokens, close, decay, form):
    given = draw(tokens, 1, 9, decay)
    close(ma.delta_rule(**given, form=form, chunk=4, scale=0.5), 0.5 * by_hand(**given))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("decay", [None, "token", "channel"])
@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (7, 5), (64, 24), (129, 64)])
def test_forms_agree(tokens, close, decay, length, chunk, dtype, tolerance):
    given = draw(tokens, length, length, decay, dtype)
    if decay and length > 7:
        given["log_decay"][:, :, [2, 5, 6]] = np.array([0, -50, -np.inf], dtype).reshape(3, *(1,) * (decay == "channel"))
    want, end = ma.delta_rule(**given, form="recurrent", return_state=True)
    got, state = ma.delta_rule(**given, chunk=chunk, return_state=True)
    assert got.dtype == state.dtype == dtype
    close(got, want, tolerance)
    close(state, end, tolerance)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_orthogonal_keys_are_a_memory_that_can_be_written_again(form):
    rng = np.random.default_rng(0)
    k, v = np.linalg.qr(rng.standard_normal((6, 6)))[0], rng.standard_normal((12, 3))
    twice = np.concatenate([k, k[::-1]])
    _, state = ma.delta_rule(twice, twice, v, beta=np.ones(12), form=form, return_state=True, chunk=5)
    np.testing.assert_allclose(k[::-1] @ state, v[6:], atol=1e-12)                 # the second values alone
    _, none = ma.delta_rule(twice, twice, v, beta=np.zeros(12), state=state, form=form, return_state=True)
    np.testing.assert_array_equal(none, state)


def test_beta_of_two_counts_parity(tokens):
    """A state of one number that a token with beta = 2 turns round: no decay between 0 and 1 can do that."""
    bits = np.random.default_rng(0).integers(0, 2, 100)
    ones, v = np.ones((100, 1)), np.zeros((100, 1))
    out = ma.delta_rule(ones, ones, v, beta=2.0 * bits, state=np.ones((1, 1)))
    np.testing.assert_array_equal(out[:, 0], (-1.0) ** np.cumsum(bits))


def test_streaming_equals_the_whole(tokens, close):
    given = draw(tokens, 3, 30, "token")
    want, end = ma.delta_rule(**given, return_state=True)
    state, outs = given.pop("state"), []
    for here in [slice(0, 26), *(slice(n, n + 1) for n in range(26, 30))]:
        out, state = ma.delta_rule(**{name: a[:, :, here] for name, a in given.items()}, state=state, return_state=True)
        outs.append(out)
    close(np.concatenate(outs, axis=2), want)
    close(state, end)


@pytest.mark.parametrize("decay", [None, "token", "channel"])
def test_gradient(tokens, close, slopes, decay):
    named = draw(tokens, 4, 5, decay, B=1, H=2, G=1, D=3, Dv=2)
    if decay:
        named["log_decay"] -= 1e-3
    dout = np.random.default_rng(0).standard_normal((1, 2, 5, 2))
    grads = ma.delta_rule_backward(dout, **named, scale=0.7, chunk=2)
    for name, a in named.items():
        want = slopes(lambda x, name=name: (ma.delta_rule(**named | {name: x}, scale=0.7) * dout).sum(), a)
        close(getattr(grads, f"d{name}"), want, 1e-7)
    assert decay or grads.dlog_decay is None


def test_what_is_refused(tokens):
    given = draw(tokens, 5, 6)
    with pytest.raises(ma.errors.ShapeError, match=r"beta is \(2, 3, 6, 1\) but k is \(B=2, G=3, N=6, D=5\)"):
        ma.delta_rule(**given | {"beta": given["beta"][..., None]})
    with pytest.raises(ma.errors.ShapeError, match="beta is"):
        ma.delta_rule(**given | {"beta": given["beta"][:, :, :4]})


@pytest.mark.slow
@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@pytest.mark.parametrize("theirs", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
def test_equals_transformers_gated_delta_rule(need, tokens, close, theirs, form):
    """Both of its forms divide q and k by their lengths if asked to, and always multiply q by 1 / sqrt(D)."""
    torch, module = need("torch"), need("transformers.models.qwen3_next.modeling_qwen3_next")
    given = draw(tokens, 6, 150, "token", np.float32, H=3, G=3, D=8, Dv=6)
    given["k"] *= np.random.default_rng(6).uniform(0.5, 2, given["beta"].shape)[..., None].astype(np.float32)
    q, k, v, g, beta = (torch.from_numpy(given[name]).transpose(1, 2) for name in ("q", "k", "v", "log_decay", "beta"))
    want, end = getattr(module, theirs)(q, k, v, g, beta, initial_state=torch.from_numpy(given["state"]), output_final_state=True,
                                        use_qk_l2norm_in_kernel=True)              # fmt: skip
    given |= {name: given[name] / np.linalg.norm(given[name], axis=-1, keepdims=True) for name in "qk"}
    got, state = ma.delta_rule(**given, scale=8**-0.5, form=form, return_state=True)
    close(got, want.transpose(1, 2).numpy(), 1e-5)
    close(state, end.numpy(), 1e-5)
