"""Plain reading: the words for it, against what a real PostgreSQL says of them, and texts that are and are not."""

from __future__ import annotations

import pytest

from pgcachewatch.contrib.plain_sql import FUNCTIONS, OPERATORS, is_plain_select
from tests.postgres import Database

# Written like functions, and part of the grammar (manual, 9.18 and 4.2.9).
GRAMMAR = {"cast", "coalesce", "greatest", "least", "nullif", "trim"}


async def test_each_function_is_one_of_postgresql_that_changes_nothing(database: Database) -> None:
    connection = await database.connect()
    found = await connection.fetch(
        "SELECT proname, bool_or(provolatile = 'v') AS is_volatile FROM pg_proc "
        "WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY ($1) GROUP BY proname",
        sorted(FUNCTIONS),
    )

    assert [row["proname"] for row in found if row["is_volatile"]] == []
    assert FUNCTIONS - {row["proname"] for row in found} == GRAMMAR


async def test_each_operator_is_one_of_postgresql_that_changes_nothing(database: Database) -> None:
    connection = await database.connect()
    found = await connection.fetch(
        "SELECT oprname, bool_or(provolatile = 'v') AS is_volatile FROM pg_operator JOIN pg_proc p ON p.oid = oprcode "
        "WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprname = ANY ($1) GROUP BY oprname",
        sorted(OPERATORS),
    )

    assert [row["oprname"] for row in found if row["is_volatile"]] == []
    assert {row["oprname"] for row in found} == OPERATORS


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        '  select "id" from "users"',
        'SELECT "u"."id" FROM "users" "u" WHERE ("u"."id" IN (%s, %s) AND NOT ("u"."name" = %s)) LIMIT 5',
        '(SELECT "id" FROM "a") UNION ALL (SELECT "id" FROM "b")',
        'SELECT COUNT(*) AS "n", lower("name"), now() FROM "users" GROUP BY "name" HAVING count(*) > 1',
        'SELECT 1 AS "a" FROM "t" INNER JOIN "v" ON ("t"."v" = "v"."id") WHERE EXISTS (SELECT 1 FROM "w")',
        "SELECT name::varchar(5), 'it''s update' AS \"delete\" FROM users",
        "SELECT CASE WHEN (a = 1) THEN (2) ELSE (3) END, CAST(b AS numeric(10, 2)) FROM t WHERE c = ANY(%s)",
    ],
)
def test_a_select_that_only_reads_is_plain(text: str) -> None:
    assert is_plain_select(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "INSERT INTO users VALUES (1)",
        "WITH gone AS (DELETE FROM users RETURNING id) SELECT id FROM gone",
        "SELECT id FROM (WITH gone AS (DELETE FROM users RETURNING id) SELECT id FROM gone) x",
        'SELECT "id" FROM "users" FOR UPDATE',
        "SELECT id FROM users FOR NO KEY UPDATE SKIP LOCKED",
        "SELECT id INTO copy FROM users",
        "SELECT nextval('s')",
        "SELECT my_own (id) FROM users",
        'SELECT "my own"(id) FROM users',
        "SELECT app.lower(name) FROM users",
        "SELECT 1; DELETE FROM users",
        "SELECT 1 -- FOR UPDATE",
        "SELECT my/**/own(1)",
        "SELECT $$'$$, my_own('$$')",
        r"SELECT E'\', my_own(1), '",
        "SELECT 'never closed",
        "SELECTED (1)",
        "EXPLAIN ANALYZE SELECT 1",
        "CALL work()",
    ],
)
def test_what_may_do_more_than_read_is_not_plain(text: str) -> None:
    assert not is_plain_select(text)
