"""Each who wants a channel is answered once: with its proof, with why it can not be had, or not at all at the end."""

from __future__ import annotations

import pytest

from pgcachewatch.errors import ConfigurationError, LimitExceeded
from pgcachewatch_daemon.io.postgres.wanted import CHANNEL_BYTES, OWN_CHANNELS, Wanted


@pytest.mark.parametrize("name", ["", "é" * (CHANNEL_BYTES // 2 + 1), "a\0b", "\ud800" * 22, *OWN_CHANNELS])
async def test_a_name_that_can_not_be_listened_to_is_refused_at_once_and_not_kept(name: str) -> None:
    wanted = Wanted()
    with pytest.raises(ConfigurationError):
        await wanted.ask(name, limit=9)
    assert list(wanted) == []


async def test_one_more_than_the_limit_is_refused_and_one_that_is_there_is_not() -> None:
    wanted = Wanted()
    first = wanted.ask("a", limit=1)
    again = wanted.ask("a", limit=1)
    with pytest.raises(LimitExceeded, match="limit of 1 channels"):
        await wanted.ask("b", limit=1)
    assert [each.done() for each in (first, again)] == [False, False]


async def test_all_who_wait_for_a_channel_are_answered_and_nobody_else() -> None:
    wanted = Wanted()
    gone, first, second, other = (wanted.ask(name, limit=9) for name in ("a", "a", "a", "b"))
    gone.cancel()
    wanted.proven.add("a")
    assert wanted.missing(9) == ["b"]
    wanted.answer_proven()
    assert [each.done() for each in (first, second, other)] == [True, True, False]


async def test_a_channel_that_postgresql_refuses_is_wanted_no_more() -> None:
    wanted = Wanted()
    waiting = wanted.ask("a", limit=9)
    wanted.refuse("a", ConfigurationError("can not LISTEN"))
    with pytest.raises(ConfigurationError, match="can not LISTEN"):
        await waiting
    assert list(wanted) == []


async def test_what_somebody_waits_for_is_kept_though_nobody_needs_it_yet() -> None:
    wanted = Wanted()
    for name in ("needed", "idle", "awaited"):
        wanted.ask(name, limit=9)
    wanted.answer("needed")
    wanted.answer("idle")
    wanted.retain({"needed"})
    assert list(wanted) == ["needed", "awaited"]


async def test_the_first_missing_are_told_in_the_order_they_were_asked_for() -> None:
    wanted = Wanted()
    for name in "cab":
        wanted.ask(name, limit=9)
    assert wanted.missing(2) == ["c", "a"]


async def test_at_the_end_whoever_waits_is_cancelled() -> None:
    wanted = Wanted()
    waiting = wanted.ask("a", limit=9)
    wanted.close()
    assert waiting.cancelled()
