"""One recurrence for the whole linear family: a state that decays, forgets what it is told to, and writes one pair a token.

    D   head dim of q and k       Dv  value dim       N  length       C  chunk
    S   state, (D, Dv)            g   log decay, one number a token or one a channel, g <= 0
    a, b   erase, (D,): what stands under b is added along a (take it with a minus to remove it)

    recurrent   u_t = b_t^T S_{t-1}
                S_t = diag(exp g_t) S_{t-1} + a_t u_t^T + k_t v_t^T,      o_t = scale * q_t S_t
    chunked     with A(i, j) = exp(g_{j+1} + ... + g_i) and S_0 the state before the chunk
                u = solve(1 - [b_i A(i-1, j) a_j, j < i],   b A(i-1, 0) S_0 + [b_i A(i-1, j) k_j, j < i] v)
                o = q A(i, 0) S_0 + [q_i A(i, j) k_j, j <= i] v + [q_i A(i, j) a_j, j <= i] u
                S_C = A(C, 0) S_0 + (k A(C, j))^T v + (a A(C, j))^T u

Once the u of a chunk are known, a_t u_t^T is one more pair that is written; without erase there is none. The triangular
system for u is that of Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule", arXiv:2406.06484,
section 3; the decay inside a chunk that of Yang et al. 2024, "Gated Linear Attention", arXiv:2312.06635, section 4.

A(i, j) is never a quotient exp(c_i) / exp(c_j) of cumulated decays: that overflows at g = -50 and is NaN at -inf. Each
exponent is a sum over its own segment (`cuts`), so every factor lies between 0 and 1, and age 0 is exactly 1.
"""
import importlib

import numpy as np

from ..backends import choose
from ..core.errors import OptionError
from ..core.reference import product
from ..core.shapes import count
from .inputs import Inputs, prepare


def recurrent(x: Inputs):
    """One token after the other: what the queries read, (P, R, N, Dv), and the last state, (P, D, Dv)."""
    state, out = x.state, np.empty((*x.q.shape[:3], x.v.shape[-1]), x.v.dtype)
    for n in range(x.k.shape[1]):
        state = step(x, state, n)
        out[:, :, n] = x.q[:, :, n] @ state
    return out, state


def step(x: Inputs, state, n):
    """S_n from S_{n-1}."""
    new = np.exp(x.g[:, n])[..., None] * state + x.k[:, n, :, None] * x.v[:, n, None, :]
    if x.a is not None and x.b is not None:
        new += x.a[:, n, :, None] * (x.b[:, n, None, :] @ state)
    return new


def chunked(x: Inputs, chunk):
    """All tokens of a chunk at once, by matrix products; what came before reaches them through the state."""
    state, out = x.state[:, None], np.empty((*x.q.shape[:3], x.v.shape[-1]), x.v.dtype)
    for start in range(0, x.k.shape[1], chunk):
        here = np.s_[:, None, start:start + chunk]                                 # (P, 1, C, ...), C short in the last one
        q, k, v, g = x.q[:, :, start:start + chunk], x.k[here], x.v[here], x.g[here]
        (levels, (after, before, left)), written = cuts(g), [(k, v)]
        if x.a is not None and x.b is not None:
            from_state = (x.b[here] * before) @ state
            written.append((x.a[here], erased(x.b[here], x.a[here], k, v, levels, from_state)))
        now = np.tri(k.shape[-2], dtype=bool)
        read = (q * after) @ state
        for key, value in written:
            read += product(pairs(q, key, levels, now), now, value)
        out[:, :, start:start + chunk] = read
        state = after[..., -1, :, None] * state
        for key, value in written:
            state = state + (key * left).swapaxes(-1, -2) @ value
    return out, state[:, 0]


def erased(b, a, k, v, levels, u):
    """u_t = b_t^T S_{t-1} of a chunk, (P, 1, C, Dv), from the part `u` of it that the state before the chunk gives.

    Each depends on those before it: forward substitution, whose factors are the `weights`.
    """
    before = np.tri(k.shape[-2], k=-1, dtype=bool)
    u = u + product(pairs(b, k, levels, before), before, v)
    weights = pairs(b, a, levels, before)
    for t in range(1, u.shape[-2]):
        u[..., t, :] += (weights[..., t, None, :t] @ u[..., :t, :])[..., 0, :]
    return u


