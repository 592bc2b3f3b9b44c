# %% [markdown]
# # 02 Scaling
#
# 20 minutes · difficulty: medium · read before: [01 Queries, keys, values](01_queries_keys_values.ipynb)
# · [glossary](glossary.md)
#
# You will be able to
#
# - say why scores are divided by $\sqrt{D}$, and by no other power of D,
# - recognise a softmax that is saturated, and measure how little gradient it lets through,
# - check a gradient against finite differences,
# - say what the scale does in a trained model, and what it does not.

# %% [markdown]
# ## The question
#
# Between the scores and the softmax stands one division, by $\sqrt{D}$:
#
# $$
# \text{weights} = \text{softmax}\left(\frac{q k^\top}{\sqrt{D}}\right)
# $$
#
# It does not reorder the keys: the best stays the best. So what is it for, and why the square root?

# %%
import matplotlib.pyplot as plt
import numpy as np

import course
import minattn as ma
from minattn.practice import check

np.set_printoptions(precision=3, suppress=True)
rng = np.random.default_rng(0)

# %% [markdown]
# ## 1. Longer vectors make larger scores
#
# A score is a sum of D products. Draw the numbers of q and k from a normal distribution with mean 0 and variance 1 (the paper
# assumes this mean and variance in its footnote 4). One product then has mean 0 and variance 1, and the variances of
# independent terms add up:
#
# $$
# \text{Var}(q \cdot k) = \sum_{d=1}^{D} \text{Var}(q_d k_d) = D
# $$
#
# **Predict before you run.** With D = 64, how large is a typical score: about 1, 8 or 64?
#
# <details><summary>Answer</summary>
#
# About 8. The variance is 64, and the standard deviation, the typical size, is its square root.
#
# </details>

# %%
sizes = [1, 4, 16, 64, 256, 1024]
for D in sizes:
    q, k = rng.standard_normal((2, 4000, D))
    scores = (q * k).sum(axis=-1)                   # 4000 pairs, each drawn on its own
    print(f"D = {D:4}   variance {scores.var():7.1f}   standard deviation {scores.std():5.2f}"
          f"   after the division {(scores / np.sqrt(D)).std():.2f}")
    assert abs(scores.var() / D - 1) < 0.2

# %% [markdown]
# Divided by $\sqrt{D}$, the scores have the same size whatever D is. Division by D would make them smaller and smaller.
#
# ## 2. What a softmax makes of large scores
#
# One query, five keys, and the same first numbers: only D differs.

# %%
query, keys = rng.standard_normal(1024), rng.standard_normal((5, 1024))
for D in (4, 64, 1024):
    raw = np.array([query[:D] @ key[:D] for key in keys])
    print(f"D = {D:4}  scores {raw}")
    print(f"          softmax of them          {ma.softmax(raw)}")
    print(f"          softmax after division   {ma.softmax(raw / np.sqrt(D))}")

# %% [markdown]
# A softmax sees *differences* between scores: a difference of 1 makes one weight 2.7 times the other, a difference of 10 makes it
# 22,000 times the other. When the differences are tens, one key gets everything. The softmax is **saturated**.
#
# The same for 200 queries and 64 keys. What to look for: with the division by sqrt(D), the largest weight hardly moves; without
# any, it climbs towards 1.

# %%
def draw(D, queries=200, S=64):
    """Scores of unit normals, (queries, S)."""
    rng = np.random.default_rng(D)
    return rng.standard_normal((queries, D)) @ rng.standard_normal((S, D)).T


assert np.allclose([np.exp(1), np.exp(10)], [2.7, 22_000], rtol=0.01)
divisors = {"not scaled": lambda D: 1, "divided by sqrt(D)": np.sqrt, "divided by D": lambda D: D}
fig, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
for (name, divisor), style in zip(divisors.items(), ["o-", "s-", "^--"], strict=True):
    largest = [ma.softmax(draw(D) / divisor(D)).max(axis=-1).mean() for D in sizes]
    ax.plot(sizes, largest, style, label=name)
