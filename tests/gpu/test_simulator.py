"""The simulator: right kernels run to the right numbers in silence, and each planted mistake is named."""
import ast
import inspect
import math
import textwrap

import numpy as np
import pytest

from minattn.core.errors import KernelError, OptionError
from minattn.gpu.instructions import copy_16_bytes, wait_for_copies
from minattn.gpu.simulator import simulate

ORDERS = "ascending", "descending", 0, 1, 2
cuda = None                                                           # whatever runs a kernel puts its own in its place
f32 = np.float32


def row_softmax(x, out):
    """One block a row, 8 threads; the row is in shared memory, and so are the partial maxima and sums."""
    row, t = cuda.blockIdx.x, cuda.threadIdx.x
    tile = cuda.shared.array(32, f32)
    part = cuda.shared.array(8, f32)
    for j in range(t, x.shape[1], 8):
        tile[j] = x[row, j]
    most = f32(-np.inf)
    for j in range(t, x.shape[1], 8):
        most = max(most, tile[j])
    part[t] = most
    cuda.syncthreads()
    for k in range(8):
        most = max(most, part[k])
    cuda.syncthreads()
    total = f32(0)
    for j in range(t, x.shape[1], 8):
        tile[j] = np.exp(tile[j] - most)
        total += tile[j]
    part[t] = total
    cuda.syncthreads()
    total = f32(0)
    for k in range(8):
        total += part[k]
    for j in range(x.shape[1] - 1 - t, -1, -8):                       # other threads wrote what this one reads
        out[row, j] = tile[j] / total


def matmul(a, b, c):
    """C = A B by tiles of 4 x 4, lengths that need not divide."""
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    j, i = cuda.grid(2)
    left = cuda.shared.array((4, 4), f32)
    right = cuda.shared.array((4, 4), f32)
    total = f32(0)
    for k in range(0, a.shape[1], 4):
        left[ty, tx] = a[i, k + tx] if i < a.shape[0] and k + tx < a.shape[1] else f32(0)
        right[ty, tx] = b[k + ty, j] if k + ty < b.shape[0] and j < b.shape[1] else f32(0)
        cuda.syncthreads()
        for m in range(4):
            total += left[ty, m] * right[m, tx]
        cuda.syncthreads()
    if i < c.shape[0] and j < c.shape[1]:
        c[i, j] = total


def warp_sum(x, out):
    """The sum of each 32 numbers by shuffles, then of the warps through shared memory."""
    t = cuda.threadIdx.x
    parts = cuda.shared.array(4, f32)
    total = x[cuda.grid(1)]
    step = 16
    while step:
        total += cuda.shfl_xor_sync(0xFFFFFFFF, total, step)
        step //= 2
    if t % 32 == 0:
        parts[t // 32] = total
    cuda.syncthreads()
    if t == 0:
        out[cuda.blockIdx.x] = parts[0] + parts[1] + parts[2]


def softmax_case(rng):
    x = rng.standard_normal((3, 21)).astype(f32)
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return row_softmax, 3, 8, (x, np.zeros_like(x)), e / e.sum(axis=1, keepdims=True)


def matmul_case(rng):
    a, b = rng.standard_normal((5, 9)).astype(f32), rng.standard_normal((9, 6)).astype(f32)
    return matmul, (2, 2), (4, 4), (a, b, np.zeros((5, 6), f32)), a @ b


def sum_case(rng):
    x = rng.standard_normal(2 * 96).astype(f32)
    return warp_sum, 2, 96, (x, np.zeros(2, f32)), x.reshape(2, 96).sum(axis=1)


CASES = {"softmax": softmax_case, "matmul": matmul_case, "sum": sum_case}
BARRIERS = {"softmax": 3, "matmul": 2, "sum": 1}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_right_kernels_are_silent_and_right(case, order):
    kernel, grid, block, arguments, expected = case(np.random.default_rng(0))
    report = simulate(kernel, grid, block, *arguments, order=order)
    assert not report.problems, str(report)
    np.testing.assert_allclose(arguments[-1], expected, rtol=1e-5, atol=1e-6)


def barriers(kernel):
    tree = ast.parse(textwrap.dedent(inspect.getsource(kernel)))
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Expr) and ast.unparse(node) == "cuda.syncthreads()"]


def without(kernel, line):
    """The kernel with `pass` for the statement at a line."""
    lines = textwrap.dedent(inspect.getsource(kernel)).splitlines()
    lines[line - 1] = lines[line - 1].split("cuda")[0] + "pass"
    names = dict(kernel.__globals__)
    exec("\n".join(lines), names)
    return names[kernel.__name__]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("case", "n"), [(case, n) for case, count in BARRIERS.items() for n in range(count)])
