# %% [markdown]
# # 15 Random features and low rank
#
# 45 minutes · difficulty: hard · read before: [14 Linear attention](14_linear_attention.ipynb),
# [10 FlashAttention I](10_flashattention_tiles.ipynb) (the running maximum) · [glossary](glossary.md)
#
# You will be able to
#
# - write the weights of the softmax as a mean of products, one factor from the query and one from the key,
# - say from a law how far such a mean is off, and how many features an error of ten percent needs,
# - draw directions at right angles without a bias, and keep exp from overflowing in a way that cancels exactly,
# - read the spectrum of a real map, and say what few slots in place of all keys keep of it.

# %% [markdown]
# ## The question
#
# Attention costs $N \times S$ because each weight $e^{q_n \cdot k_j / \sqrt{D}}$ belongs to one pair. In lesson 14 it became
# a product of something of the query and something of the key, $\phi(q_n) \cdot \phi(k_j)$, so that the sum over the keys
# could be taken once for all queries: but that $\phi$ was chosen for its cost, and its weights are others than those of the
# softmax. Is there a $\phi$ for the softmax itself?
#
# Two answers, both approximate. **Performer** finds a random $\phi$ that is right on average. **Linformer** keeps the softmax,
# and mixes the $S$ keys down to a few. Each rests on a claim that can be measured, and we shall measure both.
#
# The scale is shared out evenly: $x = q / D^{1/4}$ and $y = k / D^{1/4}$, so that $x \cdot y$ is the scaled score.

# %%
import functools
import timeit

import course
import matplotlib.pyplot as plt
import numpy as np
from course import TOKENS, W_K, W_Q, W_V, X

import minattn as ma
from minattn.practice import check

np.set_printoptions(precision=3, suppress=True, linewidth=110)
q, k, v = X @ W_Q, X @ W_K, X @ W_V                                   # (N, D) each, N = S = D = 4
D = q.shape[-1]
x, y = q / D**0.25, k / D**0.25
exact = ma.attention_weights(q, k)
assert np.allclose(np.exp(x @ y.T) / np.exp(x @ y.T).sum(axis=-1, keepdims=True), exact)

# %% [markdown]
# ## One weight, by chance
#
# Take 'cat' as the query and 'down' as the key. Draw a direction $w$, four numbers from a normal distribution. From it the
# query makes one number and the key makes one number, and neither knows of the other:
#
# $$
# e^{w \cdot x - |x|^2/2} \qquad\text{and}\qquad e^{w \cdot y - |y|^2/2}
# $$
#
# Five directions, and the product of the two numbers for each:

# %%
cat, down = TOKENS.index("cat"), TOKENS.index("down")
w = ma.random_projection(5, D, orthogonal=False, seed=1)              # (m, D)
products = []
print("direction w                       of 'cat'   of 'down'   product")
for r in range(5):
    of_query = np.exp(w[r] @ x[cat] - x[cat] @ x[cat] / 2)
    of_key = np.exp(w[r] @ y[down] - y[down] @ y[down] / 2)
    products.append(of_query * of_key)
    print(f"{w[r]!s:32} {of_query:9.3f} {of_key:11.3f} {products[-1]:9.3f}")
truth = np.exp(x[cat] @ y[down])
print(f"mean of the products {np.mean(products):.3f}, exp(score) {truth:.3f}")

# %% [markdown]
# The same in one product each. A feature is one of these numbers, divided by $\sqrt{m}$ so that the product of two rows of
# features is the mean:

# %%
def features(a, w):
    """(..., D), (m, D) -> (..., m)"""
    return np.exp(a @ w.T - (a**2).sum(axis=-1, keepdims=True) / 2) / np.sqrt(len(w))


assert np.isclose(features(x[cat], w) @ features(y[down], w), np.mean(products))
assert np.allclose(features(x, w), ma.random_features(x, w))          # the library's
for m in (5, 500, 50_000):
    w_m = ma.random_projection(m, D, orthogonal=False, seed=1)
    print(f"{m:6} directions: {features(x[cat], w_m) @ features(y[down], w_m):.3f}")
assert abs(features(x[cat], w_m) @ features(y[down], w_m) / truth - 1) < 0.03

# %% [markdown]
# **Why the mean is right.** $w \cdot a$ is a sum of normal numbers, so it is normal itself, with variance $|a|^2$, and the
# mean of $e^{w \cdot a}$ is $e^{|a|^2/2}$. The product has $a = x + y$:
#
# $$
# |x + y|^2 / 2 = |x|^2/2 + x \cdot y + |y|^2/2
# $$
#
# The two factors took $|x|^2/2$ and $|y|^2/2$ off. What is left is $e^{x \cdot y}$.
#
# ## A whole map
#
# `performer_attention` makes features of q and k and never forms a map. But it is linear in its values, so with the identity as
# values its output is the map: that is what `implied_weights` does.
#
# **Predict before you run.** With one direction, m = 1, how does the map look, whatever the direction?
#
# <details><summary>Answer</summary>
#
# All rows are the same. A weight is a number of the query times a number of the key, and when the row is divided by its sum,
# the query's number goes out. No token looks anywhere in particular.
#
# </details>

