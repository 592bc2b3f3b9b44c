import numpy as np
import pytest

from minattn.core.errors import OptionError, ShapeError, WeightsError
from minattn.models import LlamaConfig

NAMED = {
    "llama_3_1_8b": 8_030_261_248,
    "llama_3_1_70b": 70_553_706_496,
    "llama_3_1_405b": 405_853_388_800,
    "smollm2": 134_515_008,
}


@pytest.mark.parametrize(("name", "parameters"), NAMED.items())
def test_published_parameter_counts(name, parameters):
    config = getattr(LlamaConfig, name)()
    assert config.n_parameters == parameters == sum(config.parameters().values())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_parameter_counts_equal_those_of_transformers(name, need):
    torch, transformers = need("torch"), need("transformers")
    c = getattr(LlamaConfig, name)()
    theirs = transformers.LlamaConfig(
        hidden_size=c.dim, intermediate_size=c.hidden, num_hidden_layers=c.layers, num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads, vocab_size=c.vocab, tie_word_embeddings=c.tied,
    )  # fmt: skip
    with torch.device("meta"):  # shapes without memory
        model = transformers.LlamaForCausalLM(theirs)
    assert sum(p.numel() for p in model.parameters()) == c.n_parameters


def test_where_the_parameters_of_8b_sit():
    parts = LlamaConfig.llama_3_1_8b().parameters()
    assert parts["embedding"] == parts["head"] == 128_256 * 4096
    assert parts["w_gate"] == parts["w_up"] == parts["w_down"] == 32 * 4096 * 14336
    assert parts["w_q"] == parts["w_o"] == 4 * parts["w_k"] == 4 * parts["w_v"]
    assert "head" not in LlamaConfig.smollm2().parameters()


def test_kv_bytes():
    big, small = LlamaConfig.llama_3_1_8b(), LlamaConfig.smollm2()
    assert big.kv_bytes(1, "bfloat16") == big.kv_bytes(1, np.float16) == big.kv_bytes(1, "float16") == 131_072
    assert big.kv_bytes(128 * 1024, "bfloat16") == 16 * 2**30
    assert small.kv_bytes(1) == small.kv_bytes(1, np.dtype("float32")) == 46_080
    assert small.kv_bytes(7, np.float64, batch=3) == 46_080 * 2 * 7 * 3
    with pytest.raises(OptionError, match="bfloat17"):
        small.kv_bytes(1, "bfloat17")


def test_kv_bytes_are_what_a_cache_takes(tiny):
    m = tiny()
    assert m.new_cache(batch=3, capacity=13).nbytes == m.config.kv_bytes(13, np.float64, batch=3)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"kv_heads": 4}, ShapeError, "H = 6 .* G = 4"),
        ({"head_dim": 7}, ShapeError, "D = 7"),
        ({"layers": 0}, OptionError, "layers = 0"),
        ({"dim": 2.5}, OptionError, "dim = 2.5"),
        ({"rope_theta": 0}, OptionError, "rope_theta = 0 must be above 0"),
        ({"rope_theta": np.nan}, OptionError, "rope_theta = nan"),
        ({"norm_eps": -1e-5}, OptionError, "norm_eps = -1e-05 not below 0"),
        ({"norm_eps": None}, OptionError, "norm_eps is None"),
        ({"rope_layout": "neox"}, OptionError, "interleaved"),
    ],
)
def test_sizes_that_cannot_be(config, change, error, text):
    with pytest.raises(error, match=text):
        config(**change)


def test_check_names_what_is_wrong(config):
    c = config()
    good = c.shapes()
    c.check(good)
    with pytest.raises(WeightsError, match=r"layers\.1\.w_k.*\(30, 16\)"):
        c.check({name: shape for name, shape in good.items() if name != "layers.1.w_k"})
    with pytest.raises(WeightsError, match=r"layers\.2\.w_o .*is \(30, 48\).*\(48, 30\)"):
        c.check({**good, "layers.2.w_o": (30, 48)})
    with pytest.raises(WeightsError, match="b_q"):
        c.check({**good, "layers.0.b_q": (48,)})
