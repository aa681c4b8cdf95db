"""Only what is missing is done, and in an order that holds no lock longer than needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.sql.catalogue import PARTITIONED, VIEW, Catalogue, Journal
from pgcachewatch_daemon.sql.coverage import Settings
from pgcachewatch_daemon.sql.keytext import Column
from pgcachewatch_daemon.sql.plan import (
    check_columns,
    choose_tables,
    install_plan,
    repair_plan,
    uninstall_plan,
)
from pgcachewatch_daemon.sql.shapes import Shape
from tests.daemon.sql.catalogues import CHANNEL, changed, empty, installed, table

TABLES = [
    table(1, "root", kind=PARTITIONED),
    table(2, "leaf", parents=(1,), is_partition=True),
    table(3, "plain"),
    table(4, "view", kind=VIEW),
]


def titles(catalogue: Catalogue, *names: str) -> list[str]:
    tables = choose_tables(catalogue, names).tables
    return [step.title for step in install_plan(catalogue, tables, Settings(), default_channel=CHANNEL)]


def test_each_family_is_a_step_of_its_own_behind_what_all_share() -> None:
    assert titles(empty(TABLES), "*") == ["what all tables share", "public.root, public.leaf", "public.plain"]


def test_nothing_is_planned_for_what_is_right() -> None:
    assert titles(installed(TABLES), "*") == []
    assert repair_plan(installed(TABLES), default_channel=CHANNEL) == []


def test_only_the_damaged_table_is_mended() -> None:
    damaged = changed(installed(TABLES), 2, triggers={})

    (step,) = repair_plan(damaged, default_channel=CHANNEL)

    assert all("leaf" in sql for sql in step.statements if " ON " in sql and "TRIGGER" in sql)


def test_a_new_channel_replaces_functions_and_touches_no_table() -> None:
    catalogue = installed(TABLES)
    (step,) = install_plan(catalogue, [catalogue.relations[3]], Settings(channel="new"), default_channel=CHANNEL)

    assert not [sql for sql in step.statements if "TRIGGER" in sql]
    assert sum("'new'" in sql for sql in step.statements) == 4


def test_a_view_is_refused_by_name_and_skipped_by_pattern() -> None:
    catalogue = empty(TABLES)

    with pytest.raises(ConfigurationError, match="no rows of its own"):
        choose_tables(catalogue, ["view"])
    assert [one.name for one, _ in choose_tables(catalogue, ["*"]).skipped] == ["view"]


def test_tables_of_an_extension_are_watched_only_by_name() -> None:
    catalogue = empty([table(1, "spatial", is_of_extension=True)])

    assert choose_tables(catalogue, ["*"]).tables == ()
    assert len(choose_tables(catalogue, ["spatial"]).tables) == 1


def test_a_column_that_can_not_be_carried_is_refused() -> None:
    tenant, price = Column("tenant", "int4"), Column("price", "float8")
    tables = [table(1, "t", columns={"tenant": tenant, "price": price}), table(2, "u")]

    check_columns(tables, ["tenant"], known=["tenant"])
    with pytest.raises(ConfigurationError, match="did you mean tenant"):
        check_columns(tables, ["tenent"], known=["tenant", "price"])
    with pytest.raises(ConfigurationError, match="float8"):
        check_columns(tables, ["price"], known=["tenant", "price"])


def test_uninstalling_takes_whole_families_and_the_schema_last() -> None:
    catalogue = installed(TABLES)

    one = uninstall_plan(catalogue, [catalogue.relations[2]], None)
    everything = uninstall_plan(catalogue, None, None)

    assert {step.title for step in one} == {"public.leaf", "public.root"}
    assert everything[-1].statements[-1] == "DROP SCHEMA pgcachewatch"
    assert sum(len(step.statements) for step in everything) == 12 + 3


def test_uninstalling_one_channel_leaves_the_others() -> None:
    catalogue = installed(TABLES)

    assert uninstall_plan(catalogue, None, "other") == []
    assert len(uninstall_plan(catalogue, None, CHANNEL)) == 4


def test_uninstalling_where_nothing_is_installed_does_nothing() -> None:
    assert uninstall_plan(empty(TABLES), None, None) == []


def test_an_owner_is_given_everything() -> None:
    catalogue = empty(TABLES)
    steps = install_plan(catalogue, [catalogue.relations[3]], Settings(), default_channel=CHANNEL, owner="nobody")
    statements = [sql for step in steps for sql in step.statements]

    assert 'CREATE SCHEMA pgcachewatch AUTHORIZATION "nobody"' in statements
    assert sum(sql.startswith("CREATE OR REPLACE FUNCTION") for sql in statements) == sum(
        sql.endswith('OWNER TO "nobody"') for sql in statements
    )


def test_functions_of_a_restored_dump_make_way_before_their_names_are_needed() -> None:
    """The function that table 3 brought is named for table 9, which is there as well."""
    was = installed([table(9, "plain")])
    catalogue = replace(was, relations={3: replace(was.relations[9], oid=3), 9: table(9, "other")})

    steps = repair_plan(catalogue, default_channel=CHANNEL)

    assert [step.title for step in steps] == ["what all tables share", "public.plain", "what is left over"]
    assert steps[0].statements[0] == 'ALTER FUNCTION pgcachewatch."t_9_delete"() RENAME TO "restored_t_9_delete"'
    assert 'DROP FUNCTION pgcachewatch."restored_t_9_delete"()' in steps[-1].statements


JOURNAL = Settings(mode="journal")


def journal_plan(catalogue: Catalogue, **options: Any) -> list[str]:  # Any: install_plan's own
    tables = choose_tables(catalogue, ["plain"]).tables
    steps = install_plan(catalogue, tables, JOURNAL, default_channel=CHANNEL, **options)
    return [sql for step in steps for sql in step.statements]


def test_the_journal_is_made_before_the_first_function_that_writes_to_it_and_a_shape_with_it() -> None:
    steps = install_plan(empty(TABLES), [empty(TABLES).relations[3]], JOURNAL, default_channel=CHANNEL)

    shared, table_step = steps
    assert any(sql.startswith("CREATE TABLE IF NOT EXISTS pgcachewatch.journal ") for sql in shared.statements)
    assert table_step.statements[0].startswith("INSERT INTO pgcachewatch.shapes")
    assert sum(sql.startswith("INSERT INTO pgcachewatch.shapes") for sql in table_step.statements) == 1


def test_a_direct_installation_makes_no_journal() -> None:
    catalogue = empty(TABLES)
    steps = install_plan(catalogue, [catalogue.relations[3]], Settings(), default_channel=CHANNEL)

    assert not [sql for step in steps for sql in step.statements if "pgcachewatch.journal" in sql]


def test_partitions_share_the_shape_of_their_root() -> None:
    steps = install_plan(empty(TABLES), [empty(TABLES).relations[2]], JOURNAL, default_channel=CHANNEL)

    statements = [sql for step in steps for sql in step.statements]
    (shape,) = [sql for sql in statements if sql.startswith("INSERT INTO pgcachewatch.shapes")]
    assert "'public', 'root'" in shape


def test_nothing_is_planned_for_a_journal_that_is_right_and_it_is_mended_when_it_is_not() -> None:
    catalogue = installed(TABLES, JOURNAL)
    assert repair_plan(catalogue, default_channel=CHANNEL) == []

    damaged = replace(catalogue, journal=replace(catalogue.journal, body="of another release"))

    (step,) = repair_plan(damaged, default_channel=CHANNEL)
    assert step.title == "what all tables share"


def test_a_missing_shape_is_written_again_and_one_that_can_not_be_read_is_asked_for() -> None:
    catalogue = installed(TABLES, JOURNAL)
    unknown: list[dict[int, Shape] | None] = [{}, None]
    for shapes in unknown:
        journal = replace(catalogue.journal, shapes=shapes)
        steps = repair_plan(replace(catalogue, journal=journal), default_channel=CHANNEL)
        assert all(sql.startswith("INSERT INTO pgcachewatch.shapes") for step in steps for sql in step.statements)
        assert len(steps) == 2


def test_a_relays_role_is_granted_the_journal_and_there_must_be_one() -> None:
    grants = [sql for sql in journal_plan(installed(TABLES, JOURNAL), relay_role="relay") if sql.startswith("GRANT")]

    assert len(grants) == 7
    assert all(sql.endswith('TO "relay"') for sql in grants)
    catalogue = installed(TABLES)
    with pytest.raises(ConfigurationError, match="add --mode journal"):
        install_plan(catalogue, [catalogue.relations[3]], Settings(), default_channel=CHANNEL, relay_role="relay")


def test_the_journal_goes_with_the_last_table_and_before_the_schema() -> None:
    catalogue = installed(TABLES, JOURNAL)

    *_, shared = uninstall_plan(catalogue, None, None)

    assert shared.statements[:2] == ("DROP TABLE pgcachewatch.journal", "DROP TABLE pgcachewatch.shapes")
    assert shared.statements[-1] == "DROP SCHEMA pgcachewatch"
    assert not [step for step in uninstall_plan(catalogue, [catalogue.relations[3]], None) if "share" in step.title]


def test_switching_a_table_replaces_functions_and_touches_no_table() -> None:
    statements = journal_plan(replace(installed(TABLES), journal=installed(TABLES, JOURNAL).journal))

    assert not [sql for sql in statements if "TRIGGER" in sql]
    assert sum(sql.startswith("CREATE OR REPLACE FUNCTION") for sql in statements) == 4


def test_an_owner_is_given_the_journal() -> None:
    statements = journal_plan(empty(TABLES), owner="nobody")

    assert 'ALTER TABLE pgcachewatch.journal OWNER TO "nobody"' in statements
    assert journal_plan(replace(installed(TABLES, JOURNAL), journal=Journal()), owner="nobody")
