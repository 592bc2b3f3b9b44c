# %% [markdown]
# # 18 The memory ledger
#
# 35 minutes · difficulty: hard · read before: [10 FlashAttention I](10_flashattention_tiles.ipynb),
# [17 A GPU on your laptop](17_a_gpu_on_your_laptop.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - count what a kernel reads and writes, by hand, by a formula and by a ledger, and see the three agree,
# - say what tiles save, and how the saving grows with the fast memory that a block has,
# - see bank conflicts, count them in wavefronts, and take them away by padding and by a swizzle.

# %% [markdown]
# ## The question
#
# A GPU multiplies much faster than its memory can bring numbers to multiply. So two kernels with the same arithmetic may
# differ manyfold in time, by what they move. **How much does each kernel of attention move, and through which door?**
#
# The simulator of [lesson 17](17_a_gpu_on_your_laptop.ipynb) keeps a **ledger**: every read and write of global memory
# (large, far, the same for all blocks) and of shared memory (small, near, one for each block). These counts are exact, on
# any machine. They are not times, and no time on a GPU is claimed here.

# %%
import inspect
import math
from collections import Counter

import course
import matplotlib.pyplot as plt
import numpy as np
from course import W_K, W_Q, X

from minattn.core.blocks import block_map
from minattn.core.inputs import prepare
from minattn.core.mask import Mask
from minattn.gpu.kernels import block, naive, registers, rows
from minattn.gpu.problem import problem as gpu_problem
from minattn.gpu.simulator import simulate
from minattn.practice import check

cuda, f32 = None, np.float32                                          # the simulator puts its own `cuda` there
q, k = ((X @ W).astype(f32) for W in (W_Q, W_K))                      # (N, D), (S, D), N = S = D = 4

# %% [markdown]
# ## By hand
#
# One score: a thread reads D numbers of its query and D of its key, and writes one. In a loop over all scores:

# %%
reads, writes, by_hand = 0, 0, np.zeros((4, 4), f32)
for n in range(4):
    for s in range(4):
        for d in range(4):
            by_hand[n, s] += q[n, d] * k[s, d] / 2
            reads += 2                                                # q[n, d] and k[s, d]
        writes += 1
print(f"by hand: {reads} reads, {writes} writes; the formulas 2 N S D = {2 * 4 * 4 * 4}, N S = {4 * 4}")


def scores(q, k, out):
    s, n = cuda.grid(2)
    score = f32(0)
    for d in range(4):
        score += q[n, d] * k[s, d]
    out[n, s] = score / f32(2)


out = np.zeros((4, 4), f32)
ledger = simulate(scores, (2, 2), (2, 2), q, k, out).ledger
print(ledger)
assert (ledger.elements["global", "read"], ledger.elements["global", "write"]) == (reads, writes) == (128, 16)
np.testing.assert_allclose(out, by_hand, rtol=1e-5)
np.testing.assert_allclose(out, q @ k.T / 2, rtol=1e-5)

# %% [markdown]
# Yet q and k together hold only 32 numbers: each one is fetched four times. **Reuse** is all that this lesson is about.
#
# ## Four kernels
#
# The library's ladder, each kernel on the same problem of one head:
#
# | | |
# |---|---|
# | 1 naive | three launches, scores in global memory |
# | 2 rows | tiles in shared memory, a thread a query |
# | 3 block | tiles in shared memory, a thread a score |
# | 4 registers | tiles in shared memory, a thread 4 x 4 scores |
#
# **Predict before you run.** N = 32 queries, S = 48 keys, D = 16, tiles of 16 x 16. Kernels 2, 3 and 4 fetch tiles of K and V
# into shared memory once for each block of 16 queries. How many numbers of K do they read from global memory? And kernel 1?
#
# <details><summary>Answer</summary>
#
# There are 2 blocks of queries, so $2 \cdot S D = 1536$. Kernel 1 reads a key again for each query: $N S D = 24\,576$.
#
# </details>