ax.axhline(1 / 64, color="grey", linewidth=0.8, label="equal weights, 1/64")
ax.set(xscale="log", xticks=sizes, xticklabels=sizes, ylim=(0, 1))
ax.set(xlabel="D", ylabel="largest weight of a row, mean")
ax.minorticks_off()
ax.legend();

# %% [markdown]
# Division by D errs on the other side: all weights become nearly equal, and a query cannot choose.
#
# ## 3. The slope of a softmax
#
# Why is one winner a problem? Because of learning. Training changes scores a little in the direction that improves the output,
# and so it needs to know how the weights $w$ answer to a change of a score $s$. The slopes, and the same as one matrix $J$, are
#
# $$
# \frac{\partial w_i}{\partial s_j} = w_i (\delta_{ij} - w_j), \qquad J = \text{diag}(w) - w w^\top
# $$
#
# with $\delta_{ij} = 1$ where $i = j$, else 0. Two keys with weights 0.5 and 0.5: the slopes are 0.25 and -0.25. With 0.999 and
# 0.001 they are 0.001 and -0.001. Where one weight is 1 to many digits, every slope is 0 to as many.

# %%
def slopes(w):
    """The Jacobian of a softmax at its weights w (S,): (S, S)."""
    return np.diag(w) - np.outer(w, w)


for scores in ([0.0, 0.0], [7.0, 0.0], [30.0, 0.0]):
    w = ma.softmax(np.array(scores))
    print(f"scores {scores}   weights {w[0]:.6f} {w[1]:.6f}   slope {slopes(w)[0, 0]:.1e}")

s, step = draw(16)[0] / 4, 1e-6                     # the formula, against differences
measured = [(ma.softmax(s + step * e) - ma.softmax(s - step * e)) / (2 * step) for e in np.eye(64)]
assert np.allclose(np.stack(measured, axis=1), slopes(ma.softmax(s)), atol=1e-9)

# %% [markdown]
# Now the size of J (the root of the sum of its squares) for drawn scores. What to look for: the lines 'not scaled'. They rise a
# little at first, since at D = 1 all weights are much alike, hence small, and so are the slopes; then the solid one, the typical
# query, collapses. The vertical axis is logarithmic.

# %%
def norms(scores):
    return np.array([np.linalg.norm(slopes(w)) for w in ma.softmax(scores)])


raw, scaled = ([norms(draw(D) / scale(D)) for D in sizes] for scale in (lambda D: 1, np.sqrt))
fig, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
for rows, style, name in [(raw, "C0o", "not scaled"), (scaled, "C1s", "divided by sqrt(D)")]:
    ax.plot(sizes, np.median(rows, axis=-1), style + "-", label=f"{name}: median query")
    ax.plot(sizes, np.mean(rows, axis=-1), style + ":", label=f"{name}: mean", markersize=3)
ax.set(xscale="log", yscale="log", xticks=sizes, xticklabels=sizes, xlabel="D", ylabel="size of J")
ax.minorticks_off()
ax.legend(fontsize=8)
for D, row, other in zip(sizes, raw, scaled, strict=True):
    print(f"D = {D:4}   median size: not scaled {np.median(row):.5f}   scaled {np.median(other):.5f}")
assert np.median(raw[-1]) < 1e-3 < 0.1 < np.median(scaled[-1])

# %% [markdown]
# From D = 256 on, the mean lies far above the median: a few queries happen to have two keys of nearly the same score, and they
# still learn. Most do not.

# %% [markdown]
# ## 4. The gradient that arrives
#
# What reaches the query is the gradient through everything: values, softmax, scale and keys. `ma.attention_backward` computes
# it from `dout`, the gradient that arrives at the output. First, check it: change one number of q a little and see what the
# output does.

