"""The bug zoo: each bug is killed by a test made for it, which kills no other; lazy tests let the named ones survive."""
import inspect
import re

import numpy as np
import pytest

import minattn as ma
from minattn.practice import check
from minattn.practice.zoo import FAMILIES

RNG = np.random.default_rng


def qkv(N, S, *, seed=0, lead=(), D=4, Dv=3):
    rng = RNG(seed)
    return tuple(rng.standard_normal((*lead, n, d)) for n, d in [(N, D), (S, D), (S, Dv)])


def hides_row_1(N, S):
    mask = np.ones((N, S), bool)
    mask[1] = False
    return mask


# --- a killing test for every bug ---------------------------------------------------------------------------------


def no_nan(attention):
    assert not np.isnan(attention(*qkv(3, 8), mask=hides_row_1(3, 8))).any()


def empty_row_is_zero(attention):
    out = attention(*qkv(3, 8), mask=hides_row_1(3, 8))
    assert not np.nan_to_num(out[1]).any()


def last_query_at_last_key(attention):
    q, k, v = qkv(2, 5)
    np.testing.assert_allclose(attention(q, k, v, causal=True), ma.attention(q, k, v, causal=True))


def weights_change_nothing(attention):
    q, k, v = qkv(3, 8)
    for mask in (None, hides_row_1(3, 8)):
        out, weights = attention(q, k, v, mask=mask, return_weights=True)
        np.testing.assert_allclose(attention(q, k, v, mask=mask), out, equal_nan=True)
        assert weights.shape == (3, 8)


def softcap_keeps_the_mask(attention):
    q, k, v = qkv(3, 8)
    other, mask = v.copy(), np.ones((3, 8), bool)
    other[6], mask[:, 6] = 5, False
    assert np.allclose(attention(q, k, v, mask=mask, softcap=2.0), attention(q, k, other, mask=mask, softcap=2.0))


def window_counts_keys(attention):
    _, weights = attention(*qkv(6, 6), window=3, return_weights=True)
    assert ((weights > 0).sum(axis=-1) == [1, 2, 3, 3, 3, 3]).all()


def seven_keys(attention):
    q, k, v = qkv(3, 7)
    assert np.allclose(attention(q, k, v), ma.attention(q, k, v))


def hidden_nan(attention):
    q, k, v = qkv(3, 8)
    mask = np.ones((3, 8), bool)
    mask[:, 6] = False
    want = attention(q, k, v, mask=mask)
    k[6] = v[6] = np.nan
    assert np.allclose(attention(q, k, v, mask=mask), want)


def half_as_single(attention):
    q, k, v = (np.full((2, 4), number) for number in (9.0, -9.0, 1.5))
    out = [attention(*(x.astype(dtype) for x in (q, k, v)), mask=hides_row_1(2, 2)) for dtype in (np.float16, np.float32)]
    np.testing.assert_allclose(*out, rtol=1e-2, equal_nan=True)


