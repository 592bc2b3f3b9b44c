# %% [markdown]
# # 12 FlashAttention III: the backward pass
#
# 50 minutes · difficulty: hard · read before: [02 Scaling](02_scaling.ipynb),
# [10 FlashAttention I](10_flashattention_tiles.ipynb), [11 FlashAttention II](11_flashattention_kernel.ipynb)
# · [glossary](glossary.md)
#
# You will be able to
#
# - derive the gradients of attention with respect to q, k and v, and check them by finite differences,
# - compute them tile by tile without ever storing the map, from two things kept for each row,
# - say which loop goes outside for which gradient, and why some GPU code gives other bits on every run,
# - recognise the classic mistakes of a backward pass by their symptoms.

# %% [markdown]
# ## The question
#
# To learn, a layer must know for each number it works with how fast the loss changes as that number grows: its gradient. From
# above comes `dout`, the gradient with respect to the output. Attention must hand down `dq`, `dk` and `dv`.
# All three depend on the map of weights P, and the tiled forward of lessons 10 and 11 never stored P: that was its point. So
# where does the gradient come from?
#
# One letter for all of it: **dX is the gradient of the loss with respect to X, and has the shape of X.** Whatever the loss
# really is, when `out` changes a little it moves as `(dout * out).sum()` does. So we take that sum as the loss, with a fixed
# `dout`. In formulas queries are counted by $n$ and keys by $j$; $s_{nj}$ is a score, $p_{nj}$ its weight, $o_n$ a row of the
# output, and $do_n$ the same row of `dout`.

# %%
import inspect
import itertools
import tracemalloc
from collections import Counter

import course
import matplotlib.pyplot as plt
import numba
import numpy as np
from course import TOKENS, W_K, W_O, W_Q, W_V, X

import minattn as ma
from minattn.flash import cpu, online
from minattn.practice import check

np.set_printoptions(precision=3, suppress=True)
q, k, v = X @ W_Q, X @ W_K, X @ W_V                                   # (N, D) each, N = S = D = 4
dout = np.array([[ 0.37, -0.82,  0.15, -0.44],                        # (N, Dv), what the layer above says
                 [-0.63,  0.28, -0.91,  0.52],
                 [ 0.74,  0.19, -0.35,  0.68],
                 [-0.11,  0.96, -0.57, -0.23]])
P = ma.attention_weights(q, k)                                        # (N, S)
out = P @ v
print("P, queries down, keys across\n", P, sep="")

# %% [markdown]
# ## Predict before you run
#
# With q (8, 10, 64), k (2, 12, 64) and v (2, 12, 32), that is eight query heads over two KV heads, what are the shapes of
# `dout`, `dq`, `dk` and `dv`?
#
# <details><summary>Answer</summary>
#
# `dout` (8, 10, 32), like the output; `dq` (8, 10, 64); `dk` (2, 12, 64); `dv` (2, 12, 32). A gradient has the shape of what
# it is the gradient of.
#
# </details>

# %%
rng = np.random.default_rng(12)
drawn = [rng.standard_normal(shape) for shape in ((8, 10, 32), (8, 10, 64), (2, 12, 64), (2, 12, 32))]
for name, gradient in zip(("dq", "dk", "dv"), ma.attention_backward(*drawn), strict=False):
    print(name, gradient.shape)

# %% [markdown]
# ## The judge
#
# A derivation can be wrong and look right. So measure as well: move one number up and down by a little, and see what the
# loss does. That is a **finite difference**. It runs the forward twice for every number, far too slow to learn with, and
# just right as a judge. (How far to trust the judge is measured, too, below.)

# %%
def slope(loss, x, step=1e-6):
    """d loss / d x by central differences, one number of x after the other."""
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[place] = step
        found[place] = (loss(x + moved) - loss(x - moved)) / (2 * step)
    return found


measured = {
    "dq": slope(lambda q: (dout * ma.attention(q, k, v)).sum(), q),
    "dk": slope(lambda k: (dout * ma.attention(q, k, v)).sum(), k),
    "dv": slope(lambda v: (dout * ma.attention(q, k, v)).sum(), v),
}
print("measured dv\n", measured["dv"], sep="")

# %% [markdown]
# ## Through the values
#
# Now derive, from the output back to the inputs. The last step of the forward is $o_n = \sum_j p_{nj} v_j$. Change $v_j$ a
# little, and $o_n$ changes by $p_{nj}$ times as much. Let $p_{nj}$ grow, and $o_n$ moves in the direction of $v_j$:
#
# $$
# dv_j = \sum_n p_{nj}\, do_n, \qquad dp_{nj} = do_n \cdot v_j
# $$
#
# In words: the gradient walks back to each value along the same weights that the value came forward on. And more weight on a
# key raises the loss as far as its value points along `dout`. First one query, 'sat', in a loop:

# %%
n = TOKENS.index("sat")
share, dp_row = np.zeros((4, 4)), np.zeros(4)
print("key    weight   value                            dp      share of dv")
for j in range(4):
    share[j] = P[n, j] * dout[n]
    dp_row[j] = sum(dout[n, d] * v[j, d] for d in range(4))
    print(f"{TOKENS[j]:5} {P[n, j]:7.3f}   {v[j]!s:30} {dp_row[j]:6.3f}   {share[j]}")

dv, dp = P.T @ dout, dout @ v.T                                       # all queries in one product each
assert np.allclose(dp[n], dp_row)
assert np.allclose(dv, sum(np.outer(P[m], dout[m]) for m in range(4)))
assert np.allclose(dv, measured["dv"], atol=1e-8)
print(f"dv against finite differences: {np.abs(dv - measured['dv']).max():.0e}")

