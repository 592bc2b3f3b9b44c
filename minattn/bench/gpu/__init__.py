"""What a GPU makes of minattn's kernels: `minattn bench --cuda`, and with `--report FILE` everything that a GPU can settle.

    problems.py   drawn problems, and the reference in float64       cases.py    the problems that are timed, and their costs
    warp.py       one warp, one instruction                          rivals.py   who is timed; sdpa.py, PyTorch's backends
    answers.py    what a check is, and what it gets                  clock.py    how long a call takes, by events
    checks.py     the questions: is every kernel right? front.py, through attention itself
    ask.py        a group of checks in a process of its own          timed.py    rows of cases and rivals, and the ceilings
    hear.py       such a process, heard line by line                 bounds.py   the issue bound on this very GPU
    sanitizer.py  compute-sanitizer over every kernel                run.py      all of it, in order; report.py, as text

Only `gpu/device.py` speaks to numba.cuda, so all but the machine itself runs without a GPU: the checks on a simulated one, the
processes with what they say made up, PyTorch's backends on a CPU, the clock on a timeline of its own.
"""
