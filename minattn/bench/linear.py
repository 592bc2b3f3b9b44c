"""The linear family: time against length and against full attention, and decoding from a state that never grows.

    kernel     the compiled recurrence                                transformers   Hugging Face's chunked gated delta rule
    step       the recurrent form in NumPy, token by token            attention      the compiled kernel of full causal
    chunks     the chunked form in NumPy                                             attention, on the same q, k, v

    forms      the kernel beside the NumPy forms, and for the gated delta rule beside transformers
    crossing   linear attention, feature map and normaliser included, beside full attention at growing N
    slopes     time against N; and a token of decoding after 1024 and after 65,536 others, which is one point for each
    flops      of the recurrent form: 2 D Dv a token for each query head that reads, for the write, and twice for an erase
"""
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..attention import attention
from ..linear.delta import delta_rule
from ..linear.gated import gated_linear_attention
from ..linear.linear_attention import linear_attention
from . import cases, check, scaling
from .cases import Case
from .rivals import LABELS, RIVALS, Absent, load_torch

MECHANISMS: dict[str, Callable] = {
    "linear attention": linear_attention, "gated linear": gated_linear_attention, "gated delta rule": delta_rule,
}  # fmt: skip
PART = 4096                                                           # tokens of the past that are drawn and read at once


@dataclass(frozen=True)
class Linear(Case):
    """One problem of a mechanism, N tokens after `past` others; the kernel is held to the goals."""

    mechanism: str = "gated delta rule"
    past: int = 0

    @property
    def name(self):
        after = f" after {self.past}" if self.past else ""
        return f"{self.mechanism} H {self.H} N {self.N} D {self.D}{after}"

    @property
    def flops(self):
        times = 4 if self.mechanism == "gated delta rule" else 2
        return 2 * self.D * (self.D + (self.mechanism == "linear attention")) * times * self.H * self.N

    @property
    def reads(self):
        return False


def problem(N, mechanism, **options):
    return Linear(options.pop("group", "slopes"), N, N, 64, causal=True, mechanism=mechanism, **options)


def draw(mechanism, N, H, D, seed):
    """The arguments of a mechanism for N tokens: keys of length 1, gates that keep most."""
    rng = np.random.default_rng(seed)
    q, k, v = rng.standard_normal((3, 1, H, N, D), dtype=np.float32)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    given = {"q": q, "k": k, "v": v}
    if mechanism != "linear attention":
        given["log_decay"] = -rng.exponential(0.1, k.shape if mechanism == "gated linear" else k.shape[:-1])
    if mechanism == "gated delta rule":
        given["beta"] = rng.uniform(0, 1, k.shape[:-1])
    return {name: a.astype(np.float32) for name, a in given.items()}


@cases.inputs.register
def inputs(case: Linear):
    return draw(case.mechanism, case.N, case.H, case.D, zlib.crc32(case.name.encode()))


def remembered(case, dtype, backend):
    """The state after the tokens of the past."""
    state = None
    for start in range(0, case.past, PART):
        some = draw(case.mechanism, min(PART, case.past - start), case.H, case.D, start)
        some = {name: a.astype(dtype) for name, a in some.items()}
        _, state = MECHANISMS[case.mechanism](**some, state=state, return_state=True, backend=backend)
    return state


@check.expected.register
def expected(case: Linear):
    wide = {name: a.astype(np.float64) for name, a in inputs(case).items()}
    out = MECHANISMS[case.mechanism](**wide, state=remembered(case, np.float64, "numpy"))
    return check.sample(case, (out,))


def form(name, backend):
    """A rival: one form on one backend. Where there is a past, the state is handed on from call to call, as in decoding."""

    def prepare(case, a):
        mechanism, told = MECHANISMS[case.mechanism], {"form": name, "backend": backend}
        if not case.past:
            return lambda: (mechanism(**a, **told),)
        state = remembered(case, np.float32, backend)

        def step():
            nonlocal state
            out, state = mechanism(**a, **told, state=state, return_state=True)
            return (out,)

        return step

    return prepare


def full(case, a):
    return lambda: (attention(a["q"], a["k"], a["v"], causal=True, backend="cpu"),)


def transformers(case, a):
    """Their function wants (B, N, H, D), and divides queries by sqrt(D) itself."""
    torch = load_torch()
    try:
        from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule
    except ImportError as error:
        raise Absent("transformers is not installed (pip install 'minattn[dev]')") from error
    q, k, v = (torch.from_numpy(np.ascontiguousarray(a[name].swapaxes(1, 2))) for name in "qkv")
    g, beta = (torch.from_numpy(np.ascontiguousarray(a[name].swapaxes(1, 2))) for name in ("log_decay", "beta"))

    def call():
        with torch.inference_mode():
            out, _ = torch_chunk_gated_delta_rule(q * case.D**0.5, k, v, g=g, beta=beta)
            return (out.transpose(1, 2),)

    return call


OWN, DECODING = "kernel", "token"
# lengths for the slope, and lengths of the past before the token that is decoded, of a quick run and of a whole one
SIZES = {True: ([1024, 2048, 4096], [256, 4096]), False: ([2048, 4096, 8192, 16384, 32768, 65536], [1024, 65536])}
RIVALS |= {OWN: form("chunked", "cpu"), "step": form("recurrent", "numpy"), "chunks": form("chunked", "numpy"),
           DECODING: form("recurrent", "cpu"), "attention": full, "transformers": transformers}
LABELS |= {OWN: "this kernel", "step": "NumPy step", "chunks": "NumPy chunks", DECODING: "this kernel", "attention": "attention",
           "transformers": "transformers"}


def table(quick=False):
    """The rows: each mechanism in all forms, and linear attention against full attention at growing N."""
    N = 1024 if quick else 4096
    rows = []
    for name in MECHANISMS:
        others = ("transformers",) if name == "gated delta rule" else ()
        goals = ("step", 5.0), ("chunks", None), *((other, None) for other in others)
        rows.append(problem(N, name, group="forms", rivals=(OWN, "step", "chunks", *others), goals=goals))
    sizes = [1024, 2048] if quick else [1024, 2048, 4096, 8192, 16384]
    return rows + [problem(N, "linear attention", group="crossing", H=4, G=4, rivals=(OWN, "attention"),
                           goals=(("attention", 1.0 if N >= 4096 else None),)) for N in sizes]


def slopes(bench, quick, budget, progress):
    """Time against N, and a token of decoding against what came before it: as `scaling.times` gives them."""
    (sizes, past), found = SIZES[quick], []
    for name in MECHANISMS:
        progress(f"slope: {name}")
        one = scaling.times(bench, OWN, sizes, budget, lambda N, name=name: problem(N, name, H=1, G=1))
        found.append({"series": name, **one})
    progress("decoding")
    for name in MECHANISMS:
        one = scaling.times(bench, DECODING, past, budget, lambda past, name=name: problem(1, name, past=past))
        found.append({"series": f"{name}, a token after N", **one})
    return found
