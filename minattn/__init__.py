"""minattn: every attention mechanism as a small readable NumPy module.

    import minattn as ma
    out = ma.attention(q, k, v, causal=True)          # (..., H, N, D) with k, v (..., G, S, D)

Arrays are `(..., heads, length, head_dim)`; True in a mask means "may attend"; positions are data.
The rooms `minattn.models` (real trained transformers), `minattn.plot` (pictures), `minattn.practice` (exercises;
`minattn.check` names them), `minattn.sparse` (fewer keys for each query), `minattn.linear` (a state of constant size in
place of keys) and `minattn.analysis` (the maps that mechanisms imply) load when first used, so importing minattn costs little
more than importing NumPy.
"""
import importlib

from .attention import Grads, attention, attention_backward, attention_weights, merge, steps
from .core import errors, masks, positions
from .core.cache import KVCache, RollingCache
from .core.errors import MinattnError
from .core.masks import Mask
from .core.projection import merge_heads, project_qkv, repeat_kv, split_heads
from .core.reference import Steps
from .core.rope import rope
from .core.softmax import logsumexp, softmax
from .core.xpos import xpos
from .multihead import MultiHeadAttention

__version__ = "0.1.0"
__all__ = [
    "CompressiveMemory", "ExternalMemory", "Grads", "InfiniState", "KVCache", "Mamba2Weights", "MambaWeights", "Mask",
    "MinattnError", "MultiHeadAttention", "PagedCache", "QuantizedCache", "RWKV7Weights", "RetNetWeights", "RollingCache",
    "SparseGrads",
    "Steps", "SwapCost", "XLWeights", "analysis", "attention", "attention_backward", "attention_weights", "cache_waste", "check",
    "delta_rule", "delta_rule_backward", "errors", "fixed_attention", "fixed_attention_backward", "gated_linear_attention",
    "gated_linear_attention_backward", "implied_weights", "infini_attention", "infini_attention_backward", "linear_attention",
    "linear_attention_backward", "linformer_attention", "linformer_attention_backward", "logsumexp", "mamba2_block",
    "mamba_block", "masks", "memorizing_attention", "memorizing_attention_backward", "merge", "merge_heads", "models",
    "needle_recall", "performer_attention", "performer_attention_backward", "perplexity", "perplexity_by_position", "plot",
    "positions", "practice", "project_qkv", "random_features", "random_projection", "reach", "recurrence",
    "recurrence_backward", "repeat_kv", "retention", "retention_backward", "retnet_block", "ring_attention",
    "ring_attention_backward", "rope", "rwkv7", "rwkv7_backward", "rwkv7_block", "segment_sum", "selective_scan",
    "selective_scan_backward", "softmax", "sparse", "split_heads", "ssd", "ssd_backward", "steps", "streaming_attention",
    "streaming_losses", "strided_attention", "strided_attention_backward", "swap_costs", "token_losses", "topk_attention",
    "topk_attention_backward", "transformer_xl_attention", "transformer_xl_attention_backward", "xpos",
]  # fmt: skip

_ON_FIRST_USE = {
    "analysis": "analysis", "check": "practice.check", "models": "models", "plot": "plot", "practice": "practice",
    "sparse": "sparse",
}  # fmt: skip
_FUNCTIONS = {
    "SparseGrads": "sparse", "reach": "sparse",
    "fixed_attention": "sparse", "fixed_attention_backward": "sparse",
    "strided_attention": "sparse", "strided_attention_backward": "sparse",
    "topk_attention": "sparse", "topk_attention_backward": "sparse",
    "delta_rule": "linear.delta", "delta_rule_backward": "linear.delta",
    "gated_linear_attention": "linear.gated", "gated_linear_attention_backward": "linear.gated",
    "linear_attention": "linear.linear_attention", "linear_attention_backward": "linear.linear_attention",
    "linformer_attention": "linear.linformer", "linformer_attention_backward": "linear.linformer",
    "performer_attention": "linear.performer", "performer_attention_backward": "linear.performer",
    "random_features": "linear.features", "random_projection": "linear.features",
    "recurrence": "linear.recurrence", "recurrence_backward": "linear.backward",
    "retention": "linear.retention", "retention_backward": "linear.retention",
    "selective_scan": "linear.mamba", "selective_scan_backward": "linear.mamba_backward",
    "ssd": "linear.ssd", "ssd_backward": "linear.ssd", "segment_sum": "linear.ssd",
    "mamba_block": "linear.mamba_block", "MambaWeights": "linear.mamba_block",
    "mamba2_block": "linear.mamba2_block", "Mamba2Weights": "linear.mamba2_block",
    "PagedCache": "memory.paged", "QuantizedCache": "memory.quantized", "cache_waste": "memory.trace",
    "InfiniState": "memory.infini", "infini_attention": "memory.infini",
    "infini_attention_backward": "memory.infini",
    "XLWeights": "memory.transformer_xl", "transformer_xl_attention": "memory.transformer_xl",
    "transformer_xl_attention_backward": "memory.transformer_xl",
    "ExternalMemory": "memory.memorizing", "memorizing_attention": "memory.memorizing",
    "memorizing_attention_backward": "memory.memorizing",
    "streaming_attention": "memory.streaming",
    "perplexity_by_position": "analysis", "streaming_losses": "analysis",
    "CompressiveMemory": "memory.compressive",
    "needle_recall": "analysis",
    "ring_attention": "ring.local", "ring_attention_backward": "ring.local",
    "rwkv7": "linear.rwkv7", "rwkv7_backward": "linear.rwkv7",
    "implied_weights": "analysis", "SwapCost": "analysis", "perplexity": "analysis", "swap_costs": "analysis",
    "token_losses": "analysis",
    "RetNetWeights": "linear.retnet", "retnet_block": "linear.retnet",
    "RWKV7Weights": "linear.rwkv7_block", "rwkv7_block": "linear.rwkv7_block",
}  # fmt: skip


def __getattr__(name):
    if name in _ON_FIRST_USE:
        return importlib.import_module(f"{__name__}.{_ON_FIRST_USE[name]}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"{__name__}.{_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_ON_FIRST_USE, *_FUNCTIONS})
