# %% [markdown]
# # 03 Masks
#
# 35 minutes · difficulty: medium · read before: [01 Queries, keys, values](01_queries_keys_values.ipynb)
# · [glossary](glossary.md)
#
# You will be able to
#
# - mask where it works, before the softmax, and show that nothing leaks,
# - run sentences of unequal length in one batch, each as if it were alone,
# - build masks from rules with `&`, `|` and `~`, and say how they align when N and S differ,
# - name what goes wrong with a large negative number instead of a mask,
# - write a test that finds nine real bugs of attention.

# %% [markdown]
# ## The question
#
# A language model is trained to guess each next token of a text. If position 2 may look at position 3, the guess is no guess:
# the answer lies open. So a query must be kept from some keys. It sounds like one line of code, and it is a common place for
# a silent mistake.
#
# Throughout: **True = may attend**. (Some libraries mean the opposite; then `~mask` is yours.)

# %%
import matplotlib.pyplot as plt
import numpy as np

import course
import minattn as ma
from minattn.practice import check

np.set_printoptions(precision=2, suppress=True)
tokens = course.TOKENS
q, k, v = ma.project_qkv(course.X, course.W_Q, course.W_K, course.W_V)
N, D = q.shape

# %% [markdown]
# ## 1. The rule
#
# Call the tokens *the*, *cat*, *sat*, *down* t0 to t3. **Causal** means that a query sees the keys up to its own position,
# itself included: t1 sees t0 and itself.
#
# **Predict before you run.** How many of the 16 pairs are left? And what are the weights of row t0, whatever the numbers?
#
# <details><summary>Answer</summary>
#
# 1 + 2 + 3 + 4 = 10. Row t0 is 1, 0, 0, 0: the first token sees itself alone, and its weights must sum to 1.
#
# </details>

# %%
may = np.array([[j <= i for j in range(N)] for i in range(N)])
print(may.astype(int), may.sum(), "pairs")

cat = 1                                             # t1, one query in a loop
scores = [q[cat] @ k[j] / np.sqrt(D) for j in range(N) if may[cat, j]]
weights = np.exp(scores) / np.sum(np.exp(scores))
for token, score, weight in zip(tokens, scores, weights, strict=False):
    print(f"'cat' looks at {token}: score {score:5.2f}, weight {weight:.2f}")

# %% [markdown]
# The loop just leaves the hidden keys out. With all queries in one matrix there is no leaving out: every row has N entries.
#
# ## 2. Built broken: the mask after the softmax
#
# The obvious line is to compute all weights, and set the forbidden ones to 0.

# %%
def broken(x):
    q, k, v = ma.project_qkv(x, course.W_Q, course.W_K, course.W_V)
    weights = ma.softmax(q @ k.T / np.sqrt(D)) * may
    return weights @ v, weights


out, w = broken(course.X)
print(w, "\nsums of the rows:", w.sum(axis=-1), sep="\n")

# %% [markdown]
# The first symptom: rows do not sum to 1. 'the' gives itself 0.47 and throws the rest away.
#
# The second is worse. **Predict before you run.** Replace the last token by another. Which rows of the output change?
#
# <details><summary>Answer</summary>
#
# All four: t3, as it should, and the three before it, since the hidden scores are still in the denominator of the softmax. The
# future leaks through the sum.
#
# </details>

# %%
changed = course.X.copy()
changed[3] = [0.91, -1.02, 0.47, 1.93]                                # another last token
print("broken, change of each row:", np.abs(broken(changed)[0] - out).max(axis=-1))
assert (np.abs(broken(changed)[0] - out).max(axis=-1) > 0.1).all()

# %% [markdown]
# ## 3. The mend: minus infinity, before the softmax
#
# $e^{-\infty} = 0$: a score of $-\infty$ takes no weight *and* adds nothing to the sum.

# %%
def mended(x):
    q, k, v = ma.project_qkv(x, course.W_Q, course.W_K, course.W_V)
    scores = np.where(may, q @ k.T / np.sqrt(D), -np.inf)
    weights = ma.softmax(scores)
    return weights @ v, weights


out, w = mended(course.X)
print(w, "\nsums of the rows:", w.sum(axis=-1), sep="\n")
print("\nmended, change of each row:", np.abs(mended(changed)[0] - out).max(axis=-1))

