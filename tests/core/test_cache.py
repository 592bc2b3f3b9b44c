"""Caches: whatever the chunks, the padding and the lengths of the rows, every row equals itself alone and whole."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import minattn as ma
from minattn import KVCache, RollingCache, masks
from minattn.core.errors import CacheError, DtypeError, OptionError, ShapeError

H, G, D, DV = 4, 2, 3, 5


def tokens(rng, *lead):
    """q, k, v of some tokens, each (*lead, heads, D), in order of time."""
    return rng.standard_normal((*lead, H, D)), rng.standard_normal((*lead, G, D)), rng.standard_normal((*lead, G, DV))


def poisoned(cache):
    """A new cache as memory comes from the system: what nobody wrote is NaN."""
    cache.k[:], cache.v[:] = np.nan, np.nan
    return cache


@st.composite
def schedules(draw):
    """Real tokens of each row in each append, (steps, B), and how long each append is, padding included."""
    B, steps = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    real = np.array([[draw(st.integers(0, 5)) for _ in range(B)] for _ in range(steps)])
    return real, [int(row.max()) + draw(st.integers(0, 2)) for row in real]


def stream(make, schedule, seed, mask):
    """Feed rows of random tokens through a cache; return what each row got, beside each row alone and whole."""
    real, sizes = schedule
    rng, B, totals = np.random.default_rng(seed), real.shape[1], real.sum(axis=0)
    rows = [tokens(rng, n) for n in totals]
    cache, done, got = poisoned(make(B)), np.zeros(B, int), [[] for _ in range(B)]
    for lengths, N in zip(real, sizes, strict=True):
        q, k, v = (np.full((B, heads, N, dim), np.nan) for heads, dim in ((H, D), (G, D), (G, DV)))
        for b, n in enumerate(lengths):
            for new, line in zip((q, k, v), rows[b], strict=True):
                new[b, :, :n] = line[done[b] : done[b] + n].swapaxes(0, 1)
        assert (
            cache.next_positions(N, lengths) == np.where(np.arange(N) < lengths[:, None], done[:, None] + np.arange(N), -1)
        ).all()
        k_all, v_all, q_pos, k_pos = cache.append(k, v, lengths)
        assert q_pos.shape == (B, N)
        assert k_pos.shape == (B, k_all.shape[2])
        out = ma.attention(q, k_all, v_all, causal=True, mask=mask, q_pos=q_pos, k_pos=k_pos)
        done += lengths
        assert cache.lengths.tolist() == done.tolist()
        for b, n in enumerate(lengths):
            got[b].append(out[b, :, :n])
            assert not out[b, :, n:].any()  # a query at -1 sees nothing under causal
    want = [ma.attention(*(a.swapaxes(0, 1) for a in row), causal=True, mask=mask) for row in rows]
    return cache, [np.concatenate(parts, axis=1) for parts in got], want


@hypothesis.settings(max_examples=80)
@hypothesis.given(schedules(), st.integers(0, 2**32 - 1), st.sampled_from([None, masks.last(3), masks.last(2) | masks.first(1)]))
def test_rows_of_a_cache_are_each_row_alone(close, schedule, seed, mask):
    capacity = max(int(schedule[0].sum(axis=0).max()), 1)
    _, got, want = stream(lambda B: KVCache(B, G, capacity, D, np.float64, value_dim=DV), schedule, seed, mask)
    for a, b in zip(got, want, strict=True):
        close(a, b)


@hypothesis.settings(max_examples=120)
@hypothesis.given(schedules(), st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 4))
def test_rows_of_a_rolling_cache_are_each_row_alone(close, schedule, seed, window, first):
    mask = masks.last(window) | masks.first(first)
    make = lambda B: RollingCache(B, G, window, D, np.float64, first, value_dim=DV)  # noqa: E731
    cache, got, want = stream(make, schedule, seed, mask)
    for a, b in zip(got, want, strict=True):
        close(a, b)
    slots = first + window - 1
    assert cache.nbytes == schedule[0].shape[1] * G * slots * (D + DV) * 8


def test_one_token_after_the_other(close):
    q, k, v = (a.swapaxes(1, 2) for a in tokens(np.random.default_rng(0), 2, 9))
    cache, outs = KVCache(2, G, 9, D, np.float64, value_dim=DV), []
    for n in range(9):
        k_all, v_all, q_pos, k_pos = cache.append(k[:, :, n : n + 1], v[:, :, n : n + 1])
        assert q_pos.tolist() == [[n], [n]]
        assert k_pos.tolist() == [list(range(n + 1))] * 2
        outs.append(ma.attention(q[:, :, n : n + 1], k_all, v_all, causal=True, q_pos=q_pos, k_pos=k_pos))
    close(np.concatenate(outs, axis=2), ma.attention(q, k, v, causal=True))


@pytest.mark.parametrize("chunks", [[9], [1, 8], [8, 1], [4, 5], [2, 3, 4], [3, 0, 6]])
def test_any_split_of_the_prefill(close, chunks):
    q, k, v = (a.swapaxes(1, 2) for a in tokens(np.random.default_rng(1), 2, 9))
    cache, outs, start = KVCache(2, G, 12, D, np.float64, value_dim=DV), [], 0
    for n in chunks:
        part = np.s_[:, :, start : start + n]
        k_all, v_all, q_pos, k_pos = cache.append(k[part], v[part])
        outs.append(ma.attention(q[part], k_all, v_all, causal=True, q_pos=q_pos, k_pos=k_pos))
        start += n
    close(np.concatenate(outs, axis=2), ma.attention(q, k, v, causal=True))


def test_memory_is_allocated_once():
    """Bytes a token: 2 G D bytes of a number; what is handed back is a view."""
    cache = KVCache(2, G, 10, D, np.float16)
    assert cache.nbytes == 2 * 10 * 2 * G * D * 2
    k_all, v_all, *_ = cache.append(np.ones((2, G, 4, D)), np.ones((2, G, 4, D)))
    assert np.shares_memory(k_all, cache.k)
    assert np.shares_memory(v_all, cache.v)
    assert k_all.dtype == np.float16
    assert cache.lengths.tolist() == [4, 4]
    cache.lengths[0] = 99  # a copy: nobody counts but the cache
    assert cache.lengths.tolist() == [4, 4]


def test_llama_3_1_bytes_a_token():
    """8B in 16 bits: 131,072 bytes a token over 32 layers, where full multi-head would need 524,288 and one KV head 16,384."""
    for kv_heads, size in ((8, 131_072), (32, 524_288), (1, 16_384)):
        assert 32 * KVCache(1, kv_heads, 5, 128, np.float16).nbytes == 5 * size


def test_rolling_memory_does_not_grow():
    cache, one = RollingCache(1, G, 4, D, np.float32, first=2), np.ones((1, G, 1, D), np.float32)
    held = cache.nbytes
    assert held == 2 * G * (2 + 4 - 1) * D * 4
    for n in range(50):
        k_all, _, q_pos, k_pos = cache.append(one * n, one * n)
        assert k_all.shape[2] == k_pos.shape[1] == 2 + 4 - 1 + 1
        seen = sorted(pos for pos in k_pos[0].tolist() if pos >= 0)
        assert seen == sorted({*range(min(2, n + 1)), *range(max(n - 3, 0), n + 1)})
        assert (k_all[0, 0, :, 0] == k_pos[0])[k_pos[0] >= 0].all()  # each slot holds the token that k_pos says
        assert q_pos.tolist() == [[n]]
    assert cache.nbytes == held
    assert cache.lengths.tolist() == [50]


def test_rolling_hands_back_what_a_chunk_may_see():
    """S = first + window - 1 + N: also what the last of the N new tokens will evict."""
    rng = np.random.default_rng(2)
    cache = RollingCache(1, G, 3, D, np.float64, first=1, value_dim=DV)
    k, v = rng.standard_normal((1, G, 10, D)), rng.standard_normal((1, G, 10, DV))
    cache.append(k[:, :, :4], v[:, :, :4])
    k_all, _, _, k_pos = cache.append(k[:, :, 4:], v[:, :, 4:])
    assert k_all.shape[2] == 1 + 3 - 1 + 6
    assert sorted(k_pos[0].tolist()) == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(k_all[0, :, np.argsort(k_pos[0])], k[0, :, sorted(k_pos[0])])
    assert not np.shares_memory(k_all, cache.k)
    kept = k_all.copy()
    cache.append(k, v)
    np.testing.assert_array_equal(k_all, kept)


@pytest.mark.parametrize("first", [0, 2])
def test_rope_positions_count_inside_the_cache(first):
    """StreamingLLM: the first tokens and the window stand shoulder to shoulder, however long the text."""
    window = 4
    cache, one = RollingCache(1, 1, window, 2, first=first), np.ones((1, 1, 1, 2), np.float32)
    with pytest.raises(CacheError, match="nothing was appended yet"):
        cache.rope_positions()
    for n in range(20):
        _, _, q_pos, k_pos = cache.append(one, one)
        q_rope, k_rope = cache.rope_positions()
        seen = k_pos[0] >= 0
        order = np.argsort(k_pos[0][seen])
        assert k_rope[0][seen][order].tolist() == list(range(min(n + 1, first + window)))
        assert (k_rope[0][~seen] == -1).all()
        assert q_rope.tolist() == [[min(n, first + window - 1)]]
    assert q_pos.tolist() == [[19]]


def test_rope_positions_of_rows_and_chunks():
    cache, new = RollingCache(2, 1, 3, 2, first=1), np.ones((2, 1, 4, 2), np.float32)
    cache.append(new, new, [4, 2])
    for inside, true in zip(cache.rope_positions(), cache._latest, strict=True):  # nothing is evicted yet
        np.testing.assert_array_equal(inside, true)
    cache.append(new, new, [1, 2])  # row 0 is full and gets one token: counted
    q_rope, k_rope = cache.rope_positions()
    assert q_rope.tolist() == [[3, -1, -1, -1], [2, 3, -1, -1]]
    assert sorted(k_rope[0].tolist()) == [-1, -1, -1, 0, 1, 2, 3]
    cache.append(new, new, [0, 2])  # row 1 is full and gets two
    with pytest.raises(CacheError, match="row 1 got 2 tokens at once with its cache full"):
        cache.rope_positions()
    cache.reset(1)
    with pytest.raises(CacheError, match="nothing was appended yet"):
        cache.rope_positions()


@pytest.mark.parametrize(
    "make",
    [lambda: KVCache(3, G, 8, D, np.float64), lambda: RollingCache(3, G, 4, D, np.float64, 1)],
    ids=["KVCache", "RollingCache"],
)
def test_reset_of_one_row_and_of_all(make):
    cache, new = make(), np.ones((3, G, 5, D))
    cache.append(new, new)
    cache.reset(1)
    assert cache.lengths.tolist() == [5, 0, 5]
    _, _, q_pos, k_pos = cache.append(2 * new[:, :, :2], 2 * new[:, :, :2])
    assert q_pos.tolist() == [[5, 6], [0, 1], [5, 6]]
    assert sorted(pos for pos in k_pos[1].tolist() if pos >= 0) == [0, 1]  # nothing of the old text is seen
    cache.reset()
    assert cache.lengths.tolist() == [0, 0, 0]
    assert sorted(pos for pos in cache.append(new[:, :, :1], new[:, :, :1])[3][0].tolist() if pos >= 0) == [0]


def test_overflow_stores_nothing():
    rng = np.random.default_rng(3)
    cache, new = poisoned(KVCache(3, G, 6, D, np.float64)), rng.standard_normal((3, G, 4, D))
    cache.append(new, new, [4, 1, 3])
    before = cache.k.copy(), cache.v.copy()
    with pytest.raises(
        CacheError,
        match=r"the cache is full: row 0 holds 4 tokens and gets 3 more, but capacity = 6; make it larger.*RollingCache",
    ):
        cache.append(new, new, [3, 4, 3])
    assert cache.lengths.tolist() == [4, 1, 3]
    for held, kept in zip((cache.k, cache.v), before, strict=True):
        np.testing.assert_array_equal(held, kept)
    cache.append(new, new, [2, 4, 3])  # what fits goes on as if nothing had been tried
    assert cache.lengths.tolist() == [6, 5, 6]


@pytest.mark.parametrize("make", [
    lambda: KVCache(2, G, 9, D, np.float64, value_dim=DV),
    lambda: RollingCache(2, G, 3, D, np.float64, first=1, value_dim=DV),
], ids=["KVCache", "RollingCache"])
def test_undo_takes_the_last_append_back(make):
    _, k, v = (a.swapaxes(1, 2) for a in tokens(np.random.default_rng(4), 2, 9))
    tried, straight = make(), make()
    for cache in (tried, straight):
        cache.append(k[:, :, :4], v[:, :, :4], [4, 2])
    tried.append(k[:, :, 6:], v[:, :, 6:], [3, 0])
    tried.undo()
    assert tried.lengths.tolist() == [4, 2]
    with pytest.raises(CacheError, match="no append to take back"):
        tried.undo()
    for got, want in zip(*(cache.append(k[:, :, 4:6], v[:, :, 4:6]) for cache in (tried, straight)), strict=True):
        np.testing.assert_array_equal(got, want)
    tried.reset()
    with pytest.raises(CacheError, match="no append to take back"):
        tried.undo()


NEW = np.ones((2, G, 3, D))


@pytest.mark.parametrize("make", [lambda: KVCache(2, G, 8, D), lambda: RollingCache(2, G, 8, D)], ids=["KVCache", "RollingCache"])
@pytest.mark.parametrize(("new", "kind", "words"), [
    ((NEW[0], NEW), ShapeError, r"k_new is \(G=2, N=3, D=3\); this cache takes \(B=2, G=2, N, D=3\)"),
    ((NEW[:1], NEW), ShapeError, r"k_new is \(B=1, G=2, N=3, D=3\); this cache takes \(B=2"),
    ((NEW[:, :1], NEW), ShapeError, r"k_new is \(B=2, G=1"),
    ((NEW, NEW[..., :2]), ShapeError, r"v_new is .*D=2\); this cache takes .*D=3"),
    ((NEW, NEW[:, :, :2]), ShapeError, "k_new has N = 3 but v_new has N = 2"),
    ((NEW, NEW, [1]), ShapeError, r"lengths are int64 of shape \(1,\); they must be integers \(B,\) with B = 2"),
    ((NEW, NEW, [1.0, 2.0]), ShapeError, "lengths are float64"),
    ((NEW, NEW, [1, 4]), ShapeError, "lengths reach from 1 to 4, but there are N = 3 new tokens a row"),
    ((NEW, NEW, [-1, 3]), ShapeError, "lengths reach from -1 to 3"),
    ((NEW.astype(int), NEW), DtypeError, "k_new is int64"),
    ((NEW, NEW * 1j), DtypeError, "v_new is complex128"),
])  # fmt: skip
def test_bad_tokens_store_nothing(make, new, kind, words):
    cache = make()
    with pytest.raises(kind, match=words) as caught:
        cache.append(*new)
    assert isinstance(caught.value, ma.MinattnError)
    assert cache.lengths.tolist() == [0, 0]
    assert not cache.k.any()
    assert not cache.v.any()


@pytest.mark.parametrize("make", [lambda: KVCache(2, 1, 8, 2), lambda: RollingCache(2, 1, 3, 2)])
def test_lengths_of_an_unsigned_type(make):
    """int64 with uint64 is float64 in NumPy, which is no index."""
    new, cache, want = np.ones((2, 1, 3, 2), np.float32), make(), make()
    for lengths in ([2, 3], [0, 1]):
        for got, wanted in zip(cache.append(new, new, np.array(lengths, np.uint64)), want.append(new, new, lengths), strict=True):
            np.testing.assert_array_equal(got, wanted)
            assert got.dtype == wanted.dtype


@pytest.mark.parametrize(("make", "kind", "words"), [
    (lambda: KVCache(0, 1, 4, 2), OptionError, "batch = 0; it must be at least 1"),
    (lambda: KVCache(1, 0, 4, 2), OptionError, "kv_heads = 0"),
    (lambda: KVCache(1, 1, 0, 2), OptionError, "capacity = 0"),
    (lambda: KVCache(1, 1, 4, 0), OptionError, "head_dim = 0"),
    (lambda: KVCache(1, 1, 4, 2, value_dim=0), OptionError, "value_dim = 0"),
    (lambda: KVCache(1, 1, 4.0, 2), OptionError, "capacity is 4.0; it must be an integer"),
    (lambda: KVCache(1, 1, 4, 2, int), DtypeError, "dtype is int64; a cache holds float16"),
    (lambda: RollingCache(1, 1, 0, 2), OptionError, "window = 0"),
    (lambda: RollingCache(1, 1, 4, 2, first=-1), OptionError, "first = -1; it must be at least 0"),
    (lambda: RollingCache(1, 1, 4, 2, dtype=bool), DtypeError, "dtype is bool"),
])  # fmt: skip
def test_refused_when_made(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


def test_bfloat16_is_held(need):
    dtype = need("ml_dtypes").bfloat16
    for cache in (KVCache(1, 1, 4, 2, dtype), RollingCache(1, 1, 4, 2, dtype)):
        new = np.array([[[[1.5, -2.0]]]], dtype)
        k_all, v_all, q_pos, k_pos = cache.append(new, new)
        out = ma.attention(new, k_all, v_all, causal=True, q_pos=q_pos, k_pos=k_pos)
        assert (k_all.dtype, out.dtype, out.tolist()) == (dtype, dtype, new.tolist())
