# %% [markdown]
# # 06 Order
#
# 55 minutes · difficulty: medium · read before: [01 Queries, keys, values](01_queries_keys_values.ipynb),
# [03 Masks](03_masks.ipynb), [04 Many heads](04_many_heads.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - show that attention without positions reads a bag of words, and what a causal mask changes about that,
# - build sinusoids, a learned table, RoPE and ALiBi, each in a few lines,
# - tell the two layouts of RoPE apart, and measure what a wrong guess costs a real model,
# - say which kind of positions to take when, and where each one ends.

# %% [markdown]
# ## The question
#
# "the cat sat" and "sat the cat" hold the same words. Shuffle the keys with their values, and attention gives the same
# output (lesson 05). So where does a model get the order from?
#
# The course's vectors once more, one head, N = 4, D = 4.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np

import course
import minattn as ma
from course import TOKENS, W_K, W_Q, W_V, X
from minattn.practice import check

np.set_printoptions(precision=2, suppress=True)


def layer(x, **options):
    """Self-attention of one head; x (N, E) to (N, Dv)."""
    return ma.attention(*ma.project_qkv(x, W_Q, W_K, W_V), **options)


print(layer(X))

# %% [markdown]
# ## Predict before you run
#
# The sentence is now "the cat sat the": `X[[0, 1, 2, 0]]`. There is no mask.
#
# 1. How do row 0 and row 3 of the output differ?
# 2. How do the weights of "cat" on key 0 and on key 3 differ?
#
# <details><summary>Answer</summary>
#
# 1. Not at all. Both queries are made from the same vector, and both meet the same four keys.
# 2. Not at all: the keys are equal, so the scores are. Nothing in a vector says where it stands.
#
# </details>

# %%
twice = X[[0, 1, 2, 0]]
q, k, v = ma.project_qkv(twice, W_Q, W_K, W_V)
print("row 0", layer(twice)[0], " row 3", layer(twice)[3])
print("weights of 'cat'", ma.attention_weights(q, k)[1])
np.testing.assert_allclose(layer(twice)[0], layer(twice)[3])

# %% [markdown]
# ## A bag of words
#
# First one query, in a loop: "sat" asks the same four keys in two orders.

# %%
q, k, v = ma.project_qkv(X, W_Q, W_K, W_V)
for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
    scores = np.array([q[2] @ k[s] / np.sqrt(4) for s in order])
    weights = np.exp(scores) / np.exp(scores).sum()
    out = sum(weight * v[s] for weight, s in zip(weights, order, strict=True))
    shares = [f"{TOKENS[s]} {w:.2f}" for s, w in zip(order, weights, strict=True)]
    print("   ".join(shares), "  output", out)
    np.testing.assert_allclose(out, layer(X)[2])

# %% [markdown]
# Then everything at once. Shuffle the tokens, and the rows of the output are shuffled in the same way, and nothing else
# happens. (The word for it is *permutation equivariant*.) With a causal mask that no longer holds:

# %%
order = np.array([3, 1, 0, 2])
for causal in (False, True):
    difference = layer(X[order], causal=causal) - layer(X, causal=causal)[order]
    print(f"causal={causal!s:5}  largest difference {np.abs(difference).max():.2g}")
np.testing.assert_allclose(layer(X[order]), layer(X)[order])

early = np.array([1, 2, 0, 3])                                        # other order before "down"
np.testing.assert_allclose(layer(X[early], causal=True)[3], layer(X, causal=True)[3])

# %% [markdown]
# A causal mask says *which* tokens came before, and nothing about *their* order: the last line checks that "down" gets
# the same output after "the cat sat" and after "cat sat the". (With a second layer some order does seep through: it
# reads rows that were made from what each token could see, and these change with the order.)
#
# There are two places to put positions in: into the vectors before the projections, or into the scores.
#
# ## 1. Sinusoids, added to x
#
# Every position gets a row of E numbers, sines and cosines of faster and slower angles, and it is added to the token's
# vector. One row by hand, position 2, E = 4:

