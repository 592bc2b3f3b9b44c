# %% [markdown]
# # 13 Sparse attention
#
# 35 minutes · difficulty: medium · read before: [03 Masks](03_masks.ipynb),
# [10 FlashAttention I](10_flashattention_tiles.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - draw the patterns by which published models leave out most pairs, and write each as a rule on two positions,
# - say after how many layers a token can know of another, by a product of booleans,
# - turn fewer pairs into less time: a pattern as parts of the same kernel, joined by `merge`,
# - say what a pattern costs a model that was not trained with it, and why the first token matters.

# %% [markdown]
# ## The question
#
# Every token looks at every token before it: $N (N + 1) / 2$ pairs. But most weights are near 0 (lesson 00), so most pairs
# seem to be wasted. Which pairs can be left out *before* their scores are known, so that no token is cut off from another,
# and does it take less time?

# %%
import course
import matplotlib.pyplot as plt
import numba
import numpy as np

import minattn as ma
from minattn.practice import check

np.set_printoptions(precision=2, suppress=True)
masks, past = ma.masks, ma.masks.causal()

# %% [markdown]
# ## Predict before you run
#
# Write 16 tokens in rows of 4, as the pixels of a picture. Token 15 looks at the 4 tokens before it, at itself, and
# straight up its column.
#
# 1. Which tokens does it see, and how many?
# 2. May token 15 know of token 5 all the same?
#
# <details><summary>Answer</summary>
#
# 1. 11, 12, 13, 14, 15, and up the column 11, 7, 3: seven tokens.
# 2. Yes, a layer later: 13 sees 5 (up its own column: 13, 9, 5, 1), and 15 sees 13.
#
# </details>

# %%
sees = masks.strided(4).dense(16, 16)
print("15 sees", np.flatnonzero(sees[15]), " 13 sees", np.flatnonzero(sees[13]))
assert np.flatnonzero(sees[15]).tolist() == [3, 7, 11, 12, 13, 14, 15]
assert sees[13, 5]

# %% [markdown]
# This is the **strided** pattern of the Sparse Transformer (Child et al. 2019), with the stride $l = 4$: query $i$ sees key
# $j \le i$ if $i - j \le l$ or $(i - j) \bmod l = 0$.
#
# ## One query, by hand
#
# Head 8 of layer 13 of SmolLM2 on the course's ten tokens, with $l = 3$. The last query, 'tired', stands at position 9.

# %%
found = course.real("sentence")
print("from the model itself" if course.model() else "from the stored maps")
q, k, v = found.q[8].astype(float), found.k[2].astype(float), found.v[2].astype(float)     # (10, 64) each
i, stride, scores = 9, 3, {}
for j in range(i + 1):
    if i - j <= stride or (i - j) % stride == 0:
        scores[j] = q[i] @ k[j] / 8                                   # sqrt(64) = 8
total = sum(np.exp(s) for s in scores.values())
out = sum(np.exp(s) / total * v[j] for j, s in scores.items())
for j, s in scores.items():
    print(f"{j} {found.tokens[j]:>8}  score {s:5.2f}  weight {np.exp(s) / total:.2f}")

may = masks.strided(3).dense(10, 10)                                  # all queries at once
weights = ma.softmax(np.where(may, q @ k.T / 8, -np.inf))
np.testing.assert_allclose(weights[9] @ v, out)
np.testing.assert_allclose(ma.attention(q, k, v, mask=masks.strided(3))[9], out)       # the library

# %% [markdown]
# Six scores in place of ten. Nothing else has changed: a sparse pattern is a mask (lesson 03), chosen so that there is
# little to compute. (Here it hides 'cat', at distance 8. What 'tired' gave to 'cat' is seen below, at top-k.)
#
# ## Eight patterns
#
# What to look for: the patterns of the first row look at the past alone, as a decoder must. Those of the second look both
# ways, for encoders; with `& causal()` a decoder can use them too. Which of the eight have long straight lines, and in
# which direction?

