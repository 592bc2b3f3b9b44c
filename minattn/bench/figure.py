"""Time and peak memory against N, on log axes, with the fitted slopes."""
import numpy as np

from ..plot.style import THEMES, canvas
from .rivals import LABELS

COLOURS = {
    "light": {"cpu": THEMES["light"].attend, "torch": "#c4511d", "tiled": "#6a51a3", "numpy": "#6b6b6b"},
    "dark": {"cpu": THEMES["dark"].attend, "torch": "#f2995b", "tiled": "#b3a2e8", "numpy": "#b0b4bb"},
}
MARKERS = {"cpu": "o", "torch": "s", "tiled": "^", "numpy": "D"}      # told apart without colour as well
LEAST = 0.25                                                          # MB: the system counts no finer than this


def scaling(result, theme="light"):
    """Two panels of a run's result: time with the line that was fitted, and memory. Returns the figure."""
    with canvas(theme, (1, 2), (9.6, 4.2)) as (axes, colours):
        left, right = axes[0]
        for one in result["scaling"]:
            if one["points"]:
                line(left, one, theme)
        for one in result["memory"]:
            points = [(point["N"], point["bytes"] / 1e6) for point in one["points"] if point["bytes"] is not None]
            if points:
                N, held = np.transpose(points)
                right.plot(N, np.maximum(held, LEAST), color=COLOURS[theme][one["rival"]], marker=MARKERS[one["rival"]],
                           markersize=4.5, linewidth=1.4, label=LABELS[one["rival"]])
        threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
        left.set(title=f"time, one head, D = 64, {threads}", ylabel="milliseconds")
        right.set(title="peak memory beyond inputs and results, causal", ylabel=f"MB (less than {LEAST} is shown as {LEAST})")
        for ax in (left, right):
            ax.set(xscale="log", yscale="log", xlabel="N = S, queries and keys")
            ticks = sorted({int(N) for drawn in ax.lines for N in drawn.get_xdata()})
            ax.set_xticks(ticks, [f"{N // 1024}K" if N % 1024 == 0 else str(N) for N in ticks], minor=False)
            ax.set_xticks([], minor=True)
            ax.grid(True, which="major", color=colours.line, alpha=0.25, linewidth=0.6)
            if ax.lines:
                ax.legend(frameon=False, fontsize=8)
    return left.figure


def line(ax, one, theme):
    """Medians as points, and the fitted slope as a line through their middle."""
    N = np.array([point["N"] for point in one["points"]])
    ms = np.array([point["median"] for point in one["points"]]) * 1e3
    slope = one["slope"]["median"]
    fitted = np.exp(np.log(ms).mean() + slope * (np.log(N) - np.log(N).mean()))
    told = {"color": COLOURS[theme][one["rival"]], "linewidth": 1.4}
    whole = one["series"] == "full"
    ax.plot(N, fitted, linestyle="-" if whole else "--", **told)
    ax.plot(N, ms, linestyle="none", marker=MARKERS[one["rival"]], markersize=4.5, color=told["color"],
            markerfacecolor=told["color"] if whole else "none", label=f"{LABELS[one['rival']]}, {one['series']}: {slope:.2f}")
