"""The original's two helpers, under the original's path."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pgcachewatch.models import DeadlineSetting, Event
from pgcachewatch.strategies import EventQueueProtocol, is_empty
from pgcachewatch.tracing import choose_traceparent

if TYPE_CHECKING:
    import asyncpg


async def emit_event(conn: asyncpg.Connection | asyncpg.Pool, event: Event, *, traceparent: str | None = None) -> None:
    """Send `event` as a notification on its channel. Inside a transaction it leaves at the commit.

    It says which trace it is part of, for a relay that traces: `traceparent`, or else that of OpenTelemetry's current
    span. Raises ConfigurationError for one that is malformed.
    """
    payload = event.model_dump_json(exclude_none=True)
    chosen = choose_traceparent(traceparent)
    if chosen is not None:
        payload = f'{payload[:-1]},"traceparent":"{chosen}"}}'
    await conn.execute("SELECT pg_notify($1, $2)", event.channel, payload)


def pick_until_deadline(queue: EventQueueProtocol, settings: DeadlineSetting) -> Iterator[Event]:
    """Events that are there already: at most `max_iter`, and none is begun after `max_time` has passed.

    Raises what `get_nowait` raises to say anything but that the queue is empty, such as EventsLost.
    """
    deadline = time.monotonic() + settings.max_time.total_seconds()
    for _ in range(settings.max_iter):
        if time.monotonic() >= deadline:
            return
        try:
            event = queue.get_nowait()
        except Exception as error:
            if is_empty(error):
                return
            raise
        yield event
