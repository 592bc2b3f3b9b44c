"""Block map: the scores cut into tiles, each of them empty, full or partial.

A kernel that works tile by tile skips the empty ones, checks nothing in the full ones, and reads the booleans of the
partial ones from a small store in which equal tiles stand once: all tiles on the diagonal of a causal mask are one.
Dao et al. 2022, arXiv:2205.14135, section 3.3 (block-sparse FlashAttention); Dong et al. 2024, arXiv:2412.05496,
section 3.2 (BlockMask).

Most tiles are settled by arithmetic on the extremes of their positions (`Mask.known`): a tile whose last key stands
before its first query is full under a causal mask. Only what this leaves open is evaluated, one row of tiles at a time.
"""
from typing import NamedTuple

import numpy as np

from .grid import tiles

EMPTY, FULL, PARTIAL = 0, 1, 2


class BlockMap(NamedTuple):
    """Made by `Mask.blocks`. B and H are 1 where all rows, or all heads, have the same tiles."""

    kind: np.ndarray     # (B, H, rows, columns) uint8: EMPTY, FULL or PARTIAL
    stored: np.ndarray   # (B, H, rows, columns) int32: a partial tile's place in the store, -1 for the others
    partial: np.ndarray  # (P, block_q, block_k) bool, each different tile once; beyond N and S it is False
    block_q: int
    block_k: int

    @property
    def active(self):
        """The share of tiles that are not empty: of the work, what is left to do."""
        return float((self.kind != EMPTY).mean()) if self.kind.size else 0.0

    def __repr__(self):
        rows, columns = self.kind.shape[2:]
        size = f"{rows} x {columns} tiles of {self.block_q} x {self.block_k}"
        lines = [" ".join(".#+"[kind] for kind in row[:32]) for first in self.kind[:1, 0] for row in first[:16].tolist()]
        return "\n".join([f"<BlockMap {size}: # full, + partial ({len(self.partial)} stored), . empty>", *lines])


def block_map(mask, where, block_q, block_k):
    """The `BlockMap` of a mask at a `Grid`."""
    N, S = where.i.shape[2], where.j.shape[3]
    n_starts, s_starts = np.arange(0, N, block_q), np.arange(0, S, block_k)
    if not N or not S:
        nothing = np.full((1, 1, len(n_starts), len(s_starts)), EMPTY, np.uint8)
        return BlockMap(nothing, nothing - np.int32(1), np.zeros((0, block_q, block_k), bool), block_q, block_k)
    corner = mask.at(where._replace(i=where.i[:, :, :1], j=where.j[..., :1], n=where.n[:, :, :1], s=where.s[..., :1]))
    whole = tiles(where, n_starts, s_starts)
    slots = (whole.j_low >= 0).astype(np.int8) - (whole.j_high < 0)                # a key at -1 is an empty slot
    known = np.minimum(mask.known(whole), slots)
    # b and h of full size only where the rule or the positions need it
    B, H = np.broadcast_shapes(corner.shape[:2], where.i.shape[:2], where.j.shape[:2], known.shape[:2])
    known = np.broadcast_to(known, (B, H, len(n_starts), len(s_starts)))
    kind = np.where(known > 0, FULL, EMPTY).astype(np.uint8)
    stored = np.full(kind.shape, -1, np.int32)
    store: dict[bytes, int] = {}
    for b, h, row in np.argwhere((known == 0).any(axis=-1)):
        columns = np.flatnonzero(known[b, h, row] == 0)
        looked = _look(mask, where, (b, h), n_starts[row], s_starts[columns], block_q, block_k)
        seen = np.count_nonzero(looked, axis=(1, 2))
        real = min(block_q, N - n_starts[row]) * np.minimum(block_k, S - s_starts[columns])
        kind[b, h, row, columns] = np.where(seen == real, FULL, np.where(seen > 0, PARTIAL, EMPTY))
        for tile in np.flatnonzero((seen > 0) & (seen < real)):
            stored[b, h, row, columns[tile]] = store.setdefault(looked[tile].tobytes(), len(store))
    partial = np.frombuffer(b"".join(store), bool).reshape(-1, block_q, block_k)
    return BlockMap(kind, stored, partial, block_q, block_k)


def _look(mask, where, row_and_head, n_start, s_starts, block_q, block_k):
    """Booleans (tiles, block_q, block_k) of one row of tiles, at the columns that begin at `s_starts`."""
    b, h = row_and_head
    N, S = where.i.shape[2], where.j.shape[3]
    n = np.arange(n_start, min(n_start + block_q, N))
    s = (s_starts[:, None] + np.arange(block_k)).ravel()
    real, s = s < S, np.minimum(s, S - 1)
    i, j = where.i[b if len(where.i) > 1 else 0, 0, n, 0], where.j[b if len(where.j) > 1 else 0, 0, 0, s]
    part = where._replace(
        b=where.b[b : b + 1], h=where.h[:, h : h + 1], i=i[None, None, :, None], j=j[None, None, None, :],
        n=where.n[:, :, n], s=where.s[..., s],
    )  # fmt: skip
    seen = np.zeros((block_q, len(s)), bool)
    seen[: len(n)] = mask.at(part)[0, 0] & real & (j >= 0)
    return np.ascontiguousarray(seen.reshape(block_q, len(s_starts), block_k).swapaxes(0, 1))
