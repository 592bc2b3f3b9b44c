"""Random features and low rank: the features, how many of them, directions at right angles, a causal pass, a spectrum.

    x, y  (D,)    query and key times D^(-1/4)        w   (m, D)  directions
    z     |x + y|^2, which alone decides the relative error of positive features: sqrt((exp(z) - 1) / m)
"""
import numpy as np

from ..linear.features import random_features
from ..linear.performer import performer_attention
from .exercise import Exercise, Wrong


def _vectors(rng):
    return [(0.6 * rng.standard_normal((N, D)), rng.standard_normal((m, D))) for N, D, m in [(3, 4, 5), (6, 3, 7), (2, 5, 3)]]


def _features(of_x=lambda x: (x**2).sum(axis=-1, keepdims=True) / 2, of_w=lambda w: 0.0, divisor=lambda D, m: m**0.5,
              turn=np.exp):  # fmt: skip
    """turn(w . x - what is taken off) / divisor; each keyword is one thing that people get wrong."""

    def fn(x, w):
        return turn(x @ w.T - of_x(x) - of_w(w)) / divisor(x.shape[-1], len(w))

    return fn


positive_features = Exercise(
    name="positive_features", signature="positive_features(x, w)", lesson="15", inputs=_vectors,
    reference=random_features, outputs=["phi (N, m)"],
    wrong=[
        Wrong("|x|^2 / 2 forgotten", _features(of_x=lambda x: 0.0),
              "The mean of exp(w . x) over all w is not 1 but exp(|x|^2 / 2). What undoes it?"),
        Wrong("|x|^2 / 2 added", _features(of_x=lambda x: -(x**2).sum(axis=-1, keepdims=True) / 2),
              "Are the means too large or too small?"),
        Wrong("|x|^2 without its half", _features(of_x=lambda x: (x**2).sum(axis=-1, keepdims=True)),
              "The mean of exp(w . x) is exp(|x|^2 / 2)."),
        Wrong("|x| in place of |x|^2", _features(of_x=lambda x: np.linalg.norm(x, axis=-1, keepdims=True) / 2),
              "Is the length meant, or its square?"),
        Wrong("|x|^2 of all rows together", _features(of_x=lambda x: (x**2).sum() / 2),
              "Each row has a length of its own. Along which axis is the sum?"),
        Wrong("|w|^2 / 2 taken off", _features(of_x=lambda x: 0.0, of_w=lambda w: (w**2).sum(axis=-1) / 2),
              "Whose length is to be undone: the direction's, or the token's?"),
        Wrong("divided by m", _features(divisor=lambda D, m: m),
              "The mean over m directions is a product of two phi: which share of 1 / m has each?"),
        Wrong("not divided", _features(divisor=lambda D, m: 1.0), "Is phi . phi the sum over the directions, or their mean?"),
        Wrong("divided by the root of D", _features(divisor=lambda D, m: D**0.5), "Over how many things is the mean taken?"),
        Wrong("cosines", _features(of_x=lambda x: 0.0, turn=np.cos), "Can a cosine be below 0? A weight of the softmax cannot."),
        Wrong("scaled by D^(-1/4) again", lambda x, w: random_features(x / x.shape[-1] ** 0.25, w),
              "x and y come scaled already. What is done to x before w . x?"),
    ],
)  # fmt: skip


def _pairs(rng):
    return [(0.5 * rng.standard_normal(D), 0.5 * rng.standard_normal(D), error) for D, error in [(4, 0.1), (3, 0.23), (5, 0.07)]]


def _needed(variance=lambda x, y, z: np.exp(z) - 1, z=lambda x, y: ((x + y) ** 2).sum(), power=2, whole=np.ceil):
    """The count from a relative variance of one direction; each keyword is one thing that people get wrong."""

    def fn(x, y, error):
        return int(whole(variance(x, y, z(x, y)) / error**power))

    return fn


features_needed = Exercise(
    name="features_needed", signature="features_needed(x, y, error)", lesson="15", inputs=_pairs, reference=_needed(),
    outputs=["m"],
    wrong=[
        Wrong("error not squared", _needed(power=1), "Four times the features halve the error. What do they do to its square?"),
        Wrong("rounded down", _needed(whole=np.floor), "Is the error with that many at most `error`, or just above it?"),
        Wrong("absolute error", _needed(lambda x, y, z: np.exp(z + 2 * (x @ y)) * (1 - np.exp(-z))),
              "Divide the root of the law by exp(x . y), and look at what is left."),
        Wrong("z from x - y", _needed(z=lambda x, y: ((x - y) ** 2).sum()),
              "The features are exp(w . x) exp(w . y). Which vector stands beside w in their product?"),
        Wrong("z not squared", _needed(z=lambda x, y: np.linalg.norm(x + y)), "z is the squared length."),
        Wrong("z halved", _needed(z=lambda x, y: ((x + y) ** 2).sum() / 2), "Half of z is in the mean. Is it in the variance?"),
        Wrong("the square of the mean not taken off", _needed(lambda x, y, z: np.exp(z)),
              "With x = -y, z is 0 and every direction is right. How many are needed then?"),
        Wrong("both signs", _needed(lambda x, y, z: (np.exp(z) - 1) * (1 - np.exp(-z)) / 2),
              "That is the hyperbolic law. How many features has a direction here?"),
        Wrong("cosines", _needed(lambda x, y, z: np.exp(z - 4 * (x @ y)) * (1 - np.exp(-((x - y) ** 2).sum())) ** 2 / 2),
              "That is the trigonometric law."),
        Wrong("not rounded", lambda x, y, error: float((np.exp(((x + y) ** 2).sum()) - 1) / error**2),
              "How many is a whole number."),
    ],
)  # fmt: skip


