"""The exercises on pages: held to the library's own cache, right in other styles, and mistakes as people write them."""
import numpy as np
import pytest

import minattn as ma
from minattn.memory.pages import Pages
from minattn.practice import check


@pytest.mark.parametrize("case", check.slots_of.cases())
def test_slots_are_where_the_library_keeps_them(case):
    table, page_size, start, stop = case
    cache = ma.PagedCache(len(table), page_size, 1, 1, np.float64)
    row = cache.new()
    text = np.random.default_rng(0).standard_normal((1, len(table) * page_size, 1))
    cache.append(row, text, text)
    here = {page: n for n, page in enumerate(table)}                  # the case's pages by the library's numbers
    page, at = check.slots_of.reference(*case)
    own = [cache.table(row)[here[each]] for each in page]
    np.testing.assert_array_equal(cache.k[own, 0, at, 0], text[0, start:stop, 0])


@pytest.mark.parametrize("case", check.empty_slots.cases())
def test_empty_slots_are_those_of_two_caches(case):
    lengths, longest, page_size = case
    contiguous = ma.KVCache(len(lengths), 1, longest, 1)
    pages = Pages(200, page_size)
    for length in lengths:
        pages.grow([pages.new()], int(length))
    slots = contiguous.k.size, (pages.pages - pages.free_pages) * page_size
    assert check.empty_slots.reference(*case) == tuple(taken - lengths.sum() for taken in slots)


@pytest.mark.parametrize("case", check.pages_needed.cases())
def test_pages_needed_is_what_an_append_takes(case):
    length, new, page_size, shared = case
    pages = Pages(100, page_size)
    row = pages.new()
    pages.grow([row], length)
    if shared:
        pages.fork(row)
    before = pages.free_pages
    pages.grow([row], new)
    assert check.pages_needed.reference(*case) == before - pages.free_pages


class ByTheLibrary:
    """The library's cache with one number a token, under the names that the exercise's skeleton has."""

    def __init__(self, pages, page_size):
        self.cache = ma.PagedCache(pages, page_size, 1, 1, np.float64)

    store = property(lambda self: self.cache.k[:, 0, :, 0])
    holders = property(lambda self: self.cache._holders)
    tables = property(lambda self: [self.cache.table(row) for row in self.cache.rows])
    lengths = property(lambda self: [self.cache.length(row) for row in self.cache.rows])

    def new(self):
        return self.cache.new()

    def fork(self, row):
        return self.cache.fork(row)

    def append(self, row, token):
        self.cache.append(row, *np.full((2, 1, 1, 1), token))


class Skeleton:
    """The cell as it is given."""

    def __init__(self, pages, page_size):
        self.store = np.zeros((pages, page_size))
        self.holders = np.zeros(pages, dtype=int)
        self.tables, self.lengths = [], []

    def new(self):
        self.tables.append([])
        self.lengths.append(0)
        return len(self.tables) - 1

    def fork(self, row):
        return None

    def append(self, row, token):
        return None


class ForkAlone(Skeleton):
    def fork(self, row):
        self.tables.append(self.tables[row].copy())
        self.lengths.append(self.lengths[row])
        for page in self.tables[row]:
            self.holders[page] += 1
        return len(self.tables) - 1


def test_forks_in_another_style():
    result = check.shared_pages(ByTheLibrary)
    assert result, repr(result)

    def page_by_page(length, new, page_size, shared):
        own = {length // page_size} if length % page_size and not shared else set()
        return len({(length + n) // page_size for n in range(new)} - own)

    assert check.pages_needed(page_by_page)


@pytest.mark.parametrize("unfinished", [Skeleton, ForkAlone])
def test_what_appends_nothing_is_blank(unfinished):
    assert check.shared_pages(unfinished).status == "blank"


def test_mistakes_as_people_write_them():
    assert check.slots_of(lambda table, size, start, stop: (
        [table[0] + n // size for n in range(start, stop)], [n % size for n in range(start, stop)],
    )).mistake == "pages taken to lie side by side"  # fmt: skip
    assert check.empty_slots(lambda lengths, longest, size: (
        sum(longest - n for n in lengths), sum(size - n % size for n in lengths),
    )).mistake == "a page more than is needed"  # fmt: skip
    assert check.pages_needed(lambda length, new, size, shared: -(-(length + new) // size) - -(-length // size)).mistake == (
        "the copy forgotten")  # fmt: skip
