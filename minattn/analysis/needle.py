"""One needle in the past: which mechanism still finds it, how far back, by which path, and what it holds in memory for that.

    N  tokens of a text       d  distance of the needle from the last token       D  numbers of a key, of a value

Each token has a key and, as a one-hot value, a random symbol, one of D - 1. The last token asks with twice the needle's key,
and what comes out is decoded as the symbol with the largest share.

    recall   how often that is the needle's symbol, 1 / m of a time where m symbols tie; guessing gives 1 / (D - 1)
    weight   the needle's share of the output, mean: exactly 0 where no path leads from the last token to it
    bytes    what is held when the last token is computed, in float32, for one head: keys and values (2 D numbers a token or
             row, as the papers count), the open segment's among them, or a state with its normaliser

Channel D of the values is 1 for the needle alone; all mechanisms here are linear in their values, so it comes out as the
needle's weight. One layer, nothing trained. The last token ends a segment, where those that have segments see most: at the
first token of a segment they have W / 2 - 1 tokens less. There are two kinds of keys:

    sparse   one channel in eight is 2, the others are -2: far apart for a softmax, and for the features elu + 1 too. With
             these a state can show what it has room for.
    normal   D unit normals: far apart for a softmax; the features hardly tell them apart, which training would have to mend.

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
from ..core.shapes import as_array, choice, count, integers
from ..linear.linear_attention import linear_attention
from ..memory.compressive import CompressiveMemory
from ..memory.infini import infini_attention
from ..memory.memorizing import ExternalMemory, memorizing_attention
from ..memory.streaming import streaming_attention
from ..memory.transformer_xl import XLWeights, transformer_xl_attention

FIRST, RATE, KEEP = 4, 4, 8
ON, BYTES = 2.0, 4                                                                # of a channel; of a float32


class Recall(NamedTuple):
    """How one mechanism finds a needle: recall and weight for each distance, the bytes that it holds, and its paths in words."""

    recall: np.ndarray
    weight: np.ndarray
    nbytes: int
    paths: str


class Sizes(NamedTuple):
    """What the mechanisms are told."""

    W: int
    capacity: int
    gate: np.ndarray        # (1,), b


def needle_recall(distances, *, length=512, window=64, capacity=256, dim=64, trials=40, keys="sparse", gate=0.0, seed=0,
                  names=None):  # fmt: skip
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
    keys : {"sparse", "normal"}
        Of which kind, as above.
    gate : float
        b of memorizing and infini: sigmoid(b) of the output comes from the memory. 0 mixes both halves, as one number for all
        queries has to; inf asks the memory alone.
    seed : int
    names : sequence of str, optional
        Which of the mechanisms in the glossary above; by default all.

    Returns
    -------
    dict
        {name: Recall(recall, weight, nbytes, paths)}

    Raises
    ------
    OptionError
        If a size does not divide as said, or a name or a kind of keys is unknown.
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
    if (given := as_array("gate", gate)).ndim or given.dtype.kind not in "iuf" or np.isnan(given):
        raise OptionError(f"gate is {gate!r}; it must be one number, -inf and inf among them")
    sizes = Sizes(W, count("capacity", capacity, 1), np.full(1, gate, np.float64))
    distances = np.atleast_1d(integers("distances", distances))
    if W % 8 or N % (W // 2) or dim % 2:
        raise OptionError(f"window = {W} must be a multiple of 8, length = {N} one of window / 2, and dim = {dim} even")
    if distances.ndim > 1:
        raise ShapeError(f"distances are {distances.shape}; they must be one, or a sequence")
    if distances.size and not 1 <= distances.min() <= distances.max() < N:
        raise ShapeError(f"distances reach from {distances.min()} to {distances.max()}; they must be 1 to N - 1 = {N - 1}")
    names = MECHANISMS if names is None else names
    if not np.iterable(names):
        raise OptionError(f"names is {names!r}; it must be a sequence of names")
    names = list(dict.fromkeys(choice("names", name, MECHANISMS) for name in names))         # each once
    keys, seed = choice("keys", keys, KEYS), count("seed", seed, 0)
    found: dict = {name: ([], [], [0]) for name in names}
    for n, distance in enumerate(distances.tolist()):
        q, k, v = haystack(np.random.default_rng([seed, n]), N, distance, dim, trials, KEYS[keys])
        wanted = v[:, 0, N - 1 - distance, :-1].argmax(axis=-1)
        for name in names:
            out, numbers = MECHANISMS[name][0](q, k, v, sizes)
            recall, weight, held = found[name]
            recall.append(float(found_again(out[:, :-1], wanted).mean()))
            weight.append(float(out[:, -1].mean()))
            held.append(BYTES * numbers // trials)
    return {name: Recall(np.array(r), np.array(w), max(b), MECHANISMS[name][1].format(W=W, half=W // 2, quarter=W // 4, c=RATE,
            f=FIRST, rest=W - FIRST, best=KEEP, capacity=capacity)) for name, (r, w, b) in found.items()}  # fmt: skip


def found_again(shares, wanted):
    """(trials, D - 1), (trials,) -> 1 where the wanted symbol alone has the largest share, 1 / m where m of them have.

    Scores of sparse keys have few different values, so that ties are common: a sum's last digits must not decide them.
    """
    largest = shares >= shares.max(axis=-1, keepdims=True) - 1e-9
    return np.take_along_axis(largest, wanted[:, None], axis=-1)[:, 0] / largest.sum(axis=-1)


def sparse_keys(rng, shape):
    """ON in one channel of eight, -ON in the others."""
    row = np.full(shape[-1], -ON)
    row[:(shape[-1] + 7) // 8] = ON
    return rng.permuted(np.broadcast_to(row, shape), axis=-1)


KEYS = {"sparse": sparse_keys, "normal": lambda rng, shape: rng.standard_normal(shape)}


def haystack(rng, N, distance, dim, trials, keys):
    """q, k, v, each (trials, 1, N, D): only the last token asks, and only the needle's value has 1 in its last channel."""
    k, q = keys(rng, (trials, 1, N, dim)), np.zeros((trials, 1, N, dim))
    v = np.eye(dim)[rng.integers(0, dim - 1, (trials, 1, N))]
    q[:, :, -1] = 2 * k[:, :, N - 1 - distance]
    v[:, :, N - 1 - distance, -1] = 1
    return q, k, v


