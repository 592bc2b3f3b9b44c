"""Cross-attention: one sequence asks, another is asked; whose words a map's axes are; contexts of unequal lengths.

    x (N, E)    the tokens that ask          q = x w_q (N, D)           weights (N, S): queries down, keys across
    y (S, E)    the tokens that are asked    k = y w_k (S, D)           v = y w_v (S, Dv)

Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3.
"""
import numpy as np

from ..attention import attention
from ..core import masks
from ..core.softmax import softmax
from .exercise import Exercise, Wrong


def _sequences(rng):
    """One E for both sequences and D = Dv, so that every exchange of the parts still runs; N, S, E and D all differ."""
    sizes = [(3, 5, 4, 7), (6, 2, 5, 3), (4, 7, 3, 6)]                                # N, S, E, D
    return [(rng.standard_normal((n, e)), rng.standard_normal((s, e)), *rng.standard_normal((3, e, d))) for n, s, e, d in sizes]


def _cross(asks="x", asked="y", keys="k", values="v", scale=lambda x, y, q: q.shape[-1] ** -0.5, weights=softmax):
    """Cross-attention with one of its parts exchanged."""

    def fn(x, y, w_q, w_k, w_v):
        sequence, w = {"x": x, "y": y}, {"q": w_q, "k": w_k, "v": w_v}
        q, k, v = sequence[asks] @ w_q, sequence[asked] @ w[keys], sequence[asked] @ w[values]
        return weights(q @ k.T * scale(x, y, q)) @ v

    return fn


def _stages(x, y, w_q, w_k, w_v):
    q, k, v = x @ w_q, y @ w_k, y @ w_v
    scaled = q @ k.T / np.sqrt(q.shape[-1])
    return {"q (N, D)": q, "k (S, D)": k, "v (S, Dv)": v, "scaled (N, S)": scaled, "weights (N, S)": softmax(scaled)}


def _causal(scaled):
    return softmax(np.where(masks.causal().dense(*scaled.shape), scaled, -np.inf))


def _causal_top_left(scaled):
    return softmax(np.where(np.tri(*scaled.shape) > 0, scaled, -np.inf))


cross_attention = Exercise(
    name="cross_attention", signature="cross_attention(x, y, w_q, w_k, w_v)", lesson="05", outputs=["out (N, Dv)"],
    inputs=_sequences, reference=_cross(), stages=_stages,
    wrong=[
        Wrong("the two sequences exchanged", _cross("y", "x"), "How many rows has the answer: one for each token that asks?"),
        Wrong("queries from the context", _cross("y", "y"), "What is x used for?"),
        Wrong("self-attention: the context is not read", _cross("x", "x"), "What is y used for?"),
        Wrong("keys and values exchanged", _cross(keys="v", values="k"), "Which projection of y is compared with the queries?"),
        Wrong("keys averaged instead of values", _cross(values="k"), "What is w_v used for?"),
        Wrong("values compared instead of keys", _cross(keys="v"), "What is w_k used for?"),
        Wrong("keys projected as queries", _cross(keys="q"), "What is w_k used for?"),
        Wrong("softmax over the queries", _cross(weights=lambda s: softmax(s, axis=0)),
              "What sums to 1 in the weights: a row or a column?"),
        Wrong("softmax over all entries at once", _cross(weights=lambda s: softmax(s.ravel()).reshape(s.shape)),
              "What does one row of weights sum to?"),
        Wrong("a causal mask, last query at the last key", _cross(weights=_causal),
              "Is there anything in the source that the reader may not know yet?"),
        Wrong("a causal mask, first query at the first key", _cross(weights=_causal_top_left),
              "Is there anything in the source that the reader may not know yet?"),
        Wrong("no scale", _cross(scale=lambda x, y, q: 1.0), "Compare your scores with ma.steps(q, k, v).scaled."),
        Wrong("scaled by D", _cross(scale=lambda x, y, q: 1 / q.shape[-1]),
              "Compare your scores with ma.steps(q, k, v).scaled."),
        Wrong("scaled by the width E", _cross(scale=lambda x, y, q: x.shape[-1] ** -0.5),
              "A score is a sum of how many products?"),
        Wrong("scaled by the number of keys", _cross(scale=lambda x, y, q: len(y) ** -0.5),
              "A score is a sum of how many products?"),
    ],
)  # fmt: skip


