"""The statements that bring the database to what was asked for: only those that are needed, so that none is twice.

A plan is a list of steps, each one transaction: first what all tables share, then each family by itself, so that no
table stays locked while another one is waited for; last what is left over. Making a trigger blocks writers of its
table, dropping it readers too. A plan that was cut off is finished by planning again.
Order: within a family by OID, so that two installations wait for each other and do not deadlock.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.sql.capture import Capture
from pgcachewatch_daemon.sql.catalogue import Catalogue, Relation
from pgcachewatch_daemon.sql.coverage import (
    ALWAYS,
    ORIGIN,
    REPLICA,
    Settings,
    captures,
    enabled_wanted,
    firing_of,
    problem_with,
    shape_of,
)
from pgcachewatch_daemon.sql.drift import (
    family_settings,
    function_table,
    has_transition,
    is_there,
    misnamed,
    replaced,
    watched_families,
)
from pgcachewatch_daemon.sql.functions import (
    CATALOGUE_CHANNEL,
    SCHEMA,
    SHARED,
    SHARED_DIGEST,
    comment_values,
    function_sql,
    shared_sql,
    trigger_name,
    trigger_sql,
)
from pgcachewatch_daemon.sql.journal_tables import GUARD, drop_sql, grants_sql, journal_problem, journal_sql
from pgcachewatch_daemon.sql.names import NAME_BYTES, choose, parse_pattern, quote_identifier
from pgcachewatch_daemon.sql.shapes import shape_sql

RENAMED = "restored_"  # begins the name of a function that a dump brought, until it is replaced
LOCK = f"SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('{SCHEMA}', 0))"
# With its commit, so that a relay looks at what is there then, and not up to a minute later.
TELL = f"SELECT pg_catalog.pg_notify('{CATALOGUE_CHANNEL}', '')"
OPTIONS = {ORIGIN: "ENABLE TRIGGER", ALWAYS: "ENABLE ALWAYS TRIGGER", REPLICA: "ENABLE REPLICA TRIGGER"}


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction. `title` says for people what it is about."""

    title: str
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """The tables that were asked for, and those of a pattern that can not be watched, each with the reason."""

    tables: tuple[Relation, ...]
    skipped: tuple[tuple[Relation, str], ...]


def choose_tables(catalogue: Catalogue, texts: Sequence[str]) -> Choice:
    """What `texts` name. Raises ConfigurationError for a name without a table, or of one that can not be watched."""
    relations = list(catalogue.relations.values())
    chosen: dict[int, Relation] = {}
    skipped: list[tuple[Relation, str]] = []
    for text in texts:
        is_many = parse_pattern(text).is_many
        for relation in choose([text], relations):
            problem = problem_with(relation)
            if is_many and relation.is_of_extension:
                problem = "part of an extension; name it to watch it all the same"
            if not problem:
                chosen[relation.oid] = relation
            elif is_many:
                skipped.append((relation, problem))
            else:
                raise ConfigurationError(f"{relation.display} can not be watched: {problem}")
    return Choice(tuple(chosen.values()), tuple(skipped))


def check_columns(tables: Sequence[Relation], columns: Sequence[str], *, known: Sequence[str]) -> None:
    """Raise ConfigurationError unless each column is in one of the tables and has a text in all that have it.

    `known` are the names of all columns of these tables.
    """
    for name in columns:
        carrying = [table.columns[name] for table in tables if name in table.columns]
        if not carrying:
            close = difflib.get_close_matches(name, known)
            advice = f"did you mean {', '.join(close)}?" if close else "see --columns"
            raise ConfigurationError(f"none of the tables has a column {name!r}; {advice}")
        for column in carrying:
            if not column.has_text:
                raise ConfigurationError(f"--columns can not carry it: {column.problem}")


