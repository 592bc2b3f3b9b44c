"""How fast, how large, how far from what the machine can do: the measurements behind `minattn bench`.

    rival    one way to compute attention, in a process of its own, with the same number of threads as every other
    case     one problem: sizes, options, what it costs, against whom it is held
    turn     one rival's go at a case: the shortest of the calls that fill 50 ms, timed inside its process
    round    one turn of every rival; the order is turned around in every second one
    ratio    how many times as fast as another rival, in one round; its median and quartiles over the rounds are reported

    cases.py     the problems, their FLOPs and bytes        measure.py   rounds, ratios, a row of the table
    rivals.py    who takes part                             scaling.py   time and memory against N, the slopes
    worker.py    the process of one rival                   machine.py   what this machine is
    check.py     is the answer right? asked before timing   run.py       all of it, in order
    memory.py    what the system says a process holds       report.py, figure.py   text; a picture
    linear.py    the linear family: cases and rivals of its own

A shared machine is noisy, so nothing here rests on one measurement: only on ratios of turns that stand next to each other,
and a turn during which other programs took the cores away is known by that and marked.
A rival that is not here, fails, or computes something wrong keeps its row, with the reason in place of numbers.
"""
