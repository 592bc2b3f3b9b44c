"""Ring attention on p virtual machines in one process: queries stay, keys and values go round.

Liu et al. 2023, "Ring Attention with Blockwise Transformers", arXiv:2310.01889, Algorithm 1.

    p   ranks, each with its share of the queries, keys and values (shares.py)
    hop 0 .. p - 1   at hop t rank r has the keys and values of rank r - t, and passes them on to rank r + 1

    out, lse <- merge(out, lse, attention(queries of r, keys and values of r - t))

What a rank has is attention over the keys that have come by, and after p - 1 passes over all of them: `merge` is exact. No
rank ever holds more than two blocks of keys. The backward goes round once more: a block's gradients travel with it, each
rank adds its share (attention_backward with the out and lse of the whole), and after p passes they are home.

Positions are data, so a share may be any tokens: masks see the positions that the queries and keys had before.
"""
from typing import NamedTuple

import numpy as np

from ..attention import attention, attention_backward
from ..core.errors import MaskError, ShapeError
from ..core.inputs import prepare
from ..core.mask import Mask
from ..core.shapes import common_type, count, floats, working_type
from ..core.softmax import merge
from .shares import shares


class Hop(NamedTuple):
    """What one rank did at one hop."""

    hop: int
    rank: int
    source: int             # whose keys and values it had
    received: int           # bytes that came for this hop; the first block was there
    computed: int           # pairs of a run of queries and a run of keys in which somebody sees something
    pairs: int              # and how many pairs there were
    idle: float             # share of the hop that it waited for the busiest rank, if all pairs take as long
    lse: np.ndarray         # (..., H, N of this rank), of all keys so far


class RingGrads(NamedTuple):
    """Gradients with respect to q, k and v, each of its shape and type."""

    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray


def ring_attention(q, k, v, *, ranks, schedule="contiguous", causal=False, mask=None, scale=None, softcap=None,
                   return_lse=False, return_hops=False):  # fmt: skip
    """`attention`, computed by `ranks` machines in a ring, each with its share of the tokens; here they take turns.

    Parameters
    ----------
    q : array, (..., H, N, D), or (N, D) for one head
    k, v : arrays, (..., G, S, D) and (..., G, S, Dv)
    ranks : int
        p, how many machines share the N queries and the S keys.
    schedule : {"contiguous", "striped", "zigzag"}
        Who has which tokens: see `shares`.
    causal, mask, scale, softcap
        As for `attention`; mask is a rule (`Mask`) of positions.
    return_lse, return_hops : bool
        Also return the log-sum-exp (..., H, N), and the record of every rank at every hop.

    Returns
    -------
    out : array, (..., H, N, Dv)
        Or a tuple (out, lse, hops) of those asked for, in this order; hops is a list of p lists, one `Hop` for each rank.

    Raises
    ------
    OptionError
        If ranks or schedule is none that there is.
    MaskError
        If mask is an array, which has no positions; and whatever `attention` raises.

    References
    ----------
    Liu et al. 2023, arXiv:2310.01889, Algorithm 1.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 12, 8))         # H = 2, N = S = 12
    >>> out, hops = ma.ring_attention(q, k, v, ranks=3, causal=True, return_hops=True)
    >>> np.allclose(out, ma.attention(q, k, v, causal=True))
    True
    >>> [[hop.computed for hop in turn] for turn in hops]                         # rank 0 sees only its own keys
    [[1, 1, 1], [0, 1, 1], [0, 0, 1]]
    >>> _, hops = ma.ring_attention(q, k, v, ranks=3, causal=True, schedule="zigzag", return_hops=True)
    >>> [[hop.computed for hop in turn] for turn in hops]                         # the same 7 in all, evened out
    [[3, 3, 3], [2, 2, 2], [2, 2, 2]]
    """
    ring = Ring(q, k, v, ranks, schedule, causal, mask, scale, softcap)
    p, hops = ring.ranks, []
    outs = [[ring.nothing(run) for run in runs] for runs in ring.q_runs]          # (out, lse) of each run of each rank
    for hop in range(p):
        turn = []
        for rank in range(p):
            source = (rank - hop) % p
            pairs = [(i, j) for i in range(len(outs[rank])) for j in range(len(ring.k_runs[source]))]
            seen = [pair for pair in pairs if ring.somebody_sees(rank, source, *pair)]
            for i, j in seen:
                outs[rank][i] = merge(*outs[rank][i], *ring.forward(ring.q_runs[rank][i], ring.k_runs[source][j]))
            lse = np.concatenate([lse for _, lse in outs[rank]], axis=-1)
            turn.append(Hop(hop, rank, source, ring.bytes_of(source) if hop else 0, len(seen), len(pairs), 0.0, lse))
        most = max(one.computed for one in turn)
        hops.append([one._replace(idle=1 - one.computed / most if most else 0.0) for one in turn])
    results = [ring.home(outs, 0, -2).astype(ring.dtype)]
    if return_lse:
        results.append(ring.home(outs, 1, -1))
    if return_hops:
        results.append(hops)
    return results[0] if len(results) == 1 else tuple(results)


