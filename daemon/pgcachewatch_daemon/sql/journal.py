"""The relay's statements on the journal, as text: each one statement by itself, read committed, leaving no setting.

A place in the journal is a snapshot. `poll_sql` returns, under one new snapshot, the rows that are not in the last one,
and that snapshot: `xid >= xmax` is what began behind it, `xid = ANY (running)` what ran then. These are two index
scans: with one long transaction open, the plain condition "not visible in the last snapshot" has to look at every row
since that transaction began.

The first record of `poll_sql` and `history_sql` has `xid` NULL and is there without rows too: it tells `snapshot`, the
id of the `epoch` (NULL: the journal was emptied by hand, so continuity is lost), `floor`, and `floor_snapshot`: rows
that are over in it may be gone. Whoever has read up to a snapshot that includes `floor_snapshot` has missed nothing.
`floor` is the highest xid that is gone, for people: a transaction that has run for long has a lower one.
Rows come in the order of `seq`. Names are those that tables have now, or for tables that are gone, had when installed.
Bound: as many rows as were committed since; a reader that is far behind fetches them through a cursor.
"""

# ruff: noqa: S608 - building SQL is the purpose here; what is put in is a constant

from __future__ import annotations

from pgcachewatch_daemon.sql.entries import JOURNAL_CHANNEL, JOURNAL_LOCK, PRUNE_LOCK, RELAY_AWAKE, SCHEMA

_LOCK = f"{JOURNAL_LOCK[0]}, {JOURNAL_LOCK[1]}"
_NEXT = "pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())"
_RUNNING = "ARRAY(SELECT pg_catalog.pg_snapshot_xip($1::pg_catalog.text::pg_catalog.pg_snapshot))"

_HEADER = f"""
SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text AS snapshot,
  (SELECT e.id FROM {SCHEMA}.epoch AS e) AS epoch,
  (SELECT s.floor::pg_catalog.text FROM {SCHEMA}.journal_state AS s) AS floor,
  (SELECT s.floor_snapshot::pg_catalog.text FROM {SCHEMA}.journal_state AS s) AS floor_snapshot,
  NULL::pg_catalog.text AS xid, NULL::pg_catalog.int8 AS seq, NULL::pg_catalog.timestamptz AS at,
  NULL::pg_catalog.text AS op, NULL::pg_catalog.text[] AS keys, NULL::pg_catalog.text AS note,
  NULL::pg_catalog.int8 AS rel, NULL::pg_catalog.int4 AS shape, NULL::pg_catalog.text AS table_schema,
  NULL::pg_catalog.text AS table_name, NULL::pg_catalog.text AS channel, NULL::pg_catalog.text[] AS key,
  NULL::pg_catalog.text[] AS columns
"""

# Names once for each table that there are rows of, through indexes: joined to the rows, a hash of all tables of the
# database would be made for each poll.
_NAMES = """
names AS MATERIALIZED (
  SELECT d.rel, t.table_schema, t.table_name
  FROM (SELECT DISTINCT f.rel FROM fresh AS f) AS d
  CROSS JOIN LATERAL (
    SELECT n.nspname::pg_catalog.text AS table_schema, c.relname::pg_catalog.text AS table_name
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = d.rel LIMIT 1
  ) AS t
)"""

_NAMED = f"""
SELECT NULL, NULL, NULL, NULL, f.xid::pg_catalog.text, f.seq, f.at, f.op::pg_catalog.text, f.keys, f.note,
  f.rel::pg_catalog.int8, f.shape, coalesce(n.table_schema, s.table_schema), coalesce(n.table_name, s.table_name),
  s.channel, s.key, s.columns
FROM fresh AS f
LEFT JOIN {SCHEMA}.shapes AS s ON s.id = f.shape
LEFT JOIN names AS n ON n.rel = f.rel
"""


def is_there_sql() -> str:
    """True when the database has a journal, also one that this role may not read."""
    return f"""
SELECT EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  WHERE n.nspname = '{SCHEMA}' AND c.relname = 'journal')
"""


