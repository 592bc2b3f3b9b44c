"""The leaves that the named masks are made of: each a rule on positions, and what it says of whole tiles.

Of a tile one knows the extremes: its queries stand at positions from i_low to i_high, its keys from j_low to j_high. It is
settled by counting: of the integers that a position (or a distance i - j) can be in the tile, none has the property, so
the tile is hidden; or all of them have it, so it is visible; or one has to look.
"""
import numpy as np

from .mask import Mask


def surely(visible, hidden):
    """Of whole tiles: 1 where all of it is visible, -1 where all of it is hidden, 0 where one has to look."""
    return visible.astype(np.int8) - hidden.astype(np.int8)


def counted(found, low, high):
    """`surely`, where `found` of the integers from low to high have the property."""
    return surely(found == high - low + 1, found == 0)


def between(left, right, name):
    """i - j from -right to left, either of them None for unbounded."""
    whole = np.iinfo(np.int64)
    low, high = whole.min if right is None else -right, whole.max if left is None else left

    def known(t):
        nearest, farthest = t.i_low - t.j_high, t.i_high - t.j_low              # the least and the largest i - j of a tile
        return surely((low <= nearest) & (farthest <= high), (farthest < low) | (nearest > high))

    return Mask(lambda i, j: (i - j >= low) & (i - j <= high), name=name, known=known)


def every(stride):
    """i - j is a multiple of `stride`."""

    def known(t):
        low, high = t.i_low - t.j_high, t.i_high - t.j_low
        return counted(high // stride - (low - 1) // stride, low, high)

    return Mask(lambda i, j: (i - j) % stride == 0, name=f"every {stride}", known=known)


def columns(stride, first, width):
    """Of every `stride` keys the `width` from `first` on: (j - first) mod stride < width."""

    def up_to(j):
        return (j - first) // stride * width + np.minimum((j - first) % stride + 1, width)

    def known(t):
        return counted(up_to(t.j_high) - up_to(t.j_low - 1), t.j_low, t.j_high)

    return Mask(lambda i, j: (j - first) % stride < width, name=f"{width} of every {stride} keys", known=known)


def either(chosen):
    """i or j is among the `chosen` positions, which are in rising order."""

    def known(t):
        def of(low, high):
            return counted(np.searchsorted(chosen, high, "right") - np.searchsorted(chosen, low), low, high)

        return np.maximum(of(t.i_low, t.i_high), of(t.j_low, t.j_high))

    return Mask(lambda i, j: np.isin(i, chosen) | np.isin(j, chosen), name="global", known=known)


def listed(table):
    """j is in row i of `table`, (rows, width): a row has no number twice and -2 where it is short; other i see nothing."""
    rows = len(table)
    table = np.vstack([table, np.full_like(table, -2, shape=(1, table.shape[1]))])

    def rule(i, j):
        row = np.where((i >= 0) & (i < rows), i, rows)
        seen = np.zeros(np.broadcast_shapes(i.shape, j.shape), bool)
        for column in table.T:
            seen |= column[row] == j
        return seen

    def known(t):
        found: np.ndarray = np.zeros(np.broadcast_shapes(t.i_low.shape, t.j_low.shape), np.int64)
        for b, n in np.ndindex(found.shape[0], found.shape[2]):
            mine, yours = (b if len(ends) > 1 else 0 for ends in (t.i_low, t.j_low))
            low, high = (max(end[mine, 0, n, 0], 0) for end in (t.i_low, t.i_high + 1))
            here = np.sort(table[low:high], axis=None)
            found[b, 0, n] = np.searchsorted(here, t.j_high[yours, 0, 0], "right") - np.searchsorted(here, t.j_low[yours, 0, 0])
        size = (t.i_high - t.i_low + 1) * (t.j_high - t.j_low + 1)
        return surely(found == size, found == 0)

    return Mask(rule, name="listed", known=known)


def coarse(mask, size):
    """`mask`, but on the numbers of blocks of `size` positions: i // size and j // size in place of i and j."""

    def known(t):                                                     # the blocks of the extremes are the extreme blocks
        ends = {end: getattr(t, end) // size for end in ("i_low", "i_high", "j_low", "j_high")}
        return mask.known(t._replace(**ends))

    return Mask.node(
        lambda g: mask.at(g._replace(i=g.i // size, j=g.j // size)), f"{mask.name} in blocks of {size}",
        by_row=mask.by_row, sizes=mask.sizes, known=known,
    )  # fmt: skip
