# %% [markdown]
# # 07 The KV cache
#
# 40 minutes · difficulty: medium · read before: [03 Masks](03_masks.ipynb), [04 Many heads](04_many_heads.ipynb),
# [06 Order](06_order.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - say which numbers of earlier tokens can be kept while a model writes, and why the causal mask is what allows it,
# - decode token by token with `ma.KVCache`, with prompts in pieces and rows of unequal length,
# - recognise a query that was given the wrong position,
# - compute how many bytes a cache takes.

# %% [markdown]
# ## The question
#
# A language model writes one token at a time: it reads "the cat sat", chooses "down", then reads "the cat sat down" to
# choose the next. Read literally, every step runs the whole text through the whole model again, though all but one token
# are the same as before. Which of that work has to be done again, and which can be kept?

# %%
import course
import matplotlib.pyplot as plt
import numpy as np
from course import TOKENS, W_K, W_Q, W_V, X
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

import minattn as ma
from minattn.practice import check

q, k, v = X @ W_Q, X @ W_K, X @ W_V  # (N, D) each: one head, N = 4, D = 4
print("keys, one row a token")
for token, row in zip(TOKENS, k, strict=True):
    print(f"{token:>5}", row.round(2))

# %% [markdown]
# ## Predict before you run
#
# Three tokens have been read, "down" arrives as the fourth. With the causal mask of lesson 03:
#
# 1. Which rows of the output change?
# 2. Which rows of Q, K and V does the *new* output row need, and what are their shapes?
#
# <details><summary>Answer</summary>
#
# 1. None. The causal mask hides the new key from every earlier query, so rows 0 to 2 stay as they are and row 3 is added.
# 2. One query, the new one: (1, 4). All four keys and all four values: (4, 4) each. Three of these four rows were
#    computed in earlier steps and are the same numbers. No earlier query is needed again: it is Q that is *not* kept.
#
# </details>

# %% [markdown]
# ## Recompute everything
#
# Step after step, the text so far goes through attention again. Look from step to step: every row, once printed, comes
# back unchanged in all later steps.

# %%
softmax, scale, computed = ma.softmax, 1 / np.sqrt(4), 0
for n in range(1, 5):
    x = X[:n]                                                         # all n tokens again
    scores = (x @ W_Q) @ (x @ W_K).T * scale                          # (n, n)
    scores[np.triu_indices(n, 1)] = -np.inf                           # no key after the query
    out = softmax(scores) @ (x @ W_V)
    computed += scores.size
    print(f"step {n}: {scores.size:2} scores computed; output so far")
    print(out.round(2))
print(f"{computed} scores in all")
recomputed = out

# %% [markdown]
# ## Keep the keys and values: append one row
#
# The new token brings one query, one key and one value. The key and the value are appended to those that are there; the
# query is used once and thrown away.

# %%
K, V, rows, computed = np.empty((0, 4)), np.empty((0, 4)), [], 0
for n in range(4):
    x = X[n:n + 1]                              # (1, E): the new token alone
    K = np.concatenate([K, x @ W_K])            # (n + 1, D)
    V = np.concatenate([V, x @ W_V])
    weights = softmax((x @ W_Q) @ K.T * scale)  # (1, n + 1): no mask needed, no later key exists
    rows.append(weights @ V)
    computed += weights.size
    print(f"{TOKENS[n]:>5} looks with {weights[0].round(2)} and gets {rows[-1][0].round(2)}")
print(f"{computed} scores in all")

np.testing.assert_allclose(np.concatenate(rows), recomputed)
np.testing.assert_allclose(recomputed, ma.attention(q, k, v, causal=True))

# %% [markdown]
# The same output from 10 scores instead of 30. Step $n$ costs $n$ scores instead of $n^2$:
#
# $$
# \sum_{n=1}^{N} n^2 \approx \tfrac13 N^3 \qquad\text{against}\qquad \sum_{n=1}^{N} n \approx \tfrac12 N^2 .
# $$
#
# In the picture each square is one score $q_n \cdot k_s$. Look how much of the upper row is dark or grey: computed once
# more, or computed and then hidden by the mask. A cache computes the bright squares and nothing else.

