"""A thousand random problems against torch.nn.functional.scaled_dot_product_attention, and the gradients of a quarter of them.

Torch speaks another dialect: no positions, a causal mask aligned top left, masks and biases as one argument, and rows that see
nothing are NaN or 0. So masks are made here as arrays, and such rows, which are 0 with us, are looked at apart.
"""
import numpy as np
import pytest

import minattn as ma
from minattn import masks

pytest.importorskip("numba", reason="numba is not installed: there is no backend cpu")

CASES, WITH_GRADIENTS, CHUNKS = 1000, 4, 20
LENGTHS = [1, 2, 7, 8, 9, 17, 64, 65, 129, 200]
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}            # 16 bits: two roundings of the result


def draw(rng, dtype):
    """q, k, v, one of the layouts that people have, and (B, H, N, S)."""
    B, G, group = rng.choice([1, 2, 3]), rng.choice([1, 2, 3]), rng.choice([1, 2, 3])
    N, S = rng.choice(LENGTHS, 2)
    D, Dv = rng.choice([8, 20, 33, 64, 80, 128, 256], 2)
    q, k, v = (rng.standard_normal((B, heads, length, dim)).astype(np.float32).astype(dtype) for heads, length, dim in
               ((G * group, N, D), (G, S, D), (G, S, Dv)))  # fmt: skip
    layouts = [
        lambda a: a, lambda a: a.swapaxes(1, 2).copy().swapaxes(1, 2), lambda a: a[..., ::-1], lambda a: a[:, :, ::-1],
        lambda a: np.repeat(a, 2, axis=2)[:, :, ::2], lambda a: np.asfortranarray(a), lambda a: np.broadcast_to(a[:1], a.shape),
        lambda a: np.broadcast_to(a[:, :, :1], a.shape),
    ]  # fmt: skip
    q, k, v = (layouts[rng.integers(len(layouts))](a) for a in (q, k, v))
    return (q, k, v), (B, G * group, N, S)


def options(rng, sizes):
    """(options of ours, booleans or None, bias or None): who may look, said in both dialects."""
    B, H, N, S = sizes
    ours, seen, bias = {}, None, None
    kind = rng.integers(8)
    if kind in (1, 2):
        seen = rng.random([(N, S), (B, 1, N, S), (1, H, N, S), (B, H, N, S), (1, 1, 1, S)][rng.integers(5)]) < rng.random()
        ours["mask"] = seen
    elif kind in (3, 4):
        mask = [masks.last(5), masks.window(3, 9), masks.prefix(4), masks.last(3) | masks.first(2)][rng.integers(4)]
        seen, ours["mask"] = mask.dense(N, S), mask
    elif kind == 5:
        mask = masks.padding(rng.integers(0, S + 1, B))
        seen, ours["mask"] = mask.dense(N, S), mask
    if rng.random() < 0.3:
        causal = masks.causal().dense(N, S)
        seen, ours["causal"] = causal if seen is None else seen & causal, True
    if rng.random() < 0.3:
        shape = [(N, S), (1, S), (H, N, 1), (B, H, N, S), (H, 1, 1)][rng.integers(5)]
        ours["bias"] = bias = rng.standard_normal(shape).astype(np.float32)
    if rng.random() < 0.3:
        ours["scale"] = float(rng.uniform(0.02, 0.3))
    return ours, seen, bias


@pytest.fixture
def torch(need):
    """On one thread: two libraries whose threads wait for each other's are slow."""
    module = need("torch")
    before = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_thousand_cases(chunk, torch, need):
    types = ["float32"] * 8 + ["float16", "bfloat16"]
    for seed in range(chunk, CASES, CHUNKS):
        rng = np.random.default_rng(seed)
        kind = types[rng.integers(len(types))]
        arrays, sizes = draw(rng, need("ml_dtypes").bfloat16 if kind == "bfloat16" else kind)
        ours, seen, bias = options(rng, sizes)
        wide = [torch.from_numpy(np.array(a, np.float32)) for a in arrays]
        if seed % WITH_GRADIENTS == 0:
            [a.requires_grad_() for a in wide]
        given = [a.to(getattr(torch, kind)) for a in wide]
        want, dead = by_torch(torch, given, seen, bias, ours.get("scale"), sizes)
        got, lse = ma.attention(*arrays, backend="cpu", return_lse=True, **ours)
        about = f"seed {seed}: {kind}, {[a.shape for a in arrays]}, {list(ours)}"
        assert got.dtype.name == kind
        assert not got[dead].any(), about
        assert (np.isneginf(lse) == dead).all(), about
        compare(got, want.detach().float().numpy(), ~dead, TOLERANCE[kind], f"out of {about}")
        if seed % WITH_GRADIENTS == 0:
            dout = rng.standard_normal(want.shape).astype(np.float32)
            alive = torch.from_numpy(~dead)[..., None]
            torch.where(alive, want.float(), 0).backward(torch.from_numpy(dout))
            grads = ma.attention_backward(dout.astype(arrays[0].dtype), *arrays, backend="cpu", **ours)
            for name, mine, theirs, array in zip("qkv", grads, wide, arrays, strict=False):
                size = max(float(theirs.grad.abs().max()), rounding(arrays, dout))
                compare(mine, theirs.grad.numpy(), np.s_[:], 2 * TOLERANCE[kind], f"d{name} of {about}", size)
                assert mine.shape == array.shape


def by_torch(torch, given, seen, bias, scale, sizes):
    """(torch's out in the type given, booleans (B, H, N) of the rows that see nothing)."""
    (q, k, v), (B, H, N, S) = given, sizes
    k, v = (a.repeat_interleave(H // a.shape[1], dim=1) for a in (k, v))
    dead = np.zeros((B, H, N), bool) if seen is None else ~np.broadcast_to(seen, (B, H, N, S)).any(axis=-1)
    mask = None if seen is None else torch.from_numpy(np.array(np.broadcast_to(seen, (B, 1 if seen.ndim == 2 else H, N, S))))
    if bias is not None:
        added = torch.from_numpy(bias).to(q.dtype).expand(B, H, N, S)
        mask = added if mask is None else torch.where(mask, added, -torch.inf)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale), dead


def rounding(arrays, dout):
    """The size of dP = dO V^T on its way to dq or dk: where a row's dP - delta cancels, its rounding is all there is."""
    q, k, v = (float(np.abs(a.astype(np.float32)).max()) for a in arrays)
    return 0.02 * float(np.abs(dout).max()) * v * max(q, k)


def compare(got, want, where, tolerance, about, size=None):
    got, want = got.astype(np.float32)[where], np.asarray(want)[where]
    size = np.abs(want).max(initial=0) if size is None else size
    error = np.abs(got - want).max(initial=0)
    assert error <= tolerance * max(size, 1e-30), f"{about}: error {error:.3g} beside {size:.3g}"
