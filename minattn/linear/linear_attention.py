"""Linear attention: the exponential of the softmax replaced by a product of features, so that sums can change places.

Katharopoulos et al. 2020, "Transformers are RNNs", arXiv:2006.16236.

    D   features, the width of phi(q)      Dv  value dim       N  queries       S  keys
    phi   feature map, elu(x) + 1 in the paper (eq 7)

    softmax      o_i = sum_j exp(q_i . k_j) v_j / sum_j exp(q_i . k_j)                           eq (2)
    linear       o_i = phi(q_i)^T sum_j phi(k_j) v_j^T / phi(q_i)^T sum_j phi(k_j)               eqs (4) to (6)
    causal       the sums over j <= i: a state that each token adds to                           eqs (8) to (12)

(phi(Q) phi(K)^T) V costs O(N S), phi(Q) (phi(K)^T V) costs O(N + S) and is the same matrix: all there is to it is
associativity. Causally, the sums over j are the `recurrence` without decay, the divisor a column of ones in V.
"""
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..backends import choose
from ..core import inputs as pairwise
from ..core.errors import OptionError, ShapeError
from ..core.reference import group, product, ungroup
from ..core.shapes import common_type, count, floats, sum_to, working_type
from .backward import gradients, read_gradient
from .inputs import Inputs, divided, prepare
from .recurrence import FORMS, kernels, run


def elu(x):
    """elu(x) + 1, which is x + 1 above 0 and exp(x) below: positive, and without a flat side."""
    return np.exp(np.minimum(x, 0)) + np.maximum(x, 0)


def relu(x):
    """max(x, 0): features that may all be 0, and then the query reads 0."""
    return np.maximum(x, 0)


# each with its gradient: from x and the gradient of phi(x) to that of x
FEATURE_MAPS: dict[str, tuple[Callable, Callable]] = {
    "elu": (elu, lambda x, dphi: dphi * np.exp(np.minimum(x, 0))),
    "relu": (relu, lambda x, dphi: dphi * (x > 0)),
    "exp": (np.exp, lambda x, dphi: dphi * np.exp(x)),
}
ROWS = 2048                                                                        # of q whose features are made at once
NO_STATE = "a state without causal=True: it holds what came before, and there every query sees all keys"


def parallel(x: Inputs):
    """Every pair of query and key at once, in O(N^2): what the queries read, (P, R, N, Dv), and the last state."""
    seen, k, v, state = np.tri(x.k.shape[1], dtype=bool), x.k[:, None], x.v[:, None], x.state[:, None]
    scores = np.where(seen, x.q @ k.swapaxes(-1, -2), 0)
    return product(scores, seen, v) + x.q @ state, (state + k.swapaxes(-1, -2) @ v)[:, 0]


