"""SQL expressions for the canonical text of a column's value: the table in the package's docstring, as code.

Each is independent of the writer's settings (DateStyle, TimeZone, IntervalStyle, bytea_output, extra_float_digits) by
the function it uses, not by a SET on the trigger's function, which would cost each statement about a microsecond. None
calls anything but pg_catalog: `format('%s')` rather than a cast, which a type's owner may have replaced by a function
of his own, and the triggers run with the rights of whoever installed them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgcachewatch_daemon.sql.names import quote_identifier, quote_literal

ENUM = "enum"

_PLAIN = "{0}::pg_catalog.text"
_TEXT = "pg_catalog.rtrim({0}::pg_catalog.text)"  # char(n) calls texts equal that differ in trailing blanks only
_ISO = "pg_catalog.btrim(pg_catalog.to_json({0})::pg_catalog.text, '\"')"  # JSON's dates know no DateStyle

EXPRESSIONS = {
    "int2": _PLAIN,
    "int4": _PLAIN,
    "int8": _PLAIN,
    "oid": _PLAIN,
    "uuid": _PLAIN,
    "bool": _PLAIN,
    "text": _TEXT,
    "varchar": _TEXT,
    "bpchar": _TEXT,
    "name": _TEXT,
    "numeric": "pg_catalog.trim_scale({0})::pg_catalog.text",
    "date": _ISO.format("{0}::pg_catalog.date"),
    "timestamp": _ISO.format("{0}::pg_catalog.timestamp"),
    "timestamptz": _ISO.format("pg_catalog.timezone('UTC', {0}::pg_catalog.timestamptz)") + " || 'Z'",
    "bytea": "pg_catalog.encode({0}::pg_catalog.bytea, 'hex')",
    ENUM: "pg_catalog.format('%s', {0})",
}

# Of these no text needs an escape in JSON, or is anything but ASCII.
PLAIN_TYPES = frozenset({"int2", "int4", "int8", "oid", "uuid", "bool", "numeric", "date", "timestamp", "timestamptz"})


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `type` is the base type's name where PostgreSQL has it, "enum", or a name nobody knows."""

    name: str
    type: str
    is_deterministic: bool = True

    @property
    def has_text(self) -> bool:
        """True when a client can tell the canonical text of each value."""
        return self.type in EXPRESSIONS and self.is_deterministic

    @property
    def problem(self) -> str:
        """Why not."""
        if self.type not in EXPRESSIONS:
            return f"column {self.name!r} has type {self.type}, whose values have no canonical text"
        return f"column {self.name!r} has a nondeterministic collation, which calls different texts equal"


def column_text(column: Column, row: str) -> str:
    """The canonical text of one column of `row`, which is an alias.

    >>> column_text(Column("id", "int8"), "n")
    'n."id"::pg_catalog.text'
    """
    return EXPRESSIONS[column.type].format(f"{row}.{quote_identifier(column.name)}")


def key_text(key: Sequence[Column], row: str) -> str:
    """The key of `row`: bare for one column, a JSON array for several.

    >>> key_text([Column("id", "int8")], "n")
    'n."id"::pg_catalog.text'
    """
    if len(key) == 1:
        return column_text(key[0], row)
    # Not json_build_array: it puts a blank behind each comma, and its text is no promise.
    texts = " || ',' || ".join(f"pg_catalog.to_json({column_text(column, row)})::pg_catalog.text" for column in key)
    return f"'[' || {texts} || ']'"


def further_text(column: Column, row: str) -> str:
    """A further column's value in its own namespace: `name=text`, or `name` for NULL.

    >>> print(further_text(Column("tenant_id", "int4"), "n"))
    coalesce('tenant_id=' || n."tenant_id"::pg_catalog.text, 'tenant_id')
    """
    equals, alone = quote_literal(f"{column.name}="), quote_literal(column.name)
    return f"coalesce({equals} || {column_text(column, row)}, {alone})"
