"""Backend "cuda" on a simulated GPU: every option of attention against the reference in float64, and what it refuses."""
import fake_gpu
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minattn as ma
from minattn.gpu import cuda

POSITIONS = {"q_pos": np.array([[3, 4, 5], [-1, 0, 1]]), "k_pos": np.array([[5, 4, 3, 2, 1, -1, 0], [1, -1, -1, 0, 7, 8, 9]])}
CASES = {
    "full": ({"lead": (2,), "H": 4, "G": 2}, {}),
    "causal": ({"N": 9}, {"causal": True}),                                       # the first rows see nothing
    "a window that keeps the first token": ({"N": 17, "S": 12}, {"mask": ma.masks.last(3) | ma.masks.first(1), "causal": True}),
    "a mask of heads, as an array": ({}, {"mask": (np.arange(2)[:, None, None] != np.arange(7) % 3)[None]}),
    "rows of unequal length": ({"lead": (2,)}, {"mask": ma.masks.padding([7, 2])}),
    "positions, empty slots": ({"N": 3, "lead": (2,)}, {**POSITIONS, "causal": True}),
    "softcap, bias of heads": ({"N": 9}, {"softcap": 1.5, "bias": np.linspace(-2, 2, 14).reshape(2, 1, 7), "causal": True}),
    "bias of rows and keys": ({"N": 9, "lead": (2,)}, {"bias": np.linspace(-1, 3, 18).reshape(2, 1, 9, 1) * np.arange(7)}),
    "sinks, a scale": ({"N": 9, "H": 4, "G": 2}, {"sink_logits": np.array([0.5, -np.inf, 3.0, -1.0]), "scale": -0.7}),
    "keys that rows share": ({"N": 9, "lead": (2,), "lead_k": (1,)}, {"causal": True}),
    "two axes before the heads": ({"N": 9, "lead": (2, 1), "lead_k": (1, 3)}, {"bias": np.ones((2, 1, 1, 1, 1)) * np.arange(7)}),
    "few queries": ({"N": 2}, {"causal": True, "softcap": 2.0, "sink_logits": np.arange(2.0)}),
    "no axis of heads": ({"lead": None, "N": 9}, {"causal": True, "sink_logits": np.array([0.3])}),
}


@pytest.fixture(autouse=True)
def places(monkeypatch):
    return fake_gpu.install(monkeypatch)


def drawn(*, lead=(1,), lead_k=None, H=2, G=1, N=4, S=7, D=7, Dv=5, dtype=np.float32, seed=0):
    """q, k, v and dout; lead None for one head without an axis of its own."""
    rng = np.random.default_rng(seed)
    lead_k = lead if lead_k is None else lead_k
    whole = () if lead is None else (*np.broadcast_shapes(lead, lead_k), H)
    shapes = [(N, D), (S, D), (S, Dv)] if lead is None else [(*lead, H, N, D), (*lead_k, G, S, D), (*lead, G, S, Dv)]
    return [rng.standard_normal(shape).astype(dtype) for shape in [*shapes, (*whole, N, Dv)]]


def wide(arrays):
    return [a.astype(np.float64) for a in arrays]


