# %% [markdown]
# # 05 Cross-attention
#
# 35 minutes · difficulty: easy · read before: [01 Queries, keys, values](01_queries_keys_values.ipynb),
# [03 Masks](03_masks.ipynb), [04 Many heads](04_many_heads.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - let one sequence attend to another, and say which sizes may differ and which must agree,
# - label the map of two sequences so that it tells the truth,
# - follow a gradient from the reading sequence into the sequence that it reads,
# - cut a language model's attention into a self-attention part and a cross-attention part, and join them exactly.

# %% [markdown]
# ## The question
#
# A translator has read "die Katze setzte sich hin" and writes "the cat sat down". For each English word it has to look at
# German ones. So far queries, keys and values all came from the same tokens. What changes when the tokens that ask and the
# tokens that are asked are two different sequences, of different lengths? (The first transformer, of 2017, was a translator
# of this kind: an encoder read the source, and every decoder layer attended to it.)
#
# The English words have vectors X, (N, E) = (4, 4); the German ones CONTEXT, (S, E) = (5, 4).

# %%
import matplotlib.pyplot as plt
import numpy as np

import course
import minattn as ma
from course import CONTEXT, CONTEXT_TOKENS, TOKENS, W_K, W_O, W_Q, W_V, X
from minattn.practice import check

np.set_printoptions(precision=2, suppress=True)
print("asking  ", X.shape, TOKENS)
print("asked   ", CONTEXT.shape, CONTEXT_TOKENS)

# %% [markdown]
# ## Predict before you run
#
# Queries come from X, keys and values from CONTEXT.
#
# 1. What is the shape of the weights, and what that of the output?
# 2. Which sums are 1: those of the rows, or those of the columns? How many of them are there?
#
# <details><summary>Answer</summary>
#
# 1. Weights (N, S) = (4, 5): one row for each English word, one column for each German one. The output is (4, 4): one row
#    for each word that *asked*. The German sequence has no outputs here.
# 2. The rows, 4 of them: each query spreads a weight of 1 over the five keys. A column may sum to anything; a German word
#    that nobody asks for has a column near 0.
#
# </details>

# %% [markdown]
# ## One query, in a loop
#
# "cat" asks. Its query is a product of its own vector; each key and each value is a product of a German one.

# %%
cat = TOKENS.index("cat")
query = X[cat] @ W_Q                                                  # (D,) from English
scores = []
for token, y in zip(CONTEXT_TOKENS, CONTEXT, strict=True):
    key = y @ W_K                                                     # (D,) from German
    scores.append(query @ key / np.sqrt(4))
    print(f"cat . {token:7} score {scores[-1]:6.2f}")
weights = np.exp(scores) / np.exp(scores).sum()
looped = sum(weight * (y @ W_V) for weight, y in zip(weights, CONTEXT, strict=True))
print("weights", weights, " output", looped)

# %% [markdown]
# ## All queries at once
#
# The only difference from self-attention: the second input `y` in two of the three projections.

# %%
q, k, v = X @ W_Q, CONTEXT @ W_K, CONTEXT @ W_V                       # (N, D), (S, D), (S, Dv)
weights = ma.softmax(q @ k.T / np.sqrt(4))                            # (N, S)
out = weights @ v                                                     # (N, Dv)
np.testing.assert_allclose(out[cat], looped)

q, k, v = ma.project_qkv(X, W_Q, W_K, W_V, context=CONTEXT)           # the library's words for it
np.testing.assert_allclose(ma.attention(q, k, v), out)

layer = ma.MultiHeadAttention(W_Q, W_K, W_V, W_O, heads=1)            # and as a layer
np.testing.assert_allclose(layer(X, context=CONTEXT), out @ W_O)

# %% [markdown]
# Look for the brightest cell of each row. Every English word finds its German one; "sat", which German says in two
# words, "setzte sich", gives most of its weight to those two. (Nobody trained these numbers: they were chosen so.)

# %%
ma.plot.heatmap(weights, TOKENS, key_tokens=CONTEXT_TOKENS);

# %% [markdown]
# **Self-attention is the special case** in which the context is the sequence itself:

