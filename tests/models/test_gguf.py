import pickle
import struct
import zipfile

import numpy as np
import pytest

from minattn import models
from minattn.core.errors import TokenError, WeightsError
from minattn.core.rope import Llama3Scaling, rope_frequencies
from minattn.models.gguf import GGUF


def test_arrays_equal_those_of_the_gguf_package(need, tmp_path):
    gguf = need("gguf")
    rng = np.random.default_rng(1)
    path = tmp_path / "all.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("a.number", 7)
    writer.add_float64("a.float", -2.5)
    writer.add_bool("a.bool", True)
    writer.add_int64("a.big", -(2**40))
    writer.add_array("a.words", ["x", "", "grün"])
    writer.add_array("a.numbers", [3, 1, 2])
    writer.add_string("a.text", "two\nlines")
    wanted = {}
    for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"):
        for shape in ((5, 64), (3, 2, 32)):
            name, number = f"{kind}.{len(shape)}", getattr(gguf.GGMLQuantizationType, kind)
            stored = gguf.quants.quantize(rng.standard_normal(shape).astype(np.float32), number)
            writer.add_tensor(name, stored, raw_dtype=number)
            wanted[name] = gguf.quants.dequantize(stored, number).reshape(shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUF(path)
    assert set(file) == set(wanted)
    for name, array in wanted.items():
        assert file.tensors[name].shape == array.shape
        np.testing.assert_array_equal(file[name], array)
    found = {key: value for key, value in file.metadata.items() if key.startswith("a.")}
    assert found == {
        "a.number": 7, "a.float": -2.5, "a.bool": True, "a.big": -(2**40), "a.words": ["x", "", "grün"],
        "a.numbers": [3, 1, 2], "a.text": "two\nlines",
    }  # fmt: skip


def test_blocks_decode_as_their_formula_says(gguf_bytes, tmp_path):
    rng = np.random.default_rng(2)
    d, m = rng.standard_normal((2, 6)).astype("<f2")
    nibbles = rng.integers(0, 16, (6, 32))
    packed = (nibbles[:, :16] | nibbles[:, 16:] << 4).astype(np.uint8)
    bytes_ = rng.integers(-128, 128, (6, 32)).astype(np.int8)
    tensors = {
        "q4_1": ((3, 64), 3, b"".join(d[n].tobytes() + m[n].tobytes() + packed[n].tobytes() for n in range(6))),
        "q4_0": ((3, 64), 2, b"".join(d[n].tobytes() + packed[n].tobytes() for n in range(6))),
        "q8_0": ((3, 64), 8, b"".join(d[n].tobytes() + bytes_[n].tobytes() for n in range(6))),
    }
    path = tmp_path / "blocks.gguf"
    path.write_bytes(gguf_bytes({"general.name": "blocks"}, tensors))
    file = GGUF(path)
    d, m = d.astype(np.float32)[:, None], m.astype(np.float32)[:, None]
    np.testing.assert_array_equal(file["q4_1"], (nibbles.astype(np.float32) * d + m).reshape(3, 64))
    np.testing.assert_array_equal(file["q4_0"], ((nibbles.astype(np.float32) - 8) * d).reshape(3, 64))
    np.testing.assert_array_equal(file["q8_0"], (bytes_ * d).reshape(3, 64))


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_survives_the_way_through_a_file(tiny, weights_of, gguf_bytes, llama_gguf_parts, tmp_path, tied):
    # a base so large that the slowest pair is divided by the whole factor, as in Llama 3.1's own files
    m = tiny(tied=tied, rope_layout="interleaved", rope_theta=2.0**20, rope_scaling=Llama3Scaling(4.0))
    settings, tensors = llama_gguf_parts(m.config, weights_of(m))
    plain = rope_frequencies(m.config.head_dim, m.config.rope_theta)
    tensors["rope_freqs.weight"] = plain / m.config.rope_scaling(plain)
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf_bytes(settings, tensors))
    read = models.load(path)
    assert read.config == m.config
    ids = np.random.default_rng(3).integers(0, 61, 40)
    np.testing.assert_allclose(read.forward(ids), m.forward(ids), rtol=1e-3, atol=1e-4)
    assert models.load(path, dtype=np.float64).forward(ids).dtype == np.float64
    with pytest.raises(TokenError, match="no tokenizer"):
        read.tokenizer.encode("words")


