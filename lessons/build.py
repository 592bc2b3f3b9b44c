"""Build the lessons: run each source `NN_name.py` in a fresh kernel and write `NN_name.ipynb` beside it.

    python lessons/build.py              every lesson
    python lessons/build.py 03 05        these
    python lessons/build.py --check      run nothing; exit 1 where a notebook's cells are not its source's
    python lessons/build.py --form student --to FOLDER      notebooks for a class, without answers (forms.py);
    python lessons/build.py --form teacher --to FOLDER      with answers, run, and the mistakes that each check names

A source is a percent script: `# %%` opens a code cell, `# %% [markdown]` a text cell. Edit the source, never the
notebook. A build fails, and leaves the old notebook as it was, when a cell raises, when a cell writes to stderr
(a warning, a progress bar: a reader of the notebook would stumble over it), or when an output holds a memory
address, which would be another one on the next build. Two builds differ only in numbers that were measured.
"""
import argparse
import asyncio
import functools
import importlib.util
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
CELL_SECONDS = 300                                                    # no cell comes near it: a hang ends the build

# What the kernel reads instead of the builder's own settings, so that everybody draws the same pictures.
PROFILE = """
c.InlineBackend.figure_formats = {"png"}
c.InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "metadata": {"Software": None}}
c.InteractiveShell.colors = "nocolor"
c.IPKernelApp.log_level = 40
"""
# One BLAS thread: sums come out the same everywhere, and times that a lesson measures are those of one core.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "VECLIB_MAXIMUM_THREADS": "1",
    "MINATTN_PROGRESS": "off", "PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "JUPYTER_PREFER_ENV_PATH": "1",
}


class BuildError(Exception):
    """A lesson that cannot be built; the text shows the cell."""


def sources(wanted=()):
    """The lessons' sources in order; `wanted` picks by number or by the beginning of the name."""
    found = sorted(HERE.glob("[0-9][0-9]_*.py"))
    for name in wanted:
        if not any(path.stem.startswith(name) for path in found):
            raise BuildError(f"no lesson {name!r}; there are {', '.join(path.stem for path in found) or 'none'}")
    return [path for path in found if not wanted or path.stem.startswith(tuple(wanted))]


