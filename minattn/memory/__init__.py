"""Beyond the window: caches in pages, and memories of what has gone by."""
from .infini import InfiniState, infini_attention
from .paged import PagedCache

__all__ = ["InfiniState", "PagedCache", "infini_attention"]
