# %% [markdown]
# # 14 Linear attention
#
# 35 minutes · difficulty: medium · read before: [01 Queries, keys, values](01_queries_keys_values.ipynb),
# [03 Masks](03_masks.ipynb), [07 The KV cache](07_kv_cache.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - move one pair of brackets, count what it saves, and say from which length on it pays,
# - write linear attention over pairs, token by token and in chunks, and show that the three are one function,
# - stream a text through a state that never grows, and carry its normaliser along,
# - see the map that is never formed, and say what a trained model loses with its softmax.

# %% [markdown]
# ## The question
#
# Attention is a product of three matrices with a softmax inside: softmax$(QK^\top)\,V$. The softmax needs the whole row of
# $QK^\top$, so all $N \times S$ pairs have to be looked at, and twice the length takes four times the work. Without a softmax
# it would be the plain product $QK^\top V$, and a product of matrices may be bracketed from either side. What does the other
# bracket cost, what has to take the place of the softmax, and what is lost with it?

# %%
from functools import partial
from itertools import product

import course
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

import minattn as ma
from minattn.practice import check

np.set_printoptions(precision=2, suppress=True)
tokens = course.TOKENS
q, k, v = ma.project_qkv(course.X, course.W_Q, course.W_K, course.W_V)     # (N, D), (S, D), (S, Dv), all (4, 4)
N, D = q.shape

# %% [markdown]
# ## Predict before you run
#
# 1000 queries, 1000 keys, $D = D_v = 64$, no softmax. How many multiplications take $(QK^\top)\,V$ and $Q\,(K^\top V)$, and
# what is the shape of the matrix in the middle?
#
# <details><summary>Answer</summary>
#
# $(QK^\top)\,V$: the middle is 1000 x 1000, and each of the two products takes 1000 · 1000 · 64, together 128 million.
# $Q\,(K^\top V)$: the middle is 64 x 64, and each product takes 1000 · 64 · 64, together 8.2 million: 15.6 times fewer.
#
# </details>
#
# ## Move the brackets
#
# On the course's four tokens, with every multiplication counted:

# %%
def times(a, b):
    """(A, B), (B, C) -> their product, and how many multiplications it took."""
    out, count = np.zeros((len(a), b.shape[1])), 0
    for i, j, n in product(range(len(a)), range(b.shape[1]), range(len(b))):
        out[i, j] += a[i, n] * b[n, j]
        count += 1
    return out, count


scores, count_scores = times(q, k.T)                                  # (N, S)
left, count_left = times(scores, v)
state, count_state = times(k.T, v)                                    # (D, Dv)
right, count_right = times(q, state)
print(f"(Q K^T) V: {count_scores} + {count_left} multiplications;  Q (K^T V): {count_state} + {count_right}")
print("K^T V =", state, sep="\n")
print("its first number:", " + ".join(f"({k[j, 0]:.2f})({v[j, 0]:.2f})" for j in range(N)), f"= {state[0, 0]:.2f}")
assert np.allclose(left, right)

# %% [markdown]
# The same output, by associativity; and here the same count, because $N = D = 4$. In general it is $NSD + NSD_v$ against
# $SDD_v + NDD_v$. With $S = N$ and $D_v = D$ that is $2N^2D$ against $2ND^2$: **equal at $N = D$**, and beyond it the second
# grows with $N$ alone.

# %%
for length in (4, 64, 1000, 65_536):
    pairs_first, state_first = 2 * length**2 * 64, 2 * length * 64**2
    print(f"N = {length:6}, D = 64: {pairs_first:>15,} against {state_first:>11,}, ratio {pairs_first / state_first:8.2f}")
assert 2 * 1000**2 * 64 == 128_000_000
assert 2 * 1000 * 64**2 == 8_192_000

# %% [markdown]
# ## What takes the place of the softmax
#
# A softmax weight is $e^{q_i \cdot k_j / \sqrt D}$ divided by the sum of its row. This exponential is no product of a few
# numbers made of the query with a few numbers made of the key, so the brackets cannot move. Try it with nothing in its place:
# the scores themselves as weights, divided by their sum.

# %%
print("sums of the rows before dividing:", scores.sum(axis=1))
print("after:", scores / scores.sum(axis=1, keepdims=True), sep="\n")

# %% [markdown]
# **Built broken.** The rows sum to 1, but weights are negative, and a sum may come arbitrarily near to 0, or be 0, and is
# divided by all the same. The row of 'the' has a negative sum: the two keys that fit it best, the only ones with a positive
# score, are those that it turns away from.
#
# **The mend** (Katharopoulos et al. 2020): a *feature map* $\varphi$ that makes all numbers of a query and of a key positive,
# one by one. Then $\varphi(q_i) \cdot \varphi(k_j)$ is positive, and it is still a product of something of the query and
# something of the key. Theirs is elu(x) + 1: $x + 1$ above 0, $e^x$ below.

