"""Memorizing Transformers: keys and values of long ago, kept as they were, of which each query takes the few that match best.

Wu et al. 2022, "Memorizing Transformers", arXiv:2203.08913, sections 3.1 and 3.2.

    N  tokens of the segment, q (..., H, N, D), k and v (..., G, N, D or Dv)
    S  pairs in the memory, at most its capacity: k (..., G, S, D), v (..., G, S, Dv), oldest first
    b  gate, one number a query head

    V_c   softmax(q k^T / sqrt(D)) v over the segment, causal
    V_m   the same over the `keep` pairs of the memory whose keys have the largest q . k, each head by itself
    out = sigmoid(b) V_m + (1 - sigmoid(b)) V_c                                    section 3.2

Attention to a few of very many is what top-k attention is; here the many are older than the segment, and no gradient flows
into them: a memory of 10^5 tokens costs its bytes and one product with each query. When it is full, the oldest pair goes.
The memory has no positions. The paper has one such layer, near the top, keep = 32, and keys and queries of unit length,
since those of an earlier step of the training would otherwise differ in size from those of now; here they are taken as given.

To find the nearest keys is a problem of its own, with libraries of its own: with index="faiss" the memory asks an
IndexFlatIP, which is exact too, in float32. Approximate ones fit the same place.
"""
from typing import NamedTuple

import numpy as np

from ..attention import attention, attention_backward
from ..core.errors import DependencyError, OptionError, ShapeError
from ..core.inputs import prepare
from ..core.pointwise import sigmoid
from ..core.shapes import choice, common_type, count, float_type, floats, spell, working_type
from ..sparse.topk import topk_attention, topk_attention_backward


