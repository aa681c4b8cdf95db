"""What the database says of its tables and of our triggers on them: one query each, read into plain values.

Reading needs no privilege. Nothing is decided here; `plan` says what is to be done about it, `drift` what is wrong.
Bound: one row per table of the database, system schemas and temporary tables left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pgcachewatch_daemon.sql.keytext import Column
from pgcachewatch_daemon.sql.names import display, qualified
from pgcachewatch_daemon.sql.shapes import Shape

TABLE, PARTITIONED, FOREIGN, VIEW, MATERIALIZED_VIEW = "r", "p", "f", "v", "m"

# $1: names of further columns. The trigger's name tells ours from others; the function's tells which table it is for.
RELATIONS_SQL = r"""
WITH RECURSIVE key_columns AS (
  SELECT DISTINCT ON (i.indrelid) i.indrelid, k.attnums
  FROM pg_catalog.pg_index i
  CROSS JOIN LATERAL (
    SELECT pg_catalog.array_agg(u.attnum ORDER BY u.place) AS attnums, pg_catalog.bool_and(a.attnotnull) AS is_not_null
    FROM pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS u (attnum, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
    WHERE u.place <= i.indnkeyatts
  ) k
  WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND k.is_not_null
    AND (i.indisprimary OR i.indimmediate)
  ORDER BY i.indrelid, i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, i.indexrelid
), base_types AS (
  SELECT t.oid AS type, t.oid AS base FROM pg_catalog.pg_type t WHERE t.typtype <> 'd'
  UNION ALL
  SELECT t.oid, b.base FROM base_types b JOIN pg_catalog.pg_type t ON t.typbasetype = b.type AND t.typtype = 'd'
), replicated AS (
  SELECT s.srrelid AS oid FROM pg_catalog.pg_subscription_rel s
  UNION SELECT i.inhrelid FROM replicated r JOIN pg_catalog.pg_inherits i ON i.inhparent = r.oid
), needed_columns AS (
  -- Joined as a whole: looked up for each table, the list of types makes 10,000 tables take a quarter of a minute.
  SELECT a.attrelid, pg_catalog.json_agg(pg_catalog.json_build_object(
      'name', a.attname, 'number', a.attnum, 'place', pg_catalog.array_position(k.attnums, a.attnum),
      'type', CASE WHEN t.typtype = 'e' THEN 'enum' WHEN tn.nspname = 'pg_catalog' THEN t.typname::pg_catalog.text
        ELSE pg_catalog.format('%I.%I', tn.nspname, t.typname) END,
      'is_deterministic', coalesce(co.collisdeterministic, true)) ORDER BY a.attnum)::pg_catalog.text AS columns
  FROM pg_catalog.pg_attribute a
  LEFT JOIN key_columns k ON k.indrelid = a.attrelid
  JOIN base_types b ON b.type = a.atttypid
  JOIN pg_catalog.pg_type t ON t.oid = b.base
  JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
  LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
  WHERE a.attnum > 0 AND NOT a.attisdropped
    AND (a.attnum = ANY (k.attnums) OR a.attname = ANY ($1::pg_catalog.text[]))
  GROUP BY a.attrelid
)
SELECT c.oid::pg_catalog.int8 AS oid, n.nspname::pg_catalog.text AS schema, c.relname::pg_catalog.text AS name,
  c.relkind::pg_catalog.text AS kind, c.relispartition AS is_partition, c.relfilenode::pg_catalog.int8 AS filenode,
  CASE WHEN c.relkind = 'm' THEN pg_catalog.pg_stat_get_tuples_inserted(c.oid)
    + pg_catalog.pg_stat_get_tuples_deleted(c.oid) ELSE 0 END AS refreshed,
  pg_catalog.pg_table_is_visible(c.oid) AS is_visible, pg_catalog.pg_has_role(c.relowner, 'USAGE') AS is_owned,
  pg_catalog.has_table_privilege(c.oid, 'TRIGGER') AS may_trigger,
  c.oid IN (SELECT r.oid FROM replicated r) AS is_replicated,
  EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
    AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e') AS is_of_extension,
  ARRAY(SELECT i.inhparent::pg_catalog.int8 FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid) AS parents,
  nc.columns
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN needed_columns nc ON nc.attrelid = c.oid
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgcachewatch') AND n.nspname NOT LIKE 'pg\_toast%'
ORDER BY n.nspname, c.relname
"""

TRIGGERS_SQL = r"""
SELECT t.tgrelid::pg_catalog.int8 AS oid, t.tgname::pg_catalog.text AS name, t.tgenabled::pg_catalog.text AS enabled,
  t.tgnewtable IS NOT NULL OR t.tgoldtable IS NOT NULL AS has_transition,
  CASE WHEN n.nspname = 'pgcachewatch' THEN p.proname::pg_catalog.text END AS function,
  t.oid::pg_catalog.text || '.' || t.xmin::pg_catalog.text AS stamp
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE NOT t.tgisinternal AND (n.nspname = 'pgcachewatch' OR p.proname LIKE 'fn\_pgcachewatch%'
  OR t.tgname LIKE 'tg\_pgcachewatch%'
  -- The original lets people name both as they like; these two words are in the body of each.
  OR (p.prosrc LIKE '%pg_notify%' AND p.prosrc LIKE '%operation%'))
"""

FUNCTIONS_SQL = """
SELECT p.oid::pg_catalog.int8 AS oid, p.proname::pg_catalog.text AS name,
  pg_catalog.obj_description(p.oid, 'pg_proc') AS comment
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'pgcachewatch'
ORDER BY p.proname
"""

# Of each of the journal's tables; needs no privilege. Writers write with the rights of the functions' owners.
JOURNAL_SQL = """
SELECT c.relname::pg_catalog.text AS name, pg_catalog.obj_description(c.oid, 'pg_class') AS comment,
  pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AS is_readable,
  NOT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = n.oid
    AND NOT (pg_catalog.has_schema_privilege(p.proowner, n.oid, 'USAGE')
      AND pg_catalog.has_table_privilege(p.proowner, c.oid, 'INSERT'))) AS is_writable
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'pgcachewatch' AND c.relkind = 'r'
  AND c.relname = ANY (ARRAY['journal', 'shapes', 'epoch', 'journal_state', 'consumers', 'dead_letters'])