# %%
shown = {
    "strided(5)": masks.strided(5), "fixed(5)": masks.fixed(5),
    "last(6)": masks.last(6) & past, "last(5) | first(1)": (masks.last(5) | masks.first(1)) & past,
    "dilated(6, 1)": masks.dilated(6, 1), "longformer(4, [0, 12])": masks.longformer(4, [0, 12]),
    "bigbird": masks.bigbird(25, block=1, window=3, first=1, random=2, seed=0), "block_local(5)": masks.block_local(5),
}
fig, axes = plt.subplots(2, 4, figsize=(11, 6.2), layout="constrained")
for ax, (name, mask) in zip(axes.ravel(), shown.items(), strict=True):
    ma.plot.mask(mask, 25, title=f"{name}: {mask.dense(25, 25).sum()}", legend=False, ax=ax)
both_ways = [mask.dense(25, 25) for mask in list(shown.values())[4:]]
print("symmetric:", [bool((may == may.T).all()) for may in both_ways], " causal", past.dense(25, 25).sum(), "pairs")

# %% [markdown]
# - **strided**: the last $l$ tokens and the own column; for data with rows, as pictures have. Its far keys move along with
#   the query.
# - **fixed**: the own block so far, and the last token of each block before: a summary of it. For text, which has no
#   rows. Its far keys are the same for all later queries: straight columns.
# - **last**, **last | first**: a window, alone or with the first token.
# - **dilated**: a window with gaps, twice as far for as many keys (Beltagy et al. 2020).
# - **longformer**: a window, and global tokens that see all and are seen by all (the same paper).
# - **bigbird**: a window, a first global token, and a few drawn at random (Zaheer et al. 2020). It is the one of the
#   second row that is not symmetric about the diagonal: that 20 has drawn 4 does not mean that 4 has drawn 20.
# - **block_local**: blocks that see themselves (Qiu et al. 2019).
#
# `masks.strided(5, part=1)` is its window, `part=2` its column: a model may give them to different heads
# (`masks.per_head`) or layers in turn, or to one head together, as here.
#
# ## Who can know of whom
#
# A layer passes on what it has gathered. If $A$ is the mask as a matrix of booleans, each token counted as seen by itself,
# then after two layers token $i$ can know of token $j$ if there is a token between them: $\bigvee_m A_{im} \wedge A_{mj}$,
# a matrix product with *or* for plus and *and* for times.
#
# **Predict before you run.** A window of 3 keys: itself and two back. How many tokens can a token know of after 4 layers?
#
# <details><summary>Answer</summary>
#
# Two more a layer: $1 + 4 \cdot 2 = 9$. In general $1 + L (W - 1)$ for $L$ layers and $W$ keys.
#
# </details>

# %%
A = (masks.last(3) & past).dense(16, 16)
twice = np.array([[any(A[i, m] and A[m, j] for m in range(16)) for j in range(16)] for i in range(16)])
assert np.array_equal(twice, A.astype(int) @ A.astype(int) > 0)       # the product counts the ways; one is enough
assert np.array_equal(twice, ma.reach(masks.last(3), 2, 16) & past.dense(16, 16))
print([int(ma.reach(masks.last(3) & past, hops, 16)[15].sum()) for hops in range(5)], "tokens after 0 to 4 layers")
assert ma.reach(masks.last(3) & past, 4, 16)[15].sum() == 1 + 4 * 2

# %% [markdown]
# Now all patterns, made causal, at $N = 64$ with about as many keys for the last query. What to look for: the colour says
# after how many layers the **last** token can know of each other one. Which pattern needs many layers, and which never gets
# there?

# %%
N = 64
tried = {"last(16)": masks.last(16), "last(15) | first(1)": masks.last(15) | masks.first(1), "strided(8)": masks.strided(8),
         "fixed(8)": masks.fixed(8), "dilated(30, 1)": masks.dilated(30, 1), "block_local(16)": masks.block_local(16),
         "bigbird": masks.bigbird(N, block=1, window=13, first=1, random=8, seed=0)}
tried = {name: mask & past for name, mask in tried.items()}
needs = np.full((len(tried), N), 6)                                   # 6: not within five layers
for row, mask in enumerate(tried.values()):
    for hops in range(5, -1, -1):
        needs[row, ma.reach(mask, hops, N)[-1]] = hops
