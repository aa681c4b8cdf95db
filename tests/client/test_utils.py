"""The original's two helpers: an event goes out as it is, and a drain ends at its limits and not before."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import queue
from collections.abc import Callable

import asyncpg
import pytest

from pgcachewatch import listeners, models, utils
from pgcachewatch.errors import EventsLost
from tests.client.steered import CHANNEL, Steered, event
from tests.postgres import Database

HOUR = datetime.timedelta(hours=1)


class Clock:
    """Stands where the time module is; each look at it takes `step_s`."""

    def __init__(self, step_s: float) -> None:
        self.now_s = 1_000.0
        self._step_s = step_s

    def monotonic(self) -> float:
        self.now_s += self._step_s
        return self.now_s


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Steered:
    """A listener whose `get_nowait` was replaced by one that always has an event."""
    listener = Steered()
    monkeypatch.setattr(listener, "get_nowait", lambda: event())
    return listener


# --- pick_until_deadline


@pytest.mark.parametrize("max_iter", [1, 7, 1_000])
def test_a_drain_of_an_endless_queue_takes_exactly_max_iter(endless: Steered, max_iter: int) -> None:
    settings = models.DeadlineSetting(max_iter=max_iter, max_time=HOUR)

    assert len(list(utils.pick_until_deadline(endless, settings))) == max_iter


@pytest.mark.parametrize("max_time_s", [0.5, 20])
def test_a_drain_of_an_endless_queue_lasts_at_least_max_time(
    endless: Steered, max_time_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(step_s=0.1)
    monkeypatch.setattr(utils, "time", clock)
    settings = models.DeadlineSetting(max_iter=1_000_000, max_time=datetime.timedelta(seconds=max_time_s))

    taken = list(utils.pick_until_deadline(endless, settings))

    assert clock.now_s - 1_000.0 >= max_time_s
    assert len(taken) == pytest.approx(max_time_s / 0.1, abs=1)


@pytest.mark.parametrize("empty", [asyncio.QueueEmpty, queue.Empty])
def test_a_drain_takes_what_is_there_in_order_and_ends(empty: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Steered()
    changes = [event(table=f"t{number}") for number in range(5)]
    for change in changes:
        listener.put_nowait(change)
    monkeypatch.setattr(listener, "get_nowait", translated(listener.get_nowait, empty))

    assert list(utils.pick_until_deadline(listener, models.DeadlineSetting(max_time=HOUR))) == changes
    assert listener.empty()


def translated(get_nowait: Callable[[], models.Event], empty: type[Exception]) -> Callable[[], models.Event]:
    def get() -> models.Event:
        try:
            return get_nowait()
        except asyncio.QueueEmpty:
            raise empty from None

    return get


def test_a_drain_leaves_what_nobody_took_from_it(endless: Steered, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = itertools.count()
    monkeypatch.setattr(endless, "get_nowait", lambda: event(table=f"t{next(taken)}"))

    first = next(utils.pick_until_deadline(endless, models.DeadlineSetting(max_time=HOUR)))

    assert (first.table, next(taken)) == ("t0", 1)


def test_a_drain_says_where_events_were_lost() -> None:
    listener = Steered()
    listener.receive("no json")

    with pytest.raises(EventsLost):
        list(utils.pick_until_deadline(listener, models.DeadlineSetting(max_time=HOUR)))


# --- emit_event


async def received(listener: listeners.PGEventQueue) -> models.Event | None:
    async with asyncio.timeout(30):
        return await listener.get()


async def test_an_event_emitted_in_a_transaction_leaves_with_its_commit_and_never_with_a_rollback(
    database: Database,
) -> None:
    hearing, writing = await database.connect(), await database.connect()
    listener = listeners.PGEventQueue()
    await listener.connect(hearing, CHANNEL)
    rolled_back = writing.transaction()
    await rolled_back.start()
    await utils.emit_event(writing, event(table="rolled_back"))
    await rolled_back.rollback()

    async with writing.transaction():
        await utils.emit_event(writing, event(table="committed"))
        # What the listener's own connection sends meanwhile comes first.
        await utils.emit_event(hearing, event(table="meanwhile"))
        first = await received(listener)

    assert [one.table for one in (first, await received(listener)) if one] == ["meanwhile", "committed"]
    await hearing.close()


async def test_an_event_can_be_emitted_through_a_pool_with_all_that_it_says(database: Database) -> None:
    hearing = await database.connect()
    listener = listeners.PGEventQueue()
    await listener.connect(hearing, CHANNEL)
    sent = event("delete", schema="it's").model_copy(update={"keys": ('a"b', "ü"), "xid": 2**40})

    async with asyncpg.create_pool(database.dsn, min_size=1, max_size=1) as pool:
        await utils.emit_event(pool, sent)

    assert await received(listener) == sent
    await hearing.close()
