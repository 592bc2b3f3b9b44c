"""Who may attend to whom."""
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from ..core.errors import PlotError
from ..core.shapes import as_array, count
from .check import as_labels, as_visible
from .draw import label_axis, show, tiles
from .heatmap import figure_size
from .style import Scale, canvas

COUNTABLE = 40                                                        # a longer mask has no lines between its cells


def mask(mask, N=None, S=None, *, tokens=None, key_tokens=None, title=None, legend=True, max_cells=256, ax=None,
         theme=None):
    """Draw a mask: a coloured cell may be attended to, a hatched grey one may not.

    Parameters
    ----------
    mask : Mask or boolean array (N, S)
        True = may attend.
    N, S : int, optional
        Query and key length; needed for a `Mask`, which is a rule of any size. S is N where it is not given.
    tokens, key_tokens : sequences of strings, optional
        As in `heatmap`.
    title : str, optional
    legend : bool
        To the right of the axes.
    max_cells : int
        Longer masks are shown in tiles: all of it may, a part may, none may.
    ax, theme
        As in `heatmap`.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    PlotError
        If the mask is not boolean, has another shape than (N, S), or no size is given for a rule.

    Examples
    --------
    >>> import minattn as ma
    >>> ax = ma.plot.mask(ma.masks.causal() & ma.masks.last(3), 8, title="the last three keys")
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['may attend', 'may not look']
    """
    if N is None:
        if hasattr(mask, "dense"):
            raise PlotError("mask is a rule of any size: say how many queries and keys to draw, as in mask(m, N, S)")
        mask = as_array("mask", mask)
        if mask.ndim < 2:
            raise PlotError(f"mask has shape {mask.shape}; a mask is drawn as (N, S)")
        N, S = mask.shape[-2:]
    N, S = count("N", N, 0), count("S", N if S is None else S, 0)
    if min(N, S) < 1:
        raise PlotError(f"mask is (N={N}, S={S}): there is nothing to draw")
    allowed = as_visible(mask, N, S)
    rows, columns = as_labels(tokens, key_tokens, N, S)
    t = -(-max(N, S) // count("max_cells", max_cells, 1))
    seen, there = tiles(allowed, t, False).sum(-1), tiles(np.ones_like(allowed), t, False).sum(-1)
    none, whole = seen == 0, seen == there
    with canvas(theme, (1, 1), figure_size(N, S, rows, columns), ax=ax) as (axes, colours):
        ax = axes[0, 0]
        scale = Scale(ListedColormap([colours.partly, colours.attend], name="partly, wholly"), 0.0, 1.0, "neither")
        show(ax, whole.astype(float), none, t, N, S, scale, colours)
        if max(N, S) <= COUNTABLE:
            ax.hlines(np.arange(N - 1) + 0.5, -0.5, S - 0.5, colours.paper, linewidth=0.8)
            ax.vlines(np.arange(S - 1) + 0.5, -0.5, N - 0.5, colours.paper, linewidth=0.8)
        label_axis(ax, "y", N, rows)
        label_axis(ax, "x", S, columns)
        ax.set(xlabel="key (attended to)", ylabel="query (attends)")
        if title:
            ax.set_title(title, parse_math=False)
        if legend:
            keys = [(whole & ~none, Patch(label="may attend", facecolor=colours.attend)),
                    (~whole & ~none, Patch(label=f"part of {t} x {t} may", facecolor=colours.partly)),
                    (none, Patch(label="may not look", facecolor=colours.hidden, edgecolor=colours.hatch, hatch="////"))]
            ax.legend(handles=[key for here, key in keys if here.any()],
                      loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, frameon=False)
    return ax
