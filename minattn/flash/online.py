"""FlashAttention in plain NumPy: attention tile by tile, without ever holding the N x S scores.

Dao et al. 2022, arXiv:2205.14135 (keys outside, Algorithm 1); Dao 2023, arXiv:2307.08691 (queries outside, Algorithms 1
and 2). Milakov and Gimelshein 2018, arXiv:1805.02867, for the softmax that is computed while the scores are still coming.

    block_q, block_k   rows and columns of a tile           top    largest score of a row so far, m in the papers
    tile               the scores of one block of queries   total  sum of exp(score - top) so far, l in the papers
                       before one block of keys             acc    sum of exp(score - top) * value so far

When a larger score comes along, what was summed under the old top is brought under the new one by a factor that is at
most 1, `fade` = exp(old top - new top):

    total <- fade * total + rowsum(exp(tile - top))         out = acc / total      one division, at the end
    acc   <- fade * acc   + exp(tile - top) @ values        lse = top + log total  all that the backward needs of P

What a tile is (scale, softcap, score_mod, bias, mask) core/reference.py says; a tile is one more attention problem.
With a `Ledger` the numbers moved between slow and fast memory are counted, for each head and N = S, D = Dv:

    all at once     4 N D + 4 N^2                                              (Q, K, V, O; scores and P out and in)
    keys outside    2 N D + ceil(N / block_k) (3 N D + 2 N)                    the paper's l and m make 4 N, one lse 2 N
    queries outside 2 N D + N + ceil(N / block_q) 2 S D
"""
from dataclasses import dataclass

import numpy as np

from ..core import reference
from ..core.reference import group, product, ungroup
from ..core.softmax import merge, softmax_lse


@dataclass
class Ledger:
    """Numbers read from and written to slow memory. What stays inside a tile is free: that is the whole idea."""

    read: int = 0
    written: int = 0

    @property
    def moved(self):
        return self.read + self.written

    def load(self, *arrays):
        self.read += sum(a.size for a in arrays)

    def store(self, *arrays):
        self.written += sum(a.size for a in arrays)


