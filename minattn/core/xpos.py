"""xPos: RoPE whose scores also fade with distance, each pair of channels at a rate of its own.

Sun et al. 2022, "A Length-Extrapolatable Transformer", arXiv:2212.10554, Algorithm 1.

    D   head dim            p   a pair of channels, 0 .. D/2 - 1            m, n   positions of a query and of a key
    f_p   frequency of a pair, as in RoPE                g_p   log decay of a pair per position, at most 0

    query (a, b)_p -> exp( g_p m) times the pair turned by m f_p
    key   (a, b)_p -> exp(-g_p n) times the pair turned by n f_p

so that the part of <q, k> that pair p adds is exp(g_p (m - n)) of what RoPE makes of it. The paper's rates are
g_p = log((2p / D + 0.4) / 1.4) / 512: the fast pairs, whose angles say nothing at a distance, fade first.

With one rate for all pairs of a head this is RetNet's position scheme (Sun et al. 2023, arXiv:2307.08621, section 2.1): the
common factor exp(g (m - n)) can then be left to the decay of the state, and only the rotation stays in q and k. Keys grow
with exp(-g n) here, which overflows far from 0, and there it cannot. Only distances count: shift all positions to be near 0.
"""
import numpy as np

from .errors import DecayError, OptionError, ShapeError
from .rope import pairs_of, rope, rope_backward
from .shapes import floats, integers, working_type

SIGN = {"query": 1, "key": -1}


def xpos_decay(dim, *, gamma=0.4, scale_base=512):
    """The paper's log decay of each pair, (D / 2,), from the fastest pair to the slowest.

    Examples
    --------
    >>> from minattn.core.xpos import xpos_decay
    >>> (512 * xpos_decay(4)).round(2)
    array([-1.25, -0.44])
    """
    pair = np.arange(0, dim, 2) / dim
    return np.log((pair + gamma) / (1 + gamma)) / scale_base


def xpos(x, positions, *, role, layout, theta=10_000.0, log_decay=None):
    """Queries or keys, rotated to their positions as by `rope`, and scaled so that scores fade with distance.

    Parameters
    ----------
    x : array, (..., H, N, D) or (N, D)
    positions : integer array, (N,) or (..., N)
    role : {"query", "key"}
        Queries shrink with their position and keys grow.
    layout, theta
        As for `rope`.
    log_decay : float or array (D / 2,), optional
        Natural log of the decay per position, of all pairs or of each; the paper's without it.

    Returns
    -------
    array of x's shape and type

    Raises
    ------
    OptionError
        If role is neither, and whatever `rope` raises.
    DecayError
        If a log decay is positive or not finite.
    ShapeError
        If log_decay is neither one number nor one for each pair.

    References
    ----------
    Sun et al. 2022, arXiv:2212.10554, Algorithm 1.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q = k = np.ones((3, 2)); at = np.arange(3)                                # N = 3, one pair
    >>> turn, fade = {"layout": "half", "theta": 1.0}, np.log(0.5)
    >>> scores = ma.xpos(q, at, role="query", log_decay=fade, **turn) @ ma.xpos(k, at, role="key", log_decay=fade, **turn).T
    >>> np.allclose(np.tril(scores), np.tril(ma.rope(q, at, **turn) @ ma.rope(k, at, **turn).T) * 0.5 ** (at[:, None] - at))
    True
    """
    turned = rope(x, positions, layout=layout, theta=theta)
    return (turned * _fade(turned, positions, role, layout, log_decay)).astype(turned.dtype, copy=False)


def xpos_backward(dout, x, positions, *, role, layout, theta=10_000.0, log_decay=None):
    """Gradient of `xpos` with respect to x, as RopeGrads(dx): the same factors, then the rotation back.

    Raises
    ------
    ShapeError
        If dout is not of x's shape; and whatever `xpos` raises.
    """
    straight = floats("dout", dout)
    if straight.shape != np.shape(x):
        raise ShapeError(f"dout is {straight.shape} but x is {np.shape(x)}; they must have the same (..., N, D)")
    faded = straight * _fade(straight, positions, role, layout, log_decay)
    return rope_backward(faded.astype(straight.dtype, copy=False), x, positions, layout=layout, theta=theta)


def _fade(x, positions, role, layout, log_decay):
    """What each number of x is multiplied by, (..., N, D)."""
    if not isinstance(role, str) or role not in SIGN:
        raise OptionError(f'role is {role!r}; it must be "query" or "key"')
    D, positions = x.shape[-1], integers("positions", positions)
    g = xpos_decay(D) if log_decay is None else floats("log_decay", log_decay)
    if g.shape not in ((), (D // 2,)):
        raise ShapeError(f"log_decay is {g.shape} but x has D = {D}; it must be one number, or (D / 2,) = ({D // 2},)")
    if not (np.isfinite(g) & (g <= 0)).all():
        raise DecayError(f"log_decay is {g}; each must be finite and at most 0 (0 keeps everything)")
    at = positions[..., None, :, None] if positions.ndim > 1 else positions[:, None]
    factor = np.exp(SIGN[role] * np.broadcast_to(g, D // 2) * at)                 # (..., N, D / 2), in float64 as the angles are
    fade = np.empty((*factor.shape[:-1], D), working_type(x.dtype))
    for half in pairs_of(layout, D):
        fade[half] = factor
    return fade
