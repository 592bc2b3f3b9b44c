"""The reading form: what the notebooks show is on the pages, every link leads somewhere, and nothing is fetched."""
import base64
import itertools
import json
import posixpath
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

LESSONS = Path(__file__).resolve().parents[1] / "lessons"
sys.path.insert(0, str(LESSONS))

import pages  # noqa: E402
from reading import mathml  # noqa: E402
from reading.render import PageError  # noqa: E402

for module in pages.NEEDS:
    pytest.importorskip(module, reason=f"{module} is not installed (pip install 'minattn[pages]')")

FETCHED = {"src", "href", "srcset", "data", "poster", "action"}
VOID = {"meta", "link", "img", "br", "hr", "input", "col", "wbr"}
BLOCKS = {"p", "div", "details", "section", "ul", "ol", "pre", "table", "blockquote", "h1", "h2", "h3", "h4", "nav"}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x07\0\0\0\x05\x08\0\0\0\0").decode()  # the header of one of 7 x 5
HEAD = "# 41 A try\n\n9 minutes · difficulty: easy\n\nYou will be able to\n\n- try\n"


class Reader(HTMLParser):
    """Reads a page: its elements, ids, links, code and words, and in `wrong` which tags do not fit together."""

    def __init__(self, text):
        super().__init__()
        self.wrong, self.stack, self.elements, self.words = [], [], [], ""
        self.code, self.outputs = [], []                              # the text of each <pre>, by the box around it
        self.feed(text)
        self.close()
        self.wrong += [f"<{tag}> never closes" for tag, _ in self.stack]

    def handle_starttag(self, tag, attributes):
        above = {name for name, _ in self.stack}
        if (tag in BLOCKS and "p" in above) or (tag == "a" and "a" in above):
            self.wrong.append(f"<{tag}> where it may not be, line {self.getpos()[0]}")
        self.elements.append((tag, dict(attributes)))
        if tag == "pre":
            (self.code if self.stack[-1][1].get("class") == "code" else self.outputs).append("")
        if tag not in VOID:
            self.stack.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop()[0] != tag:
            self.wrong.append(f"</{tag}> closes what is not open, line {self.getpos()[0]}")

    def handle_data(self, data):
        above = [tag for tag, _ in self.stack]
        if "pre" in above:
            box = self.stack[above.index("pre") - 1][1].get("class")
            (self.code if box == "code" else self.outputs)[-1] += data
        elif not {"code", "script", "style"} & set(above):
            self.words += data

    def all(self, *names, of=None):
        """The attributes of these names, of every element or of those of one tag."""
        return [given[name] for tag, given in self.elements for name in names if name in given and of in (None, tag)]

    @property
    def links(self):
        return self.all("href", of="a")

    @property
    def headings(self):
        return [int(tag[1]) for tag, _ in self.elements if re.fullmatch("h[1-6]", tag)]

    def tags(self, name):
        return [given for tag, given in self.elements if tag == name]


@pytest.fixture(scope="module")
def site():
    return pages.build()


@pytest.fixture(scope="module")
def read(site):
    return {name: Reader(content.decode()) for name, content in site.items() if name.endswith(".html")}


def notebooks():
    return {path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in LESSONS.glob("[0-9][0-9]_*.ipynb")}


# --- the site as it stands ----------------------------------------------------------------------------------------


def test_every_lesson_has_its_page_and_is_linked_from_all_others(read):
    names = sorted(f"{stem}.html" for stem in notebooks())
    assert len(names) >= 10
    for page in (*names, "index.html"):
        assert set(names) <= {posixpath.normpath(link.partition("#")[0]) for link in read[page].links}
    for here, after in itertools.pairwise(names):
        assert {"rel": "next", "href": after} in read[here].tags("a")
        assert {"rel": "prev", "href": here} in read[after].tags("a")


def test_every_link_leads_to_a_page_and_an_anchor_that_are_there(site, read):
    for name, page in read.items():
        for link in page.links:
            if re.match("https?://", link):
                continue
            assert not re.match("[a-z]+:|/", link), f"{name}: {link}"
            target, _, anchor = unquote(link).partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), target)) if target else name
            assert target in site, f"{name}: {link}"
            assert not anchor or anchor in read[target].all("id"), f"{name}: {link}"


