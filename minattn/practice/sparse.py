"""Sparse attention: the keys that a pattern leaves, what reaches whom, the largest scores alone. True = may attend.

    may (N, S)   i, j  positions of query and key      stride, summary  l and c in the papers      w  keys of a window
"""
import numpy as np

from ..core import masks
from ..core.softmax import softmax
from .exercise import Exercise, Wrong

# --- strided and fixed ----------------------------------------------------------------------------------------------


def _strided(rule):
    """From a rule on d = i - j, the distance, on j and on n, the stride."""

    def fn(N, stride):
        i, j = np.arange(N)[:, None], np.arange(N)
        return rule(i - j, j, stride)

    return fn


strided_mask = Exercise(
    name="strided_mask", signature="strided_mask(N, stride)", lesson="13", outputs=["may (N, N)"],
    inputs=lambda rng: [(9, 3), (13, 4), (10, 5), (7, 2)],
    reference=lambda N, stride: masks.strided(stride).dense(N, N),
    wrong=[
        Wrong("a window one key too long", _strided(lambda d, j, n: (d >= 0) & ((d <= n + 1) | (d % n == 0))),
              "Does the last query see a key at distance stride + 1?"),
        Wrong("a window one key too short", _strided(lambda d, j, n: (d >= 0) & ((d < n - 1) | (d % n == 0))),
              "Does the last query see the key at distance stride - 1?"),
        Wrong("the column counted from the first key", _strided(lambda d, j, n: (d >= 0) & ((d <= n) | (j % n == 0))),
              "Do two neighbouring queries see the same far keys? Should they?"),
        Wrong("i + j in place of i - j", _strided(lambda d, j, n: (d >= 0) & ((d <= n) | ((d + 2 * j) % n == 0))),
              "Go one query down: do the far keys move one to the right, or to the left?"),
        Wrong("the future is open", _strided(lambda d, j, n: (d <= n) | (d % n == 0)), "What does query 0 see?"),
        Wrong("the window alone", _strided(lambda d, j, n: (d >= 0) & (d <= n)),
              "Does the last query see anything beyond the window?"),
        Wrong("the column alone", _strided(lambda d, j, n: (d >= 0) & (d % n == 0)), "Does a query see the key just before it?"),
        Wrong("both rules at once", _strided(lambda d, j, n: (d >= 0) & (d <= n) & (d % n == 0)),
              "Count the keys of the last query. A key is seen if either rule lets it through."),
        Wrong("the own block in place of the window",
              _strided(lambda d, j, n: (d >= 0) & (((d + j) // n == j // n) | (d % n == 0))),
              "With a stride of 3, what does query 3 see of key 2, its neighbour?"),
        Wrong("inverted", _strided(lambda d, j, n: (d < 0) | ((d > n) & (d % n != 0))),
              "True = may attend. Does a token see itself?"),
    ],
)  # fmt: skip


def _fixed(rule, place=lambda i, j: j):
    """From a rule on `past`, on `own` (the same block), and on `late`: 0 at a block's first summary key, then 1, 2, ..."""

    def fn(N, stride, summary):
        i, j = np.arange(N)[:, None], np.arange(N)
        return rule(j <= i, i // stride == j // stride, place(i, j) % stride - (stride - summary), summary, i - j < stride)

    return fn


fixed_mask = Exercise(
    name="fixed_mask", signature="fixed_mask(N, stride, summary)", lesson="13", outputs=["may (N, N)"],
    inputs=lambda rng: [(10, 3, 1), (13, 4, 2), (11, 4, 1), (16, 5, 2)],
    reference=lambda N, stride, summary: masks.fixed(stride, summary).dense(N, N),
    wrong=[
        Wrong("the first keys of each block as summaries",
              lambda N, stride, summary: (masks.causal() & (masks.block_local(stride) | masks.Mask(
                  lambda i, j: j % stride < summary))).dense(N, N),
              "Which token of a block has seen the rest of it, the first or the last?"),
        Wrong("one summary too few", _fixed(lambda past, own, late, *_: past & (own | (late > 0))),
              "With summary = 1, how many keys of an earlier block should a query see?"),
        Wrong("one summary too many", _fixed(lambda past, own, late, *_: past & (own | (late >= -1))),
              "With summary = 1, how many keys of an earlier block should a query see?"),
        Wrong("always one summary", _fixed(lambda past, own, late, summary, _: past & (own | (late == summary - 1))),
              "Which argument is not used?"),
        Wrong("the own block alone", _fixed(lambda past, own, *_: past & own),
              "Does the last query see anything of an earlier block?"),
        Wrong("the summaries alone", _fixed(lambda past, own, late, *_: past & (late >= 0)), "Does query 0 see itself?"),
        Wrong("a window in place of the own block", _fixed(lambda past, own, late, _, near: past & (near | (late >= 0))),
              "A query that begins a block: which keys of the block before it does it see?"),
        Wrong("the own block is open to its end", _fixed(lambda past, own, late, *_: own | (past & (late >= 0))),
              "What does query 0 see?"),
        Wrong("the future is open", _fixed(lambda past, own, late, *_: own | (late >= 0)),
              "What does query 0 see of later blocks?"),
        Wrong("summaries counted from the query",
              _fixed(lambda past, own, late, *_: past & (own | (late >= 0)), place=lambda i, j: i - j),
              "Do two queries of a block see the same summaries? Fixed means that they do."),
        Wrong("inverted", _fixed(lambda past, own, late, *_: ~past | (~own & (late < 0))),
              "True = may attend. Does a token see itself?"),
    ],
)  # fmt: skip


# --- Longformer -------------------------------------------------------------------------------------------------------

def _long(rule):
    """A rule on near, "query is global" and "key is global"."""

    def fn(N, w, chosen):
        i, j = np.arange(N)[:, None], np.arange(N)
        return rule(abs(i - j) <= w // 2, np.isin(i, chosen), np.isin(j, chosen))

    return fn


longformer_mask = Exercise(
    name="longformer_mask", signature="longformer_mask(N, w, chosen)", lesson="13", outputs=["may (N, N)"],
    inputs=lambda rng: [(9, 2, np.array([0])), (12, 4, np.array([3, 9])), (11, 3, np.array([5])), (8, 2, np.array([1, 6]))],
    reference=lambda N, w, chosen: masks.longformer(w, chosen).dense(N, N),
    wrong=[
        Wrong("global tokens see only their window", _long(lambda near, row, column: near | column),
              "Is the mask the same when queries and keys are exchanged? What does a global token's row look like?"),
        Wrong("global tokens are seen only nearby", _long(lambda near, row, column: near | row),
              "Is the mask the same when queries and keys are exchanged? What does a global token's column look like?"),
        Wrong("only global tokens see global tokens", _long(lambda near, row, column: near | (row & column)),
              "Does an ordinary token, far away, see a global one?"),
        Wrong("no window", _long(lambda near, row, column: row | column), "Does an ordinary token see itself?"),
        Wrong("no global tokens", _long(lambda near, row, column: near), "Which argument is not used?"),
        Wrong("w keys on each side", lambda N, w, chosen: masks.longformer(2 * w, chosen).dense(N, N),
              "Count what an ordinary token in the middle sees: w // 2 on each side, itself, and the global ones."),
        Wrong("one key too few on each side", lambda N, w, chosen: masks.longformer(max(w - 2, 1), chosen).dense(N, N),
              "Count what an ordinary token in the middle sees: w // 2 on each side, itself, and the global ones."),
        Wrong("the future is hidden",
              lambda N, w, chosen: (masks.longformer(w, chosen) & masks.causal()).dense(N, N),
              "This pattern is an encoder's. Does token 0 see its right neighbour?"),
        Wrong("the first tokens are global, not the chosen ones",
              lambda N, w, chosen: masks.longformer(w, np.arange(len(chosen))).dense(N, N),
              "chosen holds positions, not a number of them."),
        Wrong("inverted", _long(lambda near, row, column: ~(near | row | column)),
              "True = may attend. Does a token see itself?"),
    ],
)  # fmt: skip


# --- reach ------------------------------------------------------------------------------------------------------------

def _some_masks(rng):
    """Sparse causal ones, one in which no token sees itself, and one that looks both ways."""
    causal, strict = masks.strided(3, part=2), masks.dilated(4, 1) & masks.causal() & ~masks.last(1)
    return [(causal.dense(8, 8) | masks.last(2).dense(8, 8), 2), (strict.dense(12, 12), 3), (rng.random((9, 9)) < 0.12, 2),
            (masks.last(3).dense(11, 11), 3), (masks.last(2).dense(6, 6) & ~np.eye(6, dtype=bool), 1)]


def _hops(start=lambda may: may | np.eye(len(may), dtype=bool), more=0, turned=False):
    """The boolean product of so many equal factors."""

    def fn(may, hops):
        step = start(may).astype(float)
        found = np.linalg.matrix_power(step, max(hops + more, 0)) > 0
        return found.T if turned else found

    return fn


def _squared(may, hops):
    found = may | np.eye(len(may), dtype=bool)
    for _ in range(hops):
        found = (found.astype(float) @ found) > 0
    return found


reached = Exercise(
    name="reached", signature="reached(may, hops)", lesson="13", outputs=["reached (N, N)"], inputs=_some_masks,
    reference=_hops(),
    wrong=[
        Wrong("no token keeps its own past", _hops(lambda may: may),
              "What a token was is added to what attention brings (the residual stream). Has it reached itself?"),
        Wrong("one hop too few", _hops(more=-1), "With hops = 1, which pairs beyond the mask's own should be True?"),
        Wrong("one hop too many", _hops(more=1), "With hops = 1, which pairs beyond the mask's own should be True?"),
        Wrong("one hop, whatever hops is", lambda may, hops: may | np.eye(len(may), dtype=bool),
              "Which argument is not used? A * A multiplies entry by entry, A @ A goes from token to token."),
        Wrong("as many hops as there are tokens", lambda may, hops: _hops()(may, len(may)),
              "Which argument is not used? How far back can a window of 3 reach in 3 hops?"),
        Wrong("squared in each hop", _squared, "Two hops are A @ A. What are three?"),
        Wrong("from whom to whom exchanged", _hops(turned=True),
              "Under a causal mask, has the last token influenced the first, or the first the last?"),
        Wrong("both directions", _hops(lambda may: may | may.T | np.eye(len(may), dtype=bool)),
              "Under a causal mask, can the last token have influenced the first?"),
    ],
)  # fmt: skip


# --- top-k --------------------------------------------------------------------------------------------------------------

def _scores_and_mask(rng):
    """Hidden scores that are large, rows that see fewer keys than are kept, and one that sees none."""
    scores, other = rng.standard_normal((4, 7)), rng.standard_normal((5, 5)) - 1
    may = rng.random((4, 7)) < 0.7
    may[1], may[2, :2] = False, True
    may[1, 4], may[3] = True, False
    scores[0, ~may[0]] += 3
    return [(scores, may, 3), (other, np.tri(5, dtype=bool), 2), (rng.standard_normal((3, 8)), np.ones((3, 8), bool), 4)]


def _keep(order=lambda scores: scores, more=0, axis=-1, filled=None, late=False):
    """Weights of the `keep` largest by `order`; the others hidden, or given the score `filled`."""

    def fn(scores, may, keep):
        ranked = order(scores) if late else np.where(may, order(scores), -np.inf)
        size = min(max(keep + more, 1), scores.shape[axis])
        least = -np.sort(-ranked, axis=axis).take([size - 1], axis=axis)
        kept = (ranked >= least) & may
        return softmax(np.where(kept, scores, -np.inf if filled is None else filled))

    return fn


def _not_normalised(scores, may, keep):
    return np.where(_keep()(scores, may, keep) > 0, softmax(np.where(may, scores, -np.inf)), 0)


keep_largest = Exercise(
    name="keep_largest", signature="keep_largest(scores, may, keep)", lesson="13", outputs=["weights (N, S)"],
    inputs=_scores_and_mask, reference=_keep(),
    wrong=[
        Wrong("chosen among the hidden keys too", _keep(late=True),
              "A hidden key has the largest score of all. Does it take a place from one that may be seen?"),
        Wrong("the rest cut off after the softmax", _not_normalised, "What does a row sum to?"),
        Wrong("one key too few", _keep(more=-1), "Count the weights of a row that are not 0."),
        Wrong("one key too many", _keep(more=1), "Count the weights of a row that are not 0."),
        Wrong("the largest of each column", _keep(axis=0), "Queries go down: whose choice is it, the query's or the key's?"),
        Wrong("the smallest", _keep(lambda scores: -scores), "Which score gets the largest weight?"),
        Wrong("the largest in size", _keep(abs), "Is a score of -3 a better match than one of 2?"),
        Wrong("score 0 for the others", _keep(filled=0.0), "Count the weights of a row that are not 0."),
        Wrong("nothing left out", lambda scores, may, keep: softmax(np.where(may, scores, -np.inf)),
              "Which argument is not used?"),
        Wrong("the mask not used", lambda scores, may, keep: _keep()(scores, np.ones_like(may), keep),
              "Has a hidden key any weight?"),
    ],
)  # fmt: skip
