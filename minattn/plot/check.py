"""What may be drawn: finite maps, one label for each row and column, masks that fit.

Each function takes what a caller gave and returns what the drawing needs, or raises a `PlotError`.
"""
import warnings
from collections.abc import Iterable

import numpy as np

from ..core.errors import PlotError
from ..core.shapes import as_array


class PlotWarning(UserWarning):
    """The map can be drawn, but it does not look like attention weights."""


def as_maps(values, name, *letters):
    """A float array with exactly these axes, every entry finite."""
    array = as_array(name, values)
    if array.dtype == bool:
        raise PlotError(f"{name} is boolean: plot.mask draws a mask, this draws numbers")
    if array.ndim != len(letters):
        raise PlotError(f"{name} has shape {array.shape}, but one map for each ({', '.join(letters)}) is drawn: "
                        f"{len(letters)} axes; index the others, as in {name}[0]")
    if array.size == 0:
        raise PlotError(f"{name} is {sizes(array, letters)}: there is nothing to draw")
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise PlotError(f"{name} has dtype {array.dtype}; a map is an array of real numbers")
    array = array.astype(np.result_type(array.dtype, np.float32), copy=False)
    finite = np.isfinite(array)
    if not finite.all():
        where = tuple(int(axis) for axis in np.argwhere(~finite)[0])
        raise PlotError(f"{name}{list(where)} is {array[where]} ({place(letters, where)}), one of "
                        f"{np.sum(~finite)} entries that are not finite; a map needs numbers")
    return array


def as_visible(mask, N, S):
    """Boolean (N, S), True where a query may look: from a boolean array, a `Mask`, or None (no mask, all may)."""
    if mask is None:
        return np.ones((N, S), bool)
    allowed = mask.dense(N, S) if hasattr(mask, "dense") else as_array("mask", mask)
    if allowed.dtype != bool:
        raise PlotError(f"mask has dtype {allowed.dtype}; a mask is boolean, True = may attend: mask.astype(bool)")
    if allowed.ndim > 2 and allowed.size == N * S:
        allowed = allowed.reshape(allowed.shape[-2:])
    if allowed.ndim != 2 or allowed.shape != (N, S):
        raise PlotError(f"mask has shape {allowed.shape} but the map is (N={N}, S={S}): one mask of that shape "
                        f"is drawn; where it differs between heads, pick one, as in mask[0]")
    return allowed


def as_hidden(mask, maps):
    """True where the map stays grey: the mask hides the key and no map gives it weight."""
    hidden = ~as_visible(mask, *maps.shape[-2:])
    leaks = np.argwhere(hidden & (maps != 0))
    if len(leaks):
        *_, n, s = leaks[0]
        warn(f"the mask hides key {s} from query {n}, but its weight there is {float(maps[tuple(leaks[0])]):.3g} "
             f"({len(leaks)} such cells); drawn with the weight's colour, not grey")
    return hidden & (maps == 0).all(axis=tuple(range(maps.ndim - 2)))


def as_labels(tokens, key_tokens, N, S):
    """Two lists of strings: the N queries' and the S keys', None where there are no labels."""
    rows = _labels(tokens, "tokens", "N", "query", N, S)
    return rows, rows if key_tokens is None and N == S else _labels(key_tokens, "key_tokens", "S", "key", S, N)


def _labels(tokens, name, letter, one, size, other):
    if tokens is None:
        return None
    if isinstance(tokens, str) or not isinstance(tokens, Iterable):
        given = "one string" if isinstance(tokens, str) else type(tokens).__name__
        raise PlotError(f"{name} is {given}; a list with one label for each {one} is needed ({letter} = {size})")
    labels = [readable(str(token)) for token in tokens]
    if len(labels) != size:
        hint = "; the keys' labels go in key_tokens=" if name == "tokens" and len(labels) == other else ""
        raise PlotError(f"{name} has {len(labels)} labels but the map has {letter} = {size}: one for each {one}{hint}")
    return labels


def readable(token):
    """A token as a person can see it on one line: blanks, line ends and control characters get a visible form."""
    if token.strip(" ") == "":
        return "\N{OPEN BOX}" * len(token)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in token)


def check_rows(weights, letters):
    """Warn where a row of weights sums above 1. Below 1 is normal: hidden rows, sink logits."""
    sums = weights.sum(-1, dtype=np.float64)
    over = np.argwhere(sums > 1 + 4e-3)                               # a bfloat16 weight is off by up to 0.002 of itself
    if len(over):
        where = tuple(int(axis) for axis in over[0])
        warn(f"row {where[-1]} of the weights sums to {sums[where]:.4g}, above 1 ({place(letters[:-1], where)}; "
             f"{len(over)} such rows): these are not softmax weights over the keys")


def warn(text):
    """Point at the line outside this package that asked for the drawing (frames differ between the callers)."""
    warnings.warn(text, PlotWarning, stacklevel=4)


def sizes(array, letters):
    return "(" + ", ".join(f"{letter}={size}" for letter, size in zip(letters, array.shape, strict=True)) + ")"


def place(letters, where):
    names = {"N": "query", "S": "key", "H": "head", "layers": "layer"}
    return ", ".join(f"{names.get(letter, letter)} {index}" for letter, index in zip(letters, where, strict=True))
