"""The exercises on memories: right answers in other styles, the library's among them, and mistakes by their names."""
import numpy as np
import pytest

import minattn as ma
from minattn.memory.infini import InfiniState, written
from minattn.memory.transformer_xl import direct
from minattn.practice import check

# --- right in any style -----------------------------------------------------------------------------------------------


def oldest_by_booleans(n, layers, segment, memory):
    """Who sees whom in one layer, as a matrix, and its power."""
    may = ma.Mask(lambda i, j: (j <= i) & (j >= i // segment * segment - memory), name="segment and memory")
    return int(ma.reach(may, layers, n + 1)[n].argmax())


def shift_by_pad(product):
    N, S = product.shape
    moved = np.concatenate([np.zeros((N, 1)), product], axis=1).reshape(S + 1, N)[1:].reshape(N, S)
    return np.where(np.arange(S) <= np.arange(S - N, S)[:, None], moved, 0)


def shift_in_loops(product):
    N, S = product.shape
    scores = [[0.0] * S for _ in range(N)]
    for i in range(N):
        for j in range(S - N + i + 1):
            scores[i][j] = product[i, N - 1 - i + j]
    return scores


def shift_of_the_library(product):
    """One channel for each distance, counted from 0: q . r is then the entry itself."""
    return direct(product[None, :, ::-1], np.eye(product.shape[1])[None])[0]


def infini_in_loops(q, k, v, memory, normalizer):
    def feature(x):
        return x + 1 if x > 0 else np.exp(x)

    def reads(x):
        a = [feature(one) for one in x]
        below = sum(one * z for one, z in zip(a, normalizer, strict=True))
        return np.array([sum(one * row[e] for one, row in zip(a, memory, strict=True)) / (below or 1)
                         for e in range(memory.shape[1])])  # fmt: skip

    new, z = memory.copy(), normalizer.copy()
    for n in range(len(k)):
        for d in range(len(z)):
            new[d] += feature(k[n, d]) * (v[n] - reads(k[n]))
            z[d] += feature(k[n, d])
    return np.array([reads(x) for x in q]), new, z


def infini_of_the_library(q, k, v, memory, normalizer):
    state = InfiniState(memory, normalizer, k, v)
    after = written(state, True)
    out = ma.infini_attention(q, q, np.zeros_like(v[:1]).repeat(len(q), 0), gate=np.full(1, np.inf), segment=99,
                              state=state._replace(k=k[:0], v=v[:0]))  # fmt: skip
    return out, after.memory, after.normalizer


def memorizing_in_loops(q, k, v, old_k, old_v, keep, gate):
    out, share = [], 1 / (1 + np.exp(-gate))
    for n, one in enumerate(q):
        best = sorted(range(len(old_k)), key=lambda s: -(one @ old_k[s]))[:keep]
        far, near = (np.exp(keys @ one / np.sqrt(len(one))) for keys in (old_k[best], k[:n + 1]))
        out.append(share * far @ old_v[best] / far.sum() + (1 - share) * near @ v[:n + 1] / near.sum())
    return out


def memorizing_of_the_library(q, k, v, old_k, old_v, keep, gate):
    memory = ma.ExternalMemory(1, len(old_k), k.shape[1], np.float64, value_dim=v.shape[1])
    memory.append(old_k[None], old_v[None])
    return ma.memorizing_attention(q[None], k[None], v[None], gate=np.array([gate]), memory=memory, keep=keep)[0]


@pytest.mark.parametrize(("name", "answer"), [
    ("oldest_read", oldest_by_booleans),
    ("relative_shift", shift_by_pad), ("relative_shift", shift_in_loops), ("relative_shift", shift_of_the_library),
    ("infini_step", infini_in_loops), ("infini_step", infini_of_the_library),
    ("memorizing_read", memorizing_in_loops), ("memorizing_read", memorizing_of_the_library),
])  # fmt: skip
def test_right_in_any_style(name, answer):
    assert check.all()[name](answer), repr(check.all()[name](answer))


# --- mistakes, as people write them -----------------------------------------------------------------------------------


def shift_by_rolling(product):
    N = len(product)
    return np.array([np.roll(product[i], -(N - 1 - i)) for i in range(N)])


def shift_left_unmasked(product):
    N, S = product.shape
    return np.pad(product, ((0, 0), (1, 0))).reshape(S + 1, N)[1:].reshape(N, S)


def infini_without_delta(q, k, v, memory, normalizer):
    a, b = (np.where(x > 0, x + 1, np.exp(x)) for x in (q, k))
    below = a @ normalizer
    read = a @ memory / np.where(below == 0, 1, below)[:, None]
    return read, memory + b.T @ v, normalizer + b.sum(axis=0)


def infini_from_nothing(q, k, v, memory, normalizer):
    """0 / 0 in the first segment: NaN there, and in all that is written from it."""
    a, b = (np.where(x > 0, x + 1, np.exp(x)) for x in (q, k))
    held = (b @ memory) / (b @ normalizer)[:, None]
    return a @ memory / (a @ normalizer)[:, None], memory + b.T @ (v - held), normalizer + b.sum(axis=0)


@pytest.mark.parametrize(("name", "answer", "mistake"), [
    ("oldest_read", lambda n, layers, segment, memory: max(n - layers * memory, 0), "counted from the token"),
    ("oldest_read", lambda n, layers, segment, memory: max((n // segment - layers) * segment, 0),
     "one segment a layer, whatever is remembered"),
    ("relative_shift", shift_by_rolling, "its own row's numbers, counted round, where no query looks"),
    ("relative_shift", shift_left_unmasked, "numbers of other rows where no query looks"),
    ("relative_shift", lambda product: np.tril(product, product.shape[1] - len(product)), "nothing moved"),
    ("infini_step", infini_without_delta, "everything written, nothing taken away"),
])  # fmt: skip
def test_mistakes_are_named(name, answer, mistake):
    assert check.all()[name](answer).mistake == mistake


def test_an_empty_memory_reads_0_and_not_nan():
    result = check.infini_step(infini_from_nothing)
    assert result.status == "fail"
    assert "1 of 3 inputs" in result.message
