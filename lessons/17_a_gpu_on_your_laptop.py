# %% [markdown]
# # 17 A GPU on your laptop
#
# 35 minutes · difficulty: medium · read before: [01 Queries, keys, values](01_queries_keys_values.ipynb),
# [10 FlashAttention I](10_flashattention_tiles.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - write attention as GPU kernels: functions for one thread, launched in blocks,
# - use shared memory and barriers, and say which barrier protects what,
# - plant a race, and read a report that names thread, line and array,
# - say why a wrong kernel may give the right numbers, and why that proves nothing.

# %% [markdown]
# ## The question
#
# A GPU runs one function in thousands of threads at the same time. Each thread makes a small piece of the answer; nobody
# promises in which order they run. That is where its power comes from, and a kind of mistake that a loop cannot make: the
# result depends on who was first.
#
# No GPU is needed here. The kernels below are plain Python functions, written as Numba's `cuda.jit` takes them, and a
# **simulator** runs them in this process: every thread has its turn, in an order that you choose, and whatever a real GPU
# leaves undefined is reported. Inside of a kernel, `cuda` is the simulator; outside, it is just a name.

# %%
import itertools
import math

import course
import matplotlib.pyplot as plt
import numpy as np
from course import CONTEXT, TOKENS, W_K, W_Q, W_V, X

import minattn as ma
from minattn.gpu.simulator import simulate
from minattn.practice import check

np.set_printoptions(precision=3, suppress=True)
cuda, f32 = None, np.float32                                          # the simulator puts its own `cuda` there
q, k, v = (a.astype(f32) for a in (X @ W_Q, X @ W_K, X @ W_V))        # (N, D) each, N = S = D = 4
N, S, D = 4, 4, 4
SCALE = f32(1 / np.sqrt(D))

# %% [markdown]
# ## One thread a score
#
# The map of scores has $N \times S = 16$ entries: let each be one thread's work. Threads come in **blocks**, blocks in a
# **grid**. A thread knows four numbers along each axis: its place in the block, `threadIdx`, the place of its block,
# `blockIdx`, how many threads a block has, `blockDim`, and how many blocks there are, `gridDim`. Its place in the whole:
#
# $$
# s = \text{blockIdx.x} \cdot \text{blockDim.x} + \text{threadIdx.x}, \qquad
# n = \text{blockIdx.y} \cdot \text{blockDim.y} + \text{threadIdx.y}
# $$
#
# **Predict before you run.** Blocks of $3 \times 3$ threads, a grid of $2 \times 2$ blocks, 4 queries, 4 keys. How many
# threads have nothing to do?
#
# <details><summary>Answer</summary>
#
# 20. There are $4 \cdot 9 = 36$ threads for 16 scores. Sizes of blocks rarely divide lengths, so a kernel asks first
# whether its thread has work: the **guard**.
#
# </details>
#
# First as loops, which is all that a launch is, except that the order of the loops is nobody's business:

# %%
by_loop, idle = np.zeros((N, S), f32), 0
for by, bx, ty, tx in itertools.product(range(2), range(2), range(3), range(3)):
    s, n = bx * 3 + tx, by * 3 + ty
    if n < N and s < S:                                               # the guard
        by_loop[n, s] = SCALE * sum(q[n, d] * k[s, d] for d in range(D))
    else:
        idle += 1
    if ty == 2 and tx == 2:
        print(f"block ({bx}, {by}), thread (2, 2): query {n}, key {s}", "" if n < N and s < S else "  nothing to do")
print(f"{idle} threads had nothing to do")
assert idle == 20

# %% [markdown]
# Now the kernel: the body of the loops, for one thread. `cuda.grid(2)` gives its place along x and y. By convention x, the
# axis along which neighbouring threads lie, runs along the last axis of the array.

# %%
def scores(q, k, out):
    s, n = cuda.grid(2)
    if n < q.shape[0] and s < k.shape[0]:
        score = f32(0)
        for d in range(q.shape[1]):
            score += q[n, d] * k[s, d]
        out[n, s] = score * SCALE


