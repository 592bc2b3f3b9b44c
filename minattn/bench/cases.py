"""The problems that are measured, and what each of them costs.

    B = 1   H query heads   G KV heads   N queries   S keys   D head dim   w keys in a window   l stride, round(sqrt(N))

    pairs   (query, key) of one head that may attend: N S, under causal N S - N (N - 1) / 2, the last query at the last key;
            strided: the last l + 1 keys, and one in each of the i // l - 1 rows of l keys before the last; fixed: the own
            block so far, and one key of each of the i // l blocks before
    flops   forward 4 D pairs a head: two products, and a multiplication and an addition are two; backward 2.5 times that:
            five products (Dao 2023, arXiv:2307.08691, section 4.1)
    bytes   keys and values once, which is what a step of decoding must read
"""
import functools
import zlib
from dataclasses import dataclass, replace

import numpy as np

from ..core import masks, positions

GROUPS = ("forward", "backward", "decode", "window", "score_mod", "sparse", "sgemm")
EVERYONE = ("numpy", "tiled", "cpu", "torch")


@dataclass(frozen=True)
class Case:
    """One problem. `goals` says whom the rivals are held against, and how many times as fast this kernel has to be."""

    group: str
    N: int
    S: int
    D: int
    H: int = 8
    G: int = 8
    causal: bool = False
    window: int | None = None
    pattern: str | None = None                                        # "strided" or "fixed"
    alibi: bool = False
    backward: bool = False
    rivals: tuple = EVERYONE
    goals: tuple = (("torch", None),)
    threads: int | None = None                                        # None: as many as the run has
    left_out: tuple = ()                                              # (rival, why) of those that this run spares

    @property
    def name(self):
        kind = f"last({self.window})" if self.window else "causal" if self.causal else "full"
        kind = f"{self.pattern}({self.stride})" if self.pattern else kind
        heads = f"H {self.H}" if self.H == self.G else f"H {self.H} over {self.G}"
        lengths = f"N {self.N}" if self.N == self.S else f"N {self.N} S {self.S}"
        threads = f" {self.threads} thread" if self.threads else ""
        return f"{kind}{' ALiBi' * self.alibi} {heads} {lengths} D {self.D}{threads}"

    @property
    def stride(self):
        return round(self.S**0.5)

    @property
    def pairs(self):
        i = np.arange(self.S - self.N, self.S)                        # where the queries stand
        if self.window:
            return int(np.minimum(i + 1, self.window).sum())
        if self.pattern == "strided":
            return int((np.minimum(i, self.stride) + 1 + np.maximum(i // self.stride - 1, 0)).sum())
        if self.pattern == "fixed":
            return int((i % self.stride + 1 + i // self.stride).sum())
        return self.N * self.S - (self.N * (self.N - 1) // 2 if self.causal else 0)

    @property
    def flops(self):
        return 4 * self.D * self.pairs * self.H * 7 // 2 if self.backward else 4 * self.D * self.pairs * self.H

    @property
    def bytes(self):
        return 2 * 4 * self.G * self.S * self.D                       # float32

    @property
    def reads(self):
        """Bound by reading and not by arithmetic: its rate is counted in bytes."""
        return self.N == 1

    @property
    def work(self):
        return self.bytes if self.reads else self.flops


@functools.singledispatch
def inputs(case):
    """q, k, v and where there is a backward dout, (1, H or G, N or S, D) in float32; the same in every process."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    shapes = {"q": (case.H, case.N), "k": (case.G, case.S), "v": (case.G, case.S)}
    if case.backward:
        shapes["dout"] = shapes["q"]
    return {name: rng.standard_normal((1, *shape, case.D), dtype=np.float32) for name, shape in shapes.items()}


def options(case):
    """What `attention` is told about this case."""
    told = {"causal": case.causal}
    if case.window:
        told["mask"] = masks.last(case.window)
    if case.pattern:
        told["mask"] = {"strided": masks.strided, "fixed": masks.fixed}[case.pattern](case.stride)
    if case.alibi:
        slopes = positions.alibi_slopes(case.H)
        told["score_mod"] = lambda score, b, h, i, j: score - slopes[h] * (i - j)
    return told


def table(quick=False):
    """Every case of a run, in the order of the table."""
    sizes = [(512, 64), (1024, 64)] if quick else [(N, D) for N in (512, 1024, 4096) for D in (64, 128)]
    cases = [Case("forward", N, N, D, causal=causal, goals=(("torch", 1.2 if causal else 0.95),))
             for causal in (False, True) for N, D in sizes]
    cases += [Case("backward", N, N, 64, causal=causal, backward=True, goals=(("torch", 1.4 if causal else 1.0),))
              for causal in (False, True) for N in ((1024,) if quick else (1024, 2048))]
    readers = (*EVERYONE, "read")
    cases += [Case("decode", 1, 4096, 128, H=32, G=8, rivals=readers, goals=(("torch", 3.0), ("read", 0.6))),
              Case("decode", 1, 2048, 64, H=9, G=3, rivals=readers, goals=(("torch", 2.0), ("read", None)))]
    spared = (("flex", "not run with --quick: it compiles for half a minute"),) if quick else ()
    N = 2048 if quick else 8192
    cases.append(Case("window", N, N, 64, window=256, rivals=(*EVERYONE, "flex"),
                      goals=(("torch", None if quick else 10.0), ("flex", None)), left_out=spared))
    N = 512 if quick else 2048
    cases.append(Case("score_mod", N, N, 64, causal=True, alibi=True, rivals=(*EVERYONE, "flex"),
                      goals=(("flex", None), ("torch", None)), left_out=spared))
    N = 4096 if quick else 16384
    cases += [Case("sparse", N, N, 64, H=1, G=1, pattern=pattern, rivals=("cpu", "masked", "whole"),
                   goals=(("whole", None if quick else 8.0),)) for pattern in ("strided", "fixed")]
    N = 1024 if quick else 4096
    cases.append(Case("sgemm", N, N, 128, H=2, G=2, rivals=("cpu", "sgemm"), threads=1,
                      goals=(("sgemm", None if quick else 0.8),)))
    return cases


def ceilings(quick=False):
    """What the machine does at most: a large matrix product, and a stream and a copy larger than its caches."""
    N = 2048 if quick else 4096
    stream = Case("ceiling", 1, 2**18 if quick else 2**20, 64, H=1, G=1, rivals=("read", "copy"), goals=())
    return [Case("ceiling", N, N, 128, H=8, G=8, rivals=("sgemm",), goals=()), stream]


def first_calls():
    """Small problems, one for each kernel whose first call has to compile it."""
    small = Case("first", 65, 65, 64, causal=True, rivals=("cpu",), goals=())
    return {"forward": small, "backward": replace(small, backward=True), "decode": replace(small, N=1, causal=False),
            "score_mod": replace(small, alibi=True)}
