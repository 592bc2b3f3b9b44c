# %% [markdown]
# # 16 Attention as a recurrence
#
# 35 minutes · difficulty: medium · read before: [01 Queries, keys, values](01_queries_keys_values.ipynb),
# [07 The KV cache](07_kv_cache.ipynb), [14 Linear attention](14_linear_attention.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - carry a text through a state of constant size, by hand, and write the map that this implies,
# - set one update so that it is RetNet, Mamba, gated linear attention, DeltaNet or RWKV-7,
# - say why no decay between 0 and 1 can count parity, and set a delta rule that can,
# - follow three cups through any number of swaps, and say why no diagonal decay can.

# %% [markdown]
# ## The question
#
# A model that writes keeps the key and the value of every token before, and each new token reads all of them (lesson 07).
# The cache grows with the text. There is another family: it keeps one matrix of a fixed size, the **state**; each token
# changes it and reads from it, and is then forgotten. RetNet, Mamba, DeltaNet and RWKV-7 each have a paper, letters and
# code of their own. What do they share, in what do they differ, and is there anything that one can compute and another
# cannot?
#
# All of them are this, for a state $S$ of $D \times D_v$ numbers a head:
#
# $$
# S_n = \underbrace{\left(\mathrm{diag}(e^{g_n}) + a_n b_n^\top\right)}_{A_n} S_{n-1} + k_n v_n^\top \qquad o_n = q_n S_n
# $$
#
# The state fades by the **decay** $e^{g_n}$, one number for each of its rows; $b_n$ reads something from it, which is put
# back along $a_n$ (the **erase**, with a minus in $a_n$); the token **writes** its value where its key points; its query
# **reads**. $A_n$ is the **transition** of token $n$.

# %%
from functools import partial

import course
import numpy as np

import minattn as ma
from minattn.practice import check

np.set_printoptions(precision=2, suppress=True)


def unit(a):
    return a / np.linalg.norm(a, axis=-1, keepdims=True)

# %% [markdown]
# ## Predict before you run
#
# Three tokens have the same key, (1, 0), and the values 10, 20 and 30. The third one's query is (1, 0) too. What does it
# read, if each token (a) only writes, (b) halves the state and then writes, (c) first takes away what its key already
# holds, and then writes?
#
# <details><summary>Answer</summary>
#
# (a) 10 + 20 + 30 = 60. (b) 2.5 + 10 + 30 = 42.5. (c) 30: the others are gone.
#
# </details>

# %%
same_key, values = np.array([[1.0, 0.0]] * 3), np.array([[10.0], [20.0], [30.0]])
only_writes = ma.recurrence(same_key, same_key, values)
halves = ma.retention(same_key, same_key, values, log_decay=np.log(0.5))
erases = ma.delta_rule(same_key, same_key, values, beta=np.ones(3))
print("each of the three tokens reads\n  only writes", only_writes[:, 0], "\n  halves     ", halves[:, 0],
      "\n  erases     ", erases[:, 0])
assert (only_writes[2, 0], halves[2, 0], erases[2, 0]) == (60, 42.5, 30)

# %% [markdown]
# ## One update, by hand
#
# The course's sentence, head 0 of 2, so that the state is $2 \times 2$. The decay is 0.5 for all tokens, which is
# **retention**, the mechanism of RetNet. Check the second state with a calculator: half of the first, plus the outer
# product of the key and the value of 'cat'.

# %%
q, k, v = (ma.split_heads(course.X @ w, 2)[0] for w in (course.W_Q, course.W_K, course.W_V))
N, D = k.shape
S, out = np.zeros((D, D)), np.empty((N, D))
for n, token in enumerate(course.TOKENS):
    S = 0.5 * S + np.outer(k[n], v[n])                                # fade, then write
    out[n] = q[n] @ S                                                 # read
    print(f"{token:>4}  k {k[n]}  v {v[n]}  S {S.round(2).tolist()}  reads {out[n]}")

# %% [markdown]
# ## The map that is never formed
#
# What 'cat' wrote was halved twice before 'down' read it. Unroll the loop, and every output is a sum over earlier values,
# as in attention:
#
# $$
# o_n = \sum_{m \le n} w_{nm}\, v_m \qquad w_{nm} = q_n \, A_n A_{n-1} \cdots A_{m+1} \, k_m
# $$
#
# The product has one transition for each token after $m$, the latest at the left; for $m = n$ there is none. For
# retention it is $0.5^{n-m}$, so the whole is one masked matrix product. These $w_{nm}$ are the **implied weights**. No
# softmax made them: they may be negative, and their rows sum to anything.