def install_plan(
    catalogue: Catalogue,
    tables: Sequence[Relation],
    settings: Settings,
    *,
    default_channel: str,
    owner: str | None = None,
    relay_role: str | None = None,
) -> list[Step]:
    """What is missing for `tables` and their families, and for a restored dump also for all that came with it.

    `relay_role` is granted what a relay needs of the journal.
    """
    wrong = misnamed(catalogue)
    restored = [one for one in catalogue.relations.values() if _uses(one, wrong)]
    families: dict[int, list[Relation]] = {}
    for table in [*tables, *restored]:
        family = catalogue.family(table.oid)
        families.setdefault(family[0].oid, family)
    chosen = {table.oid for table in tables}
    wanted: dict[int, Capture] = {}
    for family in families.values():
        asked = settings if any(member.oid in chosen for member in family) else Settings()
        merged = asked.over(family_settings(catalogue, family))
        _check_mode(asked, merged, family)
        wanted |= captures(catalogue, family, merged, default_channel=default_channel)
    has_journal = any(capture.mode == "journal" for capture in wanted.values())
    if relay_role is not None and not has_journal:
        raise ConfigurationError("a role for the relay needs grants in journal mode only: add --mode journal")
    shared = [*_shared(catalogue, wrong, owner), *(_journal(catalogue, owner, relay_role) if has_journal else ())]
    steps = [Step("what all tables share", tuple(shared))]
    for family in families.values():
        members = [one for one in family if one.oid in wanted]
        statements = [sql for one in members for sql in _table(catalogue, one, wanted[one.oid], owner)]
        shapes = _shapes(catalogue, [wanted[one.oid] for one in members])
        steps.append(Step(", ".join(member.display for member in members), (*shapes, *statements)))
    covered = {member.oid for family in families.values() for member in family}
    # While nobody watches a table's successor, its functions are all that tells of it.
    kept_functions = {name for name, relation in replaced(catalogue).items() if relation.oid not in covered}
    steps.append(Step("what is left over", tuple(_leftovers(catalogue, wrong, kept_functions))))
    return [step for step in steps if step.statements]


def _check_mode(asked: Settings, merged: Settings, family: Sequence[Relation]) -> None:
    """Raise ConfigurationError for options that do not go together, whether asked for now or before."""
    if merged.mode != "journal" and (asked.wake is not None or asked.is_fail_open is not None):
        raise ConfigurationError(f"{family[0].display}: --wake and --fail-open need --mode journal")
    if merged.mode == "journal" and merged.wake == "none" and merged.is_fail_open:
        raise ConfigurationError(
            f"{family[0].display}: --fail-open tells of a lost row by NOTIFY, which --wake none rules out; choose one"
        )


def repair_plan(
    catalogue: Catalogue, *, default_channel: str, owner: str | None = None, relay_role: str | None = None
) -> list[Step]:
    """What is missing for all that is installed, with the settings it has."""
    tables = [member for family in watched_families(catalogue) for member in family]
    tables += replaced(catalogue).values()
    return install_plan(
        catalogue, tables, Settings(), default_channel=default_channel, owner=owner, relay_role=relay_role
    )


def uninstall_plan(catalogue: Catalogue, tables: Sequence[Relation] | None, channel: str | None) -> list[Step]:
    """Take away the triggers and functions of the families of `tables` (None: of all), or of one channel's.

    Needs the functions' owner, not the tables'. When no table is left, the schema goes too.
    """
    oids = None if tables is None else {one.oid for table in tables for one in catalogue.family(table.oid)}
    attached: dict[str, Relation] = {
        trigger.function: relation
        for relation in catalogue.relations.values()
        for trigger in relation.triggers.values()
        if trigger.function is not None
    }
    gone: dict[str, list[str]] = {}
    for name, function in catalogue.functions.items():
        oid = attached[name].oid if name in attached else function_table(name)
        is_ours = bool(oid) and (oids is None or oid in oids)
        if is_ours and channel in (None, function.settings.get("channel")):
            title = attached[name].display if name in attached else "what is left over"
            gone.setdefault(title, []).append(name)
    steps = [
        Step(title, tuple(f"DROP FUNCTION IF EXISTS {SCHEMA}.{quote_identifier(name)}() CASCADE" for name in names))
        for title, names in gone.items()
    ]
    dropped = {name for names in gone.values() for name in names}
    if catalogue.has_schema and catalogue.functions.keys() - dropped <= {*SHARED, GUARD}:
        steps.append(Step("what all tables share", tuple(_drop_shared(catalogue))))
    return steps


