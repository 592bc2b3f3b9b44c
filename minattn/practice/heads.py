"""Many heads: columns shared out among heads, put together again, and the layer around them; also inside a model.

    x     (N, E)            tokens               q, k  (H, N, D)    v (H, N, Dv)    one attention a head, scale 1 / sqrt(D)
    w_q, w_k  (E, H * D)    w_v (E, H * Dv)      w_o   (H * Dv, E_out): Dv rows for each head

Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.
"""
import numpy as np

from ..attention import attention
from ..core.projection import merge_heads as merged
from ..core.projection import split_heads as split
from ..core.softmax import softmax
from ..models import Llama, LlamaConfig
from .exercise import Blank, Exercise, Wrong

SIZES = [(3, 2, 5), (7, 6, 4), (2, 3, 4), (5, 4, 3)]                                  # N, H, D


def _every_other(x, heads):
    """Head h has the columns h, h + H, h + 2 H ..."""
    return x.reshape(len(x), -1, heads).transpose(2, 0, 1)


split_heads = Exercise(
    name="split_heads", signature="split_heads(x, heads)", lesson="04", outputs=["split (H, N, D)"], views=True,
    inputs=lambda rng: [(rng.standard_normal((n, h * d)), h) for n, h, d in SIZES],
    reference=split,
    wrong=[
        Wrong("reshape without a transpose", lambda x, heads: x.reshape(heads, len(x), -1),
              "Which tokens are in the answer's head 0? Split the names t0c0, t0c1, ... instead of numbers."),
        Wrong("transposed, then reshaped", lambda x, heads: x.T.reshape(heads, len(x), -1),
              "Is one row of a head the numbers of one token?"),
        Wrong("every H-th column to a head", _every_other,
              "Head 0 owns neighbouring columns. Which columns has the answer's head 0?"),
        Wrong("H and D exchanged", lambda x, heads: x.reshape(len(x), -1, heads).swapaxes(0, 1),
              "How many heads has the answer, and how many were asked for?"),
        Wrong("the heads left behind the tokens", lambda x, heads: x.reshape(len(x), heads, -1),
              "Which axis comes first in (H, N, D)?"),
        Wrong("tokens last", lambda x, heads: x.reshape(len(x), heads, -1).transpose(1, 2, 0),
              "Which axis comes last in (H, N, D)?"),
    ],
)  # fmt: skip


merge_heads = Exercise(
    name="merge_heads", signature="merge_heads(x)", lesson="04", outputs=["merged (N, E)"],
    inputs=lambda rng: [(rng.standard_normal((h, n, d)),) for n, h, d in SIZES],
    reference=merged,
    wrong=[
        Wrong("no transpose back", lambda x: x.reshape(x.shape[1], -1).copy(),
              "Row 0 belongs to token 0. Whose numbers are in it?"),
        Wrong("heads and columns interleaved", lambda x: x.transpose(1, 2, 0).reshape(x.shape[1], -1),
              "Head 0 owns the first D columns of a row. What stands there?"),
        Wrong("moved, not merged", lambda x: x.swapaxes(0, 1).copy(), "How many axes has (N, E)?"),
        Wrong("heads below each other", lambda x: x.reshape(-1, x.shape[2]).copy(),
              "How many rows has the answer, and how many tokens?"),
        Wrong("heads added up", lambda x: x.sum(axis=0), "How many numbers has a token, and what is H * D?"),
        Wrong("heads averaged", lambda x: x.mean(axis=0), "How many numbers has a token, and what is H * D?"),
        Wrong("the last head first", lambda x: merged(x[::-1]), "Which head owns the first D columns?"),
    ],
)  # fmt: skip


# --- W_O -----------------------------------------------------------------------------------------------------------


def _zeroed(place):
    """w_o with zeros where `place(w_o, heads, h)` says."""

    def fn(w_o, heads, h):
        changed = w_o.copy()
        changed[place(w_o, heads, h)] = 0
        return changed

    return fn


def _block(h, rows):
    return slice(h * rows, (h + 1) * rows)


