"""Text to token ids and back, on the `tokenizers` package.

SmolLM2 splits every digit off, cuts text into words as GPT-2 does, and joins bytes by 48,900 learned merges, most
frequent first. Its GGUF file carries the vocabulary and the merges; a Hugging Face folder carries `tokenizer.json`.
"""
import operator
from pathlib import Path

from ..core.errors import DependencyError, TokenError, WeightsError

_SMOLLM_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
_CONTROL = 3  # the GGUF token type of <|im_start|> and its like


def _tokenizers():
    try:
        import tokenizers
    except ImportError as error:
        raise DependencyError("reading a tokenizer needs the tokenizers package: pip install 'minattn[models]'") from error
    return tokenizers


class Tokenizer:
    """A vocabulary with its rules.

    Special tokens such as <|im_end|> are recognised when they are written out in the text.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
    bos_id, eos_id : int or None
        The tokens that begin and end a text.
    stop_ids : ids, optional
        All tokens that end what a model generates, where there are more than eos_id.
    system : str or None
        The system line of a chat that has none of its own.
    """

    def __init__(self, backend, *, bos_id=None, eos_id=None, stop_ids=None, system=None):
        self._backend, self.bos_id, self.eos_id, self.system = backend, bos_id, eos_id, system
        only = () if eos_id is None else (eos_id,)
        self.stop_ids = frozenset(only if stop_ids is None else stop_ids)

    @classmethod
    def from_gguf(cls, metadata):
        """The tokenizer in a GGUF file's metadata; one that refuses with the reason where it is of a kind that is not read."""
        kind, split = (metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
        if (kind, split) != ("gpt2", "smollm") or metadata.get("tokenizer.ggml.add_bos_token"):
            return NoTokenizer(f"its GGUF file has a {kind!r} tokenizer with the split {split!r}; read is 'gpt2' with 'smollm'")
        pieces, types, merges = _parts(metadata)
        tokenizers = _tokenizers()
        vocab = {piece: n for n, piece in enumerate(pieces)}
        backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
        split = tokenizers.pre_tokenizers
        backend.pre_tokenizer = split.Sequence(
            [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False, use_regex=True)]
        )
        backend.decoder = tokenizers.decoders.ByteLevel()
        backend.add_special_tokens([piece for piece, kind in zip(pieces, types, strict=True) if kind == _CONTROL])
        bos, eos = (metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos"))
        system = _SMOLLM_SYSTEM if _SMOLLM_SYSTEM in metadata.get("tokenizer.chat_template", "") else None
        return cls(backend, bos_id=bos, eos_id=eos, system=system)

    @classmethod
    def from_file(cls, path, **settings):
        """A Hugging Face `tokenizer.json`; the settings are those of the class."""
        try:
            backend = _tokenizers().Tokenizer.from_file(str(Path(path)))
        except (DependencyError, KeyboardInterrupt):
            raise
        except BaseException as error:  # the package raises plain Exception, and where its Rust code panics not even that
            raise WeightsError(f"{path} cannot be read as a tokenizer: {error}") from error
        return cls(backend, **settings)

    def __len__(self):
        return self._backend.get_vocab_size(with_added_tokens=True)

    def __repr__(self):
        return f"Tokenizer(vocab={len(self)}, bos_id={self.bos_id}, eos_id={self.eos_id})"

    def encode(self, text):
        """The ids of a text, a list of int."""
        if not isinstance(text, str):
            raise TokenError(f"text is {type(text).__name__}; encode takes a str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenError("text holds half a character (a lone surrogate), as undecodable bytes become") from error
        return self._backend.encode(text).ids

    def decode(self, ids):
        """The text of a sequence of ids, special tokens included. Bytes that are no whole character become U+FFFD."""
        return self._backend.decode(self._checked(ids), skip_special_tokens=False)

    def tokens(self, ids):
        """One label for each id, fit for an axis of a plot.

        A space is shown as `·`, so that "·cat" is the word and "cat" the end of one; what does not print is shown as
        Python escapes it; bytes that are only part of a character stand in angle brackets.
        """
        return [self._label(n) for n in self._checked(ids)]

    def chat(self, messages):
        """The text that a chat is put to the model as (ChatML), ending where the assistant is to go on.

        messages : list of {"role": "system" | "user" | "assistant", "content": str}

        Raises
        ------
        TokenError
            If the vocabulary has no ChatML tokens, or a message lacks its role or content.
        """
        if self._backend.token_to_id("<|im_start|>") is None or self._backend.token_to_id("<|im_end|>") is None:
            raise TokenError("this vocabulary has no <|im_start|> and <|im_end|>, so its chats are not ChatML")
        if not all(isinstance(m, dict) and all(isinstance(m.get(key), str) for key in ("role", "content")) for m in messages):
            raise TokenError('each message must be a dict such as {"role": "user", "content": "Hello"}')
        if self.system is not None and (not messages or messages[0]["role"] != "system"):
            messages = [{"role": "system", "content": self.system}, *messages]
        said = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
        return said + "<|im_start|>assistant\n"

    def _checked(self, ids):
        try:
            ids = [operator.index(n) for n in ids]
        except TypeError as error:
            raise TokenError(f"ids must be a sequence of whole numbers: {error}") from error
        for n in ids:
            if not 0 <= n < len(self):
                raise TokenError(f"token {n} is not in the vocabulary, which has ids 0 to {len(self) - 1}")
        return ids

    def _label(self, n):
        piece = self._backend.id_to_token(n)
        text = piece.replace("▁", " ") if piece.startswith("▁") else self.decode([n])
        if "\ufffd" in text and all(letter in _BYTE_OF for letter in piece):
            return "<" + " ".join(f"{_BYTE_OF[letter]:02X}" for letter in piece) + ">"
        shown = text.replace(" ", "·")
        return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in shown)


def _parts(metadata):
    """The vocabulary, each token's type, and the merges as pairs; whole, for the package panics on ones that are not."""
    pieces, types, merges = (metadata.get(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type", "merges"))
    for part, kind in ((pieces, str), (types, int), (merges, str)):
        if not isinstance(part, list) or not all(isinstance(item, kind) for item in part):
            raise WeightsError("the tokenizer in the GGUF file is incomplete or altered: tokens, token_type or merges is no list")
    known = set(pieces)
    if len(known) != len(pieces) or len(types) != len(pieces):
        raise WeightsError(
            f"the tokenizer in the GGUF file is altered: of {len(pieces)} tokens {len(known)} differ and {len(types)} have a type"
        )
    pairs = [tuple(merge.split(" ")) for merge in merges]
    for pair in pairs:
        if len(pair) != 2 or not known.issuperset((*pair, "".join(pair))):
            raise WeightsError(f"the tokenizer in the GGUF file is altered: {pair} is no merge of two tokens into a third")
    return pieces, types, pairs


class NoTokenizer:
    """Stands where a model's tokenizer would be and says, when asked for anything, why there is none."""

    bos_id = eos_id = None
    stop_ids: frozenset = frozenset()

    def __init__(self, reason):
        self.reason = reason

    def __getattr__(self, name):
        if name.startswith("_"):  # what Python and notebooks look for on their own
            raise AttributeError(name)
        raise TokenError(f"this model has no tokenizer: {self.reason}. Give token ids instead of text")


def _byte_alphabet():
    """GPT-2 writes every byte as one visible letter: itself where it is one, else the next from U+0100 on."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(b): b for b in visible} | {chr(256 + n): b for n, b in enumerate(hidden)}


_BYTE_OF = _byte_alphabet()
