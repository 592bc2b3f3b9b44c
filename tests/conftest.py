"""What the tests share: the optional oracles, skipped with a reason where a user lacks them, required where CI says so."""
import importlib
import os

import pytest

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
            _absent(name, f"{name} is not installed (pip install 'minattn[dev]')")

    return module


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
