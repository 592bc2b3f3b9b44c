# %% [markdown]
# # 09 A Llama by the numbers
#
# 45 minutes · difficulty: medium · read before: [06 Order](06_order.ipynb), [08 Fewer KV heads](08_mqa_gqa.ipynb)
# · [glossary](glossary.md)
#
# You will be able to
#
# - say where each of the 8,030,261,248 parameters of Llama 3.1 8B sits, and derive the number from seven others,
# - run a real Llama part by part in NumPy, from token ids to the next token,
# - compute its operations and its cache for a token, and the context length at which attention overtakes the rest.

# %% [markdown]
# ## The question
#
# "8B" stands for eight billion parameters. Eight billion of *what*? Attention is what this course is about: is it where
# the parameters are? Is it where the work is? Seven numbers decide:
#
# | | letter | Llama 3.1 8B | SmolLM2 |
# |---|---|---|---|
# | layers | $L$ | 32 | 30 |
# | width of a token's row | $E$ | 4,096 | 576 |
# | width inside the feed-forward part | $F$ | 14,336 | 1,536 |
# | query heads | $H$ | 32 | 9 |
# | KV heads | $G$ | 8 | 3 |
# | width of a head | $D$ | 128 | 64 |
# | tokens that exist | $V$ | 128,256 | 49,152 |
#
# Llama 3.1 8B is described in [arXiv:2407.21783](https://arxiv.org/abs/2407.21783), Table 3. ($V$ is that of the released
# weights: 128,000 tokens of text and 256 special ones.) It is too large to run here; SmolLM2 has the same parts, and they will
# be run one by one.

# %%
import course
import matplotlib.pyplot as plt
import numpy as np
from course import W_K, W_O, W_Q, X

import minattn as ma
from minattn.models import Llama, LlamaConfig
from minattn.models.llama import rms_norm, silu, swiglu
from minattn.practice import check

llama, smol = LlamaConfig.llama_3_1_8b(), LlamaConfig.smollm2()
seven = ("layers", "dim", "hidden", "heads", "kv_heads", "head_dim", "vocab")
assert [getattr(llama, name) for name in seven] == [32, 4_096, 14_336, 32, 8, 128, 128_256]
assert [getattr(smol, name) for name in seven] == [30, 576, 1_536, 9, 3, 64, 49_152]
assert (llama.rope_theta, smol.rope_theta) == (500_000, 100_000)
ends = smol.vocab * smol.dim                        # once more, were they not tied
assert round(100 * 2 * ends / (smol.n_parameters + ends)) == 35

# %% [markdown]
# ## Predict before you run
#
# One layer of the 8B model has the matrices $W_Q$ $(E, HD)$, $W_K$ and $W_V$ $(E, GD)$, $W_O$ $(HD, E)$, and in its
# feed-forward part $W_1$ and $W_3$ $(E, F)$ and $W_2$ $(F, E)$.
#
# 1. How many times as large as $W_Q$ is $W_1$? And $W_K$?
# 2. So which share of a layer is attention: about a half, a third, or a fifth?
#
# <details><summary>Answer</summary>
#
# 1. $W_Q$ is 4096 x 4096, $W_1$ is 4096 x 14336: 3.5 times as large. $W_K$ is 4096 x 1024, a quarter of $W_Q$.
# 2. In units of $W_Q$: attention 1 + 1/4 + 1/4 + 1 = 2.5, feed-forward 3 x 3.5 = 10.5. So 2.5 of 13, about a fifth.
#
# </details>

# %% [markdown]
# ## Every parameter, by hand
#
# One line for each kind of weight, how often it occurs, and its size. There are no biases.

# %%
L, E, F, H, G, D, V = (getattr(llama, name) for name in seven)
lines = [("embedding", "V E", 1, V * E), ("norm_attention", "L E", L, E),
         ("w_q", "L E H D", L, E * H * D), ("w_k", "L E G D", L, E * G * D),
         ("w_v", "L E G D", L, E * G * D), ("w_o", "L H D E", L, H * D * E), ("norm_ffn", "L E", L, E),
         ("w_gate", "L E F", L, E * F), ("w_up", "L E F", L, E * F), ("w_down", "L F E", L, F * E),
         ("norm", "E", 1, E), ("head", "E V", 1, E * V)]
