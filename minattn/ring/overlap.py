"""How much of the transfers hides behind the work: the forward with both at once, and with one after the other.

    apart      seconds of a forward in which the ranks work first and send afterwards, hop by hop
    work       what of it was work                    transfer   seconds of the same sends with no work at all
    together   seconds of the forward as it is        hidden     (apart - together) / transfer

1 is all of it. Where processes share a memory, a transfer is a copy made by the processors that should be at work, so with as
many ranks as cores part of it cannot hide; on a network it can.
"""
import time
from typing import NamedTuple

from .mpi import Rank, ring_attention

TELLING = 0.05                                                        # of the work: shorter transfers drown in its noise
NOISE = 0.15                                                          # how far beyond 0 and 1 a share may be by chance


class Overlap(NamedTuple):
    """Seconds of one rank, the least of several: what else the machine does can only lengthen the others."""

    work: float
    transfer: float
    apart: float
    together: float

    @property
    def hidden(self):
        return (self.apart - self.together) / self.transfer if self.transfer else 0.0

    def __str__(self):
        if self.transfer < TELLING * self.work:
            told = "transfers too short to tell what hides"
        elif not -NOISE <= self.hidden <= 1 + NOISE:
            told = "times too unsteady to tell what hides"
        else:
            told = f"{self.hidden:.0%} of the transfer hidden"
        times = f"work {self.work:.4f} s, transfer {self.transfer:.4f}, apart {self.apart:.4f}, together {self.together:.4f}"
        return f"{times}: {told}"


def measure(comm, q, k, v, *, length, repeats=9, **options):
    """The Overlap of this rank, whose arguments are those of mpi.ring_attention: three ways in turn, `repeats` times."""
    rank = Rank(comm, q, k, v, length, options.get("schedule", "contiguous"), options.get("causal", False), None, None, None)
    works = []

    def apart():
        _, spent = ring_attention(comm, q, k, v, length=length, overlap=False, **options)
        works.append(sum(spent.work))

    def together():
        ring_attention(comm, q, k, v, length=length, **options)

    def transfer():
        block = [rank.k, rank.v]
        for hop in range(comm.size - 1):
            block = rank.finish(rank.begin(block, (comm.rank - hop) % comm.size), block)

    times: dict = {apart: [], together: [], transfer: []}
    for _ in range(repeats):
        for run, taken in times.items():
            comm.Barrier()
            begun = time.perf_counter()
            run()
            taken.append(time.perf_counter() - begun)
    least = {run: min(taken) for run, taken in times.items()}
    return Overlap(min(works), least[transfer] if comm.size > 1 else 0.0, least[apart], least[together])