def close(got, want, tolerance):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1, np.abs(want[np.isfinite(want)]).max(initial=0)))


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_the_reference(case, places):
    sizes, options = CASES[case]
    q, k, v, dout = drawn(**sizes)
    out, lse = ma.attention(q, k, v, backend="cuda", return_lse=True, **options)
    kernels = places[-1].names
    assert ("decode" in kernels) == (q.shape[-2] <= cuda.FEW)
    right, right_lse = ma.attention(*wide([q, k, v]), backend="numpy", return_lse=True, **options)
    close(out, right, 1e-5)
    close(lse, right_lse, 1e-5)
    assert (out.dtype, lse.dtype) == (np.float32, np.float32)
    assert (out[np.isneginf(right_lse)] == 0).all()
    grads = ma.attention_backward(dout, q, k, v, backend="cuda", out=out, lse=lse, **options)
    rights = ma.attention_backward(*wide([dout, q, k, v]), backend="numpy", **options)
    arguments = q, k, v, options.get("bias"), options.get("sink_logits")
    for grad, right_grad, argument in zip(grads, rights, arguments, strict=True):
        assert (grad is None) == (argument is None)
        if grad is not None:
            close(grad, right_grad, 1e-5)
            assert grad.dtype == argument.dtype


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_numbers_of_16_bits_go_through_tensor_cores(kind, places, need):
    dtype = np.dtype(np.float16) if kind == "float16" else np.dtype(need("ml_dtypes").bfloat16)
    q, k, v, dout = drawn(N=9, D=13, Dv=11, dtype=dtype)
    options = {"causal": True, "sink_logits": np.array([0.5, -1.0]), "bias": np.linspace(-1, 1, 7)}
    out, weights, lse = ma.attention(q, k, v, backend="cuda", return_lse=True, return_weights=True, **options)
    assert {"tensor", "careful", "join_sinks"} <= set(places[0].names)
    right = ma.attention(*wide([q, k, v]), return_lse=True, return_weights=True, **options)
    for got, want, tolerance in zip((out, weights, lse), right, (1e-2, 5e-3, 1e-5), strict=True):
        close(got, want, tolerance)
    assert (out.dtype, weights.dtype, lse.dtype) == (dtype, dtype, np.float32)
    grads = ma.attention_backward(dout, q, k, v, backend="cuda", **options)
    right = ma.attention_backward(*wide([dout, q, k, v]), **options)
    for got, want, made in zip(grads, right, (dtype, dtype, dtype, float, float), strict=True):
        close(got, want, 1e-2)
        assert got.dtype == made


def test_types_that_differ_meet_in_float32(places):
    q, k, v, _ = drawn()
    out = ma.attention(q.astype(np.float16), k, v.astype(">f4"), backend="cuda")
    close(out, ma.attention(q.astype(np.float16), k, v), 1e-5)
    assert out.dtype == np.float32


