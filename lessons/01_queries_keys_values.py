# %% [markdown]
# # 01 Queries, keys, values
#
# 20 minutes · difficulty: easy · read before: [00 A sentence through a model](00_a_sentence_through_a_model.ipynb)
# · [glossary](glossary.md)
#
# You will be able to
#
# - compute one query's attention with a pocket calculator: scores, softmax, average,
# - write it for all queries in four lines of NumPy,
# - see each stage with `ma.steps`, and say what a permutation of the keys changes.

# %% [markdown]
# ## The question
#
# A Python dictionary finds a value by its key: `{"cat": 3}["cat"]`. It answers only where the key is *equal*. Nearly equal
# counts for nothing, so small steps cannot improve it, and small steps are how a model learns. What would a dictionary look
# like in which a query **resembles** keys, and the answer is a mixture of values, more from where the key fits better? That is
# attention, and it fits in one line:
#
# $$
# \text{out} = \text{softmax}\left(\frac{q k^\top}{\sqrt{D}}\right) v
# $$
#
# We compute it for four tokens with vectors of two decimals. Nobody trained these numbers; they are small enough to check.

# %%
import numpy as np

import course
import minattn as ma
from minattn.practice import check

np.set_printoptions(precision=2, suppress=True)
tokens, x = course.TOKENS, course.X                 # N = 4 tokens, E = 4 numbers each
for token, row in zip(tokens, x, strict=True):
    print(f"{token:5}", row)

# %% [markdown]
# ## 1. Three views of each token
#
# Each token plays three parts: it asks (query), it is found (key), it gives (value). Three matrices, which a real model learns,
# make the three vectors. There are N queries of D numbers, S keys of D numbers and S values of Dv numbers; here all four are 4.
# First, the first number of the query of *sat*, multiplied out:

# %%
sat = tokens.index("sat")
terms = [f"({a:.2f} * {b:.2f})" for a, b in zip(x[sat], course.W_Q[:, 0], strict=True)]
print(" + ".join(terms), "=", f"{x[sat] @ course.W_Q[:, 0]:.2f}")

q = (x @ course.W_Q).round(2)                       # (N, D): rounded, to follow by hand
k = (x @ course.W_K).round(2)                       # (S, D)
v = (x @ course.W_V).round(2)                       # (S, Dv)
for name, array in [("q", q), ("k", k), ("v", v)]:
    print(f"\n{name}")
    for token, row in zip(tokens, array, strict=True):
        print(f"  {token:5} {row}")

# %% [markdown]
# ## 2. One query, one key after the other
#
# **Score.** The query of *sat* is multiplied with a key, number by number, and the products are summed: a dot product, large
# where the two point the same way.
#
# **Predict before you run.** Which key fits *sat* best? Compare its query, (-1.52, -0.08, -0.56, 0.32), with the four keys
# above: the score is large where the large numbers of the one meet large numbers of the same sign in the other.
#
# <details><summary>Answer</summary>
#
# *cat*: its -1.77 meets the -1.52, and both have the same sign in the third and fourth number too. The keys of *sat* and
# *down* agree in all four signs, but have only -0.05 and -0.06 where the query is largest.
#
# </details>

# %%
query = q[sat]
scores = []
for token, key in zip(tokens, k, strict=True):
    products = [a * b for a, b in zip(query, key, strict=True)]
    scores.append(sum(products))
    print(f"{token:5}", " + ".join(f"({p:5.2f})" for p in products), "=", f"{scores[-1]:5.2f}")

# %% [markdown]
# **Scale.** Divide by $\sqrt{D}$, here 2, so that the size of the scores does not grow with D
# ([02 Scaling](02_scaling.ipynb)).
#
# **Softmax.** Scores can have any sign; weights should be positive and sum to 1. So take $e$ to the power of each score and
# divide by the sum:
#
# $$
# w_j = \frac{e^{s_j}}{\sum_i e^{s_i}}
# $$