def cuts(g):
    """The decays that a chunk needs: beside its cuts into halves, and at last those of the whole chunk.

    Cut the chunk into halves, each of them again, and so on: i lies in the late half and j in the early half of exactly one
    cut, and A(i, j) = A(i, cut) A(cut, j). For each size of halves, the smallest first, there are A(i, cut) and A(i-1, cut)
    of the late halves and A(cut, j) of the early ones, (..., cuts, half, D). The sums grow with the halves: none is cut out
    of a longer one, since -inf - -inf is NaN. For the whole chunk: A(i, 0), A(i-1, 0) and A(C, j), (..., C, D).
    """
    C, half, levels = g.shape[-2], 1, []
    after = fill(g, 1 << (C - 1).bit_length())                                     # sums from the start of a half to i
    before, left = np.zeros_like(after), np.zeros_like(after)                      # to i - 1, and from j + 1 to its end
    while half < after.shape[-2]:
        i, i_1, j = (a.reshape(*a.shape[:-2], -1, 2, half, a.shape[-1]) for a in (after, before, left))
        levels.append((np.exp(i[..., 1, :, :]), np.exp(i_1[..., 1, :, :]), np.exp(j[..., 0, :, :])))
        early, late = i[..., 0, -1:, :], i[..., 1, -1:, :].copy()
        i[..., 1, :, :] += early                                                   # two halves become one: these are views
        i_1[..., 1, :, :] += early
        j[..., 0, :, :] += late
        half *= 2
    return levels, tuple(np.exp(a[..., :C, :]) for a in (after, before, left))


def pairs(read, write, levels, seen):
    """read_i . A(i, j) . write_j for the pairs in `seen`, (..., C, C); all pairs across the cuts of one size at once.

    `seen` is the lower triangle: with its diagonal, reading comes after decay and write of its own step (A(i, i) is 1);
    without it, reading comes before them (A(i-1, j)).
    """
    C, inclusive = read.shape[-2], seen[0, 0]
    if levels and levels[0][0].shape[-1] == 1 < read.shape[-1]:                    # one decay a token: scores times decays
        ones = np.ones((*write.shape[:-1], 1), write.dtype)
        return np.where(seen, (read @ write.swapaxes(-1, -2)) * pairs(ones, ones, levels, seen), 0)
    size = 1 << len(levels)
    read, write = fill(read, size), fill(write, size)
    lead = np.broadcast_shapes(read.shape[:-2], write.shape[:-2])
    out = np.zeros((*lead, size, size), read.dtype)
    for after, before, left in levels:
        half = left.shape[-2]
        late = read.reshape(*read.shape[:-2], -1, 2, half, read.shape[-1])[..., 1, :, :] * (after if inclusive else before)
        early = write.reshape(*write.shape[:-2], -1, 2, half, write.shape[-1])[..., 0, :, :] * left
        n = np.arange(size // (2 * half))
        blocks = out.reshape(*lead, len(n), 2, half, len(n), 2, half)
        blocks[..., n, 1, :, n, 0, :] = np.moveaxis(late @ early.swapaxes(-1, -2), -3, 0)
    if inclusive:
        n = np.arange(size)
        out[..., n, n] = (read * write).sum(axis=-1)
    return out[..., :C, :C]


def fill(a, size):
    """Zeros after the last token, up to a power of two that can be halved: they decay, read and write nothing."""
    return np.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, size - a.shape[-2]), (0, 0)])


FORMS = {"recurrent": lambda x, chunk: recurrent(x), "chunked": chunked}


def run(x: Inputs, form, chunk, return_state, forms=FORMS, *, backend):
    """The form by its name, and its results with the caller's axes."""
    if form not in [*forms]:
        raise OptionError(f"form is {form!r}; it must be one of {', '.join(map(repr, forms))}")
    chunk, compiled = count("chunk", chunk, 1), kernels(x, form, backend)
    with np.errstate(invalid="ignore", over="ignore"):                             # NaN and inf that are given go through
        if compiled:
            out, state = compiled.FORMS[form](x, chunk)
        else:
            read, state = forms[form](x, chunk)
            out = x.finish(read)
        out = x.restore(out)
    return (out, x.restore_key(state)) if return_state else out


