# %% [markdown]
# # 04 Many heads
#
# 45 minutes · difficulty: medium · read before: [01 Queries, keys, values](01_queries_keys_values.ipynb),
# [03 Masks](03_masks.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - split a row of E numbers into H heads, merge it again, and recognise the split that has the right shape and the wrong
#   numbers,
# - write a layer as a sum over heads, each of which adds something to its token's row,
# - say which costs grow with the number of heads and which do not,
# - name what a head of a real model does, measure it, and test the name by switching the head off.

# %% [markdown]
# ## The question
#
# A row of attention weights sums to 1. What "sat" gives to "cat" it cannot give to another token, so one map can answer one
# question: *who sat?* or *what comes just before?*, but not both in full. A second layer could ask the second question. Is
# there a way to ask several questions in one layer, without paying more?
#
# The course's vectors: N = 4 tokens, E = 4 numbers each. In this lesson H = 2 heads share them, D = E / H = 2 each.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np

import course
import minattn as ma
from course import TOKENS, W_K, W_O, W_Q, W_V, X
from minattn.practice import check

np.set_printoptions(precision=2, suppress=True)
N, E, H, D = 4, 4, 2, 2
q, k, v = ma.project_qkv(X, W_Q, W_K, W_V)                            # (N, E) each, as in lesson 01
print("queries: two columns belong to head 0, two to head 1")
for token, row in zip(TOKENS, q, strict=True):
    print(f"{token:>5}", row[:2], row[2:])

# %% [markdown]
# ## Predict before you run
#
# 1. Q is (4, 4). Split into 2 heads, what is its shape? What is the shape of the weights, and of the output after the
#    heads are put side by side again?
# 2. `q.reshape(2, 4, 2)` also gives 2 heads x 4 tokens x 2 numbers. Which tokens are in its head 0?
#
# <details><summary>Answer</summary>
#
# 1. Q becomes (H, N, D) = (2, 4, 2), the weights are (H, N, N) = (2, 4, 4), one map for each head, and the merged output
#    is (N, H * D) = (4, 4) again.
# 2. Only "the" and "cat". A reshape reads the numbers in the order of memory, token after token, so the first 8 of the 16
#    numbers are those of the first two tokens. That is the bug that you will see below.
#
# </details>

# %% [markdown]
# ## One query, head by head
#
# A head is attention on its own columns. Here is "sat" in both heads: two products, a sum, a division by $\sqrt{D}$, a
# softmax over four scores. You can follow it with a pocket calculator.

# %%
sat, looped = TOKENS.index("sat"), []
for h in range(H):
    own = slice(h * D, (h + 1) * D)                                   # the columns of this head
    scores = np.array([(q[sat, own] * key[own]).sum() / np.sqrt(D) for key in k])
    weights = np.exp(scores) / np.exp(scores).sum()
    out = sum(weight * value[own] for weight, value in zip(weights, v, strict=True))
    print(f"head {h}: query {q[sat, own]}, scores {scores}")
    print(f"        weights {weights}, output {out}")
    looped.append(out)

# %% [markdown]
# The scale is $1/\sqrt{D}$ with the D of one head, 2, and not with the width E of the row: a score is a sum of D products.
#
# ## All queries, all heads, in one matrix product
#
# To do it for all heads at once, the heads become an axis in front of the tokens. That takes two steps: cut the last axis
# into (heads, D), then move the heads to the front.

# %%
def split(x):
    return x.reshape(N, H, D).swapaxes(0, 1)                   # (N, E) -> (N, H, D) -> (H, N, D)


def merge(x):
    return x.swapaxes(0, 1).reshape(N, H * D)                  # the same steps backwards


scores = split(q) @ split(k).swapaxes(-1, -2) / np.sqrt(D)     # (H, N, N)
weights = ma.softmax(scores)
heads = weights @ split(v)                                     # (H, N, D)
np.testing.assert_allclose(heads[:, sat], looped)

