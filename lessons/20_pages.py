# %% [markdown]
# # 20 Pages: the cache as virtual memory
#
# 35 minutes · difficulty: medium · read before: [07 The KV cache](07_kv_cache.ipynb),
# [08 Fewer KV heads](08_mqa_gqa.ipynb) · [glossary](glossary.md)
#
# You will be able to
#
# - say where a server's memory goes while most of its cache is empty,
# - find a token through a table of pages, and attend to it there,
# - fork a text without copying a token, and say which page must be copied later, and when,
# - choose a page size by what it wastes and what it costs.

# %% [markdown]
# ## The question
#
# A server answers many people at once, and each has a KV cache (lesson 07). Such a cache is an array, and an array cannot
# grow where something else lies behind it. Nobody knows how long an answer will be, so the server reserves the longest that
# is allowed. Kwon et al. looked into such servers: of the memory for caches, 20.4 % to 38.2 % held tokens (the paper's
# measurement). Why does a server run out of memory while most of its cache is empty, and what can be done about it?
#
# Their server in numbers: a model of 40 layers whose keys and values have 5,120 numbers a token, in two bytes each, and
# memory for 15,700 tokens. Call the room for one token a **slot**.

# %%
import course
import matplotlib.pyplot as plt
import numpy as np

import minattn as ma
from minattn.memory.trace import PAPER
from minattn.practice import check

np.set_printoptions(precision=2, suppress=True)
slot = 2 * 40 * 5120 * 2                                              # key and value, layers, numbers, bytes
print(f"a slot is {slot:,} bytes; 15,700 of them are {15_700 * slot / 2**30:.1f} GiB")

# %% [markdown]
# ## Predict before you run
#
# A text may have 2,048 tokens. A prompt has 161 on average, an answer 338 (the paper's chats). How many people can be
# served at once, and what share of the slots holds a token at some moment?
#
# <details><summary>Answer</summary>
#
# 15,700 // 2,048 = 7 people; the 1,364 slots that are left are too few for an eighth. What the seven hold: about 500 tokens
# each, in sum less than a quarter of the slots. (A request that is being served now is longer than the average one, since
# long ones stay longer.)
#
# </details>
#
# ## Where the memory goes
#
# `ma.cache_waste` plays such a server: requests come, are given memory, get one token a step, and leave. Lengths are drawn
# with these two means. Four ways to give memory:
#
# - **longest**: 2,048 slots in one piece for each;
# - **power**: the prompt, and the next power of two of the answer, by a server that knows the answer's length roughly;
# - **oracle**: exactly what will be needed, by a server that knows it beforehand, which no server does;
# - **pages**: 16 slots at a time, when they are needed, wherever they are.
#
# Every slot is counted in one of four places: it holds a **token**; it is **reserved** and will hold one before the request
# ends; it is in the piece but never used (**internal**); or it is in no piece (**external**): free, but cut too small.

# %%
shares = {policy: ma.cache_waste(policy, steps=4000) for policy in PAPER}
print("          tokens  reserved  internal  external   served at once   tokens, the paper's")
for policy, s in shares.items():
    print(f"{policy:8} {s.tokens:7.1%} {s.reserved:9.1%} {s.internal:9.1%} {s.external:9.1%} {s.running:12.1f}"
          f" {PAPER[policy]:18.1%}")
    assert abs(s.tokens - PAPER[policy]) < 0.05
assert shares["pages"].running > 4 * shares["longest"].running

# %% [markdown]
# The middle columns are simulated here, with drawn lengths; the last one is what the paper measured with real chats.
# **What to look for:** even the oracle, which wastes nothing within a piece, leaves most slots without a token. It must take
# all of a request's memory in one piece and at the start.