fig, ax = plt.subplots(figsize=(10, 3), layout="constrained")
image = ax.imshow(needs, cmap=plt.get_cmap("viridis_r", 7), vmin=-0.5, vmax=6.5, aspect="auto", interpolation="nearest")
ax.set_yticks(range(len(tried)), tried)
ax.set(xlabel="token", title="layers until token 63 can know of it")
bar = fig.colorbar(image, ticks=range(7))
bar.ax.set_yticklabels([*map(str, range(6)), "more"])
for name, mask in tried.items():
    once, two = (ma.reach(mask, hops, N).sum() for hops in (1, 2))
    print(f"{name:20} keys of the last query {mask.dense(N, N)[-1].sum():2}   pairs {once:4}, after two layers {two:4}"
          f" of {N * (N + 1) // 2}")

# %% [markdown]
# Strided and fixed reach **everything in two layers** with about $2 \sqrt N$ keys a query. That is what they were made for.
# The window with the first token does not: the first token has itself seen nothing but itself, so it carries no news. The
# dilated window has lost every other token for good, and blocks alone never speak to each other.

# %%
full = past.dense(N, N)
assert all(np.array_equal(ma.reach(tried[name], 2, N), full) for name in ("strided(8)", "fixed(8)"))
assert not ma.reach(tried["dilated(30, 1)"], N, N)[-1, ::2].any()     # the last token, 63, is odd
assert np.array_equal(ma.reach(tried["block_local(16)"], 1, N), ma.reach(tried["block_local(16)"], N, N))
assert np.array_equal(masks.longformer(30, [0]).dense(N, N) & full, (masks.last(16) | masks.first(1)).dense(N, N) & full)

# %% [markdown]
# (The last line: Longformer with token 0 global *is* the window with the first token, once the future is hidden.)
#
# ## How many pairs are left
#
# With $l = \sqrt N$ a query sees about $l$ near keys and, on average, $l / 2$ far ones: $1.5\, N \sqrt N$ pairs in place of
# $N^2 / 2$. For $N = l^2$ the count is exactly
#
# $$
# \underbrace{N (l + 1) - \tfrac{l (l + 1)}{2}}_{\text{window of } l + 1 \text{ keys}} +
# \underbrace{\tfrac{l (l - 1) (l - 2)}{2}}_{\text{column, from two rows up}}
# $$
#
# It can be counted from the outside. Where all scores are 0, each seen key adds $e^0 = 1$ to the sum of exponentials, so
# `exp(lse)` *is* the number of keys that a query attended to, whatever the code behind it does:

# %%
for N in (1024, 4096, 16384):
    stride = round(N**0.5)
    zeros = np.zeros((N, 1), dtype=np.float32)
    counted = {}
    for fn in (ma.strided_attention, ma.fixed_attention):
        _, lse = fn(zeros, zeros, zeros, stride=stride, return_lse=True)
        counted[fn.__name__] = int(np.exp(lse.astype(float)).round().sum())
    strided, fixed = counted.values()
    closed = N * (stride + 1) - stride * (stride + 1) // 2 + stride * (stride - 1) * (stride - 2) // 2
    assert strided == closed
    assert fixed == N * stride                                        # exactly N^1.5
    print(f"N {N:5}, l {stride:3}: strided {strided:9,} pairs = {strided / N**1.5:.2f} N^1.5, "
          f"fixed {fixed / N**1.5:.2f} N^1.5, causal {N * (N + 1) / 2 / strided:4.1f} times as many as strided")

# %% [markdown]
# ## Built broken: a mask alone
#
# A kernel computes whole tiles (lesson 10), here of 64 keys. It skips a tile only if *nobody* in it may look. What share of
# the causal tiles stays at $N = 4096$, $l = 64$?

# %%
N, stride = 4096, 64
tiles = {"causal": past, "strided(64)": masks.strided(stride), "strided(128)": masks.strided(2 * stride),
         "last(65)": masks.last(stride + 1) & past}
for name, mask in tiles.items():
    active = mask.blocks(N, N, block_q=64, block_k=64).active
    print(f"{name:13} pairs {mask.dense(N, N).mean():.3f} of the square, tiles {active:.3f}")

