"""One map on one pair of axes: pooled if long, hidden cells left to the hatched background, labels that fit.

Letters: N queries (down), S keys (across), t the side of a pooled tile.
"""
import numpy as np

from ..core.shapes import count
from .style import STYLE, luminance

LONGEST_LABEL = 14                                                    # characters; longer ones end in an ellipsis
MOST_NUMBERED = 8                                                     # cells a side that still hold a readable number
LABEL_INCHES = 0.125                                                  # room that one label needs across its line


def paint(ax, values, hidden, scale, theme, *, rows=None, columns=None, max_cells=256, numbers=True, ticks=True):
    """Draw values (N, S), grey where hidden, and return the image and the side t of its tiles (1: not pooled)."""
    N, S = values.shape
    cells, grey, t = pooled(values, hidden, max_cells)
    image = show(ax, cells, grey, t, N, S, scale, theme)
    if ticks:
        label_axis(ax, "y", N, rows)
        label_axis(ax, "x", S, columns)
    else:
        ax.set(xticks=[], yticks=[])
    if numbers and t == 1 and max(N, S) <= MOST_NUMBERED:
        write_numbers(ax, image, cells, grey)
    return image, t


def show(ax, cells, grey, t, N, S, scale, theme):
    """The image alone: cells of t x t entries each, placed where their entries are."""
    image = ax.imshow(
        np.ma.masked_array(cells, grey), cmap=scale.cmap, vmin=scale.vmin, vmax=scale.vmax, interpolation="nearest",
        aspect="equal" if 1 / 6 <= N / S <= 6 else "auto",
        extent=(-0.5, cells.shape[1] * t - 0.5, cells.shape[0] * t - 0.5, -0.5),
    )
    ax.set(xlim=(-0.5, S - 0.5), ylim=(N - 0.5, -0.5))                # a last tile that is cut short stays short
    # Masked cells are transparent, so the background is their colour.
    ax.patch.set(facecolor=theme.hidden, edgecolor=theme.hatch, hatch="////" if grey.any() else None, linewidth=0)
    ax.grid(False)
    return image


def pooled(values, hidden, max_cells):
    """Tiles of t x t so that no side exceeds max_cells; a tile keeps its largest visible entry (by size, with sign).

    The largest and not the mean: a diagonal one cell wide keeps its colour, and every colour is a weight that occurs.
    """
    t = -(-max(values.shape) // count("max_cells", max_cells, 1))
    if t == 1:
        return values, hidden, 1
    entries, grey = tiles(values, t, 0), tiles(hidden, t, True)
    largest = np.where(grey, -1, np.abs(entries)).argmax(-1)
    return np.take_along_axis(entries, largest[..., None], -1)[..., 0], grey.all(-1), t


def tiles(array, t, fill):
    """(N, S) -> (rows, columns, t * t): the entries of each tile, the last ones filled up."""
    rows, columns = (-(-size // t) for size in array.shape)
    whole = np.pad(array, ((0, rows * t - array.shape[0]), (0, columns * t - array.shape[1])), constant_values=fill)
    return whole.reshape(rows, t, columns, t).swapaxes(1, 2).reshape(rows, columns, t * t)


def shortened(label):
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def label_axis(ax, side, size, labels):
    """Tokens, or positions where there are none; thinned to the room that the axes have."""
    box = ax.get_window_extent()
    inches = (box.height if side == "y" else box.width) / ax.figure.figure.dpi
    step = max(1, int(np.ceil(size * LABEL_INCHES / max(inches, 0.1))))
    if labels is None:
        step = next(nice for power in range(9) for nice in (10**power, 2 * 10**power, 5 * 10**power) if nice >= step)
    at = np.arange(0, size, step)
    texts = [str(n) if labels is None else shortened(labels[n]) for n in at]
    (ax.set_yticks if side == "y" else ax.set_xticks)(at, texts)
    # 0.085 inches is a wide letter of this size; where the words would touch, they stand upright.
    crowded = side == "x" and max(map(len, texts)) * 0.085 > inches * step / size
    for text in (ax.get_yticklabels() if side == "y" else ax.get_xticklabels()):
        text.set_parse_math(False)                                    # a token "$x$" is no formula
        if crowded:
            text.set(rotation=90, ha="center", va="top")


def write_numbers(ax, image, cells, grey):
    """Each visible number in its cell, black or white, whichever is read more easily on the cell's colour."""
    box = ax.get_window_extent()
    cell = min(box.width / cells.shape[1], box.height / cells.shape[0]) / ax.figure.figure.dpi
    size = min(STYLE["font.size"], 20 * cell)
    if size < 5:                                                      # points: too small to read
        return
    digits = 2 if np.abs(cells[~grey]).max(initial=0) < 9.995 else 1
    for n, s in np.argwhere(~grey):
        paper = luminance(image.to_rgba(cells[n, s])[:3])
        ax.text(s, n, f"{cells[n, s]:.{digits}f}", ha="center", va="center", fontsize=size,
                color="black" if paper > 0.179 else "white")          # 0.179: where both contrasts are equal (WCAG)


def note(ax, *lines):
    """Small text below the label of the x axis; empty lines are left out."""
    text = "\n".join(filter(None, lines))
    if text:
        ax.annotate(text, (0.5, 0), (0, -4), xycoords=ax.xaxis.label, textcoords="offset points", ha="center", va="top",
                    fontsize=STYLE["xtick.labelsize"], color=ax.xaxis.label.get_color())


def tile_note(t):
    return f"each cell is the largest of {t} x {t} entries" if t > 1 else ""
