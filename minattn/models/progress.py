"""A progress bar where someone is watching, and silence elsewhere."""
import contextlib
import sys

from ..core.errors import DependencyError
from ..core.kernel import in_a_kernel


def watched():
    """Whether a person can see a bar that moves: a terminal, or a notebook."""
    return in_a_kernel() or (sys.stderr is not None and sys.stderr.isatty())


def bar(wanted, **options):
    """A `tqdm` bar, as a context manager; one that shows nothing where none is wanted.

    Parameters
    ----------
    wanted : bool or None
        None shows the bar if somebody can see it and tqdm is there.
    **options
        What tqdm takes: total, desc, unit ...

    Raises
    ------
    DependencyError
        If `wanted` is True and tqdm is not installed.
    """
    if wanted is None:
        wanted = watched()
        if wanted and _tqdm() is None:
            wanted = False
    if not wanted:
        return contextlib.nullcontext(_Silent())
    tqdm = _tqdm()
    if tqdm is None:
        raise DependencyError("progress=True needs tqdm: pip install 'minattn[models]'")
    return tqdm(**options)


class _Silent:
    """The part of tqdm's face that is used here, with nothing behind it."""

    n = 0

    def update(self, amount=1):
        pass


def _tqdm():
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
