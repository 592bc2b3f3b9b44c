"""What kind of file is this? Told by its first bytes, so that an error can say what was offered."""
import os
from pathlib import Path

from ..core.errors import WeightsError

_STARTS = [
    (b"GGUF", "gguf"),
    (b"FUGG", "a big-endian GGUF file"),
    (b"PK\x03\x04", "a zip archive, the shape of a PyTorch .bin or .pt file (a pickle)"),
    (b"\x80", "a Python pickle, as older PyTorch .bin and .pt files are"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file that it stands for"),
    (b"<", "a web page"),
]
NEVER_PICKLE = "a pickle is never read, since reading one runs code; convert it to safetensors"


def kind_of(path):
    """"gguf", "safetensors", "folder", or a few words on what else `path` is."""
    path = Path(path)
    if os.path.isdir(path):
        return "folder"
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        raise WeightsError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not head:
        return "an empty file"
    if head[4:9] == b"\0\0\0\0{":  # eight bytes of header length, whatever the low four are, then JSON
        return "safetensors"
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    return f"a file that begins with {head[:8]!r}"


def refuse(path, kind):
    """The WeightsError for a file of a kind that is not read."""
    reason = NEVER_PICKLE if "pickle" in kind else "minattn reads GGUF files and Hugging Face folders with safetensors"
    return WeightsError(f"{path} is {kind}; {reason}")
