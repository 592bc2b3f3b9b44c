# %% [markdown]
# # 10 FlashAttention I: the softmax in pieces
#
# 45 minutes · difficulty: medium · read before: [01 Queries, keys, values](01_queries_keys_values.ipynb),
# [03 Masks](03_masks.ipynb), [07 The KV cache](07_kv_cache.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - compute a softmax, and an attention output, from scores that come a few at a time, on a pocket calculator,
# - join the attention over two sets of keys into the attention over both, by `merge`,
# - write attention tile by tile, so that the $N \times S$ scores never exist at once,
# - count the numbers that a form of attention moves, and say from which size of fast memory on tiles move fewer.

# %% [markdown]
# ## The question
#
# Every weight of a row is divided by a sum over the whole row. So it seems that all scores of a row have to be there before
# the first weight is known, and for all rows that is a map of $N \times S$ numbers, kept for each head while the softmax is
# computed. At 65,536 tokens the scores of *one* head take 16 GiB in float32; its queries, keys, values and outputs together
# take 64 MiB at $D = 64$. Can the softmax be computed while the scores are still coming, and the scores be forgotten at once?

# %%
import inspect
import tracemalloc
from functools import partial, reduce
from itertools import product

import course
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

import minattn as ma
from minattn.core.inputs import prepare
from minattn.flash import online
from minattn.practice import check

assert 65_536**2 * 4 == 16 * 2**30
assert 4 * 65_536 * 64 * 4 == 64 * 2**20

# %% [markdown]
# ## Predict before you run
#
# A row has six scores. You have seen three of them and may not see them again; three are still to come.
#
# 1. The softmax divides by the sum of all exponentials. How many numbers must you have kept to be able to finish that sum?
# 2. And to finish the output, when each value is a row of $D_v$ numbers?
#
# <details><summary>Answer</summary>
#
# 1. One would do on paper: the sum of the three exponentials. Two are needed on a computer: the largest score so far, and
#    the sum of the exponentials measured from it.
# 2. $D_v$ more: the sum of the values so far, each times its exponential. How many keys went by does not matter.
#
# </details>

# %% [markdown]
# ## Six scores
#
# They are real: in "The cat sat on the mat" the token 'mat' looks at the first six tokens, itself included, in head 2 of
# SmolLM2's layer 13. The scores, and two columns of the values, are rounded to two decimals, so that a calculator can follow.

# %%
tokens = ["The", "cat", "sat", "on", "the", "mat"]
s = np.array([1.38, -1.01, -0.33, 2.39, 2.44, -0.18])                 # (S,)
v = np.array([[-0.09,  0.04], [0.69, -1.32], [0.73, -1.24],
              [ 0.23,  0.25], [0.55,  2.52], [0.56, -1.42]])          # (S, Dv)

found = course.real("sentence")
print("held against the model itself" if course.model() else "held against the stored maps")
layer13 = found.q[2, 5] @ found.k[0, :6].T / 8                        # head 2 reads KV head 0; sqrt(64) = 8
np.testing.assert_allclose(s, layer13, atol=0.01)
np.testing.assert_allclose(v, found.v[0, :6, 2:4], atol=0.01)

weights = np.exp(s) / np.exp(s).sum()
for token, score, weight in zip(tokens, s, weights, strict=True):
    print(f"{token:>4}  score {score:5.2f}   exp {np.exp(score):6.3f}   weight {weight:.3f}")
print(f"sum of the exps {np.exp(s).sum():.3f}, log-sum-exp {np.log(np.exp(s).sum()):.3f}")
print("output", weights @ v)

# %% [markdown]
# The **log-sum-exp** (lse) is the logarithm of the sum of exponentials. It will be the one number worth keeping of a row.
#
# ## Built broken: no maximum
#
# The easy way to take the scores one after the other is a running sum of exponentials. It is right for these six. A softmax
# does not change when the same number is added to all scores of a row (lesson 01), so scores around 1000 must give the same
# weights.

# %%
def running_sum(scores):
    total = 0.0
    for score in scores:
        total += np.exp(score)
    return total


with np.errstate(over="ignore", invalid="ignore"):                    # the warnings that NumPy would print
    for shift in (0, 1000):
        total = running_sum(s + shift)
        print(f"scores + {shift:4}: sum {total:.3f}, weights {np.exp(s + shift) / total}")
print("largest exponent that float64 can take", np.log(np.finfo(np.float64).max).round(1),
      " float32", np.log(np.finfo(np.float32).max).round(1),
      " float16", np.log(np.finfo(np.float16).max).round(1))

# %% [markdown]
# The symptom: inf in the sum, NaN in the weights. The usual mend subtracts the largest score first. But the largest
# score of the row is known only when all scores have been seen, and they come one at a time.
#
# ## Built broken: the maximum so far
#
# Then subtract the largest score *so far*. Nothing overflows:

# %%
top, total = -np.inf, 0.0
for token, score in zip(tokens, s, strict=True):
    top = max(top, score)
    total += np.exp(score - top)
    print(f"{token:>4}  score {score:5.2f}   top {top:5.2f}   adds {np.exp(score - top):.3f}   total {total:.3f}")
broken = np.exp(s - top) / total
print(f"total {total:.3f}, it should be {np.exp(s - top).sum():.3f}")
print("weights", broken.round(3), "add up to", broken.sum().round(3))
assert broken.sum() < 0.75
assert np.exp(1.38 - 2.44).round(3) == 0.346

