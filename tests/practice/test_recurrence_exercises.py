"""The exercises on recurrences: right answers in other styles, and mistakes as people write them, by their names."""
import numpy as np
import pytest

import minattn as ma
from minattn.practice import check

# --- right in any style -----------------------------------------------------------------------------------------------


def step_in_loops(state, q, k, v, decay):
    new, out = [[0.0] * len(v) for _ in k], [0.0] * len(v)
    for d in range(len(k)):
        for e in range(len(v)):
            new[d][e] = decay[d] * state[d, e] + k[d] * v[e]
            out[e] += q[d] * new[d][e]
    return out, new


def step_of_the_library(state, q, k, v, decay):
    options = {"log_decay": np.log(decay)[None], "state": state, "return_state": True}
    out, after = ma.gated_linear_attention(q[None], k[None], v[None], **options)
    return out[0], after


def delta_as_a_matrix(state, k, v, beta):
    return (np.eye(len(k)) - beta * np.outer(k, k)) @ state + beta * np.outer(k, v)


def delta_of_the_library(state, k, v, beta):
    return ma.delta_rule(k[None], k[None], v[None], beta=np.array([beta]), state=state, return_state=True)[1]


def transition_of_the_library(w, kappa, a):
    """A token that writes nothing leaves its transition, of a state that was the identity."""
    nothing = np.zeros((1, len(w)))
    return ma.rwkv7(nothing, np.log(w)[None], nothing, nothing, kappa[None], a[None], state=np.eye(len(w)), return_state=True)[1]


def swap_with_the_length_in_beta(D, i, j):
    key = np.zeros(D)
    key[i], key[j] = -3, 3
    return key, 1 / 9


def map_through_products(q, k, transitions):
    N = len(q)
    weights = np.zeros((N, N))
    for n in range(N):
        reading = q[n]
        for m in reversed(range(n + 1)):
            weights[n, m] = reading @ k[m]
            reading = reading @ transitions[m]
    return weights


@pytest.mark.parametrize(("name", "answer"), [
    ("state_step", step_in_loops), ("state_step", step_of_the_library),
    ("delta_step", delta_as_a_matrix), ("delta_step", delta_of_the_library),
    ("rwkv7_transition", lambda w, kappa, a: np.diag(w) - (a * kappa)[:, None] * kappa),
    ("rwkv7_transition", transition_of_the_library),
    ("swap_step", swap_with_the_length_in_beta),
    ("implied_map", map_through_products),
])  # fmt: skip
def test_right_in_any_style(name, answer):
    assert check.all()[name](answer), repr(check.all()[name](answer))


# --- mistakes, as people write them -----------------------------------------------------------------------------------


def faded_after(state, q, k, v, decay):
    state = state + np.outer(k, v)
    state = state * decay.reshape(-1, 1)
    return q @ state, state


def read_too_soon(state, q, k, v, decay):
    out = q @ state
    return out, decay[:, None] * state + np.outer(k, v)


def erase_after_write(state, k, v, beta):
    state = state + beta * k[:, None] * v
    return state - beta * k[:, None] * (k @ state)


def from_the_left(q, k, transitions):
    """Multiplies each transition on in the order of the text, on the wrong side."""
    weights = np.zeros((len(q), len(q)))
    for m in range(len(q)):
        product = np.eye(q.shape[1])
        for n in range(m, len(q)):
            if n > m:
                product = product @ transitions[n]
            weights[n, m] = q[n] @ product @ k[m]
    return weights


@pytest.mark.parametrize(("name", "answer", "mistake"), [
    ("state_step", faded_after, "the write fades too"),
    ("state_step", read_too_soon, "read before the write"),
    ("delta_step", erase_after_write, "written first, erased then"),
    ("delta_step", lambda state, k, v, beta: state * (1 - beta) + beta * np.outer(k, v), "all keys fade"),
    ("rwkv7_transition", lambda w, kappa, a: np.diag(w) - np.outer(kappa, a * kappa), "transposed"),
    ("rwkv7_transition", lambda w, kappa, a: w[:, None] * (np.eye(len(w)) - np.outer(a * kappa, kappa)),
     "what remains fades too"),
    ("swap_step", lambda D, i, j: (np.eye(D)[i] - np.eye(D)[j], 2), "length not 1"),
    ("swap_step", lambda D, i, j: ((np.eye(D)[i] + np.eye(D)[j]) / 2**0.5, 2), "the sum of the two"),
    ("implied_map", from_the_left, "product the other way round"),
])  # fmt: skip
def test_mistakes_are_named(name, answer, mistake):
    assert check.all()[name](answer).mistake == mistake


def test_conduct_and_blanks():
    def in_place(state, k, v, beta):
        state += beta * np.outer(k, v - k @ state)
        return state

    assert check.delta_step(in_place).mistake == "changes its input"
    assert check.swap_step(lambda D, i, j: None).status == "blank"
    assert check.swap_step(lambda D, i, j: 2.0).status == "error"
