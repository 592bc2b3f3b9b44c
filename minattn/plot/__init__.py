"""Pictures of attention: what a map says, and nothing that it does not say.

    heatmap   one map (N, S)                                     Matplotlib
    heads     a grid of maps with one colour scale               Matplotlib
    steps     raw scores, scaled and masked, weights             Matplotlib
    mask      who may attend to whom                             Matplotlib
    needle    recall of a token long ago, and what it costs      Matplotlib
    page      every head of a model, to explore in a browser     one HTML file
    ring      ring attention, hop by hop                         HTML for a notebook

Queries go down, keys across. A key that may not be looked at is hatched grey, never the colour of 0.
What cannot be drawn truthfully (NaN, a wrong number of labels) is a `PlotError`; what looks wrong but can be
drawn (a row that sums above 1) is a `PlotWarning`.
"""
from .check import PlotWarning
from .heads import heads
from .heatmap import heatmap
from .mask import mask
from .needle import needle
from .page import page
from .ring import ring
from .steps import steps

__all__ = ["PlotWarning", "heads", "heatmap", "mask", "needle", "page", "ring", "steps"]
