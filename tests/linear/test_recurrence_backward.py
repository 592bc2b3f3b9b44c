"""Gradients of the recurrence against finite differences, over every setting, and what they have the shape of."""
import warnings

import numpy as np
import pytest

import minattn as ma

SETTINGS = [(d, e, n) for d in (None, "constant", "token", "channel") for e in (False, True) for n in (False, True)
            if not (e and n)]  # fmt: skip


def numbers(given, options):
    """Every array among the arguments by its name, the two of erase each by its own."""
    named = given | {name: options[name] for name in ("log_decay", "state") if name in options}
    return named | {f"erase{n}": a for n, a in enumerate(options.get("erase", ()))}


def call(function, named, **options):
    named = dict(named)
    if "erase0" in named:
        named["erase"] = named.pop("erase0"), named.pop("erase1")
    return function(**named, **options)


@pytest.mark.parametrize(("decay", "erase", "normalize"), SETTINGS)
@pytest.mark.parametrize("chunk", [2, 64])
def test_gradients_equal_finite_differences(tokens, close, slopes, decay, erase, normalize, chunk):
    given, options = tokens(1, 5, decay, erase, normalize, B=1, H=2, G=1, D=3, Dv=2)
    rng = np.random.default_rng(0)
    dout, dend = rng.standard_normal((1, 2, 5, 2)), rng.standard_normal((1, 1, 3, 2 + normalize))
    rest = {"normalize": normalize, "scale": 0.7}
    named = numbers(given, options)
    if "log_decay" in named:
        named["log_decay"] -= 1e-3                                                 # room for the differences below 0
    grads = call(lambda **x: ma.recurrence_backward(dout, **x, dstate=dend, chunk=chunk, **rest), named)
    got = {"q": grads.dq, "k": grads.dk, "v": grads.dv, "log_decay": grads.dlog_decay, "state": grads.dstate}
    got |= {f"erase{n}": d for n, d in enumerate(grads.derase or ())}
    for name, a in named.items():

        def loss(x, name=name):
            out, end = call(ma.recurrence, named | {name: x}, return_state=True, chunk=3, **rest)
            return (out * dout).sum() + (end * dend).sum()

        close(got[name], slopes(loss, a), 1e-7)
    assert {name for name, d in got.items() if d is not None} == set(named)


@pytest.mark.parametrize(("decay", "erase"), [("token", True), ("channel", False)])
def test_shares_of_two_parts_equal_the_whole(tokens, close, decay, erase):
    """The state's gradient carries what the second part says back to the first."""
    given, options = tokens(2, 33, decay, erase)
    named, dout = numbers(given, options), np.random.default_rng(0).standard_normal((2, 6, 33, 4))
    whole = call(lambda **x: ma.recurrence_backward(dout, **x, chunk=5), named)
    parts = [{name: a if name == "state" else a[:, :, here] for name, a in named.items()} for here in np.s_[:20, 20:]]
    _, parts[1]["state"] = call(ma.recurrence, parts[0], return_state=True)
    late = call(lambda **x: ma.recurrence_backward(dout[:, :, 20:], **x), parts[1])
    early = call(lambda **x: ma.recurrence_backward(dout[:, :, :20], **x, dstate=late.dstate), parts[0])
    close(early.dstate, whole.dstate)
    for name in ("dq", "dk", "dv", "dlog_decay"):
        close(np.concatenate([getattr(early, name), getattr(late, name)], axis=2), getattr(whole, name))


def test_closed_gates_let_no_gradient_through(tokens):
    given, options = tokens(3, 12, "channel")
    options["log_decay"][:, :, 7] = -np.inf
    dout = np.random.default_rng(0).standard_normal((2, 6, 12, 4))
    dout[:, :, :7] = 0                                                             # only what comes after the gate is asked for
    grads = ma.recurrence_backward(dout, **given, **options)
    assert all(np.isfinite(g).all() for g in grads if g is not None)
    assert not grads.dk[:, :, :7].any()
    assert not grads.dv[:, :, :7].any()
    assert not grads.dstate.any()
    assert not grads.dlog_decay[:, :, :8].any()
    assert grads.dk[:, :, 7:].all()


