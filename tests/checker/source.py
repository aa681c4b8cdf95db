"""The function that the readers cache: one row's version, read from the primary in a fresh snapshot.

It returns the instant it began as well. That tells a hit from a run without asking the cache: a value that began
before the call did was there before the call. Some runs are slow before or after they read, as real ones are; the
races between a fill and an invalidation live there.

Bound: CONNECTIONS per reader.
"""

from __future__ import annotations

import asyncio
import random
import time
from types import TracebackType
from typing import Self

import asyncpg

from tests.checker.plan import TABLE

CONNECTIONS = 8
COMMAND_TIMEOUT_S = 5.0
SLOW_SHARE = 0.1
SLOW_AT_MOST_S = 0.03

# A call ends with the function's own error when the database is away; that is no read. The last of these is what the
# driver says when a connection breaks under a statement.
SOURCE_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

Value = tuple[int, float]  # version, when the run began


class Source:
    """Enter it, then cache `load`."""

    def __init__(self, dsn: str, chance: random.Random) -> None:
        self._dsn = dsn
        self._chance = chance
        self._idle: list[asyncpg.Connection[asyncpg.Record]] = []
        self._free = asyncio.Semaphore(CONNECTIONS)

    async def load(self, key: int) -> Value:
        """The version of `key` now. Raises SOURCE_ERRORS."""
        began_s = time.monotonic()
        await self._maybe_be_slow()
        async with self._free:
            version = await self._read(key)
        await self._maybe_be_slow()
        return version, began_s

    async def _read(self, key: int) -> int:
        # Not the driver's pool: it hands a connection that broke under a statement to the next caller.
        connection = self._idle.pop() if self._idle else await self._connect()
        try:
            version = await connection.fetchval(f"SELECT version FROM {TABLE} WHERE key = $1", key)
        except BaseException:
            connection.terminate()
            raise
        self._idle.append(connection)
        return int(version)

    async def _connect(self) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(self._dsn, timeout=COMMAND_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S)

    async def _maybe_be_slow(self) -> None:
        if self._chance.random() < SLOW_SHARE:
            await asyncio.sleep(self._chance.random() * SLOW_AT_MOST_S)

    async def __aenter__(self) -> Self:
        self._idle.append(await self._connect())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._idle:
            self._idle.pop().terminate()