# %%
colours = ListedColormap(["#e9e9e9", "#443983", "#6ece58"])           # hidden, again, new
fig, axes = plt.subplots(2, 4, figsize=(8, 4.3), layout="constrained")
for n in range(1, 5):
    anew, once = np.full((2, 4, 4), np.nan)
    anew[:n, :n] = np.tri(n)                                          # 0 hidden, 1 computed before
    anew[n - 1, :n] = once[n - 1, :n] = 2                             # 2 new
    for ax, cells in zip(axes[:, n - 1], (anew, once), strict=True):
        ax.imshow(cells, cmap=colours, vmin=0, vmax=2, interpolation="nearest")
        ax.set(xticks=range(4), yticks=range(4), xticklabels=TOKENS, yticklabels=TOKENS)
        ax.set_title(f"step {n}: {np.isfinite(cells).sum()} computed", fontsize=9)
        ax.tick_params(labelsize=7, length=0)
    axes[1, n - 1].set_xlabel("key")
axes[0, 0].set_ylabel("recomputed\n\nquery")
axes[1, 0].set_ylabel("with a cache\n\nquery")
names = ["computed and hidden", "computed once more", "new"]
handles = [Patch(color=colours(i), label=name) for i, name in enumerate(names)]
fig.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
plt.show()

# %% [markdown]
# ## The library's cache
#
# `ma.KVCache` is the same for a batch of rows and several heads, without the copy that `concatenate` makes: the arrays are
# allocated once, for `capacity` tokens. `append` stores the new rows and hands back four things that `attention` takes as
# they are: all keys, all values, and **where queries and keys stand**.

# %%
cache = ma.KVCache(batch=1, kv_heads=1, capacity=6, head_dim=4, dtype=np.float64)
for n in range(4):
    new = np.s_[None, None, n:n + 1]                                  # (N, D) -> (B, H, 1, D)
    k_all, v_all, q_pos, k_pos = cache.append(k[new], v[new])
    out = ma.attention(q[new], k_all, v_all, causal=True, q_pos=q_pos, k_pos=k_pos)
    np.testing.assert_allclose(out[0, 0], recomputed[n:n + 1])
    print(f"{TOKENS[n]:>5}: k is {k_all.shape}, q_pos {q_pos.tolist()}, k_pos {k_pos.tolist()}")

# %% [markdown]
# ## Why it is allowed
#
# A key of layer 2 is computed from what layer 1 gave for that token. It may be kept only if that never changes, and it
# does not as long as no token looks at a later one. Take the mask away and the first token's output moves with every
# arrival. So a model that looks both ways, such as BERT, has no KV cache of this kind.

# %%
for n in range(1, 5):
    both_ways = ma.attention(q[:n], k[:n], v[:n])
    causal = ma.attention(q[:n], k[:n], v[:n], causal=True)
    print(f"n = {n}: output of 'the' without a mask {both_ways[0].round(2)}, "
          f"causal {causal[0].round(2)}")

# %% [markdown]
# ## Built broken: the mask in the wrong corner
#
# With a cache there is one query and $S$ keys. A common causal mask is `np.tril(np.ones((N, S)))`, which is right when
# $N = S$. Here it aligns the query with the **first** key.

# %%
new = np.s_[3:4]  # "down" arrives; keys of all four are there
tril = np.tril(np.ones((1, 4), dtype=bool))
broken, weights = ma.attention(q[new], k, v, mask=tril, return_weights=True)
print("mask               ", tril[0].astype(int))
print("weights of 'down'  ", weights[0])
print("its output         ", broken[0].round(2))
print("the value of 'the' ", v[0].round(2))
print("what it should be  ", recomputed[3].round(2))
np.testing.assert_allclose(broken[0], v[0])

# %% [markdown]
# The symptom: every new token sees the first token alone, and its output is `v[0]` whatever the query says. No shape is
# wrong and nothing is NaN. The mend is to say where the query stands. `ma.attention` aligns the last query with the last
# key unless told otherwise, and a cache tells it. Below: two new tokens and five keys. Look where the staircase ends.

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.4, 1.9), layout="constrained")
top_left = ma.masks.causal().dense(2, 5, q_pos=np.arange(2), k_pos=np.arange(5))
ends_together = ma.masks.causal().dense(2, 5)                         # the default: q_pos = [3, 4]
ma.plot.mask(top_left, ax=axes[0], title="broken: queries at 0 and 1", legend=False)
ma.plot.mask(ends_together, ax=axes[1], title="right: queries at 3 and 4")
axes[1].set_yticks([0, 1], [3, 4])                                    # rows by position, not by number
assert ends_together.sum(axis=1).tolist() == [4, 5]