def blocks(length, size):
    """Slices of at most `size` that cover `length`; the last may be short."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def tile_scores(tile):
    """(masked scores, visible pairs) of a tile, or None where nobody sees anything: such a tile is not even loaded."""
    visible = tile.visible()
    if visible is not None and not visible.any():
        return None
    scores = reference.last_stage(tile)
    return scores, reference.visible_pairs(tile, scores)


def forward(x, *, block_q=64, block_k=64, ledger=None):
    """(out, None for the weights, lse) of the problem `x`, queries outside: each block of queries walks over all keys once."""
    ledger = Ledger() if ledger is None else ledger
    (B, H, N, _), G, Dv = x.q.shape, x.k.shape[1], x.v.shape[-1]
    out, lse = np.empty((B, H, N, Dv), x.work), np.empty((B, H, N), x.work)
    for rows in blocks(N, block_q):
        here = x.tile(rows, slice(None))
        ledger.load(here.q)
        size = here.q.shape[2]
        top, total = np.full((B, H, size), -np.inf, x.work), np.zeros((B, H, size), x.work)
        acc = np.zeros((B, H, size, Dv), x.work)
        for keys in blocks(x.k.shape[2], block_k):
            tile = here.tile(slice(None), keys)
            seen = tile_scores(tile)
            if seen is None:
                continue
            ledger.load(tile.k, tile.v)
            scores, pairs = seen
            old, top = top, np.maximum(top, scores.max(axis=-1))
            base = np.where(np.isneginf(top), 0, top)             # a row that has seen nothing yet: exp(-inf - 0) is 0
            p = np.exp(scores - base[..., None])                  # (B, H, block_q, block_k)
            fade = np.exp(old - base)
            total = fade * total + p.sum(axis=-1)
            values = product(group(p, G), pairs, tile.v.astype(x.work, copy=False))
            acc = fade[..., None] * acc + ungroup(values, H)
        with np.errstate(divide="ignore"):                        # log 0 = -inf is the right answer for an empty row
            lse[:, :, rows] = top + np.log(total)
        out[:, :, rows] = acc / np.where(total == 0, 1, total)[..., None]
        ledger.store(out[:, :, rows], lse[:, :, rows])
    out, lse = with_sink(x, out, lse)
    return out, None, lse


def forward_keys_outside(x, *, block_k=64, block_q=64, ledger=None):
    """As `forward`, in the order of FlashAttention 1: a block of keys visits all queries, and joins what they had by `merge`.

    Each row's output is read and written once for every block of keys, where `forward` keeps it until it is finished.
    """
    ledger = Ledger() if ledger is None else ledger
    (B, H, N, _), G, Dv = x.q.shape, x.k.shape[1], x.v.shape[-1]
    out, lse = np.zeros((B, H, N, Dv), x.work), np.full((B, H, N), -np.inf, x.work)
    for keys in blocks(x.k.shape[2], block_k):
        here = x.tile(slice(None), keys)
        ledger.load(here.k, here.v)
        for rows in blocks(N, block_q):
            tile = here.tile(rows, slice(None))
            seen = tile_scores(tile)
            if seen is None:
                continue
            ledger.load(tile.q, out[:, :, rows], lse[:, :, rows])
            scores, pairs = seen
            p, tile_lse = softmax_lse(scores)
            tile_out = ungroup(product(group(p, G), pairs, tile.v.astype(x.work, copy=False)), H)
            out[:, :, rows], lse[:, :, rows] = merge(out[:, :, rows], lse[:, :, rows], tile_out, tile_lse)
            ledger.store(out[:, :, rows], lse[:, :, rows])
    out, lse = with_sink(x, out, lse)
    return out, None, lse


def with_sink(x, out, lse):
    """A sink is one more part of the keys, with value 0 and its logit as log-sum-exp."""
    if x.sink_logits is None:
        return out, lse
    sink = np.broadcast_to(x.sink_logits.astype(x.work)[:, None], lse.shape)
    return merge(out, lse, np.zeros_like(out), sink)


def backward(x, dout, out=None, lse=None, score_mod_grad=None, *, block_q=64, block_k=64):
    """dq, dk, dv, dbias, dsink of the problem `x`: P of each tile is made again from the scores and the lse.

    FlashAttention-2, Algorithm 2: keys outside, so that dk and dv of a block are finished when its queries have passed;
    dq collects a share from every block of keys, always in the same order. dbias has the N x S size of the bias.
    """
    if out is None:
        out, _, lse = forward(x, block_q=block_q, block_k=block_k)
    (B, _, N, _), (_, G, S, D) = x.q.shape, x.k.shape
    delta = reference.row_delta(x, dout, out)                               # (B, H, N), once for all tiles
    dq = np.zeros(x.q.shape, x.work)
    dk, dv = np.zeros((B, G, S, D), x.work), np.zeros((B, G, S, x.v.shape[-1]), x.work)
    dbias = None if x.bias is None else np.zeros(x.bias.shape, x.work)
    for keys in blocks(S, block_k):
        for rows in blocks(N, block_q):
            tile = x.tile(rows, keys)
            visible = tile.visible()
            if visible is not None and not visible.any():
                continue
            named = dict(reference.stages(tile))
            p, _ = reference.normalize(tile, named["masked"], lse[:, :, rows])
            parts = reference.pairs_backward(tile, named, p, dout[:, :, rows], delta[:, :, rows], score_mod_grad)
            dq[:, :, rows] += parts[0]
            dk[:, :, keys] += parts[1]
            dv[:, :, keys] += parts[2]
            if dbias is not None:
                collect(dbias, parts[3], rows, keys)
    return dq, dk, dv, dbias, reference.sink_backward(x, lse.astype(x.work, copy=False), delta)


def collect(dbias, ds, rows, keys):
    """Add a tile's dS to the gradient of the bias, summed over the axes along which the bias is shared."""
    shared = tuple(axis for axis in range(4) if dbias.shape[axis] == 1)
    here = slice(None) if dbias.shape[2] == 1 else rows, slice(None) if dbias.shape[3] == 1 else keys
    dbias[:, :, here[0], here[1]] += ds.sum(axis=shared, keepdims=True)


def weights(x, lse=None, top=None, *, block_q=64):
    """The weights of `x`, or the largest of each row, made block by block: beside the result, only block_q x S exists."""
    (B, H, N, _), S = x.q.shape, x.k.shape[2]
    if top is None:
        results: tuple = (np.empty((B, H, N, S), x.work),)
    else:
        results = np.empty((B, H, N, top), np.intp), np.empty((B, H, N, top), x.work)
    for rows in blocks(N, block_q):
        parts = reference.weights(x.tile(rows, slice(None)), None if lse is None else lse[:, :, rows], top)
        for whole, part in zip(results, parts, strict=True):
            whole[:, :, rows] = part
    return results