# %%
def implied(m, **options):
    return ma.implied_weights(ma.performer_attention, q, k, v, features=m, seed=0, **options)


one = implied(1)
assert np.allclose(one, one[0])                                       # all rows are the same
w = ma.random_projection(16, D, seed=0)
by_hand = features(x, w) @ features(y, w).T
assert np.allclose(implied(16), by_hand / by_hand.sum(axis=-1, keepdims=True))
for m in (1, 2, 3, 16):
    print(f"m = {m:2}: rank of the map {np.linalg.matrix_rank(implied(m))}")
print("exact:  rank", np.linalg.matrix_rank(exact))

# %% [markdown]
# A map made of m features has rank m at most. What to look for in the picture: with 16 features the order within a row is still
# chance; with 1024 the strongest key of each row is the right one, and single weights are still off by 0.1.

# %%
fig, axes = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
maps = {"m = 1": one, "m = 16": implied(16), "m = 1024": implied(1024), "exact": exact}
for ax, (name, each) in zip(axes, maps.items(), strict=True):
    ma.plot.heatmap(each, TOKENS, title=name, colorbar=False, ax=ax)
    print(f"{name:9} largest error {abs(each - exact).max():.2f}")
assert (maps["m = 1024"].argmax(axis=-1) == exact.argmax(axis=-1)).all()
assert 0.1 < abs(maps["m = 1024"] - exact).max() < 0.15

# %% [markdown]
# ## How far off? A law
#
# The variance of the mean of m products follows from the same rule as its mean (with $2(x+y)$ in place of $x+y$). Divide the
# root of it by the truth, and everything but one number goes out (Lemma 2 of the paper):
#
# $$
# \text{relative error} = \sqrt{\frac{e^{z} - 1}{m}}, \qquad z = |x + y|^2
# $$
#
# The number of tokens does not come in. The lengths of the vectors do, in the exponent. How many directions does each of our
# 16 pairs need for an error of ten percent?

# %%
z = ((x[:, None] + y) ** 2).sum(axis=-1)                              # (N, S)
needed = np.ceil((np.exp(z) - 1) / 0.1**2).astype(int)
print("z = |x + y|^2\n", z.round(1), "\n\ndirections for 10 %, queries down, keys across", sep="")
for token, row in zip(TOKENS, needed, strict=True):
    print(f"{token:5}", *(f"{count:9,}" for count in row))
sat = TOKENS.index("sat")
assert exact[sat].argmax() == z[sat].argmax() == cat
assert (exact.argmax(axis=-1) == z.argmax(axis=-1)).sum() == 3

# %% [markdown]
# 'sat' looks most at 'cat', because both vectors are long and point the same way, and just then $|x + y|$ is large. In three
# of the four rows it is the key with the largest weight that needs the most directions. **Where the softmax is surest, random
# features tend to be worst.**
#
# Now hold the law against measurement, for a short pair and a long one: five draws of 100,000 directions each, cut into
# groups of m. What to look for: the dots of the short pair lie on the line, with slope -1/2. Those of the long pair disagree
# among themselves by more than a factor of 3.

# %%
sizes = 4 ** np.arange(1, 6)                                          # m


def said_of(a, b, kind="positive", orthogonal=False, draws=100_000, seed=0):
    """What each direction alone says of exp(a . b), divided by the truth: (draws,)."""
    w = ma.random_projection(draws, len(a), orthogonal=orthogonal, seed=seed)
    product = ma.random_features(a, w, kind) * ma.random_features(b, w, kind)
    return draws * product.reshape(-1, draws).sum(axis=0) / np.exp(a @ b)