# %%
with_itself, alone = ma.project_qkv(X, W_Q, W_K, W_V, context=X), ma.project_qkv(X, W_Q, W_K, W_V)
for one, other in zip(with_itself, alone, strict=True):
    np.testing.assert_array_equal(one, other)
np.testing.assert_array_equal(layer(X, context=X), layer(X))

# %% [markdown]
# ## What may differ, and what must agree
#
# Three pairs of sizes may differ: N and S, the two lengths; E of x and E of the context; D and Dv. Others must agree:
#
# | must agree | because |
# |---|---|
# | S of keys and values | each key has one value |
# | D of queries and keys | a score is their product |
# | rows of W_Q and E of x; rows of W_K, W_V and E of the context | a projection is a product |
#
# So sequences of different widths can meet, words and pictures for example, since each side has its own projection. Here
# the context has three numbers a token.

# %%
rng = np.random.default_rng(5)
narrow = rng.standard_normal((6, 3))                                  # S = 6, E = 3
w_k, w_v = rng.standard_normal((2, 3, 4))                             # (3, D), (3, Dv)
other = ma.MultiHeadAttention(W_Q, w_k, w_v, W_O, heads=2)
print("x", X.shape, " context", narrow.shape, " output", other(X, context=narrow).shape)

attempts = {
    "a value is missing": lambda: ma.attention(q, k, v[:-1]),
    "keys are narrower than queries": lambda: ma.attention(q, k[:, :3], v),
    "the context has another width than W_K": lambda: layer(X, context=narrow),
}
for what, attempt in attempts.items():
    try:
        attempt()
    except ma.MinattnError as error:
        print(f"\n{what}:\n  {error}")

# %% [markdown]
# ## Built broken: the causal mask
#
# Copying a self-attention layer copies its `causal=True`. In cross-attention there is nothing to hide: the whole source was
# there before the first word was written. The code runs all the same, because the library aligns the last query with the
# last key; "the" then stands at key 1. Look at what has become hatched.

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
broken = ma.attention_weights(q, k, causal=True)
ma.plot.heatmap(weights, TOKENS, key_tokens=CONTEXT_TOKENS, title="right: no mask",
                colorbar=False, ax=axes[0])
ma.plot.heatmap(broken, TOKENS, key_tokens=CONTEXT_TOKENS, title="broken: causal",
                mask=ma.masks.causal(), ax=axes[1])
for token, before, after in zip(TOKENS, weights, broken, strict=True):
    print(f"{token:>5}: weight on keys that the mask hides {before[after == 0].sum():.2f}")

# %% [markdown]
# The harm is small here, because both languages use the same order, and that is how such a mistake survives. What is lost
# is the end of the source for the first words, and in German the end often holds the verb. One mask does have its place
# here: `ma.masks.padding(lengths)`, for a batch of contexts of unequal lengths (exercise 4).
#
# ## Built broken: the wrong labels
#
# A map of two sequences has two sets of labels. Rows are queries, columns are keys. A well-known tutorial drew its
# decoder's map with the source's tokens on the axis of the target (harvardnlp/annotated-transformer, issue 104). With
# unequal lengths the mistake can be found by counting, and `plot.heatmap` counts:

# %%
mistakes = {
    "source tokens on the rows": (CONTEXT_TOKENS, CONTEXT_TOKENS),
    "target tokens on the columns": (TOKENS, TOKENS),
}
for what, (rows, columns) in mistakes.items():
    try:
        ma.plot.heatmap(weights, rows, key_tokens=columns)
    except ma.MinattnError as error:
        print(f"{what}:\n  {error}\n")
print("row sums", weights.sum(axis=1), " of the map turned on its side", weights.T.sum(axis=1))

# %% [markdown]
# With equal lengths nothing can be counted, and only the sums are left to tell: a row of a map sums to 1, and a column
# need not. Check that first whenever a map comes out of code that is not yours.
#
# ## The order of the keys does not matter
#
# Shuffle the German words, each key with its value. The columns of the map are shuffled, and the output is the same to the
# last digits: a weighted sum has no order.

# %%
order = np.array([3, 0, 4, 2, 1])
shuffled = ma.attention(*ma.project_qkv(X, W_Q, W_K, W_V, context=CONTEXT[order]))
print([CONTEXT_TOKENS[s] for s in order])
print(f"largest change of the output: {np.abs(shuffled - out).max():.0e}")
np.testing.assert_allclose(shuffled, out)
np.testing.assert_allclose(ma.attention(q[::-1], k, v), out[::-1])    # queries turned, rows turned

