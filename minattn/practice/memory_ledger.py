"""What kernels move: numbers from global memory, wavefronts of shared memory, and layouts without bank conflicts.

    word        4 bytes; word w of shared memory lies in bank w mod 32
    wavefront   one step of shared memory: it gives every bank's lanes one word of that bank
"""
from collections import Counter
from typing import Any

import numpy as np

from .exercise import Blank, Exercise, Wrong

cuda: Any = None                                                      # the simulator puts its own in its place
f32 = np.float32

# --- numbers moved ------------------------------------------------------------------------------------------------


def _moved(queries=lambda N, S, D: N * S * D, keys=lambda N, S, D: N * S * D, scores=lambda N, S, D: N * S):
    return lambda N, S, D: queries(N, S, D) + keys(N, S, D) + scores(N, S, D)


score_traffic = Exercise(
    name="score_traffic", signature="score_traffic(N, S, D)", lesson="18", reference=_moved(), outputs=["moved"],
    inputs=lambda rng: [(5, 7, 3), (12, 9, 8), (33, 20, 16)],
    wrong=[
        Wrong("each number once", _moved(lambda N, S, D: N * D, lambda N, S, D: S * D),
              "Where does the thread of the next score find the query that this one has just read?"),
        Wrong("queries once", _moved(queries=lambda N, S, D: N * D), "How many threads read query 0?"),
        Wrong("keys once", _moved(keys=lambda N, S, D: S * D), "How many threads read key 0?"),
        Wrong("scores not written", _moved(scores=lambda N, S, D: 0), "What does a thread leave behind for the next launch?"),
        Wrong("products, not numbers", _moved(keys=lambda N, S, D: 0), "How many numbers does one product take?"),
        Wrong("scores written and read", _moved(scores=lambda N, S, D: 2 * N * S), "Does this launch read a score?"),
        Wrong("as many keys as queries", lambda N, S, D: 2 * N * N * D + N * N, "How many keys are there?"),
        Wrong("bytes", lambda N, S, D: 4 * (2 * N * S * D + N * S), "Is it numbers or bytes that are asked for?"),
        Wrong("one score", lambda N, S, D: 2 * D + 1, "How many threads have work?"),
    ],
)  # fmt: skip

# --- wavefronts ---------------------------------------------------------------------------------------------------


def _steps(words, bank=lambda word: word % 32, distinct=True, count=max):
    words = [int(word) for word in words]
    return count(Counter(bank(word) for word in (set(words) if distinct else words)).values())