# %%
def phi(x):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))           # so that exp overflows nowhere


sat = 2                                                               # one query in a loop
weights = [sum(phi(q[sat, d]) * phi(k[j, d]) for d in range(D)) for j in range(N)]
print("phi(q) of 'sat'", phi(q[sat]))
for j, token in enumerate(tokens):
    print(f"phi(k) of {token:>4}  {phi(k[j])}   product {weights[j]:.2f}   weight {weights[j] / sum(weights):.2f}")
by_pairs = sum(w * row for w, row in zip(weights, v, strict=True)) / sum(weights)
print("output", by_pairs)

# %% [markdown]
# With the brackets moved: all keys go into one matrix, the **state**, and one row, the **normaliser**, whoever asks.
#
# $$
# o_i = \frac{\sum_j (\varphi(q_i) \cdot \varphi(k_j))\, v_j}{\sum_j \varphi(q_i) \cdot \varphi(k_j)}
#     = \frac{\varphi(q_i)^\top M}{\varphi(q_i) \cdot z}
# \qquad M = \sum_j \varphi(k_j)\, v_j^\top \qquad z = \sum_j \varphi(k_j)
# $$
#
# ($M$ is the state, (D, Dv); papers also write $S$, which here counts keys.)

# %%
state, z = phi(k).T @ v, phi(k).sum(axis=0)                           # (D, Dv), (D,)
out = phi(q) @ state / (phi(q) @ z)[:, None]
print("normaliser", z)
assert np.allclose(out[sat], by_pairs)
assert np.allclose(out, ma.linear_attention(q, k, v, causal=False))

ones = np.ones((N, 1))                                                # or: the normaliser as one more column of the state
read = phi(q) @ (phi(k).T @ np.hstack([v, ones]))                     # (N, Dv + 1)
assert np.allclose(read[:, :-1] / read[:, -1:], out)

# %% [markdown]
# ## The map that is never formed
#
# Linear attention has weights, but nowhere does it write them down. They can be had all the same: the output is the weights
# times the values, so give it the identity matrix as values, and the output *is* the weights. `ma.implied_weights` does that
# for every mechanism that is linear in its values, and checks the result.
#
# What to look for. On the left, softmax: in each row one key stands out. In the middle, $\varphi$: a row has nearly one
# colour. On the right the scores themselves as weights, from above, with negative entries in blue.

# %%
linear_map = ma.linear_attention(q, k, np.eye(N), causal=False)       # the identity as values
assert np.allclose(linear_map, ma.implied_weights(ma.linear_attention, q, k, v, causal=False))
softmax_map = ma.attention_weights(q, k)
raw_map = ma.implied_weights(ma.linear_attention, q, k, v, causal=False, feature_map=lambda x: x)
fig, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
for ax, (name, each) in zip(axes, {"softmax": softmax_map, "elu(x) + 1": linear_map, "no feature map": raw_map}.items(),
                            strict=True):
    ma.plot.heatmap(each, tokens, title=name, ax=ax, vmax=1, colorbar=False)
    print(f"{name:15} rows sum to {each.sum(axis=1)}, smallest weight {each.min():5.2f}, "
          f"largest of each row {each.max(axis=1)}")
assert (linear_map > 0).all()
assert linear_map.max() < 0.35 < 0.45 < softmax_map.max(axis=1).min()

# %% [markdown]
# Why so even? $\varphi(q) \cdot \varphi(k)$ is a **sum** of $D$ positive terms, and sums of many terms are all about alike. The
# exponential of a sum is a **product** of $D$ factors, which can be a thousand times as large for one key as for another. The
# spread of the weights before dividing, relative to their mean, for 2000 drawn pairs:

# %%
rng = np.random.default_rng(0)
for width in (2, 8, 64, 512):
    a, b = rng.standard_normal((2, 2000, width))
    sums, products = (phi(a) * phi(b)).sum(axis=1), np.exp((a * b).sum(axis=1) / np.sqrt(width))
    print(f"D = {width:3}: elu + 1 {sums.std() / sums.mean():.2f}, softmax {products.std() / products.mean():.2f}")

