"""Infini-attention: segments with attention of their own, and behind them a memory of constant size.

Munkhdalai et al. 2024, "Leave No Context Behind", arXiv:2404.07143 (v2), section 2.1, eqs (6) to (10).

    s(x) = elu(x) + 1     M  memory, (D, Dv) a KV head     z  normaliser, (D,)     b  gate, one number a query head

    A_local   softmax(q k^T / sqrt(D)) v within the segment, causal                              eq (6)
    A_mem     s(q) M / (s(q) . z), read before the segment is written                             eq (7)
    linear    M <- M + s(k)^T v                                 z <- z + sum of s(k)              eq (8)
    delta     M <- M + s(k)^T (v - s(k) M / (s(k) . z))         z as before                       eq (9)
    out = sigmoid(b) A_mem + (1 - sigmoid(b)) A_local                                             eq (10)

A token sees its own segment exactly and everything before it through M, which never grows: D (Dv + 1) numbers a KV head. The
memory knows no positions: keys and queries come without RoPE to it, or it would be asked at angles that it never saw. Under
"delta" a value is written only as far as the memory does not hold it yet; z counts the key all the same.
(The paper prints sqrt(d_model) in eq (6); with heads of D numbers it is sqrt(D).)
"""
from typing import NamedTuple

import numpy as np

from ..attention import attention, attention_backward
from ..core.errors import OptionError, ShapeError
from ..core.inputs import prepare
from ..core.pointwise import sigmoid
from ..core.shapes import common_type, count, floats, sum_to, working_type
from ..linear.linear_attention import FEATURE_MAPS

elu, elu_backward = FEATURE_MAPS["elu"]


class InfiniState(NamedTuple):
    """What is carried on: the memory of the segments that are complete, and the tokens of the one that is not."""

    memory: np.ndarray      # (..., G, D, Dv)
    normalizer: np.ndarray  # (..., G, D)
    k: np.ndarray           # (..., G, tokens of the open segment, D)
    v: np.ndarray           # (..., G, tokens of the open segment, Dv)

    @property
    def size(self):
        """Numbers in the memory and its normaliser, whatever has gone by."""
        return self.memory.size + self.normalizer.size


def infini_attention(q, k, v, *, gate, segment, delta=True, state=None, return_state=False):
    """Causal attention within segments, mixed with what a compressive memory has of all segments before.

    Parameters
    ----------
    q : array, (..., H, N, D)
    k : array, (..., G, N, D)
        Query head h reads KV head h // (H // G), and its memory.
    v : array, (..., G, N, Dv)
    gate : array, (H,)
        b: sigmoid(b) of the output comes from the memory.
    segment : int
        Tokens in a segment; the memory takes a segment when it is complete.
    delta : bool
        Write what the memory does not hold yet (eq 9), or everything (eq 8).
    state : InfiniState, optional
        What an earlier call returned; None begins with an empty memory.
    return_state : bool
        Also return the state after the last token.

    Returns
    -------
    out : array, (..., H, N, Dv)
        The first segment reads an empty memory: there A_mem is 0.
    state : InfiniState, only with return_state=True

    Raises
    ------
    ShapeError
        If an axis disagrees, gate is not (H,), or the state is of other sizes or holds a whole segment.
    OptionError
        If segment is below 1, or the state is no InfiniState.

    References
    ----------
    Munkhdalai et al. 2024, arXiv:2404.07143, eqs (6) to (10).

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 50, 8))         # H = G = 2, 50 tokens, D = 8
    >>> out, state = ma.infini_attention(q, k, v, gate=np.zeros(2), segment=16, return_state=True)
    >>> out.shape, state.size, state.k.shape                                      # 3 segments stored, 2 tokens wait
    ((2, 50, 8), 144, (2, 2, 8))
    >>> closed = ma.infini_attention(q, k, v, gate=np.full(2, -np.inf), segment=16)          # nothing from the memory
    >>> np.allclose(closed, ma.attention(q, k, v, causal=True, mask=ma.Mask(lambda i, j: i // 16 == j // 16)))
    True
    """
    q, k, v, share, segment, dtype = prepared(q, k, v, gate, segment)
    state, out, start, N = opened(state, k, v, segment), np.empty((*q.shape[:-1], v.shape[-1]), q.dtype), 0, q.shape[-2]
    while start < N:
        stop = min(N, start + segment - state.k.shape[-2])                        # as far as the open segment goes
        here = np.s_[..., start:stop, :]
        keys, values = (np.concatenate([old, new[here]], axis=-2) for old, new in ((state.k, k), (state.v, v)))
        with np.errstate(invalid="ignore", over="ignore"):                         # NaN and inf that are given go through
            out[here] = (1 - share) * attention(q[here], keys, values, causal=True) + share * read(q[here], state)
            state = state._replace(k=keys, v=values)
            if keys.shape[-2] == segment:
                state = written(state, delta)
        start = stop
    out = out.astype(dtype, copy=False)
    return (out, state) if return_state else out


