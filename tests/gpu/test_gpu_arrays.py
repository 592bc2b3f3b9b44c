"""Arrays that live on a GPU: taken where they are, results of the same library, on the caller's stream; and what is refused."""
import sys

import fake_gpu
import numpy as np
import pytest
from fake_gpu import Array, CuPyArray

import minattn as ma
from minattn.gpu import libraries


@pytest.fixture(autouse=True)
def places(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_gpu.cupy())
    return fake_gpu.install(monkeypatch)


@pytest.fixture
def tensor(need, monkeypatch):
    """`tensor(array)`: what PyTorch has on a GPU, as far as this module can tell."""
    torch = need("torch")

    class Tensor(torch.Tensor):
        is_cuda = True

    Tensor.__module__ = "torch"
    monkeypatch.setattr(libraries.Torch, "stream", lambda self, array: 5)
    monkeypatch.setattr(libraries.Torch, "device", lambda self, array: 1)
    return lambda array, dtype=None: torch.tensor(array, dtype=dtype).as_subclass(Tensor)


def drawn(N=9, S=7, D=8, Dv=8, lead=(1,), lead_k=None, seed=0):
    rng = np.random.default_rng(seed)
    lead_k = lead if lead_k is None else lead_k
    whole = np.broadcast_shapes(lead, lead_k)
    shapes = (*lead, 2, N, D), (*lead_k, 1, S, D), (*lead, 1, S, Dv), (*whole, 2, N, Dv)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def close(got, want, tolerance=1e-5):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1, np.abs(want[np.isfinite(want)]).max(initial=0)))


def address(argument):
    return argument.__cuda_array_interface__["data"][0]


@pytest.mark.parametrize("kind", [Array, CuPyArray])
def test_arrays_in_one_piece_are_not_copied_and_results_are_of_their_library(kind, places):
    q, k, v, dout = drawn()
    given = [kind(a) for a in (q, k, v)]
    out, weights, lse = ma.attention(*given, causal=True, return_lse=True, return_weights=True)
    launch, *_ = places[0].launched
    assert places[0].names == ["registers", "scores", "weights"]
    assert [address(getattr(launch.arguments[0], name)) for name in "qkv"] == [address(a) for a in given]
    assert [type(a) for a in (out, weights, lse)] == [kind] * 3
    assert address(launch.arguments[0].out) == address(out)
    rights = ma.attention(q, k, v, causal=True, return_lse=True, return_weights=True)
    for got, want in zip((out, weights, lse), rights, strict=True):
        close(got.read(), want)
    grads = ma.attention_backward(kind(dout), *given, out=out, lse=lse, causal=True)
    for got, want in zip(grads[:3], ma.attention_backward(dout, q, k, v, causal=True), strict=False):
        assert type(got) is kind
        close(got.read(), want)
    assert "arrange" not in places[-1].names
    close(ma.attention_weights(*given[:2], lse=lse, causal=True).read(), weights.read(), 0)


def test_pytorch_has_its_own_types_and_stream(tensor, places):
    torch = sys.modules["torch"]
    q, k, v, dout = drawn(D=16, Dv=16)
    given = [tensor(a, torch.bfloat16).requires_grad_() for a in (q, k, v)]
    out, lse = ma.attention(*given, causal=True, return_lse=True)
    assert (out.dtype, lse.dtype, out.requires_grad) == (torch.bfloat16, torch.float32, False)
    assert (places[0].stream, places[0].device, places[0].names) == (5, 1, ["tensor", "careful"])
    rounded = [a.detach().float().numpy() for a in given]
    close(out.float(), ma.attention(*rounded, causal=True), 1e-2)
    grads = ma.attention_backward(tensor(dout, torch.bfloat16), *given, causal=True)
    assert {grad.dtype for grad in grads[:3]} == {torch.bfloat16}
    rights = ma.attention_backward(tensor(dout, torch.bfloat16).float().numpy(), *rounded, causal=True)
    for got, want in zip(grads[:3], rights, strict=False):
        close(got.float(), want, 1e-2)
    mixed = ma.attention(given[0], tensor(rounded[1]), tensor(rounded[2]))
    assert mixed.dtype == torch.float32
    with pytest.raises(ma.errors.DtypeError, match="mix float16 and bfloat16"):
        ma.attention(given[0], tensor(rounded[1], torch.float16), given[2])


def test_what_lies_otherwise_is_copied_there_once(places):
    """Keys and values as views of one array with the heads inside, queries turned around, a D that has to be filled up."""
    q, k, v, _ = drawn(D=5, Dv=3, lead=(2,))
    both = np.concatenate([k, v], axis=-1).swapaxes(1, 2).copy().swapaxes(1, 2)
    given = [q[..., ::-1].copy()[..., ::-1], both[..., :5], both[..., 5:]]
    out = ma.attention(*map(Array, given), causal=True)
    assert places[0].names == ["arrange", "arrange", "arrange", "registers", "arrange"]
    close(out.read(), ma.attention(q, k, v, causal=True))


