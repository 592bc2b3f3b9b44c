"""The ring by hand: who has which keys, what is sent, whose work is even, and what one hop does to a rank's results.

    p   ranks      r   a rank, 0 .. p - 1      t   a hop, 0 .. p - 1      out, lse   of all keys that have come by
    F   operations a second                    B   bytes a second to the next rank

Liu et al. 2023, arXiv:2310.01889, Algorithm 1 and section 3.
"""
import numpy as np

from ..attention import attention
from ..core.softmax import merge
from ..ring.shares import shares
from .exercise import Exercise, Wrong

# --- who has which block ------------------------------------------------------------------------------------------

_AROUND = "Keys go from rank r to rank r + 1. Whose keys did rank r have one hop ago, and who has its own now?"
block_at = Exercise(
    name="block_at", signature="block_at(r, t, p)", lesson="23", outputs=["source"], reference=lambda r, t, p: (r - t) % p,
    inputs=lambda rng: [(2, 3, 5), (0, 1, 4), (6, 2, 7), (3, 0, 6), (1, 4, 5), (4, 6, 9)],
    wrong=[
        Wrong("the ring turned the other way", lambda r, t, p: (r + t) % p, _AROUND),
        Wrong("not brought back into the ring", lambda r, t, p: r - t, "Is there a rank of a negative number?"),
        Wrong("hop and rank exchanged", lambda r, t, p: (t - r) % p, "What does a rank have at hop 0?"),
        Wrong("one hop too far", lambda r, t, p: (r - t - 1) % p, "What does a rank have at hop 0, before anything was sent?"),
        Wrong("one hop behind", lambda r, t, p: (r - t + 1) % p, "What does a rank have at hop 1?"),
        Wrong("the rank's own", lambda r, t, p: r, "Which of them stays at home, the queries or the keys?"),
        Wrong("the same block for all", lambda r, t, p: t % p, "Have two ranks the same block at one hop?"),
        Wrong("the distance, not the rank", lambda r, t, p: abs(r - t), "Which rank is the neighbour of rank 0, on its left?"),
    ],
)  # fmt: skip

# --- what is sent -------------------------------------------------------------------------------------------------


