"""What the compiler makes of every kernel, as a table. No GPU is needed.

    python -m minattn.gpu.table        compiles the kernels of RUNGS for sm_90 and writes ladder.md beside this file
"""
import math
import multiprocessing
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..core.blocks import block_map
from ..core.inputs import prepare
from .bound import HMMA_PRODUCTS, WARP, bound
from .kernels import backward, block, decode, naive, recurrence, registers, rows, tensor
from .machine import machine, run
from .problem import problem

FILE = Path(__file__).with_name("ladder.md")


class Rung(NamedTuple):
    """The kernels of a module as they are compiled here."""

    launches: Callable                                                # of a Problem
    tiles: dict                                                       # {D: (block_q, block_k)}
    dims: tuple                                                       # those D that are in the table
    kinds: tuple = ("f32",)                                           # of numbers; the first is in the table
    product: str = ""                                                 # the opcode that multiplies; none, no bound is counted
    chunk: int = 1024                                                 # dims that one trip of a loop around a product takes
    passes: dict | None = None                                        # {kernel: (products of two tiles, loops around theirs)}
    needed: dict | None = None                                        # {kernel: what a warp issues for a product}; none: of tiles


def gradients(problem):
    """The two kernels of the backward that multiply; dbias only where there is a bias."""
    return backward.launches(problem, problem.given.q, problem.options["biased"])[0][1:]


def delta(problem):
    return backward.launches(problem, problem.given.q)[0][:1]


def in_pages(problem):
    """The splits of decoding from pages of 16 keys."""
    store = np.zeros((4, problem.given.G, 16, problem.D), problem.given.k.dtype)
    return decode.launches_paged(problem, store, store, np.zeros((1, 16), np.int32), np.zeros(1, np.int32))[:1]


def linear(problem):
    """The recurrence with erase, with a decay of each channel; where there is a bias, with neither."""
    D, plain = problem.D, problem.options["biased"]
    k, state, decay = np.zeros((2, 64, D)), np.zeros((2, D, D)), np.zeros((2, 64, 1 if plain else D))
    return recurrence.launches(np.zeros((2, 2, 64, D)), k, k, decay, state, None if plain else (k, k))[0]


TURN, IN_TILE = {"decode": decode.products(2)}, {"decode": (2, 1)}    # of `example`: 2 rows
RUNGS = {
    "1 naive": Rung(naive.launches, naive.TILES, (64,)),
    "2 rows": Rung(rows.launches, rows.TILES, (64, 128)),
    "3 block": Rung(block.launches, block.TILES, (64, 128)),
    "4 registers": Rung(registers.launches, registers.TILES, (32, 64, 128), product="FFMA", chunk=registers.CHUNK),
    "5 tensor": Rung(tensor.launches, tensor.TILES, (32, 64, 128), kinds=("bf16", "f16"), product="HMMA"),
    "backward": Rung(gradients, registers.TILES, (32, 64, 128), product="FFMA", chunk=backward.CHUNK,
                     passes={"keys": (4, 1), "queries": (3, 0)}),
    "delta": Rung(delta, registers.TILES, (64,)),
    "decode": Rung(decode.launches, decode.TILES, (64,), kinds=("f32", "bf16"), product="FFMA", passes=IN_TILE, needed=TURN),
    "decode, pages": Rung(in_pages, decode.TILES, (64,), product="FFMA", passes=IN_TILE, needed=TURN),
    "recurrence": Rung(linear, recurrence.TILES, (32, 64, 128)),
}  # fmt: skip
SLOW = "backward", "recurrence", "4 registers"                        # to compile: these begin first
INTEGER = "IADD3", "IMAD", "ISETP", "LEA", "LOP3", "SHF", "VIADD", "UIADD3", "UIMAD", "UISETP", "ULEA", "ULOP3", "USHF"

ABOVE = """# What the compiler made of the kernels

Written by `python -m minattn.gpu.table`; every number is the compiler's, or counted in the machine code that it made.
**Nothing here was run on a GPU, and no number here is a speed that was measured.** The last column is a bound: a warp scheduler
starts one instruction a cycle, so a kernel whose warps issue `a pass` instructions for a tile of queries and a tile of keys
makes at most so many TFLOP/s on an H100 (SXM: 132 processors, 4 schedulers each, 1.98 GHz). Memory, latency and the speed of
the units that multiply are left out. [bound.py](bound.py) says how a pass is found; kernels 1 to 3 and the recurrence have no
register tile to find one by. A pass of the backward makes four products for dK and dV (keys), three for dQ (queries); one of
decoding is a warp's turn, 8 keys before the two rows of a group. Decoding waits for memory: at 3.35 TB/s an H100 reads 6.5
billion keys and values of 512 bytes in a second, and a pass of n instructions lets it compute 8400 / n billion.

Causal attention without bias or softcap, for sm_90; the recurrence with erase and a decay of each channel. Registers are
those of a thread, of which there are 255; shared memory is that of a block, in KB; spills are bytes a thread. The opcodes are
those that stand in the code, each once however often it runs: LDS and LDSM read shared memory, 128 says how many of them 16
bytes a thread, LDG and LDGSTS read global memory, `integer` computes where things are.

"""
HEADER = ("kernel", "D", "tile", "threads", "registers", "shared", "spills", "code", "FFMA", "HMMA", "LDS", "128", "LDG",
          "integer", "float64", "a pass", "TFLOP/s at most")  # fmt: skip


