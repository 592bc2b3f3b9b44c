"""Beyond the window: caches in pages, and memories of what has gone by."""
from .compressive import CompressiveMemory, compress, compress_backward, reconstruction_loss
from .infini import InfiniState, infini_attention, infini_attention_backward
from .memorizing import ExternalMemory, memorizing_attention, memorizing_attention_backward
from .paged import PagedCache
from .quantized import QuantizedCache
from .streaming import streaming_attention
from .trace import Shares, cache_waste
from .transformer_xl import XLWeights, transformer_xl_attention, transformer_xl_attention_backward

__all__ = [
    "CompressiveMemory", "ExternalMemory", "InfiniState", "PagedCache", "QuantizedCache", "Shares", "XLWeights",
    "cache_waste", "compress", "compress_backward",
    "infini_attention", "infini_attention_backward", "memorizing_attention", "memorizing_attention_backward",
    "reconstruction_loss", "streaming_attention", "transformer_xl_attention", "transformer_xl_attention_backward",
]  # fmt: skip