total = sum(times * size for _, _, times, size in lines)
for name, formula, times, size in lines:
    count = times * size
    print(f"{name:15} {formula:8} {times:2} x {size:>11,} = {count:>13,}  {count / total:6.2%}")
print(f"{'':26} {'together':>15} {total:>15,}")
assert total == 8_030_261_248

# %% [markdown]
# The library counts from the shapes of the arrays, and must agree, for this model and its larger relatives. Beside them,
# SmolLM2, whose head is *tied*: the embedding, transposed, so it is stored once.

# %%
assert llama.parameters() == {name: times * size for name, _, times, size in lines}
family = {"SmolLM2": smol, "8B": llama,
          "70B": LlamaConfig.llama_3_1_70b(), "405B": LlamaConfig.llama_3_1_405b()}
counts = [config.n_parameters for config in family.values()]
assert counts == [134_515_008, 8_030_261_248, 70_553_706_496, 405_853_388_800]

kinds = {"embedding": ["embedding"], "W_Q, W_O": ["w_q", "w_o"], "W_K, W_V": ["w_k", "w_v"],
         "feed-forward": ["w_gate", "w_up", "w_down"], "head": ["head"]}  # the norms: below 0.04 %
share = {model: {kind: sum(config.parameters().get(part, 0) for part in parts) / config.n_parameters
                 for kind, parts in kinds.items()} for model, config in family.items()}
assert all(1 - sum(parts.values()) < 0.0004 for parts in share.values())
print(f"{'':8} {'L':>3} {'E':>5} {'F':>5} {'H':>3} {'G':>1} {'parameters':>15}",
      *(f"{kind:>12}" for kind in kinds))
for model, c in family.items():
    print(f"{model:8} {c.layers:3} {c.dim:5} {c.hidden:5} {c.heads:3} {c.kv_heads} {c.n_parameters:>15,}",
          *(f"{each:12.2%}" for each in share[model].values()))

# %% [markdown]
# Look at the feed-forward part, which has most of the parameters in every one of them, and at the two ends: the embedding
# and the head do not grow with the number of layers, so they are much of a small model and little of a large one.

# %%
fig, ax = plt.subplots(figsize=(8.5, 2.7), layout="constrained")
start = np.zeros(4)
colours = ["#c9c9c9", "#26828e", "#6ece58", "#443983", "#8f8f8f"]
for kind, colour in zip(kinds, colours, strict=True):
    wide = np.array([100 * share[model][kind] for model in family])
    ax.barh(range(4), wide, left=start, label=kind, color=colour)
    for row in range(4):
        if wide[row] > 4:
            ink = "white" if kind in ("feed-forward", "W_Q, W_O") else "black"
            middle = start[row] + wide[row] / 2
            ax.text(middle, row, f"{wide[row]:.0f}", ha="center", va="center", color=ink)
    start += wide
ax.set(yticks=range(4), yticklabels=list(family), xlim=(0, 100), xlabel="% of the parameters")
ax.invert_yaxis()
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False);

# %% [markdown]
# Rounded sizes are often quoted for the 8B model: 4,000 wide, 14,000 inside, 128,000 tokens. With those the count would be
# another one, and a head would be 4,000 / 32 = 125 wide, which is odd, so that RoPE could not pair its channels.

# %%
def count(L, E, F, H, G, D, V):
    return 2 * V * E + L * (2 * E + 2 * E * H * D + 2 * E * G * D + 3 * E * F) + E


assert count(L, E, F, H, G, D, V) == llama.n_parameters == count(L, E, F - 2_048, H, 32, D, V)   # the latter: exercise 4
rounded = count(32, 4_000, 14_000, 32, 8, 125, 128_000)
print(f"with the rounded sizes {rounded:,}: {1 - rounded / llama.n_parameters:.1%} too few")

# %% [markdown]
# ## The same parts, run one by one
#
# A Llama is $L$ layers of one shape between an embedding and a head. With $n(\cdot)$ for the norm, a layer is two additions:
#
# $$
# y = x + \mathrm{Attn}(n(x)) \qquad z = y + W_2\big(\mathrm{silu}(W_1\, n(y)) \ast W_3\, n(y)\big)
# $$
#
# In code a row stands on the left, `x @ W`, and $W_1, W_3, W_2$ are called `w_gate`, `w_up`, `w_down`. Where SmolLM2's
# weights are not here, the lines run on random ones of its shape: every equality still holds, only the words mean nothing.

