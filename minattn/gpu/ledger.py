"""The ledger of a launch: what was read and written in global and shared memory, and in how many steps.

A warp's 32 threads reach memory together. Shared memory has 32 banks of 4 bytes: what one warp asks for at once takes as many
*wavefronts* as the fullest bank has distinct words. Global memory comes in *sectors* of 32 bytes: what one warp asks for at
once takes as many as it touches. The accesses of a warp that belong together are the n-th of each thread at a line between
two barriers; where threads run a line unequally often that is an approximation.
"""
from collections import Counter, defaultdict
from itertools import zip_longest

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
        self._visits: defaultdict = defaultdict(list)                 # places that a thread was at since the last barrier

    def __repr__(self):
        rows = [f"{space} {kind}s: {n}" for (space, kind), n in sorted(self.elements.items())]
        shared = f"shared wavefronts: {sum(self.wavefronts.values())} for {sum(self.requests.values())} requests"
        return "\n".join([*rows, shared, f"global sectors: {sum(self.sectors.values())}"])

    def visits(self, thread, where, array, kind):
        """The list of places that a thread was at since the last barrier: whoever touches one adds it."""
        return self._visits[thread, where, array, kind]

    def close(self, block):
        """Settle what the warps of a block asked for up to this barrier."""
        warps = defaultdict(list)
        for (thread, where, array, kind), places in self._visits.items():
            self.elements[array.space, kind] += len(places)
            self.arrays[array.name, kind] += len(places)
            self.lines[where.line, array.name, kind] += len(places)
            self.threads[block.index, thread.index, array.space, kind] += len(places)
            warps[thread.warp, where, array, kind].append(places)
        for (_, where, array, _), lanes in warps.items():
            name, size = (where.line, array.name), array.dtype.itemsize
            for turn in zip_longest(*lanes):                          # what they ask for at once
                places = {place for place in turn if place is not None}
                if array.space == "global":
                    self.sectors[name] += len({place * size // SECTOR for place in places})
                    continue
                words = places if size == WORD else {
                    byte // WORD for place in places for byte in range(place * size, place * size + size, min(size, WORD))}
                self.requests[name] += max(1, size // WORD)
                self.wavefronts[name] += max(Counter(word % BANKS for word in words).values())
        self._visits.clear()