class Grads(NamedTuple):
    """Gradients with respect to what was given, each of its shape and type."""

    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    dgate: np.ndarray


def infini_attention_backward(dout, q, k, v, *, gate, segment, delta=True):
    """Gradients of `infini_attention` over a text from its beginning, through all that the memory was given.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
    q, k, v, gate, segment, delta
        As for `infini_attention`, which began with an empty memory.

    Returns
    -------
    Grads(dq, dk, dv, dgate)

    Raises
    ------
    ShapeError
        If dout does not have the forward's shape; and whatever `infini_attention` raises.

    References
    ----------
    Munkhdalai et al. 2024, arXiv:2404.07143, section 2.1: segments are trained back to back.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 9, 4))
    >>> dout = np.zeros((1, 9, 4)); dout[:, 6:] = 1                               # the last segment's loss alone
    >>> grads = ma.infini_attention_backward(dout, q, k, v, gate=np.zeros(1), segment=3)
    >>> [bool(np.abs(d[:, :3]).max() > 0) for d in grads[:3]]                     # of the first one its keys and values matter
    [False, True, True]
    """
    given = {"dq": q, "dk": k, "dv": v, "dgate": gate}
    q, k, v, share, segment, _ = prepared(q, k, v, gate, segment)
    dout, shape = floats("dout", dout), (*q.shape[:-1], v.shape[-1])
    if dout.shape != shape:
        raise ShapeError(f"dout is {dout.shape}; it must be (..., H, N, Dv) = {shape}")
    dout, state, reads = dout.astype(q.dtype, copy=False), opened(None, k, v, segment), []
    for start in range(0, q.shape[-2], segment):
        here = np.s_[..., start:start + segment, :]
        state = state._replace(k=k[here], v=v[here])
        reads.append((here, state))                                               # what is read is the memory before
        state = written(state, delta)
    dq, dk, dv, dgate = (np.zeros(a.shape, q.dtype) for a in (q, k, v, np.asarray(gate)))
    dmemory, dnormalizer = np.zeros_like(state.memory), np.zeros_like(state.normalizer)
    for here, state in reversed(reads):
        dk[here], dv[here], dmemory, dnormalizer = written_backward(dmemory, dnormalizer, state, delta)
        d = attention_backward((1 - share) * dout[here], q[here], k[here], v[here], causal=True)
        dq[here], *dread = read_backward(share * dout[here], q[here], state)
        dq[here] += d.dq
        dk[here] += d.dk
        dv[here] += d.dv
        dmemory, dnormalizer = dmemory + dread[0], dnormalizer + dread[1]
        apart = read(q[here], state) - attention(q[here], k[here], v[here], causal=True)
        dgate += (dout[here] * apart * share * (1 - share)).sum(axis=(-2, -1)).reshape(-1, dgate.size).sum(axis=0)
    return Grads(*(sum_to(a, np.shape(given[name])).astype(np.asarray(given[name]).dtype, copy=False)
                   for name, a in zip(given, (dq, dk, dv, dgate), strict=True)))  # fmt: skip


def prepared(q, k, v, gate, segment):
    """q, k, v in the type to compute in; sigmoid(gate) beside (..., H, N, Dv); segment; the type of the result."""
    q, k, v, segment = floats("q", q), floats("k", k), floats("v", v), count("segment", segment, 1)
    x = prepare(q, k, v, causal=True)                                             # checks the axes
    dtype = common_type(q=q, k=k, v=v)
    q, k, v = (a.astype(working_type(dtype), copy=False) for a in (q, k, v))
    H, N, S = x.q.shape[1], q.shape[-2], k.shape[-2]
    if N != S:
        raise ShapeError(f"q has N = {N} but k has S = {S}; each token brings a query, a key and a value")
    gate = floats("gate", gate)
    if gate.shape != (H,):
        raise ShapeError(f"gate is {gate.shape} but q has H = {H}; it must be (H,), one number a head")
    if q.ndim > 2:                                                                # rows that share q, or k and v, may bring one
        held = np.broadcast_shapes(k.shape[:-3], v.shape[:-3])
        q = np.broadcast_to(q, (*x.lead, *q.shape[-3:]))
        k, v = (np.broadcast_to(a, (*held, *a.shape[-3:])) for a in (k, v))
    share = sigmoid(gate.astype(q.dtype))
    return q, k, v, share[:, None, None] if q.ndim > 2 else share, segment, dtype