# %% [markdown]
# With $\varphi$ it falls like $1/\sqrt D$: the wider the head, the more evenly it looks at everything. (A model that is trained
# with $\varphi$ learns queries and keys that lie otherwise; more on that below.)
#
# ## Causal: the state is a running sum
#
# A causal query sees the keys up to its own. So its state is the sum up to its own position, and the next one is the same
# plus one pair: linear attention is a recurrent network.
#
# **Predict before you run.** What must be kept after token $i$, and does it grow with $i$? What is the output of the first
# token?
#
# <details><summary>Answer</summary>
#
# $M_i$, (D, Dv), and $z_i$, (D,): 20 numbers here, after 4 tokens as after 4 million. The first output is the first value:
# there is one weight, and divided by itself it is 1.
#
# </details>

# %%
def recurrent(q, k, v):
    """One token after the other, (N, D), (N, D), (N, Dv) -> (N, Dv)."""
    state, z, out = np.zeros((q.shape[1], v.shape[1])), np.zeros(q.shape[1]), np.empty_like(v)
    for i in range(len(q)):
        state = state + np.outer(phi(k[i]), v[i])                     # write first:
        z = z + phi(k[i])
        out[i] = phi(q[i]) @ state / (phi(q[i]) @ z)                  # a token sees itself
    return out


def over_pairs(q, k, v):
    """All pairs at once, and the mask."""
    weights = np.tril(phi(q) @ phi(k).T)
    return weights / weights.sum(axis=1, keepdims=True) @ v


step_by_step = recurrent(q, k, v)
for i, token in enumerate(tokens):
    print(f"after {token:>4}: z {phi(k[:i + 1]).sum(axis=0)}, output {step_by_step[i]}")
assert np.allclose(step_by_step[0], v[0])
assert np.allclose(step_by_step, over_pairs(q, k, v))
assert np.allclose(step_by_step, ma.linear_attention(q, k, v))        # causal=True is its default

# %% [markdown]
# ## In chunks
#
# Token by token costs $O(N)$, but each step is a few small products, and a processor is fast at large ones. Over pairs the
# products are large, and $O(N^2)$. Between them lies the form that is used in practice: cut the text into **chunks** of C
# tokens; within a chunk over pairs, from chunk to chunk through the state. What to look for: the blocks on the diagonal are
# the only pairs that are computed; everything below them comes out of one state for each chunk.

