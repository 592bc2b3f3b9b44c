"""Who is timed on a GPU: each rival is `prepare(case, numbers) -> Work`, and whatever a call needs besides is made there.

    naive, rows, block, registers, tensor, backward, decode, recurrence      the kernels of minattn/gpu
    careful    kernel 5 and what backend="cuda" runs after it where a mask hides something
    math, efficient, flash, cudnn      PyTorch's scaled_dot_product_attention, each of its backends by itself
    matmul, copy                       what this GPU does at most

All read the same numbers. A backend that refuses a case says why, where it says so.
"""
from typing import Any

import numpy as np

from ...core.blocks import block_map
from ...core.inputs import prepare
from ...gpu.kernels import backward, careful, decode, recurrence, registers, tensor
from ...gpu.problem import problem
from ...gpu.where import sent
from ..rivals import Absent
from .answers import lacks
from .cases import flat, rows
from .problems import EVERYTHING, LADDER, as_numbers
from .sdpa import BACKENDS, DTYPES, Work, load_torch, sdpa


class Numbers:
    """The arrays of the cases, each brought once to where it is needed.

    Parameters
    ----------
    place : Gpu or Simulated
        Where the kernels run.
    device : str
        Where PyTorch's tensors are.
    """

    def __init__(self, place, device="cuda"):
        self.place, self.device, self.kept = place, device, {}

    def there(self, case, name):
        """An array as a kernel takes it."""
        numbers = flat(case, name)
        return self.once(("kernel", name, case.kind, numbers.size), lambda: self.place.put(numbers))

    def tensor(self, case, name):
        """The same numbers as a tensor of PyTorch's, (B, H or G, N or S, D)."""
        torch = load_torch(self.device)

        numbers = flat(case, name)

        def make():
            bits = torch.from_numpy(numbers if case.kind == "f32" else numbers.view(np.int16))
            return bits.view(getattr(torch, DTYPES[case.kind])).to(self.device)

        return self.once(("torch", name, case.kind, numbers.size), make).view(case.shapes[name])

    def once(self, key, make):
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]


# the kernels of minattn


def described(case, tiles, place):
    """The `Problem` of a case without its numbers: zeros of the same shapes, and what a mask makes of them."""
    q, k, v = (np.broadcast_to(np.zeros(1, np.float32), case.shapes[name]) for name in "qkv")
    x = prepare(q, k, v, causal=case.causal)
    blocks = block_map(EVERYTHING if x.rule is None else x.rule, x.grid(), *tiles[case.D])
    return problem(q, k, v, blocks, scale=x.scale, kind=case.kind, dims=tuple(tiles))._replace(place=place)


def brought(case, tiles, numbers):
    """The same at a place, with its numbers, and out and log-sum-exp to be filled."""
    here = described(case, tiles, numbers.place)
    brief = here.given._replace(**dict.fromkeys(("q", "k", "v", "out", "lse"), 0))
    there = {name: numbers.there(case, name) for name in "qkv"}
    out = numbers.place.empty(here.given.out.size, here.given.out.dtype)
    lse = numbers.place.empty(here.given.lse.size, np.float32)
    return here._replace(given=sent(brief, numbers.place)._replace(**there, out=out, lse=lse))


class Both:
    """Kernel 5 and what comes after it, as if they were the launches of one module."""

    @property
    def TILES(self):
        return tensor.TILES

    def launches(self, problem):
        return [*tensor.launches(problem), *careful.launches(problem)]


def run_all(launches, place):
    def call():
        for launch in launches:
            place.run(launch)

    return call


def of_heads(case, place, arrays):
    """{a flat array there: its heads} as `Work.head` gives them."""
    chosen = rows(case)

    def head(b, h):
        found = []
        for array, name in arrays:
            _, heads, length, D = case.shapes[name]
            first = (b * heads + h) * length * D
            numbers = as_numbers(place.get(array[first : first + length * D]), case.kind).reshape(length, D)
            found.append(numbers[chosen])
        return found

    return head


def kernel(name, module):
    def make(case, numbers):
        if why := lacks(name, numbers.place):
            raise Absent(why)
        there = brought(case, module.TILES, numbers)
        return Work(run_all(module.launches(there), numbers.place), of_heads(case, numbers.place, [(there.given.out, "q")]))

    return make


def gradients(case, numbers):
    there = brought(case, registers.TILES, numbers)
    run_all(registers.launches(there), numbers.place)()
    launches, y = backward.launches(there, numbers.there(case, "dout"))
    return Work(run_all(launches, numbers.place), of_heads(case, numbers.place, [(y.dq, "q"), (y.dk, "k"), (y.dv, "v")]))


def states(case, numbers):
    """The recurrence, from a state of zeros."""
    B, H, N, D = case.shapes["q"]
    P = B * H
    q, k, v, b, rate, g = (flat(case, name) for name in ("q", "k", "v", "b", "rate", "log_decay"))
    b, rate = b.reshape(P, N, D), rate.reshape(P, N, 1)
    given = q.reshape(P, 1, N, D), k.reshape(P, N, D), v.reshape(P, N, D), g.reshape(P, N, 1), np.zeros((P, D, D), np.float32)
    (launch,), x = recurrence.launches(*given, erase=(-rate * b, b))
    there = sent(x, numbers.place)
    launches = [launch._replace(arguments=(there,))]
    return Work(run_all(launches, numbers.place), of_heads(case, numbers.place, [(there.out, "q")]))


# what the GPU does at most


def matmul(case, numbers):
    """A square product of as many FLOPs as the case has."""
    torch = load_torch(numbers.device)
    side = round((case.flops / 2) ** (1 / 3))
    one, other = (torch.randn(side, side, device=numbers.device).to(getattr(torch, DTYPES[case.kind])) for _ in range(2))
    made = torch.empty_like(one)
    return Work(lambda: torch.matmul(one, other, out=made), lambda b, h: [])


def copy(case, numbers):
    """Keys over values: as many bytes are read and written as the case has in all."""
    k, v = (numbers.place.empty(case.bytes // 8, np.float32) for _ in "kv")
    return Work(lambda: v.copy_to_device(k, stream=numbers.place.stream), lambda b, h: [])


RIVALS: dict[str, Any] = {name: kernel(name, module) for name, module in {**LADDER, "decode": decode, "careful": Both()}.items()}
RIVALS |= {"backward": gradients, "recurrence": states, "matmul": matmul, "copy": copy}
RIVALS |= {name: sdpa(name) for name in BACKENDS}
LABELS = {
    "naive": "1 naive", "rows": "2 rows", "block": "3 block", "registers": "4 registers", "tensor": "5 tensor",
    "careful": "5 and careful", "backward": "backward", "decode": "decode", "recurrence": "recurrence", "math": "PyTorch math",
    "efficient": "PyTorch efficient", "flash": "PyTorch flash", "cudnn": "PyTorch cuDNN", "matmul": "PyTorch matmul",
    "copy": "copy",
}  # fmt: skip