# --- maps ----------------------------------------------------------------------------------------------------------


def _weights(rng, N, S, hidden=()):
    scores = 1.5 * rng.standard_normal((N, S))
    for place in hidden:
        scores[place] = -np.inf
    return softmax(scores)


def _reads_inputs(rng):
    """More readers than words to read: whoever labels with the readers' words still finds one."""
    english, german = ["the", "cat", "sat", "down", "again"], ["die", "Katze", "setzte", "sich"]
    french = ["le", "chat", "dort"]
    return [(_weights(rng, 5, 4), english, german), (_weights(rng, 4, 3), german, french), (_weights(rng, 5, 3), english, french)]


def _labelled(pick, label):
    return lambda weights, tokens, context_tokens: [label(tokens, context_tokens)[s] for s in pick(weights)]


reads = Exercise(
    name="reads", signature="reads(weights, tokens, context_tokens)", lesson="05", outputs=["words (N)"],
    inputs=_reads_inputs, reference=_labelled(lambda w: w.argmax(axis=1), lambda own, context: context),
    wrong=[
        Wrong("labels of the sequence that asks", _labelled(lambda w: w.argmax(axis=1), lambda own, context: own),
              "Of which of the two sequences is a key a token?"),
        Wrong("one word for each key", _labelled(lambda w: w.argmax(axis=0), lambda own, context: own),
              "How many words come out, and how many tokens ask?"),
        Wrong("the least weight", _labelled(lambda w: w.argmin(axis=1), lambda own, context: context),
              "Print weights[0] and the word that the answer gives for it."),
        Wrong("the word most looked at, for all", _labelled(lambda w: np.full(len(w), w.sum(axis=0).argmax()),
                                                            lambda own, context: context),
              "Do two tokens with different rows get different words?"),
        Wrong("the row itself", lambda weights, tokens, context_tokens: list(tokens), "Which argument is not used?"),
        Wrong("labels backwards", _labelled(lambda w: w.argmax(axis=1), lambda own, context: context[::-1]),
              "Which word belongs to column 0?"),
    ],
)  # fmt: skip


def _either_way(rng):
    """Tall, wide and square maps, each kind both ways round; a square whose columns nearly sum to 1; rows of zeros."""
    near = np.array([[0.5, 0.3, 0.2], [0.3, 0.45, 0.25], [0.22, 0.25, 0.53]])         # columns: 1.02, 1.0, 0.98
    wide, tall, square = _weights(rng, 3, 6), _weights(rng, 7, 4), _weights(rng, 4, 4)
    upright = [wide, tall, square, near, _weights(rng, 5, 5, [1]), _weights(rng, 4, 3, [0])]
    wide, tall, square = _weights(rng, 2, 7), _weights(rng, 6, 5), _weights(rng, 3, 3)
    turned = [wide, tall, square, near, _weights(rng, 5, 5, [2, 3]), _weights(rng, 3, 4, [1])]
    one = np.array([[0.6, 0.3, 0.1], [0.4, 0.3, 0.3]])                                # one column sums to 1, as rows do
    return [(w,) for w in upright] + [(w.T.copy(),) for w in (*turned, one)]


def _turned_where(wrong):
    return lambda weights: weights.T.copy() if wrong(weights) else weights.copy()


def _no_map(weights):
    """Whether some row sums to neither 1 nor 0, as no row of weights does."""
    sums = weights.sum(axis=1)
    return not (np.isclose(sums, 1) | (sums == 0)).all()


