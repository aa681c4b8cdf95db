"""`pgcachewatch install TABLE...` and `uninstall`: row-level triggers, by the flags of the original and a few more.

A table's triggers notify (`--mode direct`) or write to the journal (`--mode journal`); installing again switches.
Both print the SQL they stand for, and change nothing without --commit. Each family of tables is one transaction, so
that no table stays locked while another is waited for; --single-transaction makes it all or nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from pgcachewatch import models
from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.commands.database import DatabaseRefused, add_database_options, connected, run_steps
from pgcachewatch_daemon.io.catalogue import Connection, fetch_catalogue
from pgcachewatch_daemon.lines import printable
from pgcachewatch_daemon.sql import plan
from pgcachewatch_daemon.sql.capture import DEFAULT_MAX_KEYS, MODES, WAKES
from pgcachewatch_daemon.sql.catalogue import Catalogue, Relation
from pgcachewatch_daemon.sql.coverage import Settings
from pgcachewatch_daemon.sql.names import check_channel

EXIT_FAILED = 1
EVERYTHING = "*.*"
COLUMNS_SQL = """
SELECT DISTINCT attname::pg_catalog.text FROM pg_catalog.pg_attribute
WHERE attrelid = ANY ($1::pg_catalog.oid[]) AND attnum > 0 AND NOT attisdropped
"""


def install(arguments: Sequence[str]) -> int:
    """watch tables: put triggers on each that tell which rows changed"""
    parser = _install_parser()
    options = parser.parse_args(arguments)
    _refuse_table_mode(parser, options)
    if bool(options.tables) + options.all + options.repair != 1:
        parser.error("name tables, or give --all, or --repair")
    return run(parser, _install(options))


def uninstall(arguments: Sequence[str]) -> int:
    """stop watching: take the triggers away"""
    parser = _uninstall_parser()
    options = parser.parse_args(arguments)
    _refuse_table_mode(parser, options)
    return run(parser, _uninstall(options))


def _refuse_table_mode(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.mode == "table":
        parser.error("--mode table is the original's trigger, which the client installs: run `python -m pgcachewatch`")


def run(parser: argparse.ArgumentParser, command: Coroutine[Any, Any, int]) -> int:  # Any: nothing is sent to it
    """The command's exit code; what went wrong is one line on standard error."""
    try:
        return asyncio.run(command)
    except ConfigurationError as error:
        parser.error(str(error))
    except DatabaseRefused as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return EXIT_FAILED


async def _install(options: argparse.Namespace) -> int:
    if options.channel_name is not None:
        check_channel(options.channel_name)
    async with connected(options) as connection:
        catalogue = await fetch_catalogue(connection, options.columns or ())
        channel = models.DEFAULT_PG_CHANNEL
        if options.repair:
            steps = plan.repair_plan(
                catalogue, default_channel=channel, owner=options.owner, relay_role=options.relay_role
            )
        else:
            tables = await _choose(connection, catalogue, options)
            steps = plan.install_plan(
                catalogue,
                tables,
                _settings(options),
                default_channel=channel,
                owner=options.owner,
                relay_role=options.relay_role,
            )
        await _show_and_run(connection, steps, options)
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        channel=options.channel_name,
        columns=options.columns,
        max_keys=options.max_keys,
        mode=next((mode for mode in MODES if mode == options.mode), None),
        wake=options.wake,
        is_fail_open=options.fail_open,
    )


async def _choose(connection: Connection, catalogue: Catalogue, options: argparse.Namespace) -> tuple[Relation, ...]:
    choice = plan.choose_tables(catalogue, [EVERYTHING] if options.all else options.tables)
    for relation, reason in choice.skipped:
        sys.stderr.write(f"-- skipped {printable(relation.display)}: {printable(reason)}\n")
    if options.columns:
        rows = await connection.fetch(COLUMNS_SQL, [table.oid for table in choice.tables])
        plan.check_columns(choice.tables, options.columns, known=[row[0] for row in rows])
    return choice.tables


