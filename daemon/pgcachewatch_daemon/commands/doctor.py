"""`pgcachewatch doctor`: what stands between this database and the caches, each finding with its remedy.

`measure` asks, `diagnose` judges and is pure. Exit code 0 when events can flow, 1 when they can not or may be lost.
Wall clocks take no part in any proof of freshness; their skew is told because it falsifies latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pgcachewatch_daemon.commands.database import DatabaseRefused, add_database_options, connected
from pgcachewatch_daemon.commands.install import run
from pgcachewatch_daemon.commands.status import measure_journal
from pgcachewatch_daemon.core.server_version import OLDEST_MAJOR, ServerVersion
from pgcachewatch_daemon.io.catalogue import Connection, fetch_catalogue
from pgcachewatch_daemon.lines import printable
from pgcachewatch_daemon.sql.catalogue import Catalogue
from pgcachewatch_daemon.sql.coverage import settings_of
from pgcachewatch_daemon.sql.drift import findings
from pgcachewatch_daemon.sql.functions import SHARED
from pgcachewatch_daemon.sql.journal_tables import GUARD, journal_problem

Grade = Literal["ok", "warn", "fail"]

QUEUE_WARN, QUEUE_FAIL = 0.1, 0.5
SKEW_WARN_S = 1.0
LOOPBACK_WARN_S, LOOPBACK_LIMIT_S = 0.25, 3.0
COMMIT_WAITERS_WARN = 3
UNPRUNED_WARN_S = 3_600.0  # a relay prunes what is a few minutes old

# Committing transactions that notified wait for this lock, one by one.
WAITERS_SQL = """
SELECT count(*) FROM pg_catalog.pg_locks
WHERE locktype = 'object' AND database = 0 AND classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND objid = 0
  AND NOT granted
"""
# Also those that are for all tables, or for all of a schema.
PUBLICATIONS_SQL = """
SELECT DISTINCT pubname::pg_catalog.text FROM pg_catalog.pg_publication_tables
WHERE schemaname = 'pgcachewatch' AND tablename = 'journal' ORDER BY 1
"""
FACTS_SQL = """
SELECT pg_catalog.pg_backend_pid() AS pid, pg_catalog.pg_is_in_recovery() AS is_in_recovery,
  pg_catalog.pg_notification_queue_usage() AS queue_usage, current_user::pg_catalog.text AS role,
  pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') AS may_create,
  pg_catalog.current_setting('max_prepared_transactions')::pg_catalog.int4 AS prepared
"""


@dataclass(frozen=True, slots=True)
class Measurements:
    """What was found. `loopback_s` None: it did not return, or was not to be tried.

    `notifying`: functions that may notify. `journal` None: no table writes to one. `oldest_s`: its oldest row.
    `publications`: those that carry the journal to their subscribers.
    """

    version: ServerVersion
    announced_pid: int
    pids: tuple[int, ...]
    is_in_recovery: bool
    role: str
    may_create: bool
    has_schema: bool
    watchable: int
    tables: int
    queue_usage: float
    commit_waiters: int
    prepared: int
    skew_s: float
    round_trip_s: float
    loopback_s: float | None
    losing: tuple[str, ...]
    notifying: int = 0
    journal: str | None = None
    journal_problem: str = ""
    may_read_journal: bool = True
    oldest_s: float = 0.0
    publications: tuple[str, ...] = ()

    @property
    def has_pooler(self) -> bool:
        return any(pid != self.announced_pid for pid in self.pids)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One finding; `remedy` is empty when it is ok."""

    grade: Grade
    subject: str
    text: str
    remedy: str = ""


def doctor(arguments: Sequence[str]) -> int:
    """is this database fit: connection, privileges, pooler, notify queue, loopback, triggers"""
    parser = argparse.ArgumentParser(
        prog="pgcachewatch doctor", description="Whether events can flow from this database, and what to do if not."
    )
    add_database_options(parser)
    return run(parser, _doctor(parser.parse_args(arguments)))


async def _doctor(options: argparse.Namespace) -> int:
    try:
        async with connected(options) as connection:
            found = diagnose(await measure(connection))
    except DatabaseRefused as error:
        found = [Diagnosis("fail", "connection", str(error), "check address, login and pg_hba.conf")]
    sys.stdout.write(render(found))
    return int(any(one.grade == "fail" for one in found))