# %% [markdown]
# So this translator cannot tell "die Katze setzte sich" from "sich setzte Katze die". Word order has to be put in by other
# means, and that is lesson 06.
#
# ## Backward: the gradient goes into both sequences
#
# Queries carry the gradient to x; keys and values carry it to the context. That is how the reader's mistakes train the
# encoder. Compare the library's gradient with slopes: nudge each number of X and of CONTEXT up and down and see how a
# loss moves.

# %%
layer = ma.MultiHeadAttention(W_Q, W_K, W_V, W_O, heads=2)
dout = rng.standard_normal((4, 4))  # d loss / d output, of some loss
grads = layer.backward(dout, X, context=CONTEXT)


def slope(x, context, which, at, step=1e-6):
    """d loss / d one number, from two runs of the forward."""
    nudge = np.zeros_like(which)
    nudge[at] = step
    if which is x:
        change = layer(x + nudge, context=context) - layer(x - nudge, context=context)
    else:
        change = layer(x, context=context + nudge) - layer(x, context=context - nudge)
    return (change * dout).sum() / (2 * step)


for name, which, grad in [("x", X, grads.dx), ("context", CONTEXT, grads.dcontext)]:
    measured = np.zeros_like(which)
    for at in np.ndindex(which.shape):
        measured[at] = slope(X, CONTEXT, which, at)
    print(f"d{name:8} {grad.shape}, largest {np.abs(grad).max():.2f}, "
          f"largest difference from the slopes {np.abs(grad - measured).max():.0e}")
    np.testing.assert_allclose(grad, measured, atol=1e-8)

# %% [markdown]
# ## The real thing
#
# SmolLM2 has no cross-attention: like most language models it is a decoder only, in which prompt and answer are one
# sequence. Yet cross-attention is inside. Take two sentences, and let the second one be the reader. Its queries attend to
# the keys of the first sentence, all of which came before, so this block needs no mask; and to those of its own sentence,
# under a causal mask. Here are rotated queries, keys and values of layer 13 (rotation is RoPE, lesson 06).

# %%
two = course.real("two_sentences")
cut = two.tokens.index(".") + 1
print("first   ", two.tokens[:cut])
print("second  ", two.tokens[cut:])
print("q", two.q.shape, " k", two.k.shape, " v", two.v.shape)

reader = two.q[:, cut:]
crossing, lse_crossing = ma.attention(reader, two.k[:, :cut], two.v[:, :cut], return_lse=True)
own, lse_own = ma.attention(reader, two.k[:, cut:], two.v[:, cut:], causal=True, return_lse=True)

# %% [markdown]
# Each part is a softmax over its own keys. `ma.merge` joins two such parts into the softmax over all keys; what it needs
# from each is the output and the log of the sum of exponentials (lse). The result is the model's own attention.

# %%
joined, lse = ma.merge(crossing, lse_crossing, own, lse_own)
whole, model_weights = ma.attention(two.q, two.k, two.v, causal=True, return_weights=True)
print(f"largest difference from attention in one piece: {np.abs(joined - whole[:, cut:]).max():.0e}")
np.testing.assert_allclose(joined, whole[:, cut:], atol=1e-5)
np.testing.assert_allclose(model_weights, two.weights, atol=2e-3)     # what the model itself used

share = np.exp(lse_crossing - lse)                                    # (H, N), to the first sentence
cross_weights = ma.attention_weights(reader, two.k[:, :cut])          # (H, N, S), rows sum to 1
np.testing.assert_allclose(share[..., None] * cross_weights, model_weights[:, cut:, :cut], atol=1e-5)

# %% [markdown]
# $e^{\text{lse}}$ of a part over $e^{\text{lse}}$ of all is the part's share of the weight. Below is the cross-attention
# block of all nine heads, times its share: rows sum to what the reader gives to the first sentence. Look at the row of "it".

# %%
axes = ma.plot.heads(share[..., None] * cross_weights, two.tokens[cut:], key_tokens=two.tokens[:cut],
                     columns=5, titles=[f"13.{h}" for h in range(9)])

