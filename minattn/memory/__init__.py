"""Beyond the window: caches in pages, and memories of what has gone by."""
from .infini import InfiniState, infini_attention
from .paged import PagedCache
from .transformer_xl import XLWeights, transformer_xl_attention, transformer_xl_attention_backward

__all__ = [
    "InfiniState", "PagedCache", "XLWeights", "infini_attention",
    "transformer_xl_attention", "transformer_xl_attention_backward",
]  # fmt: skip