assert np.allclose(w[cat, :2], weights)                               # the loop
assert np.allclose(out, ma.attention(q, k, v, causal=True))           # the library
assert np.array_equal(mended(changed)[0][:3], out[:3])                # not a bit of the future

# %% [markdown]
# What to look for in the picture: the hatched half appears in the second panel, *before* the weights; and the first row has
# one weight, 1.

# %%
ma.plot.steps(ma.steps(q, k, v, causal=True), tokens);

# %% [markdown]
# One more wrong turn: mask after the softmax and divide each row by its sum. On paper that equals the mend. In numbers it fails
# where a hidden key scores high, since nothing is left to divide:

# %%
scores, seen = np.array([1.0, 2.0, 900.0]), np.array([True, True, False])
late = ma.softmax(scores) * seen
with np.errstate(invalid="ignore"):
    print("masked late, divided by the sum:", late / late.sum())
print("masked before:                  ", ma.softmax(np.where(seen, scores, -np.inf)))

# %% [markdown]
# ## 4. The test that a model is causal
#
# Change a later token; every earlier output must stay the same, to the last bit. This test needs no knowledge of the code, and
# it does not matter where a leak sits. Here with other sizes, for each place where a change may begin:

# %%
rng = np.random.default_rng(0)
heads, length, dim = 3, 17, 8
big = rng.standard_normal((3, heads, length, dim))  # q, k and v
before = ma.attention(*big, causal=True)
for start in range(1, length):
    fresh = rng.standard_normal((3, heads, length - start, dim))
    other = np.concatenate([big[:, :, :start], fresh], axis=2)
    after = ma.attention(*other, causal=True)
    assert np.array_equal(after[:, :start], before[:, :start])
    assert not np.isclose(after[:, start:], before[:, start:]).all(axis=-1).any()
print(f"{length - 1} places, {heads} heads: rows before the change keep every bit, all others change")

# %% [markdown]
# ## 5. Rows that may look at nothing
#
# What should a query get that may attend to no key at all? It happens with padding, with windows, with documents packed
# together. It is an average of nothing, and three answers are met:

# %%
scores = np.array([-3.0, 2.0, 1.0, 0.5], dtype=np.float32)            # all four hidden
nothing = np.full(4, -np.inf, dtype=np.float32)
with np.errstate(invalid="ignore"):
    plain = np.exp(nothing - nothing.max())                           # -inf - -inf is NaN
    print("-inf and the textbook softmax:", plain / plain.sum())
print("minus 1e9 instead of -inf:    ", ma.softmax(scores - np.float32(1e9)))
empty = np.zeros((N, N), dtype=bool)
hidden_out, hidden_w = ma.attention(q, k, v, mask=empty, return_weights=True)
print("the library:                  ", hidden_w[0], " output", hidden_out[0])
assert not hidden_w.any()
assert not hidden_out.any()
grads = ma.attention_backward(np.ones_like(v), q, k, v, mask=empty)
assert not any(grad.any() for grad in (grads.dq, grads.dk, grads.dv))

# %% [markdown]
# - NaN spreads through everything that follows, but you notice.
# - Equal weights are worse: 1e9 is so large that float32 forgets the scores beside it, and the row is the *average of what it
#   must not see*. Nobody notices.
# - The library decides from the mask, not from the numbers: weights 0, output 0, gradients 0.
#
# A large number has a second trouble, in half precision. The largest float16 is 65,504:

# %%
half = np.float16
with np.errstate(over="ignore"):
    print("-1e9 as float16:                      ", half(-1e9))
    print("-40000 for causal, -40000 for padding:", half(-40_000) + half(-40_000))
visible, hidden = half(-30_000), half(3)            # a bias, say, makes the visible score so low
low = np.array([visible, hidden - half(10_000)])
print("visible and low, hidden with -10000:  ", ma.softmax(low))
assert np.finfo(half).max == 65_504

# %% [markdown]
# The first two have become minus infinity, so that a row which sees nothing gives NaN again. In the last line the first key is
# visible and the second is hidden, and yet all weight goes to the hidden one. A boolean mask has no such sizes.
#
# One thing more: a weight of 0 does not keep a NaN out, since 0 times NaN is NaN. The library takes care of that, too:

# %%
spoilt_k, spoilt_v = k.copy(), v.copy()
spoilt_k[3] = spoilt_v[3] = np.nan                  # in t3, which rows t0 to t2 may not see
with np.errstate(invalid="ignore"):
    w_ = ma.softmax(np.where(may, q @ spoilt_k.T / np.sqrt(D), -np.inf))
    print("weights times values:", (w_ @ spoilt_v)[0])
print("the library:         ", ma.attention(q, spoilt_k, spoilt_v, causal=True)[0])

# %% [markdown]
# ## 6. Padding: a batch of unequal sentences
#
# A batch of B sentences is one array, so short ones are filled up. The filling must not be seen. `masks.padding(lengths)` says
# how many keys of each sentence are real.
#
# **Predict before you run.** Sentences of 4 and 2 tokens, causal and padding together. How does the second one's mask look?
#
# <details><summary>Answer</summary>
#
# Columns 2 and 3 are hidden from everybody. Queries 0 and 1 see 1 and 2 keys; queries 2 and 3 are padding themselves: they see
# the 2 real keys, and their outputs are to be ignored.
#
# </details>

# %%
mask = ma.masks.causal() & ma.masks.padding([4, 2])
print(mask.dense(4, 4)[1, 0].astype(int))           # (B, H, N, S): sentence b = 1, head 0

batch = np.stack([course.X, course.X[::-1]])        # (B, N, E); the second sentence has
batch[1, 2:] = 99.0                                 # two tokens of its own, then filling
projected = ma.project_qkv(batch, course.W_Q, course.W_K, course.W_V)
q_b, k_b, v_b = (a[:, None] for a in projected)     # (B, H = 1, N, D)
together = ma.attention(q_b, k_b, v_b, mask=mask)
for b, length in enumerate([4, 2]):
    alone = ma.attention(q_b[b, :, :length], k_b[b, :, :length], v_b[b, :, :length], causal=True)
    off = np.abs(together[b, :, :length] - alone).max()
    print(f"sentence {b}: largest difference to the sentence alone {off:.1e}")
    assert off < 1e-12

# %% [markdown]
# Two arrays that look like masks are refused, with a reason:

# %%
real_tokens = np.array([[True, True, True, True], [True, True, False, False]])        # (B, S)
for wrong in (real_tokens, may.astype(int)):
    try:
        ma.attention(q_b, k_b, v_b, mask=wrong)
    except ma.MinattnError as error:
        print(f"{type(error).__name__}: {error}\n")

# %% [markdown]
# ## 7. Masks are rules
#
# A `Mask` is a rule on positions: i of the query, j of the key. Rules combine with `&` (and), `|` (or), `~` (not), and stay rules
# for every length until somebody asks for the array.

