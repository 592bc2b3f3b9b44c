# %% [markdown]
# # 23 The ring
#
# 35 minutes · difficulty: medium · read before: [03 Masks](03_masks.ipynb),
# [10 FlashAttention I](10_flashattention_tiles.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - compute exact attention on p machines, each of which holds one p-th of the tokens,
# - say who waits under a causal mask, and deal the tokens so that nobody does,
# - count what is sent, and say from which block on the sending hides behind the work,
# - see a ring of blocking sends stand still, and mend it in two ways.

# %% [markdown]
# ## The question
#
# In a model of the size of Llama 3 8B (32 layers, 8 KV heads, $D = 128$, 2 bytes a number) the keys and values of one token
# take 128 KiB, and those of a million tokens 128 GiB: more than all the memory of an 80 GB accelerator, and no weight is loaded
# yet. Say that there are p machines, and each has the queries, keys and values of its own $N / p$ tokens. Every query wants to
# see all keys. **Can p machines compute exact attention together, if none of them ever holds more than a p-th part of the keys,
# and one more block in passing?**

# %%
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import course
import matplotlib.pyplot as plt
import numpy as np
from course import TOKENS, W_K, W_Q, W_V, X

import minattn as ma
from minattn.practice import check
from minattn.ring import shares
from minattn.ring.cost import MACHINES, cost, least_tokens

assert 32 * 2 * 8 * 128 * 2 == 128 * 2**10
assert 2**20 * 128 * 2**10 == 128 * 2**30

# %% [markdown]
# ## One query, four machines
#
# Four machines, **ranks** 0 to 3, hold one token each: rank 0 'the', rank 1 'cat', rank 2 'sat', rank 3 'down'. Queries stay
# where they are. Keys and values go round: at each **hop** every rank hands the block that it has to rank r + 1, rank 3 to
# rank 0.
# Lesson 10 has shown what rank 2 must remember of the keys that went by: a top, a total and an accumulator.
#
# **Predict before you run.** In which order do the four keys come by at rank 2, the rank of 'sat'?
#
# <details><summary>Answer</summary>
#
# 'sat', which is there at hop 0, then 'cat', 'the', 'down': at hop t it has the keys of rank $(2 - t) \bmod 4$.
#
# </details>

# %%
q, k, v = X @ W_Q, X @ W_K, X @ W_V                                   # (N, D) each, N = S = D = 4
p, rank = 4, 2
top, total, acc = -np.inf, 0.0, np.zeros(4)
for hop in range(p):
    source = (rank - hop) % p                                         # whose key is here now
    score = q[rank] @ k[source] / np.sqrt(4)
    old, top = top, max(top, score)
    fade, weight = np.exp(old - top), np.exp(score - top)
    total, acc = fade * total + weight, fade * acc + weight * v[source]
    print(f"hop {hop}: key of rank {source}, {TOKENS[source]:4}  score {score:5.2f}  top {top:5.2f}  "
          f"total {total:.2f}  out so far {(acc / total).round(2)}")
assert [TOKENS[(rank - hop) % p] for hop in range(p)] == ["sat", "cat", "the", "down"]
np.testing.assert_allclose(acc / total, ma.attention(q, k, v)[rank])

# %% [markdown]
# ## All ranks at once
#
# With blocks of tokens in place of single ones, and all ranks together: let the first axis of an array be the rank. Then all
# ranks attend to the blocks that they have in one product, and a hop is `np.roll` along that axis. What a rank has is an output
# and a log-sum-exp, and `merge` joins the new block's to it (lesson 10).

