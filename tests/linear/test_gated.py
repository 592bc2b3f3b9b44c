"""Gated linear attention: by hand, and as its neighbours where they meet; its forms are those of the recurrence."""
import numpy as np
import pytest

import minattn as ma


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@pytest.mark.parametrize("decay", ["token", "channel"])
def test_equals_the_sum_over_decayed_keys(tokens, close, decay, form):
    given, options = tokens(1, 13, decay, state=False)
    q, k, v, g = given["q"], given["k"], given["v"], options["log_decay"]
    g = g if decay == "channel" else g[..., None]
    want = np.zeros((2, 6, 13, 4))
    for n, m in zip(*np.tril_indices(13), strict=True):
        key = np.repeat(k[:, :, m] * np.exp(g[:, :, m + 1 : n + 1].sum(axis=2)), 2, axis=1)
        want[:, :, n] += 0.5 * (q[:, :, n] * key).sum(axis=-1, keepdims=True) * np.repeat(v[:, :, m], 2, axis=1)
    close(ma.gated_linear_attention(**given, **options, scale=0.5, form=form, chunk=5), want)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_is_its_neighbours_where_they_meet(tokens, close, form):
    given, options = tokens(2, 40)
    steady = np.array([-0.1, -0.7, -0.01])
    gates = np.broadcast_to(steady[:, None, None], (2, 3, 40, 5))
    got = ma.gated_linear_attention(**given, **options, log_decay=gates, form=form)
    close(got, ma.retention(**given, **options, log_decay=steady))
    sums = ma.linear_attention(**given, **options, feature_map=lambda x: x, normalize=False)
    close(ma.gated_linear_attention(**given, **options, log_decay=np.zeros((2, 3, 40, 5)), form=form), sums)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_streaming_equals_the_whole(tokens, close, form):
    given, options = tokens(3, 30, "channel")
    want, end = ma.gated_linear_attention(**given, **options, return_state=True)
    state, outs = options["state"], []
    for here in [slice(0, 26), *(slice(n, n + 1) for n in range(26, 30))]:
        part = {name: a[:, :, here] for name, a in given.items()} | {"log_decay": options["log_decay"][:, :, here]}
        out, state = ma.gated_linear_attention(**part, state=state, form=form, return_state=True)
        outs.append(out)
    close(np.concatenate(outs, axis=2), want)
    close(state, end)


@pytest.mark.parametrize("decay", ["token", "channel"])
def test_gradient(tokens, close, slopes, decay):
    given, options = tokens(5, 5, decay, B=1, H=2, G=1, D=3, Dv=2)
    named, dout = given | options, np.random.default_rng(0).standard_normal((1, 2, 5, 2))
    named["log_decay"] -= 1e-3                                                     # room for the differences below 0
    grads = ma.gated_linear_attention_backward(dout, **named, scale=0.7, chunk=2)
    for name, a in named.items():
        want = slopes(lambda x, name=name: (ma.gated_linear_attention(**named | {name: x}, scale=0.7) * dout).sum(), a)
        close(getattr(grads, f"d{name}"), want, 1e-7)


def test_gates_that_open_beyond_one_are_refused(tokens):
    given, _ = tokens(4, 5)
    with pytest.raises(ma.errors.DecayError, match="log_decay is up to"):
        ma.gated_linear_attention(**given, log_decay=np.full((2, 3, 5, 5), 1e-3))
