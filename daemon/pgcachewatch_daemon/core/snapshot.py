"""Snapshots of the primary: which transactions were over at one moment (manual, 'Snapshot Information').

A place in the journal is a snapshot and not a number: rows become visible in the order of their commits, and no number
that is drawn before a commit has that order. What is not in one snapshot and is in the next is what came between.
Bound: as long as its text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(r"(\d{1,20}):(\d{1,20}):((?:\d{1,20}(?:,\d{1,20})*)?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Transactions below `xmin` were over, none at or above `xmax` was, of those between `running` were not."""

    xmin: int
    xmax: int
    running: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Snapshot | None:
        """What `pg_current_snapshot()::text` wrote; None for anything else, as a client may send.

        >>> Snapshot.parse("10:20:10,14")
        Snapshot(xmin=10, xmax=20, running=frozenset({10, 14}))
        >>> Snapshot.parse("20:10:")
        """
        found = _TEXT.fullmatch(text)
        if found is None or int(found[1]) > int(found[2]):
            return None
        running = frozenset(map(int, found[3].split(","))) if found[3] else frozenset()
        return cls(int(found[1]), int(found[2]), running)

    def contains(self, xid: int) -> bool:
        """True when the transaction was over.

        >>> snapshot = Snapshot.parse("10:20:10,14")
        >>> [xid for xid in (9, 10, 11, 14, 20) if snapshot.contains(xid)]
        [9, 11]
        """
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)

    def includes(self, other: Snapshot) -> bool:
        """True when each transaction that was over in `other` was over in this one.

        >>> Snapshot.parse("10:21:10").includes(Snapshot.parse("10:20:10,14"))
        True
        >>> Snapshot.parse("10:21:10,15").includes(Snapshot.parse("10:20:10,14"))
        False
        """
        if other.xmax <= self.xmin:
            return True
        if self.xmax < other.xmax:
            return False
        return all(xid >= other.xmax or xid in other.running for xid in self.running)
