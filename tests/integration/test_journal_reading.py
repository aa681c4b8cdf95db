"""Reading the journal as the relay does: nothing committed is passed over, nothing is read twice, and loss is told."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from pgcachewatch_daemon.core.snapshot import Snapshot
from pgcachewatch_daemon.embedded import EmbeddedPostgres
from pgcachewatch_daemon.sql import journal
from tests.postgres import Database
from tests.row_triggers import CHANNEL, RowTriggers

pytestmark = pytest.mark.every_server

WRITERS, STATEMENTS = 4, 60
MANY = 200_000


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database, "journal")
    await rig.writer.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    await rig.writer.execute("INSERT INTO t SELECT i, 0 FROM generate_series(1, 9) i")
    await rig.install("t")
    return rig


async def header(rows: RowTriggers) -> asyncpg.Record:
    """What a poll says without rows."""
    record = await rows.writer.fetchrow(journal.poll_sql(), str(2**63), [])
    assert record is not None
    return record


async def snapshot(rows: RowTriggers) -> str:
    text = await rows.writer.fetchval("SELECT pg_current_snapshot()::text")
    assert isinstance(text, str)
    return text


def includes(one: str, other: str) -> bool:
    later, earlier = Snapshot.parse(one), Snapshot.parse(other)
    assert later is not None
    assert earlier is not None
    return later.includes(earlier)


async def write(connection: asyncpg.Connection, number: int, committed: set[str]) -> None:
    """Insert keys of this writer's own, some in transactions that roll back in part or as a whole."""
    chance = random.Random(number)
    for step in range(STATEMENTS):
        kept, lost, inner = (f"{number}_{step}_{name}" for name in ("kept", "lost", "inner"))
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("INSERT INTO w VALUES ($1)", kept)
        if chance.random() < 0.3:
            await connection.execute("SAVEPOINT s")
            await connection.execute("INSERT INTO w VALUES ($1)", inner)
            await connection.execute("ROLLBACK TO s")
        await asyncio.sleep(chance.random() * 0.003)  # load, not synchronisation: transactions overlap
        if chance.random() < 0.2:
            await connection.execute("INSERT INTO w VALUES ($1)", lost)
            await transaction.rollback()
        else:
            await transaction.commit()
            committed.add(kept)


