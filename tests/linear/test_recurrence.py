"""The recurrence: written out by hand, its two forms equal, split runs equal to whole ones, and what it refuses."""
import itertools

import numpy as np
import pytest

import minattn as ma
from minattn.linear import recurrence as room

SETTINGS = [*itertools.product([None, "constant", "token", "channel"], [False, True], [False]), ("token", False, True),
            ("channel", False, True)]  # fmt: skip


def by_hand(q, k, v, *, log_decay=None, erase=None, normalize=False, scale=1.0, state):
    """One head of one row after the other, one token after the other, one channel of the state after the other."""
    (B, H, N, D), G = q.shape, k.shape[1]
    g = np.zeros((B, G, N, D)) if log_decay is None else log_decay
    g = np.broadcast_to(g if g.ndim == 4 else g[..., None], (B, G, N, D))
    out, states = np.zeros((B, H, N, v.shape[-1])), state.copy()
    for b, h, n in np.ndindex(B, H, N):
        G_h = h // (H // G)
        S = states[b, G_h]
        old = S.copy() if n else state[b, G_h]                                     # the heads of a group begin alike
        for d in range(D):
            S[d] = np.exp(g[b, G_h, n, d]) * old[d] + k[b, G_h, n, d] * np.append(v[b, G_h, n], np.ones(int(normalize)))
            if erase is not None:
                S[d] += erase[0][b, G_h, n, d] * (erase[1][b, G_h, n] @ old)
        read = q[b, h, n] @ S
        out[b, h, n] = scale * (read[:-1] / read[-1] if normalize else read)
    return out, states


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@pytest.mark.parametrize(("decay", "erase", "normalize"), SETTINGS)
def test_equals_the_formula_by_hand(tokens, close, decay, erase, normalize, form):
    given, options = tokens(1, 7, decay, erase, normalize)
    want, end = by_hand(**given, **options, scale=0.3)
    got, state = ma.recurrence(**given, **options, scale=0.3, form=form, chunk=3, return_state=True)
    close(got, want)
    close(state, end)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (7, 1), (7, 5), (64, 5), (64, 64), (129, 24), (129, 64), (129, 200)])
@pytest.mark.parametrize(("decay", "erase", "normalize"), SETTINGS)
def test_forms_agree(tokens, close, decay, erase, normalize, length, chunk, dtype, tolerance):
    given, options = tokens(length, length, decay, erase, normalize, dtype=dtype)
    options["backend"] = "numpy"
    want, end = ma.recurrence(**given, **options, form="recurrent", return_state=True)
    got, state = ma.recurrence(**given, **options, chunk=chunk, return_state=True)
    assert got.dtype == state.dtype == dtype
    close(got, want, tolerance)
    close(state, end, tolerance)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("decay", ["token", "channel"])
@pytest.mark.parametrize("erase", [False, True])
def test_closed_gates_are_exact(tokens, close, decay, erase, dtype):
    """Log decays of 0, -50 and -inf among others: forms agree, and a gate that closes leaves nothing behind, bit for bit."""
    given, options = tokens(3, 129, decay, erase, dtype=dtype)
    options["backend"] = "numpy"
    rng, g = np.random.default_rng(0), options["log_decay"]
    g[...] = np.where(rng.random(g.shape) < 0.5, rng.choice([0, -50, -np.inf], g.shape), g)
    want, end = ma.recurrence(**given, **options, form="recurrent", return_state=True)
    got, state = ma.recurrence(**given, **options, chunk=50, return_state=True)
    close(got, want, 1e-10 if dtype == np.float64 else 1e-5)
    close(state, end, 1e-10 if dtype == np.float64 else 1e-5)
    if not erase:
        g[:, :, 77] = -np.inf
        cut = {name: a[..., 77:, :] for name, a in given.items()}
        for form in ("recurrent", "chunked"):
            told = {"form": form, "chunk": 77, "backend": "numpy"}
            whole = ma.recurrence(**given, log_decay=g, **told)
            late = ma.recurrence(**cut, log_decay=g[:, :, 77:], **told)
            np.testing.assert_array_equal(whole[:, :, 77:], late)


@pytest.mark.parametrize("g", [-50.0, -1e-3])
def test_long_steady_decay_in_float32(tokens, close, g):
    """Decays cumulated over a chunk lose digits; sums over each segment do not: held to float64."""
    given, options = tokens(4, 512, state=False)
    options["log_decay"] = np.full((1, 1, 1, 5), g)
    want = ma.recurrence(**given, **options, form="recurrent")
    narrow = {name: a.astype(np.float32) for name, a in given.items()}
    narrow["log_decay"] = options["log_decay"].astype(np.float32)
    close(ma.recurrence(**narrow, chunk=256, backend="numpy"), want, 1e-5)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@pytest.mark.parametrize(("decay", "erase", "normalize"), SETTINGS)
