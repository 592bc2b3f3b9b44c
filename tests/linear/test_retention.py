"""Retention: three forms of one function, its limits, and its gradient."""
import numpy as np
import pytest

import minattn as ma

DECAY = np.log1p(-(2.0 ** -np.arange(1, 4)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("length", [1, 7, 64, 129])
@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_forms_agree(tokens, close, length, chunk, dtype, tolerance):
    given, options = tokens(length * chunk, length, dtype=dtype)
    want, end = ma.retention(**given, **options, log_decay=DECAY, form="parallel", return_state=True)
    assert want.dtype == end.dtype == dtype
    for form in ("recurrent", "chunked"):
        got, state = ma.retention(**given, **options, log_decay=DECAY, form=form, chunk=chunk, return_state=True)
        close(got, want, tolerance)
        close(state, end, tolerance)


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunked"])
def test_parallel_by_the_paper_and_at_its_limits(tokens, close, form):
    given, _ = tokens(1, 17)
    q, k, v = (np.repeat(a, 6 // a.shape[1], axis=1) for a in given.values())
    age = np.subtract.outer(np.arange(17), np.arange(17))
    scores, decay = q @ k.swapaxes(-1, -2), np.repeat(DECAY, 2)[:, None, None]
    close(ma.retention(**given, log_decay=DECAY, form=form), (scores * np.where(age >= 0, np.exp(decay * age.clip(0)), 0)) @ v)
    sums = ma.linear_attention(**given, feature_map=lambda x: x, normalize=False, form="parallel")
    close(ma.retention(**given, log_decay=np.zeros(3), form=form), sums)          # no decay: unnormalised linear attention
    close(ma.retention(**given, log_decay=np.full(3, -800.0), form=form), (scores * (age == 0)) @ v)      # only the diagonal


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunked"])
def test_streaming_equals_the_whole(tokens, close, form):
    given, options = tokens(2, 30)
    want, end = ma.retention(**given, **options, log_decay=DECAY, return_state=True)
    state, outs = options["state"], []
    for here in [slice(0, 0), slice(0, 26), *(slice(n, n + 1) for n in range(26, 30))]:
        part = {name: a[:, :, here] for name, a in given.items()}
        out, state = ma.retention(**part, log_decay=DECAY, form=form, state=state, return_state=True)
        outs.append(out)
    close(np.concatenate(outs, axis=2), want)
    close(state, end)


def test_gradient(tokens, close, slopes):
    given, options = tokens(3, 5, B=2, H=4, G=2, D=3, Dv=2)
    dout, named = np.random.default_rng(0).standard_normal((2, 4, 5, 2)), given | options | {"log_decay": DECAY[:2]}
    grads = ma.retention_backward(dout, **named, chunk=2)
    for name, a in named.items():
        close(getattr(grads, f"d{name}"), slopes(lambda x, name=name: (ma.retention(**named | {name: x}) * dout).sum(), a), 1e-7)


def test_one_head_without_an_axis(tokens, close):
    given, _ = tokens(4, 6, H=1, G=1, B=1)
    flat, dout = {name: a[0, 0] for name, a in given.items()}, np.ones((6, 4))
    close(ma.retention(**flat, log_decay=np.array(-0.3)), ma.retention(**given, log_decay=np.array([-0.3]))[0, 0])
    one = ma.retention_backward(dout, **flat, log_decay=np.array(-0.3)).dlog_decay
    close(one, ma.retention_backward(dout[None, None], **given, log_decay=np.array([-0.3])).dlog_decay[0])


@pytest.mark.parametrize("form", ["parallel", "chunked", "recurrent"])
def test_what_comes_later_never_reaches_back(tokens, form):
    given, _ = tokens(5, 12)
    want = ma.retention(**given, log_decay=DECAY, form=form)
    given["k"][:, :, 7], given["v"][:, :, 9] = np.nan, np.inf
    got = ma.retention(**given, log_decay=DECAY, form=form)
    np.testing.assert_array_equal(got[:, :, :7], want[:, :, :7])


@pytest.mark.parametrize(("decay", "error", "says"), [
    (np.zeros(2), ma.errors.ShapeError, r"log_decay is \(2,\); it must be \(G,\) = \(3,\)"),
    (np.full(3, 0.1), ma.errors.DecayError, "log_decay is up to 0.1"),
    (np.full(3, -np.inf), ma.errors.DecayError, "log_decay is -inf"),
])
def test_what_is_refused(tokens, decay, error, says):
    with pytest.raises(error, match=says):
        ma.retention(**tokens(6, 5)[0], log_decay=decay)
    with pytest.raises(ma.errors.OptionError, match="'parallel', 'recurrent', 'chunked'"):
        ma.retention(**tokens(6, 5)[0], log_decay=DECAY, form="fast")
