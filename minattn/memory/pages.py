"""Pages and who holds them: the bookkeeping of a paged cache, in which no token occurs.

Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention", arXiv:2309.06180,
sections 4.2 to 4.4.

    page    room for page_size tokens
    table   of a row: the numbers of its pages. Position pos of the row stands in page table[pos // page_size], at
            pos % page_size
    holders how many rows have a page in their table; a page that nobody holds is free
"""
import operator
from array import array

import numpy as np

from ..core.errors import CacheError, OptionError
from ..core.shapes import count


class Pages:
    """Which row holds which pages. What lies in them is the business of whoever inherits this."""

    def __init__(self, pages, page_size, on_full=None):
        self.pages, self.page_size = count("pages", pages, 1), count("page_size", page_size, 1)
        if on_full is not None and not callable(on_full):
            raise OptionError(f"on_full is {on_full!r}; it must be a function on_full(cache, needed)")
        self.on_full = on_full
        self._holders = np.zeros(self.pages, np.int64)
        self._unused = list(range(self.pages))[::-1]
        self._tables: dict[int, array] = {}                           # which NumPy reads as they lie
        self._lengths: dict[int, int] = {}
        self._next = 0

    @property
    def free_pages(self):
        """Pages that nobody holds."""
        return len(self._unused)

    @property
    def rows(self):
        """The rows that there are, oldest first."""
        return tuple(self._tables)

    def table(self, row):
        """The pages of a row, in the order of its positions."""
        return tuple(self._tables[self._known(row)])

    def length(self, row):
        """Tokens of a row."""
        return self._lengths[self._known(row)]

    def new(self):
        """A row without tokens: a number that stands for it, used once."""
        row, self._next = self._next, self._next + 1
        self._tables[row], self._lengths[row] = array("q"), 0
        return row

    def fork(self, row):
        """A new row that holds what `row` holds, without a copy."""
        table, length = self._tables[self._known(row)], self._lengths[row]
        other = self.new()
        self._tables[other], self._lengths[other] = table[:], length
        self._holders[table] += 1
        return other

    def free(self, row):
        """Forget a row; its pages that no other row holds are free."""
        table = np.array(self._tables.pop(self._known(row)), np.int64)
        del self._lengths[row]
        self._holders[table] -= 1                                     # a row holds a page once
        self._unused += table[self._holders[table] == 0].tolist()

    def grow(self, rows, N):
        """Make each of several rows N tokens longer.

        Returns
        -------
        copies : list of (page, copy)
            Pages that a row is about to write into and others hold too: it has `copy` in its table from now on, into which
            the page must be copied before anything is written.

        Raises
        ------
        CacheError
            If there are not pages enough, also after `on_full`: then no row has grown. Or if there is no such row.
        """
        rows, N = [self._known(row) for row in rows], count("N", N, 0)
        needed = self._needed(rows, N)
        if needed > self.free_pages and self.on_full is not None:
            self.on_full(self, needed)
            for row in rows:
                self._known(row)
            needed = self._needed(rows, N)                            # pages may have lost their other holders
        if needed > self.free_pages:
            raise CacheError(
                f"the cache is full: {N} tokens more for {len(rows)} rows need {needed} pages and {self.free_pages} of "
                f"{self.pages} are free; free a row, give more pages, or an on_full that frees some"
            )
        copies = []
        for row in rows:
            table, length = self._tables[row], self._lengths[row]
            if N and length % self.page_size and self._holders[table[-1]] > 1:
                self._holders[table[-1]] -= 1
                copies.append((table[-1], self._take()))
                table[-1] = copies[-1][1]
            self._lengths[row] = length + N
            table.extend([self._take() for _ in range(self._pages_of(length + N) - len(table))])
        return copies

    def _known(self, row):
        try:
            return operator.index(row) if row in self._tables else self._missing(row)
        except TypeError:                                             # what has no hash, or is no integer
            return self._missing(row)

    def _missing(self, row):
        raise CacheError(f"there is no row {row!r}; it was freed, or never made with new() or fork()")

    def _pages_of(self, tokens):
        return -(-tokens // self.page_size)

    def _needed(self, rows, N):
        """Pages that N tokens more for each row take: new ones, and copies of last pages that others hold, too."""
        if N == 0:
            return 0
        needed = 0
        holders: dict = {}
        for row in rows:
            length = self._lengths[row]
            needed += self._pages_of(length + N) - len(self._tables[row])
            if length % self.page_size:
                last = self._tables[row][-1]
                held = holders.setdefault(last, self._holders[last])
                if held > 1:                                          # copied, and held by one row less
                    needed, holders[last] = needed + 1, held - 1
        return needed

    def _take(self):
        page = self._unused.pop()
        self._holders[page] = 1
        return page
