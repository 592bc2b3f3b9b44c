"""Linear attention: which brackets cost what, its map, one token more, a chunk at a time.

    q, k (N, D)   v (N, Dv)   phi(x)  elu(x) + 1         out = phi(q) state / phi(q).z
    state (D, Dv)  sum of phi(k_j) v_j^T      z (D,)  sum of phi(k_j), the normaliser

States that are given come from tokens before, so none is empty. D = Dv where an exchanged axis must not show in a shape.
"""
import numpy as np

from ..linear.linear_attention import elu as phi
from ..linear.linear_attention import linear_attention
from .exercise import Exercise, Wrong

# --- multiplications ------------------------------------------------------------------------------------------------


def _counted(pairs, state):
    return lambda N, S, D, Dv: (pairs(N, S, D, Dv), state(N, S, D, Dv))


_BOTH = "A product (a, b) (b, c) takes a b c multiplications. How many products are there on each side?"
linear_multiplications = Exercise(
    name="linear_multiplications", signature="linear_multiplications(N, S, D, Dv)", lesson="14",
    outputs=["pairs_first", "state_first"],
    reference=_counted(lambda N, S, D, Dv: N * S * D + N * S * Dv, lambda N, S, D, Dv: S * D * Dv + N * D * Dv),
    inputs=lambda rng: [(5, 7, 3, 2), (1000, 640, 64, 96), (6, 2, 4, 9), (1, 50, 8, 5)],
    wrong=[
        Wrong("the first products alone", _counted(lambda N, S, D, Dv: N * S * D, lambda N, S, D, Dv: S * D * Dv), _BOTH),
        Wrong("the second products alone", _counted(lambda N, S, D, Dv: N * S * Dv, lambda N, S, D, Dv: N * D * Dv), _BOTH),
        Wrong("the two counts exchanged",
              _counted(lambda N, S, D, Dv: S * D * Dv + N * D * Dv, lambda N, S, D, Dv: N * S * D + N * S * Dv),
              "Which of the two grows with N times S?"),
        Wrong("additions counted too",
              _counted(lambda N, S, D, Dv: 2 * N * S * (D + Dv), lambda N, S, D, Dv: 2 * D * Dv * (N + S)),
              "Multiplications alone are asked for."),
        Wrong("N taken for S", _counted(lambda N, S, D, Dv: N * N * (D + Dv), lambda N, S, D, Dv: 2 * N * D * Dv),
              "Which argument is not used? Queries and keys need not be equally many."),
        Wrong("D taken for Dv", _counted(lambda N, S, D, Dv: 2 * N * S * D, lambda N, S, D, Dv: D * D * (N + S)),
              "Which argument is not used? A value may have another width than a key."),
        Wrong("the sizes of the results", _counted(lambda N, S, D, Dv: N * S + N * Dv, lambda N, S, D, Dv: D * Dv + N * Dv),
              "These are the numbers that come out. Each of them is a sum of several products."),
        Wrong("the two products multiplied",
              _counted(lambda N, S, D, Dv: N * S * D * N * S * Dv, lambda N, S, D, Dv: S * D * Dv * N * D * Dv),
              "One product is done, then the other. Is the work of both their sum?"),
    ],
)  # fmt: skip


# --- every query sees all keys ----------------------------------------------------------------------------------------


def _all_keys_inputs(rng):
    sizes = [(5, 7, 3), (3, 2, 4), (1, 6, 5)]
    return [tuple(rng.standard_normal(shape) for shape in [(N, D), (S, D), (S, D)]) for N, S, D in sizes]


def _all_keys(on_q=phi, on_k=phi, over=lambda q, k: (q @ k.sum(axis=0))[:, None], held=lambda k, v: k.T @ v, z_q=None, z_k=None):
    """phi on q and on k; what the output is divided by; the state; phi in the normaliser, where it is another."""

    def fn(q, k, v):
        divisor = over((z_q or on_q)(q), (z_k or on_k)(k))
        return on_q(q) @ held(on_k(k), v) / divisor

    return fn


def _as_it_is(x):
    return x