def test_source_files_that_lessons_link_to_are_there_whole(site, read):
    for name in ("minattn/core/masks", "minattn/core/reference", "lessons/recipes"):
        shown = read[f"source/{name}.html"].code[-1]
        assert shown.rstrip() == (LESSONS.parent / f"{name}.py").read_text(encoding="utf-8").rstrip()


def test_nothing_is_fetched_from_outside_the_folder(site, read):
    for name, page in read.items():
        for address in (each for tag, given in page.elements for at, each in given.items() if tag != "a" and at in FETCHED):
            there = posixpath.normpath(posixpath.join(posixpath.dirname(name), address))
            assert address.startswith("data:") or there in site, f"{name}: {address}"
    for name in ("style.css", "script.js"):
        text = site[name].decode()
        assert not re.search(r"https?:|url\(|@import|@font-face|\bfetch\(|XMLHttpRequest|WebSocket|import\(|sendBeacon", text)


def test_pages_are_well_formed(site, read):
    for name, page in read.items():
        assert page.wrong == [], name
        assert len(page.all("id")) == len(set(page.all("id"))), name
        assert page.headings.count(1) == 1, name
        assert all(low + 1 >= high for low, high in itertools.pairwise(page.headings)), f"{name}: {page.headings}"
        assert ("html", {"lang": "en"}) in page.elements
        assert site[name].startswith(b"<!doctype html>")
        assert not re.search(r"\$\{?(title|body|up|name|course|contents)\b", site[name].decode().partition("<main")[0])
        assert "viewport" in page.all("name", of="meta")


def test_no_formula_is_left_raw(read):
    for stem, cells in notebooks().items():
        page = read[f"{stem}.html"]
        assert re.findall(r".{0,20}(?:\$|\\[a-zA-Z]).{0,20}", page.words) == [], stem
        text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
        assert len(page.tags("math")) >= text.count("$$") // 2 + text.replace("$$", "").count("$") // 2


def test_code_outputs_and_pictures_are_the_notebooks_own(site, read):
    for stem, cells in notebooks().items():
        page = read[f"{stem}.html"]
        code = [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
        shown = iter(text.rstrip() for text in page.code)
        for cell in code:                                             # in this order, with the code of answers in between
            assert "".join(cell["source"]).rstrip() in shown, stem
        given = [output for cell in code for output in cell["outputs"]]
        printed = ["".join(output["text"]).rstrip() for output in given if output.get("name") == "stdout"]
        shown = iter(page.outputs)
        for text in filter(None, printed):
            assert text in shown, stem
        pictures = [base64.b64decode("".join(output["data"]["image/png"])) for output in given
                    if "image/png" in output.get("data", {}) and "text/html" not in output["data"]]
        images = [image for image in page.tags("img") if not image["src"].startswith("data:")]        # those are a view's own
        assert [site[image["src"]] for image in images] == pictures
        assert all(image["alt"].startswith("Figure of cell") and "\\" not in image["alt"] for image in images)


def test_folds_hold_what_the_notebook_folds(read):
    for stem, cells in notebooks().items():
        text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        folds = len(read[f"{stem}.html"].tags("details"))
        assert folds == text.count("<details") + 2                    # and the two of the side: lessons, contents


def test_the_map_names_minutes_difficulty_and_what_one_can_do(read, site):
    text = site["index.html"].decode()
    assert re.search(r'01 Queries, keys, values</a></h2>\n<p class="quiet">\d+ minutes · easy</p>\n<p>You will be able', text)
    assert text.count("<ul>") == len(notebooks())


def test_two_builds_are_the_same(site):
    assert pages.build() == site


# --- colours ------------------------------------------------------------------------------------------------------


def contrast(one, other):
    """WCAG 2's ratio of two colours such as #1b1b1b."""
    def luminance(colour):
        parts = [int(colour[at:at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_text_has_contrast_on_every_ground_in_both_themes():
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=1e-3)     # the well-known grey that just fails
    css = re.sub(r"/\*.*?\*/", "", (LESSONS / "reading" / "style.css").read_text(encoding="utf-8"), flags=re.DOTALL)
    colours = dict(re.findall(r"--(\w+): light-dark\((#\w{6}, #\w{6})\)", css))
    rest = css.partition("}")[2]
    assert {value.strip() for value in re.findall(r"(?:color|background|fill|stroke): *([^;}]*)", rest)} <= {
        *(f"var(--{name})" for name in (*colours, "picture"))}        # no colour but these is used
    texts = set(re.findall(r"(?<![-\w])color: var\(--(\w+)\)", rest))
    grounds = set(re.findall(r"background: var\(--(\w+)\)", rest)) - {"picture"}
    assert {"ink", "quiet", "link", "keyword", "comment", "string", "number", "name"} == texts
    assert {"paper", "code"} == grounds
    for theme in (0, 1):
        colour = {name: pair.split(", ")[theme] for name, pair in colours.items()}
        for text, ground in itertools.product(texts, grounds):
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground, theme)
        for ground in grounds:
            assert contrast(colour["focus"], colour[ground]) >= 3
            assert contrast(colour["edge"], colour[ground]) >= 3


# --- formulas -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latex", [
    r"\text{softmax}\left(\frac{q k^\top}{\sqrt{D}}\right) v", r"\sum_{s=1}^{S} e^{s_j - m}", r"\lfloor h / (H/G) \rfloor",
    r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}", r"\tfrac1E \big( x \big) \ast \mathrm{silu}", r"x < y", r"\{1, 2\}",
    r"1 - \tanh^2(x / c)", r"\max_j s_j - \log_2 n",
])  # fmt: skip
def test_formulas_become_mathml(latex):
    text = mathml.convert(latex, display=False)
    assert text.startswith("<math")
    assert "\\" not in text
    assert Reader(text).wrong == []


