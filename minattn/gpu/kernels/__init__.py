"""The ladder: attention as CUDA kernels, from the first that works to tensor cores, each compared with the one before.

    1  naive.py      the definition: all scores, then the softmax, then the values
    2  rows.py       FlashAttention with one thread a query row
    3  block.py      one thread a score, then some dims of an output
    4  registers.py  4 x 4 results in each thread's registers
    5  tensor.py     tensor cores, and copies that run beside them; numbers of 16 bits

    backward.py    the gradients: dK and dV over the tiles of queries, dQ over those of keys; tile.py, what both are made of
    decode.py      few queries: the keys, in one piece or in pages, split over blocks, each read once for its whole group
    join.py        what the splits found, joined
    recurrence.py  the linear family: a state in shared memory, tokens a tile at a time
    weights.py     the map itself

    arrange.py     any layout to the one that kernels read, and back
    sinks.py       sink logits joined to a result, and their gradient
    careful.py     rows that a hidden NaN reached through tensor cores, computed again

Every factory `make_...(D, block_q, block_k, biased, capped)` returns plain Python over a global `cuda`, whose argument `x` is
a `problem.Given`, the same function for the same options; `launches(problem)` says over which grid it runs. The simulator runs
that, `numba.cuda` compiles it; where.py says what either place must do with arrays.
"""