# %% [markdown]
# ## Built broken: the stale position
#
# RoPE (lesson 06) rotates queries and keys by their position. In a decoding step $N = 1$, so `np.arange(N)` says that the
# new token stands at position 0, for every token. The mask may be right and the scores still wrong.

# %%
def turn(x, positions):
    return ma.rope(x, positions, layout="interleaved")


scores = {}
for name, position in [("stale, at 0", 0), ("right, at 3", 3)]:
    rotated = turn(q[3:4], np.array([position]))
    scores[name] = (rotated @ turn(k, np.arange(4)).T * scale)[0]
    print(f"query {name}: scores {scores[name].round(2)}, weights {softmax(scores[name]).round(2)}")

whole = turn(q, np.arange(4)) @ turn(k, np.arange(4)).T * scale       # without a cache
np.testing.assert_allclose(scores["right, at 3"], whole[3])

# %% [markdown]
# `cache.next_positions(N)` says where the next tokens will stand, so that queries and keys can be rotated before
# `append`. `MultiHeadAttention` and `Llama` do it for you.
#
# ## A prompt in pieces
#
# Reading the prompt is called *prefill*; it can go in at once, or in pieces to save memory. Four tokens can be cut in
# eight ways, and all of them give the same.

# %%
for cuts in range(8):  # each bit: cut after this token, or not
    ends = [n + 1 for n in range(3) if cuts >> n & 1] + [4]
    cache, parts, start = ma.KVCache(1, 1, 4, 4, np.float64), [], 0
    for end in ends:
        new = np.s_[None, None, start:end]
        k_all, v_all, q_pos, k_pos = cache.append(k[new], v[new])
        parts.append(ma.attention(q[new], k_all, v_all, causal=True, q_pos=q_pos, k_pos=k_pos)[0, 0])
        start = end
    difference = np.abs(np.concatenate(parts) - recomputed).max()
    assert difference < 1e-12
    print(f"pieces end after {ends!s:13} largest difference {difference:.0e}")

# %% [markdown]
# ## Rows of unequal length
#
# A batch holds texts of different lengths in one array: row 0 has "the cat sat down", row 1 only "the cat". `lengths`
# says how many of the new tokens are real; the others store nothing. A slot that holds nothing has `k_pos` -1, and nobody
# sees it. To prove that, the cache is filled with NaN first: one look at an empty slot would spread it.

# %%
cache = ma.KVCache(batch=2, kv_heads=1, capacity=6, head_dim=4, dtype=np.float64)
cache.k[:], cache.v[:] = np.nan, np.nan                     # whoever reads an empty slot gets NaN
batch = np.stack([X, X])[:, None]                           # (B, 1, N, E); row 1 ends in padding
k_all, v_all, q_pos, k_pos = cache.append(batch @ W_K, batch @ W_V, lengths=[4, 2])
print("k_pos after the prompt")
print(k_pos)
prefill = ma.attention(batch @ W_Q, k_all, v_all, causal=True, q_pos=q_pos, k_pos=k_pos)

one = X[[1, 3]][:, None, None]                              # then "cat" to row 0, "down" to row 1
k_all, v_all, q_pos, k_pos = cache.append(one @ W_K, one @ W_V)
out = ma.attention(one @ W_Q, k_all, v_all, causal=True, q_pos=q_pos, k_pos=k_pos)
print("k_pos after one more token each; the queries stand at", q_pos.ravel())
print(k_pos)

for row, order in enumerate([[0, 1, 2, 3, 1], [0, 1, 3]]):  # each row alone, without any cache
    x = X[order]
    alone = ma.attention(x @ W_Q, x @ W_K, x @ W_V, causal=True)
    np.testing.assert_allclose(out[row, 0, 0], alone[-1])
    np.testing.assert_allclose(prefill[row, 0, :len(order) - 1], alone[:-1])
assert np.isnan(k_all[1]).any()                             # the poison is still there, unread

# %% [markdown]
# Row 1's third token took slot 2, right after its own two, and is at position 2. Masking by a large negative number would
# not have been enough: the weight becomes 0, but 0 times NaN is NaN.

