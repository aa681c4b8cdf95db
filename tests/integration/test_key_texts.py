"""Keys have one canonical text: the one that a client makes of the Python value, whatever the writer's settings are."""

from __future__ import annotations

import asyncio
import datetime
import json
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgcachewatch.core.keytext import key_of, text_of
from pgcachewatch_daemon.sql.keytext import Column, key_text
from tests.postgres import Database
from tests.row_triggers import RowTriggers

pytestmark = pytest.mark.every_server

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@dataclass(frozen=True, slots=True)
class Case:
    """A column's type as it is declared, as the expressions know it, and values for it."""

    declared: str
    known: str
    values: st.SearchStrategy[Any]


NUMERIC = st.decimals(allow_nan=False, allow_infinity=False, places=None).filter(
    lambda one: abs(one.adjusted()) < 100 and abs(int(one.as_tuple().exponent)) < 100
)
CASES = [
    Case("smallint", "int2", st.integers(-(2**15), 2**15 - 1)),
    Case("int", "int4", st.integers(-(2**31), 2**31 - 1)),
    Case("bigint", "int8", st.integers(-(2**63), 2**63 - 1)),
    Case("uuid", "uuid", st.uuids()),
    Case("text", "text", TEXT),
    Case("varchar(40)", "varchar", TEXT),
    Case("char(40)", "bpchar", TEXT),
    Case("numeric", "numeric", NUMERIC),
    Case("boolean", "bool", st.booleans()),
    # The first and the last instant mean infinity to the driver.
    Case("date", "date", st.dates(datetime.date(1, 1, 2), datetime.date(9999, 12, 30))),
    Case("timestamp", "timestamp", st.datetimes(datetime.datetime(1, 1, 2), datetime.datetime(9999, 12, 30))),
    Case("timestamptz", "timestamptz", st.datetimes(timezones=st.timezones()).filter(lambda one: 2 < one.year < 9998)),
    Case("bytea", "bytea", st.binary(max_size=40)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.known)
def test_the_text_of_a_key_is_what_a_client_makes_of_the_python_value(database: Database, case: Case) -> None:
    sql = f"SELECT {key_text([Column('v', case.known)], 'r')} FROM (SELECT $1::{case.declared} AS v) AS r"
    both = f"SELECT {key_text([Column('v', case.known)] * 2, 'r')} FROM (SELECT $1::{case.declared} AS v) AS r"
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(database.dsn))

        @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
        @given(case.values)
        def check(value: Any) -> None:
            text = text_of(value, case.known)
            assert runner.run(connection.fetchval(sql, value)) == text
            assert runner.run(connection.fetchval(both, value)) == key_of([text, text])

        try:
            check()
        finally:
            runner.run(connection.close())


UNUSUAL = (
    "SET datestyle = 'German'; SET timezone = 'Asia/Kathmandu'; SET intervalstyle = 'postgres_verbose';"
    "SET bytea_output = 'escape'; SET extra_float_digits = -15; SET lc_numeric = 'C'; SET client_encoding = 'LATIN1'"
)


@pytest.mark.parametrize(
    ("declared", "literal", "key"),
    [
        ("date", "'2030-01-31'", "2030-01-31"),
        ("timestamp", "'2030-01-31 23:59:59.50'", "2030-01-31T23:59:59.5"),
        ("timestamptz", "'2030-01-31 23:59:59.50+00'", "2030-01-31T23:59:59.5Z"),
        ("timestamptz", "'infinity'", "infinityZ"),
        ("date", "'-infinity'", "-infinity"),
        ("bytea", r"'\x00ff61'", "00ff61"),
        ("numeric", "1200.500", "1200.5"),
        ("numeric", "'NaN'", "NaN"),
        ("mood", "'so ''la la'''", "so 'la la'"),
        ("positive", "7", "7"),
        ("fixed", "'ab'", "ab"),
        ("doubly", "'2030-01-31'", "2030-01-31"),
        ("name", "'odd'", "odd"),
    ],
)
async def test_settings_of_the_writers_session_do_not_change_a_key(
    database: Database, declared: str, literal: str, key: str
) -> None:
    rows = await RowTriggers.open(database)
    await rows.writer.execute(
        "CREATE TYPE mood AS ENUM ('so ''la la''', 'good'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);"
        "CREATE DOMAIN fixed AS char(5); CREATE DOMAIN once AS date; CREATE DOMAIN doubly AS once;"
        f"CREATE TABLE k (v {declared} PRIMARY KEY)"
    )
    await rows.install("k")
    await rows.writer.execute(UNUSUAL)

    assert await rows.told(f"INSERT INTO k VALUES ({literal})") == [("insert", "k", {key})]


