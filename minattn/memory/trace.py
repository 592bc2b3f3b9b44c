"""Where the memory of a cache goes while requests come and leave: contiguous allocation against pages, token by token.

Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention", arXiv:2309.06180,
section 3.1 and figures 2, 3 and 11.

    slot      room for the key and value of one token          chunk   the slots that a request asks for in one piece
    tokens    share of the slots that hold a token             reserved    that will hold one before its request ends
    internal  of a chunk (or a last page) that never will      external    the rest: free, or lost to rounding and gaps

The paper's server keeps 15,700 slots (its table 1: 13 billion parameters on a GPU of 40 GB), and its chats ask with 161
tokens and are answered with 338 in the mean. Here lengths are drawn from exponential laws with these means, cut where both
together pass `longest`. Somebody always waits; requests are admitted in the order in which they came.

    "longest"  a chunk of `longest` slots, whatever comes          the paper's Orca (Max)
    "power"    the prompt, and the next power of two of the answer           Orca (Pow2)
    "oracle"   the prompt and the answer, whose length is known              Orca (Oracle)
    "pages"    pages as they are needed; when none is left, the latest request gives back its own and waits again
"""
from typing import NamedTuple

import numpy as np

from ..core.errors import OptionError
from ..core.shapes import choice, count, number
from .pages import Pages

# of all slots, those that held tokens: the paper's measurement (figure 2), on its own server and its own chats
PAPER = {"longest": 0.204, "power": 0.268, "oracle": 0.382, "pages": 0.963}


class Shares(NamedTuple):
    """Shares of all slots, which add up to 1, and the requests served at once: means over the steps."""

    tokens: float
    reserved: float
    internal: float
    external: float
    running: float


class Buddies:
    """Chunks by the buddy system: blocks of 2^n slots, halved when a smaller one is asked for, joined when both are free."""

    def __init__(self, slots):
        self.free: dict[int, set] = {1 << n: set() for n in range(slots.bit_length())}
        start = 0
        for size in reversed(self.free):                              # the largest first: each starts at a multiple of its size
            if slots & size:
                self.free[size].add(start)
                start += size

    def take(self, slots):
        """Where a chunk of `slots` begins, or None where no block is large enough."""
        size = block(slots)
        while size in self.free and not self.free[size]:
            size *= 2
        if size not in self.free:
            return None
        start = min(self.free[size])
        self.free[size].remove(start)
        while size > block(slots):
            size //= 2
            self.free[size].add(start + size)
        return start

    def give(self, start, slots):
        """Take a chunk back."""
        size = block(slots)
        while start ^ size in self.free[size]:
            self.free[size].remove(start ^ size)
            start, size = min(start, start ^ size), 2 * size
        self.free[size].add(start)


def block(slots):
    """The power of two that holds so many slots."""
    return 1 << (slots - 1).bit_length()


def drawn(rng, requests, prompt, output, longest):
    """Prompt and answer of each request, (requests, 2): at least one token each, `longest` together at the most."""
    lengths = 1 + np.minimum(rng.exponential((prompt - 1, output - 1), (requests, 2)), longest).astype(int)
    lengths[:, 0] = np.minimum(lengths[:, 0], longest - 1)
    lengths[:, 1] = np.minimum(lengths[:, 1], longest - lengths[:, 0])
    return lengths