# %%
length, chunk = 12, 4
i, j = np.arange(length)[:, None], np.arange(length)
kind = np.where(i // chunk == j // chunk, 2, 1) * (j <= i)           # 0 hidden, 1 through the state, 2 as a pair
fig, ax = plt.subplots(figsize=(4.2, 3.4), layout="constrained")
colours = ListedColormap(["#e9e9e9", "#9fd0cb", "#443983"])
image = ax.imshow(kind, cmap=colours, vmin=-0.5, vmax=2.5, interpolation="nearest")
bar = fig.colorbar(image, ax=ax, ticks=[0, 1, 2])
bar.ax.set_yticklabels(["hidden", "through the state", "as a pair"])
ax.set(xlabel="key (attended to)", ylabel="query (attends)", title="12 tokens in chunks of 4")
print(f"{(kind == 2).sum()} pairs computed, {(kind == 1).sum()} through the state")

# %%
def chunked(q, k, v, chunk):
    """A chunk at a time; the normaliser rides along as a column of ones."""
    ones, out = np.hstack([v, np.ones((len(v), 1))]), np.empty_like(v)
    state = np.zeros((q.shape[1], ones.shape[1]))                     # (D, Dv + 1)
    for start in range(0, len(q), chunk):
        here = slice(start, start + chunk)                            # the last chunk may be short
        pairs = np.tril(phi(q[here]) @ phi(k[here]).T)                # (C, C)
        read = pairs @ ones[here] + phi(q[here]) @ state
        out[here] = read[:, :-1] / read[:, -1:]
        state = state + phi(k[here]).T @ ones[here]                   # after it was read
    return out


for length in (1, 7, 64, 129):
    a, b = rng.standard_normal((2, length, 8))
    c = rng.standard_normal((length, 5))
    want = over_pairs(a, b, c)
    others = [recurrent(a, b, c), *(chunked(a, b, c, size) for size in (1, 5, 64))]
    others += [ma.linear_attention(a, b, c, form=form, chunk=5) for form in ("parallel", "recurrent", "chunked")]
    off = max(np.abs(each - want).max() for each in others) / np.abs(want).max()
    assert off < 1e-10
    print(f"{length:3} tokens: {len(others)} other forms, largest difference {off:.0e}")

# %% [markdown]
# ## Streaming: carry both
#
# While a model writes, there is one token at a time. The library returns the state (its last column is $z$) and takes it back:
# a prompt of 100 tokens at once, then 29 more, each from the state alone. No key is kept.

# %%
a, b, c = rng.standard_normal((3, 2, 129, 8))                         # q, k, v of two heads
whole = ma.linear_attention(a, b, c)


def stream(forget):
    """129 outputs, the last 29 one by one; `forget` changes the state before each of them."""
    out, state = ma.linear_attention(a[:, :100], b[:, :100], c[:, :100], return_state=True)
    outs = [out]
    for n in range(100, 129):
        now = slice(n, n + 1)
        out, state = ma.linear_attention(a[:, now], b[:, now], c[:, now], state=forget(state), return_state=True)
        outs.append(out)
    return np.concatenate(outs, axis=1), state


carried, state = stream(lambda state: state)
print("state", state.shape, f"largest difference to the whole {np.abs(carried - whole).max():.0e}")
assert np.allclose(carried, whole)

# %% [markdown]
# **Built broken:** the state is carried and the normaliser is not, each call starts its $z$ at 0. It is easily done where the
# two are kept apart. The test that finds it: with all values 1 the output must be 1, because it is an average.

# %%
c = np.ones_like(c)
with_z, _ = stream(lambda state: state)
without_z, _ = stream(lambda state: np.concatenate([state[..., :-1], 0 * state[..., -1:]], axis=-1))
for name, each in [("both carried", with_z), ("normaliser lost", without_z)]:
    print(f"{name:15} outputs of tokens 99 to 102:", each[0, 99:103, 0])
assert np.allclose(with_z, 1)
assert without_z[:, 100:].min() > 10

# %% [markdown]
# Above the fraction's line stand a hundred tokens, below it one.
#
# ## What the state cannot hold
#
# A cache of $N$ tokens holds $2ND$ numbers; the state with its normaliser holds $D(D+1)$ and is as large as a cache of
# $(D+1)/2$ tokens, however long the text. Something must give. Store $N$ pairs of random keys and values ($D = D_v = 64$), ask
# with each key in turn, and see whether the value that comes out resembles the right one more than all others.

# %%
def recalled(N, mechanism):
    """The share of N stored values that are found again by their keys; 4 heads."""
    keys, values = rng.standard_normal((2, 4, N, 64))
    found = mechanism(keys, keys, values)                             # each key is its own query
    found = found - found.mean(axis=1, keepdims=True)                 # what all answers have in common says nothing
    best = (found @ values.swapaxes(1, 2)).argmax(axis=-1)            # (4, N)
    return (best == np.arange(N)).mean()


share = {}
for N_pairs in (16, 32, 64, 128, 256, 512):
    share[N_pairs] = (recalled(N_pairs, partial(ma.attention, scale=1)),
                      recalled(N_pairs, partial(ma.linear_attention, causal=False)))
    print(f"{N_pairs:3} pairs: softmax finds {share[N_pairs][0]:4.0%}, linear attention {share[N_pairs][1]:4.0%}")
assert share[512][0] == 1
assert share[64][1] > 0.9 > 0.5 > share[512][1]

# %% [markdown]
# Softmax finds all of them. The state finds nearly all up to about $D = 64$ pairs; then they overlap more and more. That is
# the price, for every feature map of this width: with more than 64 pairs none gives back *exactly* whatever was stored (the
# third question below says why). What a state can do better, by forgetting on purpose and by writing over old pairs, is a
# subject of its own (`ma.retention`, `ma.gated_linear_attention`, `ma.delta_rule`).
#
# ## Gradients
#
# No map is needed for these either. Without the normaliser, the gradient of a query's features reads the same state as the
# forward did. A key matters to the queries *after* it, so it reads a running sum from the end, as does its value:
#
# $$
# d\varphi(q_i) = M_i\, do_i \qquad R_j = \sum_{i \ge j} \varphi(q_i)\, do_i^\top \qquad
# d\varphi(k_j) = R_j\, v_j \qquad dv_j = R_j^\top \varphi(k_j)
# $$
#
# The chain rule through $\varphi$ comes on top: its slope is 1 above 0 and $e^x$ below. The normaliser is one more column of
# values, all 1, and what is divided by it; for that, a finite difference judges the library.

# %%
dout = rng.standard_normal((N, D))
R = np.cumsum((phi(q)[:, :, None] * dout[:, None, :])[::-1], axis=0)[::-1]           # (N, D, Dv), sums over i >= j
dk = np.einsum("nde,ne->nd", R, v) * np.exp(np.minimum(k, 0))
dv = np.einsum("nde,nd->ne", R, phi(k))
plain = ma.linear_attention_backward(dout, q, k, v, normalize=False)
assert np.allclose(dk, plain.dk)
assert np.allclose(dv, plain.dv)

grads, step = ma.linear_attention_backward(dout, q, k, v), np.zeros_like(k)
step[1, 2] = 1e-6                                                     # one number of the key of 'cat'
up, down = ((ma.linear_attention(q, k + sign * step, v) * dout).sum() for sign in (1, -1))
print(f"dk[1, 2]: finite difference {(up - down) / 2e-6:.6f}, library {grads.dk[1, 2]:.6f}")
assert np.isclose((up - down) / 2e-6, grads.dk[1, 2], rtol=1e-6)

# %% [markdown]
# ## The real thing
#
# Can a trained model do with it? Head 8 of layer 13 of SmolLM2 looks from 'it' at 'cat' (lesson 04). The same queries and
# keys, softmax and $\varphi$:

# %%
found = course.real("sentence")
print("from the model itself" if course.model() else "from the stored maps")
it = found.tokens.index(" it")
real_q, real_k = found.q[8].astype(np.float64), found.k[2].astype(np.float64)        # head 8 reads KV head 2
by_softmax = ma.attention_weights(real_q, real_k, causal=True)[it]
by_phi = ma.implied_weights(ma.linear_attention, real_q, real_k, real_k)[it]
for token, one, other in zip(found.tokens[:it + 1], by_softmax, by_phi, strict=False):
    print(f"{token:>8}  softmax {one:.2f} {'|' * round(40 * one):34} linear {other:.2f} {'|' * round(40 * other)}")
assert by_softmax.max() > 0.75
assert by_phi[:it + 1].min() > 0.1
assert by_phi.max() < 0.16

# %% [markdown]
# Next to nothing is left of the preference, as $D = 64$ let us expect. Then the whole model, on a paragraph of 127 tokens: linear
# attention in place of softmax in all layers, in one layer, or in the last few, without any training (the recipe
# `without_softmax` in [recipes.py](recipes.py), by `model.with_attention`). And a control that looks at nothing: each token
# takes the **mean of all values so far**.
#
# **Predict before you run.** The loss is 3.19 as trained; a guess among all 49,152 tokens alike would have 10.80. Where is the
# model with linear attention in all layers?
#
# <details><summary>Answer</summary>
#
# At 7.7, a wreck; and hardly better than the control, at 8.0. Replaced without training, $\varphi$ makes a head an average over
# everything, and an average over everything is what the control is.
#
# </details>

# %%
swap = course.real("without_softmax")
for name, loss, guess in zip(swap.names, swap.losses, swap.guess, strict=True):
    print(f"{name:26} loss {loss:5.2f}, perplexity {np.exp(loss):7.1f}, 'The capital of France is' -> {guess!r}")
print(f"a guess among all tokens   loss {np.log(49_152):5.2f}")
print("keys that the last of the 127 tokens really looks at, in the nine heads of layer 13")
for name, keys in zip(("softmax", "linear"), swap.keys, strict=True):
    print(f"{name:8}", "".join(f"{each:6.1f}" for each in keys))
trained, linear, mean = swap.losses
assert round(float(trained), 2) == 3.19
assert 7.6 < linear < mean < 8.1
assert swap.keys[1].min() > 120

# %% [markdown]
# (The number of keys 'really' looked at is $e^H$ with the entropy $H$ of the row: $n$ for $n$ equal weights, 1 for a single
# one.) What to look for in the picture: where blue and orange part.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.3), layout="constrained", sharey=True)
n = np.arange(len(swap.layers))
for shift, name, losses in [(-0.2, "linear", swap.alone[0]), (0.2, "mean of all values", swap.alone[1])]:
    left.bar(n + shift, losses, width=0.4, label=name)
left.set_xticks(n, swap.layers)
left.set(xlabel="the one layer replaced", ylabel="loss", title="one layer")
for style, name, losses in [("o-", "linear", swap.last[0]), ("s--", "mean of all values", swap.last[1])]:
    right.plot([0, *swap.counts, 30], [trained, *losses, linear if name == "linear" else mean], style, label=name)
right.set(xlabel="layers replaced, the last ones", title="several layers")
for ax in (left, right):
    ax.axhline(trained, color="k", linestyle=":", linewidth=1, label="as trained")
    ax.legend(fontsize=9)
gap = np.abs(np.diff(np.concatenate([swap.alone, swap.last], axis=1), axis=0)).max()
print(f"largest distance between linear and the mean, all of these: {gap:.2f}")

# %% [markdown]
# They agree but for layer 0, alone or among the thirty: nearly everywhere linear attention does no more for this model than an
# average that ignores queries and keys. (Layers 10 and 20 are hardly missed, whatever replaces them: that says more about the
# model than about linear attention.) The weights were trained for a mechanism that can point, and an average cannot point.
# So linear attention is not a faster way to run a trained model: it is another mechanism, to be trained with. The paper's
# models were trained so from the start; Kasai et al. 2021, [arXiv:2103.13076](https://arxiv.org/abs/2103.13076), replace the
# softmax of a trained one by a *learned* feature map and train on. The other way out is a $\varphi$ whose products really
# approach the exponential: that takes many random features, and is the idea of Performer.
#
# ## What it costs
#
# First the two products alone, in NumPy with one thread, no mask and no softmax. By count they cross at $N = D$. And here?

# %%
def both(N, D):
    """Seconds of (Q K^T) V and of Q (K^T V), 16 heads, in turn."""
    a, b, c = rng.standard_normal((3, 16, N, D), dtype=np.float32)
    runs = (lambda: (a @ b.swapaxes(1, 2)) @ c, lambda: a @ (b.swapaxes(1, 2) @ c))
    return np.min([[course.seconds(run, 1) for run in runs] for _ in range(9)], axis=0)


lengths, ratios = np.array([8, 16, 32, 64, 128, 256, 512]), {}
for width in (32, 64, 128):
    ratios[width] = np.array([np.divide(*both(n, width)) for n in lengths])
    above = int(np.argmax(ratios[width] > 1))
    near = slice(max(above - 1, 0), max(above - 1, 0) + 2)            # the lengths on both sides of 1
    crossing = np.exp(np.interp(0, np.log(ratios[width][near]), np.log(lengths[near])))
    print(f"D = {width:3}: equally fast at about N = {crossing:3.0f}; at N = 512 "
          f"{ratios[width][-1]:4.1f} times as fast, {512 / width:4.1f} by count")

# %% [markdown]
# Then the whole mechanism, causal, two heads of $D = 64$, float32, in NumPy and in compiled code: softmax with its map, and by
# the kernel of lesson 11; linear attention token by token, in chunks, and by a kernel that goes in chunks of 16. And the price
# of one more token, as in decoding: softmax over a cache of $N$ keys, and one step of the state.

# %%
def whole_text(N):
    """{form: seconds} for N tokens; the quadratic ones only as far as they are quick."""
    a, b, c = rng.standard_normal((3, 2, N, 64), dtype=np.float32)
    runs = {"softmax, NumPy": (2048, lambda: ma.attention(a, b, c, causal=True, backend="numpy")),
            "softmax, kernel": (8192, lambda: ma.attention(a, b, c, causal=True, backend="cpu")),
            "linear, token by token": (4096, lambda: ma.linear_attention(a, b, c, form="recurrent", backend="numpy")),
            "linear, chunks of 64": (16_384, lambda: ma.linear_attention(a, b, c, backend="numpy")),
            "linear, kernel": (16_384, lambda: ma.linear_attention(a, b, c, backend="cpu"))}
    return {name: course.seconds(run, 3) for name, (most, run) in runs.items() if most >= N}


def one_token(N):
    """{form: seconds} for one token after N others."""
    a = rng.standard_normal((2, 1, 64), dtype=np.float32)
    keys, values = rng.standard_normal((2, 2, N, 64), dtype=np.float32)
    _, held = ma.linear_attention(keys, keys, values, return_state=True)
    runs = {"softmax, kernel": lambda: ma.attention(a, keys, values, causal=True, backend="cpu"),
            "linear, token by token": lambda: ma.linear_attention(a, a, a, form="recurrent", backend="numpy",
                                                                  state=held, return_state=True)}
    return {name: course.seconds(run, 50) for name, run in runs.items()}


# %%
for mechanism in (ma.attention, ma.linear_attention):                 # compiled once, not timed
    mechanism(*rng.standard_normal((3, 2, 256, 64), dtype=np.float32), causal=True, backend="cpu")
one_token(64)
text = {n: whole_text(n) for n in 2 ** np.arange(8, 15)}
one_more = {n: one_token(n) for n in 2 ** np.arange(10, 17, 2)}

# %%
fig, axes = plt.subplots(1, 3, figsize=(11, 4.6), layout="constrained")
for width, ratio in ratios.items():
    line, = axes[0].loglog(lengths, ratio, "o-", label=f"D = {width}")
    axes[0].axvline(width, color=line.get_color(), linestyle=":")
axes[0].axhline(1, color="k", linewidth=0.8)
axes[0].set(xlabel="N", ylabel="seconds of (Q K^T) V / of Q (K^T V)", title="the brackets; dotted: N = D")
axes[0].set_xticks(lengths, lengths)
axes[0].set_xticks([], minor=True)
colours = dict(zip(text[256], ("C3", "C0", "C2", "C1", "C4"), strict=True))
for ax, times_of, title in [(axes[1], text, "a whole text"), (axes[2], one_more, "one more token")]:
    for name, colour in colours.items():
        at = [n for n in times_of if name in times_of[n]]
        if at:
            ax.loglog(at, [1000 * times_of[n][name] for n in at], "o-", color=colour, label=name)
    ax.set(xlabel="N", ylabel="milliseconds", title=title)
for ax in axes:
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)       # below: no line is covered
for name in colours:
    n = [n for n in text if name in text[n]][-3:]
    power = np.polyfit(np.log(n), np.log([text[m][name] for m in n]), 1)[0]
    print(f"{name:23} {1000 * text[2048][name]:6.1f} ms at N = 2048; grows like N to the power {power:.2f}")

