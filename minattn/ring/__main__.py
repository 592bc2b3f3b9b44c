"""A ring of processes from the command line:

    mpiexec -n 4 python -m mpi4py -m minattn.ring --tokens 4096 --causal --schedule zigzag --verify

Every rank draws its share of the inputs, or reads it from q.npy, k.npy and v.npy without loading the rest, and prints its time,
the bytes that it sent and the share of the time that it waited; with --overlap also how much of the transfers hides behind the
work. What is wrong with the inputs is said once, and all ranks end; `-m mpi4py` ends all ranks when one of them fails.
"""
import argparse
import contextlib
import io
import sys
from pathlib import Path

import numpy as np

from ..attention import attention, attention_backward
from ..core.errors import DependencyError, DtypeError, MinattnError, ShapeError
from ..core.inputs import prepare
from ..core.shapes import count
from .mpi import dealt, load_mpi, ring_attention, ring_attention_backward
from .overlap import measure
from .shares import SCHEDULES

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def parser():
    command = "mpiexec -n P python -m mpi4py -m minattn.ring"
    made = argparse.ArgumentParser(prog=command, description="Ring attention over P processes.")
    made.add_argument("--tokens", type=int, default=4096, help="N, of all ranks together (default 4096)")
    made.add_argument("--heads", type=int, default=4, help="H and G (default 4)")
    made.add_argument("--dim", type=int, default=64, help="D and Dv (default 64)")
    made.add_argument("--dtype", choices=list(TOLERANCE), help="default: the files' own; float32 for what is drawn")
    made.add_argument("--schedule", choices=SCHEDULES, default="zigzag")
    made.add_argument("--causal", action="store_true")
    made.add_argument("--backward", action="store_true", help="the gradients, too")
    made.add_argument("--input", metavar="FOLDER", type=Path, help="q.npy, k.npy and v.npy, each (heads, tokens, dim)")
    made.add_argument("--verify", action="store_true", help="compare with attention over all tokens on rank 0")
    made.add_argument("--overlap", action="store_true", help="measure how much of the forward's transfers hides behind its work")
    return made


def main(arguments=None):
    try:
        comm = load_mpi().COMM_WORLD
    except DependencyError as error:
        print(f"minattn.ring: {error}", file=sys.stderr)
        return 2
    try:
        with contextlib.redirect_stderr(io.StringIO()) if comm.rank else contextlib.nullcontext():
            with contextlib.redirect_stdout(io.StringIO()) if comm.rank else contextlib.nullcontext():
                given = parser().parse_args(arguments)
    except SystemExit:                                                # rank 0 has said why before anybody ends
        comm.Barrier()
        raise
    said: str | None = None
    mine: tuple = ()
    try:
        mine = inputs(comm, given)
    except (MinattnError, OSError, MemoryError) as error:
        said = str(error)
    wrong = {text: rank for rank, text in reversed(list(enumerate(comm.allgather(said)))) if text}
    if wrong:                                                         # nobody goes on where one cannot
        if comm.rank == 0:
            for text, rank in wrong.items():
                print(f"minattn.ring: {text}" + f" (on rank {rank})" * (rank > 0), file=sys.stderr, flush=True)
        comm.Barrier()
        return 2
    run(comm, given, *mine)
    return 0


