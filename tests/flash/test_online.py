"""FlashAttention in plain NumPy: the same numbers whatever the tiles are, and exactly the traffic that the papers count."""
import numpy as np
import pytest

import minattn as ma
from minattn import masks
from minattn.core import reference
from minattn.core.inputs import prepare
from minattn.flash import online

TILES = [(1, 1), (3, 2), (64, 64), (5, 100), (7, 17)]
OPTIONS = {
    "plain": {},
    "causal": {"causal": True},
    "window with first": {"mask": masks.last(3) | masks.first(2), "causal": True},
    "softcap and sink": {"softcap": 1.3, "sink_logits": np.linspace(-1, 2, 6)},
    "bias": {"bias": np.random.default_rng(5).standard_normal((1, 6, 17, 23)), "scale": 0.4},
    "score_mod": {"score_mod": lambda s, b, h, i, j: s * (1 + 0.1 * h) - 0.05 * (i - j) * (b + 1)},
    "rows": {"mask": masks.padding([20, 0])},
    "nobody": {"mask": ~masks.last(23) & masks.causal()},
    "bias by key": {"bias": np.random.default_rng(6).standard_normal((2, 1, 1, 23)), "causal": True},
}


def draw(N=17, S=23, D=8, Dv=5, H=6, G=2, B=2, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape) for shape in ((B, H, N, D), (B, G, S, D), (B, G, S, Dv), (B, H, N, Dv)))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * max(1, np.abs(np.where(np.isfinite(b), b, 0)).max(initial=0)))


@pytest.mark.parametrize("tiles", TILES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("form", [online.forward, online.forward_keys_outside])
def test_any_tiles(form, options, tiles):
    q, k, v, _ = draw()
    x = prepare(q, k, v, **options)
    want_out, _, want_lse = reference.forward(x)
    out, _, lse = form(x, block_q=tiles[0], block_k=tiles[1])
    close(out, want_out)
    close(lse, want_lse)


@pytest.mark.parametrize("tiles", TILES[1:], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_backward(options, tiles):
    q, k, v, dout = draw()
    x = prepare(q, k, v, **options)
    want = reference.backward(x, dout)
    got = online.backward(x, dout, block_q=tiles[0], block_k=tiles[1])
    for a, b in zip(got[:3], want[:3], strict=True):
        close(a, b)
    if x.bias is not None:
        shared = tuple(axis for axis in range(4) if x.bias.shape[axis] == 1)
        close(got[3], want[3].sum(axis=shared, keepdims=True))
    if x.sink_logits is not None:
        close(got[4], want[4])


def test_share_of_a_part_of_the_keys():
    """The lse of the whole makes the gradient of a part: two halves of the keys give what both give at once."""
    q, k, v, dout = draw()
    x = prepare(q, k, v, causal=True)
    out, _, lse = online.forward(x)
    whole = online.backward(x, dout, out, lse)
    halves = [online.backward(x.tile(slice(None), keys), dout, out, lse) for keys in (slice(0, 9), slice(9, 23))]
    close(halves[0][0] + halves[1][0], whole[0])
    for n in (1, 2):
        close(np.concatenate([halves[0][n], halves[1][n]], axis=2), whole[n])


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_scores(size):
    """No overflow, and a row whose scores are all far away still sums to 1."""
    q, k, v, _ = draw()
    x = prepare(q, k, v, bias=np.full((1, 1), size) * np.random.default_rng(0).random((17, 23)))
    out, _, lse = online.forward(x, block_q=4, block_k=5)
    want, _, want_lse = reference.forward(x)
    close(out, want)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-12)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_poison_outside_of_the_mask(poison):
    q, k, v, dout = draw()
    mask = masks.causal() & masks.padding([15, 23])
    want = online.forward(prepare(q, k, v, mask=mask)), online.backward(prepare(q, k, v, mask=mask), dout)
    k[0, :, 15:] = v[0, :, 15:] = poison
    x = prepare(q, k, v, mask=mask)
    with np.errstate(invalid="ignore", over="ignore"):
        close(online.forward(x, block_k=4)[0], want[0][0])
        for a, b in zip(online.backward(x, dout, block_k=4)[:3], want[1][:3], strict=True):
            close(a, b)


@pytest.mark.parametrize(("block_q", "block_k"), [(16, 32), (7, 5), (64, 64), (128, 1)])
def test_ledger(block_q, block_k):
    """Counted, not computed: the closed forms of both papers for one head."""
    N, S, D = 50, 77, 8
    q, k, v, _ = draw(N, S, D, Dv=D, H=1, G=1, B=1)
    x = prepare(q, k, v)
    ledger = online.Ledger()
    online.forward(x, block_q=block_q, block_k=block_k, ledger=ledger)
    assert ledger.moved == 2 * N * D + N + -(-N // block_q) * 2 * S * D
    assert ledger.written == N * D + N
    ledger = online.Ledger()
    online.forward_keys_outside(x, block_q=block_q, block_k=block_k, ledger=ledger)
    assert ledger.moved == 2 * S * D + -(-S // block_k) * (3 * N * D + 2 * N)


def test_ledger_of_a_mask():
    """Block sparse: only the tiles in which somebody sees something are loaded (Dao et al. 2022, Proposition 4)."""
    N, D, block = 96, 4, 16
    q, k, v, _ = draw(N, N, D, Dv=D, H=1, G=1, B=1)
    ledger = online.Ledger()
    online.forward(prepare(q, k, v, causal=True), block_q=block, block_k=block, ledger=ledger)
    tiles = N // block
    assert ledger.moved == 2 * N * D + N + tiles * (tiles + 1) // 2 * 2 * block * D


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_weights(options):
    q, k, v, _ = draw()
    x = prepare(q, k, v, **options)
    _, want, lse = reference.forward(x)
    for given in (None, lse):
        close(online.weights(x, given, block_q=5)[0], want)
    (places, values), (want_places, want_values) = online.weights(x, None, 4, block_q=5), reference.weights(x, None, 4)
    np.testing.assert_array_equal(places, want_places)
    close(values, want_values)


def test_merge_is_the_same_as_tiles():
    """Parts of the keys in any order, joined: what `forward` does tile by tile."""
    q, k, v, _ = draw()
    x = prepare(q, k, v)
    parts = [reference.forward(x.tile(slice(None), keys))[::2] for keys in (slice(12, 23), slice(0, 5), slice(5, 12))]
    out, lse = ma.merge(*ma.merge(*parts[0], *parts[1]), *parts[2])
    close(out, online.forward(x)[0])
    close(lse, online.forward(x)[2])
