"""One recurrence over tokens, checked once and brought into one form, so that the forms compute and none checks.

    q (P, R, N, D)   k (P, N, D)   v (P, N, Dv)   g (P, N, D or 1)   a, b (P, N, D)   state (P, D, Dv)

P counts the states: every KV head of every row of the batch has its own. R = H // G query heads read each of them. With
`normalize`, v and the state carry one more column, in which every value is 1: what q reads there is its normaliser.
"""
import functools
import math
from dataclasses import dataclass

import numpy as np

from ..core.errors import DecayError, OptionError, ShapeError
from ..core.shapes import broadcast_lead, common_type, floats, number, spell, sum_to, working_type


@dataclass(frozen=True)
class Inputs:
    """What the forms get. Made by `prepare`; the letters are those of the module."""

    q: np.ndarray
    k: np.ndarray
    values: np.ndarray                # v without the column of the normaliser
    g: np.ndarray                     # log decay, <= 0
    a: np.ndarray | None              # erase: a (b^T S), both or neither
    b: np.ndarray | None
    state: np.ndarray
    scale: float
    normalize: bool
    lead: tuple                       # the caller's axes before the heads
    heads: tuple                      # (H, G), or () for one head without an axis
    rank: int                         # axes of the caller's k
    dtype: np.dtype                   # of the results
    rows: dict                        # what else a mechanism has for each token, by name: (P, N, D or 1)

    @functools.cached_property
    def v(self):
        ones = np.ones_like(self.values[..., :1])
        return np.concatenate([self.values, ones], axis=-1) if self.normalize else self.values

    def finish(self, read):
        """(P, R, N, Dv) from what the queries read: the normaliser, where there is one, is its last column."""
        out = divided(read) if self.normalize else read
        return out if self.scale == 1 else self.scale * out

    def restore(self, out):
        """(P, R, N, Dv) with the caller's axes, in the type of the results."""
        return self.restore_query(out).astype(self.dtype, copy=False)

    def restore_query(self, array):
        """(P, R, ...) with the caller's axes, in the working type."""
        return array.reshape(*self.lead, *self.heads[:1], *array.shape[2:])

    def restore_key(self, array):
        """(P, ...) of the keys, or the state, with the caller's axes, in the working type."""
        return array.reshape((*self.lead, *self.heads[1:], *array.shape[1:]))

    def gradient(self, flat, argument):
        """A gradient with the caller's axes, summed over those that were broadcast, in the type of its argument."""
        if argument is None:
            return None
        full = self.restore_query(flat) if flat.ndim == 4 else self.restore_key(flat)
        argument = np.asarray(argument)
        return sum_to(full, argument.shape).astype(argument.dtype, copy=False)


