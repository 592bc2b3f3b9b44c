"""Kernels in processes that have threads of their own, or were forked: right answers, and nobody is ended."""
import os
import subprocess
import sys

import pytest

pytest.importorskip("numba", reason="numba is not installed: there is no backend cpu")

START = """
import os, sys, threading, warnings
import numpy as np, minattn as ma
q, k, v = np.random.default_rng(0).standard_normal((3, 2, 150, 16)).astype(np.float32)
want = ma.attention(q, k, v, causal=True, backend="cpu")
grads = ma.attention_backward(q, q, k, v, causal=True, backend="cpu")
"""
AT_ONCE = """
wrong = []
def work():
    for _ in range(20):
        if not np.array_equal(ma.attention(q, k, v, causal=True, backend="cpu"), want):
            wrong.append("forward")
        if not np.array_equal(ma.attention_backward(q, q, k, v, causal=True, backend="cpu").dq, grads.dq):
            wrong.append("backward")
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads], [t.join() for t in threads]
print(wrong or "right")
"""
FORK = """
child = os.fork()
if child == 0:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        got = ma.attention(q, k, v, causal=True, backend="cpu")
        mine = ma.attention_backward(q, q, k, v, causal=True, backend="cpu")
    near = all(np.allclose(a, b, atol=1e-5) for a, b in zip((got, *mine[:3]), (want, *grads[:3])))
    import numba
    told = any("forked" in str(w.message) for w in said)
    os._exit(0 if near and told == (numba.threading_layer() == "omp") else 3)
print("right" if os.waitpid(child, 0)[1] == 0 else "wrong")
"""


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
@pytest.mark.parametrize("then", [AT_ONCE, FORK], ids=["several threads", "fork"])
def test_processes(then, layer):
    if then is FORK and not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer}
    run = subprocess.run([sys.executable, "-c", START + then], env=environment, capture_output=True, text=True, timeout=300)
    if "No threading layer could be loaded" in run.stderr:
        pytest.skip(f"Numba has no threading layer {layer} here")
    assert (run.returncode, run.stdout.strip()) == (0, "right"), run.stderr
