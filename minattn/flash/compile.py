"""When and how the kernels are compiled: on first use, kept on disk, and never stale.

Numba keeps a compiled function under the time stamp of its own file, but what is compiled into it comes from several
files. So the folder of the cache is named after the text of all that kernels are made of: an edit anywhere is a new folder.
It lies in NUMBA_CACHE_DIR where that is set, else in the user's cache folder.
"""
import functools
import hashlib
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import numba
from numba.core import event

from ..core import blocks
from . import simd

LOCK = threading.RLock()              # the folder is set for all of Numba while a kernel is compiled


class Notice(event.Listener):
    """A word to whoever waits. Numba says when it compiles, and says nothing when it finds what it needs in its cache."""

    def __init__(self, kernel, kept):
        self.text = f"compiling the {kernel} kernel for {simd.LANES} lanes, about 10 seconds; {kept}"

    def on_start(self, event):
        if self.text:
            print(f"minattn: {self.text}", file=sys.stderr, flush=True)
        self.text = ""                # what the kernel is made of is compiled within it

    def on_end(self, event):
        pass


@functools.cache
def folder():
    """The cache folder of exactly these sources (and of the names of tiles, which are compiled in)."""
    here = Path(__file__).parent
    sources = [*sorted(here.glob("*.py")), *sorted((here.parent / "linear").glob("kernels*.py")), Path(blocks.__file__)]
    text = b"".join(path.read_bytes() for path in sources)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    root = numba.config.CACHE_DIR or os.path.join(cache, "minattn")
    return os.path.join(root, f"kernels-{hashlib.sha256(text).hexdigest()[:16]}")


def kept():
    """The names of the kernels that need not be compiled any more."""
    return sorted({path.name.partition(".")[0] for path in Path(folder()).rglob("*.nbi")})


@functools.cache
def writable():
    """Whether the folder can be made and written to."""
    try:
        os.makedirs(folder(), exist_ok=True)
        with tempfile.TemporaryFile(dir=folder()):
            return True
    except OSError:
        return False


def compiled(function, signature, **options):
    """`function`, compiled for one signature: read from the cache, or made now, with a word to whoever waits for it."""
    where = f"kept in {folder()}" if writable() else f"not kept, since {folder()} cannot be written to (set NUMBA_CACHE_DIR)"
    with LOCK, event.install_listener("numba:compile", Notice(function.__name__, where)):
        try:
            return _compiled(function, signature, cache=writable(), **options)
        except Exception:                                         # a damaged cache can fail in any way
            if not writable():
                raise
            shutil.rmtree(folder(), ignore_errors=True)
            os.makedirs(folder(), exist_ok=True)
            return _compiled(function, signature, cache=True, **options)


def _compiled(function, signature, **options):
    before = numba.config.CACHE_DIR
    try:
        if options["cache"]:
            numba.config.CACHE_DIR = folder()                     # read when the dispatcher is made
        dispatcher = numba.njit(**options)(function)
    finally:
        numba.config.CACHE_DIR = before
    dispatcher.compile(signature)
    dispatcher.disable_compile()                                  # other layouts are taken as this one, never compiled anew
    return dispatcher
