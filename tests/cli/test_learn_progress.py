"""`minattn learn --map | --forget`: which exercises have passed, shown and erased."""
import pytest

from minattn.cli import learn, main, overview
from minattn.practice import check, progress


def test_the_map_shows_what_has_passed_and_starts_nothing(work, capsys, monkeypatch):
    monkeypatch.setattr(learn, "serve", None)
    assert main(["learn", "--map"]) == 0
    shown = capsys.readouterr().out
    assert "01  One query" in shown
    assert "23 min   0 of 2" in shown
    assert "[ ] softmax   [ ] merge" in shown
    progress._save({"01": {"merge"}, "09": {"softmax"}})
    assert main(["learn", "--map"]) == 0
    shown = capsys.readouterr().out
    assert "23 min   1 of 2" in shown
    assert "[ ] softmax   [x] merge" in shown
    assert f"1 of 2 exercises have passed here: {progress.file()}" in shown
    assert list(work.iterdir()) == []


def test_learn_itself_shows_the_counts_alone(work, capsys):
    assert main(["learn"]) == 0
    shown = capsys.readouterr().out
    assert "23 min   0 of 2" in shown
    assert "softmax" not in shown


def test_forget_erases_and_says_so(work, capsys):
    assert main(["learn", "--forget"]) == 0
    assert "There was no progress to erase" in capsys.readouterr().out
    progress._save({"01": {"merge"}})
    assert main(["learn", "--forget"]) == 0
    assert f"Erased {progress.file()}" in capsys.readouterr().out
    assert not progress.file().exists()


def test_a_damaged_lesson_or_progress_hides_no_other(work, capsys):
    progress.file().write_text("nothing")
    (learn.PACKAGE / "_lessons" / "00_zero.ipynb").write_text("{")
    assert main(["learn", "--map"]) == 0
    shown = capsys.readouterr().out
    assert "00_zero.ipynb is no notebook" in shown
    assert "23 min   0 of 2" in shown
    assert "Your progress cannot be read" in shown
    assert "minattn learn --forget" in shown


def test_a_notebook_kept_aside_is_no_lesson(work, two):
    for name in ("01_one.kept-1.ipynb", "1_one.ipynb", "notes.ipynb", "02_two.py"):
        (learn.PACKAGE / "_lessons" / name).write_text("")
    assert list(overview.lessons(learn.PACKAGE / "_lessons")) == ["01"]


@pytest.mark.slow
def test_a_check_in_a_kernel_is_kept_and_one_in_a_build_is_not(work, need, monkeypatch, two):
    """A real kernel, as JupyterLab starts one."""
    need("ipykernel")
    nbformat, nbclient = need("nbformat"), need("nbclient")

    def run():
        source = nbformat.reads(two.lesson(softmax=two.filled("softmax")), as_version=4)
        nbclient.NotebookClient(source, timeout=120, kernel_name="python3").execute()

    path = progress.file()
    monkeypatch.setenv("MINATTN_PROGRESS", "off")
    run()
    assert not path.exists()
    monkeypatch.setenv("MINATTN_PROGRESS", str(path))
    run()
    assert progress.load() == {check.softmax.lesson: {"softmax"}}
