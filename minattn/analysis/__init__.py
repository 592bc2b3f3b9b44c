"""Looking at what mechanisms do: the maps that they imply, and what it costs a trained model to have others instead of its own.

    implied.py     implied_weights: the (N, S) matrix of any mechanism that is linear in its values
    swaps.py       perplexity, token_losses, and swap_costs of a model whose attention is replaced
    streaming.py   streaming_losses of a text longer than what is kept of it, and perplexity_by_position
    needle.py      needle_recall: how far back each mechanism finds one token, and what it holds for that
"""
from .implied import implied_weights
from .needle import needle_recall
from .streaming import perplexity_by_position, streaming_losses
from .swaps import SwapCost, perplexity, swap_costs, token_losses

__all__ = [
    "SwapCost", "implied_weights", "needle_recall", "perplexity", "perplexity_by_position", "streaming_losses", "swap_costs",
    "token_losses",
]  # fmt: skip
