"""The exercises of linear attention: the references are what the formulas say, and right answers of other styles pass."""
import itertools

import numpy as np
import pytest

from minattn.practice import check


def phi(x):
    return np.where(x > 0, x + 1, np.exp(x))


def test_the_counts_are_those_of_loops():
    def times(a, b):
        return sum(1 for _ in itertools.product(range(a[0]), range(a[1]), range(b[1]))), (a[0], b[1])

    for N, S, D, Dv in [(3, 4, 2, 5), (6, 1, 3, 2)]:
        scores, shape = times((N, D), (D, S))
        mixed, _ = times(shape, (S, Dv))
        state, shape = times((D, S), (S, Dv))
        read, _ = times((N, D), shape)
        assert check.linear_multiplications.reference(N, S, D, Dv) == (scores + mixed, state + read)


def test_the_references_are_what_the_formula_says_pair_by_pair():
    for q, k, v in check.linear_all_keys.cases():
        weights = np.array([[phi(i) @ phi(j) for j in k] for i in q])
        wanted = [sum(w * row for w, row in zip(line, v, strict=True)) / line.sum() for line in weights]
        np.testing.assert_allclose(check.linear_all_keys.reference(q, k, v), wanted, rtol=1e-12)
    for q, k in check.linear_map.cases():
        wanted = np.zeros((len(q), len(q)))
        for i in range(len(q)):
            row = [phi(q[i]) @ phi(k[j]) for j in range(i + 1)]
            wanted[i, : i + 1] = row / np.sum(row)
        np.testing.assert_allclose(check.linear_map.reference(q, k), wanted, rtol=1e-12)


def test_chunks_are_single_steps():
    for q, k, v, chunk, state, z in check.linear_chunked.cases():
        out, end, end_z = check.linear_chunked.reference(q, k, v, chunk, state, z)
        for n in range(len(q)):
            features = phi(k[n])
            state, z = state + features[:, None] * v[n], z + features
            np.testing.assert_allclose(out[n], phi(q[n]) @ state / (phi(q[n]) @ z), rtol=1e-12)
            row, *_ = check.linear_step.reference(q[n], k[n], v[n], state - features[:, None] * v[n], z - features)
            np.testing.assert_allclose(row, out[n], rtol=1e-10)
        np.testing.assert_allclose(end, state, rtol=1e-12)
        np.testing.assert_allclose(end_z, z, rtol=1e-12)


def test_a_map_of_identity_values_passes():
    def answer(q, k):
        held = np.cumsum(phi(k)[:, :, None] * np.eye(len(k))[:, None, :], axis=0)           # (N, D, N)
        read = np.einsum("nd,nds->ns", phi(q), held)
        return read / read.sum(axis=1, keepdims=True)

    assert check.linear_map(answer)


def test_all_keys_passes_in_pairs_and_by_a_column_of_ones():
    def in_pairs(q, k, v):
        weights = phi(q) @ phi(k).T
        return (weights / weights.sum(axis=1, keepdims=True)) @ v

    def column_of_ones(q, k, v):
        read = phi(q) @ (phi(k).T @ np.concatenate([v, np.ones((len(v), 1))], axis=1))
        return read[:, :-1] / read[:, -1:]

    assert check.linear_all_keys(in_pairs)
    assert check.linear_all_keys(column_of_ones)


@pytest.mark.parametrize("augmented", [False, True])
def test_chunked_passes_token_by_token_and_whole(augmented):
    def answer(q, k, v, chunk, state, z):
        states = state + np.cumsum(phi(k)[:, :, None] * v[:, None, :], axis=0)
        sums = z + np.cumsum(phi(k), axis=0)
        out = np.einsum("nd,nde->ne", phi(q), states) / np.einsum("nd,nd->n", phi(q), sums)[:, None]
        return {"out": out, "state": states[-1], "z": sums[-1]} if augmented else (out, states[-1].copy(), sums[-1].copy())

    assert check.linear_chunked(answer)


def test_adding_into_the_callers_state_is_named():
    def answer(q, k, v, state, z):
        state += np.outer(phi(k), v)
        z += phi(k)
        return phi(q) @ state / (phi(q) @ z), state.copy(), z.copy()

    assert check.linear_step(answer).mistake == "changes its input"


def test_two_mistakes_at_once_are_wrong_without_a_false_name():
    def answer(q, k, v, state, z):
        out, state, z = check.linear_step.reference(q, k, v, state, z)
        return 2 * out, state, -z

    result = check.linear_step(answer)
    assert (result.status, result.mistake) == ("fail", None)
    assert [stage.verdict == "different" for stage in result.stages] == [True, False, True]
