"""Colours, sizes and themes, in one place.

Matplotlib's global settings are never touched: a figure made here is made inside a context of its own
(`canvas`), and in axes or a figure that the caller owns only the map is drawn.
"""
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import colors

from ..core.errors import PlotError
from ..core.shapes import number

STYLE: dict[Any, Any] = {"font.size": 9.0, "axes.titlesize": 10.0, "axes.labelsize": 9.0, "xtick.labelsize": 8.0,
                         "ytick.labelsize": 8.0, "figure.dpi": 110.0, "font.family": "DejaVu Sans"}
SEQUENTIAL = "viridis"                                                # lightness rises all the way
DIVERGING = "RdBu_r"                                                  # lightness falls on both sides of 0
NOTE_HIDDEN = "hatched grey: may not look"
NOTE_DIVERGING = "diverging scale, 0 in the middle"


class Theme(NamedTuple):
    paper: str
    ink: str
    line: str
    hidden: str                                                       # the grey of a cell that may not be looked at
    hatch: str
    attend: str                                                       # plot.mask: may attend
    partly: str                                                       # plot.mask: a tile of which a part may

    @property
    def rc(self):
        ink = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor")
        line = ("axes.edgecolor", "xtick.color", "ytick.color", "legend.edgecolor")
        paper = ("figure.facecolor", "axes.facecolor", "legend.facecolor")
        return {**dict.fromkeys(ink, self.ink), **dict.fromkeys(line, self.line), **dict.fromkeys(paper, self.paper)}


THEMES = {
    "light": Theme("#ffffff", "#1b1b1b", "#8a8a8a", "#e9e9e9", "#cccccc", "#26828e", "#9fd0cb"),
    "dark": Theme("#14161a", "#e8e8e8", "#7d828c", "#41454d", "#5d626c", "#35b0a2", "#23686a"),
}


class Scale(NamedTuple):
    """Which colour a number gets, the same for every map that shares it."""

    cmap: str | colors.Colormap
    vmin: float
    vmax: float
    extend: str                                                       # "max", "both" or "neither": what lies beyond


def weight_scale(weights, vmax=None):
    """0 to 1 for weights; centred at 0, to the largest size, where there are negative entries."""
    low, high = float(weights.min()), float(weights.max())
    if low < 0:
        return centred_scale(weights, vmax, "vmax")
    top = 1.0 if vmax is None else end_of("vmax", vmax)
    return Scale(SEQUENTIAL, 0.0, top, "max" if high > top * (1 + 1e-6) + 1e-6 else "neither")


def centred_scale(values, limit=None, name="limits"):
    largest = float(np.abs(values).max(initial=0))
    top = (largest or 1.0) if limit is None else end_of(name, limit)
    return Scale(DIVERGING, -top, top, "both" if largest > top else "neither")


def end_of(name, value):
    value = number(name, value)
    if value <= 0:
        raise PlotError(f"{name} = {value}; the end of a scale must be above 0")
    return value


@contextmanager
def canvas(theme, shape, size, *, ax=None, fig=None):
    """Axes to draw on, and the theme that suits them: the caller's, or those of a new figure under our own settings."""
    if theme not in (None, *THEMES):
        raise PlotError(f"theme is {theme!r}; it is 'light' or 'dark'")
    for name, given, method, kind in (("ax", ax, "imshow", "Axes"), ("fig", fig, "subplots", "Figure")):
        if given is not None and not hasattr(given, method):
            raise PlotError(f"{name} is {type(given).__name__}; it must be one Matplotlib {kind}")
    if ax is not None or fig is not None:
        axes = np.array([[ax]]) if fig is None else fig.subplots(*shape, squeeze=False)
        yield axes, THEMES[theme] if theme else theme_of(axes[0, 0])
        return
    import matplotlib.pyplot as plt

    plt.draw_if_interactive()                                         # loads the backend; what it sets is to outlive the block
    settings = {key: value for key, value in mpl.rcParamsDefault.items() if key not in ("backend", "interactive")}
    with mpl.rc_context({**settings, **STYLE, **THEMES[theme or "light"].rc}):
        figure, axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
        try:
            yield axes, THEMES[theme or "light"]
        except BaseException:
            plt.close(figure)                                         # nothing half drawn stays behind
            raise


def theme_of(ax):
    """The theme that suits axes from elsewhere, judged by the colour of their text."""
    bright = luminance(ax.xaxis.label.get_color()) > 0.4
    return THEMES["dark" if bright else "light"]


def luminance(color):
    """Relative luminance, 0 for black and 1 for white (WCAG 2.1)."""
    rgb = np.asarray(colors.to_rgb(color))
    return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def map_inches(N, S, longest=5.6, cell=0.46):
    """Width and height of one map: square cells where that leaves something to see."""
    unit = min(cell, longest / max(N, S))
    return max(S * unit, 0.7), max(N * unit, 0.7)
