"""Mask: a rule on positions that says who may attend to whom. True = may attend.

    i   position of a query      n   index of a query, 0 .. N-1      b   row of the batch
    j   position of a key        s   index of a key, 0 .. S-1        h   query head

A rule is plain arithmetic on i and j (or b, h, i, j), written once for all sizes: `Mask(lambda i, j: (i - j) % 3 == 0)`.
Masks combine with & | ~. Nothing of size N x S exists until somebody asks for it (`.dense`), and because the rule speaks
of positions, not of indices, the same mask serves a whole sequence, one decoding step, a rolling cache and padding.
"""
import inspect

import numpy as np

from .blocks import block_map
from .errors import MaskError, ShapeError
from .grid import grid
from .shapes import count, positions


class Mask:
    """Who may attend to whom, as a rule on positions.

    Parameters
    ----------
    rule : callable
        `rule(i, j)` or `rule(b, h, i, j)`, arithmetic on integer arrays that returns booleans. It may be evaluated tile
        by tile, so an entry may depend on nothing but its own arguments.
    name : str, optional
        What `repr` calls it.
    known : callable, optional
        What the rule says of whole tiles, for `blocks`: from `grid.Tiles` to -1 where a tile is surely hidden, 1 where it is
        surely visible, 0 where its entries must be looked at. Without it they always are.

    Raises
    ------
    MaskError
        If the rule takes another number of arguments, or (when evaluated) returns anything but booleans.

    Examples
    --------
    >>> import minattn as ma
    >>> every_third = ma.Mask(lambda i, j: (i - j) % 3 == 0, name="every third")
    >>> every_third & ma.masks.causal()
    <Mask every third & causal: 8 queries down, 8 keys across, # may attend>
    # . . . . . . .
    . # . . . . . .
    . . # . . . . .
    # . . # . . . .
    . # . . # . . .
    . . # . . # . .
    # . . # . . # .
    . # . . # . . #
    """

    __array_ufunc__ = None  # let NumPy leave `array & mask` to __rand__, which explains
    sizes: tuple = (None, None, None)  # (B, N, S) where the mask is bound to them, as padding is to B

    def __init__(self, rule, *, name=None, known=None):
        if not callable(rule):
            raise MaskError(f"rule is {type(rule).__name__}; a Mask needs a function rule(i, j); an array goes to mask= itself")
        self.by_row = _takes_four(rule)
        self.name = name or getattr(rule, "__name__", "rule").replace("<lambda>", "rule")
        self._at = (lambda g: rule(g.b, g.h, g.i, g.j)) if self.by_row else (lambda g: rule(g.i, g.j))
        self.known = known or _unknown

    @classmethod
    def node(cls, at, name, *, by_row, sizes=(None, None, None), known=None):
        """A mask from a function of the whole `Grid`: for the algebra, and for leaves that go by index."""
        mask = cls.__new__(cls)
        mask._at, mask.name, mask.by_row, mask.sizes, mask.known = at, name, by_row, sizes, known or _unknown
        return mask

    def at(self, where):
        """Booleans at a `Grid`, with size 1 along every axis that the rule does not depend on."""
        self.check_fit(where.sizes)
        try:
            seen = np.asarray(self._at(where))
        except ValueError as error:
            if "truth value" not in str(error):
                raise
            hint = "array arithmetic, with & | ~ for and, or, not, and no a < b < c"
            raise MaskError(f"mask {self.name}: its rule must be {hint}") from error
        if seen.dtype != bool:
            raise MaskError(f"mask {self.name}: its rule returns {seen.dtype}; compare, or use .astype(bool), for booleans")
        full = np.broadcast_shapes(*(a.shape for a in (where.b, where.h, where.i, where.j)))
        try:
            np.broadcast_to(seen, full)
        except ValueError as error:
            raise ShapeError(f"mask {self.name}: its rule returns shape {seen.shape} for (B, H, N, S) = {full}") from error
        return seen.reshape((1,) * (4 - seen.ndim) + seen.shape)

    def check_fit(self, sizes):
        """Raise a ShapeError where the mask is bound to other (B, N, S) than these."""
        for letter, bound, given in zip("BNS", self.sizes, sizes, strict=True):
            if bound is not None and bound != given:
                raise ShapeError(f"mask {self.name} is made for {letter} = {bound} but the scores have {letter} = {given}")

    def dense(self, N, S, *, batch=None, heads=1, q_pos=None, k_pos=None):
        """The mask as an array, as attention sees it.

        Parameters
        ----------
        N, S : int
            Queries and keys.
        batch, heads : int
            Sizes for a rule that reads b or h; without `batch`, the one the mask is bound to, else 1.
        q_pos, k_pos : integer arrays, (N,) or (B, N) and (S,) or (B, S), optional
            By default the last query stands at the last key. A key at -1 is an empty slot that nobody sees.

        Returns
        -------
        bool array, (N, S), or (B, H, N, S) where the rule reads b or h or the positions differ by row

        Examples
        --------
        >>> import minattn as ma
        >>> ma.masks.causal().dense(2, 3)                             # the last query is aligned with the last key
        array([[ True,  True, False],
               [ True,  True,  True]])
        """
        where = self._grid(N, S, batch, heads, q_pos, k_pos)
        seen = self.at(where) & (where.j >= 0)
        if self.by_row or seen.shape[0] != 1:
            return np.broadcast_to(seen, (len(where.b), heads, N, S)).copy()
        return np.broadcast_to(seen[0, 0], (N, S)).copy()

    def blocks(self, N, S, *, block_q=64, block_k=64, batch=None, heads=1, q_pos=None, k_pos=None):
        """Which tiles of the scores are empty, full or partial: a `BlockMap`, made without ever holding N x S booleans.

        Parameters
        ----------
        block_q, block_k : int
            Queries and keys of a tile; the last ones may be short.
        N, S, batch, heads, q_pos, k_pos
            As for `dense`.

        Returns
        -------
        BlockMap
            Its first axes have size 1 where all rows, or all heads, have the same tiles.

        Examples
        --------
        >>> import minattn as ma
        >>> ma.masks.last(3).blocks(8, 8, block_q=2, block_k=2)
        <BlockMap 4 x 4 tiles of 2 x 2: # full, + partial (2 stored), . empty>
        + . . .
        + + . .
        . + + .
        . . + +
        """
        where = self._grid(N, S, batch, heads, q_pos, k_pos)
        return block_map(self, where, count("block_q", block_q, 1), count("block_k", block_k, 1))

    def _grid(self, N, S, batch, heads, q_pos, k_pos):
        """Every entry of an (N, S) problem, at the given positions or the default ones."""
        N, S, heads = count("N", N, 0), count("S", S, 0), count("heads", heads, 1)
        if batch is None:
            batch = self.sizes[0]
        if batch is None:
            batch = max([len(pos) for pos in (q_pos, k_pos) if np.ndim(pos) == 2], default=1)
        batch = count("batch", batch, 0)
        q_pos = positions("q_pos", q_pos, "N", np.arange(S - N, S), (batch,))
        k_pos = positions("k_pos", k_pos, "S", np.arange(S), (batch,))
        return grid(q_pos, k_pos, batch=batch, heads=heads)

    def __and__(self, other):
        return _join(self, "&", other)

    def __or__(self, other):
        return _join(self, "|", other)

    def __invert__(self):
        name = f"~({self.name})" if " " in self.name else f"~{self.name}"
        return Mask.node(lambda g: ~self.at(g), name, by_row=self.by_row, sizes=self.sizes, known=lambda t: -self.known(t))

    def __rand__(self, other):
        return _join(self, "&", other)

    def __ror__(self, other):
        return _join(self, "|", other)

    def __bool__(self):
        raise MaskError("a Mask has no single truth value: combine masks with & | ~, not with and, or, not")

    def __repr__(self):
        N, S = (8 if bound is None else bound for bound in self.sizes[1:])
        rows = min(N, 16), min(S, 32)
        seen = self.dense(N, S)
        first = ", row b = 0, head h = 0" if seen.ndim == 4 else ""
        square = seen if seen.ndim == 2 else seen[0, 0] if len(seen) else seen.reshape(0, S)
        lines = [" ".join("#" if cell else "." for cell in row[: rows[1]]) for row in square[: rows[0]]]
        return "\n".join([f"<Mask {self.name}: {rows[0]} queries down, {rows[1]} keys across{first}, # may attend>", *lines])


