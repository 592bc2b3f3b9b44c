"""What a layer does to each token by itself: gates, a norm of rows, and a norm for each head.

    sigmoid(x)   1 / (1 + exp(-x)), between 0 and 1       silu(x)   x sigmoid(x), also called swish
    softplus(x)  log(1 + exp(x)), above 0
    rms_norm     a row of E numbers divided by its root mean square: Zhang and Sennrich 2019, arXiv:1910.07467
    head_norm    each head's D numbers less their mean, divided by their standard deviation

With as many groups as heads, group norm (Wu and He 2018, arXiv:1803.08494) applied to one token is a layer norm of each head
alone. It takes away the scale of what a head reads, so mechanisms without a softmax need no normaliser of their own.
"""
import numpy as np


def sigmoid(x):
    """1 / (1 + exp(-x)), written with tanh, which overflows nowhere."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def silu(x):
    """x sigmoid(x)."""
    return x * sigmoid(x)


def softplus(x):
    """log(1 + exp(x)), with exp of what is never above 0: exp(x) far below 0, x itself far above."""
    return np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))


def rms_norm(x, weight, eps):
    """Each row of (..., E) divided by its root mean square, then scaled channel by channel."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def head_norm(x, eps):
    """(..., H, N, D): each row of D numbers with mean 0 and, but for eps, variance 1."""
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