# %%
age = np.arange(N)[:, None] - np.arange(N)                            # n - m
weights = np.where(age >= 0, (q @ k.T) * 0.5 ** np.maximum(age, 0), 0)
print(weights, "\nsums of the rows", weights.sum(axis=1))
np.testing.assert_allclose(weights @ v, out)                          # the loop
half = {"log_decay": np.log(0.5)}
np.testing.assert_allclose(ma.retention(q, k, v, **half), out)        # the library
np.testing.assert_allclose(ma.implied_weights(ma.retention, q, k, v, **half), weights)

# %% [markdown]
# `ma.implied_weights` finds this map for any mechanism that is linear in its values, by handing it the identity for V:
# the output is then the map itself. With erases $A_n$ is a full matrix, and the product must be formed in order. The same
# for the delta rule with $\beta = 0.8$, where $A_n = I - \beta k_n k_n^\top$:

# %%
beta, key = 0.8, unit(k)
A = [np.eye(D) - beta * np.outer(x, x) for x in key]
by_hand = np.zeros((N, N))
for n in range(N):
    for m in range(n + 1):
        kept = beta * key[m]                                          # what m writes
        for t in range(m + 1, n + 1):
            kept = A[t] @ kept                                        # and what each later token leaves of it
        by_hand[n, m] = q[n] @ kept
print(by_hand)
found = ma.implied_weights(ma.delta_rule, q, key, v, beta=np.full(N, beta))
np.testing.assert_allclose(by_hand, found, atol=1e-12)

# %% [markdown]
# ## One update, all settings
#
# Here is the update as a loop, for one head. Below it, eight mechanisms are settings of it, each held to the library's
# own function of that name.
#
# | mechanism | decay $g_n$ | erase $a_n$, $b_n$ | writes | reads with |
# |---|---|---|---|---|
# | linear attention (without its divisor) | 0 | | $\phi(k)$ | $\phi(q)$ |
# | RetNet | one number a head, fixed | | $k$ | $q$ |
# | gated linear attention | one a channel, from the token | | $k$ | $q$ |
# | Mamba | $\Delta_n$ times a fixed rate, one a channel | | $b$, and $\Delta x$ for $v$ | $c$ |
# | Mamba-2 | $\Delta_n$ times a fixed rate, one a head | | $b$, and $\Delta x$ for $v$ | $c$ |
# | DeltaNet | 0 | $-\beta k$, $k$ | $\beta k$ | $q$ |
# | Gated DeltaNet | one a head, from the token | $-\beta k$, $e^{g} k$ | $\beta k$ | $q$ |
# | RWKV-7 | one a channel, from the token | $-(a * \kappa)$, $\kappa$ | $\tilde k$ | $r$ |

# %%
def one_update(q, k, v, g=0.0, a=0.0, b=0.0):
    """One head, (N, D), (N, D), (N, Dv) -> (N, Dv); g, a and b are (N, D), or whatever is repeated to it."""
    g, a, b = (np.broadcast_to(x, k.shape) for x in (g, a, b))
    S, out = np.zeros((k.shape[1], v.shape[1])), np.empty(v.shape)
    for n in range(len(k)):
        S = np.exp(g[n])[:, None] * S + np.outer(a[n], b[n] @ S) + np.outer(k[n], v[n])
        out[n] = q[n] @ S
    return out


rng = np.random.default_rng(0)
N, D, Dv = 40, 5, 3
q, k, v = rng.standard_normal((N, D)), unit(rng.standard_normal((N, D))), rng.standard_normal((N, Dv))
token_g, channel_g = -rng.exponential(0.2, N), -rng.exponential(0.2, (N, D))
beta, rate, kappa = rng.uniform(0, 1, N), rng.uniform(0, 1, (N, D)), unit(rng.standard_normal((N, D)))

# %%
g, wr = token_g[:, None], beta[:, None] * k                           # columns of their own; what the delta rule writes
pairs = {
    "linear attention": (one_update(np.exp(q), np.exp(k), v),
                         ma.linear_attention(q, k, v, feature_map="exp", normalize=False)),
    "RetNet": (one_update(q, k, v, -0.1), ma.retention(q, k, v, log_decay=np.array(-0.1))),
    "gated linear attention": (one_update(q, k, v, channel_g), ma.gated_linear_attention(q, k, v, log_decay=channel_g)),
    "DeltaNet": (one_update(q, wr, v, 0, -wr, k), ma.delta_rule(q, k, v, beta=beta)),
    "Gated DeltaNet": (one_update(q, wr, v, g, -wr, np.exp(g) * k), ma.delta_rule(q, k, v, beta=beta, log_decay=token_g)),
    "RWKV-7": (one_update(q, k, v, channel_g, -rate * kappa, kappa), ma.rwkv7(q, channel_g, k, v, kappa, rate)),
}

