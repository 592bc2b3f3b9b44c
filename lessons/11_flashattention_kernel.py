# %% [markdown]
# # 11 FlashAttention II: a kernel for your own machine
#
# 60 minutes · difficulty: hard · read before: [02 Scaling](02_scaling.ipynb),
# [10 FlashAttention I](10_flashattention_tiles.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - measure how fast your processor multiplies at best, and say which share of that a piece of code reaches,
# - draw a register tile and say why it makes a matrix product fast,
# - replace `exp` by a rounding, a polynomial and a shift, and measure its error,
# - deal uneven work to threads, and say what a causal mask does to a fixed share for each.

# %% [markdown]
# ## The question
#
# Lesson 10 computed attention tile by tile and moved far fewer numbers. But it ran in NumPy, and small tiles took longer
# there than two large products. When does the tiled form win on an ordinary processor? The answer is a *kernel*: the few
# lines in which all the time is spent, written for the machine. We write eight, each with one new idea, measure each, and
# end at the library's own. An idea that gains nothing stays in the picture at the end.
#
# Everything is measured while the cells run, so your numbers are those of your machine, and the order of the kernels may
# be another one there. What is true of every machine stands in the text; what is true of one stands in the output.
#
# A few words about processors are enough:
#
# - **Registers** are the few dozen places inside the processor where it computes. A **load** brings numbers from memory
#   into one, a **store** takes them back.
# - An **instruction** is one step of machine code. A **vector** instruction (SIMD, 'single instruction, multiple data')
#   does the same to several numbers at once, that stand side by side in one register, each in a **lane** of its own.
# - A **fused multiply-add** (FMA) is one instruction for $ab + c$, rounded once. It counts as two floating-point operations
#   (**FLOPs**); a GFLOP is a billion of them.
# - **Caches** are small, fast memories between the registers and the main memory, the smaller the faster. They keep what was
#   used last.
# - A **thread** is a sequence of instructions; a processor with two cores runs two at the same time.
#
# **Numba** compiles a Python function to machine code when it is first called. Most of the waiting in this lesson is that.

# %%
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import course
import matplotlib.pyplot as plt
import numba
import numpy as np
from course import TOKENS, W_K, W_Q, W_V, X

import minattn as ma
from minattn.flash import cpu, forward, simd, tiles
from minattn.flash.simd import LANES, add, at, fma, largest, load, mul, plus, splat, store, sub
from minattn.flash.threads import take
from minattn.flash.tiles import COLUMNS, KEYS, PANEL, ROWS
from minattn.practice import check

F, THREADS = np.float32, min(2, numba.config.NUMBA_NUM_THREADS)
print(f"a vector is {LANES} float32 numbers here; threads: 1, later {THREADS}; "
      f"NumPy's products use {os.environ.get('OPENBLAS_NUM_THREADS', 'all')} thread(s)")

# %% [markdown]
# (The lessons are built, and `minattn learn` opens them, with one thread for NumPy's products. If the line above says
# 'all', set `OPENBLAS_NUM_THREADS=1` before you start Jupyter, or the comparison is not fair.)
#
# ## The ceiling
#
# Whether an attention is fast can be said only beside what the processor could do at best. So the first function does nothing
# but multiply-adds, in registers, without a load or a store. It carries ten sums, because a multiply-add takes a few
# cycles (ticks of the processor's clock) until its result is there, and a sum can take its next step only then: meanwhile
# the others go on. Nothing that is made of vector instructions is faster. That is the **ceiling**.
#
# Its words are the library's, from [simd.py](../minattn/flash/simd.py), each one operation on a whole vector: `splat` puts a
# number into every lane, `fma(a, b, c)` is $ab + c$, `add`, `sub`, `mul` and `largest` work lane by lane, and `load` and
# `store` go to an address and back. `at(x, i, 0, 0)` is the address of `x[i]`, and `plus(p, n)` that of the number `n` places
# further on.

# %%
@numba.njit(nogil=True)                                               # nogil: two threads may run it at the same time
def multiply_only(times):
    half, tenth = splat(F(0.5)), splat(F(0.1))
    a, b, c, d, e = splat(F(0)), splat(F(1)), splat(F(2)), splat(F(3)), splat(F(4))
    f, g, h, i, j = splat(F(5)), splat(F(6)), splat(F(7)), splat(F(8)), splat(F(9))
    for _ in range(times):
        a, b, c = fma(a, half, tenth), fma(b, half, tenth), fma(c, half, tenth)
        d, e, f = fma(d, half, tenth), fma(e, half, tenth), fma(f, half, tenth)
        g, h = fma(g, half, tenth), fma(h, half, tenth)
        i, j = fma(i, half, tenth), fma(j, half, tenth)
    out = np.empty(LANES, F)                                          # use the sums, or the compiler leaves them out
    store(at(out, 0, 0, 0), 0, add(add(add(a, b), add(c, d)), add(add(e, f), add(add(g, h), add(i, j)))))
    return out


# %%
def multiply_rate(threads, times=200_000):                            # GFLOP/s
    spent = course.seconds(lambda: list(pool.map(multiply_only, [times] * threads)), 3)
    return threads * times * 10 * LANES * 2 / spent / 1e9


pool = ThreadPoolExecutor(THREADS)
multiply_only(1)                                                      # compiled here
ceiling = {threads: max(multiply_rate(threads) for _ in range(200)) for threads in {1, THREADS}}
for threads, rate in ceiling.items():
    print(f"the ceiling of {threads} thread(s): {rate:.0f} GFLOP/s")

# %% [markdown]
# ## The problem
#
# One head: $N = 960$ queries, $S = 1920$ keys, $D = 64$, float32. Attention does two products, $QK^\top$ and $PV$, each
# $N \cdot S \cdot D$ multiply-adds: $4NSD$ FLOPs. The softmax is not counted: it is what we would like to have for nothing.
#
# `measure` first asserts that a kernel is right, by comparing it with the plain form in float64. Then it times kernel and
# ceiling in turns for half a second and takes the best of each: what else your computer does can only slow them. (So the
# ceiling may still rise a little on the way.) Slow kernels are timed on 192 of the queries: each query is on its own, so the
# rate is the same. To see it at work, first a large product by NumPy, `sgemm` by its old name.

