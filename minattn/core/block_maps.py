"""The block map of a problem as kernels read it: tiles of block_q queries before block_k keys.

A map says of every tile whether it is empty, full or partial (core/blocks.py). Making it takes time that a mask which comes
again need not cost again, as in every layer of a model: so a rule's maps are kept for as long as the rule itself.
"""
import functools
import weakref

import numpy as np

from .blocks import EMPTY, BlockMap, block_map
from .mask import Mask

REMEMBERED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()       # mask: its block maps, at most MOST
MOST = 8
EVERYTHING = Mask(lambda i, j: j >= 0, name="everything", known=lambda t: (t.j_low >= 0).astype(np.int8))


class Blocks(BlockMap):
    """A block map with what kernels want besides: where the tiles of a row begin and end, tiles with keys down, and on a GPU
    the map itself."""

    @functools.cached_property
    def sent(self):
        """What a backend keeps of this map elsewhere, by where that is."""
        return {}

    @functools.cached_property
    def span(self):
        active = self.kind != EMPTY
        first = active.argmax(axis=-1)
        stop = active.shape[-1] - active[..., ::-1].argmax(axis=-1)
        return np.stack([first, np.where(active.any(axis=-1), stop, first)], axis=-1)

    @functools.cached_property
    def keys_first(self):
        return self.partial.swapaxes(-1, -2).copy(order="C")


def blocks_of(x, block_q, block_k):
    """The block map of the mask of `x`. That of a rule is remembered with the rule; an array may have changed."""
    if x.array is not None:
        rule = from_array(x.array)
        return Blocks(*block_map(rule if x.rule is None else rule & x.rule, x.grid(), block_q, block_k))
    rule = EVERYTHING if x.rule is None else x.rule
    maps = REMEMBERED.setdefault(rule, {})
    key = x.sizes, len(x.heads), block_q, block_k, *((pos.shape, pos.tobytes()) for pos in (x.q_pos, x.k_pos))
    found = maps.get(key)                                         # another thread may clear them meanwhile
    if found is None:
        if len(maps) >= MOST:
            maps.clear()
        found = maps[key] = Blocks(*block_map(rule, x.grid(), block_q, block_k))
    return found


def from_array(array):
    """A mask given as an array (B or 1, H or 1, N or 1, S or 1), as a rule that looks it up."""

    def at(g):
        where = zip((g.b, g.h, g.n, g.s), array.shape, strict=True)
        return array[tuple(0 if size == 1 else index for index, size in where)]

    return Mask.node(at, "array", by_row=True)