# %% [markdown]
# The symptom: one causal pair in 22 is left, and every causal tile has to be computed for them, or about every second one
# with a stride of two tiles. One allowed key keeps a tile of 64. The window alone is different: it leaves whole tiles
# empty.
#
# ## The mend: parts, joined
#
# So take the pattern apart. The window is one part. The columns become dense if the tokens are sorted by their place in the
# row: `k[r::l]` are the keys of one column, and for the queries `q[r::l]` of the same column, attention to them is *causal
# attention of a short sequence*, without a gap. Lesson 10 joined two sets of keys by `merge`; the same here. First with a
# mistake:

# %%
rng = np.random.default_rng(0)
q, k, v = rng.standard_normal((3, 50, 8))
stride, want = 7, ma.attention(q, k, v, mask=masks.strided(7))


def in_parts(column):
    """The window, then one column after the other; `column` is the mask within a column, in rows."""
    out, lse = ma.attention(q, k, v, mask=masks.window(stride), return_lse=True)        # i - j <= 7: eight keys
    for r in range(stride):
        here = np.s_[r::stride]
        far = ma.attention(q[here], k[here], v[here], mask=column, return_lse=True)
        out[here], lse[here] = ma.merge(out[here], lse[here], *far)
    return out


two_rows_up = ma.Mask(lambda i, j: i - j >= 2, name="two rows up")
print(f"columns with their nearest keys: off by {np.abs(in_parts(past) - want).max():.2f}")
print(f"columns from two rows up:        off by {np.abs(in_parts(two_rows_up) - want).max():.0e}")
np.testing.assert_allclose(in_parts(two_rows_up), want, atol=1e-12)
np.testing.assert_allclose(ma.strided_attention(q, k, v, stride=7), want, atol=1e-12)      # the library

# %% [markdown]
# The mistake: the query itself and the key at distance $l$ are in the window *and* in the column, so they were counted
# twice. `merge` wants disjoint parts. No softmax was approximated: the parts together are the mask's attention to the last
# digits.
#
# For the fixed pattern the two parts are the own block, and the summary keys gathered into a short array
# (`ma.fixed_attention`). What to look for: the map of 49 tokens as it is, then with the tokens of a column put next to each
# other. What lies scattered on the left is dense on the right.

# %%
N, stride = 49, 7
far = masks.strided(stride).dense(N, N) & ~masks.window(stride).dense(N, N)
near = masks.window(stride).dense(N, N)
order = np.arange(N).reshape(stride, stride).T.ravel()                # 0, 7, 14, ..., 1, 8, 15, ...
fig, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
panels = {"window": near, "far keys, tokens in order": far, "far keys, column by column": far[order][:, order]}
for ax, (name, may) in zip(axes, panels.items(), strict=True):
    ma.plot.mask(may, title=f"{name}: {may.sum()}", legend=False, ax=ax)
assert near.sum() + far.sum() == masks.strided(stride).dense(N, N).sum()

# %% [markdown]
# ## Does it take less time?
#
# One head, $D = 64$, float32, one thread, $l = \sqrt N$, on the same kernel as full causal attention; then one query alone,
# as in decoding, at all its keys and at those of the strided pattern:

