"""Partition trees and tables joined by inheritance: a row is told by whatever door a write comes in."""

from __future__ import annotations

import pytest

from pgcachewatch_daemon.sql.capture import MODES
from pgcachewatch_daemon.sql.drift import Change, changes, findings
from tests.postgres import Database
from tests.row_triggers import RowTriggers
from tests.waiting import eventually

pytestmark = pytest.mark.every_server


@pytest.fixture(params=MODES)
async def rows(request: pytest.FixtureRequest, database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database, request.param)
    await rig.writer.execute(
        "CREATE SCHEMA parts;"
        "CREATE TABLE o (id int, d int, v int, PRIMARY KEY (d, id)) PARTITION BY RANGE (d);"
        "CREATE TABLE parts.low PARTITION OF o FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE parts.middle PARTITION OF o FOR VALUES FROM (10) TO (20) PARTITION BY LIST (d);"
        "CREATE TABLE parts.eleven PARTITION OF parts.middle FOR VALUES IN (11);"
        "CREATE TABLE p (id int PRIMARY KEY, v int);"
        "CREATE TABLE c (extra int) INHERITS (p);"
        "CREATE TABLE g (id2 int PRIMARY KEY) INHERITS (c);"
        "INSERT INTO o VALUES (1, 1, 0), (2, 11, 0); INSERT INTO p VALUES (1, 0); INSERT INTO c VALUES (2, 0, 0)"
    )
    return rig


async def test_each_door_to_a_partitioned_table_tells_the_root_and_its_key(rows: RowTriggers) -> None:
    await rows.install("o")

    assert await rows.told(
        "UPDATE o SET v = 1",
        "UPDATE parts.low SET v = 2",
        "INSERT INTO parts.middle VALUES (3, 11, 0)",
        "DELETE FROM parts.eleven WHERE id = 3",
    ) == [
        ("update", "o", {'["1","1"]', '["11","2"]'}),
        ("update", "o", {'["1","1"]'}),
        ("insert", "o", {'["11","3"]'}),
        ("delete", "o", {'["11","3"]'}),
    ]
    (event,) = await rows.events("UPDATE parts.eleven SET v = 3")
    assert (event.schema_name, event.table) == ("public", "o")


async def test_a_row_that_moves_between_partitions_is_told_by_its_old_and_its_new_key(rows: RowTriggers) -> None:
    await rows.install("o")

    assert await rows.told("UPDATE o SET d = 11 WHERE id = 1") == [("update", "o", {'["1","1"]', '["11","1"]'})]


async def test_truncate_of_a_leaf_tells_the_root(rows: RowTriggers) -> None:
    await rows.install("parts.low")  # naming one stands for the tree

    assert await rows.told("TRUNCATE parts.low") == [("truncate", "o", None)]
    assert set(map(str, await rows.told("TRUNCATE o"))) == {str(("truncate", "o", None))}


async def test_copy_to_a_leaf_and_to_the_root_tell_the_root(rows: RowTriggers) -> None:
    await rows.install("o")
    await rows.heard()

    await rows.writer.copy_records_to_table("low", schema_name="parts", records=[(8, 5, 0)])
    await rows.writer.copy_records_to_table("o", records=[(9, 5, 0)])

    assert await rows.since() == [("insert", "o", {'["5","8"]'}), ("insert", "o", {'["5","9"]'})]


async def test_a_new_partition_is_found_and_covered_by_repeating_the_installation(rows: RowTriggers) -> None:
    await rows.install("o")
    before = await rows.catalogue()
    assert findings(before) == []
    await rows.writer.execute("CREATE TABLE parts.high PARTITION OF o FOR VALUES FROM (20) TO (30)")

    after = await rows.catalogue()

    assert [(one.kind, one.table) for one in findings(after)] == [("not_covered", "parts.high")]
    assert changes(before, after) == [Change("public", "o", "attached")]
    assert await rows.told("INSERT INTO o VALUES (5, 25, 0)") == [("insert", "o", {'["25","5"]'})]
    assert await rows.told("INSERT INTO parts.high VALUES (6, 25, 0)") == []
    await rows.install("o")
    assert findings(await rows.catalogue()) == []
    assert await rows.told("INSERT INTO parts.high VALUES (7, 25, 0)") == [("insert", "o", {'["25","7"]'})]


