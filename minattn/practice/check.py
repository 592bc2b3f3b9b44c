"""The exercises by name: `check.softmax(my_softmax)` returns a Result; `check.all()` lists every one.

Whatever Exercise a file of this folder declares is here under its own name.
"""
import functools
import importlib
import pkgutil

from .exercise import Exercise

_MACHINERY = {  # these declare no exercises
    "arguments", "check", "compare", "exercise", "notebook", "progress", "result", "trace", "worker",
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


def __getattr__(name):
    if name.startswith("_") or name not in _found():
        near = ", ".join(_found())
        raise AttributeError(f"there is no check {name!r}; there are {near}")
    return _found()[name]


def __dir__():
    return ["all", *_found()]
