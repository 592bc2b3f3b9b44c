"""SmolLM2-135M-Instruct, the real thing: what minattn claims of it is measured here."""
import dataclasses

import numpy as np
import pytest

from minattn import models
from minattn.core.rope import change_layout
from minattn.models import Llama, LlamaConfig, huggingface

pytestmark = pytest.mark.slow

SENTENCE = "The cat sat on the mat because it was tired"
PARAGRAPH = (
    "A lighthouse keeper once kept a small notebook beside the lamp. Every evening he wrote down the weather, the colour of the "
    "sea, and the names of the ships that passed before dark. He did not expect anyone to read it. Yet after many years the "
    "pages had become a kind of map: whoever turned them slowly could see how storms arrive, how they leave, and how a patient "
    "man learns to tell one from the other. When the keeper grew old, a young woman came to take his place. He gave her the key, "
    "the oil, and the notebook, and told her that only the last of these would teach her how to stay awake."
)
# The five best tokens after each token of SENTENCE with their logits, as LlamaForCausalLM of Hugging Face transformers 5.23
# gives them in float64 (torch 2.13, eager attention). It is built and filled as `theirs` below does it;
# test_reference_logits_are_those_of_transformers holds these numbers to it wherever torch is installed.
REFERENCE = [
    {29: 27.35336, 28: 25.5656, 198: 25.0673, 79: 24.91474, 506: 24.69824},
    {506: 30.5858, 314: 30.34528, 553: 29.01104, 417: 28.74904, 436: 28.62361},
    {335: 25.18416, 418: 25.07799, 24769: 24.00811, 4016: 23.40744, 411: 23.39903},
    {253: 17.99487, 260: 16.55568, 874: 12.93146, 357: 12.88948, 338: 12.8777},
    {2644: 12.83337, 6783: 12.47004, 3185: 12.19142, 10908: 11.87928, 2388: 11.80098},
    {30: 27.2782, 28: 27.03539, 281: 24.695, 284: 24.56721, 198: 24.2405},
    {1041: 13.45807, 357: 12.88261, 282: 12.83204, 384: 12.27715, 260: 12.18517},
    {436: 27.60477, 761: 26.31668, 856: 25.04198, 506: 25.01199, 6789: 24.86842},
    {253: 20.03519, 260: 19.74684, 281: 18.73146, 915: 18.60896, 1147: 18.48619},
    {30: 21.37743, 28: 21.06402, 284: 20.83995, 282: 19.43201, 564: 18.99927},
]


def weights_in_halves(m, weights):
    """The weights with queries and keys re-ordered from GGUF's interleaved layout to that of Hugging Face."""
    changed = dict(weights)
    for n in range(m.config.layers):
        for part, heads in (("w_q", m.config.heads), ("w_k", m.config.kv_heads)):
            changed[f"layers.{n}.{part}"] = change_layout(weights[f"layers.{n}.{part}"], heads, to="half")
    return changed


