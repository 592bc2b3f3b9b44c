"""Gradients of the parts of attention: by finite differences, through the values, and through the softmax.

    p   (H, N, S)  weights          dX     gradient of the loss with respect to X, of X's shape
    s   (H, N, S)  scaled scores    delta  (H, N), rowsum(p * dp)

    dv = p^T dout     ds = p * (dp - delta)
"""
import numpy as np

from ..core.softmax import logsumexp, softmax
from .exercise import Exercise, Wrong

# --- finite differences -------------------------------------------------------------------------------------------


def _functions(rng):
    """Functions that curve, and in which one number's slope depends on the others: (f, x, h)."""
    w = rng.standard_normal((2, 3))

    def waves(x):
        return float((w * np.sin(x)).sum() * np.cos(x).mean())

    return [(logsumexp, rng.standard_normal(5), 0.3), (waves, rng.standard_normal((2, 3)), 0.1),
            (waves, rng.standard_normal((1, 2, 3)), 0.04)]


def _differences(ahead=1.0, behind=1.0, apart=2.0, undo=True):
    """From `behind` steps below to `ahead` steps above, divided by `apart` steps."""

    def fn(f, x, h):
        found, moved = np.zeros(x.shape), x.copy()
        for place in np.ndindex(x.shape):
            here = moved[place]
            moved[place] = here - behind * h
            low = f(moved)
            moved[place] = here + ahead * h
            found[place] = (f(moved) - low) / (apart * h)
            if undo:
                moved[place] = here
        return found

    return fn


finite_difference = Exercise(
    name="finite_difference", signature="finite_difference(f, x, h)", lesson="12", inputs=_functions, reference=_differences(),
    outputs=["gradient"],
    wrong=[
        Wrong("one-sided, upwards", _differences(behind=0, apart=1),
              "Try f(x) = x * x at x = 0 with h = 0.1. Which slope has it there, and which does the answer give?"),
        Wrong("one-sided, downwards", _differences(ahead=0, apart=1),
              "Try f(x) = x * x at x = 0 with h = 0.1. Which slope has it there, and which does the answer give?"),
        Wrong("divided by h", _differences(apart=1), "Try f(x) = 3 * x. How far apart are the two places where f is taken?"),
        Wrong("not divided", lambda f, x, h: 2 * h * _differences()(f, x, h), "Does the answer change much with h? Should it?"),
        Wrong("the sign turned", _differences(ahead=-1, behind=-1), "Try f(x) = 3 * x. Which of the two places is above x?"),
        Wrong("the step is not undone", _differences(undo=False), "When the last number of x moves, where do the others stand?"),
        Wrong("all numbers moved at once", lambda f, x, h: np.full(x.shape, (f(x + h) - f(x - h)) / (2 * h)),
              "How many different numbers does the answer hold? Each number of x has its own slope."),
    ],
)  # fmt: skip


# --- through the values, and through the softmax --------------------------------------------------------------------


def _weights(rng, H, N, S, hidden=()):
    scores = rng.standard_normal((H, N, S))
    for place in hidden:
        scores[place] = -np.inf
    return softmax(scores)


def _weights_and_dout(rng):
    sizes = [(2, 3, 5, 4), (3, 7, 2, 5), (1, 4, 3, 6)]
    return [(_weights(rng, H, N, S), rng.standard_normal((H, N, Dv))) for H, N, S, Dv in sizes]


def _to_values(p, dout):
    return np.einsum("hns,hnd->hsd", p, dout)


value_gradient = Exercise(
    name="value_gradient", signature="value_gradient(p, dout)", lesson="12", inputs=_weights_and_dout, reference=_to_values,
    outputs=["dv (H, S, Dv)"],
    wrong=[
        Wrong("reshaped, not transposed", lambda p, dout: p.reshape(p.shape[0], p.shape[2], p.shape[1]) @ dout,
              "Write down a 2 x 3 array, its reshape to 3 x 2, and its transpose."),
        Wrong("mean over the queries", lambda p, dout: _to_values(p, dout) / p.shape[1],
              "If a second query looks exactly as the first does, should a value be pushed as hard as before, or twice as hard?"),
        Wrong("weights divided by what each key receives",
              lambda p, dout: _to_values(p / p.sum(axis=1, keepdims=True), dout),
              "A key that hardly anybody looks at: how hard should its value be pushed?"),
        Wrong("every value pushed alike", lambda p, dout: np.repeat(dout.sum(axis=1, keepdims=True), p.shape[2], axis=1),
              "Compare two rows of the answer. Where are the weights?"),
    ],
)  # fmt: skip


def _weights_and_dp(rng):
    """Plain; with hidden keys and a row that sees nothing; one query."""
    hidden = [(0, 1, 2), (2, 3, 0), (1, 2)]
    return [(_weights(rng, *shape, hidden=some), rng.standard_normal(shape))
            for shape, some in [((2, 3, 5), ()), ((3, 4, 3), hidden), ((2, 1, 6), ())]]


def _through_softmax(delta=lambda p, dp: (p * dp).sum(axis=-1, keepdims=True)):
    """ds with another number, or other numbers, in place of delta."""
    return lambda p, dp: p * (dp - delta(p, dp))


softmax_backward = Exercise(
    name="softmax_backward", signature="softmax_backward(p, dp)", lesson="12", inputs=_weights_and_dp,
    reference=_through_softmax(), outputs=["ds (H, N, S)"],
    wrong=[
        Wrong("nothing subtracted", _through_softmax(lambda p, dp: 0.0),
              "Adding a constant to all scores of a row changes no weight. So what must a row of ds sum to?"),
        Wrong("the plain mean subtracted", _through_softmax(lambda p, dp: dp.mean(axis=-1, keepdims=True)),
              "What does a row of ds sum to? Does a key that nobody looks at count in the average as much as the best?"),
        Wrong("the plain sum subtracted", _through_softmax(lambda p, dp: dp.sum(axis=-1, keepdims=True)),
              "What does a row of ds sum to? Which keys should count most in what is subtracted?"),
        Wrong("p * dp averaged, not summed", _through_softmax(lambda p, dp: (p * dp).mean(axis=-1, keepdims=True)),
              "What does a row of ds sum to? The weights of a row already sum to 1."),
        Wrong("summed over the queries", _through_softmax(lambda p, dp: (p * dp).sum(axis=-2, keepdims=True)),
              "Along which axis do the weights sum to 1?"),
        Wrong("one sum for all rows", _through_softmax(lambda p, dp: (p * dp).sum(axis=(-1, -2), keepdims=True)),
              "Change one row of dp. Should another row of ds answer?"),
        Wrong("only the slope of each weight along its own score", lambda p, dp: p * (1 - p) * dp,
              "When one score grows, what happens to the other weights of the row?"),
        Wrong("not multiplied by p", lambda p, dp: dp - (p * dp).sum(axis=-1, keepdims=True),
              "A hidden key has weight 0. What is its ds?"),
        Wrong("the sign turned", lambda p, dp: -_through_softmax()(p, dp),
              "A key whose dp is above the average of its row: when its score grows, does the loss?"),
    ],
)  # fmt: skip
