"""Texts of values: the same as the database's, or refused. That they are the same is shown on a real PostgreSQL."""

from __future__ import annotations

import datetime
import enum
import uuid
from decimal import Decimal

import pytest

from pgcachewatch.core.keytext import ANY_TYPE, TYPES, Unmatchable, key_of, text_of

UTC = datetime.UTC
KATHMANDU = datetime.timezone(datetime.timedelta(hours=5, minutes=45))
UUID = uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")


class Mood(enum.Enum):
    GOOD = "so 'la la'"
    COUNTED = 7


@pytest.mark.parametrize(
    ("value", "type_name", "text"),
    [
        (5, "int4", "5"),
        (-(2**63), "int8", "-9223372036854775808"),
        ("17", "int8", "17"),
        (True, "int2", "1"),
        (Mood.COUNTED, "int2", "7"),
        (Decimal("1200.500"), "numeric", "1200.5"),
        (Decimal("1E+3"), "numeric", "1000"),
        (Decimal("-0.00"), "numeric", "0"),
        (Decimal("0." + "1" * 60), "numeric", "0." + "1" * 60),
        (0.1, "numeric", "0.1"),
        (7, "numeric", "7"),
        (Decimal("NaN"), "numeric", "NaN"),
        ("ab  ", "bpchar", "ab"),
        ("a\tb ", "text", "a\tb"),
        (Mood.GOOD, "enum", "so 'la la'"),
        ("good ", "enum", "good "),
        (UUID, "uuid", str(UUID)),
        (str(UUID).upper(), "uuid", str(UUID)),
        (UUID.hex, "uuid", str(UUID)),
        (False, "bool", "false"),
        (datetime.date(99, 1, 2), "date", "0099-01-02"),
        (datetime.datetime(2030, 1, 31, 23, 59, 59, 500_000), "timestamp", "2030-01-31T23:59:59.5"),
        (datetime.datetime(2030, 1, 31), "timestamp", "2030-01-31T00:00:00"),
        (datetime.datetime(2030, 1, 1, 0, 0, tzinfo=KATHMANDU), "timestamptz", "2029-12-31T18:15:00Z"),
        (b"\x00\xffa", "bytea", "00ff61"),
        (memoryview(b"a"), "bytea", "61"),
        (UUID, ANY_TYPE, str(UUID)),
        (b"a", ANY_TYPE, "61"),
        (5, ANY_TYPE, "5"),
        (True, ANY_TYPE, "true"),
    ],
)
def test_a_value_has_its_columns_text(value: object, type_name: str, text: str) -> None:
    assert text_of(value, type_name) == text


@pytest.mark.parametrize(
    ("value", "type_name"),
    [
        ("5 ", "int4"),
        ("05", "int4"),
        ("-0", "int4"),
        (5.0, "int4"),
        ("5", "numeric"),
        (float("inf"), "numeric"),
        (Decimal("sNaN"), "numeric"),
        (5, "text"),
        (b"a", "text"),
        ("no uuid", "uuid"),
        (1, "bool"),
        ("2030-01-01", "date"),
        (datetime.datetime(2030, 1, 1), "date"),
        (datetime.date.max, "date"),
        (datetime.datetime(2030, 1, 1, tzinfo=UTC), "timestamp"),
        (datetime.datetime(2030, 1, 1), "timestamptz"),
        (datetime.datetime.max.replace(tzinfo=datetime.timezone(-datetime.timedelta(hours=1))), "timestamptz"),
        (datetime.datetime.min, "timestamp"),
        ("00ff", "bytea"),
        (7, "enum"),
        (object(), ANY_TYPE),
        (5, "float8"),
    ],
)
def test_a_value_that_has_no_one_text_is_refused_by_value_and_type(value: object, type_name: str) -> None:
    with pytest.raises(Unmatchable, match=type_name):
        text_of(value, type_name)


def test_a_key_of_several_columns_is_the_json_array_of_their_texts() -> None:
    assert key_of(["7"]) == "7"
    assert key_of(["7", 'a,"b"\\ü']) == '["7","a,\\"b\\"\\\\ü"]'


def test_each_type_that_has_a_text_in_the_database_has_one_here() -> None:
    from pgcachewatch_daemon.sql.keytext import EXPRESSIONS

    assert TYPES - {ANY_TYPE} == EXPRESSIONS.keys()