# %% [markdown]
# ## Through the softmax
#
# A score changes all weights of its row, since they share one sum. [Lesson 02](02_scaling.ipynb) had the slopes as a matrix,
# the Jacobian $J = \text{diag}(p) - p\,p^\top$ (there the weights of the row were called $w$). What to look for in the row of
# 'sat', on the left: the diagonal is positive, everything else negative, and every row and column sums to 0. **What one key
# wins, the others lose.** On the right: 'sat' has a dp below 0 and yet a ds above it. Why?

# %%
p = P[n]
J = np.diag(p) - np.outer(p, p)                                       # (S, S)
fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.2), layout="constrained", width_ratios=(1, 1.2))
axes[0].imshow(J, cmap="RdBu_r", vmin=-0.4, vmax=0.4)
for i, j in np.ndindex(4, 4):
    axes[0].text(j, i, f"{J[i, j]:.2f}", ha="center", va="center")
axes[0].set(xticks=range(4), xticklabels=TOKENS, yticks=range(4), yticklabels=TOKENS)
axes[0].set(xlabel="score that moves", ylabel="weight that answers", title="J of 'sat': diag(p) - p p^T")
places = np.arange(4)
axes[1].bar(places - 0.2, dp[n], 0.4, label="dp: what a weight adds to the loss", color="#c9c9c9")
axes[1].bar(places + 0.2, J @ dp[n], 0.4, label="ds = J dp: what a score adds to the loss", color="#26828e")
axes[1].axhline(p @ dp[n], color="black", linewidth=0.8, linestyle="--", label="mean of dp, weighted by p")
axes[1].axhline(0, color="grey", linewidth=0.8)
axes[1].set(xticks=places, xticklabels=TOKENS, title="the row of 'sat'")
axes[1].legend(fontsize=8)
assert np.allclose(J.sum(axis=0), 0)
assert np.allclose(J.sum(axis=1), 0)

# %% [markdown]
# J has $S^2$ numbers for one row, but the product $ds = J\,dp$ can be had from S of them. Multiply it out, $t$ running over all
# keys of the row:
#
# $$
# ds_j = p_j\, dp_j - p_j \sum_t p_t\, dp_t = p_j \Big( dp_j - \sum_t p_t\, dp_t \Big)
# $$
#
# So a score raises the loss if its dp is above **the average** of the row, weighted by p (the dashed line in the picture, and
# 'sat' is above it), lowers it if below, and in proportion to the weight that the key already has.
#
# **Predict before you run.** If all four values were equal, what would `ds` be?
#
# <details><summary>Answer</summary>
#
# It is 0. All dp are equal, so none is above their average. The output is that one value whatever the scores are.
#
# </details>

# %%
def row_loss(s):
    """The loss of 'sat' as a function of its four scores."""
    return dout[n] @ (ma.softmax(s) @ v)


s = q[n] @ k.T / 2                                                    # (S,), scaled by 1 / sqrt(4)
mean = sum(p[t] * dp[n, t] for t in range(4))
ds_row = np.array([p[j] * (dp[n, j] - mean) for j in range(4)])
fd = slope(row_loss, s)
print("key    weight       dp   dp - mean         ds   finite difference")
for j in range(4):
    print(f"{TOKENS[j]:5} {p[j]:7.3f}  {dp[n, j]:7.3f}  {dp[n, j] - mean:10.3f}  {ds_row[j]:9.6f}  {fd[j]:9.6f}")
print(f"weighted mean of dp {mean:.3f}; sum of ds {abs(ds_row.sum()):.0e}")
assert np.allclose(ds_row, J @ dp[n])
assert np.allclose(ds_row, fd, atol=1e-9)
assert mean < dp[n, n] < 0 < ds_row[n]                                # 'sat' itself

same = np.tile(v[0], (4, 1)) @ dout[n]                                # dp if all four values were the first one
assert np.allclose(p * (same - p @ same), 0)

# %% [markdown]
# ## Through the scores
#
# A score is $s_{nj} = \tau\, q_n \cdot k_j$ with $\tau = 1/\sqrt{D}$. It is linear in each of the two vectors, so each one's
# gradient is made of the other:
#
# $$
# dq_n = \tau \sum_j ds_{nj}\, k_j, \qquad dk_j = \tau \sum_n ds_{nj}\, q_n
# $$
#
# That is all of it. The whole backward pass:

# %%
def plain_backward(dout, q, k, v):
    """dq, dk, dv of one head, with the whole map at hand."""
    scale = 1 / np.sqrt(q.shape[-1])
    p = ma.softmax(scale * q @ k.T)                                   # (N, S)
    dv = p.T @ dout
    dp = dout @ v.T                                                   # (N, S)
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True))
    return scale * ds @ k, scale * ds.T @ q, dv


grads = plain_backward(dout, q, k, v)
library = ma.attention_backward(dout, q, k, v)
print("dq of 'sat', derived ", grads[0][n])
print("dq of 'sat', measured", measured["dq"][n])
for name, ours, theirs in zip(("dq", "dk", "dv"), grads, library, strict=False):
    off = np.abs(ours - measured[name]).max()
    print(f"{name}: largest difference from finite differences {off:.0e}, largest number {np.abs(ours).max():.2f}")
    assert off < 1e-8
    assert np.allclose(ours, theirs, rtol=1e-12)

# %% [markdown]
# The three maps of the backward side by side, each with its own colours. What to look for: the strongest entry of a row of `dS`
# need not be the strongest of `dP`, since the weight has its say; and each row of `dS` has both signs, since it sums to 0.

# %%
ds = P * (dp - (P * dp).sum(axis=-1, keepdims=True))
assert (abs(ds).argmax(axis=-1) != abs(dp).argmax(axis=-1)).any()
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.4), layout="constrained")
for ax, each, title in zip(axes, (P, dp, ds), ("P, the weights", "dP = dout v^T", "dS"), strict=True):
    ma.plot.heatmap(each, TOKENS, title=title, colorbar=False, ax=ax)
assert np.allclose(ds.sum(axis=-1), 0)

