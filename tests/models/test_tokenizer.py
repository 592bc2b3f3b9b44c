import json
import sys

import pytest

from minattn.core.errors import DependencyError, TokenError, WeightsError
from minattn.models.tokenizer import Tokenizer

WORDS = ["Ġ", "Ċ", "at", "cat", "Ġcat", "42"]
PIECES = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abct", *WORDS, *"0123456789", "?", "Ã", "¼", "â", "Ĥ", "¬"]
METADATA = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(PIECES) - 3),
    "tokenizer.ggml.merges": ["a t", "c at", "Ġ cat", "4 2"],  # the last is never used: each digit stands alone
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}


@pytest.fixture
def tokenizer(need):
    need("tokenizers")
    return Tokenizer.from_gguf(METADATA)


def test_merges_digits_and_special_tokens(tokenizer):
    assert tokenizer.encode("cat cat") == [PIECES.index("cat"), PIECES.index("Ġcat")]
    assert tokenizer.encode("cat42") == [PIECES.index(piece) for piece in ("cat", "4", "2")]
    assert tokenizer.encode("cat<|im_end|>") == [PIECES.index("cat"), 2]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.stop_ids, len(tokenizer)) == (1, 2, {2}, len(PIECES))


@pytest.mark.parametrize("text", ["", "cat", " cat  cat\n", "üat€", "<|im_start|>cat<|im_end|>\n", "10 cat 07"])
def test_decode_is_the_way_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_labels(tokenizer):
    shown = tokenizer.tokens(tokenizer.encode("cat cat\n<|im_end|>€"))
    assert shown == ["cat", "·cat", "\\n", "<|im_end|>", "<E2>", "<82>", "<AC>"]


def test_chat(tokenizer):
    asked = [{"role": "user", "content": "cat?"}]
    assert tokenizer.chat(asked) == "<|im_start|>user\ncat?<|im_end|>\n<|im_start|>assistant\n"
    tokenizer.system = "Be a cat."
    assert tokenizer.chat(asked).startswith("<|im_start|>system\nBe a cat.<|im_end|>\n<|im_start|>user")
    own = [{"role": "system", "content": "Be brief."}, *asked]
    assert "Be a cat" not in tokenizer.chat(own)
    with pytest.raises(TokenError, match="content"):
        tokenizer.chat([{"role": "user"}])
    with pytest.raises(TokenError, match="role"):
        tokenizer.chat([{"role": "user", "content": None}])


@pytest.mark.parametrize("ids", [[len(PIECES)], [-1], [1.5], 3, ["cat"]])
def test_ids_that_are_none(tokenizer, ids):
    for way in (tokenizer.decode, tokenizer.tokens):
        with pytest.raises(TokenError):
            way(ids)
    with pytest.raises(TokenError, match=rf"0 to {len(PIECES) - 1}"):
        tokenizer.decode([len(PIECES)])


def test_text_that_is_none(tokenizer):
    with pytest.raises(TokenError, match="bytes"):
        tokenizer.encode(b"cat")
    with pytest.raises(TokenError, match="lone surrogate"):
        tokenizer.encode(b"\xff cat".decode(errors="surrogateescape"))


def test_a_tokenizer_json(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer._backend.save(str(path))
    read = Tokenizer.from_file(path, eos_id=2, stop_ids=[0, 2])
    assert read.encode("cat42 cat") == tokenizer.encode("cat42 cat")
    assert read.stop_ids == {0, 2}
    altered = json.loads(path.read_text())
    altered["model"]["continuing_subword_prefix"] = "longer than any token"               # the package panics on this one
    for content in ({"model": 3}, altered):
        path.write_text(json.dumps(content))
        with pytest.raises(WeightsError, match=r"tokenizer\.json"):
            Tokenizer.from_file(path)


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer.ggml.merges": ["a q"]},
        {"tokenizer.ggml.merges": ["at"]},
        {"tokenizer.ggml.merges": None},
        {"tokenizer.ggml.token_type": [3]},
        {"tokenizer.ggml.tokens": [*PIECES[:-1], "cat"]},
        {"tokenizer.ggml.tokens": "cat"},
    ],
)
def test_an_altered_one(need, change):
    need("tokenizers")
    with pytest.raises(WeightsError, match="altered"):
        Tokenizer.from_gguf({**METADATA, **change})


def test_other_kinds_refuse_when_asked():
    other = Tokenizer.from_gguf({**METADATA, "tokenizer.ggml.pre": "llama-bpe"})
    assert other.eos_id is None
    assert not other.stop_ids
    for ask in (lambda: other.encode("cat"), lambda: other.tokens([1]), lambda: other.chat([])):
        with pytest.raises(TokenError, match="llama-bpe"):
            ask()


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DependencyError, match=r"minattn\[models\]"):
        Tokenizer.from_gguf(METADATA)
