"""The triggers' SQL: what it says, and what it does on a real PostgreSQL, hostile names included."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest

from pgcachewatch import models, queries
from pgcachewatch.errors import ConfigurationError
from tests.postgres import Database

CHANNEL = "ch_queries"
HOSTILE = [
    'a"; drop table x; --',
    "100% mixed Case",
    "it's",
    "back\\slash",
    "$pgcachewatch$",
    "$$",
    "naïve ✓",
    "select",
    "new\nline",
]


class Notified:
    """Payloads that arrived on a channel."""

    def __init__(self) -> None:
        self.payloads: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, connection: object, pid: int, channel: str, payload: object) -> None:
        self.payloads.put_nowait(str(payload))

    async def next(self) -> dict[str, str]:
        async with asyncio.timeout(30):
            payload: dict[str, str] = json.loads(await self.payloads.get())
            return payload


async def watch(connection: asyncpg.Connection, table: str, channel: str = CHANNEL) -> Notified:
    await connection.execute(queries.create_notify_function(channel, "fn_test"))
    await connection.execute(queries.create_after_change_trigger("tg_test", table, "fn_test"))
    notified = Notified()
    await connection.add_listener(channel, notified)
    return notified


async def done(connection: asyncpg.Connection, notified: Notified, channel: str = CHANNEL) -> None:
    await connection.remove_listener(channel, notified)


@pytest.mark.every_server
async def test_each_statement_is_one_event_that_names_operation_table_and_schema(database: Database) -> None:
    connection = await database.connect()
    await connection.execute("CREATE SCHEMA s2; CREATE TABLE s2.kv (id int)")
    notified = await watch(connection, "s2.kv")

    for statement, operation in (
        ("INSERT INTO s2.kv SELECT generate_series(1, 3)", "insert"),
        ("UPDATE s2.kv SET id = 4 WHERE id = 3", "update"),
        ("DELETE FROM s2.kv", "delete"),
        ("TRUNCATE s2.kv", "truncate"),
    ):
        await connection.execute(statement)
        payload = await notified.next()
        event = models.Event.model_validate({**payload, "channel": CHANNEL})
        assert (event.operation, event.table, event.schema_name) == (operation, "kv", "s2")
        assert event.latency.total_seconds() < 60
    assert notified.payloads.empty()
    await done(connection, notified)


async def test_equal_statements_of_one_transaction_are_separate_events(database: Database) -> None:
    connection = await database.connect()
    await connection.execute("CREATE TABLE kv (id int)")
    notified = await watch(connection, "kv")

    async with connection.transaction():
        for _ in range(5):
            await connection.execute("INSERT INTO kv VALUES (1)")

    payloads = [await notified.next() for _ in range(5)]
    assert [payload["operation"] for payload in payloads] == ["insert"] * 5
    await done(connection, notified)


@pytest.mark.parametrize("table", HOSTILE)
async def test_a_table_may_have_any_name(database: Database, table: str) -> None:
    connection = await database.connect()
    await connection.execute("CREATE TABLE x (id int)")
    await connection.execute(f"CREATE TABLE {queries.quote_identifier(table)} (id int)")
    notified = await watch(connection, table)

    await connection.execute(f"INSERT INTO {queries.quote_identifier(table)} VALUES (1)")

    assert (await notified.next())["table"] == table
    assert await connection.fetchval("SELECT to_regclass('x')") == "x"
    await done(connection, notified)


@pytest.mark.parametrize("channel", HOSTILE)
async def test_a_channel_may_have_any_name(database: Database, channel: str) -> None:
    connection = await database.connect()
    await connection.execute("CREATE TABLE kv (id int)")
    notified = await watch(connection, "kv", channel)

    await connection.execute("INSERT INTO kv VALUES (1)")

    assert (await notified.next())["table"] == "kv"
    await done(connection, notified, channel)


async def test_the_function_does_what_it_says_whatever_the_search_path_is(database: Database) -> None:
    connection = await database.connect()
    await connection.execute(
        "CREATE TABLE kv (id int);"
        "CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT';"
        "CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS 'SELECT ''forged''';"
        "SET search_path = public, pg_catalog"
    )
    notified = await watch(connection, "kv")

    await connection.execute("INSERT INTO kv VALUES (1)")

    assert (await notified.next())["operation"] == "insert"
    await done(connection, notified)


@pytest.mark.parametrize("prefix", ["tg_", "100%", "it's", "a\\b", "tg_test_%"])
async def test_trigger_names_are_found_by_their_exact_beginning(database: Database, prefix: str) -> None:
    connection = await database.connect()
    await connection.execute("CREATE SCHEMA s2; CREATE TABLE s2.kv (id int); CREATE TABLE other (id int)")
    await connection.execute(queries.create_notify_function(CHANNEL, "fn_test"))
    await connection.execute(queries.create_after_change_trigger(f"{prefix}x", "s2.kv", "fn_test"))
    await connection.execute(queries.create_after_change_trigger("unlike", "other", "fn_test"))

    rows = await connection.fetch(queries.fetch_trigger_names(prefix))

    assert [tuple(row) for row in rows] == [("s2", "kv", f"{prefix}x")] * 3
    assert set(rows[0].keys()) == {"schema", "table", "trigger_name"}


async def test_what_was_created_can_be_dropped(database: Database) -> None:
    connection = await database.connect()
    table = HOSTILE[0]
    await connection.execute(f"CREATE TABLE {queries.quote_identifier(table)} (id int)")
    await connection.execute(queries.create_notify_function(CHANNEL, table))
    await connection.execute(queries.create_after_change_trigger(table, table, table))

    await connection.execute(queries.drop_trigger(table, table, schema="public"))
    await connection.execute(queries.drop_function(table))

    assert await connection.fetch(queries.fetch_trigger_names("")) == []


@pytest.mark.parametrize("name", ["", "a.b.c", "a.", ".a", "x" * 64, "nul\0", '"open'])
def test_a_name_that_can_not_be_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError):
        queries.create_after_change_trigger("tg", name, "fn")


def test_a_channel_that_postgresql_would_cut_off_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="63 bytes"):
        queries.create_notify_function("é" * 32, "fn")
