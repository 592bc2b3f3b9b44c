"""Backend "cpu" equals the reference in float64, whatever it is given; and what must not be read is not read."""
import os
import subprocess
import sys

import numpy as np
import pytest

import minattn as ma
from minattn import masks

pytest.importorskip("numba", reason="numba is not installed: there is no backend cpu")

LENGTHS = [1, 2, 7, 8, 9, 17, 64, 65, 129, 200]


def case(rng):
    """q, k, v in float32 and options, of sizes and kinds that nothing makes round."""
    B, G, group = rng.choice([1, 2]), rng.choice([1, 2, 3]), rng.choice([1, 2, 3])
    H, N, S = G * group, rng.choice(LENGTHS), rng.choice([*LENGTHS, 600])
    D, Dv = rng.choice([8, 16, 20, 33, 64, 128]), rng.choice([5, 8, 33, 64, 128])
    q, k, v = (rng.standard_normal((B, heads, length, dim)).astype(np.float32) for heads, length, dim in
               ((H, N, D), (G, S, D), (G, S, Dv)))  # fmt: skip
    if rng.random() < 0.3:
        k = np.asfortranarray(k)
    if rng.random() < 0.3:
        v = v[..., ::-1]
    if rng.random() < 0.3 and S > 3:
        k, v = k[:, :, ::2], v[:, :, ::2]
        S = k.shape[2]
    if rng.random() < 0.2:
        k = k[:1]
    options = [
        {}, {"causal": True}, {"mask": masks.causal() & (masks.last(5) | masks.first(2))}, {"mask": rng.random((N, S)) > 0.5},
        {"mask": rng.random((B, 1, N, S)) > 0.8}, {"mask": masks.padding(rng.integers(0, S + 1, B)), "causal": True},
        {"mask": ma.Mask(lambda b, h, i, j: (i + j + h) % 3 > 0)},
    ][rng.integers(7)]  # fmt: skip
    extras = {
        "q_pos": rng.integers(-1, S, (B, N)), "k_pos": rng.integers(-1, S, (B, S)),
        "bias": rng.standard_normal((H, 1, S)).astype(np.float32), "softcap": 1.5,
        "sink_logits": rng.standard_normal(H).astype(np.float32), "scale": 0.3,
    }  # fmt: skip
    for name, value in extras.items():
        if rng.random() < 0.25:
            options[name] = value
    if "k_pos" in options:
        options.setdefault("q_pos", extras["q_pos"])
    return (q, k, v), options