x, delta, fading = v, rng.exponential(0.3, (N, Dv)), -rng.exponential(1.0, (Dv, D))     # Mamba: each of Dv channels of x
one_each = [one_update(q, k, (delta * x)[:, [e]], delta[:, [e]] * fading[e]) for e in range(Dv)]    # has a state of its own
pairs["Mamba"] = np.concatenate(one_each, axis=1), ma.selective_scan(x, delta, fading, k, q)
time, rate_2 = delta[:, 0], np.array(-0.7)                            # Mamba-2: all channels of a head share both
pairs["Mamba-2"] = one_update(q, k, time[:, None] * x, (time * rate_2)[:, None]), ma.ssd(x, time, rate_2, k, q)
for name, (ours, library) in pairs.items():
    print(f"{name:24} largest difference {np.abs(ours - library).max():.0e}")
    np.testing.assert_allclose(ours, library, atol=1e-12)

# %% [markdown]
# In Mamba's own words the size of a channel's state is $n$, our $D$, and each channel of $x$ is a head of its own with
# one value a token. What else makes up a layer (projections, token shift or convolution, norm, gate) stands around the
# update: `ma.retnet_block` and `ma.rwkv7_block` are whole.
#
# ## Six maps of the same tokens
#
# The real thing: queries, keys and values of SmolLM2, layer 13, head 8, on "The cat sat on the mat because it was tired",
# queries and keys divided by their lengths. The head was trained for a softmax and for none of the others; the maps show
# what each setting makes of the same numbers. RWKV-7's gates and rates are drawn here.
#
# **What to look for:** the softmax picks out single keys, and nothing else does. Down a column of retention the colour
# pales, as the key grows old. Where there is an erase, some cells are blue, that is negative. And under the delta rule
# the column 'The' stays strong to the end.

# %%
real = course.real("sentence")
print("from the model itself" if course.model() else "from the stored maps")
q_8, k_8, v_8 = (a.astype(np.float64) for a in (real.q[8], real.k[2], real.v[2]))     # head 8 reads KV head 8 // 3 = 2
q_8, k_8 = unit(q_8), unit(k_8)
N, D = k_8.shape
fade, most, rates = np.full(N, np.log(0.8)), np.full(N, 0.9), rng.uniform(0.6, 1, (N, D))
gates = np.log(rng.uniform(0.6, 1, (N, D)))
maps = {
    "softmax, as trained": ma.attention_weights(real.q[8], real.k[2], causal=True),
    "linear attention": ma.implied_weights(ma.linear_attention, q_8, k_8, v_8),
    "retention, 0.8": ma.implied_weights(ma.retention, q_8, k_8, v_8, log_decay=np.log(0.8)),
    "delta rule, 0.9": ma.implied_weights(ma.delta_rule, q_8, k_8, v_8, beta=most),
    "gated delta rule": ma.implied_weights(ma.delta_rule, q_8, k_8, v_8, beta=most, log_decay=fade),
    "RWKV-7": ma.implied_weights(ma.rwkv7, q_8, gates, rates * k_8, v_8, k_8, rates),
}
tokens = [token.strip() for token in real.tokens]
ma.plot.heads(np.stack(list(maps.values())), tokens, mask=ma.masks.causal(), titles=list(maps), columns=3);

# %%
it, cat = tokens.index("it"), tokens.index("cat")
for name, w in maps.items():
    print(f"{name:20} 'it' on 'cat' {w[it, cat]:5.2f}   its row sums to {w[it].sum():5.2f}   "
          f"below 0: {(w < -1e-9).sum():2} of 55")
assert maps["softmax, as trained"][it].argmax() == cat
alike = k_8 @ k_8.T
print("cosines of the key of 'it' with those before:", alike[it, :it])
print("of the key of 'The' with all later ones:     ", alike[0, 1:])
assert alike[np.tril_indices(N, -1)].mean() > 0.5 > alike[0, 1:].max()

# %% [markdown]
# The keys of this head are much alike: their cosines lie around 0.8. The exponential of the softmax tells them apart all
# the same; a state that only adds cannot. The key of 'The' alone points elsewhere, and so no later token erases what it
# wrote.
#
# ## The state as a memory
#
# So how much does a state still know when the text has ended? Ask it with each key for that key's value. Perfect memory
# would return the token's own value and nothing else, so with the identity for V the answer would be the identity.
# **Predict before you run.** Which tokens does the delta rule with $\beta = 1$ still know exactly?
#
# <details><summary>Answer</summary>
#
# The last one for certain. Each earlier one was disturbed by every later key that is not orthogonal to its own.
#
# </details>

# %%
asked, one_each = k_8, np.eye(N)                                      # the identity in place of the values


def delta(strength, state=None):
    return ma.delta_rule(k_8, k_8, one_each, beta=np.full(N, strength), state=state, return_state=True)[1]


