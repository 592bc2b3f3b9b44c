"""Compiling kernels once: kept on disk, under a key that covers all of their sources, and said aloud while one waits.

Numba's own cache looks at the file of the compiled function alone, and would go on using a kernel after a change in a file
that it takes steps from. Here the key is a digest of the whole room, with the lanes and versions it was compiled for.
"""
import functools
import hashlib
import sys
from pathlib import Path

import llvmlite
import numba

from .simd import LANES


@functools.cache
def _key():
    digest = hashlib.sha256(f"{LANES} {numba.__version__} {llvmlite.__version__}".encode())
    for source in sorted([*Path(__file__).parent.glob("*.py"), Path(__file__).parents[1] / "core" / "blocks.py"]):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def kernel(**options):
    """Like `numba.njit(cache=True, **options)`, with the cache keyed as above; for functions called from Python."""

    def compile_later(function):
        dispatcher = numba.njit(**options)(function)
        dispatcher.enable_caching()
        file = dispatcher._cache._cache_file
        file._source_stamp = _key()

        @functools.wraps(function)
        def call(*arguments):
            if not dispatcher.signatures and not file._load_index():
                wait = f"compiling the CPU kernel {function.__name__!r}: some seconds, once on this machine"
                print(f"minattn: {wait}", file=sys.stderr)
            return dispatcher(*arguments)

        return call

    return compile_later