def error_of(said, m):
    """The root of the mean squared relative error of the means of m directions."""
    means = said[:len(said) // m * m].reshape(-1, m).mean(axis=-1)
    return np.sqrt(((means - 1) ** 2).mean())


short = [said_of(x[cat], y[down], seed=seed) for seed in range(5)]
long = [said_of(x[sat], y[cat], seed=seed) for seed in range(5)]

# %%
fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained", sharey=True)
pairs = (short, z[cat, down], "'cat' looks at 'down'"), (long, z[sat, cat], "'sat' looks at 'cat'")
for ax, (draws, of_pair, title) in zip(axes, pairs, strict=True):
    law = np.sqrt((np.exp(of_pair) - 1) / sizes)
    errors = np.array([[error_of(said, m) for m in sizes] for said in draws])         # (5, sizes)
    ax.loglog(sizes, law, color="black", linewidth=1, label="the law")
    ax.loglog(np.tile(sizes, 5), errors.ravel(), "o", color="#26828e", alpha=0.5, label="measured, five draws")
    ax.set(xlabel="directions m", xticks=sizes, xticklabels=sizes, title=f"{title}: z = {of_pair:.1f}")
    ax.minorticks_off()
    ax.legend(fontsize=8)
    slope = np.polyfit(np.log(sizes), np.log(errors.mean(axis=0)), 1)[0]
    print(f"{title}: measured / law {(errors / law).mean(axis=-1)}, slope {slope:.3f}")
    agree = (errors.max(axis=0) < 3 * errors.min(axis=0)).all()
    assert agree and abs(slope + 0.5) < 0.03 if of_pair < 2 else not agree
axes[0].set_ylabel("relative error")

every = np.concatenate(short)
bias = (every.mean() - 1) / (every.std() / np.sqrt(len(every)))
print(f"short pair: the mean of all is off by {bias:.1f} standard errors")
assert abs(bias) < 3

# %%
every = np.concatenate(long)
share = np.sort(every)[-len(every) // 100:].sum() / every.sum()
low = (every.reshape(-1, 50).mean(axis=-1) < 1).mean()
print(f"long pair: the largest 1 % of the products make {share:.0%} of their sum")
print(f"of the means of 50 directions, {low:.0%} are too small")
assert share > 0.6
assert low > 0.7

# %% [markdown]
# The law is true for the long pair, too: but its mean, and still more its error, are made by very rare, very large products,
# and a draw of 100,000 holds them or does not. What one sees most of the time is an estimate that is too small.
#
# ## Built broken: cosines
#
# There is an older way to a random $\phi$, and it looks better: $\cos(w \cdot x)$ and $\sin(w \cdot x)$, which never grow,
# times $e^{|x|^2/2}$. Its mean is right as well. The map of 16 directions:

# %%
cosines = implied(16, kind="trigonometric")
print(cosines, "\nsmallest weight:", cosines.min().round(2))
assert cosines.min() < 0

# %% [markdown]
# Weights below 0, and so others above their fair share: a mean of numbers of both signs need not be positive. If the sum of a
# row comes near 0, all of its weights explode. Where does it go wrong? Turn a key of length 1 slowly away from a query of
# length 1. What to look for: the error of the cosines is *largest* where the weight is smallest, and vanishes for equal
# vectors. The error of positive features goes down with the weight. A map has many small weights and few large ones.

# %%
angles, m, query = np.linspace(0, np.pi, 9), 16, np.array([1.0, 0.0, 0.0, 0.0])
keys = np.stack([np.cos(angles), np.sin(angles), 0 * angles, 0 * angles], axis=-1)
scores, zs, apart = keys @ query, ((keys + query) ** 2).sum(axis=-1), ((keys - query) ** 2).sum(axis=-1)
laws = {
    "positive": np.exp(zs + 2 * scores) * (1 - np.exp(-zs)) / m,
    "hyperbolic": np.exp(zs + 2 * scores) * (1 - np.exp(-zs)) ** 2 / (2 * m),
    "trigonometric": np.exp(zs - 2 * scores) * (1 - np.exp(-apart)) ** 2 / (2 * m),
}
fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for (kind, law), colour in zip(laws.items(), ("#26828e", "#8a5fa8", "#d97b29"), strict=True):
    measured = np.exp(scores) * [error_of(said_of(query, key, kind), m) for key in keys]
    ax.semilogy(scores, np.sqrt(law).clip(1e-3), color=colour, label=kind)
    ax.semilogy(scores, measured.clip(1e-3), "o", color=colour)
ax.semilogy(scores, np.exp(scores), "--", color="black", linewidth=1, label="exp(score) itself")
ax.set(xlabel="score x . y", ylabel="root mean squared error", ylim=(3e-3, 8))
ax.set_title(f"lines: the laws, dots: measured, {m} directions", fontsize=10)
ax.legend(fontsize=8)
assert np.allclose(laws["positive"][-1], 0)                           # x = -y: every direction is right

# %% [markdown]
# (Hyperbolic: both $w$ and $-w$, for twice the features. What lies below the frame is 0.) **The mend is to keep every feature
# positive**; then weights are positive and rows are averages, however bad the estimate.
#
# ## Directions at right angles
#
# Directions drawn one by one may point nearly the same way, and then two of them know little more than one. Better: let D at a
# time stand at right angles, each still a normal draw by itself. The recipe: draw a square of normal numbers, turn its
# columns into right angles (QR), and give each a length drawn as before.
#
# It has a trap. QR leaves the sign of each column open, and the program that computes it chooses by rule:

# %%
rng = np.random.default_rng(0)
lengths = np.linalg.norm(rng.standard_normal((100_000, D)), axis=-1)
turned, r = np.linalg.qr(rng.standard_normal((25_000, D, D)))
signs = np.sign(np.diagonal(r, axis1=-2, axis2=-1))[:, None, :]
for name, columns in {"signs as they come": turned, "signs of r taken out": turned * signs}.items():
    w = lengths[:, None] * columns.swapaxes(-1, -2).reshape(-1, D)    # rows: directions
    said = len(w) * ma.random_features(x[cat], w) * ma.random_features(y[down], w)
    blocks = said.reshape(-1, D).mean(axis=-1)                        # each independent of the others
    bias = (blocks.mean() - truth) / (blocks.std() / np.sqrt(len(blocks)))
    print(f"{name:21} mean of w[0, 0] {w[::D, 0].mean():6.3f}; estimate off by {bias:5.1f} standard errors")
    assert (abs(bias) < 3) == (name == "signs of r taken out")

# %% [markdown]
# All first directions pointed to one side. The angles were right, every picture would have looked right, and the mean was
# wrong: only the count of standard errors shows it. The library takes the signs out. What right angles are worth, in the mean
# squared error of two vectors of length 1 at a right angle, 16 directions:

# %%
for kind in laws:
    one, square = (error_of(said_of(query, keys[4], kind, orthogonal), 16) ** 2 for orthogonal in (False, True))
    print(f"{kind:14} one by one {one:.4f}, at right angles {square:.4f}: times {square / one:.2f}")
    assert square < one

# %% [markdown]
# The price is one QR when the directions are drawn, once and for all.
#
# ## Exponents that fit
#
# `features` above fails on long vectors: in float32 $e^{-104}$ is 0 and $e^{89}$ is infinite. The softmax takes the largest
# score of its row off. Here there is no row of scores, only exponents of queries and exponents of keys:
#
# - **Of a query**, take its own largest off: a factor of all its weights, which goes out in the division by their sum.
# - **Of a key**, its own largest would not go out: the state holds all keys in one sum. Take off what all keys share: for each
#   feature the largest exponent so far, and give it back to the query before its own maximum is taken.
#
# "So far", and not "of all keys": then nothing depends on later tokens, and tokens may come one by one. When a key raises the
# maximum, what the state holds shrinks by $e^{\text{old} - \text{new}}$, the same step as in
# [lesson 10](10_flashattention_tiles.ipynb).

# %%
q32, k32, v32, w32 = (np.float32(a) for a in (30 * q, 30 * k, v, ma.random_projection(64, D, seed=0)))
with np.errstate(all="ignore"):
    assert (np.exp(np.float32(-104)), np.exp(np.float32(89))) == (0, np.inf)
    plain = features(q32 / np.float32(D**0.25), w32) @ features(k32 / np.float32(D**0.25), w32).T
    print("plainly:", (plain / plain.sum(axis=-1, keepdims=True))[sat])
steady = ma.implied_weights(ma.performer_attention, q32, k32, v32, features=w32)
print("library:", steady[sat])
assert np.allclose(steady.sum(axis=-1), 1, atol=1e-5)
assert steady[sat].argmax() != ma.attention_weights(q32, k32)[sat].argmax() == cat

# %% [markdown]
# A row of weights again, if a wrong one: the exact softmax looks at 'cat'. No trick with exponents helps against the law:
# vectors 30 times as long have a z 900 times as large. Now token by token, with vectors as they were:

# %%
w = ma.random_projection(64, D, seed=0)
options = {"features": w, "causal": True}
whole, state, outs = ma.performer_attention(q, k, v, **options), None, []
for n in range(4):                                                    # one token at a time
    now = slice(n, n + 1)
    out, state = ma.performer_attention(q[now], k[now], v[now], **options, state=state, return_state=True)
    outs.append(out)
assert np.allclose(np.concatenate(outs), whole, rtol=1e-12)
print("state after each token:", state.shape, "= 64 features; for each 4 values, normaliser, maximum")

# %% [markdown]
# ## Fewer keys: Linformer
#
# The other way out keeps the softmax and its map, but makes the map narrow. A **slot** is a mixture of keys; $E$, of shape
# (r, S), says what each slot takes from each key, $F$ the same for the values. By hand, for 'sat', with two slots that are the
# means of two keys each:

# %%
pairs_of_two = np.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])  # (r, S)
slot_keys = [sum(pairs_of_two[slot, j] * k[j] for j in range(4)) for slot in range(2)]
slot_values = [sum(pairs_of_two[slot, j] * v[j] for j in range(4)) for slot in range(2)]
powers = np.exp([q[sat] @ key / np.sqrt(D) for key in slot_keys])
by_hand = sum(power / powers.sum() * value for power, value in zip(powers, slot_values, strict=True))
print("weights of the two slots:", powers / powers.sum(), " output:", by_hand)

