"""Reach: which tokens can influence which, after so many layers of masked attention.

    A   (N, N), token i sees token j in one layer, or is it (the residual stream carries a token's own past along)
    L   layers, `hops` in the code        R_L = A_L ... A_2 A_1 as a product of booleans        R_0 = the identity

A window of W keys reaches 1 + L (W - 1) tokens. Strided and fixed patterns reach all that came before in two hops:
Child et al. 2019, arXiv:1904.10509, section 4.2.
"""
import numpy as np

from ..core.errors import MaskError
from ..core.mask import Mask
from ..core.shapes import count


def reach(mask, hops, N, *, heads=1):
    """Whether token j can have influenced token i when `hops` layers have passed.

    Parameters
    ----------
    mask : Mask, or a sequence of them
        Of every layer; those of a sequence take turns, the first one in the first layer.
    hops : int
        Layers.
    N : int
        Tokens, each of them a query and a key.
    heads : int
        Of a rule that reads h: what any head sees counts.

    Returns
    -------
    bool array, (N, N), or (B, N, N) where rows of a batch differ
        True at [i, j] where j can have influenced i.

    Raises
    ------
    MaskError
        If mask is neither a Mask nor a sequence of them.
    OptionError
        If hops or N is below 0, or no integer.

    References
    ----------
    Child et al. 2019, "Sparse Transformer", arXiv:1904.10509, section 4.2.

    Examples
    --------
    With the last 3 keys, what token 8 knows reaches back 2 tokens a layer:

    >>> import minattn as ma
    >>> [int(ma.reach(ma.masks.last(3), hops, 9)[8].sum()) for hops in range(6)]
    [1, 3, 5, 7, 9, 9]

    Strided attention with a stride of 3, and all of the past two layers later:

    >>> first, second = (ma.reach(ma.masks.strided(3), hops, 9) for hops in (1, 2))
    >>> past = ma.masks.causal().dense(9, 9)
    >>> int(first.sum()), int(second.sum()), int(past.sum())
    (33, 45, 45)
    """
    masks = [mask] if isinstance(mask, Mask) else list(mask) if isinstance(mask, list | tuple) else []
    if not masks or not all(isinstance(one, Mask) for one in masks):
        raise MaskError(f"mask is {mask!r:.80}; reach needs a Mask, or a sequence of Masks, one a layer in turn")
    hops, N = count("hops", hops, 0), count("N", N, 0)
    layers = [_one_layer(one, N, heads) for one in masks[:hops]]
    reached = np.eye(N, dtype=bool)
    for hop in range(hops):
        # sums of so many zeros and ones cannot vanish or overflow in float32, and its product is the fast one
        reached = layers[hop % len(layers)] @ reached.astype(np.float32) > 0
    return reached


def _one_layer(mask, N, heads):
    """(N, N) or (B, N, N) ones and zeros: who sees whom in one layer, whatever the head, and everyone itself."""
    seen = mask.dense(N, N, heads=heads)
    if seen.ndim == 4:
        seen = seen.any(axis=1)
        seen = seen[0] if len(seen) == 1 else seen
    return (seen | np.eye(N, dtype=bool)).astype(np.float32)