np.testing.assert_array_equal(ma.split_heads(q, H), split(q))  # the library's names for it
np.testing.assert_allclose(ma.attention(*(ma.split_heads(x, H) for x in (q, k, v))), heads)
np.testing.assert_array_equal(ma.merge_heads(heads), merge(heads))
print("weights", weights.shape, " heads", heads.shape, " merged", merge(heads).shape)

# %% [markdown]
# There is nothing more to it: **H heads are H separate attentions**. One call with a heads axis gives what H calls with one
# head each give.

# %%
columns = [slice(h * D, (h + 1) * D) for h in range(H)]
one_by_one = [ma.attention(q[:, own], k[:, own], v[:, own]) for own in columns]
np.testing.assert_allclose(np.concatenate(one_by_one, axis=-1), merge(heads))

# %% [markdown]
# In the picture, look at the row of "sat". Head 0 looks at "cat", head 1 most at "sat" itself. On the right is one head over
# all four columns: it has to settle for something in between.

# %%
single = ma.attention_weights(q, k)                                   # one head with D = 4
ma.plot.heads([*weights, single], TOKENS, titles=["head 0 of 2", "head 1 of 2", "one head, D = 4"])
for name, row in [("head 0", weights[0]), ("head 1", weights[1]), ("one head", single)]:
    shares = [f"{token} {share:.2f}" for token, share in zip(TOKENS, row[sat], strict=True)]
    print(f"{name:8} 'sat' looks at", ", ".join(shares))

# %% [markdown]
# ## Built broken: reshape without transpose
#
# `q.reshape(H, N, D)` has the right shape, so every line after it runs. To see what it does, split the names instead of the
# numbers: `cat2` is number 2 of "cat".

# %%
names = np.array([[f"{token}{column}" for column in range(E)] for token in TOKENS])
print("right: head 0 has the first two numbers of every token\n", split(names)[0].tolist())
print("broken: head 0 has all numbers of two tokens\n", names.reshape(H, N, D)[0].tolist())


def broken_layer(x):
    q, k, v = (each.reshape(H, N, D) for each in ma.project_qkv(x, W_Q, W_K, W_V))
    return ma.attention(q, k, v).reshape(N, E)  # put back as it was taken apart


def right_layer(x):
    q, k, v = (ma.split_heads(each, H) for each in ma.project_qkv(x, W_Q, W_K, W_V))
    return ma.merge_heads(ma.attention(q, k, v))


print("largest difference of the outputs:", np.abs(broken_layer(X) - right_layer(X)).max().round(2))

