"""Streaming: which keys are there, where they stand inside the cache, one step of it, and how a perplexity is averaged.

    W window, the latest keys, the query's own among them       f first tokens, which stay
    a key of the first tokens keeps its number; the window moves up behind them, so nobody stands beyond f + W - 1

Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks", arXiv:2309.17453, section 3.2.
"""
import numpy as np

from ..core.rope import rope
from ..core.softmax import softmax
from .exercise import Exercise, Wrong

# --- which keys are seen ------------------------------------------------------------------------------------------


def _seen(rule):
    def fn(t, first, window):
        pos = np.arange(t + 1)
        return pos[rule(pos, t, first, window)]

    return fn


_EDGE = "Count the positions that you return behind the first tokens: how many, beside `window`?"
seen_keys = Exercise(
    name="seen_keys", signature="seen_keys(t, first, window)", lesson="21",
    reference=_seen(lambda pos, t, first, window: (pos < first) | (pos > t - window)), outputs=["positions (S)"],
    inputs=lambda rng: [(9, 2, 3), (3, 4, 5), (4, 1, 4), (17, 4, 6), (6, 3, 5), (0, 4, 3), (12, 0, 4)],
    wrong=[
        Wrong("one key too many", _seen(lambda pos, t, first, window: (pos < first) | (pos >= t - window)), _EDGE),
        Wrong("one key too few", _seen(lambda pos, t, first, window: (pos < first) | (pos > t - window + 1)), _EDGE),
        Wrong("no first tokens", _seen(lambda pos, t, first, window: pos > t - window), "Which token is never let go?"),
        Wrong("first tokens counted in the window", _seen(
            lambda pos, t, first, window: (pos < first) | (pos > t - window + first)), _EDGE),
        Wrong("one first token less", _seen(lambda pos, t, first, window: (pos < first - 1) | (pos > t - window)),
              "With first = 2, which positions are the first tokens?"),
        Wrong("one first token more", _seen(lambda pos, t, first, window: (pos <= first) | (pos > t - window)),
              "With first = 2, which positions are the first tokens?"),
        Wrong("its own key not seen", _seen(lambda pos, t, first, window: ((pos < first) | (pos > t - window)) & (pos < t)),
              "May a token look at itself?"),
        Wrong("the first tokens alone", _seen(lambda pos, t, first, window: pos < first), "What is a window?"),
        Wrong("everything", _seen(lambda pos, t, first, window: pos >= 0), "What has been let go by then?"),
        Wrong("a key in both counted twice", lambda t, first, window: np.concatenate([
            np.arange(min(first, t + 1)), np.arange(max(t - window + 1, 0), t + 1)]),
            "At the start of a text the window reaches back to the first tokens. Is a key then there twice?"),
        Wrong("tokens that are still to come", lambda t, first, window: np.concatenate([
            np.arange(first), np.arange(max(t - window + 1, first), max(t + 1, first))]),
            "At t = 0, is there a token at position 1?"),
    ],
)  # fmt: skip

# --- perplexity ---------------------------------------------------------------------------------------------------


def _stretches(join, keep=lambda stretch, width: True):
    def fn(losses, width):
        parts = [losses[start : start + width] for start in range(0, len(losses), width)]
        return np.array([join(part, width) for part in parts if keep(part, width)])

    return fn