@pytest.fixture
def theirs(smollm2, weights_of, need):
    """The model of Hugging Face transformers with the weights that our reader read."""
    torch, transformers = need("torch"), need("transformers")
    c = smollm2.config
    config = transformers.LlamaConfig(
        vocab_size=c.vocab, hidden_size=c.dim, intermediate_size=c.hidden, num_hidden_layers=c.layers,
        num_attention_heads=c.heads, num_key_value_heads=c.kv_heads, max_position_embeddings=c.context,
        rms_norm_eps=c.norm_eps, tie_word_embeddings=True, attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    stored = {
        huggingface.file_name(name): torch.tensor(np.ascontiguousarray(w if name == "embedding" else w.T))
        for name, w in weights_in_halves(smollm2, weights_of(smollm2)).items()
    }
    left = model.load_state_dict(stored, strict=False)
    assert left.missing_keys == ["lm_head.weight"]  # tied to the embedding
    assert not left.unexpected_keys
    return model


def perplexity(m, ids):
    logits = m.forward(ids).astype(np.float64)[:-1]
    best = logits.max(-1, keepdims=True)
    lse = best[:, 0] + np.log(np.exp(logits - best).sum(-1))
    return np.exp(np.mean(lse - logits[np.arange(len(ids) - 1), ids[1:]]))


def test_configuration_and_size(smollm2):
    assert smollm2.config == LlamaConfig.smollm2()
    assert smollm2.config.n_parameters == 134_515_008
    assert smollm2.new_cache(capacity=1).nbytes == smollm2.config.kv_bytes(1) == 46_080


def test_reference_logits(smollm2):
    logits = smollm2.forward(smollm2.tokenizer.encode(SENTENCE))
    for row, wanted in zip(logits, REFERENCE, strict=True):
        np.testing.assert_allclose(row[list(wanted)], list(wanted.values()), atol=2e-4, rtol=0)
        assert np.argsort(-row)[:5].tolist() == list(wanted)


def test_reference_logits_are_those_of_transformers(smollm2, theirs, need):
    torch = need("torch")
    with torch.no_grad():
        logits = theirs.double()(torch.tensor([smollm2.tokenizer.encode(SENTENCE)])).logits[0].numpy()
    for row, wanted in zip(logits, REFERENCE, strict=True):
        np.testing.assert_allclose(row[list(wanted)], list(wanted.values()), atol=2e-5, rtol=0)


@pytest.mark.parametrize("text", [SENTENCE, PARAGRAPH], ids=["sentence", "paragraph"])
def test_logits_and_maps_equal_those_of_transformers(smollm2, theirs, need, text):
    torch, ids = need("torch"), smollm2.tokenizer.encode(text)
    with torch.no_grad():
        want = theirs(torch.tensor([ids]), output_attentions=True)
    logits, weights = smollm2.forward(ids, return_weights=True)
    assert np.abs(logits - want.logits[0].numpy()).max() < 2e-4
    for layer, wanted in enumerate(want.attentions):
        assert np.abs(weights[layer] - wanted[0].numpy()).max() < 2e-5


def test_perplexity_tells_the_rope_pairings_apart(smollm2, weights_of):
    """Generated text looks fine in all four; this is where the wrong pairing shows."""
    ids = smollm2.tokenizer.encode(PARAGRAPH)
    stored = weights_of(smollm2)
    found = {}
    for kept, weights in (("as stored", stored), ("re-ordered", weights_in_halves(smollm2, stored))):
        for layout in ("interleaved", "half"):
            m = Llama(dataclasses.replace(smollm2.config, rope_layout=layout), weights)
            found[kept, layout] = perplexity(m, ids)
    assert found["as stored", "interleaved"] == pytest.approx(29.816, abs=0.01)
    assert found["re-ordered", "half"] == pytest.approx(found["as stored", "interleaved"], abs=1e-3)
    assert found["as stored", "half"] == pytest.approx(126.1, abs=0.5)
    assert found["re-ordered", "interleaved"] == pytest.approx(123.3, abs=0.5)


def test_where_it_looks(smollm2):
    ids = smollm2.tokenizer.encode(SENTENCE)
    tokens = smollm2.tokenizer.tokens(ids)
    assert tokens == ["The", "·cat", "·sat", "·on", "·the", "·mat", "·because", "·it", "·was", "·tired"]
    _, weights = smollm2.forward(ids, return_weights=True)
    it, cat = tokens.index("·it"), tokens.index("·cat")
    assert weights.shape == (30, 9, 10, 10)
    assert weights[13, 8, it, cat] == pytest.approx(0.80, abs=0.01)
    assert np.unravel_index(weights[:, :, it, cat].argmax(), (30, 9)) == (13, 8)


def test_greedy_text_is_the_same_however_it_is_computed(smollm2):
    ids = smollm2.tokenizer.encode(PARAGRAPH[:75])
    want = smollm2.generate(ids, max_new_tokens=12, cached=False)
    assert len(set(want)) > 6
    for prefill in (1, 5, 7, 256):
        assert smollm2.generate(ids, max_new_tokens=12, prefill=prefill) == want
    pieces = []
    text = smollm2.generate(PARAGRAPH[:75], max_new_tokens=12, stream=pieces.append)
    assert text == "".join(pieces) == smollm2.tokenizer.decode(want)


def test_rows_of_unequal_length_are_each_row_alone(smollm2):
    rows = [smollm2.tokenizer.encode(text) for text in (SENTENCE, PARAGRAPH[:150], "Yes")]
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((3, lengths.max()), int)
    for b, row in enumerate(rows):
        ids[b, : len(row)] = row
    whole = smollm2.forward(ids, lengths=lengths)
    cache = smollm2.new_cache(3, capacity=int(lengths.max()))
    for start in range(0, lengths.max(), 13):                                             # chunks that end within rows
        real = np.clip(lengths - start, 0, min(13, lengths.max() - start))
        part = smollm2.forward(ids[:, start : start + 13], lengths=real, cache=cache)
        for b, n in enumerate(real):
            assert np.abs(part[b, :n] - whole[b, start : start + n]).max(initial=0) < 5e-4
    for b, row in enumerate(rows):
        assert np.abs(whole[b, : len(row)] - smollm2.forward(row)).max() < 5e-4


def test_chat_ends_where_the_model_says_so(smollm2):
    tokenizer = smollm2.tokenizer
    text = tokenizer.chat([{"role": "user", "content": "Say hello."}])
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n")
    ids = tokenizer.encode(text)
    assert ids.count(tokenizer.bos_id) == 3
    assert ids.count(tokenizer.eos_id) == 2
    said = smollm2.generate(text, max_new_tokens=60)
    assert said
    assert "<|im_end|>" not in said
    assert len(tokenizer.encode(said)) < 60


def test_tokenizer(smollm2):
    tokenizer = smollm2.tokenizer
    assert (len(tokenizer), tokenizer.bos_id, tokenizer.eos_id) == (49_152, 1, 2)
    assert tokenizer.tokens(tokenizer.encode("In 1984")) == ["In", "·", "1", "9", "8", "4"]
    for text in (PARAGRAPH, "Übergröße, 漢字, 𝄞 and 🙂\n\ttabs  and   spaces", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_altered_weight_file_is_refused(smollm2, tmp_path, monkeypatch):
    path = models.find("smollm2")
    altered = bytearray(path.read_bytes())
    altered[-1000] ^= 1                                                                   # one bit of one weight
    monkeypatch.setenv("MINATTN_CACHE", str(tmp_path))
    (tmp_path / path.name).write_bytes(altered)
    with pytest.raises(models.WeightsError, match=r"sha256.*minattn fetch smollm2"):
        models.load("smollm2", download=False)