# %%
def count(module, N, S, D, block_q=16, block_k=16):
    """The ledgers of a kernel's launches on a head with drawn numbers, added up: arrays, elements, wavefronts, requests."""
    rng = np.random.default_rng(18)
    x = prepare(*(rng.standard_normal((1, 1, length, D)).astype(f32) for length in (N, S, S)))
    tiles = block_map(Mask(lambda i, j: j >= 0), x.grid(), block_q, block_k)             # everyone sees everything
    given, total = gpu_problem(x.q, x.k, x.v, tiles, scale=x.scale, dims=(D,)), {}
    for launch in module.launches(given):
        report = simulate(launch.kernel, launch.grid, launch.block, *launch.arguments)
        assert not report.problems
        for name in ("arrays", "elements", "wavefronts", "requests"):
            total[name] = total.get(name, Counter()) + getattr(report.ledger, name)
    return total


def moved(counts):
    """Numbers of q, k, v, scores, out and lse that went through global memory. (The map of tiles is left out.)"""
    return sum(n for (array, _), n in counts["arrays"].items() if array in ("q", "k", "v", "held", "out", "lse"))

# %%
N, S, D, block_q = 32, 48, 16, 16
kernels = {"1 naive": naive, "2 rows": rows, "3 block": block, "4 registers": registers}
ledgers = {name: count(module, N, S, D) for name, module in kernels.items()}
print(f"{'':12} {'q read':>8} {'k read':>8} {'v read':>8} {'scores':>8} {'out, lse':>9} {'all':>9}")
for name, counts in ledgers.items():
    a = counts["arrays"]
    print(f"{name:12} {a['q', 'read']:8,} {a['k', 'read']:8,} {a['v', 'read']:8,} {a['held', 'read'] + a['held', 'write']:8,} "
          f"{a['out', 'write'] + a['lse', 'write']:9,} {moved(counts):9,}")
assert ledgers["2 rows"]["arrays"]["k", "read"] == 2 * S * D == 1536
assert ledgers["1 naive"]["arrays"]["k", "read"] == N * S * D == 24_576

# %% [markdown]
# ## Against the closed forms
#
# - **Kernel 1.** Scores: $2NSD$ reads, $NS$ writes. Softmax: five reads and a write of each score (a walk for the maximum,
#   one for the sum, one to divide; the last two look twice), and the lse. Values: $2NSD$ reads, $ND$ writes.
# - **The definition at its best**, if each of its matrix products could read its two inputs once: $4ND + 4NS$ for
#   $N = S$, and for $S \ne N$ $2ND + 2SD + 4NS$. Kernel 1 is far from it: a thread hands nothing to its neighbour.
# - **FlashAttention-2's forward** (lesson 10): $2ND + N + \lceil N / \text{block}_q \rceil \cdot 2SD$. Kernels 2, 3 and 4 have
#   one and the same traffic: they differ in what happens *inside* of a block.

# %%
forms = {"1 naive": 4 * N * S * D + 7 * N * S + N * D + N}
for name in ("2 rows", "3 block", "4 registers"):
    forms[name] = 2 * N * D + N + math.ceil(N / block_q) * 2 * S * D
for name, counts in ledgers.items():
    print(f"{name:12} ledger {moved(counts):8,}   closed form {forms[name]:8,}")
    assert moved(counts) == forms[name]
best = 2 * N * D + 2 * S * D + 4 * N * S
print(f"{'at its best':12} {'':15}   closed form {best:8,}")
assert best > forms["2 rows"]

# %% [markdown]
# The agreement is exact because the tiles divide the lengths. A last tile that is short is filled up by reading its last row
# again (kernels 3 and 4 do it for queries and keys, kernel 2 for queries), which adds less than a tile each time.
#
# ## Theorem 2: what more fast memory buys
#
# Let a block have $B$ queries and tiles of $B$ keys. Kernel 2 then holds two tiles in shared memory and its queries and outputs
# in registers: $M = 4BD$ numbers of fast memory. Put $B = M / 4D$ into the closed form:
#
# $$
# 2ND + N + \frac{N}{B}\, 2SD = 2ND + N + \frac{8\, N S D^2}{M}
# $$
#
# That is Theorem 2 of the FlashAttention paper for this kernel, with its constant: $O(N^2 D^2 / M)$, against $O(ND + N^2)$ for
# the definition. **What to look for:** with four times the fast memory the part that M moves is a quarter; the curve comes
# down to the lowest line, every number once; and the definition stays where it is.

