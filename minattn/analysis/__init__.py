"""Looking at what mechanisms do: the maps that they imply, and what it costs a trained model to have others instead of its own.

    implied.py     implied_weights: the (N, S) matrix of any mechanism that is linear in its values
    swaps.py       perplexity, token_losses, and swap_costs of a model whose attention is replaced
"""
from .implied import implied_weights
from .swaps import SwapCost, perplexity, swap_costs, token_losses

__all__ = ["SwapCost", "implied_weights", "perplexity", "swap_costs", "token_losses"]
