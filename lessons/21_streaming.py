# %% [markdown]
# # 21 Streaming
#
# 35 minutes · difficulty: medium · read before: [03 Masks](03_masks.ipynb), [06 Order](06_order.ipynb),
# [07 The KV cache](07_kv_cache.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - say why a model fails when its cache lets the first token go, and see the reason in a map,
# - keep a window and a few first tokens, with positions counted inside the cache,
# - recognise keys that were rotated too early, and first tokens that are too far away,
# - measure perplexity along a text, and say what a stream does not remember.

# %% [markdown]
# ## The question
#
# A chat that goes on for days, a log that never ends. Lesson 07 kept every key and value, so the memory grows with each
# token; and a model is trained on texts of some length, SmolLM2 on 8,192 tokens, beyond which it has never seen a position.
# Can a model read on for ever with a cache of fixed size?

# %%
import course
import matplotlib.pyplot as plt
import numpy as np

import minattn as ma
from minattn.practice import check

np.set_printoptions(precision=2, suppress=True)

# %% [markdown]
# ## Predict before you run
#
# The plain answer is a window: keep the latest 64 keys, let the others go. A language model mostly looks at what is near, so
# what does it lose? SmolLM2 reads a text with such a window. When does its loss rise: (a) slowly, from token 64 on, (b) at
# once, with the first key that is let go, (c) only past token 8,192?
#
# <details><summary>Answer</summary>
#
# (b), and by a lot: more than one nat a token, as you will see below. The first key that is let go is that of the first token.
#
# </details>
#
# ## Where heads rest
#
# A softmax hands out a weight of 1, whether or not a head finds anything to look at. Trained models have found a place for the
# rest: the first token, which every later one can see. (Lessons 03 and 04 came across it.) Xiao et al. call it an **attention
# sink**.
#
# **What to look for:** the first column, in the nine heads of layer 24, on the course's sentence.

# %%
tokens, weights = course.maps("cat")                                  # (layers, H, N, N)
print("from the model itself" if course.model() else "from the stored maps")
ma.plot.heads(weights[24], [t.strip() for t in tokens], mask=ma.masks.causal(), titles=[f"24.{h}" for h in range(9)]);

# %%
rest = weights[:, :, 1:, 0]                                           # of every row but the first: its weight on token 0
print("mean weight on the first token, layer by layer\n", rest.mean(axis=(1, 2)))
print(f"mean over all {rest.shape[0] * rest.shape[1]} heads {rest.mean():.2f}; "
      f"heads that put more than half there {(rest.mean(-1) > 0.5).mean():.0%}")
assert rest.mean() > 0.35

# %% [markdown]
# And if that key is gone? The scores of the others are what they were, and the softmax makes them sum to 1 again. By hand, for
# the last row of one head: every weight is multiplied by the same number.

# %%
row = weights[24, 0, -1]
left = row[1:] / row[1:].sum()
print("with the first token   ", row, "\nwithout it                  ", left)
print(f"each of the others counts {left[-1] / row[-1]:.1f} times as much")
np.testing.assert_allclose(left, row[1:] / (1 - row[0]), rtol=1e-2)

# %% [markdown]
# A head that had nothing to say now shouts, and with it all such heads of all layers, from one token to the next.
#
# ## A cache by hand
#
# So keep $f$ first tokens for good, and behind them a window of the latest $W$. When a token comes and there are more than
# $f + W$, row $f$ of the cache leaves: the oldest of the window.
#
# One thing is left to decide: where do these keys stand? There is a gap behind the first tokens, and it grows. A model that
# has only seen distances below 8,192 should not meet a larger one, so positions are counted **inside the cache**: 0, 1, 2,
# ... without the gap. A key then changes its place whenever one before it leaves, so keys are kept *unrotated*, and all are
# rotated (lesson 06) when they are read.
#
# The course's sentence three times, $f = 1$, $W = 3$.

