"""The lessons: notebook and source agree, read well as committed, and every cell runs from a clean kernel."""
import itertools
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

LESSONS = Path(__file__).resolve().parents[1] / "lessons"
sys.path.insert(0, str(LESSONS))                                      # as in a lesson's kernel, which works there

import build  # noqa: E402
import course  # noqa: E402
from recipes import LONG, RECIPES  # noqa: E402

MAX_LINES = 25

SOURCES = build.sources()
every_lesson = pytest.mark.parametrize("source", SOURCES, ids=[source.stem for source in SOURCES])


def committed(source):
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def code_cells(source):
    return [cell for cell in committed(source).cells if cell.cell_type == "code"]


def prose(source):
    return "\n\n".join(cell.source for cell in committed(source).cells if cell.cell_type == "markdown")


def test_the_course_is_whole():
    assert [source.stem[:2] for source in SOURCES] == [f"{n:02}" for n in range(24)]
    assert {path.stem for path in LESSONS.glob("*.ipynb")} == {source.stem for source in SOURCES}


@every_lesson
def test_notebook_is_its_source(source):
    assert build.differences(source) == []


@every_lesson
def test_every_code_cell_ran_in_order_and_none_failed(source):
    cells = [cell for cell in code_cells(source) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


@every_lesson
def test_outputs_are_those_of_the_real_model(source):
    """What is committed shows SmolLM2 itself, not the stored maps that stand in for it."""
    shown = [output.get("text", "") for cell in code_cells(source) for output in cell.outputs]
    assert "MINATTN_STORED_MAPS" not in "".join(shown)


@every_lesson
def test_head_says_what_to_expect(source):
    head = committed(source).cells[0]
    assert head.cell_type == "markdown"
    assert re.match(rf"# {source.stem[:2]}\b.*\w", head.source), "the first line is '# NN title'"
    assert re.search(r"\b\d+ minutes\b", head.source), "says how many minutes"
    assert re.search(r"(?i)\bdifficulty\b", head.source), "says how difficult it is"
    assert re.search(r"(?i)you will be able to", head.source), "says what you will be able to do"
    assert "read before" in head.source, "says what to read before"
    assert "[glossary](glossary.md)" in head.source, "leads to the letters and terms"
    assert "](which_when.md)" in prose(source), "leads to the map of mechanisms"


@every_lesson
def test_code_cells_are_short(source):
    longest = max((len(cell.source.splitlines()) for cell in code_cells(source)), default=0)
    assert longest <= MAX_LINES


@every_lesson
def test_links_and_pictures_exist(source):
    text = prose(source)
    found = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"""(?:src|href)=["']([^"']+)""", text)
    local = [link.split("#")[0] for link in found if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in local if not (LESSONS / link).exists()] == []


@pytest.mark.parametrize(("source", "following"), [*itertools.pairwise(SOURCES)], ids=[s.stem for s in SOURCES[:-1]])
def test_every_lesson_leads_to_the_next(source, following):
    assert f"]({following.stem}.ipynb)" in committed(source).cells[-1].source


@every_lesson
def test_answers_fold(source):
    """Every <details> closes, and blank lines inside make its Markdown render."""
    text = prose(source)
    assert text.count("<details") == text.count("</details>")
    assert not re.search(r"</summary>\n(?!\n)", text)
    assert not re.search(r"[^\n]\n</details>", text)


@pytest.fixture(scope="module")
def runs(request):
    """{(lesson, weights): the seconds that it took}, as futures: two kernels work ahead of the tests that ask for them."""
    pytest.importorskip("nbclient")
    build.compile_kernels()                                           # once, before two want it at the same time

    def run(source, weights):
        start = time.perf_counter()
        build.execute(build.read(source), stored=weights == "stored")
        return time.perf_counter() - start

    asked = [item.callspec.params for item in request.session.items
             if item.path == request.path and "runs" in getattr(item, "fixturenames", ())]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(max_workers=2) as kernels:
        patch.delenv("MINATTN_STORED_MAPS", raising=False)
        yield {(p["source"], p["weights"]): kernels.submit(run, p["source"], p["weights"]) for p in asked}
        kernels.shutdown(cancel_futures=True)                         # a session that stops early waits for two at most


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["real", "stored"])
@every_lesson
def test_every_cell_runs_from_a_clean_kernel(source, weights, runs, request, capsys):
    if weights == "real":
        request.getfixturevalue("need_weights")()
    seconds = runs[source, weights].result()
    with capsys.disabled():
        print(f"\n{source.stem}, {weights} weights: {seconds:.1f} s", end=" ")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_stored_maps_are_what_the_model_gives(name, need_weights):
    live = RECIPES[name](need_weights())
    with np.load(course.MAPS / f"{name}.npz", allow_pickle=False) as stored:
        assert set(stored) == set(live)
        for key, value in live.items():
            agree(stored[key], value, key)


def agree(stored, value, key):
    value = np.asarray(value)
    if value.dtype.kind == "f":
        assert np.abs(stored.astype(np.float64) - value).max() <= 1e-3 * np.abs(value).max(), key
    else:
        np.testing.assert_array_equal(stored, value)