def _drop_shared(catalogue: Catalogue) -> Iterator[str]:
    arguments = {
        "ascii": "pg_catalog.text",
        "send": "pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text[]",
    }
    if catalogue.journal.tables or GUARD in catalogue.functions:
        yield from drop_sql(catalogue.journal.tables)
    for name in SHARED:
        if name in catalogue.functions:
            yield f"DROP FUNCTION {SCHEMA}.{name}({arguments[name]})"
    yield f"DROP SCHEMA {SCHEMA}"  # and not CASCADE: what somebody else put there is theirs


def _shared(catalogue: Catalogue, wrong: set[str], owner: str | None) -> Iterator[str]:
    if not catalogue.has_schema:
        yield f"CREATE SCHEMA {SCHEMA}" + (f" AUTHORIZATION {quote_identifier(owner)}" if owner else "")
    for name in sorted(wrong):
        # Its name may be that of a function to come: OIDs start again in a new database.
        if not name.startswith(RENAMED):
            new = f"{RENAMED}{name}"[:NAME_BYTES]
            yield f"ALTER FUNCTION {SCHEMA}.{quote_identifier(name)}() RENAME TO {quote_identifier(new)}"
    present = [catalogue.functions[name].settings.get("body") for name in SHARED if name in catalogue.functions]
    if present != [SHARED_DIGEST] * len(SHARED):
        yield from _owned(shared_sql(), owner)


def _journal(catalogue: Catalogue, owner: str | None, relay_role: str | None) -> Iterator[str]:
    if journal_problem(catalogue.journal):
        yield from journal_sql(owner)
    if relay_role is not None:
        yield from grants_sql(relay_role)


def _shapes(catalogue: Catalogue, wanted: Sequence[Capture]) -> Iterator[str]:
    """In the transaction that makes the functions: no row is read before its shape."""
    new = {one.shape_id: one for one in wanted if one.mode == "journal"}
    for number, capture in new.items():
        if number not in (catalogue.journal.shapes or {}):
            yield shape_sql(number, shape_of(catalogue, capture))


def _table(catalogue: Catalogue, relation: Relation, capture: Capture, owner: str | None) -> Iterator[str]:
    for operation, states in enabled_wanted(relation).items():
        name = capture.function_name(operation)
        function = catalogue.functions.get(name)
        trigger = relation.triggers.get(trigger_name(operation))
        is_right = trigger is not None and trigger.function == name
        has_shape = trigger is not None and trigger.has_transition == has_transition(capture, operation)
        if not is_right or function is None or function.settings != comment_values(capture, operation):
            yield from _owned(function_sql(capture, operation), owner)
        if not is_right or not has_shape:
            yield trigger_sql(capture, operation, relation.qualified)
        state = trigger.enabled if trigger is not None and is_right and has_shape else ORIGIN
        if state not in states:
            option = OPTIONS[firing_of(relation, operation)]
            yield f"ALTER TABLE {relation.qualified} {option} {trigger_name(operation)}"


def _owned(statements: Sequence[str], owner: str | None) -> Iterator[str]:
    yield from statements
    if owner is not None:
        for statement in statements:
            if statement.startswith("REVOKE ALL ON FUNCTION "):
                function = statement.removeprefix("REVOKE ALL ON FUNCTION ").removesuffix(" FROM PUBLIC")
                yield f"ALTER FUNCTION {function} OWNER TO {quote_identifier(owner)}"


def _leftovers(catalogue: Catalogue, wrong: set[str], kept: set[str]) -> Iterator[str]:
    """Functions of tables that are gone, and those that a restored dump brought and nothing needs any more."""
    for name in sorted(catalogue.functions.keys() - kept):
        if name in wrong:
            new = name if name.startswith(RENAMED) else f"{RENAMED}{name}"[:NAME_BYTES]
            yield f"DROP FUNCTION {SCHEMA}.{quote_identifier(new)}()"
        elif name.startswith(RENAMED) or (function_table(name) and not is_there(catalogue, function_table(name))):
            yield f"DROP FUNCTION {SCHEMA}.{quote_identifier(name)}()"


def _uses(relation: Relation, functions: set[str]) -> bool:
    return any(trigger.function in functions for trigger in relation.triggers.values())
