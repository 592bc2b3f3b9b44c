"""RoPE: a rotation, whose scores depend on distance alone; layouts, part of the channels, Llama 3.1's frequencies."""

import cmath
import math
from types import SimpleNamespace

import numpy as np
import pytest

import minattn as ma
from minattn.core.errors import DtypeError, OptionError, PositionError, ShapeError
from minattn.core.rope import Llama3Scaling, change_layout, rope, rope_backward, rope_frequencies

LAYOUTS = "half", "interleaved"


def pair_of(layout, p, rotary_dim):
    return (p, p + rotary_dim // 2) if layout == "half" else (2 * p, 2 * p + 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("D", "rotary_dim"), [(2, None), (8, None), (8, 6), (8, 2), (7, 4)])
def test_each_pair_is_a_complex_number_that_turns(layout, D, rotary_dim):
    rng = np.random.default_rng(D)
    x, at, theta = rng.standard_normal((2, 3, 4, D)), rng.integers(0, 500, (2, 4)), 321.0
    got = rope(x, at, layout=layout, theta=theta, rotary_dim=rotary_dim)
    R = rotary_dim or D
    for b, h, n in np.ndindex(2, 3, 4):
        for p in range(R // 2):
            first, second = pair_of(layout, p, R)
            z = complex(x[b, h, n, first], x[b, h, n, second]) * cmath.exp(1j * at[b, n] * theta ** (-2 * p / R))
            np.testing.assert_allclose([got[b, h, n, first], got[b, h, n, second]], [z.real, z.imag], atol=1e-11)
    np.testing.assert_array_equal(got[..., R:], x[..., R:])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [{}, {"rotary_dim": 6}, {"theta": 5e5, "scaling": Llama3Scaling()}], ids=str)
def test_it_is_a_rotation(layout, options, slopes, close):
    rng = np.random.default_rng(1)
    options = {"layout": layout, **options}
    q, k, dout = rng.standard_normal((3, 3, 5, 8))
    m, n = rng.integers(0, 4000, (2, 5))
    turned = rope(q, m, **options)
    close(np.linalg.norm(turned, axis=-1), np.linalg.norm(q, axis=-1))
    close(rope(turned, n, **options), rope(q, m + n, **options), 1e-9)  # R_n R_m = R_{m+n}
    close(rope(turned, -m, **options), q)
    np.testing.assert_array_equal(rope(q, np.zeros(5, int), **options), q)
    score = (turned * rope(k, n, **options)).sum(axis=-1)  # depends on m - n alone
    shift = 777
    close((rope(q, m + shift, **options) * rope(k, n + shift, **options)).sum(axis=-1), score, 1e-9)
    close((rope(q, m - n, **options) * k).sum(axis=-1), score, 1e-9)
    back = rope_backward(dout, q, m, **options).dx
    close((turned * dout).sum(), (q * back).sum())  # the transpose
    close(back, slopes(lambda x: (rope(x, m, **options) * dout).sum(), q), 1e-8)


@pytest.mark.parametrize("kind", [np.uint8, np.uint64, np.int32])
def test_backward_at_positions_of_any_integer_type(kind):
    x, at = np.random.default_rng(0).standard_normal((3, 4)), np.array([0, 1, 200])
    there = rope(x, at.astype(kind), layout="half")
    np.testing.assert_allclose(rope_backward(there, there, at.astype(kind), layout="half").dx, x, atol=1e-12)


def test_attention_moved_along_is_the_same(drawn, close):
    q, k, v = drawn(2)
    at = lambda shift: {"q_pos": np.arange(2, 7) + shift, "k_pos": np.arange(7) + shift}  # noqa: E731
    near, far = (
        ma.attention(rope(q, p["q_pos"], layout="half"), rope(k, p["k_pos"], layout="half"), v, causal=True, **p)
        for p in (at(0), at(1000))
    )
    close(far, near, 1e-9)
    assert np.abs(near - ma.attention(q, k, v, causal=True)).max() > 1e-2


def test_layouts_are_one_after_the_permutation(close):
    rng = np.random.default_rng(3)
    x, w_q, w_k = rng.standard_normal((2, 5, 10)), rng.standard_normal((10, 3 * 8)), rng.standard_normal((10, 3 * 8))
    at = np.arange(5)

    def scores(layout, w_q, w_k):
        q, k = (rope(ma.split_heads(x @ w, 3), at, layout=layout) for w in (w_q, w_k))
        return q @ k.swapaxes(-1, -2)

    want = scores("interleaved", w_q, w_k)
    half = [change_layout(w, 3, to="half") for w in (w_q, w_k)]
    close(scores("half", *half), want)
    assert np.abs(scores("half", w_q, w_k) - want).max() > 0.1  # the wrong pairing is another function
    for w, moved in zip((w_q, w_k), half, strict=True):
        np.testing.assert_array_equal(change_layout(moved, 3, to="interleaved"), w)
        assert sorted(moved[0]) == sorted(w[0])


def test_change_layout_moves_biases_too():
    b = np.arange(12.0)
    np.testing.assert_array_equal(change_layout(b, 2, to="half"), [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11])


def test_llama_3_1_frequencies_are_the_formula():
    """Wavelengths above 8192 divided by 8, those below 8192 / 4 kept, a linear blend in between."""
    plain, scaled = rope_frequencies(128, 500_000.0), rope_frequencies(128, 500_000.0, Llama3Scaling())
    kinds = set()
    for p in range(64):
        f = 500_000.0 ** (-2 * p / 128)
        assert math.isclose(plain[p], f, rel_tol=1e-12)
        wavelength = 2 * math.pi / f
        if wavelength < 8192 / 4:
            kinds.add("kept")
        elif wavelength > 8192:
            kinds.add("divided")
            f /= 8
        else:
            kinds.add("blended")
            smooth = (8192 / wavelength - 1) / (4 - 1)
            f = (1 - smooth) * f / 8 + smooth * f
        assert math.isclose(scaled[p], f, rel_tol=1e-12)
    assert kinds == {"kept", "blended", "divided"}


def test_frequencies_of_transformers(need):
    need("torch")
    utils = need("transformers.modeling_rope_utils")
    settings = {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = SimpleNamespace(
        rope_parameters=settings, rope_scaling=settings, rope_theta=500_000.0, head_dim=64, hidden_size=512,
        num_attention_heads=8,
        standardize_rope_params=lambda: None, partial_rotary_factor=1.0,
    )  # fmt: skip
    theirs, factor = utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    assert factor == 1
    np.testing.assert_allclose(rope_frequencies(64, 500_000.0, Llama3Scaling(factor=32.0)), theirs.numpy(), rtol=1e-6)


def test_rotation_of_transformers(need):
    torch, llama = need("torch"), need("transformers.models.llama.modeling_llama")
    rng = np.random.default_rng(4)
    q, k = rng.standard_normal((2, 2, 3, 5, 8))
    angle = torch.arange(5, dtype=torch.float64)[:, None] * torch.from_numpy(rope_frequencies(8))
    both = torch.cat([angle, angle], dim=-1)[None]
    theirs = llama.apply_rotary_pos_emb(torch.from_numpy(q), torch.from_numpy(k), both.cos(), both.sin())
    for mine, other in zip((q, k), theirs, strict=True):
        np.testing.assert_allclose(rope(mine, np.arange(5), layout="half"), other.numpy(), atol=1e-12)


def test_decoding_at_a_position_is_the_prefill():
    x = np.random.default_rng(5).standard_normal((2, 3, 9, 4))
    whole = rope(x, np.arange(9), layout="half")
    for n in range(9):
        np.testing.assert_array_equal(rope(x[:, :, n : n + 1], np.array([n]), layout="half"), whole[:, :, n : n + 1])


def test_far_positions_in_float32():
    """Angles are formed in float64: at 100,000 a float32 angle would be off by a hundredth of a radian."""
    x = np.random.default_rng(6).standard_normal((1, 8))
    narrow = rope(x.astype(np.float32), [1_000_003], layout="half")
    np.testing.assert_allclose(narrow, rope(x, [1_000_003], layout="half"), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_type_and_input_are_kept(dtype):
    x = np.random.default_rng(7).standard_normal((2, 3, 4)).astype(dtype)
    before = x.copy()
    x.flags.writeable = False
    got = rope(x, np.arange(3), layout="interleaved")
    assert got.dtype == dtype
    np.testing.assert_array_equal(x, before)
    np.testing.assert_allclose(got, rope(x.astype(np.float64), np.arange(3), layout="interleaved"), atol=4 * np.finfo(dtype).eps)


def test_positions_broadcast_over_rows():
    x = np.random.default_rng(8).standard_normal((2, 3, 4, 5, 6))
    at = np.arange(15).reshape(1, 3, 5)
    got = rope(x, at, layout="half")
    for a, b in np.ndindex(2, 3):
        np.testing.assert_array_equal(got[a, b], rope(x[a, b], at[0, b], layout="half"))


X = np.ones((2, 3, 5, 4))


@pytest.mark.parametrize(("call", "kind", "words"), [
    (lambda: rope(X, np.arange(5), layout="gptj"), OptionError, 'layout is \'gptj\'; it must be "half".*or "interleaved"'),
    (lambda: rope(X, np.arange(5), layout="half", rotary_dim=3), OptionError,
        "rotary_dim = 3; it must be even and between 2 and D = 4"),
    (lambda: rope(X, np.arange(5), layout="half", rotary_dim=6), OptionError, "rotary_dim = 6"),
    (lambda: rope(X, np.arange(5), layout="half", rotary_dim=0), OptionError, "rotary_dim = 0"),
    (lambda: rope(X, np.arange(5), layout="half", rotary_dim=4.0), OptionError, "rotary_dim is 4.0; it must be an integer"),
    (lambda: rope(X, np.arange(5), layout="half", theta=0), OptionError, "theta = 0.0; it must be above 0"),
    (lambda: rope(X, np.arange(5), layout="half", theta=np.nan), OptionError, "theta = nan"),
    (lambda: rope(X, np.arange(5), layout="half", scaling="llama3"), OptionError, "scaling is str; it must be a function"),
    (lambda: rope(X, [[0], [1, 2]], layout="half"), ShapeError, "positions: rows of unequal length"),
    (lambda: rope(X[..., :3], np.arange(5), layout="half"), OptionError, "rotary_dim = 3"),
    (lambda: rope(X, np.arange(5.0), layout="half"), PositionError, "positions are float64; they must be integers"),
    (lambda: rope_backward(X, X, np.arange(5.0), layout="half"), PositionError, "positions are float64"),
    (lambda: rope_backward(X[..., :-1, :], X, np.arange(5), layout="half"), ShapeError, "dout is .* but x is"),
    (lambda: rope(X, np.arange(4), layout="half"), ShapeError,
        r"positions are \(4,\) but x is \(2, 3, 5, 4\).*N = 5"),
    (lambda: rope(X, np.zeros((3, 5), int), layout="half"), ShapeError,
        r"positions are \(3, 5\).*their axes before N must be x's before H"),
    (lambda: rope(X, np.zeros((2, 3, 5), int), layout="half"), ShapeError, r"positions are \(2, 3, 5\)"),
    (lambda: rope(X[0, 0], 3, layout="half"), ShapeError, r"positions are \(\)"),
    (lambda: rope(X[0, 0, 0], [0], layout="half"), ShapeError,
        r"x is \(4,\)"),
    (lambda: rope(X.astype(int), np.arange(5), layout="half"), DtypeError, r"x is int64.*astype\(np.float32\)"),
    (lambda: change_layout(np.ones((2, 6)), 2, to="half"), ShapeError,
        "E_out = 6, which does not split into H = 2 heads of an even D"),
    (lambda: change_layout(np.ones((2, 8)), 2, to="other"), OptionError, "layout is 'other'"),
])  # fmt: skip
def test_refused(call, kind, words):
    with pytest.raises(kind, match=words) as caught:
        call()
    assert isinstance(caught.value, ma.MinattnError)


def test_layout_is_never_guessed():
    with pytest.raises(TypeError, match="layout"):
        rope(X, np.arange(5))
