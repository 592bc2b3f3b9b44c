"""What the lessons show of SmolLM2: one function for each entry of maps/, run again by `python recipes.py`.

A recipe takes the model and returns a dict of arrays and texts. `course.real(name)` runs it where the model is here and
reads maps/NAME.npz where it is not; a test holds the two together.
"""
import copy
import functools
import json
import os
import sys
import time

import numpy as np
from course import (
    MAPS,
    PARAGRAPH,
    SENTENCE,
    TWO_SENTENCES,
    averaged,
    behind_a_gap,
    entering,
    linear,
    losses_of,
    model,
    pooled,
    rotated_once,
    silence,
    tiled,
    turned,
    twice,
)

RECIPES = {}
LONG = {}


def recipe(function):
    """Register `function(model) -> dict of arrays` under its name, for `course.real` and for `store`."""
    RECIPES[function.__name__] = function
    return function


def long_recipe(function):
    """Register one that takes minutes: `course.real` always reads what is stored; `python recipes.py NAME` makes it anew."""
    LONG[function.__name__] = function
    return function


@recipe
def cat(m):
    """Every head of every layer on the sentence: weights (layers, H, N, N)."""
    ids = m.tokenizer.encode(SENTENCE)
    return {"tokens": _labels(m, ids), "weights": m.forward(ids, return_weights=True)[1]}


@recipe
def induction(m):
    """64 random tokens, twice: a previous-token head, 16.0, and five that find the first copy; weights (6, N, N)."""
    ids = twice(m)
    heads = np.array([(16, 0), (17, 3), (17, 4), (17, 5), (18, 6), (18, 7)])
    weights = m.forward(ids, return_weights=True)[1]
    return {"tokens": _labels(m, ids), "heads": heads, "weights": weights[heads[:, 0], heads[:, 1]]}


@recipe
def roles(m):
    """How far each head does a job: its mean weight on the key of that job, (layers, H) for each of four jobs.

    On PARAGRAPH and on 64 random tokens twice: the token before, the first token; on the random tokens also the token
    after the earlier copy (induction), and as a control the same place in 128 tokens that do not repeat.
    """
    prose = m.forward(m.tokenizer.encode(PARAGRAPH), return_weights=True)[1]          # (layers, H, N, N)
    copied = m.forward(twice(m), return_weights=True)[1]
    fresh = m.forward(np.random.default_rng(1).integers(100, len(m.tokenizer), 128), return_weights=True)[1]
    return {
        "previous": np.diagonal(prose, -1, -2, -1).mean(-1), "previous_random": np.diagonal(copied, -1, -2, -1).mean(-1),
        "first": prose[..., 1:, 0].mean(-1), "first_random": copied[..., 1:, 0].mean(-1),
        "induction": np.diagonal(copied, -63, -2, -1)[..., 1:].mean(-1),              # queries 64 .. 127, keys 1 .. 64
        "control": np.diagonal(fresh, -63, -2, -1)[..., 1:].mean(-1),
    }


@recipe
def lesions(m):
    """The loss on 64 random tokens and on their copy when some heads are silent: none, the named ones, six others, drawn.

    The copy's first token is left out: nothing before it says that a copy begins.
    """
    ids, n = twice(m), np.arange(127)
    induction_heads = [(18, 6), (17, 3), (17, 4), (17, 5), (18, 7), (20, 6)]
    named = {"none": [], "previous-token head 16.0": [(16, 0)], "six induction heads": induction_heads}
    everywhere = np.ndindex(m.config.layers, m.config.heads)
    others = [place for place in everywhere if place not in (*induction_heads, (16, 0))]
    rng = np.random.default_rng(0)
    for _ in range(5):
        drawn = [others[place] for place in sorted(rng.choice(len(others), 6, replace=False))]
        named["drawn: " + " ".join(f"{layer}.{head}" for layer, head in drawn)] = drawn
    losses = np.array([losses_of(silence(m, heads), ids) for heads in named.values()])
    return {"names": list(named), "first": losses[:, n < 63].mean(-1), "second": losses[:, n >= 64].mean(-1)}