# %%
N, S, D = 960, 1920, 64
rng = np.random.default_rng(11)
q = rng.standard_normal((N, D), dtype=np.float32)
k, v = rng.standard_normal((2, S, D), dtype=np.float32)
want = ma.attention(q.astype(float), k.astype(float), v.astype(float))  # the plain form, in float64
ladder = {}                                                           # name: (GFLOP/s, threads)


def best_time(run, threads=1, patience=0.5):                          # in turns with the ceiling, for so many seconds
    best, stop = math.inf, time.perf_counter() + patience
    while time.perf_counter() < stop:
        best = min(best, course.seconds(run, 1))
        ceiling[threads] = max(ceiling[threads], multiply_rate(threads))
    return best


# %%
def measure(name, kernel, *, queries=q, rows=None, flops=4 * N * S * D, want=want, threads=1, note=True):
    out = kernel(queries)                                             # this call compiles
    assert want is None or np.abs(out - want).max() < 1e-5 * np.abs(want).max(), name
    part = queries[:rows]
    rate = flops * len(part) / len(queries) / best_time(lambda: kernel(part), threads) / 1e9
    print(f"{name:34} {rate:7.1f} GFLOP/s {rate / ceiling[threads]:6.1%} of the ceiling")
    if note:
        ladder[name] = rate, threads
    return rate


# %%
square = rng.standard_normal((1024, 1024), dtype=np.float32)
measure("sgemm, 1024 x 1024", lambda a: a @ square, queries=square, want=None, flops=2 * 1024**3);

# %% [markdown]
# (On a Mac, NumPy may multiply on a matrix unit that Numba does not use. Then sgemm, and kernel 0, can be above this ceiling.)
#
# ## Kernel 0: NumPy
#
# The form of lesson 02.

# %%
def kernel_0(q, k, v):
    scores = q @ k.T * np.float32(1 / math.sqrt(q.shape[1]))          # (N, S), all of it
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p @ v / p.sum(axis=1, keepdims=True)


zero = measure("0 NumPy", lambda q: kernel_0(q, k, v))

# %% [markdown]
# Kernel 0 is a strong opponent: its products *are* sgemm. What keeps it below sgemm's rate is mostly the softmax, which walks
# over all $N \cdot S$ scores several times.
#
# ## Predict before you run
#
# Kernel 1 will be the textbook's three loops, compiled. One row of scores in memory, and no call of NumPy.
#
# 1. Is it faster than NumPy or slower?
# 2. How many numbers does it load for one multiply-add of a score, `score += q[n, d] * k[s, d]`?
#
# <details><summary>Answer</summary>
#
# 1. Slower, by far. Compiled does not mean fast: the sum of a score takes one number at a time, and each addition waits for
#    the one before it. The cell below measures it.
# 2. Two, `q[n, d]` and `k[s, d]`. Keep that number in mind.
#
# </details>
#
# ## Kernel 1: plain loops, one score at a time
#
# A function under `@numba.njit` still has the Python function inside, as `.py_func`. So we can run the very same lines
# uncompiled on the course's four tokens, then compiled, then as two products, then by the library.

# %%
@numba.njit
def kernel_1(q, k, v):
    (N, D), S = q.shape, len(k)
    out, p, scale = np.zeros_like(q), np.empty(S, q.dtype), 1 / math.sqrt(D)
    for n in range(N):
        top = -np.inf
        for s in range(S):
            score = q[n, 0] * k[s, 0]
            for d in range(1, D):
                score += q[n, d] * k[s, d]
            p[s] = score * scale
            top = max(top, p[s])
        total = 0.0
        for s in range(S):
            p[s] = math.exp(p[s] - top)
            total += p[s]
            for d in range(D):
                out[n, d] += p[s] * v[s, d]
        for d in range(D):
            out[n, d] /= total
    return out


# %%
small = [X @ w for w in (W_Q, W_K, W_V)]                              # (4, 4) each: N = S = D = 4
uncompiled, compiled, library = kernel_1.py_func(*small), kernel_1(*small), ma.attention(*small)
for other in (compiled, kernel_0(*small), library):
    np.testing.assert_allclose(uncompiled, other, rtol=1e-5)
sat = TOKENS.index("sat")
scores = [sum(small[0][sat, d] * small[1][s, d] for d in range(4)) / 2 for s in range(4)]
print("scores of 'sat':", np.round(scores, 2), " output:", uncompiled[sat].round(2))
one = measure("1 plain loops", lambda q: kernel_1(q, k, v), rows=192)
print(f"kernel 0 is {zero / one:.1f} times as fast as kernel 1")

# %% [markdown]
# ## Kernel 2: one permission
#
# The compiler could take `LANES` neighbouring `d` of a score in one vector instruction. It does not, because that adds the
# numbers in another order, and in floating point the order shows:

# %%
big, little = np.float32(1e8), np.float32(1)
print("(big + little) - big =", (big + little) - big, "   (big - big) + little =", (big - big) + little)

FAST = {"reassoc", "contract", "nsz", "arcp"}
kernel_2 = numba.njit(fastmath=FAST)(kernel_1.py_func)
two = measure("2 sums in any order", lambda q: kernel_2(q, k, v), rows=192)
print(f"kernel 2 is {two / one:.2f} times as fast as kernel 1")

# %% [markdown]
# `fastmath=True` would give the permission too, but it also promises that there is no infinity and no NaN, and our `top`
# begins at $-\infty$: so four permissions are named one by one (sums in any order; multiply and add as one FMA; the sign
# of 0 may change; division by multiplying with the reciprocal). No line of the kernel was touched.
#
# ## Kernel 3: tiles
#
# Now lesson 10's idea, in the same loops: a block of 64 queries meets 64 keys after 64 keys, with `top`, `total` and `fade`.
# The scores of a whole row are never kept; the division by `total` comes at the end. Guess its time before you look.

# %%
@numba.njit(fastmath=FAST)
def tiles_3(q, k, v, size=64):
    (N, D), S, scale = q.shape, len(k), np.float32(1 / math.sqrt(q.shape[1]))
    out, p = np.zeros_like(q), np.empty(size, q.dtype)
    top, total = np.full(N, -np.inf, q.dtype), np.zeros(N, q.dtype)
    for first in range(0, N, size):
        for start in range(0, S, size):
            for n in range(first, first + size):
                old = top[n]
                for s in range(size):
                    score = q[n, 0] * k[start + s, 0]
                    for d in range(1, D):
                        score += q[n, d] * k[start + s, d]
                    p[s] = score * scale
                    top[n] = max(top[n], p[s])
                fade = math.exp(old - top[n])
                total[n] *= fade
                for d in range(D):
                    out[n, d] *= fade
                for s in range(size):
                    p[s] = math.exp(p[s] - top[n])
                    total[n] += p[s]
                    for d in range(D):
                        out[n, d] += p[s] * v[start + s, d]
    return out, total