def read(source):
    """The notebook that a percent source describes: fixed cell ids, no outputs yet."""
    import jupytext
    import nbformat

    notebook = jupytext.read(source, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{source.stem[:2]}-{number:02}"
        cell.metadata = {"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {}
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return nbformat.from_dict(notebook)


def execute(notebook, stored=False):
    """Run every cell in a fresh kernel that works in the lessons folder; the outputs land in the notebook.

    With `stored` it reads the stored maps, as it does where the model's weights are not here.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, DeadKernelError

    metadata, started = dict(notebook.metadata), []
    compile_kernels()
    with tempfile.TemporaryDirectory() as home:
        profile = Path(home, "profile_default", "ipython_kernel_config.py")
        profile.parent.mkdir()
        profile.write_text(f"c = get_config()\n{PROFILE}")
        defaults = Path(home, "matplotlibrc")
        defaults.touch()
        os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"                   # this interpreter's kernel, not the user's
        client = NotebookClient(
            notebook, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False, coalesce_streams=True,
            resources={"metadata": {"path": str(HERE)}},
            on_cell_start=lambda cell_index, **_: started.append(cell_index),
        )
        environment = {**os.environ, **ENVIRONMENT, "IPYTHONDIR": home, "MATPLOTLIBRC": str(defaults)}
        if stored or not weights_here():
            environment["MINATTN_STORED_MAPS"] = "1"                  # a build never fetches
        try:
            asyncio.run(client.async_execute(env=environment))
        except (CellControlSignal, DeadKernelError) as error:         # the first: a cell that raised, or ran too long
            raise BuildError(f"cell {started[-1]} failed\n{error}") from None
    notebook.metadata = metadata                                      # the kernel adds its Python version
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
            refuse_unsteady(number, cell)
    return notebook


@functools.cache
def compile_kernels():
    """Have the CPU kernels compiled, where they are not: what the library says of that wait would land in a lesson."""
    if importlib.util.find_spec("numba") is None:
        return
    import minattn as ma

    x = np.ones((1, 2, 70, 16), np.float32)
    ma.attention(x[:, :, :1], x, x, backend="cpu")                    # one query: the decoding kernel
    ma.attention_backward(x, x, x, x, backend="cpu")                  # and forward, and backward
    ma.linear_attention(x, x, x, backend="cpu")                       # the recurrence, for the whole linear family
    ma.strided_attention(x, x, x, stride=8, backend="cpu")            # what joins the parts of a sparse pattern


def weights_here():
    """Whether the lessons can run the real model."""
    from minattn.models import download

    return download.find("smollm2") is not None


def refuse_unsteady(number, cell):
    """Raise for an output on stderr, and for one that holds a memory address."""
    for output in cell.outputs:
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        if output.get("name") == "stderr":
            raise BuildError(f"cell {number} writes to stderr\n{cell.source}\n---\n{text}")
        if re.search(r"\bat 0x[0-9a-f]{6,}", text):
            raise BuildError(f"cell {number} shows a memory address (end the line with ;)\n{cell.source}\n---\n{text}")


def built(source):
    """The notebook beside `source`, as it was built."""
    import nbformat

    try:
        return nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    except (OSError, ValueError, TypeError, AttributeError, nbformat.ValidationError) as error:
        raise BuildError(f"its notebook cannot be read: {' '.join(str(error).split())[:200]}") from error


def differences(source):
    """What the notebook beside `source` has otherwise than its source: a list of lines, empty where they agree."""
    target = source.with_suffix(".ipynb")
    if not target.exists():
        return ["there is no notebook"]
    want, have = read(source).cells, built(source).cells
    lines = [] if len(want) == len(have) else [f"{len(want)} cells in the source, {len(have)} in the notebook"]
    for number, (mine, theirs) in enumerate(zip(want, have, strict=False)):
        if (mine.cell_type, mine.source) != (theirs.cell_type, theirs.source):
            lines.append(f"cell {number} differs")
    return lines


def write(notebook, target):
    """Write the notebook whole or not at all."""
    import nbformat

    part = target.with_suffix(".ipynb.part")
    part.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    os.replace(part, target)


def in_form(source, form):
    """The notebook of a lesson in one of the forms for a class."""
    import forms

    from minattn.core.errors import LessonError

    try:
        if form == "student":
            return forms.student(built(source))
        blank = read(source)
        return forms.teacher(blank, execute(forms.filled(blank)))
    except LessonError as error:
        raise BuildError(str(error)) from error


def new_folder(folder):
    """An empty folder with all that the notebooks need beside them; what is there already is never written over."""
    import forms

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BuildError(f"--to {folder}: there is something already; name a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        forms.beside(HERE, folder)
    except OSError as error:
        raise BuildError(f"--to {folder} cannot be written: {error}") from error


def main(argv=None):
    """Build or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lesson", nargs="*", help="a lesson's number, such as 03; without any: all")
    parser.add_argument("--check", action="store_true", help="run nothing; exit 1 where notebook and source disagree")
    parser.add_argument("--form", choices=("student", "teacher"), help="a form for a class; needs --to")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="a new folder for the notebooks in that form")
    options = parser.parse_args(argv)
    if bool(options.form) != bool(options.to) or (options.form and options.check):
        parser.error("--form and --to go together, and without --check")
    failed = 0
    try:
        wanted = sources(options.lesson)                              # a lesson that there is not leaves no folder behind
        if options.to:
            new_folder(options.to)
        if not options.check and not weights_here():
            print("SmolLM2 is not here, so the lessons read their stored maps; before a commit: minattn fetch smollm2")
        for source in wanted:
            if options.check:
                try:
                    lines = differences(source)
                except BuildError as error:
                    lines = [str(error)]
                print(f"{source.stem}: {'; '.join(lines) or 'ok'}")
                failed += bool(lines)
                continue
            start = time.perf_counter()
            try:
                built = in_form(source, options.form) if options.form else execute(read(source))
                write(built, (options.to or HERE) / f"{source.stem}.ipynb")
                print(f"{source.stem}: {time.perf_counter() - start:.1f} s", flush=True)
            except BuildError as error:
                print(f"{source.stem}: {error}", file=sys.stderr, flush=True)
                failed += 1
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
