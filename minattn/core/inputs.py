"""One attention problem, checked once and brought into one form, so that every backend computes and none checks.

    q (B, H, N, D)   k (B, G, S, D)   v (B, G, S, Dv)        B is 1 where k or v is shared by all rows
    visible          booleans that broadcast to (B, H, N, S), or None where everything is

The public face takes any leading axes, one head without an axis, masks as rules or arrays. Here they become four axes
and one question, `visible()`; `restore` gives a result the caller's axes back.
"""
import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .errors import MaskError, OptionError, PositionError, ShapeError
from .grid import grid, tiles
from .mask import Mask
from .masks import causal as causal_mask
from .shapes import as_array, broadcast_lead, common_type, floats, number, positions, spell, sum_to, working_type


@dataclass(frozen=True)
class Inputs:
    """What a backend gets. Made by `prepare`; the letters are those of the module."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray | None
    lead: tuple                       # the caller's axes before the heads
    headless: bool                    # one head without an axis of its own
    dtype: np.dtype                   # of the results
    scale: float
    softcap: float | None
    score_mod: Any
    bias: np.ndarray | None           # (B or 1, H or 1, N or 1, S or 1)
    sink_logits: np.ndarray | None    # (H,)
    rule: Mask | None
    array: np.ndarray | None          # the mask given as an array, four axes like the bias
    q_pos: np.ndarray                 # (B or 1, N)
    k_pos: np.ndarray                 # (B or 1, S)
    heads: np.ndarray                 # original index of each query head here
    rows: np.ndarray                  # original index of each query here
    columns: np.ndarray               # original index of each key here
    sizes: tuple                      # (B, N, S) of the whole problem
    home: Any = None                  # for arrays on a GPU: what knows them (gpu/home.py); q, k, v and bias stand for them

    @property
    def batch(self):
        return self.sizes[0]

    @property
    def work(self):
        """The type to compute in."""
        return working_type(self.dtype)

    def grid(self):
        """b, h, i, j (and n, s) of every score, as arrays that broadcast to (B, H, N, S)."""
        return grid(self.q_pos, self.k_pos, batch=self.batch, heads=self.heads, rows=self.rows, columns=self.columns,
                    sizes=self.sizes)  # fmt: skip

    def visible(self):
        """Who may attend to whom: booleans that broadcast to (B, H, N, S), or None for everyone to everything."""
        if self.array is None and self.sees_all():
            return None
        parts = []
        if self.rule is not None:
            parts.append(self.rule.at(self.grid()))
        if self.array is not None:
            parts.append(self.array)
        if (self.k_pos < 0).any():
            parts.append((self.k_pos >= 0)[:, None, None, :])         # an empty slot, whatever the mask says
        seen = None
        for part in parts:
            seen = part if seen is None else seen & part
        return seen

    def sees_all(self):
        """Whether the extremes of the positions prove that everyone sees everything, as in most decoding steps."""
        if self.rule is None or not (self.batch and self.q_pos.size and self.k_pos.size):
            return False
        self.rule.check_fit(self.sizes)
        whole = tiles(self.grid(), [0], [0])
        return whole.j_low.min() >= 0 and self.rule.known(whole).min() > 0

    def select(self, heads, rows, lse=None):
        """The problem of some query heads and some queries, each with the KV head that it reads; and their lse."""
        if heads is not None and self.headless:
            raise OptionError("heads of arrays without a head axis: q is (N, D)")
        group = self.q.shape[1] // self.k.shape[1]
        heads, rows = _chosen("heads", heads, "H", self.q.shape[1]), _chosen("rows", rows, "N", self.q.shape[2])

        def part(a):
            a = a if a.shape[1] == 1 else a[:, heads]
            return a if a.shape[2] == 1 else a[:, :, rows]

        lse = None if lse is None else lse[:, heads][:, :, rows]
        return replace(
            self, q=self.q[:, heads][:, :, rows], k=self.k[:, heads // group],
            v=None if self.v is None else self.v[:, heads // group],
            bias=None if self.bias is None else part(self.bias), array=None if self.array is None else part(self.array),
            sink_logits=None if self.sink_logits is None else self.sink_logits[heads],
            q_pos=self.q_pos[:, rows], heads=self.heads[heads], rows=self.rows[rows],
        ), lse  # fmt: skip

    def tile(self, rows, keys):
        """The problem of a slice of the queries before a slice of the keys, as views of this one."""

        def part(a):
            return a[:, :, slice(None) if a.shape[2] == 1 else rows, slice(None) if a.shape[3] == 1 else keys]

        return replace(
            self, q=self.q[:, :, rows], k=self.k[:, :, keys], v=None if self.v is None else self.v[:, :, keys],
            bias=None if self.bias is None else part(self.bias), array=None if self.array is None else part(self.array),
            q_pos=self.q_pos[:, rows], k_pos=self.k_pos[:, keys], rows=self.rows[rows], columns=self.columns[keys],
        )  # fmt: skip

    def accept(self, name, array, dim=()):
        """A result that the caller hands back, (..., H, N) or (..., H, N, Dv), as (B, H, N) or (B, H, N, Dv)."""
        array, (H, N) = (floats if self.home is None else self.home.stand_in)(name, array), self.q.shape[1:3]
        shape = (*self.lead, *(() if self.headless else (H,)), N, *dim)
        if array.shape != shape:
            raise ShapeError(f"{name} is {array.shape}; it must be (..., H, N{', Dv' if dim else ''}) = {shape}")
        return array.reshape(self.batch, H, N, *dim)

    def restore(self, array, dtype=None):
        """(B, H, ...) with the caller's leading axes, in the type of the results."""
        if self.home is not None:                                 # which gives them as the caller wants them
            return array
        head = () if self.headless else array.shape[1:2]
        lead = self.lead if len(array) == self.batch else (1,) * len(self.lead)        # shared by all rows, as a bias may be
        array = array.reshape(*lead, *head, *array.shape[2:])
        return array.astype(self.dtype if dtype is None else dtype, copy=False)

    def gradient(self, array, argument):
        """(B, H, ...) as the gradient of what the caller gave: summed over where that was broadcast, and of its type."""
        if self.home is not None:
            return array
        argument = np.asarray(argument)
        return sum_to(self.restore(array, self.work), argument.shape).astype(argument.dtype, copy=False)


