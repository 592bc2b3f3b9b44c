"""The checks of the front door, asked on a simulated GPU; PyTorch's by functions that stand in for attention on a CPU."""
from types import SimpleNamespace

import fake_gpu
import numpy as np
import pytest

import minattn as ma
from minattn.bench.gpu import front
from minattn.bench.gpu.ask import asked
from minattn.bench.gpu.checks import SIMULATED

CHECKS = front.checks(SIMULATED, with_torch=True)


@pytest.mark.parametrize("check", [
    pytest.param(check, id=check.name, marks=() if "few" in check.name else pytest.mark.slow)
    for check in CHECKS if "PyTorch" not in check.name])  # fmt: skip
def test_numpys_arrays(check, monkeypatch):
    fake_gpu.install(monkeypatch)
    found = asked(check, None)
    assert found["state"] == "right", found["why"]


@pytest.mark.parametrize("spoilt", ["out", "dq", "dbias", "dsink_logits"])
def test_a_wrong_answer_is_found(spoilt, monkeypatch):
    """Off by 1/50 in one number, of an attention that is otherwise NumPy's."""
    def off(array, name):
        made = np.array(array)
        if name == spoilt:
            made.ravel()[-1] += 0.02
        return made

    def attention(*given, backend, **told):
        out, *others = ma.attention(*given, backend="numpy", **told)
        return [off(out, "out"), *others]

    def attention_backward(*given, backend, **told):
        made = ma.attention_backward(*given, backend="numpy", **told)
        return type(made)(*(off(a, name) for name, a in zip(made._fields, made, strict=True)))

    everything, right = CHECKS[0], {"attention": ma.attention, "attention_backward": ma.attention_backward}
    wrong = {"attention": attention, "attention_backward": attention_backward}
    for name, function in wrong.items():
        monkeypatch.setattr(front, name, lambda *given, backend, name=name, function=function, **told: (
            function if backend == "cuda" else right[name])(*given, backend="numpy", **told))  # fmt: skip
    found = asked(everything, None)
    assert found["state"] == "wrong"
    assert found["why"].startswith(f"{spoilt}: error")
    assert ";" not in found["why"]                                    # and nothing else is


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_tensors_of_pytorch(kind, need, monkeypatch):
    """By PyTorch's own attention, and then by one that gives tensors of another type back."""
    torch = need("torch")
    product = torch.nn.functional.scaled_dot_product_attention

    def attention(q, k, v, *, causal, backend):
        if backend == "numpy":
            return ma.attention(q, k, v, causal=causal, backend=backend)
        return product(q, k, v, attn_mask=torch.from_numpy(ma.masks.causal().dense(q.shape[2], k.shape[2])), enable_gqa=True)

    def attention_backward(dout, q, k, v, *, causal, backend):
        if backend == "numpy":
            return ma.attention_backward(dout, q, k, v, causal=causal, backend=backend)
        given = [a.detach().float().requires_grad_() for a in (q, k, v)]
        made = torch.autograd.grad(attention(*given, causal=causal, backend=backend), given, dout.float())
        return [a.to(q.dtype) for a in made]

    monkeypatch.setattr(front, "attention", attention)
    monkeypatch.setattr(front, "attention_backward", attention_backward)
    sizes = SIMULATED._replace(long=(9, 9))                           # in PyTorch a row that sees nothing is NaN
    answers = front.tensors(kind, sizes, None, device="cpu")
    assert all(answer.error <= answer.limit for answer in answers)
    assert [answer.what for answer in answers if "apart" in answer.what] == [f"{what}, apart" for what in (
        "out", "dq", "dk", "dv", "types and devices")]

    def widened(*given, **told):
        out = attention(*given, **told)
        return out if told["backend"] == "numpy" else out.double()

    monkeypatch.setattr(front, "attention", widened)
    wrong = [answer.what for answer in front.tensors(kind, sizes, None, device="cpu") if answer.error > answer.limit]
    assert wrong == ["types and devices", "types and devices, apart"]


def test_a_stream_is_held_up_before_its_queries_arrive(need, monkeypatch):
    """On a CPU: in which order things are asked for, by stand-ins for what PyTorch has on a GPU."""
    torch, log = need("torch"), []

    class Stream:
        cuda_stream = 77

        def __enter__(self):
            log.append("in the stream")

        def __exit__(self, *error):
            log.append("out of it")

        def synchronize(self):
            log.append("waited for")

    class Place:
        def __init__(self, stream):
            assert stream == 77

        def run(self, launch):
            log.append(launch.kernel.__name__)

    def attention(q, k, v, backend):
        if backend == "cuda":
            log.append("attention" if q.any() else "attention to nothing")
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return ma.attention(q, k, v, backend=backend)

    on_a_gpu = SimpleNamespace(Stream=Stream, stream=lambda stream: stream, synchronize=lambda: log.append("all waited for"))
    monkeypatch.setattr(front, "load_torch", lambda: SimpleNamespace(
        from_numpy=lambda a: SimpleNamespace(cuda=lambda: torch.from_numpy(a)), zeros_like=torch.zeros_like, cuda=on_a_gpu))
    monkeypatch.setattr(front, "attention", attention)
    monkeypatch.setattr(front, "Gpu", Place)
    answer, = front.on_a_stream(SIMULATED, None)
    assert answer.error < answer.limit
    assert log == ["attention to nothing", "all waited for", "in the stream", "hold", "attention", "out of it", "waited for"]
