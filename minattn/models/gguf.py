"""GGUF version 3: one file with a model's settings, its tokenizer and its weights, often quantised.

    "GGUF"  u32 version  u64 tensors  u64 settings
    settings:   string key, u32 type, value
    tensors:    string name, u32 rank, u64 sizes (fastest axis first), u32 type, u64 offset
    padding to the alignment, then the weights

Quantised types store blocks of 32 weights with one or two float16 numbers. Read are:

    F32, F16, BF16
    Q8_0   f16 d,         32 int8 q            w = q d
    Q4_0   f16 d,         32 four-bit q        w = (q - 8) d
    Q4_1   f16 d, f16 m,  32 four-bit q        w = q d + m

The low four bits of 16 bytes are weights 0 to 15 of a block, the high four bits 16 to 31. Everything is bounds-checked:
a file that was cut short or altered gives a WeightsError, never a wrong array.
"""
import math
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ..core.errors import WeightsError
from .formats import kind_of, refuse

_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIifBQqd", strict=True))  # type number -> struct letter
_BOOL, _STRING, _ARRAY = 7, 8, 9


def _f32(blocks):
    return blocks.view("<f4").astype(np.float32)  # a copy, as of every other type


def _f16(blocks):
    return blocks.view("<f2")


def _bf16(blocks):
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)  # the upper half of a float32


def _scale(blocks, at):
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)  # (blocks, 1)


def _nibbles(packed):
    weights = np.empty((len(packed), 32), np.float32)
    weights[:, :16], weights[:, 16:] = packed & 15, packed >> 4
    return weights


def _q8_0(blocks):
    return blocks[:, 2:].view(np.int8) * _scale(blocks, 0)


def _q4_0(blocks):
    weights = _nibbles(blocks[:, 2:])
    weights -= 8
    weights *= _scale(blocks, 0)
    return weights


def _q4_1(blocks):
    weights = _nibbles(blocks[:, 4:])
    weights *= _scale(blocks, 0)
    weights += _scale(blocks, 2)
    return weights


class _Type(NamedTuple):
    name: str
    weights: int  # in a block
    bytes: int  # of a block
    decode: Callable  # (blocks, bytes) uint8 -> (blocks, weights)


_TYPES = {
    0: _Type("F32", 1, 4, _f32),
    1: _Type("F16", 1, 2, _f16),
    2: _Type("Q4_0", 32, 18, _q4_0),
    3: _Type("Q4_1", 32, 20, _q4_1),
    8: _Type("Q8_0", 32, 34, _q8_0),
    30: _Type("BF16", 1, 2, _bf16),
}


class Tensor(NamedTuple):
    """One tensor's place in the file."""

    shape: tuple  # slowest axis first, as NumPy has it
    type: str
    blocks: np.ndarray  # (blocks, bytes) uint8, a view of the file


class GGUF(Mapping):
    """A GGUF file: `.metadata` (a dict), `.tensors` (name to `Tensor`), and `file[name]`, the tensor as floats.

    Only what is asked for is decoded. F32 comes back as float32, F16 as float16, everything else as float32.

    Raises
    ------
    WeightsError
        If the file is not GGUF version 3, is cut short, or contradicts itself.
    """

    def __init__(self, path):
        kind = kind_of(path)
        if kind != "gguf":
            raise refuse(path, kind)
        self.path = path
        cursor = _Cursor(np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray), path)
        cursor.take(4)
        (version,) = cursor.numbers("I")
        if version != 3:
            raise WeightsError(f"{path} is GGUF version {version}; only version 3 is read")
        tensors, settings = cursor.numbers("QQ")
        self.metadata = {cursor.string(): cursor.value() for _ in range(cursor.plausible(settings))}
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise WeightsError(f"{path} has general.alignment = {alignment!r}")
        places = [cursor.place() for _ in range(cursor.plausible(tensors))]
        cursor.at += -cursor.at % alignment
        self.tensors = {name: cursor.tensor(name, *place) for name, *place in places}
        if len(self.tensors) != tensors:
            raise WeightsError(f"{path} names a tensor twice")

    def __getitem__(self, name):
        shape, kind, blocks = self.tensors[name]
        decode = next(each.decode for each in _TYPES.values() if each.name == kind)
        return decode(blocks).reshape(shape)

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)


class _Cursor:
    """A place in the file that moves on as values are read, and never past the end."""

    def __init__(self, data, path):
        self.data, self.path, self.at = data, path, 0

    def take(self, size):
        if size > len(self.data) - self.at:
            raise self.short(f"{size} bytes are to be read at byte {self.at}")
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, letters):
        return struct.unpack("<" + letters, self.take(struct.calcsize("<" + letters)).tobytes())

    def plausible(self, count):
        """A count that the rest of the file could hold, at one byte each."""
        if count > len(self.data) - self.at:
            raise self.short(f"it claims {count} items at byte {self.at}")
        return count

    def short(self, how):
        return WeightsError(f"{self.path}, of {len(self.data)} bytes, is cut short or altered: {how}")

    def string(self):
        (size,) = self.numbers("Q")
        try:
            return self.take(size).tobytes().decode()
        except UnicodeDecodeError as error:
            raise WeightsError(f"{self.path} is altered: the text before byte {self.at} is not UTF-8") from error

    def value(self):
        (kind,) = self.numbers("I")
        if kind != _ARRAY:
            return self._scalar(kind)
        kind, count = self.numbers("IQ")
        self.plausible(count)
        if kind in (_STRING, _BOOL):
            return [self._scalar(kind) for _ in range(count)]
        letter = self._letter(kind)
        return list(self.numbers(f"{count}{letter}"))

    def _scalar(self, kind):
        if kind == _STRING:
            return self.string()
        (number,) = self.numbers(self._letter(kind))
        if kind == _BOOL:
            return bool(number)
        return float(str(np.float32(number))) if kind == 6 else number  # 1e-05, not the 9.99999974e-06 that it is stored as

    def _letter(self, kind):
        if kind not in _SCALARS:
            raise WeightsError(f"{self.path} has a setting of type {kind} before byte {self.at}, which is not read")
        return _SCALARS[kind]

    def place(self):
        name = self.string()
        (rank,) = self.numbers("I")
        if rank > 4:
            raise WeightsError(f"{self.path} is altered: tensor {name} has {rank} axes")
        *sizes, kind, offset = self.numbers(f"{rank}QIQ")
        return name, tuple(reversed(sizes)), kind, offset

    def tensor(self, name, shape, kind, offset):
        if kind not in _TYPES:
            known = ", ".join(each.name for each in _TYPES.values())
            raise WeightsError(f"tensor {name} in {self.path} is quantised as type {kind}; read are {known}")
        type_name, weights, size, _ = _TYPES[kind]
        if shape and shape[-1] % weights:
            raise WeightsError(f"tensor {name} in {self.path} has rows of {shape[-1]}, which is no multiple of {weights}")
        start, count = self.at + offset, math.prod(shape) // weights
        if count * size > len(self.data) - start:
            raise self.short(f"tensor {name} ends at byte {start + count * size}")
        return Tensor(shape, type_name, self.data[start : start + count * size].reshape(count, size))
