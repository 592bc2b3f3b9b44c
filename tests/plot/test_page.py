"""The page: one file that holds the weights, and tokens that stay text."""
import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

import minattn as ma
from minattn.plot.style import luminance

PlotError = ma.errors.PlotError
NASTY = ["</script><b>bold</b>", "<!--<script>", "&amp;", "{{js}}", "\n", "  ", '"', "\u2028"]


class Reader(HTMLParser):
    """Collects the elements, the text of each script, and the addresses that a page would ask for."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.addresses, self.cells, self._in = [], [], [], [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        self._in = tag
        if tag == "script":
            self.scripts.append("")
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1] += data
        if self._in == "td":
            self.cells[-1] += data


def maps(layers, H, N, S, causal=False):
    rng = np.random.default_rng(N * S)
    return ma.attention_weights(rng.standard_normal((layers, H, N, 4)), rng.standard_normal((layers, H, S, 4)), causal=causal)


def stored(text):
    return json.loads(Reader(text).scripts[0])


@pytest.mark.parametrize(("layers", "H", "N", "S"), [(1, 1, 1, 1), (3, 2, 5, 7), (2, 3, 17, 9)])
def test_weights_survive_the_trip(layers, H, N, S):
    weights = maps(layers, H, N, S)
    data = stored(ma.plot.page(weights, [f"q{n}" for n in range(N)], key_tokens=[f"k{s}" for s in range(S)], title="t"))
    back = np.frombuffer(base64.b64decode(data["weights"]), np.uint8).reshape(layers, H, N, S) / 255
    assert np.abs(back - weights).max() <= 0.5 / 255 + 1e-12
    assert (data["layers"], data["heads"], len(data["queries"]), len(data["keys"])) == (layers, H, N, S)
    assert not any(base64.b64decode(data["hidden"]))


def test_the_mask_travels_too():
    data = stored(ma.plot.page(maps(2, 2, 4, 6, causal=True), list("abcd"), key_tokens=list("uvwxyz"), title="t",
                               mask=ma.masks.causal()))
    hidden = np.frombuffer(base64.b64decode(data["hidden"]), np.uint8).reshape(4, 6).astype(bool)
    np.testing.assert_array_equal(~hidden, ma.masks.causal().dense(4, 6))


def test_tokens_are_never_markup():
    plain = Reader(ma.plot.page(maps(2, 2, 8, 8), list("abcdefgh"), title="t"))
    text = ma.plot.page(maps(2, 2, 8, 8), NASTY, title="<b>t</b> {{data}} </title>", note="<i>n</i>")
    nasty = Reader(text)
    assert nasty.elements == plain.elements                           # not one element more
    assert len(nasty.scripts) == 2
    assert nasty.scripts[1] == plain.scripts[1]                       # and the program is the same
    data = stored(text)
    assert data["queries"][:4] == NASTY[:4]
    assert data["queries"][4:] == [r"\n", "␣␣", '"', r"\u2028"]
    assert "<" not in nasty.scripts[0]
    assert nasty.cells[0] == NASTY[0]                                 # readers without scripts see the same text


def test_the_table_for_readers_without_scripts_names_the_strongest_keys():
    weights = maps(3, 2, 5, 7)
    weights[2, 1, 3] = 0                                              # a query that may look at nothing
    reader = Reader(ma.plot.page(weights, list("abcde"), key_tokens=list("tuvwxyz"), title="t", selected=(2, 1)))
    want = [("abcde"[n], "tuvwxyz"[row.argmax()] if row.any() else "(nothing)", f"{row.max():.2f}")
            for n, row in enumerate(weights[2, 1])]
    assert np.reshape(reader.cells, (5, 3)).tolist() == [list(row) for row in want]


def test_nothing_is_fetched():
    text = ma.plot.page(maps(1, 2, 3, 3), list("abc"), title="t")
    assert not Reader(text).addresses
    assert not re.search(r"https?:|url\(|@import|\bfetch\(|XMLHttpRequest|WebSocket|import\(", text)
    assert "default-src 'none'" in text                               # and the browser is told to refuse it


def test_no_place_of_the_template_is_left_open():
    text = ma.plot.page(maps(1, 2, 3, 3), list("abc"), title="t")
    assert "{{" not in text
    assert len(re.findall("<title>t</title>", text)) == 1


def test_a_title_may_be_any_object():
    assert "<title>17</title>" in ma.plot.page(maps(1, 2, 3, 3), list("abc"), title=17)


def test_every_colour_has_contrast():
    css = ma.plot.page(maps(1, 1, 2, 2), list("ab"), title="t").split("<style>")[1].split("</style>")[0]
    themes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css)]
    assert len(themes) == 2                                           # light, dark
    for look in themes:
        paper = luminance(look["paper"])
        for name, least in (("ink", 7), ("quiet", 4.5), ("focus", 4.5), ("line", 3), ("accent", 3)):
            low, high = sorted((paper, luminance(look[name])))
            assert (high + 0.05) / (low + 0.05) >= least, name
        low, high = sorted((luminance(look["hidden"]), luminance(look["ink"])))
        assert (high + 0.05) / (low + 0.05) >= 4.5


@pytest.mark.parametrize(("options", "words"), [
    ({"weights": -0.1 * np.ones((1, 2, 2))}, "run from -0.1 to -0.1"),
    ({"weights": np.full((1, 2, 2), np.nan)}, r"weights\[0, 0, 0\] is nan"),
    ({"weights": np.ones((2, 2))}, r"one map for each \(H, N, S\)"),
    ({"tokens": list("abc")}, "tokens has 3 labels but the map has N = 2"),
    ({"tokens": None}, "tokens is missing"),
    ({"weights": np.ones((1, 2, 3)) / 3}, "key_tokens is missing"),
    ({"selected": (0, 1)}, r"1 is not in 0..0 of H"),
    ({"query": 2}, "2 is not in 0..1 of N"),
    ({"weights": np.broadcast_to(np.float16(0), (2, 30000, 30000))}, "1,800,000,000 numbers"),
])  # fmt: skip
def test_errors_name_what_is_wrong(options, words):
    with pytest.raises(PlotError, match=words):
        ma.plot.page(**{"weights": np.full((1, 2, 2), 0.5), "tokens": list("ab"), "title": "t", **options})


@pytest.mark.slow
def test_a_browser_runs_it(tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine; the page is only read here, not run")
    weights = maps(3, 4, 8, 8, causal=True)
    path = tmp_path / "page.html"
    path.write_text(ma.plot.page(weights, NASTY, title="t", mask=ma.masks.causal(), selected=(2, 1), query=5), encoding="utf-8")
    run = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                          f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=2000", "--dump-dom", path.as_uri()],
                         capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
    done = run.stdout
    assert done.count('role="radio"') == 3 * 4 + 8                    # heads, and the tokens as queries
    assert "<b>" not in done
    best = weights[2, 1, 5].argmax()
    said = re.search(r'id="readout"[^>]*>(.*?)</p>', done)[1]
    assert said.startswith("“␣␣” (5) looks at")
    assert said.endswith(f"({best}) with {np.rint(weights[2, 1, 5, best] * 255) / 255:.2f}")