async def test_what_overlapping_writers_commit_is_read_exactly_once_whatever_ends_first(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE TABLE w (k text PRIMARY KEY)")
    await rows.install("w")
    committed: set[str] = set()
    writers = [
        asyncio.create_task(write(await rows.database.connect(), number, committed)) for number in range(WRITERS)
    ]
    read: list[str] = []
    while not all(task.done() for task in writers):
        read += [key for row in await rows.rows() for key in row["keys"]]
    await asyncio.gather(*writers)
    read += [key for row in await rows.rows() for key in row["keys"]]

    assert sorted(read) == sorted(committed)


async def test_a_transaction_that_ran_at_the_last_poll_is_read_by_the_poll_after_its_commit(rows: RowTriggers) -> None:
    early = await rows.database.connect()
    async with early.transaction():
        await early.execute("UPDATE t SET v = 1 WHERE id = 1")
        assert await rows.told("UPDATE t SET v = 1 WHERE id = 2") == [("update", "t", {"2"})]
        assert await rows.since() == []

    assert await rows.since() == [("update", "t", {"1"})]
    assert await rows.since() == []


async def test_rows_of_one_transaction_come_in_the_order_of_its_statements(rows: RowTriggers) -> None:
    keys = [str(key) for key in (3, 1, 2, 9, 4)]

    told = await rows.told("BEGIN", *[f"UPDATE t SET v = 1 WHERE id = {key}" for key in keys], "COMMIT")

    assert [found for _, _, found in told] == [{key} for key in keys]


async def test_a_poll_looks_at_none_of_the_rows_since_an_open_transaction_began(rows: RowTriggers) -> None:
    open_for_long = await rows.database.connect()
    async with open_for_long.transaction():
        await open_for_long.execute("UPDATE t SET v = 1 WHERE id = 1")
        await rows.writer.execute(
            "INSERT INTO pgcachewatch.journal (xid, shape, rel, op) "
            f"SELECT pg_current_xact_id(), 1, 1, 'u' FROM generate_series(1, {MANY})"
        )
        _, xmax, running = (await snapshot(rows)).split(":")
        assert running
        for is_analyzed in (False, True):
            if is_analyzed:
                await rows.writer.execute("ANALYZE pgcachewatch.journal")
            sql = f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {journal.poll_sql()}"
            plan = await rows.writer.prepare(sql)
            text = "\n".join([record[0] for record in await plan.fetch(xmax, running.split(","))])

            assert text.count("Index Scan on journal_xid") + text.count("Index Scan using journal_xid") == 2
            assert "Seq Scan on journal " not in text
            assert "Seq Scan on journal j" not in text
            assert "Rows Removed by" not in text


async def test_a_poll_is_planned_once_and_not_each_time(rows: RowTriggers) -> None:
    await rows.writer.execute(f"PREPARE poll (text, text[]) AS {journal.poll_sql()}")
    for number in range(7):
        await rows.writer.execute(f"EXECUTE poll ('{1_000 + number}', ARRAY['{number + 10}'])")

    generic = await rows.writer.fetchval("SELECT generic_plans FROM pg_prepared_statements WHERE name = 'poll'")

    assert generic >= 2


async def test_tables_have_the_names_of_now_and_those_that_are_gone_the_ones_they_had(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE SCHEMA s2; CREATE TABLE s2.u (id int PRIMARY KEY)")
    await rows.install("s2.u")
    await rows.writer.execute("INSERT INTO s2.u VALUES (1); UPDATE t SET v = 1 WHERE id = 1")
    await rows.writer.execute("DROP TABLE s2.u; ALTER TABLE t RENAME TO renamed")

    found = await rows.rows()

    assert [(row["table_schema"], row["table_name"]) for row in found] == [("s2", "u"), ("public", "renamed")]
    assert {row["channel"] for row in found} == {CHANNEL}


async def test_rows_from_before_and_behind_a_change_of_the_key_are_told_apart(rows: RowTriggers) -> None:
    await rows.writer.execute("UPDATE t SET v = 7 WHERE id = 1")
    await rows.writer.execute("ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (v, id)")
    await rows.install("t")
    await rows.writer.execute("UPDATE t SET v = 8 WHERE id = 1")

    before, behind = await rows.rows()

    assert (before["key"], before["keys"]) == (["id"], ["1"])
    assert (behind["key"], set(behind["keys"])) == (["v", "id"], {'["7","1"]', '["8","1"]'})


async def test_the_recent_past_is_read_with_the_snapshot_that_goes_on_from_it(rows: RowTriggers) -> None:
    await rows.writer.execute("UPDATE t SET v = 1 WHERE id = 1")
    await rows.writer.execute("UPDATE t SET v = 1 WHERE id = 2")
    await rows.writer.execute("UPDATE t SET v = 1 WHERE id = 3")

    first, *past = await rows.writer.fetch(journal.history_sql(), 2)

    assert [row["keys"] for row in past] == [["2"], ["3"]]
    rows.snapshot = first["snapshot"]
    assert await rows.told("UPDATE t SET v = 2 WHERE id = 4") == [("update", "t", {"4"})]


async def test_one_epoch_is_made_however_many_ask_for_it_at_once(rows: RowTriggers) -> None:
    connections = [await rows.database.connect() for _ in range(8)]

    epochs = await asyncio.gather(*(each.fetchval(journal.epoch_sql()) for each in connections))

    assert len(set(epochs)) == 1
    assert epochs[0].endswith((await header(rows))["epoch"])


async def test_the_epoch_outlives_a_restart_and_ends_with_a_crash(private_server: EmbeddedPostgres) -> None:
    database = Database(dsn=private_server.dsn, name="postgres")

    async def epoch() -> str:
        connection = await asyncpg.connect(private_server.dsn)
        try:
            return str(await connection.fetchval(journal.epoch_sql()))
        finally:
            await connection.close()

    try:
        rig = await RowTriggers.open(database, "journal")
        await rig.writer.execute("CREATE TABLE t (id int PRIMARY KEY)")
        await rig.install("t")
        first = await epoch()
        await database.close()
        await asyncio.to_thread(private_server.restart)
        second = await epoch()
        await asyncio.to_thread(private_server.kill)
        await asyncio.to_thread(private_server.restart)

        assert first == second
        assert await epoch() != second
    finally:
        await database.close()


async def test_a_journal_that_is_emptied_by_hand_has_no_epoch_and_then_another(rows: RowTriggers) -> None:
    before = await rows.writer.fetchval(journal.epoch_sql())
    await rows.writer.execute("TRUNCATE pgcachewatch.journal")

    assert (await header(rows))["epoch"] is None
    assert await rows.writer.fetchval(journal.epoch_sql()) != before


async def test_rows_that_are_deleted_by_hand_move_the_floor_past_whoever_has_not_read_them(rows: RowTriggers) -> None:
    await rows.writer.execute("UPDATE t SET v = 1 WHERE id = 1")
    unread = rows.snapshot
    await rows.rows()
    await rows.writer.execute("SET session_replication_role = replica; DELETE FROM pgcachewatch.journal")

    floor = (await header(rows))["floor_snapshot"]

    assert not includes(unread, floor)
    assert includes(await snapshot(rows), floor)


async def test_pruning_takes_what_is_over_in_the_snapshot_and_nothing_else(rows: RowTriggers) -> None:
    early = await rows.database.connect()
    transaction = early.transaction()
    await transaction.start()
    await early.execute("UPDATE t SET v = 1 WHERE id = 1")
    await rows.writer.execute("UPDATE t SET v = 1 WHERE id = 2")
    read_up_to = await snapshot(rows)
    await transaction.commit()
    await rows.writer.execute("UPDATE t SET v = 1 WHERE id = 3")

    assert await rows.writer.fetchval(journal.prune_sql(), read_up_to, 100) == 1

    # The first had the lowest transaction id, and committed behind the snapshot: it is still to be read.
    assert [row["keys"] for row in await rows.rows()] == [["1"], ["3"]]
    floor = (await header(rows))["floor_snapshot"]
    assert floor == read_up_to
    assert includes(read_up_to, floor)
    state = await rows.writer.fetchrow(journal.measure_sql())
    assert state is not None
    assert (state["pruned"], state["rows"]) == (1, 3)  # at most so many: of the three that were written, one is gone


async def test_pruning_goes_on_in_batches_and_ends(rows: RowTriggers) -> None:
    for number in range(5):
        await rows.writer.execute("UPDATE t SET v = $1 WHERE id = 1", number)
    now = await snapshot(rows)

    counts = [await rows.writer.fetchval(journal.prune_sql(), now, 2) for _ in range(4)]

    assert counts == [2, 2, 1, 0]
    assert await rows.writer.fetchval("SELECT floor::text::int8 FROM pgcachewatch.journal_state") > 0
    assert (await header(rows))["epoch"] is None  # nobody has asked for one: pruning ends none
    assert await rows.writer.fetchval(journal.epoch_sql())


async def test_a_publication_of_all_tables_keeps_nobody_from_pruning(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    await rows.writer.execute("ALTER TABLE t REPLICA IDENTITY FULL; UPDATE t SET v = 1 WHERE id = 1")

    assert await rows.writer.fetchval(journal.prune_sql(), await snapshot(rows), 10) == 1


async def test_only_one_relay_prunes_and_a_floor_never_goes_back(rows: RowTriggers) -> None:
    other = await rows.database.connect()
    earlier = await snapshot(rows)
    await rows.writer.execute("UPDATE t SET v = 1 WHERE id = 1")
    now = await snapshot(rows)
    async with other.transaction():
        assert await other.fetchval(journal.prune_sql(), now, 100) == 1
        assert await rows.writer.fetchval(journal.prune_sql(), now, 100) is None

    await rows.writer.execute("UPDATE t SET v = 1 WHERE id = 2")
    assert await rows.writer.fetchval(journal.prune_sql(), earlier, 100) == 0
    assert (await header(rows))["floor_snapshot"] == now


async def test_rows_that_a_dump_of_another_server_brought_are_no_events_and_go(rows: RowTriggers) -> None:
    before = await rows.writer.fetchval(journal.epoch_sql())
    await rows.writer.execute(
        "INSERT INTO pgcachewatch.journal (xid, shape, rel, op) "
        "VALUES ('9000000000', 1, 1, 'u'), ('9000000001', 1, 1, 'u')"
    )
    await rows.writer.execute("UPDATE pgcachewatch.journal_state SET floor_snapshot = '8000000000:8000000000:'")
    assert await rows.rows() == []

    assert await rows.writer.fetchval(journal.epoch_sql()) == before

    assert await rows.writer.fetchval("SELECT count(*) FROM pgcachewatch.journal") == 0
    assert includes(await snapshot(rows), (await header(rows))["floor_snapshot"])


async def test_each_start_of_a_relay_has_a_number_of_its_own(rows: RowTriggers) -> None:
    assert [await rows.writer.fetchval(journal.starts_sql()) for _ in range(3)] == [1, 2, 3]
