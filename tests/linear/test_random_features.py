"""Random features: right in the mean, wrong by what the laws say, and less wrong with directions at right angles."""
import numpy as np
import pytest

import minattn as ma

KINDS = "positive", "trigonometric", "hyperbolic"
D, DRAWS = 5, 200_000
PAIRS = [(np.array([0.3, -0.2, 0.1, 0.4, -0.1]), np.array([0.2, 0.3, -0.1, 0.2, 0.1])),
         (np.array([0.5, 0.1, -0.4, 0.2, 0.3]), np.array([-0.4, -0.2, 0.3, -0.1, 0.2]))]  # fmt: skip


@pytest.fixture(scope="module")
def directions():
    return {orthogonal: ma.random_projection(DRAWS, D, orthogonal=orthogonal, seed=1) for orthogonal in (True, False)}


def estimates(x, y, w, kind):
    """What each direction alone says of exp(x . y)."""
    products = ma.random_features(x, w, kind) * ma.random_features(y, w, kind)
    return len(w) * products.reshape(-1, len(w)).sum(axis=0)


def law(x, y, kind):
    """The variance of one direction, from the moments of a normal (not the form in the docstring)."""
    together, apart, truth = ((x + y) ** 2).sum(), ((x - y) ** 2).sum(), np.exp(x @ y)
    sizes = np.exp((x**2).sum() + (y**2).sum())
    if kind == "trigonometric":                                       # cos of a normal: (1 + exp(-2 s)) / 2 - exp(-s)
        return sizes * ((1 + np.exp(-2 * apart)) / 2 - np.exp(-apart))
    if kind == "hyperbolic":                                          # cosh of a normal: (1 + exp(2 s)) / 2 - exp(s)
        return ((1 + np.exp(2 * together)) / 2 - np.exp(together)) / sizes
    return np.exp(2 * together) / sizes - truth**2


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_the_exponential(directions, kind, orthogonal, pair):
    blocks = estimates(*pair, directions[orthogonal], kind).reshape(-1, D).mean(axis=-1)       # blocks are independent
    error = blocks.std() / len(blocks) ** 0.5
    assert abs(blocks.mean() - np.exp(pair[0] @ pair[1])) < 3 * error
    assert error < 0.004                                              # else the line above says little


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_squared_error_follows_the_law(directions, kind, pair):
    squares = (estimates(*pair, directions[False], kind) - np.exp(pair[0] @ pair[1])) ** 2
    error = squares.std() / len(squares) ** 0.5
    assert abs(squares.mean() - law(*pair, kind)) < 3 * error
    assert error < 0.03 * squares.mean()


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_as_the_paper_writes_it(close, kind):
    for x, y in PAIRS:
        z, score, apart = ((x + y) ** 2).sum(), x @ y, ((x - y) ** 2).sum()
        written = {
            "positive": np.exp(z + 2 * score) * (1 - np.exp(-z)),
            "hyperbolic": np.exp(z + 2 * score) * (1 - np.exp(-z)) ** 2 / 2,
            "trigonometric": np.exp(z - 2 * score) * (1 - np.exp(-apart)) ** 2 / 2,
        }
        close(written[kind], law(x, y, kind))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_right_angles_lower_the_error(directions, kind, pair):
    truth = np.exp(pair[0] @ pair[1])
    alone, together = ((estimates(*pair, directions[orthogonal], kind).reshape(-1, D).mean(axis=-1) - truth) ** 2
                       for orthogonal in (False, True))  # fmt: skip
    error = np.hypot(alone.std(), together.std()) / len(alone) ** 0.5
    assert together.mean() < alone.mean() - 3 * error


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_falls_as_one_over_the_square_root_of_the_features(directions, kind):
    x, y = PAIRS[0]
    each, sizes = estimates(x, y, directions[False], kind) - np.exp(x @ y), 4 ** np.arange(1, 6)
    errors = [(each[: DRAWS // m * m].reshape(-1, m).mean(axis=-1) ** 2).mean() ** 0.5 for m in sizes]
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert abs(slope + 0.5) < 0.03


def test_directions_are_at_right_angles_within_a_block(directions):
    w = directions[True].reshape(-1, D, D)
    angles = w @ w.swapaxes(-1, -2) * (1 - np.eye(D))
    assert abs(angles).max() < 1e-12
    np.testing.assert_array_equal(ma.random_projection(7, D, seed=1), ma.random_projection(7, D, seed=1))
    assert not np.allclose(ma.random_projection(7, D, seed=1), ma.random_projection(7, D, seed=2))


@pytest.mark.parametrize("orthogonal", [True, False])
def test_each_direction_is_a_standard_normal(directions, orthogonal):
    """At each place of a block; signs that LAPACK chose would show in the mean of the first numbers."""
    w = directions[orthogonal].reshape(-1, D, D)                                   # blocks, places, D
    error = len(w) ** -0.5
    assert abs(w.mean(axis=0)).max() < 4 * error
    products = np.einsum("bpi,bpj->pij", w, w) / len(w)
    assert abs(products - np.eye(D)).max() < 4 * 2**0.5 * error
    lengths = (w**2).sum(axis=-1)
    assert abs(lengths.var(axis=0) - 2 * D).max() < 10 * error * 2 * D             # chi squared: not all of one length


def test_positive_features_are_positive_and_others_are_not():
    x = np.random.default_rng(0).standard_normal((20, D))
    w = ma.random_projection(6, D, seed=0)
    assert (ma.random_features(x, w) > 0).all()
    assert (ma.random_features(x, w, "hyperbolic") > 0).all()
    assert (ma.random_features(x, w, "trigonometric") < 0).any()
    widths = [ma.random_features(x, w, kind).shape for kind in KINDS]
    assert widths == [(20, 6), (20, 12), (20, 12)]


def test_types_and_shapes():
    w = ma.random_projection(6, D, seed=0)
    for given, found in ((np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64)):
        assert ma.random_features(np.ones((2, 3, D), given), w).dtype == found
    assert ma.random_features(np.ones(D), w).shape == (6,)


@pytest.mark.parametrize(("call", "error", "says"), [
    (lambda: ma.random_features(np.ones((3, 4)), np.ones((6, 5))), ma.errors.ShapeError, r"w is \(m=6, D=5\) but x is .*D=4"),
    (lambda: ma.random_features(np.ones((3, 4)), np.ones(4)), ma.errors.ShapeError, r"directions must be \(m, D\)"),
    (lambda: ma.random_features(np.ones((3, 4)), np.ones((0, 4))), ma.errors.ShapeError, "at least one"),
    (lambda: ma.random_features(1.0, np.ones((2, 4))), ma.errors.ShapeError, r"directions must be \(m, D\)"),
    (lambda: ma.random_features(np.ones((3, 4), int), np.ones((2, 4))), ma.errors.DtypeError, "x is int64"),
    (lambda: ma.random_features(np.ones((3, 4)), np.ones((2, 4)), "cosine"), ma.errors.OptionError, "kind is 'cosine'"),
    (lambda: ma.random_projection(0, 4, seed=0), ma.errors.OptionError, "features = 0; it must be at least 1"),
    (lambda: ma.random_projection(2.5, 4, seed=0), ma.errors.OptionError, "features is 2.5"),
    (lambda: ma.random_projection(2, 4, seed=None), ma.errors.OptionError, "seed is None; it must be an integer"),
], ids=str)  # fmt: skip
def test_what_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
