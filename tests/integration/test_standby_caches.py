"""Functions that read a real hot standby: one that lags as it does, and one whose replay is paused.

The change is made on the primary, the relay listens there, and its event is applied before the standby shows the row. A
transaction that runs while replay is paused is below `xmax` in the standby's snapshots and in none of their lists, so
that their text says it was visible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import asyncpg
import pytest

import pgcachewatch
from pgcachewatch_daemon.embedded import EmbeddedPostgres
from tests.integration.rivals import KEYS, TABLE, WRITE, Rivals, read_version
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.row_triggers import CHANNEL, RowTriggers
from tests.standby import hot_standby, pause_replay, resume_replay
from tests.waiting import eventually

pytestmark = pytest.mark.every_server

LAGGING_ROUNDS = 20
PAUSES = 4
# Rows that are changed by: a transaction that ends while replay is paused; one that began later and ended before, which
# the standby shows and can not prove; one that the standby has not seen.
HELD, LATER, MISSED = KEYS[:3]


@pytest.fixture
def standby(private_server: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    with hot_standby(private_server) as standby:
        yield standby


async def test_no_entry_is_stale_that_a_standby_filled(
    private_server: EmbeddedPostgres, standby: EmbeddedPostgres, record_property: Callable[[str, object], None]
) -> None:
    primary, replica = Database(private_server.dsn, "postgres"), Database(standby.dsn, "postgres")
    try:
        rig = await RowTriggers.open(primary)
        await rig.writer.execute(TABLE)
        await rig.install("items")
        async with (
            RelayProcess(primary.dsn, channel=CHANNEL) as relay,
            pgcachewatch.connect(relay.url, channels=(CHANNEL,)) as client,
        ):
            tables = await has_tables(replica)

            async def version_of(key: int) -> int:
                return await read_version(tables, key)

            rivals = Rivals(client, version_of)
            await rivals.warm()
            await lag(rivals, rig.writer)
            figures = [f"lagging: {rivals}"]
            await eventually(rivals.stores_all)
            for _ in range(PAUSES):
                await pause(rivals, rig.writer, await primary.connect(), await replica.connect())
            record_property("stale entries", f"{figures[0]}; with paused replay as well: {rivals}")
        ordinary, snapshot = rivals.tallies
        assert ordinary.stale > 0, "the standby was never behind, so this shows nothing"
        assert snapshot.stale == 0, str(rivals)
        assert snapshot.checked > 0, str(rivals)
    finally:
        await replica.close()
        await primary.close()


async def has_tables(replica: Database) -> asyncpg.Connection:
    """A connection to the standby, from when it shows the table."""
    connection = await replica.connect()

    async def is_there() -> bool:
        return await connection.fetchval("SELECT to_regclass('items')") is not None

    await eventually(is_there)
    return connection


async def lag(rivals: Rivals, writer: asyncpg.Connection) -> None:
    """The standby follows as fast as it can, and each row is read from it as soon as its event was applied."""
    for number in range(LAGGING_ROUNDS):
        # A commit that waits for no disk is told at once, and reaches the standby some 100 ms later.
        await writer.execute(f"SET synchronous_commit = {'off' if number % 2 else 'on'}")
        for key in KEYS:
            await writer.execute(WRITE, key)
            await rivals.client.barrier()
            await rivals.call(key)
        await rivals.compare(writer)
        await rivals.call_all()
        await rivals.compare(writer)
    await writer.execute("RESET synchronous_commit")


async def pause(
    rivals: Rivals, writer: asyncpg.Connection, holder: asyncpg.Connection, replay: asyncpg.Connection
) -> None:
    """What changes while replay is paused is not stored, and what has not changed is; once replay goes on, all is."""
    async with holder.transaction():
        await holder.execute(WRITE, HELD)
        await writer.execute(WRITE, LATER)
        await eventually(lambda: is_replayed(writer, replay))
        await pause_replay(replay)
    await writer.execute(WRITE, MISSED)
    await rivals.client.barrier()

    assert not await rivals.stores_all()
    assert [key for key in KEYS if not rivals.snapshot.cache_contains(key)] == [HELD, LATER, MISSED]
    await rivals.compare(writer)
    await resume_replay(replay)
    await eventually(rivals.stores_all)
    await rivals.compare(writer)


async def is_replayed(writer: asyncpg.Connection, replay: asyncpg.Connection) -> bool:
    """The standby shows all that the primary had committed."""
    seen, there = [await each.fetchval("SELECT sum(version) FROM items") for each in (replay, writer)]
    return bool(seen == there)
