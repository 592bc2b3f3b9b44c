"""Bugs of attention itself: of masks and their alignment, of rows that see nothing, of types, of tiles.

    q (..., N, D)   k (..., S, D)   v (..., S, Dv)    mask (N, S), or of the rank of the scores: True = may attend
    may             who may look at whom in the end: mask, causal and window together
    window = n      a query sees the n latest keys up to its own position; like causal, the last query stands at the last key
    softcap = c     a scaled score s becomes c tanh(s / c)
"""
import functools
from typing import Any, NamedTuple

import numpy as np

from ...attention import attention as whole
from ...core.softmax import softmax
from .family import Bug, Family


class Options(NamedTuple):
    """What may be asked of attention besides its arrays."""

    causal: bool = False
    mask: Any = None
    window: int | None = None
    softcap: float | None = None
    return_weights: bool = False


def options(body):
    """attention(q, k, v, <Options>) -> out, or (out, weights), from body(q, k, v, options) -> (out, weights)."""

    @functools.wraps(body)
    def attention(q, k, v, causal=False, mask=None, window=None, softcap=None, return_weights=False):
        asked = Options(causal, mask, window, softcap, return_weights)
        out, weights = body(np.asarray(q), np.asarray(k), np.asarray(v), asked)
        return (out, weights) if return_weights else out

    return attention


# --- the pieces, right ---------------------------------------------------------------------------------------------


def visible(N, S, asked):
    """may: (N, S), or of the mask's rank."""
    i, j = np.arange(S - N, S)[:, None], np.arange(S)
    may = np.ones((N, S), bool) if asked.mask is None else np.asarray(asked.mask, bool)
    may = may & (j <= i) if asked.causal or asked.window else may
    return may & (i - j < asked.window) if asked.window else may


def scaled(q, k, asked):
    """(..., N, S), 16-bit floats summed as float32."""
    q, k = (x.astype(np.result_type(x, np.float32)) for x in (q, k))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    return scores if asked.softcap is None else asked.softcap * np.tanh(scores / asked.softcap)


def mixed(weights, may, v):
    """(..., N, Dv), in v's type; what stands in a hidden value does not matter."""
    seen = np.where(np.broadcast_to(may, weights.shape)[..., None], v[..., None, :, :], 0)
    return np.einsum("...ns,...nsd->...nd", weights, seen).astype(v.dtype)


