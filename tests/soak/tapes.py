"""A process that writes the tapes and the jobs: `python -m tests.soak.tapes TASK`.

A number whose commit was asked for and never confirmed is in doubt: readers may hear it or not. The next one is tried
all the same, so a database that is away leaves a short span in doubt and no hole that nobody can explain.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable

import asyncpg

from tests.checker.plan import from_argument
from tests.checker.source import COMMAND_TIMEOUT_S, SOURCE_ERRORS
from tests.soak.crowd import Report, take_part
from tests.soak.plan import JOBS, TAPES, TapeTask, tape_channel, tape_table
from tests.soak.tape import Numbers

RETRY_S = 0.2
JOBS_PER_S = 1.0
JOBS_KEPT = 100

NOTIFY = """
    SELECT pg_notify($1, json_build_object(
        'operation', 'update', 'table', $2::text, 'schema', 'public', 'sent_at', now(),
        'keys', json_build_array(number::text))::text)
    FROM generate_series($3::bigint, $4::bigint) AS number
"""


class Tape:
    """Numbers from 1 on, with one connection."""

    def __init__(self, task: TapeTask, number: int) -> None:
        self.number = number
        self.last = 0
        self.in_doubt = Numbers()
        self._task = task
        self._chance = random.Random(task.seed * 1_000 + number)
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    async def write(self) -> None:
        """For ever."""
        burst_in_s = self._chance.uniform(0, self._task.burst_every_s * TAPES)
        while True:
            pause_s = self._chance.expovariate(self._task.per_s)
            await asyncio.sleep(pause_s)
            burst_in_s -= pause_s
            if burst_in_s <= 0:
                burst_in_s = self._chance.uniform(0, 2 * self._task.burst_every_s * TAPES)
                await self.commit(self._task.burst_events)
            else:
                await self.commit(1)

    async def commit(self, count: int) -> None:
        """So many more, in one transaction."""
        first, self.last = self.last + 1, self.last + count
        try:
            connection = await self._connect()
            await connection.execute(NOTIFY, tape_channel(self.number), tape_table(self.number), first, self.last)
        except (*SOURCE_ERRORS, asyncio.CancelledError) as error:
            self.in_doubt.add_span((first, self.last))
            if self._connection is not None:
                self._connection.terminate()
            if isinstance(error, asyncio.CancelledError):
                raise
            await asyncio.sleep(RETRY_S)

    async def _connect(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._task.dsn, timeout=COMMAND_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S
            )
        return self._connection


class Jobs:
    """Rows of a journalled table; those that are known to be committed."""

    def __init__(self, task: TapeTask) -> None:
        self.committed = Numbers()
        self._task = task
        self._chance = random.Random(task.seed)

    async def write(self) -> None:
        """For ever, over any number of connections."""
        while True:
            try:
                connection = await asyncpg.connect(
                    self._task.dsn, timeout=COMMAND_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S
                )
                try:
                    await self._write_by(connection)
                finally:
                    connection.terminate()
            except SOURCE_ERRORS:
                await asyncio.sleep(RETRY_S)

    async def _write_by(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        while True:
            await asyncio.sleep(self._chance.expovariate(JOBS_PER_S))
            number = await connection.fetchval(f"INSERT INTO {JOBS} DEFAULT VALUES RETURNING id")
            self.committed.add(number)
            await connection.execute(f"DELETE FROM {JOBS} WHERE id < $1", number - JOBS_KEPT)


def report_of(tapes: list[Tape], jobs: Jobs) -> Report:
    """What the judge wants to know."""
    return {
        "last": [tape.last for tape in tapes],
        "in_doubt": [tape.in_doubt.spans for tape in tapes],
        "jobs": jobs.committed.spans,
    }


async def main(task: TapeTask) -> None:
    """Write until the soak says stop."""
    tapes = [Tape(task, number) for number in range(TAPES)]
    jobs = Jobs(task)
    work: list[Awaitable[None]] = [*(tape.write() for tape in tapes), jobs.write()]
    await take_part(task.directory, task.name, work, lambda: report_of(tapes, jobs))


if __name__ == "__main__":
    asyncio.run(main(from_argument(TapeTask, sys.argv[1])))
