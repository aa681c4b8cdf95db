"""Every kind of write tells the keys of the rows that it changed, on every version of PostgreSQL."""

from __future__ import annotations

import datetime
import json

import asyncpg
import pytest

from pgcachewatch_daemon.sql.capture import MODES, Mode
from tests.postgres import Database
from tests.row_triggers import RowTriggers

pytestmark = pytest.mark.every_server

MERGE_SINCE = 15
MAX_KEYS = 5_000


async def prepared(database: Database, mode: Mode) -> RowTriggers:
    rig = await RowTriggers.open(database, mode)
    await rig.writer.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    await rig.writer.execute("INSERT INTO t SELECT i, 0 FROM generate_series(1, 9) i")
    return rig


@pytest.fixture(params=MODES)
async def rows(request: pytest.FixtureRequest, database: Database) -> RowTriggers:
    return await prepared(database, request.param)


@pytest.fixture
async def notifying(database: Database) -> RowTriggers:
    """For what is true of notifications only."""
    return await prepared(database, "direct")


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("INSERT INTO t VALUES (10, 0), (11, 0)", [("insert", "t", {"10", "11"})]),
        ("UPDATE t SET v = 1 WHERE id <= 3", [("update", "t", {"1", "2", "3"})]),
        ("UPDATE t SET id = id + 100 WHERE id <= 2", [("update", "t", {"1", "2", "101", "102"})]),
        ("DELETE FROM t WHERE id > 7", [("delete", "t", {"8", "9"})]),
        ("TRUNCATE t", [("truncate", "t", None)]),
        ("INSERT INTO t VALUES (1, 5), (12, 5) ON CONFLICT (id) DO UPDATE SET v = 5",
         [("insert", "t", {"12"}), ("update", "t", {"1"})]),
        ("INSERT INTO t VALUES (1, 5), (12, 5) ON CONFLICT DO NOTHING", [("insert", "t", {"12"})]),
        ("WITH gone AS (DELETE FROM t WHERE id = 1 RETURNING id), more AS (INSERT INTO t VALUES (20, 0)) "
         "UPDATE t SET v = 2 WHERE id = 3",
         [("delete", "t", {"1"}), ("insert", "t", {"20"}), ("update", "t", {"3"})]),
        ("UPDATE t SET v = v WHERE id = 4", [("update", "t", {"4"})]),
    ],
)  # fmt: skip
async def test_a_statement_tells_the_keys_it_changed(
    rows: RowTriggers, statement: str, told: list[tuple[str, str, set[str] | None]]
) -> None:
    await rows.install("t")

    assert sorted(await rows.told(statement), key=str) == sorted(told, key=str)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE t SET v = 1 WHERE false",
        "DELETE FROM t WHERE id = 999",
        "INSERT INTO t SELECT 1, 1 WHERE false",
        "INSERT INTO t VALUES (1, 1) ON CONFLICT DO NOTHING",
        "BEGIN; UPDATE t SET v = 1; ROLLBACK",
    ],
)
async def test_a_statement_that_changes_nothing_sends_nothing(rows: RowTriggers, statement: str) -> None:
    await rows.install("t")

    assert await rows.payloads(statement) == []


async def test_a_writer_that_is_traced_says_so_and_nothing_else_that_is_set_gets_in(rows: RowTriggers) -> None:
    await rows.install("t")
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    for text, expected in ((traceparent, traceparent), ('x","table":"other', None), (f"{traceparent}\n", None)):
        quoted = text.replace("'", "''")
        update = "UPDATE t SET v = v + 1 WHERE id = 1"
        payloads = await rows.payloads(f"BEGIN; SET LOCAL pgcachewatch.traceparent = '{quoted}'; {update}; COMMIT")
        contents = [json.loads(each) for each in payloads]
        assert [each.get("traceparent") for each in contents] == [expected]
        assert [(each["table"], each["keys"], "error" in each) for each in contents] == [("t", ["1"], False)]
    (after,) = await rows.payloads("UPDATE t SET v = v + 1 WHERE id = 1")
    assert "traceparent" not in after, "it ends with the transaction"