# %%
scaled = [score / 2 for score in scores]
powers = [np.exp(s) for s in scaled]
weights = [power / sum(powers) for power in powers]
for token, s, power, weight in zip(tokens, scaled, powers, weights, strict=True):
    print(f"{token:5} e^{s:.2f} = {power:.2f}   / {sum(powers):.2f} = {weight:.3f}")
print("sum of the weights:", round(sum(weights), 6))

# %% [markdown]
# **Average.** Each value counts as much as its weight:

# %%
mixed = np.zeros(4)
for token, weight, value in zip(tokens, weights, v, strict=True):
    mixed += weight * value
    print(f"{weight:.3f} * {token:5} {value}   so far {mixed}")

# %% [markdown]
# That is the new vector of *sat*. Of the four values, it lies nearest to that of *cat*; being an average, it lies
# between the smallest and the largest value in each column.

# %%
assert (v.min(axis=0) <= mixed).all()
assert (mixed <= v.max(axis=0)).all()
assert np.linalg.norm(v - mixed, axis=-1).argmin() == tokens.index("cat")

# %% [markdown]
# ## 3. Every query at once
#
# The loop over keys is a matrix product, and so is the loop over queries: `q @ k.T` holds the score of every query with every
# key.
#
# **Predict before you run.** If there were N = 4 queries and S = 5 keys, which shapes would `q @ k.T` and the output have?
#
# <details><summary>Answer</summary>
#
# (4, 5), a row for each query and a column for each key; and (4, Dv): one output for each query, whatever the number of keys.
#
# </details>

# %%
def attend(q, k, v):
    """q (N, D), k (S, D), v (S, Dv) -> (N, Dv), and the weights (N, S)."""
    scores = q @ k.T / np.sqrt(q.shape[-1])
    powers = np.exp(scores)
    weights = powers / powers.sum(axis=-1, keepdims=True)
    return weights @ v, weights


out, w = attend(q, k, v)
assert np.allclose(w[sat], weights)
assert np.allclose(out[sat], mixed)
assert (k @ k[tokens.index("down")]).argmax() == np.linalg.norm(k, axis=-1).argmax() == sat     # see exercise 2
print("weights, queries down, keys across:", w, "\nsums of the rows:", w.sum(axis=-1), sep="\n")

# %% [markdown]
# ## 4. Built broken: two mistakes
#
# **The wrong axis.** A softmax runs over the keys, the last axis. Over the queries, the numbers still look like weights. The
# symptom is in the sums:

# %%
scores = q @ k.T / 2
wrong = np.exp(scores) / np.exp(scores).sum(axis=0, keepdims=True)
print("sums of the rows   ", wrong.sum(axis=-1), " should all be 1")
print("sums of the columns", wrong.sum(axis=0), " may be anything")

# %% [markdown]
# **Overflow.** $e^{1000}$ is larger than any float64. The mend: a constant added to all scores of a row cancels in the quotient,
# so subtract the largest score first. Then no power exceeds 1.

# %%
big = np.array([1000.0, 999.0, 0.0])
with np.errstate(all="ignore"):                                       # NumPy would warn, rightly
    print("plain  ", np.exp(big) / np.exp(big).sum())
shifted = np.exp(big - big.max())
print("shifted", shifted / shifted.sum())
print("library", ma.softmax(big))
assert np.allclose(ma.softmax(scores + 7), ma.softmax(scores))        # a constant changes nothing

# %% [markdown]
# ## 5. The library
#
# `ma.project_qkv` makes the three views, `ma.attention` does the rest. (Nothing is rounded on the way, so the result differs a
# little from ours.)

# %%
q_, k_, v_ = ma.project_qkv(x, course.W_Q, course.W_K, course.W_V)
assert np.allclose(ma.attention(q_, k_, v_), attend(q_, k_, v_)[0])
assert np.allclose(ma.attention(q, k, v), out)
rounding = np.abs(ma.attention(q_, k_, v_) - out).max()
print(f"largest difference through rounding q, k and v: {rounding:.4f}")