# %%
N, S, D = 5, 7, 16
q, k, v, dout = (rng.standard_normal((rows, D)) for rows in (N, S, S, N))
grads = ma.attention_backward(dout, q, k, v)
by_hand = np.zeros_like(q)
for n, d in np.ndindex(N, D):
    step = np.zeros_like(q)
    step[n, d] = 1e-6
    up, down = ma.attention(q + step, k, v), ma.attention(q - step, k, v)
    by_hand[n, d] = ((up - down) * dout).sum() / 2e-6
off = np.abs(by_hand - grads.dq).max()
print(f"largest difference {off:.1e}, in gradients up to {np.abs(grads.dq).max():.2f}")
assert off < 1e-8

# %% [markdown]
# **Predict before you run.** By the chain rule, dq carries the scale itself as a factor: 1 without scaling, 1/32 with it at
# D = 1024. So which gradient is larger there for the typical query?
#
# <details><summary>Answer</summary>
#
# The scaled one, in spite of its factor of 1/32: what the saturated softmax lets through is smaller by far more than that. At
# D = 64 it is the other way round.
#
# </details>

# %%
print("length of dq             not scaled                    scaled\n"
      "                   median   largest/median     median   largest/median")
for D in (4, 64, 256, 1024, 4096):
    rng = np.random.default_rng(D)
    q, k, v, dout = (rng.standard_normal((rows, D)) for rows in (200, 64, 64, 200))
    v, dout = v / np.sqrt(D), dout / np.sqrt(D)     # rows of length about 1, whatever D
    print(f"D = {D:4}      ", end="")
    for scale in (1, None):
        dq = ma.attention_backward(dout, q, k, v, scale=scale).dq
        rows = np.linalg.norm(dq, axis=-1)
        spread = rows.max() / np.median(rows)
        print(f"   {np.median(rows):.1e}   {spread:14,.1f}", end="")
    print()
assert spread < 3                                                     # scaled, at D = 4096

# %% [markdown]
# (200 queries, 64 keys.) Up to D = 256 the unscaled gradient is the larger one; a learning rate can make up for that. What no
# learning rate mends is the second column: the queries grow apart. At D = 1024 the luckiest query is pushed thousands of times
# harder than the typical one, which learns next to nothing. Scaled, the largest stays within a few times the median.

# %% [markdown]
# ## 5. Built broken: dividing in the wrong place
#
# The division belongs between scores and softmax. After the softmax it looks just as harmless; the symptom is again in the sums.

# %%
q, k, v = (course.X @ w for w in (course.W_Q, course.W_K, course.W_V))
late = ma.softmax(q @ k.T) / np.sqrt(4)
print("divided after the softmax, sums of the rows:", late.sum(axis=-1))
right = ma.softmax(q @ k.T / np.sqrt(4))
print("divided before it:                          ", right.sum(axis=-1))
assert np.allclose(right, ma.attention_weights(q, k))
assert np.allclose(right, ma.attention_weights(q / np.sqrt(4), k, scale=1))        # or into q, once

# %% [markdown]
# The last `assert` shows a shortcut: scale the N x D numbers of q once, not the N x S scores.
#
# What to look for in the course's small numbers, without and with the scale: the same key wins in each row, by less.

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.4), layout="constrained")
for ax, scale, title in zip(axes, (1, None), ("scale 1", "scale 1/sqrt(4)"), strict=True):
    w = ma.attention_weights(q, k, scale=scale)
    ma.plot.heatmap(w, course.TOKENS, title=title, colorbar=False, ax=ax)
assert (late.argmax(axis=-1) == right.argmax(axis=-1)).all()

# %% [markdown]
# ## 6. The real thing
#
# Layer 13 of SmolLM2, on the first 96 tokens of a paragraph: nine heads, D = 64.
#
# **Predict before you run.** For unit normals, raw scores would have a standard deviation of 8. Do a trained model's?
#
# <details><summary>Answer</summary>
#
# No. They are larger, since its queries and keys are no unit normals: training has made them as large as it found useful.
#
# </details>