async def test_merge_tells_the_keys_of_each_of_its_actions(rows: RowTriggers) -> None:
    if rows.writer.get_server_version().major < MERGE_SINCE:
        pytest.skip("MERGE is there since PostgreSQL 15")
    await rows.install("t")

    told = await rows.told(
        "MERGE INTO t USING (VALUES (1), (2), (50)) AS s (id) ON t.id = s.id "
        "WHEN MATCHED AND s.id = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET v = 9 "
        "WHEN NOT MATCHED THEN INSERT VALUES (s.id, 1)"
    )

    assert sorted(told) == [("delete", "t", {"1"}), ("insert", "t", {"50"}), ("update", "t", {"2"})]


async def test_copy_tells_the_keys_it_brought(rows: RowTriggers) -> None:
    await rows.install("t")
    await rows.heard()

    await rows.writer.copy_records_to_table("t", records=[(30, 1), (31, 1)], columns=["id", "v"])

    assert await rows.since() == [("insert", "t", {"30", "31"})]


async def test_a_payload_is_read_by_published_clients_and_says_more_than_theirs(rows: RowTriggers) -> None:
    await rows.install("t")
    await rows.heard()
    before = await rows.writer.fetchval("SELECT clock_timestamp()")

    async with rows.writer.transaction():
        xid = await rows.writer.fetchval("SELECT pg_current_xact_id()::text")
        await rows.writer.execute("UPDATE t SET v = 1 WHERE id = 1")
    (payload,) = await rows.heard()

    content = json.loads(payload)
    sent_at = datetime.datetime.fromisoformat(content.pop("sent_at"))
    assert before <= sent_at <= await rows.writer.fetchval("SELECT clock_timestamp()")
    assert content == {
        "operation": "update", "table": "t", "schema": "public", "xid": xid, "v": 1, "key": ["id"], "keys": ["1"],
    }  # fmt: skip


async def test_sent_at_is_the_time_of_the_statement_so_equal_statements_of_one_transaction_are_each_sent(
    rows: RowTriggers,
) -> None:
    await rows.install("t")

    payloads = await rows.payloads("BEGIN", *["UPDATE t SET v = 1 WHERE id = 1"] * 3, "COMMIT")

    assert len({json.loads(each)["sent_at"] for each in payloads}) == 3


async def test_a_foreign_key_cascade_tells_the_keys_of_the_child_at_once(rows: RowTriggers) -> None:
    await rows.writer.execute(
        "CREATE TABLE child (id int PRIMARY KEY, t_id int REFERENCES t ON DELETE CASCADE ON UPDATE CASCADE);"
        "INSERT INTO child VALUES (100, 1), (101, 1), (102, 2)"
    )
    await rows.install("t", "child")

    assert sorted(await rows.told("DELETE FROM t WHERE id IN (1, 2)")) == [
        ("delete", "child", {"100", "101", "102"}),
        ("delete", "t", {"1", "2"}),
    ]
    assert sorted(await rows.told("INSERT INTO child VALUES (200, 3)", "UPDATE t SET id = 33 WHERE id = 3")) == [
        ("insert", "child", {"200"}),
        ("update", "child", {"200"}),
        ("update", "t", {"3", "33"}),
    ]