def kernels(x: Inputs, form, backend):
    """cpu.py, which has the compiled form of that name, where the backend is "cpu"; None where NumPy computes."""
    compiled = x.q.dtype == np.float32 and form in FORMS
    name = choose(backend, x.k.shape[1] * x.state.size, compiled=compiled)         # as many numbers as all states S_t hold
    if backend == "cpu" and form not in FORMS:
        raise OptionError(f"backend 'cpu' has no form {form!r}, only {', '.join(map(repr, FORMS))}; backend='numpy' has it")
    if name != "cpu" or not compiled:
        return None
    cpu = importlib.import_module("minattn.linear.cpu")
    return cpu if cpu.can_start() else None


def recurrence(q, k, v, *, log_decay=None, erase=None, normalize=False, scale=1.0, form="chunked", chunk=64, state=None,
               return_state=False, backend="auto"):  # fmt: skip
    """The state that all linear mechanisms keep, S_t = diag(exp g_t) S_{t-1} + a_t (b_t^T S_{t-1}) + k_t v_t^T, and q_t S_t.

    Parameters
    ----------
    q : array, (..., H, N, D)
    k : array, (..., G, N, D)
        Query head h reads the state of KV head h // (H // G).
    v : array, (..., G, N, Dv)
    log_decay : array, (..., G, N) or (..., G, N, D), optional
        At most 0, -inf forgets all. One number a token, or one for each of its channels; an axis of 1 is broadcast.
    erase : pair of arrays (a, b), each (..., G, N, D), optional
        Adds a_t (b_t^T S_{t-1}) before the write.
    normalize : bool
        Divide by q_t z_t, where z is updated as a column of S that is written ones; 0 / 0 is 0.
    scale : float
        Multiplies q_t S_t.
    form : {"chunked", "recurrent"}
        A chunk at a time by matrix products, or token by token: the same result in O(N) time.
    chunk : int
        Tokens per chunk; only for form="chunked".
    state : array, (..., G, D, Dv), optional
        What an earlier call returned, with Dv + 1 columns under `normalize`; None starts empty.
    return_state : bool
        Also return the state after the last token, float32 or better.
    backend : {"auto", "numpy", "cpu"}
        "numpy" is plain NumPy; "cpu" is, in float32 and 16 bits, a Numba kernel that is compiled when first used, whose
        chunks are of at most 16 tokens, and in float64 NumPy. "auto" is "cpu" unless the problem is tiny or Numba absent.

    Returns
    -------
    out : array, (..., H, N, Dv)
    state : array, (..., G, D, Dv or Dv + 1), only with return_state=True

    Raises
    ------
    ShapeError
        If an axis disagrees; the message names it by its letter.
    DecayError
        If a log decay is positive or NaN.
    OptionError
        If form or chunk is none that exists, or erase is no pair.
    BackendError
        If the backend is none that exists, or needs Numba where there is none.

    References
    ----------
    Yang et al. 2024, arXiv:2406.06484, section 3; Yang et al. 2024, arXiv:2312.06635, section 4.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q = k = np.ones((1, 3, 1)); v = np.array([[[1.0], [2.0], [4.0]]])         # one head, three tokens, D = 1
    >>> ma.recurrence(q, k, v, log_decay=np.log([[0.5]])).ravel()                     # each step halves what is kept
    array([1.  , 2.5 , 5.25])
    >>> out, state = ma.recurrence(q, k, v, erase=(-k, k), return_state=True)     # each token replaces what its key held
    >>> out.ravel(), state.ravel()
    (array([1., 2., 4.]), array([4.]))
    """
    x = prepare(q, k, v, log_decay=log_decay, erase=erase, normalize=normalize, scale=scale, state=state)
    return run(x, form, chunk, return_state, backend=backend)
