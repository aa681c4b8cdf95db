"""A process that writes versions: `python -m tests.checker.writer TASK`.

Each key belongs to one writer, which raises its version by one, alone, with another key in one transaction, or in a
transaction that is rolled back. What it records is when it asked for the commit and when the answer came.

When the connection breaks in between, the commit is in doubt. The writer then reads what became of it: if the version
is there, it is a fact by now; if not, the same version is written again. The condition in the UPDATE keeps a statement
that was left behind in a dying session from undoing what came after it.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

import asyncpg

from tests.checker.child import run_until_stopped, say_ready
from tests.checker.plan import TABLE, WriterTask, from_argument, writes_path
from tests.checker.records import NEVER_RETURNED, RecordFile
from tests.checker.source import COMMAND_TIMEOUT_S, SOURCE_ERRORS

RETRY_S = 0.05
TOGETHER_SHARE = 0.2
ROLLED_BACK_SHARE = 0.1

UPDATE = f"UPDATE {TABLE} SET version = $2 WHERE key = $1 AND version = $2 - 1"


class Writer:
    """Writes until cancelled."""

    def __init__(self, task: WriterTask, records: RecordFile) -> None:
        self._task = task
        self._records = records
        self._chance = random.Random(task.seed)
        self._versions = dict.fromkeys(task.keys, 0)
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._chance.expovariate(self._task.writes_per_s))
                await self._write_something()
        finally:
            self._disconnect()

    async def _write_something(self) -> None:
        draw = self._chance.random()
        keys = self._chance.sample(self._task.keys, 2 if draw < TOGETHER_SHARE else 1)
        if draw > 1 - ROLLED_BACK_SHARE:
            await self._write_and_roll_back(keys[0])
        else:
            await self._commit({key: self._versions[key] + 1 for key in keys})

    async def _commit(self, versions: dict[int, int]) -> None:
        """Commit `versions` together, however often the connection breaks."""
        called_s = time.monotonic()
        returned_s = NEVER_RETURNED
        try:
            while not await self._is_committed(versions):  # noqa: ASYNC110  # the database announces nothing
                await asyncio.sleep(RETRY_S)
            returned_s = time.monotonic()
        finally:  # told to stop in between: a commit in doubt that may well be read
            for key, version in versions.items():
                self._records.wrote(key, version, called_s, returned_s)
                self._versions[key] = version

    async def _is_committed(self, versions: dict[int, int]) -> bool:
        try:
            await self._update(versions)
        except SOURCE_ERRORS:
            self._disconnect()
            return False
        return True

    async def _update(self, versions: dict[int, int]) -> None:
        """Return when all of `versions` are committed, whether by this attempt or by one before."""
        connection = await self._connect()
        async with connection.transaction():
            for key, version in sorted(versions.items()):
                await connection.execute(UPDATE, key, version)
            held = await connection.fetch(f"SELECT key, version FROM {TABLE} WHERE key = ANY($1)", list(versions))
        assert dict(map(tuple, held)) == versions, f"somebody else wrote: {held}, should be {versions}"

    async def _write_and_roll_back(self, key: int) -> None:
        try:
            connection = await self._connect()
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(UPDATE, key, self._versions[key] + 1)
            await transaction.rollback()
        except SOURCE_ERRORS:
            self._disconnect()

    def _disconnect(self) -> None:
        # Whatever state the session is in: the next one starts from a clean one.
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _connect(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._task.dsn, timeout=COMMAND_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S
            )
        return self._connection


async def main(task: WriterTask) -> None:
    """Write until the run says stop."""
    with RecordFile(writes_path(task.directory, task.name)) as records:
        say_ready()
        writing = asyncio.create_task(Writer(task, records).run())
        if await run_until_stopped(writing):
            raise SystemExit("the writer did not stop")


if __name__ == "__main__":
    asyncio.run(main(from_argument(WriterTask, sys.argv[1])))
