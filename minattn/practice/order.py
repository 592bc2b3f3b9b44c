"""Positions that are added: sinusoids to the tokens, a penalty on distance to the scores; and a test of whether order counts.

    positions (N,)    rows (N, E): sin in even columns, cos in odd ones    bias (H, N, S) = -slope_h (i - j)

Vaswani et al. 2017, arXiv:1706.03762, section 3.5; Press et al. 2022, arXiv:2108.12409, section 3.
"""
from dataclasses import dataclass

import numpy as np

from ..attention import attention
from ..core import masks
from ..core.positions import alibi_bias, alibi_slopes, sinusoidal
from ..core.rope import rope
from .exercise import Exercise, Wrong


def _clocks(frequencies=lambda p, E: 10_000.0 ** (-2 * p / E), place=lambda at: at, first=np.sin, second=np.cos, halves=False):
    """Sinusoids with other frequencies, positions, functions, or order of the columns."""

    def fn(positions, E):
        angle = place(positions)[:, None] * frequencies(np.arange(E // 2), E)
        pair = first(angle), second(angle)
        return np.concatenate(pair, axis=-1) if halves else np.stack(pair, axis=-1).reshape(len(positions), E)

    return fn


sinusoid = Exercise(
    name="sinusoid", signature="sinusoid(positions, E)", lesson="06", outputs=["rows (N, E)"],
    inputs=lambda rng: [(np.arange(3, 8), 6), (np.array([41, 17, 2, 0]), 10), (np.array([5, 300]), 8)],
    reference=sinusoidal,
    wrong=[
        Wrong("exponent p / E instead of 2p / E", _clocks(lambda p, E: 10_000.0 ** (-p / E)),
              "Print the frequencies: the slowest of E/2 pairs is 10000^(-(E - 2) / E)."),
        Wrong("frequencies that grow", _clocks(lambda p, E: 10_000.0 ** (2 * p / E)),
              "Which hand turns fastest, the first or the last?"),
        Wrong("a frequency for each column",
              lambda positions, E: np.where(np.arange(E) % 2, *(f(positions[:, None] * 10_000.0 ** (-np.arange(E) / E))
                                                                for f in (np.cos, np.sin))),
              "Do the sine and the cosine of a pair belong to one angle?"),
        Wrong("all sines, then all cosines", _clocks(halves=True), "Which columns are sines?"),
        Wrong("cosine before sine", _clocks(first=np.cos, second=np.sin), "What should the row of position 0 look like?"),
        Wrong("positions off by one", _clocks(place=lambda at: at + 1), "What should the row of position 0 look like?"),
        Wrong("rows counted instead of positions", _clocks(place=lambda at: np.arange(len(at))), "Which argument is not used?"),
        Wrong("one speed for all pairs", _clocks(lambda p, E: np.ones(len(p))),
              "Do the columns on the right tell distant places apart?"),
        Wrong("turns instead of radians", _clocks(place=lambda at: 2 * np.pi * at),
              "By how many radians a position does the first pair turn?"),
        Wrong("sines alone", _clocks(second=np.sin), "What should the row of position 0 look like?"),
    ],
)  # fmt: skip


# --- ALiBi ---------------------------------------------------------------------------------------------------------


def _penalty(slopes=alibi_slopes, distance=lambda i, j: i - j, paid=lambda d, free: np.maximum(d - free, 0), hide=True, sign=-1.0,
             top_left=False):
    """ALiBi with other slopes, distance, free part or sign, without the mask, or aligned at the top left."""

    def fn(heads, N, S, free):
        i, j = np.arange(S - N, S)[:, None], np.arange(S)
        i = np.arange(N)[:, None] if top_left else i
        bias = sign * slopes(heads)[:, None, None] * paid(distance(i, j), free)
        return np.where(j <= i, bias, -np.inf) if hide else bias

    return fn


def _right(heads, N, S, free):
    bias = alibi_bias(alibi_slopes(heads), np.arange(S - N, S), np.arange(S))         # 0, -slope, -2 slope ...
    return np.where(masks.causal().dense(N, S), np.minimum(bias + free * alibi_slopes(heads)[:, None, None], 0), -np.inf)


def _h(heads):
    return np.arange(1, heads + 1)


alibi = Exercise(
    name="alibi", signature="alibi(heads, N, S, free)", lesson="06", outputs=["bias (H, N, S)"],
    inputs=lambda rng: [(8, 3, 9, 3), (4, 6, 6, 0), (2, 4, 8, 2)], reference=_right,
    wrong=[
        Wrong("the sign turned", _penalty(sign=1.0), "Does a distant key get more, or less?"),
        Wrong("the future open", _penalty(hide=False), "What is added to the score of a key that comes later?"),
        Wrong("distance in both directions", _penalty(distance=lambda i, j: abs(i - j), hide=False),
              "What is added to the score of a key that comes later?"),
        Wrong("the slopes start at 1", _penalty(lambda heads: 2.0 ** (-8 * (_h(heads) - 1) / heads)),
              "For 8 heads, what is the slope of head 0?"),
        Wrong("a slope halved from head to head", _penalty(lambda heads: 2.0 ** -_h(heads)),
              "The last head's slope is 2^-8, whatever the number of heads."),
        Wrong("slopes 1, 1/2, 1/3", _penalty(lambda heads: 1 / _h(heads)), "The slopes are powers of 2."),
        Wrong("the slopes backwards", _penalty(lambda heads: alibi_slopes(heads)[::-1]),
              "Which head looks least far, the first or the last?"),
        Wrong("head 0's slope for all", _penalty(lambda heads: np.full(heads, 2.0 ** (-8 / heads))),
              "Do two heads get the same numbers?"),
        Wrong("no slopes", _penalty(np.ones), "Do two heads get the same numbers?"),
        Wrong("the distance squared", _penalty(distance=lambda i, j: (i - j) ** 2),
              "How much more does distance 5 cost than distance 4?"),
        Wrong("the key's position instead of the distance", _penalty(distance=lambda i, j: j + 0 * i),
              "What does a token pay for looking at itself?"),
        Wrong("aligned at the top left", _penalty(top_left=True),
              "With N = 3 and S = 9 the queries are the last tokens. What does the last one pay for the last key?"),
        Wrong("nothing free", _penalty(paid=lambda d, free: d), "Which argument is not used?"),
        Wrong("one distance too many is free", _penalty(paid=lambda d, free: np.maximum(d - free - 1, 0)),
              "With free = 0, what does distance 1 cost?"),
        Wrong("one distance too few is free", _penalty(paid=lambda d, free: np.maximum(d - free + 1, 0)),
              "With free = 3, what does distance 3 cost?"),
        Wrong("a jump", _penalty(paid=lambda d, free: np.where(d > free, d, 0)),
              "With free = 3, what does distance 4 cost: one slope, or four?"),
        Wrong("one slope, however far", _penalty(paid=lambda d, free: d > free), "Does distance 6 cost more than distance 4?"),
        Wrong("near keys are paid for", _penalty(paid=lambda d, free: d - free), "What is added at distance 0?"),
        Wrong("the penalty ends where it should begin", _penalty(paid=np.minimum),
              "With free = 3, what does distance 3 cost?"),
    ],
)  # fmt: skip


# --- does a layer see order? ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """One head of attention with some kind of positions, or none; called with x (N, E)."""

    kind: str

    def __call__(self, x):
        at = np.arange(len(x))
        near = -0.4 * abs(at[:, None] - at)
        turned = rope(x, at, layout="half")
        out = {
            "no positions": lambda: attention(x, x, x),
            "each token by itself": lambda: np.tanh(x) * x[:, ::-1],
            "the mean of all tokens, added": lambda: x + x.mean(axis=0),
            "the mean of all tokens": lambda: np.tile(x.mean(axis=0), (len(x), 1)),
            "a causal mask": lambda: attention(x, x, x, causal=True),
            "sinusoids": lambda: attention(*[x + sinusoidal(at, x.shape[-1])] * 3),
            "RoPE": lambda: attention(turned, turned, x),
            "a penalty on distance, both ways": lambda: attention(x, x, x, bias=near),
        }[self.kind]
        return out()

    def __repr__(self):
        return self.kind


def _layers(rng):
    kinds = ["no positions", "a causal mask", "RoPE", "each token by itself", "a penalty on distance, both ways", "sinusoids",
             "the mean of all tokens, added", "the mean of all tokens"]
    return [(Layer(kind), rng.standard_normal((n, 6))) for kind, n in zip(kinds, [5, 8, 7, 3, 6, 5, 4, 6], strict=True)]


def _compared(order, before=lambda out, order: out[order], after=lambda out: out):
    """Whether a layer's output on the tokens in another order is not its output in that order."""

    def fn(layer, x):
        new = order(len(x))
        return not np.allclose(after(layer(x[new])), after(before(layer(x), new)))

    return fn


def _mixed(N):
    """An order that is no rotation and no reversal, and moves every token."""
    return np.random.default_rng(N).permutation(N) if N > 3 else np.roll(np.arange(N), 1)


sees_order = Exercise(
    name="sees_order", signature="sees_order(layer, x)", lesson="06", outputs=["sees"], inputs=_layers,
    reference=_compared(_mixed),
    wrong=[
        Wrong("the outputs are not put in the new order", _compared(_mixed, before=lambda out, order: out),
              "Attention without positions gives each token its own row. Where is the row of a token that has moved?"),
        Wrong("yes and no exchanged", lambda layer, x: not _compared(_mixed)(layer, x),
              "For a layer without positions, what should come out?"),
        Wrong("the order does not change", _compared(np.arange), "Print the order: is any token moved?"),
        Wrong("the tokens reversed, and no other order", _compared(lambda N: np.arange(N)[::-1]),
              "Which distances does a reversal change?"),
        Wrong("the last row alone, and the last token stays",
              _compared(lambda N: np.r_[np.roll(np.arange(N - 1), 1), N - 1], after=lambda out: out[-1]),
              "What does the last token see under a causal mask, in either order?"),
        Wrong("always", lambda layer, x: True, "For a layer without positions, what should come out?"),
    ],
)  # fmt: skip
