"""Two caches over one function that may read the past: an ordinary one, and one with `consistency="snapshot"`.

The ordinary one is there to show that the test can fail: under the same reads it must be found with stale entries.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg

import pgcachewatch
from pgcachewatch import Row
from pgcachewatch.aio.client import Client
from tests.waiting import eventually

KEYS = range(1, 11)
TABLE = f"""
CREATE TABLE items (id int PRIMARY KEY, version int NOT NULL);
INSERT INTO items SELECT i, 0 FROM generate_series(1, {len(KEYS)}) AS i
"""
READ = """
SELECT version, pg_current_snapshot()::text AS snapshot, pg_is_in_recovery() AS standby FROM items WHERE id = $1
"""
WRITE = "UPDATE items SET version = version + 1 WHERE id = $1"


async def read_version(connection: asyncpg.Connection, key: int) -> int:
    """What a cached function does: one statement, and the snapshot that it was read in."""
    row = await connection.fetchrow(READ, key)
    assert row is not None
    pgcachewatch.read_in(row["snapshot"], standby=row["standby"])
    return int(row["version"])


@dataclass(slots=True)
class Tally:
    """Entries that were looked at once all was applied, and those of them that were older than the database."""

    checked: int = 0
    stale: int = 0

    def __str__(self) -> str:
        return f"{self.stale} stale of {self.checked}"


class Rivals:
    """`function` reads the version of a key, from wherever it likes."""

    def __init__(self, client: Client, function: Callable[[int], Awaitable[int]]) -> None:
        self.client = client
        self.ordinary = client.cache(function, rows=Row("items", id="key"))
        self.snapshot = client.cache(function, rows=Row("items", id="key"), consistency="snapshot")
        self.tallies = (Tally(), Tally())

    async def call(self, key: int) -> None:
        await self.ordinary(key)
        await self.snapshot(key)

    async def call_all(self) -> None:
        for key in KEYS:
            await self.call(key)

    async def stores_all(self) -> bool:
        """Fill each key; True when the cache with snapshots has stored every one."""
        await self.call_all()
        return all(self.snapshot.cache_contains(key) for key in KEYS)

    async def warm(self) -> None:
        """Until the relay has shown what was committed before this client came, nothing is stored."""
        await self.client.wait_live(30)
        await eventually(self.stores_all)

    async def compare(self, primary: asyncpg.Connection) -> None:
        """Nobody writes and all was applied: an entry that is not the database's is stale."""
        await self.client.barrier()
        now = {row["id"]: row["version"] for row in await primary.fetch("SELECT id, version FROM items")}
        for cache, tally in zip((self.ordinary, self.snapshot), self.tallies, strict=True):
            for key in KEYS:
                if cache.cache_contains(key):
                    tally.checked += 1
                    tally.stale += await cache(key) != now[key]

    def __str__(self) -> str:
        ordinary, snapshot = self.tallies
        return f"ordinary {ordinary}; with snapshots {snapshot}"


async def write(connection: asyncpg.Connection, keys: Sequence[int], count: int, chance: random.Random) -> None:
    """Transactions of one or two rows, one after another."""
    for _ in range(count):
        async with connection.transaction():
            for key in sorted(chance.sample(keys, chance.randint(1, 2))):  # sorted: no deadlock
                await connection.execute(WRITE, key)