# %%
for n, took in one_more.items():
    kernel, step_of = took.values()
    print(f"one token after {n:6}: softmax {1e6 * kernel:8.0f} us over {2 * n * 64 * 4 / 1e3:8,.0f} kB of cache a head; "
          f"linear {1e6 * step_of:4.0f} us over {64 * 65 * 4 / 1e3:.0f} kB of state")
flat = one_more[65_536]["linear, token by token"] / one_more[1024]["linear, token by token"]
print(f"64 times the length: the linear step takes {flat:.2f} times as long")
assert 2 * 65_536 * 64 * 4 == 33_554_432
assert 64 * 65 * 4 == 16_640

# %% [markdown]
# Left: the measured crossing lies near $N = D$, and not exactly there, since small matrices take more time than their count
# says. Middle: towards the right the slopes are near 2 and near 1. Where two lines cross depends on who wrote the code: hold
# NumPy against NumPy and kernel against kernel. Right: the step costs the same after 1,000 tokens as after 65,000, and most of
# it is the price of a few calls in Python.
#
# | | softmax | linear attention |
# |---|---|---|
# | multiplications, all pairs | $NS(D + D_v)$ | $(N + S)\,D D_v$ |
# | causal, chunks of C | half of it, with tiles | about $N\,(C\,(D + D_v) + 2 D D_v)$ |
# | one token more | $N(D + D_v)$ | $2 D D_v$ |
# | kept while decoding, a head | $N(D + D_v)$ numbers | $D(D_v + 1)$ numbers |
# | can point at one of $N$ tokens | yes | while $N$ is not far above $D$, see above |
#
# ## Exercises
#
# The function `phi` above may be used in all of them. Heads have no axis here: q and k are (N, D), v is (N, Dv).
#
# **1 (easy).** Count. N queries, S keys, widths D and Dv: how many multiplications take $(QK^\top)\,V$ and
# $Q\,(K^\top V)$? Return both, as integers.
#
# <details><summary>Hint</summary>
#
# A product (a, b) times (b, c) has $a \cdot c$ results, each a sum of $b$ products.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Two products on each side. $QK^\top$ is (N, D) times (D, S); $K^\top V$ is (D, S) times (S, Dv).
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def linear_multiplications(N, S, D, Dv):
#     pairs_first = N * D * S + N * S * Dv
#     state_first = D * S * Dv + N * D * Dv
#     return pairs_first, state_first
# ```
#
# </details>

