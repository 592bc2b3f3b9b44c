"""Bugs of a KV cache: with the cache and without it, the same tokens should give the same outputs.

    q, k (..., N, D)   v (..., N, Dv)    the N new tokens, before RoPE (layout "half"); earlier ones are in the cache
    cache              what the last call returned, None at the start: (keys, values, number of tokens)

Users meet all of these as one symptom, cache on and cache off disagree: lucidrains/x-transformers #219 and #311,
rasbt/LLMs-from-scratch #1013. The threads below each name a cause.
"""
import numpy as np

from ...attention import attention
from ...core.rope import rope
from .family import Bug, Family


def joined(k, v, cache):
    """Keys and values, those of the cache first."""
    if cache is None:
        return k, v
    return np.concatenate([cache[0], k], axis=-2), np.concatenate([cache[1], v], axis=-2)


def tokens(cache):
    return 0 if cache is None else cache[2]


def right(q, k, v, cache=None):
    N = q.shape[-2]
    positions = tokens(cache) + np.arange(N)
    q, k = rope(q, positions, layout="half"), rope(k, positions, layout="half")
    k, v = joined(k, v, cache)
    return attention(q, k, v, causal=True), (k, v, tokens(cache) + N)


def from_zero(q, k, v, cache=None):
    N = q.shape[-2]
    positions = np.arange(N)
    q, k = rope(q, positions, layout="half"), rope(k, positions, layout="half")
    k, v = joined(k, v, cache)
    return attention(q, k, v, causal=True), (k, v, tokens(cache) + N)


def prompt_twice(q, k, v, cache=None):
    N = q.shape[-2]
    positions = tokens(cache) + np.arange(N)
    q, k = rope(q, positions, layout="half"), rope(k, positions, layout="half")
    k, v = joined(k, v, cache)
    return attention(q, k, v, causal=True), (k, v, tokens(cache) + (2 * N if cache is None else N))


def top_left(q, k, v, cache=None):
    N = q.shape[-2]
    positions = tokens(cache) + np.arange(N)
    q, k = rope(q, positions, layout="half"), rope(k, positions, layout="half")
    k, v = joined(k, v, cache)
    return attention(q, k, v, mask=np.tril(np.ones((N, k.shape[-2]), bool))), (k, v, tokens(cache) + N)


def no_mask(q, k, v, cache=None):
    N = q.shape[-2]
    positions = tokens(cache) + np.arange(N)
    q, k = rope(q, positions, layout="half"), rope(k, positions, layout="half")
    k, v = joined(k, v, cache)
    return attention(q, k, v, causal=N >= k.shape[-2]), (k, v, tokens(cache) + N)


kv_cache = Family(
    name="kv_cache", signature="kv_cache(q, k, v, cache=None)", lesson="07", right=right,
    bugs=(
        Bug("positions start again at 0", from_zero, "Every call rotates its tokens as if they were the first.",
            "How far apart are the last token of one call and the first of the next?",
            "pytorch/executorch #2010, time-series-foundation-models/lag-llama #81"),
        Bug("the prompt counted twice", prompt_twice, "Behind a prompt of 6 tokens the next one stands at position 12.",
            "At which position does the token after the prompt stand?", "skyzh/tiny-llm #46"),
        Bug("causal from the top left", top_left, "A new token sees the oldest key, and no other.",
            "In the second call, how many keys should the first new token see?",
            "lucidrains/x-transformers #187, time-series-foundation-models/lag-llama #81"),
        Bug("no mask behind a cache", no_mask,
            "A workaround that the thread proposes: right for one new token; of several, the first see the later ones.",
            "How many tokens do your later calls bring?", "lucidrains/x-transformers #187"),
    ),
)  # fmt: skip
