"""The view of a ring: it tells what the ring did, stays text, asks for nothing, and answers to the keyboard in a browser."""
import base64
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

import minattn as ma
from minattn.plot.ring import COLOURS, lasting
from minattn.plot.style import luminance
from minattn.ring import shares

SCHEDULES = "contiguous", "striped", "zigzag"


def recorded(p, N, causal=True, schedules=SCHEDULES):
    q, k, v = np.random.default_rng(N).standard_normal((3, 2, N, 4))
    return {name: ma.ring_attention(q, k, v, ranks=p, causal=causal, schedule=name, return_hops=True)[1] for name in schedules}


def stored(text):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.parametrize(("p", "N"), [(1, 1), (3, 17), (4, 16), (8, 40)])
def test_it_tells_what_the_ring_did(p, N):
    runs = recorded(p, N)
    data = stored(ma.plot.ring(runs, mask=ma.masks.causal()))
    see = np.tril(np.ones((N, N), bool))
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(data["hidden"]), np.uint8).reshape(N, N), ~see)
    for name, hops in runs.items():
        shown, total = data["schedules"][name], np.zeros((N, N), int)
        owner = np.array(shown["owner"])
        for rank, mine in enumerate(shares(N, p, name)):
            np.testing.assert_array_equal(np.flatnonzero(owner == rank), np.sort(np.concatenate(mine)))
        for turn, told in zip(hops, shown["turns"], strict=True):
            for one, each in zip(turn, told, strict=True):
                assert (each["source"], each["received"]) == (one.source, one.received)
                met = np.outer(owner == one.rank, owner == one.source) & see
                assert each["seen"] == met.sum()
                assert bool(each["seen"]) == bool(one.computed)
                total += met
        np.testing.assert_array_equal(total, see)                     # every pair once, at one hop
        assert lasting(shown)[0] == see.sum()


def test_zigzag_is_even_and_contiguous_waits():
    data = stored(ma.plot.ring(recorded(4, 64), mask=ma.masks.causal()))
    spent = {name: lasting(shown) for name, shown in data["schedules"].items()}
    assert spent["zigzag"][0] == 4 * spent["zigzag"][1]               # nobody waits
    assert spent["contiguous"][1] > spent["striped"][1] > spent["zigzag"][1]


def test_without_a_mask_all_pairs_are_done():
    data = stored(ma.plot.ring(recorded(3, 12, causal=False)))
    assert all(lasting(shown) == (144, 48) for shown in data["schedules"].values())


def test_it_stands_alone_and_has_a_picture_without_scripts():
    text = ma.plot.ring(recorded(3, 12), mask=ma.masks.causal())
    assert not re.search(r"https?:|url\(|@import|\bfetch\(|XMLHttpRequest|WebSocket|import\(|\bid=|{{", text)
    assert text._repr_html_() == str(text)
    assert "HTML" in repr(text)
    assert len(repr(text)) < 60
    png = base64.b64decode(re.search(r'<img class="still" src="data:image/png;base64,([^"]+)" alt="[^"]*zigzag', text)[1])
    assert png.startswith(b"\x89PNG")
    assert str(ma.plot.ring(recorded(3, 12), mask=ma.masks.causal())) == str(text)      # the same bytes each time
    inputs = re.findall(r"<(?:input|button)\b[^>]*>", text.partition("<script")[0])
    assert inputs
    assert all('data-lm-suppress-shortcuts="true"' in each for each in inputs)


def test_black_reads_on_every_colour():
    for colour in COLOURS:
        assert (luminance(colour) + 0.05) / 0.05 >= 4.5


@pytest.mark.parametrize(("runs", "options", "words"), [
    ({}, {}, "runs holds no hops"), ([], {}, "runs holds no hops"), ({"zigzag": []}, {}, "runs holds no hops"),
    ({"round": recorded(2, 4)["zigzag"]}, {}, "a schedule 'round'"),
    ({"zigzag": recorded(2, 4)["zigzag"], "striped": recorded(2, 5)["striped"]}, {}, r"\(2, 4\), \(2, 5\)"),
    (recorded(2, 4), {"hop": 2}, "hops 0..1"), (recorded(2, 4, schedules=["striped"]), {"schedule": "zigzag"}, "'striped'"),
    (recorded(2, 4), {"mask": np.ones((3, 3), bool)}, r"mask has shape \(3, 3\)"), (recorded(9, 18), {}, "9 ranks"),
    ({"zigzag": 3}, {}, "runs holds no hops"), ({"zigzag": [[]]}, {}, "runs holds no hops"),
    ({"zigzag": recorded(2, 4)["zigzag"][:1]}, {}, "runs holds no hops"),
    ({"zigzag": recorded(2, 4)["zigzag"][::-1]}, {}, "runs holds no hops"), ({"zigzag": [[1]]}, {}, "runs holds no hops"),
    (recorded(2, 0), {}, "0 tokens"), (recorded(2, 4), {"hop": 0.5}, "hop=0.5"), (recorded(2, 4), {"hop": None}, "hop=None"),
    (recorded(2, 4), {"schedule": ["zigzag"]}, r"schedule=\['zigzag'\]"),
])  # fmt: skip
def test_errors_name_what_is_wrong(runs, options, words):
    with pytest.raises(ma.errors.PlotError, match=words):
        ma.plot.ring(runs, **options)


@pytest.mark.slow
def test_a_browser_steps_through_it(tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    drive = """<script>
      const view = document.querySelector("[data-minattn-ring]"), said = [];
      const slider = view.querySelector("input"), says = () => said.push(view.querySelector(".says").textContent);
      says(); slider.value = 2; slider.dispatchEvent(new Event("input")); says();
      view.querySelectorAll("button")[2].click(); says();
      document.title = said.join("|") + "|" + view.querySelector(".still").style.display;
      document.body.replaceChildren(document.title);
    </script>"""
    path = tmp_path / "view.html"
    text = ma.plot.ring(recorded(4, 64), mask=ma.masks.causal())
    path.write_text(f"<!doctype html><meta charset='utf-8'><body>{text}{drive}</body>", encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
               f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "Hop 0: nobody waits." in said
    assert "Hop 2: 2 of 4 ranks wait, 50% of the hop is idle. So far 648 units of time, idle 30%." in said
    assert "Hop 2: nobody waits. So far 392 units of time, idle 0%.|none" in said
