"""What every lesson shares: one sentence, one set of small numbers, and the way to a real model.

**Small numbers.** `TOKENS` are four tokens, `X` their vectors, `W_Q`, `W_K`, `W_V`, `W_O` the four projections: two
decimals, so that a pocket calculator can follow. Nobody trained them. They were chosen so that no two of them are
equal, none is 0 or 1, and 'sat' looks most at 'cat'. `CONTEXT` is the same sentence in German, five tokens long.

    N  4 tokens      S  5 tokens of CONTEXT      E  4 numbers a token
    H  2 heads of    D  2 numbers each, or one head with D = 4

**The real thing.** `model()` is SmolLM2, a language model of 135 million parameters that runs in plain NumPy. Its
weights (93 MB to fetch, 98 MB on disk) are fetched once. Without them and without a network it is None, and
`real(name)` reads from the folder maps/ what the model gave on another day, in half precision: the lessons work, and
say which one they use.
Each entry of maps/ is made by the function of the same name in recipes.py.

**Experiments.** The functions at the end change the model, or say how well it predicts, for more than one lesson.
"""
import copy
import dataclasses
import functools
import os
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
    """What SmolLM2 gives for `name`: computed now where the model is here, else (and where it takes minutes) from maps/NAME.npz.

    Returns a namespace: `real("cat").tokens`, a list of str, and `real("cat").weights`, an array. Stored numbers have
    three digits.
    """
    from recipes import LONG, RECIPES

    if name not in RECIPES | LONG:
        raise KeyError(f"no recipe called {name!r}; there are {', '.join(RECIPES | LONG)}")
    if name in RECIPES and model() is not None:
        return SimpleNamespace(**RECIPES[name](model()))
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


def _widen(value):
    if value.dtype.kind == "U":
        return value.tolist()
    return value.astype(np.float32) if value.dtype.kind == "f" else value


def entering(m, ids, layer):
    """What goes into one layer, (N, E): the embeddings after the layers below it."""
    x, positions = m.embed(ids), np.arange(len(ids))
    for below in range(layer):
        x = m.block(below, x, positions)
    return x


def twice(m):
    """64 random tokens, and the same again: (128,)."""
    return np.tile(np.random.default_rng(0).integers(100, len(m.tokenizer), 64), 2)


def losses_of(m, ids, logits=None):
    """-log p of each token after the first, given those before it: (N - 1,). `logits` where they are here already."""
    from minattn import logsumexp

    logits = (m.forward(ids) if logits is None else logits)[:-1]
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


def pooled(q, k, v, **options):
    """Attention in which all query heads share one KV head: the mean of those that there are."""
    from minattn import attention

    return attention(q, k.mean(axis=-3, keepdims=True), v.mean(axis=-3, keepdims=True), **options)


def tiled(q, k, v, **options):
    """The classic mistake: KV heads in the order 0 1 2 0 1 2 where 0 0 1 1 2 2 is meant."""
    from minattn import attention

    groups = q.shape[-3] // k.shape[-3]
    return attention(q, np.concatenate([k] * groups, axis=-3), np.concatenate([v] * groups, axis=-3), **options)


def rotated_once(q, k, v, *, window, first, rope, causal, q_pos, k_pos, **options):
    """Streaming as it goes wrong: each key is rotated to the place at which it came, and stays so when it moves up."""
    from minattn import attention, masks
    from minattn import rope as rotated

    last = first + window - 1                                         # the place of every token that finds the cache full
    q, k = (rotated(a, np.minimum(pos, last) - pos, **rope) for a, pos in ((q, q_pos), (k, k_pos)))
    mask = masks.last(window) | masks.first(first)
    return attention(q, k, v, mask=mask, causal=causal, q_pos=q_pos, k_pos=k_pos, **options)


def behind_a_gap(m, ids, gap, first=4):
    """Mean loss of a text whose first tokens keep their positions while all others stand `gap` further on; and the mean weight
    that these others put on the first ones.
    """
    n = np.arange(len(ids))
    x, positions, resting = m.embed(ids), np.where(n < first, n, n + gap), []
    for layer in range(m.config.layers):
        x, weights = m.block(layer, x, positions, return_weights=True)
        resting.append(weights[:, first:, :first].sum(axis=-1).mean())
    return losses_of(m, ids, m.logits(x))[first:].mean(), np.mean(resting)


def linear(q, k, v, **options):
    """Linear attention in place of a model's own: a whole text from its first token on, without a cache."""
    from minattn import linear_attention

    return linear_attention(q, k, v)


def averaged(q, k, v, **options):
    """The mean of all values so far: with queries and keys of 0, all weights of a row are alike."""
    return linear(np.zeros_like(q), np.zeros_like(k), v)
