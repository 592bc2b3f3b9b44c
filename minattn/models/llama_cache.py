"""What a Llama keeps of the tokens that it has seen: one cache a layer, up to a capacity or rolling on for ever.

A rolling one is StreamingLLM's (Xiao et al. 2023, arXiv:2309.17453): the first tokens and the latest, numbered inside the
cache. While it fills up, many tokens can come at once. From then on each token finds a cache of its own, so they are cut
into pieces of one.
"""
import contextlib

import numpy as np

from ..core.cache import KVCache, RollingCache
from ..core.errors import CacheError, OptionError


class LlamaCache(list):
    """One `KVCache`, or `RollingCache`, a layer; all of them hold the same tokens."""

    @classmethod
    def of(cls, config, batch, capacity, window, first, dtype):
        """Empty, as `Llama.new_cache` describes it."""
        sizes = {"head_dim": config.head_dim, "dtype": dtype}
        if window is None:
            capacity = config.context if capacity is None else capacity
            return cls(KVCache(batch, config.kv_heads, capacity, **sizes) for _ in range(config.layers))
        if capacity is not None:
            raise OptionError(f"capacity = {capacity} and window = {window}: a cache holds all up to a capacity, or a window")
        return cls(RollingCache(batch, config.kv_heads, window, first=first, **sizes) for _ in range(config.layers))

    @property
    def lengths(self):
        """Tokens that each row was given, (B,)."""
        return self[0].lengths

    @property
    def capacity(self):
        """Tokens that a row can be given; None for a rolling cache, which takes any number."""
        return getattr(self[0], "capacity", None)

    @property
    def nbytes(self):
        """Bytes of all keys and values."""
        return sum(layer.nbytes for layer in self)

    @property
    def rolling(self):
        """Whether old tokens leave it."""
        return not self[0].stores_rotated

    def reset(self, row=None):
        """Forget one row, or all of them."""
        for layer in self:
            layer.reset(row)

    @contextlib.contextmanager
    def all_or_none(self):
        """What is appended meanwhile stays, or goes again where something fails."""
        saved = [dict(vars(layer)) for layer in self]                 # append makes new arrays, or writes behind the lengths
        try:
            yield
        except BaseException:
            for layer, before in zip(self, saved, strict=True):
                vars(layer).update(before)
            raise

    def room(self):
        """Tokens that can come at once: for a rolling cache as many as it still takes without letting go, or one."""
        return max(self[0].first + self[0].window - int(self.lengths.max()), 1) if self.rolling else None


def in_pieces(model, ids, lengths, cache, return_weights):
    """`model.hidden` for more tokens than a rolling cache has room for; all of them are taken, or none."""
    room, N = cache.room(), ids.shape[-1]
    if return_weights:
        raise CacheError(
            f"{N} tokens came where a rolling cache has room for {room} at once; the others go one by one, each with keys of "
            f"its own, so there is no one map: ask for weights with {room} at most"
        )
    ends, made = [room, *range(room + 1, N + 1)], []
    with cache.all_or_none():
        for start, end in zip([0, *ends], ends, strict=False):
            real = None if lengths is None else np.clip(lengths, start, end) - start
            made.append(model.hidden(ids[..., start:end], lengths=real, cache=cache)[0])
    return np.concatenate(made, axis=-2), None
