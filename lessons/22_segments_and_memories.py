# %% [markdown]
# # 22 Segments and memories
#
# 35 minutes · difficulty: hard · read before: [06 Order](06_order.ipynb), [07 The KV cache](07_kv_cache.ipynb),
# [14 Linear attention](14_linear_attention.ipynb), [21 Streaming](21_streaming.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - carry rows from one segment of a text to the next, and count how far back each layer then reaches,
# - write Transformer-XL's relative positions, and move their scores into place by a pad and a reshape,
# - ask an external memory for its best matches, and write and read a memory of constant size,
# - say which past tokens each of them still finds, by which path, and for how many bytes.

# %% [markdown]
# ## The question
#
# A model reads a book in **segments** of a few hundred or thousand tokens. Within a segment, attention sees everything.
# But the sentence that explains this one may stand a hundred pages back. What of the past can a query still read, and at
# what price? Four answers, and each keeps something else of the segments that are gone:
#
# | | what is kept | how it is read |
# |---|---|---|
# | **Transformer-XL** (Dai et al. 2019) | the rows of the last $M$ tokens, in each layer | as more keys of the same attention |
# | **Compressive Transformer** (Rae et al. 2019) | these, and older rows, $c$ mixed to one | the same |
# | **Memorizing** (Wu et al. 2022) | very many keys and values, in one layer | the best matches, by their own softmax |
# | **Infini-attention** (Munkhdalai et al. 2024) | a matrix and a vector a head | a product with the query |

# %%
import course
import matplotlib.pyplot as plt
import numpy as np
from course import W_K, W_O, W_Q, W_V, X

import minattn as ma
from minattn.memory import compress, reconstruction_loss
from minattn.practice import check

np.set_printoptions(precision=2, suppress=True)
rng = np.random.default_rng(0)

# %% [markdown]
# ## Predict before you run
#
# Segments of 4 tokens. In each of 3 layers a token sees its own segment up to itself, and the 4 rows before the segment, as
# the layer below made them. Token 15 is the last of its segment, 12 to 15. What is the oldest token that it can know of after
# one layer, after two, after three?
#
# <details><summary>Answer</summary>
#
# 8, 4 and 0. In one layer it sees the rows 8 to 15. Row 8 began a segment, and had seen the rows 4 to 7 in the layer below,
# of which row 4 had seen 0 to 3.
#
# </details>
#
# ## Transformer-XL: distances, not places
#
# Take the course's sentence as two segments of two. 'sat down' is being computed; the rows of 'the cat' are remembered. If
# positions were *added* to the tokens, counted from 0 in each segment, 'the' and 'sat' would both be number 0. So a score uses
# the distance $i - j$ instead:
#
# $$
# A_{ij} = q_i \cdot k_j + q_i \cdot r_{i-j} + u \cdot k_j + t \cdot r_{i-j}
# $$
#
# $r_d$ is the sinusoid of the distance $d$ (lesson 06) times a learned matrix; $u$ and $t$ are two learned vectors a head. The
# paper calls the second one $v$; here $v$ stays a value. The query 'down', by hand:

# %%
W_R, u, t = (rng.standard_normal(shape).round(2) for shape in ((4, 4), 4, 4))       # one head, D = 4
weights = ma.XLWeights(W_Q, W_K, W_V, W_R, W_O, u[None], t[None])
memory, segment = X[:2], X[2:]                                        # 'the cat' | 'sat down'
rows = np.concatenate([memory, segment])                              # (S, E), S = M + N = 4
q = segment[1] @ W_Q
scores = []
for j, token in enumerate(course.TOKENS):
    k, r = rows[j] @ W_K, ma.positions.sinusoidal([3 - j], 4)[0] @ W_R
    terms = np.array([q @ k, q @ r, u @ k, t @ r])
    scores.append(terms.sum() / 2)                                    # sqrt(D) = 2
    print(f"'down' on {token:>4}, distance {3 - j}: q.k {terms[0]:5.2f}  q.r {terms[1]:5.2f}  u.k {terms[2]:5.2f}  "
          f"t.r {terms[3]:5.2f}  score {scores[-1]:5.2f}")
print("weights", ma.softmax(np.array(scores)))

# %% [markdown]
# $u \cdot k_j$ is what every query asks of a key, and $t \cdot r_d$ of a distance, whatever it has to say itself. For all
# queries of the segment at once: the terms with $k$ are attention with the query $q + u$. The terms with $r$ need, in row $i$
# and column $j$, the distance $i - j$. The **direct** form looks it up in a table, pair by pair.

