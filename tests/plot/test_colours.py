"""The scales can be read by everyone: lightness tells the order, also with a colour blindness."""
import os
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest

from minattn.plot.style import DIVERGING, SEQUENTIAL, THEMES, luminance

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
SEEN_BY = {
    "all": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lightness(name, eyes):
    """CIE L* (0..100) along a colour map, as those eyes see it."""
    rgb = mpl.colormaps[name](np.arange(256))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.transpose(SEEN_BY[eyes])
    y = linear.clip(0, 1) @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_lightness_is_monotone(eyes):
    assert (np.diff(lightness(SEQUENTIAL, eyes)) > 0).all()
    assert not (np.diff(lightness("jet", eyes)) > 0).all()            # the test can fail
    left, right = np.split(np.diff(lightness(DIVERGING, eyes)), [127])
    assert left.min() > -0.1                                          # far below what an eye can tell (about 1)
    assert right[1:].max() < 0.1
    assert np.ptp(lightness(DIVERGING, eyes)[:128]) > 50


@pytest.mark.parametrize("theme", THEMES)
def test_text_has_contrast_and_hidden_is_unlike_zero(theme):
    look = THEMES[theme]

    def contrast(one, two):
        low, high = sorted((luminance(one), luminance(two)))
        return (high + 0.05) / (low + 0.05)

    assert contrast(look.ink, look.paper) > 7
    assert contrast(look.line, look.paper) > 3
    assert contrast(look.attend, look.hidden) > 3
    assert contrast(look.hidden, mpl.colors.to_hex(mpl.colormaps[SEQUENTIAL](0.0))) > 1.5


def test_first_picture_leaves_the_backend_its_settings(tmp_path):
    """Jupyter's backend turns interactive mode on when the first figure loads it; without it, later figures stay hidden."""
    (tmp_path / "own_backend.py").write_text(
        "from matplotlib import interactive\nfrom matplotlib.backends.backend_agg import *\n"
        "from matplotlib.backends.backend_agg import FigureCanvasAgg as FigureCanvas\ninteractive(True)\n"
    )
    code = "import minattn as ma, matplotlib as mpl; ma.plot.heatmap([[1.0]]); raise SystemExit(not mpl.is_interactive())"
    environment = {**os.environ, "MPLBACKEND": "module://own_backend", "PYTHONPATH": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