out = ma.softmax(q @ (pairs_of_two @ k).T / np.sqrt(D)) @ (pairs_of_two @ v)            # all queries
assert np.allclose(out[sat], by_hand)
assert np.allclose(out, ma.linformer_attention(q, k, v, pairs_of_two, pairs_of_two))
assert np.allclose(ma.linformer_attention(q, k, v, np.eye(4), np.eye(4)), ma.attention(q, k, v))
narrow = ma.implied_weights(ma.linformer_attention, q, k, v, pairs_of_two, pairs_of_two)
print("implied map\n", narrow, sep="")
assert np.linalg.matrix_rank(narrow) == 2

# %% [markdown]
# **Predict before you run.** Lesson 03 has a test of causality: change the last token, and see which outputs change. What
# does it say here, if each query may only see the slots whose *first* key is not later than itself?
#
# <details><summary>Answer</summary>
#
# 'sat' changes too: it sees the second slot, which begins with 'sat' and holds half of 'down'. A slot mixes earlier and later
# tokens, and no mask on slots can take them apart again.
#
# </details>

# %%
begins = np.array([0, 2])                                             # the first key of each slot
may = np.arange(4)[:, None] >= begins                                 # (N, r)
other_k, other_v = k.copy(), v.copy()
other_k[down], other_v[down] = [0.91, -1.02, 0.47, 1.93], [-0.38, 0.66, 1.27, -0.54]
before, after = (ma.attention(q, pairs_of_two @ keys_of, pairs_of_two @ values_of, mask=may)
                 for keys_of, values_of in ((k, v), (other_k, other_v)))
