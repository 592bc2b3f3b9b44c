"""Where this process runs: in a notebook's kernel or not."""
import sys


def in_a_kernel():
    """Whether this process has an IPython shell, and one that a kernel made; that ipykernel was imported tells nothing."""
    IPython = sys.modules.get("IPython")
    shell = IPython.get_ipython() if IPython else None
    return getattr(shell, "kernel", None) is not None