@recipe
def two_sentences(m, layer=13):
    """What one layer makes of TWO_SENTENCES: rotated q, k, v (heads, N, D) and its weights (H, N, N)."""
    ids = m.tokenizer.encode(TWO_SENTENCES)
    x, positions = entering(m, ids, layer), np.arange(len(ids))
    q, k, v = m.attention_inputs(layer, x, positions)
    weights = m.block(layer, x, positions, return_weights=True)[1]
    return {"tokens": _labels(m, ids), "q": q, "k": k, "v": v, "weights": weights}


@recipe
def layouts(m):
    """Perplexity on PARAGRAPH for each pairing of stored weights and RoPE layout, and the guess after a simple prompt."""
    ids, prompt = m.tokenizer.encode(PARAGRAPH), m.tokenizer.encode("The capital of France is")
    runs = {
        "as stored, interleaved": turned(m, "interleaved"),
        "reordered, half": turned(m, "half", reorder=True),
        "as stored, half": turned(m, "half"),
        "reordered, interleaved": turned(m, "interleaved", reorder=True),
        "no rotation at all": turned(m, "interleaved", scaling=lambda frequencies: 0 * frequencies),
    }
    return {
        "names": list(runs), "perplexity": np.array([np.exp(losses_of(run, ids).mean()) for run in runs.values()]),
        "guess": [m.tokenizer.decode([int(run.forward(prompt)[-1].argmax())]) for run in runs.values()],
    }


@recipe
def sentence(m):
    """The sentence on its way through the model: ids, embeddings, what goes into layer 13, and what may come next."""
    from minattn import softmax

    ids = np.array(m.tokenizer.encode(SENTENCE))
    positions = np.arange(len(ids))
    embedded = m.embed(ids)                                           # (N, E)
    x = before = entering(m, ids, layer=13)
    q, k, v = m.attention_inputs(13, x, positions)                    # (H, N, D), (G, N, D), (G, N, D)
    for layer in range(13, m.config.layers):
        x = m.block(layer, x, positions)
    chance = softmax(m.logits(x))                                     # (N, V)
    best = np.argsort(-chance)[:, :5]                                 # the five likeliest next tokens of each row
    prompt = "One day, a little girl named Mia found"
    return {
        "tokens": _labels(m, ids), "ids": ids, "embedded": embedded, "x": before, "q": q, "k": k, "v": v,
        "next_tokens": [_labels(m, row) for row in best], "next_chances": np.take_along_axis(chance, best, axis=-1),
        "prompt": prompt, "written": m.generate(prompt, max_new_tokens=24, progress=False),
    }


@recipe
def other_sentences(m):
    """Where 'it' looks in head 13.8 when one thing in the sentence is another: tokens and weights (sentences, N)."""
    texts = [SENTENCE, SENTENCE.replace("tired", "soft"), SENTENCE.replace("cat", "girl"),
             "The mat lay under the cat because it was soft"]
    ids = np.array([m.tokenizer.encode(text) for text in texts])      # ten tokens each
    tokens = [_labels(m, row) for row in ids]
    weights = m.forward(ids, return_weights=True)[1][13, :, 8]        # (sentences, N, N)
    return {"tokens": tokens, "weights": weights[:, tokens[0].index(" it")]}


@recipe
def scales(m):
    """Queries and keys of layer 13 on a paragraph, and the loss of the whole model under other scales than 1/sqrt(D)."""
    from minattn import attention

    ids = np.array(m.tokenizer.encode(PARAGRAPH))
    q, k, _ = m.attention_inputs(13, entering(m, ids, layer=13), np.arange(len(ids)))
    tried = np.array([1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1])
    changed = [m.with_attention(functools.partial(attention, scale=scale)) for scale in tried]
    losses = np.array([losses_of(each, ids).mean() for each in changed])
    return {"q": q[:, :96], "k": k[:, :96], "scales": tried, "losses": losses}


