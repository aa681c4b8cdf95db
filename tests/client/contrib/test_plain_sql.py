"""The list of harmless functions and operators, against what a real PostgreSQL says of them."""

from __future__ import annotations

from pgcachewatch.contrib.plain_sql import FUNCTIONS, OPERATORS
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
