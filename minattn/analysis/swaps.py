"""What another attention costs a trained model, without any training: the perplexity that it has then.

    N  tokens of a text       V  vocabulary       E  width of a token's row
    loss of token n     -log p(token n | the tokens before it), in nats (natural logarithm), (N - 1,): the first has none
    perplexity          exp of the mean loss: guessing among so many equally likely tokens would be as hard

A model that knows nothing has perplexity V. Attention is replaced by `model.with_attention`, in all layers or in one:
the other layers then go on as they were trained, on what the changed one gives them.
"""
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np

from ..attention import attention
from ..core.errors import OptionError, ShapeError
from ..core.mask import Mask
from ..core.shapes import as_array, count
from ..core.softmax import logsumexp


class SwapCost(NamedTuple):
    """What one replacement costs: its name, the layer (None: all), the mean loss in nats, and its exp."""

    name: str
    layer: int | None
    loss: float
    perplexity: float


def token_losses(model, ids, *, chunk=256, cache=None):
    """How badly a model predicts each token of a text from those before it, in nats.

    Parameters
    ----------
    model : Llama
    ids : integers, (N,) or (B, N), N at least 2
    chunk : int
        Tokens whose logits, one for each of V, are held at a time.
    cache : LlamaCache, optional
        From `model.new_cache`: the text then goes through it, `chunk` tokens after the other, as it would come in a stream.

    Returns
    -------
    losses : array, (..., N - 1)
        -log p(ids[n] | ids[:n]) for n from 1 on.

    Raises
    ------
    ShapeError
        If there are fewer than two tokens; and whatever `model.forward` raises. Then the cache is as it was.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> m = ma.models.Llama.random(ma.models.LlamaConfig(2, 12, 20, 6, 2, 4, 50, 64))
    >>> ids = [3, 1, 4, 1, 5]
    >>> log_p = np.log(ma.softmax(m.forward(ids)))
    >>> np.allclose(ma.token_losses(m, ids), [-log_p[n - 1, ids[n]] for n in range(1, 5)])
    True
    """
    check_model(model)
    if cache is None:
        return _losses(model, model.hidden(ids)[0], ids, chunk)
    ids = np.atleast_1d(as_array("ids", ids))
    starts = range(0, max(ids.shape[-1], 1), count("chunk", chunk, 1))
    with getattr(cache, "all_or_none", nullcontext)():                                # what is no cache, the model refuses
        x = [model.hidden(ids[..., start:start + chunk], cache=cache)[0] for start in starts]
        return _losses(model, np.concatenate(x, axis=-2), ids, chunk)


def perplexity(model, ids, *, chunk=256):
    """exp of the mean of `token_losses`: among how many equally likely tokens the model would have to guess.

    Parameters
    ----------
    model, ids, chunk
        As for `token_losses`.

    Returns
    -------
    float
        1 for a model that is always sure and right, V for one that knows nothing.

    Raises
    ------
    ShapeError
        As `token_losses` does.

    Examples
    --------
    >>> import minattn as ma
    >>> m = ma.models.Llama.random(ma.models.LlamaConfig(2, 12, 20, 6, 2, 4, 50, 64))
    >>> m.head = 0 * m.head                                   # all logits 0: each of the 50 tokens is as likely
    >>> round(ma.perplexity(m, [3, 1, 4, 1, 5]), 4)
    50.0
    """
    return _cost("", None, token_losses(model, ids, chunk=chunk)).perplexity


