"""A notebook's kernel is told from everything else."""
import sys
from types import SimpleNamespace

from minattn.core.kernel import in_a_kernel


def test_a_kernel_is_told_from_a_terminal(monkeypatch):
    for shell, is_kernel in [(None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=object()), True)]:
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert in_a_kernel() is is_kernel
    monkeypatch.delitem(sys.modules, "IPython")
    assert in_a_kernel() is False


def test_that_ipykernel_was_imported_tells_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    assert in_a_kernel() is False
