"""PyTorch's scaled_dot_product_attention as a rival, each of its backends by itself.

    math        the definition: all scores stand in memory            flash   FlashAttention-2, for numbers of 16 bits
    efficient   memory-efficient attention, of xFormers               cudnn   cuDNN's, for numbers of 16 bits

Which cases a backend takes is its own to say: where it refuses, its reason stands in the row.
"""
import warnings
from collections.abc import Callable
from typing import NamedTuple

from ..rivals import Absent
from .cases import rows

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
BACKENDS = {"math": "MATH", "efficient": "EFFICIENT_ATTENTION", "flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION"}
SHARE = 0.6                                                           # of the free memory, which the scores may take


class Work(NamedTuple):
    """What is timed, and its results."""

    call: Callable
    head: Callable                                                    # (b, h) -> its results, float32 arrays (rows, D)


def load_torch(device="cuda"):
    try:
        import torch
    except ImportError as error:
        raise Absent("PyTorch is not installed") from error
    if device == "cuda" and not torch.cuda.is_available():
        raise Absent(f"PyTorch {torch.__version__} finds no GPU")
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch


def sdpa(name):
    """A backend of scaled_dot_product_attention by itself."""
    def make(case, numbers):
        torch = load_torch(numbers.device)
        from torch.nn.attention import SDPBackend, sdpa_kernel

        if name == "math":
            spare(case, numbers.device, torch)
        q, k, v = (numbers.tensor(case, one) for one in "qkv")
        told = {"is_causal": case.causal, **({} if case.H == case.G else {"enable_gqa": True})}
        results: list = []

        def forward():
            with sdpa_kernel(getattr(SDPBackend, BACKENDS[name])):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, **told)

        if case.backward:
            q, k, v = (tensor.detach().requires_grad_() for tensor in (q, k, v))
            out = accepted(forward)
            dout = numbers.tensor(case, "dout")

            def call():
                results[:] = torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)
        else:
            def call():
                with torch.inference_mode():
                    results[:] = [forward()]

        accepted(call)
        chosen = rows(case)
        return Work(call, lambda b, h: [a[b, h].float().cpu().numpy()[chosen] for a in results])

    return make


def accepted(call):
    """What a call gives; where a backend refuses, `Absent` with its reasons, which PyTorch tells as warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            return call()
        except RuntimeError as error:
            reasons = [str(one.message).split(" (Triggered")[0] for one in told]
            said = "; ".join(dict.fromkeys(filter(None, [*reasons, str(error)])))
            raise Absent(f"refused: {' '.join(said.split())[:200]}") from error


def spare(case, device, torch):
    """The math backend holds about three arrays of B x H x N x S."""
    need = 3 * 4 * case.B * case.H * case.N * case.S
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else 2**30
    if need > SHARE * free:
        raise Absent(f"not run: it would hold {need / 1e9:.0f} GB of scores")
