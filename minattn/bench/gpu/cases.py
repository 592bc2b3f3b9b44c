"""The problems that are timed on a GPU, and what each of them costs.

    B rows   H query heads   G KV heads   N queries   S keys   D head dim   kind   "f32", "f16", "bf16"

    forward     B N = 16,384 tokens and H D = 2048, the sizes of FlashAttention-2 (Dao 2023, arXiv:2307.08691, section 4.1)
    ladder      kernels 1 to 4 on one problem
    backward    alone: out and log-sum-exp are there; five products, 2.5 times the forward's
    decode      one query, every key and value read once: its rate is counted in bytes
    recurrence  the gated delta rule; 2 D D for what is read and for what is written, twice that for what is erased

All numbers are drawn once for each size, so that the cases of 16,384 tokens share theirs.
"""
import functools
import math
from dataclasses import dataclass

import numpy as np

from ...attention import attention, attention_backward
from ...linear.inputs import prepare
from ...linear.recurrence import recurrent
from .. import check
from ..cases import Case
from .problems import as_bits, as_numbers

TOKENS, WIDTH = 16384, 2048
SIZES = {"f32": 4, "f16": 2, "bf16": 2}                               # bytes a number
TORCH = ("math", "efficient", "flash", "cudnn")
OWN = ("naive", "rows", "block", "registers", "tensor", "careful", "backward", "decode", "recurrence")


@dataclass(frozen=True)
class GpuCase(Case):
    """One problem; `rivals` are names in rivals.RIVALS, the kernel first."""

    B: int = 1
    kind: str = "f32"

    @property
    def name(self):
        if self.group == "recurrence":
            return f"B {self.B} H {self.H} N {self.N} D {self.D}"
        heads = f"H {self.H}" if self.H == self.G else f"H {self.H} over {self.G}"
        lengths = f"N {self.N}" if self.N == self.S else f"N {self.N} S {self.S}"
        return f"{'causal' if self.causal else 'full'} B {self.B} {heads} {lengths} D {self.D} {self.kind}"

    @property
    def flops(self):
        if self.group == "recurrence":
            return 2 * self.D**2 * 4 * self.B * self.H * self.N
        forward = 4 * self.D * self.pairs * self.H * self.B
        return forward * 5 // 2 if self.backward else forward

    @property
    def bytes(self):
        return 2 * SIZES[self.kind] * self.B * self.G * self.S * self.D

    @property
    def shapes(self):
        """{name: (B, H or G, N or S, D)} of what a call is given."""
        queries, keys = (self.B, self.H, self.N, self.D), (self.B, self.G, self.S, self.D)
        shapes = {"q": queries, "k": keys, "v": keys}
        if self.group == "recurrence":
            return {**shapes, "b": keys, "rate": (*keys[:3], 1), "log_decay": (*keys[:3], 1)}
        return {**shapes, "dout": queries} if self.backward else shapes

    @property
    def ends(self):
        """The heads that are looked at, (row, head): the first and the last."""
        return [(0, 0), (self.B - 1, self.H - 1)]


def against(*kernels, rivals=TORCH):
    """Every rival is held against every other, so that all take part in every round."""
    everyone = (*kernels, *rivals)
    return {"rivals": everyone, "goals": tuple((name, None) for name in everyone)}


def forward(group, kernel, N, D, causal, kind):
    B, H = TOKENS // N, WIDTH // D
    kernels = (kernel, "careful") if kernel == "tensor" and causal else (kernel,)
    return GpuCase(group, N, N, D, H, H, causal=causal, B=B, kind=kind, **against(*kernels))


def table(quick=False):
    """Every case, in the order of the report: the ones that matter most come first, in case time runs out."""
    lengths = (1024, 4096) if quick else (512, 1024, 4096, 16384)
    both = [(N, D, causal) for N in lengths for D in (64, 128) for causal in (False, True)]
    cases = [forward("float32", "registers", N, D, causal, "f32") for N, D, causal in both]
    cases += [forward("bfloat16", "tensor", N, D, causal, "bf16") for N, D, causal in both]
    cases += [forward("float16", "tensor", 4096, D, causal, "f16") for D in (64, 128) for causal in (False, True)]
    cases += [GpuCase("backward", N, N, D, WIDTH // D, WIDTH // D, causal=causal, backward=True, B=TOKENS // N,
                      **against("backward", rivals=TORCH[:2]))
              for N in ((1024,) if quick else (1024, 4096)) for D in (64, 128) for causal in (False, True)]
    reading = [(1, 32, 8, 4096, 128), (1, 32, 8, 32768, 128), (16, 32, 8, 4096, 128), (1, 9, 3, 2048, 64)]
    cases += [GpuCase("decode", 1, S, D, H, G, B=B, **against("decode", rivals=TORCH[:2]))
              for B, H, G, S, D in (reading[:1] if quick else reading)]
    cases += [GpuCase("recurrence", N, N, D, H, H, B=B, **against("recurrence", rivals=()))
              for B, H, N, D in ([(4, 16, 4096, 64)] if quick else [(4, 16, 4096, 64), (1, 16, 4096, 64), (4, 8, 4096, 128)])]
    cases.append(GpuCase("ladder", 1024, 1024, 64, 32, 32, causal=True, B=2,
                         **against("naive", "rows", "block", "registers", rivals=())))
    return cases


@functools.cache
def drawn(name, size, kind):
    """The numbers of an array, flat, in the bits of their kind: the same for every case of so many."""
    numbers = np.random.default_rng(list(name.encode())).standard_normal(size, dtype=np.float32)
    return as_bits(numbers, kind)


def flat(case, name):
    """An array of a case as its kernel takes it. A recurrence gets keys of length 1, rates in (0, 1), gates that keep most."""
    size = math.prod(case.shapes[name])
    numbers = drawn(name, size, case.kind)
    if case.group != "recurrence" or name in "qv":
        return numbers
    if name in ("k", "b"):
        rows = numbers.reshape(-1, case.D)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).ravel()
    return 1 / (1 + np.exp(numbers)) if name == "rate" else np.float32(-0.1) * np.abs(numbers)


def head(case, name, b, h):
    """An array of one head in float64, (N or S, D); of a query head's KV head, for k and v."""
    shape = case.shapes[name]
    here = flat(case, name).reshape(shape)[b, h // (case.H // shape[1])]
    return as_numbers(np.ascontiguousarray(here), case.kind).astype(np.float64)


def rows(case):
    """The queries that are looked at: of gradients and of the recurrence all."""
    return np.arange(case.N) if case.backward or case.group == "recurrence" else check.chosen(case)[0]


@check.expected.register
def expected(case: GpuCase):
    """What a rival should give for the rows and heads that are looked at."""
    wanted = []
    for row, h in case.ends:
        a = {name: head(case, name, row, h) for name in case.shapes}
        q, k, v = (a[name] for name in "qkv")
        if case.group == "recurrence":
            b = a["b"][None]
            given = prepare(q[None], k[None], v[None], log_decay=a["log_decay"][None], erase=(-a["rate"] * b, b))
            out, _ = recurrent(given)
            wanted.append(out.reshape(case.N, case.D))
        elif case.backward:
            wanted += attention_backward(a["dout"], q, k, v, causal=case.causal, backend="numpy")[:3]
        else:
            n = rows(case)
            here = {"q_pos": case.S - case.N + n, "k_pos": np.arange(case.S)}
            wanted.append(attention(q[n], k, v, causal=case.causal, backend="numpy", **here))
    return wanted
