"""FlashAttention by hand: the softmax in one pass, the merge of two parts, attention tile by tile.

    top     largest score so far         fade   exp(old top - new top)        acc   sum of exp(score - top) * value
    total   sum of exp(score - top)      lse    top + log total

Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135; Dao 2023, arXiv:2307.08691.
"""
import numpy as np

from ..attention import attention
from ..core.softmax import merge as right_merge
from .exercise import Exercise, Wrong

# --- one row ------------------------------------------------------------------------------------------------------


def _rows(rng):
    """The top rises late and again; scores that overflow; a top that never rises, below 0."""
    rising, large, falling = rng.standard_normal(9), 900 + 300 * rng.standard_normal(6), -4 - np.sort(rng.standard_normal(5))
    rising[5] = rising.max() + 0.7
    return [(rising,), (large,), (falling,)]


def _right_pass(scores):
    top = scores.max()
    return top, np.exp(scores - top).sum()


def _pass(fade=lambda old, top: np.exp(old - top), below=lambda old, top: top, first=-np.inf, upto=None):
    """One pass with another fade, or with terms measured from something else than the new top."""

    def fn(scores):
        top, total = first, 0.0
        for score in scores[:upto]:
            old, top = top, max(top, score)
            total = (fade(old, top) if np.isfinite(old) else 0.0) * total + np.exp(score - below(old, top))
        return top, total

    return fn


def _first_twice(scores):
    top, total = scores[0], 1.0
    for score in scores:
        old, top = top, max(top, score)
        total = np.exp(old - top) * total + np.exp(score - top)
    return top, total


def _new_term_too(scores):
    top, total = scores[0], 1.0
    for score in scores[1:]:
        old, top = top, max(top, score)
        total = np.exp(old - top) * (total + np.exp(score - top))
    return top, total


online_softmax = Exercise(
    name="online_softmax", signature="online_softmax(scores)", lesson="10", inputs=_rows, reference=_right_pass,
    outputs=["top", "total"],
    wrong=[
        Wrong("total not rescaled", _pass(fade=lambda old, top: 1.0),
              "When a larger score comes, from which top are the terms already in the total measured?"),
        Wrong("rescaled by the wrong sign", _pass(fade=lambda old, top: np.exp(top - old)),
              "Let the top rise from 1 to 3. Are the terms that were summed before then worth more, or less?"),
        Wrong("no maximum subtracted", _pass(fade=lambda old, top: 1.0, below=lambda old, top: 0.0),
              "Print np.exp(scores) for the input with the largest scores."),
        Wrong("measured from the old top", _pass(below=lambda old, top: old if np.isfinite(old) else top),
              "What is the term of the largest score of all, measured from the final top? What did you add for it?"),
        Wrong("last score lost", _pass(upto=-1), "How often does your loop run, and how many scores are there?"),
        Wrong("first score counted twice", _first_twice, "Follow scores[0]: where does it enter the total?"),
        Wrong("the new term rescaled too", _new_term_too,
              "Take two scores, 1 and then 3. From which top is the term of the 3 measured before it meets your factor?"),
        Wrong("top starts at 0", _pass(first=0.0), "What comes out where every score is below 0?"),
        Wrong("the logarithm taken", lambda scores: (scores.max(), np.log(_right_pass(scores)[1])),
              "The total is a sum of exponentials, as it stands."),
    ],
)  # fmt: skip

# --- two parts ----------------------------------------------------------------------------------------------------


def _parts(rng):
    """Two drawn parts; empty ones, one at a time and both; log-sum-exps whose exponentials overflow."""

    def draw(N, Dv, size=1.0, shift=0.0):
        return rng.standard_normal((N, Dv)), shift + size * rng.standard_normal(N)

    plain, (out_a, lse_a), (out_b, lse_b) = draw(4, 3) + draw(4, 3), draw(5, 2), draw(5, 2)
    for out, lse, rows in ((out_a, lse_a, [0, 3]), (out_b, lse_b, [1, 3])):
        out[rows], lse[rows] = 0, -np.inf
    return [plain, (out_a, lse_a, out_b, lse_b), draw(3, 5, 2.0, 1000.0) + draw(3, 5, 2.0, 1001.0)]