async def measure(connection: Connection) -> Measurements:
    """Everything that `diagnose` wants to know. Leaves nothing behind."""
    facts = await connection.fetchrow(FACTS_SQL)
    assert facts is not None  # it has no FROM
    second = await connection.fetchval("SELECT pg_catalog.pg_backend_pid()")
    catalogue = await fetch_catalogue(connection)
    relations = list(catalogue.relations.values())
    skew_s, round_trip_s = await _skew(connection)
    has_loopback = not facts["is_in_recovery"]
    modes = [settings_of(one) for name, one in catalogue.functions.items() if name not in (*SHARED, GUARD)]
    size, oldest_s = await _journal_facts(connection, catalogue)
    return Measurements(
        version=ServerVersion.parse(connection.get_settings().server_version),
        announced_pid=connection.get_server_pid(),
        pids=(facts["pid"], second),
        is_in_recovery=facts["is_in_recovery"],
        role=facts["role"],
        may_create=facts["may_create"],
        has_schema=catalogue.has_schema,
        watchable=sum(one.is_owned or one.may_trigger for one in relations),
        tables=len(relations),
        queue_usage=float(facts["queue_usage"]),
        commit_waiters=await connection.fetchval(WAITERS_SQL),
        prepared=facts["prepared"],
        skew_s=skew_s,
        round_trip_s=round_trip_s,
        loopback_s=await _loopback(connection) if has_loopback else None,
        losing=tuple(
            sorted(
                {
                    one.table or one.detail
                    for one in findings(catalogue)
                    if one.may_lose_events and one.kind != "journal_broken"
                }
            )
        ),
        notifying=sum(one.mode != "journal" or one.wake != "none" for one in modes),
        journal=size if any(one.mode == "journal" for one in modes) else None,
        journal_problem=_journal_problem(catalogue),
        may_read_journal=catalogue.journal.is_readable,
        oldest_s=oldest_s,
        publications=tuple(row[0] for row in await connection.fetch(PUBLICATIONS_SQL)),
    )


def _journal_problem(catalogue: Catalogue) -> str:
    broken = [one.detail for one in findings(catalogue) if one.kind == "journal_broken"]
    return broken[0] if broken else journal_problem(catalogue.journal)


async def _journal_facts(connection: Connection, catalogue: Catalogue) -> tuple[str, float]:
    """How large it is, for people, and how old its oldest row, in seconds by the server's clock."""
    found = await measure_journal(connection, catalogue)
    if found is None:
        return "its size is not known", 0.0
    size = f"{found.bytes / 1e6:,.1f} MB, at most {found.rows:,} rows"
    if found.oldest is None:
        return size, 0.0
    age = "SELECT extract(epoch FROM pg_catalog.clock_timestamp() - $1::pg_catalog.text::pg_catalog.timestamptz)"
    return size, float(await connection.fetchval(age, found.oldest))


async def _skew(connection: Connection) -> tuple[float, float]:
    """Server's clock less ours, and the round trip within which that is true."""
    began, started = time.time(), time.monotonic()
    server = await connection.fetchval("SELECT extract(epoch FROM pg_catalog.clock_timestamp())::pg_catalog.float8")
    round_trip_s = time.monotonic() - started
    return float(server) - (began + round_trip_s / 2), round_trip_s


async def _loopback(connection: Connection) -> float | None:
    channel = f"pgcachewatch_doctor_{secrets.token_hex(8)}"
    heard = asyncio.Event()

    def hear(*_: object) -> None:
        heard.set()

    await connection.add_listener(channel, hear)
    started = time.monotonic()
    await connection.execute("SELECT pg_catalog.pg_notify($1, '')", channel)
    try:
        async with asyncio.timeout(LOOPBACK_LIMIT_S):
            await heard.wait()
    except TimeoutError:
        return None
    finally:
        taken_s = time.monotonic() - started
        await connection.remove_listener(channel, hear)
    return taken_s


def diagnose(found: Measurements) -> list[Diagnosis]:
    """What the measurements mean, one finding a subject."""
    return [
        _version(found),
        _pooler(found),
        _recovery(found),
        _privileges(found),
        _queue(found),
        _waiters(found),
        _clock(found),
        *_loopback_time(found),
        *_prepared(found),
        _triggers(found),
        *_journal(found),
        *_publications(found),
    ]


def _version(found: Measurements) -> Diagnosis:
    version = found.version
    text = f"PostgreSQL {version}"
    if not version.is_supported:
        return Diagnosis("fail", "version", text, f"upgrade to {OLDEST_MAJOR} or later")
    if version.problem:
        return Diagnosis("warn", "version", text, version.problem)
    return Diagnosis("ok", "version", text)


def _pooler(found: Measurements) -> Diagnosis:
    if found.has_pooler:
        remedy = "give the relay a direct address in PGCACHEWATCH_LISTEN_DSN; LISTEN through a pooler loses events"
        return Diagnosis("fail", "pooler", "a connection pooler stands between", remedy)
    return Diagnosis("ok", "pooler", "none between")


def _recovery(found: Measurements) -> Diagnosis:
    if found.is_in_recovery:
        remedy = "connect to the primary: LISTEN and NOTIFY are refused here"
        return Diagnosis("fail", "recovery", "a standby, or still recovering", remedy)
    return Diagnosis("ok", "recovery", "a primary")


def _privileges(found: Measurements) -> Diagnosis:
    text = f"role {found.role} may listen, and may watch {found.watchable} of {found.tables} tables"
    if not found.may_create and not found.has_schema:
        remedy = "fit for the relay; to install, GRANT CREATE ON DATABASE to it, or install with another role"
        return Diagnosis("warn", "privileges", f"{text}, but may make no schema", remedy)
    if found.watchable < found.tables:
        return Diagnosis("warn", "privileges", text, "GRANT TRIGGER on the others, or install as their owner")
    return Diagnosis("ok", "privileges", text)


