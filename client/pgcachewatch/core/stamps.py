"""What a run of a function with `consistency="snapshot"` must have seen for its result to be stored.

The ordinary rule of fills trusts that a run which begins after a change was applied reads it. A run that reads a hot
standby, or in a transaction with an old snapshot, does not. So such a run tells its snapshots, each change tells its
transaction (its stamp), and a result is stored only if each change that it depends on is in each of its snapshots.

Which changes must be in it is known in two ways:

- Recent changes, by row, with their transactions.
- All that can not be told one by one lies below a floor: a snapshot of the relay's that contains it. That is each
  change before this cache became live or behind a gap, and each without a transaction: several that were conflated,
  what could not be read, those of the original's triggers. From such a change on there is doubt, and nothing is stored,
  until the relay has shown a snapshot that was taken after it.

A mark shows the snapshot that was taken when its loopback was *sent*, and arrives when that came back; so the first
mark behind a doubt may be older than the doubt. The second is not: one loopback is sent after another came back
(W-STAMP-3).

What the program drops by itself (a tag, `cache_clear`) is treated likewise, but does not come through the link, so that
the marks under way at that moment count: such a drop is no promise about snapshots.

After a new epoch, transaction ids may have been used again for other transactions (crash recovery gives out anew those
whose commit was lost). The gap that comes with it forgets all of them. What remains: a standby that followed the old
primary further than the new one did, and is read without having been rebuilt.

Bound: RECENT changes. One that is forgotten and lies in what the last mark showed leaves that snapshot as a second
floor, which matters only for what was read when it was still running. Any other leaves a doubt.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable

from pgcachewatch.core.dependencies import ANY_ROW, RowKey
from pgcachewatch.core.snapshots import Snapshot

RECENT = 4_096
MARKS_TO_SETTLE = 2
NOTHING = Snapshot(0, 0)


class Stamps:
    """The memory of one store, from nothing known.

    >>> stamps = Stamps()
    >>> for mark in ("10:10:", "12:12:"):
    ...     stamps.proven(Snapshot.parse(mark))
    >>> stamps.changed(RowKey(0, "5"), 13)
    >>> stamps.hold([Snapshot.parse("13:13:")], [RowKey(0, "6")])
    True
    >>> stamps.hold([Snapshot.parse("13:13:")], [RowKey(0, "5")])
    False
    """

    __slots__ = ("_by_row", "_cover", "_covered", "_floor", "_limit", "_newest", "_recent", "_unsettled")

    def __init__(self, *, limit: int = RECENT) -> None:
        self._limit = limit
        self._floor = NOTHING  # it contains each change up to the last doubt
        self._unsettled = MARKS_TO_SETTLE  # marks that have to come before the doubt is over
        self._newest = NOTHING  # what the last mark showed
        self._recent: collections.deque[tuple[RowKey | None, int]] = collections.deque()  # oldest first
        self._by_row: dict[RowKey | None, list[int]] = {}  # the same; None: everything
        self._covered = 0  # the highest transaction that was forgotten
        self._cover = NOTHING  # it contains each that was

    def doubt(self) -> None:
        """Something changed, and nobody can say in which transaction: what was known so far is below it."""
        self._unsettled = MARKS_TO_SETTLE
        self._floor = self._newest = self._cover = NOTHING
        self._recent.clear()
        self._by_row.clear()
        self._covered = 0

    def changed(self, row: RowKey | None, xid: int | None) -> None:
        """`xid` changed this row; None: all that the store depends on."""
        if xid is None:
            self.doubt()
            return
        self._recent.append((row, xid))
        self._by_row.setdefault(row, []).append(xid)
        if len(self._recent) > self._limit:
            self._forget_oldest()

    def proven(self, snapshot: Snapshot) -> None:
        """A mark showed a snapshot of the primary."""
        self._newest = snapshot
        if self._unsettled:
            self._unsettled -= 1
            self._floor = snapshot

    def hold(self, snapshots: Collection[Snapshot], rows: Iterable[RowKey]) -> bool:
        """True when what was read in these snapshots contains all that changed these rows, or everything."""
        if self._unsettled or not snapshots:
            return False
        rows = list(rows)
        xids = [xid for row in (None, *rows) for xid in self._by_row.get(row, ())]
        wide = {row.dimension for row in rows if row.text == ANY_ROW}
        if wide:
            xids += [xid for row, xid in self._recent if row is not None and row.dimension in wide]
        return all(self._is_behind(one) and all(map(one.contains, xids)) for one in snapshots)

    def _is_behind(self, snapshot: Snapshot) -> bool:
        is_behind_forgotten = snapshot.xmin > self._covered or snapshot.includes(self._cover)
        return is_behind_forgotten and snapshot.includes(self._floor)

    def _forget_oldest(self) -> None:
        row, xid = self._recent.popleft()
        of_row = self._by_row[row]
        del of_row[0]
        if not of_row:
            del self._by_row[row]
        # Not by the highest transaction alone: one long transaction below it would stop every fill until it ends.
        if self._newest.contains(xid):
            self._covered, self._cover = max(self._covered, xid), self._newest
        else:
            self.doubt()