# %% [markdown]
# The symptom: weights that do not add up to 1. 'The' was counted as 1.000, measured from itself; measured from the final
# 2.44 it is $e^{1.38 - 2.44} = 0.346$. The terms of the sum were measured from different tops, like lengths from different
# zeros.
#
# ## The mend: rescale what is there
#
# Write $m$ for the top and $l$ for the total, as the papers on FlashAttention do. A sum measured from an old top $m$ is
# brought under a new one, $m'$, by a single factor, because $e^{s-m'} = e^{s-m}\, e^{m-m'}$ for all of its terms:
#
# $$
# m' = \max(m, s) \qquad l' = e^{m - m'}\, l + e^{s - m'}
# $$
#
# The factor $e^{m - m'}$ is called `fade` below. It is 1 when the top stays, less when it rises, never more. Check a line
# on a calculator (what is printed is rounded, the last digit may be off by one); 'on' raises the top, 'the' raises it again.

# %%
def online_softmax(scores):
    """(top, total) after one pass over the scores, printed step by step."""
    top, total = -np.inf, 0.0
    for token, score in zip(tokens, scores, strict=True):
        old, top = top, max(top, score)
        fade, adds, before = np.exp(old - top), np.exp(score - top), total
        total = fade * total + adds
        print(f"{token:>4}  score {score:5.2f}  top {top:5.2f}  "
              f"total = {fade:.3f} * {before:.3f} + {adds:.3f} = {total:.3f}")
    return top, total


top, total = online_softmax(s)
np.testing.assert_allclose(np.exp(s - top) / total, weights)
np.testing.assert_allclose(top + np.log(total), ma.logsumexp(s))
print(f"lse = {top} + log {total:.3f} = {top + np.log(total):.3f}\n")

shifted_top, shifted = online_softmax(s + 1000)
np.testing.assert_allclose([shifted_top, shifted], [top + 1000, total])

# %% [markdown]
# Before the first score the top is $-\infty$ and the fade $e^{-\infty} = 0$: nothing is there to be rescaled. With 1000
# added to all scores the tops grow by 1000 and the totals stay as they are, because only differences enter. This is *online
# softmax* (Milakov and Gimelshein 2018).
#
# ## The same with values
#
# The output is a sum over keys as well, of $e^{s_j} v_j$. So it is carried along in the same way, in an *accumulator*, `acc`,
# and whatever fades the total fades the accumulator. One division at the end makes it the output.

# %%
top, total, acc = -np.inf, 0.0, np.zeros(2)
for token, score, value in zip(tokens, s, v, strict=True):
    old, top = top, max(top, score)
    fade, weight = np.exp(old - top), np.exp(score - top)
    total = fade * total + weight
    acc = fade * acc + weight * value
    print(f"{token:>4}  fade {fade:.3f}  weight {weight:.3f}  total {total:.3f}  acc {acc.round(3)}")
out, lse = acc / total, top + np.log(total)
print("out", out.round(3), " lse", lse.round(3))

np.testing.assert_allclose(out, np.exp(s - s.max()) @ v / np.exp(s - s.max()).sum())   # all at once
q, k = np.ones((1, 1)), s[:, None]                                    # a query whose scores are s
want, want_lse = ma.attention(q, k, v, scale=1, return_lse=True)
np.testing.assert_allclose(out, want[0])
np.testing.assert_allclose(lse, want_lse[0])

# %% [markdown]
# That is all of the arithmetic of **FlashAttention** (Dao et al. 2022): two numbers and one row are kept, and each key is
# looked at once. What it does besides is to take many queries and keys at a time, as below, so that little has to be moved.
# FlashAttention-2 (Dao 2023) divides once at the end, as here; the first FlashAttention divided in every step, and had to
# multiply by the old total again before the next.
#
# Forget to fade the accumulator, and the tokens that came before a new top count too much:

# %%
top, total, acc = -np.inf, 0.0, np.zeros(2)
for score, value in zip(s, v, strict=True):
    old, top = top, max(top, score)
    total = np.exp(old - top) * total + np.exp(score - top)
    acc = acc + np.exp(score - top) * value                           # no fade
print("without fading the accumulator", (acc / total).round(3), "  right", out.round(3))
assert np.abs(acc / total - out).max() > 0.05

# %% [markdown]
# ## Merge: two parts into one
#
# Cut the six keys in two halves and attend to each by itself. What has to be known of a half to join it with the other? Its
# output $O$, and how much weight it has in the whole: its sum of exponentials, $e^L$ with the lse $L$.
#
# $$
# L = \log(e^{L_a} + e^{L_b}) \qquad O = e^{L_a - L}\, O_a + e^{L_b - L}\, O_b
# $$

# %%
def attend(keys):
    """(out, lse) of the one query over some of the keys."""
    return ma.attention(q, k[keys], v[keys], scale=1, return_lse=True)


a, b = attend([0, 1, 2]), attend([3, 4, 5])
out_ab, lse_ab = ma.merge(*a, *b)
for name, (part_out, part_lse) in [("The cat sat", a), ("on the mat", b), ("merged", (out_ab, lse_ab))]:
    print(f"{name:12} out {part_out[0].round(3)}  lse {part_lse[0]:.3f}  "
          f"share {np.exp(part_lse - lse_ab)[0]:.3f}")
np.testing.assert_allclose(out_ab[0], out)
print("plain average of the two outputs   ", ((a[0] + b[0]) / 2)[0].round(3), " is wrong")
assert np.abs((a[0] + b[0]) / 2 - out).max() > 0.1

