"""When a transfer hides behind the work: how long a rank's share must be, and what a ring of many machines then takes.

Liu et al. 2023, arXiv:2310.01889, section 3 and Table 2.

    c  tokens of a rank     F  floating point operations a second     B  bytes a second to the next rank
    d  width of all heads   p  ranks                                  numbers of 2 bytes

At one hop a rank computes 4 d c^2 operations and receives keys and values, 2 * 2 d c bytes. The transfer hides where
4 d c / B <= 4 d c^2 / F, which is

    c >= F / B

whatever d is. This is arithmetic on data sheets: no machine was measured.
"""
from typing import NamedTuple

from ..core.errors import OptionError


class Machine(NamedTuple):
    """Operations a second, and bytes a second to a neighbour, as their makers give them."""

    flops: float
    bandwidth: float


MACHINES = {
    "A100, NVLink": Machine(312e12, 300e9),
    "A100, InfiniBand": Machine(312e12, 12.5e9),
    "TPU v3": Machine(123e12, 112e9),
    "TPU v4": Machine(275e12, 268e9),
    "TPU v5e": Machine(196e12, 186e9),
}


class Cost(NamedTuple):
    """Of one pass of the forward over all keys: seconds a hop of work and of transfer, in all, and whether transfer hides."""

    work: float
    transfer: float
    total: float
    hidden: bool


def least_tokens(machine):
    """F / B: from so many tokens a rank on, a transfer takes no longer than the work on a block.

    Examples
    --------
    >>> from minattn.ring.cost import MACHINES, least_tokens
    >>> {name: round(least_tokens(name)) for name in MACHINES}                    # the paper's Table 2, minimal blocks
    {'A100, NVLink': 1040, 'A100, InfiniBand': 24960, 'TPU v3': 1098, 'TPU v4': 1026, 'TPU v5e': 1054}
    """
    flops, bandwidth = named(machine)
    return flops / bandwidth


def cost(length, ranks, machine, *, width, number=2, overlap=True):
    """What a full (not causal) forward over `length` tokens costs on `ranks` machines in a ring.

    Parameters
    ----------
    length, ranks : int
    machine : str or Machine
        A name in MACHINES, or its numbers.
    width : int
        d, all heads together.
    number : int
        Bytes of a number that is sent.
    overlap : bool
        Whether transfers run beside the work; without, their times add up.

    Examples
    --------
    >>> from minattn.ring.cost import cost
    >>> cost(2**20, 1024, "A100, NVLink", width=4096).hidden, cost(2**20, 512, "A100, NVLink", width=4096).hidden
    (False, True)
    """
    flops, bandwidth = named(machine)
    tokens = length / ranks
    work, transfer = 4 * width * tokens**2 / flops, 2 * number * width * tokens / bandwidth if ranks > 1 else 0.0
    hop = max(work, transfer) if overlap else work + transfer
    return Cost(work, transfer, work + (ranks - 1) * hop, transfer <= work)


def named(machine):
    if isinstance(machine, Machine):
        return machine
    if machine not in MACHINES:
        known = ", ".join(map(repr, MACHINES))
        raise OptionError(f"machine is {machine!r}; known are {known}, or give a Machine(flops, bandwidth)")
    return MACHINES[machine]
