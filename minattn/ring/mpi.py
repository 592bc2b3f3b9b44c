"""Ring attention on real processes: MPI carries the keys and values round while each rank is at work on those it has.

Liu et al. 2023, arXiv:2310.01889, Algorithm 1, with mpi4py. What is computed is local.py's, run by run (runs.py); what is new is
the transfer:

    hop t     begin to send what is here to rank r + 1 and to receive into the other of two buffers from rank r - 1,
              compute, wait for both transfers, exchange the buffers

Nothing blocks while there is work, so a transfer costs time only as far as it takes longer than a block of attention. Two
ranks that both sent first and received afterwards, each waiting for the other, would wait for ever. MPI moves a large message
only while somebody is inside of a call to it, so a thread keeps calling while the rank is at work (`Transfer`; what that gains
is measured by overlap.py).

In the backward a block travels with its gradients (float32 or better), to which every rank adds before it passes them on;
after p passes they are at home again.
"""
import itertools
import threading
import time
from typing import Any, NamedTuple

import numpy as np

from ..attention import attention
from ..core.errors import DependencyError, OptionError, ShapeError
from ..core.inputs import prepare
from ..core.shapes import common_type, floats, working_type
from ..core.softmax import merge
from .local import RingGrads
from .runs import Keys, Options, Queries, nothing, visit, visit_backward
from .shares import shares

PAUSE = 0.001                                                         # seconds between two looks at a transfer


class Spent(NamedTuple):
    """What one rank did: seconds at work and waiting for transfers, bytes sent, and pairs of runs computed, hop by hop."""

    work: list
    wait: list
    sent: list
    computed: list

    @property
    def idle(self):
        """Share of the time in which the rank waited."""
        total = sum(self.work) + sum(self.wait)
        return sum(self.wait) / total if total else 0.0


