"""Telling attention where a token stands: sinusoids, a learned table, and ALiBi. (rope.py and xpos.py are files of their own.)

Without positions attention is a bag of words: permuting keys with their values changes nothing.

    sinusoidal   added to x:      Vaswani et al. 2017, arXiv:1706.03762, section 3.5
    learned      added to x:      a table with one row a position, as in GPT-2
    ALiBi        on the scores:   Press et al. 2022, arXiv:2108.12409, section 3
"""
from typing import NamedTuple

import numpy as np

from .errors import OptionError, PositionError, ShapeError
from .rope import Llama3Scaling, change_layout, rope, rope_backward, rope_frequencies
from .shapes import as_array, count, integers
from .xpos import xpos, xpos_backward, xpos_decay

__all__ = [
    "Llama3Scaling", "alibi_bias", "alibi_slopes", "change_layout", "learned", "learned_backward",
    "rope", "rope_backward", "rope_frequencies", "sinusoidal",
    "xpos", "xpos_backward", "xpos_decay",
]  # fmt: skip


def sinusoidal(positions, dim, *, base=10_000.0):
    """One row a position: sin in even columns, cos in odd ones, each pair slower than the one before.

    Parameters
    ----------
    positions : array, (..., N)
    dim : int
        E, even.
    base : float
        The slowest pair turns once in about 2 pi base positions.

    Returns
    -------
    array, (..., N, E)

    Raises
    ------
    OptionError
        If dim is odd.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.5.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> ma.positions.sinusoidal(np.arange(2), 4).round(2)
    array([[0.  , 1.  , 0.  , 1.  ],
           [0.84, 0.54, 0.01, 1.  ]])
    """
    if dim < 2 or dim % 2:
        raise OptionError(f"dim = {dim}; sinusoids come in pairs, so E must be even")
    angle = as_array("positions", positions)[..., None] * rope_frequencies(dim, base)                # (..., N, E / 2)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(*angle.shape[:-1], dim)


def learned(table, positions):
    """Rows of a trained table: (length, E), (..., N) -> (..., N, E). A position beyond it is an error, not a wrap-around.

    Raises
    ------
    PositionError
        If a position is negative or beyond the table, which is how such a model ends at its trained length.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> ma.positions.learned(np.array([[1.0], [2.0], [3.0]]), [2, 0]).ravel()
    array([3., 1.])
    """
    table, positions = np.asarray(table), as_array("positions", positions)
    if table.ndim != 2:
        raise ShapeError(f"table is {table.shape}; it must be (length, E)")
    if positions.dtype.kind not in "iu":
        raise PositionError(f"positions are {positions.dtype}; they must be integers")
    if positions.size and not 0 <= positions.min() <= positions.max() < len(table):
        reach = f"from {positions.min()} to {positions.max()}"
        raise PositionError(f"positions reach {reach}, but the table has rows 0 to {len(table) - 1}")
    return table[positions]


class LearnedGrads(NamedTuple):
    """What `learned_backward` returns."""

    dtable: np.ndarray


def learned_backward(dout, table, positions):
    """Gradient of `learned` with respect to the table, as LearnedGrads(dtable): each row collects what reached it.

    Raises
    ------
    ShapeError
        If dout is not (..., N, E); and whatever `learned` raises.
    """
    rows = learned(table, positions)
    if np.shape(dout) != rows.shape:
        raise ShapeError(f"dout is {np.shape(dout)}; it must be (..., N, E) = {rows.shape}")
    dtable = np.zeros_like(np.asarray(table))
    np.add.at(dtable, np.asarray(positions), dout)
    return LearnedGrads(dtable)


def alibi_slopes(heads):
    """How much each head minds distance, (H,): 2^(-8 h / H) for h = 1 .. H.

    For H that is no power of two, the slopes of the power of two below, then every other slope of the one above, as in
    the paper's code.

    Examples
    --------
    >>> import minattn as ma
    >>> ma.positions.alibi_slopes(4)
    array([0.25      , 0.0625    , 0.015625  , 0.00390625])
    """
    heads = count("heads", heads, 1)
    below = 1 << (heads.bit_length() - 1)
    slopes = 2.0 ** (-8 * np.arange(1, below + 1) / below)
    between = 2.0 ** (-8 * np.arange(1, 2 * below + 1, 2) / (2 * below))
    return np.concatenate([slopes, between])[:heads]


def alibi_bias(slopes, q_pos, k_pos):
    """-slope_h (i - j), to be added to the scores: (H,), (..., N), (..., S) -> (..., H, N, S).

    The same without an N x S array: `score_mod=lambda s, b, h, i, j: s - slopes[h] * (i - j)`.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> ma.positions.alibi_bias(np.array([0.5]), np.arange(3), np.arange(3))[0, 2]
    array([-1. , -0.5, -0. ])
    """
    distance = integers("q_pos", q_pos)[..., :, None] - integers("k_pos", k_pos)[..., None, :]          # (..., N, S)
    return -np.asarray(slopes)[:, None, None] * distance[..., None, :, :]
