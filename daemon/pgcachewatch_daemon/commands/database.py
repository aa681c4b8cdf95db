"""The database end of the commands: a connection, and a plan's steps with locks waited for politely.

Making a trigger waits for each transaction that writes to its table, and writers that come later wait behind it. So a
step waits LOCK_TIMEOUT_S for its locks, lets go for a moment, and tries again, ATTEMPTS times.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from pgcachewatch.errors import PGCacheWatchError
from pgcachewatch_config.command_line import add_options, read
from pgcachewatch_daemon.io.catalogue import Connection
from pgcachewatch_daemon.io.postgres import complete
from pgcachewatch_daemon.io.postgres.dsn import split_hosts
from pgcachewatch_daemon.sql import plan

LOCK_TIMEOUT_S = 1.0
ATTEMPTS = 10
PAUSE_S = 0.5
CONNECT_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 60.0
DATABASE_SETTINGS = ("dsn", "listen_dsn")


class DatabaseRefused(PGCacheWatchError):
    """The database can not be reached, or refused. The text says what to do."""


def add_database_options(parser: argparse.ArgumentParser) -> None:
    """The relay's settings that say which database, and the original's flags. No default is printed: it may hold a
    password.
    """
    add_options(parser, DATABASE_SETTINGS)
    group = parser.add_argument_group("database", "As published; the settings above do the same.")
    group.add_argument("--pg-dsn", help="postgresql://... (default: the settings, PGDSN)")
    group.add_argument("--pg-host", help="host (default: PGHOST)")
    group.add_argument("--pg-port", type=int, help="port (default: PGPORT)")
    group.add_argument("--pg-user", help="user (default: PGUSER)")
    group.add_argument("--pg-database", help="database (default: PGDATABASE)")
    group.add_argument("--pg-password", help="password (default: PGPASSWORD)")


@asynccontextmanager
async def connected(options: argparse.Namespace) -> AsyncIterator[Connection]:
    """A connection as flags and settings say; raises DatabaseRefused for whatever goes wrong with it, then or later."""
    try:
        connection = await _connect(options)
    except asyncpg.PostgresError as error:
        raise DatabaseRefused(f"PostgreSQL refused the connection: {_first_line(error)}") from error
    except (OSError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise DatabaseRefused(f"no connection to PostgreSQL: {reason}; see --dsn and --pg-host") from error
    try:
        yield connection
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise DatabaseRefused(f"PostgreSQL refused: {_first_line(error)}") from error
    finally:
        await connection.close()


async def _connect(options: argparse.Namespace) -> Connection:
    """To the first host that is a primary, as the relay does; else to the first that answers."""
    hosts = split_hosts(complete(_dsn(options)).dsn)
    standby: Connection | None = None
    problem: Exception | None = None
    for dsn in hosts:
        try:
            connection = await _attempt(dsn, options)
            is_primary = len(hosts) == 1 or not await connection.fetchval("SELECT pg_catalog.pg_is_in_recovery()")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
            problem = problem or error
            continue
        if is_primary:
            if standby is not None:
                await standby.close()
            return connection
        if standby is None:
            standby = connection
        else:
            await connection.close()
    if standby is not None:
        return standby
    assert problem is not None, "there is at least one host"
    raise problem


async def _attempt(dsn: str | None, options: argparse.Namespace) -> Connection:
    connection: Connection = await asyncpg.connect(
        dsn,
        host=options.pg_host,
        port=options.pg_port,
        user=options.pg_user,
        password=options.pg_password,
        database=options.pg_database,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        statement_cache_size=0,  # a pooler may stand between
    )
    return connection


def _dsn(options: argparse.Namespace) -> str | None:
    """The flag, then the direct way of the relay's settings, then the original's variable."""
    if options.pg_dsn is not None:
        return str(options.pg_dsn)
    settings = read(options).settings
    dsn = settings.listen_dsn or settings.dsn
    return dsn.get_secret_value() if dsn else os.environ.get("PGDSN")


async def run_steps(
    connection: Connection,
    steps: Sequence[plan.Step],
    *,
    is_single: bool,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    pause: Callable[[float], Any] = asyncio.sleep,  # Any: an awaitable of nothing of interest
) -> None:
    """Each step in its own transaction, or all in one; raises DatabaseRefused when a lock can not be had."""
    if is_single:
        everything = tuple(statement for step in steps for statement in step.statements)
        steps = [plan.Step("all tables", everything)]
    for done, step in enumerate(steps):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await _run(connection, step, lock_timeout_s)
                break
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
                if attempt == ATTEMPTS:
                    raise DatabaseRefused(_locked(step, done)) from error
                await pause(random.uniform(PAUSE_S / 2, PAUSE_S) * attempt)
            except asyncpg.PostgresError as error:
                raise DatabaseRefused(
                    f"PostgreSQL refused {step.title}: {_first_line(error)}; {_undone(done)}"
                ) from error


async def _run(connection: Connection, step: plan.Step, lock_timeout_s: float) -> None:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {int(lock_timeout_s * 1_000)}")
        await connection.execute(plan.LOCK)
        for statement in step.statements:
            await connection.execute(statement)
        await connection.execute(plan.TELL)


def _locked(step: plan.Step, done: int) -> str:
    return (
        f"{step.title} stayed locked through {ATTEMPTS} attempts; {_undone(done)}. Look for long transactions in "
        "pg_stat_activity, and run the command again: it goes on where it stopped"
    )


def _undone(done: int) -> str:
    return "nothing was changed" if not done else f"the {done} step(s) before it are done"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