def poll_sql() -> str:
    """What was committed since the snapshot whose xmax is $1 (text) and in which $2 (text[]) were running.

    Parameters stand in subqueries so that PostgreSQL can not see their values when it plans: so it plans once, after
    five calls, and not for each poll, which would take seven times as long as the poll.
    """
    return f"""
WITH fresh AS MATERIALIZED (
  SELECT j.* FROM {SCHEMA}.journal AS j
  WHERE j.xid >= (SELECT $1::pg_catalog.text::pg_catalog.xid8) AND j.xid < {_NEXT}
  UNION ALL
  SELECT j.* FROM {SCHEMA}.journal AS j
  WHERE j.xid = ANY ((SELECT $2::pg_catalog.text[]::pg_catalog.xid8[])::pg_catalog.xid8[])
),{_NAMES}
{_HEADER}UNION ALL{_NAMED}ORDER BY 6 NULLS FIRST
"""


def page_sql() -> str:
    """The first $5 (int8) rows by seq, above $4 (int8), that are over in $3 (text; NULL: now) and not in the last one.

    $1 and $2 as above. A reader that is far behind asks again from the last seq on, with the snapshot it was told.
    """
    return f"""
WITH fresh AS MATERIALIZED (
  SELECT p.* FROM (
    SELECT j.* FROM {SCHEMA}.journal AS j
    WHERE j.xid >= (SELECT $1::pg_catalog.text::pg_catalog.xid8) AND j.xid < {_NEXT}
    UNION ALL
    SELECT j.* FROM {SCHEMA}.journal AS j
    WHERE j.xid = ANY ((SELECT $2::pg_catalog.text[]::pg_catalog.xid8[])::pg_catalog.xid8[])
  ) AS p
  WHERE p.seq > $4::pg_catalog.int8 AND ($3::pg_catalog.text IS NULL
    OR pg_catalog.pg_visible_in_snapshot(p.xid, $3::pg_catalog.text::pg_catalog.pg_snapshot))
  ORDER BY p.seq LIMIT $5::pg_catalog.int8
),{_NAMES}
{_HEADER}UNION ALL{_NAMED}ORDER BY 6 NULLS FIRST
"""


def history_sql() -> str:
    """The $1 (int8) rows with the highest transaction ids."""
    return f"""
WITH fresh AS MATERIALIZED (
  SELECT j.* FROM {SCHEMA}.journal AS j WHERE j.xid < {_NEXT} ORDER BY j.xid DESC LIMIT $1::pg_catalog.int8
),{_NAMES}
{_HEADER}UNION ALL{_NAMED}ORDER BY 6 NULLS FIRST
"""


def epoch_sql() -> str:
    """The epoch as text, made when there is none: run it before the first poll of a session.

    It is another one after a crash, a failover, a restore, in another database and in a journal that was made anew.
    Rows and a floor from above the current snapshot are taken away: they came with a dump of another server. Nobody's
    place would ever include such a floor.
    """
    return f"""
WITH alien AS (DELETE FROM {SCHEMA}.journal AS j WHERE j.xid >= {_NEXT}), lowered AS (
  UPDATE {SCHEMA}.journal_state AS s SET floor = '0', floor_snapshot = pg_catalog.pg_current_snapshot()
  WHERE pg_catalog.pg_snapshot_xmax(s.floor_snapshot) > {_NEXT}
), made AS (
  INSERT INTO {SCHEMA}.epoch AS e (id)
  VALUES (pg_catalog.left(pg_catalog.replace(pg_catalog.gen_random_uuid()::pg_catalog.text, '-', ''), 16))
  ON CONFLICT ("only") DO UPDATE SET "only" = e."only" RETURNING e.id
)
SELECT pg_catalog.concat_ws('-', (SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c),
  pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8),
  (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()),
  '{SCHEMA}.epoch'::pg_catalog.regclass::pg_catalog.oid, made.id) FROM made
"""


def starts_sql() -> str:
    """Counts a start of a relay; the number is nobody else's."""
    return f"UPDATE {SCHEMA}.journal_state SET starts = starts + 1 RETURNING starts"


def behind_sql() -> str:
    """How many rows are by transactions from the snapshot's xmax $1 (text) on; $2 (int8) at most."""
    return f"""
SELECT pg_catalog.count(*) FROM (
  SELECT FROM {SCHEMA}.journal AS j WHERE j.xid >= $1::pg_catalog.text::pg_catalog.xid8 LIMIT $2::pg_catalog.int8
) AS behind
"""


def has_silent_writers_sql() -> str:
    """True when a trigger function writes rows and wakes nobody (--wake none), as its comment says."""
    return f"""
SELECT EXISTS (SELECT FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
  WHERE n.nspname = '{SCHEMA}' AND pg_catalog.obj_description(p.oid, 'pg_proc') LIKE '%"wake": "none"%')
"""


