"""Compressive memory: what c rows become, what is kept and for how long, and the loss that a kernel learns from."""
import numpy as np
import pytest

import minattn as ma
from minattn.memory import compress, compress_backward, reconstruction_loss

E = 6
KERNEL = np.random.default_rng(9).standard_normal((3, E, E))
KINDS = {"mean": None, "max": None, "convolution": KERNEL}


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("N", [0, 3, 21])
def test_each_group_by_hand(kind, N, close):
    x = drawn(2, N, E)
    want = np.empty((2, N // 3, E))
    for b, n in np.ndindex(2, N // 3):
        group = x[b, 3 * n:3 * n + 3]
        want[b, n] = {"mean": sum(group) / 3, "max": np.maximum(np.maximum(*group[:2]), group[2]),
                      "convolution": sum(row @ w for row, w in zip(group, KERNEL, strict=True))}[kind]  # fmt: skip
    close(compress(x, 3, kind=kind, kernel=KINDS[kind]), want, 1e-12)


def test_limits(close):
    x = drawn(2, 12, E)
    same, mean = np.eye(E)[None], np.repeat(np.eye(E)[None] / 4, 4, axis=0)
    for kind, kernel in (("mean", None), ("max", None), ("convolution", same)):
        close(compress(x, 1, kind=kind, kernel=kernel), x, 1e-12)
    close(compress(x, 4, kind="convolution", kernel=mean), compress(x, 4), 1e-12)
    pick = np.zeros((4, E, E))
    pick[2] = np.eye(E)
    close(compress(x, 4, kind="convolution", kernel=pick), x[:, 2::4], 1e-12)
    close(compress(compress(x, 2, kind="max"), 3, kind="max"), compress(x, 6, kind="max"))


@pytest.mark.parametrize("kind", KINDS)
def test_gradient(kind, slopes, close):
    x, dout, kernel = drawn(2, 9, E, seed=1), drawn(2, 3, E, seed=2), KINDS[kind]
    grads = compress_backward(dout, x, 3, kind=kind, kernel=kernel)
    close(grads.dx, slopes(lambda a: (compress(a, 3, kind=kind, kernel=kernel) * dout).sum(), x), 1e-7)
    if kernel is None:
        assert grads.dkernel is None
    else:
        close(grads.dkernel, slopes(lambda a: (compress(x, 3, kind=kind, kernel=a) * dout).sum(), kernel), 1e-7)


def test_of_equal_rows_the_first_has_the_gradient():
    grads = compress_backward(np.ones((1, E)), np.ones((3, E)), 3, kind="max")
    np.testing.assert_array_equal(grads.dx, np.repeat([[1.0], [0.0], [0.0]], E, axis=1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("segment", [1, 4, 7, 40])
def test_both_memories_hold_the_latest(kind, segment, close):
    """However the text is cut: rows leave in threes, counted from the first; those gone for good may have been NaN."""
    kernel, x = KINDS[kind], drawn(2, 61, E, seed=3)
    memory = ma.CompressiveMemory(8, 5, rate=3, kind=kind, kernel=kernel)
    x[:, :30] = np.nan                                                # 51 rows have left; five threes of them are kept
    with np.errstate(invalid="ignore"):
        for start in range(0, 61, segment):
            memory.append(x[:, start:start + segment])
    left = (61 - 8) // 3 * 3
    np.testing.assert_array_equal(memory.memory, x[:, left:])
    close(memory.compressed, compress(x[:, left - 15:left], 3, kind=kind, kernel=kernel), 1e-12)
    assert (memory.reach, memory.rows.shape) == (61 - left + 15, (2, 61 - left + 5, E))
    assert memory.nbytes == memory.rows.nbytes


def test_at_rate_1_it_is_one_longer_memory(close):
    weights, x = ma.XLWeights.random(E, heads=2), drawn(2, 40, E, seed=4)
    memory, outs = ma.CompressiveMemory(4, 7, rate=1), []
    for start in range(0, 40, 4):
        outs.append(ma.transformer_xl_attention(x[:, start:start + 4], weights, memory=memory.rows))
        memory.append(x[:, start:start + 4])
    close(np.concatenate(outs, axis=1), ma.transformer_xl_attention(x, weights, segment=4, memory_length=11), 1e-12)


def test_without_a_second_memory_it_is_the_first_alone(close):
    x, memory = drawn(10, E), ma.CompressiveMemory(4, 0, rate=2)
    for start in range(0, 10, 2):
        memory.append(x[start:start + 2])
    np.testing.assert_array_equal(memory.rows, x[-4:])


def test_the_loss_that_a_kernel_learns_from(slopes, close):
    weights, h, x = ma.XLWeights.random(E, heads=3), drawn(2, 5, E, seed=5), drawn(2, 12, E, seed=6)
    found = reconstruction_loss(h, x, weights, 3, kind="convolution", kernel=KERNEL)
    want = slopes(lambda a: reconstruction_loss(h, x, weights, 3, kind="convolution", kernel=a).loss, KERNEL)
    close(found.dkernel, want, 1e-6)
    kernel = np.repeat(np.eye(E)[None] / 3, 3, axis=0)                # begin as the mean, and go down the slope
    mean = reconstruction_loss(h, x, weights, 3)
    assert mean.dkernel is None
    losses = []
    for _ in range(60):
        step = reconstruction_loss(h, x, weights, 3, kind="convolution", kernel=kernel)
        losses.append(step.loss)
        kernel = kernel - 0.5 * step.dkernel
    assert losses[0] == pytest.approx(mean.loss)
    assert losses[-1] < 0.8 * mean.loss
    assert reconstruction_loss(h, np.repeat(x[:, :1], 6, axis=1), weights, 3).loss < 1e-30         # equal rows lose nothing


@pytest.mark.parametrize(("use", "says"), [
    (lambda: compress(drawn(7, E), 3), r"x is \(7, 6\); it must be .* multiple of c = 3"),
    (lambda: compress(drawn(6, E), 3, kind="median"), "kind is 'median'"),
    (lambda: compress(drawn(6, E), 3, kind="convolution"), "'convolution' without a kernel"),
    (lambda: compress(drawn(6, E), 3, kernel=KERNEL), "'mean' with a kernel"),
    (lambda: compress(drawn(6, E), 2, kind="convolution", kernel=KERNEL), r"kernel is \(3, 6, 6\).*\(2, 6, 6\)"),
    (lambda: compress(drawn(6, E), 0), "rate = 0"),
    (lambda: compress_backward(drawn(3, E), drawn(6, E), 3), r"dout is \(3, 6\).*= \(2, 6\)"),
    (lambda: ma.CompressiveMemory(-1, 3, rate=2), "length = -1"), (lambda: compress(drawn(6, E), 3, kind=[]), r"kind is \[\]"),
    (lambda: reconstruction_loss(drawn(5, E + 1), drawn(6, E), ma.XLWeights.random(E, heads=2), 3),
     r"h is \(5, 7\) but x is \(6, 6\)"),
    (lambda: reconstruction_loss(drawn(5, E), drawn(6, E), None, 3), "weights is NoneType"),
    (lambda: reconstruction_loss(drawn(5, E), drawn(6, E), ma.XLWeights.random(4, heads=2), 3), r"w_q is \(4, 4\)"),
    (lambda: ma.CompressiveMemory(1, 3, rate=2, kind="min"), "kind is 'min'"),
    (lambda: ma.CompressiveMemory(1, 3, rate=2, kind="convolution"), "without a kernel"),
], ids=str)  # fmt: skip
def test_what_is_refused(use, says):
    with pytest.raises(ma.MinattnError, match=says):
        use()


def test_rows_that_do_not_fit_leave_nothing_behind():
    memory = ma.CompressiveMemory(2, 3, rate=2, kind="convolution", kernel=KERNEL[:2])
    with pytest.raises(ma.errors.ShapeError, match="kernel is"):
        memory.append(drawn(5, E + 1))
    assert memory.rows is None
    memory.append(drawn(5, E))
    before = memory.rows
    for wrong in (drawn(4, E + 1), drawn(1, 4, E), drawn(E)):
        with pytest.raises(ma.errors.ShapeError, match="only N of"):
            memory.append(wrong)
    np.testing.assert_array_equal(memory.rows, before)
