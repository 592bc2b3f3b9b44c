# %% [markdown]
# # 00 A sentence through a model
#
# 15 minutes · difficulty: easy · read before: nothing; you need Python, NumPy slices and the matrix product
# · [glossary](glossary.md)
#
# You will be able to
#
# - say what a token, an id and an embedding are,
# - compute one row of a real attention map yourself,
# - read an attention map, and say what it does not show,
# - say how a language model gets from a sentence to its next word.

# %% [markdown]
# ## The question
#
# > The cat sat on the mat because it was tired
#
# Who was tired? You went back from *it* to *cat* without noticing. A language model has to do the same with numbers. It
# holds one vector for each word, and the vector of *it* starts out the same in every sentence there is. To take up
# anything of this sentence, that vector has to look at the other words. **Attention is how it looks.**
#
# We follow this one sentence through a real model, SmolLM2: 135 million trained parameters, run here in plain NumPy.

# %%
import matplotlib.pyplot as plt
import numpy as np

import course
import minattn as ma
from minattn.practice import check

m = course.model()
s = course.real("sentence")
print(f"computed now by {m}" if m else "read from the stored maps")

# %% [markdown]
# `s` holds everything that we look at on the way. It is made by the function `sentence` in [recipes.py](recipes.py), or, where
# the model's weights are not at hand, read from a file that this function wrote.

# %% [markdown]
# ## 1. Tokens and ids
#
# A model does not read letters. A **tokenizer** cuts the text into pieces from a fixed list, and the place of a piece in
# that list is its **id**.

# %%
for token, number in zip(s.tokens, s.ids, strict=True):
    print(f"{token!r:12} {number}")

# %% [markdown]
# The space belongs to the word that follows it, and a capital letter matters: `'The'` and `' the'` are different tokens
# with unrelated ids. An id is only a row number; 2644 is not "more" than 504.

# %% [markdown]
# ## 2. Embeddings
#
# Row `id` of a large table is the token's **embedding**: a vector of E = 576 learned numbers.
#
# **Predict before you run.** The sentence has N = 10 tokens. What is the shape of its embeddings? And how many numbers does
# the whole table hold, with one row for each of V = 49,152 tokens?
#
# <details><summary>Answer</summary>
#
# (10, 576), one row for each token of the sentence. The table holds 49,152 x 576 = 28,311,552 numbers, a fifth of all the
# model's parameters.
#
# </details>

# %%
from minattn.models import LlamaConfig

config = LlamaConfig.smollm2()
N, E = s.embedded.shape
table = config.vocab * config.dim
print(f"N = {N}, E = {E}")
share = table / config.n_parameters
print(f"the table holds {table:,} of {config.n_parameters:,} parameters: {share:.0%}")
print("' it' begins with", s.embedded[s.tokens.index(" it"), :5].round(3))

# %% [markdown]
# Looking up a row is all that happened so far, so nothing in the vector of *it* knows of a cat.

# %% [markdown]
# ## 3. One layer looks
#
# The model is a stack of 30 layers. Each does two things: **attention**, where a token takes something from other tokens,
# and a **feed-forward** part, where each token is worked on by itself. Only in attention do tokens meet.
#
# A layer looks in several ways at once; each way is a **head**. Every head makes three vectors out of each token:
#
# - a **query**: what this token is looking for,
# - a **key**: what this token can be found by,
# - a **value**: what this token hands over when it is looked at.
#
# Lesson 01 makes them; here we take those of layer 13 as they come (each token's place is already worked into its query
# and key, lesson 06). Layers and heads are counted from 0, and "13.8" is head 8 of layer 13.

# %%
print("x  going into layer 13 ", s.x.shape, "   (N, E)")
print("q  queries             ", s.q.shape, " (H, N, D)")
print("k  keys                ", s.k.shape, " (G, S, D)")
print("v  values              ", s.v.shape, " (G, S, D)")

# %% [markdown]
# H = 9 query heads, and G = 3 heads of keys and values: three query heads share one (lesson 08 says why), so query head 8
# reads key head 8 // 3 = 2. Each vector has D = 64 numbers. There are N queries and S keys, here S = N = 10.
#
# Now the looking itself, for one query. The **score** of a key is its dot product with the query of *it*, divided by
# $\sqrt{D} = 8$ (lesson 02 says why). Score the key of every token up to *it*, turn the scores into weights that sum to 1
# (exponentiate, divide by the sum: a **softmax**), and average the values with these weights.