def _queue(found: Measurements) -> Diagnosis:
    text = f"notify queue {found.queue_usage:.1%} full"
    if found.queue_usage < QUEUE_WARN:
        return Diagnosis("ok", "queue", text)
    remedy = (
        "end the session that listens and does not read: the warning in the server's log names its pid, and "
        "pg_stat_activity shows it in ClientWrite or idle in transaction; when the queue is full, commits fail"
    )
    return Diagnosis("fail" if found.queue_usage >= QUEUE_FAIL else "warn", "queue", text, remedy)


def _waiters(found: Measurements) -> Diagnosis:
    text = f"{found.commit_waiters} commits wait for their turn to notify"
    if found.commit_waiters < COMMIT_WAITERS_WARN:
        return Diagnosis("ok", "commits", text)
    remedy = (
        "notifying transactions commit one after another: put the busiest tables in journal mode, "
        "pgcachewatch install --mode journal TABLE... --commit"
    )
    return Diagnosis("warn", "commits", text, remedy)


def _clock(found: Measurements) -> Diagnosis:
    text = f"server's clock {found.skew_s * 1_000:+.0f} ms from ours, within {found.round_trip_s * 500:.1f} ms"
    if abs(found.skew_s) - found.round_trip_s / 2 < SKEW_WARN_S:
        return Diagnosis("ok", "clock", text)
    return Diagnosis("warn", "clock", text, "run NTP on both: latencies are told wrongly (freshness is not affected)")


def _loopback_time(found: Measurements) -> Iterator[Diagnosis]:
    if found.is_in_recovery:
        return
    if found.loopback_s is None:
        text = f"our own notification did not return within {LOOPBACK_LIMIT_S:g} s"
        yield Diagnosis("fail", "loopback", text, "look for a pooler between, or for commits that hang on a standby")
        return
    text = f"our own notification returned in {found.loopback_s * 1_000:.1f} ms"
    if found.loopback_s < LOOPBACK_WARN_S:
        yield Diagnosis("ok", "loopback", text)
    else:
        remedy = "caches can be no fresher than this: look at network and commit latency, or raise their bound"
        yield Diagnosis("warn", "loopback", text, remedy)


def _prepared(found: Measurements) -> Iterator[Diagnosis]:
    if found.prepared and found.notifying:
        text = f"max_prepared_transactions is {found.prepared}, and writes to watched tables may notify"
        remedy = (
            "PREPARE TRANSACTION fails after such a write: for tables that are written that way, "
            "pgcachewatch install --mode journal --wake none TABLE... --commit"
        )
        yield Diagnosis("warn", "two-phase", text, remedy)


def _triggers(found: Measurements) -> Diagnosis:
    if found.losing:
        remedy = "see `pgcachewatch status`; mend with `pgcachewatch install --repair --commit`"
        return Diagnosis("fail", "triggers", f"not as installed: {', '.join(found.losing)}", remedy)
    if not found.has_schema:
        return Diagnosis("warn", "triggers", "no table is watched by row", "pgcachewatch install TABLE... --commit")
    return Diagnosis("ok", "triggers", "as installed")


def _journal(found: Measurements) -> Iterator[Diagnosis]:
    if found.journal is None:
        return
    if found.journal_problem:
        remedy = "pgcachewatch install --repair --commit; until then writes to its tables fail, or are told as lost"
        yield Diagnosis("fail", "journal", found.journal_problem, remedy)
    elif not found.may_read_journal:
        remedy = f"if it is the relay's: pgcachewatch install --repair --relay-role {found.role} --commit"
        yield Diagnosis("warn", "journal", f"role {found.role} may not read it", remedy)
    elif found.oldest_s > UNPRUNED_WARN_S:
        text = f"{found.journal}, the oldest written {found.oldest_s / 3_600:.1f} h ago"
        remedy = "a relay prunes it: start one on this database, or stop watching tables in journal mode"
        yield Diagnosis("warn", "journal", text, remedy)
    else:
        yield Diagnosis("ok", "journal", found.journal)


def _publications(found: Measurements) -> Iterator[Diagnosis]:
    if found.publications:
        text = f"the journal is part of {', '.join(found.publications)}"
        remedy = (
            "a subscriber without that table stops applying, and one with a journal of its own would mix them up: "
            "name the publication's tables instead of all"
        )
        yield Diagnosis("warn", "published", text, remedy)


def render(found: Sequence[Diagnosis]) -> str:
    """One line a finding, its remedy below it."""
    lines = []
    for one in found:
        lines.append(f"{one.grade:<4}  {one.subject:<10}  {printable(one.text)}\n")
        if one.remedy:
            lines.append(f"{'':18}-> {printable(one.remedy)}\n")
    return "".join(lines)
