"""Writers notify while no relay is awake, and only then; two-phase commit and long transactions hinder nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from pgcachewatch_daemon.embedded import EmbeddedPostgres, PostgresBinaries
from pgcachewatch_daemon.sql import journal
from pgcachewatch_daemon.sql.entries import JOURNAL_CHANNEL
from tests.postgres import Database, all_binaries
from tests.row_triggers import RowTriggers
from tests.waiting import eventually

pytestmark = pytest.mark.every_server

# In the test's own database: the server is shared with tests that run at the same time.
ADVISORY_LOCKS = """
SELECT count(*)
  FROM pg_locks
 WHERE locktype = 'advisory'
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Relay:
    """The part of a relay that sleeps and wakes."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.woken: list[object] = []

    async def listen(self) -> None:
        await self.connection.add_listener(JOURNAL_CHANNEL, lambda *told: self.woken.append(told[3]))

    async def take(self) -> bool:
        return bool(await self.connection.fetchval(journal.take_lock_sql()))

    async def give_up(self) -> bool:
        return bool(await self.connection.fetchval(journal.give_up_lock_sql()))

    async def wakes(self) -> int:
        """How often it was woken since this was asked last; what was notified before has been heard."""
        marker = "marker"
        heard = asyncio.Event()

        def hear(*_: object) -> None:
            heard.set()

        await self.connection.add_listener(marker, hear)
        await self.connection.execute("SELECT pg_notify($1, '')", marker)
        async with asyncio.timeout(30):
            await heard.wait()
        await self.connection.remove_listener(marker, hear)
        count = len(self.woken)
        self.woken.clear()
        return count


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database, "journal")
    await rig.writer.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    await rig.writer.execute("INSERT INTO t SELECT i, 0 FROM generate_series(1, 9) i")
    await rig.install("t")
    return rig


@pytest.fixture
async def relay(rows: RowTriggers) -> Relay:
    relay = Relay(await rows.database.connect())
    await relay.listen()
    return relay


async def test_a_transaction_wakes_a_sleeping_relay_once_and_one_that_is_awake_never(
    rows: RowTriggers, relay: Relay
) -> None:
    statements = ["UPDATE t SET v = 1 WHERE id = 1", "DELETE FROM t WHERE id = 2", "INSERT INTO t VALUES (20, 0)"]

    await rows.told("BEGIN", *statements, "COMMIT")
    assert await relay.wakes() == 1
    assert await relay.take()
    assert len(await rows.told("UPDATE t SET v = 1", "TRUNCATE t")) == 2
    assert await relay.wakes() == 0
    assert await relay.give_up()
    await rows.told("UPDATE t SET v = 1")  # no rows are left
    assert await relay.wakes() == 0


async def test_a_transaction_that_found_the_lock_free_does_not_keep_the_relay_from_it(
    rows: RowTriggers, relay: Relay
) -> None:
    async with rows.writer.transaction():
        await rows.writer.execute("UPDATE t SET v = 1 WHERE id = 1")

        assert await relay.take()
        assert await relay.wakes() == 0

    assert await relay.wakes() == 1


async def test_a_writer_that_found_the_relay_awake_is_over_when_draining_is(rows: RowTriggers, relay: Relay) -> None:
    assert await relay.take()
    transaction = rows.writer.transaction()
    await transaction.start()
    await rows.writer.execute("UPDATE t SET v = 1 WHERE id = 1")
    await relay.give_up()
    mark = int(await relay.connection.fetchval(journal.own_xid_sql()))

    async def is_over() -> bool:
        return int(await relay.connection.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")) > mark

    assert not await is_over()
    await transaction.commit()

    await eventually(is_over)  # a transaction of another database of this server may be as old
    assert await relay.wakes() == 0
    assert [row["keys"] for row in await rows.rows()] == [["1"]]


async def test_whether_writers_notify_can_be_asked_and_asking_leaves_nothing(rows: RowTriggers, relay: Relay) -> None:
    other = await rows.database.connect()

    assert await other.fetchval(journal.is_free_sql())
    assert await relay.take()
    assert not await other.fetchval(journal.is_free_sql())
    await relay.give_up()
    assert await other.fetchval(ADVISORY_LOCKS) == 0


async def test_writers_leave_no_lock_behind(rows: RowTriggers) -> None:
    await rows.told("BEGIN", "UPDATE t SET v = 1", "SAVEPOINT x", "DELETE FROM t", "ROLLBACK TO x")

    assert await rows.writer.fetchval(ADVISORY_LOCKS) == 0


@pytest.fixture
async def two_phase(postgres_binaries: PostgresBinaries | None) -> AsyncIterator[RowTriggers]:
    """On a server that takes prepared transactions, which is not the default."""
    binaries = postgres_binaries or next(iter(all_binaries()), None)
    if binaries is None:
        pytest.skip("no PostgreSQL server binaries on this machine to run a private server from")
    server = EmbeddedPostgres(binaries, settings={"max_prepared_transactions": "5"})
    await asyncio.to_thread(server.start)
    database = Database(dsn=server.dsn, name="postgres")
    try:
        rig = await RowTriggers.open(database, "journal")
        await rig.writer.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, 0)")
        yield rig
    finally:
        await database.close()
        await asyncio.to_thread(server.stop)


async def test_without_a_wake_up_two_phase_commit_works_and_stalls_nobody(two_phase: RowTriggers) -> None:
    rows = two_phase
    await rows.install("t", wake="none")
    relay = Relay(await rows.database.connect())
    await relay.listen()

    assert await rows.told("BEGIN", "UPDATE t SET v = 1 WHERE id = 1", "PREPARE TRANSACTION 'x'") == []
    assert await relay.take()
    assert await rows.told("UPDATE t SET v = 1 WHERE id = 2") == [("update", "t", {"2"})]
    assert await rows.told("COMMIT PREPARED 'x'") == [("update", "t", {"1"})]
    await rows.told("BEGIN", "UPDATE t SET v = 1 WHERE id = 1", "PREPARE TRANSACTION 'y'")
    assert await rows.told("ROLLBACK PREPARED 'y'") == []
    assert await relay.wakes() == 0


async def test_with_a_wake_up_two_phase_commit_works_while_a_relay_is_awake_and_is_refused_while_none_is(
    two_phase: RowTriggers,
) -> None:
    rows = two_phase
    await rows.install("t")
    relay = Relay(await rows.database.connect())
    assert await relay.take()
    await rows.told("BEGIN", "UPDATE t SET v = 1 WHERE id = 1", "PREPARE TRANSACTION 'x'")
    assert await rows.told("COMMIT PREPARED 'x'") == [("update", "t", {"1"})]
    await relay.give_up()

    await rows.told("BEGIN", "UPDATE t SET v = 2 WHERE id = 1")
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="PREPARE"):
        await rows.writer.execute("PREPARE TRANSACTION 'z'")
    assert await rows.since() == []