# %%
m, trained = course.model(), True
if m is None:
    print("The lines below run on random weights of SmolLM2's shape.")
    m, trained = Llama.random(smol), False
ids = m.tokenizer.encode(course.SENTENCE) if trained else list(range(100, 110))
c, w, positions = m.config, m.layers[0], np.arange(len(ids))          # w: the weights of layer 0
print("ids", ids)
for name, each in w.items():
    print(f"{name:15} {each.shape}")

# %% [markdown]
# ### Embedding
#
# $$
# x = \mathrm{embedding}[\mathrm{id}]
# $$
#
# No product, no position: each id picks its row.

# %%
x = m.embedding[ids]                                                  # (N, E)
np.testing.assert_array_equal(x, m.embed(ids))
print("x", x.shape)

# %% [markdown]
# ### RMSNorm
#
# $$
# n(x)_e = g_e \, \frac{x_e}{\sqrt{\tfrac1E \sum_e x_e^2 + \varepsilon}}
# $$
#
# Each row is divided by its root mean square, then scaled channel by channel by a learned $g$ (left out in the loop). On the
# course's vector of 'the', by hand:

# %%
row, squares = X[0], 0.0
for number in row:
    squares += number**2
root = (squares / len(row)) ** 0.5
print(f"'the' {row}: squares sum to {squares:.4f}, root mean square {root:.4f}")
print(f"divided {(row / root).round(2)}")
np.testing.assert_allclose(rms_norm(row, np.ones(4), eps=0), row / root)
np.testing.assert_allclose(rms_norm(100 * row, np.ones(4), eps=0), row / root)  # the size is gone

n = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + c.norm_eps) * w["norm_attention"]
np.testing.assert_allclose(n, rms_norm(x, w["norm_attention"], c.norm_eps), rtol=1e-5)

# %% [markdown]
# ### Queries, keys, values, then RoPE
#
# $$
# q = R\, n(x) W_Q \qquad k = R\, n(x) W_K \qquad v = n(x) W_V
# $$
#
# Nine query heads, three KV heads (lesson 08). $R$ rotates queries and keys, but not values, to their positions: pair $p$ of a
# head at position $i$ by the angle $i\,\theta^{-2p/D}$ (lesson 06). This is the only place where a position enters.

# %%
many = {"w_q": 9, "w_k": 3, "w_v": 3}
q, k, v = (ma.split_heads(n @ w[name], heads) for name, heads in many.items())
print("q", q.shape, " k", k.shape, " v", v.shape)

turn = {"layout": c.rope_layout, "theta": c.rope_theta}
q_turned, k_turned = ma.rope(q, positions, **turn), ma.rope(k, positions, **turn)

i, p = 7, 2                                         # one pair of one query, by hand
angle = i * c.rope_theta ** (-2 * p / c.head_dim)
a, b = q[0, i, 2 * p], q[0, i, 2 * p + 1]           # interleaved layout: neighbours are a pair
hand = [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)]
np.testing.assert_allclose(q_turned[0, i, 2 * p:2 * p + 2], hand, rtol=1e-5, atol=1e-6)
for name, config in family.items():
    slowest = 2 * np.pi * config.rope_theta ** (1 - 2 / config.head_dim)
    print(f"{name:8} theta {config.rope_theta:>7,.0f}: slowest pair turns once in {slowest:>9,.0f} tokens")

# %% [markdown]
# (Llama 3.1 slows its slowest pairs down by another factor of 8: `Llama3Scaling`.)
#
# ### Attention, output projection, residual
#
# $$
# y = x + \mathrm{concat}_h\big(\mathrm{softmax}(q_h k_g^T / \sqrt D)\, v_g\big)\, W_O
# $$
#
# Query head $h$ reads KV head $g$, the whole part of $h / (H / G)$, and the scores are masked: causal. To add to $x$ and not
# to replace it is a *residual connection*.