# --- each from q, k, v, Sizes to what the last query reads, (trials, D), and the numbers held for it, of all trials -------


def of_last(function, held=None, **options):
    """A mechanism of q, k, v whose last query can be asked alone; it holds `held(W)` pairs, or all."""
    def run(q, k, v, sizes):
        given = {name: value(sizes.W) for name, value in options.items()}
        pairs = np.s_[:, :, -held(sizes.W):] if held else np.s_[:]
        return function(q[:, :, -1:], k, v, causal=True, **given)[:, 0, -1], k[pairs].size + v[pairs].size

    return run


def xl(q, k, v, sizes):
    x, weights = rows_of(q, k, v)
    half, D = sizes.W // 2, v.shape[-1]
    segment, memory = x[:, -half:], x[:, -2 * half:-half]                         # in one layer nothing older is asked for
    out = transformer_xl_attention(segment, weights, memory=memory)
    return out[:, -1, :D], pairs_of(D, segment, memory)


def compressive(q, k, v, sizes):
    (x, weights), memory = rows_of(q, k, v), CompressiveMemory(sizes.W // 4, sizes.W // 4, rate=RATE)
    half, D = sizes.W // 2, v.shape[-1]
    for start in range(0, x.shape[1] - half, half):
        memory.append(x[:, start:start + half])
    segment = x[:, -half:]
    out = transformer_xl_attention(segment, weights, memory=memory.rows)
    return out[:, -1, :D], pairs_of(D, segment, *([] if memory.rows is None else [memory.rows]))


def rows_of(q, k, v):
    """q, k and v of each token side by side as one row, and an XL layer of one head that takes them apart, without positions."""
    D = q.shape[-1]
    pick_q, pick_k, pick_v = np.eye(3 * D, dtype=q.dtype).reshape(3 * D, 3, D).swapaxes(0, 1)
    nothing = np.zeros((1, D), q.dtype)
    weights = XLWeights(pick_q, pick_k, pick_v, 0 * pick_q, np.eye(D, 3 * D, dtype=q.dtype), nothing, nothing)
    return np.concatenate([q, k, v], axis=-1)[:, 0], weights


def pairs_of(D, *rows):
    """Numbers in a key and a value of D for each row; queries, which stand in these rows too, are not kept."""
    return sum(2 * D * a[..., 0].size for a in rows)


def memorizing(q, k, v, sizes):
    last, past = np.s_[:, :, -(sizes.W // 2):], np.s_[:, :, :-(sizes.W // 2)]
    memory = ExternalMemory(1, sizes.capacity, k.shape[-1], k.dtype, lead=k.shape[:1])
    memory.append(k[past], v[past])
    out = memorizing_attention(q[last], k[last], v[last], gate=sizes.gate, memory=memory, keep=KEEP)
    return out[:, 0, -1], memory.k.size + memory.v.size + k[last].size + v[last].size


def infini(q, k, v, sizes):
    before, last = np.s_[:, :, :-1], np.s_[:, :, -1:]
    options = {"gate": sizes.gate, "segment": sizes.W // 2}
    _, state = infini_attention(q[before], k[before], v[before], return_state=True, **options)
    out = infini_attention(q[last], k[last], v[last], state=state, **options)
    return out[:, 0, -1], state.size + state.k.size + state.v.size + k[last].size + v[last].size


def linear(q, k, v, sizes):
    out, state = linear_attention(q, k, v, return_state=True)
    return out[:, 0, -1], state.size


MECHANISMS = {
    "full": (of_last(attention), "every token"),
    "window": (of_last(attention, lambda W: W, mask=masks.last), "the latest {W}"),
    "first tokens": (of_last(streaming_attention, lambda W: W, window=lambda W: W - FIRST, first=lambda W: FIRST),
                     "the latest {rest}, the first {f}"),
    "transformer-xl": (xl, "segment of {half}, {half} rows before it"),
    "compressive": (compressive, "segment of {half}, {quarter} rows, {quarter} of {c} in one"),
    "memorizing": (memorizing, "segment of {half}, best {best} of {capacity}"),
    "infini": (infini, "segment of {half}, and a state"),
    "linear": (linear, "a state alone"),
}  # fmt: skip
