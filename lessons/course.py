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
import functools
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

SENTENCE = "The cat sat on the mat because it was tired"

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
        return SimpleNamespace(**{key: _widen(stored[key]) for key in stored})


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
    once = np.random.default_rng(0).integers(100, len(m.tokenizer), 64)
    ids = np.tile(once, 2)
    heads = np.array([(16, 0), (17, 3), (17, 4), (17, 5), (18, 6), (18, 7)])
    weights = m.forward(ids, return_weights=True)[1]
    return {"tokens": _labels(m, ids), "heads": heads, "weights": weights[heads[:, 0], heads[:, 1]]}


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
