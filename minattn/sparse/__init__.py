"""Sparse attention: fewer keys for each query. Which keys, a mask says (`masks.strided` and its kin); here is what needs more.

    hops.py          reach: which tokens can influence which, after so many layers
    topk.py          each query keeps its largest scores
    factorized.py    strided and fixed attention as parts of the same kernel, joined by `merge`
    parts.py         how such parts are computed and joined
"""
from .factorized import fixed_attention, fixed_attention_backward, strided_attention, strided_attention_backward
from .hops import reach
from .parts import SparseGrads
from .topk import topk_attention, topk_attention_backward

__all__ = [
    "SparseGrads", "fixed_attention", "fixed_attention_backward", "reach", "strided_attention", "strided_attention_backward",
    "topk_attention", "topk_attention_backward",
]  # fmt: skip
