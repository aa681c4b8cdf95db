"""The generated functions as text; what they do is tested on PostgreSQL in tests/integration."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch_daemon.sql.functions import (
    HEAD_BYTES,
    OPERATIONS,
    SHARED_DIGEST,
    VERSION,
    Capture,
    Operation,
    function_sql,
    shared_sql,
    trigger_sql,
)
from pgcachewatch_daemon.sql.keytext import Column

KEY = (Column("id", "int8"),)
SHAPES = [
    Capture(5, "c", key=KEY),
    Capture(5, "c", key=KEY, columns=(Column("tenant", "text"),)),
    Capture(5, "c"),
    Capture(5, "c", key=KEY, is_partition=True),
    Capture(5, "c", key=KEY, has_relatives=True),
    Capture(5, "c", has_transition=False),
]
EVERY: tuple[Operation, ...] = (*OPERATIONS, "row")
NAME = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=63)


def test_a_changed_template_has_a_new_version() -> None:
    """Functions of another version are found and replaced. When this fails, raise VERSION and put the digest here."""
    texts = [SHARED_DIGEST, *(sql for shape in SHAPES for operation in EVERY for sql in function_sql(shape, operation))]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]

    assert (VERSION, digest) == (1, "a35debe39724d70f")


SYNTAX = {"coalesce", "a"}  # a is an alias with its columns


def test_every_function_and_type_that_is_used_is_named_with_its_schema() -> None:
    for shape in SHAPES:
        for operation in EVERY:
            body = function_sql(shape, operation)[0].partition("$pgcachewatch$")[2]
            code = re.sub(r"'(?:[^']|'')*'", "''", body)
            assert set(re.findall(r"(?<![\w.])([a-z_]+)\(", code)) <= SYNTAX
            assert re.findall(r"::(?!pg_catalog\.)\w+", code) == []


@given(st.lists(NAME, min_size=1, max_size=3, unique=True), NAME)
def test_no_name_ends_the_text_it_stands_in(names: list[str], channel: str) -> None:
    key = tuple(Column(name, "text") for name in names)
    capture = Capture(5, channel, key=key, columns=key)
    for operation in EVERY:
        create, _, comment = function_sql(capture, operation)
        tag = re.findall(r" AS (\$pgcachewatch_*\$)", create)[-1]
        assert create.endswith(tag)
        assert create.count(tag) == 2
        assert comment.startswith("COMMENT ON FUNCTION")


def test_names_of_key_columns_too_long_for_a_payload_make_events_table_wide() -> None:
    many = tuple(Column("ü" * 31 + str(number), "int4") for number in range(32))
    capture = Capture(5, "c", key=many)

    assert len(json.dumps([column.name for column in many])) > HEAD_BYTES
    assert not capture.has_keys
    assert "pgcachewatch_new AS r" not in function_sql(capture, "insert")[0]


@pytest.mark.parametrize(
    ("operation", "clause"),
    [
        ("insert", "AFTER INSERT ON t REFERENCING NEW TABLE AS pgcachewatch_new FOR EACH STATEMENT"),
        ("delete", "AFTER DELETE ON t REFERENCING OLD TABLE AS pgcachewatch_old FOR EACH STATEMENT"),
        ("truncate", "AFTER TRUNCATE ON t FOR EACH STATEMENT"),
        ("row", "AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW"),
    ],
)
def test_each_trigger_sees_the_rows_of_its_operation(operation: Operation, clause: str) -> None:
    assert clause in trigger_sql(Capture(5, "c", key=KEY), operation, "t")


def test_a_capture_without_transition_tables_asks_for_none() -> None:
    assert "REFERENCING" not in trigger_sql(Capture(5, "c", has_transition=False), "update", "t")


def test_shared_functions_are_nobodys_to_call() -> None:
    assert sum("FROM PUBLIC" in statement for statement in shared_sql()) == 2
