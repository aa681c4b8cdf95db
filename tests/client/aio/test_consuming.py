"""The client's part in a consumer, against a session that is told what a relay may say."""

from __future__ import annotations

import asyncio
import datetime
import gc
import json
from collections.abc import Callable
from typing import Any

import pytest

from pgcachewatch.aio.consuming import ConsumerFeed, ConsumerStream, OnGap, item_of
from pgcachewatch.errors import ConfigurationError, ConnectionFailed, EventsLost
from pgcachewatch.models import ConsumedEvent, Gap, Scope
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.client_session import ClientSession
from pgcachewatch.testing import FakeRelay
from tests.client.virtual_time import virtual_time

WISH = messages.Consume(id=5, consumer="c", wants=[messages.Want(table="t")], prefetch=3)
SENT = "2030-01-01T00:00:00Z"


class Line:
    """A connection that keeps what was said over it, and feeds what a relay answers."""

    def __init__(self) -> None:
        self.epoch = "aa"
        self.said: list[dict[str, Any]] = []
        self.session: ClientSession | None = None
        self.feed = ConsumerFeed(WISH, self)
        self.released = 0

    def say(self, write: Callable[[ClientSession], str | None]) -> bool:
        text = write(self.session) if self.session is not None else None
        if text is not None:
            self.said.append(json.loads(text))
        return text is not None

    def connect(self, epoch: str = "aa") -> None:
        """Lose what there was, welcome and admit."""
        self.feed.lost()
        self.session, self.epoch = ClientSession(subscriptions=[]), epoch
        self.feed.connected()
        self.session.takers.admitted(messages.Subok(id=5, sid=1, s=0))
        self.feed.admitted()

    def give(self, *numbers: int, op: messages.OpCode = "i", tries: int = 1) -> None:
        for number in numbers:
            detail: dict[str, Any] = {"channel": "x", "table": "t", "sent_at": SENT, "keys": [str(number)]}
            self.feed.given(messages.Job(sid=1, id=f"7:{number}", tries=tries, op=op, detail=detail))

    def stream(self, on_gap: OnGap | None = None) -> ConsumerStream:
        return ConsumerStream(self.feed, self.release, on_gap)

    def release(self, feed: ConsumerFeed) -> None:
        self.released += 1
        feed.leave()

    def heard(self) -> list[tuple[str, Any]]:
        """What was said since this was asked last."""
        said, self.said = self.said, []
        return [(one["t"], one.get("ids")) for one in said]


@pytest.fixture
def line() -> Line:
    line = Line()
    line.connect()
    line.said.clear()
    return line


async def test_an_event_is_acknowledged_when_the_next_one_is_asked_for(line: Line) -> None:
    events = line.stream()
    line.give(1, 2)
    first = await anext(events)
    assert (first.id, first.tries, first.keys, first.operation) == ("7:1", 1, ("1",), "insert")
    assert line.heard() == []
    await anext(events)
    assert line.heard() == [("done", ["7:1"])]
    events.close()
    assert line.heard() == [("unsub", None)]


async def test_leaving_the_block_acknowledges_and_an_exception_gives_back(line: Line) -> None:
    line.give(1)
    async with line.stream() as events:
        await anext(events)
    assert line.heard() == [("done", ["7:1"]), ("unsub", None)]

    line = Line()
    line.connect()
    line.give(1)
    line.said.clear()
    with pytest.raises(ValueError, match="poison"):
        await fail_in(line.stream())
    assert line.said[0] == {"t": "failed", "sid": 1, "ids": ["7:1"], "reason": "ValueError('poison')"}
    assert line.heard()[1:] == [("unsub", None)]


async def fail_in(stream: ConsumerStream) -> None:
    async with stream as events:
        await anext(events)
        raise ValueError("poison")


async def test_a_handler_that_is_cancelled_is_not_the_events_fault(line: Line) -> None:
    line.give(1)

    async def handle() -> None:
        async with line.stream() as events:
            async for _ in events:
                await asyncio.Event().wait()

    task = asyncio.create_task(handle())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert line.heard() == [("unsub", None)]


async def test_a_loop_without_a_block_that_is_left_gives_its_event_back(line: Line) -> None:
    line.give(1)
    async for _ in line.stream():
        break
    gc.collect()
    assert line.released == 1
    assert line.heard() == [("failed", ["7:1"]), ("unsub", None)]