def linear_attention(q, k, v, *, feature_map: Any = "elu", causal=True, normalize=True, form="chunked", chunk=64, state=None,
                     return_state=False, backend="auto"):  # fmt: skip
    """Attention with the weights phi(q) . phi(k), in time that grows with the length and not with its square.

    Parameters
    ----------
    q : array, (..., H, N, D)
    k : array, (..., G, S, D), where S = N if causal
    v : array, (..., G, S, Dv)
    feature_map : {"elu", "relu", "exp"} or function
        phi, applied to q and to k: elu(x) + 1, max(x, 0), exp(x), or a function that may change the last axis alone.
    causal : bool
        Each query sees the keys up to its own position; False: all of them.
    normalize : bool
        Divide by the sum of the weights; 0 / 0 is 0.
    form : {"chunked", "recurrent", "parallel"}
        "parallel" forms all N x S weights, the others never do; without `causal` both sum over the keys first.
    chunk, state, return_state
        As for `recurrence`; a state needs causal=True.
    backend : {"auto", "numpy", "cpu"}
        As for `recurrence`. The parallel form is NumPy's alone, and so is what is not causal: a few matrix products.

    Returns
    -------
    out : array, (..., H, N, Dv)
    state : array, (..., G, width of phi, Dv + 1 or Dv), only with return_state=True
        The last column is the normaliser's, where there is one.

    Raises
    ------
    ShapeError
        If an axis disagrees, or the feature map changes another axis than the last.
    OptionError
        If the feature map or the form is none that exists, or a state is asked for without causal=True.

    References
    ----------
    Katharopoulos et al. 2020, arXiv:2006.16236, eqs (4) to (12).

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 100, 8))        # two heads, 100 tokens, D = 8
    >>> all_pairs = ma.linear_attention(q, k, v, form="parallel")
    >>> np.allclose(ma.linear_attention(q, k, v, form="recurrent"), all_pairs)
    True
    >>> out, state = ma.linear_attention(q[:, :99], k[:, :99], v[:, :99], return_state=True)
    >>> last = ma.linear_attention(q[:, 99:], k[:, 99:], v[:, 99:], state=state)  # one more token, from the state alone
    >>> np.allclose(last, all_pairs[:, 99:]), state.shape
    (True, (2, 8, 9))
    """
    q, k, v = floats("q", q), floats("k", k), floats("v", v)
    dtype = common_type(q=q, k=k, v=v)
    own = callable(feature_map)                                                    # which may write to what it is given
    if own or not causal:
        q, k = (_features(feature_map, name, a.astype(working_type(dtype), copy=own)) for name, a in (("q", q), ("k", k)))
    if causal:
        x = replace(prepare(q, k, v, normalize=normalize, state=state), dtype=dtype)
        out, state = _in_spans(x, None if own else feature_map, form, count("chunk", chunk, 1), backend)
        return (out, state) if return_state else out
    if state is not None or return_state:
        raise OptionError(NO_STATE)
    if form not in (*FORMS, "parallel"):
        raise OptionError(f"form is {form!r}; it must be one of 'recurrent', 'chunked', 'parallel'")
    choose(backend, 0, compiled=False)                                             # refuses a name that there is not
    return _all_keys(q, k, v, normalize, form == "parallel").astype(dtype, copy=False)


