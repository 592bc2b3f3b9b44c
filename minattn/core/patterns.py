"""Sparse patterns: the masks with which published models leave out most of the N x N scores. Found as `masks.strided` and so on.

    i   position of a query        l   stride                    w   keys of a window
    j   position of a key          c   summary keys of a block

    strided       i - j <= l, or (i - j) mod l = 0; and j <= i        Child et al. 2019, arXiv:1904.10509, section 4.3
    fixed         j // l = i // l, or j mod l >= l - c; and j <= i    the same
    dilated       |i - j| <= (w // 2) d, and (i - j) mod d = 0        Beltagy et al. 2020, arXiv:2004.05150, section 3.1
    longformer    |i - j| <= w // 2, or i or j is global              the same
    bigbird       the same of blocks, or j's was drawn for i's        Zaheer et al. 2020, arXiv:2007.14062, section 2
    block_local   j // size = i // size                               Qiu et al. 2019, arXiv:1911.02972, section 3

Only strided and fixed look at the past alone; the others look both ways, and with `& causal()` serve a decoder.
Tiles are skipped where the pattern leaves whole tiles empty, which the columns of strided and fixed do not: with tiles of
64 keys and l = 128 half of all causal tiles stay active. What to do then: `strided_attention` in sparse/factorized.py.
"""
import numpy as np

from .errors import MaskError, OptionError
from .leaves import between, coarse, columns, either, every, listed
from .shapes import as_array, count


def strided(stride, *, part=None):
    """The last stride keys with the query's own, and every stride-th key before it: for data with rows, as images have.

    Child et al. 2019, section 4.3, whose code has l keys in the window where its text has l + 1, as here. Two hops reach
    everything before; the keys attended are fewest with l near sqrt(N), about 1.5 N^1.5 in all.

    Parameters
    ----------
    stride : int
        l: the window holds l + 1 keys.
    part : {None, 1, 2}
        The window alone (1, the paper's A^(1)) or the column alone (2), for heads or layers that take one each; None for
        the union, the paper's merged head.

    Raises
    ------
    OptionError
        If the stride is below 1 or no integer, or the part is another.

    Examples
    --------
    >>> import minattn as ma
    >>> ma.masks.strided(3)
    <Mask strided(3): 8 queries down, 8 keys across, # may attend>
    # . . . . . . .
    # # . . . . . .
    # # # . . . . .
    # # # # . . . .
    . # # # # . . .
    . . # # # # . .
    # . . # # # # .
    . # . . # # # #
    """
    stride = count("stride", stride, 1)
    return _joined("strided", f"{stride}", part, between(stride, 0, "window"), between(None, 0, "causal") & every(stride))


def fixed(stride, summary=1, *, subblock=0, part=None):
    """The query's own block of keys so far, and the last summary keys of every block: for text, where columns mean nothing.

    Child et al. 2019, section 4.3.

    Parameters
    ----------
    stride : int
        l, the size of a block.
    summary : int
        c: so many keys at the end of each block, through which its contents reach the later blocks.
    subblock : int
        Which c keys of a block, counted from its end: several heads may take different ones (`masks.per_head`).
    part : {None, 1, 2}
        The own block alone (1), the summaries alone (2), or the union.

    Raises
    ------
    OptionError
        If a number is out of its range, or the block does not hold so many summaries.

    Examples
    --------
    >>> import minattn as ma
    >>> ma.masks.fixed(3)
    <Mask fixed(3, 1): 8 queries down, 8 keys across, # may attend>
    # . . . . . . .
    # # . . . . . .
    # # # . . . . .
    . . # # . . . .
    . . # # # . . .
    . . # # # # . .
    . . # . . # # .
    . . # . . # # #
    """
    stride, summary, first = summary_columns(stride, summary, subblock)
    past = between(None, 0, "causal")
    options = f"{stride}, {summary}" + (f", subblock={subblock}" if subblock else "")
    return _joined("fixed", options, part, past & block_local(stride), past & columns(stride, first, summary))


def summary_columns(stride, summary, subblock):
    """(stride, summary, first): the summaries of a block begin at its `first` key."""
    stride, summary, subblock = count("stride", stride, 1), count("summary", summary, 1), count("subblock", subblock, 0)
    first = stride - (subblock + 1) * summary
    if first < 0:
        raise OptionError(f"summary = {summary} at subblock = {subblock}; a block of stride = {stride} keys does not hold it")
    return stride, summary, first


