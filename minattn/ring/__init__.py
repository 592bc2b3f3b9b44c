"""Ring attention: one attention over many machines, each of which holds its share of the tokens."""
from .local import Hop, RingGrads, ring_attention, ring_attention_backward
from .shares import shares

__all__ = ["Hop", "RingGrads", "ring_attention", "ring_attention_backward", "shares"]
