"""Problems for the kernels of minattn/gpu, and what their answers are held to: the reference in float64.

    N queries   S keys   B rows   H query heads   G KV heads   D head dim       kind   "f32", "f16" or "bf16": of q, k, v and out

Lengths are odd and unequal, and no two numbers are equal, so that a row, a head or a tile in the wrong place is seen. A problem
of 16 bits is drawn in numbers that 16 bits have, so its reference is that of the very same numbers.
"""
from dataclasses import replace
from typing import Any

import numpy as np

from ...core import masks, reference
from ...core.blocks import block_map
from ...core.inputs import prepare
from ...core.mask import Mask
from ...gpu.kernels import block, naive, registers, rows, tensor
from ...gpu.problem import problem
from ...linear.inputs import prepare as prepare_recurrence
from ...linear.recurrence import recurrent

LADDER = {"naive": naive, "rows": rows, "block": block, "registers": registers, "tensor": tensor}
EVERYTHING = Mask(lambda i, j: j >= 0)
# options of attention, and sizes that differ from those asked for; a bias has the axes that are named, the others are 1
CASES: dict[str, dict[str, Any]] = {
    "full, ragged": {},
    "causal": {"causal": True},
    "causal, more queries than keys": {"causal": True, "N": 21, "S": 10},             # the first rows see nothing
    "window, first token": {"mask": masks.last(5) | masks.first(1), "causal": True},
    "heads of their own": {"mask": Mask(lambda b, h, i, j: (i + h) % 3 != j % 3)},
    "nothing": {"mask": masks.first(0)},
    "rows of unequal length": {"mask": masks.padding([13, 4]), "B": 2},
    "softcap and bias of heads": {"softcap": 2.0, "bias": "hs", "causal": True},
    "bias of rows": {"bias": "bn", "B": 2},
    "huge logits": {"scale": 1e3},
    "documents": {"mask": Mask(lambda i, j: (i > 6) == (j > 6)), "N": 19, "S": 19},
    "one query": {"N": 1, "causal": True},
    "one key": {"S": 1},
}


def drawn(case, D=8, block_q=8, block_k=4, seed=0, dims=(8, 16), kind="f32", N=21, S=19, heads=(4, 2, 2)):
    """(problem, inputs) of a case by its name; q, k and v have so many heads."""
    options = dict(CASES[case])
    B, N, S = options.pop("B", 1), options.pop("N", N), options.pop("S", S)
    rng = np.random.default_rng(seed)
    shapes = [(B, count, length, D) for count, length in zip(heads, (N, S, S), strict=True)]
    q, k, v = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    q, k, v = (as_bits(a, kind) for a in (q, k, v))
    if "bias" in options:
        sizes = dict(zip("bhns", (B, heads[0], N, S), strict=True))
        options["bias"] = rng.standard_normal([size if axis in options["bias"] else 1 for axis, size in sizes.items()])
    x = prepare(*(as_numbers(a, kind) for a in (q, k, v)), **options)
    blocks = block_map(EVERYTHING if x.rule is None else x.rule, x.grid(), block_q, block_k)
    return problem(q, k, v, blocks, scale=x.scale, softcap=x.softcap, bias=x.bias, dims=dims, kind=kind), x


def as_bits(a, kind):
    """float32 numbers as a kernel takes them: as they are, or rounded to 16 bits, to nearest and to even, as uint16."""
    if kind != "bf16":
        return a if kind == "f32" else a.astype(np.float16).view(np.uint16)
    bits = a.view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)


def as_numbers(bits, kind):
    """The same numbers in float32."""
    if kind != "bf16":
        return bits if kind == "f32" else bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def widened(x):
    """The same inputs in float64."""
    wide = {name: a.astype(np.float64) for name, a in zip("qkv", (x.q, x.k, x.v), strict=True)}
    return replace(x, **wide, dtype=np.dtype(np.float64))


def expected(x):
    """(out, lse) of the reference."""
    out, _, lse = reference.forward(widened(x))
    return out, lse


def before_backward(problem, x, seed=1):
    """dO, laid out as `backward.launches` takes it, with out and lse put into the problem; and (dq, dk, dv, dbias)."""
    out, lse = expected(x)
    dout = np.random.default_rng(seed).standard_normal(out.shape).astype(np.float32)
    problem.given.out.reshape(*out.shape[:3], -1)[..., : out.shape[3]] = out
    problem.given.lse[:] = lse.ravel()
    padded = np.zeros((*out.shape[:3], problem.D), np.float32)
    padded[..., : out.shape[3]] = dout
    return padded.ravel(), reference.backward(widened(x), dout.astype(np.float64))[:4]


# options of the recurrence: axes of the log decay after (P, N), and whether something is erased
RECURRENCES: dict[str, dict[str, Any]] = {
    "no decay": {},
    "scalar decay": {"decay": 1},
    "decay of channels": {"decay": 2},
    "erase": {"erase": True},
    "erase and scalar decay": {"erase": True, "decay": 1},
    "erase and decay of channels": {"erase": True, "decay": 2, "heads": 2},
    "two heads a state": {"decay": 2, "heads": 4},
    "normaliser": {"decay": 1, "normalize": True},
    "one token": {"decay": 2, "erase": True, "N": 1},
    "steep": {"decay": 2, "erase": True, "steep": 50},
    "columns that do not fill a block": {"decay": 1, "erase": True, "Dv": 11},
}


def drawn_recurrence(case, D=16, N=19, seed=0, dtype=np.float32):
    """`linear.inputs.Inputs` of a case by its name, with two KV heads."""
    options = {"heads": 2, "Dv": 8, "steep": 1, "normalize": False, "erase": False, "decay": 0, "N": N, **RECURRENCES[case]}
    H, N, Dv, decay = options["heads"], options["N"], options["Dv"], options["decay"]
    rng = np.random.default_rng(seed)
    q, k, b = (rng.standard_normal((heads, N, D)).astype(np.float32) for heads in (H, 2, 2))
    b /= np.linalg.norm(b, axis=-1, keepdims=True)
    k = np.abs(k) if options["normalize"] else b
    g = -options["steep"] * rng.exponential(0.3, (2, N, D if decay > 1 else 1)).astype(np.float32)
    if options["steep"] > 1:
        g[:, 7::5, ::3] = -np.inf
    values = rng.standard_normal((2, N, Dv)).astype(np.float32)
    state = rng.standard_normal((2, D, Dv + options["normalize"])).astype(np.float32)
    parts = [np.abs(q) if options["normalize"] else q, k, values]
    rate = rng.uniform(0, 1, (2, N, 1)).astype(np.float32)
    erase = (-rate * b, b) if options["erase"] else None
    wide = [a.astype(dtype) for a in parts]
    return prepare_recurrence(*wide, log_decay=g.astype(dtype) if decay else None, state=state.astype(dtype),
                              erase=tuple(a.astype(dtype) for a in erase) if erase else None,
                              normalize=options["normalize"])  # fmt: skip


def expected_recurrence(case, **sizes):
    """(out, last state), token by token in float64."""
    return recurrent(drawn_recurrence(case, dtype=np.float64, **sizes))
