"""Streaming: a window that keeps the first tokens, with positions counted inside the cache, for text without end.

Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks", arXiv:2309.17453, section 3.2.

    i  a query's position       j  a key's       W  window, the latest keys, the query's own among them       f  first tokens

    seen       j > i - W, or j < f, and j <= i
    distance   i - j to a key of the window; c(i) - j to a first token, where c(i) = min(i, f + W - 1)

A cache of f + W keys numbers what it holds from 0: the first tokens keep their numbers, the window moves up behind them. So a
query stands at c(i), no distance is ever larger than f + W - 1, and a model never meets one that it was not trained on.

`RollingCache` does this one token at a time, as a stream comes. Here all queries of a text are computed at once, to the
same result: within the window distances are what they always were, and for the first tokens the query is rotated to c(i).
Two attentions over two disjoint sets of keys, joined by `merge`.
"""
import functools

import numpy as np

from ..attention import attention, merge
from ..core import masks
from ..core.errors import OptionError
from ..core.rope import rope as rotated
from ..core.shapes import count, integers


def streaming_attention(q, k, v, *, window, first=4, rope=None, causal=True, q_pos=None, k_pos=None, scale=None,
                        return_weights=False, return_lse=False):  # fmt: skip
    """Attention to the latest keys and to the first ones, at the distances that a cache of just these would count.

    Parameters
    ----------
    q : array, (..., H, N, D)
    k : array, (..., G, S, D)
        Both rotated to their positions in the text, where there is RoPE.
    v : array, (..., G, S, Dv)
    window : int
        W: keys that a query sees up to its own.
    first : int
        f: keys at the start of the text that it sees as well.
    rope : dict, optional
        Keyword arguments of `rope` with which q and k were rotated, such as `{"layout": "half"}`; None leaves distances alone.
    causal : True
        There is no other way; it is here so that a model can call this in place of `attention`.
    q_pos, k_pos, scale
        As for `attention`.
    return_weights, return_lse : bool
        Also return the weights (..., H, N, S), and the log-sum-exp (..., H, N).

    Returns
    -------
    out : array, (..., H, N, Dv)
        Or a tuple (out, weights, lse) of those asked for, in this order.

    Raises
    ------
    OptionError
        If window is below 1, first below 0 or causal not True; and whatever `attention` and `rope` raise.

    References
    ----------
    Xiao et al. 2023, arXiv:2309.17453, section 3.2.

    Examples
    --------
    Without RoPE it is a mask. With it, a late query is as far from the first token as one whose cache has just filled up:

    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 50, 8))         # H = G = 2, 50 tokens, D = 8
    >>> mask = ma.masks.last(6) | ma.masks.first(2)
    >>> out = ma.streaming_attention(q, k, v, window=6, first=2)
    >>> np.allclose(out, ma.attention(q, k, v, mask=mask, causal=True))
    True
    >>> turn, n = {"layout": "half"}, np.arange(50)
    >>> out = ma.streaming_attention(ma.rope(q, n, **turn), ma.rope(k, n, **turn), v, window=6, first=2, rope=turn)
    >>> inside = np.r_[0, 1, 44:50]                                               # what the last token's cache holds
    >>> again = [ma.rope(a[:, inside], np.arange(8), **turn) for a in (q, k)]
    >>> np.allclose(out[:, -1], ma.attention(*again, v[:, inside], causal=True)[:, -1])
    True
    """
    window, first = count("window", window, 1), count("first", first, 0)
    if causal is not True:
        raise OptionError(f"causal = {causal!r}; a stream has no tokens to come, so it must be True")
    if rope is not None and not isinstance(rope, dict):
        raise OptionError(f"rope is {rope!r}; it must be a dictionary of what `rope` is told, such as {{'layout': 'half'}}")
    options = {"causal": True, "q_pos": q_pos, "k_pos": k_pos, "scale": scale, "return_weights": return_weights}
    near, far = _parts(window, first)
    parts = [attention(q, k, v, mask=near, return_lse=True, **options)]
    if first:
        if rope is not None:
            N, S = np.shape(q)[-2], np.shape(k)[-2]
            position = np.arange(S - N, S) if q_pos is None else integers("q_pos", q_pos)
            q = rotated(q, np.minimum(position, first + window - 1) - position, **rope)       # a turn back, from i to c(i)
        parts.append(attention(q, k, v, mask=far, return_lse=True, **options))
    out, lse = parts[0][0], parts[0][-1]
    for other in parts[1:]:
        out, lse = merge(out, lse, other[0], other[-1])
    results = [out]
    if return_weights:                                                            # each part's share of the whole softmax
        shares = [np.where(np.isinf(lse), 0, np.exp(part[-1] - np.where(np.isinf(lse), 0, lse))) for part in parts]
        results.append(sum(part[1] * share[..., None] for part, share in zip(parts, shares, strict=True)).astype(out.dtype))
    if return_lse:
        results.append(lse)
    return results[0] if len(results) == 1 else tuple(results)


@functools.lru_cache(maxsize=8)                # the same Mask for the same sizes, so that its map of tiles is made once
def _parts(window, first):
    """The window without the first tokens, and the first tokens."""
    return masks.last(window) & ~masks.first(first), masks.first(first)
