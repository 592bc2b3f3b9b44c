"""Grouped heads: which KV head a query head reads, attention with fewer KV heads than query heads, and what they save.

    q (H, N, D)   k (G, S, D)   v (G, S, Dv)   may (N, S)      query head h reads KV head h // (H // G)

Shazeer 2019, arXiv:1911.02150, section 3; Ainslie et al. 2023, arXiv:2305.13245, section 2.
"""
import numpy as np

from ..attention import attention
from .exercise import Exercise, Wrong

# --- who reads whom -----------------------------------------------------------------------------------------------

_GROUPS = "Heads 0 and 1 are neighbours in one group where a group has two or more. Do yours read the same KV head?"
kv_head_of = Exercise(
    name="kv_head_of", signature="kv_head_of(H, G)", lesson="08", outputs=["kv head (H)"],
    inputs=lambda rng: [(8, 2), (9, 3), (6, 1), (5, 5), (12, 4)], reference=lambda H, G: np.repeat(np.arange(G), H // G),
    wrong=[
        Wrong("tile, not repeat", lambda H, G: np.arange(H) % G, _GROUPS),
        Wrong("the place inside the group", lambda H, G: np.arange(H) % (H // G),
              "Is your answer a number of a KV head, or that of a query head inside its group?"),
        Wrong("divided by the number of KV heads", lambda H, G: np.arange(H) // G,
              "How many query heads share a KV head: is it G?"),
        Wrong("first KV head for all", lambda H, G: np.zeros(H, dtype=int), "Which KV heads does nobody read?"),
        Wrong("every head its own", lambda H, G: np.arange(H), "How many KV heads are there?"),
        Wrong("last KV head first", lambda H, G: np.repeat(np.arange(G)[::-1], H // G), "Which KV head does head 0 read?"),
        Wrong("not whole numbers", lambda H, G: np.arange(H) / (H // G), "Which part of the quotient is the KV head?"),
        Wrong("rounded to the nearest", lambda H, G: np.round(np.arange(H) / (H // G)).astype(int),
              "How many query heads read KV head 0 in your answer?"),
    ],
)  # fmt: skip

# --- bytes --------------------------------------------------------------------------------------------------------


def _bytes(count):
    return lambda layers, heads, kv_heads, head_dim, length, itemsize: count(layers, heads, kv_heads, head_dim, length, itemsize)


kv_bytes = Exercise(
    name="kv_bytes", signature="kv_bytes(layers, heads, kv_heads, head_dim, length, itemsize)", lesson="08", outputs=["bytes"],
    inputs=lambda rng: [(32, 32, 8, 128, 1_500, 2), (30, 9, 3, 64, 700, 4), (5, 12, 1, 24, 33, 2)],
    reference=_bytes(lambda L, H, G, D, length, size: 2 * L * G * D * length * size),
    wrong=[
        Wrong("query heads counted", _bytes(lambda L, H, G, D, length, size: 2 * L * H * D * length * size),
              "What is stored: queries, or keys and values?"),
        Wrong("values not counted", _bytes(lambda L, H, G, D, length, size: L * G * D * length * size),
              "What is kept of a token beside its key?"),
        Wrong("queries kept too", _bytes(lambda L, H, G, D, length, size: L * (2 * G + H) * D * length * size),
              "Does a later token look at an earlier query?"),
        Wrong("the size of a group for their number",
              _bytes(lambda L, H, G, D, length, size: 2 * L * (H // G) * D * length * size),
              "With one KV head, is the cache the smallest or the largest?"),
        Wrong("one layer", _bytes(lambda L, H, G, D, length, size: 2 * G * D * length * size), "Which argument is not used?"),
        Wrong("one token", _bytes(lambda L, H, G, D, length, size: 2 * L * G * D * size), "Which argument is not used?"),
        Wrong("numbers, not bytes", _bytes(lambda L, H, G, D, length, size: 2 * L * G * D * length),
              "Which argument is not used?"),
        Wrong("bits", _bytes(lambda L, H, G, D, length, size: 16 * L * G * D * length * size), "itemsize is in bytes."),
        Wrong("maps counted", _bytes(lambda L, H, G, D, length, size: L * size * length * (2 * G * D + H * length)),
              "Are the weights of an earlier query needed again?"),
    ],
)  # fmt: skip

# --- attention ----------------------------------------------------------------------------------------------------


def _heads(rng):
    """Groups of several sizes, causal and drawn masks in which every query sees a key."""
    cases = []
    for H, G, N, S, D, Dv in [(6, 2, 3, 5, 4, 3), (12, 3, 4, 4, 3, 5), (6, 3, 2, 7, 5, 2), (8, 2, 5, 6, 2, 4)]:
        q, k, v = rng.standard_normal((H, N, D)), rng.standard_normal((G, S, D)), rng.standard_normal((G, S, Dv))
        cases.append((q, k, v, np.tri(N, S, S - N, dtype=bool)))
    cases[2] = (*cases[2][:3], np.array([[1, 0, 1, 1, 0, 0, 1], [0, 1, 1, 0, 1, 1, 0]]) == 1)
    return cases


def _repeat(x, H):
    return np.repeat(x, H // len(x), axis=0)


def _attend(keys=_repeat, values=None, queries=lambda q, G: q, scale=None, mask=True):
    """Attention with KV heads brought to H in another way, or another scale, or no mask."""

    def fn(q, k, v, may):
        H, q = len(q), queries(q, len(k))
        many_k, many_v = keys(k, H), (values or keys)(v, H)
        return attention(q, many_k, many_v, mask=may if mask else None, scale=scale and scale(q, k))

    return fn


def _tile(x, H):
    return np.tile(x, (H // len(x), 1, 1))


def _pooled(x, H):
    return np.repeat(x.mean(axis=0, keepdims=True), H, axis=0)


def _first(x, H):
    return np.repeat(x[:1], H, axis=0)


def _cycled(x, H):
    """x[h % (H // G)], where there is one."""
    return x[np.arange(H) % (H // len(x)) % len(x)]


def _divided(x, H):
    """x[h // G], the last one where there is none."""
    return x[np.minimum(np.arange(H) // len(x), len(x) - 1)]


def _mean_query(q, G):
    H, N, D = q.shape
    return np.repeat(q.reshape(G, H // G, N, D).mean(axis=1), H // G, axis=0)


def _rows_exchanged(q, k, v, may):
    """A group's heads become rows; on the way back rows are taken for heads."""
    (H, N, _), G = q.shape, len(k)
    return _attend()(q, k, v, may).reshape(G, H // G, N, -1).swapaxes(1, 2).reshape(H, N, -1)


def _summed(q, k, v, may):
    """One output for each KV head, once for every head of its group."""
    out = _attend()(q, k, v, may)
    return np.repeat(out.reshape(len(k), -1, *out.shape[1:]).mean(axis=1), len(q) // len(k), axis=0)


_READS = "Print, for each query head, which KV head it reads. Do the first H/G heads read the same one?"
grouped_heads = Exercise(
    name="grouped_heads", signature="grouped_heads(q, k, v, may)", lesson="08", inputs=_heads, reference=_attend(),
    outputs=["out (H, N, Dv)"],
    wrong=[
        Wrong("tile instead of repeat", _attend(_tile), _READS),
        Wrong("keys tiled, values repeated", _attend(_tile, _repeat), _READS),
        Wrong("keys repeated, values tiled", _attend(_repeat, _tile), _READS),
        Wrong("the place inside the group for the KV head", _attend(_cycled), _READS),
        Wrong("divided by G instead of H/G", _attend(_divided), _READS),
        Wrong("KV heads averaged", _attend(_pooled), "Change k[1] alone: should the output of head 0 change?"),
        Wrong("first KV head for all", _attend(_first), "Change k[1]: should any output change?"),
        Wrong("queries of a group averaged", _attend(queries=_mean_query),
              "Heads of a group share keys. Do they share their questions too?"),
        Wrong("outputs of a group averaged", _summed, "How many different outputs does a group of three heads have?"),
        Wrong("heads and rows exchanged on the way back", _rows_exchanged,
              "You made heads into rows. In which order do they lie after the product, and in which should they?"),
        Wrong("no scale", _attend(scale=lambda q, k: 1.0), "Divide your scores by those of ma.attention: which factor is it?"),
        Wrong("scaled by the width of a group", _attend(scale=lambda q, k: (q.shape[2] * len(q) // len(k)) ** -0.5),
              "A score is a sum of how many products?"),
        Wrong("no mask", _attend(mask=False), "Which argument is not used?"),
        Wrong("mask inverted", lambda q, k, v, may: _attend()(q, k, v, ~may), "True = may attend."),
    ],
)  # fmt: skip

# --- from many KV heads to fewer ----------------------------------------------------------------------------------


def _weights(rng):
    sizes = [(5, 6, 4, 2), (7, 6, 5, 3), (3, 12, 4, 3), (4, 4, 3, 1)]
    return [(rng.standard_normal((E, G * D)), G, new) for E, G, D, new in sizes]


def _pool(members=lambda w, G, new: w.reshape(len(w), new, G // new, -1, w.shape[1] // G).mean(axis=2)):
    """members(w, G, new) gives (E, new, ..., D); flattened to (E, new * D)."""
    return lambda w, G, new: np.ascontiguousarray(members(w, G, new)).reshape(len(w), -1)


def _cut(w, G, new):
    """(E, new, G / new, D)"""
    return w.reshape(len(w), new, G // new, w.shape[1] // G)


pool_heads = Exercise(
    name="pool_heads", signature="pool_heads(w, G, new)", lesson="08", inputs=_weights, reference=_pool(),
    outputs=["w (E, new * D)"],
    wrong=[
        Wrong("summed, not averaged", _pool(lambda w, G, new: _cut(w, G, new).sum(axis=2)),
              "Where the heads of a group are equal, what should the new head be?"),
        Wrong("the first head of each group", _pool(lambda w, G, new: _cut(w, G, new)[:, :, 0]),
              "Change a weight of the second head: should anything change?"),
        Wrong("every new-th head in a group", _pool(lambda w, G, new: w.reshape(len(w), G // new, new, -1).mean(axis=1)),
              "Which heads are neighbours: 0 and 1, or 0 and `new`? Which query heads read the new head 0?"),
        Wrong("neighbouring columns averaged",
              _pool(lambda w, G, new: w.reshape(len(w), -1, G // new).mean(axis=2)),
              "Column 0 of a head and column 1 of the same head: may they be mixed?"),
        Wrong("the first heads kept", _pool(lambda w, G, new: w.reshape(len(w), G, -1)[:, :new]),
              "Change a weight of the last head: should anything change?"),
        Wrong("the mean of all heads, several times", _pool(lambda w, G, new: np.repeat(
            w.reshape(len(w), 1, G, -1).mean(axis=2), new, axis=1)), "Are the new heads different from each other?"),
        Wrong("every G-th column taken for a head",
              _pool(lambda w, G, new: w.reshape(len(w), -1, new, G // new).mean(axis=3).swapaxes(1, 2)),
              "Which columns belong to head 0: the first D, or every G-th?"),
    ],
)  # fmt: skip
