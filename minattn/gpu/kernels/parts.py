"""What the kernels share: how a dot product becomes a score, and the number that stands for a hidden one.

Inside of a kernel hidden scores are LOW, since under fast arithmetic nothing may be infinite; what leaves a kernel is exact:
0 for the weight of what is hidden, and 0 and -inf for a row that sees nothing.
"""
import math

import numpy as np

from ...core.blocks import EMPTY, FULL
from ..problem import cuda  # noqa: F401  a function of a module with a global `cuda` is set over another one

LOW = np.float32(-1e30)
FLOOR = np.float32(-5e29)                                             # where a running maximum begins: exp(LOW - FLOOR) is 0


def make_finish(block_q, block_k, biased, capped):
    """The steps of core/reference.py from a dot product to a score: scale, softcap, bias, mask."""

    def finish(x, score, b, h, n, s):
        """The score of query n before key s of head h in row b, LOW where it is hidden."""
        tile = b * x.kind_b + h * x.kind_h + n // block_q * ((x.S + block_k - 1) // block_k) + s // block_k
        if x.kind[tile] == EMPTY:
            return LOW
        if x.kind[tile] != FULL and not x.partial[(x.stored[tile] * block_q + n % block_q) * block_k + s % block_k]:
            return LOW
        score = score * x.scale
        if capped:
            score = x.softcap * math.tanh(score / x.softcap)
        if biased:
            score = score + x.bias[b * x.bias_b + h * x.bias_h + n * x.bias_n + s * x.bias_s]
        return score

    return finish