# %% [markdown]
# `ma.steps` keeps what happens on the way. What to look for, from left to right: raw scores of both signs; the same, divided by
# 2 (look at the colour bar); weights, where the row *sat* has its largest entry under *cat*, and each row sums to 1.

# %%
ma.plot.steps(ma.steps(q, k, v), tokens);

# %% [markdown]
# ## 6. What order means
#
# **Predict before you run.** Shuffle the keys and, in the same way, the values. What happens to the output? And if only the keys
# are shuffled?
#
# <details><summary>Answer</summary>
#
# Nothing, up to rounding: a sum does not depend on the order of its terms. With only the keys shuffled, each weight meets a
# wrong value, and the output is another.
#
# </details>

# %%
order = np.random.default_rng(0).permutation(4)
both = np.abs(ma.attention(q, k[order], v[order]) - out).max()
keys = np.abs(ma.attention(q, k[order], v) - out).max()
print(f"new order of the keys: {order}")
print(f"keys and values shuffled: the output changes by {both:.1e}")
print(f"only keys shuffled:       the output changes by {keys:.2f}")
assert both < 1e-12 < keys

# %% [markdown]
# So attention by itself does not know which token came first: to it, "cat bites dog" and "dog bites cat" hold the same set of
# keys and values. Position has to be put in on purpose (lesson 06), and what a token may look at too
# ([03 Masks](03_masks.ipynb)).

# %% [markdown]
# ## 7. The real thing
#
# The same function on SmolLM2: query head 8 of layer 13, which reads key head 2 (lesson 00), and the last token of "The cat sat
# on the mat because it was tired", which may look at all of them.

# %%
s = course.real("sentence")
print("from the model itself" if course.model() else "from the stored maps")
one, weights = attend(s.q[8, -1:], s.k[2], s.v[2])  # q (1, 64), k and v (10, 64)
for token, weight in zip(s.tokens, weights[0], strict=True):
    print(f"{token:9} {weight:.2f} {'#' * round(40 * weight)}")
assert np.allclose(one[0], ma.attention(s.q, s.k, s.v, causal=True)[8, -1], atol=1e-4)

# %% [markdown]
# ## 8. What it costs
#
# The scores are N S dot products of D terms; the output is N D sums of S terms (with Dv = D). Each of the two takes $2 N S D$
# FLOPs, and the weights are N S numbers to store. With N = S, work and storage grow with the square of N.

# %%
N, D = 512, 64
big_q, big_k, big_v = np.random.default_rng(0).standard_normal((3, N, D))
by_loop = course.seconds(lambda: [attend(row[None], big_k, big_v) for row in big_q])
at_once = course.seconds(lambda: attend(big_q, big_k, big_v))
rows = [(N, "one query at a time", by_loop), (N, "all at once", at_once)]
rows += [(length, "", None) for length in (1_000, 10_000, 100_000)]
print(f"D = {D}, one head of one layer, float64\n\n  N = S        GFLOP   GB of weights   measured here")
for length, how, took in rows:
    flops, size = 4 * length * length * D, 8 * length * length
    print(f"{length:7,} {flops / 1e9:12.3f} {size / 1e9:15.4f}   {f'{took * 1e3:.1f} ms, {how}' if took else ''}".rstrip())

# %% [markdown]
# ## 9. Exercises
#
# Replace `return None` and run the cell. The check calls your function on arrays of its own, of several sizes; where the answer
# is a known mistake, it names the mistake.

# %% [markdown]
# **1 (easy).** Write `scaled_scores(q, k)`: from q (N, D) and k (S, D) the scaled scores (N, S), a row for each query.
#
# <details><summary>Hint</summary>
#
# A score is a dot product of a row of q with a row of k. Section 3 has all of them in one matrix product.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Divide by the root of the number of products that one score sums up: that is the length of the *last* axis of q.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def scaled_scores(q, k):
#     return q @ k.T / np.sqrt(q.shape[-1])
# ```
#
# </details>

# %%
def scaled_scores(q, k):
    """q (N, D), k (S, D) -> (N, S)"""
    return None


