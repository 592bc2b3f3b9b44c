"""Masks: who may look at whom, and where in the computing it is said. True = may attend.

    may (N, S)    the last query stands at the last key: query n is at position S - N + n
"""
import numpy as np

from ..core import masks
from ..core.softmax import softmax
from .exercise import Exercise, Wrong

SIZES = [(4, 4), (2, 5), (3, 8), (6, 4), (1, 3)]                                      # N, S


def _places(N, S):
    """Positions of the queries (N, 1) and of the keys (S,)."""
    return np.arange(S - N, S)[:, None], np.arange(S)


def _causal(rule, top_left=False):
    def fn(N, S):
        i, j = _places(N, S)
        return rule(np.arange(N)[:, None] if top_left else i, j)

    return fn


causal_mask = Exercise(
    name="causal_mask", signature="causal_mask(N, S)", lesson="03", outputs=["may (N, S)"], inputs=lambda rng: SIZES,
    reference=lambda N, S: masks.causal().dense(N, S),
    wrong=[
        Wrong("aligned at the top left", _causal(lambda i, j: j <= i, top_left=True),
              "With N = 2 and S = 5 the two queries are the last tokens. How many keys should the last one see?"),
        Wrong("inverted", _causal(lambda i, j: j > i), "True = may attend. Does a token see what came before it?"),
        Wrong("strict: no token sees itself", _causal(lambda i, j: j < i), "With N = S, what does the first token see?"),
        Wrong("one key too many", _causal(lambda i, j: j <= i + 1), "With N = S, how many keys does the first token see?"),
        Wrong("the other triangle", _causal(lambda i, j: j >= i),
              "Queries go down, keys across: is the later key right or left?"),
        Wrong("everything", _causal(lambda i, j: (j > -1) | (i < 0)),
              "What does the first of several queries see of the last key?"),
        Wrong("the strict triangle at the top left", _causal(lambda i, j: j < i, top_left=True),
              "With N = S, what does the first token see?"),
        Wrong("the triangle at the top left, inverted", _causal(lambda i, j: j > i, top_left=True),
              "True = may attend. Does a token see what came before it?"),
        Wrong("keys down, queries across", lambda N, S: masks.causal().dense(S, N), "Which of N and S counts the rows?"),
    ],
)  # fmt: skip


def _window(rule, top_left=False):
    def fn(N, S, n):
        i, j = _places(N, S)
        return rule(np.arange(N)[:, None] if top_left else i, j, n)

    return fn


window_mask = Exercise(
    name="window_mask", signature="window_mask(N, S, n)", lesson="03", outputs=["may (N, S)"],
    inputs=lambda rng: [(5, 5, 3), (2, 7, 3), (3, 9, 4), (6, 6, 2)],
    reference=lambda N, S, n: (masks.causal() & masks.last(n)).dense(N, S),
    wrong=[
        Wrong("one key too many", _window(lambda i, j, n: (j <= i) & (i - j <= n)),
              "Count the True of the last row: is it n?"),
        Wrong("one key too few", _window(lambda i, j, n: (j <= i) & (i - j < n - 1)),
              "Count the True of the last row: is it n?"),
        Wrong("the token itself not counted", _window(lambda i, j, n: (j < i) & (i - j <= n)),
              "Does the last query see the last key?"),
        Wrong("a window on both sides", _window(lambda i, j, n: abs(i - j) < n),
              "With N = S, what does the first token see?"),
        Wrong("the future is open", _window(lambda i, j, n: i - j < n), "With N = S, what does the first token see?"),
        Wrong("no window", _window(lambda i, j, n: j <= i), "Which argument is not used?"),
        Wrong("inverted", _window(lambda i, j, n: (j > i) | (i - j >= n)),
              "True = may attend. Does a token see its neighbour?"),
        Wrong("aligned at the top left", _window(lambda i, j, n: (j <= i) & (i - j < n), top_left=True),
              "With N = 2 and S = 7 the two queries are the last tokens. Does the last one see the last key?"),
        Wrong("the first n keys", _window(lambda i, j, n: (j <= i) & (j < n)), "Does the last query see the last key?"),
    ],
)  # fmt: skip


