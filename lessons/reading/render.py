"""A notebook, or a plain Markdown file, into HTML: text, formulas, code, outputs, headings with anchors.

Nothing is run. What the committed notebook shows is what the page shows, and what cannot be shown ends the build with the
lesson and the cell named (`PageError`).
"""
import base64
import dataclasses
import functools
import html
import json
import re
import struct

from .mathml import MathError, convert

ALT_LENGTH = 300                                                      # characters of an image's description


class PageError(Exception):
    """A page that cannot be built; the text names file and cell."""


@dataclasses.dataclass
class Lesson:
    """What a page needs of one lesson: texts are HTML, files are {path in the site: bytes}. Plain Markdown has no minutes."""

    stem: str
    title: str = ""
    minutes: int = 0
    difficulty: str = ""
    after: str = ""                                                   # the list below 'You will be able to'
    headings: list = dataclasses.field(default_factory=list)          # (level, text, anchor), in order
    body: str = ""
    files: dict = dataclasses.field(default_factory=dict)


def render(path, link):
    """The notebook, or the Markdown file, at `path`.

    `link(address)` gives what an address in its text becomes, and raises PageError where it leads nowhere.
    """
    lesson, parts, before = Lesson(path.stem), [], ""
    for number, cell in enumerate(cells(path)):
        source = "".join(cell["source"])
        try:
            if cell["cell_type"] == "markdown":
                parts.append(f'<section class="text">\n{markdown(source, lesson, link)}</section>\n')
                before = source
            elif source.strip():
                parts.append(f'<div class="cell">\n{highlight(source)}')
                parts += [output(lesson, number, at, each, before, source) for at, each in enumerate(cell["outputs"])]
                parts.append("</div>\n")
        except (PageError, MathError) as error:
            raise PageError(f"{path.name}, cell {number}: {error}") from error
    lesson.body = "".join(parts)
    head(lesson, path)
    return lesson