def _draws(rng):
    return [(rng.standard_normal((D, D)), rng.uniform(0.5, 3, D)) for D in (3, 5, 4)]


def _turned(drawn, signs=True):
    """The rows of `drawn` at right angles and of length 1, one after the other, each on the side of the row it came from."""
    columns, r = np.linalg.qr(drawn.T)
    return (columns * np.sign(np.diagonal(r))).T if signs else columns.T


def _unit(a):
    return a / np.linalg.norm(a, axis=-1, keepdims=True)


def _one_before(drawn, lengths):
    rows = _unit(drawn)
    for r in range(1, len(rows)):
        rows[r] = _unit(drawn[r] - (drawn[r] @ rows[r - 1]) * rows[r - 1])
    return lengths[:, None] * rows


def _from_drawn(drawn, lengths):
    rows = drawn.copy()
    for r, s in zip(*np.tril_indices(len(rows), -1), strict=True):
        rows[r] -= (drawn[r] @ drawn[s]) / (drawn[s] @ drawn[s]) * drawn[s]
    return lengths[:, None] * _unit(rows)


orthogonal_directions = Exercise(
    name="orthogonal_directions", signature="orthogonal_directions(drawn, lengths)", lesson="15", inputs=_draws,
    reference=lambda drawn, lengths: lengths[:, None] * _turned(drawn), outputs=["w (m, D)"],
    wrong=[
        Wrong("signs left to LAPACK", lambda drawn, lengths: lengths[:, None] * _turned(drawn, signs=False),
              "The rows are at right angles. What sign has the inner product of each with the row that it came from?"),
        Wrong("columns turned, not rows", lambda drawn, lengths: lengths[:, None] * _turned(drawn.T),
              "The first row must point along the first row of drawn. np.linalg.qr works on columns."),
        Wrong("columns returned for rows", lambda drawn, lengths: lengths[:, None] * _turned(drawn).T,
              "The first row must point along the first row of drawn. In what do the directions stand after np.linalg.qr?"),
        Wrong("lengths forgotten", lambda drawn, lengths: _turned(drawn), "Each row has length 1. Has a draw from N(0, I)?"),
        Wrong("lengths along the wrong axis", lambda drawn, lengths: lengths * _turned(drawn),
              "The rows are not at right angles any more. Which axis of w do the lengths belong to?"),
        Wrong("all of length root of D", lambda drawn, lengths: len(drawn) ** 0.5 * _turned(drawn),
              "That is their length in the mean of the squares. Are all draws equally long?"),
        Wrong("the lengths of the drawn rows", lambda drawn, lengths: np.linalg.norm(drawn, axis=-1)[:, None] * _turned(drawn),
              "Which lengths are given?"),
        Wrong("not turned", lambda drawn, lengths: lengths[:, None] * _unit(drawn), "The lengths are right. And the angles?"),
        Wrong("right angles to the row before alone", _one_before, "Row 2 and row 0: what is their inner product?"),
        Wrong("shares taken off along the drawn rows", _from_drawn,
              "The rows of drawn are not at right angles: along which rows are the shares to be taken off?"),
    ],
)  # fmt: skip


def _maps(rng):
    cases = []
    for (N, S), sharp, share in [((7, 7), 3.0, 0.9), ((12, 9), 1.5, 0.8), ((9, 14), 4.0, 0.95), ((16, 16), 2.0, 0.7)]:
        powers = np.exp(sharp * rng.standard_normal((N, S)))
        cases.append((powers / powers.sum(axis=-1, keepdims=True), share))
    return cases


def _rank(values=lambda weights: np.linalg.svd(weights, compute_uv=False), more=1, total=lambda s: s.sum()):
    def fn(weights, share):
        s = values(weights)
        return int((np.cumsum(s) / total(s) < share).sum() + more)

    return fn


