"""The blocks of Mamba and Mamba-2: streaming with a state of constant size, their parts by hand, and transformers' layers."""
import itertools

import numpy as np
import pytest

import minattn as ma
from minattn.linear.convolution import causal_convolution

E = 6


def drawn(which, seed, N, dtype=np.float64):
    """x, and a block that takes x, of the one kind or the other; times as in trained models, far beyond those of the start."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, N, E)).astype(dtype)
    if which == "mamba":
        weights = ma.MambaWeights.random(E, size=3, rank=2, seed=seed, dtype=dtype)
        weights = weights._replace(b_delta=weights.b_delta + 3, d=rng.standard_normal(2 * E).astype(dtype))
        return x, weights, lambda x, **options: ma.mamba_block(x, options.pop("weights", weights), **options)
    weights = ma.Mamba2Weights.random(E, heads=6, groups=2, size=5, seed=seed, dtype=dtype)
    weights = weights._replace(b_delta=weights.b_delta + 3, d=rng.standard_normal(6).astype(dtype))
    return x, weights, lambda x, **options: ma.mamba2_block(x, options.pop("weights", weights), **{"groups": 2} | options)


BLOCKS = [("mamba", "sequential"), ("mamba", "associative"),
          ("mamba2", "recurrent"), ("mamba2", "chunked"), ("mamba2", "quadratic")]  # fmt: skip


@pytest.mark.parametrize(("which", "form"), BLOCKS)
def test_streaming_equals_the_whole(close, which, form):
    x, _, block = drawn(which, 1, 30)
    want, end = block(x, return_state=True)
    state, outs, sizes = None, [], set()
    for here in itertools.starmap(slice, itertools.pairwise([0, 0, 1, 3, 26, 26, *range(27, 31)])):
        out, state = block(x[:, here], form=form, state=state, return_state=True)
        outs.append(out)
        sizes.add((state.last.shape, state.memory.shape))
    close(np.concatenate(outs, axis=1), want)
    close(state.last, end.last)
    close(state.memory, end.memory)
    assert sizes == {((2, 3, 12), (2, 12, 3))} if which == "mamba" else {((2, 3, 32), (2, 6, 5, 2))}


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize(("which", "form"), [("mamba", "associative"), ("mamba2", "recurrent"), ("mamba2", "quadratic")])
@pytest.mark.parametrize("N", [1, 7, 64, 129])
def test_forms_agree(close, which, form, N, dtype, tolerance):
    x, _, block = drawn(which, N, N, dtype)
    want, end = block(x, return_state=True)
    got, state = block(x, form=form, return_state=True)
    assert got.dtype == state.memory.dtype == state.last.dtype == dtype
    close(got, want, tolerance)
    close(state.memory, end.memory, tolerance)
    np.testing.assert_array_equal(state.last, end.last)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("which", ["mamba", "mamba2"])
def test_equals_the_paper_token_by_token(close, which):
    """One row, one token and one channel after the other, with the tokens before the first written as zeros."""
    x, w, block = drawn(which, 2, 9)
    want, K, F, n = np.zeros(x.shape), 4, 12, 3 if which == "mamba" else 5
    for row in range(2):
        inner, state = x[row] @ w.w_in, np.zeros((F, n))
        wide = inner[:, :F] if which == "mamba" else inner[:, F:-6]
        for t in range(9):
            mixed = w.b_conv + sum(w.w_conv[K - 1 - k] * wide[t - k] for k in range(min(K, t + 1)))
            u, y = mixed * sigmoid(mixed), np.zeros(F)
            for f in range(F):
                if which == "mamba":
                    made = u @ w.w_x                                               # 2 numbers of time, 3 of b, 3 of c
                    delta, a, b, c = np.log1p(np.exp(made[:2] @ w.w_delta[:, f] + w.b_delta[f])), w.a_log[f], made[2:5], made[5:]
                    d = w.d[f]
                else:
                    head, group = f // 2, f // 6                                   # 6 heads of 2 channels, 3 heads a group
                    delta, a, d = np.log1p(np.exp(inner[t, head - 6] + w.b_delta[head])), w.a_log[head], w.d[head]
                    b, c = u[F + 5 * group :][:5], u[F + 10 + 5 * group :][:5]
                state[f] = np.exp(-delta * np.exp(a)) * state[f] + delta * b * u[f]
                y[f] = state[f] @ c + d * u[f]
            z = inner[t, F:] if which == "mamba" else inner[t, :F]
            y = y * z * sigmoid(z)
            if which == "mamba2":
                y = np.concatenate([half / np.sqrt((half**2).mean() + 1e-5) for half in (y[:6], y[6:])]) * w.norm_weight
            want[row, t] = y @ w.w_out
    close(block(x), want)


@pytest.mark.parametrize("which", ["mamba", "mamba2"])
def test_what_comes_later_never_reaches_back(which):
    x, _, block = drawn(which, 3, 12)
    want = block(x)
    x[:, 7] += 1
    got = block(x)
    np.testing.assert_array_equal(got[:, :7], want[:, :7])
    assert (abs(got[:, 7:] - want[:, 7:]) > 1e-6).all()
    x[:, 7] = np.nan
    with pytest.raises(ma.errors.DecayError, match="delta is NaN"):
        block(x)


@pytest.mark.parametrize("which", ["mamba", "mamba2"])
def test_axes_and_types(close, which):
    x, _, block = drawn(which, 4, 11)
    want, end = block(x, return_state=True)
    one, state = block(x[1], return_state=True)
    close(one, want[1])
    close(state.memory, end.memory[1])
    half, state = block(x.astype(np.float16), return_state=True)
    assert half.dtype == np.float16
    assert state.memory.dtype == np.float32
    close(half, want, 1e-2)
    before = end.memory.copy()
    block(x, state=end)
    np.testing.assert_array_equal(end.memory, before)


def test_a_convolution_is_its_taps(close):
    rng = np.random.default_rng(5)
    for N, K in itertools.product((0, 1, 2, 9), (1, 2, 4)):
        x, weight, bias, before = (rng.standard_normal(s) for s in ((3, N, 5), (K, 5), 5, (3, K - 1, 5)))
        got, state = causal_convolution(x, weight, bias, before)
        tokens = np.concatenate([before, x], axis=1)
        for t in range(N):
            np.testing.assert_allclose(got[:, t], bias + (weight * tokens[:, t : t + K]).sum(axis=1), rtol=1e-12, atol=1e-13)
        np.testing.assert_array_equal(state, tokens[:, N:])
        for row, channel in np.ndindex(3, 5 if N else 0):
            want = np.convolve(tokens[row, :, channel], weight[::-1, channel], mode="valid") + bias[channel]
            np.testing.assert_allclose(got[row, :, channel], want, rtol=1e-12, atol=1e-13)


SHAPES = [
    ("mamba", {"w_in": (6, 23)}, r"w_in is \(E=6, 2 F=23\); it must be \(E=6, 2 F=24\)"),
    ("mamba", {"w_x": (12, 9)}, r"w_x is \(F=12, R \+ 2 n=9\); it must be \(F=12, R \+ 2 n=8\)"),
    ("mamba", {"a_log": (12,)}, r"a_log is \(12,\); it must be \(F, n\)"),
    ("mamba", {"w_conv": (0, 12)}, r"w_conv is \(0, 12\); it must be \(K, F\)"),
    ("mamba", {"w_out": (6, 12)}, r"w_out is \(F=6, E=12\); it must be \(F=12, E=6\)"),
    ("mamba", {"b_delta": (1, 12)}, r"b_delta is .* it must be \(F=12\)"),
    ("mamba2", {"w_in": (6, 44)}, r"w_in is \(E=6, 2 F \+ 2 G D \+ H=44\); it must be \(E=6, 2 F \+ 2 G D \+ H=50\)"),
    ("mamba2", {"w_conv": (4, 31)}, r"w_conv is \(4, 31\); it must be \(K, F \+ 2 G D\) with F = 12 and G = 2"),
    ("mamba2", {"w_conv": (4, 12)}, r"w_conv is \(4, 12\)"),
    ("mamba2", {"a_log": (5,)}, "F = 12 channels, H = 5 heads and G = 2 groups; H must divide F, and G both"),
    ("mamba2", {"d": (1,)}, r"d is \(H=1\); it must be \(H=6\)"),
    ("mamba2", {"norm_weight": ()}, r"norm_weight is \(\); it must be \(F,\)"),
]


@pytest.mark.parametrize(("which", "change", "says"), SHAPES, ids=[says for *_, says in SHAPES])
def test_weights_of_other_shapes_are_refused(which, change, says):
    x, weights, block = drawn(which, 6, 5)
    with pytest.raises(ma.errors.ShapeError, match=says):
        block(x, weights=weights._replace(**{name: np.ones(shape) for name, shape in change.items()}))


@pytest.mark.parametrize("which", ["mamba", "mamba2"])
def test_what_else_is_refused(which):
    x, weights, block = drawn(which, 7, 5)
    _, state = block(x, return_state=True)
    for error, says, given in [
        (ma.errors.ShapeError, r"x is \(6,\); it must be \(..., N, E\)", {"x": x[0, 0]}),
        (ma.errors.ShapeError, r"w_in is \(E=6, .* it must be \(E=5", {"x": x[..., :5]}),
        (ma.errors.DtypeError, "x is int64", {"x": x.astype(int)}),
        (ma.errors.OptionError, "weights is tuple; it must be Mamba", {"x": x, "weights": tuple(weights)}),
        (ma.errors.OptionError, "state is tuple; it must be the Mamba", {"x": x, "state": tuple(state)}),
        (ma.errors.DtypeError, "state is int64", {"x": x, "state": state._replace(last=state.last.astype(int))}),
        (ma.errors.ShapeError, "the convolution's state is", {"x": x[0], "state": state}),
        (ma.errors.ShapeError, "state is", {"x": x, "state": state._replace(memory=state.memory[..., :1])}),
        (ma.errors.OptionError, "form is 'parallel'", {"x": x, "form": "parallel"}),
    ]:
        with pytest.raises(error, match=says):
            block(**given)
    if which == "mamba2":
        with pytest.raises(ma.errors.OptionError, match="groups = 0"):
            block(x, groups=0)


def weights_of(mixer, kind):
    """A layer of transformers as our weights: (out, in) matrices turned round, the convolution's axis of 1 dropped."""
    given = {name: p.detach().numpy() for name, p in mixer.named_parameters()}
    names = {"w_in": "in_proj.weight", "w_conv": "conv1d.weight", "b_conv": "conv1d.bias", "w_x": "x_proj.weight",
             "w_delta": "dt_proj.weight", "b_delta": "dt_bias" if kind is ma.Mamba2Weights else "dt_proj.bias", "a_log": "A_log",
             "d": "D", "norm_weight": "norm.weight", "w_out": "out_proj.weight"}  # fmt: skip
    arrays = {name: given[names[name]] for name in kind._fields}
    arrays["w_conv"] = arrays["w_conv"][:, 0]
    return kind(**{name: a.T if name in ("w_in", "w_conv", "w_x", "w_delta", "w_out") else a for name, a in arrays.items()})


