"""The ledger of a launch: what was read and written in global and shared memory, and in how many steps.

A warp's 32 threads reach memory together. Shared memory has 32 banks of 4 bytes: what one warp asks for at once takes as many
*wavefronts* as the fullest bank has distinct words. Global memory comes in *sectors* of 32 bytes: what one warp asks for at
once takes as many as it touches. The accesses of a warp that belong together are the n-th of each thread at a line between
two barriers; where threads run a line unequally often that is an approximation.
"""
from collections import Counter, defaultdict

BANKS, WORD, SECTOR, WARP = 32, 4, 32, 32


class Ledger:
    """Counts of elements moved, per kind, array, line and thread.

    Attributes
    ----------
    elements : Counter, {(space, kind): count}
        space "global" or "shared", kind "read", "write" or "atomic".
    arrays : Counter, {(array name, kind): count}
    lines : Counter, {(line, array name, kind): count}
    threads : Counter, {(block index, thread index, space, kind): count}
    wavefronts, requests : Counter, {(line, array name): count}
        Of shared memory: how many steps the warps' requests took, and how many requests there were. Equal: no bank conflict.
    sectors : Counter, {(line, array name): count}
        Of global memory.
    """

    def __init__(self):
        self.elements: Counter = Counter()
        self.arrays: Counter = Counter()
        self.lines: Counter = Counter()
        self.threads: Counter = Counter()
        self.wavefronts: Counter = Counter()
        self.requests: Counter = Counter()
        self.sectors: Counter = Counter()
        self._turn: Counter = Counter()                               # how often a thread was at a line since the last barrier
        self._together: defaultdict = defaultdict(set)                # what a warp asks for at once: byte addresses

    def __repr__(self):
        rows = [f"{space} {kind}s: {n}" for (space, kind), n in sorted(self.elements.items())]
        shared = f"shared wavefronts: {sum(self.wavefronts.values())} for {sum(self.requests.values())} requests"
        return "\n".join([*rows, shared, f"global sectors: {sum(self.sectors.values())}"])

    def count(self, thread, array, kind, place, where):
        self.elements[array.space, kind] += 1
        self.arrays[array.name, kind] += 1
        self.lines[where.line, array.name, kind] += 1
        self.threads[thread.block.index, thread.index, array.space, kind] += 1
        key = (thread, where, array.name, kind)
        turn = self._turn[key]
        self._turn[key] = turn + 1
        size = array.dtype.itemsize
        self._together[thread.warp, where, array, kind, turn].update(range(place * size, (place + 1) * size, min(size, WORD)))

    def close(self, block):
        """Settle what the warps of a block asked for up to this barrier."""
        for warp, where, array, kind, turn in [key for key in self._together if key[0].block is block]:
            addresses, name = self._together.pop((warp, where, array, kind, turn)), (where.line, array.name)
            if array.space == "global":
                self.sectors[name] += len({address // SECTOR for address in addresses})
                continue
            words = {address // WORD for address in addresses}
            self.requests[name] += max(1, array.dtype.itemsize // WORD)
            self.wavefronts[name] += max(Counter(word % BANKS for word in words).values())
        self._turn.clear()
