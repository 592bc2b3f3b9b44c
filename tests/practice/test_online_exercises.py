"""FlashAttention's exercises: answers as people write them, right ones in other styles and wrong ones by their names."""
import functools

import numpy as np
import pytest

import minattn as ma
from minattn.practice import check


def flash_by_merge(q, k, v, block_k):
    parts = [ma.attention(q, k[j : j + block_k], v[j : j + block_k], return_lse=True) for j in range(0, len(k), block_k)]
    return functools.reduce(lambda a, b: ma.merge(*a, *b), parts)


def flash_1(q, k, v, block_k):
    """Divided in every tile and multiplied back before the next, as the first paper has it."""
    out, top, total = np.zeros((len(q), v.shape[1])), np.full(len(q), -np.inf), np.zeros(len(q))
    for j in range(0, len(k), block_k):
        s = np.einsum("nd,sd->ns", q, k[j : j + block_k]) / np.sqrt(q.shape[1])
        here = s.max(axis=1)
        p = np.exp(s - here[:, None])
        new = np.maximum(top, here)
        before, now = total * np.exp(top - new), np.exp(here - new)
        after = before + now * p.sum(axis=1)
        out = (before[:, None] * out + now[:, None] * (p @ v[j : j + block_k])) / after[:, None]
        top, total = new, after
    return {"lse": np.log(total) + top, "out": out}


def flash_in_loops(q, k, v, block_k):
    """One query and one key at a time, in lists."""
    outs, lses = [], []
    for row in q:
        top, total, acc = -np.inf, 0.0, [0.0] * v.shape[1]
        for key, value in zip(k, v, strict=True):
            score = float(row @ key) / len(row) ** 0.5
            old, top = top, max(top, score)
            fade, p = np.exp(old - top), np.exp(score - top)
            total = fade * total + p
            acc = [fade * a + p * x for a, x in zip(acc, value, strict=True)]
        outs.append([a / total for a in acc])
        lses.append(top + np.log(total))
    return outs, lses


@pytest.mark.parametrize("answer", [flash_by_merge, flash_1, flash_in_loops])
def test_flash_forward_in_any_style(answer):
    result = check.flash_forward(answer)
    assert result, repr(result)


def flash(factor="old - top", end="acc / total[:, None], top + np.log(total)", stop="S", fade_acc="fade[:, None] * acc"):
    """A learner's program with one place changed; it starts at -inf and guards nothing."""
    text = f"""
def answer(q, k, v, block_k):
    N, S = len(q), len(k)
    top, total, acc = np.full(N, -np.inf), np.zeros(N), np.zeros((N, v.shape[1]))
    for j in range(0, {stop}, block_k):
        s = q @ k[j : j + block_k].T / np.sqrt(q.shape[1])
        old, top = top, np.maximum(top, s.max(axis=1))
        fade, p = np.exp({factor}), np.exp(s - top[:, None])
        total = fade * total + p.sum(axis=1)
        acc = {fade_acc} + p @ v[j : j + block_k]
    return {end}
"""
    scope = {"np": np}
    exec(text, scope)
    return scope["answer"]


def test_the_program_without_a_change_is_right():
    assert check.flash_forward(flash())


@pytest.mark.parametrize(("change", "name"), [
    ({"factor": "top - old"}, "rescaled by the wrong sign, from -inf"),
    ({"fade_acc": "acc"}, "accumulator not rescaled"),
    ({"end": "acc, top + np.log(total)"}, "normaliser forgotten"),
    ({"end": "acc / total[:, None], np.log(total)"}, "log-sum-exp without the maximum"),
    ({"stop": "S // block_k * block_k"}, "lost last tile"),
])  # fmt: skip
def test_flash_forward_names_what_was_changed(change, name):
    result = check.flash_forward(flash(**change))
    assert (result.status, result.mistake) == ("fail", name), repr(result)


def test_a_forgotten_normaliser_is_seen_in_out_and_not_in_lse():
    stages = {stage.name: stage.ok for stage in check.flash_forward(flash(end="acc, top + np.log(total)")).stages}
    assert stages == {"out": False, "lse": True}


def merge_in_two_terms(out_a, lse_a, out_b, lse_b):
    """out_a moved towards out_b, with the empty rows put right afterwards."""
    lse = np.logaddexp(lse_a, lse_b)
    share = np.where(np.isneginf(lse), 0, 1 / (1 + np.exp(lse_a - lse_b)))
    return out_a - share[:, None] * (out_a - out_b), lse


def test_merge_in_another_style():
    assert check.merge(merge_in_two_terms)
    assert check.merge(ma.merge)


def merge_as_printed(out_a, lse_a, out_b, lse_b):
    lse = np.log(np.exp(lse_a) + np.exp(lse_b))
    return np.exp(lse_a - lse)[:, None] * out_a + np.exp(lse_b - lse)[:, None] * out_b, lse


def merge_without_a_guard(out_a, lse_a, out_b, lse_b):
    lse = np.logaddexp(lse_a, lse_b)
    return np.exp(lse_a - lse)[:, None] * out_a + np.exp(lse_b - lse)[:, None] * out_b, lse


@pytest.mark.parametrize(("answer", "name"), [
    (merge_as_printed, "log-sum-exp without the maximum"),
    (merge_without_a_guard, "an empty part gives NaN"),
    (lambda out_a, lse_a, out_b, lse_b: ((out_a + out_b) / 2, np.logaddexp(lse_a, lse_b)), "plain average"),
])
def test_merge_names_the_mistake(answer, name):
    result = check.merge(answer)
    assert (result.status, result.mistake) == ("fail", name), repr(result)


def test_online_softmax_takes_a_pass_and_names_its_mistakes():
    def one_pass(scores, rescale=True):
        top, total = float("-inf"), 0.0
        for score in scores.tolist():
            if score > top:
                total = (total * np.exp(top - score) if rescale else total) + 1
                top = score
            else:
                total += np.exp(score - top)
        return top, total

    assert check.online_softmax(one_pass)
    assert check.online_softmax(lambda scores: one_pass(scores, rescale=False)).mistake == "total not rescaled"


@pytest.mark.parametrize("case", check.causal_tiles.cases())
def test_tiles_are_those_of_the_map_itself(case):
    N, block_q, block_k = case
    dense = np.tri(N, dtype=bool)
    tiles = [dense[n : n + block_q, j : j + block_k].any() for n in range(0, N, block_q) for j in range(0, N, block_k)]
    assert check.causal_tiles.reference(*case) == sum(tiles)


def test_traffic_counted_by_the_ledger_is_the_closed_form():
    assert check.flash_traffic(lambda N, S, D, block_q: N * (2 * D + 1) + 2 * S * D * int(np.ceil(N / block_q)))
