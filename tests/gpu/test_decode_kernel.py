"""The decoding kernels on a simulated GPU: splits of the keys join to what all keys give, in one piece and in pages."""
import numpy as np
import pytest
from gpu_problems import CASES, as_numbers, drawn, expected, run

import minattn as ma
from minattn.bench.gpu.problems import EVERYTHING, as_bits
from minattn.core.blocks import block_map
from minattn.core.inputs import prepare
from minattn.gpu.kernels import decode
from minattn.gpu.problem import problem

FEW = [name for name, options in CASES.items() if options.get("N", 1) == 1 and name != "bias of rows"]


@pytest.mark.parametrize("splits", [1, 2, 5])
@pytest.mark.parametrize("case", FEW)
def test_equals_the_reference_and_is_silent(case, splits):
    problem, x = drawn(case, N=2)
    for report in run(decode.launches(problem, splits, warps=1 if splits == 2 else 4)):
        assert not report.problems, str(report)
    out, lse = expected(x)
    np.testing.assert_allclose(problem.given.out.reshape(out.shape), out, rtol=0, atol=1e-5 * max(1, np.abs(out).max()))
    np.testing.assert_allclose(problem.given.lse.reshape(lse.shape), lse, rtol=1e-5, atol=1e-5)
    assert (problem.given.out.reshape(out.shape)[np.isneginf(lse)] == 0).all()


def test_each_key_is_read_once_for_its_whole_group():
    problem, x = drawn("full, ragged", N=1)
    report, _ = run(decode.launches(problem, 3))
    assert report.ledger.arrays["k", "read"] == x.k.size
    assert report.ledger.arrays["v", "read"] == x.v.size


@pytest.mark.parametrize("heads", [(5, 1, 1), (18, 1, 1), (20, 2, 2)])
def test_rows_of_many_heads_are_spread_over_warps_and_blocks(heads):
    """5 rows are two warps', 36 those of three blocks, the last of them not full."""
    given, x = drawn("causal", N=2, heads=heads)
    reports = run(decode.launches(given, 2))
    assert not [str(problem) for report in reports for problem in report.problems]
    out, lse = expected(x)
    np.testing.assert_allclose(given.given.out.reshape(out.shape), out, rtol=0, atol=1e-5)
    np.testing.assert_allclose(given.given.lse.reshape(lse.shape), lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", FEW)
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_numbers_of_16_bits(kind, case):
    """Read as they are, computed in float32: out is rounded once."""
    given, x = drawn(case, N=2, D=16, kind=kind, dims=(16,))
    reports = run(decode.launches(given, 2))
    assert not [str(problem) for report in reports for problem in report.problems]
    out, lse = expected(x)
    made = as_numbers(given.given.out, kind).reshape(out.shape)
    np.testing.assert_allclose(made, out, rtol=2.0 ** (-10 if kind == "f16" else -8), atol=1e-4 * max(1, np.abs(out).max()))
    np.testing.assert_allclose(given.given.lse.reshape(lse.shape), lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["k", "v"])
def test_nan_in_what_is_hidden_is_not_seen(name):
    made = []
    for poison in (0, np.nan):
        given, _ = drawn("window, first token", N=2)
        getattr(given.given, name).reshape(2, 19, -1)[:, 3:9] += poison           # behind the window of both queries
        run(decode.launches(given, 2))
        made.append(given.given.out)
    np.testing.assert_array_equal(*made)
    assert np.isfinite(made[1]).all()


def in_pages(page_size, lengths, kind="f32", softcap=None, G=2, D=8, N=2, seed=0):
    """(problem, cache, rows, the same problem in one piece, Inputs) of rows whose pages lie in a mess; free ones are NaN."""
    rng = np.random.default_rng(seed)
    pages = 3 * sum(-(-length // page_size) for length in lengths)
    cache = ma.PagedCache(pages=pages, page_size=page_size, kv_heads=G, head_dim=D)
    rows, others = [cache.new() for _ in lengths], [cache.new() for _ in lengths]
    cache.k[:], cache.v[:] = np.nan, np.nan
    while any(cache.length(row) < length for row, length in zip(rows, lengths, strict=True)):
        n = int(rng.choice([n for n, row in enumerate(rows) if cache.length(row) < lengths[n]]))
        some = min(int(rng.integers(1, 8)), lengths[n] - cache.length(rows[n]))
        for row in (rows[n], others[n]):
            cache.append(row, *rng.standard_normal((2, G, some, D)).astype(np.float32))
    for row in others:
        table = list(cache.table(row))
        cache.free(row)
        cache.k[table], cache.v[table] = np.nan, np.nan
    q = rng.standard_normal((len(lengths), 2 * G, N, D)).astype(np.float32)
    longest, held = max(lengths), np.array(lengths)
    k, v, k_pos = cache.gather(rows)
    options = {"q_pos": held[:, None] - N + np.arange(N), "causal": True, "softcap": softcap}
    together = prepare(q, k, v, k_pos=k_pos, **options)
    apart = prepare(q, k, v, k_pos=np.minimum(np.arange(longest), held[:, None] - 1), **options)
    bits = (q, k, v) if kind == "f32" else [as_bits(a, kind) for a in (q, k, v)]
    problems = [problem(*bits, block_map(EVERYTHING if x.rule is None else x.rule, x.grid(), 8, 4), scale=x.scale,
                        softcap=softcap, dims=(D,), kind=kind) for x in (apart, together)]  # fmt: skip
    return problems[0], cache, rows, problems[1], together


@pytest.mark.parametrize("lengths", [(18, 5), (1, 9)])
@pytest.mark.parametrize(("page_size", "kind"), [(1, "f32"), (3, "f32"), (16, "f32"), (3, "bf16")])
def test_pages_give_the_bits_of_one_piece(page_size, lengths, kind):
    D = 8 if kind == "f32" else 16
    paged, cache, rows, whole, x = in_pages(page_size, lengths, kind, D=D, softcap=3.0 if page_size == 3 else None)
    table = np.zeros((len(rows), max(len(cache.table(row)) for row in rows)), np.int32)
    for n, row in enumerate(rows):
        table[n, : len(cache.table(row))] = cache.table(row)
    k, v = (cache.k, cache.v) if kind == "f32" else (as_bits(a, kind) for a in (cache.k, cache.v))
    nothing = np.full_like(paged.given.k, np.nan if kind == "f32" else 0x7FFF)     # whoever read these would show it
    paged = paged._replace(given=paged.given._replace(k=nothing, v=nothing))
    reports = run(decode.launches_paged(paged, k, v, table, np.array(lengths, np.int32), splits=2))
    assert not [str(problem) for report in reports for problem in report.problems]
    run(decode.launches(whole, splits=2))
    np.testing.assert_array_equal(paged.given.out, whole.given.out)
    np.testing.assert_array_equal(paged.given.lse, whole.given.lse)
    out, _ = expected(x)
    made = paged.given.out if kind == "f32" else as_numbers(paged.given.out, kind)
    np.testing.assert_allclose(made.reshape(out.shape), out, rtol=0, atol=1e-5 if kind == "f32" else 2e-2)
    read = reports[0].ledger.arrays["k", "read"]
    assert read == sum(lengths) * k.shape[1] * k.shape[3]             # each key once, for all heads of its group
