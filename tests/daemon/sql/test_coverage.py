"""Which capture a table ought to have, and which tables can have none."""

from __future__ import annotations

import pytest

from pgcachewatch_daemon.sql.catalogue import FOREIGN, MATERIALIZED_VIEW, PARTITIONED, VIEW, Function, Relation
from pgcachewatch_daemon.sql.coverage import (
    Settings,
    captures,
    enabled_wanted,
    firing_of,
    installed_settings,
    key_of,
    problem_with,
    settings_of,
    shape_of,
)
from pgcachewatch_daemon.sql.functions import DEFAULT_MAX_KEYS, OPERATIONS
from pgcachewatch_daemon.sql.keytext import Column
from tests.daemon.sql.catalogues import CHANNEL, ID, empty, installed, table


@pytest.mark.parametrize(
    ("relation", "problem"),
    [
        (table(1, "t"), ""),
        (table(1, "t", kind=PARTITIONED), ""),
        (table(1, "t", is_owned=False), ""),
        (table(1, "t", kind=VIEW), "no rows of its own"),
        (table(1, "t", kind=MATERIALIZED_VIEW), "REFRESH"),
        (table(1, "t", kind=FOREIGN), "elsewhere"),
        (table(1, "t", is_owned=False, may_trigger=False), "TRIGGER privilege"),
    ],
)
def test_what_can_not_be_watched_says_why(relation: Relation, problem: str) -> None:
    assert problem in problem_with(relation)
    assert bool(problem) == bool(problem_with(relation))


@pytest.mark.parametrize(
    ("key", "reason"),
    [((ID,), ""), ((), "no primary key"), ((Column("a", "float8"),), "float8"), ((ID, Column("b", "json")), "json")],
)
def test_a_key_without_a_text_makes_events_table_wide_and_says_why(key: tuple[Column, ...], reason: str) -> None:
    relation = table(1, "t", key=key)

    columns, why = key_of(empty([relation]), relation)

    assert columns == (() if reason else key)
    assert reason in why


def test_a_partitions_key_is_its_roots() -> None:
    leaf = table(2, "leaf", parents=(1,), is_partition=True, key=(Column("other", "int4"),))
    catalogue = empty([table(1, "root", kind=PARTITIONED), leaf])

    assert key_of(catalogue, leaf) == ((ID,), "")


def test_a_family_with_a_foreign_member_has_no_transition_tables_and_the_member_no_capture() -> None:
    catalogue = empty(
        [table(1, "root", kind=PARTITIONED), table(2, "f", kind=FOREIGN, parents=(1,), is_partition=True)]
    )

    wanted = captures(catalogue, catalogue.family(1), Settings(), default_channel=CHANNEL)

    assert wanted.keys() == {1}
    assert not wanted[1].has_transition
    assert not wanted[1].has_keys


def test_only_those_joined_by_inheritance_tell_each_other() -> None:
    catalogue = empty(
        [table(1, "root", kind=PARTITIONED), table(2, "leaf", parents=(1,), is_partition=True),
         table(3, "parent"), table(4, "child", parents=(3,))]
    )  # fmt: skip
    wanted = {
        oid: capture
        for top in (1, 3)
        for oid, capture in captures(catalogue, catalogue.family(top), Settings(), default_channel=CHANNEL).items()
    }

    assert {oid: capture.has_relatives for oid, capture in wanted.items()} == {1: False, 2: False, 3: True, 4: True}


def test_what_was_asked_for_is_read_back_from_what_is_installed() -> None:
    tenant = Column("tenant", "int4")
    catalogue = installed([table(1, "t", columns={"id": ID, "tenant": tenant})], Settings("c", ("tenant",), 7))

    assert installed_settings(catalogue, catalogue.relations[1]) == Settings("c", ("tenant",), 7)
    assert installed_settings(empty([table(1, "t")]), table(1, "t")) is None


def test_defaults_hold_where_nothing_is_asked() -> None:
    catalogue = empty([table(1, "t")])

    capture = captures(catalogue, catalogue.family(1), Settings(), default_channel=CHANNEL)[1]

    assert (capture.channel, capture.max_keys, capture.columns) == (CHANNEL, DEFAULT_MAX_KEYS, ())


def test_triggers_fire_always_where_the_table_is_ours_and_for_what_a_subscription_applies() -> None:
    ours, theirs, applied = table(1, "t"), table(1, "t", is_owned=False), table(1, "t", is_replicated=True)

    assert {operation: firing_of(ours, operation) for operation in enabled_wanted(ours)} == dict.fromkeys(
        OPERATIONS, "A"
    )
    assert {operation: firing_of(theirs, operation) for operation in enabled_wanted(theirs)} == dict.fromkeys(
        OPERATIONS, "O"
    )
    assert {operation: firing_of(applied, operation) for operation in enabled_wanted(applied)} == {
        "insert": "O", "update": "O", "delete": "O", "truncate": "A", "row": "R",
    }  # fmt: skip


def test_what_is_asked_for_goes_before_what_was_kept_also_when_it_is_nothing() -> None:
    kept = Settings("ch", ("a",), 7, "journal", "none", True)

    assert Settings().over(kept) == kept
    assert Settings(columns=(), is_fail_open=False).over(kept) == Settings("ch", (), 7, "journal", "none", False)
    assert Settings("x", ("b",), 1, "direct", "gated").over(kept) == Settings("x", ("b",), 1, "direct", "gated", True)


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        ({}, Settings()),
        (
            {"mode": "journal", "wake": "none", "is_fail_open": True},
            Settings(None, None, None, "journal", "none", True),
        ),
        ({"mode": "telepathy", "wake": 1, "is_fail_open": "yes"}, Settings()),
    ],
)
def test_a_comment_says_the_mode_or_nothing(said: dict[str, object], settings: Settings) -> None:
    assert settings_of(Function("f", said)) == settings


def test_a_capture_in_journal_mode_knows_its_shape_and_a_direct_one_has_none() -> None:
    catalogue = empty([table(1, "t")])
    family = catalogue.family(1)

    direct = captures(catalogue, family, Settings(), default_channel=CHANNEL)[1]
    written = captures(catalogue, family, Settings(mode="journal"), default_channel=CHANNEL)[1]

    assert (direct.mode, direct.shape_id) == ("direct", 0)
    assert (written.mode, written.wake, written.is_fail_open) == ("journal", "gated", False)
    shape = shape_of(catalogue, written)
    assert (shape.channel, shape.key, shape.schema, shape.table) == (CHANNEL, ("id",), "public", "t")


def test_the_shape_of_a_table_wide_capture_has_no_key() -> None:
    catalogue = empty([table(1, "t", key=())])
    capture = captures(catalogue, catalogue.family(1), Settings(mode="journal"), default_channel=CHANNEL)[1]

    assert shape_of(catalogue, capture).key == ()