# %% [markdown]
# ## One number a row
#
# The subtracted mean is called **delta**. As written, it needs the whole row of P and of dP. A tile sees only a part of the
# row. But exchange the two sums:
#
# $$
# \delta_n = \sum_j p_{nj}\, dp_{nj} = \sum_j p_{nj} \sum_d do_{nd}\, v_{jd}
# $$
#
# $$
# \phantom{\delta_n} = \sum_d do_{nd} \sum_j p_{nj}\, v_{jd} = \sum_d do_{nd}\, o_{nd}
# $$
#
# The mean of what the values add to the loss is what their mean adds, and their mean is the output. The row of S numbers is not
# needed: the Dv numbers of `dout` and those of `out` are enough, and the forward has kept `out` anyway.

# %%
delta = (dout * out).sum(axis=-1)                                     # (N,)
print("rowsum(P * dP)     ", (P * dp).sum(axis=-1))
print("rowsum(dout * out) ", delta)
assert np.allclose(delta, (P * dp).sum(axis=-1), rtol=1e-12)

# %% [markdown]
# ## Built broken
#
# Three mistakes that are easy to make and that raise no error. The table shows what each does to the sums of the rows of dS,
# how far its dq is from the measured one (as a share of the largest number), and the cosine between the two: 1 is the same
# direction.

# %%
seen = ma.softmax(q @ k[:2].T / 2) @ v[:2]                            # an output normalised over two keys, not four
variants = {"right": (delta, 0.5), "delta forgotten": (0 * delta, 0.5), "scale forgotten": (delta, 1.0),
            "out of another normalisation": ((dout * seen).sum(axis=-1), 0.5)}
print(f"{'':30} row sums of dS              error of dq   cosine")
for name, (of_row, scale) in variants.items():
    wrong = P * (dp - of_row[:, None])
    dq, truth = scale * wrong @ k, measured["dq"]
    error = np.abs(dq - truth).max() / np.abs(truth).max()
    cosine = (dq * truth).sum() / np.linalg.norm(dq) / np.linalg.norm(truth)
    sums = np.where(np.abs(wrong.sum(axis=-1)) < 1e-12, 0, wrong.sum(axis=-1))
    print(f"{name:30} {sums!s:28} {error:8.1e} {cosine:9.3f}")
    assert (error < 1e-8) == (name == "right")

# %% [markdown]
# - **Without delta, or with a wrong one**, the rows of dS do not sum to 0. That is a claim that adding one constant to all
#   scores of a row would change the loss. It would not: the softmax of a row does not see a constant. A sum that must be 0 is
#   a test that needs nothing to compare with.
# - **Without the scale** the rows still sum to 0 and the direction is right: q and k only take longer steps than they should
#   ($\sqrt{D}$ times, here twice), so learning may go on. Only a comparison sees it, such as this one with finite differences.
# - **`out` and P must come from the same keys.** Here `out` was made from two of the four, and the sums give it away.
#
# ## P comes back
#
# The forward kept the log-sum-exp of every row, $\text{lse}_n = \log \sum_j e^{s_{nj}}$. With it, any weight can be made
# again from its score alone, without a look at the rest of its row:
#
# $$
# p_{nj} = \frac{e^{s_{nj}}}{\sum_t e^{s_{nt}}} = e^{s_{nj} - \text{lse}_n}
# $$
#
# For a tile, two queries before two keys:

# %%
out, lse = ma.attention(q, k, v, return_lse=True)
tile = np.exp(q[2:] @ k[:2].T / 2 - lse[2:, None])                    # rows sat, down; keys the, cat
print(tile)
assert np.allclose(tile, P[2:, :2])
print("a softmax of the tile alone would give\n", ma.softmax(q[2:] @ k[:2].T / 2), sep="")

# %% [markdown]
# So each row keeps `out` and one number, the lse: $D_v + 1$ numbers where the map has S. Then every tile of P, dP and dS can
# be made when it is needed, used, and thrown away. Here is the whole backward tile by tile; the lengths need not divide.

# %%
def tiled_backward(dout, q, k, v, out, lse, block_q, block_k):
    """dq, dk, dv of one head; nothing larger than a tile is ever held, besides the results."""
    scale = 1 / np.sqrt(q.shape[-1])
    delta = (dout * out).sum(axis=-1)                                 # (N,), once for all tiles
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for keys in online.blocks(len(k), block_k):                       # slices; the last may be short
        for rows in online.blocks(len(q), block_q):
            p = np.exp(scale * q[rows] @ k[keys].T - lse[rows, None])
            dp = dout[rows] @ v[keys].T
            ds = scale * p * (dp - delta[rows, None])
            dv[keys] += p.T @ dout[rows]
            dk[keys] += ds.T @ q[rows]
            dq[rows] += ds @ k[keys]
    return dq, dk, dv

# %%
N, S, D, Dv = 13, 17, 8, 5
rng = np.random.default_rng(0)
long_q, long_k, long_v, long_dout = (rng.standard_normal(s) for s in ((N, D), (S, D), (S, Dv), (N, Dv)))
long_out, long_lse = ma.attention(long_q, long_k, long_v, return_lse=True)
tiled = tiled_backward(long_dout, long_q, long_k, long_v, long_out, long_lse, block_q=4, block_k=6)
for backend in ("numpy", "cpu"):
    library = ma.attention_backward(long_dout, long_q, long_k, long_v, backend=backend)
    for name, ours, theirs in zip(("dq", "dk", "dv"), tiled, library, strict=False):
        assert np.allclose(ours, theirs, rtol=1e-10, atol=1e-12)
        print(f"{backend:5} {name}: largest difference {np.abs(ours - theirs).max():.0e}")

# %% [markdown]
# The library's tiled form is the same two loops, with batches, masks, bias and groups. `stages` makes the scores of a tile
# again, with every option applied; `normalize` turns them into weights by the lse; `pairs_backward` (in core/reference.py)
# has the five products, and the plain form calls it with the whole map as its one tile. A tile in which nobody sees anybody is
# left out:

# %%
source = inspect.getsource(online.backward).splitlines()
start = next(n for n, line in enumerate(source) if "for keys in" in line)
print("\n".join(source[start:-1]))

# %% [markdown]
# ## Which loop goes outside
#
# dk and dv of a block of keys collect a share from every block of queries. dq of a block of queries collects a share from
# every block of keys. Whatever loop goes outside, one side is finished block by block and stays in fast memory, and the other
# is read and written again and again. Count how often each block is fetched, four blocks of queries and three of keys:

# %%
def fetched(outside):
    """How often the blocks of dq, and those of dk and dv, are fetched; a block stays while the next tile needs it too."""
    count, held = Counter(), {}
    for first, second in itertools.product(range(3 if outside == "keys" else 4), range(4 if outside == "keys" else 3)):
        keys, rows = (first, second) if outside == "keys" else (second, first)
        for name, block in (("dq", rows), ("dk, dv", keys)):
            count[name] += held.get(name) != block
            held[name] = block
    return dict(count)


for outside in ("keys", "queries"):
    print(f"{outside:7} outside: {fetched(outside)}")

# %% [markdown]
# The forward's sums all belong to queries, so queries go outside and all is well. The backward wants both. On many cores at
# once this is more than traffic: if each core owns some blocks of keys, then all of them add to the same dq. There are three
# ways out:
#
# 1. **One owner.** One core takes a whole KV head with its queries, and adds the shares in one fixed order. Good where there
#    are enough heads.
# 2. **Two passes.** One with keys outside for dk and dv, one with queries outside for dq. Scores and dP are made twice: seven
#    products a tile, where one pass has five.
# 3. **Atomic addition** (one that no other core can interrupt). All cores add to dq in memory, each when it is ready: so
#    FlashAttention-2 on a GPU (the paper's section 3.2). Five products and any number of cores; but the order of the
#    additions may be another one in every run.
#
# In exact arithmetic the order does not matter. In float32 each addition rounds:

# %%
rng = np.random.default_rng(1)
q32, k32, v32, dout32 = rng.standard_normal((4, 256, 64), dtype=np.float32)
out32, lse32 = ma.attention(q32, k32, v32, return_lse=True)
p = np.exp(q32 @ k32.T / np.float32(8) - lse32[:, None])
ds32 = p * (dout32 @ v32.T - (dout32 * out32).sum(axis=-1, keepdims=True)) / np.float32(8)
shares = [ds32[:, keys] @ k32[keys] for keys in online.blocks(256, 16)]     # 16 shares of dq

sums = []
for _ in range(100):
    dq = np.zeros_like(q32)
    for place in rng.permutation(16):                                 # whoever is ready first
        dq += shares[place]
    sums.append(dq)
changed = np.mean([(dq != sums[0]).mean() for dq in sums[1:]])
spread = max(np.abs(dq - sums[0]).max() for dq in sums) / np.abs(sums[0]).max()
print(f"100 orders, {len({dq.tobytes() for dq in sums})} different results")
print(f"{changed:.0%} of the numbers differ from the first run's, by up to {spread:.0e} of the largest")
assert 0 < spread < 1e-5

# %% [markdown]
# Small, but a training run that cannot be repeated bit by bit cannot be debugged by repeating it. minattn adds no gradient
# atomically: every number has one owner, and the shapes of the arrays, never the number of threads, decide between the first
# way and the second.

# %%
most = numba.get_num_threads()
runs = []
for threads in (1, most, most):
    numba.set_num_threads(threads)
    runs.append(ma.attention_backward(dout32, q32, k32, v32, out=out32, lse=lse32, backend="cpu"))
assert all(np.array_equal(runs[0][i], run[i]) for run in runs for i in range(3))
print("one thread, all threads, all threads again: the same bits in dq, dk and dv")

# %% [markdown]
# ## What is hidden gets nothing
#
# A hidden pair has weight 0, so its ds is 0 and nothing flows through it: not a small number, but 0. A row that sees nothing
# has out 0 and dq 0. And what stands in a key that nobody sees must not matter, even NaN (an uninitialised cache
# slot, say). Formulas do not give that by themselves: 0 times NaN is NaN.

# %%
mask = np.tril(np.ones((4, 4), bool))
mask[0], mask[:, 3] = False, False                                    # 'the' sees nothing; nobody sees 'down'
wild_k, wild_v = k.copy(), v.copy()
wild_k[3] = wild_v[3] = np.nan

weights = ma.attention_weights(q, k, mask=mask)
naive = weights * (dout @ wild_v.T - (dout * (weights @ v)).sum(axis=-1, keepdims=True))
print(f"naive dS: {np.isnan(naive).sum()} of 16 are NaN; "
      f"dq = dS k: {np.isnan(naive @ k).sum()} of 16")

masked = ma.attention_backward(dout, q, wild_k, wild_v, mask=mask)
visible = ma.attention_backward(dout, q, k[:3], v[:3], mask=mask[:, :3])
for ours, theirs in zip((masked.dq, masked.dk[:3], masked.dv[:3]), visible[:3], strict=True):
    assert np.allclose(ours, theirs, rtol=1e-12, atol=1e-15)
assert not masked.dq[0].any()
assert not masked.dk[3].any()
assert not masked.dv[3].any()
print("dk, where 'down' holds NaN and nobody sees it\n", masked.dk, sep="")

# %% [markdown]
# ## Grouped heads
#
# Where several query heads read one KV head (lesson 08), each of them has a say in what that head should be: dk and dv are
# **sums over the group**. Two query heads over one KV head, with D = 2:

