"""The queue face of a listener: who is told first, who waits, and how it ends. No connection is needed for that."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgcachewatch.aio.queue import CHANNEL_BYTES, EXCERPT_LENGTH, EventQueue, excerpt
from pgcachewatch.errors import ConfigurationError, ConnectionFailed, EventsLost
from pgcachewatch.models import EVERYTHING, Event, Gap, PGChannel
from tests.client.steered import CHANNEL, event, events

WITHIN_S = 30.0
LOST = ConnectionFailed("the connection was lost")


class Noting:
    """An observer that notes what it heard, and how much was readable by then."""

    def __init__(self, queue: EventQueue) -> None:
        self.heard: list[object] = []
        self.readable: list[int] = []
        self._queue = queue
        queue.attach(self)

    def observe(self, event: object, now_s: float) -> None:
        self.heard.append(event)
        self.readable.append(self._queue.qsize())


async def waiting(queue: EventQueue) -> asyncio.Task[Event | None]:
    """A `get` that waits by now."""
    task = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_strategies_are_told_of_an_event_before_anybody_can_read_it() -> None:
    queue = EventQueue()
    observer = Noting(queue)

    for change in events("insert", "update", "delete"):
        queue.put_nowait(change)

    assert observer.readable == [0, 1, 2]


async def test_each_event_goes_to_one_of_those_who_wait_in_the_order_they_came() -> None:
    queue = EventQueue()
    getters = [await waiting(queue) for _ in range(3)]
    changes = events("insert", "update", "delete")

    for change in changes:
        await queue.put(change)

    async with asyncio.timeout(WITHIN_S):
        assert [await getter for getter in getters] == changes


async def test_who_was_woken_for_nothing_goes_on_waiting() -> None:
    queue = EventQueue()
    first, second = await waiting(queue), await waiting(queue)
    one, other = events("insert", "update")
    queue.put_nowait(one)
    assert await first == one
    assert not second.done()

    queue.put_nowait(other)

    assert await second == other


async def test_an_event_put_by_another_thread_wakes_who_waits() -> None:
    queue = EventQueue()
    getter = await waiting(queue)
    change = event()

    with ThreadPoolExecutor(1) as threads:
        await asyncio.wrap_future(threads.submit(queue.put_nowait, change))

    async with asyncio.timeout(WITHIN_S):
        assert await getter == change


def test_a_queue_is_of_use_on_one_loop_after_another_and_without_one() -> None:
    queue = EventQueue()
    one, other = events("insert", "update")
    queue.put_nowait(one)
    queue.put_nowait(other)

    assert asyncio.run(queue.get()) == one
    assert asyncio.run(queue.get()) == other
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()


def test_a_getter_whose_loop_is_gone_keeps_no_event_from_the_others() -> None:
    queue = EventQueue()

    async def leave() -> None:
        await waiting(queue)

    asyncio.run(leave())
    change = event()

    queue.put_nowait(change)

    assert queue.get_nowait() == change


async def test_what_was_lost_to_a_reader_is_said_once_with_its_reason() -> None:
    queue = EventQueue(max_size=2)
    for change in events("insert", "update", "delete"):
        queue.put_nowait(change)

    assert queue.qsize() == 3
    with pytest.raises(EventsLost, match="1 lost") as raised:
        await queue.get()
    assert raised.value.reason == "overflow"
    assert [one.operation for one in (await queue.get(), await queue.get()) if one] == ["update", "delete"]
    assert queue.empty()


def test_what_is_told_to_strategies_alone_can_not_be_read_and_what_is_kept_is_not_told() -> None:
    queue = EventQueue()
    observer = Noting(queue)
    told, kept = events("insert", "update")

    queue.tell(told)
    queue.keep(kept)

    assert observer.heard == [told]
    assert [queue.get_nowait(), queue.qsize()] == [kept, 0]


# --- the end


async def test_after_the_end_what_is_left_can_be_read_and_then_the_end_each_time() -> None:
    for lost in (None, LOST):
        queue = EventQueue()
        change = event()
        queue.put_nowait(change)
        queue.end(lost)

        assert await queue.get() == change
        raised = [await asyncio.gather(queue.get(), return_exceptions=True) for _ in range(2)]
        assert [type(one) for (one,) in raised] == [type(lost)] * 2
        assert raised[0][0] is None or raised[0][0] is not raised[1][0]


async def test_only_the_first_word_about_the_end_counts_and_strategies_hear_one_gap(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = EventQueue()
    observer = Noting(queue)
    getters = [await waiting(queue) for _ in range(2)]

    queue.end(None)
    queue.end(LOST)

    assert [await getter for getter in getters] == [None, None]
    assert observer.heard == [Gap(EVERYTHING, "link_lost", "the connection ended")]
    assert caplog.records == []


async def test_a_lost_connection_is_logged_once_for_those_who_read_no_queue(caplog: pytest.LogCaptureFixture) -> None:
    queue = EventQueue()

    queue.end(LOST)
    queue.end(LOST)

    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(logging.ERROR, str(LOST))]


# --- what users and databases may get wrong


def test_a_fault_of_a_strategy_is_reported_once_for_each_kind(caplog: pytest.LogCaptureFixture) -> None:
    queue = EventQueue()

    for what in ("Greedy strategy", "Timed strategy", "Greedy strategy"):
        queue.report(what, LookupError("why"))

    assert [message.split(" raised")[0] for message in caplog.messages] == ["Greedy strategy", "Timed strategy"]


@pytest.mark.parametrize("channel", ["", "c\0", "c" * (CHANNEL_BYTES + 1), "ü" * 32])
def test_a_channel_that_postgresql_would_not_take_as_it_is_is_refused(channel: str) -> None:
    queue = EventQueue()

    with pytest.raises(ConfigurationError, match="63 bytes and no NUL"):
        queue.begin(PGChannel(channel))

    queue.begin(PGChannel("ü" * 31))
    assert queue.channel == "ü" * 31


def test_a_second_begin_names_the_channel_it_is_connected_to() -> None:
    queue = EventQueue()
    queue.begin(CHANNEL)

    with pytest.raises(RuntimeError, match=CHANNEL):
        queue.begin(PGChannel("other"))


def test_a_payload_that_can_not_be_read_is_kept_and_logged_as_an_excerpt(caplog: pytest.LogCaptureFixture) -> None:
    queue = EventQueue()
    observer = Noting(queue)

    queue.receive('{"operation": "' + "x" * 7_000 + '"}')

    (gap,) = observer.heard
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.scope.channel, len(gap.detail)) == ("unreadable", None, EXCERPT_LENGTH + 3)
    assert len(caplog.text) < 1_000


def test_an_excerpt_of_a_short_text_is_the_text() -> None:
    assert [excerpt("short"), excerpt(b"bytes"), len(excerpt("x" * 1_000))] == ["short", "b'bytes'", EXCERPT_LENGTH + 3]