def test_what_is_not_aligned_is_copied(places):
    q, k, v, _ = drawn()
    room = np.empty(q.size + 8, np.float32)
    start = 1 + (-room.ctypes.data % 16) // 4
    shifted = room[start : start + q.size].reshape(q.shape)
    shifted[:] = q
    close(ma.attention(Array(shifted), Array(k), Array(v)).read(), ma.attention(q, k, v))
    assert places[0].names == ["arrange", "registers"]


def test_options_live_there_or_here(places):
    q, k, v, dout = drawn(N=5, lead=(2, 1), lead_k=(1, 2))
    bias, sinks, mask = np.linspace(-1, 1, 14).reshape(2, 1, 1, 1, 7), np.array([0.5, -0.5], np.float32), np.arange(7) != 3
    options = {"mask": np.broadcast_to(mask, (5, 7)), "bias": bias, "sink_logits": sinks, "softcap": 3.0}
    positions = {"q_pos": np.arange(2, 7), "k_pos": np.arange(7), "causal": True}
    there = {name: a if name == "softcap" else Array(np.ascontiguousarray(a)) for name, a in options.items()}
    places_there = {name: a if name == "causal" else Array(a) for name, a in positions.items()}
    given = [Array(a) for a in (q, k, v)]
    want = ma.attention(q, k, v, **options, **positions)
    close(ma.attention(*given, **there, **places_there).read(), want)
    close(ma.attention(*given, **options, **positions).read(), want)
    rights = ma.attention_backward(dout, q, k, v, **options, **positions)
    for more, kind in ((there, Array), (options, np.ndarray)):
        grads = ma.attention_backward(Array(dout), *given, **more, **positions)
        for got, want in zip(grads, rights, strict=True):
            close(got.read() if isinstance(got, Array) else got, want)
        assert [type(grad) for grad in grads] == [Array] * 3 + [kind] * 2
        assert (grads.dbias.dtype, grads.dsink_logits.dtype) == (np.float64, np.float32)


def test_one_head_and_no_head_and_few_queries(places):
    q, k, v, dout = (a[0, 0] for a in drawn(N=2))
    given = [Array(a) for a in (q, k, v)]
    close(ma.attention(*given, causal=True).read(), ma.attention(q, k, v, causal=True))
    assert places[-1].names == ["decode", "join"]
    for got, want in zip(ma.attention_backward(Array(dout), *given)[:3], ma.attention_backward(dout, q, k, v), strict=False):
        close(got.read(), want)
    close(ma.attention_weights(*given[:2]).read(), ma.attention_weights(q, k))


@pytest.mark.parametrize(("N", "S"), [(0, 5), (3, 0)])
def test_where_there_is_nothing(N, S):
    q, k, v, dout = drawn(N=N, S=S)
    sinks = np.array([0.5, 1.5], np.float32)
    out, lse = ma.attention(*map(Array, (q, k, v)), sink_logits=sinks, return_lse=True)
    close(out.read(), np.zeros((1, 2, N, 8)))
    close(lse.read(), np.broadcast_to(sinks[:, None], (1, 2, N)))
    for got, want in zip(ma.attention_backward(*map(Array, (dout, q, k, v)))[:3], (q, k, v), strict=True):
        close(got.read(), np.zeros_like(want), 0)


def test_streams(places):
    given = [Array(a) for a in drawn()]
    for a, stream in zip(given, (None, 7, 9, 11), strict=True):
        a.stream = stream
    q, k, v, dout = given
    ma.attention_backward(dout, q, k, v)
    used, *others = places
    assert (used.stream, used.waited, bool(used.launched)) == (7, 0, True)
    assert [(place.stream, place.waited, place.launched) for place in others] == [(9, 1, []), (11, 1, [])]


def test_a_mask_and_positions_are_waited_for_before_they_are_fetched(places):
    q, k, v, _ = drawn()
    mask, q_pos = Array(np.arange(63).reshape(9, 7) % 3 > 0), Array(np.arange(9))
    mask.stream, q_pos.stream = 7, 9
    ma.attention(*map(Array, (q, k, v)), mask=mask, q_pos=q_pos)
    _, *others = places
    assert [(place.stream, place.waited) for place in others] == [(7, 1), (9, 1)]


class Told(Array):
    """An array that says something else of itself."""

    def __init__(self, array, leave=(), **told):
        super().__init__(array)
        self.leave, self.told = leave, told

    @property
    def __cuda_array_interface__(self):
        told = super().__cuda_array_interface__ | self.told
        return {name: what for name, what in told.items() if name not in self.leave}


