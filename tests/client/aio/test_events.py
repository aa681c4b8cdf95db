"""The event stream: order, gaps, its bound, and its end."""

from __future__ import annotations

import asyncio
import gc

import pytest

from pgcachewatch.aio.events import EventStream, Feed, event_of
from pgcachewatch.errors import ConnectionFailed
from pgcachewatch.models import Event, Gap, Scope
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.client_session import Change

SUB = messages.Sub(id=1, channel="c", table="users", mode="stream")
SCOPE = Scope("c", "users")
SENT_AT = "2030-01-01T00:00:00+00:00"


def change(op: str = "u", **detail: object) -> Change:
    return Change(1, op, None, {"table": "users", "sent_at": SENT_AT, **detail})


def make(limit: int = 10) -> tuple[Feed, EventStream, list[Feed]]:
    released: list[Feed] = []
    feed = Feed(scope=SCOPE, limit=limit)
    return feed, EventStream(feed, released.append), released


def test_an_item_is_read_as_an_event() -> None:
    event = event_of(change("i", schema="public", keys=["5"], xid=7), SUB)
    assert isinstance(event, Event)
    assert (event.channel, event.operation, event.table, event.schema_name, event.keys, event.xid) == (
        "c",
        "insert",
        "users",
        "public",
        ("5",),
        7,
    )


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (Change(1, "*", None, {"reason": "source_lost"}), "source_lost"),
        (Change(1, "*", None, {"reason": ["?"]}), "unreadable"),
        (Change(1, "*", None, None), "unreadable"),
        (Change(1, "u", None, {}), "unreadable"),
        (change("z"), "unreadable"),
        (change(sent_at="yesterday"), "unreadable"),
        (change(keys="5", xid="x"), "unreadable"),
    ],
)
def test_an_item_that_names_no_event_is_a_gap(item: Change, reason: str) -> None:
    told = event_of(item, SUB)
    assert isinstance(told, Gap)
    assert (told.scope, told.reason) == (SCOPE, reason)


async def test_events_come_in_order() -> None:
    feed, stream, _ = make()
    feed.became_live()
    for number in range(3):
        feed.changed(change(xid=number), SUB)
    taken = [await anext(stream) for _ in range(3)]
    assert [event.xid for event in taken if isinstance(event, Event)] == [0, 1, 2]


async def test_a_consumer_that_waits_is_woken() -> None:
    feed, stream, _ = make()
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    feed.changed(change(), SUB)
    assert isinstance(await waiting, Event)


async def test_a_slow_consumer_gets_one_gap_in_place_of_what_it_missed() -> None:
    feed, stream, _ = make(limit=3)
    feed.became_live()
    for number in range(5):
        feed.changed(change(xid=number), SUB)
    gap, *events = [await anext(stream) for _ in range(3)]
    assert isinstance(gap, Gap)
    assert gap.reason == "overflow"
    assert [event.xid for event in events if isinstance(event, Event)] == [3, 4]


async def test_becoming_live_for_the_first_time_is_no_gap() -> None:
    feed, stream, _ = make()
    feed.lost(Gap(Scope(), "link_lost"))
    feed.became_live()
    feed.changed(change(), SUB)
    assert isinstance(await anext(stream), Event)


async def test_a_gap_is_told_when_continuity_is_back() -> None:
    feed, stream, _ = make()
    feed.became_live()
    feed.went_dark()
    feed.lost(Gap(Scope(), "link_lost"))
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    assert not waiting.done()
    feed.became_live()
    assert await waiting == Gap(Scope(), "link_lost")


async def test_gaps_in_a_row_are_one() -> None:
    feed, stream, _ = make()
    feed.became_live()
    for _ in range(3):
        feed.lost(Gap(Scope(), "source_lost"))
    feed.changed(change(), SUB)
    assert isinstance(await anext(stream), Gap)
    assert isinstance(await anext(stream), Event)


async def test_entering_waits_until_the_subscription_is_live() -> None:
    feed, stream, released = make()
    entering = asyncio.create_task(stream.__aenter__())
    await asyncio.sleep(0)
    assert not entering.done()
    feed.became_live()
    async with await entering:
        pass
    assert released == [feed]


async def test_entering_raises_when_the_relay_refuses() -> None:
    feed, stream, _ = make()
    feed.refused(ConnectionFailed("forbidden"))
    with pytest.raises(ConnectionFailed, match="forbidden"):
        await stream.__aenter__()


async def test_what_is_buffered_is_taken_before_the_end() -> None:
    feed, stream, _ = make()
    feed.changed(change(), SUB)
    feed.stopped(ConnectionFailed("no relay is left"))
    assert isinstance(await anext(stream), Event)
    for _ in range(2):
        with pytest.raises(ConnectionFailed, match="no relay is left"):
            await anext(stream)


async def test_closing_ends_the_iteration() -> None:
    _, stream, released = make()

    async def consume() -> list[object]:
        return [event async for event in stream]

    consuming = asyncio.create_task(consume())
    await asyncio.sleep(0)
    stream.close()
    assert await consuming == []
    assert len(released) == 1


async def test_a_stream_nobody_holds_is_released() -> None:
    feed, stream, released = make()
    del stream
    gc.collect()
    assert released == [feed]
