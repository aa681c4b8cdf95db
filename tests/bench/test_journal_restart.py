"""A relay in journal mode that is killed and started again: every cache stays warm, and the database notices nothing.

Some processes hold the clients, each with a cache that it keeps reading, while a writer updates rows. Phases of equal
length are compared: before, during and after the relay's restart. What the functions ask the database in each is
printed; it ought to be what the updates cost, and no more in the phase after than in the one before.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg
import pytest

from pgcachewatch.models import DEFAULT_PG_CHANNEL
from tests.bench.rounds import IS_MEASURING
from tests.bench.warm_clients import Counts, Task
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.row_triggers import RowTriggers
from tests.waiting import LIMIT_S

TABLE = "warm"
CLIENTS = int(os.environ.get("PGCW_BENCH_CLIENTS", "1000" if IS_MEASURING else "50"))
PROCESSES = 4 if CLIENTS > 100 else 1
PHASE_S = float(os.environ.get("PGCW_BENCH_PHASE_S", "60" if IS_MEASURING else "1"))
KEYS = 10
READS_PER_S = 2.0 if IS_MEASURING else 10.0  # of each client
UPDATES_PER_S = 1.0
# Where nothing is measured the relay may take its time to start: a lease that ends meanwhile has the database asked.
STALENESS_S = 10.0 if IS_MEASURING else 4 * LIMIT_S
ROOT = Path(__file__).resolve().parents[2]


class Herds:
    """The processes with the clients."""

    def __init__(self, processes: list[asyncio.subprocess.Process]) -> None:
        self._processes = processes

    async def counts(self) -> Counts:
        """Of all of them, as of now."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
        return await self.heard()

    async def heard(self) -> Counts:
        """The next line of each."""
        total = Counts()
        for process in self._processes:
            assert process.stdout is not None
            async with asyncio.timeout(2 * LIMIT_S):
                told = Counts(**json.loads(await process.stdout.readline()))
            total = Counts(**{name: count + getattr(told, name) for name, count in asdict(total).items()})
        return total

    async def until_connected(self) -> Counts:
        async with asyncio.timeout(2 * LIMIT_S):
            while True:
                counts = await self.counts()
                if counts.live == CLIENTS and counts.resumes + counts.gaps >= CLIENTS:
                    return counts
                await asyncio.sleep(0.05)  # the pace of asking


@asynccontextmanager
async def herds(database: Database, relay: RelayProcess) -> AsyncIterator[Herds]:
    """Connected and warm."""
    processes = []
    try:
        for number in range(PROCESSES):
            task = Task(
                *(relay.url, database.dsn, TABLE, CLIENTS // PROCESSES, KEYS, READS_PER_S),
                staleness_s=STALENESS_S,
                seed=1_000 * number,
            )
            processes.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.bench.warm_clients", json.dumps(asdict(task))),
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
        running = Herds(processes)
        await running.heard()
        yield running
    finally:
        for process in processes:
            process.kill()
            await process.wait()


@dataclass(frozen=True, slots=True)
class Phase:
    """What happened in it: updates by the writer, and what the clients did."""

    updates: int
    fills: int
    reads: int


async def phase(running: Herds, writer: asyncpg.Connection) -> Phase:
    """Row after row is updated at a steady pace: phases of equal length ask for equally many reads."""
    before = await running.counts()
    updates = round(PHASE_S * UPDATES_PER_S)
    for number in range(updates):
        await writer.execute(f"UPDATE {TABLE} SET v = v + 1 WHERE id = $1", number % KEYS)
        await asyncio.sleep(PHASE_S / updates)
    after = await running.counts()
    return Phase(updates, after.fills - before.fills, after.reads - before.reads)


@pytest.mark.bench
@pytest.mark.rule("W-JOURNAL-2")
async def test_a_relay_that_starts_again_finds_every_cache_warm_and_starts_no_herd(database: Database) -> None:
    rig = await RowTriggers.open(database)
    await rig.writer.execute(f"CREATE TABLE {TABLE} (id int PRIMARY KEY, v int NOT NULL DEFAULT 0)")
    await rig.writer.execute(f"INSERT INTO {TABLE} SELECT generate_series(0, {KEYS - 1})")
    await rig.install(TABLE, mode="journal", channel=DEFAULT_PG_CHANNEL)
    limits = {"connections_per_address_limit": str(2 * CLIENTS + 100)}
    async with RelayProcess(database.dsn, port=0, **limits) as relay, herds(database, relay) as running:
        warm = await running.counts()
        begin = await phase(running, rig.writer)  # so that the next one begins as the last one does
        before = await phase(running, rig.writer)
        begun = await running.counts()
        relay.kill()
        await rig.writer.execute(f"UPDATE {TABLE} SET v = v + 1 WHERE id = 0")
        relay.start()
        await asyncio.to_thread(relay.wait_ready)
        back = await running.until_connected()
        after = await phase(running, rig.writer)
        end = await running.counts()
    sys.stdout.write(
        f"\nA relay with {CLIENTS:,} clients of {KEYS} keys each is killed and started again; phases of {PHASE_S:g} s\n"
        f"  before  {before.fills:>8,} database reads for {before.updates} updates, {before.reads:,} reads\n"
        f"  restart {back.fills - begun.fills:>8,} database reads for 1 update, until all are live\n"
        f"  after   {after.fills:>8,} database reads for {after.updates} updates, {after.reads:,} reads\n"
        f"  after / before {after.fills / max(1, before.fills):.3f}, goal <= 1.05; "
        f"{end.resumes:,} resumes, {end.gaps} flushes, {end.reconnects:,} reconnects\n"
    )

    assert (end.resumes, end.gaps, end.reconnects) == (CLIENTS, 0, CLIENTS)
    # With the one while nobody listened. Each client reads again what an update changed, once and nothing else.
    updates = begin.updates + before.updates + 1 + after.updates
    assert 0 < end.fills - warm.fills <= updates * CLIENTS