# %%
mixed = ma.attention(q_turned, k_turned, v, causal=True)              # (H, N, D)
y = x + ma.merge_heads(mixed) @ w["w_o"]                              # (N, H * D) @ (H * D, E)
print("attention", mixed.shape, " merged", ma.merge_heads(mixed).shape, " y", y.shape)
alone = ma.attention(q_turned[4], k_turned[4 // 3], v[4 // 3], causal=True)  # head 4 by itself
np.testing.assert_allclose(mixed[4], alone, rtol=1e-4, atol=1e-6)

# %% [markdown]
# ### Feed-forward: SwiGLU, residual
#
# $$
# z = y + W_2\big(\mathrm{silu}(W_1\, n(y)) \ast W_3\, n(y)\big)
# $$
#
# Each of the $F$ channels has a *gate*, $\mathrm{silu}(u) = u / (1 + e^{-u})$ of one product, that decides how much of the other
# product passes. By hand for 'the', with three of the course's matrices standing in for the weights:

# %%
row, passed = X[0], []
for f in range(4):
    gate = sum(row[e] * W_Q[e, f] for e in range(4))
    up = sum(row[e] * W_K[e, f] for e in range(4))
    opened = gate / (1 + np.exp(-gate))                               # silu
    passed.append(opened * up)
    print(f"channel {f}: gate {gate:5.2f}, silu {opened:5.2f}, up {up:5.2f}, passes {passed[-1]:5.2f}")
np.testing.assert_allclose(swiglu(row, W_Q, W_K, W_O), np.array(passed) @ W_O)

n = rms_norm(y, w["norm_ffn"], c.norm_eps)
z = y + (silu(n @ w["w_gate"]) * (n @ w["w_up"])) @ w["w_down"]
np.testing.assert_allclose(z, m.block(0, x, positions), rtol=1e-4, atol=1e-4)
print("z", z.shape, "is layer 0's output, equal to m.block(0, x, positions)")

# %% [markdown]
# The gate is not a switch: $\mathrm{silu}$ is near 0 for large negative numbers and near $u$ for large positive ones. Look at the
# dip below 0 in between.

# %%
u = np.linspace(-6, 6, 200)
fig, ax = plt.subplots(figsize=(4.2, 2.4), layout="constrained")
ax.plot(u, silu(u), label="silu(u)")
ax.plot(u, np.maximum(u, 0), "--", color="#8a8a8a", label="max(u, 0)")
ax.set(xlabel="u", ylabel="gate")
ax.grid(alpha=0.3)
ax.legend();

# %% [markdown]
# ### All layers, the last norm, the head
#
# $$
# \mathrm{logits} = n(x)\, W_{\mathrm{head}}
# $$
#
# One layer in six lines, thirty times. SmolLM2's head is its embedding, transposed: a token's score is the dot product of its
# own row of the embedding with the normed row that comes out at the end.

# %%
def layer(w, x):
    """(N, E) -> (N, E), with the weights of one layer."""
    n = rms_norm(x, w["norm_attention"], c.norm_eps)
    q, k, v = (ma.split_heads(n @ w[name], heads) for name, heads in many.items())
    q, k = ma.rope(q, positions, **turn), ma.rope(k, positions, **turn)
    y = x + ma.merge_heads(ma.attention(q, k, v, causal=True)) @ w["w_o"]
    n = rms_norm(y, w["norm_ffn"], c.norm_eps)
    return y + (silu(n @ w["w_gate"]) * (n @ w["w_up"])) @ w["w_down"]


x = m.embedding[ids]
for w in m.layers:
    x = layer(w, x)
logits = rms_norm(x, m.norm, c.norm_eps) @ m.head                     # (N, V)
np.testing.assert_allclose(logits, m.forward(ids), rtol=1e-3, atol=1e-3)

chances = ma.softmax(logits[-1].astype(np.float64))
for best in chances.argsort()[::-1][:5]:
    word = repr(m.tokenizer.decode([int(best)])) if trained else f"id {best}"
    print(f"{word:10} {chances[best]:.3f}")
assert m.generate(ids, max_new_tokens=1, stop=(), progress=False) == [int(logits[-1].argmax())]

# %% [markdown]
# That is the whole model. The first line is the greedy choice: with the trained weights, what SmolLM2 says after "The cat sat
# on the mat because it was tired".
#
# ## What runs along the middle
#
# Every layer *adds* to the row that it was given (the *residual stream*, lesson 04). The picture follows the size of each
# token's row (root mean square) from the embedding through all layers of the trained model. Look for the one line that
# leaves the others.

# %%
found = course.real("stream")
fig, ax = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
for s, token in enumerate(found.tokens):
    color = plt.cm.viridis(s / len(found.tokens))
    ax.semilogy(found.rms[:, s], color=color, label=f"{s} {token.strip()}")
ax.text(20, 500, "0 The", ha="center", va="top")
ax.text(6, 40, "0 The and 4 the", ha="center")
ax.set(xlabel="layers passed", ylabel="root mean square of x")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
first, *others = found.rms[20]
print(f"after 20 layers: first token {first:.0f}, the others {min(others):.0f} to {max(others):.0f}")

# %% [markdown]
# After 12 layers the first token's row is far larger than all others, after 20 about a hundred times as large. (For some
# layers before, the second 'the' rises as high as the first.) It is the token that so many heads rest on (lesson 04). The
# norm before each part brings rows of any size to one size, so that the same weights fit them all.
#
# ## Built broken: gate and up exchanged
#
# `w_gate` and `w_up` have the same shape. Exchange them in all layers: the model runs, nothing complains.

# %%
for name, guess, loss in zip(found.names, found.guess, found.losses, strict=True):
    print(f"{name:22} 'The capital of France is' -> {guess!r:9} loss on a paragraph {loss:5.2f}")
print(f"{'a blind guess':22} {np.log(smol.vocab):63.2f}")

w = m.layers[0]
swapped = (silu(n @ w["w_up"]) * (n @ w["w_gate"])) @ w["w_down"]
assert swapped.shape == n.shape
assert not np.allclose(swapped, swiglu(n, w["w_gate"], w["w_up"], w["w_down"]), rtol=0.1)

# %% [markdown]
# The one word is plausible English; the loss says that the model is far worse than a blind guess. Whoever reads weights from a
# file checks numbers, not words: the mend is to compare logits with a known run.
#
# ## What it costs: operations
#
# A product with a matrix takes 2 operations (multiply, add) for each of its weights and each token. The embedding is looked
# up and takes none. Attention over $n$ keys takes $4 L H D n$ more: that alone grows with the context.
#
# $$
# \text{operations a token} = 2\,(P_{QKVO} + P_{FFN} + P_{head}) + 4 L H D\, n
# $$

# %%
def operations(config):
    """Operations a token of each part: a number, and for attention the number for each key."""
    p = config.parameters()
    return {"feed-forward": 2 * (p["w_gate"] + p["w_up"] + p["w_down"]),
            "W_Q W_K W_V W_O": 2 * (p["w_q"] + p["w_k"] + p["w_v"] + p["w_o"]),
            "head": 2 * config.vocab * config.dim,
            "attention, each key": 4 * config.layers * config.heads * config.head_dim}


for name, config in family.items():
    ops = operations(config)
    *products, per_key = ops.values()
    print(f"{name:8}", ", ".join(f"{part} {ops[part] / 1e9:.3g} G" for part in list(ops)[:3]))
    print(f"{'':8} attention {per_key:,} a key: more than feed-forward from n = "
          f"{products[0] / per_key:,.0f}, than all products from {sum(products) / per_key:,.0f}")
    assert config.heads * config.head_dim == config.dim
    assert products[0] / per_key == 1.5 * config.hidden

# %% [markdown]
# With $H D = E$, as in all four, the first crossing is at $n = \tfrac32 F$ whatever else was chosen: 21,504 tokens for 8B,
# 2,304 for SmolLM2. So the answer to the first question: neither most of the parameters nor, in short contexts, most of the
# work is attention; in long contexts most of the work is. Look where the rising line meets the level ones;
# the grey upright line is at $\tfrac32 F$.

# %%
assert 1.5 * llama.hidden == 21_504
assert 1.5 * smol.hidden == 2_304
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for ax, (name, config) in zip(axes, [("SmolLM2", smol), ("Llama 3.1 8B", llama)], strict=True):
    context = np.logspace(1, np.log10(config.context), 50)
    *products, per_key = operations(config).items()
    looks = [("#443983", "-"), ("#26828e", "-."), ("#6b6b6b", ":")]
    for (part, number), (colour, line) in zip(products, looks, strict=True):
        ax.loglog(context, np.full(50, number / 1e9), line, color=colour, label=part)
    ax.loglog(context, per_key[1] * context / 1e9, "--", color="#d1495b", label="attention")
    ax.axvline(1.5 * config.hidden, color="#c9c9c9", zorder=0)
    ax.set(title=name, xlabel="keys in the context, n", ylabel="billion operations a token")
axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False);

# %% [markdown]
# ## What it costs: bytes
#
# In bfloat16, 2 bytes a number: the weights (of the embedding, one row) are read once for every token that is decoded, and so
# is the cache (lesson 07).

# %%
for name, config in family.items():
    whole = config.kv_bytes(config.context, "bfloat16") / 2**30
    weights = 2 * config.n_parameters / 2**30
    token = config.kv_bytes(1, "bfloat16")
    print(f"{name:8} weights {weights:6.1f} GiB; cache {token:>7,} bytes a token, "
          f"{whole:5.2f} GiB at {config.context:,} tokens")
assert llama.kv_bytes(1, "bfloat16") == 131_072
assert smol.kv_bytes(1, np.float32) == 46_080

# %% [markdown]
# ## What it costs: time, measured here
#
# One token of the SmolLM2 shape at the end of 1,024, each part alone, in all layers; float32. (What is shown was measured with
# one thread.) One row uses each weight once, so these products wait for memory (lesson 08). The last line shows what the same
# processor does when 64 rows share what was read, as they do in a prompt.

# %%
rng = np.random.default_rng(0)
ops, one = operations(c), rng.standard_normal((1, c.dim), dtype=np.float32)
rows = rng.standard_normal((64, c.dim), dtype=np.float32)
q = rng.standard_normal((9, 1, 64), dtype=np.float32)
cached = rng.standard_normal((30, 2, 3, 1024, 64), dtype=np.float32)  # keys and values of each layer


def thirty(part):
    return lambda: [part(w) for w in m.layers]      # all layers: each reads its own weights


runs = {
    "feed-forward": thirty(lambda w: swiglu(one, w["w_gate"], w["w_up"], w["w_down"])),
    "W_Q W_K W_V W_O": thirty(lambda w: [one @ w[x] for x in ("w_q", "w_k", "w_v", "w_o")]),
    "head": lambda: one @ m.head,
    "attention": lambda: [ma.attention(q, k, v, causal=True) for k, v in cached],
    "feed-forward x 64": thirty(lambda w: swiglu(rows, w["w_gate"], w["w_up"], w["w_down"])),
}
more = {"attention": 1024 * ops["attention, each key"], "feed-forward x 64": 64 * ops["feed-forward"]}
for name, run in runs.items():
    number = {**ops, **more}[name]
    s = course.seconds(run, 5)
    print(f"{name:18} {number / 1e6:8.1f} million operations, {1000 * s:6.1f} ms, "
          f"{number / s / 1e9:5.1f} billion operations a second")

# %% [markdown]
# ## What it costs, in a table
#
# One token at the end of $n$, in all $L$ layers; one number is 2 bytes in bfloat16.
#
# | | parameters | operations | numbers read |
# |---|---|---|---|
# | embedding | $VE$, none more where the head is tied | 0 | $E$ |
# | $W_Q$, $W_O$ | $2LEHD$ | $4LEHD$ | $2LEHD$ |
# | $W_K$, $W_V$ | $2LEGD$ | $4LEGD$ | $2LEGD$ |
# | attention | 0 | $4LHD\,n$ | $2LGD\,n$, the cache |
# | feed-forward | $3LEF$ | $6LEF$ | $3LEF$ |
# | norms | $(2L + 1)E$ | about $4\,(2L + 1)E$ | $(2L + 1)E$ |
# | head | $VE$, or 0 where it is tied | $2VE$ | $VE$ |
#
# ## Exercises
#
# Replace `return None` and run the cell. The check calls your function on arrays of its own, of several sizes; where the answer
# is a known mistake, it names the mistake.

# %% [markdown]
# **1 (easy).** Write RMSNorm over the last axis of `x`, which may have any number of axes (..., E); `weight` is (E,), and `eps` a
# small number that is added to the mean. The shape stays.
#
# <details><summary>Hint</summary>
#
# `keepdims=True` keeps the mean beside its row.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Square, mean over the last axis, plus eps, root; divide, then scale by the weight. Nothing is subtracted.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def my_rms_norm(x, weight, eps):
#     return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight
# ```
#
# </details>

# %%
def my_rms_norm(x, weight, eps):
    """(..., E), (E,), a small number -> (..., E)"""
    return None


check.rms_norm(my_rms_norm)

# %% [markdown]
# **2 (easy).** Count all parameters of a Llama from its seven numbers, and `tied`: True where the head is the embedding,
# transposed. $HD$ need not be $E$.
#
# <details><summary>Hint</summary>
#
# 'Every parameter, by hand' has a line for each kind of weight.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# A layer has two norms, four matrices of attention and three of the feed-forward part. Behind the layers comes one more norm.
# What is tied is stored once.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def parameters(L, E, F, H, G, D, V, tied):
#     attention = 2 * E * H * D + 2 * E * G * D
#     ends = V * E if tied else 2 * V * E
#     return ends + L * (attention + 3 * E * F + 2 * E) + E
# ```
#
# </details>

# %%
def parameters(L, E, F, H, G, D, V, tied):
    """seven integers, True or False -> an int"""
    return None


check.parameters(parameters)

# %% [markdown]
# **3 (medium).** Write the feed-forward part, SwiGLU: `x` (N, E), `w_gate` and `w_up` (E, F), `w_down` (F, E); the output is
# (N, E). Use NumPy alone. Some gates are in the hundreds, of both signs, and must give neither inf nor NaN.
#
# <details><summary>Hint</summary>
#
# Two products, one of them through $\mathrm{silu}(u) = u / (1 + e^{-u})$; multiply channel by channel; one product back.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# $u / (1 + e^{-u})$ is safe as it stands: where $e^{-u}$ overflows to inf, the quotient is 0. $u\, e^u / (1 + e^u)$ is not.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def my_swiglu(x, w_gate, w_up, w_down):
#     gate = x @ w_gate
#     return (gate / (1 + np.exp(-gate)) * (x @ w_up)) @ w_down
# ```
#
# NumPy may warn of the overflow; the library writes silu with tanh, which overflows nowhere.
#
# </details>

# %%
def my_swiglu(x, w_gate, w_up, w_down):
    """(N, E), (E, F), (E, F), (F, E) -> (N, E)"""
    return None


check.swiglu(my_swiglu)

# %% [markdown]
# **4 (medium).** A design question: Llama 3.1 8B with $G = 32$ KV heads instead of 8. How much smaller must $F$ be for the
# model to have no more parameters than before? Write it for any E, F, D, `old_G` and larger `new_G`: return the largest such F.
#
# <details><summary>Hint</summary>
#
# Per layer $W_K$ and $W_V$ grow by $2 \cdot E \cdot (32 - 8) \cdot D$ together; one channel of $F$ costs $3E$.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# $E$ cancels. Where the quotient is no whole number, one channel more has to go: `-(-a // b)` rounds up.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def smaller_hidden(E, F, D, old_G, new_G):
#     return F - -(-2 * (new_G - old_G) * D // 3)
# ```
#
# $2 \cdot 24 \cdot 128 / 3 = 2048$, so $F = 12288$: in parameters, grouping is worth 2,048 feed-forward channels a layer.
#
# </details>

# %%
def smaller_hidden(E, F, D, old_G, new_G):
    """five integers -> an int"""
    return None


check.smaller_hidden(smaller_hidden)

# %% [markdown]
# **5 (hard).** Write a block: `x` (N, E) to the next layer's x (N, E). `w` has the layer's weights by name: `norm_attention` and
# `norm_ffn` (E,), `w_gate`, `w_up`, `w_down`. `attend` is a function, (N, E) to (N, E): everything between the first norm and
# the first addition. Use `rms_norm(x, weight, eps)` and `swiglu(x, w_gate, w_up, w_down)`. If you return a dictionary
# `{"n": ..., "y": ..., "z": ...}` (what `attend` was given, x after attention, the result), the check compares each.
#
# <details><summary>Hint</summary>
#
# The two equations of 'The same parts, run one by one' are the whole answer.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Each part is given a norm, and is added to what has *not* been normed. The second part starts from y. `x += ...` would change
# the caller's array.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def block(x, w, attend, eps):
#     y = x + attend(rms_norm(x, w["norm_attention"], eps))
#     n = rms_norm(y, w["norm_ffn"], eps)
#     return y + swiglu(n, w["w_gate"], w["w_up"], w["w_down"])
# ```
#
# </details>

# %%
def block(x, w, attend, eps):
    """(N, E), weights by name, (N, E) -> (N, E), a small number -> (N, E)"""
    return None


check.block(block)

# %% [markdown]
# **Your block in SmolLM2.** Once exercise 5 is right, run the next two cells again: your block runs as all 30 layers, and the
# logits are compared with the model's own. Until then this lesson's `layer` stands in. Beside it a block in the order of the
# first Transformer, the norm after the addition: the same weights, the same operations.

# %%
def attention_of(w):
    """What one layer's attention makes of normed rows, (N, E) -> (N, E)."""
    def attend(n):
        q, k, v = (ma.split_heads(n @ w[name], heads) for name, heads in many.items())
        q, k = ma.rope(q, positions, **turn), ma.rope(k, positions, **turn)
        return ma.merge_heads(ma.attention(q, k, v, causal=True)) @ w["w_o"]
    return attend


def post_norm(x, w, attend, eps):
    y = rms_norm(x + attend(x), w["norm_attention"], eps)
    return rms_norm(y + swiglu(y, w["w_gate"], w["w_up"], w["w_down"]), w["norm_ffn"], eps)


# %%
own, off, solved = m.forward(ids), [], bool(check.block(block))
blocks = {"yours": block} if solved else {"this lesson's": lambda x, w, attend, eps: layer(w, x)}
for name, fn in {**blocks, "post-norm": post_norm}.items():
    x = m.embedding[ids]
    for w in m.layers:
        x = fn(x, w, attention_of(w), c.norm_eps)
        x = x["z"] if isinstance(x, dict) else x
    off.append(np.abs(rms_norm(x, m.norm, c.norm_eps) @ m.head - own).max())
    print(f"{name:14} largest difference of a logit {off[-1]:8.5f}, logits reach {np.abs(own).max():.0f}")
assert off[0] < 1e-2 < 1 < off[1]

# %% [markdown]
# ## Three questions
#
# **You make the heads half as wide and twice as many, $G$ included. What happens to the parameters, the cache, the
# operations?**
#
# <details><summary>Answer</summary>
#
# Nothing: only the products $H D$ and $G D$ enter. What changes is how many attention maps there are, and how many numbers
# each of them is computed from.
#
# </details>
#
# **Which weights of a Llama depend on the longest context that it can read?**
#
# <details><summary>Answer</summary>
#
# None. Positions enter through RoPE, which has no weights. The context is limited by what the model has met in training,
# and by memory.
#
# </details>
#
# **Why do the embedding and the head take 21 % of SmolLM2 and 13 % of the 8B model, though 8B has more tokens?**
#
# <details><summary>Answer</summary>
#
# They have $V E$ weights each, the layers together 11 (SmolLM2) to 13 (8B) times $L E^2$: the ends grow with $E$, the layers
# with $L E^2$. SmolLM2 also stores the two as one; untied they would take 35 %.
#
# </details>
#
# ## Where to go on
#
# - The files: [minattn/models/llama.py](../minattn/models/llama.py), the whole model;
#   [minattn/models/config.py](../minattn/models/config.py), the numbers of this lesson.
# - Papers: Llama 3, [arXiv:2407.21783](https://arxiv.org/abs/2407.21783), Table 3; RMSNorm, Zhang and Sennrich 2019,
#   [arXiv:1910.07467](https://arxiv.org/abs/1910.07467), eq (4); SwiGLU, Shazeer 2020,
#   [arXiv:2002.05202](https://arxiv.org/abs/2002.05202), eq (6).
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [10 FlashAttention I](10_flashattention_tiles.ipynb); or back to the beginning with new eyes:
#   [00 A sentence through a model](00_a_sentence_through_a_model.ipynb).
