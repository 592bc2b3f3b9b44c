"""Softmax: the row that must sum to 1, at any size of the scores.

    scores (N, S)    weights (N, S) = exp(scores) / the sum over the keys S
"""
import numpy as np

from ..core.softmax import softmax as right_softmax
from .exercise import Exercise, Wrong


def _scores(rng):
    """Small ones; ones that overflow without care; a key that may not be seen; float16."""
    small, large, wide = rng.standard_normal((3, 5)), 900 + 3 * rng.standard_normal((2, 7)), 700 * rng.standard_normal((3, 6))
    masked = rng.standard_normal((4, 3))
    masked[1, 2] = -np.inf
    return [(small,), (large,), (wide,), (masked,), ((14 + rng.standard_normal((3, 4))).astype(np.float16),)]


def _variant(powers=np.exp, total=lambda p: p.sum(axis=-1, keepdims=True), shift=lambda s: s.max(axis=-1, keepdims=True)):
    """A softmax with another exponential, another sum, or another shift."""

    def fn(scores):
        p = powers(scores - shift(scores))
        return p / total(p)

    return fn


def _axis(axis):
    return _variant(total=lambda p: p.sum(axis=axis, keepdims=True), shift=lambda s: s.max(axis=axis, keepdims=True))


def _smallest(scores):
    return np.min(np.where(np.isneginf(scores), np.inf, scores), axis=-1, keepdims=True)


softmax = Exercise(
    name="softmax", signature="softmax(scores)", lesson="01", inputs=_scores, reference=right_softmax,
    outputs=["weights (N, S)"],
    wrong=[
        Wrong("no maximum subtracted", _variant(shift=lambda s: 0.0),
              "Print np.exp(scores) for the input that differs. How large may a float be?"),
        Wrong("minimum subtracted", _variant(shift=_smallest),
              "After the shift, what is the largest number that goes into exp? Try it on scores that are far apart."),
        Wrong("over the wrong axis", _axis(0), "What sums to 1 in the answer: a row or a column?"),
        Wrong("over all entries at once", _axis(None), "What does the whole answer sum to, and what does one row?"),
        Wrong("not divided by the sum", _variant(total=lambda p: 1.0), "What does a row sum to?"),
        Wrong("divided by the mean", _variant(total=lambda p: p.mean(axis=-1, keepdims=True)),
              "What does a row sum to, and how many keys are there?"),
        Wrong("not exponentiated", _variant(powers=lambda x: x), "Which sign do the weights have?"),
        Wrong("powers of two", _variant(powers=np.exp2),
              "Take two keys: the logarithm of the ratio of their weights, beside the difference of their scores."),
        Wrong("the sign turned", lambda s: right_softmax(np.where(np.isneginf(s), s, -s)),
              "Does the key with the largest score get the largest weight?"),
    ],
)  # fmt: skip
