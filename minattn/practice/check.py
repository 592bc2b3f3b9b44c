"""The exercises by name: `check.softmax(my_softmax)` returns a Result; `check.all()` lists every one.

Whatever Exercise a file of this folder declares is here under its own name. `check.tests(my_test)` turns it round: you
write the test, and the bug zoo (zoo/) holds what it should find.
"""
import ast
import functools
import importlib
import pkgutil

from .exercise import Exercise
from .zoo import FAMILIES, tests

_MACHINERY = {  # these declare no exercises
    "arguments", "check", "compare", "exercise", "notebook", "progress", "result", "trace", "worker", "zoo",
}  # fmt: skip


@functools.cache
def _found():
    found: dict[str, Exercise] = {}
    folder = importlib.import_module(__package__ or "")
    for module in sorted(module.name for module in pkgutil.iter_modules(folder.__path__)):
        if module in _MACHINERY:
            continue
        for thing in vars(importlib.import_module(f"{__package__}.{module}")).values():
            if isinstance(thing, Exercise):
                if found.setdefault(thing.name, thing) is not thing:
                    raise ValueError(f"two exercises are called {thing.name!r}")
    return found


def all():
    """{name: Exercise}, in alphabetical order.

    Examples
    --------
    >>> from minattn.practice import check
    >>> "softmax" in check.all()
    True
    """
    return dict(sorted(_found().items()))


def behind(call):
    """The Exercise that a lesson's last line calls, or the zoo's Family: of 'check.tests(my_test, of="rope")' that of rope."""
    line = ast.parse(call, mode="eval").body
    if not (isinstance(line, ast.Call) and isinstance(line.func, ast.Attribute)):
        raise ValueError(f"{call!r} calls no check")
    if line.func.attr != tests.__name__:
        return _found()[line.func.attr]
    options = {option.arg: ast.literal_eval(option.value) for option in line.keywords}
    return FAMILIES[options.get("of", "attention")]


def __getattr__(name):
    if name.startswith("_") or name not in _found():
        near = ", ".join(_found())
        raise AttributeError(f"there is no check {name!r}; there are {near}")
    return _found()[name]


def __dir__():
    return ["all", "behind", "tests", *_found()]
