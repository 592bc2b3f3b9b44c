"""Arrays of every kind: leading axes, strides, types of positions, and what is returned."""

import numpy as np
import pytest

import minattn as ma
from minattn import masks


def test_leading_axes_broadcast(close):
    rng = np.random.default_rng(23)
    q, k, v = rng.standard_normal((3, 1, 6, 5, 4)), rng.standard_normal((2, 3, 7, 4)), rng.standard_normal((1, 2, 3, 7, 2))
    out, weights, lse = ma.attention(q, k, v, causal=True, return_weights=True, return_lse=True)
    assert (out.shape, weights.shape, lse.shape) == ((3, 2, 6, 5, 2), (3, 2, 6, 5, 7), (3, 2, 6, 5))
    for a, b in np.ndindex(3, 2):
        one = ma.attention(q[a, 0], k[b], v[0, b], causal=True, return_weights=True, return_lse=True)
        for got, want in zip((out, weights, lse), one, strict=True):
            close(got[a, b], want)


def test_only_values_have_rows(drawn, close):
    q, k, v = drawn(24)
    parts = ma.attention(q[0], k[0], v, return_weights=True, return_lse=True)
    for b in range(2):
        for got, want in zip(parts, ma.attention(q[0], k[0], v[b], return_weights=True, return_lse=True), strict=True):
            close(got[b], want)
    assert ma.steps(q[0], k[0], v).weights.shape == (2, 6, 5, 7)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_bias_mask_and_positions_follow_the_leading_axes(close, lead):
    rng = np.random.default_rng(25)
    q, k, v = rng.standard_normal((*lead, 4, 5, 3)), rng.standard_normal((*lead, 2, 6, 3)), rng.standard_normal((*lead, 2, 6, 2))
    bias, mask = rng.standard_normal((*lead, 4, 5, 6)), rng.random((*lead, 1, 5, 6)) < 0.7
    q_pos, k_pos = rng.integers(0, 9, (*lead, 5)), rng.integers(0, 9, (*lead, 6))
    whole = ma.attention(q, k, v, bias=bias, mask=mask, causal=True, q_pos=q_pos, k_pos=k_pos)
    for at in np.ndindex(lead):
        close(
            whole[at],
            ma.attention(q[at], k[at], v[at], bias=bias[at], mask=mask[at], causal=True, q_pos=q_pos[at], k_pos=k_pos[at]),
        )


def test_score_mod_counts_rows_flat():
    rows = set()

    def look(s, b, h, i, j):
        rows.update(np.ravel(b).tolist())
        assert np.broadcast_shapes(*(np.shape(a) for a in (s, b, h, i, j))) == s.shape == (6, 4, 5, 7)
        return s

    rng = np.random.default_rng(0)
    ma.attention(
        rng.standard_normal((2, 3, 4, 5, 8)),
        rng.standard_normal((2, 3, 2, 7, 8)),
        rng.standard_normal((2, 3, 2, 7, 8)),
        score_mod=look,
    )
    assert rows == set(range(6))


STRIDES = {
    "a slice of more": lambda a: np.repeat(np.repeat(a, 2, axis=-1), 3, axis=-2)[..., ::3, ::2],
    "backwards": lambda a: np.ascontiguousarray(a[..., ::-1, ::-1])[..., ::-1, ::-1],
    "length before heads": lambda a: np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2),
    "Fortran order": np.asfortranarray,
}


@pytest.mark.parametrize("restride", STRIDES.values(), ids=STRIDES)
def test_strides(drawn, close, restride):
    q, k, v = drawn(26)
    want, strange = ma.attention(q, k, v, causal=True), [restride(a) for a in (q, k, v)]
    assert all((a == b).all() for a, b in zip(strange, (q, k, v), strict=True))
    close(ma.attention(*strange, causal=True), want)
    dout = np.random.default_rng(0).standard_normal(want.shape)
    for got, wanted in zip(
        ma.attention_backward(restride(dout), *strange)[:3], ma.attention_backward(dout, q, k, v)[:3], strict=True
    ):
        close(got, wanted)


def test_read_only_and_zero_stride_arrays(drawn, close):
    q, k, v = drawn(27, B=1)
    wide = [np.broadcast_to(a, (3, *a.shape[1:])) for a in (q, k, v)]  # zero strides, and not to be written to
    close(ma.attention(*wide, causal=True), np.repeat(ma.attention(q, k, v, causal=True), 3, axis=0))
    mask, bias = np.broadcast_to(np.array(True), (5, 7)), np.broadcast_to(np.array(0.5), (1, 6, 5, 7))
    grads = ma.attention_backward(np.broadcast_to(1.0, (3, 6, 5, 3)), *wide, mask=mask, bias=bias)
    close(grads.dk[1], ma.attention_backward(np.ones((1, 6, 5, 3)), q, k, v).dk[0])


def test_inputs_are_left_alone(drawn):
    q, k, v = drawn(28)
    rng = np.random.default_rng(0)
    given = {
        "q": q, "k": k, "v": v, "bias": rng.standard_normal((6, 5, 7)), "mask": rng.random((5, 7)) < 0.5,
        "sink_logits": rng.standard_normal(6),        "q_pos": rng.integers(-1, 9, (2, 5)), "k_pos": rng.integers(-1, 9, (2, 7)),
    }  # fmt: skip
    before = {name: a.copy() for name, a in given.items()}
    dout = rng.standard_normal((2, 6, 5, 3))
    out, lse = ma.attention(**given, causal=True, return_lse=True)
    ma.attention_backward(dout, **given, out=out, lse=lse, causal=True)
    arrays = {name: a for name, a in given.items() if name != "v"}
    ma.attention_weights(**arrays, lse=lse, heads=1, rows=[0, 2], top=2)
    ma.steps(**given)
    for name, a in given.items():
        np.testing.assert_array_equal(a, before[name], err_msg=name)


def test_results_share_no_memory_with_inputs(drawn):
    q, k, v = drawn(29, N=1, S=1)
    for result in ma.attention(q, k, v, scale=1, return_weights=True, return_lse=True):
        assert not any(np.shares_memory(result, a) for a in (q, k, v))
        assert result.flags.writeable


def test_lists_are_arrays():
    assert ma.attention([[1.0]], [[2.0], [3.0]], [[5.0], [5.0]], mask=[[True, False]]).tolist() == [[5.0]]


def test_what_is_returned_and_in_which_order(drawn):
    q, k, v = drawn(30)
    out, weights, lse = ma.attention(q, k, v, return_weights=True, return_lse=True)
    for options, want in (({}, out), ({"return_weights": True}, (out, weights)), ({"return_lse": True}, (out, lse))):
        got = ma.attention(q, k, v, **options)
        assert isinstance(got, tuple) == isinstance(want, tuple)
        for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (got, want)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_backends(drawn):
    q, k, v = drawn(31)
    np.testing.assert_array_equal(ma.attention(q, k, v, backend="numpy"), ma.attention(q, k, v))


@pytest.mark.parametrize("kind", [np.uint8, np.uint32, np.uint64, np.int8, np.int64])
def test_positions_of_any_integer_type(drawn, kind):
    """A distance i - j may be negative, also between unsigned positions."""
    q, k, v = drawn(32)
    got = ma.attention(q, k, v, mask=masks.window(2, 1), q_pos=np.arange(2, 7).astype(kind), k_pos=np.arange(7).astype(kind))
    np.testing.assert_array_equal(got, ma.attention(q, k, v, mask=masks.window(2, 1)))
