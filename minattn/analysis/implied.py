"""The map that a mechanism implies without ever forming it, found by handing it the identity in place of its values.

    W   implied weights, (N, S)      V   values, (S, Dv)      I   identity, (S, S)

    out = f(V) = W V   for some W that does not depend on V,   so   f(I) = W I = W

This holds for whatever is linear in its values: attention (W are its softmax weights), sparse and linear attention,
Performer, Linformer, retention, gates, the delta rule, RWKV-7, Mamba's scan. None of it is special here: the function is
called as its user calls it. S columns of I are S values that no other token has; a block of them at a time is enough.

Softmax weights are at least 0 and sum to 1. The weights found here need not be either: without a normaliser a row sums to
anything, a product of two features can be negative, and an erase takes away what an earlier token wrote.
"""
import inspect

import numpy as np

from ..core.errors import LinearityError, OptionError, ShapeError
from ..core.projection import repeat_kv
from ..core.shapes import count, floats, working_type


def implied_weights(function, *arrays, value="v", per_channel=False, check=True, block=128, **options):
    """The matrix by which a mechanism multiplies its values, also one that never forms it.

    Of softmax attention `attention_weights` gives the same from the log-sum-exp that FlashAttention returns, and needs no
    values: `attention_weights(q, k, lse=lse)`.

    Parameters
    ----------
    function : callable
        A mechanism that is linear in one of its arguments, such as `linear_attention`.
    *arrays, **options
        As for `function`, which has to return its output alone.
    value : str
        The name of the argument in which `function` is linear, (..., G, S, Dv): "v", or "x" in `ssd` and `selective_scan`.
        The identity takes its place.
    per_channel : bool
        True where each channel of the values has weights of its own, as in `selective_scan`: keys then take turns along
        a new leading axis, over which the other arguments have to broadcast.
    check : bool
        Apply the weights to the values that were given, and compare with what `function` makes of them.
    block : int
        Keys to find at a time. What `function` does beside its values it does anew for each block, so more of them take less
        time, and fewer less memory.

    Returns
    -------
    weights : array, (..., H, N, S), or (..., N, S) for one head
        Or (..., Dv, N, S) with per_channel=True.

    Raises
    ------
    LinearityError
        If the weights do not give the output back: they differ by more than the root of the type's precision.
    OptionError
        If the function has no such argument, or a state comes in or goes out.
    ShapeError
        If the output is not as wide as the values; and whatever `function` raises.

    Examples
    --------
    Linear attention never forms its map. Divided by its normaliser, each row sums to 1:

    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 4, 3))          # two heads, four tokens, D = 3
    >>> w = ma.implied_weights(ma.linear_attention, q, k, v)
    >>> w[0].round(2), w[0].sum(axis=-1).round(2)
    (array([[1.  , 0.  , 0.  , 0.  ],
            [0.58, 0.42, 0.  , 0.  ],
            [0.55, 0.22, 0.23, 0.  ],
            [0.22, 0.24, 0.2 , 0.34]]), array([1., 1., 1., 1.]))
    >>> np.allclose(w @ v, ma.linear_attention(q, k, v))
    True

    Retention is divided by nothing: its weights are products, with a sign, and a row sums to whatever comes out.

    >>> w = ma.implied_weights(ma.retention, q, k, v, log_decay=np.log([0.9, 0.5]))
    >>> w[0].round(2), w[0].sum(axis=-1).round(2)
    (array([[-0.37,  0.  ,  0.  ,  0.  ],
            [-0.2 ,  0.23,  0.  ,  0.  ],
            [ 1.45, -1.61, -1.4 ,  0.  ],
            [-0.9 ,  1.18,  1.26, -0.8 ]]), array([-0.37,  0.03, -1.56,  0.74]))

    The delta rule takes back what the same key wrote before: the first token's value, when the third comes.

    >>> k = np.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]); beta = np.ones((1, 3))
    >>> ma.implied_weights(ma.delta_rule, np.ones((1, 3, 2)), k, k, beta=beta)[0]
    array([[1., 0., 0.],
           [1., 1., 0.],
           [0., 1., 1.]])
    """
    apply, values = _opened(function, arrays, options, value)
    name, (S, Dv), width = _name(function), values.shape[-2:], count("block", block, 1)
    identity = np.eye(S, dtype=values.dtype)
    weights = None
    for start in range(0, S, width):
        columns = identity[:, start:start + width]                                 # (S, width): the keys of this block
        if per_channel:                                                            # (width, ..., S, Dv), all channels alike
            turns = columns.T.reshape(-1, *(1,) * (values.ndim - 2), S, 1)
            part = apply(np.broadcast_to(turns, (len(turns), *values.shape)))
            _as_wide(name, value, part, Dv)
            part = np.moveaxis(part, 0, -1).swapaxes(-3, -2)                       # (width, ..., N, Dv) -> (..., Dv, N, width)
        else:
            part = apply(np.broadcast_to(columns, (*values.shape[:-1], columns.shape[-1])))
            _as_wide(name, value, part, columns.shape[-1])
        if weights is None:
            weights = np.empty((*part.shape[:-1], S), part.dtype)
        weights[..., start:start + width] = part
    if weights is None:
        raise ShapeError(f"{value} is {values.shape}; without keys (S = 0) there are no weights")
    if check:
        _check(name, value, apply, weights, values, per_channel)
    return weights


