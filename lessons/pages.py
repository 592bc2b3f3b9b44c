"""The lessons as pages to read: no install, no network, no server. Open `index.html`.

    python lessons/pages.py                  into site/, at the top of the clone
    python lessons/pages.py --to FOLDER      into another folder

Nothing is run: the committed notebooks are rendered as they stand, so build a lesson (build.py) before its page. The site
holds a page for each lesson and each Markdown file beside the lessons, one for each source file that these link to, the
pictures, one style sheet and one script. Whatever a page cannot show as the notebook means it (a formula, a link that leads
nowhere, a cell that failed) ends the build, and nothing is written. What a notebook becomes is decided in reading/.
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
    paths = sorted(path for path in lessons.glob("*.ipynb") if re.fullmatch(r"\d\d_\w+", path.stem))
    if not paths:
        raise PageError(f"there are no notebooks in {lessons}: python lessons/build.py")
    sources, site = {}, {}                                            # sources: {file: stems of what links to it}
    course = [render(path, functools.partial(address, path, sources)) for path in (*paths, *sorted(lessons.glob("*.md")))]
    for each in course:
        site[f"{each.stem}.html"] = text_page(each, course)
        site.update(each.files)
    for path, linking in sources.items():
        site[source_address(path, lessons)] = source_page(path, linking, course, lessons)
    site["index.html"] = index(course)
    for name in ("style.css", "script.js"):
        site[name] = (HERE / "reading" / name).read_text(encoding="utf-8")
    return {name: text if isinstance(text, bytes) else text.encode() for name, text in site.items()}


def is_lesson(each):
    return each.minutes > 0


# --- links --------------------------------------------------------------------------------------------------------


def address(notebook, sources, link):
    """What a link of `notebook` becomes: another page, a source file's page (noted in `sources`), or what it was."""
    if re.match(r"https?:|mailto:|data:|#", link):
        return link
    name, mark, anchor = unquote(link).partition("#")
    target = (notebook.parent / name).resolve()
    if not target.is_file():
        raise PageError(f"the link {link} leads to no file")
    if target.suffix in (".ipynb", ".md") and target.parent == notebook.parent:
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


def text_page(here, course):
    """The page of a lesson, between the one before and the one after, or of a Markdown file."""
    entries = [f'<li class="level-{level}"><a href="#{name}">{re.sub("</?a[^>]*>", "", text)}</a></li>'
               for level, text, name in here.headings if level > 1]
    contents = f'<details class="contents"><summary>On this page</summary><ol>{"".join(entries)}</ol></details>'
    body, lessons = here.body, [each for each in course if is_lesson(each)]
    if here in lessons:
        at = lessons.index(here)
        turns = [("prev", "Previous", each) for each in lessons[max(0, at - 1):at]]
        turns += [("next", "Next", each) for each in lessons[at + 1:at + 2]]
        links = "".join(f'<a rel="{rel}" href="{each.stem}.html"><span>{word}</span> {each.title}</a>'
                        for rel, word, each in turns)
        before, after = (f'<nav class="turn" aria-label="{label}">{links}</nav>\n' for label in ("Lessons", "Lessons, again"))
        body = before + body + after
    return page(here.title, body, course, here=here, contents=contents if entries else "")


def source_page(path, linking, course, folder):
    name = path.relative_to(folder.parent).as_posix()
    text = path.read_text(encoding="utf-8")
    up = "../" * source_address(path, folder).count("/")
    links = ", ".join(f'<a href="{up}{each.stem}.html">{each.title}</a>' for each in course if each.stem in linking)
    body = f"<h1>{name}</h1>\n<p>{len(text.splitlines())} lines. Linked from {links}.</p>\n"
    return page(name, body + highlight(text, {".py": "python", ".md": "markdown"}.get(path.suffix, "text")), course, up=up)


def index(course):
    """The map: each lesson with its minutes, its difficulty and what one can do after it."""
    lessons, others = [each for each in course if is_lesson(each)], [each for each in course if not is_lesson(each)]
    cards = "".join(f'<li><h2><a href="{each.stem}.html">{each.title}</a></h2>\n'
                    f'<p class="quiet">{each.minutes} minutes · {each.difficulty}</p>\n'
                    f"<p>You will be able to</p>\n{each.after}</li>\n" for each in lessons)
    look_up = ", ".join(f'<a href="{each.stem}.html">{each.title}</a>' for each in others)
    hours = round(sum(each.minutes for each in lessons) / 60)
    body = (f"<h1>{COURSE}</h1>\n<p>{len(lessons)} lessons, {hours} hours in all. Each starts from one question and one set of "
            "two-decimal numbers, builds the mechanism in a loop, then in one matrix product, then breaks it on purpose, and "
            "ends in a real trained language model.</p>\n"
            "<p>These pages show every lesson as it ran. Answers and hints are folded: think first, then open them. "
            "To run and change the code, and to have your own answers checked, open the notebooks of the same names "
            "with <code>minattn learn</code>.</p>\n"
            f"{f'<p>To look things up: {look_up}.</p>' if others else ''}\n"
            f'<ol class="lessons">\n{cards}</ol>\n')
    return page(COURSE, f'<div class="text">\n{body}</div>', course)


def page(title, body, course, *, here=None, contents="", up=""):
    """A whole page: the skeleton with everything in its place. `up` leads from the page to the top of the site."""
    entries = []
    for each in course:
        current, minutes = " aria-current=page" if each is here else "", f"{each.minutes} min" if is_lesson(each) else ""
        entries.append(f'<li><a href="{up}{each.stem}.html"{current}>{each.title}</a> <span class="quiet">{minutes}</span></li>')
    whole = COURSE if title == COURSE else f"{html.escape(plain(title))} · {COURSE}"
    return template().substitute(title=whole, body=body, course="".join(entries), contents=contents, up=up, name=COURSE)


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