_PHI_BOTH = "A weight is phi(q) . phi(k). Write down one weight of your answer: can it be negative?"
_ROWS = "Give all values the number 1. What must each output be?"
linear_all_keys = Exercise(
    name="linear_all_keys", signature="linear_all_keys(q, k, v)", lesson="14", inputs=_all_keys_inputs, outputs=["out (N, Dv)"],
    reference=lambda q, k, v: linear_attention(q, k, v, causal=False),
    wrong=[
        Wrong("normaliser missing", _all_keys(over=lambda q, k: 1.0), _ROWS),
        Wrong("phi not applied to k", _all_keys(on_k=_as_it_is), _PHI_BOTH),
        Wrong("phi not applied to q", _all_keys(on_q=_as_it_is), _PHI_BOTH),
        Wrong("phi applied to neither", _all_keys(on_q=_as_it_is, on_k=_as_it_is), _PHI_BOTH),
        Wrong("phi not applied in the normaliser", _all_keys(z_q=_as_it_is, z_k=_as_it_is), _ROWS),
        Wrong("phi not applied to k in the normaliser", _all_keys(z_k=_as_it_is), _ROWS),
        Wrong("the + 1 forgotten", _all_keys(*[lambda x: phi(x) - 1] * 2), "What is phi(0)? Can a feature be negative?"),
        Wrong("relu in place of elu", _all_keys(*[lambda x: np.maximum(x, 0)] * 2),
              "What is phi(-1)? A row whose features are all 0 reads nothing."),
        Wrong("exp in place of elu(x) + 1", _all_keys(np.exp, np.exp), "What is phi(2)?"),
        Wrong("the state transposed", _all_keys(held=lambda k, v: v.T @ k),
              "Which axis of the state does the query meet, that of the keys or that of the values?"),
        Wrong("divided by the number of keys", _all_keys(over=lambda q, k: len(k)), _ROWS),
        Wrong("one normaliser for all queries", _all_keys(over=lambda q, k: (q @ k.sum(axis=0)).sum()),
              "Change one query. Should another query's output answer?"),
        Wrong("normaliser without the query", _all_keys(over=lambda q, k: k.sum(axis=0)), _ROWS),
        Wrong("divided by the query's own features", _all_keys(over=lambda q, k: q.sum(axis=-1, keepdims=True)), _ROWS),
    ],
)  # fmt: skip


# --- the map --------------------------------------------------------------------------------------------------------


def _map_inputs(rng):
    return [tuple(rng.standard_normal((2, N, D))) for N, D in [(5, 3), (4, 6), (7, 2)]]


def _normalised(w, axis=-1):
    return w / w.sum(axis=axis, keepdims=True)


def _map(on_q=phi, on_k=phi, seen=np.tri, finish=_normalised):
    return lambda q, k: finish(np.where(seen(len(q)) > 0, on_q(q) @ on_k(k).T, 0))


def _softmaxed(q, k, scores):
    seen = np.where(np.tri(len(q)) > 0, scores, -np.inf)
    return _normalised(np.exp(seen - seen.max(axis=-1, keepdims=True)))


_SUMS = "What does each row sum to? Each column?"
linear_map = Exercise(
    name="linear_map", signature="linear_map(q, k)", lesson="14", inputs=_map_inputs, outputs=["weights (N, N)"],
    reference=lambda q, k: linear_attention(q, k, np.eye(len(k))),
    wrong=[
        Wrong("mask missing", _map(seen=lambda N: np.ones((N, N))), "What may the first token see?"),
        Wrong("masked after dividing", lambda q, k: np.tri(len(q)) * _normalised(phi(q) @ phi(k).T), _SUMS),
        Wrong("a token does not see itself", _map(seen=lambda N: np.tri(N, k=-1)), "What is left for the first token?"),
        Wrong("later tokens in place of earlier ones", _map(seen=lambda N: np.tri(N).T), "What may the first token see?"),
        Wrong("not normalised", _map(finish=_as_it_is), _SUMS),
        Wrong("normalised over the queries", _map(finish=lambda w: _normalised(w, axis=0)), _SUMS),
        Wrong("one sum for the whole map", _map(finish=lambda w: _normalised(w, axis=None)), _SUMS),
        Wrong("phi not applied to k", _map(on_k=_as_it_is), "Is a weight negative?"),
        Wrong("phi not applied to q", _map(on_q=_as_it_is), "Is a weight negative?"),
        Wrong("phi applied to the scores", lambda q, k: _normalised(np.tri(len(q)) * phi(q @ k.T)),
              "phi of a product is no product of features: could these brackets be moved?"),
        Wrong("the scores as they are", _map(_as_it_is, _as_it_is), "Is a weight negative?"),
        Wrong("softmax of the scores", lambda q, k: _softmaxed(q, k, q @ k.T / np.sqrt(q.shape[1])),
              "Which exponential is in this mechanism? The map here is a product of two matrices, masked and divided."),
        Wrong("softmax of the features' products", lambda q, k: _softmaxed(q, k, phi(q) @ phi(k).T),
              "The products are positive already. What is left to do but to divide?"),
        Wrong("q divided by the root of D first", _map(on_q=lambda q: phi(q / np.sqrt(q.shape[1]))),
              "Which of softmax's habits is this? phi is applied to q as it is."),
    ],
)  # fmt: skip