def _bytes(hops=lambda p: p - 1, tokens=lambda N, p: N // p, heads=lambda H, G: G, arrays=2, sized=True):
    return lambda N, p, H, G, D, number: hops(p) * tokens(N, p) * heads(H, G) * D * arrays * (number if sized else 1)


ring_bytes = Exercise(
    name="ring_bytes", signature="ring_bytes(N, p, H, G, D, number)", lesson="23", reference=_bytes(), outputs=["bytes"],
    inputs=lambda rng: [(4096, 4, 9, 3, 64, 4), (120, 5, 6, 2, 10, 8), (1_048_576, 16, 32, 8, 128, 2), (35, 7, 10, 5, 6, 4)],
    wrong=[
        Wrong("as many sends as ranks", _bytes(hops=lambda p: p), "Is anybody waiting for what a rank has at the last hop?"),
        Wrong("one send", _bytes(hops=lambda p: 1), "How many blocks does a rank pass on until all have seen all?"),
        Wrong("values forgotten", _bytes(arrays=1), "What does the next rank need beside the keys?"),
        Wrong("queries sent too", lambda N, p, H, G, D, number: (p - 1) * (N // p) * (H + 2 * G) * D * number,
              "Which of the three stay where they are?"),
        Wrong("query heads", _bytes(heads=lambda H, G: H), "How many heads have keys and values?"),
        Wrong("all ranks together", _bytes(tokens=lambda N, p: N),
              "How many tokens has a block? And is it one rank that is asked for?"),
        Wrong("numbers, not bytes", _bytes(sized=False), "Which argument is not used?"),
        Wrong("one head", _bytes(heads=lambda H, G: 1), "How many heads have keys and values?"),
    ],
)  # fmt: skip

# --- whose work is even -------------------------------------------------------------------------------------------


def _zigzag(N, p):
    owner = np.empty(N, int)
    for rank, runs in enumerate(shares(N, p, "zigzag")):
        owner[np.concatenate(runs)] = rank
    return owner


def _runs(rank_of_run, runs=lambda p: 2 * p):
    """Runs of neighbouring tokens, each given to a rank."""
    return lambda N, p: rank_of_run(np.arange(N) * runs(p) // N, p)


zigzag_owner = Exercise(
    name="zigzag_owner", signature="zigzag_owner(N, p)", lesson="23", reference=_zigzag, outputs=["rank (N)"],
    inputs=lambda rng: [(24, 3), (40, 4), (50, 5), (28, 2)],
    wrong=[
        Wrong("contiguous", _runs(lambda run, p: run, lambda p: p),
              "Which rank sees the most under a causal mask? Count its pairs and those of rank 0."),
        Wrong("striped", lambda N, p: np.arange(N) % p, "Into how many runs of neighbours are the tokens cut?"),
        Wrong("the second half not turned round", _runs(lambda run, p: run % p),
              "Rank 0 has the first run, which sees least. Which other run makes its work as much as everybody's?"),
        Wrong("p runs", _runs(lambda run, p: np.minimum(run, p - 1 - run), lambda p: p),
              "How many runs are there for each rank?"),
        Wrong("runs, not ranks", _runs(lambda run, p: run), "How many ranks are there, and what is the largest number here?"),
        Wrong("token by token", lambda N, p: np.minimum(np.arange(N) % (2 * p), 2 * p - 1 - np.arange(N) % (2 * p)),
              "How long is a run of neighbours? Print yours for the first input."),
        Wrong("the ranks turned round", _runs(lambda run, p: p - 1 - np.minimum(run, 2 * p - 1 - run)),
              "Which rank has token 0?"),
        Wrong("the larger of the two", _runs(lambda run, p: np.maximum(run, 2 * p - 1 - run)),
              "How many ranks are there, and what is the smallest number here?"),
    ],
)  # fmt: skip

# --- what hides ---------------------------------------------------------------------------------------------------


def _least(up=lambda numerator, denominator: -(-numerator // denominator), heads=lambda H, G: (2 * G, 4 * H), number=True):
    def fn(F, B, H, G, number_bytes):
        moved, done = heads(H, G)
        return int(up(moved * (number_bytes if number else 1) * F, done * B))

    return fn


_TWICE = "How many products does attention have? And how many operations is a multiply-add?"
least_block = Exercise(
    name="least_block", signature="least_block(F, B, H, G, number)", lesson="23", reference=_least(), outputs=["tokens"],
    inputs=lambda rng: [(312 * 10**12, 300 * 10**9, 32, 8, 2), (275 * 10**12, 268 * 10**9, 12, 12, 2),
                        (50 * 10**9, 3 * 10**9, 9, 3, 4), (123 * 10**12, 7 * 10**9, 40, 8, 2)],
    wrong=[
        Wrong("F / B, whatever the heads and the numbers", _least(heads=lambda H, G: (1, 1), number=False),
              "That is the paper's, for 2 bytes a number and as many KV heads as query heads. Which are given here?"),
        Wrong("as many KV heads as query heads", _least(heads=lambda H, G: (1, 2)),
              "How many heads compute, and how many are sent?"),
        Wrong("two bytes a number", lambda F, B, H, G, number: -(-G * F // (H * B)), "Which argument is not used?"),
        Wrong("keys without values", _least(heads=lambda H, G: (G, 4 * H)), "What travels beside the keys?"),
        Wrong("half of the operations", _least(heads=lambda H, G: (2 * G, 2 * H)), _TWICE),
        Wrong("a quarter of the operations", _least(heads=lambda H, G: (2 * G, H)), _TWICE),
        Wrong("rounded down", _least(up=lambda a, b: a // b), "With so few tokens, which takes longer: work or transfer?"),
        Wrong("H and G exchanged", _least(heads=lambda H, G: (2 * H, 4 * G)), "How many heads compute, and how many are sent?"),
        Wrong("one token too many", _least(up=lambda a, b: -(-a // b) + 1), "Do work and transfer fit with one token less?"),
    ],
)  # fmt: skip

# --- one hop ------------------------------------------------------------------------------------------------------


def _hops(rng):
    """A first visit in which not all see something, a block that some rows see, one that nobody sees, one that all see."""
    cases = []
    for N, S, D, Dv, start, stop, fresh in [(4, 5, 3, 2, 2, 11, True), (5, 4, 2, 3, 2, 12, False), (3, 4, 4, 5, 9, 20, False),
                                            (4, 3, 5, 2, 0, 3, False)]:  # fmt: skip
        q, k, v = (rng.standard_normal(size) for size in ((N, D), (S, D), (S, Dv)))
        q_pos, k_pos = np.sort(rng.permutation(9)[:N]), start + np.sort(rng.permutation(stop - start)[:S])
        out, lse = rng.standard_normal((N, Dv)), 2 * rng.standard_normal(N)
        if fresh:
            q_pos[0], q_pos[-1] = 0, 9
            out, lse = np.zeros_like(out), np.full(N, -np.inf)
        cases.append((out, lse, 2 * q, k, v, q_pos, k_pos))
    return cases


def _hop(join=merge, **changed):
    """A visit of one block, with another join or another attention."""
    def fn(out, lse, q, k, v, q_pos, k_pos):
        options = {"causal": True, "q_pos": q_pos, "k_pos": k_pos, "return_lse": True}
        options |= {name: value(q_pos, k_pos) if callable(value) else value for name, value in changed.items()}
        return join(out, lse, *attention(q, k, v, **options))

    return fn


def _average(out, lse, other, other_lse):
    return (out + other) / 2, np.logaddexp(lse, other_lse)


def _unguarded(out, lse, other, other_lse):
    both = np.logaddexp(lse, other_lse)
    return np.exp(lse - both)[:, None] * out + np.exp(other_lse - both)[:, None] * other, both


_WHO = "Which keys may a query see: those that stand before it in the block, or those with a position up to its own?"
after_a_hop = Exercise(
    name="after_a_hop", signature="after_a_hop(out, lse, q, k, v, q_pos, k_pos)", lesson="23", inputs=_hops, reference=_hop(),
    outputs=["out (N, Dv)", "lse (N)"],
    wrong=[
        Wrong("the block in place of what was there", _hop(join=lambda out, lse, *block: block),
              "What of the keys that came by before?"),
        Wrong("what was there, unchanged", _hop(join=lambda out, lse, *block: (out, lse)), "Where do the new keys enter?"),
        Wrong("plain average", _hop(join=_average), "A row has seen six keys and now sees one. Do both parts count the same?"),
        Wrong("outputs added", _hop(join=lambda out, lse, other, s: (out + other, np.logaddexp(lse, s))),
              "Each output is an average. What do two equal ones make?"),
        Wrong("positions forgotten", _hop(q_pos=lambda q, k: np.arange(len(q)) + len(k) - len(q), k_pos=None), _WHO),
        Wrong("no mask", _hop(causal=False), "Which keys may a query see, and which argument says so?"),
        Wrong("a token does not see itself", _hop(q_pos=lambda q, k: q - 1), "May a query see a key at its own position?"),
        Wrong("looking ahead", _hop(causal=False, mask=lambda q, k: k >= q[:, None]), "Is a larger position earlier or later?"),
        Wrong("no scale", _hop(scale=1.0), "How large are your scores beside q @ k.T / sqrt(D)?"),
        Wrong("a row that sees nothing gives NaN", _hop(join=_unguarded),
              "Before the first key the lse is -inf; a block that nobody sees has it too. What is -inf minus -inf?"),
    ],
)  # fmt: skip
