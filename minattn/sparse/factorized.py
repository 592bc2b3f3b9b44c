"""Strided and fixed attention (Sparse Transformer) in O(N sqrt N) time, as parts of the one kernel joined by `merge`.

    l   stride     c   summary keys of a block     i   position of a query     j   position of a key     ' = // l

Child et al. 2019, arXiv:1904.10509, sections 4.2 and 4.3. How parts are computed and joined: parts.py.

    strided, near    i - j <= l                        attention in a window; tiles beyond it are skipped
    strided, far     (i - j) mod l = 0, i' - j' >= 2   of each residue mod l the tokens as a sequence of their own: k[r::l],
                                                       views of the same arrays; causal attention, two keys short
    fixed, near      i' = j'                           attention within a block; tiles beyond it are skipped
    fixed, far       j a summary key, j' < i'          attention to the summary keys, gathered; causal in blocks

Every visible pair is in one part and in one only: the column's nearest keys, at distances 0 and l, lie in the window.
Of up to FEW queries each is a part of its own before its far keys, so a decoding step reads the keys that it sees and no other.
As a mask the same pattern would leave half of all tiles for the kernel to compute: see core/patterns.py.
"""
import functools

import numpy as np

from ..core import masks
from ..core.patterns import summary_columns
from ..core.shapes import count
from .parts import Part, backward, forward

FEW = 8                               # up to so many queries, each reads its own far keys: far fewer than all residues have


def strided_attention(q, k, v, *, stride, scale=None, softcap=None, backend="auto", return_lse=False):
    """Attention under `masks.strided(stride)`: every query sees the last keys, and each stride-th key before them.

    Parameters
    ----------
    q : array, (..., H, N, D), or (N, D) for one head
    k : array, (..., G, S, D)
    v : array, (..., G, S, Dv)
        The last query stands at the last key.
    stride : int
        l, near sqrt(S) for the least work. A query sees l + 1 near keys, and those at distances 2 l, 3 l, ...
    scale, softcap, backend
        As for `attention`.
    return_lse : bool
        Also return the log-sum-exp, (..., H, N).

    Returns
    -------
    out : array, (..., H, N, Dv)
        Or (out, lse).

    Raises
    ------
    OptionError
        If stride is below 1 or no integer; and whatever `attention` raises.

    References
    ----------
    Child et al. 2019, "Sparse Transformer", arXiv:1904.10509, section 4.3.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 50, 8))         # H = 2, N = S = 50
    >>> out = ma.strided_attention(q, k, v, stride=7)
    >>> np.allclose(out, ma.attention(q, k, v, mask=ma.masks.strided(7)))
    True
    """
    return forward(_strided_parts, (stride,), (q, k, v), {"scale": scale, "softcap": softcap}, backend, return_lse)


def strided_attention_backward(dout, q, k, v, *, stride, out=None, lse=None, scale=None, softcap=None, backend="auto"):
    """Gradients of `strided_attention`.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
    out, lse : arrays, optional
        What the forward returned, both or neither; they spare computing it again.
    q, k, v, stride and the options
        As they were given to `strided_attention`.

    Returns
    -------
    SparseGrads(dq, dk, dv)

    Raises
    ------
    OptionError
        If only one of out and lse is given; and whatever `attention_backward` raises.

    References
    ----------
    Child et al. 2019, "Sparse Transformer", arXiv:1904.10509, section 4.3.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v, dout = np.random.default_rng(0).standard_normal((4, 2, 50, 8))
    >>> grads = ma.strided_attention_backward(dout, q, k, v, stride=7)
    >>> np.allclose(grads.dk, ma.attention_backward(dout, q, k, v, mask=ma.masks.strided(7)).dk)
    True
    """
    return backward(_strided_parts, (stride,), dout, (q, k, v), out, lse, {"scale": scale, "softcap": softcap}, backend)


