"""The exercises of a lesson, read out of its notebook, and run without a kernel.

    cell     (kind, source) of a notebook, kind "markdown" or "code"
    task     a Markdown cell `**2 (medium).** ...` with three folds: Hint, Second hint, Answer
    blank    the code cell after it: something to define, and as last line `check.NAME(...)`
    filled   the blank with the Answer's definitions in place of its own

A cell needs little of the lesson that stands before it: `attempt` runs the statements that its names come from, and those
that theirs come from, and nothing else. So an exercise takes milliseconds, where the lesson runs a real model.
"""
import ast
import json
import linecache
import re
import symtable
from typing import NamedTuple

from ..core.errors import LessonError

HEAD = re.compile(r"^\*\*(\d+) \((easy|medium|hard)\)\.\*\*\s*", re.M)
FOLD = re.compile(r"<details>\s*<summary>(.*?)</summary>\n(.*?)\n</details>", re.S)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
CALL = re.compile(r"^check\.(\w+)\(", re.M)
KEPT = re.compile(r"^(?:\w+ *= *|(?:print|display)\()check\.(\w+)\(", re.M)         # what a learner makes of that line
FOLDS = ["Hint", "Second hint", "Answer"]


class Cell(NamedTuple):
    """One cell of a notebook."""

    kind: str
    source: str


class Task(NamedTuple):
    """One exercise as a lesson shows it."""

    number: int
    difficulty: str  # easy, medium or hard
    text: str  # what to write: Markdown, without the folds
    hints: tuple  # (first, second): Markdown
    answer: str  # the code shown in the Answer
    why: str  # what else the Answer says: Markdown, or ""
    blank: str  # the code cell as shipped
    check: str  # the name in check.NAME(...)
    at: int  # index of the code cell; the Markdown cell is the one before

    @property
    def call(self):
        """The last line of the cell, check.NAME(...)."""
        return self.blank.rstrip().splitlines()[-1]

    @property
    def filled(self):
        """The code cell with the Answer in place of the blank: what is shown is what runs."""
        return fill(self.blank, self.answer)


def read(path):
    """The cells of a notebook file; LessonError where it cannot be read as one."""
    try:
        return parse(path.read_bytes(), path)
    except OSError as error:
        raise LessonError(f"{path} cannot be read: {error.strerror or error}") from error


