"""`pgcachewatch tail URL`: each change as it is committed, one line each, for people or for programs.

A gap is a line of its own: what happened there is not known. A connection that is lost is made anew, which standard
error tells, and what was missed meanwhile is replayed while the relay has it. Lines are written where they are made: a
reader that is slow holds the connection up, and once the relay has no room for it either, learns of a gap.
Exit codes: 0 when nobody reads the output any more, 1 refused or not reached, 2 the command line can not work, 130
after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence

from pgcachewatch.aio.client import Client
from pgcachewatch.aio.connecting import connect
from pgcachewatch.aio.events import EventStream
from pgcachewatch.errors import ConfigurationError, PGCacheWatchError
from pgcachewatch.models import DEFAULT_PG_CHANNEL, Event, Gap
from pgcachewatch.remote import Remote, add_remote_options, printable, remote_of

EXIT_FAILED, EXIT_COMMAND_LINE, EXIT_INTERRUPTED = 1, 2, 130
LOOK_S = 0.2
BATCH = 500
KEYS_SHOWN = 10
OPERATIONS = ("insert", "update", "delete", "truncate")


def tail(arguments: Sequence[str]) -> int:
    """follow changes as they are committed"""
    parser = _parser()
    options = parser.parse_args(arguments)
    # What is to be said about the connection, is said below.
    logger = logging.getLogger("pgcachewatch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        remote = remote_of(options)
        return asyncio.run(_follow(remote, options))
    except ConfigurationError as error:
        return _failed(str(error), EXIT_COMMAND_LINE)
    except PGCacheWatchError as error:
        return _failed(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The interpreter would complain when it flushes what nobody reads.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        logger.setLevel(level)


def event_line(event: Event) -> str:
    """For people: when, what, where, which rows, and how long after the statement it was seen here.

    >>> at = "2030-01-01T12:00:00Z"
    >>> told = {"channel": "c", "operation": "update", "table": "users", "sent_at": at, "received_at": at}
    >>> event_line(Event(**told, keys=("5", "6"))).split()[1:]
    ['update', 'users', '5', '6', '0.0', 'ms']
    """
    place = event.table if event.schema_name in (None, "public") else f"{event.schema_name}.{event.table}"
    late_ms = max(0.0, event.latency.total_seconds() * 1_000)
    at = event.received_at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    return f"{at}  {event.operation:<8}  {printable(place):<24}  {_keys(event.keys)}  {late_ms:.1f} ms"


def event_json(event: Event) -> str:
    """For programs: one object."""
    return json.dumps(
        {
            "type": "event",
            "channel": event.channel,
            "schema": event.schema_name,
            "table": event.table,
            "operation": event.operation,
            "keys": None if event.keys is None else list(event.keys),
            "sent_at": event.sent_at.isoformat(),
            "received_at": event.received_at.isoformat(),
            "latency_ms": round(event.latency.total_seconds() * 1_000, 3),
            "xid": event.xid,
            "id": event.id,
        }
    )


def gap_line(gap: Gap) -> str:
    """For people.

    >>> from pgcachewatch.models import Scope
    >>> gap_line(Gap(Scope("c", "users"), "table_wide", "a trigger is missing"))
    '--- gap: users may have changed without an event here (table_wide: a trigger is missing)'
    """
    what = printable(gap.scope.table) if gap.scope.table else "anything"
    why = f"{gap.reason}: {printable(gap.detail)}" if gap.detail else gap.reason
    return f"--- gap: {what} may have changed without an event here ({why})"


def gap_json(gap: Gap) -> str:
    """For programs."""
    scope = gap.scope
    return json.dumps(
        {
            "type": "gap",
            "channel": scope.channel,
            "schema": scope.schema,
            "table": scope.table,
            "reason": gap.reason,
            "detail": gap.detail,
        }
    )


async def _follow(remote: Remote, options: argparse.Namespace) -> int:
    connecting = connect(
        remote.url,
        token=remote.token or None,
        ssl=remote.ssl,
        channels=options.channel or (DEFAULT_PG_CHANNEL,),
        open_timeout=options.timeout,
        name="pgcachewatch tail",
    )
    async with connecting as client:
        watcher = asyncio.create_task(_tell_of_losses(client), name="tail of losses")
        try:
            async with client.events(*options.table, operations=options.operation or None) as stream:
                await _write(stream, is_json=options.json)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
    return 0


async def _write(stream: EventStream, *, is_json: bool) -> None:
    async for first in stream:
        told = [first, *_waiting(stream)]
        lines = [_line(each, is_json=is_json) for each in told]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


def _waiting(stream: EventStream) -> list[Event | Gap]:
    """What came meanwhile, so that a flood costs one write for many."""
    told: list[Event | Gap] = []
    try:
        while len(told) < BATCH:
            told.append(stream.left())
    except StopAsyncIteration:
        pass
    return told


def _line(told: Event | Gap, *, is_json: bool) -> str:
    if isinstance(told, Gap):
        return gap_json(told) if is_json else gap_line(told)
    return event_json(told) if is_json else event_line(told)


def _keys(keys: Sequence[str] | None) -> str:
    if keys is None:
        return "(whole table)"
    shown = " ".join(printable(key) for key in keys[:KEYS_SHOWN])
    return f"{shown} (+{len(keys) - KEYS_SHOWN})" if len(keys) > KEYS_SHOWN else shown


async def _tell_of_losses(client: Client) -> None:
    was_connected = True
    while True:
        status = client.status
        if status.is_connected != was_connected:
            was_connected = status.is_connected
            _say("connected again" if was_connected else f"{status.last_error}; connecting again")
        await asyncio.sleep(LOOK_S)


def _say(text: str) -> None:
    sys.stderr.write(f"pgcachewatch tail: {printable(text)}\n")
    sys.stderr.flush()


def _failed(text: str, code: int) -> int:
    _say(text)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pgcachewatch tail", description="Follow changes as they are committed.", allow_abbrev=False
    )
    add_remote_options(parser)
    parser.add_argument("--table", action="append", default=[], metavar="T", help="only this table; may be repeated")
    parser.add_argument(
        "--operation", action="append", default=[], choices=OPERATIONS, help="only this one; may be repeated"
    )
    parser.add_argument("--channel", action="append", default=[], metavar="C", help="instead of the relay's usual one")
    parser.add_argument("--json", action="store_true", help="one object a line, for programs")
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="S", help="seconds for the first connection (%(default)g)"
    )
    return parser
