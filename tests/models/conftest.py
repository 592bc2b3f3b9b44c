"""What the tests of models share: small Llamas of odd sizes, and a GGUF writer of a few lines."""
import struct

import numpy as np
import pytest

from minattn.core.rope import Llama3Scaling
from minattn.models import Llama, LlamaConfig, llama_gguf

_LOADED = {}


@pytest.fixture
def smollm2(need_weights):
    """SmolLM2, read once for all tests."""
    if "smollm2" not in _LOADED:
        _LOADED["smollm2"] = need_weights()
    return _LOADED["smollm2"]


@pytest.fixture
def config():
    """`config(tied=True, ...)`: no two sizes are equal, and H D is not E."""

    def make(**changes):
        sizes = dict(layers=3, dim=30, hidden=44, heads=6, kv_heads=2, head_dim=8, vocab=61, context=96)
        rope = dict(rope_theta=1234.0, rope_scaling=Llama3Scaling(4.0, 1.0, 4.0, 32))
        return LlamaConfig(**{**sizes, **rope, **changes})

    return make


@pytest.fixture
def tiny(config):
    """`tiny(seed, **changes)`: a Llama with drawn weights in float64."""
    return lambda seed=0, **changes: Llama.random(config(**changes), seed, np.float64)


def _text(words):
    return struct.pack("<Q", len(words.encode())) + words.encode()


def _setting(value):
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    kind, items = (8, map(_text, value)) if isinstance(value[0], str) else (5, (struct.pack("<i", n) for n in value))
    return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(items)


@pytest.fixture
def gguf_bytes():
    """`gguf_bytes(settings, tensors)`: a GGUF file; a tensor is an array (F32) or (sizes, type number, bytes)."""

    def make(settings, tensors):
        head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings))
        head += b"".join(_text(key) + _setting(value) for key, value in settings.items())
        data = b""
        for name, tensor in tensors.items():
            if isinstance(tensor, np.ndarray):
                tensor = (tensor.shape, 0, np.ascontiguousarray(tensor, "<f4").tobytes())
            shape, kind, stored = tensor
            head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(data))
            data += stored + bytes(-len(stored) % 32)
        return head + bytes(-len(head) % 32) + data

    return make


@pytest.fixture
def llama_gguf_parts():
    """`settings, tensors = llama_gguf_parts(config, weights)`: what a GGUF file of this Llama holds."""

    def parts(c, weights):
        settings = {
            "general.architecture": "llama",
            "llama.block_count": c.layers,
            "llama.context_length": c.context,
            "llama.embedding_length": c.dim,
            "llama.feed_forward_length": c.hidden,
            "llama.attention.head_count": c.heads,
            "llama.attention.head_count_kv": c.kv_heads,
            "llama.attention.key_length": c.head_dim,
            "llama.attention.value_length": c.head_dim,
            "llama.attention.layer_norm_rms_epsilon": c.norm_eps,
            "llama.rope.freq_base": c.rope_theta,
            "llama.rope.dimension_count": c.head_dim,
        }
        tensors = {llama_gguf.file_name(name): w if name == "embedding" else w.T for name, w in weights.items()}
        return settings, tensors

    return parts


@pytest.fixture
def weights_of():
    """`weights_of(model)`: its weights under the names of `config.shapes()`."""

    def collect(model):
        weights = {"embedding": model.embedding, "norm": model.norm}
        weights |= {f"layers.{n}.{part}": w for n, layer in enumerate(model.layers) for part, w in layer.items()}
        return weights if model.config.tied else weights | {"head": model.head}

    return collect
