"""Problems for the kernels, and what they are held to: the reference in float64, on a simulated GPU."""
import numpy as np

from minattn.core import masks, reference
from minattn.core.blocks import block_map
from minattn.core.inputs import prepare
from minattn.core.mask import Mask
from minattn.gpu.problem import problem
from minattn.gpu.simulator import simulate

EVERYTHING = Mask(lambda i, j: j >= 0)
CASES = {
    "full, ragged": {},
    "causal": {"causal": True},
    "causal, more queries than keys": {"causal": True, "N": 21, "S": 10},             # the first rows see nothing
    "window, first token": {"mask": masks.last(5) | masks.first(1), "causal": True},
    "heads of their own": {"mask": Mask(lambda b, h, i, j: (i + h) % 3 != j % 3)},
    "nothing": {"mask": masks.first(0)},
    "rows of unequal length": {"mask": masks.padding([13, 4]), "B": 2},
    "softcap and bias of heads": {"softcap": 2.0, "bias": (1, 4, 1, 19), "causal": True},
    "bias of rows": {"bias": (2, 1, 21, 1), "B": 2},
    "huge logits": {"scale": 1e3},
    "documents": {"mask": Mask(lambda i, j: (i > 6) == (j > 6)), "N": 19},
    "one query": {"N": 1, "causal": True},
    "one key": {"S": 1},
}


def drawn(case, D=8, block_q=8, block_k=4, seed=0, dims=(8, 16), kind="f32", N=21, S=19, heads=(4, 2, 2)):
    """(problem, inputs) of a case by its name, q, k and v with so many heads; those of 16 bits are numbers that these have."""
    options = dict(CASES[case])
    B, N, S = options.pop("B", 1), options.pop("N", N), options.pop("S", S)
    rng = np.random.default_rng(seed)
    shapes = [(B, count, length, D) for count, length in zip(heads, (N, S, S), strict=True)]
    q, k, v = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    bits = [q, k, v] if kind == "f32" else [as_bits(a, kind) for a in (q, k, v)]
    q, k, v = bits if kind == "f32" else (as_numbers(a, kind) for a in bits)
    if "bias" in options:
        options["bias"] = rng.standard_normal(options["bias"])
    x = prepare(q, k, v, **options)
    blocks = block_map(EVERYTHING if x.rule is None else x.rule, x.grid(), block_q, block_k)
    return problem(*bits, blocks, scale=x.scale, softcap=x.softcap, bias=x.bias, dims=dims, kind=kind), x


def as_bits(a, kind):
    """float32 numbers rounded to 16 bits, as uint16."""
    if kind == "f16":
        return a.astype(np.float16).view(np.uint16)
    bits = a.view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)


def as_numbers(bits, kind):
    return bits.view(np.float16).astype(np.float32) if kind == "f16" else (bits.astype(np.uint32) << 16).view(np.float32)


def expected(x):
    """(out, lse) of the reference in float64, of the same inputs."""
    out, _, lse = reference.forward(widened(x))
    return out, lse


def widened(x):
    """The same inputs in float64."""
    wide = {name: a.astype(np.float64) for name, a in zip("qkv", (x.q, x.k, x.v), strict=True)}
    return type(x)(**{**vars(x), **wide, "dtype": np.dtype(np.float64)})


def run(launches, order="ascending"):
    """Simulate launches one after the other; their reports."""
    return [simulate(launch.kernel, launch.grid, launch.block, *launch.arguments, order=order) for launch in launches]
