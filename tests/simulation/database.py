"""PostgreSQL as far as a cache can tell: versions of rows, commits, and one ordered queue of notifications.

What is kept true of the real one (postgres.md, measured): notifications are delivered in commit order, to a session
that listens, after their commit is visible; a session that is lost takes its undelivered notifications with it; a
session may look alive and receive nothing. Each row's versions count up from 0, and the time of each commit is
remembered for the oracle.
"""

from __future__ import annotations

import asyncio
import bisect
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

CHANNEL = "ch_pgcachewatch_table_change"
LOOPBACK_CHANNEL = "loopback"
SECOND_CHANNEL = "second"  # a relay may stop to listen to it while nobody uses it
CHANNELS = {"users": CHANNEL, "orders": SECOND_CHANNEL}  # by table
DELIVERY_S = (0.0001, 0.02)
NAMED = 0.9  # of the events say which row changed


@dataclass
class Row:
    """Versions of one row: `committed_s[n]` is when version n became visible."""

    table: str
    committed_s: list[float] = field(default_factory=lambda: [float("-inf")])

    @property
    def version(self) -> int:
        return len(self.committed_s) - 1

    def version_at(self, instant_s: float) -> int:
        """The newest version visible at `instant_s`."""
        return bisect.bisect_right(self.committed_s, instant_s) - 1


class ListenSession:
    """The relay's LISTEN connection, as the server sees it."""

    def __init__(self, database: Database, notified: Callable[[str, str], None], lost: Callable[[], None]) -> None:
        self._database = database
        self._notified = notified
        self._lost = lost
        self._due_s = 0.0
        self._channels = {CHANNEL, LOOPBACK_CHANNEL}
        self.is_alive = True
        self.is_deaf = False  # looks alive, receives nothing

    def listens_to(self, channel: str) -> bool:
        return channel in self._channels

    def listen(self, channel: str) -> None:
        self._channels.add(channel)

    def unlisten(self, channel: str) -> None:
        """What is on its way already is not handed on any more."""
        self._channels.discard(channel)

    def notify(self, payload: str) -> None:
        """The session notifies its own loopback channel: behind every earlier commit. Into a dead socket: nothing."""
        if self.is_alive:
            self._database.queue(LOOPBACK_CHANNEL, payload)

    def deliver(self, channel: str, payload: str) -> None:
        # In order: a delivery is never due before the one queued earlier.
        loop = asyncio.get_running_loop()
        self._due_s = max(self._due_s, loop.time() + self._database.chance.uniform(*DELIVERY_S))
        if not self.is_deaf:
            loop.call_at(self._due_s, self._arrive, channel, payload)

    def _arrive(self, channel: str, payload: str) -> None:
        if self.is_alive and channel in self._channels:
            self._notified(channel, payload)

    def end(self, *, is_noticed: bool) -> None:
        """The connection is gone; `is_noticed` False is a half-open socket."""
        if self.is_alive:
            self.is_alive = False
            self._database.sessions.pop(self, None)
            if is_noticed:
                asyncio.get_running_loop().call_soon(self._lost)


class Database:
    """Rows, commits and listeners. `is_up` False: nobody can connect, read or commit."""

    def __init__(self, tables: dict[str, int], chance: random.Random) -> None:
        self.rows = {f"{table}:{number}": Row(table) for table, count in tables.items() for number in range(count)}
        self.chance = chance
        self.sessions: dict[ListenSession, None] = {}  # ordered, so that a seed repeats itself
        self.commits: list[tuple[str, int]] = []  # by xid: which row got which version
        self.is_up = True

    def listen(self, notified: Callable[[str, str], None], lost: Callable[[], None]) -> ListenSession:
        """LISTEN on a new session; raises OSError while the server is down."""
        if not self.is_up:
            raise OSError("connection refused")
        session = ListenSession(self, notified, lost)
        self.sessions[session] = None
        return session

    def commit(self, key: str) -> int:
        """One committed UPDATE of one row, with its trigger's notification. Returns the new version."""
        if not self.is_up:
            raise OSError("connection refused")
        row = self.rows[key]
        row.committed_s.append(asyncio.get_running_loop().time())
        self.commits.append((key, row.version))
        # The clock of a server proves nothing: it is as wrong here as it pleases.
        sent_at = f"{self.chance.randint(1990, 2090)}-01-01T00:00:00Z"
        payload = {"operation": "update", "table": row.table, "sent_at": sent_at, "xid": len(self.commits) - 1}
        # Now and then a statement that touched too many rows to name them, or a trigger that can not.
        if self.chance.random() < NAMED:
            payload |= {"schema": "public", "key": ["id"], "keys": [key.partition(":")[2]]}
        self.queue(CHANNELS[row.table], json.dumps(payload))
        return row.version

    def read(self, key: str) -> int:
        """A fresh read on the primary."""
        if not self.is_up:
            raise OSError("connection refused")
        return self.rows[key].version

    def queue(self, channel: str, payload: str) -> None:
        for session in list(self.sessions):
            if session.listens_to(channel):
                session.deliver(channel, payload)

    def stop(self) -> None:
        """The server goes down: sessions end, their notifications are gone."""
        self.is_up = False
        for session in list(self.sessions):
            session.end(is_noticed=True)

    def start(self) -> None:
        self.is_up = True
