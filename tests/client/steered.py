"""A listener whose health and clock a test decides, events to put into it, and a cached function that counts its runs.

Everything else about it is the shipped queue: what is put arrives at once, as if it had come over a connection.
"""

from __future__ import annotations

import asyncio
import datetime
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

from pgcachewatch import decorators, listeners, models
from pgcachewatch.strategies import Strategy

CHANNEL = models.PGChannel("ch_steered")
EPOCH = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)  # the database's clock, where a test does not say otherwise


class Steered(listeners.EventQueue):
    """`is_healthy` is what it answers; `time_s` is its monotonic clock."""

    is_healthy = True
    time_s = 1_000.0

    def connection_healthy(self) -> bool:
        return self.is_healthy

    def now_s(self) -> float:
        return self.time_s


class SteeredPG(Steered, listeners.PGEventQueue):
    """The listener of the path over PostgreSQL."""


class SteeredWS(Steered, listeners.WSEventQueue):
    """The listener of the path over a relay."""


LISTENERS = [SteeredPG, SteeredWS]


def event(
    operation: models.OPERATIONS = "update",
    *,
    table: str = "users",
    schema: str | None = None,
    sent_at: datetime.datetime = EPOCH,
) -> models.Event:
    """One change, as the trigger describes it."""
    return models.Event(channel=CHANNEL, operation=operation, table=table, schema_name=schema, sent_at=sent_at)


def events(*operations: models.OPERATIONS) -> list[models.Event]:
    """One change for each of `operations`."""
    return [event(operation) for operation in operations]


def numbered(
    strategy: Strategy,
    **options: Any,  # those of `decorators.cache`
) -> Callable[..., Coroutine[Any, Any, int]]:
    """A cached function that returns how many runs of it there were."""
    runs = itertools.count(1)

    @decorators.cache(strategy=strategy, **options)
    async def run(argument: object = None) -> int:
        await asyncio.sleep(0)
        return next(runs)

    return run