# %%
q, k, v = segment @ W_Q, rows @ W_K, rows @ W_V                       # (2, 4), (4, 4), (4, 4)
r = ma.positions.sinusoidal(np.arange(4), 4) @ W_R                    # (S, D), by distance
distance = np.arange(2, 4)[:, None] - np.arange(4)                    # (N, S): the segment stands behind the memory
may = distance >= 0
position = np.array([[(q[i] + t) @ r[max(distance[i, j], 0)] for j in range(4)] for i in range(2)])
A = ((q + u) @ k.T + position) / 2
np.testing.assert_allclose(A[1], scores)                              # the loop above
out = ma.softmax(np.where(may, A, -np.inf)) @ v @ W_O
whole = ma.transformer_xl_attention(X, weights, segment=2, memory_length=2)
np.testing.assert_allclose(out, whole[2:])                            # the library, both segments in one call
print("distances\n", distance, "\n'sat down' becomes\n", out, sep="")

# %% [markdown]
# ## The shift
#
# One product $(q + t)\, r^\top$ has all the numbers that are needed, with the distance $S-1$ in column 0 of *every* row; but
# each row wants its distances one column further to the left than the next row does. No loop is needed for that. Put a column
# of zeros in front, read the numbers again as rows of $N$ instead of $S + 1$, drop the first row, and read them as $(N, S)$.
# Here the numbers are names: 23 means row 2, distance 3.

# %%
def shift(product):
    N, S = product.shape
    padded = np.concatenate([np.zeros((N, 1), product.dtype), product], axis=1)
    return padded.reshape(S + 1, N)[1:].reshape(N, S)


names = 10 * np.arange(1, 4)[:, None] + np.arange(4, -1, -1)          # rows 1 to 3, distances 4 to 0
print("the product", names, "shifted", shift(names), sep="\n")
wanted = np.arange(2, 5)[:, None] - np.arange(5)                      # N = 3 queries behind M = 2 rows
seen = wanted >= 0
assert (shift(names)[seen] == (10 * np.arange(1, 4)[:, None] + wanted)[seen]).all()
backwards = (q + t) @ r[::-1].T                                       # the course's: distance 3 in column 0
np.testing.assert_allclose(shift(backwards)[may], position[may], atol=1e-15)

# %% [markdown]
# Row 3 stands where it stood, row 2 has moved by one, row 1 by two: each has its distance 0 under its own token.
#
# **Built broken: read beyond.** To the right of that 0 stand the zero of the pad and the numbers of *the next row*. They look
# like scores. Compare them with the 0 that the direct form leaves there, and then forget the causal mask:

# %%
a, b, values = rng.standard_normal((3, 8)), rng.standard_normal((5, 8)), rng.standard_normal((5, 8))
by_shift, by_table = shift(a @ b[::-1].T), np.where(seen, (a @ b.T)[np.arange(3)[:, None], wanted], 0)
print(f"largest difference where a query may look {np.abs(by_shift - by_table)[seen].max():.0e}, "
      f"beyond {np.abs(by_shift - by_table)[~seen].max():.2f}")
unmasked, masked = (ma.softmax(np.where(show, by_shift, -np.inf)) @ values for show in (True, seen))
print("outputs off by", np.abs(unmasked - masked).max(axis=1), "in rows 1, 2, 3")
assert np.abs(unmasked - masked)[2].max() == 0 < np.abs(unmasked - masked)[0].max()

# %% [markdown]
# The last row is right, so a test with one query finds nothing. The mend is the mask, which is needed anyway.
#
# **Built broken: places in place of distances.** Add a sinusoid of its place in the segment to each token, in both segments.
# The same word stands at place 1 of the old segment and at place 1 of the new one. How do their scores differ, for the last
# query?

# %%
E, N = 16, 4
words = rng.standard_normal((2 * N, E))
words[5] = words[1]                                                   # the same word, a segment later
wq, wk, wr = rng.standard_normal((3, E, E)) / 4
placed = words + ma.positions.sinusoidal(np.tile(np.arange(N), 2), E)       # 0 1 2 3 0 1 2 3
by_place = (placed[7] @ wq) @ (placed @ wk).T
by_distance = (words[7] @ wq) @ (words @ wk + ma.positions.sinusoidal(7 - np.arange(8), E) @ wr).T
for name, score in (("places", by_place), ("distances", by_distance)):
    print(f"by {name:9} word 1 scores {score[1]:6.2f}, word 5 {score[5]:6.2f}: they differ by {abs(score[1] - score[5]):.2f}")
