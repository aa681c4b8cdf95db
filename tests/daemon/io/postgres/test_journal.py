"""The reader against a real journal: nothing twice, nothing passed over, and an honest end of continuity."""

from __future__ import annotations

import asyncio
import datetime
import json
from typing import Any

import asyncpg
import pytest

from pgcachewatch_daemon.core.wakefulness import WakeOptions
from pgcachewatch_daemon.io.postgres import journal
from pgcachewatch_daemon.io.postgres.contract import SourceOptions
from pgcachewatch_daemon.io.postgres.journal import JournalReader, Written, content_of
from pgcachewatch_daemon.io.postgres.session import open_session
from pgcachewatch_daemon.sql.journal import is_free_sql
from tests.postgres import Database
from tests.row_triggers import CHANNEL, RowTriggers

AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database, "journal")
    await rig.writer.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    await rig.install("t")
    return rig


def reader(history_rows: int = 100) -> JournalReader:
    return JournalReader(WakeOptions(), history_rows, asyncio.get_running_loop().time)


def keys(written: list[Written] | tuple[Written, ...] | None) -> list[str]:
    assert written is not None, "continuity was lost"
    return [key for each in written for key in json.loads(each.payload)["keys"]]


async def insert(connection: asyncpg.Connection[Any], number: int) -> None:
    await connection.execute("INSERT INTO t VALUES ($1)", number)


async def test_a_database_without_a_journal_has_none(database: Database) -> None:
    absent = reader()
    assert await absent.open(await database.connect()) is None
    assert (absent.is_there, absent.stats.state) == (False, "absent")


async def test_a_row_is_the_payload_that_its_trigger_would_have_notified(rows: RowTriggers) -> None:
    one = reader()
    await one.open(await rows.database.connect())
    await insert(rows.writer, 7)
    (written,) = await one.poll() or []
    content = json.loads(written.payload)
    assert written.channel == CHANNEL
    assert (content["operation"], content["table"], content["schema"]) == ("insert", "t", "public")
    assert (content["key"], content["keys"]) == (["id"], ["7"])
    assert content["id"] == f"{content['xid']}:1"
    assert await one.poll() == []


@pytest.mark.parametrize(
    ("note", "said"),
    [
        (None, {}),
        ("22003", {"error": "22003"}),
        (TRACEPARENT, {"traceparent": TRACEPARENT}),
        (f"22003 {TRACEPARENT}", {"error": "22003", "traceparent": TRACEPARENT}),
    ],
)
def test_a_note_says_what_went_wrong_and_whose_trace_the_write_was_part_of(note: str | None, said: object) -> None:
    row = {
        "op": "u",
        "table_name": "t",
        "table_schema": "s",
        "at": AT,
        "xid": "7",
        "seq": 1,
        "keys": None,
        "note": note,
    }
    content = content_of(row)
    assert {name: content[name] for name in ("error", "traceparent") if name in content} == said


async def test_what_commits_late_is_read_when_it_does_and_holds_nobody_up(rows: RowTriggers) -> None:
    one, slow = reader(), await rows.database.connect()
    await one.open(await rows.database.connect())
    transaction = slow.transaction()
    await transaction.start()
    await insert(slow, 1)
    for number in (2, 3):
        await insert(rows.writer, number)
        assert keys(await one.poll()) == [str(number)]
    await transaction.commit()
    assert keys(await one.poll()) == ["1"]


async def test_a_session_that_was_lost_goes_on_where_it_was(rows: RowTriggers) -> None:
    one = reader()
    first = await rows.database.connect()
    await one.open(first)
    await insert(rows.writer, 1)
    await one.poll()
    await first.close()
    await insert(rows.writer, 2)
    opened = await one.open(await rows.database.connect())
    assert opened is not None
    assert opened.floor is None
    assert keys(opened.rows) == ["2"]


async def test_the_statement_is_planned_once_in_a_session_and_not_for_each_poll(rows: RowTriggers) -> None:
    one = reader()
    connection = await open_session(rows.database.dsn, SourceOptions())
    rows.database.connections.append(connection)
    await one.open(connection)
    for number in range(7):
        await insert(rows.writer, number)
        assert len(await one.poll() or ()) == 1
    planned = "SELECT generic_plans FROM pg_prepared_statements WHERE statement LIKE '%journal%' AND name <> ''"
    assert await connection.fetchval(planned) >= 2


@pytest.mark.every_server
async def test_the_plan_that_was_made_of_an_empty_journal_is_good_for_a_full_one(rows: RowTriggers) -> None:
    await rows.writer.execute("VACUUM ANALYZE")
    one = reader()
    connection = await open_session(rows.database.dsn, SourceOptions())
    rows.database.connections.append(connection)
    await one.open(connection)
    for _ in range(7):
        await one.poll()
    await rows.writer.execute(
        "INSERT INTO pgcachewatch.journal (xid, shape, rel, op) "
        "SELECT pg_current_xact_id(), 1, 1, 'u' FROM generate_series(1, 50000)"
    )
    name = await connection.fetchval("SELECT name FROM pg_prepared_statements WHERE name LIKE 'journal%'")
    high = 2**62
    lines = await connection.fetch(f"EXPLAIN (ANALYZE, COSTS OFF) EXECUTE {name} ('{high}', ARRAY['{high}'])")
    text = "\n".join([line[0] for line in lines])

    assert text.count("Index Scan using journal_xid") == 2, text
    assert "Rows Removed by Filter" not in text
    assert "JIT" not in text


