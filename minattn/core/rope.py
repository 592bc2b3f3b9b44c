"""RoPE: rotate each pair of channels of a query or key by an angle that grows with its position.

Su et al. 2021, "RoFormer", arXiv:2104.09864, eqs (14) to (16) and (34). Frequency scaling: Llama 3.1, arXiv:2407.21783.

    D   head dim            R   how many channels of it are rotated (all, unless rotary_dim says fewer)
    m   position            f_p = theta^(-2p / R)   frequency of pair p, p = 0 .. R/2 - 1

    (a, b) -> (a cos(m f_p) - b sin(m f_p),  a sin(m f_p) + b cos(m f_p))

A rotation keeps lengths, and <R_m q, R_n k> depends on q, k and m - n alone: that is the whole point. Which channels form
a pair is a matter of layout, and the two layouts in use are not interchangeable: "interleaved" pairs (2p, 2p + 1), as the
paper and GGUF files do; "half" pairs (p, p + R/2), as Hugging Face checkpoints do. So it is always spelled out.
"""
from typing import NamedTuple

import numpy as np

from .errors import OptionError, PositionError, ShapeError
from .shapes import as_array, count, floats, number, working_type


class Llama3Scaling(NamedTuple):
    """Llama 3.1's stretch of RoPE beyond the length it was first trained on.

    A frequency whose wavelength exceeds `original_length / low_freq_factor` tokens is divided by `factor`; below
    `original_length / high_freq_factor` it is kept; in between the two are blended linearly.
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192

    def __call__(self, frequencies):
        turns = self.original_length * frequencies / (2 * np.pi)      # how often a pair turns within the original length
        keep = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0, 1)
        return frequencies * (keep + (1 - keep) / self.factor)


def rope_frequencies(rotary_dim, theta=10_000.0, scaling=None):
    """Radians per position of each pair, (R / 2,), from fast to slow."""
    theta = number("theta", theta)
    if theta <= 0:
        raise OptionError(f"theta = {theta}; it must be above 0")
    if scaling is not None and not callable(scaling):
        raise OptionError(f"scaling is {type(scaling).__name__}; it must be a function of the frequencies, or Llama3Scaling()")
    frequencies = theta ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    return frequencies if scaling is None else scaling(frequencies)


def pairs_of(layout, rotary_dim):
    """The two halves of every pair, as two slices of the channel axis."""
    if layout == "half":
        return np.s_[..., : rotary_dim // 2], np.s_[..., rotary_dim // 2 : rotary_dim]
    if layout == "interleaved":
        return np.s_[..., 0:rotary_dim:2], np.s_[..., 1:rotary_dim:2]
    raise OptionError(f'layout is {layout!r}; it must be "half" (Hugging Face) or "interleaved" (the paper, GGUF)')


def rope(x, positions, *, layout, theta=10_000.0, rotary_dim=None, scaling=None):
    """Queries or keys, rotated to their positions.

    Parameters
    ----------
    x : array, (..., H, N, D) or (N, D)
    positions : integer array, (N,) or (..., N)
        Shared by all rows, or one line of positions for each of the axes before the heads.
    layout : {"half", "interleaved"}
        Which channels form a pair; required, because the wrong one still looks plausible.
    theta : float
        Base of the frequencies.
    rotary_dim : int, optional
        Rotate only the first so many channels (even, at most D); the others pass through.
    scaling : callable, optional
        Frequencies in, frequencies out, such as `Llama3Scaling()`.

    Returns
    -------
    array of x's shape and type

    Raises
    ------
    OptionError
        For an unknown layout, or a rotary_dim that is odd or above D.
    PositionError
        For positions that are not integers.
    ShapeError
        If positions and x disagree in N or in the leading axes.

    References
    ----------
    Su et al. 2021, arXiv:2104.09864, eqs (14) to (16) and (34).

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> q = np.array([[1.0, 0.0, 1.0, 0.0]] * 2)                      # N = 2, D = 4
    >>> ma.rope(q, np.array([0, 1]), layout="interleaved").round(2)
    array([[1.  , 0.  , 1.  , 0.  ],
           [0.54, 0.84, 1.  , 0.01]])
    """
    x, positions = floats("x", x), as_array("positions", positions)
    if x.ndim < 2:
        raise ShapeError(f"x is {x.shape}; it must be (..., H, N, D) or (N, D)")
    rotary_dim = x.shape[-1] if rotary_dim is None else count("rotary_dim", rotary_dim, 0)
    if rotary_dim % 2 or not 0 < rotary_dim <= x.shape[-1]:
        raise OptionError(f"rotary_dim = {rotary_dim}; it must be even and between 2 and D = {x.shape[-1]}")
    first, second = pairs_of(layout, rotary_dim)
    if positions.dtype.kind not in "iu":
        raise PositionError(f"positions are {positions.dtype}; they must be integers")
    if positions.ndim < 1 or positions.ndim not in (1, x.ndim - 2) or positions.shape[-1] != x.shape[-2]:
        raise ShapeError(f"positions are {positions.shape} but x is {x.shape}; they must be (N,) or (..., N), N = {x.shape[-2]}")
    if positions.ndim > 1:
        if any(given not in (1, size) for given, size in zip(positions.shape, x.shape[:-3], strict=False)):
            raise ShapeError(f"positions are {positions.shape} but x is {x.shape}; their axes before N must be x's before H")
        positions = positions[..., None, :]                           # the same for every head

    # the angles in float64: at position 100,000 float32 would be off by a hundredth of a radian
    angle = positions[..., None] * rope_frequencies(rotary_dim, theta, scaling)           # (..., N, R / 2)
    cos, sin = (f(angle).astype(working_type(x.dtype)) for f in (np.cos, np.sin))
    out = x.copy()
    out[first] = x[first] * cos - x[second] * sin
    out[second] = x[first] * sin + x[second] * cos
    return out


class RopeGrads(NamedTuple):
    """What `rope_backward` returns."""

    dx: np.ndarray


def rope_backward(dout, x, positions, *, layout, theta=10_000.0, rotary_dim=None, scaling=None):
    """Gradient of `rope` with respect to x, as RopeGrads(dx): the transpose of a rotation is the rotation back.

    Raises
    ------
    ShapeError
        If dout is not of x's shape; and whatever `rope` raises.
    """
    if np.shape(dout) != np.shape(x):
        raise ShapeError(f"dout is {np.shape(dout)} but x is {np.shape(x)}; they must have the same (..., N, D)")
    back = lambda f: -f if scaling is None else -scaling(f)  # noqa: E731
    return RopeGrads(rope(dout, positions, layout=layout, theta=theta, rotary_dim=rotary_dim, scaling=back))


def change_layout(w, heads, *, to):
    """Query or key weights (E, heads * D) of one RoPE layout, with their columns ordered for the other.

    `rope(x @ w, layout="interleaved")` and `rope(x @ change_layout(w, heads, to="half"), layout="half")` give the same
    scores: within each head the even columns move to the first half and the odd ones to the second, or back.

    Examples
    --------
    >>> import numpy as np
    >>> from minattn.core.rope import change_layout
    >>> change_layout(np.arange(6.0)[None], 1, to="half")
    array([[0., 2., 4., 1., 3., 5.]])
    """
    w = np.asarray(w)
    if w.shape[-1] % (2 * heads):
        raise ShapeError(f"w has E_out = {w.shape[-1]}, which does not split into H = {heads} heads of an even D")
    dim = w.shape[-1] // heads
    order = np.empty(dim, dtype=int)
    first, second = pairs_of("interleaved", dim)
    order[: dim // 2], order[dim // 2 :] = np.arange(dim)[first], np.arange(dim)[second]
    if to == "interleaved":
        order = np.argsort(order)
    elif to != "half":
        pairs_of(to, dim)
    return w.reshape(*w.shape[:-1], heads, dim)[..., order].reshape(w.shape)