# --- one token more -------------------------------------------------------------------------------------------------


def _held(rng, before, D, Dv):
    """state, z of some tokens that went before."""
    features = phi(rng.standard_normal((before, D)))
    return features.T @ rng.standard_normal((before, Dv)), features.sum(axis=0)


def _step_inputs(rng):
    return [(*rng.standard_normal((3, D)), *_held(rng, before, D, D)) for D, before in [(3, 2), (4, 6), (2, 1)]]


def _right_step(q, k, v, state, z):
    held = np.concatenate([state, z[:, None]], axis=1)
    out, held = linear_attention(q[None], k[None], v[None], state=held, return_state=True)
    return out[0], held[:, :-1], held[:, -1]


def _step(on_q=phi, on_k=phi, on_z=phi, write=np.outer, keep=1.0, keep_z=1.0, late=False, late_z=False, divide=True,
          divide_state=False):  # fmt: skip
    """One update and one read; `late`: the read comes before the update."""

    def fn(q, k, v, state, z):
        new, new_z = keep * state + write(on_k(k), v), keep_z * z + on_z(k)
        read, divisor = on_q(q) @ (state if late else new), on_q(q) @ (z if late_z else new_z)
        if divide_state:
            new = new / new_z[:, None]
            return on_q(q) @ new / on_q(q).sum(), new, new_z
        return (read / divisor if divide else read), new, new_z

    return fn


_FIRST = "Start from an empty state and take one token. What must its output be?"
_CARRIED = "After t tokens with value 1: what stands in the state, what in z, and what is their quotient?"
linear_step = Exercise(
    name="linear_step", signature="linear_step(q, k, v, state, z)", lesson="14", inputs=_step_inputs, reference=_right_step,
    outputs=["out (Dv)", "state (D, Dv)", "z (D)"],
    wrong=[
        Wrong("read before the write", _step(late=True, late_z=True), _FIRST),
        Wrong("state read before the write, z after it", _step(late=True), _FIRST),
        Wrong("z read before the write, state after it", _step(late_z=True), _FIRST),
        Wrong("normaliser missing", _step(divide=False), _CARRIED),
        Wrong("normaliser not carried", _step(keep_z=0), _CARRIED),
        Wrong("state not carried", _step(keep=0), "Which argument is not used?"),
        Wrong("neither state nor normaliser carried", _step(keep=0, keep_z=0), "Which arguments are not used?"),
        Wrong("phi not applied to k", _step(on_k=_as_it_is, on_z=_as_it_is), "Can z become negative? Should it?"),
        Wrong("phi not applied to k in the state", _step(on_k=_as_it_is), _FIRST),
        Wrong("phi not applied to k in z", _step(on_z=_as_it_is), _FIRST),
        Wrong("phi not applied to q", _step(on_q=_as_it_is), "Can a weight be negative?"),
        Wrong("the written pair transposed", _step(write=lambda k, v: np.outer(v, k)),
              "The state is (D, Dv): which of its axes belongs to the key?"),
        Wrong("z counts tokens", _step(on_z=lambda k: np.ones(len(k))),
              "Is a token's weight 1? Which sum of weights is the output divided by?"),
        Wrong("each row of the state divided by its z", _step(divide_state=True),
              "phi(q) state / phi(q).z has one quotient for the whole output. And what would the next token be added to?"),
    ],
)  # fmt: skip


