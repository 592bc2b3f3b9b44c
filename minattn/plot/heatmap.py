"""One attention map (N, S) as a picture."""
from .check import as_hidden, as_labels, as_maps, check_rows
from .draw import note, paint, tile_note
from .style import DIVERGING, NOTE_DIVERGING, NOTE_HIDDEN, canvas, map_inches, weight_scale


def heatmap(weights, tokens=None, *, key_tokens=None, mask=None, title=None, vmax=None, colorbar=True, max_cells=256,
            ax=None, theme=None):
    """Draw one map of attention weights: queries down, keys across.

    The colour scale runs from 0 to 1 whatever the data, so that two pictures can be compared. Maps with negative
    entries (implied maps) take a diverging scale centred at 0 and say so.

    Parameters
    ----------
    weights : array, (N, S)
        Row n holds the weights of query n. A row may sum to less than 1.
    tokens : sequence of N strings, optional
        Labels of the queries, and of the keys too where N = S and `key_tokens` is not given.
    key_tokens : sequence of S strings, optional
        Labels of the keys.
    mask : boolean array (N, S) or Mask, optional
        True = may attend. Cells that are False and hold 0 are drawn as hatched grey, "may not look". Without a mask
        every cell is drawn as its number: a weight of 0 does not tell whether the query was allowed to look.
    title : str, optional
    vmax : float, optional
        Upper end of the scale (both ends, where it is diverging). Larger entries are marked by an arrow on the colour bar.
    colorbar : bool
    max_cells : int
        Longer maps are pooled into tiles, each with its largest entry; the picture says so, and the ticks stay true.
    ax : matplotlib Axes, optional
        Draw here; its figure, style and theme are left as they are. None makes a figure.
    theme : {"light", "dark"}, optional
        Of a new figure (light if None); in given axes, of the greys only, by default judged from the text colour.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    PlotError
        If weights are not one map of finite numbers, or labels or mask do not fit it.

    Warns
    -----
    PlotWarning
        If a row sums above 1, or holds weight where the mask hides the key.

    Examples
    --------
    >>> import minattn as ma
    >>> ax = ma.plot.heatmap([[1, 0], [0.25, 0.75]], ["the", "cat"], mask=ma.masks.causal())
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('key (attended to)', 'query (attends)')
    """
    weights = as_maps(weights, "weights", "N", "S")
    N, S = weights.shape
    rows, columns = as_labels(tokens, key_tokens, N, S)
    hidden = as_hidden(mask, weights)
    scale = weight_scale(weights, vmax)
    if scale.cmap != DIVERGING:
        check_rows(weights, ("N", "S"))
    with canvas(theme, (1, 1), figure_size(N, S, rows, columns), ax=ax) as (axes, colours):
        ax = axes[0, 0]
        image, t = paint(ax, weights, hidden, scale, colours, rows=rows, columns=columns, max_cells=max_cells)
        ax.set(xlabel="key (attended to)", ylabel="query (attends)")
        if title:
            ax.set_title(title, parse_math=False)
        note(ax, NOTE_HIDDEN if hidden.any() else "", NOTE_DIVERGING if scale.cmap == DIVERGING else "", tile_note(t))
        if colorbar:
            ax.figure.colorbar(image, ax=ax, extend=scale.extend, label="weight")
    return ax


def figure_size(N, S, rows, columns):
    """The map, plus room for labels (0.08 inches a character), axis names, title, note and colour bar."""
    width, height = map_inches(N, S)
    across, down = (0.08 * min(14, max(map(len, labels), default=0)) if labels else 0.2 for labels in (rows, columns))
    return max(width + across + 1.7, 3.2), max(height + down + 1.2, 2.2)
