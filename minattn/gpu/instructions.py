"""GPU instructions for which Numba has no name: tensor cores, and the loads and copies that feed them.

Each is one `Instruction`: its text in NVIDIA's virtual assembly for a GPU, and a *twin*, plain Python that says what the 32
lanes of a warp do together, for the simulator. Names and layouts are those of the PTX ISA, "Matrix multiply-accumulate".

A lane has the number 4 g + t, g in 0 .. 7 and t in 0 .. 3. Two 16-bit numbers share a register, the first in the low half.

    A (16, 16)  a0 = A[g, 2t:2t+2]      a1 = A[g + 8, 2t:2t+2]      a2 = A[g, 2t+8:2t+10]      a3 = A[g + 8, 2t+8:2t+10]
    B (16, 8)   b0 = B[2t:2t+2, g]      b1 = B[2t+8:2t+10, g]
    C (16, 8)   c0, c1 = C[g, 2t:2t+2]  c2, c3 = C[g + 8, 2t:2t+2]

So the C of two products beside each other is, once rounded to 16 bits, the A of the next: P never leaves its registers.
"""
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from .ledger import WARP


@dataclass(frozen=True)
class Instruction:
    """What takes its place: `twin(cuda, *arguments)` in the simulator; on a GPU, the assembly.

    `results` and `arguments` have a letter each: f float32, u uint32, and for an array with an index s (its address in shared
    memory) or g (in global memory).
    """

    assembly: str
    results: str
    arguments: str
    twin: Any


def numbers(register, kind):
    """The two 16-bit numbers of a register, as float32."""
    bits = np.array([register & 0xFFFF, register >> 16], np.uint16)
    return bits.view(np.float16).astype(np.float32) if kind == "f16" else (bits.astype(np.uint32) << 16).view(np.float32)


def register(low, high, kind):
    """Two float32 numbers, rounded to 16 bits, to nearest and to even, in one register."""
    both = np.array([low, high], np.float32)
    if kind == "f16":
        bits = both.astype(np.float16).view(np.uint16).astype(np.uint32)
    else:
        wide = both.view(np.uint32)
        bits = (wide + 0x7FFF + (wide >> 16 & 1) >> 16).astype(np.uint32)
    return int(bits[0]) | int(bits[1]) << 16


def mma_twin(kind):
    def answer(brought):
        a, b, c = np.zeros((16, 16), np.float32), np.zeros((16, 8), np.float32), np.zeros((16, 8), np.float32)
        for lane, (a0, a1, a2, a3, b0, b1, *sums) in brought.items():
            g, t = divmod(lane, 4)
            a[g, 2 * t : 2 * t + 2], a[g + 8, 2 * t : 2 * t + 2] = numbers(a0, kind), numbers(a1, kind)
            a[g, 2 * t + 8 : 2 * t + 10], a[g + 8, 2 * t + 8 : 2 * t + 10] = numbers(a2, kind), numbers(a3, kind)
            b[2 * t : 2 * t + 2, g], b[2 * t + 8 : 2 * t + 10, g] = numbers(b0, kind), numbers(b1, kind)
            c[g, 2 * t : 2 * t + 2], c[g + 8, 2 * t : 2 * t + 2] = sums[:2], sums[2:]
        c += a @ b
        return {lane: (*c[lane // 4, lane % 4 * 2 :][:2], *c[lane // 4 + 8, lane % 4 * 2 :][:2]) for lane in brought}

    return lambda cuda, *given: cuda.together("mma", given, answer)


def ldmatrix_twin(turned):
    """Each lane names a row of 8 numbers: lanes 8 m .. 8 m + 7 those of matrix m, which becomes register m of all lanes."""

    def answer(rows):
        matrices = np.array([rows[lane] for lane in range(WARP)]).reshape(4, 8, 8)
        matrices = matrices.swapaxes(1, 2) if turned else matrices
        pairs = matrices[..., 0::2] | matrices[..., 1::2] << 16                   # (4, 8, 4): matrix, g, t
        return {lane: tuple(int(pair) for pair in pairs[:, lane // 4, lane % 4]) for lane in rows}

    return lambda cuda, array, index: cuda.together("ldmatrix", [int(array[int(index) + i]) for i in range(8)], answer)


def copy_twin(cuda, target, to, source, at, size):
    """Eight numbers of 16 bits, zeros beyond `size` bytes; they arrive at any time until this thread waits for its copies."""
    cuda.thread.copies.append((target, int(to), source, int(at), int(size) // 2))
    for i in range(8):
        target.begin(int(to) + i)


def wait_twin(cuda):
    for target, to, source, at, real in cuda.thread.copies:
        for i in range(8):
            target[to + i] = source[at + i] if i < real else 0
    cuda.thread.copies.clear()


def unpack_twin(kind):
    if kind == "f16":
        return lambda cuda, both: struct.unpack("<2e", struct.pack("<I", both))
    return lambda cuda, both: struct.unpack("<2f", struct.pack("<2I", both << 16 & 0xFFFFFFFF, both & 0xFFFF0000))


def load_twin(cuda, array, at):
    """Eight numbers of 16 bits in four registers; `at` is a multiple of 8."""
    return tuple(int(array[at + i]) | int(array[at + i + 1]) << 16 for i in range(0, 8, 2))


def four_twin(cuda, array, at):
    """Four float32 numbers; `at` is a multiple of 4."""
    return array[at], array[at + 1], array[at + 2], array[at + 3]


def mma(kind):
    """C + A B of a warp, for kind "f16" or "bf16": (c0 .. c3) of a0 .. a3, b0, b1, c0 .. c3."""
    operands = "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13}"
    name = f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32"
    return Instruction(f"{name} {operands};", "ffff", "uuuuuuffff", mma_twin(kind))


def pack(kind):
    """Two float32 numbers in one register of 16-bit ones: the low one first."""
    return Instruction(f"cvt.rn.{kind}x2.f32 $0, $2, $1;", "u", "ff", lambda cuda, low, high: register(low, high, kind))


def unpack(kind):
    """The two 16-bit numbers of a register as float32."""
    body = {"f16": "cvt.f32.f16 $0, low; cvt.f32.f16 $1, high;",
            "bf16": "mov.b32 $0, {zero, low}; mov.b32 $1, {zero, high};"}[kind]
    words = ".reg .b16 low, high, zero; mov.b16 zero, 0; mov.b32 {low, high}, $2;"
    return Instruction(f"{{ {words} {body} }}", "ff", "u", unpack_twin(kind))


LOAD = "ldmatrix.sync.aligned.m8n8.x4{}.shared.b16 {{$0,$1,$2,$3}}, [$4];"
ldmatrix = Instruction(LOAD.format(""), "uuuu", "s", ldmatrix_twin(False))
ldmatrix_turned = Instruction(LOAD.format(".trans"), "uuuu", "s", ldmatrix_twin(True))
copy_16_bytes = Instruction("cp.async.cg.shared.global [$0], [$1], 16, $2;", "", "sgu", copy_twin)
wait_for_copies = Instruction("cp.async.wait_all;", "", "", wait_twin)
exp2 = Instruction("ex2.approx.ftz.f32 $0, $1;", "f", "f", lambda cuda, x: np.exp2(np.float32(x)))
load_16_bytes = Instruction("ld.global.nc.v4.u32 {$0,$1,$2,$3}, [$4];", "uuuu", "g", load_twin)
load_4_floats = Instruction("ld.global.nc.v4.f32 {$0,$1,$2,$3}, [$4];", "ffff", "g", four_twin)