# %% [markdown]
# But for rounding, the order does not matter, nor what is joined first (a merge is commutative and associative): parts can
# be joined in pairs, in a tree, on different machines. The smallest part is a single key: its output is its value, and its
# lse is its score. And there is an empty part that changes nothing, with output 0 and lse $-\infty$.

# %%
rng = np.random.default_rng(0)
keys = [(v[j][None], s[j][None]) for j in range(6)]                   # six parts of one key each: (out, lse)
for _ in range(3):                                                    # any order, any tree
    parts = [keys[j] for j in rng.permutation(6)]
    while len(parts) > 1:
        first, second = parts.pop(rng.integers(len(parts))), parts.pop(rng.integers(len(parts)))
        parts.append(ma.merge(*first, *second))
    np.testing.assert_allclose(parts[0][0][0], out)
chain = reduce(lambda a, b: ma.merge(*a, *b), keys)                   # from left to right: online softmax
np.testing.assert_allclose(chain[0][0], out)

empty = np.zeros((1, 2)), np.array([-np.inf])
np.testing.assert_array_equal(ma.merge(*empty, *a)[0], a[0])
nothing = ma.merge(*empty, *empty)
print("empty with empty:", nothing[0][0], nothing[1][0])
with np.errstate(invalid="ignore"):
    print("the formula, read literally:", np.exp(empty[1] - nothing[1])[0], "= exp(-inf + inf)")

# %% [markdown]
# Rows that may look at nothing are not rare: with tiles, most causal rows have whole tiles that are hidden from them. A merge
# that gives NaN there spoils the row for good, and so `ma.merge` takes care of it.
#
# ## Tiles
#
# One key at a time is slow in NumPy, one query at a time as well. So take `block_q` queries and `block_k` keys: a **tile** of
# the map. The loop is the one from above, with a top and a total for each row of the tile, and two matrix products inside.

# %%
def tiled(q, k, v, block_q, block_k):
    """One head, (N, D), (S, D), (S, Dv) -> (N, Dv); at no time more than block_q x block_k scores."""
    N, S, out = len(q), len(k), np.empty((len(q), v.shape[1]))
    for n in range(0, N, block_q):
        rows = q[n:n + block_q] / np.sqrt(q.shape[1])                 # scaled once; the last block may be short
        top, total = np.full(len(rows), -np.inf), np.zeros(len(rows))
        acc = np.zeros((len(rows), v.shape[1]))
        for j in range(0, S, block_k):
            scores = rows @ k[j:j + block_k].T                        # (block_q, block_k)
            old, top = top, np.maximum(top, scores.max(axis=1))
            fade, p = np.exp(old - top), np.exp(scores - top[:, None])
            total = fade * total + p.sum(axis=1)
            acc = fade[:, None] * acc + p @ v[j:j + block_k]
        out[n:n + block_q] = acc / total[:, None]
    return out


N, S, D, Dv = 41, 53, 8, 5
q, k, v = (rng.standard_normal(shape) for shape in [(N, D), (S, D), (S, Dv)])
for block_q, block_k in [(1, 1), (16, 16), (7, 9), (41, 53), (64, 100)]:
    difference = np.abs(tiled(q, k, v, block_q, block_k) - ma.attention(q, k, v)).max()
    assert difference < 1e-12
    print(f"tiles of {block_q:2} x {block_k:3}: largest difference {difference:.0e}")

# %% [markdown]
# No approximation: the differences are rounding. Tiles that do not divide the lengths give a short last tile, and slices take
# care of that; a loop over `N // block_q` blocks would lose it.
#
# ## The library's file, read aloud
#
# [minattn/flash/online.py](../minattn/flash/online.py) has the same loop for batches, grouped heads, masks and every other
# option. `prepare` checks the arguments and gives the problem `x`; `x.tile(rows, keys)` is the part of it that belongs to a
# tile, with the positions of its own queries and keys; `x.work` is the dtype that is computed in, and `blocks` gives the
# slices. The lines of `forward` that matter here:

# %%
source = inspect.getsource(online.forward).splitlines()
start = next(n for n, line in enumerate(source) if "for rows in" in line)
print("\n".join(source[start:]))

# %% [markdown]
# From the top: a block of queries is loaded once, and starts with top $-\infty$, total 0 and an accumulator of zeros.
# `tile_scores` gives `None` where nobody in the tile may look at anything; such a tile is skipped before it is loaded.
# `base` is the top, or 0 in a row that has seen nothing yet, so that no $-\infty + \infty$ arises. `group` lets the query
# heads that share a KV head (lesson 08) read it together, and `product` is `p @ v` in which a pair outside `pairs`, those
# that the mask lets through, adds nothing, even where v is NaN. After the last key comes one division, and output and lse
# are stored. A row that saw nothing has a total of 0, is divided by 1 and gets the output 0. The `ledger` counts; it has its
# own section below. (`with_sink` is for an option that this lesson does not use.)
#
# `forward_keys_outside` has the two loops exchanged, as the first FlashAttention had them: a block of keys visits all
# queries, and joins what they had so far by `merge`. Both orders, whatever the tiles, with and without a mask:

# %%
def run(form, block_q, block_k, **options):
    """(out, lse) of one head by `online.forward` or `online.forward_keys_outside`."""
    x = prepare(q, k, v, **options)
    out, _, lse = form(x, block_q=block_q, block_k=block_k)
    return x.restore(out), x.restore(lse)                             # without the axes that q did not have


