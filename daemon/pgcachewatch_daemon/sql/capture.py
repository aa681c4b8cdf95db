"""What the trigger functions of one table do, and how they find the keys of the rows that a statement changed.

The same collecting serves both modes. In direct mode a function notifies its event, and needs the keys as JSON; in
journal mode it writes them into a row of the journal, and needs them as they are.

Bounds. A statement's keys are read up to `max_keys` per operand and no further; more, or one that does not fit, make
the event table-wide.
"""

# ruff: noqa: S608 - building SQL is the purpose here; what is put in is quoted by `names`

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pgcachewatch_daemon.sql.keytext import PLAIN_TYPES, Column, further_text, key_text
from pgcachewatch_daemon.sql.names import quote_identifier

HEAD_BYTES = 2_500  # for names of key columns; a key with longer ones is left out, and the event is table-wide
KEY_BYTES = 1_024  # W-LIMIT-4
DEFAULT_MAX_KEYS = 5_000

Operation = Literal["insert", "update", "delete", "truncate", "row"]
OPERATIONS: tuple[Operation, ...] = ("insert", "update", "delete", "truncate")
OLD_ROWS, NEW_ROWS = "pgcachewatch_old", "pgcachewatch_new"

Mode = Literal["direct", "journal"]
MODES: tuple[Mode, ...] = ("direct", "journal")
Wake = Literal["gated", "none"]
WAKES: tuple[Wake, ...] = ("gated", "none")

# What a writer that is traced has said with SET LOCAL. Its length and letters are looked at and no more, in a tenth of
# the time: so it can neither end the JSON string it stands in nor make a payload too long. Its reader does the rest.
TRACEPARENT = "pg_catalog.current_setting('pgcachewatch.traceparent', true)"
TRACEPARENT_LETTERS = 55
IS_TRACED = f"pg_catalog.length({TRACEPARENT}) = {TRACEPARENT_LETTERS} AND {TRACEPARENT} ~ '^[0-9a-f-]*$'"

# The tables above and below the one that the trigger is on, by inheritance.
RELATIVES = """WITH RECURSIVE up AS (
      SELECT i.inhparent AS relid FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = TG_RELID
      UNION SELECT i.inhparent FROM pg_catalog.pg_inherits AS i JOIN up ON i.inhrelid = up.relid
    ), down AS (
      SELECT i.inhrelid AS relid FROM pg_catalog.pg_inherits AS i WHERE i.inhparent = TG_RELID
      UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN down ON i.inhparent = down.relid
    )"""


@dataclass(frozen=True, slots=True)
class Capture:
    """What the functions of one table do.

    `key` empty: its events are table-wide. `has_transition` False: they are sent without looking at rows, because a
    tree with foreign partitions can not have transition tables. `has_relatives`: it inherits or is inherited from.
    `table`: the name it has now, for whoever finds its functions once it is gone.
    The last three are of journal mode. `shape_id`: what its keys are made of (sql.shapes). `wake` none: nothing is ever
    notified, and the relay polls. `is_fail_open`: a write that can not be recorded goes through all the same.
    """

    oid: int
    channel: str
    key: tuple[Column, ...] = ()
    columns: tuple[Column, ...] = ()
    max_keys: int = DEFAULT_MAX_KEYS
    is_partition: bool = False
    has_relatives: bool = False
    has_transition: bool = True
    table: str = ""
    mode: Mode = "direct"
    shape_id: int = 0
    wake: Wake = "gated"
    is_fail_open: bool = False

    @property
    def has_keys(self) -> bool:
        return bool(self.key) and self.has_transition and len(made_of(self)) <= HEAD_BYTES

    @property
    def is_plain(self) -> bool:
        """True when no key needs an escape in JSON."""
        return len(self.key) == 1 and self.key[0].type in PLAIN_TYPES and not self.columns

    def function_name(self, operation: Operation) -> str:
        return f"t_{self.oid}_{operation}"