print("change of each row:", abs(after - before).max(axis=-1))
assert (abs(after - before).max(axis=-1)[:sat] == 0).all()
assert abs(after - before).max(axis=-1)[sat] > 0.1

# %% [markdown]
# So Linformer is for encoders, and for sequences no longer than E is wide.
#
# ## The real thing: are maps of low rank?
#
# The claim behind Linformer: a map with S columns says little more than one with a few. The **singular values** of a map
# tell. Rank r at most means: all after the r-th are 0. Here are those of all 270 heads of SmolLM2 on a paragraph of 127
# tokens, as the share of their sum that the r largest make up. What to look for: the spread. For one head a single value is
# all, for another nearly all values are alike.

# %%
real = course.real("low_rank")
print("from the model itself" if course.model() else "from the stored maps")
share = np.cumsum(real.values, axis=-1) / real.values.sum(axis=-1, keepdims=True)
rank90 = (share < 0.9).sum(axis=-1) + 1                               # (layers, H)
_, cat_maps = course.maps("cat")                                    # ten tokens each
named = {(18, 7): ("#d97b29", "looks at the first token"), (13, 8): ("#26828e", "'it' looks at 'cat'"),
         (16, 0): ("#8a5fa8", "looks at the token before")}
fig = plt.figure(figsize=(11, 4.2), layout="constrained")
left, right = fig.subfigures(1, 2, width_ratios=(1.1, 1))
for ax, ((layer, head), (_, what)) in zip(left.subplots(1, 3), named.items(), strict=True):
    ma.plot.heatmap(cat_maps[layer, head], mask=ma.masks.causal(), colorbar=False, ax=ax)
    ax.set_title(f"{layer}.{head}\n{what}", fontsize=9)
ax = right.subplots()
ax.plot(np.arange(1, 128), share.reshape(-1, 127).T, color="#c9c9c9", linewidth=0.4)
for (layer, head), (colour, what) in named.items():
    label = f"{layer}.{head} {what}: r = {rank90[layer, head]}"
    ax.plot(np.arange(1, 128), share[layer, head], color=colour, label=label)
ax.axhline(0.9, color="black", linewidth=0.8, linestyle="--")
ax.set(xlabel="singular values, the largest first", ylabel="share of their sum")
ax.set_title("270 heads, 127 tokens; r: values for 90 %", fontsize=10)
ax.legend(fontsize=8, loc="lower right")
print(f"values for 90 % of the sum: from {rank90.min()} to {rank90.max()}, median {np.median(rank90):.0f} of 127")
assert rank90[18, 7] < 5
assert rank90[16, 0] > 100

# %% [markdown]
# Some maps are of low rank and some are not, and the job decides. To look at the first token is one column, rank 1. To look at
# the token before is a diagonal, in which every row differs from every other: no few slots can do it.
#
# And where few singular values are enough, do few slots find them? Beside slots stands what there is to be found: the map's own
# singular value decomposition, cut off after r. Three heads of layer 13, each query seeing all keys, as in an encoder:

# %%
N = real.q.shape[-2]


def off(out, exact):
    """The error of an output, as a share of its size: mean over the heads."""
    return (np.linalg.norm(out - exact, axis=(-2, -1)) / np.linalg.norm(exact, axis=(-2, -1))).mean()


full = ma.attention(real.q, real.k, real.v)
u, s, vt = np.linalg.svd(ma.attention_weights(real.q, real.k), full_matrices=False)
print("  r   cut off after r   slots: means of neighbours   slots: random mixtures")
for r in (4, 16, 32, 64, 127):
    best = (u[..., :r] * s[..., None, :r]) @ (vt[..., :r, :] @ real.v)
    means = np.zeros((r, N), np.float32)
    for slot, members in enumerate(np.array_split(np.arange(N), r)):
        means[slot, members] = 1 / len(members)
    mixed = np.float32(ma.random_projection(r, N, orthogonal=False, seed=0) / np.sqrt(r))
    found = [best, *(ma.linformer_attention(real.q, real.k, real.v, e, e) for e in (means, mixed))]
    print(f"{r:3} {off(found[0], full):13.2f} {off(found[1], full):26.2f} {off(found[2], full):24.2f}")
    assert r == N or off(found[0], full) < off(found[1], full) < off(found[2], full)
plain_mean = off(np.broadcast_to(real.v.mean(axis=-2, keepdims=True), full.shape), full)
print(f"the plain mean of all values, without a look at the keys: {plain_mean:.2f}")

# %% [markdown]
# Low rank is necessary, not enough. A mixture of keys that stood for different things is a key that stands for nothing, and
# random mixtures are worse than a plain mean. The paper *trains* E and F, together with everything else.
#
# ## The real thing: how long are real vectors?
#
# For Performer the law names the one number that counts, $z = |x + y|^2$. SmolLM2 was trained with the softmax, and nothing
# told it to keep its queries short:

# %%
for layer in (0, 1, 13, 28):
    of_layer = np.median(real.z[layer])
    needed = np.log10(np.expm1(np.float64(of_layer)) / 0.1**2)
    print(f"layer {layer:2}: median z {of_layer:3.0f}; directions for an error of 10 % in such a pair: 10^{needed:.0f}")
print(f"\nperplexity on the paragraph, as trained: {np.exp(real.loss):.1f}")
for place, (mean, performer) in zip(("all layers", "layer 0", "layer 13"), np.exp(real.losses), strict=True):
    print(f"{place:10} replaced: by a plain mean of the values {mean:6.1f}, by 64 features {performer:6.1f}")
assert real.losses[1, 1] < real.losses[1, 0] - 0.5
assert abs(real.losses[2, 1] - real.losses[2, 0]) < 0.2

# %% [markdown]
# In layer 0, where the vectors are shortest, 64 features keep most of what the layer did, although by the law single weights
# are far off. In layer 13 they are hardly better than a plain mean of the values. Is it the lengths? Shorten the queries and
# keys of layer 13, and compare with the exact softmax *of the shortened vectors*. What to look for: at full length more
# features change nothing; the shorter the vectors, the nearer the slope comes to -1/2.

# %%
fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
counts, curves = 4 ** np.arange(2, 7), {}
print("vectors times   median z   error with 16 ... 4096 directions     slope   plain mean")
for length, colour in ((1, "#d97b29"), (1 / 2, "#8a5fa8"), (1 / 4, "#26828e"), (1 / 8, "#414487")):
    short_q, short_k = np.float32(length) * real.q, np.float32(length) * real.k
    target = ma.attention(short_q, short_k, real.v)
    curve = np.array([np.mean([
        off(ma.performer_attention(short_q, short_k, real.v, features=int(m), seed=seed), target) for seed in range(3)
    ]) for m in counts])
    curves[length] = np.polyfit(np.log(counts), np.log(curve), 1)[0]
    plain_mean = off(np.broadcast_to(real.v.mean(axis=-2, keepdims=True), target.shape), target)
    of_pair = np.median(real.z[13]) * length**2
    ax.loglog(counts, curve, "o-", color=colour, label=f"times {length}")
    ax.axhline(plain_mean, color=colour, linewidth=0.8, linestyle="--")
    print(f"{length:13} {of_pair:10.1f}   {curve}   {curves[length]:7.2f} {plain_mean:12.3f}")
ax.set(xlabel="directions m", ylabel="error of the output", xticks=counts, xticklabels=counts)
ax.set_title("three heads of layer 13; dashed: a plain mean of the values", fontsize=10)
ax.minorticks_off()
ax.legend(fontsize=8)
assert abs(curves[1]) < 0.05 < 0.42 < -curves[1 / 8]