def _joined(shares, lse=np.logaddexp):
    """A merge by other shares, or to another lse: shares(lse_a, lse_b, lse) gives the two factors."""

    def fn(out_a, lse_a, out_b, lse_b):
        both = lse(lse_a, lse_b)
        a, b = shares(lse_a, lse_b, both)
        return a[..., None] * out_a + b[..., None] * out_b, both

    return fn


def _measured_from(a, b, lse):
    """The two exponentials, with 0 in the place of an lse of -inf."""
    base = np.where(np.isneginf(lse), 0, lse)
    return np.exp(a - base), np.exp(b - base)


def _of_exps(a, b, lse):
    return np.exp(a) / (np.exp(a) + np.exp(b)), np.exp(b) / (np.exp(a) + np.exp(b))


def _unguarded(a, b, lse):
    return np.exp(a - lse), np.exp(b - lse)


def _lse_only(join):
    """The right output with another lse."""
    return lambda out_a, lse_a, out_b, lse_b: (right_merge(out_a, lse_a, out_b, lse_b)[0], join(lse_a, lse_b))


_SIZE = "Which of the two adds up over disjoint keys: the lse, or its exponential?"
_LARGE = "Print np.exp(lse_a) for the input with the largest lse."
merge = Exercise(
    name="merge", signature="merge(out_a, lse_a, out_b, lse_b)", lesson="10", inputs=_parts, reference=right_merge,
    outputs=["out (N, Dv)", "lse (N)"],
    wrong=[
        Wrong("plain average", _joined(lambda a, b, lse: (np.full_like(a, 0.5), np.full_like(b, 0.5))),
              "A part over one key and a part over a thousand: do they count the same?"),
        Wrong("parts exchanged", _joined(lambda a, b, lse: _measured_from(b, a, lse)),
              "Which output counts more: that of the part with the larger lse, or the other?"),
        Wrong("outputs added", _joined(lambda a, b, lse: (np.ones_like(a), np.ones_like(b))),
              "Each output is an average. Merge two equal parts by hand: what should come out?"),
        Wrong("shares that do not add up to 1", _joined(lambda a, b, lse: _measured_from(a, b, np.maximum(a, b))),
              "What do the two factors of a row add up to?"),
        Wrong("log-sum-exp without the maximum", _joined(_unguarded, lambda a, b: np.log(np.exp(a) + np.exp(b))), _LARGE),
        Wrong("shares without the maximum", _joined(_of_exps), _LARGE),
        Wrong("an empty part gives NaN", _joined(_unguarded), "Both parts of a row are empty: what is -inf minus -inf?"),
        Wrong("weighted by the log-sum-exp itself", _joined(lambda a, b, lse: (a / (a + b), b / (a + b))),
              "An lse may be negative. What says how much a part weighs: the lse, or its exponential?"),
        Wrong("log-sum-exps added", _joined(_measured_from, np.add), _SIZE),
        Wrong("log-sum-exps added, output right", _lse_only(np.add), _SIZE),
        Wrong("the larger log-sum-exp kept", _lse_only(np.maximum),
              "Merge two equal parts: is there as much under the softmax as before, or twice as much?"),
    ],
)  # fmt: skip

# --- a block of queries -------------------------------------------------------------------------------------------


def _problems(rng):
    """Tiles that divide S and tiles that do not, one tile alone, and scores in the thousands."""
    sizes = [(3, 17, 5, 4, 4), (4, 12, 8, 3, 5), (2, 6, 3, 5, 3), (5, 7, 2, 3, 10)]
    cases = [(*(rng.standard_normal(shape) for shape in ((N, D), (S, D), (S, Dv))), block) for N, S, D, Dv, block in sizes]
    q, k, v, block = cases[0]
    return [*cases, (60 * q, 20 * k, v, block)]


def _right_flash(q, k, v, block_k):
    return attention(q, k, v, return_lse=True)


