import json
import sys

import numpy as np
import pytest

from minattn import models
from minattn.core.errors import DependencyError, TokenError, WeightsError
from minattn.core.rope import Llama3Scaling
from minattn.models import huggingface

PLAIN = {"rope_type": "default", "rope_theta": 5000.0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1234.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


def theirs(need, *, tied=False, rope=LLAMA3):
    """A small Llama of Hugging Face transformers whose every weight, the norms' too, is drawn."""
    torch, transformers = need("torch"), need("transformers")
    torch.manual_seed(5)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=61, hidden_size=30, intermediate_size=44, num_hidden_layers=3, num_attention_heads=6,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=96, rms_norm_eps=3e-5, tie_word_embeddings=tied,
            rope_parameters=rope, attn_implementation="eager",
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.2)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rope", [PLAIN, LLAMA3], ids=["plain", "llama3"])
def test_logits_and_maps_equal_those_of_transformers(need, tmp_path, tied, rope):
    torch, model = need("torch"), theirs(need, tied=tied, rope=rope)
    model.save_pretrained(tmp_path)
    m = models.load(tmp_path)
    assert m.config.n_parameters == sum(p.numel() for p in model.parameters())
    assert m.config.rope_layout == "half"
    assert m.config.rope_scaling == (Llama3Scaling(4.0, 1.0, 4.0, 32) if rope is LLAMA3 else None)
    ids = np.random.default_rng(6).integers(0, 61, (2, 77))
    with torch.no_grad():
        want = model(torch.tensor(ids), output_attentions=True)
    logits, weights = m.forward(ids, return_weights=True)
    scale = want.logits.abs().max().item()
    assert np.abs(logits - want.logits.numpy()).max() < 1e-5 * scale
    for layer in range(3):
        np.testing.assert_allclose(weights[layer], want.attentions[layer].numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_sharded_and_in_other_types(need, tmp_path, kind):
    torch, transformers = need("torch"), need("transformers")
    theirs(need).to(getattr(torch, kind)).save_pretrained(tmp_path, max_shard_size="16KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    m = models.load(tmp_path)
    ids = np.arange(50)[None] % 61
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        want = model(torch.tensor(ids)).logits.numpy()
    assert np.abs(m.forward(ids) - want).max() < 1e-5 * np.abs(want).max()
    next(tmp_path.glob("*-00002-*.safetensors")).unlink()
    with pytest.raises(WeightsError, match="00002"):
        models.load(tmp_path)


SETTINGS = {
    "model_type": "llama", "num_hidden_layers": 3, "hidden_size": 30, "intermediate_size": 44, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 61, "max_position_embeddings": 96, "rms_norm_eps": 1e-5,
    "rope_theta": 1234.0, "rope_scaling": {**LLAMA3, "rope_theta": 1234.0},
}  # fmt: skip


@pytest.fixture
def folder(tiny, weights_of, tmp_path, need):
    """A whole folder written without torch, and the model in it."""
    m = tiny()
    tensors = {huggingface.file_name(n): w if n == "embedding" else w.T for n, w in weights_of(m).items()}
    tensors = {name: np.ascontiguousarray(w, np.float32) for name, w in tensors.items()}
    save = need("safetensors.numpy").save_file
    save(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    return tmp_path, m, tensors, save


def test_a_folder_is_read(folder):
    path, m, _, _ = folder
    ids = np.arange(60)
    for given in (path, str(path), path / "model.safetensors"):
        read = models.load(given)
        assert read.config == m.config
        np.testing.assert_allclose(read.forward(ids), m.forward(ids), rtol=1e-3, atol=1e-4)
    with pytest.raises(TokenError, match=r"no tokenizer\.json"):
        read.generate("words")
    assert len(read.generate([1, 2], max_new_tokens=3)) == 3


def test_a_tied_head_may_be_stored_twice(folder):
    path, m, tensors, save = folder
    (path / "config.json").write_text(json.dumps({**SETTINGS, "tie_word_embeddings": True}))
    want = models.load(path).forward([1, 2, 3])
    assert np.abs(want - m.forward([1, 2, 3])).max() > 0.1                                # another head than m's
    frequencies = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    save({n: w for n, w in tensors.items() if n != "lm_head.weight"} | frequencies, path / "model.safetensors")
    np.testing.assert_array_equal(models.load(path).forward([1, 2, 3]), want)


def test_bfloat16_needs_no_other_package(folder, monkeypatch):
    path, _, tensors, save = folder
    want = tensors["model.layers.1.self_attn.q_proj.weight"]
    kept = (want.view(np.uint32) >> 16).astype(np.uint16)
    save({"x": kept}, path / "x.safetensors")
    stored = (path / "x.safetensors").read_bytes().replace(b'"U16"', b'"BF16"')
    stored = (int.from_bytes(stored[:8], "little") + 1).to_bytes(8, "little") + stored[8:]
    (path / "x.safetensors").write_bytes(stored)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    found = huggingface.SafetensorsFile(path / "x.safetensors")["x"]
    np.testing.assert_array_equal(found, (kept.astype(np.uint32) << 16).view(np.float32))


def test_without_the_package(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(DependencyError, match=r"minattn\[models\]"):
        models.load(folder[0])


def test_cut_short_or_altered(folder):
    path = folder[0]
    file = path / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 5, 8, 9, 40, 500, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(WeightsError):
            models.load(path)
    rng = np.random.default_rng(7)
    header, refused = int.from_bytes(whole[:8], "little"), 0
    for _ in range(200):
        altered = bytearray(whole)
        altered[rng.integers(0, 8 + header)] ^= 1 << rng.integers(8)
        file.write_bytes(altered)
        try:
            models.load(path)
        except WeightsError:
            refused += 1
    assert refused > 100


def test_tensors_that_do_not_fit(folder):
    path, _, tensors, save = folder
    name = "model.layers.1.mlp.down_proj.weight"
    save({n: w for n, w in tensors.items() if n != name}, path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"no tensor model\.layers\.1\.mlp\.down_proj\.weight.*\(30, 44\)"):
        models.load(path)
    save({**tensors, name: np.ascontiguousarray(tensors[name].T)}, path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"down_proj\.weight .* is \(44, 30\).*\(30, 44\)"):
        models.load(path)
    save({**tensors, "model.layers.0.self_attn.q_proj.bias": np.zeros(48, np.float32)}, path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"q_proj\.bias"):
        models.load(path)
    save({**tensors, name: np.zeros((30, 44), np.int32)}, path / "model.safetensors")
    with pytest.raises(WeightsError, match="I32"):
        models.load(path)


def test_every_header_length_is_known_as_safetensors(folder):
    """The first byte of a file is its header's length, and may be that of a pickle or of a web page."""
    path, _, _, save = folder
    seen = set()
    for n in range(300):
        save({"x" * (n + 1): np.zeros(1, np.float32)}, path / "one.safetensors")
        seen.add((path / "one.safetensors").read_bytes()[:1])
        assert huggingface.SafetensorsFile(path / "one.safetensors").shapes == {"x" * (n + 1): (1,)}
    assert b"\x80" in seen


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "yarn"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial"),
        ({"rms_norm_eps": None, "num_attention_heads": 0}, "cannot be"),
        ({"num_key_value_heads": 4}, "G = 4"),
        ({"rms_norm_eps": None}, "cannot be"),
        ({"rms_norm_eps": "small"}, "cannot be"),
        ({"rope_theta": -1.0, "rope_scaling": None}, "rope_theta = -1.0 must be above 0"),
        ({"rope_scaling": "llama3"}, "cannot be"),
        ({"rope_parameters": 2}, "cannot be"),
    ],
)
def test_settings_that_are_not_read(folder, change, text):
    path = folder[0]
    settings = {k: v for k, v in {**SETTINGS, **change}.items() if k != "rope_scaling" or "rope_parameters" not in change}
    (path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(WeightsError, match=text):
        models.load(path)


def test_settings_that_are_missing(folder):
    path = folder[0]
    (path / "config.json").write_text(json.dumps({k: v for k, v in SETTINGS.items() if k != "hidden_size"}))
    with pytest.raises(WeightsError, match="hidden_size"):
        models.load(path)
    for text in ("{", "[]", "[" * 100_000):
        (path / "config.json").write_text(text)
        with pytest.raises(WeightsError, match=r"config\.json"):
            models.load(path)
    (path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json"):
        models.load(path)


def test_a_pickle_beside_the_configuration(folder):
    path = folder[0]
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"only pytorch_model\.bin; a pickle is never read.*safetensors"):
        models.load(path)
    (path / "model.safetensors").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(WeightsError, match="pickle is never read"):
        models.load(path)


def test_an_index_cannot_point_elsewhere(folder):
    path = folder[0]
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../model.safetensors"}}))
    with pytest.raises(WeightsError, match="outside"):
        models.load(path)
    for name, text in (("nul\0", "cannot be read"), ("long" * 999, "cannot be read"), (".", "outside")):
        index.write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
        with pytest.raises(WeightsError, match=text):
            models.load(path)
    index.write_text(json.dumps({"weight_map": ["model.safetensors"]}))
    with pytest.raises(WeightsError, match="weight_map"):
        models.load(path)