# %%
it, cat = s.tokens.index(" it"), s.tokens.index(" cat")
query, keys, values = s.q[8, it], s.k[8 // 3], s.v[8 // 3]

scores = np.array([query @ key / np.sqrt(64) for key in keys[: it + 1]])
weights = np.exp(scores) / np.exp(scores).sum()
mixed = sum(weight * value for weight, value in zip(weights, values, strict=False))

for token, score, weight in zip(s.tokens, scores, weights, strict=False):
    print(f"{token:9} score {score:6.2f}   weight {weight:.2f} {'#' * round(40 * weight)}")
print("\nthe weights sum to", weights.sum().round(6), "and the averaged value has shape", mixed.shape)
assert abs(weights[cat] - 0.80) < 0.01

# %% [markdown]
# Four fifths of the weight go to *cat*. The average, `mixed`, is what head 13.8 has found for *it*; after one more matrix
# (lesson 04) it is added to the vector of *it*.
#
# The library does the same for all heads and all tokens at once:

# %%
out, w = ma.attention(s.q, s.k, s.v, causal=True, return_weights=True)
print("weights", w.shape, "(H, N, S)    out", out.shape, "(H, N, D)")
assert np.allclose(w[8, it, : it + 1], weights, atol=1e-5)
assert np.allclose(out[8, it], mixed, atol=1e-4)

# %% [markdown]
# ## 4. Attention in one picture
#
# Below is the row that we just computed. Each line runs from *it* to a token that it may look at; the wider, the more weight.
# What to look for: one wide line, and no line to *was* and *tired*.

# %%
fig, ax = plt.subplots(figsize=(9, 2.6), layout="constrained")
for n, token in enumerate(s.tokens):
    color = "black" if n <= it else "#767676"
    ax.text(n, 0, token.strip(), ha="center", va="top", fontsize=11, color=color)
ax.text(it, 1.15, "it", ha="center", va="bottom", fontsize=11, weight="bold")
for n, weight in enumerate(w[8, it, : it + 1]):
    ax.plot([it, n], [1.05, 0.06], color="#26828e", lw=0.4 + 14 * weight, solid_capstyle="round")
    ax.text(n, -0.22, f"{weight:.2f}", ha="center", va="top", fontsize=9, color="#26828e")
ax.text(-0.7, 1.15, "the query", va="bottom", fontsize=9)
ax.text(-0.7, 0, "keys", va="top", ha="right", fontsize=9)
ax.text(-0.7, -0.22, "weights", va="top", ha="right", fontsize=9, color="#26828e")
ax.set(xlim=(-1.5, 9.6), ylim=(-0.45, 1.4))
ax.set_title("head 13.8: what 'it' gets is the values of these tokens, averaged by weight")
ax.axis("off");

# %% [markdown]
# The same for every query is a **map**: a row for each query, a column for each key. What to look for: the row *it* shows the
# weights of the picture above; every row sums to 1; and the upper right is hatched, because **this model's tokens may look only
# at themselves and at what came before**. (It was trained to guess the next word, and must not read it first.)

# %%
ma.plot.heatmap(w[8], s.tokens, mask=ma.masks.causal(), title="layer 13, head 8");

# %% [markdown]
# ## 5. An honest caption
#
# It is tempting to write "this head knows what *it* means" below the map. Test that first.
#
# **Predict before you run.** In "The cat sat on the mat because it was **soft**", *it* is the mat. How does the row *it* change?
#
# <details><summary>Answer</summary>
#
# Not by a single bit. *soft* comes after *it*, so nothing about it can have reached that row: when the model computes the row, it
# cannot know who or what will turn out to be soft.
#
# </details>

# %%
other = course.real("other_sentences")
for tokens, row in zip(other.tokens, other.weights, strict=True):
    best = np.argsort(-row)[:3]
    print(f"{''.join(tokens):48}", "  ".join(f"{tokens[n].strip()} {row[n]:.2f}" for n in best))
assert np.array_equal(other.weights[0], other.weights[1])
print("\nin the map above:")
for n, key in [(3, 1), (4, 1), (8, 5)]:
    print(f"{s.tokens[n]:5} looks at {s.tokens[key]} with {w[8, n, key]:.2f}")

# %% [markdown]
# - First two lines: the same row, although the meaning of *it* differs. In a model that reads from left to right, *it* cannot
#   see *tired*.
# - Third line: *it* does not fit a girl, and half of the weight goes to the mat. Perhaps the head minds the kind of noun; one
#   sentence cannot say.
# - Fourth line: *it* looks at the subject again, now the mat.
# - Other words than *it*, such as *on* and *the*, look at *cat* too; and *was* looks at *mat*.
#
# An honest caption is therefore: **a head that mostly looks at the current subject.** Four sentences cannot show more, and a
# weight says where a head took something from, not what the model did with it.

# %% [markdown]
# ## 6. The other 269 heads
#
# 30 layers of 9 heads give 270 maps, and we chose one of them. Where does *it* look on average?

# %%
tokens, maps = course.maps("cat")                   # maps: (layers, H, N, S)
mean = maps[:, :, it].mean(axis=(0, 1))
most = maps[:, :, it].argmax(axis=-1)
for n in range(it + 1):
    print(f"{tokens[n]:9} mean weight {mean[n]:.2f}   first choice of {(most == n).sum():3} heads")
assert np.allclose(mean[[0, cat]], [0.48, 0.05], atol=0.01)
assert round(float(maps[1, 2, it, it - 1]), 2) == 0.94                # exercises 3 and 4 come back to this head
assert np.trace(maps, -1, 2, 3).argsort(axis=None)[-2:].tolist() == [1 * 9 + 2, 16 * 9 + 0]

# %% [markdown]
# Almost half of the weight goes to the first token, and a twentieth to *cat*. The weights must sum to 1, so a head that
# finds nothing must still look somewhere; in this model that is mostly the first token (lesson 04). What to look for in
# layer 13: a bright first column in most heads, and head 8, where the bright column is the second.

# %%
ma.plot.heads(maps[13], tokens, mask=ma.masks.causal());

# %% [markdown]
# ## 7. To the next word
#
# After the last layer, the dot products of a token's vector with every row of the embedding table are 49,152 scores, and a
# softmax turns them into probabilities: of the token that comes **next**. Every position makes its own guess:

# %%
for token, guesses, chances in zip(s.tokens, s.next_tokens, s.next_chances, strict=True):
    best = [f"{guess!r} {chance:.2f}" for guess, chance in zip(guesses, chances, strict=True)]
    print(f"{token:9} ->", "   ".join(best[:3]))

# %% [markdown]
# (`' cou'` is the beginning of a longer word: a token need not be a whole one.)
#
# To write, take the best guess for the last position, append it to the text, run the model again, and so on. That is what
# `m.generate(prompt, max_new_tokens=24)` does:

# %%
print(s.prompt + "|" + s.written)

# %% [markdown]
# (The bar marks where the model took over.) This is a small model: do not trust its facts.

# %% [markdown]
# ## 8. What it costs
#
# A matrix product takes one multiplication and one addition, 2 FLOPs (floating-point operations), for each of its weights
# and each token. Looking takes $2 N S D$ FLOPs a head for the scores and as many for the average. (GFLOP: $10^9$ FLOPs.)
# The bytes are those of the maps, and of the weights that the matrices read.

# %%
c = config
weights = c.n_parameters - (2 * c.layers + 1) * c.dim                 # a norm is no matrix
looking = 4 * N * N * c.head_dim * c.heads
pairs = c.heads * N * N * 4                         # one float32 for each head, query and key
rows = [("looking, layer 13", looking, pairs, course.seconds(lambda: ma.attention(s.q, s.k, s.v, causal=True), repeats=20)),
        ("looking, 30 layers", looking * c.layers, pairs * c.layers, None),
        ("matrices, 30 layers", 2 * weights * N, 4 * weights, None),
        ("the whole model", 2 * weights * N + looking * c.layers, 4 * weights, m and course.seconds(lambda: m.forward(s.ids)))]
print(f"{N} tokens               GFLOP         MB   measured here")
for name, flops, size, took in rows:
    print(f"{name:20} {flops / 1e9:8.4f} {size / 1e6:10.3f}   {f'{took * 1e3:.2f} ms' if took else ''}")
equal = weights / (2 * c.head_dim * c.heads * c.layers)
print(f"\nlooking grows with N * N: it catches up with the matrices at N = {equal:,.0f} tokens")

# %% [markdown]
# ## 9. Exercises
#
# Replace `return None` and run the cell. The check calls your function on arrays of its own and says what it finds; where the
# answer is a known mistake, it names the mistake. An exercise left blank breaks nothing.

# %% [markdown]
# **1 (easy).** Write `looks_at(w, n)`: the index of the key that query n of the map w (N, S) looks at most. Comes in: an
# array and a number. Comes out: one index.
#
# <details><summary>Hint</summary>
#
# Queries go down: row n of the map is `w[n]`.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# NumPy has a function for the largest entry, `max`, and one for the *place* of the largest entry.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def looks_at(w, n):
#     return w[n].argmax()
# ```
#
# </details>

# %%
def looks_at(w, n):
    """w (N, S), n -> s"""
    return None


check.looks_at(looks_at)

# %% [markdown]
# **2 (easy).** Write `mix(weights, values)`: the values (S, Dv) averaged with the weights (S,). Comes out: one vector
# (Dv,), as `mixed` in section 3.
#
# <details><summary>Hint</summary>
#
# Each value counts as much as its weight, and the results are summed. The weights sum to 1 already.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# A loop over the keys does it. So does one `@`: a vector of S numbers times a matrix of S rows.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def mix(weights, values):
#     return weights @ values
# ```
#
# Number d of the answer is the sum over the keys of weight times value d: that is what a matrix product computes.
#
# </details>

# %%
def mix(weights, values):
    """weights (S,), values (S, Dv) -> (Dv,)"""
    return None


check.mix(mix)

# %% [markdown]
# **3 (medium).** Which of the 270 heads gives the most weight from *it* to the word just before it, *because*? Write
# `strongest(maps, n, s)`: the layer and the head, as a tuple, whose weight from query n to key s is the largest. The maps
# are (layers, H, N, S).
#
# <details><summary>Hint</summary>
#
# `maps[:, :, n, s]` has shape (layers, H).
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `argmax` gives a flat index; `np.unravel_index(flat, shape)` turns it into two.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def strongest(maps, n, s):
#     weights = maps[:, :, n, s]
#     return np.unravel_index(weights.argmax(), weights.shape)
# ```
#
# On the maps of section 6, `strongest(maps, it, it - 1)` is (1, 2), with a weight of 0.94: a head that looks at the
# previous token.
#
# </details>

# %%
def strongest(maps, n, s):
    """maps (layers, H, N, S), n, s -> (layer, head)"""
    return None


check.strongest(strongest)

# %% [markdown]
# **4 (hard).** Does head 1.2 always look at the previous token? Write `previous_token(maps)`: for each layer and head the
# mean weight of a query on the token just before it. The maps are (layers, H, N, N), the answer is (layers, H).
#
# <details><summary>Hint</summary>
#
# The weights wanted are `maps[:, :, 1, 0]`, `maps[:, :, 2, 1]`, `maps[:, :, 3, 2]` and so on. How many are there?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# They are the diagonal just below the main one. The first query has no token before it and does not count.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def previous_token(maps):
#     below = np.diagonal(maps, offset=-1, axis1=2, axis2=3)
#     return below.mean(axis=-1)
# ```
#
# `np.diagonal` puts the diagonal last: (layers, H, N - 1), and the mean divides by N - 1. On the maps of section 6 the
# largest mean is that of head 16.0; 1.2 comes second. One row of one sentence is thin evidence for what a head does.
#
# </details>

# %%
def previous_token(maps):
    """maps (layers, H, N, N) -> (layers, H)"""
    return None


check.previous_token(previous_token)

# %% [markdown]
# ## 10. Three questions
#
# 1. The first row of every map in this lesson is the same. What is it, and why?
#
# <details><summary>Answer</summary>
#
# 1, 0, 0, ...: the first token may look at itself alone, and the weights of a row sum to 1.
#
# </details>
#
# 2. Two sentences begin with the same six tokens. Which of the model's vectors are the same for both?
#
# <details><summary>Answer</summary>
#
# Those of the six tokens, in every layer: a token's vector is made of the token itself and of what came before it.
#
# </details>
#
# 3. Somebody shows you one head of a model in which *it* looks at *cat*, and concludes that the model understands pronouns. What
#    do you ask for?
#
# <details><summary>Answer</summary>
#
# Other sentences, with other subjects and with another referent; the other heads, and how this one was chosen among them; and a
# test of what the model does without this head, since a weight alone does not say what was done with what was read.
#
# </details>
#
# ## Where things are
#
# - The model, one method for each step of this lesson: [llama.py](../minattn/models/llama.py). The arithmetic of attention:
#   [reference.py](../minattn/core/reference.py).
# - The paper: Vaswani et al. 2017, "Attention Is All You Need", equation (1),
#   [arXiv:1706.03762](https://arxiv.org/abs/1706.03762).
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [01 Queries, keys, values](01_queries_keys_values.ipynb) does the looking by hand, on numbers with two decimals.