def made_of(capture: Capture) -> str:
    """What the keys are made of, as the part of a payload before them. ASCII."""
    names = json.dumps([column.name for column in capture.key], separators=(",", ":"))
    further = json.dumps([column.name for column in capture.columns], separators=(",", ":"))
    return f',"key":{names}' + (f',"columns":{further}' if capture.columns else "")


def collect(capture: Capture, operation: Operation, *, is_json: bool) -> str:
    """Statements that fill `found` with keys, or leave it NULL for a table-wide event, or return when nothing changed.

    `is_json`: each key as a JSON string. They need variables `rows_read`, `longest` and `found`.
    """
    if operation == "truncate" or not capture.has_transition:
        return ""
    if operation == "row":
        return _collect_row(capture, is_json=is_json) if capture.has_keys else ""
    tables = {"insert": [NEW_ROWS], "delete": [OLD_ROWS], "update": [OLD_ROWS, NEW_ROWS]}[operation]
    if not capture.has_keys:
        nothing = " AND ".join(f"NOT EXISTS (SELECT FROM {each})" for each in tables)
        return f"\n  IF {nothing} THEN\n    RETURN NULL;\n  END IF;"
    groups: list[tuple[Sequence[Column], str]] = [(capture.key, key_text(capture.key, "r"))]
    groups += [((column,), further_text(column, "r")) for column in capture.columns]
    limit = capture.max_keys * len(tables)
    arms = "\n      UNION ALL ".join(_arm(columns, text, tables, limit) for columns, text in groups)
    text = "k.text"
    if is_json:
        text = "'\"' || k.text || '\"'" if capture.is_plain else "pg_catalog.to_json(k.text)::pg_catalog.text"
    return f"""
  SELECT pg_catalog.sum(k.times), pg_catalog.max(coalesce(pg_catalog.octet_length(k.text), {KEY_BYTES + 1})),
      pg_catalog.array_agg({text})
    INTO rows_read, longest, found
    FROM ({arms}) AS k (text, times);
  IF rows_read IS NULL THEN
    RETURN NULL;
  END IF;
  IF rows_read > {limit * len(groups)} OR longest > {KEY_BYTES}
      OR pg_catalog.cardinality(found) > {capture.max_keys} THEN
    found := NULL;
  END IF;"""


def _arm(columns: Sequence[Column], text: str, tables: Sequence[str], limit: int) -> str:
    """The texts of one key or further column, and how many rows have each.

    Grouped by values and not by texts, so that a text is made once for the old and the new row. The limit stands
    inside, so that a statement on a million rows reads no more of them than this.
    """
    names = ", ".join(f"r.{quote_identifier(column.name)}" for column in columns)
    rows = " UNION ALL ".join(f"SELECT {names} FROM {table} AS r" for table in tables)
    return f"SELECT {text}, pg_catalog.count(*) FROM ({rows} LIMIT {limit + 1}) AS r GROUP BY {names}"


def _collect_row(capture: Capture, *, is_json: bool) -> str:
    old, new = (
        "ARRAY[" + ", ".join(f"({text})" for text in _texts(capture, row)) + "]::pg_catalog.text[]"
        for row in ("OLD", "NEW")
    )
    text = "pg_catalog.to_json(a.text)::pg_catalog.text" if is_json else "a.text"
    return f"""
  IF TG_OP = 'INSERT' THEN
    found := {new};
  ELSIF TG_OP = 'DELETE' THEN
    found := {old};
  ELSE
    found := {old} || {new};
  END IF;
  SELECT pg_catalog.max(coalesce(pg_catalog.octet_length(a.text), {KEY_BYTES + 1})),
      pg_catalog.array_agg(DISTINCT {text})
    INTO longest, found FROM pg_catalog.unnest(found) AS a (text);
  IF longest > {KEY_BYTES} THEN
    found := NULL;
  END IF;"""


def _texts(capture: Capture, row: str) -> Sequence[str]:
    """One expression per key of a row."""
    return [key_text(capture.key, row), *(further_text(column, row) for column in capture.columns)]
