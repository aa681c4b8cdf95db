"""From a row to the keys of the entries and running fills that depend on it.

An index per dimension, text -> key or keys. Most rows have one entry, so that one is kept bare: a set costs 200 bytes.
A text of digits is kept as the number it writes, which is half the size, and as the key itself where both are equal.
A row that is taken is gone from the index, and so are the entries; whoever fills one of them anew enters it again.
Nothing is removed when an entry is evicted or dies by a flush: a text that leads to nobody costs memory and no
correctness, and one that leads to a key which no longer depends on it costs a run. They are swept out when there are
as many again as were in use after the last sweep.

For rows that only a result tells, the last changes are remembered: RECENT rows with the number of their change. A fill
that began before the oldest of them can not be proven, and is not stored.

Bound: twice the rows in use, and LEAST; RECENT changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable

from pgcachewatch.core.dependencies import ANY_ROW, RowKey

LEAST = 1_024  # rows below which nothing is swept
RECENT = 4_096
DIGITS_KEPT = 18  # of a number: more would not be smaller than the text


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
        self._by_text: dict[int, dict[str | int, Hashable | _Several]] = {}
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
            name = _name(row.text)
            there = by_text.get(name, _NOBODY)
            if there is _NOBODY:
                by_text[key if type(key) is type(name) and key == name else name] = key
                self._size += 1
            elif isinstance(there, _Several):
                self._size += key not in there
                there.add(key)
            elif there != key:
                by_text[name] = _Several((there, key))
                self._size += 1
        if self._size > self._sweep_at:
            self._sweep(is_kept)

    def take(self, row: RowKey) -> Collection[Hashable]:  # hot path
        """The keys that depend on a row which changed; they are no longer in the index. O(these keys)."""
        dimension, text = row
        if dimension in self._late:
            self._remember(row)
        by_text = self._by_text.get(dimension)
        if not by_text:
            return ()
        there = by_text.pop(_name(text), _NOBODY)
        keys = () if there is _NOBODY else self._released(there)
        return (*keys, *self._released(by_text.pop(ANY_ROW))) if ANY_ROW in by_text else keys

    def _released(self, there: Hashable | _Several) -> Collection[Hashable]:
        """The keys of a row that was taken out."""
        keys = there if isinstance(there, _Several) else (there,)
        self._size -= len(keys)
        return keys

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
            kept: dict[str | int, Hashable | _Several] = {}
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


def _name(text: str) -> str | int:  # hot path
    """What stands for a key's text in the index: one to one, so that nothing but its size changes."""
    is_number = text.isdecimal() and text.isascii() and len(text) <= DIGITS_KEPT and (text[0] != "0" or text == "0")
    return int(text) if is_number else text


_NOBODY = object()
