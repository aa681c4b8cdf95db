"""Snapshots of PostgreSQL: which transactions a read could see (manual, 'Transaction ID and Snapshot Information').

A primary's snapshot is exact: a transaction is in it unless it began later or was still running. A hot standby's lists
nobody that was running, so that of its numbers only `xmin` can be trusted: what is below it has been replayed, and
whatever is at or above it may be missing although the text says otherwise.

Transaction ids are those of one cluster and its physical standbys. A logical replica counts its own, and nothing here
holds for it. Bound: a snapshot is as long as its text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgcachewatch.errors import ConfigurationError

_TEXT = re.compile(r"(\d{1,20}):(\d{1,20}):((?:\d{1,20}(?:,\d{1,20})*)?)", re.ASCII)
EXCERPT_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Transactions below `xmin` were over, none at or above `xmax` was, of those between `running` were not."""

    xmin: int
    xmax: int
    running: frozenset[int] = frozenset()
    is_standby: bool = False

    @classmethod
    def parse(cls, text: str, *, is_standby: bool = False) -> Snapshot:
        """What `pg_current_snapshot()::text` wrote. Raises ConfigurationError.

        >>> Snapshot.parse("10:20:10,14").contains(14)
        False
        """
        found = _TEXT.fullmatch(text)
        if found is None or int(found[1]) > int(found[2]):
            raise ConfigurationError(
                f"{text[:EXCERPT_LENGTH]!r} is no snapshot; give what SELECT pg_current_snapshot()::text returned"
            )
        running = frozenset(map(int, found[3].split(","))) if found[3] else frozenset()
        return cls(int(found[1]), int(found[2]), running, is_standby)

    def contains(self, xid: int) -> bool:
        """True when the read saw what this transaction did, provably.

        >>> Snapshot.parse("10:20:10,14").contains(15), Snapshot.parse("10:20:", is_standby=True).contains(15)
        (True, False)
        """
        if xid < self.xmin:
            return True
        return not self.is_standby and xid < self.xmax and xid not in self.running

    def includes(self, other: Snapshot) -> bool:
        """True when each transaction in `other`, which is a primary's, is in this one too.

        >>> Snapshot.parse("10:21:10").includes(Snapshot.parse("10:20:10,14"))
        True
        >>> Snapshot.parse("10:21:10,15").includes(Snapshot.parse("10:20:10,14"))
        False
        """
        if other.xmax <= self.xmin:
            return True
        if self.is_standby or self.xmax < other.xmax:
            return False
        return all(xid >= other.xmax or xid in other.running for xid in self.running)