assert abs(by_place[1] - by_place[5]) < 1e-12 < 0.1 < abs(by_distance[1] - by_distance[5])

# %% [markdown]
# A collision: under places nothing tells the newer from the older. That is why the distances had to come with the memory.
#
# ## How far each layer reaches
#
# Each layer remembers *its own* input rows. In training no gradient flows into them, so that a step goes back through one
# segment alone; forward they hold what the layers below had gathered from before. So the reach adds up. It is not assumed
# here but measured: change one token, and see whose output changes after 1, 2 and 3 layers.
#
# **What to look for:** stairs that go down by one segment a layer. The first token of a segment has a shorter reach than the
# last one has.

# %%
layers = [ma.XLWeights.random(8, heads=2, seed=n) for n in range(3)]
x = rng.standard_normal((16, 8))


def influence(layers, segment, memory):
    """(N, N): whether token i's output changes when token j does."""
    def run(x):
        for w in layers:
            x = x + ma.transformer_xl_attention(x, w, segment=segment, memory_length=memory)
        return x
    out = run(x)
    return np.stack([(run(x + np.eye(16)[j][:, None]) != out).any(axis=1) for j in range(16)], axis=1)


fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.4), layout="constrained")
for n, ax in enumerate(axes, 1):
    ma.plot.mask(influence(layers[:n], 4, 4), title=f"{n} layer{'s' * (n > 1)}", legend=False, ax=ax)
oldest = {memory: [int(influence(layers[:n], 4, memory)[15].argmax()) for n in (1, 2, 3)] for memory in (4, 2, 0)}
for memory, found in oldest.items():
    print(f"memory of {memory} rows: after 1, 2, 3 layers token 15 knows of the tokens from", found)
assert oldest == {4: [8, 4, 0], 2: [10, 6, 2], 0: [12, 12, 12]}

# %% [markdown]
# With a memory of 2 rows the reach grows by 4 a layer all the same: the remembered row 10 had seen the whole of its segment,
# from 8 on, and the two rows before that. Without a memory, layers add nothing.
#
# What it saves shows when a text is scored with $M$ tokens of context for each. A window that slides by one token computes
# all its $M + 1$ rows anew for each token; here one row is computed and $M$ are remembered. (Up to 1,800 times as fast in the
# paper, on its machine.)
#
# ## Compressive: older rows, $c$ in one
#
# What leaves that memory need not be dropped: $c$ rows become one, by their mean here, and go to a second memory. A segment
# sees $M + cP$ tokens back for $M + P$ rows. What is lost?

# %%
four = rng.standard_normal((4, 64))
print("the order: exchanged rows give the same mean?", np.allclose(compress(four, 4), compress(four[[2, 0, 3, 1]], 4)))
keys, w = rng.standard_normal((4000, 64)), ma.XLWeights.random(64, heads=1)
h, old = keys[:32], keys[-64:]                                        # a segment reads 64 rows
size = np.sqrt((ma.attention(h @ w.w_q, old @ w.w_k, old @ w.w_v) ** 2).mean())
for rate in (1, 2, 4, 8):
    mixed = compress(keys, rate)
    own = np.einsum("nd,nd->n", keys, mixed.repeat(rate, axis=0))     # each key on the row that it went into
    other = np.einsum("nd,nd->n", keys, np.roll(mixed, 1, axis=0).repeat(rate, axis=0))
    off = np.sqrt(reconstruction_loss(h, old, w, rate).loss) / size
    print(f"{rate} in one: a key scores {own.mean():5.1f} on its own row, {other.std():4.1f} (std) on others; "
          f"what a segment reads is off by {off:.0%}")
both = ma.CompressiveMemory(16, 16, rate=4)
for _ in range(8):
    both.append(np.zeros((32, 64)))                                   # eight segments of 32
print(f"16 rows, and 16 of 4 in one, begin {both.reach} tokens back")
assert both.reach == 16 + 4 * 16

