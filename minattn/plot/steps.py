"""How weights come about: raw scores, scaled and masked scores, weights, in three panels."""
import numpy as np

from ..core.errors import PlotError
from .check import as_labels, as_maps, check_rows
from .draw import note, paint, tile_note
from .heatmap import figure_size
from .style import NOTE_HIDDEN, canvas, centred_scale, weight_scale


def steps(steps, tokens=None, *, key_tokens=None, limits=(None, None), max_cells=256, fig=None, theme=None):
    """Draw the three stages of one head, each on its own scale with its own colour bar.

    Scores are centred at 0 (they have a sign), weights run from 0 to 1. Keys that a mask hides are grey from the
    second panel on: their weight is 0 because they were never scored, not because the score was low.

    Parameters
    ----------
    steps : Steps
        Of one head, as `minattn.steps(q, k, v)` returns it for q (N, D), k (S, D), v (S, Dv).
    tokens, key_tokens : sequences of strings, optional
        As in `heatmap`.
    limits : pair of floats, optional
        Ends of the first and the second panel's scale, for pictures that are to be compared; None takes the
        largest score of that panel, however the weights fall out.
    max_cells, theme
        As in `heatmap`.
    fig : matplotlib Figure or SubFigure, optional
        Draw here; None makes a figure.

    Returns
    -------
    axes : array of three matplotlib Axes

    Raises
    ------
    PlotError
        If there is more than one head, a NaN, or labels that do not fit.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 4, 2))         # N = S = 4, D = 2
    >>> axes = ma.plot.steps(ma.steps(q, k, v, causal=True), ["the", "cat", "sat", "down"])
    >>> [ax.get_title() for ax in axes]
    ['raw scores', 'scaled and masked', 'weights']
    """
    scores = getattr(steps, "scores", 0.0)                            # of what is no Steps, a shape () that is refused
    if np.ndim(scores) != 2:
        raise PlotError(f"steps holds scores of shape {np.shape(scores)}; one head is drawn, with scores (N, S): "
                        f"call minattn.steps on one head, as in steps(q[h], k[h], v[h])")
    raw = as_maps(scores, "steps.scores", "N", "S")
    N, S = raw.shape
    rows, columns = as_labels(tokens, key_tokens, N, S)
    hidden = np.isneginf(steps.masked)
    scores = as_maps(np.where(hidden, 0, steps.masked), "steps.masked", "N", "S")
    weights = as_maps(steps.weights, "steps.weights", "N", "S")
    check_rows(weights, ("N", "S"))
    panels = [
        ("raw scores", raw, np.zeros_like(hidden), centred_scale(raw, limits[0]), "score"),
        (stage(steps, hidden), scores, hidden, centred_scale(scores, limits[1]), "score"),
        ("weights", weights, hidden & (weights == 0), weight_scale(weights), "weight"),
    ]
    width, height = figure_size(N, S, rows, columns)
    with canvas(theme, (1, 3), (3 * width - 0.8, height), fig=fig) as (axes, colours):
        for ax, (title, values, grey, scale, label) in zip(axes[0], panels, strict=True):
            image, t = paint(ax, values, grey, scale, colours, rows=rows, columns=columns, max_cells=max_cells)
            ax.set(title=title, xlabel="key (attended to)")
            note(ax, NOTE_HIDDEN if grey.any() else "", tile_note(t))
            ax.figure.colorbar(image, ax=ax, extend=scale.extend, label=label, shrink=0.8)
        axes[0, 0].set_ylabel("query (attends)")
    return axes[0]


def stage(steps, hidden):
    """What the second panel shows: only what was done to the scores is named."""
    done = ["scaled"]
    done += ["capped or modified"] * (not np.array_equal(steps.capped, steps.scaled))
    done += ["biased"] * (not np.array_equal(steps.biased, steps.capped))
    done += ["masked"] * bool(hidden.any())
    return " and ".join([", ".join(done[:-1]), done[-1]]) if len(done) > 1 else done[0]
