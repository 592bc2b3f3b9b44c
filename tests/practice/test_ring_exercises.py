"""The exercises on the ring: held to the ring itself, right in other styles, and as people get them wrong."""
import numpy as np
import pytest

import minattn as ma
from minattn.practice import check
from minattn.ring import shares
from minattn.ring.cost import Machine, cost


def drawn(N, H, G, D, dtype=np.float64):
    rng = np.random.default_rng(N)
    return [rng.standard_normal((heads, N, D)).astype(dtype) for heads in (H, G, G)]


@pytest.mark.parametrize("p", [1, 2, 5])
def test_the_ring_turns_and_sends_as_the_exercises_say(p):
    N, H, G, D = 6 * p, 4, 2, 3
    _, hops = ma.ring_attention(*drawn(N, H, G, D, np.float32), ranks=p, return_hops=True)
    for turn in hops:
        assert all(one.source == check.block_at.reference(one.rank, one.hop, p) for one in turn)
    for rank in range(p):                                             # what a rank receives, the one before it has sent
        assert sum(turn[rank].received for turn in hops) == check.ring_bytes.reference(N, p, H, G, D, 4)


def test_the_owners_are_those_of_shares():
    for N, p in check.zigzag_owner.cases():
        owner = check.zigzag_owner.reference(N, p)
        for rank, runs in enumerate(shares(N, p, "zigzag")):
            np.testing.assert_array_equal(np.flatnonzero(owner == rank), np.sort(np.concatenate(runs)))


def test_the_least_block_is_the_first_that_hides():
    for F, B, H, G, number in check.least_block.cases():
        tokens = check.least_block.reference(F, B, H, G, number)
        for c, hidden in ((tokens, True), (tokens - 1, False)):       # the model has one width; G / H of it are sent
            assert cost(2 * c, 2, Machine(F * H, B * H), width=64, number=number * G / H).hidden == hidden


def test_hop_after_hop_is_attention():
    q, k, v = (a[0] for a in drawn(14, 1, 1, 5))
    runs = [np.concatenate(runs) for runs in shares(14, 3, "zigzag")]
    for rank in range(3):
        mine = runs[rank]
        out, lse = np.zeros((len(mine), 5)), np.full(len(mine), -np.inf)
        for t in range(3):
            here = runs[check.block_at.reference(rank, t, 3)]
            out, lse = check.after_a_hop.reference(out, lse, q[mine], k[here], v[here], mine, here)
        right, right_lse = ma.attention(q, k, v, causal=True, return_lse=True)
        np.testing.assert_allclose(out, right[mine], atol=1e-13)
        np.testing.assert_allclose(lse, right_lse[mine], atol=1e-13)


def test_right_in_another_style():
    def by_exponentials(out, lse, q, k, v, q_pos, k_pos):
        scores = np.where(q_pos[:, None] >= k_pos, q @ k.T / np.sqrt(q.shape[-1]), -np.inf)
        top = np.maximum(lse, scores.max(axis=1))
        base = np.where(np.isneginf(top), 0, top)
        old, new = np.exp(lse - base), np.exp(scores - base[:, None])
        total = old + new.sum(axis=1)
        joined = (old[:, None] * out + new @ v) / np.where(total == 0, 1, total)[:, None]
        return joined, base + np.log(total)

    def folded(N, p):
        half = np.repeat(np.arange(p), N // (2 * p))
        return np.concatenate([half, half[::-1]])

    assert check.after_a_hop(by_exponentials)
    assert check.zigzag_owner(folded)
    assert check.block_at(lambda r, t, p: (r + (p - 1) * t) % p)
    assert check.least_block(lambda F, B, H, G, number: int(np.ceil(number * G * F / (2 * H * B))))


def test_mistakes_as_people_write_them():
    assert check.block_at(lambda r, t, p: list(range(p))[(r + t) % p]).mistake == "the ring turned the other way"
    assert check.ring_bytes(lambda N, p, H, G, D, number: 2 * p * (N // p) * G * D * number).mistake == "as many sends as ranks"
    assert check.zigzag_owner(lambda N, p: np.repeat([*range(p), *range(p)], N // (2 * p))).mistake == (
        "the second half not turned round")
    assert check.least_block(lambda F, B, H, G, number: int(np.ceil(F / B))).mistake == (
        "F / B, whatever the heads and the numbers")

    def lonely(out, lse, q, k, v, q_pos, k_pos):
        other, new = ma.attention(q, k, v, causal=True, q_pos=q_pos, k_pos=k_pos, return_lse=True)
        both = np.log(np.exp(lse) + np.exp(new))
        return np.exp(lse - both)[:, None] * out + np.exp(new - both)[:, None] * other, both

    assert check.after_a_hop(lonely).mistake == "a row that sees nothing gives NaN"
