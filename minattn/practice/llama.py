"""The parts of a Llama: RMSNorm, SwiGLU, and a block of two residuals.

    x (N, E)   w_gate, w_up (E, F)   w_down (F, E)     y = x + attend(norm(x))    z = y + swiglu(norm(y))

Zhang and Sennrich 2019, arXiv:1910.07467, eq (4); Shazeer 2020, arXiv:2002.05202, eq (6).
"""
import numpy as np

from ..core.softmax import softmax
from ..models.llama import rms_norm as right_norm
from ..models.llama import silu
from ..models.llama import swiglu as right_swiglu
from .exercise import Exercise, Wrong

# --- RMSNorm ------------------------------------------------------------------------------------------------------


def _rows(rng):
    """Rows beside which eps is not small, rows of several axes, and rows in the hundreds."""
    cases = [((3, 5), 0.3, 0.05), ((7,), 2.0, 0.3), ((2, 3, 4), 1.0, 0.01), ((4, 6), 400.0, 1e-5)]
    return [(size * (rng.standard_normal(shape) + 0.5), rng.standard_normal(shape[-1]) + 1.5, eps) for shape, size, eps in cases]


def _norm(size=lambda x, eps: np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps), centre=False, gain=lambda w: w):
    """Divided by another size, around another centre, or with another gain."""

    def fn(x, weight, eps):
        x = x - x.mean(axis=-1, keepdims=True) if centre else x
        return x / size(x, eps) * gain(weight)

    return fn


def _mean(x, axis=-1):
    return x.mean(axis=axis, keepdims=True)


_SIZE = "Take weight = 1 and a large x: what is the root mean square of each row of your answer?"
_EPS = "eps keeps a row of zeros from dividing by 0. Where in the formula does it stand?"
rms_norm = Exercise(
    name="rms_norm", signature="rms_norm(x, weight, eps)", lesson="09", inputs=_rows, reference=right_norm,
    outputs=["out (..., E)"],
    wrong=[
        Wrong("mean subtracted", _norm(centre=True), "Add 5 to every number of a row: may the answer stay the same?"),
        Wrong("no eps", _norm(lambda x, eps: np.sqrt(_mean(x * x))), _EPS),
        Wrong("eps outside the root", _norm(lambda x, eps: np.sqrt(_mean(x * x)) + eps), _EPS),
        Wrong("sum instead of mean", _norm(lambda x, eps: np.sqrt((x * x).sum(axis=-1, keepdims=True) + eps)), _SIZE),
        Wrong("no root", _norm(lambda x, eps: _mean(x * x) + eps), _SIZE),
        Wrong("mean of sizes instead of squares", _norm(lambda x, eps: _mean(np.abs(x)) + eps), _SIZE),
        Wrong("divided by the standard deviation", _norm(lambda x, eps: np.sqrt(_mean((x - _mean(x)) ** 2) + eps)),
              "Which of the two means belongs to LayerNorm alone?"),
        Wrong("over all axes at once", _norm(lambda x, eps: np.sqrt((x * x).mean() + eps)),
              "Change one row: may another row of the answer change?"),
        Wrong("over the first axis", _norm(lambda x, eps: np.sqrt(_mean(x * x, axis=0) + eps)),
              "Change one row: may another row of the answer change?"),
        Wrong("weight forgotten", _norm(gain=np.ones_like), "Which argument is not used?"),
        Wrong("weight counted from 1", _norm(gain=lambda w: 1 + w),
              "Some models store the weight less 1. Does this one?"),
        Wrong("divided by the weight", _norm(gain=lambda w: 1 / w), "What does a weight of 2 make of its channel?"),
    ],
)  # fmt: skip

# --- SwiGLU -------------------------------------------------------------------------------------------------------


def _gates(rng):
    """E and F apart; and gates of some hundreds on both sides, beyond exp in float32."""
    cases = []
    for shape, F, size in [((3, 5), 7, 1.0), ((4, 3), 8, 1.5), ((2, 6), 4, 2.0), ((3, 4), 6, 900.0)]:
        E = shape[-1]
        w_gate, w_up, w_down = rng.standard_normal((E, F)), rng.standard_normal((E, F)), rng.standard_normal((F, E))
        cases.append((rng.standard_normal(shape), size * w_gate, w_up, w_down))
    return cases


def _gated(mix):
    """mix(gate, up) goes through w_down."""
    return lambda x, w_gate, w_up, w_down: mix(x @ w_gate, x @ w_up) @ w_down


def _sigmoid(u):
    return 0.5 + 0.5 * np.tanh(0.5 * u)


def _gelu(u):
    return 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))


