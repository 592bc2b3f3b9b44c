"""The backward pass: through the values, through the softmax, and tile by tile with the log-sum-exp.

    p   (H, N, S)  weights          dX     gradient of the loss with respect to X, of X's shape
    s   (H, N, S)  scaled scores    delta  (H, N), rowsum(p * dp) = rowsum(dout * out)

    dv = p^T dout     dp = dout v^T     ds = p * (dp - delta)     dq = ds k / sqrt(D)     dk = ds^T q / sqrt(D)

Where `out` and `lse` are given they may belong to rows with more keys than are there: only what was kept says so.
"""
import numpy as np

from ..attention import attention, attention_backward, attention_weights
from ..core.softmax import logsumexp
from ..core.softmax import softmax as right_softmax
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
    return right_softmax(scores)


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


# --- one tile, and all tiles ----------------------------------------------------------------------------------------


def _problem(rng, H, G, N, S, D, Dv, more):
    """dout, q, k, v and the out and lse of the rows, which had `more` keys than k and v hold."""
    q, k = rng.standard_normal((H, N, D)), rng.standard_normal((G, S + more, D))
    v, dout = rng.standard_normal((G, S + more, Dv)), rng.standard_normal((H, N, Dv))
    out, lse = attention(q, k, v, return_lse=True)
    return dout, q, k[:, :S].copy(), v[:, :S].copy(), out, lse


def _one_tile(rng):
    cases = []
    for N, S, D, Dv, more in [(3, 5, 8, 2, 4), (4, 2, 3, 5, 3), (2, 3, 6, 4, 0)]:
        dout, *arrays = (a[0] for a in _problem(rng, 1, 1, N, S, D, Dv, more))
        cases.append((*arrays[:3], dout, *arrays[3:]))
    return cases


def _right_tile(q, k, v, dout, out, lse):
    bias = np.zeros((len(q), len(k)))                         # added to the scaled scores, so its gradient is ds
    return attention_weights(q, k, lse=lse), attention_backward(dout, q, k, v, out=out, lse=lse, bias=bias).dbias


def _keep(p, dp, dout, out):
    return (dout * out).sum(axis=-1, keepdims=True)


def _here(p, dp, dout, out):
    return (p * dp).sum(axis=-1, keepdims=True)


def _none(p, dp, dout, out):
    return 0.0


def _restored(s, lse):
    return np.exp(s - lse)


def _tile(weights=_restored, delta=_keep, scale=lambda D: D**-0.5, slope=lambda D: 1.0):
    """p and ds of a tile: `weights(scores, lse as a column)`, `delta(p, dp, dout, out)`, the scale, and a factor on ds."""

    def fn(q, k, v, dout, out, lse):
        D, dp = q.shape[-1], dout @ v.T
        p = weights(scale(D) * (q @ k.T), lse[:, None])
        return p, slope(D) * p * (dp - delta(p, dp, dout, out))

    return fn


def _bare_ds(q, k, v, dout, out, lse):
    p, _ = _right_tile(q, k, v, dout, out, lse)
    return p, dout @ v.T - (dout * out).sum(axis=-1, keepdims=True)


tile_backward = Exercise(
    name="tile_backward", signature="tile_backward(q, k, v, dout, out, lse)", lesson="12", inputs=_one_tile,
    reference=_right_tile, outputs=["p (N, S)", "ds (N, S)"],
    wrong=[
        Wrong("normalised over the tile", _tile(weights=lambda s, lse: right_softmax(s)),
              "The rows had more keys than are here. May the weights of the tile sum to 1?"),
        Wrong("normalised over the tile, delta from it too", _tile(weights=lambda s, lse: right_softmax(s), delta=_here),
              "The rows had more keys than are here. Which two arguments know of them?"),
        Wrong("delta from the tile alone", _tile(delta=_here),
              "The sum of p * dp over the keys that are here misses the other keys' part."),
        Wrong("delta forgotten", _tile(delta=_none), "Where a tile holds the whole row, what must ds sum to?"),
        Wrong("delta is the plain mean of dp", _tile(delta=lambda p, dp, *_: dp.mean(axis=-1, keepdims=True)),
              "The average worth of a row counts each value by its weight, and the keys elsewhere too."),
        Wrong("delta averaged over Dv", _tile(delta=lambda p, dp, dout, out: (dout * out).mean(axis=-1, keepdims=True)),
              "delta is a dot product of two vectors. What is done with the products?"),
        Wrong("scale forgotten", _tile(scale=lambda D: 1.0), "Compare p with the forward's weights. What is done before exp?"),
        Wrong("scale by D", _tile(scale=lambda D: 1 / D), "By what are scores divided: D, or its root?"),
        Wrong("ds not multiplied by p", _bare_ds, "How much does a score move a weight that is almost 0?"),
        Wrong("lse forgotten", _tile(weights=lambda s, lse: np.exp(s)), "Can a weight be larger than 1?"),
        Wrong("divided by lse", _tile(weights=lambda s, lse: np.exp(s) / lse),
              "lse is the logarithm of the sum. What is subtracting it inside the exp the same as?"),
        Wrong("gradient of the scores before the scale", _tile(slope=lambda D: D**-0.5),
              "ds belongs to the scaled scores. Who takes the scale then, and when?"),
        Wrong("the sign of ds turned", _tile(slope=lambda D: -1.0), "If dp is above delta, does the loss grow with the score?"),
    ],
)  # fmt: skip