# %% [markdown]
# The order within a row is gone, a match is $c$ times fainter, and noise only $\sqrt c$ times. Even where the row is found,
# it holds $c$ values at once. The paper trains a convolution in place of the mean so that what is *read* suffers least: that
# error is its loss (`reconstruction_loss`).
#
# ## Memorizing: the best matches of very many
#
# One layer, near the top, keeps keys and values themselves, of the latest $S$ tokens: first in, first out. Each query of each
# head takes the few with the largest $q \cdot k$, has a softmax over these alone, and a learned gate $b$ a head mixes it with
# the segment: $\sigma(b)\, V_m + (1 - \sigma(b))\, V_c$. By hand, then the library; and with all pairs kept it is dense
# attention to the memory.

# %%
q, k, v = rng.standard_normal((3, 5, 8))                              # a segment of five, one head
old_k, old_v = rng.standard_normal((2, 9, 8))
b, keep, n = 0.4, 3, 4                                                # the last query takes the best 3 of 9
match = q[n] @ old_k.T
best = np.argsort(-match)[:keep]
V_m = ma.softmax(match[best] / np.sqrt(8)) @ old_v[best]
V_c = ma.softmax(q[n] @ k[:n + 1].T / np.sqrt(8)) @ v[:n + 1]
share = 1 / (1 + np.exp(-b))
print("matches", match, "\nbest", best, f" share of the memory {share:.2f}")

external = ma.ExternalMemory(1, capacity=9, head_dim=8, dtype=np.float64)
external.append(old_k[None], old_v[None])
asked = {"gate": np.array([b]), "memory": external}
out = ma.memorizing_attention(q[None], k[None], v[None], keep=keep, **asked)[0]
np.testing.assert_allclose(out[n], share * V_m + (1 - share) * V_c)
dense = share * ma.attention(q, old_k, old_v) + (1 - share) * ma.attention(q, k, v, causal=True)
np.testing.assert_allclose(ma.memorizing_attention(q[None], k[None], v[None], keep=9, **asked)[0], dense, atol=1e-12)
external.append(k[None], v[None])                                     # the segment is done: five go in, five go out
assert len(external) == 9
np.testing.assert_array_equal(external.k[0], np.concatenate([old_k, k])[-9:])

# %% [markdown]
# No gradient flows into the memory, so it may be very long: each query pays one product with every key in it (an approximate
# index makes that less), and its softmax has `keep` terms whatever the length. The memory has no positions. (The paper also
# gives queries and keys unit length: keys of long ago come from weights as they were then.)
#
# ## Infini: a memory that never grows
#
# Instead of keys, keep their sum. With the features $s(x) = \mathrm{elu}(x) + 1$ of lesson 14, a segment that is done is
# written into a matrix $M$ and a normaliser $z$, and every later query reads them:
#
# $$
# A_\text{mem} = \frac{s(q)\, M}{s(q) \cdot z} \qquad M \leftarrow M + s(K)^\top V \qquad z \leftarrow z + \textstyle\sum s(k)
# $$
#
# First read, then write: the segment itself is seen by its own softmax, and a gate mixes both as above. By hand, the
# course's head 0 in segments of two, then everything at once: what segment 2 and later read is **normalised linear attention
# over all earlier segments**.

# %%
def s(x):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


q, k, v = (ma.split_heads(X @ w, 2)[0] for w in (W_Q, W_K, W_V))      # (4, 2) each
M, z = np.zeros((2, 2)), np.zeros(2)
for n in (0, 1):                                                      # 'the cat' is written
    M, z = M + np.outer(s(k[n]), v[n]), z + s(k[n])
print("M", M.round(2).tolist(), " z", z)
print(f"'sat' reads {s(q[2]) @ M} / {s(q[2]) @ z:.2f} = {s(q[2]) @ M / (s(q[2]) @ z)}")
memory_alone = {"gate": np.array([np.inf]), "delta": False}           # sigmoid(inf) = 1
np.testing.assert_allclose(ma.infini_attention(q, k, v, segment=2, **memory_alone)[2], s(q[2]) @ M / (s(q[2]) @ z))

q, k, v = rng.standard_normal((3, 50, 8))
read = ma.infini_attention(q, k, v, segment=7, **memory_alone)
assert not read[:7].any()                                             # the first segment finds nothing
for start in range(7, 50, 7):
    pairs = s(q[start:start + 7]) @ s(k[:start]).T
    want = pairs @ v[:start] / pairs.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(read[start:start + 7], want, atol=1e-12)

