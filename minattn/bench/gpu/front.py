"""The front door on a GPU: `attention`, its gradient and its weights with backend="cuda", for NumPy's arrays and PyTorch's.

What the kernels of the ladder do not see is asked here: sinks, hidden values that are NaN, arrays that do not lie in one piece,
few queries, sums of gradients over what was broadcast, and that PyTorch's tensors stay on its current stream.
"""
import functools

import numpy as np

from ...attention import attention, attention_backward
from ...core import masks
from ...gpu.device import Gpu
from ...gpu.problem import Launch
from .answers import EXACT, HALF, LESS, Answer, Check
from .clock import LONGEST, hold
from .sdpa import DTYPES, load_torch

GROUP = "front door"
LIMITS = {"float32": EXACT, "float16": HALF, "bfloat16": HALF}


def checks(sizes, with_torch):
    """The checks of the front door, for heads a little shorter than the first of `sizes.dims`."""
    asked = {
        "float32, all options": functools.partial(everything, "float32", sizes),
        "float16, all options": functools.partial(everything, "float16", sizes),
        "float32, few queries": functools.partial(everything, "float32", sizes, N=2),
        "float16, NaN in values that are hidden": functools.partial(poisoned, sizes),
    }
    if with_torch:
        asked |= {f"PyTorch, {name}": functools.partial(tensors, kind, sizes) for kind, name in DTYPES.items()}
        asked["PyTorch, a stream of its own"] = functools.partial(on_a_stream, sizes)
    return [Check(GROUP, name, ask) for name, ask in asked.items()]


def drawn(sizes, dtype, N=None, seed=3):
    """q, k, v, dout of two rows, four heads over two, in float32 but no finer than dtype."""
    D, (length, S) = sizes.dims[0] - LESS, sizes.long
    rng = np.random.default_rng(seed)
    shapes = (2, 4, N or length, D), (2, 2, S, D), (2, 2, S, D), (2, 4, N or length, D)
    return [rng.standard_normal(shape).astype(dtype).astype(np.float32) for shape in shapes]


def everything(dtype, sizes, place, N=None):
    q, k, v, dout = drawn(sizes, dtype, N)
    rng = np.random.default_rng(4)
    told = {"causal": True, "softcap": 2.0, "bias": rng.standard_normal((1, 4, 1, sizes.long[1])),
            "sink_logits": rng.standard_normal(4), "mask": masks.padding([sizes.long[1] - 2, 5])}  # fmt: skip
    given = [a.astype(dtype) for a in (q, k, v)]
    made = attention(*given, backend="cuda", return_weights=True, return_lse=True, **told)
    right = attention(*wide(q, k, v), backend="numpy", return_weights=True, return_lse=True, **told)
    limit, names = LIMITS[dtype], ("out", "weights", "log-sum-exp")
    answers = [Answer(name, a, b, limit) for name, a, b in zip(names, made, right, strict=True)]
    grads = attention_backward(dout.astype(dtype), *given, backend="cuda", **told)
    wanted = attention_backward(*wide(dout, q, k, v), backend="numpy", **told)
    return answers + [Answer(name, getattr(grads, name), getattr(wanted, name), limit) for name in wanted._fields]


def wide(*arrays):
    return [a.astype(np.float64) for a in arrays]


def poisoned(sizes, place):
    """The last two keys are hidden from everybody, and their values say nothing."""
    q, k, v, _ = drawn(sizes, "float16")
    S = sizes.long[1]
    hides, poison = masks.padding([S - 2, S - 2]), v.copy()
    poison[:, :, S - 2 :] = np.nan
    made = attention(*(a.astype("float16") for a in (q, k, poison)), mask=hides, backend="cuda")
    return [Answer("out", made, attention(*wide(q, k, v), mask=hides, backend="numpy"), HALF)]


def tensors(kind, sizes, place, device="cuda"):
    """Tensors whose heads come after their positions, so that no head lies in one piece; and tensors as kernels have them."""
    torch = load_torch(device)
    dtype = getattr(torch, DTYPES[kind])
    q, k, v, dout = (torch.from_numpy(a).to(device, dtype) for a in drawn(sizes, "float32"))
    apart = [a.transpose(1, 2).contiguous().transpose(1, 2) for a in (q, k, v)]
    right = attention(*numpy_of(q, k, v), causal=True, backend="numpy")
    wanted = attention_backward(*numpy_of(dout, q, k, v), causal=True, backend="numpy")
    answers = []
    for told, given in (("", (q, k, v)), (", apart", apart)):
        out = attention(*given, causal=True, backend="cuda")
        grads = attention_backward(dout, *given, causal=True, backend="cuda")
        for name, a, b in zip(("out", "dq", "dk", "dv"), numpy_of(out, *grads[:3]), (right, *wanted[:3]), strict=True):
            answers.append(Answer(f"{name}{told}", a, b, LIMITS[DTYPES[kind]]))
        same = [a.dtype == dtype and a.device == q.device for a in (out, *grads[:3])]
        answers.append(Answer(f"types and devices{told}", np.array(same), np.ones(4, bool), 0))
    return answers


def numpy_of(*tensors):
    """In float64; what is no tensor raises."""
    return [tensor.detach().double().cpu().numpy() for tensor in tensors]


def on_a_stream(sizes, place):
    """A stream that waits for no other: its queries arrive after a while, and attention has to come after them."""
    torch = load_torch()
    q, k, v, _ = (torch.from_numpy(a).cuda() for a in drawn(sizes, "float32"))
    late = torch.zeros_like(q)
    attention(late, k, v, backend="cuda")                             # compiled now, and not while the stream is held up
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        Gpu(stream.cuda_stream).run(Launch(hold, (1, 1, 1), (1, 1, 1), (LONGEST,)))
        late.copy_(q)
        out = attention(late, k, v, backend="cuda")
    stream.synchronize()
    return [Answer("out", numpy_of(out)[0], attention(*numpy_of(q, k, v), backend="numpy"), EXACT)]
