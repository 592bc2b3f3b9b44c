"""The bug zoo: real bugs of the field, each a few lines with the public thread that told of it. You write the test.

    def my_test(attention):                             # takes the function under test, draws its own inputs
        ...
        assert np.allclose(attention(q, k, v), want)

    check.tests(my_test)                                # which bugs it kills, and which survive
    check.tests(my_test, of="heads")                    # another family: heads, rope, kv_cache, rollout

Each file holds the families of one part of a model; family.py is the engine. A bug is this project's own code for what a
thread reports, and that thing alone is wrong with it.
"""
from .attention import attention
from .cache import kv_cache
from .family import Bug, Family, Verdict
from .heads import heads, rope
from .maps import rollout

__all__ = ["FAMILIES", "Bug", "Family", "Verdict", "tests"]

FAMILIES = {family.name: family for family in (attention, heads, rope, kv_cache, rollout)}


def tests(test, of="attention"):  # noqa: PT028 (it takes tests and is none)
    """Run a test on a right function and on real bugs of it.

    Parameters
    ----------
    test : callable
        `test(function)`, which raises where the function is wrong, best by `assert`. It draws its own inputs.
    of : {"attention", "heads", "rope", "kv_cache", "rollout"}
        The family, which says how the function is called:
        `attention(q, k, v, causal=False, mask=None, window=None, softcap=None, return_weights=False)`,
        `heads(q, k, v, heads, kv_heads)`, `rope(x, positions, layout)`, `kv_cache(q, k, v, cache=None)`,
        `rollout(maps, fuse="mean")`.

    Returns
    -------
    Verdict
        A Result with `.killed` and `.survived`, names of bugs. True where none survives. Nothing is raised.

    Examples
    --------
    >>> import numpy as np, minattn as ma
    >>> from minattn.practice import check
    >>> def square(attention):
    ...     q, k, v = np.random.default_rng(0).standard_normal((3, 5, 4))
    ...     assert np.allclose(attention(q, k, v, causal=True), ma.attention(q, k, v, causal=True))
    >>> "causal from the top left" in check.tests(square).survived      # where N = S, both alignments agree
    True
    """
    if of not in FAMILIES:
        return Verdict("tests", "error", f"There is no family of bugs {of!r}; there are {', '.join(FAMILIES)}.")
    return FAMILIES[of](test)