queries_down = Exercise(
    name="queries_down", signature="queries_down(weights)", lesson="05", outputs=["weights (N, S)"], inputs=_either_way,
    reference=_turned_where(_no_map), views=True,
    wrong=[
        Wrong("left as it came", _turned_where(lambda w: False), "Print the sums along both axes."),
        Wrong("always turned", _turned_where(lambda w: True), "Print the sums along both axes."),
        Wrong("turned the wrong way", _turned_where(lambda w: not _no_map(w)),
              "Queries go down: in the answer, what should a row sum to?"),
        Wrong("the longer side taken for the keys", _turned_where(lambda w: w.shape[0] > w.shape[1]),
              "A long answer to a short question: which is longer, N or S?"),
        Wrong("the longer side taken for the queries", _turned_where(lambda w: w.shape[0] < w.shape[1]),
              "A short answer to a long question: which is longer, N or S?"),
        Wrong("a row that sees nothing turns the map", _turned_where(lambda w: not np.allclose(w.sum(axis=1), 1)),
              "What does the row of a query sum to that may look at nothing?"),
        Wrong("the largest sum looked at", _turned_where(lambda w: not np.isclose(w.sum(axis=1).max(), 1)),
              "A key may get weights that sum to 1 as well. Which other sums are there to ask?"),
        Wrong("rows made to sum to 1", lambda w: w / np.where(w.sum(axis=1) == 0, 1, w.sum(axis=1))[:, None],
              "The weights were right, and stood in another order. Did the answer change them?"),
        Wrong("one row looked at", _turned_where(lambda w: not np.isclose(w[0].sum(), 1)),
              "The first row of a map may see nothing. Which other rows are there to ask?"),
    ],
)  # fmt: skip


# --- contexts of unequal lengths -----------------------------------------------------------------------------------


def _batch(rng):
    sizes = [(3, 2, 4, 7, 5, 2), (2, 3, 7, 6, 4, 5), (4, 1, 5, 6, 3, 3)]              # B, H, N, S, D, Dv
    lengths = [np.array([4, 6, 2]), np.array([5, 3]), np.array([2, 5, 1, 4])]
    return [(rng.standard_normal((b, h, n, d)), rng.standard_normal((b, h, s, d)), rng.standard_normal((b, h, s, dv)), length)
            for (b, h, n, s, d, dv), length in zip(sizes, lengths, strict=True)]


def _padded(may=lambda N, S, lengths: np.arange(S) < lengths, hide=lambda s, may: softmax(np.where(may, s, -np.inf))):
    """Attention in which `may` says what is real, and `hide` turns scores and mask into weights."""

    def fn(q, k, v, lengths):
        scaled = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
        return hide(scaled, may(q.shape[-2], k.shape[-2], lengths[:, None, None, None])) @ v

    return fn


padded_cross = Exercise(
    name="padded_cross", signature="padded_cross(q, k, v, lengths)", lesson="05", outputs=["out (B, H, N, Dv)"], inputs=_batch,
    reference=_padded(),
    wrong=[
        Wrong("no mask", _padded(lambda N, S, lengths: np.full(S, True)), "Which argument is not used?"),
        Wrong("the mask on the queries", _padded(lambda N, S, lengths: np.arange(N)[:, None] < lengths),
              "The lengths are those of the contexts: which axis of (B, H, N, S) is theirs?"),
        Wrong("the mask on queries and keys",
              _padded(lambda N, S, lengths: (np.arange(N)[:, None] < lengths) & (np.arange(S) < lengths)),
              "The lengths are those of the contexts. Is any of the tokens that ask padding?"),
        Wrong("inverted", _padded(lambda N, S, lengths: np.arange(S) >= lengths), "True = may attend. May a real token be seen?"),
        Wrong("one key too many", _padded(lambda N, S, lengths: np.arange(S) <= lengths),
              "Which index has the last real key of a context of length 4?"),
        Wrong("padding on the left", _padded(lambda N, S, lengths: np.arange(S)[::-1] < lengths),
              "At which end are the real tokens?"),
        Wrong("the longest for all", _padded(lambda N, S, lengths: np.arange(S) < lengths.max()),
              "Does each row of the batch have a length of its own?"),
        Wrong("the shortest for all", _padded(lambda N, S, lengths: np.arange(S) < lengths.min()),
              "Does each row of the batch have a length of its own?"),
        Wrong("mask after the softmax", _padded(hide=lambda s, may: softmax(s) * may),
              "What does a row of weights sum to? Do hidden scores still act in the denominator?"),
        Wrong("score 0 for padding", _padded(hide=lambda s, may: softmax(s * may)),
              "A score of 0 is a score: which weight does it give?"),
        Wrong("causal as well",
              _padded(lambda N, S, lengths: (np.arange(S) < lengths) & masks.causal().dense(N, S)),
              "Is there anything in the source that the reader may not know yet?"),
    ],
)  # fmt: skip