@pytest.mark.parametrize(("latex", "said"), [
    (r"\attention{q}", r"\\attention would show raw"), (r"\text{a \foo}", "would show raw"), (r"\frac{a}", "a fraction"),
    (r"\sqrt{D", "braces do not balance"), (r"D}", "braces do not balance"), (r"\left( a", r"\\left and \\right do not balance"),
    (r"\begin{tikz}a\end{tikz}", "environment tikz"), (r"a & b", "mean nothing outside of a table"), ("x_", "Missing"),
])  # fmt: skip
def test_what_would_show_raw_or_be_lost_is_an_error(latex, said):
    with pytest.raises(mathml.MathError, match=said):
        mathml.convert(latex, display=True)


def test_words_and_functions_are_set_as_such():
    assert "<mi>out</mi>" in mathml.convert(r"\mathrm{out}", display=False)
    assert re.search(r'<mo lspace="0.17em" rspace="0.17em">log</mo><mi>p</mi>', mathml.convert(r"-\log p", display=False))
    assert "<mo>&#x02212;</mo><mi>&#x0221E;</mi>" in mathml.convert(r"-\infty", display=False)
    squared = mathml.convert(r"\tanh^2(x)", display=False)
    assert '<msup><mo lspace="0.17em" rspace="0">tanh</mo><mn>2</mn></msup><mo' in squared


# --- a lesson of one's own ----------------------------------------------------------------------------------------


@pytest.fixture
def lesson(tmp_path):
    """`build(cell, ...)`: the site of one lesson; a cell is Markdown, or a list of outputs of a code cell."""
    folder = tmp_path / "lessons"
    folder.mkdir()

    def build(*cells):
        given = [{"cell_type": "markdown", "source": text.splitlines(True)} if isinstance(text, str) else
                 {"cell_type": "code", "source": "show()", "outputs": text} for text in (HEAD, *cells)]
        (folder / "41_try.ipynb").write_text(json.dumps({"cells": given}))
        return pages.build(folder)

    return build


def shows(**data):
    return {"output_type": "display_data", "data": {name.replace("_", "/"): text for name, text in data.items()}}