# %%
real = course.real("scales")
print("from the model itself" if course.model() else "from the stored maps")
k_of = np.repeat(real.k, 3, axis=0)                 # three query heads read one key head
raw = real.q @ k_of.swapaxes(-1, -2)                # (H, N, S)
past = ma.masks.causal().dense(96, 96)
print(f"mean square of a number in q {np.mean(real.q**2):.1f}, in k {np.mean(real.k**2):.1f}")
spread = raw[:, past].std()
print(f"standard deviation of visible raw scores {spread:.1f}, after the division {spread / 8:.1f}")
for scale, name in ((1, "raw"), (1 / 8, "scaled")):
    top = ma.attention_weights(real.q, real.k, causal=True, scale=scale)[:, 32:].max(axis=-1).mean()
    print(f"largest weight of a row, mean over rows 32 to 95: {top:.2f} {name}")

# %% [markdown]
# So the scale does not *keep* scores at a standard deviation of 1; a trained model has sharp heads and broad ones, as it needs
# them. W_Q could swallow any constant: q times 8 with a scale of 1/8 is q with a scale of 1. What the scale does is to let
# training **begin** where gradients flow, for every D alike.
#
# After training, the weights count on it. Here is the loss of the whole model on the paragraph, the same weights run with seven
# scales. (The loss is the mean of -log p, where p is the probability that the model gave to the token that came next; a blind
# guess among 49,152 has 10.8.)

# %%
assert round(np.log(49_152), 1) == 10.8
fig, ax = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
ax.plot(real.scales, real.losses, "o-")
ax.set(xscale="log", xlabel="scale", ylabel="loss")
ax.set(xticks=real.scales, xticklabels=[f"1/{round(1 / scale)}" for scale in real.scales])
ax.minorticks_off()
for scale, loss in zip(real.scales, real.losses, strict=True):
    print(f"scale 1/{round(1 / scale):2}: loss {loss:.2f}")
assert real.scales[real.losses.argmin()] == 1 / 8

# %% [markdown]
# ## 7. What it costs
#
# N S multiplications beside the $2 N S D$ FLOPs of the scores: one part in 128 at D = 64. In NumPy it costs more than that,
# since it reads and writes all scores once more ("MB more"); folded into q, it is next to nothing.

# %%
N, D = 1024, 64
q, k = np.random.default_rng(0).standard_normal((2, N, D)).astype(np.float32)
tau = np.float32(1 / 8)
products = 2 * N * N * D                            # FLOPs
runs = {"scores alone": (lambda: q @ k.T, products, 0),
        "scores, then scaled": (lambda: (q @ k.T) * tau, products + N * N, 2 * N * N),
        "q scaled, then scores": (lambda: (q * tau) @ k.T, products + N * D, 2 * N * D)}
print(f"N = S = {N}, D = {D}         MFLOP   MB more   measured here")
for name, (run, flops, moved) in runs.items():
    print(f"{name:22} {flops / 1e6:10.2f} {moved * 4 / 1e6:9.2f} {course.seconds(run, repeats=20) * 1e3:9.2f} ms")

# %% [markdown]
# ## 8. Exercises
#
# Replace `return None` and run the cell. The check calls your function on arrays of its own, of several sizes; where the answer
# is a known mistake, it names the mistake.

# %% [markdown]
# **1 (easy).** The numbers of q have standard deviation a, those of k have b. By what must the scores be divided to have
# standard deviation 1? Write `divisor(D, a, b)`.
#
# <details><summary>Hint</summary>
#
# Section 1 with other variances: what is the variance of *one* product?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# One product has variance $a^2 b^2$, and the variances of D of them add up. The standard deviation is the root.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def divisor(D, a, b):
#     return np.sqrt(D) * a * b
# ```
#
# </details>

# %%
def divisor(D, a, b):
    """three numbers -> a number"""
    return None


check.divisor(divisor)