def fixed_attention(q, k, v, *, stride, summary=1, subblock=0, scale=None, softcap=None, backend="auto", return_lse=False):
    """Attention under `masks.fixed(stride, summary)`: every query sees its own block so far, and summaries of earlier ones.

    Parameters
    ----------
    q, k, v, scale, softcap, backend, return_lse
        As for `strided_attention`.
    stride, summary, subblock : int
        As for `masks.fixed`: the size of a block, the summary keys of each, and which ones they are.

    Returns
    -------
    out : array, (..., H, N, Dv)
        Or (out, lse).

    Raises
    ------
    OptionError
        If a block does not hold so many summaries; and whatever `attention` raises.

    References
    ----------
    Child et al. 2019, "Sparse Transformer", arXiv:1904.10509, section 4.3.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 50, 8))
    >>> out = ma.fixed_attention(q, k, v, stride=7, summary=2)
    >>> np.allclose(out, ma.attention(q, k, v, mask=ma.masks.fixed(7, 2)))
    True
    """
    options = {"scale": scale, "softcap": softcap}
    return forward(_fixed_parts, (stride, summary, subblock), (q, k, v), options, backend, return_lse)


def fixed_attention_backward(dout, q, k, v, *, stride, summary=1, subblock=0, out=None, lse=None, scale=None, softcap=None,
                             backend="auto"):  # fmt: skip
    """Gradients of `fixed_attention`.

    Parameters
    ----------
    dout, out, lse
        As for `strided_attention_backward`.
    q, k, v, stride, summary, subblock and the options
        As they were given to `fixed_attention`.

    Returns
    -------
    SparseGrads(dq, dk, dv)

    Raises
    ------
    OptionError
        If only one of out and lse is given; and whatever `attention_backward` raises.

    References
    ----------
    Child et al. 2019, "Sparse Transformer", arXiv:1904.10509, section 4.3.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v, dout = np.random.default_rng(0).standard_normal((4, 2, 50, 8))
    >>> grads = ma.fixed_attention_backward(dout, q, k, v, stride=7)
    >>> np.allclose(grads.dv, ma.attention_backward(dout, q, k, v, mask=ma.masks.fixed(7)).dv)
    True
    """
    options = {"scale": scale, "softcap": softcap}
    return backward(_fixed_parts, (stride, summary, subblock), dout, (q, k, v), out, lse, options, backend)


def _strided_parts(N, S, stride):
    stride = count("stride", stride, 1)
    yield Part(slice(0, N), slice(max(S - N - stride, 0), S), {"mask": _window(stride)})
    rows = -(-S // stride)                                        # of length `stride`, the last one perhaps short
    first = max(2 * stride - (S - N), 0)                          # the queries before see nothing far
    if N <= FEW:
        for n in range(first, N):
            i = S - N + n
            yield Part(slice(n, n + 1), slice(i % stride, i - 2 * stride + 1, stride), {})
    elif rows > 2:                                                # row i' sees j' <= i' - 2: nobody the last two rows, and
        pad = (S - N + first) % stride, -S % stride               # without them the rule is that of causal attention
        yield Part(slice(first, N), slice(0, (rows - 2) * stride), {"causal": True}, stride, pad)


def _fixed_parts(N, S, stride, summary, subblock):
    stride, summary, first = summary_columns(stride, summary, subblock)
    yield Part(slice(0, N), slice(max(S - N, 0) // stride * stride, S), {"mask": _own_block(stride)})
    earlier = max(S - 1, 0) // stride                             # blocks that are complete before the last query's
    if earlier:
        keys = (np.arange(earlier)[:, None] * stride + first + np.arange(summary)).ravel()
        start = max(stride - (S - N), 0)
        q_block = np.arange(S - N + start, S) // stride
        yield Part(slice(start, N), keys, {"causal": True, "q_pos": q_block - 1, "k_pos": keys // stride})


# kept, because the kernel remembers the block maps of a mask for as long as it lives
_window = functools.lru_cache(maxsize=16)(masks.window)
_own_block = functools.lru_cache(maxsize=16)(functools.partial(masks.fixed, part=1))