@recipe
def masked(m):
    """What a later word changes in the model's logits, and its loss on a paragraph under other masks than causal."""
    from minattn import attention, masks

    tried = {
        "causal": masks.causal(),
        "last(16)": masks.last(16),
        "last(15) | first(1)": masks.last(15) | masks.first(1),
        "last(32)": masks.last(32),
        "last(31) | first(1)": masks.last(31) | masks.first(1),
    }
    one, other = (m.forward(m.tokenizer.encode(text)) for text in (SENTENCE, SENTENCE.replace("tired", "soft")))
    ids = np.array(m.tokenizer.encode(PARAGRAPH))
    losses = [losses_of(m.with_attention(functools.partial(attention, mask=mask)), ids).mean() for mask in tried.values()]
    return {"tokens": _labels(m, m.tokenizer.encode(SENTENCE)), "changed": np.abs(one - other).max(-1),
            "names": list(tried), "losses": np.array(losses)}


@recipe
def pooling(m):
    """The mean loss on PARAGRAPH when a group of query heads is given other keys than its own, in all layers or in one."""
    ids, layers = np.array(m.tokenizer.encode(PARAGRAPH)), np.arange(0, m.config.layers, 6)
    runs = {"as trained": m, "KV heads pooled to one": m.with_attention(pooled), "tiled": m.with_attention(tiled)}
    alone = [losses_of(m.with_attention({int(layer): pooled}), ids).mean() for layer in layers]
    return {"names": list(runs), "losses": np.array([losses_of(run, ids).mean() for run in runs.values()]),
            "layers": layers, "losses_of_one": np.array(alone)}


@recipe
def stream(m):
    """The sentence on the residual stream, layer by layer, and the loss on PARAGRAPH with two weights exchanged.

    rms (layers + 1, N): the root mean square of each token's row before each layer and after the last.
    """
    ids, paragraph = m.tokenizer.encode(SENTENCE), np.array(m.tokenizer.encode(PARAGRAPH))
    x, rms = m.embed(ids), []
    for layer in range(m.config.layers):
        rms.append(np.sqrt((x * x).mean(-1)))
        x = m.block(layer, x, np.arange(len(ids)))
    rms.append(np.sqrt((x * x).mean(-1)))
    exchanged = copy.copy(m)
    exchanged.layers = [{**w, "w_gate": w["w_up"], "w_up": w["w_gate"]} for w in m.layers]
    runs, prompt = {"right": m, "gate and up exchanged": exchanged}, m.tokenizer.encode("The capital of France is")
    return {
        "tokens": _labels(m, ids), "rms": np.array(rms), "names": list(runs),
        "losses": np.array([losses_of(run, paragraph).mean() for run in runs.values()]),
        "guess": [m.tokenizer.decode([int(run.forward(prompt)[-1].argmax())]) for run in runs.values()],
    }


@recipe
def without_softmax(m):
    """The loss on PARAGRAPH with linear attention, or with the mean of all values so far, in some layers; untrained.

    alone, last (2, ...): linear and mean, in one layer of `layers`, and in the last `counts` layers. keys (2, H): how many
    keys the last token looks at in layer 13, exp of the entropy of its row, by softmax and by linear attention.
    """
    from minattn import attention_weights, implied_weights, linear_attention

    ids, prompt = np.array(m.tokenizer.encode(PARAGRAPH)), m.tokenizer.encode("The capital of France is")
    everything, positions = range(m.config.layers), np.arange(len(ids))
    replaced = {"linear attention": linear, "mean of all values so far": averaged}
    layers, counts = np.array([0, 10, 20]), np.array([5, 10, 20])
    entered = [m.embed(ids)]                                          # what goes into each layer
    for layer in everything:
        entered.append(m.block(layer, entered[-1], positions))

    def loss(fn, some):
        """With fn in some layers; those below the first of them stay as they are."""
        changed, x = m.with_attention(dict.fromkeys(some, fn)), entered[some[0]]
        for layer in everything[some[0]:]:
            x = changed.block(layer, x, positions)
        return losses_of(changed, ids, changed.logits(x)).mean()

    q, k, v = m.attention_inputs(13, entered[13], positions)
    rows = np.stack([attention_weights(q, k, causal=True, rows=-1), implied_weights(linear_attention, q, k, v)[:, -1]])
    trained = losses_of(m, ids, m.logits(entered[-1])).mean()
    guesses = [run.forward(prompt)[-1].argmax() for run in (m, *map(m.with_attention, replaced.values()))]
    return {
        "names": ["as trained", *replaced], "guess": [m.tokenizer.decode([int(guess)]) for guess in guesses],
        "losses": np.array([trained, *(loss(fn, everything) for fn in replaced.values())]),
        "layers": layers, "alone": np.array([[loss(fn, [int(n)]) for n in layers] for fn in replaced.values()]),
        "counts": counts, "last": np.array([[loss(fn, everything[-n:]) for n in counts] for fn in replaced.values()]),
        "keys": np.exp(-(rows * np.log(rows, where=rows > 0, out=np.zeros_like(rows))).sum(-1)),
    }


