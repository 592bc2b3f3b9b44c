"""Random features: the exponential of an inner product as the mean of products, one factor from each side.

Choromanski et al. 2021, "Rethinking Attention with Performers", arXiv:2009.14794, sections 2.3 and 2.4.

    D   numbers of x and of y       m  directions      w   the directions, (m, D), each drawn from N(0, I)

    positive        phi(x) = m^(-1/2) exp(-|x|^2 / 2) [exp(w . x)]                                 Lemma 1
    hyperbolic      phi(x) = (2m)^(-1/2) exp(-|x|^2 / 2) [exp(w . x), exp(-w . x)]                 Lemma 1
    trigonometric   phi(x) = m^(-1/2) exp(|x|^2 / 2) [cos(w . x), sin(w . x)]                      section 2.3

For each of them E[phi(x) . phi(y)] = exp(x . y): completing the square, E[exp(w . (x + y))] = exp(|x + y|^2 / 2). What is
left is the variance. With z = |x + y|^2 and directions drawn one by one, the mean squared error is (Lemma 2)

    positive        exp(z + 2 x.y) (1 - exp(-z)) / m              small where exp(x . y) is small
    hyperbolic      exp(z + 2 x.y) (1 - exp(-z))^2 / 2m           for twice the features
    trigonometric   exp(z - 2 x.y) (1 - exp(-|x - y|^2))^2 / 2m   large where exp(x . y) is small; may estimate it below 0

Directions at right angles to each other lower all three: section 2.4 proves it for the positive ones, the tests measure it.
"""
import numpy as np

from ..core.errors import OptionError, ShapeError
from ..core.shapes import count, floats, spell, working_type

KINDS = "positive", "trigonometric", "hyperbolic"


def random_projection(features, dim, *, orthogonal=True, seed):
    """Random directions, each a draw from N(0, I); orthogonal ones stand at right angles, up to `dim` of them at a time.

    Parameters
    ----------
    features, dim : int
        m and D: how many directions, and how many numbers each.
    orthogonal : bool
        False draws each direction without regard to the others. True keeps their lengths and turns them.
    seed : int
        The same seed gives the same directions.

    Returns
    -------
    w : array, (m, D)

    References
    ----------
    Choromanski et al. 2021, arXiv:2009.14794, section 2.4.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> w = ma.random_projection(4, 3, seed=0)                        # three at right angles, then the next block
    >>> np.round(w @ w.T, 2) + 0.0
    array([[ 0.44,  0.  ,  0.  , -0.85],
           [ 0.  ,  0.43,  0.  , -0.38],
           [ 0.  ,  0.  ,  3.09, -0.18],
           [-0.85, -0.38, -0.18,  1.99]])
    """
    features, dim = count("features", features, 1), count("dim", dim, 1)
    rng = np.random.default_rng(count("seed", seed, 0))
    w = rng.standard_normal((features, dim))
    if not orthogonal:
        return w
    turned, r = np.linalg.qr(rng.standard_normal((-(-features // dim), dim, dim)))
    # QR leaves the sign of each column open, and LAPACK's choice is not random: the features would be biased
    turned *= np.sign(np.diagonal(r, axis1=-2, axis2=-1))[:, None, :]
    directions = turned.swapaxes(-1, -2).reshape(-1, dim)[:features]
    return np.linalg.norm(w, axis=-1, keepdims=True) * directions


def random_features(x, w, kind="positive"):
    """phi(x), for which phi(x) . phi(y) is exp(x . y) in the mean over the directions w.

    Parameters
    ----------
    x : array, (..., D)
        Queries or keys, already times D^(-1/4) where the score is to be scaled.
    w : array, (m, D)
        As `random_projection` draws them.
    kind : {"positive", "trigonometric", "hyperbolic"}

    Returns
    -------
    phi : array, (..., m) for "positive", (..., 2m) for the others
        float32 or better.

    Raises
    ------
    ShapeError
        If x and w disagree in D.
    OptionError
        If kind is none of the three.

    References
    ----------
    Choromanski et al. 2021, arXiv:2009.14794, Lemma 1 and section 2.3.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> x, y = np.array([0.3, -0.4]), np.array([0.5, 0.2])
    >>> w = ma.random_projection(100_000, 2, seed=0)
    >>> np.round([ma.random_features(x, w) @ ma.random_features(y, w), np.exp(x @ y)], 2)
    array([1.08, 1.07])
    """
    x = floats("x", x)
    x = x.astype(working_type(x.dtype), copy=False)
    exponent, factor = exponents(x, directions("w", w, "x", x).astype(x.dtype, copy=False), kind)
    with np.errstate(invalid="ignore", over="ignore"):
        return factor * np.exp(exponent)


@np.errstate(invalid="ignore", over="ignore")                                      # NaN and inf that are given go through
def exponents(x, w, kind):
    """phi(x) as factor * exp(exponent), each (..., 1) or (..., width): whoever has to tame exp can do it in between."""
    m, along, half = len(w), x @ w.T, (x**2).sum(axis=-1, keepdims=True) / 2
    if kind == "positive":
        return along - half, m**-0.5
    if kind == "hyperbolic":
        return np.concatenate([along, -along], axis=-1) - half, (2 * m) ** -0.5
    if kind == "trigonometric":
        return half, m**-0.5 * np.concatenate([np.cos(along), np.sin(along)], axis=-1)
    raise OptionError(f"kind is {kind!r}; it must be one of {', '.join(map(repr, KINDS))}")


@np.errstate(invalid="ignore", over="ignore")                                      # NaN and inf that are given go through
def through_features(x, w, kind, phi, dphi):
    """The gradient of x from that of phi(x); phi may carry any factor of its own, and dphi then is with respect to that."""
    m, slope = len(w), phi * dphi                                                  # of the exponents
    if kind == "positive":
        along, half = slope, -slope
    elif kind == "hyperbolic":
        along, half = slope[..., :m] - slope[..., m:], -slope
    else:                                                                          # cos' = -sin, sin' = cos
        along, half = phi[..., :m] * dphi[..., m:] - phi[..., m:] * dphi[..., :m], slope
    return along @ w + half.sum(axis=-1, keepdims=True) * x


def directions(w_name, w, x_name, x):
    """w as an array (m, D) for x (..., D); errors call them by the names that the caller gave them."""
    w = floats(w_name, w)
    if w.ndim != 2 or not x.ndim or w.shape[1] != x.shape[-1] or not len(w):
        shown = f"{spell(w_name, w.shape, 'mD' if w.ndim == 2 else '')} but {spell(x_name, x.shape, 'D'[: x.ndim])}"
        raise ShapeError(f"{shown}; directions must be (m, D), at least one and each as wide as {x_name}")
    return w
