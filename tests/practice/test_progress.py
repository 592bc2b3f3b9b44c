"""Progress: kept where it should be, by a notebook's kernel alone, whole or not at all, and never in the way."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

from minattn.core.errors import LessonError
from minattn.practice import check, progress


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The path of a progress file that is not there yet; this process counts as a kernel."""
    path = tmp_path / "a" / "b" / "progress.json"
    monkeypatch.setenv("MINATTN_PROGRESS", str(path))
    monkeypatch.setattr(progress, "in_a_kernel", lambda: True)
    progress._recorded.clear()
    return path


def right(name):
    return check.all()[name].reference


def test_a_pass_is_kept_once_and_nothing_else_is(kept, monkeypatch):
    lesson = check.softmax.lesson
    check.softmax(lambda scores: None)
    check.softmax(lambda scores: scores)
    assert not kept.exists()
    assert check.softmax(right("softmax"))
    assert json.loads(kept.read_text()) == {"passed": {lesson: ["softmax"]}}
    assert progress.load() == {lesson: {"softmax"}}
    monkeypatch.setattr(progress, "_save", None)                     # a second pass writes no more, and another process neither
    assert check.softmax(right("softmax"))
    progress._recorded.clear()
    assert check.softmax(right("softmax"))


def test_what_others_kept_stays(kept):
    kept.parent.mkdir(parents=True)
    kept.write_text('{"passed": {"77": ["b", "a"]}}')
    check.softmax(right("softmax"))
    assert progress.load() == {"77": {"a", "b"}, check.softmax.lesson: {"softmax"}}
    assert list(kept.parent.iterdir()) == [kept]


def test_outside_of_a_kernel_nothing_is_kept(kept, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("MINATTN_PROGRESS", str(kept))
    assert check.softmax(right("softmax"))
    assert not kept.exists()


def test_off_keeps_none(kept, monkeypatch):
    monkeypatch.setenv("MINATTN_PROGRESS", "off")
    assert check.softmax(right("softmax"))
    assert progress.file() is None
    assert progress.load() == {}
    assert progress.forget() is None


@pytest.mark.parametrize("text", ["", "[]", '{"passed": [1]}', '{"passed": {"01": 3}}', "{}", "\xff"])
def test_another_file_is_refused_and_left_alone_and_no_check_fails_for_it(kept, text):
    kept.parent.mkdir(parents=True)
    kept.write_text(text, encoding="latin-1")
    assert check.softmax(right("softmax"))
    assert kept.read_text(encoding="latin-1") == text
    with pytest.raises(LessonError, match="minattn learn --forget"):
        progress.load()


def test_a_full_disk_is_no_mistake_of_an_answer(kept, monkeypatch):
    def full(source, target):
        raise OSError("no space left")

    monkeypatch.setattr("minattn.core.whole.os.replace", full)
    assert check.softmax(right("softmax"))
    assert list(kept.parent.iterdir()) == []


def test_forget_erases(kept):
    assert progress.forget() is None
    check.softmax(right("softmax"))
    assert progress.forget() == kept
    assert not kept.exists()
    assert check.softmax(right("softmax"))
    assert kept.exists()


def test_the_place_is_the_systems_own_for_data(monkeypatch, tmp_path):
    for name in ("MINATTN_PROGRESS", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    places = {"linux": ".local/share", "darwin": "Library/Application Support", "win32": "AppData/Local"}
    for system, place in places.items():
        monkeypatch.setattr(progress.sys, "platform", system)
        assert progress.file() == tmp_path / place / "minattn" / "progress.json"
    monkeypatch.setattr(progress.sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "x"))
    assert progress.file() == tmp_path / "x" / "minattn" / "progress.json"
    monkeypatch.setenv("MINATTN_PROGRESS", "~/p.json")
    assert progress.file() == Path(tmp_path, "p.json")


def test_importing_writes_nothing(tmp_path):
    code = "from minattn.practice import check; check.softmax(lambda scores: None)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"HOME": str(tmp_path)}, timeout=120)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ['{"passed": {"01": "softmax"}}', '{"passed": ' + "[" * 100_000])
def test_letters_are_no_names_and_no_depth_is_too_deep(kept, text):
    kept.parent.mkdir(parents=True)
    kept.write_text(text)
    with pytest.raises(LessonError, match="minattn learn --forget"):
        progress.load()
    assert check.softmax(right("softmax"))
    assert kept.read_text() == text


def test_a_folder_in_its_place_is_said_and_a_file_in_the_folders_place_is_no_progress(kept):
    kept.mkdir(parents=True)
    assert check.softmax(right("softmax"))
    for refused in (progress.load, progress.forget):
        with pytest.raises(LessonError, match=r"progress\.json"):
            refused()
    kept.rmdir()
    kept.parent.rmdir()
    kept.parent.write_text("")
    assert check.softmax(right("softmax"))
    assert progress.load() == {}
    assert progress.forget() is None


def test_a_name_that_no_file_can_have_is_one_error(monkeypatch, tmp_path):
    monkeypatch.setenv("MINATTN_PROGRESS", str(tmp_path / ("x" * 300)))
    for refused in (progress.load, progress.forget):
        with pytest.raises(LessonError):
            refused()


def test_a_user_without_a_home_keeps_none_and_gets_no_folder_of_that_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("MINATTN_PROGRESS", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(progress.os.path, "expanduser", lambda path: path)        # what it does without HOME and passwd entry
    monkeypatch.setattr(progress, "in_a_kernel", lambda: True)
    progress._recorded.clear()
    assert progress.file() is None
    assert check.softmax(right("softmax"))
    assert list(tmp_path.iterdir()) == []


def test_processes_that_pass_at_once_are_all_kept(kept):
    code = ("import sys; from types import SimpleNamespace; from minattn.practice import progress, Result; "
            "progress.in_a_kernel = lambda: True; sys.stdin.buffer.read(1); "
            "[progress.record(Result(f'{sys.argv[1]}-{n}', 'pass', ''), '01') for n in range(40)]")
    several = [subprocess.Popen([sys.executable, "-c", code, str(n)], stdin=subprocess.PIPE) for n in range(3)]
    for one in several:
        one.stdin.write(b"x")
        one.stdin.close()
    assert [one.wait(timeout=60) for one in several] == [0, 0, 0]
    assert len(progress.load()["01"]) == 120
    assert list(kept.parent.iterdir()) == [kept]


def test_a_lock_left_behind_holds_nobody_up_for_long(kept, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    kept.parent.mkdir(parents=True)
    kept.with_name("progress.json.lock").touch()
    assert check.softmax(right("softmax"))
    assert progress.load() == {check.softmax.lesson: {"softmax"}}
    assert list(kept.parent.iterdir()) == [kept]
