"""The backward exercises: right answers of other styles pass, and answers that meet only half of the task do not."""
import itertools

import numpy as np
import pytest

import minattn as ma
from minattn.practice import check


def slope(f, x, h=1e-6):
    return check.finite_difference.reference(f, x, h)


def test_the_references_are_gradients_by_finite_differences():
    rng = np.random.default_rng(1)
    s, dp = rng.standard_normal((2, 3, 4, 5))
    dout, v = rng.standard_normal((3, 4, 2)), rng.standard_normal((3, 5, 2))
    p = ma.softmax(s)
    measured = slope(lambda v: (dout * (p @ v)).sum(), v)
    np.testing.assert_allclose(check.value_gradient.reference(p, dout), measured, atol=1e-8)
    measured = slope(lambda s: (dp * ma.softmax(s)).sum(), s)
    np.testing.assert_allclose(check.softmax_backward.reference(p, dp), measured, atol=1e-8)


def test_the_tiles_of_a_row_together_make_its_gradient():
    rng = np.random.default_rng(3)
    q, k, v, dout = (rng.standard_normal(shape) for shape in [(5, 4), (7, 4), (7, 3), (5, 3)])
    out, lse = ma.attention(q, k, v, return_lse=True)
    parts = [check.tile_backward.reference(q, k[keys], v[keys], dout, out, lse) for keys in (np.s_[:3], np.s_[3:])]
    p, ds = (np.concatenate(each, axis=-1) for each in zip(*parts, strict=True))
    np.testing.assert_allclose(p, ma.attention_weights(q, k), rtol=1e-12)
    np.testing.assert_allclose(ds @ k / 2, ma.attention_backward(dout, q, k, v).dq, rtol=1e-10, atol=1e-12)


def test_finite_difference_passes_with_the_step_as_it_is_after_rounding():
    def answer(f, x, h):
        steps = h * np.eye(x.size).reshape(x.size, *x.shape)
        return np.reshape([(f(x + e) - f(x - e)) / ((x + e) - (x - e)).sum() for e in steps], x.shape)

    assert check.finite_difference(answer)


def test_finite_difference_that_leaves_x_moved_is_caught():
    def answer(f, x, h):
        found = np.zeros(x.shape)
        for place in np.ndindex(x.shape):
            x[place] += h
            up = f(x)
            x[place] -= 2 * h
            found[place] = (up - f(x)) / (2 * h)
            x[place] += h
        x += h
        return found

    assert check.finite_difference(answer).mistake == "changes its input"


def test_softmax_backward_passes_with_the_jacobian_written_out():
    def answer(p, dp):
        J = np.einsum("hns,st->hnst", p, np.eye(p.shape[-1])) - p[..., None] * p[..., None, :]
        return (J @ dp[..., None])[..., 0]

    assert check.softmax_backward(answer)


def test_value_gradient_not_transposed_shows_the_learners_error():
    result = check.value_gradient(lambda p, dout: p @ dout)
    assert result.status == "error"
    assert "ValueError" in result.message


@pytest.mark.parametrize("outside", ["queries", "heads of a group as rows"])
def test_flash_backward_passes_in_another_order(outside):
    def queries(dout, q, k, v, out, lse, block_q, block_k):
        repeats, scale = len(q) // len(k), q.shape[-1] ** -0.5
        k, v = np.repeat(k, repeats, axis=0), np.repeat(v, repeats, axis=0)
        dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
        for i, j in itertools.product(range(0, q.shape[1], block_q), range(0, k.shape[1], block_k)):
            rows, keys = np.s_[:, i : i + block_q], np.s_[:, j : j + block_k]
            p = np.exp(np.einsum("hnd,hsd->hns", q[rows], k[keys]) * scale - lse[rows][..., None])
            dp = np.einsum("hnd,hsd->hns", dout[rows], v[keys])
            ds = p * (dp - np.einsum("hnd,hnd->hn", dout[rows], out[rows])[..., None]) * scale
            dq[rows] += np.einsum("hns,hsd->hnd", ds, k[keys])
            dk[keys] += np.einsum("hns,hnd->hsd", ds, q[rows])
            dv[keys] += np.einsum("hns,hnd->hsd", p, dout[rows])
        return dq, dk.reshape(-1, repeats, *k.shape[1:]).sum(axis=1), dv.reshape(-1, repeats, *v.shape[1:]).sum(axis=1)

    def as_rows(dout, q, k, v, out, lse, block_q, block_k):
        G = len(k)
        q, dout, out = (a.reshape(G, -1, a.shape[-1]) for a in (q, dout, out))
        p = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]) - lse.reshape(G, -1, 1))
        ds = p * (dout @ v.swapaxes(1, 2) - (dout * out).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1])
        return {"dq": (ds @ k).reshape(*lse.shape, -1), "dk": ds.swapaxes(1, 2) @ q, "dv": p.swapaxes(1, 2) @ dout}

    assert check.flash_backward(queries if outside == "queries" else as_rows)


def test_flash_backward_with_several_mistakes_is_wrong_without_a_false_name():
    def answer(dout, q, k, v, out, lse, block_q, block_k):
        dq, dk, dv = check.flash_backward.reference(dout, q, k, v, out, lse, block_q, block_k)
        return 2 * dq, dk, -dv

    result = check.flash_backward(answer)
    assert (result.status, result.mistake) == ("fail", None)
    assert [stage.verdict == "different" for stage in result.stages] == [True, False, True]
