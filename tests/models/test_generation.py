import sys

import numpy as np
import pytest

from minattn.core.errors import DependencyError, OptionError, ShapeError, TokenError
from minattn.models import Llama, LlamaConfig
from minattn.models.generation import generate, sample
from minattn.models.progress import bar

MODEL = Llama.random(LlamaConfig(2, 30, 44, 6, 2, 8, 61, 96), 3, np.float64)
LOGITS = np.random.default_rng(0).standard_normal(40) * 2


def chances(**options):
    rng = np.random.default_rng(1)
    drawn = [sample(LOGITS, rng, **options) for _ in range(4000)]
    return np.bincount(drawn, minlength=40) / 4000


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def test_greedy_takes_the_best():
    assert sample(LOGITS, None) == LOGITS.argmax()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature(temperature):
    want = softmax(LOGITS / temperature)
    assert np.abs(chances(temperature=temperature) - want).max() < 5 * np.sqrt(0.25 / 4000)


def test_a_tiny_temperature_is_greedy():
    assert chances(temperature=1e-300)[LOGITS.argmax()] == 1


@pytest.mark.parametrize("k", [1, 3, 40, 1000])
def test_top_k(k):
    best = np.argsort(-LOGITS)[:k]
    want = np.zeros(40)
    want[best] = softmax(LOGITS[best])
    found = chances(temperature=1.0, top_k=k)
    assert not found[want == 0].any()
    assert np.abs(found - want).max() < 5 * np.sqrt(0.25 / 4000)


@pytest.mark.parametrize("p", [1e-9, 0.3, 0.9, 1.0])
def test_top_p(p):
    """The kept set is the smallest of the best that reaches p."""
    found = chances(temperature=1.0, top_p=p)
    order, probability = np.argsort(-LOGITS), np.sort(softmax(LOGITS))[::-1]
    fewest = next(n for n in range(1, 41) if probability[:n].sum() >= p - 1e-12)
    assert not found[order[fewest:]].any()
    want = probability[:fewest] / probability[:fewest].sum()
    assert np.abs(found[order[:fewest]] - want).max() < 5 * np.sqrt(0.25 / 4000)


def test_the_loop_is_forward_and_argmax():
    ids = [5, 4, 3]
    for _ in range(9):
        ids.append(int(MODEL.forward(ids)[-1].argmax()))
    for options in ({}, {"cached": False}, {"prefill": 1}, {"prefill": 2}, {"progress": False}):
        assert MODEL.generate([5, 4, 3], max_new_tokens=9, **options) == ids[3:]


def test_the_seed_decides():
    def draw(seed):
        return MODEL.generate([1, 2], max_new_tokens=20, temperature=1.0, top_k=30, top_p=0.95, seed=seed)

    assert draw(7) == draw(7) != draw(8)


def test_stop():
    whole = MODEL.generate([5, 4, 3], max_new_tokens=20)
    stop = whole[6]
    until = whole[: whole.index(stop)]
    assert MODEL.generate([5, 4, 3], max_new_tokens=20, stop=[stop]) == until
    assert MODEL.generate([5, 4, 3], max_new_tokens=20, stop=stop) == until
    assert MODEL.generate([5, 4, 3], max_new_tokens=20, stop=()) == whole
    assert MODEL.generate([5, 4, 3], max_new_tokens=0) == []


class Letters:
    """A tokenizer of bytes: letters outside ASCII take several tokens."""

    eos_id, stop_ids = 60, frozenset([60])
    alphabet = list(b" abcdefghijklmnopqrstuvwxyz") + sorted(set("äß€𝄞".encode()))

    def encode(self, text):
        return [self.alphabet.index(byte) for byte in text.encode()]

    def decode(self, ids):
        return bytes(self.alphabet[n] for n in ids).decode(errors="replace")


class Scripted:
    """A model that says a given text."""

    def __init__(self, ids):
        self.ids, self.tokenizer, self.config, self.step = ids, Letters(), MODEL.config, 0

    def new_cache(self, capacity):
        return None

    def hidden(self, ids, cache=None):
        return np.zeros((len(ids), 1)), None

    def logits(self, x):
        self.step += 1
        return np.eye(61)[[self.ids[self.step - 1]]]


def test_text_streams_in_whole_characters():
    said = "a ß€ 𝄞ä end"
    pieces, ids = [], Letters().encode(said)
    assert generate(Scripted([*ids, 60]), "go", max_new_tokens=99, stream=pieces.append) == said
    assert pieces == list(said)
    pieces, cut = [], Letters().encode("ab€")[:-1]                                        # ends inside a character
    assert generate(Scripted([*cut, 60]), "go", max_new_tokens=99, stream=pieces.append) == "ab\ufffd"
    assert pieces == ["a", "b", "\ufffd"]


def test_ids_stream_as_ids():
    pieces = []
    assert MODEL.generate([5, 4], max_new_tokens=6, stream=pieces.append) == pieces
    assert len(pieces) == 6


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"temperature": -0.1}, OptionError, "temperature = -0.1"),
        ({"temperature": np.nan}, OptionError, "temperature"),
        ({"temperature": "hot"}, OptionError, "temperature"),
        ({"top_k": 0}, OptionError, "top_k = 0"),
        ({"top_k": 2.5}, OptionError, "top_k"),
        ({"top_p": 0}, OptionError, "top_p"),
        ({"top_p": 1.01}, OptionError, "top_p"),
        ({"max_new_tokens": -1}, OptionError, "max_new_tokens"),
        ({"prefill": 0}, OptionError, "prefill"),
        ({"seed": "x"}, OptionError, "seed"),
        ({"stream": 3}, OptionError, "stream"),
        ({"stop": "end"}, OptionError, "stop"),
        ({"stop": [61]}, TokenError, "61"),
        ({"stop": [[1], [2, 3]]}, OptionError, "stop"),
    ],
)
def test_options_out_of_range(options, error, text):
    with pytest.raises(error, match=text):
        MODEL.generate([1, 2], **options)


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ([], ShapeError),
        ([[1, 2]], ShapeError),
        ([[1], [2, 3]], ShapeError),
        (3, ShapeError),
        ([99], TokenError),
        ("a", TokenError),
    ],
)
def test_prompts_that_are_none(prompt, error):
    with pytest.raises(error):
        MODEL.generate(prompt)


@pytest.mark.parametrize("collection", [list, tuple, set, frozenset, iter, np.array])
def test_stop_ids_of_any_collection(collection):
    said = MODEL.generate([5, 4], max_new_tokens=6, stop=())
    assert MODEL.generate([5, 4], max_new_tokens=6, stop=collection([said[3]])) == said[: said.index(said[3])]


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_no_token_out_of_nan(temperature):
    broken = MODEL.with_attention({1: lambda q, k, v, **options: q * np.nan})
    with pytest.raises(TokenError, match="NaN"):
        broken.generate([1, 2], temperature=temperature)


def test_the_bar(need, monkeypatch, capsys):
    need("tqdm")
    MODEL.generate([1, 2], max_new_tokens=3, progress=True)
    assert "generating: 100%" in capsys.readouterr().err
    MODEL.generate([1, 2], max_new_tokens=3)                                              # nobody watches a test
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(DependencyError, match=r"minattn\[models\]"):
        bar(True, total=3)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with bar(None, total=3) as shown:                                                     # no tqdm is no reason to fail
        shown.update()