def divided(read):
    """What was read, divided by its last column, the normaliser; 0 / 0 is 0: nothing was written yet."""
    top, bottom = read[..., :-1], read[..., -1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        out = top / bottom
    empty = bottom == 0
    return np.where(empty & (top == 0), 0, out) if empty.any() else out


def prepare(q, k, v, *, log_decay=None, erase=None, normalize=False, scale=1.0, state=None, names=None,
            rows=None, tokens=None):  # fmt: skip
    """Check the arguments of `recurrence` and bring them into the form of `Inputs`.

    `names` says what the caller calls an argument, such as {"q": "r"}, so that errors speak of what was given. `rows` and
    `tokens` are further arrays by name, with one row or one number for each key; they come back in `Inputs.rows`.
    """
    names = {name: name for name in ("q", "k", "v", "log_decay", "state")} | (names or {})
    q, k, v = floats(names["q"], q), floats(names["k"], k), floats(names["v"], v)
    _check_axes({names["q"]: (q, "HND"), names["k"]: (k, "GND"), names["v"]: (v, ["G", "N", "Dv"])})
    headless, (N, D), Dv = k.ndim == 2, k.shape[-2:], v.shape[-1] + bool(normalize)
    H, G = (1, 1) if headless else (q.shape[-3], k.shape[-3])
    dtype = common_type(**{names["q"]: q, names["k"]: k, names["v"]: v})

    parts = {names["q"]: q, names["k"]: k, names["v"]: v}
    if log_decay is not None:
        parts[names["log_decay"]] = log_decay = decay_like(names["log_decay"], log_decay, k, names["k"])
    if erase is not None:
        if not isinstance(erase, (tuple, list)) or len(erase) != 2:
            raise OptionError("erase must be a pair (a, b) of arrays like k; each step adds a (b^T S) to the state")
        rows = {"erase[0]": erase[0], "erase[1]": erase[1]}
    rows = {name: key_like(name, row, k, names["k"]) for name, row in (rows or {}).items()}
    rows |= {name: token_like(name, row, k, names["k"])[..., None] for name, row in (tokens or {}).items()}
    parts |= rows
    if state is not None:
        parts[names["state"]] = state = _state(names["state"], state, headless, (G, D, Dv), normalize)
    if headless:
        parts = {name: part[None] for name, part in parts.items()}
    lead = broadcast_lead(**{name: part.shape[:-3] for name, part in parts.items()})
    P, work = math.prod(lead) * G, working_type(dtype)

    def flat(name, *shape, heads=G):
        part = np.broadcast_to(parts[name], (*lead, heads, *shape[-2:])).reshape(shape)
        return part.astype(work, copy=False)

    g = np.zeros((P, N, 1), work) if log_decay is None else flat(names["log_decay"], P, N, log_decay.shape[-1])
    rows = {name: flat(name, P, N, 1 if name in (tokens or {}) else D) for name, row in rows.items()}
    return Inputs(
        q=flat(names["q"], P, H // G, N, D, heads=H), k=flat(names["k"], P, N, D),
        values=flat(names["v"], P, N, v.shape[-1]), g=g,
        a=rows.get("erase[0]"), b=rows.get("erase[1]"), rows=rows, rank=k.ndim,
        state=np.zeros((P, D, Dv), work) if state is None else flat(names["state"], P, D, Dv).copy(),
        scale=number("scale", scale), normalize=bool(normalize), lead=lead, heads=() if headless else (H, G), dtype=dtype,
    )  # fmt: skip


def key_like(name, array, k, key="k"):
    """Something with one row for each key: (..., G, N, D), each axis full or 1."""
    array = floats(name, array)
    if array.ndim != k.ndim or not _fits(array.shape[-3:], k.shape[-3:]):
        letters = "GND"[-k.ndim:]
        shown = spell(name, array.shape, letters[-array.ndim:] if array.ndim else "")
        raise ShapeError(f"{shown} but {spell(key, k.shape, letters)}; it must have the axes of {key}, each full or 1")
    return array


def token_like(name, array, k, key="k"):
    """One number for each key: (..., G, N), each axis full or 1."""
    array = floats(name, array)
    if array.ndim != k.ndim - 1 or not _fits(array.shape[-2:], k.shape[-3:-1]):
        fits = f"(..., G, N), one number for each token of {key}, each axis full or 1"
        raise ShapeError(f"{name} is {array.shape} but {spell(key, k.shape, 'GND'[-k.ndim:])}; it must be {fits}")
    return array


def decay_like(name, log_decay, k, key="k"):
    """A log decay with the rank of k: one number a token gets an axis D of size 1."""
    log_decay = floats(name, log_decay)
    if log_decay.ndim not in (k.ndim - 1, k.ndim):
        shown = f"{name} has {log_decay.ndim} axes, {log_decay.shape}, and {spell(key, k.shape, 'GND'[-k.ndim:])}"
        raise ShapeError(f"{shown}; it must be (..., G, N), one number a token, or (..., G, N, D), one a channel")
    log_decay = key_like(name, log_decay, k, key) if log_decay.ndim == k.ndim else token_like(name, log_decay, k, key)[..., None]
    if not (log_decay <= 0).all():
        worst = "NaN" if np.isnan(log_decay).any() else f"up to {log_decay.max():.4g}"
        raise DecayError(f"{name} is {worst}; a log decay is at most 0 (0 keeps everything, -inf forgets everything)")
    return log_decay


def _state(name, state, headless, wanted, normalize):
    """What an earlier call returned: (..., G, D, Dv)."""
    state = floats(name, state)
    fits = state.shape == wanted[1:] if headless else state.ndim > 2 and state.shape[-3:] == wanted
    if not fits:
        column = " (normalize=True adds a column)" if normalize else ""
        needed = f"(D, Dv) = {wanted[1:]}" if headless else f"(..., G, D, Dv) = (..., {', '.join(map(str, wanted))})"
        raise ShapeError(f"{name} is {state.shape}; it must be {needed}{column}")
    return state


def _fits(shape, wanted):
    return all(size in (1, full) for size, full in zip(shape, wanted, strict=True))


def _check_axes(arrays):
    """N shared by all, D by q and k, G by k and v, H a multiple of G: or a ShapeError that shows all of them."""
    shown = ", ".join(spell(name, a.shape, letters) for name, (a, letters) in arrays.items())
    (q_name, (q, _)), (k_name, (k, _)), (v_name, (v, _)) = arrays.items()
    for name, (a, letters) in arrays.items():
        if a.ndim < 2:
            raise ShapeError(f"{name} has {a.ndim} axes ({shown}); it must be (..., {', '.join(letters)}), or two for one head")
    for name, (a, _) in arrays.items():
        if (a.ndim == 2) != (q.ndim == 2):
            raise ShapeError(f"{q_name} has {q.ndim} axes but {name} has {a.ndim} ({shown}); give all a head axis or none")
        if a.shape[-1] == 0:
            raise ShapeError(f"the last axis of {name} is 0 ({shown}); D and Dv must be at least 1")
        if a.shape[-2] != k.shape[-2]:
            raise ShapeError(f"{name} has N = {a.shape[-2]} but {k_name} has N = {k.shape[-2]} ({shown}); "
                             "each token reads and writes once, so all share N")  # fmt: skip
    if q.shape[-1] != k.shape[-1]:
        raise ShapeError(f"{k_name} has D = {k.shape[-1]} but {q_name} has D = {q.shape[-1]} ({shown}); they must share D")
    if q.ndim > 2:
        H, G = q.shape[-3], k.shape[-3]
        if v.shape[-3] != G:
            raise ShapeError(f"{v_name} has G = {v.shape[-3]} but {k_name} has G = {G} ({shown}); they must share their heads")
        if H == 0 or G == 0 or H % G:
            raise ShapeError(f"{q_name} has H = {H} heads and {k_name} has G = {G} ({shown}); H must be a multiple of G")
