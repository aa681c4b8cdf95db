"""What an installation leaves in the database: what is needed, few rights, no lock held long, and a way back."""

from __future__ import annotations

import asyncio
import re
import subprocess
from typing import Any

import asyncpg
import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.commands.database import DatabaseRefused, run_steps
from pgcachewatch_daemon.embedded import PostgresBinaries
from pgcachewatch_daemon.io.catalogue import fetch_catalogue
from pgcachewatch_daemon.sql import coverage, plan
from pgcachewatch_daemon.sql.capture import MODES, Mode
from pgcachewatch_daemon.sql.drift import findings
from tests.postgres import Database
from tests.row_triggers import CHANNEL, RowTriggers
from tests.waiting import eventually

pytestmark = pytest.mark.every_server


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database)
    await rig.writer.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, 0)")
    return rig


async def objects(connection: asyncpg.Connection) -> tuple[int, int, int]:
    """Triggers, functions and schemas that are ours."""
    row = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%pgcachewatch%'),"
        "(SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = 'pgcachewatch'),"
        "(SELECT count(*) FROM pg_namespace WHERE nspname = 'pgcachewatch')"
    )
    assert row is not None
    return row[0], row[1], row[2]


async def test_installing_twice_changes_nothing_the_second_time(rows: RowTriggers) -> None:
    assert [step.title for step in await rows.install("t")] == ["what all tables share", "public.t"]

    assert await rows.install("t") == []
    assert findings(await rows.catalogue()) == []


async def test_uninstalling_leaves_nothing(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE gone (id int)")
    await rows.install("*")
    await rows.writer.execute("DROP TABLE gone")
    assert await objects(rows.writer) == (8, 14, 1)

    await rows.uninstall()

    assert await objects(rows.writer) == (0, 0, 0)
    assert await rows.payloads("UPDATE t SET v = 1") == []


async def test_uninstalling_spares_what_somebody_else_put_into_the_schema(rows: RowTriggers) -> None:
    await rows.install("t")
    await rows.writer.execute("CREATE TABLE pgcachewatch.theirs (id int)")

    with pytest.raises(DatabaseRefused, match="depend"):
        await rows.uninstall()

    assert await rows.writer.fetchval("SELECT to_regclass('pgcachewatch.theirs') IS NOT NULL")


async def test_settings_that_are_not_given_stay_and_those_that_are_replace(rows: RowTriggers) -> None:
    await rows.install("t", columns=("v",), max_keys=7)

    assert await rows.install("t") == []
    await rows.install("t", columns=())

    assert await rows.told("UPDATE t SET v = 3 WHERE id = 1") == [("update", "t", {"1"})]
    capture = next(f.settings for f in (await rows.catalogue()).functions.values() if "max_keys" in f.settings)
    assert (capture["max_keys"], capture["columns"]) == (7, [])


async def test_an_older_version_is_found_and_upgraded_without_locking_the_table(rows: RowTriggers) -> None:
    await rows.install("t")
    name = await function_for(rows.writer, "t")
    await rows.writer.execute(f'COMMENT ON FUNCTION pgcachewatch.{name} IS \'{{"v":0,"channel":"{CHANNEL}"}}\'')
    assert {one.kind for one in findings(await rows.catalogue())} == {"old_version"}
    reader = await rows.database.connect()
    async with reader.transaction():
        await reader.execute("UPDATE t SET v = 9")  # holds the table against whoever would make a trigger

        steps = await rows.install("t")

    assert not [sql for step in steps for sql in step.statements if "TRIGGER" in sql]
    assert findings(await rows.catalogue()) == []


async def test_a_changed_key_is_found_and_mended(rows: RowTriggers) -> None:
    await rows.install("t")
    await rows.writer.execute("ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (v, id)")

    assert {one.kind for one in findings(await rows.catalogue())} == {"key_changed"}
    await rows.install("t")

    assert await rows.told("INSERT INTO t VALUES (5, 6)") == [("insert", "t", {'["6","5"]'})]


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ("ALTER TABLE t DISABLE TRIGGER zz_pgcachewatch_update", "trigger_disabled"),
        ("ALTER TABLE t DISABLE TRIGGER ALL", "trigger_disabled"),
        ("ALTER TABLE t ENABLE TRIGGER zz_pgcachewatch_update", "not_always"),
        ("ALTER TABLE t ENABLE REPLICA TRIGGER zz_pgcachewatch_update", "trigger_disabled"),
        ("DROP TRIGGER zz_pgcachewatch_truncate ON t", "trigger_missing"),
        ("DROP FUNCTION pgcachewatch.send", "old_version"),
    ],
)
async def test_damage_is_found_and_mended(rows: RowTriggers, damage: str, kind: str) -> None:
    await rows.install("t")
    await rows.writer.execute(damage)

    assert {one.kind for one in findings(await rows.catalogue())} == {kind}
    await rows.install("t")
    assert findings(await rows.catalogue()) == []
    assert await rows.told("UPDATE t SET v = 1 WHERE id = 1") == [("update", "t", {"1"})]


