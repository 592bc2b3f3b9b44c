"""What the tests share: the optional oracles, skipped with a reason where a user lacks them, required where CI says so."""
import importlib
import os
from math import exp, log

import hypothesis
import numpy as np
import pytest

# drawn the same way on every machine, and nothing left behind
hypothesis.settings.register_profile("minattn", deadline=None, max_examples=40, derandomize=True, database=None)
hypothesis.settings.load_profile("minattn")

REQUIRED = set(os.environ.get("MINATTN_REQUIRE", "").replace(",", " ").split())


def _absent(what, reason):
    """Skip, or fail where MINATTN_REQUIRE names it (CI installs everything, so a skip there is a hole)."""
    if what in REQUIRED:
        pytest.fail(f"{what} is required here, but {reason}")
    pytest.skip(reason)


@pytest.fixture
def need():
    """`torch = need("torch")`: the module, or a skip that says what to install."""

    def module(name):
        try:
            return importlib.import_module(name)
        except ImportError:
            package = name.partition(".")[0]
            _absent(package, f"{package} is not installed (pip install 'minattn[dev]')")

    return module


@pytest.fixture
def need_tool():
    """`need_tool("ptxas")`: one of NVIDIA's tools is here, or a skip that says what to install."""

    def tool(name):
        from minattn.gpu import machine

        try:
            machine.find(name)
        except ImportError as error:
            _absent(name, str(error))

    return tool


@pytest.fixture
def need_gpu():
    """`gpu = need_gpu()`: the place where kernels run on a GPU, or a skip that says what is missing: package, driver or GPU."""

    def place():
        from minattn.core.errors import BackendError, DependencyError
        from minattn.gpu.device import Gpu

        try:
            return Gpu()
        except (DependencyError, BackendError) as reason:
            _absent("gpu", str(reason))

    return place


@pytest.fixture
def need_weights():
    """`model = need_weights()`: SmolLM2 from the cache folder, never fetched by a test."""

    def load():
        from minattn import models

        try:
            return models.load("smollm2", download=False)
        except models.WeightsError:
            _absent("weights", "SmolLM2's weights are not here (minattn fetch smollm2)")

    return load


@pytest.fixture(scope="session")
def drawn():
    """`q, k, v = drawn(seed)`: (B, H, N, D), (B, G, S, D), (B, G, S, Dv), no two sizes equal unless asked for."""

    def draw(seed, B=2, H=6, G=3, N=5, S=7, D=4, Dv=3, dtype=np.float64):
        rng = np.random.default_rng(seed)
        shapes = (B, H, N, D), (B, G, S, D), (B, G, S, Dv)
        return [rng.standard_normal(shape).astype(dtype) for shape in shapes]

    return draw


@pytest.fixture(scope="session")
def close():
    """`close(got, want, tolerance)`: same shape, and the largest error within `tolerance` of the largest number wanted."""

    def check(got, want, tolerance=1e-10):
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        assert got.shape == want.shape
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
        finite = np.isfinite(want)
        np.testing.assert_array_equal(got[~finite], want[~finite])
        error, size = np.abs(got[finite] - want[finite]).max(initial=0), np.abs(want[finite]).max(initial=0)
        assert error <= tolerance * max(size, 1e-300), f"largest error {error:.3g} beside largest value {size:.3g}"

    return check


@pytest.fixture(scope="session")
def by_hand():
    """`out, weights, lse = by_hand(q, k, v, ...)`: attention over four axes, one pair of query and key after the other."""

    def loops(q, k, v, *, seen=True, bias=0.0, change=lambda s, b, h, n, m: s, sink=None, scale=None):
        q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
        (B, H, N, D), S, group = q.shape, k.shape[2], q.shape[1] // k.shape[1]
        seen, bias = np.broadcast_to(seen, (B, H, N, S)), np.broadcast_to(bias, (B, H, N, S))
        out, weights, lse = np.zeros((B, H, N, v.shape[-1])), np.zeros((B, H, N, S)), np.full((B, H, N), -np.inf)
        for b, h, n in np.ndindex(B, H, N):
            keys = [s for s in range(S) if seen[b, h, n, s]]
            scores = {s: (q[b, h, n] @ k[b, h // group, s]) * (D**-0.5 if scale is None else scale) for s in keys}
            scores = {s: change(score, b, h, n, s) + bias[b, h, n, s] for s, score in scores.items()}
            logits = [*scores.values(), *([] if sink is None else [sink[h]])]
            if logits:
                lse[b, h, n] = max(logits) + log(sum(exp(x - max(logits)) for x in logits))
            for s, score in scores.items():
                weights[b, h, n, s] = exp(score - lse[b, h, n])
                out[b, h, n] += weights[b, h, n, s] * v[b, h // group, s]
        return out, weights, lse

    return loops


@pytest.fixture(scope="session")
def slopes():
    """`slopes(loss, x)`: d loss(x) / d x by central differences, one number of the float64 array x after the other."""

    def differences(loss, x, step=1e-5):
        gradient = np.zeros(x.shape)
        for index in np.ndindex(x.shape):
            up, down = x.copy(), x.copy()
            up[index], down[index] = x[index] + step, x[index] - step
            gradient[index] = (loss(up) - loss(down)) / (up[index] - down[index])
        return gradient

    return differences