# %%
q, k, v = (np.tile(course.X, (3, 1)) @ w for w in (course.W_Q, course.W_K, course.W_V))         # (N, D), N = 12
first, window, turn = 1, 3, {"layout": "interleaved"}
K, V, held, out = np.empty((0, 4)), np.empty((0, 4)), [], np.empty((12, 4))
for n in range(12):
    K, V, held = np.concatenate([K, k[n:n + 1]]), np.concatenate([V, v[n:n + 1]]), [*held, n]
    if len(K) > first + window:
        K, V, held = np.delete(K, first, axis=0), np.delete(V, first, axis=0), held[:first] + held[first + 1:]
    places = np.arange(len(K))
    query, keys = ma.rope(q[n:n + 1], places[-1:], **turn), ma.rope(K, places, **turn)
    out[n] = ma.softmax(query @ keys.T / np.sqrt(4)) @ V
    print(f"token {n:2}, {course.TOKENS[n % 4]:>4}: holds tokens {held!s:14} at places {places}")

# %% [markdown]
# The last query once more, in a loop over what the cache holds, and then the library, two ways: `ma.RollingCache` goes token
# by token and says with `rope_positions` where its keys stand; `ma.streaming_attention` takes a whole text at once.

# %%
total, mixed = 0.0, np.zeros(4)
for place in range(len(K)):
    score = query[0] @ ma.rope(K[place:place + 1], np.array([place]), **turn)[0] / np.sqrt(4)
    total, mixed = total + np.exp(score), mixed + np.exp(score) * V[place]
np.testing.assert_allclose(mixed / total, out[11])

cache = ma.RollingCache(1, 1, window=window, head_dim=4, dtype=np.float64, first=first)
for n in range(12):
    k_all, v_all, q_pos, k_pos = cache.append(k[None, None, n:n + 1], v[None, None, n:n + 1])
    at, places = cache.rope_positions()
    turned = ma.rope(q[None, None, n:n + 1], at, **turn), ma.rope(k_all, places, **turn)
    got = ma.attention(*turned, v_all, causal=True, q_pos=q_pos, k_pos=k_pos)
    np.testing.assert_allclose(got[0, 0, 0], out[n])
n = np.arange(12)
at_once = ma.streaming_attention(ma.rope(q, n, **turn), ma.rope(k, n, **turn), v, window=window, first=first, rope=turn)
np.testing.assert_allclose(at_once, out)

# %% [markdown]
# ## Built broken: keys rotated once
#
# Most caches keep rotated keys, since a key's position never changes. Here it does. Rotate each key when it comes, to the
# place that it has then, and leave it so: once the cache is full every new token comes to the last place, 3. **Predict:** which
# distances does the last query see?
#
# <details><summary>Answer</summary>
#
# To the first token 3, which is right. To all others 0: each of them came to place 3, and the query stands at 3.
#
# </details>

# %%
came_to = np.minimum(held, first + window - 1)                        # where each of the held keys stood when it came
once = ma.rope(K, came_to, **turn)
right, wrong = (ma.softmax(query @ keys.T / np.sqrt(4))[0] for keys in (ma.rope(K, np.arange(4), **turn), once))
print("distances  right", 3 - np.arange(4), "  broken", 3 - came_to)
print("weights    right", right, "  broken", wrong)
assert (3 - came_to).tolist() == [3, 0, 0, 0]

# %% [markdown]
# No order is left within the window. It shows from the first eviction on and not before, so a test on a short text passes.
#
# ## Built broken: positions in the text
#
# The other way to leave keys alone is to count positions in the text. Within the window that is right, since only distances
# count. But the first tokens fall behind: at token 20,000 they are 20,000 away. Both mistakes on the real model:
#
# - 160 tokens of text, 64 keys for each query: dense; a plain window; a window of 60 and 4 first tokens; the same with keys
#   rotated once;
# - 64 tokens of a paragraph whose first four stay at positions 0 to 3 while all others are moved up by a gap, as if so many
#   tokens had come and gone in between.

# %%
small = course.real("streaming")
print("from the model itself" if course.model() else "from the stored maps")
print("mean loss of tokens   1 to 64   65 to 159")
for name, losses in zip(small.names, small.losses, strict=True):
    print(f"{name:18} {losses[:64].mean():10.2f} {losses[64:].mean():11.2f}")
print("\n   gap   loss of the 60 tokens behind it   their weight on the first four")
for gap, (loss, weight) in zip(small.gaps, small.behind, strict=True):
    print(f"{gap:6,} {loss:33.2f} {weight:32.2f}")