# %%
fig, ax = plt.subplots(figsize=(8, 2.9), layout="constrained")
left, names = np.zeros(4), list(shares)
colours = {"tokens": "#26828e", "reserved": "#9fd0cb", "internal": "#e0a458", "external": "#d9d9d9"}
for part, colour in colours.items():
    share = np.array([getattr(shares[name], part) for name in names])
    ax.barh(names, share, left=left, color=colour, label=part, edgecolor="white")
    left += share
ax.plot([PAPER[name] for name in names], names, "k|", markersize=20, markeredgewidth=2, label="tokens, the paper's")
ax.set(xlim=(0, 1), xlabel="share of all slots", ylabel="memory is given by")
ax.invert_yaxis()
fig.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## Pages by hand
#
# An operating system had this problem first. Its answer: cut memory into **pages** of one size, give a process any page that
# is free, and keep a **table** that says where its first, second, third page lies. The process counts its memory from 0 and
# never learns where it is.
#
# Here the process is a text. The course's sentence, pages of 3 tokens: four tokens take two pages, and nobody minds which.
# Say 4 and 1. Position `pos` of the text lies in page `table[pos // 3]`, at place `pos % 3`. All else in the memory is
# filled with NaN, so that whoever reads a wrong slot gets NaN.

# %%
q, k, v = (course.X @ w for w in (course.W_Q, course.W_K, course.W_V))                # (N, D) each: one head
P, pages, table = 3, 6, [4, 1]
held_k, held_v = np.full((2, pages, P, 4), np.nan)                    # (pages, P, D): the memory
for pos, token in enumerate(course.TOKENS):
    page, at = table[pos // P], pos % P
    held_k[page, at], held_v[page, at] = k[pos], v[pos]
    print(f"position {pos}, {token:>4}: page {page}, place {at}")

# %% [markdown]
# One query, 'down', in a loop: for each position ask the table, score the key that lies there. Then the same in one matmul:
# `held_k[table]` takes the two pages in the text's order, and the slots beyond its length are cut off.

# %%
query, length = q[3], 4
scores = np.empty(length)
for pos in range(length):
    page, at = table[pos // P], pos % P
    scores[pos] = query @ held_k[page, at] / np.sqrt(4)
weights, out = ma.softmax(scores), np.zeros(4)
for pos in range(length):
    out += weights[pos] * held_v[table[pos // P], pos % P]
print("scores ", scores, "\nweights", weights, "\nout    ", out)

keys, values = (held[table].reshape(-1, 4)[:length] for held in (held_k, held_v))     # gathered: (S, D)
np.testing.assert_allclose(ma.softmax(query @ keys.T / np.sqrt(4)) @ values, out)
np.testing.assert_allclose(ma.attention(q, k, v, causal=True)[3], out)

# %% [markdown]
# `ma.PagedCache` is this for many texts, called **rows**, and several heads. `new` makes a row, `append` takes pages as they
# are needed, `attend` is attention of a row's last tokens to all that the row holds.

# %%
cache = ma.PagedCache(pages=6, page_size=3, kv_heads=1, head_dim=4, dtype=np.float64)
row = cache.new()
for n in range(4):
    cache.append(row, k[None, n:n + 1], v[None, n:n + 1])             # (G, N, D), G = N = 1
    got = cache.attend(q[None, n:n + 1], row, causal=True)[0, 0]
    print(f"{course.TOKENS[n]:>4}: pages {cache.table(row)}, {cache.free_pages} free, out {got}")
np.testing.assert_allclose(got, out)

# %% [markdown]
# ## A fork, built broken
#
# One prompt is to be continued in several ways: three answers to choose from, or a search that keeps the best few
# beginnings. The prompt's keys and values are the same for all. With tables that costs nothing: a **fork** copies the table,
# and both rows read the same pages. Then each goes on.

# %%
def reads(table, length):
    """What the next token of a row would get: the query of 'down' over what the row holds."""
    keys, values = (held[table].reshape(-1, 4)[:length] for held in (held_k, held_v))
    return ma.softmax(query @ keys.T / np.sqrt(4)) @ values


def write(table, pos, n):
    held_k[table[pos // P], pos % P], held_v[table[pos // P], pos % P] = k[n], v[n]


a, b = table, list(table)                                             # b is a fork of a: the same two pages
write(a, 4, 0)                                                        # a goes on with 'the'
before = reads(a, 5)
write(b, 4, 2)                                                        # b goes on with 'sat'
after = reads(a, 5)
print("a reads", before, "\nthen   ", after, "  though nothing was done to a")
print(f"largest difference {np.abs(after - before).max():.2f}")
assert np.abs(after - before).max() > 0.1

# %% [markdown]
# Both rows write their fifth token to page 1, place 1, and the second one wins. Shapes are right, no number is NaN, and row
# b is right too: the symptom is that *another* text changes its mind.
#
# ## The mend: count who holds a page, and copy on write
#
# Each page has a number of **holders**, the rows that have it in their table. A row that is about to write into a page that
# others hold takes a free page, copies the old one into it, puts it in its table, and is one holder less of the old one.
# That is **copy on write**. It happens once: after it, the page is the row's own. And it happens to the last page only,
# since all pages before it are full and will never be written again.

# %%
holders, free = {4: 2, 1: 2}, [0, 2, 3, 5]                            # after the fork both rows hold both pages


def write_mended(table, pos, n):
    page = table[pos // P]
    if holders[page] > 1:
        copy = free.pop()
        held_k[copy], held_v[copy] = held_k[page], held_v[page]
        holders[page], holders[copy], table[pos // P] = holders[page] - 1, 1, copy
    write(table, pos, n)


a, b = [4, 1], [4, 1]
write_mended(a, 4, 0)
before = reads(a, 5)
write_mended(b, 4, 2)
print("a reads", before, "\nthen   ", reads(a, 5), "\ntables ", a, b, " holders", holders)
np.testing.assert_array_equal(reads(a, 5), before)
assert (a[0], holders[4], holders[1]) == (b[0], 2, 1)                 # one page shared, one each of their own

# %% [markdown]
# When b wrote, page 1 had one holder left, b itself, so nothing was copied. Two rows, one copy.
#
# ## The life of a cache
#
# A cache with six pages of four slots, and three texts: A, B, and C, a fork of A. To see what is stored where, the "key" of a
# token is one number, its place in a list of words. The picture is read off the cache's own memory and tables.

# %%
WORDS = "- the cat sat on mat because it was tired hungry a dog ran and so".split()
COLOURS = {"A": "#8fc1e3", "B": "#f5b971", "C": "#a5d8a1"}
small = ma.PagedCache(pages=6, page_size=4, kv_heads=1, head_dim=1)


def say(row, text):
    ids = np.array([WORDS.index(word) for word in text.split()], np.float32)[None, :, None]       # (G, N, D)
    small.append(row, ids, ids)

# %%
def draw(ax, rows, title):
    """Bands of colour: the rows that hold a slot. Grey words lie in slots that nobody reads."""
    for page, at in np.ndindex(small.pages, 4):
        holds = [name for name, row in rows.items() if page in small.table(row)]
        read = any(small.table(rows[name]).index(page) * 4 + at < small.length(rows[name]) for name in holds)
        for n, name in enumerate(holds or [None]):
            height = 1 / max(len(holds), 1)
            box = (at - 0.5, page - 0.5 + n * height), 1, height
            ax.add_patch(plt.Rectangle(*box, color=COLOURS.get(name, "#f2f2f2")))
        ax.add_patch(plt.Rectangle((at - 0.5, page - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=2))
        word = WORDS[int(small.k[page, 0, at, 0])].replace("-", "")
        ax.text(at, page, word, ha="center", va="center", fontsize=8, color="black" if read else "#9a9a9a")
    labels = [f"{p}  {''.join(name for name in rows if p in small.table(rows[name])) or '-'}" for p in range(6)]
    ax.set(xlim=(-0.5, 3.5), ylim=(5.5, -0.5), xticks=range(4), yticks=range(6), yticklabels=labels)
    ax.set_title(title, fontsize=9)

# %% [markdown]
# **Predict before you run.** In step 4 C appends a word, then A appends one. How many pages are copied?
#
# <details><summary>Answer</summary>
#
# One. C writes first, into a page that A holds too, and copies it. When A writes, it is the page's only holder.
#
# </details>
#
# **What to look for.** 2: A's next page is page 3, not beside its others, because B has page 2. 3: two colours in a slot are
# two holders, and no page was taken. 4: 'was' stands twice, once in A's page and once in C's copy; the other shared pages
# stay shared. 5: B is gone, its words are still there, and nobody reads them. 6: C writes over them.

# %%
fig, axes = plt.subplots(2, 3, figsize=(10, 6.2), layout="constrained")
axes, A, B = axes.ravel(), small.new(), small.new()
say(A, "the cat sat on the mat")
say(B, "a dog ran")
draw(axes[0], {"A": A, "B": B}, "1. two texts")
say(A, "because it was")
draw(axes[1], {"A": A, "B": B}, "2. A appends three words")
C = small.fork(A)
draw(axes[2], {"A": A, "B": B, "C": C}, "3. C is a fork of A")
free_before = small.free_pages
say(C, "hungry")
say(A, "tired")
draw(axes[3], {"A": A, "B": B, "C": C}, "4. C, then A append: copy on write")
assert free_before - small.free_pages == 1
small.free(B)
draw(axes[4], {"A": A, "C": C}, "5. B is freed")
say(C, "and so it")
draw(axes[5], {"A": A, "C": C}, "6. C appends three words")
fig.supxlabel("place in the page", fontsize=9)
fig.supylabel("page, and who holds it", fontsize=9)
plt.show()

# %% [markdown]
# ## The same bits
#
# Is anything lost by reading keys from here and there? A row of 4,000 tokens in pages of 1 to 256, taken in a random
# order from a memory full of NaN, against the same keys in one piece. Not close: the same bits. The kernel walks over the
# keys tile by tile (lesson 11). Keys that lie side by side it reads where they are; where pages are too small for that it
# copies a tile's keys together first. Then it computes as ever.

# %%
rng = np.random.default_rng(0)
S, H, G, D = 4000, 9, 3, 64                                           # a layer of SmolLM2
q_1 = rng.standard_normal((H, 1, D), np.float32)
k_S, v_S = rng.standard_normal((2, G, S, D), np.float32)


def scattered(size):
    """These tokens in pages that other rows had before, so that they lie anywhere. The rest is NaN."""
    cache = ma.PagedCache(2 * -(-S // size), size, G, D)
    cache.k[:], cache.v[:] = np.nan, np.nan
    others = [cache.new() for _ in range(cache.pages)]
    for other in others:
        cache.append(other, np.full((G, 1, D), np.nan), np.full((G, 1, D), np.nan))
    for other in rng.permutation(others):
        cache.free(int(other))
    row = cache.new()
    cache.append(row, k_S, v_S)
    return cache, row


contiguous = ma.attention(q_1, k_S, v_S, causal=True, backend="cpu")
made = {size: scattered(size) for size in (1, 3, 16, 64, 256)}
for size, (cache, row) in made.items():
    np.testing.assert_array_equal(cache.attend(q_1, row, causal=True, backend="cpu"), contiguous)
    print(f"pages of {size:3}: the same bits; the first pages are {cache.table(row)[:6]}")

# %% [markdown]
# ## How large a page?
#
# A row's last page is half empty on average, so large pages waste more. Small pages make long tables: 8 bytes an entry here,
# and a look-up each. And a page that is copied on write is copied whole. Below: the table of that row, the bytes of a page of
# SmolLM2 (a token is 46,080 bytes in float32, all layers together), the share of the simulated server's slots that is empty
# in last pages, and a decoding step of one layer over the row, measured here.

# %%
token = ma.models.LlamaConfig.smollm2().kv_bytes(1, "float32")
plain = ma.KVCache(1, G, S, D)
k_all, v_all, _, _ = plain.append(k_S[None], v_S[None])
flat = course.seconds(lambda: ma.attention(q_1[None], k_all, v_all, causal=True, backend="cpu"), 30)
print("page   entries   bytes of the table   bytes of a page   empty   step, us   of one piece")
for size, (cache, row) in made.items():
    paged = course.seconds(lambda: cache.attend(q_1, row, causal=True, backend="cpu"), 30)        # noqa: B023
    entries, empty = len(cache.table(row)), ma.cache_waste("pages", page_size=size, steps=1500).internal
    print(f"{size:4} {entries:9} {8 * entries:20,} {size * token:17,} {empty:7.1%} {paged * 1e6:10.0f}"
          f" {paged / flat:14.2f}")
print(f"in one piece{flat * 1e6:60.0f} {1:14.2f}")
assert token == 46_080

# %% [markdown]
# Very small pages cost time: every key has to be looked up. Very large ones waste slots. In between, sixteen is the paper's
# choice: the table is tiny beside what it points to, and last pages lose little. (A part of the difference to one piece is the
# same for all sizes: what `attend` does in Python before the kernel starts.)
#
# ## Many continuations of one prompt
#
# How much does sharing save? A prompt of 1,000 tokens is continued n times by 100 tokens, in pages of 16. Apart, each row has
# a prompt of its own.

# %%
print(" n   pages apart   pages shared      MB apart   MB shared")
for n in (1, 2, 4, 8, 16):
    counted = ma.PagedCache(pages=2000, page_size=16, kv_heads=1, head_dim=1)
    prompt = counted.new()
    counted.append(prompt, *np.zeros((2, 1, 1000, 1)))
    rows = [prompt, *(counted.fork(prompt) for _ in range(n - 1))]
    for _ in range(100):
        counted.append(rows, *np.zeros((2, n, 1, 1, 1)))              # one token for each row
    apart, shared = n * -(-1100 // 16), counted.pages - counted.free_pages
    print(f"{n:2} {apart:13} {shared:14} {apart * 16 * token / 1e6:13.0f} {shared * 16 * token / 1e6:11.0f}")
    assert shared == 62 + n * 7                                       # the prompt's 62 full pages, and 7 for each row

# %% [markdown]
# ## The real thing
#
# SmolLM2 continues one paragraph in three ways. One `PagedCache` for each of its 30 layers; the layers' tables are all alike.
# `step` is the model's own forward pass, with `append` and `attend` in place of attention over an array. Where the weights
# are not here, the same lines run on a Llama of the same shape with random weights: its words mean nothing.

# %%
model, trained = course.model(), True
if model is None:
    print("The lines below run on random weights of SmolLM2's shape.")
    model, trained = ma.models.Llama.random(ma.models.LlamaConfig.smollm2()), False
c = model.config
sizes = {"page_size": 16, "kv_heads": c.kv_heads, "head_dim": c.head_dim}
store = [ma.PagedCache(pages=24, **sizes) for _ in range(c.layers)]


def step(rows, ids):
    """Logits (R, N, V) of the tokens after ids (R, N), which are appended to the rows."""
    start = np.array([store[0].length(row) for row in rows])
    positions = start[:, None] + np.arange(ids.shape[1])              # (R, N)
    x = model.embed(ids)
    for layer, pages in enumerate(store):
        q, k, v = model.attention_inputs(layer, x, positions)
        pages.append(rows, k, v)
        mixed = pages.attend(q, rows, causal=True)                    # (R, H, N, D)
        y = x + ma.merge_heads(mixed) @ model.layers[layer]["w_o"]
        x = y + model.feed_forward(layer, y)
    return model.logits(x)

# %%
starts = [" One night", " His daughter", " The next morning"]
if trained:
    prompt = model.tokenizer.encode(course.PARAGRAPH)
    starts = [model.tokenizer.encode(text) for text in starts]
else:
    prompt, starts = list(range(100, 215)), [[7, 8], [9, 10], [11, 12, 13]]
[first] = {pages.new() for pages in store}                            # one number, the same in all layers
step([first], np.array([prompt]))
[second], [third] = ({pages.fork(first) for pages in store} for _ in range(2))
rows = [first, second, third]
held = store[0].pages - store[0].free_pages
logits = [step([row], np.array([start]))[0, -1] for row, start in zip(rows, starts, strict=True)]
texts = [list(start) for start in starts]
for _ in range(10):                                                   # greedy, the three rows together
    best = np.argmax(logits, axis=-1)
    for text, token_id in zip(texts, best, strict=True):
        text.append(int(token_id))
    logits = step(rows, best[:, None])[:, 0]
for text in texts:
    print(model.tokenizer.decode(text) if trained else text)

# %%
used = store[0].pages - store[0].free_pages
lengths = [store[0].length(row) for row in rows]
apart, page = sum(-(-n // 16) for n in lengths), c.kv_bytes(16, "float32")
print(f"prompt of {len(prompt)} tokens in {held} pages; three rows of {lengths} tokens:")
for row in rows:
    print("  table", store[0].table(row))
print(f"{used} pages, {used * page / 1e6:.1f} MB; apart {apart} pages, {apart * page / 1e6:.1f} MB")
for row, text in zip(rows, texts, strict=True):                       # the model itself: each text whole, no cache
    whole = model.logits(model.hidden([*prompt, *text])[0][-11:-1])
    assert whole.argmax(axis=-1).tolist() == text[-10:]
    assert store[0].table(row)[:len(prompt) // 16] == store[0].table(first)[:len(prompt) // 16]
print("each row wrote what the model writes when it reads that text alone")

# %% [markdown]
# The tables begin with the same pages, which stand in memory once. The last page of the prompt, partly filled, was copied
# for two of the three rows, and the third kept it.
#
# ## Fewer bits in a slot
#
# Pages make good use of the slots. Another way is to make a slot smaller. `ma.QuantizedCache` keeps each number as a whole
# number of 8 or 4 bits between the lowest and the highest of its group of 32: keys by channel, since some channels are large
# in every token, and values by token (Liu et al. 2024). What is lost, and what does it save?

# %%
found = course.real("few_bits")
print("from the model itself" if course.model() else "from the stored maps")
smol, capacity = ma.models.LlamaConfig.smollm2(), 1024
print("bits   bytes for 1,024 tokens   times smaller   loss on a paragraph   difference")
for bits, loss in zip(found.bits, found.losses, strict=True):
    sizes = (1, smol.kv_heads, capacity, smol.head_dim)
    layer = ma.KVCache(*sizes) if bits == 32 else ma.QuantizedCache(*sizes, bits=int(bits))
    full = smol.kv_bytes(capacity, "float32")
    print(f"{bits:4} {smol.layers * layer.nbytes:24,} {full / (smol.layers * layer.nbytes):15.1f} {loss:21.4f}"
          f" {loss - found.losses[0]:12.4f}")
assert (abs(found.losses[1:] - found.losses[0]) < (0.02, 0.2)).all()

# %% [markdown]
# The loss is that of predicting the paragraph, in nats a token. Eight bits hardly change it; four change it by more, and by
# little still. (Each group also keeps two float32 numbers, its lowest and its step, and the latest group waits unchanged in
# float32: so four bits save less than eightfold.)
#
# ## What it costs
#
# For rows of $n_r$ tokens, $R$ of them; the longest allowed is $M$ tokens, a page has $P$; $b$ bytes a token.
#
# | | contiguous | pages |
# |---|---|---|
# | bytes reserved | $R M b$ | $\sum_r \lceil n_r / P \rceil P\, b$ |
# | empty at the most, a row | $M - n_r$ | $P - 1$ |
# | table | none | $\sum_r \lceil n_r / P \rceil$ entries |
# | append of one token | one write | one write; every $P$ tokens a page is taken |
# | fork | $n_r b$ copied | a copy of the table; later one page of $P b$ at the most |
# | $n$ continuations of a prompt of $p$ tokens | $n p b$ for the prompt | about $p b$ |
# | attention | reads $n_r b$ | the same reads, with a look-up a page; the same bits |
#
# ## Exercises
#
# Replace `return None` and run the cell. The check calls your function on inputs of its own; where the answer is a known
# mistake, it names the mistake.

# %% [markdown]
# **1 (easy).** A row's `table` is an integer array: the numbers of its pages, in order. Return page and place of the positions
# `start` to `stop` - 1, two arrays (n,) with n = stop - start.
#
# <details><summary>Hint</summary>
#
# `np.arange(start, stop)` are the positions. Which of the row's pages is each in?
#
# </details>
#
# <details><summary>Second hint</summary>
#
# `//` and `%` by the page size; an array can be indexed by an array.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def slots_of(table, page_size, start, stop):
#     pos = np.arange(start, stop)
#     return table[pos // page_size], pos % page_size
# ```
#
# `held_k[page, at]` with these two reads all n keys at once.
#
# </details>

# %%
def slots_of(table, page_size, start, stop):
    """(pages,), int, int, int -> page (n,), at (n,)"""
    return None


check.slots_of(slots_of)

# %% [markdown]
# **2 (easy).** Rows hold `lengths` (R,) tokens. How many slots hold no token, if each row reserves `longest` slots in one
# piece, and how many if each takes pages of `page_size` as it needs them? Return both numbers. A row without tokens has no
# page.
#
# <details><summary>Hint</summary>
#
# First count the slots that are taken, then subtract the tokens.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# A row of n tokens takes n / page_size pages, rounded up: `-(-n // page_size)`.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def empty_slots(lengths, longest, page_size):
#     pages = -(-lengths // page_size)
#     return len(lengths) * longest - lengths.sum(), pages.sum() * page_size - lengths.sum()
# ```
#
# The second is below R times page_size, however long `longest` is.
#
# </details>

# %%
def empty_slots(lengths, longest, page_size):
    """(R,), int, int -> contiguous, paged"""
    return None


check.empty_slots(empty_slots)

# %% [markdown]
# **3 (medium).** A row holds `length` tokens and is to get `new` more (perhaps none). `shared` says whether another row also
# holds its last page. How many free pages does that take?
#
# <details><summary>Hint</summary>
#
# Two things take pages: tokens for which there is no room, and a copy.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# The copy is due only if something is written into the last page: it is shared, it is not full, and `new` is not 0.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# def pages_needed(length, new, page_size, shared):
#     fresh = -(-(length + new) // page_size) - -(-length // page_size)
#     copy = shared and new > 0 and length % page_size > 0
#     return fresh + int(copy)
# ```
#
# A server asks this before it admits a request, so that an append never fails halfway.
#
# </details>

# %%
def pages_needed(length, new, page_size, shared):
    """int, int, int, bool -> int"""
    return None


check.pages_needed(pages_needed)

# %% [markdown]
# **4 (hard).** Fork and append, with copy on write. A token is one number here, so the memory is `store` (pages, page_size).
# `fork` makes a new row that shares all pages of `row`, and returns its number; `append` writes one token behind what the row
# holds, in a page of its own. `self.holders` says how many rows hold each page; `free_page()` gives one that nobody holds,
# with its holder counted.
#
# <details><summary>Hint</summary>
#
# `divmod(length, page_size)` says which of the row's pages the token goes to, and where in it. At place 0 there is no page
# yet.
#
# </details>
#
# <details><summary>Second hint</summary>
#
# If the page has two holders or more: take a free one, copy the old one's tokens, put it in the table, and count one holder
# less for the old one. In a fork, the list that is the table must be copied too.
#
# </details>
#
# <details><summary>Answer</summary>
#
# ```python
# class MyPages:
#     def __init__(self, pages, page_size):
#         self.store = np.zeros((pages, page_size))
#         self.holders = np.zeros(pages, dtype=int)
#         self.tables, self.lengths = [], []
#
#     def new(self):
#         self.tables.append([])
#         self.lengths.append(0)
#         return len(self.tables) - 1
#
#     def free_page(self):
#         page = int(np.flatnonzero(self.holders == 0)[0])
#         self.holders[page] = 1
#         return page
#
#     def fork(self, row):
#         self.tables.append(list(self.tables[row]))
#         self.lengths.append(self.lengths[row])
#         self.holders[self.tables[row]] += 1
#         return len(self.tables) - 1
#
#     def append(self, row, token):
#         table = self.tables[row]
#         n, at = divmod(self.lengths[row], self.store.shape[1])
#         if at == 0:
#             table.append(self.free_page())
#         elif self.holders[table[n]] > 1:
#             old, table[n] = table[n], self.free_page()
#             self.store[table[n]] = self.store[old]
#             self.holders[old] -= 1
#         self.store[table[n], at] = token
#         self.lengths[row] += 1
# ```
#
# A row holds a page at most once, so `+= 1` on an array of page numbers counts each of them.
#
# </details>

# %%
class MyPages:
    def __init__(self, pages, page_size):
        self.store = np.zeros((pages, page_size))
        self.holders = np.zeros(pages, dtype=int)
        self.tables, self.lengths = [], []

    def new(self):
        self.tables.append([])
        self.lengths.append(0)
        return len(self.tables) - 1

    def free_page(self):
        page = int(np.flatnonzero(self.holders == 0)[0])
        self.holders[page] = 1
        return page

    def fork(self, row):
        return None

    def append(self, row, token):
        return None


check.shared_pages(MyPages)

# %% [markdown]
# ## Three questions
#
# **The oracle knows every length and wastes nothing inside a piece. Why does it still serve a third of what pages serve?**
#
# <details><summary>Answer</summary>
#
# It must reserve a request's slots for the end of its answer from the first token on, and in one piece: what is free lies in
# pieces that are too small. Pages are taken when the tokens come, and any page fits.
#
# </details>
#
# **Why does attention not care in which order the pages lie?**
#
# <details><summary>Answer</summary>
#
# The table restores the text's order when the keys are read. (Without it the sum over keys would still be the same up to
# rounding, if positions and masks went along with the keys: attention is a sum over a set.)
#
# </details>
#
# **Two users ask with the same system prompt of 2,000 tokens. May their rows share its pages? And if the prompt stands behind
# the user's name?**
#
# <details><summary>Answer</summary>
#
# The first two may: keys and values of a token depend on the tokens before it, and these are the same. With the name before
# it, every later key differs, so nothing can be shared: sharing is for prefixes.
#
# </details>
#
# ## Where to go on
#
# - The files: [minattn/memory/pages.py](../minattn/memory/pages.py), who holds which page;
#   [minattn/memory/paged.py](../minattn/memory/paged.py), the cache; [minattn/memory/trace.py](../minattn/memory/trace.py), the
#   simulated server; [minattn/memory/quantized.py](../minattn/memory/quantized.py).
# - Papers: Kwon et al. 2023, [arXiv:2309.06180](https://arxiv.org/abs/2309.06180), sections 3.1 and 4; Liu et al. 2024,
#   [arXiv:2402.02750](https://arxiv.org/abs/2402.02750), section 3.
# - Which mechanism when: [which_when.md](which_when.md).
# - Next: [21 Streaming](21_streaming.ipynb).
