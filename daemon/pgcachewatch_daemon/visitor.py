"""The relay's state of one admitted connection: its protocol session, its place in the hub, and what it waits for.

An idle client costs what is here and in the hub; so what few clients need is made when they do. Bound: a backlog is
what one read of the socket brought, because reading pauses while there is one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pgcachewatch.protocol.relay_session import Effect, RelaySession
from pgcachewatch_daemon.core.audience import Subscriber
from pgcachewatch_daemon.io.websocket import Connection


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for LISTEN: a subscription by its two numbers, or the connection as a whole."""

    sid: int
    id: int


HELLO = Waiting(0, 0)


class Visitor:
    """One admitted connection, since when by the relay's monotonic clock. `session` is None on the plain path."""

    __slots__ = ("backlog", "connection", "is_joining", "pending", "session", "since_s", "subscriber", "types")

    def __init__(self, connection: Connection, session: RelaySession | None, *, since_s: float = 0.0) -> None:
        self.since_s = since_s
        self.connection = connection
        self.session = session
        self.subscriber: Subscriber | None = None
        self.is_joining = False
        self.backlog: tuple[Effect, ...] = ()
        self.types: dict[int, tuple[str, ...]] | None = None  # by sid: what `subok` said of the columns
        self.pending: dict[int, asyncio.Task[None]] | None = None  # by sid, 0 for the hello: what waits for LISTEN

    def waits_for(self, sid: int, task: asyncio.Task[None]) -> None:
        if self.pending is None:
            self.pending = {}
        self.pending[sid] = task

    def waited_for(self, sid: int) -> asyncio.Task[None] | None:
        """The task that waited for this, which is now forgotten."""
        return None if self.pending is None else self.pending.pop(sid, None)

    def told_types(self, sid: int, types: tuple[str, ...]) -> None:
        if self.types is None:
            self.types = {}
        self.types[sid] = types

    def types_of(self, sid: int) -> tuple[str, ...] | None:
        return None if self.types is None else self.types.get(sid)

    def forget_types(self, sid: int) -> None:
        if self.types is not None:
            self.types.pop(sid, None)
