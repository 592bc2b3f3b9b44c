# %% [markdown]
# # 08 Fewer KV heads: MHA, GQA, MQA
#
# 35 minutes · difficulty: medium · read before: [04 Many heads](04_many_heads.ipynb), [07 The KV cache](07_kv_cache.ipynb)
# · [glossary](glossary.md)
#
# You will be able to
#
# - say which query head reads which KV head, and write grouped attention without copying a key,
# - recognise `tile` where `repeat` is meant, and choose sizes that show it,
# - compute what grouping saves in memory and in bytes read per token, and measure the time,
# - say what pooling heads does to a trained model.

# %% [markdown]
# ## The question
#
# A cache takes $2 \cdot L \cdot G \cdot D$ numbers a token: $L$ layers, $G$ KV heads of $D$ numbers, keys and values. In
# lesson 04 every head had its own queries, keys and values, so $G = H$. But each head asks its own *question*; does each
# need its own *keys*, or could several heads look through the same ones? Three answers have names:
#
# - **MHA**, multi-head attention: $G = H$, nothing is shared (Vaswani et al. 2017);
# - **MQA**, multi-query attention: $G = 1$, all query heads share one head of keys and values (Shazeer 2019);
# - **GQA**, grouped-query attention: $G$ in between, each KV head serves a group of $H / G$ query heads (Ainslie et al. 2023).
#
# They are one function with one rule: query head $h$ reads KV head $\lfloor h / (H/G) \rfloor$, in Python `h // (H // G)`.

# %%
import inspect
from dataclasses import replace

import course
import matplotlib.pyplot as plt
import numpy as np
from course import TOKENS, W_K, W_Q, W_V, X

import minattn as ma
from minattn.practice import check