def test_other_divisors_of_rope_are_refused(tiny, weights_of, gguf_bytes, llama_gguf_parts, tmp_path):
    m = tiny()
    settings, tensors = llama_gguf_parts(m.config, weights_of(m))
    tensors["rope_freqs.weight"] = np.array([1.0, 2.0, 3.0, 4.0])
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf_bytes(settings, tensors))
    with pytest.raises(WeightsError, match="rope_freqs"):
        models.load(path)


@pytest.fixture
def tiny_gguf(tiny, weights_of, gguf_bytes, llama_gguf_parts):
    """The bytes of a whole small file."""
    m = tiny(layers=1, vocab=5, rope_scaling=None)
    return gguf_bytes(*llama_gguf_parts(m.config, weights_of(m)))


def test_cut_short_anywhere(tiny_gguf, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf)
    models.load(path)
    for size in {*range(0, 2000, 7), *range(2000, len(tiny_gguf) - 32, 997), len(tiny_gguf) - 33}:
        path.write_bytes(tiny_gguf[:size])
        with pytest.raises(WeightsError, match=r"cut short|an empty file|begins with"):
            models.load(path)


def test_altered_anywhere_in_the_header(tiny_gguf, tmp_path):
    """A flipped byte gives a WeightsError or leaves a model that runs; never another exception, never endless work."""
    rng = np.random.default_rng(4)
    path, refused = tmp_path / "altered.gguf", 0
    for _ in range(300):
        altered = bytearray(tiny_gguf)
        altered[rng.integers(4, 1800)] ^= 1 << rng.integers(8)
        path.write_bytes(altered)
        try:
            models.load(path)
        except WeightsError:
            refused += 1
    assert refused > 150


@pytest.mark.parametrize("kind", [0, 7, 8, 10])
@pytest.mark.parametrize("count", [10**4, 2**40, 2**62])
def test_counts_that_the_file_cannot_hold(gguf_bytes, tmp_path, kind, count):
    """An array of so many numbers, booleans or texts; struct itself gives up on the largest."""
    good = gguf_bytes({"a": [1, 2, 3]}, {})
    listed = good.index(struct.pack("<IQ", 5, 3))
    path = tmp_path / "many.gguf"
    path.write_bytes(good[:listed] + struct.pack("<IQ", kind, count) + good[listed + 12 :])
    with pytest.raises(WeightsError, match="cut short or altered"):
        GGUF(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("general.architecture", "mamba"), "'mamba'"),
        (("llama.rope.scaling.type", "yarn"), "yarn"),
        (("llama.rope.dimension_count", 4), "rotates only part"),
        (("llama.attention.value_length", 6), "values of another width"),
        (("llama.attention.head_count", 0), "cannot be"),
        (("llama.block_count", "three"), "block_count"),
        (("llama.feed_forward_length", 45), r"ffn_gate.* is \(44, 30\).*\(45, 30\)"),
        (("llama.block_count", 2), r"blk\.1\.attn_norm\.weight"),
    ],
)
def test_settings_that_do_not_fit(tiny, weights_of, gguf_bytes, llama_gguf_parts, tmp_path, change, text):
    m = tiny(layers=1, rope_scaling=None)
    settings, tensors = llama_gguf_parts(m.config, weights_of(m))
    settings[change[0]] = change[1]
    path = tmp_path / "odd.gguf"
    path.write_bytes(gguf_bytes(settings, tensors))
    with pytest.raises(WeightsError, match=text):
        models.load(path)


def test_other_files_are_named_for_what_they_are(tmp_path):
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (ran.touch, ())

    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match="pickle is never read"):
        models.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match="pickle is never read"):
        models.load(path)
    assert not ran.exists()
    others = {b"<!DOCTYPE html>": "web page", b"version https://git-lfs.github": "LFS pointer", b"\x1f\x8b..": "gzip"}
    for start, text in others.items():
        path.write_bytes(start)
        with pytest.raises(WeightsError, match=text):
            models.load(path)
    with pytest.raises(WeightsError, match="smollm2"):
        models.load(tmp_path / "nowhere.gguf")
    path.write_bytes(b"GGUF\x02\0\0\0" + bytes(16))
    with pytest.raises(WeightsError, match="version 2"):
        models.load(path)