# %%
def kernel_3(q, k, v):
    out, total = tiles_3(q, k, v)
    return out / total[:, None]


three = measure("3 tiles, online softmax", lambda q: kernel_3(q, k, v), rows=192)
print(f"kernel 3 is {three / two:.2f} times as fast as kernel 2")

# %% [markdown]
# This is FlashAttention, and it is nowhere near the ceiling. Tiles save *traffic to slow memory*. Whether that was what we
# waited for, a **roofline** tells.
#
# ## The roofline
#
# A piece of code does some FLOPs for each byte that it moves to or from slow memory: its **arithmetic intensity** $I$. A
# machine can do $\pi$ FLOPs a second, and can move $\beta$ bytes a second. So the code cannot be faster than
#
# $$
# \min(\pi,\; \beta I) \quad \text{FLOPs a second}.
# $$
#
# Drawn over $I$, this bound is a slope with a flat roof. Below, $\pi$ is the ceiling and $\beta$ a copy of 64 MiB, read
# and written, both measured. The bytes are lesson 10's: all at once, $q, k, v$ and out once and $N \cdot S$ scores four times
# (scores and weights, out and in); in tiles, $k$ and $v$ once for every block of $b$ queries, which gives about $I = b / 2$;
# a decoding step has one query. In the picture, look how far below the roof the hollow dots are.

# %%
def intensity_of(N, numbers):
    return 4 * N * S * D / (4 * numbers)                              # four bytes a number


source, target = np.ones((2, 64 << 18), np.float32)
assert source.nbytes == 64 << 20
beta, pi = 2 * source.nbytes / course.seconds(lambda: np.copyto(target, source), 5) / 1e9, ceiling[1]
points = {"one query (decoding)": intensity_of(1, 2 * D + 2 * S * D),
          "all at once": intensity_of(N, 2 * N * D + 2 * S * D + 4 * N * S)}