# %% [markdown]
# The paper has a second rule, **delta**: write only what the memory does not hold yet, $v - s(k) M / (s(k) \cdot z)$ in place
# of $v$. The normaliser counts every token as before.
#
# **Predict before you run.** One key is written with the value 10, then again with 10; or with 10 and then 20. What does the
# key read after that, under each rule?
#
# <details><summary>Answer</summary>
#
# Under the first rule the mean of all that was written: 10, and 15. Under delta, the second 10 adds nothing to $M$, but $z$
# has doubled: 5. And 20 replaces the 10 in $M$, and is read as 10.
#
# </details>

# %%
def reads_back(values, delta):
    """What one key reads after it was written with these values, each in a segment of its own."""
    key, v = np.tile([[0.3, -1.2]], (len(values), 1)), np.array(values, float)[:, None]
    state = ma.infini_attention(key, key, v, gate=np.zeros(1), segment=1, delta=delta, return_state=True)[1]
    return (s(key[0]) @ state.memory / (s(key[0]) @ state.normalizer)).item()


for values in ([10], [10, 10], [10, 10, 10], [10, 20]):
    print(f"written {values!s:13} all of it: {reads_back(values, False):4.1f}   delta: {reads_back(values, True):4.1f}")
assert [round(reads_back(w, True), 9) for w in ([10], [10, 10], [10, 20])] == [10, 5, 10]
assert [round(reads_back(w, False), 9) for w in ([10], [10, 10], [10, 20])] == [10, 10, 15]

# %% [markdown]
# So delta does erase: nothing of the first value is left. But the normaliser does not know of it, and what is read shrinks.
# (Lesson 16's delta rule has no normaliser, and reads 20.)
#
# ## The paper's table, computed
#
# 12 layers, 8 heads, $D = D_v = 128$, segments of 2048. Transformer-XL remembers one segment in each layer; the Memorizing
# Transformer does so in 11 and has 65,536 pairs in the twelfth. How many numbers are kept? The paper prints 1.6M for
# Infini-attention, and "114x" for what it saves.

# %%
n_layers, H, D, segment_length, pairs = 12, 8, 128, 2048, 65_536
one = np.zeros((H, 1, D), np.float32)
_, state = ma.infini_attention(one, one, one, gate=np.zeros(H), segment=1, return_state=True)
infini = n_layers * state.size                                        # H D (Dv + 1) numbers a layer
xl_layer = 2 * H * D * segment_length                                 # a key and a value for each token and head
memorizing = (n_layers - 1) * xl_layer + 2 * H * D * pairs
print(f"Infini-attention {infini:13,}\nTransformer-XL   {n_layers * xl_layer:13,}\nMemorizing       {memorizing:13,}"
      f"   {memorizing / infini:.1f} times as many")
assert (infini, n_layers * xl_layer, round(memorizing / infini, 1)) == (1_585_152, 50_331_648, 113.8)

# %% [markdown]
# ## One needle for all
#
# Now the same task for each, with a window, a window with first tokens (lesson 21), full and linear attention beside them. A
# text of 512 random keys, each with a random symbol as its value. The last token asks with the key of one token, the
# **needle**, some distance back; what comes out is decoded as the symbol with the largest share. $D = 64$, so guessing is
# right once in 63.
#
# Nothing is trained. The keys are far apart: one channel in eight is 2, the others are -2, which a softmax and the features
# of linear attention can both tell apart. So the lab shows which **paths** there are (a cell is grey where the needle's weight
# is *exactly* 0) and what they have **room** for. It cannot show what a model would learn to do with them: which keys to make,
# what to write, how to set the gate, or how many layers to use, for here there is one.
#
# **What to look for:** where each row turns grey, and where it turns dark without being grey. Then compare the bars.

# %%
distances = [1, 16, 31, 32, 47, 48, 63, 64, 111, 112, 287, 288, 507, 508, 511]
found = ma.needle_recall(distances, trials=30)
opened = ma.needle_recall(distances, trials=30, names=["infini"], gate=np.inf)["infini"]
linear = found.pop("linear")
found |= {"infini, memory alone": opened._replace(paths="the same, the gate wide open"), "linear": linear}
ma.plot.needle(found, distances);

# %%
far = [n for n, d in enumerate(distances) if 48 <= d < 112]           # in the compressive memory's mixed rows
print("compressive, mixed rows: weight", found["compressive"].weight[far].mean().round(3), "recall",
      found["compressive"].recall[far].mean().round(2))
