"""Who holds what in a tensor core's matrices: lanes and registers of mma.m16n8k16, and a warp that multiplies.

    lane   4 g + t of a warp, g in 0 .. 7, t in 0 .. 3        A (16, 16)   B (16, 8)   C (16, 8)
"""
from typing import Any

import numpy as np

from ..gpu import instructions
from .exercise import Exercise, Wrong
from .gpu import _launched

cuda: Any = None                                                      # the simulator puts its own in its place
f32 = np.float32

# --- who holds a number -------------------------------------------------------------------------------------------


def _holder(lane=lambda row, col: row % 8 * 4 + col // 2, register=lambda row, col: row // 8 * 2 + col % 2):
    return lambda row, col: (lane(row, col), register(row, col))


holder = Exercise(
    name="holder", signature="holder(row, col)", lesson="19", reference=_holder(), outputs=["lane (n)", "register (n)"],
    inputs=lambda rng: [(rng.integers(0, 16, n), rng.integers(0, 8, n)) for n in (40, 29)],
    wrong=[
        Wrong("lower rows in lanes of their own", _holder(lane=lambda row, col: row * 4 + col // 2),
              "How many lanes has a warp? Which lanes hold row 8?"),
        Wrong("a lane for each column", _holder(lane=lambda row, col: row % 8 * 4 + col % 4),
              "How many neighbouring columns does a lane hold?"),
        Wrong("the layout of B", _holder(lane=lambda row, col: col * 4 + row % 8 // 2,
                                         register=lambda row, col: row // 8 * 2 + row % 2),
              "In C, does a group of four lanes hold a row or a column?"),
        Wrong("two neighbouring rows", _holder(lane=lambda row, col: row // 2 * 4 + col // 2,
                                               register=lambda row, col: row % 2 * 2 + col % 2),
              "Which two rows does a lane hold: g and which other?"),
        Wrong("four numbers of a row", _holder(lane=lambda row, col: row * 2 + col // 4, register=lambda row, col: col % 4),
              "Are all four registers of a lane in one row?"),
        Wrong("the row's bit in the low place", _holder(register=lambda row, col: col % 2 * 2 + row // 8),
              "c0 and c1: the same row, or the same column?"),
        Wrong("the lower row forgotten", _holder(register=lambda row, col: col % 2), "Where are c2 and c3?"),
        Wrong("g and t exchanged", _holder(lane=lambda row, col: col // 2 * 8 + row % 8),
              "4 g + t: how far apart are the lanes of two groups?"),
    ],
)  # fmt: skip

# --- the numbers of a lane ----------------------------------------------------------------------------------------

CORNERS = (0, 0), (8, 0), (0, 8), (8, 8)                              # of a0 .. a3: rows and columns on


def _fragment(corners=CORNERS, places=lambda lane: divmod(lane, 4), pair=lambda g, t: ((g, 2 * t), (g, 2 * t + 1))):
    """Two numbers from each corner of a."""
    def fn(a, lane):
        found = [a[row + down, col + right] for down, right in corners for row, col in pair(*places(lane))]
        return np.array(found)

    return fn


fragment_a = Exercise(
    name="fragment_a", signature="fragment_a(a, lane)", lesson="19", reference=_fragment(), outputs=["numbers (i)"],
    inputs=lambda rng: [(rng.standard_normal((16, 16)), lane) for lane in (13, 26, 7)],
    wrong=[
        Wrong("a1 and a2 exchanged", _fragment(((0, 0), (0, 8), (8, 0), (8, 8))),
              "Is a1 the row below, or the columns to the right?"),
        Wrong("pairs down a column", _fragment(pair=lambda g, t: ((2 * t, g), (2 * t + 1, g))),
              "That is how B is held. Which way do the pairs of A lie?"),
        Wrong("g and t exchanged", _fragment(places=lambda lane: (lane % 8, lane // 8)),
              "Lanes 12 to 15 are one group. Which row do they share?"),
        Wrong("pairs overlap", _fragment(pair=lambda g, t: ((g, t), (g, t + 1))), "Lanes 12 and 13: where does each pair begin?"),
        Wrong("numbers four apart", _fragment(pair=lambda g, t: ((g, t), (g, t + 4))),
              "One register has two neighbours. How far apart are yours?"),
        Wrong("the low half last", _fragment(pair=lambda g, t: ((g, 2 * t + 1), (g, 2 * t))),
              "Which column does the low half of a register hold?"),
        Wrong("lower rows first", _fragment(((8, 0), (0, 0), (8, 8), (0, 8))), "Which rows is a0 from?"),
        Wrong("lower rows forgotten", _fragment(((0, 0), (0, 0), (0, 8), (0, 8))), "Who holds the rows 8 to 15?"),
        Wrong("right half forgotten", _fragment(((0, 0), (8, 0), (0, 0), (8, 0))), "Who holds the columns 8 to 15?"),
    ],
)  # fmt: skip

# --- weights become A ---------------------------------------------------------------------------------------------


def _packed(order=(0, 1, 2, 3), turn=1):
    """The pairs of left and right, 0 and 1 those of left, in another order or with their halves exchanged."""
    return lambda left, right: np.concatenate([left, right], axis=1).reshape(32, 4, 2)[:, list(order), ::turn].copy()


def _apart(left, right):
    """c0 with c2, and c1 with c3."""
    return np.concatenate([left, right], axis=1).reshape(32, 2, 2, 2).swapaxes(2, 3).reshape(32, 4, 2)


pack_weights = Exercise(
    name="pack_weights", signature="pack_weights(left, right)", lesson="19", reference=_packed(),
    outputs=["pairs (lane, i, half)"], inputs=lambda rng: [tuple(rng.random((2, 32, 4))) for _ in range(2)],
    wrong=[
        Wrong("a1 and a2 exchanged", _packed((0, 2, 1, 3)), "a1 is row g + 8 of keys 0 to 7. Which two registers are that?"),
        Wrong("the low half last", _packed(turn=-1), "Which of c0 and c1 is the smaller column?"),
        Wrong("keys 8 to 15 first", _packed((2, 3, 0, 1)), "Which columns of A are a0 and a1?"),
        Wrong("lower rows first", _packed((1, 0, 3, 2)), "Which row of A is a0, and which is c0?"),
        Wrong("pairs down a column", _apart, "c0 and c2 stand in one column. How do the pairs of A lie?"),
        Wrong("a weight of left with one of right", lambda left, right: np.stack([left, right], axis=-1),
              "How many keys apart are the two numbers of your pair?"),
        Wrong("left twice", _packed((0, 1, 0, 1)), "Which weights does a2 hold?"),
        Wrong("lanes mixed", lambda left, right: np.concatenate([left, right]).reshape(32, 4, 2),
              "Does a lane's pair hold its own weights? Along which axis did you join?"),
    ],
)  # fmt: skip

# --- a warp that multiplies ---------------------------------------------------------------------------------------

mma, pack = instructions.mma("bf16"), instructions.pack("bf16")


def _across(m, row, col):
    """A pair that lies side by side."""
    return m[row, col], m[row, col + 1]


def _down(m, row, col):
    """As if m were B itself, with a key a column."""
    return m[col % 8, row], m[col % 8 + 1, row]


def _scores(a_corners=CORNERS, b_on=(0, 8), read_q=_across, read_k=_across, rows=lambda g: (g, g + 8), turned=False):
    """The kernel with other pairs in A or in B, or another place for what comes out."""
    def kernel(q, k, out):
        g, d = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4 * 2
        held = []
        for down, right in a_corners:
            held.append(pack(*read_q(q, g + down, d + right)))
        for on in b_on:
            held.append(pack(*read_k(k, g, d + on)))
        c = mma(*held, f32(0), f32(0), f32(0), f32(0))
        for i in range(4):
            row, col = rows(g)[i // 2], d + i % 2
            if turned:
                row, col = col + i // 2 * 8, g
            out[row, col] = c[i]

    return kernel


def _eighths(rng):
    """Numbers that 16 bits hold exactly."""
    return [tuple((rng.integers(-15, 16, shape) / 8).astype(f32) for shape in [(16, 16), (8, 16)]) for _ in range(2)]


warp_scores = Exercise(
    name="warp_scores", signature="warp_scores(q, k, out)", lesson="19", reference=_scores(), inputs=_eighths,
    outputs=["out (n, s)", "problems"], drive=_launched(lambda q, k: (16, 8), lambda q, k: 1, lambda q, k: 32),
    wrong=[
        Wrong("a1 and a2 exchanged", _scores(((0, 0), (0, 8), (8, 0), (8, 8))), "Is a1 the row below, or the dims to the right?"),
        Wrong("k read down a column", _scores(read_k=_down),
              "B is k turned round. In which direction of k does a pair of B lie?"),
        Wrong("b0 and b1 exchanged", _scores(b_on=(8, 0)), "Which dims of q meet b0?"),
        Wrong("b0 twice", _scores(b_on=(0, 0)), "Which dims of q meet b1?"),
        Wrong("halves of A exchanged", _scores(read_q=lambda m, row, col: _across(m, row, col)[::-1]),
              "pack(low, high): which of the two dims is the low one? Is it the same for q and k?"),
        Wrong("lower queries left out", _scores(((0, 0), (0, 0), (0, 8), (0, 8))), "Which rows of q are a1 and a3?"),
        Wrong("rows 2g and 2g + 1 written", _scores(rows=lambda g: (2 * g, 2 * g + 1)), "Which row are c2 and c3 of?"),
        Wrong("c2 and c3 written over c0 and c1", _scores(rows=lambda g: (g, g)), "Which row are c2 and c3 of?"),
        Wrong("written as B lies", _scores(turned=True), "In C, does a group of four lanes have a row or a column?"),
    ],
)  # fmt: skip
