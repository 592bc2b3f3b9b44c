"""When and how the kernels are compiled: on first use, kept on disk, and never stale.

Numba keeps a compiled function under the time stamp of its own file, but what is compiled into it comes from several
files. So the folder of the cache is named after the text of all files of this package: an edit anywhere is a new folder.
It lies in NUMBA_CACHE_DIR where that is set, else in the user's cache folder.
"""
import functools
import hashlib
import os
import sys
from pathlib import Path

import numba

from . import simd


@functools.cache
def folder():
    """The cache folder of exactly these sources."""
    text = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    root = numba.config.CACHE_DIR or os.path.join(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "minattn")
    return os.path.join(root, f"kernels-{hashlib.sha256(text).hexdigest()[:16]}")


def compiled(function, signature, **options):
    """`function`, compiled for one signature: read from the cache, or made now, with a word to whoever waits for it."""
    before = numba.config.CACHE_DIR
    try:
        os.makedirs(folder(), exist_ok=True)
        numba.config.CACHE_DIR = folder()                         # read when the dispatcher is made
        dispatcher = numba.njit(cache=True, **options)(function)
    finally:
        numba.config.CACHE_DIR = before
    ready = any(Path(folder()).rglob(f"*{function.__name__}*.nbi"))
    if not ready:
        wait = f"compiling the {function.__name__} kernel for {simd.LANES} lanes; once, about 10 seconds"
        print(f"minattn: {wait}", file=sys.stderr, flush=True)
    dispatcher.compile(signature)
    dispatcher.disable_compile()                                  # other layouts are taken as this one, never compiled anew
    return dispatcher