@pytest.mark.parametrize("seed", range(60))
def test_equals_the_reference(seed):
    arrays, options = case(np.random.default_rng(seed))
    want, want_lse = ma.attention(*(a.astype(np.float64) for a in arrays), backend="numpy", return_lse=True, **options)
    got, lse = ma.attention(*arrays, backend="cpu", return_lse=True, **options)
    assert got.dtype == lse.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(np.abs(want).max(initial=0), 1e-3))
    np.testing.assert_allclose(lse, want_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("N", [1, 5, 70])
def test_rows_that_see_nothing(N):
    q, k, v = np.random.default_rng(N).standard_normal((3, 2, N, 16)).astype(np.float32)
    mask = np.ones((N, N), bool)
    mask[N // 2] = False
    out, lse = ma.attention(q, k, v, mask=mask, backend="cpu", return_lse=True)
    assert not out[:, N // 2].any()
    assert (lse[:, N // 2] == -np.inf).all()
    sinks = np.float32([0.5, -1])
    out, lse = ma.attention(q, k, v, mask=mask, sink_logits=sinks, backend="cpu", return_lse=True)
    assert not out[:, N // 2].any()
    np.testing.assert_allclose(lse[:, N // 2], sinks, rtol=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("N", [1, 3, 90])
def test_poison_in_hidden_keys_and_values(N, poison):
    q, k, v = np.random.default_rng(7).standard_normal((3, 2, 100, 24)).astype(np.float32)
    q, mask = q[:, :N], masks.causal() & masks.last(5)
    clean = ma.attention(q, k, v, mask=mask, backend="cpu")
    hidden = ~mask.dense(N, 100).any(axis=0)
    assert hidden.any()
    k[:, hidden], v[:, hidden] = poison, poison
    np.testing.assert_allclose(ma.attention(q, k, v, mask=mask, backend="cpu"), clean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("N", [1, 70])
def test_a_nan_that_is_seen_shows(N):
    q, k, v = np.random.default_rng(8).standard_normal((3, 1, 70, 16)).astype(np.float32)
    k[0, 3, 2] = np.nan
    assert np.isnan(ma.attention(q[:, -N:], k, v, backend="cpu")).all()


@pytest.mark.parametrize("N", [1, 130])
def test_huge_logits(N):
    q, k, v = np.random.default_rng(9).standard_normal((3, 2, 130, 16))
    q, k = np.sign(q[:, :N]) * 50, np.sign(k) * 50                          # scores of up to +-10,000, exact in float32
    want = ma.attention(q, k, v, backend="numpy")
    got = ma.attention(*(a.astype(np.float32) for a in (q, k, v)), backend="cpu")
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("N", [3, 70])
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_sixteen_bits(kind, N, need):
    dtype = np.dtype(kind) if kind == "float16" else need("ml_dtypes").bfloat16
    q, k, v = np.random.default_rng(1).standard_normal((3, 2, 70, 32)).astype(dtype)
    q = q[:, -N:]
    out, lse = ma.attention(q, k, v, causal=True, backend="cpu", return_lse=True)
    assert (out.dtype, lse.dtype) == (dtype, np.float32)
    want = ma.attention(*(a.astype(np.float64) for a in (q, k, v)), causal=True)
    np.testing.assert_allclose(out.astype(np.float64), want, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("H", [2, 8])                                      # two passes, and one
def test_finite_gradients_are_the_kernels_own(H, monkeypatch):
    q, k, v, dout = np.random.default_rng(12).standard_normal((4, H, 300, 16), dtype=np.float32)
    want = ma.attention_backward(dout, q, k, v, causal=True, backend="numpy")
    monkeypatch.setattr("minattn.flash.online.backward", None)             # which takes over where they are NaN or inf
    dirty = [np.full(size, np.nan, np.float32) for size in (5_000, 20_000, 80_000, 320_000)]
    del dirty                                                              # memory that the next arrays may get
    got = ma.attention_backward(dout, q, k, v, causal=True, backend="cpu")
    for mine, theirs in zip(got[:3], want[:3], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def packed(a):
    """The same numbers with a byte before every row of D: neither addresses nor strides are whole numbers of floats."""
    rows = np.zeros(a.shape[:-1], [("flag", "u1"), ("row", a.dtype, a.shape[-1:])])
    rows["row"] = a
    return rows["row"]


@pytest.mark.parametrize("N", [1, 70])
@pytest.mark.parametrize("kind", ["f4", "f2"])
@pytest.mark.parametrize("odd", [packed, lambda a: a.astype(a.dtype.newbyteorder())], ids=["unaligned", "other byte order"])
def test_memory_that_kernels_cannot_read(odd, kind, N):
    q, k, v = (a.astype(kind) for a in np.random.default_rng(11).standard_normal((3, 2, 70, 16)))
    q = q[:, :N]
    want = ma.attention(q, k, v, backend="cpu")
    np.testing.assert_array_equal(ma.attention(*map(odd, (q, k, v)), backend="cpu"), want)
    grads, others = (ma.attention_backward(d, *a, backend="cpu") for d, a in ((q, (q, k, v)), (odd(q), map(odd, (q, k, v)))))
    for mine, theirs in zip(grads[:3], others[:3], strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_weights_and_gradients_belong_to_it():
    rng = np.random.default_rng(2)
    q, k, v, dout = rng.standard_normal((4, 3, 70, 16)).astype(np.float32)
    out, weights = ma.attention(q, k, v, causal=True, backend="cpu", return_weights=True)
    np.testing.assert_array_equal(out, ma.attention(q, k, v, causal=True, backend="cpu"))
    np.testing.assert_allclose(weights @ v, out, rtol=0, atol=1e-5)
    got = ma.attention_backward(dout, q, k, v, causal=True, backend="cpu")
    want = ma.attention_backward(*(a.astype(np.float64) for a in (dout, q, k, v)), causal=True, backend="numpy")
    for mine, theirs in zip(got[:3], want[:3], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def compare_gradients(arrays, dout, options):
    """Within 1e-5, or within the rounding of dP where a row's dP - delta cancels (as it does before a single key)."""
    got = ma.attention_backward(dout, *arrays, backend="cpu", **options)
    want = ma.attention_backward(*(a.astype(np.float64) for a in (dout, *arrays)), backend="numpy", **options)
    q, k, v, do = (np.abs(a).max(initial=1) for a in (*arrays, dout))
    rounding = np.finfo(np.float32).eps * do * v * max(q, k)
    for mine, exact in zip(got, want, strict=True):
        assert (mine is None) == (exact is None)
        if mine is not None:
            assert (mine.shape, mine.dtype) == (exact.shape, np.float32)
            np.testing.assert_allclose(mine, exact, rtol=0, atol=1e-5 * np.abs(exact).max(initial=0) + rounding)


@pytest.mark.parametrize("seed", range(100, 140))
def test_gradients_equal_the_reference(seed):
    rng = np.random.default_rng(seed)
    arrays, options = case(rng)
    dout = rng.standard_normal((*arrays[0].shape[:3], arrays[2].shape[3])).astype(np.float32)
    compare_gradients(arrays, dout, options)


@pytest.mark.parametrize("B", [1, 4])                                     # a task for a block or a stretch; one for a KV head
def test_gradients_of_many_blocks(B):
    rng = np.random.default_rng(B)
    q, dout = rng.standard_normal((2, B, 4, 300, 24)).astype(np.float32)
    k, v = rng.standard_normal((2, B, 2, 333, 24)).astype(np.float32)
    compare_gradients((q, k, v), dout, {"causal": True})


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_gradients_around_poison(poison):
    rng = np.random.default_rng(3)
    q, k, v, dout = rng.standard_normal((4, 2, 90, 16)).astype(np.float32)
    mask = masks.causal() & masks.last(9) & ~masks.first(20)
    clean = ma.attention_backward(dout, q, k, v, mask=mask, backend="cpu")
    k[:, :20] = v[:, :20] = poison
    for mine, theirs in zip(ma.attention_backward(dout, q, k, v, mask=mask, backend="cpu")[:3], clean[:3], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_poison_that_some_may_see():
    """A key in a partial tile whose value is NaN: who may not see it is untouched, also where others see it."""
    q, k, v = np.random.default_rng(4).standard_normal((3, 1, 100, 16)).astype(np.float32)
    clean = ma.attention(q, k, v, causal=True, backend="cpu")
    v[0, 50] = np.nan
    out = ma.attention(q, k, v, causal=True, backend="cpu")
    np.testing.assert_allclose(out[:, :50], clean[:, :50], rtol=0, atol=1e-6)
    assert np.isnan(out[:, 50:]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_without_a_finite_result_spoils_no_hidden_key(bad):
    rng = np.random.default_rng(6)
    q, k, v, dout = rng.standard_normal((4, 1, 100, 16)).astype(np.float32)
    bias = np.zeros((100, 100), np.float32)
    bias[40, 7] = bad                                                     # so row 40, which sees keys 0 .. 40, is NaN
    got, want = (ma.attention_backward(dout, q, k, v, bias=bias, causal=True, backend=name) for name in ("cpu", "numpy"))
    for mine, theirs in zip(got[:3], want[:3], strict=True):
        np.testing.assert_array_equal(np.isnan(mine), np.isnan(theirs))
    assert np.isfinite(got.dk[:, 41:]).all()
    assert np.isnan(got.dk[:, :41]).all()


def test_a_nan_shows_in_decoding_also_where_its_weight_is_0():
    q, k = np.full((1, 2, 16), 10, np.float32), np.full((1, 1500, 16), -3, np.float32)
    k[:, 1400:] = 3                                                       # another span of keys has all the weight
    v = np.ones((1, 1500, 16), np.float32)
    v[0, 5] = np.nan
    for backend in ("numpy", "cpu"):
        assert np.isnan(ma.attention(q, k, v, backend=backend)).all()


def test_one_kernel_for_all_layouts():
    """Read-only, in other orders, of other types: nothing is compiled anew for them."""
    from minattn.flash import cpu

    q, k, v, bias = np.random.default_rng(12).standard_normal((4, 1, 70, 70)).astype(np.float32)
    positions, reads = np.arange(70), [lambda a: a, np.asfortranarray, lambda a: a.astype(np.float64)]

    def call(a, pos):
        ma.attention(q, k, v, bias=a, q_pos=pos, k_pos=pos, causal=True, backend="cpu")
        ma.attention_backward(q, q, k, v, bias=a, q_pos=pos, k_pos=pos, causal=True, backend="cpu")

    call(bias, positions)
    before = cpu.forward_compiled.cache_info().currsize, cpu.backward_compiled.cache_info().currsize
    for read in reads:
        a, pos = read(bias), positions.astype(np.uint16)
        for array in (a, pos):
            array.flags.writeable = False
        call(a, pos)
        call(a[:, ::-1], np.broadcast_to(np.int64(3), 70))
    assert before == (cpu.forward_compiled.cache_info().currsize, cpu.backward_compiled.cache_info().currsize)


@pytest.mark.slow
def test_same_bits_for_any_number_of_threads(tmp_path):
    script = """
import numpy as np, minattn as ma
q, k, v = np.random.default_rng(0).standard_normal((3, 10, 300, 40)).astype(np.float32)
print([ma.attention(q[:, -n:], k, v, causal=True, backend="cpu").tobytes().hex() for n in (1, 300)])
for heads in (2, 10):                                                     # two passes, and one owner for a KV head
    few = [a[:heads] for a in (q, k, v)]
    print([g.tobytes().hex() for g in ma.attention_backward(few[0], *few, causal=True, backend="cpu")[:3]])
"""
    said = set()
    for threads in "124":
        environment = {**os.environ, "NUMBA_NUM_THREADS": threads, "NUMBA_CACHE_DIR": str(tmp_path)}
        run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
        said.add(run.stdout)
    assert len(said) == 1
