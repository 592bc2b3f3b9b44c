"""What a rank does with the keys that come by: its queries attend to them, run by run, and the results join.

    run     neighbouring tokens of one rank (shares.py)     Queries, Keys   arrays of one run and where its tokens stand
    visit   queries of a rank before a block of keys: out, lse <- merge(out, lse, attention(queries, keys))
"""
from typing import Any, NamedTuple

import numpy as np

from ..attention import attention, attention_backward
from ..core.mask import Mask
from ..core.softmax import merge


class Queries(NamedTuple):
    """A run of queries, (..., H, n, D), and their positions."""

    q: np.ndarray
    pos: np.ndarray


class Keys(NamedTuple):
    """A run of keys and values, (..., G, m, D) and (..., G, m, Dv), and their positions."""

    k: np.ndarray
    v: np.ndarray
    pos: np.ndarray


class Options(NamedTuple):
    """What `attention` is to do."""

    mask: Mask | None
    scale: float
    softcap: float | None
    batch: int
    heads: int

    def sees(self, queries, keys):
        """Whether any query of a run may look at any key of another: what nobody sees is not computed."""
        N, S = len(queries.pos), len(keys.pos)
        if not N or not S:
            return False
        if self.mask is None:
            return True
        tiles = self.mask.blocks(N, S, batch=self.batch, heads=self.heads, q_pos=queries.pos, k_pos=keys.pos)
        return bool(tiles.kind.any())

    def given(self, queries, keys) -> dict[str, Any]:
        return {"mask": self.mask, "scale": self.scale, "softcap": self.softcap, "q_pos": queries.pos, "k_pos": keys.pos}


def nothing(queries, value_dim):
    """(out, lse) of a run before any key has come by."""
    shape = queries.q.shape[:-1]
    return np.zeros((*shape, value_dim), queries.q.dtype), np.full(shape, -np.inf, queries.q.dtype)


def visit(outs, queries, block, options):
    """The (out, lse) of each run of queries after a block of runs of keys, and how many pairs of runs were computed."""
    outs, computed = list(outs), 0
    for i, rows in enumerate(queries):
        for keys in block:
            if options.sees(rows, keys):
                part = attention(rows.q, keys.k, keys.v, return_lse=True, **options.given(rows, keys))
                outs[i], computed = merge(*outs[i], *part), computed + 1
    return outs, computed


@np.errstate(invalid="ignore", over="ignore")                                      # NaN and inf that are given go through
def visit_backward(douts, outs, queries, block, options, dqs, dblock):
    """Add what these queries and a block give: to dqs, an array a run of queries, and to dblock, (dk, dv) a run of keys.

    Returns how many pairs of runs were computed.
    """
    computed = 0
    for dout, (out, lse), rows, dq in zip(douts, outs, queries, dqs, strict=True):
        for keys, (dk, dv) in zip(block, dblock, strict=True):
            if options.sees(rows, keys):
                share = attention_backward(dout, rows.q, keys.k, keys.v, out=out, lse=lse, **options.given(rows, keys))
                dq += share.dq
                dk += share.dk
                dv += share.dv
                computed += 1
    return computed