def _whole(rng):
    sizes = [(4, 2, 5, 7, 8, 3, 4), (3, 1, 7, 5, 6, 4, 0), (6, 3, 3, 8, 5, 2, 2)]
    blocks = [(2, 3), (4, 3), (2, 5)]
    return [(*_problem(rng, *size), *block) for size, block in zip(sizes, blocks, strict=True)]


def _right_flash(dout, q, k, v, out, lse, block_q, block_k):
    return tuple(attention_backward(dout, q, k, v, out=out, lse=lse)[:3])


def _starts(length, block, short):
    return range(0, length if short else length - length % block, block)


def _flash(weights=_restored, delta=_keep, scores=lambda D: D**-0.5, for_q=lambda D: D**-0.5, for_k=lambda D: D**-0.5,
           kv_head=lambda h, H, G: h // (H // G), share=lambda H, G: 1.0, short_q=True, short_k=True, keep_q=True,
           keep_kv=True, sum_heads=True):  # fmt: skip
    """dq, dk, dv tile by tile; each keyword is one line that people get wrong."""

    def fn(dout, q, k, v, out, lse, block_q, block_k):
        (H, N, D), (G, S, _) = q.shape, k.shape
        dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
        for h in range(H):
            g = kv_head(h, H, G)
            if not sum_heads:
                dk[g], dv[g] = 0, 0
            for j in _starts(S, block_k, short_k):
                keys = slice(j, j + block_k)
                for i in _starts(N, block_q, short_q):
                    rows = slice(i, i + block_q)
                    p = weights(scores(D) * q[h, rows] @ k[g, keys].T, lse[h, rows, None])
                    dp = dout[h, rows] @ v[g, keys].T
                    ds = p * (dp - delta(p, dp, dout[h, rows], out[h, rows]))
                    dv[g, keys] = dv[g, keys] * keep_kv + p.T @ dout[h, rows] * share(H, G)
                    dk[g, keys] = dk[g, keys] * keep_kv + for_k(D) * ds.T @ q[h, rows] * share(H, G)
                    dq[h, rows] = dq[h, rows] * keep_q + for_q(D) * ds @ k[g, keys]
        return dq, dk, dv

    return fn


def _alone(dout, q, k, v, out, lse, block_q, block_k):
    return tuple(attention_backward(dout, q, k, v)[:3])


flash_backward = Exercise(
    name="flash_backward", signature="flash_backward(dout, q, k, v, out, lse, block_q, block_k)", lesson="12", inputs=_whole,
    reference=_right_flash, outputs=["dq (H, N, D)", "dk (G, S, D)", "dv (G, S, Dv)"],
    wrong=[
        Wrong("delta forgotten", _flash(delta=_none), "dv is right, dq is not. What must a row of ds sum to?"),
        Wrong("delta from each tile alone", _flash(delta=_here), "A tile holds a part of the row. What knows the whole?"),
        Wrong("delta is the plain mean of dp", _flash(delta=lambda p, dp, *_: dp.mean(axis=-1, keepdims=True)),
              "The average worth of a row counts each value by its weight."),
        Wrong("scale forgotten in dq and dk", _flash(for_q=lambda D: 1.0, for_k=lambda D: 1.0),
              "dv is right. By which constant factor are dq and dk off?"),
        Wrong("scale forgotten in dq", _flash(for_q=lambda D: 1.0), "By which constant factor is dq off?"),
        Wrong("scale forgotten in dk", _flash(for_k=lambda D: 1.0), "By which constant factor is dk off?"),
        Wrong("scale twice in dk", _flash(for_k=lambda D: 1 / D), "Is the q that enters dk scaled already?"),
        Wrong("scale forgotten in the scores", _flash(scores=lambda D: 1.0),
              "The lse is that of scaled scores. Are the weights between 0 and 1?"),
        Wrong("normalised within each tile", _flash(weights=lambda s, lse: right_softmax(s)),
              "What does a row of weights sum to over all tiles? What did the forward keep for this?"),
        Wrong("normalised over the given keys", _alone,
              "The rows may have had more keys than are here. Are out and lse, as given, used at all?"),
        Wrong("last tile of keys lost", _flash(short_k=False), "Take S = 7 and block_k = 3: which keys are in no tile?"),
        Wrong("last tile of queries lost", _flash(short_q=False), "Take N = 5 and block_q = 2: which queries are in no tile?"),
        Wrong("dq of the last tile of keys only", _flash(keep_q=False), "How many tiles write into one row of dq?"),
        Wrong("dk and dv of the last tile of queries only", _flash(keep_kv=False), "How many tiles write into one row of dk?"),
        Wrong("dk and dv of the group's last head only", _flash(sum_heads=False),
              "dq is right. How many query heads read one KV head, and what happens to the share of the first of them?"),
        Wrong("dk and dv averaged over the group", _flash(share=lambda H, G: G / H),
              "Two query heads that do the same: is their KV head pushed as hard as by one, or twice as hard?"),
        Wrong("heads tiled, not repeated", _flash(kv_head=lambda h, H, G: h % G),
              "Which KV head does query head 1 read when H = 4 and G = 2?"),
        Wrong("the sign turned in dq and dk", _flash(for_q=lambda D: -(D**-0.5), for_k=lambda D: -(D**-0.5)),
              "A key whose dp is above delta: when its score grows, does the loss?"),
    ],
)  # fmt: skip
