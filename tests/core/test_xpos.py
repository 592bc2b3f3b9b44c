"""xPos: RoPE's scores, each pair's part faded with its distance; one rate a head is the decay of retention."""
import numpy as np
import pytest

import minattn as ma
from minattn.core.errors import DecayError, OptionError, PositionError, ShapeError
from minattn.core.xpos import xpos, xpos_backward, xpos_decay

LAYOUTS = "half", "interleaved"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("log_decay", [None, -0.03, np.array([-0.5, 0.0, -0.01])], ids=["paper", "one", "each"])
def test_each_pair_adds_what_rope_makes_of_it_faded(layout, log_decay, close):
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 2, 3, 7, 6))
    m, n = rng.integers(0, 90, (2, 2, 7))
    options = {"layout": layout, "theta": 300.0}
    got = ma.xpos(q, m, role="query", log_decay=log_decay, **options) * ma.xpos(k, n, role="key", log_decay=log_decay, **options)
    plain = ma.rope(q, m, **options) * ma.rope(k, n, **options)
    pair = [0, 1, 2, 0, 1, 2] if layout == "half" else [0, 0, 1, 1, 2, 2]
    g = np.log((np.array([0, 2, 4]) / 6 + 0.4) / 1.4) / 512 if log_decay is None else np.broadcast_to(log_decay, 3)
    close(got, plain * np.exp(g[pair] * (m - n)[:, None, :, None]), 1e-9)
    shift = 40                                                                     # the distance alone counts
    moved = (ma.xpos(a, at + shift, role=role, log_decay=log_decay, **options)
             for a, at, role in ((q, m, "query"), (k, n, "key")))  # fmt: skip
    close(np.prod(list(moved), axis=0).sum(axis=-1), got.sum(axis=-1), 1e-9)


def test_one_rate_is_the_decay_of_retention(close):
    """RetNet's scheme: left to the state, the decay never makes a key large."""
    rng, at = np.random.default_rng(1), np.arange(30)
    q, k, v = rng.standard_normal((3, 30, 4))
    far = {"layout": "interleaved", "log_decay": -0.2}
    scores = ma.xpos(q, at, role="query", **far) @ ma.xpos(k, at, role="key", **far).T
    turned = (ma.rope(a, at, layout="interleaved") for a in (q, k))
    close(ma.retention(*turned, v, log_decay=np.array(-0.2)), np.tril(scores) @ v, 1e-9)


def test_no_decay_is_rope(close):
    x, at = np.random.default_rng(2).standard_normal((3, 5, 4)), np.arange(5) + 9
    for role in ("query", "key"):
        close(xpos(x, at, role=role, layout="half", log_decay=0.0), ma.rope(x, at, layout="half"))


@pytest.mark.parametrize("role", ["query", "key"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient(role, layout, slopes, close):
    x, dout = np.random.default_rng(3).standard_normal((2, 2, 5, 4))
    at, options = np.array([3, 0, 7, 50, 11]), {"role": role, "layout": layout, "log_decay": np.array([-0.01, -0.04])}
    close(xpos_backward(dout, x, at, **options).dx, slopes(lambda y: (xpos(y, at, **options) * dout).sum(), x), 1e-8)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_types_are_kept(dtype, close):
    x, at = np.random.default_rng(4).standard_normal((3, 5, 4)).astype(dtype), np.arange(5) + 900
    got = xpos(x, at, role="key", layout="half")
    assert got.dtype == dtype
    close(got, xpos(x.astype(np.float64), at, role="key", layout="half"), 2e-3 if dtype == np.float16 else 1e-6)


@pytest.mark.parametrize(("change", "error", "says"), [
    ({"role": "value"}, OptionError, 'role is \'value\'; it must be "query" or "key"'),
    ({"layout": "both"}, OptionError, "layout is 'both'"),
    ({"log_decay": 0.1}, DecayError, "at most 0"),
    ({"log_decay": -np.inf}, DecayError, "finite"),
    ({"log_decay": np.zeros(3)}, ShapeError, r"log_decay is \(3,\) but x has D = 4; .*\(D / 2,\) = \(2,\)"),
    ({"positions": np.arange(5.0)}, PositionError, "positions are float64"),
])
def test_what_is_refused(change, error, says):
    given = {"x": np.ones((3, 5, 4)), "positions": np.arange(5), "role": "query", "layout": "half"} | change
    with pytest.raises(error, match=says):
        xpos(**given)
    with pytest.raises(ShapeError, match=r"dout is \(5, 4\) but x is \(3, 5, 4\)"):
        xpos_backward(np.ones((5, 4)), np.ones((3, 5, 4)), np.arange(5), role="query", layout="half")


def test_the_rates_fade_the_fast_pairs_first():
    rates = xpos_decay(64)
    assert (np.diff(rates) > 0).all()
    assert rates.max() < 0