rank_needed = Exercise(
    name="rank_needed", signature="rank_needed(weights, share)", lesson="15", inputs=_maps, reference=_rank(), outputs=["r"],
    wrong=[
        Wrong("one too few", _rank(more=0), "With that many, is the share reached, or still below?"),
        Wrong("one too many", _rank(more=2), "With one less, is the share reached already?"),
        Wrong("squared values", _rank(values=lambda w: np.linalg.svd(w, compute_uv=False) ** 2),
              "The share of the sum of the values is asked for. What are you summing?"),
        Wrong("values from the smallest", _rank(values=lambda w: np.linalg.svd(w, compute_uv=False)[::-1]),
              "Which values say most of the map?"),
        Wrong("values above a share of the largest", lambda weights, share: int(
            (np.linalg.svd(weights, compute_uv=False) > (1 - share) * np.linalg.norm(weights, 2)).sum()),
              "The share is one of the sum over all values."),
        Wrong("the sum not divided", _rank(total=lambda s: 1.0), "Which sum is the whole?"),
        Wrong("a share of the number of values", lambda weights, share: int(np.ceil(share * min(weights.shape))),
              "Does your answer look at the weights?"),
        Wrong("the rank itself", lambda weights, share: int(np.linalg.matrix_rank(weights)),
              "How many values are not 0 is another question."),
        Wrong("columns counted by their weight",
              _rank(values=lambda w: np.sort(w.sum(axis=0))[::-1]), "Columns are not the singular values."),
    ],
)  # fmt: skip


def _heads(rng):
    cases = []
    for N, D, Dv, m, long in [(5, 3, 2, 4, 1.0), (7, 4, 3, 5, 1.5), (6, 5, 4, 3, 90.0)]:
        q, k = long * rng.standard_normal((2, N, D))
        cases.append((q, k, rng.standard_normal((N, Dv)), rng.standard_normal((m, D))))
    return cases


def _stream(of_q=lambda D: D**-0.25, of_k=lambda D: D**-0.25, length=0.5, shrink=True, lower=True, own=False, divide=True):
    """The causal pass with a running maximum; each keyword is one thing that people get wrong."""

    def fn(q, k, v, w):
        (N, D), out = q.shape, np.zeros(v.shape)
        x, y = q * of_q(D), k * of_k(D)
        exponents = y @ w.T - length * (y**2).sum(axis=-1, keepdims=True)
        state, norm, top = np.zeros((len(w), v.shape[-1])), np.zeros(len(w)), exponents[0] * lower
        for n in range(N):
            now = exponents[n] if own else np.maximum(top, exponents[n]) if lower else top
            keep = np.exp(top - now) if shrink and not own else np.ones(len(w))
            phi, top = np.exp(exponents[n] - now), now
            state, norm = keep[:, None] * state + np.outer(phi, v[n]), keep * norm + phi
            read = x[n] @ w.T + top
            phi = np.exp(read - read.max() * lower)
            out[n] = phi @ state / (phi @ norm if divide else 1.0)
        return out

    return fn


def _all_keys(q, k, v, w):
    return performer_attention(q, k, v, features=w)


def _right_stream(q, k, v, w):
    return performer_attention(q, k, v, features=w, causal=True)


def _late(q, k, v, w):
    """Each query before its own key is written; the first reads nothing."""
    return np.concatenate([0 * v[:1], [_all_keys(q[n:n + 1], k[:n], v[:n], w)[0] for n in range(1, len(q))]])


streaming_performer = Exercise(
    name="streaming_performer", signature="streaming_performer(q, k, v, w)", lesson="15", inputs=_heads,
    reference=_right_stream, outputs=["out (N, Dv)"],
    wrong=[
        Wrong("nothing taken off the exponents", _stream(lower=False),
              "Right on short vectors. In the third case exponents are in the hundreds: what is exp of them?"),
        Wrong("each key lowered by its own", _stream(own=True),
              "A factor of one key alone does not cancel: the state holds them all in one sum."),
        Wrong("the state not shrunk", _stream(shrink=False),
              "When the largest exponent rises, in which scale is what the state holds already?"),
        Wrong("every key seen", _all_keys, "What does the first row know of the last token?"),
        Wrong("own key written too late", _late, "Does a query see the key at its own position?"),
        Wrong("no scale", _stream(of_q=lambda D: 1.0, of_k=lambda D: 1.0), "Scores are divided by the root of D. Where?"),
        Wrong("the whole scale on both", _stream(of_q=lambda D: D**-0.5, of_k=lambda D: D**-0.5),
              "x . y is to be q . k / sqrt(D). What is it here?"),
        Wrong("the whole scale on the query", _stream(of_q=lambda D: D**-0.5, of_k=lambda D: 1.0),
              "The score is right, but other features come of it: the exercise divides both by D^(1/4)."),
        Wrong("|k|^2 / 2 forgotten", _stream(length=0.0), "It cancels for the query. Does it for the key?"),
        Wrong("|k|^2 without its half", _stream(length=1.0), "The mean of exp(w . y) is exp(|y|^2 / 2)."),
        Wrong("normaliser forgotten", _stream(divide=False), "Each output is an average of values. What do its weights sum to?"),
    ],
)  # fmt: skip