async def test_a_types_own_cast_to_text_is_not_run_with_our_rights(database: Database) -> None:
    rows = await RowTriggers.open(database)
    await rows.writer.execute(
        "CREATE TYPE mood AS ENUM ('good');"
        "CREATE FUNCTION trap(mood) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;"
        "CREATE CAST (mood AS text) WITH FUNCTION trap(mood) AS IMPLICIT;"
        "CREATE FUNCTION trap_json(mood) RETURNS json LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;"
        "CREATE CAST (mood AS json) WITH FUNCTION trap_json(mood); CREATE TABLE k (v mood PRIMARY KEY)"
    )
    await rows.install("k")

    assert await rows.told("INSERT INTO k VALUES ('good')") == [("insert", "k", {"good"})]


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ("float8", "no canonical text"),
        ("interval", "no canonical text"),
        ("int[]", "no canonical text"),
        ("inet", "no canonical text"),
        ("text COLLATE folded", "nondeterministic"),
    ],
)
async def test_a_key_that_no_client_can_tell_makes_events_table_wide(
    database: Database, declared: str, why: str
) -> None:
    rows = await RowTriggers.open(database)
    try:
        await rows.writer.execute(
            "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except asyncpg.FeatureNotSupportedError:
        if "folded" in declared:
            pytest.skip("this server was built without ICU")
    await rows.writer.execute(f"CREATE TABLE k (v {declared} PRIMARY KEY, w int)")
    await rows.install("k")

    catalogue = await rows.catalogue()
    (relation,) = catalogue.relations.values()
    assert why in relation.key[0].problem
    assert await rows.told("INSERT INTO k SELECT NULL WHERE false") == []
    await rows.writer.execute("ALTER TABLE k DROP CONSTRAINT k_pkey; ALTER TABLE k ALTER v DROP NOT NULL")
    assert await rows.told("INSERT INTO k VALUES (NULL)") == [("insert", "k", None)]


async def test_citext_makes_events_table_wide(database: Database) -> None:
    rows = await RowTriggers.open(database)
    if not await rows.writer.fetchval("SELECT true FROM pg_available_extensions WHERE name = 'citext'"):
        pytest.skip("this server has no citext")
    await rows.writer.execute("CREATE EXTENSION citext; CREATE TABLE k (v citext PRIMARY KEY)")
    await rows.install("k")

    assert await rows.told("INSERT INTO k VALUES ('Anna')") == [("insert", "k", None)]


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "SQL_ASCII", "WIN1252"])
async def test_payloads_are_ascii_and_right_in_databases_of_every_encoding(database: Database, encoding: str) -> None:
    admin = await database.connect()
    name = f"{database.name[:40]}_{encoding.lower()}"
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
    other = Database(dsn=database.dsn.replace(database.name, name), name=name)
    try:
        rows = await RowTriggers.open(other)
        letters = {"LATIN1": "über", "EUC_JP": "漢字", "SQL_ASCII": "über", "WIN1252": "10 €"}[encoding]
        await rows.writer.execute("CREATE TABLE k (v text PRIMARY KEY)")
        await rows.install("k")
        await rows.heard()
        await rows.writer.execute("INSERT INTO k VALUES ($1)", letters)
        (payload,) = await rows.heard()
        assert payload.isascii()
        # SQL_ASCII is no encoding: nobody knows what letter a byte is.
        assert json.loads(payload).get("keys") == (None if encoding == "SQL_ASCII" else [letters])
    finally:
        await other.close()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
