"""`pgcachewatch status`: every table, whether its writes raise events, and if not, why not and what to do.

Behind them stands the journal, if there is one. Exit code 0 when whatever is watched is watched in full, 1 when a write
to a watched table may raise no event. A table that nobody asked to watch is no fault.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pgcachewatch_daemon.commands.database import add_database_options, connected
from pgcachewatch_daemon.commands.install import run
from pgcachewatch_daemon.io.catalogue import Connection, fetch_catalogue
from pgcachewatch_daemon.lines import printable
from pgcachewatch_daemon.sql.catalogue import Catalogue, Relation
from pgcachewatch_daemon.sql.coverage import (
    ALWAYS,
    ORIGIN,
    ROW_LEVEL,
    UNWATCHABLE,
    installed_settings,
    key_of,
    problem_with,
)
from pgcachewatch_daemon.sql.drift import Finding, findings
from pgcachewatch_daemon.sql.functions import trigger_name
from pgcachewatch_daemon.sql.journal import measure_sql

HEADERS = ("table", "watched", "mode", "version", "key", "notes")
IN_REPLICA_ROLE = "writes under session_replication_role = replica raise no event"
EXIT_OK, EXIT_WRONG = 0, 1


@dataclass(frozen=True, slots=True)
class Line:
    """One table. `watched`: rows, table (its events are table-wide), original (the original's trigger), in part, no.

    `mode`: direct, journal; empty where we watch nothing.
    """

    table: str
    watched: str
    mode: str
    version: str
    key: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JournalLine:
    """The journal. `rows`: at most so many. `oldest`: when the oldest was written. `floor`: pruned up to that xid."""

    bytes: int
    rows: int
    oldest: str | None
    floor: str
    pruned: int


def status(arguments: Sequence[str]) -> int:
    """every table: watched or not, and which writes raise no event"""
    parser = argparse.ArgumentParser(
        prog="pgcachewatch status",
        description="Which tables are watched, and which writes raise no event and why.",
        epilog="`pgcachewatch status URL` shows the state of a relay instead, as ws://host:8420.",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    add_database_options(parser)
    return run(parser, _status(parser.parse_args(arguments)))


async def _status(options: argparse.Namespace) -> int:
    async with connected(options) as connection:
        catalogue = await fetch_catalogue(connection)
        journal = await measure_journal(connection, catalogue)
    found = findings(catalogue)
    lines = status_lines(catalogue, found)
    if options.json:
        content = {"tables": [asdict(line) for line in lines], "journal": asdict(journal) if journal else None}
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
    else:
        sys.stdout.write(render(lines))
        if journal is not None:
            sys.stdout.write(f"\n{render_journal(journal)}\n")
        sys.stderr.writelines(f"{finding.detail}: {finding.remedy}\n" for finding in found if not finding.table)
    return EXIT_WRONG if any(finding.may_lose_events for finding in found) else EXIT_OK


async def measure_journal(connection: Connection, catalogue: Catalogue) -> JournalLine | None:
    """None where there is none, or this role may not read it."""
    if not {"journal", "journal_state"} <= catalogue.journal.tables or not catalogue.journal.is_readable:
        return None
    found: Any = await connection.fetchrow(measure_sql())  # Any: a record, or None when its one row was deleted
    if found is None:
        return None
    oldest = found["oldest"]
    return JournalLine(
        bytes=found["bytes"],
        rows=found["rows"],
        oldest=oldest.isoformat(timespec="seconds") if oldest else None,
        floor=found["floor"],
        pruned=found["pruned"],
    )


def render_journal(journal: JournalLine) -> str:
    """One line for people."""
    size = f"journal: {journal.bytes / 1e6:,.1f} MB, at most {journal.rows:,} rows"
    oldest = f", the oldest of {journal.oldest}" if journal.oldest else ""
    pruned = f"; {journal.pruned:,} pruned, up to transaction {journal.floor}" if journal.pruned else "; none pruned"
    return f"{size}{oldest}{pruned}"


def status_lines(catalogue: Catalogue, found: Sequence[Finding]) -> list[Line]:
    """A line per table, in order of name."""
    by_table: dict[str, list[Finding]] = {}
    for finding in found:
        by_table.setdefault(finding.table, []).append(finding)
    relations = sorted(catalogue.relations.values(), key=lambda one: (one.schema, one.name))
    return [_line(catalogue, one, by_table.get(one.display, [])) for one in relations]


def _line(catalogue: Catalogue, relation: Relation, found: Sequence[Finding]) -> Line:
    if relation.kind in UNWATCHABLE:
        notes = [finding.detail for finding in found] + [UNWATCHABLE[relation.kind]]
        return Line(relation.display, "no", "", "", "", tuple(notes))
    key, reason = key_of(catalogue, relation)
    notes = [f"{finding.detail} ({finding.remedy})" for finding in found]
    settings = installed_settings(catalogue, relation)
    originals = [trigger.enabled for trigger in relation.triggers.values() if trigger.function is None]
    has_original = any(state in (ORIGIN, ALWAYS) for state in originals)
    if settings is None:
        notes = notes or ([*_original(catalogue, relation)] if has_original else [_why(relation)])
        if originals and not has_original:
            notes.append("the original's trigger on it is disabled")
        return Line(relation.display, "original" if has_original else "no", "", "", "", tuple(notes))
    if has_original:
        notes.append("has the original's trigger as well: each statement raises two events")
    if reason:
        notes.append(f"events are table-wide: {reason}")
    if settings.columns:
        notes.append(f"carries {', '.join(settings.columns)}")
    if settings.wake == "none":
        notes.append("the relay has to poll: nothing wakes it")
    if settings.is_fail_open:
        notes.append("fails open: a write that the journal can not take goes through")
    if relation.is_partition:
        notes.append(f"its rows are told as {catalogue.root(relation).display}")
    if _is_silent_in_replica_role(relation):
        notes.append(f"{IN_REPLICA_ROLE} (installed by a role that does not own it)")
    is_whole = not any(finding.may_lose_events for finding in found)
    state = ("table" if reason else "rows") if is_whole else "in part"
    return Line(
        relation.display,
        state,
        settings.mode or "direct",
        _version(catalogue, relation),
        ", ".join(one.name for one in key),
        tuple(notes),
    )


def _is_silent_in_replica_role(relation: Relation) -> bool:
    ours = {name: one.enabled for name, one in relation.triggers.items() if one.function is not None}
    return trigger_name(ROW_LEVEL) not in ours and ORIGIN in ours.values()


def _original(catalogue: Catalogue, relation: Relation) -> Iterator[str]:
    yield "original's trigger: each statement drops the whole table"
    if any(trigger.enabled == ORIGIN for trigger in relation.triggers.values()):
        yield IN_REPLICA_ROLE
    if relation.is_replicated:
        yield "rows that a subscription applies raise no event"
    if len(catalogue.family(relation.oid)) > 1:
        yield "writes to a partition or child by its own name are told by its own trigger, or not at all"


def _why(relation: Relation) -> str:
    problem = problem_with(relation)
    advice = f"pgcachewatch install {relation.display} --commit"
    return f"writes raise no event: {problem}" if problem else f"writes raise no event ({advice})"


def _version(catalogue: Catalogue, relation: Relation) -> str:
    names = {trigger.function for trigger in relation.triggers.values() if trigger.function is not None}
    functions: Iterable[Mapping[str, object]] = (
        catalogue.functions[name].settings for name in names if name in catalogue.functions
    )
    return ", ".join(sorted({str(settings.get("v", "?")) for settings in functions}))


def render(lines: Sequence[Line]) -> str:
    """A table for people; the last column is as wide as it likes. Whoever may create a table chose its name."""
    told = ((one.table, one.watched, one.mode, one.version, one.key, "; ".join(one.notes)) for one in lines)
    rows = [HEADERS, *(tuple(printable(cell) for cell in row) for row in told)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEADERS) - 1)]
    return "".join(
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip() + "\n"
        for row in rows
    )
