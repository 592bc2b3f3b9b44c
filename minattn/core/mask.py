"""Mask: a rule on positions that says who may attend to whom. True = may attend.

    i   position of a query          n   its index, 0 .. N-1          b   row of the batch
    j   position of a key            s   its index, 0 .. S-1          h   query head

A rule is plain arithmetic on i and j (or b, h, i, j), written once for all sizes: `Mask(lambda i, j: (i - j) % 3 == 0)`.
Masks combine with & | ~. Nothing of size N x S exists until somebody asks for it (`.dense`), and because the rule speaks
of positions, not of indices, the same mask serves a whole sequence, one decoding step, a rolling cache and padding.
"""
import inspect
from typing import NamedTuple

import numpy as np

from .errors import MaskError, ShapeError
from .shapes import positions


class Grid(NamedTuple):
    """Where a mask is evaluated: integer arrays that broadcast to (B, H, N, S), and the sizes of the whole problem."""

    b: np.ndarray
    h: np.ndarray
    i: np.ndarray
    j: np.ndarray
    n: np.ndarray
    s: np.ndarray
    sizes: tuple  # (B, N, S) of the whole, of which b, n and s may be a part


def grid(q_pos, k_pos, *, batch=1, heads=1, rows=None, columns=None, sizes=None):
    """A `Grid` for positions (N,) or (B, N) and (S,) or (B, S); `heads`, `rows` and `columns` may be chosen indices."""
    q_pos, k_pos = np.atleast_2d(q_pos), np.atleast_2d(k_pos)
    n, s = q_pos.shape[-1], k_pos.shape[-1]
    heads = np.arange(heads) if np.ndim(heads) == 0 else np.asarray(heads)
    return Grid(
        b=np.arange(batch)[:, None, None, None],
        h=heads[None, :, None, None],
        i=q_pos[:, None, :, None],
        j=k_pos[:, None, None, :],
        n=(np.arange(n) if rows is None else np.asarray(rows))[None, None, :, None],
        s=(np.arange(s) if columns is None else np.asarray(columns))[None, None, None, :],
        sizes=(batch, n, s) if sizes is None else sizes,
    )


class Mask:
    """Who may attend to whom, as a rule on positions.

    Parameters
    ----------
    rule : callable
        `rule(i, j)` or `rule(b, h, i, j)`, arithmetic on integer arrays that returns booleans. It may be evaluated tile
        by tile, so an entry may depend on nothing but its own arguments.
    name : str, optional
        What `repr` calls it.

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

    def __init__(self, rule, *, name=None):
        if not callable(rule):
            raise MaskError(f"rule is {type(rule).__name__}; a Mask needs a function rule(i, j); an array goes to mask= itself")
        self.by_row = _takes_four(rule)
        self.name = name or getattr(rule, "__name__", "rule").replace("<lambda>", "rule")
        self._at = (lambda g: rule(g.b, g.h, g.i, g.j)) if self.by_row else (lambda g: rule(g.i, g.j))

    @classmethod
    def node(cls, at, name, *, by_row, sizes=(None, None, None)):
        """A mask from a function of the whole `Grid`: for the algebra, and for leaves that go by index."""
        mask = cls.__new__(cls)
        mask._at, mask.name, mask.by_row, mask.sizes = at, name, by_row, sizes
        return mask

    def at(self, where):
        """Booleans at a `Grid`, with size 1 along every axis that the rule does not depend on."""
        for letter, bound, given in zip("BNS", self.sizes, where.sizes, strict=True):
            if bound is not None and bound != given:
                raise ShapeError(f"mask {self.name} is made for {letter} = {bound} but the scores have {letter} = {given}")
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
        if batch is None:
            batch = self.sizes[0]
        if batch is None:
            batch = max([len(pos) for pos in (q_pos, k_pos) if np.ndim(pos) == 2], default=1)
        q_pos = positions("q_pos", q_pos, "N", np.arange(S - N, S), (batch,))
        k_pos = positions("k_pos", k_pos, "S", np.arange(S), (batch,))
        where = grid(q_pos, k_pos, batch=batch, heads=heads)
        seen = self.at(where) & (where.j >= 0)
        if self.by_row or seen.shape[0] != 1:
            return np.broadcast_to(seen, (batch, heads, N, S)).copy()
        return np.broadcast_to(seen[0, 0], (N, S)).copy()

    def __and__(self, other):
        return _join(self, "&", other)

    def __or__(self, other):
        return _join(self, "|", other)

    def __invert__(self):
        name = f"~({self.name})" if " " in self.name else f"~{self.name}"
        return Mask.node(lambda g: ~self.at(g), name, by_row=self.by_row, sizes=self.sizes)

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
    both = np.logical_and if sign == "&" else np.logical_or
    at = lambda g: both(left.at(g), right.at(g))  # noqa: E731
    return Mask.node(at, f" {sign} ".join(names), by_row=left.by_row or right.by_row, sizes=tuple(sizes))
