"""The learner's own exception, shown as theirs: its type, its text, and the line of their code."""
import linecache
import os
import sysconfig
from pathlib import Path

import numpy as np

# frames in here are not the learner's: this package, NumPy, the standard library and whatever is installed
INSTALLED = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
PACKAGES = tuple(f"{folder.resolve()}{os.sep}" for folder in [Path(__file__).parents[1], Path(np.__file__).parent, *INSTALLED])


def explain(error, signature):
    """The learner's exception: its type, its text, and the last line of their own code that it went through."""
    try:
        text = f"{type(error).__name__}: {error}".rstrip(": ")
    except Exception:                               # an exception of the learner's own, whose text raises one too
        text = type(error).__name__
    where = place(error)
    return f"{text}\nin {where}" if where else f"{text}\nIt is called as {signature}."


def place(error):
    """"line 3: x = 1 / 0", the last line of the learner's own code that an exception went through (in a notebook too, whose
    cells `linecache` knows); "" where it went through none."""
    frames, frame = [], error.__traceback__
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if not str(Path(file).resolve() if Path(file).is_absolute() else file).startswith(PACKAGES):
            frames.append((file, frame.tb_lineno, frame.tb_frame.f_globals))
        frame = frame.tb_next
    if not frames:
        return ""
    file, number, scope = frames[-1]
    line = linecache.getline(file, number, scope).strip()
    return f"line {number}{': ' if line else ' of your code'}{line}"
