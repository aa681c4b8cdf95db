"""What one reader heard of a tape: everything, or something less and was told so.

A number that was skipped is no fault of the relay when the reader was told of a gap in between, or when the writer does
not know itself whether it was committed; the first is decided here, the second when the soak is judged.

Bound: MISSING_KEPT spans are kept, the rest is counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

MISSING_KEPT = 100

Span = tuple[int, int]  # both ends belong to it


@dataclass(slots=True)
class TapeReader:
    """Tell it what was heard, in order.

    >>> reader = TapeReader()
    >>> for number in (7, 8, 11):
    ...     reader.hear(number)
    >>> reader.missing
    [(9, 10)]
    """

    last: int = 0
    heard: int = 0
    gaps: int = 0
    repeats: int = 0
    missing: list[Span] = field(default_factory=list)
    missing_more: int = 0
    knows_a_gap: bool = True  # what was before the first number is no concern

    def hear(self, number: int) -> None:
        self.heard += 1
        if number <= self.last:
            self.repeats += 1
            return
        if number > self.last + 1 and not self.knows_a_gap:
            self._miss((self.last + 1, number - 1))
        self.last = number
        self.knows_a_gap = False

    def be_told_of_a_gap(self) -> None:
        """Whatever lies between the last number and the next may be missing."""
        if not self.knows_a_gap:
            self.gaps += 1
        self.knows_a_gap = True

    def _miss(self, span: Span) -> None:
        if len(self.missing) < MISSING_KEPT:
            self.missing.append(span)
        else:
            self.missing_more += 1


@dataclass(slots=True)
class Numbers:
    """A set of numbers that are mostly consecutive, as spans in order.

    >>> numbers = Numbers()
    >>> for number in (1, 2, 5, 3):
    ...     numbers.add(number)
    >>> numbers.spans
    [(1, 3), (5, 5)]
    """

    spans: list[Span] = field(default_factory=list)

    def add(self, number: int) -> None:
        self.add_span((number, number))

    def add_span(self, span: Span) -> None:
        """All of it must be new, or all of it old."""
        # New numbers come near the end: the search is short where it matters.
        spans = self.spans
        at = len(spans)
        while at and spans[at - 1][0] > span[0]:
            at -= 1
        if at and span[0] <= spans[at - 1][1]:
            return
        spans.insert(at, span)
        self._join(at)
        self._join(at - 1)

    def _join(self, at: int) -> None:
        """Make one span of two that touch: `at` and the one behind it."""
        spans = self.spans
        if 0 <= at < len(spans) - 1 and spans[at][1] + 1 == spans[at + 1][0]:
            spans[at : at + 2] = [(spans[at][0], spans[at + 1][1])]


def outside(spans: Iterable[Span], excused: Iterable[Span]) -> list[int]:
    """The numbers of `spans` that no span of `excused` has.

    >>> outside([(1, 4)], [(2, 2), (4, 9)])
    [1, 3]
    """
    pardoned = list(excused)
    return [
        number
        for first, last in spans
        for number in range(first, last + 1)
        if not any(start <= number <= end for start, end in pardoned)
    ]
