"""Which tokens a machine of the ring holds, and with it how evenly the work of a causal mask falls.

    p   ranks (machines)      r   a rank, 0 .. p - 1      each holds one or two runs of tokens, in the order of their index

    contiguous   rank r has the r-th of p runs. Under a causal mask the last rank sees all runs, the first only its own.
    striped      rank r has the tokens r, r + p, ...: all ranks see about half of every block.
                 Brandon et al. 2023, "Striped Attention", arXiv:2311.09431
    zigzag       of 2 p runs rank r has the r-th and the r-th from the end: r + 1 and 2 p - r runs to see, 2 p + 1 for everyone.

Lengths need not divide: the first runs are longer by one.
"""
import numpy as np

from ..core.errors import OptionError
from ..core.shapes import count

SCHEDULES = "contiguous", "striped", "zigzag"


def shares(length, ranks, schedule="contiguous"):
    """The tokens of every rank, as a list of arrays of indices for each: one array, or with zigzag two.

    Parameters
    ----------
    length : int
    ranks : int
    schedule : {"contiguous", "striped", "zigzag"}

    Returns
    -------
    list of lists of arrays

    Examples
    --------
    >>> from minattn.ring import shares
    >>> [[run.tolist() for run in rank] for rank in shares(7, 2, "zigzag")]       # four runs: 0 1 | 2 3 | 4 5 | 6
    [[[0, 1], [6]], [[2, 3], [4, 5]]]
    """
    ranks, tokens = count("ranks", ranks, 1), np.arange(count("length", length, 0))
    if schedule == "contiguous":
        return [[run] for run in np.array_split(tokens, ranks)]
    if schedule == "striped":
        return [[tokens[rank::ranks]] for rank in range(ranks)]
    if schedule == "zigzag":
        runs = np.array_split(tokens, 2 * ranks)
        return [[runs[rank], runs[2 * ranks - 1 - rank]] for rank in range(ranks)]
    raise OptionError(f"schedule is {schedule!r}; it must be one of {', '.join(map(repr, SCHEDULES))}")
