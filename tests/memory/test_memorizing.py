"""Memorizing attention: its limits are dense and local attention; what it keeps, what it drops, and what no gradient reaches."""
import numpy as np
import pytest

import minattn as ma

OPEN, CLOSED = 1e3, -np.inf                                           # all from the memory, nothing from it
INDEXES = ["exact", "faiss"]


@pytest.fixture
def made(need):
    """`q, k, v, memory, past = made(S, capacity=..., index=...)`: five tokens behind S others, which the memory was given."""

    def make(S, capacity=100, index="exact", N=5, dtype=np.float64, chunk=7, seed=0):
        if index == "faiss":
            need("faiss")
        rng = np.random.default_rng(seed)
        q, k, v = (rng.standard_normal((2, *size)).astype(dtype) for size in ((4, N, 6), (2, N, 6), (2, N, 3)))
        past = [rng.standard_normal((2, 2, S, size)).astype(dtype) for size in (6, 3)]
        memory = ma.ExternalMemory(2, capacity, 6, dtype, value_dim=3, lead=(2,), index=index)
        for start in range(0, S, chunk):
            memory.append(*(a[:, :, start:start + chunk] for a in past))
        return q, k, v, memory, past

    return make


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("S", [1, 7, 64, 129])
def test_as_many_as_there_are_is_dense_attention_to_the_memory(made, close, S, index):
    q, k, v, memory, past = made(S, capacity=129, index=index)
    for keep in (S, S + 50):                                          # fewer than asked for are all there are
        got = ma.memorizing_attention(q, k, v, gate=np.full(4, OPEN), memory=memory, keep=keep)
        close(got, ma.attention(q, *past), 1e-12)


