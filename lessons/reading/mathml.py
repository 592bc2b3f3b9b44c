"""LaTeX into MathML, which every current browser draws by itself.

The converter lets through what it does not know: `\\foo` becomes the letters \\foo, an unknown environment its contents,
a brace that never closes nothing at all. A reader would meet raw or wrong formulas, so all of this is an error here.
"""
import re
import xml.etree.ElementTree as ElementTree

ENVIRONMENTS = {"matrix", "pmatrix", "bmatrix", "vmatrix", "cases", "array", "align", "align*", "split"}
FUNCTION = re.compile(                                                 # its name, an index or power, an opening bracket
    r"<m([io])>(log|ln|exp|sin|cos|tan|tanh|max|min|arg max|arg min|det|lim)</m\1>"
    r'((?:<m[in]>[^<]*</m[in]></msu[bp]>)?)((?:<mo stretchy="false">&#x00028;)?)')
CHILDREN = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "mover": 2, "munder": 2, "msubsup": 3, "munderover": 3}


class MathError(ValueError):
    """A formula that cannot become MathML; the text says why."""


def convert(latex, *, display):
    """The `<math>` element of a formula, set on a line of its own where `display` is true.

    Raises
    ------
    MathError
        If any part of the formula would show raw, or be lost.
    """
    from latex2mathml.converter import convert as to_mathml

    latex = latex.strip()
    check_braces(latex)
    unknown = set(re.findall(r"\\begin\s*\{([^}]*)\}", latex)) - ENVIRONMENTS
    if unknown:
        raise MathError(f"no MathML for the environment {', '.join(sorted(unknown))}")
    try:
        text = to_mathml(latex, display="block" if display else "inline")
    except Exception as error:                                        # the converter's own kinds have no common parent
        raise MathError(f"{type(error).__name__} {error}".strip()) from error
    text = re.sub(r'(?:<mi mathvariant="normal">\w</mi>){2,}', upright_word, text)
    text = FUNCTION.sub(spaced, text)
    text = text.replace("<mo>&#x0221E;</mo>", "<mi>&#x0221E;</mi>")      # a number: as an operator it would keep its distance
    check(text)
    return text


def check_braces(latex):
    """Raise unless every brace and every `\\left` closes."""
    depth = 0
    for brace in re.findall(r"(?<!\\)(?:\\\\)*([{}])", latex):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            break
    if depth:
        raise MathError("braces do not balance")
    if re.search(r"(?<!\\)[&#%]", latex) and r"\begin" not in latex:
        raise MathError("& # % mean nothing outside of a table; a backslash makes them characters")
    if len(re.findall(r"\\left(?![a-z])", latex)) != len(re.findall(r"\\right(?![a-z])", latex)):
        raise MathError(r"\left and \right do not balance")


def check(text):
    """Raise where the MathML is not well formed, still shows LaTeX, or lacks a part."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise MathError(f"what comes out is no XML: {error}") from error
    for element in root.iter():
        name, words = element.tag.rpartition("}")[2], element.text or ""
        if re.search(r"[\\&${}^_]", words) and name != "mtext" and words not in "{}":
            raise MathError(f"{words} would show raw")
        if "\\" in words:
            raise MathError(f"{words} would show raw")
        if name in CHILDREN and len(element) != CHILDREN[name]:
            raise MathError(f"a part of a fraction, root, index or power is missing ({name} with {len(element)} parts)")


def upright_word(letters):
    """One element for a word of upright letters: it is read out, and copied, as a word."""
    return f"<mi>{''.join(re.findall(r'>(.)<', letters[0]))}</mi>"


def spaced(found):
    """log p and c tanh(x): a function's name keeps its distance, but not from its bracket."""
    _, name, script, bracket = found.groups()
    return f'<mo lspace="0.17em" rspace="{"0" if bracket else "0.17em"}">{name}</mo>{script}{bracket}'