# %%
q2, k1, v1 = ma.split_heads(q, 2), k[None, :, :2], v[None, :, :2]     # (H, N, D), (G, S, D), G = 1
dout2 = ma.split_heads(dout, 2)
grouped = ma.attention_backward(dout2, q2, k1, v1)
each = [plain_backward(dout2[h], q2[h], k1[0], v1[0]) for h in range(2)]
print("dk of 'cat': head 0", each[0][1][1], " head 1", each[1][1][1], " the KV head", grouped.dk[0, 1])
assert np.allclose(grouped.dk[0], each[0][1] + each[1][1])
assert np.allclose(grouped.dv[0], each[0][2] + each[1][2])
assert np.allclose(grouped.dq, [each[0][0], each[1][0]])

# %% [markdown]
# ## What stands between score and softmax
#
# **Bias.** It is added to the scores, so $dB = dS$. A bias that is shared has as gradient the sum over all the places that
# share it. A relative bias, one learned number for each distance $i - j$ of a query at position $i$ from a key at $j$, gets
# the sums along the diagonals of dS.
#
# **Softcap and score_mod.** They change a score $x$ to $f(x)$: the softcap to $c \tanh(x / c)$, which stays between $-c$ and
# $c$, a `score_mod` to what a function of yours says ([lesson 06](06_order.ipynb)). So dS is multiplied by the slope $f'(x)$
# on its way to q and k; for the softcap that is $1 - \tanh^2(x / c)$. A score_mod may give its slope as `score_mod_grad`;
# without it, the library takes finite differences of the function. Each against the judge:

# %%
distance = abs(np.arange(4)[:, None] - np.arange(4))                  # i - j, where the causal mask lets anything through
table, c = np.array([0.21, -0.34, 0.56, -0.17]), 0.8                  # table: for distances 0 to 3
dbias = ma.attention_backward(dout, q, k, v, causal=True, bias=table[distance]).dbias
dtable = np.array([np.trace(dbias, offset=-far) for far in range(4)])
fd = slope(lambda t: (dout * ma.attention(q, k, v, causal=True, bias=t[distance])).sum(), table)
assert np.allclose(dtable, fd, atol=1e-8)
print("gradient of the relative bias", dtable)

fd = slope(lambda q: (dout * ma.attention(q, k, v, softcap=c)).sum(), q)
options = {"softcap": c}, {"score_mod": lambda s, b, h, i, j: c * np.tanh(s / c)}
for option in options:
    assert np.allclose(ma.attention_backward(dout, q, k, v, **option).dq, fd, atol=1e-8)
assert not np.allclose(grads[0], fd, rtol=0.1)                        # dq without a softcap is another one

# %% [markdown]
# ## How far to trust the judge
#
# A finite difference has two errors. A large step $h$ sees the curve of the function instead of its slope; a small one
# subtracts two almost equal numbers, and what is left is rounding. For central differences the two are about $h^2$ and
# $\varepsilon / h$, where $\varepsilon$ is the rounding of one number, so the best step is near $\varepsilon^{1/3}$. For
# one-sided differences they are about $h$ and $\varepsilon / h$, and the best step is near $\varepsilon^{1/2}$. What to look
# for: the shape of the three curves, and how low each gets.

# %%
def error(step, dtype, central):
    """Largest error of dq by finite differences, as a share of the largest number."""
    x, keys, values, above = (a.astype(dtype) for a in (q, k, v, dout))
    found = np.zeros((4, 4))
    for place in np.ndindex(4, 4):
        up, down = x.copy(), x.copy()
        up[place] += dtype(step)
        down[place] -= dtype(step if central else 0)
        rise = (above * (ma.attention(up, keys, values) - ma.attention(down, keys, values))).sum()
        found[place] = rise / (up[place] - down[place])               # the step as it is after rounding
    return np.abs(found - grads[0]).max() / np.abs(grads[0]).max()


steps = 10.0 ** np.arange(-13, 0.1, 0.5)
fig, ax = plt.subplots(figsize=(6.8, 3.4), layout="constrained")
for name, dtype, central, style in [("float64, central", np.float64, True, "o-"),
                                    ("float64, one-sided", np.float64, False, "s--"),
                                    ("float32, central", np.float32, True, "^:")]:
    tried = [step for step in steps if dtype == np.float64 or step > 1e-5]
    errors = [error(step, dtype, central) for step in tried]
    ax.loglog(tried, errors, style, label=name, markersize=4)
    print(f"{name:19} best step {tried[np.argmin(errors)]:.0e}, error {min(errors):.0e}")
ax.set(xlabel="step h", ylabel="error of dq")
ax.legend(fontsize=8);

# %% [markdown]
# In float64 a right backward agrees with the judge to many digits, so that a small mistake shows as well as a large one. In
# float32 even the best step leaves an error that a small mistake can hide behind. So: derive in float64, check there, and
# hold the float32 kernel to the float64 result.
#
# ## Learning with it
#
# Now use it. The layer of this course, with its untrained $W_Q$ and $W_K$, shall learn to **copy the token before**: the
# output of each row is wanted to be what the layer would give if it looked at the previous token only ('the', the first, at
# itself). The layer's `backward` takes `attention_backward` and continues to the weights: $dW_Q = X^\top dq$ and
# $dW_K = X^\top dk$. Then **gradient descent**: each step takes from every number of $W_Q$ and $W_K$ its gradient
# times a *rate*. The loss is half the sum of the squared differences, so that its derivative is the difference itself.

# %%
wanted = X[[0, 0, 1, 2]] @ W_V @ W_O                                  # (N, E)


def learn(rate, steps=300):
    """Gradient descent on W_Q and W_K from the course's numbers: the loss of each step, and the last map."""
    w_q, w_k, losses = W_Q, W_K, []
    for _ in range(steps):
        layer = ma.MultiHeadAttention(w_q, w_k, W_V, W_O, heads=1)
        given, weights = layer(X, return_weights=True)
        losses.append(((given - wanted) ** 2).sum() / 2)
        grads_of_layer = layer.backward(given - wanted, X)            # dout: the derivative of the loss above
        w_q, w_k = w_q - rate * grads_of_layer.dw_q, w_k - rate * grads_of_layer.dw_k
    return losses, weights[0]