window = ma.masks.last(9) | ma.masks.first(2)
for options in ({}, {"causal": True}, {"mask": window, "causal": True}, {"softcap": 2.0}):
    want, want_lse = ma.attention(q, k, v, return_lse=True, **options)
    for form in (online.forward, online.forward_keys_outside):
        for tiles in [(3, 2), (16, 16), (7, 9), (64, 100)]:
            out, lse = run(form, *tiles, **options)
            np.testing.assert_allclose(out, want, atol=1e-12)
            np.testing.assert_allclose(lse, want_lse, atol=1e-12)
print("2 orders x 4 tile sizes x 4 sets of options agree with ma.attention")

# %% [markdown]
# You need not call it by hand: for all but small problems `ma.attention` itself takes this file in float64, and compiled
# kernels (lesson 11) in float32. `backend="numpy"` asks for the ordinary form, with all scores at once.
#
# ## The picture
#
# The map of 22 queries and 22 keys under the causal mask, cut in tiles of 5 x 4. What to look for on the left: which
# tiles hold no coloured cell and can be skipped, and that only tiles on the staircase need to look at the mask at all. On
# the right: one moment of the loop with the queries outside. Only what is dark is in fast memory, the small one in which a
# processor computes; the rest is in the large, slow one.

# %%
N, block_q, block_k = 22, 5, 4
blocks = ma.masks.causal().blocks(N, N, block_q=block_q, block_k=block_k)
kind = blocks.kind[0, 0]                                              # 0 empty, 1 full, 2 partial
print(blocks)
print(f"{blocks.active:.0%} of the tiles have work; {np.count_nonzero(kind == 2)} of {kind.size} look at the mask")

# %%
fast, slow, done = "#443983", "#d9d9e8", "#9fd0cb"
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
ma.plot.mask(ma.masks.causal(), N, ax=left, legend=False, title="tiles of 5 x 4; coloured: may look")
left.hlines(np.arange(0, N, block_q) - 0.5, -0.5, N - 0.5, color="#d1495b", linewidth=1.2)
left.vlines(np.arange(0, N, block_k) - 0.5, -0.5, N - 0.5, color="#d1495b", linewidth=1.2)


def box(corner, rows, columns, fill, edge="white", **style):
    right.add_patch(Rectangle(corner, columns, rows, facecolor=fill, edgecolor=edge, **style))


for row, n in enumerate(range(0, N, block_q)):                        # the moment: row of tiles 2, column 1
    height, now = min(block_q, N - n), row == 2
    box((-7, n), height, 5, fast if now else slow)                    # Q, five numbers wide
    box((24, n), height, 5, fast if now else done if row < 2 else slow)
    for column, j in enumerate(range(0, N, block_k)):
        fill = fast if now and column == 1 else "white" if kind[row, column] else "#e0e0e0"
        box((j, n), height, min(block_k, N - j), fill, "#8a8a8a", linestyle=":")
for y, (column, j) in product((-7, -13), enumerate(range(0, N, block_k))):          # K, and V above it
    box((j, y), 5, min(block_k, N - j), fast if column == 1 else slow)
for text, place in [("Q", (-4.5, 24)), ("out", (26.5, 24)), ("K", (-1.2, -4.5)), ("V", (-1.2, -10.5))]:
    right.text(*place, text, ha="center", va="center")
right.set(xlim=(-8, 30), ylim=(26, -14), aspect="equal", title="one moment: what is dark is in fast memory")
right.axis("off");

# %% [markdown]
# In slow memory, pale: Q, K, V, and the output, which is finished down to row 9 (green). In fast memory: five rows of Q,
# four of K and V, one tile of scores, five rows of the accumulator, and a top and a total for each. The white tiles are
# nowhere: not computed yet, or forgotten. The grey ones are never needed.
#
# ## The ledger
#
# A processor computes on what lies in its fast memory (on a GPU, one or two hundred kilobytes beside each group of
# arithmetic units; on a CPU, the caches), and waits for what has to come from the slow one. So count what moves. A `Ledger`
# adds up the numbers that are read from slow memory and written to it. First the ordinary form, one operation after the
# other, each result in slow memory:

# %%
def at_once(q, k, v, ledger):
    """One head: scores, weights, output, each written out and read in again."""
    ledger.load(q, k)
    scores = q @ k.T / np.sqrt(q.shape[1])
    ledger.store(scores)
    ledger.load(scores)
    weights = ma.softmax(scores)
    ledger.store(weights)
    ledger.load(weights, v)
    out = weights @ v
    ledger.store(out)
    return out


def counted(form, N, D, **options):
    """Numbers moved for one head with N queries and N keys, counted while it runs."""
    q, k, v = np.random.default_rng(N).standard_normal((3, N, D), dtype=np.float32)
    ledger = online.Ledger()
    if form is at_once:
        at_once(q, k, v, ledger)
    else:
        form(prepare(q, k, v, causal=options.pop("causal", False)), ledger=ledger, **options)
    return ledger.moved


# %% [markdown]
# What should come out, for one head with $N = S$ and $D_v = D$, and $b_q$ and $b_k$ for `block_q` and `block_k`:
#
# | form | numbers moved | why |
# |---|---|---|
# | all at once | $4ND + 4N^2$ | Q, K, V, output once; scores and weights out and in |
# | keys outside | $2ND + \lceil N / b_k \rceil\,(3ND + 2N)$ | K, V once; a block of keys: Q in, output and lse in and out |
# | queries outside | $2ND + N + \lceil N / b_q \rceil\, 2ND$ | Q, output, lse once; a block of queries: all K and V |
#
# (The first FlashAttention keeps top and total apart, two numbers where the lse is one, so its $2N$ is $4N$.)

