"""The masks that have a name. Each is a rule on positions (see mask.py); combine them with & | ~.

    i   position of the query        j   position of the key          True = may attend

    causal            j <= i                            Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3
    window            i - j <= left, j - i <= right     Beltagy et al. 2020, arXiv:2004.05150, section 3.1
    last(n)           the n latest keys, itself included
    first(n)          j < n                             Xiao et al. 2023, arXiv:2309.17453 (the tokens a window must keep)
    prefix(n)         (j <= i) | (j < n)                Raffel et al. 2020, arXiv:1910.10683, section 3.2.1
    padding           j < lengths[b]
    segments          the same document, compared by index
    per_head          each head a mask of its own

The sparse patterns of published models stand in patterns.py and are masks like these: strided, fixed, dilated, ...
"""
import numpy as np

from .errors import MaskError, ShapeError
from .grid import extremes
from .leaves import between, surely
from .mask import Mask
from .patterns import bigbird, block_local, dilated, fixed, longformer, strided
from .shapes import as_array, count

__all__ = [
    "Mask", "bigbird", "block_local", "causal", "dilated", "first", "fixed", "last", "longformer", "padding", "per_head",
    "prefix", "segments", "strided", "window",
]  # fmt: skip


def causal():
    """Itself and everything before: j <= i.

    Examples
    --------
    >>> import minattn as ma
    >>> ma.masks.causal().dense(3, 3).sum(axis=1)
    array([1, 2, 3])
    """
    return Mask(lambda i, j: j <= i, name="causal", known=lambda t: surely(t.j_high <= t.i_low, t.j_low > t.i_high))


def window(left, right=0):
    """At most `left` positions back and `right` ahead, both inclusive: left + 1 + right keys; None is unbounded.

    Raises
    ------
    OptionError
        If a distance is negative or no integer.

    Examples
    --------
    >>> import minattn as ma
    >>> ma.masks.window(2, 1).dense(6, 6).sum(axis=1)                 # 2 + 1 + 1 keys, fewer at the ends
    array([2, 3, 4, 4, 4, 3])
    """
    left, right = (None if most is None else count("a window's distance", most, 0) for most in (left, right))
    return between(left, right, f"window({left}, {right})")


def last(n):
    """The n latest keys, the query's own position included: window(n - 1).

    Examples
    --------
    >>> import minattn as ma
    >>> ma.masks.last(2).dense(4, 4).sum(axis=1)
    array([1, 2, 2, 2])
    """
    n = count("n", n, 1)
    return between(n - 1, 0, f"last({n})")


def first(n):
    """The first n keys, j < n, for later queries and earlier ones alike: and it with causal().

    Examples
    --------
    >>> import minattn as ma
    >>> (ma.masks.causal() & (ma.masks.last(2) | ma.masks.first(1))).dense(5, 5).sum(axis=1)
    array([1, 2, 3, 3, 3])
    """
    n = count("n", n, 0)
    return Mask(lambda i, j: j < n, name=f"first({n})", known=lambda t: surely(t.j_high < n, t.j_low >= n))


def prefix(n):
    """Causal, but the first n keys are seen by all, each other included. Used without causal=True.

    Examples
    --------
    >>> import minattn as ma
    >>> ma.masks.prefix(3).dense(5, 5).sum(axis=1)
    array([3, 3, 3, 4, 5])
    """
    n = count("n", n, 0)
    mask = causal() | first(n)
    mask.name = f"prefix({n})"
    return mask


def padding(lengths):
    """Row b of the batch has lengths[b] real keys, the first ones; the others are padding that nobody sees.

    Parameters
    ----------
    lengths : integers, (B,)

    Raises
    ------
    MaskError
        If lengths are not a line of integers that are 0 or more.

    Examples
    --------
    >>> import minattn as ma
    >>> ma.masks.padding([3, 1]).dense(1, 4)[:, 0, 0].astype(int)
    array([[1, 1, 1, 0],
           [1, 0, 0, 0]])
    """
    lengths = as_array("lengths", lengths).copy()  # the caller may go on counting in theirs
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any():
        raise MaskError(f"lengths are {lengths.dtype} of shape {lengths.shape}; padding needs integers (B,), none below 0")
    rule = lambda g: g.j < lengths[g.b]  # noqa: E731
    known = lambda t: surely(t.j_high < lengths[t.b], t.j_low >= lengths[t.b])  # noqa: E731
    return Mask.node(rule, "padding", by_row=True, sizes=(len(lengths), None, None), known=known)


