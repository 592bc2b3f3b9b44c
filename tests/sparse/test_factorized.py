"""Strided and fixed attention in parts equal attention under the mask of the same name, forward and backward."""
import numpy as np
import pytest

import minattn as ma
from minattn import masks
from minattn.sparse import factorized

KINDS = {
    "strided": (ma.strided_attention, ma.strided_attention_backward, lambda stride: masks.strided(stride), {}),
    "fixed": (ma.fixed_attention, ma.fixed_attention_backward, lambda stride: masks.fixed(stride), {}),
    "two summaries": (ma.fixed_attention, ma.fixed_attention_backward, lambda stride: masks.fixed(stride, 2), {"summary": 2}),
    "another subblock": (ma.fixed_attention, ma.fixed_attention_backward, lambda stride: masks.fixed(stride, 2, subblock=1),
                         {"summary": 2, "subblock": 1}),
}  # fmt: skip
SIZES = [(1, 1), (7, 7), (64, 64), (129, 129), (1, 129), (5, 64), (17, 130), (64, 7), (3, 1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("N", "S"), SIZES)
@pytest.mark.parametrize("stride", [4, 7, 11, 64])
def test_equal_to_the_mask(kind, N, S, stride, drawn, close):
    forward, backward, make, options = KINDS[kind]
    q, k, v = drawn(N + S, N=N, S=S)
    dout = np.random.default_rng(stride).standard_normal((2, 6, N, 3))
    mask = make(stride)
    out, lse = forward(q, k, v, stride=stride, **options, return_lse=True)
    want, want_lse = ma.attention(q, k, v, mask=mask, return_lse=True)
    close(out, want)
    close(lse, want_lse)
    for given in ({}, {"out": out, "lse": lse}):
        got = backward(dout, q, k, v, stride=stride, **options, **given)
        for a, b in zip(got, ma.attention_backward(dout, q, k, v, mask=mask)[:3], strict=True):
            close(a, b)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_short_strides(stride, drawn, close):
    q, k, v = drawn(0, N=13, S=13)
    close(ma.strided_attention(q, k, v, stride=stride), ma.attention(q, k, v, mask=masks.strided(stride)))
    close(ma.fixed_attention(q, k, v, stride=stride), ma.attention(q, k, v, mask=masks.fixed(stride)))
    if stride == 1:
        close(ma.strided_attention(q, k, v, stride=1), ma.attention(q, k, v, causal=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_options_backends_and_types(kind, backend, drawn, close):
    forward, backward, make, options = KINDS[kind]
    for dtype, tolerance in ((np.float16, 3e-3), (np.float32, 1e-5), (np.float64, 1e-10)):
        q, k, v = drawn(1, N=150, S=170, D=16, Dv=8, dtype=dtype)
        dout = np.random.default_rng(2).standard_normal((2, 6, 150, 8)).astype(dtype)
        more = {"scale": 0.4, "softcap": 2.0, "backend": backend}
        got = forward(q, k, v, stride=9, **options, **more)
        assert got.dtype == dtype
        wide = [a.astype(np.float64) for a in (dout, q, k, v)]
        close(got, ma.attention(*wide[1:], mask=make(9), **more), tolerance)
        grads = backward(dout, q, k, v, stride=9, **options, **more)
        for a, b in zip(grads, ma.attention_backward(*wide, mask=make(9), **more)[:3], strict=True):
            assert a.dtype == dtype
            close(a, b, tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_other_axes(kind, drawn, close):
    """One head without an axis, no batch, keys that all rows share, queries that all rows share."""
    forward, backward, make, options = KINDS[kind]
    q, k, v = drawn(3, N=40, S=45)
    for arrays in ((q[0, 0], k[0, 0], v[0, 0]), (q[0], k[0], v[0]), (q, k[:1], v), (q[:1], k, v), (q[None], k[:, None], v[None])):
        want = ma.attention(*arrays, mask=make(6))
        close(forward(*arrays, stride=6, **options), want)
        dout = np.random.default_rng(0).standard_normal(want.shape)
        for a, b in zip(backward(dout, *arrays, stride=6, **options), ma.attention_backward(dout, *arrays, mask=make(6)),
                        strict=False):  # fmt: skip
            close(a, b)
    close(forward(q[..., ::2, :], k[..., ::-1, :], v, stride=5, **options),
          ma.attention(q[..., ::2, :], k[..., ::-1, :], v, mask=make(5)))  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_joined_by_the_kernel(kind, close):
    """Every layout of leading axes, and queries that begin in the middle of a row, where `join` works in place."""
    pytest.importorskip("numba")
    forward, _, make, options = KINDS[kind]
    rng = np.random.default_rng(0)
    for lead, N, S in (((), 300, 333), ((2,), 1300, 1300), ((2, 3), 40, 77), ((2, 1, 2), 129, 100), ((3,), 2, 500)):
        q, k, v = (rng.standard_normal((*lead, length, dim), np.float32) for length, dim in ((N, 8), (S, 8), (S, 5)))
        out, lse = forward(q, k, v, stride=11, **options, backend="cpu", return_lse=True)
        want, want_lse = ma.attention(*(a.astype(np.float64) for a in (q, k, v)), mask=make(11), return_lse=True)
        close(out, want, 1e-5)
        close(lse, want_lse, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing(kind):
    forward, _, _, options = KINDS[kind]
    for N, S in ((0, 9), (9, 0), (0, 0)):
        q, k, v = np.ones((2, N, 4)), np.ones((2, S, 4)), np.ones((2, S, 3))
        out, lse = forward(q, k, v, stride=4, **options, return_lse=True)
        assert out.shape == (2, N, 3)
        assert not out.any()
        assert np.isneginf(lse).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_hidden_is_not_read(kind, drawn):
    forward, _, make, options = KINDS[kind]
    q, k, v = drawn(5, N=50, S=50)
    want = forward(q, k, v, stride=7, **options)
    unseen = make(7).dense(50, 50)[:, 20]
    k[..., 20, :], v[..., 20, :] = np.nan, np.inf
    got = forward(q, k, v, stride=7, **options)
    np.testing.assert_allclose(got[..., ~unseen, :], want[..., ~unseen, :], rtol=1e-10, atol=1e-12)
    assert not np.isfinite(got[..., unseen, :]).any()


@pytest.mark.parametrize(("parts_of", "options", "whole"), [
    (factorized._strided_parts, (8,), masks.strided(8)), (factorized._fixed_parts, (8, 3, 0), masks.fixed(8, 3)),
])  # fmt: skip
def test_every_pair_is_in_one_part(parts_of, options, whole):
    """The pairs of each part as the kernel is told of them, and the far part a fraction of the scores."""
    for N, S in ((100, 140), (140, 140), (3, 140), (1, 140)):
        times, computed = np.zeros((N, S), int), []
        for part in parts_of(N, S, *options):
            rows = part.of_queries(np.arange(1.0, N + 1)[:, None])[..., 0].astype(int) - 1       # -1 is padding
            keys = part.of_keys(np.arange(S)[:, None])[..., 0]
            where = {name: pos for name, pos in part.options.items() if name in ("q_pos", "k_pos")}
            rule = part.options.get("mask", masks.causal()) if part.options else masks.first(S)
            seen = rule.dense(rows.shape[1], keys.shape[1], **where)
            for r in range(part.stride):
                n, s = np.nonzero(seen & (rows[r] >= 0)[:, None])
                np.add.at(times, (rows[r][n], keys[r][s]), 1)
            computed.append(rows.size * keys.shape[1])
        np.testing.assert_array_equal(times, whole.dense(N, S))
        assert computed[0] == N * S if N == S else computed[0] <= N * (N + 8)
        assert sum(computed[1:]) < N * S / 2
        if N == 1:
            assert sum(computed) == times.sum()                   # of a single query, no key beyond those that it sees


def test_keys_of_the_far_part_are_views():
    k = np.ones((2, 3, 128, 4), np.float32)
    near, far = factorized._strided_parts(128, 128, 8)
    assert np.shares_memory(far.of_keys(k), k)
    assert np.shares_memory(near.of_keys(k), k)
    assert np.shares_memory(far.of_queries(k), k)
    assert all(np.shares_memory(part.of_keys(k), k) for part in factorized._strided_parts(1, 128, 8))


@pytest.mark.parametrize("kind", ["strided", "fixed"])
def test_gradient_against_differences(kind, drawn, slopes, close):
    forward, backward, _, _ = KINDS[kind]
    q, k, v = drawn(2, B=1, H=2, G=1, N=7, S=9, D=2, Dv=2)
    dout = np.random.default_rng(3).standard_normal((1, 2, 7, 2))
    given, grads = {"q": q, "k": k, "v": v}, backward(dout, q, k, v, stride=2)
    for name, got in zip(given, grads, strict=True):
        close(got, slopes(lambda x, name=name: (forward(**given | {name: x}, stride=2) * dout).sum(), given[name]), 1e-6)


@pytest.mark.parametrize(("function", "options", "kind", "words"), [
    (ma.strided_attention, {"stride": 0}, ma.errors.OptionError, "stride = 0; it must be at least 1"),
    (ma.fixed_attention, {"stride": 2.5}, ma.errors.OptionError, "stride is 2.5; it must be an integer"),
    (ma.fixed_attention, {"stride": 4, "summary": 5}, ma.errors.OptionError, "a block of stride = 4 keys does not hold it"),
    (ma.strided_attention, {"stride": 4, "softcap": 0}, ma.errors.OptionError, "softcap = 0"),
    (ma.strided_attention, {"stride": 4, "backend": "tpu"}, ma.errors.BackendError, "backend is 'tpu'"),
])  # fmt: skip
def test_refused(function, options, kind, words, drawn):
    with pytest.raises(kind, match=words):
        function(*drawn(0), **options)


def test_errors_speak_of_what_was_given(drawn):
    q, k, v = drawn(0)
    with pytest.raises(ma.errors.ShapeError, match=r"k has D = 3 but q has D = 4 \(q is \(B=2, H=6, N=5, D=4\)"):
        ma.strided_attention(q, k[..., :3], v, stride=2)
    out, lse = ma.strided_attention(q, k, v, stride=2, return_lse=True)
    with pytest.raises(ma.errors.OptionError, match="out and lse go together"):
        ma.strided_attention_backward(out, q, k, v, stride=2, lse=lse)
    with pytest.raises(ma.errors.ShapeError, match=r"dout is \(2, 6, 5\); it must be"):
        ma.fixed_attention_backward(out[..., 0], q, k, v, stride=2)
