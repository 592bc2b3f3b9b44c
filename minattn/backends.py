"""Which backend computes: the one that is named, or under "auto" one by the size of the problem and by what is installed.

The choice never depends on what is asked back, so asking for weights or a gradient changes no bit of an output.
"""
import functools
import importlib
import importlib.util
import warnings

import numpy as np

from .core.errors import BackendError
from .core.shapes import lives_on_a_gpu

# each a module with forward, backward and weights, imported when it is first asked for
BACKENDS = {"numpy": "minattn.core.reference", "cpu": "minattn.flash.cpu"}
CUDA = "minattn.gpu.cuda"             # of attention alone; under "auto" where the arrays live on a GPU
# up to so many scores (B * H * N * S) the reference takes well under a millisecond: no reason to wait for a compiler
SMALL = 128 * 128


def home(name, **arrays):
    """For arrays that live on a GPU, what brings them to kernels (gpu.home.There); None for NumPy's.

    Raises
    ------
    BackendError
        If the backend that is named is for NumPy's arrays, or some of the arrays are NumPy's.
    """
    for array in arrays.values():
        if type(array) is not np.ndarray and lives_on_a_gpu(array):
            if not isinstance(name, str) or name not in ("auto", "cuda"):
                kind = type(array).__name__
                raise BackendError(f"backend is {name!r}, but arrays are given that live on a GPU ({kind}); 'cuda' takes them")
            return importlib.import_module("minattn.gpu.home").There(**arrays)
    return None


def engine(name, x):
    """The module that computes attention on the problem `x` (core.inputs.Inputs)."""
    if not isinstance(name, str) or name not in ("auto", *BACKENDS, "cuda"):
        raise BackendError(f"backend is {name!r}; here there is {', '.join(map(repr, ['auto', *BACKENDS, 'cuda']))}")
    if name == "cuda" or x.home is not None:
        return importlib.import_module(CUDA)
    scores = x.batch * x.q.shape[1] * x.q.shape[2] * x.k.shape[2]
    wide = x.work == np.float64                                  # its tiled form is plain NumPy
    name = choose(name, scores, compiled=not wide)
    return importlib.import_module("minattn.flash.online" if name == "cpu" and wide else BACKENDS[name])


def choose(name, size, *, compiled):
    """"numpy" or "cpu" for what the caller names, who may leave it to the `size` of the problem with "auto".

    Parameters
    ----------
    name : str
        "auto" or a name in BACKENDS.
    size : int
        The numbers that the plain form would make on the way; above SMALL "auto" means "cpu".
    compiled : bool
        Whether "cpu" is a Numba kernel for this problem: then it needs Numba.

    Raises
    ------
    BackendError
        If there is no such backend, or it is named and Numba is missing.
    """
    if not isinstance(name, str) or name not in ("auto", *BACKENDS):
        alone = "; 'cuda' computes attention alone" if isinstance(name, str) and name == "cuda" else ""
        raise BackendError(f"backend is {name!r}; here there is {', '.join(map(repr, ['auto', *BACKENDS]))}{alone}")
    if name == "auto":
        return "cpu" if size > SMALL and (not compiled or numba_is_here()) else "numpy"
    if name == "cpu" and compiled and not numba_is_here():
        raise BackendError("backend 'cpu' needs Numba for float32, which is not installed or does not load: pip install numba")
    return name


@functools.cache
def numba_is_here():
    """Whether Numba loads; of one that is installed but does not (made for another NumPy, say) the user is told once."""
    if importlib.util.find_spec("numba") is None:
        return False
    try:
        importlib.import_module("numba")
    except (ImportError, OSError) as error:
        warnings.warn(f"Numba is installed but does not load, so NumPy computes: {error}", stacklevel=5)
        return False
    return True
