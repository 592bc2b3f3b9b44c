"""One needle in the past: which mechanism still finds it, how far back, and what it holds in memory for that.

    N  tokens of a text       d  distance of the needle from the last token       D  numbers of a key, of a value

Each token has a random key (D unit normals) and a random symbol, one of D - 1, as a one-hot value. The last token asks with
twice the needle's key. What comes out is decoded as the symbol with the largest share.

    recall   how often that is the needle's symbol; guessing gives 1 / (D - 1)
    weight   the needle's share of the output, mean: exactly 0 where no path leads from the last token to it
    bytes    what is held when the last token is computed, in float32, for one head: keys and values (2 D numbers a token or
             row), the open segment's among them, or a state with its normaliser

Channel D of the values is 1 for the needle alone; all mechanisms here are linear in their values, so it comes out as the
needle's weight. One layer, nothing trained: softmax finds a key by what it is; the features of linear attention and of
Infini-attention's memory hardly tell D numbers from D others, which training can mend, and distance cannot be blamed for.

    full           all tokens                                         window         the latest W
    first tokens   the latest W - f and the first f                   transformer-xl the segment, and M rows before it
    compressive    M rows, and behind them P that are c in one        memorizing     the segment, and the best matches of a memory
    infini         the segment, and a memory of constant size         linear         a state of constant size
"""
from typing import NamedTuple

import numpy as np

from ..attention import attention
from ..core import masks
from ..core.errors import OptionError, ShapeError
from ..core.shapes import count, integers
from ..linear.linear_attention import linear_attention
from ..memory.compressive import CompressiveMemory
from ..memory.infini import infini_attention
from ..memory.memorizing import ExternalMemory, memorizing_attention
from ..memory.streaming import streaming_attention
from ..memory.transformer_xl import XLWeights, transformer_xl_attention

FIRST, RATE, KEEP = 4, 4, 8


class Recall(NamedTuple):
    """How one mechanism finds a needle: recall and weight for each distance, and the bytes that it holds."""

    recall: np.ndarray
    weight: np.ndarray
    nbytes: int


