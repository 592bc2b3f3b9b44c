"""Infini-attention: its memory read is linear attention over the segments before, its rest is attention in blocks."""
import itertools

import numpy as np
import pytest

import minattn as ma

OPEN, CLOSED = 1e3, -np.inf                                           # all from the memory, nothing from it


def drawn(N=50, H=4, G=2, D=6, Dv=5, seed=0, lead=(2,), dtype=np.float64):
    rng = np.random.default_rng(seed)
    sizes = [(H, N, D), (G, N, D), (G, N, Dv)]
    return [rng.standard_normal((*lead, *size)).astype(dtype) for size in sizes]


@pytest.mark.parametrize("segment", [1, 7, 16, 50, 64])
def test_a_closed_gate_is_attention_in_blocks(segment):
    q, k, v = drawn()
    blocks = ma.Mask(lambda i, j: i // segment == j // segment)
    wanted = ma.attention(q, k, v, causal=True, mask=blocks)
    np.testing.assert_allclose(ma.infini_attention(q, k, v, gate=np.full(4, CLOSED), segment=segment), wanted, atol=1e-12)


@pytest.mark.parametrize("segment", [1, 7, 16, 50])
def test_under_the_linear_update_the_memory_is_linear_attention_over_all_earlier_segments(segment):
    q, k, v = drawn()
    made = ma.infini_attention(q, k, v, gate=np.full(4, OPEN), segment=segment, delta=False)
    for start in range(0, 50, segment):
        here = np.s_[..., start:start + segment, :]
        if start == 0:
            assert (made[here] == 0).all()
            continue
        wanted = ma.linear_attention(q[here], k[..., :start, :], v[..., :start, :], causal=False)
        np.testing.assert_allclose(made[here], wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("splits", [(0, 1, 2, 33, 50), (0, 16, 32, 50), (0, 50, 50)])
def test_a_run_in_pieces_equals_one_run(splits, delta):
    q, k, v = drawn()
    options = {"gate": np.linspace(-1, 1, 4), "segment": 16, "delta": delta}
    whole, last = ma.infini_attention(q, k, v, **options, return_state=True)
    state, outs = None, []
    for a, b in itertools.pairwise(splits):
        part = np.s_[..., a:b, :]
        out, state = ma.infini_attention(q[part], k[part], v[part], **options, state=state, return_state=True)
        outs.append(out)
    np.testing.assert_allclose(np.concatenate(outs, axis=-2), whole, atol=1e-12)
    for a, b in zip(state, last, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_the_delta_rule_writes_the_same_binding_once_and_the_normaliser_counts_it():
    _, k, v = drawn(N=1, lead=())
    q, k, v = (np.repeat(a, 3, axis=-2) for a in (k, k, v))

    def memory(times, delta):
        part = np.s_[..., :times, :]
        options = {"gate": np.zeros(2), "segment": 1, "delta": delta, "return_state": True}
        return ma.infini_attention(q[part], k[part], v[part], **options)[1]

    once, twice, thrice = (memory(times, True) for times in (1, 2, 3))
    # after one writing the memory gives back s(k).s(k) / s(k).s(k) v = v, so a second one adds nothing, once
    np.testing.assert_allclose(twice.memory, once.memory, atol=1e-12)
    np.testing.assert_allclose(twice.normalizer, 2 * once.normalizer)
    assert np.abs(thrice.memory - twice.memory).max() > 1e-3            # z has doubled: the read is halved, and mended
    for times in (1, 2, 3):
        np.testing.assert_allclose(memory(times, False).memory, times * once.memory)
        np.testing.assert_allclose(memory(times, False).normalizer, memory(times, True).normalizer)


def test_the_numbers_of_state_of_the_paper():
    layers, heads, D, segment = 12, 8, 128, 2048
    k = v = np.zeros((heads, 1, D), np.float32)
    _, state = ma.infini_attention(k, k, v, gate=np.zeros(heads), segment=1, return_state=True)
    assert layers * state.size == 1_585_152
    assert 2 * layers * heads * segment * D == 50_331_648                 # a cache of one segment, as Transformer-XL keeps


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("N", [2, 3, 8, 12])
def test_gradients(N, delta, slopes, close):
    """Over no whole segment, one, and several, the last one open or not."""
    q, k, v = drawn(N=N, D=3, Dv=2)
    gate, dout = np.linspace(-1, 1, 4), np.random.default_rng(N).standard_normal((2, 4, N, 2))
    arrays, options = {"q": q, "k": k, "v": v, "gate": gate}, {"segment": 3, "delta": delta}
    grads = ma.infini_attention_backward(dout, **arrays, **options)
    for name, x in arrays.items():
        def loss(a, name=name):
            return (ma.infini_attention(**arrays | {name: a}, **options) * dout).sum()

        close(getattr(grads, f"d{name}"), slopes(loss, x), 1e-7)


def test_gradients_of_what_rows_share_are_sums_and_keep_their_type(close):
    q, k, v = drawn(N=9, D=3, Dv=2)
    gate, dout = np.linspace(-1, 1, 4), np.random.default_rng(1).standard_normal((2, 4, 9, 2))
    whole = ma.infini_attention_backward(dout, q, k[[0, 0]], v[[0, 0]], gate=gate, segment=4)
    shared = ma.infini_attention_backward(dout, q, k[0], v[:1], gate=gate, segment=4)
    close(shared.dq, whole.dq, 1e-12)
    close(shared.dk, whole.dk.sum(axis=0), 1e-12)
    close(shared.dv, whole.dv.sum(axis=0, keepdims=True), 1e-12)
    close(shared.dgate, whole.dgate, 1e-12)
    one = ma.infini_attention_backward(dout[0, 0], q[0, 0], k[0, 0], v[0, 0], gate=gate[:1], segment=4)       # no head axis
    same = ma.infini_attention_backward(dout[0, :1], q[0, :1], k[0, :1], v[0, :1], gate=gate[:1], segment=4)
    close(one.dk, same.dk[0], 1e-12)
    close(one.dgate, same.dgate, 1e-12)
    halves = [a.astype(np.float16) for a in (q, k, v)]
    narrow = ma.infini_attention_backward(dout, *halves, gate=gate.astype(np.float32), segment=4)
    assert [a.dtype for a in narrow] == [np.float16] * 3 + [np.float32]
    with pytest.raises(ma.errors.ShapeError, match=r"dout is \(4, 9, 2\); it must be .* = \(2, 4, 9, 2\)"):
        ma.infini_attention_backward(dout[0], q, k, v, gate=gate, segment=4)


def test_narrow_types_one_head_and_errors():
    q, k, v = drawn(dtype=np.float16)
    out, state = ma.infini_attention(q, k, v, gate=np.zeros(4, np.float32), segment=8, return_state=True)
    assert (out.dtype, state.memory.dtype) == (np.float16, np.float32)
    q, k, v = drawn(H=1, G=1, lead=())
    one = ma.infini_attention(q[0], k[0], v[0], gate=np.array([0.3]), segment=8)
    np.testing.assert_allclose(one, ma.infini_attention(q, k, v, gate=np.array([0.3]), segment=8)[0], atol=1e-12)
    _, state = ma.infini_attention(q, k, v, gate=np.zeros(1), segment=8, return_state=True)
    fine = {"gate": np.zeros(1), "segment": 8}
    wrong = [({"gate": np.zeros(2)}, r"gate is \(2,\)"), ({"segment": 0}, "segment"),
             ({"segment": 2, "state": state}, "2 tokens of an open segment"),
             ({"state": state._replace(memory=state.k)}, "state.memory")]  # fmt: skip
    for options, text in wrong:
        with pytest.raises(ma.MinattnError, match=text):
            ma.infini_attention(q, k, v, **fine | options)
    with pytest.raises(ma.MinattnError, match="N = 50 but k has S = 3"):
        ma.infini_attention(q, k[:, :3], v[:, :3], gate=np.zeros(1), segment=8)


def test_of_no_rows_there_is_nothing():
    q, k, v = (a[:0] for a in drawn())
    out = ma.infini_attention(q, k, v, gate=np.zeros(4), segment=16)
    assert out.shape == (*q.shape[:-1], v.shape[-1])
    grads = ma.infini_attention_backward(out, q, k, v, gate=np.ones(4), segment=16)
    assert [a.shape for a in grads] == [q.shape, k.shape, v.shape, (4,)]
    assert not grads.dgate.any()


@pytest.mark.parametrize("shared", ["q", "k and v"])
def test_rows_may_share_what_they_bring(shared):
    q, k, v = drawn()
    q, k, v = (q[0], k, v) if shared == "q" else (q, k[0], v[0])
    gate, whole = np.linspace(-1, 1, 4), [np.broadcast_to(a, (2, *a.shape[-3:])) for a in (q, k, v)]
    wanted = ma.infini_attention(*whole, gate=gate, segment=16)
    np.testing.assert_allclose(ma.infini_attention(q, k, v, gate=gate, segment=16), wanted, atol=1e-12)
    np.testing.assert_allclose(ma.infini_attention(q, k, v[:1] if v.ndim == 4 else v, gate=gate, segment=16),
                               ma.infini_attention(*whole[:2], whole[2][[0, 0]], gate=gate, segment=16), atol=1e-12)


@pytest.mark.parametrize("state", [3, (), np.ones((2, 2, 6, 5))])
def test_only_its_own_state_is_taken(state):
    with pytest.raises(ma.errors.OptionError, match="it must be the InfiniState"):
        ma.infini_attention(*drawn(), gate=np.zeros(4), segment=16, state=state)