# %% [markdown]
# And look at the dashed lines. Where the vectors are short enough for random features to work, the softmax itself is nearly a
# plain mean, and it takes hundreds of features to be nearer to it than that mean. A sharp map needs long vectors, and long
# vectors need more features than there are tokens. So neither Performer nor Linformer is a part that one exchanges in a trained
# model: both are for models that are trained with them.
#
# ## What it costs
#
# One head, N = S, D = Dv, without the softmax itself. Linear in N, both of them, with m or r in the place of one N:
#
# | | multiply-adds | held for the next token |
# |---|---|---|
# | full attention | $2 N^2 D$ | $2 N D$, keys and values |
# | Performer, m features | $4 N m D$ | $m (D + 2)$, whatever N |
# | Linformer, r slots | $4 N r D$ | not causal |
#
# Measured here, D = 64, float32, m = r = 64. Full attention twice: in NumPy as the others are, and by the compiled kernel of
# lesson 11, which skips nothing (every query sees every key).

# %%
rng = np.random.default_rng(0)
runs = {"full, NumPy": functools.partial(ma.attention, backend="numpy"), "full, kernel": ma.attention,
        "Performer": functools.partial(ma.performer_attention, features=64, seed=0),
        "Performer, causal": functools.partial(ma.performer_attention, features=64, seed=0, causal=True),
        "Linformer": None}                                            # its slots depend on N