# %%
scores = np.where(k_pos[1] >= 0, one[1, 0] @ W_Q @ np.nan_to_num(k_all[1, 0]).T * scale, -1e9)
weights = softmax(scores)
print("weights", weights[0].round(2), " output", (weights @ v_all[1, 0])[0])

# %% [markdown]
# ## The real thing
#
# SmolLM2 has 30 layers, so 30 caches. `generate` uses them unless it is told not to. Where the weights are not here, the
# same lines run on a Llama of the same shape with random weights: its words mean nothing, its times are about the same.

# %%
model, trained = course.model(), True
if model is None:
    print("The lines below run on random weights of SmolLM2's shape.")
    model, trained = ma.models.Llama.random(ma.models.LlamaConfig.smollm2()), False
story = "Once upon a time there was a little cat who"
prompt = model.tokenizer.encode(story) if trained else list(range(100, 110))


def text(ids):
    return model.tokenizer.decode(ids) if trained else str(ids)


kept = model.generate(prompt, max_new_tokens=14, progress=False)
anew = model.generate(prompt, max_new_tokens=14, progress=False, cached=False)
assert kept == anew
print("with cache   ", text(kept))
print("without      ", text(anew))

# %% [markdown]
# Now with the mask in the wrong corner. The prompt itself is read correctly, since there $N = S$; it is decoding that
# breaks, and that is why a test on one forward pass does not find it.

# %%
def corner(q, k, v, *, causal, q_pos, k_pos, **options):
    """Attention that forgets where its queries stand."""
    q_pos, k_pos = np.arange(q.shape[-2]), np.arange(k.shape[-2])
    return ma.attention(q, k, v, causal=causal, q_pos=q_pos, k_pos=k_pos, **options)


broken = model.with_attention(corner)
np.testing.assert_array_equal(broken.forward(prompt), model.forward(prompt))
print("broken       ", text(broken.generate(prompt, max_new_tokens=14, progress=False)))

# %% [markdown]
# And the right step, written out: each query head looks at the cached keys of its KV head and at its own token's, which
# stand last. It decodes in all 30 layers, one head after the other; the logits are those of the whole text read at once.

# %%
def step_by_step(q, k, v, *, causal, **options):
    """Decoding with the course's four lines; a prompt goes through the library."""
    if q.shape[-2] > 1:
        return ma.attention(q, k, v, causal=causal, **options)
    out = np.empty_like(q)                                            # (1, H, 1, D)
    for h in range(q.shape[1]):
        g = h // (q.shape[1] // k.shape[1])                           # which KV head it reads: lesson 08
        out[0, h] = softmax(q[0, h] @ k[0, g].T / np.sqrt(q.shape[-1])) @ v[0, g]
    return out


mine, cache = model.with_attention(step_by_step), model.new_cache(capacity=64)
mine.forward(prompt, cache=cache)
rows = [mine.forward([token], cache=cache)[0] for token in kept]      # one token at a time
whole = model.forward([*prompt, *kept])[-len(kept):]
print(f"{len(kept)} tokens decoded by hand: largest difference of a logit {np.abs(rows - whole).max():.0e}, "
      f"logits reach {np.abs(whole).max():.0f}")
assert np.abs(rows - whole).max() < 1e-3

# %% [markdown]
# Prefill in pieces equals prefill in one go here too, up to rounding: a matrix product of another shape adds in another
# order. The largest difference between two logits:

# %%
long = np.random.default_rng(0).integers(100, model.config.vocab, 520)
at_once = model.forward(long[:64])
for sizes in ([32, 32], [1, 62, 1], [5, 17, 42]):
    cache, ends = model.new_cache(capacity=64), np.cumsum(sizes)
    pieces = [model.forward(long[end - size:end], cache=cache)
              for size, end in zip(sizes, ends, strict=True)]
    difference = np.abs(np.concatenate(pieces) - at_once).max()
    assert difference < 1e-3
    print(f"pieces of {sizes}: {difference:.0e} (logits reach {np.abs(at_once).max():.0f})")

# %% [markdown]
# ## What it costs: time
#
# First attention alone, one layer of SmolLM2's shape (9 query heads, 3 KV heads, D = 64). Without a cache $n$ queries look
# at $n$ keys, with one a single query does (`backend="numpy"` keeps to the form that you have seen; a faster one comes in
# lesson 10). On log-log axes a power $n^p$ is a line of slope $p$.

# %%
rng = np.random.default_rng(0)


