"""The tables of journal mode: made once, mended by running the same statements again, dropped with the schema.

    journal        one row per statement: xid, seq, at, shape, rel, op, keys, note (sql.entries). What its trigger told
    shapes         what `keys` are made of (sql.shapes)
    epoch          UNLOGGED, one row: a crash, a failover or a restore empties it, and the relay then makes another id
    journal_state  one row: what was pruned, and how often relays have started
    consumers      places of durable consumers: position is a snapshot of epoch; sql.consumers
    dead_letters   jobs of consumers that were tried in vain too often; nobody deletes them but you

Rows of the journal may be deleted once they are in `journal_state.floor_snapshot`: whoever has read up to a snapshot
that includes that one has read them. A trigger on the journal keeps the promise against everybody: a DELETE of other
rows moves the floor, so that whoever has not read them learns it; after TRUNCATE the epoch ends. Shapes are kept by one
as well.
The journal goes when the last watched table goes, not with the last one in journal mode: positions stay good meanwhile.
"""

# ruff: noqa: S608 - building SQL is the purpose here; what is put in is a constant

from __future__ import annotations

import json
from collections.abc import Iterator

from pgcachewatch_daemon.sql.capture import OLD_ROWS
from pgcachewatch_daemon.sql.catalogue import Journal
from pgcachewatch_daemon.sql.entries import SCHEMA
from pgcachewatch_daemon.sql.functions import NOTE, definition_sql, digest
from pgcachewatch_daemon.sql.names import quote_identifier, quote_literal

JOURNAL_VERSION = 1
TABLES = ("journal", "shapes", "epoch", "journal_state", "consumers", "dead_letters")
GUARD = "guard"
REFUSED = "55000"  # object_not_in_prerequisite_state
NOTHING = "1:1:"  # a snapshot in which nothing is over

_CREATE = (
    f"""CREATE TABLE IF NOT EXISTS {SCHEMA}.journal (
  xid pg_catalog.xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
  seq pg_catalog.int8 NOT NULL GENERATED ALWAYS AS IDENTITY (CACHE 1),
  at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  shape pg_catalog.int4 NOT NULL,
  rel pg_catalog.oid NOT NULL,
  op pg_catalog."char" NOT NULL,
  keys pg_catalog.text[],
  note pg_catalog.text
) WITH (autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_scale_factor = 0)""",
    f"CREATE INDEX IF NOT EXISTS journal_xid ON {SCHEMA}.journal (xid)",
    # Else nobody could prune it where a publication is for all tables. A key would cost each write an index entry.
    f"ALTER TABLE {SCHEMA}.journal REPLICA IDENTITY FULL",
    f"""CREATE TABLE IF NOT EXISTS {SCHEMA}.shapes (
  id pg_catalog.int4 PRIMARY KEY,
  channel pg_catalog.text NOT NULL,
  key pg_catalog.text[] NOT NULL,
  columns pg_catalog.text[] NOT NULL,
  table_schema pg_catalog.text NOT NULL,
  table_name pg_catalog.text NOT NULL
)""",
    f"""CREATE UNLOGGED TABLE IF NOT EXISTS {SCHEMA}.epoch (
  "only" pg_catalog.int4 PRIMARY KEY DEFAULT 1 CHECK ("only" = 1),
  id pg_catalog.text NOT NULL
)""",
    f"""CREATE TABLE IF NOT EXISTS {SCHEMA}.journal_state (
  "only" pg_catalog.int4 PRIMARY KEY DEFAULT 1 CHECK ("only" = 1),
  floor pg_catalog.xid8 NOT NULL DEFAULT '0',
  floor_snapshot pg_catalog.pg_snapshot NOT NULL DEFAULT '{NOTHING}',
  pruned pg_catalog.int8 NOT NULL DEFAULT 0,
  starts pg_catalog.int8 NOT NULL DEFAULT 0,
  version pg_catalog.int4 NOT NULL DEFAULT {JOURNAL_VERSION}
)""",
    f'INSERT INTO {SCHEMA}.journal_state ("only") VALUES (1) ON CONFLICT DO NOTHING',
    f"""CREATE TABLE IF NOT EXISTS {SCHEMA}.consumers (
  name pg_catalog.text PRIMARY KEY,
  position pg_catalog.text,
  epoch pg_catalog.text,
  until pg_catalog.text NOT NULL DEFAULT '',
  after pg_catalog.int8 NOT NULL DEFAULT 0,
  done pg_catalog.text[] NOT NULL DEFAULT '{{}}',
  tries pg_catalog.jsonb NOT NULL DEFAULT '{{}}',
  owner pg_catalog.text,
  updated_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
)""",
    f"""CREATE TABLE IF NOT EXISTS {SCHEMA}.dead_letters (
  id pg_catalog.text NOT NULL,
  consumer pg_catalog.text NOT NULL,
  payload pg_catalog.jsonb NOT NULL,
  reason pg_catalog.text NOT NULL,
  tries pg_catalog.int4 NOT NULL,
  at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  PRIMARY KEY (consumer, id)
)""",
)