def test_each_barrier_that_is_removed_is_missed(case, n, order):
    kernel, grid, block, arguments, _ = CASES[case](np.random.default_rng(0))
    found = barriers(kernel)
    assert len(found) == BARRIERS[case]
    report = simulate(without(kernel, found[n]), grid, block, *arguments, order=order)
    assert set(report.kinds) & {"race", "read before any write"}


def test_a_problem_names_thread_line_and_array():
    def late(x):
        box = cuda.shared.array(2, f32)
        box[cuda.threadIdx.x] = x[cuda.threadIdx.x]
        x[cuda.threadIdx.x] = box[1 - cuda.threadIdx.x]

    report = simulate(late, 1, 2, np.ones(2, f32), order="descending")
    first = report.problems[0]
    assert (first.kind, first.array, first.thread) == ("read before any write", "box", "thread (1, 0, 0) of block (0, 0, 0)")
    assert first.site.line == late.__code__.co_firstlineno + 3
    assert "x[cuda.threadIdx.x] = box[1 - cuda.threadIdx.x]" in str(report)
    assert "race" in report.kinds


def problems_of(kernel, block=4, grid=1):
    return simulate(kernel, grid, block, np.zeros(4, f32)).kinds


def test_barriers_that_not_all_reach():
    def half(x):
        if cuda.threadIdx.x < 2:
            cuda.syncthreads()

    def two_places(x):
        if cuda.threadIdx.x < 2:
            cuda.syncthreads()
        else:
            cuda.syncthreads()

    def barrier_against_warp(x):
        if cuda.threadIdx.x < 2:
            cuda.syncthreads()
        else:
            cuda.syncwarp()

    assert problems_of(half) == ("early return past a barrier",)
    assert problems_of(two_places) == ("divergent barrier",)
    assert problems_of(barrier_against_warp) == ("divergent barrier",)


def test_warp_wide_operations_wait_for_the_lanes_that_live():
    def some_have_ended(x):
        if cuda.threadIdx.x < 2:
            x[cuda.threadIdx.x] = cuda.shfl_sync(0xF, x[cuda.threadIdx.x], 1 + cuda.threadIdx.x)

    def not_mine(x):
        cuda.syncwarp(0b0111)

    def two_groups(x):
        if cuda.threadIdx.x < 2:
            x[cuda.threadIdx.x] = cuda.shfl_sync(0b0011, x[cuda.threadIdx.x], 1)
        else:
            x[cuda.threadIdx.x] = cuda.shfl_sync(0b1100, x[cuda.threadIdx.x], 2)

    def never_met(x):
        if cuda.threadIdx.x < 2:
            cuda.syncwarp()
        else:
            cuda.all_sync(0xF, True)

    x = np.array([1, 2, 3, 4], f32)
    assert simulate(some_have_ended, 1, 4, x).kinds == ()
    np.testing.assert_array_equal(x, [2, np.nan, 3, 4])               # lane 2 is gone: nobody knows what it would give
    x = np.array([1, 2, 3, 4], f32)
    assert simulate(two_groups, 1, 4, x).kinds == ()
    np.testing.assert_array_equal(x, [2, 2, 3, 3])
    assert problems_of(not_mine) == ("lane outside of its own mask",)
    assert problems_of(never_met) == ("divergent barrier",)


def test_a_copy_is_under_way_from_its_start_until_it_is_waited_for():
    def right(x, out):
        tile = cuda.shared.array(16, np.uint16)
        mine, other = 8 * cuda.threadIdx.x, 8 - 8 * cuda.threadIdx.x
        copy_16_bytes(tile, mine, x, mine, 16 - mine)                 # thread 1: 8 bytes, and zeros
        wait_for_copies()
        cuda.syncthreads()
        out[cuda.threadIdx.x] = tile[other] + tile[other + 7]

    def not_waited_for(x, out):
        tile = cuda.shared.array(16, np.uint16)
        copy_16_bytes(tile, 8 * cuda.threadIdx.x, x, 0, 16)
        cuda.syncthreads()
        out[cuda.threadIdx.x] = tile[8 - 8 * cuda.threadIdx.x]

    def begun_too_early(x, out):
        tile = cuda.shared.array(16, np.uint16)
        tile[8 * cuda.threadIdx.x] = 1
        cuda.syncthreads()
        out[cuda.threadIdx.x] = tile[8 - 8 * cuda.threadIdx.x]
        copy_16_bytes(tile, 8 * cuda.threadIdx.x, x, 0, 16)
        cuda.syncthreads()
        wait_for_copies()

    x, out = np.arange(1, 17, dtype=np.uint16), np.zeros(2, np.uint16)
    report = simulate(right, 1, 2, x, out)
    assert not report.problems
    assert report.ledger.elements["shared", "write"] == 16
    np.testing.assert_array_equal(out, [9, 1 + 8])
    simulate(not_waited_for, 1, 2, x, out)
    assert np.isnan(out.view(np.float16)).all()
    assert simulate(begun_too_early, 1, 2, x, out).kinds == ("race",)


