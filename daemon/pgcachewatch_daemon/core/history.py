"""The ring of recent changes that a client can resume from.

Invariant: `since(seq)` returns every change after `seq`, or says TooOld; there is nothing in between. Bounds: number,
bytes and age; the oldest go first, and the floor rises with them. Sequences arrive in increasing order.
On the path of an event: step 4, remember.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pgcachewatch.models import Event, Gap
from pgcachewatch_daemon.core.snapshot import Snapshot

OVERHEAD_BYTES = 600  # of one entry beside its payload, measured on CPython 3.11


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """At a limit the oldest entries are forgotten; a client that needs them is told to flush."""

    events: int = 10_000
    bytes: int = 16 * 1024 * 1024
    age_s: float = 300.0


@dataclass(slots=True)  # not frozen: one is made for each event, and that takes thrice as long
class Entry:
    """One change at its place in the log. `at_s` is the relay's monotonic clock."""

    seq: int
    change: Event | Gap
    size_bytes: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Replay:
    """Everything after the asked sequence, in order."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class TooOld:
    """What came after the asked sequence is not all here."""

    floor: int


@dataclass(frozen=True, slots=True)
class JournalFloor:
    """From where on the journal's changes are all here: not in `pruned`, and by transactions above `xid`."""

    pruned: Snapshot
    xid: int = 0


class History:
    """Recent changes of one epoch.

    >>> history = History(HistoryLimits(events=2))
    >>> from pgcachewatch.models import Scope
    >>> gap = Gap(Scope(), reason="forced")
    >>> for seq in (1, 2, 3):
    ...     history.append(seq, gap, payload_bytes=10, now_s=0.0)
    >>> [entry.seq for entry in history.since(1).entries], history.since(0)
    ([2, 3], TooOld(floor=1))
    """

    def __init__(self, limits: HistoryLimits) -> None:
        self.limits = limits  # replaced while running; the next event trims
        self._entries: deque[Entry] = deque()
        self._size_bytes = 0
        self._floor = 0
        self._journal_floor: JournalFloor | None = None

    @property
    def events(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def floor(self) -> int:
        """Each change after this sequence is here."""
        return self._floor

    def oldest_age_s(self, now_s: float) -> float:
        """Age of the oldest entry; 0 when there is none."""
        return now_s - self._entries[0].at_s if self._entries else 0.0

    def append(self, seq: int, change: Event | Gap, *, payload_bytes: int, now_s: float) -> None:  # hot path
        """Remember `change` as `seq`, and forget what is over a limit."""
        size_bytes = payload_bytes + OVERHEAD_BYTES
        self._entries.append(Entry(seq, change, size_bytes, now_s))
        self._size_bytes += size_bytes
        self._trim(now_s)

    def newest(self, most: int) -> Iterator[Entry]:
        """Up to `most` of what is kept, the newest first."""
        return itertools.islice(reversed(self._entries), most)

    def since(self, seq: int) -> Replay | TooOld:
        """Every change after `seq`. The caller knows that `seq` is of this epoch and not in the future."""
        if seq < self._floor:
            return TooOld(self._floor)
        # From the newest backwards: a deque's middle is far, and most who resume were not away for long.
        missed = itertools.takewhile(lambda entry: entry.seq > seq, reversed(self._entries))
        return Replay(tuple(missed)[::-1])

    def since_snapshot(self, snapshot: Snapshot) -> Replay | TooOld:
        """Every change that may not be in `snapshot`, for who was told what is by another life of the relay."""
        floor = self._journal_floor
        if floor is None or snapshot.xmin <= floor.xid or not snapshot.includes(floor.pruned):
            return TooOld(self._floor)
        return Replay(tuple(entry for entry in self._entries if not _is_in(entry.change, snapshot)))

    def begin_after(self, seq: int, floor: JournalFloor | None = None) -> None:
        """Forget everything; what is appended next follows `seq`. With `floor` it begins with the journal's past."""
        self.forget_all()
        self._floor = seq
        self._journal_floor = floor

    def forget_all(self) -> None:
        """A new epoch begins at sequence 0."""
        self._entries.clear()
        self._size_bytes = 0
        self._floor = 0
        self._journal_floor = None

    def _trim(self, now_s: float) -> None:
        limits = self.limits
        while self._entries and (
            len(self._entries) > limits.events
            or self._size_bytes > limits.bytes
            or now_s - self._entries[0].at_s > limits.age_s
        ):
            oldest = self._entries.popleft()
            self._size_bytes -= oldest.size_bytes
            self._floor = oldest.seq
            if self._journal_floor is not None and isinstance(oldest.change, Event) and oldest.change.xid is not None:
                xid = max(self._journal_floor.xid, oldest.change.xid)
                self._journal_floor = replace(self._journal_floor, xid=xid)


def _is_in(change: Event | Gap, snapshot: Snapshot) -> bool:
    return isinstance(change, Event) and change.xid is not None and snapshot.contains(change.xid)