def dilated(window, gap):
    """A window with `gap` keys left out between any two: as many keys, gap + 1 times as far, both ways.

    Beltagy et al. 2020, section 3.1, whose dilation d is gap + 1.

    Parameters
    ----------
    window : int
        w: w // 2 keys on each side, and the query's own.
    gap : int
        0 is the window without gaps.

    Raises
    ------
    OptionError
        If window is below 1, gap below 0, or one no integer.

    Examples
    --------
    >>> import minattn as ma
    >>> ma.masks.dilated(2, 1) & ma.masks.causal()                    # a decoder's: itself and the key two before
    <Mask dilated(2, 1) & causal: 8 queries down, 8 keys across, # may attend>
    # . . . . . . .
    . # . . . . . .
    # . # . . . . .
    . # . # . . . .
    . . # . # . . .
    . . . # . # . .
    . . . . # . # .
    . . . . . # . #
    """
    step, side = count("gap", gap, 0) + 1, count("window", window, 1) // 2
    return _named(between(side * step, side * step, "window") & every(step), f"dilated({window}, {gap})")


def longformer(window, global_positions):
    """A window, and some global tokens that see everything and are seen by everything.

    Beltagy et al. 2020, section 3.1.

    Parameters
    ----------
    window : int
        w: w // 2 keys on each side, and the query's own.
    global_positions : integers, (any number,)
        Positions, such as 0 for a classifier's first token, or those of a question.

    Raises
    ------
    OptionError
        If window is below 1 or no integer.
    MaskError
        If global_positions are not a line of integers that are 0 or more.

    Examples
    --------
    >>> import minattn as ma
    >>> ma.masks.longformer(2, [0]).dense(6, 6).sum(axis=1)
    array([6, 3, 4, 4, 4, 3])
    """
    side, chosen = count("window", window, 1) // 2, as_array("global_positions", global_positions)
    if chosen.ndim != 1 or (chosen.size and (chosen.dtype.kind not in "iu" or chosen.min() < 0)):
        given = f"{chosen.dtype} of shape {chosen.shape}"
        raise MaskError(f"global_positions are {given}; longformer needs a line of integers, none below 0")
    chosen = np.unique(chosen.astype(np.int64))
    return _named(between(side, side, "window") | either(chosen), f"longformer({window}, {len(chosen)} global)")


def bigbird(length, *, block=64, window=3, first=2, random=3, seed):
    """Blocks of tokens that see a window of blocks, the first blocks (which see all in turn), and random blocks.

    Zaheer et al. 2020, section 2 (blocks: appendix D).

    Parameters
    ----------
    length : int
        Positions among which blocks are drawn; later ones see, and are seen through, window and first blocks alone.
    block : int
        Tokens of a block; 1 is the pattern of single tokens that the paper's theory speaks of.
    window, first, random : int
        In blocks: window // 2 on each side and the own; the global ones; those drawn for each other block, never one
        that it sees already. So a block well inside sees window + first + random of them, with window odd.
    seed : int
        The same seed draws the same blocks.

    Raises
    ------
    OptionError
        If a number is out of its range or no integer.

    Examples
    --------
    >>> import minattn as ma
    >>> ma.masks.bigbird(12, block=1, window=3, first=1, random=2, seed=0).dense(12, 12).sum(axis=1)
    array([12,  5,  6,  6,  6,  6,  6,  6,  6,  6,  6,  5])
    """
    blocks = -(-count("length", length, 1) // count("block", block, 1))
    side, first, random = count("window", window, 1) // 2, count("first", first, 0), count("random", random, 0)
    rng = np.random.default_rng(count("seed", seed, 0))
    table = np.full((blocks, min(random, blocks)), -2)                # -2: no block has this number
    others = np.arange(first, blocks)
    for row in range(first, blocks):
        drawn = rng.permutation(others[abs(others - row) > side])[:random]
        table[row, : len(drawn)] = drawn
    seen = between(side, side, "window") | either(np.arange(first)) | listed(table)
    return _named(coarse(seen, block), f"bigbird({length}, block={block})")


def block_local(size):
    """The own block of `size` positions, all of it (Qiu et al. 2019, section 3: the diagonal blocks).

    Raises
    ------
    OptionError
        If size is below 1 or no integer.

    Examples
    --------
    >>> import minattn as ma
    >>> ma.masks.block_local(3).dense(7, 7).sum(axis=1)
    array([3, 3, 3, 3, 3, 3, 1])
    """
    size = count("size", size, 1)
    return _named(coarse(between(0, 0, "own"), size), f"block_local({size})")


def _joined(kind, options, part, local, far):
    """A pattern of two parts, or one of them."""
    if part not in (None, 1, 2):
        raise OptionError(f"part is {part!r}; it must be 1, 2, or None for both")
    mask = {None: local | far, 1: local, 2: far}[part]
    return _named(mask, f"{kind}({options})" if part is None else f"{kind}({options}, part={part})")


def _named(mask, name):
    mask.name = name
    return mask