def load_mpi():
    """The module mpi4py.MPI."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise DependencyError("a ring of processes needs MPI: pip install 'minattn[mpi]'") from error
    return MPI


def dealt(length, ranks, schedule):
    """The runs of every rank; an OptionError where not every run has a token."""
    runs = shares(length, ranks, schedule)
    if min(len(run) for one in runs for run in one) == 0:
        raise OptionError(f"{ranks} ranks for {length} tokens under {schedule!r}: some would have none; start fewer")
    return runs


def ring_attention(comm: Any, q, k, v, *, length, schedule="contiguous", causal=False, mask=None, scale=None, softcap=None,
                   return_lse=False, overlap=True):  # fmt: skip
    """`attention` over all ranks of a communicator, each of which gives, and gets, its own share of the tokens.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    q : array, (..., H, n, D)
        This rank's queries, in the order of `shares(length, comm.size, schedule)[comm.rank]`.
    k, v : arrays, (..., G, n, D) and (..., G, n, Dv)
        Its keys and values, of the same tokens.
    length : int
        N, the tokens of all ranks.
    schedule, causal, mask, scale, softcap
        As for local.ring_attention; the same on every rank.
    return_lse : bool
    overlap : bool
        Whether blocks travel while the ranks are at work; False has everybody work first and send afterwards.

    Returns
    -------
    out : array, (..., H, n, Dv), or (out, lse)
        Of this rank's queries.
    spent : Spent
        Always last: what this rank did.

    Raises
    ------
    OptionError
        If there are more ranks than runs of tokens can be dealt to.
    ShapeError
        If this rank's arrays do not hold its share.
    """
    rank = Rank(comm, q, k, v, length, schedule, causal, mask, scale, softcap)
    outs = [nothing(run, rank.Dv) for run in rank.queries]
    spent, block = Spent([], [], [], []), [rank.k, rank.v]
    for hop in range(comm.size):
        source, more = (comm.rank - hop) % comm.size, hop + 1 < comm.size
        coming = rank.begin(block, source) if more and overlap else None
        begun = time.perf_counter()
        outs, computed = visit(outs, rank.queries, rank.keys(block, source), rank.options)
        done = time.perf_counter()
        if more and not overlap:
            coming = rank.begin(block, source)
        block = rank.account(spent, coming, block, done - begun, done, computed)
    out = np.concatenate([out for out, _ in outs], axis=-2).astype(rank.dtype, copy=False)
    lse = np.concatenate([lse for _, lse in outs], axis=-1)
    return (out, lse, spent) if return_lse else (out, spent)


def ring_attention_backward(comm: Any, dout, q, k, v, *, out, lse, length, schedule="contiguous", causal=False, mask=None,
                            scale=None, softcap=None):  # fmt: skip
    """Gradients of `ring_attention` for this rank's tokens.

    Parameters
    ----------
    dout, out, lse : arrays, (..., H, n, Dv), the same, and (..., H, n)
        Of this rank's queries: the gradient, and what the forward returned.
    comm, q, k, v, length and the options
        As for `ring_attention`.

    Returns
    -------
    RingGrads(dq, dk, dv), Spent
    """
    rank = Rank(comm, q, k, v, length, schedule, causal, mask, scale, softcap)
    shape = (*rank.q.shape[:-1], rank.Dv)
    dout, out, lse = (floats(name, a).astype(rank.work, copy=False) for name, a in (("dout", dout), ("out", out), ("lse", lse)))
    for name, a, wanted in (("dout", dout, shape), ("out", out, shape), ("lse", lse, shape[:-1])):
        if a.shape != wanted:
            raise ShapeError(f"{name} is {a.shape} on rank {comm.rank}; it must be {wanted}")
    dq, spent = np.zeros_like(rank.q), Spent([], [], [], [])
    rows = rank.parts(comm.rank)
    block = [rank.k, rank.v, np.zeros_like(rank.k), np.zeros_like(rank.v)]         # keys, values, and their gradients
    for hop in range(comm.size):
        source, begun = (comm.rank - hop) % comm.size, time.perf_counter()
        coming = rank.begin(block[:2], source) if hop + 1 < comm.size else None      # the gradients are not finished yet
        dblock = [tuple(a[..., part, :] for a in block[2:]) for part in rank.parts(source)]
        ends = [(out[..., part, :], lse[..., part]) for part in rows]
        computed = visit_backward([dout[..., part, :] for part in rows], ends, rank.queries, rank.keys(block, source),
                                  rank.options, [dq[..., part, :] for part in rows], dblock)  # fmt: skip
        done = time.perf_counter()
        going = rank.begin(block[2:], source, tag=2)
        block[:2] = rank.account(spent, coming, block[:2], done - begun, done, computed)
        spent.sent[-1] += sum(a.nbytes for a in block[2:]) if comm.size > 1 else 0
        waiting = time.perf_counter()
        block[2:] = rank.finish(going, block[2:])
        spent.wait[-1] += time.perf_counter() - waiting
    grads = (g.astype(a.dtype, copy=False) for g, a in zip((dq, *block[2:]), (q, k, v), strict=True))
    return RingGrads(*grads), spent


class Rank:
    """One rank's share of the problem, checked, and its transfers."""

    def __init__(self, comm, q, k, v, length, schedule, causal, mask, scale, softcap):
        self.comm, self.MPI = comm, load_mpi()
        self.runs = runs = dealt(length, comm.size, schedule)
        x = prepare(q, k, v, mask=mask, causal=causal, scale=scale, softcap=softcap)
        self.dtype = common_type(q=x.q, k=x.k, v=x.v)
        self.work = working_type(self.dtype)
        self.q, self.k, self.v = (np.ascontiguousarray(a, self.work) for a in (q, k, v))
        held = sum(map(len, runs[comm.rank]))
        if self.q.shape[-2] != held or self.k.shape[-2] != held:
            given = f"rank {comm.rank} has N = {self.q.shape[-2]} queries and S = {self.k.shape[-2]} keys"
            raise ShapeError(f"{given}, but its share of {length} tokens over {comm.size} ranks is {held}")
        self.Dv = self.v.shape[-1]
        self.options = Options(x.rule, x.scale, softcap, x.batch, x.q.shape[1])
        mine = zip(self.parts(comm.rank), runs[comm.rank], strict=True)
        self.queries = [Queries(self.q[..., part, :], run) for part, run in mine]

    def parts(self, rank):
        """Where the runs of a rank stand in its arrays."""
        ends = np.cumsum([0, *map(len, self.runs[rank])])
        return [slice(a, b) for a, b in itertools.pairwise(ends)]

    def keys(self, block, source):
        runs = zip(self.parts(source), self.runs[source], strict=True)
        return [Keys(block[0][..., part, :], block[1][..., part, :], run) for part, run in runs]

    def begin(self, arrays, source, tag=0):
        """Begin to pass arrays of rank `source` on, and to receive those of the rank before: (requests, buffers)."""
        p, before = self.comm.size, (source - 1) % self.comm.size
        tokens, to, since = sum(map(len, self.runs[before])), (self.comm.rank + 1) % p, (self.comm.rank - 1) % p
        buffers = [np.empty((*a.shape[:-2], tokens, a.shape[-1]), a.dtype) for a in arrays]
        requests = [self.comm.Irecv(a, since, tag + n) for n, a in enumerate(buffers)]
        requests += [self.comm.Isend(a, to, tag + n) for n, a in enumerate(arrays)]
        return Transfer(self.MPI, requests, buffers)

    def finish(self, coming, arrays):
        """What has come, when both directions are done; the arrays themselves where nothing was to come."""
        return arrays if coming is None else coming.wait()

    def account(self, spent, coming, block, worked, done, computed):
        """Wait for a transfer, and note what the hop took; returns what has come."""
        sent = sum(a.nbytes for a in block) if coming else 0
        block = self.finish(coming, block)
        for record, value in zip(spent, (worked, time.perf_counter() - done, sent, computed), strict=True):
            record.append(value)
        return block


