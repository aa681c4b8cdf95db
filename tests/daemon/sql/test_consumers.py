"""The statements on consumers, on a real journal."""

from __future__ import annotations

import asyncpg
import pytest

from pgcachewatch_daemon.sql import consumers as sql
from pgcachewatch_daemon.sql import journal
from tests.postgres import Database
from tests.row_triggers import RowTriggers


@pytest.fixture
async def connection(database: Database) -> asyncpg.Connection:
    rig = await RowTriggers.open(database, "journal")
    await rig.writer.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await rig.install("t")
    await rig.writer.fetchval(journal.epoch_sql())
    return rig.writer


@pytest.mark.every_server
async def test_a_consumer_is_stored_and_found(connection: asyncpg.Connection) -> None:
    assert await connection.fetchrow(sql.find_sql(), "c") is None
    await connection.execute(sql.create_sql(), "c", "10:10:", "e", "relay")
    await connection.execute(sql.own_sql(), "c", "other")
    assert await connection.fetchval(sql.save_sql(), "c", "11:11:", "e", "12:12:", 7, ["a"], '{"b":2}')
    row = await connection.fetchrow(sql.find_sql(), "c")
    assert row is not None
    assert tuple(row)[:-1] == ("11:11:", "e", "12:12:", 7, ["a"], '{"b": 2}', "other")

    await connection.execute(sql.forget_sql(), "c")
    assert await connection.fetchval(sql.save_sql(), "c", "11:11:", "e", "", 0, [], "{}") is None


@pytest.mark.every_server
async def test_a_dead_letter_is_stored_once(connection: asyncpg.Connection) -> None:
    for _ in range(2):
        await connection.execute(sql.bury_sql(), "1:2", "c", "{}", "no", 5)
    assert await connection.fetchval("SELECT count(*) FROM pgcachewatch.dead_letters") == 1


@pytest.mark.every_server
async def test_one_session_has_the_lock_of_a_consumer(connection: asyncpg.Connection, database: Database) -> None:
    other = await database.connect()
    assert await connection.fetchval(sql.try_lock_sql(), "c")
    assert not await other.fetchval(sql.try_lock_sql(), "c")
    assert await other.fetchval(sql.try_lock_sql(), "d")
    await connection.fetchval(sql.unlock_sql(), "c")
    assert await other.fetchval(sql.try_lock_sql(), "c")


@pytest.mark.every_server
async def test_places_hold_rows_while_they_move(connection: asyncpg.Connection) -> None:
    await connection.execute(sql.create_sql(), "c", "10:10:", "e", "relay")
    await connection.execute(sql.create_sql(), "d", "11:11:", "other", "relay")
    assert [row["position"] for row in await connection.fetch(sql.holding_sql(), "e", 3600.0)] == ["10:10:"]
    await connection.execute("UPDATE pgcachewatch.consumers SET updated_at = updated_at - interval '2 h'")
    assert await connection.fetch(sql.holding_sql(), "e", 3600.0) == []


@pytest.mark.every_server
async def test_pages_of_one_snapshot_are_all_that_was_committed_between_two(
    connection: asyncpg.Connection, database: Database
) -> None:
    late = await database.connect()
    begun = late.transaction()
    await begun.start()
    await late.execute("INSERT INTO t VALUES (1000)")
    now = await connection.fetchrow(sql.now_sql())
    assert now is not None
    _, xmax, running = now["snapshot"].split(":")
    for number in range(7):
        await connection.execute("INSERT INTO t VALUES ($1)", number)
    await begun.commit()
    keys: list[str] = []
    until, after = None, 0
    while True:
        header, *rows = await connection.fetch(
            journal.page_sql(), xmax, running.split(",") if running else [], until, after, 3
        )
        until = until or header["snapshot"]
        keys += [row["keys"][0] for row in rows]
        await connection.execute("INSERT INTO t VALUES ($1)", 2_000 + after)  # behind `until`
        if len(rows) < 3:
            break
        after = rows[-1]["seq"]
    assert keys == ["1000", *map(str, range(7))]


@pytest.mark.every_server
async def test_a_consumer_is_as_late_as_the_first_row_beyond_its_place(connection: asyncpg.Connection) -> None:
    now = await connection.fetchval("SELECT pg_current_snapshot()::text")
    await connection.execute(sql.create_sql(), "behind", now, "e", "relay")
    await connection.execute("INSERT INTO t VALUES (1)")
    await connection.execute("UPDATE pgcachewatch.journal SET at = at - interval '7 min'")
    later = await connection.fetchval("SELECT pg_current_snapshot()::text")
    await connection.execute(sql.create_sql(), "done", later, "e", "relay")
    await connection.execute(sql.create_sql(), "of another time", now, "other", "relay")
    places = [tuple(row) for row in await connection.fetch(sql.places_sql(), "e", 10)]
    assert places == [("behind", now), ("done", later)]
    xids = [position.split(":")[1] for _, position in places]
    behind, done = [row["age_s"] for row in await connection.fetch(sql.ages_sql(), xids)]
    assert 420 <= behind < 480
    assert done == 0
    assert [row["name"] for row in await connection.fetch(sql.places_sql(), "e", 1)] == ["behind"]
