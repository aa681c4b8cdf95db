"""What waits for a poll is told behind it, and old rows are pruned by whoever has kept a snapshot for long enough."""

from __future__ import annotations

import asyncio

import pytest

from pgcachewatch_daemon.core.wakefulness import WakeOptions
from pgcachewatch_daemon.io.postgres.journal_feed import AGES, JournalFeed, JournalOptions, Waiting
from pgcachewatch_daemon.sql import consumers
from tests.postgres import Database
from tests.row_triggers import RowTriggers


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database, "journal")
    await rig.writer.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await rig.install("t")
    return rig


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


async def test_without_a_journal_nothing_waits(database: Database) -> None:
    feed = JournalFeed(JournalOptions(), clock=asyncio.get_running_loop().time)
    assert await feed.open(await database.connect()) is None
    assert not feed.loopback_returned("nonce")
    assert not feed.tokens_complete()
    assert feed.due_s == float("inf")


async def test_a_loopback_and_tokens_are_told_behind_the_rows_of_the_next_poll(rows: RowTriggers) -> None:
    clock = Clock()
    feed = JournalFeed(JournalOptions(), clock=clock)
    connection = await rows.database.connect()
    await feed.open(connection)
    await feed.step(connection)
    await feed.after(connection)
    assert feed.due_s > clock.now_s

    await rows.writer.execute("INSERT INTO t VALUES (1)")
    assert feed.tokens_complete()
    assert feed.loopback_returned("nonce")
    assert feed.due_s <= clock.now_s, "somebody waits"
    step = await feed.step(connection)

    assert step is not None
    assert (len(step[0]), step[1]) == (1, Waiting("nonce", has_tokens=True))
    await feed.after(connection)
    again = await feed.step(connection)
    assert again == ([], Waiting()), "it is not due, and nobody waits any more"


async def test_a_notification_that_comes_while_it_polls_has_it_poll_again(rows: RowTriggers) -> None:
    clock = Clock()
    feed, connection = JournalFeed(JournalOptions(), clock=clock), await rows.database.connect()
    await feed.open(connection)
    await feed.step(connection)
    feed.woken()
    await feed.after(connection)
    assert feed.due_s <= clock.now_s
    await feed.step(connection)
    await feed.after(connection)
    assert feed.due_s > clock.now_s


async def test_a_relay_that_takes_the_lock_has_those_awake_that_are_asleep(rows: RowTriggers) -> None:
    clock = Clock()
    feed, connection = JournalFeed(JournalOptions(), clock=clock), await rows.database.connect()
    await feed.open(connection)
    while feed.stats.state != "asleep":
        clock.now_s += 1.0
        await feed.step(connection)
        await feed.after(connection)
    feed.woken(is_rival=True)
    await feed.step(connection)
    await feed.after(connection)
    assert str(feed.stats.state) == "awake"


async def test_what_waited_for_a_session_that_was_lost_is_forgotten(rows: RowTriggers) -> None:
    feed = JournalFeed(JournalOptions(), clock=Clock())
    await feed.open(await rows.database.connect())
    feed.loopback_returned("nonce")
    connection = await rows.database.connect()
    await feed.open(connection)
    assert await feed.step(connection) == ([], Waiting())


async def test_what_a_session_began_with_is_not_forgotten_when_it_ends_before_that_was_told(rows: RowTriggers) -> None:
    feed = JournalFeed(JournalOptions(), clock=Clock())
    await rows.writer.execute("INSERT INTO t VALUES (1)")
    first = await feed.open(await rows.database.connect())
    await rows.writer.execute("INSERT INTO t VALUES (2)")
    second = await feed.open(await rows.database.connect())
    assert first is not None
    assert second is not None
    assert (second.epoch, second.floor) == (first.epoch, first.floor), "nobody knows of that journal yet"
    assert second.rows[: len(first.rows)] == first.rows
    assert len(second.rows) == len(first.rows) + 1

    feed.opened_told()
    await rows.writer.execute("INSERT INTO t VALUES (3)")
    unproven = await feed.open(await rows.database.connect())
    await rows.writer.execute("INSERT INTO t VALUES (4)")
    third = await feed.open(await rows.database.connect())
    assert unproven is not None
    assert third is not None
    assert third.floor is None
    assert (len(unproven.rows), len(third.rows)) == (1, 2)


async def left(rows: RowTriggers) -> int:
    return int(await rows.writer.fetchval("SELECT count(*) FROM pgcachewatch.journal"))


async def test_rows_are_pruned_once_they_are_old_and_not_before(rows: RowTriggers) -> None:
    clock = Clock()
    options = JournalOptions(WakeOptions(), retention_s=600.0)
    feed, connection = JournalFeed(options, clock=clock), await rows.database.connect()
    await feed.open(connection)
    await rows.writer.execute("INSERT INTO t VALUES (1)")
    for _ in range(AGES):
        clock.now_s += options.retention_s / AGES
        await feed.step(connection)
        await feed.after(connection)
        assert await left(rows) == 1
    for _ in range(3):
        clock.now_s += options.retention_s / AGES
        await rows.writer.execute("INSERT INTO t SELECT max(id) + 1 FROM t")
        await feed.step(connection)
        await feed.after(connection)
    assert await left(rows) == 3, "the first row, and nothing younger"


async def test_too_many_rows_are_pruned_before_they_are_old(rows: RowTriggers) -> None:
    clock = Clock()
    feed, connection = JournalFeed(JournalOptions(rows_limit=10), clock=clock), await rows.database.connect()
    await feed.open(connection)
    for number in range(20):
        await rows.writer.execute("INSERT INTO t VALUES ($1)", number)
    for _ in range(3):
        clock.now_s += JournalOptions().retention_s / AGES
        await feed.step(connection)
        await feed.after(connection)
    assert await left(rows) < 20


async def test_it_looks_how_far_stored_consumers_are_behind_whoever_takes_part_in_them(rows: RowTriggers) -> None:
    clock = Clock()
    feed, connection = JournalFeed(JournalOptions(), clock=clock), await rows.database.connect()
    await feed.open(connection)
    epoch = feed._reader.epoch
    place = await rows.writer.fetchval("SELECT pg_current_snapshot()::text")
    for name, position in (("away", place), ("spoilt", "rubbish"), ("beyond", f"1:{2**64}:")):
        await rows.writer.execute(consumers.create_sql(), name, position, epoch, "nobody")
    await rows.writer.execute("INSERT INTO t VALUES (1)")
    await rows.writer.execute("UPDATE pgcachewatch.journal SET at = at - interval '7 min'")
    clock.now_s += JournalOptions().retention_s / AGES
    await feed.step(connection)
    await feed.after(connection)
    assert [each.consumer for each in feed.stats.held] == ["away"]
    assert 420 <= feed.stats.held[0].age_s < 480
