"""One decoding step: the new token's three rows, the keys and values before it; with and without positions.

    q_new, k_new (1, D)   v_new (1, Dv)      the new token           K (S, D)   V (S, Dv)    the tokens before it

A key that is stored stays as it is; only the new token is computed. Shazeer 2019, arXiv:1911.02150, section 2.4.
"""
import numpy as np

from ..core.rope import rope
from ..core.softmax import softmax
from .exercise import Exercise, Wrong


def _steps(rng, sizes):
    """q_new, k_new, v_new, K, V for each S, D, Dv."""
    return [tuple(rng.standard_normal(shape) for shape in ((1, D), (1, D), (1, Dv), (S, D), (S, Dv))) for S, D, Dv in sizes]


def _attend(q, k, v, scale=lambda k: k.shape[1] ** -0.5):
    return softmax(q @ k.T * scale(k)) @ v


def _grown(q_new, k_new, v_new, K, V):
    return np.concatenate([K, k_new]), np.concatenate([V, v_new])


def _step(out=lambda q, k, v, K, V: _attend(q, *_grown(q, k, v, K, V)), arrays=_grown):
    """A step with another output, or with other arrays handed back."""
    return lambda *given: (out(*given), *arrays(*given))


def _scaled(scale):
    def out(q_new, k_new, v_new, K, V):
        return _attend(q_new, np.concatenate([K, k_new]), np.concatenate([V, v_new]), scale)

    return _step(out)


_ITSELF = "Does the new token see itself? Of how many keys does it take an average?"
decode_step = Exercise(
    name="decode_step", signature="decode_step(q_new, k_new, v_new, K, V)", lesson="07", reference=_step(),
    inputs=lambda rng: _steps(rng, [(4, 3, 5), (2, 6, 3), (7, 2, 4)]), outputs=["out (1, Dv)", "K (S+1, D)", "V (S+1, Dv)"],
    wrong=[
        Wrong("attends before appending", _step(lambda q, k, v, K, V: _attend(q, K, V)), _ITSELF),
        Wrong("old keys only, nothing appended",
              _step(lambda q, k, v, K, V: _attend(q, K, V), lambda q, k, v, K, V: (K.copy(), V.copy())), _ITSELF),
        Wrong("the new key not kept", _step(arrays=lambda q, k, v, K, V: (K.copy(), V.copy())),
              "The output is right. What will the next token find?"),
        Wrong("the new token alone", _step(lambda q, k, v, K, V: v.copy()), "Which keys does the new query look at?"),
        Wrong("the oldest overwritten",
              lambda q, k, v, K, V: (_attend(q, *_grown(q, k, v, K[1:], V[1:])), *_grown(q, k, v, K[1:], V[1:])),
              "How many rows has K before the step, and how many after?"),
        Wrong("the last overwritten",
              lambda q, k, v, K, V: (_attend(q, *_grown(q, k, v, K[:-1], V[:-1])), *_grown(q, k, v, K[:-1], V[:-1])),
              "How many rows has K before the step, and how many after?"),
        Wrong("put in front", _step(arrays=lambda q, k, v, K, V: (np.concatenate([k, K]), np.concatenate([v, V]))),
              "Row n of K belongs to token n. Which row is the newest token's?"),
        Wrong("the query kept in place of the key",
              lambda q, k, v, K, V: _step()(q, q, v, K, V), "Which of the three new rows do later tokens look at?"),
        Wrong("looks at the first key alone", _step(lambda q, k, v, K, V: V[:1].copy()),
              "A causal mask (1, S + 1) made by np.tril: at which key does it put the one query?"),
        Wrong("no scale", _scaled(lambda k: 1.0), "Divide your scores by those of ma.attention: which factor is it?"),
        Wrong("scaled by D", _scaled(lambda k: 1 / k.shape[1]),
              "Divide your scores by those of ma.attention: which factor is it?"),
        Wrong("scaled by the number of keys", _scaled(lambda k: len(k) ** -0.5), "From which axis is the scale read?"),
    ],
)  # fmt: skip


def _rotated(at_q=0, at_k=0, *, layout="interleaved", everything=False, values=False, keep_raw=False, itself=True):
    """A step with RoPE: where the new query and key stand, as a function of S; `everything` rotates the old keys once more."""

    def fn(q_new, k_new, v_new, K, V):
        S = len(K)
        q, k = (rope(x, np.array([at(S)]), layout=layout) for x, at in ((q_new, at_q), (k_new, at_k)))
        v = rope(v_new, np.array([S]), layout=layout) if values else v_new
        K_all = np.concatenate([K, k])
        if everything:
            K_all = rope(np.concatenate([K, k_new]), np.arange(S + 1), layout=layout)
        V_all = np.concatenate([V, v])
        out = _attend(q, K_all, V_all) if itself else _attend(q, K, V)
        return out, np.concatenate([K, k_new]) if keep_raw else K_all, V_all

    return fn


def _here(S):
    return S


def _start(S):
    return 0


_WHERE = "S tokens are there, at positions 0 to S - 1. Where does the new one stand? Print the positions you rotate to."
decode_rotated = Exercise(
    name="decode_rotated", signature="decode_rotated(q_new, k_new, v_new, K, V)", lesson="07",
    reference=_rotated(_here, _here), outputs=["out (1, Dv)", "K (S+1, D)", "V (S+1, Dv)"],
    inputs=lambda rng: _steps(rng, [(5, 4, 6), (3, 8, 2), (9, 6, 4)]),
    wrong=[
        Wrong("stale position: both at 0", _rotated(_start, _start), _WHERE),
        Wrong("stale position: the query at 0", _rotated(_start, _here), _WHERE),
        Wrong("stale position: the key at 0", _rotated(_here, _start), _WHERE),
        Wrong("one position too far", _rotated(lambda S: S + 1, lambda S: S + 1), _WHERE),
        Wrong("one position too early", _rotated(lambda S: S - 1, lambda S: S - 1), _WHERE),
        Wrong("old keys rotated once more", _rotated(_here, _here, everything=True),
              "The rows of K were rotated when they came. Compare your K[:S] with the K that came in."),
        Wrong("key stored before it is rotated", _rotated(_here, _here, keep_raw=True),
              "The output is right. Which form of the key will the next token meet?"),
        Wrong("values rotated too", _rotated(_here, _here, values=True), "Which of q, k and v does RoPE leave as they are?"),
        Wrong("the other layout", _rotated(_here, _here, layout="half"),
              "Which channels form a pair here: 0 and 1, or 0 and D/2?"),
        Wrong("attends before appending", _rotated(_here, _here, itself=False), _ITSELF),
    ],
)  # fmt: skip