@pytest.mark.parametrize(("cell", "said"), [
    ("The $\\nonsense$ one", r"41_try.ipynb, cell 1: \\nonsense would show raw"),
    ("[gone](../nowhere.py)", "41_try.ipynb, cell 1: the link ../nowhere.py leads to no file"),
    ("[gone](42_next.ipynb)", "leads to no file"),
    ("<details><summary>Hint</summary>\n\nopen", "cell 1: a <details> does not close"),
    ("```klingon\nx\n```", "no colours for code in 'klingon'"),
    ([{"output_type": "error", "ename": "ShapeError", "evalue": "", "traceback": []}], "cell 1: the cell raised ShapeError"),
    ([shows(video_mp4="")], "cell 1: an output of a kind that no page shows: video/mp4"),
])  # fmt: skip
def test_what_a_page_cannot_show_ends_the_build_with_the_cell_named(lesson, cell, said):
    with pytest.raises(PageError, match=said):
        lesson(cell)


def test_a_head_without_minutes_ends_the_build(tmp_path):
    (tmp_path / "41_try.ipynb").write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": "# 41 A try"}]}))
    with pytest.raises(PageError, match=r"its head does not give: minutes, difficulty, after"):
        pages.build(tmp_path)
    with pytest.raises(PageError, match="no notebooks"):
        pages.build(tmp_path / "empty")


def test_markdown_inside_a_fold_is_markdown(lesson):
    text = lesson("<details><summary>Answer</summary>\n\n**Yes**, $x^2$:\n\n```python\nreturn x\n```\n\n"
                  "| a | b |\n|---|---|\n| 1 | $y$ |\n\n</details>\n\n## After")["41_try.html"].decode()
    fold = re.search(r"<details><summary>Answer</summary>(.*?)</details>", text, re.DOTALL)[1]
    for part in ("<strong>Yes</strong>", "<msup>", '<span class="k">return</span>', '<div class="scroll"><table>', "<mi>y</mi>"):
        assert part in fold
    assert '<h2 id="after">After</h2>' in text


@pytest.mark.parametrize("text", ["", '{"cells": [', "{}", "[]"])
def test_a_broken_notebook_ends_the_build_with_its_name(tmp_path, text):
    (tmp_path / "41_try.ipynb").write_text(text)
    with pytest.raises(PageError, match=r"41_try\.ipynb is no notebook"):
        pages.build(tmp_path)


def test_markdown_files_beside_the_lessons_are_pages_too(lesson, tmp_path):
    (tmp_path / "lessons").mkdir(exist_ok=True)
    (tmp_path / "lessons" / "terms.md").write_text("# Terms\n\n## Key\n\nSee [41](41_try.ipynb#a-heading), $k$.\n")
    site = lesson("## A heading\n\n[terms](terms.md#key)")
    terms, here = Reader(site["terms.html"].decode()), Reader(site["41_try.html"].decode())
    assert "41_try.html#a-heading" in terms.links
    assert len(terms.tags("math")) == 1
    assert "terms.html#key" in here.links
    assert "terms.html" in Reader(site["index.html"].decode()).links


def test_dollars_in_code_and_prices_are_no_formulas(lesson):
    page = Reader(lesson("`$HOME` and `a$b`\n\n```sh\necho $HOME\n```\n\nIt costs 5$ or 6$.")["41_try.html"].decode())
    assert page.tags("math") == []


def test_headings_get_anchors_of_their_own(lesson):
    page = Reader(lesson("## 1. The $N$ keys\n\n## Hint\n\n### `code` & more\n\n## Hint")["41_try.html"].decode())
    assert page.all("id")[-4:] == ["1-the-n-keys", "hint", "code--more", "hint-1"]
    assert {"#1-the-n-keys", "#hint", "#code--more", "#hint-1"} <= set(page.links)


def test_views_keep_their_scripts_and_win_over_their_text(lesson):
    view = "<div data-view>before</div><script>document.querySelector('[data-view]').textContent = 'a < b'</script>"
    text = lesson([shows(text_html=view, text_plain="<View>")])["41_try.html"].decode()
    assert f'<div class="out view">{view}</div>' in text
    assert "&lt;View&gt;" not in text
    whole = Reader(lesson([shows(text_html="<!doctype html><title>t</title>")])["41_try.html"].decode())
    assert whole.all("srcdoc") == ["<!doctype html><title>t</title>"]


def test_pictures_say_what_to_look_for(lesson):
    words = "Some words. Look at `w[0]`, the *second* row of [map](41_try.ipynb) $A$."
    built = lesson("No more of this.\n\n" + words, [shows(image_png=PNG, text_plain="<Figure>")])
    [image] = Reader(built["41_try.html"].decode()).tags("img")
    assert image["alt"] == "Figure of cell 2. Look at w[0], the second row of map A."
    assert (image["width"], image["height"]) == ("7", "5")
    assert built[image["src"]] == base64.b64decode(PNG)