slow_losses, slow_map = learn(0.1)
print("rate 0.1, loss at steps 0, 1, 10, 100, 299:", np.array(slow_losses)[[0, 1, 10, 100, 299]])
print(slow_map)
assert slow_losses[-1] < slow_losses[0] / 1000

# %% [markdown]
# **Predict before you run.** With a rate of 0.3, is it done in a third of the steps?
#
# <details><summary>Answer</summary>
#
# No. The first steps are so long that the scores become huge: the map jumps to one key a row, not always the right one. There
# P is 0 or 1 to eight digits, so dS = P * (dP - delta) is next to nothing, and the loss stands still. This is the saturated
# softmax of lesson 02, met in training.
#
# </details>

# %%
fast_losses, fast_map = learn(0.3)
print("rate 0.3, loss at steps 0, 1, 10, 100, 299:", np.array(fast_losses)[[0, 1, 10, 100, 299]])
assert np.isclose(fast_losses[-1], fast_losses[10], rtol=1e-6)
assert fast_losses[-1] > fast_losses[0]
assert (fast_map.max(axis=-1) > 1 - 1e-8).all()

fig, axes = plt.subplots(2, 2, figsize=(8, 6.4), layout="constrained")
axes = axes.ravel()
axes[0].semilogy(slow_losses, label="rate 0.1")
axes[0].semilogy(fast_losses, "--", label="rate 0.3")
axes[0].set(xlabel="step", ylabel="loss")
axes[0].legend()
for ax, each, title in zip(axes[1:], (P, slow_map, fast_map), ("before", "after, rate 0.1", "after, rate 0.3"), strict=True):
    ma.plot.heatmap(each, TOKENS, title=title, colorbar=False, ax=ax)

# %% [markdown]
# ## The real thing
#
# Head 8 of layer 13 of SmolLM2: 'it' looks at 'cat' (lesson 04). Which changes of the keys would raise that weight? The
# gradient of **one weight** needs no new code. Give 'cat' the value 1 and every other key the value 0; then the output of a
# row *is* its weight on 'cat'. With `dout` 1 at ('it', head 8) and 0 elsewhere, `dk` is the answer.

# %%
found = course.real("sentence")
print("from the model itself" if course.model() else "from the stored maps")
tokens, it, cat, mat = found.tokens, *(found.tokens.index(word) for word in (" it", " cat", " mat"))
real_q, real_k = found.q.astype(np.float64), found.k.astype(np.float64)      # (9, 10, 64), (3, 10, 64)


def value_one(key):
    """Values (G, S, 1) that turn the output into the weight on one key."""
    values = np.zeros((3, 10, 1))
    values[:, key] = 1
    return values


dout_it = np.zeros((9, 10, 1))
dout_it[8, it] = 1
dk = ma.attention_backward(dout_it, real_q, real_k, value_one(cat), causal=True).dk
row = ma.attention_weights(real_q, real_k, causal=True, heads=8, rows=it)
ds_it = row * ((np.arange(10) == cat) - row[cat])                     # dp is 1 at 'cat', delta is the weight itself
assert np.allclose(dk[2], np.outer(ds_it, real_q[8, it]) / 8)         # every key along the one query
assert not dk[:2].any()                                               # KV heads 0 and 1 have no part in it
for j in np.argsort(-abs(ds_it))[:5]:
    print(f"{tokens[j]:>6}: weight {row[j]:.3f}, gradient of its score {ds_it[j]:+.3f}")
print("sum over all keys", abs(ds_it.sum()).round(12))

# %% [markdown]
# 'cat' should move along the query of 'it', and its rivals against it, each rival in proportion to its weight: what one key
# wins, the others lose. Does it come true? A small step along `dk`, predicted (the step times the sum of squares of the
# gradient) and done:

# %%
step = 0.01
moved = ma.attention_weights(real_q, real_k + step * dk, causal=True, heads=8, rows=it)
print(f"weight of 'it' on 'cat': {row[cat]:.6f}; predicted change {step * (dk**2).sum():.6f}, "
      f"done {moved[cat] - row[cat]:.6f}")
assert np.isclose(moved[cat] - row[cat], step * (dk**2).sum(), rtol=0.01)

# %% [markdown]
# Now many steps, toward another aim: 'it' in head 8 shall look at 'mat'. The loss is $-\log p$ of that weight, and only keys
# may move. Heads 6 and 7 share these keys, and their loss was not counted. **Predict before you run:** does their row of 'it'
# stay as it is?
#
# <details><summary>Answer</summary>
#
# No. The key of 'mat' has moved along the query of head 8, and the queries of heads 6 and 7 are like enough to it that they
# follow. In training, each of the three has its say, and dk is their sum.
#
# </details>

# %%
keys, path = real_k, []
for _ in range(16):
    path.append(ma.attention_weights(real_q, keys, causal=True, heads=[6, 7, 8], rows=it))
    p_mat, lse_mat = ma.attention(real_q, keys, value_one(mat), causal=True, return_lse=True)
    above = -dout_it / p_mat[8, it]                                   # the derivative of -log p
    back = ma.attention_backward(above, real_q, keys, value_one(mat), out=p_mat, lse=lse_mat, causal=True)
    keys = keys - 0.5 * back.dk
path = np.array(path)                                                 # (steps, 3, S)

fig, axes = plt.subplots(1, 3, figsize=(9.5, 2.8), layout="constrained", sharey=True)
for ax, h in zip(axes, range(3), strict=True):
    ax.plot(path[:, h, mat], "o-", markersize=3, label="on 'mat'")
    ax.plot(path[:, h, cat], "s--", markersize=3, label="on 'cat'")
    ax.set(title=f"head 13.{6 + h}", xlabel="step", ylim=(0, 1))