@recipe
def low_rank(m):
    """On PARAGRAPH: every map's singular values (layers, H, N), and its median z = |x + y|^2 over the pairs (layers, H).

    x and y are query and key times D^(-1/4). q, k, v (3, N, D) of layer 13, one query head for each KV head. losses (3, 2): in
    all layers, in layer 0 and in layer 13 attention is the mean of all values so far, or a Performer of 64 features; untrained.
    """
    from minattn import performer_attention, repeat_kv, swap_costs

    def performer(q, k, v, **options):
        return performer_attention(q, k, v, features=64, seed=0, causal=True)

    ids = np.array(m.tokenizer.encode(PARAGRAPH))
    x, positions, z, values, found = m.embed(ids), np.arange(len(ids)), [], [], {}
    for layer in range(m.config.layers):
        q, k, v = m.attention_inputs(layer, x, positions)
        a, b = q / q.shape[-1] ** 0.25, repeat_kv(k, len(q) // len(k)) / q.shape[-1] ** 0.25
        apart = (a * a).sum(-1)[..., None] + (b * b).sum(-1)[:, None] + 2 * a @ b.swapaxes(-1, -2)
        z.append(np.median(apart[:, positions[:, None] >= positions], axis=-1))
        if layer == 13:
            found = {"q": q[::3], "k": k, "v": v}
        x, weights = m.block(layer, x, positions, return_weights=True)
        values.append(np.linalg.svd(weights, compute_uv=False))
    swaps = {"mean": averaged, "performer": performer}
    own, *costs = swap_costs(m, ids, swaps, layers=[0, 13])
    losses = {(cost.name, cost.layer): cost.loss for cost in costs}
    return {**found, "values": np.array(values), "z": np.array(z), "loss": np.array(own.loss),
            "losses": np.array([[losses[name, layer] for name in swaps] for layer in (None, 0, 13)])}


@recipe
def patterns(m):
    """Perplexity on the first 64 tokens of PARAGRAPH when all layers attend by a sparse pattern instead; untrained.

    keys: how many a query sees, the mean over the queries.
    """
    from minattn import masks, swap_costs, topk_attention

    ids, past, first = np.array(m.tokenizer.encode(PARAGRAPH))[:64], masks.causal(), masks.first(1)
    tried = {
        "last(16)": masks.last(16), "last(15) | first(1)": masks.last(15) | first,
        "strided(8)": masks.strided(8), "strided(8) | first(1)": masks.strided(8) | first,
        "fixed(8)": masks.fixed(8), "fixed(8) | first(1)": masks.fixed(8) | first,
        "dilated(30, 1)": masks.dilated(30, 1), "dilated(30, 1) | first(1)": masks.dilated(30, 1) | first,
    }
    kept = (16, 4)
    swaps = tried | {f"top {keep}": functools.partial(topk_attention, keep=keep) for keep in kept}
    seen = [(mask & past).dense(64, 64).sum(-1) for mask in (past, *tried.values())]
    seen += [np.minimum(np.arange(64) + 1, keep) for keep in kept]
    return {"names": ["as trained", *swaps], "perplexity": np.array([cost.perplexity for cost in swap_costs(m, ids, swaps)]),
            "keys": np.array([row.mean() for row in seen])}


@recipe
def few_bits(m):
    """The loss on PARAGRAPH when keys and values are kept in 32, 8 and 4 bits; groups of 32 tokens, the rest waits."""
    from minattn import KVCache, QuantizedCache, token_losses
    from minattn.models.llama_cache import LlamaCache

    ids, c = m.tokenizer.encode(PARAGRAPH), m.config
    made = {32: KVCache} | {bits: functools.partial(QuantizedCache, bits=bits) for bits in (8, 4)}
    caches = [LlamaCache(make(1, c.kv_heads, len(ids), c.head_dim) for _ in range(c.layers)) for make in made.values()]
    return {"bits": np.array(list(made)), "tokens": np.array(len(ids)),
            "losses": np.array([token_losses(m, ids, cache=cache).mean() for cache in caches])}


@recipe
def streaming(m):
    """The first 160 tokens of long_text with 64 keys for each query, losses (4, N - 1): dense, window, window with four first
    tokens, and the same with keys that are rotated once. And the first 64 tokens of PARAGRAPH with gaps behind the first four:
    mean loss, mean weight on the first tokens.
    """
    from minattn import streaming_losses, token_losses

    window, first = 64, 4
    with np.load(MAPS / "long_text.npz") as stored:
        ids = stored["ids"][:160].astype(np.int64)
    losses = streaming_losses(m, ids, window=window, first=first)
    wrong = functools.partial(rotated_once, window=window - first, first=first, rope=m.rope)
    losses["keys rotated once"] = token_losses(m.with_attention(wrong), ids)
    gaps, paragraph = np.array([0, 1000, 8000, 16000, 32000]), np.array(m.tokenizer.encode(PARAGRAPH))[:64]
    return {"names": list(losses), "losses": np.array(list(losses.values())),
            "gaps": gaps, "behind": np.array([behind_a_gap(m, paragraph, gap) for gap in gaps])}


@long_recipe
def long_text(m, ids=None):
    """The loss of every token of a text twice as long as SmolLM2 was trained on: dense, window, window with first tokens.

    ids (16384,): sections of the lessons as they stood when this was measured, in random order; or the `ids` given. Both
    windows show a query 256 keys. losses (3, N - 1); seconds: what all three took.
    """
    from minattn import streaming_losses

    ids = _prose(m)[:2 * m.config.context] if ids is None else np.asarray(ids)
    window, first = 256, 4
    start = time.perf_counter()
    losses = streaming_losses(m, ids, window=window, first=first)
    return {"ids": ids.astype(np.uint16), "names": list(losses), "losses": np.array(list(losses.values())),
            "window": np.array(window), "first": np.array(first), "seconds": np.array(time.perf_counter() - start)}


def store(*names):
    """Run every recipe on the real weights, or the named ones, and write maps/NAME.npz; prints the sizes."""
    m = model()
    if m is None:
        sys.exit(1)
    MAPS.mkdir(exist_ok=True)
    known = RECIPES | LONG
    for name, make in [(name, known[name]) for name in names] or RECIPES.items():
        target, part = MAPS / f"{name}.npz", MAPS / "part.npz"
        np.savez_compressed(part, **{key: _narrow(value) for key, value in make(m).items()})
        os.replace(part, target)
        print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB")


def _prose(m):
    """Tokens of the lessons' sections, in random order: so no part of the text is harder than another for long."""
    sections = []
    for path in sorted(MAPS.parent.glob("[0-9][0-9]_*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        sections += text.split("## Exercises")[0].split("\n## ")[1:]
    order = np.random.default_rng(0).permutation(len(sections))
    return np.array(m.tokenizer.encode("\n\n".join(sections[n] for n in order)))


def _labels(m, ids):
    return [m.tokenizer.decode([int(i)]) for i in ids]


def _narrow(value):
    value = np.asarray(value)
    return value.astype(np.float16) if value.dtype.kind == "f" else value


if __name__ == "__main__":
    store(*sys.argv[1:])