# %%
it = two.tokens[cut:].index(" it")
for h in range(9):
    best = cross_weights[h, it].argmax()
    most = share[h, it] * cross_weights[h, it, best]
    print(f"13.{h}: 'it' gives {share[h, it]:.2f} to the first sentence, "
          f"{most:.2f} of it to {two.tokens[best]!r}")
    assert most > share[h, it] / 2
assert cross_weights[:, it].argmax(axis=-1).tolist() == [0] * 8 + [two.tokens.index(" cat")]

# %% [markdown]
# Head 13.8, the current-subject head of lesson 04, reaches across the full stop and finds "cat". In the others, what
# "it" gives to the first sentence goes mostly to its first token. So a decoder-only model reads its prompt by a block
# that *is* cross-attention; what it lacks is a second set of weights for it. Nothing here translates, and this is one
# pair of sentences, in one layer.
#
# Does the cut hold in the whole model? Give SmolLM2 an attention that reads the second sentence in two parts, in all 30
# layers, and compare the logits, the scores for the next token. Where the weights are not here, the same lines run on a
# Llama of the same shape with random weights.

# %%
model, trained = course.model(), True
if model is None:
    print("The lines below run on random weights of SmolLM2's shape.")
    model, trained = ma.models.Llama.random(ma.models.LlamaConfig.smollm2()), False
ids = model.tokenizer.encode(course.TWO_SENTENCES) if trained else list(range(100, 100 + len(two.tokens)))


def in_two(q, k, v, cut):
    """The reader's q (H, N, D), all k and v (H, S, D): its output, and its share to the first `cut` keys (H, N)."""
    crossing, lse_crossing = ma.attention(q, k[:, :cut], v[:, :cut], return_lse=True)
    own, lse_own = ma.attention(q, k[:, cut:], v[:, cut:], causal=True, return_lse=True)
    joined, lse = ma.merge(crossing, lse_crossing, own, lse_own)
    return joined, np.exp(lse_crossing - lse)


def averaged(q, k, v, cut):
    """The same, built broken: both parts count for half."""
    crossing = ma.attention(q, k[:, :cut], v[:, :cut])
    return (crossing + ma.attention(q, k[:, cut:], v[:, cut:], causal=True)) / 2, None


# %%
def in_all_layers(read):
    """The model, in which `read` joins what the second sentence reads."""
    def fn(q, k, v, **options):                                       # B = 1 in front: (1, H, N, D), (1, G, S, D)
        group = q.shape[1] // k.shape[1]                              # query heads that share a KV head (lesson 08)
        q, k, v = q[0], ma.repeat_kv(k[0], group), ma.repeat_kv(v[0], group)
        first = ma.attention(q[:, :cut], k[:, :cut], v[:, :cut], causal=True)
        second, _ = read(q[:, cut:], k, v, cut)
        return np.concatenate([first, second], axis=1)[None]
    return model.with_attention(fn)


logits = model.forward(ids)                                           # (N, vocabulary)
for read in (in_two, averaged):
    difference = np.abs(in_all_layers(read).forward(ids) - logits).max()
    print(f"{read.__name__:9} largest difference of a logit {difference:.0e}, logits reach {np.abs(logits).max():.0f}")
assert np.abs(in_all_layers(in_two).forward(ids) - logits).max() < 1e-3 < difference

# %% [markdown]
# ## What it costs
#
# One layer, width E, S source tokens, N tokens written one by one. Keys and values of the source do not change while the
# decoder writes, so they can be projected once and kept:
#
# | | keys and values of the source | scores and weighted sums |
# |---|---|---|
# | projected anew at each step | $N \cdot 4SE^2$ | $4NSE$ |
# | projected once and kept | $4SE^2$ | $4NSE$ |

# %%
S, E, steps, heads = 1024, 256, 32, 4
layer = ma.MultiHeadAttention.random(E, heads=heads, dtype=np.float32)
source = rng.standard_normal((S, E), dtype=np.float32)
written = rng.standard_normal((steps, E), dtype=np.float32)


def anew():
    return np.concatenate([layer(written[n:n + 1], context=source) for n in range(steps)])


