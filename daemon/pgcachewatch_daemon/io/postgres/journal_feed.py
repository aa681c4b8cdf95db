"""The journal's part of a session: when it is polled, and what waits for a poll.

A loopback that has come back proves that every notification committed before it was sent is here; a poll that begins
behind it proves the same of the journal. So a mark, a barrier and a token wait for that poll, and are told behind the
rows it brought. Without a journal they wait for nothing.

Pruning: rows that were over in a snapshot of `retention_s` ago and in the place of each consumer that still moves, and
younger ones while there are more than `rows_limit`; one relay at a time does it. A relay takes such a snapshot every
`retention_s / AGES`, so that it prunes for the first time that long after it began. Each time it looks how far the
stored consumers are behind.
On the path of an event: step 1, enter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg

from pgcachewatch_daemon.core.snapshot import Snapshot
from pgcachewatch_daemon.core.wakefulness import WakeOptions
from pgcachewatch_daemon.io.postgres.journal import Held, JournalReader, JournalStats, Opened, Written
from pgcachewatch_daemon.sql import consumers
from pgcachewatch_daemon.sql import journal as sql

AGES = 20  # snapshots that are kept to prune by
PRUNE_BATCH = 10_000
PRUNE_MIN_S = 1.0
CONSUMERS = 100  # that are looked up
XIDS = 2**64


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """Seconds and rows. `history_rows`: of the past that a relay reads when it starts.

    `hold_s`: how long rows are kept beyond `retention_s` for a consumer whose place does not move.
    """

    wake: WakeOptions = field(default_factory=WakeOptions)
    history_rows: int = 10_000
    retention_s: float = 600.0
    rows_limit: int = 1_000_000
    hold_s: float = 3_600.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is to be told behind a poll. `loopback` is the payload of one that has come back."""

    loopback: str | None = None
    has_tokens: bool = False


