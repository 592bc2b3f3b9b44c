"""Ring attention hop by hop: who has whose keys, who works, who waits, and which pairs of tokens are done.

    ring.html   the skeleton: a picture of the whole run for readers without scripts, then the controls
    ring.css    for light and dark pages
    ring.js     a slider over the hops, a choice of schedules

A colour is a rank's keys, wherever they are. Time is counted in pairs of tokens that see each other, as if every pair took as
long and nothing were lost on the way: a hop lasts as long as its busiest rank, and the others wait.
"""
import base64
import io
import json
import re

import numpy as np

from ..core.errors import PlotError
from ..ring.local import Hop
from ..ring.shares import SCHEDULES, shares
from .check import as_visible
from .page import part
from .style import THEMES

COLOURS = ["#56b4e9", "#e69f00", "#f0e442", "#cc79a7", "#4fc3a1", "#ee8866", "#9ab0f5", "#b5b5b5"]  # black reads well on each
LARGEST = 256                                                         # tokens a side of the map


class View(str):
    """HTML that a notebook shows as it is meant."""

    def __repr__(self):
        return f"<view of {len(self):,} characters of HTML>"

    def _repr_html_(self):
        return str(self)


def ring(runs, *, mask=None, schedule=None, hop=0):
    """A view of ring attention to step through, for a notebook or a page: no server, no network.

    Parameters
    ----------
    runs : dict
        What `ring_attention(..., return_hops=True)` recorded, by schedule: {"contiguous": hops, "zigzag": hops}. The same
        problem with N = S, the same ranks.
    mask : boolean array (N, N) or Mask, optional
        True = may attend; the mask that attention had. Without one everyone sees everyone.
    schedule : str, optional
        Which is shown first; the first one if None.
    hop : int
        At which hop the slider begins.

    Returns
    -------
    html : str
        That shows itself in a notebook; with a picture of every schedule for readers without scripts.

    Raises
    ------
    PlotError
        If runs hold no hops, a schedule that there is not, different problems, or more than 256 tokens or 8 ranks.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 12, 4))
    >>> _, hops = ma.ring_attention(q, k, v, ranks=3, causal=True, schedule="zigzag", return_hops=True)
    >>> text = ma.plot.ring({"zigzag": hops}, mask=ma.masks.causal())
    >>> "<script" in text, "http://" in text
    (True, False)
    """
    if not isinstance(runs, dict) or not runs or not all(map(holds, runs.values())):
        raise PlotError("runs holds no hops; give {schedule: hops}, hops as ring_attention(..., return_hops=True) returns them")
    if unknown := [name for name in runs if name not in SCHEDULES]:
        raise PlotError(f"runs has a schedule {unknown[0]!r}; there are {', '.join(map(repr, SCHEDULES))}")
    sizes = {(len(hops), sum(one.lse.shape[-1] for one in hops[0])) for hops in runs.values()}
    if len(sizes) > 1:
        raise PlotError(f"runs are of different problems: (ranks, tokens) are {', '.join(map(str, sorted(sizes)))}")
    (p, N), = sizes
    if not 0 < N <= LARGEST or p > len(COLOURS):
        raise PlotError(f"{N} tokens on {p} ranks; a view shows up to {LARGEST} tokens and {len(COLOURS)} ranks")
    schedule = next(iter(runs)) if schedule is None else schedule
    if not isinstance(schedule, str) or schedule not in runs or not isinstance(hop, (int, np.integer)) or not 0 <= hop < p:
        raise PlotError(f"schedule={schedule!r}, hop={hop}: there are {', '.join(map(repr, runs))}, and hops 0..{p - 1}")
    visible = as_visible(mask, N, N)
    tables = {name: table(hops, visible, shares(N, p, name)) for name, hops in runs.items()}
    data = {"ranks": p, "tokens": N, "schedules": tables, "schedule": schedule, "hop": int(hop), "colours": COLOURS[:p],
            "hidden": base64.b64encode((~visible).astype(np.uint8).tobytes()).decode()}
    parts = {
        "picture": base64.b64encode(picture(tables, visible, p)).decode(),
        "words": "; ".join(f"{name}: {sentence(each)}" for name, each in tables.items()),
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        "last": str(p - 1), "css": part("ring.css"), "js": part("ring.js"),
    }
    return View(re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], part("ring.html")))


