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

from ..core.errors import MaskError, ShapeError
from ..core.inputs import prepare
from ..core.mask import Mask
from ..core.shapes import common_type, floats, sum_to, working_type
from .runs import Keys, Options, Queries, nothing, visit, visit_backward
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
    p, hops = len(ring.queries), []
    outs = [[nothing(run, ring.v.shape[-1]) for run in runs] for runs in ring.queries]        # (out, lse) of each run
    for hop in range(p):
        turn = []
        for rank in range(p):
            source = (rank - hop) % p
            block = ring.keys[source]
            outs[rank], computed = visit(outs[rank], ring.queries[rank], block, ring.options)
            received = sum(run.k.size + run.v.size for run in block) * ring.dtype.itemsize if hop else 0
            lse = np.concatenate([lse for _, lse in outs[rank]], axis=-1)
            turn.append(Hop(hop, rank, source, received, computed, len(ring.queries[rank]) * len(block), 0.0, lse))
        most = max(one.computed for one in turn)
        hops.append([one._replace(idle=1 - one.computed / most if most else 0.0) for one in turn])
    results = [ring.home([out for runs in outs for out, _ in runs], -2).astype(ring.dtype, copy=False)]
    if return_lse:
        results.append(ring.home([lse for runs in outs for _, lse in runs], -1))
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
    p = len(ring.queries)
    dqs = [[np.zeros_like(run.q) for run in runs] for runs in ring.queries]
    dkeys = [[(np.zeros_like(run.k), np.zeros_like(run.v)) for run in runs] for runs in ring.keys]
    wide = dout.astype(ring.work), out.astype(ring.work)
    parts = [[[a[..., rows, :] for rows in runs] for runs in ring.q_runs] for a in wide]
    lses = [[lse[..., rows] for rows in runs] for runs in ring.q_runs]
    for hop in range(p):
        for rank in range(p):
            source = (rank - hop) % p                                             # its gradients have come with the block
            douts, outs = parts[0][rank], list(zip(parts[1][rank], lses[rank], strict=True))
            visit_backward(douts, outs, ring.queries[rank], ring.keys[source], ring.options, dqs[rank], dkeys[source])
    dq = ring.home([run for runs in dqs for run in runs], -2)
    dk, dv = (ring.home([run[n] for runs in dkeys for run in runs], -2, ring.k_runs) for n in (0, 1))
    given = (floats(name, a) for name, a in zip("qkv", (q, k, v), strict=True))
    return RingGrads(*(sum_to(grad, a.shape).astype(a.dtype, copy=False) for grad, a in zip((dq, dk, dv), given, strict=True)))


class Ring:
    """The problem, checked once, and what each rank has of it."""

    def __init__(self, q, k, v, ranks, schedule, causal, mask, scale, softcap):
        if mask is not None and not isinstance(mask, Mask):
            raise MaskError("mask is an array; ring attention deals the tokens out anew and wants a rule of positions (a Mask)")
        x = prepare(q, k, v, mask=mask, causal=causal, scale=scale, softcap=softcap)
        q, k, v = (floats(name, a) for name, a in zip("qkv", (q, k, v), strict=True))
        self.dtype = common_type(q=q, k=k, v=v)
        self.work = working_type(self.dtype)                                      # partial results stay wide
        q, k, self.v = (a.astype(self.work, copy=False) for a in (q, k, v))
        q = np.broadcast_to(q, (*x.lead, *q.shape[-3 if q.ndim > 2 else -2:]))    # rows that only k or v has
        N, S = q.shape[-2], k.shape[-2]
        self.q_runs, self.k_runs = shares(N, ranks, schedule), shares(S, ranks, schedule)
        self.queries = [[Queries(q[..., rows, :], S - N + rows) for rows in runs] for runs in self.q_runs]
        self.keys = [[Keys(k[..., keys, :], self.v[..., keys, :], keys) for keys in runs] for runs in self.k_runs]
        self.options = Options(x.rule, x.scale, softcap, x.batch, x.q.shape[1])
        self.out_shape = (*q.shape[:-1], self.v.shape[-1])

    def home(self, parts, axis, runs=None):
        """What the ranks have, run after run, put back into the order of the tokens."""
        order = np.argsort(np.concatenate([run for rank in runs or self.q_runs for run in rank]))
        return np.take(np.concatenate(parts, axis=axis), order, axis=axis)