async def test_truncate_cascade_tells_each_table(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE TABLE child (id int PRIMARY KEY, t_id int REFERENCES t)")
    await rows.install("t", "child")

    assert sorted(await rows.told("TRUNCATE t CASCADE")) == [("truncate", "child", None), ("truncate", "t", None)]


async def test_a_write_through_an_updatable_view_tells_the_key_of_its_table(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE VIEW w AS SELECT id, v AS value FROM t")
    await rows.install("t")

    assert await rows.told("UPDATE w SET value = 3 WHERE id = 2") == [("update", "t", {"2"})]


@pytest.mark.parametrize("role", ["replica", "local", "origin"])
async def test_no_replication_role_of_the_session_keeps_a_write_from_being_told(rows: RowTriggers, role: str) -> None:
    await rows.install("t")
    await rows.writer.execute(f"SET session_replication_role = {role}")

    assert await rows.told("UPDATE t SET v = 1 WHERE id = 1", "TRUNCATE t") == [
        ("update", "t", {"1"}),
        ("truncate", "t", None),
    ]


async def test_up_to_max_keys_are_told_and_one_more_makes_the_event_table_wide(rows: RowTriggers) -> None:
    await rows.install("t", max_keys=5)

    assert await rows.told("UPDATE t SET v = 1 WHERE id <= 5") == [("update", "t", {"1", "2", "3", "4", "5"})]
    assert await rows.told("UPDATE t SET v = 1 WHERE id <= 6") == [("update", "t", None)]
    assert await rows.told("DELETE FROM t WHERE id <= 6") == [("delete", "t", None)]
    # Five rows, but ten keys.
    assert await rows.told("INSERT INTO t SELECT i, 0 FROM generate_series(101, 105) i") == [
        ("insert", "t", {"101", "102", "103", "104", "105"})
    ]
    assert await rows.told("UPDATE t SET id = id + 1000 WHERE id > 100") == [("update", "t", None)]


async def test_many_keys_come_in_payloads_that_fit_and_none_is_lost(rows: RowTriggers) -> None:
    await rows.install("t")

    payloads = await rows.payloads(f"INSERT INTO t SELECT i, 0 FROM generate_series(1000001, {1_000_000 + MAX_KEYS}) i")

    assert max(map(len, payloads)) <= 7_700 if rows.mode == "direct" else len(payloads) == 1
    keys = [key for each in payloads for key in json.loads(each)["keys"]]
    assert sorted(keys) == [str(1_000_000 + each) for each in range(1, MAX_KEYS + 1)]
    # A hundred thousand rows are one payload.
    (payload,) = await rows.payloads("INSERT INTO t SELECT i, 0 FROM generate_series(2000001, 2100000) i")
    assert "keys" not in json.loads(payload)


async def test_keys_of_very_different_lengths_come_in_payloads_that_fit_and_none_is_lost(
    notifying: RowTriggers,
) -> None:
    await notifying.writer.execute("CREATE TABLE long (k text PRIMARY KEY)")
    await notifying.install("long")
    keys = [f"{number}{letter * (number % 40) ** 2}"[:1_000] for number in range(400) for letter in ("x", '"')]
    keys += [f"{number}{'é' * (number % 16) ** 2}" for number in range(400)]
    await notifying.heard()

    await notifying.writer.execute("INSERT INTO long SELECT DISTINCT unnest($1::text[])", keys)
    payloads = await notifying.heard()

    assert max(map(len, payloads)) <= 7_700
    assert {key for each in payloads for key in json.loads(each)["keys"]} == set(keys)
    # No more than twice as many as needed.
    assert len(payloads) <= 2 * (sum(map(len, payloads)) // 7_700 + 1)


async def test_a_key_that_can_not_travel_makes_the_event_table_wide(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE TABLE long (k text PRIMARY KEY)")
    await rows.install("long")

    assert await rows.told("INSERT INTO long VALUES (repeat('k', 1024))") == [("insert", "long", {"k" * 1_024})]
    assert await rows.told("INSERT INTO long VALUES ('a'), (repeat('x', 1025))") == [("insert", "long", None)]
    # The most that JSON makes of a key: six bytes of each.
    (event,) = await rows.events("INSERT INTO long VALUES (repeat(E'\\x01', 1024))")
    assert event.keys == ("\x01" * 1_024,)


async def test_payloads_are_ascii_whatever_is_in_them(rows: RowTriggers) -> None:
    nasty = ['a,"b"\\ü', "漢字", "😀", "\x7f\x01\n", "é" * 500, "Ω'$$%s{}"]
    await rows.writer.execute('CREATE SCHEMA "schéma"; CREATE TABLE "schéma"."Ta""ble, 表" ("kéy" text PRIMARY KEY)')
    await rows.install('"schéma"."Ta""ble, 表"')
    insert = 'INSERT INTO "schéma"."Ta""ble, 表" SELECT unnest($1::text[])'
    await rows.heard()

    await rows.writer.execute(insert, nasty)
    payloads = await rows.heard()

    assert all(payload.isascii() for payload in payloads)
    contents = [json.loads(payload) for payload in payloads]
    assert {(one["schema"], one["table"], *one["key"]) for one in contents} == {("schéma", 'Ta"ble, 表', "kéy")}
    assert {key for one in contents for key in one["keys"]} == set(nasty)


async def test_tables_of_one_name_are_told_apart_by_their_schema(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE SCHEMA s2; CREATE TABLE s2.t (id int PRIMARY KEY)")
    await rows.install("t", "s2.t")

    events = await rows.events("INSERT INTO t VALUES (70)", "INSERT INTO s2.t VALUES (71)")

    assert [(one.schema_name, one.keys) for one in events] == [("public", ("70",)), ("s2", ("71",))]


@pytest.mark.parametrize(
    ("definition", "insert", "keys"),
    [
        ("(a int, b text, PRIMARY KEY (b, a))", "(1, 'x')", {'["x","1"]'}),
        ("(a int NOT NULL, b text NOT NULL)", "(1, 'x')", None),
        ("(a int, b text)", "(1, 'x')", None),
        ("(a int UNIQUE, b text)", "(1, 'x')", None),
        ("(a int NOT NULL UNIQUE, b text)", "(1, 'x')", {"1"}),
        ("(a int, b text GENERATED ALWAYS AS (chr(a)) STORED PRIMARY KEY)", "(75)", {"K"}),
        ("(a int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b text)", "(DEFAULT, 'x')", {"1"}),
        ("(a float8 PRIMARY KEY)", "(1.5)", None),
        ('("Mixed Case" int PRIMARY KEY)', "(5)", {"5"}),
        ('("a{}%s$$""x" int PRIMARY KEY)', "(5)", {"5"}),
    ],
)  # fmt: skip
async def test_the_key_is_the_primary_key_or_else_a_unique_one_without_nulls(
    rows: RowTriggers, definition: str, insert: str, keys: set[str] | None
) -> None:
    await rows.writer.execute(f"CREATE TABLE k {definition}")
    await rows.install("k")

    assert await rows.told(f"INSERT INTO k VALUES {insert}") == [("insert", "k", keys)]
    assert await rows.payloads("DELETE FROM k WHERE false") == []


async def test_a_key_that_became_nullable_is_never_left_out(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE TABLE k (a int NOT NULL UNIQUE)")
    await rows.install("k")
    await rows.writer.execute("ALTER TABLE k ALTER a DROP NOT NULL")

    assert await rows.told("INSERT INTO k VALUES (1), (NULL)", "INSERT INTO k VALUES (2)") == [
        ("insert", "k", None),
        ("insert", "k", {"2"}),
    ]


async def test_further_columns_carry_their_old_and_new_values(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE TABLE o (id int PRIMARY KEY, tenant_id int, note text)")
    await rows.install("o", columns=("tenant_id",))

    assert await rows.keys("INSERT INTO o VALUES (1, 7), (2, NULL)") == {"1", "2", "tenant_id=7", "tenant_id"}
    assert await rows.keys("UPDATE o SET tenant_id = 8 WHERE id = 1") == {"1", "tenant_id=7", "tenant_id=8"}
    assert await rows.keys("DELETE FROM o WHERE id = 1") == {"1", "tenant_id=8"}
    (payload,) = await rows.payloads("UPDATE o SET note = 'x'")
    assert json.loads(payload)["columns"] == ["tenant_id"]


async def test_a_writer_needs_no_privilege_on_anything_of_ours(rows: RowTriggers) -> None:
    await rows.install("t")
    role = f"writer_{rows.database.name}"
    await rows.writer.execute(f"CREATE ROLE {role}; GRANT INSERT, SELECT, UPDATE ON t TO {role}")
    try:
        await rows.writer.execute(f"SET ROLE {role}")
        assert await rows.told("INSERT INTO t VALUES (60, 0)") == [("insert", "t", {"60"})]
        payloads = await rows.payloads("INSERT INTO t SELECT i, 0 FROM generate_series(100001, 102000) i")
        assert len(payloads) == (3 if rows.mode == "direct" else 1)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await rows.writer.execute("SELECT pgcachewatch.ascii('x')")
    finally:
        await rows.writer.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


async def test_nothing_of_a_writers_own_gets_into_the_trigger(rows: RowTriggers) -> None:
    await rows.install("t")
    await rows.writer.execute(
        "CREATE SCHEMA trap;"
        "CREATE FUNCTION trap.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;"
        "CREATE FUNCTION trap.to_json(text) RETURNS json LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;"
        "CREATE FUNCTION trap.join(text, text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;"
        "CREATE OPERATOR trap.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.join);"
        "CREATE TEMP TABLE pgcachewatch_new (id int); CREATE TEMP TABLE pg_class (oid oid);"
        "SET search_path = trap, pg_temp, public, pg_catalog"
    )

    assert await rows.told("UPDATE t SET v = 1 WHERE id = 1") == [("update", "t", {"1"})]


async def test_a_key_that_can_not_be_told_makes_the_event_table_wide_and_fails_no_write(rows: RowTriggers) -> None:
    await rows.install("t")
    await rows.writer.execute("ALTER TABLE t RENAME COLUMN id TO other")

    (payload,) = await rows.payloads("UPDATE t SET v = 1 WHERE other = 1")
    assert {name: json.loads(payload).get(name) for name in ("table", "keys", "error")} == {
        "table": "t", "keys": None, "error": "42703",
    }  # fmt: skip

    await rows.writer.execute("ALTER TABLE t RENAME TO renamed; ALTER TABLE renamed RENAME COLUMN other TO id")
    assert await rows.told("UPDATE renamed SET v = 1 WHERE id = 2") == [("update", "renamed", {"2"})]
    if rows.mode == "journal":
        return  # its functions need no others
    await rows.writer.execute("DROP FUNCTION pgcachewatch.send, pgcachewatch.ascii")
    payloads = await rows.payloads("INSERT INTO renamed SELECT i, 0 FROM generate_series(100001, 102000) i")
    assert [json.loads(each).get("keys") for each in payloads] == [None]


async def test_writers_settings_are_of_no_concern(rows: RowTriggers) -> None:
    await rows.install("t")
    await rows.writer.execute(
        "SET standard_conforming_strings = off; SET backslash_quote = off; SET client_encoding = 'LATIN1';"
        "SET plpgsql.extra_errors = 'all'; SET quote_all_identifiers = on; SET plpgsql.variable_conflict = error;"
    )

    assert await rows.told("UPDATE t SET v = 1 WHERE id = 1") == [("update", "t", {"1"})]
    payloads = await rows.payloads("INSERT INTO t SELECT i, 0 FROM generate_series(100001, 102000) i")
    assert len(payloads) == (3 if rows.mode == "direct" else 1)


async def test_rolled_back_savepoints_leave_nothing(rows: RowTriggers) -> None:
    await rows.install("t")

    assert await rows.told(
        "BEGIN", "UPDATE t SET v = 1 WHERE id = 1", "SAVEPOINT s", "UPDATE t SET v = 1 WHERE id = 2",
        "ROLLBACK TO s", "UPDATE t SET v = 1 WHERE id = 3", "COMMIT",
    ) == [("update", "t", {"1"}), ("update", "t", {"3"})]  # fmt: skip


async def test_what_a_users_own_trigger_writes_is_told_as_well(rows: RowTriggers) -> None:
    await rows.writer.execute(
        "CREATE TABLE audit (id int PRIMARY KEY);"
        "CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NEW; END$$;"
        "CREATE TRIGGER log AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION log()"
    )
    await rows.install("t", "audit")

    assert sorted(await rows.told("UPDATE t SET v = 1 WHERE id = 1")) == [
        ("insert", "audit", {"1"}),
        ("update", "t", {"1"}),
    ]


async def test_channels_are_each_tables_own(notifying: RowTriggers) -> None:
    await notifying.writer.execute("CREATE TABLE u (id int PRIMARY KEY)")
    await notifying.install("t")
    await notifying.install("u", channel="it's \\ elsewhere")
    heard: list[object] = []
    await notifying.writer.add_listener("it's \\ elsewhere", lambda *told: heard.append(told[3]))

    assert await notifying.told("INSERT INTO u VALUES (1)", "INSERT INTO t VALUES (50, 1)") == [("insert", "t", {"50"})]
    assert [json.loads(str(each))["keys"] for each in heard] == [["1"]]