def inputs(comm, given):
    """This rank's tokens and its share of q, k and v; fills in what `given` leaves to the files."""
    if given.input is None:
        given.dtype = given.dtype or "float32"
        for name in ("tokens", "heads", "dim"):
            count(name, getattr(given, name), 1)
        mine = np.concatenate(dealt(given.tokens, comm.size, given.schedule)[comm.rank])
        rng = np.random.default_rng([comm.rank, 0])
        return mine, [rng.standard_normal((given.heads, len(mine), given.dim), given.dtype) for _ in range(3)]
    wholes = [mapped(given.input / f"{name}.npy") for name in "qkv"]
    q, k, v = wholes
    if any(a.ndim != 3 for a in wholes) or q.shape[1] != k.shape[1] or k.shape[:2] != v.shape[:2]:
        shapes = ", ".join(f"{name} {a.shape}" for name, a in zip("qkv", wholes, strict=True))
        raise ShapeError(f"the files hold {shapes}; each must be (heads, tokens, dim), of the same tokens")
    given.tokens, given.dim = q.shape[1:]
    given.dtype = given.dtype or ("float64" if np.result_type(*wholes).itemsize >= 8 else "float32")
    mine = np.concatenate(dealt(given.tokens, comm.size, given.schedule)[comm.rank])
    prepare(*(np.broadcast_to(np.ones((), given.dtype), a.shape) for a in wholes))     # what attention refuses, and nothing read
    return mine, [np.ascontiguousarray(a[:, mine], given.dtype) for a in wholes]


def mapped(path):
    """The array of a file, of which only what is asked for will be read."""
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:                           # NumPy names no file: no .npy, cut short, of objects
        raise ShapeError(f"{path} is no whole .npy file of one array of floats") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise DtypeError(f"{path} holds {getattr(array, 'dtype', 'several arrays')}; it must hold one array of floats")
    return array


def run(comm, given, mine, arrays):
    q, k, v = arrays
    options = {"length": given.tokens, "schedule": given.schedule, "causal": given.causal}
    if given.dtype == "float32":                                      # compiled before time is taken, and by one rank for all
        few = np.zeros((1, 256, given.dim), np.float32)
        for some in (comm.rank == 0, comm.rank > 0):
            if some:
                attention_backward(few, few, few, few)
            comm.Barrier()
    out, lse, spent = ring_attention(comm, q, k, v, **options, return_lse=True)
    made, told, dout = [out], [report(comm, "forward", spent)], out           # any gradient will do
    if given.backward:
        grads, spent = ring_attention_backward(comm, dout, q, k, v, out=out, lse=lse, **options)
        made, told = [out, *grads], [*told, report(comm, "backward", spent)]
    if given.overlap:
        told.append(f"rank {comm.rank} overlap: {measure(comm, q, k, v, **options)}")
    for lines in comm.gather("\n".join(told)) or []:
        print(lines, flush=True)
    if given.verify:
        verify(comm, given, mine, (q, k, v, dout), made)


def report(comm, what, spent):
    seconds, idle, sent = sum(spent.work) + sum(spent.wait), spent.idle, sum(spent.sent)
    return f"rank {comm.rank} {what}: {seconds:.3f} s, idle {idle:.1%}, {sent:,} bytes sent, {sum(spent.computed)} pairs of runs"


def verify(comm, given, mine, inputs, made):
    """Rank 0 collects inputs and results, computes attention whole, and says by how much the ring differs."""
    shares_of_all = comm.gather((mine, inputs, made))
    if comm.rank:
        return
    order = np.argsort(np.concatenate([tokens for tokens, _, _ in shares_of_all]))

    def whole(parts):
        return [np.concatenate(arrays, axis=-2)[..., order, :] for arrays in zip(*parts, strict=True)]

    q, k, v, dout = whole([arrays for _, arrays, _ in shares_of_all])
    found = whole([arrays for _, _, arrays in shares_of_all])
    right = [attention(q, k, v, causal=given.causal)]
    if given.backward:
        right += attention_backward(dout, q, k, v, causal=given.causal)[:3]
    for name, a, b in zip(("out", "dq", "dk", "dv"), found, right, strict=False):
        error = difference(a, b)
        print(f"{name}: largest difference {error:.1e} of the largest value", flush=True)
        if not error <= TOLERANCE[given.dtype]:
            raise AssertionError(f"{name} of the ring differs from attention by {error:.1e}")


def difference(a, b):
    """The largest difference, of the largest finite value; inf where one has a number and the other NaN or an infinity."""
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return np.inf
    return np.abs(a[finite] - b[finite]).max(initial=0) / (np.abs(b[finite]).max(initial=0) or 1)


if __name__ == "__main__":
    sys.exit(main())