axes[0].set_ylabel("weight of 'it'")
axes[2].legend()
for h in range(3):
    print(f"13.{6 + h}: weight on 'mat' {path[0, h, mat]:.2f} -> {path[-1, h, mat]:.2f}, on 'cat' "
          f"{path[0, h, cat]:.2f} -> {path[-1, h, cat]:.2f}")
assert path[-1, 2, mat] > 0.9 > 0.1 > path[0, 2, mat]

# %% [markdown]
# ## What it costs
#
# | product | shape | forward | backward |
# |---|---|---|---|
# | scores $q k^\top$ | (N, D) (D, S) | yes | again |
# | $P v$ | (N, S) (S, Dv) | yes | |
# | $dP = do\, v^\top$ | (N, Dv) (Dv, S) | | yes |
# | $dV = P^\top do$ | (S, N) (N, Dv) | | yes |
# | $dQ = dS\, k$ | (N, S) (S, D) | | yes |
# | $dK = dS^\top q$ | (S, N) (N, D) | | yes |
#
# Each is 2 N S D FLOPs where Dv = D: two products forward, five backward, **2.5 times** as many. One of the five is the price
# of not storing P. What is measured here, without a mask, in float32, with `out` and `lse` given to the backward:

# %%
rng = np.random.default_rng(2)


assert cpu.OWNERS == 8                                                # from so many KV heads on, one pass


def times(H, N, backend):
    """Seconds of the forward and of the backward, D = 64, one after the other nine times: (9, 2)."""
    q, k, v, dout = rng.standard_normal((4, H, N, 64), dtype=np.float32)
    out, lse = ma.attention(q, k, v, backend=backend, return_lse=True)
    runs = (lambda: ma.attention(q, k, v, backend=backend),
            lambda: ma.attention_backward(dout, q, k, v, out=out, lse=lse, backend=backend))
    return np.array([[course.seconds(run, repeats=1) for run in runs] for _ in range(9)])


print("H = 8           fastest forward   fastest backward   median ratio (2.5 by count)")
for backend, N in [("numpy", 512), ("numpy", 1024), ("cpu", 512), ("cpu", 1024), ("cpu", 2048)]:
    ahead, back = times(8, N, backend).T
    print(f"{backend:5}  N = {N:4}   {1e3 * ahead.min():10.1f} ms   {1e3 * back.min():13.1f} ms   "
          f"{np.median(back / ahead):10.2f}")

# %% [markdown]
# The count is of products only. Between them the plain form walks over whole maps several times, in the forward as in the
# backward, and even the kernel's softmax takes its time in both: so the measured ratio need not be 2.5. (The kernel splits
# the work over all threads; with eight KV heads or more, as here, it takes the one pass of five products.)
#
# Memory was the reason for all this. The most that is held during one backward of one head with D = 64, the results included:

# %%
def peak(run):
    """The most bytes that NumPy held during run(), beyond what it held before."""
    tracemalloc.start()
    run()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def bytes_held(N):
    """{backend: the most bytes during one backward of N queries and N keys}"""
    q, k, v, dout = rng.standard_normal((4, N, 64), dtype=np.float32)
    out, lse = ma.attention(q, k, v, backend="cpu", return_lse=True)
    return {backend: peak(lambda backend=backend: ma.attention_backward(dout, q, k, v, out=out, lse=lse, backend=backend))
            for backend in ("numpy", "cpu")}


lengths = (1024, 2048, 4096)
held = [bytes_held(N) for N in lengths]
for N, most in zip(lengths, held, strict=True):
    print(f"N = {N}: map at hand {most['numpy'] / 1e6:6.1f} MB, tile by tile {most['cpu'] / 1e6:4.1f} MB; "
          f"kept from the forward: P {4 * N * N / 1e6:5.1f} MB, or out and lse {4 * N * 65 / 1e6:.1f} MB")

# %%
growth = {name: np.polyfit(np.log(lengths), np.log([most[name] for most in held]), 1)[0] for name in held[0]}
print(f"grows like N to the power {growth['numpy']:.2f} and {growth['cpu']:.2f}")
assert growth["numpy"] > 1.8
assert growth["cpu"] < 1.2

# %% [markdown]
# ## Exercises
#
# **1 (easy).** Write the judge. `f` takes an array and gives one number; return its gradient at `x`, an array of x's shape,
# by *central* differences: each number moves up by `h` and down by `h`. Leave `x` as it was.
#
# <details><summary>Hint</summary>
#
# One number of x after the other: `np.ndindex(x.shape)` walks over all places of an array of any shape.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Make two copies of x for each place, one moved up by h and one moved down. How far are they apart?
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def finite_difference(f, x, h):
#     found = np.zeros_like(x)
#     for place in np.ndindex(x.shape):
#         up, down = x.copy(), x.copy()
#         up[place] += h
#         down[place] -= h
#         found[place] = (f(up) - f(down)) / (2 * h)
#     return found
# ```
#
# </details>

# %%
def finite_difference(f, x, h):
    """f: array -> number, x of any shape, h > 0 -> the gradient of f at x, of x's shape"""
    return None


check.finite_difference(finite_difference)

# %% [markdown]
# **2 (easy).** The gradient of the values: weights `p` (H, N, S) and `dout` (H, N, Dv) in, `dv` (H, S, Dv) out.
#
# <details><summary>Hint</summary>
#
# Each value collects from all queries: $dv_j = \sum_n p_{nj}\, do_n$. Over which axis is the sum?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# A matrix product sums over the last axis of the left and the last but one of the right. `swapaxes(-1, -2)` transposes each
# head.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def value_gradient(p, dout):
#     return p.swapaxes(-1, -2) @ dout
# ```
#
# The forward sums over keys, so the backward sums over queries: that is what the transpose says.
#
# </details>

