"""What slots are used for: allocators that never overlap, shares that add up, and the waste that Kwon et al. measured."""
import itertools

import numpy as np
import pytest

import minattn as ma
from minattn.memory.trace import PAPER, Buddies, ChunkServer, PagesServer, block


@pytest.mark.parametrize("slots", [1, 64, 15_700])
def test_buddies_never_overlap_and_all_join_again(slots):
    rng, buddies, held = np.random.default_rng(slots), Buddies(slots), []
    before = {size: set(starts) for size, starts in buddies.free.items()}
    assert sum(size * len(starts) for size, starts in before.items()) == slots
    for _ in range(2000):
        asked = int(rng.integers(1, max(slots // 5, 2)))
        if rng.random() < 0.55:
            start = buddies.take(asked)
            if start is None:
                assert all(size < block(asked) for size, starts in buddies.free.items() if starts)
                continue
            held.append((start, asked))
            ends = sorted((start, start + block(asked)) for start, asked in held)
            assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))
            assert ends[-1][1] <= slots
        elif held:
            buddies.give(*held.pop(int(rng.integers(len(held)))))
    for chunk in held:
        buddies.give(*chunk)
    assert buddies.free == before


@pytest.mark.parametrize("policy", PAPER)
def test_the_waste_that_the_paper_measured(policy):
    made = ma.cache_waste(policy, steps=6000)
    assert abs(made.tokens - PAPER[policy]) < 0.05
    assert sum(made[:4]) == pytest.approx(1)
    assert min(made[:4]) >= 0


def test_each_policy_wastes_in_its_own_way():
    longest, power, oracle, pages = (ma.cache_waste(policy, steps=3000, page_size=16) for policy in PAPER)
    assert longest.external == pytest.approx(1 - 7 * 2048 / 15_700)   # the part of memory too small for an eighth
    assert oracle.internal == 0 < power.internal < longest.internal
    assert pages.reserved == 0
    assert pages.internal * 15_700 <= pages.running * 15              # less than a page each
    assert longest.running == 7 < power.running < oracle.running < pages.running


def test_a_request_by_hand():
    server = ChunkServer(64, "power", 32)
    assert server.admit(3, 5)                                         # 3 + 8 slots
    assert server.use() == (3, 5, 3, 1)
    assert server.step() == []
    assert server.use() == (4, 4, 3, 1)
    pages = PagesServer(12, 4)
    assert pages.admit(4, 8)
    assert pages.admit(6, 2)
    assert not pages.admit(1, 1)
    assert pages.use() == (10, 0, 2, 2)
    assert pages.step() == [[6, 2]]                                   # a page for the first, from the latest
    assert pages.use() == (5, 0, 3, 1)
    for _ in range(7):
        pages.step()
    assert (pages.served, pages.memory.free_pages) == ([], 3)


@pytest.mark.parametrize(("given", "text"), [
    ({"policy": "best"}, "'oracle', 'pages'"), ({"policy": ["pages"]}, "policy is"),
    ({"policy": "pages", "seed": -1}, "seed"), ({"policy": "pages", "slots": 2000}, "slots"),
    ({"policy": "pages", "prompt": 0}, "at least 1"), ({"policy": "pages", "steps": 1}, "steps"),
])  # fmt: skip
def test_errors(given, text):
    with pytest.raises(ma.MinattnError, match=text):
        ma.cache_waste(**given)
