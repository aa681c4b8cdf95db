"""Events by the journal, through a real relay to the real client: nothing is missed, and restarts cost nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import asyncpg
import pytest

import pgcachewatch
from pgcachewatch import Row
from pgcachewatch.models import DEFAULT_PG_CHANNEL
from pgcachewatch_daemon.sql.journal import is_free_sql
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.row_triggers import RowTriggers
from tests.waiting import LIMIT_S, eventually

LISTENER = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgcachewatch relay' AND datname = current_database()"
)


class Shop:
    """A table in journal mode and one in direct mode, a relay, a client and a cached function on each."""

    def __init__(self, rows: RowTriggers, relay: RelayProcess, client: pgcachewatch.Client) -> None:
        self.rows = rows
        self.relay = relay
        self.client = client
        self.runs = {"journalled": 0, "notified": 0}

        @client.cache(rows=Row("journalled", id="number"))
        async def journalled(number: int) -> int:
            return await self._read("journalled", number)

        @client.cache(rows=Row("notified", id="number"))
        async def notified(number: int) -> int:
            return await self._read("notified", number)

        self.journalled, self.notified = journalled, notified

    async def _read(self, table: str, number: int) -> int:
        self.runs[table] += 1
        return int(await self.rows.writer.fetchval(f"SELECT version FROM {table} WHERE id = $1", number))

    async def until_stored(self) -> None:
        """Both functions are subscribed to, so that what they return from now on is kept. Nothing is stored yet."""
        for read, table in ((self.journalled, "journalled"), (self.notified, "notified")):
            runs = -1
            while runs != self.runs[table]:
                await self.client.wait_live()
                await read(10)
                runs = self.runs[table]
                await read(10)
            self.runs[table] = 0

    async def write(self, table: str, number: int) -> None:
        await self.rows.writer.execute(f"UPDATE {table} SET version = version + 1 WHERE id = $1", number)


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database)
    for table in ("journalled", "notified"):
        await rig.writer.execute(
            f"CREATE TABLE {table} (id int PRIMARY KEY, version int NOT NULL DEFAULT 0);"
            f"INSERT INTO {table} SELECT generate_series(1, 10)"
        )
    await rig.install("journalled", mode="journal", channel=DEFAULT_PG_CHANNEL)
    await rig.install("notified", mode="direct", channel=DEFAULT_PG_CHANNEL)
    return rig


@pytest.fixture
async def shop(rows: RowTriggers) -> AsyncIterator[Shop]:
    with RelayProcess(rows.database.dsn, heartbeat_s="0.1") as relay:
        async with pgcachewatch.connect(relay.url, staleness=30.0) as client:
            shop = Shop(rows, relay, client)
            async with asyncio.timeout(LIMIT_S):
                await shop.until_stored()
            yield shop


async def test_a_row_that_is_journalled_is_dropped_and_another_is_not(shop: Shop) -> None:
    assert [await shop.journalled(1), await shop.journalled(2)] == [0, 0]
    for version in range(1, 30):
        await shop.write("journalled", 1)
        await shop.client.barrier()
        assert await shop.journalled(1) == version
    assert await shop.journalled(2) == 0
    assert shop.runs["journalled"] == 31


async def test_a_barrier_covers_both_modes_also_while_the_relay_sleeps(shop: Shop) -> None:
    for pause_s in (0.0, 2.5):
        await asyncio.sleep(pause_s)  # not a wait for something: long enough for the relay to fall asleep
        for table, read in (("journalled", shop.journalled), ("notified", shop.notified)):
            before = await read(3)
            await shop.write(table, 3)
            await shop.client.barrier()
            assert await read(3) == before + 1


@pytest.mark.rule("W-JOURNAL-1")
@pytest.mark.rule("W-JOURNAL-2")
async def test_a_relay_that_starts_again_finds_every_cache_warm_and_tells_what_it_missed(shop: Shop) -> None:
    for number in (1, 2, 3):
        await shop.journalled(number)
        await shop.notified(number)
    await shop.client.barrier()
    shop.relay.kill()
    await shop.write("journalled", 1)
    shop.relay.start()
    shop.relay.wait_ready()
    await shop.client.wait_live()
    await shop.client.barrier()
    runs = dict(shop.runs)
    assert [await shop.journalled(number) for number in (1, 2, 3)] == [1, 0, 0]
    assert shop.runs["journalled"] == runs["journalled"] + 1, "only what was written meanwhile is read again"
    await shop.notified(1)
    assert shop.runs["notified"] == runs["notified"] + 1, "what may have been notified meanwhile is not believed"


async def test_a_session_that_is_killed_costs_no_flush(shop: Shop) -> None:
    await shop.journalled(1)
    await shop.journalled(2)
    for version in range(1, 6):
        pid = await shop.rows.writer.fetchval(LISTENER)
        await shop.rows.writer.execute("SELECT pg_terminate_backend($1)", pid)
        await shop.write("journalled", 1)
        await shop.client.barrier()
        assert await shop.journalled(1) == version
    assert await shop.journalled(2) == 0
    assert shop.runs["journalled"] == 7


def is_in(relay: RelayProcess, state: str) -> bool:
    return f'pgcachewatch_journal_state{{state="{state}"}} 1.0' in relay.get("/metrics")[1]


async def test_all_relays_are_awake_while_many_commit_and_asleep_while_few_do(rows: RowTriggers) -> None:
    stop = asyncio.Event()

    async def commit() -> None:
        while not stop.is_set():
            await rows.writer.execute("UPDATE journalled SET version = version + 1 WHERE id = 1")

    with RelayProcess(rows.database.dsn) as one, RelayProcess(rows.database.dsn) as other:
        observer = await rows.database.connect()
        await eventually(lambda: is_in(one, "asleep") and is_in(other, "asleep"))
        writing = asyncio.create_task(commit())
        await eventually(lambda: is_in(one, "awake") and is_in(other, "awake"))
        await eventually(partial(is_locked, observer))
        stop.set()
        await writing
        await eventually(lambda: is_in(one, "asleep") and is_in(other, "asleep"))
        assert not await is_locked(observer)


async def is_locked(connection: asyncpg.Connection) -> bool:
    return not await connection.fetchval(is_free_sql())


async def test_a_journal_that_is_emptied_by_hand_is_a_flush(shop: Shop) -> None:
    await shop.journalled(1)
    await shop.rows.writer.execute("TRUNCATE pgcachewatch.journal")

    async with asyncio.timeout(LIMIT_S):
        while shop.runs["journalled"] == 1:
            await shop.client.barrier()
            await shop.journalled(1)
    await shop.write("journalled", 1)
    await shop.client.barrier()
    assert await shop.journalled(1) == 1


async def test_a_journal_that_is_installed_while_the_relay_runs_is_read(database: Database) -> None:
    rig = await RowTriggers.open(database)
    await rig.writer.execute("CREATE TABLE late (id int PRIMARY KEY, version int NOT NULL DEFAULT 0)")
    await rig.writer.execute("INSERT INTO late VALUES (1)")
    with RelayProcess(database.dsn, heartbeat_s="0.1") as relay:
        async with pgcachewatch.connect(relay.url) as client:

            @client.cache(tables=["late"])
            async def read() -> int:
                return int(await rig.writer.fetchval("SELECT version FROM late"))

            await client.wait_live()
            await rig.install("late", mode="journal", channel=DEFAULT_PG_CHANNEL)
            await rig.writer.execute("NOTIFY pgcachewatch_catalogue")

            for _ in range(20):
                await rig.writer.execute("UPDATE late SET version = version + 1")
                await client.wait_live()
                await client.barrier()
                assert await read() == await rig.writer.fetchval("SELECT version FROM late")