states = {"only writes": ma.recurrence(k_8, k_8, one_each, return_state=True)[1],
          "retention, 0.8": ma.retention(k_8, k_8, one_each, log_decay=np.log(0.8), return_state=True)[1],
          "delta rule, 1": delta(1.0), "delta rule, 0.5": delta(0.5)}
recall = {name: asked @ state for name, state in states.items()}      # (N, N): the key of a row, the value of a column


def errors(found):
    return np.linalg.norm(found @ v_8 - v_8, axis=-1) / np.linalg.norm(v_8, axis=-1)


for name, found in recall.items():
    print(f"{name:15} relative errors {errors(found)}  mean {errors(found).mean():.2f}")
assert errors(recall["delta rule, 1"])[-1] < 1e-6
print("lengths of the values", np.linalg.norm(v_8, axis=-1))

# %% [markdown]
# **What to look for:** the state that only writes answers nearly every key with the sum of all. The decay forgets from
# the left. The delta rule with $\beta = 1$ is exact for the last token, but gives most of that value for every key that
# is like the last one. The row of 'The', whose key is unlike the others, is nearly right; its error is large all the
# same, because its value is so short beside the others.

# %%
ma.plot.heads(np.stack(list(recall.values())), tokens, titles=list(recall), columns=4);

# %% [markdown]
# An error of 1 is that of an answer of 0, so after one reading none of these is a good memory for such keys. But the
# delta rule is a step of gradient descent on $\frac12 |S^\top k - v|^2$, and its errors shrink when the same text comes
# again, because ten keys in 64 dimensions can all be told apart. The sum only grows. Where keys are orthogonal, one
# reading is enough, and a value can be replaced for good:

# %%
state, summed = None, states["only writes"]
for reading in range(1, 31):
    state = delta(1.0, state)
    if reading in (1, 3, 10, 30):
        print(f"after {reading:2} readings: delta rule {errors(asked @ state).mean():.2f}, "
              f"only writes {errors(asked @ (reading * summed)).mean():.1f}")
assert errors(asked @ state).mean() < 0.15

keys = np.linalg.qr(rng.standard_normal((8, 8)))[0]                   # eight orthogonal keys
old, new = rng.standard_normal((2, 8, 3))
twice, both = np.concatenate([keys, keys]), np.concatenate([old, new])
added, replaced = (keys @ S for S in (ma.recurrence(twice, twice, both, return_state=True)[1],
                                      ma.delta_rule(twice, twice, both, beta=np.ones(16), return_state=True)[1]))
np.testing.assert_allclose(added, old + new, atol=1e-12)
np.testing.assert_allclose(replaced, new, atol=1e-12)
print("orthogonal keys written twice: only writes reads old + new, the delta rule reads the new value alone")

# %% [markdown]
# ## Parity, built broken: with a decay
#
# A stream of bits; after each one, say whether the number of ones so far is odd or even. One number that changes its sign
# with each 1, and stays with each 0, would do. Can a state that fades and is written to do it?
#
# Let all bits be 1, so that the answer has to change at every step. A channel with decay $w$, to which each 1 adds 1,
# holds $1 + w + w^2 + \dots$, which climbs to its limit and never turns. Give a layer $D$ such channels and the best
# readout there is for the first $D + 1$ steps: a constant, and one factor for each channel.

# %%
steps = 64
want, t = (-1.0) ** np.arange(1, steps + 1), np.arange(1, steps + 1)[:, None]         # odd is -1, even is 1
print(" D   right from the start   changes of sign in 64 steps   right in all")
for D in (1, 2, 4, 8):
    tries = []
    for _ in range(200):
        w = rng.uniform(0, 1, D)
        held = (1 - w**t) / (1 - w)                                   # (steps, D), what the channels hold
        features = np.c_[held, np.ones(steps)]
        readout = np.linalg.lstsq(features[:D + 1], want[:D + 1], rcond=None)[0]
        said = np.sign(features @ readout)
        first_wrong = np.append(said == want, False).argmin()
        tries.append((first_wrong, (said[1:] != said[:-1]).sum(), (said == want).mean()))
    first_wrong, changes, share = max(tries)
    print(f"{D:2} {first_wrong:15} {changes:25} {share:25.0%}")
    assert (first_wrong, changes) == (D + 1, D)
last = ma.recurrence(np.ones((steps, 1)), np.ones((steps, 1)), np.ones((steps, 1)), log_decay=np.full(steps, np.log(w[-1])))
np.testing.assert_allclose(held[:, -1:], last)                        # the library's update holds the same