held = np.zeros((N, S), f32)
report = simulate(scores, (2, 2), (3, 3), q, k, held)                 # kernel, grid, block, then what the kernel is given
print(held)
print(report)
assert np.allclose(held, by_loop, rtol=1e-6)
np.testing.assert_allclose(held, ma.steps(q, k, v).scaled, rtol=1e-5)
assert not report.problems

# %% [markdown]
# "no problem seen", and below it the beginning of lesson 18: everything that was read and written. Which thread made which
# score? **What to look for:** four blocks, the colours, of which three stick out beyond the map; and the threads that the
# guard sends home.

# %%
fig, ax = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
block_of = np.add.outer(2 * (np.arange(6) // 3), np.arange(6) // 3)   # (6, 6), number of the block
ax.imshow(block_of, cmap="Pastel1", vmin=0, vmax=8)
for n, s in np.ndindex(6, 6):
    inside = n < N and s < S
    ax.text(s, n, f"thread\n({s % 3}, {n % 3})" if inside else "idle", ha="center", va="center", fontsize=8,
            color="black" if inside else "grey")
ax.add_patch(plt.Rectangle((-0.5, -0.5), S, N, fill=False, linewidth=2.5))
ax.set(xticks=range(6), yticks=range(6), xticklabels=[*TOKENS, "", ""], yticklabels=[*TOKENS, "", ""])
ax.set(xlabel="key, axis x of the grid", ylabel="query, axis y of the grid", title="4 blocks of 3 x 3 threads, 16 scores");

# %% [markdown]
# ## Built broken: without the guard
#
# Leave the guard out. On a GPU an index outside of an array is an access to somebody else's memory: sometimes the launch
# fails, and sometimes it goes through. The simulator names it, and touches nothing.

# %%
def unguarded(q, k, out):
    s, n = cuda.grid(2)
    score = f32(0)
    for d in range(q.shape[1]):
        score += q[n, d] * k[s, d]
    out[n, s] = score * SCALE


for problem in simulate(unguarded, (2, 2), (3, 3), q, k, np.zeros((N, S), f32)).problems:
    print(problem)

# %% [markdown]
# Real kernels mostly take **flat** arrays, of all heads, and there the same mistake hides better. Below, the guard asks only
# whether the place $n S + s$ lies in the map. With $s = 4$ it does: it is the place of query $n + 1$, key 0. And key 4 is
# there, too: it is the first key of the next head. Two threads write one element; who is last, wins. Such a pair of accesses,
# at least one of them a write, with nothing to order the two, is a **race**.

# %%
def flat(q, k, out):
    s, n = cuda.grid(2)
    if n * 4 + s < 16:                                                # should be: n < 4 and s < 4
        score = f32(0)
        for d in range(4):
            score += q[n * 4 + d] * k[s * 4 + d]
        out[n * 4 + s] = score * SCALE


two_heads = np.concatenate([k, v]).ravel()                            # any numbers will do as the keys of the next head
wrong = []
for order in ("ascending", "descending"):
    made = np.zeros(16, f32)
    report = simulate(flat, (2, 2), (3, 3), q.ravel(), two_heads, made, order=order)
    wrong.append(np.flatnonzero(~np.isclose(made, held.ravel(), rtol=1e-5)).tolist())
    print(f"{order:10}  wrong places: {wrong[-1]}   reported: {report.kinds}")
print(report.problems[0])
assert report.kinds == ("race",)
assert wrong[0] != wrong[1]

# %% [markdown]
# Which places are wrong depends on the order; that there is a race does not. (Lines are counted within the cell.)
#
# ## A block shares memory
#
# The softmax of a row needs all scores of the row. Give each row a block of $S$ threads, one a key. Threads of one block
# can pass numbers to each other through **shared memory**, small, fast, and forgotten when the block ends; it holds nothing
# at first. Here each thread brings its score, thread 0 finds the largest and the sum, and everyone divides.
#
# A thread must not read before the other has written. `cuda.syncthreads()` is a **barrier**: nobody goes on before all
# threads of the block have come. This kernel needs two; `first` and `second` let us take them away.

# %%
def make_softmax_row(first=True, second=True):
    def softmax_row(scores, weights):
        n, s = cuda.blockIdx.x, cuda.threadIdx.x
        row = cuda.shared.array(4, f32)
        both = cuda.shared.array(2, f32)
        row[s] = scores[n, s]
        if first:
            cuda.syncthreads()                                        # the row is there
        if s == 0:
            top, total = row[0], f32(0)
            for j in range(4):
                top = max(top, row[j])
            for j in range(4):
                total += math.exp(row[j] - top)
            both[0] = top
            both[1] = total
        if second:
            cuda.syncthreads()                                        # and so are its maximum and its sum
        weights[n, s] = math.exp(row[s] - both[0]) / both[1]

    return softmax_row

# %%
weights = np.zeros((N, S), f32)
report = simulate(make_softmax_row(), N, S, held, weights)            # N blocks of S threads
print(weights)
assert report.kinds == ()
np.testing.assert_allclose(weights, ma.attention_weights(q, k), rtol=1e-5)

# %% [markdown]
# ## Plant a race
#
# **Predict before you run.** The first barrier is gone, and the threads of the row 'sat' take their turns one after the
# other, each as far as it can go. In the order 0, 1, 2, 3, and in the order 3, 2, 1, 0: which gives the right numbers?
#
# <details><summary>Answer</summary>
#
# 3, 2, 1, 0. Thread 0 comes last, when all scores are there. In the order 0, 1, 2, 3 it comes first and finds one.
#
# </details>

# %%
sat = held[2:3]                                                       # one row, so one block
for order in ("ascending", "descending"):
    made = np.zeros((1, S), f32)
    report = simulate(make_softmax_row(first=False), 1, S, sat, made, order=order)
    print(f"--- {order}: weights {made[0]}")
    for problem in report.problems:
        print(problem)

# %% [markdown]
# Descending, the weights are right, and the race is reported all the same, with both threads, both lines and the array.
# The simulator does not judge by the numbers: it keeps for each element who wrote it and who read it, and since which
# barrier, and asks whether anything orders the two.
#
# A missing *second* barrier is right in the other order. And at random, an int for `order` being the seed:

# %%
truth = ma.attention_weights(q, k)[2]
print("                      right numbers in 40 random orders    reported in 40")
rows_of = {"both barriers": {}, "without the first": {"first": False}, "without the second": {"second": False}}
for name, options in rows_of.items():
    right = reported = 0
    for seed in range(40):
        made = np.zeros((1, S), f32)
        reported += bool(simulate(make_softmax_row(**options), 1, S, sat, made, order=seed).problems)
        right += np.allclose(made[0], truth, rtol=1e-5)
    print(f"{name:22} {right:20} {reported:31}")
    assert reported == (40 if options else 0)
    assert (right == 40) == (not options)
for options, lucky in (({"first": False}, "descending"), ({"second": False}, "ascending")):
    made = np.zeros((1, S), f32)
    simulate(make_softmax_row(**options), 1, S, sat, made, order=lucky)
    assert np.allclose(made[0], truth, rtol=1e-5)

# %% [markdown]
# One order in four is lucky: thread 0 last, or thread 0 first. So a test that compares numbers passes now and then with a
# barrier missing; on a machine that happens to take its threads in the lucky order it passes always. **Right numbers are no
# proof that a kernel is right.** The report is none either, but a better witness: it says what was seen on these inputs, in
# whatever order.
#
# ## A barrier waits for everyone
#
# A causal mask hides the keys $s > n$. A thread whose key is hidden has nothing to do: may it go home? Or skip the barrier?

# %%
def goes_home(scores, weights):
    n, s = cuda.blockIdx.x, cuda.threadIdx.x
    row = cuda.shared.array(4, f32)
    if s > n:
        return
    row[s] = scores[n, s]
    cuda.syncthreads()


def two_doors(scores, weights):
    n, s = cuda.blockIdx.x, cuda.threadIdx.x
    row = cuda.shared.array(4, f32)
    if s <= n:
        row[s] = scores[n, s]
        cuda.syncthreads()
    else:
        row[s] = f32(-1e30)
        cuda.syncthreads()


for kernel in (goes_home, two_doors):
    print(f"--- {kernel.__name__}\n{simulate(kernel, N, S, held, np.zeros((N, S), f32)).problems[0]}")

# %% [markdown]
# A barrier waits for all threads of the block, at the same line. Who never comes lets the others wait: on a GPU the kernel
# may hang, or go on with half of the data, depending on its age. The way out is always the same: let every thread walk to
# every barrier, and put the question of what it does there inside.
#
# ## Warps
#
# The hardware runs the threads of a block in groups of 32, **warps**; a thread's place in its warp is its **lane**. Lanes
# can hand each other numbers directly, with no shared memory and no barrier: a **shuffle**. `shfl_xor_sync(mask, x, step)`
# gives each lane the x of the lane whose number differs in the bit `step`. The mask has a bit for each lane that takes part.
# Five exchanges, with steps 16, 8, 4, 2, 1, and every lane knows the largest of 32 numbers: a *butterfly*.
#
# **What to look for:** each row of the picture has half as many different colours as the one above it.

# %%
def butterfly(x, seen):
    lane, turn, step = cuda.threadIdx.x, 1, 16
    top = x[lane]
    seen[0, lane] = top
    while step > 0:
        top = max(top, cuda.shfl_xor_sync(0xFFFFFFFF, top, step))
        seen[turn, lane] = top
        turn, step = turn + 1, step // 2


numbers, seen = np.random.default_rng(17).permutation(32).astype(f32), np.zeros((6, 32), f32)
assert simulate(butterfly, 1, 32, numbers, seen).kinds == ()
fig, ax = plt.subplots(figsize=(9, 2.4), layout="constrained")
shown = ax.imshow(seen, cmap="viridis", aspect="auto", interpolation="nearest")
ax.set(yticks=range(6), yticklabels=["at first", *(f"step {step}" for step in (16, 8, 4, 2, 1))], xticks=range(0, 32, 4))
ax.set(xlabel="lane", title="the largest that each lane knows of")
fig.colorbar(shown, ax=ax)
print("different numbers in each row:", [len(set(row)) for row in seen])
assert (seen[5] == numbers.max()).all()

# %% [markdown]
# ## A block of queries
#
# So far the scores went to global memory and came back. Kernel 2 of the library keeps them where they are made, as in
# [lesson 10](10_flashattention_tiles.ipynb): a thread takes one query through all keys, with the running maximum and sum of
# the online softmax. The threads of a block fetch a tile of keys and values together, and then each reads all of it.
#
# Here are 4 queries in blocks of 3, before the 5 tokens of the German sentence in tiles of 2: nothing divides. A thread
# without a query of its own computes the last one again and does not write it, so that it comes to every barrier.

# %%
def make_rows(before=True, after=True):
    def rows(q, k, v, out):
        t, n = cuda.threadIdx.x, cuda.grid(1)
        k_tile = cuda.shared.array((2, 4), f32)
        v_tile = cuda.shared.array((2, 4), f32)
        acc = cuda.local.array(4, f32)                                # this thread's own: its registers
        here = min(n, q.shape[0] - 1)
        for d in range(4):
            acc[d] = f32(0)
        top, total = f32(-1e30), f32(0)
        for start in range(0, k.shape[0], 2):
            size = min(2, k.shape[0] - start)
            if before:
                cuda.syncthreads()                                    # everyone is done with the tile before
            for i in range(t, size * 4, cuda.blockDim.x):
                k_tile[i // 4, i % 4] = k[start + i // 4, i % 4]
                v_tile[i // 4, i % 4] = v[start + i // 4, i % 4]
            if after:
                cuda.syncthreads()                                    # the tile is there
            top, total = one_tile(q, here, k_tile, v_tile, size, top, total, acc)
        if n < q.shape[0]:
            for d in range(4):
                out[n, d] = acc[d] / total
    return rows

# %%
def one_tile(q, n, k_tile, v_tile, size, top, total, acc):
    """Query n before the `size` keys of a tile, one after the other: acc changes; returns top and total."""
    for s in range(size):
        score = f32(0)
        for d in range(4):
            score += q[n, d] * k_tile[s, d]
        score *= SCALE
        new = max(top, score)
        fade, p = math.exp(top - new), math.exp(score - new)
        top, total = new, total * fade + p
        for d in range(4):
            acc[d] = acc[d] * fade + p * v_tile[s, d]
    return top, total


german_k, german_v = (CONTEXT @ W_K).astype(f32), (CONTEXT @ W_V).astype(f32)
out = np.zeros((N, D), f32)
report = simulate(make_rows(), 2, 3, q, german_k, german_v, out)      # 2 blocks of 3 queries
print(out)
print(f"global reads {report.ledger.elements['global', 'read']}, shared reads {report.ledger.elements['shared', 'read']}")
assert report.kinds == ()
np.testing.assert_allclose(out, ma.attention(q, german_k, german_v), rtol=1e-5, atol=1e-6)

# %% [markdown]
# Now without one barrier or the other, in some orders, before all 5 keys and before the first 2 alone.
#
# **Predict before you run.** Which barrier is not missed where there is one tile only?
#
# <details><summary>Answer</summary>
#
# The one at the head of the loop. It keeps a fast thread from writing the *next* tile over one that a slow thread still
# reads; where there is no next tile it protects nothing.
#
# </details>

# %%
for length, (name, options) in itertools.product((5, 2), {"before": {"before": False}, "after": {"after": False}}.items()):
    print(f"{length} keys, no barrier {name} the fetch")
    for order in ("ascending", "descending", 0, 1):
        made = np.zeros((N, D), f32)
        report = simulate(make_rows(**options), 2, 3, q, german_k[:length], german_v[:length], made, order=order)
        off = np.abs(made - ma.attention(q, german_k[:length], german_v[:length])).max()
        print(f"    {order!s:10}  largest difference {off:5.2f}   {', '.join(report.kinds) or 'nothing reported'}")
        assert bool(report.problems) == (length == 5 or name == "after")

# %% [markdown]
# (NaN is what the simulator puts into fresh shared memory. On a GPU there stands whatever the block before has left.)
#
# With 2 keys the simulator is silent about a kernel that is wrong for 5. **It sees what the launch did, not what another
# launch would do.** So the library's tests run each kernel on lengths that do not divide, and with several tiles.

# %% [markdown]
# ## The real thing
#
# Layer 13 of SmolLM2 on two sentences, query head 8, with its own q, k and v: through kernels 1 and 2 of the library, as
# they would be launched on a GPU. (How masks reach a kernel: a map of tiles, empty, full, or in part, from
# [blocks.py](../minattn/core/blocks.py).)

# %%
from minattn.core.blocks import block_map
from minattn.core.inputs import prepare
from minattn.gpu.kernels import naive, rows
from minattn.gpu.problem import problem as gpu_problem

two = course.real("two_sentences")
q8, k2, v2 = two.q[8:9], two.k[2:3], two.v[2:3]                       # head 8 reads KV head 8 // 3

# %%
def on_gpu(module, block_q, block_k):
    """(out, reports) of one of the library's kernels, causal."""
    x = prepare(*(a.astype(f32) for a in (q8, k2, v2)), causal=True)
    given = gpu_problem(x.q, x.k, x.v, block_map(x.rule, x.grid(), block_q, block_k), scale=x.scale)
    reports = [simulate(launch.kernel, launch.grid, launch.block, *launch.arguments) for launch in module.launches(given)]
    return given.given.out.reshape(q8.shape), reports


want = ma.attention(q8, k2, v2, causal=True)
print(f"{len(two.tokens)} tokens      launches   reads of q, k, v   of scores     seconds here   largest difference")
for name, module in {"1 naive": naive, "2 rows": rows}.items():
    out, reports = on_gpu(module, 8, 4)
    arrays = sum((report.ledger.arrays for report in reports), start=type(reports[0].ledger.arrays)())
    off, time = np.abs(out - want).max(), course.seconds(lambda module=module: on_gpu(module, 8, 4), 1)
    counts = sum(arrays[a, "read"] for a in "qkv"), arrays["held", "read"]
    print(f"{name:14} {len(reports):9} {counts[0]:18,} {counts[1]:11,} {time:16.2f} {off:20.0e}")
    assert off < 1e-5
    assert not any(report.problems for report in reports)

# %% [markdown]
# Kernel 2 launches once instead of three times, has no scores in global memory, and reads a fraction of the numbers:
# [lesson 18](18_the_memory_ledger.ipynb) counts all of it. The seconds are the simulator's, and say nothing about a GPU.
#
# ## What it costs
#
# | | kernel 1 | kernel 2 |
# |---|---|---|
# | threads | $NS + N + ND$ a head, in three launches | $N$ a head, in one |
# | global memory beside inputs and output | $NS$ scores | none |
# | a key is fetched | once for each query | once for each block of queries |
# | barriers | none: a launch ends when all its threads have ended | 2 a tile of keys |
# | kept by a thread | one number | a query and an output, $2D$ numbers |
#
# ## Exercises
#
# Your answers are kernels. The check launches them in the simulator on several inputs; an answer is right if its numbers
# are *and* the simulator saw nothing. To see thread and line of a problem, launch it yourself and print the report.
#
# **1 (easy).** The last of kernel 1's three launches. Write `values_kernel(weights, v, out)`: one thread makes one number of
# the output, `out[n, d]`, the sum over s of `weights[n, s] * v[s, d]`. weights (N, S), v (S, Dv), out (N, Dv); blocks are 4
# threads along x, which runs along the channels, and 2 along y, along the queries, and as many blocks as it takes.
#
# <details><summary>Hint</summary>
#
# Where is this thread, and is there an output for it?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `d, n = cuda.grid(2)`, a guard for both, then a loop over the keys that adds to a local number.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def values_kernel(weights, v, out):
#     d, n = cuda.grid(2)
#     if n < out.shape[0] and d < out.shape[1]:
#         total = f32(0)
#         for s in range(v.shape[0]):
#             total += weights[n, s] * v[s, d]
#         out[n, d] = total
# ```
#
# </details>

# %%
def values_kernel(weights, v, out):
    """weights (N, S), v (S, Dv): writes out (N, Dv); a kernel returns nothing"""
    return None


check.values_kernel(values_kernel)

# %% [markdown]
# **2 (medium).** Write `block_sum(x, out)`. x (length,) is summed in pieces of 16: `out[b]` is the sum of block b's 16
# numbers, fewer in the last block. There are 16 threads a block. Put the numbers into shared memory, then fold: in the first
# step threads 0 to 7 add the number 8 places on to theirs, then 0 to 3 the one 4 places on, then 2, then 1.
#
# <details><summary>Hint</summary>
#
# Thread t reads in one step what another thread wrote in the step before. What has to stand between two steps, and who
# has to come to it?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# A thread beyond the end brings `f32(0)`. Barrier. Then for step 8, 4, 2, 1: `if t < step` add, and after the `if`, for
# everyone, a barrier. Thread 0 writes.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def block_sum(x, out):
#     t, i = cuda.threadIdx.x, cuda.grid(1)
#     part = cuda.shared.array(16, f32)
#     part[t] = x[i] if i < x.shape[0] else f32(0)
#     cuda.syncthreads()
#     step = 8
#     while step > 0:
#         if t < step:
#             part[t] += part[t + step]
#         cuda.syncthreads()
#         step //= 2
#     if t == 0:
#         out[cuda.blockIdx.x] = part[0]
# ```
#
# Four steps for 16 numbers, where a loop has 15.
#
# </details>

# %%
def block_sum(x, out):
    """x (length,): writes out (blocks,)"""
    return None


check.block_sum(block_sum)

# %% [markdown]
# **3 (medium).** Write `causal_row(scores, weights)`, scores and weights (N, N): block n makes row n, one thread a key, N
# threads. Keys s > n are hidden, their weights are 0. Every visible thread finds the maximum and the sum for itself, from a
# row in shared memory (make it 32 long; N is less).
#
# <details><summary>Hint</summary>
#
# One barrier is enough here. Let the threads of hidden keys come to it, too.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Bring the score, barrier, then `if s <= n`: maximum and sum over `range(n + 1)`; `else` write 0.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def causal_row(scores, weights):
#     n, s = cuda.blockIdx.x, cuda.threadIdx.x
#     row = cuda.shared.array(32, f32)
#     row[s] = scores[n, s]
#     cuda.syncthreads()
#     if s <= n:
#         top, total = row[0], f32(0)
#         for j in range(n + 1):
#             top = max(top, row[j])
#         for j in range(n + 1):
#             total += math.exp(row[j] - top)
#         weights[n, s] = math.exp(row[s] - top) / total
#     else:
#         weights[n, s] = f32(0)
# ```
#
# Every thread does the work of thread 0 above. That costs nothing where the others would only wait, and saves a barrier.
#
# </details>

# %%
def causal_row(scores, weights):
    """scores (N, N): writes weights (N, N)"""
    return None


check.causal_row(causal_row)

# %% [markdown]
# **4 (hard).** Write `warp_sum(x, out)`, x and out (N, 32): block n, one warp, sums row n without shared memory, and each
# lane writes the sum to its own place: `out[n, lane]`.
#
# <details><summary>Hint</summary>
#
# The butterfly above finds a maximum. What changes?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# In each step send the running total, not the first number, and add what comes. All 32 lanes call each shuffle.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def warp_sum(x, out):
#     n, lane = cuda.blockIdx.x, cuda.threadIdx.x
#     total = x[n, lane]
#     step = 16
#     while step > 0:
#         total += cuda.shfl_xor_sync(0xFFFFFFFF, total, step)
#         step //= 2
#     out[n, lane] = total
# ```
#
# After a step every lane knows the sum of twice as many numbers, and no two lanes of a pair have counted one twice.
#
# </details>

# %%
def warp_sum(x, out):
    """x (N, 32): writes out (N, 32)"""
    return None


check.warp_sum(warp_sum)

# %% [markdown]
# ## Three questions
#
# **Why does kernel 1 need no barrier between its scores and its softmax?**
#
# <details><summary>Answer</summary>
#
# They are two launches. The second begins when the first has ended, so all scores are in global memory. Within a launch
# there is no such order between blocks, and no barrier over blocks either.
#
# </details>
#
# **Two threads read the same element at the same time. Is that a race?**
#
# <details><summary>Answer</summary>
#
# No. One of the two accesses must be a write. In kernel 2 all threads of a block read the same key.
#
# </details>
#
# **A colleague's kernel has no barrier between writing and reading shared memory, "because one warp runs in step". The test
# passes. What do you say?**
#
# <details><summary>Answer</summary>
#
# Since Volta (2017) the threads of a warp may run apart, and a compiler may move reads before writes, unless
# `cuda.syncwarp()` or a barrier stands between. That the test passes says which order that GPU took that day.
#
# </details>
#
# ## Where to go on
#
# - The files: [minattn/gpu/simulator.py](../minattn/gpu/simulator.py), threads that take turns;
#   [watch.py](../minattn/gpu/watch.py), arrays that know who touched them; [toolkit.py](../minattn/gpu/toolkit.py), what a
#   kernel calls `cuda`; the kernels [naive.py](../minattn/gpu/kernels/naive.py) and
#   [rows.py](../minattn/gpu/kernels/rows.py).
# - Papers: Vaswani et al. 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), eq (1), for kernel 1; Dao et al. 2022,
#   [arXiv:2205.14135](https://arxiv.org/abs/2205.14135), Algorithm 1, and Dao 2023,
#   [arXiv:2307.08691](https://arxiv.org/abs/2307.08691), for kernel 2.
# - Next: [18 The memory ledger](18_the_memory_ledger.ipynb): what each kernel moves, and where its lanes stand in each other's
#   way. Choosing a mechanism: [which_when.md](which_when.md).
