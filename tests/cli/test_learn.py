"""`minattn learn`: which lessons it opens, what it copies and never overwrites, and how the server is reached."""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from minattn.cli import learn, main

REPOSITORY = Path(__file__).resolve().parents[2]


def notebook(text):
    return json.dumps({"cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": text.splitlines(True)}],
                       "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """An installed package that carries two lessons; the working folder is empty, and no server starts."""
    package = tmp_path / "site-packages" / "minattn"
    lessons = package / "_lessons"
    (lessons / "maps").mkdir(parents=True)
    (lessons / "00_look.ipynb").write_text(notebook("# 00 A first look\n\n11 minutes, difficulty 1 of 5"))
    (lessons / "01_one.ipynb").write_text(notebook("# 01 One query\n\n23 minutes"))
    (lessons / "course.py").write_text("TOKENS = ['the']\n")
    (lessons / "maps" / "cat.npz").write_bytes(b"\x00\x01maps")
    for name in ("build.py", "00_look.py"):
        (lessons / name).write_text("# for builders\n")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(learn, "PACKAGE", package)
    served = []
    monkeypatch.setattr(learn, "serve", lambda folder, **how: served.append((folder, how)))
    return lessons, work, served


LEARNERS = {"00_look.ipynb", "01_one.ipynb", "course.py", "maps/cat.npz"}


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_installed_package_lays_a_copy_into_a_folder_that_it_names(shipped, capsys):
    lessons, work, served = shipped
    assert main(["learn", "--port", "9001", "--no-browser"]) == 0
    folder = work / "minattn-lessons"
    assert files(folder) == LEARNERS
    for name in LEARNERS:
        assert (folder / name).read_bytes() == (lessons / name).read_bytes()
    assert served == [(folder, {"port": 9001, "browser": False})]
    shown = capsys.readouterr().out
    assert f"Lessons: {folder} (4 files added)" in shown
    assert re.search(r"00  A first look +11 min\n", shown)
    assert re.search(r"01  One query +23 min\n", shown)


def test_work_is_never_written_over(shipped, capsys):
    lessons, work, _ = shipped
    main(["learn"])
    folder = work / "minattn-lessons"
    (folder / "00_look.ipynb").write_text("my work")
    (folder / "mine.ipynb").write_text("mine alone")
    (folder / "01_one.ipynb").unlink()
    (lessons / "maps" / "cat.npz").write_bytes(b"newer")
    capsys.readouterr()
    assert main(["learn"]) == 0
    assert (folder / "00_look.ipynb").read_text() == "my work"
    assert (folder / "mine.ipynb").read_text() == "mine alone"
    assert (folder / "maps" / "cat.npz").read_bytes() == b"\x00\x01maps"
    assert (folder / "01_one.ipynb").read_bytes() == (lessons / "01_one.ipynb").read_bytes()
    shown = capsys.readouterr().out
    assert "(1 files added)" in shown
    kept = shown.split("Kept as they are")[1]
    assert "  00_look.ipynb\n" in kept
    assert "  maps/cat.npz\n" in kept
    assert "mine.ipynb" not in kept


def test_what_only_looks_like_a_lesson_is_kept_too(shipped, tmp_path):
    """A folder or a dangling link in a lesson's place is the learner's, and nothing goes through the link."""
    _, work, _ = shipped
    folder = work / "f"
    (folder / "00_look.ipynb").mkdir(parents=True)
    (folder / "01_one.ipynb").symlink_to(tmp_path / "elsewhere")
    assert main(["learn", "--folder", "f"]) == 0
    assert (folder / "00_look.ipynb").is_dir()
    assert (folder / "01_one.ipynb").is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_folder_that_is_a_file_is_refused(shipped, capsys):
    _, work, served = shipped
    (work / "f").write_text("a file")
    assert main(["learn", "--folder", "f"]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err
    assert served == []


def test_a_copy_that_fails_leaves_no_half_file(shipped, monkeypatch, capsys):
    _, work, served = shipped

    def full(source, target):
        raise OSError("no space left")

    monkeypatch.setattr("minattn.core.whole.os.replace", full)
    assert main(["learn"]) == 2
    assert "no space left" in capsys.readouterr().err
    assert files(work) == set()
    assert served == []


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_a_port_out_of_range_is_refused(shipped, capsys, port):
    assert main(["learn", f"--port={port}"]) == 2
    assert "a port is 1 to 65535" in capsys.readouterr().err


def test_a_clone_opens_its_lessons_in_place(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    served = []
    monkeypatch.setattr(learn, "serve", lambda folder, **how: served.append(folder))
    assert main(["learn"]) == 0
    assert served == [REPOSITORY / "lessons"]
    assert list(tmp_path.iterdir()) == []


def test_a_clone_gives_a_copy_where_one_is_asked_for(monkeypatch, tmp_path):
    served = []
    monkeypatch.setattr(learn, "serve", lambda folder, **how: served.append(folder))
    assert main(["learn", "--folder", str(tmp_path / "copy")]) == 0
    assert served == [tmp_path / "copy"]
    assert "course.py" in files(tmp_path / "copy")
    assert "build.py" not in files(tmp_path / "copy")


def test_an_installation_without_lessons_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(learn, "PACKAGE", tmp_path / "minattn")
    assert main(["learn"]) == 2
    assert "carries no lessons" in capsys.readouterr().err


def test_without_jupyterlab_the_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(learn.importlib.util, "find_spec", lambda name: None)
    assert main(["learn", "--folder", str(tmp_path / "copy")]) == 2
    assert "pip install 'minattn[lessons]'" in capsys.readouterr().err
    assert "course.py" in files(tmp_path / "copy")


# --- the server itself --------------------------------------------------------------------------------------------


def get(address):
    """The status code of a GET, without any proxy; None while nobody listens."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "where", "shows"), [
    ("", [], ["lessons/course.py", "minattn/core/softmax.py"]),
    ("c.ServerApp.ip = '0.0.0.0'\nc.IdentityProvider.token = ''\nc.ServerApp.token = ''\n", ["--folder", "f"], ["course.py"]),
])
def test_the_server_listens_here_alone_and_asks_for_its_token(tmp_path, need, settings, where, shows):
    """Started for real, in a clone and on a copy; the second time with settings that would open it to everybody."""
    need("jupyterlab")
    (tmp_path / "jupyter_server_config.py").write_text(settings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"JUPYTER_CONFIG_DIR": tmp_path, "JUPYTER_DATA_DIR": tmp_path / "data", "JUPYTER_RUNTIME_DIR": tmp_path / "run"}
    environment = {**os.environ, **{name: str(place) for name, place in places.items()}}
    environment.pop("JUPYTER_TOKEN", None)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "minattn.cli", "learn", "--no-browser", f"--port={port}", *where]
    with open(log, "wb") as output:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output)
    try:
        status = f"http://127.0.0.1:{port}/api/status"
        give_up = time.monotonic() + 60
        while get(status) is None and server.poll() is None and time.monotonic() < give_up:
            time.sleep(0.2)
        assert get(status) == 403, log.read_text()
        assert get(f"{status}?token=") == 403
        assert get(f"{status}?token=guess") == 403
        token = re.search(r"token=([0-9a-f]{32,})", log.read_text())[1]
        assert get(f"{status}?token={token}") == 200
        for file in shows:
            assert get(f"http://127.0.0.1:{port}/api/contents/{file}?token={token}") == 200
        assert get(f"http://127.0.0.2:{port}/api/status") is None, "listens on 127.0.0.1 alone"
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    assert get(status) is None
