# %% [markdown]
# # 19 Tensor cores
#
# 40 minutes · difficulty: hard · read before: [10 FlashAttention I](10_flashattention_tiles.ipynb),
# [17 A GPU on your laptop](17_a_gpu_on_your_laptop.ipynb), [18 The memory ledger](18_the_memory_ledger.ipynb)
# · [glossary](glossary.md)
#
# You will be able to
#
# - say which of a warp's 32 threads holds which number of a tensor core's matrices, and load them without a bank conflict,
# - show why the weights of attention never leave their registers,
# - say what 16-bit numbers cost, and which sums must not be 16 bits wide,
# - read the machine code of a kernel, and count from it how fast the kernel can be at most.

# %% [markdown]
# ## The question
#
# So far a thread multiplied two numbers at a time. A **tensor core** multiplies two matrices: one instruction of a warp
# takes A (16 x 16) and B (16 x 8) in 16 bits and C (16 x 8) in float32, and puts $C + AB$ in the place of C: 2048
# multiply-adds, 64 for each of the 32 lanes. No lane holds a matrix. **Who holds which number?** The answer decides how
# attention has to be written. (A, B, C are the instruction's names. B is no batch here, and D stays the head dim.)
#
# Nothing in this lesson runs on a GPU. The simulator of [lesson 17](17_a_gpu_on_your_laptop.ipynb) runs the warp; the machine
# code at the end is the compiler's, and every speed there is a *bound, counted from that code*, not a measurement.

# %%
import re
from collections import Counter
from textwrap import fill

import course
import matplotlib.pyplot as plt
import numpy as np

import minattn as ma
from minattn.core.blocks import block_map
from minattn.core.inputs import prepare
from minattn.core.mask import Mask
from minattn.gpu import instructions, listing
from minattn.gpu.bound import bound
from minattn.gpu.kernels import registers, tensor
from minattn.gpu.machine import lines
from minattn.gpu.problem import problem as gpu_problem
from minattn.gpu.simulator import simulate
from minattn.practice import check

cuda, f32, u16, u32 = None, np.float32, np.uint16, np.uint32          # the simulator puts its own `cuda` there
mma, pack, exp2 = instructions.mma("bf16"), instructions.pack("bf16"), instructions.exp2
ldmatrix, ldmatrix_turned = instructions.ldmatrix, instructions.ldmatrix_turned
rng = np.random.default_rng(19)

# %% [markdown]
# `mma`, `pack`, `ldmatrix` are single instructions of a GPU. In the simulator each has a *twin*, plain Python that says
# what the 32 lanes do together; [instructions.py](../minattn/gpu/instructions.py) has both.
#
# ## By hand: one number
#
# Write a lane's number as $4g + t$: g from 0 to 7 is its **group**, t from 0 to 3 its place there. Two 16-bit numbers share a
# register. The instruction's name is `mma.sync.m16n8k16`, and NVIDIA's manual lays the numbers out so:
#
# | | a lane holds | lane $4g + t$ has |
# |---|---|---|
# | A, 16 x 16 | 8 numbers, 4 registers | a0: row g, columns 2t, 2t+1 · a1: the same of row g+8 · a2, a3: 8 columns on |
# | B, 16 x 8 | 4 numbers, 2 registers | b0: rows 2t, 2t+1 of column g · b1: 8 rows on |
# | C, 16 x 8 | 4 float32, 4 registers | c0, c1: row g, columns 2t, 2t+1 · c2, c3: the same of row g+8 |
#
# **Predict before you run.** Which lane holds C[3, 2], and in which register? Which lanes hold the 32 factors it is made of?
#
# <details><summary>Answer</summary>
#
# Row 3 is g = 3, column 2 is t = 1: lane 13, c0. Row 3 of A is held by the group g = 3, lanes 12 to 15. Column 2 of B is
# held by the group g = 2, lanes 8 to 11. So what lane 13 holds at the end is made of numbers that eight lanes held: bringing
# them together is the hardware's work.
#
# </details>

# %%
A, B = rng.integers(-3, 4, (16, 16)).astype(f32), rng.integers(-3, 4, (16, 8)).astype(f32)
row, col, total = 3, 2, 0
print("  k   A[3, k]            B[k, 2]            sum")
for k in range(16):
    from_a = f"lane {4 * (row % 8) + k % 8 // 2:2} a{row // 8 + k // 8 * 2}"
    from_b = f"lane {4 * col + k % 8 // 2:2} b{k // 8}"
    total += A[row, k] * B[k, col]
    print(f"{k:3}   {A[row, k]:2.0f} of {from_a}     {B[k, col]:2.0f} of {from_b}     {total:3.0f}")
print(f"C[3, 2] = {total:.0f}, in lane {4 * (row % 8) + col // 2}, c{row // 8 * 2 + col % 2}")
assert total == (A @ B)[row, col]

# %% [markdown]
# ## All of it, in NumPy
#
# The table as three pairs of arrays: the row and the column of the i-th number of each lane, shape (lane, i).

# %%
g, t = np.divmod(np.arange(32)[:, None], 4)                           # (32, 1) each


