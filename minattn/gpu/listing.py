"""The loop of kernel 5 in machine code, kept as a file to be read where there is no compiler.

    python -m minattn.gpu.listing      compiles kernel 5 and writes tensor.sass beside this file

`machine.lines` and `bound.bound` read such text; lesson 19 goes through it.
"""
from pathlib import Path

from .machine import CODE, LABEL
from .table import RUNGS, compiled, tools

FILE = Path(__file__).with_name("tensor.sass")
NAME, D = "5 tensor", 64


def loop(text, start, stop):
    """The instructions from one place to another, with the labels that stand before them."""
    kept, labels = [], []
    for line in text.splitlines():
        if LABEL.match(line.strip()):
            labels.append(line.strip())
        elif code := CODE.search(line):
            if start <= int(code[1], 16) <= stop:
                kept += [*labels, " ".join(line.split())]
            labels = []
    return kept


def text():
    """The whole of tensor.sass."""
    block_q, block_k = RUNGS[NAME].tiles[D]
    ((_, made),) = compiled(NAME, D)
    around = max((found for found in made.loops if found.count("HMMA")), key=lambda found: found.stop - found.start)
    head = [
        f"Kernel {NAME}, D = {D}, tiles of {block_q} x {block_k}, {RUNGS[NAME].kinds[0]}, sm_90: its loop over tiles of keys.",
        f"A thread has {made.registers} registers. Nothing here was run on a GPU.",
        "Written by `python -m minattn.gpu.listing`.",
        tools(),
    ]  # fmt: skip
    return "\n".join([*(f"// {line}" for line in head), *loop(made.text, around.start, around.stop)]) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"{FILE.name}: {len(FILE.read_text(encoding='utf-8').splitlines())} lines")
