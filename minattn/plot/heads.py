"""Many heads side by side on one honest colour scale."""
import numpy as np

from ..core.errors import PlotError
from ..core.shapes import as_array, count
from .check import as_hidden, as_labels, as_maps, check_rows
from .draw import paint, tile_note
from .style import DIVERGING, NOTE_DIVERGING, NOTE_HIDDEN, canvas, weight_scale

LABELLED = 1.2                                                        # inches a panel from which its labels can be read


def heads(weights, tokens=None, *, key_tokens=None, mask=None, titles=None, columns=None, vmax=None, max_cells=256,
          fig=None, theme=None):
    """Draw every head of a layer, or of several layers, as a grid.

    All panels share one colour scale and one colour bar, so that a pale head is a pale head. A few hundred panels
    take Matplotlib some ten seconds; `page` shows as many at once.

    Parameters
    ----------
    weights : array, (H, N, S) or (layers, H, N, S)
        With layers, one row of panels for each layer.
    tokens, key_tokens : sequences of strings, optional
        As in `heatmap`; drawn along the left and lower edge where the panels are large enough to read them.
    mask : boolean array (N, S) or Mask, optional
        True = may attend; the same for all heads.
    titles : sequence of H or of layers x H strings, optional
        None numbers them by their place in `weights`: "head 3", or "2.3" for layer 2, head 3.
    columns : int, optional
        Panels in a row; only for (H, N, S).
    vmax, max_cells, theme
        As in `heatmap`; the scale is shared.
    fig : matplotlib Figure or SubFigure, optional
        Draw here; None makes a figure.

    Returns
    -------
    axes : array of matplotlib Axes, (H,) or (layers, H)

    Raises
    ------
    PlotError
        If weights are not maps of finite numbers, or labels, titles or mask do not fit them.

    Warns
    -----
    PlotWarning
        If a row sums above 1, or holds weight where the mask hides the key.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q = k = np.random.default_rng(0).standard_normal((6, 5, 4))         # H = 6, N = S = 5, D = 4
    >>> axes = ma.plot.heads(ma.attention_weights(q, k, causal=True), mask=ma.masks.causal())
    >>> axes.shape, axes[4].get_title()
    ((6,), 'head 4')
    """
    weights = as_array("weights", weights)
    letters = ("H", "N", "S") if weights.ndim <= 3 else ("layers", "H", "N", "S")
    weights = as_maps(weights, "weights", *letters)
    grid, (N, S) = weights.shape[:-2], weights.shape[-2:]
    query_labels, key_labels = as_labels(tokens, key_tokens, N, S)
    hidden = as_hidden(mask, weights)
    scale = weight_scale(weights, vmax)
    if scale.cmap != DIVERGING:
        check_rows(weights, letters)
    shape = grid if len(grid) == 2 else rows_and_columns(grid[0], columns)
    names = as_titles(titles, grid)
    panel = panel_inches(*shape)
    wide, high = panel * min(1, max(S / N, 0.4)), panel * min(1, max(N / S, 0.4))
    size = (shape[1] * (wide + 0.12) + 1.6, shape[0] * (high + 0.26) + 0.9)
    with canvas(theme, shape, size, fig=fig) as (panels, colours):
        fig = panels[0, 0].figure
        drawn = panels.ravel()[: len(names)]
        for ax in panels.ravel()[len(names):]:
            ax.remove()
        for place, (ax, name, values) in enumerate(zip(drawn, names, weights.reshape(-1, N, S), strict=True)):
            image, t = paint(ax, values, hidden, scale, colours, rows=query_labels, columns=key_labels,
                             max_cells=max_cells, numbers=False, ticks=panel >= LABELLED)
            ax.set_title(name, parse_math=False, fontsize="small", pad=3)
            ax.tick_params(labelleft=place % shape[1] == 0, labelbottom=place + shape[1] >= len(names))
        notes = [NOTE_HIDDEN if hidden.any() else "", NOTE_DIVERGING if scale.cmap == DIVERGING else "", tile_note(t)]
        fig.supxlabel("\n".join(["key (attended to)", *filter(None, notes)]), fontsize="medium")
        fig.supylabel("query (attends)", fontsize="medium")
        fig.colorbar(image, ax=list(drawn), extend=scale.extend, label="weight", fraction=0.05,
                     aspect=size[1] / 0.2)                            # 0.2 inches wide however tall the grid
    return drawn.reshape(grid)


def rows_and_columns(H, columns):
    columns = (H if H <= 5 else int(np.ceil(np.sqrt(H)))) if columns is None else count("columns", columns, 1)
    return -(-H // columns), columns


def panel_inches(rows, columns):
    """Large panels for few heads, small ones for a whole model."""
    return float(np.clip(11 / max(columns, rows * 0.7), 0.45, 2.2))


def as_titles(titles, grid):
    if titles is None:
        return [f"head {place[0]}" if len(grid) == 1 else f"{place[0]}.{place[1]}" for place in np.ndindex(*grid)]
    given = np.asarray(titles, dtype=object)
    if given.size != np.prod(grid):
        raise PlotError(f"titles has {given.size} entries for {np.prod(grid)} maps: one for each of "
                        + " x ".join(map(str, grid)))
    return [str(title) for title in given.ravel()]