# %%
def milliseconds(N):
    """Strided, fixed, one query at all keys, one query strided, and up to N = 16384 full causal attention."""
    q, k, v = rng.standard_normal((3, N, 64), dtype=np.float32)
    last, stride = q[-1:], round(N**0.5)
    runs = [lambda: ma.strided_attention(q, k, v, stride=stride), lambda: ma.fixed_attention(q, k, v, stride=stride),
            lambda: ma.attention(last, k, v), lambda: ma.strided_attention(last, k, v, stride=stride)]
    runs += [lambda: ma.attention(q, k, v, causal=True)] * (N <= 16384)       # beyond, it takes seconds
    return [1e3 * course.seconds(run, repeats=3 * 65536 // N) for run in runs]


numba.set_num_threads(1)                                              # two would wait for each other on a busy machine
lengths = (4096, 16384, 65536)
times = [milliseconds(N) for N in lengths]
for N, (strided, fixed, whole, step, *causal) in zip(lengths, times, strict=True):
    print(f"N {N:5}: strided {strided:5.1f} ms, fixed {fixed:5.1f} ms;  one query: all keys {whole:.2f} ms, "
          f"strided {step:.2f} ms")
    for full in causal:
        print(f"         causal {full:6.1f} ms: {full / strided:.1f} times the strided, {full / fixed:.1f} times the fixed")
rows = [row[:2] for row in times]
slopes = np.polyfit(np.log(lengths), np.log(rows), 1)[0]
print(f"time grows with N to the power {slopes[0]:.2f} (strided) and {slopes[1]:.2f} (fixed)")

# %% [markdown]
# The *count* of pairs has the power 1.5. On this kernel the time has less, because part of it grows with $N$ alone and is
# not small at these lengths: each query, each output and each join moves through memory once, whatever $l$ is; and a
# block of 32 queries whose windows hold 65 keys each needs 96 different keys, which in tiles of 64 are 128. The longer the
# text, the less that weighs. A single query reads none but the keys that it sees; what is left of its time at any length
# is the cost of the calls.
#
# ## Top-k: choose after looking
#
# All patterns so far are blind: positions decide. **Top-k** attention (Gupta et al. 2021) looks at the scores first and
# keeps the $k$ largest of each row. The softmax then runs over these alone:

# %%
q, k, v = (a.astype(float) for a in (found.q[8], found.k[2], found.v[2]))
scores = q @ k.T / 8
scores[~past.dense(10, 10)] = -np.inf
kept = np.argsort(-scores[9])[:3]                                     # 'tired'
top = np.exp(scores[9, kept]) / np.exp(scores[9, kept]).sum()
for j, weight in zip(kept, top, strict=True):
    print(f"{found.tokens[j]:>6}  all keys: {ma.softmax(scores)[9, j]:.2f}   the three best alone: {weight:.2f}")
np.testing.assert_allclose(top @ v[kept], ma.topk_attention(q, k, v, keep=3, causal=True)[9])
np.testing.assert_allclose(ma.topk_attention(q, k, v, keep=10, causal=True), ma.attention(q, k, v, causal=True))

# %% [markdown]
# It keeps what matters, but it had to compute every score to know that: less of the values is read, and in the backward
# pass only kept pairs have a gradient; the $N^2$ of the scores stays.
#
# ## The real thing
#
# SmolLM2 was trained with full causal attention. Now all its 30 layers get a pattern instead, without any training, on the
# first 64 tokens of the course's paragraph. Perplexity is $e^{\text{loss}}$: among so many equally likely tokens the model
# has to guess.
#
# **Predict before you run.** All but the last of these see 8 to 14 of 32.5 keys, the mean over the queries. What hurts more:
# to lose that many, or to lose the first token as well?
#
# <details><summary>Answer</summary>
#
# To lose the first token. Each pattern has more than twice the perplexity without it, although that is a single key. The
# likely reason is in lesson 00: many heads rest on the first token when they find nothing.
#
# </details>

# %%
swap = course.real("patterns")
for name, perplexity, keys in zip(swap.names, swap.perplexity, swap.keys, strict=True):
    print(f"{name:26} {keys:5.1f} keys   perplexity {perplexity:8.1f}")
cost = dict(zip(swap.names, swap.perplexity, strict=True))
fig, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
colours = ["C0" if name[:2] in ("as", "to") else "C2" if "first" in name else "C1" for name in swap.names]
bars = ax.barh(swap.names, swap.perplexity, color=colours)
ax.bar_label(bars, fmt="%.0f", padding=3)
ax.invert_yaxis()
ax.set(xscale="log", xlabel="perplexity, log scale: orange without the first token, green with it", xlim=(10, 3000))
for name in ("strided(8)", "fixed(8)", "dilated(30, 1)"):
    assert cost[name] > 2 * cost[f"{name} | first(1)"]
assert cost["last(16)"] > 2 * cost["last(15) | first(1)"]
assert abs(cost["top 16"] / cost["as trained"] - 1) < 0.02
assert cost["top 4"] < cost["last(16)"]

# %% [markdown]
# - Window against window with the first token: both see 16 keys, and one key makes the difference.
# - The dilated window is the worst, with the first token too: its gap takes away the token just before.
# - Top-16 costs next to nothing, since it may choose. Even four keys, chosen, do better than the sixteen latest.
# - No blind pattern is free. A model trained with its pattern can learn to use the summaries and columns; this one never
#   did. What is measured here is the price of *not* training.
#
# ## What it costs
#
# | | pairs | time | layers to know all | keys of a decoding step |
# |---|---|---|---|---|
# | causal | $N^2 / 2$ | $N^2$ | 1 | $N$ |
# | window of $w$ | $N w$ | $N w$ | $N / (w - 1)$ | $w$ |
# | strided, $l = \sqrt N$ | $1.5\, N^{1.5}$ | $N^{1.5}$ and a share of $N$ | 2 | $2 \sqrt N$ |
# | fixed, $l = \sqrt N$ | $N^{1.5}$ | the same | 2 | $1.5 \sqrt N$ |
# | top-k | $N k$ weights | $N^2$ for the scores | 1 | $N$ keys, $k$ values |
#
# A pair takes $4 D$ FLOPs (two products of $D$ numbers). In every row but the window's the cache has to keep all keys.
#
# ## Exercises
#
# **1 (easy).** The strided pattern: `may` (N, N), True where query $i$ may look at key $j$. It sees itself, the `stride`
# keys before it, and before these every key whose distance is a multiple of `stride`.
#
# <details><summary>Hint</summary>
#
# `i = np.arange(N)[:, None]` and `j = np.arange(N)`: then every comparison of i and j is an (N, N) array.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Two rules joined by `|`, and the past alone: `&`. Mind the brackets: in Python `|` binds more tightly than `<=`.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def strided_mask(N, stride):
#     i, j = np.arange(N)[:, None], np.arange(N)
#     return (j <= i) & ((i - j <= stride) | ((i - j) % stride == 0))
# ```
#
# </details>

# %%
def strided_mask(N, stride):
    """int, int -> may (N, N)"""
    return None


check.strided_mask(strided_mask)

# %% [markdown]
# **2 (medium).** The fixed pattern: blocks of `stride` tokens. A query sees its own block so far, and the last `summary`
# keys of every block before.
#
# <details><summary>Hint</summary>
#
# `i // stride` is the number of the block, `j % stride` the place in it.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The last `summary` places of a block are those from `stride - summary` on.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def fixed_mask(N, stride, summary):
#     i, j = np.arange(N)[:, None], np.arange(N)
#     return (j <= i) & ((i // stride == j // stride) | (j % stride >= stride - summary))
# ```
#
# </details>

# %%
def fixed_mask(N, stride, summary):
    """int, int, int -> may (N, N)"""
    return None


check.fixed_mask(fixed_mask)

# %% [markdown]
# **3 (medium).** Longformer, for an encoder: a window of `w // 2` keys on each side with the own one, and the positions in
# `chosen` are global: they see all, and all see them.
#
# <details><summary>Hint</summary>
#
# `np.isin(j, chosen)` says which positions are global.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# A pair is allowed if it is near, or the query is global, or the key is. Exchange i and j: nothing may change.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def longformer_mask(N, w, chosen):
#     i, j = np.arange(N)[:, None], np.arange(N)
#     return (abs(i - j) <= w // 2) | np.isin(i, chosen) | np.isin(j, chosen)
# ```
#
# </details>

# %%
def longformer_mask(N, w, chosen):
    """int, int, (number,) -> may (N, N)"""
    return None


check.longformer_mask(longformer_mask)

# %% [markdown]
# **4 (medium).** Reach: given one layer's mask `may` (N, N), return the (N, N) booleans that say whether token $j$ can have
# influenced token $i$ after `hops` layers of this mask. What a token was before a layer, it keeps (the residual stream),
# whether the mask lets it see itself or not.
#
# <details><summary>Hint</summary>
#
# First let every token see itself. Then one layer after the other.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `a.astype(int) @ b.astype(int) > 0` is the boolean product. Begin with `np.eye(N)`: no hops, and everyone knows itself.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def reached(may, hops):
#     step = (may | np.eye(len(may), dtype=bool)).astype(int)
#     found = np.eye(len(may), dtype=int)
#     for _ in range(hops):
#         found = (step @ found > 0).astype(int)
#     return found > 0
# ```
#
# Made 0 and 1 again in each hop, the numbers of ways cannot grow too large.
#
# </details>

# %%
def reached(may, hops):
    """(N, N), int -> reached (N, N)"""
    return None


check.reached(reached)

# %% [markdown]
# **5 (hard).** Top-k: `scores` (N, S) and `may` (N, S) in, weights (N, S) out. Each query keeps the `keep` largest scores
# among the keys that it may see; a row that may see fewer keeps them all, and one that may see none gets zeros. No two
# scores are equal.
#
# <details><summary>Hint</summary>
#
# Hide first, then choose: a hidden key must not take a place.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# After a sort, the smallest kept score of a row stands at place `-keep`. `ma.softmax` gives zeros for a row of $-\infty$.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def keep_largest(scores, may, keep):
#     seen = np.where(may, scores, -np.inf)
#     least = np.sort(seen, axis=-1)[:, [-keep]]
#     return ma.softmax(np.where(seen >= least, seen, -np.inf))
# ```
#
# In a row with fewer than `keep` keys the smallest kept score is $-\infty$, and nothing is cut off.
#
# </details>

# %%
def keep_largest(scores, may, keep):
    """(N, S), (N, S), int -> weights (N, S)"""
    return None


check.keep_largest(keep_largest)

# %% [markdown]
# ## Three questions
#
# **Why is the stride chosen near $\sqrt N$?**
#
# <details><summary>Answer</summary>
#
# A query sees about $l$ near keys and up to $N / l$ far ones. The sum $l + N / l$ is smallest where both are equal:
# $l = \sqrt N$.
#
# </details>
#
# **A strided mask is given to a kernel that skips empty tiles, and it is no faster than causal attention. Is the kernel at
# fault?**
#
# <details><summary>Answer</summary>
#
# No. One allowed pair keeps its tile. The pairs have to be brought together before the kernel sees them: the keys of a
# column as a sequence of their own.
#
# </details>
#
# **A decoder of six layers reads 1000 tokens. Can the last know of the first if each layer has a window of 16 keys? And
# with a stride of 16? How many keys does the last query see in each?**
#
# <details><summary>Answer</summary>
#
# The window: 16 keys, and no, it reaches back $6 \cdot 15 = 90$ tokens. The stride: yes, after two layers, for 78 keys: 17
# of its window, and 61 further up its column.
#
# </details>

# %%
assert ma.reach(masks.last(16) & past, 6, 1000)[-1].sum() == 1 + 6 * 15
assert ma.reach(masks.strided(16), 2, 1000)[-1].all()
assert masks.strided(16).dense(1, 1000).sum() == 17 + 61 == 78

# %% [markdown]
# ## Where to go on
#
# - The files: the patterns in [minattn/core/patterns.py](../minattn/core/patterns.py); the parts in
#   [minattn/sparse/factorized.py](../minattn/sparse/factorized.py) and
#   [minattn/sparse/parts.py](../minattn/sparse/parts.py); [minattn/sparse/hops.py](../minattn/sparse/hops.py),
#   [minattn/sparse/topk.py](../minattn/sparse/topk.py).
# - Papers: Child et al. 2019, [arXiv:1904.10509](https://arxiv.org/abs/1904.10509), sections 4.2 and 4.3; Beltagy et al.
#   2020, [arXiv:2004.05150](https://arxiv.org/abs/2004.05150); Zaheer et al. 2020,
#   [arXiv:2007.14062](https://arxiv.org/abs/2007.14062); Gupta et al. 2021,
#   [arXiv:2106.06899](https://arxiv.org/abs/2106.06899).
# - Next: [14 Linear attention](14_linear_attention.ipynb), which leaves out no pair and forms none.
# - Which mechanism when, and what else there is: [which_when.md](which_when.md).
