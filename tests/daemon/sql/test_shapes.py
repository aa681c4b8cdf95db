"""One number for one content, whoever asks, and never one for two."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch_daemon.sql.shapes import NUMBERS, Shape, shape_id, shape_sql

USERS = Shape("ch", ("id",), (), "public", "users")
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(TEXT, TEXT)
def test_a_number_fits_its_column_and_depends_on_all_that_is_in_a_shape(channel: str, table: str) -> None:
    shapes = {
        Shape(channel, ("a", "b"), (), "s", table),
        Shape(channel, ("a,b",), (), "s", table),
        Shape(channel, (), ("a", "b"), "s", table),
        Shape(channel, ("a", "b"), (), "s2", table),
    }
    numbers = {shape_id(shape, {}) for shape in shapes}

    assert len(numbers) == len(shapes)
    assert all(0 < number <= NUMBERS for number in numbers)


def test_a_number_that_something_else_has_is_passed_over() -> None:
    first = shape_id(USERS, {})
    other = Shape("ch", ("id",), (), "public", "other")

    second = shape_id(USERS, {first: other})

    assert second == first % NUMBERS + 1
    assert shape_id(USERS, {first: other, second: USERS}) == second


def test_names_are_quoted() -> None:
    sql = shape_sql(1, Shape("it's", ("a'b",), (), "s", "x\\'); drop table t; --"))

    assert "'it''s', ARRAY['a''b']" in sql
    assert "E'x\\\\''); drop table t; --'" in sql
