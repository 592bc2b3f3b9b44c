"""Every head of a model in one HTML file: no server, no network, nothing to install.

    page.html   the skeleton, with a table of each query's strongest key for readers without scripts
    page.css    light and dark, narrow and wide
    page.js     thumbnails of all heads, one large map, and the sentence tinted by the row under the pointer

The weights travel as one byte each (steps of 1/255) in base64. Tokens are data in JSON, and become text, never HTML.
"""
import base64
import html
import json
import re
from importlib import resources

import matplotlib as mpl
import numpy as np

from ..core.errors import PlotError
from ..core.shapes import as_array
from .check import as_hidden, as_labels, as_maps, check_rows
from .style import SEQUENTIAL

LARGEST = 48 << 20                                                    # weights, one byte each, that a browser still opens


def page(weights, tokens, *, title, key_tokens=None, mask=None, selected=(0, 0), query=None, note=""):
    """Write a page to explore the maps of a whole model.

    Parameters
    ----------
    weights : array, (layers, H, N, S) or (H, N, S)
        Attention weights, each between 0 and 1.
    tokens : sequence of N strings
        Labels of the queries, and of the keys where N = S and `key_tokens` is not given.
    title : str
    key_tokens : sequence of S strings, optional
    mask : boolean array (N, S) or Mask, optional
        True = may attend; the other cells are drawn in grey. Without one no cell is.
    selected : pair of ints
        Layer and head that are shown first.
    query : int, optional
        Position of the query that is picked first; the last one if None.
    note : str, optional
        A sentence below the title: the model, the source of the text.

    Returns
    -------
    html : str
        A complete document of about 4/3 bytes for each weight.

    Raises
    ------
    PlotError
        If weights are not between 0 and 1, labels or mask do not fit, or the page would be too large to open.

    Warns
    -----
    PlotWarning
        If a row sums above 1, or holds weight where the mask hides the key.

    Examples
    --------
    >>> import minattn as ma
    >>> text = ma.plot.page([[[1, 0], [0.2, 0.8]]], ["the", "cat"], title="one head", mask=ma.masks.causal())
    >>> text.startswith("<!doctype html>"), "http://" in text
    (True, False)
    """
    weights = as_array("weights", weights)
    letters = ("H", "N", "S") if weights.ndim <= 3 else ("layers", "H", "N", "S")
    if weights.size > LARGEST:
        raise PlotError(f"weights has shape {weights.shape}: {weights.size:,} numbers, and a page holds {LARGEST:,}; "
                        "give fewer layers, or a shorter text")
    weights = as_maps(weights, "weights", *letters)
    check_rows(weights, letters)
    weights = weights.reshape(-1, *weights.shape[-3:])
    layers, H, N, S = weights.shape
    low, high = float(weights.min()), float(weights.max())
    if low < 0 or high > 1.001:
        raise PlotError(f"weights run from {low:.4g} to {high:.4g}; a page shows weights between 0 and 1 "
                        "(heads draws other maps)")
    rows, columns = as_labels(tokens, key_tokens, N, S)
    if rows is None or columns is None:
        raise PlotError(f"{'tokens' if rows is None else 'key_tokens'} is missing: every query (N={N}) and key (S={S}) "
                        "needs a label to point at")
    layer, head = selected
    query = N - 1 if query is None else query
    for value, size, name in ((layer, layers, "layers"), (head, H, "H"), (query, N, "N")):
        if not 0 <= value < size:
            raise PlotError(f"selected={selected}, query={query} is outside (layers={layers}, H={H}, N={N}): "
                            f"{value} is not in 0..{size - 1} of {name}")
    data = {
        "layers": layers, "heads": H, "queries": rows, "keys": columns, "same": rows == columns and N == S,
        "selected": [int(layer), int(head)], "query": int(query), "weights": as_bytes(weights),
        "hidden": packed(as_hidden(mask, weights)), "colours": colour_table(),
    }
    parts = {
        "title": html.escape(str(title)), "note": html.escape(str(note)),
        "shape": f"{layers} layer{'s' * (layers != 1)}, {H} head{'s' * (H != 1)}, {N} queries, {S} keys",
        "selected": f"{layer}.{head}", "rows": strongest(weights[layer, head], rows, columns),
        # "<" cannot close the script element or open a comment there once it is written as an escape.
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        "css": part("page.css"), "js": part("page.js"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], part("page.html"))


def part(name):
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def as_bytes(weights):
    """Weights 0..1 as base64 of uint8 0..255, layer by layer, head by head, row by row."""
    return base64.b64encode(np.rint(weights.clip(0, 1) * 255).astype(np.uint8).tobytes()).decode()


def packed(hidden):
    return base64.b64encode(hidden.astype(np.uint8).tobytes()).decode()


def colour_table():
    """The 256 colours of the scale, as in the Matplotlib pictures."""
    rgb = mpl.colormaps[SEQUENTIAL](np.linspace(0, 1, 256))[:, :3]
    return base64.b64encode(np.rint(rgb * 255).astype(np.uint8).tobytes()).decode()


def strongest(weights, rows, columns):
    """Table rows for readers without scripts: each query, the key it looks at most, the weight."""
    best = weights.argmax(-1)
    cells = [(rows[n], columns[s] if weights[n, s] > 0 else "(nothing)", f"{float(weights[n, s]):.2f}")
             for n, s in enumerate(best)]
    return "\n".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in cells)