dense, plain, kept, once = (losses[64:].mean() for losses in small.losses)
assert plain - dense > 1 > 3 * (kept - dense)
assert once > kept + 1
assert small.behind[3, 0] > small.behind[2, 0] + 1.5                  # gaps of 16,000 and of 8,000

# %% [markdown]
# A gap costs something at once: the first four tokens no longer stand just before the fifth. Up to the trained length it makes
# little difference how large it is. Beyond, the scores are those of distances that the model has never met: the weight on the
# first tokens goes up and down as if by chance, and the loss is about twice that without a gap. With positions counted inside
# the cache every gap is 0.
#
# **What to look for** in the picture: the loss beyond that of dense attention, added up from the start. All lines lie at 0
# until token 64, whose query is the first that has lost a key. Then a slope is a cost in nats a token.

# %%
fig, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
styles = {"window": ("#c44e52", "-"), "first tokens": ("#26828e", "-"), "keys rotated once": ("#8a6bb1", "--")}
for name, losses in zip(small.names[1:], small.losses[1:], strict=True):
    colour, line = styles[name]
    ax.plot(np.arange(1, 160), np.cumsum(losses - small.losses[0]), line, color=colour, label=name)
ax.axvline(64, color="grey", linewidth=1, linestyle=":")
ax.annotate("the first key is let go", (64, ax.get_ylim()[1] * 0.92), (60, 0), textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": "grey"}, va="center", fontsize=9)
ax.set(xlabel="position of the predicted token", ylabel="nats beyond dense, added up", xlim=(0, 160))
ax.legend(loc="center left")
plt.show()
np.testing.assert_allclose(small.losses[:, :64], small.losses[:1, :64].repeat(4, axis=0), atol=0.02)

# %% [markdown]
# ## For ever
#
# Now a text of 16,384 tokens, twice as long as what SmolLM2 was trained on: sections of this course in random order, which are
# newer than the model. Dense attention keeps all keys; the windows keep 256. That takes minutes, so the lesson reads the losses
# that were measured once (`python recipes.py long_text` in the folder lessons/ measures them again).
#
# Perplexity is exp of the *mean loss* over a stretch of text, here of 1,024 tokens. **What to look for:** where each curve
# leaves the others, and whether it comes back.

# %%
text = course.real("long_text")
curves = dict(zip(text.names, text.losses, strict=True))
print(f"{text.ids.size:,} tokens, three ways, took {float(text.seconds) / 60:.0f} minutes on one core of a busy machine")
fig, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
for name, colour in (("dense", "#3b5b92"), ("window", "#c44e52"), ("first tokens", "#26828e")):
    starts, perplexity = ma.perplexity_by_position(curves[name], 1024)
    ax.semilogy(starts + 512, perplexity, "o-", color=colour, label=name, markersize=4)
ax.axvline(8192, color="grey", linewidth=1, linestyle=":", label="trained length")
ax.set(xlabel="position in the text", ylabel="perplexity", xlim=(0, 16_384), xticks=range(0, 16_385, 2048))
ax.set_yticks([10, 20, 50, 100, 200, 500], [10, 20, 50, 100, 200, 500])
ax.legend(ncols=2)
plt.show()

# %%
ends, found = [256, 8192, 12_288, 16_384], {}
print("perplexity of tokens  256 to 8,191   8,192 to 12,287  12,288 to 16,383")
for name, losses in curves.items():
    parts = np.split(losses.astype(float), np.array(ends) - 1)[1:4]   # loss n is that of token n + 1
    found[name] = [np.exp(part.mean()) for part in parts]
for name, values in found.items():
    print(f"{name:17}" + "".join(f"{value:18.1f}" for value in values))
assert found["dense"][2] > 3 * found["dense"][0]                      # fails past the trained length
assert all(plain > 1.5 * kept for plain, kept in zip(found["window"], found["first tokens"], strict=True))

# %% [markdown]
# Dense attention is best while positions are ones that it was trained on. Some two to three thousand tokens past the trained
# length it begins to fail, and it does not come back. The plain window is bad from its first eviction to the end. The window
# with four first tokens pays for having only 256 keys, and pays no more at the end than at the beginning: it reads on for
# ever. (The paper does this for four million tokens with other models.)
#
# ## What a stream does not remember
#
# Reading on is not remembering. What has left the cache changes nothing any more. Put other keys and values in place of all
# tokens that have been let go, and the last output is the same, to the bit:

# %%
other_k, other_v = k.copy(), v.copy()
gone = [n for n in range(12) if n not in held]
other_k[gone], other_v[gone] = 100.0, np.nan
rotated = ma.rope(q, n, **turn), ma.rope(other_k, n, **turn)
options = {"window": window, "first": first, "rope": turn}
np.testing.assert_array_equal(ma.streaming_attention(*rotated, other_v, **options)[11], at_once[11])
print("tokens", gone, "are gone: the last query reads the same whatever they were")
smol = ma.models.LlamaConfig.smollm2()
print(f"one layer sees the latest 252 tokens; {smol.layers} layers reach over {1 + smol.layers * 251:,} at the most")

# %% [markdown]
# In a model of many layers a token can still act through those that saw it, a window further back with each layer ([lesson
# 13](13_sparse_attention.ipynb)). But nothing was trained to pass it on. A model that is to *find* something far back needs a
# memory of another kind, as in [lesson 22](22_segments_and_memories.ipynb).
#
# ## What it costs
#
# Text of $n$ tokens so far; $W$ keys of window, $f$ first tokens, $b$ bytes a token. SmolLM2: $b$ is 46,080 in float32.

# %%
b = smol.kv_bytes(1, "float32")
print(f"bytes of the cache: 256 keys {256 * b / 1e6:.1f} MB; dense at 8,192 tokens {8192 * b / 1e6:.0f} MB, "
      f"at 16,384 {16_384 * b / 1e6:.0f} MB, at a million {1e6 * b / 1e9:.0f} GB")
assert b == 46_080
layer_cache = ma.RollingCache(1, smol.kv_heads, window=252, head_dim=smol.head_dim, first=4)
assert smol.layers * layer_cache.nbytes == 255 * b                    # the newest token needs no slot

# %% [markdown]
# | | dense | window | window, computed anew for each token | window and first tokens |
# |---|---|---|---|---|
# | keys a query sees | $n$ | $W$ | $W$ | $f + W$ |
# | bytes | $n b$ | $W b$ | $W b$ | $(f + W) b$ |
# | scores for the next token, a head and layer | $n$ | $W$ | $W^2 / 2$ | $f + W$ |
# | largest distance | $n$ | $W$ | $W$ | $f + W$ |
# | keys rotated at a step | 1 | 1 | $W$ | $f + W$ |
# | past the first eviction | (none) | fails | holds | holds |
# | past the trained length | fails | no worse than before | holds | holds |
#
# The third column is the other way to mend a window: read the latest $W$ tokens as a text of its own for every new token, so
# that the oldest of them becomes a first token. It works, and costs $W$ tokens of work for each. The paper measured up to 22.2
# times the speed for its own way (the paper's).
#
# ## Exercises
#
# Replace `return None` and run the cell. The check calls your function on inputs of its own; where the answer is a known
# mistake, it names the mistake.

# %% [markdown]
# **1 (easy).** Which positions does the query at position `t` see, if the first `first` tokens stay and the `window` latest
# ones, its own among them? Return them in ascending order, each once.
#
# <details><summary>Hint</summary>
#
# There are positions 0 to t. A rule says of each whether it is seen.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# With window = 3 the query at 9 sees 7, 8 and 9 of the window: positions above t - window.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def seen_keys(t, first, window):
#     pos = np.arange(t + 1)
#     return pos[(pos < first) | (pos > t - window)]
# ```
#
# One rule with *or*: where the window reaches the first tokens, nothing is counted twice.
#
# </details>

# %%
def seen_keys(t, first, window):
    """int, int, int -> positions (S,)"""
    return None


check.seen_keys(seen_keys)

# %% [markdown]
# **2 (easy).** The perplexity of each stretch of `width` losses (N,); the last stretch may be shorter.
#
# <details><summary>Hint</summary>
#
# A loss is $-\log p$ of one token, in nats.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# First the mean, then exp. `losses[start:start + width]` is shorter at the end by itself.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def stretch_perplexity(losses, width):
#     starts = range(0, len(losses), width)
#     return np.array([np.exp(losses[start:start + width].mean()) for start in starts])
# ```
#
# The mean of the exponentials would be another thing: one token of probability 1e-9 would drown all others.
#
# </details>

# %%
def stretch_perplexity(losses, width):
    """(N,), int -> perplexity (stretches,)"""
    return None


check.stretch_perplexity(stretch_perplexity)

# %% [markdown]
# **3 (medium).** A rolling cache holds keys in slots, in no particular order: `k_pos` (S,) says at which position of the text
# each stands, -1 for an empty slot; token `t`, which has just come, is among them. Return the query's place inside the cache,
# and the places of the keys (S,), -1 for empty slots. Places are counted without the gap.
#
# <details><summary>Hint</summary>
#
# First tokens keep their positions. All others are moved by the same number. How many tokens have been let go by then?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# t + 1 tokens have come, and `first + window` can be held. While the cache fills up nothing has left.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def places_inside(t, k_pos, first, window):
#     gone = max(t + 1 - first - window, 0)
#     return t - gone, np.where(k_pos < first, k_pos, k_pos - gone)
# ```
#
# An empty slot has k_pos -1, which is below `first`, and so stays -1.
#
# </details>

# %%
def places_inside(t, k_pos, first, window):
    """int, (S,), int, int -> q_place, k_places (S,)"""
    return None


check.places_inside(places_inside)

# %% [markdown]
# **4 (hard).** One step of a stream. `q_new`, `k_new` (1, D) and `v_new` (1, Dv) come *unrotated*; `K` (S, D) and `V` (S, Dv)
# are what the cache holds in the order of the text, K unrotated. Add the new token; if there are now more than
# `first + window`, let one go. Rotate with `ma.rope(x, places, layout="interleaved")`. Return the output (1, Dv), and K and V
# as the next step will want them.
#
# <details><summary>Hint</summary>
#
# Which row leaves? And after it has left, where does each key stand?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `np.delete(K, first, axis=0)`. The places are 0 to len(K) - 1, and the query has the last one.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def stream_step(q_new, k_new, v_new, K, V, first, window):
#     K, V = np.concatenate([K, k_new]), np.concatenate([V, v_new])
#     if len(K) > first + window:
#         K, V = np.delete(K, first, axis=0), np.delete(V, first, axis=0)
#     places = np.arange(len(K))
#     keys = ma.rope(K, places, layout="interleaved")
#     query = ma.rope(q_new, places[-1:], layout="interleaved")
#     return ma.softmax(query @ keys.T / np.sqrt(K.shape[1])) @ V, K, V
# ```
#
# The rotated keys are used and thrown away.
#
# </details>

# %%
def stream_step(q_new, k_new, v_new, K, V, first, window):
    """(1, D), (1, D), (1, Dv), (S, D), (S, Dv), int, int -> out (1, Dv), K (S, D), V (S, Dv)"""
    return None


check.stream_step(stream_step)

# %% [markdown]
# ## Three questions
#
# **Could one keep four other tokens than the first?**
#
# <details><summary>Answer</summary>
#
# Not in a model that was trained as usual: the first token is the one that every later token could see, so that is where heads
# learned to rest. Which words stand there matters little.
#
# </details>
#
# **A window of 64 keys works on a text of 60 tokens. What has been tested?**
#
# <details><summary>Answer</summary>
#
# Nothing that belongs to a window. Until the first eviction all of these are dense attention, also the broken ones.
#
# </details>
#
# **Why are values not rotated, and why may they stay as they are when keys move up?**
#
# <details><summary>Answer</summary>
#
# A position acts through the product of query and key alone. A value is what is carried away, and is the same from
# everywhere.
#
# </details>
#
# ## Where to go on
#
# - The files: [minattn/memory/streaming.py](../minattn/memory/streaming.py), a whole text at once;
#   [minattn/core/cache.py](../minattn/core/cache.py), the rolling cache;
#   [minattn/models/llama_cache.py](../minattn/models/llama_cache.py), a model's;
#   [minattn/analysis/streaming.py](../minattn/analysis/streaming.py), the measurement.
# - Paper: Xiao et al. 2023, [arXiv:2309.17453](https://arxiv.org/abs/2309.17453), sections 3 and 4.
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [22 Segments and memories](22_segments_and_memories.ipynb).
