"""Sinusoids, the learned table, ALiBi."""

import math

import numpy as np
import pytest

import minattn as ma
from minattn import positions
from minattn.core.errors import OptionError, PositionError, ShapeError


@pytest.mark.parametrize("dim", [2, 6, 64])
def test_sinusoidal_is_the_formula(dim):
    at = np.array([[0, 1, 7], [100, 8191, 3]])
    got = positions.sinusoidal(at, dim)
    assert got.shape == (2, 3, dim)
    for where in np.ndindex(2, 3):
        for c in range(dim):
            angle = at[where] / 10_000 ** (2 * (c // 2) / dim)
            np.testing.assert_allclose(got[where][c], math.cos(angle) if c % 2 else math.sin(angle), atol=1e-12)


def test_sinusoids_of_a_distance_are_a_rotation():
    """Each pair at position m + n is the pair at m, turned by n of its angles: what the paper hoped attention would use."""
    at, base = np.arange(5), 77.0
    pairs = positions.sinusoidal(at, 8, base=base).reshape(5, 4, 2)
    later = positions.sinusoidal(at + 3, 8, base=base).reshape(5, 4, 2)
    angle = 3 * base ** (-np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(later[..., 0], pairs[..., 0] * np.cos(angle) + pairs[..., 1] * np.sin(angle), atol=1e-13)
    np.testing.assert_allclose(later[..., 1], pairs[..., 1] * np.cos(angle) - pairs[..., 0] * np.sin(angle), atol=1e-13)


@pytest.mark.parametrize("dim", [0, -2, 5])
def test_sinusoidal_needs_pairs(dim):
    with pytest.raises(OptionError, match=f"dim = {dim}; sinusoids come in pairs"):
        positions.sinusoidal(np.arange(3), dim)


def test_learned_takes_rows():
    table = np.random.default_rng(0).standard_normal((6, 3))
    at = np.array([[5, 0, 5, 2], [1, 1, 1, 1]])
    np.testing.assert_array_equal(positions.learned(table, at), [[table[i] for i in row] for row in at])
    assert positions.learned(table, np.zeros((2, 0), int)).shape == (2, 0, 3)


def test_learned_gradient(slopes, close):
    rng = np.random.default_rng(0)
    table, at, dout = rng.standard_normal((6, 3)), np.array([[5, 0, 5, 2], [1, 1, 1, 1]]), rng.standard_normal((2, 4, 3))
    got = positions.learned_backward(dout, table, at).dtable
    close(got, slopes(lambda t: (positions.learned(t, at) * dout).sum(), table), 1e-8)
    assert not got[[3, 4]].any()


@pytest.mark.parametrize(("table", "at", "kind", "words"), [
    (np.ones((4, 2)), [4], PositionError, "positions reach from 4 to 4, but the table has rows 0 to 3"),
    (np.ones((4, 2)), [0, -1], PositionError, "reach from -1 to 0"),
    (np.ones((4, 2)), [0.0], PositionError, "positions are float64; they must be integers"),
    (np.ones(4), [0], ShapeError, r"table is \(4,\)"),
])  # fmt: skip
def test_learned_refuses(table, at, kind, words):
    with pytest.raises(kind, match=words):
        positions.learned(table, at)


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 16, 64])
def test_slopes_of_a_power_of_two(heads):
    np.testing.assert_allclose(positions.alibi_slopes(heads), [2 ** (-8 * h / heads) for h in range(1, heads + 1)], rtol=1e-15)


def test_slopes_of_other_counts():
    """As in the paper's code: 12 heads take the slopes of 8 and every other one of 16."""
    assert positions.alibi_slopes(12).tolist() == [*positions.alibi_slopes(8), *positions.alibi_slopes(16)[[0, 2, 4, 6]]]
    assert positions.alibi_slopes(3).tolist() == [*positions.alibi_slopes(2), positions.alibi_slopes(4)[0]]
    for heads in range(1, 40):
        slopes = positions.alibi_slopes(np.int64(heads))
        assert slopes.shape == (heads,)
        assert len(set(slopes)) == heads
        assert ((slopes > 0) & (slopes < 1)).all()


@pytest.mark.parametrize("heads", [0, -1, 2.0])
def test_slopes_need_heads(heads):
    with pytest.raises(OptionError, match="heads"):
        positions.alibi_slopes(heads)


def test_alibi_of_transformers(need):
    torch, bloom = need("torch"), need("transformers.models.bloom.modeling_bloom")
    for heads in (4, 6, 16):
        theirs = bloom.build_alibi_tensor(torch.ones(1, 5, dtype=torch.long), heads, torch.float32).numpy().reshape(heads, 5)
        np.testing.assert_allclose(positions.alibi_slopes(heads)[:, None] * np.arange(5), theirs, rtol=1e-6)


def test_alibi_bias_is_the_score_mod(drawn, close):
    q, k, v = drawn(0)
    slopes, q_pos, k_pos = positions.alibi_slopes(6), np.array([[2, 3, 4, 5, 6], [9, 0, 1, 2, 3]]), np.arange(7)
    bias = positions.alibi_bias(slopes, q_pos, k_pos)
    assert bias.shape == (2, 6, 5, 7)
    for b, h, n, s in np.ndindex(bias.shape):
        assert bias[b, h, n, s] == -slopes[h] * (q_pos[b, n] - k_pos[s])
    at = {"q_pos": q_pos, "k_pos": k_pos, "causal": True}
    close(
        ma.attention(q, k, v, bias=bias, **at),
        ma.attention(q, k, v, score_mod=lambda s, b, h, i, j: s - slopes[h] * (i - j), **at),
    )


def test_alibi_bias_between_unsigned_positions():
    bias = positions.alibi_bias([0.5], np.array([0, 9], np.uint8), np.array([4], np.uint8))
    assert bias.tolist() == [[[2.0], [-2.5]]]
    with pytest.raises(PositionError, match="k_pos is float64"):
        positions.alibi_bias([0.5], [0], [1.0])


def test_without_positions_attention_is_a_bag_of_words(drawn, close):
    """Permuting tokens permutes the output; positions added to x, or turned into q and k, end that."""
    x, order = drawn(1, H=1, N=6)[0][:, 0], np.array([3, 1, 0, 5, 4, 2])
    plain = lambda x: ma.attention(x, x, x)  # noqa: E731
    close(plain(x[:, order]), plain(x)[:, order])
    placed = lambda x: plain(x + positions.sinusoidal(np.arange(6), 4))  # noqa: E731
    assert np.abs(placed(x[:, order]) - placed(x)[:, order]).max() > 1e-2
