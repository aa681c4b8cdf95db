"""Rows of the catalogue's queries become values, and families are found through them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgcachewatch_daemon.sql.catalogue import PARTITIONED, Journal, read_catalogue, read_settings
from pgcachewatch_daemon.sql.journal_tables import JOURNAL_DIGEST, TABLES
from pgcachewatch_daemon.sql.keytext import Column
from tests.daemon.sql.catalogues import empty, table
from tests.postgres import Database
from tests.row_triggers import RowTriggers


async def test_a_table_is_read_with_its_key_in_the_order_of_the_index(database: Database) -> None:
    rows = await RowTriggers.open(database)
    await rows.writer.execute(
        "CREATE DOMAIN dom AS uuid; CREATE VIEW w AS SELECT 1;"
        "CREATE TABLE t (c int, b text, a dom, x float8, PRIMARY KEY (a, b))"
    )

    catalogue = await rows.catalogue(["x"])

    found, view = sorted(catalogue.relations.values(), key=lambda one: one.name)
    assert found.key == (Column("a", "uuid"), Column("b", "text"))
    assert found.columns.keys() == {"a", "b", "x"}
    assert (found.display, found.kind, view.kind) == ("public.t", "r", "v")
    assert catalogue.has_schema is False


@pytest.mark.parametrize(
    ("indexes", "key"),
    [
        ("CREATE UNIQUE INDEX ON t (a) WHERE b > 0", []),
        ("CREATE UNIQUE INDEX ON t (abs(a))", []),
        ("CREATE UNIQUE INDEX ON t (n)", []),
        ("CREATE UNIQUE INDEX ON t (a, b); CREATE UNIQUE INDEX ON t (b)", ["b"]),
        ("CREATE UNIQUE INDEX i ON t (b, a); CREATE UNIQUE INDEX ON t (b);"
         "ALTER TABLE t REPLICA IDENTITY USING INDEX i",
         ["b", "a"]),
        ("ALTER TABLE t ADD UNIQUE (a) DEFERRABLE", []),
        ("ALTER TABLE t ADD PRIMARY KEY (a) DEFERRABLE", ["a"]),
        ("CREATE UNIQUE INDEX ON t (a) INCLUDE (b)", ["a"]),
    ],
)  # fmt: skip
async def test_a_key_identifies_rows_by_the_rules_of_replica_identity(
    database: Database, indexes: str, key: list[str]
) -> None:
    rows = await RowTriggers.open(database)
    await rows.writer.execute(f"CREATE TABLE t (a int NOT NULL, b int NOT NULL, n int); {indexes}")

    (relation,) = (await rows.catalogue()).relations.values()

    assert [column.name for column in relation.key] == key


def test_a_family_is_everything_joined_by_partitioning_or_inheritance() -> None:
    catalogue = empty(
        [table(1, "root", kind=PARTITIONED), table(2, "leaf", parents=(1,), is_partition=True), table(3, "other"),
         table(4, "deep", parents=(2,), is_partition=True)]
    )  # fmt: skip

    assert [one.name for one in catalogue.family(2)] == ["root", "leaf", "deep"]
    assert [one.name for one in catalogue.family(3)] == ["other"]
    assert catalogue.root(catalogue.relations[4]).name == "root"


@pytest.mark.parametrize("comment", [None, "", "{", "[]", "written by hand"])
def test_a_comment_that_is_not_ours_says_nothing(comment: str | None) -> None:
    assert read_settings(comment) == {}


def test_an_empty_database_is_read() -> None:
    assert read_catalogue([], [], [], has_schema=False).relations == {}


async def test_the_journal_is_read_without_a_privilege_but_for_its_shapes(database: Database) -> None:
    rows = await RowTriggers.open(database, "journal")
    await rows.writer.execute("CREATE TABLE t (id int PRIMARY KEY)")
    assert (await rows.catalogue()).journal == Journal()
    await rows.install("t")
    role = f"reader_{database.name}"
    await rows.writer.execute(f"CREATE ROLE {role}")
    try:
        whole = (await rows.catalogue()).journal
        await rows.writer.execute(f"SET ROLE {role}")
        seen = (await rows.catalogue()).journal
    finally:
        await rows.writer.execute(f"RESET ROLE; DROP ROLE {role}")

    assert whole.shapes is not None
    assert [shape.table for shape in whole.shapes.values()] == ["t"]
    assert (whole.tables, whole.body, whole.is_writable) == (frozenset(TABLES), JOURNAL_DIGEST, True)
    assert seen == replace(whole, shapes=None, is_readable=False)
