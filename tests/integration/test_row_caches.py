"""Row dependencies from end to end: a statement in PostgreSQL, the relay's process, and the entry that is gone."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

import pgcachewatch
from pgcachewatch import Row
from pgcachewatch.errors import ConfigurationError
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.row_triggers import CHANNEL, RowTriggers

pytestmark = pytest.mark.every_server

SCHEMA = """
CREATE SCHEMA s2;
CREATE TABLE users (id int PRIMARY KEY, name text, tenant_id int);
CREATE TABLE s2.users (id int PRIMARY KEY);
CREATE TABLE members (team text, person uuid, level int, PRIMARY KEY (team, person));
CREATE TABLE "Odd.Name" ("Key" text PRIMARY KEY);
INSERT INTO users SELECT i, 'name', i % 2 FROM generate_series(1, 4) AS i
"""
PERSON = uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")


class Site:
    """Tables with triggers, a relay, and a client of it."""

    def __init__(self, rig: RowTriggers, client: pgcachewatch.Client) -> None:
        self.rig = rig
        self.client = client

    async def kept(self, cached: Any, *keys: Any, after: str) -> list[Any]:
        """Which of these keys are still cached when the statement was applied."""
        for key in keys:
            await cached(key)
        assert all(cached.cache_contains(key) for key in keys)
        await self.rig.writer.execute(after)
        await self.client.barrier()
        return [key for key in keys if cached.cache_contains(key)]


@pytest.fixture
async def site(database: Database) -> AsyncIterator[Site]:
    rig = await RowTriggers.open(database)
    await rig.writer.execute(SCHEMA)
    await rig.install("users", "s2.users", "members", '"Odd.Name"', columns=("tenant_id",))
    with RelayProcess(database.dsn, channel=CHANNEL) as relay:
        async with pgcachewatch.connect(relay.url, channels=(CHANNEL,)) as client:
            yield Site(rig, client)


async def echo(key: Any) -> Any:
    return key


@pytest.mark.parametrize(
    ("statement", "kept"),
    [
        ("UPDATE users SET name = 'new' WHERE id = 2", [1, 3, 99]),
        ("UPDATE users SET id = 99 WHERE id = 2", [1, 3]),
        ("DELETE FROM users WHERE id IN (1, 3)", [2, 99]),
        ("INSERT INTO users VALUES (99)", [1, 2, 3]),
        ("INSERT INTO users VALUES (2, 'b') ON CONFLICT (id) DO UPDATE SET name = 'b'", [1, 3, 99]),
        ("UPDATE users SET name = 'new' WHERE id = 77", [1, 2, 3, 99]),
        ("UPDATE s2.users SET id = id", [1, 2, 3, 99]),
        ("TRUNCATE users", []),
    ],
)
async def test_a_statement_drops_the_rows_it_touched_and_no_others(site: Site, statement: str, kept: list[int]) -> None:
    cached = site.client.cache(echo, rows=Row("public.users", id="key"))
    await site.client.wait_live()

    assert await site.kept(cached, 1, 2, 3, 99, after=statement) == kept


async def test_a_carried_column_is_followed_by_its_old_and_its_new_value(site: Site) -> None:
    cached = site.client.cache(echo, rows=Row("public.users", tenant_id="key"))
    await site.client.wait_live()

    assert await site.kept(cached, 0, 1, 7, 8, after="UPDATE users SET tenant_id = 7 WHERE id = 2") == [1, 8]
    assert await site.kept(cached, 0, 1, 7, 8, after="UPDATE users SET tenant_id = NULL WHERE id = 2") == []
    assert await site.kept(cached, 0, 1, 7, 8, after="UPDATE users SET name = 'x' WHERE id = 1") == [0, 7, 8]


async def test_a_key_of_several_columns_is_followed_in_the_order_it_was_declared(site: Site) -> None:
    @site.client.cache(rows=Row("members", person="person", team="team"))
    async def level(team: str, person: uuid.UUID | str) -> int | None:
        return None

    await site.client.wait_live()
    calls: list[tuple[str, uuid.UUID | str]] = [
        ('a,"b" ü', PERSON),
        ('a,"b" ü', str(PERSON).upper()),
        ("other", PERSON),
    ]
    for call in calls:
        await level(*call)

    await site.rig.writer.execute("INSERT INTO members VALUES ($1, $2)", 'a,"b" ü', PERSON)
    await site.client.barrier()

    assert [level.cache_contains(*call) for call in calls] == [False, False, True]


async def test_odd_names_are_followed(site: Site) -> None:
    cached = site.client.cache(echo, rows=Row('"Odd.Name"', Key="key"))
    await site.client.wait_live()

    assert await site.kept(cached, "a", "b", after="""INSERT INTO "Odd.Name" VALUES ('b')""") == ["a"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (Row("usres", id="key"), "users"),
        (Row("public.users", ident="key"), "id"),
        (Row("public.users", name="key"), "--columns tenant_id,name"),
        (Row("members", team="key"), "person"),
        (Row("s2.users", tenant_id="key"), "tenant_id"),
    ],
)
@pytest.mark.rule("W-ROW-3")
async def test_rows_that_can_not_be_told_apart_are_an_error_at_first_use(site: Site, row: Row, says: str) -> None:
    cached = site.client.cache(echo, rows=row)
    await site.client.wait_live()

    with pytest.raises(ConfigurationError, match=says):
        await cached(1)


async def test_a_value_of_another_type_than_the_column_is_run_and_not_stored(site: Site) -> None:
    cached = site.client.cache(echo, rows=Row("public.users", id="key"))
    await site.client.wait_live()

    for value in (1.5, "one", Decimal(1), datetime.date(2030, 1, 1)):
        assert await cached(value) == value
        assert not cached.cache_contains(value)
    assert [await cached("1"), cached.cache_contains("1")] == ["1", True]


async def test_rows_outlive_the_loss_of_the_listening_backend_and_are_flushed_by_it(site: Site) -> None:
    cached = site.client.cache(echo, rows=Row("public.users", id="key"))
    await site.client.wait_live()
    await cached(1)
    gaps = site.client.status.gaps

    await site.rig.writer.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'pgcachewatch relay' AND datname = current_database()"
    )
    async with asyncio.timeout(60):
        while site.client.status.gaps == gaps:  # noqa: ASYNC110  # a status announces nothing
            await asyncio.sleep(0.01)
    await site.client.wait_live()
    await site.client.barrier()

    assert not cached.cache_contains(1)
    assert await site.kept(cached, 1, 2, after="UPDATE users SET name = 'new' WHERE id = 2") == [1]


async def test_a_token_waits_for_its_own_transaction(site: Site) -> None:
    cached = site.client.cache(echo, rows=Row("public.users", id="key"))
    await site.client.wait_live()
    await cached(1)
    other = await asyncpg.connect(site.rig.database.dsn)
    try:
        transaction = other.transaction()
        await transaction.start()
        token = await site.client.token(other)
        await other.execute("UPDATE users SET name = 'late' WHERE id = 1")
        waiting = asyncio.create_task(site.client.barrier(str(token), timeout=60))
        await site.client.barrier()
        assert not waiting.done()
        assert cached.cache_contains(1)

        await transaction.commit()
        await waiting

        assert not cached.cache_contains(1)
        await site.client.barrier(token)
    finally:
        await other.close()