# %% [markdown]
# **2 (easy).** A multi-head layer is E wide and has H heads of equal size, each with scores of its own. Write
# `head_scale(E, H)`: the number with which the scores of one head are *multiplied*.
#
# <details><summary>Hint</summary>
#
# How many numbers does the query of one head have?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# D = E / H, and the scale is 1 divided by a root.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def head_scale(E, H):
#     return 1 / np.sqrt(E / H)
# ```
#
# SmolLM2 has E = 576 and H = 9, so D = 64 and the scale is 1/8. Dividing by the root of 576 instead makes all scores three
# times too small.
#
# </details>

# %%
def head_scale(E, H):
    """two integers -> a number"""
    return None


check.head_scale(head_scale)

# %% [markdown]
# **3 (medium).** ds (N, S) holds the slopes of the loss by the *scaled* scores. What are its slopes by q? Write
# `query_gradient(ds, k)` for k (S, D): it returns dq (N, D).
#
# <details><summary>Hint</summary>
#
# The scaled score of query n and key s is scale · (q[n] @ k[s]). What is its slope by q[n]?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The slope is scale · k[s]. Every key pushes query n along itself, ds[n, s] times as hard, and the pushes add up.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def query_gradient(ds, k):
#     return ds @ k / np.sqrt(k.shape[-1])
# ```
#
# This is the factor 1/32 of section 4: the scale stands between q and the scores, so it stands in the gradient, once.
#
# </details>

# %%
def query_gradient(ds, k):
    """ds (N, S), k (S, D) -> dq (N, D)"""
    return None


check.query_gradient(query_gradient)

# %% [markdown]
# **4 (hard).** Section 3 measures the size of J, the root of the sum of its squares, by forming S · S slopes for each
# query. Write `slopes_size(w)` for a whole map w (N, S): the N sizes, from sums over the keys alone, without forming any J.
#
# <details><summary>Hint</summary>
#
# The square of a slope on the diagonal is $(w_i - w_i^2)^2$, and of one beside it $w_i^2 w_j^2$. Write down the sum of all
# of them.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The fourth powers cancel. What is left needs only the sum of $w^2$ and the sum of $w^3$ of each row.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def slopes_size(w):
#     second, third = (w**2).sum(axis=-1), (w**3).sum(axis=-1)
#     return np.sqrt(second - 2 * third + second**2)
# ```
#
# The squares on the diagonal are $w_i^2 - 2 w_i^3 + w_i^4$; those beside it sum to $(\sum_i w_i^2)^2$ less all $w_i^4$. A
# one-hot row gives 1 - 2 + 1 = 0: nothing is learned there.
#
# </details>

# %%
def slopes_size(w):
    """(N, S) -> (N,)"""
    return None


check.slopes_size(slopes_size)

# %% [markdown]
# ## 9. Three questions
#
# 1. Does the scale change which key gets the largest weight?
#
# <details><summary>Answer</summary>
#
# No. It multiplies all scores of a row by the same positive number. It changes by how much that key wins.
#
# </details>
#
# 2. A softmax gives 1.000000 to one key, and it is the wrong one. Why does it stay so for long?
#
# <details><summary>Answer</summary>
#
# All slopes $w_i (\delta_{ij} - w_j)$ are nearly 0, so the gradient that would lower its score and raise another's
# hardly arrives.
#
# </details>
#
# 3. A trained model's raw scores have a standard deviation of 30 rather than 8. Is its scale wrong?
#
# <details><summary>Answer</summary>
#
# No. The scale sets where training starts. Where the scores end is what training made of W_Q and W_K, for that scale.
#
# </details>
#
# ## Where things are
#
# - Scores, scale, softmax and their gradients, line by line: [reference.py](../minattn/core/reference.py).
# - The paper: Vaswani et al. 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), section 3.2.1 and its footnote 4 on the
#   variance of a dot product.
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [03 Masks](03_masks.ipynb), what a query may look at.