def take_lock_sql() -> str:
    """True when this session is now the one that writers need not wake. Take it once: it counts."""
    return f"SELECT pg_catalog.pg_try_advisory_lock({_LOCK})"


def give_up_lock_sql() -> str:
    """Undo `take_lock_sql`. Before sleeping, draw `own_xid_sql` and poll until each transaction below it is over."""
    return f"SELECT pg_catalog.pg_advisory_unlock({_LOCK})"


def is_free_sql() -> str:
    """True when writers find the lock free, and so notify. Not for whoever holds it: to its own session it is free."""
    return f"""
SELECT CASE WHEN pg_catalog.pg_try_advisory_lock_shared({_LOCK})
  THEN pg_catalog.pg_advisory_unlock_shared({_LOCK}) ELSE false END
"""


def own_xid_sql() -> str:
    """A transaction id that was given to nobody before. A snapshot's xmax is not that: higher ones may run."""
    return "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text"


def notify_sql() -> str:
    """Tell other relays to be awake too: from now on writers notify nobody."""
    return f"SELECT pg_catalog.pg_notify('{JOURNAL_CHANNEL}', '{RELAY_AWAKE}')"


def measure_sql() -> str:
    """Bytes, at most how many rows, when the oldest was written, and the floor."""
    return f"""
WITH first AS (SELECT j.seq, j.at FROM {SCHEMA}.journal AS j ORDER BY j.xid LIMIT 1),
  last AS (SELECT j.seq FROM {SCHEMA}.journal AS j ORDER BY j.xid DESC LIMIT 1)
SELECT pg_catalog.pg_total_relation_size('{SCHEMA}.journal') AS bytes,
  coalesce((SELECT last.seq FROM last) - (SELECT first.seq FROM first) + 1, 0) AS rows,
  (SELECT first.at FROM first) AS oldest, s.floor::pg_catalog.text AS floor, s.pruned, s.starts
FROM {SCHEMA}.journal_state AS s
"""


def prune_sql() -> str:
    """Take away up to $2 (int8) rows that are over in the snapshot $1 (text), oldest first; returns how many, or NULL.

    NULL: another relay prunes. For an age, give a snapshot that was read that long ago: `at` is when a statement ran,
    and its transaction may have committed just now. For a number of rows, give a younger one. Only snapshots of this
    epoch. The floor moves in the same statement.
    """
    return f"""
WITH leader AS MATERIALIZED (
  SELECT pg_catalog.pg_try_advisory_xact_lock({PRUNE_LOCK[0]}, {PRUNE_LOCK[1]}) AS is_leader
), gone AS (
  DELETE FROM {SCHEMA}.journal AS d WHERE d.ctid = ANY (ARRAY(
    SELECT j.ctid FROM {SCHEMA}.journal AS j
    WHERE (SELECT leader.is_leader FROM leader)
      AND j.xid < pg_catalog.pg_snapshot_xmax($1::pg_catalog.text::pg_catalog.pg_snapshot)
      AND j.xid <> ALL ({_RUNNING})
    ORDER BY j.xid LIMIT $2::pg_catalog.int8))
  RETURNING d.xid
), moved AS (
  UPDATE {SCHEMA}.journal_state AS s SET
    floor = greatest(s.floor, (SELECT gone.xid FROM gone ORDER BY gone.xid DESC LIMIT 1)),
    -- Of two snapshots the later one has the higher xmax, or the same and fewer that run.
    floor_snapshot = CASE
      WHEN (pg_catalog.pg_snapshot_xmax($1::pg_catalog.text::pg_catalog.pg_snapshot),
          -pg_catalog.cardinality({_RUNNING}))
        > (pg_catalog.pg_snapshot_xmax(s.floor_snapshot),
          -pg_catalog.cardinality(ARRAY(SELECT pg_catalog.pg_snapshot_xip(s.floor_snapshot))))
      THEN $1::pg_catalog.text::pg_catalog.pg_snapshot ELSE s.floor_snapshot END,
    pruned = s.pruned + (SELECT pg_catalog.count(*) FROM gone)
  WHERE EXISTS (SELECT FROM gone)
)
SELECT CASE WHEN leader.is_leader THEN (SELECT pg_catalog.count(*) FROM gone) END AS pruned FROM leader
"""
