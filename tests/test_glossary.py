"""The glossary says what the docstrings say, and the map 'which mechanism when' speaks of what stands."""
import re
import sys
from pathlib import Path

import pytest

import minattn as ma

LESSONS = Path(__file__).resolve().parents[1] / "lessons"
sys.path.insert(0, str(LESSONS))

import glossary  # noqa: E402

WHICH = (LESSONS / "which_when.md").read_text(encoding="utf-8")


def test_the_glossary_is_fresh():
    committed = (LESSONS / "glossary.md").read_text(encoding="utf-8")
    assert committed == glossary.text(), "a docstring has changed: python lessons/glossary.py"


def test_every_axis_of_the_project_has_its_meaning():
    meanings = {symbol: found[0][0] for symbol, found in glossary.letters_of()}
    assert list(meanings)[:8] == ["B", "H", "G", "N", "S", "D", "Dv", "E"]
    assert meanings["G"] == "KV heads"
    assert meanings["N"] == "query length"
    assert meanings["top"].startswith("largest score of a row")
    assert not [meaning for meaning in meanings.values() if not re.search("[a-z]{2}", meaning)]


@pytest.mark.parametrize(("line", "found"), [
    ("    B batch   H query heads   G KV heads", [("B", "batch"), ("H", "query heads"), ("G", "KV heads")]),
    ("    q (B, H, N, D)   queries        scores   q k^T                      (B, H, N, S)", [("q", "queries, (B, H, N, D)")]),
    ("    x   (..., N, E)   the tokens that ask     w_q  (E, H * D)", [("x", "the tokens that ask, (..., N, E)")]),
    ("    E  dim    width of a token's row     L  layers", [("E", "width of a token's row, `dim` in the code"), ("L", "layers")]),
    ("    acc   <- fade * acc   + exp(tile - top) @ values        lse = top + log total", []),
    ("A sentence of prose about B and H, with no columns.", []),
])
def test_what_is_read_from_a_line(line, found):
    assert glossary.pairs(line) == found


def test_public_names_and_options_are_all_there():
    names = {name for name, _, _ in glossary.names_of()}
    assert set(ma.__all__) <= names
    assert {"masks.window", "positions.alibi_slopes", "errors.ShapeError", "plot.heatmap", "models.load"} <= names
    assert all(meaning for _, meaning, _ in glossary.names_of())
    assert {"mask", "sink_logits", "return_weights, return_lse"} <= {name for name, _, _ in glossary.options_of(ma.attention)}


@pytest.mark.parametrize("page", ["glossary.md", "which_when.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)]+)\)", (LESSONS / page).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (LESSONS / link).exists()] == []


def test_which_when_names_what_there_is():
    code = " ".join(re.findall(r"`([^`]+)`", WHICH))
    for path in re.findall(r"\bma\.([\w.]+)", code):
        thing = ma
        for name in path.split("."):
            thing = getattr(thing, name)
    options = {word for names, _, _ in glossary.options_of(ma.attention) for word in names.split(", ")}
    layer = {"layout", "rope", "state", "return_state"}               # of rope, streaming_attention, linear_attention
    cache = {"first", "window", "bits"}                               # of RollingCache, new_cache, QuantizedCache
    update = {"log_decay", "erase", "beta"}                           # of recurrence, delta_rule
    sparse = {"stride", "keep", "seed"}                               # of strided_attention, topk_attention, masks.bigbird
    memories = {"segment", "memory", "memory_length", "rate", "gate"} # of transformer_xl_attention and its neighbours
    ring = {"ranks", "schedule", "width"}                             # of ring_attention, ring.cost.cost
    known = options | layer | cache | update | sparse | memories | ring
    assert set(re.findall(r"\b(\w+)=(?!=)", code)) <= known
    assert {len(re.split(r"(?<!\\)\|", row)) for row in WHICH.splitlines() if row.startswith("|")} == {6}     # four cells
