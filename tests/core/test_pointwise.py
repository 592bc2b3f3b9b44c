"""Gates that overflow nowhere, and norms that take away scale, or shift and scale."""
import math

import numpy as np
import pytest

from minattn.core.pointwise import head_norm, rms_norm, sigmoid, silu, softplus


def test_sigmoid_and_silu_by_their_formulas():
    x = np.linspace(-30, 30, 41)
    want = np.array([1 / (1 + math.exp(-a)) for a in x])
    np.testing.assert_allclose(sigmoid(x), want, atol=1e-16)
    np.testing.assert_allclose(silu(x), x * want, atol=1e-14)
    np.testing.assert_array_equal(sigmoid(np.array([-np.inf, -1e9, 1e9, np.inf])), [0, 0, 1, 1])
    assert sigmoid(x.astype(np.float32)).dtype == np.float32


def test_softplus_by_its_formula_and_far_away():
    x = np.linspace(-30, 30, 41)
    np.testing.assert_allclose(softplus(x), [math.log1p(math.exp(a)) for a in x], rtol=1e-14)
    np.testing.assert_array_equal(softplus(np.array([-np.inf, -1e9, 1e9, np.inf])), [0, 0, 1e9, np.inf])
    np.testing.assert_allclose(softplus(np.array([-50.0, -200.0])), np.exp([-50.0, -200.0]), rtol=1e-14)
    assert softplus(x.astype(np.float32)).dtype == np.float32


def test_rms_norm_forgets_the_scale_of_a_row():
    x, weight = np.random.default_rng(0).standard_normal((2, 3, 5)), np.arange(1.0, 6)
    got = rms_norm(x, weight, 0)
    np.testing.assert_allclose(rms_norm(100 * x, weight, 0), got, rtol=1e-12)
    np.testing.assert_allclose(np.mean((got / weight) ** 2, axis=-1), 1, rtol=1e-12)


def test_the_norm_of_a_head_forgets_shift_and_scale():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 7))
    got = head_norm(x, 0.0)
    np.testing.assert_allclose(got.mean(axis=-1), 0, atol=1e-15)
    np.testing.assert_allclose(got.var(axis=-1), 1, rtol=1e-12)
    np.testing.assert_allclose(head_norm(3 * x + 2, 0.0), got, rtol=1e-9)
    np.testing.assert_allclose(head_norm(3 * x, 9 * 1e-2), head_norm(x, 1e-2), rtol=1e-12)
    np.testing.assert_array_equal(head_norm(np.full((1, 4), 2.5), 1e-5), np.zeros((1, 4)))


@pytest.mark.slow
def test_equals_group_norm_of_torch(need, close):
    torch = need("torch")
    x = np.random.default_rng(1).standard_normal((6, 3, 8)).astype(np.float32)            # tokens, heads, D
    want = torch.nn.functional.group_norm(torch.from_numpy(x.reshape(6, 24)), 3, eps=64e-5).numpy().reshape(6, 3, 8)
    close(head_norm(x, 64e-5), want, 1e-6)