def prepare(q, k, *values, mask=None, bias=None, causal=False, q_pos=None, k_pos=None, scale=None, softcap=None,
            sink_logits=None, score_mod=None, home=None):  # fmt: skip
    """Check the arguments of `attention` and bring them into the form of `Inputs`. For `home` see there."""
    read = floats
    if home is not None:
        read, (mask, q_pos, k_pos) = home.stand_in, map(home.fetch, ("mask", "q_pos", "k_pos"), (mask, q_pos, k_pos))
    given = {"q": read("q", q), "k": read("k", k)}
    if values:                                                    # (v,); attention_weights has none
        given["v"] = read("v", *values)
    _check_axes(**given)
    headless = given["q"].ndim == 2
    lead = broadcast_lead(**{name: a.shape[:-3] for name, a in given.items()})
    batch = math.prod(lead)
    q, k, v = (_four_axes(given[name], lead) if name in given else None for name in "qkv")
    if len(q) != batch:                                           # so that scores and lse have every row, also where v alone has
        q = np.broadcast_to(q, (batch, *q.shape[1:]))
    H, N, S = q.shape[1], q.shape[2], k.shape[2]
    scores = (*lead, N, S) if headless else (*lead, H, N, S)

    if softcap is not None and score_mod is not None:
        raise OptionError("softcap and score_mod both stand between scale and bias; write the softcap into score_mod")
    scale = q.shape[-1] ** -0.5 if scale is None else number("scale", scale)
    softcap = None if softcap is None else number("softcap", softcap)
    if softcap is not None and softcap <= 0:
        raise OptionError(f"softcap = {softcap}; it must be positive")
    if score_mod is not None and not callable(score_mod):
        raise OptionError(f"score_mod is {type(score_mod).__name__}; it must be a function score_mod(score, b, h, i, j)")
    if k_pos is not None and q_pos is None:
        raise PositionError("k_pos without q_pos: with keys at given positions, say where the queries stand")
    rule, array = _split_mask(mask, scores, headless)
    if causal:
        rule = _and_causal(rule)
    if bias is not None:
        bias = _score_shaped("bias", read("bias", bias), scores, headless)
    if sink_logits is not None:
        sink_logits = read("sink_logits", sink_logits)
        if sink_logits.shape != (H,):
            raise ShapeError(f"sink_logits is {sink_logits.shape} but q has H = {H}; it must be (H,), one logit a head")
    return Inputs(
        q=q, k=k, v=v, lead=lead, headless=headless, dtype=common_type(**given),
        scale=scale, softcap=softcap, score_mod=score_mod,
        bias=bias, sink_logits=sink_logits, rule=rule, array=array,
        q_pos=positions("q_pos", q_pos, "N", np.arange(S - N, S), lead),
        k_pos=positions("k_pos", k_pos, "S", np.arange(S), lead),
        heads=np.arange(H), rows=np.arange(N), columns=np.arange(S), sizes=(batch, N, S), home=home,
    )  # fmt: skip


def _chosen(name, index, letter, size):
    """Indices of heads or rows, counted from 0; None for all."""
    if index is None:
        return np.arange(size)
    index = np.atleast_1d(np.asarray(index))
    if index.dtype.kind not in "iu" or index.ndim > 1:
        raise OptionError(f"{name} must be an int or a sequence of ints")
    if index.size and not -size <= index.min() <= index.max() < size:
        raise OptionError(f"{name} reach from {index.min()} to {index.max()}, but q has {letter} = {size}")
    return index % max(size, 1)


