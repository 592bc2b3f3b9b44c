"""A ring of processes from the command line:

    mpiexec -n 4 python -m mpi4py -m minattn.ring --tokens 4096 --causal --schedule zigzag --verify

Every rank draws its share of the inputs, or reads it from q.npy, k.npy and v.npy without loading the rest, and prints its time,
the bytes that it sent and the share of the time that it waited. `-m mpi4py` ends all ranks when one of them fails.
"""
import argparse
import sys
from pathlib import Path

import numpy as np

from ..attention import attention, attention_backward
from ..core.errors import MinattnError, ShapeError
from .mpi import dealt, load_mpi, ring_attention, ring_attention_backward
from .shares import SCHEDULES


def parser():
    command = "mpiexec -n P python -m mpi4py -m minattn.ring"
    made = argparse.ArgumentParser(prog=command, description="Ring attention over P processes.")
    made.add_argument("--tokens", type=int, default=4096, help="N, of all ranks together (default 4096)")
    made.add_argument("--heads", type=int, default=4, help="H and G (default 4)")
    made.add_argument("--dim", type=int, default=64, help="D and Dv (default 64)")
    made.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    made.add_argument("--schedule", choices=SCHEDULES, default="zigzag")
    made.add_argument("--causal", action="store_true")
    made.add_argument("--backward", action="store_true", help="the gradients, too")
    made.add_argument("--input", metavar="FOLDER", type=Path, help="q.npy, k.npy and v.npy, each (heads, tokens, dim)")
    made.add_argument("--verify", action="store_true", help="compare with attention over all tokens on rank 0")
    return made


def main(arguments=None):
    given = parser().parse_args(arguments)
    comm = load_mpi().COMM_WORLD
    try:
        run(comm, given)
    except MinattnError as error:                                     # said once; the ranks end together
        if comm.rank == 0:
            print(f"minattn.ring: {error}", file=sys.stderr, flush=True)
        comm.Barrier()
        return 2
    return 0


def run(comm, given):
    if given.input is not None:
        wholes = [np.load(given.input / f"{name}.npy", mmap_mode="r") for name in "qkv"]
        given.tokens = wholes[0].shape[-2]
    mine = np.concatenate(dealt(given.tokens, comm.size, given.schedule)[comm.rank])
    if given.input is None:
        rng = np.random.default_rng([comm.rank, 0])
        q, k, v = (rng.standard_normal((given.heads, len(mine), given.dim), given.dtype) for _ in range(3))
    else:
        if any(a.ndim != 3 or a.shape[-2] != given.tokens for a in wholes):
            raise ShapeError(f"the inputs are {', '.join(str(a.shape) for a in wholes)}; each must be (heads, tokens, dim)")
        q, k, v = (np.ascontiguousarray(a[:, mine], given.dtype) for a in wholes)
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
        error = np.abs(a - b).max() / np.abs(b).max()
        print(f"{name}: largest difference {error:.1e} of the largest value", flush=True)
        if error > (1e-5 if given.dtype == "float32" else 1e-12):
            raise AssertionError(f"{name} of the ring differs from attention by {error:.1e}")


if __name__ == "__main__":
    sys.exit(main())
