"""The relay's state of one admitted connection: its protocol session, its place in the hub, and what it waits for.

An idle client costs what is here and in the hub; so what few clients need is made when they do. Bound: a backlog is
what one read of the socket brought, because reading pauses while there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from pgcachewatch.protocol import messages
from pgcachewatch.protocol.relay_session import Effect, RelaySession, Subscription
from pgcachewatch_daemon.core.access import ALLOWED, Grant
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

    __slots__ = (
        "backlog", "connection", "grant", "is_joining", "is_resting", "pending", "session", "since_s", "subscriber",
        "types", "work",
    )  # fmt: skip

    def __init__(self, connection: Connection, session: RelaySession | None, *, since_s: float = 0.0) -> None:
        self.since_s = since_s
        self.connection = connection
        self.session = session
        self.subscriber: Subscriber | None = None
        self.grant: Grant | None = None  # None until the hello has come, where a token is needed and may be in it
        self.is_joining = False
        self.is_resting = False  # it has asked for much, and others have their turn
        self.work = 0  # subscriptions that were gone through for it since it rested last
        self.backlog: tuple[Effect, ...] = ()
        self.types: dict[int, tuple[str, ...]] | None = None  # by sid: what `subok` said of the columns
        self.pending: dict[int, asyncio.Task[None]] | None = None  # by sid, 0 for the hello: what waits for LISTEN

    @property
    def known_grant(self) -> Grant:
        """What it may see; it has said who it is."""
        assert self.grant is not None, "nothing is asked of a relay before the hello"
        return self.grant

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Those it is told of."""
        group = self.subscriber.group if self.subscriber is not None else None
        return group.subscriptions if group is not None else ()

    def exceeds(self, grant: Grant, consumes: Iterable[messages.Consume]) -> bool:
        """True when it is told something that this grant does not allow. What still waits is judged behind that."""
        plain = self.subscriber.plain_channel if self.subscriber is not None else None
        judged = [grant.judge(each) for each in self.subscriptions]
        judged += [grant.judge_consumer(each) for each in consumes]
        judged += [grant.judge_plain(plain)] if plain is not None else []
        return any(each != ALLOWED for each in judged)

    def waits_for(self, sid: int, task: asyncio.Task[None]) -> None:
        if self.pending is None:
            self.pending = {}
        self.pending[sid] = task

    def waited_for(self, sid: int) -> asyncio.Task[None] | None:
        """The task that waited for this, which is now forgotten."""
        return None if self.pending is None else self.pending.pop(sid, None)

    def wait_no_more(self) -> None:
        """Take back all that waited."""
        pending, self.pending = self.pending, None
        for task in (pending or {}).values():
            task.cancel()

    def told_types(self, sid: int, types: tuple[str, ...]) -> None:
        if self.types is None:
            self.types = {}
        self.types[sid] = types

    def types_of(self, sid: int) -> tuple[str, ...] | None:
        return None if self.types is None else self.types.get(sid)

    def forget_types(self, sid: int) -> None:
        if self.types is not None:
            self.types.pop(sid, None)
