"""Backend "cuda": the problem of `Inputs` brought to the kernels of a GPU, and their results back.

    few queries         decode.py
    float32             kernel 4 (registers.py)
    float16, bfloat16   kernel 5 (tensor.py), and then careful.py where a tile hides something
    gradients           backward.py, in float32: numbers of 16 bits are widened, and the gradients rounded
    weights             weights.py, in float32 as well

NumPy's arrays go there and back, those on a GPU stay (home.py). D and Dv are filled up to 32, 64 or 128. What no kernel does
is refused, by an error that says what was given and who can do it.
"""
import math
from typing import NamedTuple

import numpy as np

from ..core.block_maps import blocks_of
from ..core.errors import BackendError
from .home import Here
from .kernels import backward as backward_kernels
from .kernels import careful, decode, registers, sinks, tensor
from .kernels import weights as weights_kernel
from .kernels.arrange import DTYPES, arranged, in_one_piece, summed
from .problem import DIMS, Given, Problem, bias_steps, filled_up, map_arrays, map_steps

MOST = 2**31                          # numbers of an array: kernels count them in 32 bits
GRID = 2**16                          # blocks of threads along the second and third axis of a grid are fewer
FEW, FEW_ROWS = 8, 32                 # up to so many queries, and of a group, decode.py reads every key once for all of them


class Sizes(NamedTuple):
    """What the kernels are made for: D, and for each the queries and keys of a tile."""

    dims: tuple = DIMS
    registers: dict = registers.TILES
    tensor: dict = tensor.TILES
    decode: dict = decode.TILES
    backward: dict = dict.fromkeys(DIMS, (64, 64))


SIZES = Sizes()


def forward(x):
    """(out, None for the weights, lse) of the problem `x`."""
    home = home_of(x)
    (_, H, N, _), G = x.q.shape, x.k.shape[1]
    kernel, tiles = (registers, SIZES.registers) if home.kind == "f32" else (tensor, SIZES.tensor)
    if N <= FEW and H // G * N <= FEW_ROWS:
        kernel, tiles = decode, SIZES.decode
    problem = solved(pose(x, home, home.kind, tiles), kernel, x, home)
    out, lse = problem.given.out, problem.given.lse
    axes = *home.queries, N
    return home.give(out, (*axes, problem.D), x.v.shape[3], home.kind), None, home.give(lse, axes, N, "f32")


def weights(x, lse=None, top=None):
    """The weights of `x`, which needs no values, as a tuple of one."""
    if top is not None:
        raise BackendError(f"top = {top}; backend 'cuda' gives whole maps alone, and backend='cpu' has top for NumPy's arrays")
    home = home_of(x)
    (B, H, N, _), S = x.q.shape, x.k.shape[2]
    if B * H >= GRID:
        raise BackendError(f"B * H = {B * H} maps; a GPU draws fewer than 2**16 at a time: ask for some of the heads")
    problem = pose(x, home, "f32", SIZES.registers, lse=lse)
    if lse is None:
        problem = solved(problem, registers, x, home)
    made = home.place.empty(B * H * N * S, np.float32)
    if made.size:
        run(weights_kernel.launches(problem, made), home)
    return (home.give(made, (*home.queries, N, S), S, home.kind),)


def backward(x, dout, out=None, lse=None, score_mod_grad=None):
    """dq, dk, dv, dbias, dsink of the problem `x`."""
    home = home_of(x)
    (B, H, N, D), (S, Dv) = x.q.shape, x.v.shape[2:]
    problem = pose(x, home, "f32", SIZES.backward, out=out, lse=lse)
    if out is None:
        problem = solved(problem, registers, x, home)
    zeros, dim, dbias, dsink = home.place.zeros, problem.D, None, None
    axes = {"q": (*home.queries, N, dim), "k": (*home.keys, S, dim), "v": (*home.keys, S, dim), "bias": (*home.queries, N, S)}
    seen = B * N * S > 0
    if seen:
        dout = home.take("dout", dout, (*home.queries, N, dim), "f32")
        launches, made = backward_kernels.launches(problem, dout, wants_dbias=x.bias is not None)
        run(launches, home)
        grads = {"q": made.dq, "k": made.dk, "v": made.dv, "bias": made.dbias}
    else:
        grads = {name: zeros(math.prod(shape), np.float32) for name, shape in axes.items()}
    dq, dk, dv = (home.gradient(name, grads[name], axes[name], size) for name, size in (("q", D), ("k", D), ("v", Dv)))
    if x.bias is not None:
        dbias = home.gradient("bias", grads["bias"], axes["bias"], S)
    if x.sink_logits is not None:
        shares = zeros(B * H * N, np.float32)
        if seen:
            run([sinks.shares(problem, sinks_of(x, home), made.delta, shares)], home)
        dsink = home.gradient("sink_logits", summed(home.place, shares, (*home.lead, H, N), (H, 1)), (H,), H)
    return dq, dk, dv, dbias, dsink


