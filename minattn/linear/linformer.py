"""Linformer: the keys and values of a sequence of fixed length, mixed down to a few before attention looks at them.

Wang et al. 2020, "Linformer: Self-Attention with Linear Complexity", arXiv:2006.04768, section 4.

    N  queries       S  keys, a fixed number       D  head dim       Dv  value dim
    r  slots, the paper's k       e, f   (r, S), what each slot takes from each key and from each value

    o = softmax(q (e k)^T / sqrt(D)) (f v)                                         eq (7)

The map is N x r instead of N x S: that is all there is to it, and the softmax is `attention`'s. It rests on maps of low
rank: then few slots lose little. Two things follow from mixing over positions. A slot holds earlier and later keys alike, so
there is no causal form. And e and f have a column for each position, so no sequence may be longer than they are.
"""
from typing import NamedTuple

import numpy as np

from ..attention import attention, attention_backward
from ..core.errors import ShapeError
from ..core.inputs import prepare
from ..core.shapes import common_type, floats, spell, sum_to, working_type


def linformer_attention(q, k, v, e, f):
    """Attention over r mixtures of the keys, e k, and of the values, f v, in place of all S of them.

    Parameters
    ----------
    q : array, (..., H, N, D)
    k : array, (..., G, S, D)
    v : array, (..., G, S, Dv)
    e, f : array, (r, S), or (..., G, r, S) where each head has its own
        What each slot takes from the keys, and from the values.

    Returns
    -------
    out : array, (..., H, N, Dv)

    Raises
    ------
    ShapeError
        If an axis disagrees; the message names it by its letter.

    References
    ----------
    Wang et al. 2020, arXiv:2006.04768, eq (7).

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 6, 4))          # two heads, six tokens, D = 4
    >>> every = np.eye(6)                                                         # a slot for each key: attention itself
    >>> np.allclose(ma.linformer_attention(q, k, v, every, every), ma.attention(q, k, v))
    True
    >>> pairs = np.kron(np.eye(3), [0.5, 0.5])                                    # three slots, the mean of two keys each
    >>> ma.linformer_attention(q, k, v, pairs, pairs).shape
    (2, 6, 4)
    """
    x = _mix(q, k, v, e, f)
    return attention(x.q, x.keys, x.values).astype(x.dtype, copy=False)


class Grads(NamedTuple):
    """Gradients with respect to what was given, each of its shape and type."""

    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    de: np.ndarray
    df: np.ndarray


def linformer_attention_backward(dout, q, k, v, e, f):
    """The gradient of `linformer_attention`: that of attention, and from there through e and f.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
    q, k, v, e, f
        As for `linformer_attention`. Where one array is both e and f, its gradient is de + df.

    Returns
    -------
    Grads(dq, dk, dv, de, df)

    Raises
    ------
    ShapeError
        If dout does not have the forward's shape; and whatever `linformer_attention` raises.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> rng = np.random.default_rng(0)
    >>> (q, k, v, dout), (e, f) = rng.standard_normal((4, 2, 6, 3)), rng.standard_normal((2, 4, 6))
    >>> grads = ma.linformer_attention_backward(dout, q, k, v, e, f)
    >>> step = np.zeros_like(e); step[1, 2] = 1e-6                                # the slope along one number of e
    >>> up, down = (ma.linformer_attention(q, k, v, e + sign * step, f) for sign in (1, -1))
    >>> bool(np.isclose(((up - down) * dout).sum() / 2e-6, grads.de[1, 2]))
    True
    """
    x = _mix(q, k, v, e, f)
    d = attention_backward(dout, x.q, x.keys, x.values)
    with np.errstate(invalid="ignore", over="ignore"):                             # NaN and inf that are given go through
        full = {
            "dq": (d.dq, q),
            "dk": (x.e.swapaxes(-1, -2) @ d.dk, k),
            "dv": (x.f.swapaxes(-1, -2) @ d.dv, v),
            "de": (d.dk @ x.k.swapaxes(-1, -2), e),
            "df": (d.dv @ x.v.swapaxes(-1, -2), f),
        }
    given = {name: (gradient, np.asarray(argument)) for name, (gradient, argument) in full.items()}
    return Grads(**{name: sum_to(gradient, a.shape).astype(a.dtype, copy=False) for name, (gradient, a) in given.items()})


class Mixed(NamedTuple):
    """All in the working type, with the caller's axes."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    e: np.ndarray
    f: np.ndarray
    keys: np.ndarray                  # e k, (..., G, r, D)
    values: np.ndarray                # f v, (..., G, r, Dv)
    dtype: np.dtype                   # of the result


@np.errstate(invalid="ignore", over="ignore")                                      # NaN and inf that are given go through
def _mix(q, k, v, e, f):
    prepare(q, k, v)                                                               # refuses shapes that do not fit
    q, k, v, e, f = (floats(name, a) for name, a in zip("qkvef", (q, k, v, e, f), strict=True))
    for name, a, key_name, key in (("e", e, "k", k), ("f", f, "v", v)):
        shown = f"{spell(name, a.shape, 'GrS'[-a.ndim:] if a.ndim else '')} but {key_name} is {key.shape}"
        if a.ndim < 2 or a.shape[-1] != key.shape[-2]:
            raise ShapeError(f"{shown}; it must be (r, S) with S = {key.shape[-2]}, one number for each slot and key")
        if a.ndim > key.ndim or any(own not in (1, n) for own, n in zip(a.shape[-3:-2], key.shape[-3:-2], strict=False)):
            raise ShapeError(f"{shown}; its axes before (r, S) must be those of {key_name}, each full or 1, or none")
    if e.shape[-2] != f.shape[-2]:
        raise ShapeError(f"f has r = {f.shape[-2]} slots but e has r = {e.shape[-2]}; each slot needs one key and one value")
    dtype = common_type(q=q, k=k, v=v)
    q, k, v, e, f = (a.astype(working_type(dtype), copy=False) for a in (q, k, v, e, f))
    return Mixed(q, k, v, e, f, e @ k, f @ v, dtype)
