"""The glossary: letters, options and terms, gathered from the package's own docstrings into glossary.md.

    python lessons/glossary.py

    letters   the glossary lines in the docstrings of modules: `B batch   H query heads` or `top   largest score of a row`
    options   the parameters of `attention`, each with the first sentence of its description
    names     the first sentence of each public name's docstring, with the file that implements it
    files     the first sentence of each file's docstring

Nothing is written here by hand: to change a line, change the docstring that it comes from, and run this again.
"""
import ast
import inspect
import re
import sys
from pathlib import Path

import minattn as ma
from minattn.core.whole import write_whole

HERE = Path(__file__).resolve().parent
ROOT = Path(ma.__file__).resolve().parent
LETTERS = ("core/shapes", "core/*", "attention", "multihead", "flash/online", "models/*")     # what is said most generally first
FILES = ("attention", "multihead", "core/*", "flash/*", "models/*", "plot/*")
PUBLIC = {"": ma, "masks.": ma.masks, "positions.": ma.positions, "errors.": ma.errors, "plot.": ma.plot, "models.": ma.models}

# A letter, Dv, or a short name that formulas use, and perhaps a shape: `top`, `q (B, H, N, D)`. Then two spaces or more.
SYMBOL = re.compile(r"(Dv|[A-Za-z]|lse|out|top|acc|total|[a-z]_[a-z])(?: (\([^()]*\)))?")
SHORT = re.compile(r"(Dv|[A-Z]) ((?!is )[a-zK][\w -]+)")               # `B batch`, with one space
NO_MEANING = re.compile(r"[A-Z] |[=(<]|\w+, \w |.*(->| = )")           # another symbol, an equation, a shape


def main():
    """Write glossary.md beside this file."""
    write_whole(HERE / "glossary.md", text().encode())


def text():
    """All of glossary.md."""
    letters = [(symbol, "; ".join(f"{meaning} ({link(path)})" for meaning, path in meanings))
               for symbol, meanings in letters_of()]
    options = [(f"`{name}`", kind, meaning) for name, kind, meaning in options_of(ma.attention)]
    names = [(f"`{name}`", meaning, link(path)) for name, meaning, path in names_of()]
    about = [(link(path), sentence(docstring(path))) for path in files(FILES) if path.name != "__init__.py"]
    return "\n".join([
        "# Glossary", "",
        "Gathered from the docstrings of the package by `python lessons/glossary.py`. The same letter is the same axis in code,",
        "lessons, errors and figures. Which mechanism to use when: [which_when.md](which_when.md).", "",
        "## Letters", "", *table(["letter", "meaning, and the file that says so"], letters), "",
        "## Options of attention", "", f"In {link(ROOT / 'attention.py')}:", "",
        *table(["option", "form", "meaning"], options), "",
        "## Names", "", *table(["name", "what it is", "file"], names), "",
        "## Files", "", *table(["file", "what is in it"], about), "",
    ])


def letters_of():
    """(symbol, [(meaning, path), ...]): the axes first, then by letter; what only repeats an earlier meaning is left out."""
    found: dict = {}
    for path in files(LETTERS):
        for symbol, meaning in (pair for line in docstring(path).splitlines() for pair in pairs(line)):
            meanings = found.setdefault(symbol, [])
            if not any(words(meaning) <= words(earlier) for earlier, _ in meanings):
                meanings.append((meaning, path))
    axes = [symbol for line in docstring(ROOT / "core" / "shapes.py").splitlines() for symbol, _ in pairs(line)]
    return sorted(found.items(), key=lambda entry: (axes.index(entry[0]) if entry[0] in axes else len(axes), entry[0].lower()))


def pairs(line):
    """(symbol, meaning) of each glossary entry in a line of a docstring."""
    fields, found = re.split(r" {2,}", line.strip()), []
    for n, field in enumerate(fields):
        if short := SHORT.fullmatch(field):
            found.append(short.groups())
        elif (full := SYMBOL.fullmatch(field)) and fields[n + 1:]:
            shape, meaning, *rest = [full[2], *fields[n + 1:]] if full[2] or fields[n + 1][0] != "(" else [*fields[n + 1:], ""]
            if re.fullmatch("[a-z_]+", meaning) and rest and re.fullmatch("[^=]+ [^=]+", rest[0]):     # a name in the code
                meaning = f"{rest[0]}, `{meaning}` in the code"
            if meaning and not SYMBOL.fullmatch(meaning) and not NO_MEANING.match(meaning):
                found.append((full[1], meaning + (f", {shape}" if shape else "")))
    return found


def options_of(function):
    """(name, form, first sentence) of each parameter that a NumPy-style docstring describes."""
    section = re.search(r"Parameters\n-+\n(.*?)\n\n", inspect.getdoc(function), re.S)[1]
    entries = re.findall(r"^(\w[^\n:]*?) : ([^\n]*)((?:\n    [^\n]*)*)", section, re.M)
    return [(name, form, sentence(body)) for name, form, body in entries]


def names_of():
    """(name, first sentence, path) of all that the package makes public, each thing under its shortest name."""
    found: dict = {}
    for prefix, room in PUBLIC.items():
        for name in getattr(room, "__all__", None) or [name for name in vars(room) if not name.startswith("_")]:
            thing = getattr(room, name)
            home = thing.__name__ if inspect.ismodule(thing) else getattr(thing, "__module__", "")
            if home.startswith("minattn.") and not any(thing is other for other, _ in found.values()):
                found[prefix + name] = thing, Path(sys.modules[home].__file__)
    return [(name, sentence(inspect.getdoc(thing)), path)
            for name, (thing, path) in sorted(found.items(), key=lambda entry: entry[0].lower())]


def files(patterns):
    """The Python files of the package that fit, in the order of the patterns, each once."""
    return list(dict.fromkeys(path for pattern in patterns for path in sorted(ROOT.glob(f"{pattern}.py"))))


def docstring(path):
    """A module's docstring, without importing it."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def sentence(doc):
    """The first sentence or paragraph, whichever ends first, on one line."""
    paragraph = " ".join((doc or "").partition("\n\n")[0].split())
    return re.split(r"(?<=[\w)]\.) (?=[A-Z(])", paragraph)[0]


def words(meaning):
    """The words that count when two meanings are compared."""
    return {word.removesuffix("s") for word in re.findall(r"\w+", meaning.lower())} - {"a", "the"}


def link(path):
    """A link to a file of the package, as seen from the lessons."""
    name = path.relative_to(ROOT).as_posix()
    return f"[{name}](../minattn/{name})"


def table(head, rows):
    """The lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *([escape(cell) for cell in row] for row in rows)]]


def escape(cell):
    """Text for a Markdown table: signs with a meaning are escaped, in code only the bar, which parts cells there too."""
    parts = re.split("(`[^`]*`)", cell)                               # code stands at the odd places
    parts[::2] = [re.sub("[*<]", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts).replace("|", "\\|")


if __name__ == "__main__":
    main()
