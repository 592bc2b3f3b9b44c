"""An exercise's arguments: walked through for arrays, widened for the reference, and put in words for a learner."""
import re

import numpy as np

HALF = "float16", "bfloat16"


def arrays(exercise, case):
    """[(name, array)] of every array among the arguments, also inside tuples, lists and dicts."""
    found: list[tuple[str, np.ndarray]] = []

    def walk(name, value):
        if isinstance(value, np.ndarray):
            found.append((name, value))
        elif isinstance(value, tuple | list | dict):
            for each in value.values() if isinstance(value, dict) else value:
                walk(name, each)

    for name, value in named(exercise, case):
        walk(name, value)
    return found


def named(exercise, case):
    """[(argument's name, value)] of a case."""
    if isinstance(case, dict):
        return list(case.items())
    names = re.findall(r"[A-Za-z_]\w*", exercise.signature.partition("(")[2])
    return [(names[n] if n < len(names) else f"argument {n + 1}", value) for n, value in enumerate(case)]


def half(case):
    """Whether a case holds 16-bit floats."""
    values = case.values() if isinstance(case, dict) else case
    return any(getattr(getattr(value, "dtype", None), "name", "") in HALF for value in values)


def describe(exercise, case):
    """'scores (3, 5), n = 2'."""
    words = []
    for name, value in named(exercise, case):
        array = isinstance(value, np.ndarray) and value.ndim
        words.append(f"{name} {value.shape}{f' {value.dtype}' if half([value]) else ''}" if array else f"{name} = {brief(value)}")
    return ", ".join(words)


def brief(value):
    """What something is, in a few words."""
    if isinstance(value, np.ndarray):
        return f"an array {value.shape}"
    if isinstance(value, tuple | list) and any(isinstance(part, tuple | list) or np.ndim(part) for part in value):
        return f"a {type(value).__name__} of {len(value)}"
    try:
        text = repr(value.item() if isinstance(value, np.generic) else value)
    except Exception:                               # a class half written: its __repr__ reads what is not there yet
        return f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"a {type(value).__name__}"


def widen(value):
    """The same, with 16-bit floats as float64: what the reference reads."""
    if isinstance(value, tuple | list):
        return type(value)(map(widen, value))
    if isinstance(value, dict):
        return {key: widen(each) for key, each in value.items()}
    return value.astype(np.float64) if half([value]) else value