# %% [markdown]
# The best of 200 draws is right for $D + 1$ steps, and then it is over. No better draw exists: what is read is a constant
# and $D$ powers $w^t$ of positive numbers, each with some factor, and such a sum changes its sign at most $D$ times,
# whatever the factors (Descartes' rule of signs). Parity changes it at every step, for ever. This holds for RetNet,
# Mamba, gated linear attention and every other decay between 0 and 1, one layer of it; and for a delta rule with $\beta$
# up to 1, whose eigenvalues are $1 - \beta$ and 1.
#
# ## The mend: an eigenvalue of -1
#
# With a key of length 1, the delta rule multiplies what lies under the key by $1 - \beta$. Let $\beta$ go up to 2 and
# that is $-1$: the state is turned round. So each 1 gets $\beta = 2$, each 0 gets $\beta = 0$, both with the value 0; and
# a start token writes a 1 with $\beta = 1$. One channel, no training, any length:

# %%
bits = rng.integers(0, 2, 10_000)
strength = np.append(1.0, 2.0 * bits)                                 # the start token first
ones, value = np.ones((len(strength), 1)), np.append(1.0, 0 * bits)[:, None]
sign = ma.delta_rule(ones, ones, value, beta=strength)[1:, 0]
print("bits  ", bits[:12], "\nstate ", sign[:12].astype(int))
np.testing.assert_array_equal(sign, (-1.0) ** np.cumsum(bits))

# %% [markdown]
# All 10,000 answers are right. The implied maps say how. **What to look for:** in the column 'start' (the only one with a
# value that is not 0) the decay can only fade; the delta rule changes the sign at each 1.

# %%
n = 13
decayed = ma.implied_weights(ma.retention, ones[:n], ones[:n], value[:n], log_decay=np.log(0.8))
turned = ma.implied_weights(ma.delta_rule, ones[:n], ones[:n], value[:n], beta=strength[:n])
labels = ["start", *map(str, bits[:n - 1])]
ma.plot.heads(np.stack([decayed, turned]), labels, mask=ma.masks.causal(), titles=["retention 0.8", "beta 0 or 2"]);
np.testing.assert_array_equal(turned[:, 0], np.append(1, sign[:n - 1]))

# %% [markdown]
# A *signed* decay, between -1 and 1, would do as well: parity needs the sign and nothing else. RWKV-7 has an eigenvalue
# $w - \sum_d a_d \kappa_d^2$, which can be negative too. But with $w > 0.545$ and $a < 1$ it stays above $-0.455$, so
# each turn loses more than half of what is there:

# %%
w_least, flips = np.exp(-np.exp(-0.5)), 200
k_w, nothing = np.ones((flips, 1), np.float32), np.zeros((flips, 1), np.float32)
turned = ma.rwkv7(k_w, np.log(w_least) * k_w, nothing, nothing, k_w, k_w, state=np.ones((1, 1), np.float32))[:, 0]
print(f"eigenvalue {w_least - 1:.3f}; after 1, 2, 10 turns the state is", turned[[0, 1, 9]].astype(str))
print("in float32 it is 0 from turn", np.flatnonzero(turned == 0)[0] + 1, "on")
assert -0.46 < w_least - 1 < -0.45

# %% [markdown]
# ## Three cups: the order of things
#
# Three cups in a row, with ball 0, 1 and 2 under them. A text of moves: two cups are swapped, or all three go round by
# one place. Where is each ball after a thousand moves? These are the permutations of three. Parity only asked *how many*
# ones there were; here the order counts.
#
# The state is $3 \times 3$: a row for each cup, a column for each ball. A swap of cups $i$ and $j$ exchanges two rows. It
# turns the difference of the rows round and leaves their sum alone: that is a reflection, a delta step with $\beta = 2$
# and the key $(e_i - e_j) / \sqrt 2$.
#
# **Predict before you run.** Can one delta step move all three cups round?
#
# <details><summary>Answer</summary>
#
# No. A step $I - \beta k k^\top$ changes the state along one direction only, and moving all three changes two. Two swaps,
# one after the other, do it.
#
# </details>

# %%
one = np.eye(3)


def reflection(i, j):
    key = (one[i] - one[j]) / np.sqrt(2)
    return one - 2 * np.outer(key, key)


swap, go_round = reflection(0, 1), reflection(1, 2) @ reflection(0, 1)
print("swap 0 and 1\n", swap.round(2) + 0.0, "\ngo round\n", go_round.round(2) + 0.0, sep="")
assert [np.linalg.matrix_rank(A - one) for A in (swap, go_round)] == [1, 2]           # directions that change

# %% [markdown]
# So let every token take two delta steps, of which a plain swap uses one (the other has $\beta = 0$). Three tokens at the
# start put the balls under their cups. Three query heads, one for each cup, read the one state after every move.