# %%
def up(a, b):
    """a / b, rounded up."""
    return -(-a // b)


forms = {
    "all at once": (at_once, lambda N, D, block_q, block_k: 4 * N * D + 4 * N * N),
    "keys outside": (online.forward_keys_outside,
                     lambda N, D, block_q, block_k: 2 * N * D + up(N, block_k) * (3 * N * D + 2 * N)),
    "queries outside": (online.forward,
                        lambda N, D, block_q, block_k: 2 * N * D + N + up(N, block_q) * 2 * N * D),
}
for N, D, block_q, block_k in [(300, 64, 64, 64), (300, 64, 7, 100), (512, 32, 128, 64)]:
    print(f"N = {N}, D = {D}, tiles of {block_q} x {block_k}")
    for name, (form, formula) in forms.items():
        sizes = {} if form is at_once else {"block_q": block_q, "block_k": block_k}
        moved = counted(form, N, D, **sizes)
        assert moved == formula(N, D, block_q, block_k)
        print(f"  {name:16} {moved:>11,} numbers counted, as the formula says")

# %% [markdown]
# Not every tiling gains: blocks of seven queries move more than the ordinary form, because all keys and values come in
# once for each of them.
#
# ## How much fast memory?
#
# With the queries outside, fast memory holds `block_q` rows of Q and of the accumulator, `block_k` rows of K and V, the
# tile, and a top and a total a row. With few keys at a time, about $M / 2D$ queries fit in a fast memory of $M$ numbers, and
# the last term of the formula is
#
# $$
# \frac{N}{b_q} \cdot 2ND \;\approx\; \frac{4 N^2 D^2}{M}
# $$
#
# Theorem 2 of Dao et al. 2022, about their form with the keys outside and for $M$ from $D$ to $ND$, has the same order:
# $\Theta(N^2 D^2 / M)$ numbers, against $\Theta(ND + N^2)$ for the ordinary form, where $\Theta$ means 'but for a constant
# factor'. Both grow with $N^2$. The tiled form moves about $D^2 / M$ times as many as the ordinary one, so it moves fewer only
# where $M$ is larger than $D^2$ or so.
#
# Below, the queries outside take 16 keys at a time, and as many queries as fit. For the keys outside the paper takes
# $b_k = \lceil M / 4D \rceil$ and $b_q = \min(b_k, D)$; the tile of scores comes on top, about a quarter of $M$ at most.

# %%
def queries_outside(M, D, block_k=16):
    """The largest tile of 16 keys that fits in M numbers."""
    block_q = (M - 2 * block_k * D) // (2 * D + block_k + 2)
    return {"block_q": int(block_q), "block_k": block_k}


def keys_outside(M, D):
    block_k = int(up(M, 4 * D))
    return {"block_q": min(block_k, D), "block_k": block_k}


tilings = {"keys outside": keys_outside, "queries outside": queries_outside}
N, D, sizes = 1024, 64, 2 ** np.arange(12, 18)
for M in sizes.tolist():
    fits = queries_outside(M, D)["block_q"]
    assert 2 * (fits + 16) * D + fits * (16 + 2) <= M
    print(f"M = {M:>7,}: {fits:3} queries x 16 keys fit")

# %% [markdown]
# Now count, at six sizes of fast memory, and draw the formulas through the counts. What to look for: in the middle the lines
# fall as $1 / M$ does, side by side with the dotted one; where they cross the level line of the ordinary form; and the
# floor that no form can go below, since Q, K and V have to be read and the output written once.

# %%
fig, ax = plt.subplots(figsize=(7.2, 4), layout="constrained")
fine = np.geomspace(2500, 2**17, 400).astype(int)
looks = {"keys outside": ("#26828e", "s"), "queries outside": ("#443983", "o")}
points = {}
for name, (colour, marker) in looks.items():
    form, formula = forms[name]
    line = [formula(N, D, **tilings[name](M, D)) for M in fine]
    ax.loglog(fine, line, color=colour, linewidth=1, label=f"{name}: formula")
    points[name] = [counted(form, N, D, **tilings[name](M, D)) for M in sizes.tolist()]
    ax.loglog(sizes, points[name], marker, color=colour, label=f"{name}: counted")
naive = counted(at_once, N, D)
ax.axhline(naive, color="#d1495b", linestyle="--", label="all at once: counted")
ax.loglog(fine, 4 * N**2 * D**2 / fine, ":", color="#1b1b1b", label="4 N^2 D^2 / M")
ax.axhline(4 * N * D, color="#8a8a8a", linestyle="-.", label="floor: Q, K, V, output once")
ax.set(xlabel="numbers that fit in fast memory, M", ylabel="numbers moved, one head", xticks=sizes,
       xticklabels=[f"{M:,}" for M in sizes], title=f"N = S = {N}, D = {D}")
ax.minorticks_off()
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False);

# %% [markdown]
# The small steps are whole blocks: one more or one less. At the left end the 16 keys take half of the memory or more, so the
# line of the queries falls faster there; at the right end both come near the floor. Where do they cross the ordinary form?
# The formulas say: once a block holds about $D / 2$ queries, or about $3D / 4$ keys. In numbers of fast memory that is about
# $D^2$ and $3 D^2$ for large $D$; at smaller $D$ the 16 keys and the tile itself weigh more. Checked at 65,536 tokens:

# %%
for D in (32, 64, 128):
    for name, tiling in tilings.items():
        formula, N = forms[name][1], 65_536
        gains = [M for M in range(40 * D, 8 * D * D, D)
                 if formula(N, D, **tiling(M, D)) < forms["all at once"][1](N, D, 1, 1)]
        fit = tiling(gains[0], D)
        print(f"D = {D:3}, {name:15}: from M = {gains[0]:>6,} = {gains[0] / D**2:.2f} D^2 "
              f"({fit['block_q']} queries x {fit['block_k']} keys)")
N, D, M = 1024, 64, 2**17
ratio = naive / points["queries outside"][-1]
print(f"at M = {M:,} = {M / D**2:.0f} D^2 the counted traffic is {ratio:.0f} times smaller")
assert ratio > 10

# %% [markdown]
# The paper's numbers, not measured here: 192 KB of fast memory beside each of an A100 GPU's 108 groups of arithmetic units,
# which is 98,304 numbers of 16 bits, or $24 D^2$ at $D = 64$; for attention in GPT-2 medium, forward and backward, 40.3 GB
# moved by the ordinary form and 4.4 GB by theirs (Figure 2). Their Proposition 3: no exact form can move fewer by more than
# a constant factor, $o(N^2 D^2 / M)$, for every $M$ from $D$ to $ND$ at once.
#
# **Predict before you run.** Tiles that a mask leaves out are not loaded. With $N = 1024$ and tiles of 64 x 64, is the
# traffic under the causal mask half of the whole, less, or more?
#
# <details><summary>Answer</summary>
#
# A little more than half. A tile on the diagonal is loaded whole, and Q, output and lse move as before.
#
# </details>

# %%
assert 192 * 1024 // 2 == 98_304 == 24 * 64**2
sizes = {"block_q": 64, "block_k": 64}
full, causal = (counted(online.forward, N, D, causal=causal, **sizes) for causal in (False, True))
tiles = N // 64
assert 0.5 < causal / full < 0.6
assert causal == 2 * N * D + N + tiles * (tiles + 1) // 2 * 2 * 64 * D
print(f"all tiles {full:,}, causal {causal:,}: {causal / full:.0%}; "
      f"tiles with work {ma.masks.causal().blocks(N, N, **sizes).active:.0%}")

# %% [markdown]
# ## The real thing
#
# SmolLM2 with another attention in all 30 layers, held to the ordinary form: tiles of 32 x 24, which do not divide the 127
# tokens of a paragraph, and two halves of the keys, merged. Then the model writes, and in every step the cache is cut in
# two halves that are attended to apart and merged. Where the weights are not here, the same lines run on a Llama of the same
# shape with random weights.

# %%
model, trained = course.model(), True
if model is None:
    print("The lines below run on random weights of SmolLM2's shape.")
    model, trained = ma.models.Llama.random(ma.models.LlamaConfig.smollm2()), False


def by_tiles(q, k, v, **options):
    x = prepare(q, k, v, **options)
    out, _, _ = online.forward(x, block_q=32, block_k=24)
    return x.restore(out)


def by_halves(q, k, v, *, causal, q_pos, k_pos):
    half = k.shape[-2] // 2
    options = {"causal": causal, "q_pos": q_pos, "return_lse": True}
    a, b = (ma.attention(q, k[..., keys, :], v[..., keys, :], k_pos=k_pos[..., keys], **options)
            for keys in (slice(None, half), slice(half, None)))
    return ma.merge(*a, *b)[0]


# %%
ids = model.tokenizer.encode(course.PARAGRAPH) if trained else list(range(100, 227))
ordinary = model.with_attention(partial(ma.attention, backend="numpy"))
logits = ordinary.forward(ids)                                        # (N, vocabulary)
assert (len(ids), model.config.layers) == (127, 30)
for name, fn in [("tiles of 32 x 24", by_tiles), ("two halves, merged", by_halves)]:
    difference = np.abs(model.with_attention(fn).forward(ids) - logits).max()
    print(f"{name:18} {len(ids)} tokens, largest difference of a logit {difference:.0e}, "
          f"logits reach {np.abs(logits).max():.0f}")
    assert difference < 1e-3

prompt, options = ids[:12], {"max_new_tokens": 8, "progress": False}
kept = ordinary.generate(prompt, **options)
assert model.with_attention(by_halves).generate(prompt, **options) == kept
assert model.with_attention(by_tiles).generate(prompt, **options) == kept
print(model.tokenizer.decode(prompt + kept) if trained else kept)

# %% [markdown]
# The differences are rounding in float32. To split the cache is of use: while a model writes, each step has one query, so
# there is no block of queries to share among processors, but there are many keys. *Flash-Decoding* (Dao et al. 2023) gives
# each processor a part of the cache and merges.
#
# ## And the weights?
#
# The tiles were forgotten, and the map with them. But a weight is $e^{s - L}$, so with the lse any row can be made
# again by itself, without its neighbours and without a second softmax. Head 8 of layer 13, the row of 'it':

# %%
x = prepare(found.q, found.k, found.v, causal=True)
out, _, lse = online.forward(x, block_q=4, block_k=3)
lse = x.restore(lse, x.work)                                          # (H, N): 90 numbers, where the maps had 900
assert (lse.size, lse.size * len(found.tokens)) == (90, 900)
it = found.tokens.index(" it")
row = ma.attention_weights(found.q, found.k, lse=lse, heads=8, rows=it, causal=True)
for token, weight in zip(found.tokens[:it + 1], row, strict=False):
    print(f"{token.strip():>8} {weight:.3f} {'|' * round(40 * float(weight))}")