def kept():
    k, v = (ma.split_heads(source @ w, heads) for w in (layer.w_k, layer.w_v))
    queries = [ma.split_heads(written[n:n + 1] @ layer.w_q, heads) for n in range(steps)]
    return np.concatenate([ma.merge_heads(ma.attention(q, k, v)) @ layer.w_o for q in queries])


np.testing.assert_allclose(anew(), kept(), atol=1e-5)
print(f"S = {S}, E = {E}, {steps} tokens written, float32\n")
print("                       GFLOP       GFLOP      bytes\n"
      "                    k and v  the scores      kept   ms here")
for name, run, times, held in [("projected anew", anew, steps, 0), ("kept", kept, 1, 2 * S * E * 4)]:
    print(f"{name:15} {4 * times * S * E * E / 1e9:11.3f} {4 * steps * S * E / 1e9:11.3f} {held:10,} "
          f"{1000 * course.seconds(run):9.1f}")

# %% [markdown]
# The scores include the weighted sums, and what is kept does not grow while the decoder writes. The time falls by less than
# the operations: what remains is mostly the 32 calls of attention, each for a single query.

# %% [markdown]
# ## Exercises
#
# Replace `return None` and run the cell. The check calls your function on arrays of its own, of several sizes; where the answer
# is a known mistake, it names the mistake.

# %% [markdown]
# **1 (easy).** Write cross-attention of one head, `cross_attention(x, y, w_q, w_k, w_v)`: x (N, E) asks, y (S, E) is asked,
# and (N, Dv) comes out. No mask. If you return a dictionary with some of "q", "k", "v", "scaled" and "weights" besides "out",
# the check compares these stages too.
#
# <details><summary>Hint</summary>
#
# Three projections, then scores (N, S), a softmax, and a product with the values.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Queries are made from those who ask; keys and values from those who are asked. The softmax (`ma.softmax`) runs along the
# keys, the last axis.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def cross_attention(x, y, w_q, w_k, w_v):
#     q, k, v = x @ w_q, y @ w_k, y @ w_v
#     return ma.softmax(q @ k.T / np.sqrt(q.shape[-1])) @ v
# ```
#
# There is one output for each row of x, whatever the length of y.
#
# </details>

# %%
def cross_attention(x, y, w_q, w_k, w_v):
    """x (N, E), y (S, E), three weights -> (N, Dv)"""
    return None


check.cross_attention(cross_attention)

# %% [markdown]
# **2 (easy).** Write `reads(weights, tokens, context_tokens)`: for each token that asks, the word that it looks at most. weights
# is (N, S), tokens are the N words that ask, context_tokens the S words that are asked; a list of N words comes out.
#
# <details><summary>Hint</summary>
#
# `argmax` along one axis finds an index for each row.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The index counts columns. Whose words are the columns?
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def reads(weights, tokens, context_tokens):
#     return [context_tokens[s] for s in weights.argmax(axis=1)]
# ```
#
# With more readers than words to read, the wrong labels raise no error: every index fits them too.
#
# </details>

# %%
def reads(weights, tokens, context_tokens):
    """weights (N, S), N words, S words -> N words"""
    return None


check.reads(reads)

# %% [markdown]
# **3 (medium).** Maps come out of somebody else's code, some with the queries down, some with the queries across, and some are
# square. Write `queries_down(weights)`, which returns the map with the queries down: as it came, or turned. Some queries may
# look at nothing: their weights are all 0.
#
# <details><summary>Hint</summary>
#
# Which sums are known, those over the keys or those over the queries?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# If the queries are down, every row sums to 1 or, where a query sees nothing, to 0. `np.isclose` compares up to rounding.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def queries_down(weights):
#     sums = weights.sum(axis=1)
#     right = np.isclose(sums, 1) | (sums == 0)
#     return weights if right.all() else weights.T
# ```
#
# The lengths say nothing: a short answer to a long question and a long answer to a short one both exist.
#
# </details>

# %%
def queries_down(weights):
    """a map, either way round -> (N, S)"""
    return None


check.queries_down(queries_down)

