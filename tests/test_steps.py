"""steps: every stage is the formula, and the last one is attention."""

import numpy as np

import minattn as ma


def test_steps_are_the_formula(drawn, close):
    q, k, v = drawn(33)
    rng = np.random.default_rng(0)
    bias, mask = rng.standard_normal((6, 5, 7)), rng.random((5, 7)) < 0.8
    s = ma.steps(q, k, v, bias=bias, mask=mask, softcap=1.5, scale=0.4)
    wide_k, wide_v = ma.repeat_kv(k, 2), ma.repeat_kv(v, 2)
    close(s.scores, np.einsum("bhnd,bhsd->bhns", q, wide_k))
    close(s.scaled, s.scores * 0.4)
    close(s.capped, 1.5 * np.tanh(s.scaled / 1.5))
    close(s.biased, s.capped + bias)
    np.testing.assert_array_equal(s.masked, np.where(mask, s.biased, -np.inf))
    close(s.weights, ma.softmax(s.masked))
    close(s.out, np.einsum("bhns,bhsd->bhnd", s.weights, wide_v))
    np.testing.assert_array_equal(s.out, ma.attention(q, k, v, bias=bias, mask=mask, softcap=1.5, scale=0.4))


def test_steps_without_options_repeat(drawn):
    q, k, v = drawn(34)
    s = ma.steps(q, k, v)
    for stage in (s.capped, s.biased, s.masked):
        np.testing.assert_array_equal(stage, s.scaled)
    changed = ma.steps(q, k, v, score_mod=lambda s, b, h, i, j: s + j)
    np.testing.assert_array_equal(changed.capped, s.scaled + np.arange(7))