def _words(rng):
    """Warps that read in strides, rows, the same words, and at random."""
    lane = np.arange(32)
    return [(32 * lane + 5,), (lane // 4 * 32 + 7,), (2 * lane,), (rng.integers(0, 1024, 32),), (33 * lane,), (lane // 8 * 16,)]


wavefronts = Exercise(
    name="wavefronts", signature="wavefronts(words)", lesson="18", inputs=_words, reference=_steps, outputs=["steps"],
    wrong=[
        Wrong("lanes counted, not words", lambda words: _steps(words, distinct=False),
              "Several lanes read one and the same word. How often does the bank have to give it?"),
        Wrong("banks counted", lambda words: _steps(words, count=len), "Do 32 different banks take one step or 32?"),
        Wrong("words counted", lambda words: _steps(words, count=sum), "What can different banks do at the same time?"),
        Wrong("sixteen banks", lambda words: _steps(words, bank=lambda word: word % 16), "How many banks are there?"),
        Wrong("banks hold neighbours", lambda words: _steps(words, bank=lambda word: word // 32),
              "In which bank is word 1, and in which word 32?"),
        Wrong("words taken for bytes", lambda words: _steps(words, bank=lambda word: word // 4 % 32),
              "Are the numbers of words given, or those of bytes?"),
        Wrong("the emptiest bank", lambda words: _steps(words, count=min), "For which bank does the warp wait?"),
        Wrong("conflicts, not steps", lambda words: _steps(words) - 1, "How many steps does a warp without conflict take?"),
        Wrong("one step", lambda words: 1, "Can a bank give two words in one step?"),
    ],
)  # fmt: skip

# --- a swizzle ----------------------------------------------------------------------------------------------------


def _places(rng):
    return [(rng.integers(0, 64, 40), rng.integers(0, chunks, 40), chunks) for chunks in (8, 16, 4)]


swizzled = Exercise(
    name="swizzled", signature="swizzled(row, c, chunks)", lesson="18", inputs=_places, outputs=["place (n)"],
    reference=lambda row, c, chunks: row * chunks + (c ^ row % chunks),
    wrong=[
        Wrong("not swizzled", lambda row, c, chunks: row * chunks + c, "Which chunks of eight rows lie in the same banks?"),
        Wrong("row not reduced", lambda row, c, chunks: row * chunks + (c ^ row), "Is 9 ^ 0 a chunk of a row of eight?"),
        Wrong("swizzled place without its row", lambda row, c, chunks: c ^ row % chunks, "Where does row 1 begin?"),
        Wrong("turned, not exchanged", lambda row, c, chunks: row * chunks + (c + row) % chunks,
              "That has no conflict either. Which operation is asked for?"),
        Wrong("the row's place swizzled too", lambda row, c, chunks: (row * chunks + c) ^ row % chunks + chunks,
              "In which row does your chunk end up?"),
        Wrong("padded", lambda row, c, chunks: row * (chunks + 1) + c, "How large is the tile, and how large is yours?"),
        Wrong("or in place of exclusive or", lambda row, c, chunks: row * chunks + (c | row % chunks),
              "Do two chunks of one row still lie in two places?"),
        Wrong("and in place of exclusive or", lambda row, c, chunks: row * chunks + (c & row % chunks),
              "Do two chunks of row 0 still lie in two places?"),
    ],
)  # fmt: skip

# --- a tile turned round ------------------------------------------------------------------------------------------


def _turn(kernel, x):
    """Launch one warp on a tile: what it wrote, what was seen, wavefronts a request of shared memory, global sectors."""
    from ..gpu.simulator import simulate

    out = np.full(x.shape, np.nan, f32)
    report = simulate(kernel, 1, 32, x, out)
    ledger = report.ledger
    if not report.problems and not ledger.elements["global", "write"]:
        raise Blank
    steps = sum(ledger.wavefronts.values()) / max(1, sum(ledger.requests.values()))
    return out, ", ".join(sorted(report.kinds)) or "none", steps, sum(ledger.sectors.values())


def _transpose(stride=33, barrier=True, shared=True, turned=True):
    """The kernel with another row length in shared memory, without its barrier, or without shared memory."""
    def kernel(x, out):
        lane = cuda.threadIdx.x
        tile = cuda.shared.array(32 * 34, f32)
        if not shared:
            for i in range(32):
                out[i, lane] = x[lane, i]
            return
        for i in range(32):
            tile[i * stride + lane] = x[i, lane]
        if barrier:
            cuda.syncthreads()
        for i in range(32):
            out[i, lane] = tile[lane * stride + i] if turned else tile[i * stride + lane]

    return kernel


transpose_tile = Exercise(
    name="transpose_tile", signature="transpose_tile(x, out)", lesson="18", reference=_transpose(), drive=_turn,
    inputs=lambda rng: [(rng.standard_normal((32, 32)).astype(f32),) for _ in range(2)],
    outputs=["out (i, j)", "problems", "wavefronts_a_request", "sectors"],
    wrong=[
        Wrong("rows not padded", _transpose(stride=32), "The lanes read down a column of the tile. Which banks are these?"),
        Wrong("no barrier", _transpose(barrier=False), "Who wrote what a lane reads, and what orders the two?"),
        Wrong("rows not padded, no barrier", _transpose(stride=32, barrier=False),
              "Who wrote what a lane reads? And in which banks does a column lie?"),
        Wrong("columns read from global memory", _transpose(shared=False),
              "Neighbouring lanes read numbers 32 apart. How many sectors of 32 bytes is that for one request?"),
        Wrong("not turned round", _transpose(turned=False), "Row i, lane j: which number of x is due there?"),
        Wrong("padded by two", _transpose(stride=34), "With rows of 34 words, in which bank does row 16 begin?"),
    ],
)  # fmt: skip