# %%
MOVES = {"stay": [], "01": [(0, 1)], "12": [(1, 2)], "02": [(0, 2)], "round": [(0, 1), (1, 2)], "back": [(1, 2), (0, 1)]}


def steps_of(text):
    """Two delta steps a move: keys (2 N, 3) and strengths (2 N,)."""
    keys, strengths = np.tile(one[0], (2 * len(text), 1)), np.zeros(2 * len(text))
    for n, move in enumerate(text):
        for s, (i, j) in enumerate(MOVES[move]):
            keys[2 * n + s], strengths[2 * n + s] = (one[i] - one[j]) / np.sqrt(2), 2
    return keys, strengths


def read_cups(text):
    """The weight of each ball under each cup after every move, (N, cup, ball)."""
    keys, strengths = steps_of(text)
    k = np.concatenate([one, keys])[None]                             # one KV head, three query heads
    v = np.concatenate([one, np.zeros_like(keys)])[None]
    q = np.repeat(one[:, None], k.shape[1], axis=1)
    out = ma.delta_rule(q, k, v, beta=np.append(np.ones(3), strengths)[None])
    return out[:, 4::2].swapaxes(0, 1)

# %%
def by_hand(text):
    cups, seen = [0, 1, 2], []
    for move in text:
        for i, j in MOVES[move]:
            cups[i], cups[j] = cups[j], cups[i]
        seen.append(list(cups))
    return np.array(seen)


text = list(rng.choice(list(MOVES), 1000))
found, truth = read_cups(text), by_hand(text)
for n in range(5):
    print(f"{text[n]:>6}: under the cups {found[n].argmax(axis=-1)}, by hand {truth[n]}")
print(f"right after {(found.argmax(axis=-1) == truth).all(axis=-1).sum()} of 1000 moves; "
      f"largest distance from 0 and 1: {np.abs(found - np.eye(3)[truth]).max():.0e}")
np.testing.assert_array_equal(found.argmax(axis=-1), truth)

# %% [markdown]
# ## Why no diagonal can
#
# In a layer of decays, signed or not, each channel is one number $s$ with $s \to w s + c$, where $w$ and $c$ depend on
# the move. To follow the cups for ever, in numbers of finite precision, a channel must come back to finitely many values,
# which the moves permute (one with $w = 0$ would forget all). Measure it from the mean of these values: a move permutes
# them, so it leaves their mean where it is, and $c$ is gone. What is left are multiplications, and **multiplications
# commute**: the order of the moves is lost. So a channel ends in the same place after '01' and '12' as after '12' and
# '01', where the cups do not.
#
# The two ways in which a diagonal fails, seen: if the channels fade, the difference that the order made fades with them;
# if they only turn by -1, it never was there. The delta rule keeps it.

# %%
def difference(run, rest):
    """How far apart two texts end that differ in the order of their first two moves."""
    return np.abs(run(["01", "12", *rest]) - run(["12", "01", *rest])).max()


def diagonal(decays, writes):
    def run(text):
        g = np.log(np.array([decays[move] for move in text]))
        c = np.array([writes[move] for move in text])
        q_all = np.ones((len(text), 1))                               # each channel is a head with D = 1
        return ma.recurrence(q_all, q_all, c, log_decay=g, form="recurrent")[-1]
    return run


fading = diagonal({m: rng.uniform(0.7, 1) for m in MOVES}, {m: rng.standard_normal(16) for m in MOVES})


def turning(text):                                                    # a channel that each swap multiplies by -1
    return np.prod([(-1.0) ** len(MOVES[move]) for move in text])


for more in (0, 10, 100):
    rest = list(rng.choice(list(MOVES), more))
    print(f"{more:3} moves later: decays {difference(fading, rest):.0e}   a sign {difference(turning, rest):.0f}   "
          f"delta rule {difference(lambda text: read_cups(text)[-1], rest):.2f}")

# %% [markdown]
# A sign still knows something: whether the number of swaps was even, which leaves three of the six arrangements. The
# proofs, for finite precision and for products of delta steps: Grazzi et al. 2024. All this is about one layer; that many
# layers of Mamba do not follow permutations of five either rests on a conjecture (Merrill et al. 2024). Several delta
# steps a token are DeltaProduct (Siems et al. 2025).
#
# ## What it costs
#
# One more token, after $N$ tokens. Attention reads a cache that grows, 4 heads with $D = D_v = 64$ in float32; the delta
# rule reads and corrects a state that does not.

# %%
H, D = 4, 64
state = rng.standard_normal((H, D, D), dtype=np.float32)
q, k, v = rng.standard_normal((3, H, 1, D), dtype=np.float32)
strength = np.full((H, 1), 0.5, np.float32)


def step():
    return ma.delta_rule(q, unit(k), v, beta=strength, state=state, form="recurrent", return_state=True)


