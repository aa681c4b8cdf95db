"""The two ends of a link: in order, never waiting, cut when the other end does not read."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pgcachewatch_daemon.workers.framing import encode
from pgcachewatch_daemon.workers.link import Link
from pgcachewatch_daemon.workers.messages import Ask, ClosePlain, Message
from tests.waiting import eventually

LARGE = ClosePlain("x" * 1_000_000)


class End:
    """One end, and what it heard."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.losses = 0
        self.fails = False
        self.link: Link

    def received(self, messages: list[Message]) -> None:
        if self.fails:
            raise RuntimeError("planted")
        self.heard += messages

    def lost(self) -> None:
        self.losses += 1


@asynccontextmanager
async def pair(*, limit_bytes: int = 1_000_000) -> AsyncIterator[tuple[End, End]]:
    ends = End(), End()
    for end, each in zip(ends, socket.socketpair(), strict=True):
        end.link = await Link.connect(each, end.received, end.lost, limit_bytes=limit_bytes)
    try:
        yield ends
    finally:
        for end in ends:
            end.link.cut()
        await eventually(lambda: all(end.losses == 1 for end in ends))


async def test_what_is_said_arrives_in_order_both_ways_and_leaves_in_one_write() -> None:
    async with pair() as (one, other):
        one.link.say(Ask(1))
        one.link.say(Ask(2), Ask(3))
        one.link.write([encode([Ask(4)]), encode([Ask(5)])])
        one.link.say(Ask(6))
        other.link.say(Ask(7))
        await eventually(lambda: len(other.heard) == 6 and len(one.heard) == 1)
        assert other.heard == [Ask(number) for number in range(1, 7)]
        assert one.heard == [Ask(7)]


async def test_one_that_is_closed_says_what_it_had_to_say_first() -> None:
    async with pair() as (one, other):
        one.link.say(*map(Ask, range(1_000)))
        one.link.close()
        await eventually(lambda: other.losses == 1)
        assert other.heard == [Ask(number) for number in range(1_000)]
        assert not one.link.is_open


async def test_one_that_does_not_read_is_cut_at_the_limit() -> None:
    async with pair() as (one, other):
        assert other.link._transport is not None
        other.link._transport.pause_reading()
        for _ in range(5):
            one.link.write([encode([LARGE])])
        assert not one.link.is_open
        one.link.say(LARGE)
        one.link.flush()
        assert one.link._gathered == [], "nothing gathers for one that is gone"
        other.link._transport.resume_reading()
        await eventually(lambda: one.losses == other.losses == 1)


async def test_bulk_counts_not_as_a_backlog_until_it_has_left() -> None:
    async with pair() as (one, other):
        assert other.link._transport is not None
        other.link._transport.pause_reading()
        one.link.write([encode([LARGE])] * 20, is_bulk=True)
        other.link._transport.resume_reading()
        await eventually(lambda: len(other.heard) == 20)
        await eventually(lambda: one.link._bulk_bytes == 0)
        other.link._transport.pause_reading()
        one.link.write([encode([LARGE])] * 5)
        assert not one.link.is_open
        other.link._transport.resume_reading()


@pytest.mark.parametrize("data", [struct.pack("!I", 3) + b"xyz", struct.pack("!I", 2**31)])
async def test_what_nobody_can_have_said_ends_it(data: bytes) -> None:
    async with pair() as (one, other):
        one.link.write([data])
        await eventually(lambda: one.losses == other.losses == 1)
        assert other.heard == []


async def test_what_can_not_be_handled_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    async with pair() as (one, other):
        other.fails = True
        one.link.say(Ask(1))
        await eventually(lambda: one.losses == other.losses == 1)
    assert "link failed" in caplog.text


async def test_saying_something_to_one_that_has_gone_is_harmless() -> None:
    async with pair() as (one, other):
        other.link.cut()
        await eventually(lambda: one.losses == 1)
        one.link.say(Ask(1))
        await asyncio.sleep(0)
        one.link.close()
        one.link.cut()