@pytest.mark.parametrize(("leave", "told", "says"), [
    (["data"], {}, "k has a __cuda_array_interface__ that cannot be read: KeyError.'data'"), (["shape"], {}, "cannot be read"),
    (["typestr"], {}, "cannot be read"), ([], {"data": None}, "cannot be read"), ([], {"typestr": "no type"}, "cannot be read"),
    ([], {"typestr": None}, "cannot be read"), ([], {"shape": (1, 1, 7.0, 8)}, "cannot be read"),
    ([], {"stream": "legacy"}, "cannot be read"), ([], {"stream": -1}, "k is computed on stream -1"),
    ([], {"strides": (32, 4)}, r"k has strides \(32, 4\) on the GPU, but shape \(1, 1, 7, 8\)"),
    ([], {"strides": (224, 224, 32, 2)}, r"k has strides of \(224, 224, 32, 2\) bytes, and f32 numbers of 4"),
    ([], {"mask": True}, "k has a mask on the GPU"),
], ids=str)  # fmt: skip
def test_what_an_array_says_of_itself_is_not_taken_on_trust(leave, told, says):
    q, k, v, _ = drawn()
    with pytest.raises(ma.MinattnError, match=says):
        ma.attention(Array(q), Told(k, leave, **told), Array(v))


def test_what_may_be_left_out(places):
    q, k, v, _ = drawn()
    told = Told(q, ["version", "stream", "strides"], data=(q.ctypes.data, True), shape=list(q.shape))
    close(ma.attention(told, Array(k), Array(v)).read(), ma.attention(q, k, v))


def test_tensors_whose_numbers_are_not_what_lies_there_are_refused(tensor):
    torch = sys.modules["torch"]
    q, k, v, _ = (tensor(a) for a in drawn())
    for wrong, says in ((torch._neg_view(k), r"k is a view that PyTorch negates .* k.resolve_neg\(\)"),
                        (k.to(torch.float8_e4m3fn), "k is float8_e4m3fn; attention on a GPU needs")):  # fmt: skip
        with pytest.raises(ma.errors.DtypeError, match=says):
            ma.attention(q, wrong, v)
    with pytest.raises(ma.errors.DtypeError, match="mask is bfloat16; a mask is boolean"):
        ma.attention(q, k, v, mask=tensor(np.ones((9, 7)), torch.bfloat16))
    out = ma.attention(q, k, v, mask=tensor(np.ones((9, 7), bool)), q_pos=tensor(np.arange(9)))
    close(out, ma.attention(*drawn()[:3]))


def test_arrays_apart_are_refused():
    q, k, v, dout = drawn()
    refused = ma.errors.BackendError
    with pytest.raises(refused, match=r"q lives on a GPU but v does not \(ndarray\); bring all arrays to one of the two"):
        ma.attention(Array(q), Array(k), v)
    with pytest.raises(refused, match=r"k lives on a GPU but q does not \(ndarray\)"):
        ma.attention_weights(q, Array(k))
    with pytest.raises(refused, match=r"q lives on a GPU but dout does not"):
        ma.attention_backward(dout, Array(q), Array(k), Array(v))
    with pytest.raises(refused, match=r"q is on GPU 0 but k is on GPU 1"):
        ma.attention(Array(q), Array(k, 1), Array(v))
    with pytest.raises(refused, match=r"q is Array but k is CuPyArray; give arrays of one library"):
        ma.attention(Array(q), CuPyArray(k), Array(v))
    with pytest.raises(refused, match=r"q is on GPU 0 but mask is on GPU 1"):
        ma.attention(Array(q), Array(k), Array(v), mask=Array(np.ones((9, 7), bool), 1))
    with pytest.raises(refused, match=r"q is Array but q_pos is CuPyArray; give arrays of one library"):
        ma.attention(Array(q), Array(k), Array(v), q_pos=CuPyArray(np.arange(9)))
    with pytest.raises(refused, match=r"backend is array\(\['cuda', 'cuda'\]"):
        ma.attention(Array(q), Array(k), Array(v), backend=np.array(["cuda"] * 2))
    for backend in ("cpu", "numpy"):
        with pytest.raises(refused, match=rf"backend is '{backend}', but arrays are given that live on a GPU \(Array\)"):
            ma.attention(Array(q), Array(k), Array(v), backend=backend)
    with pytest.raises(refused, match=r"bias lives on a GPU \(Array\) and is wanted as NumPy's here"):
        ma.attention(q, k, v, bias=Array(q[0, 0, :1, :7]))
    with pytest.raises(refused, match=r"v lives on a GPU"):
        ma.recurrence(k, k, Array(v))


def test_types_and_parts_that_are_refused():
    q, k, v, _ = drawn()
    with pytest.raises(ma.errors.DtypeError, match=r"k is int32; attention on a GPU needs float16, bfloat16 or float32"):
        ma.attention(Array(q), Array(k.astype(np.int32)), Array(v))
    with pytest.raises(ma.errors.BackendError, match=r"float64; kernels on a GPU take"):
        ma.attention(Array(q), Array(k.astype(np.float64)), Array(v))
    with pytest.raises(ma.errors.BackendError, match=r"heads and rows choose from NumPy's arrays"):
        ma.attention_weights(Array(q), Array(k), heads=0)
    with pytest.raises(ma.errors.ShapeError, match=r"k has D = 7 but q has D = 8"):
        ma.attention(Array(q), Array(np.ascontiguousarray(k[..., :7])), Array(v))
