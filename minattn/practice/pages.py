"""A cache in pages: where a token lies, what stays empty, and how many pages an append takes.

    page    room for page_size tokens
    table   of a row: the numbers of its pages, in the order of its positions

Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention", arXiv:2309.06180,
sections 4.1 to 4.3.
"""
import numpy as np

from .exercise import Exercise, Wrong

# --- where a token lies -------------------------------------------------------------------------------------------


def _slots(page=lambda pos, table, size: table[pos // size], at=lambda pos, size: pos % size, start=lambda start: start,
           more=0):  # fmt: skip
    """Page and place of some positions, with one of these found otherwise."""

    def fn(table, page_size, first, stop):
        pos = np.arange(start(first), start(first) + stop - first + more)
        return page(pos, table, page_size), at(pos, page_size)

    return fn


def _tables(rng):
    sizes = [(3, 4, 4, 9), (5, 3, 0, 12), (4, 5, 7, 18), (6, 1, 2, 5)]
    return [(rng.permutation(40)[:pages], page_size, start, stop) for pages, page_size, start, stop in sizes]


_WHERE = "Positions 4 and 5 of a row with pages of 4: in which of its pages are they, and at which places there?"
slots_of = Exercise(
    name="slots_of", signature="slots_of(table, page_size, start, stop)", lesson="20", inputs=_tables, reference=_slots(),
    outputs=["page (n)", "at (n)"],
    wrong=[
        Wrong("the table not looked up", _slots(page=lambda pos, table, size: pos // size),
              "Is page 0 of the row page 0 of the memory? What is the table for?"),
        Wrong("pages taken to lie side by side", _slots(page=lambda pos, table, size: table[0] + pos // size),
              "Does the row's second page lie behind its first one?"),
        Wrong("pages in turn", _slots(lambda pos, table, size: table[pos % len(table)], lambda pos, size: pos // size), _WHERE),
        Wrong("counted from the first position asked for", _slots(start=lambda start: 0),
              "Which position has the first slot that you return?"),
        Wrong("the place in the row", _slots(at=lambda pos, size: pos), _WHERE),
        Wrong("places counted from 1", _slots(at=lambda pos, size: pos % size + 1), _WHERE),
        Wrong("one position too many", lambda table, page_size, start, stop: tuple(
            np.concatenate([part, part[-1:]]) for part in _slots()(table, page_size, start, stop)),
            "`stop` itself is not asked for. How many positions are?"),
        Wrong("page and place exchanged", lambda *case: _slots()(*case)[::-1], "Which of the two comes first?"),
        Wrong("slots numbered through", lambda table, page_size, start, stop: (
            table[np.arange(start, stop) // page_size],
            table[np.arange(start, stop) // page_size] * page_size + np.arange(start, stop) % page_size),
            "A place within a page is below page_size."),
    ],
)  # fmt: skip

# --- what stays empty ---------------------------------------------------------------------------------------------


def _pages(tokens, size):
    return -(-tokens // size)


def _empty(whole=lambda lengths, longest: len(lengths) * longest, paged=lambda lengths, size: _pages(lengths, size).sum() * size,
           held=lambda lengths: lengths.sum()):  # fmt: skip
    """Slots without a token, of which there are otherwise many."""
    return lambda lengths, longest, page_size: (
        whole(lengths, longest) - held(lengths), paged(lengths, page_size) - held(lengths))  # fmt: skip


def _rows(rng):
    """Lengths that fill their pages, that do not, and a row without tokens."""
    return [(np.array([7, 12, 1]), 20, 4), (np.array([5, 0, 9, 16, 3]), 33, 8), (rng.integers(1, 90, 6), 100, 7)]


_LAST = "A row of 7 tokens in pages of 4: how many pages, and how many slots of the last one are empty? And a row of 8?"
empty_slots = Exercise(
    name="empty_slots", signature="empty_slots(lengths, longest, page_size)", lesson="20", inputs=_rows, reference=_empty(),
    outputs=["contiguous", "paged"],
    wrong=[
        Wrong("a page more than is needed", _empty(paged=lambda lengths, size: (lengths // size + 1).sum() * size), _LAST),
        Wrong("full pages only", _empty(paged=lambda lengths, size: (lengths // size).sum() * size), _LAST),
        Wrong("all rows in the same pages", _empty(paged=lambda lengths, size: _pages(lengths.sum(), size) * size),
              "May the last page of one row hold the first token of the next?"),
        Wrong("a page for a row without tokens", _empty(
            paged=lambda lengths, size: np.maximum(_pages(lengths, size), 1).sum() * size),
              "When does a row take its first page?"),
        Wrong("pages, not slots", lambda lengths, longest, page_size: (
            len(lengths) * longest - lengths.sum(), (lengths % page_size > 0).sum()),
            "A page that is not full has how many empty slots?"),
        Wrong("a page lost for each row", lambda lengths, longest, page_size: (
            len(lengths) * longest - lengths.sum(), len(lengths) * (page_size - 1)),
            "That is the most that a row can lose. How much does it lose?"),
        Wrong("the longest row that there is, for each", _empty(whole=lambda lengths, longest: len(lengths) * lengths.max()),
              "What is reserved is `longest`, before anybody knows how long a row will be."),
        Wrong("one reservation", _empty(whole=lambda lengths, longest: longest), "How many rows reserve?"),
        Wrong("slots taken, not slots empty", _empty(held=lambda lengths: 0), "Which of these slots hold a token?"),
        Wrong("shares, not slots", lambda lengths, longest, page_size: (
            1 - lengths.sum() / (len(lengths) * longest), 1 - lengths.sum() / (_pages(lengths, page_size).sum() * page_size)),
            "Numbers of slots are wanted, not shares of them."),
    ],
)  # fmt: skip

# --- the pages that an append takes -------------------------------------------------------------------------------


def _new(length, new, size):
    return _pages(length + new, size) - _pages(length, size)


def _needed(fresh=_new, copy=lambda length, new, size, shared: bool(shared and new and length % size)):
    return lambda length, new, page_size, shared: int(fresh(length, new, page_size) + copy(length, new, page_size, shared))


def _appends(rng):
    return [(5, 2, 4, True), (5, 2, 4, False), (8, 1, 4, True), (8, 3, 4, False), (6, 0, 4, True), (0, 9, 4, False),
            (13, 11, 5, True), (3, 1, 16, True), (10, 37, 3, False)]  # fmt: skip


_ROOM = "How many slots of the last page are still empty, and how many tokens are then left for new pages?"
_WRITTEN = "A page must be copied when the row writes into it while another row holds it. Does this append write into it?"
pages_needed = Exercise(
    name="pages_needed", signature="pages_needed(length, new, page_size, shared)", lesson="20", inputs=_appends,
    reference=_needed(), outputs=["pages"],
    wrong=[
        Wrong("the copy forgotten", _needed(copy=lambda *_: 0), "The row writes into its last page. Who else reads it?"),
        Wrong("a full page copied", _needed(copy=lambda length, new, size, shared: bool(shared and new)), _WRITTEN),
        Wrong("copied though nothing is written", _needed(copy=lambda length, new, size, shared: bool(shared and length % size)),
              _WRITTEN),
        Wrong("copied whoever holds it", _needed(copy=lambda length, new, size, shared: bool(new and length % size)),
              "Where no other row holds the page, may the row not write into it?"),
        Wrong("every page copied", _needed(copy=lambda length, new, size, shared: _pages(length, size) * bool(
            shared and new and length % size)), "Into which of its pages does the row write?"),
        Wrong("a page copied for each token", _needed(
            copy=lambda length, new, size, shared: new * bool(shared and length % size)),
              "After the first copy, whose is the page?"),
        Wrong("room in the last page not used", _needed(fresh=lambda length, new, size: _pages(new, size)), _ROOM),
        Wrong("all its pages counted", _needed(fresh=lambda length, new, size: _pages(length + new, size)),
              "Which of these pages does the row have already?"),
        Wrong("rounded down", _needed(fresh=lambda length, new, size: (length + new) // size - length // size),
              "A row of 0 tokens gets 1. How many pages does it need?"),
        Wrong("slots, not pages", _needed(fresh=lambda length, new, size: new), _ROOM),
    ],
)  # fmt: skip