points |= {f"blocks of {b} queries": intensity_of(N, 2 * N * D + N + N // b * 2 * S * D) for b in (64, 240)}
for name, found in points.items():
    print(f"{name:22} {found:6.1f} FLOPs a byte: at most {min(pi, beta * found):5.0f} GFLOP/s")
print(f"the roofs: {pi:.0f} GFLOP/s and {beta:.1f} GB/s; they meet at {pi / beta:.0f} FLOPs a byte")
assert round(4 * N * S / 1e6) == 7                                    # MB, named below

# %%
fig, ax = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
axis = np.geomspace(0.2, 1000, 200)
ax.loglog(axis, np.minimum(pi, beta * axis), color="black", label="the roof")
for (name, x), color in zip(points.items(), plt.get_cmap("viridis")(np.linspace(0, 0.9, 4)), strict=True):
    ax.plot(x, min(pi, beta * x), "o", color=color, label=name)
for name, x in [("0 NumPy", points["all at once"]), ("1 plain loops", points["all at once"]),
                ("3 tiles, online softmax", points["blocks of 64 queries"])]:
    ax.plot(x, ladder[name][0], "o", mfc="white", mec="black")
    ax.annotate(f"{name.split(',')[0]}, measured", (x, ladder[name][0]), (8, -3), fontsize=8,
                textcoords="offset points")
ax.set(xlabel="arithmetic intensity (FLOPs a byte of slow memory)", ylabel="GFLOP/s")
ax.legend(fontsize=8, loc="upper left");

# %% [markdown]
# A dot far below the roof is not held back by the rate of slow memory, and a higher intensity cannot help it. (At this size
# even all the scores, 7 MB, may stay in the caches, and then the memory's roof is higher still. Where caches are smaller, or
# arithmetic is faster beside memory, as on a GPU, tiles come first.)
#
# One thing that does hold it back is much nearer: the way from the nearest cache into the registers. A multiply-add of a score
# needs two loads. Many processors start two loads and two multiply-adds in a cycle: then at two loads for each multiply-add,
# half of the multipliers stand idle at best. Vectors change nothing of that: they load and multiply several numbers at once,
# and still load twice.
#
# ## The register tile
#
# A product $C = AB$ can be summed in another order: not one $C_{ij}$ after the other, but one $d$ after the other. Column
# $d$ of $A$ and row $d$ of $B$ give an **outer product**, which adds something to *every* number of $C$:

# %%
C = np.zeros((4, 4))
for d in range(4):
    C += X[:, d, None] * W_Q[d]                                       # (4, 1) * (4,): an outer product
    print(f"after {d + 1} outer products, the row of 'sat':", C[sat].round(2))
assert np.allclose(C, X @ W_Q)

# %% [markdown]
# With $R$ numbers of $A$ and $c$ vectors of $B$ in registers, one step does $R \cdot c$ vector multiply-adds for
# $R + c$ loads. The tile of $C$ stays in registers all the while, and is stored once. That is the **register tile**. In the
# picture, one step of a tile of 4 rows x 2 vectors of 8 lanes: 6 loads for 8 multiply-adds, where kernel 2 has 2 for 1.

# %%
boxes = [(0, 4 - r, 1, f"a{r}", "#fde08a") for r in range(4)]         # x, y, numbers, text, colour
boxes += [(2 + 8 * c, 6, 8, f"b{c}", "#9fd0cb") for c in range(2)]
boxes += [(2 + 8 * c, 4 - r, 8, f"+= a{r} * b{c}", "#d8d8d8") for r in range(4) for c in range(2)]
fig, ax = plt.subplots(figsize=(8, 3), layout="constrained")
for x, y, numbers, text, color in boxes:
    for lane in range(numbers):
        ax.add_patch(plt.Rectangle((x + lane, y), 0.93, 0.9, color=color))
    ax.text(x + numbers / 2, y + 0.45, text, ha="center", va="center", fontsize=9, color="black")
ax.plot([9.97, 9.97], [0.8, 7.1], color="black", lw=1)
for x, y, text in [(0.5, 0.1, "4 numbers of A\n(column d)"), (10, 7.5, "2 vectors of B (row d)"),
                   (10, 0.3, "4 x 16 sums of C: 8 vector registers")]:
    ax.text(x, y, text, ha="center", va="center", fontsize=9)
ax.set(xlim=(-2.2, 18.4), ylim=(-0.6, 8), aspect="equal")
ax.axis("off");

# %% [markdown]
# Whether a loop in Python becomes vector code is the compiler's guess, so the tile is written in the words of `simd.py`. Two
# rows x two vectors:

# %%
@numba.njit
def tile_2_by_2(c, a, b):                                             # (2, 2 LANES) = (2, depth) @ (depth, 2 LANES)
    c_at, b_at, row = at(c, 0, 0, 0), at(b, 0, 0, 0), 2 * LANES
    c00 = c01 = c10 = c11 = splat(F(0))                               # four sums of LANES numbers each
    for d in range(a.shape[1]):
        b0, b1 = load(b_at, d * row), load(b_at, d * row + LANES)
        a0, a1 = splat(a[0, d]), splat(a[1, d])
        c00, c01 = fma(a0, b0, c00), fma(a0, b1, c01)
        c10, c11 = fma(a1, b0, c10), fma(a1, b1, c11)
    store(c_at, 0, c00)
    store(c_at, LANES, c01)
    store(c_at, row, c10)
    store(c_at, row + LANES, c11)


a, b = rng.standard_normal((2, 7), dtype=np.float32), rng.standard_normal((7, 2 * LANES), dtype=np.float32)
c = np.empty((2, 2 * LANES), np.float32)
tile_2_by_2(c, a, b)
assert np.allclose(c, a @ b, atol=1e-5)
print(f"4 loads and 4 multiply-adds a step; {c.size} numbers of c in 4 vectors, stored once")

# %% [markdown]
# How large should the tile be? `tiles.product_tile` writes this function for any number of rows and vectors. Each is
# timed on a product that stays in the nearest cache. Under each bar stand the tile, the loads / multiply-adds of one step,
# and the vectors of sums. Before you look: is the largest tile the fastest?

# %%
def rate_of_tile(rows, columns, depth=64):
    product, width = tiles.product_tile("zero", rows, columns), columns * LANES

    @numba.njit
    def many(c, a, b, times):
        to_c, to_a, to_b = at(c, 0, 0, 0), at(a, 0, 0, 0), at(b, 0, 0, 0)
        for _ in range(times):
            for i in range(0, len(a), rows):
                product(plus(to_c, i * width), width, plus(to_a, i * depth), depth, 1, to_b, width, depth, to_b)

    a, b = rng.standard_normal((48, depth), dtype=np.float32), rng.standard_normal((depth, width), dtype=np.float32)
    c = np.zeros((48, width), np.float32)
    many(c, a, b, 1)
    assert np.allclose(c, a @ b, atol=1e-4)
    return 2 * 48 * width * depth * 200 / best_time(lambda: many(c, a, b, 200), patience=0.15) / 1e9


registers = 32 if LANES == 16 else 16                                 # AVX-512; AVX2, or NEON: 32 of half a vector
shapes = [(1, 1), (2, 1), (2, 2), (4, 2), (4, 3), (8, 2), (8, 3), (12, 4)]
rates = [rate_of_tile(*shape) for shape in shapes]

# %%
fig, ax = plt.subplots(figsize=(8, 3), layout="constrained")
for x, ((rows, columns), rate) in enumerate(zip(shapes, rates, strict=True)):
    here = (rows, columns) == (ROWS, COLUMNS)
    fits = rows * columns + columns + 1 <= registers
    ax.bar(x, rate, color="#26828e" if fits else "#d0d0d0", ec="black", lw=2 if here else 0)
    ax.text(x, 0.97 * rate, f"{rate:.0f}", ha="center", va="top", color="white" if fits else "black")
ax.axhline(ceiling[1], color="black", lw=1, ls="--")
ax.text(-0.4, ceiling[1], "the ceiling", va="bottom", fontsize=8)
names = [f"{r} x {c}\n{r + c} / {r * c}\n{r * c}" for r, c in shapes]
ax.set(xticks=range(len(shapes)), xticklabels=names, ylabel="GFLOP/s", ylim=(0, 1.2 * max(*rates, ceiling[1])))
ax.set_xlabel("rows x vectors of the tile; loads / multiply-adds of a step; vectors of sums");

# %% [markdown]
# A step with fewer loads for each multiply-add is faster, until the multipliers are what it waits for, and the bars level off
# near the ceiling. (The smallest tiles also have too few sums to keep the multipliers busy: see 'The ceiling'.) Grey tiles do
# not fit: sums, a row of $B$ and one number of $A$ are more than the registers, 32 for vectors of 16 numbers (AVX-512) and 16
# for those of 8 (AVX2). Then sums are **spilled**, stored to memory and loaded back at every step, and the gain can be lost
# again. Outlined is the tile that the library uses on this machine.
#
# ## The kernel around it
#
# To use this for attention, the library lays its numbers out so that **a query stands in each lane**, and so does the lesson
# from here on:
#
# $$
# S^\top = K\,Q^\top \qquad\qquad O^\top \leftarrow O^\top + V^\top P^\top
# $$
#
# with the scores $S$, their exponentials $P$ and the output $O$ of a tile. A **panel** is `PANEL` queries side by side, as
# many as the register tile has columns; a tile is a panel against `KEYS` keys. The largest score and the sum of a query are
# then taken lane by lane, never across a vector. Both products have the same form: `A` is read number by number ($K$ by rows,
# $V^\top$ is $V$ by columns), `B` in vectors ($Q^\top$, then $P^\top$, which stands where $S^\top$ was). Four small
# functions turn the queries in, bring sums under a new top, turn the output out, and hide keys:

# %%
@numba.njit
def turn_in(qt, q, first, scale):                                     # Q^T (D, PANEL), scaled once for all keys
    for d in range(len(qt)):
        for lane in range(PANEL):
            qt[d, lane] = q[first + lane, d] * scale


@numba.njit
def fade_by(ot, fade):                                                # what was summed so far, under the new top
    for d in range(len(ot)):
        for lane in range(PANEL):
            ot[d, lane] *= fade[lane]


@numba.njit
def turn_out(out, ot, total, first):                                  # one division, at the end
    for d in range(len(ot)):
        for lane in range(PANEL):
            out[first + lane, d] = ot[d, lane] / total[lane]


# %%
@numba.njit
def hide(st, last):                                                   # causal: lane sees the keys up to last + lane
    for s in range(KEYS):
        for lane in range(PANEL):
            if s > last + lane:
                st[s, lane] = -np.inf


# %% [markdown]
# And this is the whole kernel, with two holes in it: how to multiply and how to take the softmax of a tile. All further
# kernels fill the holes. `ahead` says how far beyond its own place a query may look: $S$ is no limit, 0 is causal. (To stay
# short, these kernels want $N$ a multiple of `PANEL` and $S$ a multiple of `KEYS`. The library's take any length.)

# %%
def make_kernel(product, softmax, unit=1.0):
    @numba.njit
    def block(q, k, v, out, first, ahead):                            # PANEL queries, from the first-th on
        D, S = q.shape[1], len(k)
        qt, st, ot = np.empty((D, PANEL), F), np.empty((KEYS, PANEL), F), np.zeros((D, PANEL), F)
        top, total, fade = np.full(PANEL, F(-np.inf)), np.zeros(PANEL, F), np.empty(PANEL, F)
        turn_in(qt, q, first, F(unit / math.sqrt(D)))
        for start in range(0, min(S, first + PANEL + ahead), KEYS):
            st[:] = 0
            product(st, k[start:start + KEYS], qt)                    # S^T = K Q^T
            if start + KEYS > first + ahead + 1:
                hide(st, first + ahead - start)
            softmax(st, top, total, fade)                             # S^T becomes P^T
            fade_by(ot, fade)
            product(ot, v[start:start + KEYS].T, st)                  # O^T += V^T P^T
        turn_out(out, ot, total, first)

    @numba.njit
    def kernel(q, k, v):
        out = np.empty_like(q)
        for first in range(0, len(q), PANEL):
            block(q, k, v, out, first, len(k))
        return out

    return kernel, block

# %% [markdown]
# ## Kernel 4: the register tile
#
# The library's register tile goes into the first hole, plain loops with `math.exp` into the second.

# %%
@numba.njit
def product_vectors(c, a, b):                                         # c += a @ b, ROWS x PANEL at a time
    to_c, to_a, to_b = at(c, 0, 0, 0), at(a, 0, 0, 0), at(b, 0, 0, 0)
    row, step, depth = a.strides[0] // 4, a.strides[1] // 4, a.shape[1]    # in numbers, so that V^T is V by columns
    for i in range(0, len(a), ROWS):
        tiles.product_more(plus(to_c, i * PANEL), PANEL, plus(to_a, i * row), row, step, to_b, PANEL, depth, to_b)


# %%
@numba.njit
def softmax_exp(st, top, total, fade):
    for lane in range(PANEL):
        new = top[lane]
        for s in range(KEYS):
            new = max(new, st[s, lane])
        fade[lane] = math.exp(top[lane] - new)
        top[lane], total[lane] = new, total[lane] * fade[lane]
    for s in range(KEYS):
        for lane in range(PANEL):
            st[s, lane] = math.exp(st[s, lane] - top[lane])
            total[lane] += st[s, lane]


kernel_4, _ = make_kernel(product_vectors, softmax_exp)
four = measure("4 register tile", lambda q: kernel_4(q, k, v), rows=192)
print(f"kernel 4 is {four / three:.2f} times as fast as kernel 3; its register tile alone, {ROWS} x {PANEL}, "
      f"reached {rates[shapes.index((ROWS, COLUMNS))]:.0f} GFLOP/s")

# %% [markdown]
# ## Where the time goes
#
# The tile alone is much faster than the kernel around it. Take the softmax out: the result is wrong, but the time tells.

# %%
@numba.njit
def softmax_none(st, top, total, fade):                               # wrong on purpose
    fade[:] = 1
    total[:] = 1


products_alone, _ = make_kernel(product_vectors, softmax_none)
bare = measure("(4 without its softmax)", lambda q: products_alone(q, k, v), rows=192, want=None, note=False)
print(f"so the softmax takes {1 - four / bare:.0%} of kernel 4's time: for one score as long as "
      f"{4 * D * (bare / four - 1):.0f} FLOPs of the products, which have {4 * D} for it")
assert 4 * D == 256

# %% [markdown]
# There is one exponential a score, against 256 operations around it. But `math.exp` is a function that is called for one
# number at a time, while the 256 are done in vectors.
#
# ## Kernel 5: exp2 in vectors
#
# A float32 *is* a power of two times a number between 1 and 2, so powers of two are nearly free: $2^n$ is made by writing
# $n + 127$ into the bits of the exponent. For any $x$, let $n$ be the nearest whole number and $r = x - n$:
#
# $$
# e^{s} = 2^{s \log_2 e}, \qquad 2^x = 2^n \cdot 2^r, \qquad -\tfrac12 \le r \le \tfrac12 .
# $$
#
# On that short range a polynomial of degree 5 gives $2^r$ within $2^{-23}$, the distance from 1 to the next float32. The
# factor $\log_2 e$ costs nothing: it goes into the scale of $q$. First built broken, on $x = -3.7$: without the range
# reduction, and with truncation instead of rounding, which leaves $r$ in $(-1, 0]$.

# %%
x = -3.7
for name, n in [("no reduction", 0.0), ("truncated", np.trunc(x)), ("rounded", np.rint(x))]:
    value = 2.0**n * np.polyval(simd.POLYNOMIAL, x - n)
    print(f"{name:13} n = {n:4.0f}, r = {x - n:5.2f}: {value:12.9f}, relative error {abs(value / 2**x - 1):.1e}")

r = np.linspace(-1.2, 1.2, 1201)
error = np.abs(np.polyval(simd.POLYNOMIAL, r) / 2**r - 1)
assert len(simd.POLYNOMIAL) == 6                                      # degree 5
assert error[np.abs(r) <= 0.5].max() < 2.0**-23
fig, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
ax.semilogy(r, error + 1e-12, color="#26828e")
ax.axvspan(-0.5, 0.5, color="#eeeeee")
ax.axhline(2.0**-23, color="black", lw=1, ls="--")
ax.text(0.55, 2.0**-24, "distance of two\nfloat32 at 1", fontsize=8, va="top")
ax.set(xlabel="r (grey: what rounding leaves)", ylabel="relative error", title="the polynomial for $2^r$", ylim=(1e-9, 1e-3));

# %% [markdown]
# Outside of the grey range the error grows fast. The library's word `simd.exp2` is this, lane by lane, and the softmax of
# a tile becomes:

# %%
@numba.njit
def softmax_exp2(st, top, total, fade):                               # softmax_exp, LANES queries at a time
    for lane in range(0, PANEL, LANES):
        scores, tops, totals = at(st, 0, lane, 0), at(top, lane, 0, 0), at(total, lane, 0, 0)
        old = load(tops, 0)
        new = old
        for s in range(0, KEYS * PANEL, PANEL):
            new = largest(load(scores, s), new)
        factor = simd.exp2(sub(old, new))
        store(at(fade, lane, 0, 0), 0, factor)
        sum_ = mul(factor, load(totals, 0))
        for s in range(0, KEYS * PANEL, PANEL):
            p = simd.exp2(sub(load(scores, s), new))
            store(scores, s, p)
            sum_ = add(sum_, p)
        store(tops, 0, new)
        store(totals, 0, sum_)


# %%
kernel_5, block_5 = make_kernel(product_vectors, softmax_exp2, unit=np.log2(np.e))
five = measure("5 exp2", lambda q: kernel_5(q, k, v))
print(f"kernel 5 is {five / four:.2f} times as fast as kernel 4; "
      f"the softmax takes {max(0, 1 - five / bare):.0%} of its time")

# %% [markdown]
# ## Kernel 6: packing
#
# A library for matrix products first copies its operands so that the `ROWS` numbers of $A$ that one step needs lie side by
# side: **packing**. sgemm does it, so it must be good. Kernel 6 packs every tile of $K$ and $V$ before it multiplies.

# %%
@numba.njit
def product_packed(c, a, b):
    rows, depth = a.shape
    packed = np.empty((rows // ROWS, depth, ROWS), F)
    for i in range(rows // ROWS):
        for d in range(depth):
            for r in range(ROWS):
                packed[i, d, r] = a[i * ROWS + r, d]
    to_c, to_a, to_b = at(c, 0, 0, 0), at(packed, 0, 0, 0), at(b, 0, 0, 0)
    for i in range(rows // ROWS):
        tiles.product_more(plus(to_c, i * ROWS * PANEL), PANEL, plus(to_a, i * ROWS * depth), 1, ROWS,
                           to_b, PANEL, depth, to_b)


kernel_6, _ = make_kernel(product_packed, softmax_exp2, unit=np.log2(np.e))
six = measure("6 packing", lambda q: kernel_6(q, k, v))
print(f"kernel 6 is {six / five:.2f} times as fast as kernel 5; a packed number is used for {PANEL} multiply-adds")

# %% [markdown]
# Packing is a copy, and a copy has to be earned back. Here every packed number serves only the `PANEL` queries of one panel:
# where the factor printed is below 1, it was not earned. In a large sgemm each packed number serves hundreds of columns. The
# library copies each tile of $K$ and $V$ too, because its inputs may lie in memory in any order and may be 16-bit numbers to
# be widened; so it lets up to 8 panels share one copy.
#
# ## Kernel 7: threads
#
# Panels have nothing to do with each other, so they may run at the same time: `prange`, 'parallel range', instead of
# `range`. The ceiling is that of as many threads.

# %%
@numba.njit(parallel=True)
def kernel_7(q, k, v, ahead):
    out = np.empty_like(q)
    for i in numba.prange(len(q) // PANEL):
        block_5(q, k, v, out, i * PANEL, ahead)
    return out


numba.set_num_threads(THREADS)
seven = measure(f"7 prange, {THREADS} threads", lambda q: kernel_7(q, k, v, S), threads=THREADS)
print(f"with {THREADS} thread(s), {seven / five:.2f} times as fast as kernel 5")

# %% [markdown]
# ## A causal mask, and who does how much
#
# Under a causal mask the last queries see many keys and the first see few, and tiles that nobody sees are skipped. So panels
# are no longer alike. `prange` usually gives each thread one run of neighbours, decided before the start. Predict: two
# threads, the first takes the first half of the queries. Which share of the work is that?
#
# <details><summary>Answer</summary>
#
# About a quarter. The visible pairs form a triangle, and its upper half is a triangle of half the size in both directions.
# The second thread has three quarters, so two threads are at best about 4/3 times as fast as one.
#
# </details>
#
# The mend is a **shared counter**: whoever is free takes the next number, `counter[0]++`, as one step that no two threads
# can do at the same time. The order matters too. Simulated, with 24 tasks of 1, 2, ... 24 units of work and four threads:
# look at the white space between the bars and the dashed line.

# %%
def simulate(costs, threads):
    done, bars = np.zeros(threads), []
    for cost in costs:
        who = done.argmin()                                           # whoever is free first takes the next task
        bars.append((who, done[who], cost))
        done[who] += cost
    return bars, done.max()


costs = np.arange(1, 25)
quarters = costs.reshape(4, 6)
runs = [(who, quarters[who, :n].sum(), quarters[who, n]) for who in range(4) for n in range(6)]
plans = {"one run of neighbours each": (runs, quarters[3].sum()), "counter, shortest first": simulate(costs, 4),
         "counter, longest first": simulate(costs[::-1], 4)}
fig, axes = plt.subplots(3, 1, figsize=(8, 4.6), sharex=True, layout="constrained")
for ax, (name, (bars, end)) in zip(axes, plans.items(), strict=True):
    for who, start, cost in bars:
        ax.barh(who, cost, left=start, color=plt.get_cmap("viridis")(cost / 24), ec="white")
    ax.axvline(costs.sum() / 4, color="black", lw=1, ls="--")
    ax.set(ylabel="thread", yticks=range(4),
           title=f"{name}: done at {end:.0f}, {end / (costs.sum() / 4):.2f} of an even share")
axes[-1].set_xlabel("time (units of work; dashed: everything shared evenly)");

# %% [markdown]
# Shortest first ends with the longest tasks, when one thread has just started one and the others have nothing left to take.
# Longest first ends with crumbs.
#
# ## Kernel 8: a shared counter

# %%
@numba.njit(parallel=True)
def kernel_8(q, k, v, ahead, counter, threads, who):
    out, panels = np.empty_like(q), len(q) // PANEL
    for thread in numba.prange(threads):
        task = take(counter)                                          # counter[0]++, indivisible
        while task < panels:
            i = panels - 1 - task                                     # the last panel sees most keys: longest first
            who[i] = thread
            block_5(q, k, v, out, i * PANEL, ahead)
            task = take(counter)
    return out


# %%
queries = np.concatenate([q, rng.standard_normal((S - N, D), dtype=np.float32)])   # now N = S
causal = {"queries": queries, "threads": THREADS, "flops": 4 * D * S * (S + 1) // 2,   # visible pairs only
          "want": ma.attention(*(x.astype(float) for x in (queries, k, v)), causal=True)}
who = np.zeros(S // PANEL, np.int64)
by_run = measure("7 prange, causal", lambda q: kernel_7(q, k, v, 0), **causal)
by_counter = measure("8 shared counter, causal",
                     lambda q: kernel_8(q, k, v, 0, np.zeros(1, np.int64), THREADS, who), **causal)
print(f"the counter is {by_counter / by_run:.2f} times as fast as prange; who did which panel last time:")
print("".join(str(thread) for thread in who))
again = kernel_8(queries, k, v, 0, np.zeros(1, np.int64), THREADS, who)
assert np.array_equal(again, kernel_7(queries, k, v, 0))              # the same bits

# %% [markdown]
# A panel's result does not depend on which thread computes it, so every run gives the same bits. Masked pairs in the tiles on
# the diagonal are computed and thrown away, and not counted, which costs the causal kernels a little of their share.
#
# ## Kernel 9: the library
#
# `backend="cpu"` is kernels 5 and 8 with what a library must have: any lengths, layouts and 16-bit types, grouped
# heads, masks, bias, a softcap, the log-sum-exp for the backward pass. (Its first call ever compiles it, and writes the machine
# code to the disk for later ones.) Once on our one head, and once on four heads in one call, so that tasks are larger and
# the fixed price of a call is spread.

# %%
numba.set_num_threads(1)
measure("9 the library, one head", lambda q: ma.attention(q, k, v, backend="cpu"))
q4, k4, v4 = (rng.standard_normal((4, n, D), dtype=np.float32) for n in (N, S, S))
heads = {"queries": q4, "flops": 4 * 4 * N * S * D, "want": ma.attention(*(x.astype(float) for x in (q4, k4, v4)))}
measure("9 the library, four heads", lambda q: ma.attention(q, k4, v4, backend="cpu"), **heads)
measure("   NumPy on the same four", lambda q: ma.attention(q, k4, v4, backend="numpy"), note=False, **heads)
numba.set_num_threads(THREADS)
measure("9 the library, causal", lambda q: ma.attention(q, k, v, causal=True, backend="cpu"), **causal);

# %% [markdown]
# On one small head the lesson's own kernel may well win: it does less. That is the other half of the story. Each option
# has to be asked for, and a library asks once a tile or once a call, never once a score.
#
# ## The real thing
#
# SmolLM2 reads a text (offline: a Llama of its shape with four layers and drawn weights), once with NumPy's attention and
# once with the library's kernel. Everything else is the same, one thread each.

# %%
numba.set_num_threads(1)
m = course.model()
if m is None:
    m = ma.models.Llama.random(replace(ma.models.LlamaConfig.smollm2(), layers=4))
    ids = rng.integers(0, m.config.vocab, 640)
else:
    ids = m.tokenizer.encode(" ".join([course.PARAGRAPH] * 5))


def run(backend):
    spent = [0.0]

    def timed(*arrays, **options):
        start = time.perf_counter()
        out = ma.attention(*arrays, **options, backend=backend)
        spent[0] += time.perf_counter() - start
        return out

    start = time.perf_counter()
    logits = m.with_attention(timed).forward(ids)
    return logits, spent[0], time.perf_counter() - start


# %%
(logits, attention_0, whole_0), (other, attention_1, whole_1) = run("numpy"), run("cpu")
rest = min(whole_0 - attention_0, whole_1 - attention_1)              # the same code both times
print(f"{len(ids)} tokens, {m.config.layers} layers: everything but attention {rest:.2f} s")
for name, part in [("numpy", attention_0), ("cpu", attention_1)]:
    print(f"attention, {name:6} {part:.2f} s: {part / (part + rest):.0%} of the whole")
print(f"attention {attention_0 / attention_1:.1f} times as fast, "
      f"the whole model {(attention_0 + rest) / (attention_1 + rest):.2f} times")
apart = np.abs(other - logits).max()
print(f"largest difference of two logits {apart:.1e}, beside the largest logit {np.abs(logits).max():.1f}")
print(f"the likeliest next token is the same at {(other.argmax(-1) == logits.argmax(-1)).mean():.1%} of the places")
assert apart < 1e-4 * np.abs(logits).max()

# %% [markdown]
# Only the share that attention had can be saved, and this share grows with the length of the text.
#
# ## What it costs
#
# All kernels together, and below the scratch memory, which is what a kernel needs beside input and output. Some megabytes
# decide little at this size. At a hundred thousand tokens, each of the three arrays of $N \cdot S$ numbers that kernel 0
# holds at once would be 40 GB, and what a tile needs would be as it is here.

# %%
fig, ax = plt.subplots(figsize=(8, 4.4), layout="constrained")
names = list(ladder)[::-1]
shares = [ladder[name][0] / ceiling[ladder[name][1]] for name in names]
ax.barh(names, shares, color=["#26828e" if ladder[name][1] == 1 else "#9fd0cb" for name in names])
ax.axvline(1, color="black", lw=1, ls="--")
for y, (name, share) in enumerate(zip(names, shares, strict=True)):
    ax.text(share, y, f" {share:.0%}, {ladder[name][0]:.0f} GFLOP/s", va="center", fontsize=8)
ax.set(xlabel=f"share of the ceiling of as many threads (light: {THREADS} threads)", xlim=(0, max(1, *shares) + 0.25));

# %%
tile = KEYS * PANEL + 2 * D * PANEL + 3 * PANEL                       # S^T, Q^T, O^T, and top, total, fade
scratch = {"0 NumPy": 3 * N * S, "1, 2": S, "3": 64 + 2 * N, "4, 5, 7, 8: a thread": tile,
           "6 packing": tile + KEYS * D, "9 the library: a thread": forward.workspace(cpu.panels_of(1, N), D, D)}
for name, numbers in scratch.items():
    print(f"{name:24} {4 * numbers / 1000:10,.0f} kB")
assert 4 * 100_000**2 == 40e9

# %% [markdown]
# The same measure is used for GPUs: FlashAttention-2 reaches 50 to 73% of the most that an A100 can do (the paper's number,
# not measured here).
#
# What to take along, on any machine: measure the ceiling first; find out what you wait for (memory, loads, the exponential,
# another thread) before you change anything; and keep the plain form, since it is what every fast one is held to.
#
# ## Exercises
#
# **1 (easy).** A tile: `block_q` queries are in fast memory already, `block_k` keys and their values come from slow memory,
# all with `D` channels and `itemsize` bytes a number. How many floating-point operations does the tile do for each byte that
# comes? Count the two products and nothing else. Four whole numbers in, one number out.
#
# <details><summary>Hint</summary>
#
# Operations and bytes each have a product of three sizes in them. Write both down, then divide.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Two products of `block_q * block_k * D` multiply-adds, each of which is two operations; two arrays of `block_k * D` numbers.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def intensity(block_q, block_k, D, itemsize):
#     operations = 2 * 2 * block_q * block_k * D
#     moved = 2 * block_k * D * itemsize
#     return operations / moved
# ```
#
# Almost everything cancels: `2 * block_q / itemsize`. Only more queries at a time raise it.
#
# </details>

# %%
def intensity(block_q, block_k, D, itemsize):
    """four sizes -> FLOPs a byte"""
    return None


check.intensity(intensity)

# %% [markdown]
# **2 (medium).** Compute $2^x$ for an array x (N,) without an exponential function: split off the nearest whole number n, and
# use the polynomial for the rest. `coefficients` has the highest power first, as `np.polyval` wants it. A power of two with
# a whole exponent, `2.0**n`, is allowed: it is a shift.
#
# <details><summary>Hint</summary>
#
# Three lines: n, r, and a product of two factors. Which NumPy function rounds to the nearest?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `np.rint`. Then r lies between -1/2 and 1/2, where the polynomial was made to fit.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def exp2(x, coefficients):
#     n = np.rint(x)
#     r = x - n
#     return 2.0**n * np.polyval(coefficients, r)
# ```
#
# </details>

# %%
def exp2(x, coefficients):
    """(N,), (degree + 1,) -> (N,)"""
    return None


check.exp2(exp2)

# %% [markdown]
# **3 (medium).** A product in tiles: a (M, K), b (K, P) -> c (M, P), never multiplying more than `size` rows and `size`
# columns of a at once. `size` need not divide M or K. (Only the result is checked: that you multiply in tiles is up to you.)
#
# <details><summary>Hint</summary>
#
# Two loops with steps of `size`, one over the rows of a, one over its columns. What does each pair of them contribute to c?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Columns `d : d + size` of a meet rows `d : d + size` of b, and the result is *added* to rows `i : i + size` of c. A slice
# that reaches beyond the end is cut by NumPy.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def tile_product(a, b, size):
#     c = np.zeros((len(a), b.shape[1]))
#     for i in range(0, len(a), size):
#         for d in range(0, a.shape[1], size):
#             c[i:i + size] += a[i:i + size, d:d + size] @ b[d:d + size]
#     return c
# ```
#
# </details>

# %%
def tile_product(a, b, size):
    """(M, K), (K, P), tile size -> (M, P)"""
    return None


check.tile_product(tile_product)

# %% [markdown]
# **4 (hard).** Every look at a shared counter costs a little, so a thread may take several tasks at once. Deal tasks in their
# order: the thread that is free first (of several, the one with the lowest number) takes the next `grab` tasks, or what is
# left of them. Return when each thread is done: costs (tasks,) -> (threads,).
#
# <details><summary>Hint</summary>
#
# Keep one number a thread: when it will be free. Each grab changes one of them.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Walk over the tasks in steps of `grab`. `argmin` gives the place of the smallest number, and of several the first.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def deal_tasks(costs, threads, grab):
#     done = np.zeros(threads)
#     for first in range(0, len(costs), grab):
#         done[done.argmin()] += costs[first:first + grab].sum()
#     return done
# ```
#
# With `grab` = 1 no thread waits while a task is left; with all tasks divided by the threads it is `prange`'s plan again.
#
# </details>

# %%
def deal_tasks(costs, threads, grab):
    """(tasks,), number of threads, tasks a grab -> (threads,): when each is done"""
    return None


check.deal_tasks(deal_tasks)

# %% [markdown]
# ## Three questions
#
# **A tile of 64 queries and one of 128 need the same FLOPs in all. Why can the larger one be faster, and why not always?**
#
# <details><summary>Answer</summary>
#
# Each key and value that is fetched serves twice as many queries, so half as many bytes come from slow memory. That helps
# only code that waits for memory; and a tile that outgrows its cache, or its registers, loses more than it gained.
#
# </details>
#
# **Why may a compiler not turn the sum of a dot product into vector code by itself?**
#
# <details><summary>Answer</summary>
#
# A vector sum adds every `LANES`-th number together and joins the lanes at the end: another order, so other roundings, so
# another result in the last digits. The program's meaning would change; somebody has to allow it.
#
# </details>
#
# **The polynomial for $2^r$ is off by up to $2^{-23}$ of its size. Why does that not spoil the weights?**
#
# <details><summary>Answer</summary>
#
# The numerator of a weight is off by no more, and so is the sum below it, so the weight by about twice as much: that is
# about what the rounding of the scores, sums of 64 products in float32, costs anyway. Each kernel's output was held to
# float64's within $10^{-5}$ of the largest output.
#
# </details>
#
# ## Where to go on
#
# - The files: [minattn/flash/simd.py](../minattn/flash/simd.py) (the words and exp2),
#   [minattn/flash/tiles.py](../minattn/flash/tiles.py) (the register tile),
#   [minattn/flash/forward.py](../minattn/flash/forward.py) (the kernel), [minattn/flash/threads.py](../minattn/flash/threads.py)
#   (the counter). `minattn bench` measures them against other libraries on your machine.
# - Papers: Dao 2023, [arXiv:2307.08691](https://arxiv.org/abs/2307.08691), Algorithm 1 (the tiles, one division at the
#   end) and section 3.3 (how the groups of threads of a GPU share a tile); Williams, Waterman, Patterson 2009, "Roofline",
#   [doi:10.1145/1498765.1498785](https://doi.org/10.1145/1498765.1498785); Goto and van de Geijn 2008, "Anatomy of
#   High-Performance Matrix Multiplication", [doi:10.1145/1356052.1356053](https://doi.org/10.1145/1356052.1356053).
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [12 FlashAttention III: the backward pass](12_flashattention_backward.ipynb).
