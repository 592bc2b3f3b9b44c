"""The cases: their costs are counted, their names told apart, and the table holds what a run promises."""
from collections import Counter

import numpy as np
import pytest

from minattn.bench import cases, rivals
from minattn.bench.cases import Case
from minattn.core import masks


@pytest.mark.parametrize(("N", "S"), [(7, 7), (5, 12), (1, 9), (64, 65)])
@pytest.mark.parametrize(("told", "mask"), [({}, masks.window(None, None)), ({"causal": True}, masks.causal()),
                                            ({"window": 4}, masks.last(4)),
                                            ({"pattern": "strided"}, "strided"), ({"pattern": "fixed"}, "fixed")])
def test_pairs_are_the_true_entries_of_the_mask(N, S, told, mask):
    case = Case("forward", N, S, 8, **told)
    mask = getattr(masks, mask)(case.stride) if isinstance(mask, str) else mask
    assert case.pairs == mask.dense(N, S).sum()


def test_keys_of_strided_attention_over_the_root_of_n_cubed():
    shares = [Case("sparse", N, N, 8, pattern="strided").pairs / N**1.5 for N in (1024, 4096, 16384)]
    assert [round(share, 2) for share in shares] == [1.47, 1.48, 1.49]
    assert Case("sparse", 4096, 4096, 8, pattern="fixed").pairs == 4096**1.5


def test_flops_are_those_of_the_products():
    """Two products forward, five more backward: each (rows, inner, columns) is 2 rows inner columns."""
    N, S, D, H = 6, 10, 4, 3
    forward = [(N, D, S), (N, S, D)]                                  # Q K^T, P V
    backward = [(N, D, S), (S, N, D), (N, D, S), (N, S, D), (S, N, D)]    # Q K^T again, P^T dO, dO V^T, dS K, dS^T Q
    count = lambda products: H * sum(2 * a * b * c for a, b, c in products)  # noqa: E731
    assert Case("forward", N, S, D, H=H, G=H).flops == count(forward)
    assert Case("backward", N, S, D, H=H, G=H, backward=True).flops == count(forward + backward)


def test_a_step_of_decoding_counts_keys_and_values_once():
    case = Case("decode", 1, 40, 8, H=6, G=2)
    a = cases.inputs(case)
    assert case.work == case.bytes == a["k"].nbytes + a["v"].nbytes
    assert Case("forward", 2, 40, 8).work == Case("forward", 2, 40, 8).flops


def test_inputs_are_the_same_in_every_process_and_differ_between_cases():
    case = Case("backward", 3, 5, 4, H=6, G=2, backward=True)
    one, other = cases.inputs(case), cases.inputs(case)
    assert {name: a.shape for name, a in one.items()} == {"q": (1, 6, 3, 4), "k": (1, 2, 5, 4), "v": (1, 2, 5, 4),
                                                          "dout": (1, 6, 3, 4)}
    assert all(a.dtype == np.float32 for a in one.values())
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert not np.array_equal(one["q"], cases.inputs(Case("backward", 3, 5, 4, H=6, G=2, causal=True))["q"])


def test_the_table_holds_every_row():
    rows = cases.table()
    sizes = {(N, D, causal) for N in (512, 1024, 4096) for D in (64, 128) for causal in (False, True)}
    assert {(c.N, c.D, c.causal) for c in rows if c.group == "forward"} == sizes
    assert {(c.N, c.causal) for c in rows if c.group == "backward"} == {(N, c) for N in (1024, 2048) for c in (False, True)}
    assert {(c.H, c.G, c.D, c.S) for c in rows if c.group == "decode"} == {(32, 8, 128, 4096), (9, 3, 64, 2048)}
    assert [(c.N, c.window, dict(c.goals)["torch"]) for c in rows if c.group == "window"] == [(8192, 256, 10)]
    assert [(c.pattern, c.N, c.stride, dict(c.goals)["whole"]) for c in rows if c.group == "sparse"] == [
        ("strided", 16384, 128, 8), ("fixed", 16384, 128, 8)]
    assert [c.alibi for c in rows if c.group == "score_mod"] == [True]
    assert [(c.N, c.D, c.threads, dict(c.goals)["sgemm"]) for c in rows if c.group == "sgemm"] == [(4096, 128, 1, 0.8)]
    assert all(c.H == 8 for c in rows if c.group in ("forward", "backward", "window", "score_mod"))


@pytest.mark.parametrize("quick", [False, True])
def test_rows_are_told_apart_and_name_rivals_that_there_are(quick):
    rows = [*cases.table(quick), *cases.ceilings(quick)]
    assert max(Counter((c.group, c.name) for c in rows).values()) == 1
    assert {c.group for c in cases.table(quick)} == set(cases.GROUPS)
    for case in rows:
        assert set(case.rivals) <= set(rivals.RIVALS) == set(rivals.LABELS)
        assert {name for name, _ in case.goals} | dict(case.left_out).keys() <= set(case.rivals)
        if case.group not in ("sgemm", "sparse", "ceiling"):
            assert set(case.rivals) >= set(cases.EVERYONE)


def test_quick_leaves_out_aloud():
    spared = [dict(c.left_out) for c in cases.table(True) if "flex" in c.rivals]
    assert len(spared) == 2
    assert all("--quick" in reasons["flex"] for reasons in spared)
    assert not any(c.left_out for c in cases.table())
