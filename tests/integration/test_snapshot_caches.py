"""Fills from old REPEATABLE READ snapshots, on a real server and relay: the consistency test of the stamps.

Writers change rows, one in a transaction that is held open, so that transactions end in another order than they began.
A fifth of all runs read in a transaction that was opened before. What such a run returns may lack a change whose event
was applied before it began, which the ordinary rule of fills can not see.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest

import pgcachewatch
from tests.integration.rivals import KEYS, TABLE, WRITE, Rivals, read_version, write
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.row_triggers import CHANNEL, RowTriggers

pytestmark = pytest.mark.every_server

ROUNDS = 25
HELD = KEYS[0]  # the row that the long transaction has changed
OTHERS = KEYS[1:]
OLD_SHARE = 0.2
SEED = 5


class Pasts:
    """Connections to read by: some now, some in transactions that stay where they began."""

    def __init__(self, now: list[asyncpg.Connection], old: list[asyncpg.Connection], chance: random.Random) -> None:
        self._now = now
        self._old = old
        self._chance = chance
        self._locks = {id(connection): asyncio.Lock() for connection in (*now, *old)}

    async def version_of(self, key: int) -> int:
        """The function that is cached."""
        connection = self._chance.choice(self._old if self._chance.random() < OLD_SHARE else self._now)
        async with self._locks[id(connection)]:
            return await read_version(connection, key)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for connection in self._old:
                await stack.enter_async_context(connection.transaction(isolation="repeatable_read", readonly=True))
                await connection.execute("SELECT 1")  # takes the snapshot
            yield


async def test_no_entry_is_stale_whatever_snapshot_a_run_reads(
    database: Database, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(SEED)
    rig = await RowTriggers.open(database)
    await rig.writer.execute(TABLE)
    await rig.install("items")
    holder, *writers = [await database.connect() for _ in range(4)]
    pasts = Pasts([await database.connect() for _ in range(3)], [await database.connect() for _ in range(2)], chance)
    async with (
        RelayProcess(database.dsn, channel=CHANNEL) as relay,
        pgcachewatch.connect(relay.url, channels=(CHANNEL,)) as client,
    ):
        rivals = Rivals(client, pasts.version_of)
        async with pasts.opened():
            await rivals.warm()

        async def read() -> None:
            for _ in range(15):
                await rivals.call(chance.choice(KEYS))

        for _ in range(ROUNDS):
            held = holder.transaction()
            await held.start()
            await holder.execute(WRITE, HELD)
            await write(rig.writer, OTHERS, 1, chance)  # so that the held one is running below what is over
            async with pasts.opened():
                await asyncio.gather(*(write(each, OTHERS, 5, chance) for each in writers), *(read(), read()))
                await held.commit()
                await rivals.compare(rig.writer)
                await rivals.call_all()
                await rivals.compare(rig.writer)

    record_property("stale entries", str(rivals))
    ordinary, snapshot = rivals.tallies
    assert ordinary.stale > 0, "no run read what was old, so this shows nothing"
    assert snapshot.stale == 0, str(rivals)
    assert snapshot.checked > ordinary.checked / 2, str(rivals)