def home_of(x):
    """Where the arrays of `x` live; what no kernel can do with them is refused here."""
    if x.score_mod is not None:
        raise BackendError("score_mod is given, and kernels on a GPU have no place for it; backend='cpu' has, for NumPy's arrays")
    home = Here(x) if x.home is None else x.home.of(x)
    if home.kind == "f64":
        raise BackendError("q, k or v is float64; kernels on a GPU take float32, float16 and bfloat16, and backend='cpu' all")
    return home


def pose(x, home, kind, tiles, out=None, lse=None):
    """The `Problem` of `x`; without results that are given, with room for them. The values of one without values are its keys."""
    (B, H, N, D), (_, G, S, _) = x.q.shape, x.k.shape
    dim = filled_up(D, D if x.v is None else x.v.shape[3], SIZES.dims)
    for name, size in (("q", B * H * N * dim), ("k", B * G * S * dim)):
        if size >= MOST:
            raise BackendError(f"{name} has {size} numbers, D filled up to {dim}; kernels on a GPU count to 2**31: give a part")
    if max(B, H) >= GRID:
        raise BackendError(f"B = {B} and H = {H}; a GPU takes fewer than 2**16 of each at a time: give a part")
    blocks = blocks_of(x, *tiles[dim])
    held = blocks.sent.get(home.where)
    if held is None:
        held = blocks.sent[home.where] = tuple(map(home.place.put, map_arrays(blocks)))
    q = home.take("q", x.q, (*home.queries, N, dim), kind)
    k = home.take("k", x.k, (*home.keys, S, dim), kind)
    v = k if x.v is None else home.take("v", x.v, (*home.keys, S, dim), kind)
    bias, shape = home.place.empty(0, np.float32), (1, 1, 1, 0)
    if x.bias is not None:
        shape = x.bias.shape
        bias = home.take("bias", x.bias, (*(home.lead if len(x.bias) == B else ()), *shape[1:]), "f32")
    rows, empty = B * H * N, home.place.empty
    given = Given(
        q=q, k=k, v=v, bias=bias, kind=held[0], stored=held[1], partial=held[2],
        out=empty(rows * dim, DTYPES[kind]) if out is None else home.take("out", out, (*home.queries, N, dim), kind),
        lse=empty(rows, np.float32) if lse is None else home.take("lse", lse, (*home.queries, N), "f32"),
        H=H, G=G, N=N, S=S, **map_steps(blocks), **bias_steps(shape),
        scale=np.float32(x.scale), softcap=np.float32(x.softcap or 0),
    )  # fmt: skip
    return Problem(given, B=B, D=dim, block_q=blocks.block_q, block_k=blocks.block_k, kind=kind, place=home.place)


def solved(problem, kernel, x, home):
    """The problem, once `kernel` has filled its out and lse, sinks among them."""
    given, place = problem.given, home.place
    rows = problem.B * given.H * given.N
    if rows and given.S:
        run(kernel.launches(problem), home)
        if kernel is tensor and given.partial.size:               # elsewhere everyone sees all of a tile
            run(careful.launches(problem), home)
    elif rows:
        nothing = in_one_piece(place.put(np.full(rows, -np.inf, np.float32)), (rows,), "f32")
        given = given._replace(out=place.zeros(rows * problem.D, given.out.dtype), lse=arranged(place, nothing, (rows,), "f32"))
        problem = problem._replace(given=given)
    if rows and x.sink_logits is not None:
        run([sinks.join(problem, sinks_of(x, home))], home)
    return problem


def sinks_of(x, home):
    return home.take("sink_logits", x.sink_logits, x.sink_logits.shape, "f32")


def run(launches, home):
    for launch in launches:
        home.place.run(launch)