def opened(state, k, v, segment):
    """The state to begin with: an empty one, or that of the caller after a look at its sizes."""
    lead, D, Dv = np.broadcast_shapes(k.shape[:-2], v.shape[:-2]), k.shape[-1], v.shape[-1]
    if state is None:
        return InfiniState(np.zeros((*lead, D, Dv), k.dtype), np.zeros((*lead, D), k.dtype),
                           np.zeros((*lead, 0, D), k.dtype), np.zeros((*lead, 0, Dv), k.dtype))  # fmt: skip
    if not isinstance(state, InfiniState):
        raise OptionError(f"state is {type(state).__name__}; it must be the InfiniState that an earlier call returned")
    state = InfiniState(*(floats(f"state.{name}", a) for name, a in zip(InfiniState._fields, state, strict=True)))
    tokens = state.k.shape[-2] if state.k.ndim > 1 else 0
    wanted = (*lead, D, Dv), (*lead, D), (*lead, tokens, D), (*lead, tokens, Dv)
    for name, a, shape in zip(InfiniState._fields, state, wanted, strict=True):
        if a.shape != shape:
            raise ShapeError(f"state.{name} is {a.shape}; with k {k.shape} and v {v.shape} it must be {shape}")
    if tokens >= segment:
        raise ShapeError(f"the state has {tokens} tokens of an open segment, but segment = {segment}")
    return state


def read(q, state):
    """A_mem, eq (7): 0 from an empty memory. q (..., H, n, D) against M (..., G, D, Dv)."""
    if q.ndim == 2:
        return divided(elu(q), state.memory, state.normalizer)
    G, (H, n, D) = state.memory.shape[-3], q.shape[-3:]
    rows = elu(q).reshape(*q.shape[:-3], G, H // G * n, D)                        # the heads of a group are rows of one head
    return divided(rows, state.memory, state.normalizer).reshape(*q.shape[:-1], state.memory.shape[-1])


def read_backward(dout, q, state):
    """Gradients of `read`: dq, and those of memory and normaliser."""
    G = 1 if q.ndim == 2 else state.memory.shape[-3]
    grouped = q.shape if q.ndim == 2 else (*q.shape[:-3], G, q.shape[-3] // G * q.shape[-2], q.shape[-1])
    d, dmemory, dnormalizer = divided_backward(dout.reshape(*grouped[:-1], dout.shape[-1]), elu(q).reshape(grouped), *state[:2])
    return elu_backward(q, d.reshape(q.shape)), dmemory, dnormalizer


def divided(features, memory, normalizer):
    """features M / (features . z), 0 where nothing was written."""
    below = features @ normalizer[..., None]
    return features @ memory / np.where(below == 0, 1, below)


def divided_backward(dout, features, memory, normalizer):
    """Gradients of `divided`; none through a denominator of 0."""
    below = features @ normalizer[..., None]
    dabove = dout / np.where(below == 0, 1, below)
    dbelow = np.where(below == 0, 0, -(dabove * divided(features, memory, normalizer)).sum(axis=-1, keepdims=True))
    dfeatures = dabove @ memory.swapaxes(-1, -2) + dbelow * normalizer[..., None, :]
    turned = features.swapaxes(-1, -2)
    return dfeatures, sum_to(turned @ dabove, memory.shape), sum_to((turned @ dbelow)[..., 0], normalizer.shape)


def written(state, delta):
    """The state after its open segment is stored, eq (8) or (9)."""
    keys, values = elu(state.k), state.v
    if delta:
        values = values - divided(keys, state.memory, state.normalizer)
    memory, normalizer = state.memory + keys.swapaxes(-1, -2) @ values, state.normalizer + keys.sum(axis=-2)
    return InfiniState(memory, normalizer, state.k[..., :0, :], state.v[..., :0, :])


def written_backward(dmemory, dnormalizer, state, delta):
    """Gradients of `written`: dk, dv of the segment, and those of the memory and normaliser before it."""
    keys, values = elu(state.k), state.v
    dvalues = keys @ dmemory
    dkeys, before = dnormalizer[..., None, :], (dmemory, dnormalizer)
    if delta:
        values = values - divided(keys, state.memory, state.normalizer)
        d, *dread = divided_backward(-dvalues, keys, state.memory, state.normalizer)
        dkeys, before = dkeys + d, (dmemory + dread[0], dnormalizer + dread[1])
    return elu_backward(state.k, dkeys + values @ dmemory.swapaxes(-1, -2)), dvalues, *before
