"""A database's transactions as PostgreSQL shows them: ids in order of beginning, visible in order of their end.

Snapshots are written as `pg_current_snapshot()` writes them, on the primary and on a hot standby, beside the version of
each row that they see: that is the truth which the text must not contradict.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pgcachewatch.core.snapshots import Snapshot

FIRST_XID = 10

Versions = dict[str, int]


@dataclass(frozen=True, slots=True)
class Read:
    """What a statement saw: its snapshot as it is told, and the version of each row."""

    told: Snapshot
    versions: Versions


@dataclass(slots=True)
class History:
    """`ended` are the transactions that are over, in that order, each with the row it changed; None: rolled back."""

    rows: tuple[str, ...]
    running: list[int] = field(default_factory=list)
    ended: list[tuple[int, str | None]] = field(default_factory=list)
    next_xid: int = FIRST_XID

    def begin(self) -> None:
        self.running.append(self.next_xid)
        self.next_xid += 1

    def end(self, xid: int, row: str | None) -> None:
        self.running.remove(xid)
        self.ended.append((xid, row))

    def versions(self, count: int | None = None) -> Versions:
        """After the first `count` ends: how often each row had been changed."""
        seen = [row for _, row in self.ended[:count]]
        return {row: seen.count(row) for row in self.rows}

    def primary(self) -> Read:
        """A read that begins now. `xmax` is one above the highest that ended: some that run may be above it."""
        xmax = max((xid for xid, _ in self.ended), default=FIRST_XID - 1) + 1
        running = sorted(xid for xid in self.running if xid < xmax)
        text = f"{min(running, default=xmax)}:{xmax}:{','.join(map(str, running))}"
        return Read(Snapshot.parse(text), self.versions())

    def standby(self, count: int) -> Read:
        """A read on a standby that has replayed the first `count` ends. Its text names nobody that is running."""
        ended = {xid for xid, _ in self.ended[:count]}
        xmax = max(ended, default=FIRST_XID - 1) + 1
        xmin = min((xid for xid in range(FIRST_XID, xmax) if xid not in ended), default=xmax)
        return Read(Snapshot.parse(f"{xmin}:{xmax}:", is_standby=True), self.versions(count))
