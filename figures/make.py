"""Draw every committed picture again: `python figures/make.py`.

Each function below draws one figure from the library, in light and in dark; the file is named after both. No weights
are needed: the real maps are read from lessons/maps (made by `python lessons/recipes.py`), the small numbers from
lessons/course.py.

A picture's pixels differ between versions of Matplotlib, so they are never compared. Instead each PNG carries a
fingerprint of what it shows (images, lines, limits, colours, labels), and tests/test_figures.py computes it again.
"""
import functools
import hashlib
import json
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import colors

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lessons"))

import course  # noqa: E402

import minattn as ma  # noqa: E402
from minattn.plot.style import THEMES, canvas  # noqa: E402

FIGURES = {}
KEY = "minattn-fingerprint"


def figure(draw):
    """Register `draw(theme) -> Figure` under its name."""
    FIGURES[draw.__name__] = draw
    return draw


def stored():
    """The tokens and all maps of SmolLM2 on the course's sentence, (layers, H, N, N)."""
    with np.load(course.MAPS / "cat.npz", allow_pickle=False) as file:
        return [str(token) for token in file["tokens"]], file["weights"]


@figure
def it_looks_at_cat(theme):
    """Where 'it' looks: head 13.8 of SmolLM2."""
    tokens, weights = stored()
    ax = ma.plot.heatmap(weights[13, 8], tokens, mask=ma.masks.causal(), title="SmolLM2-135M, layer 13, head 8", theme=theme)
    return ax.figure


@figure
def layer_13(theme):
    """The nine heads of layer 13 side by side."""
    tokens, weights = stored()
    axes = ma.plot.heads(weights[13], tokens, mask=ma.masks.causal(), titles=[f"13.{h}" for h in range(9)], theme=theme)
    return axes[0].figure


@figure
def steps(theme):
    """Raw scores, scaled and masked, weights, of the course's small numbers as one head with D = 4."""
    q, k, v = ma.project_qkv(course.X, course.W_Q, course.W_K, course.W_V)
    return ma.plot.steps(ma.steps(q, k, v, causal=True), course.TOKENS, theme=theme)[0].figure


@figure
def masks(theme):
    """Four masks, each a rule of two positions."""
    causal, last, first, prefix = ma.masks.causal(), ma.masks.last, ma.masks.first, ma.masks.prefix
    shown = {"causal()": causal, "last(3)": last(3), "(last(3) | first(2)) & causal()": (last(3) | first(2)) & causal,
             "prefix(4)": prefix(4)}
    with canvas(theme, (1, 4), (11.5, 3.1)) as (axes, _):
        for ax, (title, mask) in zip(axes[0], shown.items(), strict=True):
            ma.plot.mask(mask, 9, ax=ax, theme=theme, title=title, legend=ax is axes[0, -1])
            ax.label_outer()
    return axes[0, 0].figure


@functools.cache
def found_needles():
    """The distances, and who finds a needle there: 50 texts of 512 tokens for each."""
    distances = [1, 16, 31, 32, 47, 48, 59, 60, 63, 64, 88, 111, 112, 200, 287, 288, 400, 507, 508, 511]
    found = ma.needle_recall(distances, trials=50)
    alone = ma.needle_recall(distances, trials=50, names=["infini"], gate=np.inf)["infini"]
    linear = found.pop("linear")
    return distances, found | {"infini, memory alone": alone._replace(paths="the same, the gate wide open"), "linear": linear}


@figure
def needle(theme):
    """Recall of a needle against its distance, and the bytes held: eight ways to look back."""
    distances, found = found_needles()
    return ma.plot.needle(found, distances, title="Which token is still found?", theme=theme)[0].figure


@figure
def streaming(theme):
    """SmolLM2 reading twice as far as it was trained: perplexity by position, with all keys and with 256 of them."""
    with np.load(course.MAPS / "long_text.npz", allow_pickle=False) as file:
        losses = dict(zip(file["names"].tolist(), file["losses"], strict=True))
    shown = {"dense": ("all keys", "#5b8ad6", "s"), "window": ("the latest 256 keys", "#dd6b66", "^"),
             "first tokens": ("the first 4 and the latest 252", "#2ea597", "o")}
    with canvas(theme, (1, 1), (6.6, 3.6)) as (axes, style):
        ax = axes[0, 0]
        for name, (label, colour, marker) in shown.items():
            starts, perplexity = ma.perplexity_by_position(losses[name], 1024)
            ax.plot(starts + 512, perplexity, color=colour, marker=marker, markersize=4, label=label)
        ax.axvline(8192, color=style.line, linestyle=":", linewidth=1)
        ax.annotate("trained length", (8192, 17), (5, 0), textcoords="offset points", ha="left", va="center")
        ax.set(yscale="log", xlim=(0, 16_384), ylim=(15, 900), xticks=range(0, 16_385, 2048), xlabel="position in the text",
               ylabel="perplexity of 1,024 tokens", title="SmolLM2-135M reads 16,384 tokens")
        ax.set_yticks([20, 50, 100, 200, 500], [20, 50, 100, 200, 500])
        ax.minorticks_off()
        ax.legend(loc="upper left")
    return ax.figure


def fingerprint(fig):
    """A hash of what a figure shows; the same for every Matplotlib from 3.8 to 3.11."""
    digest = hashlib.sha256()
    facts = [colors.to_hex(fig.get_facecolor())]
    for ax in fig.axes:
        facts += [ax.get_title(), ax.get_xlabel(), ax.get_ylabel()] + [text.get_text() for text in ax.texts]
        for image in ax.images:
            shown = image.get_array()
            cells = np.round(np.ma.filled(shown.astype(float), -99.0), 4) + 0.0       # + 0.0: no negative zero
            digest.update(cells.tobytes() + np.ma.getmaskarray(shown).tobytes())
            facts += [list(cells.shape), image.get_cmap().name, np.round(image.get_clim(), 4).tolist(),
                      np.round(image.get_extent(), 4).tolist(), colors.to_hex(ax.patch.get_facecolor())]
            facts += [text.get_text() for text in ax.get_xticklabels() + ax.get_yticklabels()]
        for line in ax.lines:
            digest.update(np.round(line.get_xydata().astype(float), 2).tobytes())
            facts += [line.get_label(), colors.to_hex(line.get_color()), ax.get_xscale(), ax.get_yscale()]
            facts += [np.round(ends, 4).tolist() for ends in (ax.get_xlim(), ax.get_ylim())]
        if ax.get_legend():
            facts += [text.get_text() for text in ax.get_legend().get_texts()]
    facts += [getattr(fig, name)() for name in ("get_suptitle", "get_supxlabel", "get_supylabel")]
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()[:32]


def main():
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    for name, draw in FIGURES.items():
        for theme in THEMES:
            fig = draw(theme)
            path = HERE / f"{name}_{theme}.png"
            fig.savefig(path, dpi=160, metadata={KEY: fingerprint(fig), "Software": None})
            plt.close(fig)
            print(path.name)


if __name__ == "__main__":
    main()
