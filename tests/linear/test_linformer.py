"""Linformer: attention over mixtures of the keys, which the identity leaves alone."""
import numpy as np
import pytest

import minattn as ma


def mixers(seed, *shape):
    return np.random.default_rng(seed).standard_normal((2, *shape))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("length", [1, 7, 64, 129])
def test_a_slot_for_each_key_is_full_attention(drawn, close, length, dtype, tolerance):
    q, k, v = drawn(length, N=5, S=length, dtype=dtype)
    order = np.random.default_rng(0).permutation(length)
    for e in (np.eye(length, dtype=dtype), np.eye(length, dtype=dtype)[order]):    # in whatever order
        got = ma.linformer_attention(q, k, v, e, e)
        assert got.dtype == dtype
        close(got, ma.attention(q, k, v), tolerance)


def test_rows_that_pool_give_pooled_attention(drawn, close):
    q, k, v = drawn(1, N=5, S=12)
    pool = np.kron(np.eye(4), np.full((1, 3), 1 / 3))                              # each slot is the mean of three
    pooled_k, pooled_v = (a.reshape(2, 3, 4, 3, -1).mean(axis=3) for a in (k, v))
    close(ma.linformer_attention(q, k, v, pool, pool), ma.attention(q, pooled_k, pooled_v))


def test_rows_that_choose_give_attention_to_the_chosen(drawn, close):
    q, k, v = drawn(2, N=5, S=9)
    choose = np.eye(9)[[1, 4, 8]]
    close(ma.linformer_attention(q, k, v, choose, choose), ma.attention(q, k[:, :, [1, 4, 8]], v[:, :, [1, 4, 8]]))


@pytest.mark.parametrize("own", [(), (1,), (3,)])
def test_equals_the_formula_by_hand(drawn, close, own):
    q, k, v = drawn(3)
    e, f = mixers(0, *own, 4, 7)
    got = ma.linformer_attention(q, k, v, e, f)
    want = np.zeros((2, 6, 5, 3))
    for b, h in np.ndindex(2, 6):
        of_k, of_v = (np.broadcast_to(a, (3, 4, 7))[h // 2] for a in (e, f))
        scores = q[b, h] @ (of_k @ k[b, h // 2]).T / 2
        weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        want[b, h] = weights @ (of_v @ v[b, h // 2])
    close(got, want)
    one = [np.broadcast_to(a, (3, 4, 7))[1] for a in (e, f)]
    close(ma.linformer_attention(q[0, 2], k[0, 1], v[0, 1], *one), want[0, 2])


def test_a_map_of_few_slots_loses_nothing_where_keys_and_values_repeat(drawn, close):
    """Equal keys share their weight: one slot for each of them loses nothing as long as they are equally many."""
    q, k, v = drawn(4, N=5, S=4)
    pool = np.kron(np.eye(4), np.full((1, 5), 1 / 5))
    close(ma.linformer_attention(q, np.repeat(k, 5, axis=2), np.repeat(v, 5, axis=2), pool, pool), ma.attention(q, k, v))


def test_inner_products_are_off_by_one_over_the_square_root_of_the_slots():
    """The paper's argument for random e (Johnson and Lindenstrauss): (e a) . (e b) is a . b in the mean."""
    S, slots, trials = 30, 4 ** np.arange(1, 5), 400
    a, b = np.random.default_rng(0).standard_normal((2, S))
    w = ma.random_projection(slots[-1] * trials, S, orthogonal=False, seed=0)
    each = (w @ a) * (w @ b) - a @ b
    errors = [(each.reshape(-1, r).mean(axis=-1) ** 2).mean() ** 0.5 for r in slots]
    assert abs(np.polyfit(np.log(slots), np.log(errors), 1)[0] + 0.5) < 0.03
    assert abs(each.mean()) < 3 * each.std() / len(each) ** 0.5


@pytest.mark.parametrize("own", [(), (2,)])
def test_gradient(drawn, close, slopes, own):
    q, k, v = drawn(7, B=1, H=4, G=2, N=5, S=6, D=3, Dv=2)
    e, f = mixers(1, *own, 4, 6)
    named, dout = {"q": q, "k": k, "v": v, "e": e, "f": f}, np.random.default_rng(0).standard_normal((1, 4, 5, 2))
    grads = ma.linformer_attention_backward(dout, **named)
    for name, a in named.items():
        want = slopes(lambda x, name=name: (ma.linformer_attention(**named | {name: x}) * dout).sum(), a)
        close(getattr(grads, f"d{name}"), want, 1e-7)


def test_gradients_are_summed_over_what_is_shared_and_keep_their_types(drawn, close):
    q, k, v = drawn(8, dtype=np.float32)
    e, f = mixers(2, 4, 7).astype(np.float32)
    dout = np.random.default_rng(0).standard_normal((2, 6, 5, 3))
    got = ma.linformer_attention_backward(dout, q, k[:1], v[0], e, f)
    full = ma.linformer_attention_backward(dout, q, np.repeat(k[:1], 2, axis=0), np.repeat(v[:1], 2, axis=0), e, f)
    close(got.dk, full.dk.sum(axis=0, keepdims=True), 1e-5)
    close(got.dv, full.dv.sum(axis=0), 1e-5)
    close(got.de, full.de, 1e-5)
    close(got.df, full.df, 1e-5)
    assert {a.dtype for a in got} == {np.dtype(np.float32)}


def test_16_bit_is_mixed_in_32(drawn, close):
    q, k, v = drawn(5, S=200, dtype=np.float16)
    e, f = np.full((2, 3, 200), 1 / 200, np.float16) + mixers(3, 3, 200).astype(np.float16) / 16
    out = ma.linformer_attention(q, k, v, e, f)
    assert out.dtype == np.float16
    close(out, ma.linformer_attention(*(a.astype(np.float64) for a in (q, k, v, e, f))), 1e-3)


@pytest.mark.parametrize(("changed", "error", "says"), [
    ({"e": np.ones((4, 6))}, ma.errors.ShapeError, r"e is \(r=4, S=6\) but k is .*it must be \(r, S\) with S = 7"),
    ({"f": np.ones((4, 6))}, ma.errors.ShapeError, r"f is \(r=4, S=6\) but v is "),
    ({"f": np.ones((3, 7))}, ma.errors.ShapeError, "f has r = 3 slots but e has r = 4"),
    ({"e": np.ones(7)}, ma.errors.ShapeError, r"it must be \(r, S\)"),
    ({"e": np.ones((2, 4, 7))}, ma.errors.ShapeError, r"e is \(G=2, r=4, S=7\).*each full or 1"),
    ({"e": np.ones((1, 1, 1, 4, 7))}, ma.errors.ShapeError, "axes before"),
    ({"e": np.ones((4, 7), int)}, ma.errors.DtypeError, "e is int64"),
    ({"k": np.ones((2, 3, 7, 5))}, ma.errors.ShapeError, "k has D = 5 but q has D = 4"),
], ids=str)  # fmt: skip
def test_what_is_refused(drawn, changed, error, says):
    q, k, v = drawn(6)
    e, f = mixers(0, 4, 7)
    with pytest.raises(error, match=says):
        ma.linformer_attention(**{"q": q, "k": k, "v": v, "e": e, "f": f} | changed)


def test_what_the_gradient_refuses(drawn):
    with pytest.raises(ma.errors.ShapeError, match=r"dout is \(2, 6, 5, 4\)"):
        ma.linformer_attention_backward(np.ones((2, 6, 5, 4)), *drawn(6), *mixers(0, 4, 7))
