"""What the tests of the linear family share: drawn tokens of one recurrence, no two sizes equal."""
import numpy as np
import pytest


def unit(a):
    return a / np.linalg.norm(a, axis=-1, keepdims=True)


@pytest.fixture(scope="session")
def tokens():
    """`given, options = tokens(seed, N, decay=..., erase=..., ...)`: q, k, v by name, and the options of `recurrence`."""

    def draw(seed, N, decay=None, erase=False, normalize=False, state=True, B=2, H=6, G=3, D=5, Dv=4, dtype=np.float64):
        rng = np.random.default_rng(seed)
        q, k, v = (rng.standard_normal((B, *shape)) for shape in ((H, N, D), (G, N, D), (G, N, Dv)))
        options = {}
        if decay is not None:
            shape = {"constant": (B, G, 1), "token": (B, G, N), "channel": (B, G, N, D)}[decay]
            options["log_decay"] = -rng.exponential(0.3, shape)
        if erase:
            k = unit(k)
            options["erase"] = -k * rng.uniform(0, 2, (B, G, N, 1)), unit(k + 0.1 * rng.standard_normal(k.shape))
        if normalize:
            q, k, options["normalize"] = abs(q), abs(k), True
        if state:
            options["state"] = rng.standard_normal((B, G, D, Dv + normalize))
            options["state"][..., Dv:] = abs(options["state"][..., Dv:]) + 1
        given = {name: a.astype(dtype) for name, a in zip("qkv", (q, k, v), strict=True)}
        cast = {"log_decay", "state"} & set(options)
        options |= {name: options[name].astype(dtype) for name in cast}
        if erase:
            options["erase"] = tuple(a.astype(dtype) for a in options["erase"])
        return given, options

    return draw
