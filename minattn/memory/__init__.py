"""Beyond the window: caches in pages, and memories of what has gone by."""
from .paged import PagedCache

__all__ = ["PagedCache"]