swiglu = Exercise(
    name="swiglu", signature="swiglu(x, w_gate, w_up, w_down)", lesson="09", inputs=_gates, reference=right_swiglu,
    outputs=["out (N, E)"],
    wrong=[
        Wrong("gate and up exchanged", _gated(lambda gate, up: gate * silu(up)),
              "Both have the same shape. Which of the two goes through silu?"),
        Wrong("sigmoid in place of silu", _gated(lambda gate, up: _sigmoid(gate) * up),
              "What is silu(10): about 1, or about 10?"),
        Wrong("relu in place of silu", _gated(lambda gate, up: np.maximum(gate, 0) * up), "What is silu(-1)? Not 0."),
        Wrong("gelu in place of silu", _gated(lambda gate, up: _gelu(gate) * up),
              "silu(u) = u / (1 + exp(-u)). What is yours at u = 1?"),
        Wrong("no silu", _gated(lambda gate, up: gate * up), "Without it, what does the sign of x change?"),
        Wrong("silu of both", _gated(lambda gate, up: silu(gate) * silu(up)), "Only one of the two is a gate."),
        Wrong("silu of the product", _gated(lambda gate, up: silu(gate * up)),
              "To what is silu applied: before or after the product?"),
        Wrong("added, not multiplied", _gated(lambda gate, up: silu(gate) + up),
              "A gate of 0 lets nothing pass. What does yours let pass?"),
        Wrong("no up", _gated(lambda gate, up: silu(gate)), "Which argument is not used?"),
        Wrong("no gate", _gated(lambda gate, up: up), "Which argument is not used?"),
        Wrong("the sign in exp turned", _gated(lambda gate, up: gate * _sigmoid(-gate) * up),
              "What is your silu(10): about 10, or about 0?"),
        Wrong("inf / inf", _gated(lambda gate, up: gate * (np.exp(gate) / (1 + np.exp(gate))) * up),
              "Print exp(gate) for the input with the largest gates."),
    ],
)  # fmt: skip

# --- a block ------------------------------------------------------------------------------------------------------


def _blocks(rng):
    """(x, w, attend, eps); `attend` looks back, with a projection, so that rows of unequal size act on each other."""
    cases = []
    for N, E, F in [(4, 5, 7), (3, 6, 4), (5, 4, 9)]:
        shapes = {"norm_attention": (E,), "norm_ffn": (E,), "w_gate": (E, F), "w_up": (E, F), "w_down": (F, E)}
        w = {name: rng.standard_normal(shape) / 2 + (len(shape) == 1) for name, shape in shapes.items()}
        cases.append((3 * rng.standard_normal((N, E)), w, _attention(rng.standard_normal((E, E)) / 2), 0.02))
    return cases


def _attention(w_v):
    def attend(n):
        n = np.asarray(n)
        scores = np.where(np.tri(len(n)) == 1, n @ n.T / np.sqrt(n.shape[1]), -np.inf)
        return softmax(scores) @ n @ w_v

    return attend


def _right_block(x, w, attend, eps):
    y = x + attend(right_norm(x, w["norm_attention"], eps))
    return y + _feed(right_norm(y, w["norm_ffn"], eps), w)


def _feed(n, w):
    return right_swiglu(n, w["w_gate"], w["w_up"], w["w_down"])


def _stages(x, w, attend, eps):
    n = right_norm(x, w["norm_attention"], eps)
    return {"n (N, E)": n, "y (N, E)": x + attend(n)}


def _block(rule):
    """rule(x, attend, feed, norm_1, norm_2)"""

    def fn(x, w, attend, eps):
        norms = (lambda t, name=name: right_norm(t, w[name], eps) for name in ("norm_attention", "norm_ffn"))
        return rule(x, attend, lambda n: _feed(n, w), *norms)

    return fn


def _then(first, second):
    """A block of two parts, each a function of (x, the part, its norm)."""
    return _block(lambda x, attend, feed, n1, n2: second(first(x, attend, n1), feed, n2))


def _pre(x, part, norm):
    return x + part(norm(x))


def _post(x, part, norm):
    return norm(x + part(x))


def _lost(x, part, norm):
    return part(norm(x))


def _bare(x, part, norm):
    return x + part(x)


def _normed_residual(x, part, norm):
    return norm(x) + part(norm(x))


def _after_part(x, part, norm):
    return x + norm(part(x))


_ADD = "Set w_down to 0 and let attend return 0: what should come out?"
_NORM = "Make x a hundred times as large: what should attend be given then?"
block = Exercise(
    name="block", signature="block(x, w, attend, eps)", lesson="09", inputs=_blocks, reference=_right_block,
    stages=_stages, outputs=["z (N, E)"],
    wrong=[
        Wrong("post-norm", _then(_post, _post), "Is a part given x itself, or its norm?"),
        Wrong("norm of each part's output", _then(_after_part, _after_part), "Is a part given x itself, or its norm?"),
        Wrong("both residuals forgotten", _then(_lost, _lost), _ADD),
        Wrong("first residual forgotten", _then(_lost, _pre), _ADD),
        Wrong("second residual forgotten", _then(_pre, _lost), _ADD),
        Wrong("the norm added instead of x", _then(_normed_residual, _normed_residual), _ADD),
        Wrong("no norms", _then(_bare, _bare), _NORM),
        Wrong("first norm forgotten", _then(_bare, _pre), _NORM),
        Wrong("second norm forgotten", _then(_pre, _bare),
              "Make y a hundred times as large: what is the feed-forward part given?"),
        Wrong("norms exchanged", _block(lambda x, attend, feed, n1, n2: _pre(_pre(x, attend, n2), feed, n1)),
              "Each part has a norm of its own. Which belongs to which?"),
        Wrong("the first norm twice", _block(lambda x, attend, feed, n1, n2: _pre(_pre(x, attend, n1), feed, n1)),
              "Each part has a norm of its own. Which belongs to which?"),
        Wrong("feed-forward first", _block(lambda x, attend, feed, n1, n2: _pre(_pre(x, feed, n2), attend, n1)),
              "Which of the two parts is given what the other one added?"),
        Wrong("both parts side by side", _block(lambda x, attend, feed, n1, n2: x + attend(n1(x)) + feed(n2(x))),
              "What is the feed-forward part given: x, or what attention has made of it?"),
        Wrong("second part added to x", _block(lambda x, attend, feed, n1, n2: x + feed(n2(x + attend(n1(x))))),
              "What attention added: is it still in your result?"),
    ],
)  # fmt: skip
