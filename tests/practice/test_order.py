"""The exercises on order: right answers in other styles, and mistakes as people write them, by their names."""
import numpy as np
import pytest

import minattn as ma
from minattn.practice import check

# --- sinusoids and RoPE -----------------------------------------------------------------------------------------------


def sinusoid_in_loops(positions, E):
    return [[(np.sin, np.cos)[e % 2](m / 10_000 ** (e // 2 * 2 / E)) for e in range(E)] for m in positions]


def test_sinusoid_in_any_style():
    assert check.sinusoid(sinusoid_in_loops)
    assert check.sinusoid(lambda positions, E: [[np.sin(m / 10_000 ** (e / E)) if e % 2 == 0 else np.cos(m / 10_000 ** (e / E))
                                                 for e in range(E)] for m in positions]).mistake == "a frequency for each column"


def rope_complex(x, positions, theta):
    pairs = x[:, 0::2] + 1j * x[:, 1::2]
    turned = pairs * np.exp(1j * np.outer(positions, theta ** (-np.arange(0, x.shape[1], 2) / x.shape[1])))
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def rope_by_rows(x, positions, theta, exponent="2 * p / D", sine="a * np.sin(m * f) + b * np.cos(m * f)", place="m"):
    """One number at a time, with one place changed."""
    D, out = x.shape[1], x.copy()
    for row, m in zip(out, positions, strict=True):
        for p in range(D // 2):
            scope = {"np": np, "m": m, "p": p, "D": D, "f": theta ** -eval(exponent, {"p": p, "D": D})}
            scope["m"] = eval(place, scope)
            scope["a"], scope["b"] = row[2 * p], row[2 * p + 1]
            row[2 * p : 2 * p + 2] = eval(f"a * np.cos(m * f) - b * np.sin(m * f), {sine}", scope)
    return out


@pytest.mark.parametrize("answer", [rope_complex, rope_by_rows])
def test_rope_in_any_style(answer):
    result = check.rope(answer)
    assert result, repr(result)


@pytest.mark.parametrize(("change", "name"), [
    ({"exponent": "p / D"}, "exponent p / D instead of 2p / D"),
    ({"exponent": "2 * (p + 1) / D"}, "the pairs counted from 1"),
    ({"place": "m + 1"}, "positions off by one"),
    ({"place": "-m"}, "turned the other way"),
])  # fmt: skip
def test_rope_names_what_was_changed(change, name):
    result = check.rope(lambda x, positions, theta: rope_by_rows(x, positions, theta, **change))
    assert (result.status, result.mistake) == ("fail", name), repr(result)


def test_rope_in_the_other_layout_or_in_place_is_named():
    def in_place(x, positions, theta):
        x[:] = ma.rope(x, positions, layout="interleaved", theta=theta)
        return x

    assert check.rope(lambda x, at, theta: ma.rope(x, at, layout="half", theta=theta)).mistake == "halves instead of neighbours"
    assert check.rope(in_place).mistake == "changes its input"


def test_values_turned_too_are_named():
    def turn(x, at):
        return ma.rope(x, at, layout="interleaved")

    assert check.rope_attention(lambda q, k, v, i, j: ma.attention(turn(q, i + 50), turn(k, j + 50), v))
    result = check.rope_attention(lambda q, k, v, i, j: ma.attention(turn(q, i), turn(k, j), turn(v, j)))
    assert result.mistake == "values turned too"


# --- ALiBi ------------------------------------------------------------------------------------------------------------


def alibi_in_loops(heads, N, S, free):
    rows = []
    for h in range(1, heads + 1):
        places = [(S - N + n, s) for n in range(N) for s in range(S)]
        rows.append([-np.inf if s > i else -(2 ** (-8 * h / heads)) * max(0, i - s - free) for i, s in places])
    return np.reshape(rows, (heads, N, S))


def test_alibi_in_loops_passes_and_the_librarys_own_has_no_free_part():
    def plain(heads, N, S, free):
        bias = ma.positions.alibi_bias(ma.positions.alibi_slopes(heads), np.arange(S - N, S), np.arange(S))
        return np.where(bias > 0, -np.inf, bias)

    assert check.alibi(alibi_in_loops)
    assert check.alibi(plain).mistake == "nothing free"
    assert check.alibi(lambda *sizes: -alibi_in_loops(*sizes)).status == "fail"


# --- order ------------------------------------------------------------------------------------------------------------


def by_every_swap(layer, x):
    """Two tokens exchanged, for all pairs of tokens."""
    for a in range(len(x)):
        for b in range(a):
            order = np.arange(len(x))
            order[[a, b]] = b, a
            if not np.allclose(layer(x[order]), layer(x)[order]):
                return True
    return False


def test_any_good_test_of_order_passes():
    assert check.sees_order(by_every_swap)
    rng = np.random.default_rng(3)
    assert check.sees_order(lambda layer, x: any(
        not np.allclose(layer(x[order]), layer(x)[order]) for order in (rng.permutation(len(x)) for _ in range(20))))


@pytest.mark.parametrize(("answer", "name"), [
    (lambda layer, x: not np.allclose(layer(x[::-1]), layer(x)[::-1]), "the tokens reversed, and no other order"),
    (lambda layer, x: not np.allclose(layer(np.roll(x, 1, axis=0)), layer(x)), "the outputs are not put in the new order"),
])  # fmt: skip
def test_a_weak_test_of_order_is_named(answer, name):
    result = check.sees_order(answer)
    assert (result.status, result.mistake) == ("fail", name), repr(result)


@pytest.mark.parametrize("case", check.sees_order.cases(), ids=lambda case: str(case[0]))
def test_what_the_layers_do_is_what_their_names_say(case):
    layer, x = case
    assert check.sees_order.reference(layer, x) == by_every_swap(layer, x)
    assert by_every_swap(layer, x) == (layer.kind in {"a causal mask", "RoPE", "sinusoids", "a penalty on distance, both ways"})