@pytest.mark.slow
def test_the_long_text_begins_as_the_model_gives(need_weights):
    """All of it would take many minutes: here the part in which both windows fill up and let their first 64 keys go."""
    with np.load(course.MAPS / "long_text.npz", allow_pickle=False) as file:
        stored = dict(file)
    live = LONG["long_text"](need_weights(), stored["ids"][:320].astype(np.int64))
    assert set(stored) == set(live)
    for key in ("names", "window", "first"):
        agree(stored[key], live[key], key)
    agree(stored["ids"][:320], live["ids"], "ids")
    agree(stored["losses"][:, :319], live["losses"], "losses")
    assert stored["losses"].shape == (3, stored["ids"].size - 1)
    assert np.isfinite(stored["losses"]).all()


def test_every_recipe_has_its_stored_maps_and_they_are_small():
    assert {path.stem for path in course.MAPS.glob("*")} == set(RECIPES | LONG)
    assert [path.name for path in course.MAPS.glob("*") if path.stat().st_size > 300_000] == []


# --- the course's small numbers -----------------------------------------------------------------------------------


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_small_numbers_have_two_decimals_and_none_is_another_zero_or_one():
    for arrays in ([course.X, course.W_Q, course.W_K, course.W_V, course.W_O], [course.CONTEXT]):
        sizes = np.abs(np.concatenate([array.ravel() for array in arrays]))
        np.testing.assert_allclose(sizes * 100, np.round(sizes * 100), rtol=1e-12)
        assert len(set(sizes)) == sizes.size
        assert not set(sizes) & {0.0, 1.0}


@pytest.mark.parametrize("causal", [False, True])
def test_sat_looks_most_at_cat(causal):
    scores = (course.X @ course.W_Q) @ (course.X @ course.W_K).T / 2
    if causal:
        scores = np.where(np.tril(np.ones((4, 4), bool)), scores, -np.inf)
    sat = softmax(scores)[course.TOKENS.index("sat")]
    assert sat.argmax() == course.TOKENS.index("cat")
    assert 0.5 < sat.max() < 0.7                                      # clearly, and yet not all


def test_the_two_heads_disagree_about_sat():
    q, k = course.X @ course.W_Q, course.X @ course.W_K
    looks = [softmax(q[2, half] @ k[:, half].T / np.sqrt(2)).argmax() for half in (slice(0, 2), slice(2, 4))]
    assert [course.TOKENS[key] for key in looks] == ["cat", "sat"]


def test_cross_attention_finds_the_german_word():
    scores = (course.X @ course.W_Q) @ (course.CONTEXT @ course.W_K).T / 2
    assert [course.CONTEXT_TOKENS[key] for key in scores.argmax(-1)] == ["die", "Katze", "setzte", "hin"]


# --- the builder itself -------------------------------------------------------------------------------------------


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """`build_one(text)` builds a lesson of that source in a folder of its own; returns (exit code, notebook path)."""
    pytest.importorskip("nbclient")
    monkeypatch.setattr(build, "HERE", tmp_path)

    def build_one(text):
        (tmp_path / "41_try.py").write_text(text)
        return build.main(["41"]), tmp_path / "41_try.ipynb"

    return build_one


PLAIN = "# %% [markdown]\n# # 41 A try\n\n# %%\nimport numpy as np\n\n# %%\nprint(np.arange(3))\n\n# %%\n{2, 3, 5}\n"


@pytest.mark.slow
def test_rebuilding_changes_no_byte(lesson):
    code, notebook = lesson(PLAIN)
    assert code == 0
    first = notebook.read_bytes()
    assert b"[0 1 2]" in first
    assert lesson(PLAIN)[0] == 0
    assert notebook.read_bytes() == first


@pytest.mark.slow
@pytest.mark.parametrize(("last", "shown"), [
    ("1 / 0", "ZeroDivisionError"),
    ("import warnings\nwarnings.warn('look')", "writes to stderr"),
    ("object()", "memory address"),
    ("import os\nos._exit(3)", "cell 4 failed"),
])
def test_a_bad_cell_fails_the_build_and_keeps_the_old_notebook(lesson, capsys, last, shown):
    _, notebook = lesson(PLAIN)
    before = notebook.read_bytes()
    code, _ = lesson(f"{PLAIN}\n# %%\n{last}\n")
    assert code == 1
    assert shown in capsys.readouterr().err
    assert notebook.read_bytes() == before
    assert {path.name for path in notebook.parent.iterdir()} == {"41_try.py", "41_try.ipynb"}


def test_check_names_the_lesson_and_the_cell(tmp_path, monkeypatch, capsys):
    pytest.importorskip("jupytext")
    monkeypatch.setattr(build, "HERE", tmp_path)
    source = tmp_path / "41_try.py"
    source.write_text(PLAIN)
    assert build.main(["--check"]) == 1
    assert "41_try: there is no notebook" in capsys.readouterr().out
    build.write(build.read(source), source.with_suffix(".ipynb"))
    assert build.main(["--check"]) == 0
    source.write_text(PLAIN.replace("arange(3)", "arange(4)"))
    assert build.main(["--check"]) == 1
    assert "41_try: cell 2 differs" in capsys.readouterr().out
    assert build.main(["--check", "07"]) == 1
    assert "no lesson '07'; there are 41_try" in capsys.readouterr().err
