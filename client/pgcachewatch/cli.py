"""`pgcachewatch install TABLE...` and `pgcachewatch uninstall`: the original's triggers, by the original's flags.

Both print the SQL they stand for. Only with --commit is it run, in one transaction: all of it or nothing.
Exit codes: 0 done, 1 the database refused or can not be reached, 2 the command line can not work.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgcachewatch import models, queries
from pgcachewatch.errors import ConfigurationError

if TYPE_CHECKING:
    from asyncpg import Connection

__all__ = ["cliparser", "install_sql", "main", "names", "queries", "uninstall_sql"]

LOCK_TIMEOUT_S = 10
CONNECT_TIMEOUT_S = 10.0
NEEDS_ASYNCPG = "this command talks to PostgreSQL through asyncpg: pip install 'pgcachewatch[postgres]'"


def cliparser(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says; `arguments` default to the process's own."""
    return _parser().parse_args(arguments)


async def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code; what went wrong is one line on stderr."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        import asyncpg
    except ImportError:
        return _failed(NEEDS_ASYNCPG)
    try:
        await (_install(options) if options.command == "install" else _uninstall(options))
    except ConfigurationError as error:
        parser.error(str(error))
    except asyncpg.LockNotAvailableError:
        return _failed(f"a table was locked for {LOCK_TIMEOUT_S} s, nothing was changed; try again in a quieter moment")
    except asyncpg.PostgresError as error:
        return _failed(f"PostgreSQL refused, nothing was changed: {str(error).splitlines()[0]}")
    except (OSError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
        return _failed(f"no connection to PostgreSQL: {str(error) or type(error).__name__}; see --pg-dsn and --pg-host")
    return 0


def names(options: argparse.Namespace) -> tuple[str, str]:
    """Names of the function and of the triggers that these options stand for."""
    return f"{options.function_name}_{options.channel_name}", f"{options.trigger_name}_{options.channel_name}"


def install_sql(options: argparse.Namespace) -> str:
    """What `install` runs."""
    function, trigger = names(options)
    tables = dict.fromkeys(options.tables)
    return "\n".join(
        [
            queries.create_notify_function(channel_name=options.channel_name, function_name=function),
            *(queries.create_after_change_trigger(trigger, table, function) for table in tables),
        ]
    )


async def uninstall_sql(options: argparse.Namespace, connection: Connection) -> str:
    """What `uninstall` runs: a trigger is taken from each table that has it, in any schema, and then the function."""
    function, trigger = names(options)
    rows = await connection.fetch(queries.fetch_trigger_names(trigger))
    # A longer name that begins alike is the trigger of another channel.
    places = dict.fromkeys((row["schema"], row["table"]) for row in rows if row["trigger_name"] == trigger)
    drops = [queries.drop_trigger(trigger, table, schema) for schema, table in places]
    return "\n".join([*drops, queries.drop_function(function)])


async def _install(options: argparse.Namespace) -> None:
    sql = install_sql(options)
    _print(sql)
    if not options.commit:
        return _remind()
    connection = await _connect(options)
    try:
        await _run(connection, sql)
    finally:
        await connection.close()


async def _uninstall(options: argparse.Namespace) -> None:
    connection = await _connect(options)
    try:
        sql = await uninstall_sql(options, connection)
        _print(sql)
        if not options.commit:
            return _remind()
        await _run(connection, sql)
    finally:
        await connection.close()


async def _connect(options: argparse.Namespace) -> Connection:
    import asyncpg

    # What is None here, asyncpg takes from the environment: PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE.
    return await asyncpg.connect(
        options.pg_dsn,
        host=options.pg_host,
        port=options.pg_port,
        user=options.pg_user,
        password=options.pg_password,
        database=options.pg_database,
        timeout=CONNECT_TIMEOUT_S,
    )


async def _run(connection: Connection, sql: str) -> None:
    async with connection.transaction():
        # A trigger waits for every transaction that writes to its table, and writers that come later wait for it.
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
        await connection.execute(sql)


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _remind() -> None:
    sys.stderr.write("Nothing was changed. Add --commit to run this SQL.\n")


def _failed(text: str) -> int:
    sys.stderr.write(f"pgcachewatch: {text}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--commit", action="store_true", help="run the SQL, in one transaction")
    shared.add_argument("--channel-name", default=models.DEFAULT_PG_CHANNEL, help="channel to notify (%(default)s)")
    shared.add_argument(
        "--function-name",
        default="fn_pgcachewatch_table_change",
        help="beginning of the name of the trigger function; the channel's name follows (%(default)s)",
    )
    shared.add_argument(
        "--trigger-name",
        default="tg_pgcachewatch_table_change",
        help="beginning of the name of the triggers; the channel's name follows (%(default)s)",
    )
    database = shared.add_argument_group("database")
    # The defaults are not printed: among them may be a password.
    database.add_argument("--pg-dsn", default=os.environ.get("PGDSN"), help="postgresql://... (default: PGDSN)")
    database.add_argument("--pg-host", help="host (default: PGHOST)")
    database.add_argument("--pg-port", type=int, help="port (default: PGPORT)")
    database.add_argument("--pg-user", help="user (default: PGUSER)")
    database.add_argument("--pg-database", help="database (default: PGDATABASE)")
    database.add_argument("--pg-password", help="password (default: PGPASSWORD)")
    parser = argparse.ArgumentParser(prog="pgcachewatch", description="Triggers that tell caches about changed tables.")
    commands = parser.add_subparsers(dest="command", required=True)
    install = commands.add_parser("install", parents=[shared], help="watch tables")
    install.add_argument("tables", nargs="+", metavar="TABLE", help="a table, with its schema where needed: s2.kv")
    commands.add_parser("uninstall", parents=[shared], help="stop watching all tables of a channel")
    return parser
