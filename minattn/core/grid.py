"""Where a mask is evaluated: at entries (`Grid`), or over whole tiles at once (`Tiles`).

    i   position of a query      n   index of a query, 0 .. N-1      b   row of the batch
    j   position of a key        s   index of a key, 0 .. S-1        h   query head
"""
from typing import NamedTuple

import numpy as np


class Grid(NamedTuple):
    """Where a mask is evaluated: integer arrays that broadcast to (B, H, N, S), and the sizes of the whole problem."""

    b: np.ndarray
    h: np.ndarray
    i: np.ndarray
    j: np.ndarray
    n: np.ndarray
    s: np.ndarray
    sizes: tuple  # (B, N, S) of the whole, of which b, n and s may be a part


def grid(q_pos, k_pos, *, batch=1, heads=1, rows=None, columns=None, sizes=None):
    """A `Grid` for positions (N,) or (B, N) and (S,) or (B, S); `heads`, `rows` and `columns` may be chosen indices."""
    q_pos, k_pos = np.atleast_2d(q_pos), np.atleast_2d(k_pos)
    n, s = q_pos.shape[-1], k_pos.shape[-1]
    heads = np.arange(heads) if np.ndim(heads) == 0 else np.asarray(heads)
    return Grid(
        b=np.arange(batch)[:, None, None, None],
        h=heads[None, :, None, None],
        i=q_pos[:, None, :, None],
        j=k_pos[:, None, None, :],
        n=(np.arange(n) if rows is None else np.asarray(rows))[None, None, :, None],
        s=(np.arange(s) if columns is None else np.asarray(columns))[None, None, None, :],
        sizes=(batch, n, s) if sizes is None else sizes,
    )


class Tiles(NamedTuple):
    """The tiles of a block map: the extremes of the positions in each, as arrays that broadcast to (B, H, rows, columns)."""

    b: np.ndarray
    h: np.ndarray
    i_low: np.ndarray
    i_high: np.ndarray
    j_low: np.ndarray
    j_high: np.ndarray
    n_starts: np.ndarray  # index of the first query of each row of tiles
    s_starts: np.ndarray  # index of the first key of each column of tiles


def extremes(values, starts):
    """(smallest, largest) of `values` (..., length) in each tile that begins at `starts`: two arrays (..., tiles)."""
    return np.minimum.reduceat(values, starts, axis=-1), np.maximum.reduceat(values, starts, axis=-1)


def tiles(where, n_starts, s_starts):
    """The `Tiles` of a `Grid`."""
    (i_low, i_high), (j_low, j_high) = extremes(where.i[:, 0, :, 0], n_starts), extremes(where.j[:, 0, 0, :], s_starts)
    return Tiles(
        where.b, where.h, i_low[:, None, :, None], i_high[:, None, :, None], j_low[:, None, None, :], j_high[:, None, None, :],
        n_starts, s_starts,
    )  # fmt: skip