def _takes_four(rule):
    """True for rule(b, h, i, j), False for rule(i, j)."""
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    needed = [p for p in inspect.signature(rule).parameters.values() if p.kind in kinds and p.default is p.empty]
    if len(needed) not in (2, 4):
        names = ", ".join(p.name for p in needed)
        raise MaskError(f"rule takes {len(needed)} arguments ({names}); it must be rule(i, j) or rule(b, h, i, j)")
    return len(needed) == 4


def _join(left, sign, right):
    if not isinstance(right, Mask):
        raise MaskError(f"cannot combine a Mask with {type(right).__name__}; with an array, use mask.dense(N, S) {sign} array")
    sizes = []
    for letter, a, b in zip("BNS", left.sizes, right.sizes, strict=True):
        if a is not None and b is not None and a != b:
            raise ShapeError(f"mask {left.name} is made for {letter} = {a} but mask {right.name} for {letter} = {b}")
        sizes.append(b if a is None else a)
    names = [f"({m.name})" if sign == "&" and " | " in m.name else m.name for m in (left, right)]
    # of whole tiles: hidden -1, unsure 0, visible 1, so that "and" is the smaller and "or" the larger of two
    both, sure = (np.logical_and, np.minimum) if sign == "&" else (np.logical_or, np.maximum)
    return Mask.node(
        lambda g: both(left.at(g), right.at(g)), f" {sign} ".join(names), by_row=left.by_row or right.by_row,
        sizes=tuple(sizes), known=lambda t: sure(left.known(t), right.known(t)),
    )  # fmt: skip


def _unknown(tiles):
    """A rule of which nothing is known but its values."""
    return np.zeros((1, 1, 1, 1), np.int8)