def test_indices_outside_are_named_and_touch_nothing():
    def below(x):
        x[cuda.threadIdx.x - 1] = f32(1)

    def above(x):
        x[cuda.threadIdx.x + 1] = x[cuda.threadIdx.x + 1]

    for kernel, kind in [(below, "negative index"), (above, "index out of range")]:
        around = np.full(8, 7, f32)
        assert kind in simulate(kernel, 1, 4, around[2:6]).kinds
        np.testing.assert_array_equal(around[[0, 1, 6, 7]], 7)


def test_blocks_are_never_ordered():
    def everyone(x):
        x[0] = f32(cuda.blockIdx.x)

    def counted(x):
        cuda.atomic.add(x, 0, f32(1))

    assert problems_of(everyone, block=1, grid=2) == ("race",)
    x = np.zeros(1, f32)
    assert simulate(counted, 3, 5, x).kinds == ()
    assert x[0] == 15


def test_blocks_run_in_the_order_asked_for():
    def who_was_last(x):
        x[0] = f32(cuda.blockIdx.x)

    def last(order):
        x = np.zeros(1, f32)
        assert simulate(who_was_last, 7, 1, x, order=order).kinds == ("race",)
        return x[0]

    assert (last("ascending"), last("descending")) == (6, 0)
    assert len({last(seed) for seed in range(20)}) > 2
    assert last(3) == last(3)


def test_the_lines_of_a_notebook_cell_are_shown():
    shell = pytest.importorskip("IPython.core.interactiveshell", reason="IPython is not installed").InteractiveShell()
    cell = """\
import numpy as np
from minattn.gpu.simulator import simulate
cuda = None
def late(x):
    box = cuda.shared.array(2, np.float32)
    box[cuda.threadIdx.x] = x[cuda.threadIdx.x]
    x[cuda.threadIdx.x] = box[1 - cuda.threadIdx.x]
report = simulate(late, 1, 2, np.ones(2, np.float32))
"""
    shell.run_cell(cell).raise_error()
    first = shell.user_ns["report"].problems[0]
    assert first.array == "box"
    assert "x[cuda.threadIdx.x] = box" in cell.splitlines()[first.site.line - 1]
    assert "x[cuda.threadIdx.x] = box[1 - cuda.threadIdx.x]" in str(first)


def test_only_syncwarp_orders_the_memory_of_a_warp():
    def through(sync):
        def kernel(x):
            box = cuda.shared.array(4, f32)
            box[cuda.threadIdx.x] = x[cuda.threadIdx.x]
            if sync == "syncwarp":
                cuda.syncwarp()
            else:
                cuda.shfl_sync(0xFFFFFFFF, f32(0), 0)
            x[cuda.threadIdx.x] = box[3 - cuda.threadIdx.x]

        return kernel

    assert problems_of(through("syncwarp")) == ()
    assert problems_of(through("shuffle")) == ("race",)


@pytest.mark.parametrize("lanes", [32, 20])
def test_shuffles_and_votes(lanes):
    def kernel(x, votes):
        t = cuda.threadIdx.x
        x[0, t] = cuda.shfl_up_sync(0xFFFFFFFF, f32(t), 3)
        x[1, t] = cuda.shfl_down_sync(0xFFFFFFFF, f32(t), 2)
        x[2, t] = cuda.shfl_xor_sync(0xFFFFFFFF, f32(t), 1)
        x[3, t] = cuda.shfl_sync(0xFFFFFFFF, f32(t), 5)
        some, every = cuda.any_sync(0xFFFFFFFF, t == 3), cuda.all_sync(0xFFFFFFFF, t < 40)
        votes[t] = cuda.ballot_sync(0xFFFFFFFF, t % 2) if some and every else 0

    x, votes, t = np.zeros((4, lanes), f32), np.zeros(lanes, np.int64), np.arange(lanes)
    assert simulate(kernel, 1, lanes, x, votes).kinds == ()
    np.testing.assert_array_equal(x[0], np.where(t < 3, t, t - 3))
    down = np.where(t + 2 > 31, t, t + 2).astype(f32)
    np.testing.assert_array_equal(x[1], np.where(down < lanes, down, np.nan))
    np.testing.assert_array_equal(x[2], t ^ 1)
    np.testing.assert_array_equal(x[3], 5)
    assert set(votes) == {sum(1 << n for n in range(1, lanes, 2))}