# %%
length, dim, sizes = 32, 8, [2, 4, 8, 16, 32]
fast = np.array([4 * B * dim for B in sizes])
seen = [moved(count(rows, length, length, dim, B, B)) for B in sizes]
for M, n in zip(fast, seen, strict=True):
    print(f"M = {M:5}: {n:6,} numbers moved; the formula {2 * length * dim + length + 8 * length**2 * dim**2 // M:6,}")
    assert n == 2 * length * dim + length + 8 * length**2 * dim**2 // M
one = 4 * length * length * dim + 7 * length * length + length * dim + length
fig, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
ax.loglog(fast, seen, "o-", color="#26828e", label="kernel 2, counted")
for level, style, label in [(one, "-", "kernel 1"), (4 * length * dim + 4 * length * length, "--", "the definition at its best"),
                            (4 * length * dim + length, ":", "every number once")]:
    ax.axhline(level, color="black", linestyle=style, linewidth=1, label=label)
ax.set(xlabel="M, numbers of fast memory that a block uses", ylabel="numbers through global memory")
ax.set_xticks(fast, [str(M) for M in fast])
ax.minorticks_off()
ax.set_title(f"one head, N = S = {length}, D = {dim}")
ax.legend(fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.93));

# %% [markdown]
# With little fast memory, tiles move *more* than the definition would at its best, and that is no contradiction: the
# definition at its best needs fast memory, too.
#
# ## Inside of a block
#
# Global traffic is the same for kernels 2, 3 and 4. What a number costs next is the way from shared memory to the thread
# that multiplies. Per multiply-add of the two products, of which a head has $2NSD$:

# %%
products = 2 * N * S * D
print(f"{'':12} {'shared reads':>13} {'a multiply-add':>15} {'kept by a thread':>40}")
keeps = {"2 rows": "a query and an output: 2 D numbers", "3 block": "D / 16 numbers of an output",
         "4 registers": "4 x 4 scores, 4 x 4 of the output"}
for name, kept in keeps.items():
    shared = ledgers[name]["elements"]["shared", "read"]
    print(f"{name:12} {shared:13,} {shared / products:15.2f} {kept:>40}")
ratio = [ledgers[name]["elements"]["shared", "read"] / products for name in keeps]
assert ratio[2] < ratio[0] < ratio[1]

# %% [markdown]
# Kernel 3 reads both factors of each product. Kernel 2 has one of them in registers, but its thread keeps $2D$ numbers,
# too many for large D. Kernel 4 has few threads with a small tile each: what it reads serves four times. (It has the tile
# sizes of a test here. With 64 x 64 and D = 64 the ratio is the same, and its loads bring four numbers at a time.)
#
# ## Banks
#
# Shared memory is 32 **banks**; word w, 4 bytes, lies in bank w mod 32. A bank gives one word a step, to as many lanes as
# want that word. When a warp's 32 lanes read 32 words, it takes as many steps, **wavefronts**, as the busiest bank has
# different words to give. A tile has rows of 32 words; lane i reads row i, number d, as kernel 3 does with its keys.
#
# **Predict before you run.** In which banks are these 32 words? How many wavefronts does the read take? And if the rows are 33
# words apart?
#
# <details><summary>Answer</summary>
#
# Word $32 i + d$ is in bank d, for every lane: 32 wavefronts. With rows of 33 words it is $33 i + d$, bank $(i + d)$ mod 32:
# all different, one wavefront. The price is one unused word a row.
#
# </details>
#
# A **swizzle** does it without the unused word: number d of row i is kept in column $d \oplus (i \bmod 32)$, exclusive or. Within
# a row that is only another order; down a column, all banks are different.

# %%
PLACES = {"plain": lambda i, d: i * 32 + d,
          "padded": lambda i, d: i * 33 + d,
          "swizzled": lambda i, d: i * 32 + (d ^ i % 32)}


def make_walk(place):
    def walk(x, out):
        lane = cuda.threadIdx.x
        tile = cuda.shared.array(32 * 33, f32)
        for i in range(32):
            tile[place(i, lane)] = x[i, lane]                         # lanes along a row
        cuda.syncthreads()
        total = f32(0)
        for d in range(32):
            total += tile[place(lane, d)]                             # lanes down a column
        out[lane] = total

    return walk

