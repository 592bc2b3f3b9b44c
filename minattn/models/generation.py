"""Writing on from a prompt: one token at a time, each chosen from the model's scores for the next.

    temperature 0   the best token, always
    temperature t   drawn from softmax(logits / t): below 1 bolder, above 1 wilder
    top_k           only the k best may be drawn
    top_p           only the fewest best whose probabilities reach p (Holtzman et al. 2020, arXiv:1904.09751)
"""
import operator
from collections.abc import Iterable

import numpy as np

from ..core.errors import OptionError, ShapeError, TokenError
from ..core.softmax import softmax
from .progress import bar


def sample(logits, rng, *, temperature=0.0, top_k=None, top_p=None):
    """One id drawn from the logits (V,).

    Examples
    --------
    >>> import numpy as np
    >>> from minattn.models.generation import sample
    >>> sample(np.array([0.1, 2.0, -1.0]), None)
    1
    """
    if np.isnan(logits).any():
        raise TokenError("no token can be chosen: the scores for the next one are NaN")
    if temperature == 0:
        return int(np.argmax(logits))
    order = np.argsort(-logits, kind="stable")[:top_k]                                    # best first
    scores = logits[order].astype(np.float64)
    with np.errstate(over="ignore"):                                                      # -inf where the temperature is tiny
        p = softmax((scores - scores[0]) / temperature)
    if top_p is not None:
        fewest = int(np.searchsorted(np.cumsum(p), top_p)) + 1
        order, p = order[:fewest], p[:fewest]
    return int(rng.choice(order, p=p / p.sum()))


def generate(
    model, prompt, *, max_new_tokens=64, temperature=0.0, top_k=None, top_p=None, seed=None, stop=None,
    stream=None, progress=None, cached=True, prefill=256, window=None, first=4,
):  # fmt: skip
    """Continue `prompt`.

    Parameters
    ----------
    model : Llama
    prompt : str, or ids (N,)
    max_new_tokens : int
    temperature : float
        0 takes the best token each time.
    top_k : int, optional
    top_p : float, optional
        In (0, 1].
    seed : int, optional
        The same seed draws the same text.
    stop : ids, optional
        Tokens that end it and are not returned; by default those of the model's tokenizer. () never stops early.
    stream : function, optional
        Called with each new piece of text, whole characters only; with each id where the prompt is ids.
    progress : bool, optional
        Show a progress bar; by default where somebody can see it and nothing is streamed.
    cached : bool
        False computes everything anew for every token, to see what the cache saves.
    prefill : int
        Tokens of the prompt that are run at once; more take more memory. The result is the same.
    window : int, optional
        Hold the latest `window` tokens and the `first` ones, and go on for as long as you like: StreamingLLM. Without it
        all tokens are held.
    first : int
        Only with `window`.

    Returns
    -------
    str, or list of int
        The new part alone, of the kind that the prompt was.

    Raises
    ------
    OptionError
        If an option is out of its range.
    TokenError
        If an id is not in the vocabulary, or text is given to a model without a tokenizer.
    ShapeError
        If the prompt is empty.

    Examples
    --------
    >>> from minattn.models import Llama, LlamaConfig
    >>> m = Llama.random(LlamaConfig(2, 12, 20, 6, 2, 4, 50, 64))
    >>> new = m.generate([3, 1, 4], max_new_tokens=5)
    >>> new == m.generate([3, 1, 4], max_new_tokens=5, cached=False, progress=False)
    True
    """
    _check(model, temperature, top_k, top_p, max_new_tokens, prefill, stream)
    is_text = isinstance(prompt, str)
    if is_text and model.tokenizer is None:
        raise TokenError("this model has no tokenizer; give token ids instead of text")
    ids = model.tokenizer.encode(prompt) if is_text else _one_row(prompt)
    if not ids:
        raise ShapeError("the prompt is empty; there must be at least one token to continue")
    stop = _stop_ids(model, stop)
    try:
        rng = np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise OptionError(f"seed = {seed!r}; {error}") from error
    if window is not None and not cached:
        raise OptionError(f"window = {window} is the size of a cache, but cached=False keeps none")
    size = {"capacity": len(ids) + max_new_tokens} if window is None else {"window": window, "first": first}
    cache = model.new_cache(**size) if cached else None
    said = _Said(model.tokenizer if is_text else None, stream)
    progress = False if progress is None and stream is not None else progress
    with bar(progress, total=max_new_tokens, desc="generating", unit="token") as shown:
        waiting = ids                                                                     # not yet in the cache
        while len(said.ids) < max_new_tokens:
            if cached:
                for start in range(0, len(waiting), prefill):
                    x, _ = model.hidden(waiting[start : start + prefill], cache=cache)
            else:
                x, _ = model.hidden(ids + said.ids)
            chosen = sample(model.logits(x[-1:])[0], rng, temperature=temperature, top_k=top_k, top_p=top_p)
            if chosen in stop:
                break
            said.add(chosen)
            shown.update()
            waiting = [chosen]
    return said.end()


