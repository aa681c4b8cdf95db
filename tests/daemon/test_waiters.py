"""Whoever waits for a channel hears once, and only of that one."""

from __future__ import annotations

import pytest

from pgcachewatch_daemon.waiters import Waiters


async def test_all_who_wait_for_a_channel_are_answered_and_nobody_else() -> None:
    waiters = Waiters()
    first, second, other = (waiters.add(channel) for channel in ("a", "a", "b"))
    waiters.answer("a")
    assert [each.done() for each in (first, second, other)] == [True, True, False]
    assert set(waiters.channels) == {"b"}


async def test_whoever_has_gone_keeps_nobody_from_the_error() -> None:
    waiters = Waiters()
    gone, there = waiters.add("a"), waiters.add("a")
    gone.cancel()
    waiters.answer("a", OSError("refused"))
    with pytest.raises(OSError, match="refused"):
        await there


async def test_of_many_channels_those_are_answered_that_somebody_waits_for() -> None:
    waiters = Waiters()
    waiting = [waiters.add(channel) for channel in ("a", "b", "c")]
    waiters.answer_each({"a", "c", "d"})
    assert [each.done() for each in waiting] == [True, False, True]


async def test_whoever_waits_for_what_nobody_wants_any_more_is_cancelled() -> None:
    waiters = Waiters()
    waiting, other = waiters.add("a"), waiters.add("b")
    waiters.cancel("a")
    waiters.cancel("never there")
    assert (waiting.cancelled(), other.done()) == (True, False)


async def test_at_the_end_whoever_waits_is_cancelled() -> None:
    waiters = Waiters()
    waiting = waiters.add("a")
    waiters.close()
    assert waiting.cancelled()
    assert not waiters.channels