def holds(hops):
    """Whether these are the hops of a whole run: at each of p hops what each of p ranks did, in their order."""
    if not isinstance(hops, list) or not hops:
        return False
    told = [[(one.hop, one.rank) for one in turn if isinstance(one, Hop)] for turn in hops if isinstance(turn, list)]
    return told == [[(hop, rank) for rank in range(len(hops))] for hop in range(len(hops))]


def table(hops, visible, runs):
    """What is shown of one schedule: the owner of every token, and what each rank did at each hop."""
    tokens = [np.sort(np.concatenate(each)) for each in runs]
    owner = np.empty(len(visible), int)
    for rank, mine in enumerate(tokens):
        owner[mine] = rank
    turns = []
    for turn in hops:
        seen = [int(visible[np.ix_(tokens[one.rank], tokens[one.source])].sum()) for one in turn]
        turns.append([{"source": one.source, "seen": pairs, "received": one.received, "lse": middle(one.lse)}
                      for one, pairs in zip(turn, seen, strict=True)])
    return {"owner": owner.tolist(), "keeps": [spans(mine) for mine in tokens], "turns": turns}


def middle(lse):
    """The mean log-sum-exp of a rank's queries, as text; queries that have seen nothing yet are left out."""
    finite = lse[np.isfinite(lse)]
    return f"{finite.mean():.2f}" if finite.size else "nothing yet"


def spans(tokens):
    """"0-3, 12-15" of neighbours; "0, 4, ... 12" of a stride."""
    ends = np.flatnonzero(np.diff(tokens) != 1) + 1
    runs = [run for run in np.split(tokens, ends) if len(run)]
    if len(runs) > 3:
        return f"{tokens[0]}, {tokens[1]}, … {tokens[-1]}"
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs) or "none"


def sentence(shown):
    """In words, for who cannot see the picture."""
    work, time = lasting(shown)
    return f"{time} units of time, of which the ranks wait {1 - work / (time * len(shown['keeps'])) if time else 0:.0%}"


def lasting(shown):
    """Units of work of all ranks, and of time until the last of them is done."""
    seen = np.array([[one["seen"] for one in turn] for turn in shown["turns"]])
    return int(seen.sum()), int(seen.max(axis=1).sum())


def picture(tables, visible, p):
    """A PNG of every schedule at its end: the map, and what the ranks did when."""
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    look, longest = THEMES["light"], max(lasting(shown)[1] for shown in tables.values())
    with mpl.rc_context({**mpl.rcParamsDefault, **look.rc, "font.size": 8.5, "hatch.linewidth": 0.6}):
        fig = Figure(figsize=(9.2, 2.3 * len(tables) + 0.3), layout="constrained", dpi=100)
        axes = fig.subplots(len(tables), 2, squeeze=False, width_ratios=[1, 3])
        for (left, right), (name, shown) in zip(axes, tables.items(), strict=True):
            whose = np.broadcast_to(np.array(shown["owner"]), visible.shape)
            left.imshow(np.ma.masked_array(whose, ~visible), cmap=ListedColormap(COLOURS[:p]), vmin=-0.5, vmax=p - 0.5,
                        interpolation="nearest")
            left.patch.set_facecolor(look.hidden)
            left.set(title=name, xlabel="key", ylabel="query")
            begun = 0
            for turn in shown["turns"]:
                most = max(one["seen"] for one in turn)
                for rank, one in enumerate(turn):
                    right.barh(rank, one["seen"], 0.7, begun, color=COLOURS[one["source"]])
                    right.barh(rank, most - one["seen"], 0.7, begun + one["seen"], color="none", edgecolor=look.line,
                               hatch="////", linewidth=0)
                begun += most
                right.axvline(begun, color=look.line, linewidth=0.8)
            right.set(title=sentence(shown), xlabel="time, in pairs of tokens", yticks=range(p), ylim=(p - 0.5, -0.5))
            right.set(yticklabels=[f"rank {rank}" for rank in range(p)], xlim=(0, longest))
        fig.supxlabel("colour: whose keys; hatched: a rank that waits; lines: the ends of hops", fontsize=8.5)
        file = io.BytesIO()
        fig.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