stretch_perplexity = Exercise(
    name="stretch_perplexity", signature="stretch_perplexity(losses, width)", lesson="21",
    reference=_stretches(lambda part, width: np.exp(part.mean())), outputs=["perplexity (stretches)"],
    inputs=lambda rng: [(rng.exponential(2, size), width) for size, width in [(10, 4), (9, 3), (7, 5), (4, 1)]],
    wrong=[
        Wrong("mean of the exponentials", _stretches(lambda part, width: np.exp(part).mean()),
              "A text's probability is a product. Which mean of its factors is exp of the mean loss?"),
        Wrong("the losses' mean", _stretches(lambda part, width: part.mean()), "A loss is a logarithm. Of what?"),
        Wrong("exp of the sum", _stretches(lambda part, width: np.exp(part.sum())),
              "Does twice the text have twice the perplexity?"),
        Wrong("the wrong sign", _stretches(lambda part, width: np.exp(-part.mean())),
              "A loss of 0 is perplexity 1. Is a worse one larger or smaller?"),
        Wrong("base 2", _stretches(lambda part, width: 2 ** part.mean()), "The losses are in nats. Which base is that?"),
        Wrong("a short stretch dropped", _stretches(
            lambda part, width: np.exp(part.mean()), lambda part, width: len(part) == width),
              "What happens to the losses after the last whole stretch?"),
        Wrong("a short stretch divided by the width", _stretches(lambda part, width: np.exp(part.sum() / width)),
              "How many losses are in the last stretch?"),
        Wrong("the median", _stretches(lambda part, width: np.exp(np.median(part))), "Which mean does a perplexity take?"),
        Wrong("a mean up to here", lambda losses, width: np.array([np.exp(losses[: start + width].mean())
                                                                   for start in range(0, len(losses), width)]),
              "Where does the second stretch begin?"),
        Wrong("one for the whole text", lambda losses, width: np.exp(losses.mean(keepdims=True)),
              "How many stretches are there?"),
    ],
)  # fmt: skip

# --- places inside the cache --------------------------------------------------------------------------------------


def _places(move=lambda pos, gone, first: np.where(pos < first, pos, pos - gone),
            gone=lambda t, first, window: t - window + 1 - first, query=lambda t, gone: t - gone, least=0, empty=-1):  # fmt: skip
    """Places of the query and of the keys, with one of these counted otherwise."""

    def fn(t, k_pos, first, window):
        lost = max(gone(t, first, window), least)
        places = move(k_pos, lost, first)
        return query(t, lost), np.where(k_pos < 0, empty, places)

    return fn


def _caches(rng):
    """Full ones, whose slots are in the order of a ring; one that is filling up; one whose first eviction has just been."""
    cases = []
    for t, first, window in [(20, 2, 5), (9, 4, 4), (5, 3, 6), (7, 1, 7), (13, 0, 5)]:
        pos = np.array([p for p in range(t + 1) if p < first or p > t - window])
        empty = np.full(first + window - len(pos), -1)
        cases.append((t, rng.permutation(np.concatenate([pos, empty])), first, window))
    return cases


_GAP = "After the first tokens there is a gap. How many tokens have left by the time that token t comes?"
places_inside = Exercise(
    name="places_inside", signature="places_inside(t, k_pos, first, window)", lesson="21", inputs=_caches, reference=_places(),
    outputs=["q_place", "k_places (S)"],
    wrong=[
        Wrong("positions in the text", _places(gone=lambda t, first, window: 0),
              "How far is a late query from the first token then?"),
        Wrong("the query at its position in the text", _places(query=lambda t, gone: t),
              "The keys have moved up. Which place has the newest key, and where does its query stand?"),
        Wrong("the slot numbers", lambda t, k_pos, first, window: (
            int((k_pos >= 0).sum()) - 1, np.where(k_pos < 0, -1, np.arange(len(k_pos)))),
            "Slots are filled in a ring. Is the key in slot 3 younger than that in slot 2?"),
        Wrong("the first tokens moved too", _places(move=lambda pos, gone, first: pos - gone),
              "The first tokens keep their places. Which ones move up?"),
        Wrong("one token too many gone", _places(gone=lambda t, first, window: t - window + 2 - first), _GAP),
        Wrong("one token too few gone", _places(gone=lambda t, first, window: t - window - first), _GAP),
        Wrong("the first tokens counted as gone", _places(gone=lambda t, first, window: t - window + 1), _GAP),
        Wrong("moved before the cache is full", _places(least=-1000), "While nothing has left, is there any gap to close?"),
        Wrong("empty slots given places", _places(empty=0), "What does k_pos = -1 say?"),
        Wrong("counted from the query back", lambda t, k_pos, first, window: (0, np.where(
            k_pos < 0, -1, np.where(k_pos < first, min(t, first + window - 1) - k_pos, t - k_pos))),
            "Those are distances. Places count from the first token on."),
    ],
)  # fmt: skip