def ring_attention_backward(dout, q, k, v, *, ranks, schedule="contiguous", causal=False, mask=None, scale=None, softcap=None,
                            out=None, lse=None):  # fmt: skip
    """Gradients of `ring_attention`: keys and values go round with their gradients, to which each rank adds its share.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
    q, k, v and the options
        As for `ring_attention`.
    out, lse : arrays, (..., H, N, Dv) and (..., H, N), optional
        What the forward returned; they spare going round once more.

    Returns
    -------
    RingGrads(dq, dk, dv)
        Each of the shape and type of its argument.

    Raises
    ------
    ShapeError
        If dout, out or lse do not have the forward's shape; and whatever `ring_attention` raises.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v, dout = np.random.default_rng(0).standard_normal((4, 2, 12, 8))
    >>> ring = ma.ring_attention_backward(dout, q, k, v, ranks=3, causal=True)
    >>> whole = ma.attention_backward(dout, q, k, v, causal=True)
    >>> all(np.allclose(a, b) for a, b in zip(ring, whole))
    True
    """
    ring = Ring(q, k, v, ranks, schedule, causal, mask, scale, softcap)
    if out is None or lse is None:
        out, lse = ring_attention(q, k, v, ranks=ranks, schedule=schedule, causal=causal, mask=mask, scale=scale,
                                  softcap=softcap, return_lse=True)  # fmt: skip
    dout, out, lse = (floats(name, a) for name, a in (("dout", dout), ("out", out), ("lse", lse)))
    for name, a, shape in (("dout", dout, ring.out_shape), ("out", out, ring.out_shape), ("lse", lse, ring.out_shape[:-1])):
        if a.shape != shape:
            raise ShapeError(f"{name} is {a.shape}; it must be {shape}, as the forward returned it")
    dq, dk, dv = (np.zeros(a.shape, ring.work) for a in (ring.q, ring.k, ring.v))
    for hop in range(ring.ranks):
        for rank in range(ring.ranks):
            source = (rank - hop) % ring.ranks
            for i, rows in enumerate(ring.q_runs[rank]):
                for j, keys in enumerate(ring.k_runs[source]):
                    if ring.somebody_sees(rank, source, i, j):
                        share = ring.backward(dout, out, lse, rows, keys)
                        dq[..., rows, :] += share.dq
                        dk[..., keys, :] += share.dk                              # these travel with their block
                        dv[..., keys, :] += share.dv
    return RingGrads(*(grad.astype(a.dtype) for grad, a in zip((dq, dk, dv), (ring.q, ring.k, ring.v), strict=True)))


class Ring:
    """The problem, checked once, and its shares."""

    def __init__(self, q, k, v, ranks, schedule, causal, mask, scale, softcap):
        if mask is not None and not isinstance(mask, Mask):
            raise MaskError("mask is an array; ring attention deals the tokens out anew and wants a rule of positions (a Mask)")
        x = prepare(q, k, v, mask=mask, causal=causal, scale=scale, softcap=softcap)
        self.rule, self.heads, self.batch = x.rule, x.q.shape[1], x.batch
        self.q, self.k, self.v = (floats(name, a) for name, a in zip("qkv", (q, k, v), strict=True))
        self.dtype = common_type(q=self.q, k=self.k, v=self.v)
        self.work = working_type(self.dtype)
        N, S = self.q.shape[-2], self.k.shape[-2]
        self.ranks, self.q_pos, self.k_pos = count("ranks", ranks, 1), np.arange(S - N, S), np.arange(S)
        self.q_runs, self.k_runs = shares(N, ranks, schedule), shares(S, ranks, schedule)
        self.options: dict = {"mask": x.rule, "scale": x.scale, "softcap": softcap}
        self.out_shape = (*x.lead, *self.q.shape[-3:-2], N, self.v.shape[-1])
        self.met: dict = {}

    def nothing(self, rows):
        """(out, lse) before any key has come by."""
        shape = (*self.out_shape[:-2], len(rows))
        return np.zeros((*shape, self.out_shape[-1]), self.work), np.full(shape, -np.inf, self.work)

    def somebody_sees(self, rank, source, i, j):
        """Whether any query of a run may look at any key of another: what nobody sees is not computed."""
        rows, keys = self.q_runs[rank][i], self.k_runs[source][j]
        if not len(rows) or not len(keys):
            return False
        if self.rule is None:
            return True
        key = rank, source, i, j
        if key not in self.met:
            tiles = self.rule.blocks(len(rows), len(keys), block_q=len(rows), block_k=len(keys), batch=self.batch,
                                     heads=self.heads, q_pos=self.q_pos[rows], k_pos=self.k_pos[keys])  # fmt: skip
            self.met[key] = bool(tiles.kind.any())
        return self.met[key]

    def part(self, rows, keys):
        """(q, k, v) of two runs, and where they stand."""
        q, k, v = (a[..., run, :].astype(self.work, copy=False) for a, run in ((self.q, rows), (self.k, keys), (self.v, keys)))
        return q, k, v, {"q_pos": self.q_pos[rows], "k_pos": self.k_pos[keys], **self.options}

    def forward(self, rows, keys):
        q, k, v, options = self.part(rows, keys)
        return attention(q, k, v, return_lse=True, **options)

    def backward(self, dout, out, lse, rows, keys):
        q, k, v, options = self.part(rows, keys)
        dout, out = (a[..., rows, :].astype(self.work, copy=False) for a in (dout, out))
        return attention_backward(dout, q, k, v, out=out, lse=lse[..., rows], **options)

    def home(self, outs, which, axis):
        """What the ranks have, put back into the order of the tokens."""
        runs = [run for rank in outs for run in rank]
        order = np.argsort(np.concatenate([run for rank in self.q_runs for run in rank]))
        return np.take(np.concatenate([run[which] for run in runs], axis=axis), order, axis=axis)

    def bytes_of(self, source):
        """Keys and values of a rank, as they are sent."""
        tokens = sum(map(len, self.k_runs[source]))
        return sum(a[..., :1, :].size * a.itemsize for a in (self.k, self.v)) * tokens
