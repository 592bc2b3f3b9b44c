"""A Llama out of a GGUF file: its configuration, its weights under our names, its tokenizer.

The query and key weights of such a file are permuted for interleaved RoPE. They stay as they are, and the configuration
says `rope_layout="interleaved"`; run with the other pairing the model still speaks, but badly.
"""
import numpy as np

from ..core.errors import OptionError, ShapeError, WeightsError
from ..core.rope import Llama3Scaling, rope_frequencies
from .config import LlamaConfig
from .gguf import GGUF
from .tokenizer import Tokenizer

_NAMES = {
    "norm_attention": "attn_norm",
    "w_q": "attn_q",
    "w_k": "attn_k",
    "w_v": "attn_v",
    "w_o": "attn_output",
    "norm_ffn": "ffn_norm",
    "w_gate": "ffn_gate",
    "w_up": "ffn_up",
    "w_down": "ffn_down",
}


def file_name(ours):
    """What a GGUF file calls the weight that is ours: "layers.7.w_q" -> "blk.7.attn_q.weight"."""
    if ours.startswith("layers."):
        _, n, part = ours.split(".")
        return f"blk.{n}.{_NAMES[part]}.weight"
    return {"embedding": "token_embd", "norm": "output_norm", "head": "output"}[ours] + ".weight"


def config_of(file):
    """The `LlamaConfig` in a GGUF file's metadata."""
    metadata = file.metadata
    if metadata.get("general.architecture") != "llama":
        raise WeightsError(f"{file.path} is a {metadata.get('general.architecture')!r} model; only 'llama' is read")

    def setting(key, default=None):
        value = metadata.get(f"llama.{key}", default)
        if not isinstance(value, int | float):
            raise WeightsError(f"{file.path} has llama.{key} = {value!r}; a number is needed")
        return value

    try:
        dim, heads = setting("embedding_length"), setting("attention.head_count")
        head_dim = setting("attention.key_length", dim // heads)
        embedding = file.tensors.get("token_embd.weight")
        config = LlamaConfig(
            layers=setting("block_count"),
            dim=dim,
            hidden=setting("feed_forward_length"),
            heads=heads,
            kv_heads=setting("attention.head_count_kv", heads),
            head_dim=head_dim,
            vocab=setting("vocab_size", embedding.shape[0] if embedding else None),
            context=setting("context_length"),
            rope_theta=setting("rope.freq_base", 10_000.0),
            rope_scaling=_scaling(file, head_dim),
            rope_layout="interleaved",
            norm_eps=setting("attention.layer_norm_rms_epsilon"),
            tied="output.weight" not in file.tensors,
        )
    except (OptionError, ShapeError, ZeroDivisionError) as error:
        raise WeightsError(f"{file.path} has settings that cannot be: {error}") from error
    if setting("rope.dimension_count", head_dim) != head_dim or setting("attention.value_length", head_dim) != head_dim:
        raise WeightsError(f"{file.path} rotates only part of a head, or has values of another width; neither is read")
    return config


def _scaling(file, head_dim):
    """Llama 3.1's frequency scaling, which a GGUF file carries as the divisor of each frequency."""
    kind = file.metadata.get("llama.rope.scaling.type", "none")
    if kind != "none":
        raise WeightsError(f"{file.path} scales RoPE by {kind!r}, which is not read")
    if "rope_freqs.weight" not in file.tensors:
        return None
    divisors = file["rope_freqs.weight"]
    scaling = Llama3Scaling(factor=float(divisors.max()))
    plain = rope_frequencies(head_dim, file.metadata.get("llama.rope.freq_base", 10_000.0))
    if divisors.shape != plain.shape or not np.allclose(plain / divisors, scaling(plain), rtol=1e-4):
        raise WeightsError(f"{file.path} scales RoPE by divisors (rope_freqs.weight) that are not Llama 3.1's")
    return scaling


def read(path, dtype=np.float32):
    """(config, weights, tokenizer) of the Llama in the GGUF file at `path`; matrices become (E_in, E_out)."""
    file = GGUF(path)
    config = config_of(file)
    found = {name: tensor.shape for name, tensor in file.tensors.items() if name != "rope_freqs.weight"}
    config.check(found, source=str(path), file_name=file_name)
    weights = {}
    for ours in config.shapes():
        array = file[file_name(ours)].astype(dtype, copy=False)
        weights[ours] = array if ours == "embedding" else array.T
    return config, weights, Tokenizer.from_gguf(file.metadata)