check.scaled_scores(scaled_scores)

# %% [markdown]
# **2 (easy).** The longer the arrow that a query is, the more one key wins. Write `ask(key, length)`: a query (D,) that
# points the way `key` (D,) points and has the given length, the root of the sum of its squares. (Used on the key of *down*,
# a long query gets nearly the value of one token alone. Which?)
#
# <details><summary>Hint</summary>
#
# `np.linalg.norm(key)` is the length that the key has.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# First make an arrow of length 1 that points the same way, then give it the length wanted.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def ask(key, length):
#     return key / np.linalg.norm(key) * length
# ```
#
# A long query on the key of *down* gets the value of *sat*: a dot product rewards long keys, and the key of *sat* is much
# the longest.
#
# </details>

# %%
def ask(key, length):
    """key (D,), a number -> (D,)"""
    return None


check.ask(ask)

# %% [markdown]
# **3 (medium).** Write `softmax(scores)` for scores (N, S): weights (N, S) over the keys, right at any size of the scores.
# A score of $-\infty$ gets the weight 0; every row has at least one other.
#
# <details><summary>Hint</summary>
#
# Section 4 has both mistakes that are to be avoided, and the mend for the second.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `scores.max(axis=-1, keepdims=True)` has shape (N, 1) and can be subtracted from each row. Do not write it back into
# `scores`: the array belongs to the caller.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def softmax(scores):
#     powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
#     return powers / powers.sum(axis=-1, keepdims=True)
# ```
#
# The largest power is 1, so nothing overflows and no sum is 0.
#
# </details>

# %%
def softmax(scores):
    """(N, S) -> (N, S)"""
    return None


check.softmax(softmax)

# %% [markdown]
# **4 (medium).** Write `attention(q, k, v)` whole: q (N, D), k (S, D), v (S, Dv) come in, the output (N, Dv) comes out. If
# you return a dictionary, such as `{"scaled": ..., "weights": ..., "out": ...}`, the check compares each stage, and you see
# which one is the first to differ.
#
# <details><summary>Hint</summary>
#
# Three steps: scores, softmax, average. The first two are exercises 1 and 3.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Some of the scores are in the hundreds, so the largest one of each row has to be subtracted here too. The average of all
# queries is one matrix product of weights (N, S) and values (S, Dv).
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def attention(q, k, v):
#     scaled = q @ k.T / np.sqrt(q.shape[-1])
#     powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
#     weights = powers / powers.sum(axis=-1, keepdims=True)
#     return {"scaled": scaled, "weights": weights, "out": weights @ v}
# ```
#
# N, S, D and Dv are all different in the check, so a transposed or a wrongly read axis cannot hide.
#
# </details>

# %%
def attention(q, k, v):
    """q (N, D), k (S, D), v (S, Dv) -> (N, Dv)"""
    return None


check.attention(attention)

# %% [markdown]
# ## 10. Three questions
#
# 1. A row of scores is 3, 3, 3. What are the weights? And for 103, 103, 103?
#
# <details><summary>Answer</summary>
#
# One third each, both times: only differences between scores count.
#
# </details>
#
# 2. Can an output be larger, in any of its numbers, than every value was?
#
# <details><summary>Answer</summary>
#
# No. The weights are positive and sum to 1, so each number is an average of that column of the values.
#
# </details>
#
# 3. q is (7, 16), k is (9, 16). Which shapes may v have, and which shape has the output?
#
# <details><summary>Answer</summary>
#
# v is (9, Dv) with any Dv: one value for each key. The output is (7, Dv).
#
# </details>
#
# ## Where things are
#
# - Projection: [projection.py](../minattn/core/projection.py). Softmax: [softmax.py](../minattn/core/softmax.py). Every step,
#   named: [reference.py](../minattn/core/reference.py).
# - The paper: Vaswani et al. 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), equation (1) and section 3.2.
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [02 Scaling](02_scaling.ipynb), why the scores are divided by $\sqrt{D}$.
