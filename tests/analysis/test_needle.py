"""The needle: who sees how far, exactly; who finds it; and what is held for that."""
import numpy as np
import pytest

import minattn as ma
from minattn.analysis import needle

N, W, CAPACITY, D = 256, 32, 64, 32
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
    q, k, v = needle.haystack(np.random.default_rng([0, 2]), N, DISTANCES[2], D, 12, needle.sparse_keys)
    at = N - 1 - DISTANCES[2]
    close(FOUND["full"].weight[2], ma.attention_weights(q, k, rows=N - 1, causal=True)[..., at].mean(), 1e-12)
    assert (v[..., -1].sum(axis=-1) == 1).all()
    assert (v[..., :-1].sum(axis=-1) == 1).all()                      # each token one symbol
    assert not q[:, :, :-1].any()


def test_who_sees_and_matches_by_softmax_finds():
    for name in ("full", "window", "first tokens", "transformer-xl", "compressive", "memorizing"):
        near = [FOUND[name].recall[n] for n, d in enumerate(DISTANCES) if d < 16]
        assert min(near) >= 0.75, name
    assert FOUND["full"].recall.mean() > 0.9
    for name in ("window", "transformer-xl"):                         # guessing gives one in 31
        assert FOUND[name].recall[DISTANCES.index(80):].mean() < 0.2


def test_a_row_of_four_is_seen_and_its_match_is_four_times_fainter():
    """A path is no recall: within the compressed rows the needle has weight, and hardly ever the largest."""
    mixed = [n for n, d in enumerate(DISTANCES) if W // 2 + W // 4 <= d < W // 2 + W // 4 + 4 * (W // 4)]
    assert len(mixed) > 2
    assert (FOUND["compressive"].weight[mixed] > 0).all()
    assert FOUND["compressive"].recall[mixed].mean() < 0.4
    at = DISTANCES.index(W // 2)                                      # the youngest row of the memory, as it was
    assert FOUND["compressive"].recall[at] > 0.9


def test_a_tie_is_a_guess_among_those_that_tie():
    shares = np.array([[0.1, 0.5, 0.4], [0.3, 0.3 + 1e-15, 0.1], [0.2, 0.2, 0.2], [0.3, 0.1, 0.2], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(needle.found_again(shares, np.array([1, 0, 2, 2, 1])), [1, 1 / 2, 1 / 3, 0, 1 / 3])


def test_what_is_found_does_not_hang_on_the_last_digits(monkeypatch):
    options = {**SIZES, "names": ["linear", "window", "infini"]}

    def jitter(run):
        def jittered(*given):
            out, numbers = run(*given)
            return out + 1e-13 * np.random.default_rng(5).standard_normal(out.shape), numbers
        return jittered

    monkeypatch.setattr(needle, "MECHANISMS", {name: (jitter(run), paths) for name, (run, paths) in needle.MECHANISMS.items()})
    for name, found in ma.needle_recall(DISTANCES, **options).items():
        np.testing.assert_array_equal(found.recall, FOUND[name].recall)


def test_keys_are_of_the_kind_asked_for():
    k = needle.sparse_keys(np.random.default_rng(0), (3, 50, 20))
    assert set(np.unique(k)) == {-2, 2}
    assert ((k > 0).sum(axis=-1) == 3).all()                          # one channel in eight of 20, rounded up
    assert len(np.unique(k.reshape(150, 20), axis=0)) > 100
    normal = ma.needle_recall(DISTANCES[:2], **SIZES, names=["full"], keys="normal")["full"]
    assert (normal.weight != FOUND["full"].weight[:2]).all()


def test_what_a_state_finds_depends_on_how_much_it_holds_and_not_on_the_distance():
    """Of keys that its features tell apart, a state of D channels has room for some D, near or far."""
    recall = {}
    for length in (16, 256):
        for keys in ("sparse", "normal"):
            found = ma.needle_recall([5, length - 1], length=length, window=8, dim=D, trials=60, keys=keys, names=["linear"])
            recall[length, keys] = found["linear"].recall
    assert recall[16, "sparse"].min() > 0.9
    assert recall[256, "sparse"].max() < 0.5
    assert abs(np.diff(recall[256, "sparse"])[0]) < 0.25
    assert recall[16, "normal"].max() < 0.7                           # the features of these are too much alike


def test_the_gate_chooses_between_segment_and_memory():
    distances, options = [3, 40], {**SIZES, "length": 64, "names": ["infini", "memorizing"]}
    shut, half, memory = (ma.needle_recall(distances, **options, gate=gate) for gate in (-np.inf, 0, np.inf))
    for name in ("infini", "memorizing"):
        near, far = shut[name].weight[0], memory[name].weight[1]
        assert shut[name].weight[1] == memory[name].weight[0] == 0
        np.testing.assert_allclose(half[name].weight, [near / 2, far / 2], rtol=1e-12)
    assert memory["infini"].recall[1] > half["infini"].recall[1]      # the segment's answer to a key that it has not is loud
    assert memory["memorizing"].recall[1] > 0.9


def test_what_is_held():
    pair = 2 * D * 4
    held = {name: found.nbytes for name, found in FOUND.items()}
    assert held == {
        "full": N * pair, "window": W * pair, "first tokens": W * pair, "transformer-xl": W * pair, "compressive": W * pair,
        "memorizing": (CAPACITY + W // 2) * pair, "infini": (D + 1) * D * 4 + W // 2 * pair, "linear": (D + 1) * D * 4,
    }  # fmt: skip
    assert all(found.paths for found in FOUND.values())
    assert FOUND["compressive"].paths == "segment of 16, 8 rows, 8 of 4 in one"
    assert held["full"] == ma.KVCache(1, 1, N, D).nbytes


def test_the_same_seed_gives_the_same_and_names_choose():
    again = ma.needle_recall(DISTANCES[:3], **SIZES, names=["memorizing", "full"])
    assert list(again) == ["memorizing", "full"]
    for name, found in again.items():
        np.testing.assert_array_equal(found.recall, FOUND[name].recall[:3])
        np.testing.assert_array_equal(found.weight, FOUND[name].weight[:3])
    twice = ma.needle_recall(DISTANCES[:3], **SIZES, names=["full", "full"])
    np.testing.assert_array_equal(twice["full"].weight, again["full"].weight)
    other = ma.needle_recall(DISTANCES[:3], **SIZES, names=["full"], seed=1)
    assert (other["full"].weight != FOUND["full"].weight[:3]).all()


@pytest.mark.parametrize(("changed", "says"), [
    ({"distances": [0]}, "must be 1 to N - 1 = 255"), ({"distances": [3, 256]}, "from 3 to 256"), ({"window": 20}, "window = 20"),
    ({"length": 250}, "length = 250"), ({"dim": 5}, "dim = 5"), ({"names": ["rope"]}, "names is 'rope'; .* 'full', "),
    ({"names": 3}, "names is 3"),
    ({"keys": ["sparse"]}, "keys is"), ({"seed": 0.5}, "seed is 0.5"), ({"distances": [[1]]}, "one, or a"),
    ({"trials": 0}, "trials = 0"),
    ({"keys": "codes"}, "keys is 'codes'; it must be one of 'sparse', 'normal'"),
    ({"gate": np.nan}, "gate is nan"), ({"gate": [0.0, 1.0]}, "gate is"), ({"gate": "open"}, "gate is 'open'"),
    ({"distances": [1.5]}, "integers"),
], ids=str)  # fmt: skip
def test_what_is_refused(changed, says):
    with pytest.raises(ma.MinattnError, match=says):
        ma.needle_recall(**{"distances": [1]} | SIZES | changed)
