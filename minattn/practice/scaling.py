"""Scaling: why sqrt(D), and what a softmax lets through of a gradient.

    w (S,)  weights    J (S, S) = diag(w) - w w^T, the slopes dw_i / ds_j
    ds (N, S) gradient of the scaled scores     dq (N, D) = scale * ds k
"""
import numpy as np

from ..core.softmax import softmax
from .exercise import Exercise, Wrong

divisor = Exercise(
    name="divisor", signature="divisor(D, a, b)", lesson="02", outputs=["divisor"],
    inputs=lambda rng: [(64, 1.3, 0.9), (100, 2.0, 0.7), (7, 0.3, 5.0), (48, 0.6, 0.4)],
    reference=lambda D, a, b: np.sqrt(D) * a * b,
    wrong=[
        Wrong("for a standard deviation of 1", lambda D, a, b: np.sqrt(D), "Which arguments are not used?"),
        Wrong("D instead of its root", lambda D, a, b: D * a * b,
              "Is that the size of the scores, or something that grows faster?"),
        Wrong("the variance", lambda D, a, b: D * a**2 * b**2,
              "The typical size of a number is its standard deviation. What is the variance beside it?"),
        Wrong("the root of all of it", lambda D, a, b: np.sqrt(D * a * b),
              "Twice as large a q: how much larger is a score?"),
        Wrong("a and b squared", lambda D, a, b: np.sqrt(D) * a**2 * b**2,
              "Twice as large a q: how much larger is a score?"),
        Wrong("a and b below the line", lambda D, a, b: np.sqrt(D) / (a * b),
              "Larger q and k make larger scores: must the divisor grow or shrink?"),
        Wrong("b left out", lambda D, a, b: np.sqrt(D) * a, "Which argument is not used?"),
    ],
)  # fmt: skip


head_scale = Exercise(
    name="head_scale", signature="head_scale(E, H)", lesson="02", outputs=["scale"],
    inputs=lambda rng: [(576, 9), (4096, 32), (35, 5), (12, 2)],
    reference=lambda E, H: 1 / np.sqrt(E / H),
    wrong=[
        Wrong("the whole width", lambda E, H: 1 / np.sqrt(E), "How many products does one head's score sum up?"),
        Wrong("D instead of its root", lambda E, H: H / E,
              "A scale of 1/D: what standard deviation do the scores then have?"),
        Wrong("the divisor instead of the factor", lambda E, H: np.sqrt(E / H),
              "ma.attention multiplies by its scale. Is yours below 1?"),
        Wrong("the number of heads", lambda E, H: 1 / np.sqrt(H), "How many products does one head's score sum up?"),
        Wrong("no scale", lambda E, H: 1.0, "Which arguments are not used?"),
    ],
)  # fmt: skip


def _rows(rng, *shape):
    return softmax(rng.standard_normal(shape))


softmax_slopes = Exercise(
    name="softmax_slopes", signature="softmax_slopes(w)", lesson="02", outputs=["slopes (S, S)"],
    inputs=lambda rng: [(_rows(rng, s),) for s in (5, 3, 8)],
    reference=lambda w: np.diag(w) - np.outer(w, w),
    wrong=[
        Wrong("the sign turned", lambda w: np.outer(w, w) - np.diag(w), "A score rises: does its own weight rise or fall?"),
        Wrong("plus instead of minus", lambda w: np.diag(w) + np.outer(w, w),
              "The weights sum to 1 whatever the scores. What must a row of slopes sum to?"),
        Wrong("the diagonal alone", lambda w: np.diag(w * (1 - w)), "One score rises: what happens to the other weights?"),
        Wrong("the weights on the diagonal alone", np.diag,
              "The weights sum to 1 whatever the scores. What must a row of slopes sum to?"),
        Wrong("no diagonal", lambda w: -np.outer(w, w), "A score rises: does its own weight rise or fall?"),
        Wrong("the identity instead of diag(w)", lambda w: np.eye(len(w)) - np.outer(w, w),
              "What should the slope of a weight of nearly 0 be?"),
        Wrong("only the slopes of a weight by its own score", lambda w: w * (1 - w),
              "How many slopes are there with S weights and S scores?"),
    ],
)  # fmt: skip


def _scaled(scale):
    return lambda ds, k: ds @ k * scale(ds, k)


query_gradient = Exercise(
    name="query_gradient", signature="query_gradient(ds, k)", lesson="02", outputs=["dq (N, D)"],
    inputs=lambda rng: [(rng.standard_normal((n, s)), rng.standard_normal((s, d)))
                        for n, s, d in [(3, 5, 4), (6, 2, 7), (4, 4, 3)]],
    reference=lambda ds, k: ds @ k / np.sqrt(k.shape[-1]),
    wrong=[
        Wrong("the scale forgotten", _scaled(lambda ds, k: 1.0),
              "The score is q @ k times a constant. How does its slope by q answer to the constant?"),
        Wrong("scaled twice", _scaled(lambda ds, k: 1 / k.shape[-1]),
              "How often does the scale stand between q and the scaled score?"),
        Wrong("multiplied by sqrt(D)", _scaled(lambda ds, k: np.sqrt(k.shape[-1])),
              "Twice the scale: does a step of q move the score by more or by less?"),
        Wrong("scaled by the number of keys", _scaled(lambda ds, k: 1 / np.sqrt(len(k))),
              "From which shape is the scale read?"),
        Wrong("the mean over the keys", _scaled(lambda ds, k: 1 / np.sqrt(k.shape[-1]) / len(k)),
              "Every key pushes the query. Do the pushes add up?"),
        Wrong("the sign turned", _scaled(lambda ds, k: -1 / np.sqrt(k.shape[-1])),
              "A step of q along k: does the score rise or fall?"),
    ],
)  # fmt: skip