def needle_recall(distances, *, length=512, window=64, capacity=256, dim=32, trials=50, seed=0, names=None):
    """Recall of a needle against its distance, for eight ways to look back.

    Parameters
    ----------
    distances : integers
        Tokens between the needle and the last token, from 1 to length - 1.
    length : int
        N, a multiple of window / 2 so that the last token ends a segment.
    window : int
        W, a multiple of 8. Segments have W / 2 tokens; Transformer-XL's memory has W / 2 rows, and the compressive one W / 4
        rows and W / 4 compressed ones, of 4 tokens each.
    capacity : int
        Pairs in the external memory, of which each query takes the 8 best.
    dim : int
        D, even.
    trials : int
        Texts for each distance.
    seed : int
    names : sequence of str, optional
        Which of the mechanisms in the glossary above; by default all.

    Returns
    -------
    dict
        {name: Recall(recall, weight, nbytes)}

    Raises
    ------
    OptionError
        If a size does not divide as said, or a name is unknown.
    ShapeError
        If a distance is not in the text.

    Examples
    --------
    >>> import minattn as ma
    >>> found = ma.needle_recall([10, 40, 100], length=128, window=32, dim=16, trials=20, names=["full", "window"])
    >>> [(found[name].weight > 0).tolist() for name in found]                     # who sees it at all
    [[True, True, True], [True, False, False]]
    >>> [found[name].nbytes for name in found]                                    # N or W tokens, 2 D numbers of 4 bytes
    [16384, 4096]
    """
    W, dim, N, trials = count("window", window, 8), count("dim", dim, 4), count("length", length, 8), count("trials", trials, 1)
    capacity, distances = count("capacity", capacity, 1), np.atleast_1d(integers("distances", distances))
    if W % 8 or N % (W // 2) or dim % 2:
        raise OptionError(f"window = {W} must be a multiple of 8, length = {N} one of window / 2, and dim = {dim} even")
    if distances.size and not 1 <= distances.min() <= distances.max() < N:
        raise ShapeError(f"distances reach from {distances.min()} to {distances.max()}; they must be 1 to N - 1 = {N - 1}")
    names = list(MECHANISMS) if names is None else list(names)
    if unknown := [name for name in names if name not in MECHANISMS]:
        raise OptionError(f"there is no {unknown[0]!r}; the mechanisms are {', '.join(MECHANISMS)}")
    found: dict = {name: ([], [], []) for name in names}
    for n, distance in enumerate(distances.tolist()):
        q, k, v = haystack(np.random.default_rng([seed, n]), N, distance, dim, trials)
        wanted = v[:, 0, N - 1 - distance, :-1].argmax(axis=-1)
        for name in names:
            out, held = MECHANISMS[name](q, k, v, W, capacity)
            recall, weight, nbytes = found[name]
            recall.append(float((out[:, :-1].argmax(axis=-1) == wanted).mean()))
            weight.append(float(out[:, -1].mean()))
            nbytes.append(held // trials)
    return {name: Recall(np.array(r), np.array(w), max(b, default=0)) for name, (r, w, b) in found.items()}


def haystack(rng, N, distance, dim, trials):
    """q, k, v, each (trials, 1, N, D): only the last token asks, and only the needle's value has 1 in its last channel."""
    q, k = np.zeros((2, trials, 1, N, dim), np.float32)
    k[:] = rng.standard_normal(k.shape, np.float32)
    v = np.eye(dim, dtype=np.float32)[rng.integers(0, dim - 1, (trials, 1, N))]
    q[:, :, -1] = 2 * k[:, :, N - 1 - distance]
    v[:, :, N - 1 - distance, -1] = 1
    return q, k, v


def of_last(function, **options):
    """A mechanism of q, k, v whose last query can be asked alone; and the pairs that it holds, where these are W or all."""
    def run(q, k, v, W, capacity):
        given = {name: value(W) for name, value in options.items()}
        held = k.shape[2] if not given else W
        return function(q[:, :, -1:], k, v, causal=True, **given)[:, 0, -1], held * 2 * k[:, :, 0].nbytes

    return run


def xl(q, k, v, W, capacity):
    x, weights = rows_of(q, k, v)
    out = transformer_xl_attention(x[:, -(W // 2):], weights, memory=x[:, -W:-(W // 2)])      # the last segment is enough
    return out[:, -1, :v.shape[-1]], W * 2 * k[:, :, 0].nbytes


def compressive(q, k, v, W, capacity):
    (x, weights), memory = rows_of(q, k, v), CompressiveMemory(W // 4, W // 4, rate=RATE)
    for start in range(0, x.shape[1], W // 2):
        segment = x[:, start:start + W // 2]
        out = transformer_xl_attention(segment, weights, memory=memory.rows)
        held = segment.shape[1] + (0 if memory.rows is None else memory.rows.shape[1])
        memory.append(segment)
    return out[:, -1, :v.shape[-1]], held * 2 * k[:, :, 0].nbytes


def rows_of(q, k, v):
    """q, k and v of each token side by side as one row, and an XL layer of one head that takes them apart, without positions."""
    D = q.shape[-1]
    pick_q, pick_k, pick_v = np.eye(3 * D, dtype=q.dtype).reshape(3 * D, 3, D).swapaxes(0, 1)
    nothing = np.zeros((1, D), q.dtype)
    weights = XLWeights(pick_q, pick_k, pick_v, 0 * pick_q, np.eye(D, 3 * D, dtype=q.dtype), nothing, nothing)
    return np.concatenate([q, k, v], axis=-1)[:, 0], weights


def memorizing(q, k, v, W, capacity):
    last, past = np.s_[:, :, -(W // 2):], np.s_[:, :, :-(W // 2)]
    memory = ExternalMemory(1, capacity, k.shape[-1], k.dtype, lead=k.shape[:1])
    memory.append(k[past], v[past])
    out = memorizing_attention(q[last], k[last], v[last], gate=np.zeros(1, q.dtype), memory=memory, keep=KEEP)
    return out[:, 0, -1], memory.nbytes + k[last].nbytes + v[last].nbytes


def infini(q, k, v, W, capacity):
    out = infini_attention(q, k, v, gate=np.zeros(1, q.dtype), segment=W // 2)
    D, segment = k.shape[-1], k[:, :, -(W // 2):].nbytes + v[:, :, -(W // 2):].nbytes
    return out[:, 0, -1], (D + 1) * k[:, :, 0].nbytes + segment


def linear(q, k, v, W, capacity):
    return linear_attention(q, k, v)[:, 0, -1], (k.shape[-1] + 1) * k[:, :, 0].nbytes


MECHANISMS = {
    "full": of_last(attention), "window": of_last(attention, mask=masks.last),
    "first tokens": of_last(streaming_attention, window=lambda W: W - FIRST, first=lambda W: FIRST),
    "transformer-xl": xl, "compressive": compressive, "memorizing": memorizing, "infini": infini, "linear": linear,
}  # fmt: skip