@pytest.mark.rule("W-CONSUMER-7")
async def test_a_new_connection_is_told_what_was_begun_and_what_was_acknowledged(line: Line) -> None:
    events = line.stream()
    line.give(1, 2, 3)
    await anext(events)
    await anext(events)
    line.connect()
    assert (line.said[-1]["done"], line.said[-1]["held"]) == (["7:1"], "7:2")
    line.give(3)
    assert (await anext(events)).id == "7:3", "what was not begun is given anew"

    line.connect(epoch="bb")
    assert line.said[-1]["done"] == []
    assert "held" not in line.said[-1]
    events.close()


@pytest.mark.rule("W-CONSUMER-8")
async def test_what_is_taken_back_is_left_out_and_the_relay_is_told_when_more_is_wanted(line: Line) -> None:
    events = line.stream()
    line.give(1, 2, 3)
    await anext(events)
    line.feed.taken(["7:1", "7:2", "7:3"])
    assert line.heard() == []
    asking = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    assert line.heard() == [("done", ["7:1"])]
    line.give(2, tries=2)
    assert (await asking).tries == 2
    line.feed.taken(["7:2"])
    line.feed.forget()
    asking = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    assert line.heard() == [("done", [])]
    line.give(4)
    assert (await asking).id == "7:4"
    events.close()


@pytest.mark.rule("W-CONSUMER-5")
async def test_a_gap_raises_unless_it_is_handled(line: Line) -> None:
    detail = {"reason": "pruned", "detail": "rows are gone", "since": SENT, "table": "t"}
    gap = messages.Job(sid=1, id="gap:1", tries=1, op="*", detail=detail)
    line.feed.given(gap)
    with pytest.raises(EventsLost, match=r"2030-01-01.*pruned.*on_gap") as lost:
        await anext(line.stream())
    assert lost.value.reason == "pruned"
    assert line.heard()[0] == ("failed", ["gap:1"])

    line = Line()
    line.connect()
    line.said.clear()
    handled: list[Gap] = []

    async def on_gap(gap: Gap) -> None:
        handled.append(gap)

    line.feed.given(gap)
    line.give(1)
    assert (await anext(line.stream(on_gap))).id == "7:1"
    since = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    assert handled == [Gap(Scope(None, "t"), "pruned", "rows are gone", since=since)]
    assert line.heard()[0] == ("done", ["gap:1"])


async def test_a_gap_whose_handler_fails_is_given_back(line: Line) -> None:
    async def on_gap(gap: Gap) -> None:
        raise ValueError("no database")

    line.give(1, op="*")
    with pytest.raises(ValueError, match="no database"):
        await anext(line.stream(on_gap))
    assert line.heard()[0] == ("failed", ["7:1"])


def test_a_job_that_can_not_be_read_is_a_gap() -> None:
    job = messages.Job(sid=1, id="7:1", tries=1, op="i", detail={"table": "t"})
    item = item_of(job)
    assert isinstance(item, Gap)
    assert (item.scope.table, item.reason) == ("t", "unreadable")
    whole = {"table": "t", "channel": "x", "sent_at": SENT, "operation": "delete"}
    event = item_of(job.model_copy(update={"detail": whole}))
    assert isinstance(event, ConsumedEvent)
    assert (event.operation, event.keys) == ("insert", None)


async def test_a_refusal_for_good_is_raised_and_one_for_now_is_not(line: Line) -> None:
    line.feed.refused(ConnectionFailed("elsewhere"), may_retry=True)
    line.connect()
    line.give(1)
    events = line.stream()
    await anext(events)
    line.feed.refused(ConfigurationError("not journalled"), may_retry=False)
    with pytest.raises(ConfigurationError):
        await anext(events)


@virtual_time
async def test_arguments_that_can_not_work_are_refused_and_a_fake_relay_has_no_consumers() -> None:
    relay = FakeRelay()
    async with relay.connect() as client:
        with pytest.raises(ConfigurationError, match="prefetch=0"):
            client.events("users", consumer="c", prefetch=0)
        with pytest.raises(ConfigurationError, match="consumer=''"):
            client.events("users", consumer="")
        with pytest.raises(ConfigurationError, match="no_consumers"):
            async with client.events("users", consumer="c"):
                pass
