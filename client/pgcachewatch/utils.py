"""The original's two helpers, under the original's path."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pgcachewatch.models import DeadlineSetting, Event
from pgcachewatch.strategies import EventQueueProtocol, is_empty

if TYPE_CHECKING:
    import asyncpg


async def emit_event(conn: asyncpg.Connection | asyncpg.Pool, event: Event) -> None:
    """Send `event` as a notification on its channel. Inside a transaction it leaves at the commit."""
    await conn.execute("SELECT pg_notify($1, $2)", event.channel, event.model_dump_json(exclude_none=True))


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
