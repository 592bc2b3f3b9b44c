"""`minattn see "a sentence"`: where the heads of SmolLM2 look, as a picture and as a page to explore."""
import os
import re
from pathlib import Path

import numpy as np

from ..core import masks
from ..core.errors import OptionError
from ..core.whole import write_whole

MOST_TOKENS = 64                                                      # 270 maps of 64 x 64 make a page of 1.5 MB
SHOWN = 9
ALIKE = 0.8                                                           # cosine between two maps that show the same thing
NOTE = "SmolLM2-135M-Instruct, 4-bit weights; each row is a token that looks, each column a token looked at; · is a space."


def add(commands):
    """Declare the command."""
    parser = commands.add_parser("see", help="draw where the heads of a real model look in a sentence")
    parser.add_argument("sentence", nargs="+", help=f"up to {MOST_TOKENS} tokens; in quotes where it holds signs of the shell")
    parser.add_argument("--layer", type=int, help="draw this layer, counted from 0 (default: the heads of all layers "
                        f"that look most at words further back, {SHOWN} of them)")
    parser.add_argument("--head", type=int, help="draw this head of the layer alone, counted from 0")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the two files (default: here)")
    parser.set_defaults(run=run)


def run(options):
    """Run the model, write NAME.png and NAME.html, say where they are."""
    from .. import models

    sentence = " ".join(options.sentence).strip()
    if not sentence:
        raise OptionError("the sentence is empty; give some words in quotes")
    if options.head is not None and options.layer is None:
        raise OptionError("--head needs --layer: which layer's head?")
    model = models.load("smollm2")
    ids = model.tokenizer.encode(sentence)
    if len(ids) > MOST_TOKENS:
        raise OptionError(f"the sentence has {len(ids)} tokens; at most {MOST_TOKENS} can be read in a picture")
    weights = model.forward(ids, return_weights=True)[1]              # (layers, H, N, N)
    chosen = choose(weights, options.layer, options.head)
    tokens = model.tokenizer.tokens(ids)
    files = {".png": picture(weights, tokens, chosen), ".html": explore(weights, tokens, chosen, sentence)}
    for path, replaced in write(Path(os.path.expanduser(options.out)), file_name(sentence), files):
        print(f"{path}{' (in place of an earlier one)' if replaced else ''}")
    return 0


def choose(weights, layer=None, head=None):
    """The (layer, head) pairs to draw: the ones asked for, or those that look most at words further back.

    A head's score is the sum over queries of its largest weight on a key that is neither the first token, where many
    heads rest, nor the query itself, nor the token just before it.
    """
    layers, H, N, _ = weights.shape
    for name, value, size in (("--layer", layer, layers), ("--head", head, H)):
        if value is not None and not 0 <= value < size:
            raise OptionError(f"{name} is {value}; there are {size}, counted from 0 to {size - 1}")
    if layer is not None:
        return [(layer, h) for h in (range(H) if head is None else [head])]
    i, j = np.indices((N, N))
    far = np.where((j > 0) & (j < i - 1), weights, 0).reshape(layers * H, N * N)
    score = far.reshape(layers * H, N, N).max(-1).sum(-1)
    unit = far / np.maximum(np.linalg.norm(far, axis=1, keepdims=True), np.finfo(far.dtype).tiny)
    chosen: list[int] = []
    for place in np.argsort(-score, kind="stable"):
        if (unit[chosen] @ unit[place] < ALIKE).all():
            chosen.append(int(place))
    return [divmod(place, H) for place in chosen[:SHOWN]]


def picture(weights, tokens, chosen):
    """The chosen maps as the bytes of a PNG."""
    import io

    import matplotlib

    matplotlib.use("agg")                                             # a file is written; no window, no display
    from .. import plot

    if len(chosen) == 1:
        [(layer, head)] = chosen
        ax = plot.heatmap(weights[layer, head], tokens, mask=masks.causal(), title=f"layer {layer}, head {head}")
    else:
        titles = [f"layer {layer}, head {head}" for layer, head in chosen]
        maps = np.stack([weights[place] for place in chosen])
        ax = plot.heads(maps, tokens, mask=masks.causal(), titles=titles, columns=3).ravel()[0]
    file = io.BytesIO()
    ax.figure.savefig(file, format="png")
    return file.getvalue()


def explore(weights, tokens, chosen, sentence):
    """All maps as the bytes of one HTML page that opens at the first chosen head."""
    from .. import plot

    text = plot.page(weights, tokens, title=sentence, mask=masks.causal(), selected=chosen[0], note=NOTE)
    return text.encode()


def file_name(sentence):
    """A name that tells the files of one sentence from another's: minattn-the-cat-sat."""
    words = re.sub(r"[\W_]+", "-", sentence.lower()).strip("-")[:60].strip("-")
    return f"minattn-{words}" if words else "minattn"


def write(folder, name, files):
    """Write each {suffix: bytes}; returns (path, whether it replaced one) for each."""
    done = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, data in files.items():
            path = folder / f"{name}{suffix}"
            done.append((path, path.exists()))
            write_whole(path, data)
    except OSError as error:
        raise OptionError(f"cannot write to --out {folder}: {error}") from error
    return done
