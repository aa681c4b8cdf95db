"""The original's decorator on tables of a real PostgreSQL, with the original's triggers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from pgcachewatch import listeners, models, queries, utils
from pgcachewatch.strategies import Greedy, Windowed
from tests.client.steered import event, numbered
from tests.postgres import Database
from tests.waiting import eventually

CHANNEL = models.DEFAULT_PG_CHANNEL
TABLES = ("s1.kv", "s2.kv")


@pytest.fixture
async def writer(database: Database) -> asyncpg.Connection:
    connection = await database.connect()
    await connection.execute(queries.create_notify_function(CHANNEL, "fn_test"))
    for table in TABLES:
        await connection.execute(f"CREATE SCHEMA {table[:2]}; CREATE TABLE {table} (id int)")
        await connection.execute(queries.create_after_change_trigger("tg_test", table, "fn_test"))
    return connection


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def listener(connection: asyncpg.Connection) -> listeners.PGEventQueue:
    listener = listeners.PGEventQueue()
    await listener.connect(connection)
    return listener


async def get(listener: listeners.PGEventQueue) -> models.Event:
    """The next event: by the time it can be read, every cache has heard of it."""
    async with asyncio.timeout(30):
        received = await listener.get()
    assert received is not None
    return received


async def test_tables_of_one_name_in_two_schemas_are_told_apart(
    listener: listeners.PGEventQueue, writer: asyncpg.Connection
) -> None:
    cached = numbered(Greedy(listener, predicate=lambda event: (event.schema_name, event.table) == ("s2", "kv")))
    assert await cached() == 1

    await writer.execute("INSERT INTO s1.kv VALUES (1)")
    assert (await get(listener)).schema_name == "s1"
    assert await cached() == 1

    await writer.execute("INSERT INTO s2.kv VALUES (1)")
    assert (await get(listener)).schema_name == "s2"
    assert await cached() == 2


async def test_a_window_sees_each_statement_of_one_transaction(
    listener: listeners.PGEventQueue, writer: asyncpg.Connection
) -> None:
    cached = numbered(Windowed(listener, ["insert", "insert", "insert", "update"]))
    assert await cached() == 1

    async with writer.transaction():
        for number in range(3):
            await writer.execute("INSERT INTO s1.kv VALUES ($1)", number)
        await writer.execute("UPDATE s1.kv SET id = id + 1")

    assert [(await get(listener)).operation for _ in range(4)] == ["insert"] * 3 + ["update"]
    assert await cached() == 2


async def test_an_event_is_as_old_as_its_statement_and_not_as_its_transaction(
    listener: listeners.PGEventQueue, writer: asyncpg.Connection
) -> None:
    async with writer.transaction():
        began_at = await writer.fetchval("SELECT now()")
        before = await writer.fetchval("SELECT clock_timestamp()")
        await writer.execute("INSERT INTO s1.kv VALUES (1)")

    assert began_at < before <= (await get(listener)).sent_at


async def test_a_change_that_is_rolled_back_drops_nothing(
    listener: listeners.PGEventQueue, writer: asyncpg.Connection
) -> None:
    cached = numbered(Greedy(listener, predicate=lambda event: event.table == "kv"))
    assert await cached() == 1
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute("INSERT INTO s1.kv VALUES (1)")
    await transaction.rollback()

    await utils.emit_event(writer, event(table="other").model_copy(update={"channel": CHANNEL}))

    assert (await get(listener)).table == "other"
    assert await cached() == 1


async def test_when_the_listeners_backend_is_killed_each_call_runs_for_itself(
    listener: listeners.PGEventQueue, connection: asyncpg.Connection, writer: asyncpg.Connection
) -> None:
    cached = numbered(Greedy(listener))
    assert [await cached(), await cached()] == [1, 1]

    await writer.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
    await eventually(lambda: not listener.connection_healthy())

    assert [await cached(), await cached()] == [2, 3]


async def test_a_listener_on_a_connection_of_a_pool_fails_no_call_when_that_is_released(database: Database) -> None:
    async with asyncpg.create_pool(database.dsn, min_size=1, max_size=1) as pool:
        listener = listeners.PGEventQueue()
        connection = await pool.acquire()
        await listener.connect(connection)
        cached = numbered(Greedy(listener))
        assert [await cached(), await cached()] == [1, 1]

        with pytest.warns(asyncpg.InterfaceWarning, match="active"):
            await pool.release(connection)

        assert [await cached(), await cached()] == [2, 3]