# --- one step -----------------------------------------------------------------------------------------------------

_LAYOUT = "interleaved"


def _steps(rng):
    """A cache that fills up, one that is just full, and one that lets a token go."""
    cases = []
    for held, first, window in [(6, 2, 4), (3, 1, 4), (4, 1, 3), (6, 3, 4), (7, 3, 4)]:
        D, Dv = 6, 4
        cases.append((*(rng.standard_normal((1, size)) for size in (D, D, Dv)), rng.standard_normal((held, D)),
                      rng.standard_normal((held, Dv)), first, window))  # fmt: skip
    return cases


def _stream(drop=lambda S, first: first, full=lambda first, window: first + window, query=lambda S: S - 1,
            keys=lambda S: np.arange(S), values=lambda v, places: v, store=lambda raw, turned: raw,
            scale=lambda D: D**-0.5):  # fmt: skip
    def fn(q_new, k_new, v_new, K, V, first, window):
        K, V = np.concatenate([K, k_new]), np.concatenate([V, v_new])
        if len(K) > full(first, window):
            K, V = (np.delete(held, drop(len(K), first), axis=0) for held in (K, V))
        places = keys(len(K))
        turned, q = rope(K, places, layout=_LAYOUT), rope(q_new, np.array([query(len(K))]), layout=_LAYOUT)
        weights = softmax(q @ turned.T * scale(K.shape[1]))
        return weights @ values(V, places), store(K, turned), V

    return fn


def _rotated_once(q_new, k_new, v_new, K, V, first, window):
    """The new key is rotated as it comes, those held are taken as they are."""
    here = np.array([min(len(K), first + window - 1)])
    K, V = np.concatenate([K, rope(k_new, here, layout=_LAYOUT)]), np.concatenate([V, v_new])
    if len(K) > first + window:
        K, V = (np.delete(held, first, axis=0) for held in (K, V))
    return softmax(rope(q_new, here, layout=_LAYOUT) @ K.T * K.shape[1] ** -0.5) @ V, K, V


stream_step = Exercise(
    name="stream_step", signature="stream_step(q_new, k_new, v_new, K, V, first, window)", lesson="21", inputs=_steps,
    reference=_stream(), outputs=["out (1, Dv)", "K (S, D)", "V (S, Dv)"],
    wrong=[
        Wrong("the first token let go", _stream(drop=lambda S, first: 0), "Which token must never leave?"),
        Wrong("the newest let go", _stream(drop=lambda S, first: S - 1), "Which is the oldest token of the window?"),
        Wrong("the last of the first tokens let go", _stream(drop=lambda S, first: first - 1),
              "With first = 2, the rows 0 and 1 stay. Which one may leave?"),
        Wrong("nothing let go", _stream(full=lambda first, window: 10**9),
              "How many rows do K and V have after a thousand steps?"),
        Wrong("let go one step too early", _stream(full=lambda first, window: first + window - 1),
              "How many keys may the query see, its own among them?"),
        Wrong("rotated keys kept", _stream(store=lambda raw, turned: turned),
              "At the next step these keys have other places. What will rotating them again do?"),
        Wrong("keys rotated once, when they come", _rotated_once,
              "A key moves up when another leaves. Is it still rotated to its place?"),
        Wrong("keys not rotated", _stream(keys=lambda S: np.zeros(S, int)), "At which places do the keys stand?"),
        Wrong("the query at 0", _stream(query=lambda S: 0), "The query's own key stands last. At which place?"),
        Wrong("the query one place too far", _stream(query=lambda S: S), "The query's own key stands last. At which place?"),
        Wrong("values rotated too", _stream(values=lambda v, places: rope(v, places, layout=_LAYOUT)),
              "Which of q, k and v meet in a score?"),
        Wrong("scores not scaled", _stream(scale=lambda D: 1.0), "By what are scores divided?"),
    ],
)  # fmt: skip