def textbook(scores):
    """Softmax without a thought for rows in which all is -inf: -inf - -inf is NaN."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@options
def right(q, k, v, asked):
    may = visible(q.shape[-2], k.shape[-2], asked)
    return whole(q, k, v, mask=may, softcap=asked.softcap, return_weights=True)


# --- and one thing wrong in each -----------------------------------------------------------------------------------


@options
def nan_rows(q, k, v, asked):
    may = visible(q.shape[-2], k.shape[-2], asked)
    weights = textbook(np.where(may, scaled(q, k, asked), -np.inf))
    return mixed(weights, may, v), weights


@options
def uniform_rows(q, k, v, asked):
    may = visible(q.shape[-2], k.shape[-2], asked)
    weights = textbook(np.where(may, scaled(q, k, asked), -1e6))
    shown = may | ~may.any(axis=-1, keepdims=True)
    return mixed(weights, shown, v), weights


@options
def top_left(q, k, v, asked):
    N, S = q.shape[-2], k.shape[-2]
    may = visible(N, S, asked._replace(causal=False))
    may = may & np.tril(np.ones((N, S), bool)) if asked.causal else may
    weights = softmax(np.where(may, scaled(q, k, asked), -np.inf))
    return mixed(weights, may, v), weights


@options
def weights_asked(q, k, v, asked):
    may = visible(q.shape[-2], k.shape[-2], asked)
    scores = np.where(may, scaled(q, k, asked), -np.inf)
    weights = textbook(scores) if asked.return_weights else softmax(scores)
    return mixed(weights, may, v), weights


@options
def softcap_last(q, k, v, asked):
    may = visible(q.shape[-2], k.shape[-2], asked)
    scores = np.where(may, scaled(q, k, asked._replace(softcap=None)), -np.inf)
    if asked.softcap is not None:
        scores = asked.softcap * np.tanh(scores / asked.softcap)
        may = may.any(axis=-1, keepdims=True)
    weights = softmax(scores) * may
    return mixed(weights, may, v), weights


@options
def window_plus_one(q, k, v, asked):
    wider = asked._replace(window=asked.window and asked.window + 1)
    may = visible(q.shape[-2], k.shape[-2], wider)
    weights = softmax(np.where(may, scaled(q, k, asked), -np.inf))
    return mixed(weights, may, v), weights


@options
def rounded_up(q, k, v, asked, block=8):
    N, S = q.shape[-2], k.shape[-2]
    may = np.broadcast_to(visible(N, S, asked), (*q.shape[:-1], S))
    short = -S % block                                                # zeros fill the last block of keys,
    open_end = np.repeat(may.any(axis=-1, keepdims=True), short, axis=-1)      # and nothing hides them
    k, v = (np.concatenate([x, np.zeros((*x.shape[:-2], short, x.shape[-1]), x.dtype)], axis=-2) for x in (k, v))
    may = np.concatenate([may, open_end & (not (asked.causal or asked.window))], axis=-1)
    weights = softmax(np.where(may, scaled(q, k, asked), -np.inf))
    return mixed(weights, may, v), weights[..., :S]


@options
def nan_leaks(q, k, v, asked):
    may = visible(q.shape[-2], k.shape[-2], asked)
    weights = softmax(scaled(q, k, asked) + np.where(may, 0, -np.inf))
    return (weights @ v).astype(v.dtype), weights


@options
def half_overflow(q, k, v, asked):
    may = visible(q.shape[-2], k.shape[-2], asked)
    scores = scaled(q, k, asked)
    low = np.fmin(scores, 0) + np.finfo(q.dtype).min                  # from -65504 down in float16; fmin passes over NaN
    weights = textbook(np.where(may, scores, low.astype(q.dtype))) * may
    return mixed(weights, may, v), weights


attention = Family(
    name="attention", lesson="03", right=right,
    signature="attention(q, k, v, causal=False, mask=None, window=None, softcap=None, return_weights=False)",
    bugs=(
        Bug("NaN for a row that sees nothing", nan_rows, "A mask hides every key from a query, and its output is NaN.",
            "Which output should a query have that may attend to nothing? Which of your masks has such a row?",
            "pytorch/pytorch #103963"),
        Bug("equal weights for a row that sees nothing", uniform_rows,
            "A sequence of length 0 gets the mean of its padding as output.",
            "Finite is not yet right. What should such a row's output be, number by number?",
            "d2l-ai/d2l-en #2423"),
        Bug("causal from the top left", top_left, "Behind a cache, new queries see the oldest keys alone.",
            "How many queries and how many keys do your inputs have?",
            "pytorch/pytorch #108108, Dao-AILab/flash-attention #282, #402, #517"),
        Bug("another output with the weights", weights_asked,
            "The same call gives another output when the weights are asked for as well.",
            "Two ways of asking, one answer: for a hard mask too?", "pytorch/pytorch #160064"),
        Bug("softcap after the mask", softcap_last, "With a softcap, hidden keys get weight.",
            "A hidden score is -inf. What is c tanh(-inf / c)? Do you ever test two options in one call?",
            "onnx/onnx #7865"),
        Bug("a window of one key too many", window_plus_one, "A window of 128 sees 129 keys.",
            "How many weights of a late row are above 0?", "ml-explore/mlx-lm #390, huggingface/transformers #39408"),
        Bug("keys filled up to a round number", rounded_up, "The numbers are wrong where a length is not round.",
            "Which lengths have your inputs? The last block of a tiled loop is seldom full; is anything hiding what fills it?",
            "66RING/tiny-flash-attention #12"),
        Bug("a hidden NaN leaks", nan_leaks, "NaN in a key or value that nobody may see spoils the output.",
            "The output must not depend on what is hidden, whatever it is. What are 0 * NaN and NaN - inf?",
            "pytorch/pytorch #101967"),
        Bug("the mask overflows in half precision", half_overflow,
            "In float16 a row that sees nothing is NaN, but for some inputs only.",
            "The lowest float16 is -65504. Which scores, added to it, make -inf?", "huggingface/transformers #17306"),
    ),
)  # fmt: skip
