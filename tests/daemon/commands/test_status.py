"""`status` names every table, and each write that raises no event."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from pgcachewatch import queries
from pgcachewatch_daemon.commands.install import install
from pgcachewatch_daemon.commands.status import JournalLine, Line, render, render_journal, status
from tests.postgres import Database
from tests.row_triggers import RowTriggers


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database)
    await rig.writer.execute("CREATE TABLE users (id int PRIMARY KEY, tenant_id int)")
    return rig


async def lines(rows: RowTriggers, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Line]]:
    capsys.readouterr()
    code = await asyncio.to_thread(status, ["--json", "--pg-dsn", rows.database.dsn])
    found = [Line(**{**one, "notes": tuple(one["notes"])}) for one in json.loads(capsys.readouterr().out)["tables"]]
    return code, {line.table: line for line in found}


async def test_every_table_is_named_with_what_its_writes_raise(
    rows: RowTriggers, capsys: pytest.CaptureFixture[str]
) -> None:
    await rows.writer.execute(
        "CREATE TABLE keyless (v int); CREATE TABLE loose (f float8 PRIMARY KEY); CREATE TABLE forgotten (id int);"
        "CREATE TABLE old (id int); CREATE TABLE twice (id int PRIMARY KEY);"
        "CREATE VIEW w AS SELECT 1; CREATE MATERIALIZED VIEW m AS SELECT 1;"
        "CREATE SCHEMA s2; CREATE TABLE s2.users (id int)"
    )
    await rows.writer.execute(queries.create_notify_function("ch", "fn_pgcachewatch_table_change_ch"))
    for table in ("old", "twice"):
        sql = queries.create_after_change_trigger(
            "tg_pgcachewatch_table_change", table, "fn_pgcachewatch_table_change_ch"
        )
        await rows.writer.execute(sql)
    await rows.install("users", columns=("tenant_id",))
    await rows.install("keyless", "loose", "twice")

    code, found = await lines(rows, capsys)

    assert code == 0
    assert {name: line.watched for name, line in found.items()} == {
        "public.users": "rows", "public.keyless": "table", "public.loose": "table", "public.forgotten": "no",
        "public.old": "original", "public.twice": "rows", "public.w": "no", "public.m": "no", "s2.users": "no",
    }  # fmt: skip
    notes = {name: "; ".join(line.notes) for name, line in found.items()}
    assert "carries tenant_id" in notes["public.users"]
    assert "no primary key" in notes["public.keyless"]
    assert "float8" in notes["public.loose"]
    assert "writes raise no event (pgcachewatch install public.forgotten --commit)" in notes["public.forgotten"]
    assert "two events" in notes["public.twice"]
    assert "REFRESH raises no event" in notes["public.m"]
    assert (found["public.users"].key, found["public.users"].version) == ("id", "1")


async def test_a_watched_table_that_may_lose_events_is_exit_code_1(
    rows: RowTriggers, capsys: pytest.CaptureFixture[str]
) -> None:
    await rows.writer.execute(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)"
    )
    await rows.install("users", "p")
    await rows.writer.execute(
        "ALTER TABLE users DISABLE TRIGGER zz_pgcachewatch_delete;"
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (9) TO (19)"
    )

    code, found = await lines(rows, capsys)

    assert code == 1
    assert found["public.users"].watched == "in part"
    assert "zz_pgcachewatch_delete is disabled" in found["public.users"].notes[0]
    assert "--repair" in found["public.users"].notes[0]
    assert found["public.p2"].watched == "no"
    assert found["public.p1"].watched == "rows"


async def test_writes_that_raise_no_event_by_the_way_they_are_made_are_named(
    rows: RowTriggers, capsys: pytest.CaptureFixture[str]
) -> None:
    await rows.writer.execute(
        "CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent);"
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)"
    )
    await rows.writer.execute(queries.create_notify_function("ch", "fn_pgcachewatch_table_change_ch"))
    await rows.writer.execute(
        queries.create_after_change_trigger("tg_pgcachewatch_x", "parent", "fn_pgcachewatch_table_change_ch")
    )
    role = f"installer_{rows.database.name}"
    await rows.writer.execute(
        f"CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {rows.database.name} TO {role};"
        f"GRANT TRIGGER ON users TO {role}"
    )
    try:
        await rows.writer.execute(f"SET ROLE {role}")
        await rows.install("users")
        await rows.writer.execute("RESET ROLE")
        await rows.install("p")
        _, found = await lines(rows, capsys)
    finally:
        await rows.writer.execute(f"RESET ROLE; DROP OWNED BY {role} CASCADE; DROP ROLE {role}")

    notes = {name: "; ".join(line.notes) for name, line in found.items()}
    assert "session_replication_role = replica raise no event" in notes["public.parent"]
    assert "partition or child by its own name" in notes["public.parent"]
    assert "writes raise no event" in notes["public.child"]
    assert notes["public.p1"] == "its rows are told as public.p"
    assert "session_replication_role = replica" in notes["public.users"]


async def test_an_original_trigger_that_is_disabled_watches_nothing(
    rows: RowTriggers, capsys: pytest.CaptureFixture[str]
) -> None:
    await rows.writer.execute(queries.create_notify_function("ch", "fn_pgcachewatch_table_change_ch"))
    await rows.writer.execute(
        queries.create_after_change_trigger("tg_pgcachewatch_x", "users", "fn_pgcachewatch_table_change_ch")
    )
    await rows.writer.execute("ALTER TABLE users DISABLE TRIGGER ALL")

    _, found = await lines(rows, capsys)

    assert found["public.users"].watched == "no"
    assert "writes raise no event" in found["public.users"].notes[0]
    assert found["public.users"].notes[1] == "the original's trigger on it is disabled"


async def test_a_watched_table_that_was_dropped_and_made_again_is_found_and_mended_as_it_was(
    rows: RowTriggers, capsys: pytest.CaptureFixture[str]
) -> None:
    await rows.writer.execute("CREATE TABLE other (id int PRIMARY KEY)")
    await rows.install("users", columns=("tenant_id",), max_keys=7)
    await rows.writer.execute("DROP TABLE users; CREATE TABLE users (id int PRIMARY KEY, tenant_id int)")
    await rows.install("other")

    code, found = await lines(rows, capsys)

    assert code == 1
    assert found["public.users"].watched == "no"
    assert "took the place of a watched table" in found["public.users"].notes[0]
    assert await asyncio.to_thread(install, ["--repair", "--commit", "--pg-dsn", rows.database.dsn]) == 0
    code, found = await lines(rows, capsys)
    assert (code, found["public.users"].watched) == (0, "rows")
    assert "carries tenant_id" in found["public.users"].notes


def test_the_table_for_people_is_aligned_and_ends_with_the_notes() -> None:
    text = render(
        [Line("public.users", "rows", "direct", "1", "id", ("a note", "another")), Line("t", "no", "", "", "", ())]
    )

    assert text.splitlines() == [
        "table         watched  mode    version  key  notes",
        "public.users  rows     direct  1        id   a note; another",
        "t             no",
    ]


def test_a_table_whose_name_would_steer_the_terminal_is_written_out() -> None:
    text = render([Line('public."a\x1b[2J\x9b2J\n"', "no", "", "", "", ("drop table a\x1b]0;x\x07",))])

    assert [line.isprintable() for line in text.splitlines()] == [True, True]


async def test_each_tables_mode_is_told_and_the_journal_behind_them(
    rows: RowTriggers, capsys: pytest.CaptureFixture[str]
) -> None:
    await rows.writer.execute("CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE bare (id int)")
    await rows.install("other")
    assert await asyncio.to_thread(status, ["--pg-dsn", rows.database.dsn]) == 0
    assert "journal" not in capsys.readouterr().out
    await rows.install("users", mode="journal", wake="none")
    await rows.writer.execute("INSERT INTO users VALUES (1, 1); DELETE FROM users")

    code, found = await lines(rows, capsys)

    assert code == 0
    assert {name: line.mode for name, line in found.items()} == {
        "public.users": "journal", "public.other": "direct", "public.bare": "",
    }  # fmt: skip
    assert found["public.users"].notes == ("the relay has to poll: nothing wakes it",)
    assert await asyncio.to_thread(status, ["--pg-dsn", rows.database.dsn]) == 0
    assert re.search(
        r"^journal: 0\.\d MB, at most 2 rows, the oldest of 20\S+\+00:00; none pruned$",
        capsys.readouterr().out,
        re.MULTILINE,
    )


async def test_a_journal_that_can_not_be_written_is_exit_code_1(
    rows: RowTriggers, capsys: pytest.CaptureFixture[str]
) -> None:
    await rows.install("users", mode="journal", is_fail_open=True)
    await rows.writer.execute("DROP TABLE pgcachewatch.journal")

    assert await asyncio.to_thread(status, ["--pg-dsn", rows.database.dsn]) == 1

    out, err = capsys.readouterr()
    assert "fails open" in out
    assert err == "there is no table pgcachewatch.journal: pgcachewatch install --repair --commit\n"


def test_a_journal_that_was_pruned_says_how_far() -> None:
    text = render_journal(JournalLine(12_345_678, 1_234, None, "987", 5_000))

    assert text == "journal: 12.3 MB, at most 1,234 rows; 5,000 pruned, up to transaction 987"