class _Said:
    """What was generated so far, handed to `stream` as soon as it is whole."""

    def __init__(self, tokenizer, stream):
        self.ids, self.tokenizer, self.stream, self.sent = [], tokenizer, stream, 0

    def add(self, n):
        self.ids.append(n)
        if self.stream is None:
            return
        if self.tokenizer is None:
            self.stream(n)
            return
        text = self.tokenizer.decode(self.ids)
        if not text.endswith("\ufffd"):                                                   # the end of a cut character
            self._send(text)

    def end(self):
        if self.tokenizer is None:
            return self.ids
        text = self.tokenizer.decode(self.ids)
        if self.stream is not None:
            self._send(text)
        return text

    def _send(self, text):
        if len(text) > self.sent:
            self.stream(text[self.sent :])
            self.sent = len(text)


def _check(model, temperature, top_k, top_p, max_new_tokens, prefill, stream):
    def whole(number, least):
        try:
            return operator.index(number) >= least
        except TypeError:
            return False

    def number(x):
        return isinstance(x, int | float | np.integer | np.floating)

    if not (number(temperature) and 0 <= temperature < np.inf):
        raise OptionError(f"temperature = {temperature!r}; it must be a number of at least 0")
    if top_k is not None and not whole(top_k, 1):
        raise OptionError(f"top_k = {top_k!r}; it must be a whole number of at least 1")
    if top_p is not None and not (number(top_p) and 0 < top_p <= 1):
        raise OptionError(f"top_p = {top_p!r}; it must be above 0 and at most 1")
    if not whole(max_new_tokens, 0):
        raise OptionError(f"max_new_tokens = {max_new_tokens!r}; it must be a whole number of at least 0")
    if not whole(prefill, 1):
        raise OptionError(f"prefill = {prefill!r}; it must be a whole number of at least 1")
    if stream is not None and not callable(stream):
        raise OptionError(f"stream is {type(stream).__name__}; it must be a function that takes a piece of text")


def _one_row(prompt):
    try:
        ids = np.asarray(prompt)
    except ValueError as error:
        raise ShapeError("the prompt is rows of unequal length; it must be text or one row of ids (N,)") from error
    if ids.ndim != 1:
        raise ShapeError(f"the prompt is {ids.shape}; it must be text or one row of ids (N,)")
    return ids.tolist()


def _stop_ids(model, stop):
    """The ids that end the text, as a set."""
    if stop is None:
        return set(() if model.tokenizer is None else model.tokenizer.stop_ids)
    try:
        stop = {operator.index(n) for n in (stop if isinstance(stop, Iterable) else [stop])}
    except TypeError as error:
        raise OptionError(f"stop = {stop!r}; it must be token ids") from error
    if wrong := [n for n in stop if not 0 <= n < model.config.vocab]:
        raise TokenError(f"stop has token {wrong[0]}, but the vocabulary has ids 0 to {model.config.vocab - 1}")
    return stop