def cache_waste(policy, *, slots=15_700, page_size=16, longest=2048, prompt=161, output=338, steps=20_000, seed=0):
    """Serve requests for some steps, each of which gives every request served one token, and say what the slots were used for.

    Parameters
    ----------
    policy : {"longest", "power", "oracle", "pages"}
        How much memory a request is given, and when; see the module.
    slots, page_size, longest : int
        Tokens for which there is memory; in a page; in a request.
    prompt, output : float
        Mean tokens of a prompt and of an answer.
    steps : int
        The first fifth of them fills the memory and is not counted.
    seed : int

    Returns
    -------
    Shares(tokens, reserved, internal, external, running)

    Raises
    ------
    OptionError
        If there is no such policy, or a size does not fit the others.

    References
    ----------
    Kwon et al. 2023, arXiv:2309.06180, section 3.1 and figure 2.

    Examples
    --------
    >>> import minattn as ma
    >>> whole, pages = (ma.cache_waste(policy, steps=2000) for policy in ("longest", "pages"))
    >>> whole.tokens < 0.25, pages.tokens > 0.95, whole.running                   # seven times 2048 is all that fits
    (True, True, 7.0)
    """
    choice("policy", policy, PAPER)
    longest, steps, page_size = count("longest", longest, 2), count("steps", steps, 5), count("page_size", page_size, 1)
    slots = count("slots", slots, block(longest) + page_size)
    means = number("prompt", prompt), number("output", output)
    if min(means) < 1:
        raise OptionError(f"prompt = {prompt} and output = {output}; a mean of tokens is at least 1")
    server = PagesServer(slots, page_size) if policy == "pages" else ChunkServer(slots, policy, longest)
    rng = np.random.default_rng(count("seed", seed, 0))
    waiting: list = []
    seen: list = []
    for step in range(steps):
        if not waiting:
            waiting = drawn(rng, 1000, *means, longest)[::-1].tolist()
        while waiting and server.admit(*waiting[-1]):
            waiting.pop()
        if step >= steps // 5:
            seen.append(server.use())
        waiting += server.step()
    tokens, reserved, internal, running = np.mean(seen, axis=0).tolist()
    return Shares(tokens / slots, reserved / slots, internal / slots, 1 - (tokens + reserved + internal) / slots, running)


class ChunkServer:
    """Each request in a chunk of its own: [tokens now, tokens at its end, slots asked for, where]."""

    def __init__(self, slots, policy, longest):
        self.memory, self.policy, self.longest, self.served = Buddies(slots), policy, longest, []

    def admit(self, prompt, output):
        asked = {"longest": self.longest, "power": prompt + block(output), "oracle": prompt + output}[self.policy]
        start = self.memory.take(min(asked, self.longest))
        if start is not None:
            self.served.append([prompt, prompt + output, min(asked, self.longest), start])
        return start is not None

    def use(self):
        tokens, ends, asked, _ = np.sum(self.served, axis=0)
        return tokens, ends - tokens, asked - ends, len(self.served)

    def step(self):
        """One token more for each; who has all of them leaves. Returns those that must wait again: nobody."""
        for request in self.served:
            request[0] += 1
            if request[0] == request[1]:
                self.memory.give(request[3], request[2])
        self.served = [request for request in self.served if request[0] < request[1]]
        return []


class PagesServer:
    """Each request in pages: [row, tokens at its end], the earliest first."""

    def __init__(self, slots, page_size):
        self.memory, self.served = Pages(slots // page_size, page_size), []

    def admit(self, prompt, output):
        if -(-prompt // self.memory.page_size) > self.memory.free_pages:
            return False
        self.served.append([self.memory.new(), prompt + output])
        self.memory.grow([self.served[-1][0]], prompt)
        return True

    def use(self):
        tokens = sum(self.memory.length(row) for row, _ in self.served)
        return tokens, 0, (self.memory.pages - self.memory.free_pages) * self.memory.page_size - tokens, len(self.served)

    def step(self):
        """One token more for each; who has all of them leaves. Returns those that must wait again, the latest first."""
        again, size = [], self.memory.page_size
        while sum(self.memory.length(row) % size == 0 for row, _ in self.served) > self.memory.free_pages:
            row, end = self.served.pop()
            length = self.memory.length(row)
            again.append([length, end - length])                      # all its tokens are a prompt then
            self.memory.free(row)
        self.memory.grow([row for row, _ in self.served], 1)
        ended = {row for row, end in self.served if self.memory.length(row) == end}
        for row in ended:
            self.memory.free(row)
        self.served = [request for request in self.served if request[0] not in ended]
        return again