def example(rung, D, kind, *, softcap=None, bias=None, queries=1):
    """A `Problem` for a rung, of zeros: what is compiled depends on its types, options and tile sizes."""
    q, k, v = (np.zeros((1, heads, length, D), np.float32) for heads, length in [(4, queries), (2, 256), (2, 256)])
    x = prepare(q, k, v, causal=True, softcap=softcap, bias=bias)
    blocks = block_map(x.rule, x.grid(), *rung.tiles[D])
    q, k, v = (a.astype(np.float32 if kind == "f32" else np.uint16) for a in (q, k, v))
    return problem(q, k, v, blocks, scale=x.scale, softcap=x.softcap, bias=x.bias, kind=kind)


MACHINES: dict = {}                                                   # {arguments of `compiled`: [Machine]}


def compiled(*build):
    """[(Launch, Machine)] of a rung: its name, D, "sm_90" or another architecture, the kind of numbers, full or not."""
    if build not in MACHINES:
        MACHINES[build] = machines(build)
    return list(zip(launches_of(*build), MACHINES[build], strict=True))


def launches_of(name, D, arch="sm_90", kind=None, full=False):
    """The launches of a rung; a full one with softcap and bias."""
    rung = RUNGS[name]
    options = {"softcap": 30.0, "bias": np.zeros((1, 4, 1, 256))} if full else {}
    return rung.launches(example(rung, D, kind or rung.kinds[0], **options))


def machines(build):
    return [machine(launch, *build[2:3]) for launch in launches_of(*build)]


def compile_all(builds):
    """Have `compiled` ready for many: on every core, since compiling takes seconds a kernel and one core."""
    missing = sorted((build for build in builds if build not in MACHINES), key=lambda build: build[0] not in SLOW)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        MACHINES.update(zip(missing, pool.map(machines, missing), strict=True))


def issue_bound(name, D, launch, made):
    """The `Bound` of a kernel, None for a rung that has none."""
    rung = RUNGS[name]
    if not rung.product:
        return None
    warps, width = math.prod(launch.block) // WARP, HMMA_PRODUCTS if rung.product == "HMMA" else WARP
    needed = math.prod(rung.tiles[D]) * D // (warps * width)
    if rung.needed is not None:
        if launch.kernel.__name__ not in rung.needed:
            return None
        needed = rung.needed[launch.kernel.__name__]
    products, around = (rung.passes or {}).get(launch.kernel.__name__, (2, 0))
    return bound(made.text, rung.product, needed, products=products, outer=max(1, D // rung.chunk), around=around)


def float64(made):
    """How many instructions of the code compute in float64, or convert to or from it."""
    begin = "DADD", "DFMA", "DMNMX", "DMUL", "DSETP"
    return sum(n for opcode, n in made.opcodes.items() if opcode.startswith(begin) or ".F64" in opcode or "64H" in opcode)


def row(name, D, launch, made):
    """One kernel, as the cells of the table."""
    most = issue_bound(name, D, launch, made)
    loads = {opcode: n for opcode, n in made.opcodes.items() if opcode.split(".")[0] in ("LDS", "LDSM")}
    wide = sum(n for opcode, n in loads.items() if opcode.startswith("LDSM") or opcode.endswith(".128"))
    cells = [
        name if len(compiled(name, D)) == 1 else f"{name}, {launch.kernel.__name__}", D,
        " x ".join(map(str, RUNGS[name].tiles[D])), math.prod(launch.block),
        made.registers, f"{made.shared / 1024:.1f}", made.spills, sum(made.opcodes.values()),
        made.count("FFMA"), made.count("HMMA"), sum(loads.values()), wide, made.count("LDG") + made.count("LDGSTS"),
        sum(map(made.count, INTEGER)), float64(made), *((most.instructions, f"{most.tflops:.0f}") if most else ("", "")),
    ]  # fmt: skip
    return [str(cell) for cell in cells]


def tools():
    """What compiled: a sentence that names each tool and its version."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm"))
    said = {tool: run(tool, "--version").split("release ")[1].split(",")[1].split()[0] for tool in ("ptxas", "nvdisasm")}
    return f"Made with Python {'.'.join(platform.python_version_tuple()[:2])}, {packages}, " + ", ".join(
        f"{tool} {number}" for tool, number in said.items()) + "."  # fmt: skip


def text():
    """The whole of ladder.md."""
    compile_all([(name, D) for name, rung in RUNGS.items() for D in rung.dims])
    lines = [list(HEADER), ["---", *["---:"] * (len(HEADER) - 1)]]
    lines += [row(name, D, *pair) for name, rung in RUNGS.items() for D in rung.dims for pair in compiled(name, D)]
    return ABOVE + "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{tools()}\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(FILE.read_text(encoding="utf-8"))
