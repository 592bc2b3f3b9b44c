"""The lessons as pages to read: no install, no network, no server. Open `index.html`.

    python lessons/pages.py                  into site/, at the top of the clone
    python lessons/pages.py --to FOLDER      into another folder

Nothing is run: the committed notebooks are rendered as they stand, so build a lesson (build.py) before its page. The site
holds a page for each lesson, one for each source file that a lesson links to, the pictures, one style sheet and one
script. Whatever a page cannot show as the notebook means it (a formula, a link that leads nowhere, a cell that failed) ends
the build, and nothing is written. What reading/ makes of a notebook is described there.
"""
import argparse
import functools
import html
import importlib.util
import re
import sys
from pathlib import Path
from string import Template
from urllib.parse import unquote

from reading.render import PageError, highlight, plain, render

HERE = Path(__file__).resolve().parent
NEEDS = ("markdown_it", "mdit_py_plugins", "pygments", "latex2mathml")
COURSE = "Attention, step by step"


def build(lessons=HERE):
    """The whole site: {path in the site: bytes}.

    `lessons` is the folder with the notebooks; what they link to outside it is looked for from there.
    """
    notebooks = sorted(path for path in lessons.glob("*.ipynb") if re.fullmatch(r"\d\d_\w+", path.stem))
    if not notebooks:
        raise PageError(f"there are no notebooks in {lessons}: python lessons/build.py")
    sources, site = {}, {}                                            # sources: {file: the lessons that link to it}
    rendered = [render(path, functools.partial(address, path, sources)) for path in notebooks]
    for at, lesson in enumerate(rendered):
        site[f"{lesson.stem}.html"] = lesson_page(rendered, at)
        site.update(lesson.files)
    for path, linking in sources.items():
        site[source_address(path, lessons)] = source_page(path, linking, rendered, lessons)
    site["index.html"] = index(rendered)
    for name in ("style.css", "script.js"):
        site[name] = (HERE / "reading" / name).read_text(encoding="utf-8")
    return {name: text if isinstance(text, bytes) else text.encode() for name, text in site.items()}


# --- links --------------------------------------------------------------------------------------------------------


def address(notebook, sources, link):
    """What a link of `notebook` becomes: a lesson's page, a source file's page (noted in `sources`), or what it was."""
    if re.match(r"https?:|mailto:|data:|#", link):
        return link
    name, mark, anchor = unquote(link).partition("#")
    target = (notebook.parent / name).resolve()
    if not target.is_file():
        raise PageError(f"the link {link} leads to no file")
    if target.suffix == ".ipynb" and target.parent == notebook.parent:
        return f"{target.stem}.html{mark}{anchor}"
    sources.setdefault(target, set()).add(notebook.stem)
    return f"{source_address(target, notebook.parent)}{mark}{anchor}"


def source_address(path, lessons):
    """source/minattn/core/masks.html for ../minattn/core/masks.py, as seen from the lessons."""
    if not path.is_relative_to(lessons.parent):
        raise PageError(f"the link to {path.name} leads out of the repository")
    name = path.relative_to(lessons.parent)
    return f"source/{name.with_suffix('') if name.suffix == '.py' else name}.html"


# --- pages --------------------------------------------------------------------------------------------------------


def lesson_page(lessons, at):
    lesson = lessons[at]
    entries = [f'<li class="level-{level}"><a href="#{name}">{re.sub("</?a[^>]*>", "", text)}</a></li>'
               for level, text, name in lesson.headings if level > 1]
    contents = f'<details class="contents"><summary>On this page</summary><ol>{"".join(entries)}</ol></details>'
    turns = "".join(f'<a rel="{way}" href="{other.stem}.html"><span>{word}</span> {other.title}</a>' for way, word, other in (
        *(("prev", "Previous", other) for other in lessons[at - 1:at]),
        *(("next", "Next", other) for other in lessons[at + 1:at + 2])))
    turn = '<nav class="turn" aria-label="{}">' + turns + "</nav>\n"
    body = turn.format("Previous and next lesson") + lesson.body + turn.format("Previous and next lesson, again")
    return page(lesson.title, body, lessons, here=lesson, contents=contents)


def source_page(path, linking, lessons, folder):
    name = path.relative_to(folder.parent).as_posix()
    text = path.read_text(encoding="utf-8")
    up = "../" * source_address(path, folder).count("/")
    links = ", ".join(f'<a href="{up}{each.stem}.html">{each.title}</a>' for each in lessons if each.stem in linking)
    body = f"<h1>{name}</h1>\n<p>{len(text.splitlines())} lines. Linked from {links}.</p>\n"
    return page(name, body + highlight(text, {".py": "python", ".md": "markdown"}.get(path.suffix, "text")), lessons, up=up)


def index(lessons):
    total = sum(lesson.minutes for lesson in lessons)
    cards = "".join(f'<li><h2><a href="{each.stem}.html">{each.title}</a></h2>\n'
                    f'<p class="quiet">{each.minutes} minutes · {each.difficulty}</p>\n'
                    f"<p>You will be able to</p>\n{each.after}</li>\n" for each in lessons)
    body = (f"<h1>{COURSE}</h1>\n<p>{len(lessons)} lessons, about {round(total / 60)} hours in all. Each starts from one question "
            "and one set of two-decimal numbers, builds the mechanism in a loop, then in one matrix product, then breaks it on "
            "purpose, and ends in a real trained language model.</p>\n"
            "<p>These pages show every lesson as it ran. Answers and hints are folded: think first, then open them. "
            "To run and change the code, and to have your own answers checked, open the notebooks of the same names "
            "with <code>minattn learn</code>.</p>\n"
            f'<ol class="lessons">\n{cards}</ol>\n')
    return page(COURSE, body, lessons)


def page(title, body, lessons, *, here=None, contents="", up=""):
    """A whole page: the skeleton with everything in its place. `up` leads from the page to the top of the site."""
    course = "".join(f'<li><a href="{up}{each.stem}.html"{" aria-current=page" if each is here else ""}>{each.title}</a> '
                     f'<span class="quiet">{each.minutes} min</span></li>' for each in lessons)
    whole = plain(title) if title == COURSE else f"{plain(title)} · {COURSE}"
    return template().substitute(title=html.escape(whole), body=body, course=course, contents=contents, up=up, name=COURSE)


@functools.cache
def template():
    return Template((HERE / "reading" / "page.html").read_text(encoding="utf-8"))


# --- the command --------------------------------------------------------------------------------------------------


def main(argv=None):
    """Build the site; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--to", type=Path, metavar="FOLDER", default=HERE.parent / "site",
                        help="where the pages go (default: site/ at the top of the clone)")
    folder = parser.parse_args(argv).to
    missing = [module for module in NEEDS if importlib.util.find_spec(module) is None]
    if missing:
        print(f"{', '.join(missing)} not installed: pip install -e '.[pages]'", file=sys.stderr)
        return 1
    try:
        site = build()
        for name, content in site.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    except (PageError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(site)} files, {sum(map(len, site.values())) / 1e6:.1f} MB: {folder / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
