"""RoPE: pairs of channels, turned by an angle that grows with the position.

    x (N, D)    positions (N,)    f_p = theta^(-2p / D)  radians a position, of pair p = 0 .. D/2 - 1

    (a, b) -> (a cos(m f_p) - b sin(m f_p),  a sin(m f_p) + b cos(m f_p)),   a, b = channels 2p, 2p + 1

Su et al. 2021, arXiv:2104.09864, eqs (14), (15) and (34): the interleaved layout.
"""
import numpy as np

from ..core.rope import rope as turned
from ..core.softmax import softmax
from .exercise import Exercise, Wrong


def _vectors(rng):
    """Positions that do not start at 0, that have gaps, that fall; no base twice."""
    cases = [(5, 8, np.array([3, 4, 5, 6, 7]), 10_000.0), (3, 6, np.array([41, 17, 2]), 500.0),
             (4, 10, np.array([0, 2, 7, 230]), 100_000.0)]
    return [(rng.standard_normal((n, d)), at, theta) for n, d, at, theta in cases]


def _turn(frequencies=lambda p, D, theta: theta ** (-2 * p / D), place=lambda at: at, sign=1.0, halves=False, stored=False,
          mixed=False):
    """RoPE with other frequencies, positions, sense of rotation, pairs, or order of the answer."""

    def fn(x, positions, theta):
        D = x.shape[-1]
        angle = place(positions)[:, None] * frequencies(np.arange(D // 2), D, theta)                 # (N, D / 2)
        cos, sin = np.cos(angle), sign * np.sin(angle)
        a, b = (x[:, : D // 2], x[:, D // 2 :]) if halves else (x[:, 0::2], x[:, 1::2])
        pair = (a * sin - b * cos, a * cos + b * sin) if mixed else (a * cos - b * sin, a * sin + b * cos)
        return np.concatenate(pair, axis=-1) if halves or stored else np.stack(pair, axis=-1).reshape(x.shape)

    return fn


rope = Exercise(
    name="rope", signature="rope(x, positions, theta)", lesson="06", outputs=["turned (N, D)"], inputs=_vectors,
    reference=lambda x, positions, theta: turned(x, positions, layout="interleaved", theta=theta),
    wrong=[
        Wrong("halves instead of neighbours", _turn(halves=True),
              "Turn a row with a single 1 in channel 0. In which two channels is the answer not 0?"),
        Wrong("pairs of neighbours, answer in halves", _turn(stored=True),
              "At position 0 nothing is turned. Is the answer x there, in x's own order?"),
        Wrong("turned the other way", _turn(sign=-1.0), "Turn (1, 0) by a small angle: which sign has the second number?"),
        Wrong("exponent p / D instead of 2p / D", _turn(lambda p, D, theta: theta ** (-p / D)),
              "Print the frequencies: the slowest of D/2 pairs is theta^(-(D - 2) / D)."),
        Wrong("exponent 2p / (D / 2)", _turn(lambda p, D, theta: theta ** (-4 * p / D)),
              "Print the frequencies: the slowest of D/2 pairs is theta^(-(D - 2) / D)."),
        Wrong("frequencies that grow", _turn(lambda p, D, theta: theta ** (2 * p / D)),
              "Which pair turns fastest, the first or the last?"),
        Wrong("the pairs counted from 1", _turn(lambda p, D, theta: theta ** (-2 * (p + 1) / D)),
              "By how many radians a position does the first pair turn?"),
        Wrong("one speed for all pairs", _turn(lambda p, D, theta: np.ones(len(p))), "Which argument is not used?"),
        Wrong("theta left at 10,000", _turn(lambda p, D, theta: 10_000.0 ** (-2 * p / D)), "Which argument is not used?"),
        Wrong("positions off by one", _turn(place=lambda at: at + 1), "What should happen to the row at position 0?"),
        Wrong("rows counted instead of positions", _turn(place=lambda at: np.arange(len(at))), "Which argument is not used?"),
        Wrong("positions measured from the first", _turn(place=lambda at: at - at[0]),
              "The first row of an input may stand at position 41. Is it turned?"),
        Wrong("sine and cosine exchanged", _turn(mixed=True), "What should happen to the row at position 0?"),
        Wrong("both signs plus", lambda x, positions, theta: _turn()(x, positions, theta) + 2 * _sines(x, positions, theta),
              "Is each pair as long after the turn as before?"),
    ],
)  # fmt: skip


def _sines(x, positions, theta):
    """b sin in the first channel of each pair, 0 in the second."""
    found = np.zeros_like(x)
    found[:, 0::2] = x[:, 1::2] * np.sin(positions[:, None] * theta ** (-np.arange(0, x.shape[-1], 2) / x.shape[-1]))
    return found


# --- in attention --------------------------------------------------------------------------------------------------


def _placed(rng):
    """D = Dv, so that values can be turned by mistake; queries that do not start where keys do."""
    cases = [(3, 5, 4, np.arange(2, 5), np.arange(5)), (4, 6, 6, np.array([9, 3, 14, 1]), np.array([0, 2, 5, 7, 11, 12])),
             (2, 7, 8, np.array([30, 31]), np.arange(25, 32))]
    return [(rng.standard_normal((n, d)), rng.standard_normal((s, d)), rng.standard_normal((s, d)), i, j)
            for n, s, d, i, j in cases]


def _rotated(q=1, k=1, v=0, layout="interleaved", scale=lambda q: q.shape[-1] ** -0.5, places=lambda i, j: (i, j)):
    """Attention in which q, k and v are turned by so many times their positions."""

    def fn(*args):
        queries, keys, values, i, j = args
        i, j = places(i, j)
        queries, keys, values = (turned(x, times * at, layout=layout) if times else x
                                 for x, times, at in ((queries, q, i), (keys, k, j), (values, v, j)))
        return softmax(queries @ keys.T * scale(queries)) @ values

    return fn


rope_attention = Exercise(
    name="rope_attention", signature="rope_attention(q, k, v, q_pos, k_pos)", lesson="06", outputs=["out (N, D)"],
    inputs=_placed, reference=_rotated(),
    wrong=[
        Wrong("values turned too", _rotated(v=1), "Does a position decide how much of a value arrives, or what arrives?"),
        Wrong("queries not turned", _rotated(q=0), "Move all positions by 100: does the output stay?"),
        Wrong("keys not turned", _rotated(k=0), "Move all positions by 100: does the output stay?"),
        Wrong("nothing turned", _rotated(q=0, k=0), "Which arguments are not used?"),
        Wrong("values turned alone", _rotated(q=0, k=0, v=1), "Which two vectors meet in a score?"),
        Wrong("keys turned the other way", _rotated(k=-1), "Move all positions by 100: does the output stay?"),
        Wrong("everything turned the other way", _rotated(q=-1, k=-1), "Compare your turned queries with those of ma.rope."),
        Wrong("turned twice", _rotated(q=2, k=2), "By which angle is a query at position 1 turned in its first pair?"),
        Wrong("rows counted instead of positions", _rotated(places=lambda i, j: (np.arange(len(i)), np.arange(len(j)))),
              "Which arguments are not used?"),
        Wrong("halves instead of neighbours", _rotated(layout="half"), "Which layout is asked for?"),
        Wrong("no scale", _rotated(scale=lambda q: 1.0), "Compare your scores with those of ma.steps on turned q and k."),
        Wrong("scaled by D", _rotated(scale=lambda q: 1 / q.shape[-1]),
              "Compare your scores with those of ma.steps on turned q and k."),
    ],
)  # fmt: skip