# --- a chunk at a time ----------------------------------------------------------------------------------------------


def _chunk_inputs(rng):
    cases = []
    for N, D, Dv, chunk in [(7, 3, 2, 3), (5, 2, 4, 2), (6, 4, 3, 3), (4, 3, 5, 8)]:
        q, k = rng.standard_normal((2, N, D))
        cases.append((q, k, rng.standard_normal((N, Dv)), chunk, *_held(rng, 3, D, Dv)))
    return cases


def _right_chunked(q, k, v, chunk, state, z):
    held = np.concatenate([state, z[:, None]], axis=1)
    out, held = linear_attention(q, k, v, chunk=chunk, state=held, return_state=True)
    return out, held[:, :-1], held[:, -1]


def _both(inner, outer, inner_z, outer_z):
    return (inner + outer) / (inner_z + outer_z)[:, None]


def _chunked(on_q=phi, on_k=phi, diagonal=0, masked=True, short=True, keep=1.0, keep_z=1.0, given=1.0, late=True, join=_both):
    """Chunk by chunk; each keyword is one line that people get wrong. `join` makes the output of four parts."""

    def fn(q, k, v, chunk, state, z):
        N, out = len(q), np.zeros((len(q), v.shape[1]))
        state, z = given * state, given * z
        for start in range(0, N if short else N - N % chunk, chunk):
            here = slice(start, start + chunk)
            features, keys = on_q(q[here]), on_k(k[here])
            pairs = features @ keys.T
            pairs = np.tri(len(keys), k=diagonal) * pairs if masked else pairs
            new, new_z = keep * state + keys.T @ v[here], keep_z * z + keys.sum(axis=0)
            before, before_z = (state, z) if late else (new, new_z)
            out[here] = join(pairs @ v[here], features @ before, pairs.sum(axis=1), features @ before_z)
            state, z = new, new_z
        return out, state, z

    return fn


_INSIDE = "Which keys of its own chunk does a query see: list them for the first and for the last query of a chunk."
linear_chunked = Exercise(
    name="linear_chunked", signature="linear_chunked(q, k, v, chunk, state, z)", lesson="14", inputs=_chunk_inputs,
    reference=_right_chunked, outputs=["out (N, Dv)", "state (D, Dv)", "z (D)"],
    wrong=[
        Wrong("mask missing within a chunk", _chunked(masked=False), _INSIDE),
        Wrong("the diagonal of a chunk lost", _chunked(diagonal=-1), _INSIDE),
        Wrong("the own chunk lost", _chunked(join=lambda inner, outer, inner_z, outer_z: outer / outer_z[:, None]), _INSIDE),
        Wrong("the state is not read", _chunked(join=lambda inner, outer, inner_z, outer_z: inner / inner_z[:, None]),
              "Change a value of the first chunk. Does the output of the second answer?"),
        Wrong("state updated before it is read", _chunked(late=False), "How often does a query meet the keys of its own chunk?"),
        Wrong("last short chunk dropped", _chunked(short=False), "Is every row of the output written, whatever N is?"),
        Wrong("state starts anew with every chunk", _chunked(keep=0, keep_z=0), "What does the third chunk know of the first?"),
        Wrong("normaliser starts anew with every chunk", _chunked(keep_z=0), _ROWS),
        Wrong("the given state ignored", _chunked(given=0), "Which arguments are not used?"),
        Wrong("normaliser missing", _chunked(join=lambda inner, outer, inner_z, outer_z: inner + outer), _ROWS),
        Wrong("normaliser of the own chunk alone", _chunked(join=lambda a, b, a_z, b_z: (a + b) / a_z[:, None]), _ROWS),
        Wrong("normaliser of the state alone", _chunked(join=lambda a, b, a_z, b_z: (a + b) / b_z[:, None]), _ROWS),
        Wrong("the parts divided one by one and added", _chunked(join=lambda a, b, a_z, b_z: a / a_z[:, None] + b / b_z[:, None]),
              _ROWS),
        Wrong("phi not applied to k", _chunked(on_k=_as_it_is), "Can z become negative? Should it?"),
        Wrong("phi not applied to q", _chunked(on_q=_as_it_is), "Can a weight be negative?"),
    ],
)  # fmt: skip
