"""Many clients in one process, each with a warm cache: `python warm_clients.py TASK`, TASK as JSON.

Each client reads a key at a time, at random, `reads_per_s` times a second; the cached function asks the database, and
is counted. A line of counts is printed for each line that is read. The relay restarts meanwhile; nobody here knows.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass

import asyncpg

import pgcachewatch
from pgcachewatch import Row
from tests.waiting import eventually

CONNECTING_AT_ONCE = 50
QUERIES_AT_ONCE = 4

Read = Callable[[int], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Task:
    """What one process does. Each client reads `keys` keys, and each once before it is ready."""

    url: str
    dsn: str
    table: str
    clients: int
    keys: int
    reads_per_s: float
    staleness_s: float
    seed: int


@dataclass(slots=True)
class Counts:
    """Of all clients of this process, since it began; `live` and `connected` as of now."""

    fills: int = 0
    reads: int = 0
    resumes: int = 0
    gaps: int = 0
    reconnects: int = 0
    connected: int = 0
    live: int = 0


class Herd:
    """The clients."""

    def __init__(self, task: Task, pool: asyncpg.Pool) -> None:
        self._task = task
        self._pool = pool
        self._fills = self._reads = 0
        self._clients: list[pgcachewatch.Client] = []

    async def open(self, stack: AsyncExitStack) -> None:
        """Connect all, some at a time, and warm each one's cache."""
        free = asyncio.Semaphore(CONNECTING_AT_ONCE)
        tasks = [asyncio.create_task(self._open_one(stack, free)) for _ in range(self._task.clients)]
        reads = await asyncio.gather(*tasks)
        for number, read in enumerate(reads):
            task = asyncio.create_task(self._read_for_ever(read, random.Random(self._task.seed + number)))
            stack.callback(task.cancel)

    async def _open_one(self, stack: AsyncExitStack, free: asyncio.Semaphore) -> Read:
        async with free:
            client = await stack.enter_async_context(
                pgcachewatch.connect(self._task.url, staleness=self._task.staleness_s, open_timeout=60)
            )
            self._clients.append(client)

            @client.cache(rows=Row(self._task.table, id="key"))
            async def version_of(key: int) -> int:
                self._fills += 1
                return int(await self._pool.fetchval(f"SELECT v FROM {self._task.table} WHERE id = $1", key))

            await version_of(0)
            await eventually(lambda: client.status.state == "live")
            for key in range(self._task.keys):
                await version_of(key)
            return version_of

    async def _read_for_ever(self, read: Read, chance: random.Random) -> None:
        while True:
            await asyncio.sleep(chance.expovariate(self._task.reads_per_s))
            await read(chance.randrange(self._task.keys))
            self._reads += 1

    def counts(self) -> Counts:
        counts = Counts(fills=self._fills, reads=self._reads)
        for client in self._clients:
            status = client.status
            counts.resumes += status.resumes
            counts.gaps += status.gaps
            counts.reconnects += status.reconnects
            counts.connected += status.is_connected
            counts.live += status.state == "live"
        return counts


async def main(task: Task) -> None:
    """Until standard input ends."""
    logging.getLogger("pgcachewatch").setLevel(logging.ERROR)  # that links are lost is the point
    loop = asyncio.get_running_loop()
    asked = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
    pool = await asyncpg.create_pool(task.dsn, min_size=1, max_size=QUERIES_AT_ONCE)
    async with pool, AsyncExitStack() as stack:
        herd = Herd(task, pool)
        await herd.open(stack)
        say(herd.counts())
        while await asked.readline():
            say(herd.counts())


def say(counts: Counts) -> None:
    sys.stdout.write(json.dumps(asdict(counts)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Task(**json.loads(sys.argv[1]))))
