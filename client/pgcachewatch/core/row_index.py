"""From a row to the keys of the entries and running fills that depend on it.

An index per dimension, text -> key or keys. Most rows have one entry, so that one is kept bare: a set costs 200 bytes.
A row that is taken is gone from the index, and so are the entries; whoever fills one of them anew enters it again.
Nothing is removed when an entry is evicted or dies by a flush: a text that leads to nobody costs memory and no
correctness, and one that leads to a key which no longer depends on it costs a run. They are swept out when there are
as many again as were in use after the last sweep.

For rows that only a result tells, the last changes are remembered: RECENT rows with the number of their change. A fill
that began before the oldest of them can not be proven, and is not stored.

Bound: twice the rows in use, and LEAST; RECENT changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator

from pgcachewatch.core.dependencies import ANY_ROW, RowKey

LEAST = 1_024  # rows below which nothing is swept
RECENT = 4_096


class _Several(set[Hashable]):
    """The keys of a row that has more than one; a class of its own, because a key may be any hashable."""


class RowIndex:
    """See the module.

    >>> index = RowIndex()
    >>> index.add("Ada", [RowKey(0, "5")], is_kept=lambda key: True)
    >>> list(index.take(RowKey(0, "6"))), list(index.take(RowKey(0, "5"))), list(index.take(RowKey(0, "5")))
    ([], ['Ada'], [])
    """

    __slots__ = ("_by_text", "_late", "_recent", "_size", "_sweep_at", "changes", "forgotten")

    def __init__(self, late_dimensions: Collection[int] = ()) -> None:
        self._late = frozenset(late_dimensions)
        self._by_text: dict[int, dict[str, Hashable | _Several]] = {}
        self._size = 0
        self._sweep_at = LEAST
        self._recent: dict[RowKey, int] = {}  # oldest change first
        self.changes = 0  # of late dimensions
        self.forgotten = 0  # the newest change that is not remembered

    @property
    def has_late(self) -> bool:
        """True when some rows are known only from a result."""
        return bool(self._late)

    def __len__(self) -> int:
        """Pairs of a row and a key."""
        return self._size

    def add(self, key: Hashable, rows: Iterable[RowKey], *, is_kept: Callable[[Hashable], bool]) -> None:
        """`key` depends on these rows, from now on. `is_kept` says of any key whether it still stands for something."""
        for row in rows:
            by_text = self._by_text.setdefault(row.dimension, {})
            there = by_text.get(row.text, _NOBODY)
            if there is _NOBODY:
                by_text[row.text] = key
                self._size += 1
            elif isinstance(there, _Several):
                self._size += key not in there
                there.add(key)
            elif there != key:
                by_text[row.text] = _Several((there, key))
                self._size += 1
        if self._size > self._sweep_at:
            self._sweep(is_kept)

    def take(self, row: RowKey) -> Iterator[Hashable]:
        """The keys that depend on a row which changed; they are no longer in the index."""
        if row.dimension in self._late:
            self._remember(row)
        by_text = self._by_text.get(row.dimension)
        if not by_text:
            return
        for text in (row.text, ANY_ROW):
            there = by_text.pop(text, _NOBODY)
            if isinstance(there, _Several):
                self._size -= len(there)
                yield from there
            elif there is not _NOBODY:
                self._size -= 1
                yield there

    def is_untouched(self, rows: Collection[RowKey], *, since: int) -> bool:
        """True when none of these rows changed after change number `since`, provably."""
        if since < self.forgotten:
            return False
        for row in rows:
            if row.text == ANY_ROW:
                if self.changes != since:
                    return False
            elif self._recent.get(row, 0) > since:
                return False
        return True

    def _remember(self, row: RowKey) -> None:
        self.changes += 1
        self._recent.pop(row, None)
        self._recent[row] = self.changes
        if len(self._recent) > RECENT:
            self.forgotten = self._recent.pop(next(iter(self._recent)))

    def _sweep(self, is_kept: Callable[[Hashable], bool]) -> None:
        self._size = 0
        for dimension, by_text in self._by_text.items():
            kept: dict[str, Hashable | _Several] = {}
            for text, there in by_text.items():
                if isinstance(there, _Several):
                    keys = _Several(key for key in there if is_kept(key))
                    if keys:
                        kept[text] = keys if len(keys) > 1 else keys.pop()
                        self._size += len(keys) or 1
                elif is_kept(there):
                    kept[text] = there
                    self._size += 1
            self._by_text[dimension] = kept
        self._sweep_at = max(LEAST, 2 * self._size)


_NOBODY = object()
