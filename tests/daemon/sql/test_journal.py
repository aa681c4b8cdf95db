"""The relay's statements as text; what they return is tested on PostgreSQL in tests/integration."""

from __future__ import annotations

import re

import pytest

from pgcachewatch_daemon.sql import journal
from pgcachewatch_daemon.sql.entries import JOURNAL_LOCK, PRUNE_LOCK

BUILDERS = [
    journal.is_there_sql,
    journal.poll_sql,
    journal.history_sql,
    journal.epoch_sql,
    journal.starts_sql,
    journal.take_lock_sql,
    journal.give_up_lock_sql,
    journal.is_free_sql,
    journal.own_xid_sql,
    journal.notify_sql,
    journal.measure_sql,
    journal.prune_sql,
]


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_each_is_one_statement_whose_functions_are_named_with_their_schema(build: object) -> None:
    assert callable(build)
    sql = build()
    code = re.sub(r"'(?:[^']|'')*'", "''", re.sub("--.*", "", sql))

    assert ";" not in code
    assert set(re.findall(r"(?<![\w.])([a-z_]+)\(", code)) <= {"coalesce", "greatest"}


def test_a_poll_is_two_ranges_of_the_index_and_never_a_look_at_what_is_visible() -> None:
    sql = journal.poll_sql()

    assert sql.count("FROM pgcachewatch.journal AS j") == 2
    assert "pg_visible_in_snapshot" not in sql


def test_pruning_and_being_awake_are_different_locks() -> None:
    assert PRUNE_LOCK != JOURNAL_LOCK
    assert f"({PRUNE_LOCK[0]}, {PRUNE_LOCK[1]})" in journal.prune_sql()