# %%
def linear_multiplications(N, S, D, Dv):
    """four lengths -> multiplications of (Q K^T) V and of Q (K^T V)"""
    return None


check.linear_multiplications(linear_multiplications)

# %% [markdown]
# **2 (easy).** Linear attention in which every query sees all keys: q (N, D), k (S, D), v (S, Dv) in, out (N, Dv). Never
# form the N x S weights.
#
# <details><summary>Hint</summary>
#
# Two things of the keys are needed by every query: the state and the normaliser.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `phi(q) @ z` is one number for each query, (N,); as a column it divides the rows of the output.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def linear_all_keys(q, k, v):
#     state, z = phi(k).T @ v, phi(k).sum(axis=0)
#     return phi(q) @ state / (phi(q) @ z)[:, None]
# ```
#
# </details>

# %%
def linear_all_keys(q, k, v):
    """(N, D), (S, D), (S, Dv) -> (N, Dv)"""
    return None


check.linear_all_keys(linear_all_keys)

# %% [markdown]
# **3 (easy).** The map of causal linear attention: q, k (N, D) in, weights (N, N) out. Rows are queries.
#
# <details><summary>Hint</summary>
#
# Here the N x N products may be formed: that is what a map is. First hide, then divide.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `np.tril(a)` keeps the entries with key at or before the query and sets the others to 0.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def linear_map(q, k):
#     weights = np.tril(phi(q) @ phi(k).T)
#     return weights / weights.sum(axis=1, keepdims=True)
# ```
#
# Without a softmax, 0 is hidden: there is no exponential, so no minus infinity is needed. But the sum comes after hiding.
#
# </details>