print("infini, beyond the segment: recall", found["infini"].recall[3:].mean().round(2), "with its gate half open,",
      opened.recall[3:].mean().round(2), "from the memory alone")
assert (found["full"].recall == 1).all()
assert not found["transformer-xl"].weight[distances.index(64):].any()
assert found["memorizing"].recall[distances.index(287)] == 1 > found["memorizing"].weight[distances.index(288)] == 0
assert found["infini"].recall[3:].mean() < opened.recall[3:].mean()
assert opened.recall[3:9].mean() > opened.recall[-4:].mean()          # late segments before early ones

# %% [markdown]
# - **Window** and **Transformer-XL** are alike in one layer: 64 tokens, for the same bytes. That is at the end of a segment,
#   where the needle is asked for; the segment's first token sees 32 rows before it and no more. XL gains by layers, as seen
#   above. The **first tokens** are four places at the far end, paid for by four near ones.
# - **Compressive** reaches 112 tokens for the bytes of 64. A path it is, but the mean of four keys hardly matches any of them.
# - **Memorizing** finds all that it holds, at any distance, and drops what is older: 32 + 256 tokens.
# - **Linear** and **Infini** have a path to every token. Linear attention finds about as little near as far; Infini's memory,
#   under delta, more of the late segments than of the early ones. But with its gate half open the memory drowns: a softmax
#   over a segment that does not hold the needle still gives out weights that sum to 1. The gate is one number a head and not
#   the query's choice. (Trained, the paper found heads near 0, heads near 1, and some near 0.5.)
#
# How much fits into a state? The same needle in the middle of shorter and longer texts, for the keys above and for unit
# normals, which the features hardly tell apart:

# %%
print("tokens        ", "".join(f"{N:7}" for N in (16, 32, 64, 128, 256)))
for kind in ("sparse", "normal"):
    options = {"window": 8, "trials": 60, "keys": kind, "gate": np.inf, "names": ["infini", "linear", "full"]}
    results = [ma.needle_recall([N // 2], length=N, **options) for N in (16, 32, 64, 128, 256)]
    for name in options["names"]:
        print(f"{kind} {name:8}", "".join(f"{result[name].recall[0]:7.2f}" for result in results))
    assert all(result["full"].recall[0] > 0.95 for result in results)
    assert results[0]["linear"].recall[0] > 2 * results[-1]["linear"].recall[0]
    at_64 = [results[2][name].recall[0] for name in ("infini", "linear")]
    assert min(at_64) > 0.9 if kind == "sparse" else max(at_64) < 0.5

# %% [markdown]
# With keys that suit them, these states of $D = 64$ answer well up to about 64 tokens; with the others, not even 16. To make
# such keys is a matter of training, of which nothing is shown here. That a state of $D (D_v + 1)$ numbers fills up is not.
#
# ## What it costs
#
# Bytes for one head as the text grows, from the same lab, which adds up what each holds; then the time for one more segment of
# 64 tokens, 4 heads, float32.

# %%
lengths = (256, 1024, 4096)
names = [name for name in found if "alone" not in name]
held = {N: ma.needle_recall([1], length=N, trials=1) for N in lengths}
print(f"{'KiB for one head':16}", "".join(f"{N:>9,}" for N in lengths), " tokens")
for name in names:
    print(f"{name:16}", "".join(f"{held[N][name].nbytes / 1024:9.4g}" for N in lengths))
assert held[4096]["full"].nbytes == 16 * held[256]["full"].nbytes
assert all(held[4096][name].nbytes == held[1024][name].nbytes for name in names if name != "full")

# %%
def milliseconds(N):
    """All keys; the segment and 64 rows before it; the best 32 of N pairs; a state: one more segment after N tokens."""
    q, k, v = rng.standard_normal((3, 4, 64, 64), dtype=np.float32)
    old_k, old_v = rng.standard_normal((2, 4, N, 64), dtype=np.float32)
    all_k, all_v = np.concatenate([old_k, k], axis=1), np.concatenate([old_v, v], axis=1)
    external, gate = ma.ExternalMemory(4, N, 64), np.zeros(4, np.float32)
    external.append(old_k, old_v)
    _, state = ma.infini_attention(k, k, v, gate=gate, segment=64, return_state=True)
    runs = [lambda: ma.attention(q, all_k, all_v, causal=True),
            lambda: ma.attention(q, all_k[:, -128:], all_v[:, -128:], causal=True),
            lambda: ma.memorizing_attention(q, k, v, gate=gate, memory=external),
            lambda: ma.infini_attention(q, k, v, gate=gate, segment=64, state=state)]
    return [1000 * course.seconds(run, 3) for run in runs]


print("tokens before      full ms   64 rows before ms   best 32 of them ms   infini ms")
for N in (1024, 4096, 16_384):
    print(f"{N:13,} {{:12.2f}} {{:19.2f}} {{:20.2f}} {{:11.2f}}".format(*milliseconds(N)))

# %% [markdown]
# The exact search is plain NumPy and sorts, where the others run the kernel of lesson 11: see how each column grows, not which
# of them is smaller. Two do not grow.
#
# | a head, $N$ tokens so far, segments of $n$ | numbers kept | products a query | what it finds |
# |---|---|---|---|
# | full attention | $2 N D$ | $N$ | every token |
# | window, Transformer-XL | $2 (n + M) D$ | $n + M$ | the latest; Transformer-XL further back with each layer |
# | Compressive | $2 (n + M + P) D$ | $n + M + P$ | the same, and $c P$ tokens faintly, $c$ at a time |
# | Memorizing | $2 (n + S) D$, in one layer | $n + S$ | all of the latest $S$ whose key is asked for |
# | Infini | $2 n D + D (D_v + 1)$ | $n + D_v + 1$ | its segment; of all before, what a state holds |
# | linear attention | $D (D_v + 1)$ | $D_v + 1$ | what a state holds |
#
# (Products are of vectors with $D$ numbers, for the scores and readings. Transformer-XL may keep a row of $E$ numbers for all
# heads of a layer, half of what keys and values take, and projects it anew in every segment.)

# %% [markdown]
# ## Exercises
#
# **1 (easy).** The oldest token: segments of `segment` tokens, and each of `layers` layers remembers the `memory` rows before
# the segment that it computes. Return the position of the oldest token (not below 0) that token `n` can know of. All four are
# integers.
#
# <details><summary>Hint</summary>
#
# Where does the segment of a token begin? And what is the oldest row that the token sees in one layer?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `n // segment * segment` is where it begins. The next layer down starts from the oldest row, not from n.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def oldest_read(n, layers, segment, memory):
#     for _ in range(layers):
#         n = max(n // segment * segment - memory, 0)
#     return n
# ```
#
# The oldest row of all that it sees reaches furthest back, so it is enough to follow that one.
#
# </details>

# %%
def oldest_read(n, layers, segment, memory):
    """int, int, int, int -> position"""
    return None


check.oldest_read(oldest_read)

# %% [markdown]
# **2 (medium).** The relative shift: `product` (N, S) has in each row the scores of the distances $S-1$ down to 0. Return (N, S)
# with the score of the distance of query i and key j in row i, column j, and 0 where j is after the query. The last query is
# the last key.
#
# <details><summary>Hint</summary>
#
# The distance is `S - N + i - j`. In which column of the product does it stand?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Either look it up, or pad, reshape, drop a row, reshape; `np.where` with the distance does the rest.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def relative_shift(product):
#     N, S = product.shape
#     padded = np.concatenate([np.zeros((N, 1)), product], axis=1)
#     moved = padded.reshape(S + 1, N)[1:].reshape(N, S)
#     return np.where(np.arange(S - N, S)[:, None] >= np.arange(S), moved, 0)
# ```
#
# </details>

# %%
def relative_shift(product):
    """(N, S) -> scores (N, S)"""
    return None


check.relative_shift(relative_shift)

# %% [markdown]
# **3 (medium).** One segment at Infini-attention's memory, under delta. `q` and `k` (N, D), `v` (N, Dv), `memory` (D, Dv) and
# `normalizer` (D,) as the segments before left them. Return what the queries read (N, Dv), and the new memory and normaliser.
# From an empty memory, all zeros, comes 0.
#
# <details><summary>Hint</summary>
#
# $s(x)$ is $x + 1$ above 0 and $e^x$ below, for queries and keys. Keys read as queries do.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Write a small function that reads for any features, and keeps 0 / 0 from happening. The segment's tokens are all compared
# with the memory as it came in.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def infini_step(q, k, v, memory, normalizer):
#     def s(x):
#         return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
#
#     def read(features):
#         below = (features @ normalizer)[:, None]
#         return features @ memory / np.where(below == 0, 1, below)
#
#     missing = v - read(s(k))
#     return read(s(q)), memory + s(k).T @ missing, normalizer + s(k).sum(axis=0)
# ```
#
# </details>

# %%
def infini_step(q, k, v, memory, normalizer):
    """(N, D), (N, D), (N, Dv), (D, Dv), (D,) -> read (N, Dv), memory (D, Dv), normalizer (D,)"""
    return None


check.infini_step(infini_step)

# %% [markdown]
# **4 (hard).** A Memorizing layer, one head: a segment `q` and `k` (N, D), `v` (N, Dv), causal; an external memory `old_k`
# (S, D), `old_v` (S, Dv), of which each query reads the `keep` best matches, or all where there are fewer; and a number `gate`,
# whose sigmoid is the memory's share. Return (N, Dv). All scores are divided by $\sqrt D$, and no two are equal.
#
# <details><summary>Hint</summary>
#
# Two softmaxes. `ma.attention(q, k, v, causal=True)` is one of them.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# For the other: after a sort of each row, the smallest score that is kept stands at place `-keep`. Hide what is below it with
# $-\infty$ *before* the softmax.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def memorizing_read(q, k, v, old_k, old_v, keep, gate):
#     scores = q @ old_k.T / np.sqrt(q.shape[1])
#     least = np.sort(scores, axis=1)[:, [-min(keep, len(old_k))]]
#     far = ma.softmax(np.where(scores >= least, scores, -np.inf)) @ old_v
#     share = 1 / (1 + np.exp(-gate))
#     return share * far + (1 - share) * ma.attention(q, k, v, causal=True)
# ```
#
# Every query chooses for itself; the gate is the same for all of them.
#
# </details>

# %%
def memorizing_read(q, k, v, old_k, old_v, keep, gate):
    """(N, D), (N, D), (N, Dv), (S, D), (S, Dv), int, number -> out (N, Dv)"""
    return None


check.memorizing_read(memorizing_read)

# %% [markdown]
# ## Three questions
#
# **A Transformer-XL of 12 layers, segments of 128, a memory of 128. How far back can the first token of a segment know of
# something, and how far can the last one?**
#
# <details><summary>Answer</summary>
#
# The first: $12 \cdot 128 = 1536$ tokens. The last, which stands 127 further on: 1663. That a path is there does not say that
# a model uses it.
#
# </details>
#
# **Why does Infini-attention read its memory before it writes the segment?**
#
# <details><summary>Answer</summary>
#
# The matrix has no order: written first, a token would read all tokens of its segment, the later ones among them. And what
# came before in its own segment it sees better, by the softmax.
#
# </details>
#
# **A Memorizing layer has a memory of 1,000 tokens and takes the best 1,000. What did the choice change?**
#
# <details><summary>Answer</summary>
#
# Nothing: it is dense attention to the memory, mixed in by the gate. It is still not one softmax over memory and segment.
#
# </details>

# %%
place = first = 128 * 100                                             # far into a text
for _ in range(12):
    place = place // 128 * 128 - 128
assert (first - place, first + 127 - place) == (1536, 1663)

# %% [markdown]
# ## Where to go on
#
# - The files: [minattn/memory/transformer_xl.py](../minattn/memory/transformer_xl.py),
#   [compressive.py](../minattn/memory/compressive.py), [memorizing.py](../minattn/memory/memorizing.py) and
#   [infini.py](../minattn/memory/infini.py); the lab, [minattn/analysis/needle.py](../minattn/analysis/needle.py), and its
#   picture, [minattn/plot/needle.py](../minattn/plot/needle.py).
# - Papers: Dai et al. 2019, [arXiv:1901.02860](https://arxiv.org/abs/1901.02860), section 3.3 and appendix B; Rae et al. 2019,
#   [arXiv:1911.05507](https://arxiv.org/abs/1911.05507), section 3; Wu et al. 2022,
#   [arXiv:2203.08913](https://arxiv.org/abs/2203.08913), section 3; Munkhdalai et al. 2024,
#   [arXiv:2404.07143](https://arxiv.org/abs/2404.07143), section 2.1, eqs (6) to (10).
# - Next: [23 The ring](23_the_ring.ipynb), the same attention over many machines.
# - Which mechanism when: [which_when.md](which_when.md).