def test_split_runs_and_streaming_equal_the_whole(tokens, close, decay, erase, normalize, form):
    given, options = tokens(5, 65, decay, erase, normalize)
    want, end = ma.recurrence(**given, **options, return_state=True)
    state, outs = options.pop("state"), []
    ends = [0, 1, 18, 60, *range(61, 66)]                                          # prefill, then token by token
    for here in itertools.starmap(slice, itertools.pairwise(ends)):
        part = {name: a[..., here, :] for name, a in given.items()}
        now = dict(options)
        if decay in ("token", "channel"):
            now["log_decay"] = options["log_decay"][:, :, here]
        if erase:
            now["erase"] = [a[..., here, :] for a in options["erase"]]
        out, state = ma.recurrence(**part, **now, form=form, chunk=7, state=state, return_state=True)
        outs.append(out)
    close(np.concatenate(outs, axis=-2), want)
    close(state, end)


def test_pairs_are_reads_times_decays_times_writes():
    """The cuts by halves against the definition, for sizes that are no power of two."""
    rng = np.random.default_rng(0)
    for C in (1, 2, 3, 7, 8, 13):
        read, write, g = rng.standard_normal((2, 4, C, 3)), rng.standard_normal((2, 1, C, 3)), -rng.random((2, 1, C, 3))
        for late in (0, 1):                                                        # 1: reading comes before the step
            seen = np.tri(C, k=-late, dtype=bool)
            got = room.pairs(read, write, room.cuts(g)[0], seen)
            for i, j in itertools.product(range(C), repeat=2):
                decay = np.exp(g[..., j + 1 : i + 1 - late, :].sum(axis=-2))
                want = (read[..., i, :] * decay * write[..., j, :]).sum(axis=-1) if seen[i, j] else np.zeros((2, 4))
                np.testing.assert_allclose(got[..., i, j], want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@pytest.mark.parametrize("decay", [None, "token", "channel"])
@pytest.mark.parametrize("erase", [False, True])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_what_comes_later_never_reaches_back(tokens, form, decay, erase, name):
    given, options = tokens(6, 20, decay, erase)
    want = ma.recurrence(**given, **options, form=form, chunk=8)
    given[name][:, :, 11] = np.nan
    got = ma.recurrence(**given, **options, form=form, chunk=8)
    np.testing.assert_array_equal(got[:, :, :11], want[:, :, :11])
    assert np.isnan(got[:, :, 11]).all()
    if name == "q":
        np.testing.assert_array_equal(got[:, :, 12:], want[:, :, 12:])


def test_decay_of_one_number_is_that_of_equal_channels(tokens, close):
    given, options = tokens(7, 33, "token", erase=True)
    wide = np.repeat(options["log_decay"][..., None], 5, axis=-1)
    close(ma.recurrence(**given, **(options | {"log_decay": wide})), ma.recurrence(**given, **options))


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_leading_axes_and_one_head(tokens, close, form):
    given, options = tokens(8, 9, "channel", erase=True)
    want, end = ma.recurrence(**given, **options, form=form, return_state=True)
    deep = {name: a.reshape(1, 2, *a.shape[1:]) for name, a in given.items()}
    deep |= {name: options[name].reshape(1, 2, *options[name].shape[1:]) for name in ("log_decay", "state")}
    deep["erase"] = [a.reshape(1, 2, *a.shape[1:]) for a in options["erase"]]
    out, state = ma.recurrence(**deep, form=form, return_state=True)
    close(out, want[None])
    close(state, end[None])
    one = {name: a[1, 0] for name, a in {**given, "log_decay": options["log_decay"], "state": options["state"]}.items()}
    out, state = ma.recurrence(**one, erase=[a[1, 0] for a in options["erase"]], form=form, return_state=True)
    close(out, want[1, 0])
    close(state, end[1, 0])
    shared = given | {"k": given["k"][:1], "v": given["v"][0]}                     # broadcast over the batch
    full = given | {name: np.repeat(given[name][:1], 2, axis=0) for name in "kv"}
    close(ma.recurrence(**shared, form=form), ma.recurrence(**full, form=form))


def test_16_bit_input_keeps_a_float32_state(tokens, close):
    given, options = tokens(9, 40, "token", dtype=np.float16)
    out, state = ma.recurrence(**given, **options, return_state=True)
    assert (out.dtype, state.dtype) == (np.float16, np.float32)
    wide = {name: a.astype(np.float32) for name, a in (given | options).items()}
    want, end = ma.recurrence(**wide, return_state=True)
    np.testing.assert_array_equal(out, want.astype(np.float16))
    np.testing.assert_array_equal(state, end)


def test_no_token_and_nothing_written(tokens):
    given, options = tokens(10, 0)
    out, state = ma.recurrence(**given, **options, return_state=True)
    assert out.shape == (2, 6, 0, 4)
    np.testing.assert_array_equal(state, options["state"])
    state[...] = 0
    assert options["state"].all(), "the state that was given is not written to"
    zero, v = np.zeros((1, 5, 3)), np.ones((1, 5, 2))
    for form in ("recurrent", "chunked"):
        assert not ma.recurrence(zero, zero, v, normalize=True, form=form).any(), "0 / 0 is 0"


X = {"q": np.ones((2, 4, 6, 5)), "k": np.ones((2, 2, 6, 5)), "v": np.ones((2, 2, 6, 3))}
REFUSED = [
    ({"k": np.ones((2, 2, 6, 4))}, ma.errors.ShapeError, "k has D = 4 but q has D = 5"),
    ({"k": np.ones((2, 2, 7, 5))}, ma.errors.ShapeError, "q has N = 6 but k has N = 7"),
    ({"v": np.ones((2, 2, 5, 3))}, ma.errors.ShapeError, "v has N = 5 but k has N = 6"),
    ({"v": np.ones((2, 4, 6, 3))}, ma.errors.ShapeError, "v has G = 4 but k has G = 2"),
    ({"q": np.ones((2, 3, 6, 5))}, ma.errors.ShapeError, "H must be a multiple of G"),
    ({"q": np.ones((6, 5))}, ma.errors.ShapeError, "q has 2 axes but k has 4"),
    ({"q": np.ones(5)}, ma.errors.ShapeError, "q has 1 axes"),
    ({"v": np.ones((2, 2, 6, 0))}, ma.errors.ShapeError, "the last axis of v is 0"),
    ({"q": np.ones((3, 4, 6, 5))}, ma.errors.ShapeError, "axes before the heads"),
    ({"q": np.ones((2, 4, 6, 5), int)}, ma.errors.DtypeError, "q is int64"),
    ({"log_decay": np.full((2, 6), 0.5)}, ma.errors.ShapeError, "log_decay has 2 axes"),
    ({"log_decay": np.full((2, 2, 6), 0.5)}, ma.errors.DecayError, "log_decay is up to 0.5; a log decay is at most 0"),
    ({"log_decay": np.full((2, 2, 6), np.nan)}, ma.errors.DecayError, "log_decay is NaN"),
    ({"log_decay": -np.ones((2, 4, 6))}, ma.errors.ShapeError, r"one number for each token of k"),
    ({"log_decay": -np.ones((2, 2, 6, 3))}, ma.errors.ShapeError, "D=3.* but k is .*D=5"),
    ({"erase": np.ones((2, 2, 6, 5))[0, 0]}, ma.errors.OptionError, r"erase must be a pair \(a, b\)"),
    ({"erase": (np.ones((2, 2, 6, 5)), np.ones((2, 2, 6, 4)))}, ma.errors.ShapeError, r"erase\[1\] is .*D=4"),
    ({"state": np.ones((2, 2, 3, 5))}, ma.errors.ShapeError, r"state is \(2, 2, 3, 5\); it must be .*\(..., 2, 5, 3\)"),
    ({"state": np.ones((2, 2, 5, 3)), "normalize": True}, ma.errors.ShapeError, "normalize=True adds a column"),
    ({"chunk": 0}, ma.errors.OptionError, "chunk = 0; it must be at least 1"),
    ({"chunk": 2.5}, ma.errors.OptionError, "chunk is 2.5"),
    ({"form": "parallel"}, ma.errors.OptionError, "form is 'parallel'; it must be one of 'recurrent', 'chunked'"),
    ({"scale": np.inf}, ma.errors.OptionError, "scale = inf"),
    ({"k": 0.5}, ma.errors.ShapeError, r"k has 0 axes .*it must be \(..., G, N, D\)"),
    ({"v": np.ones(6)}, ma.errors.ShapeError, "v has 1 axes"),
    ({"form": ["chunked"]}, ma.errors.OptionError, r"form is \['chunked'\]"),
]


@pytest.mark.parametrize(("change", "error", "says"), REFUSED, ids=[says for *_, says in REFUSED])
def test_what_is_refused(change, error, says):
    with pytest.raises(error, match=says):
        ma.recurrence(**(X | change))


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_an_erase_with_one_number_for_all_channels(tokens, close, form):
    (q, k, v), _ = (list(given.values()) for given in tokens(20, 7))
    a, b = np.random.default_rng(21).uniform(0, 0.2, (2, *k.shape[:-1], 1))
    want, end = ma.recurrence(q, k, v, erase=(a + 0 * k, b + 0 * k), form=form, chunk=3, return_state=True)
    got, last = ma.recurrence(q, k, v, erase=(a, b), form=form, chunk=3, return_state=True)
    close(got, want, 1e-12)
    close(last, end, 1e-12)
    full = ma.recurrence_backward(want, q, k, v, erase=(a + 0 * k, b + 0 * k), chunk=3)
    narrow = ma.recurrence_backward(want, q, k, v, erase=(a, b), chunk=3)
    for found, each in zip(narrow.derase, full.derase, strict=True):
        close(found, each.sum(axis=-1, keepdims=True), 1e-10)


def test_the_byte_order_changes_no_digit(tokens):
    given, _ = tokens(22, 9)
    swapped = {name: a.astype(">f8") for name, a in given.items()}
    np.testing.assert_array_equal(ma.recurrence(**swapped, backend="numpy"), ma.recurrence(**given, backend="numpy"))
    np.testing.assert_array_equal(*(ma.random_features(x["q"], x["k"][0, 0]) for x in (swapped, given)))