class Transfer:
    """Arrays on their way in both directions, and a thread that calls MPI now and then, so that they move during the work."""

    def __init__(self, MPI, requests, buffers):
        self.MPI, self.requests, self.buffers, self.over = MPI, requests, buffers, threading.Event()
        self.thread = None
        if MPI.Query_thread() == MPI.THREAD_MULTIPLE:                 # else MPI forbids it, and all moves in `wait`
            self.thread = threading.Thread(target=self.push, daemon=True)
            self.thread.start()

    def push(self):
        while not self.over.wait(PAUSE) and not self.MPI.Request.Testall(self.requests):
            pass

    def wait(self):
        """What has come."""
        self.over.set()
        if self.thread:
            self.thread.join()
        self.MPI.Request.Waitall(self.requests)
        return self.buffers


def tree_decode(comm: Any, q, k, v, **options):
    """Attention of the same few queries to keys that are spread over the ranks, joined in ceil(log2 p) steps and back.

    Shyam et al. 2024, "Tree Attention", arXiv:2408.04093: the softmax over all keys is a reduction by `merge`, so it can go up
    a tree: at step s the rank r + 2^s hands what it has to rank r. Only (out, lse) travel, whatever the cache holds.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    q : array, (..., H, N, D)
        The same on every rank.
    k, v : arrays, (..., G, S, D) and (..., G, S, Dv)
        This rank's part of the cache; S may be 0.
    **options
        As for `attention`.

    Returns
    -------
    (out, lse), the same on every rank
    """
    work = working_type(common_type(q=floats("q", q), k=floats("k", k), v=floats("v", v)))
    out, lse = attention(*(np.asarray(a, work) for a in (q, k, v)), return_lse=True, **options)
    step = 1
    while step < comm.size:
        if comm.rank % (2 * step) == step:
            comm.Send(np.ascontiguousarray(out), comm.rank - step, 1)
            comm.Send(np.ascontiguousarray(lse), comm.rank - step, 2)
        elif comm.rank % (2 * step) == 0 and comm.rank + step < comm.size:
            other = np.empty_like(out), np.empty_like(lse)
            comm.Recv(other[0], comm.rank + step, 1)
            comm.Recv(other[1], comm.rank + step, 2)
            out, lse = merge(out, lse, *other)
        step *= 2
    out, lse = np.ascontiguousarray(out), np.ascontiguousarray(lse)
    comm.Bcast(out, 0)
    comm.Bcast(lse, 0)
    return out, lse