print("milliseconds  ", *(f"{name:>18}" for name in runs))
for N in (256, 1024, 4096):
    arrays = rng.standard_normal((3, 1, N, 64), dtype=np.float32)
    slots = np.repeat(np.eye(64, dtype=np.float32), N // 64, axis=1) * 64 / N
    runs["Linformer"] = functools.partial(ma.linformer_attention, e=slots, f=slots)
    took = [min(timeit.repeat(functools.partial(run, *arrays), number=1, repeat=3)) for run in runs.values()]
    print(f"N = {N:5}     ", *(f"{1000 * each:18.2f}" for each in took))

# %% [markdown]
# From N to 4 N the operations of full attention grow 16-fold and those of the others 4-fold, and the times follow, roughly:
# so their columns cross, and what you want to know is where. At N = 256 full attention in NumPy is ahead of Performer. The
# causal form pays for a state that is carried from chunk to chunk, and for the maximum in it.
#
# ## Exercises
#
# **1 (easy).** Write `positive_features(x, w)`: x (N, D), directions w (m, D), to phi (N, m), for which `phi(x) @ phi(y).T` is
# $e^{x \cdot y}$ in the mean. x is scaled already.
#
# <details><summary>Hint</summary>
#
# What has to be taken off the exponent, so that the mean over the directions is right?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Half of the squared length of x, row by row. And the product of two phi is to be a mean of m products, so each phi has the
# root of 1 / m.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def positive_features(x, w):
#     return np.exp(x @ w.T - (x**2).sum(axis=-1, keepdims=True) / 2) / np.sqrt(len(w))
# ```
#
# </details>

# %%
def positive_features(x, w):
    """(N, D), (m, D) -> (N, m)"""
    return None


check.positive_features(positive_features)

# %% [markdown]
# **2 (easy).** Write `features_needed(x, y, error)`: for one query x (D,) and one key y (D,), scaled already, the smallest m
# for which the relative error of positive features (directions drawn one by one) is at most `error`. An integer.
#
# <details><summary>Hint</summary>
#
# Solve the law for m.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# $m \ge (e^z - 1) / \text{error}^2$, and m is whole.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def features_needed(x, y, error):
#     z = ((x + y) ** 2).sum()
#     return int(np.ceil((np.exp(z) - 1) / error**2))
# ```
#
# </details>

# %%
def features_needed(x, y, error):
    """(D,), (D,), float -> int"""
    return None


check.features_needed(features_needed)

# %% [markdown]
# **3 (medium).** Write `orthogonal_directions(drawn, lengths)`: the rows of `drawn` (m, D), here m = D, put at right angles
# one after the other. Row r of the result is what is left of `drawn[r]` without its parts along the rows before, pointing to
# the same side as `drawn[r]`, with length `lengths[r]`.
#
# <details><summary>Hint</summary>
#
# Either a loop that takes from each row its shares along the finished ones, or `np.linalg.qr`, which does it for columns.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# With `columns, r = np.linalg.qr(drawn.T)`, the sign of `r[i, i]` tells whether column i was turned to the other side.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def orthogonal_directions(drawn, lengths):
#     columns, r = np.linalg.qr(drawn.T)
#     return lengths[:, None] * (columns * np.sign(np.diagonal(r))).T
# ```
#
# </details>

# %%
def orthogonal_directions(drawn, lengths):
    """(m, D), (m,) -> (m, D)"""
    return None


check.orthogonal_directions(orthogonal_directions)

# %% [markdown]
# **4 (medium).** Write `rank_needed(weights, share)`: the smallest r for which the r largest singular values of a map (N, S)
# make up at least `share` of the sum of all.
#
# <details><summary>Hint</summary>
#
# `np.linalg.svd(weights, compute_uv=False)` gives them, the largest first.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Count how many partial sums are still below the share. How many values are needed then?
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def rank_needed(weights, share):
#     values = np.linalg.svd(weights, compute_uv=False)
#     return int((np.cumsum(values) / values.sum() < share).sum() + 1)
# ```
#
# </details>

# %%
def rank_needed(weights, share):
    """(N, S), float -> int"""
    return None


check.rank_needed(rank_needed)

# %% [markdown]
# **5 (hard).** Write `streaming_performer(q, k, v, w)`: causal Performer of one head, token by token, q and k (N, D) not yet
# scaled (divide both by $D^{1/4}$), v (N, Dv), positive features of the directions w (m, D). Some vectors are long: no exp may
# overflow, and no row may become 0 / 0.
#
# <details><summary>Hint</summary>
#
# Keep three things: for each feature the largest exponent of the keys so far, `top` (m,); the sum of features times values (m,
# Dv); and the sum of features (m,). A key first raises `top`, then is added.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# When `top` becomes `now`, both sums are multiplied by `exp(top - now)`, feature by feature. The exponents of the query are
# $w \cdot x$ plus `now`, less the largest of them.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def streaming_performer(q, k, v, w):
#     (N, D), out = q.shape, np.zeros(v.shape)
#     x, y = q / D**0.25, k / D**0.25
#     of_key = y @ w.T - (y**2).sum(axis=-1, keepdims=True) / 2
#     state, norm, top = np.zeros((len(w), v.shape[-1])), np.zeros(len(w)), of_key[0]
#     for n in range(N):
#         now = np.maximum(top, of_key[n])
#         keep, phi, top = np.exp(top - now), np.exp(of_key[n] - now), now
#         state, norm = keep[:, None] * state + np.outer(phi, v[n]), keep * norm + phi
#         of_query = x[n] @ w.T + top
#         phi = np.exp(of_query - of_query.max())
#         out[n] = phi @ state / (phi @ norm)
#     return out
# ```
#
# The feature with the largest exponent has `phi` 1, and its key wrote 1: the sum below is at least 1, never 0.
#
# </details>

# %%
def streaming_performer(q, k, v, w):
    """(N, D), (N, D), (N, Dv), (m, D) -> (N, Dv)"""
    return None


check.streaming_performer(streaming_performer)

# %% [markdown]
# ## Three questions
#
# **A model is trained with Performer attention, 256 features, and works well. What do you expect of its queries and keys?**
#
# <details><summary>Answer</summary>
#
# If its weights come near those of the softmax: that they are short, so that $e^z$ is not large against 256. But training
# sees the estimate and not the softmax, and may as well find weights of its own that come from no exponential.
#
# </details>
#
# **Why may the maximum of a query's exponents be taken off for each query by itself, and that of a key not?**
#
# <details><summary>Answer</summary>
#
# A factor of a query multiplies all of its weights and goes out when they are divided by their sum. A factor of one key changes
# that key's weight against the others'. Only a factor that all keys share goes out.
#
# </details>
#
# **A head looks at the token before. Its map has full rank. Is there a cheap exact way?**
#
# <details><summary>Answer</summary>
#
# Yes: a window of a few keys. A map may be of full rank and yet sparse. Low rank and few entries are two different ways of
# being cheap.
#
# </details>
#
# ## Where to go on
#
# - The files: [minattn/linear/features.py](../minattn/linear/features.py) (features and directions),
#   [minattn/linear/performer.py](../minattn/linear/performer.py), whose state is kept by
#   [minattn/linear/recurrence.py](../minattn/linear/recurrence.py),
#   [minattn/linear/linformer.py](../minattn/linear/linformer.py), and
#   [minattn/analysis/implied.py](../minattn/analysis/implied.py).
# - Papers: Choromanski et al. 2021, [arXiv:2009.14794](https://arxiv.org/abs/2009.14794), Lemmas 1 and 2, section 2.4;
#   Wang et al. 2020, [arXiv:2006.04768](https://arxiv.org/abs/2006.04768), eq (7) and figure 1.
# - Which mechanism when, and what else there is: [which_when.md](which_when.md).
# - Next: [16 Attention as a recurrence](16_attention_as_recurrence.ipynb), which lets the state forget.
