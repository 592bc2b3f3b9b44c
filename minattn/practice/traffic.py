"""What tiles cost: how many of them a causal mask leaves, and how many numbers move between slow and fast memory.

Dao et al. 2022, arXiv:2205.14135, Theorem 2 and Proposition 4. The right answers are not formulas: the tiles come from
the library's block map, the traffic from its ledger while the tiles run.
"""
import numpy as np

from ..core.inputs import prepare
from ..core.masks import causal
from ..flash.online import Ledger, forward
from .exercise import Exercise, Wrong


def _up(a, b):
    return -(-a // b)


def _counted_tiles(N, block_q, block_k):
    return np.count_nonzero(causal().blocks(N, N, block_q=block_q, block_k=block_k).kind)


def _causal_tiles(last=lambda n, N, block: min(n + block, N), up=_up):
    """A count with another last key of a block of queries, or another rounding."""
    return lambda N, block_q, block_k: sum(up(last(n, N, block_q), block_k) for n in range(0, N, block_q))


causal_tiles = Exercise(
    name="causal_tiles", signature="causal_tiles(N, block_q, block_k)", lesson="10", reference=_counted_tiles,
    inputs=lambda rng: [(22, 5, 4), (96, 16, 16), (50, 7, 16), (33, 16, 5)], outputs=["tiles"],
    wrong=[
        Wrong("all tiles", lambda N, block_q, block_k: _up(N, block_q) * _up(N, block_k),
              "Which keys may query 0 look at, and which tiles hold them?"),
        Wrong("tiles on the diagonal left out", _causal_tiles(last=lambda n, N, block: n),
              "May a query look at itself? In which tile does that pair lie?"),
        Wrong("tiles that are only full", _causal_tiles(last=lambda n, N, block: n + 1, up=lambda a, b: a // b),
              "A tile with one visible pair: can it be skipped?"),
        Wrong("counted for the first query of a block", _causal_tiles(last=lambda n, N, block: n + 1),
              "Which query of a block sees the most keys?"),
        Wrong("last block of queries not cut at N", _causal_tiles(last=lambda n, N, block: n + block),
              "Where does the last block of queries end, and how many keys are there?"),
        Wrong("last block of queries lost",
              lambda N, block_q, block_k: sum(_up(n + block_q, block_k) for n in range(0, N // block_q * block_q, block_q)),
              "How many queries are there beyond the last whole block, and which tiles do they look at?"),
        Wrong("one key too many", _causal_tiles(last=lambda n, N, block: min(n + block + 1, N)),
              "A block starts at query 0 and holds four. Which is its last query, and which the last key that it sees?"),
        Wrong("last block of keys lost", _causal_tiles(up=lambda a, b: a // b),
              "Ten keys in blocks of four: how many blocks do they touch?"),
        Wrong("half of all tiles", lambda N, block_q, block_k: _up(N, block_q) * _up(N, block_k) // 2,
              "Count by hand for N = 3 with tiles of 1 x 1."),
    ],
)  # fmt: skip


def _counted_traffic(N, S, D, block_q):
    """What the library's own ledger counts while the tiles run."""
    ledger = Ledger()
    forward(prepare(np.ones((N, D)), np.ones((S, D)), np.ones((S, D))), block_q=block_q, ledger=ledger)
    return ledger.moved


def _traffic(blocks=_up, rows=2, keys=2, lses=1, scores=0):
    """The formula with another count of something."""
    return lambda N, S, D, block_q: rows * N * D + blocks(N, block_q) * keys * S * D + lses * N + scores * N * S


flash_traffic = Exercise(
    name="flash_traffic", signature="flash_traffic(N, S, D, block_q)", lesson="10", reference=_counted_traffic,
    inputs=lambda rng: [(50, 77, 8, 16), (64, 33, 5, 16), (19, 130, 7, 32)], outputs=["moved"],
    wrong=[
        Wrong("last block of queries lost", _traffic(blocks=lambda N, b: N // b),
              "Fifty queries in blocks of sixteen: how many blocks?"),
        Wrong("keys and values read once in all", _traffic(blocks=lambda N, b: 1),
              "When the second block of queries starts, are the keys still in fast memory?"),
        Wrong("values not counted", _traffic(keys=1),
              "What does the second product of a tile multiply the weights with?"),
        Wrong("log-sum-exp not stored", _traffic(lses=0), "What leaves fast memory beside the output of a block?"),
        Wrong("queries or outputs not counted", _traffic(rows=1),
              "What has to be in fast memory before a block's first tile, and what leaves it after the last?"),
        Wrong("top and total stored apart", _traffic(lses=2),
              "With which single number can weights be made again and parts be merged?"),
        Wrong("scores counted", _traffic(scores=1),
              "Where do the scores of a tile live, and when are they forgotten?"),
        Wrong("as many keys as queries", lambda N, S, D, block_q: 2 * N * D + _up(N, block_q) * 2 * N * D + N,
              "How long is the walk of one block of queries: N keys, or S?"),
        Wrong("a part of a block counted as a part", lambda N, S, D, block_q: 2 * N * D + N / block_q * 2 * S * D + N,
              "Do two queries that are left over walk over fewer keys than a whole block?"),
        Wrong("keys read again for every query", _traffic(blocks=lambda N, b: N),
              "How many queries look at a block of keys while it is in fast memory?"),
    ],
)  # fmt: skip