async def test_functions_of_a_table_that_is_gone_are_found_and_removed(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE TABLE u (id int)")
    await rows.install("t", "u")
    await rows.writer.execute("DROP TABLE u")

    assert {one.kind for one in findings(await rows.catalogue())} == {"orphaned"}
    await rows.install("t")
    assert findings(await rows.catalogue()) == []
    assert await objects(rows.writer) == (4, 6, 1)


async def test_all_triggers_dropped_is_found_as_not_covered(rows: RowTriggers) -> None:
    await rows.install("t")
    for name in ("insert", "update", "delete", "truncate"):
        await rows.writer.execute(f"DROP TRIGGER zz_pgcachewatch_{name} ON t")

    assert [(one.kind, one.table) for one in findings(await rows.catalogue())] == [("not_covered", "public.t")]


async def test_a_restored_dump_tells_rightly_is_found_and_is_mended_by_installing_again(
    rows: RowTriggers, postgres_binaries: PostgresBinaries
) -> None:
    await rows.writer.execute("CREATE TABLE u (k text PRIMARY KEY)")
    await rows.install("t", "u")
    name = f"{rows.database.name[:50]}_restored"
    await rows.writer.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    copy = Database(dsn=rows.database.dsn.replace(rows.database.name, name), name=name)
    try:
        await asyncio.to_thread(copy_database, postgres_binaries, rows.database.dsn, copy.dsn)
        restored = await RowTriggers.open(copy)
        # One of the copied functions has the name that a function of another table is to have.
        wanted = await function_for(restored.writer, "u")
        if wanted not in (await restored.catalogue()).functions:
            taken = await function_for(rows.writer, "t")
            await restored.writer.execute(f"ALTER FUNCTION pgcachewatch.{taken}() RENAME TO {wanted}")

        assert await restored.told("UPDATE t SET v = 1 WHERE id = 1") == [("update", "t", {"1"})]
        assert {one.kind for one in findings(await restored.catalogue())} == {"restored"}
        await restored.install("u")

        assert findings(await restored.catalogue()) == []
        assert await restored.told("INSERT INTO u VALUES ('x')", "DELETE FROM t WHERE id = 1") == [
            ("insert", "u", {"x"}),
            ("delete", "t", {"1"}),
        ]
        assert await objects(restored.writer) == (8, 10, 1)
    finally:
        await copy.close()
        await rows.writer.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def function_for(connection: asyncpg.Connection, table: str) -> str:
    oid = await connection.fetchval("SELECT $1::text::regclass::oid::int8", table)
    return f"t_{oid}_update"


def copy_database(binaries: PostgresBinaries, source: str, target: str) -> None:
    dump = subprocess.run([binaries.bindir / "pg_dump", source], capture_output=True, check=True)
    subprocess.run(
        [binaries.bindir / "psql", "-q", "-v", "ON_ERROR_STOP=1", target],
        input=dump.stdout,
        capture_output=True,
        check=True,
    )


async def test_the_least_privilege_that_installs_is_enough_and_uninstalls_without_owning_a_table(
    rows: RowTriggers,
) -> None:
    role = f"installer_{rows.database.name}"
    await rows.writer.execute(
        f"CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {rows.database.name} TO {role};"
        f"GRANT TRIGGER ON t TO {role}"
    )
    installer = await rows.database.connect()
    await installer.execute(f"SET SESSION AUTHORIZATION {role}")
    try:
        await rows.install("t", connection=installer)
        assert await rows.told("UPDATE t SET v = 1 WHERE id = 1") == [("update", "t", {"1"})]
        assert findings(await fetch_catalogue(installer)) == []
        # Whoever owns the table sees what this role could not give it.
        assert {one.kind for one in findings(await rows.catalogue())} == {"not_always"}

        await rows.uninstall(connection=installer)

        assert await objects(rows.writer) == (0, 0, 0)
    finally:
        await installer.close()
        await rows.writer.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_functions_are_definers_with_a_fixed_path_and_nobody_elses(rows: RowTriggers) -> None:
    await rows.install("t")

    found = await rows.writer.fetch(
        "SELECT proname, prosecdef, proconfig, proacl::text, obj_description(p.oid, 'pg_proc') AS comment "
        "FROM pg_proc p WHERE pronamespace = 'pgcachewatch'::regnamespace"
    )

    assert len(found) == 6
    for each in found:
        assert each["prosecdef"], each
        assert each["proconfig"] == ["search_path=pg_catalog, pg_temp"], each
        assert each["proacl"] is not None, each
        assert not re.search("[{,]=", each["proacl"]), each
        assert '"v": 1' in each["comment"], each
    assert await rows.writer.fetchval("SELECT nspacl IS NULL FROM pg_namespace WHERE nspname = 'pgcachewatch'")


async def test_functions_can_belong_to_a_role_that_can_not_log_in(rows: RowTriggers) -> None:
    role = f"owner_{rows.database.name}"
    await rows.writer.execute(f"CREATE ROLE {role} NOLOGIN")
    catalogue = await rows.catalogue()
    tables = plan.choose_tables(catalogue, ["t"]).tables
    steps = plan.install_plan(catalogue, tables, coverage.Settings(), default_channel=CHANNEL, owner=role)
    try:
        await run_steps(rows.writer, steps, is_single=True)

        owners = await rows.writer.fetch(
            "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'pgcachewatch'::regnamespace "
            "UNION SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'pgcachewatch'"
        )
        assert [each[0] for each in owners] == [role]
        assert await rows.told("UPDATE t SET v = 1 WHERE id = 1") == [("update", "t", {"1"})]
        payloads = await rows.payloads("INSERT INTO t SELECT i, 0 FROM generate_series(100001, 102000) i")
        assert len(payloads) == 3
    finally:
        await rows.uninstall()
        await rows.writer.execute(f"DROP ROLE {role}")


async def test_a_locked_table_is_tried_again_until_it_is_free(rows: RowTriggers) -> None:
    catalogue = await rows.catalogue()
    steps = plan.install_plan(
        catalogue, plan.choose_tables(catalogue, ["t"]).tables, coverage.Settings(), default_channel=CHANNEL
    )
    holder = await rows.database.connect()
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("LOCK TABLE t IN ROW EXCLUSIVE MODE")
    waits: list[float] = []

    async def pause(seconds: float) -> None:
        waits.append(seconds)
        await transaction.rollback()

    await run_steps(rows.writer, steps, is_single=False, lock_timeout_s=0.05, pause=pause)

    assert len(waits) == 1
    assert findings(await rows.catalogue()) == []


async def test_a_table_that_stays_locked_is_named_and_the_others_are_done(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE TABLE a (id int PRIMARY KEY)")
    catalogue = await rows.catalogue()
    steps = plan.install_plan(
        catalogue, plan.choose_tables(catalogue, ["a", "t"]).tables, coverage.Settings(), default_channel=CHANNEL
    )
    holder = await rows.database.connect()

    async def pause(seconds: float) -> None:
        pass

    async with holder.transaction():
        await holder.execute("LOCK TABLE t IN ROW EXCLUSIVE MODE")
        with pytest.raises(DatabaseRefused, match=r"public\.t stayed locked.*before it are done"):
            await run_steps(rows.writer, steps, is_single=False, lock_timeout_s=0.01, pause=pause)

    assert [one.table for one in findings(await rows.catalogue())] == []
    assert await rows.told("INSERT INTO a VALUES (1)", "UPDATE t SET v = 1") == [("insert", "a", {"1"})]


async def test_what_can_not_be_watched_is_refused_by_name_and_skipped_by_pattern(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE VIEW w AS SELECT 1; CREATE MATERIALIZED VIEW m AS SELECT 1")
    catalogue = await rows.catalogue()

    for name in ("w", "m"):
        with pytest.raises(ConfigurationError, match="watch"):
            plan.choose_tables(catalogue, [name])
    choice = plan.choose_tables(catalogue, ["public.*"])
    assert [one.name for one in choice.tables] == ["t"]
    assert {one.name for one, _ in choice.skipped} == {"w", "m"}
    with pytest.raises(ConfigurationError, match=r"did you mean public\.t"):
        plan.choose_tables(catalogue, ["public.T"])


@pytest.mark.parametrize("mode", MODES)
async def test_rows_that_a_subscription_applies_are_told(rows: RowTriggers, postgres_binaries: Any, mode: Mode) -> None:
    """Publisher and subscriber are two databases of one server, so the slot is made by hand."""
    name = f"{rows.database.name[:50]}_sub"
    slot = f"slot_{rows.database.name}"
    await rows.writer.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    copy = Database(dsn=rows.database.dsn.replace(rows.database.name, name), name=name)
    try:
        await rows.writer.execute("ALTER TABLE t REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR TABLE t")
        await rows.writer.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
        subscriber = await RowTriggers.open(copy, mode)
        await subscriber.writer.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, 0)"
        )
        await subscriber.writer.execute(
            f"CREATE SUBSCRIPTION s CONNECTION '{rows.database.dsn}' PUBLICATION p "
            f"WITH (create_slot = false, slot_name = '{slot}', copy_data = false)"
        )
        await subscriber.install("t")
        assert findings(await subscriber.catalogue()) == []
        await subscriber.heard()

        await rows.writer.execute("UPDATE t SET v = 5")
        await rows.writer.execute("UPDATE t SET id = 20 WHERE id = 2")
        await rows.writer.execute("TRUNCATE t")

        heard: list[object] = []

        async def has_all() -> bool:
            heard.extend(await subscriber.since())
            return len(heard) >= 4

        await eventually(has_all)
        assert heard == [
            ("update", "t", {"1"}),
            ("update", "t", {"2"}),
            ("update", "t", {"2", "20"}),
            ("truncate", "t", None),
        ]
        # A local write is told once, not by both kinds of triggers.
        assert await subscriber.told("INSERT INTO t VALUES (7, 7)") == [("insert", "t", {"7"})]
        assert await subscriber.told("SET session_replication_role = replica", "DELETE FROM t WHERE id = 7") == [
            ("delete", "t", {"7"})
        ]
        await subscriber.writer.execute("RESET session_replication_role; ALTER SUBSCRIPTION s DISABLE")
        await subscriber.writer.execute("ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s")
    finally:
        await copy.close()
        await rows.writer.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await eventually(lambda: drops_slot(rows.writer, slot))


async def drops_slot(connection: asyncpg.Connection, slot: str) -> bool:
    try:
        await connection.execute(f"SELECT pg_drop_replication_slot('{slot}')")
    except asyncpg.ObjectInUseError:
        return False
    return True
