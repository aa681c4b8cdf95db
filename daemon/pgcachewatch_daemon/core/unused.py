"""The channels that are listened to and that nobody uses, and which of them may be given up.

A channel that is given up leaves a hole in the log, and whoever resumes across the hole has to flush. One that was left
before what the history still has costs nobody anything: such a resume is too old anyway. So the floor of the history
decides, and no clock. Bound: the channels that are listened to.
"""

from __future__ import annotations

import itertools


class Unused:
    """In the order in which they were left. `seq` is the position then: no client that used it was told more.

    >>> unused = Unused()
    >>> unused.add("a", seq=3)
    >>> unused.add("b", seq=5)
    >>> unused.longest(1), unused.before(5), unused.before(3)
    (['a'], ['a'], [])
    """

    def __init__(self) -> None:
        self._left: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._left)

    def add(self, channel: str, *, seq: int) -> None:
        """Its last user has left."""
        self._left.pop(channel, None)
        self._left[channel] = seq

    def discard(self, channel: str) -> None:
        """It is used again, or given up."""
        self._left.pop(channel, None)

    def all(self) -> list[str]:
        return list(self._left)

    def longest(self, most: int) -> list[str]:
        """Up to so many, those that were left first."""
        return list(itertools.islice(self._left, most))

    def before(self, floor: int) -> list[str]:
        """Those that no resume can need: the history has what came after `floor`, and they were left earlier."""
        return list(itertools.takewhile(lambda channel: self._left[channel] < floor, self._left))