def by_the_definition(H, G):
    def test(heads):
        q, k, v = qkv(5, 7, lead=(2,), D=12, Dv=12)
        k, v = k[..., : 12 * G // H], v[..., : 12 * G // H]
        D = 12 // H
        for h in range(H):
            g = h // (H // G)
            part = [x[..., n * D:(n + 1) * D] for x, n in [(q, h), (k, g), (v, g)]]
            assert np.allclose(heads(q, k, v, H, G)[..., h * D:(h + 1) * D], ma.attention(*part))

    return test


def which_channels_turn(rope):
    x = np.array([[1.0, 0, 0, 0, 0, 0]])
    assert rope(x, np.array([3]), "half")[0].nonzero()[0].tolist() == [0, 3]
    assert rope(x, np.array([3]), "interleaved")[0].nonzero()[0].tolist() == [0, 1]


def whole_or_in_parts(*cuts):
    def test(kv_cache):
        q, k, v = qkv(7, 7, lead=(2,))
        whole, _ = kv_cache(q, k, v)
        cache, parts = None, []
        for part in np.split(np.arange(7), cuts):
            out, cache = kv_cache(q[:, part], k[:, part], v[:, part], cache)
            parts.append(out)
        assert np.allclose(np.concatenate(parts, axis=1), whole)

    return test


def positions_go_on(kv_cache):
    """Each call's first query takes no key but its own and the one before: only their distance is at work."""
    q, k, v = qkv(3, 3)
    _, cache = kv_cache(q[:1], k[:1], v[:1])
    keys = kv_cache(q[1:2], k[1:2], v[1:2], cache)[1][0]
    assert not np.allclose(keys[1], k[1])               # the second token is turned


def position_behind_a_prompt(kv_cache):
    q, k, v = qkv(3, 3)
    assert kv_cache(q, k, v)[1][2] == 3


def one_token_sees_all(kv_cache):
    q, k, v = qkv(3, 3)
    _, cache = kv_cache(q[:2], k[:2], v[:2])
    ones = kv_cache(q[2:], k[2:], v[2:], cache)[0]
    v[1] += 7
    assert not np.allclose(kv_cache(q[2:], k[2:], v[2:], (cache[0], v[:2], cache[2]))[0], ones)


def no_look_ahead_behind_a_cache(kv_cache):
    q, k, v = qkv(4, 4)
    _, cache = kv_cache(q[:2], k[:2], v[:2])
    before = kv_cache(q[2:], k[2:], v[2:], cache)[0]
    v[3] += 7
    assert np.allclose(kv_cache(q[2:], k[2:], v[2:], cache)[0][0], before[0])


def rows_sum_to_1(rollout):
    maps = ma.softmax(RNG(0).standard_normal((3, 2, 5, 5)))
    assert np.allclose(rollout(maps, fuse="max").sum(axis=-1), 1)


KILLERS = {
    "attention": {
        "NaN for a row that sees nothing": no_nan,
        "equal weights for a row that sees nothing": empty_row_is_zero,
        "causal from the top left": last_query_at_last_key,
        "another output with the weights": weights_change_nothing,
        "softcap after the mask": softcap_keeps_the_mask,
        "a window of one key too many": window_counts_keys,
        "keys filled up to a round number": seven_keys,
        "a hidden NaN leaks": hidden_nan,
        "the mask overflows in half precision": half_as_single,
    },
    "heads": {
        "heads by reshape without transpose": by_the_definition(3, 3),
        "shared heads by tile": by_the_definition(4, 2),
    },
    "rope": {"one layout for both names": which_channels_turn},
    "kv_cache": {
        "positions start again at 0": positions_go_on,
        "the prompt counted twice": position_behind_a_prompt,
        "causal from the top left": one_token_sees_all,
        "no mask behind a cache": no_look_ahead_behind_a_cache,
    },
    "rollout": {"divided along the wrong axis": rows_sum_to_1},
}
ALL_KILLERS = [(of, name, test) for of, tests in KILLERS.items() for name, test in tests.items()]
every_killer = pytest.mark.parametrize(("of", "name", "test"), ALL_KILLERS, ids=[f"{of}-{name}" for of, name, _ in ALL_KILLERS])
BUGS = [(of, bug) for of, its in FAMILIES.items() for bug in its.bugs]
every_bug = pytest.mark.parametrize(("of", "bug"), BUGS, ids=[f"{of}-{bug.name}" for of, bug in BUGS])


def test_every_bug_has_its_killing_test():
    assert {of: set(tests) for of, tests in KILLERS.items()} == {of: every_name(of) for of in FAMILIES}


@every_killer
def test_the_killing_test_passes_on_the_right_function_and_kills_its_bug(of, name, test):
    test(FAMILIES[of].right)
    verdict = check.tests(test, of=of)
    assert verdict.mistake is None, repr(verdict)
    assert name in verdict.killed, repr(verdict)


@every_killer
def test_one_thing_alone_is_wrong_with_a_bug(of, name, test):
    """Each killing test kills its bug and no other: no bug has a second fault. (Of heads by reshape, all splits are wrong.)"""
    killed = set(check.tests(test, of=of).killed)
    assert killed - {name} <= ({"heads by reshape without transpose"} if of == "heads" else set()), killed


@pytest.mark.parametrize("of", FAMILIES)
def test_all_killing_tests_together_pass(of):
    def test(function):
        for each in KILLERS[of].values():
            each(function)

    verdict = check.tests(test, of=of)
    assert (bool(verdict), verdict.status, verdict.survived) == (True, "pass", ())
    assert set(verdict.killed) == set(KILLERS[of])


@every_bug
def test_a_bug_is_short_cited_and_takes_what_the_right_one_takes(of, bug):
    assert len(inspect.getsource(bug.fn).strip().splitlines()) <= 12
    assert all(re.fullmatch(r"([\w.-]+/[\w.-]+ )?#\d+", thread) for thread in bug.threads.split(", ")), bug.threads
    assert bug.threads[0] != "#"
    assert bug.story.endswith(".")
    assert bug.look
    taken = [list(inspect.signature(fn, follow_wrapped=False).parameters) for fn in (bug.fn, FAMILIES[of].right)]
    assert taken[0] == taken[1]
    assert re.findall(r"(\w+)(?=[,)=])", FAMILIES[of].signature.replace('"mean"', ""))[0] == taken[0][0]


# --- lazy tests: what they let live -------------------------------------------------------------------------------


def survivors(test, of="attention"):
    verdict = check.tests(test, of=of)
    assert verdict.mistake is None, repr(verdict)
    return set(verdict.survived)


def every_name(of):
    return {bug.name for bug in FAMILIES[of].bugs}


def test_shapes_alone_kill_nothing():
    def attention_shapes(attention):
        q, k, v = qkv(3, 7)
        for options in ({}, {"causal": True}, {"mask": hides_row_1(3, 7)}, {"window": 2}, {"softcap": 3.0}):
            assert attention(q, k, v, **options).shape == (3, 3)

    assert survivors(attention_shapes) == every_name("attention")
    assert survivors(lambda heads: np.testing.assert_equal(heads(*qkv(5, 7, D=12, Dv=12), 3, 3).shape, (5, 12)), "heads") \
        == every_name("heads")


def test_equal_tokens_hide_who_looks_at_whom():
    def test(attention):
        q, k, v = np.ones((3, 4)), np.ones((8, 4)), np.ones((8, 3))
        for options in ({}, {"causal": True}, {"mask": np.ones((3, 8), bool)}, {"window": 2}, {"softcap": 3.0}):
            assert np.allclose(attention(q, k, v, **options), 1)

    assert survivors(test) == every_name("attention")


def test_equal_tokens_hide_how_heads_are_split():
    def test(heads):
        q = k = v = np.tile(np.arange(12.0), (5, 1))
        assert np.allclose(heads(q, k, v, 1, 1), ma.attention(q, k, v))
        assert np.isfinite(heads(np.ones((5, 12)), np.ones((5, 6)), np.ones((5, 6)), 4, 2)).all()

    assert survivors(test, "heads") == every_name("heads")


def test_squares_hide_the_alignment():
    def test(attention):
        for n in (1, 3, 8, 16):
            q, k, v = qkv(n, n)
            assert np.allclose(attention(q, k, v, causal=True), ma.attention(q, k, v, causal=True))

    assert "causal from the top left" in survivors(test)


def test_round_lengths_hide_the_last_block():
    def test(attention):
        for n in (8, 16, 64):
            q, k, v = qkv(n, n)
            assert np.allclose(attention(q, k, v), ma.attention(q, k, v))

    assert "keys filled up to a round number" in survivors(test)


def test_a_window_as_long_as_the_keys_hides_its_edge():
    def test(attention):
        q, k, v = qkv(5, 5)
        assert np.allclose(attention(q, k, v, window=5), ma.attention(q, k, v, causal=True))

    assert "a window of one key too many" in survivors(test)


def test_a_finite_empty_row_is_not_yet_right():
    assert "equal weights for a row that sees nothing" in survivors(no_nan)


def test_single_precision_hides_what_half_does():
    def test(attention):
        q, k, v = (np.full((2, 4), number, np.float32) for number in (9.0, -9.0, 1.5))
        assert not attention(q, k, v, mask=hides_row_1(2, 2))[1].any()

    assert "the mask overflows in half precision" in survivors(test)


@pytest.mark.parametrize(("H", "G"), [(2, 2), (3, 3), (6, 6)])
def test_as_many_key_heads_as_query_heads_hide_the_tile(H, G):
    assert survivors(by_the_definition(H, G), "heads") == {"shared heads by tile"}


@pytest.mark.parametrize(("H", "G"), [(1, 1), (2, 1), (4, 1)])
def test_one_key_head_hides_the_reshape_too(H, G):
    """All rows of q meet the same keys, in whatever order, and the way back puts them in their places."""
    assert survivors(by_the_definition(H, G), "heads") == every_name("heads")


def test_what_every_rotation_keeps_hides_the_layout():
    def test(rope):
        x, y = RNG(0).standard_normal((2, 5, 6))
        for layout in ("half", "interleaved"):
            at = np.arange(5)
            assert np.allclose(np.linalg.norm(rope(x, at, layout), axis=-1), np.linalg.norm(x, axis=-1))
            scores = [(rope(x, at + n, layout) * rope(y, at + n + 2, layout)).sum(axis=-1) for n in (0, 9)]
            assert np.allclose(*scores)

    assert survivors(test, "rope") == {"one layout for both names"}


def test_one_call_hides_the_cache_and_single_tokens_hide_the_chunk():
    assert survivors(whole_or_in_parts(), "kv_cache") == every_name("kv_cache")
    assert survivors(whole_or_in_parts(*range(1, 7)), "kv_cache") == {"no mask behind a cache"}
    assert survivors(whole_or_in_parts(3, 5), "kv_cache") == set()


def test_means_of_heads_hide_the_wrong_axis():
    def test(rollout):
        maps = ma.softmax(RNG(0).standard_normal((3, 2, 5, 5)))
        assert np.allclose(rollout(maps).sum(axis=-1), 1)

    assert survivors(test, "rollout") == {"divided along the wrong axis"}