async def _uninstall(options: argparse.Namespace) -> int:
    async with connected(options) as connection:
        catalogue = await fetch_catalogue(connection)
        tables = plan.choose_tables(catalogue, options.tables).tables if options.tables else None
        steps = plan.uninstall_plan(catalogue, tables, options.channel_name)
        _tell_of_original(catalogue, tables)
        await _show_and_run(connection, steps, options)
    return 0


def _tell_of_original(catalogue: Catalogue, tables: Sequence[Relation] | None) -> None:
    """Whoever comes from the original expects its triggers to go."""
    left = [
        relation.display
        for relation in (catalogue.relations.values() if tables is None else tables)
        if any(trigger.function is None for trigger in relation.triggers.values())
    ]
    if left:
        sys.stderr.write(
            f"-- left as they are: the original's triggers on {printable(', '.join(left))}; see --mode table\n"
        )


async def _show_and_run(connection: Connection, steps: Sequence[plan.Step], options: argparse.Namespace) -> None:
    for step in steps:
        sys.stdout.write(f"-- {_comment(step.title)}\nBEGIN;\n")
        sys.stdout.writelines(f"{statement};\n" for statement in step.statements)
        sys.stdout.write("COMMIT;\n")
    sys.stdout.flush()
    if not steps:
        sys.stderr.write("Nothing is to be done.\n")
    elif options.commit:
        await run_steps(connection, steps, is_single=options.single_transaction)
    else:
        sys.stderr.write("Nothing was changed. Add --commit to run this SQL.\n")


def _comment(text: str) -> str:
    return printable(" ".join(text.splitlines()))  # a name may have a line end, which would end the comment


def _columns(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _parser(name: str, description: str, *, modes: Sequence[str], about_modes: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"pgcachewatch {name}", description=description, allow_abbrev=False)
    parser.add_argument("--commit", action="store_true", help="run the SQL")
    parser.add_argument("--single-transaction", action="store_true", help="all tables or none; locks all until the end")
    parser.add_argument("--mode", choices=["row", *modes, "table"], default="row", help=about_modes)
    add_database_options(parser)
    return parser


def _install_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "install",
        "Watch tables: triggers that tell which rows changed.",
        modes=MODES,
        about_modes="direct: NOTIFY, nothing is stored; journal: a row that the relay reads, so that no event is ever "
        "missed and writers do not commit one by one; row: as the table has it, else direct; table: the original's "
        "trigger (row)",
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="users, s2.kv, 'public.*', '\"Odd.Name\"'")
    parser.add_argument("--all", action="store_true", help="every table of the database")
    parser.add_argument("--repair", action="store_true", help="what is installed already: upgrade it, mend it")
    parser.add_argument(
        "--channel-name", help=f"channel to notify (what the table has, else {models.DEFAULT_PG_CHANNEL})"
    )
    parser.add_argument(
        "--columns", type=_columns, help="further columns whose old and new values events carry: tenant_id,owner_id"
    )
    parser.add_argument(
        "--max-keys", type=_positive, help=f"a statement with more keys is told table-wide ({DEFAULT_MAX_KEYS})"
    )
    parser.add_argument("--owner", metavar="ROLE", help="who owns schema and functions; needs no LOGIN (you)")
    group = parser.add_argument_group("journal mode")
    group.add_argument(
        "--wake",
        choices=WAKES,
        help="gated: the first write after a pause notifies the relay; none: nothing ever does, as PREPARE TRANSACTION "
        "needs it, and the relay polls (what the table has, else gated)",
    )
    group.add_argument(
        "--fail-open",
        action=argparse.BooleanOptionalAction,
        help="a write that the journal can not take goes through, and caches of its table start anew; costs each write "
        "a subtransaction (what the table has, else the write fails)",
    )
    group.add_argument("--relay-role", metavar="ROLE", help="grant this role what the relay needs of the journal")
    return parser


def _uninstall_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "uninstall",
        "Stop watching tables; without TABLE all of them. Needs to own our schema, no table. The journal goes with the "
        "last watched table.",
        modes=(),
        about_modes="table: the original's trigger (row)",
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="as for install")
    parser.add_argument("--channel-name", help="only tables that notify this channel")
    return parser