whole = ma.attention(found.q, found.k, found.v, causal=True, return_weights=True)[1]
np.testing.assert_allclose(row, whole[8, it], rtol=1e-4, atol=1e-6)

# %% [markdown]
# ## What it costs: memory and time, measured here
#
# One head, $D = 64$, float32, and one thread for NumPy's products if you came here by `minattn learn`. Memory is the peak of
# what was allocated beyond Q, K and V, as Python's `tracemalloc` sees it. The ordinary form is `ma.attention` with
# `backend="numpy"`, which holds up to three maps at a time.

# %%
def peak(run):
    """MiB that `run()` held at its worst, beyond what was there before."""
    tracemalloc.start()
    run()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 2**20


def at_once_and_tiled(q, k, v):
    """{form: (what to run, numbers it moves)}"""
    x, (N, D) = prepare(q, k, v), q.shape
    runs = {"all at once": (lambda: ma.attention(q, k, v, backend="numpy"), 4 * N * D + 4 * N * N)}
    for block in (64, 256):
        moved = forms["queries outside"][1](N, D, block, block)
        runs[f"tiles of {block}"] = lambda b=block: online.forward(x, block_q=b, block_k=b), moved
    return runs


# %%
held = {}
print("    N   form             peak MiB        ms   numbers moved")
for N in (1024, 2048, 4096):
    runs = at_once_and_tiled(*rng.standard_normal((3, N, 64), dtype=np.float32))
    best = dict.fromkeys(runs, np.inf)
    for name in 5 * list(runs):                                       # in turn: what disturbs one disturbs all
        best[name] = min(best[name], course.seconds(runs[name][0], 1))
    held[N] = {name: peak(run_it) for name, (run_it, _) in runs.items()}
    for name, (_, moved) in runs.items():
        print(f"{N:5}   {name:14} {held[N][name]:10.2f} {1000 * best[name]:9.1f} {moved:15,}")

growth = {name: held[4096][name] / held[2048][name] for name in held[4096]}
print("twice the length takes", ", ".join(f"{name}: {times:.1f} times" for name, times in growth.items()), "the memory")
assert np.isclose(held[4096]["all at once"], 3 * 4096**2 * 4 / 2**20, rtol=0.01)      # three maps
assert np.isclose(growth["all at once"], 4, rtol=0.05)
assert max(growth["tiles of 64"], growth["tiles of 256"]) < 2
assert held[4096]["tiles of 64"] < 1.25 * 4096 * 64 * 4 / 2**20       # little more than the output

# %% [markdown]
# Memory is what tiles give in NumPy. The ordinary form's grows with $N^2$; the tiled form's grows no faster than $N$, and at
# the last length, with tiles of 64, it is little more than the output itself.
#
# Time is another matter. Compare its column with the last one: the traffic that we counted is the same on every machine, the
# time need not follow it. NumPy has no say in what stays in fast memory: each operation writes a whole array, and the
# processor's caches keep what they can. And each operation has a price in Python, however small its tile is, so small tiles
# pay it often. The arithmetic is the same for all three, and slightly more with tiles, which fade their accumulators:
#
# | | all at once | tiles, queries outside |
# |---|---|---|
# | operations | $4 N S D$ and $N S$ exponentials | the same, and $N D \lceil S / b_k \rceil$ to fade |
# | memory beyond input and output | $N S$ numbers or more | $b_q \cdot b_k$ numbers and some rows |
# | under the causal mask | all pairs, about half of them for nothing | about half of the tiles |
#
# To turn less traffic into less time takes code that itself decides what lies where: lesson 11.

# %% [markdown]
# ## Exercises
#
# **1 (easy).** One pass over the scores of a row, `scores` (S,): return the largest score and the sum of $e^{s_j - m}$,
# where $m$ is that largest score. Look at each score once, in a loop, without `max` over the whole row.
#
# <details><summary>Hint</summary>
#
# Start with `top = -np.inf` and `total = 0.0`.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Keep the old top before it changes: the total so far is measured from it.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def online_softmax(scores):
#     top, total = -np.inf, 0.0
#     for score in scores:
#         old, top = top, max(top, score)
#         total = np.exp(old - top) * total + np.exp(score - top)
#     return top, total
# ```
#
# The first fade is $e^{-\infty} = 0$ and meets a total of 0.
#
# </details>

# %%
def online_softmax(scores):
    """scores (S,) -> (top, total), two numbers"""
    return None


check.online_softmax(online_softmax)

# %% [markdown]
# **2 (easy).** How many tiles have work under a causal mask, that is, at least one visible pair? There are N queries and N
# keys; the tiles are `block_q` x `block_k`, which need not divide N. Return an int.
#
# <details><summary>Hint</summary>
#
# The last query of a block of queries sees the most keys.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The block that starts at query `n` ends before `min(n + block_q, N)`, and that is also how many keys its last query
# sees. How many blocks of keys do these touch?
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def causal_tiles(N, block_q, block_k):
#     ends = (min(n + block_q, N) for n in range(0, N, block_q))
#     return sum(-(-end // block_k) for end in ends)
# ```
#
# </details>

# %%
def causal_tiles(N, block_q, block_k):
    """how many tiles have work, an int"""
    return None


check.causal_tiles(causal_tiles)