async def test_a_detached_partition_names_itself_at_once_and_is_found_as_changed(rows: RowTriggers) -> None:
    await rows.install("o")
    before = await rows.catalogue()
    await rows.writer.execute("ALTER TABLE o DETACH PARTITION parts.low")
    after = await rows.catalogue()

    assert await rows.told("UPDATE parts.low SET v = 1") == [("update", "low", {'["1","1"]'})]
    assert Change("public", "o", "attached or detached") in changes(before, after)
    assert Change("parts", "low", "attached or detached") in changes(before, after)


async def test_ddl_that_rewrites_or_renames_a_table_is_found_as_a_change(rows: RowTriggers) -> None:
    await rows.install("p", "o")
    before = await rows.catalogue()
    assert changes(before, before) == []

    await rows.writer.execute("ALTER TABLE p ADD COLUMN r float8 DEFAULT random()")
    await rows.writer.execute("ALTER TABLE parts.low RENAME TO lower")
    rewritten = await rows.catalogue()

    found = {(one.schema, one.name, one.reason) for one in changes(before, rewritten)}
    assert ("public", "p", "rewritten") in found
    assert ("public", "o", "renamed") in found


@pytest.mark.parametrize("how", ["", "CONCURRENTLY"])
async def test_refreshing_a_materialized_view_is_found_as_a_change(rows: RowTriggers, how: str) -> None:
    await rows.writer.execute("CREATE MATERIALIZED VIEW m AS SELECT id, v FROM p; CREATE UNIQUE INDEX ON m (id)")
    await rows.writer.execute("INSERT INTO p VALUES (70, 0)")
    before = await rows.catalogue()
    assert changes(before, before) == []

    await rows.writer.execute(f"REFRESH MATERIALIZED VIEW {how} m")

    async def is_found() -> bool:
        return {(one.schema, one.name) for one in changes(before, await rows.catalogue())} == {("public", "m")}

    await eventually(is_found)


async def test_a_write_through_a_parent_tells_its_children_too_and_the_other_way_round(rows: RowTriggers) -> None:
    await rows.install("c")  # naming one stands for all of them

    assert sorted(await rows.told("UPDATE p SET v = 5"), key=str) == [
        ("update", "c", None),
        ("update", "g", None),
        ("update", "p", {"1", "2"}),
    ]
    assert sorted(await rows.told("INSERT INTO g VALUES (10, 0, 0, 77)"), key=str) == [
        ("insert", "c", None),
        ("insert", "g", {"77"}),
        ("insert", "p", None),
    ]
    assert await rows.told("UPDATE p SET v = 5 WHERE false", "DELETE FROM ONLY c WHERE false") == []


async def test_a_new_child_is_found(rows: RowTriggers) -> None:
    await rows.install("p")
    await rows.writer.execute("CREATE TABLE c2 () INHERITS (p)")

    found = {(one.kind, one.table) for one in findings(await rows.catalogue())}

    assert ("not_covered", "public.c2") in found
    await rows.install("p")
    assert findings(await rows.catalogue()) == []


async def test_a_tree_with_a_foreign_partition_stays_writable_and_is_told_as_a_whole(rows: RowTriggers) -> None:
    await rows.writer.execute(
        "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER s FOREIGN DATA WRAPPER nowhere;"
        "CREATE TABLE f (id int NOT NULL, d int) PARTITION BY RANGE (d);"
        "CREATE TABLE f1 PARTITION OF f FOR VALUES FROM (0) TO (10);"
        "CREATE FOREIGN TABLE f2 PARTITION OF f FOR VALUES FROM (10) TO (20) SERVER s"
    )

    await rows.install("f")

    assert await rows.told("INSERT INTO f VALUES (1, 1)") == [("insert", "f", None)]
    assert [(one.kind, one.table) for one in findings(await rows.catalogue())] == [("not_covered", "public.f2")]


async def test_a_foreign_partition_that_is_attached_later_is_found_and_mended(rows: RowTriggers) -> None:
    await rows.writer.execute(
        "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER s FOREIGN DATA WRAPPER nowhere;"
        "CREATE TABLE f (id int NOT NULL, d int) PARTITION BY RANGE (d);"
        "CREATE TABLE f1 PARTITION OF f FOR VALUES FROM (0) TO (10)"
    )
    await rows.install("f")
    await rows.writer.execute("CREATE FOREIGN TABLE f2 PARTITION OF f FOR VALUES FROM (10) TO (20) SERVER s")

    assert ("trigger_missing", "public.f") in {(one.kind, one.table) for one in findings(await rows.catalogue())}
    await rows.install("f")

    assert {one.kind for one in findings(await rows.catalogue())} == {"not_covered"}
    assert await rows.told("INSERT INTO f VALUES (1, 1)") == [("insert", "f", None)]
