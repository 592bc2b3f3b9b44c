"""Attention whole, and the parts that lessons 01 and 02 take it apart into.

    q (N, D)   k (S, D)   v (S, Dv)    scaled (N, S) = q k^T / sqrt(D)    weights = softmax(scaled)    out (N, Dv) = weights v

Vaswani et al. 2017, arXiv:1706.03762, eq (1).
"""
import numpy as np

from ..core.softmax import softmax
from .exercise import Exercise, Wrong

SIZES = [(3, 5, 4, 2), (6, 4, 7, 3), (2, 7, 3, 9), (5, 3, 6, 6)]                       # N, S, D, Dv


def _pairs(rng):
    return [(rng.standard_normal((n, d)), rng.standard_normal((s, d))) for n, s, d, _ in SIZES]


scaled_scores = Exercise(
    name="scaled_scores", signature="scaled_scores(q, k)", lesson="01", outputs=["scaled (N, S)"], inputs=_pairs,
    reference=lambda q, k: q @ k.T / np.sqrt(q.shape[-1]),
    wrong=[
        Wrong("no scale", lambda q, k: q @ k.T, "Divide your numbers by the expected ones: which factor is it?"),
        Wrong("scaled by D", lambda q, k: q @ k.T / q.shape[-1],
              "Divide your numbers by the expected ones: which factor is it?"),
        Wrong("multiplied by sqrt(D)", lambda q, k: q @ k.T * np.sqrt(q.shape[-1]),
              "Should long vectors make larger scores, or not?"),
        Wrong("scaled by the number of keys", lambda q, k: q @ k.T / np.sqrt(len(k)),
              "A score is a sum of how many products? Print the shape that the scale is read from."),
        Wrong("scaled by the number of queries", lambda q, k: q @ k.T / np.sqrt(len(q)),
              "A score is a sum of how many products? Print the shape that the scale is read from."),
        Wrong("keys down, queries across", lambda q, k: k @ q.T / np.sqrt(q.shape[-1]),
              "Is a query a row of the answer, or a column?"),
    ],
)  # fmt: skip


def _qkv(rng):
    cases = [(rng.standard_normal((n, d)), rng.standard_normal((s, d)), rng.standard_normal((s, dv))) for n, s, d, dv in SIZES]
    q, k, v = cases[1]
    return [*cases, (40 * q, 40 * k + 3, v)]                                          # scores beyond exp


def _stages(q, k, v):
    scores = q @ k.T
    scaled = scores / np.sqrt(q.shape[-1])
    return {"scores (N, S)": scores, "scaled (N, S)": scaled, "weights (N, S)": softmax(scaled)}


def _weights(q, k):
    return softmax(q @ k.T / np.sqrt(q.shape[-1]))


def _right(q, k, v):
    return _weights(q, k) @ v


def _scaled(scale):
    return lambda q, k, v: softmax(q @ k.T * scale(q, k)) @ v


def _weighted(weights):
    return lambda q, k, v: weights(q @ k.T / np.sqrt(q.shape[-1])) @ v


def _plain(scaled):
    powers = np.exp(scaled)
    return powers / powers.sum(axis=-1, keepdims=True)


attention = Exercise(
    name="attention", signature="attention(q, k, v)", lesson="01", outputs=["out (N, Dv)"], inputs=_qkv,
    reference=_right, stages=_stages,
    wrong=[
        Wrong("no scale", _scaled(lambda q, k: 1.0), "Compare your scores with ma.steps(q, k, v).scaled."),
        Wrong("scaled by D", _scaled(lambda q, k: 1 / q.shape[-1]), "Compare your scores with ma.steps(q, k, v).scaled."),
        Wrong("multiplied by sqrt(D)", _scaled(lambda q, k: np.sqrt(q.shape[-1])),
              "Should long vectors make larger scores, or not?"),
        Wrong("scaled by the number of keys", _scaled(lambda q, k: 1 / np.sqrt(len(k))),
              "From which shape is the scale read?"),
        Wrong("scale after the softmax", lambda q, k, v: softmax(q @ k.T) / np.sqrt(q.shape[-1]) @ v,
              "What does a row of weights sum to?"),
        Wrong("softmax over the wrong axis", _weighted(lambda s: softmax(s, axis=0)),
              "What sums to 1 in the weights: a row or a column?"),
        Wrong("softmax over all entries at once", _weighted(lambda s: softmax(s.ravel()).reshape(s.shape)),
              "What does one row of weights sum to?"),
        Wrong("no softmax", _weighted(lambda s: s), "Which sign do the weights have, and what does a row sum to?"),
        Wrong("not divided by the sum", _weighted(lambda s: np.exp(s - s.max(axis=-1, keepdims=True))),
              "What does a row of weights sum to?"),
        Wrong("no maximum subtracted", _weighted(_plain),
              "Print the powers for the input that differs. How large may a float be?"),
        Wrong("values not weighted", lambda q, k, v: np.tile(v.mean(axis=0), (len(q), 1)),
              "Why are all rows of the answer the same?"),
        Wrong("the best value alone", lambda q, k, v: v[(q @ k.T).argmax(axis=-1)],
              "What becomes of a key that fits second best?"),
        Wrong("keys averaged instead of values", lambda q, k, v: _weights(q, k) @ k,
              "Which of the three arguments is not used?"),
        Wrong("the sign turned", _weighted(lambda s: softmax(-s)),
              "Does the key with the largest score get the largest weight?"),
    ],
)  # fmt: skip


ask = Exercise(
    name="ask", signature="ask(key, length)", lesson="01", outputs=["query (D)"],
    inputs=lambda rng: [(rng.standard_normal(4), 1.5), (3 * rng.standard_normal(7), 30.0), (rng.standard_normal(3), 0.2)],
    reference=lambda key, length: key / np.linalg.norm(key) * length,
    wrong=[
        Wrong("not divided by its own length", lambda key, length: key * length, "What is np.linalg.norm of the answer?"),
        Wrong("divided by the square of its length", lambda key, length: key / (key @ key) * length,
              "What is np.linalg.norm of the answer?"),
        Wrong("divided by the largest number", lambda key, length: key / np.abs(key).max() * length,
              "What is np.linalg.norm of the answer?"),
        Wrong("divided by the sum of sizes", lambda key, length: key / np.abs(key).sum() * length,
              "What is np.linalg.norm of the answer?"),
        Wrong("length 1", lambda key, length: key / np.linalg.norm(key), "Which of the two arguments is not used?"),
        Wrong("points the other way", lambda key, length: -key / np.linalg.norm(key) * length,
              "What is the sign of answer @ key?"),
    ],
)  # fmt: skip