H = 4
for G, name in [(4, "MHA"), (2, "GQA"), (1, "MQA")]:
    read = [h // (H // G) for h in range(H)]
    print(f"{name}: G = {G}; query heads {list(range(H))} read KV heads {read}")

# %% [markdown]
# In the picture each line joins a query head to the KV head that it reads.

# %%
fig, axes = plt.subplots(1, 3, figsize=(8.5, 2.1), layout="constrained")
for ax, G, name in zip(axes, [4, 2, 1], ["MHA", "GQA", "MQA"], strict=True):
    places = (np.arange(G) + 0.5) * H / G - 0.5  # each KV head in the middle of its group
    for h in range(H):
        ax.plot([h, places[h // (H // G)]], [1, 0], color="#8a8a8a", zorder=1)
    ax.scatter(range(H), np.ones(H), s=330, color="#9fd0cb", zorder=2)
    ax.scatter(places, np.zeros(G), s=330, marker="s", color="#fde08a", zorder=2)
    for h in range(H):
        ax.text(h, 1, f"q{h}", ha="center", va="center")
    for g in range(G):
        ax.text(places[g], 0, f"kv{g}", ha="center", va="center")
    ax.set(xlim=(-0.6, H - 0.4), ylim=(-0.45, 1.45), title=f"{name}: G = {G}")
    ax.axis("off")

# %% [markdown]
# ## Predict before you run
#
# A layer has $H = 8$ query heads, $G = 2$ KV heads, $D = 64$; 5 queries look at 12 keys.
#
# 1. Which KV head does query head 5 read?
# 2. What are the shapes of q, k, v, of the weights and of the output? Which of them became smaller than with $G = 8$?
#
# <details><summary>Answer</summary>
#
# 1. A group has 8 / 2 = 4 heads; 5 // 4 = 1.
# 2. q (8, 5, 64), k and v (2, 12, 64), weights (8, 5, 12), output (8, 5, 64). Only k and v became smaller: there are still
#    eight attention maps.
#
# </details>

# %% [markdown]
# ## One query in a loop
#
# The course's vectors, cut into $H = 4$ heads of $D = 1$, so that every score is a product of two numbers. For $G = 2$
# only the first two columns of $W_K$ and $W_V$ are used: the layer has fewer weights. "sat" asks; under the causal mask
# it sees the keys of "the", "cat" and "sat".

# %%
G, D, n = 2, 1, 2                                                     # n: the query 'sat'
q = ma.split_heads(X @ W_Q, H)                                        # (H, N, D) = (4, 4, 1)
k, v = (ma.split_heads(X @ w[:, :G * D], G) for w in (W_K, W_V))      # (G, S, D) = (2, 4, 1)
for g in range(G):
    print(f"KV head {g}: keys {k[g, :n + 1, 0].round(2)}, values {v[g, :n + 1, 0].round(2)}")

by_hand = []
for h in range(H):
    g = h // (H // G)
    scores = np.array([q[h, n, 0] * k[g, s, 0] for s in range(n + 1)])  # / sqrt(D), which is 1
    weights = np.exp(scores) / np.exp(scores).sum()
    by_hand.append(weights @ v[g, :n + 1, 0])
    print(f"query head {h}, q = {q[h, n, 0]:5.2f}, reads KV head {g}: weights {weights.round(2)}, "
          f"output {by_hand[-1]:5.2f}")

# %% [markdown]
# Heads 0 and 1 read the same keys, and so do heads 2 and 3; their queries differ, and so do their weights. With $D = 1$ a
# query can only like large keys or small ones, more or less. With $D = 64$ there are many directions to like.
#
# ## In one product
#
# The plain way: repeat each KV head $H/G$ times in a row, then attend as in lesson 04.

# %%
repeated_k, repeated_v = np.repeat(k, H // G, axis=0), np.repeat(v, H // G, axis=0)  # heads 0 0 1 1
scores = q @ repeated_k.swapaxes(-1, -2) / np.sqrt(D)
scores[:, np.triu(np.ones((4, 4), bool), 1)] = -np.inf
out = ma.softmax(scores) @ repeated_v                                 # (H, N, D)
np.testing.assert_allclose(out[:, n, 0], by_hand)

# %% [markdown]
# But the copy is what we wanted to be rid of. The heads of a group look at the same keys, so for the product they are
# nothing but more rows: $H/G$ heads of $N$ queries are $H/G \cdot N$ queries before one head of keys. That is a reshape
# of the queries, and it is how the library does it: no key is copied. `ma.attention` needs no option for it, since it
# sees $H$ and $G$ in the shapes.

# %%
rows = q.reshape(G, H // G * 4, D)                                    # a group's heads become rows
scores = (rows @ k.swapaxes(-1, -2)).reshape(H, 4, 4) / np.sqrt(D)
scores[:, np.triu(np.ones((4, 4), bool), 1)] = -np.inf
grouped = (ma.softmax(scores).reshape(G, H // G * 4, 4) @ v).reshape(H, 4, D)
np.testing.assert_allclose(grouped, out)

library, maps = ma.attention(q, k, v, causal=True, return_weights=True)
np.testing.assert_allclose(library, out)
print("q", q.shape, " k, v", k.shape, " weights", maps.shape, " out", library.shape)

# %% [markdown]
# The picture shows the four maps. Look at the two left ones: the same keys stand behind both, and they are not the same map.

# %%
titles = [f"query head {h}, KV head {h // (H // G)}" for h in range(H)]
ma.plot.heads(maps, TOKENS, mask=ma.masks.causal(), titles=titles);

# %% [markdown]
# ## Built broken: tile
#
# NumPy has two functions that make four heads of two: `np.repeat` gives 0 0 1 1, `np.tile` gives 0 1 0 1. Both have the
# right shape.

# %%
tiled_k, tiled_v = np.tile(k, (H // G, 1, 1)), np.tile(v, (H // G, 1, 1))  # heads 0 1 0 1
broken = ma.attention(q, tiled_k, tiled_v, causal=True)
assert broken.shape == out.shape
for h in range(H):
    verdict = "right" if np.allclose(broken[h], out[h]) else "WRONG"
    print(f"query head {h}: should read KV head {h // (H // G)}, reads {h % G}: {verdict}")

print()
for heads in (1, 2, 4):
    keys, values = (ma.split_heads(X @ w[:, :heads], heads) for w in (W_K, W_V))
    tiled_keys, tiled_values = (np.tile(each, (H // heads, 1, 1)) for each in (keys, values))
    tiled = ma.attention(q, tiled_keys, tiled_values, causal=True)
    difference = np.abs(tiled - ma.attention(q, keys, values, causal=True)).max()
    print(f"H = 4, G = {heads}: largest difference between tile and repeat {difference:.2f}")

# %% [markdown]
# Half of the heads are right, no shape is wrong, and with $G = 1$ or $G = H$ nothing at all is wrong: the two smallest tests
# that one would write do not see it. Test with $1 < G < H$. In SmolLM2, $H = 9$ and $G = 3$:

# %%
print(inspect.getsource(course.tiled))
found = course.real("pooling")                                        # losses on a paragraph
losses = dict(zip(found.names, found.losses, strict=True))
vocab = ma.models.LlamaConfig.smollm2().vocab
print(f"loss of SmolLM2 as trained {losses['as trained']:.2f}, tiled {losses['tiled']:.2f}; "
      f"a blind guess among {vocab:,} tokens has {np.log(vocab):.2f}")

# %% [markdown]
# (Mean of $-\log p$ of the right next token, on the paragraph `course.PARAGRAPH`.) With tiled heads the model is worse than
# a blind guess.
#
# ## What it saves: memory
#
# A row for each choice of $G$, the model's own marked. $W_K$ and $W_V$ shrink too, which is the smaller effect.

# %%
smol, llama = ma.models.LlamaConfig.smollm2(), ma.models.LlamaConfig.llama_3_1_8b()
for name, config, dtype, choices in [("SmolLM2, float32", smol, "float32", (9, 3, 1)),
                                     ("Llama 3.1 8B, bfloat16", llama, "bfloat16", (32, 8, 1))]:
    print(f"{name}, H = {config.heads}")
    for G in choices:
        other = replace(config, kv_heads=G)
        own = "  <- the model" if G == config.kv_heads else ""
        print(f"  G = {G:2}: {other.kv_bytes(1, dtype):>7,} bytes a token, "
              f"{other.n_parameters:>13,} parameters{own}")

assert [replace(smol, kv_heads=G).kv_bytes(1) for G in (9, 3)] == [138_240, 46_080]
llamas = [replace(llama, kv_heads=G).kv_bytes(1, "bfloat16") for G in (32, 8, 1)]
assert llamas == [524_288, 131_072, 16_384]

# %% [markdown]
# ## What it saves: time
#
# To decode one token, attention reads the whole cache once. The arithmetic does not depend on $G$: every query head still
# meets $S$ keys, $4 H D S$ floating-point operations. The bytes read do: $2 G D S$ numbers. So the operations done for each
# byte read, in float32, are
#
# $$
# \frac{4\,H D S}{4 \cdot 2\,G D S} = \frac{H}{2G} .
# $$
#
# A processor can do many operations in the time in which one number arrives from memory. With $G = H$ it does half an
# operation a byte, and waits. This is Shazeer's argument: in decoding, the ratio of memory read to arithmetic is, up to
# constants, $N/E + 1/B$ for MHA and $1/E + N/(E H) + 1/B$ for MQA ($N$ tokens, width $E$, $B$ texts at once). Measured here,
# one query, in plain NumPy on one thread; for $G = H$ the keys and values are far more than the processor keeps close at hand:

# %%
def decode(H, G, D, S):
    rng = np.random.default_rng(0)
    q = rng.standard_normal((H, 1, D), dtype=np.float32)
    k, v = rng.standard_normal((2, G, S, D), dtype=np.float32)
    return course.seconds(lambda: ma.attention(q, k, v, causal=True, backend="numpy"), 5), k.nbytes + v.nbytes


times = {}
for name, heads, dim, length, choices in [("SmolLM2's layer", 9, 64, 32_768, (9, 3, 1)),
                                          ("8B's layer", 32, 128, 8_192, (32, 8, 1))]:
    print(f"{name}: H = {heads}, D = {dim}, S = {length:,}; whatever G is, "
          f"{4 * heads * dim * length / 1e6:.0f} million operations")
    times[name] = {G: decode(heads, G, dim, length) for G in choices}
    slowest = times[name][heads][0]
    for G, (s, read) in times[name].items():
        print(f"  G = {G:2}: {read / 1e6:5.0f} MB of keys and values, "
              f"{heads / (2 * G):4.1f} operations a byte, {1000 * s:5.1f} ms, "
              f"{slowest / s:4.1f} times as fast")

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
for ax, (name, found_times) in zip(axes, times.items(), strict=True):
    heads, seconds = list(found_times), np.array([s for s, _ in found_times.values()])
    places, first = np.arange(3), seconds[0]
    ax.bar(places - 0.2, 1000 * seconds, 0.4, label="measured", color="#26828e")
    by_bytes = 1000 * first * np.array(heads) / heads[0]
    ax.bar(places + 0.2, by_bytes, 0.4, label="if only bytes counted", color="#d0d0d0")
    ax.set(xticks=places, xticklabels=[f"G = {G}" for G in heads], title=name)
    ax.set_ylabel("ms a token, one layer")
    ax.legend()

# %% [markdown]
# Fewer KV heads are faster, mostly by less than the bytes alone would make them: the operations, the softmax over
# $H \cdot S$ weights and NumPy's own overhead stay. The argument weighs more where arithmetic outpaces memory further
# than on this processor, as it does on GPUs and TPUs. The paper on GQA gives, for T5-XXL on its authors' machines:
#
# | Ainslie et al. 2023, Table 1 (**the paper's, not measured here**) | seconds a sample | quality, mean of their tasks |
# |---|---|---|
# | MHA | 1.51 | 47.2 |
# | GQA, G = 8 | 0.28 | 47.1 |
# | MQA | 0.24 | 46.6 |
#
# Nearly the speed of MQA, nearly the quality of MHA: that is the case for grouped heads. This table needs their models
# and machines; nothing in this repository reproduces it.
#
# ## From many KV heads to fewer: pooling
#
# A model that was trained with MHA can be converted: each new KV head is the mean of its group's. `from_mha` pools the
# weights; since projections are linear, that is the same as averaging the keys and the values themselves. Where the heads
# of a group are equal, nothing is lost:

# %%
mha = ma.MultiHeadAttention.random(24, heads=6, kv_heads=6, seed=0)
x = np.random.default_rng(1).standard_normal((7, 24))
gqa = ma.MultiHeadAttention.from_mha(mha, kv_heads=2)
keys = ma.split_heads(x @ mha.w_k, 6).reshape(2, 3, 7, 4).mean(axis=1)   # (2, 7, 4), a mean a group
np.testing.assert_allclose(ma.split_heads(x @ gqa.w_k, 2), keys)


def copied(w):
    """Each group's first head, in place of all three of its heads."""
    return np.repeat(w.reshape(24, 2, 3, 4)[:, :, :1], 3, axis=2).reshape(24, 24)


equal = ma.MultiHeadAttention(mha.w_q, copied(mha.w_k), copied(mha.w_v), mha.w_o, heads=6)
for name, layer in [("equal heads", equal), ("drawn heads", mha)]:
    before, after = layer(x), ma.MultiHeadAttention.from_mha(layer, kv_heads=2)(x)
    print(f"{name}: largest number of the output {np.abs(before).max():.2f}; "
          f"pooling 6 KV heads to 2 changes it by up to {np.abs(after - before).max():.2g}")

# %% [markdown]
# ## The real thing
#
# Real heads are not equal. SmolLM2's three KV heads pooled to one, without any training, first in all layers, then in one
# layer at a time, every sixth:

# %%
print(inspect.getsource(course.pooled))
for name in ("as trained", "KV heads pooled to one"):
    print(f"{name:24} loss {losses[name]:5.2f}, perplexity {np.exp(float(losses[name])):8.1f}")

fig, ax = plt.subplots(figsize=(6.5, 2.6), layout="constrained")
layers, all_added = found.layers.astype(int), found.losses_of_one - losses["as trained"]
ax.bar(layers, all_added, 3, color="#26828e")
ax.set(xlabel="the one layer whose KV heads are pooled", ylabel="loss added", xticks=layers)
for layer, added in zip(layers, all_added, strict=True):
    ax.text(layer, added, f"{added:.2f}", ha="center", va="bottom", fontsize=8)
ax.margins(y=0.15)

# %% [markdown]
# Pooled everywhere, the model is close to a blind guess. Of the five layers tried alone, layer 0 costs much and the
# others little. So pooling is a start for training and not yet a working model: the paper trains on for 5 % of the
# original steps.
#
# ## Same keys, other things to look at
#
# SmolLM2's heads 6, 7 and 8 of layer 13 read one KV head. Head 8 is the one whose 'it' looks at 'cat' (lesson 04). Look
# along the row of 'it' in the three maps.

# %%
tokens, weights = course.maps("cat")                                  # (layers, H, N, S)
it = tokens.index(" it")
axes = ma.plot.heads(weights[13, 6:9], tokens, mask=ma.masks.causal(),
                     titles=["13.6", "13.7", "13.8"])
for h in (6, 7, 8):
    best = weights[13, h, it].argsort()[::-1][:3]
    shares = [f"{tokens[s].strip()} {weights[13, h, it, s]:.2f}" for s in best]
    print(f"13.{h}: 'it' looks at", ", ".join(shares))

# %% [markdown]
# Sharing keys does not make maps alike. But heads of a group can also do one job together. On 64 random tokens that are
# repeated, some heads find the earlier copy of the current token and look at what came after it (*induction heads*,
# lesson 04). The share of weight that they put there, by KV head:

# %%
roles = course.real("roles")
for layer in (17, 18):
    groups = roles.induction[layer].reshape(3, 3)                     # (G, H // G)
    shares = [f"  KV head {g}: {group.round(2)}" for g, group in enumerate(groups)]
    print(f"layer {layer}:", *shares)
print(f"head 18.8 on the same tokens: weight {roles.first_random[18, 8]:.2f} on the first token")


def distance(a, b):
    """0 for equal maps, 1 for maps with nothing in common; the first query has no choice."""
    return 0.5 * np.abs(a - b).sum(axis=-1)[1:].mean()


pairs = [(h, other) for h in range(9) for other in range(h)]
apart = np.array([[distance(maps[h], maps[other]) for h, other in pairs] for maps in weights])
same_group = np.array([h // 3 == other // 3 for h, other in pairs])
print(f"distance of two maps of a layer on the cat sentence: "
      f"{apart[:, same_group].mean():.2f} within a group, "
      f"{apart[:, ~same_group].mean():.2f} between groups")

# %% [markdown]
# In layer 17 heads 3, 4 and 5 share keys and all three do the job. In layer 18 heads 6, 7 and 8 share keys, two do it
# and head 8 does not: it rests on the first token. Over all layers, on the cat sentence, maps of one group are hardly
# more alike than maps of different groups.
#
# ## What it costs, in a table
#
# To decode one token in one layer: $H$ query heads, $S$ keys of $D$ numbers, $E$ numbers a token, 4 bytes a number.
#
# | | MHA, $G = H$ | GQA | MQA, $G = 1$ |
# |---|---|---|---|
# | keys and values kept, numbers | $2HDS$ | $2GDS$ | $2DS$ |
# | weights of $W_K$ and $W_V$ | $2EHD$ | $2EGD$ | $2ED$ |
# | attention maps | $H$ | $H$ | $H$ |
# | operations of scores and output | $4HDS$ | $4HDS$ | $4HDS$ |
# | operations for each byte of keys and values | $1/2$ | $H / (2G)$ | $H/2$ |
# | softmax weights | $HS$ | $HS$ | $HS$ |
# | what it gives up | nothing | keys and values of its own for each head | all but one head of keys and values |
#
# ## Exercises
#
# Replace `return None` and run the cell. The check calls your function on arrays of its own, of several sizes; where the answer
# is a known mistake, it names the mistake.

# %% [markdown]
# **1 (easy).** Write the rule for all heads at once: `kv_head_of(H, G)`, an array of $H$ integers, the KV head that each query
# head reads. $G$ divides $H$.
#
# <details><summary>Hint</summary>
#
# `np.arange(H)`, and how many query heads a group has.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# With $H = 8$ and $G = 2$ the answer is 0 0 0 0 1 1 1 1. What are the heads 0 to 7 divided by, and rounded how?
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def kv_head_of(H, G):
#     return np.arange(H) // (H // G)
# ```
#
# `np.arange(H) % G` would be tile.
#
# </details>

# %%
def kv_head_of(H, G):
    """two integers -> (H,) integers"""
    return None


check.kv_head_of(kv_head_of)

# %% [markdown]
# **2 (easy).** How many bytes does the cache of one text take? `layers`, `heads` query heads, `kv_heads` KV heads of
# `head_dim` numbers, `length` tokens, `itemsize` bytes a number. One of the six does not matter.
#
# <details><summary>Hint</summary>
#
# Which of queries, keys and values are looked at again by a later token?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# A key and a value, for each token, in each layer, for each KV head.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def kv_bytes(layers, heads, kv_heads, head_dim, length, itemsize):
#     return 2 * layers * kv_heads * head_dim * length * itemsize
# ```
#
# With MHA it would be $H / G$ times as much: 4 times for Llama 3.1 8B, 3 times for SmolLM2.
#
# </details>

# %%
def kv_bytes(layers, heads, kv_heads, head_dim, length, itemsize):
    """six integers -> an int"""
    return None


check.kv_bytes(kv_bytes)

# %% [markdown]
# **3 (medium).** Write grouped attention: q (H, N, D), k (G, S, D), v (G, S, Dv) and `may` (N, S), booleans, True where a
# query may look (each one sees a key at least). The output is (H, N, Dv). Scores are divided by $\sqrt{D}$. Repeat the KV heads,
# or, better, make the heads of a group rows and copy nothing; `ma.softmax` is allowed.
#
# <details><summary>Hint</summary>
#
# The section 'In one product' has both ways. The first one: `np.repeat(k, H // G, axis=0)`, and then lesson 04.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Without a copy: `q.reshape(G, H // G * N, D) @ k.swapaxes(1, 2)` has the shape (G, H // G * N, S); reshaped to (H, N, S) it
# can be masked. The weights go the same way once more.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def grouped_heads(q, k, v, may):
#     (H, N, D), G = q.shape, len(k)
#     scores = (q.reshape(G, H // G * N, D) @ k.swapaxes(1, 2)).reshape(H, N, -1) / np.sqrt(D)
#     weights = ma.softmax(np.where(may, scores, -np.inf))
#     return (weights.reshape(G, H // G * N, -1) @ v).reshape(H, N, -1)
# ```
#
# Query heads of a group are neighbours, so the reshape needs no transpose. `q.reshape(H // G, G, N, D)` has a plausible shape,
# and is tile.
#
# </details>

# %%
def grouped_heads(q, k, v, may):
    """(H, N, D), (G, S, D), (G, S, Dv), bool (N, S) -> (H, N, Dv)"""
    return None


check.grouped_heads(grouped_heads)

# %% [markdown]
# **Your layer in SmolLM2.** Once exercise 3 is right, run the next two cells again: your function attends in all 30 layers,
# and the logits are compared with the model's own. Until then the library's stands in. Beside it the tiled heads. (Where the
# weights are not here, the model has random ones.)

# %%
def in_the_model(fn):
    """fn(q, k, v, may) as a model calls its attention: a batch in front, positions for a mask."""
    def attend(q, k, v, *, causal, q_pos, k_pos):
        may = k_pos <= q_pos[:, None]                                 # causal: (N, S)
        return np.stack([fn(*row, may) for row in zip(q, k, v, strict=True)])
    return attend


def library(q, k, v, may):
    return ma.attention(q, k, v, mask=may)


def tiled_heads(q, k, v, may):
    return library(q, *(np.tile(x, (len(q) // len(x), 1, 1)) for x in (k, v)), may)


# %%
model = course.model()
trained = model is not None
model = model or ma.models.Llama.random(smol)
ids = model.tokenizer.encode(course.SENTENCE) if trained else list(range(100, 110))
solved = bool(check.grouped_heads(grouped_heads))
layers = {"yours" if solved else "the library's": grouped_heads if solved else library, "tiled": tiled_heads}

own, off = model.forward(ids), []
for name, fn in layers.items():
    logits = model.with_attention(in_the_model(fn)).forward(ids)
    off.append(np.abs(logits - own).max())
    print(f"{name:14} largest difference of a logit {off[-1]:8.5f}, logits reach {np.abs(own).max():.0f}")
assert off[0] < 1e-3 < 1 < off[1]

# %% [markdown]
# **4 (hard).** Pool KV heads: `w` (E, G * D) is a $W_K$ or $W_V$, head after head; `new` divides `G`. Return (E, new * D), where
# each new head is the mean of the G / new neighbouring heads that it replaces.
#
# <details><summary>Hint</summary>
#
# Give each thing an axis of its own first: new heads, members of a group, channels of a head.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `w.reshape(E, new, G // new, D)`, where D is `w.shape[1] // G`. Over which axis is the mean?
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def pool_heads(w, G, new):
#     members = w.reshape(len(w), new, G // new, w.shape[1] // G)
#     return members.mean(axis=2).reshape(len(w), -1)
# ```
#
# The members of a group are the heads whose queries will share the new one: neighbours, as in the rule.
#
# </details>

# %%
def pool_heads(w, G, new):
    """(E, G * D), two integers -> (E, new * D)"""
    return None


check.pool_heads(pool_heads)

# %% [markdown]
# ## Three questions
#
# **Do fewer KV heads make training or reading a long prompt faster in the same way as decoding?**
#
# <details><summary>Answer</summary>
#
# No. There each key that is read serves many queries at once, so arithmetic and not memory sets the time, and the
# arithmetic of the scores is the same for every $G$. Only the two smaller projections save some.
#
# </details>
#
# **A test compares your grouped attention with a plain one for $H = 8$, $G = 8$ and for $H = 8$, $G = 1$. What may it miss?**
#
# <details><summary>Answer</summary>
#
# Tiling instead of repeating. With $G = H$ there is nothing to repeat, with $G = 1$ both orders are the same.
#
# </details>
#
# **Why is the number of attention maps not reduced by MQA?**
#
# <details><summary>Answer</summary>
#
# Each query head has its own queries, so its own scores and its own map, whatever the keys are that it shares.
#
# </details>
#
# ## Where to go on
#
# - The files: `group` in [minattn/core/reference.py](../minattn/core/reference.py), `repeat_kv` in
#   [minattn/core/projection.py](../minattn/core/projection.py), `from_mha` in [minattn/multihead.py](../minattn/multihead.py).
# - Papers: Shazeer 2019, [arXiv:1911.02150](https://arxiv.org/abs/1911.02150), section 3; Ainslie et al. 2023,
#   [arXiv:2305.13245](https://arxiv.org/abs/2305.13245), section 2.
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [09 A Llama by the numbers](09_llama_by_the_numbers.ipynb).