def layer(queries, keys):
    q = rng.standard_normal((9, queries, 64), dtype=np.float32)
    k, v = rng.standard_normal((2, 3, keys, 64), dtype=np.float32)
    return lambda: ma.attention(q, k, v, causal=True, backend="numpy")


all_n, one_n = [64, 128, 256, 512, 1024], [64, 256, 1024, 4096, 8192, 16384]
all_s = [course.seconds(layer(n, n), 7) for n in all_n]
one_s = [course.seconds(layer(1, n), 25) for n in one_n]

# %% [markdown]
# Then a token of the whole model, as `generate` computes it: everything through all 30 layers, and the logits of the last
# token.

# %%
model_n, cached_s = [32, 64, 128, 256, 512], []
cache = model.new_cache(capacity=520)


def step():
    """One more token on top of what the cache holds."""
    held = cache.lengths[0]
    model.logits(model.hidden(long[held:held + 1], cache=cache)[0])


for n in model_n:
    model.hidden(long[cache.lengths[0]:n - 1], cache=cache)  # prefill up to here, not timed
    cached_s.append(course.seconds(step, 5))                 # five tokens, n to n + 4


def anew(n):
    return lambda: model.logits(model.hidden(long[:n])[0][-1:])


model_s = [course.seconds(anew(n), 3 if n < 256 else 2) for n in model_n]

# %%
def slope(n, s):
    """p of the power n^p that fits the last three points best."""
    return np.polyfit(np.log(n[-3:]), np.log(s[-3:]), 1)[0]


fig, axes = plt.subplots(1, 2, figsize=(9.2, 4), layout="constrained")
curves = [(axes[0], all_n, all_s, "recomputed"), (axes[0], one_n, one_s, "with a cache"),
          (axes[1], model_n, model_s, "recomputed"), (axes[1], model_n, cached_s, "with a cache")]
for ax, n, s, name in curves:
    marker = "o-" if name == "recomputed" else "s-"
    ax.loglog(n, 1000 * np.array(s), marker, label=f"{name}: slope {slope(n, s):.2f}")
    ax.set(xlabel="tokens in the context, n", ylabel="milliseconds a token")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=9)
for n, s, p in [(all_n, all_s, 2), (one_n, one_s, 1)]:                # dotted: exactly n^2 and n
    axes[0].loglog(n[-3:], 1000 * s[-3] * (np.array(n[-3:]) / n[-3]) ** p, "k:")
axes[0].set_title("attention of one layer")
axes[1].set_title("the whole model, 30 layers")
axes[1].set_xticks(model_n, model_n)
axes[1].set_xticks([], minor=True)
print(f"a token at n = 512 of the whole model: {model_s[-1]:.2f} s recomputed, "
      f"{cached_s[-1]:.3f} s with a cache, {model_s[-1] / cached_s[-1]:.0f} times as fast")

# %% [markdown]
# Slopes are fitted to the last three points of each curve, measured here with one thread; the dotted lines have slopes
# of exactly 2 and 1. Left: the recomputed curve follows $n^2$, the cached one $n$. Where $n$ is small a cached query
# costs mostly overhead, so its curve starts flat; both may rise more steeply than dotted where their arrays outgrow the
# processor's own fast memory. Right: about 1 against about 0. That is no contradiction. At these lengths most of a
# token's work is not attention but the products with the weights, which take the same time for each token that goes
# through: $n$ tokens without a cache, one with it. In floating-point operations a token, the logits left aside,
#
# $$
# \text{recomputed: } 2Pn + 4LHD\,n^2 \qquad\text{cached: } 2P + 4LHD\,n ,
# $$
#
# with $P$ weights in the layers, $L$ layers, $H$ heads of $D$ numbers (every query against every key; skipping what the
# mask hides halves $n^2$). Attention takes over where the two terms are equal:

# %%
c = model.config
parts = c.parameters()
P = sum(parts[name] for name in ("w_q", "w_k", "w_v", "w_o", "w_gate", "w_up", "w_down"))
equal = P / (2 * c.layers * c.heads * c.head_dim)
print(f"SmolLM2: P = {P:,} weights in the layers; both terms are equal at n = {equal:,.0f}")

# %% [markdown]
# ## What it costs: memory
#
# The price is memory: for every token, every layer and every KV head, one key and one value of $D$ numbers stay.
#
# $$
# \text{bytes a token} = 2 \cdot L \cdot G \cdot D \cdot \text{bytes of a number}
# $$