def test_texts_are_text_and_stderr_is_left_out(lesson):
    streams = [{"output_type": "stream", "name": name, "text": [f"\x1b[31m<b>{name}</b>\x1b[0m\n"]}
               for name in ("stdout", "stderr")]
    text = lesson(streams)["41_try.html"].decode()
    assert "<pre>&lt;b&gt;stdout&lt;/b&gt;</pre>" in text
    assert "stderr" not in text


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_writes_the_site(tmp_path, capsys, site):
    assert pages.main(["--to", str(tmp_path / "deep" / "site")]) == 0
    written = {path.relative_to(tmp_path / "deep" / "site").as_posix(): path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert written == site
    assert "index.html" in capsys.readouterr().out


def test_a_site_that_cannot_be_built_is_not_begun(tmp_path, capsys, monkeypatch):
    def fails():
        raise PageError("41_try.ipynb, cell 3: no")

    monkeypatch.setattr(pages, "build", fails)
    assert pages.main(["--to", str(tmp_path / "site")]) == 1
    assert capsys.readouterr().err == "41_try.ipynb, cell 3: no\n"
    assert not (tmp_path / "site").exists()


def test_what_is_not_installed_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pages, "NEEDS", ("pygments", "nothing_of_this_name"))
    assert pages.main(["--to", str(tmp_path / "site")]) == 1
    assert capsys.readouterr().err == "nothing_of_this_name not installed: pip install -e '.[pages]'\n"


# --- in a browser -------------------------------------------------------------------------------------------------

HARNESS = """<!doctype html><meta charset="utf-8"><body><pre id="said">waits</pre><script>
const names = NAMES, said = [];
const load = (name, width) => new Promise((done) => {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width: ${width}px; height: 900px; border: 0`;
  frame.onload = () => done([frame, frame.contentWindow, frame.contentDocument]);
  frame.src = name;
  document.body.append(frame);
});
(async () => {
  for (const name of names) for (const width of [400, 1400]) {
    const [frame, win, doc] = await load(name, width);
    doc.querySelectorAll("details").forEach((fold) => { fold.open = true; });
    if (doc.documentElement.scrollWidth > width) said.push(`${name} is ${doc.documentElement.scrollWidth} wide at ${width}`);
    const ground = () => win.getComputedStyle(doc.body).backgroundColor;
    const seen = [ground()];
    for (const _ of [1, 2]) { doc.getElementById("theme").click(); seen.push(ground()); }
    if (seen[0] === seen[1] || seen[0] !== seen[2]) said.push(`${name}: themes ${seen}`);
    const box = doc.querySelector(".code");
    if (box) {
      let copied = "";
      Object.defineProperty(win.navigator, "clipboard", { value: { writeText: async (text) => { copied = text; } } });
      box.querySelector(".copy").click();
      await new Promise((done) => setTimeout(done));
      if (!copied || copied !== box.querySelector("code").textContent) said.push(`${name}: copied ${copied}`);
    }
    frame.remove();
  }
  document.getElementById("said").textContent = JSON.stringify({ pages: names.length, said });
})();
</script>"""


@pytest.mark.slow
def test_a_browser_shows_every_page_without_overflow(tmp_path, site):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine; the pages are only read here, not opened")
    assert pages.main(["--to", str(tmp_path / "site")]) == 0
    names = sorted(f"site/{name}" for name in site if name.endswith(".html"))
    harness = tmp_path / "harness.html"
    harness.write_text(HARNESS.replace("NAMES", json.dumps(names)), encoding="utf-8")
    run = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                          "--allow-file-access-from-files", f"--user-data-dir={tmp_path}/profile", "--window-size=1600,1000",
                          "--virtual-time-budget=60000", "--dump-dom", harness.as_uri()],
                         capture_output=True, text=True, encoding="utf-8", timeout=300, check=True)
    said = re.search(r'<pre id="said">(.*?)</pre>', run.stdout, re.DOTALL)[1]
    assert json.loads(said) == {"pages": len(names), "said": []}
