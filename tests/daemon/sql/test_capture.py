"""Keys are collected once for both modes, and only what is asked for is different."""

from __future__ import annotations

import pytest

from pgcachewatch_daemon.sql.capture import NEW_ROWS, OLD_ROWS, Capture, Operation, collect, made_of
from pgcachewatch_daemon.sql.keytext import Column

KEY = (Column("id", "int8"),)
TEXT = (Column("name", "text"),)


@pytest.mark.parametrize(
    ("operation", "tables"), [("insert", {NEW_ROWS}), ("delete", {OLD_ROWS}), ("update", {OLD_ROWS, NEW_ROWS})]
)
def test_keys_come_from_the_rows_that_the_operation_has(operation: Operation, tables: set[str]) -> None:
    collected = collect(Capture(5, "c", key=KEY), operation, is_json=True)

    assert {name for name in (OLD_ROWS, NEW_ROWS) if name in collected} == tables


@pytest.mark.parametrize("operation", ["update", "row"])
def test_keys_are_made_json_only_where_they_are_notified(operation: Operation) -> None:
    capture = Capture(5, "c", key=TEXT)

    assert "to_json" in collect(capture, operation, is_json=True)
    assert "to_json" not in collect(capture, operation, is_json=False)


@pytest.mark.parametrize("operation", ["insert", "update", "delete"])
def test_a_table_wide_capture_still_looks_whether_any_row_changed(operation: Operation) -> None:
    assert "NOT EXISTS" in collect(Capture(5, "c"), operation, is_json=False)


def test_nothing_is_collected_where_there_are_no_rows_to_look_at() -> None:
    assert collect(Capture(5, "c", key=KEY), "truncate", is_json=False) == ""
    assert collect(Capture(5, "c", key=KEY, has_transition=False), "update", is_json=False) == ""


def test_what_keys_are_made_of_is_ascii() -> None:
    assert made_of(Capture(5, "c", key=(Column("é", "int4"),), columns=TEXT)) == (
        ',"key":["\\u00e9"],"columns":["name"]'
    )
