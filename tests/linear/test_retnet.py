"""RetNet's block: by the paper one token and head at a time, its forms, its stream, and two other implementations."""
import itertools

import numpy as np
import pytest

import minattn as ma
from minattn.linear.retnet import RetNetState, multiscale_decay

E, H, D, DV = 12, 3, 4, 6


def drawn(seed, N, dtype=np.float64, B=2):
    weights = ma.RetNetWeights.random(E, value_width=H * DV, seed=seed, dtype=dtype)
    return np.random.default_rng(seed).standard_normal((B, N, E)).astype(dtype), weights


def by_the_paper(x, weights, theta=10_000.0, eps=1e-6):
    """Section 2.1 with its complex numbers: pairs of channels that turn, a memory for each head, group norm, gate."""
    w_q, w_k, w_v, w_g, w_o = weights
    out = np.zeros_like(x)
    for b in range(len(x)):
        memory = [np.zeros((D // 2, DV), complex) for _ in range(H)]
        for n, token in enumerate(x[b]):
            normed = []
            for h in range(H):
                turn = np.array([np.exp(1j * n * theta ** (-2 * p / D)) for p in range(D // 2)])
                q, k = ((token @ w[:, h * D : (h + 1) * D]).reshape(-1, 2) @ [1, 1j] * turn for w in (w_q, w_k))
                value = token @ w_v[:, h * DV : (h + 1) * DV]
                memory[h] = (1 - 2.0 ** (-5 - h)) * memory[h] + np.outer(k.conj(), value)
                y = (q @ memory[h]).real / D**0.5
                normed.append((y - y.mean()) / np.sqrt(y.var() + eps))
            gate = token @ w_g
            out[b, n] = (gate / (1 + np.exp(-gate)) * np.concatenate(normed)) @ w_o
    return out


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunked"])
def test_equals_the_paper_token_by_token(close, form):
    x, weights = drawn(1, 11)
    close(ma.retnet_block(x, weights, heads=H, form=form, chunk=4), by_the_paper(x, weights))
    close(ma.retnet_block(x, weights, heads=H, form=form, theta=50.0, eps=0.1), by_the_paper(x, weights, 50.0, 0.1))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (7, 5), (64, 24), (129, 64)])
def test_forms_agree(close, length, chunk, dtype, tolerance):
    x, weights = drawn(length, length, dtype)
    start = RetNetState(np.random.default_rng(0).standard_normal((2, H, D, DV)).astype(dtype), 17)
    want, end = ma.retnet_block(x, weights, heads=H, form="parallel", state=start, return_state=True)
    assert want.dtype == end.memory.dtype == dtype
    assert end.position == 17 + length
    for form, backend in itertools.product(("recurrent", "chunked"), ("numpy", "auto")):
        options = {"form": form, "chunk": chunk, "state": start, "backend": backend}
        got, after = ma.retnet_block(x, weights, heads=H, return_state=True, **options)
        close(got, want, tolerance)
        close(after.memory, end.memory, tolerance)


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunked"])
def test_streaming_equals_the_whole(close, form):
    x, weights = drawn(2, 30)
    want, end = ma.retnet_block(x, weights, heads=H, return_state=True)
    state, outs = None, []
    for here in [slice(0, 0), slice(0, 26), *(slice(n, n + 1) for n in range(26, 30))]:
        out, state = ma.retnet_block(x[:, here], weights, heads=H, form=form, state=state, return_state=True)
        assert state.memory.shape == (2, H, D, DV)
        outs.append(out)
    close(np.concatenate(outs, axis=1), want)
    close(state.memory, end.memory)
    assert state.position == end.position == 30


def test_where_the_text_starts_does_not_matter(close):
    x, weights = drawn(3, 20)
    empty = np.zeros((2, H, D, DV))
    close(ma.retnet_block(x, weights, heads=H, state=RetNetState(empty, 5000)), ma.retnet_block(x, weights, heads=H), 1e-8)


def test_the_norm_takes_away_what_scales_a_head(close):
    x, weights = drawn(4, 20)
    want = ma.retnet_block(x, weights, heads=H, eps=0.0)
    each = np.repeat([2.0, 0.1, 30.0], D)
    close(ma.retnet_block(x, weights._replace(w_k=weights.w_k * each), heads=H, eps=0.0), want, 1e-9)
    assert np.abs(ma.retnet_block(x, weights._replace(w_g=weights.w_g * 2), heads=H, eps=0.0) - want).max() > 0.1


def test_without_decay_it_is_linear_attention_of_what_is_rotated(close):
    x, weights = drawn(5, 20)
    w_o, w_g = np.eye(H * DV), np.full((E, H * DV), 1e3)                           # so far open that silu is the identity
    x = abs(x)
    got = ma.retnet_block(x, weights._replace(w_o=w_o, w_g=w_g), heads=H, log_decay=np.zeros(H), eps=0.0)
    q, k, v = (ma.split_heads(a, H) for a in ma.project_qkv(x, *weights[:3]))
    q, k = (ma.rope(a, np.arange(20), layout="interleaved") for a in (q, k))
    sums = ma.linear_attention(q, k, v, feature_map=lambda a: a, normalize=False)
    want = (sums - sums.mean(axis=-1, keepdims=True)) / sums.std(axis=-1, keepdims=True)
    close(got / (x @ w_g), ma.merge_heads(want), 1e-9)


def test_decays_of_the_paper():
    np.testing.assert_allclose(np.exp(multiscale_decay(3)), [31 / 32, 63 / 64, 127 / 128], rtol=1e-15)


def test_later_tokens_never_reach_back():
    x, weights = drawn(6, 12)
    want = ma.retnet_block(x, weights, heads=H)
    x[:, 7] = np.nan
    np.testing.assert_array_equal(ma.retnet_block(x, weights, heads=H)[:, :7], want[:, :7])


@pytest.mark.parametrize(("change", "error", "says"), [
    ({"heads": 5}, ma.errors.ShapeError, "5"),
    ({"w_q": np.ones((E, 9)), "w_k": np.ones((E, 9))}, ma.errors.OptionError, "even"),
    ({"w_g": np.ones((E, 7))}, ma.errors.ShapeError, r"w_g is \(12, 7\) but w_v is \(12, 18\)"),
    ({"w_o": np.ones((7, E))}, ma.errors.ShapeError, r"w_o is \(7, 12\) but w_v is \(12, 18\)"),
    ({"w_q": np.ones((7, E))}, ma.errors.ShapeError, r"w_q is \(7, 12\)"),
    ({"backend": "gpu"}, ma.errors.BackendError, "gpu"),
    ({"log_decay": np.zeros(2)}, ma.errors.ShapeError, r"log_decay is \(2,\); it must be \(G,\) = \(3,\)"),
    ({"w_k": np.ones((E, E), int)}, ma.errors.DtypeError, "w_k is int64"),
    ({"eps": -1}, ma.errors.OptionError, "eps = -1.0; it must be at least 0"),
    ({"eps": None}, ma.errors.OptionError, "eps is None"),
    ({"state": RetNetState(None, 0.5)}, ma.errors.OptionError, "state.position is 0.5"),
    ({"state": np.zeros((2, H, D, DV))}, ma.errors.OptionError, "state is ndarray; it must be the RetNetState"),
    ({"state": RetNetState(np.zeros((2, H, DV, D)), 0)}, ma.errors.ShapeError, "state is"),
])
def test_what_is_refused(change, error, says):
    x, weights = drawn(7, 5)
    weights = weights._replace(**{name: w for name, w in change.items() if name in weights._fields})
    options = {"heads": H} | {name: a for name, a in change.items() if name not in weights._fields}
    with pytest.raises(error, match=says):
        ma.retnet_block(x, weights, **options)


def test_weights_are_refused_by_their_kind():
    x, weights = drawn(7, 5)
    for bare in (0.5, x[0, 0]):
        with pytest.raises(ma.errors.ShapeError, match=r"x is .*it must be \(..., N, E\)"):
            ma.retnet_block(bare, weights, heads=H)
    for given in (None, 3, tuple(weights)):
        with pytest.raises(ma.errors.OptionError, match="it must be RetNetWeights"):
            ma.retnet_block(x, given, heads=H)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 1e-2), (np.float32, 1e-4)])
def test_the_result_has_the_type_of_x_and_the_state_at_least_float32(dtype, tolerance):
    x, weights = drawn(8, 9)
    want = ma.retnet_block(x.astype(dtype).astype(float), weights, heads=H)
    got, state = ma.retnet_block(x.astype(dtype), weights, heads=H, return_state=True)
    assert (got.dtype, state.memory.dtype) == (dtype, np.float32)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * abs(want).max())


