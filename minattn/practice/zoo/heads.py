"""Bugs of heads: how they are split, which share keys, and which channels RoPE rotates together.

    q (..., N, H D)   k (..., S, G D)   v (..., S, G Dv)    heads = H query heads side by side, kv_heads = G
    x (..., N, D)     positions (N,)    layout "half" or "interleaved"
"""
import numpy as np

from ...attention import attention
from ...core.projection import merge_heads, repeat_kv, split_heads
from ...core.rope import rope as rotated
from .family import Bug, Family


def right(q, k, v, heads, kv_heads):
    q, k, v = split_heads(q, heads), split_heads(k, kv_heads), split_heads(v, kv_heads)
    return merge_heads(attention(q, repeat_kv(k, heads // kv_heads), repeat_kv(v, heads // kv_heads)))


def reshaped(q, k, v, heads, kv_heads):
    def cut(x, parts):
        return x.reshape(*x.shape[:-2], parts, x.shape[-2], x.shape[-1] // parts)

    q, k, v = cut(q, heads), cut(k, kv_heads), cut(v, kv_heads)
    out = attention(q, repeat_kv(k, heads // kv_heads), repeat_kv(v, heads // kv_heads))
    return out.reshape(*out.shape[:-3], out.shape[-2], heads * out.shape[-1])


def tiled(q, k, v, heads, kv_heads):
    q, k, v = split_heads(q, heads), split_heads(k, kv_heads), split_heads(v, kv_heads)
    k, v = (np.concatenate([x] * (heads // kv_heads), axis=-3) for x in (k, v))
    return merge_heads(attention(q, k, v))


heads = Family(
    name="heads", signature="heads(q, k, v, heads, kv_heads)", lesson="08", right=right,
    bugs=(
        Bug("heads by reshape without transpose", reshaped, "With more than one head, tokens are mixed up with heads.",
            "Which token do the numbers of one head come from? With one head, or one token, nothing can be mixed up.",
            "reczoo/FuxiCTR #30"),
        Bug("shared heads by tile", tiled, "Query heads read the keys of another group.",
            "Query heads 0 and 1 of four share a key head out of two. For which H and G is there only one way to share?",
            "onnx/onnx #7274, ekzhang/jax-js #180"),
    ),
)  # fmt: skip


def turned(x, positions, layout):
    return rotated(x, positions, layout=layout)


def one_layout(x, positions, layout):
    return rotated(x, positions, layout="half")


rope = Family(
    name="rope", signature="rope(x, positions, layout)", lesson="06", right=turned,
    bugs=(
        Bug("one layout for both names", one_layout,
            "Weights made for the other layout load without a word, and the wrong channels are turned together.",
            "Lengths are kept, and scores depend on the distance alone, in either layout. What tells the two apart?",
            "huggingface/transformers #25199"),
    ),
)  # fmt: skip
