"""What the keys of a journal row are made of: channel, names of key and further columns, and the table's name then.

A row of the journal has the number of its shape, and the function that writes it has that number as a constant. So rows
written before a key was changed are told apart from those behind it, and a row whose table is gone still has its name.
Shapes are few, never changed, and live as long as the journal. Equal content has one number: that of its hash, or the
next one that is free. So two people who install at once write the same rows.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from pgcachewatch_daemon.sql.entries import SCHEMA
from pgcachewatch_daemon.sql.names import quote_literal

NUMBERS = 2**31 - 1  # of a positive int4


@dataclass(frozen=True, slots=True)
class Shape:
    """`key` empty: rows are table-wide. Names are those of when it was installed; a partition has its root's."""

    channel: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    schema: str
    table: str


def shape_id(shape: Shape, known: Mapping[int, Shape]) -> int:
    """The number of `shape`, where `known` have theirs.

    >>> users = Shape("ch", ("id",), (), "public", "users")
    >>> shape_id(users, {}) == shape_id(users, {shape_id(users, {}): users})
    True
    """
    text = json.dumps(astuple(shape))
    first = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % NUMBERS
    # It ends: there are more numbers than shapes.
    return next(
        number for place in itertools.count() if known.get(number := (first + place) % NUMBERS + 1, shape) == shape
    )


def shape_sql(number: int, shape: Shape) -> str:
    """Write it down, unless somebody has.

    >>> print(shape_sql(7, Shape("ch", ("id",), (), "public", "users")))
    INSERT INTO pgcachewatch.shapes (id, channel, key, columns, table_schema, table_name)
    VALUES (7, 'ch', ARRAY['id']::pg_catalog.text[], ARRAY[]::pg_catalog.text[], 'public', 'users')
    ON CONFLICT (id) DO NOTHING
    """
    values = ", ".join(
        [
            str(number),
            quote_literal(shape.channel),
            _array(shape.key),
            _array(shape.columns),
            quote_literal(shape.schema),
            quote_literal(shape.table),
        ]
    )
    return (
        f"INSERT INTO {SCHEMA}.shapes (id, channel, key, columns, table_schema, table_name)\n"
        f"VALUES ({values})\nON CONFLICT (id) DO NOTHING"
    )


def _array(texts: Sequence[str]) -> str:
    return f"ARRAY[{', '.join(map(quote_literal, texts))}]::pg_catalog.text[]"
