"""Bugs of what is read from maps: attention rollout, which follows the weights through all layers.

    maps (L, H, N, N)    the maps of L layers; out (N, N), rows sum to 1
    fuse                 how the heads of a layer become one map: "mean", "max" or "min"

Abnar and Zuidema 2020, arXiv:2005.00928: half of each layer's map is the identity, for the residual stream; rows are made
to sum to 1, and the layers are multiplied, the last on the left.
"""
from collections.abc import Callable

import numpy as np

from .family import Bug, Family

FUSE: dict[str, Callable] = {"mean": np.mean, "max": np.max, "min": np.min}


def right(maps, fuse="mean"):
    rolled = np.eye(maps.shape[-1])
    for layer in FUSE[fuse](maps, axis=1):
        layer = (layer + np.eye(len(layer))) / 2
        rolled = layer / layer.sum(axis=-1, keepdims=True) @ rolled
    return rolled


def column_by_row_sum(maps, fuse="mean"):
    rolled = np.eye(maps.shape[-1])
    for layer in FUSE[fuse](maps, axis=1):
        layer = (layer + np.eye(len(layer))) / 2
        rolled = layer / layer.sum(axis=-1) @ rolled
    return rolled


rollout = Family(
    name="rollout", signature='rollout(maps, fuse="mean")', lesson="00", right=right,
    bugs=(
        Bug("divided along the wrong axis", column_by_row_sum, "Rows of the rolled-out map do not sum to 1, for some maps.",
            "Which maps have rows that sum to 1 before anything is divided? Which `fuse` keeps it so?",
            "jacobgil/vit-explain #16"),
    ),
)  # fmt: skip
