"""What is not as it was installed is found by kind; a table that is right has no findings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcachewatch_daemon.sql.catalogue import FOREIGN, PARTITIONED, Catalogue, Function, Journal, Relation
from pgcachewatch_daemon.sql.coverage import Settings
from pgcachewatch_daemon.sql.drift import Change, changes, family_settings, findings, function_table
from pgcachewatch_daemon.sql.keytext import Column
from tests.daemon.sql.catalogues import changed, empty, installed, table

TREE = [
    table(1, "root", kind=PARTITIONED),
    table(2, "leaf", parents=(1,), is_partition=True),
    table(3, "plain"),
]


def kinds(catalogue: Catalogue) -> set[tuple[str, str]]:
    return {(one.kind, one.table) for one in findings(catalogue)}


@pytest.mark.parametrize(
    "relations",
    [[], TREE, [table(1, "t", is_replicated=True)], [table(1, "t", is_owned=False)], [table(1, "t", key=())]],
)
def test_what_is_as_installed_has_no_findings(relations: list[Relation]) -> None:
    assert findings(installed(relations)) == []
    assert findings(empty(relations)) == []


def without(catalogue: Catalogue, oid: int, name: str) -> Catalogue:
    triggers = {each: one for each, one in catalogue.relations[oid].triggers.items() if each != name}
    return changed(catalogue, oid, triggers=triggers)


def with_state(catalogue: Catalogue, oid: int, name: str, state: str) -> Catalogue:
    triggers = catalogue.relations[oid].triggers
    return changed(catalogue, oid, triggers={**triggers, name: replace(triggers[name], enabled=state)})


def with_settings(catalogue: Catalogue, name: str, **settings: object) -> Catalogue:
    function = Function(name, {**catalogue.functions[name].settings, **settings})
    return replace(catalogue, functions={**catalogue.functions, name: function})


@pytest.mark.parametrize(
    ("catalogue", "kind", "loses"),
    [
        (without(installed(TREE), 3, "zz_pgcachewatch_update"), "trigger_missing", True),
        (changed(installed(TREE), 3, triggers={}), "not_covered", True),
        (with_state(installed(TREE), 3, "zz_pgcachewatch_update", "D"), "trigger_disabled", True),
        (with_state(installed(TREE), 3, "zz_pgcachewatch_update", "R"), "trigger_disabled", True),
        (with_state(installed(TREE), 3, "zz_pgcachewatch_update", "O"), "not_always", True),
        (with_settings(installed(TREE), "t_3_update", v=0), "old_version", False),
        (with_settings(installed(TREE), "t_3_update", body="other"), "old_version", False),
        (changed(installed(TREE), 3, key=(Column("id", "uuid"),)), "key_changed", True),
        (changed(installed(TREE), 3, is_replicated=True), "trigger_missing", True),
    ],
)
def test_each_kind_of_damage_is_found_at_its_table(catalogue: Catalogue, kind: str, loses: bool) -> None:
    found = findings(catalogue)

    assert {(one.kind, one.table) for one in found} == {(kind, "public.plain")}
    assert any(one.may_lose_events for one in found) == loses


def test_a_new_partition_is_found_and_an_unrelated_new_table_is_not() -> None:
    was = installed(TREE)
    new = {4: table(4, "new", parents=(1,), is_partition=True), 5: table(5, "unrelated")}

    assert kinds(replace(was, relations={**was.relations, **new})) == {("not_covered", "public.new")}


def test_functions_named_for_other_tables_are_a_restored_dump() -> None:
    was = installed([table(3, "plain")])
    moved = replace(was.relations[3], oid=9)

    assert kinds(replace(was, relations={9: moved})) == {("restored", "public.plain")}


def test_functions_without_a_table_are_orphaned() -> None:
    was = installed(TREE)

    assert kinds(replace(was, relations={1: was.relations[1], 2: was.relations[2]})) == {("orphaned", "")}


def test_shared_functions_of_another_version_are_found() -> None:
    assert kinds(with_settings(installed(TREE), "send", body="other")) == {("old_version", "")}


def test_a_table_that_only_its_owner_can_cover_is_found() -> None:
    was = installed([table(3, "plain", is_owned=False)])

    assert kinds(changed(was, 3, is_replicated=True)) == {("not_applied", "public.plain")}


def test_a_table_that_its_owner_covered_is_right_for_whoever_looks() -> None:
    was = installed([table(3, "plain", is_replicated=True)])
    seen_by_another_role = changed(was, 3, is_owned=False, may_trigger=False)

    assert findings(seen_by_another_role) == []
    assert kinds(with_state(seen_by_another_role, 3, "zz_pgcachewatch_row", "D")) == {
        ("trigger_disabled", "public.plain")
    }


def test_a_table_in_the_place_of_a_watched_one_is_found_and_repaired_with_its_settings() -> None:
    was = installed([table(3, "plain"), table(4, "other")], Settings(channel="c2", max_keys=9))
    now = replace(was, relations={4: was.relations[4], 9: table(9, "plain")})

    assert {(one.kind, one.table, one.oid) for one in findings(now)} == {("replaced", "public.plain", 9)}
    assert family_settings(now, [now.relations[9]]) == Settings("c2", (), 9)
    renamed = changed(now, 9, name="else")
    assert kinds(renamed) == {("orphaned", "")}


def test_settings_outlive_the_triggers() -> None:
    was = installed([table(3, "plain")], Settings("c2", max_keys=9))
    bare = changed(was, 3, triggers={})

    assert family_settings(bare, [bare.relations[3]]) == Settings("c2", (), 9)
    restored = replace(was, relations={9: replace(was.relations[3], oid=9), 3: table(3, "other")})
    assert family_settings(restored, [restored.relations[3]]) == Settings()


def test_a_foreign_partition_is_found_at_its_table() -> None:
    tree = [*TREE[:2], table(7, "far", kind=FOREIGN, parents=(1,), is_partition=True)]

    assert {(one.kind, one.table, one.oid) for one in findings(installed(tree))} == {("not_covered", "public.far", 7)}


def test_triggers_that_were_off_for_a_moment_between_two_looks_are_a_change() -> None:
    was = installed(TREE)
    triggers = was.relations[2].triggers
    stamped = changed(was, 2, triggers={name: replace(one, stamp="7.9") for name, one in triggers.items()})

    assert findings(stamped) == []
    assert changes(was, stamped) == [Change("public", "root", "its triggers were changed")]
    assert {one.reason for one in changes(empty(TREE), was)} == {"its triggers were changed"}, (
        "nobody watched it before"
    )


def test_rows_that_leave_an_inheritance_child_leave_its_parent_too() -> None:
    family = [table(1, "parent"), table(2, "child", parents=(1,))]
    for after in (changed(empty(family), 2, parents=()), changed(empty(family), 2, filenode=7), empty(family[:1])):
        assert {one.name for one in changes(empty(family), after)} == {"parent", "child"}


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (changed(empty(TREE), 3, filenode=7), {("plain", "rewritten")}),
        (changed(empty(TREE), 2, filenode=7), {("root", "rewritten")}),
        (changed(empty(TREE), 3, name="other"), {("plain", "renamed"), ("other", "renamed")}),
        (changed(empty(TREE), 2, parents=(), is_partition=False),
         {("root", "attached or detached"), ("leaf", "attached or detached")}),
        (empty(TREE[:2]), {("plain", "dropped")}),
        (empty([*TREE, table(9, "new")]), set()),
        (empty([*TREE, table(9, "new", parents=(1,), is_partition=True)]), {("root", "attached")}),
        (empty(TREE), set()),
    ],
)  # fmt: skip
def test_rows_that_come_or_go_without_a_write_are_found_as_changes(
    after: Catalogue, expected: set[tuple[str, str]]
) -> None:
    assert {(one.name, one.reason) for one in changes(empty(TREE), after)} == expected
    assert all(isinstance(one, Change) for one in changes(empty(TREE), after))


def test_a_function_says_which_table_it_is_for() -> None:
    assert function_table("t_7_row") == 7
    assert function_table("t_7_unknown") == function_table("restored_t_7_update") == 0


JOURNAL = Settings(mode="journal")


def test_what_is_in_journal_mode_as_installed_has_no_findings() -> None:
    assert findings(installed(TREE, JOURNAL)) == []


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"tables": frozenset()}, "no table pgcachewatch.journal"),
        ({"body": ""}, "another release"),
        ({"is_writable": False}, "may not insert"),
        ({"shapes": {}}, "a shape"),
    ],
)
def test_a_journal_that_takes_no_rows_or_explains_none_is_found_and_loses_events(
    changes: dict[str, Any], detail: str
) -> None:
    catalogue = installed(TREE, JOURNAL)

    (finding,) = findings(replace(catalogue, journal=replace(catalogue.journal, **changes)))

    assert finding.kind == "journal_broken"
    assert detail in finding.detail
    assert finding.may_lose_events


def test_who_may_not_read_the_shapes_finds_nothing_wrong_with_them() -> None:
    catalogue = installed(TREE, JOURNAL)

    assert findings(replace(catalogue, journal=replace(catalogue.journal, shapes=None))) == []


def test_a_broken_journal_is_of_no_concern_where_no_table_writes_to_it() -> None:
    catalogue = installed(TREE)

    assert findings(replace(catalogue, journal=Journal(frozenset({"journal"})))) == []


def test_a_renamed_table_has_another_shape_and_no_finding() -> None:
    catalogue = changed(installed(TREE, JOURNAL), 3, name="renamed")

    assert findings(catalogue) == []
