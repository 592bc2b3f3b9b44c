"""The issue bound of a kernel, counted from its machine code: how fast it would be if no instruction ever waited.

A warp scheduler starts one instruction a cycle. So a kernel that spends `instructions` of each warp on one *pass*, a pass being
its way through a tile of queries and a tile of keys that computes `flops`, makes at most

    flops / instructions  x  132 processors  x  4 schedulers  x  1.98 GHz                         on an H100 (SXM)

The pass is the shortest way once around the loop over tiles that still makes all products of a tile: instructions that
wait for a predicate are started all the same and count, what only a ragged or a masked tile needs is jumped over. Where the
products stand in a loop of their own, that loop is gone around as often as a tile's products need it:

    trips = products needed / products in the loop's body

Memory, latency and the speed of the units that multiply are left out: no kernel is faster than this, and most are slower.
"""
import functools
import heapq
from typing import NamedTuple

from ..core.errors import KernelError
from .machine import lines

PROCESSORS, SCHEDULERS, CLOCK = 132, 4, 1.98e9
HMMA_PRODUCTS, WARP = 16 * 8 * 16, 32                                 # products of one HMMA.16816 of a warp; threads of a warp


class Bound(NamedTuple):
    """A pass of one warp."""

    instructions: int
    flops: int

    @property
    def tflops(self):
        return self.flops / self.instructions * PROCESSORS * SCHEDULERS * CLOCK / 1e12


def bound(text, opcode, needed, *, products=2, outer=1, around=0):
    """The shortest pass through disassembled code.

    Parameters
    ----------
    text : str
        Machine code of a kernel with one loop over tiles that it meets.
    opcode : str
        The instruction that multiplies: "FFMA" or "HMMA".
    needed : int
        How many of them a warp issues for one product of a tile.
    products : int
        How many products a tile takes: attention has two, scores and outputs.
    outer : int
        Trips of a loop around a product's loop, as around chunks of dims; such a loop is gone around this often.
    around : int
        Loops around the loop over tiles, as over the heads of a group; what is done once for each of their trips is left out.

    Raises
    ------
    KernelError
        If no way around a loop makes all of them.
    """
    flow = Flow(lines(text), opcode, needed, products * needed, outer, around)
    passes = [flow.one_pass(head) for head in flow.loops if len(flow.around(head)) == around]
    made = [instructions for instructions, done in passes if done == products * needed]
    if not made:
        most = max((done for _, done in passes), default=0)
        raise KernelError(f"no loop of this code makes {products} x {needed} {opcode}; the most is {most}")
    width = HMMA_PRODUCTS if opcode == "HMMA" else WARP
    return Bound(min(made), products * needed * 2 * width)            # each a multiplication and an addition


class Flow:
    """The ways through a kernel: instructions by number, which may follow which, and the loops."""

    def __init__(self, code, opcode, needed, whole, outer, above=0):
        self.needed, self.whole, self.outer = needed, whole, outer    # products of a loop of their own; of a tile
        self.above = above                                            # loops around the loop over tiles
        self.makes = [int(line.opcode.split(".")[0] == opcode) for line in code]
        number = {line.place: i for i, line in enumerate(code)}
        self.next: list = []
        for i, line in enumerate(code):
            kind = line.opcode.split(".")[0]
            ahead = i + 1 < len(code) and (line.guarded or kind not in ("BRA", "EXIT", "RET"))
            targets = [number[line.target]] if line.target in number else []
            self.next.append([*([i + 1] if ahead else []), *targets])
        before: list = [[] for _ in code]
        for i, following in enumerate(self.next):
            for j in following:
                before[j].append(i)
        self.loops: dict = {}                                         # number of the first instruction: numbers of all
        for i, following in enumerate(self.next):
            for head in (j for j in following if j <= i):
                if body := loop_of(head, i, before):
                    self.loops.setdefault(head, set()).update(body)

    def around(self, head):
        """The loops that this one is inside of."""
        return [h for h, body in self.loops.items() if h != head and head in body]

    def inside(self, head):
        return [h for h in self.loops[head] if h != head and h in self.loops]

    def trips(self, head):
        """How often a loop is gone around in a pass: as often as its products need it; once, if it has none."""
        products = self.one_pass(head)[1]
        if any(self.one_pass(h)[1] for h in self.inside(head)):
            return self.outer
        between = len(self.around(head)) - self.above > 1             # is there a loop between this one and the loop over tiles?
        chunks = self.outer if between else 1
        return max(1, -(-self.needed // (products * chunks))) if products else 1

    def step(self, i, inner):
        """(instructions, products, what may follow) of instruction i; of all trips, where a loop of products begins."""
        if i not in inner:
            return 1, self.makes[i], [j for j in self.next[i] if not (j in inner and i in self.loops[j])]
        instructions, products = self.one_pass(i)
        if not products:
            return 1, self.makes[i], self.next[i]
        trips, left = self.trips(i), {j for k in self.loops[i] for j in self.next[k]} - self.loops[i]
        return trips * instructions, trips * products, left

    @functools.cache  # noqa: B019  a Flow lives as long as one call of bound
    def one_pass(self, head):
        """(instructions, products) of the way around that makes most products, at most a tile's, and of those the shortest."""
        body, inner = self.loops[head], set(self.inside(head))
        best: dict = {}                                               # {(number, products so far): instructions so far}
        ends = []
        ways = [(0, head, 0)]
        while ways:
            instructions, i, products = heapq.heappop(ways)
            if (i, products) in best:
                continue
            best[i, products] = instructions
            more, made, following = self.step(i, inner)
            instructions, products = instructions + more, min(products + made, self.whole)
            for j in following:
                if j == head:
                    ends.append((-products, instructions))
                elif j in body:
                    heapq.heappush(ways, (instructions, j, products))
        products, instructions = min(ends)
        return instructions, -products


def loop_of(head, last, before):
    """The instructions from which `last` is reached without `head`, and both; nothing if that is not a loop."""
    body, waiting = {head, last}, [last] if last != head else []
    while waiting:
        for i in before[waiting.pop()]:
            if i not in body:
                body.add(i)
                waiting.append(i)
    return body if head == 0 or 0 not in body else set()              # whoever comes in past its head makes it none