# %%
x = np.random.default_rng(0).standard_normal((32, 32)).astype(f32)
for name, place in PLACES.items():
    out = np.zeros(32, f32)
    ledger = simulate(make_walk(place), 1, 32, x, out).ledger
    np.testing.assert_allclose(out, x.sum(axis=1), rtol=1e-4, atol=1e-5)
    (write, read) = (ledger.wavefronts[key] for key in sorted(ledger.wavefronts))
    words = max(place(i, d) for i in range(32) for d in range(32)) + 1
    print(f"{name:9} 32 writes {write:4} wavefronts   32 reads {read:5} wavefronts   {words} words")
    assert (write, read) == (32, 1024 if name == "plain" else 32)

# %% [markdown]
# Drawn for the read of d = 3: lanes down, banks across. **What to look for:** a column of the picture with n marks is a
# bank that needs n steps. One bank for all in the first; a diagonal in the second; in the third no two lanes in one
# column either.

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 3.7), layout="constrained", sharey=True)
for ax, (name, place) in zip(axes, PLACES.items(), strict=True):
    hit = np.zeros((32, 32))
    for lane in range(32):
        hit[lane, place(lane, 3) % 32] = 1
    ax.imshow(hit, cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest")
    ax.set(title=f"{name}: {hit.sum(axis=0).max():.0f} wavefront{'s' if hit.sum(axis=0).max() > 1 else ''}", xlabel="bank")
    ax.set(xticks=range(0, 32, 8), yticks=range(0, 32, 8))
axes[0].set_ylabel("lane, reads its row's number 3");

# %% [markdown]
# ## Kernel 4's swizzle
#
# Kernel 4 reads 16 bytes a lane, four words that lie in four banks. Such a read goes in groups of eight lanes: eight
# lanes, four banks each, are all 32. A row of keys is 64 words; its chunk c, four words, is kept at $c \oplus (\text{key}
# \bmod 8)$. **What to look for:** without, eight lanes wait for the same four banks; with it, they share all 32.

# %%
fig, axes = plt.subplots(1, 2, figsize=(9.5, 2.5), layout="constrained", sharey=True)
for ax, name, turn in [(axes[0], "plain", 0), (axes[1], "swizzled", 7)]:
    hit = np.zeros((8, 32))
    for lane in range(8):                                             # lane reads chunk 2 of key `lane`
        first = lane * 64 + (2 ^ lane & turn) * 4
        hit[lane, [word % 32 for word in range(first, first + 4)]] = 1
    steps = hit.sum(axis=0).max()
    ax.imshow(hit, cmap="Blues", vmin=0, vmax=1.3, aspect="auto", interpolation="nearest")
    ax.set(title=f"{name}: {steps:.0f} wavefront{'s' if steps > 1 else ''} for eight lanes", xlabel="bank")
    ax.set(xticks=range(0, 32, 4), yticks=range(0, 8, 2))
    assert steps == (1 if turn else 8)
axes[0].set_ylabel("lane");

# %% [markdown]
# ## The real kernels, built broken
#
# Now in the library's own source: kernel 3 without its padding ($D$ for $D + 1$), kernel 4 without its swizzle, everything
# else as it is. The numbers that come out are the same, nothing is reported, and no formula for traffic sees it: only the
# wavefronts do. (The simulator counts each of the four words of a 16-byte load as a request of its own.)

# %%
def changed(module, factory, old, new):
    """The module's `launches` over its source with one piece exchanged."""
    source = inspect.getsource(module)
    assert old in source
    names = {"__name__": module.__name__, "__package__": module.__package__}
    exec(compile(source.replace(old, new), f"<{factory}, changed>", "exec"), names)
    return type("Changed", (), {"launches": staticmethod(names["launches"])})


pairs = {
    "3 block": (block, changed(block, "make_block", "(D + 1)", "D"), (16, 16)),
    "4 registers": (registers, changed(registers, "make_registers", "swizzle = min(8, chunk // VECTOR) - 1", "swizzle = 0"),
                    (32, 32)),
}
print(f"{'':12} {'requests':>9} {'wavefronts':>11}   {'without its padding or swizzle':>30}")
for name, (whole, broken, tile) in pairs.items():
    found = [count(module, 32, 32, 32, *tile) for module in (whole, broken)]
    steps = [sum(counts["wavefronts"].values()) for counts in found]
    print(f"{name:12} {sum(found[0]['requests'].values()):9,} {steps[0]:11,}   {steps[1]:30,}")
    assert steps[1] > 1.5 * steps[0]
    assert moved(found[0]) == moved(found[1])

# %% [markdown]
# ## Sectors
#
# Global memory has a grain, too: it comes in **sectors** of 32 bytes. 32 lanes that read 32 neighbouring float32 take 4
# sectors; 32 lanes that read down a column of a wide array take one each, and throw seven eighths away.

# %%
def make_copy(down):
    def copy(x, out):
        lane = cuda.threadIdx.x
        for i in range(32):
            out[lane] = x[lane, i] if down else x[i, lane]

    return copy


for name, down in {"along a row": False, "down a column": True}.items():
    ledger = simulate(make_copy(down), 1, 32, x, np.zeros(32, f32)).ledger
    sectors = sum(n for (_, array), n in ledger.sectors.items() if array == "x")
    print(f"lanes {name:14} {sectors / 32:4.0f} sectors for each read of 32 numbers")
    assert sectors == 32 * (32 if down else 4)

# %% [markdown]
# ## The real thing
#
# A head of SmolLM2 has D = 64, and works on a text of a thousand tokens. The closed forms, which the ledger has just
# confirmed, for one such head; tiles of 64, as kernel 4 has them on a GPU. And the real q, k, v of two sentences, through
# kernel 2: what the ledger counts depends on lengths alone, not on what the numbers are.

# %%
two = course.real("two_sentences")
real = [a[head:head + 1][None].astype(f32) for a, head in ((two.q, 8), (two.k, 2), (two.v, 2))]      # (1, 1, N, 64)
drawn = prepare(*real)
tiles = block_map(Mask(lambda i, j: j >= 0), drawn.grid(), 5, 5)
launch = rows.launches(gpu_problem(drawn.q, drawn.k, drawn.v, tiles, scale=drawn.scale, dims=(64,)))[0]
ledger = simulate(launch.kernel, launch.grid, launch.block, *launch.arguments).ledger
n = len(two.tokens)
form = 2 * n * 64 + n + math.ceil(n / 5) * 2 * n * 64
print(f"{n} tokens of SmolLM2, tiles of 5: ledger {moved({'arrays': ledger.arrays}):,}, closed form {form:,}")
assert moved({"arrays": ledger.arrays}) == form

n, d = 1024, 64
table = {"1 naive": 4 * n * n * d + 7 * n * n + n * d + n, "the definition at its best": 4 * n * d + 4 * n * n,
         "2, 3, 4 with 64 queries a block": 2 * n * d + n + math.ceil(n / 64) * 2 * n * d, "every number once": 4 * n * d + n}
for name, numbers in table.items():
    print(f"{name:32} {numbers:12,} numbers, {4 * numbers / 2**20:8.1f} MiB in float32")

# %% [markdown]
# ## What it costs
#
# | | numbers through global memory, one head | shared reads a multiply-add | bank conflicts |
# |---|---|---|---|
# | kernel 1 | $4NSD + 7NS + ND + N$ | none | none |
# | kernel 2 | $2ND + N + \lceil N / \text{block}_q \rceil\, 2SD$ | 1 | none: all lanes read the same word |
# | kernel 3 | the same | 2 and more | none on its keys, by padding |
# | kernel 4 | the same | 1/2 | none on its keys, by the swizzle |

# %%
assert ratio[0] == 1
assert ratio[1] > 2
assert ratio[2] == 0.5

# %% [markdown]
# ## Exercises
#
# **1 (easy).** Write `score_traffic(N, S, D)`: how many numbers the first launch of kernel 1 moves, reads and writes of global
# memory together. One thread a score; nothing is shared.
#
# <details><summary>Hint</summary>
#
# What does one thread read, and what does it write?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# D numbers of a query, D of a key, one score. How many threads have work?
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def score_traffic(N, S, D):
#     return N * S * (2 * D + 1)
# ```
#
# </details>

# %%
def score_traffic(N, S, D):
    """-> numbers moved, an int"""
    return None


check.score_traffic(score_traffic)

# %% [markdown]
# **2 (medium).** Write `wavefronts(words)`: words (32,) are the numbers of the words of shared memory that the lanes of one warp
# read at once. In how many wavefronts do they come?
#
# <details><summary>Hint</summary>
#
# A bank gives a word to all lanes that want it in one step. So which words count?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Take each word once. Count how many of them lie in each bank, word mod 32; the fullest bank decides.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def wavefronts(words):
#     banks = np.unique(words) % 32
#     return np.bincount(banks).max()
# ```
#
# </details>

# %%
def wavefronts(words):
    """words (32,) -> steps, an int"""
    return None


check.wavefronts(wavefronts)

# %% [markdown]
# **3 (medium).** Write `swizzled(row, c, chunks)`: a tile has rows of `chunks` chunks (a power of two), row after row.
# Chunk c of a row is kept in column c ^ (row mod chunks) of that row. At which place of the tile, counted in chunks, does
# it lie? row and c are arrays (n,); so is the answer.
#
# <details><summary>Hint</summary>
#
# Where would it lie without the swizzle?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `row * chunks` is where the row begins; add the swizzled column, in brackets.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def swizzled(row, c, chunks):
#     return row * chunks + (c ^ row % chunks)
# ```
#
# Exclusive or with a number below a power of two exchanges the chunks of a row among themselves: none gets lost.
#
# </details>

# %%
def swizzled(row, c, chunks):
    """row (n,), c (n,) -> places (n,)"""
    return None


check.swizzled(swizzled)

# %% [markdown]
# **4 (hard).** Write `transpose_tile(x, out)`: x and out are (32, 32), one warp. Set `out[i, j] = x[j, i]`, so that neighbouring
# lanes read neighbouring numbers of x, write neighbouring numbers of out, and no read or write of shared memory takes more than
# one wavefront.
#
# <details><summary>Hint</summary>
#
# Lanes along a row in both global arrays. So who turns? The tile in shared memory, which is written along rows and read down
# columns.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `tile = cuda.shared.array(32 * 33, f32)`, rows 33 apart; a barrier between writing and reading.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def transpose_tile(x, out):
#     lane = cuda.threadIdx.x
#     tile = cuda.shared.array(32 * 33, f32)
#     for i in range(32):
#         tile[i * 33 + lane] = x[i, lane]
#     cuda.syncthreads()
#     for i in range(32):
#         out[i, lane] = tile[lane * 33 + i]
# ```
#
# A swizzle passes as well.
#
# </details>

# %%
def transpose_tile(x, out):
    """x (32, 32): writes out (32, 32)"""
    return None


check.transpose_tile(transpose_tile)

# %% [markdown]
# ## Three questions
#
# **Kernels 2, 3 and 4 move the same numbers through global memory. Why write three?**
#
# <details><summary>Answer</summary>
#
# They differ in what a thread must keep and in how often it goes to shared memory: 1, 2 or half a read for each
# multiply-add. Global traffic is only the outermost door.
#
# </details>
#
# **All 32 lanes of kernel 2 read the same word of a key at once. How many wavefronts?**
#
# <details><summary>Answer</summary>
#
# One. A bank gives a word to all who want it: a broadcast.
#
# </details>
#
# **Twice the fast memory: how does the traffic of kernel 2 change?**
#
# <details><summary>Answer</summary>
#
# The part $8NSD^2/M$ is halved; $2ND + N$ stays. It cannot fall below every number once.
#
# </details>
#
# ## Where to go on
#
# - The files: [minattn/gpu/ledger.py](../minattn/gpu/ledger.py), which counts; the kernels
#   [naive.py](../minattn/gpu/kernels/naive.py), [rows.py](../minattn/gpu/kernels/rows.py),
#   [block.py](../minattn/gpu/kernels/block.py), [registers.py](../minattn/gpu/kernels/registers.py).
# - Papers: Dao et al. 2022, [arXiv:2205.14135](https://arxiv.org/abs/2205.14135), Theorem 2; Dao 2023,
#   [arXiv:2307.08691](https://arxiv.org/abs/2307.08691), Algorithm 1.
# - The next lesson, [19 Tensor cores](19_tensor_cores.ipynb): matrices in one instruction. Back to the kernels themselves:
#   [17 A GPU on your laptop](17_a_gpu_on_your_laptop.ipynb). Choosing a mechanism: [which_when.md](which_when.md).
