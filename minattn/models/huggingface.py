"""A Llama out of a Hugging Face folder: config.json, tokenizer.json, and weights in safetensors, whole or sharded.

Its query and key weights are laid out for RoPE in halves, and the configuration says `rope_layout="half"`. The
`safetensors` package checks a file (header, offsets, length) before anything in it is trusted; the arrays are then
views of the file until they are converted, so a shard is never in memory twice. Pickles are never read.
"""
import json
import os
from pathlib import Path

import numpy as np

from ..core.errors import DependencyError, OptionError, ShapeError, WeightsError
from ..core.rope import Llama3Scaling
from .config import LlamaConfig
from .formats import NEVER_PICKLE, kind_of, refuse
from .tokenizer import NoTokenizer, Tokenizer

_NAMES = {
    "norm_attention": "input_layernorm",
    "w_q": "self_attn.q_proj",
    "w_k": "self_attn.k_proj",
    "w_v": "self_attn.v_proj",
    "w_o": "self_attn.o_proj",
    "norm_ffn": "post_attention_layernorm",
    "w_gate": "mlp.gate_proj",
    "w_up": "mlp.up_proj",
    "w_down": "mlp.down_proj",
}
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def file_name(ours):
    """What a checkpoint calls the weight that is ours: "layers.7.w_q" -> "model.layers.7.self_attn.q_proj.weight"."""
    if ours.startswith("layers."):
        _, n, part = ours.split(".")
        return f"model.layers.{n}.{_NAMES[part]}.weight"
    return {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}[ours] + ".weight"


class SafetensorsFile:
    """One .safetensors file: `.shapes` (name to shape) and `file[name]`, the tensor as a float array.

    Raises
    ------
    WeightsError
        If the file is of another kind, is cut short, or contradicts itself.
    DependencyError
        If the safetensors package is not installed.
    """

    def __init__(self, path):
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError as error:
            raise DependencyError("reading safetensors needs its package: pip install 'minattn[models]'") from error
        kind = kind_of(path)
        if kind != "safetensors":
            raise refuse(path, kind)
        try:
            with safe_open(path, framework="numpy"):
                pass  # opening checks that header, offsets and length agree
        except SafetensorError as error:
            raise WeightsError(f"{path} is cut short or altered: {error}") from error
        self.path = path
        self._data = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        self._start = 8 + int.from_bytes(self._data[:8].tobytes(), "little")
        header = json.loads(self._data[8 : self._start].tobytes())
        self._entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        self.shapes = {name: tuple(entry["shape"]) for name, entry in self._entries.items()}

    def __getitem__(self, name):
        entry = self._entries[name]
        if entry["dtype"] not in _DTYPES:
            raise WeightsError(f"{name} in {self.path} is {entry['dtype']}; read are {', '.join(_DTYPES)}")
        begin, end = (self._start + offset for offset in entry["data_offsets"])
        numbers = np.frombuffer(self._data[begin:end], _DTYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)  # the upper half of a float32
        return numbers.reshape(entry["shape"])


def _json(path):
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds a {type(found).__name__}, where settings by name are expected")
    return found


def config_of(settings, source="config.json"):
    """The `LlamaConfig` of a checkpoint's config.json; what a Llama of ours cannot do is refused, never ignored."""
    if settings.get("model_type") != "llama":
        raise WeightsError(f"{source} is of a {settings.get('model_type')!r} model; only 'llama' is read")
    for key, only in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if settings.get(key, only) != only:
            raise WeightsError(f"{source} has {key} = {settings[key]!r}; only {only!r} is read")
    try:
        rope = {"rope_theta": settings.get("rope_theta", 10_000.0), **(settings.get("rope_scaling") or {})}
        rope |= settings.get("rope_parameters") or {}  # where transformers 5 keeps all of it
        heads, head_dim = settings["num_attention_heads"], settings.get("head_dim")
        return LlamaConfig(
            layers=settings["num_hidden_layers"],
            dim=settings["hidden_size"],
            hidden=settings["intermediate_size"],
            heads=heads,
            kv_heads=settings.get("num_key_value_heads") or heads,
            head_dim=head_dim or settings["hidden_size"] // heads,
            vocab=settings["vocab_size"],
            context=settings["max_position_embeddings"],
            rope_theta=float(rope["rope_theta"]),
            rope_scaling=_scaling(rope, source),
            rope_layout="half",
            norm_eps=float(settings["rms_norm_eps"]),
            tied=bool(settings.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise WeightsError(f"{source} lacks {error.args[0]!r}, which a Llama needs") from error
    except (OptionError, ShapeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(f"{source} has settings that cannot be: {error}") from error


def _scaling(rope, source):
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "llama3":
        keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        factor, low, high, length = (float(rope[key]) for key in keys)
        return Llama3Scaling(factor, low, high, int(length))
    if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise WeightsError(f"{source} asks for RoPE of the kind {rope!r}; read are 'default' and 'llama3' on whole heads")
    return None


def _shards(folder):
    """The safetensors files of a folder, by the names of the tensors in them."""
    index = folder / "model.safetensors.index.json"
    if os.path.isfile(index):
        listed = _json(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise WeightsError(f"{index} has no weight_map that says which file holds which tensor")
        paths = sorted({folder / name for name in listed.values()})
        if strangers := [path for path in paths if path.parent != folder]:
            raise WeightsError(f"{index} points outside its folder, to {strangers[0]}")
    else:
        paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        if pickles := sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)):
            raise WeightsError(f"{folder} has no safetensors, only {pickles[0]}; {NEVER_PICKLE}")
        raise WeightsError(f"{folder} has no .safetensors file; a Hugging Face folder has config.json and model.safetensors")
    files = [SafetensorsFile(path) for path in paths]
    return {name: file for file in files for name in file.shapes}


def _tokenizer(folder, settings):
    path = folder / "tokenizer.json"
    if not os.path.isfile(path):
        return NoTokenizer(f"{folder} has no tokenizer.json")
    bos, eos = (settings.get(f"{end}_token_id") for end in ("bos", "eos"))
    ends = eos if isinstance(eos, list) else [] if eos is None else [eos]
    return Tokenizer.from_file(path, bos_id=bos, eos_id=ends[0] if ends else None, stop_ids=ends)


def read(folder, dtype=np.float32):
    """(config, weights, tokenizer) of the Llama in a Hugging Face folder; matrices become (E_in, E_out)."""
    folder = Path(folder)
    by_name = _shards(folder)
    settings = _json(folder / "config.json")
    config = config_of(settings, folder / "config.json")
    # a tied head is stored twice by some, and old files store RoPE's frequencies, which follow from the configuration
    skipped = {"lm_head.weight"} if config.tied else set()
    found = {
        name: file.shapes[name]
        for name, file in by_name.items()
        if name not in skipped and not name.endswith("rotary_emb.inv_freq")
    }
    config.check(found, source=str(folder), file_name=file_name)
    weights = {}
    for ours in config.shapes():
        name = file_name(ours)
        array = by_name[name][name].astype(dtype)
        weights[ours] = array if ours == "embedding" else array.T
    return config, weights, _tokenizer(folder, settings)