@pytest.mark.parametrize("S", [0, 20])
def test_a_closed_gate_is_local_and_an_empty_memory_gives_nothing(made, close, S):
    q, k, v, memory, _ = made(S)
    local = ma.attention(q, k, v, causal=True)
    close(ma.memorizing_attention(q, k, v, gate=np.full(4, CLOSED), memory=memory), local, 1e-12)
    if S == 0:
        gate = np.array([OPEN, 0.0, 1.0, CLOSED])
        share = 1 / (1 + np.exp(-gate.clip(-700, None)))
        close(ma.memorizing_attention(q, k, v, gate=gate, memory=memory), (1 - share)[:, None, None] * local, 1e-12)


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("keep", [1, 2, 9])
def test_against_sorting_by_hand(made, close, keep, index):
    q, k, v, memory, (past_k, past_v) = made(30, index=index)
    gate, want = np.linspace(-2, 2, 4), np.empty((2, 4, 5, 3))
    near = ma.attention(q, k, v, causal=True, scale=0.7)
    for b, h, n in np.ndindex(2, 4, 5):
        scores = past_k[b, h // 2] @ q[b, h, n]
        best = np.argsort(-scores)[:keep]
        weights = np.exp(0.7 * scores[best])
        share = 1 / (1 + np.exp(-gate[h]))
        want[b, h, n] = share * weights / weights.sum() @ past_v[b, h // 2, best] + (1 - share) * near[b, h, n]
    close(ma.memorizing_attention(q, k, v, gate=gate, memory=memory, keep=keep, scale=0.7), want, 1e-12)


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("chunk", [1, 4, 13, 50])
def test_what_is_full_lets_the_oldest_go(made, close, chunk, index):
    """Also when more come at once than it holds. What has gone may have been NaN."""
    q, k, v, memory, _ = made(0, capacity=11, index=index)
    _, _, _, _, given = made(50)
    for a in given:
        a[:, :, :39] = np.nan
    for start in range(0, 50, chunk):
        memory.append(*(a[:, :, start:start + chunk] for a in given))
        assert len(memory) == min(11, start + chunk, 50)
    for held, a in zip((memory.k, memory.v), given, strict=True):
        np.testing.assert_array_equal(held, a[:, :, 39:])
    want = ma.topk_attention(q, *(a[:, :, 39:] for a in given), keep=4)
    close(ma.memorizing_attention(q, k, v, gate=np.full(4, OPEN), memory=memory, keep=4), want, 1e-12)
    assert memory.nbytes == 2 * 2 * 11 * (6 + 3) * 8


def test_of_equal_matches_the_older_are_taken():
    memory, one = ma.ExternalMemory(1, 8, 2, np.float64, value_dim=1), np.ones((1, 1, 2))
    for value in range(8):
        memory.append(one * (value != 3), np.full((1, 1, 1), value, np.float64))      # all match alike but the fourth
    got = [ma.memorizing_attention(one, one, one[..., :1], gate=np.full(1, OPEN), memory=memory, keep=keep) for keep in (1, 3, 4)]
    np.testing.assert_allclose(np.ravel(got), [0, (0 + 1 + 2) / 3, (0 + 1 + 2 + 4) / 4])


@pytest.mark.parametrize("index", INDEXES)
def test_gradients(made, slopes, close, index):
    q, k, v, memory, _ = made(9, index=index, N=3)
    gate, dout = np.linspace(-1, 1, 4), np.random.default_rng(1).standard_normal((2, 4, 3, 3))
    named, options = {"q": q, "k": k, "v": v, "gate": gate}, {"memory": memory, "keep": 4}
    before = memory.k.copy(), memory.v.copy()
    grads = ma.memorizing_attention_backward(dout, **named, **options)
    for name, a in named.items():
        want = slopes(lambda x, name=name: (ma.memorizing_attention(**named | {name: x}, **options) * dout).sum(), a)
        close(getattr(grads, f"d{name}"), want, 1e-7)
    for a, b in zip(before, (memory.k, memory.v), strict=True):       # forward and backward only read it
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("index", INDEXES)
def test_a_query_that_is_nan_shows_and_spoils_no_other(made, close, index):
    q, k, v, memory, _ = made(20, index=index)
    clean = ma.memorizing_attention(q, k, v, gate=np.full(4, OPEN), memory=memory, keep=3)
    q[1, 2, 4] = np.nan
    with np.errstate(invalid="ignore"):
        got = ma.memorizing_attention(q, k, v, gate=np.full(4, OPEN), memory=memory, keep=3)
    spoiled = np.isnan(got).any(axis=-1)
    assert np.argwhere(spoiled).tolist() == [[1, 2, 4]]
    close(got[~spoiled], clean[~spoiled], 1e-12)


def test_faiss_follows_a_memory_that_is_appended_to_and_read_in_turns(made, close):
    q, k, v, found, _ = made(0, capacity=23, index="faiss")
    exact = made(0, capacity=23)[3]
    rng = np.random.default_rng(3)
    for N in rng.integers(1, 30, 12):
        new = rng.standard_normal((2, 2, N, 6)), rng.standard_normal((2, 2, N, 3))
        outs = []
        for memory in (found, exact):
            memory.append(*new)
            outs.append(ma.memorizing_attention(q, k, v, gate=np.zeros(4), memory=memory, keep=6))
        close(*outs, 1e-12)


def test_without_faiss_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ma.errors.DependencyError, match="pip install faiss-cpu"):
        ma.ExternalMemory(1, 8, 2, index="faiss")


def test_narrow_types(made, close):
    q, k, v, memory, _ = made(20, dtype=np.float16)
    gate = np.linspace(-1, 1, 4).astype(np.float32)
    out = ma.memorizing_attention(q, k, v, gate=gate, memory=memory, keep=20)
    assert (out.dtype, memory.k.dtype) == (np.float16, np.float16)
    wide = ma.ExternalMemory(2, 20, 6, np.float64, value_dim=3, lead=(2,))
    wide.append(memory.k, memory.v)
    want = ma.memorizing_attention(*(a.astype(np.float64) for a in (q, k, v)), gate=gate, memory=wide, keep=20)
    close(out, want, 1e-3)
    grads = ma.memorizing_attention_backward(out, q, k, v, gate=gate, memory=memory)
    assert [a.dtype for a in grads] == [np.float16] * 3 + [np.float32]
    empty = ma.memorizing_attention(q[:, :, :0], k[:, :, :0], v[:, :, :0], gate=gate, memory=memory)
    assert empty.shape == (2, 4, 0, 3)


@pytest.mark.parametrize(("changed", "says"), [
    ({"gate": np.zeros(2)}, r"gate is \(2,\) but q has H = 4"), ({"keep": 0}, "keep = 0"), ({"scale": -1.0}, "scale = -1.0"),
    ({"k": np.ones((2, 2, 4, 6)), "v": np.ones((2, 2, 4, 3))}, r"each token brings"),
    ({"k": np.ones((2, 2, 5, 7)), "q": np.ones((2, 4, 5, 7))}, r"memory.k is \(2, 2, 3, 6\) but k is"),
    ({"v": np.ones((2, 2, 5, 4))}, r"memory.v is \(2, 2, 3, 3\) but v is"),
    ({"q": np.ones((2, 4, 5, 6), int)}, "q is int64"), ({"dout": np.ones((2, 4, 5, 2))}, r"dout is \(2, 4, 5, 2\)"),
], ids=str)  # fmt: skip
def test_what_is_refused(made, changed, says):
    q, k, v, memory, _ = made(3)
    given = {"dout": np.ones((2, 4, 5, 3)), "q": q, "k": k, "v": v, "gate": np.zeros(4), "memory": memory} | changed
    with pytest.raises(ma.MinattnError, match=says):
        ma.memorizing_attention_backward(**given)


@pytest.mark.parametrize(("use", "says"), [
    (lambda m: m.append(np.ones((1, 4, 2)), np.ones((1, 3, 2))), "N = 4 but v_new has N = 3"),
    (lambda m: m.append(np.ones((2, 4, 2)), np.ones((2, 4, 2))), r"this memory takes \(1, N, 2\)"),
    (lambda m: ma.ExternalMemory(1, 0, 2), "capacity = 0"), (lambda m: ma.ExternalMemory(1, 1, 2, int), "dtype is int64"),
    (lambda m: ma.ExternalMemory(1, 1, 2, index="near"), "index is 'near'"),
], ids=["lengths", "heads", "capacity", "dtype", "index"])  # fmt: skip
def test_a_memory_refuses(use, says):
    memory = ma.ExternalMemory(1, 8, 2)
    with pytest.raises(ma.MinattnError, match=says):
        use(memory)
    assert len(memory) == 0
