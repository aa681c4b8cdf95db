"""What a function depends on, as it is declared, and the rows that one call depends on."""

from __future__ import annotations

from typing import Any

import pytest

from pgcachewatch.core.dependencies import (
    ANY_ROW,
    ROWS_PER_ENTRY,
    Dimension,
    Result,
    Row,
    RowKey,
    Rows,
    Table,
    Tag,
    Unmatchable,
    declared,
)
from pgcachewatch.errors import ConfigurationError


def get(user_id: int, tenant: str = "a", *more: int, language: str = "en") -> None: ...


def rows_of(*rows: Row, types: tuple[tuple[str, ...], ...] = (("int8",),)) -> Rows:
    found = Rows(rows, get)
    found.types = types
    return found


@pytest.mark.parametrize(("args", "kwargs"), [((5,), {}), ((), {"user_id": 5}), ((5, "b", 1, 2), {"language": "de"})])
def test_a_column_is_the_value_of_an_argument_however_it_is_given(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert rows_of(Row("users", id="user_id")).of_call(args, kwargs) == [RowKey(0, "5")]


def test_a_default_counts_as_given() -> None:
    rows = rows_of(Row("users", tenant="tenant"), types=(("text",),))

    assert rows.of_call((5,), {}) == [RowKey(0, "a")]


def test_a_column_may_be_computed_from_the_arguments_and_from_the_result() -> None:
    rows = rows_of(
        Row("users", id=lambda user_id, *rest, **named: user_id + 1),
        Row("orders", id=Result(lambda result: result["orders"])),
        types=(("int8",), ("int4",)),
    )

    assert rows.of_call((5,), {}) == [RowKey(0, "6")]
    assert rows.of_result((5,), {}, {"orders": [7, 8]}) == [RowKey(1, "7"), RowKey(1, "8")]
    assert rows.late_dimensions == {1}


def test_several_columns_are_one_key_in_the_declared_order() -> None:
    rows = rows_of(Row("kv", tenant="tenant", id="user_id"), types=(("text", "int4"),))

    assert rows.dimensions == (Dimension("kv", ("tenant", "id")),)
    assert rows.of_call((5, "b"), {}) == [RowKey(0, '["b","5"]')]


def test_several_values_are_several_rows_and_too_many_are_any_row() -> None:
    rows = rows_of(Row("users", id="user_id"))

    assert rows.of_call(([5, 6],), {}) == [RowKey(0, "5"), RowKey(0, "6")]
    assert len(rows.of_call(([*range(ROWS_PER_ENTRY)],), {})) == ROWS_PER_ENTRY
    assert rows.of_call(([*range(ROWS_PER_ENTRY + 1)],), {}) == [RowKey(0, ANY_ROW)]
    assert rows.of_call(([],), {}) == []


def test_none_is_no_row() -> None:
    assert rows_of(Row("users", id="user_id")).of_call((None,), {}) == []


def test_rows_of_one_table_told_apart_alike_are_one_dimension() -> None:
    rows = Rows([Row("users", id="user_id"), Row("users", id="tenant"), Row("users", mail="tenant")], get)

    assert rows.dimensions == (Dimension("users", ("id",)), Dimension("users", ("mail",)))


def test_a_value_its_column_can_not_hold_is_unmatchable() -> None:
    with pytest.raises(Unmatchable, match=r"'x'.*int8"):
        rows_of(Row("users", id="user_id")).of_call(("x",), {})


def test_nothing_is_a_row_before_the_types_are_known() -> None:
    rows = Rows([Row("users", id="user_id")], get)

    assert rows.of_call((5,), {}) == []


def test_a_parameter_that_does_not_exist_is_refused_with_what_comes_close() -> None:
    with pytest.raises(ConfigurationError, match="did you mean user_id"):
        Rows([Row("users", id="userid")], get)
    with pytest.raises(ConfigurationError, match="it has: user_id, tenant"):
        Rows([Row("users", id="zzz")], get)


def test_a_row_without_columns_or_with_a_senseless_source_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="names no column"):
        Row("users")
    with pytest.raises(ConfigurationError, match="name of an argument"):
        Row("users", id=5)  # type: ignore[arg-type]  # what a user may write


def test_tables_and_tags_may_be_plain_text() -> None:
    found = declared(rows=Row("a", id="x"), tables=[Table("users"), "s.orders", "tag:menu"], tags=[Tag("a"), "tag:b"])

    assert (found.tables, found.tags) == (("users", "s.orders"), ("a", "b", "menu"))
    assert [row.table for row in found.rows] == ["a"]


@pytest.mark.parametrize(
    "wrong", [{"tables": "users"}, {"tables": Table("users")}, {"tags": "menu"}, {"rows": ["users"]}]
)
def test_what_is_no_list_of_its_kind_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        declared(**wrong)