# %%
E, base, position, row = 4, 10_000.0, 2, []
for pair in range(E // 2):
    frequency = base ** (-2 * pair / E)  # 1 for the first pair, 0.01 for the second
    row += [np.sin(position * frequency), np.cos(position * frequency)]
    print(f"pair {pair}: frequency {frequency:.2f}, angle {position * frequency:.2f}, "
          f"sin {row[-2]:.2f}, cos {row[-1]:.2f}")
np.testing.assert_allclose(ma.positions.sinusoidal(np.array([2]), 4)[0], row)

placed = twice + ma.positions.sinusoidal(np.arange(4), 4)
print("'the' at 0 and at 3 now give", layer(placed)[0], "and", layer(placed)[3])

# %% [markdown]
# Read each row of the left picture as the hands of many clocks: those on the left turn fast and tell neighbours apart,
# those on the right turn slowly and tell distant places apart. On the right is the dot product of two rows. It depends
# on the distance between the two positions alone, is largest at distance 0, and falls, with ripples.

# %%
table = ma.positions.sinusoidal(np.arange(128), 64)                   # (N, E)
fig, axes = plt.subplots(1, 2, figsize=(9.4, 3.9), layout="constrained")
image = axes[0].imshow(table, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest",
                       aspect="auto")
axes[0].set(xlabel="channel", ylabel="position", title="sinusoids, E = 64")
fig.colorbar(image, ax=axes[0], label="value")
for anchor, colour, width in [(20, "#d3d3d3", 6), (64, "#35b779", 3), (100, "#440154", 1)]:
    axes[1].plot(np.arange(128) - anchor, table @ table[anchor], colour, linewidth=width,
                 label=f"position {anchor}")
axes[1].set(xlabel="distance", ylabel="dot product of two rows", ylim=0,
            title="it depends on the distance alone")
axes[1].legend()
products = table @ table.T
for distance in (1, 10, 50):
    np.testing.assert_allclose(np.diagonal(products, distance), products[0, distance])

# %% [markdown]
# The sum goes through W_Q and W_K before it becomes a score, so the model has to *learn* to read distances out of it.
#
# ## 2. A learned table, added to x
#
# Simpler still: one trained row for each position, as in BERT and GPT-2. It can learn anything about the positions that it
# was trained on, and it ends where its rows end. The library says so, rather than wrap around or repeat the last row:

# %%
rng = np.random.default_rng(6)
table = rng.standard_normal((16, 4))                                  # 16 positions, E = 4
print(layer(X + ma.positions.learned(table, np.arange(4)))[0])
try:
    ma.positions.learned(table, np.arange(13, 17))
except ma.MinattnError as error:
    print(error)
rows, width = 1024, 768                                               # GPT-2, its smallest size
print(f"GPT-2: {rows * width:,} parameters in the table")

# %% [markdown]
# ## 3. RoPE: turn queries and keys
#
# Rotary position embedding puts the position into the score. Take two numbers of a query as a point in the plane, and
# turn it by an angle that grows with the position; do the same to keys. A turn keeps lengths. And the dot product of two
# arrows depends on their lengths and the angle *between* them, so if both are turned further by the same amount, it
# stays.
#
# One pair by hand: the first two numbers of the query of "sat" and of the key of "cat", one radian a position.

# %%
def turn(pair, angle):
    a, b = pair
    return np.array([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)])


arrow_q, arrow_k = q[2, :2], k[1, :2]
print("query", arrow_q, " key", arrow_k)
for m, n in [(2, 1), (3, 2), (101, 100), (3, 1), (9, 7)]:
    here, there = turn(arrow_q, m * 1.0), turn(arrow_k, n * 1.0)
    print(f"query at {m:3}, key at {n:3}, distance {m - n}: "
          f"length of the query {np.hypot(*here):.2f}, score {here @ there:6.2f}")

