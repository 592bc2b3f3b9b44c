"""The committed pictures show what the library draws today."""
import importlib.util
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

mpl.use("Agg")
import matplotlib.pyplot as plt

import minattn as ma

FOLDER = Path(__file__).resolve().parent.parent / "figures"
SPEC = importlib.util.spec_from_file_location("figures_make", FOLDER / "make.py")
make = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", make.FIGURES)
def test_committed_picture_is_fresh(name, theme):
    with Image.open(FOLDER / f"{name}_{theme}.png") as picture:
        committed = picture.text[make.KEY]
    now = make.fingerprint(make.FIGURES[name](theme))
    plt.close("all")
    assert committed == now, "python figures/make.py draws it again; look at it before you commit it"


def test_a_fingerprint_sees_every_change_of_a_line():
    seen = set()
    for y, colour, scale, label in [([1, 2, 3], "r", "log", "a"), ([1, 2, 3.1], "r", "log", "a"), ([1, 2, 3], "g", "log", "a"),
                                    ([1, 2, 3], "r", "linear", "a"), ([1, 2, 3], "r", "log", "b")]:
        fig, ax = plt.subplots()
        ax.plot(y, color=colour, label=label)
        ax.set(yscale=scale, ylim=(1, 5))
        seen.add(make.fingerprint(fig))
    plt.close("all")
    assert len(seen) == 5


def test_no_picture_is_left_over():
    assert {path.stem for path in FOLDER.glob("*.png")} == {f"{name}_{theme}" for name in make.FIGURES for theme in make.THEMES}


def test_a_fingerprint_sees_every_change():
    weights = np.diag([0.25, 0.5, 0.75])
    causal = ma.masks.causal()
    seen = {
        make.fingerprint(ma.plot.heatmap(values, tokens, **options).figure)
        for values, tokens, options in [
            (weights, list("abc"), {}), (weights + 0.001, list("abc"), {}), (weights, list("abd"), {}),
            (weights, list("abc"), {"mask": causal}), (weights, list("abc"), {"vmax": 0.9}),
            (weights, list("abc"), {"title": "t"}), (weights, list("abc"), {"theme": "dark"}),
        ]
    }  # fmt: skip
    same = make.fingerprint(ma.plot.heatmap(weights + 1e-9, list("abc")).figure)
    plt.close("all")
    assert len(seen) == 7
    assert same in seen
