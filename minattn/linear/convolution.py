"""The short causal convolution before a state: each channel mixes a token with the few before it, on its own.

    x (N, E)  tokens       w (K, E)  weight of each of K taps, the last one for the token itself       bias (E,)

    out_t = bias + w_K x_t + w_{K-1} x_{t-1} + ... + w_1 x_{t-K+1}

A state cannot compare a token with the one before it until that is written; this can. What is left to later calls are the last
K - 1 tokens. In Mamba (Gu and Dao 2023, arXiv:2312.00752, section 3.4) K is 4.
"""
import numpy as np

from ..core.errors import ShapeError
from ..core.shapes import floats


def causal_convolution(x, weight, bias, state):
    """(..., N, E) of each channel's last K tokens, and the last K - 1 tokens, (..., K - 1, E); `state` is those before x."""
    (K, E), N = weight.shape, x.shape[-2]
    before = (*x.shape[:-2], K - 1, E)
    if state is None:
        state = np.zeros(before, x.dtype)
    elif (state := floats("the convolution's state", state)).shape != before:
        raise ShapeError(f"the convolution's state is {state.shape}; it must be (..., K - 1, E) = {before}, tokens before x")
    tokens = np.concatenate([state, x], axis=-2, dtype=x.dtype)
    return bias + sum(weight[k] * tokens[..., k:k + N, :] for k in range(K)), tokens[..., N:, :].copy()
