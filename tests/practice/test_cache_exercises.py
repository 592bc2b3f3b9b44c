"""The cache's exercises: answers as people write them, right ones in other styles and wrong ones by their names."""
import numpy as np
import pytest

import minattn as ma
from minattn.models import LlamaConfig
from minattn.practice import check


def step_by_the_library(q_new, k_new, v_new, K, V):
    K, V = np.vstack([K, k_new]), np.vstack([V, v_new])
    return ma.attention(q_new, K, V, causal=True), K, V


def step_in_loops(q_new, k_new, v_new, K, V):
    K, V = [*K, k_new[0]], [*V, v_new[0]]
    powers = [np.exp(sum(a * b for a, b in zip(q_new[0], key, strict=True)) / len(key) ** 0.5) for key in K]
    return [sum(p * value for p, value in zip(powers, V, strict=True)) / sum(powers)], K, V


@pytest.mark.parametrize("answer", [step_by_the_library, step_in_loops])
def test_a_step_in_any_style(answer):
    assert check.decode_step(answer)


def test_a_mask_made_for_as_many_queries_as_keys_is_named():
    def top_left(q_new, k_new, v_new, K, V):
        K, V = np.vstack([K, k_new]), np.vstack([V, v_new])
        return ma.attention(q_new, K, V, mask=np.tri(1, len(K), dtype=bool)), K, V

    assert check.decode_step(top_left).mistake == "looks at the first key alone"


def rotated(q_at="S", k_at="S", after=""):
    """A learner's step with RoPE, with one of its positions changed."""
    text = f"""
def answer(q_new, k_new, v_new, K, V):
    S, N = len(K), len(q_new)
    q = ma.rope(q_new, np.arange({q_at}, {q_at} + N), layout="interleaved")
    K = np.concatenate([K, ma.rope(k_new, np.arange({k_at}, {k_at} + N), layout="interleaved")])
    {after}
    V = np.concatenate([V, v_new])
    return ma.attention(q, K, V), K, V
"""
    scope = {"np": np, "ma": ma}
    exec(text, scope)
    return scope["answer"]


@pytest.mark.parametrize(("change", "name"), [
    ({}, None),
    ({"q_at": "0", "k_at": "0"}, "stale position: both at 0"),
    ({"q_at": "0"}, "stale position: the query at 0"),
    ({"q_at": "S + 1", "k_at": "S + 1"}, "one position too far"),
])  # fmt: skip
def test_a_stale_position_is_named(change, name):
    result = check.decode_rotated(rotated(**change))
    assert (bool(result), result.mistake) == (name is None, name), repr(result)


class InLists:
    """Rows of their own length in lists, padded when they are handed back."""

    def __init__(self, batch, capacity, head_dim):
        self.rows, self.head_dim = [[] for _ in range(batch)], head_dim

    def append(self, k_new, v_new, lengths):
        for row, ks, vs, real in zip(self.rows, k_new, v_new, lengths, strict=True):
            row += [(k.copy(), v.copy()) for k, v in zip(ks[:real], vs[:real], strict=True)]
        S = max(map(len, self.rows))
        pad = (np.full(self.head_dim, np.nan),) * 2
        full = [row + [pad] * (S - len(row)) for row in self.rows]
        k, v = (np.array([[pair[n] for pair in row] for row in full]) for n in (0, 1))
        return k, v, np.array([[s if s < len(row) else -1 for s in range(S)] for row in self.rows])


class ByTheLibrary:
    def __init__(self, *sizes):
        self.cache = ma.KVCache(sizes[0], 1, *sizes[1:], np.float64)

    def append(self, k_new, v_new, lengths):
        k, v, _, k_pos = self.cache.append(k_new[:, None], v_new[:, None], lengths)
        return k[:, 0], v[:, 0], k_pos


@pytest.mark.parametrize("answer", [InLists, ByTheLibrary])
def test_a_cache_in_any_style(answer):
    result = check.kv_cache(answer)
    assert result, repr(result)


def test_a_cache_that_is_not_filled_in_is_blank():
    class Blank(InLists):
        def append(self, k_new, v_new, lengths):
            return None

    assert check.kv_cache(Blank).status == "blank"


def test_a_list_of_the_callers_arrays_is_named():
    class Kept(InLists):
        def append(self, k_new, v_new, lengths):
            came = super().append(k_new, v_new, lengths)
            for row, ks, vs, real in zip(self.rows, k_new, v_new, lengths, strict=True):
                row[len(row) - real:] = zip(ks[:real], vs[:real], strict=True)           # views, as without .copy()
            return came

    assert check.kv_cache(Kept).mistake == "the caller's arrays kept"


def test_an_exception_in_append_is_the_learners():
    class Short(ByTheLibrary):
        def __init__(self, batch, capacity, head_dim):
            super().__init__(batch, 2, head_dim)

    result = check.kv_cache(Short)
    assert result.status == "error"
    assert "CacheError" in result.message


@pytest.mark.parametrize("case", check.rolling_cache.cases())
def test_the_rolling_answer_keeps_what_the_library_keeps(case):
    k, k_pos, k_new, first, window = case
    kept, places = check.rolling_cache.reference(*case)
    cache = ma.RollingCache(1, 1, window=window + 1, head_dim=3, dtype=np.float64, first=first)   # one more: it counts the newest
    text = np.full((k_pos[-1] + 1, 3), 7.5)
    text[k_pos] = k
    text = np.concatenate([text, k_new])[None, None]
    cache.append(text, text)
    held, _, _, held_pos = cache.append(text[:, :, :1], text[:, :, :1])                           # the next sees all that stayed
    order = np.argsort(held_pos[0, :-1])[-len(places):]
    np.testing.assert_array_equal(held_pos[0, :-1][order], places)
    np.testing.assert_array_equal(held[0, 0, :-1][order], kept)


def test_users_that_fit_is_what_the_model_says():
    c = LlamaConfig.llama_3_1_8b()
    memory = 80 * 10**9
    users = check.users_that_fit.reference(memory, c.n_parameters, c.layers, c.kv_heads, c.head_dim, 8_192)
    assert users == (memory - 2 * c.n_parameters) // c.kv_bytes(8_192, "bfloat16") == 59
