"""Channels that nobody uses, against a real server: given up when they have to be, and never without a word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgcachewatch.errors import LimitExceeded
from pgcachewatch.protocol.messages import TOKEN_CHANNEL
from pgcachewatch_daemon.io.postgres import PostgresSource
from pgcachewatch_daemon.sql.entries import JOURNAL_CHANNEL
from pgcachewatch_daemon.sql.functions import CATALOGUE_CHANNEL
from tests.daemon.io.postgres.test_source import OPTIONS, backend, listening, notify
from tests.postgres import Database
from tests.waiting import eventually

QUIET = replace(OPTIONS, heartbeat_s=3600.0, idle_heartbeat_s=3600.0, channels_limit=3)


async def heard_by_server(database: Database, source: PostgresSource) -> set[str]:
    """The channels that its session listens to, beside the relay's own."""
    assert source._connection is not None
    rows = await source._connection.fetch("SELECT channel FROM pg_listening_channels() channel")
    own = {TOKEN_CHANNEL, CATALOGUE_CHANNEL, JOURNAL_CHANNEL, source._loopback_channel}
    return {row["channel"] for row in rows} - own


async def test_only_channels_that_are_used_are_listened_to_after_a_loss(database: Database) -> None:
    async with listening(database.dsn, "kept", "dropped") as (source, log):
        source.leave("dropped", seq=0)
        connection = await database.connect()
        await connection.execute("SELECT pg_terminate_backend($1)", await backend(connection))
        await eventually(lambda: len(log.of("up")) == 2)
        assert source.is_listening("kept")
        assert not source.is_listening("dropped")
        assert log.of("given up") == [], "a new epoch has no holes"


async def test_at_the_limit_a_new_channel_takes_the_place_of_the_longest_unused(database: Database) -> None:
    async with listening(database.dsn, "a", "b", "c", options=QUIET) as (source, log):
        source.leave("b", seq=1)
        source.leave("a", seq=2)
        waiting = source.ensure_channel("d")
        assert log.of("given up") == [("given up", "b")], "before anything of it is missed"
        assert not source.is_listening("b")
        await waiting
        assert log.of("listened")[-1] == ("listened", "d")
        assert await heard_by_server(database, source) == {"a", "c", "d"}
        assert source.stats.channels_given_up == {"displaced": 1}
        assert (source.stats.channels, source.stats.channels_unused) == (3, 1)


async def test_a_channel_that_is_used_again_keeps_its_place(database: Database) -> None:
    async with listening(database.dsn, "a", "b", "c", options=QUIET) as (source, log):
        source.leave("a", seq=1)
        source.use("a")
        with pytest.raises(LimitExceeded, match="all of which are in use"):
            await source.ensure_channel("d")
        source.give_up_before(9)
        assert log.of("given up") == []


async def test_what_nobody_can_resume_is_given_up_and_what_somebody_can_is_not(database: Database) -> None:
    async with listening(database.dsn, "a", "b", "c", options=QUIET) as (source, log):
        source.leave("a", seq=4)
        source.leave("b", seq=5)
        source.give_up_before(5)
        assert log.of("given up") == [("given up", "a")]
        await notify(database.dsn, "a", "not heard")
        await notify(database.dsn, "b", "heard")
        await eventually(lambda: log.told[-1] == ("event", "b", "heard"))
        assert ("event", "a", "not heard") not in log.told
        assert source.stats.channels_given_up == {"unused": 1}


async def test_a_channel_wanted_again_while_it_is_given_up_is_listened_to_anew(database: Database) -> None:
    async with listening(database.dsn, "a", options=QUIET) as (source, log):
        for number in range(20):
            source.leave("a", seq=number)
            source.give_up_before(number + 1)
            source.use("a")
            again = source.ensure_channel("a")
            assert not again.done(), "what it said before the answer may be missing"
            await again
            await notify(database.dsn, "a", str(number))
            await eventually(lambda number=number: log.told[-1] == ("event", "a", str(number)))  # type: ignore[misc]
        assert [each[0] for each in log.told[1:]] == ["given up", "listened", "event"] * 20


async def test_a_wish_that_is_taken_back_before_the_answer_leaves_nothing_behind(database: Database) -> None:
    async with listening(database.dsn, "a", options=QUIET) as (source, _):
        waiting = source.ensure_channel("gone")
        source.leave("gone", seq=0)
        source.give_up_before(1)
        assert waiting.cancelled()
        await source.ensure_channel("b")
        assert await heard_by_server(database, source) == {"a", "b"}