# %%
near = ma.masks.last(3)                             # the 3 latest keys, itself included
start = ma.masks.first(1)
same_half = ma.Mask(lambda i, j: i // 4 == j // 4, name="same half")
print(ma.masks.causal() & ~start)
window = ma.masks.window(2)                         # 2 back and itself: 3 keys
assert np.array_equal(near.dense(8, 8), window.dense(8, 8))

# %% [markdown]
# A window is counted in keys by `last(3)` and in distances by `window(2)`: to mix them up is the classic off-by-one mistake. What
# to look for: the column that `| first(1)` adds in the second mask, and what `causal &` takes away from the third.

# %%
fig, axes = plt.subplots(2, 2, figsize=(7, 7), layout="constrained")
causal = ma.masks.causal()
shown = {"last(3)": near, "causal & (last(3) | first(1))": causal & (near | start),
         "same half": same_half, "causal & same half": causal & same_half}
for ax, (name, mask) in zip(axes.ravel(), shown.items(), strict=True):
    ma.plot.mask(mask, 8, title=name, legend=False, ax=ax)
    print(f"{name:30} {mask.dense(8, 8).sum():2} of 64 pairs")

# %% [markdown]
# ## 8. When N and S differ
#
# A model that writes token by token keeps the keys of what it has read, and brings one or a few new queries: N = 2, S = 4.
#
# **Predict before you run.** `causal=True` with 2 queries and 4 keys. What does the first of the two queries see?
#
# <details><summary>Answer</summary>
#
# Three keys. The last query stands at the last key, so the first one stands at position 2 and sees 0, 1, 2.
#
# </details>

# %%
bottom_right = ma.masks.causal().dense(2, 4)
top_left = np.tril(np.ones((2, 4), dtype=bool))
print("last query at the last key:   ", *bottom_right.astype(int))
print("first query at the first key: ", *top_left.astype(int))

whole = ma.attention(q, k, v, causal=True)
right = ma.attention(q[2:], k, v, causal=True)
wrong = ma.attention(q[2:], k, v, mask=top_left)
for name, out in [("last at last", right), ("first at first", wrong)]:
    print(f"{name}: difference to rows 2 and 3 of the whole {np.abs(out - whole[2:]).max():.1e}")
assert np.allclose(right, whole[2:], rtol=0, atol=1e-12)

# %% [markdown]
# Both conventions exist under nearly the same name (PyTorch's `is_causal` puts the first at the first, FlashAttention's `causal`
# since its version 2.1 the last at the last), and with N = S they agree, so tests on squares do not tell them apart. Here
# positions are data: say them when you mean something else.

# %%
stated = ma.attention(q[2:], k, v, causal=True, q_pos=np.arange(2), k_pos=np.arange(4))
assert np.allclose(stated, wrong)                   # top left, on purpose
print(ma.attention_weights(q, k[:2], causal=True))  # N = 4, S = 2: rows 0 and 1 see nothing

# %% [markdown]
# ## 9. The real thing
#
# The test of section 4 on all of SmolLM2: "... because it was **tired**" against "... because it was **soft**". How much do the
# scores for the next token change, at each position?

# %%
real = course.real("masked")
print("from the model itself" if course.model() else "from the stored maps")
for token, change in zip(real.tokens, real.changed, strict=True):
    print(f"{token:9} {change:6.2f}")
assert not real.changed[:-1].any()
assert real.changed[-1] > 1

# %% [markdown]
# Next, other masks in all 30 layers, on a paragraph. The loss is the mean of -log p of each next token. Orange bars are windows
# that lose the first token, green ones keep it.
#
# **Predict before you run.** Which has the higher loss: to see only the 16 latest tokens, or the 15 latest and the very first?
#
# <details><summary>Answer</summary>
#
# The first, by far, although both see 16 keys. The likely reason: the first token is where many heads rest when they find nothing
# (lesson 00). Take it away, and that weight falls on tokens that do have something to say.
#
# </details>

# %%
fig, ax = plt.subplots(figsize=(6.4, 2.4), layout="constrained")
bars = ax.barh(real.names, real.losses, color=["C0", "C1", "C2", "C1", "C2"])
ax.bar_label(bars, fmt="%.2f", padding=3)
ax.invert_yaxis()
ax.set(xlabel="loss", xlim=(0, 1.15 * max(real.losses)))
loss = dict(zip(real.names, real.losses, strict=True))
assert loss["causal"] < loss["last(15) | first(1)"] < loss["last(16)"]
assert loss["last(31) | first(1)"] < loss["last(16)"] < loss["last(32)"]

# %% [markdown]
# One token in 16 makes the difference. (That the wider window without it does worse than the narrower one is what this
# paragraph gives; nothing here explains it.) Xiao et al. 2023, [arXiv:2309.17453](https://arxiv.org/abs/2309.17453), keep the
# first tokens for this reason.

# %% [markdown]
# ## 10. What it costs
#
# A causal mask hides nearly half of the pairs, and a narrow window nearly all. The reference (`backend="numpy"`) computes all
# scores and then hides some, so it saves nothing, and working out the mask comes on top:

# %%
length = 1024
a, b, c = np.random.default_rng(0).standard_normal((3, 1, length, 64)).astype(np.float32)
tries = {"no mask": None, "causal": ma.masks.causal(), "last(64)": ma.masks.last(64)}
print("            visible    MFLOP      MFLOP    MB of   measured\n"
      "              pairs   needed   computed   scores       here")
for name, mask in tries.items():
    pairs = length**2 if mask is None else mask.dense(length, length).sum()
    took = course.seconds(lambda mask=mask: ma.attention(a, b, c, mask=mask, backend="numpy"), repeats=20)
    needed, computed = 4 * 64 * pairs / 1e6, 4 * 64 * length**2 / 1e6
    print(f"{name:10} {pairs / length**2:8.1%} {needed:8.1f} {computed:10.1f} {4 * length**2 / 1e6:8.1f} {took * 1e3:7.1f} ms")
print(f"\nthe mask as an array: {length * length / 1e6:.1f} MB; as a rule: none until it is asked for")

# %% [markdown]
# To save the work as well, a program has to go through the scores in tiles and skip those that are hidden whole. That is what
# rules are for: they can be asked about a tile.

# %% [markdown]
# ## 11. Exercises
#
# Replace `return None` and run the cell. The check calls your function on arrays of its own, of several sizes; where the answer
# is a known mistake, it names the mistake.

# %% [markdown]
# **1 (easy).** Write `causal_mask(N, S)`: booleans (N, S), True where a query may look. The *last query stands at the last
# key*, so query n is at position S - N + n. Where N is larger than S, the first queries see nothing.
#
# <details><summary>Hint</summary>
#
# Give the queries their positions as a column, the keys theirs as a row, and compare.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `np.arange(S - N, S)[:, None]` is the column. A token sees itself.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def causal_mask(N, S):
#     i, j = np.arange(S - N, S)[:, None], np.arange(S)
#     return j <= i
# ```
#
# `np.tril(np.ones((N, S), bool))` gives the same only where N = S: it puts the first query at the first key.
#
# </details>

# %%
def causal_mask(N, S):
    """two lengths -> bool (N, S)"""
    return None


check.causal_mask(causal_mask)

# %% [markdown]
# **2 (easy).** Write a rule `every_second(i, j)`: a query at i sees itself and every second token before it, the distances
# 0, 2, 4 and so on. i (N, 1) and j (S,) are arrays of positions; booleans (N, S) come out.
#
# <details><summary>Hint</summary>
#
# Use `&` instead of `and`, with brackets around each comparison.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Two conditions on the distance `i - j`: its sign, and its remainder when divided by 2.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def every_second(i, j):
#     return (j <= i) & ((i - j) % 2 == 0)
# ```
#
# `ma.Mask(every_second)` draws itself.
#
# </details>

# %%
def every_second(i, j):
    """positions (N, 1) and (S,) -> bool (N, S)"""
    return None


check.every_second(every_second)

# %% [markdown]
# **3 (medium).** Write `window_mask(N, S, n)`: booleans (N, S) in which each query sees the n latest keys up to its own
# position, itself included. The last query stands at the last key.
#
# <details><summary>Hint</summary>
#
# It is the causal mask and one more condition on the distance.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# n keys with itself: which is the largest distance that is still seen? Check the edge with n = 1, where a token sees itself
# alone.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def window_mask(N, S, n):
#     i, j = np.arange(S - N, S)[:, None], np.arange(S)
#     return (j <= i) & (i - j < n)
# ```
#
# The distances are 0 to n - 1. With `<=` each row has one key too many, which no shape and no sum of weights gives away.
#
# </details>

# %%
def window_mask(N, S, n):
    """two lengths and a number of keys -> bool (N, S)"""
    return None


check.window_mask(window_mask)

# %% [markdown]
# **4 (medium).** Write `padding_mask(lengths, S)`: sentence b has lengths[b] real keys, the first ones. Comes in: integers
# (B,). Comes out: booleans (B, 1, 1, S), which broadcast to scores (B, H, N, S).
#
# <details><summary>Hint</summary>
#
# First (B, S): which keys of each sentence are real?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `np.arange(S) < lengths[:, None]` compares a row with a column. Indexing with None adds axes of 1.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def padding_mask(lengths, S):
#     real = np.arange(S) < lengths[:, None]
#     return real[:, None, None, :]
# ```
#
# The axes of 1 stand where heads and queries are: what is padding is padding for all of them.
#
# </details>

# %%
def padding_mask(lengths, S):
    """lengths (B,) -> bool (B, 1, 1, S)"""
    return None


check.padding_mask(padding_mask)

# %% [markdown]
# **5 (hard).** Write `masked_softmax(scores, may)`, both (N, S): weights over the visible keys, and zeros for a row that
# sees none. It must be right whatever the hidden scores are, and however low the visible ones.
#
# <details><summary>Hint</summary>
#
# Section 3: minus infinity, before the softmax. Then look at a row in which all scores are minus infinity.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# For such a row the largest score is $-\infty$: subtract 0 instead (`np.isneginf`). At the end, divide by 1 where the sum
# is 0.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def masked_softmax(scores, may):
#     scores = np.where(may, scores, -np.inf)
#     top = scores.max(axis=-1, keepdims=True)
#     powers = np.exp(scores - np.where(np.isneginf(top), 0, top))
#     total = powers.sum(axis=-1, keepdims=True)
#     return powers / np.where(total == 0, 1, total)
# ```
#
# </details>

# %%
def masked_softmax(scores, may):
    """scores (N, S), bool (N, S) -> (N, S)"""
    return None


check.masked_softmax(masked_softmax)

# %% [markdown]
# **6 (hard).** Now the other way round: you write the test, and the check brings the bugs. There are nine, each made after a
# public report, and most are about masks. `my_test(attention)` draws its own inputs, calls the function that it is given, and
# raises, by `assert`, where that function is wrong. Begin with a test of two lines: of each bug that survives, the check says
# what its users saw. The function is called with q (..., N, D), k (..., S, D), v (..., S, Dv) and these options:
#
# - `causal=True`: the last query stands at the last key; `mask`: boolean (N, S); `window=n`: each query sees the n latest keys
#   up to its own position. A row that sees nothing has output 0.
# - `softcap=c`: each scaled score s becomes c tanh(s / c).
# - `return_weights=True`: returns (out, weights).
#
# <details><summary>Hint</summary>
#
# A bug shows where inputs are uneven: N other than S, lengths that are not round, a row that sees nothing, two options in one
# call. `ma.attention` is a right answer to compare with; so is a second call of the same function that must agree.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Sections 5 and 8 hold most of it. A window as `ma.attention` wants it is `mask=ma.masks.causal() & ma.masks.last(n)`. For a
# hidden NaN: hide a key from all queries, keep the output, spoil that key and its value, compare. In float16 the lowest number
# is -65504: a row that sees nothing fails when all its scores are below -16.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def my_test(attention):
#     rng = np.random.default_rng(0)
#     q, k, v = (rng.standard_normal((2, length, 4)) for length in (5, 7, 7))
#     mask = rng.random((5, 7)) < 0.6
#     mask[2] = False                                 # a row that sees nothing
#     mask[:, 6] = False                              # a key that nobody sees
#     latest = ma.masks.causal() & ma.masks.last(3)
#     same = [{}, {"causal": True}, {"mask": mask}, {"mask": mask, "softcap": 2.0}]
#     for mine, other in [*zip(same, same), ({"window": 3}, {"mask": latest})]:
#         want = ma.attention(q, k, v, **other)
#         assert np.allclose(attention(q, k, v, **mine), want)
#         out, weights = attention(q, k, v, return_weights=True, **mine)
#         assert np.allclose(out, want)
#     k[:, 6] = v[:, 6] = np.nan
#     assert np.isfinite(attention(q, k, v, mask=mask)).all()
#     low = np.full((1, 4), 10, dtype=np.float16)     # its score with -low is -200
#     assert not attention(low, -low, low, mask=np.array([[False]])).any()
# ```
#
# No line is clever; what kills is that nothing in the inputs is equal, square or round by accident. A test of shapes alone
# kills none of the nine.
#
# </details>

# %%
def my_test(attention):
    """a function under test -> nothing; raises where it is wrong"""
    return None


check.tests(my_test)

# %% [markdown]
# ## 12. Three questions
#
# 1. Weights are computed for all keys, then the hidden ones are set to 0. Name both symptoms.
#
# <details><summary>Answer</summary>
#
# Rows sum to less than 1; and hidden keys still act through the denominator, so a later token changes earlier outputs.
#
# </details>
#
# 2. Why is NaN in a fully masked row better than equal weights?
#
# <details><summary>Answer</summary>
#
# It is noticed. Equal weights are an average over keys that must not be seen, and look like any other output.
#
# </details>
#
# 3. A test compares two causal masks for N = S = 8 and finds them equal. What has it not tested?
#
# <details><summary>Answer</summary>
#
# The alignment. Try N = 2, S = 8: is the last query at the last key, or the first at the first?
#
# </details>
#
# ## Where things are
#
# - The rules with a name: [masks.py](../minattn/core/masks.py). The algebra: [mask.py](../minattn/core/mask.py). Where they act:
#   [reference.py](../minattn/core/reference.py).
# - The paper: Vaswani et al. 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), section 3.2.3.
# - The bugs of exercise 6, with the thread of each: [zoo/attention.py](../minattn/practice/zoo/attention.py). The zoo has more:
#   `check.tests(my_test, of="heads")`, and `"rope"`, `"kv_cache"`, `"rollout"`.
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [04 Many heads](04_many_heads.ipynb).
