"""The SQL of the original's triggers: one per table, one event per statement.

The functions return text for somebody to read, review and run, so every name is quoted here: a table called
`a"; drop table x; --` is a table of that name. Table and function names may have a schema (`s2.kv`), and may be quoted
themselves where a name has a dot (`"odd.name"`). Capitals are kept: `Users` is the table "Users", not users.

The payload is the original's with the schema added, and `sent_at` is the time of the statement rather than of the
transaction. It differs from statement to statement, so PostgreSQL, which delivers equal notifications of one
transaction only once, delivers each. Needs PostgreSQL 14 or later.
"""

from __future__ import annotations

import re

from pgcachewatch.errors import ConfigurationError

NAME_BYTES = 63  # NAMEDATALEN - 1: PostgreSQL cuts longer names off, and then nobody finds them again

_PART = re.compile(r'"((?:[^"]|"")+)"(?=\.|$)|([^".][^.]*)')


def create_notify_function(channel_name: str, function_name: str) -> str:
    """The trigger function that notifies `channel_name`. Every name in it is qualified, whatever the search_path is.

    >>> print(create_notify_function("ch", "fn").splitlines()[0])
    CREATE OR REPLACE FUNCTION "fn"() RETURNS trigger LANGUAGE plpgsql AS $pgcachewatch$
    """
    _check(channel_name, "channel")
    body = f"""
BEGIN
  PERFORM pg_catalog.pg_notify(
    {quote_literal(channel_name)},
    pg_catalog.json_build_object(
      'operation', pg_catalog.lower(TG_OP),
      'table', TG_TABLE_NAME,
      'schema', TG_TABLE_SCHEMA,
      'sent_at', pg_catalog.clock_timestamp()
    )::pg_catalog.text
  );
  RETURN NULL;
END;
"""
    tag = "$pgcachewatch$"
    while tag in body:  # a channel may be called anything
        tag = f"{tag[:-1]}_$"
    head = f"CREATE OR REPLACE FUNCTION {quote_name(function_name)}() RETURNS trigger LANGUAGE plpgsql AS "
    return f"{head}{tag}{body}{tag};"


def create_after_change_trigger(trigger_name: str, table_name: str, function_name: str) -> str:
    """The trigger that calls the function after each statement that can change `table_name`.

    >>> print(create_after_change_trigger("tg", "s2.kv", "fn"))
    CREATE OR REPLACE TRIGGER "tg"
      AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON "s2"."kv"
      FOR EACH STATEMENT EXECUTE FUNCTION "fn"();
    """
    return (
        f"CREATE OR REPLACE TRIGGER {quote_identifier(trigger_name)}\n"
        f"  AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {quote_name(table_name)}\n"
        f"  FOR EACH STATEMENT EXECUTE FUNCTION {quote_name(function_name)}();"
    )


def fetch_trigger_names(prefix: str) -> str:
    """A query for `schema`, `table` and `trigger_name` of each trigger whose name begins with `prefix`.

    There is a row for each of insert, update and delete; information_schema does not know truncate.
    """
    return f"""
SELECT
  event_object_schema::pg_catalog.text AS schema,
  event_object_table::pg_catalog.text AS "table",
  trigger_name::pg_catalog.text AS trigger_name
FROM
  information_schema.triggers
WHERE
  pg_catalog.starts_with(trigger_name::pg_catalog.text, {quote_literal(prefix)})
ORDER BY
  1, 2, 3, event_manipulation
"""  # the one thing put in is quoted


def drop_trigger(trigger_name: str, table: str, schema: str | None = None) -> str:
    """Take a trigger from a table. With `schema`, both are names as the catalog has them; else `table` may have one.

    >>> drop_trigger("tg", "odd.name", schema="public")
    'DROP TRIGGER IF EXISTS "tg" ON "public"."odd.name";'
    """
    place = quote_name(table) if schema is None else f"{quote_identifier(schema)}.{quote_identifier(table)}"
    return f"DROP TRIGGER IF EXISTS {quote_identifier(trigger_name)} ON {place};"


def drop_function(name: str) -> str:
    """Drop the trigger function; PostgreSQL refuses while a trigger still needs it."""
    return f"DROP FUNCTION IF EXISTS {quote_name(name)}();"


def quote_identifier(name: str) -> str:
    """One name as an SQL identifier. Raises ConfigurationError for what can not be one.

    >>> quote_identifier('a"; drop table x; --')
    '"a""; drop table x; --"'
    """
    _check(name, "name")
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def quote_name(name: str) -> str:
    """A name that may have a schema. Raises ConfigurationError for what can not be one.

    >>> quote_name("s2.kv"), quote_name('"odd.name"')
    ('"s2"."kv"', '"odd.name"')
    """
    parts: list[str] = []
    at = 0
    while at <= len(name):
        found = _PART.match(name, at)
        if found is None:
            raise ConfigurationError(f"{name!r} is no name; write table, schema.table, or quote a part that has a dot")
        quoted, plain = found.groups()
        parts.append(quote_identifier(plain if quoted is None else quoted.replace('""', '"')))
        at = found.end() + 1
    if len(parts) > 2:
        raise ConfigurationError(
            f"{name!r} has {len(parts)} parts; write table or schema.table, and quote a dot in a name"
        )
    return ".".join(parts)


def quote_literal(text: str) -> str:
    """A text as an SQL literal, whatever standard_conforming_strings says.

    >>> quote_literal("it's")
    "'it''s'"
    """
    escaped = text.replace("'", "''")
    if "\\" not in text:
        return f"'{escaped}'"
    doubled = escaped.replace("\\", "\\\\")
    return f" E'{doubled}'"


def _check(name: str, what: str) -> None:
    if not name or "\0" in name or len(name.encode()) > NAME_BYTES:
        raise ConfigurationError(
            f"{what} {name[:80]!r} can not be used: PostgreSQL's names have 1 to {NAME_BYTES} bytes and no NUL"
        )
