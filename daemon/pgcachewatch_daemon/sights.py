"""What one process knows of its clients, and of the tables that changed, for people who look.

Read when somebody asks and at no other time: an event costs nothing for it. So how many frames a client was sent is not
here, since whoever is in step with others is not counted by itself.

Bounds: CLIENTS and TABLES are listed, the slow ones and the latest first; tables are those of the CHANGES newest
changes of the history. One look takes 2 to 3 ms then, which is why an answer is kept for a moment (overview.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from pgcachewatch.models import Event
from pgcachewatch_daemon.core.access import ANYBODY
from pgcachewatch_daemon.core.audience import Subscriber
from pgcachewatch_daemon.core.history import History
from pgcachewatch_daemon.io.postgres import Held
from pgcachewatch_daemon.posts import Standing
from pgcachewatch_daemon.visitor import Visitor

CLIENTS = 200
TABLES = 200
CHANGES = 10_000
RECENT_S = 10.0
NAME_LENGTH = 120  # of what a client or a database chose, and people read

ClientState = Literal["joining", "live", "slow", "conflating"]


@dataclass(frozen=True, slots=True)
class ClientSight:
    """One client. `behind`: positions it is still to be sent; None where that is not known, as on the plain path.

    `pending_bytes` wait for its socket. `subject`: whom its token names, empty without tokens.
    """

    id: str
    name: str
    peer: str
    subject: str
    path: Literal["v1", "plain"]
    invalidate: int
    stream: int
    connected_s: float
    state: ClientState
    pending_bytes: int
    behind: int | None


@dataclass(frozen=True, slots=True)
class TableSight:
    """A table that changed. `changes`: of it in the history; `recent`: of these in the last RECENT_S."""

    schema: str | None
    table: str
    operation: str
    age_s: float
    changes: int
    recent: int


@dataclass(frozen=True, slots=True)
class Sights:
    """One process's. `tables_total`: with those that are not listed."""

    clients: tuple[ClientSight, ...] = ()
    tables: tuple[TableSight, ...] = ()
    tables_total: int = 0


def together(sights: Sequence[Sights]) -> Sights:
    """Those of a whole relay: each process has its own clients, and one of them told of the tables."""
    tables = next((each for each in sights if each.tables), Sights())
    clients = sorted((client for each in sights for client in each.clients), key=_order)
    return Sights(tuple(clients[:CLIENTS]), tables.tables, tables.tables_total)


def see_consumers(here: Sequence[Standing], stored: Sequence[Held]) -> tuple[Standing, ...]:
    """Those whose jobs are given here, and others by what is stored of them; the most behind first.

    What is stored is as it was looked up last. It is not made older by the time since: who has clients at another relay
    moves on meanwhile.
    """
    known = {one.name for one in here}
    others = (Standing(held.consumer, 0, None, round(held.age_s, 3)) for held in stored if held.consumer not in known)
    return tuple(sorted((*here, *others), key=lambda one: (-one.lag_s, one.name)))


def lag_s(consumers: Sequence[Standing]) -> float:
    """Of the one that is most behind."""
    return max((one.lag_s for one in consumers), default=0.0)


def see_clients(visitors: Collection[Visitor], *, seq: int, now_s: float) -> tuple[ClientSight, ...]:
    """Up to CLIENTS of them, the slow ones first. `seq` is the head of the log."""
    slow = list(itertools.islice((each for each in visitors if each.connection.is_full), CLIENTS))
    others = (each for each in visitors if not each.connection.is_full)
    seen = [_see(each, seq, now_s) for each in (*slow, *itertools.islice(others, CLIENTS - len(slow)))]
    return tuple(sorted(seen, key=_order))


def _order(client: ClientSight) -> tuple[bool, float, str]:
    return client.state in ("live", "joining"), -client.connected_s, client.id


def _see(visitor: Visitor, seq: int, now_s: float) -> ClientSight:
    connection, subscriber = visitor.connection, visitor.subscriber
    subscriptions, streams = _subscriptions(subscriber)
    outbox = subscriber.outbox if subscriber is not None else None
    waits_from = outbox.waits_from if outbox is not None else None
    state: ClientState = "live"
    if subscriber is None:
        state = "joining"
    elif outbox is not None and outbox.is_conflating:
        state = "conflating"
    elif connection.is_full:
        state = "slow"
    is_plain = visitor.session is None
    return ClientSight(
        id=str(connection.number),
        name=(subscriber.name if subscriber is not None else "")[:NAME_LENGTH],
        peer=connection.peer[:NAME_LENGTH],
        subject="" if visitor.grant in (None, ANYBODY) else visitor.known_grant.subject[:NAME_LENGTH],
        path="plain" if is_plain else "v1",
        invalidate=subscriptions - streams,
        stream=streams,
        connected_s=round(now_s - visitor.since_s, 3),
        state=state,
        pending_bytes=connection.unsent_bytes + (outbox.size_bytes if outbox is not None else 0),
        behind=None if is_plain else 0 if waits_from is None else max(0, seq - waits_from),
    )


def _subscriptions(subscriber: Subscriber | None) -> tuple[int, int]:
    """How many there are, and how many of them are streams; the plain path has one, of a stream."""
    group = subscriber.group if subscriber is not None else None
    if group is None:
        return (1, 1) if subscriber is not None and subscriber.plain_channel is not None else (0, 0)
    streams = sum(each.mode == "stream" for each in group.subscriptions) if group.has_stream else 0
    return len(group.subscriptions), streams


def see_tables(history: History, *, now_s: float) -> tuple[tuple[TableSight, ...], int]:
    """Up to TABLES, the one that changed last first; and how many there are."""
    found: dict[tuple[str | None, str], tuple[str, float]] = {}
    changes: dict[tuple[str | None, str], int] = {}
    recent: dict[tuple[str | None, str], int] = {}
    since_s = now_s - RECENT_S
    for entry in history.newest(CHANGES):
        change = entry.change
        if isinstance(change, Event):
            place = (change.schema_name, change.table)
        elif change.scope.table is not None:
            place = (change.scope.schema, change.scope.table)
        else:
            continue  # everything, or a channel: no table's last event
        if place not in found:
            found[place] = (change.operation if isinstance(change, Event) else "gap", entry.at_s)
            changes[place] = recent[place] = 0
        changes[place] += 1
        if entry.at_s >= since_s:
            recent[place] += 1
    listed = tuple(
        TableSight(schema, table[:NAME_LENGTH], operation, round(now_s - at_s, 3), changes[place], recent[place])
        for place, (operation, at_s) in itertools.islice(found.items(), TABLES)
        for schema, table in (place,)
    )
    return listed, len(found)
