"""The needle: who sees how far, exactly; who finds it; and what is held for that."""
import numpy as np
import pytest

import minattn as ma
from minattn.analysis import needle

N, W, CAPACITY, D = 256, 32, 64, 16
SIZES = {"length": N, "window": W, "capacity": CAPACITY, "dim": D, "trials": 12}
DISTANCES = [1, 15, 16, 31, 32, 55, 56, 79, 80, 200, 251, 252, 255]
FOUND = ma.needle_recall(DISTANCES, **SIZES)


@pytest.mark.parametrize(("name", "seen"), [
    ("full", DISTANCES), ("linear", DISTANCES), ("infini", DISTANCES),
    ("window", [d for d in DISTANCES if d < W]), ("transformer-xl", [d for d in DISTANCES if d < W]),
    ("first tokens", [d for d in DISTANCES if d < W - 4 or d >= N - 4]),
    ("compressive", [d for d in DISTANCES if d < W // 2 + W // 4 + 4 * (W // 4)]),
])  # fmt: skip
def test_the_weight_is_0_exactly_where_no_path_leads(name, seen):
    assert [d for d, weight in zip(DISTANCES, FOUND[name].weight, strict=True) if weight] == seen


def test_an_external_memory_gives_all_that_it_holds_to_those_who_match():
    weight = dict(zip(DISTANCES, FOUND["memorizing"].weight, strict=True))
    assert all(weight[d] > 0.2 for d in (1, 15, 16, 31, 79))          # the gate is half open; 79 is the oldest pair
    assert not weight[80]
    assert not weight[255]


def test_weights_of_full_attention_are_those_of_its_map(close):
    q, k, v = needle.haystack(np.random.default_rng([0, 2]), N, DISTANCES[2], D, 12)
    at = N - 1 - DISTANCES[2]
    close(FOUND["full"].weight[2], ma.attention_weights(q, k, rows=N - 1, causal=True)[..., at].mean(), 1e-6)
    assert (v[..., -1].sum(axis=-1) == 1).all()
    assert (v[..., :-1].sum(axis=-1) == 1).all()                      # each token one symbol
    assert not q[:, :, :-1].any()


def test_who_sees_and_matches_by_softmax_finds():
    for name in ("full", "window", "first tokens", "transformer-xl", "compressive", "memorizing"):
        near = [FOUND[name].recall[n] for n, d in enumerate(DISTANCES) if d < 16]
        assert min(near) >= 0.75, name
    assert FOUND["full"].recall.mean() > 0.75
    for name in ("window", "transformer-xl"):                         # guessing gives one in fifteen
        assert FOUND[name].recall[DISTANCES.index(80):].mean() < 0.35


def test_what_is_held():
    pair = 2 * D * 4
    held = {name: found.nbytes for name, found in FOUND.items()}
    assert held == {
        "full": N * pair, "window": W * pair, "first tokens": W * pair, "transformer-xl": W * pair, "compressive": W * pair,
        "memorizing": (CAPACITY + W // 2) * pair, "infini": (D + 1) * D * 4 + W // 2 * pair, "linear": (D + 1) * D * 4,
    }  # fmt: skip
    assert held["full"] == ma.KVCache(1, 1, N, D).nbytes


def test_the_same_seed_gives_the_same_and_names_choose():
    again = ma.needle_recall(DISTANCES[:3], **SIZES, names=["memorizing", "full"])
    assert list(again) == ["memorizing", "full"]
    for name, found in again.items():
        np.testing.assert_array_equal(found.recall, FOUND[name].recall[:3])
        np.testing.assert_array_equal(found.weight, FOUND[name].weight[:3])
    other = ma.needle_recall(DISTANCES[:3], **SIZES, names=["full"], seed=1)
    assert (other["full"].weight != FOUND["full"].weight[:3]).all()


@pytest.mark.parametrize(("changed", "says"), [
    ({"distances": [0]}, "must be 1 to N - 1 = 255"), ({"distances": [3, 256]}, "from 3 to 256"), ({"window": 20}, "window = 20"),
    ({"length": 250}, "length = 250"), ({"dim": 5}, "dim = 5"), ({"names": ["rope"]}, "no 'rope'; the mechanisms are full"),
    ({"trials": 0}, "trials = 0"), ({"distances": [1.5]}, "integers"),
], ids=str)  # fmt: skip
def test_what_is_refused(changed, says):
    with pytest.raises(ma.MinattnError, match=says):
        ma.needle_recall(**{"distances": [1]} | SIZES | changed)
