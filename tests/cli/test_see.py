"""`minattn see`: which heads it chooses, what it writes, and what it refuses. The model is a small one with drawn weights."""
import numpy as np
import pytest

from minattn.cli import main, see
from minattn.models import Llama, LlamaConfig

PNG = b"\x89PNG\r\n\x1a\n"


class Words:
    """One id a word, which is all that `see` needs of a tokenizer."""

    def encode(self, text):
        self.words = text.split()
        return list(range(len(self.words)))

    def tokens(self, ids):
        return [self.words[i] for i in ids]


@pytest.fixture
def tiny(monkeypatch):
    config = LlamaConfig(layers=3, dim=24, heads=6, kv_heads=2, head_dim=4, hidden=40, vocab=100, context=128, tied=True)
    model = Llama.random(config, seed=5)
    model.tokenizer = Words()
    monkeypatch.setattr("minattn.models.load", lambda name: model)
    return model


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_writes_a_picture_and_a_page_and_names_them(tiny, tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    assert main(["see", "Where does it look?", "--out", str(folder)]) == 0
    assert names(folder) == ["minattn-where-does-it-look.html", "minattn-where-does-it-look.png"]
    assert sorted(capsys.readouterr().out.splitlines()) == [str(folder / name) for name in names(folder)]
    assert (folder / "minattn-where-does-it-look.png").read_bytes().startswith(PNG)
    page = (folder / "minattn-where-does-it-look.html").read_text()
    assert "Where does it look?" in page
    assert "http://" not in page
    assert "https://" not in page


def test_a_second_run_says_that_it_replaces_the_files(tiny, tmp_path, capsys):
    for _ in range(2):
        assert main(["see", "a b c d", "--out", str(tmp_path), "--layer", "1", "--head", "4"]) == 0
    assert len(names(tmp_path)) == 2
    assert capsys.readouterr().out.count("in place of an earlier one") == 2


def test_the_sentence_is_data_in_the_page(tiny, tmp_path):
    assert main(["see", "a </script><script>alert(1)</script> b", "--out", str(tmp_path)]) == 0
    page = next(tmp_path.glob("*.html")).read_text()
    assert "<script>alert" not in page


@pytest.mark.parametrize("sentence", ["one", "one two", "one two three", "ένα δύο"])
def test_short_sentences(tiny, tmp_path, sentence):
    assert main(["see", sentence, "--out", str(tmp_path)]) == 0
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize(("arguments", "said"), [
    (["  "], "the sentence is empty"),
    (["w " * 65], "65 tokens; at most 64"),
    (["a b", "--head", "2"], "--head needs --layer"),
    (["a b", "--layer", "3"], "--layer is 3; there are 3, counted from 0 to 2"),
    (["a b", "--layer", "-1"], "--layer is -1"),
    (["a b", "--layer", "0", "--head", "6"], "--head is 6; there are 6, counted from 0 to 5"),
])
def test_what_cannot_be_drawn_is_refused_and_nothing_is_written(tiny, tmp_path, capsys, arguments, said):
    assert main(["see", *arguments, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_one_line(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("here")
    assert main(["see", "a b", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("minattn: cannot write to --out")


def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_part(tmp_path, monkeypatch):
    (tmp_path / "n.png").write_bytes(b"old")

    def full(source, target):
        raise OSError("no space left")

    monkeypatch.setattr("minattn.core.whole.os.replace", full)
    with pytest.raises(see.OptionError, match="no space left"):
        see.write(tmp_path, "n", {".png": b"new"})
    assert names(tmp_path) == ["n.png"]
    assert (tmp_path / "n.png").read_bytes() == b"old"


def test_choosing_takes_heads_that_look_back_and_each_pattern_once():
    """Of five heads three look back, and two of those do the same."""
    N = 7
    first, own, back, twice, other = weights = np.zeros((5, N, N), np.float32)
    first[:, 0] = 1
    own[range(N), range(N)] = 1
    back[:, 0] = twice[:, 0] = other[:, 0] = 0.3
    back[3:, 1] = 0.7
    twice[3:, 1] = 0.6
    other[5:, 3] = 0.7
    chosen = see.choose(weights.reshape(1, 5, N, N))
    assert chosen[:2] == [(0, 2), (0, 4)]
    assert (0, 3) not in chosen


def test_a_layer_or_a_head_can_be_asked_for():
    weights = np.zeros((3, 4, 5, 5), np.float32)
    assert see.choose(weights, layer=2) == [(2, 0), (2, 1), (2, 2), (2, 3)]
    assert see.choose(weights, layer=0, head=3) == [(0, 3)]


@pytest.mark.slow
def test_the_subject_head_comes_first_on_the_real_model(need_weights):
    model = need_weights()
    ids = model.tokenizer.encode("The cat sat on the mat because it was tired")
    assert see.choose(model.forward(ids, return_weights=True)[1])[0] == (13, 8)