without_head = Exercise(
    name="without_head", signature="without_head(w_o, heads, h)", lesson="04", outputs=["w_o (H*D, E)"],
    inputs=lambda rng: [(rng.standard_normal((heads * d, e)), heads, h)
                        for heads, d, e, h in [(3, 4, 14, 1), (2, 5, 13, 0), (4, 3, 15, 2), (5, 2, 12, 4)]],
    reference=_zeroed(lambda w, heads, h: _block(h, len(w) // heads)),
    wrong=[
        Wrong("columns instead of rows", _zeroed(lambda w, heads, h: (slice(None), _block(h, len(w) // heads))),
              "In o @ w_o, do the numbers of a head meet rows of w_o, or columns?"),
        Wrong("the other heads silenced",
              lambda w, heads, h: w - _zeroed(lambda w, heads, h: _block(h, len(w) // heads))(w, heads, h),
              "Which rows are zero in the answer: those of head h, or the others?"),
        Wrong("every H-th row", _zeroed(lambda w, heads, h: slice(h, None, heads)),
              "A head owns neighbouring columns of the merged row. Which rows do these meet?"),
        Wrong("one row alone", _zeroed(lambda w, heads, h: h), "How many numbers has a head?"),
        Wrong("counted from 1", _zeroed(lambda w, heads, h: slice(max(h - 1, 0) * (len(w) // heads), h * (len(w) // heads))),
              "Which rows belong to head 0?"),
        Wrong("always head 0", _zeroed(lambda w, heads, h: _block(0, len(w) // heads)), "Which argument is not used?"),
        Wrong("D read from the columns", _zeroed(lambda w, heads, h: _block(h, w.shape[1] // heads)),
              "w_o is (H * D, E): which of the two lengths is shared out among the heads?"),
        Wrong("rows taken out", lambda w, heads, h: np.delete(w, np.arange(len(w))[_block(h, len(w) // heads)], axis=0),
              "The merged row keeps its length. Does it still fit before the answer?"),
    ],
)  # fmt: skip


# --- the layer -----------------------------------------------------------------------------------------------------


def _layer(split=split, merge=merged, scale=lambda x, q: q.shape[-1] ** -0.5, weights=softmax, project=True):
    """The layer with one of its parts exchanged."""

    def fn(x, w_q, w_k, w_v, w_o, heads):
        q, k, v = (split(x @ w, heads) for w in (w_q, w_k, w_v))
        out = merge(weights(q @ k.swapaxes(-1, -2) * scale(x, q)) @ v)
        return out @ w_o if project else out

    return fn


def _stages(x, w_q, w_k, w_v, w_o, heads):
    q, k, v = (split(x @ w, heads) for w in (w_q, w_k, w_v))
    scaled = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    weights = softmax(scaled)
    found = weights @ v
    return {"q (H, N, D)": q, "k (H, N, D)": k, "v (H, N, Dv)": v, "scaled (H, N, S)": scaled, "weights (H, N, S)": weights,
            "heads (H, N, Dv)": found, "merged (N, E)": merged(found)}


def _shared_softmax(scaled):
    """One softmax for each query, over the keys of all heads."""
    return split(softmax(merged(scaled)), len(scaled))


def _flat_split(x, heads):
    return x.reshape(heads, len(x), -1)


def _flat_merge(x):
    return x.reshape(x.shape[1], -1)


def _drawn_layers(rng):
    sizes = [(3, 7, 2, 4, 5), (5, 11, 3, 2, 4), (4, 9, 5, 3, 2)]                      # N, E, H, D, Dv
    return [(rng.standard_normal((n, e)), *(rng.standard_normal((e, h * d)) / np.sqrt(e) for d in (d, d, dv)),
             rng.standard_normal((h * dv, e)) / np.sqrt(e), h) for n, e, h, d, dv in sizes]


multi_head = Exercise(
    name="multi_head", signature="multi_head(x, w_q, w_k, w_v, w_o, heads)", lesson="04", outputs=["out (N, E)"],
    inputs=_drawn_layers, reference=_layer(), stages=_stages,
    wrong=[
        Wrong("reshape without a transpose", _layer(_flat_split, _flat_merge),
              "Change one token: which rows of the output move? Return the stages too, and see which one is first to differ."),
        Wrong("split by a reshape alone", _layer(_flat_split), "Which tokens are in head 0 after your split?"),
        Wrong("merged by a reshape alone", _layer(merge=_flat_merge), "Row 0 belongs to token 0. Whose numbers are in it?"),
        Wrong("every H-th column to a head",
              _layer(_every_other, lambda x: x.transpose(1, 2, 0).reshape(x.shape[1], -1)),
              "Head 0 owns neighbouring columns. Which columns has your head 0?"),
        Wrong("scaled by the width E", _layer(scale=lambda x, q: x.shape[-1] ** -0.5),
              "How many products does one score sum up?"),
        Wrong("scaled by the width of all heads", _layer(scale=lambda x, q: (len(q) * q.shape[-1]) ** -0.5),
              "How many products does one head's score sum up?"),
        Wrong("scaled by the number of heads", _layer(scale=lambda x, q: len(q) ** -0.5),
              "How many products does one score sum up?"),
        Wrong("scaled by D", _layer(scale=lambda x, q: 1 / q.shape[-1]), "Divide your scaled scores by the expected ones."),
        Wrong("no scale", _layer(scale=lambda x, q: 1.0), "Divide your scaled scores by the expected ones."),
        Wrong("one softmax over all heads", _layer(weights=_shared_softmax), "What does one row of one head's map sum to?"),
        Wrong("softmax over the heads", _layer(weights=lambda s: softmax(s, axis=0)),
              "Over which axis do the weights sum to 1?"),
        Wrong("softmax over the queries", _layer(weights=lambda s: softmax(s, axis=1)),
              "Over which axis do the weights sum to 1?"),
        Wrong("one map for all heads", _layer(weights=lambda s: np.broadcast_to(softmax(s).mean(axis=0), s.shape)),
              "Do two heads look at the same tokens?"),
        Wrong("one wide head", _layer(lambda x, heads: x[None], lambda x: x[0]), "Which argument is not used?"),
        Wrong("no output projection", _layer(project=False), "Which argument is not used?"),
    ],
)  # fmt: skip


# --- inside a model ------------------------------------------------------------------------------------------------


def _in_a_model(fn, *, heads, kv_heads, head_dim, tokens, first):
    """Logits of a small drawn Llama with `fn` as its attention: for the text at once; for `first` tokens, then the others."""

    def watched(q, k, v, **options):
        found = fn(q, k, v, **options)
        if found is None:
            raise Blank
        return found

    width = 4 * heads + 1
    config = LlamaConfig(layers=2, dim=width, hidden=9, heads=heads, kv_heads=kv_heads, head_dim=head_dim, vocab=23, context=32)
    model = Llama.random(config, seed=tokens, dtype=np.float64).with_attention(watched)
    ids, cache = np.random.default_rng(tokens).integers(0, 23, tokens), model.new_cache(capacity=tokens)
    whole = model.forward(ids)                                                        # here q_pos and k_pos are (N,)
    return whole, np.concatenate([model.forward(part, cache=cache) for part in (ids[:first], ids[first:])])


def _model_variant(scale=lambda q: q.shape[-1] ** -0.5, weights=softmax, may=lambda i, j: j <= i, kv=None):
    """Attention in a model with another scale, softmax, mask, or order of KV heads."""

    def fn(q, k, v, *, causal, q_pos, k_pos):
        H, G = q.shape[1], k.shape[1]
        order = np.arange(H) // (H // G) if kv is None else kv(H, G)
        q_pos, k_pos = np.atleast_2d(q_pos), np.atleast_2d(k_pos)                     # (B or 1, N), (B or 1, S)
        visible = may(q_pos[:, None, :, None], k_pos[:, None, None, :])
        scaled = q @ k[:, order].swapaxes(-1, -2) * scale(q)
        return weights(np.where(visible, scaled, -np.inf)) @ v[:, order]

    return fn


def _corner(i, j):
    """Causal by place in the array: the first query at the first key."""
    return np.arange(j.shape[-1]) <= np.arange(i.shape[-2])[:, None]


def _shared_in_batch(scaled):
    return np.stack([_shared_softmax(each) for each in scaled])


model_attention = Exercise(
    name="model_attention", signature="model_attention(q, k, v, *, causal, q_pos, k_pos)", lesson="04", drive=_in_a_model,
    outputs=["whole (N, V)", "parts (N, V)"], reference=attention,
    inputs=lambda rng: [
        {"heads": 6, "kv_heads": 2, "head_dim": 4, "tokens": 7, "first": 4},
        {"heads": 9, "kv_heads": 3, "head_dim": 2, "tokens": 9, "first": 8},
        {"heads": 4, "kv_heads": 2, "head_dim": 6, "tokens": 5, "first": 2},
    ],
    wrong=[
        Wrong("no mask", _model_variant(may=lambda i, j: (j > -1) | (i < 0)), "May a token look at a key of a later position?"),
        Wrong("the mask counts from the first key", _model_variant(may=_corner),
              "From a cache come more keys than queries. At which position does the first query stand? Print q_pos."),
        Wrong("no token sees itself", _model_variant(may=lambda i, j: j < i), "What does the first token see?"),
        Wrong("KV heads in the order 0 1 2 0 1 2", _model_variant(kv=lambda H, G: np.arange(H) % G),
              "With 6 heads and 2 KV heads, which one does head 1 read?"),
        Wrong("KV head 0 for all", _model_variant(kv=lambda H, G: np.zeros(H, int)), "Which KV head does the last head read?"),
        Wrong("no scale", _model_variant(scale=lambda q: 1.0), "Compare your weights with those of ma.attention_weights."),
        Wrong("scaled by D", _model_variant(scale=lambda q: 1 / q.shape[-1]),
              "Compare your weights with those of ma.attention_weights."),
        Wrong("scaled by the width of all heads", _model_variant(scale=lambda q: (q.shape[1] * q.shape[-1]) ** -0.5),
              "How many products does one head's score sum up?"),
        Wrong("one softmax over all heads", _model_variant(weights=_shared_in_batch),
              "What does one row of one head's map sum to?"),
        Wrong("one map for all heads",
              _model_variant(weights=lambda s: np.broadcast_to(softmax(s).mean(axis=1, keepdims=True), s.shape)),
              "Do two heads look at the same tokens?"),
    ],
)  # fmt: skip
