"""Ring attention on virtual machines equals attention, forward and backward, whoever holds which tokens."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minattn as ma
from minattn.ring import shares

SCHEDULES = "contiguous", "striped", "zigzag"


def drawn(N=21, S=21, H=4, G=2, D=6, Dv=5, dtype=np.float64, seed=0, lead=(2,)):
    rng = np.random.default_rng(seed)
    sizes = [(H, N, D), (G, S, D), (G, S, Dv), (H, N, Dv)]
    return [rng.standard_normal((*lead, *size)).astype(dtype) for size in sizes]


def assert_equal(made, wanted, tolerance):
    for a, b in zip(made, wanted, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        finite = np.abs(b[np.isfinite(b)]).max(initial=1)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * finite)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("ranks", range(1, 9))
def test_forward_and_backward_equal_attention(ranks, causal, schedule):
    q, k, v, dout = drawn()
    options = {"causal": causal, "softcap": 3.0 if ranks % 2 else None}
    ring = {**options, "ranks": ranks, "schedule": schedule}
    assert_equal(ma.ring_attention(q, k, v, **ring, return_lse=True), ma.attention(q, k, v, **options, return_lse=True), 1e-12)
    assert_equal(ma.ring_attention_backward(dout, q, k, v, **ring), ma.attention_backward(dout, q, k, v, **options)[:3], 1e-12)


@settings(max_examples=40, deadline=None)
@given(N=st.integers(0, 9), S=st.integers(0, 9), ranks=st.integers(1, 5), schedule=st.sampled_from(SCHEDULES),
       mask=st.sampled_from(["none", "causal", "window", "heads", "nothing"]))  # fmt: skip
def test_any_lengths_and_masks(N, S, ranks, schedule, mask):
    q, k, v, dout = drawn(N, S)
    masks = {"none": None, "causal": ma.masks.causal(), "window": ma.masks.last(3) | ma.masks.first(1),
             "heads": ma.Mask(lambda b, h, i, j: (i + h) % 3 != j % 3), "nothing": ma.masks.first(0)}  # fmt: skip
    ring = {"mask": masks[mask], "ranks": ranks, "schedule": schedule}
    whole = ma.attention(q, k, v, mask=masks[mask], return_lse=True)
    assert_equal(ma.ring_attention(q, k, v, **ring, return_lse=True), whole, 1e-12)
    grads = ma.attention_backward(dout, q, k, v, mask=masks[mask])[:3]
    assert_equal(ma.ring_attention_backward(dout, q, k, v, **ring, out=whole[0], lse=whole[1]), grads, 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 2e-3)])
def test_narrow_types_keep_their_type_and_wide_partials(dtype, tolerance):
    q, k, v, dout = drawn(129, 129, D=16, dtype=dtype)
    wide = [a.astype(np.float64) for a in (q, k, v)]
    out = ma.ring_attention(q, k, v, ranks=3, causal=True, schedule="zigzag")
    assert out.dtype == dtype
    exact = ma.attention(*wide, causal=True)
    assert np.abs(out - exact).max() <= tolerance * np.abs(exact).max()
    grads = ma.ring_attention_backward(dout, q, k, v, ranks=3, causal=True, schedule="zigzag")
    for made, right in zip(grads, ma.attention_backward(dout.astype(np.float64), *wide, causal=True), strict=False):
        assert made.dtype == dtype
        assert np.abs(made - right).max() <= 3 * tolerance * np.abs(right).max()


def test_one_head_without_an_axis():
    q, k, v, _ = (a[0, 0] for a in drawn())
    assert_equal([ma.ring_attention(q, k, v, ranks=4)], [ma.attention(q, k, v)], 1e-12)


@pytest.mark.parametrize("ranks", range(1, 9))
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_token_has_one_rank(ranks, schedule):
    for length in (0, 1, 7, 16, 33):
        held = [np.concatenate(runs) for runs in shares(length, ranks, schedule)]
        np.testing.assert_array_equal(np.sort(np.concatenate(held)), np.arange(length))
        assert max(map(len, held)) - min(map(len, held)) <= 2


@pytest.mark.parametrize("ranks", range(2, 9))
def test_who_computes_how_much_under_a_causal_mask(ranks):
    q, k, v, _ = drawn(6 * ranks + 5, 6 * ranks + 5, lead=())
    done = {}
    for schedule in SCHEDULES:
        _, hops = ma.ring_attention(q, k, v, ranks=ranks, causal=True, schedule=schedule, return_hops=True)
        done[schedule] = [sum(turn[rank].computed for turn in hops) for rank in range(ranks)]
        assert all(turn[rank].source == (rank - hop) % ranks for hop, turn in enumerate(hops) for rank in range(ranks))
        assert all(min(one.idle for one in turn) == 0 for turn in hops)
    assert done["contiguous"] == list(range(1, ranks + 1))
    assert done["zigzag"] == [2 * ranks + 1] * ranks
    assert done["striped"] == [ranks] * ranks


def test_what_is_sent_is_every_other_rank_s_keys_and_values():
    q, k, v, _ = drawn(20, 20, dtype=np.float32)
    _, hops = ma.ring_attention(q, k, v, ranks=3, return_hops=True)
    each = [k[..., run, :].nbytes + v[..., run, :].nbytes for run, in shares(20, 3)]
    for rank in range(3):
        assert [turn[rank].received for turn in hops] == [0, each[rank - 1], each[rank - 2]]


def test_the_lse_of_a_hop_is_that_of_the_keys_so_far():
    q, k, v, _ = drawn(lead=())
    _, hops = ma.ring_attention(q, k, v, ranks=3, return_hops=True)
    runs = [run for run, in shares(21, 3)]
    for hop in range(3):
        come = np.concatenate([runs[(1 - n) % 3] for n in range(hop + 1)])
        _, lse = ma.attention(q[:, runs[1]], k[:, come], v[:, come], return_lse=True)
        np.testing.assert_allclose(hops[hop][1].lse, lse, rtol=1e-12)


def test_errors():
    q, k, v, dout = drawn()
    for options, text in [({"ranks": 0}, "ranks"), ({"ranks": 2, "schedule": "round"}, "'zigzag'"),
                          ({"ranks": 2, "mask": np.ones((21, 21), bool)}, "Mask")]:  # fmt: skip
        with pytest.raises(ma.MinattnError, match=text):
            ma.ring_attention(q, k, v, **options)
    with pytest.raises(ma.MinattnError, match="dout is"):
        ma.ring_attention_backward(dout[..., :3], q, k, v, ranks=2)


def test_leading_axes_broadcast():
    q, k, v, _ = drawn()
    shared = q[:1], k[0], v
    dout = np.random.default_rng(1).standard_normal((2, 4, 21, 5))
    assert_equal([ma.ring_attention(*shared, ranks=3, causal=True)], [ma.attention(*shared, causal=True)], 1e-12)
    wanted = ma.attention_backward(dout, *shared, causal=True)[:3]
    assert_equal(ma.ring_attention_backward(dout, *shared, ranks=3, causal=True), wanted, 1e-12)