print("      N   cache MiB   state MiB   attention ms   delta rule ms")
for N in (1024, 8192, 65_536):
    k_all, v_all = rng.standard_normal((2, H, N, D), dtype=np.float32)
    both = course.seconds(partial(ma.attention, q, k_all, v_all), 5), course.seconds(step, 30)
    print(f"{N:7,} {(k_all.nbytes + v_all.nbytes) / 2**20:11.1f} {state.nbytes / 2**20:11.3f} "
          f"{1000 * both[0]:14.2f} {1000 * both[1]:15.2f}")
assert state.nbytes == H * D * D * 4
assert k_all.nbytes + v_all.nbytes == 2 * H * N * D * 4

# %% [markdown]
# | a head, one token | attention with a cache | only writes | decay | delta rule |
# |---|---|---|---|---|
# | numbers kept | $N (D + D_v)$ | $D D_v$ | $D D_v$ | $D D_v$ |
# | operations | $2 N (D + D_v)$, $N$ exponentials | $4 D D_v$ | $5 D D_v$ | $6 D D_v$ |
# | parity, by its state | it has none | no | no, if $w \ge 0$ | yes, with $\beta$ up to 2 |
# | three cups, by its state | it has none | no | no | yes, with two steps a token |
#
# With $D = D_v$ the state is as large as a cache of $D/2$ tokens. Whatever the text's length, it holds no more numbers
# than that. The errors of recall above had another cause: ten tokens would have fitted, but their keys are alike.

# %% [markdown]
# ## Exercises
#
# **1 (easy).** One token of a state that fades: given `state` (D, Dv), `q`, `k`, `decay` (D,) and `v` (Dv,), let each row
# of the state fade by its own number of `decay` (between 0 and 1, no logarithm), write, and read. Return `out` (Dv,) and
# the new state.
#
# <details><summary>Hint</summary>
#
# `np.outer(k, v)` is what is written, (D, Dv). A token reads what it wrote itself.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `decay[:, None] * state` multiplies row d of the state by `decay[d]`.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def state_step(state, q, k, v, decay):
#     state = decay[:, None] * state + np.outer(k, v)
#     return q @ state, state
# ```
#
# The write does not fade: at age 0 every weight is $q \cdot k$.
#
# </details>

# %%
def state_step(state, q, k, v, decay):
    """(D, Dv), (D,), (D,), (Dv,), (D,) -> out (Dv,), state (D, Dv)"""
    return None


check.state_step(state_step)

# %% [markdown]
# **2 (easy).** One token of the delta rule: read what `k` (D,) finds in `state` (D, Dv), and move it towards `v` (Dv,) by
# the part `beta`, a number. Return the new state. Take `k` as it is, whatever its length.
#
# <details><summary>Hint</summary>
#
# What the key finds is `k @ state`, (Dv,). What is missing is its difference from `v`.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Write `beta` times the difference under the key.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def delta_step(state, k, v, beta):
#     return state + beta * np.outer(k, v - k @ state)
# ```
#
# Erase and write in one: $-\beta k (k^\top S)$ and $\beta k v^\top$.
#
# </details>

# %%
def delta_step(state, k, v, beta):
    """(D, Dv), (D,), (Dv,), number -> state (D, Dv)"""
    return None


check.delta_step(delta_step)

# %% [markdown]
# **3 (medium).** The transition of RWKV-7 as a matrix: $S_n = A S_{n-1} + \tilde k v^\top$ with the decay `w` (D,), the
# direction `kappa` (D,) and the rate `a` (D,), by the update $\mathrm{diag}(w) S - (a * \kappa)(\kappa^\top S)$. Return
# $A$ (D, D).
#
# <details><summary>Hint</summary>
#
# What multiplies $S$ from the left in each of the two terms?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# $x (y^\top S) = (x y^\top) S$, and $x y^\top$ is `np.outer(x, y)`.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def rwkv7_transition(w, kappa, a):
#     return np.diag(w) - np.outer(a * kappa, kappa)
# ```
#
# Where all of w are equal, one eigenvalue is $w - \sum_d a_d \kappa_d^2$ and the others are w.
#
# </details>

# %%
def rwkv7_transition(w, kappa, a):
    """(D,), (D,), (D,) -> transition (D, D)"""
    return None


check.rwkv7_transition(rwkv7_transition)

# %% [markdown]
# **4 (medium).** A delta step that exchanges rows `i` and `j` of a state with `D` rows: return its key (D,) and its
# `beta`, a number. What the step does, $I - \beta k k^\top$, is compared, so either sign of the key is right.
#
# <details><summary>Hint</summary>
#
# Which direction does a swap turn round, and which does it leave alone?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# $1 - \beta |k|^2$ must be $-1$.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def swap_step(D, i, j):
#     key = np.zeros(D)
#     key[i], key[j] = 1, -1
#     return key / np.sqrt(2), 2.0
# ```
#
# </details>