def cells(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return [{"cell_type": "markdown", "source": text}]
    try:
        return json.loads(text)["cells"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise PageError(f"{path.name} is no notebook: {type(error).__name__}: {error}") from error


def head(lesson, path):
    """Take the title out of the text, and of a lesson minutes, difficulty and what one can do afterwards."""
    first = lesson.body.partition("</section>")[0]
    found = {"title": re.search(r"<h1[^>]*>(.*?)</h1>", first)}
    if path.suffix == ".ipynb":
        found["minutes"], found["difficulty"] = re.search(r"(\d+) minutes", first), re.search(r"difficulty:? (\w+)", first)
        found["after"] = re.search(r"able to.*?(<ul>.*?</ul>)", first, re.DOTALL)
    missing = [name for name, match in found.items() if match is None]
    if missing:
        raise PageError(f"{path.name}, cell 0: its head does not give: {', '.join(missing)}")
    for name, match in found.items():
        setattr(lesson, name, int(match[1]) if name == "minutes" else match[1])


# --- text ---------------------------------------------------------------------------------------------------------


@functools.cache
def parser():
    """CommonMark with tables and `$`: HTML stays, so that folds fold, and Markdown inside them is Markdown."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    md = MarkdownIt("commonmark", {"html": True})
    md.enable("table")
    md.use(dollarmath_plugin, allow_labels=False, allow_digits=False, renderer=formula)
    for kind in ("fence", "code_block"):
        md.add_render_rule(kind, lambda self, tokens, at, *_: highlight(tokens[at].content, tokens[at].info or "text"))
    md.add_render_rule("table_open", lambda *_: '<div class="scroll"><table>\n')
    md.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return md


def formula(latex, options):
    return convert(latex, display=options["display_mode"])


def markdown(source, lesson, link):
    """The HTML of a text cell; its headings join the lesson's."""
    if len(re.findall(r"<details\b", source)) != source.count("</details>"):
        raise PageError("a <details> does not close")
    tokens = parser().parse(source)
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            text = parser().renderer.renderInline(tokens[at + 1].children, parser().options, {})
            token.attrSet("id", anchor(text, {used for _, _, used in lesson.headings}))
            lesson.headings.append((int(token.tag[1]), text, token.attrGet("id")))
    text = parser().renderer.render(tokens, parser().options, {})
    text = re.sub(r'[(]*<span class="math inline">.*?</math></span>[-.,;:?!)\w]*', r'<span class="keep">\g<0></span>', text)
    return re.sub(r'\b(href|src)="([^"]*)"', lambda found: f'{found[1]}="{html.escape(link(html.unescape(found[2])))}"', text)


def plain(text):
    """The words of a piece of HTML."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


def anchor(heading, used):
    """`3. The slope of a softmax` is reached by #3-the-slope-of-a-softmax, as on GitHub."""
    name = re.sub(r"[^\w -]", "", plain(heading).lower()).strip().replace(" ", "-") or "section"
    return next(each for each in (name, *(f"{name}-{n}" for n in range(1, 1000))) if each not in used)


def highlight(code, language="python"):
    """Code in its box: the colours are style.css's, the copy button script.js's."""
    from pygments import highlight as mark_up
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language.split()[0], stripnl=False)
    except ClassNotFound:
        raise PageError(f"no colours for code in {language!r}") from None
    return f'<div class="code"><pre><code>{mark_up(code, lexer, HtmlFormatter(nowrap=True)).rstrip()}</code></pre></div>\n'


# --- outputs ------------------------------------------------------------------------------------------------------


def output(lesson, number, at, given, before, source):
    """One output of a cell: text, a view in HTML, or a picture; `before` is the text above, for the picture's description."""
    kind = given["output_type"]
    if kind == "error":
        raise PageError(f"the cell raised {given['ename']}: build the lesson again")
    if kind == "stream":
        return "" if given["name"] == "stderr" else text_output("".join(given["text"]))
    data = {mime: "".join(value) if isinstance(value, list) else value for mime, value in given["data"].items()}
    if "text/html" in data:
        return view(data["text/html"], number)
    if "image/png" in data:
        return picture(lesson, number, at, base64.b64decode(data["image/png"]), description(before, source, number))
    if "text/plain" in data:
        return text_output(data["text/plain"])
    raise PageError(f"an output of a kind that no page shows: {', '.join(data)}")


def text_output(text):
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)                        # a terminal's colours
    return f'<div class="out"><pre>{html.escape(text.rstrip())}</pre></div>\n' if text.strip() else ""


def view(text, number):
    """HTML as the cell gave it, scripts included; a whole document goes into a frame of its own."""
    if re.match(r"\s*<(!doctype|html)\b", text, re.IGNORECASE):
        text = f'<iframe title="view of cell {number}" srcdoc="{html.escape(text)}"></iframe>'
    return f'<div class="out view">{text}</div>\n'


def picture(lesson, number, at, png, alt):
    """A picture, kept beside the page; it leads to itself, to be seen at its full size."""
    name = f"pictures/{lesson.stem[:2]}-{number:02}-{at}.png"
    lesson.files[name] = png
    width, height = struct.unpack(">II", png[16:24])                  # the header's first two numbers
    return (f'<div class="out"><a class="picture" href="{name}"><img src="{name}" width="{width}" height="{height}" '
            f'loading="lazy" alt="{html.escape(alt)}"></a></div>\n')


def description(before, source, number):
    """Words for who cannot see a picture: its own title, and what the paragraph above says to look for."""
    title = re.search(r"""(?:title=|_title\()"([^"{}]+)"(?=[,)])""", source)
    paragraphs = [text for text in re.split(r"\n\s*\n", before) if re.match(r"[\w*`\"'(]", text)]
    above = " ".join(paragraphs[-1].split()) if paragraphs else ""
    for mark_up in (r"\[([^\]]*)\]\([^)]*\)", r"\\(?:mathrm|text)\{(\w+)\}", r"()[*`$\\]"):
        above = re.sub(mark_up, r"\1", above)
    look = re.search(r"What to look for|In the picture|The picture|(?<![\w,:] )Look\b", above)
    above = above[look.start() if look else 0:]
    words = ". ".join(filter(None, (f"Figure of cell {number}", title and title[1], above)))
    return words if len(words) <= ALT_LENGTH else f"{words[:ALT_LENGTH].rpartition(' ')[0]} ..."