# %% [markdown]
# Equal distances, equal scores. In the picture look at the angle between the dark and the light arrow of each panel: both
# arrows turn from panel to panel, the angle between them stays.

# %%
fig, axes = plt.subplots(1, 4, figsize=(9.4, 2.7), layout="constrained", sharex=True, sharey=True)
for n, ax in enumerate(axes):
    for arrow, at, colour, name in [(arrow_q, n + 1, "#440154", "query"),
                                    (arrow_k, n, "#35b779", "key")]:
        tip = turn(arrow, at * 1.0)
        ax.annotate("", tip, (0, 0), arrowprops={"color": colour, "width": 1.5, "headwidth": 7})
        ax.text(*(tip * 1.45), name, color=colour, ha="center", va="center", fontsize=8)
    ax.add_patch(plt.Circle((0, 0), np.hypot(*arrow_q), fill=False, color="#bbbbbb", linewidth=0.8))
    ax.set(title=f"query at {n + 1}, key at {n}", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
axes[0].set_ylabel("second number")
fig.supxlabel("first number", fontsize=10);

# %% [markdown]
# A head has D numbers, that is D/2 pairs, and as with the sinusoids each pair turns at its own speed,
# $f_p = \theta^{-2p/D}$ with $\theta = 10{,}000$. (The paper calls these speeds $\theta_i$; here, as in the settings of
# real models, $\theta$ is the base.) In a loop over pairs, and then the library's function:

# %%
theta, positions = 10_000.0, np.arange(4)
turned = np.empty_like(q)
for m in positions:
    for p in range(2):                                                # D / 2 pairs
        turned[m, 2 * p:2 * p + 2] = turn(q[m, 2 * p:2 * p + 2], m * theta ** (-2 * p / 4))
np.testing.assert_allclose(ma.rope(q, positions, layout="interleaved"), turned)

long_q, long_k = rng.standard_normal((2, 3, 7, 64))                   # H = 3, N = 7, D = 64
for layout in ("interleaved", "half"):
    here_q, here_k = (ma.rope(x, np.arange(7), layout=layout) for x in (long_q, long_k))
    there_q, there_k = (ma.rope(x, np.arange(7) + 1000, layout=layout) for x in (long_q, long_k))
    lengths = np.linalg.norm(here_q, axis=-1) - np.linalg.norm(long_q, axis=-1)
    moved = here_q @ here_k.swapaxes(-1, -2) - there_q @ there_k.swapaxes(-1, -2)
    print(f"{layout:12} lengths change by {np.abs(lengths).max():.0e}, "
          f"scores 1000 positions later by {np.abs(moved).max():.0e}")
    np.testing.assert_allclose(moved, 0, atol=1e-10)

# %% [markdown]
# Values are not turned. A position decides *how much* of a value arrives, not what arrives.
#
# ## Two layouts
#
# Which two of the D numbers form a pair? The paper takes neighbours, (0, 1), (2, 3), and so on: **interleaved**. Many
# programs take (0, D/2), (1, D/2 + 1), and so on: **half**. Both have every property above. To see the pairs, turn each
# unit vector and look at where it goes: cells off the diagonal join the two channels of a pair.

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.5), layout="constrained")
for ax, layout in zip(axes, ("interleaved", "half"), strict=True):
    rotation = ma.rope(np.eye(8), np.ones(8, dtype=int), layout=layout, theta=10.0)
    image = ax.imshow(rotation, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    ax.set(title=layout, xlabel="channel after", xticks=range(8), yticks=range(8))
    pairs = [tuple(np.flatnonzero(row).tolist()) for row in rotation]    # a channel and its partner
    print(f"{layout:12} pairs {sorted(set(pairs))}")
axes[0].set_ylabel("channel before")
fig.colorbar(image, ax=axes, label="share of the channel before");

# %% [markdown]
# Weights trained with one layout can be used with the other once the columns of W_Q and W_K have been reordered within
# each head: every score is the same. Changing one without the other is the mistake:

# %%
def scores(layout, w_q, w_k):
    """X's scores with RoPE in a layout, one head of D = 4."""
    q, k = (ma.rope(X @ w, np.arange(4), layout=layout) for w in (w_q, w_k))
    return q @ k.T


half_q, half_k = (ma.positions.change_layout(w, 1, to="half") for w in (W_Q, W_K))
right = scores("interleaved", W_Q, W_K)
np.testing.assert_allclose(scores("half", half_q, half_k), right)
wrong = scores("half", W_Q, W_K)
reordered = ma.positions.change_layout(np.arange(4.0)[None], 1, to="half")[0]
print("columns of a head, reordered:", reordered.astype(int))
print("scores of 'sat', right layout", right[2], " wrong layout", wrong[2])
assert np.allclose(np.diag(wrong), np.diag(right))  # distance 0: no turn, so no difference

# %% [markdown]
# ## The real thing, built broken
#
# GGUF files of Llama-like models store Q and K weights in the order for interleaved RoPE, Hugging Face checkpoints of
# the same models in the order for half. Whoever reads one with the code for the other gets a model that runs. Here is
# SmolLM2 under all four pairings, and with the rotation switched off, on a paragraph of some 130 tokens. This is the
# function that changes it:

# %%
print(inspect.getsource(course.turned))

# %%
layouts = course.real("layouts")
print(f"{'':24} perplexity   'The capital of France is' continues with")
for name, perplexity, guess in zip(layouts.names, layouts.perplexity, layouts.guess, strict=True):
    ratio = perplexity / layouts.perplexity[0]
    print(f"{name:24} {perplexity:10.1f}   {guess!r}   ({ratio:.1f} times the first perplexity)")

fig, ax = plt.subplots(figsize=(7.2, 2.2), layout="constrained")
ax.barh(layouts.names, layouts.perplexity, color=["#35b779"] * 2 + ["#440154"] * 2 + ["#7d828c"])
ax.invert_yaxis()
ax.set(xlabel="perplexity on a paragraph (lower is better)");

# %% [markdown]
# Perplexity is $e^{\text{loss}}$: the model is as unsure as if it had to guess among that many tokens. The two right
# pairings agree. The two wrong ones are about five times as high, though all five say " Paris": one greedy answer is no
# test of a model. Measure the loss on a text, or compare logits.
#
# The last line is what is left without any rotation, with the causal mask as the only source of order, in a model that
# was trained with RoPE. It is the worst, and still far from a blind guess among all 49,152 tokens. (A model *trained*
# without positions is another matter; Kazemnejad et al. 2023 study such models.)

# %%
best, same, *broken, nothing = layouts.perplexity
assert abs(same / best - 1) < 1e-3
assert all(4.5 < each / best < 5.5 for each in broken)
assert nothing > max(broken)
assert set(layouts.guess) == {" Paris"}

# %% [markdown]
# ## Our own rotation in SmolLM2
#
# Is the loop over pairs from above what the model was trained with? Take SmolLM2's own rotation away (all frequencies 0), and
# give it an attention that turns queries and keys, and not values, by `turn`. Then compare the logits, the scores for the next
# token. Where the weights are not here, the same lines run on a Llama of the same shape with random weights.

# %%
model, trained = course.model(), True
if model is None:
    print("The lines below run on random weights of SmolLM2's shape.")
    model, trained = ma.models.Llama.random(ma.models.LlamaConfig.smollm2()), False
ids = model.tokenizer.encode(course.SENTENCE) if trained else list(range(100, 110))
unturned = course.turned(model, "interleaved", scaling=np.zeros_like)


def by_pairs(x, positions, theta):
    """x (N, D), one head, turned pair by pair."""
    out, D = np.empty_like(x), x.shape[1]
    for pair in range(0, D, 2):
        out[:, pair:pair + 2] = turn(x[:, pair:pair + 2].T, positions * theta ** (-pair / D)).T
    return out


# %%
def with_rotation(rotate, values=False):
    """The model without a rotation of its own, which turns each head's queries and keys by `rotate`."""
    def fn(q, k, v, *, q_pos, k_pos, **options):                      # B = 1: (1, H, N, D), (1, G, S, D)
        theta = model.config.rope_theta
        q = np.stack([rotate(head, q_pos, theta) for head in q[0]])[None]
        k = np.stack([rotate(head, k_pos, theta) for head in k[0]])[None]
        v = np.stack([rotate(head, k_pos, theta) for head in v[0]])[None] if values else v
        return ma.attention(q, k, v, q_pos=q_pos, k_pos=k_pos, **options)
    return unturned.with_attention(fn)


logits = model.forward(ids)                                           # (N, vocabulary)
runs = {"our own rotation": with_rotation(by_pairs), "no rotation": unturned,
        "turned the other way": with_rotation(lambda x, at, theta: by_pairs(x, -at, theta)),
        "positions from 7": with_rotation(lambda x, at, theta: by_pairs(x, at + 7, theta)),
        "values turned too": with_rotation(by_pairs, values=True)}
apart = {name: np.abs(run.forward(ids) - logits).max() for name, run in runs.items()}
for name, largest in apart.items():
    print(f"{name:21} largest difference of a logit {largest:.0e}, logits reach {np.abs(logits).max():.0f}")
assert max(apart["our own rotation"], apart["positions from 7"]) < 1e-2
assert min(apart["no rotation"], apart["turned the other way"], apart["values turned too"]) > 0.1

# %% [markdown]
# The rotation is the model's. Positions that start at 7 change nothing but rounding, since only distances count. A turn in
# the other sense is another model: it exchanges the sign of every distance, and these weights were trained with the first.
#
# ## Stretching RoPE
#
# A pair repeats after $2\pi/f_p$ positions, its wavelength. Pairs whose wavelength is longer than the trained length
# never made a full turn in training: beyond that length they reach angles that the model has not seen. The released code
# of Llama 3.1 therefore divides the frequencies of the slow pairs by 8, keeps the fast ones, and blends in between. Look
# where the two curves part.

# %%
scaling = ma.positions.Llama3Scaling()                  # factor 8, first trained on 8192 positions
before = ma.positions.rope_frequencies(128, 500_000.0)  # D = 128, Llama 3.1's theta
after = ma.positions.rope_frequencies(128, 500_000.0, scaling)
fig, ax = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
ax.semilogy(2 * np.pi / before, "o", markersize=3, color="#7d828c", label="RoPE")
ax.semilogy(2 * np.pi / after, ".", markersize=4, color="#440154", label="Llama 3.1's scaling")
for length, name in [(8192, "above 8192: frequency divided by 8"), (8192 / 4, "below 2048: kept")]:
    ax.axhline(length, color="#35b779", linewidth=1)
    ax.text(0, length * 1.2, name, fontsize=8)
ax.set(xlabel="pair p", ylabel="wavelength in positions")
ax.legend(loc="lower right")
ratio = before / after
kept, divided = np.isclose(ratio, 1).sum(), np.isclose(ratio, 8).sum()
print(f"of {len(ratio)} pairs {kept} are kept, {divided} divided by 8, "
      f"{len(ratio) - kept - divided} in between")

# %% [markdown]
# ## 4. ALiBi: a penalty on distance
#
# The plainest of all: subtract from each score the distance times a slope, one slope for each head, and add nothing to
# the vectors. No training, no angles. Head 0 of eight sees little beyond its neighbours, head 7 nearly everything. As a
# `score_mod`, a function that `ma.attention` calls with each score and its batch row b, head h, query i and key j, it is
# one line, and the same as adding the penalty as an array (`bias`):

# %%
slopes = ma.positions.alibi_slopes(8)
print("slopes", ", ".join(f"1/{1 / slope:.0f}" for slope in slopes))
q8, k8, v8 = rng.standard_normal((3, 8, 12, 16))                      # H = 8, N = S = 12, D = 16
one_line = ma.attention(q8, k8, v8, causal=True,
                        score_mod=lambda s, b, h, i, j: s - slopes[h] * (i - j))
bias = ma.positions.alibi_bias(slopes, np.arange(12), np.arange(12))  # (H, N, S)
np.testing.assert_allclose(one_line, ma.attention(q8, k8, v8, causal=True, bias=bias))
print("bias of head 0, last row", bias[0, -1])

fig, ax = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
for h in range(8):
    ax.plot(bias[h, -1, ::-1], color=plt.cm.viridis(h / 8), label=f"head {h}")
ax.set(xlabel="distance from query to key", ylabel="bias")
ax.legend(fontsize=8, bbox_to_anchor=(1, 1));

# %% [markdown]
# What does it do to the weights? Let all queries be 0, so that all scores are equal: without ALiBi every row would be
# uniform. From left to right, heads look further back.

# %%
zero = np.zeros_like(q8)
weights = ma.attention_weights(zero, k8, causal=True, bias=bias)
shown = [0, 1, 3, 7]
ma.plot.heads(weights[shown], mask=ma.masks.causal(),
              titles=[f"head {h}: slope 1/{1 / slopes[h]:.0f}" for h in shown]);

# %% [markdown]
# ## Which one when
#
# | | where it enters | beyond the trained length | parameters | in |
# |---|---|---|---|---|
# | sinusoids | added to x, once | defined, but never seen | none | the transformer of 2017 |
# | learned table | added to x, once | ends with an error | length x E | BERT, GPT-2 |
# | RoPE | q and k, in every layer | defined; slow pairs reach unseen angles, hence stretching | none | Llama, SmolLM2 |
# | ALiBi | scores, in every layer | defined; the penalty just goes on | none | BLOOM |
#
# For a new language model take RoPE: scores depend on distance, keys can be cached once turned, and there are known ways
# to stretch it. Take ALiBi where inputs at test time are longer than in training and what matters is near (that it
# extrapolates is the paper's finding, not measured here). A learned table will do where the length is fixed, as for the
# patches of an image. And take nothing where order means nothing, as in a set of points.
#
# ## What it costs
#
# Per token and head: RoPE takes 6 operations a pair, 3D in all, for a query and the same for a key. A projection takes
# 2ED. In operations RoPE is next to nothing. In time it is not, in NumPy: it reads and writes every number several
# times, and computes sines and cosines. ALiBi adds N x S numbers for each head. (The counts below leave out sines and
# cosines.)

# %%
H, N, D = 9, 512, 64  # queries of one layer of SmolLM2, 512 tokens
x = rng.standard_normal((N, H * D), dtype=np.float32)
w = rng.standard_normal((H * D, H * D), dtype=np.float32)
queries, at = ma.split_heads(x, H), np.arange(N)
all_scores = np.zeros((H, N, N), np.float32)
penalty = ma.positions.alibi_bias(slopes[:1], at, at).astype(np.float32)
work = {
    "projection to q": (2 * N * (H * D) ** 2, lambda: x @ w),
    "RoPE on q": (3 * N * H * D, lambda: ma.rope(queries, at, layout="interleaved")),
    "sinusoids, made and added": (
        N * H * D, lambda: x + ma.positions.sinusoidal(at, H * D).astype(np.float32)),
    "ALiBi, added": (H * N * N, lambda: all_scores + penalty),
}
print(f"N = {N}, H = {H}, D = {D}, float32\n\n"
      "                             million\n"
      "                            operations  each layer  ms here")
for name, (operations, run) in work.items():
    layers = "no" if "sinusoids" in name else "yes"
    print(f"{name:28}{operations / 1e6:10.1f}  {layers:>10}  {1000 * course.seconds(run, 5):7.2f}")

# %% [markdown]
# ## Exercises
#
# Replace `return None` and run the cell. The check calls your function on arrays of its own, of several sizes; where the answer
# is a known mistake, it names the mistake.

# %% [markdown]
# **1 (easy).** Write `sinusoid(positions, E)`: positions (N,) come in, rows (N, E) come out, with sines in the even columns and
# cosines in the odd ones, and the base 10,000. The positions need not start at 0.
#
# <details><summary>Hint</summary>
#
# Pair p, the columns 2p and 2p + 1, has the frequency $10000^{-2p/E}$. The angles are an array (N, E / 2).
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `np.arange(0, E, 2)` is 2p for every pair. `rows[:, 0::2] = ...` writes into the even columns.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def sinusoid(positions, E):
#     angle = positions[:, None] * 10_000.0 ** (-np.arange(0, E, 2) / E)
#     rows = np.empty((len(positions), E))
#     rows[:, 0::2], rows[:, 1::2] = np.sin(angle), np.cos(angle)
#     return rows
# ```
#
# The first pair turns by one radian a position, the last one by $10000^{-(E-2)/E}$: the larger E, the nearer to 1/10000.
#
# </details>

# %%
def sinusoid(positions, E):
    """positions (N,), a number -> (N, E)"""
    return None


check.sinusoid(sinusoid)

# %% [markdown]
# **2 (medium).** Write `rope(x, positions, theta)` in the interleaved layout, for one head, without a loop over positions: x
# (N, D) and positions (N,) come in, (N, D) comes out.
#
# <details><summary>Hint</summary>
#
# `x[:, 0::2]` are the first numbers of all pairs, `x[:, 1::2]` the second ones. The angles are (N, D / 2).
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The function `turn` above has the two lines. Write its two results into the even and the odd columns of a new array.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def rope(x, positions, theta):
#     D = x.shape[-1]
#     angle = positions[:, None] * theta ** (-np.arange(0, D, 2) / D)
#     a, b = x[:, 0::2], x[:, 1::2]
#     out = np.empty_like(x)
#     out[:, 0::2] = a * np.cos(angle) - b * np.sin(angle)
#     out[:, 1::2] = a * np.sin(angle) + b * np.cos(angle)
#     return out
# ```
#
# Written into x itself, the second line would read what the first one has changed.
#
# </details>

# %%
def rope(x, positions, theta):
    """x (N, D), positions (N,), a number -> (N, D)"""
    return None


check.rope(rope)

# %% [markdown]
# Does it pass? Then let it turn in SmolLM2: write `rope` in place of `by_pairs` here, and run the cell.

# %%
changed = with_rotation(by_pairs)                                     # your own here
print(f"largest difference of a logit {np.abs(changed.forward(ids) - logits).max():.0e}")

# %% [markdown]
# **3 (medium).** Write attention with RoPE, `rope_attention(q, k, v, q_pos, k_pos)`: q (N, D), k (S, D), v (S, D), and the
# positions (N,) and (S,) at which queries and keys stand. The layout is interleaved, theta is 10,000, there is no mask, and the
# scores are scaled as always. `ma.rope` may help.
#
# <details><summary>Hint</summary>
#
# `ma.rope(x, positions, layout="interleaved")` turns x. Which of the three arrays are turned, and by whose positions?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Positions belong into the scores. A value has to arrive as it was.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def rope_attention(q, k, v, q_pos, k_pos):
#     q = ma.rope(q, q_pos, layout="interleaved")
#     k = ma.rope(k, k_pos, layout="interleaved")
#     return ma.attention(q, k, v)
# ```
#
# Move all positions by the same amount, and the output stays. If values were turned as well, it would not.
#
# </details>

# %%
def rope_attention(q, k, v, q_pos, k_pos):
    """q (N, D), k and v (S, D), q_pos (N,), k_pos (S,) -> (N, D)"""
    return None


check.rope_attention(rope_attention)

# %% [markdown]
# **4 (medium).** Write a kind of ALiBi that begins to count later: `alibi(heads, N, S, free)` returns what is added to the
# scores, (H, N, S). Distances up to `free` cost nothing, the next one costs one slope, the one after it two, and so on; keys
# that come later than their query get $-\infty$. The slopes are ALiBi's, $2^{-8h/H}$ for h = 1 to H, where `heads` is a power
# of 2. The last query stands at the last key.
#
# <details><summary>Hint</summary>
#
# Positions of the queries in a column, those of the keys in a row, as in lesson 03; the slopes with two axes of 1 behind them.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `np.maximum(x, 0)` cuts at 0. By how much is the distance above what is free? And a penalty is subtracted.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def alibi(heads, N, S, free):
#     i, j = np.arange(S - N, S)[:, None], np.arange(S)
#     slopes = 2.0 ** (-8 * np.arange(1, heads + 1) / heads)
#     penalty = slopes[:, None, None] * np.maximum(i - j - free, 0)
#     return np.where(j <= i, -penalty, -np.inf)
# ```
#
# As a `score_mod` it is one line: `s - slopes[h] * np.maximum(i - j - free, 0)`.
#
# </details>

# %%
def alibi(heads, N, S, free):
    """four numbers -> bias (H, N, S)"""
    return None


check.alibi(alibi)

# %% [markdown]
# **5 (hard).** Somebody gives you a layer, a function from (N, E) to (N, E), and an input x for it. Write `sees_order(layer,
# x)`: True if the order of the tokens matters to the layer, False if a shuffle of the tokens does no more than shuffle the rows
# of the output. You cannot look into the layer, only call it. x has at least three rows, all different.
#
# <details><summary>Hint</summary>
#
# The section "A bag of words" compares two arrays. Which two?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The order that you try must be one that any layer would notice. With a penalty on the distance in both directions a reversal
# changes nothing; with a causal mask the last row does not notice what happens before it.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def sees_order(layer, x):
#     rng = np.random.default_rng(0)
#     orders = [rng.permutation(len(x)) for _ in range(20)]
#     return any(not np.allclose(layer(x[order]), layer(x)[order]) for order in orders)
# ```
#
# One order that makes a difference proves that order matters. That none was found proves nothing, but twenty drawn ones make
# it likely.
#
# </details>

# %%
def sees_order(layer, x):
    """a function (N, E) -> (N, E), and x (N, E) -> True or False"""
    return None


check.sees_order(sees_order)

# %% [markdown]
# ## Three questions
#
# **1.** All positions of a text are shifted by 100. Under which of the four does the output of a layer stay the same?
#
# <details><summary>Answer</summary>
#
# RoPE and ALiBi: their scores depend on distances alone. Sinusoids and the table change the vectors themselves (and a table
# may end).
#
# </details>
#
# **2.** You load a model, it continues "The capital of France is" with " Paris". Is the RoPE layout right?
#
# <details><summary>Answer</summary>
#
# You do not know. All five variants above say " Paris". Compare the loss on a paragraph with the known one, or logits with a
# reference.
#
# </details>
#
# **3.** A program that writes a text keeps the keys of earlier tokens, a KV cache (lesson 07). Why can it keep them
# already turned?
#
# <details><summary>Answer</summary>
#
# A key is turned by its own position, which does not change when further tokens arrive. Only a program that moves tokens
# to other positions has to keep them unturned.
#
# </details>
#
# ## Where to go from here
#
# - The code: [core/rope.py](../minattn/core/rope.py), and [core/positions.py](../minattn/core/positions.py) for the others.
# - Sinusoids: Vaswani et al. 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), section 3.5. RoPE: Su et al. 2021,
#   [arXiv:2104.09864](https://arxiv.org/abs/2104.09864), eqs (14) to (16) and (34). ALiBi: Press et al. 2022,
#   [arXiv:2108.12409](https://arxiv.org/abs/2108.12409), section 3. Without positions: Kazemnejad et al. 2023,
#   [arXiv:2305.19466](https://arxiv.org/abs/2305.19466). Llama 3.1: [arXiv:2407.21783](https://arxiv.org/abs/2407.21783).
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [07 The KV cache](07_kv_cache.ipynb).
