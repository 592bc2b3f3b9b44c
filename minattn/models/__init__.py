"""Real trained transformers in plain NumPy: read their weights, run them, look inside.

    m = models.load("smollm2")                                fetched once, then read from the cache folder
    m = models.load("a/file.gguf")                            or a Hugging Face folder with safetensors
    logits, weights = m.forward(m.tokenizer.encode("The cat sat"), return_weights=True)
"""
import os
from pathlib import Path

import numpy as np

from ..core.errors import DependencyError, DownloadError, OptionError, TokenError, WeightsError
from . import huggingface, llama_gguf
from .config import LlamaConfig
from .download import SOURCES, cache_folder, check, fetch, find
from .formats import kind_of, refuse
from .llama import Llama
from .llama_cache import LlamaCache

__all__ = [
    "SOURCES", "DependencyError", "DownloadError", "Llama", "LlamaCache", "LlamaConfig", "TokenError", "WeightsError",
    "cache_folder", "fetch", "find", "load",
]  # fmt: skip


def load(name_or_path, *, download=True, dtype=np.float32):
    """A model, ready to run.

    Parameters
    ----------
    name_or_path : str or path
        "smollm2" (SmolLM2-135M-Instruct), or a Llama of your own: a GGUF file, or a Hugging Face folder with config.json,
        tokenizer.json and safetensors, whole or sharded.
    download : bool
        Fetch a named model that is not on this machine yet; its sha256 is checked each time that it is read.
    dtype : {np.float32, np.float64}

    Returns
    -------
    Llama

    Raises
    ------
    WeightsError
        If the file is missing, cut short, altered, or of a kind that is not read (a pickle never is).
    DownloadError
        If a named model cannot be fetched.
    DependencyError
        If a package is missing; the text names the extra that brings it.
    """
    try:
        dtype = np.dtype(dtype)
    except TypeError as error:
        raise OptionError(f"dtype = {dtype!r} is no type of number") from error
    if dtype not in (np.float32, np.float64):
        raise OptionError(f"dtype = {dtype}; a model is computed in float32 or float64")
    if not isinstance(name_or_path, str | os.PathLike):
        raise OptionError(f"name_or_path is {name_or_path!r}; it must be a name, one of {', '.join(SOURCES)}, or a path")
    if name_or_path in SOURCES:
        path = find(name_or_path)
        if path is None and not download:
            raise WeightsError(f"the weights of {name_or_path} are not here; fetch them with: minattn fetch {name_or_path}")
        if path is None:
            path = fetch(name_or_path)
        check(path, name_or_path)
        return Llama(*llama_gguf.read(path, dtype))
    path = Path(os.path.expanduser(name_or_path))
    if not os.path.exists(path):
        raise WeightsError(f"there is no file or folder {path}; the models known by name are: {', '.join(SOURCES)}")
    kind = kind_of(path)
    if kind == "gguf":
        return Llama(*llama_gguf.read(path, dtype))
    if kind == "safetensors":                                 # its configuration lies beside it
        return Llama(*huggingface.read(path.parent, dtype))
    if kind == "folder":
        return Llama(*huggingface.read(path, dtype))
    raise refuse(path, kind)
