"""What every lesson shares: one sentence, one set of small numbers, and the way to a real model.

**Small numbers.** `TOKENS` are four tokens, `X` their vectors, `W_Q`, `W_K`, `W_V`, `W_O` the four projections: two
decimals, so that a pocket calculator can follow. Nobody trained them. They were chosen so that no two of them are
equal, none is 0 or 1, and 'sat' looks most at 'cat'. `CONTEXT` is the same sentence in German, five tokens long.

    N  4 tokens      S  5 tokens of CONTEXT      E  4 numbers a token
    H  2 heads of    D  2 numbers each, or one head with D = 4

**The real thing.** `model()` is SmolLM2, a language model of 135 million parameters that runs in plain NumPy. Its
weights (93 MB to fetch) are fetched once. Without them and without a network it is None, and `real(name)` reads from
the folder maps/ what the model gave on another day, in half precision: the lessons work, and say which one they use.
Each entry of maps/ is made by the function of the same name at the end of this file; `python course.py --store` runs
them all again.
"""
import copy
import dataclasses
import functools
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

SENTENCE = "The cat sat on the mat because it was tired"
TWO_SENTENCES = "The cat sat on the mat. Then it sat on the warm chair."
PARAGRAPH = (
    "The lighthouse keeper climbed the stairs every evening before the sun went down. He carried a can of oil in one hand "
    "and a cloth in the other, because the glass had to be clean before the lamp was lit. From the top he could see the "
    "harbour, the fishing boats that were coming home, and the long line of rocks that had sunk so many ships in his "
    "grandfather's time. When the lamp was burning he sat down, poured himself a cup of tea and wrote in his book how the "
    "wind stood and which boats had passed. Nobody had ever asked to read it, but he wrote in it every night all the same."
)

TOKENS = ["the", "cat", "sat", "down"]
X = np.array([                                                        # (N, E)
    [-0.48,  0.29,  1.22,  1.25],                                     # the
    [ 0.14, -0.76, -0.86,  0.88],                                     # cat
    [-0.57,  0.45, -1.09,  0.54],                                     # sat
    [-0.09, -0.12, -1.26, -0.71],                                     # down
])
W_Q = np.array([                                                      # (E, H * D)
    [-0.99,  0.43, -0.81, -0.97],
    [-1.11,  0.87, -0.36,  0.24],
    [ 1.04,  0.69,  0.34, -0.22],
    [-0.83,  0.98, -0.91, -1.08],
])
W_K = np.array([                                                      # (E, H * D)
    [-1.13,  0.28,  0.82, -0.56],
    [ 0.63, -0.59, -0.21,  0.58],
    [ 0.51,  0.17,  0.75, -1.01],
    [-0.79,  0.19, -1.33,  0.66],
])
W_V = np.array([                                                      # (E, H * D)
    [-0.52, -0.46, -0.61, -0.96],
    [-0.84,  1.23,  1.24,  1.18],
    [ 0.39,  0.49,  0.78,  0.94],
    [-0.44,  0.07,  0.31,  1.17],
])
W_O = np.array([                                                      # (H * D, E)
    [ 0.33,  0.77,  0.35,  0.41],
    [-0.47,  0.06, -0.64,  0.67],
    [-0.25,  0.53,  0.72, -0.15],
    [-0.27,  0.11,  0.16,  0.85],
])

CONTEXT_TOKENS = ["die", "Katze", "setzte", "sich", "hin"]
CONTEXT = np.array([                                                  # (S, E)
    [ 1.07, -1.35,  1.36, -1.38],                                     # die
    [ 1.31, -0.14,  1.34,  1.16],                                     # Katze
    [-1.33, -0.83, -1.37,  0.82],                                     # setzte
    [-1.26, -0.52, -1.15,  0.71],                                     # sich
    [-1.28,  1.32, -1.39, -0.13],                                     # hin
])

MAPS = Path(__file__).resolve().parent / "maps"
_RECIPES = {}


@functools.cache
def model():
    """SmolLM2, or None where its weights are not here and cannot be fetched (or MINATTN_STORED_MAPS=1 forbids it)."""
    if os.environ.get("MINATTN_STORED_MAPS"):
        print("MINATTN_STORED_MAPS is set: this lesson reads the stored maps in lessons/maps.")
        return None
    from minattn import MinattnError, models

    try:
        return models.load("smollm2")
    except MinattnError as error:
        os.environ["MINATTN_STORED_MAPS"] = "1"                       # what this kernel starts need not try again
        print(f"SmolLM2 is not here ({error}).\nThis lesson reads the stored maps in lessons/maps; "
              "`minattn fetch smollm2` brings the model, then restart the kernel.")
        return None


