"""What the compiler made of a kernel: registers, spills, and its machine code loop by loop. No GPU is needed.

`ptxas` turns PTX into machine code and reports registers, shared memory and spills; `nvdisasm` writes the code out. Its labels
and backward branches are the loops: each is a stretch of code, and what is inside of it belongs to the innermost one.
"""
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ..core.errors import DependencyError
from .device import compile_ptx

CODE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")
LABEL = re.compile(r"^(\.L_x_\d+):")


class Line(NamedTuple):
    """An instruction where it stands."""

    place: int
    opcode: str
    guarded: bool                                                     # it acts, or jumps, in some threads only
    target: int | None                                                # the place that a branch or call names


class Loop(NamedTuple):
    """A loop: its opcodes, those of the loops inside of it left out."""

    start: int
    stop: int
    opcodes: Counter
    depth: int

    @property
    def size(self):
        return sum(self.opcodes.values())

    def count(self, name):
        """How many opcodes there are that begin with `name`: "LDS" counts LDS and LDS.128."""
        return sum(n for opcode, n in self.opcodes.items() if opcode == name or opcode.startswith(name + "."))


class Machine(NamedTuple):
    """A kernel as machine code."""

    registers: int
    shared: int                                                       # bytes a block
    stack: int                                                        # bytes a thread, in local memory
    spills: int                                                       # bytes a thread, stores and loads
    opcodes: Counter
    loops: tuple
    text: str

    def count(self, name):
        return sum(n for opcode, n in self.opcodes.items() if opcode == name or opcode.startswith(name + "."))


def machine(launch, arch="sm_90", *, fastmath=True):
    """The kernel of a `Launch` compiled for `arch`.

    Raises
    ------
    DependencyError
        If ptxas or nvdisasm is not installed.
    """
    cc = divmod(int(arch.removeprefix("sm_")), 10)
    ptx = compile_ptx(launch, cc, fastmath=fastmath)
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx.text)
        said = run("ptxas", "-v", f"-arch={arch}", source, "-o", made)
        text = run("nvdisasm", "-c", made)
    opcodes, loops = read(text)
    return Machine(
        registers=number(r"Used (\d+) registers", said), shared=number(r"(\d+) bytes smem", said),
        stack=number(r"(\d+) bytes stack frame", said),
        spills=number(r"(\d+) bytes spill stores", said) + number(r"(\d+) bytes spill loads", said),
        opcodes=opcodes, loops=loops, text=text,
    )  # fmt: skip


def find(tool):
    """Where one of NVIDIA's tools is.

    Raises
    ------
    DependencyError
        If it is not installed.
    """
    try:
        from cuda.pathfinder import find_nvidia_binary_utility
    except ImportError as error:
        raise DependencyError("machine code needs numba-cuda: pip install 'minattn[cuda-check]'") from error
    path = find_nvidia_binary_utility(tool)
    if path is None:
        raise DependencyError(f"{tool} is not installed: pip install 'minattn[cuda-check]'")
    return path


def run(tool, *arguments):
    """What one of NVIDIA's tools says, on both channels."""
    done = subprocess.run([find(tool), *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{tool} failed: {done.stderr or done.stdout}")
    return done.stdout + done.stderr


def number(pattern, text):
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def lines(text):
    """The instructions of disassembled code, as a list of `Line`."""
    found, waiting = [], []
    labels: dict = {}
    for line in text.splitlines():
        if label := LABEL.match(line.strip()):
            waiting.append(label[1])
        elif code := CODE.search(line):
            place, guard, opcode, rest = int(code[1], 16), code[2], code[3], code[4]
            labels.update(dict.fromkeys(waiting, place))
            waiting = []
            jump = re.match(r"(.*?)`\((\.L_x_\d+)\)", rest) if opcode.split(".")[0] in ("BRA", "CALL") else None
            guarded = guard is not None or (jump is not None and (jump[1].strip() != "" or opcode.startswith("CALL")))
            found.append((place, opcode, guarded, jump[2] if jump else None))
    return [Line(place, opcode, guarded, labels.get(to)) for place, opcode, guarded, to in found]


def read(text):
    """(Counter of all opcodes, loops) of disassembled code, without the NOPs that fill it up."""
    code = [line for line in lines(text) if line.opcode != "NOP"]
    ranges = sorted({(line.target, line.place) for line in code if line.target is not None and line.target < line.place})
    loops = []
    for start, stop in ranges:
        inside = [(a, b) for a, b in ranges if (a, b) != (start, stop) and start <= a and b <= stop]
        own = [line.opcode for line in code
               if start <= line.place <= stop and not any(a <= line.place <= b for a, b in inside)]  # fmt: skip
        depth = sum(a <= start and stop <= b for a, b in ranges)
        loops.append(Loop(start, stop, Counter(own), depth))
    return Counter(line.opcode for line in code), tuple(loops)
