"""The picture of the needle: the recall that was found, grey where no path leads, and the bytes beside it."""
import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
import matplotlib.pyplot as plt

import minattn as ma

DISTANCES = [1, 7, 40, 1500]
FOUND = {
    "near": ma.analysis.needle.Recall(np.array([1.0, 0.5, 0.03, 0.0]), np.array([0.9, 0.2, 0.0, 0.0]), 3 * 1024, "the latest"),
    "all": ma.analysis.needle.Recall(np.array([0.25, 0.0, 0.75, 1.0]), np.array([0.1, 0.1, 0.1, 0.1]), 1500 * 1024, "everything"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize("theme", [None, "light", "dark"])
def test_the_image_is_the_recall_and_grey_is_no_path(theme):
    left, right = ma.plot.needle(FOUND, DISTANCES, theme=theme, title="found")
    image, = left.images
    np.testing.assert_array_equal(image.get_array().data, [FOUND["near"].recall, FOUND["all"].recall])
    np.testing.assert_array_equal(np.ma.getmaskarray(image.get_array()), [[False, False, True, True], [False] * 4])
    assert image.get_clim() == (0, 1)
    assert left.patch.get_hatch()
    assert [text.get_text() for text in left.get_yticklabels()] == ["near\nthe latest", "all\neverything"]
    assert [text.get_text() for text in left.get_xticklabels()] == ["1", "7", "40", "1,500"]
    assert [bar.get_width() for bar in right.patches] == [3, 1500]
    assert [text.get_text() for text in right.texts] == ["3 KiB", "1,500 KiB"]
    assert left.get_ylim() == right.get_ylim() == (1.5, -0.5)          # the first mechanism on top, in both
    assert "no path" in left.texts[0].get_text()


def test_without_a_hidden_cell_nothing_is_hatched():
    left, _ = ma.plot.needle({"all": FOUND["all"]}, DISTANCES)
    assert not left.patch.get_hatch()
    assert not left.texts


def test_it_draws_into_a_figure_that_is_there():
    fig = plt.figure()
    axes = ma.plot.needle(FOUND, DISTANCES, fig=fig)
    assert all(ax.figure is fig for ax in axes)


@pytest.mark.parametrize(("found", "distances", "says"), [
    (FOUND, DISTANCES[:3], "near has 4 recalls and 4 weights, but there are 3 distances"), ({}, DISTANCES, "nothing to draw"),
    ({"near": FOUND["near"]._replace(recall=np.array([1, 0, np.nan, 0]))}, DISTANCES, "not finite"),
    ({"near": FOUND["near"]._replace(recall=np.zeros(0), weight=np.zeros(0))}, [], "nothing to draw"),
    ([], DISTANCES, "found is list"), ({"near": None}, DISTANCES, "found is dict; it must be {name: Recall}"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused(found, distances, says):
    with pytest.raises(ma.errors.PlotError, match=says):
        ma.plot.needle(found, np.array(distances, int))
    assert not plt.get_fignums()
