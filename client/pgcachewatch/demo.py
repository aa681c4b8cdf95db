"""The live demo: a writer changes rows, a cached reader shows what becomes of the entries.

    PGCACHEWATCH_DSN=postgresql://... python -m pgcachewatch.demo --relay ws://127.0.0.1:8420

It is an ordinary program on the public interface, and an honest one: beside the counts it keeps an oracle of its own.
Every read is compared with what had been committed, so a hit older than the staleness bound is seen, counted and
ends the demo with an error. The relay, its LISTEN connection or PostgreSQL may be killed while it runs; it goes on
when they are back. Bound: the last 1,000 invalidation times are kept for the median.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import os
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import asyncpg

import pgcachewatch
from pgcachewatch import models, queries

ROWS = 20
WRITE_EVERY_S = 0.5
READ_EVERY_S = 0.002
REPORT_EVERY_S = 2.0
RETRY_S = 0.2
STALENESS_S = 2.0
SAMPLES = 1_000
TABLE = "pgcachewatch_demo"
# InternalClientError: what asyncpg says when a connection breaks in the middle of a statement.
DATABASE_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


@dataclass
class Oracle:
    """What a read must contain. Times are this process's monotonic clock, in seconds."""

    commits: dict[int, collections.deque[tuple[float, int]]] = field(default_factory=dict)
    stale: int = 0

    def committed(self, row: int, version: int, at_s: float) -> None:
        """COMMIT of `version` returned at `at_s`."""
        self.commits.setdefault(row, collections.deque(maxlen=SAMPLES)).append((at_s, version))

    def due(self, row: int, started_s: float) -> int:
        """The version a read that starts at `started_s` must have at least."""
        bound = started_s - STALENESS_S
        return max((version for at_s, version in self.commits.get(row, ()) if at_s <= bound), default=0)

    def check(self, row: int, version: int, started_s: float) -> None:
        """A read that started at `started_s` returned `version`. Raises AssertionError when that is too old."""
        due = self.due(row, started_s)
        if version < due:
            self.stale += 1
            raise AssertionError(f"stale hit: row {row} has version {version}, at least {due} was due")