# %%
def linear_map(q, k):
    """(N, D), (N, D) -> weights (N, N), causal"""
    return None


check.linear_map(linear_map)

# %% [markdown]
# **4 (medium).** One token more: q, k (D,) and v (Dv,) of the token, and the `state` (D, Dv) and `z` (D,) of all tokens
# before it. Return its output (Dv,), the new state and the new z. The caller still needs the old ones.
#
# <details><summary>Hint</summary>
#
# A token sees itself: write, then read.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `np.outer(a, b)` is (D, Dv) for a (D,) and b (Dv,). `state += ...` would change the caller's array.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def linear_step(q, k, v, state, z):
#     state, z = state + np.outer(phi(k), v), z + phi(k)
#     return phi(q) @ state / (phi(q) @ z), state, z
# ```
#
# </details>

# %%
def linear_step(q, k, v, state, z):
    """(D,), (D,), (Dv,), (D, Dv), (D,) -> out (Dv,), state (D, Dv), z (D,)"""
    return None


check.linear_step(linear_step)

# %% [markdown]
# **5 (hard).** Causal, in chunks of at most `chunk` tokens, going on from the `state` (D, Dv) and `z` (D,) of earlier tokens:
# q, k (N, D) and v (N, Dv) in; out (N, Dv), the last state and the last z come out. `chunk` need not divide N.
#
# <details><summary>Hint</summary>
#
# Start from `chunked` above. Its column of ones becomes z, and what stood in `read[:, -1:]` is now a sum of two parts.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The divisor of a query: the sum of its row of `pairs`, and `phi(q) @ z` with the z before the chunk. One division at the end:
# two averages cannot simply be added.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def linear_chunked(q, k, v, chunk, state, z):
#     out = np.zeros((len(q), v.shape[1]))
#     for start in range(0, len(q), chunk):
#         here = slice(start, start + chunk)
#         features, keys = phi(q[here]), phi(k[here])
#         pairs = np.tril(features @ keys.T)
#         read = pairs @ v[here] + features @ state
#         out[here] = read / (pairs.sum(axis=1) + features @ z)[:, None]
#         state, z = state + keys.T @ v[here], z + keys.sum(axis=0)
#     return out, state, z
# ```
#
# With chunks of 1 this is exercise 4, and with one chunk of all tokens the map of exercise 3, times v.
#
# </details>