def real(name):
    """What SmolLM2 gives for `name`: computed now where the model is here, else read from maps/NAME.npz.

    Returns a namespace: `real("cat").tokens`, a list of str, and `real("cat").weights`, an array. Stored numbers have
    three digits.
    """
    if name not in _RECIPES:
        raise KeyError(f"no recipe called {name!r}; there are {', '.join(_RECIPES)}")
    if model() is not None:
        return SimpleNamespace(**_RECIPES[name](model()))
    with np.load(MAPS / f"{name}.npz", allow_pickle=False) as stored:
        found = {key: _widen(stored[key]) for key in stored}
    if "weights" in found:                                            # rounding must not leave a row above 1
        found["weights"] /= np.maximum(1, found["weights"].sum(axis=-1, keepdims=True))
    return SimpleNamespace(**found)


def maps(name):
    """The tokens (a list of str) and the attention weights of `real(name)`: for "cat" (layers, H, N, S)."""
    found = real(name)
    return found.tokens, found.weights


def seconds(run, repeats=3):
    """The least time that `run()` took in a few runs: what else the machine does can only lengthen the others."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def recipe(function):
    """Register `function(model) -> dict of arrays` under its name, for `real` and for `--store`."""
    _RECIPES[function.__name__] = function
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


def entering(m, ids, layer):
    """What goes into one layer, (N, E): the embeddings after the layers below it."""
    x, positions = m.embed(ids), np.arange(len(ids))
    for below in range(layer):
        x = m.block(below, x, positions)
    return x


def twice(m):
    """64 random tokens, and the same again: (128,)."""
    return np.tile(np.random.default_rng(0).integers(100, len(m.tokenizer), 64), 2)


def losses_of(m, ids):
    """-log p of each token after the first, given those before it: (N - 1,)."""
    from minattn import logsumexp

    logits = m.forward(ids)[:-1]
    return logsumexp(logits) - logits[np.arange(len(ids) - 1), ids[1:]]


def silence(m, heads):
    """The model with the output of some heads, pairs (layer, head), replaced by zeros."""
    from minattn import attention

    def without(silent):
        def fn(q, k, v, **options):
            out = attention(q, k, v, **options)                       # (..., H, N, D)
            out[..., silent, :, :] = 0
            return out
        return fn

    return m.with_attention({layer: without([h for at, h in heads if at == layer]) for layer, _ in heads})


def turned(m, layout, *, reorder=False, scaling=None):
    """The model with RoPE of another layout or scaling; `reorder` also puts the columns of W_Q and W_K in half order."""
    from minattn import positions

    c, new = m.config, copy.copy(m)
    new.config = dataclasses.replace(c, rope_layout=layout, rope_scaling=scaling)
    if reorder:
        new.layers = [{**w, "w_q": positions.change_layout(w["w_q"], c.heads, to="half"),
                       "w_k": positions.change_layout(w["w_k"], c.kv_heads, to="half")} for w in m.layers]
    return new


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


def pooled(q, k, v, **options):
    """Attention in which all query heads share one KV head: the mean of those that there are."""
    from minattn import attention

    return attention(q, k.mean(axis=-3, keepdims=True), v.mean(axis=-3, keepdims=True), **options)


def tiled(q, k, v, **options):
    """The classic mistake: KV heads in the order 0 1 2 0 1 2 where 0 0 1 1 2 2 is meant."""
    from minattn import attention

    groups = q.shape[-3] // k.shape[-3]
    return attention(q, np.concatenate([k] * groups, axis=-3), np.concatenate([v] * groups, axis=-3), **options)


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


def store():
    """Run every recipe on the real weights and write maps/NAME.npz; prints the sizes."""
    m = model()
    if m is None:
        sys.exit(1)
    MAPS.mkdir(exist_ok=True)
    for name, make in _RECIPES.items():
        target, part = MAPS / f"{name}.npz", MAPS / "part.npz"
        np.savez_compressed(part, **{key: _narrow(value) for key, value in make(m).items()})
        os.replace(part, target)
        print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB")


def _labels(m, ids):
    return [m.tokenizer.decode([int(i)]) for i in ids]


def _narrow(value):
    value = np.asarray(value)
    return value.astype(np.float16) if value.dtype.kind == "f" else value


def _widen(value):
    if value.dtype.kind == "U":
        return value.tolist()
    return value.astype(np.float32) if value.dtype.kind == "f" else value


if __name__ == "__main__":
    if sys.argv[1:] != ["--store"]:
        sys.exit("usage: python course.py --store        (writes maps/ from the real weights)")
    store()