@pytest.mark.parametrize("sinks", [None, np.array([0.25, -np.inf])])
@pytest.mark.parametrize(("lead", "N", "S"), [((2,), 0, 5), ((2,), 3, 0), ((0,), 3, 5), ((), 3, 0)])
def test_where_there_is_nothing(lead, N, S, sinks):
    q, k, v, dout = drawn(lead=lead, N=N, S=S)
    bias = np.ones((2, N, S), np.float32)
    made, right = (ma.attention(q, k, v, bias=bias, sink_logits=sinks, backend=backend, return_lse=True, return_weights=True)
                   for backend in ("cuda", "numpy"))  # fmt: skip
    for got, want in zip(made, right, strict=True):
        close(got, want, 1e-6)
    grads = ma.attention_backward(dout, q, k, v, bias=bias, sink_logits=sinks, backend="cuda")
    for got, want in zip(grads, (q, k, v, bias, sinks), strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            close(got, np.zeros_like(want), 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_nan_reaches_those_who_see_it_and_no_other(dtype, places):
    """Two documents in one row, in one tile: what stands in the second, the first does not know."""
    q, k, v, dout = drawn(lead=(), N=12, S=12, D=13, dtype=dtype)
    options = {"mask": ma.masks.segments(np.arange(12) // 7), "backend": "cuda"}
    clean = ma.attention(q, k, v, **options)
    for array, bad in ((k, np.nan), (v, np.nan), (v, np.inf)):
        spoiled = [a.copy() for a in (q, k, v)]
        spoiled[1 if array is k else 2][0, 9, 2] = bad
        out, lse = ma.attention(*spoiled, return_lse=True, **options)
        np.testing.assert_allclose(out[:, :7], clean[:, :7], rtol=0, atol=1e-3 if dtype is np.float16 else 0)
        assert not np.isfinite(out[:, 7:, 2]).any()
        assert np.isnan(lse[:, 7:]).all() == (array is k)
        grads = ma.attention_backward(dout, *spoiled, out=out, lse=lse, **options)
        assert all(np.isfinite(grad[:, :7]).all() for grad in grads[:3])


def test_nan_shows_in_a_decoding_step_too(places):
    q, k, v, _ = drawn(N=1)
    k[0, 0, 5, 2] = np.nan
    out, lse = ma.attention(q, k, v, backend="cuda", return_lse=True)
    assert "decode" in places[0].names
    assert np.isnan(out).all()
    assert np.isnan(lse).all()
    hidden = ma.attention(q, k, v, mask=(np.arange(7) != 5)[None], backend="cuda")
    close(hidden, ma.attention(q, np.delete(k, 5, axis=2), np.delete(v, 5, axis=2), backend="numpy"), 1e-5)


def test_a_row_that_sees_nothing_gives_zeros_even_beside_nan():
    q, k, v, _ = drawn(lead=(), N=9, S=7, D=13, dtype=np.float16)
    v[:] = np.nan
    out, lse = ma.attention(q, k, v, causal=True, q_pos=np.arange(9) - 4, k_pos=np.arange(7), backend="cuda", return_lse=True)
    assert (out[:, :4] == 0).all()
    assert np.isneginf(lse[:, :4]).all()
    assert np.isnan(out[:, 4:]).all()


@settings(max_examples=12)
@given(heads=st.sampled_from([(1, 1), (2, 1), (2, 2)]), N=st.integers(1, 18), S=st.integers(1, 18), D=st.integers(9, 16),
       Dv=st.integers(1, 16), window=st.integers(0, 20), dtype=st.sampled_from([np.float32, np.float16]))  # fmt: skip
def test_any_shape(heads, N, S, D, Dv, window, dtype):
    with pytest.MonkeyPatch.context() as patch:
        fake_gpu.install(patch)
        q, k, v, _ = drawn(H=heads[0], G=heads[1], N=N, S=S, D=D, Dv=Dv, dtype=dtype)
        options = {"mask": ma.masks.window(window, 1), "return_lse": True}
        made, right = ma.attention(q, k, v, backend="cuda", **options), ma.attention(*wide([q, k, v]), **options)
        for got, want in zip(made, right, strict=True):
            close(got, want, 1e-5 if dtype is np.float32 else 5e-3)


def test_maps(places):
    q, k, v, _ = drawn(N=9, H=4, G=2)
    options = {"causal": True, "bias": np.arange(7.0), "sink_logits": np.arange(4.0)}
    whole = ma.attention_weights(*wide([q, k]), **options)
    close(ma.attention_weights(q, k, backend="cuda", **options), whole, 1e-5)
    close(ma.attention_weights(q, k, backend="cuda", heads=[3, 1], rows=-1, **options), whole[:, [3, 1], -1], 1e-5)
    _, lse = ma.attention(q, k, v, return_lse=True, **options)
    before = len(places)
    close(ma.attention_weights(q, k, lse=lse, backend="cuda", **options), whole, 1e-5)
    assert places[before].names == ["scores", "weights"]                        # nothing is normalised again
    hidden = np.broadcast_to(~ma.masks.causal().dense(9, 7), whole.shape)
    assert (ma.attention_weights(q, k, backend="cuda", **options)[hidden] == 0).all()


def test_a_second_call_makes_no_map_and_no_kernel_again(places):
    mask = ma.masks.last(4)
    runs = [ma.attention(*drawn(N=9, seed=seed)[:3], mask=mask, backend="cuda") for seed in (1, 2)]
    first, second = (place.launched[0] for place in places)
    assert first.kernel is second.kernel
    assert all(getattr(first.arguments[0], name) is getattr(second.arguments[0], name) for name in ("kind", "stored", "partial"))
    assert np.abs(runs[0] - runs[1]).max() > 0.1


def test_what_is_built_on_attention_goes_there_too(places):
    layer = ma.MultiHeadAttention.random(8, heads=4, kv_heads=2, dtype=np.float32, backend="cuda")
    x = np.random.default_rng(0).standard_normal((1, 9, 8)).astype(np.float32)
    plain = ma.MultiHeadAttention(layer.w_q, layer.w_k, layer.w_v, layer.w_o, heads=4, kv_heads=2)
    close(layer(x, mask=ma.masks.causal()), plain(x, mask=ma.masks.causal()), 1e-5)
    close(layer.backward(x, x).dw_k, plain.backward(x, x).dw_k, 1e-5)
    q, k, v, _ = drawn(N=7)
    close(ma.strided_attention(q, k, v, stride=3, backend="cuda"), ma.strided_attention(q, k, v, stride=3, backend="numpy"), 1e-5)
    assert all("registers" in place.names or "decode" in place.names or "weights" in place.names for place in places[:1])


def test_numpy_arrays_never_go_to_a_gpu_unasked(places):
    q, k, v, _ = drawn(N=200, S=200)
    ma.attention(q, k, v)
    assert places == []


def test_what_no_kernel_does_is_refused(monkeypatch):
    q, k, v, dout = drawn()
    refused = ma.errors.BackendError
    with pytest.raises(refused, match=r"score_mod is given, and kernels on a GPU have no place for it; backend='cpu' has"):
        ma.attention(q, k, v, score_mod=lambda s, b, h, i, j: s, backend="cuda")
    with pytest.raises(refused, match=r"float64; kernels on a GPU take float32, float16 and bfloat16, and backend='cpu' all"):
        ma.attention(q, k, v.astype(np.float64), backend="cuda")
    with pytest.raises(refused, match=r"D = 17 and Dv = 5; the GPU kernels take at most 16, and backend='cpu' any"):
        ma.attention(np.ones((2, 3, 17), np.float32), np.ones((1, 7, 17), np.float32), v[0], backend="cuda")
    with pytest.raises(refused, match=r"top = 3; backend 'cuda' gives whole maps alone"):
        ma.attention_weights(q, k, top=3, backend="cuda")
    with pytest.raises(refused, match=r"backend is 'gpu'; here there is 'auto', 'numpy', 'cpu', 'cuda'"):
        ma.attention(q, k, v, backend="gpu")
    for odd in (None, 3, b"cuda", [], np.array("cuda"), np.array(["cpu", "numpy"])):
        with pytest.raises(refused, match=r"backend is .*; here there is 'auto', 'numpy', 'cpu', 'cuda'"):
            ma.attention(q, k, v, backend=odd)
    with pytest.raises(refused, match=r"here there is 'auto', 'numpy', 'cpu'; 'cuda' computes attention alone"):
        ma.recurrence(k, k, v, backend="cuda")
    with monkeypatch.context() as patch:
        patch.setattr(cuda, "MOST", 2 * 4 * 8)
        with pytest.raises(refused, match=r"q has 64 numbers, D filled up to 8; kernels on a GPU count to 2\*\*31: give"):
            ma.attention(q, k, v, backend="cuda")
    monkeypatch.setattr(cuda, "GRID", 2)
    with pytest.raises(refused, match=r"B = 1 and H = 2; a GPU takes fewer than"):
        ma.attention_backward(dout, q, k, v, backend="cuda")


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "D"), [(np.float32, 30), (np.float16, 64)])
def test_tiles_of_the_size_that_a_gpu_gets(dtype, D, monkeypatch):
    monkeypatch.setattr(cuda, "SIZES", cuda.Sizes())
    q, k, v, dout = drawn(N=70, S=67, H=1, D=D, Dv=20, dtype=dtype)
    out, lse = ma.attention(q, k, v, causal=True, backend="cuda", return_lse=True)
    right, right_lse = ma.attention(*wide([q, k, v]), causal=True, return_lse=True)
    close(out, right, 1e-5 if dtype is np.float32 else 5e-3)
    close(lse, right_lse, 1e-5)
    if dtype is np.float32:
        grads = ma.attention_backward(dout, q, k, v, out=out, lse=lse, causal=True, backend="cuda")
        for got, want in zip(grads[:3], ma.attention_backward(*wide([dout, q, k, v]), causal=True), strict=False):
            close(got, want, 1e-5)
    few = q[:, :, :2]
    close(ma.attention(few, k, v, backend="cuda"), ma.attention(*wide([few, k, v])), 1e-5 if dtype is np.float32 else 5e-3)