@functools.lru_cache(maxsize=8)                # few: what is kept with a mask may be as large as its tiles
def _and_causal(rule):
    """The same Mask for the same rule, so that what was worked out for it can be kept."""
    return causal_mask() if rule is None else rule & causal_mask()


def _check_axes(q, k, v=None):
    """D shared by q and k, S and G by k and v, H a multiple of G: or a ShapeError that shows all of them."""
    arrays = {"q": (q, ("H", "N", "D")), "k": (k, ("G", "S", "D"))} | ({} if v is None else {"v": (v, ("G", "S", "Dv"))})

    def shown():
        return ", ".join(spell(name, a.shape, letters) for name, (a, letters) in arrays.items())

    for name, (a, letters) in arrays.items():
        if a.ndim < 2:
            fits = f"(..., {', '.join(letters)}), or ({', '.join(letters[1:])}) for one head"
            raise ShapeError(f"{name} has {a.ndim} axes ({shown()}); it must be {fits}")
        if (a.ndim == 2) != (q.ndim == 2):
            raise ShapeError(f"q has {q.ndim} axes but {name} has {a.ndim} ({shown()}); give all of them a head axis or none")
    if q.shape[-1] != k.shape[-1]:
        raise ShapeError(f"k has D = {k.shape[-1]} but q has D = {q.shape[-1]} ({shown()}); queries and keys must share D")
    if q.shape[-1] == 0 or (v is not None and v.shape[-1] == 0):
        raise ShapeError(f"the head dim is 0 ({shown()}); D must be at least 1")
    if v is not None and k.shape[-2] != v.shape[-2]:
        raise ShapeError(f"v has S = {v.shape[-2]} but k has S = {k.shape[-2]} ({shown()}); every key needs one value")
    if q.ndim > 2:
        H, G = q.shape[-3], k.shape[-3]
        if v is not None and v.shape[-3] != G:
            raise ShapeError(f"v has G = {v.shape[-3]} but k has G = {G} ({shown()}); keys and values must share their heads")
        if H == 0 or G == 0 or H % G:
            raise ShapeError(f"q has H = {H} heads and k has G = {G} ({shown()}); H must be a multiple of G, and neither 0")


def _four_axes(a, lead):
    """(..., heads, length, dim) -> (B or 1, heads, length, dim), without a copy wherever that is possible."""
    if a.ndim == 2:
        return a[None, None]
    if a.ndim == 3:
        return a[None]
    if a.ndim == 4 and len(lead) == 1:
        return a
    return np.broadcast_to(a, (*lead, *a.shape[-3:])).reshape(math.prod(lead), *a.shape[-3:])


def _score_shaped(name, a, scores, headless):
    """Something that broadcasts to the scores (..., H, N, S), brought to four axes, each full or 1."""
    try:
        fits = np.broadcast_shapes(a.shape, scores) == scores
    except ValueError:
        fits = False
    if not fits:
        letters = "NS" if headless else "HNS"
        wanted = spell("the shape of the scores", scores, letters)
        raise ShapeError(f"{name} is {a.shape}, but {wanted}; each axis must be full or 1")
    a = a.reshape((1,) * (len(scores) - a.ndim) + a.shape)
    return _four_axes(a, scores[: len(scores) - 2 if headless else -3])


def _split_mask(mask, scores, headless):
    """The mask as a rule or as an array of four axes: (rule, None), (None, array) or (None, None)."""
    if mask is None or isinstance(mask, Mask):
        return mask, None
    a = as_array("mask", mask)
    if a.dtype != bool:
        integers, hints = "for 0/1 integers use mask.astype(bool)", {"f": "floats that are added to the scores go to bias="}
        hint = integers if a.dtype.kind in "iu" else hints.get(a.dtype.kind, "or a Mask")
        raise MaskError(f"mask is {a.dtype}; it must be boolean, True = may attend ({hint})")
    if a.ndim not in (2, len(scores)):
        raise ShapeError(
            f"mask has {a.ndim} axes, {a.shape}; it must be (N, S) = {scores[-2:]}, "
            f"or have the {len(scores)} axes of the scores {scores} with 1 where it broadcasts"
        )
    if a.ndim == 2 and len(scores) > 2 and a.shape not in {(n, s) for n in (1, scores[-2]) for s in (1, scores[-1])}:
        hint = "; for padding (B, S) use masks.padding(lengths) or mask[:, None, None, :]" if scores[:1] == a.shape[:1] else ""
        raise ShapeError(f"mask is {a.shape} but the scores have (N, S) = {scores[-2:]}{hint}")
    return None, _score_shaped("mask", a, scores, headless)
