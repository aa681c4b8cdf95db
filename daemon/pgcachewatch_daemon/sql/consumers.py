"""The relay's statements on durable consumers, as text.

A consumer is a row of `consumers`: its place (core.pages), what is acknowledged ahead of it and what was tried in vain.
Whoever gives its jobs holds a lock by its name, for as long as the session lives; so two relays never give the same.
Two names whose hashes are equal exclude each other, which costs one of them the other relay, and no event.
"""

# ruff: noqa: S608 - building SQL is the purpose here; what is put in is a constant

from __future__ import annotations

from pgcachewatch_daemon.sql.entries import SCHEMA

_LOCK = "pg_catalog.hashtextextended('pgcachewatch consumer ' || $1::pg_catalog.text, 0)"


def try_lock_sql() -> str:
    """True when this session is the one that gives jobs of the consumer $1 (text). It counts: take it once."""
    return f"SELECT pg_catalog.pg_try_advisory_lock({_LOCK})"


def unlock_sql() -> str:
    """Undo `try_lock_sql`."""
    return f"SELECT pg_catalog.pg_advisory_unlock({_LOCK})"


def now_sql() -> str:
    """`snapshot`, and the id of the `epoch`, which is NULL when the journal was emptied by hand."""
    return f"""
SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text AS snapshot, (SELECT e.id FROM {SCHEMA}.epoch AS e) AS epoch
"""


def find_sql() -> str:
    """What is stored of the consumer $1 (text)."""
    return f"""
SELECT c.position, c.epoch, c.until, c.after, c.done, c.tries::pg_catalog.text AS tries, c.owner, c.updated_at
FROM {SCHEMA}.consumers AS c WHERE c.name = $1::pg_catalog.text
"""


def create_sql() -> str:
    """The consumer $1 begins at the snapshot $2 of the epoch $3, owned by $4."""
    return f"""
INSERT INTO {SCHEMA}.consumers (name, position, epoch, owner)
VALUES ($1::pg_catalog.text, $2::pg_catalog.text, $3::pg_catalog.text, $4::pg_catalog.text)
"""


def own_sql() -> str:
    """The consumer $1 is owned by $2 now: by the life of a relay, which so sees that nobody had it meanwhile."""
    return f"UPDATE {SCHEMA}.consumers AS c SET owner = $2::pg_catalog.text WHERE c.name = $1::pg_catalog.text"


def save_sql() -> str:
    """The place of $1: position $2, epoch $3, until $4, after $5, done $6 (text[]), tries $7 (json as text).

    Returns a row, or none when somebody deleted the consumer.
    """
    return f"""
UPDATE {SCHEMA}.consumers AS c SET position = $2::pg_catalog.text, epoch = $3::pg_catalog.text,
  until = $4::pg_catalog.text, after = $5::pg_catalog.int8, done = $6::pg_catalog.text[],
  tries = $7::pg_catalog.text::pg_catalog.jsonb, updated_at = pg_catalog.clock_timestamp()
WHERE c.name = $1::pg_catalog.text RETURNING true
"""


def bury_sql() -> str:
    """A dead letter: id $1, consumer $2, payload $3 (json as text), reason $4, tries $5."""
    return f"""
INSERT INTO {SCHEMA}.dead_letters (id, consumer, payload, reason, tries)
VALUES ($1::pg_catalog.text, $2::pg_catalog.text, $3::pg_catalog.text::pg_catalog.jsonb, $4::pg_catalog.text,
  $5::pg_catalog.int4) ON CONFLICT DO NOTHING
"""


def holding_sql() -> str:
    """Positions of the epoch $1 (text) that moved within $2 (float8, seconds): what is not in one of them is kept."""
    return f"""
SELECT c.position FROM {SCHEMA}.consumers AS c
WHERE c.epoch = $1::pg_catalog.text AND c.position IS NOT NULL
  AND c.updated_at > pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $2::pg_catalog.float8)
"""


def places_sql() -> str:
    """`name` and `position` of up to $2 (int8) consumers of the epoch $1 (text); stored longest ago first."""
    return f"""
SELECT c.name, c.position FROM {SCHEMA}.consumers AS c
WHERE c.epoch = $1::pg_catalog.text AND c.position IS NOT NULL ORDER BY c.updated_at LIMIT $2::pg_catalog.int8
"""


def ages_sql() -> str:
    """For each xid of $1 (text[]), in order: seconds since the first row from there on was written, 0 without one."""
    return f"""
SELECT coalesce((
  SELECT extract(epoch FROM pg_catalog.clock_timestamp() - j.at)
  FROM {SCHEMA}.journal AS j WHERE j.xid >= wanted.xid::pg_catalog.xid8 ORDER BY j.xid LIMIT 1
), 0)::pg_catalog.float8 AS age_s
FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[])) WITH ORDINALITY AS wanted (xid, number)
ORDER BY wanted.number
"""


def forget_sql() -> str:
    """Delete the consumer $1 (text)."""
    return f"DELETE FROM {SCHEMA}.consumers AS c WHERE c.name = $1::pg_catalog.text"
