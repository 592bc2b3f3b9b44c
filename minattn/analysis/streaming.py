"""Text without end: how well a trained model predicts it when it keeps everything, a window, or a window and the first tokens.

    dense          every token sees all before it, also further back than the model was trained for
    window         the latest W keys; the rest is gone
    first tokens   the latest W - f keys and the first f, with positions counted inside the cache: StreamingLLM

    loss of token n     -log p(token n | the tokens before it), in nats, (N - 1,)
    perplexity          exp of the mean loss over a stretch of the text

The two windows hold as many keys. All three are computed a whole text at once (memory/streaming.py has the third in that
form); `token_losses(model, ids, cache=model.new_cache(window=...))` gives the third's losses token by token, in the memory
that a stream would take.

Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks", arXiv:2309.17453, figure 3.
"""
from functools import partial

import numpy as np

from ..attention import attention
from ..core import masks
from ..core.errors import OptionError, ShapeError
from ..core.shapes import count, floats
from ..memory.streaming import streaming_attention
from .swaps import check_model, token_losses


def streaming_losses(model, ids, *, window, first=4, chunk=256):
    """The loss of every token of a text under dense attention, under a plain window, and under one with first tokens.

    Parameters
    ----------
    model : Llama
    ids : integers, (N,) or (B, N)
    window : int
        W: keys that a query sees, in both windows.
    first : int
        f: how many of them are the first tokens, below W.
    chunk : int
        As for `token_losses`.

    Returns
    -------
    dict
        {"dense", "window", "first tokens"}: losses, (..., N - 1). All are equal up to the first token that is predicted
        when a key has been let go, which is token W + 1 (loss W).

    Raises
    ------
    OptionError
        If window is below 1, or first not below it; and whatever `token_losses` raises.

    References
    ----------
    Xiao et al. 2023, arXiv:2309.17453, section 3.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> m = ma.models.Llama.random(ma.models.LlamaConfig(2, 12, 20, 6, 2, 4, 50, 64))
    >>> ids = np.random.default_rng(0).integers(0, 50, 100)
    >>> losses = ma.streaming_losses(m, ids, window=8, first=2)
    >>> same = np.isclose(losses["window"], losses["dense"], atol=1e-4)
    >>> int(same.argmin()), losses["window"].shape
    (8, (99,))
    """
    check_model(model)
    window, first = count("window", window, 1), count("first", first, 0)
    if first >= window:
        raise OptionError(f"first = {first} but window = {window}; of the W keys that a query sees, fewer are the first tokens")
    near = partial(attention, mask=masks.last(window))
    both = partial(streaming_attention, window=window - first, first=first, rope=model.rope)
    models = {"dense": model, "window": model.with_attention(near), "first tokens": model.with_attention(both)}
    return {name: token_losses(m, ids, chunk=chunk) for name, m in models.items()}


def perplexity_by_position(losses, width):
    """Perplexity of each stretch of a text: `width` predicted tokens, the last stretch perhaps fewer.

    Parameters
    ----------
    losses : array, (..., N - 1)
        From `token_losses` or `streaming_losses`. Rows of a batch are averaged.
    width : int

    Returns
    -------
    starts : integer array, (stretches,)
        The position of the first token that is predicted in each stretch: 1, 1 + width, ...
    perplexity : array, (stretches,)

    Raises
    ------
    ShapeError
        If there are no losses.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> ma.perplexity_by_position(np.log([2.0, 8.0, 3.0, 3.0, 5.0]), 2)
    (array([1, 3, 5]), array([4., 3., 5.]))
    """
    losses, width = floats("losses", losses), count("width", width, 1)
    if losses.ndim == 0 or losses.size == 0:
        raise ShapeError(f"losses are {losses.shape}; they must be (..., N - 1), and at least one")
    starts = np.arange(0, losses.shape[-1], width)
    return starts + 1, np.exp([losses[..., start:start + width].mean(dtype=np.float64) for start in starts])
