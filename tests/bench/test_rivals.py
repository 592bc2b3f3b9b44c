"""Every rival computes what the case says; the check finds those that do not."""
from dataclasses import replace

import numpy as np
import pytest

from minattn.bench import check, rivals
from minattn.bench.cases import Case, inputs

SMALL = {
    "full": Case("forward", 65, 65, 16, H=3, G=3),
    "causal": Case("forward", 70, 70, 8, H=6, G=6, causal=True),
    "backward": Case("backward", 33, 33, 8, H=3, G=3, backward=True),
    "causal backward": Case("backward", 65, 65, 16, H=4, G=4, causal=True, backward=True),
    "decode": Case("decode", 1, 129, 16, H=6, G=2),
    "window": Case("window", 130, 130, 8, H=2, G=2, window=9),
    "strided": Case("sparse", 100, 100, 8, H=2, G=2, pattern="strided"),
    "fixed": Case("sparse", 100, 100, 8, H=2, G=2, pattern="fixed"),
    "ALiBi": Case("score_mod", 66, 66, 8, H=4, G=4, causal=True, alibi=True),
}


def error(rival, case, told=None):
    """Relative error of a rival at a case, when it is given another case to compute than the one it is judged by."""
    results = rivals.RIVALS[rival](told or case, inputs(case))()
    return check.relative_error(check.sample(case, results), check.expected(case))


@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
def test_the_reference_is_right(case):
    assert error("numpy", case) < check.LIMIT


@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
def test_pytorch_is_asked_for_the_same(case, need):
    need("torch")
    assert error("torch", case) < check.LIMIT


@pytest.mark.parametrize("name", ["strided", "fixed"])
def test_the_patterns_kernel_is_right_and_attends_to_the_keys_of_the_closed_form(name):
    pytest.importorskip("numba")
    assert error("cpu", SMALL[name]) < check.LIMIT
    assert error("masked", SMALL[name]) < check.LIMIT
    assert error("whole", SMALL[name]) > 100 * check.LIMIT
    for N in (40, 400, 1000):
        case = replace(SMALL[name], N=N, S=N)
        assert rivals.attended(case) == case.pairs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["window", "ALiBi"])
def test_flex_attention_is_asked_for_the_same(name, need):
    need("torch")
    assert error("flex", replace(SMALL[name], N=128, S=128)) < check.LIMIT


@pytest.mark.parametrize(("name", "wrong"), [
    ("causal", {"causal": False}), ("window", {"window": 10}), ("window", {"window": None}), ("ALiBi", {"alibi": False}),
    ("causal backward", {"causal": False}),
])
def test_a_wrong_answer_is_found(name, wrong):
    assert error("numpy", SMALL[name], replace(SMALL[name], **wrong)) > 100 * check.LIMIT


@pytest.mark.parametrize("which", range(4))
def test_each_array_is_looked_at(which):
    case = SMALL["causal backward"]
    results = [a.copy() for a in rivals.RIVALS["numpy"](case, inputs(case))()]
    results[which][0, -1, -1, -1] += 1
    assert check.relative_error(check.sample(case, results), check.expected(case)) > 100 * check.LIMIT
    results[which][0, -1, -1, -1] = np.nan
    assert np.isnan(check.relative_error(check.sample(case, results), check.expected(case)))


def test_the_sample_has_both_ends_of_a_long_problem():
    rows, heads = check.chosen(Case("forward", 1000, 1000, 8, H=5, G=5))
    assert (rows[0], rows[-1], heads.tolist()) == (0, 999, [0, 4])
    assert 2 < len(rows) <= check.ROWS


def test_the_reference_declines_what_does_not_fit():
    with pytest.raises(rivals.Absent, match="GB of scores"):
        rivals.RIVALS["numpy"](Case("window", 16384, 16384, 64, window=256), {})


def test_ceilings_do_the_work_that_they_are_counted_for(monkeypatch):
    monkeypatch.setattr(rivals, "threads", lambda: 3)
    case = Case("ceiling", 1, 1000, 8, H=1, G=1)
    a = inputs(case)
    largest = rivals.RIVALS["read"](case, a)()
    k, v = (a[name].reshape(-1).view(np.int64).max() for name in "kv")
    assert (max(one for one, _ in largest), max(other for _, other in largest)) == (k, v)
    rivals.RIVALS["copy"](case, a)()
    np.testing.assert_array_equal(a["k"], a["v"])
    case = Case("sgemm", 64, 64, 32, H=2, G=2)
    product, = rivals.RIVALS["sgemm"](case, {})()
    assert 2 * product.shape[0] ** 3 == pytest.approx(case.flops, rel=0.05)