class JournalFeed:
    """See the module. `clock` is monotonic, in seconds."""

    def __init__(self, options: JournalOptions, *, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._reader = JournalReader(options.wake, options.history_rows, clock)
        self._waiting = Waiting()
        self._due_s = 0.0
        self._prune_due_s = 0.0
        self._ages: deque[str] = deque(maxlen=AGES + 1)
        self._untold: Opened | None = None
        self._is_woken = False  # since the last poll began: what woke it may not be in that

    def reload(self, options: JournalOptions) -> None:
        """Go on with these. How it wakes stays: it is agreed with the writers."""
        self._options = options
        self._reader.history_rows = options.history_rows

    @property
    def is_there(self) -> bool:
        return self._reader.is_there

    @property
    def stats(self) -> JournalStats:
        return self._reader.stats

    @property
    def position(self) -> str:
        """The snapshot that was read last."""
        return self._reader.snapshot_text

    @property
    def due_s(self) -> float:
        """When the session is to `step` next."""
        return min(self._due_s, self._prune_due_s) if self.is_there else float("inf")

    def woken(self, *, is_rival: bool = False) -> None:
        """A writer notified, or a relay that took the lock."""
        self._reader.woken(is_rival=is_rival)
        self._is_woken = True
        self._due_s = 0.0

    def loopback_returned(self, payload: str) -> bool:
        """False when there is no journal, and so nothing to wait for."""
        if self.is_there:
            self._waiting = Waiting(payload, self._waiting.has_tokens)
            self._due_s = 0.0
        return self.is_there

    def tokens_complete(self) -> bool:
        """The notifications of the transactions are here whose tokens were told; False as above."""
        if self.is_there:
            self._waiting = Waiting(self._waiting.loopback, has_tokens=True)
            self._due_s = 0.0
        return self.is_there

    async def open(self, connection: asyncpg.Connection[Any]) -> Opened | None:
        """Begin a session, behind its LISTENs. None when the database has no journal."""
        self._waiting = Waiting()
        self._due_s = 0.0
        opened = await self._reader.open(connection)
        if opened is not None and opened.floor is not None:
            self._ages.clear()  # those are of another epoch, or of a journal that lost rows
        elif opened is not None and self._untold is not None:
            # The session before ended before it was proven. The reader is past these rows, and nobody was told them.
            opened = replace(self._untold, rows=self._untold.rows + opened.rows)
        self._untold = opened
        return opened

    def opened_told(self) -> None:
        """What `open` returned was published: the next session begins behind it."""
        self._untold = None

    async def has_appeared(self, connection: asyncpg.Connection[Any]) -> bool:
        """Tables were installed: True when there is a journal now, of which this session knows nothing."""
        if self.is_there:
            await self._reader.look_at_writers()
            return False
        return bool(await connection.fetchval(sql.is_there_sql()))

    async def step(self, connection: asyncpg.Connection[Any]) -> tuple[list[Written], Waiting] | None:
        """Poll, when it is due; call `after` behind the rows. None: rows were taken away before they were read."""
        if self._clock() < self._due_s:
            return [], Waiting()
        waiting, self._waiting = self._waiting, Waiting()
        self._is_woken = False
        rows = await self._reader.poll()
        if rows is None:
            return None
        return rows, waiting

    async def after(self, connection: asyncpg.Connection[Any]) -> None:
        """What a poll leaves to be done, once its rows were published."""
        await self._reader.act()
        if self._clock() >= self._prune_due_s:
            await self._prune(connection)
        if self._waiting == Waiting() and not self._is_woken:
            self._due_s = self._clock() + self._reader.pause_s

    async def _prune(self, connection: asyncpg.Connection[Any]) -> None:
        self._ages.append(self.position)
        is_old = len(self._ages) > AGES
        pruned = await self._prune_to(connection, await self._oldest_needed(connection)) if is_old else 0
        if pruned == 0:
            measured = await connection.fetchrow(sql.measure_sql())
            if measured is not None and measured["rows"] > self._options.rows_limit:
                pruned = await self._prune_to(connection, self._ages[0])
        await self._look_at_consumers(connection)
        # What one batch left is not kept for another interval.
        pause_s = 0.0 if pruned == PRUNE_BATCH else self._options.retention_s / AGES
        self._prune_due_s = self._clock() + max(PRUNE_MIN_S, pause_s)

    async def _oldest_needed(self, connection: asyncpg.Connection[Any]) -> str:
        """The snapshot of `retention_s` ago, or the older place of a consumer that has not acknowledged more."""
        held = await connection.fetch(consumers.holding_sql(), self._reader.epoch, self._options.hold_s)
        positions: list[str] = [row["position"] for row in held]
        return min((self._ages[0], *positions), key=_age)

    async def _look_at_consumers(self, connection: asyncpg.Connection[Any]) -> None:
        """How far each is behind, those that nobody takes part in too: they hold rows, and nobody else would tell."""
        stored = await connection.fetch(consumers.places_sql(), self._reader.epoch, CONSUMERS)
        # Read here: a place that somebody spoilt must not end the session.
        places = {row["name"]: Snapshot.parse(row["position"]) for row in stored}
        known = {name: str(place.xmax) for name, place in places.items() if place is not None and place.xmax < XIDS}
        ages = await connection.fetch(consumers.ages_sql(), list(known.values())) if known else []
        held = (Held(name, row["age_s"]) for name, row in zip(known, ages, strict=True))
        self.stats.held = tuple(held)

    async def _prune_to(self, connection: asyncpg.Connection[Any], snapshot: str) -> int:
        return int(await connection.fetchval(sql.prune_sql(), snapshot, PRUNE_BATCH) or 0)


def _age(text: str) -> tuple[int, int]:
    """Of two snapshots of one server the later one has the higher xmax, or the same and fewer that run."""
    snapshot = Snapshot.parse(text)
    return (snapshot.xmax, -len(snapshot.running)) if snapshot is not None else (0, 0)
