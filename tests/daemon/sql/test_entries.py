"""The functions of journal mode as text; what they do is tested on PostgreSQL in tests/integration."""

from __future__ import annotations

import hashlib
import re

import pytest

from pgcachewatch_daemon.sql.capture import OPERATIONS, Capture, Operation
from pgcachewatch_daemon.sql.entries import JOURNAL_CHANNEL, JOURNAL_LOCK, entry_body
from pgcachewatch_daemon.sql.functions import VERSION, function_sql
from pgcachewatch_daemon.sql.keytext import Column

KEY = (Column("id", "int8"),)
PLAIN = Capture(5, "c", key=KEY, mode="journal", shape_id=7)
SHAPES = [
    PLAIN,
    Capture(5, "c", key=KEY, columns=(Column("tenant", "text"),), mode="journal"),
    Capture(5, "c", mode="journal"),
    Capture(5, "c", key=KEY, is_partition=True, mode="journal"),
    Capture(5, "c", key=KEY, has_relatives=True, mode="journal"),
    Capture(5, "c", has_transition=False, mode="journal"),
    Capture(5, "c", key=KEY, wake="none", mode="journal"),
    Capture(5, "c", key=KEY, is_fail_open=True, mode="journal"),
]
EVERY: tuple[Operation, ...] = (*OPERATIONS, "row")


def test_a_changed_template_has_a_new_version() -> None:
    """Functions of another version are found and replaced. When this fails, raise VERSION and put the digest here."""
    texts = [sql for shape in SHAPES for operation in EVERY for sql in function_sql(shape, operation)]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]

    assert (VERSION, digest) == (1, "a529f02e825795fc")


def test_every_function_and_type_that_is_used_is_named_with_its_schema() -> None:
    for shape in SHAPES:
        for operation in EVERY:
            code = re.sub(r"'(?:[^']|'')*'", "''", entry_body(shape, operation))
            assert set(re.findall(r"(?<![\w.])([a-z_]+)\(", code)) <= {"coalesce", "a"}
            assert re.findall(r"::(?!pg_catalog\.)\w+", code) == []


def test_the_lock_is_derived_from_the_name_of_the_project() -> None:
    name = hashlib.sha256(b"pgcachewatch").digest()

    assert (int.from_bytes(name[:4], "big"), 1) == JOURNAL_LOCK
    assert JOURNAL_LOCK[0] < 2**31


@pytest.mark.parametrize("operation", EVERY)
def test_without_a_wake_up_nothing_is_notified_and_no_lock_is_looked_at(operation: Operation) -> None:
    body = entry_body(Capture(5, "c", key=KEY, wake="none", mode="journal"), operation)

    assert "pg_notify" not in body
    assert "advisory" not in body


@pytest.mark.parametrize("operation", EVERY)
def test_the_row_is_written_outside_of_any_block_unless_the_function_fails_open(operation: Operation) -> None:
    closed, opened = entry_body(PLAIN, operation), entry_body(SHAPES[-1], operation)

    assert "EXCEPTION WHEN" not in closed.partition("INSERT INTO")[2]
    assert f"pg_notify('{JOURNAL_CHANNEL}', 'reset " in opened.partition("EXCEPTION WHEN OTHERS")[2]


def test_the_number_of_a_shape_is_in_the_function() -> None:
    assert "VALUES (7, told, 'u', found, CASE WHEN" in entry_body(PLAIN, "update")
