"""A write whose event can not be kept fails, or is told as lost; and a table changes its mode under load."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.commands.database import DatabaseRefused, run_steps
from pgcachewatch_daemon.embedded import PostgresBinaries
from pgcachewatch_daemon.sql import coverage, entries, plan
from pgcachewatch_daemon.sql.drift import findings
from pgcachewatch_daemon.sql.entries import JOURNAL_CHANNEL
from pgcachewatch_daemon.sql.journal_tables import TABLES
from tests.integration.test_row_installation import copy_database, objects
from tests.postgres import Database
from tests.row_triggers import CHANNEL, RowTriggers

pytestmark = pytest.mark.every_server

# Whatever else may be wrong with a table: this one takes no row.
FULL = "ALTER TABLE pgcachewatch.journal ADD CONSTRAINT disk CHECK (false) NOT VALID"


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database, "journal")
    await rig.writer.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, 0)")
    return rig


async def resets(rows: RowTriggers) -> list[object]:
    """What is told as lost, from now on."""
    heard: list[object] = []
    await rows.writer.add_listener(JOURNAL_CHANNEL, lambda *notified: heard.append(notified[3]))
    return heard


async def test_functions_that_know_no_trace_go_on_until_they_are_repaired(
    rows: RowTriggers, monkeypatch: pytest.MonkeyPatch
) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traced = f"BEGIN; SET LOCAL pgcachewatch.traceparent = '{traceparent}'; UPDATE t SET v = v + 1 WHERE id = 1; COMMIT"
    with monkeypatch.context() as before:
        before.setattr(entries, "_NOTE", "reason")  # as releases before had it
        await rows.install("t")

    assert await rows.told(traced) == [("update", "t", {"1"})]
    found = findings(await rows.catalogue())
    assert {one.kind for one in found} == {"old_version"}
    assert not any(one.may_lose_events for one in found), "no cache is flushed for it"

    repair = plan.repair_plan(await rows.catalogue(), default_channel=CHANNEL)
    assert {sql.split()[0] for step in repair for sql in step.statements} == {"CREATE", "REVOKE", "COMMENT"}
    assert not any(" TABLE " in sql.split("(")[0] for step in repair for sql in step.statements), "nobody waits for it"
    await run_steps(rows.writer, repair, is_single=False)
    assert findings(await rows.catalogue()) == []
    assert [json.loads(payload)["traceparent"] for payload in await rows.payloads(traced)] == [traceparent]


@pytest.mark.parametrize(
    "damage", ["DROP TABLE pgcachewatch.journal", "REVOKE ALL ON pgcachewatch.journal FROM {owner}"]
)
async def test_a_write_that_can_not_be_recorded_fails_with_the_remedy(rows: RowTriggers, damage: str) -> None:
    owner = f"owner_{rows.database.name}"
    await rows.writer.execute(f"CREATE ROLE {owner} NOLOGIN")
    catalogue = await rows.catalogue()
    settings = coverage.Settings(mode="journal")
    tables = plan.choose_tables(catalogue, ["t"]).tables
    steps = plan.install_plan(catalogue, tables, settings, default_channel=CHANNEL, owner=owner)
    try:
        await run_steps(rows.writer, steps, is_single=False)
        assert await rows.told("UPDATE t SET v = 1 WHERE id = 1") == [("update", "t", {"1"})]
        await rows.writer.execute(damage.format(owner=owner))

        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError) as failed:
            await rows.writer.execute("UPDATE t SET v = 2 WHERE id = 1")

        assert "can not record this write to public.t" in str(failed.value)
        assert "install --repair --commit" in str(failed.value.hint)
        assert await rows.writer.fetchval("SELECT v FROM t WHERE id = 1") == 1
        assert await rows.writer.execute("UPDATE t SET v = 2 WHERE false") == "UPDATE 0"  # nothing to record
        assert {one.kind for one in findings(await rows.catalogue())} == {"journal_broken"}
        repair = plan.repair_plan(await rows.catalogue(), default_channel=CHANNEL, owner=owner)
        await run_steps(rows.writer, repair, is_single=False)
        assert await rows.told("UPDATE t SET v = 3 WHERE id = 1") == [("update", "t", {"1"})]
    finally:
        await rows.uninstall()
        await rows.writer.execute(f"DROP ROLE {owner}")


async def test_a_journal_that_takes_no_row_fails_the_write_with_what_postgresql_says(rows: RowTriggers) -> None:
    await rows.install("t")
    await rows.writer.execute(FULL)

    with pytest.raises(asyncpg.CheckViolationError) as failed:
        await rows.writer.execute("UPDATE t SET v = 2 WHERE id = 1")

    assert "pgcachewatch.t_" in str(failed.value.context)
    assert await rows.writer.fetchval("SELECT v FROM t WHERE id = 1") == 0


@pytest.mark.parametrize(("damage", "state"), [(FULL, "23514"), ("DROP TABLE pgcachewatch.journal CASCADE", "42P01")])
async def test_a_function_that_fails_open_lets_the_write_pass_and_tells_what_is_lost(
    rows: RowTriggers, damage: str, state: str
) -> None:
    await rows.install("t", is_fail_open=True)
    assert await rows.told("UPDATE t SET v = 1 WHERE id = 1") == [("update", "t", {"1"})]
    heard = await resets(rows)
    await rows.writer.execute(damage)
    await rows.writer.execute("DELETE FROM t WHERE id = 1")
    await rows.writer.execute("SELECT 1")

    (reset,) = [str(each).removeprefix("reset ") for each in heard if str(each).startswith("reset ")]

    content = json.loads(reset)
    assert content.pop("xid").isdigit()
    assert content.pop("shape") > 0
    assert content == {"rel": await rows.writer.fetchval("SELECT 't'::regclass::oid::int8"), "error": state}
    assert await rows.writer.fetchval("SELECT count(*) FROM t") == 1


async def test_a_lost_row_of_a_table_with_relatives_concerns_tables_that_are_not_named(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE TABLE child () INHERITS (t)")
    await rows.install("t", is_fail_open=True)
    heard = await resets(rows)
    await rows.writer.execute(FULL)
    await rows.writer.execute("INSERT INTO child VALUES (5, 5)")
    await rows.writer.execute("SELECT 1")

    (content,) = [json.loads(str(each).removeprefix("reset ")) for each in heard if str(each)]

    assert (content["rel"], content["error"]) == (None, "23514")


@pytest.mark.parametrize(("is_fail_open", "ids"), [(False, 1), (True, 6)])
async def test_a_row_takes_no_transaction_id_of_its_own_unless_the_function_fails_open(
    rows: RowTriggers, is_fail_open: bool, ids: int
) -> None:
    await rows.install("t", is_fail_open=is_fail_open)
    statements = "UPDATE t SET v = 1 WHERE id = 1;" * 5

    # Whoever else uses the server may draw some in between: the fewest of several are these statements' own.
    taken = []
    for _ in range(20):
        before = await rows.writer.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8")
        await rows.writer.execute(f"BEGIN; {statements} COMMIT")
        taken.append(await rows.writer.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8") - before)

    assert min(taken) == ids


async def test_options_that_do_not_go_together_are_refused_also_with_what_was_installed(rows: RowTriggers) -> None:
    with pytest.raises(ConfigurationError, match="choose one"):
        await rows.install("t", wake="none", is_fail_open=True)
    await rows.install("t", wake="none")
    with pytest.raises(ConfigurationError, match="choose one"):
        await rows.install("t", is_fail_open=True)
    with pytest.raises(ConfigurationError, match="need --mode journal"):
        await rows.install("t", mode="direct", wake="none")


async def test_settings_that_are_not_given_stay(rows: RowTriggers) -> None:
    await rows.install("t", wake="none")

    assert await rows.install("t", mode=None) == []
    assert await rows.install("t") == []

    said = [one.settings for one in (await rows.catalogue()).functions.values() if "wake" in one.settings]
    assert {(each["mode"], each["wake"], each["is_fail_open"]) for each in said} == {("journal", "none", False)}


async def test_a_table_changes_its_mode_without_a_lock_on_it_and_loses_nothing(rows: RowTriggers) -> None:
    await rows.install("t", mode="direct")
    writer = await rows.database.connect()
    async with writer.transaction():
        await writer.execute("UPDATE t SET v = 1 WHERE id = 1")  # holds the table against whoever would make a trigger
        steps = await rows.install("t", mode="journal")
        await writer.execute("UPDATE t SET v = 1 WHERE id = 2")

    assert not [sql for step in steps for sql in step.statements if "TRIGGER" in sql and '"t"' in sql]
    assert await rows.since() == [("update", "t", {"1"}), ("update", "t", {"2"})]
    await rows.install("t", mode="direct")
    before = len(await rows.rows())
    assert await rows.told("UPDATE t SET v = 2 WHERE id = 1") == [("update", "t", {"1"})]
    assert (before, await rows.rows()) == (0, [])
    assert findings(await rows.catalogue()) == []


async def test_tables_of_both_modes_stand_side_by_side(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE TABLE u (id int PRIMARY KEY)")
    await rows.install("t")
    await rows.install("u", mode="direct")

    assert await rows.told("INSERT INTO u VALUES (1)", "DELETE FROM t WHERE id = 1") == [
        ("insert", "u", {"1"}),
        ("delete", "t", {"1"}),
    ]


async def test_the_journal_stays_for_its_positions_until_the_last_table_goes(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE TABLE u (id int PRIMARY KEY)")
    await rows.install("t")
    await rows.install("u", mode="direct")
    catalogue = await rows.catalogue()
    (t,) = plan.choose_tables(catalogue, ["t"]).tables

    await run_steps(rows.writer, plan.uninstall_plan(catalogue, [t], None), is_single=False)
    assert (await rows.catalogue()).journal.tables == set(TABLES)
    await rows.uninstall()

    assert await objects(rows.writer) == (0, 0, 0)
    assert await rows.payloads("UPDATE t SET v = 1") == []


async def test_uninstalling_spares_what_somebody_else_built_upon_the_journal(rows: RowTriggers) -> None:
    await rows.install("t")
    await rows.writer.execute("CREATE VIEW v AS SELECT * FROM pgcachewatch.journal")

    with pytest.raises(DatabaseRefused, match="depend"):
        await rows.uninstall()

    assert await rows.writer.fetchval("SELECT count(*) FROM v") == 0


async def test_a_renamed_table_is_no_fault_and_installing_again_writes_its_new_name_down(rows: RowTriggers) -> None:
    await rows.install("t")
    await rows.writer.execute("ALTER TABLE t RENAME TO renamed")

    assert findings(await rows.catalogue()) == []
    assert await rows.told("UPDATE renamed SET v = 1 WHERE id = 1") == [("update", "renamed", {"1"})]
    await rows.install("renamed")
    await rows.writer.execute("UPDATE renamed SET v = 1 WHERE id = 2")
    await rows.writer.execute("DROP TABLE renamed")

    assert await rows.since() == [("update", "renamed", {"2"})]


async def test_a_shape_that_was_deleted_is_found_and_written_again(rows: RowTriggers) -> None:
    await rows.install("t")
    await rows.writer.execute("ALTER TABLE pgcachewatch.shapes DISABLE TRIGGER ALL; DELETE FROM pgcachewatch.shapes")

    assert {one.kind for one in findings(await rows.catalogue())} == {"journal_broken"}
    await rows.install("t")

    assert findings(await rows.catalogue()) == []
    assert await rows.told("UPDATE t SET v = 1 WHERE id = 1") == [("update", "t", {"1"})]


@pytest.mark.parametrize("by", ["DELETE FROM {0}", "UPDATE {0} SET key = '{{}}'", "TRUNCATE {0}"])
async def test_shapes_are_not_taken_away_by_hand(rows: RowTriggers, by: str) -> None:
    await rows.install("t")

    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="explain those of the journal"):
        await rows.writer.execute(by.format("pgcachewatch.shapes"))


async def test_two_who_install_at_once_make_one_journal(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE TABLE u (id int PRIMARY KEY)")
    first, second = [await rows.database.connect() for _ in range(2)]
    catalogue = await rows.catalogue()
    settings = coverage.Settings(mode="journal")
    plans = [
        plan.install_plan(catalogue, plan.choose_tables(catalogue, [name]).tables, settings, default_channel=CHANNEL)
        for name in ("t", "u")
    ]
    # Both were planned before either has begun; the second one finds the schema made.
    steps = [plan.Step(step.title, tuple(one for one in step.statements if "SCHEMA" not in one)) for step in plans[1]]
    await run_steps(first, plans[0][:1], is_single=False)

    await asyncio.gather(run_steps(first, plans[0][1:], is_single=False), run_steps(second, steps, is_single=False))

    assert findings(await rows.catalogue()) == []
    assert sorted(await rows.told("UPDATE t SET v = 1 WHERE id = 1", "INSERT INTO u VALUES (1)")) == [
        ("insert", "u", {"1"}),
        ("update", "t", {"1"}),
    ]


async def test_a_restored_dump_writes_a_journal_of_its_own_and_is_mended(
    rows: RowTriggers, postgres_binaries: PostgresBinaries
) -> None:
    await rows.install("t")
    await rows.writer.execute("UPDATE t SET v = 1 WHERE id = 1")
    name = f"{rows.database.name[:50]}_restored"
    await rows.writer.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    copy = Database(dsn=rows.database.dsn.replace(rows.database.name, name), name=name)
    try:
        await asyncio.to_thread(copy_database, postgres_binaries, rows.database.dsn, copy.dsn)
        restored = await RowTriggers.open(copy, "journal")

        assert await restored.told("UPDATE t SET v = 1 WHERE id = 1") == [("update", "t", {"1"})]
        assert {one.kind for one in findings(await restored.catalogue())} <= {"restored"}
        await restored.install("t")

        assert findings(await restored.catalogue()) == []
        assert await restored.told("DELETE FROM t WHERE id = 1") == [("delete", "t", {"1"})]
        assert await rows.since() == [("update", "t", {"1"})]
    finally:
        await copy.close()
        await rows.writer.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_serializable_transactions_do_not_conflict_by_the_journal(rows: RowTriggers) -> None:
    await rows.install("t")
    other = await rows.database.connect()
    async with rows.writer.transaction(isolation="serializable"), other.transaction(isolation="serializable"):
        await rows.writer.execute("UPDATE t SET v = 1 WHERE id = 1")
        await other.execute("UPDATE t SET v = 1 WHERE id = 2")
        await rows.writer.execute("INSERT INTO t VALUES (3, 0)")

    assert await rows.since() == [("update", "t", {"1"}), ("update", "t", {"2"}), ("insert", "t", {"3"})]


async def test_a_relays_role_that_does_not_exist_changes_nothing(rows: RowTriggers) -> None:
    catalogue = await rows.catalogue()
    tables = plan.choose_tables(catalogue, ["t"]).tables
    settings = coverage.Settings(mode="journal")
    steps = plan.install_plan(catalogue, tables, settings, default_channel=CHANNEL, relay_role="nobody here")

    with pytest.raises(DatabaseRefused, match=r'role "nobody here" does not exist; nothing was changed'):
        await run_steps(rows.writer, steps, is_single=False)

    assert await objects(rows.writer) == (0, 0, 0)
