"""What makes the journal, in which order, and what is wrong with one; what it does is tested in tests/integration."""

from __future__ import annotations

from dataclasses import replace

from pgcachewatch_daemon.sql.catalogue import Journal
from pgcachewatch_daemon.sql.journal_tables import (
    GUARD,
    JOURNAL_DIGEST,
    JOURNAL_VERSION,
    TABLES,
    drop_sql,
    grants_sql,
    journal_problem,
    journal_sql,
)

RIGHT = Journal(frozenset(TABLES), JOURNAL_DIGEST)


def test_changed_tables_have_a_new_version() -> None:
    """When this fails, raise JOURNAL_VERSION, put the digest here, and think of those who have the tables already."""
    assert (JOURNAL_VERSION, JOURNAL_DIGEST) == (1, "50dd47217deafc7e")


def test_each_damage_has_its_name() -> None:
    assert journal_problem(RIGHT) == ""
    assert "pgcachewatch.journal" in journal_problem(Journal())
    assert "pgcachewatch.dead_letters" in journal_problem(replace(RIGHT, tables=frozenset(TABLES[:-1])))
    assert "another release" in journal_problem(replace(RIGHT, body="0"))
    assert "may not insert" in journal_problem(replace(RIGHT, is_writable=False))


def test_an_owner_is_given_all_tables_and_the_guard_and_nothing_is_everybodys() -> None:
    statements = list(journal_sql('some"body'))

    owned = [sql for sql in statements if sql.endswith('OWNER TO "some""body"')]
    assert len(owned) == len(TABLES) + 1
    assert sum("REVOKE ALL ON TABLE" in sql for sql in statements) == len(TABLES)


def test_only_what_is_there_is_dropped() -> None:
    assert list(drop_sql(frozenset({"epoch"}))) == [
        "DROP TABLE pgcachewatch.epoch",
        f"DROP FUNCTION IF EXISTS pgcachewatch.{GUARD}()",
    ]


def test_a_relay_is_granted_nothing_that_makes_events() -> None:
    grants = list(grants_sql("relay"))

    assert not [sql for sql in grants if "INSERT" in sql and ".journal " in sql]
    assert not [sql for sql in grants if "ALL" in sql or ("shapes" in sql and "SELECT" not in sql)]