"""
SHAPES_SQL = "SELECT id, channel, key, columns, table_schema, table_name FROM pgcachewatch.shapes"

SCHEMA_SQL = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'pgcachewatch')"


@dataclass(frozen=True, slots=True)
class Trigger:
    """`enabled` as pg_trigger has it: O origin, A always, R replica, D disabled. `function` None: not one of ours.

    `stamp` is another one whenever somebody changed the trigger, also when it is again as it was.
    """

    name: str
    enabled: str
    has_transition: bool
    function: str | None
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of our schema. `settings` is what its comment says, empty when that can not be read."""

    name: str
    settings: Mapping[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, or what looks like one to whoever reads it."""

    oid: int
    schema: str
    name: str
    kind: str = TABLE
    is_partition: bool = False
    is_visible: bool = True
    is_owned: bool = True
    may_trigger: bool = True
    is_replicated: bool = False
    is_of_extension: bool = False
    filenode: int = 0
    refreshed: int = 0  # rows that were put into a materialized view or taken from it, as the statistics count
    parents: tuple[int, ...] = ()
    key: tuple[Column, ...] = ()
    columns: Mapping[str, Column] = field(default_factory=dict)
    triggers: Mapping[str, Trigger] = field(default_factory=dict)

    @property
    def display(self) -> str:
        return display(self.schema, self.name)

    @property
    def qualified(self) -> str:
        return qualified(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class Journal:
    """The tables of journal mode. `body`: which statements made them. `shapes` None: this role may not read them."""

    tables: frozenset[str] = frozenset()
    body: str = ""
    is_readable: bool = True
    is_writable: bool = True
    shapes: Mapping[int, Shape] | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All of it at one instant."""

    relations: Mapping[int, Relation]
    functions: Mapping[str, Function]
    has_schema: bool = True
    journal: Journal = field(default_factory=Journal)
    _neighbours: Mapping[int, set[int]] = field(init=False, repr=False, compare=False)
    _by_name: Mapping[str, list[Relation]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Once, and not for each family: a database may have many thousand tables.
        neighbours: dict[int, set[int]] = {}
        by_name: dict[str, list[Relation]] = {}
        for relation in self.relations.values():
            by_name.setdefault(relation.name, []).append(relation)
            for parent in relation.parents:
                neighbours.setdefault(relation.oid, set()).add(parent)
                neighbours.setdefault(parent, set()).add(relation.oid)
        object.__setattr__(self, "_neighbours", neighbours)
        object.__setattr__(self, "_by_name", by_name)

    def named(self, name: str) -> Sequence[Relation]:
        """The tables of this name, in any schema."""
        return self._by_name.get(name, ())

    def family(self, oid: int) -> list[Relation]:
        """The relations joined to this one by partitioning or inheritance, itself included, in order of OID."""
        found, waiting = {oid}, [oid]
        while waiting:
            fresh = self._neighbours.get(waiting.pop(), set()) - found
            found |= fresh
            waiting += fresh
        return [self.relations[each] for each in sorted(found) if each in self.relations]

    def readers(self, oid: int) -> list[Relation]:
        """The tables through which this one's rows are read: a partition's root; all that inheritance joins."""
        family = self.family(oid)
        return [one for one in family if not one.is_partition] or family

    def root(self, relation: Relation) -> Relation:
        """The topmost partitioned table above a partition; any other relation itself."""
        while relation.is_partition and relation.parents and relation.parents[0] in self.relations:
            relation = self.relations[relation.parents[0]]
        return relation


def read_catalogue(
    relations: Iterable[Mapping[str, Any]],
    triggers: Iterable[Mapping[str, Any]],
    functions: Iterable[Mapping[str, Any]],
    *,
    has_schema: bool,
    journal: Iterable[Mapping[str, Any]] = (),
    shapes: Iterable[Mapping[str, Any]] | None = None,
) -> Catalogue:
    """The rows of the queries as values. Any: rows of a driver."""
    by_table: dict[int, dict[str, Trigger]] = {}
    for row in triggers:
        trigger = Trigger(row["name"], row["enabled"], row["has_transition"], row["function"], row["stamp"])
        by_table.setdefault(row["oid"], {})[trigger.name] = trigger
    return Catalogue(
        relations={row["oid"]: _relation(row, by_table.get(row["oid"], {})) for row in relations},
        functions={row["name"]: Function(row["name"], read_settings(row["comment"])) for row in functions},
        has_schema=has_schema,
        journal=_journal(list(journal), shapes),
    )


def _journal(rows: Sequence[Mapping[str, Any]], shapes: Iterable[Mapping[str, Any]] | None) -> Journal:
    by_name = {row["name"]: row for row in rows}
    entries = by_name.get("journal", {})
    known = None
    if shapes is not None:
        known = {
            row["id"]: Shape(
                row["channel"], tuple(row["key"]), tuple(row["columns"]), row["table_schema"], row["table_name"]
            )
            for row in shapes
        }
    return Journal(
        tables=frozenset(by_name),
        body=str(read_settings(entries.get("comment")).get("body", "")),
        is_readable=all(row["is_readable"] for row in rows),
        is_writable=bool(entries.get("is_writable", True)),
        shapes=known,
    )


def read_settings(comment: str | None) -> dict[str, Any]:
    """A function's comment; empty for one that is not ours or was edited."""
    try:
        settings = json.loads(comment or "")
    except ValueError:
        return {}
    return settings if isinstance(settings, dict) else {}


def _relation(row: Mapping[str, Any], triggers: Mapping[str, Trigger]) -> Relation:
    found = json.loads(row["columns"] or "[]")
    columns = {each["name"]: Column(each["name"], each["type"], each["is_deterministic"]) for each in found}
    key = sorted((each["place"], each["name"]) for each in found if each["place"] is not None)
    return Relation(
        oid=row["oid"],
        schema=row["schema"],
        name=row["name"],
        kind=row["kind"],
        is_partition=row["is_partition"],
        is_visible=row["is_visible"],
        is_owned=row["is_owned"],
        may_trigger=row["may_trigger"],
        is_replicated=row["is_replicated"],
        is_of_extension=row["is_of_extension"],
        filenode=row["filenode"],
        refreshed=row["refreshed"],
        parents=tuple(row["parents"]),
        key=tuple(columns[name] for _, name in key),
        columns=columns,
        triggers=triggers,
    )