# %%
def by_hops(q, k, v, p, seen=None):
    """(N, D) three times -> the output (N, D) after each hop. seen(q_pos, k_pos): who may look at whom."""
    N, D = q.shape
    Q, K, V = (a.reshape(p, N // p, -1) for a in (q, k, v))           # (p, c, D): c = N / p tokens a rank
    q_pos = k_pos = np.arange(N).reshape(p, -1)
    out, lse = np.zeros_like(V), np.full((p, N // p), -np.inf)
    for _ in range(p):
        scores = Q @ K.swapaxes(1, 2) / np.sqrt(D)                    # (p, c, c): every rank before the block it has
        if seen:
            scores = np.where(seen(q_pos[:, :, None], k_pos[:, None]), scores, -np.inf)
        block_lse = ma.logsumexp(scores)                              # (p, c)
        base = np.where(np.isneginf(block_lse), 0, block_lse)         # a row may see nothing here
        out, lse = ma.merge(out, lse, np.exp(scores - base[..., None]) @ V, block_lse)
        yield out.reshape(N, -1)
        K, V, k_pos = (np.roll(a, 1, axis=0) for a in (K, V, k_pos))  # to rank r + 1


rng = np.random.default_rng(23)
N, D = 48, 8
q, k, v = rng.standard_normal((3, N, D))
full = ma.attention(q, k, v)
errors = [np.abs(out - full).max() for out in by_hops(q, k, v, p)]
print("largest difference from attention after each hop:", ", ".join(f"{error:.0e}" for error in errors))
assert errors[-1] < 1e-12 < 1e-2 < min(errors[:-1])

# %% [markdown]
# The ring is no approximation that gets better: before the last hop every rank has exact attention over *some* of the keys, and
# at the last hop over all of them.
#
# ## Built broken: a mask by place
#
# Under a causal mask a query sees the keys up to its own position. A block is $c \times c$, so take the triangle of a block:

# %%
causal = ma.attention(q, k, v, causal=True)


def by_place(q_pos, k_pos):
    c = q_pos.shape[1]
    return np.arange(c)[:, None] >= np.arange(c)                      # the same triangle in every block


def by_position(q_pos, k_pos):
    return q_pos >= k_pos


for seen in (by_place, by_position):
    *_, out = by_hops(q, k, v, p, seen)
    off = np.abs(out - causal).max(axis=1)
    print(f"{seen.__name__:12} largest difference {off.max():.0e}, {(off > 1e-12).sum():2} of {N} rows wrong")
library = ma.ring_attention(q, k, v, ranks=p, causal=True)
np.testing.assert_allclose(out, library, atol=1e-12)
np.testing.assert_allclose(library, causal, atol=1e-12)

# %% [markdown]
# The triangle belongs to the blocks on the diagonal alone, which are all there at hop 0. **Positions must travel with the keys**
# (or be known from whose keys they are): then the mask asks about tokens and not about places in a block, and any tokens may
# lie on any rank.
#
# Now the error after each hop, rank by rank. **What to look for:** without a mask all ranks are right at the last hop, and not
# before. Under the causal mask rank r is right after hop r: the keys that come later are hidden from it. What does it do then?

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained", sharey=True)
for ax, want, seen, title in [(axes[0], full, None, "no mask"), (axes[1], causal, by_position, "causal")]:
    outs = np.array([out.reshape(p, -1) for out in by_hops(q, k, v, p, seen)])                     # (hop, rank, c D)
    error = np.abs(outs - want.reshape(p, -1)).max(axis=2)
    for r in range(p):
        ax.semilogy(np.maximum(error[:, r], 1e-17), "o-", label=f"rank {r}", alpha=0.85)
    ax.set(xlabel="hop", xticks=range(p), title=title)
    first = [int(np.argmax(error[:, r] < 1e-12)) for r in range(p)]
    print(f"{title:8} right after hop {first}")
    assert first == ([p - 1] * p if seen is None else list(range(p)))
axes[0].set_ylabel("largest difference from attention")
axes[1].legend(fontsize=8);

# %% [markdown]
# ## Who waits
#
# `ring_attention` takes the turns of p ranks in this one process and keeps a record of every rank at every hop. A hop ends when
# the busiest rank is done.
#
# **Predict before you run.** Contiguous runs of tokens, causal mask, p ranks. Rank r has work at hops 0 to r. If every block
# takes one unit of time: which share of the ranks' time is idle?
#
# <details><summary>Answer</summary>
#
# The pass takes p units, $p^2$ for all ranks, and $p (p + 1) / 2$ are work: idle is $(p - 1) / 2p$. With 4 ranks 37.5%, with many
# almost half.
#
# </details>
#
# Two ways to deal the tokens more evenly ([shares.py](../minattn/ring/shares.py)): **striped** gives rank r the tokens r, r + p,
# r + 2p and so on, so that everyone sees about half of every block; **zigzag** cuts 2p runs and gives rank r the r-th from the
# start and the r-th from the end, one that sees little and one that sees much.

# %%
runs = {}
print("            blocks that each rank computes, hop after hop               in all     idle")
for schedule in ("contiguous", "striped", "zigzag"):
    out, runs[schedule] = ma.ring_attention(q, k, v, ranks=p, causal=True, schedule=schedule, return_hops=True)
    np.testing.assert_allclose(out, causal, atol=1e-12)
    computed = np.array([[one.computed for one in turn] for turn in runs[schedule]])           # (hop, rank)
    idle = np.mean([one.idle for turn in runs[schedule] for one in turn])
    print(f"{schedule:11} {computed.T.tolist()}  {computed.sum(0)}  {idle:.1%}")
    assert schedule != "contiguous" or idle == (p - 1) / (2 * p) == 0.375
    assert schedule != "zigzag" or computed.sum(0).tolist() == [2 * p + 1] * p

# %% [markdown]
# (A block of zigzag is a quarter of the others: both ranks bring two runs.) Step through it. The view counts time in pairs of
# tokens that see each other, so a block on the diagonal is half a block. **What to look for:** with *contiguous*, at hop 2,
# ranks 0 and 1 have nothing to do, and the hop takes as long as if they had; with *zigzag* all bars are alike at every hop,
# and the pass ends a good deal earlier; in the map, which rows and columns meet at one hop.

# %%
ma.plot.ring(runs, mask=ma.masks.causal())

# %% [markdown]
# The same in numbers: the time of a pass, in pairs, is the sum over the hops of the busiest rank's.

# %%
see = ma.masks.causal().dense(N, N)
for schedule in runs:
    tokens = [np.concatenate(one) for one in shares(N, p, schedule)]
    pairs = np.array([[see[np.ix_(tokens[r], tokens[(r - t) % p])].sum() for r in range(p)] for t in range(p)])
    time = pairs.max(axis=1).sum()                                    # pairs is (hop, rank)
    print(f"{schedule:11} pairs of each rank {pairs.sum(axis=0)}  time {time}  idle {1 - pairs.sum() / (p * time):.0%}")
    assert schedule != "zigzag" or len(set(pairs.sum(axis=0))) == 1

# %% [markdown]
# ## What is sent
#
# At each hop a rank receives the keys and values of $c = N / p$ tokens, and sends as many:
#
# $$
# 2 \cdot c \cdot G \cdot D \cdot \text{bytes of a number}
# $$
#
# **Predict before you run.** Twice as many ranks for the same N. What becomes of the bytes of one hop, and of those that a
# rank sends in a whole pass?
#
# <details><summary>Answer</summary>
#
# Half of the bytes at one hop, and about twice as many hops: in a pass a rank sends $(p - 1) / p$ of *all* keys and values,
# almost the same for any p. What falls as $1 / p$ is what it has to hold, and the work that the sending can hide behind falls
# faster: $1 / p^2$ a hop.
#
# </details>

# %%
print("ranks   one hop   a pass   of all keys and values   held: q, k, v, out and one block more")
for ranks in (2, 4, 8):
    _, hops = ma.ring_attention(q, k, v, ranks=ranks, return_hops=True)
    one, sent = hops[1][0].received, sum(turn[0].received for turn in hops)
    held = 4 * (N // ranks) * D * 8 + one
    print(f"{ranks:5} {one:9,} {sent:8,} {sent / (2 * N * D * 8):24.0%} {held:25,} bytes")
    assert one == 2 * (N // ranks) * 1 * D * 8
    assert sent == (ranks - 1) * one

# %% [markdown]
# ## Nobody moves: the deadlock of blocking sends
#
# A send may **block**: it comes back when the other side has taken the message. Now let every rank do the obvious, send its
# block, then receive the next. Below, ranks are generators, and `run` is a scheduler: a rank names what it waits for, and
# goes on when all of it has happened. A send happens when the other side is receiving. If nobody can move, `run` says so.

# %%
def run(ranks):
    """Rounds until all are done; or, if nobody can move any more, who waits for what."""
    wants, got, rounds = {r: next(rank) for r, rank in enumerate(ranks)}, {}, 0
    while wants:
        meet = [(a, b) for a in wants for b in wants
                if ("send to", b) in wants[a] and ("receive from", a) in wants[b]]
        if not meet:
            waits = [f"{r} waits to {what} {other}" for r in wants for what, other in wants[r]]
            return f"nobody can move: {', '.join(waits)}"
        for a, b in meet:
            got[b] = wants[a].pop(("send to", b))
            del wants[b]["receive from", a]
        for r in [r for r in wants if not wants[r]]:                  # all that it waited for has happened
            try:
                wants[r] = ranks[r].send(got.pop(r, None))
            except StopIteration:
                del wants[r]
        rounds += 1
    return f"done in {rounds} rounds"

# %%
def send_first(r, p, seen):
    block = r                                                         # a stand-in for its keys and values
    for _ in range(p - 1):
        yield {("send to", (r + 1) % p): block}
        block = yield {("receive from", (r - 1) % p): None}
        seen[r].append(block)


print(run([send_first(r, p, [[r] for r in range(p)]) for r in range(p)]))

# %% [markdown]
# The symptom, in a real program, is silence: it neither ends nor fails.
#
# Two ways out. **By order**: odd ranks receive first, then send. **Non-blocking**: begin both, the send and the receive, and wait
# until both are done. There is a third, that only rank 0 receives first.
#
# **Predict before you run.** Does the third work? And how many rounds does each take for 4 ranks and 3 hops?
#
# <details><summary>Answer</summary>
#
# It works, but slowly: rank 3 can send to rank 0, only then does it receive from rank 2, only then rank 2 from rank 1, and so on:
# 4 rounds a hop, 12 in all, and more with more ranks. By order 2 a hop, 6 in all. Non-blocking 1 a hop, 3 in all.
#
# </details>

# %%
def by_order(r, p, seen, first=lambda r: r % 2):
    block = r
    for _ in range(p - 1):
        send, receive = {("send to", (r + 1) % p): block}, {("receive from", (r - 1) % p): None}
        if first(r):
            block = yield receive
            yield send
        else:
            yield send
            block = yield receive
        seen[r].append(block)


def only_rank_0(r, p, seen):
    return by_order(r, p, seen, first=lambda r: r == 0)


def non_blocking(r, p, seen):
    block = r
    for _ in range(p - 1):
        block = yield {("send to", (r + 1) % p): block, ("receive from", (r - 1) % p): None}
        seen[r].append(block)

# %%
for form in (send_first, by_order, only_rank_0, non_blocking):
    seen = [[r] for r in range(p)]
    print(f"{form.__name__:13} {run([form(r, p, seen) for r in range(p)])}")
    right = all(blocks == [(r - t) % p for t in range(p)] for r, blocks in enumerate(seen))
    assert right == (form is not send_first)

# %% [markdown]
# Non-blocking has one more gift: between beginning and waiting a rank can *work*. The library's processes begin the transfer of a
# block, compute with it, and wait for the next, with two buffers that change places ([mpi.py](../minattn/ring/mpi.py)).
#
# ## Real processes
#
# Virtual ranks share one memory. Real ones are processes, or machines, and talk through MPI. `pip install 'minattn[mpi]'` brings
# it; where it is not installed, the next cells say so, and the ranks of this process stand in.
#
# First two processes that both send first. Small messages pass: MPI puts them aside until somebody wants them, and so the
# mistake goes unseen. Large ones wait for their receiver. Each process sets an alarm, and whoever is not through after a second
# is ended by its operating system: nothing is left behind.

# %%
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
HAS_MPI = importlib.util.find_spec("mpi4py") is not None and MPIEXEC is not None


def processes(count, *arguments):
    """Start so many ranks and wait for them: (exit status, what they printed)."""
    command = [MPIEXEC, "-n", str(count), sys.executable, "-m", "mpi4py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


BOTH_SEND = """
import signal, numpy, mpi4py.MPI
comm = mpi4py.MPI.COMM_WORLD
for numbers in (100, 1_000_000):
    mine, theirs = numpy.zeros((2, numbers))
    comm.Barrier()
    signal.alarm(1)
    comm.Send(mine, 1 - comm.rank)
    comm.Recv(theirs, 1 - comm.rank)
    signal.alarm(0)
    if comm.rank == 0:
        print(f"{mine.nbytes:,} bytes each way: through", flush=True)
"""

# %%
if HAS_MPI:
    status, said = processes(2, "-c", BOTH_SEND)
    print("\n".join(line for line in said.splitlines() if "through" in line))
    if status:
        assert "Alarm" in said, said                                  # and not by anything else
        print("8,000,000 bytes each way: after a second they still waited, and the alarm ended them")
else:
    print("MPI is not installed here. The same two ranks in this process:")
    print(run([send_first(r, 2, [[], []]) for r in range(2)]))

# %% [markdown]
# ## The real thing
#
# Now four processes compute causal attention over 2048 tokens, 9 heads, in float64. Each draws its own share of the inputs; at
# the end rank 0 collects all of it, computes attention whole, and compares (`--verify`).

# %%
ring = ["-m", "minattn.ring", "--tokens", "2048", "--heads", "9", "--dtype", "float64", "--causal", "--verify"]
if HAS_MPI:
    status, said = processes(4, *ring, "--schedule", "zigzag")
    print(said.strip())
    assert status == 0
    assert said.count(f"{3 * 2 * 512 * 9 * 64 * 8:,} bytes sent, 9 pairs") == 4
else:
    print("MPI is not installed here. Four ranks that take turns in this process:")
    big = rng.standard_normal((3, 9, 2048, 64))
    out, hops = ma.ring_attention(*big, ranks=4, causal=True, schedule="zigzag", return_hops=True)
    for r in range(4):
        sent, done = (sum(getattr(turn[r], name) for turn in hops) for name in ("received", "computed"))
        print(f"rank {r}: {sent:,} bytes, {done} pairs of runs")
    print(f"largest difference {np.abs(out - ma.attention(*big, causal=True)).max():.0e}")

# %% [markdown]
# Where there are fewer cores than ranks, these times say little: the ranks take turns here, too. Bytes and pairs are the
# same on any machine. And layer 13 of SmolLM2 on two sentences, cut over four ranks; nothing divides, and only its 3 KV heads
# travel, not the 9 query heads:

# %%
two = course.real("two_sentences")
real = [a.astype(np.float64) for a in (two.q, two.k, two.v)]          # (H, N, D), (G, N, D), (G, N, D)
want = ma.attention(*real, causal=True)
print(f"{len(two.tokens)} tokens, held against {'the model itself' if course.model() else 'the stored maps'}")
for schedule in ("contiguous", "striped", "zigzag"):
    out, hops = ma.ring_attention(*real, ranks=4, causal=True, schedule=schedule, return_hops=True)
    last = [sum(map(len, one)) for one in shares(len(two.tokens), 4, schedule)]
    off = np.abs(out - want).max()
    print(f"{schedule:11} tokens of the ranks {last}  largest difference {off:.0e}  "
          f"bytes to rank 0 {[turn[0].received for turn in hops]}")
    assert off < 1e-12
    assert hops[1][0].received == 2 * last[3] * 3 * 64 * 8

# %% [markdown]
# ## When the sending hides
#
# At one hop a rank does $4 d c^2$ operations ($d$: all heads together) and receives $2 \cdot 2 d c$ bytes at 2 bytes a number, if
# there are as many KV heads as query heads. With F operations and B bytes a second the transfer is hidden if
#
# $$
# \frac{4 d c}{B} \le \frac{4 d c^2}{F} \quad\Longleftrightarrow\quad c \ge \frac{F}{B}
# $$
#
# whatever $d$ is (Liu et al. 2023, section 3). What follows is arithmetic on data sheets: none of these machines was measured.
# **What to look for** in the picture, a million tokens and a model 4096 wide: time falls as $1 / p$ while a block is longer
# than $F / B$; after that the wire alone decides, and more machines bring nothing. Without overlap (dashed) the sum is paid.

# %%
length = 2**20
print("machine              F / B, tokens   ranks for a million tokens")
for name in MACHINES:
    print(f"{name:20} {least_tokens(name):13,.0f} {length / least_tokens(name):28,.0f}")
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
ranks = 2 ** np.arange(1, 14)
for name, colour in (("A100, NVLink", "#26828e"), ("A100, InfiniBand", "#b3400e")):
    for overlap, style in ((True, "-"), (False, "--")):
        seconds = [cost(length, int(p), name, width=4096, overlap=overlap).total for p in ranks]
        ax.loglog(ranks, seconds, style, color=colour, label=name if overlap else None)
    ax.axvline(length / least_tokens(name), color=colour, linewidth=0.8, linestyle=":")
ax.set(xlabel="ranks p (dotted: a block is F / B long)", ylabel="seconds of one layer's forward")
ax.set_title("computed, not measured")
ax.legend();

# %% [markdown]
# Measured here: two processes with one thread each, short blocks of many heads, so that there is much to send. `--overlap` times
# the forward with work first and transfer afterwards (apart), with both at once (together), and the transfers alone. Two
# processes on one machine have no wire: a transfer is a copy, made by the very cores that should be at work, so where there is
# a core for each rank and no more, little of it can hide. (On a machine that is busy with other things it may say that it
# cannot tell.)

# %%
if HAS_MPI:
    _, said = processes(2, "-m", "minattn.ring", "--overlap", "--tokens", "512", "--heads", "64")
    print("\n".join(line for line in said.splitlines() if "overlap" in line))
else:
    print("MPI is not installed here, and ranks that take turns have nothing to overlap.")

# %% [markdown]
# ## One query: a tree
#
# While a model writes there is one query and a long cache. If the cache lies on p machines, a ring would move the cache; but to
# join partial results only (out, lse) has to move, and `merge` may be done in pairs: p parts in $\lceil \log_2 p \rceil$ steps,
# each of $D_v + 1$ numbers a head, however long the cache is (*tree attention*, Shyam et al. 2024).

# %%
one, keys, values = rng.standard_normal((9, 1, 64)), *rng.standard_normal((2, 9, 1000, 64))
parts = [ma.attention(one, keys[:, run], values[:, run], return_lse=True) for run, in shares(1000, 8)]
steps = 0
while len(parts) > 1:
    parts = [ma.merge(*a, *b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    steps += 1
np.testing.assert_allclose(parts[0][0], ma.attention(one, keys, values), atol=1e-12)
print(f"8 parts joined in {steps} steps of {9 * 65 * 8:,} bytes each; "
      f"a ring would send {2 * 9 * 125 * 64 * 8:,} bytes at each of 7 hops")

# %% [markdown]
# ## What it costs
#
# | of one rank | one machine | ring of p |
# |---|---|---|
# | operations, no mask | $4 N^2 H D$ | $4 N^2 H D / p$ |
# | held | $N$ tokens of q, k, v, out | $N / p$ tokens of them, and one block of k and v more |
# | sent in a forward | nothing | $(p - 1)\, 2 (N/p)\, G D$ numbers |
# | idle, causal, contiguous | | $(p - 1) / 2p$ in blocks |
# | idle, causal, zigzag | | none, if the lengths divide |
# | sent in a backward | nothing | $(2p - 1)\, 2 (N/p)\, G D$ numbers: k and v as before, and their gradients once round |
#
# ## Exercises
#
# **1 (easy).** Write `block_at(r, t, p)`: whose keys and values does rank r have at hop t, in a ring of p ranks that hand
# their block to rank r + 1? At hop 0 everyone has its own.
#
# <details><summary>Hint</summary>
#
# One hop ago the block was one rank further back.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# It has come t ranks along. Behind rank 0 comes rank p - 1.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def block_at(r, t, p):
#     return (r - t) % p
# ```
#
# In Python the remainder of a negative number is not negative.
#
# </details>

# %%
def block_at(r, t, p):
    """-> a rank, an int"""
    return None


check.block_at(block_at)

# %% [markdown]
# **2 (easy).** Write `ring_bytes(N, p, H, G, D, number)`: how many bytes does one rank send in a forward pass? N tokens, p ranks
# (p divides N), H query heads, G KV heads, D numbers a head, each of `number` bytes.
#
# <details><summary>Hint</summary>
#
# What travels, and how often does a rank hand something on?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Keys and values of N / p tokens, at every hop but the last: nobody waits for what is there then.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def ring_bytes(N, p, H, G, D, number):
#     return (p - 1) * 2 * (N // p) * G * D * number
# ```
#
# H does not enter: queries stay at home.
#
# </details>

# %%
def ring_bytes(N, p, H, G, D, number):
    """-> bytes, an int"""
    return None


check.ring_bytes(ring_bytes)

# %% [markdown]
# **3 (medium).** Write `zigzag_owner(N, p)`: the rank of every token under zigzag, (N,) ints. The tokens are cut into 2p runs of
# neighbours, all as long (2p divides N); rank r has the r-th run from the start and the r-th from the end.
#
# <details><summary>Hint</summary>
#
# In which of the 2p runs is token i? `np.arange(N) // (N // (2 * p))` says it for all.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Run j is the j-th from the start and the (2p - 1 - j)-th from the end. Which of the two is a rank?
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def zigzag_owner(N, p):
#     run = np.arange(N) // (N // (2 * p))
#     return np.minimum(run, 2 * p - 1 - run)
# ```
#
# Runs r and 2p - 1 - r see r + 1 and 2p - r runs: 2p + 1 for every rank.
#
# </details>

# %%
def zigzag_owner(N, p):
    """-> rank (N,)"""
    return None


check.zigzag_owner(zigzag_owner)

# %% [markdown]
# **4 (medium).** Write `least_block(F, B, H, G, number)`: the smallest number of tokens a rank, an int, with which the
# transfer of a hop takes no longer than the work. F operations and B bytes a second (ints), H query heads, G KV heads, `number`
# bytes a number, no mask.
#
# <details><summary>Hint</summary>
#
# Write down both times for c tokens. One grows with c, the other with c squared.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# Work $4 H D c^2 / F$, transfer $2 G D c \cdot \text{number} / B$. Solve for c, and round up.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def least_block(F, B, H, G, number):
#     return -(-2 * G * number * F // (4 * H * B))
# ```
#
# With as many KV heads as query heads and 2 bytes this is F / B. Grouped heads make the ring cheaper: less travels.
#
# </details>

# %%
def least_block(F, B, H, G, number):
    """-> tokens, an int"""
    return None


check.least_block(least_block)

# %% [markdown]
# **5 (hard).** Write `after_a_hop(out, lse, q, k, v, q_pos, k_pos)`: one rank, one head, one hop, causal. The rank has queries
# q (N, D) at positions q_pos (N,), and of all keys so far out (N, Dv) and lse (N,). A block has come: k (S, D), v (S, Dv) at
# k_pos (S,). Return the new (out, lse). A query sees the keys at positions up to its own; a row may have seen nothing so far (out
# 0, lse $-\infty$), and it may see nothing of this block. Do not change the arrays that you are given.
#
# <details><summary>Hint</summary>
#
# Attention of the block by itself, with its lse; then the merge of lesson 10.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `ma.attention` takes `causal`, `q_pos`, `k_pos` and `return_lse`; `ma.merge` knows what to do with $-\infty$.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def after_a_hop(out, lse, q, k, v, q_pos, k_pos):
#     block = ma.attention(q, k, v, causal=True, q_pos=q_pos, k_pos=k_pos, return_lse=True)
#     return ma.merge(out, lse, *block)
# ```
#
# A hop of Ring Attention is two lines, if both of them are right.
#
# </details>

# %%
def after_a_hop(out, lse, q, k, v, q_pos, k_pos):
    """-> (out (N, Dv), lse (N,))"""
    return None


check.after_a_hop(after_a_hop)

# %% [markdown]
# ## Three questions
#
# **Why do the keys go round, and not the queries?**
#
# <details><summary>Answer</summary>
#
# Queries could: a query would take its out and lse along. That is $2D + 1$ numbers a token for each of H query heads, where keys
# and values are $2D$ for each of G KV heads, and G is often a fraction of H.
#
# </details>
#
# **A million tokens on 64 ranks run well. Why not on 65,536 ranks?**
#
# <details><summary>Answer</summary>
#
# A block has 16 tokens then. The work of a hop falls with $c^2$, the transfer with c: at 16 tokens every rank waits for the wire
# most of the time, and the pass takes as long as it takes to send all keys and values over one wire, whatever p is.
#
# </details>
#
# **Rank 3 of 8 dies in the middle of a pass. What do the others see?**
#
# <details><summary>Answer</summary>
#
# Nothing at first: rank 4 waits for a block that never comes, one hop later rank 5 waits for rank 4. So somebody has to watch
# over the processes and end them all: mpiexec does when one is killed, and `python -m mpi4py` when one raises.
#
# </details>
#
# ## Where to go on
#
# - The files: [minattn/ring/local.py](../minattn/ring/local.py), virtual machines; [runs.py](../minattn/ring/runs.py), what one
#   of them does; [shares.py](../minattn/ring/shares.py), who has which tokens; [mpi.py](../minattn/ring/mpi.py), real processes
#   and the tree; [overlap.py](../minattn/ring/overlap.py), what hides; [cost.py](../minattn/ring/cost.py), what it would take.
# - Papers: Liu et al. 2023, [arXiv:2310.01889](https://arxiv.org/abs/2310.01889), Algorithm 1 and section 3; Brandon et al. 2023,
#   [arXiv:2311.09431](https://arxiv.org/abs/2311.09431), striped; Shyam et al. 2024,
#   [arXiv:2408.04093](https://arxiv.org/abs/2408.04093), tree decoding.
# - This is the last lesson. Look at the first picture of the course again, [00 A sentence through a
#   model](00_a_sentence_through_a_model.ipynb), and say of each part how it is computed; or choose a mechanism for a problem of
#   your own: [which_when.md](which_when.md).