@dataclass
class Shown:
    """What the demo prints."""

    started_s: float  # monotonic; lines say how long ago it was
    reads: int = 0
    runs: int = 0  # of the function: misses and bypasses
    delays_ms: collections.deque[float] = field(default_factory=lambda: collections.deque(maxlen=SAMPLES))

    def line(self, text: str) -> None:
        """One line, with the time since the start in front."""
        try:
            sys.stdout.write(f"{time.monotonic() - self.started_s:7.1f} s  {text}\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever looked has gone; and at exit Python would try again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None


class Database:
    """One connection that comes back: an operation that finds it broken raises, and the next one connects anew."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: asyncpg.Connection | None = None

    async def use(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._dsn, timeout=5, command_timeout=5)
        return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()


class Demo:
    """Writer, reader and watcher around one client."""

    def __init__(self, dsn: str, relay_url: str, *, started_s: float) -> None:
        self._relay_url = relay_url
        self._write, self._read = Database(dsn), Database(dsn)
        self._commit_sent_s: collections.deque[float] = collections.deque(maxlen=SAMPLES)
        self._oracle, self._shown = Oracle(), Shown(started_s)

    async def run(self) -> None:
        """Until cancelled, or until a stale hit is seen (AssertionError)."""
        try:
            await self._until_done(self._prepare)
            async with (
                pgcachewatch.connect(self._relay_url, staleness=STALENESS_S, name="demo") as client,
                asyncio.TaskGroup() as group,
            ):
                group.create_task(self._writer())
                group.create_task(self._reader(client))
                group.create_task(self._watcher(client))
                group.create_task(self._reporter(client))
        finally:
            await self._write.close()
            await self._read.close()

    async def _until_done(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await step()
            except DATABASE_ERRORS as error:
                self._shown.line(f"database: {type(error).__name__}: {error}; trying again")
                await asyncio.sleep(RETRY_S)

    async def _prepare(self) -> None:
        connection = await self._write.use()
        await connection.execute(
            f"CREATE TABLE IF NOT EXISTS {TABLE} (id int PRIMARY KEY, version int NOT NULL);"
            f"INSERT INTO {TABLE} SELECT i, 0 FROM generate_series(1, {ROWS}) i ON CONFLICT DO NOTHING"
        )
        name = "pgcachewatch_demo_notify"
        await connection.execute(queries.create_notify_function(models.DEFAULT_PG_CHANNEL, name))
        await connection.execute(queries.create_after_change_trigger(f"{name}_trigger", TABLE, name))
        self._shown.line(f"{ROWS} rows in table {TABLE}, trigger installed, relay at {self._relay_url}")

    async def _writer(self) -> None:
        while True:
            await self._until_done(self._change_one_row)
            await asyncio.sleep(WRITE_EVERY_S)

    async def _change_one_row(self) -> None:
        row = random.randint(1, ROWS)
        connection = await self._write.use()
        self._commit_sent_s.append(time.monotonic())
        version = await connection.fetchval(
            f"UPDATE {TABLE} SET version = version + 1 WHERE id = $1 RETURNING version", row
        )
        self._oracle.committed(row, version, time.monotonic())

    async def _watcher(self, client: pgcachewatch.Client) -> None:
        async for event in client.events(TABLE):
            if isinstance(event, models.Gap):
                self._shown.line(f"gap ({event.reason}): what the cache held is not served any more")
            elif self._commit_sent_s:
                delay_ms = (time.monotonic() - self._commit_sent_s[-1]) * 1000
                self._shown.delays_ms.append(delay_ms)
                self._shown.line(f"{event.operation} on {event.table}: invalidated {delay_ms:.1f} ms after commit")

    async def _reader(self, client: pgcachewatch.Client) -> None:
        @client.cache(tables=[TABLE])
        async def version_of(row: int) -> int:
            connection = await self._read.use()
            version = int(await connection.fetchval(f"SELECT version FROM {TABLE} WHERE id = $1", row))
            self._shown.runs += 1  # of those that returned, as reads are: a database that is down makes no misses
            return version

        async def read_one() -> None:
            row = random.randint(1, ROWS)
            started_s = time.monotonic()
            version = await version_of(row)
            self._shown.reads += 1
            self._oracle.check(row, version, started_s)

        while True:
            await self._until_done(read_one)
            await asyncio.sleep(READ_EVERY_S)

    async def _reporter(self, client: pgcachewatch.Client) -> None:
        state = None
        last_report_s = time.monotonic()
        while True:
            await asyncio.sleep(0.02)
            status = client.status
            if status.state != state:
                self._shown.line(f"cache is {status.state.upper()}")
                state = status.state
            if time.monotonic() - last_report_s >= REPORT_EVERY_S:
                last_report_s = time.monotonic()
                self._report(status.lease_left_s)

    def _report(self, lease_left_s: float) -> None:
        shown = self._shown
        hits = shown.reads - shown.runs
        median = f"{statistics.median(shown.delays_ms):.2f} ms" if shown.delays_ms else "-"
        shown.line(
            f"{hits:,} hits, {shown.runs:,} misses ({hits / max(shown.reads, 1):.1%} hits), "
            f"commit to invalidated p50 {median}, stale hits {self._oracle.stale}, lease {max(lease_left_s, 0):.1f} s"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 after Ctrl-C, 1 after a stale hit or an error."""
    parser = argparse.ArgumentParser(prog="python -m pgcachewatch.demo", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dsn",
        default=os.environ.get("PGCACHEWATCH_DSN"),
        help="database to create the demo table in (default: PGCACHEWATCH_DSN)",
    )
    parser.add_argument("--relay", required=True, help="relay, as ws://127.0.0.1:8420")
    parser.add_argument("--started", type=float, help="monotonic instant the lines count from (default: now)")
    options = parser.parse_args(arguments)
    if not options.dsn:
        parser.error("no database: set PGCACHEWATCH_DSN, or give --dsn")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Demo(options.dsn, options.relay, started_s=options.started or time.monotonic()).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