# %% [markdown]
# **3 (medium).** Join two parts: `out_a`, `out_b` (N, Dv) and `lse_a`, `lse_b` (N,) are attention over two disjoint sets
# of keys. Return `out` and `lse` over both. In some rows a part is empty (output 0, lse $-\infty$), in some both are.
#
# <details><summary>Hint</summary>
#
# `np.logaddexp(a, b)` is $\log(e^a + e^b)$ without overflow, also where both are $-\infty$.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Where the merged lse is $-\infty$, subtract 0 in its place: $e^{-\infty - 0}$ is 0.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def merge(out_a, lse_a, out_b, lse_b):
#     lse = np.logaddexp(lse_a, lse_b)
#     base = np.where(np.isneginf(lse), 0, lse)
#     share_a, share_b = np.exp(lse_a - base), np.exp(lse_b - base)
#     return share_a[:, None] * out_a + share_b[:, None] * out_b, lse
# ```
#
# The shares add up to 1 wherever there is anything to share.
#
# </details>

# %%
def merge(out_a, lse_a, out_b, lse_b):
    """(N, Dv), (N,), (N, Dv), (N,) -> (out (N, Dv), lse (N,))"""
    return None


check.merge(merge)

# %% [markdown]
# **4 (medium).** The traffic of the queries-outside form for one head, no mask, N queries, S keys, $D_v = D$: every block
# of queries is read once, walks over all keys and values, and writes its output and its lse. Return how many numbers
# move, an int.
#
# <details><summary>Hint</summary>
#
# Write down what is loaded and stored for one block of queries, and how many blocks there are.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Blocks: $\lceil N / b_q \rceil$. All blocks of queries together are N rows, whatever the last one's length.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def flash_traffic(N, S, D, block_q):
#     blocks = -(-N // block_q)
#     return N * D + blocks * 2 * S * D + N * D + N
# ```
#
# `block_k` does not enter: it decides how the keys come in, not how often.
#
# </details>

# %%
def flash_traffic(N, S, D, block_q):
    """numbers read and written, an int"""
    return None


check.flash_traffic(flash_traffic)

# %% [markdown]
# **5 (hard).** FlashAttention's forward for one head and one block of queries: `q` (N, D) before `k` (S, D) and `v` (S,
# Dv), `block_k` keys at a time, scores scaled by $1 / \sqrt{D}$, no mask. Return `out` (N, Dv) and `lse` (N,). `block_k`
# need not divide S.
#
# <details><summary>Hint</summary>
#
# Three things live through the loop: `top` (N,), `total` (N,) and `acc` (N, Dv). Two of them fade.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `range(0, S, block_k)` with slices includes the short last block. The division and the logarithm stand after the loop,
# and the lse is measured from 0, not from the top.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def flash_forward(q, k, v, block_k):
#     N, D = q.shape
#     top, total, acc = np.full(N, -np.inf), np.zeros(N), np.zeros((N, v.shape[1]))
#     for j in range(0, len(k), block_k):
#         scores = q @ k[j:j + block_k].T / np.sqrt(D)
#         old, top = top, np.maximum(top, scores.max(axis=1))
#         fade, p = np.exp(old - top), np.exp(scores - top[:, None])
#         total = fade * total + p.sum(axis=1)
#         acc = fade[:, None] * acc + p @ v[j:j + block_k]
#     return acc / total[:, None], top + np.log(total)
# ```
#
# </details>

# %%
def flash_forward(q, k, v, block_k):
    """(N, D), (S, D), (S, Dv), int -> (out (N, Dv), lse (N,))"""
    return None


check.flash_forward(flash_forward)

# %% [markdown]
# ## Three questions
#
# **Does FlashAttention need fewer operations than the ordinary form?**
#
# <details><summary>Answer</summary>
#
# Without a mask a few more: the fades. It needs less memory, and with enough of the fast kind it moves fewer numbers. Under a
# mask it skips whole tiles, and then it does compute less.
#
# </details>
#
# **Two machines hold half of the keys and values each. What must one send to the other so that a query gets attention
# over all of them?**
#
# <details><summary>Answer</summary>
#
# The query has to be on both. Back come its output over that half and its lse: $D_v + 1$ numbers for each query and head,
# however many keys there were.
#
# </details>
#
# **Why does the lse suffice, though two numbers, top $m$ and total $l$, went through the loop?**
#
# <details><summary>Answer</summary>
#
# Weights and merges need $e^{s - m} / l$ only, and that is $e^{s - L}$ with $L = m + \log l$. Apart, the two
# guard against overflow; the logarithm does that by itself.
#
# </details>
#
# ## Where to go on
#
# - The files: [minattn/flash/online.py](../minattn/flash/online.py), the tiles and the ledger;
#   [minattn/core/softmax.py](../minattn/core/softmax.py), `merge`; [minattn/core/blocks.py](../minattn/core/blocks.py), which
#   tiles a mask leaves out.
# - Papers: Milakov and Gimelshein 2018, [arXiv:1805.02867](https://arxiv.org/abs/1805.02867), Algorithm 3; Dao et al. 2022,
#   [arXiv:2205.14135](https://arxiv.org/abs/2205.14135), Algorithm 1, Theorem 2 and Proposition 3; Dao 2023,
#   [arXiv:2307.08691](https://arxiv.org/abs/2307.08691), Algorithm 1.
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [11 FlashAttention II](11_flashattention_kernel.ipynb), which makes it fast; then
#   [12 The backward pass](12_flashattention_backward.ipynb), which needs the lse and never stores the map.