# %%
def value_gradient(p, dout):
    """(H, N, S), (H, N, Dv) -> (H, S, Dv)"""
    return None


check.value_gradient(value_gradient)

# %% [markdown]
# **3 (medium).** Back through the softmax: weights `p` and their gradient `dp`, both (H, N, S), in; the gradient of the
# scores, `ds`, out. Rows are queries. Some weights are 0.
#
# <details><summary>Hint</summary>
#
# A score raises the loss if its dp is above the average of its row. Which average?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The average is weighted by p, and it is one number for each row: `keepdims=True` makes it broadcast.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def softmax_backward(p, dp):
#     delta = (p * dp).sum(axis=-1, keepdims=True)
#     return p * (dp - delta)
# ```
#
# </details>

# %%
def softmax_backward(p, dp):
    """(H, N, S), (H, N, S) -> (H, N, S)"""
    return None


check.softmax_backward(softmax_backward)

# %% [markdown]
# **4 (medium).** One tile: some queries before *some* of their keys. `out` and `lse` belong to the whole rows, which had more
# keys than are here. Return the weights `p` and the gradient `ds` of the scaled scores, both (N, S) of the tile. The scale is
# $1/\sqrt{D}$.
#
# <details><summary>Hint</summary>
#
# A softmax of the tile would normalise over the keys that are here. What did the forward keep so that you need not?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `np.exp(scores - lse)`, with lse as a column. For delta too the row is not here: which sum over Dv gives the same number?
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def tile_backward(q, k, v, dout, out, lse):
#     p = np.exp(q @ k.T / np.sqrt(q.shape[-1]) - lse[:, None])
#     delta = (dout * out).sum(axis=-1, keepdims=True)
#     return p, p * (dout @ v.T - delta)
# ```
#
# The rows of `ds` do not sum to 0 here: the other keys hold the rest.
#
# </details>

# %%
def tile_backward(q, k, v, dout, out, lse):
    """(N, D), (S, D), (S, Dv), (N, Dv), (N, Dv), (N,) -> p (N, S), ds (N, S)"""
    return None


check.tile_backward(tile_backward)

# %% [markdown]
# **5 (hard).** All of it, with grouped heads: query head h reads KV head h // (H // G). Go over tiles of at most `block_q`
# queries and `block_k` keys, and hold nothing larger than a tile besides the results. No mask. As in exercise 4, `out` and
# `lse` may come from more keys than are given (so it is when the keys are spread over several machines).
#
# <details><summary>Hint</summary>
#
# Start from `tiled_backward` above and put a loop over the query heads around it.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Three `+=`, one for each result. dk and dv of a KV head also collect from every query head of its group, so they must not
# start anew for each head.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def flash_backward(dout, q, k, v, out, lse, block_q, block_k):
#     (H, N, D), (G, S, _) = q.shape, k.shape
#     dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
#     delta = (dout * out).sum(axis=-1)
#     for h, first, other in itertools.product(range(H), range(0, S, block_k), range(0, N, block_q)):
#         g, keys, rows = h // (H // G), slice(first, first + block_k), slice(other, other + block_q)
#         p = np.exp(q[h, rows] @ k[g, keys].T / np.sqrt(D) - lse[h, rows, None])
#         ds = p * (dout[h, rows] @ v[g, keys].T - delta[h, rows, None]) / np.sqrt(D)
#         dv[g, keys] += p.T @ dout[h, rows]
#         dk[g, keys] += ds.T @ q[h, rows]
#         dq[h, rows] += ds @ k[g, keys]
#     return dq, dk, dv
# ```
#
# </details>

# %%
def flash_backward(dout, q, k, v, out, lse, block_q, block_k):
    """(H, N, Dv), (H, N, D), (G, S, D), (G, S, Dv), (H, N, Dv), (H, N), int, int -> dq, dk, dv"""
    return None


check.flash_backward(flash_backward)

# %% [markdown]
# ## Three questions
#
# **A network's loss falls, but its rows of dS sum to something that is not 0. Which line is suspect, and which is not?**
#
# <details><summary>Answer</summary>
#
# The subtraction of delta, or the `out` that it was made of. Not the scale: a wrong scale leaves the sums at 0.
#
# </details>
#
# **Why does FlashAttention compute the scores a second time? P could be stored in 16 bits.**
#
# <details><summary>Answer</summary>
#
# 16 bits halve a map that grows with $N^2$: at twice the length it takes twice what it took in 32 bits before. `out` and lse
# grow with $N$. And where memory is slow beside arithmetic, to read a stored map takes longer than to make a tile of it again.
#
# </details>
#
# **The gradient of one weight moved 'cat' along the query of 'it', and its rivals against it. Why not 'was' and 'tired'?**
#
# <details><summary>Answer</summary>
#
# They come after 'it'. The causal mask hides them: weight 0, so ds 0, so gradient 0.
#
# </details>

# %%
assert not ds_it[it + 1:].any()
assert tokens[it + 1:] == [" was", " tired"]

# %% [markdown]
# ## Where to go on
#
# - The files: `pairs_backward` in [minattn/core/reference.py](../minattn/core/reference.py), `backward` in
#   [minattn/flash/online.py](../minattn/flash/online.py), and the compiled form, with its one pass or two, in
#   [minattn/flash/backward.py](../minattn/flash/backward.py). The layer's:
#   [minattn/multihead.py](../minattn/multihead.py).
# - Papers: Dao et al. 2022, [arXiv:2205.14135](https://arxiv.org/abs/2205.14135), appendix B.2 (delta) and Algorithm 4; Dao
#   2023, [arXiv:2307.08691](https://arxiv.org/abs/2307.08691), Algorithm 2.
# - Which mechanism when, and what else there is: [which_when.md](which_when.md).
# - Next: [13 Sparse attention](13_sparse_attention.ipynb), which leaves pairs out.
