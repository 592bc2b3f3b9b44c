"""The exercises on cross-attention: right answers in other styles, and mistakes as people write them, by their names."""
import numpy as np
import pytest

import minattn as ma
from minattn.practice import check


def cross_in_loops(x, y, w_q, w_k, w_v):
    keys, values, rows = [row @ w_k for row in y], [row @ w_v for row in y], []
    for row in x:
        scores = [row @ w_q @ key / len(key) ** 0.5 for key in keys]
        powers = np.exp(np.array(scores) - max(scores))
        rows.append(sum(p * value for p, value in zip(powers, values, strict=True)) / powers.sum())
    return rows


def test_cross_attention_in_any_style():
    assert check.cross_attention(cross_in_loops)
    assert check.cross_attention(lambda x, y, *w: ma.attention(*ma.project_qkv(x, *w, context=y)))


@pytest.mark.parametrize(("answer", "name"), [
    (lambda x, y, *w: ma.attention(*ma.project_qkv(y, *w, context=x)), "the two sequences exchanged"),
    (lambda x, y, *w: ma.attention(*ma.project_qkv(x, *w)), "self-attention: the context is not read"),
    (lambda x, y, *w: ma.attention(*ma.project_qkv(x, *w, context=y), causal=True), "a causal mask, last query at the last key"),
    (lambda x, y, a, b, c: ma.attention(x @ a, y @ c, y @ b), "keys and values exchanged"),
])  # fmt: skip
def test_cross_attention_names_the_mistake(answer, name):
    result = check.cross_attention(answer)
    assert (result.status, result.mistake) == ("fail", name), repr(result)


def test_labels_of_the_wrong_sequence_are_named():
    assert check.reads(lambda weights, tokens, context: np.array(context)[np.argmax(weights, axis=-1)])
    result = check.reads(lambda weights, tokens, context: [tokens[row.argmax()] for row in weights])
    assert result.mistake == "labels of the sequence that asks"


def test_a_map_is_turned_by_its_sums_alone():
    def by_columns(weights):
        """The other way to tell: columns of a map that is turned sum to 1 or 0, and some row does not."""
        columns, rows = weights.sum(axis=0), weights.sum(axis=1)
        off = [np.abs(sums - np.round(sums)).max() for sums in (rows, columns)]
        return weights if off[0] <= off[1] else np.transpose(weights)

    assert check.queries_down(by_columns)
    assert check.queries_down(lambda weights: weights).mistake == "left as it came"
    strict = check.queries_down(lambda weights: weights if np.allclose(weights.sum(axis=1), 1) else weights.T)
    assert strict.mistake == "a row that sees nothing turns the map"


@pytest.mark.parametrize("case", check.queries_down.cases())
def test_no_map_in_the_exercise_could_be_read_either_way(case):
    rows, columns = (np.isclose(s, 1) | (s == 0) for s in (case[0].sum(axis=1), case[0].sum(axis=0)))
    assert rows.all() != columns.all()


def test_padding_row_by_row_passes_and_the_wrong_axis_is_named():
    def alone(q, k, v, lengths):
        return np.stack([ma.attention(a, b[:, :n], c[:, :n]) for a, b, c, n in zip(q, k, v, lengths, strict=True)])

    def wrong_axis(q, k, v, lengths):
        real = np.arange(q.shape[2])[:, None] < lengths[:, None, None, None]
        return ma.attention(q, k, v, mask=real & np.full(k.shape[2], True))

    assert check.padded_cross(alone)
    assert check.padded_cross(wrong_axis).mistake == "the mask on the queries"
    assert check.padded_cross(lambda q, k, v, lengths: ma.attention(q, k, v)).mistake == "no mask"


def test_reading_in_two_parts_or_in_one():
    def in_one(q, k, v, cut):
        out, weights = ma.attention(q, k, v, causal=True, return_weights=True)
        return out, weights[..., :cut].sum(axis=-1)

    def causal_twice(q, k, v, cut):
        a, b = (ma.attention(q, k[:, part], v[:, part], causal=True, return_lse=True)
                for part in (slice(None, cut), slice(cut, None)))
        out, lse = ma.merge(*a, *b)
        return out, np.exp(a[1] - lse)

    assert check.read_in_two(in_one)
    assert check.read_in_two(causal_twice).mistake == "a causal mask on the first sentence too"