# %% [markdown]
# **4 (medium).** A batch of contexts of unequal lengths: row b has lengths[b] real keys, the first ones, and the others are
# padding. Write `padded_cross(q, k, v, lengths)` with q (B, H, N, D), k (B, H, S, D), v (B, H, S, Dv) and integers lengths
# (B,): each row of the output (B, H, N, Dv) is what it would be alone. No length is 0.
#
# <details><summary>Hint</summary>
#
# Lesson 03. The lengths are those of the contexts, not of the sentences that ask.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `ma.masks.padding(lengths)` is the rule; by hand it is `np.arange(S) < lengths[:, None, None, None]`, and the hidden scores
# become $-\infty$ before the softmax.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def padded_cross(q, k, v, lengths):
#     return ma.attention(q, k, v, mask=ma.masks.padding(lengths))
# ```
#
# By hand:
#
# ```text
# scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])                # (B, H, N, S)
# real = np.arange(k.shape[-2]) < lengths[:, None, None, None]          # (B, 1, 1, S)
# out = ma.softmax(np.where(real, scores, -np.inf)) @ v
# ```
#
# </details>

# %%
def padded_cross(q, k, v, lengths):
    """q (B, H, N, D), k (B, H, S, D), v (B, H, S, Dv), lengths (B,) -> (B, H, N, Dv)"""
    return None


check.padded_cross(padded_cross)

# %% [markdown]
# **5 (hard).** Write `read_in_two(q, k, v, cut)`: q (H, N, D) are the queries of a second sentence, k (H, S, D) and v (H, S,
# Dv) belong to both sentences, the first `cut` of them to the first; S = cut + N. Return the output (H, N, Dv) of the model's
# causal attention, and the share (H, N) of each query's weight that goes to the first sentence. Scores may be in the hundreds.
#
# <details><summary>Hint</summary>
#
# Two calls of `ma.attention` with `return_lse=True`, one for each sentence. Which of the two needs a mask?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `ma.merge` gives the joined output and the joined lse. A part's share is e to the power of its lse, less the joined one.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def read_in_two(q, k, v, cut):
#     first, lse_first = ma.attention(q, k[:, :cut], v[:, :cut], return_lse=True)
#     own, lse_own = ma.attention(q, k[:, cut:], v[:, cut:], causal=True, return_lse=True)
#     out, lse = ma.merge(first, lse_first, own, lse_own)
#     return out, np.exp(lse_first - lse)
# ```
#
# One softmax over all keys is right as well: then the share is the sum of the first `cut` weights.
#
# </details>

# %%
def read_in_two(q, k, v, cut):
    """(H, N, D), (H, S, D), (H, S, Dv), a number -> (out (H, N, Dv), share (H, N))"""
    return None


check.read_in_two(read_in_two)

# %% [markdown]
# Does it pass? Then let it read in SmolLM2: write `read_in_two` in place of `in_two` here, and run the cell.

# %%
changed = in_all_layers(in_two)                                       # your own here
print(f"largest difference of a logit {np.abs(changed.forward(ids) - logits).max():.0e}")

# %% [markdown]
# ## Three questions
#
# **1.** Two sentences of seven words each, and a (7, 7) map out of somebody else's code. How do you find out which axis is
# the queries?
#
# <details><summary>Answer</summary>
#
# Sum along each axis. The sums that are all 1 are those of the queries' rows. (The row of a query that may look at
# nothing sums to 0; no row sums to more than 1.)
#
# </details>
#
# **2.** A translator reads 30 tokens and writes 40. How many scores does one head of one cross-attention layer compute, with
# the source's keys projected once, and with keys projected anew at each step?
#
# <details><summary>Answer</summary>
#
# 30 x 40 = 1,200 in both cases. Keeping keys and values saves projections, not scores.
#
# </details>
#
# **3.** The gradient with respect to CONTEXT was checked above. Through which of Q, K and V does it come, and through
# which does the one with respect to X come?
#
# <details><summary>Answer</summary>
#
# CONTEXT: through K and V. X: through Q alone. In self-attention both are the same array, and the two gradients are added.
#
# </details>
#
# ## Where to go from here
#
# - The code: [core/projection.py](../minattn/core/projection.py) (`project_qkv` and its backward) and
#   [multihead.py](../minattn/multihead.py) (`context=`); `merge` stands in [core/softmax.py](../minattn/core/softmax.py).
# - Vaswani et al. 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), section 3.2.3: "encoder-decoder attention".
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [06 Order](06_order.ipynb): how a set of tokens becomes a sequence.