def segments(q_ids, k_ids=None):
    """Queries see keys of their own document: q_ids[n] == k_ids[s], compared by index, whatever the positions.

    Parameters
    ----------
    q_ids : integers, (N,) or (B, N)
    k_ids : integers, (S,) or (B, S), optional
        The same as q_ids without them.

    Raises
    ------
    ShapeError
        If ids have another rank, or (when used) N, S or B differ from the scores'.
    MaskError
        If ids are not integers.

    Examples
    --------
    >>> import minattn as ma
    >>> ma.masks.segments([0, 0, 7]) & ma.masks.causal()
    <Mask segments & causal: 3 queries down, 3 keys across, # may attend>
    # . .
    # # .
    . . #
    """
    q_ids = as_array("q_ids", q_ids).copy()
    k_ids = q_ids if k_ids is None else as_array("k_ids", k_ids).copy()
    if q_ids.ndim not in (1, 2) or k_ids.ndim not in (1, 2):
        raise ShapeError(f"q_ids is {q_ids.shape} and k_ids is {k_ids.shape}; ids must be (N,) or (B, N), and (S,) or (B, S)")
    for name, ids in (("q_ids", q_ids), ("k_ids", k_ids)):
        if ids.dtype.kind not in "iu" and ids.size:
            raise MaskError(f"{name} are {ids.dtype}; they must be integers, one number for each document")
    rows = {len(ids) for ids in (q_ids, k_ids) if ids.ndim == 2}
    if len(rows) > 1:
        raise ShapeError(f"q_ids has B = {len(q_ids)} but k_ids has B = {len(k_ids)}")

    def same(g):
        mine = q_ids[g.n] if q_ids.ndim == 1 else q_ids[g.b, g.n]
        yours = k_ids[g.s] if k_ids.ndim == 1 else k_ids[g.b, g.s]
        return mine == yours

    def known(t):
        (a, b), (c, d) = extremes(np.atleast_2d(q_ids), t.n_starts), extremes(np.atleast_2d(k_ids), t.s_starts)
        a, b, c, d = a[:, None, :, None], b[:, None, :, None], c[:, None, None, :], d[:, None, None, :]
        return surely((a == b) & (c == d) & (a == c), (b < c) | (d < a))

    sizes = (min(rows, default=None), q_ids.shape[-1], k_ids.shape[-1])
    return Mask.node(same, "segments", by_row=bool(rows), sizes=sizes, known=known)


def per_head(*masks):
    """Head h follows masks[h % len(masks)]: heads that split a pattern between them (Child et al. 2019, section 4.3).

    Raises
    ------
    MaskError
        If there is none, or one is no Mask.

    Examples
    --------
    >>> import minattn as ma
    >>> split = ma.masks.per_head(ma.masks.strided(3, part=1), ma.masks.strided(3, part=2))
    >>> split.dense(8, 8, heads=4).sum(axis=(2, 3))
    array([[26, 15, 26, 15]])
    """
    if not masks or not all(isinstance(mask, Mask) for mask in masks):
        given = ", ".join(type(mask).__name__ for mask in masks) or "nothing"
        raise MaskError(f"per_head is given {given}; it needs one Mask or more, for head 0, 1, ...")

    def chosen(h, answers):
        """Of the masks' answers, which broadcast to (B, H, ...), that of each head's own mask."""
        answer = answers[0]
        for m, other in enumerate(answers[1:], 1):
            answer = np.where(h % len(masks) == m, other, answer)
        return answer

    every_one = masks[0]
    for mask in masks[1:]:
        every_one = every_one & mask                                  # which checks that their sizes agree
    return Mask.node(
        lambda g: chosen(g.h, [mask.at(g) for mask in masks]), f"per_head({', '.join(mask.name for mask in masks)})",
        by_row=True, sizes=every_one.sizes, known=lambda t: chosen(t.h, [mask.known(t) for mask in masks]),
    )  # fmt: skip
