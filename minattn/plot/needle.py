"""Recall of a needle against its distance, a row for each mechanism, and what each holds for it."""
import numpy as np

from ..analysis.needle import Recall
from ..core.errors import PlotError
from ..core.shapes import integers
from .check import as_maps
from .draw import label_axis, note, show
from .style import canvas, weight_scale

NOTE_NO_PATH = "hatched grey: no path, the needle's weight is exactly 0"


def needle(found, distances, *, title=None, fig=None, theme=None):
    """Draw what `needle_recall` found: mechanisms down, distances across; beside it the bytes that each holds.

    A cell that no path leads to is hatched grey. A dark cell has a path, and what comes by it does not tell the needle.

    Parameters
    ----------
    found : dict
        {name: Recall}, of one or more calls of `needle_recall` with the same distances.
    distances : integers
        Those of the calls, in their order; columns are as wide as each other, whatever lies between.
    title : str, optional
    fig : matplotlib Figure or SubFigure, optional
        Draw here; None makes a figure.
    theme : {"light", "dark"}, optional
        As in `heatmap`.

    Returns
    -------
    axes : array of two matplotlib Axes
        The recall, and the bytes.

    Raises
    ------
    PlotError
        If there is nothing to draw, or a recall is not of these distances.

    Examples
    --------
    >>> import minattn as ma
    >>> distances = [1, 10, 40]
    >>> found = ma.needle_recall(distances, length=64, window=16, dim=16, trials=5, names=["full", "window"])
    >>> axes = ma.plot.needle(found, distances)
    >>> [text.get_text() for text in axes[1].texts]
    ['8 KiB', '2 KiB']
    """
    distances = np.atleast_1d(integers("distances", distances))
    if not isinstance(found, dict) or not all(isinstance(one, Recall) for one in found.values()):
        raise PlotError(f"found is {type(found).__name__}; it must be {{name: Recall}}, as needle_recall returns it")
    for name, one in found.items():
        if not len(one.recall) == len(one.weight) == len(distances):
            raise PlotError(f"{name} has {len(one.recall)} recalls and {len(one.weight)} weights, "
                            f"but there are {len(distances)} distances: one for each")
    if not found or not len(distances):
        raise PlotError(f"{len(found)} mechanisms at {len(distances)} distances: there is nothing to draw")
    recall = as_maps([one.recall for one in found.values()], "recall", "mechanism", "distance")
    no_path = np.array([one.weight for one in found.values()]) == 0
    rows, columns = recall.shape
    with canvas(theme, (1, 2), (max(0.33 * columns, 3) + 4.6, 0.4 * rows + 1.7), fig=fig) as (axes, colours):
        axes[0, 0].get_gridspec().set_width_ratios([max(0.33 * columns, 3), 1.5])
        left, right = axes[0]
        scale = weight_scale(recall)
        image = show(left, recall, no_path, 1, rows, columns, scale, colours)
        left.set_aspect("auto")
        label_axis(left, "x", columns, [f"{distance:,}" for distance in distances])
        left.set_yticks(range(rows), [f"{name}\n{one.paths}" for name, one in found.items()])
        left.set_xlabel("distance of the needle in tokens (columns not to scale)")
        left.set_title(title or "", parse_math=False)
        note(left, NOTE_NO_PATH if no_path.any() else "")
        left.figure.colorbar(image, ax=left, extend=scale.extend, label="recall", fraction=0.05)
        held = np.array([one.nbytes for one in found.values()]) / 1024
        right.barh(range(rows), held, color=colours.attend, height=0.6)
        for row, size in enumerate(held):
            right.text(size + 0.03 * held.max(), row, f"{size:,.4g} KiB", va="center", fontsize="small")
        right.set(ylim=left.get_ylim(), xlim=(0, 1.6 * held.max() or 1), xticks=[], yticks=[], xlabel="held, for one head")
    return axes[0]