every_second = Exercise(
    name="every_second", signature="every_second(i, j)", lesson="03", outputs=["may (N, S)"],
    inputs=lambda rng: [_places(5, 5), _places(3, 7), _places(1, 4)],
    reference=lambda i, j: (j <= i) & ((i - j) % 2 == 0),
    wrong=[
        Wrong("the future is open", lambda i, j: (i - j) % 2 == 0, "What does position 0 see of position 2?"),
        Wrong("odd distances", lambda i, j: (j <= i) & ((i - j) % 2 == 1), "Which distance does a token have from itself?"),
        Wrong("every second key, counted from the first", lambda i, j: (j <= i) & (j % 2 == 0),
              "Does position 1 see itself?"),
        Wrong("not itself", lambda i, j: (j < i) & ((i - j) % 2 == 0), "Which distance does a token have from itself?"),
        Wrong("every third", lambda i, j: (j <= i) & ((i - j) % 3 == 0), "Which distances does the last position see?"),
        Wrong("no stride", lambda i, j: j <= i, "Does position 1 see position 0?"),
    ],
)  # fmt: skip


padding_mask = Exercise(
    name="padding_mask", signature="padding_mask(lengths, S)", lesson="03", outputs=["may (B, 1, 1, S)"],
    inputs=lambda rng: [(np.array([4, 2, 3]), 5), (np.array([1, 6]), 7), (np.array([3, 0, 2, 5]), 5)],
    reference=lambda lengths, S: masks.padding(lengths).dense(1, S, batch=len(lengths)),
    wrong=[
        Wrong("one key too many", lambda lengths, S: np.arange(S) <= lengths[:, None, None, None],
              "Count the True of the first sentence."),
        Wrong("inverted", lambda lengths, S: np.arange(S) >= lengths[:, None, None, None],
              "True = may attend. May a real token be seen?"),
        Wrong("padding on the left", lambda lengths, S: np.arange(S)[::-1] < lengths[:, None, None, None],
              "At which end are the real tokens?"),
        Wrong("queries instead of keys", lambda lengths, S: (np.arange(S) < lengths[:, None])[:, None, :, None],
              "Queries go down, keys across: which axis of (B, H, N, S) is the keys'?"),
        Wrong("the longest for all", lambda lengths, S: np.tile(np.arange(S) < lengths.max(), (len(lengths), 1, 1, 1)),
              "Do two sentences of unequal length get the same row?"),
        Wrong("where heads should be", lambda lengths, S: (np.arange(S) < lengths[:, None])[None, :, None, :],
              "Which axis of (B, H, N, S) counts the sentences?"),
    ],
)  # fmt: skip


def _scores(rng):
    """A row that sees nothing; a hidden score that takes all; hidden scores that are not the smallest."""
    cases = [(rng.standard_normal((4, 6)), rng.random((4, 6)) < 0.5), (rng.standard_normal((3, 5)), rng.random((3, 5)) < 0.6)]
    cases[0][1][2] = False
    cases[1][1][:] |= np.eye(3, 5) > 0
    hidden = rng.standard_normal((2, 4)), np.array([[True, True, False, True], [False, True, True, False]])
    hidden[0][0, 2], hidden[0][1, 0] = 950.0, 60.0
    low = rng.standard_normal((2, 3)) - 20_000, np.array([[True, False, True], [True, True, False]])
    low[0][0, 1] = 1.5
    return [*cases, hidden, low]


def _late(scores, may):
    return softmax(scores) * may


def _late_divided(scores, may):
    late = _late(scores, may)
    return late / late.sum(axis=-1, keepdims=True)


def _added(size):
    return lambda scores, may: softmax(scores + np.where(may, 0, -size))


masked_softmax = Exercise(
    name="masked_softmax", signature="masked_softmax(scores, may)", lesson="03", outputs=["weights (N, S)"], inputs=_scores,
    reference=lambda scores, may: softmax(np.where(may, scores, -np.inf)),
    wrong=[
        Wrong("mask after the softmax", _late, "What does a row sum to? Do hidden scores still act in the denominator?"),
        Wrong("mask after the softmax, divided again", _late_divided,
              "A hidden score of 950: what do the visible weights become before the mask?"),
        Wrong("minus 1e9 added", _added(1e9), "What does a row that sees nothing get?"),
        Wrong("minus 10000 added", _added(1e4), "How low may a visible score be? Try -20000."),
        Wrong("minus 1e9 in place of the score", lambda scores, may: softmax(np.where(may, scores, -1e9)),
              "What does a row that sees nothing get?"),
        Wrong("score 0 for hidden keys", lambda scores, may: softmax(scores * may),
              "A score of 0 is a score: which weight does it give?"),
        Wrong("inverted", lambda scores, may: softmax(np.where(may, -np.inf, scores)),
              "True = may attend. Which keys have weight?"),
        Wrong("no mask", lambda scores, may: softmax(scores), "Which argument is not used?"),
        Wrong("over the wrong axis", lambda scores, may: softmax(np.where(may, scores, -np.inf), axis=0),
              "What sums to 1: a row or a column?"),
    ],
)  # fmt: skip