def parse(text, name="this lesson"):
    """The cells of a notebook's JSON, text or bytes; a source is one text or a list of lines."""
    try:
        return [Cell(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LessonError(f"{name} is no notebook: {type(error).__name__}: {error}") from error


def tasks(cells, name="this lesson"):
    """Every exercise in order; LessonError for one that is not in the form above, naming its number."""
    found = []
    for at, cell in enumerate(cells):
        head = HEAD.search(cell.source) if cell.kind == "markdown" else None
        if head is None:
            continue
        place = f"{name}, exercise {head[1]}"
        folds = FOLD.findall(cell.source)
        if [title for title, _ in folds] != FOLDS:
            raise LessonError(f"{place}: its folds are {[title for title, _ in folds]}, expected {FOLDS}")
        code = cells[at + 1] if at + 1 < len(cells) else Cell("none", "")
        calls = CALL.findall(code.source) if code.kind == "code" else []
        if len(calls) != 1:
            raise LessonError(f"{place}: expected a code cell after it with one line check.NAME(...), found {len(calls)}")
        answer = folds[2][1]
        blocks = BLOCK.findall(answer)
        if not blocks:
            raise LessonError(f"{place}: its Answer holds no ```python block")
        text = FOLD.sub("", cell.source[head.end():]).strip()
        found.append(Task(int(head[1]), head[2], text, tuple(hint.strip() for _, hint in folds[:2]), "\n".join(blocks).rstrip(),
                          BLOCK.sub("", answer).strip(), code.source, calls[0], at + 1))
    return found


def fill(blank, answer):
    """`blank` with each top-level definition that `answer` makes too taken out, and the answer where the first stood."""
    names = set().union(*map(stores, ast.parse(answer).body))
    twins = [node for node in ast.parse(blank).body if stores(node) & names]
    if not twins:
        raise LessonError(f"the Answer defines {', '.join(sorted(names)) or 'nothing'}, and the cell after it nothing of that")
    lines: list = blank.splitlines()
    for node in twins:
        first = min([node.lineno, *(line.lineno for line in getattr(node, "decorator_list", []))])
        lines[first - 1:node.end_lineno] = [answer if node is twins[0] else None] + [None] * (node.end_lineno - first)
    return "\n".join(line for line in lines if line is not None)


def answers(cells):
    """{check name: index of its code cell} in a learner's notebook; where two cells make the same call, the last.

    A call that is printed or kept under a name counts where there is none as shipped.
    """
    code = [(at, cell.source) for at, cell in enumerate(cells) if cell.kind == "code"]
    return {name: at for form in (KEPT, CALL) for at, source in code for name in form.findall(source)}


# --- running one cell ---------------------------------------------------------------------------------------------


def attempt(cells, at, task, place="<exercise>"):
    """Run the code cell at index `at` as an answer to `task`, and return the check's `Result`.

    The check is the package's own and its call the shipped one, whatever the learner made of that line. What the
    learner's code raises while it is defined is raised here; what it raises in the check is in the result.
    """
    from . import check

    source = plain(cells[at].source)
    linecache.cache[place] = len(source), None, source.splitlines(keepends=True), place
    tree = ast.parse(source, place)
    call = ast.parse(task.blank).body[-1]
    tree.body = [node for node in tree.body if not CALL.match(ast.unparse(node))]
    namespace = {"__name__": "__main__"}
    earlier = [node for cell in cells[:at] if cell.kind == "code" for node in statements(cell.source)]
    exec(compile(ast.Module(sources_of(earlier, [*tree.body, call]), []), "<lesson>", "exec"), namespace)
    exec(compile(tree, place, "exec"), namespace)
    return eval(compile(ast.Expression(call.value), "<call>", "eval"), {**namespace, "check": check})


def sources_of(earlier, wanted):
    """Those of the statements `earlier` that the names in the statements `wanted` come from, in their order."""
    names = set().union(*map(loads, wanted))
    kept: set = set()
    modules = set().union(*(stores(node) for node in earlier if isinstance(node, ast.Import | ast.ImportFrom)))
    touched = [stores(node) | (changes(node) - modules) for node in earlier]
    while new := [n for n, of in enumerate(touched) if of & names and n not in kept]:
        kept.update(new)
        names.update(*(loads(earlier[n]) for n in new))
    return [earlier[n] for n in sorted(kept)]


def statements(source):
    """The top-level statements of a cell; none where it is no Python, since a learner may leave half a line anywhere."""
    try:
        return ast.parse(plain(source)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):      # half a surrogate pair; too deep for the parser
        return []


def plain(source):
    """A cell without IPython's own lines (%magic, !shell, ?help and help?), each of which leaves an empty one."""
    return re.sub(r"^[%!?].*|^[\w.]+\?{1,2}[ ;]*$", "", source, flags=re.M)


def loads(node):
    """The global names that a statement reads, in functions that it defines too."""
    def reads(table, top):
        of = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
        return of.union(*(reads(child, False) for child in table.get_children()))

    return reads(_table(node), True)


def stores(node):
    """The global names that a statement binds."""
    return {s.get_name() for s in _table(node).get_symbols() if s.is_assigned() or s.is_imported()}


def changes(node):
    """The names whose objects a statement may change: x[0] = 1, x.y = 1, x.append(1)."""
    found = set()
    for part in ast.walk(node):
        target = part.func if isinstance(part, ast.Call) else part
        if isinstance(target, ast.Subscript | ast.Attribute) and (part is not target or not isinstance(target.ctx, ast.Load)):
            while isinstance(target, ast.Subscript | ast.Attribute):
                target = target.value
            found |= {target.id} if isinstance(target, ast.Name) else set()
    return found


def _table(node):
    return symtable.symtable(ast.unparse(node), "<statement>", "exec")