# --- a prompt and its reader ---------------------------------------------------------------------------------------


def _prompts(rng):
    """S = cut + N; the last with scores beyond exp."""
    sizes = [(2, 4, 3, 5, 6), (3, 2, 5, 4, 3), (1, 5, 2, 3, 4), (2, 3, 4, 6, 5)]      # H, N, cut, D, Dv
    cases = [(rng.standard_normal((h, n, d)), rng.standard_normal((h, n + cut, d)), rng.standard_normal((h, n + cut, dv)), cut)
             for h, n, cut, d, dv in sizes]
    q, k, v, cut = cases[-1]
    return [*cases[:-1], (60 * q, 40 * k, v, cut)]


def _parts(q, k, v, cut, crossing_mask=None, own_mask=True):
    """(out, lse) of the reader over the first `cut` keys, and over the others."""
    return (attention(q, k[:, :cut], v[:, :cut], mask=crossing_mask, return_lse=True),
            attention(q, k[:, cut:], v[:, cut:], causal=own_mask, return_lse=True))


def _share(context, own):
    return np.exp(context - np.logaddexp(context, own))


def _joined(share=_share, join=lambda share, context, own: share * context + (1 - share) * own, shown=lambda share: share,
            **masked):
    """The reader's output and share with another share, another way to join, or other masks."""

    def fn(q, k, v, cut):
        (context, lse_context), (own, lse_own) = _parts(q, k, v, cut, **masked)
        found = share(lse_context, lse_own)
        return join(found[..., None], context, own), shown(found)

    return fn


read_in_two = Exercise(
    name="read_in_two", signature="read_in_two(q, k, v, cut)", lesson="05", outputs=["out (H, N, Dv)", "share (H, N)"],
    inputs=_prompts, reference=_joined(),
    wrong=[
        Wrong("a causal mask on the first sentence too", _joined(crossing_mask=masks.causal()),
              "Which token of the first sentence comes after a token of the second?"),
        Wrong("no mask in the second sentence", _joined(own_mask=False), "May a reader look at the words that follow it?"),
        Wrong("no mask, and a causal one on the first sentence", _joined(crossing_mask=masks.causal(), own_mask=False),
              "Which of the two parts holds tokens that come after the reader?"),
        Wrong("one key too many for the first sentence", lambda q, k, v, cut: _joined()(q, k, v, cut + 1),
              "How many keys does k[:, :cut] hold?"),
        Wrong("the two outputs averaged", _joined(join=lambda share, context, own: (context + own) / 2),
              "A reader that looks at one part alone: should the other count for half?"),
        Wrong("the two outputs added", _joined(join=lambda share, context, own: context + own),
              "Weights that sum to 1 twice: what do all weights of a row sum to?"),
        Wrong("the parts exchanged", _joined(lambda context, own: _share(own, context)),
              "Which part has the larger share where its lse is larger?"),
        Wrong("the share of the second sentence", _joined(shown=lambda share: 1 - share),
              "Which of the two shares is asked for? out is right."),
        Wrong("shares not beside the whole", _joined(lambda context, own: np.exp(context - own)), "Can a share be above 1?"),
        Wrong("the logarithms beside each other", _joined(lambda context, own: context / (context + own)),
              "Two parts with lse 0 have equal shares. What comes out?"),
        Wrong("no maximum subtracted", _joined(lambda context, own: np.exp(context) / (np.exp(context) + np.exp(own))),
              "Try lse of 900 each. How large may a float be?"),
        Wrong("the first sentence alone", lambda q, k, v, cut: (_parts(q, k, v, cut)[0][0], np.ones(q.shape[:2])),
              "Where are the reader's own words?"),
    ],
)  # fmt: skip