def swap_costs(model, ids, swaps, *, layers=(), chunk=256):
    """The perplexity of a text with the model's own attention, and with others in its place.

    Parameters
    ----------
    model : Llama
    ids, chunk
        As for `token_losses`.
    swaps : dict, {name: Mask or function}
        A mask narrows what each query sees; a function is called as `model.with_attention` says.
    layers : integers, optional
        Layers to replace one at a time, besides all of them at once.

    Returns
    -------
    list of SwapCost
        First the model as it is ("own"), then each swap in all layers, then each in each of `layers`.

    Raises
    ------
    OptionError
        If a swap is neither mask nor function or is called "own", or there is no such layer; and whatever `token_losses` raises.

    Examples
    --------
    >>> import minattn as ma
    >>> m = ma.models.Llama.random(ma.models.LlamaConfig(2, 12, 20, 6, 2, 4, 50, 64))
    >>> swaps = {"last 2": ma.masks.last(2), "last 9": ma.masks.last(9)}
    >>> own, narrow, wide, *single = ma.swap_costs(m, [3, 1, 4, 1, 5], swaps, layers=[1])
    >>> own.perplexity != narrow.perplexity, own.perplexity == wide.perplexity
    (True, True)
    >>> [(cost.name, cost.layer) for cost in single]
    [('last 2', 1), ('last 9', 1)]
    """
    check_model(model)
    if not isinstance(swaps, dict):
        raise OptionError(f"swaps is {type(swaps).__name__}; it must be a dictionary of names and what each puts in")
    if "own" in swaps:
        raise OptionError("swaps has 'own', which is what the result calls the model as it is; choose another name")
    swaps, layers = {name: _function(name, swap) for name, swap in swaps.items()}, _layers(layers)
    models = {name: model.with_attention(fn) for name, fn in swaps.items()}
    single = {(name, layer): model.with_attention({layer: fn}) for name, fn in swaps.items() for layer in layers}
    costs: dict = {("own", None): token_losses(model, ids, chunk=chunk)}
    costs |= {(name, None): token_losses(swapped, ids, chunk=chunk) for name, swapped in models.items()}
    costs |= dict.fromkeys(single)                                                    # in the order of the result
    x, positions = model.embed(ids), np.arange(np.shape(ids)[-1])
    for layer in range(max(layers, default=-1) + 1):                                  # what is below the layer is as it was
        for name in swaps if layer in layers else ():
            y = single[name, layer].block(layer, x, positions)
            for above in range(layer + 1, len(model.layers)):
                y = model.block(above, y, positions)
            costs[name, layer] = _losses(model, y, ids, chunk)
        x = model.block(layer, x, positions)
    return [_cost(name, layer, losses) for (name, layer), losses in costs.items()]


def check_model(model):
    """Raise an OptionError for what cannot be run as a model."""
    if not hasattr(model, "hidden") or not hasattr(model, "with_attention"):
        raise OptionError(f"model is {type(model).__name__}; it must be a Llama, as models.load returns it")


def _layers(layers):
    if not np.iterable(layers):
        raise OptionError(f"layers is {layers!r}; it must be a sequence of integers")
    return [count("layers", layer, 0) for layer in layers]


def _losses(model, x, ids, chunk):
    """From what the last layer leaves, (..., N, E), a chunk of tokens at a time."""
    ids, chunk = np.asarray(ids), count("chunk", chunk, 1)
    if ids.shape[-1] < 2:
        raise ShapeError(f"ids are {ids.shape}; a loss needs N of at least 2: the first token has nothing before it")
    losses = np.empty((*ids.shape[:-1], ids.shape[-1] - 1), x.dtype)
    for start in range(0, losses.shape[-1], chunk):
        here = slice(start, min(start + chunk, losses.shape[-1]))
        logits = model.logits(x[..., here, :])                                        # of the tokens before
        chosen = np.take_along_axis(logits, ids[..., start + 1:here.stop + 1, None], axis=-1)[..., 0]
        losses[..., here] = logsumexp(logits) - chosen
    return losses


def _cost(name, layer, losses):
    loss = float(losses.mean(dtype=np.float64))
    return SwapCost(name, layer, loss, float(np.exp(loss)))


def _function(name, swap):
    if isinstance(swap, Mask):
        return partial(attention, mask=swap)
    if not callable(swap):
        raise OptionError(f"swaps[{name!r}] is {type(swap).__name__}; it must be a Mask or a function like attention")
    return swap