def _opened(function, arrays, options, value):
    """The function of its values alone, and the values that it was given."""
    given = inspect.signature(function).bind_partial(*arrays, **options)
    if value not in [*given.arguments]:
        raise OptionError(f"value = {value!r}, but {_name(function)} was given {', '.join(given.arguments) or 'nothing'}")
    if options.get("state") is not None:
        raise OptionError("a state was given; what it adds comes from none of the keys here, so no weights describe it")
    values = floats(value, given.arguments[value])
    if values.ndim < 2:
        raise ShapeError(f"{value} is {values.shape}; it must be (..., G, S, Dv), or (S, Dv) for one head")

    def apply(values):
        given.arguments[value] = values
        out = function(*given.args, **given.kwargs)
        if isinstance(out, tuple):
            raise OptionError(f"{_name(function)} returned {len(out)} results; leave out return_state and its like")
        return np.asarray(out)

    return apply, values


def _as_wide(name, value, out, width):
    if out.ndim < 2 or out.shape[-1] != width:
        raise ShapeError(f"{name} returned {out.shape} for {value} with {width} columns; a map of values keeps them")


def _check(name, value, apply, weights, values, per_channel):
    """Whether the weights times the values are what the function makes of the values, as far as all that is finite."""
    values = np.where(np.isfinite(values), values, 0)
    out = apply(values)
    work = working_type(out.dtype)
    w, v = weights.astype(work, copy=False), values.astype(work, copy=False)
    if per_channel:
        v = v.swapaxes(-1, -2)[..., None]                                          # (..., Dv, S, 1), for w (..., Dv, N, S)
        if v.ndim > 3:                                                             # heads of a group, or a batch, share it
            v = v.repeat(w.shape[-4] // max(v.shape[-4], 1), axis=-4)
    elif v.ndim > 2:
        v = repeat_kv(v, w.shape[-3] // v.shape[-3])
    with np.errstate(invalid="ignore", over="ignore"):
        wanted, size = w @ v, np.abs(w) @ np.abs(v)                                # size: of the terms, which may cancel
        if per_channel:
            wanted, size = wanted[..., 0].swapaxes(-1, -2), size[..., 0]
        error = np.abs(out.astype(work, copy=False) - wanted)
    bound = float(np.spacing(np.ones((), out.dtype))) ** 0.5 * size.max(where=np.isfinite(size), initial=0)
    worst = error.max(where=error > bound, initial=0)                              # NaN is not: it came with the other arguments
    if worst:
        raise LinearityError(
            f"{name} is not linear in {value}: its implied weights, applied to {value}, miss its output by {worst:.3g}, and "
            f"rounding would explain {bound:.3g}. Does each channel of {value} have weights of its own (per_channel=True), "
            f"or does {name} draw anew at each call?"
        )


def _name(function):
    return getattr(function, "__name__", None) or type(function).__name__
