"""The cache in pages: what a row holds is what it was given, whatever other rows do, and no page is lost or held twice."""
import collections
import warnings

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import minattn as ma

G, D, DV = 2, 3, 4


def tokens(rng, N, rows=None):
    lead = () if rows is None else (rows,)
    return rng.standard_normal((*lead, G, N, D)), rng.standard_normal((*lead, G, N, DV))


def made(pages=40, page_size=3, **options):
    return ma.PagedCache(pages, page_size, G, D, np.float64, value_dim=DV, **options)


@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_pages_equal_a_contiguous_cache_bit_for_bit(page_size, dtype):
    rng = np.random.default_rng(page_size)
    cache = ma.PagedCache(200, page_size, G, 8, dtype)
    rng.shuffle(cache._unused)                                        # tables in any order
    rows, lengths = [cache.new() for _ in range(3)], [7, 0, 130]
    k, v = (rng.standard_normal((3, G, 130, 8)).astype(dtype) for _ in range(2))
    for row, length in zip(rows, lengths, strict=True):
        for start in range(0, length, 9):
            stop = min(start + 9, length)
            cache.append(row, k[row, :, start:stop], v[row, :, start:stop])
    cache.append(rows, k[:, :, :1], v[:, :, :1])
    plain = ma.KVCache(3, G, 140, 8, dtype)
    plain.append(k, v, lengths)
    k_all, v_all, q_pos, k_pos = plain.append(k[:, :, :1], v[:, :, :1])
    q = rng.standard_normal((3, 2 * G, 1, 8)).astype(dtype)
    wanted = ma.attention(q, k_all, v_all, causal=True, q_pos=q_pos, k_pos=k_pos, return_lse=True)
    for a, b in zip(cache.attend(q, rows, causal=True, return_lse=True), wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    alone = cache.attend(q[2], rows[2], causal=True)
    np.testing.assert_allclose(alone, wanted[0][2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("page_size", [1, 3, 4, 16, 48, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, "bfloat16"])
@pytest.mark.parametrize("lengths", [(129,), (300, 0, 1, 700), (640, 640), (257, 1, 33)])
def test_decoding_reads_the_pages_and_gives_the_bits_of_a_cache_in_one_piece(need, page_size, dtype, lengths):
    need("numba")
    if dtype == "bfloat16":
        need("ml_dtypes")
    rng = np.random.default_rng(page_size)
    R, S, H, N, D, Dv = len(lengths), max(lengths), 3 * G, 2, 32, 48
    q = rng.standard_normal((R, H, N, D)).astype(dtype)
    k, v = rng.standard_normal((R, G, S, D)).astype(dtype), rng.standard_normal((R, G, S, Dv)).astype(dtype)
    plain = ma.KVCache(R, G, S, D, dtype, value_dim=Dv)
    k_all, v_all, _, k_pos = plain.append(k, v, lengths)
    cache = ma.PagedCache(sum(-(-length // page_size) for length in lengths) + 3, page_size, G, D, dtype, value_dim=Dv)
    rng.shuffle(cache._unused)
    cache.k[:], cache.v[:] = np.nan, np.nan                           # so are free pages, and the rest of each last page
    rows = [cache.new() for _ in lengths]
    for n, row in enumerate(rows):
        cache.append(row, k[n, :, : lengths[n]], v[n, :, : lengths[n]])
    q_pos = np.maximum(np.array(lengths)[:, None] - N + np.arange(N), -1)
    whole, cache.gather = cache.gather, None                          # calling it would fail
    for options in ({}, {"sink_logits": rng.standard_normal(H), "softcap": 5.0}, {"mask": ma.masks.last(50)}):
        options |= {"causal": True, "return_lse": True, "backend": "cpu"}
        wanted = ma.attention(q, k_all, v_all, q_pos=q_pos, k_pos=k_pos, **options)
        for a, b in zip(cache.attend(q, rows, **options), wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    cache.gather = whole
    weights = cache.attend(q, rows, return_weights=True, **options)
    np.testing.assert_array_equal(weights[0], wanted[0])              # asking for weights changes no bit
    if S > 650:                                                       # a NaN that is seen shows, in its own row alone
        cache.v[cache.table(rows[3])[0], 0, 0, 7] = np.nan
        out = cache.attend(q, rows, causal=True, backend="cpu")
        assert np.isnan(out[3, : H // G, :, 7]).all()
        assert np.isnan(out).sum() == N * H // G


def test_freed_pages_never_leak():
    rng, cache = np.random.default_rng(0), made()
    gone, kept = cache.new(), cache.new()
    for row, N in [(gone, 10), (kept, 8)]:
        cache.append(row, *tokens(rng, N))
    fork = cache.fork(gone)
    cache.free(gone)
    before = [a.copy() for a in cache.gather(fork)]
    cache.k[cache._unused], cache.v[cache._unused] = np.nan, np.nan
    for a, b in zip(cache.gather(fork), before, strict=True):
        np.testing.assert_array_equal(a, b)
    out = cache.attend(rng.standard_normal((2, G, 2, D)), [kept, fork], causal=True)
    assert np.isfinite(out).all()


def test_full_is_told_before_anything_is_stored_and_the_hook_may_make_room():
    rng, cache = np.random.default_rng(0), made(pages=4, page_size=2)
    a, b = cache.new(), cache.new()
    cache.append(a, *tokens(rng, 3))
    cache.append(b, *tokens(rng, 3))
    held = [x.copy() for x in cache.gather([a, b])]
    with pytest.raises(ma.errors.CacheError, match=r"4 tokens more for 2 rows need 4 pages and 0 of 4 are free"):
        cache.append([a, b], *tokens(rng, 4, 2))
    for x, y in zip(cache.gather([a, b]), held, strict=True):
        np.testing.assert_array_equal(x, y)
    asked = []

    def evict(cache, needed):
        asked.append(needed)
        cache.free(a)

    cache.on_full = evict
    cache.append(b, *tokens(rng, 4))
    assert (asked, cache.rows, cache.length(b), cache.free_pages) == ([2], (b,), 7, 0)
    with pytest.raises(ma.errors.CacheError, match="no row"):
        cache.append(a, *tokens(rng, 1))


def test_two_forks_that_write_at_once_share_no_page_that_either_wrote():
    rng, cache = np.random.default_rng(0), made(pages=4)
    row = cache.new()
    cache.append(row, *tokens(rng, 4))                                # two pages, the second with one token
    other = cache.fork(row)
    cache.append([row, other], *tokens(rng, 1, 2))                    # one copy: the second of them owns the old page
    assert cache.free_pages == 1
    assert cache.table(row)[0] == cache.table(other)[0]
    assert cache.table(row)[1] != cache.table(other)[1]


def test_what_fails_leaves_no_token_behind(recwarn):
    """A number too large for the cache's type warns, and where warnings are errors nothing has grown by then."""
    cache = ma.PagedCache(4, 2, G, D, np.float16, value_dim=DV)
    row = cache.new()
    warnings.simplefilter("error")
    with pytest.raises(RuntimeWarning, match="overflow"):
        cache.append(row, np.full((G, 3, D), 1e30), np.zeros((G, 3, DV)))
    assert (cache.length(row), cache.free_pages) == (0, 4)

    def broken(cache, needed):
        raise KeyError("policy")

    cache.on_full = broken
    with pytest.raises(KeyError, match="policy"):
        cache.append(row, np.zeros((G, 9, D)), np.zeros((G, 9, DV)))
    assert (cache.length(row), cache.free_pages) == (0, 4)


class Serving(RuleBasedStateMachine):
    """Rows come, grow, fork and go; beside the cache stands a plain list of the tokens of each."""

    @initialize(page_size=st.sampled_from([1, 3, 16]), pages=st.integers(1, 12))
    def start(self, page_size, pages):
        self.cache, self.model, self.rng = made(pages, page_size), {}, np.random.default_rng(0)

    @rule()
    def new(self):
        row = self.cache.new()
        assert row not in self.model
        self.model[row] = (np.zeros((G, 0, D)), np.zeros((G, 0, DV)))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), N=st.integers(0, 20), several=st.booleans())
    def append(self, data, N, several):
        rows = data.draw(st.lists(st.sampled_from(list(self.model)), min_size=1, max_size=3, unique=True))
        k, v = tokens(self.rng, N, len(rows))
        free, together = self.cache.free_pages, several or len(rows) > 1
        try:
            self.cache.append(rows if together else rows[0], *((k, v) if together else (k[0], v[0])))
        except ma.errors.CacheError:
            assert self.cache.free_pages == free
            return
        for n, row in enumerate(rows):
            pairs = zip(self.model[row], (k[n], v[n]), strict=True)
            self.model[row] = tuple(np.concatenate(pair, axis=1) for pair in pairs)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def fork(self, data):
        row = data.draw(st.sampled_from(list(self.model)))
        self.model[self.cache.fork(row)] = self.model[row]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def free(self, data):
        row = data.draw(st.sampled_from(list(self.model)))
        self.cache.free(row)
        del self.model[row]

    @invariant()
    def every_row_holds_its_tokens(self):
        for row, (k, v) in getattr(self, "model", {}).items():
            held_k, held_v, k_pos = self.cache.gather(row)
            np.testing.assert_array_equal(held_k[0], k)
            np.testing.assert_array_equal(held_v[0], v)
            np.testing.assert_array_equal(k_pos[0], np.arange(k.shape[1]))

    @invariant()
    def no_page_is_lost(self):
        if not hasattr(self, "cache"):
            return
        held = collections.Counter(page for row in self.cache.rows for page in self.cache.table(row))
        assert [self.cache._holders[page] for page in held] == list(held.values())
        assert sorted([*held, *self.cache._unused]) == list(range(len(self.cache.k)))
        size = self.cache.page_size
        assert all(len(self.cache.table(row)) == -(-self.cache.length(row) // size) for row in self.cache.rows)


TestServing = Serving.TestCase
TestServing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.slow
def test_a_hundred_thousand_operations():
    rng, cache, model = np.random.default_rng(1), made(pages=64), {}
    for _ in range(100_000):
        choice = rng.random()
        if not model or choice < 0.1:
            model[cache.new()] = 0
            continue
        row = int(rng.choice(list(model)))
        if choice < 0.7:
            N = int(rng.integers(0, 8))
            k = np.arange(model[row], model[row] + N, dtype=float)[None, :, None] + np.zeros((G, 1, D))
            try:
                cache.append(row, k, np.zeros((G, N, DV)))
                model[row] += N
            except ma.errors.CacheError:
                cache.free(row)
                del model[row]
        elif choice < 0.85:
            model[cache.fork(row)] = model[row]
        else:
            np.testing.assert_array_equal(cache.gather(row)[0][0, 0, :, 0], np.arange(model[row]))
            cache.free(row)
            del model[row]
    for row in list(model):
        np.testing.assert_array_equal(cache.gather(row)[0][0, 0, :, 0], np.arange(model[row]))
        cache.free(row)
    assert cache.free_pages == 64


@pytest.mark.parametrize(("given", "text"), [
    (lambda c, r: c.append(r, np.zeros((G, 2, D + 1)), np.zeros((G, 2, DV))), "k_new"),
    (lambda c, r: c.append(r, np.zeros((G, 2, D)), np.zeros((G, 3, DV))), "N = 2 but v_new has N = 3"),
    (lambda c, r: c.append([r, r], np.zeros((2, G, 2, D)), np.zeros((2, G, 2, DV))), "each may be named once"),
    (lambda c, r: c.attend(np.zeros((1, G, 1, D)), r), "for one row"),
    (lambda c, r: c.attend(np.zeros((G, 1, D)), [r]), "R = 1"),
    (lambda c, r: c.fork(99), "no row 99"), (lambda c, r: c.free([r]), r"no row \[0\]"),
    (lambda c, r: c.length(0.0), "no row 0.0"),
    (lambda c, r: c.table(np.array(r)), r"no row array\(0\)"), (lambda c, r: c.gather({r: 1}), "no row {0: 1}"),
    (lambda c, r: c.gather([[r], []]), "unequal length"), (lambda c, r: c.grow([r], 1.5), "N is 1.5"),
    (lambda c, r: c.attend(np.zeros((G, 1, D)), r, q_pos=[5]), "q_pos and k_pos are the cache's own"),
    (lambda c, r: made(on_full=3), "on_full is 3"), (lambda c, r: ma.PagedCache(10**30, 1, 1, 1), "nothing has so many"),
    (lambda c, r: ma.PagedCache(1, 1, 1, 1, "abc"), "dtype is 'abc', which is no type"),
    (lambda c, r: ma.PagedCache(0, 1, 1, 1), "pages"),
    (lambda c, r: ma.PagedCache(1, 1, 1, 1, np.int32), "int32"),
])  # fmt: skip
def test_errors(given, text):
    cache = made()
    with pytest.raises(ma.MinattnError, match=text):
        given(cache, cache.new())
