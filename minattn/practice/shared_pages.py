"""Rows that share pages until one of them writes.

    table   of a row: the numbers of its pages, in the order of its positions
    holders how many rows have a page in their table; a page that nobody holds is free
    fork    a second row with the same tokens, which takes no page of its own
    own     copy on write: a page that is written has one holder

Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention", arXiv:2309.06180,
section 4.4.
"""
import numpy as np

from .exercise import Blank, Exercise, Wrong


def _serve(answer, pages, page_size, script):
    """Follow the script ("append", row, token) or ("fork", row); then read every row through its table."""
    cache = answer(pages, page_size)
    cache.new()
    for what, row, *token in script:
        came = getattr(cache, what)(row, *token)
        if what == "fork" and came is None:
            raise Blank
    if not any(cache.lengths):
        raise Blank
    S, most = max(cache.lengths), max(map(len, cache.tables))
    read, held = np.zeros((len(cache.tables), S)), np.zeros((len(cache.tables), most), int)
    for row, (table, length) in enumerate(zip(cache.tables, cache.lengths, strict=True)):
        read[row, :length] = [cache.store[table[pos // page_size], pos % page_size] for pos in range(length)]
        held[row, : len(table)] = np.asarray(cache.holders)[list(table)]
    return read, held, int((np.asarray(cache.holders) == 0).sum())


def _scripts(rng):
    """A last page that is shared, twice shared, full; each row writes in its turn; and a fork of a fork."""
    plans = [(3, "aaaa0bbbaab"), (2, "aaaa0ba"), (4, "aa01abcca"), (3, "aaaa0b1ccb"), (4, "aaaaa0bbbbaaaa")]
    cases = []
    for page_size, plan in plans:
        script: list[tuple] = []
        for sign in plan:
            if sign.isdigit():
                script.append(("fork", int(sign)))
            else:
                script.append(("append", "abc".index(sign), float(rng.integers(10, 100))))
        cases.append({"pages": 12, "page_size": page_size, "script": script})
    return cases


class _Pages:
    """The right one. A wrong one says otherwise what a fork shares, when a page is copied, or what a copy is."""

    def __init__(self, pages, page_size):
        self.store, self.holders = np.zeros((pages, page_size)), np.zeros(pages, dtype=int)
        self.tables: list[list] = []
        self.lengths: list[int] = []

    def new(self):
        self.tables.append([])
        self.lengths.append(0)
        return len(self.tables) - 1

    def free_page(self):
        page = int(np.flatnonzero(self.holders == 0)[0])
        self.holders[page] = 1
        return page

    def fork(self, row):
        self.tables.append(list(self.tables[row]))
        self.lengths.append(self.lengths[row])
        self.holders[self.tables[row]] += 1
        return len(self.tables) - 1

    def own(self, table, n):
        """Make the n-th page of a table one that no other row holds."""
        if self.holders[table[n]] > 1:
            old, table[n] = table[n], self.free_page()
            self.holders[old] -= 1
            self.store[table[n]] = self.store[old]

    def append(self, row, token):
        table, (n, at) = self.tables[row], divmod(self.lengths[row], self.store.shape[1])
        if at:
            self.own(table, n)
        else:
            table.append(self.free_page())
        self.store[table[n], at] = token
        self.lengths[row] += 1


def _wrong(**methods):
    return type("Wrong", (_Pages,), methods)


def _copying_fork(self, row):
    pages = [self.free_page() for _ in self.tables[row]]
    self.store[pages] = self.store[self.tables[row]]
    self.tables.append(pages)
    self.lengths.append(self.lengths[row])
    return len(self.tables) - 1


def _uncounted_fork(self, row):
    self.tables.append(list(self.tables[row]))
    self.lengths.append(self.lengths[row])
    return len(self.tables) - 1


def _one_table(self, row):
    self.tables.append(self.tables[row])
    self.lengths.append(self.lengths[row])
    self.holders[self.tables[row]] += 1
    return len(self.tables) - 1


def _still_counted(self, table, n):
    if self.holders[table[n]] > 1:
        old, table[n] = table[n], self.free_page()
        self.store[table[n]] = self.store[old]


def _empty_copy(self, table, n):
    if self.holders[table[n]] > 1:
        self.holders[table[n]] -= 1
        table[n] = self.free_page()


def _whole_row(self, table, n):
    if self.holders[table[n]] > 1:
        for each in range(n + 1):
            _Pages.own(self, table, each)


def _also_full(self, row, token):
    if self.tables[row]:
        self.own(self.tables[row], len(self.tables[row]) - 1)
    _Pages.append(self, row, token)


def _lost_copy(self, row, token):
    """The token goes into a copy that the table does not know."""
    table, (n, at) = self.tables[row], divmod(self.lengths[row], self.store.shape[1])
    if not at:
        table.append(self.free_page())
    page = table[n]
    if self.holders[page] > 1:
        page = self.free_page()
        self.holders[table[n]] -= 1
        self.store[page] = self.store[table[n]]
    self.store[page, at] = token
    self.lengths[row] += 1


shared_pages = Exercise(
    name="shared_pages", signature="MyPages(pages, page_size)", lesson="20", inputs=_scripts, reference=_Pages, drive=_serve,
    outputs=["tokens (row, pos)", "holders (row, page)", "free_pages"],
    wrong=[
        Wrong("writes into a page that others hold", _wrong(own=lambda self, table, n: None),
              "One row appends to a shared page, then the other. Print what each of them reads at that place."),
        Wrong("the fork is not counted", _wrong(fork=_uncounted_fork), "After a fork, how many rows hold each of these pages?"),
        Wrong("fork copies every page", _wrong(fork=_copying_fork),
              "The tokens are right. How many pages has a fork to take before anybody writes?"),
        Wrong("one table for both rows", _wrong(fork=_one_table),
              "One row takes a new page. Does the other's table grow with it?"),
        Wrong("the old page keeps a holder that left", _wrong(own=_still_counted),
              "The row has a copy now. How many still hold the page that it copied?"),
        Wrong("an empty copy", _wrong(own=_empty_copy), "What stood in the page before the new token?"),
        Wrong("the whole row copied", _wrong(own=_whole_row), "Into which of its pages does the row write?"),
        Wrong("a full page copied", _wrong(append=_also_full), "The last page is full. Is anything written into it?"),
        Wrong("a copy that is in no table", _wrong(append=_lost_copy), "Through which table does the row find its copy?"),
    ],
)  # fmt: skip