# %% [markdown]
# Nothing crashes, and gradients flow. The symptom shows when you change one token and watch which outputs move. Without
# a mask every output should depend on every token.

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.4), layout="constrained")
for ax, name, layer in [(axes[0], "right", right_layer), (axes[1], "reshape alone", broken_layer)]:
    moved = np.empty((N, N), dtype=bool)
    for token in range(N):
        other = X.copy()
        other[token] += 0.5                                           # change one token ...
        change = np.abs(layer(other) - layer(X)).max(axis=1)
        moved[:, token] = change > 1e-12                              # ... and see which outputs move
    ax.imshow(moved, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    ax.set(title=name, xlabel="token that was changed", xticks=range(N), yticks=range(N))
    ax.set(xticklabels=TOKENS, yticklabels=TOKENS)
    moving = np.array(TOKENS)[moved[:, 1]].tolist()
    print(f"{name:>13}: when 'cat' changes, these outputs move:", moving)
axes[0].set_ylabel("output (yellow: it moves)")
assert not moved[:2, 2:].any()
assert not moved[2:, :2].any()

# %% [markdown]
# "sat" no longer depends on "cat": the two halves of the sentence have been torn apart. The mend is the transpose. Why do
# tests miss it? Because of inputs that are too easy. With one head, with one token, or with equal numbers everywhere, the
# broken layer passes:

# %%
same = np.ones((N, E))
for what, x, heads_here in [("all numbers equal", same, 2), ("one token", X[:1], 2),
                            ("one head", X, 1), ("the course's numbers, two heads", X, 2)]:
    broken = x.reshape(heads_here, len(x), -1)
    print(f"{what}: {np.allclose(broken, ma.split_heads(x, heads_here))}")

# %% [markdown]
# ## W_O: what the heads write
#
# After merging, head 0 sits in columns 0 and 1, head 1 in columns 2 and 3. The last projection W_O, of shape (H * D, E),
# lets every head write to all E columns. Cut W_O into one block of D rows for each head, and the layer is a **sum over
# heads**:
#
# $$
# \text{concat}_h(O_h)\, W_O \;=\; \sum_{h} O_h\, W_O[h], \qquad W_O[h] \text{ of shape } (D, E)
# $$

# %%
blocks = W_O.reshape(H, D, E)  # rows of W_O: D for each head
written = heads @ blocks       # (H, N, E): what each head adds
np.testing.assert_allclose(written.sum(axis=0), merge(heads) @ W_O)
print("head 0 writes to 'sat'", written[0, sat])
print("head 1 writes to 'sat'", written[1, sat])
print("the layer's output    ", (merge(heads) @ W_O)[sat])

layer = ma.MultiHeadAttention(W_Q, W_K, W_V, W_O, heads=H)
np.testing.assert_allclose(layer(X), merge(heads) @ W_O)

# %% [markdown]
# In a transformer the layer's output is added to its input, `x + layer(x)`. So the row of a token is a running sum,
# often called the *residual stream*, and each head adds its own term to it. Two things follow. A head can be switched
# off by leaving out its term, which we will do to a real model. And a head writes in few directions: whatever it reads,
# what it adds lies in a space of at most D dimensions.

# %%
for h in range(H):
    moves = W_V[:, h * D:(h + 1) * D] @ blocks[h]  # (E, E): from a token's row to what is written
    print(f"head {h}: W_V[h] W_O[h] is {moves.shape}, of rank {np.linalg.matrix_rank(moves)}")

# %% [markdown]
# ## The real thing: one head after the other in SmolLM2
#
# H heads are H separate attentions: in a trained model as well? Give SmolLM2 an attention that calls `ma.attention` for
# one head at a time, in all 30 layers, and compare the logits, the scores for the next token. A model has a batch axis in
# front, q is (B, H, N, D). It has 9 query heads and 3 KV heads, and three neighbours share one: head h reads KV head h // 3
# (lesson 08 is about that). Where the weights are not here, the same lines run on random weights.

# %%
model, trained = course.model(), True
if model is None:
    print("The lines below run on random weights of SmolLM2's shape.")
    model, trained = ma.models.Llama.random(ma.models.LlamaConfig.smollm2()), False
ids = model.tokenizer.encode(course.SENTENCE) if trained else list(range(100, 110))
logits = model.forward(ids)                                           # (N, vocabulary)


def by_heads(q, k, v, **options):
    share = q.shape[1] // k.shape[1]
    outs = [ma.attention(q[:, h:h + 1], k[:, h // share:h // share + 1], v[:, h // share:h // share + 1], **options)
            for h in range(q.shape[1])]
    return np.concatenate(outs, axis=1)                               # (B, H, N, D)


difference = np.abs(model.with_attention(by_heads).forward(ids) - logits).max()
print(f"{logits.shape[0]} tokens, {logits.shape[1]:,} logits each, up to {np.abs(logits).max():.1f}; "
      f"largest difference {difference:.0e}")
assert difference < 1e-3

# %% [markdown]
# ## What heads do
#
# SmolLM2 has 30 layers of 9 heads, D = 64, 270 maps for each text. Nobody told a head what to do. Head h of layer l is
# called l.h. Here are three on the sentence of lesson 00, each with a name for its job: look whether the name fits.

# %%
tokens, maps = course.maps("cat")                                     # (layers, H, N, N)
chosen = {"16.0": "previous token", "18.8": "first token", "13.8": "subject"}
places = [tuple(map(int, place.split("."))) for place in chosen]
ma.plot.heads([maps[place] for place in places], tokens, mask=ma.masks.causal(),
              titles=[f"{place}: {job}" for place, job in chosen.items()]);

# %% [markdown]
# A name is a guess until it is measured, so measure it as a number: the mean weight on the key that the job asks for.

# %%
previous = np.diagonal(maps, -1, -2, -1).mean(-1)  # weights (n, n - 1), their mean: (layers, H)
first = maps[..., 1:, 0].mean(-1)                  # weights (n, 0)
it, cat = tokens.index(" it"), tokens.index(" cat")
jobs = {"previous token": previous, "first token": first, "'it' to 'cat'": maps[..., it, cat]}
for name, score in jobs.items():
    best = np.argsort(-score.ravel())[:4]
    print(f"{name:15}", ", ".join(f"{h // 9}.{h % 9} {score.ravel()[h]:.2f}" for h in best))
assert abs(maps[13, 8, it, cat] - 0.80) < 0.01

# %% [markdown]
# Ten tokens are few. The same measures over a paragraph of some 130 tokens, and over 64 random tokens followed by the same
# 64 once more (the recipe `roles` in [recipes.py](recipes.py)), and one job more: **induction**. Where a text repeats itself,
# look for the earlier copy of the present token, and attend to the token *after* it, which is what will come next. Each
# small square is one head.

# %%
roles = course.real("roles")
panels = {
    "previous token\n(paragraph)": roles.previous,
    "first token\n(paragraph)": roles.first,
    "induction\n(random tokens, twice)": roles.induction,
    "control\n(random, no repeat)": roles.control,
}
fig, axes = plt.subplots(1, 4, figsize=(8.4, 6.4), layout="constrained", sharey=True)
for ax, (name, score) in zip(axes, panels.items(), strict=True):
    image = ax.imshow(score, vmin=0, vmax=1, interpolation="nearest", aspect="equal")
    ax.set(xlabel="head", xticks=range(9), yticks=range(0, 30, 2))
    ax.set_title(name, fontsize=10)
axes[0].set_ylabel("layer")
fig.colorbar(image, ax=axes, label="mean weight on the key of that job", shrink=0.5);

# %%
for name, score in vars(roles).items():
    best = np.argsort(-score.ravel())[:5]
    print(f"{name:16}", ", ".join(f"{h // 9}.{h % 9} {score.ravel()[h]:.2f}" for h in best),
          f"  {(score > 0.5).sum()} of {score.size} heads above 0.5")

# %% [markdown]
# What the numbers allow to say, and what not:
#
# - **16.0 is a previous-token head** in prose and, more sharply, in random tokens.
# - **18.8 rests on the first token**, and so does about a third of all heads in prose. A softmax must put its weight
#   somewhere; the usual reading is that a head rests there when it finds nothing to fetch. 18.6 and 18.7 do so in prose
#   *and* are induction heads where the text repeats. So a job is not a property of the head alone, but of head and text.
# - **13.8 is a current-subject head**, rather than one that resolves "it": its column for "cat" is high in other rows too.
# - **Five heads do induction** with more than 0.5. In the control, with the same distance and nothing repeated, no head puts
#   more than a few hundredths there: it is the repetition that they find and not the distance.

# %%
column = zip(tokens, maps[13, 8, :, cat], strict=True)
print("the weight of each query on 'cat' in 13.8:")
print(", ".join(f"{token.strip()} {weight:.2f}" for token, weight in column))
assert (maps[13, 8, [tokens.index(" on"), tokens.index(" the")], cat] > 0.9).all()
assert (roles.induction > 0.5).sum() == 5
assert roles.control.max() < 0.03

# %% [markdown]
# Look at an induction head, 18.6, on the 128 tokens: in the first copy most queries rest on token 0; just after query
# 64, where the second copy begins, a line appears 63 tokens below the diagonal.

# %%
copied = course.real("induction")
place = copied.heads.tolist().index([18, 6])
ma.plot.heatmap(copied.weights[place], mask=ma.masks.causal(),
                title="head 18.6, 64 random tokens twice");

# %% [markdown]
# ## Switch it off
#
# Does the model *need* these heads for repeating? Six are tried, the five above and 20.6, the next in line. Take their
# terms out of the sum and see. The output of a silent head is replaced by zeros before W_O, by giving the model another
# attention function:

# %%
print(inspect.getsource(course.silence))

# %%
lesions = course.real("lesions")
print("loss a token on the\n  first copy  second copy  silent heads")
for name, first_copy, second_copy in zip(lesions.names, lesions.first, lesions.second, strict=True):
    print(f"{first_copy:12.2f} {second_copy:12.2f}  {name}")
print(f"a blind guess among 49,152 tokens costs ln(49152) = {np.log(49152):.2f}")

# %%
fig, ax = plt.subplots(figsize=(7.6, 3.1), layout="constrained")
colours = ["#7d828c"] + ["#440154"] * 2 + ["#35b779"] * 5
labels = [name.replace("drawn: ", "") for name in lesions.names]
ax.barh(labels, lesions.second, color=colours)
ax.axvline(np.log(49152), color="#1b1b1b", linewidth=1, linestyle="--")
ax.text(np.log(49152) - 0.1, 7.35, "blind guess", ha="right", va="center", fontsize=8)
ax.invert_yaxis()
ax.set(xlabel="loss a token on the second copy (lower is better)", ylabel="silent heads")
ax.tick_params("y", labelsize=8);

# %% [markdown]
# The whole model cannot guess the first copy, and repeats the second one well. Without six induction heads, 2 percent of
# the heads, the second copy is worse than a blind guess. Without the single head 16.0, in a layer below them, half of
# what the repetition gains is lost as well. That fits the usual reading, induction in two steps: first 16.0 writes into
# each token's row which token came before it, then a head of layer 17 or 18 looks for the row that says "before me came
# the token that you are now at".
#
# Six other heads, drawn at random from the remaining 263 (green), also do harm in some draws. Heads in the first layers
# feed everything above, and the picture of all heads shows others that do induction in part. So "random heads do not
# matter" would be false; what holds is that none of the five draws does as much harm as the six named heads, or as the
# one below them.

# %%
whole, previous_token, six, *drawn = lesions.second
assert whole < max(drawn) < previous_token < np.log(49152) < six
assert 0.45 < (previous_token - whole) / (lesions.first[0] - whole) < 0.55

# %% [markdown]
# ## What it costs
#
# Let N tokens attend to N tokens. Each of the four projections is N x E times E x E. A head's scores are N x D times D x
# N, its output N x N times N x D. A product of (a, b) by (b, c) takes 2abc floating-point operations (FLOPs; a GFLOP is
# a billion of them).

# %%
def flops(N, E, H):
    D = E // H
    projections = 4 * 2 * N * E * E
    one_head = 2 * N * D * N + 2 * N * N * D  # scores, then the weighted sum
    return projections + H * one_head


rng = np.random.default_rng(0)
length, width = 512, 512
x = rng.standard_normal((length, width), dtype=np.float32)
print(f"N = {length}, E = {width}, float32")
print("    H     D   GFLOP   maps, MB   seconds here")
for count in (1, 2, 4, 8, 16, 32):
    layer = ma.MultiHeadAttention.random(width, heads=count, dtype=np.float32, backend="numpy")
    elapsed = course.seconds(lambda layer=layer: layer(x), 7)
    print(f"{count:5} {width // count:5} {flops(length, width, count) / 1e9:7.2f} "
          f"{4 * count * length**2 / 1e6:10.1f} {elapsed:14.3f}")

# %% [markdown]
# The arithmetic of the products does not depend on H: H times as many heads, each 1/H as wide. In that sense more heads
# are free, and only in that sense. The maps, H N² numbers, grow with H, and so do the softmax and all else that reads or
# writes a map; products of narrow matrices are also less efficient. That is why the time in the last column grows all
# the same. (`backend="numpy"` holds every map whole, as the formulas do; lesson 10 does without maps.) And a smaller D has
# its own price: a head's scores are products of D numbers, so its N x N score matrix has rank at most D.

# %% [markdown]
# In one table, for N tokens, width E and H heads of D = E / H numbers:
#
# | | FLOPs | numbers to keep | with twice as many heads |
# |---|---|---|---|
# | four projections | $8 N E^2$ | $4 E^2$ weights | the same |
# | scores | $2 N^2 E$ | $H N^2$ | the same FLOPs, twice the numbers |
# | softmax | a few for each score | $H N^2$ | twice both |
# | weighted sums | $2 N^2 E$ | $N E$ | the same |

# %% [markdown]
# ## Exercises
#
# Replace `return None` and run the cell. The check calls your function on arrays of its own, of several sizes; where the answer
# is a known mistake, it names the mistake.

# %% [markdown]
# **1 (easy).** Write `split_heads(x, heads)`: x (N, H * D) comes in, (H, N, D) comes out, and head h has the columns h D to
# (h + 1) D - 1 of every token.
#
# <details><summary>Hint</summary>
#
# Two steps: cut the last axis in two with a reshape that leaves the token axis alone, then move an axis.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# After the cut the array is (N, H, D). Which two axes have to change places?
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def split_heads(x, heads):
#     return x.reshape(len(x), heads, -1).swapaxes(0, 1)
# ```
#
# A reshape keeps the order of the numbers in memory; only the swap brings a head's tokens together.
#
# </details>

# %%
def split_heads(x, heads):
    """x (N, H * D) -> (H, N, D)"""
    return None


check.split_heads(split_heads)

# %% [markdown]
# **2 (easy).** Write the way back, `merge_heads(x)`: x (H, N, D) comes in, (N, H * D) comes out, with head 0 in the first D
# columns, head 1 in the next D, and so on.
#
# <details><summary>Hint</summary>
#
# The same steps as for splitting, each undone, the last one first.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# (H, N, D) to (N, H, D) to (N, H * D).
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def merge_heads(x):
#     return x.swapaxes(0, 1).reshape(x.shape[1], -1)
# ```
#
# `np.concatenate(list(x), axis=-1)` is the same: it puts the heads side by side.
#
# </details>

# %%
def merge_heads(x):
    """x (H, N, D) -> (N, H * D)"""
    return None


check.merge_heads(merge_heads)

# %% [markdown]
# **3 (medium).** Switch a head off *by the weights alone*: from w_o (H * D, E) make `without_head(w_o, heads, h)`, a matrix of
# the same shape with which the layer writes what all heads but h write. Leave w_o itself as it is.
#
# <details><summary>Hint</summary>
#
# The merged row has head h in D neighbouring columns. Which part of w_o do these columns meet in a matrix product?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# D is `len(w_o) // heads`. Change a copy, `w_o.copy()`.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def without_head(w_o, heads, h):
#     D = len(w_o) // heads
#     changed = w_o.copy()
#     changed[h * D:(h + 1) * D] = 0
#     return changed
# ```
#
# The layer is a sum over heads, and a block of zeros makes one term zero.
#
# </details>

# %%
def without_head(w_o, heads, h):
    """w_o (H * D, E), two numbers -> (H * D, E)"""
    return None


check.without_head(without_head)

# %% [markdown]
# **4 (medium).** Write the layer whole, without a mask: `multi_head(x, w_q, w_k, w_v, w_o, heads)` with x (N, E), w_q and w_k
# (E, H * D), w_v (E, H * Dv) and w_o (H * Dv, E) gives (N, E). If you return a dictionary with some of "q", "k", "v",
# "scaled", "weights", "heads" and "merged" besides "out", the check compares these stages too.
#
# <details><summary>Hint</summary>
#
# Project, split, attend, merge, project. Take your functions from exercises 1 and 2, or `ma.split_heads` and `ma.merge_heads`.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `q @ k.swapaxes(-1, -2)` multiplies head by head, (H, N, D) by (H, D, N). The scale is that of one head.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def multi_head(x, w_q, w_k, w_v, w_o, heads):
#     q, k, v = (ma.split_heads(x @ w, heads) for w in (w_q, w_k, w_v))
#     scaled = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
#     weights = ma.softmax(scaled)
#     merged = ma.merge_heads(weights @ v)
#     return {"scaled": scaled, "weights": weights, "merged": merged, "out": merged @ w_o}
# ```
#
# In the check H * D is not E and D is not Dv, so a scale read from a wrong shape shows.
#
# </details>

# %%
def multi_head(x, w_q, w_k, w_v, w_o, heads):
    """x (N, E), four weights, a number -> (N, E)"""
    return None


check.multi_head(multi_head)

# %% [markdown]
# **5 (hard).** Write the attention of a whole model, without `ma.attention`: q (B, H, N, D), k and v (B, G, S, D), where query
# head h reads KV head h // (H // G); (B, H, N, D) comes out. q_pos (..., N) and k_pos (..., S) are positions, with an axis B
# in front or without, and a query sees the keys at its own position and before: `causal` is always True here. The check puts
# it into a small model with random weights, which reads a text as a whole and in two parts: in the second part there are more
# keys than queries.
#
# <details><summary>Hint</summary>
#
# Go through the heads in a loop; `q[:, h]` is (B, N, D). Collect the outputs in a list.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `k_pos[..., None, :] <= q_pos[..., :, None]` is (B, N, S) or (N, S), one mask for all heads. `np.stack(outs, axis=1)` brings
# the heads to their place.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def model_attention(q, k, v, *, causal, q_pos, k_pos):
#     share, outs = q.shape[1] // k.shape[1], []
#     may = k_pos[..., None, :] <= q_pos[..., :, None]
#     for h in range(q.shape[1]):
#         scaled = q[:, h] @ k[:, h // share].swapaxes(-1, -2) / np.sqrt(q.shape[-1])
#         outs.append(ma.softmax(np.where(may, scaled, -np.inf)) @ v[:, h // share])
#     return np.stack(outs, axis=1)
# ```
#
# The positions, and not the places in the array, say who came before: with a cache the first query is not the first token.
#
# </details>

# %%
def model_attention(q, k, v, *, causal, q_pos, k_pos):
    """q (B, H, N, D), k and v (B, G, S, D), q_pos (..., N), k_pos (..., S) -> (B, H, N, D)"""
    return None


check.model_attention(model_attention)

# %% [markdown]
# Does it pass? Then put it into SmolLM2: write `model_attention` in place of `by_heads` here, and run the cell. The logits
# should agree to a few digits after the point, and the next words not change at all.

# %%
changed = model.with_attention(by_heads)                              # your own here
print(f"largest difference of a logit {np.abs(changed.forward(ids) - logits).max():.0e}")
for m in (model, changed):
    more = m.generate(ids, max_new_tokens=8, progress=False)
    print(repr(model.tokenizer.decode(more)) if trained else more)

# %% [markdown]
# ## Three questions
#
# **1.** You swap the columns of two heads in W_Q, W_K and W_V. What must be done to W_O so that the layer stays the same?
#
# <details><summary>Answer</summary>
#
# Its two blocks of D *rows* have to be swapped as well. The sum over heads does not mind the order, as long as each head
# meets its own block. Heads have numbers, but no order.
#
# </details>
#
# **2.** SmolLM2 has E = 576, H = 9, D = 64. Head 13.8 writes a row of how many numbers into the residual stream, and within
# how many directions?
#
# <details><summary>Answer</summary>
#
# 576 numbers, in a space of at most 64 directions: it is a combination of the 64 rows of its block of W_O.
#
# </details>
#
# **3.** A head rests on the first token in every text of yours. May you delete it?
#
# <details><summary>Answer</summary>
#
# Not on that evidence. 18.6 rests there in prose, too, and is the strongest induction head when a text repeats itself.
# Switch it off and measure, on texts of the kind that matter to you.
#
# </details>
#
# ## Where to go from here
#
# - The code: [core/projection.py](../minattn/core/projection.py) (`split_heads`, `merge_heads`) and
#   [multihead.py](../minattn/multihead.py), the layer with its backward.
# - Heads: Vaswani et al. 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), section 3.2.2. Induction heads: Olsson
#   et al. 2022, [arXiv:2209.11895](https://arxiv.org/abs/2209.11895). Resting on the first token: Xiao et al. 2023,
#   [arXiv:2309.17453](https://arxiv.org/abs/2309.17453).
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [05 Cross-attention](05_cross_attention.ipynb), where the keys come from somewhere else.