# Rows from above the current snapshot came with a dump of another server, and nobody was to read them.
_GUARD = f"""
#variable_conflict use_column
BEGIN
  IF TG_TABLE_NAME = 'shapes' THEN
    RAISE EXCEPTION USING ERRCODE = '{REFUSED}', MESSAGE = 'rows of {SCHEMA}.shapes explain those of the journal',
      HINT = 'They are few, and go with the journal: pgcachewatch uninstall --commit.';
  END IF;
  IF TG_OP = 'TRUNCATE' THEN
    DELETE FROM {SCHEMA}.epoch;
    RETURN NULL;
  END IF;
  UPDATE {SCHEMA}.journal_state SET
      floor = greatest(floor, (SELECT o.xid FROM {OLD_ROWS} AS o ORDER BY o.xid DESC LIMIT 1)),
      floor_snapshot = pg_catalog.pg_current_snapshot()
    WHERE EXISTS (SELECT FROM {OLD_ROWS} AS o
      WHERE NOT pg_catalog.pg_visible_in_snapshot(o.xid, floor_snapshot)
        AND o.xid < pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot()));
  RETURN NULL;
END;
"""

_TRIGGERS = (
    f"CREATE OR REPLACE TRIGGER guard_delete AFTER DELETE ON {SCHEMA}.journal "
    f"REFERENCING OLD TABLE AS {OLD_ROWS} FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.{GUARD}()",
    f"CREATE OR REPLACE TRIGGER guard_truncate AFTER TRUNCATE ON {SCHEMA}.journal "
    f"FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.{GUARD}()",
    f"CREATE OR REPLACE TRIGGER guard_shapes BEFORE UPDATE OR DELETE OR TRUNCATE ON {SCHEMA}.shapes "
    f"FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.{GUARD}()",
    f"ALTER TABLE {SCHEMA}.shapes ENABLE ALWAYS TRIGGER guard_shapes",
    f"ALTER TABLE {SCHEMA}.journal ENABLE ALWAYS TRIGGER guard_delete",
    f"ALTER TABLE {SCHEMA}.journal ENABLE ALWAYS TRIGGER guard_truncate",
)

# Trigger functions write with the rights of their owners, who need not be who made the journal.
_MAY_WRITE = f"""DO $pgcachewatch$
DECLARE
  owner pg_catalog.name;
BEGIN
  FOR owner IN SELECT DISTINCT pg_catalog.pg_get_userbyid(p.proowner) FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname = '{SCHEMA}'
  LOOP
    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA {SCHEMA} TO %I', owner);
    EXECUTE pg_catalog.format('GRANT INSERT ON {SCHEMA}.journal TO %I', owner);
  END LOOP;
END;
$pgcachewatch$"""

JOURNAL_DIGEST = digest("".join((*_CREATE, _GUARD, *_TRIGGERS)))


def journal_problem(journal: Journal) -> str:
    """Why writes can not be recorded in it, or not be read as they ought to be; empty when they can."""
    missing = [table for table in TABLES if table not in journal.tables]
    if missing:
        return f"there is no table {SCHEMA}.{missing[0]}"
    if journal.body != JOURNAL_DIGEST:
        return "the tables of the journal were made by another release"
    if not journal.is_writable:
        return "the owner of trigger functions may not insert into the journal"
    return ""


def journal_sql(owner: str | None) -> Iterator[str]:
    """Statements that make the journal, or mend what of it is missing. Running them again changes nothing."""
    yield from _CREATE
    comment = json.dumps({"v": JOURNAL_VERSION, "body": JOURNAL_DIGEST, "note": NOTE})
    yield from definition_sql(f"{GUARD}()", returns="pg_catalog.trigger", body=_GUARD, comment=comment)
    yield from _TRIGGERS
    for table in TABLES:
        yield f"REVOKE ALL ON TABLE {SCHEMA}.{table} FROM PUBLIC"
    if owner is not None:
        yield f"ALTER FUNCTION {SCHEMA}.{GUARD}() OWNER TO {quote_identifier(owner)}"
        for table in TABLES:
            yield f"ALTER TABLE {SCHEMA}.{table} OWNER TO {quote_identifier(owner)}"
    yield _MAY_WRITE
    yield f"COMMENT ON TABLE {SCHEMA}.journal IS {quote_literal(comment)}"


def grants_sql(role: str) -> Iterator[str]:
    """What a relay needs in order to read and prune the journal, and nothing else."""
    name = quote_identifier(role)
    yield f"GRANT USAGE ON SCHEMA {SCHEMA} TO {name}"
    yield f"GRANT SELECT ON {', '.join(f'{SCHEMA}.{table}' for table in TABLES)} TO {name}"
    yield f"GRANT DELETE ON {SCHEMA}.journal TO {name}"
    # Writing `only` again is how a statement finds the epoch that another relay is just making.
    yield f'GRANT INSERT, UPDATE ("only") ON {SCHEMA}.epoch TO {name}'
    yield f"GRANT UPDATE ON {SCHEMA}.journal_state TO {name}"
    yield f"GRANT INSERT, UPDATE, DELETE ON {SCHEMA}.consumers TO {name}"
    yield f"GRANT INSERT ON {SCHEMA}.dead_letters TO {name}"


def drop_sql(tables: frozenset[str]) -> Iterator[str]:
    """Statements that drop those of the journal's tables that are there, and what guards them."""
    for table in TABLES:
        if table in tables:
            yield f"DROP TABLE {SCHEMA}.{table}"
    yield f"DROP FUNCTION IF EXISTS {SCHEMA}.{GUARD}()"
