"""The cost model: where transfer hides, the two sides meet at F / B, and the sums add up."""
import pytest

import minattn as ma
from minattn.ring.cost import MACHINES, Machine, cost, least_tokens


@pytest.mark.parametrize("name", MACHINES)
def test_transfer_hides_from_f_over_b_tokens_on(name):
    ranks, c = 64, least_tokens(name)
    assert cost(ranks * c * 1.001, ranks, name, width=4096).hidden
    assert not cost(ranks * c * 0.999, ranks, name, width=4096).hidden
    at = cost(ranks * c, ranks, name, width=4096)
    assert at.work == pytest.approx(at.transfer)


def test_the_whole_is_all_the_work_where_transfer_hides():
    machine, N = Machine(1e12, 1e12), 2**20
    one = cost(N, 1, machine, width=64)
    for ranks in (2, 16, 4096):
        many = cost(N, ranks, machine, width=64)
        assert many.total == pytest.approx(one.total / ranks)             # ranks times as many hands
        blocking = cost(N, ranks, machine, width=64, overlap=False)
        assert blocking.total == pytest.approx(many.total + (ranks - 1) * many.transfer)


def test_an_unknown_machine_is_an_error():
    with pytest.raises(ma.MinattnError, match="TPU v4"):
        cost(1, 1, "abacus", width=1)
