"""The cases of a GPU: their costs are counted on masks, their numbers are the same for all, their answers those of attention."""
from collections import Counter

import numpy as np
import pytest

from minattn.attention import attention
from minattn.bench.gpu import cases
from minattn.bench.gpu.cases import OWN, GpuCase, expected, flat, head
from minattn.bench.gpu.problems import as_bits, as_numbers
from minattn.bench.gpu.report import TITLES
from minattn.bench.gpu.rivals import LABELS, RIVALS
from minattn.core import masks
from minattn.linear.recurrence import recurrence


@pytest.mark.parametrize(("N", "S", "causal"), [(7, 7, True), (7, 7, False), (5, 12, True), (1, 9, False)])
@pytest.mark.parametrize("backward", [False, True])
def test_flops_are_those_of_the_pairs_that_the_mask_leaves(N, S, causal, backward):
    case = GpuCase("float32", N, S, 8, 6, 3, B=2, causal=causal, backward=backward)
    pairs = (masks.causal() if causal else masks.window(None, None)).dense(N, S).sum()
    products = 5 if backward else 2                                   # of 2 D FLOPs a pair: S, dV, dP, dQ, dK; S and O
    assert case.flops == 2 * 6 * pairs * products * 2 * 8


def test_bytes_of_decoding_are_keys_and_values():
    case = GpuCase("decode", 1, 40, 8, 6, 2, B=3)
    assert case.work == flat(case, "k").nbytes + flat(case, "v").nbytes
    assert GpuCase("decode", 1, 40, 8, 6, 2, B=3, kind="bf16").work == case.work // 2


def test_the_recurrence_costs_a_read_a_write_and_an_erase():
    case = GpuCase("recurrence", 50, 50, 8, 3, 3, B=2)
    reads = writes = 2 * 8 * 8
    erases = 2 * 2 * 8 * 8                                            # b^T S, and a times that
    assert case.flops == (reads + writes + erases) * 2 * 3 * 50


@pytest.mark.parametrize("quick", [False, True])
def test_the_table_holds_what_a_report_promises(quick):
    rows = cases.table(quick)
    assert max(Counter((case.group, case.name) for case in rows).values()) == 1
    assert {case.group for case in rows} == set(TITLES)
    for case in rows:
        assert case.rivals[0] in OWN
        assert set(case.rivals) <= set(RIVALS) == set(LABELS)
        assert [name for name, _ in case.goals] == list(case.rivals)
        assert case.D in (32, 64, 128)
    for group, kernel in (("float32", "registers"), ("bfloat16", "tensor")):
        some = [case for case in rows if case.group == group]
        more = {True: ("careful",), False: ()} if kernel == "tensor" else {True: (), False: ()}
        assert {(case.causal, case.rivals) for case in some} == {
            (causal, (kernel, *more[causal], "math", "efficient", "flash", "cudnn")) for causal in (False, True)}
        assert {(case.D, case.causal) for case in some} == {(D, causal) for D in (64, 128) for causal in (False, True)}
        assert {case.B * case.N for case in some} == {16384}
        assert {case.H * case.D for case in some} == {2048}
        assert {case.N for case in some} == ({1024, 4096} if quick else {512, 1024, 4096, 16384})


def test_cases_of_one_size_share_their_numbers():
    one, other = (GpuCase("float32", N, N, 8, 2, 2, B=64 // N) for N in (16, 32))
    assert flat(one, "q") is flat(other, "q")
    assert not np.array_equal(flat(one, "q"), flat(one, "k"))
    a = flat(one, "k").reshape(one.shapes["k"])
    np.testing.assert_array_equal(head(one, "k", 3, 1), a[3, 1])
    grouped = GpuCase("decode", 1, 16, 8, 6, 2)
    np.testing.assert_array_equal(head(grouped, "k", 0, 5), flat(grouped, "k").reshape(1, 2, 16, 8)[0, 1])


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_what_is_expected_is_attention(kind):
    case = GpuCase("float32", 70, 70, 8, 2, 2, B=2, causal=True, kind=kind)
    q, k, v = (as_numbers(flat(case, name), kind).astype(np.float64).reshape(case.shapes[name]) for name in "qkv")
    out = attention(q, k, v, causal=True, backend="numpy")
    first, last = expected(case)
    np.testing.assert_allclose(first, out[0, 0][cases.rows(case)], atol=1e-12)
    np.testing.assert_allclose(last, out[1, 1][cases.rows(case)], atol=1e-12)


def test_what_is_expected_of_the_recurrence_is_the_recurrence_of_all_heads():
    case = GpuCase("recurrence", 30, 30, 8, 2, 2, B=2)
    a = {name: flat(case, name).reshape(shape).astype(np.float64) for name, shape in case.shapes.items()}
    assert np.allclose(np.linalg.norm(a["b"], axis=-1), 1, atol=1e-6)
    assert 0 < a["rate"].min() < a["rate"].max() < 1
    assert a["log_decay"].max() <= 0
    out = recurrence(a["q"], a["k"], a["v"], log_decay=a["log_decay"], erase=(-a["rate"] * a["b"], a["b"]), form="chunked")
    first, last = expected(case)
    np.testing.assert_allclose(first, out[0, 0], atol=1e-12)
    np.testing.assert_allclose(last, out[1, 1], atol=1e-12)


def test_16_bits_round_to_nearest_and_to_even(need):
    x = np.array([1, 1 + 2**-8, 1 + 2**-9, 1 + 3 * 2**-8, -3.14159, 1e30, 65504], np.float32)
    assert as_numbers(as_bits(x, "bf16"), "bf16").tolist()[:4] == [1, 1, 1, 1 + 2**-6]
    with np.errstate(over="ignore"):
        assert as_numbers(as_bits(x, "f16"), "f16").tolist()[:4] == [1, 1 + 2**-8, 1 + 2**-9, 1 + 3 * 2**-8]
    assert as_bits(x, "f32") is x
    ml_dtypes = need("ml_dtypes")
    many = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    np.testing.assert_array_equal(as_bits(many, "bf16"), many.astype(ml_dtypes.bfloat16).view(np.uint16))
