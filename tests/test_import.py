"""Importing minattn costs little and needs NumPy alone; what has rooms of its own loads when first used."""

import ast
import pathlib
import subprocess
import sys

import pytest

import minattn as ma

HEAVY = "numba", "matplotlib", "tokenizers", "safetensors", "tqdm", "torch", "transformers", "ml_dtypes"


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_numpy_alone():
    loaded = python("import sys, minattn; print(' '.join(sys.modules))").split()
    assert "numpy" in loaded
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)
    rooms = tuple(f"minattn.{room}" for room in ("models", "plot", "practice", "cli", "linear", "sparse", "analysis", "gpu"))
    assert not [name for name in loaded if name.startswith(rooms)]


def test_the_exercises_need_numpy_alone():
    loaded = python("import sys, minattn as ma; ma.check.softmax(ma.softmax); print(' '.join(sys.modules))").split()
    assert "minattn.practice.check" in loaded
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)


PLAIN = """
import sys
for name in {heavy!r}:
    sys.modules[name] = None                                          # importing it raises ImportError
import numpy as np, minattn as ma
rng = np.random.default_rng(0)
q, k, v = rng.standard_normal((3, 2, 4, 6, 8))
mask = ma.masks.causal() & (ma.masks.padding([6, 3]) | ma.masks.segments(np.zeros(6, int)))
out, weights, lse = ma.attention(q, k[:, :2], v[:, :2], mask=mask, return_weights=True, return_lse=True)
ma.attention_backward(out, q, k[:, :2], v[:, :2], mask=mask, out=out, lse=lse)
ma.attention_weights(q, k, heads=1, rows=[0, 2], top=2)
ma.steps(q, k, v, causal=True), ma.merge(out, lse, out, lse), repr(mask)
cache = ma.KVCache(2, 4, 8, 8)
k_all, v_all, q_pos, k_pos = cache.append(k, v)
ma.attention(q, k_all, v_all, causal=True, q_pos=q_pos, k_pos=k_pos)
ma.RollingCache(2, 4, 3, 8, first=1).append(k, v)
layer = ma.MultiHeadAttention.random(12, heads=6, kv_heads=2, rope={{"layout": "half"}})
x = rng.standard_normal((2, 5, 12))
layer.backward(layer(x), x), layer(x, mask=ma.masks.last(2), cache=layer.new_cache(2, 9))
ma.positions.sinusoidal(np.arange(3), 4), ma.positions.alibi_slopes(6)
ma.topk_attention(q, k, v, keep=2), ma.strided_attention(q, k, v, stride=2), ma.reach(ma.masks.last(2), 3, 6)
out = out + ma.recurrence(q, k, v, log_decay=-np.ones((1, 4, 1)), erase=(-k, k / 8))
ma.recurrence_backward(out, q, k, v, normalize=True)
out = out + ma.ssd(v, np.ones((2, 4, 6)), -np.ones(4), k, q, chunk=4)
out = out + ma.selective_scan(v, abs(k), -np.ones((8, 3)), q[..., :3], k[..., :3], form="associative")
ma.mamba_block(x, ma.MambaWeights.random(12)), ma.mamba2_block(x, ma.Mamba2Weights.random(12, heads=4))
ma.performer_attention(q, k, v, features=5, seed=0, causal=True), ma.linformer_attention(q, k, v, k[0, 0].T, v[0, 0].T)
ma.implied_weights(ma.recurrence, q, k, v)
memory = ma.ExternalMemory(4, 9, 8, lead=(2,))
memory.append(k, v)
out = out + ma.memorizing_attention(q, k, v, gate=np.zeros(4), memory=memory, keep=3)
out = out + ma.streaming_attention(q, k, v, window=3, first=1, rope={{"layout": "half"}})
rows = ma.CompressiveMemory(2, 2, rate=2)
rows.append(x)
ma.transformer_xl_attention(x, ma.XLWeights.random(12, heads=2), memory=rows.rows, segment=2)
ma.needle_recall([3], length=16, window=8, dim=4, trials=2)
print("done", float(out.sum()))
"""


def test_all_that_is_plain_numpy_works_without_the_rest():
    done = python(PLAIN.format(heavy=HEAVY))
    assert done.startswith("done ")
    assert done == python(PLAIN.format(heavy=()))  # and gives the same numbers


def test_no_gpu_is_looked_for_unasked():
    work = "q = np.ones((4, 3, 8)); ma.attention(q, q, q), ma.attention_backward(q, q, q, q), ma.attention_weights(q, q)"
    loaded = python(f"import sys, numpy as np, minattn as ma; {work}; print(' '.join(sys.modules))").split()
    assert "minattn.attention" in loaded
    assert not [name for name in loaded if name.startswith(("minattn.gpu", "numba.cuda", "numba_cuda"))]


def test_names():
    assert set(ma.__all__) <= set(dir(ma))
    for name in set(ma.__all__) - {"analysis", "check", "models", "plot", "practice", "sparse"}:
        thing = getattr(ma, name)
        assert thing.__doc__
    with pytest.raises(AttributeError, match="has no attribute 'atention'"):
        _ = ma.atention


def test_rooms_load_when_first_used():
    loaded = "'minattn.models' in sys.modules"
    out = python(f"import sys, minattn as ma; before = {loaded}; ma.models; print(before, {loaded})")
    assert out == "False True"


def test_rooms_import_downward_only():
    """core knows nothing of the front door, and neither knows layers, models, plots or commands."""
    floors = [
        ["core"], ["backends", "flash", "gpu"], ["attention"], ["multihead", "sparse", "linear", "ring", "memory"],
        ["analysis", "models"], ["plot", "practice", "bench"], ["cli"],
    ]  # fmt: skip
    order = {room: floor for floor, rooms in enumerate(floors) for room in rooms}
    root = pathlib.Path(ma.__file__).parent
    for path in root.rglob("*.py"):
        here = path.relative_to(root).with_suffix("").parts
        if here[0] not in order:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = ["minattn", *here][: 1 + len(here) - node.level]
            for name in node.names:
                full = [*base[1:], *(node.module or "").split("."), name.name] if node.module else [*base[1:], name.name]
                room = next((part for part in full if part), "")
                if room in order:
                    assert order[room] <= order[here[0]], f"{'.'.join(here)} imports {'.'.join(full)}"
                    assert {here[0], room} != {"analysis", "models"}, "these two stand side by side"
                    assert not (here[0] == "plot" and room in ("models", "practice")), "plot knows no models"
                    assert not (here[0] == "practice" and room == "plot"), "practice draws nothing"