def test_the_ledger_counts_what_a_matmul_moves():
    a, b, c = np.ones((8, 12), f32), np.ones((12, 8), f32), np.zeros((8, 8), f32)
    ledger = simulate(matmul, (2, 2), (4, 4), a, b, c).ledger
    assert ledger.arrays["a", "read"] == 8 * 12 * 2                  # once for each of the two tiles of columns
    assert ledger.arrays["c", "write"] == c.size
    assert ledger.elements["shared", "write"] == 2 * 64 * 3          # two tiles, every thread one entry, three steps
    assert ledger.elements["shared", "read"] == 2 * 64 * 12
    assert ledger.threads[(0, 0, 0), (0, 0, 0), "global", "read"] == 6


@pytest.mark.parametrize(("stride", "steps"), [(1, 1), (2, 2), (3, 1), (8, 8), (32, 32), (33, 1)])
def test_bank_conflicts(stride, steps):
    def kernel(x):
        t = cuda.threadIdx.x
        box = cuda.shared.array(32 * 33, f32)
        box[t * stride] = x[t]

    ledger = simulate(kernel, 1, 32, np.zeros(32, f32)).ledger
    assert (sum(ledger.requests.values()), sum(ledger.wavefronts.values())) == (1, steps)
    assert sum(ledger.sectors.values()) == 4                          # 32 floats in a row are 128 bytes


def test_closures_and_callees_are_set_over_the_simulator():
    def double(x, t):
        return x[t] + x[t] if cuda.blockDim.x == 4 else f32(0)

    def kernel(x):
        x[cuda.threadIdx.x] = double(x, cuda.threadIdx.x)

    x = np.arange(4, dtype=f32)
    assert simulate(kernel, 1, 4, x).kinds == ()
    np.testing.assert_array_equal(x, [0, 2, 4, 6])


@pytest.mark.filterwarnings("error")
def test_a_gpu_does_not_warn():
    def overflow(x):
        x[cuda.threadIdx.x] = np.exp(f32(1000)) - np.exp(f32(1000))

    x = np.zeros(2, f32)
    assert simulate(overflow, 1, 2, x).kinds == ()
    assert np.isnan(x).all()


def test_errors():
    def raises(x):
        cuda.syncthreads()
        x[0, 0] = 1

    x = np.zeros(4, f32)
    with pytest.raises(KernelError, match=r"thread \(0, 0, 0\) .* IndexError: x has 1 axes .*\(line \d+ of raises\)"):
        simulate(raises, 1, 2, x)
    with pytest.raises(OptionError, match="takes 1 arguments"):
        simulate(raises, 1, 2)
    for grid, block, order in [(0, 1, "ascending"), ((1, 1, 1, 1), 1, 0), (1, 1025, 0), (1, 1.5, 0), (1, 1, "random")]:
        with pytest.raises(OptionError):
            simulate(raises, grid, block, x, order=order)


def test_mathematics_is_that_of_a_gpu():
    def kernel(x):
        x[0], x[1], x[2], x[3] = math.exp(f32(1000)), math.log(f32(0)), math.sqrt(f32(-1)), math.tanh(f32(0.5))

    x = np.zeros(4, f32)
    assert simulate(kernel, 1, 1, x).kinds == ()
    np.testing.assert_allclose(x, [np.inf, -np.inf, np.nan, np.tanh(0.5)], rtol=1e-6)


@pytest.mark.parametrize(("kind", "steps"), [(np.int32, 1), (np.uint32, 1), (np.uint64, 2), (np.int64, 2)])
def test_an_array_of_a_kind_that_the_kernel_names_has_its_size(kind, steps):
    def kernel(x):
        t = cuda.threadIdx.x
        box, mine = cuda.shared.array(32, kind), cuda.local.array(1, kind)
        mine[0] = kind(t)
        box[t] = mine[0]
        cuda.syncthreads()
        x[t] = box[31 - t]

    x = np.zeros(32, f32)
    ledger = simulate(kernel, 1, 32, x).ledger
    np.testing.assert_array_equal(x, np.arange(32)[::-1])
    assert set(ledger.wavefronts.values()) == {steps}
