"""The text by which a row is told apart, from Python's side: what the database's trigger writes for the same value.

Both sides must agree, or a change of a row would not find the entry that depends on it. So a value is written by the
type of its *column*, which the relay tells with each subscription (W-ROW-2), and one that this type can not hold in
one way only is Unmatchable rather than guessed at: its call runs the function and stores nothing.

    smallint, integer, bigint, oid   decimal digits            int, or digits in a str
    numeric                          12.5: no trailing zeros   Decimal, int, finite float
    text, varchar, char, name        without trailing blanks   str
    uuid                             lower case, hyphens       UUID, or a str that is one
    boolean                          true, false               bool
    date, timestamp                  ISO 8601                  date; naive datetime
    timestamptz                      ISO 8601 in UTC, and Z    aware datetime
    bytea                            hexadecimal digits        bytes, bytearray, memoryview
    enum                             its label                 str, or an Enum whose value is one

A key of several columns is the JSON array of their texts. On the path of an event: beside step 11, drop.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import re
import uuid
from collections.abc import Callable, Sequence

ANY_TYPE = "any"  # of a relay that does not know its tables, as the fake one: the value's own type decides
DIGITS = re.compile(r"-?(?:0|[1-9][0-9]*)")


class Unmatchable(Exception):
    """This value has no text of this type; the message says why, and is meant to follow "because"."""


def text_of(value: object, type_name: str) -> str:
    """The canonical text of one value in a column of this base type. Raises Unmatchable.

    >>> text_of(5, "int8"), text_of(True, "bool"), text_of(b"a", "bytea")
    ('5', 'true', '61')
    """
    if isinstance(value, enum.Enum):
        value = value.value
    write = _WRITERS.get(type_name)
    text = write(value) if write is not None else None
    if text is None:
        raise Unmatchable(f"{value!r} ({type(value).__name__}) has no one text in a column of type {type_name}")
    return text


def key_of(texts: Sequence[str]) -> str:
    """The key that the texts of its columns make.

    >>> key_of(["7"]), key_of(["7", "ü"])
    ('7', '["7","ü"]')
    """
    return texts[0] if len(texts) == 1 else json.dumps(texts, ensure_ascii=False, separators=(",", ":"))


def _integer(value: object) -> str | None:
    if isinstance(value, int):
        return str(int(value))
    return value if isinstance(value, str) and value != "-0" and DIGITS.fullmatch(value) else None


def _numeric(value: object) -> str | None:
    if isinstance(value, float):
        value = decimal.Decimal(repr(value))
    if isinstance(value, int):
        return str(int(value))
    if not isinstance(value, decimal.Decimal):
        return None
    if not value.is_finite():
        return "NaN" if value.is_qnan() else None
    # Not Decimal.normalize, which rounds to the context's precision.
    digits = format(value, "f")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return "0" if digits == "-0" else digits


def _text(value: object) -> str | None:
    return value.rstrip(" ") if isinstance(value, str) else None


def _label(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _uuid(value: object) -> str | None:
    if isinstance(value, str):
        try:
            return str(uuid.UUID(value))
        except ValueError:
            return None
    return str(value) if isinstance(value, uuid.UUID) else None


def _boolean(value: object) -> str | None:
    return str(value).lower() if isinstance(value, bool) else None


def _date(value: object) -> str | None:
    # The first and the last day stand for infinity in asyncpg, which has a text of its own.
    if not isinstance(value, datetime.date) or isinstance(value, datetime.datetime):
        return None
    return None if value in (datetime.date.min, datetime.date.max) else value.isoformat()


def _timestamp(value: object) -> str | None:
    return _instant(value) if isinstance(value, datetime.datetime) and value.tzinfo is None else None


def _timestamptz(value: object) -> str | None:
    if not isinstance(value, datetime.datetime) or value.utcoffset() is None:
        return None
    try:
        in_utc = value.astimezone(datetime.UTC).replace(tzinfo=None)
    except OverflowError:
        return None
    text = _instant(in_utc)
    return None if text is None else f"{text}Z"


def _instant(value: datetime.datetime) -> str | None:
    if value in (datetime.datetime.min, datetime.datetime.max):
        return None
    text = value.isoformat()
    return text.rstrip("0") if "." in text else text


def _bytes(value: object) -> str | None:
    return bytes(value).hex() if isinstance(value, bytes | bytearray | memoryview) else None


def _by_itself(value: object) -> str | None:
    """As the value's own type is usually stored."""
    for write in (_boolean, _numeric, _timestamptz, _timestamp, _date, _bytes, _text):
        text = write(value)
        if text is not None:
            return text
    return str(value) if isinstance(value, uuid.UUID) else None


_WRITERS: dict[str, Callable[[object], str | None]] = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), _integer),
    **dict.fromkeys(("text", "varchar", "bpchar", "name"), _text),
    "numeric": _numeric,
    "uuid": _uuid,
    "bool": _boolean,
    "date": _date,
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
    "bytea": _bytes,
    "enum": _label,
    ANY_TYPE: _by_itself,
}
TYPES = frozenset(_WRITERS)
