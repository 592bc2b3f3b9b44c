"""Segments and memories: how far back, the relative shift, Infini-attention's memory, the best matches of an external one.

    N  tokens of a segment      M  rows remembered of before      S  keys, M + N; or pairs of an external memory
    s(x)   elu(x) + 1           memory (D, Dv), normalizer (D,)   Infini-attention's, read before it is written
"""
import numpy as np

from ..attention import attention
from ..core.pointwise import sigmoid
from ..core.softmax import softmax
from ..linear.linear_attention import elu
from ..sparse.topk import topk_attention
from .exercise import Exercise, Wrong

# --- how far back -------------------------------------------------------------------------------------------------------


def _oldest(step=lambda place, segment, memory: place // segment * segment - memory, more=0, least=0):
    """`step` goes from a token to the oldest row that it sees in one layer."""

    def fn(n, layers, segment, memory):
        place = n
        for _ in range(layers + more):
            place = max(step(place, segment, memory), least)
        return place

    return fn


oldest_read = Exercise(
    name="oldest_read", signature="oldest_read(n, layers, segment, memory)", lesson="22", outputs=["oldest"],
    inputs=lambda rng: [(29, 2, 4, 6), (58, 3, 5, 3), (41, 1, 8, 8), (70, 4, 7, 2), (9, 3, 4, 4)],
    reference=_oldest(),
    wrong=[
        Wrong("counted from the token", _oldest(lambda place, segment, memory: place - memory),
              "Do the first and the last token of a segment have the same oldest row before them, or the same distance to it?"),
        Wrong("the segment's start forgotten below the top layer",
              lambda n, layers, segment, memory: max(n // segment * segment - layers * memory, 0),
              "The oldest row that is remembered: was it the first of its own segment? What had it seen?"),
        Wrong("one segment a layer, whatever is remembered",
              _oldest(lambda place, segment, memory: place // segment * segment - segment), "Which argument is not used?"),
        Wrong("as if there were one layer", lambda n, layers, segment, memory: max(n // segment * segment - memory, 0),
              "Which argument is not used?"),
        Wrong("one layer too few", _oldest(more=-1), "With layers = 1, what does the first token of a segment see?"),
        Wrong("one layer too many", _oldest(more=1), "With layers = 1, what does the first token of a segment see?"),
        Wrong("one row too few", _oldest(lambda place, segment, memory: place // segment * segment - memory + 1),
              "A memory of 1 row: which token is it, seen from the first of the segment?"),
        Wrong("before the text", _oldest(least=-10_000), "Which token stands before token 0?"),
        Wrong("nothing remembered", _oldest(lambda place, segment, memory: place // segment * segment),
              "Which argument is not used?"),
        Wrong("a distance", lambda *given: given[0] - _oldest()(*given), "Is a position asked for, or how far back it is?"),
    ],
)  # fmt: skip

# --- the relative shift ---------------------------------------------------------------------------------------------------


def _products(rng):
    return [(rng.standard_normal(shape),) for shape in ((3, 5), (4, 4), (2, 7))]


def _looked_up(column=lambda distance, i, j, N, S: S - 1 - distance, seen=lambda distance, i, j: distance >= 0):
    """Each entry from a column of its own row; where `seen` is None, columns are counted round."""

    def fn(product):
        N, S = product.shape
        i, j = np.arange(N)[:, None], np.arange(S)
        distance = S - N + i - j
        found = product[i, column(distance, i, j, N, S) % S]
        return found if seen is None else np.where(seen(distance, i, j), found, 0)

    return fn


def _unmasked(product):
    N, S = product.shape
    return np.concatenate([np.zeros((N, 1), product.dtype), product], axis=1).reshape(S + 1, N)[1:].reshape(N, S)


relative_shift = Exercise(
    name="relative_shift", signature="relative_shift(product)", lesson="22", outputs=["scores (N, S)"], inputs=_products,
    reference=_looked_up(),
    wrong=[
        Wrong("numbers of other rows where no query looks", _unmasked,
              "The pad and the reshape are right where j is not after the query. What stands behind, and whose is it?"),
        Wrong("its own row's numbers, counted round, where no query looks", _looked_up(seen=None),
              "Which distance has a key after the query? What should stand there?"),
        Wrong("nothing moved", _looked_up(lambda distance, i, j, N, S: j),
              "In the last row key 0 has the distance S - 1. Which distance has key 0 in the row above?"),
        Wrong("moved to the right", _looked_up(lambda distance, i, j, N, S: j - (N - 1 - i)),
              "The first query is nearer to key 0 than the last one. Is its distance for key 0 in column 0, or after it?"),
        Wrong("one place too far", _looked_up(lambda distance, i, j, N, S: S - distance),
              "The last row needs no move at all. Does yours leave it?"),
        Wrong("the first row not moved, the last one most", _looked_up(lambda distance, i, j, N, S: i + j),
              "Which query stands next to the last key, and has its distances where they should be?"),
        Wrong("distances from 0 upwards", _looked_up(lambda distance, i, j, N, S: distance),
              "Which distance does column 0 hold, S - 1 or 0?"),
        Wrong("queries aligned with the first keys", _looked_up(lambda distance, i, j, N, S: S - 1 - (i - j),
                                                                lambda distance, i, j: i >= j),
              "The segment stands behind the memory: which key is the own one of query 0?"),
        Wrong("hidden as if there were no memory", _looked_up(seen=lambda distance, i, j: i >= j),
              "How many keys does query 0 see? All rows of the memory are before it."),
        Wrong("a token does not see itself", _looked_up(seen=lambda distance, i, j: distance > 0),
              "Is distance 0 among those that a query sees?"),
    ],
)  # fmt: skip

# --- Infini-attention's memory ----------------------------------------------------------------------------------------------


def _memories(rng):
    """An empty memory, as the first segment finds it, and two that hold something; D above, below and equal to Dv."""
    cases = []
    for N, D, Dv, held in ((5, 4, 3, 7), (3, 2, 5, 4), (4, 3, 3, 0)):
        old_k, old_v = elu(rng.standard_normal((held, D))), rng.standard_normal((held, Dv))
        q, k, v = (rng.standard_normal((N, width)) for width in (D, D, Dv))
        cases.append((q, k, v, old_k.T @ old_v, old_k.sum(axis=0)))
    return cases


def _read(features, memory, normalizer):
    below = (features @ normalizer)[:, None]
    return features @ memory / np.where(below == 0, 1, below)


def _infini(phi_q=elu, phi_k=elu, read=_read, less=lambda q, k, memory, z, read: read(k, memory, z),
            count=lambda k: k.sum(axis=0), first=False):  # fmt: skip
    """One segment: what is read; what of the values is already there, `less`; what the normaliser gains."""

    def fn(q, k, v, memory, normalizer):
        a, b = phi_q(q), phi_k(k)
        new = memory + b.T @ (v - less(a, b, memory, normalizer, read))
        z = normalizer + count(b)
        return read(a, *((new, z) if first else (memory, normalizer))), new, z

    return fn


def _one_by_one(q, k, v, memory, normalizer):
    out = _read(elu(q), memory, normalizer)
    for key, value in zip(elu(k), v, strict=True):
        memory = memory + np.outer(key, value - _read(key[None], memory, normalizer)[0])
        normalizer = normalizer + key
    return out, memory, normalizer


infini_step = Exercise(
    name="infini_step", signature="infini_step(q, k, v, memory, normalizer)", lesson="22", inputs=_memories, reference=_infini(),
    outputs=["read (N, Dv)", "memory (D, Dv)", "normalizer (D)"],
    wrong=[
        Wrong("written before it is read", _infini(first=True),
              "The segment attends to itself elsewhere, exactly. May it find itself in the memory as well?"),
        Wrong("everything written, nothing taken away", _infini(less=lambda q, k, memory, z, read: 0),
              "Write the same segment twice. Should the memory have changed the second time?"),
        Wrong("what the queries read is taken away", _infini(less=lambda q, k, memory, z, read: read(q, memory, z)),
              "What is already there of a value is what its own key reads."),
        Wrong("the reading not divided", _infini(read=lambda a, memory, z: a @ memory),
              "Let all values be 1. What must a query read then, however many tokens were written?"),
        Wrong("queries without features", _infini(phi_q=lambda x: x), "Which of q and k goes through s?"),
        Wrong("keys without features", _infini(phi_k=lambda x: x), "Which of q and k goes through s?"),
        Wrong("elu without + 1", _infini(*[lambda x: elu(x) - 1] * 2), "Are your features positive? What is s(0)?"),
        Wrong("exponentials as features", _infini(np.exp, np.exp), "What is s(2)? It is 3."),
        Wrong("the normaliser stays as it was", _infini(count=lambda k: 0), "Where is the sum of the new s(k) added?"),
        Wrong("the normaliser counts tokens", _infini(count=len), "z is a sum of features, one number a channel."),
        Wrong("token after token", _one_by_one,
              "All tokens of a segment are compared with the memory as it was when the segment began."),
    ],
)  # fmt: skip

# --- the best matches of an external memory ------------------------------------------------------------------------------------


def _external(rng):
    """The last one asks for more pairs than there are."""
    sizes = (4, 9, 3, 2, 3, 0.7), (3, 7, 2, 4, 2, -1.1), (2, 3, 4, 3, 5, 0.4)
    return [(*rng.standard_normal((2, N, D)), rng.standard_normal((N, Dv)), 1.5 * rng.standard_normal((S, D)),
             rng.standard_normal((S, Dv)), keep, gate) for N, S, D, Dv, keep, gate in sizes]


def _mixed(far=lambda q, k, v, keep: topk_attention(q, k, v, keep=keep), near=lambda q, k, v: attention(q, k, v, causal=True),
           share=sigmoid):  # fmt: skip
    def fn(q, k, v, old_k, old_v, keep, gate):
        part = share(np.float64(gate))
        return part * far(q, old_k, old_v, keep) + (1 - part) * near(q, k, v)

    return fn


def _cut_after(q, k, v, keep):
    weights = softmax(q @ k.T / q.shape[-1] ** 0.5)
    least = np.sort(weights, axis=-1)[:, [-min(keep, len(k))]]
    return np.where(weights >= least, weights, 0) @ v


def _worst(q, k, v, keep):
    scores = q @ k.T / q.shape[-1] ** 0.5
    return softmax(np.where(scores <= np.sort(scores, axis=-1)[:, [min(keep, len(k)) - 1]], scores, -np.inf)) @ v


def _same_for_all(q, k, v, keep):
    best = np.argsort(-(q @ k.T).sum(axis=0))[:keep]
    return attention(q, k[best], v[best])


def _one_softmax(q, k, v, old_k, old_v, keep, gate):
    scores, N = np.concatenate([q @ old_k.T, q @ k.T], axis=1) / q.shape[-1] ** 0.5, len(k)
    least = np.sort(scores[:, :-N], axis=-1)[:, [-min(keep, len(old_k))]]
    may = np.concatenate([scores[:, :-N] >= least, np.tri(N, dtype=bool)], axis=1)
    return softmax(np.where(may, scores, -np.inf)) @ np.concatenate([old_v, v])


memorizing_read = Exercise(
    name="memorizing_read", signature="memorizing_read(q, k, v, old_k, old_v, keep, gate)", lesson="22", outputs=["out (N, Dv)"],
    inputs=_external, reference=_mixed(),
    wrong=[
        Wrong("the two shares exchanged", _mixed(share=lambda b: 1 - sigmoid(b)),
              "With a gate of +100, whose output should remain, the memory's or the segment's?"),
        Wrong("the gate itself as the share", _mixed(share=lambda b: b), "With gate = -1.1, is your share between 0 and 1?"),
        Wrong("both halves, whatever the gate", _mixed(share=lambda b: 0.5), "Which argument is not used?"),
        Wrong("one softmax over memory and segment", _one_softmax,
              "Which argument is not used? Each part has a softmax of its own; the gate alone weighs them."),
        Wrong("all pairs of the memory", _mixed(lambda q, k, v, keep: attention(q, k, v)), "Which argument is not used?"),
        Wrong("cut off after the softmax", _mixed(_cut_after), "What do the weights of the kept pairs sum to?"),
        Wrong("the worst matches", _mixed(_worst),
              "Which score is the better match, a large or a small one?"),
        Wrong("the latest pairs", _mixed(lambda q, k, v, keep: attention(q, k[-keep:], v[-keep:])),
              "Are they chosen by age, or by how well they match?"),
        Wrong("the same pairs for all queries", _mixed(_same_for_all), "Who chooses: each query, or all together?"),
        Wrong("one pair too few", _mixed(lambda q, k, v, keep: topk_attention(q, k, v, keep=keep - 1)),
              "With keep = 1, how many pairs should be read?"),
        Wrong("one pair too many", _mixed(lambda q, k, v, keep: topk_attention(q, k, v, keep=keep + 1)),
              "With keep = 1, how many pairs should be read?"),
        Wrong("the segment sees its future", _mixed(near=attention), "What does the first token of the segment see of it?"),
        Wrong("scores not divided by the root of D",
              _mixed(lambda q, k, v, keep: topk_attention(q, k, v, keep=keep, scale=1),
                     lambda q, k, v: attention(q, k, v, causal=True, scale=1)), "Is it scaled attention, in both parts?"),
        Wrong("the memory alone", lambda q, k, v, old_k, old_v, keep, gate: topk_attention(q, old_k, old_v, keep=keep),
              "What becomes of the segment itself?"),
    ],
)  # fmt: skip