# float64 in transformers passes through float32 in places, and so agrees to float32's digits
TOLERANCE = {"float32": 1e-5, "float64": 1e-6}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("N", "inner", "size", "rank", "taps"), [(70, 24, 5, 3, 4), (7, 17, 16, 1, 2), (1, 8, 1, 4, 3)])
def test_equals_transformers_mamba(need, close, N, inner, size, rank, taps, dtype):
    torch, theirs, transformers = need("torch"), need("transformers.models.mamba.modeling_mamba"), need("transformers")
    torch.manual_seed(N)
    config = transformers.MambaConfig(hidden_size=12, intermediate_size=inner, state_size=size, time_step_rank=rank,
                                      conv_kernel=taps, num_hidden_layers=1, expand=2)  # fmt: skip
    config.intermediate_size = inner
    mixer = theirs.MambaMixer(config, 0).to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        mixer.A_log += 0.3 * torch.randn_like(mixer.A_log)
        mixer.D += torch.randn_like(mixer.D)
        mixer.dt_proj.bias += 3
        x = torch.randn(2, N, 12, dtype=getattr(torch, dtype))
        want = mixer(x).numpy()
    assert want.dtype == dtype
    for form in ("sequential", "associative"):
        close(ma.mamba_block(x.numpy(), weights_of(mixer, ma.MambaWeights), form=form), want, TOLERANCE[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("N", "heads", "groups", "size", "chunk"), [(70, 6, 2, 5, 16), (7, 4, 4, 16, 8), (1, 3, 1, 1, 64)])
def test_equals_transformers_mamba2(need, close, N, heads, groups, size, chunk, dtype):
    torch, theirs, transformers = need("torch"), need("transformers.models.mamba2.modeling_mamba2"), need("transformers")
    torch.manual_seed(N)
    config = transformers.Mamba2Config(hidden_size=12, expand=2, num_heads=heads, head_dim=24 // heads, n_groups=groups,
                                       state_size=size, chunk_size=chunk, num_hidden_layers=1)  # fmt: skip
    mixer = theirs.Mamba2Mixer(config, 0).to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        mixer.D += torch.randn_like(mixer.D)
        mixer.norm.weight += 0.3 * torch.randn_like(mixer.norm.weight)
        mixer.dt_bias += 3
        x = torch.randn(2, N, 12, dtype=getattr(torch, dtype))
        want = mixer(x).numpy()
    assert want.dtype == dtype
    weights = weights_of(mixer, ma.Mamba2Weights)
    for form in ("chunked", "recurrent", "quadratic"):
        got = ma.mamba2_block(x.numpy(), weights, groups=groups, eps=config.layer_norm_epsilon, form=form, chunk=24)
        close(got, want, TOLERANCE[dtype])


@pytest.mark.parametrize(("eps", "says"), [(-1, "eps = -1.0; it must be at least 0"), (None, "eps is None")])
def test_an_eps_that_no_norm_takes_is_refused(eps, says):
    x, weights, _ = drawn("mamba2", 7, 5)
    with pytest.raises(ma.errors.OptionError, match=says):
        ma.mamba2_block(x, weights, groups=2, eps=eps)