# %%
def linear_chunked(q, k, v, chunk, state, z):
    """(N, D), (N, D), (N, Dv), int, (D, Dv), (D,) -> out (N, Dv), state (D, Dv), z (D,)"""
    return None


check.linear_chunked(linear_chunked)

# %% [markdown]
# ## Three questions
#
# **Is linear attention an approximation of softmax attention?**
#
# <details><summary>Answer</summary>
#
# Not with elu(x) + 1: it is another mechanism, with maps of another kind, and a model has to be trained with it. Nothing in it is
# approximate: its three forms give the same numbers.
#
# </details>
#
# **Why must the state be updated before it is read in the token form, and after it was read in the chunked form?**
#
# <details><summary>Answer</summary>
#
# Either way a query sees the keys up to its own, each of them once. In chunks its own chunk's keys come to it as pairs, with
# the mask; were they in the state as well, they would count twice, and later ones too early.
#
# </details>
#
# **A head has $D = 64$. What is the highest rank that its map (without the causal mask) can have for 1000 tokens, with
# $\varphi$ and with softmax?**
#
# <details><summary>Answer</summary>
#
# 64 with $\varphi$: the map is a product of (1000, 64) and (64, 1000), and dividing its rows does not change the rank. The
# exponential is applied entry by entry, and scores of rank 64 can become a map of full rank, 1000.
# To give back 1000 stored values, whatever they are, a map has to be the identity, and that has rank 1000.
#
# </details>

# %%
a, b = rng.standard_normal((2, 300, 16))                              # 300 tokens, D = 16
assert np.linalg.matrix_rank(ma.implied_weights(ma.linear_attention, a, b, b, causal=False)) == 16
assert np.linalg.matrix_rank(ma.attention_weights(a, b, scale=1)) == 300

# %% [markdown]
# ## Where to go on
#
# - The files: [minattn/linear/linear_attention.py](../minattn/linear/linear_attention.py), and the recurrence under it,
#   [minattn/linear/recurrence.py](../minattn/linear/recurrence.py), which has a decay and an erase as well.
# - Papers: Katharopoulos et al. 2020, [arXiv:2006.16236](https://arxiv.org/abs/2006.16236), eqs (4) to (12), gradients (13) to
#   (15), the recurrent form (16) to (20).
# - Which mechanism when, and what else there is: [which_when.md](which_when.md).
# - Next: [15 Random features and low rank](15_random_features_low_rank.ipynb), which comes closer to the softmax.