def test_broadcast_axes_are_summed_and_types_kept(tokens, close):
    given, options = tokens(4, 6, "channel", dtype=np.float32)
    shared = {"log_decay": options["log_decay"][:1, :, :1], "state": options["state"][:1]}
    dout = np.random.default_rng(0).standard_normal((2, 6, 6, 4))
    full = {"log_decay": np.repeat(np.repeat(shared["log_decay"], 2, axis=0), 6, axis=2),
            "state": np.repeat(shared["state"], 2, axis=0)}  # fmt: skip
    got, want = (ma.recurrence_backward(dout, **given, **x) for x in (shared, full))
    close(got.dlog_decay, want.dlog_decay.sum(axis=(0, 2), keepdims=True), 1e-5)
    close(got.dstate, want.dstate.sum(axis=0, keepdims=True), 1e-5)
    assert {g.dtype for g in (got.dq, got.dk, got.dv, got.dlog_decay, got.dstate)} == {np.dtype(np.float32)}


def test_one_head_without_an_axis(tokens, close):
    given, options = tokens(5, 6, "token", erase=True, B=1, H=1, G=1)
    dout = np.random.default_rng(0).standard_normal((1, 1, 6, 4))
    want = ma.recurrence_backward(dout, **given, **options)
    flat = {name: a[0, 0] for name, a in (given | {n: options[n] for n in ("log_decay", "state")}).items()}
    got = ma.recurrence_backward(dout[0, 0], **flat, erase=[a[0, 0] for a in options["erase"]])
    for name in ("dq", "dk", "dv", "dlog_decay", "dstate"):
        close(getattr(got, name), getattr(want, name)[0, 0])
    for a, b in zip(got.derase, want.derase, strict=True):
        close(a, b[0, 0])


def test_rows_that_nothing_was_written_for_give_no_gradient():
    zero, v = np.zeros((1, 4, 3)), np.ones((1, 4, 2))
    grads = ma.recurrence_backward(v, zero, zero, v, normalize=True)
    assert not any(g.any() for g in grads if g is not None)


def test_what_is_refused(tokens):
    given, options = tokens(6, 5)
    with pytest.raises(ma.errors.ShapeError, match=r"dout is \(2, 6, 5, 3\); it must be \(2, 6, 5, 4\)"):
        ma.recurrence_backward(np.ones((2, 6, 5, 3)), **given)
    with pytest.raises(ma.errors.ShapeError, match="dstate is"):
        ma.recurrence_backward(np.ones((2, 6, 5, 4)), **given, **options, dstate=np.ones((2, 3, 5, 5)))
    with pytest.raises(ma.errors.OptionError, match="chunk = 0"):
        ma.recurrence_backward(np.ones((2, 6, 5, 4)), **given, chunk=0)


def test_infinities_pass_the_gradients_without_a_warning(tokens):
    (q, k, v), _ = (list(given.values()) for given in tokens(7, 5))
    beta, x, dout = np.full(k.shape[:-1], 0.5), np.ones((2, 6, 5, 4)), np.ones((2, 6, 5, 4))
    dout[:, :, 2, 1] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = [
            ma.delta_rule_backward(dout, q, k, v, beta=beta),
            ma.retention_backward(dout, q, k, v, log_decay=-np.ones(3)),
            ma.rwkv7_backward(dout[:, :3], k, -abs(k), k, v, k, abs(k)),
            ma.ssd_backward(dout, x, x[..., 0], -np.ones(6), k, k),
            ma.linear_attention_backward(dout, q, k, v, causal=False),
            ma.linformer_attention_backward(dout, q, k, v, np.ones((2, 5)), np.ones((2, 5))),
        ]
    assert not any(np.isfinite(grads[0]).all() for grads in made)
