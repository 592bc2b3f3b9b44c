"""score_mod in the kernels: the plain form's numbers, forward and backward, and compiled once for equal functions."""
import numpy as np
import pytest

import minattn as ma

pytest.importorskip("numba", reason="numba is not installed: there is no backend cpu")

from minattn.flash.score_mod import fingerprint

TABLE = np.random.default_rng(0).standard_normal((6, 100))
SLOPES = ma.positions.alibi_slopes(6)
MODS = {
    "alibi": (lambda s, b, h, i, j: s - SLOPES[h] * (i - j), None),
    "a table of distances": (lambda s, b, h, i, j: s * (1 + 0.1 * b) + TABLE[h, np.abs(i - j)], None),
    "softcap": (lambda s, b, h, i, j: 2 * np.tanh(s / 2), lambda s, b, h, i, j: 1 - np.tanh(s / 2) ** 2),
    "softcap, differences": (lambda s, b, h, i, j: 2 * np.tanh(s / 2), None),
    "a mask": (lambda s, b, h, i, j: np.where(j > i - 7, s, -np.inf), None),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", MODS)
def test_equals_the_reference(name, causal):
    rng = np.random.default_rng(1)
    q, dout = (rng.standard_normal((2, 6, 70, dim)).astype(np.float32) for dim in (20, 24))
    k, v = (rng.standard_normal((2, 3, 90, dim)).astype(np.float32) for dim in (20, 24))
    mod, grad = MODS[name]
    options = {"score_mod": mod, "causal": causal}
    wide = [a.astype(np.float64) for a in (q, k, v, dout)]
    want = ma.attention(*wide[:3], backend="numpy", **options)
    got = ma.attention(q, k, v, backend="cpu", **options)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    few = ma.attention(q[:, :, -1:], k, v, backend="cpu", **options)          # one query takes the same way
    np.testing.assert_allclose(few, want[:, :, -1:], rtol=0, atol=1e-5 * np.abs(want).max())
    want = ma.attention_backward(wide[3], *wide[:3], score_mod_grad=grad, backend="numpy", **options)
    got = ma.attention_backward(dout, q, k, v, score_mod_grad=grad, backend="cpu", **options)
    for mine, theirs in zip(got[:3], want[:3], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_what_numba_cannot_compile_says_so_and_runs():
    q, k, v = np.random.default_rng(2).standard_normal((3, 2, 40, 16)).astype(np.float32)
    mod = lambda s, b, h, i, j: s * np.asarray([1.0, 2.0]).astype(object)[h].astype(float)  # noqa: E731
    with pytest.warns(UserWarning, match="does not compile"):
        got = ma.attention(q, k, v, score_mod=mod, backend="cpu")
    np.testing.assert_allclose(got, ma.attention(q, k, v, score_mod=mod, backend="numpy"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("N", [1, 40])
def test_an_index_out_of_range_is_an_error(N):
    q, k, v = np.random.default_rng(3).standard_normal((3, 2, 40, 16)).astype(np.float32)
    q, table = q[:, :N], np.arange(30.0)
    mod = lambda s, b, h, i, j: s + table[np.abs(i - j)]  # noqa: E731
    with pytest.raises(IndexError, match="out of bounds"):
        ma.attention(q, k, v, score_mod=mod, backend="cpu")
    with pytest.raises(IndexError, match="out of bounds"):
        ma.attention_backward(q, q, k, v, score_mod=lambda s, b, h, i, j: s, score_mod_grad=mod, backend="cpu")


def test_what_goes_wrong_in_a_hidden_pair_stays_there():
    """log of a distance: NaN for all later keys, as values and as slopes."""
    q, k, v, dout = np.random.default_rng(4).standard_normal((4, 2, 70, 16)).astype(np.float32)
    options = {"score_mod": lambda s, b, h, i, j: s - np.log(i - j + 1.0), "causal": True}
    wide = [a.astype(np.float64) for a in (dout, q, k, v)]
    with np.errstate(divide="ignore", invalid="ignore"):
        want = ma.attention_backward(*wide, backend="numpy", **options)
    for mine, theirs in zip(ma.attention_backward(dout, q, k, v, backend="cpu", **options)[:3], want[:3], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_fingerprint():
    make = lambda slope: lambda s, b, h, i, j: s - slope * (i - j)  # noqa: E731
    assert fingerprint(make(np.ones(3))) == fingerprint(make(np.ones(3)))
    assert fingerprint(make(np.ones(3))) != fingerprint(make(np.zeros(3)))
    assert fingerprint(make(1.0)) != fingerprint(make(2.0))
    assert hash(fingerprint(make(1.0))) == hash(fingerprint(make(1.0)))
