"""One bounded ring of events, read by any number of cursors, each at its own pace.

A cursor reads each item once, in order. One that falls more than the ring's capacity behind gets a Gap where the items
it missed would have been, exactly once, and goes on with the oldest that is left. What every cursor has read is let go,
so the ring holds what the slowest cursor still needs and no more.

Bound: `capacity` items. At the limit the oldest goes. Cursors are held weakly.
"""

from __future__ import annotations

import collections
import weakref
from typing import Generic, TypeVar

from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import EVERYTHING, Gap

T = TypeVar("T")


class Ring(Generic[T]):
    """The items.

    >>> ring = Ring[str](capacity=2)
    >>> cursor = ring.cursor()
    >>> for item in "abc":
    ...     ring.append(item)
    >>> [cursor.next() for _ in range(len(cursor))]
    [Gap(scope=Scope(channel=None, table=None, schema=None, key=None), reason='overflow', detail='1 lost'), 'b', 'c']
    """

    __slots__ = ("_cursors", "_first", "_items", "capacity")

    def __init__(self, *, capacity: int) -> None:
        if capacity < 1:
            raise ConfigurationError(f"the capacity of a ring must be 1 or more, not {capacity}")
        self.capacity = capacity
        self._items: collections.deque[T] = collections.deque()
        self._first = 0  # number of the oldest item that is kept
        self._cursors: weakref.WeakSet[Cursor[T]] = weakref.WeakSet()

    def append(self, item: T) -> None:
        """Add the newest item."""
        self._items.append(item)
        if len(self._items) > self.capacity:
            self._drop_oldest()

    def cursor(self) -> Cursor[T]:
        """A reader of what is appended from now on."""
        cursor = Cursor(self, self.head)
        self._cursors.add(cursor)
        return cursor

    @property
    def head(self) -> int:
        """The number the next item will get."""
        return self._first + len(self._items)

    @property
    def first(self) -> int:
        """The number of the oldest item that is kept; `head` when there is none."""
        return self._first

    def at(self, number: int) -> T:
        """Item `number`, which must be kept: `first <= number < head`. O(1) near both ends."""
        return self._items[number - self._first]

    def trim(self) -> None:
        """Let go of what each cursor has read."""
        slowest = min((cursor.position for cursor in self._cursors), default=self.head)
        while self._first < slowest:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._items.popleft()
        self._first += 1


class Cursor(Generic[T]):
    """One reader's place. `len()` is the number of things `next` has to give, a Gap included."""

    __slots__ = ("__weakref__", "_ring", "position")

    def __init__(self, ring: Ring[T], position: int) -> None:
        self._ring = ring
        self.position = position

    def __len__(self) -> int:
        return self._ring.head - max(self.position, self._ring.first) + (self.position < self._ring.first)

    def next(self) -> T | Gap:
        """The next item, or the Gap that stands for those that were lost. Raises IndexError when all was read."""
        ring = self._ring
        if self.position < ring.first:
            lost = ring.first - self.position
            self.position = ring.first
            return Gap(EVERYTHING, "overflow", f"{lost} lost")
        if self.position >= ring.head:
            raise IndexError("all was read")
        item = ring.at(self.position)
        self.position += 1
        if self.position - 1 == ring.first:
            ring.trim()
        return item

    def since(self) -> list[T | Gap]:
        """Everything that is left to read, oldest first."""
        return [self.next() for _ in range(len(self))]
