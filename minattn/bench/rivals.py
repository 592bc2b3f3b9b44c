"""Who takes part: each rival is `prepare(case, arrays) -> call`, and `call()` returns (out,) or (out, dq, dk, dv).

What can be made ready once stands outside of `call`: a mask in the form that the rival wants, a compiled function. All
see the same float32 arrays. `Absent` says why a rival cannot take part.

    numpy    minattn's reference, which forms the N x S scores       torch    scaled_dot_product_attention of PyTorch
    tiled    the tiled form in plain NumPy                           flex     FlexAttention of PyTorch, compiled
    cpu      the compiled kernel; a sparse pattern in parts          sgemm, read, copy    what the machine can do
    masked   the kernel under a pattern's mask, all in one           whole    the kernel, causal, in place of a pattern

They run in a process of their own (worker.py), which has set the number of threads before any of them was imported.
"""
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from ..attention import attention, attention_backward
from ..backends import BACKENDS
from ..core import masks, positions
from ..sparse import fixed_attention, strided_attention
from .cases import options

MOST_SCORES = 4e9                                                     # bytes; the reference holds about five arrays N x S


class Absent(Exception):
    """This rival is not here or cannot do this case; the text says why."""


def threads():
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def library(backend, case, a):
    """minattn's own forms, all through the front door."""
    told = {**options(case), "backend": backend}
    q, k, v = a["q"], a["k"], a["v"]

    def forward():
        return (attention(q, k, v, **told),)

    def forward_and_backward():
        out, lse = attention(q, k, v, return_lse=True, **told)
        grads = attention_backward(a["dout"], q, k, v, out=out, lse=lse, **told)
        return out, grads.dq, grads.dk, grads.dv

    return forward_and_backward if case.backward else forward


def reference(case, a):
    need = 5 * 4 * case.H * case.N * case.S
    if need > MOST_SCORES:
        raise Absent(f"not run: it would hold {need / 1e9:.0f} GB of scores")
    return library("numpy", case, a)


def tiled(case, a):
    BACKENDS.setdefault("tiled", "minattn.flash.online")                  # a form to be read, no backend to be chosen
    return library("tiled", case, a)


def kernel(case, a):
    return in_pattern(case, a) if case.pattern else masked(case, a)


def masked(case, a):
    return library("cpu", case, a)


def whole(case, a):
    return library("cpu", replace(case, pattern=None, causal=True), a)


def in_pattern(case, a, **more):
    """The pattern as parts of the kernel; `more` as `strided_attention` takes it."""
    function = {"strided": strided_attention, "fixed": fixed_attention}[case.pattern]
    return lambda: (function(a["q"], a["k"], a["v"], stride=case.stride, backend="cpu", **more),)


def attended(case):
    """How many pairs the kernel attends to: where all scores are 0, a query's log-sum-exp is the log of its keys."""
    nothing = np.zeros((1, 1, case.N, 1), np.float32)
    (_, lse), = in_pattern(case, dict.fromkeys("qkv", nothing), return_lse=True)()
    return int(np.exp(lse.astype(np.float64)).round().sum())


def load_torch():
    try:
        import torch
    except ImportError as error:
        raise Absent("PyTorch is not installed (pip install 'minattn[dev]')") from error
    torch.set_num_threads(threads())
    return torch


def sdpa(case, a):
    """Window: a boolean mask (N, S). ALiBi: a matrix (H, N, S) that is added to the scores, as its users do it."""
    torch = load_torch()
    product = torch.nn.functional.scaled_dot_product_attention
    q, k, v = (torch.from_numpy(a[name]) for name in "qkv")
    told = {"is_causal": case.causal, "enable_gqa": case.H != case.G}
    if (mask := options(case).get("mask")) is not None:
        told["attn_mask"] = torch.from_numpy(mask.dense(case.N, case.S))
    if case.alibi:
        bias = positions.alibi_bias(positions.alibi_slopes(case.H), np.arange(case.S - case.N, case.S), np.arange(case.S))
        bias = np.where(masks.causal().dense(case.N, case.S), bias, -np.inf).astype(np.float32)
        told.update(is_causal=False, attn_mask=torch.from_numpy(bias))

    def forward():
        with torch.inference_mode():
            return (product(q, k, v, **told),)

    def forward_and_backward():
        out = product(q, k, v, **told)
        return out.detach(), *torch.autograd.grad(out, (q, k, v), dout)

    if not case.backward:
        return forward
    dout = torch.from_numpy(a["dout"])
    for tensor in (q, k, v):
        tensor.requires_grad_()
    return forward_and_backward


def flex(case, a):
    torch = load_torch()
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v = (torch.from_numpy(a[name]) for name in "qkv")
    told = {"enable_gqa": case.H != case.G}
    window = case.window or case.S
    if case.causal or case.window:
        rule = (lambda b, h, i, j: (i >= j) & (i - j < window)) if case.window else (lambda b, h, i, j: i >= j)
        told["block_mask"] = create_block_mask(rule, None, None, case.N, case.S, device="cpu")
    if case.alibi:
        slopes = torch.from_numpy(np.asarray(positions.alibi_slopes(case.H), np.float32))
        told["score_mod"] = lambda score, b, h, i, j: score - slopes[h] * (i - j)
    compiled = torch.compile(flex_attention, dynamic=False)

    def forward():
        with torch.inference_mode():
            return (compiled(q, k, v, **told),)

    return forward


def sgemm(case, a):
    """A square product of as many FLOPs as the case has: 2 side^3."""
    side = round((case.flops / 2) ** (1 / 3))
    one, other = np.random.default_rng(0).standard_normal((2, side, side), dtype=np.float32)
    return lambda: (one @ other,)


def in_parts(function, *arrays):
    """`function` on an equal part of the arrays for each thread; NumPy lets go of Python's lock meanwhile."""
    parts = list(zip(*(np.array_split(array, threads()) for array in arrays), strict=True))
    pool = ThreadPoolExecutor(threads())
    return lambda: list(pool.map(lambda part: function(*part), parts))


def read(case, a):
    """Every byte of keys and values once, and next to nothing done with it."""
    return in_parts(lambda k, v: (k.max(), v.max()), *(a[name].reshape(-1).view(np.int64) for name in "kv"))


def copy(case, a):
    """Keys over values: as many bytes are read and written as the case has in all."""
    return in_parts(lambda k, v: np.copyto(v, k), a["k"].reshape(-1), a["v"].reshape(-1))


RIVALS = {"numpy": reference, "tiled": tiled, "cpu": kernel, "torch": sdpa, "flex": flex, "sgemm": sgemm, "read": read,
          "copy": copy, "masked": masked, "whole": whole}
LABELS = {"numpy": "naive NumPy", "tiled": "tiled NumPy", "cpu": "this kernel", "torch": "PyTorch", "flex": "FlexAttention",
          "sgemm": "NumPy sgemm", "read": "read stream", "copy": "copy", "masked": "as a mask", "whole": "full causal"}
OWN = ("cpu", "kernel")                                               # whose goals are judged
PLAIN = ("numpy", "tiled")                                            # nothing to compile: the first call is as good as any
UNCHECKED = ("sgemm", "read", "copy", "whole", "attention")           # they compute something else than the case
