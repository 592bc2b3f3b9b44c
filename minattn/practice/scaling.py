"""Scaling: why sqrt(D), and what a softmax lets through of a gradient.

    w (N, S) weights    J = diag(w) - w w^T, the slopes dw_i / ds_j of one row, (S, S)
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


def _size(squares, cubes=2.0, cross=1.0, root=np.sqrt):
    """sqrt(sum w^2 - 2 sum w^3 + (sum w^2)^2) with other pieces."""

    def fn(w):
        second, third = (w**2).sum(axis=-1), (w**3).sum(axis=-1)
        return root(squares * second - cubes * third + cross * second**2)

    return fn


slopes_size = Exercise(
    name="slopes_size", signature="slopes_size(w)", lesson="02", outputs=["size (N)"],
    inputs=lambda rng: [(softmax(rng.standard_normal((n, s))),) for n, s in [(4, 5), (2, 8), (7, 3)]],
    reference=_size(1.0),
    wrong=[
        Wrong("no root", _size(1.0, root=lambda total: total), "Double every slope: what happens to your answer?"),
        Wrong("the diagonal alone", lambda w: np.sqrt(((w * (1 - w)) ** 2).sum(axis=-1)),
              "With S keys, how many slopes are there in all?"),
        Wrong("the part beside the diagonal alone", lambda w: np.sqrt((w**2).sum(axis=-1) ** 2 - (w**4).sum(axis=-1)),
              "How does a weight answer to its own score?"),
        Wrong("the sum of the slopes on the diagonal", lambda w: (w * (1 - w)).sum(axis=-1),
              "Is it the slopes that are summed, or their squares?"),
        Wrong("the weights instead of the slopes", _size(1.0, 0.0, 0.0), "What should the size be for weights 1, 0, 0?"),
        Wrong("the mixed term left out", _size(1.0, 0.0),
              "(a - b) ** 2 has three terms. What should the size be for weights 1, 0, 0?"),
        Wrong("the diagonal counted without its square", _size(1.0, 2.0, 0.0),
              "(a - b) ** 2 has three terms. What should the size be for weights 0.5, 0.5?"),
        Wrong("the mean instead of the sum", lambda w: _size(1.0)(w) / w.shape[-1],
              "By how much is each number too small?"),
        Wrong("one size for the whole map", lambda w: np.sqrt((_size(1.0)(w) ** 2).sum()),
              "How many numbers are wanted: one, or one for each query?"),
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