async def test_another_reader_begins_with_the_past_and_higher_sequences(rows: RowTriggers) -> None:
    for number in range(5):
        await insert(rows.writer, number)
    one, other = reader(), reader(history_rows=3)
    opened = await one.open(await rows.database.connect())
    again = await other.open(await rows.database.connect())
    assert opened is not None
    assert again is not None
    assert opened.floor is not None
    assert again.floor is not None
    assert keys(opened.rows) == ["0", "1", "2", "3", "4"]
    assert keys(again.rows) == ["2", "3", "4"]
    assert opened.floor.xid == 0
    assert again.floor.xid == int(json.loads(again.rows[0].payload)["xid"]), "of that one there may be more"
    assert opened.epoch == again.epoch
    assert opened.first_seq < again.first_seq


@pytest.mark.parametrize("statement", ["DELETE FROM pgcachewatch.journal", "TRUNCATE pgcachewatch.journal"])
async def test_rows_that_are_taken_away_unread_end_continuity(rows: RowTriggers, statement: str) -> None:
    one, connection = reader(), await rows.database.connect()
    before = await one.open(connection)
    assert before is not None
    await insert(rows.writer, 1)
    await rows.writer.execute(statement)
    assert await one.poll() is None
    await insert(rows.writer, 2)
    opened = await one.open(connection)
    assert opened is not None
    assert opened.floor is not None
    assert opened.first_seq > before.first_seq
    assert keys(opened.rows) == ["2"]


async def test_a_session_that_ends_while_another_journal_is_begun_does_not_go_on_in_the_old_one(
    rows: RowTriggers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id of a dump's epoch is its original's, so that it is not what tells the two apart."""
    one, connection = reader(), await rows.database.connect()
    await one.open(connection)
    await insert(rows.writer, 1)
    await rows.writer.execute("ALTER TABLE pgcachewatch.epoch RENAME TO other")
    await rows.writer.execute("CREATE TABLE pgcachewatch.epoch (LIKE pgcachewatch.other INCLUDING ALL)")
    await rows.writer.execute("INSERT INTO pgcachewatch.epoch SELECT * FROM pgcachewatch.other")
    with monkeypatch.context() as patch:
        patch.setattr("pgcachewatch_daemon.sql.journal.starts_sql", lambda: "SELECT 1 / 0")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await one.open(connection)

    opened = await one.open(connection)

    assert opened is not None
    assert opened.floor is not None


async def test_it_takes_the_lock_while_rows_come_and_sleeps_when_none_do(rows: RowTriggers) -> None:
    one = JournalReader(WakeOptions(linger_s=0.05, burst=0), 100, asyncio.get_running_loop().time)
    await one.open(await rows.database.connect())
    await insert(rows.writer, 1)
    await one.poll()
    await one.act()
    assert not await rows.writer.fetchval(is_free_sql())
    async with asyncio.timeout(30):
        while one.stats.state != "asleep":
            await one.poll()
            await one.act()
            await asyncio.sleep(0.005)  # the pace of polling
    assert await rows.writer.fetchval(is_free_sql())
    one.woken()
    assert one.stats.wakes == 1
    await insert(rows.writer, 2)
    assert keys(await one.poll()) == ["2"]


async def test_a_table_whose_triggers_notify_nobody_is_polled_for_ever(rows: RowTriggers) -> None:
    one = JournalReader(WakeOptions(linger_s=0.0), 100, asyncio.get_running_loop().time)
    await one.open(await rows.database.connect())
    await rows.install("t", wake="none")
    await one.look_at_writers()
    for _ in range(50):
        await one.poll()
        await one.act()
        assert one.stats.state == "awake"


async def test_a_session_that_is_far_behind_begins_anew_and_says_so(
    rows: RowTriggers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "BEHIND_ROWS", 3)
    one = reader(history_rows=2)
    before = await one.open(await rows.database.connect())
    assert before is not None
    for number in range(3):
        await insert(rows.writer, number)
    opened = await one.open(await rows.database.connect())
    assert opened is not None
    assert (opened.floor, keys(opened.rows)) == (None, ["0", "1", "2"])
    for number in range(3, 7):
        await insert(rows.writer, number)
    anew = await one.open(await rows.database.connect())
    assert anew is not None
    assert anew.floor is not None
    assert keys(anew.rows) == ["5", "6"]
    assert anew.first_seq > before.first_seq
    assert one.stats.resets == 1