# %%
def swap_step(D, i, j):
    """int, int, int -> key (D,), beta"""
    return None


check.swap_step(swap_step)

# %% [markdown]
# **5 (hard).** The implied map of any recurrence: `q` and `k` (N, D), and `transitions` (N, D, D), one matrix $A_n$ a
# token. Return the weights (N, N), $w_{nm} = q_n A_n \cdots A_{m+1} k_m$ for $m \le n$, and 0 above the diagonal.
#
# <details><summary>Hint</summary>
#
# Take one key at a time: start with `k[m]` and let each later token's transition act on it.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# For column m: read `kept = k[m]` with `q[m]`; then for n = m + 1 and on, first `kept = transitions[n] @ kept`, then read
# with `q[n]`.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def implied_map(q, k, transitions):
#     weights = np.zeros((len(q), len(q)))
#     for m in range(len(q)):
#         kept = k[m]
#         for n in range(m, len(q)):
#             if n > m:
#                 kept = transitions[n] @ kept
#             weights[n, m] = q[n] @ kept
#     return weights
# ```
#
# One vector a column is carried along, so no product of matrices is ever formed: $O(N^2 D^2)$.
#
# </details>

# %%
def implied_map(q, k, transitions):
    """(N, D), (N, D), (N, D, D) -> weights (N, N)"""
    return None


check.implied_map(implied_map)

# %% [markdown]
# ## Three questions
#
# **A text ends and another begins. Which of the settings can forget the first one in a single step?**
#
# <details><summary>Answer</summary>
#
# Those whose decay the token sets, with $g_n = -\infty$: gated linear attention, Gated DeltaNet, and Mamba as nearly as
# its $\Delta$ is large. RetNet's decay is fixed, the plain delta rule has none, and RWKV-7's stays above 0.545.
#
# </details>
#
# **Why are the keys of a delta rule divided by their lengths?**
#
# <details><summary>Answer</summary>
#
# The eigenvalue is $1 - \beta |k|^2$. With $\beta |k|^2$ above 2 it is below $-1$, and the state grows with every such
# token.
#
# </details>
#
# **Rows of an implied map sum to anything. What keeps the output of RetNet from growing with the text?**
#
# <details><summary>Answer</summary>
#
# The decay bounds the state: ones that fade by $\gamma$ sum to at most $1 / (1 - \gamma)$, 32 in its fastest head. And a
# norm of each head takes away the scale that is left.
#
# </details>

# %%
from minattn.linear.retnet import multiscale_decay
np.testing.assert_allclose(1 / (1 - np.exp(multiscale_decay(3))), [32, 64, 128])

# %% [markdown]
# ## Where to go on
#
# - The files: [minattn/linear/recurrence.py](../minattn/linear/recurrence.py), the one update, token by token and in
#   chunks; [retention.py](../minattn/linear/retention.py), [gated.py](../minattn/linear/gated.py),
#   [mamba.py](../minattn/linear/mamba.py), [ssd.py](../minattn/linear/ssd.py), [delta.py](../minattn/linear/delta.py),
#   [rwkv7.py](../minattn/linear/rwkv7.py), its settings; [retnet.py](../minattn/linear/retnet.py) and
#   [rwkv7_block.py](../minattn/linear/rwkv7_block.py), whole layers;
#   [minattn/analysis/implied.py](../minattn/analysis/implied.py), the implied maps.
# - Papers: RetNet, Sun et al. 2023, [arXiv:2307.08621](https://arxiv.org/abs/2307.08621), eqs (5) to (8); Mamba, Gu and
#   Dao 2023, [arXiv:2312.00752](https://arxiv.org/abs/2312.00752), Algorithm 2; the delta rule in chunks, Yang et al.
#   2024, [arXiv:2406.06484](https://arxiv.org/abs/2406.06484), and gated, Yang et al. 2025,
#   [arXiv:2412.06464](https://arxiv.org/abs/2412.06464); RWKV-7, Peng et al. 2025,
#   [arXiv:2503.14456](https://arxiv.org/abs/2503.14456), section 4.
# - State tracking: Merrill et al. 2024, [arXiv:2404.08819](https://arxiv.org/abs/2404.08819); Grazzi et al. 2024,
#   [arXiv:2411.12537](https://arxiv.org/abs/2411.12537); Siems et al. 2025,
#   [arXiv:2502.10297](https://arxiv.org/abs/2502.10297).
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [17 A GPU on your laptop](17_a_gpu_on_your_laptop.ipynb), which goes back to exact attention, and down to the machine.