def _tile_by_tile(*, scale=True, tiles=None, total_fade=np.exp, acc_fade=np.exp, top_of=np.maximum, output=None, lse=None,
                  every_tile=False):  # fmt: skip
    """A tiled forward with one part of it changed; the fades are functions of old top - new top."""

    def fn(q, k, v, block_k):
        (N, D), S = q.shape, len(k)
        top, total, acc = np.full(N, -np.inf), np.zeros(N), np.zeros((N, v.shape[1]))
        for j in range(0, S if tiles is None else tiles(S, block_k) * block_k, block_k):
            scores = q @ k[j : j + block_k].T * (D**-0.5 if scale else 1.0)
            old, top = top, top_of(top, scores.max(axis=1))
            rise, p = np.where(np.isneginf(old), -np.inf, old - top), np.exp(scores - top[:, None])
            seen = np.isfinite(old)                                # nothing is there to fade before the first tile
            total = np.where(seen, total_fade(np.where(seen, rise, 0)), 0) * total + p.sum(axis=1)
            acc = np.where(seen, acc_fade(np.where(seen, rise, 0)), 0)[:, None] * acc + p @ v[j : j + block_k]
            if every_tile:
                acc = acc / total[:, None]
        out = acc / total[:, None] if output is None else output(acc, total)
        return out, top + np.log(total) if lse is None else lse(top, total)

    return fn


def _one(rise):
    return np.ones_like(rise)


def _turned(rise):
    return np.exp(-rise)


def _literally_turned(q, k, v, block_k):
    """exp(new - old) from the first tile on, where old is -inf: inf * 0."""
    N = len(q)
    return np.full((N, v.shape[1]), np.nan), np.full(N, np.nan)


def _average_of_tiles(q, k, v, block_k):
    """Each tile's own softmax, and the mean of their outputs."""
    parts = [attention(q, k[j : j + block_k], v[j : j + block_k], return_lse=True) for j in range(0, len(k), block_k)]
    return np.mean([out for out, _ in parts], axis=0), np.logaddexp.reduce([lse for _, lse in parts])


_COUNT = "How many keys do your slices cover when block_k does not divide S?"
_FADE = "When the top rises in a later tile, from which top is what you have already summed measured?"
flash_forward = Exercise(
    name="flash_forward", signature="flash_forward(q, k, v, block_k)", lesson="10", inputs=_problems, reference=_right_flash,
    outputs=["out (N, Dv)", "lse (N)"],
    wrong=[
        Wrong("lost last tile", _tile_by_tile(tiles=lambda S, block: S // block), _COUNT),
        Wrong("accumulator not rescaled", _tile_by_tile(acc_fade=_one), _FADE),
        Wrong("total not rescaled", _tile_by_tile(total_fade=_one), _FADE),
        Wrong("nothing rescaled", _tile_by_tile(acc_fade=_one, total_fade=_one), _FADE),
        Wrong("rescaled by the wrong sign", _tile_by_tile(acc_fade=_turned, total_fade=_turned),
              "Let the top rise from 1 to 3. Is what was summed before then worth more, or less?"),
        Wrong("rescaled by the wrong sign, from -inf", _literally_turned,
              "In the first tile the old top is -inf. Print your factor there: is it 0 or inf?"),
        Wrong("normaliser forgotten", _tile_by_tile(output=lambda acc, total: acc),
              "Take values that are all 1: an average of ones is 1. What do you get?"),
        Wrong("divided in every tile", _tile_by_tile(every_tile=True),
              "What is your accumulator after the first tile: a sum, or already an average? What is added to it next?"),
        Wrong("divided in every tile and not at the end", _tile_by_tile(every_tile=True, output=lambda acc, total: acc),
              "What is your accumulator after the first tile: a sum, or already an average? What is added to it next?"),
        Wrong("log-sum-exp without the maximum", _tile_by_tile(lse=lambda top, total: np.log(total)),
              "The total is a sum of exp(score - top). What has to be added after the logarithm?"),
        Wrong("no maximum subtracted", _tile_by_tile(top_of=lambda top, new: np.zeros_like(new)),
              "Print the largest exponential of the input with the largest scores."),
        Wrong("top of the last tile alone", _tile_by_tile(top_of=lambda top, new: new, acc_fade=_one, total_fade=_one),
              "Which top is right when the largest score stood in an earlier tile?"),
        Wrong("tiles averaged", _average_of_tiles,
              "Does a tile with the best keys count as much as one with the worst?"),
        Wrong("no scale", _tile_by_tile(scale=False), "How large are your scores beside q @ k.T / sqrt(D)?"),
        Wrong("top without the total", _tile_by_tile(lse=lambda top, total: top),
              "Take two keys with equal scores: is the log of the sum of their exponentials the score, or more?"),
    ],
)  # fmt: skip
