"""Streaming attention: all queries at once against a rolling cache, one token at a time."""
import numpy as np
import pytest

import minattn as ma

TURN = {"layout": "half", "theta": 500.0}


def streamed(q, k, v, window, first, rope):
    """What `RollingCache` makes of it, token by token: (B, H, N, D) without RoPE in it yet."""
    cache = ma.RollingCache(len(k), k.shape[1], window, k.shape[3], np.float64, first, value_dim=v.shape[3])
    outs = []
    for n in range(k.shape[2]):
        here = np.s_[:, :, n:n + 1]
        k_all, v_all, q_pos, k_pos = cache.append(k[here], v[here])
        q_in, k_in = cache.rope_positions()
        turned = (q[here], k_all) if rope is None else (ma.rope(q[here], q_in, **rope), ma.rope(k_all, k_in, **rope))
        outs.append(ma.attention(*turned, v_all, causal=True, q_pos=q_pos, k_pos=k_pos))
    return np.concatenate(outs, axis=2)


@pytest.mark.parametrize("rope", [None, TURN], ids=["plain", "rope"])
@pytest.mark.parametrize(("window", "first"), [(1, 0), (1, 3), (5, 0), (5, 2), (16, 4), (64, 1), (200, 4)])
@pytest.mark.parametrize("length", [1, 7, 64, 129])
def test_all_at_once_is_a_rolling_cache(drawn, close, length, window, first, rope):
    q, k, v = drawn(length + window, N=length, S=length)
    n = np.arange(length)
    turned = (q, k) if rope is None else (ma.rope(q, n, **rope), ma.rope(k, n, **rope))
    got = ma.streaming_attention(*turned, v, window=window, first=first, rope=rope)
    close(got, streamed(q, k, v, window, first, rope), 1e-11)


def test_the_last_queries_alone_and_other_positions(drawn, close):
    q, k, v = drawn(1, N=40, S=40)
    n = np.arange(40)
    q, k = ma.rope(q, n, **TURN), ma.rope(k, n, **TURN)
    options = {"window": 6, "first": 2, "rope": TURN}
    whole = ma.streaming_attention(q, k, v, **options)
    close(ma.streaming_attention(q[:, :, 33:], k, v, **options), whole[:, :, 33:], 1e-12)
    order = np.random.default_rng(0).permutation(40)                  # keys in whatever order, and a batch axis
    q_pos, k_pos = np.stack([n, n]), np.stack([order, order])
    close(ma.streaming_attention(q, k[:, :, order], v[:, :, order], q_pos=q_pos, k_pos=k_pos, **options), whole, 1e-12)


@pytest.mark.parametrize("first", [0, 2])
def test_weights_are_those_of_the_output(drawn, close, first):
    q, k, v = drawn(5, N=20, S=20)
    n = np.arange(20)
    q, k, options = ma.rope(q, n, **TURN), ma.rope(k, n, **TURN), {"window": 6, "first": first, "rope": TURN}
    q_pos = np.where(n == 9, -1, n)                                   # one query is padding
    out, weights, lse = ma.streaming_attention(q, k, v, **options, q_pos=q_pos, return_weights=True, return_lse=True)
    close(weights @ ma.repeat_kv(v, 2), out, 1e-12)
    real = n != 9
    close(weights.sum(axis=-1)[..., real], np.ones((2, 6, 19)), 1e-12)
    mask = (ma.masks.last(6) | ma.masks.first(first)) & ma.masks.causal()
    np.testing.assert_array_equal(weights[0, 0, real] > 0, mask.dense(20, 20)[real])
    assert not weights[:, :, 9].any()
    assert (lse[:, :, 9] == -np.inf).all()


def test_nothing_between_the_first_tokens_and_the_window_is_read(drawn):
    q, k, v = drawn(2, N=40, S=40)
    poisoned = [a.copy() for a in (k, v)]
    for a in poisoned:
        a[:, :, 2:30] = np.nan
    options = {"window": 6, "first": 2}
    clean, other = (ma.streaming_attention(q[:, :, 35:], *pair, **options) for pair in ((k, v), poisoned))
    np.testing.assert_array_equal(other, clean)


def test_no_distance_is_beyond_the_cache(drawn, close):
    """Moved on by any number of tokens, a full cache gives the same: what the model was trained on is enough for ever."""
    q, k, v = drawn(3, N=12, S=12)
    outs = []
    for start in (0, 10_000):                                         # the last ten tokens stand that much later
        n = np.r_[0:2, start + 2:start + 12]
        turned = ma.rope(q, n, **TURN), ma.rope(k, n, **TURN)
        got = ma.streaming_attention(*turned, v, window=4, first=2, rope=TURN, q_pos=n, k_pos=n)
        outs.append(got[:, :, 6:])                                    # the window is full
    close(*outs, 1e-11)


def test_what_is_refused(drawn):
    q, k, v = drawn(4)
    for options, says in (({"window": 0}, "window = 0"), ({"window": 2, "first": -1}, "first = -1"),
                          ({"window": 2, "causal": False}, "causal = False"), ({"window": 2, "rope": "half"}, "rope is 'half'"),
                          ({"window": 2, "rope": {"layout": "pairs"}}, "layout is 'pairs'")):  # fmt: skip
        with pytest.raises(ma.errors.OptionError, match=says):
            ma.streaming_attention(q, k, v, **options)
