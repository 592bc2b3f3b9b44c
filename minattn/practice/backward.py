"""The backward pass tile by tile, with the log-sum-exp: one tile, and all of them.

    p   (H, N, S)  weights          dX     gradient of the loss with respect to X, of X's shape
    s   (H, N, S)  scaled scores    delta  (H, N), rowsum(p * dp) = rowsum(dout * out)

    dv = p^T dout     dp = dout v^T     ds = p * (dp - delta)     dq = ds k / sqrt(D)     dk = ds^T q / sqrt(D)

Where `out` and `lse` are given they may belong to rows with more keys than are there: only what was kept says so.
"""
import numpy as np

from ..attention import attention, attention_backward, attention_weights
from ..core.softmax import softmax
from .exercise import Exercise, Wrong


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
        Wrong("normalised over the tile", _tile(weights=lambda s, lse: softmax(s)),
              "The rows had more keys than are here. May the weights of the tile sum to 1?"),
        Wrong("normalised over the tile, delta from it too", _tile(weights=lambda s, lse: softmax(s), delta=_here),
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
        Wrong("normalised within each tile", _flash(weights=lambda s, lse: softmax(s)),
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