def _in_spans(x: Inputs, feature_map, form, chunk, backend):
    """The result and the last state, some chunks at a time: features that are still in the cache are read at less cost."""
    (P, R, N, _), forms = x.q.shape, FORMS | {"parallel": lambda x, chunk: parallel(x)}
    backend = "cpu" if kernels(x, form, backend) else "numpy"                      # one for all spans
    span = max(N, 1) if form == "parallel" else chunk * max(1, ROWS // (chunk * max(1, P * R)))
    out, state = np.empty((*x.lead, *x.heads[:1], N, x.values.shape[-1]), x.dtype), x.state
    for n in range(0, max(N, 1), span):                                            # one where there are no tokens
        q, k, values, g = x.q[:, :, n:n + span], x.k[:, n:n + span], x.values[:, n:n + span], x.g[:, n:n + span]
        if feature_map is not None:
            q, k = _features(feature_map, "q", q), _features(feature_map, "k", k)
        part = replace(x, q=q, k=k, values=values, g=g, state=state.reshape(x.state.shape))
        out[..., n:n + span, :], state = run(part, form, chunk, True, forms, backend=backend)
    return out, state


class Grads(NamedTuple):
    """Gradients with respect to what was given, each of its shape and type; None for what was not."""

    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    dstate: np.ndarray | None


def linear_attention_backward(dout, q, k, v, *, feature_map: Any = "elu", feature_map_grad=None, causal=True, normalize=True,
                              chunk=64, state=None, dstate=None, backend="auto"):  # fmt: skip
    """The gradient of `linear_attention`: causally token by token, keeping one state for each `chunk` tokens.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
    q, k, v, feature_map, causal, normalize, chunk, state, backend
        As for `linear_attention`.
    feature_map_grad : function, only where feature_map is one
        feature_map_grad(x, dphi), the gradient of x for that of feature_map(x).
    dstate : array, (..., G, width of phi, Dv + 1 or Dv), optional
        The gradient with respect to the state that the forward returned.

    Returns
    -------
    Grads(dq, dk, dv, dstate)

    Raises
    ------
    ShapeError
        If dout or dstate do not have the forward's shape; and whatever `linear_attention` raises.
    OptionError
        If a feature map of the caller's comes without its gradient.

    References
    ----------
    Katharopoulos et al. 2020, arXiv:2006.16236, eqs (13) to (15), without the normaliser.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v, dout = np.random.default_rng(0).standard_normal((4, 2, 5, 3))    # two heads, five tokens, D = 3
    >>> grads = ma.linear_attention_backward(dout, q, k, v)
    >>> step = np.zeros_like(k); step[1, 2, 0] = 1e-6                             # the slope along one number of k
    >>> up, down = (ma.linear_attention(q, k + sign * step, v) for sign in (1, -1))
    >>> bool(np.isclose(((up - down) * dout).sum() / 2e-6, grads.dk[1, 2, 0]))
    True
    """
    q, k, v = floats("q", q), floats("k", k), floats("v", v)
    work = working_type(common_type(q=q, k=k, v=v))
    if callable(feature_map) and feature_map_grad is None:
        raise OptionError("feature_map is a function without feature_map_grad; give feature_map_grad(x, dphi) for its gradient")
    wide_q, wide_k = q.astype(work), k.astype(work)
    phi_q, phi_k = _features(feature_map, "q", wide_q), _features(feature_map, "k", wide_k)
    back = feature_map_grad if callable(feature_map) else FEATURE_MAPS[feature_map][1]
    if causal:
        x = prepare(phi_q, phi_k, v, normalize=normalize, state=state)
        d = gradients(x, dout, dstate, chunk, backend=backend)
        dq, dk, dv, dstate = x.gradient(d.q, phi_q), x.gradient(d.k, phi_k), x.gradient(d.v, v), x.gradient(d.state, state)
    elif state is not None or dstate is not None:
        raise OptionError(NO_STATE)
    else:
        dq, dk, dv = _all_keys_backward(dout, phi_q, phi_k, v, normalize)
    return Grads(back(wide_q, dq).astype(q.dtype, copy=False), back(wide_k, dk).astype(k.dtype, copy=False), dv, dstate)


def _all_keys(q, k, v, normalize, parallel):
    """Every query sees every key: the same product of three matrices, bracketed from the left or from the right."""
    x = pairwise.prepare(q, k, v)
    q, k, v = group(x.q, x.k.shape[1]), x.k, x.v.astype(x.work, copy=False)        # (B, G, H//G * N, D)
    if normalize:
        v = np.concatenate([v, np.ones_like(v[..., :1])], axis=-1)
    with np.errstate(invalid="ignore", over="ignore"):
        read = (q @ k.swapaxes(-1, -2)) @ v if parallel else q @ (k.swapaxes(-1, -2) @ v)
    if normalize:
        read = divided(read)
    return x.restore(ungroup(read, x.q.shape[1]))


@np.errstate(invalid="ignore", over="ignore")                                      # NaN and inf that are given go through
def _all_keys_backward(dout, q, k, v, normalize):
    """The same for the gradient: dM of the one matrix M = phi(K)^T V through which all keys are read."""
    x = pairwise.prepare(q, k, v)
    dout = group(x.accept("dout", dout, x.v.shape[-1:]).astype(x.work), x.k.shape[1])
    rows, keys, values = group(x.q, x.k.shape[1]), x.k, x.v.astype(x.work, copy=False)
    if normalize:
        values = np.concatenate([values, np.ones_like(values[..., :1])], axis=-1)
    held = keys.swapaxes(-1, -2) @ values                                          # M, (B, G, D, Dv)
    dread = read_gradient(dout, rows @ held, normalize)
    dheld = rows.swapaxes(-1, -2) @ dread
    dq, dk, dv = ungroup(dread @ held.swapaxes(-1, -2), x.q.shape[1]), values @ dheld.swapaxes(-1, -2), keys @ dheld
    found = dq, dk, dv[..., : v.shape[-1]]
    return [sum_to(x.restore(d, x.work), a.shape).astype(a.dtype, copy=False) for d, a in zip(found, (q, k, v), strict=True)]


def _features(feature_map, name, a):
    """phi of q or k; a function of the caller's may change the width, and nothing else."""
    if not callable(feature_map):
        if feature_map not in [*FEATURE_MAPS]:
            raise OptionError(f"feature_map is {feature_map!r}; it must be {', '.join(map(repr, FEATURE_MAPS))} or a function")
        return FEATURE_MAPS[feature_map][0](a)
    mapped = floats(f"feature_map({name})", feature_map(a))
    if mapped.shape[:-1] != a.shape[:-1] or mapped.ndim != a.ndim:
        raise ShapeError(f"feature_map({name}) is {mapped.shape} for {name} {a.shape}; it may change the last axis alone")
    return mapped.astype(a.dtype, copy=False)
