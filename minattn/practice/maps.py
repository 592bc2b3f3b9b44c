"""Reading attention maps: who looks where, what is handed over, and which head does it.

    w (N, S)             one map: a row for each query, a column for each key; every row sums to 1
    maps (L, H, N, S)    the maps of L layers of H heads
"""
import numpy as np

from ..core.softmax import softmax
from .exercise import Exercise, Wrong


def _map(rng, *shape):
    return softmax(1.5 * rng.standard_normal(shape))


looks_at = Exercise(
    name="looks_at", signature="looks_at(w, n)", lesson="00", outputs=["s"],
    inputs=lambda rng: [(_map(rng, rows, keys), n) for rows, keys, n in [(4, 6, 2), (7, 5, 3), (5, 9, 1), (6, 7, 4)]],
    reference=lambda w, n: w[n].argmax(),
    wrong=[
        Wrong("the column instead of the row", lambda w, n: w[:, n].argmax(),
              "Queries go down and keys across: is a query a row of w?"),
        Wrong("the weight instead of its place", lambda w, n: w[n].max(), "Is a number below 1 an index?"),
        Wrong("the least weight", lambda w, n: w[n].argmin(), "Print w[n]: is the entry found a large one?"),
        Wrong("the largest of the whole map", lambda w, n: w.argmax() % w.shape[1], "Does the answer change with n?"),
        Wrong("counted from 1", lambda w, n: w[n].argmax() + 1, "Which index does the first key have?"),
    ],
)  # fmt: skip


mix = Exercise(
    name="mix", signature="mix(weights, values)", lesson="00", outputs=["mixed (Dv)"],
    inputs=lambda rng: [(_map(rng, s), rng.standard_normal((s, dv))) for s, dv in [(5, 3), (4, 7), (3, 3)]],
    reference=lambda weights, values: weights @ values,
    wrong=[
        Wrong("every value counts the same", lambda weights, values: values.mean(axis=0),
              "Which of the two arguments is not used?"),
        Wrong("the best value alone", lambda weights, values: values[weights.argmax()].copy(),
              "What happens to a key whose weight is a little below the largest?"),
        Wrong("divided by the number of keys as well", lambda weights, values: weights @ values / len(values),
              "What do the weights sum to before any division?"),
        Wrong("the weights are left out", lambda weights, values: values.sum(axis=0),
              "Which of the two arguments is not used?"),
        Wrong("weighted and not summed", lambda weights, values: weights[:, None] * values,
              "How many vectors come out, and how many are wanted?"),
        Wrong("summed over the wrong axis", lambda weights, values: (weights[:, None] * values).sum(axis=1),
              "How long is the answer: as many numbers as there are keys, or as a value has?"),
    ],
)  # fmt: skip


def _pair(values):
    return tuple(int(i) for i in np.unravel_index(values.argmax(), values.shape))


strongest = Exercise(
    name="strongest", signature="strongest(maps, n, s)", lesson="00", outputs=["layer", "head"],
    inputs=lambda rng: [(_map(rng, 5, 4, 6, 7), n, s) for n, s in [(4, 1), (2, 5), (5, 3), (1, 0)]],
    reference=lambda maps, n, s: _pair(maps[:, :, n, s]),
    wrong=[
        Wrong("head before layer", lambda maps, n, s: _pair(maps[:, :, n, s])[::-1], "Which axis of maps is the layer?"),
        Wrong("query and key exchanged", lambda maps, n, s: _pair(maps[:, :, s, n]),
              "Queries go down, keys across: which index comes first?"),
        Wrong("the largest weight on any key", lambda maps, n, s: _pair(maps[:, :, n].max(axis=-1)),
              "Does the answer change with s?"),
        Wrong("the largest weight of any query", lambda maps, n, s: _pair(maps[..., s].max(axis=-1)),
              "Does the answer change with n?"),
        Wrong("the least weight", lambda maps, n, s: _pair(-maps[:, :, n, s]),
              "Print maps[layer, head, n, s] for the head found: is it large?"),
    ],
)  # fmt: skip


def _along(maps, offset, rows=None):
    """Mean weight on the key `offset` places from each query."""
    found = np.diagonal(maps, offset, axis1=-2, axis2=-1)
    return found.sum(axis=-1) / (found.shape[-1] if rows is None else rows)


previous_token = Exercise(
    name="previous_token", signature="previous_token(maps)", lesson="00", outputs=["mean (L, H)"],
    inputs=lambda rng: [(_map(rng, layers, heads, n, n),) for layers, heads, n in [(2, 3, 7), (4, 1, 5), (3, 5, 4)]],
    reference=lambda maps: _along(maps, -1),
    wrong=[
        Wrong("each token on itself", lambda maps: _along(maps, 0), "In row n, which column is the token before it?"),
        Wrong("the token that follows", lambda maps: _along(maps, 1), "In row n, which column is the token before it?"),
        Wrong("divided by N", lambda maps: _along(maps, -1, maps.shape[-1]),
              "How many of the N queries have a token before them?"),
        Wrong("summed, no mean", lambda maps: _along(maps, -1, 1), "Can a mean of weights be above 1?"),
        Wrong("first token taken for the last", lambda maps: np.roll(maps, 1, axis=-1).diagonal(axis1=-2, axis2=-1).mean(axis=-1),
              "The first token has none before it. What does the index n - 1 read for n = 0?"),
        Wrong("two tokens before", lambda maps: _along(maps, -2), "How far is the token before?"),
    ],
)  # fmt: skip