class ExternalMemory:
    """Keys and values of the latest tokens, first in, first out.

    Parameters
    ----------
    kv_heads, capacity, head_dim : int
        G, the largest number of pairs, and D.
    dtype : dtype
    value_dim : int, optional
        Dv where it is not D.
    lead : tuple of int
        The axes before the heads: each row has a memory of its own.
    index : {"exact", "faiss"}
        Who finds the nearest keys: all products in NumPy, or the faiss package.

    Attributes
    ----------
    k, v : arrays, (..., G, S, D) and (..., G, S, Dv)
        What is there, oldest first.

    Raises
    ------
    DependencyError
        If index is "faiss" and there is no such package.

    References
    ----------
    Wu et al. 2022, arXiv:2203.08913, section 3.1.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> memory = ma.ExternalMemory(kv_heads=1, capacity=3, head_dim=1)
    >>> for n in range(5):
    ...     memory.append(np.full((1, 1, 1), n, np.float32), np.ones((1, 1, 1), np.float32))
    >>> memory.k.ravel(), len(memory), memory.nbytes
    (array([2., 3., 4.], dtype=float32), 3, 24)
    """

    def __init__(self, kv_heads, capacity, head_dim, dtype=np.float32, *, value_dim=None, lead=(), index="exact"):
        kv_heads, head_dim = count("kv_heads", kv_heads, 1), count("head_dim", head_dim, 1)
        value_dim = head_dim if value_dim is None else count("value_dim", value_dim, 1)
        dtype = float_type(dtype, "memory")
        if not isinstance(lead, tuple | list):
            raise OptionError(f"lead is {lead!r}; it must be a tuple of the sizes before the heads")
        lead = [count("lead", size, 0) for size in lead]
        self.capacity, self.index = count("capacity", capacity, 1), choice("index", index, ("exact", "faiss"))
        self.k = np.zeros((*lead, kv_heads, 0, head_dim), dtype)
        self.v = np.zeros((*lead, kv_heads, 0, value_dim), dtype)
        heads = list(np.ndindex(self.k.shape[:-2]))
        self._indexes = {at: _faiss().IndexFlatIP(head_dim) for at in heads} if index == "faiss" else {}

    def __len__(self):
        """Pairs that each head holds."""
        return self.k.shape[-2]

    @property
    def nbytes(self):
        """Bytes of the keys and values that are there."""
        return self.k.nbytes + self.v.nbytes

    def append(self, k_new, v_new):
        """Store N pairs, (..., G, N, D) and (..., G, N, Dv); what is too many by then goes, the oldest first.

        Raises
        ------
        ShapeError
            If they differ from the memory in anything but their length, or from each other in that.
        """
        k_new, v_new = floats("k_new", k_new), floats("v_new", v_new)
        for name, new, held in (("k_new", k_new, self.k), ("v_new", v_new, self.v)):
            *axes, _, D = held.shape
            if new.ndim != held.ndim or (*new.shape[:-2], new.shape[-1]) != (*axes, D):
                raise ShapeError(f"{name} is {new.shape}; this memory takes ({', '.join(map(str, axes))}, N, {D})")
        if k_new.shape[-2] != v_new.shape[-2]:
            raise ShapeError(f"k_new has N = {k_new.shape[-2]} but v_new has N = {v_new.shape[-2]}; each key needs one value")
        gone = max(len(self) + k_new.shape[-2] - self.capacity, 0)
        self.k, self.v = (np.concatenate([held, new.astype(held.dtype, copy=False)], axis=-2)[..., gone:, :].copy()
                          for held, new in ((self.k, k_new), (self.v, v_new)))  # fmt: skip
        for at, index in self._indexes.items():
            index.add(np.ascontiguousarray(k_new[at], np.float32))
            index.remove_ids(np.arange(gone))                                     # the others move up, as they do here

    def nearest(self, q, keep):
        """The pairs that faiss finds for each query: q (..., H, N, D) -> k (..., H, N, keep, D) and v (..., H, N, keep, Dv)."""
        *lead, H, N, _ = q.shape
        keep, group = min(keep, len(self)), H // self.k.shape[-3]
        k, v = (np.empty((*lead, H, N, keep, a.shape[-1]), a.dtype) for a in (self.k, self.v))
        for *row, h in np.ndindex(*lead, H):
            at, here = (*row, h // group), (*row, h)
            _, found = self._indexes[at].search(np.ascontiguousarray(q[here], np.float32), keep)
            k[here], v[here] = self.k[at][found], self.v[at][found]
            k[here][found < 0] = np.nan                                           # nothing is near to NaN, and it is to be seen
        return k, v


class Grads(NamedTuple):
    """Gradients with respect to what was given, each of its shape and type; the memory has none."""

    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    dgate: np.ndarray


def memorizing_attention(q, k, v, *, gate, memory, keep=32, scale=None):
    """Causal attention within a segment, mixed with attention to the best matches in a memory of what came before.

    Parameters
    ----------
    q : array, (..., H, N, D)
    k : array, (..., G, N, D)
        Query head h reads KV head h // (H // G), in the segment and in the memory.
    v : array, (..., G, N, Dv)
    gate : array, (H,)
        b: sigmoid(b) of the output comes from the memory.
    memory : ExternalMemory
        It is only read: the caller appends k and v when the segment is done.
    keep : int
        Pairs that a query takes from the memory; of equal matches the older ones.
    scale : float, optional
        1 / sqrt(D) by default; keys and queries of unit length want a larger one, which the paper learns.

    Returns
    -------
    out : array, (..., H, N, Dv)
        From an empty memory comes 0, so that out is (1 - sigmoid(b)) V_c.

    Raises
    ------
    ShapeError
        If an axis disagrees, gate is not (H,), or the memory has other heads or sizes.
    OptionError
        If keep is below 1, or scale is not above 0.

    References
    ----------
    Wu et al. 2022, arXiv:2203.08913, section 3.2.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 12, 4))         # H = G = 2, twelve tokens, D = 4
    >>> memory = ma.ExternalMemory(2, capacity=100, head_dim=4, dtype=np.float64)
    >>> for start in range(0, 12, 3):                                             # segments of three
    ...     part = np.s_[:, start:start + 3]
    ...     out = ma.memorizing_attention(q[part], k[part], v[part], gate=np.zeros(2), memory=memory, keep=5)
    ...     memory.append(k[part], v[part])
    >>> out.shape, len(memory)
    ((2, 3, 4), 12)
    """
    q, k, v, share, dtype = prepared(q, k, v, gate, memory, keep, scale)
    return ((1 - share) * attention(q, k, v, causal=True, scale=scale) + share * read(q, memory, keep, scale)).astype(dtype)


def read(q, memory, keep, scale):
    """V_m, (..., H, N, Dv)."""
    if memory.index == "exact" or not (len(memory) and q.shape[-2]):
        return topk_attention(q, memory.k, memory.v, keep=keep, scale=scale)
    k, v = memory.nearest(q, keep)
    return attention(q[..., None, :], k, v, scale=scale)[..., 0, :]               # each query a head with keys of its own


def memorizing_attention_backward(dout, q, k, v, *, gate, memory, keep=32, scale=None):
    """Gradients of `memorizing_attention`; none into the memory, and none through the choice of what is read.

    Parameters
    ----------
    dout : array, (..., H, N, Dv)
    q, k, v, gate, memory, keep, scale
        As for `memorizing_attention`, the memory as it was then.

    Returns
    -------
    Grads(dq, dk, dv, dgate)

    Raises
    ------
    ShapeError
        If dout does not have the forward's shape; and whatever `memorizing_attention` raises.

    References
    ----------
    Wu et al. 2022, arXiv:2203.08913, section 3.2.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v, dout = np.random.default_rng(0).standard_normal((4, 1, 5, 4))
    >>> memory = ma.ExternalMemory(1, capacity=9, head_dim=4, dtype=np.float64)
    >>> memory.append(v, k)
    >>> gate, step = np.zeros(1), np.full(1, 1e-6)
    >>> grads = ma.memorizing_attention_backward(dout, q, k, v, gate=gate, memory=memory, keep=2)
    >>> up, down = (ma.memorizing_attention(q, k, v, gate=gate + s, memory=memory, keep=2) for s in (step, -step))
    >>> bool(np.isclose(((up - down) * dout).sum() / 2e-6, grads.dgate[0]))
    True
    """
    given = {"dq": q, "dk": k, "dv": v, "dgate": gate}
    q, k, v, share, _ = prepared(q, k, v, gate, memory, keep, scale)
    near, far = attention(q, k, v, causal=True, scale=scale), read(q, memory, keep, scale)
    dout = floats("dout", dout)
    if dout.shape != near.shape:
        raise ShapeError(f"dout is {dout.shape}; it must be (..., H, N, Dv) = {near.shape}")
    dout = dout.astype(near.dtype, copy=False)
    d = attention_backward((1 - share) * dout, q, k, v, causal=True, scale=scale)
    if memory.index == "exact" or not (len(memory) and q.shape[-2]):
        dq = topk_attention_backward(share * dout, q, memory.k, memory.v, keep=keep, scale=scale).dq
    else:
        found = memory.nearest(q, keep)
        dq = attention_backward((share * dout)[..., None, :], q[..., None, :], *found, scale=scale).dq[..., 0, :]
    each = (dout * (far - near) * share * (1 - share)).sum(axis=(-2, -1))         # (..., H)
    full = Grads(d.dq + dq, d.dk, d.dv, each.reshape(-1, each.shape[-1]).sum(axis=0))
    return Grads(*(a.astype(np.asarray(given[name]).dtype, copy=False) for name, a in full._asdict().items()))


def prepared(q, k, v, gate, memory, keep, scale):
    """q, k, v in the type to compute in, sigmoid(gate) beside (..., H, N, Dv), and the type of the result."""
    q, k, v, gate, _ = floats("q", q), floats("k", k), floats("v", v), floats("gate", gate), count("keep", keep, 1)
    if not isinstance(memory, ExternalMemory):
        raise OptionError(f"memory is {type(memory).__name__}; it must be an ExternalMemory")
    prepare(q, k, v, causal=True, scale=scale)                                    # refuses shapes that do not fit
    if scale is not None and scale <= 0:
        raise OptionError(f"scale = {scale}; it must be above 0: the nearest keys are those of the largest q . k")
    if q.ndim < 3 or q.shape[-2] != k.shape[-2] or not q.shape[:-3] == k.shape[:-3] == v.shape[:-3]:
        shown = ", ".join(spell(name, a.shape, "HND") for name, a in (("q", q), ("k", k), ("v", v)))
        raise ShapeError(f"{shown}; each token brings a query, a key and a value of each head: (..., H, N, D), (..., G, N, D)")
    if gate.shape != (q.shape[-3],):
        raise ShapeError(f"gate is {gate.shape} but q has H = {q.shape[-3]}; it must be (H,), one number a head")
    for name, a, held in (("k", k, memory.k), ("v", v, memory.v)):
        if (*a.shape[:-2], a.shape[-1]) != (*held.shape[:-2], held.shape[-1]):
            raise ShapeError(f"memory.{name} is {held.shape} but {name} is {a.shape}; they may differ in their length alone")
    dtype = common_type(q=q, k=k, v=v)
    work = working_type(dtype)
    return *(a.astype(work, copy=False) for a in (q, k, v)), sigmoid(gate.astype(work))[:, None, None], dtype


def _faiss():
    try:
        import faiss
    except ImportError as error:
        raise DependencyError("index='faiss' needs the faiss package: pip install faiss-cpu") from error
    return faiss