@pytest.mark.slow
def test_equals_another_retnet(need, close):
    """Its parallel, recurrent and chunkwise forms, whole: rotation, decay, group norm, gate and output projection."""
    torch, theirs = need("torch"), need("yet_another_retnet.retention")
    width, heads = 32, 2                                                           # it wants D in eights
    weights = ma.RetNetWeights.random(width, value_width=width, seed=8, dtype=np.float32)
    x = np.random.default_rng(8).standard_normal((2, 21, width)).astype(np.float32)
    layer = theirs.MultiScaleRetention(width, heads, bias=False)
    for name, w in zip(("q", "k", "v", "g", "out"), weights, strict=True):
        getattr(layer, f"{name}_proj").weight.data = torch.from_numpy(w.T.copy())
    theirs_decay = np.log(theirs._build_decay_gammas(heads).double().numpy())
    options = {"heads": heads, "log_decay": theirs_decay, "theta": 10_000.0 ** (16 / 14)}
    given = torch.from_numpy(x)
    with torch.no_grad():
        want, _ = layer(given, given, given)
        close(ma.retnet_block(x, weights, form="parallel", **options), want.numpy(), 1e-5)
        stream, state = None, None
        for start, end in ((0, 9), (9, 20), (20, 21)):
            part = given[:, start:end]
            want, stream = layer.forward_chunkwise(part, part, part, start, stream)
            got, state = ma.retnet_block(x[:, start:end], weights, state=state, return_state=True, chunk=4, **options)
            close(got, want.numpy(), 1e-5)
            close(state.memory, stream.numpy(), 1e-5)