# %%
llama = ma.models.LlamaConfig.llama_3_1_8b()
assert llama.kv_bytes(1, "bfloat16") == 2 * 32 * 8 * 128 * 2 == 131_072
assert c.kv_bytes(1, np.float32) == 2 * 30 * 3 * 64 * 4 == 46_080
assert model.new_cache(capacity=1).nbytes == 46_080
for name, config, dtype in [("SmolLM2, float32", c, "float32"),
                            ("Llama 3.1 8B, bfloat16", llama, "bfloat16")]:
    one, whole = config.kv_bytes(1, dtype), config.kv_bytes(config.context, dtype) / 2**30
    print(f"{name:22} {one:>8,} bytes a token; {whole:6.2f} GiB at its {config.context:,} tokens")
assert llama.kv_bytes(128 * 1024, "bfloat16") == 16 * 2**30

weights_bytes = 2 * llama.n_parameters
fit = [(80 * 10**9 - weights_bytes) // llama.kv_bytes(n, "bfloat16") for n in (8_192, 131_072)]
assert fit == [59, 3]                               # users on a machine of 80 GB: exercise 2
print(f"The 8B model's weights take {weights_bytes / 2**30:.1f} GiB: its cache is as large "
      f"at {weights_bytes / llama.kv_bytes(1, 'bfloat16'):,.0f} tokens")

# %% [markdown]
# And that is one text. Ten users at once share the weights, but each has a cache. Two answers follow: fewer KV heads
# ([lesson 08](08_mqa_gqa.ipynb)), and not keeping everything.
#
# ## A cache that does not grow
#
# `ma.RollingCache` keeps the first tokens and a window of the latest ones, in memory that does not depend on the length
# of the text. Here a window of 4 and 1 first token, over the course's sentence; the queries, keys and values are drawn
# at random. Look at the last column: the bytes stay.

# %%
words = course.SENTENCE.split()
qs, ks, vs = np.random.default_rng(1).standard_normal((3, 1, 1, len(words), 4))
rolling, outs = ma.RollingCache(1, 1, window=4, head_dim=4, dtype=np.float64, first=1), []
for n, word in enumerate(words):
    new = np.s_[:, :, n:n + 1]
    k_all, v_all, q_pos, k_pos = rolling.append(ks[new], vs[new])
    options = {"causal": True, "mask": ma.masks.last(4) | ma.masks.first(1)}
    outs.append(ma.attention(qs[new], k_all, v_all, q_pos=q_pos, k_pos=k_pos, **options))
    seen, (_, inside) = np.sort(k_pos[k_pos >= 0]), rolling.rope_positions()
    places = np.sort(inside[inside >= 0])
    print(f"{word:8} sees {' '.join(words[s] for s in seen):24} at {seen}; "
          f"in the cache {places}; {rolling.nbytes} bytes")

np.testing.assert_allclose(np.concatenate(outs, axis=2), ma.attention(qs, ks, vs, **options))

# %% [markdown]
# The outputs equal attention over everything under the same mask, asserted in the last line. The second list of
# positions counts *inside the cache*, without the gap after the first token: StreamingLLM (Xiao et al. 2023) rotates by
# these, so that a model never meets a distance that is longer than its cache.

# %% [markdown]
# ## What it costs, in a table
#
# For one text: $n$ tokens are there, $L$ layers, $H$ query heads, $G$ KV heads of $D$ numbers, $P$ weights in the layers, a
# window of $w$ tokens behind the $f$ first ones.
#
# | | recomputed | with a cache | rolling cache |
# |---|---|---|---|
# | scores for the next token, a head | $n^2$ | $n$ | $f + w$ |
# | operations for the next token | $2Pn + 4LHD\,n^2$ | $2P + 4LHD\,n$ | $2P + 4LHD\,(f + w)$ |
# | scores for a text of $N$ tokens | about $N^3/3$ | about $N^2/2$ | $N (f + w)$ |
# | numbers kept | none | $2LGD\,n$ | $2LGD\,(f + w - 1)$ |
# | read from memory for the next token | weights | weights and cache | weights and cache |
# | the same output | yes | yes, under a causal mask | under the window's mask |
#
# ## Exercises
#
# Replace `return None` and run the cell. The check calls your function on arrays of its own, of several sizes; where the answer
# is a known mistake, it names the mistake.

# %% [markdown]
# **1 (easy).** Decode one step. The new token's rows are `q_new` and `k_new` (1, D) and `v_new` (1, Dv); the tokens before it
# left `K` (S, D) and `V` (S, Dv). Return the output row (1, Dv) and the grown arrays (S + 1, D) and (S + 1, Dv). Scores are
# divided by $\sqrt{D}$.
#
# <details><summary>Hint</summary>
#
# The new token sees itself. What has to come first, to append or to attend?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `np.concatenate([K, k_new])` makes a new array with the new row last. No mask is needed: no later key exists.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def decode_step(q_new, k_new, v_new, K, V):
#     K, V = np.concatenate([K, k_new]), np.concatenate([V, v_new])
#     return ma.softmax(q_new @ K.T / np.sqrt(K.shape[1])) @ V, K, V
# ```
#
# The arrays that came in stay as they were: `concatenate` copies.
#
# </details>

# %%
def decode_step(q_new, k_new, v_new, K, V):
    """(1, D), (1, D), (1, Dv), (S, D), (S, Dv) -> (out (1, Dv), K (S + 1, D), V (S + 1, Dv))"""
    return None


check.decode_step(decode_step)

# %% [markdown]
# **2 (easy).** A machine has `memory` bytes. A model of `parameters` weights, two bytes each, is stored once; each user has a
# cache of `length` tokens in `layers` layers with `kv_heads` KV heads of `head_dim` numbers, two bytes each. How many users
# fit? Return a whole number, 0 where not even the weights fit.
#
# <details><summary>Hint</summary>
#
# Subtract what is stored once, then divide by what each user takes.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# A token leaves a key *and* a value in each KV head of each layer. `//` gives whole users.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def users_that_fit(memory, parameters, layers, kv_heads, head_dim, length):
#     user = 2 * layers * kv_heads * head_dim * length * 2
#     return max(0, (memory - 2 * parameters) // user)
# ```
#
# Llama 3.1 8B on 80 GB: 59 users with 8,192 tokens each, 3 with 131,072.
#
# </details>

# %%
def users_that_fit(memory, parameters, layers, kv_heads, head_dim, length):
    """six integers -> an int"""
    return None


check.users_that_fit(users_that_fit)

# %% [markdown]
# **3 (medium).** The same step with RoPE. `q_new` and `k_new` come *unrotated*; the rows of `K` were rotated to their
# positions 0 to S - 1 when they came, and stay so. Rotate what has to be rotated with
# `ma.rope(x, positions, layout="interleaved")`, where x is (N, D) and positions are (N,), and return `out`, `K` and `V` as in
# exercise 1.
#
# <details><summary>Hint</summary>
#
# How many tokens are there before the new one? The first of them stands at 0.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `np.arange(len(q_new))` is `[0]` in every step, which is the stale position. Query and key of one token stand at one place;
# the value is not rotated.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def decode_rotated(q_new, k_new, v_new, K, V):
#     here = np.array([len(K)])
#     q_new, k_new = (ma.rope(x, here, layout="interleaved") for x in (q_new, k_new))
#     K, V = np.concatenate([K, k_new]), np.concatenate([V, v_new])
#     return ma.softmax(q_new @ K.T / np.sqrt(K.shape[1])) @ V, K, V
# ```
#
# A key's position never changes, so it is rotated once and stored that way.
#
# </details>

# %%
def decode_rotated(q_new, k_new, v_new, K, V):
    """(1, D), (1, D), (1, Dv), rotated (S, D), (S, Dv) -> (out (1, Dv), K (S + 1, D), V (S + 1, Dv))"""
    return None


check.decode_rotated(decode_rotated)

# %% [markdown]
# **4 (medium).** Write `append` of a cache for B rows of unequal length and one head. It takes `k_new` and `v_new` (B, N, D)
# and `lengths` (B,), how many of the N tokens of each row are real (the first ones). It stores the real ones behind what the
# row holds, and returns k and v (B, S, D), where S is what the longest row holds by then, and `k_pos` (B, S): 0, 1, 2, ... and
# -1 in slots that hold nothing. The caller may write into its arrays afterwards.
#
# <details><summary>Hint</summary>
#
# Row b goes from slot `self.lengths[b]` on. A loop over the rows is fine.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `self.k[b, start:stop] = k_new[b, :lengths[b]]` copies the numbers. Count up `self.lengths` after the loop; a slot of row b
# holds something where its number is below `self.lengths[b]`.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# class MyCache:
#     def __init__(self, batch, capacity, head_dim):
#         self.k = np.zeros((batch, capacity, head_dim))
#         self.v = np.zeros((batch, capacity, head_dim))
#         self.lengths = np.zeros(batch, dtype=int)
#
#     def append(self, k_new, v_new, lengths):
#         after = self.lengths + lengths
#         for b, (start, stop) in enumerate(zip(self.lengths, after)):
#             self.k[b, start:stop] = k_new[b, :lengths[b]]
#             self.v[b, start:stop] = v_new[b, :lengths[b]]
#         self.lengths = after
#         slots = np.arange(after.max())
#         k_pos = np.where(slots < after[:, None], slots, -1)
#         return self.k[:, :len(slots)], self.v[:, :len(slots)], k_pos
# ```
#
# To keep `k_new` itself in a list is shorter, and wrong as soon as the caller uses its array again.
#
# </details>

# %%
class MyCache:
    def __init__(self, batch, capacity, head_dim):
        self.k = np.zeros((batch, capacity, head_dim))
        self.v = np.zeros((batch, capacity, head_dim))
        self.lengths = np.zeros(batch, dtype=int)

    def append(self, k_new, v_new, lengths):
        """(B, N, D), (B, N, D), (B,) -> (k (B, S, D), v (B, S, D), k_pos (B, S))"""
        return None


check.kv_cache(MyCache)

# %% [markdown]
# **5 (hard).** A window that rolls, for one row and one head. `k` (S, D) are the keys that are held, in the order of the text,
# and `k_pos` (S,) their positions; the newest one is last. `k_new` (N, D) are the tokens that follow it. Keep the tokens at
# positions below `first` and the `window` latest ones, the new ones counted; return keys and positions, in the same order.
# N may be larger than the window.
#
# <details><summary>Hint</summary>
#
# Append everything first, with positions. Then say, for each position, whether it stays.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The new ones stand at `k_pos[-1] + 1` and on. With the newest at p, the `window` latest are p - window + 1 to p. The two
# conditions are joined by *or*.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def rolling_cache(k, k_pos, k_new, first, window):
#     new = k_pos[-1] + 1 + np.arange(len(k_new))
#     k, k_pos = np.concatenate([k, k_new]), np.concatenate([k_pos, new])
#     stays = (k_pos < first) | (k_pos > k_pos[-1] - window)
#     return k[stays], k_pos[stays]
# ```
#
# One condition on positions serves every case: nothing to evict, one token, many at once. `ma.RollingCache` keeps
# `window - 1` instead, because the next query's own token is the last of its window.
#
# </details>

# %%
def rolling_cache(k, k_pos, k_new, first, window):
    """(S, D), (S,), (N, D), two numbers -> (k, k_pos) of what is held afterwards"""
    return None


check.rolling_cache(rolling_cache)

# %% [markdown]
# ## Three questions
#
# **Why is there a KV cache and no Q cache?**
#
# <details><summary>Answer</summary>
#
# A query is used once, in the step of its own token. Keys and values are looked at by every later token.
#
# </details>
#
# **You change one word in the middle of the prompt. Which part of the cache is still good?**
#
# <details><summary>Answer</summary>
#
# Everything before that word. From the word on, keys and values of all layers may differ: in layer 1 only its own, in later
# layers those of all tokens that looked at it.
#
# </details>
#
# **A cached model and an uncached one agree on the first new token and differ from the second on. What do you check first?**
#
# <details><summary>Answer</summary>
#
# The positions of the decoding step: where the mask thinks the one query stands, and by which position it is rotated. The
# first new token comes out of the prefill, where both mistakes are invisible.
#
# </details>
#
# ## Where to go on
#
# - The file: [minattn/core/cache.py](../minattn/core/cache.py); the model's use of it:
#   [minattn/models/llama.py](../minattn/models/llama.py).
# - Papers: Shazeer 2019, [arXiv:1911.02150](https://arxiv.org/abs/1911.02150), section 2.4, on decoding step by step; Xiao
#   et al. 2023, [arXiv:2309.17453](https://arxiv.org/abs/2309.17453), section 3.2, on the rolling cache.
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [08 Fewer KV heads](08_mqa_gqa.ipynb).