def places(i, row_step, col_step, across=True):
    """(rows, columns) of the numbers i of all lanes: g and a pair at 2t, eight rows or columns on where i has that bit."""
    along = 2 * t + i % 2
    rows, cols = (g, along) if across else (along, g)
    return rows + 8 * (i // row_step % 2), cols + 8 * (i // col_step % 2)


A_AT = places(np.arange(8), 2, 4)                                     # row + 8 in a1 and a3, column + 8 in a2 and a3
B_AT = places(np.arange(4), 2, 4, across=False)                       # a pair stands in a column of B
C_AT = places(np.arange(4), 2, 4)
print("lane 13 holds, as (row, column):")
for name, (rows, cols) in {"A": A_AT, "B": B_AT, "C": C_AT}.items():
    print(f"  {name}", *(f"({r}, {c})" for r, c in zip(rows[13], cols[13], strict=True)))
    held = Counter(zip(rows.ravel().tolist(), cols.ravel().tolist(), strict=True))
    assert set(held.values()) == {1}                                  # every number is held once
assert (C_AT[0][13, 0], C_AT[1][13, 0]) == (3, 2)

# %% [markdown]
# Now a warp in the simulator. Numbers become 16 bits: `bf16` is a float32 cut to its upper half, `f16` has more digits and
# less range. Then two of them go into a register, the first in the low half. The twin was written from the manual, the arrays
# above from the table: they agree if $AB$ comes out, each number where `C_AT` says.

# %%
def to_bits(x, kind="bf16"):
    """float32 numbers in 16 bits, rounded to the nearest, ties to even."""
    if kind == "f16":
        return x.astype(np.float16).view(u16)
    bits = x.astype(f32).view(u32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(u16)


def to_numbers(bits, kind="bf16"):
    return bits.view(np.float16).astype(f32) if kind == "f16" else (bits.astype(u32) << 16).view(f32)


def in_registers(x, at):
    """A matrix as registers of two numbers: (32, registers)."""
    bits = to_bits(x[at]).astype(u32)
    return bits[:, 0::2] | bits[:, 1::2] << 16


def product(a, b, c):
    i = cuda.threadIdx.x
    zero = f32(0)
    c[i, 0], c[i, 1], c[i, 2], c[i, 3] = mma(a[i, 0], a[i, 1], a[i, 2], a[i, 3], b[i, 0], b[i, 1], zero, zero, zero, zero)

# %%
C = np.zeros((32, 4), f32)
assert not simulate(product, 1, 32, in_registers(A, A_AT), in_registers(B, B_AT), C).problems
print("lane 13 has", C[13], " and A @ B there is", (A @ B)[C_AT][13])
assert (C == (A @ B)[C_AT]).all()

# %% [markdown]
# ## The picture
#
# Each box is one register of one lane: two numbers of A or B, one of C. **What to look for:** a colour is a group of four
# lanes. In A and C a colour is a row and the row 8 below; in B it is a column. Outlined: C[3, 2], the row of A and the
# column of B that it is made of.

# %%
COLOURS = plt.get_cmap("Pastel1").colors
fig, grid = plt.subplots(2, 2, figsize=(10, 12.6), layout="constrained", width_ratios=[16, 8.4])
grid[0, 0].axis("off")
grid[0, 0].text(0.2, 0.9, "12 a0: register a0 of lane 12", fontsize=12)
for group in range(8):
    text = f"g = {group}: lanes {4 * group} to {4 * group + 3}"
    grid[0, 0].text(0.2, 0.8 - 0.09 * group, text, fontsize=12, bbox={"facecolor": COLOURS[group], "edgecolor": "none"})
panels = [(grid[1, 0], "A", A_AT, 16, (1, 2), " a"), (grid[0, 1], "B", B_AT, 8, (2, 1), "\nb"),
          (grid[1, 1], "C, and C + AB", C_AT, 8, (1, 1), "\nc")]
for ax, name, (rows, cols), columns, (high, wide), letter in panels:
    for lane, i in np.ndindex(32, rows.shape[1]):
        if i % (high * wide) == 0:                                    # a box for the register, at the first of its numbers
            x, y = cols[lane, i] - 0.5, rows[lane, i] - 0.5
            ax.add_patch(plt.Rectangle((x, y), wide, high, facecolor=COLOURS[lane // 4], edgecolor="white"))
            ax.text(x + wide / 2, y + high / 2, f"{lane}{letter}{i // (high * wide)}", ha="center", va="center",
                    fontsize=9 if high * wide > 1 else 8, linespacing=1)
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(15.5, -0.5), xticks=range(columns), yticks=range(16), title=name)
for ax, x, y, wide, high in [(grid[1, 0], -0.5, 2.5, 16, 1), (grid[0, 1], 1.5, -0.5, 1, 16), (grid[1, 1], 1.5, 2.5, 1, 1)]:
    ax.add_patch(plt.Rectangle((x, y), wide, high, fill=False, linewidth=2.5))

# %% [markdown]
# ## Loading: ldmatrix
#
# For scores, $A = Q$ and $B = K^\top$. A pair of B, two dims of one key, lies side by side in a row of K: good. But a
# lane's pairs are spread over the tile, and 4 bytes at a time are many loads. `ldmatrix` fills four registers of all
# lanes at once, from four 8 x 8 matrices in shared memory. Every lane *names* a row of eight numbers: lanes $8m$ to $8m +
# 7$ the rows of matrix m, which becomes register m. Every lane *gets* the pair that its place $(g, t)$ asks for, from a
# row that another one named.
#
# With `.trans` (here `ldmatrix_turned`) it gets the pair of a column instead. **What to look for:** the two boxes that hold
# lane 13. Both times lane r names row r.

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 4.3), layout="constrained")
for ax, name, (high, wide) in zip(axes, ("ldmatrix", "ldmatrix.trans"), ((1, 2), (2, 1)), strict=True):
    for lane in range(32):
        r, c = (lane // 4, lane % 4 * 2) if wide == 2 else (lane % 4 * 2, lane // 4)
        edge, order = ("black", 3) if lane == 13 else ("white", 2)
        ax.add_patch(plt.Rectangle((c - 0.5, r - 0.5), wide, high, facecolor=COLOURS[lane // 4], edgecolor=edge,
                                   linewidth=1 + order % 2, zorder=order))
        ax.text(c - 0.5 + wide / 2, r - 0.5 + high / 2, lane, ha="center", va="center", fontsize=9, zorder=4)
    ax.set(xlim=(-0.5, 7.5), ylim=(7.5, -0.5), xticks=range(8), yticks=range(8), title=f"{name}: the lane that gets it")
    ax.set(yticklabels=[f"lane {r}" for r in range(8)], ylabel="row, named by", xlabel="place in the row")

# %% [markdown]
# **Predict before you run.** For the outputs, $A = P$ and $B = V$: a pair of B is two *keys*, one dim. V lies in shared
# memory as K does, a key a row. With or without `.trans`?
#
# <details><summary>Answer</summary>
#
# With. The pair stands in a column of the tile of V, so the lane needs a column's pair.
#
# </details>
#
# A tile of 64 dims has rows of 64 numbers of 16 bits: 32 words, all banks. The eight rows of a matrix begin in the same
# bank, and [lesson 18](18_the_memory_ledger.ipynb) has the cure: piece c of a row, 16 bytes, is kept in column $c \oplus
# (\text{row} \bmod 8)$. Below is `ldmatrix` spelled out, word by word as the hardware reads it, eight rows at a time; the
# ledger counts its wavefronts, without and with the swizzle. And the instruction itself, on the same tile.

# %%
def make_load(swizzle, spelled_out):
    def place(row, piece):
        return row * 8 + (piece ^ row % 8 if swizzle else piece)      # in pieces of 16 bytes: 4 words, 8 numbers

    def load(x, out):
        lane = cuda.threadIdx.x
        if spelled_out:
            tile = cuda.shared.array(16 * 32, np.uint32)
            for i in range(16):
                tile[place(i, lane // 4) * 4 + lane % 4] = x[i, lane]
            cuda.syncwarp()
            for m in range(4):                                        # matrix m: eight keys, eight dims
                row, piece = lane // 4 + m // 2 * 8, m % 2
                out[lane, m] = tile[place(row, piece) * 4 + lane % 4]
        else:
            tile = cuda.shared.array(16 * 64, np.uint16)
            for i in range(16):
                for half in range(2):
                    tile[place(i, lane // 4) * 8 + lane % 4 * 2 + half] = u16(x[i, lane] >> 16 * half & 0xFFFF)
            cuda.syncwarp()
            row, piece = lane % 8 + lane // 16 * 8, lane // 8 % 2     # what this lane names
            out[lane, 0], out[lane, 1], out[lane, 2], out[lane, 3] = ldmatrix(tile, place(row, piece) * 8)
    return load

# %%
K = to_numbers(to_bits(rng.standard_normal((16, 64)).astype(f32)))    # 16 keys, 64 dims
words = to_bits(K).view(u32)                                          # (16, 32): two numbers a word
for swizzle in (False, True):
    got = []
    for spelled_out in (True, False):
        out = np.zeros((32, 4), u32)
        report = simulate(make_load(swizzle, spelled_out), 1, 32, words, out)
        assert not report.problems
        got.append(out)
        if spelled_out:
            (_, read) = (report.ledger.wavefronts[line] for line in sorted(report.ledger.wavefronts))
            print(f"{'swizzled' if swizzle else 'plain':9} 4 matrices in {read:2} wavefronts")
            assert read == (4 if swizzle else 32)
    assert (got[0] == got[1]).all()
    assert (got[1][:, :2] == in_registers(K[:8, :16].T, B_AT)).all()  # keys 0 to 7: b0, b1 of one product
    assert (got[1][:, 2:] == in_registers(K[8:, :16].T, B_AT)).all()  # keys 8 to 15: b0, b1 of the next

# %% [markdown]
# One `ldmatrix` feeds two products, for 16 keys. (A lane of kernel 5 works out once where it reads: since 16 dims on
# flips bits of the piece, one exclusive or moves it along.)
#
# ## P stays where it is
#
# Now the point of it all. The scores of 16 queries and 16 keys are two C matrices side by side. Their weights are to be
# the A of the next product. As arrays: where the numbers of the two C's are, against where those of A should be:

# %%
scores_at = np.concatenate([C_AT[0], C_AT[0]], axis=1), np.concatenate([C_AT[1], C_AT[1] + 8], axis=1)
print("lane 13, C of keys 0-7, then of keys 8-15:", *zip(*(part[13].tolist() for part in scores_at), strict=True))
print("lane 13, A:                               ", *zip(*(part[13].tolist() for part in A_AT), strict=True))
assert (scores_at[0] == A_AT[0]).all()
assert (scores_at[1] == A_AT[1]).all()

# %% [markdown]
# They are the same. So each lane rounds its c0, c1 to one 16-bit pair, a0; c2, c3 to a1; the next C's to a2 and a3: four
# `pack`, no shared memory, no shuffle, no barrier. That is why FlashAttention on tensor cores keeps P in registers.
#
# The maximum and the sum of a row take two exchanges each, because the four lanes of a group hold the row.
#
# ## A warp's attention, built broken
#
# 16 queries, 16 keys, D = 16, one warp. Two mistakes that are easily made: the pairs go into A in another order, or V is
# loaded without `.trans`.

# %%
def softmax_of(s, factor):
    """s (8,) of a lane: two C's. The lane's rows are g, in s[0, 1, 4, 5], and g + 8, in s[2, 3, 6, 7]."""
    for r in range(0, 4, 2):
        top = max(max(s[r], s[r + 1]), max(s[r + 4], s[r + 5]))
        top = max(top, cuda.shfl_xor_sync(0xFFFFFFFF, top, 1))
        top = max(top, cuda.shfl_xor_sync(0xFFFFFFFF, top, 2))
        total = f32(0)
        for i in range(r, r + 6):
            if i % 4 // 2 == r // 2:
                s[i] = exp2((s[i] - top) * factor)
                total += s[i]
        total += cuda.shfl_xor_sync(0xFFFFFFFF, total, 1)
        total += cuda.shfl_xor_sync(0xFFFFFFFF, total, 2)
        for i in range(r, r + 6):
            if i % 4 // 2 == r // 2:
                s[i] /= total


def both(a, b, c):
    """Two products with one A, into c (8,); b are the four registers of an ldmatrix."""
    c[0], c[1], c[2], c[3] = mma(a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], c[2], c[3])
    c[4], c[5], c[6], c[7] = mma(a[0], a[1], a[2], a[3], b[2], b[3], c[4], c[5], c[6], c[7])

# %%
def make_attend(order=(0, 2, 4, 6), load_v=ldmatrix_turned):
    o0, o1, o2, o3 = order                                            # which pair of scores becomes a0, a1, a2, a3
    factor = f32(np.log2(np.e) / 4)                                   # 1 / sqrt(16), and 2^x in place of e^x

    def attend(q, k, v, out):
        lane = cuda.threadIdx.x
        keys = cuda.shared.array(256, u16)
        values = cuda.shared.array(256, u16)
        s, o = cuda.local.array(8, f32), cuda.local.array(8, f32)
        for i in range(8):
            keys[i * 32 + lane], values[i * 32 + lane] = k[i * 32 + lane], v[i * 32 + lane]
            s[i], o[i] = f32(0), f32(0)
        cuda.syncwarp()
        b = ldmatrix(keys, (lane % 8 + lane // 16 * 8) * 16 + lane // 8 % 2 * 8)
        both((q[lane, 0], q[lane, 1], q[lane, 2], q[lane, 3]), b, s)
        softmax_of(s, factor)
        a = pack(s[o0], s[o0 + 1]), pack(s[o1], s[o1 + 1]), pack(s[o2], s[o2 + 1]), pack(s[o3], s[o3 + 1])
        both(a, load_v(values, lane % 16 * 16 + lane // 16 * 8), o)
        for i in range(8):
            out[lane // 4 + i // 2 % 2 * 8, lane % 4 * 2 + i % 2 + i // 4 * 8] = o[i]

    return attend

# %%
q, k, v = (to_numbers(to_bits(rng.standard_normal((16, 16)).astype(f32))) for _ in range(3))
ones = np.ones((16, 16), f32)
print(f"{'largest error with':32} {'drawn V':>9} {'V all ones':>11}")
variants = {"as it should be": {}, "a1 and a2 exchanged": {"order": (0, 4, 2, 6)},
            "V without .trans": {"load_v": ldmatrix}}
seen = {}
for name, options in variants.items():
    errors = []
    for values in (v, ones):
        out = np.zeros((16, 16), f32)
        given = in_registers(q, A_AT), to_bits(k).ravel(), to_bits(values).ravel(), out
        report = simulate(make_attend(**options), 1, 32, *given)
        assert not report.problems
        errors.append(np.abs(out - ma.attention(q.astype(float), k.astype(float), values.astype(float))).max())
    print(f"{name:32} {errors[0]:9.4f} {errors[1]:11.4f}")
    seen[name] = errors
assert max(seen["as it should be"]) < 0.01
assert seen["a1 and a2 exchanged"][1] > 0.05
assert seen["V without .trans"][0] > 0.1 > 0.01 > seen["V without .trans"][1]

# %% [markdown]
# No race, no bad index: layouts are silent. A common probe of a softmax, values of all ones (the weights of a row sum to 1),
# finds the exchanged registers, with which row g has half of its weights from row g + 8. It is blind to the missing `.trans`:
# ones are the same turned round. Only drawn numbers against a reference see both.
#
# ## What 16 bits cost
#
# | | significant bits | a number is off by at most | largest |
# |---|---|---|---|
# | f16 | 11 | $2^{-11}$ of itself | 65 504 |
# | bf16 | 8 | $2^{-8}$ of itself | $3.4 \cdot 10^{38}$ |
#
# **Predict before you run.** Begin with 0 in bf16 and add 1 a thousand times, rounding each sum to bf16. What comes out?
#
# <details><summary>Answer</summary>
#
# 256. With 8 bits, 257 lies halfway between 256 and 258 and is rounded to the even one: the sum stands still.
#
# </details>

# %%
for kind, digits in {"bf16": 8, "f16": 11}.items():
    x = np.linspace(1, 2, 10_001, dtype=f32)
    off = np.abs(to_numbers(to_bits(x, kind), kind) / x - 1).max()
    assert 0.9 < off * 2**digits < 1
    total = np.zeros(1, f32)
    for _ in range(3000):
        total = to_numbers(to_bits(total + 1, kind), kind)
    print(f"{kind:4}  rounding: {off:.5f} of a number   3000 ones added: {total[0]:.0f}")
    assert total[0] == 2**digits

# %% [markdown]
# So tensor cores add in float32. What rounding in one place or another costs, against float64 with no rounding at all; drawn
# inputs, S = 512 keys, D = 64:

# %%
N, S, D = 32, 512, 64
q, k, v = (rng.standard_normal((length, D)) for length in (N, S, S))
exact = ma.attention(q, k, v)


def in_16(x, kind):
    return to_numbers(to_bits(x.astype(f32), kind), kind).astype(float)


def rounded(kind, inputs=False, weights=False, sums=False):
    """Attention that rounds in some places."""
    a, b, c = (in_16(x, kind) if inputs else x for x in (q, k, v))
    scores, out = np.zeros((N, S)), np.zeros((N, D))
    for d in range(D):
        scores = scores + np.multiply.outer(a[:, d], b[:, d])
        scores = in_16(scores, kind) if sums else scores
    p = np.exp((scores - scores.max(-1, keepdims=True)) / np.sqrt(D))
    total, p = p.sum(-1, keepdims=True), in_16(p, kind) if weights else p
    for s in range(S):
        out = out + np.multiply.outer(p[:, s], c[s])
        out = in_16(out, kind) if sums else out
    return out / total

# %%
print(f"{'largest error, rounding':36} {'bf16':>8} {'f16':>8}")
cost = {}
for name, places_of in {"q, k, v": ["inputs"], "the weights": ["weights"], "both, as tensor cores do": ["inputs", "weights"],
                        "the sums as well, as nobody should": ["inputs", "weights", "sums"]}.items():
    cost[name] = [np.abs(rounded(kind, **dict.fromkeys(places_of, True)) - exact).max() for kind in ("bf16", "f16")]
    print(f"{name:36} {cost[name][0]:8.1e} {cost[name][1]:8.1e}")
assert cost["the sums as well, as nobody should"][0] > 3 * cost["both, as tensor cores do"][0]
large = np.full(64, 40.0, np.float16)                                 # a query and a key with entries of 40
with np.errstate(over="ignore", invalid="ignore"):
    in_f16, in_f32 = (large * large).sum(dtype=np.float16), (large.astype(f32) ** 2).sum()
    print(f"q . k, all entries 40, D = 64: f16 {in_f16}, float32 {in_f32:.0f};  exp(inf - inf) = {np.exp(in_f16 - in_f16)}")
assert np.isinf(in_f16)

# %% [markdown]
# In digits bf16 is worse, in range f16 is: a score beyond its largest number is infinite, and infinity minus infinity is NaN.
# With sums in float32 neither happens to a score of numbers that f16 holds. The weights are at most 1, and safe in both.
#
# ## The whole kernel
#
# Kernel 5 of the library puts it together: tiles of keys fetched by asynchronous copies, `ldmatrix`, products, online
# softmax, `pack`, products. A small ragged causal case in the simulator, beside kernel 4, which multiplies in float32,
# one number at a time:

# %%
def run(module, kind, q, k, v, block_q, block_k, causal=True):
    """(out, ledger, inputs) of a kernel; q, k, v (1, 1, length, D) are rounded first where the kind has 16 bits."""
    bits = [q, k, v] if kind == "f32" else [to_bits(a, kind) for a in (q, k, v)]
    inputs = [q, k, v] if kind == "f32" else [to_numbers(a, kind) for a in bits]
    x = prepare(*inputs, causal=causal)
    tiles = block_map(x.rule if causal else Mask(lambda i, j: j >= 0), x.grid(), block_q, block_k)
    given = gpu_problem(*bits, tiles, scale=x.scale, dims=(q.shape[-1],), kind=kind)
    (launch,) = module.launches(given)
    report = simulate(launch.kernel, launch.grid, launch.block, *launch.arguments)
    assert not report.problems
    out = given.given.out.reshape(q.shape)
    return out if kind == "f32" else to_numbers(out, kind), report.ledger, inputs

# %%
N, D = 21, 32
q, k, v = (rng.standard_normal((1, 1, N, D)).astype(f32) for _ in range(3))
print("                          bytes through global memory      shared memory")
print("kernel           error         q, k, v      out, lse          bytes read")
for name, module, kind in [("4 registers", registers, "f32"), ("5, bf16", tensor, "bf16"), ("5, f16", tensor, "f16")]:
    out, ledger, inputs = run(module, kind, q, k, v, 16, 16)
    error = np.abs(out - ma.attention(*(a.astype(float) for a in inputs), causal=True)).max()
    size, a = (4 if kind == "f32" else 2), ledger.arrays
    print(f"{name:12} {error:9.1e} {size * sum(a[n, 'read'] for n in 'qkv'):15,} "
          f"{size * a['out', 'write'] + 4 * a['lse', 'write']:13,} {size * ledger.elements['shared', 'read']:19,}")
    assert error < {"f32": 1e-5, "bf16": 2e-2, "f16": 2e-3}[kind]

# %% [markdown]
# The error is that of rounding the weights and the output, since the reference has the same rounded inputs. Through global
# memory goes less than half: numbers are half as wide, and nothing is read beyond the last key. From shared memory comes a
# fraction: what a warp loads of K or V meets all of its 16 queries.
#
# ## The real thing
#
# Layer 13 of SmolLM2 on two sentences, query head 8 and its KV head, D = 64, through the same kernel:

# %%
two = course.real("two_sentences")
q, k, v = (a[None, head:head + 1].astype(f32) for a, head in ((two.q, 8), (two.k, 2), (two.v, 2)))
want = ma.attention(*(a.astype(float) for a in (q, k, v)), causal=True)
largest = np.abs(q @ k.swapaxes(2, 3)).max(), np.abs(want).max()
print(f"{len(two.tokens)} tokens; largest |q . k| {largest[0]:.0f}, largest |out| {largest[1]:.2f}")
for kind in ("bf16", "f16"):
    out, _, inputs = run(tensor, kind, q, k, v, 16, 16)
    same = ma.attention(*(a.astype(float) for a in inputs), causal=True)
    print(f"{kind:5} largest error against float64: {np.abs(out - want).max():.1e}, of which rounding q, k, v alone makes "
          f"{np.abs(same - want).max():.1e}")
    assert np.abs(out - want).max() < {"bf16": 0.05, "f16": 0.006}[kind]

# %% [markdown]
# ## The machine code
#
# The compiler has turned kernel 5 into machine code for an H100; its loop over tiles of keys is kept in
# [tensor.sass](../minattn/gpu/tensor.sass), as NVIDIA's disassembler writes it. A line is one instruction of a warp:
# `R60` is a register that every lane has, `UR4` one of the warp, `P0` a truth value, `RZ` zero; the result comes first;
# `HMMA` names the first of its four, four, two and four registers (result, A, B, C); `.reuse` is a hint to the hardware.
#
# The loop holds code for ragged and masked tiles, too. A **pass** is the way through it for a full tile: at every branch
# that leads onward, jump.

# %%
text = listing.FILE.read_text(encoding="utf-8")
print("\n".join(fill(line, 110, subsequent_indent="// ") for line in text.splitlines() if line.startswith("//")))
code = lines(text)                                                    # each with place, opcode, guarded, target
said = {int(at, 16): line for at, line in re.findall(r"/\*(\w+)\*/ (.*) ;", text)}
number = {line.place: i for i, line in enumerate(code)}
one_pass, i = [], 0
while not one_pass or one_pass[-1].target is None or one_pass[-1].target > one_pass[-1].place:
    one_pass.append(code[i])
    i = i + 1 if code[i].target is None else number[code[i].target]   # a jump back ends the pass
print(f"{len(code)} instructions in the loop, {len(one_pass)} in a pass")

# %% [markdown]
# The first line of each kind in a pass, how many there are, and what it is in
# [tensor.py](../minattn/gpu/kernels/tensor.py):

# %%
MEANING = {
    "LDGSTS": "copy: 16 bytes of the next tile; nobody waits",
    "DEPBAR": "wait_for_copies: my own of this tile",
    "BAR": "syncthreads: and everybody else's",
    "LDSM.16.M88": "ldmatrix: 16 dims of 16 keys of K",
    "LDSM.16.MT88": "ldmatrix.trans: 16 dims of 16 keys of V",
    "HMMA": "mma: 2048 multiply-adds; a C of RZ is all zeros",
    "FMNMX": "max: with !PT the larger one",
    "SHFL": "shfl_xor_sync: a row's maximum, lanes ^ 1 and ^ 2",
    "FADD": "+: sums of weights, differences of maxima",
    "FMUL": "*: outputs times fade, maxima times factor",
    "FFMA": "s * factor - below: what 2 is raised to",
    "MUFU.EX2": "exp2: a weight",
    "F2FP": "pack: two weights rounded into one register",
    "BRA": "jump, if the condition holds",
}
kind_of = {line: next((kind for kind in MEANING if line.opcode.startswith(kind)), "") for line in one_pass}
counts = Counter(kind_of.values())
for kind in sorted(counts, key=lambda kind: (kind not in MEANING, list(kind_of.values()).index(kind))):
    first = next(line for line in one_pass if kind_of[line] == kind)
    shown = said[first.place] if kind in MEANING else "for example " + said[first.place]
    print(f"{counts[kind]:4}  {shown:50} {MEANING.get(kind, 'where things are; conditions')}")
assert (counts["HMMA"], counts["LDSM.16.M88"], counts["LDSM.16.MT88"]) == (64, 16, 16)

# %% [markdown]
# ### The life of a score
#
# Take one score, where the last product of its 64 dims leaves it, and follow its register through the pass, line by line.
# **What to look for:** the maximum reads it in passing; it becomes a power of two, a weight; the sum reads that; with its
# neighbour it is packed into one register, and that is part of A in eight products, one for each 8 dims. No line stores it:
# there is not one store to shared memory in the loop.

# %%
def touched(line):
    """(registers written, registers read) of a line: an HMMA names the first of several."""
    found = [int(n) for n in re.findall(r"\bR(\d+)", said[line.place])]
    widths = {"HMMA": (4, 4, 2, 4), "LDSM": (4, 1)}.get(line.opcode.split(".")[0], (1,) * len(found))
    written, *read = [set(range(n, n + width)) for n, width in zip(found, widths, strict=False)] or [set()]
    return written, set().union(*read)


begin = max(i for i in range(len(one_pass)) if one_pass[i].opcode.startswith("HMMA")
            and not any(line.opcode.startswith("FMNMX") for line in one_pass[:i]))
follow, life = {min(touched(one_pass[begin])[0])}, [one_pass[begin]]
for line in one_pass[begin + 1:]:
    written, read = touched(line)
    if read & follow:
        life.append(line)
    if read & follow and kind_of[line] in ("FFMA", "MUFU.EX2", "F2FP"):
        follow |= written                                             # the score goes on under this name
    else:
        follow -= written                                             # somebody else's name from here on
for line in life:
    print(f"{line.place:6x}   {said[line.place]:46} {MEANING[kind_of[line]]}")
assert Counter(kind_of[line] for line in life)["HMMA"] == 1 + 64 // 8
assert not any(line.opcode.startswith("STS") for line in code)

# %% [markdown]
# ### How fast at most
#
# A processor of an H100 has four **schedulers**; each starts at most one instruction a cycle, of one of its warps. Both products
# of 16 queries and 64 keys, D = 64, are $2 \cdot 16 \cdot 64 \cdot 64$ multiply-adds. Divide by 2048 and you have the
# number of HMMA. Everything else that is started takes a cycle from them.

# %%
hmma = 2 * 16 * 64 * 64 // 2048
flops = hmma * 2 * 2048                                               # a multiply-add is two operations
ldsm = counts["LDSM.16.M88"] + counts["LDSM.16.MT88"]
softmax = sum(counts[kind] for kind in ("FMNMX", "SHFL", "FADD", "FMUL", "FFMA", "MUFU.EX2", "F2FP"))
rest = len(one_pass) - hmma - ldsm - softmax
print(f"HMMA : LDSM : softmax : the rest = {hmma} : {ldsm} : {softmax} : {rest}, together {len(one_pass)}")
processors, schedulers, clock = 132, 4, 1.98e9                        # an H100 (SXM)
issue = flops / len(one_pass) * schedulers * processors * clock / 1e12
print(f"{flops:,} operations / {len(one_pass)} instructions x {schedulers} x {processors} x {clock:.3g} a second "
      f"= {issue:.0f} TFLOP/s at most")
assert hmma == counts["HMMA"]
assert bound(text, "HMMA", hmma // 2) == (len(one_pass), flops)       # the library's own count

# %% [markdown]
# That is the number in [ladder.md](../minattn/gpu/ladder.md). **It is a bound counted from machine code. Nothing was
# run.** And it leaves things out; here are two that can be counted as well. Shared memory gives a processor 128 bytes a
# cycle, 32 banks of 4: an `ldmatrix` of four matrices is 512 bytes, 4 cycles. And a processor makes 16 exponentials a
# cycle (the FlashAttention-3 paper's 3.9 trillion a second). Beside them NVIDIA's figure for the tensor cores, from the
# data sheet.

# %%
rate = processors * clock / 1e12 * flops                              # TFLOP/s, if a pass took a processor one cycle
limits = {"instructions started": rate * schedulers / len(one_pass), "shared memory read": rate / (ldsm * 512 / 128),
          "exponentials": rate / (counts["MUFU.EX2"] * 32 / 16), "tensor cores, the data sheet's": 989}
for name, limit in limits.items():
    print(f"{name:32} {limit:6.0f} TFLOP/s at most")
assert min(limits, key=limits.get) == "shared memory read"
print("\nshared memory alone, if a product loads")
for name, loaded in {"A and B": 512 + 256, "B only: kernel 5": 256, "B for two A's: 32 queries a warp": 128}.items():
    reach = 2 * 2048 / loaded * 128 * processors * clock / 1e12
    print(f"  {name:34} {2 * 2048 / loaded:5.1f} operations a byte  {reach:6.0f} TFLOP/s at most")
    assert reach < 989 / 5 or name != "A and B"

# %% [markdown]
# So **tensor cores need reuse** even from the fast memory. If each product fetched both of its matrices, shared memory
# would allow less than a fifth of what the tensor cores can do. Queries and weights in registers save A. The ways on are
# more queries a warp, which takes more registers, or products that read B from shared memory once for four warps: an H100
# has such instructions (`wgmma`; FlashAttention-3 is built on them), kernel 5 does not use them.
#
# ## What it costs
#
# Bytes from shared memory, counted on whole tiles; instructions, from the compiler's table:

# %%
q, k, v = (rng.standard_normal((1, 1, 32, 16)).astype(f32) for _ in range(3))
per = {}
for name, module, kind in [("4", registers, "f32"), ("5", tensor, "bf16")]:
    _, ledger, _ = run(module, kind, q, k, v, 16, 16, causal=False)
    per[name] = (4 if kind == "f32" else 2) * ledger.elements["shared", "read"] / (2 * 32 * 32 * 16)
    print(f"kernel {name}: {per[name]} bytes a multiply-add")
assert per == {"4": 2.0, "5": 0.125}
table = [line.split(" | ") for line in listing.FILE.with_name("ladder.md").read_text(encoding="utf-8").splitlines()]
for name, D, tile, threads, *_, started, _ in (cells for cells in table if len(cells) > 9):
    if name in ("| 4 registers", "| 5 tensor") and D == "64":
        each = 2 * 64 * 64 * 64 // (int(threads) // 32)
        print(f"{name[2:]}: {started} instructions of a warp for {each:,} multiply-adds, its part of {tile} scores")

# %% [markdown]
# | | kernel 4, FFMA | kernel 5, HMMA |
# |---|---|---|
# | multiply-adds of one instruction of a warp | 32 | 2048 |
# | shared bytes a multiply-add | 2 | 1/8 |
# | numbers | float32 | 16 bits; sums in float32 |
# | weights, between the two products | written to shared memory, and read | stay in registers |
# | the 16 pairs of factors of one result lie in | one lane | 8 lanes |
#
# ## Exercises
#
# **1 (easy).** Write `holder(row, col)`: which lane holds C[row, col], and in which of its registers c0 .. c3? row and
# col are arrays (n,); return the two arrays lane (n,) and register (n,).
#
# <details><summary>Hint</summary>
#
# Which of the eight groups has this row? Which rows does a group have?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# g is row mod 8, t is col // 2. Bit 1 of the register says which of the two rows, bit 0 which number of the pair.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def holder(row, col):
#     return row % 8 * 4 + col // 2, row // 8 * 2 + col % 2
# ```
#
# </details>

# %%
def holder(row, col):
    """row (n,), col (n,) -> lane (n,), register (n,)"""
    return None


check.holder(holder)

# %% [markdown]
# **2 (medium).** Write `fragment_a(a, lane)`: the eight numbers of the matrix a, (16, 16), that a lane holds, in the order of its
# registers a0 to a3, the low half of each first.
#
# <details><summary>Hint</summary>
#
# `g, t = divmod(lane, 4)`. The matrix has four corners of 8 x 8; the lane has the same place in each.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The order of the corners: upper left, lower left, upper right, lower right. From each a slice of two.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def fragment_a(a, lane):
#     g, t = divmod(lane, 4)
#     corners = a[:8, :8], a[8:, :8], a[:8, 8:], a[8:, 8:]
#     return np.concatenate([corner[g, 2 * t:2 * t + 2] for corner in corners])
# ```
#
# </details>

# %%
def fragment_a(a, lane):
    """a (16, 16), lane -> numbers (8,)"""
    return None


check.fragment_a(fragment_a)

# %% [markdown]
# **3 (medium).** Write `pack_weights(left, right)`: left (32, 4) are the registers c0 to c3 of every lane with the
# weights of keys 0 to 7, right those of keys 8 to 15. Return the pairs that become a0 to a3 of every lane: (32, 4, 2),
# the low half first.
#
# <details><summary>Hint</summary>
#
# a0 is row g, and so are c0 and c1. Which row is a1, and of which keys?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# a0 and a1 come from left, a2 and a3 from right; no number changes its order.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def pack_weights(left, right):
#     return np.concatenate([left, right], axis=1).reshape(32, 4, 2)
# ```
#
# </details>

# %%
def pack_weights(left, right):
    """left (32, 4), right (32, 4) -> pairs (32, 4, 2)"""
    return None


check.pack_weights(pack_weights)

# %% [markdown]
# **4 (hard).** Write the kernel `warp_scores(q, k, out)`: one warp sets out (16, 8) to $q k^\top$, q (16, 16) and k (8,
# 16) float32 in global memory. Every lane packs its own pairs, `pack(low, high)`, calls `mma(a0, a1, a2, a3, b0, b1, c0,
# c1, c2, c3)` once, and writes its four numbers.
#
# <details><summary>Hint</summary>
#
# B is $k^\top$: B[d, s] = k[s, d]. So a pair of B lies side by side in a row of k. Which row is lane $4g + t$'s?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# a0 is `pack(q[g, 2 * t], q[g, 2 * t + 1])`; b0 the same of k. a1 is row g + 8; a2, a3 and b1 are 8 dims on. C begins as
# `f32(0)`.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def warp_scores(q, k, out):
#     g, d = cuda.threadIdx.x // 4, cuda.threadIdx.x % 4 * 2
#     a0, a1 = pack(q[g, d], q[g, d + 1]), pack(q[g + 8, d], q[g + 8, d + 1])
#     a2, a3 = pack(q[g, d + 8], q[g, d + 9]), pack(q[g + 8, d + 8], q[g + 8, d + 9])
#     b0, b1 = pack(k[g, d], k[g, d + 1]), pack(k[g, d + 8], k[g, d + 9])
#     zero = f32(0)
#     c0, c1, c2, c3 = mma(a0, a1, a2, a3, b0, b1, zero, zero, zero, zero)
#     out[g, d], out[g, d + 1] = c0, c1
#     out[g + 8, d], out[g + 8, d + 1] = c2, c3
# ```
#
# The four numbers come out where a query's and a key's places meet: row g by g, columns by t.
#
# </details>

# %%
def warp_scores(q, k, out):
    """q (16, 16), k (8, 16): writes out (16, 8); a kernel returns nothing"""
    return None


check.warp_scores(warp_scores)

# %% [markdown]
# ## Three questions
#
# **A warp has 16 queries before it a tile of 64 keys, D = 128. How many `ldmatrix`, how many `mma`?**
#
# <details><summary>Answer</summary>
#
# One `ldmatrix` brings 16 keys by 16 dims: $4 \cdot 8 = 32$ for K, as many for V, 64 in all. Each feeds two products: 128.
#
# </details>
#
# **The maximum of a row is exchanged between four lanes in every pass, its sum only once, after the loop. Why?**
#
# <details><summary>Answer</summary>
#
# All four lanes must subtract the same maximum now, or their weights would not fit together. The sum is needed for the
# division at the end alone; until then each lane keeps, and fades, the sum of its own keys.
#
# </details>
#
# **What if the layouts of C and A did not agree?**
#
# <details><summary>Answer</summary>
#
# The weights would have to change lanes: by shuffles, or through shared memory, written, a barrier, and loaded by
# `ldmatrix`. That is the traffic that shared memory has no room for, as counted above.
#
# </details>
#
# ## Where to go on
#
# - The files: [instructions.py](../minattn/gpu/instructions.py), what a GPU has and what its twins do;
#   [tensor.py](../minattn/gpu/kernels/tensor.py), kernel 5; [bound.py](../minattn/gpu/bound.py), which counts a pass;
#   [ladder.md](../minattn/gpu/ladder.md), all kernels as the compiler made them.
# - NVIDIA's [PTX ISA](https://docs.nvidia.com/cuda/parallel-thread-execution/): "Matrix Fragments for mma.m16n8k16", "ldmatrix".
# - Papers: Dao 2023, [arXiv:2307.08691](https://arxiv.org/abs/2307.08691), section 3.3, the work of the warps; Shah et al. 2024,
#   FlashAttention-3, [arXiv:2407.08608](https://arxiv.org/abs/2407.08608), for products that read shared memory themselves.
# - Choosing a mechanism: [which_when.md](which_when.md).
# - Next: [20 Pages](20_pages.ipynb), where the keys of many texts share one memory.
